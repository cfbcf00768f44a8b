//! From a data directory to a state that can serve: newest whole snapshot, then the log behind it.
//!
//! Not here: file formats (`wal`), what records mean (`engine::snapshot`, `engine::txn`).
//! Invariants:
//! - transactions that a later mark in the log made void are passed over, and so are snapshots that hold them;
//! - what is served was durable: the log's tail was synced again before anything is replayed;
//! - a snapshot that cannot be read is passed over with a warning, and an older one with the log behind it serves.

use super::EPOCHS_FILE;
use super::desk::StartFigures;
use crate::config::Config;
use anyhow::{Context, Result, anyhow, bail};
use engine::ids::{SessionId, Ticket, Zxid};
use engine::pipeline::{Database, Notice, Origin};
use engine::proto::{Decoder, Op};
use engine::server::members_shown;
use engine::snapshot::{self as records, Parser, Unreadable};
use engine::tree;
use engine::txn::TxnHeader;
use engine::zab::members::Members;
use engine::zab::{Entry, Epochs, Mark, Reach, Record, Window};
use profiles::{Profile, WalIo};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use wal::disk::{Disk as _, RealDisk};
use wal::{DataDir, Group, Import, Log, Position, SmallFile, snapshot};

/// A recovered state.
pub struct Recovered {
    pub db: Database,
    pub tree: tree::Handle,
    pub log: Log,
    /// Snapshots live here.
    pub data: Arc<DataDir>,
    /// Where the newest snapshot stands; nothing before the first.
    pub snapshot_at: Position,
    /// The end of the history, for peers that lack a little.
    pub window: Window,
    /// See [`History`].
    pub confirmed: Option<Members>,
    /// What a member has promised; derived from the history where it never was one.
    pub epochs: Epochs,
    pub figures: StartFigures,
}

/// Readers of the tree besides the shards: snapshot walkers and status commands.
const READERS_EXTRA: usize = 16;

/// Opens the directories, loads the newest snapshot that is whole, replays the log.
///
/// # Errors
/// Whatever keeps it from being read, in words that say what to do.
pub fn recover(config: &Config, profile: &Profile, shards: usize, reach: Reach) -> Result<Recovered> {
    let began = Instant::now();
    let disk =
        Arc::new(if profile.wal_io == WalIo::Buffered { RealDisk::buffered() } else { RealDisk::new() });
    let data = DataDir::open(disk.clone(), &config.data_dir)?;
    let log_dir = if config.data_log_dir == config.data_dir {
        data.clone()
    } else {
        DataDir::open(disk.clone(), &config.data_log_dir)?
    };
    let Loaded { db, tree, position: snapshot_at } = load_snapshot(&data, config, shards, Zxid::MAX)?;
    let from_snapshot = db.tree.node_count();
    let snapshot_ms = began.elapsed().as_millis() as u64;
    let promised = has_begun(&data)?;
    let imported = DataDir::import_state(&*disk, &config.data_dir)? != Import::Never;
    let options = wal::Options {
        segment_bytes: profile.segment_bytes,
        replay_from: snapshot_at,
        // Beside a log of its own a new data directory lacks the epochs that were promised. A lone server promises none.
        named: config.ensemble.is_some() && config.data_log_dir != config.data_dir && !promised && !imported,
        ..wal::Options::default()
    };
    let (mut log, report) = Log::open_of(&data, &log_dir, promised, options)?;
    if let Some(refused) = disk.notice() {
        if profile.wal_io == WalIo::Direct {
            bail!("{refused}; the profile says wal_io = \"direct\": use another file system, or \"auto\"");
        }
        tracing::info!("{refused}");
    }
    if report.oldest > snapshot_at {
        bail!(
            "the log in {} begins at record {}, but the newest readable snapshot ends at {}: \
             records between them are missing; restore an older backup of the directory",
            config.data_log_dir.display(),
            report.oldest,
            snapshot_at
        );
    }
    let source = Source { data: &data, log: log.reader(), config, shards };
    let mut history = source.history(Some(Loaded { db, tree, position: snapshot_at }), reach, began)?;
    note_install(&mut log, &mut history)?;
    let figures = StartFigures {
        snapshot_ms,
        replay_ms: began.elapsed().as_millis() as u64 - snapshot_ms,
        txns: history.txns,
        ..StartFigures::default()
    };
    let History { mut db, tree, position: snapshot_at, window, confirmed, .. } = history;
    db.tree.publish(db.last());
    let mismatches = db.take_notices().iter().filter(|n| matches!(n, Notice::DigestMismatch { .. })).count();
    let figures = StartFigures { digest_mismatches: mismatches as u64, ..figures };
    if mismatches > 0 {
        tracing::error!(
            "replaying the log gave another tree digest than was logged, {mismatches} times or more; \
             the tree may be damaged: compare it with a backup"
        );
    }
    tracing::info!(
        "recovered {} znodes ({from_snapshot} from the snapshot) and {} sessions up to zxid {} in {} ms; tail: {:?}",
        db.tree.node_count(),
        db.sessions().len(),
        db.last(),
        began.elapsed().as_millis(),
        report.tail,
    );
    let epochs = epochs(&data, db.last())?;
    Ok(Recovered { db, tree, log, data, snapshot_at, window, confirmed, epochs, figures })
}

/// Whether a log belongs to that directory: whoever has promised an epoch has opened it first. An import writes epochs too.
pub fn has_begun(data: &Arc<DataDir>) -> Result<bool> {
    let imported = DataDir::import_state(&**data.disk(), data.path())? != Import::Never;
    Ok(!imported && SmallFile::new(data, EPOCHS_FILE).read()?.is_some())
}

/// The epochs as they were written; those of the last transaction where there is no such file.
fn epochs(data: &Arc<DataDir>, last: Zxid) -> Result<Epochs> {
    let Some(bytes) = SmallFile::new(data, EPOCHS_FILE).read()? else {
        return Ok(Epochs { accepted: last.epoch(), current: last.epoch() });
    };
    let text = String::from_utf8_lossy(&bytes);
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(accepted)), Some(Ok(current)), None) if current <= accepted => {
            Ok(Epochs { accepted, current })
        }
        _ => bail!(
            "the file {EPOCHS_FILE} in {} holds {text:?} instead of two epochs; restore it from a backup, or empty the \
             directory so that this server takes everything from the leader",
            data.path().display()
        ),
    }
}

/// A state with what is known of how it came about.
pub struct History {
    pub db: Database,
    pub tree: tree::Handle,
    /// Where the snapshot stands from which it was loaded.
    position: Position,
    pub window: Window,
    /// The members that the state showed before the last reconfiguration of the log: committed, as that was proposed behind
    /// them.
    pub confirmed: Option<Members>,
    txns: u64,
}

/// Where a state is loaded from.
pub struct Source<'a> {
    pub data: &'a Arc<DataDir>,
    pub log: wal::Reader,
    pub config: &'a Config,
    pub shards: usize,
}

/// A mark that makes earlier transactions void.
#[derive(Clone, Copy)]
struct Cut {
    at: Position,
    to: Zxid,
}

impl Source<'_> {
    /// The newest snapshot that nothing made void, and the log behind it. `loaded` is the newest one, if it was loaded
    /// already.
    ///
    /// # Errors
    /// What is there does not lead to a state.
    pub fn history(&self, loaded: Option<Loaded>, reach: Reach, began: Instant) -> Result<History> {
        let mut from = match loaded {
            Some(l) => l,
            None => load_snapshot(self.data, self.config, self.shards, Zxid::MAX)?,
        };
        let mut cuts = self.cuts(from.position)?;
        while let Some(lowest) = cuts.iter().map(|c| c.to).min().filter(|to| *to < from.db.last()) {
            tracing::warn!(
                "the snapshot at {} was made void by a cut at {lowest}; an older one is looked for",
                from.db.last()
            );
            from = load_snapshot(self.data, self.config, self.shards, lowest)?;
            match self.cuts(from.position) {
                Ok(found) => cuts = found,
                Err(e) => return Ok(self.nothing(from.position, reach, &format!("{e:#}"))),
            }
        }
        let Loaded { mut db, tree, position } = from;
        let mut window = Window::new(db.last(), reach);
        let mut confirmed = None;
        match self.replay((position, &cuts), &mut db, &mut window, &mut confirmed, began)? {
            Some(txns) => Ok(History { db, tree, position, window, confirmed, txns }),
            None => Ok(self.nothing(position, reach, "it began with a snapshot that the cut made void")),
        }
    }

    /// What a cut leaves that goes below all that is known.
    fn nothing(&self, position: Position, reach: Reach, why: &str) -> History {
        tracing::warn!(
            "nothing of the history is left before a cut ({why}); the leader is asked for all of it"
        );
        let (mut db, tree) = empty(self.shards);
        db.tree.ensure_builtins();
        let window = Window::new(Zxid::ZERO, reach);
        History { db, tree, position, window, confirmed: None, txns: 0 }
    }

    fn cuts(&self, from: Position) -> Result<Vec<Cut>> {
        let mut cuts = Vec::new();
        self.log.read(from, self.log.durable(), |at, bytes| -> Result<()> {
            if let Some(Record::Mark(Mark::Truncate(to))) = Record::decode(bytes) {
                cuts.push(Cut { at, to });
            }
            Ok(())
        })?;
        Ok(cuts)
    }

    /// How many transactions were applied. `None`: a later cut took the snapshot on which the rest stands.
    fn replay(
        &self,
        (from, cuts): (Position, &[Cut]),
        db: &mut Database,
        window: &mut Window,
        confirmed: &mut Option<Members>,
        began: Instant,
    ) -> Result<Option<u64>> {
        let mut count = 0u64;
        let mut lost = false;
        let mut said = began;
        self.log.read(from, self.log.durable(), |at, bytes| -> Result<()> {
            let txn = match Record::decode(bytes) {
                Some(Record::Txn(_)) if lost => return Ok(()),
                Some(Record::Txn(txn)) => txn,
                Some(Record::Mark(Mark::Truncate(_))) => return Ok(()),
                Some(Record::Mark(Mark::Installed(zxid))) if zxid == db.last() => {
                    db.set_fuzzy();
                    return Ok(());
                }
                Some(Record::Mark(Mark::Installed(zxid))) if cuts.iter().any(|c| c.at > at && c.to < zxid) => {
                    lost = true;
                    return Ok(());
                }
                Some(Record::Mark(_)) if lost => return Ok(()),
                Some(Record::Mark(Mark::Whole(zxid))) => {
                    db.set_whole_at(zxid);
                    return Ok(());
                }
                Some(Record::Mark(Mark::Installed(zxid))) => bail!(
                    "record {at} of the log says that a snapshot of {zxid} came from the leader, but no readable one is \
                     here; restore a backup, or empty the directory so that this server takes everything from the leader"
                ),
                None => bail!("record {at} of the log is neither a transaction nor a mark; restore a backup"),
            };
            let malformed = |e| anyhow!("record {at} of the log is not a transaction ({e}); restore a backup");
            let TxnHeader { zxid, kind, .. } = TxnHeader::decode(&mut Decoder::new(txn)).map_err(malformed)?;
            if cuts.iter().any(|c| c.at > at && c.to < zxid) {
                return Ok(());
            }
            let last = db.last();
            if zxid.0 != last.0 + 1 && !(zxid.epoch() > last.epoch() && zxid.counter() <= 1) {
                bail!("record {at} of the log has zxid {zxid}, which does not follow {last}; restore a backup");
            }
            if kind == Op::Reconfig.wire() {
                *confirmed = members_shown(db);
            }
            db.apply(txn, Origin::Foreign, None, false).map_err(malformed)?;
            window.push(Entry { zxid, txn: Arc::from(txn), ticket: Ticket(0) });
            window.trim(window.end());
            count += 1;
            if count.is_multiple_of(4096) {
                // Nobody reads yet, so everything superseded can go at once.
                db.tree.publish(db.last());
                while db.tree.collect(usize::MAX).more {}
                if said.elapsed().as_secs() >= 2 {
                    tracing::info!("replaying the log: {count} transactions so far, at {}", db.last());
                    said = Instant::now();
                }
            }
            Ok(())
        })?;
        db.tree.publish(db.last());
        Ok((!lost).then_some(count))
    }
}

/// A leader's snapshot gets its name first and its mark in the log right behind. If this server ended between the two, the mark
/// is made good: a learner must not be sent the log before it as if that led to what follows.
///
/// # Errors
/// The mark cannot be written.
pub fn note_install(log: &mut Log, history: &mut History) -> Result<()> {
    let (position, zxid) = (history.position, history.db.last());
    if log.next_position() != position || leads_to(&log.reader(), position, zxid) {
        return Ok(());
    }
    let mut mark = Group::new(Mark::BYTES);
    mark.push_slice(&Mark::Installed(zxid).encode())?;
    log.write(&mut mark)?;
    history.db.set_fuzzy();
    Ok(())
}

/// Whether the history in the log before `position` ends at `zxid`, or cannot be read, so that nobody is sent it.
fn leads_to(log: &wal::Reader, position: Position, zxid: Zxid) -> bool {
    // Marks say nothing, or much: back until something says where it ends.
    let mut span = 1;
    loop {
        let from = Position(position.0.saturating_sub(span)).max(log.oldest());
        let mut end = None;
        let read = log.read(from, position, |_, record| -> Result<()> {
            match Record::decode(record) {
                Some(Record::Txn(txn)) => {
                    end = TxnHeader::decode(&mut Decoder::new(txn)).ok().map(|h| h.zxid)
                }
                Some(Record::Mark(Mark::Truncate(to) | Mark::Installed(to))) => end = Some(to),
                Some(Record::Mark(Mark::Whole(_))) | None => {}
            }
            Ok(())
        });
        match end {
            Some(end) if read.is_ok() => return end == zxid,
            _ if read.is_err() || from == log.oldest() => return true,
            _ => span *= 16,
        }
    }
}

/// A state from a snapshot, or an empty one.
pub struct Loaded {
    db: Database,
    tree: tree::Handle,
    position: Position,
}

/// The newest readable snapshot that is not above `upto`.
fn load_snapshot(data: &Arc<DataDir>, config: &Config, shards: usize, upto: Zxid) -> Result<Loaded> {
    let (files, damaged) = snapshot::list(data)?;
    let any = !files.is_empty() || !damaged.is_empty();
    for d in damaged {
        tracing::warn!("snapshot {} is passed over: {}", d.path.display(), d.why);
    }
    for info in files.into_iter().filter(|info| info.tag <= upto.0) {
        match load_one(data, &info, config, shards) {
            Ok(loaded) => return Ok(loaded),
            Err(e) => tracing::warn!("the snapshot at zxid 0x{:x} is passed over: {e:#}", info.tag),
        }
    }
    if any {
        tracing::warn!("no snapshot can be read; the whole log is replayed instead");
    }
    let (mut db, tree) = empty(shards);
    db.tree.ensure_builtins();
    Ok(Loaded { db, tree, position: Position(0) })
}

/// A state without a node.
pub fn empty(shards: usize) -> (Database, tree::Handle) {
    // The seed only spreads paths over the index; it must differ between processes so that nobody can aim at it.
    let seed = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), shards);
    let (writer, handle) = tree::new_bare(seed, shards + READERS_EXTRA);
    (Database::new(writer), handle)
}

fn load_one(
    data: &Arc<DataDir>,
    info: &snapshot::SnapshotInfo,
    config: &Config,
    shards: usize,
) -> Result<Loaded> {
    let (mut db, handle) = empty(shards);
    let file = snapshot::open(data, info)?;
    let mut head = None;
    let mut sessions: HashMap<SessionId, i32> = HashMap::new();
    let mut parser = Parser::default();
    parser.feed(&file, |record, acls| -> Result<()> {
        match record {
            records::Record::Head { zxid, digest } => head = Some((zxid, digest)),
            records::Record::Session { id, timeout_ms } => {
                sessions.insert(id, timeout_ms);
            }
            records::Record::Node { path, data, acl, stat } => db
                .load_node(path, data, &acls[acl], &stat)
                .map_err(|e| anyhow!("node {path} cannot be loaded: {e:?}"))?,
            records::Record::End => {}
        }
        Ok(())
    })?;
    parser.finish()?;
    let (zxid, digest) = head.ok_or(Unreadable::Malformed).context("it has no head")?;
    db.loaded(zxid, sessions);
    let found = db.tree.digest();
    if let Some(expected) = digest.filter(|d| config.limits.digest && *d != found) {
        // Its checksums were right, so these are the bytes that were written: the prediction was wrong, not the tree.
        tracing::error!(
            "the snapshot at {zxid} says digest {expected:x}, its nodes have {found:x}: this is a bug; please report it"
        );
    }
    Ok(Loaded { db, tree: handle, position: info.position })
}
