//! Looking into a data directory without changing it: `serval wal dump` and `serval wal verify`.
//!
//! Not here: what payloads mean (the caller renders them).
//! Invariant: nothing is written, no lock is taken. On a directory in use, the end of the log may look torn.

use std::fmt;
use std::path::Path;

use crate::dir::{read_marker, read_small, segment_name};
use crate::disk::{Disk, How};
use crate::error::{During, WalError};
use crate::format::{BLOCK_BYTES, GroupHeader, SegmentHeader};
use crate::recover::{Segments, Tail};
use crate::{Position, small, snapshot};

/// One thing met while walking the log.
#[derive(Debug)]
pub enum Entry<'a> {
    /// A segment begins.
    Segment {
        /// Its header.
        header: SegmentHeader,
        /// Length of its file.
        file_bytes: u64,
    },
    /// A group begins.
    Group {
        /// Where in the segment, in bytes.
        offset: u64,
        /// Its header.
        header: GroupHeader,
    },
    /// A record of that group.
    Record {
        /// Its number.
        position: Position,
        /// Its payload.
        payload: &'a [u8],
    },
    /// The groups of this segment end here.
    End {
        /// Where in the segment, in bytes.
        offset: u64,
    },
}

impl fmt::Display for Entry<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Entry::Segment { header: h, file_bytes } => {
                write!(
                    f,
                    "segment {} bytes {file_bytes} durable_before {}",
                    segment_name(h.incarnation),
                    h.durable_before
                )?;
                match h.seal {
                    Some(s) => {
                        write!(
                            f,
                            " seals {} at {} record {}",
                            segment_name(s.cut_segment),
                            s.cut_offset,
                            s.first
                        )
                    }
                    None => Ok(()),
                }
            }
            Entry::Group { offset, header: h } => write!(
                f,
                "  group at {offset} records {}..{} bytes {} durable_before {}",
                h.first,
                h.next(),
                h.body_bytes,
                h.durable_before
            ),
            Entry::Record { position, payload } => write!(f, "    record {position} bytes {}", payload.len()),
            Entry::End { offset } => write!(f, "  end at {offset}"),
        }
    }
}

/// Walks all groups of all segments that count, in order. Stops within a segment at the first group that is not
/// intact, and goes on with the next: so a damaged log can be looked at. `verify` says what it means.
///
/// # Errors
/// Of `each`; `OtherVersion`, `ForeignData`, `Unfinished`, `Corrupt` (marker or segment header), `Denied`, `Io`.
pub fn dump<E: From<WalError>>(
    disk: &dyn Disk,
    path: &Path,
    mut each: impl FnMut(Entry<'_>) -> Result<(), E>,
) -> Result<(), E> {
    let Some(id) = id(disk, path)? else {
        return Ok(());
    };
    for (mut s, header) in Segments::load(disk, path, id)?.live {
        each(Entry::Segment { header, file_bytes: s.len() })?;
        let mut offset = BLOCK_BYTES as u64;
        while let Some(g) = s.group(offset)? {
            let Some(records) = s.records(offset, &g)? else { break };
            each(Entry::Group { offset, header: g })?;
            for (n, payload) in records.enumerate() {
                each(Entry::Record { position: Position(g.first.0 + n as u64), payload })?;
            }
            offset += g.total_bytes();
        }
        each(Entry::End { offset })?;
    }
    Ok(())
}

/// What `verify` found.
#[derive(Debug)]
pub struct Verification {
    /// Segment files that count.
    pub segments: usize,
    /// Oldest record, and the position behind the newest.
    pub records: (Position, Position),
    /// What lies behind the last group.
    pub tail: Option<Tail>,
    /// Snapshots that are right in every byte, newest first.
    pub snapshots: Vec<snapshot::SnapshotInfo>,
    /// What is wrong; empty if the directory can be served from.
    pub problems: Vec<String>,
}

impl fmt::Display for Verification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (oldest, next) = self.records;
        writeln!(f, "log: {} segments, records {oldest}..{next}", self.segments)?;
        match self.tail {
            Some(Tail::Torn { records }) => {
                writeln!(
                    f,
                    "tail: a torn group of {records} records, never acknowledged; the next start cuts it"
                )?;
            }
            Some(Tail::Residue) => writeln!(f, "tail: left-over bytes, no records")?,
            Some(Tail::Clean) => writeln!(f, "tail: clean")?,
            None => {}
        }
        for s in &self.snapshots {
            writeln!(f, "snapshot: record {} tag 0x{:x} bytes {}", s.position, s.tag, s.payload_bytes)?;
        }
        for p in &self.problems {
            writeln!(f, "PROBLEM: {p}")?;
        }
        write!(f, "{}", if self.problems.is_empty() { "ok" } else { "damaged" })
    }
}

/// Checks every checksum in the directory.
///
/// # Errors
/// `OtherVersion`, `ForeignData`, `Unfinished`, `Denied`, `Io`. Damage is no error: it is in `problems`.
pub fn verify(disk: &dyn Disk, path: &Path) -> Result<Verification, WalError> {
    let none = (Position(0), Position(0));
    let mut v = Verification { segments: 0, records: none, tail: None, snapshots: vec![], problems: vec![] };
    let id = match id(disk, path) {
        Err(e @ WalError::Corrupt { .. }) => {
            v.problems.push(e.to_string());
            return Ok(v);
        }
        r => r?,
    };
    let Some(id) = id else {
        v.problems.push(format!("{} is no data directory of this server", path.display()));
        return Ok(v);
    };
    match verify_log(disk, path, id, &mut v) {
        Err(e @ WalError::Corrupt { .. }) => v.problems.push(e.to_string()),
        r => r?,
    }
    verify_files(disk, path, &mut v)?;
    let (oldest, next) = v.records;
    let covered =
        oldest == Position(0) || v.snapshots.iter().any(|s| s.position >= oldest && s.position <= next);
    if !covered && v.problems.is_empty() {
        v.problems.push(format!("the log begins at record {oldest}, and no snapshot covers what is before"));
    }
    Ok(v)
}

fn verify_log(disk: &dyn Disk, path: &Path, id: u64, v: &mut Verification) -> Result<(), WalError> {
    let mut segments = Segments::load(disk, path, id)?;
    let oldest = segments.oldest()?.unwrap_or(Position(0));
    let scan = segments.walk(oldest)?;
    v.segments = scan.kept.len();
    v.records = (oldest, scan.next);
    v.tail = Some(scan.tail);
    Ok(())
}

fn verify_files(disk: &dyn Disk, path: &Path, v: &mut Verification) -> Result<(), WalError> {
    for name in disk.list(path).during("list", path)? {
        let p = path.join(&name);
        if let Some(key) = snapshot::parse_name(&name) {
            match snapshot::check(disk, &p, key) {
                Ok(s) => v.snapshots.push(s.info),
                Err(WalError::Corrupt { what, .. }) => v.problems.push(format!("{}: {what}", p.display())),
                Err(e) => return Err(e),
            }
        } else if small::is_name(&name)
            && let Ok(file) = disk.open(&p, How::Read)
            && let Ok(bytes) = read_small(&*file, 2 * small::SMALL_FILE_BYTES_MAX)
            && small::inspect(&bytes) == Some(false)
        {
            v.problems.push(format!("{}: its checksum or length is wrong", p.display()));
        }
    }
    v.snapshots.sort_unstable_by(|a, b| b.cmp(a));
    Ok(())
}

fn id(disk: &dyn Disk, path: &Path) -> Result<Option<u64>, WalError> {
    let names = disk.list(path).during("list", path)?;
    crate::import::check(disk, path, &names)?;
    read_marker(disk, path, &names)
}
