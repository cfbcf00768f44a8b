//! A data directory: its lock, its marker, the names in it.
//!
//! Not here: the contents of segments, snapshots and small files.
//! Invariant: whoever holds a `DataDir` is the only process that writes there, the marker is durable and of this
//! version, and no Apache ZooKeeper data lies beside it that was not imported (`import`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::disk::{Disk, DiskFile, How, Lock, tmp_name};
use crate::error::{During, WalError};
use crate::format::{BLOCK_BYTES, FORMAT_VERSION};
use crate::{Position, import, snapshot};

const MARKER: &str = "serval-format";
const LOCK: &str = "serval-lock";
pub(crate) const ZOOKEEPER: &str = "version-2";
/// The marker is read up to this many bytes.
const MARKER_BYTES_MAX: usize = 1024;
pub(crate) const RESERVE: &str = "reserve";
pub(crate) const RECYCLE: &str = "recycle.tmp";

/// The name of a segment's file.
pub(crate) fn segment_name(incarnation: u64) -> String {
    format!("log.{incarnation:016x}")
}
/// The incarnation in a segment's name.
pub(crate) fn segment_number(name: &str) -> Option<u64> {
    hex16(name.strip_prefix("log.")?)
}
/// Exactly 16 lower-case hexadecimal digits.
pub(crate) fn hex16(s: &str) -> Option<u64> {
    let right = s.len() == 16 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    right.then(|| u64::from_str_radix(s, 16).ok()).flatten()
}

/// A data directory that this process has locked. Dropping the last handle unlocks it.
#[derive(Debug)]
pub struct DataDir {
    disk: Arc<dyn Disk>,
    path: PathBuf,
    id: u64,
    /// Snapshots begun since the directory was opened.
    attempts: AtomicU64,
    _lock: Box<dyn Lock>,
}

impl DataDir {
    /// Locks `path`, checks its marker, or makes a new directory. Removes unfinished files.
    ///
    /// # Errors
    /// `ForeignData`, `Unfinished`, `Locked`, `OtherVersion`, `Corrupt` (marker missing or damaged), `Denied`,
    /// `NoSpace`, `Io`. Nothing is changed before the first five have been ruled out.
    pub fn open(disk: Arc<dyn Disk>, path: impl Into<PathBuf>) -> Result<Arc<DataDir>, WalError> {
        DataDir::lock(disk, path.into(), import::check).map(|(dir, _)| dir)
    }

    /// The same with another rule for what may lie in the directory; also gives the names that were there.
    pub(crate) fn lock(
        disk: Arc<dyn Disk>,
        path: PathBuf,
        rule: impl Fn(&dyn Disk, &Path, &[String]) -> Result<(), WalError>,
    ) -> Result<(Arc<DataDir>, Vec<String>), WalError> {
        disk.create_dir_all(&path).during("make the data directory", &path)?;
        let names = disk.list(&path).during("list", &path)?;
        rule(&*disk, &path, &names)?;
        let lock = disk.lock(&path.join(LOCK)).during("lock", &path)?;
        let Some(lock) = lock else {
            return Err(WalError::Locked { dir: path });
        };
        // Looked at again: what is there can only be trusted under the lock.
        let names = disk.list(&path).during("list", &path)?;
        rule(&*disk, &path, &names)?;
        let id = read_marker(&*disk, &path, &names)?;
        // Before the marker is written, which may be what was not finished.
        for name in names.iter().filter(|n| n.ends_with(".tmp")) {
            let p = path.join(name);
            disk.remove(&p).during("remove the unfinished file", &p)?;
        }
        let id = match id {
            Some(id) => id,
            None => write_marker(&*disk, &path)?,
        };
        let dir = DataDir { disk, path, id, attempts: AtomicU64::new(0), _lock: lock };
        dir.sync()?;
        Ok((Arc::new(dir), names))
    }

    /// Whether one of ours was begun there.
    pub fn is_begun(disk: &dyn Disk, path: &Path) -> bool {
        disk.list(path).is_ok_and(|names| names.iter().any(|n| n == MARKER))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// The disk it is on.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }
    pub(crate) fn id(&self) -> u64 {
        self.id
    }
    /// A number that no other attempt to write a file has.
    pub(crate) fn next_attempt(&self) -> u64 {
        self.attempts.fetch_add(1, Ordering::Relaxed)
    }
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
    /// Makes the directory's names durable.
    pub(crate) fn sync(&self) -> Result<(), WalError> {
        self.disk.sync_dir(&self.path).during("sync the directory", &self.path)
    }
    /// Replaces the file `name` by `bytes`, durably and as a whole.
    pub(crate) fn replace(&self, name: &str, bytes: &[u8]) -> Result<(), WalError> {
        replace(&*self.disk, &self.path, name, bytes)
    }
}

fn replace(disk: &dyn Disk, dir: &Path, name: &str, bytes: &[u8]) -> Result<(), WalError> {
    let path = dir.join(name);
    let tmp = tmp_name(&path);
    let failed = |doing: &'static str| {
        let path = &path;
        move |e| WalError::from_io(doing, path, bytes.len() as u64, e)
    };
    let file = disk.open(&tmp, How::Create).map_err(failed("create"))?;
    file.write_at(bytes, 0).map_err(failed("write"))?;
    file.sync().map_err(failed("sync"))?;
    disk.rename(&tmp, &path).map_err(failed("rename"))?;
    // Whatever the reason: which of the two names the disk has is unknown. Never `NoSpace`, which means "unchanged".
    disk.sync_dir(dir).map_err(|e| {
        let path = dir.to_path_buf();
        WalError::Io { doing: "sync the directory", path, source: Arc::new(e) }
    })
}

/// The whole of a small file; at most `max` bytes of it.
pub(crate) fn read_small(file: &dyn DiskFile, max: usize) -> std::io::Result<Vec<u8>> {
    let mut b = vec![0; max];
    let n = file.read_at(&mut b, 0)?;
    b.truncate(n);
    Ok(b)
}

/// The id in the marker; `None` for a directory in which nothing of ours lies.
pub(crate) fn read_marker(disk: &dyn Disk, dir: &Path, names: &[String]) -> Result<Option<u64>, WalError> {
    let path = dir.join(MARKER);
    if !names.iter().any(|n| n == MARKER) {
        let ours = names.iter().find(|n| segment_number(n).is_some() || snapshot::parse_name(n).is_some());
        return match ours {
            None => Ok(None),
            Some(n) => {
                Err(WalError::corrupt(&path, 0, Position(0), format!("it is missing, though {n} is there")))
            }
        };
    }
    let file = disk.open(&path, How::Read).during("open", &path)?;
    let text = read_small(&*file, MARKER_BYTES_MAX).during("read", &path)?;
    let text = String::from_utf8_lossy(&text);
    let bad = |what: &str| WalError::corrupt(&path, 0, Position(0), what);
    let mut lines = text.lines();
    if lines.next() != Some("serval data directory") {
        return Err(bad("this is not a marker"));
    }
    let version =
        lines.next().and_then(|l| l.strip_prefix("format ")).ok_or_else(|| bad("it names no format"))?;
    if version != FORMAT_VERSION.to_string() {
        let found = version.chars().take(40).collect();
        return Err(WalError::OtherVersion { dir: dir.to_path_buf(), found, expected: FORMAT_VERSION });
    }
    let id = lines.next().and_then(|l| l.strip_prefix("id ")).and_then(hex16);
    let id = id.ok_or_else(|| bad("it names no id"))?;
    if text != marker_text(id) {
        return Err(bad("its checksum is wrong"));
    }
    Ok(Some(id))
}

fn marker_text(id: u64) -> String {
    let lines = format!("serval data directory\nformat {FORMAT_VERSION}\nid {id:016x}\n");
    let crc = crc32c::crc32c(lines.as_bytes());
    format!("{lines}crc {crc:08x}\n")
}

fn write_marker(disk: &dyn Disk, dir: &Path) -> Result<u64, WalError> {
    let id = disk.fresh_id().during("draw an id for", dir)?;
    replace(disk, dir, MARKER, marker_text(id).as_bytes())?;
    Ok(id)
}

/// One block at an aligned address, as direct writes need it.
pub(crate) fn write_block(
    file: &dyn DiskFile,
    block: &[u8; BLOCK_BYTES],
    offset: u64,
) -> std::io::Result<()> {
    let mut b = vec![0u8; 2 * BLOCK_BYTES];
    let start = b.as_ptr().align_offset(BLOCK_BYTES);
    let aligned = &mut b[start..start + BLOCK_BYTES];
    aligned.copy_from_slice(block);
    file.write_at(aligned, offset)
}
