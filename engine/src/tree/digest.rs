//! ZooKeeper's tree digest, version 2 (fact sheet 10.2).
//!
//! Not here: when it is computed (`writer`).
//! Invariant: the tree's digest is the wrapping sum of its nodes' digests, so a change adds the difference.

use super::NodeView;
use super::stat::StatPersisted;

/// The version that transactions carry beside a digest of this kind.
pub const VERSION: i32 = 2;

/// Where a tree's digest comes from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestMode {
    /// Every change digests the nodes it touches, before and after: about 150 ns for a create.
    Computed,
    /// The digest is what the caller adopts: the one that the leader put beside the transaction, or none at all.
    Adopted,
}

/// Whether a node counts at all: whatever lies under `/zookeeper/` does not.
pub fn counts(path: &str) -> bool {
    !path.starts_with("/zookeeper/")
}

/// The part of a node's digest that its path and data decide; `path` is "" or "/" for the root. [`finish`] goes on
/// from it, so that a change of the status alone need not touch the data.
pub fn content(path: &str, data: Option<&[u8]>) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(if path == "/" { b"" } else { path.as_bytes() });
    crc.update(data.unwrap_or_default());
    crc.finalize()
}

/// A node's digest, from what [`content`] gave and its status.
pub fn finish(content: u32, stat: &StatPersisted) -> u32 {
    let mut crc = crc32fast::Hasher::new_with_initial(content);
    crc.update(&in_digest_order(stat));
    crc.finalize()
}

/// One node's digest. `path` is "" for the root. 0 for whatever lies under `/zookeeper/`.
pub fn node(path: &str, data: Option<&[u8]>, stat: &StatPersisted) -> u32 {
    if counts(path) { finish(content(path, data), stat) } else { 0 }
}

/// The same 60 bytes as on disk, in another order.
fn in_digest_order(s: &StatPersisted) -> [u8; StatPersisted::BYTES] {
    let mut b = [0; StatPersisted::BYTES];
    b[0..8].copy_from_slice(&s.czxid.0.to_be_bytes());
    b[8..16].copy_from_slice(&s.mzxid.0.to_be_bytes());
    b[16..24].copy_from_slice(&s.pzxid.0.to_be_bytes());
    b[24..32].copy_from_slice(&s.ctime.to_be_bytes());
    b[32..40].copy_from_slice(&s.mtime.to_be_bytes());
    b[40..44].copy_from_slice(&s.version.to_be_bytes());
    b[44..48].copy_from_slice(&s.cversion.to_be_bytes());
    b[48..52].copy_from_slice(&s.aversion.to_be_bytes());
    b[52..60].copy_from_slice(&s.ephemeral_owner.to_be_bytes());
    b
}

/// The digest of a node as a view shows it.
pub(super) fn of_view(path: &str, view: &NodeView<'_>) -> u64 {
    u64::from(node(path, view.data(), &view.stat_persisted()))
}
