//! A learner: a follower or an observer, from its first packet to the leader's last (fact sheet 8.3 to 8.7).
//!
//! Not here: which leader (`election`), what a transaction does (`server`), reading a snapshot stream (the driver).
//! Invariants:
//! - the accepted epoch is durable before ACKEPOCH leaves; history, then the current epoch, are durable before NEWLEADER
//!   is acknowledged; a proposal is acknowledged when it is durable, one packet each, ascending, and none before NEWLEADER's;
//! - what a synchronisation brings is logged as it comes and applied after UPTODATE only;
//! - nothing above the leader's history stays in the log: a TRUNC is logged before anything behind it.

use super::base::{Base, EPOCH_MAX, Why};
use super::member::Event;
use super::members::Members;
use super::wire::{Kind, LearnerInfo, Packet, put_packet};
use super::{Epochs, Mark, Persist, Ports};
use crate::ids::{LinkId, ServerId, SessionId, Ticket, Zxid};
use crate::proto::{Decoder, Encode};
use crate::time::MonoMs;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Between two attempts to reach a leader that does not listen yet, ms.
const REDIAL_MS: u64 = 10;

/// How far a learner has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stage {
    /// No link: tries again at this time.
    Away { again_at: MonoMs },
    /// Connecting.
    Dialling,
    /// FOLLOWERINFO is sent.
    Hello,
    /// The accepted epoch is being made durable.
    Promising { ticket: Ticket, first: bool },
    /// ACKEPOCH is sent.
    Promised,
    /// The driver reads a snapshot, or rebuilds the state from disk. `waits`: for more bytes of the leader.
    Loading { zxid: Zxid, stream: bool, waits: bool },
    /// Takes over the leader's history.
    Syncing,
    /// NEWLEADER came: history and epoch are being made durable.
    Taking { ticket: Ticket },
    /// NEWLEADER is acknowledged.
    Taken,
    /// Serves.
    Live,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Learner {
    pub leader: ServerId,
    pub link: LinkId,
    observer: bool,
    stage: Stage,
    since: MonoMs,
    heard_at: MonoMs,
    epoch: u32,
    /// The leader was told of less than this history.
    shorter: Option<Zxid>,
    /// The state is loaded again for no leader's sake.
    asks_anew: bool,
    /// What the synchronisation has committed.
    sync_committed: Zxid,
    /// What was committed before NEWLEADER is acknowledged with it; everything behind one by one.
    ack_above: Zxid,
    acks: VecDeque<(Ticket, Zxid)>,
    /// The leader's members, from NEWLEADER: they count from UPTODATE on.
    announced: Option<Arc<Members>>,
    /// Those that were under way by the history alone when NEWLEADER came.
    held: Option<Arc<Members>>,
    /// Sessions heard from since the leader's last PING.
    touched: HashMap<SessionId, i32>,
}

type Handled = Result<(), Why>;

impl Learner {
    pub fn new(leader: ServerId, observer: bool, now: MonoMs, ports: &mut dyn Ports) -> Learner {
        Learner {
            leader,
            link: ports.dial(leader),
            observer,
            stage: Stage::Dialling,
            since: now,
            heard_at: now,
            epoch: 0,
            shorter: None,
            asks_anew: false,
            sync_committed: Zxid::ZERO,
            ack_above: Zxid::ZERO,
            acks: VecDeque::new(),
            announced: None,
            held: None,
            touched: HashMap::new(),
        }
    }

    pub fn is_live(&self) -> bool {
        self.stage == Stage::Live
    }
    pub fn is_loading(&self) -> bool {
        matches!(self.stage, Stage::Loading { .. })
    }
    pub fn observes(&self) -> bool {
        self.observer
    }
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    pub fn link_up(&mut self, base: &Base, now: MonoMs, ports: &mut dyn Ports) {
        if self.stage != Stage::Dialling {
            return;
        }
        let info = LearnerInfo {
            server: Some(base.settings.me),
            protocol: 0x10000,
            config_version: base.members.version,
        };
        let mut data = Vec::new();
        info.encode(&mut data);
        let kind = if self.observer { Kind::ObserverInfo } else { Kind::FollowerInfo };
        put_packet(ports.out(self.link), kind, Zxid::new(base.epochs.accepted, 0), Some(&data));
        self.stage = Stage::Hello;
        self.heard_at = now;
    }

    /// The link is gone. A leader that did not listen yet is tried again; any other is given up.
    pub fn link_down(&mut self, base: &Base, why: &str, now: MonoMs) -> Handled {
        let early = matches!(self.stage, Stage::Dialling | Stage::Hello);
        if early && now.since(self.since) < base.settings.init_ms().min(2 * base.settings.tick_ms) {
            self.stage = Stage::Away { again_at: now.plus(REDIAL_MS) };
            return Ok(());
        }
        Err(Why::new(format!("the link to leader {} ended: {why}", self.leader)))
    }

    pub fn tick(&mut self, base: &Base, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        if let Stage::Away { again_at } = self.stage
            && now >= again_at
        {
            self.link = ports.dial(self.leader);
            self.stage = Stage::Dialling;
        }
        if now < self.next_deadline(base) {
            return Ok(());
        }
        if let Stage::Loading { zxid, .. } = self.stage {
            return Err(Why::new(format!(
                "its snapshot of {zxid} stopped in the middle: not a byte of it came for {} ms",
                base.settings.init_ms()
            )));
        }
        if self.stage == Stage::Dialling {
            return Err(Why::new(format!("leader {} does not answer on its quorum port", self.leader)));
        }
        Err(Why::new(format!("leader {} was silent for too long", self.leader)))
    }

    /// What the driver sees of the stream: whether bytes came, and whether it waits for more.
    pub fn stream_moved(&mut self, came: bool, waiting: bool, now: MonoMs) {
        if let Stage::Loading { stream: true, waits, .. } = &mut self.stage {
            if came || !*waits {
                self.heard_at = now;
            }
            *waits = waiting;
        }
    }

    pub fn next_deadline(&self, base: &Base) -> MonoMs {
        match self.stage {
            Stage::Away { again_at } => again_at,
            // A candidate that voters cannot reach gives up then; one that hears nothing (half a cut) is voted for again
            // and again, and each time costs this.
            Stage::Dialling => self.since.plus(base.settings.discovery_ms()),
            Stage::Live | Stage::Taken => self.heard_at.plus(base.settings.sync_ms()),
            // What is read, written or loaded here takes as long as it takes; a leader that says nothing does not.
            Stage::Loading { waits: false, .. } => MonoMs(u64::MAX),
            _ => self.heard_at.plus(base.settings.init_ms()),
        }
    }

    /// A packet of the leader. Fails when it cannot be followed any longer.
    pub fn packet(&mut self, base: &mut Base, p: &Packet<'_>, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        self.heard_at = now;
        match (self.stage, p.kind) {
            (Stage::Hello, Kind::LeaderInfo) => self.leader_info(base, p, ports),
            (Stage::Promised, Kind::Diff | Kind::Trunc | Kind::Snap) if self.reloads(base, p.kind, ports) => {
                Ok(())
            }
            (Stage::Promised, Kind::Diff) if let Some(end) = self.shorter => self.trunc(base, end, ports),
            (Stage::Promised, Kind::Diff) => {
                self.sync_committed = base.window.last();
                self.stage = Stage::Syncing;
                Ok(())
            }
            (Stage::Promised, Kind::Trunc) => self.trunc(base, p.zxid, ports),
            (Stage::Promised, Kind::Snap) => self.snap(base, p.zxid),
            (Stage::Syncing, Kind::NewLeader) => self.new_leader(base, p, ports),
            (Stage::Syncing | Stage::Taking { .. } | Stage::Taken, kind) => {
                self.in_sync(base, kind, p, ports)
            }
            (Stage::Live, kind) => self.live(base, kind, p, ports),
            (_, kind) => Err(Why::unexpected(kind, "from the leader, out of order")),
        }
    }

    fn leader_info(&mut self, base: &mut Base, p: &Packet<'_>, ports: &mut dyn Ports) -> Handled {
        self.epoch = p.zxid.epoch();
        let version = Decoder::new(p.data.unwrap_or_default())
            .int()
            .map_err(|_| Why::new("LEADERINFO without a version"))?;
        if version < 0x10000 {
            return Err(Why::new(format!(
                "leader {} speaks protocol {version:#x}: upgrade it first",
                self.leader
            )));
        }
        if self.epoch >= EPOCH_MAX {
            return Err(Why::new(format!(
                "leader {} has epoch {}, which makes no sense",
                self.leader, self.epoch
            )));
        }
        if self.epoch < base.epochs.accepted && !self.may_be_guest(base) {
            return Err(Why::new(format!(
                "leader {} has epoch {}, but this server has promised to follow epoch {}",
                self.leader, self.epoch, base.epochs.accepted
            )));
        }
        let first = self.epoch > base.epochs.accepted;
        let ticket = if first {
            base.set_epochs(Epochs { accepted: self.epoch, current: base.epochs.current }, ports)
        } else {
            base.ticket
        };
        self.stage = Stage::Promising { ticket, first };
        self.durable(base, ports);
        Ok(())
    }

    /// Whether it may follow a leader of an earlier epoch than it has promised. A promise keeps a quorum from following two
    /// leaders at a time, so one of a server without a vote binds nobody: it follows, stands to its promise for when it has a
    /// vote, and counts nowhere. But if it holds the history of a later leader, this one is none any more.
    fn may_be_guest(&self, base: &Base) -> bool {
        !base.votes(base.settings.me) && base.epochs.current <= self.epoch
    }

    fn trunc(&mut self, base: &mut Base, to: Zxid, ports: &mut dyn Ports) -> Handled {
        // The beginning of an epoch is no transaction: what is kept ends right before it.
        let begun = (to.counter() == 0).then(|| base.window.after(to)).flatten();
        let to = begun.map_or(to, |place| base.window.before(place));
        self.sync_committed = to;
        if to >= base.applied() && base.window.holds(to) {
            base.truncate(to, ports);
            self.stage = Stage::Syncing;
            return Ok(());
        }
        self.rebuild(base, to, ports);
        Ok(())
    }

    /// A snapshot is what its leader has applied, and one that has no quorum yet has applied less than its history. It sends
    /// one to whoever ends in an epoch that it has nothing of; before that they may have more in common, which this server
    /// may have acknowledged. So it is not given up for the snapshot: the leader is asked for what follows.
    fn snap(&mut self, base: &mut Base, zxid: Zxid) -> Handled {
        let told = self.shorter.unwrap_or(base.window.last());
        if let Some(end) = base.keep_from((self.leader, self.epoch), told, zxid) {
            return Err(Why::new(format!(
                "its snapshot of {zxid} holds less than this server; it is asked for what follows {end}"
            )));
        }
        self.stage = Stage::Loading { zxid, stream: true, waits: true };
        base.tell(Event::Install { link: self.link, zxid });
        Ok(())
    }

    /// Asks for the state as it was at `to`.
    fn rebuild(&mut self, base: &mut Base, to: Zxid, ports: &mut dyn Ports) {
        base.persist(Persist::Mark(Mark::Truncate(to)), ports);
        // From here on the log says less than memory: if this role ends before the state is there, nothing of it counts.
        (base.dirty, base.settings.empty) = (Some(to), true);
        self.load(base, to);
    }

    fn load(&mut self, base: &mut Base, zxid: Zxid) {
        self.stage = Stage::Loading { zxid, stream: false, waits: false };
        base.tell(Event::Rebuild { zxid });
    }

    /// If a former role ended before the state was loaded again: what is on disk may be one of a quorum's copies, so it is
    /// loaded first, and the leader asked anew. Where nothing is left there, a snapshot brings everything.
    fn reloads(&mut self, base: &mut Base, kind: Kind, ports: &mut dyn Ports) -> bool {
        match base.dirty {
            Some(Zxid::ZERO) if kind != Kind::Snap => self.rebuild(base, Zxid::ZERO, ports),
            None | Some(Zxid::ZERO) => return false,
            Some(cut) => {
                self.asks_anew = true;
                self.load(base, cut);
            }
        }
        true
    }

    /// The driver has replaced the state: it is what the leader asked for, and durable.
    pub fn loaded(&mut self, base: &mut Base, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        let Stage::Loading { zxid, stream, .. } = self.stage else { return Ok(()) };
        self.heard_at = now;
        if stream {
            base.persist(Persist::Mark(Mark::Installed(zxid)), ports);
            base.dirty = None;
        } else if base.window.last() != zxid {
            // What the leader took for common is not: another history. Nothing of this one can be kept, and until all of
            // the leader's is here this server does not count.
            self.rebuild(base, Zxid::ZERO, ports);
            return Ok(());
        } else if zxid == Zxid::ZERO {
            base.dirty = None;
            return Err(Why::new(
                "its history had nothing in common with the leader's; it asks for all of it",
            ));
        } else {
            (base.dirty, base.settings.empty) = (None, false);
            if self.asks_anew {
                return Err(Why::new(format!(
                    "this server's state, up to {zxid}, is there again; it asks for what follows"
                )));
            }
        }
        self.sync_committed = zxid;
        self.stage = Stage::Syncing;
        Ok(())
    }

    /// Packets between the decision how to synchronise and UPTODATE.
    fn in_sync(&mut self, base: &mut Base, kind: Kind, p: &Packet<'_>, ports: &mut dyn Ports) -> Handled {
        match kind {
            Kind::Proposal => self.proposal(base, p.zxid, p.data, ports),
            Kind::Commit | Kind::CommitAndActivate => self.sync_commit(base, p.zxid),
            Kind::Inform => {
                self.proposal(base, p.zxid, p.data, ports)?;
                self.sync_commit(base, p.zxid)
            }
            Kind::InformAndActivate => {
                self.proposal(base, p.zxid, p.data.and_then(|d| d.get(8..)), ports)?;
                self.sync_commit(base, p.zxid)
            }
            Kind::Ping => {
                if self.stage == Stage::Taken {
                    self.pong(p.zxid, ports);
                }
                Ok(())
            }
            Kind::UpToDate if self.stage == Stage::Taken => {
                base.commit(self.sync_committed);
                put_packet(ports.out(self.link), Kind::Ack, Zxid::new(self.epoch, 0), None);
                self.activate_synced(base)?;
                self.stage = Stage::Live;
                base.tell(Event::Following {
                    leader: self.leader,
                    link: self.link,
                    observer: self.observer,
                    whole: self.ack_above,
                });
                Ok(())
            }
            other => Err(Why::unexpected(other, "during the synchronisation")),
        }
    }

    fn sync_commit(&mut self, base: &Base, zxid: Zxid) -> Handled {
        if zxid <= self.sync_committed {
            return Ok(());
        }
        if !base.window.holds(zxid) {
            return Err(Why::new(format!("COMMIT of {zxid}, which was not proposed here")));
        }
        self.sync_committed = zxid;
        Ok(())
    }

    fn proposal(
        &mut self,
        base: &mut Base,
        zxid: Zxid,
        txn: Option<&[u8]>,
        ports: &mut dyn Ports,
    ) -> Handled {
        let last = base.window.last();
        if zxid <= last && self.stage != Stage::Live {
            // A joiner may be sent what it has.
            return Ok(());
        }
        let follows = zxid.0 == last.0 + 1 || (zxid.epoch() > last.epoch() && zxid.counter() <= 1);
        if !follows {
            return Err(Why::new(format!(
                "proposal {zxid} does not follow {last}: something between is missing"
            )));
        }
        let txn = txn.filter(|t| (base.check)(t) == Some(zxid)).ok_or_else(|| {
            Why::new(format!(
                "proposal {zxid} holds no transaction of that zxid that this server understands"
            ))
        })?;
        let ticket = base.append(zxid, Arc::from(txn), ports);
        if self.epoch < base.epochs.accepted && !self.may_be_guest(base) {
            // Its acknowledgement would count.
            return Err(Why::new(format!(
                "reconfiguration {zxid} gives a vote to this server, which has promised epoch {}",
                base.epochs.accepted
            )));
        }
        if !self.observer {
            self.acks.push_back((ticket, zxid));
        }
        Ok(())
    }

    fn new_leader(&mut self, base: &mut Base, p: &Packet<'_>, ports: &mut dyn Ports) -> Handled {
        if p.zxid.epoch() != self.epoch {
            return Err(Why::new(format!("NEWLEADER of {} in epoch {}", p.zxid, self.epoch)));
        }
        if let Some(text) = p.data.filter(|d| d.len() > 1 && base.reconfigurable) {
            let members = Members::parse(&String::from_utf8_lossy(text))
                .map_err(|why| Why::new(format!("the members in NEWLEADER make no sense: {why}")))?;
            base.review_next();
            self.held = base.next.clone();
            base.see(members.clone());
            self.announced = Some(Arc::new(members));
        }
        if self.epoch < base.epochs.accepted && !self.may_be_guest(base) {
            // Its acknowledgement would count.
            return Err(Why::new(format!(
                "it is of epoch {}, and by its members this server, which has promised epoch {}, has a vote",
                self.epoch, base.epochs.accepted
            )));
        }
        // Tickets are in order: when this one is durable, so is all the history before it.
        let ticket = base.set_epochs(Epochs { accepted: base.epochs.accepted, current: self.epoch }, ports);
        self.ack_above = self.sync_committed;
        self.stage = Stage::Taking { ticket };
        self.durable(base, ports);
        Ok(())
    }

    fn live(&mut self, base: &mut Base, kind: Kind, p: &Packet<'_>, ports: &mut dyn Ports) -> Handled {
        match kind {
            Kind::Proposal => self.proposal(base, p.zxid, p.data, ports),
            Kind::Commit => commit(base, p.zxid),
            Kind::CommitAndActivate => {
                commit(base, p.zxid)?;
                self.activate(base, p)
            }
            Kind::Inform => {
                self.proposal(base, p.zxid, p.data, ports)?;
                commit(base, p.zxid)
            }
            Kind::InformAndActivate => {
                self.proposal(base, p.zxid, p.data.and_then(|d| d.get(8..)), ports)?;
                commit(base, p.zxid)?;
                self.activate(base, p)
            }
            Kind::Ping => {
                self.pong(p.zxid, ports);
                Ok(())
            }
            Kind::Sync => {
                base.tell(Event::Synced { behind: base.committed });
                Ok(())
            }
            Kind::Revalidate => {
                let mut d = Decoder::new(p.data.unwrap_or_default());
                let (Ok(session), Ok(valid)) = (d.long(), d.bool()) else {
                    return Err(Why::new("an answer to REVALIDATE is cut short"));
                };
                base.tell(Event::Revalidated { session: SessionId(session), valid });
                Ok(())
            }
            Kind::UpToDate => Ok(()),
            other => Err(Why::unexpected(other, "from an established leader")),
        }
    }

    /// A reconfiguration is committed. Fails when this server's role or leader is another one from here on.
    fn activate(&mut self, base: &mut Base, p: &Packet<'_>) -> Handled {
        if !base.reconfigurable {
            return Ok(());
        }
        let members = base
            .reconfig_at(p.zxid)
            .ok_or_else(|| Why::new(format!("the reconfiguration {} cannot be understood", p.zxid)))?;
        let heir = Decoder::new(p.data.unwrap_or_default())
            .long()
            .map(ServerId)
            .map_err(|_| Why::new(format!("the reconfiguration {} does not say who leads", p.zxid)))?;
        let change = base.activate(members);
        if heir == self.leader && !change.role {
            return Ok(());
        }
        base.heir = Some(heir);
        let what = if heir == self.leader { "role" } else { "leader" };
        Err(Why::new(format!("the reconfiguration {} gives this server another {what}", p.zxid)))
    }

    /// At UPTODATE: the members that the history leads to, and those that the leader has announced, unless the
    /// reconfiguration that makes them is still only proposed. An observer does not have that in its log then: what tells
    /// it is the zxid, which is one of this leader's that is not committed here.
    fn activate_synced(&mut self, base: &mut Base) -> Handled {
        // Its PROPOSAL may still be on the way: this leader commits it later, or never.
        let epoch = self.epoch;
        let proposed = |v: u64| {
            let z = Zxid(v);
            z > base.committed && z.counter() > 0 && (z.epoch() == epoch || base.window.holds(z))
        };
        let known = [self.announced.take(), base.next.clone(), self.held.take(), base.passed.clone()];
        let newest = known.into_iter().flatten().filter(|m| !proposed(m.version)).max_by_key(|m| m.version);
        let Some(members) = newest.filter(|m| m.version > base.members.version) else { return Ok(()) };
        let change = base.activate(members);
        if !base.members.is_voter(self.leader) {
            return Err(Why::new(format!(
                "leader {} is not a voter of the members it announced",
                self.leader
            )));
        }
        if change.role {
            base.heir = Some(self.leader);
            return Err(Why::new("by the leader's configuration this server has another role"));
        }
        Ok(())
    }

    fn pong(&mut self, zxid: Zxid, ports: &mut dyn Ports) {
        let mut data = Vec::with_capacity(12 * self.touched.len());
        for (id, timeout_ms) in self.touched.drain() {
            data.put_long(id.0);
            data.put_int(timeout_ms);
        }
        put_packet(ports.out(self.link), Kind::Ping, zxid, Some(&data));
    }

    /// A client of this session was heard from here.
    pub fn touch(&mut self, session: SessionId, timeout_ms: i32) {
        self.touched.insert(session, timeout_ms);
    }

    /// Says what may be said now that more is durable.
    pub fn durable(&mut self, base: &mut Base, ports: &mut dyn Ports) {
        match self.stage {
            Stage::Promising { ticket, first } if base.durable >= ticket => {
                let mut data = Vec::with_capacity(4);
                self.shorter = base.end_for(self.leader);
                // Without a vote, but with what a synchronisation has brought that did not end: it does not count, and is cut
                // or goes on from there all the same.
                let begun = base.settings.empty && base.dirty.is_none() && base.window.last() != Zxid::ZERO;
                let end = if begun { base.window.last() } else { base.history_end() };
                data.put_int(if first && !begun { base.epochs.current as i32 } else { -1 });
                put_packet(ports.out(self.link), Kind::AckEpoch, self.shorter.unwrap_or(end), Some(&data));
                self.stage = Stage::Promised;
            }
            Stage::Taking { ticket } if base.durable >= ticket => {
                put_packet(ports.out(self.link), Kind::Ack, Zxid::new(self.epoch, 0), None);
                // From here on this server holds the leader's history, durably.
                base.settings.empty = false;
                self.stage = Stage::Taken;
            }
            _ => {}
        }
        if matches!(self.stage, Stage::Taken | Stage::Live) {
            let durable = base.durable;
            while let Some((_, zxid)) = self.acks.pop_front_if(|(ticket, _)| *ticket <= durable) {
                if zxid > self.ack_above {
                    put_packet(ports.out(self.link), Kind::Ack, zxid, None);
                }
            }
        }
    }
}

/// COMMIT and INFORM come in the order of the proposals, one for each.
fn commit(base: &mut Base, zxid: Zxid) -> Handled {
    let next = base.window.after(base.committed).and_then(|place| base.window.get(place)).map(|e| e.zxid);
    if zxid <= base.committed {
        return Ok(());
    }
    if next != Some(zxid) {
        return Err(Why::new(format!("COMMIT of {zxid} where {next:?} is next")));
    }
    base.commit(zxid);
    Ok(())
}
