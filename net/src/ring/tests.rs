//! Rings under real threads, mostly with one slot: order, refusal, reserved room, freeing, sleeping.

use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

/// Large under cargo test, small under Miri.
const MANY: usize = if cfg!(miri) { 200 } else { 100_000 };

/// A waker for threads that have no reactor: remembers a wake, as an eventfd does.
#[derive(Default)]
struct Parker {
    woken: Mutex<bool>,
    changed: Condvar,
    wakes: AtomicUsize,
}

impl Parker {
    fn wait(&self) {
        let mut woken = self.woken.lock().unwrap();
        while !*woken {
            woken = self.changed.wait(woken).unwrap();
        }
        *woken = false;
    }
}

impl Wake for Parker {
    fn wake(&self) {
        self.wakes.fetch_add(1, Ordering::Relaxed);
        *self.woken.lock().unwrap() = true;
        self.changed.notify_all();
    }
}

/// Counts how many of its kind are alive.
struct Counted(Arc<AtomicUsize>, usize);

impl Counted {
    fn new(alive: &Arc<AtomicUsize>, n: usize) -> Counted {
        alive.fetch_add(1, Ordering::Relaxed);
        Counted(alive.clone(), n)
    }
}
impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[test]
fn a_full_ring_gives_the_message_back_and_order_holds() {
    let (mut tx, mut rx) = requests(3); // rounded up to 4
    assert_eq!(tx.capacity(), 4);
    for n in 0..4 {
        assert_eq!(tx.try_push(n), Ok(()));
    }
    assert_eq!(tx.try_push(4), Err(4));
    assert!(!tx.may_go_on() && !tx.flush());
    assert_eq!(rx.pop(), Some(0));
    assert!(rx.producer_waits(), "the refusal was noted");
    assert!(!rx.producer_waits(), "and is told once");
    assert!(tx.may_go_on());
    assert!(tx.flush(), "room again");
    assert!(!tx.flush(), "told once");
    assert!(!tx.may_go_on(), "nothing is owed any more");
    assert_eq!(tx.try_push(4), Ok(()));
    let mut got = Vec::new();
    assert_eq!(rx.drain(3, |n| got.push(n)), 3);
    assert_eq!(rx.drain(3, |n| got.push(n)), 1);
    assert_eq!(got, [1, 2, 3, 4]);
    assert!(rx.is_empty() && rx.pop().is_none());
}

#[test]
fn reserved_messages_always_fit_and_are_not_overtaken() {
    let (mut tx, mut rx) = requests(1);
    tx.try_push("request 1").unwrap();
    tx.push_reserved("gone");
    tx.push_reserved("activity");
    assert_eq!(tx.waiting(), 2);
    assert_eq!(tx.try_push("request 2"), Err("request 2"));
    assert_eq!(rx.pop(), Some("request 1"));
    // There is a free slot, but it belongs to what came first.
    assert_eq!(tx.try_push("request 2"), Err("request 2"));
    assert_eq!(rx.pop(), Some("gone"));
    assert!(rx.producer_waits());
    assert!(tx.may_go_on());
    assert!(!tx.flush(), "the ring is full again with the last reserved one");
    assert_eq!(tx.waiting(), 0);
    assert_eq!(rx.pop(), Some("activity"));
    assert!(tx.flush());
    tx.try_push("request 2").unwrap();
    assert_eq!(rx.pop(), Some("request 2"));
}

#[test]
fn what_is_left_in_a_ring_is_dropped_once() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (mut tx, mut rx) = requests(4);
    for n in 0..6 {
        tx.push_reserved(Counted::new(&alive, n));
    }
    assert_eq!(rx.pop().map(|c| c.1), Some(0));
    assert_eq!(alive.load(Ordering::Relaxed), 5);
    drop(rx);
    drop(tx);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

/// A producer that sleeps when refused and a consumer that sleeps when starved, over a ring of `capacity`.
fn ping_pong(capacity: usize, reserved_every: usize) {
    let (mut tx, mut rx) = requests::<usize>(capacity);
    let (shard, core) = (Arc::new(Parker::default()), Arc::new(Parker::default()));
    let (mut shard_sleeper, shard_bell) = sleeper(shard.clone());
    let (mut core_sleeper, core_bell) = sleeper(core.clone());
    let producer = thread::spawn(move || {
        let mut n = 0;
        while n < MANY {
            tx.flush();
            while n < MANY {
                if n % reserved_every == 0 && tx.waiting() < 3 {
                    tx.push_reserved(n);
                } else if tx.try_push(n).is_err() {
                    break;
                }
                n += 1;
            }
            core_bell.ring();
            if n < MANY
                && let Some(nap) = shard_sleeper.announce(|| tx.may_go_on())
            {
                shard.wait();
                drop(nap);
            }
        }
        while tx.waiting() > 0 {
            tx.flush();
            core_bell.ring();
            if tx.waiting() > 0
                && let Some(nap) = shard_sleeper.announce(|| tx.may_go_on())
            {
                shard.wait();
                drop(nap);
            }
        }
    });
    let mut expected = 0;
    while expected < MANY {
        rx.drain(64, |n| {
            assert_eq!(n, expected);
            expected += 1;
        });
        if rx.producer_waits() {
            shard_bell.ring();
        }
        if expected < MANY
            && let Some(nap) = core_sleeper.announce(|| !rx.is_empty())
        {
            core.wait();
            drop(nap);
        }
    }
    producer.join().unwrap();
}

#[test]
fn nothing_is_lost_or_reordered_over_one_slot() {
    ping_pong(1, usize::MAX);
    ping_pong(1, 7);
}

#[test]
fn nothing_is_lost_or_reordered_over_several_slots() {
    ping_pong(8, 5);
}

#[test]
fn a_batch_is_seen_by_all_and_freed_when_the_last_has_passed() {
    let alive = Arc::new(AtomicUsize::new(0));
    let (mut publisher, mut subs) = changes::<Counted>(2, 2);
    let full = |r: Result<(), Box<Counted>>| r.is_err();
    assert!(!full(publisher.try_publish(Box::new(Counted::new(&alive, 1)))));
    assert!(!full(publisher.try_publish(Box::new(Counted::new(&alive, 2)))));
    assert!(publisher.is_full());
    assert!(full(publisher.try_publish(Box::new(Counted::new(&alive, 3)))));
    assert_eq!((publisher.behind(0), publisher.behind(1)), (2, 2));

    assert!(subs[0].next().is_none(), "nothing before the end is loaded");
    assert!(subs[0].has_more());
    assert_eq!(subs[0].load_end(), 2);
    assert_eq!(subs[0].next().map(|b| b.1), Some(1));
    assert_eq!(subs[0].next().map(|b| b.1), Some(2));
    assert_eq!(publisher.behind(0), 1, "the last one is held until asked for more");
    assert!(subs[0].next().is_none());
    assert_eq!(publisher.behind(0), 0);
    assert!(publisher.is_full(), "subscriber 1 has passed nothing");

    subs[1].load_end();
    assert_eq!(subs[1].next().map(|b| b.1), Some(1));
    assert_eq!(subs[1].next().map(|b| b.1), Some(2));
    let mut back = Vec::new();
    publisher.reclaim(|b| back.push(b.1));
    assert_eq!(back, [1]);
    assert!(!full(publisher.try_publish(Box::new(Counted::new(&alive, 3)))));
    assert!(subs[1].next().is_none(), "published after the end was loaded");
    drop(subs.remove(0));
    assert_eq!(publisher.behind(0), 0, "one that is gone holds up nothing");
    publisher.reclaim(drop);
    assert_eq!(alive.load(Ordering::Relaxed), 1);
    drop(publisher);
    assert_eq!(subs[0].load_end(), 3);
    assert_eq!(subs[0].next().map(|b| b.1), Some(3), "outlives its publisher");
    drop(subs);
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[test]
fn without_subscribers_nothing_fills_up() {
    let (mut publisher, subs) = changes::<usize>(1, 0);
    assert!(subs.is_empty());
    for n in 0..5 {
        assert!(publisher.try_publish(Box::new(n)).is_ok());
    }
}

/// One publisher, several subscribers that sleep; every batch is read by each, in order, and freed.
fn broadcast(capacity: usize, shards: usize) {
    let alive = Arc::new(AtomicUsize::new(0));
    let (mut publisher, subs) = changes::<Counted>(capacity, shards);
    let core = Arc::new(Parker::default());
    let (mut core_sleeper, core_bell) = sleeper(core.clone());
    let mut bells = Vec::new();
    let mut threads = Vec::new();
    for mut sub in subs {
        let parker = Arc::new(Parker::default());
        let (mut me, bell) = sleeper(parker.clone());
        bells.push(bell);
        let core_bell = core_bell.clone();
        threads.push(thread::spawn(move || {
            let mut expected = 0;
            while expected < MANY {
                sub.load_end();
                while let Some(batch) = sub.next() {
                    assert_eq!(batch.1, expected);
                    expected += 1;
                }
                core_bell.ring(); // it may wait for room
                if expected < MANY
                    && let Some(nap) = me.announce(|| sub.has_more())
                {
                    parker.wait();
                    drop(nap);
                }
            }
        }));
    }
    let mut n = 0;
    while n < MANY {
        if publisher.try_publish(Box::new(Counted::new(&alive, n))).is_ok() {
            n += 1;
            ring_those(&bells, |_| true);
        } else if let Some(nap) = core_sleeper.announce(|| !publisher.is_full()) {
            core.wait();
            drop(nap);
        }
    }
    for t in threads {
        t.join().unwrap();
    }
    publisher.reclaim(drop);
    assert_eq!(alive.load(Ordering::Relaxed), 0, "all passed, all freed");
}

#[test]
fn a_broadcast_over_one_slot_reaches_everyone() {
    broadcast(1, 3);
}

#[test]
fn a_broadcast_over_several_slots_reaches_everyone() {
    broadcast(8, 2);
}

#[test]
fn only_sleepers_are_woken_and_only_those_concerned() {
    let parkers: Vec<_> = (0..3).map(|_| Arc::new(Parker::default())).collect();
    let (mut sleepers, bells): (Vec<_>, Vec<_>) = parkers.iter().map(|p| sleeper(p.clone() as _)).unzip();
    let wakes = || parkers.iter().map(|p| p.wakes.load(Ordering::Relaxed)).collect::<Vec<_>>();

    ring_those(&bells, |_| true);
    bells[0].ring();
    assert_eq!(wakes(), [0, 0, 0], "nobody sleeps");
    {
        let mut naps = sleepers.iter_mut().take(2).map(|s| s.announce(|| false)).collect::<Vec<_>>();
        let mut asked = Vec::new();
        ring_those(&bells, |i| {
            asked.push(i);
            i == 1
        });
        assert_eq!(asked, [0, 1], "asked only about those who sleep");
        ring_those(&bells, |i| i == 1);
        assert_eq!(wakes(), [0, 1, 0], "woken once; the one passed over sleeps on");
        naps.clear();
    }
    bells[0].ring();
    assert_eq!(wakes(), [0, 1, 0], "it has woken by itself");
    assert!(sleepers[0].announce(|| true).is_none(), "work waits, no sleep");
    bells[0].ring();
    assert_eq!(wakes(), [0, 1, 0]);
    bells[2].ring_hard();
    assert_eq!(wakes(), [0, 1, 1], "asleep or not");
}
