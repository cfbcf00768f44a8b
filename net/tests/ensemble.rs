//! The thinnest whole ensemble: three servers in this process, writes through each, a dead leader, a restart.

mod common;

use common::{Client, create, get};
use engine::error::Code;
use engine::proto::{Encode, Op};
use net::embed::{Cluster, Options};
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
