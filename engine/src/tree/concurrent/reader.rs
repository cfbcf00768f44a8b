//! Who looks from other threads: readers that move along with the ring, and walkers that stand still.
//!
//! Not here: what they see (`view`).
//! Invariants: a view borrows its reader, so it ends before the reader's turn does; a walker keeps, between slices,
//! only a pointer to a node that is visible where it stands, and such a node is not unlinked while it stands there.

use super::node::Node;
use super::primitive::Ordering;
use super::{NodeView, Shared, View};
use crate::ids::Zxid;
use crate::tree::hash::PathHash;
use std::ptr::NonNull;
use std::sync::Arc;

/// From which readers are made. Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

impl Handle {
    pub(super) fn new(shared: Arc<Shared>) -> Handle {
        Handle { shared }
    }

    /// A resting reader; `None` if there are as many as the tree was made for.
    pub fn reader(&self) -> Option<Reader> {
        let slot = self.shared.floors.claim()?;
        Some(Reader { shared: self.shared.clone(), slot, resting: true, low: 0 })
    }

    /// A walker that sees the tree exactly as it is at `at`. `None` if there is no slot left, or if more than `at`
    /// has been published: then what it needs may be gone. The writer's thread, between two transactions, always
    /// succeeds with the zxid of the last one.
    pub fn walker(&self, at: Zxid) -> Option<Walker> {
        let slot = self.shared.floors.claim()?;
        let walker = Walker { shared: self.shared.clone(), slot, at: at.0, state: State::Fresh };
        let turn = self.shared.floors.begin_pinned(slot, at.0);
        // Dropping it gives the slot back.
        (at.0 >= turn.published).then_some(walker)
    }

    /// The hash under which `path` is indexed.
    #[inline]
    pub fn hash(&self, path: &str) -> PathHash {
        PathHash::of(self.shared.seed, path)
    }

    /// The end that readers can know of.
    pub fn published(&self) -> Zxid {
        Zxid(self.shared.floors.published())
    }

    /// Nodes as ZooKeeper counts them (see `Writer::node_count`), at the last publication.
    pub fn node_count(&self) -> u64 {
        self.shared.counters.0.nodes.load(Ordering::Relaxed) + 1
    }

    /// See `Writer::approximate_data_size`; at the last publication.
    pub fn approximate_data_size(&self) -> u64 {
        self.shared.counters.0.data_bytes.load(Ordering::Relaxed)
    }

    /// Bytes kept for readers only, at the last publication.
    pub fn retained_bytes(&self) -> u64 {
        self.shared.counters.0.retained_bytes.load(Ordering::Relaxed)
    }
}

impl std::fmt::Debug for Handle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("published", &self.published())
            .field("nodes", &self.node_count())
            .finish()
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Reader { slot, resting, low, .. } = self;
        f.debug_struct("Reader").field("slot", slot).field("resting", resting).field("low", low).finish()
    }
}

impl std::fmt::Debug for Walker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Walker").field("slot", &self.slot).field("at", &self.zxid()).finish()
    }
}

/// One thread's way into the tree.
pub struct Reader {
    shared: Arc<Shared>,
    slot: usize,
    resting: bool,
    /// The lowest horizon at which this turn may read.
    low: u64,
}

impl Reader {
    /// Whether this is a reader of that tree.
    pub fn reads(&self, tree: &Handle) -> bool {
        Arc::ptr_eq(&self.shared, &tree.shared)
    }

    /// Begins a turn at horizon `h`: from here on everything visible at `h` or later is kept. The order is: this,
    /// then load the ring's end, then read. Returns the lowest horizon at which this turn may read: `h`, or, if the
    /// reader rested, the end published so far, which the ring's end has reached too.
    pub fn begin_turn(&mut self, h: Zxid) -> Zxid {
        let turn = self.shared.floors.begin(self.slot, h.0);
        self.low = if self.resting { turn.published } else { self.low.max(turn.floor) };
        self.resting = false;
        Zxid(self.low.max(h.0))
    }

    /// Ends the turn and keeps nothing: before sleeping, unless reads are queued that must see this horizon.
    pub fn rest(&mut self) {
        self.resting = true;
        self.shared.floors.rest(self.slot);
    }

    /// The tree at `h`, within a turn.
    ///
    /// # Panics
    /// If the reader rests, or `h` is below what [`Reader::begin_turn`] returned: what was visible there may be gone.
    #[inline]
    pub fn at(&self, h: Zxid) -> View<'_> {
        assert!(
            !self.resting && h.0 >= self.low,
            "a read at {h}, outside of the turn that began at {}",
            self.low
        );
        View { shared: &self.shared, h: h.0 }
    }

    /// The hash under which `path` is indexed.
    #[inline]
    pub fn hash(&self, path: &str) -> PathHash {
        PathHash::of(self.shared.seed, path)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.shared.floors.release(self.slot);
    }
}

/// Walks over every node as it is at one zxid, parents before children, a slice at a time.
pub struct Walker {
    shared: Arc<Shared>,
    slot: usize,
    at: u64,
    state: State,
}

enum State {
    Fresh,
    /// The node seen last; visible at `at`.
    After(NonNull<Node>),
    Done,
}

// SAFETY: the pointer is used under the walker's own slot, from whatever thread holds the walker.
unsafe impl Send for Walker {}

impl Walker {
    /// Where it stands.
    pub fn zxid(&self) -> Zxid {
        Zxid(self.at)
    }

    /// Shows the next nodes, at most `nodes_max`, with their full paths ("/" for the root); `false` when there is
    /// none left. Between two slices it holds up nobody's grace period.
    pub fn slice(&mut self, nodes_max: usize, mut seen: impl FnMut(&str, NodeView<'_>)) -> bool {
        self.slice_while(nodes_max, |path, node| {
            seen(path, node);
            true
        })
    }

    /// The same; the slice also ends behind a node for which `seen` says `false`, however many follow.
    pub fn slice_while(
        &mut self,
        nodes_max: usize,
        mut seen: impl FnMut(&str, NodeView<'_>) -> bool,
    ) -> bool {
        self.shared.floors.tick(self.slot);
        let view = View { shared: &self.shared, h: self.at };
        let mut path = String::new();
        for _ in 0..nodes_max {
            let next = match self.state {
                State::Fresh => Some(view.root()),
                State::After(node) => NodeView { view, node }.step_within(view.shared.root),
                State::Done => None,
            };
            let Some(node) = next else {
                self.state = State::Done;
                return false;
            };
            path.clear();
            node.path_into(&mut path);
            self.state = State::After(node.node);
            if !seen(&path, node) {
                break;
            }
        }
        !matches!(self.state, State::Done)
    }

    /// The tree where it stands, for single looks between slices.
    pub fn view(&mut self) -> View<'_> {
        self.shared.floors.tick(self.slot);
        View { shared: &self.shared, h: self.at }
    }
}

impl Drop for Walker {
    fn drop(&mut self) {
        self.shared.floors.release(self.slot);
    }
}
