//! Members' states.
//!
//! Source: DESIGN section 6 and field notes 2845, 2846, 3144: equal trees, sessions and digests at equal zxids; what was
//! durable is there again after a crash; field note 1653: every state that a crash leaves can be started from.

use super::history::History;
use super::model::Model;
use crate::truth::Truth;
use engine::ids::{SessionId, Zxid};
use engine::server::Server;
use engine::txn::Txn;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// See the module.
#[derive(Default)]
pub struct State {
    digests: HashMap<Zxid, (usize, u64)>,
}

impl State {
    /// The digest of a member's tree.
    pub fn digest(&mut self, node: usize, at: Zxid, digest: u64, history: &History) {
        let (first, known) = *self.digests.entry(at).or_insert((node, digest));
        assert_eq!(known, digest, "the trees of {} and {} differ at {at}", first + 1, node + 1);
        let said = history.get(at).and_then(|bytes| Txn::decode(bytes).ok()?.digest);
        assert!(said.is_none_or(|d| d == digest), "{}: the tree at {at} is not its leader's", node + 1);
    }

    /// A member has started: everything that was durable when it ended is there again.
    pub fn recovered(&self, node: usize, now: &Truth, before: &Truth) {
        assert!(
            now.epochs.accepted >= before.epochs.accepted && now.epochs.current >= before.epochs.current,
            "{}: epochs {:?} became {:?}",
            node + 1,
            before.epochs,
            now.epochs
        );
        // A cut of the history that was not durable may be undone, so only what is missing counts.
        for e in &before.log {
            let there = e.zxid <= now.base || now.log.iter().any(|n| n.zxid == e.zxid && n.txn == e.txn);
            assert!(there, "{}: {} was durable and is gone after a restart", node + 1, e.zxid);
        }
    }

    /// A member's whole state is the model's.
    pub fn whole(&self, node: usize, server: &Server, model: &Model, last: Zxid) {
        let db = server.db();
        assert_eq!(db.last(), last, "{} is not at the end of the history", node + 1);
        let view = db.tree.latest();
        let mut expected = 0;
        for (path, v) in model.latest() {
            let node_view = view.get(path).unwrap_or_else(|| panic!("{} lacks {path}", node + 1));
            let stat = node_view.stat();
            assert_eq!(node_view.data().unwrap_or_default(), v.data, "{}: data of {path}", node + 1);
            assert_eq!(
                (stat.version, stat.czxid, stat.mzxid),
                (v.version, v.czxid, v.mzxid),
                "{}: {path}",
                node + 1
            );
            assert_eq!(stat.ephemeral_owner, v.owner, "{}: owner of {path}", node + 1);
            expected += 1;
        }
        for (path, v) in model.latest() {
            let acl = view.get(path).map(|n| n.acl().to_vec());
            assert_eq!(acl.as_deref(), Some(v.acl.as_slice()), "{}: the ACL of {path}", node + 1);
        }
        let mut found = 0;
        let mut at = vec!["/".to_owned()];
        while let Some(p) = at.pop() {
            let Some(n) = view.get(&p) else { continue };
            if p != "/" && !p.starts_with("/zookeeper") {
                found += 1;
            }
            let stem = if p == "/" { "" } else { &p };
            at.extend(n.children().map(|c| format!("{stem}/{c}")));
        }
        assert_eq!(found, expected, "{} holds other nodes than were committed", node + 1);
        let sessions: BTreeSet<SessionId> = db.sessions().keys().copied().collect();
        let live: BTreeSet<SessionId> =
            model.sessions.iter().filter(|(_, l)| l.closed.is_none()).map(|(s, _)| *s).collect();
        assert_eq!(sessions, live, "{}: sessions", node + 1);
        let owned: BTreeMap<SessionId, BTreeSet<String>> = db
            .ephemeral_owners()
            .map(|(s, p)| (s, p.iter().map(|p| p.to_string()).collect::<BTreeSet<_>>()))
            .filter(|(_, p)| !p.is_empty())
            .collect();
        for (session, paths) in &owned {
            assert_eq!(model.owned(*session), Some(paths), "{}: ephemerals of {session}", node + 1);
        }
    }
}
