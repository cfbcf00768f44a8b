//! The rings under every interleaving and every permitted reordering (within loom's bounds).

use super::*;
use loom::cell::UnsafeCell;
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// A value whose reads and whose end loom watches: a read that races with the drop fails the model.
struct Watched(UnsafeCell<usize>);

impl Watched {
    fn new(n: usize) -> Watched {
        Watched(UnsafeCell::new(n))
    }
    fn read(&self) -> usize {
        // SAFETY: loom fails the test if anything writes (drops) at the same time.
        self.0.with(|n| unsafe { *n })
    }
}
impl Drop for Watched {
    fn drop(&mut self) {
        // SAFETY: as above, the other way round.
        self.0.with_mut(|n| unsafe { *n = usize::MAX });
    }
}
// SAFETY: shared reads only; the drop is what the model checks.
unsafe impl Sync for Watched {}

/// An eventfd as loom sees it. Loom reports a thread that waits for ever as a deadlock: the lost wake-up.
struct Parker(Mutex<bool>, Condvar);

impl Parker {
    fn new() -> std::sync::Arc<Parker> {
        std::sync::Arc::new(Parker(Mutex::new(false), Condvar::new()))
    }
    fn wait(&self) {
        let mut woken = self.0.lock().unwrap();
        while !*woken {
            woken = self.1.wait(woken).unwrap();
        }
        *woken = false;
    }
}
impl Wake for Parker {
    fn wake(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[test]
fn a_message_is_handed_over_whole_and_in_order() {
    loom::model(|| {
        let (mut tx, mut rx) = requests::<Watched>(1);
        let producer = thread::spawn(move || {
            let mut refused = 0;
            for n in 0..3 {
                if tx.try_push(Watched::new(n)).is_err() {
                    refused += 1;
                }
            }
            refused
        });
        let mut last = None;
        let mut got = 0;
        for _ in 0..3 {
            if let Some(w) = rx.pop() {
                assert!(last < Some(w.read()));
                last = Some(w.read());
                got += 1;
            }
        }
        let refused = producer.join().unwrap();
        got += rx.drain(3, |w| assert!(last < Some(w.read())));
        assert_eq!(got + refused, 3);
    });
}

#[test]
fn a_refused_producer_is_never_left_asleep() {
    loom::model(|| {
        let (mut tx, mut rx) = requests::<usize>(1);
        let parker = Parker::new();
        let (mut me, bell) = sleeper(parker.clone());
        tx.try_push(0).unwrap();
        let producer = thread::spawn(move || {
            while tx.try_push(1).is_err() {
                if let Some(nap) = me.announce(|| tx.may_go_on()) {
                    parker.wait();
                    drop(nap);
                }
                tx.flush();
            }
        });
        assert_eq!(rx.pop(), Some(0));
        if rx.producer_waits() {
            bell.ring();
        }
        producer.join().unwrap();
        assert_eq!(rx.pop(), Some(1));
    });
}

#[test]
fn a_sleeping_consumer_hears_of_every_push() {
    loom::model(|| {
        let (mut tx, mut rx) = requests::<usize>(2);
        let parker = Parker::new();
        let (mut me, bell) = sleeper(parker.clone());
        let producer = thread::spawn(move || {
            for n in 0..2 {
                tx.try_push(n).unwrap();
                bell.ring();
            }
        });
        let mut got = 0;
        while got < 2 {
            got += rx.drain(2, |_| ());
            if got < 2
                && let Some(nap) = me.announce(|| !rx.is_empty())
            {
                parker.wait();
                drop(nap);
            }
        }
        producer.join().unwrap();
    });
}

#[test]
fn a_batch_is_read_before_it_is_freed() {
    loom::model(|| {
        let (mut publisher, subs) = changes::<Watched>(1, 2);
        let readers: Vec<_> = subs
            .into_iter()
            .map(|mut sub| {
                thread::spawn(move || {
                    let mut seen = 0;
                    for _ in 0..2 {
                        sub.load_end();
                        while let Some(batch) = sub.next() {
                            seen += 1;
                            assert_eq!(batch.read(), seen);
                        }
                    }
                })
            })
            .collect();
        let mut n = 1;
        for _ in 0..2 {
            if publisher.try_publish(Box::new(Watched::new(n))).is_ok() {
                n += 1;
            }
        }
        for r in readers {
            r.join().unwrap();
        }
    });
}

#[test]
fn a_sleeping_subscriber_hears_of_every_batch() {
    loom::model(|| {
        let (mut publisher, mut subs) = changes::<Watched>(2, 1);
        let mut sub = subs.remove(0);
        let parker = Parker::new();
        let (mut me, bell) = sleeper(parker.clone());
        let core = thread::spawn(move || {
            let bells = [bell];
            for n in 0..2 {
                assert!(publisher.try_publish(Box::new(Watched::new(n))).is_ok());
                ring_those(&bells, |_| true);
            }
        });
        let mut seen = 0;
        while seen < 2 {
            sub.load_end();
            while let Some(batch) = sub.next() {
                assert_eq!(batch.read(), seen);
                seen += 1;
            }
            if seen < 2
                && let Some(nap) = me.announce(|| sub.has_more())
            {
                parker.wait();
                drop(nap);
            }
        }
        core.join().unwrap();
    });
}

#[test]
fn who_sees_a_sleeper_sees_its_interest() {
    loom::model(|| {
        let interest = Arc::new(UnsafeCellFlag::new());
        let parker = Parker::new();
        let (mut me, bell) = sleeper(parker.clone());
        let theirs = interest.clone();
        let core = thread::spawn(move || {
            ring_those(&[bell], |_| {
                assert!(theirs.get(), "asked about a sleeper, so what it wrote before must be visible");
                false
            });
        });
        interest.set();
        drop(me.announce(|| false));
        core.join().unwrap();
    });
}

/// A plain flag that loom watches for races.
struct UnsafeCellFlag(UnsafeCell<bool>);

impl UnsafeCellFlag {
    fn new() -> UnsafeCellFlag {
        UnsafeCellFlag(UnsafeCell::new(false))
    }
    fn set(&self) {
        // SAFETY: loom fails the test on a race.
        self.0.with_mut(|f| unsafe { *f = true });
    }
    fn get(&self) -> bool {
        // SAFETY: loom fails the test on a race.
        self.0.with(|f| unsafe { *f })
    }
}
// SAFETY: what the model checks.
unsafe impl Sync for UnsafeCellFlag {}
// SAFETY: a bool.
unsafe impl Send for UnsafeCellFlag {}
