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
use crossbeam::channel::{Receiver, TryRecvError, bounded};
use engine::ids::{SessionId, Zxid};
use engine::server::Server;
use engine::snapshot::Encoder;
use engine::time::{MonoMs, Now};
use engine::tree;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wal::{DataDir, Position, WalError};

/// Nodes visited before the walker lets the writer's garbage go on.
const NODES_PER_SLICE: usize = 2048;
/// Bytes handed to the file at once.
const WRITE_BYTES: usize = 1 << 20;
/// Between two looks at how far the log is durable.
const DURABLE_POLL: Duration = Duration::from_millis(10);
/// After a failed snapshot, ms until the next attempt.
const RETRY_MS: u64 = 60_000;
/// Between two looks at the room on disk, ms. A segment may be written in half a second.
const LOOK_MS: u64 = 100;
/// A snapshot is not taken early for less log than this, bytes: only whole segments are set free.
const EARLY_MIN: u64 = 64 << 20;

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
    every_txns: u64,
    every_bytes: u64,
    digests: bool,
    purge: Option<Purge>,
    next_purge: MonoMs,
    /// Something may have become superfluous; deleted as soon as the thread before has ended.
    purge_wanted: bool,
    purging: Option<JoinHandle<()>>,
    /// Where the log is, and how many bytes it may still take there; unknown is as good as endless.
    log_dir: PathBuf,
    free_bytes: u64,
    early_min: u64,
    /// Where the newest snapshot stands.
    newest: Position,
    /// No newer one was passed over because it cannot be read: while there are such, an older one may be the last that is
    /// whole, and nothing is deleted.
    sound: bool,
    bytes_at_newest: u64,
    running: Option<Running>,
    /// Tells the thread to give up.
    give_up: Arc<AtomicBool>,
    /// When the room on disk was last looked at, and whether it was short.
    looked: MonoMs,
    short: bool,
    not_before: MonoMs,
    stats: SnapshotStats,
}

/// The thread that takes one.
struct Running {
    result: Receiver<Result<Taken, Failed>>,
    thread: JoinHandle<()>,
    /// `bytes_at_newest` before it was started.
    bytes_before: u64,
}

/// Why there is no snapshot.
enum Failed {
    Disk(WalError),
    /// The server ends.
    GivenUp,
}

impl From<WalError> for Failed {
    fn from(e: WalError) -> Failed {
        Failed::Disk(e)
    }
}

struct Taken {
    position: Position,
    zxid: Zxid,
    took_ms: u64,
    nodes: u64,
    bytes: u64,
}

impl Snapshots {
    /// `newest` is where the snapshot that was loaded stands.
    pub fn new(
        data: Arc<DataDir>,
        profile: &profiles::Profile,
        config: &Config,
        newest: Position,
        now: Now,
    ) -> Snapshots {
        let files = wal::snapshot::list(&data).map_or(Vec::new(), |(good, _)| good);
        Snapshots {
            sound: files.first().is_none_or(|f| f.position == newest),
            data,
            every_txns: profile.snapshot_txns,
            every_bytes: profile.snapshot_log_bytes,
            digests: config.limits.digest,
            // At once: a server that is started more often than that would never purge.
            next_purge: config.purge.map_or(MonoMs(u64::MAX), |_| now.mono),
            purge: config.purge,
            purge_wanted: false,
            purging: None,
            log_dir: config.data_log_dir.clone(),
            free_bytes: u64::MAX,
            early_min: profile.segment_bytes.max(EARLY_MIN),
            newest,
            bytes_at_newest: 0,
            running: None,
            give_up: Arc::default(),
            looked: now.mono,
            short: false,
            not_before: now.mono,
            stats: SnapshotStats::default(),
        }
    }

    /// Starts, ends, purges: whatever is due. Cheap when nothing is.
    pub fn step(&mut self, server: &Server, journal: &Journal, shared: &Shared, now: Now) {
        self.finish(now);
        let applied = journal.position_behind(server.zab().applied_ticket());
        let behind = applied.0 - self.newest.0.min(applied.0);
        let bytes = journal.stats().bytes;
        let bytes = bytes - self.bytes_at_newest;
        let due = behind >= self.every_txns || bytes >= self.every_bytes;
        let free = if self.short { 0 } else { self.free_bytes };
        let due = due || (self.purge.is_some() && is_early(bytes, self.early_min, free));
        // What no role has confirmed may still be taken back.
        let due = due && behind > 0 && server.is_confirmed();
        if due && self.running.is_none() && now.mono >= self.not_before && !shared.is_stopping() {
            self.begin(server, journal, applied, now);
        }
        self.look_at_room(journal, now);
        if let Some(purge) = self.purge {
            if now.mono >= self.next_purge {
                self.next_purge = now.mono.plus(purge.interval_ms);
                self.purge_wanted = true;
            }
            let free = self.purging.as_ref().is_none_or(JoinHandle::is_finished);
            if self.purge_wanted && self.sound && free {
                self.purge_wanted = false;
                self.purge(purge.keep_snapshots as usize, journal);
            }
        }
    }

    /// When the next purge is due, for the sleep; a snapshot is due only after a transaction.
    pub fn next_deadline(&self) -> MonoMs {
        self.next_purge
    }

    /// No room for the next segment of the log: said once, and what may be deleted is deleted.
    fn look_at_room(&mut self, journal: &Journal, now: Now) {
        if now.mono.since(self.looked) < LOOK_MS {
            return;
        }
        self.looked = now.mono;
        self.free_bytes = free_bytes(&self.log_dir);
        let short = journal.reader().low_on_space();
        if short && !self.short {
            let off = if self.purge.is_some() {
                ""
            } else {
                "; autopurge.purgeInterval is not set, so nothing is deleted"
            };
            tracing::error!(
                "no room for the log's next segment: free disk space now; when the current one is full the server ends{off}"
            );
            self.purge_wanted = true;
        } else if self.short && !short {
            tracing::info!("there is room for the log again");
        }
        self.short = short;
    }

    fn begin(&mut self, server: &Server, journal: &Journal, position: Position, now: Now) {
        let zxid = server.db().last();
        self.not_before = now.mono.plus(RETRY_MS);
        let Some(walker) = server.db().tree.handle().walker(zxid) else {
            tracing::warn!("no room for a reader of the tree: the snapshot is put off for a minute");
            return;
        };
        let sessions: Vec<(SessionId, i32)> = server.db().sessions().iter().map(|(s, t)| (*s, *t)).collect();
        let digest = self.digests.then(|| server.db().tree.digest());
        let (done, running) = bounded(1);
        let (data, log, give_up) = (self.data.clone(), journal.reader().clone(), self.give_up.clone());
        let thread = std::thread::Builder::new().name("snapshot".into()).spawn(move || {
            let from = Source { data, log, give_up, position, zxid, digest, sessions };
            let _unheard = done.send(take(from, walker));
        });
        match thread {
            Ok(thread) => {
                let bytes_before = std::mem::replace(&mut self.bytes_at_newest, journal.stats().bytes);
                self.running = Some(Running { result: running, thread, bytes_before });
            }
            Err(e) => tracing::warn!("the snapshot thread cannot start: {e}; next attempt in a minute"),
        }
    }

    fn finish(&mut self, now: Now) {
        let Some(running) = &self.running else { return };
        let result = match running.result.try_recv() {
            Err(TryRecvError::Empty) => return,
            Ok(result) => Some(result),
            Err(TryRecvError::Disconnected) => None,
        };
        let running = self.running.take().expect("looked at above");
        let _told_by_result = running.thread.join();
        if !matches!(result, Some(Ok(_))) {
            self.stats.failed += 1;
            self.bytes_at_newest = running.bytes_before;
        }
        match result {
            Some(Ok(t)) => {
                tracing::info!(
                    "snapshot at zxid {} taken: {} znodes, {} bytes, {} ms",
                    t.zxid,
                    t.nodes,
                    t.bytes,
                    t.took_ms
                );
                self.newest = t.position;
                self.not_before = now.mono;
                (self.sound, self.purge_wanted) = (true, true);
                self.stats.time_ms.record(t.took_ms);
                self.stats.last_zxid = t.zxid;
                self.stats.last_wall_s = now.wall.0 / 1000;
            }
            Some(Err(Failed::Disk(e))) => {
                tracing::error!(
                    "no snapshot could be taken ({e}); the log is kept; next attempt in a minute"
                );
            }
            Some(Err(Failed::GivenUp)) => {}
            None => tracing::error!("the snapshot thread panicked; the log is kept; please report this"),
        }
    }

    /// Gives up a snapshot that is being taken, and waits for its thread: nothing is written afterwards.
    pub fn end(mut self) {
        self.give_up.store(true, Ordering::Relaxed);
        if let Some(running) = self.running.take() {
            let _whatever = running.thread.join();
        }
        if let Some(thread) = self.purging.take() {
            let _whatever = thread.join();
        }
    }

    fn purge(&mut self, keep: usize, journal: &Journal) {
        // Deleting large files takes its time; the core does not wait for it.
        let (data, log) = (self.data.clone(), journal.reader().clone());
        let thread = std::thread::Builder::new().name("purge".into()).spawn(move || {
            match wal::snapshot::retain(&data, keep) {
                Ok(Some(oldest)) => log.purge(oldest),
                Ok(None) => {}
                Err(e) => tracing::warn!("old snapshots cannot be deleted: {e}"),
            }
        });
        match thread {
            Ok(thread) => self.purging = Some(thread),
            Err(e) => {
                tracing::warn!("the purge thread cannot start: {e}; it is tried again at the next purge")
            }
        }
    }

    /// Figures.
    pub fn stats(&self) -> SnapshotStats {
        self.stats
    }
}

/// Whether a snapshot is due before its time, so that log can be deleted: the log behind the last one is as long as the
/// room that is left. (Where there is none left the snapshot may find none either.)
fn is_early(log: u64, least: u64, free: u64) -> bool {
    log >= least.max(free)
}

fn free_bytes(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |s| s.f_bavail.saturating_mul(s.f_frsize))
}

/// What a snapshot is taken from, besides the tree.
struct Source {
    data: Arc<DataDir>,
    log: wal::Reader,
    give_up: Arc<AtomicBool>,
    position: Position,
    zxid: Zxid,
    digest: Option<u64>,
    sessions: Vec<(SessionId, i32)>,
}

fn take(from: Source, walker: tree::Walker) -> Result<Taken, Failed> {
    let Source { data, log, give_up, position, zxid, digest, sessions } = from;
    let began = Instant::now();
    let stop = || give_up.load(Ordering::Relaxed);
    let Some((writer, nodes, bytes)) =
        write_payload(&data, position, (zxid, digest, sessions), walker, &stop)?
    else {
        return Err(Failed::GivenUp);
    };
    // With the weak durability what is applied may not be durable yet: a snapshot must not be ahead of its log.
    while log.durable() < position {
        if give_up.load(Ordering::Relaxed) {
            return Err(Failed::GivenUp);
        }
        std::thread::sleep(DURABLE_POLL);
    }
    writer.finish(zxid.0)?;
    Ok(Taken { position, zxid, took_ms: began.elapsed().as_millis() as u64, nodes, bytes })
}

/// Head of a snapshot: its zxid, the tree's digest, the sessions.
pub type Head = (Zxid, Option<u64>, Vec<(SessionId, i32)>);
/// A file with everything but its end, nodes and bytes.
pub type Written = (wal::snapshot::SnapshotWriter, u64, u64);

/// Writes everything but the end, which makes the file valid. `None`: it was given up.
pub fn write_payload(
    data: &Arc<DataDir>,
    position: Position,
    (zxid, digest, sessions): Head,
    mut walker: tree::Walker,
    give_up: &dyn Fn() -> bool,
) -> Result<Option<Written>, WalError> {
    let mut writer = wal::snapshot::SnapshotWriter::create(data, position, zxid.0)?;
    let mut encoder = Encoder::default();
    let mut out = Vec::with_capacity(WRITE_BYTES * 2);
    encoder.head(zxid, digest, sessions, &mut out);
    let (mut nodes, mut bytes) = (0, 0);
    loop {
        let more = walker.slice_while(NODES_PER_SLICE, |path, node| {
            nodes += 1;
            encoder.node(path, node.data(), node.acl(), &node.stat_persisted(), &mut out);
            out.len() < WRITE_BYTES
        });
        if give_up() {
            return Ok(None);
        }
        if !more {
            encoder.end(&mut out);
        }
        if out.len() >= WRITE_BYTES || !more {
            bytes += out.len() as u64;
            writer.write(&out)?;
            out.clear();
        }
        if !more {
            return Ok(Some((writer, nodes, bytes)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_and_room_meet_in_the_middle_of_a_disk() {
        const DISK: u64 = 1 << 30;
        let early = |log: u64| is_early(log, EARLY_MIN, DISK - log);
        assert!(!early(DISK / 2 - 1) && early(DISK / 2));
        assert!(!is_early(EARLY_MIN - 1, EARLY_MIN, 0), "no segment would be set free");
        assert!(!is_early(DISK, EARLY_MIN, u64::MAX), "what is not known is no reason");
        assert!(
            free_bytes(Path::new("/no/such/directory")) == u64::MAX && free_bytes(Path::new("/")) < u64::MAX
        );
    }
}
