//! The plan of an open loop: the moments at which requests are due.

use crate::workload::Rng;

/// How the moments are spaced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Arrival {
    /// Evenly.
    Constant,
    /// Independently of each other (exponential gaps).
    Poisson,
}

/// The due moments of one worker, in order.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The next moment, in nanoseconds of the run's clock. A float, so that gaps do not drift by rounding.
    next: f64,
    gap_ns: f64,
    arrival: Arrival,
    rng: Rng,
}

impl Plan {
    /// The plan of worker `index` of `workers` that together send `rate` requests per second (above 0) from `start`.
    pub fn new(rate: f64, arrival: Arrival, start: u64, index: usize, workers: usize, rng: Rng) -> Plan {
        let gap_ns = workers as f64 * 1e9 / rate;
        // Workers take turns, so that all together are even, too.
        let next = start as f64 + gap_ns * index as f64 / workers as f64;
        Plan { next, gap_ns, arrival, rng }
    }

    /// The next due moment.
    #[inline]
    pub fn due(&self) -> u64 {
        self.next as u64
    }

    /// Goes on to the one after it.
    #[inline]
    pub fn advance(&mut self) {
        self.next += match self.arrival {
            Arrival::Constant => self.gap_ns,
            Arrival::Poisson => self.gap_ns * self.rng.exponential(),
        };
    }

    /// Goes on to `until` and says how many moments were passed.
    pub fn skip_to(&mut self, until: u64) -> u64 {
        let mut passed = 0;
        while self.due() < until {
            self.advance();
            passed += 1;
        }
        passed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_workers_share_a_constant_rate_evenly() {
        let mut due: Vec<u64> = (0..2)
            .flat_map(|i| {
                let mut p = Plan::new(1000.0, Arrival::Constant, 5_000, i, 2, Rng::new(0, 0));
                (0..3).map(move |_| {
                    let at = p.due();
                    p.advance();
                    at
                })
            })
            .collect();
        due.sort_unstable();
        let expected: Vec<u64> = (0..6).map(|i| 5_000 + i * 1_000_000).collect();
        assert_eq!(due, expected);
    }

    #[test]
    fn a_poisson_plan_keeps_the_rate_but_not_the_gap() {
        let mut p = Plan::new(1e6, Arrival::Poisson, 0, 0, 1, Rng::new(5, 0));
        let first = {
            p.advance();
            p.due()
        };
        assert_ne!(first, 1_000);
        let n = p.skip_to(100_000_000) + 1;
        assert!((98_000..102_000).contains(&n), "{n}");
    }
}
