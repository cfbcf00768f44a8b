//! Servers on this machine for the length of a command: started as child processes on loopback, ended by process id.
//!
//! Here: their files and command lines (`layout`), their processes (`member`), what they say of themselves (`status`).
//! Not here: any load, but for the one that warms a JVM up.
//! Invariants: an ensemble is handed out only when all of its servers serve and one leads; whatever was started has
//! ended when it is dropped, and also when this process is killed; every wait has a deadline.

mod layout;
mod member;
mod status;

pub use layout::{ServerOption, Target};
pub use member::{Member, exec_with_parent};
pub use status::{Mode, Status};

use crate::cli::LocalArgs;
use crate::run;
use anyhow::{Context, bail};
use layout::{Common, Ports};
use member::LOOK_EVERY;
use net::embed::{FreePorts, free_ports};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Longest wait until all serve. A JVM on a busy machine takes several seconds.
const SERVE_WAIT: Duration = Duration::from_secs(60);
/// Longest wait for servers that were asked to end.
const END_WAIT: Duration = Duration::from_secs(10);
/// How long a JVM is driven before the command begins, unless told otherwise.
const JVM_WARM_UP: Duration = Duration::from_secs(5);
/// The load that warms servers up.
const WARM_UP_FLAGS: &str =
    "--connections 24 --outstanding 20 --mix get=8,set=2 --value-size 1024 --keys 100";

/// Servers that run here.
#[derive(Debug)]
pub struct Ensemble {
    /// In order of their ids.
    pub members: Vec<Member>,
    common: Common,
    // Behind the members, so that these go after their processes.
    _ports: FreePorts,
    _directory: TempDir,
}

impl Ensemble {
    /// Starts as many servers as `args` says, waits until they serve, and warms them up. `None` if it asks for none.
    ///
    /// # Errors
    /// A program is missing, or the servers do not come up: then with the last lines of their logs.
    pub fn start(args: &LocalArgs) -> anyhow::Result<Option<Ensemble>> {
        let Some(n) = args.ensemble else { return Ok(None) };
        let n = usize::from(n);
        let directory = tempfile::Builder::new().prefix("loadgen-").tempdir();
        let directory = directory.context("cannot make a temporary directory")?;
        let ports = free_ports(n * layout::PORTS)?;
        let common = common(args, layout::share_out(&ports))?;
        let members = (0..n)
            .map(|i| Member::new(&common, i, directory.path().join(format!("server{}", i + 1))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut ensemble = Ensemble { members, common, _ports: ports, _directory: directory };
        for index in 0..n {
            ensemble.launch(index)?;
        }
        ensemble.wait_serving()?;
        ensemble.warm_up(args)?;
        Ok(Some(ensemble))
    }

    /// Where clients connect to, in order of the servers' ids.
    pub fn hosts(&self) -> Vec<String> {
        self.members.iter().map(|m| m.endpoint.name.clone()).collect()
    }

    /// What runs, in a few words.
    pub fn describe(&self) -> String {
        self.common.describe()
    }

    /// Starts the process of a server that is down. From the main thread only.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn launch(&mut self, index: usize) -> anyhow::Result<()> {
        self.members[index].launch(&self.common)
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, index: usize) {
        self.members[index].kill();
    }

    /// SIGTERM; returns when the process is gone.
    pub fn end(&mut self, index: usize) {
        self.members[index].end(END_WAIT);
    }

    /// SIGSTOP.
    pub fn pause(&mut self, index: usize) {
        self.members[index].pause();
    }

    /// SIGCONT.
    pub fn resume(&mut self, index: usize) {
        self.members[index].resume();
    }

    /// What each says about itself; `None` for those that do not serve.
    pub fn statuses(&mut self) -> Vec<Option<Status>> {
        self.members.iter_mut().map(Member::status).collect()
    }

    /// Waits until all servers serve and one of them leads.
    ///
    /// # Errors
    /// One of them has ended, or it takes too long.
    pub fn wait_serving(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SERVE_WAIT;
        loop {
            for member in &mut self.members {
                if let Some(how) = member.ended() {
                    bail!(
                        "server {} has ended ({how}); its log ends with:\n{}",
                        member.id,
                        member.log_tail()
                    );
                }
            }
            let modes: Vec<_> = self.statuses().iter().map(|s| s.map(|s| s.mode)).collect();
            if serves(&modes) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(self.not_serving(&modes));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn not_serving(&self, modes: &[Option<Mode>]) -> anyhow::Error {
        let mut text = format!("the servers do not all serve after {} s", SERVE_WAIT.as_secs());
        for (member, mode) in self.members.iter().zip(modes) {
            let mode = mode.map_or("does not serve", Mode::name);
            text.push_str(&format!(
                "\nserver {}: {mode}; its log ends with:\n{}",
                member.id,
                member.log_tail()
            ));
        }
        anyhow::anyhow!(text)
    }

    fn warm_up(&self, args: &LocalArgs) -> anyhow::Result<()> {
        let default = if self.common.target == Target::Apache { JVM_WARM_UP } else { Duration::ZERO };
        let length = args.warm_servers.unwrap_or(default);
        if length.is_zero() {
            return Ok(());
        }
        let (hosts, ms) = (self.hosts().join(","), format!("{}ms", length.as_millis()));
        let own = ["--hosts", &hosts, "--warmup", "0s", "--duration", &ms, "--quiet"];
        let flags = own.into_iter().chain(WARM_UP_FLAGS.split_whitespace());
        run::execute(&crate::cli::run_args(flags)?).context("warming the servers up")?;
        Ok(())
    }

    /// Ends all servers in good order. Their data are gone then.
    pub fn stop(mut self) {
        // All at once first: the last ones would only wait for a quorum that is gone.
        self.members.iter_mut().for_each(Member::terminate);
        self.members.iter_mut().for_each(|m| m.end(END_WAIT));
    }
}

/// `loadgen servers`: starts an ensemble, says where it is, and ends it when the standard input ends.
///
/// # Errors
/// As [`Ensemble::start`]; also when no number of servers is given.
pub fn keep(args: &LocalArgs) -> anyhow::Result<bool> {
    let Some(ensemble) = Ensemble::start(args)? else { bail!("how many? Give --ensemble N") };
    let mut out = std::io::stdout();
    let pids: Vec<String> =
        ensemble.members.iter().filter_map(|m| m.pid()).map(|pid| pid.to_string()).collect();
    writeln!(
        out,
        "servers {}\npids {}\nhosts {}",
        ensemble.describe(),
        pids.join(","),
        ensemble.hosts().join(",")
    )?;
    out.flush()?;
    // Whatever comes is ignored; an error is an end, too.
    let mut ignored = [0; 64];
    while std::io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
    ensemble.stop();
    Ok(true)
}

/// Whether these are the roles of an ensemble that serves.
fn serves(modes: &[Option<Mode>]) -> bool {
    let leaders = modes.iter().filter(|m| matches!(m, Some(Mode::Leader | Mode::Standalone))).count();
    leaders == 1 && modes.iter().all(Option::is_some)
}

fn common(args: &LocalArgs, ports: Vec<Ports>) -> anyhow::Result<Common> {
    let (program, class_path) = match args.target {
        Target::Serval => (serval_binary(args)?, String::new()),
        Target::Apache => (
            args.server_binary.clone().unwrap_or_else(|| PathBuf::from("java")),
            layout::apache_class_path()?,
        ),
    };
    Ok(Common {
        target: args.target,
        program,
        profile: args.server_profile.clone(),
        java_heap: args.java_heap.clone(),
        class_path,
        tick_ms: args.tick_time,
        options: args.server_option.clone(),
        ports,
    })
}

/// The binary that was named, or the one beside this program's own, or this program, which can do the same.
fn serval_binary(args: &LocalArgs) -> anyhow::Result<PathBuf> {
    let Some(path) = &args.server_binary else {
        let this = std::env::current_exe().context("this program does not know its own file")?;
        let beside = this.with_file_name("serval");
        return Ok(if beside.is_file() { beside } else { this });
    };
    // The servers run in directories of their own.
    std::path::absolute(path)
        .ok()
        .filter(|p| p.is_file())
        .with_context(|| format!("there is no {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ensemble_serves_when_all_do_and_one_leads() {
        let (l, f) = (Some(Mode::Leader), Some(Mode::Follower));
        assert!(serves(&[f, l, f]));
        assert!(serves(&[Some(Mode::Standalone)]));
        assert!(!serves(&[f, l, None]), "one does not serve");
        assert!(!serves(&[f, f, f]), "nobody leads");
        assert!(!serves(&[l, l, f]), "two say that they lead");
    }
}
