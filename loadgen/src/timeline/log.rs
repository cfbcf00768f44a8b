//! What the sessions of a timeline met, moment by moment.
//!
//! Invariants: an error is in no latency; memory grows with the number of writes and of samples, which the command
//! line bounds, and with the number of connections lost.

use crate::record::{histogram, saturating_record};
use hdrhistogram::Histogram;

/// Length of a sample.
pub const SAMPLE_NS: u64 = 10_000_000;

/// An acknowledged write. Times are nanoseconds of the run's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Write {
    pub client: u32,
    /// When it was handed to the socket.
    pub sent: u64,
    /// When its reply was there.
    pub acked: u64,
}

/// A session came to a server, or lost it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Move {
    pub at: u64,
    pub client: u32,
    /// The index of the server; `None` when the connection was lost.
    pub server: Option<u32>,
}

/// Something that went wrong for a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Failure {
    pub at: u64,
    /// Requests that were concerned.
    pub requests: u32,
}

/// Counts of 10 ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    pub writes: u32,
    pub reads: u32,
    /// Requests that failed: lost with their connection, refused, or never sent for want of room.
    pub errors: u32,
}

/// The log of one run of a timeline. What happens before its start is not in it, but for the moves.
#[derive(Clone, Debug)]
pub struct Log {
    /// When the timeline starts, by the run's clock.
    pub start: u64,
    /// When it ends.
    pub end: u64,
    /// Acknowledged writes, in order of their acknowledgement.
    pub writes: Vec<Write>,
    pub moves: Vec<Move>,
    pub failures: Vec<Failure>,
    /// When a session was told that it has expired.
    pub lost_sessions: Vec<u64>,
    pub samples: Vec<Sample>,
    /// From the planned moment to the acknowledgement.
    pub write_latency: Histogram<u64>,
    pub read_latency: Histogram<u64>,
    /// From the planned moment to the sending, on sessions that were connected all the time between.
    pub lateness: Histogram<u64>,
    /// Why the first connection was lost.
    pub first_loss: Option<String>,
    /// The first error code in a reply.
    pub first_refusal: Option<i32>,
}

impl Log {
    /// An empty log of the time between `start` and `end`.
    pub fn new(start: u64, end: u64) -> Log {
        let samples = (end - start).div_ceil(SAMPLE_NS) as usize;
        Log {
            start,
            end,
            writes: Vec::new(),
            moves: Vec::new(),
            failures: Vec::new(),
            lost_sessions: Vec::new(),
            samples: vec![Sample::default(); samples],
            write_latency: histogram(),
            read_latency: histogram(),
            lateness: histogram(),
            first_loss: None,
            first_refusal: None,
        }
    }

    fn sample(&mut self, at: u64) -> Option<&mut Sample> {
        let index = at.checked_sub(self.start)? / SAMPLE_NS;
        self.samples.get_mut(index as usize)
    }

    /// A write was acknowledged.
    pub fn wrote(&mut self, client: u32, planned: u64, sent: u64, now: u64) {
        if let Some(sample) = self.sample(now) {
            sample.writes += 1;
            self.writes.push(Write { client, sent, acked: now });
        }
        if (self.start..self.end).contains(&planned) {
            saturating_record(&mut self.write_latency, now - planned, 1);
        }
    }

    /// A read was answered.
    pub fn read(&mut self, planned: u64, now: u64) {
        if let Some(sample) = self.sample(now) {
            sample.reads += 1;
        }
        if (self.start..self.end).contains(&planned) {
            saturating_record(&mut self.read_latency, now - planned, 1);
        }
    }

    /// Requests failed.
    pub fn failed(&mut self, requests: usize, now: u64) {
        let requests = requests as u32;
        if requests > 0
            && let Some(sample) = self.sample(now)
        {
            sample.errors += requests;
            self.failures.push(Failure { at: now, requests });
        }
    }

    /// A session came to a server, or lost it.
    pub fn moved(&mut self, client: u32, server: Option<u32>, now: u64) {
        self.moves.push(Move { at: now, client, server });
    }

    /// A session was told that it has expired.
    pub fn session_lost(&mut self, now: u64) {
        self.lost_sessions.push(now);
    }

    /// Where each session was at a moment.
    pub fn places(&self, clients: usize, at: u64) -> Vec<Option<u32>> {
        let mut places = vec![None; clients];
        for m in self.moves.iter().take_while(|m| m.at <= at) {
            places[m.client as usize] = m.server;
        }
        places
    }

    /// Sessions that were connected at the end of each sample.
    pub fn connected(&self, clients: usize) -> Vec<u32> {
        let mut places = vec![false; clients];
        let mut moves = self.moves.iter().peekable();
        let mut counts = Vec::with_capacity(self.samples.len());
        for i in 1..=self.samples.len() as u64 {
            while let Some(m) = moves.next_if(|m| m.at <= self.start + i * SAMPLE_NS) {
                places[m.client as usize] = m.server.is_some();
            }
            counts.push(places.iter().filter(|p| **p).count() as u32);
        }
        counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    #[test]
    fn answers_fall_into_the_sample_of_their_moment_and_latencies_count_from_the_plan() {
        let mut log = Log::new(100 * MS, 130 * MS);
        log.wrote(0, 90 * MS, 90 * MS, 99 * MS);
        log.wrote(1, 95 * MS, 95 * MS, 100 * MS);
        log.wrote(2, 101 * MS, 108 * MS, 119 * MS);
        log.read(102 * MS, 129 * MS);
        log.failed(3, 125 * MS);
        log.failed(0, 105 * MS);
        log.failed(3, 130 * MS);
        let sample = |writes, reads, errors| Sample { writes, reads, errors };
        assert_eq!(log.samples, [sample(1, 0, 0), sample(1, 0, 0), sample(0, 1, 3)]);
        assert_eq!(log.writes.len(), 2, "what was acknowledged before the start is not in the log");
        assert_eq!((log.write_latency.len(), log.write_latency.max() / MS), (1, 18));
        assert_eq!(log.failures.len(), 1);
    }

    #[test]
    fn places_and_connected_sessions_follow_the_moves() {
        let mut log = Log::new(0, 40 * MS);
        log.moved(0, Some(2), 0);
        log.moved(1, Some(1), 0);
        log.moved(0, None, 11 * MS);
        log.moved(0, Some(1), 29 * MS);
        assert_eq!(log.places(2, 10 * MS), [Some(2), Some(1)]);
        assert_eq!(log.places(2, 11 * MS), [None, Some(1)]);
        assert_eq!(log.places(2, 30 * MS), [Some(1), Some(1)]);
        assert_eq!(log.connected(2), [2, 1, 2, 2]);
    }
}
