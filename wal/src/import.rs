//! The mark of an import: whether a directory that is being filled from another server's data is complete.
//!
//! Not here: what is imported, and from where.
//! Invariant: from `begin_import` to `complete_import` no server can open the directory, however often either is cut
//! off; an import that begins again finds nothing of the one before.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Position;
use crate::dir::{DataDir, ZOOKEEPER, read_small, segment_number};
use crate::disk::{Disk, How};
use crate::error::{During, WalError};
use crate::small::{self, SMALL_FILE_BYTES_MAX};
use crate::snapshot;

/// The small file that holds the mark.
const MARK: &str = "import";
const BEGUN: &[u8] = b"begun\n";
const COMPLETE: &[u8] = b"complete\n";

/// What became of the import into a directory.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Import {
    /// There was none.
    Never,
    /// It was begun and did not end.
    Begun,
    /// It is complete; with the note that was left.
    Complete(String),
}

/// The mark in `dir`, whose entries are `names`.
fn read(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<Import, WalError> {
    if !names.iter().any(|n| n == MARK) {
        return Ok(Import::Never);
    }
    let path = dir.join(MARK);
    let file = disk.open(&path, How::Read).during("open", &path)?;
    let bytes = read_small(&*file, 2 * SMALL_FILE_BYTES_MAX).during("read", &path)?;
    let contents = small::decode(&bytes);
    match contents.and_then(|c| c.strip_prefix(COMPLETE)) {
        Some(note) => Ok(Import::Complete(String::from_utf8_lossy(note).into_owned())),
        None if contents == Some(BEGUN) => Ok(Import::Begun),
        None => Err(WalError::corrupt(&path, 0, Position(0), "it is no mark of an import")),
    }
}

/// Whether a server may open `dir`: no import into it is unfinished, and ZooKeeper's files in it are imported.
pub(crate) fn check(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<(), WalError> {
    match read(disk, dir, names)? {
        Import::Complete(_) => Ok(()),
        Import::Begun => Err(WalError::Unfinished { dir: dir.to_path_buf() }),
        Import::Never if holds_zookeeper(disk, dir, names)? => {
            Err(WalError::ForeignData { dir: dir.to_path_buf() })
        }
        Import::Never => Ok(()),
    }
}

/// An empty `version-2` is what a package's installer leaves: nobody's data.
fn holds_zookeeper(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<bool, WalError> {
    if !names.iter().any(|n| n == ZOOKEEPER) {
        return Ok(false);
    }
    let path = dir.join(ZOOKEEPER);
    Ok(!disk.list(&path).during("list", &path)?.is_empty())
}

impl DataDir {
    /// What became of the import into `path`, whether or not a server uses it. A directory that does not exist never
    /// had one.
    ///
    /// # Errors
    /// `Corrupt`, `Denied`, `Io`.
    pub fn import_state(disk: &dyn Disk, path: &Path) -> Result<Import, WalError> {
        match disk.list(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Import::Never),
            names => read(disk, path, &names.during("list", path)?),
        }
    }

    /// Locks `path` to fill it with imported data: one that holds nothing of ours, or what an interrupted import has
    /// left, which is removed. Until [`DataDir::complete_import`] no other open succeeds. `data`: this is the directory
    /// of the log that belongs to that one, whose import was begun before and is completed behind it.
    ///
    /// # Errors
    /// `NotEmpty`, `Locked`, `OtherVersion`, `Corrupt`, `Denied`, `NoSpace`, `Io`.
    pub fn begin_import(
        disk: Arc<dyn Disk>,
        path: impl Into<PathBuf>,
        data: Option<&DataDir>,
    ) -> Result<Arc<DataDir>, WalError> {
        let path = path.into();
        let (dir, names) = DataDir::lock(disk, path, |disk, path, names| {
            let unfinished = match read(disk, path, names)? {
                Import::Never => false,
                Import::Begun => true,
                // The power went between the two completions.
                Import::Complete(note) => data.is_some_and(|d| note.starts_with(&beside(d))),
            };
            match names.iter().find(|n| is_ours(disk, path, n)) {
                Some(n) if !unfinished => {
                    Err(WalError::NotEmpty { dir: path.to_path_buf(), name: n.clone() })
                }
                _ => Ok(()),
            }
        })?;
        dir.replace(MARK, &small::encode(BEGUN))?;
        for name in names.iter().filter(|n| *n != MARK && is_ours(&**dir.disk(), dir.path(), n)) {
            let p = dir.file(name);
            dir.disk().remove(&p).during("remove what an interrupted import left:", &p)?;
        }
        dir.sync()?;
        Ok(dir)
    }

    /// Ends an import: servers may open the directory now. `note` says where the data came from; bytes beyond 3900
    /// are left out. `data` as for [`DataDir::begin_import`].
    ///
    /// # Errors
    /// `Denied`, `NoSpace`, `Io`: whether it is complete shows at the next open.
    pub fn complete_import(&self, note: &str, data: Option<&DataDir>) -> Result<(), WalError> {
        let note = &note.as_bytes()[..note.floor_char_boundary(3900)];
        let beside = data.map(beside).unwrap_or_default();
        self.replace(MARK, &small::encode(&[COMPLETE, beside.as_bytes(), note].concat()))
    }
}

/// What the mark of a log's directory says about the data directory it belongs to.
fn beside(data: &DataDir) -> String {
    format!("log of {:016x}\n", data.id())
}

/// Whether an entry of a directory is data of a server of ours: a segment, a snapshot or a small file. The mark of an
/// import is not.
fn is_ours(disk: &dyn Disk, dir: &Path, name: &str) -> bool {
    if segment_number(name).is_some() || snapshot::parse_name(name).is_some() {
        return true;
    }
    name != MARK
        && small::is_name(name)
        && disk.open(&dir.join(name), How::Read).is_ok_and(|f| {
            read_small(&*f, 2 * SMALL_FILE_BYTES_MAX).is_ok_and(|b| small::inspect(&b).is_some())
        })
}
