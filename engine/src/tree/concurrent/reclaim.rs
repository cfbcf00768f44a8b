//! Giving memory back: predecessors, dead nodes, replaced index parts, unused ACL ids (engine/DESIGN.md section 2).
//!
//! Not here: the fences (`floors`), who produces garbage (`store`).
//! Invariants:
//! - `pending` and `parked` are each in zxid order, children before their parents;
//! - everything in `parked` is needed by a walker of `parked_pins`, and older than everything in `pending`;
//! - `open`, `waiting` and `ready` hold what is unlinked: nothing in the tree leads there any more.

use super::Shared;
use super::acl_table::{List, free_list};
use super::floors::Marks;
use super::index::{Directory, Replaced, Segment, free_directory};
use super::node::{ChildVersion, DataVersion, Node};
use super::primitive::{AtomicPtr, Ordering};
use super::queue::Queue;
use super::store::Store;
use super::view::has_path;
use super::{NodeView, View};
use crate::tree::hash::PathHash;
use std::collections::VecDeque;
use std::mem::{size_of, size_of_val};
use std::ptr::NonNull;

/// Replaced or dead at `zxid`, but still linked.
pub(super) struct Pending {
    pub zxid: u64,
    pub what: What,
}

#[derive(Clone, Copy)]
pub(super) enum What {
    /// `old` was replaced by a newer data version of `node`.
    Data {
        node: NonNull<Node>,
        old: NonNull<DataVersion>,
    },
    /// `old` was replaced by a newer child version of `node`.
    Child {
        node: NonNull<Node>,
        old: NonNull<ChildVersion>,
    },
    Dead(NonNull<Node>),
}

/// Unlinked: to be freed after a grace period.
pub(super) enum Garbage {
    Node(NonNull<Node>),
    Data(NonNull<DataVersion>),
    Child(NonNull<ChildVersion>),
    Segment(Segment<Node>),
    Directory(NonNull<Directory<Node>>),
    /// An id that nothing carries any more, and its list.
    Acl(u32, NonNull<List>),
}

// SAFETY: garbage is owned by whoever holds it; nothing in it is tied to a thread.
unsafe impl Send for Garbage {}

impl Garbage {
    /// # Safety
    /// Nobody can reach it any more.
    pub(super) unsafe fn free(self) {
        // SAFETY: by the contract.
        unsafe {
            match self {
                Garbage::Node(n) => Node::free(n),
                Garbage::Data(d) => DataVersion::free(d),
                Garbage::Child(c) => ChildVersion::free(c),
                Garbage::Segment(s) => s.free(),
                Garbage::Directory(d) => free_directory(d),
                Garbage::Acl(_, list) => free_list(list),
            }
        }
    }

    fn bytes(&self) -> usize {
        // SAFETY: garbage is alive until it is freed, and this is the writer.
        unsafe {
            match self {
                Garbage::Node(n) => n.as_ref().owned_bytes(),
                Garbage::Data(d) => d.as_ref().bytes(),
                Garbage::Child(_) => size_of::<ChildVersion>(),
                Garbage::Segment(s) => s.bytes(),
                Garbage::Directory(d) => d.as_ref().bytes(),
                Garbage::Acl(_, list) => size_of::<List>() + size_of_val(&**list.as_ref()),
            }
        }
    }
}

/// What a call of `collect` did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Collected {
    /// Things looked at: freed, unlinked, or found to be needed. At most the budget.
    pub steps: usize,
    /// Bytes given back to the allocator.
    pub freed_bytes: usize,
    /// The budget ended before the work did: call again soon.
    pub more: bool,
}

/// The writer's books of what is to be freed.
pub(super) struct Books {
    pending: Queue<Pending>,
    parked: Queue<Pending>,
    /// The walkers for which `parked` was last sorted out.
    parked_pins: Vec<u64>,
    /// How many of `parked` are still to be looked at.
    scan_left: usize,
    open: Queue<Garbage>,
    waiting: Option<(Marks, Queue<Garbage>)>,
    ready: VecDeque<Queue<Garbage>>,
    pins: Vec<u64>,
    /// Bytes held by all of the above.
    pub(super) retained: usize,
}

impl Books {
    pub(super) fn new() -> Books {
        Books {
            pending: Queue::new(),
            parked: Queue::new(),
            parked_pins: vec![],
            scan_left: 0,
            open: Queue::new(),
            waiting: None,
            ready: VecDeque::new(),
            pins: vec![],
            retained: 0,
        }
    }

    /// Notes that something was replaced or died.
    pub(super) fn retire(&mut self, zxid: u64, what: What) {
        // SAFETY: what is still linked is alive.
        self.retained += unsafe { what.bytes() };
        self.pending.push(Pending { zxid, what });
    }

    /// Notes parts of the index that were replaced.
    pub(super) fn retire_index(&mut self, replaced: Replaced<Node>) {
        let g = match replaced {
            Replaced::Segment(s) => Garbage::Segment(s),
            Replaced::Directory(d) => Garbage::Directory(d),
        };
        self.retained += g.bytes();
        self.open.push(g);
    }

    /// Hands everything to `shared`, which frees it with the last reader. Dead nodes that are still linked go with
    /// the graph.
    pub(super) fn hand_over(&mut self, shared: &Shared) {
        let mut out = shared.leftovers.lock().expect("nobody panics while holding it");
        for queue in [&mut self.pending, &mut self.parked] {
            while let Some(p) = queue.pop() {
                match p.what {
                    What::Data { old, .. } => out.push(Garbage::Data(old)),
                    What::Child { old, .. } => out.push(Garbage::Child(old)),
                    What::Dead(_) => {}
                }
            }
        }
        let waiting = self.waiting.take().map(|(_, batch)| batch);
        let open = std::mem::replace(&mut self.open, Queue::new());
        for mut batch in self.ready.drain(..).chain(waiting).chain([open]) {
            while let Some(g) = batch.pop() {
                out.push(g);
            }
        }
    }
}

impl What {
    /// # Safety
    /// What it names is alive.
    unsafe fn bytes(&self) -> usize {
        // SAFETY: by the contract.
        unsafe {
            match self {
                What::Data { old, .. } => old.as_ref().bytes(),
                What::Child { .. } => size_of::<ChildVersion>(),
                What::Dead(node) => node.as_ref().owned_bytes(),
            }
        }
    }

    /// The first zxid at which it was visible.
    ///
    /// # Safety
    /// What it names is alive.
    unsafe fn since(&self) -> u64 {
        // SAFETY: by the contract.
        unsafe {
            match self {
                What::Data { old, .. } => old.as_ref().since,
                What::Child { old, .. } => old.as_ref().since,
                What::Dead(node) => node.as_ref().czxid,
            }
        }
    }
}

/// Whether a walker stands where `p` is visible.
fn is_pinned(p: &Pending, pins: &[u64]) -> bool {
    // SAFETY: what is pending or parked is alive.
    let since = unsafe { p.what.since() };
    pins.iter().any(|&at| since <= at && at < p.zxid)
}

impl Store {
    /// Does at most `budget` steps of giving back; see [`Collected`].
    pub(in crate::tree) fn collect(&mut self, budget: usize) -> Collected {
        let before = self.books.retained;
        let mut pins = std::mem::take(&mut self.books.pins);
        let limit = self.shared.floors.survey(&mut pins);
        let mut left = budget;
        self.free_ready(&mut left);
        self.sort_parked(&pins, &mut left);
        if self.books.scan_left == 0 && self.books.parked_pins == pins {
            self.release_pending(limit, &pins, &mut left);
        }
        self.books.pins = pins;
        self.turn_batches();
        self.free_ready(&mut left);
        let freed_bytes = before.saturating_sub(self.books.retained);
        Collected { steps: budget - left, freed_bytes, more: left == 0 }
    }

    fn free_ready(&mut self, left: &mut usize) {
        while *left > 0 {
            let Some(batch) = self.books.ready.front_mut() else { return };
            match batch.pop() {
                Some(g) => {
                    *left -= 1;
                    self.free(g);
                }
                None => drop(self.books.ready.pop_front()),
            }
        }
    }

    /// Looks again at what was parked, if the walkers are not those it was parked for.
    fn sort_parked(&mut self, pins: &[u64], left: &mut usize) {
        if self.books.scan_left == 0 && self.books.parked_pins != pins {
            self.books.parked_pins.clear();
            self.books.parked_pins.extend_from_slice(pins);
            self.books.scan_left = self.books.parked.len();
        }
        while self.books.scan_left > 0 && *left > 0 {
            *left -= 1;
            self.books.scan_left -= 1;
            let p = self.books.parked.pop().expect("scan_left counts them");
            // A scan ends with the pins it began with: else a parent could be let go before its child.
            if is_pinned(&p, &self.books.parked_pins) {
                self.books.parked.push(p);
            } else {
                let none = self.books.parked_pins.is_empty();
                self.release(p.what, none);
            }
        }
    }

    fn release_pending(&mut self, limit: u64, pins: &[u64], left: &mut usize) {
        while *left > 0 && self.books.pending.front().is_some_and(|p| p.zxid <= limit) {
            *left -= 1;
            let p = self.books.pending.pop().expect("just seen");
            if is_pinned(&p, pins) {
                self.books.parked.push(p);
            } else {
                self.release(p.what, pins.is_empty());
            }
        }
    }

    /// Frees what nobody can stand on, unlinks the rest.
    fn release(&mut self, what: What, no_walker: bool) {
        // SAFETY: no floor is below the zxid at which it was replaced, and no pin lies in its time. So readers that
        // move stop before it in its chain. A walker may pass over it on its way down: then it is cut out of the
        // chain and waits for a grace period. The node is alive: its own death is queued later.
        unsafe {
            match what {
                What::Data { node, old } if !no_walker => {
                    let mut link = &node.as_ref().data;
                    while link.load(Ordering::Relaxed) != old.as_ptr() {
                        link = &(*link.load(Ordering::Relaxed)).prev;
                    }
                    link.store(old.as_ref().prev.load(Ordering::Relaxed), Ordering::Release);
                    self.books.open.push(Garbage::Data(old));
                }
                What::Child { node, old } if !no_walker => {
                    let children = &*node.as_ref().children.load(Ordering::Relaxed);
                    let mut link: &AtomicPtr<ChildVersion> = &children.version;
                    while link.load(Ordering::Relaxed) != old.as_ptr() {
                        link = &(*link.load(Ordering::Relaxed)).prev;
                    }
                    link.store(old.as_ref().prev.load(Ordering::Relaxed), Ordering::Release);
                    self.books.open.push(Garbage::Child(old));
                }
                What::Data { old, .. } => self.free(Garbage::Data(old)),
                What::Child { old, .. } => self.free(Garbage::Child(old)),
                What::Dead(node) => {
                    self.unlink(node);
                    self.books.open.push(Garbage::Node(node));
                }
            }
        }
    }

    /// Takes a dead node out of its parent's list and out of the index.
    ///
    /// # Safety
    /// The node is linked, and its parent alive.
    unsafe fn unlink(&mut self, node: NonNull<Node>) {
        // SAFETY: neighbours in the list and in the chain of incarnations are linked, so alive.
        unsafe {
            let n = node.as_ref();
            let (prev, next) = (n.prev(), n.next.load(Ordering::Relaxed));
            if prev.is_null() {
                let children = (*n.parent()).children.load(Ordering::Relaxed);
                (*children).head.store(next, Ordering::Release);
            } else {
                (*prev).next.store(next, Ordering::Release);
            }
            if !next.is_null() {
                (*next).set_prev(prev);
            }
            let older = Node::older(node).and_then(|o| NonNull::new(o.load(Ordering::Relaxed)));
            let index = &self.shared.index;
            if let Some(found) = index.find_item(n.key(), node) {
                match older {
                    Some(older) => index.replace(&found, older),
                    None => index.remove(&found),
                }
                return;
            }
            // A newer incarnation has the slot.
            let path = NodeView { view: View { shared: &self.shared, h: 0 }, node }.path();
            let hash = PathHash::of(self.shared.seed, &path);
            let newest = index.find(hash.0, |c| has_path(c, path.as_bytes())).expect("it has the slot").item;
            let mut link = Node::older(newest).expect("it was made when this one was linked");
            while link.load(Ordering::Relaxed) != node.as_ptr() {
                let next = NonNull::new(link.load(Ordering::Relaxed)).expect("the chain leads here");
                link = Node::older(next).expect("the chain leads here");
            }
            link.store(older.map_or(std::ptr::null_mut(), NonNull::as_ptr), Ordering::Release);
        }
    }

    /// Closes and opens grace periods.
    fn turn_batches(&mut self) {
        if let Some((marks, _)) = &mut self.books.waiting
            && self.shared.floors.passed(marks)
        {
            self.books.ready.extend(self.books.waiting.take().map(|(_, batch)| batch));
        }
        if self.books.waiting.is_none() && !self.books.open.is_empty() {
            let batch = std::mem::replace(&mut self.books.open, Queue::new());
            let mut marks = self.shared.floors.mark();
            if self.shared.floors.passed(&mut marks) {
                self.books.ready.push_back(batch);
            } else {
                self.books.waiting = Some((marks, batch));
            }
        }
    }

    fn free(&mut self, g: Garbage) {
        self.books.retained -= g.bytes();
        // SAFETY: unlinked and a grace period ago, or out of every reader's reach (`release`).
        unsafe {
            match &g {
                Garbage::Node(node) => {
                    let n = node.as_ref();
                    self.drop_acl(n.inline_acl());
                    if let Some(d) = n.data.load(Ordering::Relaxed).as_ref() {
                        self.drop_acl(d.acl);
                    }
                }
                Garbage::Data(d) => self.drop_acl(d.as_ref().acl),
                Garbage::Acl(id, _) => self.interner.retire(*id),
                Garbage::Child(_) | Garbage::Segment(_) | Garbage::Directory(_) => {}
            }
            g.free();
        }
    }

    /// One user of an ACL id less; after the last one, id and list wait for a grace period of their own.
    fn drop_acl(&mut self, id: u32) {
        if !self.interner.drop_user(id) {
            return;
        }
        // SAFETY: this is the writer; the list goes into the open batch.
        if let Some(list) = unsafe { self.shared.acls.take(id) } {
            let g = Garbage::Acl(id, list);
            self.books.retained += g.bytes();
            self.books.open.push(g);
        }
    }
}
