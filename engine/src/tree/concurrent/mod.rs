//! The island of unsafe code under the tree: nodes, index, publication and reclamation.
//!
//! Not here: what a transaction does to the tree (`tree::writer`, safe code on top of [`Store`] and [`Entry`]).
//! Invariants: engine/DESIGN.md sections 1 to 3. In short: one writer; it publishes with Release what is complete; it
//! alone frees, and only what no reader's floor, pin or turn can reach; a [`View`] borrows whoever guarantees that.
//!
//! Every `unsafe fn` here leans on one of two contracts: "only the writer" (one thread, which owns the [`Store`]), or
//! "within a turn" (a floor is set, or the caller is the writer).
#![allow(unsafe_code)]

mod acl_table;
mod floors;
mod index;
mod node;
mod primitive;
mod queue;
mod reader;
mod reclaim;
mod store;
mod view;

pub(in crate::tree) use node::{ChildFields, DataFields, NewNode};
#[cfg(all(test, not(loom)))]
mod index_tests;
#[cfg(all(test, loom))]
mod loom_tests;

pub use reader::{Handle, Reader, Walker};
pub use reclaim::Collected;
pub(in crate::tree) use store::{Entry, LoadError, Revision, Store, split};
pub use view::{ChildViews, NodeView, View};

use acl_table::AclTable;
use floors::Floors;
use index::{Index, Keyed};
use node::Node;
use primitive::{AtomicU64, Ordering, Padded};
use reclaim::Garbage;
use std::ptr::NonNull;
use std::sync::Mutex;

/// What readers and the writer share.
pub(in crate::tree) struct Shared {
    floors: Floors,
    index: Index<Node>,
    /// Lives as long as this.
    root: NonNull<Node>,
    acls: AclTable,
    seed: u64,
    counters: Padded<Counters>,
    /// What the writer had not freed yet when it went.
    leftovers: Mutex<Vec<Garbage>>,
}

/// Figures for whoever wants to show them; written by the writer when it publishes.
#[derive(Default)]
struct Counters {
    nodes: AtomicU64,
    data_bytes: AtomicU64,
    retained_bytes: AtomicU64,
}

// SAFETY: the raw pointers lead to nodes, segments and lists that are either immutable, or atomic, or touched by the
// one writer only; nothing in them is tied to a thread.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

// SAFETY: the key lives in tag bits that are written when the node is built, and kept by `set_prev`.
unsafe impl Keyed for Node {
    unsafe fn key(item: NonNull<Node>) -> u32 {
        // SAFETY: by the trait's contract.
        unsafe { item.as_ref().key() }
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let leftovers = std::mem::take(self.leftovers.get_mut().expect("nobody panics while holding it"));
        // SAFETY: `&mut self`: neither writer nor reader is left. Garbage was unlinked or replaced, so it is no part
        // of the graph. In the graph each node is in exactly one child list.
        unsafe {
            for g in leftovers {
                g.free();
            }
            let mut left = vec![self.root];
            while let Some(node) = left.pop() {
                let mut child = Node::first_child(node);
                while let Some(c) = NonNull::new(child) {
                    left.push(c);
                    child = c.as_ref().next.load(Ordering::Relaxed);
                }
                Node::free(node);
            }
            self.index.free();
        }
    }
}
