//! Summaries of measured values for `mntr`: count, sum, smallest and largest; with percentiles where ZooKeeper has them.
//!
//! Not here: what is measured (`mntr` lists it). Plain values: each thread keeps its own, and a report merges copies.

/// A basic summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    pub count: u64,
    pub sum: u64,
    /// 0 while there is no value.
    pub min: u64,
    pub max: u64,
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

/// Buckets per power of two; a percentile is off by at most one part in so many.
const PER_OCTAVE: u64 = 16;
const SHIFT: u32 = PER_OCTAVE.trailing_zeros();
const BUCKETS: usize = (PER_OCTAVE as usize) * (64 - SHIFT as usize + 1);

/// A summary that also knows percentiles: one bucket per value below 16, then 16 per power of two. 8 KiB.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Distribution {
    pub summary: Summary,
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Distribution {
    fn default() -> Self {
        Distribution { summary: Summary::default(), buckets: Box::new([0; BUCKETS]) }
    }
}

impl Distribution {
    /// Takes one value in.
    pub fn record(&mut self, value: u64) {
        self.summary.record(value);
        self.buckets[bucket(value)] += 1;
    }
    /// Takes another thread's values in.
    pub fn merge(&mut self, other: &Distribution) {
        self.summary.merge(&other.summary);
        self.buckets.iter_mut().zip(other.buckets.iter()).for_each(|(a, b)| *a += b);
    }
    /// The value that `per_mille` of all values do not exceed, to within a bucket; 0 of nothing.
    pub fn per_mille(&self, per_mille: u64) -> u64 {
        let wanted = (self.summary.count.saturating_mul(per_mille)).div_ceil(1_000).max(1);
        let mut seen = 0;
        for (index, n) in self.buckets.iter().enumerate() {
            seen += n;
            if seen >= wanted {
                return top(index).clamp(self.summary.min, self.summary.max);
            }
        }
        0
    }
}

fn bucket(value: u64) -> usize {
    if value < PER_OCTAVE {
        return value as usize;
    }
    let octave = value.ilog2() - SHIFT;
    (octave as usize + 1) * PER_OCTAVE as usize + ((value >> octave) - PER_OCTAVE) as usize
}

/// The largest value of a bucket.
fn top(index: usize) -> u64 {
    let (octave, step) = (index as u64 / PER_OCTAVE, index as u64 % PER_OCTAVE);
    if octave == 0 {
        step
    } else {
        (((PER_OCTAVE + step + 1) as u128) << (octave - 1)).saturating_sub(1) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_gap_or_overlap() {
        let mut previous = 0;
        for value in 1..100_000u64 {
            let b = bucket(value);
            assert!(b == previous || b == previous + 1, "{value}");
            assert!(value <= top(b) && (b == 0 || value > top(b - 1)), "{value}");
            previous = b;
        }
        assert_eq!((bucket(u64::MAX), top(BUCKETS - 1)), (BUCKETS - 1, u64::MAX));
    }

    #[test]
    fn percentiles_are_within_a_bucket_of_the_truth() {
        let mut all = Distribution::default();
        let mut other = Distribution::default();
        for value in 1..=10_000u64 {
            if value % 2 == 0 { all.record(value) } else { other.record(value) }
        }
        all.merge(&other);
        assert_eq!(all.summary, Summary { count: 10_000, sum: 50_005_000, min: 1, max: 10_000 });
        for per_mille in [1, 500, 950, 990, 999] {
            let (got, truth) = (all.per_mille(per_mille), per_mille * 10);
            assert!(got >= truth && got <= truth + truth / PER_OCTAVE, "{per_mille}: {got}");
        }
        assert_eq!(all.per_mille(1_000), 10_000);
        assert_eq!(Distribution::default().per_mille(500), 0);
    }
}
