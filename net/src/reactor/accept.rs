//! Taking connections from a listener: what the reactors have in common.
//!
//! Not here: how a listener's readiness is learned (the reactors), how it is made (`listen`).
//! Invariants:
//! - `acceptable` is cleared only when the listener was found empty;
//! - a shortage of descriptors or memory makes the listener rest; it is logged once a minute at most;
//! - the last descriptors are never a client's: the log needs one for its next segment, and without it the server ends.

use super::{Incoming, Listener};
use mio::net::TcpListener;
use rustix::process::{Resource, getrlimit};
use socket2::SockRef;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// How long a listener rests when the process has run out of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);
/// Between two lines of the log about it.
const COMPLAINT_EVERY: Duration = Duration::from_secs(60);
/// Descriptors that are kept for the log, snapshots and the other servers; a quarter of all where there are few.
const SPARE_MAX: u64 = 64;
/// Broken connections that one call passes over.
const BROKEN_MAX: usize = 64;

/// A listener and what is known of it.
pub(super) struct Listening {
    /// `None`: it was closed; its number is not given out again.
    listener: Option<TcpListener>,
    /// Connections may wait.
    pub(super) acceptable: bool,
    rests_until: Option<Instant>,
    complained: Option<Instant>,
}

impl Listening {
    pub(super) fn new(listener: Listener) -> Listening {
        let listener = Some(TcpListener::from_std(listener.0.into()));
        Listening { listener, acceptable: false, rests_until: None, complained: None }
    }

    /// Whether it is worth trying now.
    pub(super) fn can_go_on(&self) -> bool {
        self.acceptable && self.rests_until.is_none() && self.listener.is_some()
    }

    /// The socket, to be watched.
    pub(super) fn socket(&mut self) -> Option<&mut TcpListener> {
        self.listener.as_mut()
    }

    /// Takes nobody any more. Whoever waits and was not accepted is refused.
    pub(super) fn close(&mut self) {
        if let Some(listener) = &self.listener {
            // Whoever else holds the socket, such as a poll that is still under way: it listens no longer.
            let _was_none = SockRef::from(listener).shutdown(Shutdown::Read);
        }
        (self.listener, self.rests_until, self.acceptable) = (None, None, false);
    }

    /// How long it still rests; reads no clock if it does not.
    pub(super) fn rest_left(&self) -> Option<Duration> {
        self.rests_until.map(|until| until.saturating_duration_since(Instant::now()))
    }

    /// Ends a rest that has lasted long enough.
    pub(super) fn end_rest(&mut self) {
        if self.rest_left() == Some(Duration::ZERO) {
            self.rests_until = None;
        }
    }

    /// See [`super::Reactor::accept`].
    pub(super) fn accept(&mut self) -> Option<Incoming> {
        if self.rests_until.is_some() {
            return None;
        }
        let listener = self.listener.as_ref()?;
        for _ in 0..BROKEN_MAX {
            match listener.accept() {
                Ok((stream, _)) if is_spare(stream.as_raw_fd()) => {
                    drop(stream);
                    self.rest("the last descriptors are kept for the log and the other servers");
                    return None;
                }
                Ok((stream, peer)) => return Some(Incoming::new(stream, peer)),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    self.acceptable = false;
                    return None;
                }
                Err(e) if is_shortage(&e) => {
                    self.rest(&e.to_string());
                    return None;
                }
                // Interrupted, or an error of the connection that was about to be accepted.
                Err(_) => {}
            }
        }
        None
    }

    fn rest(&mut self, why: &str) {
        let now = Instant::now();
        self.rests_until = Some(now + PAUSE);
        if self.complained.is_none_or(|at| now.duration_since(at) >= COMPLAINT_EVERY) {
            self.complained = Some(now);
            tracing::error!(
                error = why,
                "cannot accept connections; trying on. Close some, or raise the limit (ulimit -n)"
            );
        }
    }
}

/// Whether a descriptor is one of the last that the process may have. The kernel gives the lowest number that is free, so
/// a number near the limit says that all below are taken.
fn is_spare(fd: i32) -> bool {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    fd as u64 >= limit - SPARE_MAX.min(limit / 4)
}

/// Whether the process or the host lacks something, as opposed to one connection being broken.
fn is_shortage(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}
