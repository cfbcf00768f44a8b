//! The index alone, against std's map: growth, tombstones, replacement, and hashes that cannot be told apart.

use super::index::{Index, Keyed, Replaced, free_directory};
use std::collections::HashMap;
use std::ptr::NonNull;

struct Item {
    hash: u64,
    name: u64,
}

// SAFETY: the hash never changes.
unsafe impl Keyed for Item {
    unsafe fn key(item: NonNull<Item>) -> u32 {
        // SAFETY: by the trait's contract.
        (unsafe { item.as_ref() }.hash >> 32) as u32
    }
}

/// The index and the map beside it, one thread.
struct Both {
    index: Index<Item>,
    map: HashMap<u64, NonNull<Item>>,
    items: Vec<NonNull<Item>>,
}

impl Both {
    fn new() -> Both {
        Both { index: Index::new(), map: HashMap::new(), items: vec![] }
    }

    fn item(&mut self, hash: u64, name: u64) -> NonNull<Item> {
        let item = NonNull::from(Box::leak(Box::new(Item { hash, name })));
        self.items.push(item);
        item
    }

    fn insert(&mut self, hash: u64, name: u64) {
        let item = self.item(hash, name);
        let mut out = vec![];
        // SAFETY: one thread, and items live as long as `self`.
        unsafe {
            match self.index.find(hash, |i| i.as_ref().name == name) {
                Some(found) => self.index.replace(&found, item),
                None => self.index.insert(hash, item, &mut out),
            }
            free(out);
        }
        self.map.insert(name, item);
    }

    fn remove(&mut self, hash: u64, name: u64) {
        // SAFETY: as above.
        unsafe {
            let found = self.index.find(hash, |i| i.as_ref().name == name);
            assert_eq!(found.is_some(), self.map.contains_key(&name));
            if let Some(found) = found {
                let same = self.index.find_item((hash >> 32) as u32, found.item).expect("it is there");
                self.index.remove(&same);
                self.map.remove(&name);
            }
        }
    }

    fn check(&self, hash: u64, name: u64) {
        // SAFETY: as above.
        let found = unsafe { self.index.find(hash, |i| i.as_ref().name == name) };
        assert_eq!(found.map(|f| f.item), self.map.get(&name).copied(), "name {name}");
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        // SAFETY: nobody else looks.
        unsafe {
            self.index.free();
            self.items.drain(..).for_each(|i| drop(Box::from_raw(i.as_ptr())));
        }
    }
}

unsafe fn free(out: Vec<Replaced<Item>>) {
    for r in out {
        // SAFETY: one thread, which has just replaced them.
        unsafe {
            match r {
                Replaced::Segment(s) => s.free(),
                Replaced::Directory(d) => free_directory(d),
            }
        }
    }
}

fn mix(n: u64) -> u64 {
    let x = (n ^ 0x5bd1_e995).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) ^ (x >> 41)
}

#[test]
fn the_index_is_a_map() {
    let names = if cfg!(miri) { 900 } else { 30_000 };
    let mut b = Both::new();
    let mut x = 1u64;
    for round in 0..names * 4 {
        x = mix(x.wrapping_add(round));
        let name = x % names;
        // First mostly in, then mostly out: growth, then tombstones.
        let out = if round < names * 2 { 4 } else { 11 };
        if (x >> 40) % 16 < out {
            b.remove(mix(name), name)
        } else {
            b.insert(mix(name), name)
        }
        b.check(mix(x % 31), x % 31);
    }
    (0..names).for_each(|n| b.check(mix(n), n));
    (0..names).for_each(|n| b.remove(mix(n), n));
    (0..names).for_each(|n| b.check(mix(n), n));
}

#[test]
fn churn_does_not_grow_it() {
    let mut b = Both::new();
    let rounds = if cfg!(miri) { 2_000 } else { 200_000 };
    let live = 400;
    for n in 0..live {
        b.insert(mix(n), n);
    }
    // SAFETY: one thread.
    let before = unsafe { b.index.bytes() };
    for n in live..rounds {
        b.remove(mix(n - live), n - live);
        b.insert(mix(n), n);
    }
    (0..rounds).step_by(97).for_each(|n| b.check(mix(n), n));
    // SAFETY: one thread.
    let after = unsafe { b.index.bytes() };
    // A few splits come from chance; growth with the number of entries ever made would be a hundredfold.
    assert!(after <= before * 4, "from {before} to {after} bytes");
}

#[test]
fn equal_hashes_are_told_apart_by_what_they_stand_for() {
    let names = if cfg!(miri) { 40 } else { 300 };
    let hash = 0xabcd_0123_4567_89ab;
    let mut b = Both::new();
    (0..names).for_each(|n| b.insert(hash, n));
    (0..names).for_each(|n| b.check(hash, n));
    (0..names).step_by(2).for_each(|n| b.remove(hash, n));
    (0..names).for_each(|n| b.check(hash, n));
}
