//! The log as a caller sees it, without power cuts.

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{DIR, all, fill, open, options, record};
use wal::disk::{Disk, How, RealDisk};
use wal::testing::FaultyDisk;
use wal::{DataDir, Group, Log, Options, Position, SmallFile, Stage, Tail, WalError, inspect, snapshot};

#[test]
fn what_is_written_is_replayed_after_a_reopen_over_many_segments() {
    let disk = FaultyDisk::new(1);
    let mut want = Vec::new();
    for generation in 0..5 {
        let (mut log, report) = open(&disk).unwrap();
        assert_eq!(report.next, Position(want.len() as u64));
        assert_eq!(all(&log, 0).unwrap(), want);
        let mut g = Group::new(8192);
        for n in 0..20 {
            want.extend(fill(&mut g, want.len() as u64, generation, n % 4 + 1, 700 * n));
            assert_eq!(log.write(&mut g).unwrap(), Position(want.len() as u64));
            assert!(g.is_empty());
        }
        assert!(log.stats().rolls > 2);
        assert_eq!(all(&log, 0).unwrap(), want);
        assert_eq!(all(&log, 17).unwrap(), want[17..]);
        log.close().unwrap();
    }
}

#[test]
fn a_record_larger_than_a_segment_has_one_to_itself() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut g = Group::default();
    let mut want = Vec::new();
    for len in [10, 300_000, 20, 100_000, 30] {
        want.extend(fill(&mut g, want.len() as u64, 0, 1, len));
        log.write(&mut g).unwrap();
        assert_eq!(all(&log, 0).unwrap(), want);
    }
    drop(log);
    let (log, report) = open(&disk).unwrap();
    assert_eq!((report.next, report.tail), (Position(5), Tail::Clean));
    assert_eq!(all(&log, 0).unwrap(), want);
}

#[test]
fn a_record_above_the_limit_is_refused_and_leaves_the_group_alone() {
    let mut g = Group::default();
    g.push_slice(b"small").unwrap();
    let r = g.push(|out| out.resize(out.len() + wal::RECORD_BYTES_MAX + 1, 0));
    assert!(matches!(r, Err(WalError::TooLarge { .. })));
    assert_eq!((g.records(), g.bytes()), (1, 4 + 5));
}

#[test]
fn purge_recycles_segments_and_old_records_are_said_to_be_gone() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut g = Group::default();
    for n in 0..60 {
        fill(&mut g, n, 0, 1, 5000);
        log.write(&mut g).unwrap();
        log.purge(Position(n.saturating_sub(20)));
        while log.housekeep().unwrap() {}
    }
    let oldest = log.reader().oldest().0;
    assert!((10..=40).contains(&oldest), "{oldest}");
    assert_eq!(all(&log, oldest).unwrap().len() as u64, 60 - oldest);
    let gone = all(&log, oldest - 1);
    assert!(matches!(gone, Err(WalError::Purged { oldest: o, .. }) if o.0 == oldest));
    let files = disk.list(Path::new(DIR)).unwrap().len();
    assert!(files <= 12, "{files} files");
    drop(log);
    // Recycled leftovers are no records; replay needs the snapshot's position.
    let dir = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
    assert!(matches!(Log::open(&dir, options(0)), Err(WalError::Corrupt { .. })));
    let (log, report) = Log::open(&dir, options(oldest + 1)).unwrap();
    assert_eq!(report.next, Position(60));
    assert_eq!(all(&log, oldest + 1).unwrap().len() as u64, 59 - oldest);
}

#[test]
fn a_log_that_ends_before_the_snapshot_is_refused() {
    let disk = FaultyDisk::new(1);
    let dir = DataDir::open(Arc::new(disk), DIR).unwrap();
    let e = Log::open(&dir, options(7)).unwrap_err();
    assert!(matches!(e, WalError::Corrupt { .. }), "{e}");
}

#[test]
fn a_failed_write_poisons_and_the_next_open_decides() {
    for seed in 0..40 {
        let disk = FaultyDisk::new(seed);
        let (mut log, _) = open(&disk).unwrap();
        let mut g = Group::default();
        fill(&mut g, 0, 0, 3, 100);
        log.write(&mut g).unwrap();
        fill(&mut g, 3, 0, 3, 3000);
        disk.fail_write_in(1);
        assert!(matches!(log.write(&mut g), Err(WalError::Poisoned { stage: Stage::Write, .. })));
        assert!(matches!(log.write(&mut Group::default()), Err(WalError::Poisoned { .. })));
        assert!(matches!(log.mark(), Err(WalError::Poisoned { .. })));
        assert_eq!(log.durable(), Position(3));
        drop(log);
        disk.power_cut_randomly();
        let (log, report) = open(&disk).unwrap();
        assert!(report.next == Position(3) || report.next == Position(6));
        assert_eq!(all(&log, 0).unwrap().len() as u64, report.next.0);
    }
}

#[test]
fn a_failed_sync_of_a_small_file_poisons_it() {
    let disk = FaultyDisk::new(1);
    let dir = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
    let mut f = SmallFile::new(&dir, "current-epoch");
    assert_eq!(f.read().unwrap(), None);
    f.replace(b"7").unwrap();
    assert_eq!(f.read().unwrap().unwrap(), b"7");
    disk.fail_sync_in(1);
    assert!(matches!(f.replace(b"8"), Err(WalError::Poisoned { stage: Stage::SmallFile, .. })));
    assert!(matches!(f.replace(b"9"), Err(WalError::Poisoned { .. })));
    assert!(matches!(f.read(), Err(WalError::Poisoned { .. })));
    assert_eq!(SmallFile::new(&dir, "current-epoch").read().unwrap().unwrap(), b"7");
    disk.flip(&Path::new(DIR).join("current-epoch"), 16, 3);
    let e = SmallFile::new(&dir, "current-epoch").read().unwrap_err();
    assert!(matches!(e, WalError::Corrupt { .. }));
}

#[test]
fn a_full_disk_is_noticed_ahead_refuses_before_writing_and_goes_on_when_there_is_room() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    while log.housekeep().unwrap() {}
    // Room for current, next and reserve, and nothing more.
    disk.set_capacity(3 * (48 << 10) + 8192);
    let mut g = Group::default();
    let mut n = 0;
    let e = loop {
        fill(&mut g, n, 0, 1, 6000);
        match log.write(&mut g) {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
        let _ = log.housekeep();
    };
    assert!(matches!(e, WalError::NoSpace { .. }), "{e}");
    assert!(log.low_on_space());
    assert!(n > 6, "the prepared segment was used: {n}");
    assert_eq!(g.records(), 1, "the group is as before");
    drop(log);

    // The reserve makes the next open succeed, although the disk is full; and room makes it go on.
    disk.power_cut_randomly();
    let (mut log, report) = open(&disk).unwrap();
    assert_eq!(report.next, Position(n));
    disk.set_capacity(u64::MAX);
    log.write(&mut g).unwrap();
    while log.housekeep().unwrap() {}
    assert!(!log.low_on_space());
    assert_eq!(all(&log, 0).unwrap().len() as u64, n + 1);
}

/// The purge that a snapshot of everything allows must not take the last group as long as the segment that was begun
/// behind it is empty: nothing else says where the log stands.
#[test]
fn a_segment_without_groups_keeps_its_predecessor() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    while log.housekeep().unwrap() {}
    let mut g = Group::default();
    for n in 0..3 {
        fill(&mut g, n, 0, 1, 5000);
        log.write(&mut g).unwrap();
    }
    disk.set_capacity(200 << 10);
    fill(&mut g, 3, 0, 1, 300_000);
    assert!(matches!(log.write(&mut g), Err(WalError::NoSpace { .. })));
    assert_eq!(log.stats().rolls, 1);
    log.purge(Position(3));
    while log.housekeep().is_ok_and(|more| more) {}
    assert_eq!(log.durable(), Position(3));
    drop(log);
    disk.set_capacity(u64::MAX);
    disk.power_cut(|_| true, usize::MAX);
    let dir = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
    let (_, report) = Log::open(&dir, options(3)).unwrap();
    assert_eq!(report.next, Position(3));
}

#[test]
fn two_opens_of_one_directory_are_refused() {
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
    let tmp = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::new());
    for (disk, path) in [(disk, Path::new(DIR)), (real, tmp.path())] {
        let first = DataDir::open(disk.clone(), path).unwrap();
        let e = DataDir::open(disk.clone(), path).unwrap_err();
        assert!(matches!(&e, WalError::Locked { dir } if dir == path));
        assert!(e.to_string().contains(&path.display().to_string()) && !e.to_string().contains('\n'));
        drop(first);
        DataDir::open(disk, path).unwrap();
    }
}

#[test]
fn foreign_and_other_directories_are_refused_and_left_alone() {
    let marker = Path::new(DIR).join("serval-format");
    let disk = FaultyDisk::new(1);
    disk.create_dir_all(&Path::new(DIR).join("version-2")).unwrap();
    disk.put(&Path::new(DIR).join("version-2/snapshot.0"), b"ZKSN");
    let e = DataDir::open(Arc::new(disk.clone()), DIR).unwrap_err();
    assert!(matches!(e, WalError::ForeignData { .. }));
    assert_eq!(disk.list(Path::new(DIR)).unwrap(), ["version-2"]);

    // What a package's installer leaves is nobody's data.
    let disk = FaultyDisk::new(1);
    disk.create_dir_all(&Path::new(DIR).join("version-2")).unwrap();
    DataDir::open(Arc::new(disk.clone()), DIR).unwrap();

    let disk = FaultyDisk::new(1);
    disk.put(&marker, b"serval data directory\nformat 9\nid 00\n");
    let e = DataDir::open(Arc::new(disk.clone()), DIR).unwrap_err();
    assert!(matches!(&e, WalError::OtherVersion { found, expected: 1, .. } if found == "9"), "{e}");

    // Segments without a marker: somebody lost a file, nothing must begin anew on top of it.
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut g = Group::default();
    fill(&mut g, 0, 0, 1, 10);
    log.write(&mut g).unwrap();
    drop(log);
    disk.remove(&marker).unwrap();
    assert!(matches!(open(&disk), Err(WalError::Corrupt { .. })));

    // A segment of another directory is none of ours.
    let other = FaultyDisk::new(2);
    drop(open(&other).unwrap());
    let name = Path::new(DIR).join(format!("log.{:016x}", 1));
    other.put(&name, &disk.bytes(&name).unwrap());
    assert!(matches!(open(&other), Err(WalError::Corrupt { .. })));
}

#[test]
fn rot_in_the_last_group_is_told_once_a_mark_was_written() {
    for (marked, refused) in [(false, false), (true, true)] {
        let disk = FaultyDisk::new(1);
        let (mut log, _) = open(&disk).unwrap();
        let mut g = Group::default();
        for n in 0..3 {
            fill(&mut g, n, 0, 1, 100);
            log.write(&mut g).unwrap();
        }
        if marked {
            log.close().unwrap();
        } else {
            drop(log);
        }
        disk.flip(&Path::new(DIR).join(format!("log.{:016x}", 1)), 4096 * 3 + 80, 0);
        match open(&disk) {
            Ok((_, report)) => assert!(!refused && report.next == Position(2), "{report:?}"),
            Err(e) => assert!(refused && matches!(e, WalError::Corrupt { .. }), "{e}"),
        }
    }
}

#[test]
fn inspect_tells_what_is_there_and_what_is_wrong() {
    let disk = FaultyDisk::new(1);
    let (mut log, _) = open(&disk).unwrap();
    let mut g = Group::default();
    for n in 0..30 {
        fill(&mut g, n, 0, 1, 4000);
        log.write(&mut g).unwrap();
    }
    log.close().unwrap();
    let path = Path::new(DIR);
    let v = inspect::verify(&disk, path).unwrap();
    assert!(v.problems.is_empty() && v.records == (Position(0), Position(30)), "{v}");
    let (mut lines, mut records) = (String::new(), 0);
    inspect::dump(&disk, path, |e| {
        if let inspect::Entry::Record { position, payload } = &e {
            assert_eq!(*payload, record(position.0, 0, 4000));
            records += 1;
        }
        lines += &format!("{e}\n");
        Ok::<(), WalError>(())
    })
    .unwrap();
    assert_eq!(records, 30);
    assert!(
        lines.contains("segment log.0000000000000001") && lines.contains("record 29 bytes 4016"),
        "{lines}"
    );

    disk.flip(&path.join(format!("log.{:016x}", 1)), 4096 + 100, 0);
    let v = inspect::verify(&disk, path).unwrap();
    assert_eq!(v.problems.len(), 1, "{v}");
    assert!(v.to_string().contains("log.0000000000000001") && v.to_string().ends_with("damaged"));
}

/// The same script on the real disk: direct and buffered, blocking and submitted.
#[test]
fn the_real_disk_keeps_it_too() {
    for (buffered, submit) in [(false, false), (false, true), (true, false), (true, true)] {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("a/b");
        let disk: Arc<dyn Disk> = Arc::new(if buffered { RealDisk::buffered() } else { RealDisk::new() });
        let mut want = Vec::new();
        for generation in 0..3 {
            let dir = DataDir::open(disk.clone(), &path).unwrap();
            let options = Options { segment_bytes: 256 << 10, ..Options::default() };
            let (mut log, report) = Log::open(&dir, options).unwrap();
            assert_eq!(report.next.0, want.len() as u64);
            let can = submit && log.enable_submit().is_some();
            let mut g = Group::default();
            for n in 0..40usize {
                let len = if n == 33 { 600_000 } else { 300 * n };
                want.extend(fill(&mut g, want.len() as u64, generation, 3, len));
                if submit {
                    log.submit(g).unwrap();
                    if can {
                        poll_readable(&log);
                    }
                    let (group, r) = log.wait().unwrap();
                    assert_eq!(r.unwrap().0, want.len() as u64);
                    g = group;
                    assert!(log.complete().is_none());
                } else {
                    log.write(&mut g).unwrap();
                }
            }
            assert_eq!(all(&log, 0).unwrap(), want);
            log.close().unwrap();
            assert!(inspect::verify(&*disk, &path).unwrap().problems.is_empty());
        }
    }
}

/// Waits until the completion's descriptor says so.
fn poll_readable(log: &Log) {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    let fd: OwnedFd = log.completion_fd().unwrap().try_clone_to_owned().unwrap();
    let mut file = std::fs::File::from(fd);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
    // The descriptor does not block; reading it here is allowed, `wait` asks the ring itself.
    while file.read(&mut [0u8; 8]).is_err() {
        assert!(std::time::Instant::now() < deadline, "no completion");
        std::thread::yield_now();
    }
}

#[test]
fn a_group_in_flight_does_not_outlive_the_log_badly() {
    let tmp = tempfile::tempdir().unwrap();
    let dir = DataDir::open(Arc::new(RealDisk::new()), tmp.path()).unwrap();
    for round in 0..20u64 {
        let o = Options { segment_bytes: 4 << 20, ..Options::default() };
        let (mut log, _) = Log::open(&dir, o).unwrap();
        let mut g = Group::default();
        fill(&mut g, log.next_position().0, round, 50, 1000);
        log.enable_submit();
        log.submit(g).unwrap();
        drop(log);
    }
    let (log, report) = Log::open(&dir, Options::default()).unwrap();
    assert_eq!(all(&log, 0).unwrap().len() as u64, report.next.0);
}

#[test]
fn snapshots_are_listed_newest_first_and_damaged_ones_are_passed_over() {
    let tmp = tempfile::tempdir().unwrap();
    let real: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let fake: Arc<dyn Disk> = Arc::new(FaultyDisk::new(1));
    for (disk, path) in [(real, tmp.path()), (fake, Path::new(DIR))] {
        let dir = DataDir::open(disk.clone(), path).unwrap();
        assert!(snapshot::newest(&dir).unwrap().0.is_none());
        let payload: Vec<u8> = (0..(3 << 20) + 77u32).map(|i| (i.wrapping_mul(i) >> 5) as u8).collect();
        for n in 1..=5u64 {
            let mut w = snapshot::SnapshotWriter::create(&dir, Position(n * 10), n).unwrap();
            for piece in payload[..payload.len() - n as usize].chunks(100_003) {
                w.write(piece).unwrap();
            }
            w.finish(n + 100).unwrap();
        }
        drop(snapshot::SnapshotWriter::create(&dir, Position(99), 9).unwrap());
        let mut empty = snapshot::SnapshotWriter::create(&dir, Position(0), 0).unwrap();
        empty.write(&[]).unwrap();
        empty.finish(0).unwrap();
        let (list, damaged) = snapshot::list(&dir).unwrap();
        assert!(damaged.is_empty());
        assert_eq!(list.iter().map(|s| s.position.0).collect::<Vec<_>>(), [50, 40, 30, 20, 10, 0]);
        assert_eq!(snapshot::open(&dir, &list[5]).unwrap().len(), 0);
        let s = snapshot::newest(&dir).unwrap().0.unwrap();
        assert_eq!((s.info.tag, s.info.end_tag), (5, 105));
        assert!(*s == payload[..payload.len() - 5]);

        // Damage: a payload byte of the newest, the footer of the next.
        let name = |n: u64| path.join(format!("snap.{:016x}.{n:016x}", n * 10));
        for (n, at) in [(5, 4096 + (2 << 20)), (4, payload.len() as u64 + 4096 + 16)] {
            damage(&*disk, &name(n), at);
        }
        let (s, damaged) = snapshot::newest(&dir).unwrap();
        assert_eq!(s.unwrap().info.position, Position(30));
        assert_eq!(damaged.len(), 2, "{damaged:?}");
        assert_eq!(snapshot::retain(&dir, 0).unwrap(), Some(Position(20)));
        let left = snapshot::list(&dir).unwrap();
        assert_eq!((left.0.len(), left.1.len()), (3, 1));
    }
}

/// A writer that was given up and has not noticed yet does not meddle with its successor of the same name.
#[test]
fn two_attempts_at_one_snapshot_have_nothing_in_common() {
    let tmp = tempfile::tempdir().unwrap();
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new());
    let dir = DataDir::open(disk.clone(), tmp.path()).unwrap();
    let begin = || snapshot::SnapshotWriter::create(&dir, Position(7), 9).unwrap();
    let (mut first, mut second) = (begin(), begin());
    first.write(&vec![1; 3 << 20]).unwrap();
    second.write(&vec![2; 2 << 20]).unwrap();
    // The first goes away while the second is written, or writes on behind its end.
    let third = begin();
    drop(third);
    second.finish(9).unwrap();
    first.write(&vec![1; 3 << 20]).unwrap();
    let (found, damaged) = snapshot::newest(&dir).unwrap();
    assert_eq!(damaged, []);
    assert!(found.is_some_and(|s| *s == vec![2; 2 << 20]));
    drop((first, dir));
    // What is left over, as after a kill, goes at the next open.
    let left = tmp.path().join(format!("snap.{:016x}.{:016x}.3.tmp", 7, 9));
    std::fs::write(&left, b"x").unwrap();
    let dir = DataDir::open(disk, tmp.path()).unwrap();
    assert!(!left.exists());
    assert_eq!(snapshot::list(&dir).unwrap().0.len(), 1);
}

fn damage(disk: &dyn Disk, path: &Path, at: u64) {
    let f = disk.open(path, How::Read).unwrap();
    let mut b = [0u8];
    assert_eq!(f.read_at(&mut b, at).unwrap(), 1);
    f.write_at(&[b[0] ^ 4], at).unwrap();
}
