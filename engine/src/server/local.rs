//! Sessions that no other server knows (fact sheet 3.16), and the mode in which there are no others (3.15).
//!
//! Not here: how roles begin and end (`roles`), the sessions' clocks (`session`).
//! Invariants:
//! - a local session is in no transaction until it is upgraded; it ends with its time, with its client's word, or with the role;
//! - in read-only mode nothing is written, and it ends before anything is applied or replaced.

use super::Server;
use super::roles::{Need, Service};
use super::telling::{Item, Waits};
use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use crate::msg::{Act, Connect, Request, Target};
use crate::pipeline::{Ask, makes_ephemeral};
use crate::proto::Op;
use crate::session::password;
use crate::time::{MonoMs, Now};
use crate::zab::{Forward, Ports, Role};

/// A member looks for a quorum at least so long before it serves those who only read, ms; or a tick, if that is longer.
const READ_ONLY_AFTER_MS: u64 = 2_000;

impl Server {
    /// Whether it serves only clients that write nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.service, Service::ReadOnly)
    }

    /// When read-only mode begins, unless a quorum is found before. Half a state is shown to nobody.
    pub(super) fn read_only_at(&self) -> Option<MonoMs> {
        let waits = self.limits.read_only_mode
            && matches!(self.service, Service::Closed { missing: 0 })
            && self.zab.role() == Role::Looking
            && self.db.is_whole();
        let wait_ms = READ_ONLY_AFTER_MS.max(u64::from(self.limits.tick_ms));
        waits.then(|| self.zab.since().plus(wait_ms + 1))
    }

    pub(super) fn try_read_only(&mut self, now: Now) {
        if self.read_only_at().is_none_or(|at| now.mono < at) {
            return;
        }
        self.needs.push_back(Need::Warn(format!(
            "no quorum is found: clients that only read are served from {}",
            self.db.last()
        )));
        // With all of its log applied, this server lacks nothing that was there before its epoch began.
        let whole = self.db.last() == self.zab.last_logged();
        let covers = if whole { Zxid::new(self.zab.epochs().current, 0) } else { Zxid::ZERO };
        self.service = Service::ReadOnly;
        self.let_in(covers, now);
    }

    /// A leader is chosen: whoever was let in to read goes before anything changes.
    pub(super) fn leave_read_only(&mut self) {
        if self.is_read_only() && self.zab.role() != Role::Looking {
            self.needs.push_back(Need::Say("a leader is chosen: read-only mode ends".into()));
            self.close_service();
        }
    }

    /// Whether a new session is to be known here only.
    pub(super) fn makes_local_sessions(&self) -> bool {
        let in_ensemble = matches!(self.zab.role(), Role::Leading | Role::Following | Role::Observing);
        self.is_read_only() || (self.limits.local_sessions && in_ensemble)
    }

    pub(super) fn new_local_session(&mut self, c: &Connect, now: Now) {
        let id = self.tracker.next_id();
        self.tracker.add_local(id, c.timeout_ms, now.mono);
        let granted = self.tracker.attach(id, c.conn, c.timeout_ms, now.mono);
        self.attached(&Connect { session: id, password: password(id), ..*c }, granted);
    }

    /// A request of a local session. `Some`: this answers it, in its place. `None`: it goes its ordinary way; what it
    /// needs was sent ahead.
    pub(super) fn local_request(&mut self, r: &Request, now: Now, out: &mut dyn Ports) -> Option<Item> {
        match r.op {
            Op::CloseSession => {
                self.tracker.remove(r.session);
                let target = Target::Conn(r.conn, Act::ReplyAndClose);
                Some(Item::Control { target, body: Vec::new() })
            }
            Op::GetEphemerals => None,
            _ if self.is_read_only() => Some(Item::failed(r.conn, Code::NOTREADONLY)),
            op if !makes_ephemeral(op, &r.body) => None,
            _ if !self.limits.local_session_upgrades => {
                Some(Item::failed(r.conn, Code::EPHEMERALONLOCALSESSION))
            }
            _ => {
                self.upgrade(r.session, now, out);
                None
            }
        }
    }

    /// All servers are told of a session that was local: the transaction that makes it, for the id that it has.
    fn upgrade(&mut self, id: SessionId, now: Now, out: &mut dyn Ports) {
        let Some(timeout_ms) = self.tracker.upgrade(id) else { return };
        let body = &timeout_ms.to_be_bytes();
        if let Service::Learning = self.service {
            self.learning.upgrade(id);
            let op = Op::CreateSession.wire();
            return self.zab.forward(&Forward { session: id, cxid: 0, op, body, ids: &[] }, out);
        }
        let op = Op::CreateSession;
        let ask = Ask { session: id, cxid: 0, op, body, ids: &[], live: true, moved: false };
        self.propose(ask, now, Waits::Nobody, out);
    }

    /// Leader: whether a learner's request may come from a local session of its own. Such a one may do anything but own
    /// a node.
    pub(super) fn is_local_elsewhere(&self, id: SessionId, op: Op, body: &[u8]) -> bool {
        self.limits.local_sessions
            && self.tracker.timeout_ms(id).is_none()
            && !self.tracker.is_own(id)
            && !makes_ephemeral(op, body)
    }

    /// The time of a local session is up.
    pub(super) fn end_local(&mut self, id: SessionId) {
        if let Some(conn) = self.tracker.remove(id) {
            self.control(Target::Conn(conn, Act::Close));
        }
    }
}
