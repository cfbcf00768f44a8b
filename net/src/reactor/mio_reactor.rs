//! The reactor over epoll, by way of mio.
//!
//! Sockets are registered once, edge-triggered, for reading and writing; what the edges said is remembered per
//! connection until a call finds the socket exhausted. So interest is a flag of ours, and whoever can still go on
//! stands on a list of ours that is looked at before the kernel is asked.
//!
//! Not here: the rules that every reactor keeps (`super`), connections after their close (`linger`).
//! Invariants:
//! - a slot's number stands on `ready` exactly if its `listed` is set, whoever its tenant is;
//! - a connection that can go on (`Conn::can_read`, `can_write`) is on `ready`;
//! - `readable` is cleared only by a read that found less than it could take while no end had been announced: the
//!   kernel then reports the next byte, or the end, as a new edge. The same holds for `writable` and short writes.

use super::accept::Listening;
use super::linger::Lingering;
use super::{
    Close, Event, Incoming, Listener, ListenerId, Reactor, Received, SignalId, Token, no_such_token,
};
use crate::ring::Wake;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Poll};
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Events taken from the kernel with one call.
const EVENTS_PER_CALL: usize = 1024;
/// Buffer for bytes that nobody wants.
const SCRATCH_BYTES: usize = 16 << 10;

// What a kernel token stands for, in its upper half; the lower half is a number of that kind.
const KIND_SHIFT: u32 = 32;
const CONN: usize = 0;
const LISTENER: usize = 1;
const SIGNAL: usize = 2;
const LINGERER: usize = 3;
const WAKER: usize = 4;

fn kernel_token(kind: usize, number: usize) -> mio::Token {
    mio::Token(kind << KIND_SHIFT | number)
}

struct Conn {
    stream: TcpStream,
    /// Bytes, an end or an error may wait.
    readable: bool,
    /// The socket may take bytes.
    writable: bool,
    /// The kernel announced an end or an error behind the bytes that wait.
    end_announced: bool,
    wants_read: bool,
    wants_write: bool,
}

impl Conn {
    fn can_read(&self) -> bool {
        self.readable && self.wants_read
    }
    fn can_write(&self) -> bool {
        self.writable && self.wants_write
    }
    fn can_go_on(&self) -> bool {
        self.can_read() || self.can_write()
    }
}

#[derive(Default)]
struct Slot {
    conn: Option<Conn>,
    listed: bool,
}

/// A reactor over epoll.
pub struct MioReactor {
    poll: Poll,
    from_kernel: mio::Events,
    waker: Arc<dyn Wake>,
    listeners: Vec<Listening>,
    signals: u32,
    /// By token.
    slots: Vec<Slot>,
    /// Slots that could go on when last looked at.
    ready: Vec<u32>,
    lingering: Lingering,
    scratch: Box<[u8]>,
}

struct MioWaker(mio::Waker);

impl Wake for MioWaker {
    fn wake(&self) {
        // An eventfd refuses nothing but a full counter, and then the wake it already holds is enough.
        if let Err(e) = self.0.wake() {
            tracing::error!(error = %e, "cannot wake a reactor thread");
        }
    }
}

impl MioReactor {
    /// An empty reactor.
    pub fn new() -> io::Result<MioReactor> {
        let poll = Poll::new()?;
        let waker = mio::Waker::new(poll.registry(), kernel_token(WAKER, 0))?;
        Ok(MioReactor {
            poll,
            from_kernel: mio::Events::with_capacity(EVENTS_PER_CALL),
            waker: Arc::new(MioWaker(waker)),
            listeners: Vec::new(),
            signals: 0,
            slots: Vec::new(),
            ready: Vec::new(),
            lingering: Lingering::default(),
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
        })
    }

    fn conn(&mut self, token: Token) -> Option<&mut Conn> {
        self.slots.get_mut(token.0 as usize)?.conn.as_mut()
    }

    /// Puts a slot on the list if its connection can go on and it is not there yet.
    fn list(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if !slot.listed && slot.conn.as_ref().is_some_and(Conn::can_go_on) {
            slot.listed = true;
            self.ready.push(number);
        }
    }

    /// Takes from the list who cannot go on (or is gone).
    fn prune_ready(&mut self) {
        let slots = &mut self.slots;
        self.ready.retain(|number| {
            let slot = &mut slots[*number as usize];
            slot.listed = slot.conn.as_ref().is_some_and(Conn::can_go_on);
            slot.listed
        });
    }

    /// How long the kernel may be waited for.
    fn wait_limit(&mut self, wanted: Option<Duration>) -> Option<Duration> {
        self.prune_ready();
        if !self.ready.is_empty() || self.listeners.iter().any(Listening::can_go_on) {
            return Some(Duration::ZERO);
        }
        let rests = self.listeners.iter().filter_map(Listening::rest_left).min();
        [wanted, rests, self.lingering.wait_at_most()].into_iter().flatten().min()
    }

    /// Asks the kernel once; says whether there may be more than it could tell.
    fn ask_kernel(&mut self, limit: Option<Duration>, events: &mut Vec<Event>) -> io::Result<bool> {
        match self.poll.poll(&mut self.from_kernel, limit) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(false),
            other => other?,
        }
        let mut told = 0;
        for event in &self.from_kernel {
            told += 1;
            let number = event.token().0 & ((1 << KIND_SHIFT) - 1);
            match event.token().0 >> KIND_SHIFT {
                CONN => {
                    let Some(conn) = self.slots[number].conn.as_mut() else { continue };
                    let broken = event.is_error() || (event.is_read_closed() && event.is_write_closed());
                    conn.end_announced |= broken || event.is_read_closed();
                    conn.readable |= broken || event.is_readable() || event.is_read_closed();
                    conn.writable |= broken || event.is_writable();
                    let slot = &mut self.slots[number];
                    if !slot.listed && slot.conn.as_ref().is_some_and(Conn::can_go_on) {
                        slot.listed = true;
                        self.ready.push(number as u32);
                    }
                }
                LISTENER => self.listeners[number].acceptable = true,
                SIGNAL => events.push(Event::Signal(SignalId(number as u32))),
                LINGERER => self.lingering.ready(number),
                _ => {} // the waker: returning is all that it asks for
            }
        }
        Ok(told == EVENTS_PER_CALL)
    }
}

impl Reactor for MioReactor {
    fn add_listener(&mut self, listener: Listener) -> io::Result<ListenerId> {
        let mut l = Listening::new(listener);
        let number = self.listeners.len();
        if let Some(socket) = l.socket() {
            self.poll.registry().register(socket, kernel_token(LISTENER, number), Interest::READABLE)?;
        }
        self.listeners.push(l);
        Ok(ListenerId(number as u32))
    }

    fn close_listener(&mut self, id: ListenerId) {
        if let Some(l) = self.listeners.get_mut(id.0 as usize) {
            l.close();
        }
    }

    fn add_signal(&mut self, fd: BorrowedFd<'_>) -> io::Result<SignalId> {
        let number = self.signals;
        let token = kernel_token(SIGNAL, number as usize);
        self.poll.registry().register(&mut SourceFd(&fd.as_raw_fd()), token, Interest::READABLE)?;
        self.signals += 1;
        Ok(SignalId(number))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        let limit = self.wait_limit(timeout);
        let mut more = self.ask_kernel(limit, events)?;
        // A full answer may have left some out, and "drained up to now" must mean everyone. The kernel tells each
        // socket once, so this ends; the bound is for the case that they change faster than we ask.
        for _ in 0..self.slots.len() / EVENTS_PER_CALL + 1 {
            if !more {
                break;
            }
            more = self.ask_kernel(Some(Duration::ZERO), events)?;
        }
        self.lingering.turn(&mut self.scratch);
        for (number, l) in self.listeners.iter_mut().enumerate() {
            l.end_rest();
            if l.can_go_on() {
                events.push(Event::Accept(ListenerId(number as u32)));
            }
        }
        for number in &self.ready {
            if let Some(conn) = &self.slots[*number as usize].conn
                && conn.can_go_on()
            {
                let (readable, writable) = (conn.can_read(), conn.can_write());
                events.push(Event::Ready { token: Token(*number), readable, writable });
            }
        }
        Ok(())
    }

    fn accept(&mut self, from: ListenerId) -> Option<Incoming> {
        self.listeners.get_mut(from.0 as usize)?.accept()
    }

    fn add(&mut self, token: Token, incoming: Incoming) -> io::Result<()> {
        let number = token.0 as usize;
        if self.slots.len() <= number {
            self.slots.resize_with(number + 1, Slot::default);
        }
        if self.slots[number].conn.is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the token names another connection"));
        }
        let mut stream = incoming.stream;
        let both = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(&mut stream, kernel_token(CONN, number), both)?;
        self.slots[number].conn = Some(Conn {
            stream,
            readable: false, // registering reports what is there already
            writable: true,
            end_announced: false,
            wants_read: true,
            wants_write: false,
        });
        Ok(())
    }

    fn read(&mut self, token: Token, into: &mut [u8]) -> io::Result<Received> {
        debug_assert!(!into.is_empty());
        let conn = self.conn(token).ok_or_else(no_such_token)?;
        loop {
            match (&conn.stream).read(into) {
                Ok(0) => {
                    conn.readable = false; // told once; an error behind it is a new edge
                    // A reset behind the end reads as the end again: only the socket's error tells them apart.
                    return match conn.stream.take_error() {
                        Ok(None) => Ok(Received::End),
                        Ok(Some(e)) | Err(e) => Err(e),
                    };
                }
                Ok(n) => {
                    conn.readable = n == into.len() || conn.end_announced;
                    return Ok(Received::Bytes(n));
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.readable = false;
                    return Ok(Received::Nothing);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn write(&mut self, token: Token, bytes: &[u8]) -> io::Result<usize> {
        let conn = self.conn(token).ok_or_else(no_such_token)?;
        if bytes.is_empty() || !conn.writable {
            return Ok(0);
        }
        loop {
            match (&conn.stream).write(bytes) {
                Ok(n) => {
                    conn.writable = n == bytes.len();
                    return Ok(n);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    conn.writable = false;
                    return Ok(0);
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn set_read_interest(&mut self, token: Token, on: bool) {
        if let Some(conn) = self.conn(token) {
            conn.wants_read = on;
            self.list(token.0);
        }
    }

    fn set_write_interest(&mut self, token: Token, on: bool) {
        if let Some(conn) = self.conn(token) {
            conn.wants_write = on;
            self.list(token.0);
        }
    }

    fn close(&mut self, token: Token, how: Close) {
        let Some(conn) = self.slots.get_mut(token.0 as usize).and_then(|s| s.conn.take()) else { return };
        if how == Close::Flushed {
            let to_token = |slot| kernel_token(LINGERER, slot);
            self.lingering.add(conn.stream, self.poll.registry(), &mut self.scratch, to_token);
        }
        // Else dropped: closing the descriptor also ends its registration.
    }
}
