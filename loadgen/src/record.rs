//! What a run measured: histograms per operation and interval, errors by code, what got no reply.
//!
//! Not here: when to measure (`drive`), how it is shown (`report`).
//! Invariants: an error is never in a latency; memory does not grow with the length of a run (an interval's
//! histograms are merged and dropped when all workers have handed theirs in, only a summary line stays).

use crate::workload::Operation;
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// Histograms resolve from this many nanoseconds ...
const LOW_NS: u64 = 100;
/// ... to this many (two minutes; longer is counted as that long) ...
const HIGH_NS: u64 = 120_000_000_000;
/// ... with this many decimal digits.
const DIGITS: u8 = 3;

/// A histogram of nanoseconds, of the one shape that this program uses.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(LOW_NS, HIGH_NS, DIGITS).expect("constant bounds that a histogram can have")
}

/// One histogram per operation, made when it is first needed.
#[derive(Clone, Debug, Default)]
pub struct PerOperation {
    slots: [Option<Box<Histogram<u64>>>; Operation::COUNT],
}

impl PerOperation {
    /// The histogram of an operation.
    #[inline]
    pub fn at(&mut self, op: Operation) -> &mut Histogram<u64> {
        self.slots[op as usize].get_or_insert_with(|| Box::new(histogram()))
    }
    /// The operations that have one, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Operation, &Histogram<u64>)> {
        Operation::ALL.iter().filter_map(|op| Some((*op, self.slots[*op as usize].as_deref()?)))
    }
    /// Adds all of another's.
    pub fn merge(&mut self, other: &PerOperation) {
        for (op, h) in other.iter() {
            self.at(op).add(h).expect("all histograms have the same bounds");
        }
    }
    /// All operations in one.
    pub fn all(&self) -> Histogram<u64> {
        let mut sum = histogram();
        self.iter().for_each(|(_, h)| sum.add(h).expect("all histograms have the same bounds"));
        sum
    }
}

/// The part of the run that counts, in nanoseconds of the run's clock. A request belongs to it by its planned time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    pub from: u64,
    /// Exclusive.
    pub until: u64,
}

impl Window {
    /// Whether a moment lies in it.
    #[inline]
    pub fn contains(&self, at: u64) -> bool {
        self.from <= at && at < self.until
    }
}

/// Counters of one worker, or of all.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// Answered OK while the window was open, by operation: the throughput.
    pub completed: [u64; Operation::COUNT],
    /// Requests of the window whose reply carried an error, by operation and code.
    pub errors: BTreeMap<(Operation, i32), u64>,
    /// Requests of the window that had no reply when the run gave up waiting.
    pub without_reply: [u64; Operation::COUNT],
    /// Requests of the window whose connection broke before the reply.
    pub connection_loss: [u64; Operation::COUNT],
    /// Errors before the window.
    pub warmup_errors: u64,
    /// Connections that broke, whenever.
    pub lost_connections: u64,
    /// Why the first one broke.
    pub first_loss: Option<String>,
    /// Watch events that arrived.
    pub events: u64,
    /// Requests of the plan that the target had no room for in time and that were sent later.
    pub held_back: u64,
    /// Requests of the plan that were never sent.
    pub never_sent: u64,
}

impl Counters {
    /// Adds another's.
    pub fn merge(&mut self, other: &Counters) {
        let add = |to: &mut [u64; Operation::COUNT], from: &[u64; Operation::COUNT]| {
            to.iter_mut().zip(from).for_each(|(a, b)| *a += b);
        };
        add(&mut self.completed, &other.completed);
        add(&mut self.without_reply, &other.without_reply);
        add(&mut self.connection_loss, &other.connection_loss);
        for (key, n) in &other.errors {
            *self.errors.entry(*key).or_default() += n;
        }
        self.warmup_errors += other.warmup_errors;
        self.lost_connections += other.lost_connections;
        self.events += other.events;
        self.held_back += other.held_back;
        self.never_sent += other.never_sent;
        self.first_loss = self.first_loss.take().or_else(|| other.first_loss.clone());
    }

    /// Replies with an error, of all operations.
    pub fn error_replies(&self) -> u64 {
        self.errors.values().sum()
    }
    /// Requests that will never have a reply: given up, or lost with their connection.
    pub fn unanswered(&self) -> u64 {
        self.without_reply.iter().chain(&self.connection_loss).sum()
    }
}

/// What one worker records while the run goes on.
#[derive(Debug)]
pub struct Recorder {
    /// What counts.
    pub window: Window,
    /// Its counters.
    pub counters: Counters,
    /// From sending to reply, whatever was planned; only in an open loop.
    pub service: Option<Histogram<u64>>,
    /// From plan to sending, where the target had room: the generator's own lateness; only in an open loop.
    pub lateness: Option<Histogram<u64>>,
    interval: PerOperation,
    /// Equal latencies in a row are recorded at once: a batch of replies shares its times.
    run: Option<(Operation, u64, u64)>,
}

impl Recorder {
    /// A recorder for requests planned within `window`.
    pub fn new(window: Window, open_loop: bool) -> Recorder {
        Recorder {
            window,
            counters: Counters::default(),
            service: open_loop.then(histogram),
            lateness: open_loop.then(histogram),
            interval: PerOperation::default(),
            run: None,
        }
    }

    /// A reply without error to a request of the window.
    #[inline]
    pub fn ok(&mut self, op: Operation, latency_ns: u64) {
        match &mut self.run {
            Some((o, l, n)) if *o == op && *l == latency_ns => *n += 1,
            _ => {
                self.write_run();
                self.run = Some((op, latency_ns, 1));
            }
        }
    }

    fn write_run(&mut self) {
        if let Some((op, latency_ns, n)) = self.run.take() {
            saturating_record(self.interval.at(op), latency_ns, n);
        }
    }

    /// The histograms since the last call, and starts new ones.
    pub fn take_interval(&mut self) -> PerOperation {
        self.write_run();
        std::mem::take(&mut self.interval)
    }
}

/// Records `n` times `ns`; what is beyond the histogram's range counts as its end.
pub fn saturating_record(h: &mut Histogram<u64>, ns: u64, n: u64) {
    h.record_n(ns.min(HIGH_NS), n).expect("within the bounds");
}

/// One interval as it stays in memory.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct IntervalSummary {
    /// Start, in seconds since the window opened.
    pub at_s: f64,
    /// Length in seconds.
    pub length_s: f64,
    /// Requests answered OK that were recorded in it.
    pub replies: u64,
    pub p50_us: f64,
    pub p99_us: f64,
    pub max_us: f64,
}

/// An interval of one worker, or of all of them.
#[derive(Clone, Debug)]
pub struct Interval {
    /// Counted from the opening of the window.
    pub index: u32,
    /// Nanoseconds of the run's clock.
    pub from: u64,
    pub until: u64,
    pub latencies: PerOperation,
}

impl Interval {
    fn summary(&self, window_from: u64) -> IntervalSummary {
        let all = self.latencies.all();
        let us = |ns: u64| ns as f64 / 1e3;
        IntervalSummary {
            at_s: (self.from - window_from) as f64 / 1e9,
            length_s: (self.until - self.from) as f64 / 1e9,
            replies: all.len(),
            p50_us: us(all.value_at_quantile(0.5)),
            p99_us: us(all.value_at_quantile(0.99)),
            max_us: us(all.max()),
        }
    }
}

/// Puts the workers' intervals together.
#[derive(Debug)]
pub struct Collector {
    workers: usize,
    window_from: u64,
    open: BTreeMap<u32, (usize, Interval)>,
    /// All intervals merged.
    pub total: PerOperation,
    /// A line per interval, in order.
    pub summaries: Vec<IntervalSummary>,
}

impl Collector {
    /// Expects every interval from `workers` workers.
    pub fn new(workers: usize, window_from: u64) -> Collector {
        Collector {
            workers,
            window_from,
            open: BTreeMap::new(),
            total: PerOperation::default(),
            summaries: Vec::new(),
        }
    }

    /// Takes a worker's interval; the merged one is returned when it was the last of its index.
    pub fn add(&mut self, part: Interval) -> Option<Interval> {
        let index = part.index;
        let parts = match self.open.get_mut(&index) {
            None => {
                self.open.insert(index, (1, part));
                1
            }
            Some((parts, merged)) => {
                merged.latencies.merge(&part.latencies);
                merged.from = merged.from.min(part.from);
                merged.until = merged.until.max(part.until);
                *parts += 1;
                *parts
            }
        };
        if parts < self.workers { None } else { self.close(index) }
    }

    fn close(&mut self, index: u32) -> Option<Interval> {
        let (_, whole) = self.open.remove(&index)?;
        self.total.merge(&whole.latencies);
        self.summaries.push(whole.summary(self.window_from));
        Some(whole)
    }

    /// The intervals that not every worker had (one that stopped early has fewer), when no more will come.
    pub fn rest(&mut self) -> Vec<Interval> {
        let indices: Vec<u32> = self.open.keys().copied().collect();
        indices.into_iter().filter_map(|i| self.close(i)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_latencies_in_a_row_count_each() {
        let mut r = Recorder::new(Window { from: 0, until: 1 }, false);
        for (op, ns, n) in
            [(Operation::Get, 5_000, 3), (Operation::Set, 5_000, 1), (Operation::Get, 9_000, 2)]
        {
            (0..n).for_each(|_| r.ok(op, ns));
        }
        let mut taken = r.take_interval();
        assert_eq!(taken.at(Operation::Get).len(), 5);
        assert_eq!(taken.at(Operation::Get).count_at(5_000), 3);
        assert_eq!(taken.at(Operation::Set).len(), 1);
        assert_eq!(r.take_interval().all().len(), 0);
    }

    #[test]
    fn a_latency_beyond_the_range_counts_as_the_longest() {
        let mut h = histogram();
        saturating_record(&mut h, u64::MAX, 2);
        assert_eq!(h.len(), 2);
        assert!(h.max() >= HIGH_NS);
    }

    #[test]
    fn an_interval_is_whole_when_every_worker_has_reported_it() {
        let part = |index: u32, ns| {
            let mut latencies = PerOperation::default();
            saturating_record(latencies.at(Operation::Get), ns, 1);
            Interval { index, from: u64::from(index) * 100, until: u64::from(index) * 100 + 100, latencies }
        };
        let mut c = Collector::new(2, 0);
        assert!(c.add(part(0, 1_000)).is_none());
        assert!(c.add(part(1, 1_000)).is_none());
        assert_eq!(c.add(part(0, 2_000)).expect("whole").latencies.all().len(), 2);
        assert_eq!(c.add(part(1, 4_000)).expect("whole").index, 1);
        assert!(c.add(part(2, 1_000)).is_none());
        assert_eq!(c.rest().len(), 1);
        assert_eq!(c.total.all().len(), 5);
        assert_eq!(c.summaries.len(), 3);
    }
}
