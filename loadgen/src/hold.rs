//! `loadgen idle` and `loadgen fill`: what a session, and what a znode, costs the server.
//!
//! With the server's process id its resident memory is read before and after; memory that the server had already
//! and re-uses makes the figure smaller, so start from a fresh server.

use crate::cli::{FillArgs, IdleArgs};
use crate::client::{Clock, Control, Head, Hub, Pending, Session, Sink, open_sessions};
use crate::drive::run_setup;
use crate::report::{Grid, Progress, count, per_second, write_json_value};
use crate::system::{self, Environment};
use crate::workload::{AclChoice, Finite, Layout, Requests, Rng, Task};
use anyhow::{Context, bail};
use engine::error::Code;
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const TURN: Duration = Duration::from_millis(100);

/// The server's resident memory around something that costs it memory.
#[derive(Serialize)]
struct Resident {
    before_bytes: u64,
    after_bytes: u64,
    /// The difference, per item.
    bytes_each: f64,
}

/// Reads the resident memory of the server, where its process is named.
fn resident(pid: Option<u32>) -> anyhow::Result<Option<u64>> {
    let read = |pid| system::resident_bytes(pid).with_context(|| format!("there is no process {pid} here"));
    pid.map(read).transpose()
}

impl Resident {
    fn new(before: Option<u64>, after: Option<u64>, items: u64) -> Option<Resident> {
        let (before_bytes, after_bytes) = (before?, after?);
        let bytes_each = (after_bytes as f64 - before_bytes as f64) / items.max(1) as f64;
        Some(Resident { before_bytes, after_bytes, bytes_each })
    }
}

fn print(what: &str, n: u64, seconds: f64, resident: Option<&Resident>) {
    let mut grid = Grid::new(&["", what, "seconds", "per second", "resident before", "after", "each"]);
    let mib = |b: u64| format!("{:.1} MiB", b as f64 / f64::from(1 << 20));
    let mut cells =
        vec![String::new(), count(n), format!("{seconds:.2}"), count(per_second(n, seconds).round() as u64)];
    match resident {
        None => cells.extend(["-", "-", "-"].map(str::to_owned)),
        Some(r) => {
            cells.extend([mib(r.before_bytes), mib(r.after_bytes), format!("{:.1} B", r.bytes_each)]);
        }
    }
    grid.row(cells);
    print!("{grid}");
}

#[derive(Serialize)]
struct IdleDocument {
    schema: &'static str,
    connections: u32,
    open_seconds: f64,
    held_seconds: f64,
    lost_connections: u64,
    resident: Option<Resident>,
    environment: Environment,
}

/// Counts lost connections.
struct Holding {
    lost: u64,
    why: Option<String>,
}

impl Sink for Holding {
    fn reply(&mut self, _: usize, _: Pending, _: Head, _: u64) {}
    fn event(&mut self, _: usize, _: u64) {}
    fn refill(&mut self, _: &mut Session) {}
    fn lost(&mut self, _: &mut Session, why: &str) {
        self.lost += 1;
        self.why.get_or_insert_with(|| why.to_owned());
    }
}

/// Does what the command line says; `false` if a connection was lost.
///
/// # Errors
/// No connection, or no such server process.
pub fn idle(args: &IdleArgs) -> anyhow::Result<bool> {
    system::raise_open_files();
    let opening = args.target.opening()?;
    let before = resident(args.server_pid)?;
    let began = Instant::now();
    let sessions = open_sessions(&opening, args.connections as usize)?;
    let open_seconds = began.elapsed().as_secs_f64();
    let clock = Clock::start();
    let mut hub = Hub::new(sessions, clock)?;
    let mut holding = Holding { lost: 0, why: None };
    let until = clock.now() + args.duration.as_nanos() as u64;
    while clock.now() < until {
        hub.turn(TURN, &mut holding)?;
    }
    let memory = Resident::new(before, resident(args.server_pid)?, args.connections.into());
    hub.close(Duration::from_secs(10));
    print("sessions", args.connections.into(), open_seconds, memory.as_ref());
    if let Some(why) = &holding.why {
        println!("error: {} connections lost; the first: {why}", holding.lost);
    }
    if let Some(path) = &args.json {
        let document = IdleDocument {
            schema: "loadgen-idle/1",
            connections: args.connections,
            open_seconds,
            held_seconds: args.duration.as_secs_f64(),
            lost_connections: holding.lost,
            resident: memory,
            environment: Environment::here(),
        };
        write_json_value(&document, path)?;
    }
    Ok(holding.lost == 0)
}

#[derive(Serialize)]
struct FillDocument {
    schema: &'static str,
    keys: u64,
    path_bytes: usize,
    value_size: u32,
    seconds: f64,
    creates_per_second: f64,
    resident: Option<Resident>,
    environment: Environment,
}

/// Does what the command line says.
///
/// # Errors
/// No connection, a create that fails, no such server process.
pub fn fill(args: &FillArgs) -> anyhow::Result<bool> {
    system::raise_open_files();
    let opening = args.target.opening()?;
    let before = resident(args.server_pid)?;
    let mut control = Control::open(&opening, 0)?;
    match control.create(&args.path, b"")? {
        Code::OK => {}
        code => bail!("cannot create {}: {code}", args.path),
    }
    control.close()?;
    let layout = Layout { base: args.path.clone() };
    let mut value = vec![0; args.value_size as usize];
    Rng::new(0, 0).fill(&mut value);
    let requests = Arc::new(Requests::new(&layout, &value, AclChoice::Open));
    let mut hub = Hub::new(open_sessions(&opening, args.connections as usize)?, Clock::start())?;

    let began = Instant::now();
    let answered = Arc::new(AtomicU64::new(0));
    let progress = show_progress(args.keys, &answered);
    let source = Finite::new(requests, Task::CreateKeys(0..args.keys));
    let result = run_setup(&mut hub, source, args.outstanding as usize, &answered)?;
    let seconds = began.elapsed().as_secs_f64();
    progress.stop();
    if let Some(failure) = result.failure {
        bail!("creating: {failure}");
    }
    if let Some((code, n)) = result.errors.first_key_value() {
        bail!("creating: {} ({n} times)", Code(*code));
    }
    let memory = Resident::new(before, resident(args.server_pid)?, args.keys);
    hub.close(Duration::from_secs(5));
    print("znodes", args.keys, seconds, memory.as_ref());
    if let Some(path) = &args.json {
        let document = FillDocument {
            schema: "loadgen-fill/1",
            keys: args.keys,
            path_bytes: layout.key(0).len(),
            value_size: args.value_size,
            seconds,
            creates_per_second: per_second(args.keys, seconds),
            resident: memory,
            environment: Environment::here(),
        };
        write_json_value(&document, path)?;
    }
    Ok(true)
}

/// Draws the progress from a thread of its own, as the phase runs in the caller's.
struct Shown {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

fn show_progress(total: u64, answered: &Arc<AtomicU64>) -> Shown {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let answered = Arc::clone(answered);
    let thread = std::thread::spawn(move || {
        let progress = Progress::start("creating", total, false);
        while stopped.recv_timeout(Duration::from_millis(200))
            == Err(std::sync::mpsc::RecvTimeoutError::Timeout)
        {
            progress.show(answered.load(Ordering::Relaxed));
        }
        progress.finish();
    });
    Shown { stop, thread }
}

impl Shown {
    fn stop(self) {
        drop(self.stop);
        let _ = self.thread.join();
    }
}
