//! The watchers of one path in one table: a sorted set of connection slots with their modes, without heap for up to
//! four.
//!
//! Invariants: entries are sorted by slot, each slot occurs once, each entry has at least one mode bit (so no entry
//! is 0, which marks an unused inline place).

/// How a connection watches a path; bits, since all three may hold at once.
pub(super) mod mode {
    pub const STANDARD: u32 = 1;
    pub const PERSISTENT: u32 = 2;
    pub const RECURSIVE: u32 = 4;
    pub const ALL: u32 = 7;
}

const INLINE: usize = 4;
const MODE_BITS: u32 = 3;

/// Sorted `slot << 3 | modes`.
#[derive(Debug)]
pub(super) enum Watchers {
    Few([u32; INLINE]),
    Many(Vec<u32>),
}

impl Default for Watchers {
    fn default() -> Watchers {
        Watchers::Few([0; INLINE])
    }
}

impl Watchers {
    fn entries(&self) -> &[u32] {
        match self {
            Watchers::Few(a) => &a[..a.iter().take_while(|e| **e != 0).count()],
            Watchers::Many(v) => v,
        }
    }

    pub fn is_empty(&self) -> bool {
        self.entries().is_empty()
    }

    /// (slot, modes) in the order of slots.
    pub fn iter(&self) -> impl Iterator<Item = (u32, u32)> {
        self.entries().iter().map(|e| (e >> MODE_BITS, e & mode::ALL))
    }

    fn find(&self, slot: u32) -> Result<usize, usize> {
        self.entries().binary_search_by_key(&slot, |e| e >> MODE_BITS)
    }

    /// The modes under which `slot` watches; 0 if it does not.
    pub fn modes(&self, slot: u32) -> u32 {
        self.find(slot).map_or(0, |at| self.entries()[at] & mode::ALL)
    }

    /// Adds modes and tells which `slot` had before.
    pub fn add(&mut self, slot: u32, modes: u32) -> u32 {
        debug_assert!(modes != 0 && modes <= mode::ALL && slot < 1 << (32 - MODE_BITS));
        match self.find(slot) {
            Ok(at) => {
                let entry = self.at_mut(at);
                let before = *entry & mode::ALL;
                *entry |= modes;
                before
            }
            Err(at) => {
                self.insert(at, slot << MODE_BITS | modes);
                0
            }
        }
    }

    /// Takes modes away and tells which `slot` had before.
    pub fn remove(&mut self, slot: u32, modes: u32) -> u32 {
        let Ok(at) = self.find(slot) else { return 0 };
        let before = self.entries()[at] & mode::ALL;
        if before & !modes == 0 {
            self.delete(at);
        } else {
            *self.at_mut(at) &= !modes;
        }
        before
    }

    /// Takes the one-shot mode from everybody; who had nothing else leaves the set, and is told to `left`.
    pub fn take_standard(&mut self, mut left: impl FnMut(u32)) {
        let mut keep = |e: &mut u32| {
            *e &= !mode::STANDARD;
            if *e & mode::ALL == 0 {
                left(*e >> MODE_BITS);
                return false;
            }
            true
        };
        match self {
            Watchers::Few(a) => {
                let mut kept = [0; INLINE];
                let mut n = 0;
                for e in a.iter_mut().take_while(|e| **e != 0) {
                    if keep(e) {
                        kept[n] = *e;
                        n += 1;
                    }
                }
                *a = kept;
            }
            Watchers::Many(v) => v.retain_mut(keep),
        }
        self.settle();
    }

    fn at_mut(&mut self, at: usize) -> &mut u32 {
        match self {
            Watchers::Few(a) => &mut a[at],
            Watchers::Many(v) => &mut v[at],
        }
    }

    fn insert(&mut self, at: usize, entry: u32) {
        match self {
            Watchers::Few(a) if a[INLINE - 1] == 0 => {
                a.copy_within(at..INLINE - 1, at + 1);
                a[at] = entry;
            }
            Watchers::Few(a) => {
                let mut v = Vec::with_capacity(2 * INLINE);
                v.extend_from_slice(a);
                v.insert(at, entry);
                *self = Watchers::Many(v);
            }
            Watchers::Many(v) => v.insert(at, entry),
        }
    }

    fn delete(&mut self, at: usize) {
        match self {
            Watchers::Few(a) => {
                a.copy_within(at + 1.., at);
                a[INLINE - 1] = 0;
            }
            Watchers::Many(v) => {
                v.remove(at);
            }
        }
        self.settle();
    }

    /// Back to the inline form when nearly empty (half of what made it leave, so it does not flip to and fro).
    fn settle(&mut self) {
        if let Watchers::Many(v) = self
            && v.len() <= INLINE / 2
        {
            let mut a = [0; INLINE];
            a[..v.len()].copy_from_slice(v);
            *self = Watchers::Few(a);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn four_watchers_take_no_more_room_than_a_vector_head() {
        assert_eq!(size_of::<Watchers>(), 24);
    }

    #[test]
    fn grows_shrinks_and_stays_sorted() {
        let mut w = Watchers::default();
        for slot in [5, 1, 9, 3, 7, 0, 2] {
            assert_eq!(w.add(slot, mode::STANDARD), 0);
        }
        assert_eq!(w.add(3, mode::RECURSIVE), mode::STANDARD);
        let slots: Vec<u32> = w.iter().map(|(s, _)| s).collect();
        assert_eq!(slots, [0, 1, 2, 3, 5, 7, 9]);
        assert_eq!(w.remove(9, mode::ALL), mode::STANDARD);
        assert_eq!(w.remove(9, mode::ALL), 0);
        let mut left = vec![];
        w.take_standard(|s| left.push(s));
        assert_eq!(left, [0, 1, 2, 5, 7]);
        assert_eq!(w.iter().collect::<Vec<_>>(), [(3, mode::RECURSIVE)]);
        assert!(matches!(w, Watchers::Few(_)));
        assert_eq!(w.remove(3, mode::RECURSIVE), mode::RECURSIVE);
        assert!(w.is_empty());
    }
}
