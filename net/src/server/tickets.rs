//! Which tickets of the log's order are no records: those of the epochs, which are a file of their own.
//!
//! Not here: the log (`journal`).
//! Invariant: for every ticket that may still be asked about, the number of epochs up to it is exact; what is kept for it
//! does not grow with the number of elections, but with those behind what was applied last.

use engine::ids::Ticket;
use std::collections::VecDeque;

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
pub struct EpochTickets(VecDeque<Run>);

impl EpochTickets {
    /// This ticket is that of epochs. They come in order.
    pub fn note(&mut self, ticket: Ticket) {
        let before = match self.0.back_mut() {
            Some(run) if run.first + run.count == ticket.0 => {
                run.count += 1;
                return;
            }
            Some(run) => run.before + run.count,
            None => 0,
        };
        self.0.push_back(Run { first: ticket.0, count: 1, before });
    }

    /// How many tickets up to this one are those of epochs.
    pub fn upto(&self, ticket: Ticket) -> u64 {
        let behind = self.0.partition_point(|run| run.first <= ticket.0);
        let run = behind.checked_sub(1).and_then(|at| self.0.get(at));
        run.map_or(0, |run| run.before + run.count.min(ticket.0 - run.first + 1))
    }

    /// Whether [`EpochTickets::upto`] still knows about this ticket.
    pub fn knows(&self, ticket: Ticket) -> bool {
        self.0.front().is_none_or(|run| run.before == 0 || run.first <= ticket.0)
    }

    /// Nobody asks about an earlier ticket any more without [`EpochTickets::knows`].
    pub fn forget_before(&mut self, ticket: Ticket) {
        while self.0.get(1).is_some_and(|run| run.first <= ticket.0) {
            self.0.pop_front();
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
        let (mut exact, mut sum) = (vec![0], 0);
        for t in 1..=2_000u64 {
            if is_epoch(t) {
                all.note(Ticket(t));
                sum += 1;
            }
            exact.push(sum);
            // What was applied last lags behind, at times far.
            let applied = t - t % 97;
            all.forget_before(Ticket(applied));
            assert!(all.0.len() as u64 <= 2 + t - applied, "{} runs at {t}", all.0.len());
            for asked in applied..=t {
                assert_eq!(all.upto(Ticket(asked)), exact[asked as usize], "{asked} at {t}");
            }
            // A learner may be far behind that: it is not told a wrong place.
            for asked in (1..=applied).filter(|asked| all.knows(Ticket(*asked))) {
                assert_eq!(
                    all.upto(Ticket(asked)),
                    exact[asked as usize],
                    "{asked} at {t}, {applied} applied"
                );
            }
            assert!(all.knows(Ticket(applied)));
        }
    }

    #[test]
    fn elections_without_a_write_are_one_run() {
        let mut all = EpochTickets::default();
        assert_eq!(all.upto(Ticket(5)), 0);
        for t in 1..=100_000 {
            all.note(Ticket(t));
        }
        assert_eq!((all.0.len(), all.upto(Ticket(70_000)), all.upto(Ticket(100_001))), (1, 70_000, 100_000));
    }
}
