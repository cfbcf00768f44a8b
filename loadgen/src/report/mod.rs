//! The result of a run for people and for programs.
//!
//! Not here: how it was measured (`record`, `drive`).
//! Invariant: the table, the JSON and the log show the same numbers.

mod hdr;
mod json;
mod progress;
mod table;

pub use hdr::{HdrLog, log_intervals};
pub use json::{ConfigRecord, write_json, write_json_value};
pub use progress::Progress;
pub use table::{Grid, count, micros, table};

use crate::record::{Counters, IntervalSummary, PerOperation, Window};
use crate::system::Environment;
use hdrhistogram::Histogram;
use std::time::Duration;

/// What was made before the run.
#[derive(Clone, Copy, PartialEq, Debug, serde::Serialize)]
pub struct Population {
    pub keys: u64,
    /// Requests that it took.
    pub requests: u64,
    pub seconds: f64,
}

/// A server's share.
#[derive(Clone, PartialEq, Debug, serde::Serialize)]
pub struct ServerRecord {
    pub address: String,
    pub connections: usize,
    pub operations: u64,
    pub ops_per_second: f64,
    /// Version and mode as its `srvr` says, if it answers that.
    pub srvr: Option<String>,
}

/// Everything that a run found out.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub environment: Environment,
    pub config: ConfigRecord,
    pub servers: Vec<ServerRecord>,
    pub window: Window,
    pub counters: Counters,
    pub latencies: PerOperation,
    pub intervals: Vec<IntervalSummary>,
    /// From sending to reply; open loop only.
    pub service: Option<Histogram<u64>>,
    /// The generator's own lateness; open loop only.
    pub lateness: Option<Histogram<u64>>,
    /// CPU time of the workers within the window.
    pub cpu_ns: u64,
    pub cpu_replies: u64,
    pub population: Population,
    pub interrupted: bool,
    pub late_limit: Duration,
    /// Why the run's nodes are still there, if they are and should not.
    pub cleanup_failure: Option<String>,
}

/// A rate; 0 where no time has passed.
pub fn per_second(n: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { n as f64 / seconds } else { 0.0 }
}

impl Outcome {
    /// Length of the window in seconds.
    pub fn seconds(&self) -> f64 {
        (self.window.until - self.window.from) as f64 / 1e9
    }

    /// Requests answered OK per second of the window.
    pub fn ops_per_second(&self) -> f64 {
        per_second(self.counters.completed.iter().sum(), self.seconds())
    }

    /// CPU time of the generator per request in microseconds, system calls included.
    pub fn cpu_us_per_request(&self) -> f64 {
        if self.cpu_replies == 0 { 0.0 } else { self.cpu_ns as f64 / 1e3 / self.cpu_replies as f64 }
    }

    /// The share of the window that the workers' threads were running, 0.0..=1.0.
    pub fn generator_busy(&self) -> f64 {
        let available = self.seconds() * self.config.workers as f64 * 1e9;
        if available > 0.0 { self.cpu_ns as f64 / available } else { 0.0 }
    }

    /// Why the figures do not stand for the target; empty when they do.
    pub fn invalid_reasons(&self) -> Vec<String> {
        let mut reasons = Vec::new();
        if self.counters.completed.iter().sum::<u64>() == 0 {
            reasons.push("nothing was answered within the window".to_owned());
        }
        reasons.extend(self.lateness.as_ref().and_then(|l| late_reason(l, self.late_limit)));
        reasons
    }

    /// Valid, and without errors or missing replies.
    pub fn clean(&self) -> bool {
        self.invalid_reasons().is_empty()
            && self.counters.error_replies() == 0
            && self.counters.unanswered() == 0
            && self.counters.never_sent == 0
            && self.counters.lost_connections == 0
            && self.cleanup_failure.is_none()
    }
}

/// Why a run with that lateness of the generator is invalid, if it is.
fn late_reason(lateness: &Histogram<u64>, limit: Duration) -> Option<String> {
    let limit_ns = limit.as_nanos() as u64;
    let late_ns = lateness.value_at_quantile(0.99);
    (late_ns > limit_ns).then(|| {
        format!(
            "the generator was late: 1 % of the requests were sent {} or more behind the plan (limit {})",
            micros(late_ns),
            micros(limit_ns)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{histogram, saturating_record};

    #[test]
    fn a_run_is_invalid_when_more_than_one_request_in_a_hundred_was_late() {
        let limit = Duration::from_millis(5);
        let mut lateness = histogram();
        saturating_record(&mut lateness, 10_000, 995);
        saturating_record(&mut lateness, 50_000_000, 5);
        assert_eq!(late_reason(&lateness, limit), None);
        saturating_record(&mut lateness, 50_000_000, 10);
        let reason = late_reason(&lateness, limit).expect("late");
        assert!(reason.contains("limit 5.00 ms"), "{reason}");
    }
}
