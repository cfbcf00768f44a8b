//! Sleeping without missing anything, and waking only who sleeps.
//!
//! The sleeper says that it sleeps, passes a full fence, looks at its rings once more, then waits. Whoever adds work
//! stores it, passes a full fence, then looks whether the other sleeps. So at least one of the two sees the other.
//!
//! Not here: what the thread waits on (the reactor behind [`Wake`]), whom a batch concerns (the caller's closure).
//! Invariants:
//! - whoever clears `asleep` from outside also wakes, so a cleared flag never hides a sleeper;
//! - `asleep` is stored with Release and read with Acquire: who sees a sleeper sees all that it wrote before, its
//!   interest filter among it.

use super::primitive::{Arc, AtomicBool, Ordering, fence};
use crossbeam::utils::CachePadded;

/// Ends the wait of one thread, or makes its next wait end at once. Called from other threads.
pub trait Wake: Send + Sync {
    /// Wakes it. Must not block.
    fn wake(&self);
}

struct Shared {
    asleep: CachePadded<AtomicBool>,
    // Std's count also under loom: loom's does not hold trait objects, and the waker is not what is being modelled.
    waker: std::sync::Arc<dyn Wake>,
}

/// The sleeping thread's end.
pub struct Sleeper(Arc<Shared>);

/// The other threads' end; any number of them.
#[derive(Clone)]
pub struct Bell(Arc<Shared>);

/// While it lives, bells ring. Drop it when the wait has ended.
pub struct Nap<'a>(&'a Shared);

/// A sleeper that `waker` wakes, and its bell.
pub fn sleeper(waker: std::sync::Arc<dyn Wake>) -> (Sleeper, Bell) {
    let shared = Arc::new(Shared { asleep: CachePadded::new(AtomicBool::new(false)), waker });
    (Sleeper(shared.clone()), Bell(shared))
}

impl Sleeper {
    /// Announces sleep, then looks once more: `None` if `work_waits`, else wait on the thing that the waker wakes
    /// (it remembers a wake that came before the wait) and drop the nap afterwards.
    pub fn announce(&mut self, work_waits: impl FnOnce() -> bool) -> Option<Nap<'_>> {
        self.0.asleep.store(true, Ordering::Release);
        fence(Ordering::SeqCst);
        let nap = Nap(&self.0);
        if work_waits() { None } else { Some(nap) }
    }
}

impl Drop for Nap<'_> {
    fn drop(&mut self) {
        self.0.asleep.store(false, Ordering::Release);
    }
}

impl Bell {
    /// Wakes the sleeper if it sleeps. To be called after the work was made visible.
    pub fn ring(&self) {
        fence(Ordering::SeqCst);
        self.ring_fenced(|| true);
    }

    /// Wakes the sleeper without looking whether it sleeps: for what is not on a ring, such as the word to stop.
    pub fn ring_hard(&self) {
        self.0.waker.wake();
    }

    /// As [`Bell::ring`], after the caller's fence and only a sleeper for whom `concerned` holds.
    fn ring_fenced(&self, concerned: impl FnOnce() -> bool) {
        if self.0.asleep.load(Ordering::Acquire) && concerned() && self.0.asleep.swap(false, Ordering::AcqRel)
        {
            self.0.waker.wake();
        }
    }
}

/// Wakes those of the sleepers for whom `concerned` (given the bell's index) holds, at the cost of one fence. It is
/// asked only about those who sleep, and then sees what they wrote before they slept (interest filters). A sleeper
/// that is passed over stays announced: it finds the work when it wakes.
pub fn ring_those(bells: &[Bell], mut concerned: impl FnMut(usize) -> bool) {
    fence(Ordering::SeqCst);
    for (index, bell) in bells.iter().enumerate() {
        bell.ring_fenced(|| concerned(index));
    }
}
