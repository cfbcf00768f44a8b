//! The command line: flags, their checks, exit codes.

use crate::client::{CannotConnect, Credential, Endpoint, Opening};
use crate::drive::Arrival;
use crate::ensemble::{self, Ensemble, ServerOption, Target};
use crate::workload::{AclChoice, Distribution, Mix};
use crate::{compare, demo, fanout, hold, run, timeline};
use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Exit codes: part of the interface.
const EXIT_FAILED: u8 = 1;
const EXIT_CANNOT_CONNECT: u8 = 3;

const EXIT_HELP: &str = "\
Exit codes:
  0  all went well
  1  errors, missing replies, or an invalid run (the generator was late)
  2  wrong usage
  3  cannot connect";

/// Load generator for ZooKeeper-speaking servers.
#[derive(Parser, Debug)]
#[command(name = "loadgen", version, after_help = EXIT_HELP, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Start a server in a child process, drive two workloads against it, print their tables.
    Demo(DemoArgs),
    /// Run a workload and measure it.
    Run(Box<RunArgs>),
    /// Many connections watch one znode: how long until the last is notified of a write.
    Fanout(FanoutArgs),
    /// Open sessions and keep them, idle: what does a session cost?
    Idle(IdleArgs),
    /// Create many znodes and leave them: what does a znode cost?
    Fill(FillArgs),
    /// Constant load while servers are killed and started again: how long until the next acknowledged write.
    Timeline(Box<TimelineArgs>),
    /// Put the results of several runs (run --json) into one table.
    Compare(CompareArgs),
    /// Start servers on this machine and keep them until the standard input ends; prints where they are.
    Servers(ServersArgs),
    /// The child process of the demo.
    #[command(hide = true)]
    EmbeddedServer(EmbeddedServerArgs),
    /// A child process that becomes a server.
    #[command(hide = true)]
    ExecWithParent(ExecWithParentArgs),
    /// What `serval serve` does: so this program is a server's, too, where there is no other.
    #[command(hide = true)]
    Serve(ServeArgs),
}

impl Command {
    /// What is written at the end.
    fn files(&self) -> Vec<&PathBuf> {
        let files = match self {
            Command::Run(args) => [&args.json, &args.hdr],
            Command::Timeline(args) => [&args.json, &args.html],
            Command::Fanout(args) => [&args.json, &None],
            Command::Idle(args) => [&args.json, &None],
            Command::Fill(args) => [&args.json, &None],
            _ => [&None, &None],
        };
        files.into_iter().flatten().collect()
    }

    /// The commands that have a target.
    fn target(&mut self) -> Option<&mut TargetArgs> {
        match self {
            Command::Run(args) => Some(&mut args.target),
            Command::Fanout(args) => Some(&mut args.target),
            Command::Idle(args) => Some(&mut args.target),
            Command::Fill(args) => Some(&mut args.target),
            Command::Timeline(args) => Some(&mut args.target),
            Command::Servers(_) | Command::Demo(_) | Command::Compare(_) => None,
            Command::EmbeddedServer(_) | Command::ExecWithParent(_) | Command::Serve(_) => None,
        }
    }

    /// Names the process whose memory is measured, where none was given.
    fn watch_memory_of(&mut self, pid: Option<u32>) {
        if let Command::Idle(IdleArgs { server_pid, .. }) | Command::Fill(FillArgs { server_pid, .. }) = self
        {
            *server_pid = server_pid.or(pid);
        }
    }
}

/// Heading of the flags for servers on this machine.
const LOCAL: &str = "Servers on this machine";

/// Servers to start on this machine.
#[derive(Args, Clone, Debug)]
pub struct LocalArgs {
    /// Start N servers on loopback instead of using --hosts, spread the sessions over them, stop them at the end;
    /// their data lie in the system's directory for temporary files
    #[arg(long, help_heading = LOCAL, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=15))]
    pub ensemble: Option<u8>,
    /// What to start
    #[arg(long, help_heading = LOCAL, value_enum, default_value_t = Target::Serval)]
    pub target: Target,
    /// The server's program [default: serval beside this program, or else this program itself; java with --target
    /// apache]
    #[arg(long, help_heading = LOCAL, value_name = "PATH", requires = "ensemble")]
    pub server_binary: Option<PathBuf>,
    /// Tuning profile of the servers (serval)
    #[arg(long, help_heading = LOCAL, value_name = "NAME|FILE", requires = "ensemble")]
    pub server_profile: Option<String>,
    /// A line for the servers' zoo.cfg; may be given several times
    #[arg(long, help_heading = LOCAL, value_name = "KEY=VALUE", requires = "ensemble")]
    pub server_option: Vec<ServerOption>,
    /// Largest heap of each JVM (apache)
    #[arg(long, help_heading = LOCAL, value_name = "SIZE", default_value = "1g")]
    pub java_heap: String,
    /// The servers' tickTime in milliseconds
    #[arg(long, help_heading = LOCAL, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u32).range(50..=60_000))]
    pub tick_time: u32,
    /// Drive a mixed load that long before the command begins, so that a JVM has compiled its hot paths
    /// [default: 5s with --target apache, else 0s]
    #[arg(long, help_heading = LOCAL, value_name = "TIME", value_parser = duration, requires = "ensemble")]
    pub warm_servers: Option<Duration>,
}

/// Where to, and as whom.
#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// Servers; sessions are spread over them
    #[arg(
        long,
        value_name = "HOST:PORT,...",
        value_delimiter = ',',
        default_value = "127.0.0.1:2181",
        conflicts_with = "ensemble"
    )]
    pub hosts: Vec<String>,
    /// Authenticate every session, as in digest:me:secret
    #[arg(long, value_name = "SCHEME:CREDENTIAL")]
    pub auth: Option<Credential>,
    /// Session timeout to ask for
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "30s")]
    pub session_timeout: Duration,
    #[command(flatten)]
    pub local: LocalArgs,
    /// What was started for this command, in a few words.
    #[arg(skip)]
    pub started: Option<String>,
}

impl TargetArgs {
    /// Resolves the hosts.
    ///
    /// # Errors
    /// One of them does not resolve.
    pub fn opening(&self) -> anyhow::Result<Opening> {
        let endpoints = self.hosts.iter().map(|h| Endpoint::resolve(h.trim())).collect::<Result<_, _>>()?;
        let timeout_ms = i32::try_from(self.session_timeout.as_millis()).unwrap_or(i32::MAX);
        Ok(Opening { endpoints, timeout_ms, credential: self.auth.clone() })
    }
}

/// `loadgen run`.
#[derive(Args, Clone, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Sessions, one connection each
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Requests in flight per session: kept there in a closed loop, at most that many in an open one
    /// [default: 16; 1000 with --rate]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub outstanding: Option<u32>,
    /// Share of get, the rest is set: short for --mix get=..,set=.. [default: 0.9]
    #[arg(long, value_name = "0.0-1.0", value_parser = read_ratio, conflicts_with = "mix")]
    pub read_ratio: Option<Mix>,
    /// Operations and their weights, of get, exists, children, set, create, delete, watch (a get that leaves a
    /// watch); delete takes what its session created, and creates where there is nothing
    #[arg(long, value_name = "OP=WEIGHT,...")]
    pub mix: Option<Mix>,
    /// Bytes of each value that is written
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=16_000_000))]
    pub value_size: u32,
    /// Nodes that get, exists, set and watch touch; they are created first
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    pub keys: u64,
    /// Which of them: uniform, zipf, zipf:THETA, sequential
    #[arg(long, value_name = "NAME", default_value = "uniform")]
    pub distribution: Distribution,
    /// Children of the directory that the operation children lists
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(0..=1_000_000))]
    pub children: u64,
    /// Length of the measured window
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// Load before the window that is not measured
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warmup: Duration,
    /// Longest wait for replies after the window
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5s")]
    pub drain: Duration,
    /// Open loop: requests per second, sent on a plan; latencies count from the planned moment
    #[arg(long, value_name = "OPS_PER_S", value_parser = rate)]
    pub rate: Option<f64>,
    /// Plan with exponential gaps instead of even ones
    #[arg(long, requires = "rate")]
    pub poisson: bool,
    /// The run is invalid when more than one request in a hundred is sent this much behind the plan though the
    /// target had room for it
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "5ms")]
    pub late_limit: Duration,
    /// Threads that send and receive [default: 1 on up to 2 CPUs, else half of them; never more than sessions]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub workers: Option<u32>,
    /// Node below which everything is created; missing ones above it are made, too [default: /loadgen-SEED]
    #[arg(long, value_name = "PATH", value_parser = node_path)]
    pub path: Option<String>,
    /// Determines keys, operations, values and Poisson gaps [default: drawn from the clock, and shown]
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Leave the nodes there after the run
    #[arg(long)]
    pub keep: bool,
    /// Who may use the nodes that are created
    #[arg(long, value_enum, default_value_t = AclChoice::Open)]
    pub acl: AclChoice,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write an HdrHistogram interval log, one tag per operation
    #[arg(long, value_name = "FILE")]
    pub hdr: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
    /// Drive a bare echo server inside this process instead of --hosts: what the generator itself costs
    #[arg(long, conflicts_with_all = ["hosts", "ensemble"])]
    pub self_test: bool,
}

impl RunArgs {
    /// The mix that was asked for.
    pub fn operations(&self) -> Mix {
        let default = || Mix::read_ratio(0.9).expect("0.9 is a ratio");
        self.mix.clone().or_else(|| self.read_ratio.clone()).unwrap_or_else(default)
    }
    /// How an open loop plans.
    pub fn arrival(&self) -> Arrival {
        if self.poisson { Arrival::Poisson } else { Arrival::Constant }
    }
    /// Requests in flight per session.
    pub fn in_flight(&self) -> usize {
        self.outstanding.unwrap_or(if self.rate.is_some() { 1000 } else { 16 }) as usize
    }
}

/// Arguments of `loadgen run` from flags, as if they came from the command line.
///
/// # Errors
/// The flags are not those of `run`, or have values that are not allowed.
pub fn run_args<'a>(flags: impl Iterator<Item = &'a str>) -> anyhow::Result<RunArgs> {
    match Cli::try_parse_from(["loadgen", "run"].into_iter().chain(flags))?.command {
        Command::Run(args) => Ok(*args),
        other => anyhow::bail!("not a run: {other:?}"),
    }
}

/// Arguments of `loadgen timeline` from a whole command line.
#[cfg(test)]
pub(crate) fn timeline_args<'a>(line: impl IntoIterator<Item = &'a str>) -> TimelineArgs {
    match Cli::try_parse_from(line).map(|cli| cli.command) {
        Ok(Command::Timeline(args)) => *args,
        other => panic!("not a timeline: {other:?}"),
    }
}

/// `loadgen demo`.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Measured length of each workload
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "4s")]
    pub duration: Duration,
    /// The server's tuning profile
    #[arg(long, value_name = "NAME|FILE", default_value = "balanced", conflicts_with = "ensemble")]
    pub profile: String,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
    #[command(flatten)]
    pub local: LocalArgs,
}

/// `loadgen embedded-server`.
#[derive(Args, Clone, Debug)]
pub struct EmbeddedServerArgs {
    /// The server's tuning profile
    #[arg(long, value_name = "NAME|FILE", default_value = "balanced")]
    pub profile: String,
}

/// `loadgen fanout`.
#[derive(Args, Clone, Debug)]
pub struct FanoutArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Sessions that watch
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Writes, each after all watches are set again
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub rounds: u32,
    /// Rounds before those that are measured
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub warmup_rounds: u32,
    /// The node that is watched; created, and deleted at the end
    #[arg(long, value_name = "PATH", value_parser = node_path, default_value = "/loadgen-fanout")]
    pub path: String,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `loadgen idle`.
#[derive(Args, Clone, Debug)]
pub struct IdleArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Sessions to open
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub connections: u32,
    /// How long to hold them
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub duration: Duration,
    /// The server's process, on this machine: its resident memory before and after is shown, per session
    /// [default: the first server's, with --ensemble]
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `loadgen fill`.
#[derive(Args, Clone, Debug)]
pub struct FillArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Nodes to create; their names have 13 bytes, with the default path their paths have 27
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    pub keys: u64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=16_000_000))]
    pub value_size: u32,
    /// Sessions
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub connections: u32,
    /// Creates in flight per session
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub outstanding: u32,
    /// The node that they are created in; it is left there
    #[arg(long, value_name = "PATH", value_parser = node_path, default_value = "/loadgen-fill")]
    pub path: String,
    /// The server's process, on this machine: its resident memory before and after is shown, per node
    /// [default: the first server's, with --ensemble]
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// `loadgen timeline`.
#[derive(Args, Clone, Debug)]
pub struct TimelineArgs {
    #[command(flatten)]
    pub target: TargetArgs,
    /// Sessions; one that loses its connection goes on to the next server at once, with the same id and password
    #[arg(long, value_name = "N", default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub connections: u32,
    /// Writes per second, all sessions together, sent on a plan
    #[arg(long, value_name = "OPS_PER_S", value_parser = rate, default_value = "500")]
    pub write_rate: f64,
    /// Reads per second, all sessions together, sent on a plan
    #[arg(long, value_name = "OPS_PER_S", value_parser = rate, default_value = "500")]
    pub read_rate: f64,
    /// Bytes of each value
    #[arg(long, value_name = "BYTES", default_value_t = 100, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub value_size: u32,
    /// What happens when, counted from the end of the warm-up: [kill|stop|pause|restart|resume] [leader|follower|ID]@TIME,
    /// as in leader@5s,restart@8s,kill follower@12s; kill is -9, stop is -15, pause is -STOP; restart and resume
    /// alone mean all that are down
    #[arg(long, value_name = "EVENT,...", conflicts_with = "kill_every", requires = "ensemble")]
    pub kill: Option<timeline::Schedule>,
    /// Kill one server each time that this has passed, and start it again
    #[arg(long, value_name = "TIME", value_parser = duration, requires = "ensemble")]
    pub kill_every: Option<Duration>,
    /// Which one: leader, follower, or an id
    #[arg(long, value_name = "WHO", default_value = "leader")]
    pub kill_who: timeline::Who,
    /// How long it stays down
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub down: Duration,
    /// Length of the timeline
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "20s")]
    pub duration: Duration,
    /// Load before it
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub warmup: Duration,
    /// Run the timeline that often, on the same servers; the table ends with median and worst
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Pause of a session that no server took, before it tries all of them again
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10ms")]
    pub reconnect_pause: Duration,
    /// Longest wait of a session for a server's welcome, before it tries the next
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "2s")]
    pub connect_timeout: Duration,
    /// Write the result as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write a page with a plot of each run
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// No progress on stderr
    #[arg(long)]
    pub quiet: bool,
}

/// `loadgen compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareArgs {
    /// What `loadgen run --json FILE` wrote; ratios are to the first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
}

/// `loadgen servers`.
#[derive(Args, Clone, Debug)]
pub struct ServersArgs {
    #[command(flatten)]
    pub local: LocalArgs,
}

/// `loadgen exec-with-parent`.
#[derive(Args, Clone, Debug)]
pub struct ExecWithParentArgs {
    /// The process whose end ends the program
    #[arg(long)]
    pub parent: u32,
    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub command: Vec<String>,
}

/// `loadgen serve`.
#[derive(Args, Clone, Debug)]
#[command(disable_help_flag = true)]
pub struct ServeArgs {
    /// As `serval serve` takes them
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub arguments: Vec<std::ffi::OsString>,
}

/// `500ms`, `10s`, `2m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("give a number and its unit: us, ms, s, m or h, as in 10s".to_owned()),
    };
    let value: f64 = number.parse().map_err(|_| format!("{number:?} is not a number"))?;
    let wanted = value * seconds;
    if !(0.0..=7.0 * 86_400.0).contains(&wanted) {
        return Err("allowed is 0s to 168h".to_owned());
    }
    Ok(Duration::from_secs_f64(wanted))
}

fn read_ratio(text: &str) -> Result<Mix, String> {
    let ratio: f64 = text.parse().map_err(|_| format!("{text:?} is not a number 0.0..=1.0"))?;
    Mix::read_ratio(ratio).map_err(|e| e.to_string())
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.replace('_', "").parse().map_err(|_| format!("{text:?} is not a number"))?;
    if (1e-3..=1e9).contains(&rate) { Ok(rate) } else { Err("allowed is 0.001 to 1e9 per second".to_owned()) }
}

/// A path of at least one element. What else may be wrong with it the server says.
fn node_path(text: &str) -> Result<String, String> {
    let whole = text.strip_prefix('/').is_some_and(|rest| rest.split('/').all(|part| !part.is_empty()));
    if whole { Ok(text.to_owned()) } else { Err("give a path such as /a or /a/b".to_owned()) }
}

/// Parses the command line, does what it says, and tells the exit code.
pub fn main() -> ExitCode {
    let command = Cli::parse().command;
    if let Command::Serve(ServeArgs { arguments }) = command {
        return ExitCode::from(net::cli::run(["serval".into(), "serve".into()].into_iter().chain(arguments)));
    }
    match perform(command) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(EXIT_FAILED),
        Err(e) => {
            eprintln!("loadgen: {e:#}");
            let connect = e.downcast_ref::<CannotConnect>().is_some();
            ExitCode::from(if connect { EXIT_CANNOT_CONNECT } else { EXIT_FAILED })
        }
    }
}

/// Does what the command says, on servers of its own if it asks for some; `false` if that went wrong in some way.
fn perform(mut command: Command) -> anyhow::Result<bool> {
    for file in command.files() {
        // Told now, not behind a long run whose result would be lost. What is there stays until then.
        let opened = std::fs::OpenOptions::new().create(true).append(true).open(file);
        opened.with_context(|| format!("cannot write {}", file.display()))?;
    }
    let local = command.target().map(|target| target.local.clone());
    let mut servers = local.and_then(|local| Ensemble::start(&local).transpose()).transpose()?;
    if let Some(servers) = &servers {
        if let Some(target) = command.target() {
            target.hosts = servers.hosts();
            target.started = Some(servers.describe());
        }
        println!("servers     {}", servers.describe());
        command.watch_memory_of(servers.members[0].pid());
    }
    let done = match command {
        Command::Demo(args) => demo::command(&args),
        Command::Servers(args) => ensemble::keep(&args.local),
        Command::EmbeddedServer(args) => demo::embedded_server(&args),
        Command::ExecWithParent(args) => ensemble::exec_with_parent(args.parent, &args.command),
        Command::Serve(_) => unreachable!("has its own exit codes, see main"),
        Command::Run(args) => run::command(&args),
        Command::Compare(args) => compare::command(&args),
        Command::Fanout(args) => fanout::command(&args),
        Command::Idle(args) => hold::idle(&args),
        Command::Fill(args) => hold::fill(&args),
        Command::Timeline(args) => timeline::command(&args, servers.as_mut()),
    };
    if let Some(servers) = servers {
        servers.stop();
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["10", "s", "-1s", "1d", "1000h", "NaNs"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn paths_start_with_a_slash_and_do_not_end_with_one() {
        assert!(node_path("/a/b").is_ok());
        for bad in ["", "/", "a", "/a/", "//a"] {
            assert!(node_path(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn read_ratio_and_mix_exclude_each_other() {
        let parse = |flags: &[&str]| Cli::try_parse_from(["loadgen", "run"].iter().chain(flags));
        assert!(parse(&["--read-ratio", "0.5"]).is_ok());
        assert!(parse(&["--read-ratio", "0.5", "--mix", "get=1"]).is_err());
        assert!(parse(&["--read-ratio", "1.5"]).is_err());
        assert!(parse(&["--poisson"]).is_err(), "needs a rate");
        assert!(parse(&["--connections", "0"]).is_err());
    }
}
