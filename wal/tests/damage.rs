//! Rot and garbage: every byte of a small log, and files full of nonsense.

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{DIR, Tell, all, fill, open, options, seeds};
use wal::disk::Disk;
use wal::testing::{FaultyDisk, Rng};
use wal::{DataDir, Group, Log, SmallFile, WalError, inspect, snapshot};

/// A log of several lives and segments; the file names, and the records in it.
fn small_log() -> (FaultyDisk, Vec<PathBuf>, Vec<Vec<u8>>) {
    let disk = FaultyDisk::new(1);
    let mut want = Vec::new();
    for life in 0..2 {
        let dir = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
        let o = wal::Options { segment_bytes: 16 << 10, ..options(0) };
        let (mut log, _) = Log::open(&dir, o).unwrap();
        let mut g = Group::default();
        for n in 0..4 {
            want.extend(fill(&mut g, want.len() as u64, life, 2, 20 * n));
            log.write(&mut g).unwrap();
        }
    }
    disk.power_cut(|_| true, usize::MAX);
    let mut names = disk.list(Path::new(DIR)).unwrap();
    names.retain(|n| n.starts_with("log.") || n == "serval-format");
    names.sort();
    (disk, names.iter().map(|n| Path::new(DIR).join(n)).collect(), want)
}

#[test]
fn a_flipped_bit_anywhere_is_refused_or_costs_at_most_the_last_group() {
    let (disk, files, want) = small_log();
    assert!(files.len() >= 5, "{files:?}");
    let (mut refused, mut cut, mut harmless) = (0, 0, 0);
    for path in &files {
        let len = disk.bytes(path).unwrap().len() as u64;
        for byte in 0..len {
            let d = disk.copy(1);
            d.flip(path, byte, (byte % 8) as u8);
            match open(&d) {
                Err(WalError::Corrupt { .. } | WalError::OtherVersion { .. }) => refused += 1,
                Err(e) => panic!("{path:?} byte {byte}: {e}"),
                Ok((log, _)) => {
                    let got = all(&log, 0).unwrap();
                    assert_eq!(got, want[..got.len()], "{path:?} byte {byte}");
                    match want.len() - got.len() {
                        0 => harmless += 1,
                        2 => cut += 1,
                        n => panic!("{path:?} byte {byte}: {n} records lost"),
                    }
                }
            }
        }
    }
    println!("refused {refused}, last group cut {cut}, behind the end {harmless}");
    // The last group takes one block; all else that counts is refused.
    assert_eq!(cut, 4096);
    assert!(refused > 4096 * 9);
}

/// A whole block lost or replaced, not only a bit.
#[test]
fn a_lost_block_is_refused_or_costs_at_most_the_last_group() {
    let (disk, files, want) = small_log();
    for path in &files {
        let blocks = disk.bytes(path).unwrap().len() / 4096;
        for block in 0..blocks {
            for other in [None, Some(0), Some(1), Some(2)] {
                let d = disk.copy(1);
                let mut bytes = d.bytes(path).unwrap();
                let new = other.and_then(|o: usize| bytes.get(o * 4096..(o + 1) * 4096).map(<[u8]>::to_vec));
                bytes[block * 4096..(block + 1) * 4096].copy_from_slice(&new.unwrap_or(vec![0; 4096]));
                d.put(path, &bytes);
                if let Ok((log, _)) = open(&d) {
                    let got = all(&log, 0).unwrap();
                    assert_eq!(got, want[..got.len()]);
                    assert!(want.len() - got.len() <= 2, "{path:?} block {block} <- {other:?}");
                }
            }
        }
    }
}

#[test]
fn a_missing_segment_is_refused() {
    let (disk, files, want) = small_log();
    let mut refused = 0;
    for path in files.iter().filter(|p| p.file_name().unwrap() != "serval-format") {
        let d = disk.copy(1);
        d.remove(path).unwrap();
        match open(&d) {
            Err(WalError::Corrupt { .. }) => refused += 1,
            Err(e) => panic!("{e}"),
            Ok((log, _)) => {
                // The newest alone: all that says it existed is in it.
                assert_eq!(Some(path), files[..files.len() - 1].last());
                let got = all(&log, 0).unwrap();
                assert_eq!(got, want[..got.len()]);
            }
        }
    }
    assert!(refused >= files.len() - 2, "{refused} of {}", files.len());
}

/// Nonsense in every kind of file: an error or an intact result, never a panic, a hang, or a wrong record.
#[test]
fn garbage_is_never_believed() {
    let (base, files, want) = small_log();
    let dir = Path::new(DIR);
    let snap = dir.join(format!("snap.{:016x}.{:016x}", 4, 9));
    {
        let d = DataDir::open(Arc::new(base.clone()), DIR).unwrap();
        let mut w = snapshot::SnapshotWriter::create(&d, wal::Position(4), 9).unwrap();
        w.write(&[5; 3000]).unwrap();
        w.finish(0).unwrap();
        SmallFile::new(&d, "epoch").replace(b"12").unwrap();
    }
    let names: Vec<PathBuf> = files.into_iter().chain([snap, dir.join("epoch")]).collect();
    for seed in seeds(3000) {
        let _tell = Tell("damage", seed);
        let mut rng = Rng::new(seed);
        let d = base.copy(seed);
        for _ in 0..=rng.below(2) {
            let path = &names[rng.below(names.len() as u64) as usize];
            let old = d.bytes(path).unwrap();
            d.put(path, &garbage(&mut rng, old));
        }
        for problem in inspect::verify(&d, dir).map(|v| v.problems).unwrap_or_default() {
            assert!(!problem.contains('\n'));
        }
        let _ = inspect::dump(&d, dir, |e| {
            let _ = e.to_string();
            Ok::<(), WalError>(())
        });
        let Ok(data) = DataDir::open(Arc::new(d.clone()), DIR) else { continue };
        if let (Some(s), _) = snapshot::newest(&data).unwrap() {
            assert!(s.len() == 3000 && s.iter().all(|b| *b == 5));
        }
        if let Ok(Some(e)) = SmallFile::new(&data, "epoch").read() {
            assert_eq!(e, b"12");
        }
        if let Ok((log, _)) = Log::open(&data, options(0)) {
            let got = all(&log, 0).unwrap();
            assert_eq!(got, want[..got.len()]);
        }
    }
}

/// Something else in place of a file's bytes; often nearly right.
fn garbage(rng: &mut Rng, mut old: Vec<u8>) -> Vec<u8> {
    let n = old.len() as u64;
    match rng.below(6) {
        0 => (0..rng.below(3 * n + 2)).map(|_| rng.next_u64() as u8).collect(),
        1 => old[..rng.below(n + 1) as usize].to_vec(),
        2 => {
            old.extend((0..rng.below(9000)).map(|_| rng.next_u64() as u8));
            old
        }
        3 => {
            let (at, v) = (rng.below(n), rng.next_u64().to_le_bytes());
            for (b, v) in old[at as usize..].iter_mut().zip(v) {
                *b = v;
            }
            old
        }
        4 => {
            let at = rng.below(n) as usize;
            let to = (at + rng.below(5000) as usize).min(old.len());
            old[at..to].fill(rng.below(3) as u8 * 0x7F);
            old
        }
        _ => {
            let half = old.len() / 2;
            old.rotate_left(rng.below(half as u64 + 1) as usize);
            old
        }
    }
}
