//! When requests are sent: phases, closed and open loops, the threads that run them.
//!
//! Not here: what is sent (`workload`), sockets (`client`), what is made of it (`report`).
//! Invariants: an open loop counts from the planned moment; a request that the target had no room for is counted as
//! held back, not as late; what has no reply when a phase ends is counted as such.

mod plan;
mod setup;
mod team;
mod window;

pub use plan::{Arrival, Plan};
pub use setup::{SetupResult, run_setup};
pub use team::{Command, Report, Team};
pub use window::{Pace, WindowPlan, WindowResult, run_window};

/// A session with this many unsent bytes is given no further request: the socket is what is waited for then.
const UNSENT_BYTES_MAX: usize = 256 << 10;
