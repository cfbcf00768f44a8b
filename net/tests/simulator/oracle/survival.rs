//! What was acknowledged is there.
//!
//! Source: DESIGN section 6 and the issue: of writes that a client was told of none is lost, whatever ends and however
//! often; above all when the power of all members fails at once. Judged from what the clients were told, at the end of
//! a run: each such write is looked for in the log (or under the base) of every member, and its effect in every tree.

use super::model::Model;
use super::replies::{Reply, What};
use crate::truth::{Truth, head_of};
use engine::error::Code;
use engine::ids::{SessionId, Zxid};
use engine::server::Server;
use std::collections::BTreeSet;

/// A write that a client was told of.
struct Acked {
    session: SessionId,
    xid: i32,
    at: Zxid,
    what: What,
    err: Code,
    /// Power cuts of all members before.
    cuts: u64,
}

/// See the module.
#[derive(Default)]
pub struct Survival {
    acked: Vec<Acked>,
    cuts: u64,
    lost: BTreeSet<Zxid>,
}

/// What became of the acknowledged writes.
#[derive(Clone, Copy, Default, Debug)]
pub struct Survived {
    pub acknowledged: u64,
    /// Of those: acknowledged before a power cut of all members.
    pub through_cuts: u64,
    /// Not found on some member at the end.
    pub lost: u64,
}

impl Survival {
    pub fn acknowledged(&mut self, r: &Reply<'_>) {
        if r.asked.what.is_write() {
            let (what, xid) = (r.asked.what.clone(), r.asked.xid);
            self.acked.push(Acked { session: r.session, xid, at: r.at, what, err: r.err, cuts: self.cuts });
        }
    }
    pub fn power_cut_of_all(&mut self) {
        self.cuts += 1;
    }

    /// Looks for every acknowledged write on one member.
    pub fn look(&mut self, server: &Server, truth: &Truth, model: &Model) {
        for a in &self.acked {
            if !is_logged(a, truth) || !is_shown(a, server, model) {
                self.lost.insert(a.at);
            }
        }
    }

    pub fn figures(&self) -> Survived {
        Survived {
            acknowledged: self.acked.len() as u64,
            through_cuts: self.acked.iter().filter(|a| a.cuts < self.cuts).count() as u64,
            lost: self.lost.len() as u64,
        }
    }

    /// Behind all looks.
    pub fn none_lost(&self) {
        let lost: Vec<String> = self
            .acked
            .iter()
            .filter(|a| self.lost.contains(&a.at))
            .map(|a| format!("{} ({:?})", a.at, a.what))
            .collect();
        assert!(lost.is_empty(), "acknowledged writes are lost: {}", lost.join(", "));
    }
}

fn is_logged(a: &Acked, truth: &Truth) -> bool {
    let found = truth.log.binary_search_by_key(&a.at, |e| e.zxid);
    a.at <= truth.base || found.is_ok_and(|i| head_of(&truth.log[i].txn) == (a.session, a.xid))
}

/// Whether its effect is in the tree, unless something later has changed the same node.
fn is_shown(a: &Acked, server: &Server, model: &Model) -> bool {
    if a.err != Code::OK {
        return true;
    }
    let view = server.db().tree.latest();
    let changed = |path: &str| model.change_after(path, a.at).is_some();
    match &a.what {
        What::Create { path, data, .. } => {
            let node = view.get(path);
            changed(path) || node.is_some_and(|n| n.stat().czxid == a.at && n.data() == Some(data))
        }
        What::Set { path, data } => {
            let node = view.get(path);
            changed(path) || node.is_some_and(|n| n.stat().mzxid == a.at && n.data() == Some(data))
        }
        What::Delete { path } => changed(path) || view.get(path).is_none(),
        What::Close => !server.db().sessions().contains_key(&a.session),
        _ => true,
    }
}
