//! The core: owns the order of writes, the sessions and the state, sans-io.
//!
//! In: messages of shards ([`Server::handle`]), of peers ([`Server::peer`]), durable tickets, ticks. Out: things to persist,
//! bytes for peers, change batches.
//! Lives here: what a message asks for. `roles`: what each role does with it and how roles change; `learning`: what a
//! learner waits for; `local`: sessions that no other server knows; `telling`: how committed transactions and controls reach the shards; `reaper`.
//! Not here: threads, rings, clocks, files (`net`), what four-letter words print (`net::words`), who commits (`zab`).
//! Invariants:
//! - a transaction is applied when it is committed, a control leaves when everything that it stands behind is applied;
//! - every accepted request leaves as exactly one step for its connection, unless the role in which it was accepted ends.

mod forwarding;
mod latency;
mod learning;
mod local;
mod reaper;
mod reconfig;
mod roles;
mod telling;

pub use latency::{Latencies, Spread};
pub use reconfig::shown as members_shown;
pub use roles::{Need, PeerInput};

use crate::error::Code;
use crate::ids::{ConnId, SessionId, Ticket, Zxid};
use crate::limits::Limits;
use crate::msg::{Act, Activity, Connect, Request, Span, Target, ToCore};
use crate::pipeline::{Ask, Database, Notice, Prep};
use crate::proto::{Decoder, Encode, Op, ReconfigRequest};
use crate::session::{Standing, Tracker, first_id, password};
use crate::time::{MonoMs, Now};
use crate::zab::members::Members;
use crate::zab::{Epochs, Member, Persistence, Ports, Role, Settings, Tally, Window};
use latency::Pace;
use learning::Learning;
use reaper::Reaper;
use reconfig::Ensemble;
use roles::Service;
use std::collections::VecDeque;
use std::sync::Arc;
use telling::{Control, Item, Waits};

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
    /// How often it began to look for a leader.
    pub looking: u64,
    /// From then until it served again, ms; and the same where it came to lead.
    pub unavailable_ms: Tally,
    pub leader_unavailable_ms: Tally,
    /// What it proposed since it leads.
    pub proposal_sizes: ProposalSizes,
    /// Sessions known to this server only; they are not among `sessions`.
    pub local_sessions: usize,
    /// Clients that asked for a session, and those of them that had one.
    pub connects: u64,
    pub reconnects: u64,
    /// Sessions that learners asked this leader about.
    pub claims: u64,
}

/// Bytes of a leader's proposals; `None`: none yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ProposalSizes {
    pub last: Option<u64>,
    pub min: Option<u64>,
    pub max: Option<u64>,
}

impl ProposalSizes {
    fn record(&mut self, bytes: u64) {
        self.last = Some(bytes);
        self.min = Some(self.min.map_or(bytes, |m| m.min(bytes)));
        self.max = self.max.max(Some(bytes));
    }
}

/// See the module.
pub struct Server {
    limits: Arc<Limits>,
    db: Database,
    zab: Member,
    service: Service,
    tracker: Tracker,
    shards: usize,
    reaper: Reaper,
    controls: VecDeque<Control>,
    /// What stands behind nothing.
    prompt: VecDeque<Item>,
    /// Own proposals not applied yet, with who waits for each.
    waiting: VecDeque<(Zxid, Waits)>,
    /// Bytes of own proposals not applied yet, and of controls.
    queued_bytes: usize,
    learning: Learning,
    /// Requests of learners that wait for room.
    forwarded: forwarding::Forwarding,
    /// Sessions that learners ask about before this leader knows them.
    claims: forwarding::Claims,
    needs: VecDeque<Need>,
    /// The members are others than the driver was told.
    members_changed: bool,
    generation: u64,
    /// When the last turn was, and until when nobody expires because one was so late that reports of learners may lie
    /// unread.
    last_turn: MonoMs,
    grace_until: MonoMs,
    /// Since when no role lets clients in.
    closed_since: Option<MonoMs>,
    gauges: Gauges,
    pace: Pace,
    digests: VecDeque<(Zxid, u64)>,
}

/// Bytes and entries that may wait between prep and apply: above, the driver takes no more requests.
const QUEUE_ENTRIES_MAX: usize = 1 << 16;
const QUEUE_BYTES_MAX: usize = 256 << 20;

impl Server {
    /// A lone server over a state recovered from disk. Every session gets its whole timeout from `now` on.
    pub fn new(limits: Arc<Limits>, db: Database, server_id: u8, shards: usize, now: Now) -> Server {
        let zab = Member::alone(Settings::alone(), Window::new(db.last(), roles::REACH_ALONE));
        let mut server = Server::with(limits, db, zab, server_id, shards, now);
        // What its log does not say nobody else will.
        server.db.set_whole_at(server.db.last());
        server.tracker.restart(server.db.sessions().iter(), now.mono);
        server.service = Service::Ordering(Box::new(Prep::new(&server.db, &server.limits)));
        server
    }

    /// A member of an ensemble over a state recovered from disk, all of whose log is applied; the window holds the end of
    /// it. Last, the members that the state showed before the last reconfiguration of the log, if there is one there. Call
    /// [`Server::start`] next.
    pub fn member(
        limits: Arc<Limits>,
        db: Database,
        ensemble: (Settings, Arc<Members>, Epochs, Window, Option<Members>),
        shards: usize,
        now: Now,
    ) -> Server {
        let (settings, members, epochs, window, confirmed) = ensemble;
        let id = settings.me.0 as u8;
        let mut zab = Member::new(settings, members, epochs, window, crate::txn::check);
        if limits.reconfig_enabled {
            zab.note_confirmed(confirmed);
            // A reconfiguration of the log that no file knows of was under way when this server ended.
            zab.allow_reconfig(reconfig::shown(&db));
        }
        Server::with(limits, db, zab, id, shards, now)
    }

    fn with(limits: Arc<Limits>, db: Database, zab: Member, id: u8, shards: usize, now: Now) -> Server {
        Server {
            tracker: Tracker::new(limits.tick_ms, first_id(id, now.wall), shards),
            reaper: Reaper::new(now.mono),
            service: Service::Closed { missing: 0 },
            zab,
            db,
            limits,
            shards,
            controls: VecDeque::new(),
            prompt: VecDeque::new(),
            waiting: VecDeque::new(),
            queued_bytes: 0,
            learning: Learning::default(),
            forwarded: forwarding::Forwarding::default(),
            claims: forwarding::Claims::default(),
            needs: VecDeque::new(),
            members_changed: false,
            generation: 0,
            last_turn: now.mono,
            grace_until: MonoMs(0),
            closed_since: None,
            gauges: Gauges::default(),
            pace: Pace::default(),
            digests: VecDeque::new(),
        }
    }

    /// Whether the driver may hand in more. What waits meanwhile, reports included, waits for our reasons: see
    /// [`Server::nothing_taken`].
    pub fn has_room(&self) -> bool {
        self.waiting.len() + self.controls.len() + self.prompt.len() < QUEUE_ENTRIES_MAX
            && self.queued_bytes < QUEUE_BYTES_MAX
            && self.learning.has_room()
            && !self.is_spent()
    }

    /// The driver took nothing, for want of room: a learner's clients are not silent meanwhile, they are not heard.
    pub fn nothing_taken(&mut self) {
        if matches!(self.service, Service::Learning) {
            for (id, timeout_ms) in self.tracker.all() {
                self.zab.touch(id, timeout_ms);
            }
        }
    }

    /// A message of a shard. Words and collected answers are the driver's: they come back.
    pub fn handle(&mut self, m: ToCore, now: Now, out: &mut dyn Ports) -> Option<ToCore> {
        match m {
            ToCore::Request(r) => self.request(r, now, out),
            ToCore::Connect(c) => self.connect(c, now, out),
            ToCore::Gone { conn, session, .. } => self.gone(conn, session),
            ToCore::Activity(Activity { shard, heard, drained_upto }) => {
                for (id, at) in heard {
                    self.tracker.touch(id, at);
                    if let (Service::Learning, Some(timeout_ms)) =
                        (&self.service, self.tracker.timeout_ms(id))
                        && !self.tracker.is_local(id)
                    {
                        self.zab.touch(id, timeout_ms);
                    }
                }
                self.tracker.drained(shard, drained_upto);
            }
            ToCore::Drained { generation, .. } => self.shard_drained(generation, now),
            other => return Some(other),
        }
        None
    }

    fn gone(&mut self, conn: ConnId, session: SessionId) {
        match self.service {
            Service::Learning => self.tracker.forget(session, conn),
            _ => self.tracker.detach(session, conn),
        }
    }

    fn request(&mut self, r: Request, now: Now, out: &mut dyn Ports) {
        let standing = self.tracker.standing(r.session, r.attach);
        if standing == Standing::Stranger || !self.is_open() {
            self.gauges.dropped_stale += 1;
            return;
        }
        self.tracker.touch(r.session, now.mono);
        if self.tracker.is_local(r.session)
            && let Some(answered) = self.local_request(&r, now, out)
        {
            return self.local(r.conn, r.session, answered);
        }
        // The one write whose record is read before it is given a zxid.
        let malformed = r.op == Op::Reconfig && ReconfigRequest::decode(&mut Decoder::new(&r.body)).is_err();
        if malformed {
            return self.local(r.conn, r.session, Item::malformed(r.conn));
        }
        match (r.op, &self.service) {
            (Op::GetEphemerals, _) => self.get_ephemerals(&r),
            (_, Service::Learning) => self.forward(r, out),
            (Op::Sync, _) => self.sync(&r),
            (op, _) => {
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
                    moved: false,
                };
                self.propose(ask, now, Waits::Reply(r.conn), out);
            }
        }
    }

    /// Answered in its place behind what was proposed before; the path comes back as it was sent.
    fn sync(&mut self, r: &Request) {
        let item = Item::sync(r.conn, &r.body);
        self.control_behind(self.zab.last_logged(), item);
    }

    fn get_ephemerals(&mut self, r: &Request) {
        let item = match Decoder::new(&r.body).string() {
            Ok(prefix) => Item::Ephemerals {
                conn: r.conn,
                session: r.session,
                prefix: prefix.unwrap_or_default().into_owned(),
            },
            Err(_) => Item::malformed(r.conn),
        };
        self.local(r.conn, r.session, item);
    }

    /// Something that is answered here, behind its session's earlier requests.
    fn local(&mut self, conn: ConnId, session: SessionId, item: Item) {
        match self.service {
            Service::Learning => {
                if let Some(item) = self.learning.local(session, conn, item) {
                    self.control_behind(Zxid::ZERO, item);
                }
            }
            Service::Ordering(_) => self.control_behind(self.zab.last_logged(), item),
            _ => self.control_behind(Zxid::ZERO, item),
        }
    }

    fn connect(&mut self, c: Connect, now: Now, out: &mut dyn Ports) {
        self.gauges.connects += 1;
        self.gauges.reconnects += u64::from(c.session != SessionId::NONE);
        if !self.takes_clients() {
            // Not serving: the client tries another server.
            return self.control(Target::Conn(c.conn, Act::Close));
        }
        if c.session == SessionId::NONE {
            if self.makes_local_sessions() {
                return self.new_local_session(&c, now);
            }
            let id = self.tracker.next_id();
            let body = c.timeout_ms.to_be_bytes();
            if let Service::Learning = self.service {
                return self.forward_new_session(id, &c, &body, out);
            }
            let ask = Ask {
                session: id,
                cxid: 0,
                op: Op::CreateSession,
                body: &body,
                ids: &[],
                live: true,
                moved: false,
            };
            self.propose(ask, now, Waits::Session(c.conn), out);
            return;
        }
        // The password first: a wrong one must not evict the holder (fact sheet 3.1, deviation advised there).
        if c.password != password(c.session) {
            return self.control(Target::Conn(c.conn, Act::Refused));
        }
        match self.service {
            Service::Learning if !self.tracker.is_local(c.session) => return self.revalidate(&c, out),
            // It is known to all, so its renewal is the leader's to grant: the client tries another server.
            Service::ReadOnly if self.db.sessions().contains_key(&c.session) => {
                return self.control(Target::Conn(c.conn, Act::Close));
            }
            _ => {}
        }
        let granted = self.tracker.attach(c.session, c.conn, c.timeout_ms, now.mono);
        self.attached(&c, granted);
    }

    fn attached(&mut self, c: &Connect, granted: Option<crate::session::Attached>) {
        let Some(granted) = granted else {
            return self.control(Target::Conn(c.conn, Act::Refused));
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
        let Service::Ordering(prep) = &mut self.service else { return };
        let p = if self.zab.role() == Role::Alone {
            prep.propose(&self.db, &self.limits, ask, now.wall)
        } else {
            let ensemble = Ensemble { zab: &self.zab, lone_voter: self.limits.lone_voter };
            let plan = |r: &ReconfigRequest<'_>, zxid| ensemble.plan(r, zxid).map(|m| m.text());
            prep.propose_planned(&self.db, &self.limits, ask, now.wall, &plan)
        };
        self.gauges.proposals += 1;
        self.gauges.proposal_sizes.record(p.bytes.len() as u64);
        self.queued_bytes += p.bytes.len();
        self.waiting.push_back((p.zxid, waits));
        self.pace.proposed(p.zxid, now.mono);
        self.zab.submit(p.zxid, p.bytes, out);
    }

    /// Puts a control out of the order: it leaves with the next batch, also while nothing can be committed. `body` is that of
    /// a `Text`.
    pub fn tell_now(&mut self, target: Target, body: Vec<u8>) {
        self.queued_bytes += body.len();
        self.prompt.push_back(Item::Control { target, body });
    }

    /// Puts a control into the order: behind everything that was accepted before it.
    fn control(&mut self, target: Target) {
        let behind = match self.service {
            Service::Ordering(_) => self.zab.last_logged(),
            _ => Zxid::ZERO,
        };
        self.control_behind(behind, Item::Control { target, body: Vec::new() });
    }

    /// Everything up to `ticket` is durable here.
    pub fn durable(&mut self, ticket: Ticket, now: Now, out: &mut dyn Ports) {
        self.zab.durable(ticket, now.mono, out);
        self.events(now, out);
    }

    /// What is due: elections, silent peers, expired sessions, the reaper. Proposes at most what the queue has room for.
    pub fn tick(&mut self, now: Now, out: &mut dyn Ports) {
        self.note_turn(now);
        self.zab.tick(now.mono, out);
        self.events(now, out);
        self.serve_forwarded(now, out);
        self.try_read_only(now);
        while self.has_room() && now.mono >= self.grace_until {
            let Some(id) = self.tracker.expire_one(now.mono) else { break };
            self.gauges.expired += 1;
            if self.tracker.is_local(id) {
                self.end_local(id);
                continue;
            }
            let ask = Ask {
                session: id,
                cxid: 0,
                op: Op::CloseSession,
                body: &[],
                ids: &[],
                live: false,
                moved: false,
            };
            self.propose(ask, now, Waits::Nobody, out);
        }
        if !matches!(self.service, Service::Ordering(_)) {
            return;
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
                moved: false,
            };
            self.propose(ask, now, Waits::Nobody, out);
        }
    }

    /// When [`Server::tick`] has something to do next.
    pub fn next_deadline(&self) -> MonoMs {
        let zab = self.zab.next_deadline();
        let reap =
            matches!(self.service, Service::Ordering(_)).then(|| self.reaper.next_deadline(&self.limits));
        let own = reap.into_iter().chain(self.tracker.next_deadline()).chain(self.read_only_at());
        zab.into_iter().chain(own).min().unwrap_or(MonoMs(u64::MAX))
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
    /// Who commits; only for reading.
    pub fn zab(&self) -> &Member {
        &self.zab
    }
    /// What this server is at present.
    pub fn role(&self) -> Role {
        self.zab.role()
    }
    /// Frees what no reader needs any more, at most `budget` pieces. Returns whether more is waiting.
    pub fn collect(&mut self, budget: usize) -> bool {
        self.db.tree.collect(budget).more
    }
    /// The sessions' clocks, for `dump`.
    pub fn tracker(&self) -> &Tracker {
        &self.tracker
    }
    /// The last zxid given out, or logged.
    pub fn last_proposed(&self) -> Zxid {
        self.zab.last_logged()
    }
    /// How long transactions take on their way.
    pub fn latencies(&self) -> &Latencies {
        &self.pace.figures
    }
    /// Counters.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            sessions: self.db.sessions().len(),
            ephemerals: self.db.ephemeral_count(),
            local_sessions: self.tracker.local_count(),
            queued: self.waiting.len() + self.controls.len() + self.learning.len(),
            ..self.gauges
        }
    }
}

impl Item {
    /// Answered in its place, at no zxid.
    fn malformed(conn: ConnId) -> Item {
        Item::failed(conn, Code::MARSHALLINGERROR)
    }
    fn failed(conn: ConnId, err: Code) -> Item {
        let act = Act::Reply { err, body: Span::default() };
        Item::Control { target: Target::Conn(conn, act), body: Vec::new() }
    }

    /// The answer to a sync: its path, as it was sent.
    fn sync(conn: ConnId, request: &[u8]) -> Item {
        let mut rest = Decoder::new(request);
        let (err, body) = match rest.string() {
            Ok(_) => (Code::OK, request[..request.len() - rest.rest().len()].to_vec()),
            Err(_) => (Code::MARSHALLINGERROR, Vec::new()),
        };
        Item::Control { target: Target::Conn(conn, Act::Reply { err, body: Span::default() }), body }
    }
}
