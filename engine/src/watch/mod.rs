//! A shard's watches: which of its connections wait on which paths (fact sheet 3.10).
//!
//! Two tables, data and child; one-shot, persistent and recursive watches in them. A fired change yields the
//! connections that hear of it, in order. Not here: the READ check of an event, its encoding and delivery (`shard`);
//! what `setWatches` announces at once (`shard`, since it depends on the tree).
//! Invariants:
//! - a path is kept once, however many watch it and in whichever table, and only while somebody does;
//! - a connection is named by its slot; when it ends, [`WatchTable::remove_connection`] forgets all it had before
//!   the slot is used again;
//! - the interest filter hits every watched path.

mod interest;
mod list;

pub use interest::InterestFilter;

use crate::path;
use crate::proto::EventKind;
use hashbrown::HashTable;
use interest::Interest;
use list::{Watchers, mode};
use std::sync::Arc;

/// What a connection asks to be told of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatchKind {
    /// Once, by getData and exists.
    Data,
    /// Once, by the getChildren family.
    Child,
    /// Of the path itself, until removed (addWatch mode 0).
    Persistent,
    /// Of the path and everything below, until removed (addWatch mode 1). Never NodeChildrenChanged.
    Recursive,
}

/// The watcher type of checkWatches and removeWatches (fact sheet 2.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WatcherType {
    Children = 1,
    Data = 2,
    Any = 3,
    Persistent = 4,
    PersistentRecursive = 5,
}

impl WatcherType {
    /// `None` for numbers that no release knows: MARSHALLINGERROR.
    pub fn from_wire(n: i32) -> Option<WatcherType> {
        use WatcherType::*;
        [Children, Data, Any, Persistent, PersistentRecursive].into_iter().find(|t| *t as i32 == n)
    }

    /// The modes it names in the data and in the child table.
    fn modes(self) -> [u32; 2] {
        match self {
            WatcherType::Children => [0, mode::STANDARD],
            WatcherType::Data => [mode::STANDARD, 0],
            WatcherType::Any => [mode::ALL, mode::ALL],
            WatcherType::Persistent => [mode::PERSISTENT, mode::PERSISTENT],
            WatcherType::PersistentRecursive => [mode::RECURSIVE, 0],
        }
    }
}

/// One event for one connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Delivery {
    pub slot: u32,
    pub kind: EventKind,
}

impl Delivery {
    /// Whether the event is about the parent of the changed path (its children changed), not the path itself.
    pub fn of_parent(&self) -> bool {
        self.kind == EventKind::NodeChildrenChanged
    }
}

/// How much is watched. `wchs` shows the data table; `mntr` the watches of both.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WatchCounts {
    /// Connections with at least one data watch.
    pub data_connections: usize,
    /// Paths with at least one data watch.
    pub data_paths: usize,
    /// (connection, path) pairs in the data table.
    pub data_watches: usize,
    /// The same in the child table.
    pub child_watches: usize,
}

const DATA: usize = 0;
const CHILD: usize = 1;

#[derive(Debug, Default)]
struct Watched {
    hash: u64,
    path: Box<str>,
    tables: [Watchers; 2],
}

impl Watched {
    fn watches(&self, slot: u32) -> bool {
        self.tables.iter().any(|t| t.modes(slot) != 0)
    }
}

/// What one connection watches. `paths` holds every path it watches and may hold stale numbers (of watches that
/// fired), told apart by looking the path up; it is swept when more than half may be stale, and dropped when none is
/// live.
#[derive(Debug, Default)]
struct Watching {
    paths: Vec<u32>,
    pairs: [u32; 2],
}

/// The watches of one shard.
#[derive(Debug)]
pub struct WatchTable {
    paths: Vec<Watched>,
    free: Vec<u32>,
    index: HashTable<u32>,
    /// By slot.
    connections: Vec<Option<Box<Watching>>>,
    counts: WatchCounts,
    interest: Interest,
    /// Slots that the change being fired was announced to; empty between calls.
    told: Vec<u32>,
}

impl WatchTable {
    /// An empty table that keeps `filter` in step.
    pub fn new(filter: Arc<InterestFilter>) -> WatchTable {
        WatchTable {
            paths: vec![],
            free: vec![],
            index: HashTable::new(),
            connections: vec![],
            counts: WatchCounts::default(),
            interest: Interest::new(filter),
            told: vec![],
        }
    }

    /// What is watched in all.
    pub fn counts(&self) -> WatchCounts {
        self.counts
    }

    /// Whether nothing is watched: then no change concerns this shard.
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// Registers a watch; a second one of the same kind changes nothing.
    pub fn add(&mut self, slot: u32, kind: WatchKind, path: &str, hash: u64) {
        let id = self.find(path, hash).unwrap_or_else(|| self.insert(path, hash));
        match kind {
            WatchKind::Data => self.add_mode(id, DATA, slot, mode::STANDARD),
            WatchKind::Child => self.add_mode(id, CHILD, slot, mode::STANDARD),
            WatchKind::Persistent => {
                self.add_mode(id, DATA, slot, mode::PERSISTENT);
                self.add_mode(id, CHILD, slot, mode::PERSISTENT);
            }
            WatchKind::Recursive => self.add_mode(id, DATA, slot, mode::RECURSIVE),
        }
    }

    /// Whether the connection has a watch of that type on that path.
    pub fn contains(&self, slot: u32, of: WatcherType, path: &str, hash: u64) -> bool {
        let Some(id) = self.find(path, hash) else { return false };
        let tables = &self.paths[id as usize].tables;
        (0..2).any(|t| tables[t].modes(slot) & of.modes()[t] != 0)
    }

    /// Removes the connection's watches of that type on that path; whether there was one.
    pub fn remove(&mut self, slot: u32, of: WatcherType, path: &str, hash: u64) -> bool {
        let Some(id) = self.find(path, hash) else { return false };
        let mut removed = false;
        for table in [DATA, CHILD] {
            removed |= self.remove_modes(id, table, slot, of.modes()[table]);
        }
        self.drop_if_unwatched(id);
        self.sweep(slot);
        removed
    }

    /// Forgets everything a connection watched.
    pub fn remove_connection(&mut self, slot: u32) {
        let Some(watching) = self.connections.get_mut(slot as usize).and_then(Option::take) else { return };
        // The pairs are taken off as the modes go; an empty record stands in meanwhile.
        self.connections[slot as usize] = Some(Box::new(Watching { paths: vec![], pairs: watching.pairs }));
        for id in watching.paths {
            for table in [DATA, CHILD] {
                self.remove_modes(id, table, slot, mode::ALL);
            }
            self.drop_if_unwatched(id);
        }
        self.connections[slot as usize] = None;
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        for slot in 0..self.connections.len() {
            self.remove_connection(slot as u32);
        }
    }

    /// The paths that a connection watches in the data table, in no order.
    pub fn data_paths_of(&self, slot: u32) -> Vec<&str> {
        let Some(Some(watching)) = self.connections.get(slot as usize) else { return vec![] };
        let mut ids = watching.paths.clone();
        ids.sort_unstable();
        ids.dedup();
        let watched = ids.iter().map(|id| &self.paths[*id as usize]);
        watched.filter(|w| w.tables[DATA].modes(slot) != 0).map(|w| &*w.path).collect()
    }

    /// Fires the watches of one change: appends to `out` who hears what, in the order in which it must be sent, and
    /// drops the one-shot watches among them. `hash_of` hashes the path's ancestors (called only while a recursive
    /// watch exists).
    pub fn fire(
        &mut self,
        kind: EventKind,
        path: &str,
        path_hash: u64,
        parent_hash: u64,
        hash_of: impl Fn(&str) -> u64,
        out: &mut Vec<Delivery>,
    ) {
        // The common case: nobody here watches anything that this change touches.
        if self.index.is_empty() {
            return;
        }
        let mut told = std::mem::take(&mut self.told);
        let own = self.find(path, path_hash);
        if let Some(id) = own {
            self.trigger(id, DATA, &mut told);
        }
        if self.interest.recursive() > 0 {
            self.recursive_above(path, hash_of, &mut told);
        }
        out.extend(told.iter().map(|slot| Delivery { slot: *slot, kind }));
        if kind == EventKind::NodeDeleted
            && let Some(id) = own
        {
            let from = told.len();
            self.trigger(id, CHILD, &mut told);
            let (heard, child) = told.split_at(from);
            let not_yet = child.iter().filter(|slot| heard.binary_search(slot).is_err());
            out.extend(not_yet.map(|slot| Delivery { slot: *slot, kind }));
        }
        if let Some(id) = own {
            self.drop_if_unwatched(id);
        }
        if kind != EventKind::NodeDataChanged
            && let Some(parent) = path::parent(path)
            && let Some(id) = self.find(parent, parent_hash)
        {
            told.clear();
            self.trigger(id, CHILD, &mut told);
            self.drop_if_unwatched(id);
            let kind = EventKind::NodeChildrenChanged;
            out.extend(told.iter().map(|slot| Delivery { slot: *slot, kind }));
        }
        told.clear();
        self.told = told;
    }

    /// Adds those who watch one of the path's ancestors recursively; `told` stays sorted and without doubles.
    fn recursive_above(&self, path: &str, hash_of: impl Fn(&str) -> u64, told: &mut Vec<u32>) {
        let mut at = path;
        while let Some(above) = path::parent(at) {
            if let Some(id) = self.find(above, hash_of(above)) {
                let data = &self.paths[id as usize].tables[DATA];
                told.extend(data.iter().filter(|(_, m)| m & mode::RECURSIVE != 0).map(|(slot, _)| slot));
            }
            at = above;
        }
        told.sort_unstable();
        told.dedup();
    }

    /// Appends everyone in one list of a path, in the order of slots, and ends the one-shot watches.
    fn trigger(&mut self, id: u32, table: usize, told: &mut Vec<u32>) {
        let watchers = &mut self.paths[id as usize].tables[table];
        if watchers.is_empty() {
            return;
        }
        told.extend(watchers.iter().map(|(slot, _)| slot));
        let mut left = vec![];
        watchers.take_standard(|slot| left.push(slot));
        if watchers.is_empty() && table == DATA {
            self.counts.data_paths -= 1;
        }
        for slot in left {
            self.unpair(slot, table);
            self.sweep(slot);
        }
    }

    fn find(&self, path: &str, hash: u64) -> Option<u32> {
        let same = |id: &u32| {
            let w = &self.paths[*id as usize];
            w.hash == hash && &*w.path == path
        };
        self.index.find(hash, same).copied()
    }

    fn insert(&mut self, path: &str, hash: u64) -> u32 {
        let watched = Watched { hash, path: path.into(), tables: Default::default() };
        let id = match self.free.pop() {
            Some(id) => {
                self.paths[id as usize] = watched;
                id
            }
            None => {
                self.paths.push(watched);
                (self.paths.len() - 1) as u32
            }
        };
        let paths = &self.paths;
        self.index.insert_unique(hash, id, |id| paths[*id as usize].hash);
        self.interest.add(hash);
        id
    }

    fn drop_if_unwatched(&mut self, id: u32) {
        let watched = &self.paths[id as usize];
        if watched.tables.iter().any(|t| !t.is_empty()) {
            return;
        }
        let hash = watched.hash;
        // A stale number may point at a free place, which the index does not hold.
        let Ok(entry) = self.index.find_entry(hash, |other| *other == id) else { return };
        entry.remove();
        self.interest.remove(hash);
        self.paths[id as usize] = Watched::default();
        self.free.push(id);
    }

    fn add_mode(&mut self, id: u32, table: usize, slot: u32, modes: u32) {
        let watched = &mut self.paths[id as usize];
        let known = watched.watches(slot);
        let was_empty = watched.tables[table].is_empty();
        let before = watched.tables[table].add(slot, modes);
        if modes & !before & mode::RECURSIVE != 0 {
            self.interest.add_recursive();
        }
        if was_empty && table == DATA {
            self.counts.data_paths += 1;
        }
        if self.connections.len() <= slot as usize {
            self.connections.resize_with(slot as usize + 1, || None);
        }
        let watching = self.connections[slot as usize].get_or_insert_default();
        if !known {
            watching.paths.push(id);
        }
        if before == 0 {
            watching.pairs[table] += 1;
            if table == DATA {
                self.counts.data_watches += 1;
                self.counts.data_connections += usize::from(watching.pairs[DATA] == 1);
            } else {
                self.counts.child_watches += 1;
            }
        }
        self.sweep(slot);
    }

    fn remove_modes(&mut self, id: u32, table: usize, slot: u32, modes: u32) -> bool {
        let watchers = &mut self.paths[id as usize].tables[table];
        let before = watchers.remove(slot, modes);
        if before & modes == 0 {
            return false;
        }
        if before & modes & mode::RECURSIVE != 0 {
            self.interest.remove_recursive();
        }
        if before & !modes == 0 {
            if table == DATA && watchers.is_empty() {
                self.counts.data_paths -= 1;
            }
            self.unpair(slot, table);
        }
        true
    }

    /// A connection no longer watches some path in that table.
    fn unpair(&mut self, slot: u32, table: usize) {
        let Some(watching) = &mut self.connections[slot as usize] else { return };
        watching.pairs[table] -= 1;
        if table == DATA {
            self.counts.data_watches -= 1;
            self.counts.data_connections -= usize::from(watching.pairs[DATA] == 0);
        } else {
            self.counts.child_watches -= 1;
        }
    }

    /// Drops stale numbers of a connection once they may be more than half: amortised constant work per watch.
    fn sweep(&mut self, slot: u32) {
        let Some(Some(watching)) = self.connections.get_mut(slot as usize) else { return };
        let live = (watching.pairs[DATA] + watching.pairs[CHILD]) as usize;
        if live == 0 {
            self.connections[slot as usize] = None;
        } else if watching.paths.len() > 2 * live + 16 {
            let paths = &self.paths;
            watching.paths.retain(|id| paths[*id as usize].watches(slot));
            watching.paths.sort_unstable();
            watching.paths.dedup();
            watching.paths.shrink_to(2 * live + 16);
        }
    }
}

#[cfg(test)]
mod tests;
