//! One writer, its housekeeping thread, and readers beside them, on the real disk.

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::{fill, generation, number, record};
use wal::disk::{Disk, RealDisk};
use wal::testing::Rng;
use wal::{DataDir, Group, Log, Options, Position, Reader, WalError};

/// Reads from random places until told to stop; returns how many records it saw.
fn read_on(reader: &Reader, stop: &AtomicBool, seed: u64) -> u64 {
    let mut rng = Rng::new(seed);
    let mut seen = 0;
    loop {
        let last = stop.load(Ordering::Acquire);
        let (oldest, durable) = (reader.oldest().0, reader.durable().0);
        let from = oldest + rng.below(durable.saturating_sub(oldest) + 1);
        let mut next = from;
        let r = reader.read(Position(from), Position(u64::MAX), |p, r| {
            assert_eq!(p.0, next, "no gap");
            assert_eq!(r, record(number(r), generation(r), r.len() - 16));
            assert_eq!(number(r), p.0);
            next += 1;
            seen += 1;
            Ok::<(), WalError>(())
        });
        match r {
            Ok(p) => assert!(p.0 >= durable && p.0 == next),
            // The purge overtook this reader, which is what it is for.
            Err(WalError::Purged { oldest, .. }) => assert!(oldest.0 > from),
            Err(e) => panic!("{e}"),
        }
        if last {
            return seen;
        }
    }
}

#[test]
fn readers_see_every_durable_record_while_the_writer_rolls_and_purges() {
    for buffered in [false, true] {
        let tmp = tempfile::tempdir().unwrap();
        let disk: Arc<dyn Disk> = Arc::new(if buffered { RealDisk::buffered() } else { RealDisk::new() });
        let dir = DataDir::open(disk, tmp.path()).unwrap();
        let o = Options { segment_bytes: 128 << 10, ..Options::default() };
        let (mut log, _) = Log::open(&dir, o).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|s| {
            let readers: Vec<_> = (0..2)
                .map(|n| {
                    let (reader, stop) = (log.reader(), &stop);
                    s.spawn(move || read_on(&reader, stop, n))
                })
                .collect();
            let mut g = Group::default();
            for round in 0..400 {
                let at = log.next_position().0;
                fill(&mut g, at, round, 1 + round as usize % 5, 700 * (round as usize % 7));
                log.write(&mut g).unwrap();
                if round % 50 == 49 {
                    log.purge(Position(at.saturating_sub(300)));
                }
            }
            stop.store(true, Ordering::Release);
            let seen: u64 = readers.into_iter().map(|r| r.join().unwrap()).sum();
            assert!(seen > 0);
        });
        assert!(log.stats().rolls > 10);
    }
}
