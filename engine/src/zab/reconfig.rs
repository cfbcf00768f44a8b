//! Reconfigurations in a member's history (fact sheet section 11): which transactions are one, what they make of the
//! members, and who leads behind one.
//!
//! Not here: what a client may ask for (`server::reconfig`), files (`net`).
//! Invariants:
//! - from its proposal on a reconfiguration counts ([`Base::quorum`]), from its commit on it alone does;
//! - the version of the members never falls, and the one of those under way is above it;
//! - what is under way stands in the history, or the present leader has announced it.

use super::base::Base;
use super::members::Members;
use crate::ids::{ServerId, Zxid};
use crate::proto::{Decoder, Op};
use std::sync::Arc;

/// Where a transaction's kind stands, behind session, cxid, zxid and time (fact sheet 10.1).
const KIND_AT: std::ops::Range<usize> = 28..32;

/// Whether a transaction is a reconfiguration.
pub(super) fn is_reconfig(txn: &[u8]) -> bool {
    txn.get(KIND_AT).is_some_and(|kind| kind == Op::Reconfig.wire().to_be_bytes())
}

/// The members that a reconfiguration makes; `None`: it is none, or cannot be read.
pub(super) fn members_of(txn: &[u8]) -> Option<Members> {
    if !is_reconfig(txn) {
        return None;
    }
    let mut body = Decoder::new(txn.get(KIND_AT.end..)?);
    let _path = body.string().ok()?;
    let text = body.buffer().ok()??;
    Members::parse(std::str::from_utf8(text).ok()?).ok()
}

/// What a change of the members means for this server's role.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Change {
    /// It observes now and did not before, or the other way round.
    pub role: bool,
}

impl Base {
    /// Whether a server votes, now or after the reconfiguration under way.
    pub fn votes(&self, id: ServerId) -> bool {
        self.members.is_voter(id) || self.next.as_ref().is_some_and(|m| m.is_voter(id))
    }

    /// Whether a server is a member, now or after the reconfiguration under way.
    pub fn knows(&self, id: ServerId) -> bool {
        self.members.get(id).is_some() || self.next.as_ref().is_some_and(|m| m.get(id).is_some())
    }

    /// A quorum of the members, and of those of the reconfiguration under way.
    pub fn quorum(&self, has: impl Fn(ServerId) -> bool) -> bool {
        self.members.quorum(&has) && self.next.as_ref().is_none_or(|m| m.quorum(&has))
    }

    /// The newest members heard of, committed or not.
    pub fn last_seen(&self) -> &Arc<Members> {
        self.next.as_ref().unwrap_or(&self.members)
    }

    /// A reconfiguration is in the history. A leader proposes one only behind the commit of the one before.
    pub fn see_proposed(&mut self, members: Members) {
        let before = self.next.clone();
        self.see(members);
        if self.next != before {
            let transaction = |m: &Arc<Members>| Zxid(m.version).counter() > 0;
            self.passed = before.filter(transaction).or_else(|| self.passed.take());
        }
    }

    /// What the window says, as at a start: the files may be older than the log.
    pub fn see_history(&mut self) {
        let places = self.window.first()..self.window.end();
        let found: Vec<Members> =
            places.filter_map(|p| self.window.get(p)).filter_map(|e| members_of(&e.txn)).collect();
        for members in found {
            self.see_proposed(members);
        }
    }

    /// What is known to be committed counts, for want of a role that would say so.
    pub fn activate_passed(&mut self) {
        if let Some(members) = self.passed.take() {
            let _no_role_depends_on_it = self.activate(members);
        }
    }

    /// A reconfiguration is under way. An older one is passed over.
    pub fn see(&mut self, members: Members) {
        if self.reconfigurable && members.version > self.last_seen().version {
            self.next = Some(Arc::new(members));
            self.changed = true;
        }
    }

    /// What is not in the history is not under way: it was cut off, or a leader that is gone has announced it and never
    /// proposed it here. The first version of a leader's members (no transaction) stays: a quorum may have agreed on it.
    pub fn review_next(&mut self) {
        let unfounded = |m: &Arc<Members>| !self.is_founded(Zxid(m.version));
        let (next, passed) =
            (self.next.as_ref().is_some_and(unfounded), self.passed.as_ref().is_some_and(unfounded));
        if passed {
            self.passed = None;
        }
        if next {
            self.changed = true;
            let places = (self.window.first()..self.window.end()).rev();
            let found = places.filter_map(|p| self.window.get(p)).find_map(|e| members_of(&e.txn));
            self.next = found.filter(|m| m.version > self.members.version).map(Arc::new);
        }
    }

    /// Whether this version is no transaction, or one of the history.
    fn is_founded(&self, version: Zxid) -> bool {
        version.counter() == 0 || version <= self.window.base() || self.entry_makes(version).is_some()
    }

    /// The history is another one, and the state that holds all of it shows these members: what was under way in the old
    /// one is not any more, but for a leader's first version, as above.
    pub fn replace_next(&mut self, shown: Option<Members>) {
        let first = self.next.clone().filter(|m| Zxid(m.version).counter() == 0);
        let newer = |m: &Arc<Members>| self.reconfigurable && m.version > self.members.version;
        let next = shown.map(Arc::new).into_iter().chain(first).filter(newer).max_by_key(|m| m.version);
        self.changed |= next != self.next;
        (self.next, self.passed) = (next, None);
    }

    /// These are the members from here on. An older configuration than the present one changes nothing.
    pub fn activate(&mut self, members: Arc<Members>) -> Change {
        if !self.reconfigurable || members.version <= self.members.version {
            return Change { role: false };
        }
        for known in [&mut self.next, &mut self.passed] {
            known.take_if(|m| m.version <= members.version);
        }
        // Whoever is not a member any more follows without a vote, as in ZooKeeper.
        let observer = members.get(self.settings.me).is_some_and(|m| m.observer);
        let role = observer != self.settings.observer;
        self.settings.observer = observer;
        self.members = members;
        self.changed = true;
        Change { role }
    }

    /// The members that the reconfiguration with this zxid makes.
    pub fn reconfig_at(&self, zxid: Zxid) -> Option<Arc<Members>> {
        if let Some(next) = self.next.as_ref().filter(|m| m.version == zxid.0) {
            return Some(next.clone());
        }
        self.entry_makes(zxid).map(Arc::new)
    }

    /// The members that the entry with this zxid makes, if the window has it and it is a reconfiguration.
    fn entry_makes(&self, zxid: Zxid) -> Option<Members> {
        let place = self.window.after(Zxid(zxid.0.checked_sub(1)?))?;
        let entry = self.window.get(place).filter(|e| e.zxid == zxid)?;
        members_of(&entry.txn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;
    use crate::proto::Encode;

    fn txn(kind: i32, text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        out.put_long(SessionId(7).0);
        out.put_int(1);
        out.put_long(0x1_0000_0005);
        out.put_long(0);
        out.put_int(kind);
        out.put_string("/zookeeper/config");
        out.put_buffer(Some(text.as_bytes()));
        out.put_int(-1);
        out
    }

    #[test]
    fn a_reconfiguration_is_told_by_its_kind_and_read_from_its_text() {
        let text = "server.1=a:1:2:participant\nversion=100000005";
        let found = members_of(&txn(16, text)).unwrap();
        assert_eq!(found.text(), text);
        assert!(members_of(&txn(5, text)).is_none(), "a setData is none");
        assert!(is_reconfig(&txn(16, "nonsense")) && members_of(&txn(16, "nonsense")).is_none());
        assert!(members_of(&txn(16, text)[..40]).is_none());
        assert!(!is_reconfig(&[0; 8]));
    }
}
