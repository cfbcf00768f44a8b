//! The tree against a dull one: random transactions, three readers at their own horizons, walkers, small collections.

mod tree_common;

use engine::ids::Zxid;
use engine::tree::{self, Reader, Walker};
use std::collections::BTreeMap;
use tree_common::*;

struct Looker {
    reader: Reader,
    /// The lowest horizon it may read at; `None` while it rests.
    low: Option<u64>,
}

struct Walk {
    walker: Walker,
    seen: DullTree,
}

struct Run {
    rng: Rng,
    paths: Vec<String>,
    /// The tree after each transaction that somebody may still look at.
    history: BTreeMap<u64, DullTree>,
    now: DullTree,
    z: u64,
    published: u64,
}

impl Run {
    fn transaction(&mut self, w: &mut tree::Writer) {
        self.z += 1 + self.rng.below(2);
        for _ in 0..=self.rng.below(4) {
            let op = random_op(&mut self.rng, &self.paths, self.z);
            let want = apply_dull(&mut self.now, self.z, &op);
            assert_eq!(apply_real(w, self.z, &op), want, "{op:?}");
        }
        self.history.insert(self.z, self.now.clone());
        assert_eq!(w.digest(), digest_of(&self.now));
    }

    /// The tree as it was at `h`.
    fn at(&self, h: u64) -> &DullTree {
        self.history.range(..=h).next_back().expect("kept").1
    }

    fn look(&mut self, l: &mut Looker) {
        match (l.low, self.rng.below(6)) {
            (Some(_), 0) => {
                l.reader.rest();
                l.low = None;
            }
            (None, 0..=2) => {}
            (low, 1..=3) => {
                // A sleeper wakes at the horizon it went to sleep with: any one.
                let h = self.rng.within(low.unwrap_or(0), self.published);
                let from = l.reader.begin_turn(Zxid(h)).0;
                assert_eq!(from, if low.is_some() { h } else { self.published });
                l.low = Some(from);
            }
            _ => {}
        }
        if let Some(low) = l.low {
            let h = self.rng.within(low, self.published);
            check_all(self.at(h), l.reader.at(Zxid(h)), &self.paths);
        }
    }

    fn walk(&mut self, walk: &mut Option<Walk>, h: &tree::Handle) {
        let Some(w) = walk else {
            if self.rng.below(20) == 0 {
                let walker = h.walker(Zxid(self.published)).expect("nothing newer is published");
                *walk = Some(Walk { walker, seen: DullTree::new() });
            }
            return;
        };
        let seen = &mut w.seen;
        let more = w.walker.slice(1 + self.rng.below(4) as usize, |path, n| {
            let node = DullNode {
                data: n.data().map(<[u8]>::to_vec),
                acl: n.acl().to_vec(),
                stat: n.stat_persisted(),
            };
            assert!(path == "/" || seen.contains_key(&parent_of(path).unwrap()), "a child before its parent");
            assert!(seen.insert(path.to_owned(), node.into()).is_none(), "{path} twice");
        });
        if !more {
            assert_eq!(w.seen, *self.at(w.walker.zxid().0));
            *walk = None;
        }
    }
}

fn run(seed: u64, transactions: u64) {
    let _tell = Tell(seed);
    let (mut w, h) = tree::new(seed, 6);
    let now = empty_dull();
    let mut run = Run {
        rng: Rng::new(seed),
        paths: universe(),
        history: BTreeMap::from([(0, now.clone())]),
        now,
        z: 0,
        published: 0,
    };
    let mut lookers: Vec<Looker> =
        (0..3).map(|_| Looker { reader: h.reader().unwrap(), low: None }).collect();
    let mut walks: Vec<Option<Walk>> = vec![None, None];
    for _ in 0..transactions {
        run.transaction(&mut w);
        if run.rng.below(3) > 0 {
            run.published = run.z;
            w.publish(Zxid(run.z));
        }
        for l in &mut lookers {
            run.look(l);
        }
        for walk in &mut walks {
            run.walk(walk, &h);
        }
        w.collect(run.rng.below(12) as usize);
        let lows = lookers.iter().filter_map(|l| l.low);
        let walking = walks.iter().flatten().map(|w| w.walker.zxid().0);
        let oldest = lows.chain(walking).min().unwrap_or(run.published).min(run.published);
        let keep = run.history.range(..=oldest).next_back().map_or(0, |(z, _)| *z);
        run.history = run.history.split_off(&keep);
    }
    check_all(&run.now, w.latest(), &run.paths);
    let size: usize = run.now.iter().map(|(p, n)| p.len() + n.data.as_ref().map_or(0, Vec::len)).sum();
    assert_eq!(w.approximate_data_size(), size as u64);
    assert_eq!(w.node_count(), run.now.len() as u64 + 1);
    drop((lookers, walks));
    w.publish(Zxid(run.z));
    while w.collect(1000).steps > 0 {}
    assert_eq!(w.retained_bytes(), 0);
    check_all(&run.now, w.latest(), &run.paths);
}

#[test]
fn the_tree_is_the_dull_one_at_every_horizon() {
    let (n, transactions) = if cfg!(miri) { (1, 40) } else { (40, 400) };
    for seed in seeds(n) {
        run(seed, transactions);
    }
}
