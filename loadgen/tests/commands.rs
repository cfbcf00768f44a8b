//! The binary as it is called: exit codes, the JSON that others read, and the smaller commands.

mod support;

use serde_json::Value;
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use support::{Fake, Manners, text};

fn loadgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen")).args(args).output().expect("the binary runs")
}

#[test]
fn the_self_test_measures_the_generator_and_writes_json() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.json");
    let path = file.to_str().unwrap();
    let out = loadgen(&[
        "run",
        "--self-test",
        "--read-ratio",
        "0.9",
        "--keys",
        "10",
        "--warmup",
        "0s",
        "--duration",
        "300ms",
        "--json",
        path,
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(text(&out.stdout).contains("us of CPU per request"));

    let json = std::fs::read_to_string(&file).unwrap();
    let first = json.split("\"summary\": {").nth(1).unwrap().trim_start();
    assert!(first.starts_with("\"ops_per_second\":"), "the first of the summary: {first:.40}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["schema"], "loadgen-run/1");
    assert!(json["summary"]["ops_per_second"].as_f64().unwrap() > 0.0);
    assert_eq!(json["summary"]["valid"], true);
    for op in ["get", "set"] {
        for field in
            ["ops_per_second", "replies", "p50_us", "p90_us", "p99_us", "p99_9_us", "max_us", "errors"]
        {
            assert!(json["operations"][op][field].is_number(), "{op} {field}");
        }
    }
    for field in ["cpu", "cpus", "kernel", "loadgen_version", "started_unix_ms"] {
        assert!(!json["environment"][field].is_null(), "{field}");
    }
    assert!(json["config"]["seed"].is_u64());
    assert!(json["generator"]["cpu_us_per_request"].as_f64().unwrap() > 0.0);
    assert_eq!(json["servers"][0]["connections"], 8);
    assert!(!json["intervals"].as_array().unwrap().is_empty());
}

#[test]
fn nobody_there_is_exit_code_3() {
    // A port that was free a moment ago.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for command in ["run", "fanout", "idle", "fill"] {
        let out = loadgen(&[command, "--hosts", &port]);
        assert_eq!(out.status.code(), Some(3), "{command}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains(&format!("cannot connect to {port}")), "{}", text(&out.stderr));
    }
}

#[test]
fn wrong_usage_is_exit_code_2_and_says_what_is_allowed() {
    for (flags, expected) in [
        (&["run", "--mix", "read=1"][..], "there are get, exists, children, set, create, delete, watch"),
        (&["run", "--read-ratio", "2"], "0.0..=1.0"),
        (&["run", "--duration", "10"], "us, ms, s, m or h"),
        (&["run", "--distribution", "gauss"], "uniform, zipf, zipf:THETA, sequential"),
        (&["run", "--auth", "digest"], "SCHEME:CREDENTIAL"),
        (&["nonsense"], "nonsense"),
    ] {
        let out = loadgen(flags);
        assert_eq!(out.status.code(), Some(2), "{flags:?}");
        assert!(text(&out.stderr).contains(expected), "{flags:?}: {}", text(&out.stderr));
    }
}

#[test]
fn results_of_runs_are_put_beside_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let files: Vec<String> = ["one", "two"]
        .iter()
        .map(|n| dir.path().join(format!("{n}.json")).to_str().unwrap().to_owned())
        .collect();
    for file in &files {
        let load = ["run", "--self-test", "--keys", "10", "--warmup", "0s", "--duration", "100ms", "--quiet"];
        let out = loadgen(&[&load[..], &["--json", file]].concat());
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    }
    let out = loadgen(&["compare", &files[0], &files[1]]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stdout));
    let table = text(&out.stdout);
    for op in ["get", "set"] {
        let rows: Vec<_> = table.lines().filter(|l| l.starts_with(op)).collect();
        assert!(rows.len() == 2 && rows[0].contains("one") && rows[1].contains("two"), "{table}");
    }
    assert!(!table.contains("DIFFERENT"), "{table}");
    std::fs::write(&files[1], "{}").unwrap();
    let out = loadgen(&["compare", &files[0], &files[1]]);
    assert_eq!(out.status.code(), Some(1));
    assert!(
        text(&out.stderr).contains("two.json is not what `loadgen run --json` writes"),
        "{}",
        text(&out.stderr)
    );
}

#[test]
fn a_file_that_cannot_be_written_is_told_before_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let nowhere = dir.path().join("no/such.json");
    let nowhere = nowhere.to_str().unwrap();
    for (command, flag) in [("run", "--json"), ("run", "--hdr"), ("timeline", "--html"), ("fill", "--json")] {
        let out = loadgen(&[command, "--hosts", "127.0.0.1:1", flag, nowhere]);
        assert_eq!(out.status.code(), Some(1), "{command} {flag}: {}", text(&out.stderr));
        assert!(text(&out.stderr).contains("cannot write"), "{}", text(&out.stderr));
    }
}

#[test]
fn errors_are_exit_code_1_and_are_listed() {
    let refuse = Some((engine::proto::Op::GetData, engine::error::Code::NONODE));
    let fake = Fake::start(Manners { refuse, ..Manners::default() });
    let host = fake.address.to_string();
    let out = loadgen(&["run", "--hosts", &host, "--quiet", "--warmup", "0s", "--duration", "100ms"]);
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("NONODE (-101)"), "{}", text(&out.stdout));
}

#[test]
fn fanout_times_every_round_until_the_last_event() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.json");
    let fake = Fake::start(Manners::default());
    let host = fake.address.to_string();
    let out = loadgen(&[
        "fanout",
        "--hosts",
        &host,
        "--connections",
        "20",
        "--rounds",
        "5",
        "--warmup-rounds",
        "1",
        "--json",
        file.to_str().unwrap(),
    ]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(json["last_notified"]["count"], 5);
    assert_eq!(json["notified"]["count"], 100);
}

#[test]
fn idle_sessions_are_kept_alive_by_pings() {
    let fake = Fake::start(Manners { timeout_ms: Some(600), ..Manners::default() });
    let host = fake.address.to_string();
    let out = loadgen(&["idle", "--hosts", &host, "--connections", "3", "--duration", "1s"]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert!(fake.seen().pings.load(Ordering::Relaxed) >= 3);
}

#[test]
fn fill_creates_nodes_with_paths_of_27_bytes_and_leaves_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("out.json");
    let fake = Fake::start(Manners::default());
    let host = fake.address.to_string();
    let pid = std::process::id().to_string();
    let json = file.to_str().unwrap();
    let out = loadgen(&["fill", "--hosts", &host, "--keys", "500", "--server-pid", &pid, "--json", json]);
    assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
    assert_eq!(fake.seen().creates.load(Ordering::Relaxed), 501);
    assert_eq!(fake.seen().deletes.load(Ordering::Relaxed), 0);
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&file).unwrap()).unwrap();
    assert_eq!(json["path_bytes"], 27);
    assert!(json["resident"]["before_bytes"].as_u64().unwrap() > 0);
}
