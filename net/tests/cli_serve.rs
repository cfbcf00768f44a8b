//! The binary as a running server: its greeting, its ports, the words, how it ends, and who else may have its directory.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// No step of a test waits longer.
const DEADLINE: Duration = Duration::from_secs(60);

/// A server of ours; killed when dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
    addr: String,
}

impl Running {
    /// Started in `cwd`, serving.
    fn start(cwd: &Path, args: &[&str]) -> Running {
        Running::start_with_log(cwd, args, Stdio::inherit())
    }

    /// The same with its log somewhere else.
    fn start_with_log(cwd: &Path, args: &[&str], log: Stdio) -> Running {
        let mut child = Command::new(env!("CARGO_BIN_EXE_serval"))
            .arg("serve")
            .args(args)
            .current_dir(cwd)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the binary starts");
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (to, lines) = mpsc::channel();
        std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|l| to.send(l)));
        let mut running = Running { child, lines, addr: String::new() };
        let first = running.line();
        let addrs = first.strip_prefix("serval: serving ZooKeeper clients on ").expect(&first);
        running.addr =
            addrs.split(' ').next().unwrap().replace("0.0.0.0", "127.0.0.1").replace("[::]", "127.0.0.1");
        running
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(DEADLINE).expect("a line in time")
    }

    fn word(&self, word: &str) -> String {
        let mut stream = TcpStream::connect(&self.addr).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(word.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// Sends a signal and gives the exit code.
    fn end(mut self, signal: rustix::process::Signal) -> Option<i32> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(began.elapsed() < DEADLINE, "it does not end");
            std::thread::yield_now();
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

fn serval(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_serval")).args(args).output().expect("the binary starts")
}

fn err(o: &Output) -> String {
    String::from_utf8_lossy(&o.stderr).into_owned()
}

#[test]
fn without_a_zoo_cfg_it_says_what_it_is_and_status_finds_it() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), &["--client-port", "0"]);
    assert!(server.addr.starts_with("127.0.0.1:") && !server.addr.ends_with(":0"), "{}", server.addr);
    assert!(server.line().contains("standalone server on loopback only, data in ./serval-data"));
    assert!(server.line().ends_with(&format!("serval status {}", server.addr)));
    assert!(dir.path().join("serval-data").is_dir());
    let o = serval(&["status", &server.addr]);
    let table = String::from_utf8_lossy(&o.stdout).into_owned();
    assert_eq!(o.status.code(), Some(0), "{table}");
    assert!(table.contains("standalone"), "{table}");
    assert_eq!(server.word("ruok"), "imok", "on loopback every word is allowed");
    assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
    assert_eq!(
        serval(&["wal", "verify", dir.path().join("serval-data").to_str().unwrap()]).status.code(),
        Some(0)
    );
}

#[test]
fn a_log_that_cannot_be_written_ends_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let server = Running::start_with_log(tmp.path(), &["--client-port", "0"], full.into());
    assert_eq!(server.word("ruok"), "imok");
    assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
    // Whoever read it has gone.
    let mut server = Running::start_with_log(tmp.path(), &["--client-port", "0"], Stdio::piped());
    drop(server.child.stderr.take());
    assert_eq!(server.word("ruok"), "imok");
    assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
    // Whoever should read it does not: more lines than a pipe holds.
    let cfg = tmp.path().join("zoo.cfg");
    let unknown: String = (0..2_000).map(|n| format!("unknown{n}=1\n")).collect();
    std::fs::write(&cfg, format!("dataDir={}\nclientPort=1\n{unknown}", tmp.path().join("data").display()))
        .unwrap();
    let args = ["--config", cfg.to_str().unwrap(), "--client-port", "0"];
    let server = Running::start_with_log(tmp.path(), &args, Stdio::piped());
    assert!(server.word("srvr").contains("Mode: standalone"));
    assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
}

#[test]
fn a_zoo_cfg_decides_port_words_and_limits_and_sigint_ends_it() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = dir.path().join("zoo.cfg");
    let text = format!(
        "dataDir={0}/data\ndataLogDir={0}/log\nclientPort=2181\nclientPortAddress=127.0.0.1\ntickTime=1234\n\
         initLimit=5\nsyncLimit=2\nmaxClientCnxns=77\n4lw.commands.whitelist=conf, ruok\n",
        dir.path().display()
    );
    std::fs::write(&cfg, text).unwrap();
    let server = Running::start(dir.path(), &["--config", "zoo.cfg", "--client-port", "0"]);
    assert!(server.addr.starts_with("127.0.0.1:") && !server.addr.ends_with(":2181"), "{}", server.addr);
    let conf = server.word("conf");
    let port = server.addr.rsplit(':').next().unwrap();
    for line in [
        format!("clientPort={port}"),
        format!("dataDir={}/data", dir.path().display()),
        format!("dataLogDir={}/log", dir.path().display()),
        "tickTime=1234".into(),
        "minSessionTimeout=2468".into(),
        "maxSessionTimeout=24680".into(),
        "maxClientCnxns=77".into(),
        "serverId=0".into(),
    ] {
        assert!(conf.lines().any(|l| l == line), "{line} is not in {conf}");
    }
    assert_eq!(server.word("mntr"), "mntr is not executed because it is not in the whitelist.\n");
    assert!(server.word("srvr").contains("\nMode: standalone\n"), "srvr is always allowed");
    assert_eq!(server.end(rustix::process::Signal::INT), Some(0));
}

#[test]
fn directory_and_port_of_a_running_server_are_refused_to_another() {
    let dir = tempfile::tempdir().unwrap();
    let server = Running::start(dir.path(), &["--client-port", "0", "--data-dir", "mine"]);
    let mine = dir.path().join("mine");
    let o = serval(&["serve", "--client-port", "0", "--data-dir", mine.to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(4), "{}", err(&o));
    assert!(err(&o).contains("in use by another process"), "{}", err(&o));
    let port = server.addr.rsplit(':').next().unwrap();
    let other = dir.path().join("other");
    let o = serval(&["serve", "--client-port", port, "--data-dir", other.to_str().unwrap()]);
    assert_eq!(o.status.code(), Some(4), "{}", err(&o));
    assert!(err(&o).contains(&format!("cannot listen for clients on 127.0.0.1:{port}")), "{}", err(&o));
    assert_eq!(server.word("ruok"), "imok", "the first one goes on");
}

#[test]
fn a_directory_that_is_ended_or_killed_is_taken_up_again() {
    let dir = tempfile::tempdir().unwrap();
    let args = ["--client-port", "0", "--data-dir", "d"];
    assert_eq!(Running::start(dir.path(), &args).end(rustix::process::Signal::TERM), Some(0));
    assert_eq!(Running::start(dir.path(), &args).end(rustix::process::Signal::KILL), None);
    let server = Running::start(dir.path(), &args);
    assert!(server.word("srvr").contains("\nNode count: 5\n"));
}

/// As in ZooKeeper: a database that was lost must not look like a new one.
#[test]
fn without_autocreate_an_empty_directory_is_begun_only_when_a_file_allows_it() {
    let dir = tempfile::tempdir().unwrap();
    let cfg = dir.path().join("zoo.cfg");
    let data = dir.path().join("data");
    let text = format!("dataDir={}\nclientPort=2181\nclientPortAddress=127.0.0.1\n", data.display());
    std::fs::write(&cfg, text + "db.autocreate=false\n").unwrap();
    let args = ["--config", cfg.to_str().unwrap(), "--client-port", "0"];
    let o = serval(&[&["serve"], &args[..]].concat());
    assert_eq!(o.status.code(), Some(4), "{}", err(&o));
    let allowed = data.join("initialize");
    assert!(
        err(&o).contains("db.autocreate=false") && err(&o).contains(allowed.to_str().unwrap()),
        "{}",
        err(&o)
    );
    std::fs::write(&allowed, b"").unwrap();
    let server = Running::start(dir.path(), &args);
    assert!(!allowed.exists(), "it is used up");
    // A client leaves something behind; from then on it is no empty directory.
    let mut stream = TcpStream::connect(&server.addr).unwrap();
    let mut connect = vec![0, 0, 0, 44];
    connect.extend([0; 12]);
    connect.extend(10_000i32.to_be_bytes());
    connect.extend([0; 8]);
    connect.extend([0, 0, 0, 16]);
    connect.extend([0; 16]);
    stream.write_all(&connect).unwrap();
    stream.read_exact(&mut [0; 8]).unwrap();
    assert_eq!(server.end(rustix::process::Signal::TERM), Some(0));
    Running::start(dir.path(), &args);
}
