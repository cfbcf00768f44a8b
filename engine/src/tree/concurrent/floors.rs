//! What each reader may still look at: floors, turns and pins, and the Dekker fences between readers and the writer.
//!
//! Not here: what is freed because of it (`store`).
//! Invariants (engine/DESIGN.md section 2):
//! - a reader stores its floor, then fences, then loads anything; the writer fences, then loads floors;
//! - a floor never exceeds what was published when it was stored;
//! - a free slot is a resting reader.

use super::primitive::{AtomicBool, AtomicU64, Ordering, Padded, fence};

/// A floor that needs nothing kept, and a pin that pins nothing.
const REST: u64 = u64::MAX;

#[derive(Debug)]
struct Slot {
    /// `REST`, or the lowest horizon that this turn may read at.
    floor: AtomicU64,
    /// Counts turns; never goes back, also when the slot changes hands.
    turn: AtomicU64,
    /// For a walker, the one zxid it reads at; else `REST`.
    pin: AtomicU64,
    taken: AtomicBool,
}

/// One slot per reader, and the end that readers can know of.
pub(super) struct Floors {
    slots: Box<[Padded<Slot>]>,
    published: Padded<AtomicU64>,
}

/// Turns at the start of a grace period, by slot; `None` where it has passed.
pub(super) type Marks = Vec<Option<u64>>;

impl Floors {
    pub(super) fn new(readers_max: usize) -> Floors {
        let slot = || {
            Padded(Slot {
                floor: AtomicU64::new(REST),
                turn: AtomicU64::new(0),
                pin: AtomicU64::new(REST),
                taken: AtomicBool::new(false),
            })
        };
        Floors { slots: (0..readers_max).map(|_| slot()).collect(), published: Padded(AtomicU64::new(0)) }
    }

    // --- readers ---

    /// A free slot, now the caller's.
    pub(super) fn claim(&self) -> Option<usize> {
        self.slots.iter().position(|s| {
            s.0.taken.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed).is_ok()
        })
    }

    /// Gives a slot back.
    pub(super) fn release(&self, slot: usize) {
        let s = &self.slots[slot].0;
        s.floor.store(REST, Ordering::Release);
        s.pin.store(REST, Ordering::Release);
        s.taken.store(false, Ordering::Release);
    }

    /// Begins a turn: what is visible at `h` and later is kept from here on, unless it was given up before. Returns
    /// the published end as seen after the fence: whoever rested before must not read below it.
    pub(super) fn begin(&self, slot: usize, h: u64) -> Turn {
        let s = &self.slots[slot].0;
        let floor = h.min(self.published.0.load(Ordering::Acquire));
        s.turn.store(s.turn.load(Ordering::Relaxed) + 1, Ordering::Release);
        s.floor.store(floor, Ordering::Release);
        fence(Ordering::SeqCst);
        Turn { floor, published: self.published.0.load(Ordering::Acquire) }
    }

    /// Begins a walk that reads at exactly `at`, and at nothing else.
    pub(super) fn begin_pinned(&self, slot: usize, at: u64) -> Turn {
        self.slots[slot].0.pin.store(at, Ordering::Release);
        self.begin(slot, at)
    }

    /// Begins another turn of a walk: the floor stays.
    pub(super) fn tick(&self, slot: usize) {
        let s = &self.slots[slot].0;
        s.turn.store(s.turn.load(Ordering::Relaxed) + 1, Ordering::Release);
        fence(Ordering::SeqCst);
    }

    /// Needs nothing until the next `begin`.
    pub(super) fn rest(&self, slot: usize) {
        self.slots[slot].0.floor.store(REST, Ordering::Release);
    }

    // --- the writer ---

    /// Moves the end that readers can know of. Only the writer; after the ring's own release of `upto`.
    pub(super) fn publish(&self, upto: u64) {
        self.published.0.store(upto, Ordering::Release);
    }

    pub(super) fn published(&self) -> u64 {
        self.published.0.load(Ordering::Acquire)
    }

    /// What no reader that moves will look below any more; `pins` gets the points at which walkers stand still.
    pub(super) fn survey(&self, pins: &mut Vec<u64>) -> u64 {
        let mut limit = self.published.0.load(Ordering::Relaxed);
        pins.clear();
        fence(Ordering::SeqCst);
        for s in &self.slots {
            let floor = s.0.floor.load(Ordering::Acquire);
            if floor == REST {
                continue;
            }
            // The pin was stored before the floor that was just seen, or belongs to a walk that is over by now.
            match s.0.pin.load(Ordering::Acquire) {
                REST => limit = limit.min(floor),
                at => pins.push(at),
            }
        }
        pins.sort_unstable();
        pins.dedup();
        limit
    }

    /// Opens a grace period over all that was unlinked before.
    pub(super) fn mark(&self) -> Marks {
        fence(Ordering::SeqCst);
        let resting = |s: &Slot| s.floor.load(Ordering::Acquire) == REST;
        self.slots.iter().map(|s| (!resting(&s.0)).then(|| s.0.turn.load(Ordering::Acquire))).collect()
    }

    /// Whether every reader has rested or begun a turn since `marks` were taken.
    pub(super) fn passed(&self, marks: &mut Marks) -> bool {
        for (s, mark) in self.slots.iter().zip(marks.iter_mut()) {
            let Some(turn) = *mark else { continue };
            let at_rest = s.0.floor.load(Ordering::Acquire) == REST;
            if at_rest || s.0.turn.load(Ordering::Acquire) != turn {
                *mark = None;
            }
        }
        marks.iter().all(Option::is_none)
    }
}

/// What [`Floors::begin`] found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// What was stored as the floor.
    pub floor: u64,
    /// The published end after the fence.
    pub published: u64,
}
