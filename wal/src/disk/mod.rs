//! The only door to storage: the `Disk` trait, and the real disk behind it.
//!
//! Not here: what the bytes mean. The faulty disk for tests is `crate::testing`.
//! Invariants: `Disk` is object-safe; no method retries a failed sync; nothing is ever written through a map.
//! Unsafe code of this crate lives in `real` (and in `crate::uring`), nowhere else.

mod real;

use std::fmt::Debug;
use std::io;
use std::ops::Deref;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use real::RealDisk;

/// How a file is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// An existing file, for reading (and syncing, shortening).
    Read,
    /// A new file, replacing one of that name; `write_at` leaves bytes unsynced.
    Create,
    /// An existing file whose `write_at` returns only when the bytes are durable. Offsets, lengths and addresses
    /// of writes are multiples of 4096.
    Log,
}

/// Keeps a directory locked until dropped.
pub trait Lock: Send + Sync + Debug {}

/// A store of files: the real one or a faulty one.
pub trait Disk: Send + Sync + Debug {
    /// Makes `dir` and what is missing above it, durably.
    fn create_dir_all(&self, dir: &Path) -> io::Result<()>;
    /// Names of the entries of `dir`, unsorted.
    fn list(&self, dir: &Path) -> io::Result<Vec<String>>;
    /// Opens a file.
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>>;
    /// Makes a file of `bytes` written zeros, replacing one of that name. Contents are synced, the name is not.
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<()>;
    /// Renames within a directory, replacing the target.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Makes names created, renamed and removed in `dir` so far durable.
    fn sync_dir(&self, dir: &Path) -> io::Result<()>;
    /// Locks the file `path` (made if missing) against every other opener; `None` if it is locked already.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>>;
    /// 64 bits that were never returned before.
    fn fresh_id(&self) -> io::Result<u64>;
    /// One line to log if this disk works in a lesser way than it could (no direct I/O).
    fn notice(&self) -> Option<String> {
        None
    }
}

/// An open file. All offsets are explicit; handles are shared between threads.
#[allow(clippy::len_without_is_empty)]
pub trait DiskFile: Send + Sync + Debug {
    /// Length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Reads as much of `buf` as the file has at `offset`; returns the number of bytes.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`; durable on return for `How::Log`, unsynced otherwise.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Makes contents and length durable. After an error nothing is known: never call it again to find out.
    fn sync(&self) -> io::Result<()>;
    /// Sets the length.
    fn set_len(&self, bytes: u64) -> io::Result<()>;
    /// Reserves room so that the file can grow to `bytes` without running out of space.
    fn preallocate(&self, bytes: u64) -> io::Result<()>;
    /// Forgets cached clean bytes, so that the next read shows what the disk holds. Best effort.
    fn drop_cache(&self) {}
    /// The whole file as memory, read only; `None` where files cannot be mapped.
    fn map(&self) -> io::Result<Option<Mapped>> {
        Ok(None)
    }
    /// A descriptor for asynchronous writes with the promise of `How::Log`, where there is one.
    fn direct_fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A mapped file. Read only; whoever made it keeps the file from being shortened (FORMAT.md: snapshots are only
/// ever unlinked).
#[derive(Debug)]
pub struct Mapped(pub(crate) memmap2::Mmap);

impl Deref for Mapped {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        &self.0
    }
}

/// `path` with `.tmp` added to its name.
pub(crate) fn tmp_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    PathBuf::from(name)
}
