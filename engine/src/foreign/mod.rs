//! ZooKeeper's own formats on disk and in a SNAP stream, in both directions (fact sheet 8.4, 10.3).
//!
//! Lives here: the body of a snapshot and the file around it ([`snapshot`]), transaction logs ([`log`]), the checksum
//! of both. Not here: files, directories, compression (`net::migrate`); what transactions mean (`txn`, `pipeline`);
//! whether parents precede children and paths are unique, which whoever builds a tree learns from it
//! ([`crate::tree::Writer::load_node`]).
//! Invariants:
//! - no length is believed before it was compared with a bound, and nothing is reserved for one;
//! - what is written is what Apache ZooKeeper 3.8.0 writes for the same state, byte by byte.

mod adler;
mod cursor;
pub mod log;
pub mod snapshot;

pub use adler::Adler32;

/// What one field, one list or one whole stream may take. Beyond it the input is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Longest path, data, transaction or ACL string, bytes.
    pub field_bytes: usize,
    /// All ACLs of a snapshot together, bytes as encoded: they are kept in memory while nodes are read.
    pub acl_bytes: usize,
    /// Everything, bytes.
    pub total_bytes: u64,
}

impl Default for Bounds {
    /// Fields up to the longest record of a log (256 MiB), 256 MiB of ACLs, no bound on the whole.
    fn default() -> Bounds {
        Bounds { field_bytes: 256 << 20, acl_bytes: 256 << 20, total_bytes: u64::MAX }
    }
}
