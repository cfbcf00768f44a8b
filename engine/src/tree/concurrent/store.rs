//! The writer's hands: it finds, adds, replaces and kills, one structural step at a time.
//!
//! Not here: what a transaction means (`tree::writer`), giving back (`reclaim`).
//! Invariants: a [`Store`] is the one writer of its tree, so whoever holds it mutably sees the latest of everything,
//! and what it found stays alive until `collect`, which needs it mutably too.

use super::index::Found;
use super::node::{ChildFields, ChildVersion, Children, DataFields, DataVersion, NewNode, Node, Place};
use super::primitive::Ordering;
use super::reclaim::{Books, What};
use super::view::has_path;
use super::{Counters, Floors, Index, NodeView, Shared, View};
use crate::proto::Acl;
use crate::tree::acl::{AclId, Interned, Interner};
use crate::tree::hash::PathHash;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The one writer of a tree.
pub(in crate::tree) struct Store {
    pub(super) shared: Arc<Shared>,
    pub(super) interner: Interner,
    pub(super) books: Books,
    /// Live nodes, the root included.
    nodes: u64,
    /// The parent of the node loaded last: in a snapshot siblings often come together.
    load_parent: Option<(String, NonNull<Node>)>,
    replaced: Vec<super::index::Replaced<Node>>,
}

// SAFETY: the pointers lead into the tree, which any thread may write as long as it is one at a time.
unsafe impl Send for Store {}

/// A node in the writer's hands.
pub(in crate::tree) struct Entry<'s> {
    store: &'s mut Store,
    node: NonNull<Node>,
}

/// What a data version changes; `None` keeps what was.
#[derive(Clone, Copy, Default)]
pub(in crate::tree) struct Revision<'a> {
    pub data: Option<Option<&'a [u8]>>,
    /// mzxid, mtime, version.
    pub stamp: Option<(u64, i64, i32)>,
    pub aversion: Option<i32>,
    pub acl: Option<&'a [Acl]>,
}

/// Why a node could not be added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tree) enum LoadError {
    NoParent,
    Exists,
}

/// Parent path ("" for the root) and name. `None` for the root and for what is no path.
pub(in crate::tree) fn split(path: &str) -> Option<(&str, &str)> {
    let at = path.rfind('/')?;
    if path.len() == 1 { None } else { Some((&path[..at], &path[at + 1..])) }
}

impl Store {
    /// A tree of a root alone, for at most `readers_max` readers and walkers at a time.
    pub(in crate::tree) fn new(seed: u64, readers_max: usize) -> Store {
        let (interner, open) = Interner::new();
        let nothing = DataFields { data: Some(&[]), mzxid: 0, mtime: 0, version: 0, aversion: 0, acl: 0 };
        let children = ChildFields { pzxid: 0, cversion: 0, num: 0 };
        let new = NewNode { czxid: 0, ctime: 0, owner: 0, fields: nothing, children };
        let place = Place { parent: ptr::null_mut(), key: 0, name: b"", older: ptr::null_mut() };
        let shared = Shared {
            floors: Floors::new(readers_max),
            index: Index::new(),
            root: Node::build(&new, &place),
            acls: super::AclTable::new(),
            seed,
            counters: super::Padded(Counters::default()),
            leftovers: std::sync::Mutex::new(vec![]),
        };
        // SAFETY: nobody else knows the table yet, and entry 0 is null.
        unsafe { shared.acls.set(0, open) };
        Store {
            shared: Arc::new(shared),
            interner,
            books: Books::new(),
            nodes: 1,
            load_parent: None,
            replaced: vec![],
        }
    }

    /// Everything applied so far.
    pub(in crate::tree) fn latest(&self) -> View<'_> {
        View { shared: &self.shared, h: u64::MAX }
    }

    pub(in crate::tree) fn handle(&self) -> super::Handle {
        super::Handle::new(self.shared.clone())
    }

    /// The live node at `path`.
    pub(in crate::tree) fn entry(&mut self, path: &str) -> Option<Entry<'_>> {
        let node = self.latest().get(path)?.node;
        Some(Entry { store: self, node })
    }

    /// Live nodes, the root included.
    pub(in crate::tree) fn nodes(&self) -> u64 {
        self.nodes
    }

    /// Bytes held for readers only.
    pub(in crate::tree) fn retained_bytes(&self) -> usize {
        self.books.retained
    }

    /// Bytes of the index.
    pub(in crate::tree) fn index_bytes(&self) -> usize {
        // SAFETY: this is the writer.
        unsafe { self.shared.index.bytes() }
    }

    /// ACL lists in use.
    pub(in crate::tree) fn acl_count(&self) -> usize {
        self.interner.len()
    }

    /// Moves the end that readers can know of; after the ring's own release.
    pub(in crate::tree) fn publish(&mut self, upto: u64, data_bytes: u64) {
        let c = &self.shared.counters.0;
        c.nodes.store(self.nodes, Ordering::Relaxed);
        c.data_bytes.store(data_bytes, Ordering::Relaxed);
        c.retained_bytes.store(self.books.retained as u64, Ordering::Relaxed);
        self.shared.floors.publish(upto);
    }

    pub(in crate::tree) fn published(&self) -> u64 {
        self.shared.floors.published()
    }

    /// The id of a list, counted once more.
    fn intern(&mut self, acl: &[Acl]) -> u32 {
        match self.interner.take(acl) {
            Interned::Known(id) => id,
            Interned::New(id, list) => {
                // SAFETY: the interner gives out fresh ids, and retired ones after their entry was cleared.
                unsafe { self.shared.acls.set(id, list) };
                id
            }
        }
    }

    /// The newest incarnation of a path, dead or alive.
    fn slot(&self, hash: PathHash, path: &str) -> Option<Found<Node>> {
        // SAFETY: this is the writer; what the index holds is alive.
        unsafe { self.shared.index.find(hash.0, |n| has_path(n, path.as_bytes())) }
    }

    /// Adds a node from a snapshot: parents come first, and no reader needs anything kept. The parent's number of
    /// children grows; its other counters are its own.
    pub(in crate::tree) fn load(
        &mut self,
        path: &str,
        acl: &[Acl],
        new: &NewNode<'_>,
    ) -> Result<(), LoadError> {
        let (parent_path, name) = split(path).ok_or(LoadError::Exists)?;
        let parent = match &self.load_parent {
            Some((p, node)) if *p == parent_path => *node,
            _ => {
                let node = self.latest().get(parent_path).ok_or(LoadError::NoParent)?.node;
                self.load_parent = Some((parent_path.to_owned(), node));
                node
            }
        };
        let mut parent = Entry { store: self, node: parent };
        parent.add(path, name, acl, new)?;
        let mut counters = parent.child_fields();
        counters.num += 1;
        parent.set_children(0, counters);
        Ok(())
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.books.hand_over(&self.shared);
    }
}

impl<'s> Entry<'s> {
    /// What is there now.
    pub(in crate::tree) fn view(&self) -> NodeView<'_> {
        NodeView { view: self.store.latest(), node: self.node }
    }

    fn node(&self) -> &Node {
        // SAFETY: the store is borrowed, so nothing is freed meanwhile.
        unsafe { self.node.as_ref() }
    }

    /// The counters of the newest child version.
    pub(in crate::tree) fn child_fields(&self) -> ChildFields {
        // SAFETY: the newest version is kept.
        unsafe { Node::child_fields(self.node, u64::MAX) }
    }

    /// Adds a child; the counters of this node are the caller's to raise. `new.fields.acl` is replaced by the id of
    /// `acl`, which is returned.
    pub(in crate::tree) fn add(
        &mut self,
        path: &str,
        name: &str,
        acl: &[Acl],
        new: &NewNode<'_>,
    ) -> Result<AclId, LoadError> {
        let hash = PathHash::of(self.store.shared.seed, path);
        let newest = self.store.slot(hash, path);
        // SAFETY: what the index holds is alive.
        if newest.as_ref().is_some_and(|n| unsafe { n.item.as_ref() }.died() == 0) {
            return Err(LoadError::Exists);
        }
        let acl = self.store.intern(acl);
        let new = NewNode { fields: DataFields { acl, ..new.fields }, ..*new };
        let place = Place {
            parent: self.node.as_ptr(),
            key: (hash.0 >> 32) as u32,
            name: name.as_bytes(),
            older: newest.as_ref().map_or(ptr::null_mut(), |n| n.item.as_ptr()),
        };
        let node = Node::build(&new, &place);
        self.link(node);
        // SAFETY: this is the writer; the node is complete, and stays until a grace period after its removal.
        unsafe {
            match &newest {
                Some(found) => self.store.shared.index.replace(found, node),
                None => {
                    let mut replaced = std::mem::take(&mut self.store.replaced);
                    self.store.shared.index.insert(hash.0, node, &mut replaced);
                    replaced.drain(..).for_each(|r| self.store.books.retire_index(r));
                    self.store.replaced = replaced;
                }
            }
        }
        self.store.nodes += 1;
        Ok(AclId(acl))
    }

    /// Puts a node at the head of this node's list.
    fn link(&mut self, node: NonNull<Node>) {
        let n = self.node();
        let mut children = n.children.load(Ordering::Relaxed);
        if children.is_null() {
            children = Children::build(ptr::null_mut());
            n.children.store(children, Ordering::Release);
        }
        // SAFETY: this is the writer; the block and the old head are alive, and `node` is not published yet.
        unsafe {
            let head = (*children).head.load(Ordering::Relaxed);
            node.as_ref().next.store(head, Ordering::Relaxed);
            if !head.is_null() {
                (*head).set_prev(node.as_ptr());
            }
            (*children).head.store(node.as_ptr(), Ordering::Release);
        }
    }

    /// Gives the node a child version made by `zxid`.
    pub(in crate::tree) fn set_children(&mut self, zxid: u64, f: ChildFields) {
        let n = self.node();
        let mut children = n.children.load(Ordering::Relaxed);
        if children.is_null() {
            children = Children::build(ptr::null_mut());
            n.children.store(children, Ordering::Release);
        }
        // SAFETY: the block is alive as long as its node, and so is its current version.
        let (block, old) = unsafe {
            let block = &*children;
            (block, block.version.load(Ordering::Relaxed))
        };
        let Some(current) = NonNull::new(old) else {
            block.version.store(ChildVersion::build(zxid, &f, ptr::null_mut()), Ordering::Release);
            return;
        };
        // SAFETY: as above.
        let current_since = unsafe { current.as_ref() }.since;
        if current_since == zxid {
            // SAFETY: as above.
            unsafe { current.as_ref() }.amend(&f);
            return;
        }
        debug_assert!(current_since < zxid, "transactions are applied in order");
        block.version.store(ChildVersion::build(zxid, &f, old), Ordering::Release);
        self.store.books.retire(zxid, What::Child { node: self.node, old: current });
    }

    /// Gives the node a data version made by `zxid`: the present one, with what `r` says.
    pub(in crate::tree) fn revise(&mut self, zxid: u64, r: &Revision<'_>) -> AclId {
        // SAFETY: the newest version is kept as long as the store is borrowed: what is replaced is only queued.
        let mut f = unsafe { Node::fields(self.node, u64::MAX) };
        if let Some(data) = r.data {
            f.data = data;
        }
        if let Some((mzxid, mtime, version)) = r.stamp {
            (f.mzxid, f.mtime, f.version) = (mzxid, mtime, version);
        }
        f.aversion = r.aversion.unwrap_or(f.aversion);
        match r.acl {
            Some(list) => f.acl = self.store.intern(list),
            None => self.store.interner.add_user(f.acl),
        }
        let n = self.node();
        let old = n.data.load(Ordering::Relaxed);
        n.data.store(DataVersion::build(zxid, &f, old), Ordering::Release);
        if let Some(old) = NonNull::new(old) {
            self.store.books.retire(zxid, What::Data { node: self.node, old });
        }
        AclId(f.acl)
    }

    /// Kills the node and all that is alive below it, children first; tells `seen` of each before it dies.
    pub(in crate::tree) fn kill(self, zxid: u64, mut seen: impl FnMut(NodeView<'_>)) {
        let top = self.node;
        let mut at = top;
        loop {
            // SAFETY: it is linked, so alive.
            while let Some(child) = next_living(unsafe { Node::first_child(at) }) {
                at = child;
            }
            loop {
                seen(NodeView { view: self.store.latest(), node: at });
                // SAFETY: it is linked, so alive.
                let n = unsafe { at.as_ref() };
                n.kill(zxid);
                self.store.nodes -= 1;
                self.store.books.retire(zxid, What::Dead(at));
                if at == top {
                    self.store.load_parent = None;
                    return;
                }
                // Its older siblings; those before it are dead by now.
                if let Some(sibling) = next_living(n.next.load(Ordering::Relaxed)) {
                    at = sibling;
                    break;
                }
                at = NonNull::new(n.parent()).expect("below the top");
            }
        }
    }
}

/// The first living node of a child list from `from` on.
fn next_living(mut from: *mut Node) -> Option<NonNull<Node>> {
    while let Some(node) = NonNull::new(from) {
        // SAFETY: nodes of a list are linked, so alive as long as the writer is borrowed.
        let n = unsafe { node.as_ref() };
        if n.died() == 0 {
            return Some(node);
        }
        from = n.next.load(Ordering::Relaxed);
    }
    None
}
