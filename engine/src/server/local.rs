//! Sessions that no other server knows, and the mode in which there are no others (fact sheet 3.15).
//!
//! Not here: how roles begin and end (`roles`), the sessions' clocks (`session`).
//! Invariants:
//! - a local session is in no transaction; it ends with its time, with its client's word, or with the role;
//! - in read-only mode nothing is written, and it ends before anything is applied or replaced.

use super::Server;
use super::roles::{Need, Service};
use super::telling::Item;
use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use crate::msg::{Act, Connect, Request, Target};
use crate::proto::Op;
use crate::session::password;
use crate::time::{MonoMs, Now};
use crate::zab::Role;

/// A member looks for a quorum at least so long before it serves those who only read, ms; or a tick, if that is longer.
const READ_ONLY_AFTER_MS: u64 = 2_000;

impl Server {
    /// Whether it serves only clients that write nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.service, Service::ReadOnly)
    }

    /// When read-only mode begins, unless a quorum is found before.
    pub(super) fn read_only_at(&self) -> Option<MonoMs> {
        let waits = self.limits.read_only_mode
            && matches!(self.service, Service::Closed { missing: 0 })
            && self.zab.role() == Role::Looking;
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
        self.let_in(covers);
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
        self.is_read_only()
    }

    pub(super) fn new_local_session(&mut self, c: &Connect, now: Now) {
        let id = self.tracker.next_id();
        self.tracker.add_local(id, c.timeout_ms, now.mono);
        let granted = self.tracker.attach(id, c.conn, c.timeout_ms, now.mono);
        self.attached(&Connect { session: id, password: password(id), ..*c }, granted);
    }

    /// A request of a local session. `Some`: this answers it, in its place.
    pub(super) fn local_request(&mut self, r: &Request) -> Option<Item> {
        match r.op {
            Op::CloseSession => {
                self.tracker.remove(r.session);
                let target = Target::Conn(r.conn, Act::ReplyAndClose);
                Some(Item::Control { target, body: Vec::new() })
            }
            Op::GetEphemerals => None,
            _ if self.is_read_only() => Some(Item::failed(r.conn, Code::NOTREADONLY)),
            _ => None,
        }
    }

    /// The time of a local session is up.
    pub(super) fn end_local(&mut self, id: SessionId) {
        if let Some(conn) = self.tracker.remove(id) {
            self.control(Target::Conn(conn, Act::Close));
        }
    }
}
