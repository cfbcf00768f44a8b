//! The reactor over io_uring: one system call per turn for all small reads and writes.
//!
//! A connection that wants to read has one receive in flight, which takes a buffer only when bytes arrive. Small
//! writes are copied and sent through the ring, one in flight per connection (several could overtake each other);
//! large ones go to the socket directly, since there a copy costs more than a call. Listeners are polled through the
//! ring and accepted from by call.
//!
//! Not here: the queues (`ring`), the receive buffers (`buffers`), accepting (`accept`).
//! Invariants:
//! - a connection's slot is not re-used while an operation of it is in flight (`Conn::ops`), so a completion always
//!   finds the connection that it belongs to, also after the caller closed it;
//! - the bytes of a send in flight are not touched until it completes;
//! - a connection without interest in reading holds no shared buffer: what still arrives is copied aside;
//! - a slot's number stands on `ready` exactly if its `listed` is set.
//!
//! This module is one of the islands in which unsafe code is allowed.
#![allow(unsafe_code)]

mod buffers;
mod conn;
mod ring;

use super::accept::Listening;
use super::{
    Close, Event, Incoming, Listener, ListenerId, Reactor, Received, SignalId, Token, no_such_token,
};
use crate::ring::Wake;
use buffers::{BUFFER_BYTES, Buffers, GROUP};
use conn::{Closing, Conn, Input};
use ring::{Done, Ring};
use rustix::event::{EventfdFlags, eventfd};
use rustix::net::{RecvFlags, SendFlags};
use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Writes up to this go through the ring, larger ones to the socket.
const RING_SEND_BYTES: usize = 16 << 10;
/// Send buffers kept for the next sends.
const SPARES: usize = 64;
/// Closed connections that may still deliver their last bytes; one more ends the oldest.
const LINGER_CONNECTIONS: usize = 1024;
/// Deadlines remembered at once, those of connections that have ended already among them.
const LINGER_DEADLINES: usize = 16 * LINGER_CONNECTIONS;
/// Bytes of a closed connection that are thrown away before it is ended.
const LINGER_BYTES: usize = 4 << 20;
/// How long a closed connection has to deliver and to end.
const LINGER_TIME: Duration = Duration::from_secs(2);

// What a completion is of, in its upper half; the lower half is a number of that kind.
const KIND_SHIFT: u32 = 32;
const WAKER: u64 = 0;
const LISTENER: u64 = 1;
const SIGNAL: u64 = 2;
const RECEIVE: u64 = 3;
const SEND: u64 = 4;
const WATCH: u64 = 5;
const UNWATCH: u64 = 6;

fn user(kind: u64, number: usize) -> u64 {
    kind << KIND_SHIFT | number as u64
}

struct EventFd(OwnedFd);

impl Wake for EventFd {
    fn wake(&self) {
        // A full counter refuses, and then the wake it already holds is enough.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

#[derive(Default)]
struct Slot {
    conn: Option<Conn>,
    listed: bool,
}

/// A reactor over io_uring. It may be made on one thread and driven by another, but by one only.
pub struct UringReactor {
    ring: Ring,
    /// `None` once given up (`Drop`).
    buffers: Option<Buffers>,
    waker: Arc<EventFd>,
    listeners: Vec<Listening>,
    signals: Vec<RawFd>,
    /// By the reactor's own number.
    slots: Vec<Slot>,
    free: Vec<u32>,
    /// By the caller's token.
    tokens: Vec<Option<u32>>,
    ready: Vec<u32>,
    spares: Vec<Vec<u8>>,
    /// Closed connections by age; an entry counts only if its connection has this deadline.
    deadlines: VecDeque<(Instant, u32)>,
    lingering: usize,
    done: Vec<Done>,
}

impl UringReactor {
    /// An empty reactor, or an error where the kernel or a sandbox does not allow it.
    pub fn new() -> io::Result<UringReactor> {
        let (mut ring, buffers) = Ring::new()?;
        let waker = Arc::new(EventFd(eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?));
        ring.poll(waker.0.as_raw_fd(), libc::POLLIN, true, user(WAKER, 0))?;
        Ok(UringReactor {
            ring,
            buffers: Some(buffers),
            waker,
            listeners: Vec::new(),
            signals: Vec::new(),
            slots: Vec::new(),
            free: Vec::new(),
            tokens: Vec::new(),
            ready: Vec::new(),
            spares: Vec::new(),
            deadlines: VecDeque::new(),
            lingering: 0,
            done: Vec::new(),
        })
    }

    fn number(&self, token: Token) -> Option<u32> {
        self.tokens.get(token.0 as usize).copied().flatten()
    }

    fn list(&mut self, number: u32) {
        let slot = &mut self.slots[number as usize];
        if !slot.listed && slot.conn.as_ref().is_some_and(Conn::can_go_on) {
            slot.listed = true;
            self.ready.push(number);
        }
    }

    fn wait_limit(&mut self, wanted: Option<Duration>) -> Option<Duration> {
        let slots = &mut self.slots;
        self.ready.retain(|number| {
            let slot = &mut slots[*number as usize];
            slot.listed = slot.conn.as_ref().is_some_and(Conn::can_go_on);
            slot.listed
        });
        if !self.ready.is_empty() || self.listeners.iter().any(Listening::can_go_on) {
            return Some(Duration::ZERO);
        }
        let rests = self.listeners.iter().filter_map(Listening::rest_left).min();
        let deadline = self.deadlines.front().map(|(at, _)| at.saturating_duration_since(Instant::now()));
        [wanted, rests, deadline].into_iter().flatten().min()
    }

    /// Has a receive in flight if the connection wants one and nothing is left over.
    fn arm(&mut self, number: u32) {
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        if !matches!(conn.input, Input::Idle) || !conn.wants_input() {
            return;
        }
        match self.ring.receive(conn.fd(), user(RECEIVE, number as usize)) {
            Ok(()) => {
                conn.input = Input::Armed;
                conn.ops += 1;
            }
            Err(e) => conn.fail(&e),
        }
        self.list(number);
    }

    /// Asks to be told when something other than bytes happens: room to write, or the connection's breaking.
    fn watch(&mut self, number: u32, events: i16) {
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        match self.ring.poll(conn.fd(), events, false, user(WATCH, number as usize)) {
            Ok(()) => conn.ops += 1,
            Err(e) => conn.fail(&e),
        }
    }

    fn completed(&mut self, d: Done, events: &mut Vec<Event>) {
        let number = (d.user & ((1 << KIND_SHIFT) - 1)) as usize;
        match d.user >> KIND_SHIFT {
            WAKER => {
                let mut count = [0; 8];
                let _ = rustix::io::read(&self.waker.0, &mut count); // empty already: fine
                if !d.more() {
                    self.poll_again(self.waker.0.as_raw_fd(), d.user);
                }
            }
            LISTENER => {
                self.listeners[number].acceptable = true;
                let socket = self.listeners[number].socket().map(|l| l.as_raw_fd());
                if let Some(fd) = socket.filter(|_| !d.more()) {
                    self.poll_again(fd, d.user);
                }
            }
            SIGNAL => {
                let signal = Event::Signal(SignalId(number as u32));
                if !events.contains(&signal) {
                    events.push(signal);
                }
                if !d.more() {
                    self.poll_again(self.signals[number], d.user);
                }
            }
            RECEIVE => self.received(number as u32, d),
            SEND => self.sent(number as u32, d),
            // An event of the poll was on its way, and the poll goes on.
            UNWATCH if d.result == -libc::EALREADY => self.unwatch(number),
            UNWATCH => {}
            _ => self.watched(number as u32, d),
        }
    }

    /// The poll of a listener that was closed keeps its socket, though not its port, until it is taken back.
    fn unwatch(&mut self, number: usize) {
        if let Err(e) = self.ring.unpoll(user(LISTENER, number), user(UNWATCH, number)) {
            tracing::error!(error = %e, "io_uring takes no operations; the socket of a closed listener is kept");
        }
    }

    fn poll_again(&mut self, fd: RawFd, user: u64) {
        if let Err(e) = self.ring.poll(fd, libc::POLLIN, true, user) {
            tracing::error!(error = %e, "io_uring takes no operations; a descriptor is no longer watched");
        }
    }

    fn received(&mut self, number: u32, d: Done) {
        self.ring.receives -= 1;
        let Some(buffers) = &mut self.buffers else { return };
        // SAFETY: each completion comes through here once.
        let held = d.buffer().map(|id| unsafe { buffers.hold(id, d.result.max(0) as usize) });
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        conn.ops -= 1;
        conn.input = match (d.result, held) {
            (1.., Some(held)) if conn.closing != Closing::No => {
                conn.linger_bytes_left = conn.linger_bytes_left.saturating_sub(held.len());
                buffers.give_back(held);
                if conn.linger_bytes_left == 0 { Input::Ended } else { Input::Idle }
            }
            (1.., Some(held)) if !conn.wants_read => {
                let aside = buffers.bytes(&held).to_vec();
                buffers.give_back(held);
                Input::Aside(aside, 0)
            }
            (1.., Some(held)) => Input::Held(held),
            (result, held) => {
                if let Some(held) = held {
                    buffers.give_back(held);
                }
                match -result {
                    0 => Input::End,
                    libc::ENOBUFS => Input::Direct,
                    libc::EINTR | libc::EAGAIN | libc::ECANCELED => Input::Idle,
                    error => {
                        conn.fail(&io::Error::from_raw_os_error(error));
                        Input::Ended
                    }
                }
            }
        };
        self.arm(number);
        self.list(number);
        self.close_on(number);
    }

    fn sent(&mut self, number: u32, d: Done) {
        self.ring.sends -= 1;
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        conn.ops -= 1;
        if d.result < 0 {
            conn.fail(&io::Error::from_raw_os_error(-d.result));
        }
        conn.sent_upto += d.result.max(0) as usize;
        if conn.error.is_none() && conn.sent_upto < conn.sending.len() && conn.closing != Closing::Dead {
            let rest = &conn.sending[conn.sent_upto..];
            // SAFETY: `sending` is not touched until the send completes.
            match unsafe { self.ring.send(conn.fd(), rest, d.user) } {
                Ok(()) => {
                    conn.ops += 1;
                    return;
                }
                Err(e) => conn.fail(&e),
            }
        }
        conn.send_in_flight = false;
        let mut spare = std::mem::take(&mut conn.sending);
        conn.sent_upto = 0;
        if self.spares.len() < SPARES {
            spare.clear();
            self.spares.push(spare);
        }
        self.list(number);
        self.close_on(number);
    }

    fn watched(&mut self, number: u32, d: Done) {
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        conn.ops -= 1;
        conn.blocked = false;
        if d.result > 0 && d.result & i32::from(libc::POLLERR | libc::POLLHUP) != 0 {
            conn.fail(&conn.socket_error());
        }
        self.list(number);
        self.close_on(number);
    }

    /// Takes a closed connection one step further: its last send, its end, the peer's end, nothing in flight.
    fn close_on(&mut self, number: u32) {
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        let peer_ended = matches!(conn.input, Input::End | Input::Ended);
        if conn.closing == Closing::Flush && (!conn.send_in_flight || conn.error.is_some()) {
            conn.closing = Closing::Linger;
            if conn.error.is_none() && !peer_ended {
                conn.shut_writing();
            }
        }
        if conn.closing == Closing::Linger && (peer_ended || conn.error.is_some()) {
            conn.die();
            self.lingering -= 1;
        }
        if conn.closing == Closing::Dead && conn.ops == 0 {
            self.slots[number as usize].conn = None;
            self.free.push(number);
        }
    }

    /// Ends closed connections whose time is over. Reads no clock while there are none.
    fn end_overdue(&mut self) {
        while let Some(&(at, number)) = self.deadlines.front() {
            let lives = self.slots[number as usize].conn.as_ref().is_some_and(|c| c.deadline == Some(at));
            if lives && at > Instant::now() {
                return;
            }
            self.end_oldest();
        }
    }

    fn end_oldest(&mut self) {
        let Some((at, number)) = self.deadlines.pop_front() else { return };
        if let Some(conn) = &mut self.slots[number as usize].conn
            && conn.deadline == Some(at)
        {
            conn.die();
            self.lingering -= 1;
            self.close_on(number);
        }
    }

    /// Reads from the socket without the ring; `have` bytes of `into` are filled already.
    fn read_directly(conn: &mut Conn, into: &mut [u8], have: usize) -> io::Result<Received> {
        loop {
            match rustix::net::recv(&conn.stream, &mut into[have..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => {
                    conn.input = Input::End;
                    break;
                }
                Ok((n, _)) => {
                    conn.input = if have + n < into.len() { Input::Idle } else { Input::Direct };
                    return Ok(Received::Bytes(have + n));
                }
                Err(rustix::io::Errno::AGAIN) => {
                    conn.input = Input::Idle;
                    break;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => {
                    conn.input = Input::Ended;
                    conn.fail(&e.into());
                    break;
                }
            }
        }
        if have > 0 {
            return Ok(Received::Bytes(have));
        }
        match (&conn.error, &conn.input) {
            (Some(e), _) => Err(io::Error::from_raw_os_error(*e)),
            (None, Input::End) => {
                conn.input = Input::Ended;
                Ok(Received::End)
            }
            _ => Ok(Received::Nothing),
        }
    }

    fn take_input(buffers: &mut Buffers, conn: &mut Conn, into: &mut [u8]) -> io::Result<Received> {
        match std::mem::replace(&mut conn.input, Input::Idle) {
            Input::Held(mut held) => {
                let n = buffers.take(&mut held, into);
                if held.len() > 0 {
                    conn.input = Input::Held(held);
                    return Ok(Received::Bytes(n));
                }
                let more = held.was_full();
                buffers.give_back(held);
                if !more {
                    return Ok(Received::Bytes(n));
                }
                conn.input = Input::Direct;
                if n == into.len() {
                    return Ok(Received::Bytes(n));
                }
                Self::read_directly(conn, into, n)
            }
            Input::Aside(bytes, start) => {
                let n = into.len().min(bytes.len() - start);
                into[..n].copy_from_slice(&bytes[start..start + n]);
                conn.input = match bytes.len() {
                    len if start + n < len => Input::Aside(bytes, start + n),
                    BUFFER_BYTES => Input::Direct, // it filled a buffer, so there is probably more
                    _ => Input::Idle,
                };
                Ok(Received::Bytes(n))
            }
            Input::Direct => Self::read_directly(conn, into, 0),
            Input::End => {
                conn.input = Input::Ended;
                match conn.error {
                    Some(e) => Err(io::Error::from_raw_os_error(e)),
                    None => Ok(Received::End),
                }
            }
            other => {
                conn.input = other;
                match conn.error {
                    Some(e) => Err(io::Error::from_raw_os_error(e)),
                    None => Ok(Received::Nothing),
                }
            }
        }
    }
}

impl Reactor for UringReactor {
    fn add_listener(&mut self, listener: Listener) -> io::Result<ListenerId> {
        let mut l = Listening::new(listener);
        let number = self.listeners.len();
        if let Some(socket) = l.socket() {
            self.ring.poll(socket.as_raw_fd(), libc::POLLIN, true, user(LISTENER, number))?;
        }
        self.listeners.push(l);
        Ok(ListenerId(number as u32))
    }

    fn close_listener(&mut self, id: ListenerId) {
        let number = id.0 as usize;
        let Some(l) = self.listeners.get_mut(number) else { return };
        l.close();
        self.unwatch(number);
    }

    fn add_signal(&mut self, fd: BorrowedFd<'_>) -> io::Result<SignalId> {
        let number = self.signals.len();
        self.ring.poll(fd.as_raw_fd(), libc::POLLIN, true, user(SIGNAL, number))?;
        self.signals.push(fd.as_raw_fd());
        Ok(SignalId(number as u32))
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.waker.clone()
    }

    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        events.clear();
        let limit = self.wait_limit(timeout);
        if let Some(buffers) = &self.buffers {
            buffers.publish();
        }
        let mut done = std::mem::take(&mut self.done);
        let turned = self.ring.turn(limit, &mut done);
        for d in done.drain(..) {
            self.completed(d, events);
        }
        self.done = done;
        turned?;
        self.end_overdue();
        for (number, l) in self.listeners.iter_mut().enumerate() {
            l.end_rest();
            if l.can_go_on() {
                events.push(Event::Accept(ListenerId(number as u32)));
            }
        }
        for number in &self.ready {
            if let Some(conn) = &self.slots[*number as usize].conn
                && let Some(token) = conn.token
                && conn.can_go_on()
            {
                let (readable, writable) = (conn.can_read(), conn.can_write());
                events.push(Event::Ready { token, readable, writable });
            }
        }
        Ok(())
    }

    fn accept(&mut self, from: ListenerId) -> Option<Incoming> {
        self.listeners.get_mut(from.0 as usize)?.accept()
    }

    fn add(&mut self, token: Token, incoming: Incoming) -> io::Result<()> {
        let at = token.0 as usize;
        if self.tokens.len() <= at {
            self.tokens.resize(at + 1, None);
        }
        if self.tokens[at].is_some() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "the token names another connection"));
        }
        // The kernel completes an operation on a non-blocking socket at once, ready or not.
        rustix::io::ioctl_fionbio(&incoming.stream, false)?;
        let number = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() as u32 - 1
        });
        self.slots[number as usize].conn = Some(Conn::new(incoming.stream, token));
        self.tokens[at] = Some(number);
        self.arm(number);
        Ok(())
    }

    fn read(&mut self, token: Token, into: &mut [u8]) -> io::Result<Received> {
        debug_assert!(!into.is_empty());
        let number = self.number(token).ok_or_else(no_such_token)?;
        let (Some(conn), Some(buffers)) = (&mut self.slots[number as usize].conn, &mut self.buffers) else {
            return Err(no_such_token());
        };
        let read = Self::take_input(buffers, conn, into);
        if matches!(read, Ok(Received::End)) {
            // No receive is in flight from now on, so a reset would go unnoticed.
            self.watch(number, 0);
        }
        self.arm(number);
        self.list(number);
        read
    }

    fn write(&mut self, token: Token, bytes: &[u8]) -> io::Result<usize> {
        let number = self.number(token).ok_or_else(no_such_token)?;
        let Some(conn) = &mut self.slots[number as usize].conn else { return Err(no_such_token()) };
        if let Some(e) = conn.error {
            return Err(io::Error::from_raw_os_error(e));
        }
        if bytes.is_empty() || conn.send_in_flight || conn.blocked {
            return Ok(0);
        }
        if bytes.len() <= RING_SEND_BYTES {
            conn.sending = self.spares.pop().unwrap_or_default();
            conn.sending.extend_from_slice(bytes);
            // SAFETY: `sending` is not touched until the send completes; `Drop` waits for that, or leaks it.
            unsafe { self.ring.send(conn.fd(), &conn.sending, user(SEND, number as usize))? };
            conn.send_in_flight = true;
            conn.ops += 1;
            return Ok(bytes.len());
        }
        loop {
            let n = match rustix::net::send(&conn.stream, bytes, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(n) => n,
                Err(rustix::io::Errno::AGAIN) => 0,
                Err(rustix::io::Errno::INTR) => continue,
                Err(e) => return Err(e.into()),
            };
            if n < bytes.len() {
                conn.blocked = true;
                self.watch(number, libc::POLLOUT);
            }
            return Ok(n);
        }
    }

    fn set_read_interest(&mut self, token: Token, on: bool) {
        let Some(number) = self.number(token) else { return };
        if let Some(conn) = &mut self.slots[number as usize].conn {
            conn.wants_read = on;
            let input = std::mem::replace(&mut conn.input, Input::Idle);
            conn.input = match (input, &mut self.buffers) {
                (Input::Held(held), Some(buffers)) if !on => {
                    let aside = buffers.bytes(&held).to_vec();
                    buffers.give_back(held);
                    Input::Aside(aside, 0)
                }
                (input, _) => input,
            };
        }
        self.arm(number);
        self.list(number);
    }

    fn set_write_interest(&mut self, token: Token, on: bool) {
        let Some(number) = self.number(token) else { return };
        if let Some(conn) = &mut self.slots[number as usize].conn {
            conn.wants_write = on;
        }
        self.list(number);
    }

    fn close(&mut self, token: Token, how: Close) {
        let Some(number) = self.number(token) else { return };
        self.tokens[token.0 as usize] = None;
        let Some(conn) = &mut self.slots[number as usize].conn else { return };
        conn.token = None;
        let left_over = std::mem::replace(&mut conn.input, Input::Idle);
        conn.input = match left_over {
            Input::Held(held) => {
                if let Some(buffers) = &mut self.buffers {
                    buffers.give_back(held);
                }
                Input::Idle
            }
            Input::Aside(..) | Input::Direct => Input::Idle,
            other => other,
        };
        if how == Close::Now {
            conn.die();
        } else {
            conn.closing = Closing::Flush;
            conn.linger_bytes_left = LINGER_BYTES;
            let deadline = Instant::now() + LINGER_TIME;
            conn.deadline = Some(deadline);
            self.lingering += 1;
            self.deadlines.push_back((deadline, number));
            self.arm(number);
        }
        self.close_on(number);
        while self.lingering > LINGER_CONNECTIONS || self.deadlines.len() > LINGER_DEADLINES {
            self.end_oldest();
        }
    }
}

impl Drop for UringReactor {
    fn drop(&mut self) {
        // What was written and not submitted yet still goes out, as it does with a reactor that writes at once.
        let mut events = Vec::new();
        let _ = self.poll(Some(Duration::ZERO), &mut events);
        for conn in self.slots.iter_mut().filter_map(|s| s.conn.as_mut()) {
            conn.shut_both();
        }
        let settled = self.ring.settle(|ring, d| match d.user >> KIND_SHIFT {
            RECEIVE => ring.receives -= 1,
            SEND => ring.sends -= 1,
            _ => {}
        });
        if settled {
            return;
        }
        // Never seen; if it happens, memory that the kernel may still read or write must not be used again.
        tracing::error!("io_uring operations are still in flight; leaking their buffers");
        for conn in self.slots.iter_mut().filter_map(|s| s.conn.as_mut()) {
            std::mem::take(&mut conn.sending).leak();
        }
        if let Some(buffers) = self.buffers.take() {
            buffers.leak();
        }
    }
}
