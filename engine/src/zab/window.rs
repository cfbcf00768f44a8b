//! The newest part of the log, in memory: what is not committed, not applied or not durable yet, and as much behind that
//! as there is room for. Learners are synchronised from it, and each live learner is a cursor into it.
//!
//! Not here: the log on disk (`wal`), who has committed what (`leader`, `learner`).
//! Invariants:
//! - zxids rise from entry to entry, and there is no gap: `base` is the zxid right before the first entry in this history;
//! - an entry keeps its place number for as long as it is here; truncation gives the freed numbers to what follows.

use crate::ids::{Ticket, Zxid};
use std::collections::VecDeque;
use std::sync::Arc;

/// A transaction's place in the window's history: rises by one per entry.
pub type Place = u64;

/// One logged transaction.
#[derive(Clone, Debug)]
pub struct Entry {
    pub zxid: Zxid,
    pub txn: Arc<[u8]>,
    /// When this is durable, the entry is.
    pub ticket: Ticket,
}

/// How far back the window reaches at most. Entries still needed are kept beyond both.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reach {
    pub entries: usize,
    pub bytes: usize,
}

/// See the module.
#[derive(Debug)]
pub struct Window {
    base: Zxid,
    first: Place,
    entries: VecDeque<Entry>,
    bytes: usize,
    reach: Reach,
}

impl Window {
    /// An empty window behind `base`.
    pub fn new(base: Zxid, reach: Reach) -> Window {
        Window { base, first: 1, entries: VecDeque::new(), bytes: 0, reach }
    }

    /// The zxid before the first entry.
    pub fn base(&self) -> Zxid {
        self.base
    }
    /// The last zxid of the history.
    pub fn last(&self) -> Zxid {
        self.entries.back().map_or(self.base, |e| e.zxid)
    }
    /// The place of the first entry.
    pub fn first(&self) -> Place {
        self.first
    }
    /// The place behind the last entry.
    pub fn end(&self) -> Place {
        self.first + self.entries.len() as u64
    }
    /// Bytes of the transactions held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Appends an entry; its zxid is above [`Window::last`].
    pub fn push(&mut self, entry: Entry) {
        debug_assert!(entry.zxid > self.last());
        self.bytes += entry.txn.len();
        self.entries.push_back(entry);
    }

    /// The entry at a place; `None` behind the end, and before the first.
    pub fn get(&self, place: Place) -> Option<&Entry> {
        self.entries.get(usize::try_from(place.checked_sub(self.first)?).ok()?)
    }

    /// The place of the first entry above `zxid`; `None` when entries between may have left the window.
    pub fn after(&self, zxid: Zxid) -> Option<Place> {
        (zxid >= self.base).then(|| {
            let behind = self.index_of(zxid).map(|i| i + 1);
            self.first + behind.unwrap_or_else(|| self.entries.partition_point(|e| e.zxid <= zxid)) as u64
        })
    }

    /// Whether exactly this zxid is the base or an entry.
    pub fn holds(&self, zxid: Zxid) -> bool {
        zxid == self.base
            || self.index_of(zxid).is_some()
            || self.entries.binary_search_by_key(&zxid, |e| e.zxid).is_ok()
    }

    /// Where an entry of the newest epoch stands: within an epoch zxids have no gap, so no search is needed. `None` says
    /// nothing.
    fn index_of(&self, zxid: Zxid) -> Option<usize> {
        let back = self.last().0.checked_sub(zxid.0)?;
        let index = self.entries.len().checked_sub(1 + usize::try_from(back).ok()?)?;
        (self.entries[index].zxid == zxid).then_some(index)
    }

    /// The zxid of the entry before `place`, or the base.
    pub fn before(&self, place: Place) -> Zxid {
        place.checked_sub(1).and_then(|p| self.get(p)).map_or(self.base, |e| e.zxid)
    }

    /// Forgets every entry above `to`, which is not below the base.
    pub fn truncate(&mut self, to: Zxid) {
        debug_assert!(to >= self.base);
        while let Some(e) = self.entries.pop_back_if(|e| e.zxid > to) {
            self.bytes -= e.txn.len();
        }
    }

    /// Begins again behind `base`, with another history.
    pub fn restart(&mut self, base: Zxid) {
        self.first = self.end();
        self.entries.clear();
        self.bytes = 0;
        self.base = base;
    }

    /// Lets go of old entries beyond its reach, but of none at or behind `needed`.
    pub fn trim(&mut self, needed: Place) {
        while self.first < needed
            && (self.entries.len() > self.reach.entries || self.bytes > self.reach.bytes)
        {
            let Some(e) = self.entries.pop_front() else { return };
            self.bytes -= e.txn.len();
            self.base = e.zxid;
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(zxids: &[u64]) -> Window {
        let mut w = Window::new(Zxid(zxids[0]), Reach { entries: 3, bytes: 1000 });
        for &z in &zxids[1..] {
            w.push(Entry { zxid: Zxid(z), txn: Arc::from(&[0u8; 10][..]), ticket: Ticket(z) });
        }
        w
    }

    #[test]
    fn places_and_zxids_lead_to_each_other() {
        let w = window(&[5, 6, 7, 20]);
        assert_eq!(
            (w.after(Zxid(5)), w.after(Zxid(6)), w.after(Zxid(8)), w.after(Zxid(20))),
            (Some(1), Some(2), Some(3), Some(4))
        );
        assert_eq!(w.after(Zxid(4)), None, "what followed 4 may have left");
        assert!(w.holds(Zxid(5)) && w.holds(Zxid(7)) && !w.holds(Zxid(8)) && !w.holds(Zxid(4)));
        assert_eq!((w.before(1), w.before(2), w.before(4)), (Zxid(5), Zxid(6), Zxid(20)));
    }

    #[test]
    fn places_are_found_with_and_without_a_search() {
        let w = window(&[5, 6, 7, 20, 21, 22]);
        let places: Vec<_> = (5..=23).map(|z| w.after(Zxid(z)).unwrap_or(0)).collect();
        assert_eq!(places, [1, 2, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 3, 4, 5, 6, 6]);
        let held: Vec<u64> = (0..30).filter(|z| w.holds(Zxid(*z))).collect();
        assert_eq!(held, [5, 6, 7, 20, 21, 22]);
        let empty = window(&[9]);
        assert_eq!((empty.after(Zxid(9)), empty.after(Zxid(8)), empty.holds(Zxid(9))), (Some(1), None, true));
    }

    #[test]
    fn what_is_needed_stays_however_much_it_is() {
        let mut w = window(&[0, 1, 2, 3, 4, 5, 6]);
        w.trim(2);
        assert_eq!((w.base(), w.first()), (Zxid(1), 2));
        w.trim(100);
        assert_eq!((w.base(), w.first(), w.end()), (Zxid(3), 4, 7));
        w.truncate(Zxid(4));
        assert_eq!((w.last(), w.end(), w.bytes()), (Zxid(4), 5, 10));
        w.restart(Zxid(90));
        assert_eq!((w.last(), w.first(), w.end(), w.bytes()), (Zxid(90), 5, 5, 0));
    }
}
