//! `loadgen run`: populate, warm up, measure, clean up, report.
//!
//! Not here: the loops themselves (`drive`), the form of the result (`report`).

use crate::cli::RunArgs;
use crate::client::{Clock, Control, Endpoint, Opening, open_sessions};
use crate::drive::{Command, Pace, Plan, Report, SetupResult, Team, WindowPlan, WindowResult};
use crate::record::{Collector, Counters, Window};
use crate::report::{self, HdrLog, Outcome, Population, Progress, ServerRecord};
use crate::system::{self, Environment};
use crate::workload::{KeyPicker, Layout, Mix, Mixed, Operation, Requests, Rng, Task};
use anyhow::{Context, bail};
use engine::error::Code;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Set-up requests in flight, all sessions together: below ZooKeeper's default limit of 1000.
const SETUP_IN_FLIGHT: usize = 800;
/// Bytes of values that set-up has in flight, at most.
const SETUP_BYTES_IN_FLIGHT: usize = 8 << 20;
/// How often the progress is drawn.
const TICK: Duration = Duration::from_millis(200);
/// Random streams: values, and from here on one per worker for draws and one for its plan.
const VALUE_STREAM: u64 = 0;
const WORKER_STREAMS: u64 = 1;

/// Does what the command line says; `true` if the run is valid and without errors.
///
/// # Errors
/// No connection, no population, a worker or a file that failed.
pub fn command(args: &RunArgs) -> anyhow::Result<bool> {
    let mut args = args.clone();
    let echo = args.self_test.then(|| SelfTest::start(args.value_size as usize)).transpose()?;
    if let Some(echo) = &echo {
        args.target.hosts = vec![echo.address.clone()];
    }
    let outcome = execute(&args)?;
    print!("{}", report::table(&outcome));
    if let Some(path) = &args.json {
        report::write_json(&outcome, path)?;
    }
    Ok(outcome.clean())
}

/// The echo server in a thread of this process.
struct SelfTest {
    address: String,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl SelfTest {
    fn start(value_size: usize) -> anyhow::Result<SelfTest> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").context("no port for the echo server")?;
        let address = listener.local_addr()?.to_string();
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        let serve = move || {
            if let Err(e) = crate::echo::serve(listener, value_size, &flag) {
                eprintln!("loadgen: the echo server failed: {e:#}");
            }
        };
        let thread = std::thread::Builder::new().name("echo".to_owned()).spawn(serve)?;
        Ok(SelfTest { address, stop, thread: Some(thread) })
    }
}

impl Drop for SelfTest {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the workload and returns what was measured.
///
/// # Errors
/// As `command`.
pub fn execute(args: &RunArgs) -> anyhow::Result<Outcome> {
    let mut run = Run::prepare(args)?;
    let population = run.populate()?;
    let measured = run.measure()?;
    let cleanup_failure = if args.keep { None } else { run.clean_up().err().map(|e| format!("{e:#}")) };
    run.team.finish();
    Ok(Outcome {
        environment: run.environment,
        config: report::ConfigRecord::new(args, run.seed, &run.layout.base, &run.mix, measured.workers),
        servers: measured.servers(&run.opening.endpoints, args.connections as usize, run.described),
        window: measured.window,
        counters: measured.counters,
        latencies: measured.collector.total,
        intervals: measured.collector.summaries,
        service: measured.service,
        lateness: measured.lateness,
        cpu_ns: measured.cpu_ns,
        cpu_replies: measured.cpu_replies,
        population,
        interrupted: run.stop.load(Ordering::Relaxed),
        late_limit: args.late_limit,
        cleanup_failure,
    })
}

/// A run with its sessions open.
struct Run<'a> {
    args: &'a RunArgs,
    seed: u64,
    mix: Mix,
    layout: Layout,
    requests: Arc<Requests>,
    opening: Opening,
    environment: Environment,
    /// What each endpoint's `srvr` says.
    described: Vec<Option<String>>,
    team: Team,
    clock: Clock,
    stop: Arc<AtomicBool>,
    /// Nodes above the workload's that this run made, deepest last.
    made: Vec<String>,
}

impl<'a> Run<'a> {
    fn prepare(args: &'a RunArgs) -> anyhow::Result<Run<'a>> {
        system::raise_open_files();
        let seed = args.seed.unwrap_or_else(system::fresh_seed);
        let mix = args.operations();
        let base = args.path.clone().unwrap_or_else(|| format!("/loadgen-{seed}"));
        let layout = Layout { base };
        let mut value = vec![0; args.value_size as usize];
        Rng::new(seed, VALUE_STREAM).fill(&mut value);
        let requests = Arc::new(Requests::new(&layout, &value, args.acl));
        let opening = args.target.opening()?;
        let sessions = open_sessions(&opening, args.connections as usize)?;
        let described = opening.endpoints.iter().map(system::srvr).collect();
        let stop = Arc::new(AtomicBool::new(false));
        // The second interrupt ends the process as it always did.
        signal_hook::flag::register_conditional_shutdown(
            signal_hook::consts::SIGINT,
            130,
            Arc::clone(&stop),
        )?;
        signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
        let clock = Clock::start();
        let workers = workers(args);
        let team = Team::start(sessions, workers, &requests, clock, &stop)?;
        let environment = Environment::here();
        let made = Vec::new();
        Ok(Run {
            args,
            seed,
            mix,
            layout,
            requests,
            opening,
            environment,
            described,
            team,
            clock,
            stop,
            made,
        })
    }

    /// Set-up requests in flight per session.
    fn setup_outstanding(&self) -> usize {
        let by_bytes = SETUP_BYTES_IN_FLIGHT / (self.args.value_size as usize + 100);
        (SETUP_IN_FLIGHT.min(by_bytes) / self.args.connections as usize).max(1)
    }

    fn reads_or_sets_keys(&self) -> bool {
        let keyed = [Operation::Get, Operation::Exists, Operation::Set, Operation::Watch];
        keyed.iter().any(|op| self.mix.includes(*op))
    }

    fn populate(&mut self) -> anyhow::Result<Population> {
        let began = Instant::now();
        let mut control = Control::open(&self.opening, 0)?;
        for path in ancestors(&self.layout.base) {
            make(&mut control, path, &mut self.made)?;
        }
        let keys = self.args.keys;
        let mut requests = 0;
        if self.reads_or_sets_keys() {
            let created = self.keys_phase("creating keys", Task::CreateKeys, Code::NODEEXISTS)?;
            requests += created.answered;
            if created.errors.contains_key(&Code::NODEEXISTS.0) {
                // Left by an earlier run: they may hold values of another size.
                requests += self.keys_phase("setting keys", Task::SetKeys, Code::OK)?.answered;
            }
        }
        if self.mix.includes(Operation::Children) {
            make(&mut control, &self.layout.dir(), &mut self.made)?;
            let n = self.args.children;
            let created =
                self.one_worker("creating children", Task::CreateDirChildren(0..n), Code::NODEEXISTS)?;
            requests += created.answered;
        }
        let outstanding = 1;
        let result = self.phase("syncing", self.args.connections.into(), |team, worker| {
            Command::Setup(Task::Sync(team.sessions_of(worker)), outstanding)
        })?;
        check(result, Code::OK, "sync")?;
        // A session that is never closed would only linger until it expires.
        let _ = control.close();
        Ok(Population { keys, requests, seconds: began.elapsed().as_secs_f64() })
    }

    /// A set-up task over all keys, divided among the workers.
    fn keys_phase(
        &self,
        what: &str,
        task: impl Fn(std::ops::Range<u64>) -> Task,
        tolerated: Code,
    ) -> anyhow::Result<SetupResult> {
        let (keys, workers) = (self.args.keys, self.team.workers() as u64);
        let outstanding = self.setup_outstanding();
        let result = self.phase(what, keys, |_, worker| {
            let share = |w: u64| keys * w / workers;
            Command::Setup(task(share(worker as u64)..share(worker as u64 + 1)), outstanding)
        })?;
        check(result, tolerated, what)
    }

    /// A set-up task that worker 0 does alone.
    fn one_worker(&self, what: &str, task: Task, tolerated: Code) -> anyhow::Result<SetupResult> {
        let outstanding = self.setup_outstanding();
        let result = self.phase(what, 0, |_, worker| {
            Command::Setup(if worker == 0 { task.clone() } else { Task::Sync(0) }, outstanding)
        })?;
        check(result, tolerated, what)
    }

    /// Gives every worker a set-up command and waits for all of them.
    fn phase(
        &self,
        what: &str,
        total: u64,
        command: impl Fn(&Team, usize) -> Command,
    ) -> anyhow::Result<SetupResult> {
        let workers = self.team.workers();
        (0..workers).for_each(|w| self.team.tell(w, command(&self.team, w)));
        let progress = Progress::start(what, total, self.args.quiet);
        let mut sum = SetupResult::default();
        let mut reported = 0;
        while reported < workers {
            if let Some(Report::Setup(result)) = self.team.report(TICK)? {
                sum.merge(result);
                reported += 1;
            }
            progress.show(self.team.progress());
        }
        progress.finish();
        Ok(sum)
    }

    fn measure(&self) -> anyhow::Result<Measured> {
        let workers = self.team.workers();
        let start = self.clock.now();
        let from = start + self.args.warmup.as_nanos() as u64;
        let window = Window { from, until: from + self.args.duration.as_nanos() as u64 };
        for worker in 0..workers {
            let (source, pace) = self.workload(worker, start);
            let plan = WindowPlan {
                window,
                pace,
                outstanding: self.args.in_flight(),
                drain_ns: self.args.drain.as_nanos() as u64,
            };
            self.team.tell(worker, Command::Window(Box::new(source), plan));
        }
        let mut log = match &self.args.hdr {
            Some(path) => Some(HdrLog::create(path, &self.environment, from - start)?),
            None => None,
        };
        let mut measured = Measured::new(workers, window);
        let whole = (window.until - start).div_ceil(1_000_000_000);
        let progress = Progress::start("measuring", whole, self.args.quiet);
        let mut reported = 0;
        while reported < workers {
            match self.team.report(TICK)? {
                Some(Report::Interval(part)) => {
                    let merged = measured.collector.add(part);
                    report::log_intervals(&mut log, merged, window.from)?;
                }
                Some(Report::Window(result)) => {
                    measured.add(*result);
                    reported += 1;
                }
                _ => {}
            }
            let warming = self.clock.now() < from;
            progress.show_rate(
                (self.clock.now() - start) / 1_000_000_000,
                self.team.progress(),
                warming,
                &measured.collector.summaries,
            );
        }
        progress.finish();
        let rest = measured.collector.rest();
        report::log_intervals(&mut log, rest, window.from)?;
        if let Some(log) = log {
            log.finish()?;
        }
        Ok(measured)
    }

    /// What a worker draws from, and how it is paced.
    fn workload(&self, worker: usize, start: u64) -> (Mixed, Pace) {
        let workers = self.team.workers();
        let stream = WORKER_STREAMS + 2 * worker as u64;
        let first_key = self.args.keys * worker as u64 / workers as u64;
        let keys = KeyPicker::new(self.args.distribution, self.args.keys, first_key);
        let rng = Rng::new(self.seed, stream);
        let requests = Arc::clone(&self.requests);
        let source = Mixed::new(requests, self.mix.clone(), keys, rng, worker as u64, workers as u64);
        let pace = match self.args.rate {
            None => Pace::Closed,
            Some(rate) => {
                let rng = Rng::new(self.seed, stream + 1);
                Pace::Open(Plan::new(rate, self.args.arrival(), start, worker, workers, rng))
            }
        };
        (source, pace)
    }

    fn clean_up(&mut self) -> anyhow::Result<()> {
        let outstanding = self.setup_outstanding();
        let result = self.phase("deleting created nodes", 0, |_, _| Command::DeleteCreated(outstanding))?;
        check(result, Code::NONODE, "deleting created nodes").context("cleanup")?;
        if self.reads_or_sets_keys() {
            self.keys_phase("deleting keys", Task::DeleteKeys, Code::NONODE).context("cleanup")?;
        }
        if self.mix.includes(Operation::Children) {
            let task = Task::DeleteDirChildren(0..self.args.children);
            self.one_worker("deleting children", task, Code::NONODE).context("cleanup")?;
        }
        let mut control = Control::open(&self.opening, 0).context("cleanup")?;
        for path in self.made.iter().rev() {
            let code = control.delete(path).context("cleanup")?;
            if !matches!(code, Code::OK | Code::NONODE | Code::NOTEMPTY) {
                bail!("cleanup: deleting {path}: {code}");
            }
        }
        let _ = control.close();
        Ok(())
    }
}

/// Threads to use.
fn workers(args: &RunArgs) -> usize {
    let cpus = system::cpus();
    let default = if cpus <= 2 { 1 } else { cpus / 2 };
    args.workers.map_or(default, |n| n as usize).min(args.connections as usize)
}

/// `/a/b/c` as `/a`, `/a/b`, `/a/b/c`.
fn ancestors(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').skip(1).map(|(at, _)| &path[..at]).chain(std::iter::once(path))
}

/// Creates a node unless it is there; notes it in `made` if it was not.
fn make(control: &mut Control, path: &str, made: &mut Vec<String>) -> anyhow::Result<()> {
    match control.create(path, b"")? {
        Code::OK => made.push(path.to_owned()),
        Code::NODEEXISTS => {}
        code => bail!("cannot create {path}: {code}"),
    }
    Ok(())
}

/// A set-up phase may only have had success, and errors of one tolerated code.
fn check(result: SetupResult, tolerated: Code, what: &str) -> anyhow::Result<SetupResult> {
    if let Some(failure) = &result.failure {
        bail!("{what}: {failure}");
    }
    if let Some((code, n)) = result.errors.iter().find(|(code, _)| **code != tolerated.0) {
        bail!("{what}: {} ({n} times)", Code(*code));
    }
    Ok(result)
}

/// What the workers measured, put together.
struct Measured {
    workers: usize,
    window: Window,
    collector: Collector,
    counters: Counters,
    service: Option<hdrhistogram::Histogram<u64>>,
    lateness: Option<hdrhistogram::Histogram<u64>>,
    cpu_ns: u64,
    cpu_replies: u64,
    completed_by_server: Vec<u64>,
}

impl Measured {
    fn new(workers: usize, window: Window) -> Measured {
        Measured {
            workers,
            window,
            collector: Collector::new(workers, window.from),
            counters: Counters::default(),
            service: None,
            lateness: None,
            cpu_ns: 0,
            cpu_replies: 0,
            completed_by_server: Vec::new(),
        }
    }

    fn add(&mut self, result: WindowResult) {
        self.window.from = self.window.from.min(result.window.from);
        self.window.until = self.window.until.min(result.window.until).max(self.window.from);
        self.counters.merge(&result.counters);
        for (sum, part) in [(&mut self.service, result.service), (&mut self.lateness, result.lateness)] {
            let Some(part) = part else { continue };
            match sum {
                None => *sum = Some(part),
                Some(sum) => sum.add(&part).expect("all histograms have the same bounds"),
            }
        }
        self.cpu_ns += result.cpu_ns;
        self.cpu_replies += result.cpu_replies;
        let by_server = &mut self.completed_by_server;
        by_server.resize(by_server.len().max(result.completed_by_server.len()), 0);
        by_server.iter_mut().zip(result.completed_by_server).for_each(|(a, b)| *a += b);
    }

    fn servers(
        &self,
        endpoints: &[Endpoint],
        connections: usize,
        described: Vec<Option<String>>,
    ) -> Vec<ServerRecord> {
        let seconds = (self.window.until - self.window.from) as f64 / 1e9;
        let record = |(i, (endpoint, srvr)): (usize, (&Endpoint, Option<String>))| {
            let operations = self.completed_by_server.get(i).copied().unwrap_or(0);
            ServerRecord {
                address: endpoint.name.clone(),
                connections: (connections + endpoints.len() - 1 - i) / endpoints.len(),
                operations,
                ops_per_second: report::per_second(operations, seconds),
                srvr,
            }
        };
        endpoints.iter().zip(described).enumerate().map(record).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ancestors_come_first() {
        assert_eq!(ancestors("/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b", "/a/b/c"]);
        assert_eq!(ancestors("/a").collect::<Vec<_>>(), ["/a"]);
    }

    #[test]
    fn a_setup_phase_tolerates_one_code_only() {
        let with = |code: Code| SetupResult { answered: 2, errors: [(code.0, 1)].into(), failure: None };
        assert!(check(with(Code::NODEEXISTS), Code::NODEEXISTS, "x").is_ok());
        let refused = check(with(Code::NOAUTH), Code::NODEEXISTS, "creating").unwrap_err().to_string();
        assert_eq!(refused, "creating: NOAUTH (-102) (1 times)");
    }
}
