//! The machine and the target as the run finds them: for the record, and for limits of this process.

use crate::client::Endpoint;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Longest wait for a four-letter word's answer.
const WORD_WAIT: Duration = Duration::from_secs(2);
/// Longest answer that is kept.
const WORD_BYTES_MAX: u64 = 64 << 10;

/// Where and when a run was made.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Environment {
    /// Milliseconds since 1970.
    pub started_unix_ms: u64,
    pub cpu: String,
    /// CPUs that this process may use.
    pub cpus: usize,
    pub kernel: String,
    pub loadgen_version: &'static str,
}

impl Environment {
    /// Looks around.
    pub fn here() -> Environment {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Environment {
            started_unix_ms: since.as_millis() as u64,
            cpu: cpu_model(),
            cpus: cpus(),
            kernel: first_line("/proc/sys/kernel/osrelease"),
            loadgen_version: env!("CARGO_PKG_VERSION"),
        }
    }
}

/// CPUs that this process may use.
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn first_line(path: &str) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().next().unwrap_or("unknown").to_owned()
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|l| l.starts_with("model name"));
    line.and_then(|l| l.split_once(": ")).map_or("unknown", |(_, name)| name).to_owned()
}

/// A seed that differs from run to run.
pub fn fresh_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Short enough to be typed.
    (since.as_nanos() as u64 ^ u64::from(std::process::id())) % 1_000_000_000
}

/// Raises the limit on open files as far as it goes.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    // Where it cannot be raised, opening sessions says so in its own words.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}

/// Resident memory of a process in bytes, if there is such a process here.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// The answer to a four-letter word, if the server gives one.
pub fn four_letter_word(endpoint: &Endpoint, word: &str) -> Option<String> {
    let mut stream = TcpStream::connect_timeout(&endpoint.address, WORD_WAIT).ok()?;
    stream.set_read_timeout(Some(WORD_WAIT)).ok()?;
    stream.write_all(word.as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.take(WORD_BYTES_MAX).read_to_end(&mut answer).ok()?;
    let answer = String::from_utf8_lossy(&answer).trim().to_owned();
    (!answer.is_empty()).then_some(answer)
}

/// What the target says about itself in `srvr`: its version and mode, on one line.
pub fn srvr(endpoint: &Endpoint) -> Option<String> {
    let answer = four_letter_word(endpoint, "srvr")?;
    let pick = |key: &str| answer.lines().find(|l| l.starts_with(key)).map(str::trim);
    match (pick("Zookeeper version:"), pick("Mode:")) {
        (Some(version), Some(mode)) => Some(format!("{version}; {mode}")),
        _ => answer.lines().next().map(str::to_owned),
    }
}
