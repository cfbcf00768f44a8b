//! An import is whole or not there, wherever it is cut off.

use std::path::Path;
use std::sync::Arc;

use wal::disk::Disk;
use wal::snapshot::{self, SnapshotWriter};
use wal::testing::FaultyDisk;
use wal::{DataDir, Group, Import, Log, Options, Position, SmallFile, WalError};

const DIR: &str = "/data";
const LOG: &str = "/log";

fn arc(disk: &FaultyDisk) -> Arc<dyn Disk> {
    Arc::new(disk.clone())
}

fn zookeeper(disk: &FaultyDisk) {
    disk.create_dir_all(&Path::new(DIR).join("version-2")).unwrap();
    disk.put(&Path::new(DIR).join("version-2/snapshot.0"), b"ZKSN");
}

/// The steps of an import, as the importer takes them: snapshot and epochs here, a record of a log there.
fn import(disk: &FaultyDisk, tag: u64) -> Result<(), WalError> {
    let dir = DataDir::begin_import(arc(disk), DIR, None)?;
    let log_dir = DataDir::begin_import(arc(disk), LOG, Some(&dir))?;
    SmallFile::new(&dir, "epochs").replace(b"5 5\n")?;
    let mut w = SnapshotWriter::create(&dir, Position(0), tag)?;
    w.write(&[7; 3000])?;
    w.finish(tag)?;
    let (mut log, _) = Log::open(&log_dir, options())?;
    let mut g = Group::default();
    g.push_slice(&tag.to_le_bytes())?;
    log.write(&mut g)?;
    log.close()?;
    log_dir.complete_import("from a test", Some(&dir))?;
    dir.complete_import("from a test", None)
}

fn options() -> Options {
    Options { segment_bytes: 1 << 16, background: false, ..Options::default() }
}

/// What the imported directories hold.
fn contents(disk: &FaultyDisk) -> Result<(Vec<u64>, Vec<Vec<u8>>), WalError> {
    let dir = DataDir::open(arc(disk), DIR)?;
    let tags = snapshot::list(&dir)?.0.iter().map(|s| s.tag).collect();
    assert_eq!(SmallFile::new(&dir, "epochs").read()?.unwrap(), b"5 5\n");
    let (log, _) = Log::open(&DataDir::open(arc(disk), LOG)?, options())?;
    let mut records = Vec::new();
    log.replay(Position(0), |_, r| -> Result<(), WalError> {
        records.push(r.to_vec());
        Ok(())
    })?;
    Ok((tags, records))
}

fn state(disk: &FaultyDisk) -> Import {
    DataDir::import_state(disk, Path::new(DIR)).unwrap()
}

#[test]
fn a_complete_import_opens_beside_zookeepers_files_and_is_not_repeated() {
    let disk = FaultyDisk::new(1);
    zookeeper(&disk);
    assert_eq!(state(&disk), Import::Never);
    assert!(matches!(DataDir::open(arc(&disk), DIR), Err(WalError::ForeignData { .. })));
    import(&disk, 8).unwrap();
    assert_eq!(state(&disk), Import::Complete("from a test".into()));
    assert_eq!(contents(&disk).unwrap(), (vec![8], vec![8u64.to_le_bytes().to_vec()]));
    assert!(wal::inspect::verify(&disk, Path::new(DIR)).unwrap().problems.is_empty());
    assert!(matches!(import(&disk, 9), Err(WalError::NotEmpty { .. })));
}

#[test]
fn a_directory_with_data_is_not_imported_into() {
    // A log; a snapshot alone, as a dataDir without its log has; an epoch that was promised.
    let disk = FaultyDisk::new(1);
    let dir = DataDir::open(arc(&disk), DIR).unwrap();
    let (mut log, _) = Log::open(&dir, options()).unwrap();
    let mut g = Group::default();
    g.push_slice(b"x").unwrap();
    log.write(&mut g).unwrap();
    drop((log, dir));
    assert!(matches!(import(&disk, 9), Err(WalError::NotEmpty { .. })));

    let disk = FaultyDisk::new(1);
    let dir = DataDir::open(arc(&disk), DIR).unwrap();
    SnapshotWriter::create(&dir, Position(0), 1).unwrap().finish(1).unwrap();
    drop(dir);
    assert!(matches!(import(&disk, 9), Err(WalError::NotEmpty { .. })));

    let disk = FaultyDisk::new(1);
    let dir = DataDir::open(arc(&disk), DIR).unwrap();
    SmallFile::new(&dir, "epochs").replace(b"3 2\n").unwrap();
    drop(dir);
    assert!(matches!(import(&disk, 9), Err(WalError::NotEmpty { name, .. }) if name == "epochs"));

    let disk = FaultyDisk::new(1);
    let _held = DataDir::begin_import(arc(&disk), DIR, None).unwrap();
    assert!(matches!(import(&disk, 9), Err(WalError::Locked { .. })));
}

#[test]
fn wherever_the_power_goes_the_directory_is_refused_or_whole() {
    let mut refused = 0;
    for (step, seed) in (1u64..).flat_map(|step| (0..8).map(move |seed| (step, seed))) {
        let disk = FaultyDisk::new(seed);
        zookeeper(&disk);
        disk.fail_power_in(step);
        let done = import(&disk, 8).is_ok();
        disk.power_cut_randomly();
        match contents(&disk) {
            Ok(found) => assert_eq!(found, (vec![8], vec![8u64.to_le_bytes().to_vec()]), "step {step}"),
            Err(WalError::Unfinished { .. } | WalError::ForeignData { .. }) if !done => {
                refused += 1;
                // The originals may have changed since: nothing of the first attempt may remain.
                import(&disk, 9).unwrap();
                let found = contents(&disk).unwrap();
                assert_eq!(found, (vec![9], vec![9u64.to_le_bytes().to_vec()]), "step {step}");
            }
            Err(e) => panic!("step {step}: {e}"),
        }
        if done && seed == 7 {
            break;
        }
    }
    assert!(refused > 50, "{refused}");
}
