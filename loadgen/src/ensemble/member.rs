//! One server of a local ensemble: its directory and its process.
//!
//! Invariant: only the process that was started here is signalled, by its id, and while it has not been waited for.

use super::layout::{Common, Ports};
use super::status::{Status, status};
use crate::client::Endpoint;
use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Lines of a server's log that an error shows.
const LOG_LINES: usize = 20;
/// Bytes of a server's log that are looked at for them.
const LOG_BYTES: u64 = 64 << 10;
/// How often something that is awaited is looked at.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// A server. Dropping it kills its process.
#[derive(Debug)]
pub struct Member {
    /// Its `myid`: 1 and up.
    pub id: usize,
    pub endpoint: Endpoint,
    directory: PathBuf,
    process: Option<Child>,
    paused: bool,
}

impl Member {
    /// Makes its directory and files. Nothing is started.
    pub(super) fn new(common: &Common, index: usize, directory: PathBuf) -> anyhow::Result<Member> {
        let id = index + 1;
        let data = directory.join("data");
        fs::create_dir_all(&data).with_context(|| format!("cannot make {}", data.display()))?;
        fs::write(data.join("myid"), format!("{id}\n"))?;
        fs::write(directory.join("zoo.cfg"), common.zoo_cfg(index, &data))?;
        let Ports { client, .. } = common.ports[index];
        let endpoint = Endpoint::resolve(&format!("127.0.0.1:{client}"))?;
        Ok(Member { id, endpoint, directory, process: None, paused: false })
    }

    /// Starts its process and does not wait for anything. To be called from the main thread: with the thread that
    /// started it the process ends.
    pub(super) fn launch(&mut self, common: &Common) -> anyhow::Result<()> {
        let log_path = self.log_path();
        let log = File::options().create(true).append(true).open(&log_path);
        let log = log.with_context(|| format!("cannot write {}", log_path.display()))?;
        let this = std::env::current_exe().context("this program does not know its own file")?;
        let zoo_cfg = self.directory.join("zoo.cfg").display().to_string();
        let child = Command::new(this)
            .args(["exec-with-parent", "--parent", &std::process::id().to_string(), "--"])
            .arg(&common.program)
            .args(common.arguments(&zoo_cfg))
            .current_dir(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // An interrupt from the terminal is this process's to act on.
            .process_group(0)
            .spawn()
            .context("cannot start a server's process")?;
        self.process = Some(child);
        Ok(())
    }

    /// Whether its process runs (also when it is stopped).
    pub fn alive(&mut self) -> bool {
        self.process.as_mut().is_some_and(|p| matches!(p.try_wait(), Ok(None)))
    }

    /// Whether its process is stopped.
    pub fn paused(&self) -> bool {
        self.paused
    }

    /// The id of its process.
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    fn signal(&mut self, signal: Signal) {
        if self.alive()
            && let Some(process) = &self.process
        {
            // It may have ended this moment.
            let _ = kill_process(Pid::from_child(process), signal);
        }
    }

    /// SIGKILL; returns when the process is gone.
    pub(super) fn kill(&mut self) {
        self.signal(Signal::KILL);
        if let Some(process) = &mut self.process {
            let _ = process.wait();
        }
        self.paused = false;
    }

    /// SIGTERM, and SIGKILL when that does not end it in time.
    pub(super) fn end(&mut self, wait: Duration) {
        self.terminate();
        let deadline = Instant::now() + wait;
        while self.alive() {
            if Instant::now() > deadline {
                return self.kill();
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// SIGTERM, without waiting.
    pub(super) fn terminate(&mut self) {
        self.resume();
        self.signal(Signal::TERM);
    }

    /// SIGSTOP.
    pub(super) fn pause(&mut self) {
        self.signal(Signal::STOP);
        self.paused = true;
    }

    /// SIGCONT.
    pub(super) fn resume(&mut self) {
        if self.paused {
            self.signal(Signal::CONT);
            self.paused = false;
        }
    }

    /// What it says about itself; `None` while it does not serve.
    pub fn status(&mut self) -> Option<Status> {
        (self.alive() && !self.paused).then(|| status(&self.endpoint)).flatten()
    }

    fn log_path(&self) -> PathBuf {
        self.directory.join("server.log")
    }

    /// The last lines of its log.
    pub fn log_tail(&self) -> String {
        use std::io::{Read, Seek, SeekFrom};
        let tail = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(self.log_path())?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_BYTES)))?;
            let mut bytes = Vec::new();
            file.take(LOG_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        let bytes = tail().unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        if lines.is_empty() {
            return "  (its log is empty)".to_owned();
        }
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        last.iter().map(|l| format!("  {l}")).collect::<Vec<_>>().join("\n")
    }

    /// How its process ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        let process = self.process.as_mut()?;
        process.try_wait().ok().flatten().map(|status| status.to_string())
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The hidden command `exec-with-parent`: becomes another program, which ends when the parent does, however that ends.
///
/// # Errors
/// The program cannot be run; or the parent is gone already. There is no return otherwise.
pub fn exec_with_parent(parent: u32, command: &[String]) -> anyhow::Result<bool> {
    // The setting outlives the exec, and the process keeps its id.
    set_parent_process_death_signal(Some(Signal::KILL)).context("cannot tie the process to its parent")?;
    if getppid().is_none_or(|p| p.as_raw_pid().unsigned_abs() != parent) {
        bail!("the parent process {parent} is gone");
    }
    let Some((program, arguments)) = command.split_first() else { bail!("no program is given") };
    let failed = Command::new(program).args(arguments).exec();
    Err(failed).with_context(|| format!("cannot run {program}"))
}
