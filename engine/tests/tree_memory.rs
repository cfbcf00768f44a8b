//! What the tree asks from the allocator: bytes per znode, and every byte given back.
#![allow(unsafe_code)] // A counting allocator cannot be written without.

use engine::ids::Zxid;
use engine::proto::{Acl, Id};
use engine::tree::{self, Writer};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// Counts what the present thread has asked for and not given back.
struct Counting;

thread_local! {
    static REQUESTED: Cell<i64> = const { Cell::new(0) };
    static IN_CLASSES: Cell<i64> = const { Cell::new(0) };
}

/// The size classes of mimalloc: up to 64 bytes every 8, then four to each doubling.
fn class(size: usize) -> i64 {
    let words = size.div_ceil(8).max(1);
    if words <= 8 {
        return words as i64 * 8;
    }
    let step = 1usize << ((words - 1).ilog2() - 2);
    (words.next_multiple_of(step) * 8) as i64
}

fn count(size: usize, sign: i64) {
    REQUESTED.with(|c| c.set(c.get() + sign * size as i64));
    IN_CLASSES.with(|c| c.set(c.get() + sign * class(size)));
}

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 1);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(layout.size(), -1);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

fn requested() -> i64 {
    REQUESTED.with(Cell::get)
}

fn in_classes() -> i64 {
    IN_CLASSES.with(Cell::get)
}

fn settle(w: &mut Writer) {
    while w.collect(10_000).steps > 0 {}
}

const LEAVES: u64 = if cfg!(miri) { 300 } else { 40_000 };

/// Leaves with 13-byte names and 100 bytes of data, 1,000 to a parent. Returns the last zxid.
fn grow(w: &mut Writer, owner: i64) -> u64 {
    let mut z = 0;
    for i in 0..LEAVES {
        let parent = format!("/part{:05}", i / 1000);
        if i % 1000 == 0 {
            z += 1;
            w.create(Zxid(z), &parent, None, &[Acl::open()], 0, 0, None).unwrap();
        }
        z += 1;
        let path = format!("{parent}/node-{i:08}");
        w.create(Zxid(z), &path, Some(&[7; 100]), &[Acl::open()], owner, 0, None).unwrap();
        if i % 64 == 0 {
            w.publish(Zxid(z));
            w.collect(1000);
        }
    }
    w.publish(Zxid(z));
    settle(w);
    z
}

#[test]
fn a_leaf_is_within_its_budget() {
    let before = in_classes();
    let (mut w, _h) = tree::new(1, 2);
    grow(&mut w, 0);
    let per_leaf = (in_classes() - before) as f64 / LEAVES as f64;
    let index = w.index_bytes() as f64 / LEAVES as f64;
    println!("{per_leaf:.1} bytes per leaf, of that {index:.1} for the index");
    if !cfg!(miri) {
        assert!(
            per_leaf < 210.0,
            "{per_leaf} bytes per leaf: the budget is 220, with the allocator's own books"
        );
        assert!(
            (10.0..16.0).contains(&index),
            "{index} bytes of index per leaf, whatever the number of leaves"
        );
    }
}

#[test]
fn an_owner_costs_only_who_has_one() {
    let cost = |owner| {
        let before = requested();
        let (mut w, _h) = tree::new(1, 2);
        grow(&mut w, owner);
        requested() - before
    };
    let (without, with) = (cost(0), cost(77));
    // Eight bytes, and four to align them.
    assert_eq!(with - without, LEAVES as i64 * 12);
}

#[test]
fn occupancy_of_the_index_does_not_swing() {
    if cfg!(miri) {
        return;
    }
    let (mut w, _h) = tree::new(1, 2);
    let (mut low, mut high) = (f64::MAX, 0f64);
    for i in 0..100_000u64 {
        w.create(Zxid(i + 1), &format!("/{i}"), None, &[Acl::open()], 0, 0, None).unwrap();
        if i % 500 == 0 {
            w.publish(Zxid(i + 1));
            settle(&mut w);
            if i >= 20_000 {
                let per = w.index_bytes() as f64 / i as f64;
                (low, high) = (low.min(per), high.max(per));
            }
        }
    }
    println!("{low:.2} to {high:.2} bytes of index per node");
    assert!(high < 15.0 && low > 11.0, "{low} to {high} bytes of index per node");
}

#[test]
fn everything_is_given_back() {
    let before = requested();
    {
        let (mut w, h) = tree::new(1, 4);
        let mut z = grow(&mut w, 0);
        let mut reader = h.reader().unwrap();
        let walker = h.walker(Zxid(z)).unwrap();
        reader.begin_turn(Zxid(z));
        let kept = requested();
        for i in 0..LEAVES.min(5000) {
            z += 1;
            let path = format!("/part{:05}/node-{i:08}", i / 1000);
            let acl = [Acl { perms: 1, id: Id::new("digest", &format!("u{}:x", i % 100)) }];
            match i % 5 {
                0 => drop(w.delete(Zxid(z), &path).unwrap()),
                1 => drop(w.set_acl(Zxid(z), &path, &acl, 1).unwrap()),
                2 => {
                    w.delete(Zxid(z), &path).unwrap();
                    w.create(Zxid(z), &path, None, &acl, 5, 0, None).unwrap();
                }
                _ => drop(w.set_data(Zxid(z), &path, Some(&[1; 10]), 1, 0).unwrap()),
            }
            w.publish(Zxid(z));
            w.collect(3);
            if i % 1000 == 999 {
                reader.begin_turn(Zxid(z));
            }
        }
        assert!(requested() > kept && w.retained_bytes() > 0);
        // Retained things of every kind are still there when the writer goes, and readers outlive it.
        drop(w);
        assert!(reader.at(Zxid(z)).get("/part00000").is_some());
        drop((walker, reader, h));
    }
    assert_eq!(requested(), before, "bytes were lost");
}

#[test]
fn churn_leaves_nothing_behind() {
    let (mut w, h) = tree::new(1, 2);
    let mut reader = h.reader().unwrap();
    let rounds = if cfg!(miri) { 3 } else { 30 };
    let mut z = 0;
    let mut sizes = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        for i in 0..500 {
            z += 1;
            w.create(Zxid(z), &format!("/n{i}-{z}"), Some(&[1; 50]), &[Acl::open()], 0, 0, None).unwrap();
        }
        let names: Vec<String> = w.latest().root().children().map(|c| format!("/{c}")).collect();
        for path in names.iter().filter(|p| *p != "/zookeeper") {
            z += 1;
            w.delete(Zxid(z), path).unwrap();
        }
        w.publish(Zxid(z));
        reader.begin_turn(Zxid(z));
        reader.rest();
        settle(&mut w);
        assert_eq!(w.retained_bytes(), 0);
        sizes.push(requested());
    }
    // The queues keep a block each, and the index the segments it once needed.
    let (first, last) = (sizes[rounds / 3], sizes[rounds - 1]);
    assert!(last <= first, "from {first} to {last} bytes");
}
