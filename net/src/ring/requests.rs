//! The ring from one shard to the core: bounded, one producer, one consumer, with reserved room.
//!
//! Not here: which messages deserve reserved room (`engine::msg::CoreLink`).
//! Invariants:
//! - slots `head..tail` are filled and belong to the consumer, all others are empty and belong to the producer;
//! - only the producer stores `tail`, only the consumer stores `head`, both only rise (and may wrap);
//! - messages come out in the order in which they went in: while a reserved message waits outside the ring, ordinary
//!   ones are refused. That is also what bounds the queue of waiting ones: a reserved message tells the end of, or
//!   answers, something that the consumer knows of, so while nothing new gets in there is at most one per connection
//!   and one per question asked, and paced reports (look at [`Producer::waiting`] before adding another).

use super::primitive::{Arc, AtomicBool, AtomicUsize, Ordering, UnsafeCell, fence};
use crossbeam::utils::CachePadded;
use std::collections::VecDeque;
use std::mem::MaybeUninit;

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    /// Next slot to fill.
    tail: CachePadded<AtomicUsize>,
    /// Next slot to empty.
    head: CachePadded<AtomicUsize>,
    /// The producer was refused and wants to hear of room.
    starved: CachePadded<AtomicBool>,
}

// SAFETY: the slots are the only part that is not already Sync; each is touched by one side at a time, as the first
// invariant says, and a handover moves the value to the other thread, for which `T: Send` is what is needed.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: it owns the values; nothing in it is bound to a thread.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    fn slot(&self, at: usize) -> &UnsafeCell<MaybeUninit<T>> {
        &self.slots[at & (self.slots.len() - 1)]
    }
    /// Takes the value out of slot `at`.
    ///
    /// # Safety
    /// The slot is filled, belongs to the caller, and is treated as empty afterwards.
    unsafe fn take(&self, at: usize) -> T {
        self.slot(at).with(|slot| {
            // SAFETY: filled and ours, says the caller.
            unsafe { (*slot).assume_init_read() }
        })
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone (their Arcs order this after all that they did), so every filled slot is ours.
        let tail = self.tail.load(Ordering::Relaxed);
        let mut at = self.head.load(Ordering::Relaxed);
        while at != tail {
            // SAFETY: `head..tail` is filled; each slot is visited once, and never again after this.
            drop(unsafe { self.take(at) });
            at = at.wrapping_add(1);
        }
    }
}

/// The shard's end.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    tail: usize,
    /// The consumer's `head` as last seen; it may be further by now.
    head_seen: usize,
    /// Reserved messages that found the ring full, in order.
    waiting: VecDeque<T>,
    /// Something was refused since the last [`Producer::flush`] that found room.
    refused: bool,
}

/// The core's end.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    head: usize,
    /// The producer's `tail` as last seen; it may be further by now.
    tail_seen: usize,
}

/// A ring of `capacity` messages, rounded up to a power of two, at least one.
pub fn requests<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    let capacity = capacity.max(1).next_power_of_two();
    let shared = Arc::new(Shared {
        slots: (0..capacity).map(|_| UnsafeCell::new(MaybeUninit::uninit())).collect(),
        tail: CachePadded::new(AtomicUsize::new(0)),
        head: CachePadded::new(AtomicUsize::new(0)),
        starved: CachePadded::new(AtomicBool::new(false)),
    });
    let producer =
        Producer { shared: shared.clone(), tail: 0, head_seen: 0, waiting: VecDeque::new(), refused: false };
    (producer, Consumer { shared, head: 0, tail_seen: 0 })
}

impl<T: Send> Producer<T> {
    /// Hands over `message`, or gives it back when the ring is full or reserved messages wait before it. After a
    /// refusal the consumer is told that room is wanted ([`Consumer::producer_waits`]); try again when
    /// [`Producer::flush`] says so.
    pub fn try_push(&mut self, message: T) -> Result<(), T> {
        if !self.waiting.is_empty() {
            self.move_waiting();
        }
        if self.waiting.is_empty() && self.find_room() {
            self.put(message);
            return Ok(());
        }
        self.refused = true;
        Err(message)
    }

    /// Hands over a message that must not be refused. It keeps its place in the order; if the ring is full it waits
    /// on this side until [`Producer::flush`] or a later push finds room.
    pub fn push_reserved(&mut self, message: T) {
        if !self.waiting.is_empty() {
            self.move_waiting();
        }
        if self.waiting.is_empty() && self.find_room() {
            self.put(message);
        } else {
            self.waiting.push_back(message);
        }
    }

    /// Moves waiting reserved messages into the ring; to be called once a turn. True: there is room again after a
    /// refusal, so what was refused may be tried again.
    pub fn flush(&mut self) -> bool {
        self.move_waiting();
        if !self.refused || !self.waiting.is_empty() || !self.find_room() {
            return false;
        }
        self.refused = false;
        true
    }

    /// Reserved messages that have not found room yet.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Something was refused or waits, and there is room now: the last look before sleeping must include this.
    pub fn may_go_on(&self) -> bool {
        (self.refused || !self.waiting.is_empty())
            && self.tail.wrapping_sub(self.shared.head.load(Ordering::Acquire)) < self.shared.slots.len()
    }

    /// Messages in the ring at most.
    pub fn capacity(&self) -> usize {
        self.shared.slots.len()
    }

    fn move_waiting(&mut self) {
        while !self.waiting.is_empty() && self.find_room() {
            if let Some(message) = self.waiting.pop_front() {
                self.put(message);
            }
        }
    }

    /// Whether the next slot is empty. If not, the consumer knows afterwards that room is wanted.
    fn find_room(&mut self) -> bool {
        if self.has_room() {
            return true;
        }
        // Needs no fence here: who sleeps over a refusal passes one between this store and its last look at `head`
        // (`Sleeper::announce`), and the consumer passes one between its store of `head` and its look at this
        // (`Consumer::producer_waits`); so one of the two sees the other. Who does not sleep looks again next turn.
        self.shared.starved.store(true, Ordering::Relaxed);
        false
    }

    fn has_room(&mut self) -> bool {
        let capacity = self.shared.slots.len();
        if self.tail.wrapping_sub(self.head_seen) == capacity {
            self.head_seen = self.shared.head.load(Ordering::Acquire);
        }
        self.tail.wrapping_sub(self.head_seen) < capacity
    }

    /// Fills the next slot. The caller has seen that it is empty.
    fn put(&mut self, message: T) {
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: the slot is outside `head..tail` (`has_room`: the Acquire load of `head` also orders this after
            // the consumer's read of the slot), so it is ours, and empty, so nothing is overwritten.
            unsafe { (*slot).write(message) };
        });
        self.tail = self.tail.wrapping_add(1);
        self.shared.tail.store(self.tail, Ordering::Release);
    }
}

impl<T: Send> Consumer<T> {
    /// The oldest message.
    pub fn pop(&mut self) -> Option<T> {
        if self.is_empty() {
            return None;
        }
        // SAFETY: the slot is inside `head..tail` (the Acquire load of `tail` orders this after it was filled), so it
        // is filled and ours; the store of `head` below makes it empty.
        let message = unsafe { self.shared.take(self.head) };
        self.head = self.head.wrapping_add(1);
        self.shared.head.store(self.head, Ordering::Release);
        Some(message)
    }

    /// Up to `most` messages, oldest first; says how many there were.
    pub fn drain(&mut self, most: usize, mut each: impl FnMut(T)) -> usize {
        for done in 0..most {
            match self.pop() {
                Some(message) => each(message),
                None => return done,
            }
        }
        most
    }

    /// Nothing to pop.
    pub fn is_empty(&mut self) -> bool {
        if self.head == self.tail_seen {
            self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        }
        self.head == self.tail_seen
    }

    /// Whether the producer was refused since the last call. To be asked after popping; if true, ring its bell
    /// ([`super::Bell::ring`]), since it may have gone to sleep with work that now fits. Costs a full fence.
    pub fn producer_waits(&mut self) -> bool {
        fence(Ordering::SeqCst);
        self.shared.starved.load(Ordering::Relaxed) && self.shared.starved.swap(false, Ordering::Relaxed)
    }
}
