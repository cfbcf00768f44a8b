//! Phases that are not measured: population, cleanup. Every request is sent and answered, or the phase fails.

use super::UNSENT_BYTES_MAX;
use crate::client::{Head, Hub, Pending, Session, Sink};
use crate::workload::{Job, Source};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A phase in which nothing is answered for this long has failed.
const STALL_NS: u64 = 10_000_000_000;

/// How a phase went.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetupResult {
    /// Requests answered, with whatever code.
    pub answered: u64,
    /// Replies by error code.
    pub errors: BTreeMap<i32, u64>,
    /// Why the phase did not end well: a lost connection, a stall.
    pub failure: Option<String>,
}

impl SetupResult {
    /// Adds another worker's.
    pub fn merge(&mut self, other: SetupResult) {
        self.answered += other.answered;
        for (code, n) in other.errors {
            *self.errors.entry(code).or_default() += n;
        }
        self.failure = self.failure.take().or(other.failure);
    }
}

struct Setup<'a, S> {
    source: S,
    outstanding: usize,
    ended: bool,
    result: SetupResult,
    progress: &'a AtomicU64,
    now: u64,
}

impl<S: Source> Sink for Setup<'_, S> {
    fn reply(&mut self, _index: usize, pending: Pending, head: Head, now: u64) {
        self.now = now;
        if pending.job != Job::Setup {
            return;
        }
        self.result.answered += 1;
        self.progress.fetch_add(1, Ordering::Relaxed);
        if head.err != 0 {
            *self.result.errors.entry(head.err).or_default() += 1;
        }
    }
    fn event(&mut self, _index: usize, _now: u64) {}
    fn refill(&mut self, session: &mut Session) {
        while !self.ended && session.pending.len() < self.outstanding && session.unsent() < UNSENT_BYTES_MAX {
            self.ended = !session.queue(&mut self.source, self.now, self.now);
        }
    }
    fn lost(&mut self, session: &mut Session, why: &str) {
        if session.pending.iter().any(|p| p.job == Job::Setup) {
            self.result.failure.get_or_insert_with(|| format!("a connection was lost: {why}"));
        }
    }
}

/// Sends all that `source` has, at most `outstanding` in flight per session, and waits for the replies.
///
/// # Errors
/// The poll failed. What the target did wrong is in the result.
pub fn run_setup(
    hub: &mut Hub,
    source: impl Source,
    outstanding: usize,
    progress: &AtomicU64,
) -> anyhow::Result<SetupResult> {
    let now = hub.clock().now();
    let result = SetupResult::default();
    progress.store(0, Ordering::Relaxed);
    let mut sink = Setup { source, outstanding, ended: false, result, progress, now };
    for index in 0..hub.sessions.len() {
        if hub.sessions[index].alive() {
            sink.refill(&mut hub.sessions[index]);
            hub.flush(index, &mut sink);
        }
    }
    let owes = |s: &Session| s.pending.iter().any(|p| p.job == Job::Setup);
    while sink.result.failure.is_none() && (!sink.ended || hub.sessions.iter().any(owes)) {
        hub.turn(Duration::from_millis(100), &mut sink)?;
        if hub.alive() == 0 {
            sink.result.failure.get_or_insert_with(|| "all connections were lost".to_owned());
        } else if hub.clock().now().saturating_sub(sink.now) > STALL_NS {
            sink.result.failure = Some("no reply came for 10 s".to_owned());
        }
    }
    Ok(sink.result)
}
