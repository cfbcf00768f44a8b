//! The state that transactions change: tree, sessions, and the indexes over them.
//!
//! Not here: what a request may do (`prep`), reply encoding (`reply`).
//! Invariants:
//! - applying is idempotent, as ZooKeeper's is, so that a log may overlap a snapshot (fact sheet 10.1);
//! - one transaction's changes carry one zxid and are published together;
//! - the session map holds exactly the sessions whose creation is applied and whose close is not.

use super::overlay::shared_acl;
use super::quota::{Quotas, Track};
use super::reply;
use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use crate::msg::{Change, ChangeBatch, Span};
use crate::path;
use crate::proto::{Acl, EventKind, Malformed};
use crate::tree::{self, ApplyError, DigestMode, Kind, NodeView, StatPersisted};
use crate::txn::{MultiItem, Txn, TxnBody};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Something that an operator should hear of; the driver logs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notice {
    /// A soft quota is exceeded: nothing is refused.
    QuotaExceeded { path: Box<str>, count: i64, bytes: i64 },
    /// The tree differs from what the transaction's author had: a bug, or damage.
    DigestMismatch { zxid: Zxid, expected: u64, found: u64 },
}

/// Notices kept until the driver takes them; more are dropped and counted with the last.
const NOTICES_MAX: usize = 64;

/// Who wrote a transaction, which decides how its digest is treated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// This server's own prep: the digest it predicted is taken over.
    Own,
    /// A log, a peer: the digest is computed and compared.
    Foreign,
}

/// What applying gave.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Applied {
    pub zxid: Zxid,
    /// For the reply's header.
    pub code: Code,
    pub kind: i32,
    pub session: SessionId,
    /// Of a createSession.
    pub timeout_ms: i32,
}

/// See the module.
pub struct Database {
    /// The only writer of the tree.
    pub tree: tree::Writer,
    last: Zxid,
    /// From here on the tree is that of `last` exactly; before, it holds parts of what was committed up to here.
    whole_at: Zxid,
    /// A digest did not agree before the tree was whole: it did hold what it was yet to be told.
    mixed: bool,
    sessions: HashMap<SessionId, i32>,
    ephemerals: HashMap<SessionId, HashSet<Arc<str>>>,
    /// How many there are in all.
    ephemeral_count: usize,
    containers: HashSet<Arc<str>>,
    ttls: HashSet<Arc<str>>,
    quotas: Quotas,
    notices: Vec<Notice>,
}

/// Where a transaction's effects are told: a batch that shards will see, or nowhere (replay).
struct Told<'a> {
    batch: Option<&'a mut ChangeBatch>,
    reply: bool,
}

impl Database {
    /// Over an empty tree, before the first transaction.
    pub fn new(tree: tree::Writer) -> Database {
        Database {
            tree,
            last: Zxid::ZERO,
            whole_at: Zxid::ZERO,
            mixed: false,
            sessions: HashMap::new(),
            ephemerals: HashMap::new(),
            ephemeral_count: 0,
            containers: HashSet::new(),
            ttls: HashSet::new(),
            quotas: Quotas::default(),
            notices: Vec::new(),
        }
    }

    /// Adds a node of a snapshot: parents first.
    pub fn load_node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
    ) -> Result<(), ApplyError> {
        self.tree.load_node(path, data, acl, stat)?;
        self.index_owner(path, stat.ephemeral_owner);
        Ok(())
    }

    /// Ends loading: the nodes are the state at `last`, when these sessions lived.
    pub fn loaded(&mut self, last: Zxid, sessions: HashMap<SessionId, i32>) {
        self.last = last;
        self.sessions = sessions;
        self.index_quotas();
    }

    /// What was loaded is fuzzy: it was read while transactions behind its zxid were applied, nobody knows yet which.
    pub fn set_fuzzy(&mut self) {
        self.whole_at = Zxid::MAX;
    }
    /// All that a fuzzy state may hold beyond its zxid is committed up to this one.
    pub fn set_whole_at(&mut self, zxid: Zxid) {
        self.whole_at = zxid;
        self.count_what_was_mixed();
    }
    /// Whether it is known where the state is whole.
    pub fn knows_whole(&self) -> bool {
        self.whole_at != Zxid::MAX
    }
    /// Whether the state is that of [`Database::last`] exactly.
    pub fn is_whole(&self) -> bool {
        self.last >= self.whole_at
    }

    fn index_quotas(&mut self) {
        let view = self.tree.latest();
        let mut at = vec![path::QUOTA_ROOT.to_owned()];
        while let Some(p) = at.pop() {
            let Some(node) = view.get(&p) else { continue };
            if let Some(subject) = path::quota_of_limits(&p) {
                self.quotas.add(subject);
            }
            at.extend(node.children().map(|c| format!("{p}/{c}")));
        }
    }

    /// The last zxid applied.
    pub fn last(&self) -> Zxid {
        self.last
    }
    /// Sessions, with their timeouts in ms.
    pub fn sessions(&self) -> &HashMap<SessionId, i32> {
        &self.sessions
    }
    /// Paths of the ephemerals that a session owns.
    pub fn ephemerals(&self, session: SessionId) -> impl Iterator<Item = &Arc<str>> {
        self.ephemerals.get(&session).into_iter().flatten()
    }
    /// Ephemerals of all sessions.
    pub fn ephemeral_count(&self) -> usize {
        self.ephemeral_count
    }
    /// Every session that owns ephemerals, with their paths.
    pub fn ephemeral_owners(&self) -> impl Iterator<Item = (SessionId, &HashSet<Arc<str>>)> {
        self.ephemerals.iter().map(|(s, p)| (*s, p))
    }
    /// Containers and TTL nodes: candidates of the reaper.
    pub fn reapable(&self) -> impl Iterator<Item = &Arc<str>> {
        self.containers.iter().chain(&self.ttls)
    }
    /// Takes what the operator should hear of.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Limits and usage of the nearest quota over `path`.
    pub(super) fn quota_over(&self, at: &str) -> Option<(Track, Track)> {
        let subject = self.quotas.over(at)?;
        let view = self.tree.latest();
        let read = |p: String| view.get(&p).and_then(|n| n.data().map(Track::parse));
        Some((read(path::quota_limits(subject))?, read(path::quota_stats(subject))?))
    }

    fn notice(&mut self, n: Notice) {
        if self.notices.len() < NOTICES_MAX {
            self.notices.push(n);
        }
    }

    /// Applies one transaction. With a batch, its changes are appended there, and, when `reply` is set, the reply
    /// body that the author of the request waits for is appended to the batch's bytes and returned.
    pub fn apply(
        &mut self,
        bytes: &[u8],
        origin: Origin,
        batch: Option<&mut ChangeBatch>,
        reply: bool,
    ) -> Result<(Applied, Span), Malformed> {
        let txn = Txn::decode(bytes)?;
        let mut told = Told { batch, reply };
        if origin == Origin::Own && self.tree.digest_mode() == DigestMode::Computed {
            self.tree.adopt_digest(self.tree.digest());
        }
        let start = told.batch.as_ref().map_or(0, |b| b.bytes.len());
        let mut body = Vec::new();
        let code = self.apply_body(&txn, &mut told, &mut body)?;
        self.last = txn.header.zxid;
        match (origin, txn.digest) {
            (Origin::Own, Some(predicted)) => self.tree.adopt_digest(predicted),
            (Origin::Foreign, Some(expected)) if self.tree.digest() != expected => {
                let found = self.tree.digest();
                match self.is_whole() {
                    true => self.notice(Notice::DigestMismatch { zxid: txn.header.zxid, expected, found }),
                    false => self.mixed = true,
                }
            }
            _ => {}
        }
        self.count_what_was_mixed();
        let span = match told.batch {
            Some(batch) if reply && code == Code::OK => batch.put(|out| out.extend_from_slice(&body)),
            _ => Span { start: start as u32, end: start as u32 },
        };
        let timeout_ms = if let TxnBody::CreateSession { timeout_ms } = txn.body { timeout_ms } else { 0 };
        let Txn { header, .. } = txn;
        Ok((
            Applied { zxid: header.zxid, code, kind: header.kind, session: header.session, timeout_ms },
            span,
        ))
    }

    fn apply_body(
        &mut self,
        txn: &Txn<'_>,
        told: &mut Told<'_>,
        out: &mut Vec<u8>,
    ) -> Result<Code, Malformed> {
        let (zxid, session) = (txn.header.zxid, txn.header.session);
        match &txn.body {
            TxnBody::Error { code } => return Ok(*code),
            TxnBody::CreateSession { timeout_ms } => {
                self.sessions.insert(session, *timeout_ms);
            }
            TxnBody::CloseSession { paths } => self.close_session(txn, session, paths.as_deref(), told),
            TxnBody::Multi { items } => self.multi(txn, items, told, out)?,
            body => {
                let code = self.one(txn, body, told);
                if code == Code::OK && told.reply {
                    reply::single(&self.tree.latest(), body, out);
                }
                return Ok(code);
            }
        }
        debug_assert!(zxid >= self.last);
        Ok(Code::OK)
    }

    fn multi(
        &mut self,
        txn: &Txn<'_>,
        items: &[MultiItem<'_>],
        told: &mut Told<'_>,
        out: &mut Vec<u8>,
    ) -> Result<(), Malformed> {
        if items.iter().any(MultiItem::is_error) {
            if told.reply {
                reply::failed_multi(items, out)?;
            }
            return Ok(());
        }
        for item in items {
            let body = TxnBody::decode(item.kind, &mut crate::proto::Decoder::new(item.body))?;
            self.one(txn, &body, told);
            if told.reply {
                reply::multi_item(&self.tree.latest(), &body, out);
            }
        }
        if told.reply {
            reply::multi_end(out);
        }
        Ok(())
    }

    /// The operations that may also stand in a multi.
    fn one(&mut self, txn: &Txn<'_>, body: &TxnBody<'_>, told: &mut Told<'_>) -> Code {
        match body {
            TxnBody::Create { path, data, acl, ephemeral, parent_cversion, .. } => {
                let owner = if *ephemeral { txn.header.session.0 } else { 0 };
                self.create(txn, path, *data, acl, owner, *parent_cversion, told)
            }
            TxnBody::CreateContainer { path, data, acl, parent_cversion } => {
                self.create(txn, path, *data, acl, Kind::CONTAINER, Some(*parent_cversion), told)
            }
            TxnBody::CreateTtl { path, data, acl, parent_cversion, ttl_ms } => {
                let owner = Kind::ttl_owner(*ttl_ms);
                self.create(txn, path, *data, acl, owner, Some(*parent_cversion), told)
            }
            TxnBody::Delete { path, .. } => self.delete(txn.header.zxid, path, told),
            TxnBody::SetData { path, data, version, .. } => self.set_data(txn, path, *data, *version, told),
            TxnBody::SetAcl { path, acl, version } => {
                self.tree.set_acl(txn.header.zxid, path, acl, *version).map_or(Code::NONODE, |_| Code::OK)
            }
            TxnBody::Check { .. } => Code::OK,
            _ => Code::MARSHALLINGERROR,
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn create(
        &mut self,
        txn: &Txn<'_>,
        at: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        owner: i64,
        parent_cversion: Option<i32>,
        told: &mut Told<'_>,
    ) -> Code {
        let zxid = txn.header.zxid;
        match self.tree.create(zxid, at, data, acl, owner, txn.header.time.0, parent_cversion) {
            Ok(_) => {}
            Err(ApplyError::Exists) => {
                let adopted = self.tree.adopt_acl(zxid, at, acl);
                debug_assert!(adopted.is_ok());
                return Code::NODEEXISTS;
            }
            Err(_) => return Code::NONODE,
        }
        self.index_owner(at, owner);
        self.tell(told, EventKind::NodeCreated, at);
        let bytes = data.map_or(0, <[u8]>::len) as i64;
        if let Some(subject) = path::quota_of_limits(at) {
            self.quotas.add(subject);
        } else if let Some(subject) = path::quota_of_stats(at) {
            self.count_quota(zxid, subject);
        }
        self.charge(zxid, at, bytes, 1);
        Code::OK
    }

    fn index_owner(&mut self, at: &str, owner: i64) {
        match Kind::of(owner) {
            Kind::Persistent => {}
            Kind::Container => {
                self.containers.insert(at.into());
            }
            Kind::Ttl => {
                self.ttls.insert(at.into());
            }
            Kind::Ephemeral => {
                let new = self.ephemerals.entry(SessionId(owner)).or_default().insert(at.into());
                self.ephemeral_count += usize::from(new);
            }
        }
    }

    fn unindex_owner(&mut self, at: &str, owner: i64) {
        if owner == 0 {
            return;
        }
        self.containers.remove(at);
        self.ttls.remove(at);
        if let Some(set) = self.ephemerals.get_mut(&SessionId(owner)) {
            self.ephemeral_count -= usize::from(set.remove(at));
            if set.is_empty() {
                self.ephemerals.remove(&SessionId(owner));
            }
        }
    }

    fn delete(&mut self, zxid: Zxid, at: &str, told: &mut Told<'_>) -> Code {
        let bytes = match self.tree.latest().get(at) {
            Some(node) => {
                self.tell(told, EventKind::NodeDeleted, at);
                node.data().map_or(0, <[u8]>::len) as i64
            }
            None => 0,
        };
        let Ok(deleted) = self.tree.delete(zxid, at) else { return Code::NONODE };
        self.unindex_owner(at, deleted.owner);
        for (below, owner) in &deleted.below {
            self.unindex_owner(below, *owner);
        }
        if let Some(subject) = path::quota_of_limits(at) {
            self.quotas.remove(subject);
        }
        self.charge(zxid, at, -bytes, -1);
        Code::OK
    }

    fn set_data(
        &mut self,
        txn: &Txn<'_>,
        at: &str,
        data: Option<&[u8]>,
        version: i32,
        told: &mut Told<'_>,
    ) -> Code {
        let zxid = txn.header.zxid;
        let Ok(changed) = self.tree.set_data(zxid, at, data, version, txn.header.time.0) else {
            return Code::NONODE;
        };
        self.tell(told, EventKind::NodeDataChanged, at);
        self.charge(zxid, at, data.map_or(0, <[u8]>::len) as i64 - changed.old_len as i64, 0);
        Code::OK
    }

    fn close_session(
        &mut self,
        txn: &Txn<'_>,
        session: SessionId,
        listed: Option<&[Cow<'_, str>]>,
        told: &mut Told<'_>,
    ) {
        let zxid = txn.header.zxid;
        for p in listed.unwrap_or_default() {
            self.delete(zxid, p, told);
        }
        // Normally none is left: the list was complete when it was made, and the session could not write since.
        let mut rest: Vec<Arc<str>> = self.ephemerals(session).cloned().collect();
        rest.sort_unstable();
        for p in rest {
            self.delete(zxid, &p, told);
        }
        self.sessions.remove(&session);
    }

    /// Appends a change to the batch: before the node goes, after it came.
    fn tell(&self, told: &mut Told<'_>, kind: EventKind, at: &str) {
        let Some(batch) = told.batch.as_mut() else { return };
        let view = self.tree.latest();
        let parent_path = if kind == EventKind::NodeDataChanged { None } else { path::parent_of(at).ok() };
        let readers = |n: Option<NodeView<'_>>| n.and_then(|n| shared_acl(&n));
        let change = Change {
            kind,
            path: batch.put(|out| out.extend_from_slice(at.as_bytes())),
            path_hash: view.hash(at).0,
            parent_hash: parent_path.map_or(0, |p| view.hash(if p.is_empty() { "/" } else { p }).0),
            acl: readers(view.get(at)),
            parent_acl: readers(parent_path.and_then(|p| view.get(p))),
        };
        batch.changes.push(change);
    }

    /// Books a change of size and number under the nearest quota. Limits are checked softly here: nothing fails.
    fn charge(&mut self, zxid: Zxid, at: &str, bytes: i64, count: i64) {
        if (bytes == 0 && count == 0) || at.starts_with(path::SYSTEM_PREFIX) {
            return;
        }
        let Some(subject) = self.quotas.over(at) else { return };
        let Some((limits, usage)) = self.quota_over(at) else { return };
        let (count, bytes) = (usage.count + count, usage.bytes + bytes);
        self.write_usage(zxid, subject, count, bytes);
        if (limits.count > -1 && count > limits.count) || (limits.bytes > -1 && bytes > limits.bytes) {
            self.notice(Notice::QuotaExceeded { path: subject.into(), count, bytes });
        }
    }

    fn write_usage(&mut self, zxid: Zxid, subject: &str, count: i64, bytes: i64) {
        let text = Track::usage(count, bytes);
        // A quota without its statistics node is not kept: as in ZooKeeper, the node is not made up.
        let _kept = self.tree.set_data_only(zxid, &path::quota_stats(subject), Some(text.as_bytes()));
    }

    /// Nodes that came in a snapshot and once more as transactions were counted twice, and no digest covers statistics.
    fn count_what_was_mixed(&mut self) {
        if self.mixed && self.is_whole() {
            self.mixed = false;
            for subject in self.quotas.all() {
                self.count_quota(self.last, &subject);
            }
        }
    }

    /// Counts what is below a path when its statistics node appears.
    fn count_quota(&mut self, zxid: Zxid, subject: &str) {
        let (mut count, mut bytes) = (0, 0);
        let view = self.tree.latest();
        let mut at = vec![subject.to_owned()];
        while let Some(p) = at.pop() {
            let Some(node) = view.get(&p) else { continue };
            count += 1;
            bytes += node.data().map_or(0, <[u8]>::len) as i64;
            at.extend(node.children().map(|c| format!("{p}/{c}")));
        }
        self.write_usage(zxid, subject, count, bytes);
    }
}
