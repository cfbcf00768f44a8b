//! Garbage on the election port: one log line that names the sender, and nobody else disturbed. A file of its own,
//! because what it looks at is the log of the whole process.

mod peers_support;

use engine::ids::ServerId;
use engine::zab::Links;
use net::peers::PeerEvent;
use peers_support::{Node, connect, election_addr, hello, hex, is_closed, lines, quorum_addr, until};
use std::cell::RefCell;
use std::io::Write;
use std::sync::Once;

thread_local! {
    static LINES: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// What this thread logs.
struct Log;

impl Log {
    fn start() -> Log {
        static ONCE: Once = Once::new();
        ONCE.call_once(|| {
            let subscriber = tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).finish();
            tracing::subscriber::set_global_default(subscriber).expect("the only one");
        });
        Log
    }
    fn take(&self) -> String {
        String::from_utf8(LINES.take()).expect("text")
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        LINES.with_borrow_mut(|l| l.extend_from_slice(bytes));
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn down(id: i64) -> PeerEvent {
    PeerEvent::ElectionDown(ServerId(id))
}

#[test]
fn garbage_is_logged_with_its_sender_and_disturbs_nobody() {
    let log = Log::start();
    let l = lines(2);
    let (mut a, mut b) = (Node::open(1, &l), Node::open(2, &l));
    a.peers.send_election(ServerId(2), b"x");
    until("connected", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"x"]);
    let to = election_addr(&l[0]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        // Its beginning passes for the number of a very old server.
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "election message of"),
        (hex("ffffffffffff0002 0000000000000005"), "version"),
        (hex("5f2435013501edcc 00000000"), "SASL"),
        (hex("ffffffffffff0000 0000000000000005 00000000"), "address of 0 bytes"),
        (hex("ffffffffffff0000 0000000000000005 00000801"), "address of 2049 bytes"),
        (hex("ffffffffffff0000 0000000000000005 00000002 fffe"), "no text"),
        (hello(5, "::::"), "no address"),
        (hello(5, "127.0.0.1:99999"), "no address"),
        (hello(1, "127.0.0.1:5"), "same myid"),
        (hello(-7, "127.0.0.1:5"), "a number no server has"),
        ([hello(5, "127.0.0.1:5"), hex("7fffffff")].concat(), "election message of 2147483647 bytes"),
        ([hello(5, "127.0.0.1:5"), hex("00000000")].concat(), "election message of 0 bytes"),
    ];
    for (bytes, want) in cases {
        // Lines about one host are limited: let time pass.
        a.later_ms += 20_000;
        let mut s = connect(to);
        let from = s.local_addr().expect("connected");
        s.write_all(&bytes).expect("sent");
        until("it is closed", &mut [&mut a, &mut b], |_| is_closed(&s));
        let text = log.take();
        assert!(text.contains(want) && text.contains(&from.to_string()), "{want}: {text}");
    }
    a.peers.send_election(ServerId(2), b"y");
    until("undisturbed", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"y"]);
    assert_eq!((a.count(&down(2)), b.count(&down(1))), (0, 0));
}

#[test]
fn a_server_whose_messages_make_no_sense_is_closed_and_not_called_back_at_once() {
    let log = Log::start();
    let l = lines(2);
    let mut a = Node::open(2, &l);
    for round in 0..50 {
        // A smaller number asks to be called back; a greater one keeps what it has dialled.
        let mut s = connect(election_addr(&l[1]));
        s.write_all(&[hello(5, "127.0.0.1:5"), hex("00000001 78").repeat(3)].concat()).expect("sent");
        until("its messages", &mut [&mut a], |n| n[0].messages(5).len() == 3);
        for _ in 0..3 {
            a.peers.reject_election(ServerId(5), "it is one byte");
        }
        until("it is closed", &mut [&mut a], |_| is_closed(&s));
        until("it is told", &mut [&mut a], |n| n[0].count(&down(5)) == round + 1);
        if round == 0 {
            let (text, from) = (log.take(), s.local_addr().expect("connected").to_string());
            assert!(text.contains("makes no sense (it is one byte)") && text.contains(&from), "{text}");
        }
    }
    let lines = log.take().lines().count();
    assert!(lines <= 5, "{lines} lines");
    // A member is not dialled again for what waits for it, until a second has passed.
    let other = std::net::TcpListener::bind(election_addr(&l[0])).expect("free");
    other.set_nonblocking(true).expect("set");
    a.peers.send_election(ServerId(1), b"x");
    let mut called = None;
    until("it calls", &mut [&mut a], |_| {
        called = called.take().or_else(|| other.accept().ok());
        called.is_some()
    });
    until("it is up", &mut [&mut a], |n| n[0].saw(&PeerEvent::ElectionUp(ServerId(1))));
    a.peers.reject_election(ServerId(1), "it is broken");
    a.peers.send_election(ServerId(1), b"y");
    a.step();
    let due = a.peers.next_deadline();
    a.step();
    assert!(a.peers.next_deadline().since(a.now()) > 500, "{due:?}");
    a.later_ms += 1_000;
    until("it calls again", &mut [&mut a], |_| other.accept().is_ok());
}

#[test]
fn the_lines_about_learners_are_few() {
    let log = Log::start();
    let mut a = Node::open(1, &lines(1));
    a.step();
    for n in 0..1000 {
        a.peers.gripe(None, &format!("10.0.0.9:{}", 1000 + n), "the link to a caller is closed: it went");
        a.peers.gripe(
            Some(ServerId(2)),
            &format!("10.0.0.2:{}", 1000 + n),
            "the link to learner 2 is closed",
        );
        a.peers.gripe(Some(ServerId(3)), "10.0.0.2:1", "the link to learner 3 is closed");
        a.peers.note_history(ServerId(3), "server 3 has the history up to 0x7");
    }
    let text = log.take();
    let claims = text.lines().filter(|l| l.contains("has the history")).count();
    assert_eq!((text.lines().count() - claims, claims), (3, 4), "{text}");
}

#[test]
fn two_hosts_that_say_to_be_one_server_are_both_named() {
    let log = Log::start();
    let l = lines(2);
    let mut a = Node::open(1, &l);
    let call = |from: &str, a: &mut Node| {
        let s = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        s.bind(&std::net::SocketAddr::from((from.parse::<std::net::Ipv4Addr>().expect("one"), 0)).into())
            .expect("loopback is 127/8");
        s.connect(&election_addr(&l[0]).into()).expect("somebody listens");
        let mut s = std::net::TcpStream::from(s);
        let address = s.local_addr().expect("connected").to_string();
        s.write_all(&[hello(2, &address), hex("00000001 78")].concat()).expect("sent");
        until("its message", &mut [a], |n| n[0].messages(2) == [b"x"]);
        (s, address)
    };
    let (first, at_first) = call("127.0.0.1", &mut a);
    let (again, _) = call("127.0.0.1", &mut a);
    assert!(is_closed(&first));
    assert_eq!(log.take(), "", "a server that was started again is nothing to tell of");
    let (_other, at_other) = call("127.0.0.2", &mut a);
    assert!(is_closed(&again));
    let text = log.take();
    assert!(text.contains("same myid") && text.contains(&at_other) && text.contains("127.0.0.1:"), "{text}");
    assert!(!text.contains(&at_first), "only the living are named: {text}");
}

#[test]
fn the_log_is_not_flooded() {
    let log = Log::start();
    let l = lines(1);
    let mut a = Node::open(1, &l);
    for _ in 0..50 {
        let mut s = connect(election_addr(&l[0]));
        s.write_all(&hex("ffffffffffff0002 0000000000000005")).expect("sent");
        until("it is closed", &mut [&mut a], |_| is_closed(&s));
    }
    let lines = log.take().lines().count();
    assert!((1..=5).contains(&lines), "{lines} lines");
}

/// Bytes that follow from a seed, in pieces; some begin as a good caller would.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = match next() % 4 {
        0 => hello(3 + (next() % 5) as i64, "127.0.0.1:1"),
        1 => (-65_536 + (next() % 3) as i64).to_be_bytes().to_vec(),
        _ => Vec::new(),
    };
    for _ in 0..next() % 200 {
        bytes.push(if next() % 2 == 0 { 0 } else { next() as u8 });
    }
    bytes
}

#[test]
fn noise_on_both_ports_disturbs_nobody() {
    let _log = Log::start();
    let l = lines(2);
    let (mut a, mut b) = (Node::open(1, &l), Node::open(2, &l));
    a.peers.listen(true);
    b.peers.listen(true);
    let link = b.peers.dial(ServerId(1));
    a.peers.send_election(ServerId(2), b"0");
    until("connected", &mut [&mut a, &mut b], |n| n[1].messages(1) == [b"0"]);
    until("linked", &mut [&mut a, &mut b], |n| n[1].saw(&PeerEvent::Up(link)) && n[0].accepted().is_some());
    let accepted = a.accepted().expect("seen");
    let mut open = Vec::new();
    for seed in 0..300 {
        for to in [election_addr(&l[0]), quorum_addr(&l[0])] {
            let mut s = connect(to);
            let bytes = noise(seed);
            let (one, other) = bytes.split_at(bytes.len() / 2);
            // It may be closed at the first half.
            let _maybe = s.write_all(one);
            a.step();
            let _maybe = s.write_all(other);
            open.push(s);
        }
        if seed % 50 == 49 {
            let word = seed.to_be_bytes();
            a.peers.send_election(ServerId(2), &word);
            b.peers.out(link).extend_from_slice(&word);
            until("the message", &mut [&mut a, &mut b], |n| n[1].messages(1) == [word]);
            until("the bytes", &mut [&mut a, &mut b], |n| n[0].peers.input(accepted) == word);
            a.peers.consume(accepted, word.len());
            open.drain(..open.len() / 2);
        }
    }
    assert_eq!((a.count(&down(2)), b.count(&down(1))), (0, 0));
    assert!(a.downs(accepted).is_empty() && b.downs(link).is_empty());
}
