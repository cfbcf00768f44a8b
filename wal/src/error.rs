//! What can go wrong, told by who has to act next.
//!
//! Not here: retries (there are none after a failed write or sync, DESIGN section 7).
//! Invariant: a message is one line, names the file or directory, and says what to do.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Position;

/// What the log was doing when it was poisoned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// A group was being written and synced.
    Write,
    /// A small file (an epoch) was being replaced.
    SmallFile,
}

/// An error of this crate. Each variant is one kind of action for the caller.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WalError {
    /// Refused before any write; nothing acknowledged is at risk, the group is untouched. Free space, then retry.
    #[error("no space left in {dir}: {wanted_bytes} bytes are needed; free some and start again")]
    NoSpace {
        /// Bytes that could not be had.
        wanted_bytes: u64,
        /// The data directory.
        dir: PathBuf,
    },
    /// A write or sync failed: what reached the disk is unknown. Every later call refuses. Leave the quorum, end
    /// the process, look at the disk, open again.
    #[error(
        "the log is poisoned, a {stage:?} failed ({source}); nothing more is acknowledged: check the disk, then start again"
    )]
    Poisoned {
        /// Where it happened.
        stage: Stage,
        /// The first cause.
        source: Arc<io::Error>,
    },
    /// Damage below what was durable. Never truncated: acknowledged records may lie behind it.
    #[error(
        "{path} is damaged at byte {offset_bytes} (record {position}): {what}; nothing was changed: \
         restore the directory from a backup, or move it away and let the server re-sync from its ensemble"
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where in the file, in bytes.
        offset_bytes: u64,
        /// The record expected there.
        position: Position,
        /// What is wrong with it.
        what: String,
    },
    /// The directory was written by another version of the format.
    #[error(
        "{dir} holds data of format {found}, this server reads format {expected}: use the release that wrote it"
    )]
    OtherVersion {
        /// The data directory.
        dir: PathBuf,
        /// What its marker says.
        found: String,
        /// What this code writes.
        expected: u32,
    },
    /// The directory holds Apache ZooKeeper's files.
    #[error(
        "{dir} holds ZooKeeper's data (version-2): it is neither read nor written over; choose another data \
         directory, or import that data first (serval import)"
    )]
    ForeignData {
        /// The data directory.
        dir: PathBuf,
    },
    /// An import into the directory did not end.
    #[error(
        "an import into {dir} was interrupted: run it again, it begins anew; nothing is served from half of it"
    )]
    Unfinished {
        /// The data directory.
        dir: PathBuf,
    },
    /// The log is not the one that belongs to the data directory.
    #[error(
        "{dir} does not hold this server's log: {what}; nothing was changed. See that the log's directory is mounted and \
         that the configuration names it. If that log is lost, what this server has acknowledged is lost with \
         it: restore both directories from one backup, or move both away and let the server re-sync from its ensemble"
    )]
    OtherLog {
        /// Where the log was looked for.
        dir: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// The data directory is not the one that belonged to the log.
    #[error(
        "{dir} holds the log of another data directory than {data}, which is a new one. See that the data directory is \
         mounted and that the configuration names it. If it is lost, the epochs that this server has promised are lost with \
         it: restore both directories from one backup, or move both away and let the server re-sync from its ensemble"
    )]
    OtherData {
        /// Where the log is.
        dir: PathBuf,
        /// The data directory that does not know it.
        data: PathBuf,
    },
    /// Data may only be imported into a directory without any.
    #[error(
        "{dir} holds data of this server already ({name}): import into another directory, or move it away"
    )]
    NotEmpty {
        /// The data directory.
        dir: PathBuf,
        /// A file of it.
        name: String,
    },
    /// Another process uses the directory.
    #[error("{dir} is in use by another process: stop it, or choose another data directory")]
    Locked {
        /// The data directory.
        dir: PathBuf,
    },
    /// Missing rights, or a read-only file system.
    #[error("no permission for {path} ({source}): give the server's user read and write access to it")]
    Denied {
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
    /// A record above the format's bound; it was not added.
    #[error("a record of {bytes} bytes exceeds the log's limit of {max_bytes}: lower the request size limit")]
    TooLarge {
        /// Its length.
        bytes: u64,
        /// The bound.
        max_bytes: u64,
    },
    /// The records asked for are no longer in the log: take a snapshot instead.
    #[error("records from {wanted} were purged, the log starts at {oldest}: use a snapshot")]
    Purged {
        /// The first record asked for.
        wanted: Position,
        /// The oldest record there is.
        oldest: Position,
    },
    /// Any other failure, before or beside the log's own writes.
    #[error("cannot {doing} {path}: {source}")]
    Io {
        /// A verb.
        doing: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: Arc<io::Error>,
    },
}

impl WalError {
    /// An I/O error turned into the variant that says who acts.
    pub(crate) fn from_io(
        doing: &'static str,
        path: &Path,
        wanted_bytes: u64,
        source: io::Error,
    ) -> WalError {
        use io::ErrorKind as K;
        let path = path.to_path_buf();
        match source.kind() {
            K::StorageFull | K::QuotaExceeded => WalError::NoSpace { wanted_bytes, dir: path },
            K::PermissionDenied | K::ReadOnlyFilesystem => {
                WalError::Denied { path, source: Arc::new(source) }
            }
            _ => WalError::Io { doing, path, source: Arc::new(source) },
        }
    }
    /// Damage in a file.
    pub(crate) fn corrupt(
        path: &Path,
        offset_bytes: u64,
        position: Position,
        what: impl Into<String>,
    ) -> WalError {
        WalError::Corrupt { path: path.to_path_buf(), offset_bytes, position, what: what.into() }
    }
}

/// Names what was being done and to which file, for the error message.
pub(crate) trait During<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T, WalError>;
}

impl<T> During<T> for io::Result<T> {
    fn during(self, doing: &'static str, path: &Path) -> Result<T, WalError> {
        self.map_err(|e| WalError::from_io(doing, path, 0, e))
    }
}
