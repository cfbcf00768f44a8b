//! Which changes may concern a shard: a counting filter over the hashes of watched paths, readable by the core.
//!
//! The core wakes a sleeping shard for a batch only if this filter hits one of its hashes (DESIGN section 3). False
//! hits cost a wake-up; a false miss would leave a watcher without its event, so there are none.
//!
//! Memory order: the bits are stored relaxed by the shard before the full fence that precedes its sleep, and loaded
//! by the core behind the full fence that follows its publishing. So either the shard sees the batch before it
//! sleeps, or the core sees the bits.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

const BITS: usize = 4096;

/// The half that the core reads; 4096 bits over path hashes.
#[derive(Debug)]
pub struct InterestFilter {
    words: [AtomicU64; BITS / 64],
    /// A recursive watch exists: every path concerns this shard.
    all: AtomicBool,
}

impl Default for InterestFilter {
    fn default() -> InterestFilter {
        InterestFilter { words: std::array::from_fn(|_| AtomicU64::new(0)), all: AtomicBool::new(false) }
    }
}

impl InterestFilter {
    /// Whether a watch on a path with this hash may exist here. Call behind the fence that follows publication.
    pub fn hits(&self, path_hash: u64) -> bool {
        let bit = index(path_hash);
        self.all.load(Relaxed) || self.words[bit / 64].load(Relaxed) & 1 << (bit % 64) != 0
    }
}

fn index(hash: u64) -> usize {
    (hash as usize) % BITS
}

/// The half that the shard owns: counts behind the bits.
#[derive(Debug)]
pub(super) struct Interest {
    counts: Box<[u32; BITS]>,
    recursive: usize,
    shared: Arc<InterestFilter>,
}

impl Interest {
    pub fn new(shared: Arc<InterestFilter>) -> Interest {
        Interest { counts: Box::new([0; BITS]), recursive: 0, shared }
    }

    /// A path became watched.
    pub fn add(&mut self, hash: u64) {
        let bit = index(hash);
        self.counts[bit] += 1;
        if self.counts[bit] == 1 {
            self.shared.words[bit / 64].fetch_or(1 << (bit % 64), Relaxed);
        }
    }

    /// A path is no longer watched.
    pub fn remove(&mut self, hash: u64) {
        let bit = index(hash);
        self.counts[bit] -= 1;
        if self.counts[bit] == 0 {
            self.shared.words[bit / 64].fetch_and(!(1 << (bit % 64)), Relaxed);
        }
    }

    pub fn add_recursive(&mut self) {
        self.recursive += 1;
        self.shared.all.store(true, Relaxed);
    }

    pub fn remove_recursive(&mut self) {
        self.recursive -= 1;
        self.shared.all.store(self.recursive > 0, Relaxed);
    }

    pub fn recursive(&self) -> usize {
        self.recursive
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_and_recursion_open_and_close_the_filter() {
        let shared = Arc::new(InterestFilter::default());
        let mut i = Interest::new(shared.clone());
        let same_bit = 7 + BITS as u64;
        assert!(!shared.hits(7));
        i.add(7);
        i.add(same_bit);
        i.remove(7);
        assert!(shared.hits(7) && !shared.hits(8));
        i.remove(same_bit);
        assert!(!shared.hits(7));
        i.add_recursive();
        assert!(shared.hits(8));
        i.remove_recursive();
        assert!(!shared.hits(8));
    }
}
