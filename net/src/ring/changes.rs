//! The change ring: a broadcast from the core to every shard.
//!
//! Not here: what a batch holds (`engine::msg::ChangeBatch`), whom it wakes ([`super::sleep`], the core's loop).
//! Invariants:
//! - places `..end` have been published; a batch at place `p` lies in slot `p % capacity` until the next tenant's
//!   publication, and `end - (slowest cursor)` never exceeds the capacity;
//! - one Release store of `end` makes a batch visible to all subscribers; nobody reads a slot at or behind an `end`
//!   that it has not loaded with Acquire;
//! - a cursor says "I hold no reference to anything before this" and only rises; only its subscriber stores it;
//! - only the publisher frees, and only before the lowest cursor that it has loaded with Acquire. What is left when
//!   all ends are gone, the last of them frees.

use super::primitive::{Arc, AtomicPtr, AtomicU64, Ordering};
use crossbeam::utils::CachePadded;
use std::marker::PhantomData;
use std::ptr;

/// The cursor of a subscriber that has gone away: it holds up nothing.
const GONE: u64 = u64::MAX;

struct Shared<T> {
    /// Null, or a batch made by `Box::into_raw` that this slot owns.
    slots: Box<[AtomicPtr<T>]>,
    end: CachePadded<AtomicU64>,
    cursors: Box<[CachePadded<AtomicU64>]>,
    owns: PhantomData<T>,
}

// SAFETY: batches are read by several threads at once (`T: Sync`) and may be freed by another thread than the one
// that made them (`T: Send`); the pointers themselves are atomics.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}
// SAFETY: as above; nothing in it is bound to a thread.
unsafe impl<T: Send + Sync> Send for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, place: u64) -> &AtomicPtr<T> {
        &self.slots[(place as usize) & (self.slots.len() - 1)]
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        for slot in &self.slots {
            let batch = slot.load(Ordering::Relaxed);
            if !batch.is_null() {
                // SAFETY: the slot owned it, and neither publisher nor subscriber is left (their Arcs order this
                // after all that they did).
                drop(unsafe { Box::from_raw(batch) });
            }
        }
    }
}

/// The core's end.
pub struct Publisher<T> {
    shared: Arc<Shared<T>>,
    end: u64,
    /// Batches before this are freed.
    freed: u64,
}

/// A shard's end.
pub struct Subscriber<T> {
    shared: Arc<Shared<T>>,
    number: usize,
    /// The next place to hand out.
    next: u64,
    /// The end as last loaded by [`Subscriber::load_end`].
    end: u64,
    /// What our shared cursor says.
    told: u64,
}

/// A ring of `capacity` batches (rounded up to a power of two, at least one) for `subscribers` shards. Everyone sees
/// every batch.
pub fn changes<T: Send + Sync>(capacity: usize, subscribers: usize) -> (Publisher<T>, Vec<Subscriber<T>>) {
    let capacity = capacity.max(1).next_power_of_two();
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| AtomicPtr::new(ptr::null_mut())).collect(),
        end: CachePadded::new(AtomicU64::new(0)),
        cursors: (0..subscribers).map(|_| CachePadded::new(AtomicU64::new(0))).collect(),
        owns: PhantomData,
    });
    let subscribers = (0..subscribers)
        .map(|number| Subscriber { shared: shared.clone(), number, next: 0, end: 0, told: 0 })
        .collect();
    (Publisher { shared, end: 0, freed: 0 }, subscribers)
}

impl<T: Send + Sync> Publisher<T> {
    /// Shows a batch to every subscriber at once, or gives it back while the slowest of them is a whole ring behind.
    /// Frees what everyone has passed when half of the ring or more is taken.
    pub fn try_publish(&mut self, batch: Box<T>) -> Result<(), Box<T>> {
        let capacity = self.capacity();
        if self.end - self.freed >= capacity.div_ceil(2) {
            self.reclaim(drop);
        }
        if self.end - self.freed == capacity {
            return Err(batch);
        }
        // The slot is null: its last tenant was freed. Relaxed is enough, the store of `end` publishes it.
        self.shared.slot(self.end).store(Box::into_raw(batch), Ordering::Relaxed);
        self.end += 1;
        self.shared.end.store(self.end, Ordering::Release);
        Ok(())
    }

    /// Takes back every batch that all subscribers have passed, oldest first: to be freed or used again.
    pub fn reclaim(&mut self, mut each: impl FnMut(Box<T>)) {
        let passed = self.slowest();
        while self.freed < passed {
            let batch = self.shared.slot(self.freed).swap(ptr::null_mut(), Ordering::Relaxed);
            self.freed += 1;
            // SAFETY: `freed..end` holds batches made by `Box::into_raw` that nobody else frees. Every cursor was
            // loaded with Acquire and is past this one, so no subscriber holds a reference or will ask for one; the
            // swap and `freed` see to it that it is taken once.
            each(unsafe { Box::from_raw(batch) });
        }
    }

    /// Whether a batch would be refused now.
    pub fn is_full(&self) -> bool {
        self.end - self.freed == self.capacity() && self.end - self.slowest() == self.capacity()
    }

    /// How many batches subscriber `number` has not passed yet; 0 also when it is gone.
    pub fn behind(&self, number: usize) -> u64 {
        // It never passes `end`, so only one that is gone saturates.
        self.end.saturating_sub(self.shared.cursors[number].load(Ordering::Acquire))
    }

    /// Batches in the ring at most.
    pub fn capacity(&self) -> u64 {
        self.shared.slots.len() as u64
    }

    /// How many have been published since the start.
    pub fn published(&self) -> u64 {
        self.end
    }

    /// The place before which every subscriber has passed all.
    fn slowest(&self) -> u64 {
        let cursors = self.shared.cursors.iter().map(|c| c.load(Ordering::Acquire));
        cursors.min().unwrap_or(GONE).min(self.end)
    }
}

impl<T: Send + Sync> Subscriber<T> {
    /// Loads the end once: [`Subscriber::next`] goes up to here. What is published later waits for the next load.
    pub fn load_end(&mut self) -> u64 {
        self.end = self.shared.end.load(Ordering::Acquire);
        self.end
    }

    /// Whether something lies behind what has been handed out, loaded end or not: the last look before sleeping.
    pub fn has_more(&self) -> bool {
        self.shared.end.load(Ordering::Acquire) != self.next
    }

    /// The next batch before the loaded end. Asking for it gives back the one before; `None` gives back all.
    #[allow(clippy::should_implement_trait)] // An Iterator's items may outlive the next call; these must not.
    pub fn next(&mut self) -> Option<&T> {
        self.give_back();
        if self.next == self.end {
            return None;
        }
        let batch = self.shared.slot(self.next).load(Ordering::Relaxed);
        self.next += 1;
        // SAFETY: the place is before an end loaded with Acquire, so the pointer stored before that end is visible
        // and not null. Our cursor is not past it until `give_back`, which needs `&mut self` and thus the end of this
        // borrow; until then the publisher neither frees it nor gives the slot to another.
        Some(unsafe { &*batch })
    }

    fn give_back(&mut self) {
        if self.told != self.next {
            self.told = self.next;
            self.shared.cursors[self.number].store(self.told, Ordering::Release);
        }
    }
}

impl<T> Drop for Subscriber<T> {
    fn drop(&mut self) {
        self.shared.cursors[self.number].store(GONE, Ordering::Release);
    }
}
