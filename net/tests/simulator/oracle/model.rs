//! What the committed transactions say: every version of every node, every session, every change.
//!
//! Written from ZooKeeper's rules (fact sheet 3.6, 10.1), not from the engine's tree, so that a reply can be judged at
//! its own horizon. Invariant: closing a session removes exactly its ephemerals.

use engine::ids::{SessionId, Zxid};
use engine::proto::{Acl, Decoder, EventKind, Op};
use engine::txn::{Txn, TxnBody};
use std::collections::{BTreeMap, BTreeSet};

/// A node's state from a zxid on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Version {
    pub data: Vec<u8>,
    pub version: i32,
    pub czxid: Zxid,
    pub mzxid: Zxid,
    pub owner: i64,
    pub acl: Vec<Acl>,
}

/// A session's life.
#[derive(Clone, Copy, Debug)]
pub struct Life {
    pub closed: Option<Zxid>,
}

/// See the module.
#[derive(Default)]
pub struct Model {
    nodes: BTreeMap<String, Vec<(Zxid, Option<Version>)>>,
    /// Per path, in order.
    changes: BTreeMap<String, Vec<(Zxid, EventKind)>>,
    pub sessions: BTreeMap<SessionId, Life>,
    owned: BTreeMap<SessionId, BTreeSet<String>>,
}

impl Model {
    /// A node as it was at a horizon.
    pub fn at(&self, path: &str, h: Zxid) -> Option<&Version> {
        let versions = self.nodes.get(path)?;
        let n = versions.partition_point(|(z, _)| *z <= h);
        versions[..n].last()?.1.as_ref()
    }
    /// Names of the children at a horizon.
    pub fn children_at(&self, path: &str, h: Zxid) -> BTreeSet<String> {
        let prefix = format!("{path}/");
        self.nodes
            .range(prefix.clone()..)
            .take_while(|(p, _)| p.starts_with(&prefix))
            .filter(|(p, _)| !p[prefix.len()..].contains('/') && self.at(p, h).is_some())
            .map(|(p, _)| p[prefix.len()..].to_owned())
            .collect()
    }
    /// The first change of a path behind a horizon.
    pub fn change_after(&self, path: &str, h: Zxid) -> Option<(Zxid, EventKind)> {
        let changes = self.changes.get(path)?;
        changes.get(changes.partition_point(|(z, _)| *z <= h)).copied()
    }
    /// The first change of the children of a path behind a horizon.
    pub fn child_change_after(&self, path: &str, h: Zxid) -> Option<Zxid> {
        let prefix = format!("{path}/");
        self.changes
            .range(prefix.clone()..)
            .take_while(|(p, _)| p.starts_with(&prefix))
            .filter_map(|(_, changes)| {
                let from = changes.partition_point(|(z, _)| *z <= h);
                changes[from..].iter().find(|(_, k)| *k != EventKind::NodeDataChanged).map(|(z, _)| *z)
            })
            .min()
    }
    /// Every path that is there at the end, with its state.
    pub fn latest(&self) -> impl Iterator<Item = (&str, &Version)> {
        self.nodes.iter().filter_map(|(p, v)| Some((p.as_str(), v.last()?.1.as_ref()?)))
    }
    /// Paths of a live session's ephemerals.
    pub fn owned(&self, session: SessionId) -> Option<&BTreeSet<String>> {
        self.owned.get(&session)
    }
    pub fn is_live(&self, session: SessionId) -> bool {
        self.sessions.get(&session).is_some_and(|l| l.closed.is_none())
    }

    fn put(&mut self, zxid: Zxid, path: &str, to: Option<Version>, kind: EventKind) {
        self.nodes.entry(path.to_owned()).or_default().push((zxid, to));
        self.changes.entry(path.to_owned()).or_default().push((zxid, kind));
    }

    /// The next committed transaction.
    pub fn apply(&mut self, bytes: &[u8]) {
        let txn = Txn::decode(bytes).expect("a transaction");
        let (zxid, session) = (txn.header.zxid, txn.header.session);
        match &txn.body {
            TxnBody::Multi { items } => {
                if items.iter().any(|i| i.is_error()) {
                    return;
                }
                for i in items {
                    let body = TxnBody::decode(i.kind, &mut Decoder::new(i.body)).expect("an operation");
                    self.one(zxid, session, &body);
                }
            }
            TxnBody::CreateSession { .. } => {
                let former = self.sessions.insert(session, Life { closed: None });
                assert!(former.is_none(), "session {session} is made twice");
            }
            TxnBody::CloseSession { paths } => self.close(zxid, session, paths.as_deref()),
            body => self.one(zxid, session, body),
        }
    }

    fn close(&mut self, zxid: Zxid, session: SessionId, listed: Option<&[std::borrow::Cow<'_, str>]>) {
        let owned = self.owned.remove(&session).unwrap_or_default();
        if let Some(listed) = listed {
            let listed: BTreeSet<String> = listed.iter().map(|p| p.to_string()).collect();
            assert_eq!(listed, owned, "closing {session} at {zxid} lists other ephemerals than it owns");
        }
        if let Some(life) = self.sessions.get_mut(&session) {
            life.closed.get_or_insert(zxid);
        }
        for path in owned {
            self.put(zxid, &path, None, EventKind::NodeDeleted);
        }
    }

    fn one(&mut self, zxid: Zxid, session: SessionId, body: &TxnBody<'_>) {
        match body {
            TxnBody::Create { path, data, ephemeral, acl, .. } => {
                assert!(self.at(path, zxid).is_none(), "{zxid} creates {path}, which is there");
                let owner = if *ephemeral { session.0 } else { 0 };
                if *ephemeral {
                    assert!(
                        self.is_live(session),
                        "{zxid}: an ephemeral of session {session}, which does not live"
                    );
                    self.owned.entry(session).or_default().insert(path.to_string());
                }
                let data = data.unwrap_or_default().to_vec();
                let acl = acl.clone();
                let made = Version { data, version: 0, czxid: zxid, mzxid: zxid, owner, acl };
                self.put(zxid, path, Some(made), EventKind::NodeCreated);
            }
            TxnBody::Delete { path, .. } => {
                let gone = self
                    .at(path, zxid)
                    .unwrap_or_else(|| panic!("{zxid} deletes {path}, which is not there"));
                let owner = SessionId(gone.owner);
                if let Some(owned) = self.owned.get_mut(&owner) {
                    owned.remove(path.as_ref());
                }
                self.put(zxid, path, None, EventKind::NodeDeleted);
            }
            // Not a node like others: see `config`.
            TxnBody::SetData { op: Op::Reconfig, .. } => {}
            TxnBody::SetData { path, data, version, .. } => {
                let old =
                    self.at(path, zxid).unwrap_or_else(|| panic!("{zxid} sets {path}, which is not there"));
                let data = data.unwrap_or_default().to_vec();
                let new = Version { data, version: *version, mzxid: zxid, ..old.clone() };
                self.put(zxid, path, Some(new), EventKind::NodeDataChanged);
            }
            TxnBody::Error { .. } | TxnBody::Check { .. } => {}
            other => panic!("nobody asks for {other:?} here"),
        }
    }
}
