//! Members on loopback whose sockets one test thread drives, and that sleeps only as `Peers` allows: until a descriptor
//! is readable, the waker was called, or the next deadline has passed.
#![allow(dead_code)] // Each test file uses some of it.

use engine::ids::{LinkId, ServerId};
use engine::time::MonoMs;
use net::clock::Clock;
use net::peers::{PeerEvent, PeerLine, PeerOptions, Peers};
use net::ring::Wake;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long anything may take before a test fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

struct Eventfd(OwnedFd);

impl Wake for Eventfd {
    fn wake(&self) {
        rustix::io::write(&self.0, &1u64.to_ne_bytes()).expect("an eventfd takes it");
    }
}

/// A loopback address that no other test uses, so that no other test's connections take its ports.
pub fn own_host() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = (std::process::id() % 0x7fff) << 8 | NEXT.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from(0x7f80_0000 | (n % 0x7f_fff0 + 2)).to_string()
}

pub fn free_port(host: &str) -> u16 {
    let taken = TcpListener::bind((host, 0)).expect("a port");
    taken.local_addr().expect("bound").port()
}

pub fn line(id: i64, host: &str) -> PeerLine {
    let (quorum, mut election) = (free_port(host), free_port(host));
    while election == quorum {
        election = free_port(host);
    }
    PeerLine { id: ServerId(id), observer: false, addresses: vec![(host.into(), quorum, election)] }
}

/// Lines of members 1..=n on one host.
pub fn lines(n: i64) -> Vec<PeerLine> {
    let host = own_host();
    (1..=n).map(|id| line(id, &host)).collect()
}

pub fn quorum_addr(l: &PeerLine) -> SocketAddr {
    SocketAddr::new(l.addresses[0].0.parse().expect("numeric"), l.addresses[0].1)
}

pub fn election_addr(l: &PeerLine) -> SocketAddr {
    SocketAddr::new(l.addresses[0].0.parse().expect("numeric"), l.addresses[0].2)
}

pub struct Node {
    pub peers: Peers,
    pub events: VecDeque<PeerEvent>,
    pub id: ServerId,
    waker: Arc<Eventfd>,
    /// What the clock is put forward, ms.
    pub later_ms: u64,
    clock: Clock,
}

impl Node {
    pub fn open(id: i64, lines: &[PeerLine]) -> Node {
        Node::with(id, lines, PeerOptions::default())
    }

    pub fn with(id: i64, lines: &[PeerLine], options: PeerOptions) -> Node {
        let fd = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC).expect("an eventfd");
        let waker = Arc::new(Eventfd(fd));
        let peers =
            Peers::open(ServerId(id), lines.to_vec(), options, waker.clone()).expect("ports are free");
        Node { peers, events: VecDeque::new(), id: ServerId(id), waker, later_ms: 0, clock: Clock::new() }
    }

    pub fn now(&self) -> MonoMs {
        self.clock.mono().plus(self.later_ms)
    }

    /// One step of a core.
    pub fn step(&mut self) {
        let mut events = Vec::new();
        self.peers.poll(self.now(), &mut events);
        self.events.extend(events);
        self.peers.flush();
    }

    /// Takes the messages that arrived from a server.
    pub fn messages(&mut self, from: i64) -> Vec<Vec<u8>> {
        let mut found = Vec::new();
        self.events.retain(|e| match e {
            PeerEvent::Election { from: f, message } if f.0 == from => {
                found.push(message.clone());
                false
            }
            _ => true,
        });
        found
    }

    pub fn saw(&self, event: &PeerEvent) -> bool {
        self.events.contains(event)
    }

    pub fn count(&self, event: &PeerEvent) -> usize {
        self.events.iter().filter(|e| *e == event).count()
    }

    pub fn accepted(&self) -> Option<LinkId> {
        self.events.iter().find_map(|e| match e {
            PeerEvent::Accepted { link, .. } => Some(*link),
            _ => None,
        })
    }

    pub fn downs(&self, link: LinkId) -> Vec<&str> {
        let of = |e| match e {
            &PeerEvent::Down { link: l, ref why } if l == link => Some(why.as_str()),
            _ => None,
        };
        self.events.iter().filter_map(of).collect()
    }
}

/// Drives all until the condition holds. Sleeps as `Peers` allows, so work that it does not announce shows as a
/// condition that never comes.
pub fn until(what: &str, nodes: &mut [&mut Node], mut holds: impl FnMut(&mut [&mut Node]) -> bool) {
    until_or_busy(what, nodes, |n| if holds(n) { Some(true) } else { None });
}

/// As [`until`]; `Some(false)` says that the test itself did something and wants to be called again at once.
pub fn until_or_busy(
    what: &str,
    nodes: &mut [&mut Node],
    mut holds: impl FnMut(&mut [&mut Node]) -> Option<bool>,
) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        for n in nodes.iter_mut() {
            n.step();
        }
        let held = holds(nodes);
        if held == Some(true) {
            return;
        }
        assert!(Instant::now() < deadline, "never came: {what}");
        if held.is_none() {
            rest(nodes, deadline);
        }
    }
}

fn rest(nodes: &[&mut Node], deadline: Instant) {
    let left = deadline.saturating_duration_since(Instant::now());
    let due = nodes.iter().map(|n| n.peers.next_deadline().since(n.now())).min().unwrap_or(0);
    let wait = left.min(Duration::from_millis(due));
    let mut fds = Vec::new();
    for n in nodes {
        fds.push(PollFd::from_borrowed_fd(n.peers.fd(), PollFlags::IN));
        fds.push(PollFd::from_borrowed_fd(n.waker.0.as_fd(), PollFlags::IN));
    }
    let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
    let _interrupted = poll(&mut fds, Some(&wait));
    for n in nodes {
        let mut count = [0u8; 8];
        let _empty = rustix::io::read(&n.waker.0, &mut count);
    }
}

/// Drives a node while `other` talks to it in plain blocking style on a thread of its own.
pub fn beside<T: Send + 'static>(node: &mut Node, other: impl FnOnce() -> T + Send + 'static) -> T {
    let waker = node.waker.clone();
    let (sender, result) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(other));
        sender.send(caught).expect("the test waits for it");
        waker.wake();
    });
    let mut value = None;
    until("the other side is done", &mut [node], |_| {
        value = result.try_recv().ok();
        value.is_some()
    });
    thread.join().expect("caught");
    match value.expect("just seen") {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// A plain connection that gives up when nothing comes.
pub fn connect(to: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(to).expect("somebody listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

pub fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).expect("ascii"), 16).expect("hex");
    digits.chunks(2).map(byte).collect()
}

/// A greeting as ZooKeeper sends it.
pub fn hello(id: i64, address: &str) -> Vec<u8> {
    let mut out = Vec::from((-65_536i64).to_be_bytes());
    out.extend(id.to_be_bytes());
    out.extend((address.len() as i32).to_be_bytes());
    out.extend(address.as_bytes());
    out
}

pub fn frame(message: &[u8]) -> Vec<u8> {
    let mut out = Vec::from((message.len() as i32).to_be_bytes());
    out.extend(message);
    out
}

/// Whether the other side has ended this connection.
pub fn is_closed(s: &TcpStream) -> bool {
    s.set_nonblocking(true).expect("set");
    match s.peek(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() != std::io::ErrorKind::WouldBlock,
    }
}
