//! What ZooKeeper *is*: records, tree, sessions, watches, ACLs, the write pipeline, and the shard's turn.
//!
//! Deterministic and sans-io: no file, no socket, no clock, no thread, no randomness that is not passed in.
//! Modules depend upward only: `ids time error limits` < `proto` < `txn` < `tree` < `watch`; `session` uses ids and
//! time; `pipeline` uses txn, tree and session; `shard` and `server` sit on top. `tests/layers.rs` keeps the arrows.

pub mod acl;
pub mod error;
pub mod foreign;
pub mod ids;
pub mod limits;
pub mod msg;
pub mod path;
pub mod pipeline;
pub mod proto;
pub mod server;
pub mod session;
pub mod shard;
pub mod snapshot;
pub mod time;
pub mod tree;
pub mod txn;
pub mod watch;
pub mod zab;
