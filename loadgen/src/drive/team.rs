//! The worker threads of a run: each owns a hub of sessions, obeys commands, and reports.

use super::{SetupResult, WindowPlan, WindowResult, run_setup, run_window};
use crate::client::{Clock, Head, Hub, Pending, Session, Sink};
use crate::record::Interval;
use crate::workload::{Finite, Mixed, Requests, Task};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long a worker without command waits for its sockets before it looks for a command again.
const IDLE_WAIT: Duration = Duration::from_millis(5);
/// How long servers are given to answer closeSession.
const CLOSE_WAIT: Duration = Duration::from_secs(5);

/// What a worker is told.
#[derive(Debug)]
pub enum Command {
    /// Run a set-up task with that many requests in flight per session.
    Setup(Task, usize),
    /// Run the measured phase.
    Window(Box<Mixed>, WindowPlan),
    /// Delete what the measured phase created and left, with that many requests in flight per session.
    DeleteCreated(usize),
}

/// What a worker says. Every command is answered by one `Setup` or `Window`, or by `Failed`.
#[derive(Debug)]
pub enum Report {
    Setup(SetupResult),
    Interval(Interval),
    Window(Box<WindowResult>),
    /// The worker itself failed (not its target) and has ended.
    Failed(anyhow::Error),
}

struct Member {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
    progress: Arc<AtomicU64>,
    sessions: usize,
}

/// All workers.
pub struct Team {
    members: Vec<Member>,
    reports: Receiver<Report>,
}

impl Team {
    /// Starts `workers` threads and deals the sessions out to them. `stop` ends a measured phase early.
    ///
    /// # Errors
    /// A thread or its poll cannot be had.
    pub fn start(
        sessions: Vec<Session>,
        workers: usize,
        requests: &Arc<Requests>,
        clock: Clock,
        stop: &Arc<AtomicBool>,
    ) -> anyhow::Result<Team> {
        let mut hands: Vec<Vec<Session>> = (0..workers).map(|_| Vec::new()).collect();
        for (i, session) in sessions.into_iter().enumerate() {
            hands[i % workers].push(session);
        }
        let (report, reports) = channel();
        let mut members = Vec::with_capacity(workers);
        for (i, hand) in hands.into_iter().enumerate() {
            let (commands, orders) = channel();
            let progress = Arc::new(AtomicU64::new(0));
            let worker = Worker {
                orders,
                report: report.clone(),
                progress: Arc::clone(&progress),
                stop: Arc::clone(stop),
                requests: Arc::clone(requests),
            };
            let sessions = hand.len();
            let hub = Hub::new(hand, clock)?;
            let thread =
                std::thread::Builder::new().name(format!("worker-{i}")).spawn(move || worker.live(hub))?;
            members.push(Member { commands, thread, progress, sessions });
        }
        Ok(Team { members, reports })
    }

    /// Number of workers.
    pub fn workers(&self) -> usize {
        self.members.len()
    }

    /// Sessions of a worker.
    pub fn sessions_of(&self, worker: usize) -> usize {
        self.members[worker].sessions
    }

    /// Gives a worker its next command.
    pub fn tell(&self, worker: usize, command: Command) {
        // A worker that has ended has said why by a report.
        let _ = self.members[worker].commands.send(command);
    }

    /// Requests answered in the phase that runs, by all workers.
    pub fn progress(&self) -> u64 {
        self.members.iter().map(|m| m.progress.load(Ordering::Relaxed)).sum()
    }

    /// The next report; `None` if none came within `wait`.
    ///
    /// # Errors
    /// A worker failed, or all have ended.
    pub fn report(&self, wait: Duration) -> anyhow::Result<Option<Report>> {
        match self.reports.recv_timeout(wait) {
            Ok(Report::Failed(e)) => Err(e),
            Ok(report) => Ok(Some(report)),
            Err(RecvTimeoutError::Timeout) if self.members.iter().all(|m| !m.thread.is_finished()) => {
                Ok(None)
            }
            Err(_) => anyhow::bail!("a worker thread ended unexpectedly"),
        }
    }

    /// Lets the workers close their sessions and end.
    pub fn finish(self) {
        for member in self.members {
            drop(member.commands);
            let _ = member.thread.join();
        }
    }
}

struct Worker {
    orders: Receiver<Command>,
    report: Sender<Report>,
    progress: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    requests: Arc<Requests>,
}

impl Worker {
    fn live(self, mut hub: Hub) {
        loop {
            let done = match self.orders.try_recv() {
                Ok(command) => self.obey(&mut hub, command).map(|report| self.say(report)),
                Err(TryRecvError::Empty) => hub.turn(IDLE_WAIT, &mut Idle),
                Err(TryRecvError::Disconnected) => return hub.close(CLOSE_WAIT),
            };
            if let Err(e) = done {
                return self.say(Report::Failed(e));
            }
        }
    }

    fn say(&self, report: Report) {
        // Nobody listens any more only when the run has been given up.
        let _ = self.report.send(report);
    }

    fn obey(&self, hub: &mut Hub, command: Command) -> anyhow::Result<Report> {
        let finite = |task| Finite::new(Arc::clone(&self.requests), task);
        Ok(match command {
            Command::Setup(task, outstanding) => {
                Report::Setup(run_setup(hub, finite(task), outstanding, &self.progress)?)
            }
            Command::DeleteCreated(outstanding) => {
                let left = hub.sessions.iter_mut().flat_map(|s| s.created.drain(..)).collect();
                Report::Setup(run_setup(hub, finite(Task::DeleteCreated(left)), outstanding, &self.progress)?)
            }
            Command::Window(source, plan) => {
                let emit = |interval| self.say(Report::Interval(interval));
                Report::Window(Box::new(run_window(hub, *source, plan, &self.progress, &self.stop, emit)?))
            }
        })
    }
}

/// Between commands: replies that come late are forgotten.
struct Idle;

impl Sink for Idle {
    fn reply(&mut self, _: usize, _: Pending, _: Head, _: u64) {}
    fn event(&mut self, _: usize, _: u64) {}
    fn refill(&mut self, _: &mut Session) {}
    fn lost(&mut self, _: &mut Session, _: &str) {}
}
