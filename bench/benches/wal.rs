//! The log on a real disk: groups written and synced, an open with its replay, snapshots.
//!
//! Runs in a temporary directory, so `TMPDIR` says which disk. Beside each group stands the same write without the
//! log: direct, synchronous, over a file of zeros.

mod support;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use std::cell::RefCell;
use std::path::Path;
use std::sync::Arc;
use support::{settings, trying};
use wal::disk::{Disk, DiskFile, How, RealDisk};
use wal::snapshot::{self, SnapshotWriter};
use wal::{DataDir, Group, Log, Options, Position, WalError};

/// Bytes of a group beside its one record.
const GROUP_OVERHEAD: usize = 68;
const RAW_BYTES: u64 = 64 << 20;

type Bench<'a> = BenchmarkGroup<'a, WallTime>;

fn groups(c: &mut Criterion) {
    let mut group = c.benchmark_group("wal_group_write");
    for (bytes, name) in [(4 << 10, "4KiB"), (64 << 10, "64KiB"), (512 << 10, "512KiB")] {
        group.throughput(Throughput::Elements(1));
        raw(&mut group, bytes, name);
        logged(&mut group, bytes, name);
    }
    group.finish();
}

fn raw(group: &mut Bench<'_>, bytes: usize, name: &str) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let opened = RefCell::new(None::<(Arc<dyn DiskFile>, Vec<u8>, u64)>);
    group.bench_function(format!("group={name}/raw"), |b| {
        let mut opened = opened.borrow_mut();
        let (file, buffer, at) = opened.get_or_insert_with(|| {
            let disk = RealDisk::new();
            let path = dir.path().join("raw");
            disk.create_zeroed(&path, RAW_BYTES).expect("room for it");
            (disk.open(&path, How::Log).expect("it is there"), vec![7; bytes + 4096], 0)
        });
        let from = buffer.as_ptr().align_offset(4096);
        b.iter(|| {
            file.write_at(&buffer[from..from + bytes], *at).expect("written");
            *at = if *at + 2 * bytes as u64 > RAW_BYTES { 0 } else { *at + bytes as u64 };
        });
    });
}

fn logged(group: &mut Bench<'_>, bytes: usize, name: &str) {
    let record = vec![9u8; bytes - GROUP_OVERHEAD];
    for how in ["blocking", "submitted"] {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let opened = RefCell::new(None);
        group.bench_function(format!("group={name}/{how}"), |b| {
            let mut opened = opened.borrow_mut();
            let (log, free, written) = opened.get_or_insert_with(|| {
                let mut log = open(dir.path(), Options::default());
                if how == "submitted" && log.enable_submit().is_none() {
                    eprintln!("io_uring or direct I/O is refused here: what follows is a blocking write");
                }
                (log, Some(Group::default()), 0u64)
            });
            b.iter(|| {
                let mut full = free.take().expect("nothing in flight");
                full.push_slice(&record).expect("small enough");
                *free = Some(if how == "blocking" {
                    log.write(&mut full).expect("written");
                    full
                } else {
                    log.submit(full).map_err(|(_, e)| e).expect("submitted");
                    let (emptied, result) = log.wait().expect("in flight");
                    result.expect("written");
                    emptied
                });
                *written += 1;
                if written.is_multiple_of(64) {
                    // As if a snapshot were taken now and then.
                    log.purge(Position(log.durable().0.saturating_sub(64)));
                }
            });
        });
    }
}

fn open(dir: &Path, options: Options) -> Log {
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let dir = DataDir::open(disk, dir).expect("a directory of its own");
    Log::open(&dir, options).expect("undamaged").0
}

fn replay(c: &mut Criterion) {
    let (groups, per_group) = if trying() { (2, 10) } else { (1_000, 100) };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let filled = RefCell::new(false);
    let mut group = c.benchmark_group("wal_open_and_replay");
    group.throughput(Throughput::Elements(groups * per_group));
    group.bench_function(format!("records={}/record=1100B", groups * per_group), |b| {
        if !filled.replace(true) {
            let mut log = open(dir.path(), Options::default());
            let (mut full, record) = (Group::default(), vec![3u8; 1_100]);
            for _ in 0..groups {
                (0..per_group).for_each(|_| full.push_slice(&record).expect("small enough"));
                log.write(&mut full).expect("written");
            }
            log.close().expect("closed");
        }
        b.iter(|| {
            let log = open(dir.path(), Options::default());
            let mut records = 0;
            let each = |_, _: &[u8]| {
                records += 1;
                Ok::<(), WalError>(())
            };
            log.replay(Position(0), each).expect("undamaged");
            assert_eq!(records, groups * per_group);
        });
    });
    group.finish();
}

fn snapshots(c: &mut Criterion) {
    let bytes: usize = if trying() { 1 << 20 } else { 64 << 20 };
    let name = format!("bytes={}MiB", bytes >> 20);
    let tmp = tempfile::tempdir().expect("a temporary directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let dir = DataDir::open(disk, tmp.path()).expect("a directory of its own");
    let piece: Vec<u8> = (0..1u32 << 20).map(|i| i as u8).collect();
    let write = || {
        let mut w = SnapshotWriter::create(&dir, Position(1), 1).expect("room for it");
        (0..bytes / piece.len()).for_each(|_| w.write(&piece).expect("written"));
        w.finish(1).expect("synced")
    };
    let mut group = c.benchmark_group("wal_snapshot");
    group.throughput(Throughput::Bytes(bytes as u64));
    group.sample_size(10);
    group.bench_function(format!("write/{name}"), |b| b.iter(write));
    write();
    group.bench_function(format!("open-cached/{name}"), |b| {
        b.iter(|| {
            let (newest, _) = snapshot::newest(&dir).expect("readable");
            newest.expect("one").iter().step_by(64).map(|byte| u64::from(*byte)).sum::<u64>()
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = groups, replay, snapshots
}
criterion_main!(benches);
