//! Bytes that survive: the write-ahead log, snapshot files, and small files that are replaced as a whole.
//!
//! Payloads are opaque and positions are this crate's own; nothing of ZooKeeper is known here. The bytes on disk are
//! drawn in `FORMAT.md`. All I/O goes through [`disk::Disk`]: [`disk::RealDisk`], or [`testing::FaultyDisk`] whose
//! power can be cut.
//!
//! The way of a start:
//! 1. [`DataDir::open`] locks and checks the directory;
//! 2. [`snapshot::newest`] finds what to load;
//! 3. [`Log::open_of`] with that snapshot's position checks that it is this directory's log, recovers it, seals it, and
//!    tells what it found;
//! 4. [`Log::replay`] delivers the records behind the snapshot.
//!
//! A directory that is filled from another server's data is opened with [`DataDir::begin_import`] instead, gets a
//! snapshot, and is declared whole by [`DataDir::complete_import`].
//!
//! Then one thread gathers records in a [`Group`] and calls [`Log::write`], which returns when they are durable; while
//! it is in there, the next `Group` fills elsewhere. A single-threaded server uses [`Log::submit`] and
//! [`Log::complete`] instead (io_uring, told by an eventfd), where [`Log::enable_submit`] says that it can. Dropping
//! records is never an operation of the log: what a caller takes back (a TRUNC), it says in a further record.
//!
//! Threads: `Log` has one of its own, `wal-keeper`, which prepares segments and purges, unless `Options::background`
//! is off. After [`snapshot::retain`], [`Log::purge`] lets go of what no kept snapshot needs.
//!
//! Invariants: nothing is reported durable before it is; what recovery cut or kept stays so; an unknown outcome
//! poisons; every buffer is bounded (a group by its limit and one record of at most 256 MiB).

mod dir;
pub mod disk;
mod error;
mod format;
mod group;
mod import;
pub mod inspect;
mod keeper;
mod log;
mod pair;
mod reader;
mod recover;
mod small;
pub mod snapshot;
pub mod testing;
mod uring;
mod window;

use std::fmt;

pub use dir::DataDir;
pub use error::{Stage, WalError};
pub use format::{BLOCK_BYTES, FORMAT_VERSION, GroupHeader, RECORD_BYTES_MAX, Seal, SegmentHeader};
pub use group::Group;
pub use import::Import;
pub use log::{Log, Options, RecoveryReport, Stats};
pub use reader::Reader;
pub use recover::Tail;
pub use small::{SMALL_FILE_BYTES_MAX, SmallFile};

/// Length of a segment unless told otherwise, in bytes.
pub const SEGMENT_BYTES_DEFAULT: u64 = 64 << 20;
/// A group calls itself full at this many bytes unless told otherwise.
pub const GROUP_BYTES_DEFAULT: usize = 8 << 20;

// A full group of the default size finds room in a fresh segment of the default size.
const _: () = assert!(SEGMENT_BYTES_DEFAULT >= 2 * GROUP_BYTES_DEFAULT as u64);
// Lengths of records and bodies are 32-bit fields.
const _: () = assert!(RECORD_BYTES_MAX as u64 + (1 << 30) + 8 < u32::MAX as u64);

/// The number of a record, counted from 0 over the life of a data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
