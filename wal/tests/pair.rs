//! A data directory takes no other log than its own, and a lost log is no empty one.

use std::path::Path;
use std::sync::Arc;

use wal::disk::Disk;
use wal::testing::FaultyDisk;
use wal::{DataDir, Group, Log, Options, Position, SmallFile, WalError};

const DIR: &str = "/data";
const LOG: &str = "/log";

/// Opens the log in `log` for the data directory, and writes one record.
fn serve(disk: &FaultyDisk, log: &str, began: bool) -> Result<Position, WalError> {
    let arc = || -> Arc<dyn Disk> { Arc::new(disk.clone()) };
    let data = DataDir::open(arc(), DIR)?;
    let dir = if log == DIR { data.clone() } else { DataDir::open(arc(), log)? };
    let options = Options { segment_bytes: 1 << 16, background: false, ..Options::default() };
    let (mut log, _) = Log::open_of(&data, &dir, began, options)?;
    let mut g = Group::default();
    g.push_slice(b"something")?;
    let end = log.write(&mut g)?;
    log.close()?;
    Ok(end)
}

fn segments(disk: &FaultyDisk, dir: &str) -> Vec<String> {
    let names = disk.list(Path::new(dir)).unwrap();
    names.into_iter().filter(|n| n.starts_with("log.")).collect()
}

fn lose_segments(disk: &FaultyDisk, dir: &str) {
    for name in segments(disk, dir) {
        disk.remove(&Path::new(dir).join(name)).unwrap();
    }
}

#[test]
fn a_log_directory_that_is_not_the_one_is_refused_and_left_alone() {
    let disk = FaultyDisk::new(1);
    assert_eq!(serve(&disk, LOG, false).unwrap(), Position(1));
    // What is mounted there now is empty, or another server's.
    let e = serve(&disk, "/mounted", false).unwrap_err();
    assert!(matches!(e, WalError::OtherLog { .. }), "{e}");
    let text = e.to_string();
    assert!(
        text.starts_with("/mounted does not hold this server's log") && text.contains("the log of /data")
    );
    assert!(segments(&disk, "/mounted").is_empty());
    // Once is not enough.
    assert!(matches!(serve(&disk, "/mounted", false), Err(WalError::OtherLog { .. })));
    assert_eq!(serve(&disk, LOG, false).unwrap(), Position(2));
}

#[test]
fn a_log_without_a_segment_is_lost_and_not_empty() {
    for log in [LOG, DIR] {
        let disk = FaultyDisk::new(1);
        serve(&disk, log, false).unwrap();
        lose_segments(&disk, log);
        for _ in 0..2 {
            let e = serve(&disk, log, false).unwrap_err();
            assert!(matches!(e, WalError::OtherLog { .. }), "{e}");
            assert!(segments(&disk, log).is_empty());
        }
    }
}

#[test]
fn a_new_data_directory_beside_an_old_log_is_refused_where_that_matters() {
    let disk = FaultyDisk::new(1);
    serve(&disk, LOG, false).unwrap();
    let named = Options { segment_bytes: 1 << 16, background: false, named: true, ..Options::default() };
    let open = |data: &str, log: &str| {
        let disk = Arc::new(disk.clone());
        let data = DataDir::open(disk.clone(), data).unwrap();
        let log = DataDir::open(disk, log).unwrap();
        Log::open_of(&data, &log, false, named).map(drop)
    };
    for _ in 0..2 {
        let e = open("/new", LOG).unwrap_err();
        assert!(matches!(e, WalError::OtherData { .. }), "{e}");
    }
    open(DIR, LOG).unwrap();
    open("/new", "/fresh").unwrap();
}

#[test]
fn a_directory_from_before_is_taken_unless_its_log_cannot_be_right() {
    let disk = FaultyDisk::new(1);
    serve(&disk, LOG, false).unwrap();
    let name = Path::new(DIR).join("log-id");
    disk.remove(&name).unwrap();
    assert_eq!(serve(&disk, LOG, true).unwrap(), Position(2));
    assert!(disk.bytes(&name).is_some());
    disk.remove(&name).unwrap();
    assert!(matches!(serve(&disk, "/other", true), Err(WalError::OtherLog { .. })));
    assert!(disk.bytes(&name).is_none() && segments(&disk, "/other").is_empty());

    disk.put(&name, b"what is this");
    assert!(matches!(serve(&disk, LOG, false), Err(WalError::Corrupt { .. })));
    disk.remove(&name).unwrap();
    let data = DataDir::open(Arc::new(disk.clone()), DIR).unwrap();
    SmallFile::new(&data, "log-id").replace(b"log 12\n").unwrap();
    drop(data);
    assert!(matches!(serve(&disk, LOG, false), Err(WalError::Corrupt { .. })));
}

#[test]
fn wherever_the_power_goes_the_same_log_is_taken_again() {
    let mut cut = 0;
    for (step, seed) in (1u64..).flat_map(|step| (0..8).map(move |seed| (step, seed))) {
        let disk = FaultyDisk::new(seed);
        disk.fail_power_in(step);
        let done = serve(&disk, LOG, false).is_ok();
        disk.power_cut_randomly();
        cut += u64::from(!done);
        serve(&disk, LOG, false).unwrap_or_else(|e| panic!("step {step} seed {seed}: {e}"));
        if done && seed == 7 {
            break;
        }
    }
    assert!(cut > 50, "{cut}");
}
