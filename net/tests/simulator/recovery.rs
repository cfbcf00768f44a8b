//! A member's start: the real recovery of `net::server::storage` over the faulty disk.
//!
//! `storage.rs` (and `sending.rs`, what a learner is sent) is private to `net`, so this target includes the files themselves; only the opening of the log, which it
//! does on a real disk, is done here.

/// What the included file calls by these paths.
#[allow(dead_code)]
mod desk {
    #[derive(Default)]
    pub struct StartFigures {
        pub total_ms: u64,
        pub snapshot_ms: u64,
        pub replay_ms: u64,
        pub txns: u64,
        pub digest_mismatches: u64,
    }
}
pub const EPOCHS_FILE: &str = "epochs";
#[path = "../../src/server/sending.rs"]
pub mod sending;
#[allow(dead_code)]
#[path = "../../src/server/storage.rs"]
pub mod storage;

use crate::config::Config;
use engine::ids::Zxid;
use engine::pipeline::Database;
use engine::zab::members::Members;
use engine::zab::{Entry, Epochs, Reach, Window};
use std::sync::Arc;
use std::time::Instant;
use storage::Source;
use wal::testing::FaultyDisk;
use wal::{DataDir, Log, Options, Position, SmallFile, snapshot};

/// Where a member keeps everything.
pub const DIR: &str = "/data";
/// Enough for every history of a run.
pub const REACH_ALL: Reach = Reach { entries: usize::MAX, bytes: usize::MAX };

/// What a start finds.
pub struct Recovered {
    pub db: Database,
    pub tree: engine::tree::Handle,
    pub log: Log,
    pub data: Arc<DataDir>,
    pub snapshot_at: Position,
    /// Where the replay began.
    pub base: Zxid,
    /// All of the history behind it.
    pub entries: Vec<Entry>,
    pub window: Window,
    pub confirmed: Option<Members>,
    pub epochs: Epochs,
}

/// All entries of a window, and the same window with another reach.
pub fn narrowed(window: &Window, reach: Reach) -> (Vec<Entry>, Window) {
    let entries: Vec<Entry> = (window.first()..window.end()).filter_map(|p| window.get(p)).cloned().collect();
    let mut narrow = Window::new(window.base(), reach);
    for e in &entries {
        narrow.push(e.clone());
    }
    narrow.trim(narrow.end());
    (entries, narrow)
}

/// Loads the newest snapshot and replays the log.
pub fn recover(disk: &FaultyDisk, config: &Config, shards: usize, reach: Reach) -> anyhow::Result<Recovered> {
    let data = DataDir::open(Arc::new(disk.clone()), DIR)?;
    let (files, damaged) = snapshot::list(&data)?;
    anyhow::ensure!(damaged.is_empty(), "a snapshot got its name before it was whole: {damaged:?}");
    let snapshot_at = files.first().map_or(Position(0), |f| f.position);
    let options =
        Options { segment_bytes: 64 << 10, replay_from: snapshot_at, background: false, named: false };
    let (mut log, report) = Log::open_of(&data, &data, storage::has_begun(&data)?, options)?;
    anyhow::ensure!(report.oldest <= snapshot_at, "records are missing before {}", report.oldest);
    let source = Source { data: &data, log: log.reader(), config, shards };
    let mut history = source.history(None, REACH_ALL, Instant::now())?;
    storage::note_install(&mut log, &mut history)?;
    let mismatches = history.db.take_notices();
    anyhow::ensure!(mismatches.is_empty(), "replay gave another tree: {mismatches:?}");
    let base = history.window.base();
    let (entries, window) = narrowed(&history.window, reach);
    let epochs = epochs(&data, &history.db)?;
    Ok(Recovered {
        db: history.db,
        tree: history.tree,
        log,
        snapshot_at,
        base,
        entries,
        window,
        confirmed: history.confirmed,
        epochs,
        data,
    })
}

fn epochs(data: &Arc<DataDir>, db: &Database) -> anyhow::Result<Epochs> {
    let Some(bytes) = SmallFile::new(data, EPOCHS_FILE).read()? else {
        return Ok(Epochs { accepted: db.last().epoch(), current: db.last().epoch() });
    };
    let text = String::from_utf8(bytes)?;
    let numbers: Vec<u32> = text.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
    anyhow::ensure!(numbers.len() == 2, "epochs: {text:?}");
    Ok(Epochs { accepted: numbers[0], current: numbers[1] })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;
    use crate::snapshots::Writing;
    use engine::zab::{Mark, Record};
    use wal::Group;

    fn txn(zxid: Zxid) -> Vec<u8> {
        let kind = engine::proto::Op::CloseSession.wire();
        [&[0; 12][..], &zxid.0.to_be_bytes(), &[0; 8], &kind.to_be_bytes()].concat()
    }

    /// A log of these records, and behind it a snapshot, with which the process ended.
    fn crashed(records: &[Vec<u8>], zxid: Zxid) -> FaultyDisk {
        let disk = FaultyDisk::new(1);
        let data = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
        let options = Options { segment_bytes: 64 << 10, background: false, ..Options::default() };
        let (mut log, _) = Log::open_of(&data, &data, false, options).unwrap();
        let mut group = Group::new(1 << 16);
        records.iter().for_each(|r| group.push_slice(r).unwrap());
        log.write(&mut group).unwrap();
        let (mut db, _tree) = storage::empty(1);
        db.tree.ensure_builtins();
        db.loaded(zxid, Default::default());
        db.tree.publish(zxid);
        let mut writing = Writing::begin(&data, log.next_position(), &db).unwrap();
        while writing.slice(64).unwrap() {}
        writing.writer.finish(zxid.0).unwrap();
        disk
    }

    /// What stands in the log behind the snapshot after a start.
    fn behind(records: &[Vec<u8>], zxid: Zxid) -> Vec<Mark> {
        let disk = crashed(records, zxid);
        let common = crate::world::common(&Plan::calm(1));
        let found = recover(&disk, &common.config, 1, REACH_ALL).unwrap();
        assert_eq!((found.db.last(), found.snapshot_at), (zxid, Position(records.len() as u64)));
        let (log, mut marks) = (found.log.reader(), Vec::new());
        let read = log.read(found.snapshot_at, log.durable(), |_, r| -> anyhow::Result<()> {
            marks.extend(match Record::decode(r) {
                Some(Record::Mark(m)) => Some(m),
                _ => None,
            });
            Ok(())
        });
        read.unwrap();
        marks
    }

    /// A leader's snapshot gets its name, and its mark in the log is the next thing: without it a learner would be sent the
    /// log across a hole.
    #[test]
    fn a_start_says_that_a_snapshot_came_from_a_leader_if_the_log_does_not_lead_to_it() {
        let (old, new) = (Zxid::new(1, 1), Zxid::new(2, 7));
        let cut = |to| Mark::Truncate(to).encode().to_vec();
        let whole = Mark::Whole(old).encode().to_vec();
        let came = [Mark::Installed(new)];
        assert_eq!(behind(&[txn(old)], new), came);
        assert_eq!(behind(&[txn(old), whole.clone()], new), came);
        assert_eq!(behind(&[txn(new), cut(old)], new), came);
        // Its own ones.
        assert_eq!(behind(&[txn(old)], old), []);
        assert_eq!(behind(&[txn(old), whole.clone(), whole], old), []);
        assert_eq!(behind(&[txn(old), txn(new), cut(old)], old), []);
    }
}
