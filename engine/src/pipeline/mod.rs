//! The write pipeline: requests become transactions ([`Prep`]), transactions change the state ([`Database`]).
//!
//! Not here: who may commit (`zab`), sessions' clocks (`session`), which connection waits for what (`server`).
//! Invariants:
//! - prep sees the tree plus everything proposed and not yet applied (its overlay), and never changes the tree;
//! - a transaction is applied from its encoded bytes only, and applying it twice changes nothing more;
//! - every request costs exactly one zxid, also when it fails.

mod apply;
mod overlay;
mod prep;
mod quota;
mod reply;

pub use apply::{Applied, Database, Notice, Origin};
pub use prep::{Ask, Plan, Prep, Proposed, makes_ephemeral};
