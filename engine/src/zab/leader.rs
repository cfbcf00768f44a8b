//! A leader: discovery, synchronisation, broadcast (fact sheet 8.3 to 8.6).
//!
//! Not here: how a leader is chosen (`election`), the transactions (`server`), snapshot streams (the driver).
//! Invariants:
//! - LEADERINFO leaves after the accepted epoch is durable, NEWLEADER after the current one is;
//! - what is committed is on a quorum of durable logs, this server's own being one vote like the others;
//! - a learner is a cursor into the window: nothing is queued for it. One that is still being synchronised when its cursor
//!   falls out of the window goes on from the log on disk (`stream`); one that serves is dropped, and comes back to be
//!   synchronised;
//! - on a link a COMMIT never precedes its PROPOSAL, and NEWLEADER follows the whole history that it stands for.

mod discovery;
mod pump;
mod reconfig;
mod stream;

pub use stream::{Behind, Stream};

use super::base::{Base, Why};
use super::counters::Learners;
use super::member::Event;
use super::members::Members;
use super::window::Place;
use super::wire::{Kind, Packet, put_packet};
use super::{Epochs, Ports};
use crate::ids::{LinkId, ServerId, SessionId, Ticket, Zxid};
use crate::proto::{Decoder, Encode};
use crate::time::MonoMs;
use std::collections::{BTreeMap, VecDeque};

/// The longest packet before a learner has promised, bytes: FOLLOWERINFO and ACKEPOCH need 40.
const HELLO_BYTES_MAX: usize = 64 << 10;

/// How far a leader has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// Waits for a quorum's accepted epochs.
    Epoch,
    /// The epoch is fixed; its durability is awaited, then a quorum's ACKEPOCH.
    AckEpoch { accepted: Ticket },
    /// A quorum has promised; once the current epoch is durable learners are synchronised, and a quorum must take over
    /// the history.
    Sync { current: Ticket },
    /// Established.
    Broadcast,
    /// A follower that serves observers: what is committed comes from its leader.
    Relay { leader: ServerId },
}

/// How far a learner has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    /// Nothing came yet.
    Hello,
    /// FOLLOWERINFO came; LEADERINFO is due.
    Epoch,
    /// LEADERINFO is sent.
    AckEpoch,
    /// ACKEPOCH came; synchronisation is due.
    Waiting { last: Zxid },
    /// A snapshot is being streamed by the driver.
    Streaming,
    /// Gets the history from the window.
    Syncing,
    /// NEWLEADER is sent.
    NewLeader,
    /// NEWLEADER is acknowledged; UPTODATE is due.
    Taken,
    /// UPTODATE is sent.
    Live,
}

/// One learner.
#[derive(Debug)]
struct Peer {
    id: ServerId,
    /// Who it is, for the log.
    name: String,
    observer: bool,
    voter: bool,
    /// It has promised a later epoch than this leader's: it may follow if it has no vote, and counts for nothing.
    ahead: bool,
    step: Step,
    /// The next entry to be sent as PROPOSAL (INFORM).
    cursor: Place,
    /// The next entry to be sent as COMMIT.
    commit_at: Place,
    /// NEWLEADER follows when the cursor is here.
    sync_end: Place,
    /// The last zxid it has acknowledged.
    acked: Zxid,
    /// What it was told to commit before NEWLEADER.
    taken: Zxid,
    /// Acknowledged before NEWLEADER was.
    early: Zxid,
    /// SYNC is due when everything up to this is committed there.
    syncs: VecDeque<Zxid>,
    heard_at: MonoMs,
    /// When it last acknowledged something, or had nothing to acknowledge.
    progress_at: MonoMs,
    /// What the driver sends it.
    stream: Streaming,
    /// The last that it was told to commit, and its ticket here: kept while it is synchronised, as both cursors may fall out
    /// of the window.
    told: (Zxid, Ticket),
    /// The last that it was sent, likewise.
    proposed: Zxid,
}

/// Whether the driver sends a learner something.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Streaming {
    No,
    /// The driver was asked, and has not begun.
    Due,
    Runs,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Leader {
    stage: Stage,
    since: MonoMs,
    epoch: u32,
    /// The last zxid of the history with which this leader began.
    history_end: Zxid,
    peers: BTreeMap<LinkId, Peer>,
    ping_at: MonoMs,
    /// Half ticks since the last check of the quorum.
    half: bool,
    next_guest: i64,
    /// A voter has promised to follow this later epoch, so it can follow no leader of this one.
    outdated: Option<u32>,
    /// The last reconfiguration that this leader has committed, and who leads behind it.
    activated: Option<(Zxid, ServerId)>,
    /// Someone else is to lead: nothing more is committed, and this server leads until its followers have left, or until
    /// then.
    retires_at: Option<MonoMs>,
}

/// What became of a packet.
type Handled = Result<(), Why>;

impl Leader {
    pub fn new(base: &Base, now: MonoMs) -> Leader {
        Leader {
            stage: Stage::Epoch,
            since: now,
            epoch: 0,
            history_end: base.window.last(),
            peers: BTreeMap::new(),
            ping_at: now.plus(base.settings.tick_ms / 2),
            half: false,
            next_guest: -1,
            outdated: None,
            activated: None,
            retires_at: None,
        }
    }

    /// What a follower is to observers.
    pub fn relay(base: &Base, leader: ServerId, epoch: u32, now: MonoMs) -> Leader {
        Leader { stage: Stage::Relay { leader }, epoch, ..Leader::new(base, now) }
    }

    pub fn epoch(&self) -> u32 {
        self.epoch
    }
    pub fn is_established(&self) -> bool {
        self.stage == Stage::Broadcast
    }
    /// Its learners by kind.
    pub fn learners(&self) -> Learners {
        let mut n = Learners { all: self.peers.len(), ..Learners::default() };
        for p in self.peers.values() {
            n.pending_syncs += p.syncs.len();
            let follows = p.step >= Step::Taken;
            n.followers += usize::from(follows && !p.observer);
            n.without_vote += usize::from(follows && !p.observer && !p.voter);
            n.observers += usize::from(follows && p.observer);
        }
        n
    }
    /// The voters that follow, and the last zxid that each has acknowledged.
    pub fn each_ack(&self, mut told: impl FnMut(ServerId, Zxid)) {
        for p in self.peers.values().filter(|p| p.voter && !p.observer && p.step >= Step::Taken) {
            told(p.id, p.acked);
        }
    }
    /// The links of all learners.
    pub fn links(&self) -> impl Iterator<Item = LinkId> + '_ {
        self.peers.keys().copied()
    }
    /// The learner on a link.
    pub fn learner(&self, link: LinkId) -> Option<ServerId> {
        self.peers.get(&link).map(|p| p.id)
    }

    /// Who is on a link, if it has said so and was not refused, and from where.
    pub fn caller(&self, link: LinkId) -> Option<(Option<ServerId>, String)> {
        self.peers.get(&link).map(|p| ((p.step > Step::Hello).then_some(p.id), p.name.clone()))
    }

    /// The longest packet that is taken on a link; `max` is for a learner. Whoever may be nobody's learner has little to say.
    pub fn packet_max(&self, link: LinkId, max: usize) -> usize {
        let known = self.peers.get(&link).is_some_and(|p| p.step > Step::AckEpoch);
        if known { max } else { max.min(HELLO_BYTES_MAX) }
    }

    pub fn accepted(&mut self, link: LinkId, name: String, now: MonoMs) {
        let peer = Peer {
            id: ServerId(0),
            name,
            observer: true,
            voter: false,
            ahead: false,
            step: Step::Hello,
            cursor: 0,
            commit_at: 0,
            sync_end: 0,
            acked: Zxid::ZERO,
            taken: Zxid::ZERO,
            early: Zxid::ZERO,
            syncs: VecDeque::new(),
            heard_at: now,
            progress_at: now,
            stream: Streaming::No,
            told: (Zxid::ZERO, Ticket(0)),
            proposed: Zxid::ZERO,
        };
        self.peers.insert(link, peer);
    }

    /// The link is gone. Fails when too few voters are left.
    pub fn gone(&mut self, base: &Base, link: LinkId) -> Handled {
        let Some(peer) = self.peers.remove(&link) else { return Ok(()) };
        if peer.voter
            && matches!(self.stage, Stage::Sync { .. } | Stage::Broadcast)
            && peer.step > Step::AckEpoch
        {
            self.check_quorum(base, None)?;
        }
        Ok(())
    }

    /// Closes one learner's link; the server forgets it.
    fn drop_peer(&mut self, base: &mut Base, link: LinkId, why: &Why, ports: &mut dyn Ports) -> Handled {
        if let Some((id, at)) = self.caller(link) {
            base.tell(Event::Dropped { id, at, why: why.0.clone() });
            base.tell(Event::LearnerGone(link));
        }
        ports.close(link);
        self.gone(base, link)
    }

    /// A packet of a learner. Fails when this server cannot lead any longer.
    pub fn packet(
        &mut self,
        base: &mut Base,
        link: LinkId,
        p: &Packet<'_>,
        now: MonoMs,
        ports: &mut dyn Ports,
    ) -> Handled {
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.heard_at = now;
        let step = peer.step;
        let done = match (step, p.kind) {
            (Step::Hello, Kind::FollowerInfo | Kind::ObserverInfo) => self.hello(base, link, p, ports),
            (Step::AckEpoch, Kind::AckEpoch) => self.ack_epoch(base, link, p),
            (Step::NewLeader, Kind::Ack) => self.new_leader_ack(base, link, p.zxid, now),
            (Step::Taken | Step::Live, Kind::Ack) => self.ack(base, link, p.zxid, now),
            (Step::Hello | Step::AckEpoch, kind) => {
                Err(Why::unexpected(kind, "before the handshake was done"))
            }
            (_, Kind::Ping) => heard(base, link, p),
            (_, Kind::Request) => request(base, link, p),
            (_, Kind::Revalidate) => revalidate(base, link, p),
            (_, kind) => Err(Why::unexpected(kind, "out of order")),
        };
        match done {
            Ok(()) => self.settle(base, now, ports),
            Err(why) => self.drop_peer(base, link, &why, ports),
        }
    }

    /// Bytes that are no packet.
    pub fn garbage(&mut self, base: &mut Base, link: LinkId, why: &Why, ports: &mut dyn Ports) -> Handled {
        self.drop_peer(base, link, why, ports)
    }

    /// Whatever has become possible by what was heard or became durable.
    pub fn settle(&mut self, base: &mut Base, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        if let Some(epoch) = self.outdated {
            return Err(Why::new(format!(
                "a voter has promised epoch {epoch}: only a later one can have all voters"
            )));
        }
        self.settle_epoch(base, now, ports);
        if let Stage::AckEpoch { .. } = self.stage {
            self.settle_promises(base, ports);
        }
        if let Stage::Sync { current } = self.stage
            && base.durable >= current
        {
            self.begin_due(base, now, ports)?;
            self.establish(base, now)?;
        }
        if matches!(self.stage, Stage::Broadcast | Stage::Relay { .. }) {
            self.begin_due(base, now, ports)?;
        }
        if self.stage == Stage::Broadcast {
            self.advance_commit(base, now);
        }
        Ok(())
    }

    /// With a quorum that has taken over the history, this server leads. Members that are under way are agreed on by that.
    fn establish(&mut self, base: &mut Base, now: MonoMs) -> Handled {
        let me = base.settings.me;
        let whole = base.durable_zxid() >= self.history_end;
        let taken = |id| {
            (id == me && whole) || self.peers.values().any(|p| p.id == id && p.voter && p.step >= Step::Taken)
        };
        if !base.quorum(taken) {
            return Ok(());
        }
        self.stage = Stage::Broadcast;
        self.since = now;
        for peer in self.peers.values_mut() {
            (peer.heard_at, peer.progress_at) = (now, now);
        }
        base.commit(self.history_end);
        if let Some(next) = base.next.clone() {
            base.activate(next);
            self.recount(base);
            if !base.members.can_lead(me) {
                return Err(Why::new(
                    "a reconfiguration that was under way is done, and this server may not lead",
                ));
            }
        }
        base.tell(Event::Leading { epoch: self.epoch });
        Ok(())
    }

    /// Commits what a quorum of durable logs holds, reconfigurations one at a time: the rules change there.
    fn advance_commit(&mut self, base: &mut Base, now: MonoMs) {
        let last = base.window.last();
        while base.committed < last && self.retires_at.is_none() {
            let Some(next) = base.next.clone() else {
                let upto = self.acknowledged(base, &base.members, last);
                return base.commit(upto);
            };
            let at = Zxid(next.version);
            let before =
                base.window.after(at).map_or(last, |place| base.window.before(place.saturating_sub(1)));
            if base.committed < before {
                let upto = self.acknowledged(base, &base.members, before);
                base.commit(upto);
            }
            let both = self.acknowledged(base, &base.members, at).min(self.acknowledged(base, &next, at));
            if base.committed < before || both < at {
                return;
            }
            base.commit(at);
            self.activate(base, next, now);
        }
    }

    /// The last zxid up to `limit` that a quorum of these members has durably; nothing below what is committed.
    fn acknowledged(&self, base: &Base, members: &Members, limit: Zxid) -> Zxid {
        let (me, own) = (base.settings.me, base.durable_zxid());
        let acked = |id: ServerId| {
            if id == me {
                return own;
            }
            self.peers
                .values()
                .filter(|p| p.id == id && !p.observer && !p.ahead)
                .map(|p| p.acked)
                .max()
                .unwrap_or_default()
        };
        let voters = members.voters().iter().copied();
        let mut marks: Vec<Zxid> =
            voters.map(|id| acked(id).min(limit)).filter(|z| *z > base.committed).collect();
        marks.sort_unstable_by(|a, b| b.cmp(a));
        marks.into_iter().find(|z| members.quorum(|id| acked(id) >= *z)).unwrap_or(base.committed)
    }

    fn ack(&mut self, base: &mut Base, link: LinkId, zxid: Zxid, now: MonoMs) -> Handled {
        let last = base.window.last();
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        // The acknowledgement of UPTODATE (fact sheet 8.3 step 10) stands for nothing.
        if zxid.counter() == 0 && zxid.epoch() == self.epoch {
            return Ok(());
        }
        if zxid > last || zxid > peer.sent(base) {
            return Err(Why::new(format!("it acknowledges {zxid}, which it was not sent")));
        }
        if zxid > peer.acked {
            peer.acked = zxid;
            peer.progress_at = now;
        }
        Ok(())
    }

    fn new_leader_ack(&mut self, base: &Base, link: LinkId, zxid: Zxid, now: MonoMs) -> Handled {
        let epoch = self.epoch;
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        if zxid == Zxid::new(epoch, 0) {
            peer.step = Step::Taken;
            peer.progress_at = now;
            // Whatever it was told to commit before is in the history that it has taken over.
            peer.acked = peer.early.max(peer.taken);
        } else if zxid > peer.sent(base) {
            return Err(Why::new(format!("it acknowledges {zxid}, which it was not sent")));
        } else {
            // Apache's servers let it overtake (ZOOKEEPER-4685). It stands for nothing before the history is taken over.
            peer.early = peer.early.max(zxid);
        }
        Ok(())
    }

    /// What time brings: pings, silent learners, a lost quorum.
    pub fn tick(
        &mut self,
        base: &mut Base,
        heard_looking: bool,
        now: MonoMs,
        ports: &mut dyn Ports,
    ) -> Handled {
        self.check_patience(base, heard_looking, now)?;
        if self.retires_at.is_some_and(|at| now >= at) {
            return Err(Why::new("a reconfiguration has given the lead to another server"));
        }
        if now < self.ping_at {
            return Ok(());
        }
        self.ping_at = now.plus((base.settings.tick_ms / 2).max(1));
        let limit = base.settings.sync_ms();
        // Until this leader is established those who have taken its history over hear nothing that they could answer.
        let established = self.stage == Stage::Broadcast;
        let init_limit = base.settings.init_ms() + limit;
        let sync_limit = |p: &Peer| if p.step >= Step::Taken && established { limit } else { init_limit };
        let last = base.window.last();
        let mut silent = Vec::new();
        for (&link, peer) in &mut self.peers {
            if peer.step >= Step::Taken {
                // Behind one that takes nothing, pings would only pile up.
                if ports.out(link).len() < pump::OUT_HIGH {
                    put_packet(ports.out(link), Kind::Ping, last, None);
                }
            }
            let idle = !peer.voter || peer.observer || peer.acked >= peer.sent(base);
            if idle || peer.stream != Streaming::No || peer.step < Step::Taken {
                peer.progress_at = now;
            }
            let silent_ms = now.since(peer.heard_at);
            let why = match peer.stream {
                // It waits for its turn, and need not say anything.
                Streaming::Due => continue,
                Streaming::Runs => stream::stalled(base, peer, silent_ms),
                Streaming::No if silent_ms > sync_limit(peer) => Some(Why::new("it was silent for too long")),
                Streaming::No if now.since(peer.progress_at) > limit => {
                    Some(Why::new("it acknowledges nothing any more; is its disk stuck?"))
                }
                Streaming::No => None,
            };
            silent.extend(why.map(|why| (link, why)));
        }
        for (link, why) in silent {
            self.drop_peer(base, link, &why, ports)?;
        }
        self.half = !self.half;
        if self.half && self.stage == Stage::Broadcast {
            self.check_quorum(base, Some(now))?;
        }
        Ok(())
    }

    pub fn next_deadline(&self) -> MonoMs {
        self.retires_at.map_or(self.ping_at, |at| at.min(self.ping_at))
    }

    /// Whether a quorum of voters still follows; with `now` also whether it was heard of within `syncLimit`.
    fn check_quorum(&self, base: &Base, now: Option<MonoMs>) -> Handled {
        let me = base.settings.me;
        let limit = base.settings.sync_ms();
        // An observer that is to vote does not acknowledge proposals yet; for what it has taken over its word is good.
        let established = self.stage == Stage::Broadcast;
        let follows = |id| {
            id == me
                || self.peers.values().any(|p| {
                    p.id == id
                        && p.voter
                        && !(p.observer && established)
                        && p.step > Step::AckEpoch
                        && now.is_none_or(|now| now.since(p.heard_at) <= limit)
                })
        };
        if base.quorum(follows) {
            return Ok(());
        }
        Err(Why::new("a quorum of voters does not follow any longer"))
    }

    /// Gives up a stage that takes too long.
    fn check_patience(&self, base: &Base, heard_looking: bool, now: MonoMs) -> Handled {
        let waited = now.since(self.since);
        let limit = match self.stage {
            Stage::Broadcast | Stage::Relay { .. } => return Ok(()),
            Stage::Epoch | Stage::AckEpoch { .. } => base.settings.discovery_ms(),
            Stage::Sync { .. } => base.settings.init_ms(),
        };
        if waited > limit {
            return Err(Why::new(format!("no quorum of voters came along within {limit} ms")));
        }
        if base.settings.epoch_wait_ms.is_some_and(|ms| waited > ms)
            && heard_looking
            && self.stage == Stage::Epoch
        {
            return Err(Why::new("a voter looks for a leader again"));
        }
        Ok(())
    }

    /// A `sync` of a learner: released there behind the commit of `behind`.
    pub fn sync(&mut self, link: LinkId, behind: Zxid) {
        if let Some(peer) = self.peers.get_mut(&link) {
            peer.syncs.push_back(behind);
        }
    }

    /// The epochs to remember once a quorum has promised.
    fn current(&self, base: &Base) -> Epochs {
        Epochs { accepted: base.epochs.accepted, current: self.epoch }
    }
}

impl Step {
    const fn rank(self) -> u8 {
        match self {
            Step::Hello => 0,
            Step::Epoch => 1,
            Step::AckEpoch => 2,
            Step::Waiting { .. } => 3,
            Step::Streaming => 4,
            Step::Syncing => 5,
            Step::NewLeader => 6,
            Step::Taken => 7,
            Step::Live => 8,
        }
    }
}
impl PartialOrd for Step {
    fn partial_cmp(&self, other: &Step) -> Option<std::cmp::Ordering> {
        Some(self.rank().cmp(&other.rank()))
    }
}

/// Sessions that a learner heard from.
fn heard(base: &mut Base, link: LinkId, p: &Packet<'_>) -> Handled {
    let mut d = Decoder::new(p.data.unwrap_or_default());
    let mut sessions = Vec::new();
    while !d.rest().is_empty() {
        let (Ok(id), Ok(timeout)) = (d.long(), d.int()) else {
            return Err(Why::new("its PING is cut short"));
        };
        sessions.push((SessionId(id), timeout));
    }
    if !sessions.is_empty() {
        base.tell(Event::Heard { link, sessions });
    }
    Ok(())
}

fn request(base: &mut Base, link: LinkId, p: &Packet<'_>) -> Handled {
    let mut d = Decoder::new(p.data.unwrap_or_default());
    let (Ok(session), Ok(cxid), Ok(op)) = (d.long(), d.int(), d.int()) else {
        return Err(Why::new("its REQUEST is cut short"));
    };
    let body = d.rest().into();
    base.tell(Event::Request {
        link,
        session: SessionId(session),
        cxid,
        op,
        body,
        ids: p.ids.clone().into(),
    });
    Ok(())
}

fn revalidate(base: &mut Base, link: LinkId, p: &Packet<'_>) -> Handled {
    let mut d = Decoder::new(p.data.unwrap_or_default());
    let (Ok(session), Ok(timeout_ms)) = (d.long(), d.int()) else {
        return Err(Why::new("its REVALIDATE is cut short"));
    };
    base.tell(Event::Revalidate { link, session: SessionId(session), timeout_ms });
    Ok(())
}

/// The answer to a REVALIDATE.
pub(super) fn put_revalidated(out: &mut Vec<u8>, session: SessionId, valid: bool) {
    let mut data = Vec::with_capacity(9);
    data.put_long(session.0);
    data.put_bool(valid);
    put_packet(out, Kind::Revalidate, Zxid::MAX, Some(&data));
}
