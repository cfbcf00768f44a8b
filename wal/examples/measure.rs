//! Measures the log on a directory of this machine: `measure DIR`. Run it by hand; figures depend on the disk.
//!
//! Beside each figure stands the same write without the log: direct, synchronous, over a file of zeros.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use wal::disk::{Disk, How, RealDisk};
use wal::{DataDir, Group, Log, Options, Position, WalError, snapshot};

const SPAN: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = std::env::args().nth(1).map(PathBuf::from).ok_or("usage: measure DIR")?;
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    for bytes in [4096usize, 64 << 10, 512 << 10, 4 << 20] {
        let raw = raw(&*disk, &path, bytes)?;
        report("raw overwrite", bytes, &raw);
        let blocking = log(&disk, &path, bytes, false)?;
        report("log, blocking", bytes, &blocking);
        let submitted = log(&disk, &path, bytes, true)?;
        report("log, submitted", bytes, &submitted);
    }
    reopen(&disk, &path)?;
    snapshots(&disk, &path)
}

fn report(what: &str, bytes: usize, times: &[Duration]) {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let total: f64 = times.iter().map(Duration::as_secs_f64).sum();
    let rate = times.len() as f64 / total;
    let at = |q: f64| sorted[((sorted.len() - 1) as f64 * q) as usize].as_micros();
    println!(
        "{what:<16} {:>5} KiB {rate:>9.0} groups/s {:>7.0} MB/s   us: p50 {} p99 {} p99.9 {} max {}",
        bytes >> 10,
        rate * bytes as f64 / 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}

fn raw(disk: &dyn Disk, dir: &Path, bytes: usize) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let path = dir.join("raw.tmp");
    let length = 64u64 << 20;
    disk.create_dir_all(dir)?;
    disk.create_zeroed(&path, length)?;
    let file = disk.open(&path, How::Log)?;
    let buffer = vec![7u8; bytes + 4096];
    let from = buffer.as_ptr().align_offset(4096);
    let (mut times, mut at, start) = (Vec::new(), 0, Instant::now());
    while start.elapsed() < SPAN {
        let t = Instant::now();
        file.write_at(&buffer[from..from + bytes], at)?;
        times.push(t.elapsed());
        at = if at + 2 * bytes as u64 > length { 0 } else { at + bytes as u64 };
    }
    disk.remove(&path)?;
    Ok(times)
}

fn log(
    disk: &Arc<dyn Disk>,
    path: &Path,
    bytes: usize,
    submit: bool,
) -> Result<Vec<Duration>, Box<dyn std::error::Error>> {
    let dir = DataDir::open(disk.clone(), path)?;
    let replay_from = snapshot::list(&dir)?.0.first().map_or(Position(0), |s| s.position);
    let (mut log, _) = Log::open(&dir, Options { replay_from, ..Options::default() })?;
    if submit && log.enable_submit().is_none() {
        println!("io_uring or direct I/O is refused here");
    }
    // One record that fills the group to the byte: header 64, length 4.
    let record = vec![9u8; bytes - 68];
    let mut group = Group::default();
    let (mut times, start) = (Vec::new(), Instant::now());
    while start.elapsed() < SPAN {
        group.push_slice(&record)?;
        let t = Instant::now();
        if submit {
            log.submit(group).map_err(|(_, e)| e)?;
            let (g, r) = log.wait().ok_or("nothing in flight")?;
            r?;
            group = g;
        } else {
            log.write(&mut group)?;
        }
        times.push(t.elapsed());
        if times.len().is_multiple_of(64) {
            // As if a snapshot were taken now and then.
            log.purge(Position(log.durable().0.saturating_sub(64)));
        }
    }
    println!("    {:?}", log.stats());
    // So that the next open need not read what was purged.
    let w = snapshot::SnapshotWriter::create(&dir, log.durable(), 0)?;
    log.close()?;
    w.finish(0)?;
    Ok(times)
}

fn reopen(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let path = path.join("reopen");
    let dir = DataDir::open(disk.clone(), &path)?;
    let (mut log, _) = Log::open(&dir, Options::default())?;
    let (mut group, record) = (Group::default(), vec![3u8; 1100]);
    for _ in 0..2500 {
        for _ in 0..100 {
            group.push_slice(&record)?;
        }
        log.write(&mut group)?;
    }
    log.close()?;
    let t = Instant::now();
    let (log, r) = Log::open(&dir, Options::default())?;
    let opened = t.elapsed();
    let (t, mut n) = (Instant::now(), 0u64);
    log.replay(Position(0), |_, r| {
        n += r.len() as u64;
        Ok::<(), WalError>(())
    })?;
    println!("open, {} records, {n} bytes: {opened:?}; replay {:?}", r.next, t.elapsed());
    let t = Instant::now();
    drop(log);
    let (log, _) = Log::open(&dir, Options { replay_from: r.next, ..Options::default() })?;
    println!("open with a snapshot at the end: {:?}", t.elapsed());
    drop((log, dir));
    std::fs::remove_dir_all(path)?;
    Ok(())
}

fn snapshots(disk: &Arc<dyn Disk>, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let path = path.join("snapshots");
    let dir = DataDir::open(disk.clone(), &path)?;
    let piece: Vec<u8> = (0..1_000_000u32).map(|i| i as u8).collect();
    let t = Instant::now();
    let mut w = snapshot::SnapshotWriter::create(&dir, Position(1), 1)?;
    for _ in 0..250 {
        w.write(&piece)?;
    }
    w.finish(1)?;
    println!("snapshot of 250 MB written in {:?}", t.elapsed());
    for cold in [true, false] {
        if cold {
            let name = path.join(format!("snap.{:016x}.{:016x}", 1, 1));
            disk.open(&name, How::Read)?.drop_cache();
        }
        let t = Instant::now();
        let (s, _) = snapshot::newest(&dir)?;
        let checked = t.elapsed();
        let sum: u64 = s.ok_or("no snapshot")?.iter().step_by(64).map(|b| u64::from(*b)).sum();
        println!(
            "loaded ({}): checked {checked:?}, touched {:?} ({sum})",
            if cold { "cold" } else { "warm" },
            t.elapsed()
        );
    }
    drop(dir);
    std::fs::remove_dir_all(path)?;
    Ok(())
}
