//! What a member counts, for status commands.
//!
//! Not here: what any of it means for who commits: nothing reads these to decide.

/// Values of one kind, such as durations in ms: how many, and what they came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tally {
    pub count: u64,
    pub sum: u64,
    /// 0 while there is none.
    pub min: u64,
    pub max: u64,
}

impl Tally {
    /// Takes one value in.
    pub fn record(&mut self, value: u64) {
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.sum = self.sum.saturating_add(value);
        self.count += 1;
    }
}

/// A leader's learners that follow by now, and what they wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Learners {
    /// Every link of a learner, those included that are not synchronised yet.
    pub all: usize,
    /// Those that follow, with a vote or without.
    pub followers: usize,
    /// The ones of them without a vote.
    pub without_vote: usize,
    pub observers: usize,
    /// Forwarded syncs that are not answered yet.
    pub pending_syncs: usize,
}

/// Since the process began, but for `learners`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Elections that came to an end.
    pub elections: u64,
    /// How long each took, ms.
    pub election_ms: Tally,
    /// From the end of an election until it followed or observed, ms.
    pub follower_sync_ms: Tally,
    pub observer_sync_ms: Tally,
    /// Learners that were sent what they lack out of memory.
    pub diffs: u64,
    /// Of the present leader; none on others.
    pub learners: Learners,
}
