//! The roads between threads: requests from a shard to the core, change batches from the core to every shard, and
//! how a thread sleeps without missing what arrives on them.
//!
//! Not here: what the messages mean (`engine::msg`), who polls which ring when (the loops), sockets (`reactor`).
//! Invariants:
//! - no call of this module blocks or spins: a full ring gives the message back, an empty one says so;
//! - one ring is FIFO, reserved messages included;
//! - a message is visible to the other side by one Release store, read by one Acquire load;
//! - a batch is freed by its publisher alone, and only when every subscriber has passed it;
//! - a thread that announced its sleep is woken by whoever adds work after it looked ([`Sleeper`]).
//!
//! This module is one of the islands in which unsafe code is allowed. It is shown right by loom
//! (`RUSTFLAGS="--cfg loom" cargo test -p net --release --lib ring::`) and by stress tests on rings of one slot, which
//! also run under Miri (`cargo +nightly miri test -p net --lib ring::`).
#![allow(unsafe_code)]

mod changes;
mod primitive;
mod requests;
mod sleep;

#[cfg(all(test, loom))]
mod loom_tests;
#[cfg(all(test, not(loom)))]
mod tests;

pub use changes::{Publisher, Subscriber, changes};
pub use requests::{Consumer, Producer, requests};
pub use sleep::{Bell, Nap, Sleeper, Wake, ring_those, sleeper};

use engine::msg::{CoreLink, ToCore};

impl CoreLink for Producer<ToCore> {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        self.try_push(m)
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.push_reserved(m);
    }
}
