//! Servers of loadgen's own: that they serve, survive what a timeline does to them, and that their processes end. Apache's
//! are left to the side-by-side script, which needs them installed.

mod support;

use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A program that is given for the server's.
fn script(dir: &Path, lines: &str) -> PathBuf {
    let path = dir.join("server");
    fs::write(&path, format!("#!/bin/sh\n{lines}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn loadgen(server: &Path, temporary: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_loadgen"));
    command.args(["run", "--ensemble", "3", "--server-binary"]).arg(server).env("TMPDIR", temporary);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_server_that_ends_is_named_with_the_end_of_its_log_and_nothing_stays() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    // The second server refuses its configuration; the others would wait for it.
    let server = script(
        dir.path(),
        "grep -q clientPort \"$3\" || exit 9\ncase \"$PWD\" in *server2) echo no good; exit 4;; esac\nexec sleep 600",
    );
    let out = loadgen(&server, temporary.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    let said = support::text(&out.stderr);
    assert!(said.contains("server 2 has ended (exit status: 4)") && said.contains("\n  no good"), "{said}");
    assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 0, "the servers' directories");
}

#[test]
fn servers_end_with_loadgen_also_when_it_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let temporary = tempfile::tempdir().unwrap();
    let pids = dir.path().join("pids");
    let server = script(dir.path(), &format!("echo $$ >> {}\nexec sleep 600", pids.display()));
    let mut child = loadgen(&server, temporary.path()).spawn().unwrap();
    let started = || -> Vec<u32> {
        let text = fs::read_to_string(&pids).unwrap_or_default();
        text.lines().map(|l| l.parse().unwrap()).collect()
    };
    wait_for("three servers", || started().len() == 3);
    child.kill().unwrap();
    child.wait().unwrap();
    for pid in started() {
        // A process that has ended and that nobody waits for stays as a zombie.
        let ended = || match fs::read_to_string(format!("/proc/{pid}/stat")) {
            Ok(stat) => stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z')),
            Err(_) => true,
        };
        wait_for("the end of a server", ended);
    }
}

#[test]
fn a_binary_that_is_not_there_is_said_before_anything_starts() {
    let temporary = tempfile::tempdir().unwrap();
    let out = loadgen(Path::new("no-such-server"), temporary.path()).output().unwrap();
    assert_eq!(out.status.code(), Some(1));
    assert!(
        support::text(&out.stderr).contains("there is no no-such-server"),
        "{}",
        support::text(&out.stderr)
    );
}

#[test]
fn flags_that_contradict_each_other_are_wrong_usage() {
    for (flags, code, expected) in [
        ("run --ensemble 3 --hosts a:1", 2, "cannot be used with"),
        ("run --ensemble 0", 2, "1..=15"),
        ("run --server-option a=b", 2, "--ensemble"),
        ("run --ensemble 3 --server-option ab", 2, "KEY=VALUE"),
        ("run --ensemble 3 --target consul", 2, "serval, apache"),
        ("timeline --kill leader@5s", 2, "--ensemble"),
        ("timeline --ensemble 3 --kill leader", 2, "no time"),
        ("timeline --ensemble 3 --kill leader@1s --kill-every 3s", 2, "cannot be used with"),
        ("demo --ensemble 3 --profile small", 2, "cannot be used with"),
    ] {
        let out = Command::new(env!("CARGO_BIN_EXE_loadgen")).args(flags.split(' ')).output().unwrap();
        assert_eq!(out.status.code(), Some(code), "{flags}");
        assert!(support::text(&out.stderr).contains(expected), "{flags}: {}", support::text(&out.stderr));
    }
}

/// Runs loadgen on three servers, which are this program again, and gives its JSON.
fn on_three_servers(flags: &str) -> Value {
    let dir = tempfile::tempdir().unwrap();
    let json = dir.path().join("out.json");
    let program = env!("CARGO_BIN_EXE_loadgen");
    let out = Command::new(program)
        .args(flags.split(' '))
        .args(["--ensemble", "3", "--server-binary", program, "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let text = fs::read_to_string(&json);
    let text = text.unwrap_or_else(|e| panic!("{e}: {}", support::text(&out.stderr)));
    serde_json::from_str(&text).unwrap()
}

#[test]
fn sessions_are_spread_over_an_ensemble() {
    let json = on_three_servers(
        "run --connections 6 --outstanding 4 --keys 10 --warmup 0s --duration 500ms --quiet",
    );
    let servers = json["servers"].as_array().unwrap();
    assert_eq!(servers.len(), 3);
    let modes: Vec<&str> = servers.iter().map(|s| s["srvr"].as_str().unwrap()).collect();
    assert_eq!(modes.iter().filter(|m| m.ends_with("leader")).count(), 1, "{modes:?}");
    assert_eq!(modes.iter().filter(|m| m.ends_with("follower")).count(), 2, "{modes:?}");
    for s in servers {
        assert_eq!(s["connections"], 2);
        assert!(s["operations"].as_u64().unwrap() > 0);
    }
    assert_eq!(json["summary"]["errors"], 0);
    assert!(json["config"]["servers"].as_str().unwrap().starts_with("3 x serval"));
}

#[test]
fn a_timeline_kills_the_leader_and_loses_nothing() {
    let timeline = |duration| {
        let schedule = "--kill leader@1s,restart@4s --warmup 500ms --write-rate 200 --read-rate 200";
        on_three_servers(&format!("timeline {schedule} --duration {duration} --quiet"))
    };
    let mut json = timeline("8s");
    if json["runs"][0]["events"][1]["serves_after_ms"].is_null() {
        // On a busy machine a start may take longer.
        json = timeline("30s");
    }
    let summary = &json["summary"];
    assert_eq!((&summary["lost_writes"], &summary["lost_sessions"]), (&Value::from(0), &Value::from(0)));
    assert_eq!(summary["unchecked_sessions"], 0);
    assert_eq!(summary["leader_gap"]["count"], 1);
    assert_eq!(summary["leader_gap"]["without_end"], 0, "the others went on without it");
    let run = &json["runs"][0];
    assert_eq!(run["undone"], Value::Array(Vec::new()));
    let (kill, restart) = (&run["events"][0], &run["events"][1]);
    assert_eq!((&kill["verb"], &kill["led"]), (&Value::from("kill"), &Value::from(true)));
    assert!(kill["longest_silence_ms"].as_f64().unwrap() > 0.0);
    assert_eq!((&restart["verb"], &restart["server"]), (&Value::from("restart"), &kill["server"]));
    assert!(restart["serves_after_ms"].is_number(), "it came back");
}
