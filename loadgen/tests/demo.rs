//! The demo against the real server: it runs, and its server does not outlive it.

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A stop that takes longer than this has failed.
const DEADLINE: Duration = Duration::from_secs(30);

#[test]
fn the_demo_prints_a_table_for_each_workload() {
    let demo = |window| {
        Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .args(["demo", "--duration", window, "--quiet"])
            .output()
            .expect("the binary runs")
    };
    let mut out = demo("300ms");
    if String::from_utf8_lossy(&out.stdout).contains("INVALID") {
        // A busy machine may answer nothing in so short a time.
        out = demo("5s");
    }
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert_eq!(out.status.code(), Some(0), "{stdout}{stderr}");
    for expected in
        ["== Read-heavy", "== Mixed", "p99.9", "\nget ", "\nset ", "\ndelete ", "Mode: standalone"]
    {
        assert!(stdout.contains(expected), "{expected:?} is missing: {stdout}{stderr}");
    }
}

#[test]
fn the_server_ends_when_the_demo_is_killed() {
    let mut demo = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["demo", "--duration", "60s", "--quiet"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut line = String::new();
    BufReader::new(demo.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.split_whitespace().find(|w| w.starts_with("127.0.0.1:")).expect(&line);
    let address = address.trim_end_matches(',').to_owned();
    TcpStream::connect(&address).expect("the server serves");
    demo.kill().unwrap();
    demo.wait().unwrap();
    let began = Instant::now();
    while TcpStream::connect(&address).is_ok() {
        assert!(began.elapsed() < DEADLINE, "the server on {address} outlived the demo");
        std::thread::yield_now();
    }
}
