//! Many sessions in one thread: waits for their sockets, reads, matches replies to requests, writes.
//!
//! Sockets are watched edge-triggered: a read goes on until it comes back short, a write until it would block; both
//! then wait for the next edge.

use super::session::{Pending, Session, put_close, xid_after};
use super::{Clock, Head};
use anyhow::Context;
use engine::proto::xid;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use std::io::{ErrorKind, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

/// Bytes that one read takes at most. Shared by all sessions of a hub, so that it stays in the cache.
const SCRATCH_BYTES: usize = 256 << 10;
/// Events that one wait takes at most.
const EVENTS: usize = 1024;
/// How often idle sessions are looked for.
const PING_CHECK_NS: u64 = 250_000_000;
/// The timer's token; sessions have their index.
const TIMER: Token = Token(usize::MAX);

/// What becomes of replies. Called from `Hub::turn`.
pub trait Sink {
    /// The reply to `pending` on session `index` has arrived whole.
    fn reply(&mut self, index: usize, pending: Pending, head: Head, now: u64);
    /// A watch event has arrived on session `index`.
    fn event(&mut self, index: usize, now: u64);
    /// All that could be read of the session has been; it may be given more to send, which is then flushed.
    fn refill(&mut self, session: &mut Session);
    /// The session's connection is gone; `pending` holds what it still owed.
    fn lost(&mut self, session: &mut Session, why: &str);
}

/// The sessions of one thread.
#[derive(Debug)]
pub struct Hub {
    poll: Poll,
    events: Events,
    timer: OwnedFd,
    scratch: Box<[u8]>,
    clock: Clock,
    /// The sessions; a lost one keeps its place.
    pub sessions: Vec<Session>,
    lost: usize,
    next_ping_check: u64,
}

impl Hub {
    /// Takes charge of `sessions`.
    ///
    /// # Errors
    /// The system gives no poll, no timer, or will not watch a socket.
    pub fn new(mut sessions: Vec<Session>, clock: Clock) -> anyhow::Result<Hub> {
        let poll = Poll::new().context("no poll")?;
        for (i, s) in sessions.iter_mut().enumerate() {
            let interest = Interest::READABLE | Interest::WRITABLE;
            poll.registry().register(&mut s.stream, Token(i), interest).context("cannot watch a socket")?;
        }
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).context("no timer")?;
        poll.registry().register(&mut SourceFd(&timer.as_raw_fd()), TIMER, Interest::READABLE)?;
        Ok(Hub {
            poll,
            events: Events::with_capacity(EVENTS),
            timer,
            scratch: vec![0; SCRATCH_BYTES].into_boxed_slice(),
            clock,
            sessions,
            lost: 0,
            next_ping_check: 0,
        })
    }

    /// The clock of the run.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Number of sessions whose connection stands.
    pub fn alive(&self) -> usize {
        self.sessions.len() - self.lost
    }

    /// Waits at most `wait` for anything, then reads and writes what is ready. Keeps idle sessions alive.
    ///
    /// # Errors
    /// The poll itself failed. Connections that fail are told to the sink.
    pub fn turn(&mut self, wait: Duration, sink: &mut impl Sink) -> anyhow::Result<()> {
        let timeout = self.arm(wait)?;
        match self.poll.poll(&mut self.events, timeout) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e).context("poll failed"),
            _ => {}
        }
        for event in &self.events {
            if event.token() == TIMER {
                // Level or edge, the count must be fetched, or the timer stays ready. It may have been re-armed.
                let _ = rustix::io::read(&self.timer, &mut [0u8; 8]);
                continue;
            }
            let index = event.token().0;
            let session = &mut self.sessions[index];
            if !session.alive {
                continue;
            }
            let mut served = Ok(());
            let ends = event.is_read_closed() || event.is_error();
            if event.is_readable() || ends {
                served = serve(session, index, ends, &mut self.scratch, self.clock, sink);
            }
            if let Err(why) = served.and_then(|()| flush(session, self.clock.now())) {
                self.lost += lose(session, sink, &why);
            }
        }
        self.ping_idle(sink);
        Ok(())
    }

    /// Sends what sessions have queued outside of `turn`.
    pub fn flush(&mut self, index: usize, sink: &mut impl Sink) {
        let session = &mut self.sessions[index];
        if session.alive
            && let Err(why) = flush(session, self.clock.now())
        {
            self.lost += lose(session, sink, &why);
        }
    }

    /// The timeout to poll with: waits below a few milliseconds are left to the timer, which is finer.
    fn arm(&mut self, wait: Duration) -> anyhow::Result<Option<Duration>> {
        if wait.is_zero() || wait.as_millis() >= 10 {
            return Ok(Some(wait));
        }
        let at = Itimerspec {
            it_interval: Timespec::default(),
            it_value: Timespec { tv_sec: 0, tv_nsec: i64::from(wait.subsec_nanos()) },
        };
        timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &at).context("cannot set the timer")?;
        Ok(Some(Duration::from_millis(10)))
    }

    /// Now and then: pings the sessions that have sent nothing for a third of their timeout.
    fn ping_idle(&mut self, sink: &mut impl Sink) {
        let now = self.clock.now();
        if now < self.next_ping_check {
            return;
        }
        self.next_ping_check = now + PING_CHECK_NS;
        for session in self.sessions.iter_mut().filter(|s| s.alive) {
            let idle_ms = now.saturating_sub(session.last_sent) / 1_000_000;
            if idle_ms > u64::from(session.timeout_ms) / 3 && session.unsent() == 0 {
                session.queue_ping();
                if let Err(why) = flush(session, now) {
                    self.lost += lose(session, sink, &why);
                }
            }
        }
    }

    /// Ends all sessions: asks for it, then waits until the servers have closed the connections or `wait` is over.
    pub fn close(mut self, wait: Duration) {
        let deadline = self.clock.now() + wait.as_nanos() as u64;
        let mut sink = Closing;
        for index in 0..self.sessions.len() {
            let now = self.clock.now();
            self.sessions[index].queue_frame(crate::workload::Job::Forgotten, now, put_close);
            self.flush(index, &mut sink);
        }
        while self.alive() > 0 && self.clock.now() < deadline {
            if self.turn(Duration::from_millis(50), &mut sink).is_err() {
                return;
            }
        }
    }
}

/// Reads until the socket has no more, and hands on what came. `ends`: the peer has closed, no edge will follow.
fn serve(
    session: &mut Session,
    index: usize,
    ends: bool,
    scratch: &mut [u8],
    clock: Clock,
    sink: &mut impl Sink,
) -> Result<(), String> {
    loop {
        let n = match session.stream.read(scratch) {
            Ok(0) => return Err("the server closed the connection".to_owned()),
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::WouldBlock => break,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e.to_string()),
        };
        let now = clock.now();
        let Session { reader, pending, reply_xid, .. } = &mut *session;
        let mut stray = None;
        let fed = reader.feed(&scratch[..n], |head| {
            if head.xid == *reply_xid
                && let Some(answered) = pending.pop_front()
            {
                *reply_xid = xid_after(*reply_xid);
                sink.reply(index, answered, head, now);
            } else if head.xid == xid::WATCH_EVENT {
                sink.event(index, now);
            } else if head.xid != xid::PING {
                stray = stray.or(Some(head.xid));
            }
        });
        fed.map_err(|e| e.to_string())?;
        if let Some(xid) = stray {
            return Err(format!("a reply with xid {xid} where {} was due", session.reply_xid));
        }
        if n < scratch.len() && !ends {
            break;
        }
    }
    sink.refill(session);
    Ok(())
}

fn flush(session: &mut Session, now: u64) -> Result<(), String> {
    session.flush(now).map_err(|e| e.to_string())
}

/// Marks a session lost; returns how many were lost by that (one).
fn lose(session: &mut Session, sink: &mut impl Sink, why: &str) -> usize {
    session.alive = false;
    sink.lost(session, why);
    session.pending.clear();
    // The socket stays registered until the hub is dropped; without its peer it only reports itself closed.
    let _ = session.stream.shutdown(std::net::Shutdown::Both);
    1
}

/// Waits for the end of the sessions; nothing matters any more.
struct Closing;

impl Sink for Closing {
    fn reply(&mut self, _: usize, _: Pending, _: Head, _: u64) {}
    fn event(&mut self, _: usize, _: u64) {}
    fn refill(&mut self, _: &mut Session) {}
    fn lost(&mut self, _: &mut Session, _: &str) {}
}
