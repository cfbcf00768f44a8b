//! Servers of loadgen's own: that their processes end, and what is said when they do not come up. That they serve is
//! shown by the side-by-side scripts, which need the real ones.

mod support;

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
