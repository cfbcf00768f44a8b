//! How long nothing was acknowledged: computed from the log when the run is over.
//!
//! Invariant: a gap ends with a write that was *sent* after the event, and, where the server led, after it was gone. A
//! reply that was on its way when the leader died ends no gap.

use super::log::{Log, SAMPLE_NS};
use super::schedule::Verb;

/// Windows in which the rate of writes is compared.
const DIP_WINDOW_NS: u64 = 500_000_000;
/// How long behind an event they are compared at least, if the next one does not come before.
const BEHIND_NS: u64 = 2_000_000_000;
/// How long before an event its usual rate is taken, at most.
const BEFORE_NS: u64 = 5_000_000_000;

/// What was done to a server. Times are nanoseconds of the run's clock.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Event {
    pub verb: Verb,
    /// The index of the server.
    pub server: u32,
    /// Whether it led then.
    pub led: bool,
    /// When it began.
    pub at: u64,
    /// When the process was gone; of a start, when it was started.
    pub done: u64,
    /// Of a start: when it served again.
    pub serves: Option<u64>,
    /// Of a start: transactions that the leader was ahead; unknown when the epoch had changed.
    pub behind: Option<u64>,
    /// Of a start: when it had applied all that the leader had a moment before.
    pub caught_up: Option<u64>,
}

/// Durations in nanoseconds, in order of size, and how many there should have been.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    pub sorted: Vec<u64>,
    /// Those for which there was no end within the run.
    pub endless: usize,
}

impl Spread {
    /// Of any number of gaps; `None` is one without an end.
    pub fn new(gaps: impl IntoIterator<Item = Option<u64>>) -> Spread {
        let mut spread = Spread::default();
        for gap in gaps {
            match gap {
                Some(ns) => spread.sorted.push(ns),
                None => spread.endless += 1,
            }
        }
        spread.sorted.sort_unstable();
        spread
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.sorted.len() + self.endless
    }

    /// The middle one; of an even number the mean of the two in the middle. `None` if it has no end, or if there is
    /// none.
    pub fn median(&self) -> Option<u64> {
        let n = self.count();
        let at = |i: usize| self.sorted.get(i).copied();
        if n % 2 == 1 { at(n / 2) } else { Some(at((n / 2).checked_sub(1)?)?.midpoint(at(n / 2)?)) }
    }

    /// The longest. `None` if it has no end, or if there is none.
    pub fn worst(&self) -> Option<u64> {
        if self.endless > 0 { None } else { self.sorted.last().copied() }
    }
}

/// What an event did to the clients.
#[derive(Clone, PartialEq, Debug)]
pub struct Gap {
    /// From the event until any client's next write was acknowledged; `None`: not within the run.
    pub first: Option<u64>,
    /// The same for each client that was connected to another server.
    pub survivors: Spread,
    /// The same for each client that was connected to this server, or to none.
    pub its_own: Spread,
    /// The longest time without any acknowledged write that touches the time until the next event.
    pub longest_silence: u64,
    /// Requests that failed until the next event.
    pub errors: u64,
    /// Sessions lost until the next event.
    pub lost_sessions: usize,
    /// By how much the rate of writes fell at worst below that before the event, 0.0..=1.0, over half a second; until
    /// the server had caught up (and two seconds at least), or until the next event. `None` where there is too little time to tell.
    pub dip: Option<f64>,
}

/// What happened between this event and `until`, where the next one begins.
pub fn gap(event: &Event, since: u64, until: u64, log: &Log, clients: usize) -> Gap {
    let places = log.places(clients, event.at);
    let mut first_of = vec![None; clients];
    let sent_from = if event.led { event.done } else { event.at };
    // In order of acknowledgement, so the first that fits is the earliest.
    for w in log.writes.iter().filter(|w| w.sent >= sent_from) {
        first_of[w.client as usize].get_or_insert(w.acked - event.at);
    }
    let (own, others): (Vec<usize>, Vec<usize>) =
        (0..clients).partition(|c| places[*c].is_none_or(|s| s == event.server));
    let spread = |of: Vec<usize>| Spread::new(of.into_iter().map(|c| first_of[c]));
    Gap {
        first: first_of.iter().flatten().min().copied(),
        survivors: spread(others),
        its_own: spread(own),
        longest_silence: longest_silence(log, event.at, until),
        errors: log
            .failures
            .iter()
            .filter(|f| (event.at..until).contains(&f.at))
            .map(|f| u64::from(f.requests))
            .sum(),
        lost_sessions: log.lost_sessions.iter().filter(|at| (event.at..until).contains(at)).count(),
        dip: dip(
            log,
            since,
            event.at,
            event.caught_up.map_or(until, |t| t.max(event.at + BEHIND_NS)).min(until),
        ),
    }
}

/// The longest time between two acknowledgements, the part before `from` left out, of those that begin before `until`.
/// The end of the log ends a silence.
pub fn longest_silence(log: &Log, from: u64, until: u64) -> u64 {
    let begin = log.writes.partition_point(|w| w.acked <= from);
    let mut last = from;
    let mut longest = 0;
    for acked in log.writes[begin..].iter().map(|w| w.acked).chain(std::iter::once(log.end.max(from))) {
        if last >= until {
            break;
        }
        longest = longest.max(acked.saturating_sub(last));
        last = acked;
    }
    longest
}

/// How far the writes fell between `from` and `until` below the rate that they had before `from`, not looking back
/// behind `since`.
fn dip(log: &Log, since: u64, from: u64, until: u64) -> Option<f64> {
    let index = |at: u64| (at.saturating_sub(log.start) / SAMPLE_NS) as usize;
    let length = (DIP_WINDOW_NS / SAMPLE_NS) as usize;
    let before = log.samples.get(index(since.max(from.saturating_sub(BEFORE_NS)))..index(from))?;
    let after = log.samples.get(index(from)..index(until).min(log.samples.len()))?;
    if before.len() < length || after.len() < length {
        return None;
    }
    let writes = |samples: &[super::log::Sample]| samples.iter().map(|s| f64::from(s.writes)).sum::<f64>();
    let usual = writes(before) / before.len() as f64 * length as f64;
    let lowest = after.windows(length).map(writes).fold(f64::INFINITY, f64::min);
    (usual > 0.0).then(|| (1.0 - lowest / usual).max(0.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn event(verb: Verb, server: u32, at: u64, done: u64) -> Event {
        Event { verb, server, led: true, at, done, serves: None, behind: None, caught_up: None }
    }

    /// Clients 0 and 1 are on servers 0 and 1; a write of each is acknowledged every 10 ms, until 1,000 ms, but those of
    /// client 0 not between 300 and 500 ms, and those of client 1 not between 300 and 450 ms.
    fn log() -> Log {
        let mut log = Log::new(0, 1_000 * MS);
        log.moved(0, Some(0), 0);
        log.moved(1, Some(1), 0);
        for at in (10..1_000).step_by(10).map(|ms| ms * MS) {
            for (client, back) in [(0, 500 * MS), (1, 450 * MS)] {
                if !(300 * MS..back).contains(&at) {
                    log.wrote(client, at - MS, at - MS, at);
                }
            }
        }
        log
    }

    #[test]
    fn a_gap_lasts_until_the_next_acknowledged_write_of_any_and_of_each_client() {
        let g = gap(&event(Verb::Kill, 0, 295 * MS, 296 * MS), 0, 1_000 * MS, &log(), 2);
        assert_eq!(g.first, Some(155 * MS));
        assert_eq!(g.survivors.sorted, [155 * MS]);
        assert_eq!(g.its_own.sorted, [205 * MS]);
        assert_eq!(g.longest_silence, 155 * MS, "what was before the kill is left out");
    }

    #[test]
    fn a_write_that_was_sent_before_the_server_was_gone_ends_no_gap() {
        let mut log = log();
        let stray = super::super::log::Write { client: 1, sent: 297 * MS, acked: 298 * MS };
        let place = log.writes.partition_point(|w| w.acked < stray.acked);
        log.writes.insert(place, stray);
        let kill = |done| gap(&event(Verb::Kill, 0, 295 * MS, done), 0, 1_000 * MS, &log, 2).first;
        assert_eq!(kill(298 * MS), Some(155 * MS));
        assert_eq!(kill(296 * MS), Some(3 * MS), "sent after it, it would be the end");
        let of_a_follower = Event { led: false, ..event(Verb::Kill, 0, 295 * MS, 298 * MS) };
        assert_eq!(gap(&of_a_follower, 0, 1_000 * MS, &log, 2).first, Some(3 * MS), "the leader lives on");
    }

    #[test]
    fn clients_that_never_come_back_have_gaps_without_an_end() {
        let mut log = log();
        log.writes.retain(|w| w.client == 1 || w.acked < 300 * MS);
        let g = gap(&event(Verb::Kill, 0, 295 * MS, 295 * MS), 0, 1_000 * MS, &log, 2);
        assert_eq!(g.its_own, Spread { sorted: vec![], endless: 1 });
        assert_eq!((g.its_own.median(), g.its_own.worst()), (None, None));
        log.writes.retain(|w| w.acked < 300 * MS);
        let g = gap(&event(Verb::Kill, 0, 295 * MS, 295 * MS), 0, 1_000 * MS, &log, 2);
        assert_eq!((g.first, g.longest_silence), (None, 705 * MS));
    }

    #[test]
    fn errors_and_lost_sessions_belong_to_the_last_event_before_them() {
        let mut log = log();
        log.failed(2, 310 * MS);
        log.failed(1, 700 * MS);
        log.session_lost(320 * MS);
        let g = gap(&event(Verb::Kill, 0, 295 * MS, 295 * MS), 0, 600 * MS, &log, 2);
        assert_eq!((g.errors, g.lost_sessions), (2, 1));
        let g = gap(&event(Verb::Restart, 0, 600 * MS, 600 * MS), 295 * MS, 1_000 * MS, &log, 2);
        assert_eq!((g.errors, g.lost_sessions), (1, 0));
    }

    #[test]
    fn a_dip_is_the_lowest_half_second_against_the_time_before() {
        let mut log = Log::new(0, 4_000 * MS);
        for at in (0..4_000).map(|ms| ms * MS) {
            // Half the rate between 2.5 and 3 seconds.
            if !(2_500 * MS..3_000 * MS).contains(&at) || at % (2 * MS) == 0 {
                log.wrote(0, at, at, at);
            }
        }
        let of = |since, at, until| dip(&log, since, at, until);
        assert_eq!(of(0, 2_000 * MS, 4_000 * MS), Some(0.5));
        assert_eq!(of(0, 3_000 * MS, 4_000 * MS).map(|d| d > 0.0), Some(false));
        assert_eq!(of(0, 2_000 * MS, 2_400 * MS), None, "too short");
        assert_eq!(of(1_800 * MS, 2_000 * MS, 4_000 * MS), None, "too little before it");
    }

    #[test]
    fn medians_and_worst() {
        let s = |gaps: &[u64], endless| {
            Spread::new(gaps.iter().copied().map(Some).chain(std::iter::repeat_n(None, endless)))
        };
        assert_eq!((s(&[3, 1, 8], 0).median(), s(&[3, 1, 8], 0).worst()), (Some(3), Some(8)));
        assert_eq!(s(&[3, 1, 8, 5], 0).median(), Some(4));
        assert_eq!((s(&[3, 1], 1).median(), s(&[3, 1], 1).worst()), (Some(3), None));
        assert_eq!((s(&[], 0).median(), s(&[], 0).worst()), (None, None));
        assert_eq!(s(&[1], 1).median(), None, "the upper of the two in the middle has no end");
    }
}
