//! One member: which phase it is in, and the way of every input to it.
//!
//! Not here: what the phases do (`election`, `leader`, `learner`).
//! Invariants:
//! - a role that fails is left at once, in the same call: links closed, nothing more said in its name;
//! - a lone server's quorum is itself: durable here means committed.

use super::base::{Base, Settings, Why};
use super::counters::{Counters, Learners};
use super::election::{Decided, Election, Vote};
use super::leader::{Leader, Stream};
use super::learner::Learner;
use super::members::Members;
use super::window::{Entry, Window};
use super::wire::{self, Kind, Notification, PeerState, put_packet_with};
use super::{Epochs, Mark, Persist, Ports};
use crate::ids::{LinkId, ServerId, SessionId, Ticket, Zxid};
use crate::proto::{Encode, Id};
use crate::time::MonoMs;
use std::collections::BTreeSet;
use std::sync::Arc;

/// What a member tells the core.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A role ended, or none was there yet: nobody is served. The text says why.
    Looking { why: String },
    /// This server leads; its whole log is committed.
    Leading { epoch: u32 },
    /// This server follows, synchronised. All that a snapshot of the leader may hold is committed up to `whole`.
    Following { leader: ServerId, link: LinkId, observer: bool, whole: Zxid },
    /// Leader: a learner's request. `op` as on the wire.
    Request { link: LinkId, session: SessionId, cxid: i32, op: i32, body: Box<[u8]>, ids: Arc<[Id]> },
    /// Leader: a client with this session is with that learner now; may it be?
    Revalidate { link: LinkId, session: SessionId, timeout_ms: i32 },
    /// Leader: sessions that a learner heard from.
    Heard { link: LinkId, sessions: Vec<(SessionId, i32)> },
    /// Leader: the learner is gone; sessions that it holds are on their own.
    LearnerGone(LinkId),
    /// Leader: the history of that learner ends at `last`, by its own word, of which it keeps what goes up to `keeps`. The
    /// window holds the rest.
    Synchronises { to: ServerId, last: Zxid, keeps: Zxid },
    /// Leader: the history of that learner ends at `last`, before the window. The driver sends what it lacks, voters first,
    /// as DIFF with the log or as SNAP, or, if it `goes_on`, as the log alone: between [`Member::stream_begins`] and
    /// [`Member::stream_ended`].
    Stream { link: LinkId, to: ServerId, last: Zxid, voter: bool, goes_on: bool },
    /// For the log: a peer that was dropped. `id`: if it has said who it is; `at`: its address.
    Dropped { id: Option<ServerId>, at: String, why: String },
    /// Learner: the answer to [`Member::revalidate`].
    Revalidated { session: SessionId, valid: bool },
    /// Learner: the oldest [`Member::forward`]ed sync is done, behind what was committed before it came.
    Synced { behind: Zxid },
    /// Learner: a snapshot of this zxid begins on the link. The driver reads it and then calls [`Member::installed`].
    Install { link: LinkId, zxid: Zxid },
    /// Learner: the state must go back to this zxid: the driver rebuilds it from disk, then [`Member::rebuilt`].
    Rebuild { zxid: Zxid },
    /// The members are others now, or a reconfiguration is under way, or none is any more: see [`Member::members`] and
    /// [`Member::next_members`].
    Members,
}

/// What a member is at present.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Role {
    /// A server without an ensemble.
    Alone,
    Looking,
    /// Chosen, not established yet.
    Discovering,
    Leading,
    /// Being synchronised.
    Joining,
    Following,
    Observing,
}

#[derive(Debug)]
enum Phase {
    Alone,
    Looking,
    Leader(Box<Leader>),
    Learner(Box<Learner>),
}

/// See the module.
#[derive(Debug)]
pub struct Member {
    pub(super) base: Base,
    election: Option<Election>,
    phase: Phase,
    /// Serves observers while this server follows.
    pub(super) relay: Option<Box<Leader>>,
    /// When the present phase began.
    since: MonoMs,
    /// Voters that have no history, as far as they said.
    blank: BTreeSet<ServerId>,
}

impl Member {
    /// A lone server; all of its log is committed and applied.
    pub fn alone(settings: Settings, window: Window) -> Member {
        let members = Arc::new(Members::none());
        Member {
            base: Base::new(settings, members, Epochs::default(), window),
            election: None,
            phase: Phase::Alone,
            relay: None,
            since: MonoMs(0),
            blank: BTreeSet::new(),
        }
    }

    /// A member of an ensemble; the state holds all of its log. Call [`Member::start`] next.
    /// `check` gives the zxid of a transaction that can be applied: no other gets into the log.
    pub fn new(
        settings: Settings,
        members: Arc<Members>,
        epochs: Epochs,
        window: Window,
        check: fn(&[u8]) -> Option<Zxid>,
    ) -> Member {
        let election = Election::new(settings.me, settings.observer, members.clone(), settings.knobs);
        Member {
            base: Base { check, ..Base::new(settings, members, epochs, window) },
            election: Some(election),
            phase: Phase::Looking,
            relay: None,
            since: MonoMs(0),
            blank: BTreeSet::new(),
        }
    }

    /// Begins to look for a leader.
    pub fn start(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        if self.election.is_some() {
            self.look(&Why::new("the server has started"), now, ports);
        }
    }

    /// Leaves whatever role there is.
    fn leave(&mut self, why: &Why, now: MonoMs, ports: &mut dyn Ports) {
        match std::mem::replace(&mut self.phase, Phase::Looking) {
            Phase::Learner(l) => ports.close(l.link),
            Phase::Leader(l) => {
                for link in l.links() {
                    ports.close(link);
                }
            }
            Phase::Alone | Phase::Looking => {}
        }
        ports.listen(false);
        self.close_relay(ports);
        self.since = now;
        // What a leader has announced ends with it, unless its proposal came. And who has no history is asked anew: what was
        // said in an earlier search may have changed.
        self.base.review_next();
        self.base.activate_passed();
        self.blank.clear();
        let lasting = |e: &Event| matches!(e, Event::Dropped { .. } | Event::Looking { .. } | Event::Members);
        self.base.events.retain(lasting);
        self.base.tell(Event::Looking { why: why.0.clone() });
        self.refresh();
    }

    /// Leaves whatever role there is, and looks for a leader.
    fn look(&mut self, why: &Why, now: MonoMs, ports: &mut dyn Ports) {
        self.base.heir = None;
        self.leave(why, now, ports);
        self.elect(now, ports);
    }

    fn elect(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        self.forget_emptiness();
        let mine = Vote {
            leader: self.base.settings.me,
            zxid: self.base.history_end(),
            epoch: i64::from(self.base.epochs.current),
        };
        if let Some(e) = &mut self.election {
            e.start(mine, now, ports);
        }
    }

    /// A server without a history votes once no voter has one: the ensemble is being created, if it may be.
    fn forget_emptiness(&mut self) {
        let base = &mut self.base;
        let me = base.settings.me;
        if base.settings.empty
            && base.settings.begins
            && base.dirty.is_none()
            && base.members.voters().iter().all(|id| *id == me || self.blank.contains(id))
        {
            base.settings.empty = false;
        }
    }

    /// Notes who has no history either. The election begins anew when that is everybody.
    fn note_blank(&mut self, from: ServerId, n: &Notification, now: MonoMs, ports: &mut dyn Ports) {
        if !self.base.settings.empty
            || !matches!(self.phase, Phase::Looking)
            || !self.base.members.is_voter(from)
        {
            return;
        }
        // An epoch without a transaction is no history either: the creation was cut short. Only of its own vote, which
        // nothing but its history decides; one for somebody with a later epoch hides what it has.
        let of_itself = n.peer_epoch <= 0 || n.leader == from;
        let nothing =
            n.state == PeerState::Looking && (n.zxid == Zxid::MAX || (n.zxid == Zxid::ZERO && of_itself));
        if !nothing {
            self.blank.remove(&from);
        } else if self.blank.insert(from) {
            self.forget_emptiness();
            if !self.base.settings.empty {
                self.elect(now, ports);
            }
        }
    }

    /// A role has failed. Behind a reconfiguration it is known who leads: no election is needed, unless that one does not
    /// come to lead.
    fn end_role(&mut self, why: &Why, now: MonoMs, ports: &mut dyn Ports) {
        let Some(leader) = self.base.heir.take() else { return self.look(why, now, ports) };
        self.leave(why, now, ports);
        let (zxid, epoch) = (self.base.history_end(), i64::from(self.base.epochs.current));
        let state = match leader == self.base.settings.me {
            true => PeerState::Leading,
            false if self.base.settings.observer => PeerState::Observing,
            false => PeerState::Following,
        };
        if let Some(e) = &mut self.election {
            e.settled(state, leader, zxid, epoch);
        }
        self.decided(Decided { leader, state, zxid, epoch }, now, ports);
    }

    /// Tells everybody who has to know of other members.
    fn refresh(&mut self) {
        if !std::mem::take(&mut self.base.changed) {
            return;
        }
        if let Some(e) = &mut self.election {
            e.set_members(self.base.members.clone(), self.base.next.clone());
            e.set_observer(self.base.settings.observer);
        }
        if let Phase::Leader(l) = &mut self.phase {
            l.recount(&self.base);
        }
        self.base.tell(Event::Members);
    }

    /// A notification may have brought a newer configuration than ours, which counts if nobody leads us.
    fn take_newer(&mut self, now: MonoMs, ports: &mut dyn Ports) -> bool {
        let Some(newer) = self.election.as_mut().and_then(Election::take_newer_config) else { return false };
        if !self.base.reconfigurable || !matches!(self.phase, Phase::Looking) {
            return false;
        }
        let same = newer.with_version(self.base.members.version) == *self.base.members;
        self.base.activate(Arc::new(newer));
        self.refresh();
        if !same {
            let version = self.base.members.version;
            self.look(&Why::new(format!("others have a newer configuration, {version:x}")), now, ports);
        }
        !same
    }

    /// A decision counts if it was made by the members that count.
    fn may_be_decided(&mut self, decided: Option<Decided>, now: MonoMs, ports: &mut dyn Ports) {
        if self.take_newer(now, ports) {
            return;
        }
        if let Some(d) = decided.filter(|_| matches!(self.phase, Phase::Looking)) {
            self.decided(d, now, ports);
        }
    }

    fn decided(&mut self, d: Decided, now: MonoMs, ports: &mut dyn Ports) {
        self.base.counts.elections += 1;
        self.base.counts.election_ms.record(now.since(self.since));
        self.since = now;
        match d.state {
            PeerState::Leading => {
                ports.listen(true);
                self.phase = Phase::Leader(Box::new(Leader::new(&self.base, now)));
                // A quorum of one is complete.
                self.with_leader(now, ports, |l, base, ports| l.settle(base, now, ports));
            }
            PeerState::Following | PeerState::Observing => {
                let observer = d.state == PeerState::Observing;
                self.phase = Phase::Learner(Box::new(Learner::new(d.leader, observer, now, ports)));
            }
            PeerState::Looking => {}
        }
    }

    fn with_leader(
        &mut self,
        now: MonoMs,
        ports: &mut dyn Ports,
        act: impl FnOnce(&mut Leader, &mut Base, &mut dyn Ports) -> Result<(), Why>,
    ) {
        let Phase::Leader(leader) = &mut self.phase else { return };
        let before = leader.is_established();
        let done = act(leader, &mut self.base, ports);
        let (after, epoch) = (leader.is_established(), leader.epoch());
        match done {
            Err(why) => return self.end_role(&why, now, ports),
            Ok(()) if after && !before => self.settled(PeerState::Leading, self.base.settings.me, epoch, now),
            Ok(()) => {}
        }
        self.refresh();
    }

    fn with_learner(
        &mut self,
        now: MonoMs,
        ports: &mut dyn Ports,
        act: impl FnOnce(&mut Learner, &mut Base, &mut dyn Ports) -> Result<(), Why>,
    ) {
        let Phase::Learner(learner) = &mut self.phase else { return };
        let before = learner.is_live();
        let done = act(learner, &mut self.base, ports);
        let (after, epoch, leader) = (learner.is_live(), learner.epoch(), learner.leader);
        let state = if learner.observes() { PeerState::Observing } else { PeerState::Following };
        match done {
            Err(Why(why)) => {
                return self.end_role(&Why(format!("server {leader}, the leader: {why}")), now, ports);
            }
            Ok(()) if after && !before => {
                self.settled(state, leader, epoch, now);
                if state == PeerState::Following {
                    self.open_relay(leader, epoch, now, ports);
                }
            }
            Ok(()) => {}
        }
        self.refresh();
    }

    /// Later answers to voters carry the new epoch.
    fn settled(&mut self, state: PeerState, leader: ServerId, epoch: u32, now: MonoMs) {
        match state {
            PeerState::Following => self.base.counts.follower_sync_ms.record(now.since(self.since)),
            PeerState::Observing => self.base.counts.observer_sync_ms.record(now.since(self.since)),
            PeerState::Leading | PeerState::Looking => {}
        }
        self.since = now;
        let zxid = self.base.window.last();
        if let Some(e) = &mut self.election {
            e.settled(state, leader, zxid, i64::from(epoch));
        }
    }

    /// A proposal of this server, which leads or is alone.
    pub fn submit(&mut self, zxid: Zxid, txn: Arc<[u8]>, out: &mut dyn super::Persistence) {
        debug_assert!(matches!(self.role(), Role::Alone | Role::Leading));
        self.base.append(zxid, txn, out);
        self.refresh();
    }

    /// Everything up to `ticket` is durable here.
    pub fn durable(&mut self, ticket: Ticket, now: MonoMs, ports: &mut dyn Ports) {
        self.base.now_durable(ticket);
        match &self.phase {
            Phase::Alone => {
                let upto = self.base.durable_zxid();
                self.base.commit(upto);
            }
            Phase::Looking => {}
            Phase::Leader(_) => self.with_leader(now, ports, |l, base, ports| l.settle(base, now, ports)),
            Phase::Learner(_) => self.with_learner(now, ports, |l, base, ports| {
                l.durable(base, ports);
                Ok(())
            }),
        }
    }

    /// What time brings.
    pub fn tick(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        let mut looking = false;
        if let Some(e) = &mut self.election {
            let decided = e.handle_timeout(now, ports);
            looking = matches!(self.phase, Phase::Leader(_)) && e.heard_looking();
            self.may_be_decided(decided, now, ports);
        }
        match self.phase {
            Phase::Leader(_) => {
                self.with_leader(now, ports, |l, base, ports| l.tick(base, looking, now, ports))
            }
            Phase::Learner(_) => {
                self.with_learner(now, ports, |l, base, ports| l.tick(base, now, ports));
                self.relay_tick(now, ports);
            }
            Phase::Alone | Phase::Looking => {}
        }
    }

    /// When [`Member::tick`] has something to do next.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        let election = self.election.as_ref().and_then(Election::next_deadline);
        let role = match &self.phase {
            Phase::Leader(l) => Some(l.next_deadline()),
            Phase::Learner(l) => Some(l.next_deadline(&self.base)),
            Phase::Alone | Phase::Looking => None,
        };
        let relay = self.relay.as_ref().map(|r| r.next_deadline());
        election.into_iter().chain(role).chain(relay).min()
    }

    /// An election message (payload without its length). Garbage is told back, for the log.
    pub fn election_message(
        &mut self,
        from: ServerId,
        message: &[u8],
        now: MonoMs,
        ports: &mut dyn Ports,
    ) -> Result<(), Why> {
        let n = Notification::decode(message).map_err(|e| Why::new(e.0))?;
        self.note_blank(from, &n, now, ports);
        let Some(e) = &mut self.election else { return Ok(()) };
        let decided = e.handle(from, &n, now, ports);
        self.may_be_decided(decided, now, ports);
        Ok(())
    }

    /// The election connection to a member is there.
    pub fn election_up(&mut self, id: ServerId, now: MonoMs, ports: &mut dyn Ports) {
        if let Some(e) = &mut self.election {
            e.peer_up(id, now, ports);
        }
    }
    /// The election connection to a member was reset.
    pub fn election_down(&mut self, id: ServerId) {
        if let Some(e) = &mut self.election {
            e.peer_down(id);
        }
    }

    /// A learner has connected.
    pub fn link_accepted(&mut self, link: LinkId, name: String, now: MonoMs, ports: &mut dyn Ports) {
        match &mut self.phase {
            Phase::Leader(l) => l.accepted(link, name, now),
            _ => match &mut self.relay {
                Some(relay) => relay.accepted(link, name, now),
                None => ports.close(link),
            },
        }
    }
    /// The link to the leader is there.
    pub fn link_up(&mut self, link: LinkId, now: MonoMs, ports: &mut dyn Ports) {
        self.with_learner(now, ports, |l, base, ports| {
            if l.link == link {
                l.link_up(base, now, ports);
            }
            Ok(())
        });
    }
    /// A link has ended.
    pub fn link_down(&mut self, link: LinkId, why: &str, now: MonoMs, ports: &mut dyn Ports) {
        match &self.phase {
            Phase::Leader(_) => self.with_leader(now, ports, |l, base, _| {
                if let Some((id, at)) = l.caller(link) {
                    base.tell(Event::Dropped { id, at, why: why.to_owned() });
                    base.tell(Event::LearnerGone(link));
                }
                l.gone(base, link)
            }),
            Phase::Learner(l) if l.link == link => {
                self.with_learner(now, ports, |l, base, _| l.link_down(base, why, now));
            }
            Phase::Learner(_) => self.relay_down(link),
            _ => {}
        }
    }

    /// Bytes of a link. Says how many were used; the rest is the beginning of a packet, or belongs to a stream that the
    /// driver reads ([`Member::is_loading`]).
    pub fn link_bytes(&mut self, link: LinkId, bytes: &[u8], now: MonoMs, ports: &mut dyn Ports) -> usize {
        let mut used = 0;
        loop {
            let max = self.packet_max(link);
            match &self.phase {
                Phase::Leader(_) => {}
                Phase::Learner(l) if l.link == link && !l.is_loading() => {}
                Phase::Learner(l) if l.link == link => return used,
                Phase::Learner(_) if self.relays_to(link) => {}
                _ => return bytes.len(),
            }
            let parsed = match wire::parse(&bytes[used..], max) {
                // Nor is more waited for, whatever it is made of.
                Ok(None) if max < self.base.settings.packet_max && bytes.len() - used > max => {
                    Err(wire::Garbage(format!("a packet of more than {max} bytes before the handshake")))
                }
                parsed => parsed,
            };
            match parsed {
                Ok(None) => return used,
                Ok(Some((packet, n))) => {
                    used += n;
                    self.packet(link, &packet, now, ports);
                }
                Err(garbage) => {
                    let why = Why::new(format!("it sent what is no packet: {}", garbage.0));
                    match self.phase {
                        Phase::Leader(_) => {
                            self.with_leader(now, ports, |l, base, ports| l.garbage(base, link, &why, ports));
                        }
                        _ if self.relays_to(link) => self.relay_packet(link, Err(&why), now, ports),
                        _ => self.with_learner(now, ports, |_, _, _| Err(why)),
                    }
                    return bytes.len();
                }
            }
        }
    }

    /// The longest packet that is taken on a link.
    fn packet_max(&self, link: LinkId) -> usize {
        let max = self.base.settings.packet_max;
        match (&self.phase, &self.relay) {
            (Phase::Leader(l), _) => l.packet_max(link, max),
            (_, Some(relay)) if relay.learner(link).is_some() => relay.packet_max(link, max),
            _ => max,
        }
    }

    fn packet(&mut self, link: LinkId, p: &wire::Packet<'_>, now: MonoMs, ports: &mut dyn Ports) {
        match self.phase {
            Phase::Leader(_) => {
                self.with_leader(now, ports, |l, base, ports| l.packet(base, link, p, now, ports))
            }
            _ if self.relays_to(link) => self.relay_packet(link, Ok(p), now, ports),
            _ => self.with_learner(now, ports, |l, base, ports| l.packet(base, p, now, ports)),
        }
    }

    /// Fills the learners' buffers, as far as there is room in them. Call once per turn, before they are sent.
    pub fn pump(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        self.with_leader(now, ports, |l, base, ports| l.pump(base, now, ports));
        self.relay_pump(now, ports);
    }

    /// The next committed transaction, to be applied now.
    pub fn take_committed(&mut self) -> Option<Entry> {
        let entry = self.peek_committed()?.clone();
        self.base.apply_at += 1;
        self.base.applied_ticket = entry.ticket;
        Some(entry)
    }
    /// The same without taking it.
    pub fn peek_committed(&self) -> Option<&Entry> {
        if self.base.apply_at < self.base.window.first() {
            return None;
        }
        self.base.window.get(self.base.apply_at).filter(|e| e.zxid <= self.base.committed)
    }
    /// Lets go of history that nobody needs.
    pub fn trim(&mut self) {
        self.base.trim();
    }

    /// Leader: a `sync` that a learner forwarded is released there behind the commit of everything proposed so far.
    pub fn sync(&mut self, link: LinkId) {
        let behind = self.base.window.last();
        if let Phase::Leader(l) = &mut self.phase {
            l.sync(link, behind);
        }
    }
    /// Leader: the answer to a learner's question about a session.
    pub fn answer(&mut self, link: LinkId, session: SessionId, valid: bool, ports: &mut dyn Ports) {
        super::leader::put_revalidated(ports.out(link), session, valid);
    }
    /// Leader: that learner's stream begins. `None`: it is gone.
    pub fn stream_begins(&mut self, link: LinkId, now: MonoMs) -> Option<Stream> {
        match &mut self.phase {
            Phase::Leader(l) => l.stream_begins(&self.base, link, now),
            _ => self.relay.as_mut()?.stream_begins(&self.base, link, now),
        }
    }
    /// Leader: its socket has taken some of the stream, or none of it waits to be taken. A learner that takes nothing for
    /// `initLimit` is closed.
    pub fn stream_took(&mut self, link: LinkId, now: MonoMs) {
        if let Phase::Leader(l) = &mut self.phase {
            l.stream_took(link, now);
        } else if let Some(relay) = &mut self.relay {
            relay.stream_took(link, now);
        }
    }
    /// Leader: the stream is complete in the link's buffer.
    pub fn stream_ended(&mut self, link: LinkId, zxid: Zxid, now: MonoMs, ports: &mut dyn Ports) {
        self.with_leader(now, ports, |l, base, _| l.stream_ended(base, link, zxid, now));
        if let Some(relay) = &mut self.relay {
            let done = relay.stream_ended(&mut self.base, link, zxid, now);
            debug_assert!(done.is_ok(), "observers have no vote");
        }
    }

    /// Learner: the link that carries a stream which the driver reads, or that waits until it has rebuilt the state.
    pub fn is_loading(&self) -> Option<LinkId> {
        match &self.phase {
            Phase::Learner(l) if l.is_loading() => Some(l.link),
            _ => None,
        }
    }
    /// Learner: what the driver sees of the stream. `came`: bytes of it; `waiting`: all that came is used up, and it is not
    /// whole. Only then does the leader's silence count: `initLimit` without a byte, however long the whole takes.
    pub fn stream_moved(&mut self, came: bool, waiting: bool, now: MonoMs) {
        if let Phase::Learner(l) = &mut self.phase {
            l.stream_moved(came, waiting, now);
        }
    }
    /// Learner: a snapshot of this zxid is durable and is the state now; there is no history before it.
    /// `shown`: the members of that state.
    pub fn installed(&mut self, zxid: Zxid, shown: Option<Members>, now: MonoMs, ports: &mut dyn Ports) {
        self.base.window.restart(zxid);
        self.base.replace_next(shown);
        // Its mark in the log comes with the next ticket; the snapshot stands before it, and so does its replay.
        self.base.restarted(zxid);
        self.with_learner(now, ports, |l, base, ports| l.loaded(base, now, ports));
    }
    /// The state that came as a snapshot is whole from this zxid on: for the log.
    pub fn note_whole(&mut self, zxid: Zxid, out: &mut dyn Ports) {
        self.base.persist(Persist::Mark(Mark::Whole(zxid)), out);
    }
    /// Learner: the state was rebuilt from disk, with this history. `shown`: the members of that state.
    pub fn rebuilt(&mut self, window: Window, shown: Option<Members>, now: MonoMs, ports: &mut dyn Ports) {
        self.base.window = window;
        self.base.replace_next(shown);
        let last = self.base.window.last();
        self.base.restarted(last);
        self.with_learner(now, ports, |l, base, ports| l.loaded(base, now, ports));
    }
    /// The driver could not do what an event asked for.
    pub fn failed(&mut self, why: String, now: MonoMs, ports: &mut dyn Ports) {
        let why = match &self.phase {
            Phase::Learner(l) => {
                if l.is_loading() && self.base.dirty.is_some() {
                    // What cannot be read is no copy of anything: next time a snapshot is taken.
                    self.base.dirty = Some(Zxid::ZERO);
                }
                format!("server {}, the leader: {why}", l.leader)
            }
            _ => why,
        };
        self.look(&Why(why), now, ports);
    }

    /// Learner: asks the leader to order a request. Its link's buffer grows by it: look at [`Member::leader_link`] first.
    pub fn forward(&mut self, request: &Forward<'_>, ports: &mut dyn Ports) {
        let Phase::Learner(l) = &self.phase else { return };
        put_packet_with(ports.out(l.link), Kind::Request, Zxid::MAX, Some(request.ids), |out| {
            out.put_long(request.session.0);
            out.put_int(request.cxid);
            out.put_int(request.op);
            out.put_bytes(request.body);
        });
    }
    /// Learner: asks whether a session lives, and tells the leader that it is here now.
    pub fn revalidate(&mut self, session: SessionId, timeout_ms: i32, ports: &mut dyn Ports) {
        let Phase::Learner(l) = &self.phase else { return };
        put_packet_with(ports.out(l.link), Kind::Revalidate, Zxid::MAX, None, |out| {
            out.put_long(session.0);
            out.put_int(timeout_ms);
        });
    }
    /// Learner: a session was heard from.
    pub fn touch(&mut self, session: SessionId, timeout_ms: i32) {
        if let Phase::Learner(l) = &mut self.phase {
            l.touch(session, timeout_ms);
        }
    }
    /// Learner: the link to the leader.
    pub fn leader_link(&self) -> Option<LinkId> {
        match &self.phase {
            Phase::Learner(l) => Some(l.link),
            _ => None,
        }
    }

    /// What to tell the core next.
    pub fn take_event(&mut self) -> Option<Event> {
        self.base.events.pop_front()
    }
    /// What it is at present.
    pub fn role(&self) -> Role {
        match &self.phase {
            Phase::Alone => Role::Alone,
            Phase::Looking => Role::Looking,
            Phase::Leader(l) if l.is_established() => Role::Leading,
            Phase::Leader(_) => Role::Discovering,
            Phase::Learner(l) if !l.is_live() => Role::Joining,
            Phase::Learner(l) if l.observes() => Role::Observing,
            Phase::Learner(_) => Role::Following,
        }
    }
    /// When the present phase began.
    pub fn since(&self) -> MonoMs {
        self.since
    }
    /// The leader it follows, or itself.
    pub fn leader(&self) -> Option<ServerId> {
        match &self.phase {
            Phase::Learner(l) => Some(l.leader),
            Phase::Leader(_) => Some(self.base.settings.me),
            _ => None,
        }
    }
    /// The last committed zxid.
    pub fn committed(&self) -> Zxid {
        self.base.committed
    }
    /// The ticket behind which the log goes on for the state that is applied: where a snapshot of it stands.
    pub fn applied_ticket(&self) -> Ticket {
        self.base.applied_ticket
    }
    /// The last ticket given out.
    pub fn last_ticket(&self) -> Ticket {
        self.base.ticket
    }
    /// The last zxid of the log.
    pub fn last_logged(&self) -> Zxid {
        self.base.window.last()
    }
    /// The last zxid up to which the log is durable here.
    pub fn durable_zxid(&self) -> Zxid {
        self.base.durable_zxid()
    }
    /// Leader: each voter that follows, and itself, with the last zxid that it has durably.
    pub fn each_ack(&self, mut told: impl FnMut(ServerId, Zxid)) {
        if let Phase::Leader(l) = &self.phase {
            told(self.base.settings.me, self.base.durable_zxid());
            l.each_ack(told);
        }
    }
    /// The newest history.
    pub fn window(&self) -> &Window {
        &self.base.window
    }
    /// Whether it has no history and waits to be given one, or for all voters to have none.
    pub fn is_empty(&self) -> bool {
        self.base.settings.empty
    }
    pub fn epochs(&self) -> Epochs {
        self.base.epochs
    }
    pub fn members(&self) -> &Arc<Members> {
        &self.base.members
    }
    /// The members of a reconfiguration that is under way.
    pub fn next_members(&self) -> Option<&Arc<Members>> {
        self.base.next.as_ref()
    }
    /// Members behind which another reconfiguration stands in the log, so they are committed; files may be older, and the
    /// window need not reach back to them. To be told before [`Member::allow_reconfig`].
    pub fn note_confirmed(&mut self, members: Option<Members>) {
        self.base.passed = members.map(Arc::new);
    }
    /// `reconfigEnabled`: the members may change. `seen`: the newest ones that the state holds.
    pub fn allow_reconfig(&mut self, seen: Option<Members>) {
        self.base.reconfigurable = true;
        self.base.see_history();
        if let Some(members) = seen {
            self.base.see(members);
        }
        self.base.activate_passed();
        self.refresh();
    }
    /// Leader: whether a quorum of these members follows by now.
    pub fn has_synced(&self, members: &Members) -> bool {
        matches!(&self.phase, Phase::Leader(l) if l.has_synced(&self.base, members))
    }
    pub fn me(&self) -> ServerId {
        self.base.settings.me
    }
    pub fn counters(&self) -> Counters {
        let learners = if let Phase::Leader(l) = &self.phase { l.learners() } else { Learners::default() };
        Counters { learners, ..self.base.counts }
    }
}

/// A request on its way to the leader.
#[derive(Clone, Copy, Debug)]
pub struct Forward<'a> {
    pub session: SessionId,
    pub cxid: i32,
    pub op: i32,
    pub body: &'a [u8],
    pub ids: &'a [Id],
}
