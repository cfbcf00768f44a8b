//! From a data directory of ours to one that ZooKeeper starts from.
//!
//! Our newest snapshot becomes ZooKeeper's, the records of our log behind it become a log of ZooKeeper's: so a member
//! of an ensemble can still truncate what was never committed, and serve the rest to learners.
//! Not here: the formats (`engine::foreign`, `wal`), reading it back (`state`).
//! Invariants:
//! - the directory is locked: no server changes it meanwhile;
//! - `version-2` gets its name when all of it is durable and was read back; until then it is `version-2.tmp`.

use super::source::Source;
use super::{EPOCHS, Epochs, Figures, VERSION_2, state, table};
use anyhow::{Context, Result, anyhow, bail};
use engine::foreign::log;
use engine::foreign::snapshot::{Encoder, FileFrame};
use engine::ids::{SessionId, Zxid};
use engine::proto::{Decoder, Encode};
use engine::snapshot::{Parser, Record};
use engine::tree;
use engine::txn::{Txn, TxnHeader};
use engine::zab;
use std::fmt;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;
use wal::disk::{Disk, RealDisk};
use wal::snapshot::SnapshotInfo;
use wal::{DataDir, Log, Position, SmallFile, snapshot};

const WRITE_BYTES: usize = 1 << 20;
/// Zeros behind the last record, as ZooKeeper's preallocation leaves them; it needs none.
const PADDING_BYTES: usize = 4096;

/// What was exported. Displays as a table.
#[derive(Clone, Debug)]
pub struct Exported {
    pub to: PathBuf,
    pub files: Vec<String>,
    pub figures: Figures,
    pub epochs: Epochs,
    pub took_ms: u64,
}

impl fmt::Display for Exported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "exported into {} in {} ms, and read back", self.to.display(), self.took_ms)?;
        table(f, &[("files", self.files.join(", "))])?;
        table(f, &self.figures.rows())?;
        let Epochs { accepted, current } = self.epochs;
        table(f, &[("epochs", format!("accepted {accepted}, current {current}"))])
    }
}

/// What a directory of ours holds.
struct Held {
    /// The newest snapshot; `None`: nothing was ever written, or the log alone holds everything.
    snapshot: Option<snapshot::Snapshot>,
    log: Log,
    from: Position,
    /// Numbers and zxids of the records that count, in order.
    txns: Vec<(Position, Zxid)>,
    whole: Whole,
    epochs: Option<Epochs>,
    my_id: Option<Vec<u8>>,
}

/// From which zxid on our newest snapshot, with the log behind it, is the tree of that zxid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Whole {
    /// Its own: it is one of ours.
    AtOnce,
    /// It came from a leader that wrote meanwhile.
    From(Zxid),
    /// The same, and it was never established how far.
    Unknown,
}

/// Writes `to/version-2` from the data directory of a server that does not run. `log_dir` is where its log is.
///
/// # Errors
/// The directory is in use or damaged; `to/version-2` is not empty, or cannot be written; what was written does not
/// read back as it should.
pub fn export(data_dir: &Path, log_dir: &Path, to: &Path) -> Result<Exported> {
    let began = Instant::now();
    if let Err(e) = fs::metadata(data_dir) {
        return Err(e).with_context(|| format!("cannot look into {}", data_dir.display()));
    }
    let target = to.join(VERSION_2);
    refuse_filled(&target)?;
    let held = read(data_dir, log_dir)?;
    let building = to.join(format!("{VERSION_2}.tmp"));
    if building.exists() {
        fs::remove_dir_all(&building).with_context(|| format!("cannot remove {}", building.display()))?;
    }
    fs::create_dir_all(&building).with_context(|| format!("cannot make {}", building.display()))?;
    let mut files = Vec::new();
    let start = write_snapshot(&held, &building, &mut files)?;
    let last = write_log(&held, start, &building, &mut files)?;
    let epochs = held.epochs.unwrap_or(Epochs { accepted: last.epoch(), current: last.epoch() });
    let epochs = Epochs {
        current: epochs.current.max(last.epoch()),
        accepted: epochs.accepted.max(epochs.current).max(last.epoch()),
    };
    write_file(&building.join("acceptedEpoch"), epochs.accepted.to_string().as_bytes())?;
    write_file(&building.join("currentEpoch"), epochs.current.to_string().as_bytes())?;
    sync_dir(&building)?;
    let read_back = state::recover(&Source::find(&building, None)?, false)
        .context("what was written cannot be read back; this is a bug, please report it")?;
    let figures = Figures::of(&read_back.db);
    if figures.zxid != last {
        bail!("what was written ends at {} and not at {last}; this is a bug, please report it", figures.zxid);
    }
    // An empty directory of that name gives way.
    fs::rename(&building, &target).with_context(|| format!("cannot rename {}", building.display()))?;
    if let Some(id) = held.my_id.filter(|_| !to.join("myid").exists()) {
        write_file(&to.join("myid"), &id)?;
    }
    sync_dir(to)?;
    Ok(Exported { to: target, files, figures, epochs, took_ms: began.elapsed().as_millis() as u64 })
}

fn refuse_filled(target: &Path) -> Result<()> {
    let filled = match fs::read_dir(target) {
        Ok(mut entries) => entries.next().is_some(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => false,
        Err(e) => return Err(e).with_context(|| format!("cannot look into {}", target.display())),
    };
    if filled {
        bail!(
            "{} is not empty: export into another directory, or move that away; nothing is written over",
            target.display()
        );
    }
    Ok(())
}

fn read(data_dir: &Path, log_dir: &Path) -> Result<Held> {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let data = DataDir::open(disk.clone(), data_dir)?;
    let log_dir = if log_dir == data_dir { data.clone() } else { DataDir::open(disk, log_dir)? };
    let (snapshots, damaged) = snapshot::list(&data)?;
    damaged.iter().for_each(|d| tracing::warn!("{} is passed over: {}", d.path.display(), d.why));
    let newest = snapshots.first().map_or(Position(0), |s| s.position);
    let options = wal::Options { replay_from: newest, background: false, ..wal::Options::default() };
    let (log, report) = Log::open_of(&data, &log_dir, false, options)?;
    let mut found = None;
    for info in snapshots.iter().map(Some).chain([None]) {
        match history(&data, &log, info, report.oldest) {
            Ok(h) => {
                found = Some(h);
                break;
            }
            Err(e) if info.is_some() => tracing::warn!("a snapshot is passed over: {e:#}"),
            Err(e) => return Err(e.context("nothing leads to a whole state")),
        }
    }
    let (snapshot, from, (txns, whole)) = found.context("nothing leads to a whole state")?;
    let epochs = match SmallFile::new(&data, EPOCHS).read()? {
        None => None,
        Some(text) => Some(parse_epochs(&text).context("the file \"epochs\" does not hold two numbers")?),
    };
    let my_id = fs::read(data_dir.join("myid")).ok();
    Ok(Held { snapshot, log, from, txns, whole, epochs, my_id })
}

fn parse_epochs(text: &[u8]) -> Option<Epochs> {
    let mut numbers = std::str::from_utf8(text).ok()?.split_ascii_whitespace().map(|n| n.parse().ok());
    let (accepted, current) = (numbers.next()??, numbers.next()??);
    numbers.next().is_none().then_some(Epochs { accepted, current })
}

/// The transactions that count behind a snapshot, and what the log says of that.
type Survivors = (Vec<(Position, Zxid)>, Whole);
/// A snapshot, the place of the record behind it, and what follows.
type History = (Option<snapshot::Snapshot>, Position, Survivors);

/// What leads on from a snapshot, or from nothing.
fn history(data: &DataDir, log: &Log, info: Option<&SnapshotInfo>, oldest: Position) -> Result<History> {
    let snapshot = info.map(|i| snapshot::open(data, i)).transpose()?;
    let (from, start) = info.map_or((Position(0), Zxid::ZERO), |i| (i.position, Zxid(i.tag)));
    if oldest > from {
        bail!(
            "the log begins at record {oldest}, and records from {from} on are wanted: some between are missing"
        );
    }
    Ok((snapshot, from, survivors(log, from, start)?))
}

/// The transactions behind the state of `start` that no later truncation voids.
fn survivors(log: &Log, from: Position, start: Zxid) -> Result<Survivors> {
    let mut txns: Vec<(Position, Zxid)> = Vec::new();
    let mut whole = Whole::AtOnce;
    log.replay(from, |position, bytes| -> Result<()> {
        let last = txns.last().map_or(start, |(_, zxid)| *zxid);
        match zab::Record::decode(bytes) {
            Some(zab::Record::Txn(txn)) => {
                let header = TxnHeader::decode(&mut Decoder::new(txn))
                    .map_err(|_| anyhow!("record {position} of the log is not a transaction"))?;
                txns.push((position, header.zxid));
            }
            Some(zab::Record::Mark(zab::Mark::Truncate(upto))) if upto < start => {
                bail!("record {position} of the log makes the snapshot of {start} void")
            }
            Some(zab::Record::Mark(zab::Mark::Truncate(upto))) => {
                while txns.pop_if(|(_, zxid)| *zxid > upto).is_some() {}
            }
            Some(zab::Record::Mark(zab::Mark::Installed(zxid))) if zxid == last => whole = Whole::Unknown,
            Some(zab::Record::Mark(zab::Mark::Whole(zxid))) => whole = Whole::From(zxid),
            Some(zab::Record::Mark(zab::Mark::Installed(zxid))) => bail!(
                "a state of {zxid} came from another server at record {position}, and its snapshot cannot be read"
            ),
            None => bail!("record {position} of the log is neither a transaction nor a mark"),
        }
        Ok(())
    })?;
    Ok((txns, whole))
}

/// The digest of the tree where it is whole, as ZooKeeper writes it behind a snapshot. `own` is that of the snapshot's nodes.
fn footer(held: &Held, zxid: Zxid, own: Option<u64>) -> Result<Option<(Zxid, u64)>> {
    let at = match held.whole {
        Whole::Unknown => return Ok(None),
        Whole::From(at) if at > zxid => at,
        _ => return Ok(own.map(|d| (zxid, d))),
    };
    let Some((place, _)) = held.txns.iter().find(|(_, z)| *z == at) else { return Ok(None) };
    let mut found = None;
    held.log.replay(held.from, |position, bytes| -> Result<()> {
        if position == *place {
            found = Txn::decode(bytes).ok().and_then(|t| t.digest);
        }
        Ok(())
    })?;
    Ok(found.map(|d| (at, d)))
}

/// Appends to a file through a checksum.
struct Out {
    file: BufWriter<File>,
    frame: FileFrame,
    bytes: Vec<u8>,
}

impl Out {
    fn create(path: &Path) -> Result<Out> {
        let file = File::create_new(path).with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Out {
            file: BufWriter::with_capacity(WRITE_BYTES, file),
            frame: FileFrame::default(),
            bytes: Vec::with_capacity(WRITE_BYTES),
        })
    }
    /// What was appended to `bytes` belongs to the body.
    fn body(&mut self) -> std::io::Result<()> {
        self.frame.body(&self.bytes);
        self.rest()
    }
    fn rest(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.bytes)?;
        self.bytes.clear();
        Ok(())
    }
    fn finish(self) -> Result<()> {
        let file = self.file.into_inner().map_err(|e| e.into_error())?;
        Ok(file.sync_all()?)
    }
}

/// Writes the snapshot; returns its zxid.
fn write_snapshot(held: &Held, dir: &Path, files: &mut Vec<String>) -> Result<Zxid> {
    let Some(ours) = &held.snapshot else { return write_empty(dir, files) };
    let mut encoder = Encoder::default();
    let (mut sessions, mut head): (Vec<(SessionId, i32)>, _) = (Vec::new(), None);
    each_record(ours, |record, acls| {
        match record {
            Record::Head { zxid, digest } => head = Some((zxid, digest)),
            Record::Session { id, timeout_ms } => sessions.push((id, timeout_ms)),
            Record::Node { acl, .. } => encoder.note(&acls[acl]),
            Record::End => {}
        }
        Ok(())
    })?;
    let (zxid, digest) = head.context("the newest snapshot has no head")?;
    let mut out = begin(dir, zxid, files)?;
    encoder.head(&sessions, &mut out.bytes);
    each_record(ours, |record, acls| {
        if let Record::Node { path, data, acl, stat } = record {
            encoder.node(path, data, &acls[acl], &stat, &mut out.bytes)?;
            out.body()?;
        }
        Ok(())
    })?;
    end(out, &encoder, footer(held, zxid, digest)?)?;
    Ok(zxid)
}

fn each_record(
    ours: &snapshot::Snapshot,
    each: impl FnMut(Record<'_>, &[Vec<engine::proto::Acl>]) -> Result<()>,
) -> Result<()> {
    let mut parser = Parser::default();
    parser.feed(ours, each)?;
    Ok(parser.finish()?)
}

/// The state before the first transaction.
fn write_empty(dir: &Path, files: &mut Vec<String>) -> Result<Zxid> {
    let (writer, _) = tree::new(0, 1);
    let view = writer.latest();
    let mut encoder = Encoder::default();
    let mut nodes = vec![view.root()];
    while let Some(next) = nodes[nodes.len() - 1].next_in_tree() {
        nodes.push(next);
    }
    nodes.iter().for_each(|n| encoder.note(n.acl()));
    let mut out = begin(dir, Zxid::ZERO, files)?;
    encoder.head(&[], &mut out.bytes);
    for n in &nodes {
        encoder.node(&n.path(), n.data(), n.acl(), &n.stat_persisted(), &mut out.bytes)?;
    }
    end(out, &encoder, Some((Zxid::ZERO, 0)))?;
    Ok(Zxid::ZERO)
}

fn begin(dir: &Path, zxid: Zxid, files: &mut Vec<String>) -> Result<Out> {
    let name = format!("snapshot.{:x}", zxid.0);
    let mut out = Out::create(&dir.join(&name))?;
    files.push(name);
    let mut header = Vec::new();
    out.frame.header(&mut header);
    out.file.write_all(&header)?;
    Ok(out)
}

fn end(mut out: Out, encoder: &Encoder, digest: Option<(Zxid, u64)>) -> Result<()> {
    encoder.end(&mut out.bytes);
    out.body()?;
    out.frame.footers(digest, &mut out.bytes);
    out.rest()?;
    out.finish()
}

/// Writes the transactions behind the snapshot; returns the last zxid. Without any there is no file, as a server that
/// has just taken its snapshot has none.
fn write_log(held: &Held, start: Zxid, dir: &Path, files: &mut Vec<String>) -> Result<Zxid> {
    let mut kept = held.txns.iter().filter(|(_, zxid)| *zxid > start).peekable();
    let Some((_, first)) = kept.peek() else { return Ok(start) };
    let name = format!("log.{:x}", first.0);
    let mut out = Out::create(&dir.join(&name))?;
    files.push(name);
    log::header(&mut out.bytes);
    let mut last = start;
    held.log.replay(held.from, |position, bytes| -> Result<()> {
        if let Some((_, zxid)) = kept.next_if(|(p, _)| *p == position) {
            log::record(bytes, &mut out.bytes);
            last = *zxid;
            out.rest()?;
        }
        Ok(())
    })?;
    out.bytes.put_bytes(&[0; PADDING_BYTES]);
    out.rest()?;
    out.finish()?;
    Ok(last)
}

fn write_file(path: &Path, contents: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = File::create_new(path)?;
        file.write_all(contents)?;
        file.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

fn sync_dir(path: &Path) -> Result<()> {
    File::open(path).and_then(|d| d.sync_all()).with_context(|| format!("cannot sync {}", path.display()))
}
