//! Looking at the tree at one horizon.
//!
//! Not here: who may look, and how long (`Reader`, `Writer`: a view borrows them).
//! Invariant: whatever a `View` or `NodeView` reaches is kept for its lifetime, because its owner holds a floor no
//! higher than `h`, or is the writer, who alone frees.

use super::super::acl::AclId;
use super::super::hash::PathHash;
use super::super::stat::{Kind, StatPersisted};
use super::Shared;
use super::node::{DataFields, Node};
use super::primitive::{Ordering, prefetch};
use crate::ids::Zxid;
use crate::proto::{Acl, Stat};
use std::ptr::NonNull;
use std::sync::Arc;

/// The tree as it is at one horizon.
#[derive(Clone, Copy)]
pub struct View<'a> {
    pub(super) shared: &'a Shared,
    pub(super) h: u64,
}

/// One znode as it is at a view's horizon.
#[derive(Clone, Copy)]
pub struct NodeView<'a> {
    pub(super) view: View<'a>,
    pub(super) node: NonNull<Node>,
}

impl<'a> View<'a> {
    /// The horizon.
    pub fn horizon(&self) -> Zxid {
        Zxid(self.h)
    }

    /// The hash under which `path` is indexed: the same for every view of a tree.
    #[inline]
    pub fn hash(&self, path: &str) -> PathHash {
        PathHash::of(self.shared.seed, path)
    }

    /// First stage of a lookup that is to come: asks for the index line. A batch of lookups runs stage by stage, so
    /// that the cache misses overlap.
    #[inline]
    pub fn prefetch(&self, hash: PathHash) {
        // SAFETY: a view exists within a turn only.
        unsafe { self.shared.index.prefetch(hash.0) }
    }

    /// Second stage: asks for the header of the node.
    #[inline]
    pub fn prefetch_node(&self, hash: PathHash) {
        self.first_hit(hash, |node| {
            let at = node.as_ptr().cast::<u8>();
            prefetch(at);
            prefetch(at.wrapping_add(64));
        });
    }

    /// Third stage: asks for name, data and counters.
    #[inline]
    pub fn prefetch_value(&self, hash: PathHash) {
        // SAFETY: what the index holds is alive within a turn.
        self.first_hit(hash, |node| unsafe { Node::prefetch_value(node) });
    }

    #[inline]
    fn first_hit(&self, hash: PathHash, mut touch: impl FnMut(NonNull<Node>)) {
        // SAFETY: a view exists within a turn only.
        unsafe {
            self.shared.index.find(hash.0, |node| {
                touch(node);
                true
            });
        }
    }

    /// The node at `path`, if there is one at this horizon. "/" and "" are the root. Paths are not validated: what
    /// cannot be a path names no node.
    #[inline]
    pub fn get(&self, path: &str) -> Option<NodeView<'a>> {
        self.get_hashed(self.hash(path), path)
    }

    /// As [`View::get`], with the hash of `path` already at hand.
    #[inline]
    pub fn get_hashed(&self, hash: PathHash, path: &str) -> Option<NodeView<'a>> {
        if path.len() <= 1 && (path.is_empty() || path == "/") {
            return Some(self.root());
        }
        // SAFETY: a view exists within a turn only; so what the index holds is alive.
        let mut node = unsafe { self.shared.index.find(hash.0, |n| has_path(n, path.as_bytes()))?.item };
        loop {
            // SAFETY: as above; older incarnations are alive while they can be reached.
            unsafe {
                if node.as_ref().is_visible(self.h) {
                    return Some(NodeView { view: *self, node });
                }
                node = NonNull::new(Node::older(node)?.load(Ordering::Acquire))?;
            }
        }
    }

    /// The root.
    pub fn root(&self) -> NodeView<'a> {
        NodeView { view: *self, node: self.shared.root }
    }

    /// The list behind an id that a node of this view carries.
    #[inline]
    pub fn acl_list(&self, id: AclId) -> &'a Arc<[Acl]> {
        self.shared.acls.get(id.0).expect("an id that a visible version carries has a list")
    }
}

impl std::fmt::Debug for View<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("View").field("horizon", &self.horizon()).finish()
    }
}

impl std::fmt::Debug for NodeView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NodeView").field("path", &self.path()).field("stat", &self.stat()).finish()
    }
}

/// Whether the node's path is `path`: its name is the last element, its parent's the one before, and so on.
///
/// # Safety
/// `node` is alive, and so are its ancestors.
#[inline]
pub(super) unsafe fn has_path(node: NonNull<Node>, path: &[u8]) -> bool {
    let (mut node, mut rest) = (node, path);
    // SAFETY: by the contract.
    unsafe {
        loop {
            let Some(parent) = NonNull::new(node.as_ref().parent()) else { return rest.is_empty() };
            let name = Node::name(node);
            let Some(cut) = rest.len().checked_sub(name.len() + 1) else { return false };
            if rest[cut] != b'/' || rest[cut + 1..] != *name {
                return false;
            }
            rest = &rest[..cut];
            node = parent;
        }
    }
}

impl<'a> NodeView<'a> {
    #[inline]
    fn header(&self) -> &'a Node {
        // SAFETY: the node is kept for 'a.
        unsafe { &*self.node.as_ptr() }
    }

    #[inline]
    pub(in crate::tree) fn fields(&self) -> DataFields<'a> {
        // SAFETY: the node, and its version at `h`, are kept for 'a.
        unsafe { Node::fields(self.node, self.view.h) }
    }

    #[inline]
    fn child_fields(&self) -> super::node::ChildFields {
        // SAFETY: as for `fields`.
        unsafe { Node::child_fields(self.node, self.view.h) }
    }

    /// The status as clients see it (fact sheet 3.5): cversion counts creations and deletions, and only an ephemeral
    /// shows an owner.
    #[inline]
    pub fn stat(&self) -> Stat {
        let (f, c) = (self.fields(), self.child_fields());
        let owner = self.raw_owner();
        let num_children = c.num as i32;
        Stat {
            czxid: Zxid(self.header().czxid),
            mzxid: Zxid(f.mzxid),
            ctime: self.header().ctime,
            mtime: f.mtime,
            version: f.version,
            cversion: c.cversion.wrapping_mul(2).wrapping_sub(num_children),
            aversion: f.aversion,
            ephemeral_owner: if Kind::of(owner) == Kind::Ephemeral { owner } else { 0 },
            data_length: f.data.map_or(0, <[u8]>::len) as i32,
            num_children,
            pzxid: Zxid(c.pzxid),
        }
    }

    /// The status as disk and digest see it (fact sheet 10.2, 10.3).
    pub fn stat_persisted(&self) -> StatPersisted {
        let (f, c) = (self.fields(), self.child_fields());
        StatPersisted {
            czxid: Zxid(self.header().czxid),
            mzxid: Zxid(f.mzxid),
            ctime: self.header().ctime,
            mtime: f.mtime,
            version: f.version,
            cversion: c.cversion,
            aversion: f.aversion,
            ephemeral_owner: self.raw_owner(),
            pzxid: Zxid(c.pzxid),
        }
    }

    /// The data; `None` is null, which is not the same as empty.
    #[inline]
    pub fn data(&self) -> Option<&'a [u8]> {
        self.fields().data
    }

    /// The number of the ACL: equal lists have equal numbers, 0 is world:anyone ALL.
    #[inline]
    pub fn acl_id(&self) -> AclId {
        AclId(self.fields().acl)
    }

    /// The ACL.
    #[inline]
    pub fn acl(&self) -> &'a Arc<[Acl]> {
        self.view.acl_list(self.acl_id())
    }

    /// What kind of node it is.
    pub fn kind(&self) -> Kind {
        Kind::of(self.raw_owner())
    }

    /// The ephemeral owner as stored: a session, the container or TTL marker, or 0 (fact sheet 3.7).
    #[inline]
    pub fn raw_owner(&self) -> i64 {
        // SAFETY: the node is kept for 'a.
        unsafe { Node::owner(self.node) }
    }

    /// How many children were ever created (the stored cversion): the next sequence number.
    pub fn cversion_stored(&self) -> i32 {
        self.child_fields().cversion
    }

    /// How many children there are.
    pub fn num_children(&self) -> u32 {
        self.child_fields().num
    }

    /// The last element of the path; "" for the root.
    #[inline]
    pub fn name(&self) -> &'a str {
        // SAFETY: the node is kept for 'a; names were `&str` when the node was made.
        unsafe { std::str::from_utf8_unchecked(Node::name(self.node)) }
    }

    /// The parent; `None` for the root.
    pub fn parent(&self) -> Option<NodeView<'a>> {
        Some(NodeView { view: self.view, node: NonNull::new(self.header().parent())? })
    }

    /// The names of the children, newest first.
    pub fn children(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.child_views().map(|c| c.name())
    }

    /// The children, newest first.
    pub fn child_views(&self) -> ChildViews<'a> {
        // SAFETY: the node is kept for 'a.
        ChildViews { view: self.view, next: unsafe { Node::first_child(self.node) } }
    }

    /// How many nodes lie below this one. Looks at each: time grows with the number.
    pub fn count_descendants(&self) -> u64 {
        let mut count = 0;
        let mut at = *self;
        while let Some(next) = at.step_within(self.node) {
            count += 1;
            at = next;
        }
        count
    }

    /// The node after this one in a walk over the whole tree, parents first; `None` at the end.
    pub fn next_in_tree(&self) -> Option<NodeView<'a>> {
        self.step_within(self.view.shared.root)
    }

    /// The next node below `top` in the order parents first; `None` at the end.
    pub(super) fn step_within(&self, top: NonNull<Node>) -> Option<NodeView<'a>> {
        if let Some(child) = self.child_views().next() {
            return Some(child);
        }
        let mut at = *self;
        while at.node != top {
            let sibling = ChildViews { view: at.view, next: at.header().next.load(Ordering::Acquire) }.next();
            if sibling.is_some() {
                return sibling;
            }
            at = at.parent()?;
        }
        None
    }

    /// Appends the full path: "/" for the root.
    pub fn path_into(&self, out: &mut String) {
        let start = out.len();
        let mut at = *self;
        // Most paths are short: their elements are turned round without an allocation.
        let mut few = [""; 16];
        let mut depth = 0;
        while depth < few.len()
            && let Some(parent) = at.parent()
        {
            few[depth] = at.name();
            depth += 1;
            at = parent;
        }
        let mut rest = vec![];
        while let Some(parent) = at.parent() {
            rest.push(at.name());
            at = parent;
        }
        for e in rest.iter().rev().chain(few[..depth].iter().rev()) {
            out.push('/');
            out.push_str(e);
        }
        if out.len() == start {
            out.push('/');
        }
    }

    /// The full path: "/" for the root.
    pub fn path(&self) -> String {
        let mut out = String::new();
        self.path_into(&mut out);
        out
    }
}

/// The children of a node at a horizon.
pub struct ChildViews<'a> {
    view: View<'a>,
    next: *mut Node,
}

impl<'a> Iterator for ChildViews<'a> {
    type Item = NodeView<'a>;

    #[inline]
    fn next(&mut self) -> Option<NodeView<'a>> {
        while let Some(node) = NonNull::new(self.next) {
            // SAFETY: nodes of the list are kept for a grace period after they were unlinked, so for this turn.
            let n = unsafe { node.as_ref() };
            self.next = n.next.load(Ordering::Acquire);
            prefetch(self.next);
            if n.is_visible(self.view.h) {
                return Some(NodeView { view: self.view, node });
            }
        }
        None
    }
}
