//! What the nodes will look like once everything proposed is applied.
//!
//! Not here: the rules that decide a change (`prep`).
//! Invariant: a path has a record here iff a proposed and not yet applied transaction changes it; the record is the
//! state after the last of them.

use crate::ids::Zxid;
use crate::pipeline::Database;
use crate::proto::Acl;
use crate::tree::{AclId, Kind, NodeView, StatPersisted, digest};
use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

/// A node as prep needs it.
#[derive(Clone, Debug)]
pub(super) struct Rec {
    pub stat: StatPersisted,
    pub children: i32,
    /// `None`: open to everyone.
    pub acl: Option<Arc<[Acl]>>,
    pub data_len: usize,
    /// CRC over path and data, which the digest continues with the stat; `None` until it is needed.
    pub content: Option<u32>,
}

impl Rec {
    fn of(node: &NodeView<'_>) -> Rec {
        Rec {
            stat: node.stat_persisted(),
            children: node.num_children() as i32,
            acl: shared_acl(node),
            data_len: node.data().map_or(0, <[u8]>::len),
            content: None,
        }
    }
    /// The entries that decide access; empty: everyone.
    pub fn acl(&self) -> &[Acl] {
        self.acl.as_deref().unwrap_or_default()
    }
}

/// A node's ACL; `None` when it is the open one.
pub(super) fn shared_acl(node: &NodeView<'_>) -> Option<Arc<[Acl]>> {
    (node.acl_id() != AclId::OPEN).then(|| node.acl().clone())
}

/// The root has two names, and must have one record.
fn key_of(path: &str) -> &str {
    if path == "/" { "" } else { path }
}

#[derive(Clone, Debug)]
enum Slot {
    Here(Rec),
    Gone,
}

impl Slot {
    fn ephemeral_owner(&self) -> Option<i64> {
        match self {
            Slot::Here(rec) => {
                let owner = rec.stat.ephemeral_owner;
                (Kind::of(owner) == Kind::Ephemeral).then_some(owner)
            }
            Slot::Gone => None,
        }
    }
}

/// A path, and what the overlay said of it before.
type Replaced = (Arc<str>, Option<(Zxid, Slot)>);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Overlay {
    slots: HashMap<Arc<str>, (Zxid, Slot)>,
    /// Paths of slots that hold an ephemeral, by owner: what a closing session made a moment ago.
    owned: HashMap<i64, HashSet<Arc<str>>>,
    /// Which paths each transaction in flight changed, oldest first.
    order: VecDeque<(Zxid, Arc<str>)>,
    /// What the transaction being prepared replaced, so that it can be taken back.
    undo: Vec<Replaced>,
    /// The tree digest after everything proposed, this transaction included.
    digest: u64,
    digest_before: u64,
    digests: bool,
}

impl Overlay {
    pub fn new(digests: bool, tree_digest: u64) -> Overlay {
        Overlay { digest: tree_digest, digest_before: tree_digest, digests, ..Overlay::default() }
    }

    /// The tree digest after everything proposed so far; `None` when digests are off.
    pub fn digest(&self) -> Option<u64> {
        self.digests.then_some(self.digest)
    }

    /// The node at `path` after everything proposed so far.
    pub fn get(&self, db: &Database, path: &str) -> Option<Rec> {
        match self.slots.get(key_of(path)) {
            Some((_, Slot::Here(rec))) => Some(rec.clone()),
            Some((_, Slot::Gone)) => None,
            None => db.tree.latest().get(path).map(|n| Rec::of(&n)),
        }
    }

    /// Fills `rec.content` for a node that `get` returned, so that its digest can be taken.
    fn content(&self, db: &Database, path: &str, rec: &mut Rec) -> u32 {
        *rec.content.get_or_insert_with(|| {
            // Without a content CRC the record came from the tree as it is, so the tree has its data.
            let view = db.tree.latest();
            let node = view.get(path);
            digest::content(path, node.as_ref().and_then(NodeView::data))
        })
    }

    fn weigh(&self, db: &Database, path: &str, rec: &mut Rec) -> u64 {
        if !self.digests || !digest::counts(path) {
            return 0;
        }
        let content = self.content(db, path, rec);
        u64::from(digest::finish(content, &rec.stat))
    }

    /// Changes a node that exists. `before` is what [`Overlay::get`] gave; `change` edits it, `data` is the new
    /// content if that changes too.
    pub fn change(
        &mut self,
        db: &Database,
        zxid: Zxid,
        path: &str,
        mut before: Rec,
        data: Option<Option<&[u8]>>,
        change: impl FnOnce(&mut Rec),
    ) {
        let old = self.weigh(db, path, &mut before);
        let mut after = before;
        change(&mut after);
        if let Some(data) = data {
            after.data_len = data.map_or(0, <[u8]>::len);
            after.content = Some(if self.digests { digest::content(path, data) } else { 0 });
        }
        let new = self.weigh(db, path, &mut after);
        self.digest = self.digest.wrapping_sub(old).wrapping_add(new);
        self.put(zxid, path, Slot::Here(after));
    }

    /// Adds a node that did not exist.
    pub fn create(&mut self, db: &Database, zxid: Zxid, path: &str, mut rec: Rec, data: Option<&[u8]>) {
        rec.data_len = data.map_or(0, <[u8]>::len);
        rec.content = Some(if self.digests { digest::content(path, data) } else { 0 });
        let new = self.weigh(db, path, &mut rec);
        self.digest = self.digest.wrapping_add(new);
        self.put(zxid, path, Slot::Here(rec));
    }

    /// Removes a node that exists.
    pub fn remove(&mut self, db: &Database, zxid: Zxid, path: &str, mut rec: Rec) {
        let old = self.weigh(db, path, &mut rec);
        self.digest = self.digest.wrapping_sub(old);
        self.put(zxid, path, Slot::Gone);
    }

    fn put(&mut self, zxid: Zxid, path: &str, slot: Slot) {
        let path = key_of(path);
        let key: Arc<str> = match self.slots.get_key_value(path) {
            Some((k, _)) => k.clone(),
            None => path.into(),
        };
        let former = self.slots.remove(&key);
        if let Some((_, was)) = &former {
            self.index(&key, was, false);
        }
        self.index(&key, &slot, true);
        self.slots.insert(key.clone(), (zxid, slot));
        self.undo.push((key, former));
    }

    /// Keeps what was changed since the last `keep` or `undo`.
    pub fn keep(&mut self, zxid: Zxid) {
        self.digest_before = self.digest;
        self.order.extend(self.undo.drain(..).map(|(path, _)| (zxid, path)));
    }

    /// Takes back what was changed since the last `keep` or `undo`.
    pub fn undo(&mut self) {
        self.digest = self.digest_before;
        while let Some((path, former)) = self.undo.pop() {
            if let Some((_, slot)) = self.slots.remove(&path) {
                self.index(&path, &slot, false);
            }
            if let Some(slot) = former {
                self.index(&path, &slot.1, true);
                self.slots.insert(path, slot);
            }
        }
    }

    /// Everything up to `upto` is applied: its records are in the tree now.
    pub fn applied(&mut self, upto: Zxid) {
        while let Some((_, path)) = self.order.pop_front_if(|(z, _)| *z <= upto) {
            if self.slots.get(&path).is_some_and(|(z, _)| *z <= upto)
                && let Some((_, slot)) = self.slots.remove(&path)
            {
                self.index(&path, &slot, false);
            }
        }
    }

    /// Whether an ephemeral of `owner` that is applied is still there after everything in flight: it was neither
    /// deleted nor made again by somebody else.
    pub fn leaves_ephemeral(&self, path: &str, owner: i64) -> bool {
        match self.slots.get(path) {
            None => true,
            Some((_, slot)) => slot.ephemeral_owner() == Some(owner),
        }
    }

    /// Ephemerals of `owner` that transactions in flight touch and leave there.
    pub fn ephemerals_of(&self, owner: i64) -> impl Iterator<Item = &Arc<str>> {
        self.owned.get(&owner).into_iter().flatten()
    }

    /// Keeps `owned` in step with a slot that comes (`true`) or goes.
    fn index(&mut self, path: &Arc<str>, slot: &Slot, comes: bool) {
        let Some(owner) = slot.ephemeral_owner() else { return };
        let paths = self.owned.entry(owner).or_default();
        if comes {
            paths.insert(path.clone());
        } else {
            paths.remove(path);
        }
        if paths.is_empty() {
            self.owned.remove(&owner);
        }
    }

    /// Paths in flight.
    pub fn len(&self) -> usize {
        self.slots.len()
    }
}
