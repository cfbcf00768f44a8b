//! Power cuts: every crash point of a script with every kind of survival, and many seeded runs.
//!
//! Properties (DESIGN section 7): what was acknowledged survives; what was not is either kept, once and for ever, or
//! gone, once and for ever; what is read back is whole and at its place; a log is never refused after mere power cuts.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, Tell, all, fill, generation, open, options, seeds};
use wal::testing::{FaultyDisk, Op, Rng};
use wal::{DataDir, Group, Log, Position, WalError, snapshot};

/// What the outside world knows: which records it may rely on.
#[derive(Clone, Default, Debug)]
struct World {
    /// Records whose durability was reported, or that a recovery delivered.
    known: Vec<Vec<u8>>,
    /// Records written behind them whose fate is open.
    open: Vec<Vec<u8>>,
    /// Position of the oldest kept snapshot: records before it may be gone.
    purged_to: u64,
    /// Position of the newest snapshot that was finished.
    snapshot: Option<u64>,
}

impl World {
    /// A recovery: everything known is there, then a prefix of what was open; that is known from now on.
    fn recovered(&mut self, log: &Log) -> Result<(), WalError> {
        let from = self.purged_to;
        let got = all(log, from)?;
        let known = &self.known[from as usize..];
        assert!(got.len() >= known.len(), "acknowledged records lost: {} of {}", got.len(), known.len());
        assert_eq!(got[..known.len()], *known, "acknowledged records changed");
        let more = &got[known.len()..];
        assert!(more.len() <= self.open.len() && *more == self.open[..more.len()], "records from nowhere");
        assert!(more.is_empty() || more.len() == self.open.len(), "a group is kept whole or not at all");
        self.known.extend_from_slice(more);
        self.open.clear();
        Ok(())
    }
    fn next(&self) -> u64 {
        self.known.len() as u64
    }
    fn write(&mut self, log: &mut Log, generation: u64, n: usize, len: usize) -> Result<(), WalError> {
        assert_eq!(log.next_position().0, self.next());
        let mut g = Group::new(8192);
        self.open = fill(&mut g, self.next(), generation, n, len);
        let next = log.write(&mut g)?;
        self.known.append(&mut self.open);
        assert_eq!(next.0, self.next());
        Ok(())
    }
    fn snapshot(&mut self, log: &Log, dir: &Arc<DataDir>) -> Result<(), WalError> {
        let mut w = snapshot::SnapshotWriter::create(dir, Position(self.next()), self.next())?;
        w.write(&self.next().to_le_bytes())?;
        w.finish(0)?;
        self.snapshot = Some(self.next());
        if let Some(oldest) = snapshot::retain(dir, 3)? {
            self.purged_to = oldest.0;
            log.purge(oldest);
        }
        Ok(())
    }
}

fn start(disk: &FaultyDisk, world: &World) -> Result<(Log, Arc<DataDir>), WalError> {
    let dir = DataDir::open(Arc::new(disk.clone()), DIR)?;
    let (newest, damaged) = snapshot::newest(&dir)?;
    assert!(damaged.is_empty(), "a snapshot got its name before it was whole: {damaged:?}");
    let newest = newest.map(|s| {
        assert_eq!(*s, s.info.position.0.to_le_bytes(), "the snapshot's payload");
        s.info.position.0
    });
    assert!(newest >= world.snapshot, "a finished snapshot was lost: {newest:?}");
    // From the oldest snapshot that must be there, so that every record that counts is walked.
    let (log, _) = Log::open(&dir, options(world.purged_to))?;
    Ok((log, dir))
}

/// A short life: open, groups of all sizes over several segments, a snapshot, a purge, housekeeping.
fn script(disk: &FaultyDisk, world: &mut World, generation: u64) -> Result<(), WalError> {
    let (mut log, dir) = start(disk, world)?;
    world.recovered(&log)?;
    for n in 0..14 {
        world.write(&mut log, generation, n % 3 + 1, [10, 4000, 9000, 1][n % 4])?;
        if n % 5 == 4 {
            world.snapshot(&log, &dir)?;
        }
        if n % 2 == 0 {
            while log.housekeep()? {}
        }
    }
    log.close()
}

/// After a power cut: recovery, a write, another recovery from a cut that keeps only what was synced.
fn survives(disk: &FaultyDisk, world: &mut World, generation: u64) {
    let (mut log, _dir) = start(disk, world).expect("an open after a power cut");
    world.recovered(&log).unwrap();
    world.write(&mut log, generation, 2, 100).unwrap();
    drop((log, _dir));
    disk.power_cut(|_| false, 0);
    let (log, _dir) = start(disk, world).expect("an open after the second cut");
    world.recovered(&log).unwrap();
}

/// Every changing operation of the script as the last one; with each: nothing survives, everything, each prefix and
/// each single loss of the first sectors, random subsets; with none, half and all of the names.
#[test]
fn every_crash_point_with_every_kind_of_survival() {
    let seed = seeds(1)[0];
    let _tell = Tell("crash", seed);
    // Two lives before the one that is cut, so that there are seals, void segments, recycled ones and purges.
    let base = FaultyDisk::new(seed);
    let mut before = World::default();
    for generation in 0..2 {
        script(&base, &mut before, generation).unwrap();
    }
    base.power_cut(|_| true, usize::MAX);
    let dry = base.copy(seed);
    script(&dry, &mut before.clone(), 2).unwrap();
    let points = dry.count(Op::Any);
    assert!(points > 60, "{points}");
    let mut cuts = 0;
    for point in 1..=points {
        let cut = base.copy(seed);
        cut.fail_power_in(point);
        let mut world = before.clone();
        script(&cut, &mut world, 2).expect_err("power failed");
        let (sectors, names) = cut.unsynced();
        let prefixes = (0..=sectors.min(12)).map(|k| Box::new(move |i| i < k) as Box<dyn Fn(usize) -> bool>);
        let holes = (0..sectors.min(12)).map(|k| Box::new(move |i| i != k) as Box<dyn Fn(usize) -> bool>);
        let random = (0..4u64).map(|k| {
            let mut rng = Rng::new(seed ^ point << 8 ^ k);
            let mask: Vec<bool> = (0..sectors).map(|_| rng.once_in(2)).collect();
            Box::new(move |i: usize| mask[i]) as Box<dyn Fn(usize) -> bool>
        });
        let all = std::iter::once(Box::new(|_| true) as Box<dyn Fn(usize) -> bool>);
        for survives_cut in prefixes.chain(holes).chain(random).chain(all) {
            for kept in [0, names / 2, names] {
                let disk = cut.copy(seed);
                disk.power_cut(&survives_cut, kept);
                survives(&disk, &mut world.clone(), 3);
                cuts += 1;
            }
        }
    }
    println!("{points} crash points, {cuts} power cuts");
}

/// Long seeded lives: writes, snapshots, purges, power cuts, process deaths, failed writes, crashes in recovery.
#[test]
fn a_thousand_seeded_power_cuts_lose_nothing_acknowledged() {
    let (mut cuts, mut acknowledged, mut kept) = (0u64, 0u64, 0u64);
    for seed in seeds(90) {
        let _tell = Tell("crash", seed);
        let disk = FaultyDisk::new(seed);
        let mut rng = Rng::new(!seed);
        let mut world = World::default();
        for life in 0..14 {
            if !rng.once_in(4) {
                disk.fail_power_in(1 + rng.below(150));
            }
            if rng.once_in(6) {
                disk.fail_write_in(1 + rng.below(40));
            }
            let before = world.open.len() as u64;
            let _ = live(&disk, &mut world, &mut rng, life);
            kept += before.min(1);
            if rng.once_in(5) && !disk.is_off() {
                disk.kill_process();
            } else {
                disk.power_cut_randomly();
                cuts += 1;
            }
        }
        disk.clear_faults();
        survives(&disk, &mut world, 99);
        acknowledged += world.next();
    }
    println!(
        "{cuts} power cuts, {acknowledged} records known at the end, {kept} groups of open fate, 0 lost"
    );
    if std::env::var("WAL_SEED").is_err() {
        assert!(cuts >= 1000, "{cuts}");
    }
}

fn live(disk: &FaultyDisk, world: &mut World, rng: &mut Rng, life: u64) -> Result<(), WalError> {
    let (mut log, dir) = match start(disk, world) {
        Err(e @ WalError::Corrupt { .. }) => panic!("refused after power cuts: {e}"),
        r => r?,
    };
    world.recovered(&log)?;
    for _ in 0..rng.below(40) {
        match rng.below(12) {
            0 => world.snapshot(&log, &dir)?,
            1..3 => while log.housekeep()? {},
            3 => log.mark()?,
            4 => world.write(&mut log, life, 1, 30_000 + rng.below(60_000) as usize)?,
            _ => {
                let (n, len) = (1 + rng.below(6) as usize, rng.below(3000) as usize);
                world.write(&mut log, life, n, len)?;
            }
        }
    }
    if rng.once_in(2) { log.close() } else { Ok(()) }
}

/// A torn group that was cut stays cut, also when the blocks that were missing turn up later.
#[test]
fn what_was_cut_does_not_come_back() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut world = World::default();
    world.write(&mut log, 0, 1, 100).unwrap();
    disk.fail_power_in(1);
    world.write(&mut log, 0, 3, 3000).unwrap_err();
    drop(log);
    let whole = disk.copy(2);
    whole.power_cut(|_| true, 9);
    let segment = Path::new(DIR).join(format!("log.{:016x}", 1));
    let late = whole.bytes(&segment).unwrap();
    disk.power_cut(|i| i > 2, 9);
    let (log, report) = open(&disk).unwrap();
    assert_eq!(report.next, Position(1));
    drop(log);
    // The disk brings the old bytes back, seal or no seal.
    disk.put(&segment, &late);
    let (mut log, report) = open(&disk).unwrap();
    assert_eq!(report.next, Position(1));
    let mut g = Group::default();
    fill(&mut g, 1, 7, 1, 50);
    log.write(&mut g).unwrap();
    drop(log);
    disk.put(&segment, &late);
    let (log, _) = open(&disk).unwrap();
    assert_eq!(generation(&all(&log, 0).unwrap()[1]), 7);
}
