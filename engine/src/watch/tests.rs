//! The table beside a dull model, over seeded random operations, and the rules that deserve a name.

use super::*;
use std::collections::{BTreeMap, BTreeSet};

fn hash_of(path: &str) -> u64 {
    // Few distinct values, so that the path itself must decide.
    path.len() as u64 % 3
}

fn table() -> (WatchTable, Arc<InterestFilter>) {
    let filter = Arc::new(InterestFilter::default());
    (WatchTable::new(filter.clone()), filter)
}

fn add(t: &mut WatchTable, slot: u32, kind: WatchKind, path: &str) {
    t.add(slot, kind, path, hash_of(path));
}

fn fire(t: &mut WatchTable, kind: EventKind, path: &str) -> Vec<(u32, EventKind)> {
    let mut out = vec![];
    let parent_hash = path::parent(path).map_or(0, hash_of);
    t.fire(kind, path, hash_of(path), parent_hash, hash_of, &mut out);
    assert!(out.iter().all(|d| d.of_parent() == (d.kind == EventKind::NodeChildrenChanged)));
    out.into_iter().map(|d| (d.slot, d.kind)).collect()
}

use EventKind::{NodeChildrenChanged, NodeCreated, NodeDataChanged, NodeDeleted};
use WatchKind::{Child, Data, Persistent, Recursive};

#[test]
fn a_delete_tells_a_connection_once_though_it_watches_in_both_tables() {
    let (mut t, _) = table();
    add(&mut t, 1, Data, "/a");
    add(&mut t, 1, Child, "/a");
    add(&mut t, 2, Child, "/a");
    add(&mut t, 3, Child, "/");
    assert_eq!(
        fire(&mut t, NodeDeleted, "/a"),
        [(1, NodeDeleted), (2, NodeDeleted), (3, NodeChildrenChanged)]
    );
    assert_eq!(t.counts(), WatchCounts::default());
    assert!(fire(&mut t, NodeDeleted, "/a").is_empty());
}

#[test]
fn one_event_per_table_however_many_kinds_match() {
    let (mut t, filter) = table();
    for kind in [Data, Persistent, Recursive] {
        add(&mut t, 1, kind, "/a");
    }
    add(&mut t, 1, Recursive, "/");
    assert!(filter.hits(12345), "a recursive watch opens the filter");
    assert_eq!(fire(&mut t, NodeDataChanged, "/a"), [(1, NodeDataChanged)]);
    assert_eq!(fire(&mut t, NodeCreated, "/a/b"), [(1, NodeCreated), (1, NodeChildrenChanged)]);
    assert_eq!(fire(&mut t, NodeDataChanged, "/a/b"), [(1, NodeDataChanged)]);
    assert!(!t.contains(1, WatcherType::Data, "/a", hash_of("/a")), "the one-shot one is gone");
    assert!(t.remove(1, WatcherType::PersistentRecursive, "/", hash_of("/")));
    assert!(t.remove(1, WatcherType::Any, "/a", hash_of("/a")));
    assert!(!t.remove(1, WatcherType::Any, "/a", hash_of("/a")));
    assert!(!filter.hits(hash_of("/a")));
}

#[test]
fn firing_over_and_over_keeps_memory_bounded() {
    let (mut t, _) = table();
    add(&mut t, 7, Persistent, "/keep");
    for i in 0..10_000 {
        let path = format!("/p{}", i % 100);
        add(&mut t, 7, Data, &path);
        assert_eq!(fire(&mut t, NodeDataChanged, &path), [(7, NodeDataChanged)]);
    }
    assert!(t.connections[7].as_ref().unwrap().paths.len() < 64);
    assert!(t.paths.len() < 8);
    assert_eq!(t.data_paths_of(7), ["/keep"]);
    t.remove_connection(7);
    assert_eq!(t.counts(), WatchCounts::default());
    assert!(t.index.is_empty());
}

/// (table, path, slot) -> modes.
#[derive(Default)]
struct Model(BTreeMap<(usize, String, u32), u32>);

impl Model {
    fn add(&mut self, slot: u32, kind: WatchKind, path: &str) {
        let (tables, m): (&[usize], u32) = match kind {
            Data => (&[DATA], mode::STANDARD),
            Child => (&[CHILD], mode::STANDARD),
            Persistent => (&[DATA, CHILD], mode::PERSISTENT),
            Recursive => (&[DATA], mode::RECURSIVE),
        };
        for t in tables {
            *self.0.entry((*t, path.into(), slot)).or_default() |= m;
        }
    }
    fn remove(&mut self, slot: u32, of: WatcherType, path: &str) -> bool {
        let mut found = false;
        for t in [DATA, CHILD] {
            if let Some(m) = self.0.get_mut(&(t, path.into(), slot)) {
                found |= *m & of.modes()[t] != 0;
                *m &= !of.modes()[t];
            }
        }
        self.0.retain(|_, m| *m != 0);
        found
    }
    fn hears(&mut self, table: usize, path: &str) -> BTreeSet<u32> {
        let mut who = BTreeSet::new();
        for ((t, p, slot), m) in &mut self.0 {
            let above = p == "/" || path.starts_with(&format!("{p}/"));
            if *t == table && (p == path || above && *m & mode::RECURSIVE != 0) {
                who.insert(*slot);
            }
            if *t == table && p == path {
                *m &= !mode::STANDARD;
            }
        }
        self.0.retain(|_, m| *m != 0);
        who
    }
    fn fire(&mut self, kind: EventKind, path: &str) -> Vec<(u32, EventKind)> {
        let own = self.hears(DATA, path);
        let mut out: Vec<_> = own.iter().map(|s| (*s, kind)).collect();
        if kind == NodeDeleted {
            out.extend(self.hears(CHILD, path).difference(&own).map(|s| (*s, kind)));
        }
        if kind != NodeDataChanged
            && let Some(parent) = path::parent(path)
        {
            out.extend(self.hears(CHILD, parent).into_iter().map(|s| (s, NodeChildrenChanged)));
        }
        out
    }
    fn counts(&self) -> WatchCounts {
        let data: Vec<_> = self.0.keys().filter(|k| k.0 == DATA).collect();
        WatchCounts {
            data_connections: data.iter().map(|k| k.2).collect::<BTreeSet<_>>().len(),
            data_paths: data.iter().map(|k| &k.1).collect::<BTreeSet<_>>().len(),
            data_watches: data.len(),
            child_watches: self.0.len() - data.len(),
        }
    }
}

#[test]
fn agrees_with_the_model() {
    const PATHS: [&str; 9] = ["/", "/a", "/b", "/a/a", "/a/b", "/a/a/a", "/b/c", "/ab", "/a/a/b"];
    for seed in 1..40u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut draw = |n: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 11) as usize % n
        };
        let (mut t, filter) = table();
        let mut model = Model::default();
        for _ in 0..2_000 {
            let path = PATHS[draw(PATHS.len())];
            let slot = draw(9) as u32;
            let of = WatcherType::from_wire(1 + draw(5) as i32).unwrap();
            match draw(12) {
                0..=5 => {
                    let kind = [Data, Data, Child, Persistent, Recursive][draw(5)];
                    add(&mut t, slot, kind, path);
                    model.add(slot, kind, path);
                    assert!(filter.hits(hash_of(path)));
                }
                6..=8 => {
                    let kind = [NodeCreated, NodeDeleted, NodeDataChanged][draw(3)];
                    assert_eq!(fire(&mut t, kind, path), model.fire(kind, path), "seed {seed}");
                }
                9 => {
                    let had = t.contains(slot, of, path, hash_of(path));
                    assert_eq!(t.remove(slot, of, path, hash_of(path)), had);
                    assert_eq!(model.remove(slot, of, path), had);
                }
                10 if draw(4) == 0 => {
                    t.remove_connection(slot);
                    model.0.retain(|k, _| k.2 != slot);
                }
                _ => {
                    let mut paths = t.data_paths_of(slot);
                    paths.sort_unstable();
                    let want = model.0.keys().filter(|k| k.0 == DATA && k.2 == slot).map(|k| &*k.1);
                    assert_eq!(paths, want.collect::<Vec<_>>());
                }
            }
            assert_eq!(t.counts(), model.counts(), "seed {seed}");
        }
        t.clear();
        assert_eq!((t.counts(), t.index.len()), (WatchCounts::default(), 0));
        assert!(!(0..4).any(|h| filter.hits(h)), "an empty table needs no wake-up");
    }
}
