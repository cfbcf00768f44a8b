//! Summaries of measured values for `mntr`: count, sum, smallest and largest.
//!
//! Not here: what is measured (`mntr` lists it). Plain values: each thread keeps its own, a report merges copies.

use engine::zab::Tally;

/// A basic summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub count: u64,
    pub sum: u64,
    /// 0 while there is no value.
    pub min: u64,
    pub max: u64,
}

impl From<Tally> for Summary {
    fn from(t: Tally) -> Summary {
        Summary { count: t.count, sum: t.sum, min: t.min, max: t.max }
    }
}

impl Summary {
    /// Takes one value in.
    pub fn record(&mut self, value: u64) {
        self.merge(&Summary { count: 1, sum: value, min: value, max: value });
    }
    /// Takes another thread's values in.
    pub fn merge(&mut self, other: &Summary) {
        if other.count == 0 {
            return;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.sum = self.sum.saturating_add(other.sum);
        self.count += other.count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_summaries_add_up() {
        let (mut a, mut b) = (Summary::default(), Summary::default());
        [5, 3].into_iter().for_each(|v| a.record(v));
        a.merge(&b);
        assert_eq!(a, Summary { count: 2, sum: 8, min: 3, max: 5 });
        b.merge(&a);
        b.record(9);
        assert_eq!(b, Summary { count: 3, sum: 17, min: 3, max: 9 });
    }
}
