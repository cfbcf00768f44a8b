//! What is asked of the target: operations, their mix, the keys they touch, the bytes that ask for them.
//!
//! Not here: when a request is sent (`drive`), sockets (`client`), results (`record`).
//! Invariant: everything is drawn from a seed that is passed in, so a run can be repeated.

mod keys;
mod mix;
mod requests;
mod rng;
mod source;

pub use keys::{Distribution, KeyPicker};
pub use mix::{Mix, MixError, Operation};
pub use requests::{AclChoice, Layout, Requests};
pub use rng::Rng;
pub use source::{Created, Finite, Job, Mixed, Source, Task};
