//! The measured phase: warm-up, window, drain; closed loop or open loop.

use super::{Plan, UNSENT_BYTES_MAX};
use crate::client::{Clock, Head, Hub, Pending, Session, Sink};
use crate::record::{Counters, Interval, Recorder, Window, saturating_record};
use crate::workload::{Job, Source};
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Length of an interval of the log.
const INTERVAL_NS: u64 = 1_000_000_000;
/// Closer to its due moment than this a plan is awaited by polling: a sleep would end later.
const SPIN_NS: u64 = 20_000;
/// Requests of a plan that are queued before replies are looked at again.
const DUE_BATCH: usize = 1024;
/// Longest wait of a turn, so that an interrupt is noticed.
const TURN_NS: u64 = 100_000_000;

/// What makes the next request due.
#[derive(Clone, Debug)]
pub enum Pace {
    /// A reply: each session keeps its number of requests in flight.
    Closed,
    /// A plan: sessions take turns.
    Open(Plan),
}

/// The measured phase of one worker.
#[derive(Clone, Debug)]
pub struct WindowPlan {
    /// What counts. Sending begins at once: what is planned before the window is warm-up.
    pub window: Window,
    /// Closed or open loop.
    pub pace: Pace,
    /// Requests in flight per session, at most. At least 1.
    pub outstanding: usize,
    /// Longest wait for replies after the window, in nanoseconds.
    pub drain_ns: u64,
}

/// What the phase measured, beside its intervals.
#[derive(Clone, Debug)]
pub struct WindowResult {
    /// The window as it was (shorter than planned after an interrupt).
    pub window: Window,
    pub counters: Counters,
    /// From sending to reply; only in an open loop.
    pub service: Option<Histogram<u64>>,
    /// From plan to sending where the target had room; only in an open loop.
    pub lateness: Option<Histogram<u64>>,
    /// CPU time of this thread within the window, in nanoseconds, system calls included.
    pub cpu_ns: u64,
    /// Replies that it handled meanwhile.
    pub cpu_replies: u64,
    /// Replies by endpoint, as `Counters::completed`.
    pub completed_by_server: Vec<u64>,
}

struct Measure<'a, S> {
    source: S,
    recorder: Recorder,
    closed: bool,
    outstanding: usize,
    /// Whether a closed loop still sends.
    sending: bool,
    clock: Clock,
    replies: u64,
    completed_by_session: Vec<u64>,
    progress: &'a AtomicU64,
}

impl<S: Source> Sink for Measure<'_, S> {
    #[inline]
    fn reply(&mut self, index: usize, pending: Pending, head: Head, now: u64) {
        let Job::Measured(op) = pending.job else { return };
        self.replies += 1;
        let counts = self.recorder.window.contains(pending.planned);
        if head.err != 0 {
            if counts {
                *self.recorder.counters.errors.entry((op, head.err)).or_default() += 1;
            } else {
                self.recorder.counters.warmup_errors += 1;
            }
            return;
        }
        if counts {
            self.recorder.ok(op, now - pending.planned);
            if let Some(service) = &mut self.recorder.service {
                saturating_record(service, now - pending.sent, 1);
            }
        }
        if self.recorder.window.contains(now) {
            self.recorder.counters.completed[op as usize] += 1;
            self.completed_by_session[index] += 1;
        }
    }

    fn event(&mut self, _index: usize, _now: u64) {
        self.recorder.counters.events += 1;
    }

    #[inline]
    fn refill(&mut self, session: &mut Session) {
        if !(self.closed && self.sending) {
            return;
        }
        let now = self.clock.now();
        while session.pending.len() < self.outstanding && session.unsent() < UNSENT_BYTES_MAX {
            if !session.queue(&mut self.source, now, now) {
                return;
            }
        }
    }

    fn lost(&mut self, session: &mut Session, why: &str) {
        let counters = &mut self.recorder.counters;
        counters.lost_connections += 1;
        counters.first_loss.get_or_insert_with(|| why.to_owned());
        for p in &session.pending {
            if let Job::Measured(op) = p.job
                && self.recorder.window.contains(p.planned)
            {
                counters.connection_loss[op as usize] += 1;
            }
        }
    }
}

/// Sends what a plan says.
struct Sender {
    plan: Plan,
    /// Session to try first.
    turn: usize,
    /// Until this moment the target had no room; what was due before it is held back, not late.
    held_until: u64,
    touched: Vec<usize>,
}

impl Sender {
    /// Queues and sends what is due; at most `DUE_BATCH` requests.
    fn send_due<S: Source>(&mut self, hub: &mut Hub, sink: &mut Measure<'_, S>, now: u64, until: u64) {
        let due_before = until.min(now + 1);
        for _ in 0..DUE_BATCH {
            let due = self.plan.due();
            if due >= due_before {
                break;
            }
            let Some(index) = self.session_with_room(hub, sink.outstanding) else {
                self.held_until = now;
                break;
            };
            if !hub.sessions[index].queue(&mut sink.source, due, now) {
                break;
            }
            self.touched.push(index);
            if sink.recorder.window.contains(due) {
                if due <= self.held_until {
                    sink.recorder.counters.held_back += 1;
                } else if let Some(lateness) = &mut sink.recorder.lateness {
                    saturating_record(lateness, now - due, 1);
                }
            }
            self.plan.advance();
        }
        for index in self.touched.drain(..) {
            // A session that was queued for twice has nothing left at the second time.
            hub.flush(index, sink);
        }
    }

    fn session_with_room(&mut self, hub: &Hub, outstanding: usize) -> Option<usize> {
        let n = hub.sessions.len();
        for _ in 0..n {
            let index = self.turn;
            self.turn = if index + 1 == n { 0 } else { index + 1 };
            let s = &hub.sessions[index];
            if s.alive() && s.pending.len() < outstanding && s.unsent() < UNSENT_BYTES_MAX {
                return Some(index);
            }
        }
        None
    }
}

/// CPU time of the calling thread in nanoseconds.
fn thread_cpu_ns() -> u64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
}

/// CPU time and replies between two moments.
#[derive(Default)]
struct Cost {
    begun: Option<(u64, u64)>,
    spent: Option<(u64, u64)>,
}

impl Cost {
    fn observe(&mut self, now: u64, window: Window, replies: u64) {
        if self.begun.is_none() && now >= window.from {
            self.begun = Some((thread_cpu_ns(), replies));
        }
        if let (Some((cpu, before)), None) = (self.begun, self.spent)
            && now >= window.until
        {
            self.spent = Some((thread_cpu_ns() - cpu, replies - before));
        }
    }
}

/// Cuts the window into intervals of a second and hands them out.
struct Intervals<F> {
    index: u32,
    began: u64,
    emit: F,
}

impl<F: FnMut(Interval)> Intervals<F> {
    fn next_boundary(&self) -> u64 {
        self.began + INTERVAL_NS
    }
    /// Hands out the intervals that have ended. The last one is left to `finish`: it takes the drain's replies.
    fn roll(&mut self, recorder: &mut Recorder, now: u64) {
        while now >= self.next_boundary() && self.next_boundary() < recorder.window.until {
            let until = self.next_boundary();
            self.hand_out(recorder, until);
        }
    }
    fn hand_out(&mut self, recorder: &mut Recorder, until: u64) {
        let latencies = recorder.take_interval();
        (self.emit)(Interval { index: self.index, from: self.began, until, latencies });
        self.index += 1;
        self.began = until;
    }
    fn finish(mut self, recorder: &mut Recorder) {
        let until = recorder.window.until.max(self.began);
        self.hand_out(recorder, until);
    }
}

/// Runs the phase. `emit` gets every interval of the window, in order; `stop` ends the window early.
///
/// # Errors
/// The poll failed. What the target did wrong is in the result.
pub fn run_window(
    hub: &mut Hub,
    source: impl Source,
    plan: WindowPlan,
    progress: &AtomicU64,
    stop: &AtomicBool,
    emit: impl FnMut(Interval),
) -> anyhow::Result<WindowResult> {
    let mut sender = match plan.pace {
        Pace::Closed => None,
        Pace::Open(p) => Some(Sender { plan: p, turn: 0, held_until: 0, touched: Vec::new() }),
    };
    let mut sink = Measure {
        source,
        recorder: Recorder::new(plan.window, sender.is_some()),
        closed: sender.is_none(),
        outstanding: plan.outstanding,
        sending: true,
        clock: hub.clock(),
        replies: 0,
        completed_by_session: vec![0; hub.sessions.len()],
        progress,
    };
    progress.store(0, Ordering::Relaxed);
    start_closed(hub, &mut sink);
    let mut intervals = Intervals { index: 0, began: plan.window.from, emit };
    let mut cost = Cost::default();
    loop {
        let now = sink.clock.now();
        if now < sink.recorder.window.until && (stop.load(Ordering::Relaxed) || hub.alive() == 0) {
            let from = sink.recorder.window.from;
            sink.recorder.window = Window { from: from.min(now), until: now };
        }
        let Window { until, .. } = sink.recorder.window;
        sink.sending = now < until;
        cost.observe(now, sink.recorder.window, sink.replies);
        intervals.roll(&mut sink.recorder, now);
        let due = sender.as_mut().map(|s| {
            s.send_due(hub, &mut sink, now, until);
            s.plan.due()
        });
        let planned = due.is_some_and(|d| d < until);
        if now >= until && !planned && hub.sessions.iter().all(|s| s.pending.is_empty()) {
            break;
        }
        if now >= until.saturating_add(plan.drain_ns) || (now >= until && hub.alive() == 0) {
            break;
        }
        let next = if now < until { intervals.next_boundary().min(until) } else { now + TURN_NS };
        hub.turn(wait(now, next, due.filter(|d| *d < until), &sender), &mut sink)?;
        sink.progress.store(sink.replies, Ordering::Relaxed);
    }
    cost.observe(u64::MAX, sink.recorder.window, sink.replies);
    Ok(finish(hub, sink, sender, intervals, cost))
}

/// Fills the sessions of a closed loop for the first time.
fn start_closed<S: Source>(hub: &mut Hub, sink: &mut Measure<'_, S>) {
    for index in 0..hub.sessions.len() {
        if hub.sessions[index].alive() {
            sink.refill(&mut hub.sessions[index]);
            hub.flush(index, sink);
        }
    }
}

/// How long to sleep: until the next thing to do, less where a plan is nearly due.
fn wait(now: u64, next: u64, due: Option<u64>, sender: &Option<Sender>) -> Duration {
    let mut ns = next.saturating_sub(now).clamp(1_000, TURN_NS);
    if let (Some(due), Some(sender)) = (due, sender) {
        // A full target is woken up for by its replies, not by the plan.
        if sender.held_until != now {
            let gap = due.saturating_sub(now);
            ns = if gap < SPIN_NS { 0 } else { ns.min(gap) };
        }
    }
    Duration::from_nanos(ns)
}

fn finish<S: Source>(
    hub: &mut Hub,
    mut sink: Measure<'_, S>,
    sender: Option<Sender>,
    intervals: Intervals<impl FnMut(Interval)>,
    cost: Cost,
) -> WindowResult {
    intervals.finish(&mut sink.recorder);
    let Recorder { window, mut counters, service, lateness, .. } = sink.recorder;
    let mut by_server = Vec::new();
    for (session, completed) in hub.sessions.iter_mut().zip(&sink.completed_by_session) {
        for p in &mut session.pending {
            if let Job::Measured(op) = p.job
                && window.contains(p.planned)
            {
                counters.without_reply[op as usize] += 1;
            }
            p.job = Job::Forgotten;
        }
        if by_server.len() <= session.server {
            by_server.resize(session.server + 1, 0);
        }
        by_server[session.server] += completed;
    }
    counters.never_sent = sender.map_or(0, |mut s| s.plan.skip_to(window.until));
    let (cpu_ns, cpu_replies) = cost.spent.unwrap_or_default();
    WindowResult { window, counters, service, lateness, cpu_ns, cpu_replies, completed_by_server: by_server }
}
