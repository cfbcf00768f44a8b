//! What transactions do to the tree (fact sheet 3.5, 10.1): stats, counters, digest.
//!
//! Not here: whether a transaction is allowed (`pipeline::prep`), how nodes are stored and freed (`concurrent`).
//! Invariants:
//! - zxids never go back from call to call; calls with one zxid become visible together;
//! - a parent's stored cversion and pzxid only ever rise;
//! - an error changes nothing but a parent's counters, so that replaying what a snapshot holds already is harmless.

use super::acl::AclId;
use super::concurrent::{
    ChildFields, Collected, DataFields, Entry, Handle, LoadError, NewNode as Parts, Revision, Store, View,
    split,
};
use super::digest::{self, DigestMode};
use super::stat::StatPersisted;
use crate::ids::Zxid;
use crate::proto::{Acl, perm};

/// The one writer of a tree.
pub struct Writer {
    store: Store,
    mode: DigestMode,
    digest: u64,
    data_bytes: u64,
    last: Zxid,
}

/// What a creation carries besides its path.
#[derive(Clone, Copy, Debug)]
pub struct NewNode<'a> {
    pub data: Option<&'a [u8]>,
    pub acl: &'a [Acl],
    /// Raw: 0, a session, or a marker (see `Kind`).
    pub owner: i64,
    /// Milliseconds since 1970.
    pub ctime_ms: i64,
}

/// Why a transaction changed nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ApplyError {
    /// A create below a node that is not there.
    NoParent,
    /// A create of a node that is there.
    Exists,
    /// A change or delete of a node that is not there.
    NoNode,
}

/// A node was created.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Created {
    pub acl: AclId,
    pub parent_acl: AclId,
}

/// A node was deleted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Deleted {
    pub acl: AclId,
    pub parent_acl: AclId,
    /// Its raw owner.
    pub owner: i64,
    /// Path and raw owner of what was still below it, and is gone too. Empty unless a replay found what the original
    /// order had removed before.
    pub below: Vec<(String, i64)>,
}

/// A node was changed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The ACL now.
    pub acl: AclId,
    /// Bytes of data before; 0 for null.
    pub old_len: usize,
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (nodes, digest) = (self.node_count(), self.digest);
        f.debug_struct("Writer")
            .field("last", &self.last)
            .field("nodes", &nodes)
            .field("digest", &digest)
            .finish()
    }
}

/// What ZooKeeper counts for a node in its approximate data size: UTF-16 units of the path, and bytes of data. Paths
/// have no characters beyond the basic plane.
fn size_of(path: &str, data: Option<&[u8]>) -> u64 {
    let units = if path.is_ascii() { path.len() } else { path.chars().count() };
    (units + data.map_or(0, <[u8]>::len)) as u64
}

/// The digest of what an entry is now, if anybody asks for it.
fn digest_if(on: bool, path: &str, entry: &Entry<'_>) -> u64 {
    if on { digest::of_view(path, &entry.view()) } else { 0 }
}

impl Writer {
    pub(super) fn new(seed: u64, readers_max: usize) -> Writer {
        let store = Store::new(seed, readers_max);
        let digest = digest::of_view("", &store.latest().root());
        Writer { store, mode: DigestMode::Computed, digest, data_bytes: 1, last: Zxid::ZERO }
    }

    /// Where readers and walkers come from.
    pub fn handle(&self) -> Handle {
        self.store.handle()
    }

    /// Everything applied so far, published or not: what `prep` validates against.
    pub fn latest(&self) -> View<'_> {
        self.store.latest()
    }

    /// The highest zxid that changed something.
    pub fn last_applied(&self) -> Zxid {
        self.last
    }

    fn step(&mut self, zxid: Zxid) {
        debug_assert!(self.last <= zxid, "{zxid} after {}", self.last);
        self.last = self.last.max(zxid);
    }

    fn digests(&self) -> bool {
        self.mode == DigestMode::Computed
    }

    /// Creates a node. `parent_cversion` is the parent's new stored cversion, as the transaction carries it; `None`
    /// is one more than it has.
    ///
    /// # Errors
    /// `NoParent`. `Exists`: then the parent's counters were raised all the same; a lenient replay goes on with
    /// [`Writer::adopt_acl`].
    #[allow(clippy::too_many_arguments)] // The fields of a CreateTxn, in its order.
    pub fn create(
        &mut self,
        zxid: Zxid,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        owner: i64,
        ctime_ms: i64,
        parent_cversion: Option<i32>,
    ) -> Result<Created, ApplyError> {
        self.create_node(zxid, path, &NewNode { data, acl, owner, ctime_ms }, parent_cversion)
    }

    /// As [`Writer::create`].
    pub fn create_node(
        &mut self,
        zxid: Zxid,
        path: &str,
        new: &NewNode<'_>,
        parent_cversion: Option<i32>,
    ) -> Result<Created, ApplyError> {
        self.step(zxid);
        let on = self.digests();
        let Some((parent_path, name)) = split(path) else {
            return Err(if path == "/" { ApplyError::Exists } else { ApplyError::NoParent });
        };
        let mut parent = self.store.entry(parent_path).ok_or(ApplyError::NoParent)?;
        let before = digest_if(on, parent_path, &parent);
        let stat = StatPersisted {
            czxid: zxid,
            mzxid: zxid,
            ctime: new.ctime_ms,
            mtime: new.ctime_ms,
            ephemeral_owner: new.owner,
            pzxid: zxid,
            ..StatPersisted::default()
        };
        let added = parent.add(path, name, new.acl, &built(&stat, new.data));
        let mut counters = parent.child_fields();
        counters.num += u32::from(added.is_ok());
        let cversion = parent_cversion.unwrap_or(counters.cversion.wrapping_add(1));
        if cversion > counters.cversion {
            counters.cversion = cversion;
            counters.pzxid = zxid.0;
        }
        parent.set_children(zxid.0, counters);
        let parent_acl = parent.view().acl_id();
        let after = digest_if(on, parent_path, &parent);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        let acl = added.map_err(|_| ApplyError::Exists)?;
        if on {
            self.digest = self.digest.wrapping_add(digest::node(path, new.data, &stat).into());
        }
        self.data_bytes += size_of(path, new.data);
        Ok(Created { acl, parent_acl })
    }

    /// Deletes a node, and what is still below it.
    ///
    /// # Errors
    /// `NoNode`: then the parent's pzxid was raised all the same, if there is a parent.
    pub fn delete(&mut self, zxid: Zxid, path: &str) -> Result<Deleted, ApplyError> {
        self.step(zxid);
        let on = self.digests();
        let (parent_path, _) = split(path).ok_or(ApplyError::NoNode)?;
        let mut sum = 0u64;
        let mut bytes = 0;
        let mut gone = None;
        if let Some(node) = self.store.entry(path) {
            let v = node.view();
            let mut deleted =
                Deleted { acl: v.acl_id(), parent_acl: AclId::OPEN, owner: v.raw_owner(), below: vec![] };
            let leaf = v.num_children() == 0;
            node.kill(zxid.0, |n| {
                // The path of the node itself is at hand; what is below it is rare.
                let its = if leaf { None } else { Some(n.path()) };
                let its_path = its.as_deref().unwrap_or(path);
                if on {
                    sum = sum.wrapping_add(digest::of_view(its_path, &n));
                }
                bytes += size_of(its_path, n.data());
                if let Some(p) = its.filter(|p| p != path) {
                    deleted.below.push((p, n.raw_owner()));
                }
            });
            gone = Some(deleted);
        }
        self.digest = self.digest.wrapping_sub(sum);
        self.data_bytes -= bytes;
        let Some(mut parent) = self.store.entry(parent_path) else { return Err(ApplyError::NoNode) };
        let before = digest_if(on, parent_path, &parent);
        let mut counters = parent.child_fields();
        counters.num -= u32::from(gone.is_some());
        counters.pzxid = counters.pzxid.max(zxid.0);
        parent.set_children(zxid.0, counters);
        let parent_acl = parent.view().acl_id();
        let after = digest_if(on, parent_path, &parent);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        gone.map(|d| Deleted { parent_acl, ..d }).ok_or(ApplyError::NoNode)
    }

    /// Replaces the data. `version` is the new one, as the transaction carries it.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn set_data(
        &mut self,
        zxid: Zxid,
        path: &str,
        data: Option<&[u8]>,
        version: i32,
        mtime_ms: i64,
    ) -> Result<Changed, ApplyError> {
        let stamp = Some((zxid.0, mtime_ms, version));
        self.revise(zxid, path, &Revision { data: Some(data), stamp, ..Revision::default() })
    }

    /// Replaces the data and nothing else: for quota statistics, whose updates change no status.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn set_data_only(
        &mut self,
        zxid: Zxid,
        path: &str,
        data: Option<&[u8]>,
    ) -> Result<Changed, ApplyError> {
        self.revise(zxid, path, &Revision { data: Some(data), ..Revision::default() })
    }

    /// Replaces the data as ZooKeeper does for the ensemble's configuration: the version is -1, always, and
    /// mzxid that of the reconfiguration that made it, which `since` need not be. `mtime` in ms.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn set_config(
        &mut self,
        since: Zxid,
        path: &str,
        data: &[u8],
        (mzxid, mtime): (Zxid, i64),
    ) -> Result<Changed, ApplyError> {
        let stamp = Some((mzxid.0, mtime, -1));
        self.revise(since, path, &Revision { data: Some(Some(data)), stamp, ..Revision::default() })
    }

    /// Replaces the ACL. `aversion` is the new one.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn set_acl(
        &mut self,
        zxid: Zxid,
        path: &str,
        acl: &[Acl],
        aversion: i32,
    ) -> Result<Changed, ApplyError> {
        self.revise(zxid, path, &Revision { acl: Some(acl), aversion: Some(aversion), ..Revision::default() })
    }

    /// Gives a node the ACL of a create that found it there already (fact sheet 10.1); aversion stays.
    ///
    /// # Errors
    /// `NoNode`.
    pub fn adopt_acl(&mut self, zxid: Zxid, path: &str, acl: &[Acl]) -> Result<Changed, ApplyError> {
        self.revise(zxid, path, &Revision { acl: Some(acl), ..Revision::default() })
    }

    fn revise(&mut self, zxid: Zxid, path: &str, r: &Revision<'_>) -> Result<Changed, ApplyError> {
        self.step(zxid);
        let on = self.digests();
        let mut entry = self.store.entry(path).ok_or(ApplyError::NoNode)?;
        let before = digest_if(on, path, &entry);
        let old_len = entry.view().data().map_or(0, <[u8]>::len);
        let acl = entry.revise(zxid.0, r);
        let new_len = entry.view().data().map_or(0, <[u8]>::len);
        let after = digest_if(on, path, &entry);
        self.digest = self.digest.wrapping_sub(before).wrapping_add(after);
        self.data_bytes = self.data_bytes + new_len as u64 - old_len as u64;
        Ok(Changed { acl, old_len })
    }

    /// Adds a node from a snapshot, or gives one that every tree has what the snapshot says of it. Parents come before
    /// their children; no transaction has been applied yet.
    ///
    /// # Errors
    /// `NoParent`, `Exists`: the snapshot is damaged.
    ///
    /// # Panics
    /// If a transaction has been applied.
    pub fn load_node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
    ) -> Result<(), ApplyError> {
        assert_eq!(self.last, Zxid::ZERO, "snapshots are loaded before transactions");
        let path = if path == "/" { "" } else { path };
        let loaded = if path.is_empty() {
            Err(LoadError::Exists)
        } else {
            self.store.load(path, acl, &built(stat, data))
        };
        match loaded {
            Ok(()) => self.data_bytes += size_of(path, data),
            Err(LoadError::NoParent) => return Err(ApplyError::NoParent),
            Err(LoadError::Exists) => self.overwrite(path, data, acl, stat)?,
        }
        if self.digests() {
            self.digest = self.digest.wrapping_add(digest::node(path, data, stat).into());
        }
        Ok(())
    }

    /// Takes the old digest out and gives a node of a tree under construction another content.
    fn overwrite(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
    ) -> Result<(), ApplyError> {
        let on = self.digests();
        let mut entry = self.store.entry(path).ok_or(ApplyError::NoParent)?;
        let was = entry.view().stat_persisted();
        let same = |s: &StatPersisted| (s.czxid, s.ctime, s.ephemeral_owner);
        // What every tree has was made by no transaction; anything else is there twice.
        if same(&was) != same(stat) || was.czxid != Zxid::ZERO {
            return Err(ApplyError::Exists);
        }
        let before = digest_if(on, path, &entry);
        let old_len = entry.view().data().map_or(0, <[u8]>::len) as u64;
        let stamp = Some((stat.mzxid.0, stat.mtime, stat.version));
        let aversion = Some(stat.aversion);
        entry.revise(0, &Revision { data: Some(data), stamp, aversion, acl: Some(acl) });
        let num = entry.child_fields().num;
        entry.set_children(0, ChildFields { pzxid: stat.pzxid.0, cversion: stat.cversion, num });
        self.digest = self.digest.wrapping_sub(before);
        self.data_bytes = self.data_bytes + data.map_or(0, <[u8]>::len) as u64 - old_len;
        Ok(())
    }

    /// Adds `/zookeeper`, `/zookeeper/quota` and `/zookeeper/config` where a snapshot did not hold them.
    ///
    /// # Panics
    /// As [`Writer::load_node`].
    pub fn ensure_builtins(&mut self) {
        let read_only = [Acl { perms: perm::READ, ..Acl::open() }];
        let open = [Acl::open()];
        let plain = StatPersisted::default();
        // ZooKeeper makes this one by a setACL that says "any version".
        let config = StatPersisted { aversion: -1, ..plain };
        for (path, acl, stat) in [
            ("/zookeeper", &open, &plain),
            ("/zookeeper/quota", &open, &plain),
            ("/zookeeper/config", &read_only, &config),
        ] {
            if self.latest().get(path).is_none() {
                self.load_node(path, Some(b""), acl, stat).expect("its parent was just made");
            }
        }
    }

    /// Lets readers know of everything up to `upto`: to be called after the change ring's own release of it.
    pub fn publish(&mut self, upto: Zxid) {
        self.store.publish(upto.0, self.data_bytes);
    }

    /// The end that readers can know of.
    pub fn published(&self) -> Zxid {
        Zxid(self.store.published())
    }

    /// Gives back what no reader needs any more, in at most `budget` steps (a step: one version, node or index part
    /// looked at). Cheap when there is nothing to do: two fences and a look at every reader's floor. A change leaves one
    /// step behind, a delete three, and each a further one while a walk is under way: so a budget of four per operation
    /// applied keeps up.
    pub fn collect(&mut self, budget: usize) -> Collected {
        self.store.collect(budget)
    }

    /// Bytes held only because a reader may still look at them, or because `collect` has not come to them yet.
    pub fn retained_bytes(&self) -> usize {
        self.store.retained_bytes()
    }

    /// Bytes of the index.
    pub fn index_bytes(&self) -> usize {
        self.store.index_bytes()
    }

    /// Distinct ACLs in use.
    pub fn acl_count(&self) -> usize {
        self.store.acl_count()
    }

    /// Nodes as ZooKeeper counts them: the root twice, as "" and as "/". 5 for an empty server.
    pub fn node_count(&self) -> u64 {
        self.store.nodes() + 1
    }

    /// The sum over all nodes of the lengths of path and data, as ZooKeeper counts it.
    pub fn approximate_data_size(&self) -> u64 {
        self.data_bytes
    }

    /// The digest of the tree (fact sheet 10.2), or what was adopted.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Where the digest comes from.
    pub fn digest_mode(&self) -> DigestMode {
        self.mode
    }

    /// From here on [`Writer::digest`] gives `digest`, and changes do not alter it.
    pub fn adopt_digest(&mut self, digest: u64) {
        self.mode = DigestMode::Adopted;
        self.digest = digest;
    }

    /// Computes the digest from every node, and keeps it up to date from here on.
    pub fn compute_digest(&mut self) -> u64 {
        let mut sum = 0u64;
        let mut path = String::new();
        let mut next = Some(self.latest().root());
        while let Some(node) = next {
            path.clear();
            node.path_into(&mut path);
            sum = sum.wrapping_add(digest::of_view(&path, &node));
            next = node.next_in_tree();
        }
        self.mode = DigestMode::Computed;
        self.digest = sum;
        sum
    }
}

/// The parts of a node with this status. The ACL id is filled in where the list is interned.
fn built<'a>(stat: &StatPersisted, data: Option<&'a [u8]>) -> Parts<'a> {
    Parts {
        czxid: stat.czxid.0,
        ctime: stat.ctime,
        owner: stat.ephemeral_owner,
        fields: DataFields {
            data,
            mzxid: stat.mzxid.0,
            mtime: stat.mtime,
            version: stat.version,
            aversion: stat.aversion,
            acl: 0,
        },
        children: ChildFields { pzxid: stat.pzxid.0, cversion: stat.cversion, num: 0 },
    }
}
