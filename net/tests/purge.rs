//! What is superfluous on disk goes by itself where `autopurge` is on.

mod common;

use common::{Client, create};
use net::config::{Config, Purge};
use net::server::Server;
use profiles::Profile;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

const HOURLY: Option<Purge> = Some(Purge { keep_snapshots: 3, interval_ms: 3_600_000 });

fn start(dir: &Path, purge: Option<Purge>, snapshot_txns: u64) -> Server {
    let profile = Profile { snapshot_txns, ..Profile::default() };
    let config = Config { purge, ..Config::embedded(dir, &profile) };
    Server::start(config, &profile).unwrap()
}

/// The names of the snapshots, oldest first.
fn snapshots(dir: &Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|n| n.starts_with("snap.") && !n.ends_with(".tmp")).collect();
    names.sort();
    names
}

fn until(what: &str, mut f: impl FnMut() -> bool) {
    let began = Instant::now();
    while !f() {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain: {what}");
        sleep(Duration::from_millis(5));
    }
}

/// Writes until `more` snapshots were taken.
fn write(server: &Server, dir: &Path, name: &str, more: usize) {
    let mut c = Client::connect(server.client_addrs()[0].port());
    let mut n = 0;
    for _ in 0..more {
        let newest = snapshots(dir).pop();
        until("a snapshot", || {
            n += 1;
            create(&mut c, &format!("/{name}{n}"), b"x");
            snapshots(dir).pop() > newest
        });
    }
}

#[test]
fn a_snapshot_makes_the_fourth_before_it_superfluous_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let server = start(tmp.path(), HOURLY, 10);
    write(&server, tmp.path(), "a", 6);
    until("three snapshots", || snapshots(tmp.path()).len() == 3);
    server.stop().unwrap();
}

#[test]
fn a_start_purges_whatever_the_interval() {
    let tmp = tempfile::tempdir().unwrap();
    let server = start(tmp.path(), None, 10);
    write(&server, tmp.path(), "a", 6);
    server.stop().unwrap();
    let kept = snapshots(tmp.path());
    assert!(kept.len() >= 6, "nothing is deleted unasked: {kept:?}");
    let server = start(tmp.path(), HOURLY, 1_000_000);
    until("three snapshots", || snapshots(tmp.path()).len() == 3);
    assert_eq!(snapshots(tmp.path()), kept[kept.len() - 3..]);
    server.stop().unwrap();
}

#[test]
fn nothing_is_deleted_while_the_newest_snapshot_cannot_be_read() {
    let tmp = tempfile::tempdir().unwrap();
    let server = start(tmp.path(), None, 10);
    write(&server, tmp.path(), "a", 6);
    server.stop().unwrap();
    let kept = snapshots(tmp.path());
    for name in &kept[kept.len() - 3..] {
        let path = tmp.path().join(name);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[4096] ^= 1;
        std::fs::write(&path, bytes).unwrap();
    }
    for _ in 0..2 {
        let server = start(tmp.path(), HOURLY, 1_000_000);
        let mut c = Client::connect(server.client_addrs()[0].port());
        assert_eq!(create(&mut c, "/a1", b"x").err, engine::error::Code::NODEEXISTS);
        // The end waits for whoever deletes.
        server.stop().unwrap();
        assert_eq!(snapshots(tmp.path()), kept);
    }
    let server = start(tmp.path(), HOURLY, 1);
    write(&server, tmp.path(), "b", 3);
    until("three snapshots", || snapshots(tmp.path()).len() == 3);
    server.stop().unwrap();
}
