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
    let (log, report) = Log::open_of(&data, &data, storage::has_begun(&data)?, options)?;
    anyhow::ensure!(report.oldest <= snapshot_at, "records are missing before {}", report.oldest);
    let source = Source { data: &data, log: log.reader(), config, shards };
    let mut history = source.history(None, REACH_ALL, Instant::now())?;
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
