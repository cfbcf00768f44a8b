//! Election connections between members on loopback: who keeps which, what is repeated, who is disturbed by whom.

mod peers_support;

use engine::ids::ServerId;
use engine::zab::Links;
use net::peers::{PeerEvent, PeerOptions, Peers};
use peers_support::{
    Node, beside, connect, election_addr, frame, free_port, hello, hex, is_closed, line, lines, own_host,
    until,
};
use socket2::{Domain, Socket, Type};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

fn up(id: i64) -> PeerEvent {
    PeerEvent::ElectionUp(ServerId(id))
}
fn down(id: i64) -> PeerEvent {
    PeerEvent::ElectionDown(ServerId(id))
}

#[test]
fn either_of_two_may_begin() {
    for first in [0, 1] {
        let l = lines(2);
        let mut nodes = [Node::open(1, &l), Node::open(2, &l)];
        let (me, other) = (nodes[first].id, nodes[1 - first].id);
        nodes[first].peers.send_election(other, b"question");
        let [a, b] = &mut nodes;
        until("the question", &mut [a, b], |n| n[1 - first].messages(me.0) == [b"question"]);
        nodes[1 - first].peers.send_election(me, b"answer");
        let [a, b] = &mut nodes;
        until("the answer", &mut [a, b], |n| n[first].messages(other.0) == [b"answer"]);
        for (n, other) in nodes.iter().zip([2, 1]) {
            assert_eq!((n.count(&up(other)), n.count(&down(other))), (1, 0), "{:?}", n.events);
        }
    }
}

#[test]
fn all_of_three_at_once() {
    let l = lines(3);
    let mut nodes = [1, 2, 3].map(|id| Node::open(id, &l));
    for n in &mut nodes {
        for to in 1..=3 {
            n.peers.send_election(ServerId(to), &[n.id.0 as u8, to as u8]);
        }
    }
    let [a, b, c] = &mut nodes;
    let mut got = [[false; 4]; 4];
    until("everybody heard everybody", &mut [a, b, c], |nodes| {
        for n in nodes.iter_mut() {
            for from in 1..=3i64 {
                for m in n.messages(from) {
                    assert_eq!(m, [from as u8, n.id.0 as u8]);
                    got[from as usize][n.id.0 as usize] = true;
                }
            }
        }
        (1..=3).all(|i| (1..=3).all(|j| i == j || got[i][j]))
    });
    for n in &nodes {
        assert_eq!(n.peers.connected().len(), 2);
    }
}

#[test]
fn only_the_newest_message_waits() {
    for (me, other) in [(1, 2), (2, 1)] {
        let l = lines(2);
        let mut a = Node::open(me, &l);
        for n in 0..5u8 {
            a.peers.send_election(ServerId(other), &[n]);
            a.step();
        }
        let mut b = Node::open(other, &l);
        until("the newest", &mut [&mut a, &mut b], |n| n[1].messages(me) == [[4]]);
        assert_eq!(b.messages(me), Vec::<Vec<u8>>::new());
    }
}

#[test]
fn a_restarted_member_is_found_again_and_told_the_last_message() {
    for (me, other) in [(1, 2), (2, 1)] {
        let l = lines(2);
        let (mut a, mut b) = (Node::open(me, &l), Node::open(other, &l));
        a.peers.send_election(ServerId(other), b"still true");
        until("the message", &mut [&mut a, &mut b], |n| !n[1].messages(me).is_empty());
        drop(b);
        until("the end is noticed", &mut [&mut a], |n| n[0].saw(&down(other)));
        let mut b = Node::open(other, &l);
        b.peers.send_election(ServerId(me), b"I am back");
        until("both hear", &mut [&mut a, &mut b], |n| n[0].messages(other) == [b"I am back"]);
        until("the last message again", &mut [&mut a, &mut b], |n| n[1].messages(me) == [b"still true"]);
        assert_eq!((a.count(&up(other)), a.count(&down(other))), (2, 1));
    }
}

#[test]
fn who_is_silent_or_has_no_address_delays_nobody() {
    let mut l = lines(4);
    // Server 3: its name is not known. Server 4: a host that does not answer, since its queue of callers is full.
    l[2].addresses[0].0 = "no-such-host.invalid".into();
    let full = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    full.bind(&election_addr(&l[3]).into()).expect("a free port");
    full.listen(0).expect("listens");
    let callers: Vec<Socket> = (0..3)
        .map(|_| {
            let s = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
            s.set_nonblocking(true).expect("set");
            let _in_progress = s.connect(&election_addr(&l[3]).into());
            s
        })
        .collect();
    let (mut a, mut b) = (Node::open(1, &l), Node::open(2, &l));
    for round in 0..20u8 {
        for to in [4, 3, 2] {
            a.peers.send_election(ServerId(to), &[round]);
        }
        until("the living one hears", &mut [&mut a, &mut b], |n| n[1].messages(1) == [[round]]);
    }
    assert!(!a.saw(&up(3)) && !a.saw(&up(4)));
    drop(callers);
}

#[test]
fn names_are_resolved_beside_the_loop() {
    let l: Vec<_> = (1..=2).map(|id| line(id, "127.0.0.1")).collect();
    let named: Vec<_> = l
        .iter()
        .cloned()
        .map(|mut x| {
            x.addresses[0].0 = "localhost".into();
            x
        })
        .collect();
    let (mut a, mut b) = (Node::open(1, &named), Node::open(2, &named));
    a.peers.send_election(ServerId(2), b"by name");
    until("the message", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"by name"]);
}

#[test]
fn addresses_of_one_member_are_tried_in_turn() {
    let host = own_host();
    let mut l = vec![line(1, &host), line(2, &host)];
    // What peers are told, and what it really has.
    let real = l[1].clone();
    l[1].addresses.insert(0, (host.clone(), free_port(&host), free_port(&host)));
    let (mut a, mut b) = (Node::open(1, &l), Node::open(2, &[l[0].clone(), real]));
    a.peers.send_election(ServerId(2), b"second address");
    until("the message", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"second address"]);
}

#[test]
fn greetings_and_messages_byte_by_byte() {
    // Our call to a smaller member: greeting, then messages on the same connection.
    let host = own_host();
    let mut l = vec![line(1, &host), line(2, &host), line(3, &host)];
    l[1].addresses[0].2 = free_port(&host);
    let listener = TcpListener::bind(election_addr(&l[0])).expect("free");
    let mut me = Node::open(2, &l);
    me.peers.send_election(ServerId(1), b"\x01\x02\x03");
    let address = format!("{host}:{}", l[1].addresses[0].2);
    let text: String = address.bytes().map(|b| format!("{b:02x}")).collect();
    let golden =
        hex(&format!("ffffffffffff0000 0000000000000002 {:08x} {text} 00000003 010203", address.len()));
    let stream = beside(&mut me, move || {
        let (mut s, _) = listener.accept().expect("called");
        let mut got = vec![0; golden.len()];
        s.read_exact(&mut got).expect("greeting and message");
        assert_eq!(got, golden);
        s.write_all(&frame(b"hi")).expect("sent");
        s
    });
    until("the answer", &mut [&mut me], |n| n[0].messages(1) == [b"hi"]);
    drop(stream);
    until("the end", &mut [&mut me], |n| n[0].saw(&down(1)));

    // Our call to a greater one: the greeting, then the end.
    let listener = TcpListener::bind(election_addr(&l[2])).expect("free");
    me.peers.send_election(ServerId(3), b"x");
    let golden = hex(&format!("ffffffffffff0000 0000000000000002 {:08x} {text}", address.len()));
    beside(&mut me, move || {
        let (mut s, _) = listener.accept().expect("called");
        let mut got = Vec::new();
        s.read_to_end(&mut got).expect("a greeting and an end");
        assert_eq!(got, golden);
    });
    // It calls back, in the oldest style: the bare number. The message is still there.
    let to = election_addr(&l[1]);
    let s = beside(&mut me, move || {
        let mut s = connect(to);
        s.write_all(&hex("0000000000000003 00000002 abcd")).expect("sent");
        let mut got = [0; 5];
        s.read_exact(&mut got).expect("the message");
        assert_eq!(got, *b"\x00\x00\x00\x01x");
        s
    });
    until("its message", &mut [&mut me], |n| n[0].messages(3) == [[0xab, 0xcd]]);
    // A second connection replaces the first; what was said last is said again. Version with several addresses.
    beside(&mut me, move || {
        let mut t = connect(to);
        t.write_all(&hex("ffffffffffff0001 0000000000000003 00000007 613a317c623a32")).expect("sent");
        let mut got = [0; 5];
        t.read_exact(&mut got).expect("the message again");
        assert_eq!(got, *b"\x00\x00\x00\x01x");
        let mut first = s;
        assert_eq!(first.read(&mut [0; 1]).expect("an end"), 0);
    });
}

#[test]
fn a_smaller_caller_is_called_back_where_it_says_it_is() {
    // A stranger: the configuration does not know its address.
    let l = lines(2);
    let mut me = Node::open(2, &l);
    let to = election_addr(&l[1]);
    beside(&mut me, move || {
        let listener = TcpListener::bind("127.0.0.1:0").expect("free");
        // All interfaces: that means where the call came from.
        let address = format!("0.0.0.0:{}", listener.local_addr().expect("bound").port());
        let mut call = connect(to);
        call.write_all(&hello(0, &address)).expect("sent");
        assert_eq!(call.read(&mut [0; 1]).expect("an end"), 0);
        let (mut s, _) = listener.accept().expect("called back");
        let mut greeting = [0; 16];
        s.read_exact(&mut greeting).expect("a greeting");
        assert_eq!(greeting[..], hex("ffffffffffff0000 0000000000000002"));
        s.write_all(&frame(b"from outside")).expect("sent");
    });
    until("the stranger's message", &mut [&mut me], |n| n[0].messages(0) == [b"from outside"]);
}

#[test]
fn strangers_and_nameless_observers_are_answered() {
    let l = lines(1);
    let mut me = Node::open(1, &l);
    let to = election_addr(&l[0]);
    for (says, is) in [(99, 99), (i64::MAX, -1), (i64::MAX, -2)] {
        let mut s = connect(to);
        s.write_all(&[hello(says, "127.0.0.1:1"), frame(b"who leads?")].concat()).expect("sent");
        until("the question", &mut [&mut me], |n| n[0].messages(is) == [b"who leads?"]);
        me.peers.send_election(ServerId(is), b"me");
        let s = beside(&mut me, move || {
            let mut got = [0; 6];
            s.read_exact(&mut got).expect("an answer");
            assert_eq!(got[4..], *b"me");
            s
        });
        drop(s);
        until("gone", &mut [&mut me], |n| n[0].saw(&down(is)));
    }
    assert!(me.peers.connected().is_empty());
}

#[test]
fn callers_without_a_name_and_strangers_are_bounded() {
    let l = lines(2);
    let mut me = Node::open(1, &l);
    let to = election_addr(&l[0]);
    let silent: Vec<_> = (0..80)
        .map(|_| {
            let s = connect(to);
            me.step();
            s
        })
        .collect();
    until("the oldest is closed", &mut [&mut me], |_| is_closed(&silent[0]));
    assert!(!is_closed(&silent[79]));
    me.later_ms = 10_001;
    until("all are closed when their time is over", &mut [&mut me], |_| silent.iter().all(is_closed));

    let strangers: Vec<_> = (0..40)
        .map(|n| {
            let mut s = connect(to);
            s.write_all(&hello(1000 + n, "127.0.0.1:1")).expect("sent");
            until("it is known", &mut [&mut me], |m| m[0].saw(&up(1000 + n)));
            s
        })
        .collect();
    assert_eq!(me.peers.connected().len(), 32);
    assert!(is_closed(&strangers[0]) && me.saw(&down(1000)));
    // A member has room nevertheless.
    let mut b = Node::open(2, &l);
    b.peers.send_election(ServerId(1), b"hello");
    until("the member", &mut [&mut me, &mut b], |n| n[0].messages(2) == [b"hello"]);
}

#[test]
fn many_messages_at_once_are_taken_in_portions_and_in_order() {
    let l = lines(1);
    let mut me = Node::open(1, &l);
    let mut s = connect(election_addr(&l[0]));
    let mut bytes = hello(7, "127.0.0.1:1");
    for n in 0..10_000u32 {
        bytes.extend(frame(&n.to_be_bytes()));
    }
    bytes.extend(frame(&vec![7; 524_288]));
    let sender = std::thread::spawn(move || s.write_all(&bytes).expect("sent")); // and closed
    let mut got = Vec::new();
    until("all of it", &mut [&mut me], |n| {
        let new = n[0].messages(7);
        assert!(new.len() <= 64);
        got.extend(new);
        got.len() == 10_001
    });
    sender.join().expect("no panic");
    assert!(got[..10_000].iter().zip(0u32..).all(|(m, n)| *m == n.to_be_bytes()));
    assert_eq!(got[10_000].len(), 524_288);
    until("the end, after all messages", &mut [&mut me], |n| n[0].saw(&down(7)));
}

#[test]
fn a_port_in_use_is_a_clear_refusal() {
    let l = lines(1);
    let _a = Node::open(1, &l);
    struct Nobody;
    impl net::ring::Wake for Nobody {
        fn wake(&self) {}
    }
    let open = |lines: &[net::peers::PeerLine]| {
        Peers::open(ServerId(1), lines.to_vec(), PeerOptions::default(), Arc::new(Nobody)).err()
    };
    let text = open(&l).expect("refused").to_string();
    assert!(text.contains(&election_addr(&l[0]).to_string()) && text.contains("another process"), "{text}");
    let mut far = lines(1);
    far[0].addresses[0].0 = "192.0.2.1".into();
    let text = open(&far).expect("refused").to_string();
    assert!(text.contains("192.0.2.1") && text.contains("quorumListenOnAllIPs"), "{text}");
    far[0].addresses[0].0 = "no-such-host.invalid".into();
    let text = open(&far).expect("refused").to_string();
    assert!(text.contains("no-such-host.invalid") && text.contains("does not resolve"), "{text}");
    far[0].id = ServerId(2);
    assert!(open(&far).expect("refused").to_string().contains("not among the members"));
}

#[test]
fn all_interfaces_means_any_address_of_this_host() {
    let (host, other) = (own_host(), own_host());
    let l = vec![line(1, &host)];
    let options = PeerOptions { listen_on_all_ips: true, ..PeerOptions::default() };
    let mut me = Node::with(1, &l, options);
    let to = SocketAddr::new(other.parse().expect("numeric"), l[0].addresses[0].2);
    let mut s = connect(to);
    s.write_all(&[hello(9, "127.0.0.1:1"), frame(b"here too")].concat()).expect("sent");
    until("the message", &mut [&mut me], |n| n[0].messages(9) == [b"here too"]);
}

#[test]
fn members_move_come_and_go() {
    let host = own_host();
    let mut l: Vec<_> = (1..=3).map(|id| line(id, &host)).collect();
    let (mut a, mut b) = (Node::open(1, &l[..2]), Node::open(2, &l[..2]));
    a.peers.send_election(ServerId(2), b"1");
    until("connected", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"1"]);
    // Server 3 joins; server 2 gets other ports. The connection between 1 and 2 stands.
    l[1] = line(2, &host);
    a.peers.set_members(l.clone());
    b.peers.set_members(l.clone());
    let mut c = Node::open(3, &l);
    c.peers.send_election(ServerId(2), b"2");
    c.peers.send_election(ServerId(1), b"2");
    until("the new one", &mut [&mut a, &mut b, &mut c], |n| {
        n[0].messages(3) == [b"2"] || n[0].saw(&up(3)) && n[1].saw(&up(3))
    });
    until("the new port", &mut [&mut a, &mut b, &mut c], |n| {
        n[1].peers.listening().1 == [election_addr(&l[1])]
    });
    assert_eq!((a.count(&down(2)), b.count(&down(1))), (0, 0));
    // Server 2 leaves: it is a stranger whose connection stands, and who is answered.
    a.peers.set_members(vec![l[0].clone(), l[2].clone()]);
    b.peers.send_election(ServerId(1), b"3");
    until("still heard", &mut [&mut a, &mut b, &mut c], |n| n[0].messages(2) == [b"3"]);
    a.peers.send_election(ServerId(2), b"4");
    until("answered", &mut [&mut a, &mut b, &mut c], |n| n[1].messages(1).contains(&b"4".to_vec()));
    drop(b);
    until("forgotten", &mut [&mut a, &mut c], |n| n[0].saw(&down(2)));
    a.peers.send_election(ServerId(2), b"5");
    a.step();
    assert!(!a.peers.connected().contains(&ServerId(2)));
}
