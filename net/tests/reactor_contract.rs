//! What every reactor promises, as tests over the trait. A new reactor is added with one line at the end.
//!
//! Peers are plain blocking sockets of the standard library. Times are bounded from below only; else a test waits for
//! a condition and fails if that takes absurdly long.

use net::reactor::{
    Close, Event, Incoming, ListenAddr, ListenOptions, ListenerId, Reactor, Received, SignalId, Token,
    UringReactor, listen, listen_beside,
};
use socket2::SockRef;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

/// After this a test gives up.
const PATIENCE: Duration = Duration::from_secs(30);
const SHORT: Option<Duration> = Some(Duration::from_millis(20));

fn loopback() -> ListenAddr {
    ListenAddr::One((Ipv4Addr::LOCALHOST, 0).into())
}

/// A reactor with one listener and the plumbing that each test needs.
struct Bench<R> {
    reactor: R,
    listener: ListenerId,
    addr: SocketAddr,
    events: Vec<Event>,
    /// Accepted and not asked for yet.
    waiting: VecDeque<Incoming>,
}

impl<R: Reactor> Bench<R> {
    fn new(mut reactor: R) -> Bench<R> {
        let (mut listeners, addr) = listen(loopback(), 1, &ListenOptions::default()).unwrap();
        let listener = reactor.add_listener(listeners.remove(0)).unwrap();
        Bench { reactor, listener, addr, events: Vec::new(), waiting: VecDeque::new() }
    }

    fn poll(&mut self, timeout: Option<Duration>) {
        self.reactor.poll(timeout, &mut self.events).unwrap();
    }

    /// Turns until `f` has an answer; `f` sees the events of each turn.
    fn until<T>(&mut self, what: &str, mut f: impl FnMut(&mut R, &[Event]) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.poll(SHORT);
            if let Some(answer) = f(&mut self.reactor, &self.events) {
                return answer;
            }
            assert!(Instant::now() < deadline, "waited in vain: {what}");
        }
    }

    /// The next connection. The listener has none left afterwards.
    fn accept(&mut self) -> Incoming {
        let listener = self.listener;
        let mut waiting = std::mem::take(&mut self.waiting);
        if waiting.is_empty() {
            self.until("a connection", |r, events| {
                if events.contains(&Event::Accept(listener)) {
                    waiting.extend(std::iter::from_fn(|| r.accept(listener)));
                }
                (!waiting.is_empty()).then_some(())
            });
        }
        self.waiting = waiting;
        self.waiting.pop_front().unwrap()
    }

    /// A connection with this token, and its peer.
    fn connect(&mut self, token: u32) -> TcpStream {
        let peer = TcpStream::connect(self.addr).unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let incoming = self.accept();
        assert_eq!(incoming.peer(), peer.local_addr().unwrap());
        self.reactor.add(Token(token), incoming).unwrap();
        peer
    }

    fn readable(&mut self, token: u32) {
        self.until("readable", |_, events| {
            events.iter().any(|e| readable_token(e) == Some(token)).then_some(())
        });
    }

    /// Reads until the connection ends or breaks.
    fn read_all(&mut self, token: u32, at_a_time: usize) -> (Vec<u8>, io::Result<()>) {
        let mut all = Vec::new();
        let mut buffer = vec![0; at_a_time];
        self.until("the end of the stream", |r, events| {
            if !events.iter().any(|e| readable_token(e) == Some(token)) {
                return None;
            }
            match r.read(Token(token), &mut buffer) {
                Ok(Received::Bytes(n)) => all.extend_from_slice(&buffer[..n]),
                Ok(Received::Nothing) => {}
                Ok(Received::End) => return Some((std::mem::take(&mut all), Ok(()))),
                Err(e) => return Some((std::mem::take(&mut all), Err(e))),
            }
            None
        })
    }

    /// Writes everything, waiting for room by write interest.
    fn write_all(&mut self, token: u32, bytes: &[u8]) {
        let mut done = self.reactor.write(Token(token), bytes).unwrap();
        self.reactor.set_write_interest(Token(token), true);
        while done < bytes.len() {
            done += self.until("writable", |r, events| {
                let ready = events.iter().any(|e| writable_token(e) == Some(token));
                ready.then(|| r.write(Token(token), &bytes[done..]).unwrap())
            });
        }
        self.reactor.set_write_interest(Token(token), false);
    }
}

fn readable_token(e: &Event) -> Option<u32> {
    match e {
        Event::Ready { token, readable: true, .. } => Some(token.0),
        _ => None,
    }
}

fn writable_token(e: &Event) -> Option<u32> {
    match e {
        Event::Ready { token, writable: true, .. } => Some(token.0),
        _ => None,
    }
}

/// Bytes that show when one is lost, doubled or moved.
fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

fn short_reads_lose_nothing<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(7);
    let sent = pattern(10_000);
    peer.write_all(&sent).unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    // The peer does nothing more, so every further turn must come from what is left over.
    let (got, end) = b.read_all(7, 17);
    assert!(end.is_ok());
    assert_eq!(got, sent);
}

/// Whoever still can go on is reported without waiting, although nothing new happens.
fn what_is_left_over_does_not_wait<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(2);
    peer.write_all(&[1; 5]).unwrap();
    for _ in 0..5 {
        b.poll(None); // would hang
        assert_eq!(b.events, [Event::Ready { token: Token(2), readable: true, writable: false }]);
        assert_eq!(b.reactor.read(Token(2), &mut [0; 1]).unwrap(), Received::Bytes(1));
    }
    peer.write_all(&[1; 5]).unwrap();
    b.readable(2);
    b.reactor.set_read_interest(Token(2), false);
    b.reactor.set_read_interest(Token(2), true);
    b.poll(None);
    b.reactor.set_read_interest(Token(2), false);
    b.reactor.set_write_interest(Token(2), true);
    b.poll(None);
    assert_eq!(b.events, [Event::Ready { token: Token(2), readable: false, writable: true }]);
    // So is a second connection that waits while only one was accepted.
    let _others = (TcpStream::connect(b.addr).unwrap(), TcpStream::connect(b.addr).unwrap());
    b.reactor.set_write_interest(Token(2), false);
    for _ in 0..2 {
        b.poll(None);
        assert_eq!(b.events, [Event::Accept(b.listener)]);
        assert!(b.reactor.accept(b.listener).is_some());
    }
}

fn bytes_one_at_a_time_arrive<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(0);
    peer.set_nodelay(true).unwrap();
    let writer = thread::spawn(move || {
        for byte in pattern(3000) {
            peer.write_all(&[byte]).unwrap();
        }
    });
    let (got, end) = b.read_all(0, 4096);
    writer.join().unwrap();
    assert!(end.is_ok());
    assert_eq!(got, pattern(3000));
}

fn partial_writes_go_on_when_the_peer_reads<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(3);
    let sent = pattern(32 << 20);
    // Fill the socket before anyone reads.
    let mut done = 0;
    b.until("the socket is full", |r, _| {
        let n = r.write(Token(3), &sent[done..]).unwrap();
        done += n;
        (n == 0).then_some(())
    });
    assert!(done < sent.len(), "the kernel took 32 MiB at once");
    b.reactor.set_write_interest(Token(3), true);
    let reader = thread::spawn(move || {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        got
    });
    b.write_all(3, &sent[done..]);
    b.reactor.close(Token(3), Close::Flushed);
    b.until("the peer has all", |_, _| reader.is_finished().then_some(()));
    assert!(reader.join().unwrap() == sent, "bytes lost, doubled or moved");
}

/// Small and large writes in one turn and over many, as replies come.
fn writes_of_all_sizes_keep_their_order<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(1);
    let sent = pattern(3 << 20);
    let expected = sent.clone();
    let reader = thread::spawn(move || {
        let mut got = vec![0; expected.len()];
        peer.read_exact(&mut got).unwrap();
        assert!(got == expected, "bytes lost, doubled or moved");
    });
    let mut done = 0;
    let mut size = 1;
    while done < sent.len() {
        // Two attempts before the next turn: the second must not overtake or overwrite the first.
        for _ in 0..2 {
            size = size * 7 % 40_009;
            let end = (done + size).min(sent.len());
            done += b.reactor.write(Token(1), &sent[done..end]).unwrap();
        }
        b.poll(Some(Duration::ZERO));
    }
    b.until("the peer has all", |_, _| reader.is_finished().then_some(()));
    reader.join().unwrap();
}

fn the_end_comes_after_the_bytes_and_is_told_once<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(0);
    peer.write_all(b"srvr").unwrap();
    peer.shutdown(Shutdown::Write).unwrap();
    let (got, end) = b.read_all(0, 1024);
    assert_eq!((got.as_slice(), end.is_ok()), (&b"srvr"[..], true));
    for _ in 0..3 {
        b.poll(SHORT);
        assert!(b.events.iter().all(|e| readable_token(e).is_none()), "the end is told again");
    }
    // The peer has ended its side only: it still gets its answer.
    b.write_all(0, b"imok");
    b.reactor.close(Token(0), Close::Flushed);
    b.poll(Some(Duration::ZERO));
    let mut answer = Vec::new();
    peer.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"imok");
}

fn a_reset_is_an_error_also_when_idle<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let peer = b.connect(0);
    b.poll(Some(Duration::ZERO));
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (got, end) = b.read_all(0, 1024);
    assert!(got.is_empty());
    assert_eq!(end.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    b.reactor.close(Token(0), Close::Now);

    // Writing to someone who is gone ends in an error, too, not in silence and not in a signal.
    let peer = b.connect(0);
    drop(peer);
    b.until("the write fails", |r, _| r.write(Token(0), b"anyone?").is_err().then_some(()));
}

fn a_reset_after_the_end_is_told<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let peer = b.connect(0);
    peer.shutdown(Shutdown::Write).unwrap();
    assert!(b.read_all(0, 16).1.is_ok());
    SockRef::from(&peer).set_linger(Some(Duration::ZERO)).unwrap();
    drop(peer);
    let (_, end) = b.read_all(0, 16);
    assert!(end.is_err(), "not the end once more");
}

fn one_poll_reports_everyone<R: Reactor>(reactor: R) {
    const MANY: u32 = 1500;
    let mut b = Bench::new(reactor);
    let peers: Vec<TcpStream> = (0..MANY).map(|n| b.connect(n)).collect();
    b.poll(Some(Duration::ZERO));
    for mut peer in &peers {
        peer.write_all(b"x").unwrap(); // over loopback it is there when the call returns
    }
    // All of them with one call, so that "drained up to now" is true of everyone.
    b.poll(SHORT);
    assert_eq!(b.events.iter().filter_map(readable_token).count(), MANY as usize);
    // Nobody was read, so all of them are reported again, in one turn.
    b.poll(SHORT);
    assert_eq!(b.events.iter().filter_map(readable_token).count(), MANY as usize);
    for n in 0..MANY {
        assert_eq!(b.reactor.read(Token(n), &mut [0; 8]).unwrap(), Received::Bytes(1));
    }
    b.poll(Some(Duration::ZERO));
    assert_eq!(b.events, []);
}

fn a_flood_does_not_starve_the_others<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut loud = b.connect(0);
    let mut quiet = b.connect(1);
    let flood = thread::spawn(move || while loud.write_all(&[0; 65_536]).is_ok() {});
    let mut buffer = [0; 512];
    let mut answered = 0;
    while answered < 20 {
        quiet.write_all(b"?").unwrap();
        b.until("the quiet one is heard", |r, events| {
            let mut heard = None;
            for token in events.iter().filter_map(readable_token) {
                if let Ok(Received::Bytes(_)) = r.read(Token(token), &mut buffer)
                    && token == 1
                {
                    heard = Some(());
                }
            }
            heard
        });
        answered += 1;
    }
    b.reactor.close(Token(0), Close::Now);
    flood.join().unwrap();
}

fn interest_is_obeyed_and_nothing_is_missed_meanwhile<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(5);
    b.reactor.set_read_interest(Token(5), false);
    peer.write_all(b"early").unwrap();
    for _ in 0..3 {
        b.poll(SHORT);
        assert_eq!(b.events, [], "no interest, no event");
    }
    b.reactor.set_read_interest(Token(5), true);
    b.readable(5);
    assert_eq!(b.reactor.read(Token(5), &mut [0; 64]).unwrap(), Received::Bytes(5));

    // An idle socket takes bytes, and says so every turn for as long as that is asked for.
    b.reactor.set_write_interest(Token(5), true);
    for _ in 0..3 {
        b.poll(SHORT);
        assert_eq!(b.events, [Event::Ready { token: Token(5), readable: false, writable: true }]);
    }
    b.reactor.set_write_interest(Token(5), false);
    b.poll(SHORT);
    assert_eq!(b.events, []);
    assert_eq!(b.reactor.read(Token(5), &mut [0; 64]).unwrap(), Received::Nothing);
}

fn the_waker_ends_the_wait_before_and_during_it<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let waker = b.reactor.waker();
    waker.wake();
    waker.wake();
    b.poll(None); // would hang
    assert_eq!(b.events, []);
    for _ in 0..50 {
        let waker = waker.clone();
        let other = thread::spawn(move || waker.wake());
        b.poll(None);
        other.join().unwrap();
    }
}

fn the_timeout_ends_the_wait<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let start = Instant::now();
    b.poll(Some(Duration::from_millis(30)));
    assert!(start.elapsed() >= Duration::from_millis(30));
    assert_eq!(b.events, []);
}

fn a_foreign_descriptor_is_told_once_per_change<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let eventfd = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
    let id = b.reactor.add_signal(eventfd.as_fd()).unwrap();
    assert_eq!(id, SignalId(0));
    b.poll(SHORT);
    assert_eq!(b.events, []);
    for _ in 0..3 {
        rustix::io::write(&eventfd, &1u64.to_ne_bytes()).unwrap();
        b.until("the signal", |_, events| (events == [Event::Signal(id)]).then_some(()));
        let mut count = [0; 8];
        rustix::io::read(&eventfd, &mut count).unwrap();
        assert_eq!(u64::from_ne_bytes(count), 1);
        b.poll(SHORT);
        assert_eq!(b.events, []);
    }
}

/// The peer pipelines on while its connection is being closed, and reads only later.
fn last_bytes_arrive_in_spite_of_unread_input<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(0);
    let sent = pattern(100_000);
    peer.write_all(&[1; 50_000]).unwrap();
    b.readable(0);
    b.write_all(0, &sent);
    b.reactor.close(Token(0), Close::Flushed);
    // The token is free at once, while the old connection still lingers.
    let mut next = b.connect(0);
    // More input for the closed connection: answered with RST if it had been closed outright.
    for _ in 0..20 {
        peer.write_all(&[2; 10_000]).unwrap();
        b.poll(Some(Duration::ZERO));
    }
    let mut got = vec![0; sent.len()];
    peer.read_exact(&mut got).unwrap();
    assert!(got == sent, "the reply is damaged");
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "then the end, not a reset");

    next.write_all(b"next").unwrap();
    b.readable(0);
    assert_eq!(b.reactor.read(Token(0), &mut [0; 64]).unwrap(), Received::Bytes(4));
}

fn someone_who_never_stops_talking_is_cut_off<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(0);
    b.reactor.close(Token(0), Close::Flushed);
    let talker = thread::spawn(move || {
        let mut said = 0;
        while let Ok(n) = peer.write(&[0; 65_536]) {
            said += n;
        }
        said
    });
    b.until("the talker is cut off", |_, _| talker.is_finished().then_some(()));
    let said = talker.join().unwrap();
    assert!(said < 64 << 20, "listened to {said} bytes of a closed connection");
}

/// More closed connections than may linger: the oldest go, nothing breaks.
fn lingering_is_bounded<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let peers: Vec<TcpStream> = (0..1200)
        .map(|_| {
            let peer = b.connect(0);
            b.reactor.close(Token(0), Close::Flushed);
            peer
        })
        .collect();
    b.poll(Some(Duration::ZERO));
    b.poll(Some(Duration::ZERO));
    for mut peer in &peers {
        assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "each sees the end");
    }
    // Nobody listens to the oldest any more: the first byte is answered with a reset, so the second fails.
    let mut oldest = &peers[0];
    assert!(
        oldest.write_all(b"x").and_then(|()| oldest.write_all(b"x")).is_err(),
        "the oldest still lingers"
    );
}

fn closing_now_closes<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut peer = b.connect(0);
    b.reactor.close(Token(0), Close::Now);
    b.poll(Some(Duration::ZERO));
    assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0);
    b.reactor.close(Token(0), Close::Now); // nobody there: nothing happens
}

fn tokens_are_checked<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    assert!(b.reactor.read(Token(9), &mut [0; 8]).is_err());
    assert!(b.reactor.write(Token(9), b"x").is_err());
    b.reactor.set_read_interest(Token(9), true);
    b.reactor.set_write_interest(Token(9), true);
    b.reactor.close(Token(9), Close::Flushed);
    let mut first = b.connect(9);
    let second = TcpStream::connect(b.addr).unwrap();
    let incoming = b.accept();
    assert!(b.reactor.add(Token(9), incoming).is_err(), "the token is taken");
    first.write_all(b"still here").unwrap();
    b.readable(9);
    assert_eq!((&second).read(&mut [0; 8]).unwrap(), 0, "the refused one was closed");
}

/// A server that stops drops its reactors: what was written last still arrives.
fn the_last_write_outlives_the_reactor<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut open = b.connect(0);
    let mut closed = b.connect(1);
    assert_eq!(b.reactor.write(Token(0), b"bye").unwrap(), 3);
    assert_eq!(b.reactor.write(Token(1), b"bye").unwrap(), 3);
    b.reactor.close(Token(1), Close::Flushed);
    drop(b);
    for peer in [&mut open, &mut closed] {
        let mut got = Vec::new();
        peer.read_to_end(&mut got).unwrap();
        assert_eq!(got, b"bye");
    }
}

/// A token that changes hands within a turn: the old connection's events do not break the new one.
fn a_token_may_change_hands_within_a_turn<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    let mut old = b.connect(4);
    old.write_all(b"old").unwrap();
    b.readable(4);
    b.reactor.close(Token(4), Close::Now);
    let mut new = b.connect(4);
    assert_eq!(b.reactor.read(Token(4), &mut [0; 8]).unwrap(), Received::Nothing);
    new.write_all(b"n").unwrap();
    b.readable(4);
    assert_eq!(b.events.iter().filter_map(readable_token).count(), 1, "reported once");
    assert_eq!(b.reactor.read(Token(4), &mut [0; 8]).unwrap(), Received::Bytes(1));
    b.poll(SHORT);
    assert_eq!(b.events, []);
}

fn those_who_broke_while_they_waited_are_passed_over<R: Reactor>(reactor: R) {
    let mut b = Bench::new(reactor);
    for _ in 0..10 {
        let broken = TcpStream::connect(b.addr).unwrap();
        SockRef::from(&broken).set_linger(Some(Duration::ZERO)).unwrap();
    }
    let good = TcpStream::connect(b.addr).unwrap().local_addr().unwrap();
    let listener = b.listener;
    b.until("the good one", |r, _| {
        let mut found = None;
        while let Some(incoming) = r.accept(listener) {
            found = found.or((incoming.peer() == good).then_some(()));
        }
        found
    });
}

fn several_reactors_share_a_port<R: Reactor>(make: impl Fn() -> R) {
    let options = ListenOptions {
        keepalive: Some(Duration::from_secs(60)),
        sndbuf_bytes: 40_000,
        ..Default::default()
    };
    let (listeners, addr) = listen(loopback(), 3, &options).unwrap();
    assert_eq!(listeners.len(), 3);
    assert_ne!(addr.port(), 0);
    let taken = listen(ListenAddr::One(addr), 2, &options).unwrap_err();
    assert_eq!(taken.kind(), io::ErrorKind::AddrInUse, "a second server is not let in unnoticed");

    let mut reactors: Vec<(R, ListenerId)> = listeners
        .into_iter()
        .map(|l| {
            let mut r = make();
            let id = r.add_listener(l).unwrap();
            (r, id)
        })
        .collect();
    let peers: Vec<TcpStream> = (0..60).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let mut per_reactor = vec![0; reactors.len()];
    let deadline = Instant::now() + PATIENCE;
    while per_reactor.iter().sum::<usize>() < peers.len() {
        assert!(Instant::now() < deadline, "accepted only {per_reactor:?}");
        for ((r, id), count) in reactors.iter_mut().zip(&mut per_reactor) {
            let mut events = Vec::new();
            r.poll(Some(Duration::from_millis(1)), &mut events).unwrap();
            while let Some(incoming) = r.accept(*id) {
                *count += 1;
                let socket = SockRef::from(&incoming);
                assert!(socket.tcp_nodelay().unwrap() && socket.keepalive().unwrap());
                assert_eq!(
                    socket.send_buffer_size().unwrap(),
                    80_000,
                    "the kernel doubles what is asked for"
                );
            }
        }
    }
    assert!(per_reactor.iter().filter(|n| **n > 0).count() > 1, "one has them all: {per_reactor:?}");
}

fn all_interfaces_means_both_families<R: Reactor>(mut reactor: R) {
    let (mut listeners, addr) = listen(ListenAddr::Any { port: 0 }, 1, &ListenOptions::default()).unwrap();
    let id = reactor.add_listener(listeners.remove(0)).unwrap();
    let mut b = Bench { reactor, listener: id, addr, events: Vec::new(), waiting: VecDeque::new() };
    let v4 = TcpStream::connect((Ipv4Addr::LOCALHOST, addr.port())).unwrap();
    assert_eq!(b.accept().peer(), v4.local_addr().unwrap(), "by its IPv4 address, not a mapped one");
    if let Ok(v6) = TcpStream::connect((Ipv6Addr::LOCALHOST, addr.port())) {
        assert_eq!(b.accept().peer(), v6.local_addr().unwrap());
    } else {
        let alone = TcpListener::bind((Ipv6Addr::LOCALHOST, 0));
        assert!(alone.is_err(), "this host has IPv6, but we do not listen there");
    }
}

/// Runs in a process of its own, since the limit on descriptors is the process's.
fn without_descriptors_the_listener_rests<R: Reactor>(reactor: R) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut b = Bench::new(reactor);
    let before = getrlimit(Resource::Nofile);
    let peers: Vec<TcpStream> = (0..3).map(|_| TcpStream::connect(b.addr).unwrap()).collect();
    // From here on no further descriptor can be had.
    setrlimit(Resource::Nofile, Rlimit { current: Some(0), maximum: before.maximum }).unwrap();
    let listener = b.listener;
    b.until("the listener", |_, events| events.contains(&Event::Accept(listener)).then_some(()));
    assert!(b.reactor.accept(listener).is_none());
    // It rests: nothing is reported for a while, and meanwhile the reactor waits instead of spinning (a spin would be
    // thousands of turns). Both bounds hold however slow the machine is.
    let refused = Instant::now();
    let mut turns = 0;
    b.until("it tries again", |r, events| {
        turns += 1;
        if !events.contains(&Event::Accept(listener)) {
            return None;
        }
        assert!(r.accept(listener).is_none());
        Some(())
    });
    assert!(refused.elapsed() >= Duration::from_millis(50), "no rest");
    assert!(turns < 1000, "{turns} turns");
    setrlimit(Resource::Nofile, before).unwrap();
    for peer in &peers {
        assert_eq!(b.accept().peer(), peer.local_addr().unwrap(), "it was still waiting");
    }
    println!("rested");
}

/// Runs in a process of its own, too. What the server opens for itself is not kept from it by its clients.
fn the_last_descriptors_are_not_for_clients<R: Reactor>(reactor: R) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let mut b = Bench::new(reactor);
    let mut peers: Vec<TcpStream> = (0..2).map(|_| TcpStream::connect(b.addr).unwrap()).collect();
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(128), maximum }).unwrap();
    // A quarter of them is kept: 96 is the first that no client gets.
    let mut files = Vec::new();
    while files.last().is_none_or(|f: &std::fs::File| f.as_raw_fd() < 94) {
        files.push(std::fs::File::open("/dev/null").unwrap());
    }
    let first = b.accept();
    assert_eq!(first.as_fd().as_raw_fd(), 95);
    assert!(b.waiting.is_empty(), "one is taken");
    peers[1].set_read_timeout(Some(PATIENCE)).unwrap();
    assert!(matches!(peers[1].read(&mut [0; 1]), Ok(0) | Err(_)), "the other is told to go elsewhere");
    let own: Vec<_> = (0..32).map_while(|_| std::fs::File::open("/dev/null").ok()).collect();
    assert_eq!(own.len(), 32, "ours are there");
    drop((own, first, files));
    let _third = TcpStream::connect(b.addr).unwrap();
    b.accept();
    println!("rested");
}

/// Re-runs one ignored test of this file in a process of its own.
fn in_a_process_of_its_own(test: &str) {
    let me = std::env::current_exe().unwrap();
    let out = Command::new(me).args(["--exact", test, "--ignored", "--nocapture"]).output().unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(
        out.status.success() && text.contains("rested"),
        "{text}{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

/// Whether this host lets us use io_uring. If not (old kernel, sandbox, sysctl), its tests fail, unless whoever runs
/// them has said that he knows: SERVAL_WITHOUT_IO_URING=1.
fn io_uring_is_allowed() -> bool {
    match UringReactor::new() {
        Err(e) if matches!(e.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EINVAL)) => {
            let known = std::env::var_os("SERVAL_WITHOUT_IO_URING").is_some_and(|v| v == "1");
            assert!(
                known,
                "this host has no io_uring for us ({e}); SERVAL_WITHOUT_IO_URING=1 leaves its tests out"
            );
            false
        }
        _ => true,
    }
}

fn a_closed_listener_refuses_and_its_connections_go_on(reactor: impl Reactor) {
    let mut b = Bench::new(reactor);
    let mut old = b.connect(1);
    let waits = TcpStream::connect(b.addr).unwrap();
    waits.set_read_timeout(Some(PATIENCE)).unwrap();
    b.reactor.close_listener(b.listener);
    let addr = b.addr;
    b.until("the end of the port", |_, events| {
        assert!(!events.iter().any(|e| matches!(e, Event::Accept(_))), "nobody is taken any more");
        TcpStream::connect(addr).is_err().then_some(())
    });
    let ended = (&waits).read(&mut [0; 1]);
    assert!(matches!(ended, Ok(0) | Err(_)), "who was not accepted is refused");
    assert!(b.reactor.accept(b.listener).is_none());
    // The next listener has another name, and the connection is none the wiser.
    let (mut listeners, addr) = listen(loopback(), 1, &ListenOptions::default()).unwrap();
    let next = b.reactor.add_listener(listeners.remove(0)).unwrap();
    assert_ne!(next, b.listener);
    (b.listener, b.addr) = (next, addr);
    let mut new = b.connect(2);
    for (token, peer) in [(1, &mut old), (2, &mut new)] {
        peer.write_all(b"x").unwrap();
        b.readable(token);
        assert_eq!(b.reactor.read(Token(token), &mut [0; 8]).unwrap(), Received::Bytes(1));
        assert_eq!(b.reactor.write(Token(token), b"y").unwrap(), 1);
        b.poll(SHORT);
        peer.read_exact(&mut [0; 1]).unwrap();
    }
}

/// From one interface to all of them.
fn a_listener_gives_way_to_one_on_the_same_port(reactor: impl Reactor) {
    let mut b = Bench::new(reactor);
    let on = ListenAddr::Any { port: b.addr.port() };
    let options = ListenOptions::default();
    assert!(listen(on, 2, &options).is_err(), "who knows nothing of it does not get the port");
    let (mut listeners, _) = listen_beside(on, 2, &options).unwrap();
    let next = b.reactor.add_listener(listeners.remove(0)).unwrap();
    b.reactor.close_listener(b.listener);
    b.listener = next;
    b.poll(SHORT);
    drop(listeners);
    b.connect(1);
}

macro_rules! contract {
    ($name:ident, $allowed:expr, $make:expr, [$($test:ident)*]) => {
        mod $name {
            $(#[test]
            fn $test() {
                if $allowed {
                    super::$test($make);
                }
            })*
            #[test]
            fn several_reactors_share_a_port() {
                if $allowed {
                    super::several_reactors_share_a_port(|| $make);
                }
            }
            #[test]
            #[ignore = "run by a_shortage_of_descriptors_is_survived, in a process of its own"]
            fn without_descriptors_the_listener_rests() {
                super::without_descriptors_the_listener_rests($make);
            }
            #[test]
            fn a_shortage_of_descriptors_is_survived() {
                let this = concat!(stringify!($name), "::without_descriptors_the_listener_rests");
                if $allowed {
                    super::in_a_process_of_its_own(this);
                }
            }
            #[test]
            #[ignore = "run by clients_leave_descriptors_to_the_server, in a process of its own"]
            fn the_last_descriptors_are_not_for_clients() {
                super::the_last_descriptors_are_not_for_clients($make);
            }
            #[test]
            fn clients_leave_descriptors_to_the_server() {
                let this = concat!(stringify!($name), "::the_last_descriptors_are_not_for_clients");
                if $allowed {
                    super::in_a_process_of_its_own(this);
                }
            }
        }
    };
    ($name:ident, $allowed:expr, $make:expr) => {
        contract!($name, $allowed, $make, [
            short_reads_lose_nothing
            what_is_left_over_does_not_wait
            bytes_one_at_a_time_arrive
            partial_writes_go_on_when_the_peer_reads
            writes_of_all_sizes_keep_their_order
            the_end_comes_after_the_bytes_and_is_told_once
            a_reset_is_an_error_also_when_idle
            a_reset_after_the_end_is_told
            one_poll_reports_everyone
            a_flood_does_not_starve_the_others
            interest_is_obeyed_and_nothing_is_missed_meanwhile
            the_waker_ends_the_wait_before_and_during_it
            the_timeout_ends_the_wait
            a_foreign_descriptor_is_told_once_per_change
            last_bytes_arrive_in_spite_of_unread_input
            someone_who_never_stops_talking_is_cut_off
            lingering_is_bounded
            closing_now_closes
            tokens_are_checked
            a_token_may_change_hands_within_a_turn
            the_last_write_outlives_the_reactor
            those_who_broke_while_they_waited_are_passed_over
            all_interfaces_means_both_families
            a_closed_listener_refuses_and_its_connections_go_on
            a_listener_gives_way_to_one_on_the_same_port
        ]);
    };
}

contract!(mio, true, net::reactor::MioReactor::new().unwrap());
contract!(io_uring, super::io_uring_is_allowed(), net::reactor::UringReactor::new().unwrap());
