//! The binary without a running server: help, refusals and their exit codes, `status` against scripted servers, `wal`.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Output};

fn serval(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_serval")).args(args).output().expect("the binary starts")
}
fn code(o: &Output) -> i32 {
    o.status.code().expect("it was not killed")
}
fn out(o: &Output) -> String {
    String::from_utf8_lossy(&o.stdout).into_owned()
}
fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

/// A server that answers one connection with `answer` after reading a four-letter word.
fn scripted(answer: &'static str) -> (String, std::thread::JoinHandle<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let served = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut word = [0; 4];
        stream.read_exact(&mut word).unwrap();
        stream.write_all(answer.as_bytes()).unwrap();
        word.to_vec()
    });
    (addr, served)
}

#[test]
fn plain_serval_prints_help_with_the_exit_codes() {
    let o = serval(&[]);
    assert_eq!(code(&o), 0);
    assert!(out(&o).contains("Usage: serval") && out(&o).contains("Exit codes:"), "{}", out(&o));
    assert_eq!(code(&serval(&["serve", "--no-such-option"])), 2);
    assert_eq!(code(&serval(&["status"])), 2);
}

#[test]
fn a_refused_configuration_is_exit_code_3_and_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = dir.path().join("zoo.cfg");
    let data = dir.path().join("data");
    std::fs::write(&cfg, format!("dataDir={}\nclientPort=2181\nsecureClientPort=2281\n", data.display()))
        .unwrap();
    let o = serval(&["serve", "--config", cfg.to_str().unwrap()]);
    assert_eq!(code(&o), 3, "{}", err(&o));
    assert!(err(&o).contains("zoo.cfg:3: secureClientPort: refused: TLS"), "{}", err(&o));
    assert!(!data.exists(), "nothing was started");
    let o = serval(&["serve", "--profile", "fastest"]);
    assert_eq!(code(&o), 3, "{}", err(&o));
    assert!(err(&o).contains("balanced, latency, throughput, small"), "{}", err(&o));
}

#[test]
fn a_data_directory_of_zookeeper_is_exit_code_4_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("version-2/snapshot.0");
    std::fs::create_dir(file.parent().unwrap()).unwrap();
    std::fs::write(&file, b"ZKSN").unwrap();
    let o = serval(&["serve", "--client-port", "0", "--data-dir", dir.path().to_str().unwrap()]);
    assert_eq!(code(&o), 4, "{}", err(&o));
    assert!(err(&o).contains("version-2"), "{}", err(&o));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing was put beside it");
    assert_eq!(std::fs::read(&file).unwrap(), b"ZKSN");
}

#[test]
fn the_log_is_json_lines_when_asked_for() {
    let o = serval(&["serve", "--log-format", "json", "--config", "no-such-file.cfg"]);
    let text = err(&o);
    assert_eq!(code(&o), 3, "{text}");
    assert!(text.lines().all(|l| l.starts_with("{\"timestamp\"") && l.ends_with('}')), "{text}");
    assert!(text.contains("no-such-file.cfg"), "{text}");
}

#[test]
fn status_is_0_only_when_all_serve() {
    const FIGURES: &str = "Zookeeper version: 3.8.0-x, built on 2024-12-29 17:54 UTC\nLatency min/avg/max: 0/1.5/9\n\
                           Received: 2\nSent: 1\nConnections: 3\nOutstanding: 0\nZxid: 0x1f\nMode: leader\n\
                           Node count: 9\nProposal sizes last/min/max: 36/36/36\n";
    let (addr, served) = scripted(FIGURES);
    let o = serval(&["status", &addr]);
    assert_eq!(served.join().unwrap(), b"srvr");
    assert_eq!(code(&o), 0, "{}", out(&o));
    let line = out(&o).lines().nth(1).unwrap().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(line, [addr.as_str(), "leader", "0x1f", "3", "0/1.5/9", "9", "3.8.0-x"]);

    let (one, served_one) = scripted(FIGURES);
    let (two, served_two) = scripted("This ZooKeeper instance is not currently serving requests\n");
    let o = serval(&["status", &one, &two]);
    served_one.join().unwrap();
    served_two.join().unwrap();
    assert_eq!(code(&o), 1);
    assert!(out(&o).contains("not serving: This ZooKeeper instance"), "{}", out(&o));
}

#[test]
fn a_server_that_never_answers_is_not_waited_for_for_ever() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let o = serval(&["status", "--timeout", "50", &addr]);
    assert_eq!(code(&o), 1);
    assert!(out(&o).contains("no answer in time"), "{}", out(&o));
}

#[test]
fn wal_tools_refuse_what_is_no_data_directory() {
    let o = serval(&["wal", "dump", "no-such-directory"]);
    assert_eq!(code(&o), 4);
    assert!(err(&o).contains("no-such-directory"), "{}", err(&o));
    let dir = tempfile::tempdir().unwrap();
    let o = serval(&["wal", "verify", dir.path().to_str().unwrap()]);
    assert_eq!(code(&o), 1);
    assert!(out(&o).contains("no data directory"), "{}", out(&o));
}

#[test]
fn wal_tools_read_what_the_log_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let data = wal::DataDir::open(std::sync::Arc::new(wal::disk::RealDisk::default()), dir.path()).unwrap();
    let (mut log, _) = wal::Log::open(&data, wal::Options::default()).unwrap();
    let mut group = wal::Group::new(1 << 20);
    let mut payload = Vec::new();
    let body = engine::txn::TxnBody::CreateSession { timeout_ms: 4_000 };
    let header = engine::txn::TxnHeader {
        session: engine::ids::SessionId(0x77),
        cxid: 0,
        zxid: engine::ids::Zxid(1),
        time: engine::time::WallMs(0),
        kind: body.kind(),
    };
    engine::txn::Txn { header, body, digest: None }.encode(&mut payload);
    group.push_slice(&payload).unwrap();
    log.write(&mut group).unwrap();
    drop(log);
    let path = dir.path().to_str().unwrap();
    let o = serval(&["wal", "dump", path]);
    assert_eq!(code(&o), 0, "{}", err(&o));
    assert!(out(&o).contains("zxid 0x1 at Thu Jan 01 00:00:00 UTC 1970 session 0x77"), "{}", out(&o));
    assert!(out(&o).contains("CreateSession timeout 4000 ms"), "{}", out(&o));
    let o = serval(&["wal", "verify", path]);
    assert_eq!((code(&o), out(&o).lines().last()), (0, Some("ok")), "{}", out(&o));
}
