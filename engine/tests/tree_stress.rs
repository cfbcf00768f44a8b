//! One writer and several readers and walkers on their own threads. What each horizon must show is worked out before
//! the threads start, so a reader checks every look.

mod tree_common;

use engine::ids::Zxid;
use engine::tree::{self, Handle, Walker};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};
use tree_common::*;

struct Plan {
    paths: Vec<String>,
    /// By transaction, from 1.
    txns: Vec<Vec<Op>>,
    /// The tree after each transaction, from 0. Unchanged nodes are shared.
    states: Vec<DullTree>,
}

fn plan(seed: u64, n: u64) -> Plan {
    let mut rng = Rng::new(seed);
    let paths = universe();
    let mut states = vec![empty_dull()];
    let mut txns = vec![];
    for z in 1..=n {
        let mut t = states.last().unwrap().clone();
        let ops: Vec<Op> = (0..=rng.below(3)).map(|_| random_op(&mut rng, &paths, z)).collect();
        for op in &ops {
            // What fails here fails there: the model test compares results, this one states.
            let _failed = apply_dull(&mut t, z, op);
        }
        states.push(t);
        txns.push(ops);
    }
    Plan { paths, txns, states }
}

/// What the change ring is in the server: the end up to which readers may read.
struct Ring {
    end: AtomicU64,
    done: AtomicBool,
}

fn reader(plan: &Plan, ring: &Ring, handle: &Handle, seed: u64) -> u64 {
    let _tell = Tell(seed);
    let mut rng = Rng::new(seed);
    let mut r = handle.reader().unwrap();
    let (mut h, mut looks) = (0, 0);
    loop {
        let done = ring.done.load(Ordering::Acquire);
        let low = r.begin_turn(Zxid(h)).0;
        let end = ring.end.load(Ordering::Acquire);
        assert!(low <= end && h <= end);
        for _ in 0..8 {
            h = rng.within(low.max(h), end);
            let t = &plan.states[h as usize];
            let v = r.at(Zxid(h));
            let path = &plan.paths[rng.below(plan.paths.len() as u64) as usize];
            let hash = v.hash(path);
            v.prefetch(hash);
            v.prefetch_node(hash);
            v.prefetch_value(hash);
            check_node(t, path, v.get_hashed(hash, path));
            check_node(t, "/", v.get("/"));
            looks += 1;
        }
        if rng.below(4) == 0 {
            assert_eq!(r.at(Zxid(h)).root().count_descendants(), plan.states[h as usize].len() as u64 - 1);
        }
        if done && h == plan.txns.len() as u64 {
            return looks;
        }
        match rng.below(3) {
            0 => {
                r.rest();
                std::thread::yield_now();
            }
            1 => h = end,
            _ => {}
        }
    }
}

fn walks(plan: &Plan, walkers: &Receiver<Walker>) -> u64 {
    let mut nodes = 0;
    for mut walker in walkers {
        let at = walker.zxid();
        let mut seen = BTreeMap::new();
        while walker.slice(3, |path, n| {
            let node = DullNode {
                data: n.data().map(<[u8]>::to_vec),
                acl: n.acl().to_vec(),
                stat: n.stat_persisted(),
            };
            seen.insert(path.to_owned(), std::sync::Arc::new(node));
            nodes += 1;
        }) {
            std::thread::yield_now();
        }
        assert_eq!(seen, plan.states[at.0 as usize], "a walk at {at}");
    }
    nodes
}

fn run(seed: u64, n: u64, readers: usize) {
    let _tell = Tell(seed);
    let plan = plan(seed, n);
    let (mut w, handle) = tree::new(seed, readers + 3);
    let ring = Ring { end: AtomicU64::new(0), done: AtomicBool::new(false) };
    let (send, receive) = sync_channel::<Walker>(1);
    std::thread::scope(|s| {
        let (plan, ring, handle) = (&plan, &ring, &handle);
        let lookers: Vec<_> = (0..readers as u64)
            .map(|i| s.spawn(move || reader(plan, ring, handle, seed * 100 + i)))
            .collect();
        let walked = s.spawn(move || walks(plan, &receive));
        let mut rng = Rng::new(seed);
        let mut unpublished = 0;
        for (i, ops) in plan.txns.iter().enumerate() {
            let z = i as u64 + 1;
            for op in ops {
                let _failed = apply_real(&mut w, z, op);
            }
            unpublished += 1;
            if rng.below(3) == 0 || z == n {
                ring.end.store(z, Ordering::Release);
                w.publish(Zxid(z));
                if rng.below(50) == 0
                    && let Some(walker) = handle.walker(Zxid(z))
                {
                    // Full: that walk does not happen.
                    drop(send.try_send(walker));
                }
                unpublished = 0;
            }
            w.collect(rng.below(20) as usize);
        }
        assert_eq!(unpublished, 0);
        drop(send);
        ring.done.store(true, Ordering::Release);
        for l in lookers {
            assert!(l.join().expect("a reader found a difference") > 0);
        }
        walked.join().expect("a walk found a difference");
    });
    assert_eq!(w.digest(), digest_of(&plan.states[n as usize]));
    while w.collect(1000).steps > 0 {}
    assert_eq!(w.retained_bytes(), 0);
}

#[test]
fn readers_and_walkers_see_exactly_their_horizon_while_the_writer_goes_on() {
    let (n, transactions, readers) = if cfg!(miri) { (1, 60, 2) } else { (6, 3000, 3) };
    for seed in seeds(n) {
        run(seed, transactions, readers);
    }
}

/// Node `i` is made by txn `i + 1`; every third one dies `LIFE` txns later (which also makes another).
const LIFE: u64 = 700;

fn lives(i: u64, h: u64) -> bool {
    i < h && (!i.is_multiple_of(3) || h < i + 1 + LIFE)
}

fn grown_path(i: u64) -> String {
    format!("/node-{i}")
}

fn grow_and_look(seed: u64, n: u64, readers: usize) {
    let _tell = Tell(seed);
    let (mut w, handle) = tree::new(seed, readers);
    let ring = Ring { end: AtomicU64::new(0), done: AtomicBool::new(false) };
    std::thread::scope(|s| {
        let look = |me: u64| {
            let mut rng = Rng::new(seed * 100 + me);
            let mut r = handle.reader().unwrap();
            let mut h = 0;
            while !ring.done.load(Ordering::Acquire) || h < n {
                r.begin_turn(Zxid(h));
                h = ring.end.load(Ordering::Acquire);
                let v = r.at(Zxid(h));
                for _ in 0..16 {
                    // Often near the end, where segments split and nodes come and go.
                    let i = if rng.below(2) == 0 {
                        rng.below(h + 10)
                    } else {
                        (h + 10).saturating_sub(rng.below(2 * LIFE))
                    };
                    let node = v.get(&grown_path(i));
                    assert_eq!(node.is_some(), lives(i, h), "node {i} at {h}");
                    if let Some(node) = node {
                        assert_eq!(node.data(), Some(&i.to_be_bytes()[..]));
                    }
                }
            }
        };
        let lookers: Vec<_> = (0..readers as u64).map(|i| s.spawn(move || look(i))).collect();
        let mut rng = Rng::new(seed);
        for i in 0..n {
            let z = i + 1;
            let open = [engine::proto::Acl::open()];
            w.create(Zxid(z), &grown_path(i), Some(&i.to_be_bytes()), &open, 0, 0, None).unwrap();
            if i >= LIFE && (i - LIFE).is_multiple_of(3) {
                w.delete(Zxid(z), &grown_path(i - LIFE)).unwrap();
            }
            if rng.below(4) == 0 || z == n {
                ring.end.store(z, Ordering::Release);
                w.publish(Zxid(z));
                w.collect(32);
            }
        }
        ring.done.store(true, Ordering::Release);
        for l in lookers {
            l.join().expect("a reader found a difference");
        }
    });
    let alive = (0..n).filter(|&i| lives(i, n)).count() as u64;
    assert_eq!(w.node_count(), alive + 5);
    assert_eq!(w.latest().root().children().count() as u64, alive + 1);
}

#[test]
fn nothing_is_lost_or_too_early_while_the_index_grows() {
    let (n, readers) = if cfg!(miri) { (900, 2) } else { (20_000, 3) };
    for seed in seeds(3) {
        grow_and_look(seed, n, readers);
    }
}
