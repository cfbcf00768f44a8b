//! A member's own clocks: each begins anywhere, and runs a little too fast or too slow.

use engine::time::{MonoMs, Now, WallMs};

/// Parts of a million at which a clock runs right.
const RIGHT: u64 = 1_000_000;

/// See the module.
#[derive(Clone, Debug)]
pub struct NodeClock {
    pub mono_base_ms: u64,
    pub wall_base_ms: i64,
    /// Millionths of true time.
    pub rate: u64,
}

impl NodeClock {
    /// What the member reads at a moment of virtual time.
    pub fn now(&self, at_us: u64) -> Now {
        let gone_ms = self.scaled(at_us) / 1000;
        Now { mono: MonoMs(self.mono_base_ms + gone_ms), wall: WallMs(self.wall_base_ms + gone_ms as i64) }
    }
    fn scaled(&self, at_us: u64) -> u64 {
        (u128::from(at_us) * u128::from(self.rate) / u128::from(RIGHT)) as u64
    }
    /// The first moment of virtual time at which it reads `due`.
    pub fn when_us(&self, due: MonoMs) -> u64 {
        let gone_us = due.0.saturating_sub(self.mono_base_ms).saturating_mul(1000);
        (u128::from(gone_us) * u128::from(RIGHT) / u128::from(self.rate)) as u64 + 1
    }
}
