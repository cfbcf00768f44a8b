//! Sockets of one thread: which of them can go on, and moving their bytes.
//!
//! A [`Reactor`] owns listeners, connections, foreign descriptors to watch, and the thing that other threads wake it
//! by. One thread drives it, in turns: `poll`, then reads and writes. Two of them exist: [`MioReactor`] runs
//! everywhere, [`UringReactor`] where the kernel allows it; both pass the contract test
//! (`tests/reactor_contract.rs`), and so must a third.
//!
//! Not here: what the bytes mean and how much may be queued (`engine::shard`), when to turn and to sleep (the loops).
//! Invariants:
//! - no call but [`Reactor::poll`] waits;
//! - readiness is level-like: a connection with interest is reported every turn as long as it can go on, so reading
//!   or writing a bounded part of it per turn loses nothing. Changing interest costs no system call;
//! - connections are named by the caller's [`Token`]. An event may be stale if its token was given to another
//!   connection in the same turn; then reading or writing says that nothing can be done, which is harmless;
//! - a connection closed with [`Close::Flushed`] delivers what was written before its end is seen.

mod accept;
mod any;
mod linger;
mod listen;
mod mio_reactor;
mod uring;

pub use any::AnyReactor;
pub use listen::{ListenAddr, ListenOptions, Listener, listen, listen_beside};
pub use mio_reactor::MioReactor;
pub use uring::UringReactor;

use crate::ring::Wake;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// A connection, as the caller numbers it: a dense slot number, re-used after [`Reactor::close`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Token(pub u32);

/// A listener, in the order of [`Reactor::add_listener`], from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ListenerId(pub u32);

/// A watched descriptor, in the order of [`Reactor::add_signal`], from 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct SignalId(pub u32);

/// What can go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// Connections may wait here: call [`Reactor::accept`] until it has none, or as often as a turn allows.
    Accept(ListenerId),
    /// The connection can be read (bytes, its end, or an error), written, or both. Only what interest is set for.
    Ready { token: Token, readable: bool, writable: bool },
    /// The descriptor became readable. Told once per change: empty it.
    Signal(SignalId),
}

/// What a read brought.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Received {
    /// This many bytes, at least one. There may be more.
    Bytes(usize),
    /// Nothing at present.
    Nothing,
    /// The peer sends no more. It may still read: it is told once, and what is written still goes out.
    End,
}

/// How a connection is closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Close {
    /// In good order: the peer gets all that was written, then the end of the stream, even while its own bytes are
    /// still on the way. The reactor reads those for a bounded while behind the caller's back.
    Flushed,
    /// At once: the peer is gone or misbehaves. What was not sent yet may be lost.
    Now,
}

/// A connection that was accepted and has no token yet. Dropping it refuses it.
#[derive(Debug)]
pub struct Incoming {
    stream: mio::net::TcpStream,
    peer: SocketAddr,
}

impl Incoming {
    fn new(stream: mio::net::TcpStream, peer: SocketAddr) -> Incoming {
        Incoming { stream, peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()) }
    }

    /// A connected socket from elsewhere.
    pub fn from_std(stream: std::net::TcpStream) -> io::Result<Incoming> {
        stream.set_nonblocking(true)?;
        let peer = stream.peer_addr()?;
        Ok(Incoming::new(mio::net::TcpStream::from_std(stream), peer))
    }

    /// Who called; an IPv4 caller of a dual-stack listener by its IPv4 address.
    pub fn peer(&self) -> SocketAddr {
        self.peer
    }
}

impl AsFd for Incoming {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// The sockets of one thread.
pub trait Reactor {
    /// Accepts connections from it from now on.
    fn add_listener(&mut self, listener: Listener) -> io::Result<ListenerId>;

    /// Closes a listener. Whoever waits there and was not accepted is refused; its connections stand.
    fn close_listener(&mut self, id: ListenerId);

    /// Watches a descriptor (an eventfd) for being readable. It must stay open as long as the reactor lives.
    fn add_signal(&mut self, fd: BorrowedFd<'_>) -> io::Result<SignalId>;

    /// What ends [`Reactor::poll`] from another thread, also when called before it; the two need no event.
    fn waker(&self) -> Arc<dyn Wake>;

    /// Waits until something can go on, the waker is called or `timeout` (`None`: no limit) is over, and replaces
    /// `events` by all that can go on now. Does not wait if a connection or listener of an earlier turn still can.
    /// Returns without events also when a signal interrupts it.
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()>;

    /// A waiting connection, or `None` if there is none now. Connections that broke while they waited are passed
    /// over. If the process has no descriptor or memory to spare the listener rests for a moment: `None` until then.
    fn accept(&mut self, from: ListenerId) -> Option<Incoming>;

    /// Takes over a connection, with interest in reading and none in writing. The token must be free.
    fn add(&mut self, token: Token, incoming: Incoming) -> io::Result<()>;

    /// Reads what is there, up to the length of `into`, which must not be empty. An error means that the connection
    /// is broken: close it.
    fn read(&mut self, token: Token, into: &mut [u8]) -> io::Result<Received>;

    /// Takes as many of the bytes as can be sent and says how many; less than all: set write interest to hear when to
    /// go on. They leave with the next [`Reactor::poll`] at the latest. An error means that the connection is broken:
    /// close it.
    fn write(&mut self, token: Token, bytes: &[u8]) -> io::Result<usize>;

    /// Whether to report the connection as readable.
    fn set_read_interest(&mut self, token: Token, on: bool);

    /// Whether to report the connection as writable.
    fn set_write_interest(&mut self, token: Token, on: bool);

    /// Ends the connection; the token is free afterwards.
    fn close(&mut self, token: Token, how: Close);
}

/// What all calls with a token say when no connection has it.
fn no_such_token() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "no connection has this token")
}
