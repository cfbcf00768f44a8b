//! The only place of this crate's server that reads a clock.

use engine::time::{MonoMs, Now, WallMs};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Tells the time; shared by every thread of a server, so that their `MonoMs` compare.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at a positive moment, so that deadlines can be compared with "never heard".
    pub fn new() -> Clock {
        Clock { start: Instant::now() }
    }
    /// This moment on both clocks.
    pub fn now(&self) -> Now {
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64);
        Now { mono: self.mono(), wall: WallMs(wall) }
    }
    /// Milliseconds since the start, plus one.
    pub fn mono(&self) -> MonoMs {
        MonoMs(self.start.elapsed().as_millis() as u64 + 1)
    }
}

impl Default for Clock {
    fn default() -> Self {
        Clock::new()
    }
}
