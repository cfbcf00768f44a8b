//! When snapshots are taken, the thread that takes one, and what is deleted afterwards.
//!
//! Not here: file formats (`wal`), records (`engine::snapshot`), the walk (`engine::tree`).
//! Invariants:
//! - a snapshot is the state at exactly one zxid, all of it durable in the log; replay begins at the record behind it;
//! - at most one is taken at a time; a failed one costs nothing but the attempt: the log it would replace stays.

use super::journal::Journal;
use super::shared::Shared;
use crate::config::{Config, Purge};
use crate::words::summary::Summary;
use crossbeam::channel::{Receiver, bounded};
use engine::ids::{SessionId, Zxid};
use engine::server::Server;
use engine::snapshot::Encoder;
use engine::time::{MonoMs, Now};
use engine::tree;
use std::sync::Arc;
use std::time::Instant;
use wal::{DataDir, Position, WalError};

/// Nodes visited before the walker lets the writer's garbage go on.
const NODES_PER_SLICE: usize = 2048;
/// Bytes handed to the file at once.
const WRITE_BYTES: usize = 1 << 20;
/// After a failed snapshot, ms until the next attempt.
const RETRY_MS: u64 = 60_000;

/// Figures for status commands.
#[derive(Clone, Copy, Debug, Default)]
pub struct SnapshotStats {
    pub time_ms: Summary,
    pub failed: u64,
    pub last_zxid: Zxid,
    pub last_wall_s: i64,
}

/// See the module.
pub struct Snapshots {
    data: Arc<DataDir>,
    tree: tree::Handle,
    every_txns: u64,
    every_bytes: u64,
    digests: bool,
    purge: Option<Purge>,
    next_purge: MonoMs,
    /// The record behind what is applied, at the start.
    base: Position,
    base_zxid: Zxid,
    /// Where the newest snapshot stands.
    newest: Position,
    bytes_at_newest: u64,
    running: Option<Receiver<Result<Taken, WalError>>>,
    not_before: MonoMs,
    stats: SnapshotStats,
}

struct Taken {
    position: Position,
    zxid: Zxid,
    took_ms: u64,
    nodes: u64,
    bytes: u64,
}

impl Snapshots {
    /// `newest` is where the snapshot that was loaded stands; `base` the record behind what is applied now.
    pub fn new(
        data: Arc<DataDir>,
        tree: tree::Handle,
        profile: &profiles::Profile,
        config: &Config,
        newest: Position,
        base: (Position, Zxid),
        now: Now,
    ) -> Snapshots {
        Snapshots {
            data,
            tree,
            every_txns: profile.snapshot_txns,
            every_bytes: profile.snapshot_log_bytes,
            digests: config.limits.digest,
            next_purge: now.mono.plus(config.purge.map_or(u64::MAX, |p| p.interval_ms)),
            purge: config.purge,
            base: base.0,
            base_zxid: base.1,
            newest,
            bytes_at_newest: 0,
            running: None,
            not_before: now.mono,
            stats: SnapshotStats::default(),
        }
    }

    /// The record behind the last one applied. A lone server logs one record per zxid.
    fn applied(&self, server: &Server) -> Position {
        Position(self.base.0 + (server.db().last().0 - self.base_zxid.0))
    }

    /// Starts, ends, purges: whatever is due. Cheap when nothing is.
    pub fn step(&mut self, server: &Server, journal: &Journal, shared: &Shared, now: Now) {
        self.finish(now);
        let applied = self.applied(server);
        let behind = applied.0 - self.newest.0.min(applied.0);
        let bytes = journal.stats().bytes;
        let due = behind >= self.every_txns || bytes - self.bytes_at_newest >= self.every_bytes;
        if due && behind > 0 && self.running.is_none() && now.mono >= self.not_before && !shared.is_stopping()
        {
            self.bytes_at_newest = bytes;
            self.begin(server, applied, now);
        }
        if let Some(purge) = self.purge.filter(|_| now.mono >= self.next_purge) {
            self.next_purge = now.mono.plus(purge.interval_ms);
            self.purge(purge.keep_snapshots as usize, journal);
        }
    }

    /// When the next purge is due, for the sleep; a snapshot is due only after a transaction.
    pub fn next_deadline(&self) -> MonoMs {
        self.next_purge
    }

    fn begin(&mut self, server: &Server, position: Position, now: Now) {
        let zxid = server.db().last();
        self.not_before = now.mono.plus(RETRY_MS);
        let Some(walker) = self.tree.walker(zxid) else {
            tracing::warn!("no room for a reader of the tree: the snapshot is put off for a minute");
            return;
        };
        let sessions: Vec<(SessionId, i32)> = server.db().sessions().iter().map(|(s, t)| (*s, *t)).collect();
        let digest = self.digests.then(|| server.db().tree.digest());
        let (done, running) = bounded(1);
        let data = self.data.clone();
        let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let _unheard = done.send(take(&data, walker, position, zxid, digest, sessions));
        });
        match thread {
            Ok(_) => self.running = Some(running),
            Err(e) => tracing::warn!("the snapshot thread cannot start: {e}; next attempt in a minute"),
        }
    }

    fn finish(&mut self, now: Now) {
        let Some(result) = self.running.as_ref().and_then(|r| r.try_recv().ok()) else { return };
        self.running = None;
        match result {
            Ok(t) => {
                tracing::info!(
                    "snapshot at zxid {} taken: {} znodes, {} bytes, {} ms",
                    t.zxid,
                    t.nodes,
                    t.bytes,
                    t.took_ms
                );
                self.newest = t.position;
                self.not_before = now.mono;
                self.stats.time_ms.record(t.took_ms);
                self.stats.last_zxid = t.zxid;
                self.stats.last_wall_s = now.wall.0 / 1000;
            }
            Err(e) => {
                self.stats.failed += 1;
                tracing::error!(
                    "no snapshot could be taken ({e}); the log is kept; next attempt in a minute"
                );
            }
        }
    }

    fn purge(&self, keep: usize, journal: &Journal) {
        match wal::snapshot::retain(&self.data, keep) {
            Ok(Some(oldest)) => journal.reader().purge(oldest),
            Ok(None) => {}
            Err(e) => tracing::warn!("old snapshots cannot be deleted: {e}"),
        }
    }

    /// Figures.
    pub fn stats(&self) -> SnapshotStats {
        self.stats
    }
}

fn take(
    data: &Arc<DataDir>,
    mut walker: tree::Walker,
    position: Position,
    zxid: Zxid,
    digest: Option<u64>,
    sessions: Vec<(SessionId, i32)>,
) -> Result<Taken, WalError> {
    let began = Instant::now();
    let mut writer = wal::snapshot::SnapshotWriter::create(data, position, zxid.0)?;
    let mut encoder = Encoder::default();
    let mut out = Vec::with_capacity(WRITE_BYTES * 2);
    encoder.head(zxid, digest, sessions, &mut out);
    let (mut nodes, mut bytes) = (0, 0);
    loop {
        let more = walker.slice(NODES_PER_SLICE, |path, node| {
            nodes += 1;
            encoder.node(path, node.data(), node.acl(), &node.stat_persisted(), &mut out);
        });
        if !more {
            encoder.end(&mut out);
        }
        if out.len() >= WRITE_BYTES || !more {
            bytes += out.len() as u64;
            writer.write(&out)?;
            out.clear();
        }
        if !more {
            break;
        }
    }
    drop(walker);
    writer.finish(zxid.0)?;
    Ok(Taken { position, zxid, took_ms: began.elapsed().as_millis() as u64, nodes, bytes })
}
