//! `loadgen timeline`: a constant load while servers are killed and started again, and how long each time nothing was
//! acknowledged.
//!
//! Here: the schedule, the sessions that outlive their connections (`client`, `driver`), what is done to the servers
//! (`stage`), the gaps (`gaps`), their table, JSON and plot. Not here: starting servers (`ensemble`).
//! Invariants: the load is open-loop: what is due while nobody answers waits and is sent then; a gap counts from the
//! signal to the acknowledgement of a write that was sent after the server was gone.

mod client;
mod driver;
mod gaps;
mod html;
mod log;
mod report;
mod schedule;
mod stage;

pub use schedule::{Schedule, Step, Verb, Who};

use crate::cli::TimelineArgs;
use crate::client::{Clock, Control, Opening};
use crate::ensemble::Ensemble;
use crate::report::Progress;
use crate::system::{self, Environment};
use crate::workload::Rng;
use anyhow::{Context, bail};
use driver::{Findings, Orders, drive};
use engine::error::Code;
use gaps::{Event, Gap};
use stage::{Done, Stage};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Acknowledged writes of one run that are kept, at most: 24 bytes each.
const WRITES_MAX: f64 = 20e6;
/// Samples of one run, at most: an hour.
const LENGTH_MAX: Duration = Duration::from_secs(3600);
/// How often the nodes of a run are tried to be made, and the pause between.
const CREATE_ATTEMPTS: usize = 4;
const CREATE_PAUSE: Duration = Duration::from_millis(250);
/// Between the making of the nodes and the first request.
const LEAD_NS: u64 = 50_000_000;

/// One run of the timeline.
struct Run {
    findings: Findings,
    events: Vec<Event>,
    /// One per event.
    gaps: Vec<Gap>,
    undone: Vec<String>,
}

/// Does what the command line says; `false` if a session or an acknowledged write was lost, a gap had no end, a step
/// of the schedule could not be done, or the generator was late.
///
/// # Errors
/// Flags that contradict each other, no connection, a server that does not come back.
pub fn command(args: &TimelineArgs, mut servers: Option<&mut Ensemble>) -> anyhow::Result<bool> {
    let schedule = schedule(args, servers.as_ref().map_or(0, |s| s.members.len()))?;
    system::raise_open_files();
    let opening = args.target.opening()?;
    let srvr = opening.endpoints.iter().map(system::srvr).collect();
    let stop = Arc::new(AtomicBool::new(false));
    // The second interrupt ends the process as it always did.
    signal_hook::flag::register_conditional_shutdown(signal_hook::consts::SIGINT, 130, Arc::clone(&stop))?;
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::clone(&stop))?;
    let seed = system::fresh_seed();
    let mut runs = Vec::new();
    for n in 0..args.repeat {
        let what = format!("run {} of {}", n + 1, args.repeat);
        let base = format!("/loadgen-timeline-{seed}-{n}");
        let nodes = Nodes::create(&opening, base, args.connections)?;
        let mut run = run_once(args, &schedule, servers.as_deref_mut(), &opening, &nodes, &stop, &what)?;
        // What was measured is shown whatever comes behind it.
        let after = match servers.as_deref_mut() {
            // Its nodes go with the servers.
            Some(servers) => restore(servers).context("bringing the servers back"),
            None => nodes.delete(&opening),
        };
        run.undone.extend(after.as_ref().err().map(|e| format!("{e:#}")));
        runs.push(run);
        if stop.load(Ordering::Relaxed) || after.is_err() {
            break;
        }
    }
    let result = report::TimelineResult::new(args, &schedule, srvr, Environment::here(), runs);
    print!("{}", report::table(&result));
    if let Some(path) = &args.json {
        report::write_json(&result, path)?;
    }
    if let Some(path) = &args.html {
        std::fs::write(path, html::page(&result))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(result.good())
}

/// The schedule that the flags ask for, checked against the others.
fn schedule(args: &TimelineArgs, servers: usize) -> anyhow::Result<Schedule> {
    let schedule = match (&args.kill, args.kill_every) {
        (Some(schedule), _) => schedule.clone(),
        (None, Some(every)) => Schedule::repeated(args.kill_who, every, args.down, args.duration)
            .map_err(|e| anyhow::anyhow!("--kill-every: {e}"))?,
        (None, None) => Schedule::default(),
    };
    if args.duration > LENGTH_MAX || args.duration.is_zero() {
        bail!("--duration: allowed is more than 0s, up to 1h");
    }
    if args.write_rate * args.duration.as_secs_f64() > WRITES_MAX {
        bail!("--write-rate and --duration: at most {WRITES_MAX:.0} writes in a run");
    }
    if let Some(last) = schedule.last()
        && last >= args.duration
    {
        bail!("--kill: an event at {last:?} is not within --duration {:?}", args.duration);
    }
    if servers == 0 && schedule.last().is_some() {
        bail!(
            "--kill and --kill-every need servers that loadgen has started itself: give --ensemble instead of --hosts"
        );
    }
    if schedule.largest_id() > servers {
        bail!("--kill: there is no server {}, only 1 to {servers}", schedule.largest_id());
    }
    Ok(schedule)
}

/// The nodes of a run: one for each session below one of their own.
struct Nodes {
    base: String,
    paths: Vec<String>,
}

impl Nodes {
    fn create(opening: &Opening, base: String, n: u32) -> anyhow::Result<Nodes> {
        let paths = (0..n).map(|i| format!("{base}/c{i}")).collect();
        let nodes = Nodes { base, paths };
        let mut made = nodes.create_on(opening, 0);
        // Servers that were killed a moment ago may close connections once more.
        for attempt in 1..CREATE_ATTEMPTS {
            if made.is_ok() {
                break;
            }
            std::thread::sleep(CREATE_PAUSE);
            made = nodes.create_on(opening, attempt % opening.endpoints.len());
        }
        made.map(|()| nodes)
    }

    fn create_on(&self, opening: &Opening, server: usize) -> anyhow::Result<()> {
        let mut control = Control::open(opening, server)?;
        for path in std::iter::once(&self.base).chain(&self.paths) {
            match control.create(path, b"")? {
                // There already: made by an attempt whose answer was lost, as the name is nobody else's.
                Code::OK | Code::NODEEXISTS => {}
                code => bail!("cannot create {path}: {code}"),
            }
        }
        // A session that is never closed would only linger until it expires.
        let _ = control.close();
        Ok(())
    }

    fn delete(&self, opening: &Opening) -> anyhow::Result<()> {
        let mut control = Control::open(opening, 0).context("cleanup")?;
        for path in self.paths.iter().chain(std::iter::once(&self.base)) {
            match control.delete(path).context("cleanup")? {
                Code::OK | Code::NONODE => {}
                code => bail!("cleanup: deleting {path}: {code}"),
            }
        }
        let _ = control.close();
        Ok(())
    }
}

fn run_once(
    args: &TimelineArgs,
    schedule: &Schedule,
    servers: Option<&mut Ensemble>,
    opening: &Opening,
    nodes: &Nodes,
    stop: &AtomicBool,
    what: &str,
) -> anyhow::Result<Run> {
    let clock = Clock::start();
    let orders = orders(args, opening, nodes, clock.now() + LEAD_NS);
    let progress = Progress::start(what, 0, args.quiet);
    let acknowledged = AtomicU64::new(0);
    let (findings, done) = std::thread::scope(|scope| {
        let driver = std::thread::Builder::new().name("driver".to_owned());
        let driver = driver.spawn_scoped(scope, || drive(&orders, clock, stop, &acknowledged))?;
        let tick = || progress.show(acknowledged.load(Ordering::Relaxed));
        let span = (orders.start, orders.end);
        let played = match servers {
            Some(servers) => Stage::new(servers, clock).play(schedule, span, stop, tick),
            None => {
                wait_until(clock, orders.end, stop, tick);
                Ok(Done::default())
            }
        };
        if played.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        let found =
            driver.join().map_err(|_| anyhow::anyhow!("the driver's thread ended unexpectedly"))??;
        anyhow::Ok((found, played?))
    })?;
    progress.finish();
    let Done { events, undone } = done;
    let gaps = gaps_of(&events, &findings, args.connections as usize);
    Ok(Run { findings, events, gaps, undone })
}

/// The gap of every event. An event reaches to the next one, and is compared with the time since the one before.
fn gaps_of(events: &[Event], findings: &Findings, clients: usize) -> Vec<Gap> {
    let log = &findings.log;
    let of = |i: usize| {
        let since = if i > 0 { events[i - 1].at } else { log.start };
        let until = events.get(i + 1).map_or(log.end, |next| next.at);
        gaps::gap(&events[i], since, until, log, clients)
    };
    (0..events.len()).map(of).collect()
}

fn orders(args: &TimelineArgs, opening: &Opening, nodes: &Nodes, begin: u64) -> Orders {
    let mut value = vec![0; args.value_size as usize];
    Rng::new(1, 0).fill(&mut value);
    let start = begin + args.warmup.as_nanos() as u64;
    Orders {
        common: Arc::new(client::Common {
            servers: opening.endpoints.iter().map(|e| e.address).collect(),
            timeout_ms: opening.timeout_ms,
            credential: opening.credential.clone(),
            value,
            pause_ns: args.reconnect_pause.as_nanos() as u64,
            welcome_ns: args.connect_timeout.as_nanos() as u64,
        }),
        paths: nodes.paths.clone(),
        write_rate: args.write_rate,
        read_rate: args.read_rate,
        begin,
        start,
        end: start + args.duration.as_nanos() as u64,
    }
}

/// Without servers of our own there is nothing to do but to wait.
fn wait_until(clock: Clock, end: u64, stop: &AtomicBool, mut tick: impl FnMut()) {
    while clock.now() < end && !stop.load(Ordering::Relaxed) {
        tick();
        std::thread::sleep(
            Duration::from_millis(50).min(Duration::from_nanos(end.saturating_sub(clock.now()))),
        );
    }
}

/// Brings back what is down, and waits until all serve.
fn restore(servers: &mut Ensemble) -> anyhow::Result<()> {
    for index in 0..servers.members.len() {
        servers.resume(index);
        if !servers.members[index].alive() {
            servers.launch(index)?;
        }
    }
    servers.wait_serving()
}
