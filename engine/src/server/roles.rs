//! Roles: how one begins and ends, and what each does with requests, its own clients' and its peers' (DESIGN section 6).
//!
//! Invariants:
//! - clients are served only between [`Act::Serve`] and [`Act::CloseAll`]; when the second is told, unfinished writes get no
//!   reply, and nothing is applied until every shard has said that it holds no connection any more;
//! - a leader starts to order when its whole log is applied; what is pending in its prep starts empty;
//! - the state is replaced only while no shard reads it.

use super::Server;
use super::forwarding::{FORWARDED_BYTES_MAX, Forwarded};
use super::learning::{Asker, Learning};
use super::reconfig;
use super::telling::{Item, Waits};
use crate::ids::{LinkId, ServerId, SessionId, Zxid};
use crate::msg::{Act, Connect, Request, Target};
use crate::pipeline::{Ask, Database, Prep};
use crate::proto::{Decoder, Op};
use crate::session::Standing;
use crate::time::Now;
use crate::zab::members::Members;
use crate::zab::{Event, Forward, Ports, Reach, Role, Stream, Why, Window};
use std::sync::Arc;

/// A lone server keeps nothing behind what is applied.
pub(super) const REACH_ALONE: Reach = Reach { entries: 0, bytes: 0 };

/// What this server does for its clients.
pub(super) enum Service {
    /// Nothing; so many shards have not yet said that the last role's connections are gone.
    Closed { missing: usize },
    /// A role has begun; clients are let in when everything up to `upto` is applied.
    Opening { missing: usize, upto: Zxid, leading: Option<u32> },
    /// Clients that only read, from what is applied: no quorum was found for long.
    ReadOnly,
    /// Orders writes itself: alone, or as the leader.
    Ordering(Box<Prep>),
    /// Forwards writes to the leader.
    Learning,
}

/// What only the driver can do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Need {
    /// A line for the operator's log: something normal.
    Say(String),
    /// The same: something that may want a look.
    Warn(String),
    /// The same about a peer, who can make it happen again and again: the log is to grow by few such lines. `id`: which
    /// server it is, if it has said so; `at`: its address.
    Gripe { id: Option<ServerId>, at: String, text: String },
    /// A line about the history with which a learner comes, which it can make happen again and again.
    Synchronises { to: ServerId, text: String },
    /// Close the election connection to that server, which sent what is no message, with a line for the log.
    RejectElection { from: ServerId, why: String },
    /// Send a learner whose history ends at `last` what it lacks of the applied state, as DIFF or SNAP, or, if it `goes_on`,
    /// as the log alone ([`Server::stream_begins`], [`Server::stream_took`], [`Server::stream_ended`]). Voters first.
    Stream { link: LinkId, to: ServerId, last: Zxid, voter: bool, goes_on: bool },
    /// Read the snapshot of that zxid from the link, make it durable, load it, then [`Server::install`].
    Install { link: LinkId, zxid: Zxid },
    /// Load the state again from disk, cut at that zxid, then [`Server::rebuild`].
    Rebuild { zxid: Zxid },
    /// The server cannot go on.
    Fail(String),
}

/// What comes from the other members.
#[derive(Debug)]
pub enum PeerInput<'a> {
    Election {
        from: ServerId,
        message: &'a [u8],
    },
    ElectionUp(ServerId),
    ElectionDown(ServerId),
    Accepted {
        link: LinkId,
        name: String,
    },
    Up(LinkId),
    Down {
        link: LinkId,
        why: &'a str,
    },
    /// Bytes of a link; how many of them were used is returned.
    Bytes {
        link: LinkId,
        bytes: &'a [u8],
    },
}

impl Server {
    /// Begins to look for a leader. Does nothing for a lone server.
    pub fn start(&mut self, now: Now, out: &mut dyn Ports) {
        self.zab.start(now.mono, out);
        self.events(now, out);
    }

    /// Something from the other members. Returns how many bytes were used.
    pub fn peer(&mut self, input: PeerInput<'_>, now: Now, out: &mut dyn Ports) -> usize {
        let mut used = 0;
        match input {
            PeerInput::Election { from, message } => {
                if let Err(Why(why)) = self.zab.election_message(from, message, now.mono, out) {
                    self.needs.push_back(Need::RejectElection { from, why });
                }
            }
            PeerInput::ElectionUp(id) => self.zab.election_up(id, now.mono, out),
            PeerInput::ElectionDown(id) => self.zab.election_down(id),
            PeerInput::Accepted { link, name } => self.zab.link_accepted(link, name, now.mono, out),
            PeerInput::Up(link) => self.zab.link_up(link, now.mono, out),
            PeerInput::Down { link, why } => self.zab.link_down(link, why, now.mono, out),
            PeerInput::Bytes { link, bytes } => used = self.zab.link_bytes(link, bytes, now.mono, out),
        }
        self.events(now, out);
        self.serve_forwarded(now, out);
        used
    }

    /// Notices when this process stood still: whom learners heard meanwhile they tell with the next ping.
    pub(super) fn note_turn(&mut self, now: Now) {
        let tick_ms = u64::from(self.limits.tick_ms);
        if now.mono.since(self.last_turn) > tick_ms && self.zab.role() == Role::Leading {
            self.grace_until = now.mono.plus(tick_ms);
        }
        self.last_turn = now.mono;
    }

    /// Fills the learners' buffers. Call once per turn, before they are sent.
    pub fn pump(&mut self, now: Now, out: &mut dyn Ports) {
        self.note_turn(now);
        self.serve_forwarded(now, out);
        self.zab.pump(now.mono, out);
        self.events(now, out);
        if self.is_spent() && self.waiting.is_empty() && !self.can_advance() {
            self.zab.failed("its zxid counter is spent: a new epoch begins".into(), now.mono, out);
            self.events(now, out);
        }
    }

    /// What only the driver can do.
    pub fn take_need(&mut self) -> Option<Need> {
        self.needs.pop_front()
    }

    /// The members that count and those of the reconfiguration under way, if either has changed since this was last asked.
    pub fn take_members(&mut self) -> Option<(Arc<Members>, Option<Arc<Members>>)> {
        let changed = std::mem::take(&mut self.members_changed);
        changed.then(|| (self.zab.members().clone(), self.zab.next_members().cloned()))
    }

    pub(super) fn events(&mut self, now: Now, out: &mut dyn Ports) {
        self.leave_read_only();
        self.pace.look(&self.zab, (now.mono, now.wall));
        while let Some(e) = self.zab.take_event() {
            self.event(e, now, out);
        }
    }

    fn event(&mut self, e: Event, now: Now, out: &mut dyn Ports) {
        match e {
            Event::Looking { why } => {
                self.gauges.looking += 1;
                self.closed_since.get_or_insert(now.mono);
                self.needs.push_back(Need::Say(format!("looking for a leader: {why}")));
                self.pace.begin(&self.zab);
                self.close_service();
            }
            Event::Leading { epoch } => {
                self.needs.push_back(Need::Say(format!(
                    "leading in epoch {epoch}, from {}",
                    self.zab.last_logged()
                )));
                self.know_whole(self.zab.last_logged(), out);
                self.pace.begin(&self.zab);
                self.begin(self.zab.last_logged(), Some(epoch), now);
            }
            Event::Following { leader, observer, whole, .. } => {
                let verb = if observer { "observing" } else { "following" };
                self.needs
                    .push_back(Need::Say(format!("{verb} server {leader}, from {}", self.zab.committed())));
                self.know_whole(whole, out);
                self.pace.begin(&self.zab);
                self.begin(self.zab.committed(), None, now);
            }
            Event::Request { link, session, cxid, op, body, ids } if self.zab.relayed().is_some() => {
                self.pass_on(Forwarded { link, session, cxid, op, body, ids }, out);
            }
            Event::Revalidate { link, session, timeout_ms } if self.zab.relayed().is_some() => {
                if !self.learning.relayed_ask(session, link) {
                    return self.refuse_more(link, "an observer asks about more sessions than may wait", out);
                }
                self.zab.revalidate(session, timeout_ms, out);
            }
            Event::Heard { sessions, .. } if self.zab.relayed().is_some() => {
                for (id, timeout_ms) in sessions {
                    self.zab.touch(id, timeout_ms);
                }
            }
            Event::Request { link, session, cxid, op, body, ids } => {
                self.take_forwarded(Forwarded { link, session, cxid, op, body, ids }, now, out);
            }
            Event::Revalidate { link, session, timeout_ms } => {
                if !self.claims.push(link, session, timeout_ms) {
                    return self.refuse_more(link, "a learner asks about more sessions than may wait", out);
                }
                self.serve_claims(now, out);
            }
            // Whose they are is said by requests and REVALIDATE: Apache's table also names sessions of other servers.
            Event::Heard { sessions, .. } => {
                for (id, timeout_ms) in sessions {
                    self.tracker.set_timeout(id, timeout_ms);
                    self.tracker.touch(id, now.mono);
                }
            }
            Event::LearnerGone(link) => {
                self.forwarded.forget(link);
                self.claims.forget(link);
            }
            Event::Synchronises { to, last, keeps } => {
                // What a server claims to have is told: one that lacks it later has lost it itself.
                let cut =
                    if keeps < last { format!(", which is cut back to {keeps}") } else { String::new() };
                let text = format!("server {to} has the history up to {last}{cut}");
                self.needs.push_back(Need::Synchronises { to, text });
            }
            Event::Stream { link, to, last, voter, goes_on } => {
                self.needs.push_back(Need::Stream { link, to, last, voter, goes_on });
            }
            Event::Dropped { id, at, why } => {
                let who = id.map_or_else(|| format!("a caller at {at}"), |id| format!("learner {id} ({at})"));
                let text = format!("the link to {who} is closed: {why}");
                self.needs.push_back(Need::Gripe { id, at, text });
            }
            Event::Revalidated { session, valid } => self.revalidated(session, valid, now, out),
            Event::Synced { behind } => match self.learning.next_sync() {
                Some(Asker::Client(session)) => self.control_behind(behind, Item::SyncDone { session }),
                Some(Asker::Observer(link)) => self.zab.relay_sync(link, behind),
                None => {}
            },
            Event::Install { link, zxid } => self.needs.push_back(Need::Install { link, zxid }),
            Event::Rebuild { zxid } => self.needs.push_back(Need::Rebuild { zxid }),
            Event::Members => self.members_changed = true,
        }
    }

    /// A snapshot that came from a leader may hold parts of what was committed while it was sent. All of that is in the
    /// history with which any later role begins, so there the state is whole; no client is let in before, and no digest
    /// compared.
    fn know_whole(&mut self, upto: Zxid, out: &mut dyn Ports) {
        if !self.db.knows_whole() {
            self.db.set_whole_at(upto);
            self.zab.note_whole(upto, out);
        }
    }

    /// Whether clients are served.
    pub fn is_open(&self) -> bool {
        matches!(self.service, Service::Ordering(_) | Service::Learning | Service::ReadOnly)
    }
    /// Whether what is applied stands: in read-only mode the end of it may still be taken back by the next leader.
    pub fn is_confirmed(&self) -> bool {
        self.is_open() && !self.is_read_only()
    }
    /// Whether clients are let in at present: a leader may be told to lead only.
    pub fn takes_clients(&self) -> bool {
        self.is_open() && (self.limits.leader_serves || self.zab.role() != Role::Leading)
    }
    /// Whether some shard may still hold connections or readers of the last role. Nothing is replaced meanwhile.
    pub fn is_draining(&self) -> bool {
        matches!(self.service, Service::Closed { missing } | Service::Opening { missing, .. } if missing > 0)
    }
    /// Whether this leader has no zxid left in its epoch. A lone server carries into the next.
    pub(super) fn is_spent(&self) -> bool {
        // Before its first transaction a leader's log ends in an earlier epoch, which may have been spent.
        let last = self.zab.last_logged();
        self.zab.role() == Role::Leading
            && last.epoch() == self.zab.epochs().current
            && last.counter() >= self.limits.zxids_per_epoch
    }

    pub(super) fn close_service(&mut self) {
        self.forget_role_items();
        self.learning = Learning::default();
        self.forwarded.clear();
        self.claims.clear();
        self.tracker.clear();
        let missing = match self.service {
            Service::Closed { missing } | Service::Opening { missing, .. } => missing,
            Service::Ordering(_) | Service::Learning | Service::ReadOnly => {
                self.generation += 1;
                // Behind nothing: what is not applied yet waits for the shards' answers to this.
                let target = Target::All(Act::CloseAll { generation: self.generation });
                self.control_behind(Zxid::ZERO, Item::Control { target, body: Vec::new() });
                self.shards
            }
        };
        self.service = Service::Closed { missing };
    }

    fn begin(&mut self, upto: Zxid, leading: Option<u32>, now: Now) {
        let missing = if let Service::Closed { missing } = self.service { missing } else { 0 };
        self.service = Service::Opening { missing, upto, leading };
        self.try_open(now);
    }

    pub(super) fn shard_drained(&mut self, generation: u64, now: Now) {
        if generation != self.generation {
            return;
        }
        if let Service::Closed { missing } | Service::Opening { missing, .. } = &mut self.service {
            *missing = missing.saturating_sub(1);
        }
        self.try_open(now);
    }

    /// Lets clients in, once the last role's are gone and the state is there.
    pub(super) fn try_open(&mut self, now: Now) {
        let Service::Opening { missing: 0, upto, leading } = self.service else { return };
        if self.db.last() < upto {
            return;
        }
        if let Some(since) = self.closed_since.take() {
            self.gauges.unavailable_ms.record(now.mono.since(since));
            if leading.is_some() {
                self.gauges.leader_unavailable_ms.record(now.mono.since(since));
            }
        }
        let epoch = match leading {
            Some(epoch) => {
                self.gauges.proposal_sizes = Default::default();
                self.tracker.restart(self.db.sessions().iter(), now.mono);
                self.service = Service::Ordering(Box::new(Prep::leading(&self.db, &self.limits, epoch)));
                epoch
            }
            None => {
                self.tracker.clear();
                self.service = Service::Learning;
                self.zab.epochs().current
            }
        };
        self.let_in(Zxid::new(epoch, 0), now);
    }

    /// Tells the shards to serve what is applied.
    pub(super) fn let_in(&mut self, covers: Zxid, now: Now) {
        let h = self.db.last();
        self.show_config(h, now);
        let (tree, read_only) = (self.db.tree.handle(), self.is_read_only());
        self.control(Target::All(Act::Serve { tree, h, covers, read_only }));
    }

    /// As in ZooKeeper, every server fills this node from its own configuration; it counts in no digest.
    fn show_config(&mut self, since: Zxid, now: Now) {
        let (text, version) = (self.zab.members().text(), Zxid(self.zab.members().version));
        let path = crate::path::CONFIG;
        let shown = self
            .db
            .tree
            .latest()
            .get(path)
            .is_some_and(|n| n.data() == Some(text.as_bytes()) && n.stat_persisted().version == -1);
        if !shown {
            let _always_there = self.db.tree.set_config(since, path, text.as_bytes(), (version, now.wall.0));
        }
    }

    /// The snapshot that a leader sent is durable, and this is the state that it holds.
    ///
    /// # Panics
    /// While a shard may still read the old state ([`Server::is_draining`]).
    pub fn install(&mut self, db: Database, now: Now, out: &mut dyn Ports) {
        let zxid = db.last();
        self.replace(db);
        self.db.set_fuzzy();
        let shown = reconfig::shown(&self.db);
        self.zab.installed(zxid, shown, now.mono, out);
        self.events(now, out);
    }

    /// The state was loaded again from disk; `window` holds the end of its history.
    ///
    /// # Panics
    /// As [`Server::install`].
    pub fn rebuild(&mut self, db: Database, window: Window, now: Now, out: &mut dyn Ports) {
        self.replace(db);
        let shown = reconfig::shown(&self.db);
        self.zab.rebuilt(window, shown, now.mono, out);
        self.events(now, out);
    }

    fn replace(&mut self, db: Database) {
        assert!(!self.is_draining() && !self.is_open(), "a state that is read may not be replaced");
        self.db = db;
        self.digests.clear();
    }

    /// What a need asked for cannot be done: another role is looked for.
    pub fn give_up_role(&mut self, why: String, now: Now, out: &mut dyn Ports) {
        self.zab.failed(why, now.mono, out);
        self.events(now, out);
    }

    /// Leader: what a stream that begins now is, and up to where it has to reach. `None`: the learner is gone.
    pub fn stream_begins(&mut self, link: LinkId, now: Now) -> Option<Stream> {
        let stream = self.zab.stream_begins(link, now.mono)?;
        debug_assert_eq!(stream.upto, self.db.last(), "what is taken is applied at once");
        Some(stream)
    }
    /// Leader: the socket took some of a stream since this was last called, or nothing of it waits to be taken.
    pub fn stream_took(&mut self, link: LinkId, now: Now) {
        self.zab.stream_took(link, now.mono);
    }
    /// Leader: all of it is in the link's buffer.
    pub fn stream_ended(&mut self, link: LinkId, zxid: Zxid, now: Now, out: &mut dyn Ports) {
        self.zab.stream_ended(link, zxid, now.mono, out);
        self.events(now, out);
    }
    /// Learner: what is seen of the stream. `came`: bytes of it; `waiting`: all of them are used up, and the leader has to
    /// send more. A leader that does not is given up ([`Server::tick`]).
    pub fn stream_moved(&mut self, came: bool, waiting: bool, now: Now) {
        self.zab.stream_moved(came, waiting, now.mono);
    }
    /// Learner: the link whose bytes the driver reads, or lets wait.
    pub fn is_loading(&self) -> Option<LinkId> {
        self.zab.is_loading()
    }

    // ----- learner

    pub(super) fn forward(&mut self, r: Request, out: &mut dyn Ports) {
        let bytes = r.body.len();
        if r.op == Op::Sync {
            self.learning.sync(r.session, Item::sync(r.conn, &r.body), bytes);
        } else {
            if r.op == Op::CloseSession {
                self.tracker.close(r.session);
            }
            self.learning.write(r.session, r.conn, r.xid, bytes);
        }
        let f = Forward { session: r.session, cxid: r.xid, op: r.op.wire(), body: &r.body, ids: &r.ids };
        self.zab.forward(&f, out);
    }

    pub(super) fn forward_new_session(
        &mut self,
        id: SessionId,
        c: &Connect,
        body: &[u8],
        out: &mut dyn Ports,
    ) {
        self.learning.new_session(id, c.conn);
        let f = Forward { session: id, cxid: 0, op: Op::CreateSession.wire(), body, ids: &[] };
        self.zab.forward(&f, out);
    }

    pub(super) fn revalidate(&mut self, c: &Connect, out: &mut dyn Ports) {
        self.zab.revalidate(c.session, c.timeout_ms, out);
        self.learning.ask(Connect { password: c.password, ..*c });
    }

    /// A request of an observer that is served here: the leader orders it.
    fn pass_on(&mut self, f: Forwarded, out: &mut dyn Ports) {
        let waits = self.zab.leader_link().map_or(0, |link| out.out(link).len());
        if waits > FORWARDED_BYTES_MAX {
            return self.refuse_more(f.link, "an observer asks for more than the leader takes", out);
        }
        if f.op == Op::Sync.wire() {
            self.learning.relayed_sync(f.link);
        }
        let Forwarded { session, cxid, op, body, ids, .. } = &f;
        self.zab.forward(&Forward { session: *session, cxid: *cxid, op: *op, body, ids }, out);
    }

    /// What it has sent already may hold many more.
    fn refuse_more(&mut self, link: LinkId, why: &str, out: &mut dyn Ports) {
        out.close(link);
        let text = format!("{why}: its link is closed");
        let need = Need::Gripe { id: None, at: String::new(), text };
        if self.needs.back() != Some(&need) {
            self.needs.push_back(need);
        }
    }

    fn revalidated(&mut self, session: SessionId, valid: bool, now: Now, out: &mut dyn Ports) {
        let c = match self.learning.answered(session) {
            Some(Asker::Client(c)) => c,
            Some(Asker::Observer(link)) => return self.moved_to_observer(link, session, valid, out),
            None => return,
        };
        let granted = if valid {
            self.tracker.add(session, c.timeout_ms, now.mono);
            self.tracker.attach(session, c.conn, c.timeout_ms, now.mono)
        } else {
            None
        };
        self.attached(&c, granted);
    }

    /// The leader knows only that the session is at this server: which connection it has left is known here.
    fn moved_to_observer(&mut self, link: LinkId, session: SessionId, valid: bool, out: &mut dyn Ports) {
        if valid
            && !self.tracker.is_local(session)
            && let Some(former) = self.tracker.remove(session)
        {
            self.control(Target::Conn(former, Act::Close));
        }
        self.zab.answer(link, session, valid, out);
    }

    // ----- leader

    /// A client with this session is at that learner now.
    fn claim(&mut self, link: LinkId, session: SessionId, now: Now, out: &mut dyn Ports) {
        let claimed = match self.service {
            Service::Ordering(_) => self.tracker.claim(session, link, now.mono),
            _ => None,
        };
        if let Some(Some(former)) = claimed {
            self.control(Target::Conn(former, Act::Close));
        }
        self.zab.answer(link, session, claimed.is_some(), out);
    }

    fn take_forwarded(&mut self, f: Forwarded, now: Now, out: &mut dyn Ports) {
        match self.forwarded.push(f) {
            Ok(()) => self.serve_forwarded(now, out),
            Err(f) => self.refuse_more(f.link, "a learner forwards more than can be ordered", out),
        }
    }

    /// Answers learners about sessions, as soon as this leader knows them: one that still applies its log knows none.
    fn serve_claims(&mut self, now: Now, out: &mut dyn Ports) {
        while !matches!(self.service, Service::Closed { .. } | Service::Opening { .. })
            && let Some((link, session, timeout_ms)) = self.claims.pop()
        {
            self.gauges.claims += 1;
            self.tracker.set_timeout(session, timeout_ms);
            self.claim(link, session, now, out);
        }
    }

    pub(super) fn serve_forwarded(&mut self, now: Now, out: &mut dyn Ports) {
        self.serve_claims(now, out);
        while matches!(self.service, Service::Ordering(_))
            && self.has_room()
            && let Some(f) = self.forwarded.pop()
        {
            self.order_forwarded(f, now, out);
        }
    }

    fn order_forwarded(&mut self, f: Forwarded, now: Now, out: &mut dyn Ports) {
        // What no client may ask for is answered as unknown.
        let op = Op::from_wire(f.op).filter(|op| *op != Op::DeleteContainer).unwrap_or(Op::Ping);
        let standing = match op {
            Op::CreateSession => {
                // Known from here on: a learner that upgrades a local session sends that session's write right behind.
                if let Ok(timeout_ms) = Decoder::new(&f.body).int() {
                    self.tracker.add(f.session, timeout_ms, now.mono);
                }
                Standing::Owner
            }
            _ if self.is_local_elsewhere(f.session, op, &f.body) => Standing::Owner,
            _ => self.tracker.standing_at(f.session, f.link),
        };
        if op == Op::Sync {
            self.zab.sync(f.link);
            return;
        }
        if op == Op::CloseSession && standing == Standing::Owner {
            self.tracker.close(f.session);
        }
        let ask = Ask {
            session: f.session,
            cxid: f.cxid,
            op,
            body: &f.body,
            ids: &f.ids,
            live: standing == Standing::Owner,
            moved: standing == Standing::Stranger,
        };
        self.tracker.touch(f.session, now.mono);
        self.propose(ask, now, Waits::Nobody, out);
    }
}
