//! What the tests of the log share: a directory on a faulty disk, records that name themselves, seeds.
#![allow(dead_code)] // Each test file is a crate of its own and uses a part.

use std::sync::Arc;

use wal::testing::{FaultyDisk, Rng};
use wal::{DataDir, Group, Log, Options, Position, RecoveryReport, WalError};

pub const DIR: &str = "/data";

/// Small segments, so that scripts roll; no thread, so that a seed is the whole run.
pub fn options(replay_from: u64) -> Options {
    Options { segment_bytes: 48 << 10, replay_from: Position(replay_from), background: false, named: false }
}

pub fn open(disk: &FaultyDisk) -> Result<(Log, RecoveryReport), WalError> {
    let dir = DataDir::open(Arc::new(disk.clone()), DIR)?;
    Log::open(&dir, options(0))
}

/// A record that tells its number, its writer's generation, and whether it is whole.
pub fn record(n: u64, generation: u64, len: usize) -> Vec<u8> {
    let mut r = Vec::with_capacity(16 + len);
    r.extend_from_slice(&n.to_le_bytes());
    r.extend_from_slice(&generation.to_le_bytes());
    let mut rng = Rng::new(n ^ (generation << 32));
    while r.len() < 16 + len {
        r.extend_from_slice(&rng.next_u64().to_le_bytes());
    }
    r.truncate(16 + len);
    r
}
pub fn number(r: &[u8]) -> u64 {
    u64::from_le_bytes(r[..8].try_into().unwrap())
}
pub fn generation(r: &[u8]) -> u64 {
    u64::from_le_bytes(r[8..16].try_into().unwrap())
}

/// All records of a log from `from`, each checked to be whole and at its place.
pub fn all(log: &Log, from: u64) -> Result<Vec<Vec<u8>>, WalError> {
    let mut got = Vec::new();
    log.replay(Position(from), |p, r| {
        assert_eq!(number(r), p.0, "record at its place");
        assert_eq!(r, record(p.0, generation(r), r.len() - 16), "record whole");
        got.push(r.to_vec());
        Ok::<(), WalError>(())
    })?;
    Ok(got)
}

/// Fills a group with `n` records from position `at` on.
pub fn fill(group: &mut Group, at: u64, generation: u64, n: usize, len: usize) -> Vec<Vec<u8>> {
    let records: Vec<_> = (0..n as u64).map(|i| record(at + i, generation, len)).collect();
    for r in &records {
        group.push_slice(r).unwrap();
    }
    records
}

/// The seeds to run: one from `WAL_SEED`, or `n` of a fixed series.
pub fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("WAL_SEED") {
        Ok(s) => {
            let hex = s.strip_prefix("0x").map(|h| u64::from_str_radix(h, 16));
            vec![hex.unwrap_or_else(|| s.parse()).expect("WAL_SEED is a number")]
        }
        Err(_) => (0..n).map(|i| 0x5EED_0000 + i).collect(),
    }
}

/// Prints how to replay a seed when the test panics.
pub struct Tell(pub &'static str, pub u64);
impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: WAL_SEED={:#x} cargo test -p wal --test {}", self.1, self.0);
        }
    }
}
