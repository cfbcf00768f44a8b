//! The client: sessions, frames, and a loop over many of them in one thread.
//!
//! Not here: what is asked (`workload`), when (`drive`), what is made of it (`record`).
//! Invariants: replies of a session are matched in request order and by xid; bodies are counted, not kept; a session
//! that breaks the protocol is dropped and counted, never repaired.

mod control;
mod frames;
mod hub;
mod session;

pub use control::Control;
pub use frames::{BadFrame, FrameReader, Head};
pub use hub::{Hub, Sink};
pub use session::{CannotConnect, Credential, Endpoint, Opening, Pending, Session, open_sessions};

use std::time::Instant;

/// Nanoseconds since the run began. All threads of a run share the origin, so their times compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    /// A clock that starts now.
    pub fn start() -> Clock {
        Clock { origin: Instant::now() }
    }
    /// Nanoseconds since the start.
    #[inline]
    pub fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }
    /// The moment it started.
    pub fn origin(&self) -> Instant {
        self.origin
    }
}
