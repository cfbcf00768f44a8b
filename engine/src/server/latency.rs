//! How long transactions take on their way, for status commands: nothing here decides anything.
//!
//! A leader measures its own proposals by its own clock. Elsewhere the time in a transaction's header is all there is: the
//! leader's clock on the wall, as in ZooKeeper, so between hosts the figures are as good as the clocks agree, and what seems
//! to come before it was sent is not counted.
//! Invariant: what is kept per transaction is let go of when it is committed and durable here.

use crate::ids::{ServerId, Zxid};
use crate::time::{MonoMs, WallMs};
use crate::zab::{Member, Role, Tally};
use std::collections::{BTreeMap, VecDeque};

/// Values below are kept exactly, those above in sixteenths of a power of two.
const EXACT: u64 = 64;
const EXACT_BITS: u32 = EXACT.trailing_zeros();
const PARTS_BITS: u32 = 4;
/// Anything longer (2^32 ms) counts as that.
const BITS_MAX: u32 = 31;
const BUCKETS: usize = EXACT as usize + (((BITS_MAX - EXACT_BITS + 1) as usize) << PARTS_BITS);

/// Where the time stands in a transaction, behind session, cxid and zxid (fact sheet 10.1).
const TIME_AT: std::ops::Range<usize> = 20..28;

/// Values of one kind, ms, and how they are spread.
#[derive(Clone, Debug, Default)]
pub struct Spread {
    pub tally: Tally,
    /// None until there is a value.
    buckets: Vec<u64>,
}

fn bucket_of(value: u64) -> usize {
    if value < EXACT {
        return value as usize;
    }
    let value = value.min((1 << (BITS_MAX + 1)) - 1);
    let bits = 63 - value.leading_zeros();
    let part = (value >> (bits - PARTS_BITS)) as usize & ((1 << PARTS_BITS) - 1);
    EXACT as usize + (((bits - EXACT_BITS) as usize) << PARTS_BITS) + part
}

/// The largest value of a bucket.
fn largest_in(bucket: usize) -> u64 {
    if bucket < EXACT as usize {
        return bucket as u64;
    }
    let from = bucket - EXACT as usize;
    let bits = EXACT_BITS + (from >> PARTS_BITS) as u32;
    let part = (from & ((1 << PARTS_BITS) - 1)) as u64;
    let width = 1u64 << (bits - PARTS_BITS);
    (1 << bits) + (part + 1) * width - 1
}

impl Spread {
    /// Without a value.
    pub const fn new() -> Spread {
        Spread { tally: Tally { count: 0, sum: 0, min: 0, max: 0 }, buckets: Vec::new() }
    }

    pub fn record(&mut self, value: u64) {
        if self.buckets.is_empty() {
            self.buckets = vec![0; BUCKETS];
        }
        self.tally.record(value);
        let bucket = &mut self.buckets[bucket_of(value)];
        *bucket = bucket.saturating_add(1);
    }

    /// The value that so many of a thousand do not exceed; 0 while there is none. Off by a sixteenth at most.
    pub fn permille(&self, of_thousand: u64) -> u64 {
        let rank = (self.tally.count * of_thousand).div_ceil(1000).max(1);
        let mut seen = 0;
        let found = self.buckets.iter().position(|n| {
            seen += *n;
            seen >= rank
        });
        found.map_or(0, |b| largest_in(b).min(self.tally.max))
    }
}

/// Since the process began. Times in ms.
#[derive(Clone, Debug, Default)]
pub struct Latencies {
    /// Leader: from a proposal until a quorum has it durably.
    pub quorum_ack: Spread,
    /// Leader: until each voter has, as far as it was not committed before.
    pub acks: BTreeMap<ServerId, Spread>,
    /// Until it is durable here.
    pub ack_creation: Spread,
    /// Follower: until its proposal came here.
    pub proposal: Spread,
    /// Learner: until the word came that it is committed.
    pub commit_propagation: Spread,
    /// Until it is applied here.
    pub propagation: Spread,
    /// Learner.
    pub proposals_received: u64,
    pub commits_received: u64,
}

impl Latencies {
    /// Without a value.
    pub const fn new() -> Latencies {
        Latencies {
            quorum_ack: Spread::new(),
            acks: BTreeMap::new(),
            ack_creation: Spread::new(),
            proposal: Spread::new(),
            commit_propagation: Spread::new(),
            propagation: Spread::new(),
            proposals_received: 0,
            commits_received: 0,
        }
    }
}

/// How far a history has come.
#[derive(Clone, Copy, Debug, Default)]
struct Marks {
    logged: Zxid,
    durable: Zxid,
    committed: Zxid,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Pace {
    pub figures: Latencies,
    /// Leader: own proposals that are not both committed and durable, and when each was made.
    proposed: VecDeque<(Zxid, MonoMs)>,
    /// Leader: up to where each voter has acknowledged.
    acked: BTreeMap<ServerId, Zxid>,
    /// What was looked at. `None`: no role that is measured.
    marks: Option<Marks>,
}

fn marks_of(zab: &Member) -> Marks {
    Marks { logged: zab.last_logged(), durable: zab.durable_zxid(), committed: zab.committed() }
}

/// Since the time in a transaction's header, if that is not ahead.
fn age(txn: &[u8], now: WallMs) -> Option<u64> {
    let time = i64::from_be_bytes(txn.get(TIME_AT)?.try_into().ok()?);
    u64::try_from(now.0.checked_sub(time)?).ok()
}

impl Pace {
    /// A role begins, or none is left: the history up to here was not measured.
    pub fn begin(&mut self, zab: &Member) {
        let measured = matches!(zab.role(), Role::Leading | Role::Following | Role::Observing);
        self.marks = measured.then(|| marks_of(zab));
        self.proposed.clear();
        self.acked.clear();
    }

    /// Leader: a proposal was made.
    pub fn proposed(&mut self, zxid: Zxid, now: MonoMs) {
        if self.marks.is_some() {
            self.proposed.push_back((zxid, now));
        }
    }

    /// Something may have come of what was heard or became durable. Before anything is applied.
    pub fn look(&mut self, zab: &Member, (now, wall): (MonoMs, WallMs)) {
        let Some(before) = self.marks else { return };
        let at = marks_of(zab);
        match zab.role() {
            Role::Leading => self.look_leading(zab, before, at, now),
            Role::Following => self.look_following(zab, before, at, wall),
            Role::Observing => self.look_observing(zab, before, at, wall),
            _ => return self.begin(zab),
        }
        self.marks = Some(at);
    }

    fn look_leading(&mut self, zab: &Member, before: Marks, at: Marks, now: MonoMs) {
        let Pace { figures, proposed, acked, .. } = self;
        if proposed.is_empty() {
            return;
        }
        let between = |from: Zxid, upto: Zxid, into: &mut Spread| {
            let first = proposed.partition_point(|(z, _)| *z <= from);
            for (_, since) in proposed.iter().skip(first).take_while(|(z, _)| *z <= upto) {
                into.record(now.since(*since));
            }
        };
        zab.each_ack(|id, upto| {
            let from = acked.entry(id).or_default();
            if upto > *from {
                between(before.committed.max(*from), upto, figures.acks.entry(id).or_default());
                *from = upto;
            }
        });
        between(before.durable, at.durable, &mut figures.ack_creation);
        between(before.committed, at.committed, &mut figures.quorum_ack);
        let done = at.committed.min(at.durable);
        while proposed.pop_front_if(|(z, _)| *z <= done).is_some() {}
    }

    fn look_following(&mut self, zab: &Member, before: Marks, at: Marks, wall: WallMs) {
        let figures = &mut self.figures;
        figures.proposals_received += each(zab, before.logged, at.logged, wall, &mut figures.proposal);
        each(zab, before.durable, at.durable, wall, &mut figures.ack_creation);
        figures.commits_received +=
            each(zab, before.committed, at.committed, wall, &mut figures.commit_propagation);
    }

    /// An observer hears of a proposal and of its commit at once.
    fn look_observing(&mut self, zab: &Member, before: Marks, at: Marks, wall: WallMs) {
        let figures = &mut self.figures;
        figures.commits_received +=
            each(zab, before.committed, at.committed, wall, &mut figures.commit_propagation);
    }

    /// A transaction is applied.
    pub fn applied(&mut self, txn: &[u8], wall: WallMs) {
        if self.marks.is_some()
            && let Some(ms) = age(txn, wall)
        {
            self.figures.propagation.record(ms);
        }
    }
}

/// Takes in the ages of the transactions above `from` up to `upto`, and counts them.
fn each(zab: &Member, from: Zxid, upto: Zxid, wall: WallMs, into: &mut Spread) -> u64 {
    let mut n = 0;
    let window = zab.window();
    let Some(mut place) = window.after(from).filter(|_| upto > from) else { return 0 };
    while let Some(e) = window.get(place).filter(|e| e.zxid <= upto) {
        n += 1;
        place += 1;
        if let Some(ms) = age(&e.txn, wall) {
            into.record(ms);
        }
    }
    n
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_holds_its_values_and_no_others() {
        let mut last = None;
        for value in (0..100_000).chain([1 << 20, (1 << 31) + 12_345, u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket < BUCKETS, "{value}");
            let largest = largest_in(bucket);
            let capped = value.min((1 << (BITS_MAX + 1)) - 1);
            assert!(largest >= capped && largest - capped <= capped / 16, "{value}: {largest}");
            assert_eq!(bucket_of(largest), bucket, "{value}");
            assert!(last.is_none_or(|l| bucket == l || bucket == l + 1 || value > 100_000), "{value}");
            last = Some(bucket);
        }
    }

    #[test]
    fn percentiles_are_values_that_so_many_do_not_exceed() {
        let mut s = Spread::new();
        assert_eq!((s.permille(500), s.permille(999)), (0, 0));
        (1..=1000).for_each(|v| s.record(v));
        assert_eq!((s.tally.count, s.tally.sum, s.tally.min, s.tally.max), (1000, 500_500, 1, 1000));
        assert_eq!(s.permille(50), 50);
        for (of_thousand, exact) in [(500, 500), (950, 950), (990, 990), (999, 999)] {
            let found = s.permille(of_thousand);
            assert!(found >= exact && found <= exact + exact / 16, "{of_thousand}: {found}");
        }
        let mut one = Spread::new();
        one.record(7);
        assert_eq!((one.permille(1), one.permille(999)), (7, 7));
    }
}
