//! The thinnest whole ensemble: three servers in this process, writes through each, a dead leader, a restart.

mod common;

use common::{Client, create, get};
use engine::error::Code;
use engine::ids::ServerId;
use engine::proto::{Encode, Op};
use engine::zab::members::Members;
use net::config::EnsembleConfig;
use net::embed::{Cluster, FreePorts, Options, Server, free_ports};
use std::io::{Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn port(cluster: &Cluster, i: usize) -> u16 {
    cluster.server(i).expect("it runs").client_port()
}

/// A client of server `i`, as soon as that serves.
fn client(cluster: &Cluster, i: usize) -> Client {
    let began = Instant::now();
    loop {
        match Client::try_connect(port(cluster, i)) {
            Ok(c) => return c,
            Err(e) => assert!(began.elapsed() < PATIENCE, "server {i} takes no clients: {e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn sync(c: &mut Client) {
    let (header, _) = c.call(Op::Sync, |o| o.put_string("/"));
    assert_eq!(header.err, Code::OK);
}

#[test]
fn writes_through_every_server_survive_the_leader() {
    let mut cluster = Cluster::start(3, &Options::default()).unwrap();
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    for i in 0..3 {
        let mut c = client(&cluster, i);
        assert_eq!(create(&mut c, &format!("/by{i}"), b"x").err, Code::OK);
        assert_eq!(get(&mut c, &format!("/by{i}")).1.as_deref(), Some(&b"x"[..]), "its own write");
    }
    for i in 0..3 {
        let mut c = client(&cluster, i);
        sync(&mut c);
        for by in 0..3 {
            assert_eq!(get(&mut c, &format!("/by{by}")).0.err, Code::OK, "server {i}, written by {by}");
        }
    }
    cluster.kill(leader);
    let next = cluster.wait_for_leader(PATIENCE).unwrap();
    assert_ne!(next, leader);
    let mut c = client(&cluster, next);
    assert_eq!(create(&mut c, "/later", b"y").err, Code::OK);
    cluster.restart(leader).unwrap();
    let mut c = client(&cluster, leader);
    sync(&mut c);
    for path in ["/by0", "/by1", "/by2", "/later"] {
        assert_eq!(get(&mut c, path).0.err, Code::OK, "{path} on the server that was away");
    }
    cluster.stop().unwrap();
}

/// The only voter of its ensemble, and its ports: the second is that of elections.
fn alone(data_dir: &std::path::Path) -> (Options, FreePorts) {
    let ports = free_ports(2).unwrap();
    let members = Members::parse(&format!("server.1=127.0.0.1:{}:{}", ports[0], ports[1])).unwrap();
    let options = Options {
        data_dir: Some(data_dir.to_owned()),
        ensemble: Some(EnsembleConfig::local(ServerId(1), Arc::new(members))),
        ..Options::default()
    };
    (options, ports)
}

#[test]
fn an_election_message_that_makes_no_sense_costs_its_connection() {
    let tmp = tempfile::tempdir().unwrap();
    let (options, ports) = alone(tmp.path());
    let server = Server::start(options).unwrap();
    let mut s = std::net::TcpStream::connect(("127.0.0.1", ports[1])).unwrap();
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut said = Vec::from((-65_536i64).to_be_bytes());
    said.extend(5i64.to_be_bytes());
    said.extend(11i32.to_be_bytes());
    said.extend(b"127.0.0.1:5");
    // A length that is allowed, and three bytes that are no notification.
    said.extend([0, 0, 0, 3, 1, 2, 3]);
    s.write_all(&said).unwrap();
    // What it says itself comes first; then the end, in one way or the other.
    match s.read_to_end(&mut Vec::new()) {
        Ok(_) => {}
        Err(e) => assert_eq!(e.kind(), std::io::ErrorKind::ConnectionReset),
    }
    server.stop().unwrap();
}

#[test]
fn a_member_whose_log_is_lost_does_not_vote_with_an_empty_one() {
    let tmp = tempfile::tempdir().unwrap();
    let (options, _ports) = alone(tmp.path());
    let server = Server::start(options.clone()).unwrap();
    let began = Instant::now();
    let mut c = loop {
        match Client::try_connect(server.client_port()) {
            Ok(c) => break c,
            Err(e) => assert!(began.elapsed() < PATIENCE, "it takes no clients: {e}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(create(&mut c, "/kept", b"x").err, Code::OK);
    drop(server.kill());
    for entry in std::fs::read_dir(tmp.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("log.")) {
            std::fs::remove_file(path).unwrap();
        }
    }
    // Nor does it begin one by being started again and again; nor where nothing names the log: it has promised an epoch.
    for attempt in 0..3 {
        let why = format!("{:#}", Server::start(options.clone()).err().expect("it must not start"));
        assert!(why.contains("does not hold this server's log"), "{why}");
        if attempt == 1 {
            std::fs::remove_file(tmp.path().join("log-id")).unwrap();
        }
    }
}
