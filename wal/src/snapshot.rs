//! Snapshot files: written as a stream, valid all at once, read as one slice (FORMAT.md section 6).
//!
//! Not here: what a snapshot contains, when one is taken, how replay behind it goes.
//! Invariants: a file under a snapshot's name was whole and synced before it got the name; its bytes are handed out
//! only after every checksum was right; a finished file is never written again, only unlinked; two writers never share an
//! unfinished file, also if both are to get the same name.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::Position;
use crate::dir::{DataDir, hex16};
use crate::disk::{Disk, DiskFile, How, Mapped, tmp_name};
use crate::error::{During, WalError};
use crate::format::{BLOCK_BYTES, FORMAT_VERSION, put, u32_at, u64_at};

const MAGIC: &[u8; 8] = b"SRVLSNP1";
const END_MAGIC: &[u8; 8] = b"SRVLSNPE";
const FOOTER_BYTES: usize = 48;
const HEADER_BYTES: u64 = BLOCK_BYTES as u64;
/// The payload is checksummed in chunks of this many bytes.
const CHUNK_BYTES: usize = 1 << 20;
/// Written bytes are synced this often, so that the end of a snapshot is no long storm for the log beside it.
const SYNC_BYTES: usize = 8 << 20;
/// Fewest snapshots that `retain` keeps: the newest may be damaged, and so may the one before.
pub const RETAIN_MIN: usize = 3;

/// Position and tag in the name of a snapshot.
pub(crate) fn parse_name(name: &str) -> Option<(Position, u64)> {
    let (position, tag) = name.strip_prefix("snap.")?.split_once('.')?;
    Some((Position(hex16(position)?), hex16(tag)?))
}
fn file_name(position: Position, tag: u64) -> String {
    format!("snap.{:016x}.{tag:016x}", position.0)
}

/// A snapshot being written. Dropped before `finish`, it leaves nothing.
#[derive(Debug)]
pub struct SnapshotWriter {
    dir: Arc<DataDir>,
    path: PathBuf,
    /// The unfinished file's, of this attempt only.
    tmp: PathBuf,
    file: Arc<dyn DiskFile>,
    position: Position,
    tag: u64,
    chunk: Vec<u8>,
    table: Vec<u8>,
    /// Payload bytes given to the disk.
    written: u64,
    unsynced: usize,
    finished: bool,
}

impl SnapshotWriter {
    /// Begins a snapshot from which replay will go on at `position`; `tag` (a zxid) is kept beside it.
    ///
    /// # Errors
    /// `NoSpace`, `Denied`, `Io`. No error of a snapshot puts the log at risk.
    pub fn create(dir: &Arc<DataDir>, position: Position, tag: u64) -> Result<SnapshotWriter, WalError> {
        let path = dir.file(&file_name(position, tag));
        let tmp = tmp_name(&dir.file(&format!("{}.{}", file_name(position, tag), dir.next_attempt())));
        let file = dir.disk().open(&tmp, How::Create).during("create", &tmp)?;
        let w = SnapshotWriter {
            dir: dir.clone(),
            path,
            tmp,
            file,
            position,
            tag,
            chunk: Vec::with_capacity(CHUNK_BYTES),
            table: Vec::new(),
            written: 0,
            unsynced: 0,
            finished: false,
        };
        w.put(&header(position, tag), 0)?;
        Ok(w)
    }

    /// Adds `bytes` to the payload.
    ///
    /// # Errors
    /// As `create`; the snapshot is lost then.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), WalError> {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_BYTES - self.chunk.len()));
            self.chunk.extend_from_slice(now);
            bytes = later;
            if self.chunk.len() == CHUNK_BYTES {
                self.flush()?;
            }
        }
        Ok(())
    }
    /// Payload bytes so far.
    pub fn bytes(&self) -> u64 {
        self.written + self.chunk.len() as u64
    }

    /// Makes the snapshot valid, durably. Call it only when the log is durable up to everything that the payload
    /// shows; `end_tag` (a zxid) says up to where that is.
    ///
    /// # Errors
    /// As `create`; the snapshot is lost then.
    pub fn finish(mut self, end_tag: u64) -> Result<SnapshotInfo, WalError> {
        if !self.chunk.is_empty() {
            self.flush()?;
        }
        let info =
            SnapshotInfo { position: self.position, tag: self.tag, end_tag, payload_bytes: self.written };
        let mut end = std::mem::take(&mut self.table);
        let footer = info.footer(&end);
        end.extend_from_slice(&footer);
        self.put(&end, HEADER_BYTES + self.written)?;
        self.sync()?;
        self.dir.disk().rename(&self.tmp, &self.path).during("rename", &self.path)?;
        self.finished = true;
        self.dir.sync()?;
        Ok(info)
    }

    fn flush(&mut self) -> Result<(), WalError> {
        self.put(&self.chunk, HEADER_BYTES + self.written)?;
        self.table.extend_from_slice(&crc32c::crc32c(&self.chunk).to_le_bytes());
        self.written += self.chunk.len() as u64;
        self.unsynced += self.chunk.len();
        self.chunk.clear();
        if self.unsynced >= SYNC_BYTES {
            self.sync()?;
        }
        Ok(())
    }
    fn put(&self, bytes: &[u8], offset: u64) -> Result<(), WalError> {
        let r = self.file.write_at(bytes, offset);
        r.map_err(|e| WalError::from_io("write a snapshot in", self.dir.path(), bytes.len() as u64, e))
    }
    fn sync(&mut self) -> Result<(), WalError> {
        self.unsynced = 0;
        let r = self.file.sync();
        r.map_err(|e| WalError::from_io("sync a snapshot in", self.dir.path(), self.written, e))
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next open of the directory removes it.
            let _ = self.dir.disk().remove(&self.tmp);
        }
    }
}

fn header(position: Position, tag: u64) -> [u8; BLOCK_BYTES] {
    let mut b = [0u8; BLOCK_BYTES];
    put(&mut b, 0, MAGIC);
    put(&mut b, 12, &FORMAT_VERSION.to_le_bytes());
    put(&mut b, 16, &position.0.to_le_bytes());
    put(&mut b, 24, &tag.to_le_bytes());
    let crc = crc32c::crc32c(&b[12..]);
    put(&mut b, 8, &crc.to_le_bytes());
    b
}

/// What a snapshot says about itself.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct SnapshotInfo {
    /// Replay goes on at this record.
    pub position: Position,
    /// The tag given at its start.
    pub tag: u64,
    /// The tag given at its end.
    pub end_tag: u64,
    /// Length of the payload in bytes.
    pub payload_bytes: u64,
}

impl SnapshotInfo {
    fn chunks(&self) -> u64 {
        self.payload_bytes.div_ceil(CHUNK_BYTES as u64)
    }
    fn file_bytes(&self) -> u64 {
        HEADER_BYTES + self.payload_bytes + 4 * self.chunks() + FOOTER_BYTES as u64
    }
    fn footer(&self, table: &[u8]) -> [u8; FOOTER_BYTES] {
        let mut b = [0u8; FOOTER_BYTES];
        put(&mut b, 0, END_MAGIC);
        // 2^32 chunks are 4 PiB.
        put(&mut b, 12, &(self.chunks() as u32).to_le_bytes());
        put(&mut b, 16, &self.payload_bytes.to_le_bytes());
        put(&mut b, 24, &self.end_tag.to_le_bytes());
        put(&mut b, 32, &self.position.0.to_le_bytes());
        put(&mut b, 40, &self.tag.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&b[12..]), table);
        put(&mut b, 8, &crc.to_le_bytes());
        b
    }
}

/// A snapshot that cannot be used, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damaged {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub why: String,
}

/// A snapshot whose checksums were all right: dereferences to its payload.
#[derive(Debug)]
pub struct Snapshot {
    /// What it says about itself.
    pub info: SnapshotInfo,
    bytes: Bytes,
}

#[derive(Debug)]
enum Bytes {
    Map(Mapped),
    Memory(Vec<u8>),
}

impl Deref for Snapshot {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Map(m) => &m[HEADER_BYTES as usize..][..self.info.payload_bytes as usize],
            Bytes::Memory(v) => v,
        }
    }
}

/// The snapshots of a directory, newest first, with a look at header and footer only; and those that fail it.
///
/// # Errors
/// `Denied`, `Io`.
pub fn list(dir: &DataDir) -> Result<(Vec<SnapshotInfo>, Vec<Damaged>), WalError> {
    let names = dir.disk().list(dir.path()).during("list", dir.path())?;
    let (mut good, mut damaged) = (Vec::new(), Vec::new());
    for (name, key) in names.iter().filter_map(|n| Some((n, parse_name(n)?))) {
        let path = dir.file(name);
        let file = dir.disk().open(&path, How::Read).during("open", &path)?;
        match check_ends(&*file, key) {
            Ok((info, _)) => good.push(info),
            Err(why) => damaged.push(Damaged { path, why }),
        }
    }
    good.sort_unstable_by(|a, b| b.cmp(a));
    Ok((good, damaged))
}

/// Opens one snapshot and checks all of it.
///
/// # Errors
/// `Corrupt`, `Denied`, `Io`.
pub fn open(dir: &DataDir, info: &SnapshotInfo) -> Result<Snapshot, WalError> {
    let path = dir.file(&file_name(info.position, info.tag));
    check(&**dir.disk(), &path, (info.position, info.tag))
}

/// Checks all of the snapshot `path`, whose name says `key`.
pub(crate) fn check(disk: &dyn Disk, path: &Path, key: (Position, u64)) -> Result<Snapshot, WalError> {
    let file = disk.open(path, How::Read).during("open", path)?;
    let bad = |why: String| WalError::corrupt(path, 0, key.0, why);
    let (info, table) = check_ends(&*file, key).map_err(bad)?;
    let map = file.map().during("map", path)?;
    // Read, not through the map: a bad sector is an error here and would be a signal there. What was read stays in
    // the page cache for the map.
    let mut memory = Vec::new();
    let mut chunk = vec![0u8; CHUNK_BYTES.min(info.payload_bytes as usize)];
    for (i, crc) in table.chunks_exact(4).enumerate() {
        let at = (i * CHUNK_BYTES) as u64;
        let want = (info.payload_bytes - at).min(CHUNK_BYTES as u64) as usize;
        let n = file.read_at(&mut chunk[..want], HEADER_BYTES + at).during("read", path)?;
        if n != want || crc32c::crc32c(&chunk[..n]) != u32_at(crc, 0) {
            let what = "a chunk's checksum is wrong; an older snapshot may serve";
            return Err(WalError::corrupt(path, HEADER_BYTES + at, info.position, what));
        }
        if map.is_none() {
            memory.extend_from_slice(&chunk[..n]);
        }
    }
    let bytes = map.map_or(Bytes::Memory(memory), Bytes::Map);
    Ok(Snapshot { info, bytes })
}

/// The newest snapshot that is right in every byte, and what was passed over.
///
/// # Errors
/// `Denied`, `Io`; damage is no error here.
pub fn newest(dir: &DataDir) -> Result<(Option<Snapshot>, Vec<Damaged>), WalError> {
    let (good, mut damaged) = list(dir)?;
    for info in &good {
        match open(dir, info) {
            Ok(s) => return Ok((Some(s), damaged)),
            Err(WalError::Corrupt { path, what, .. }) => damaged.push(Damaged { path, why: what }),
            Err(e) => return Err(e),
        }
    }
    Ok((None, damaged))
}

/// Removes all but the `keep` newest snapshots (at least 3), and returns the position of the oldest kept: the log is
/// needed from there. `None` if there is no snapshot.
///
/// # Errors
/// `Denied`, `Io`.
pub fn retain(dir: &DataDir, keep: usize) -> Result<Option<Position>, WalError> {
    let (good, damaged) = list(dir)?;
    let keep = keep.max(RETAIN_MIN).min(good.len());
    let Some(oldest) = good[..keep].last() else {
        return Ok(None);
    };
    let old = good[keep..].iter().map(|s| dir.file(&file_name(s.position, s.tag)));
    // A damaged one is kept for the operator until it is older than all that are kept.
    let broken = damaged.into_iter().map(|d| d.path).filter(|p| {
        let name = p.file_name().and_then(|n| n.to_str()).and_then(parse_name);
        name.is_some_and(|(position, _)| position < oldest.position)
    });
    for path in old.chain(broken) {
        dir.disk().remove(&path).during("remove", &path)?;
    }
    dir.sync()?;
    Ok(Some(oldest.position))
}

/// Checks header, footer, length and name against each other; returns the table of checksums.
fn check_ends(file: &dyn DiskFile, key: (Position, u64)) -> Result<(SnapshotInfo, Vec<u8>), String> {
    let io = |e: std::io::Error| format!("it cannot be read ({e})");
    let len = file.len().map_err(io)?;
    if len < HEADER_BYTES + FOOTER_BYTES as u64 {
        return Err("it is too short".into());
    }
    let mut head = [0u8; BLOCK_BYTES];
    let mut foot = [0u8; FOOTER_BYTES];
    file.read_at(&mut head, 0).map_err(io)?;
    file.read_at(&mut foot, len - FOOTER_BYTES as u64).map_err(io)?;
    if head != header(key.0, key.1) {
        return Err("its header is damaged, or is not the one of its name".into());
    }
    let info = SnapshotInfo {
        position: Position(u64_at(&foot, 32)),
        tag: u64_at(&foot, 40),
        end_tag: u64_at(&foot, 24),
        payload_bytes: u64_at(&foot, 16),
    };
    if &foot[..8] != END_MAGIC || info.payload_bytes > len || info.file_bytes() != len {
        return Err("its end is missing or damaged".into());
    }
    let mut table = vec![0u8; 4 * info.chunks() as usize];
    let n = file.read_at(&mut table, HEADER_BYTES + info.payload_bytes).map_err(io)?;
    if n != table.len() || foot != info.footer(&table) || (info.position, info.tag) != key {
        return Err("its footer's checksum is wrong".into());
    }
    Ok((info, table))
}
