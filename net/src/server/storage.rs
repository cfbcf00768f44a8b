//! From a data directory to a state that can serve: newest whole snapshot, then the log behind it.
//!
//! Not here: file formats (`wal`), what records mean (`engine::snapshot`, `engine::txn`).
//! Invariants:
//! - what is served was durable: the log's tail was synced again before anything is replayed;
//! - a snapshot that cannot be read is passed over with a warning, and an older one with the log behind it serves.

use super::desk::StartFigures;
use crate::config::Config;
use anyhow::{Context, Result, anyhow, bail};
use engine::ids::SessionId;
use engine::pipeline::{Database, Notice, Origin};
use engine::snapshot::{Parser, Record, Unreadable};
use engine::tree;
use profiles::{Profile, WalIo};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;
use wal::disk::{Disk as _, RealDisk};
use wal::{DataDir, Log, Position, snapshot};

/// A recovered state.
pub struct Recovered {
    pub db: Database,
    pub tree: tree::Handle,
    pub log: Log,
    /// Snapshots live here.
    pub data: Arc<DataDir>,
    /// Where the newest snapshot stands; nothing before the first.
    pub snapshot_at: Position,
    /// The next record of the log.
    pub next: Position,
    pub figures: StartFigures,
}

/// Readers of the tree besides the shards: snapshot walkers and status commands.
const READERS_EXTRA: usize = 4;

/// Opens the directories, loads the newest snapshot that is whole, replays the log.
pub fn recover(config: &Config, profile: &Profile, shards: usize) -> Result<Recovered> {
    let began = Instant::now();
    let disk =
        Arc::new(if profile.wal_io == WalIo::Buffered { RealDisk::buffered() } else { RealDisk::new() });
    let data = DataDir::open(disk.clone(), &config.data_dir)?;
    let log_dir = if config.data_log_dir == config.data_dir {
        data.clone()
    } else {
        DataDir::open(disk.clone(), &config.data_log_dir)?
    };
    let (mut db, tree, snapshot_at) = load_snapshot(&data, config, shards)?;
    let from_snapshot = db.tree.node_count();
    let snapshot_ms = began.elapsed().as_millis() as u64;
    let options = wal::Options {
        segment_bytes: profile.segment_bytes,
        replay_from: snapshot_at,
        ..wal::Options::default()
    };
    let (log, report) = Log::open(&log_dir, options)?;
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
    let txns = replay(&log, snapshot_at, &mut db, began)?;
    let figures = StartFigures {
        snapshot_ms,
        replay_ms: began.elapsed().as_millis() as u64 - snapshot_ms,
        txns,
        ..StartFigures::default()
    };
    db.tree.publish(db.last());
    let mismatches = db.take_notices().iter().filter(|n| matches!(n, Notice::DigestMismatch { .. })).count();
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
    Ok(Recovered { db, tree, log, data, snapshot_at, next: report.next, figures })
}

fn replay(log: &Log, from: Position, db: &mut Database, began: Instant) -> Result<u64> {
    let mut count = 0u64;
    let mut said = began;
    log.replay(from, |position, bytes| -> Result<()> {
        let expected = db.last().next_carrying();
        let (applied, _) = db.apply(bytes, Origin::Foreign, None, false).map_err(|e| {
            anyhow!("record {position} of the log is not a transaction ({e}); restore a backup")
        })?;
        if applied.zxid != expected {
            bail!("record {position} of the log has zxid {} where {expected} was expected", applied.zxid);
        }
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
    Ok(count)
}

type Loaded = (Database, tree::Handle, Position);

fn load_snapshot(data: &Arc<DataDir>, config: &Config, shards: usize) -> Result<Loaded> {
    let (files, damaged) = snapshot::list(data)?;
    let any = !files.is_empty() || !damaged.is_empty();
    for d in damaged {
        tracing::warn!("snapshot {} is passed over: {}", d.path.display(), d.why);
    }
    for info in files {
        match load_one(data, &info, config, shards) {
            Ok(loaded) => return Ok(loaded),
            Err(e) => tracing::warn!("the snapshot at zxid 0x{:x} is passed over: {e:#}", info.tag),
        }
    }
    if any {
        tracing::warn!("no snapshot can be read; the whole log is replayed instead");
    }
    let (mut db, handle) = empty(shards);
    db.tree.ensure_builtins();
    Ok((db, handle, Position(0)))
}

fn empty(shards: usize) -> (Database, tree::Handle) {
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
            Record::Head { zxid, digest } => head = Some((zxid, digest)),
            Record::Session { id, timeout_ms } => {
                sessions.insert(id, timeout_ms);
            }
            Record::Node { path, data, acl, stat } => db
                .load_node(path, data, &acls[acl], &stat)
                .map_err(|e| anyhow!("node {path} cannot be loaded: {e:?}"))?,
            Record::End => {}
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
    Ok((db, handle, info.position))
}
