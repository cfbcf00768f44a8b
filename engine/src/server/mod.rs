//! The core: owns the order of writes, the sessions and the state, sans-io.
//!
//! In: messages of shards ([`Server::handle`]), durable tickets, ticks. Out: things to persist, change batches.
//! Not here: threads, rings, clocks, files (`net`), what four-letter words print (`net::words`).
//! Invariants:
//! - the queue holds proposals and controls in the order in which they were accepted; they leave in that order;
//! - a proposal leaves only when it is committed; a control leaves when everything before it has left;
//! - every accepted request leaves as exactly one step for its connection.

mod reaper;

use crate::error::Code;
use crate::ids::{ConnId, SessionId, Ticket, Zxid};
use crate::limits::Limits;
use crate::msg::{Act, Activity, ChangeBatch, Connect, Request, Span, Step, Target, ToCore};
use crate::pipeline::{Ask, Database, Notice, Origin, Prep};
use crate::proto::{Decoder, Encode, Op, ReconfigRequest};
use crate::session::{Standing, Tracker, first_id, password};
use crate::time::{MonoMs, Now};
use crate::zab::{Persistence, Solo};
use reaper::Reaper;
use std::collections::VecDeque;
use std::sync::Arc;

/// Something accepted and not yet told to the shards.
#[derive(Debug)]
enum Item {
    Txn {
        zxid: Zxid,
        bytes: Box<[u8]>,
        waits: Waits,
    },
    /// Body and target of a control; the span of a `Reply` or `Text` act is filled in when it leaves.
    Control {
        target: Target,
        body: Vec<u8>,
    },
    /// getEphemerals: answered from the state that its place in the order has.
    Ephemerals {
        conn: ConnId,
        session: SessionId,
        prefix: String,
    },
}

/// Who waits for a transaction.
#[derive(Debug)]
enum Waits {
    Nobody,
    Reply(ConnId),
    Session(ConnId),
}

/// Counters for status commands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Gauges {
    pub sessions: usize,
    pub ephemerals: usize,
    pub queued: usize,
    pub proposals: u64,
    pub commits: u64,
    pub expired: u64,
    pub dropped_stale: u64,
    pub digest_mismatches: u64,
    pub reaped: u64,
}

/// See the module.
pub struct Server {
    limits: Arc<Limits>,
    db: Database,
    prep: Prep,
    order: Solo,
    tracker: Tracker,
    reaper: Reaper,
    queue: VecDeque<Item>,
    queued_bytes: usize,
    generation: u64,
    gauges: Gauges,
    digests: VecDeque<(Zxid, u64)>,
}

/// Tree digests kept: of every zxid that this divides, so many (fact sheet section 4, `hash`).
const DIGEST_EVERY: u64 = 128;
const DIGESTS_MAX: usize = 1024;

/// Bytes and entries that may wait between prep and apply: above, the driver takes no more requests.
const QUEUE_ENTRIES_MAX: usize = 1 << 16;
const QUEUE_BYTES_MAX: usize = 256 << 20;
/// Bytes of replies and paths beyond which a batch is closed. One step more may follow.
const BATCH_BYTES_MAX: usize = 16 << 20;

impl Server {
    /// A lone server over a state recovered from disk. Every session gets its whole timeout from `now` on.
    pub fn new(limits: Arc<Limits>, db: Database, server_id: u8, shards: usize, now: Now) -> Server {
        let mut tracker = Tracker::new(limits.tick_ms, first_id(server_id, now.wall), shards);
        for (&id, &timeout_ms) in db.sessions() {
            tracker.add(id, timeout_ms, now.mono);
        }
        Server {
            prep: Prep::new(&db, &limits),
            order: Solo::new(db.last()),
            reaper: Reaper::new(now.mono),
            tracker,
            db,
            limits,
            queue: VecDeque::new(),
            queued_bytes: 0,
            generation: 0,
            gauges: Gauges::default(),
            digests: VecDeque::new(),
        }
    }

    /// Whether the driver may hand in more requests. Reports and goodbyes are always taken.
    pub fn has_room(&self) -> bool {
        self.queue.len() < QUEUE_ENTRIES_MAX && self.queued_bytes < QUEUE_BYTES_MAX
    }

    /// A message of a shard. Words and collected answers are the driver's: they come back.
    pub fn handle(&mut self, m: ToCore, now: Now, out: &mut dyn Persistence) -> Option<ToCore> {
        match m {
            ToCore::Request(r) => self.request(r, now, out),
            ToCore::Connect(c) => self.connect(c, now, out),
            ToCore::Gone { conn, session, .. } => self.tracker.detach(session, conn),
            ToCore::Activity(Activity { shard, heard, drained_upto }) => {
                for (id, at) in heard {
                    self.tracker.touch(id, at);
                }
                self.tracker.drained(shard, drained_upto);
            }
            other => return Some(other),
        }
        None
    }

    fn request(&mut self, r: Request, now: Now, out: &mut dyn Persistence) {
        let standing = self.tracker.standing(r.session, r.attach);
        if standing == Standing::Stranger {
            self.gauges.dropped_stale += 1;
            return;
        }
        self.tracker.touch(r.session, now.mono);
        match r.op {
            Op::Sync => self.sync(&r),
            Op::GetEphemerals => self.get_ephemerals(&r),
            // The one write whose record is read before it is given a zxid.
            Op::Reconfig if ReconfigRequest::decode(&mut Decoder::new(&r.body)).is_err() => {
                self.malformed(r.conn);
            }
            op => {
                if op == Op::CloseSession {
                    self.tracker.close(r.session);
                }
                let ask = Ask {
                    session: r.session,
                    cxid: r.xid,
                    op,
                    body: &r.body,
                    ids: &r.ids,
                    live: standing == Standing::Owner,
                };
                self.propose(ask, now, Waits::Reply(r.conn), out);
            }
        }
    }

    /// Answered in its place behind what was accepted before; the path comes back as it was sent.
    fn sync(&mut self, r: &Request) {
        let mut rest = Decoder::new(&r.body);
        let (err, body) = match rest.string() {
            Ok(_) => (Code::OK, r.body[..r.body.len() - rest.rest().len()].to_vec()),
            Err(_) => (Code::MARSHALLINGERROR, Vec::new()),
        };
        self.control_with(Target::Conn(r.conn, Act::Reply { err, body: Span::default() }), body);
    }

    fn get_ephemerals(&mut self, r: &Request) {
        match Decoder::new(&r.body).string() {
            Ok(prefix) => {
                let prefix = prefix.unwrap_or_default().into_owned();
                self.queue.push_back(Item::Ephemerals { conn: r.conn, session: r.session, prefix });
            }
            Err(_) => self.malformed(r.conn),
        }
    }

    /// Answered in its place, at no zxid.
    fn malformed(&mut self, conn: ConnId) {
        let act = Act::Reply { err: Code::MARSHALLINGERROR, body: Span::default() };
        self.control(Target::Conn(conn, act));
    }

    fn connect(&mut self, c: Connect, now: Now, out: &mut dyn Persistence) {
        if c.session == SessionId::NONE {
            let id = self.tracker.next_id();
            let body = c.timeout_ms.to_be_bytes();
            let ask = Ask { session: id, cxid: 0, op: Op::CreateSession, body: &body, ids: &[], live: true };
            self.propose(ask, now, Waits::Session(c.conn), out);
            return;
        }
        // The password first: a wrong one must not evict the holder (fact sheet 3.1, deviation advised there).
        let granted = (c.password == password(c.session))
            .then(|| self.tracker.attach(c.session, c.conn, c.timeout_ms, now.mono))
            .flatten();
        let Some(granted) = granted else {
            self.control(Target::Conn(c.conn, Act::Refused));
            return;
        };
        if let Some(former) = granted.former {
            self.control(Target::Conn(former, Act::Close));
        }
        let act = Act::Attached {
            session: c.session,
            attach: granted.attach,
            timeout_ms: c.timeout_ms,
            password: c.password,
        };
        self.control(Target::Conn(c.conn, act));
    }

    fn propose(&mut self, ask: Ask<'_>, now: Now, waits: Waits, out: &mut dyn Persistence) {
        let p = self.prep.propose(&self.db, &self.limits, ask, now.wall);
        self.order.submit(p.zxid, &p.bytes, out);
        self.gauges.proposals += 1;
        self.queued_bytes += p.bytes.len();
        self.queue.push_back(Item::Txn { zxid: p.zxid, bytes: p.bytes, waits });
    }

    /// Puts a control into the order.
    pub fn control(&mut self, target: Target) {
        self.control_with(target, Vec::new());
    }

    /// The same with a body for a `Reply` or `Text` act.
    pub fn control_with(&mut self, target: Target, body: Vec<u8>) {
        self.queued_bytes += body.len();
        self.queue.push_back(Item::Control { target, body });
    }

    /// Everything up to `ticket` is durable here.
    pub fn durable(&mut self, ticket: Ticket) {
        self.order.durable(ticket);
    }

    /// What is due: expired sessions, the reaper. Proposes at most what the queue has room for.
    pub fn tick(&mut self, now: Now, out: &mut dyn Persistence) {
        while self.has_room() {
            let Some(id) = self.tracker.expire_one(now.mono) else { break };
            self.gauges.expired += 1;
            let ask = Ask { session: id, cxid: 0, op: Op::CloseSession, body: &[], ids: &[], live: false };
            self.propose(ask, now, Waits::Nobody, out);
        }
        for path in self.reaper.due(&self.db, &self.limits, now) {
            if !self.has_room() {
                break;
            }
            self.gauges.reaped += 1;
            let mut body = Vec::new();
            body.put_string(&path);
            let ask = Ask {
                session: SessionId::NONE,
                cxid: 0,
                op: Op::DeleteContainer,
                body: &body,
                ids: &[],
                live: true,
            };
            self.propose(ask, now, Waits::Nobody, out);
        }
    }

    /// When [`Server::tick`] has something to do next.
    pub fn next_deadline(&self) -> MonoMs {
        let reap = self.reaper.next_deadline(&self.limits);
        self.tracker.next_deadline().map_or(reap, |expiry| expiry.min(reap))
    }

    /// Whether [`Server::advance`] has something to tell.
    pub fn can_advance(&self) -> bool {
        match self.queue.front() {
            None => false,
            Some(Item::Txn { zxid, .. }) => *zxid <= self.order.committed(),
            Some(_) => true,
        }
    }

    /// Applies what is committed and releases the controls between, at most `budget` steps, into `batch`. The caller
    /// puts the batch into the change ring right after, and then calls [`Server::published`].
    pub fn advance(&mut self, batch: &mut ChangeBatch, budget: usize, now: Now) {
        batch.generation = self.generation;
        for _ in 0..budget {
            if !self.can_advance() || batch.bytes.len() >= BATCH_BYTES_MAX {
                break;
            }
            match self.queue.pop_front() {
                Some(Item::Txn { bytes, waits, .. }) => self.apply(&bytes, waits, batch, now),
                Some(Item::Control { target, body }) => {
                    self.queued_bytes -= body.len();
                    let span = batch.put(|out| out.extend_from_slice(&body));
                    push(batch, None, batch.changes.len(), with_span(target, span));
                }
                Some(Item::Ephemerals { conn, session, prefix }) => {
                    let mut body = Vec::new();
                    let act = if self.put_ephemerals(session, &prefix, &mut body) {
                        Act::Reply { err: Code::OK, body: batch.put(|out| out.extend_from_slice(&body)) }
                    } else {
                        // No connection may have that much unsent; and there is no error for it.
                        Act::Close
                    };
                    push(batch, None, batch.changes.len(), Target::Conn(conn, act));
                }
                None => break,
            }
        }
        self.prep.applied(self.db.last());
    }

    /// The batch that the last [`Server::advance`] filled is in the change ring.
    pub fn published(&mut self) {
        self.db.tree.publish(self.db.last());
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

    fn apply(&mut self, bytes: &[u8], waits: Waits, batch: &mut ChangeBatch, now: Now) {
        self.queued_bytes -= bytes.len();
        self.gauges.commits += 1;
        let changes_from = batch.changes.len();
        let reply = matches!(waits, Waits::Reply(_));
        let (applied, body) = self
            .db
            .apply(bytes, Origin::Own, Some(batch), reply)
            .expect("prep encodes what apply decodes; a difference is a bug that must not go on");
        self.note_digest(applied.zxid);
        let target = match waits {
            _ if applied.kind == Op::CreateSession.wire() => self.session_made(&applied, waits, now),
            _ if applied.kind == Op::CloseSession.wire() => self.session_closed(applied.session, waits),
            Waits::Reply(conn) => Target::Conn(conn, Act::Reply { err: applied.code, body }),
            Waits::Nobody | Waits::Session(_) => Target::None,
        };
        push(batch, Some(applied.zxid), changes_from, target);
    }

    fn note_digest(&mut self, zxid: Zxid) {
        if self.limits.digest && zxid.0.is_multiple_of(DIGEST_EVERY) {
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

    fn session_made(&mut self, applied: &crate::pipeline::Applied, waits: Waits, now: Now) -> Target {
        let (session, timeout_ms) = (applied.session, applied.timeout_ms);
        self.tracker.add(session, timeout_ms, now.mono);
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
        match (waits, owner) {
            (Waits::Reply(conn), _) => Target::Conn(conn, Act::ReplyAndClose),
            (_, Some(conn)) => Target::Conn(conn, Act::Close),
            _ => Target::None,
        }
    }

    /// What the operator should hear of.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        let notices = self.db.take_notices();
        let is_mismatch = |n: &&Notice| matches!(n, Notice::DigestMismatch { .. });
        self.gauges.digest_mismatches += notices.iter().filter(is_mismatch).count() as u64;
        notices
    }

    /// The state; only for reading.
    pub fn db(&self) -> &Database {
        &self.db
    }
    /// Frees what no reader needs any more, at most `budget` pieces. Returns whether more is waiting.
    pub fn collect(&mut self, budget: usize) -> bool {
        self.db.tree.collect(budget).more
    }
    /// The sessions' clocks, for `dump`.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }
    /// The last zxid given out.
    pub fn last_proposed(&self) -> Zxid {
        self.prep.last()
    }
    /// Counters.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            sessions: self.tracker.len(),
            ephemerals: self.db.ephemeral_count(),
            queued: self.queue.len(),
            ..self.gauges
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
