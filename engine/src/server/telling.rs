//! From committed transactions and accepted controls to change batches.
//!
//! Invariants:
//! - what is applied is decoded from the bytes that were logged;
//! - a control leaves when all that it stands behind is applied; controls leave in the order in which they were accepted,
//!   but for answers to four-letter words, which stand behind nothing.

use super::{Server, Service};
use crate::error::Code;
use crate::ids::{ConnId, SessionId, Zxid};
use crate::msg::{Act, ChangeBatch, Span, Step, Target};
use crate::pipeline::{Applied, Origin};
use crate::proto::{Encode, Op};
use crate::session::password;
use crate::time::Now;
use crate::zab::Role;

/// Tree digests kept: of every zxid that this divides, so many (fact sheet section 4, `hash`).
const DIGEST_EVERY: u64 = 128;
const DIGESTS_MAX: usize = 1024;
/// Bytes of replies and paths beyond which a batch is closed. One step more may follow.
const BATCH_BYTES_MAX: usize = 16 << 20;

/// Something accepted that is no transaction, and what must be applied before it leaves.
#[derive(Debug)]
pub(super) struct Control {
    pub behind: Zxid,
    pub item: Item,
}

/// What leaves between transactions.
#[derive(Debug)]
pub(super) enum Item {
    /// Body and target of a control; the span of a `Reply` or `Text` act is filled in when it leaves.
    Control { target: Target, body: Vec<u8> },
    /// getEphemerals: answered from the state that its place in the order has.
    Ephemerals { conn: ConnId, session: SessionId, prefix: String },
    /// The leader has answered the oldest forwarded sync of this session.
    SyncDone { session: SessionId },
}

impl Item {
    fn bytes(&self) -> usize {
        if let Item::Control { body, .. } = self { body.len() } else { 0 }
    }
    /// Whether it means something also when no client is served.
    fn outlives_roles(&self) -> bool {
        matches!(self, Item::Control { target: Target::Conn(_, Act::Close) | Target::All(_), .. })
    }
}

/// Who waits for a transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Waits {
    Nobody,
    Reply(ConnId),
    Session(ConnId),
}

impl Server {
    pub(super) fn control_behind(&mut self, behind: Zxid, item: Item) {
        self.queued_bytes += item.bytes();
        // In order: nothing overtakes what was accepted earlier.
        let behind = self.controls.back().map_or(behind, |c| c.behind.max(behind));
        self.controls.push_back(Control { behind, item });
    }

    /// Drops whatever belonged to the role that has ended.
    pub(super) fn forget_role_items(&mut self) {
        self.controls.retain(|c| c.item.outlives_roles());
        for c in &mut self.controls {
            c.behind = Zxid::ZERO;
        }
        self.waiting.clear();
        let kept = self.controls.iter().map(|c| &c.item).chain(&self.prompt);
        self.queued_bytes = kept.map(Item::bytes).sum();
    }

    /// Whether [`Server::advance`] has something to tell.
    pub fn can_advance(&self) -> bool {
        !self.prompt.is_empty() || self.control_is_due() || self.next_is_due()
    }
    fn control_is_due(&self) -> bool {
        self.controls.front().is_some_and(|c| c.behind <= self.db.last())
    }
    fn next_is_due(&self) -> bool {
        !self.is_draining() && self.zab.peek_committed().is_some()
    }

    /// Applies what is committed and releases the controls between, at most `budget` steps, into `batch`. The caller
    /// puts the batch into the change ring right after, and then calls [`Server::published`].
    pub fn advance(&mut self, batch: &mut ChangeBatch, budget: usize, now: Now) {
        batch.generation = self.generation;
        for _ in 0..budget {
            if batch.bytes.len() >= BATCH_BYTES_MAX {
                break;
            }
            if let Some(item) = self.prompt.pop_front() {
                self.queued_bytes -= item.bytes();
                self.tell(item, batch);
            } else if self.control_is_due() {
                let Some(control) = self.controls.pop_front() else { break };
                self.queued_bytes -= control.item.bytes();
                self.tell(control.item, batch);
            } else if self.next_is_due() {
                let Some(entry) = self.zab.take_committed() else { break };
                self.apply(entry.zxid, &entry.txn, batch, now);
            } else {
                break;
            }
        }
        self.zab.trim();
        if let Service::Ordering(prep) = &mut self.service {
            prep.applied(self.db.last());
        }
        self.try_open(now);
    }

    /// The batch that the last [`Server::advance`] filled is in the change ring.
    pub fn published(&mut self) {
        self.db.tree.publish(self.db.last());
    }

    fn tell(&mut self, item: Item, batch: &mut ChangeBatch) {
        match item {
            Item::Control { target, body } => {
                let span = batch.put(|out| out.extend_from_slice(&body));
                push(batch, None, batch.changes.len(), with_span(target, span));
            }
            Item::Ephemerals { conn, session, prefix } => {
                let mut body = Vec::new();
                let act = if self.put_ephemerals(session, &prefix, &mut body) {
                    Act::Reply { err: Code::OK, body: batch.put(|out| out.extend_from_slice(&body)) }
                } else {
                    // No connection may have that much unsent; and there is no error for it.
                    Act::Close
                };
                push(batch, None, batch.changes.len(), Target::Conn(conn, act));
            }
            Item::SyncDone { session } => {
                for item in self.learning.sync_done(session) {
                    self.tell(item, batch);
                }
            }
        }
    }

    /// `false`: the list is longer than any reply may be.
    fn put_ephemerals(&self, session: SessionId, prefix: &str, out: &mut Vec<u8>) -> bool {
        let all = prefix.trim().is_empty() || prefix == "/";
        let paths: Vec<_> = self.db.ephemerals(session).filter(|p| all || p.starts_with(prefix)).collect();
        if paths.iter().map(|p| p.len() + 4).sum::<usize>() > self.limits.conn_hard_limit_bytes {
            return false;
        }
        out.put_len(paths.len());
        for p in paths {
            out.put_string(p);
        }
        true
    }

    fn apply(&mut self, zxid: Zxid, bytes: &[u8], batch: &mut ChangeBatch, now: Now) {
        self.gauges.commits += 1;
        self.pace.applied(bytes, now.wall);
        let own = self.waiting.pop_front_if(|(z, _)| *z == zxid);
        // In an ensemble the digest is computed and compared also for what this server proposed: roles change, and what a
        // prediction only claimed would be the base of the next leader's.
        let alone = own.is_some() && self.zab.role() == Role::Alone;
        let origin = if alone { Origin::Own } else { Origin::Foreign };
        let (waits, freed) = match own {
            Some((_, waits)) => {
                self.queued_bytes -= bytes.len();
                (waits, Vec::new())
            }
            None => self.learning.finished(bytes),
        };
        let changes_from = batch.changes.len();
        let reply = matches!(waits, Waits::Reply(_));
        let (applied, body) = match self.db.apply(bytes, origin, Some(batch), reply) {
            Ok(done) => done,
            Err(_) => {
                // Committed elsewhere, and not understood here: going on would be another state.
                self.needs.push_back(super::Need::Fail(format!(
                    "the committed transaction {zxid} cannot be decoded: this server cannot go on; report this"
                )));
                return;
            }
        };
        self.note_digest(applied.zxid);
        let target = match waits {
            _ if applied.kind == Op::CreateSession.wire() => self.session_made(&applied, waits, now),
            _ if applied.kind == Op::CloseSession.wire() => self.session_closed(applied.session, waits),
            // Moved to another server: closed without a reply (fact sheet 3.3).
            Waits::Reply(conn) if applied.code == Code::SESSIONMOVED => Target::Conn(conn, Act::Close),
            Waits::Reply(conn) => Target::Conn(conn, Act::Reply { err: applied.code, body }),
            // An error instead of the session.
            Waits::Session(conn) => Target::Conn(conn, Act::Refused),
            Waits::Nobody => Target::None,
        };
        push(batch, Some(applied.zxid), changes_from, target);
        for item in freed {
            self.tell(item, batch);
        }
    }

    fn note_digest(&mut self, zxid: Zxid) {
        if self.limits.digest && self.db.is_whole() && zxid.0.is_multiple_of(DIGEST_EVERY) {
            if self.digests.len() == DIGESTS_MAX {
                self.digests.pop_front();
            }
            self.digests.push_back((zxid, self.db.tree.digest()));
        }
    }
    /// Tree digests that were kept, oldest first.
    pub fn digests(&self) -> impl Iterator<Item = &(Zxid, u64)> {
        self.digests.iter()
    }

    fn session_made(&mut self, applied: &Applied, waits: Waits, now: Now) -> Target {
        let (session, timeout_ms) = (applied.session, applied.timeout_ms);
        if matches!(self.service, Service::Ordering(_)) || matches!(waits, Waits::Session(_)) {
            self.tracker.add(session, timeout_ms, now.mono);
        }
        let Waits::Session(conn) = waits else { return Target::None };
        match self.tracker.attach(session, conn, timeout_ms, now.mono) {
            Some(a) => {
                let attach = a.attach;
                Target::Conn(conn, Act::Attached { session, attach, timeout_ms, password: password(session) })
            }
            None => Target::Conn(conn, Act::Refused),
        }
    }

    /// The client that asked gets its reply; whoever else owns the session is closed without one.
    fn session_closed(&mut self, session: SessionId, waits: Waits) -> Target {
        let owner = self.tracker.remove(session);
        self.learning.closed(session);
        match (waits, owner) {
            (Waits::Reply(conn), _) => Target::Conn(conn, Act::ReplyAndClose),
            (_, Some(conn)) => Target::Conn(conn, Act::Close),
            _ => Target::None,
        }
    }
}

/// Fills the span into the acts that have one.
fn with_span(target: Target, span: Span) -> Target {
    match target {
        Target::Conn(conn, Act::Reply { err, .. }) => Target::Conn(conn, Act::Reply { err, body: span }),
        Target::Conn(conn, Act::Text(_)) => Target::Conn(conn, Act::Text(span)),
        other => other,
    }
}

fn push(batch: &mut ChangeBatch, zxid: Option<Zxid>, changes_from: usize, target: Target) {
    match &target {
        Target::None => {}
        Target::Conn(conn, _) => batch.concerns |= 1 << (conn.shard.0 % 64),
        Target::All(_) => batch.concerns = u64::MAX,
    }
    let changes = Span { start: changes_from as u32, end: batch.changes.len() as u32 };
    batch.steps.push(Step { zxid, changes, target });
}
