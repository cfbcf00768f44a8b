//! Links between learners and a leader on loopback: refused, dialled, filled, stuck, closed.

mod peers_support;

use engine::ids::{LinkId, ServerId};
use engine::zab::Links;
use net::peers::{PeerEvent, PeerOptions};
use peers_support::{
    Node, PATIENCE, beside, connect, free_port, lines, own_host, quorum_addr, until, until_or_busy,
};
use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

/// A learner (1), its leader (2), and the two ends of their link.
fn linked(options: PeerOptions) -> (Node, Node, LinkId, LinkId) {
    let l = lines(2);
    let (mut a, mut b) = (Node::with(1, &l, options.clone()), Node::with(2, &l, options));
    b.peers.listen(true);
    let link = a.peers.dial(ServerId(2));
    until("the link", &mut [&mut a, &mut b], |n| n[0].saw(&PeerEvent::Up(link)) && n[1].accepted().is_some());
    let accepted = b.accepted().expect("seen");
    assert_eq!(a.peers.address_of(link), Some(quorum_addr(&l[1])));
    (a, b, link, accepted)
}

fn pattern(n: usize) -> Vec<u8> {
    (0..n).map(|i| (i / 7 + i % 251) as u8).collect()
}

#[test]
fn learners_are_refused_unless_we_listen() {
    let l = lines(1);
    let mut me = Node::open(1, &l);
    for _ in 0..3 {
        let refused = TcpStream::connect(quorum_addr(&l[0])).expect_err("nobody listens");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        me.peers.listen(true);
        me.events.clear();
        let mut s = connect(quorum_addr(&l[0]));
        s.write_all(b"in").expect("sent");
        until("accepted", &mut [&mut me], |n| n[0].accepted().is_some());
        let link = me.accepted().expect("seen");
        until("its bytes", &mut [&mut me], |n| n[0].peers.input(link) == b"in");
        me.peers.listen(false);
        // The link stands.
        me.peers.out(link).extend_from_slice(b"out");
        me.peers.flush();
        let mut got = [0; 3];
        s.read_exact(&mut got).expect("sent");
        assert_eq!(got, *b"out");
        me.peers.close_now(link);
    }
}

#[test]
fn a_leader_that_opens_late_is_still_reached_and_one_that_never_does_is_down_once() {
    let l = lines(2);
    let (mut a, mut b) = (Node::open(1, &l), Node::open(2, &l));
    let link = a.peers.dial(ServerId(2));
    a.step(); // refused at least once
    b.peers.listen(true);
    until("the link", &mut [&mut a, &mut b], |n| n[0].saw(&PeerEvent::Up(link)));
    b.peers.listen(false);
    let never = a.peers.dial(ServerId(2));
    until("given up", &mut [&mut a, &mut b], |n| !n[0].downs(never).is_empty());
    for _ in 0..5 {
        a.step();
    }
    let why = a.downs(never);
    assert!(
        why.len() == 1 && why[0].contains("server 2 cannot be reached") && why[0].contains("refused"),
        "{why:?}"
    );
    let unknown = a.peers.dial(ServerId(9));
    until("unknown", &mut [&mut a], |n| {
        n[0].downs(unknown).iter().any(|w| w.contains("not in the configuration"))
    });
    a.peers.out(unknown).extend_from_slice(b"nobody gets this");
    assert_eq!((a.peers.unsent(unknown), a.peers.out(unknown).len()), (0, 0));
}

#[test]
fn megabytes_both_ways_while_elections_go_on() {
    let (mut a, mut b, x, y) = linked(PeerOptions::default());
    let all = pattern(24 << 20);
    let (mut sent, mut got) = ([0; 2], [0; 2]);
    a.peers.send_election(ServerId(2), b"beside");
    until_or_busy("all of it", &mut [&mut a, &mut b], |n| {
        let before = (sent, got);
        for (at, link) in [x, y].into_iter().enumerate() {
            let peers = &mut n[at].peers;
            let end = (sent[at] + (1 << 20)).min(all.len());
            if peers.unsent(link) < 1 << 20 && sent[at] < end {
                peers.out(link).extend_from_slice(&all[sent[at]..end]);
                sent[at] = end;
                peers.flush();
            }
            let input = peers.input(link);
            assert!(input == &all[got[at]..got[at] + input.len()]);
            let taken = input.len() - input.len() / 3; // not always all of it
            peers.consume(link, taken);
            got[at] += taken;
        }
        let done = got.iter().all(|g| *g == all.len());
        (done || before != (sent, got)).then_some(done)
    });
    assert_eq!(b.messages(1), [b"beside"]);
    assert!(a.downs(x).is_empty() && b.downs(y).is_empty());
}

#[test]
fn a_reader_that_stops_fills_our_buffer_and_nothing_else() {
    let (mut a, mut b, x, y) = linked(PeerOptions::default());
    b.peers.set_reading(y, false);
    let piece = pattern(1 << 20);
    let mut sent = 0;
    // The kernel takes some megabytes; what it does not take stays here, and flush does not wait.
    until_or_busy("the way is full", &mut [&mut a, &mut b], |n| {
        n[0].peers.out(x).extend_from_slice(&piece);
        sent += 1;
        Some(n[0].peers.unsent(x) > 32 << 20)
    });
    assert_eq!(b.peers.input(y), b"");
    // Others are not delayed by it.
    a.peers.send_election(ServerId(2), b"beside");
    until("the message", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"beside"]);
    b.peers.set_reading(y, true);
    let mut got = 0;
    until("all of it, in order", &mut [&mut a, &mut b], |n| {
        let input = n[1].peers.input(y);
        let expected = piece.iter().cycle().skip(got % piece.len());
        assert!(input.iter().eq(expected.take(input.len())));
        let taken = input.len();
        n[1].peers.consume(y, taken);
        got += taken;
        got == sent * piece.len()
    });
    assert_eq!(a.peers.unsent(x), 0);
}

/// Takes no connection, and refuses none: as a host that is gone.
fn silent(at: (&str, u16)) -> (TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind(at).expect("free");
    rustix::net::listen(&listener, 0).expect("it listens already");
    let address = listener.local_addr().expect("bound");
    let fill = || TcpStream::connect_timeout(&address, Duration::from_millis(100)).ok();
    let held: Vec<TcpStream> = std::iter::from_fn(fill).take(20).collect();
    assert!(held.len() < 20, "its queue is full");
    (listener, held)
}

#[test]
fn an_observer_reaches_its_leader_although_a_voter_is_silent() {
    let mut l = lines(3);
    let gone = own_host();
    l[2].addresses[0].0 = gone.clone();
    l[0].observer = true;
    let port = free_port(&gone);
    let _held = silent((&gone, port));
    // The dial has less time than one try may take.
    let options = PeerOptions { observer_master_port: port, dial_limit_ms: 4_000, ..PeerOptions::default() };
    let (mut a, mut b) = (Node::with(1, &l, options.clone()), Node::with(2, &l, options));
    b.peers.listen(true);
    let link = a.peers.dial(ServerId(2));
    until("an end", &mut [&mut a, &mut b], |n| {
        n[0].saw(&PeerEvent::Up(link)) || !n[0].downs(link).is_empty()
    });
    assert_eq!(a.downs(link), [""; 0]);
    assert_eq!(a.peers.address_of(link), Some(quorum_addr(&l[1])));
}

#[test]
fn input_is_bounded_and_grows_for_one_packet_only() {
    let options = PeerOptions { input_bytes: 64 << 10, max_packet_bytes: 1 << 20, ..PeerOptions::default() };
    let (mut a, mut b, x, y) = linked(options);
    let all = pattern(8 << 20);
    a.peers.out(x).extend_from_slice(&all);
    // Nothing is taken, as of a packet that is not all there.
    until("the most", &mut [&mut a, &mut b], |n| n[1].peers.input(y).len() >= 1 << 20);
    for _ in 0..20 {
        a.step();
        b.step();
    }
    let most = b.peers.input(y).len();
    assert!(most <= (1 << 20) + (256 << 10), "{most}");
    // Not read at all while it is switched off; told again when switched on.
    b.peers.set_reading(y, false);
    b.events.clear();
    b.step();
    assert!(b.events.is_empty());
    b.peers.set_reading(y, true);
    until("told again", &mut [&mut a, &mut b], |n| n[1].saw(&PeerEvent::Input(y)));
    let mut got = 0;
    until("all of it", &mut [&mut a, &mut b], |n| {
        let input = n[1].peers.input(y);
        assert!(input == &all[got..got + input.len()]);
        let taken = input.len();
        n[1].peers.consume(y, taken);
        got += taken;
        got == all.len()
    });
}

#[test]
fn an_end_is_told_once_and_behind_the_last_bytes() {
    let (mut a, mut b, x, y) = linked(PeerOptions::default());
    let last = pattern(300_000);
    a.peers.out(x).extend_from_slice(&last);
    // The other side talks, too: bytes that nobody will read must not destroy what was sent.
    b.peers.out(y).extend_from_slice(&pattern(100_000));
    b.step();
    a.peers.close(x);
    assert_eq!(a.peers.input(x), b"");
    let mut got = Vec::new();
    until("the end", &mut [&mut a, &mut b], |n| {
        got.extend_from_slice(n[1].peers.input(y));
        let taken = n[1].peers.input(y).len();
        n[1].peers.consume(y, taken);
        n[1].peers.out(y).extend_from_slice(b"more");
        !n[1].downs(y).is_empty()
    });
    assert_eq!(got.len(), last.len());
    assert!(got == last);
    for _ in 0..5 {
        b.step();
    }
    assert_eq!(b.downs(y), ["the peer closed the connection"]);
    assert!(a.downs(x).is_empty(), "the side that closed is not told");
    b.peers.out(y).extend_from_slice(b"nowhere");
    assert_eq!((b.peers.unsent(y), b.peers.address_of(y)), (0, None));
}

#[test]
fn what_arrived_before_the_end_can_still_be_read() {
    let l = lines(1);
    let mut me = Node::open(1, &l);
    me.peers.listen(true);
    let mut s = connect(quorum_addr(&l[0]));
    s.write_all(b"last words").expect("sent");
    drop(s);
    until("the end", &mut [&mut me], |n| n[0].accepted().is_some_and(|l| !n[0].downs(l).is_empty()));
    let link = me.accepted().expect("seen");
    let order: Vec<_> = me.events.iter().filter(|e| !matches!(e, PeerEvent::Accepted { .. })).collect();
    assert!(matches!(order[..], [PeerEvent::Input(_), PeerEvent::Down { .. }]), "{order:?}");
    assert_eq!(me.peers.input(link), b"last words");
    me.step();
    assert_eq!(me.peers.input(link), b"");
}

#[test]
fn a_write_to_who_is_gone_is_a_down_and_no_panic() {
    let (mut a, b, x, _) = linked(PeerOptions::default());
    drop(b);
    a.peers.out(x).extend_from_slice(&pattern(1 << 20));
    a.peers.flush();
    a.peers.out(x).extend_from_slice(&pattern(1 << 20));
    a.peers.flush();
    until("down", &mut [&mut a], |n| n[0].downs(x).len() == 1);
    a.step();
    assert_eq!(a.downs(x).len(), 1);
}

#[test]
fn a_rejected_link_is_closed_and_the_others_go_on() {
    let (mut a, mut b, x, y) = linked(PeerOptions::default());
    let l = b.peers.listening().0[0];
    let mut s = connect(l);
    s.write_all(b"GET / HTTP/1.1\r\n\r\n").expect("sent");
    let mut garbage = None;
    until("the garbage", &mut [&mut a, &mut b], |n| {
        garbage = n[1].events.iter().find_map(|e| match e {
            PeerEvent::Input(link) if *link != y => Some(*link),
            _ => None,
        });
        garbage.is_some()
    });
    b.peers.reject(garbage.expect("seen"), "a packet of unknown kind");
    beside(&mut b, move || {
        s.set_read_timeout(Some(PATIENCE)).expect("set");
        // An end or a reset: it must not hang.
        let _closed = s.read(&mut [0; 1]);
    });
    a.peers.out(x).extend_from_slice(b"fine");
    until("undisturbed", &mut [&mut a, &mut b], |n| n[1].peers.input(y) == b"fine");
}
