//! Which tickets of the log's order are no records: those of the epochs, which are a file of their own.
//!
//! Not here: the log (`journal`).
//! Invariant: the number of epochs up to a ticket is exact, or said to be unknown, and never unknown from the ticket that was
//! applied last on; what is kept does not grow with the number of elections, but with those behind what was applied last.

use engine::ids::Ticket;
use std::collections::VecDeque;

/// Runs that are kept although all of them lie before what was applied last: a learner that is sent the log is behind.
const KEPT: usize = 64;

/// Epochs in a row.
#[derive(Clone, Copy)]
struct Run {
    first: u64,
    count: u64,
    /// Epochs before it.
    before: u64,
}

/// See the module.
#[derive(Default)]
pub struct EpochTickets {
    runs: VecDeque<Run>,
    /// Some were forgotten: those before the first one.
    cut: bool,
}

impl EpochTickets {
    /// This ticket is that of epochs. They come in order.
    pub fn note(&mut self, ticket: Ticket) {
        let before = match self.runs.back_mut() {
            Some(run) if run.first + run.count == ticket.0 => {
                run.count += 1;
                return;
            }
            Some(run) => run.before + run.count,
            None => 0,
        };
        self.runs.push_back(Run { first: ticket.0, count: 1, before });
    }

    /// How many tickets up to this one are those of epochs. `None`: that was forgotten.
    pub fn upto(&self, ticket: Ticket) -> Option<u64> {
        let behind = self.runs.partition_point(|run| run.first <= ticket.0);
        match behind.checked_sub(1).and_then(|at| self.runs.get(at)) {
            Some(run) => Some(run.before + run.count.min(ticket.0 - run.first + 1)),
            None => (!self.cut).then_some(0),
        }
    }

    /// Earlier tickets than the one that was applied last may be forgotten.
    pub fn forget_before(&mut self, applied: Ticket) {
        while self.runs.len() > KEPT && self.runs[1].first <= applied.0 {
            self.runs.pop_front();
            self.cut = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_is_only_what_nobody_asks_for() {
        let is_epoch = |t: u64| matches!(t % 11, 1 | 4 | 5 | 6 | 10);
        let mut all = EpochTickets::default();
        let (mut exact, mut sum, mut unknown) = (vec![0], 0, 0);
        for t in 1..=2_000u64 {
            if is_epoch(t) {
                all.note(Ticket(t));
                sum += 1;
            }
            exact.push(sum);
            // What was applied last lags behind, at times far.
            let applied = t - t % 97;
            all.forget_before(Ticket(applied));
            assert!(all.runs.len() as u64 <= KEPT as u64 + 2 + t - applied, "{} runs at {t}", all.runs.len());
            for asked in 0..=t {
                match all.upto(Ticket(asked)) {
                    Some(n) => assert_eq!(n, exact[asked as usize], "{asked} at {t}"),
                    None => unknown = unknown.max(asked),
                }
            }
            assert!(unknown < applied || t < 97);
            assert!(
                all.upto(Ticket(applied.saturating_sub(97))).is_some(),
                "those that lag are known for long"
            );
        }
        assert!(unknown > 1_000, "{unknown}");
    }

    #[test]
    fn elections_without_a_write_are_one_run() {
        let mut all = EpochTickets::default();
        assert_eq!(all.upto(Ticket(5)), Some(0));
        for t in 1..=100_000 {
            all.note(Ticket(t));
        }
        assert_eq!(
            (all.runs.len(), all.upto(Ticket(70_000)), all.upto(Ticket(100_001))),
            (1, Some(70_000), Some(100_000))
        );
    }
}
