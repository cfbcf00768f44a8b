//! The tree of znodes: one writer, many readers at their own horizons, no locks (engine/DESIGN.md sections 1 to 3).
//!
//! Not here: who may do what (`crate::acl`), what is proposed but not committed (`pipeline`), sessions and their
//! ephemerals, watches, quotas. All unsafe code is in `concurrent`; the rest of this module is safe.
//!
//! Invariants:
//! - only committed transactions are applied, in zxid order, by the one [`Writer`];
//! - what a [`View`] shows is exactly the state at its horizon, however far the writer has got;
//! - a reader takes no lock, waits for nobody and writes to no cache line that another thread writes.
//!
//! ```
//! use engine::ids::Zxid;
//! let (mut writer, handle) = engine::tree::new(42, 4);
//! let mut reader = handle.reader().unwrap();
//! writer.create(Zxid(1), "/a", Some(b"x"), &[engine::proto::Acl::open()], 0, 1000, None).unwrap();
//! writer.publish(Zxid(1)); // after the change ring's own release
//! let h = reader.begin_turn(Zxid::ZERO); // then load the ring's end, and read there
//! assert_eq!(reader.at(h).get("/a").unwrap().data(), Some(&b"x"[..]));
//! reader.rest();
//! ```

mod acl;
mod concurrent;
pub mod digest;
mod hash;
mod stat;
mod writer;

pub use acl::AclId;
pub use concurrent::{ChildViews, Collected, Handle, NodeView, Reader, View, Walker};
pub use digest::DigestMode;
pub use hash::PathHash;
pub use stat::{Kind, StatPersisted};
pub use writer::{ApplyError, Changed, Created, Deleted, NewNode, Writer};

/// A tree as an empty server has it: the root, `/zookeeper`, `/zookeeper/quota` and `/zookeeper/config`.
///
/// `seed` keeps the index's hash secret: random per process, except in tests. `readers_max`: readers and walkers at a
/// time; each costs 128 bytes and a look per collection.
pub fn new(seed: u64, readers_max: usize) -> (Writer, Handle) {
    let (mut writer, handle) = new_bare(seed, readers_max);
    writer.ensure_builtins();
    (writer, handle)
}

/// A tree of a root alone: to load a snapshot into, and then [`Writer::ensure_builtins`].
pub fn new_bare(seed: u64, readers_max: usize) -> (Writer, Handle) {
    let writer = Writer::new(seed, readers_max);
    let handle = writer.handle();
    (writer, handle)
}
