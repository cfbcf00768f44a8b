//! Every interleaving, and every order that the memory model allows, of the protocols that no stress test can exhaust.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p engine --lib loom`. A freed object is one whose `alive` flag the
//! writer has written: loom reports a reader that looks at it at the same time as a race, and `look` one that comes later.

use super::floors::Floors;
use super::index::{Index, Keyed, Replaced, free_directory};
use super::primitive::{AtomicPtr, AtomicU64, Ordering, fence};
use loom::cell::UnsafeCell;
use loom::thread;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// What stands for an allocation.
struct Object {
    alive: UnsafeCell<bool>,
    value: u64,
}

// SAFETY: loom's cell checks every access.
unsafe impl Sync for Object {}
// SAFETY: as above.
unsafe impl Send for Object {}

impl Object {
    fn new(value: u64) -> Object {
        Object { alive: UnsafeCell::new(true), value }
    }
    fn look(&self) -> u64 {
        // SAFETY: loom's cell checks the access.
        assert!(self.alive.with(|a| unsafe { *a }), "looked at after it was freed");
        self.value
    }
    fn free(&self) {
        // SAFETY: loom's cell checks the access.
        self.alive.with_mut(|a| unsafe { assert!(std::mem::replace(&mut *a, false), "freed twice") });
    }
}

/// One node with a data version made at 0 and one made at `z`, as the tree keeps them.
struct Versions {
    floors: Floors,
    /// What the change ring is in the server.
    ring: AtomicU64,
    old: Object,
    new: Object,
    /// 0: the old one is the newest; 1: the new one is, whose predecessor is the old one.
    newest: AtomicU64,
}

impl Versions {
    fn model() -> Arc<Versions> {
        Arc::new(Versions {
            floors: Floors::new(1),
            ring: AtomicU64::new(1),
            old: Object::new(1),
            new: Object::new(2),
            newest: AtomicU64::new(0),
        })
    }

    /// What a reader finds at `h`; the new version is since 2.
    fn read(&self, h: u64) -> u64 {
        if self.newest.load(Ordering::Acquire) == 1 && h >= 2 {
            return self.new.look();
        }
        self.old.look()
    }

    /// Applies txn 2, puts it into the ring, publishes it.
    fn write(&self) {
        self.newest.store(1, Ordering::Release);
        self.ring.store(2, Ordering::Release);
        self.floors.publish(2);
    }

    /// Frees the predecessor if nobody needs it.
    fn collect(&self, freed: &mut bool) {
        let mut pins = vec![];
        let limit = self.floors.survey(&mut pins);
        if !*freed && limit >= 2 && !pins.iter().any(|&at| at < 2) {
            *freed = true;
            self.old.free();
        }
    }
}

#[test]
fn loom_a_predecessor_is_kept_for_a_reader_that_wakes() {
    loom::model(|| {
        let v = Versions::model();
        v.floors.publish(1);
        let reader = {
            let v = v.clone();
            thread::spawn(move || {
                let slot = v.floors.claim().unwrap();
                // It went to sleep at horizon 1.
                let low = v.floors.begin(slot, 1).published;
                let end = v.ring.load(Ordering::Acquire);
                assert!(low <= end, "the ring has reached what was published");
                for h in low..=end {
                    assert_eq!(v.read(h), h);
                }
                v.floors.release(slot);
            })
        };
        v.write();
        let mut freed = false;
        v.collect(&mut freed);
        v.collect(&mut freed);
        reader.join().unwrap();
        v.collect(&mut freed);
        assert!(freed);
    });
}

#[test]
fn loom_a_reader_that_does_not_rest_may_read_where_it_stood() {
    loom::model(|| {
        let v = Versions::model();
        v.floors.publish(1);
        let slot = v.floors.claim().unwrap();
        v.floors.begin(slot, 1);
        let reader = {
            let v = v.clone();
            thread::spawn(move || {
                assert_eq!(v.read(1), 1);
                let end = v.ring.load(Ordering::Acquire);
                assert_eq!(v.read(1), 1, "reads that were queued are answered where they stood");
                v.floors.begin(slot, end);
                assert_eq!(v.read(end), end);
            })
        };
        v.write();
        let mut freed = false;
        v.collect(&mut freed);
        v.collect(&mut freed);
        reader.join().unwrap();
    });
}

#[test]
fn loom_a_walker_keeps_its_point_or_is_refused() {
    loom::model(|| {
        let v = Versions::model();
        v.floors.publish(1);
        let walker = {
            let v = v.clone();
            thread::spawn(move || {
                let slot = v.floors.claim().unwrap();
                if v.floors.begin_pinned(slot, 1).published <= 1 {
                    assert_eq!(v.read(1), 1);
                    v.floors.tick(slot);
                    assert_eq!(v.read(1), 1);
                }
                v.floors.release(slot);
            })
        };
        v.write();
        let mut freed = false;
        v.collect(&mut freed);
        walker.join().unwrap();
        v.collect(&mut freed);
        assert!(freed);
    });
}

/// A list of one element that is unlinked and freed after a grace period.
#[test]
fn loom_what_is_unlinked_is_freed_when_no_turn_can_hold_it() {
    loom::model(|| {
        struct List {
            floors: Floors,
            linked: AtomicU64,
            object: Object,
        }
        let l = Arc::new(List { floors: Floors::new(1), linked: AtomicU64::new(1), object: Object::new(7) });
        let slot = l.floors.claim().unwrap();
        let reader = {
            let l = l.clone();
            thread::spawn(move || {
                for turn in 0..2 {
                    l.floors.begin(slot, 0);
                    if l.linked.load(Ordering::Acquire) == 1 {
                        assert_eq!(l.object.look(), 7);
                    }
                    if turn == 0 {
                        l.floors.rest(slot);
                    }
                }
            })
        };
        l.linked.store(0, Ordering::Release);
        let mut marks = l.floors.mark();
        for _ in 0..2 {
            if l.floors.passed(&mut marks) {
                l.object.free();
                break;
            }
        }
        reader.join().unwrap();
    });
}

struct Item {
    key: u32,
}

// SAFETY: the key never changes.
unsafe impl Keyed for Item {
    unsafe fn key(item: NonNull<Item>) -> u32 {
        // SAFETY: by the trait's contract.
        unsafe { item.as_ref() }.key
    }
}

fn hash(n: u32) -> u64 {
    // Spread over the directory; the tag says which.
    u64::from(n.wrapping_mul(0x4000_0000)) << 32 | u64::from(n)
}

/// The index under loom has segments of two entries, so a third one splits.
#[test]
fn loom_what_was_published_is_found_whatever_splits() {
    loom::model(|| {
        struct Shared {
            index: Index<Item>,
            end: AtomicU64,
        }
        // SAFETY: the items are immutable; the index is made for one writer and many readers.
        unsafe impl Sync for Shared {}
        // SAFETY: as above.
        unsafe impl Send for Shared {}
        let items: Vec<NonNull<Item>> = (0..4)
            .map(|n| NonNull::from(Box::leak(Box::new(Item { key: (hash(n) >> 32) as u32 }))))
            .collect();
        let mut out = vec![];
        let s = Arc::new(Shared { index: Index::new(), end: AtomicU64::new(2) });
        // SAFETY: this is the writer; the items live until the end of the model.
        unsafe {
            s.index.insert(hash(0), items[0], &mut out);
            s.index.insert(hash(1), items[1], &mut out);
        }
        let reader = {
            let s = s.clone();
            thread::spawn(move || {
                let end = s.end.load(Ordering::Acquire) as u32;
                for n in [0, end - 1] {
                    // SAFETY: nothing is freed before this thread has been joined.
                    let found = unsafe { s.index.find(hash(n), |_| true) };
                    assert!(found.is_some(), "{n} of {end} is missing");
                }
            })
        };
        for n in 2..4u32 {
            // SAFETY: as above.
            unsafe { s.index.insert(hash(n), items[n as usize], &mut out) };
            s.end.store(u64::from(n) + 1, Ordering::Release);
        }
        reader.join().unwrap();
        assert!(out.iter().any(|r| matches!(r, Replaced::Directory(_))), "it did grow");
        let mut s = Arc::into_inner(s).expect("the reader is gone");
        // SAFETY: nobody is left.
        unsafe {
            for r in out {
                match r {
                    Replaced::Segment(segment) => segment.free(),
                    Replaced::Directory(d) => free_directory(d),
                }
            }
            s.index.free();
            items.into_iter().for_each(|i| drop(Box::from_raw(i.as_ptr())));
        }
    });
}

/// A version chain that is cut under a walker: it comes to what it stands for, over the freed one or past it.
#[test]
fn loom_a_chain_is_cut_under_a_walker() {
    struct Version {
        since: u64,
        prev: AtomicPtr<Version>,
        object: Object,
    }
    struct Chain {
        floors: Floors,
        head: AtomicPtr<Version>,
    }
    // SAFETY: versions are reached through atomics only, and freed at the end of the model.
    unsafe impl Sync for Chain {}
    // SAFETY: as above.
    unsafe impl Send for Chain {}
    loom::model(|| {
        let make = |since, prev| {
            let v = Version { since, prev: AtomicPtr::new(prev), object: Object::new(since) };
            Box::into_raw(Box::new(v))
        };
        let one = make(1, ptr::null_mut());
        let two = make(2, one);
        let three = make(3, two);
        let c = Arc::new(Chain { floors: Floors::new(1), head: AtomicPtr::new(three) });
        c.floors.publish(1);
        let slot = c.floors.claim().unwrap();
        c.floors.begin_pinned(slot, 1);
        let walker = {
            let c = c.clone();
            thread::spawn(move || {
                let mut v = c.head.load(Ordering::Acquire);
                // SAFETY: versions are freed at the end of the model only.
                unsafe {
                    while (*v).since > 1 {
                        (*v).object.look();
                        v = (*v).prev.load(Ordering::Acquire);
                    }
                    assert_eq!((*v).object.look(), 1);
                }
                c.floors.tick(slot);
            })
        };
        // The version since 2 is needed by nobody: cut it out, and free it after a grace period.
        // SAFETY: as above.
        unsafe { (*three).prev.store(one, Ordering::Release) };
        let mut marks = c.floors.mark();
        if c.floors.passed(&mut marks) {
            // SAFETY: as above.
            unsafe { (*two).object.free() };
        }
        walker.join().unwrap();
        // SAFETY: nobody is left.
        unsafe { [one, two, three].into_iter().for_each(|v| drop(Box::from_raw(v))) };
    });
}

/// The fences are what it takes: with neither, loom finds the reader that looks at freed memory. So the models above
/// can fail.
#[test]
#[should_panic]
fn loom_without_fences_the_model_breaks() {
    loom::model(|| {
        let floor = Arc::new(AtomicU64::new(u64::MAX));
        let linked = Arc::new(AtomicU64::new(1));
        let object = Arc::new(Object::new(7));
        let reader = {
            let (floor, linked, object) = (floor.clone(), linked.clone(), object.clone());
            thread::spawn(move || {
                floor.store(0, Ordering::Release);
                fence(Ordering::Acquire);
                if linked.load(Ordering::Acquire) == 1 {
                    object.look();
                }
            })
        };
        linked.store(0, Ordering::Release);
        if floor.load(Ordering::Acquire) == u64::MAX {
            object.free();
        }
        reader.join().unwrap();
    });
}
