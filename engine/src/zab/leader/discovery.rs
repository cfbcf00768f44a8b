//! From the first packet of a learner to the beginning of its synchronisation: epochs, promises, and whose history
//! reaches how far.
//!
//! Invariant: a learner whose history is more recent than the leader's is never counted: its link is closed.

use super::{Handled, Leader, Peer, Stage, Step};
use crate::ids::{LinkId, ServerId, Zxid};
use crate::proto::{Decoder, Encode};
use crate::time::MonoMs;
use crate::zab::base::{Base, EPOCH_MAX, Why};
use crate::zab::member::Event;
use crate::zab::wire::{Kind, LearnerInfo, Packet, put_packet};
use crate::zab::{Epochs, Ports};

/// No observer takes the last epochs away, however its files came about.
const GUEST_EPOCH_MAX: u32 = EPOCH_MAX / 2;
/// The protocol that a leader speaks (fact sheet 8.1).
const PROTOCOL: i32 = 0x10000;

/// Without the port, which is another one for each connection.
fn host_of(name: &str) -> &str {
    name.rsplit_once(':').map_or(name, |(host, _)| host)
}

impl Leader {
    /// FOLLOWERINFO or OBSERVERINFO.
    pub(super) fn hello(
        &mut self,
        base: &mut Base,
        link: LinkId,
        p: &Packet<'_>,
        ports: &mut dyn Ports,
    ) -> Handled {
        let info = LearnerInfo::decode(p.data);
        if info.protocol < PROTOCOL {
            return Err(Why::new(format!(
                "it speaks protocol {:#x}, older than ZooKeeper 3.4: upgrade that server first",
                info.protocol
            )));
        }
        if info.config_version > base.members.version {
            return Err(Why::new(format!(
                "its configuration has version {:x}, newer than {:x} here",
                info.config_version, base.members.version
            )));
        }
        if p.zxid.epoch() >= EPOCH_MAX {
            return Err(Why::new(format!(
                "it says that it has promised epoch {}, which makes no sense",
                p.zxid.epoch()
            )));
        }
        let id = info.server.filter(|id| id.0 >= 0).unwrap_or(ServerId(self.next_guest));
        self.next_guest = self.next_guest.min(id.0.saturating_sub(1));
        if id == base.settings.me {
            return Err(Why::new(format!(
                "it says that it is server {id}, as this one: look at both myid files"
            )));
        }
        let observer = p.kind == Kind::ObserverInfo;
        if matches!(self.stage, Stage::Relay { .. }) && !observer {
            return Err(Why::new("it wants to follow: this port is for observers"));
        }
        let voter = base.votes(id);
        // Whoever connects again has given up its former link.
        let former: Vec<LinkId> = self
            .peers
            .iter()
            .filter(|(l, q)| **l != link && q.id == id && q.step > Step::Hello)
            .map(|(l, _)| *l)
            .collect();
        let name = self.peers.get(&link).map(|p| p.name.clone()).unwrap_or_default();
        for old in former {
            ports.close(old);
            if let Some(was) = self.peers.remove(&old).filter(|p| host_of(&p.name) != host_of(&name)) {
                base.tell(Event::Dropped {
                    id: Some(id),
                    at: was.name,
                    why: format!(
                        "{name} says that it is server {id} as well; if both hosts run one, two servers have the same \
                         myid: correct the file myid of one of them"
                    ),
                });
            }
            base.tell(Event::LearnerGone(old));
        }
        let promised = p.zxid.epoch();
        if voter && !observer && self.stage != Stage::Epoch && promised > self.epoch {
            self.outdated = Some(promised);
            base.epoch_floor = base.epoch_floor.max(promised);
        }
        if observer && base.knows(id) && promised < GUEST_EPOCH_MAX {
            // An Apache server follows nobody below its promise, also without a vote. Nobody elects anew for its sake, but the
            // next leader's epoch is above it.
            base.epoch_floor = base.epoch_floor.max(promised);
        }
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        (peer.id, peer.observer, peer.voter, peer.step) = (id, observer, voter, Step::Epoch);
        peer.acked = Zxid::new(p.zxid.epoch(), 0);
        Ok(())
    }

    /// With a quorum's accepted epochs the new one is fixed; learners are told once it is durable here.
    pub(super) fn settle_epoch(&mut self, base: &mut Base, now: MonoMs, ports: &mut dyn Ports) {
        if self.stage == Stage::Epoch {
            let me = base.settings.me;
            let came =
                |id| id == me || self.peers.values().any(|p| p.id == id && p.voter && p.step == Step::Epoch);
            if !base.quorum(came) {
                return;
            }
            let highest = self
                .peers
                .values()
                .filter(|p| p.voter && p.step == Step::Epoch)
                .map(|p| p.acked.epoch())
                .max();
            self.epoch = base.epochs.accepted.max(highest.unwrap_or(0)).max(base.epoch_floor) + 1;
            let accepted =
                base.set_epochs(Epochs { accepted: self.epoch, current: base.epochs.current }, ports);
            self.stage = Stage::AckEpoch { accepted };
            self.since = now;
            if base.members.version == 0 && base.next.is_none() {
                // What the files say becomes a version of its own, above that of every server that was never in a quorum
                // (ZOOKEEPER-1783).
                let first = base.members.with_version(Zxid::new(self.epoch, 0).0);
                base.see(first);
            }
        }
        if let Stage::AckEpoch { accepted } = self.stage
            && base.durable < accepted
        {
            return;
        }
        let mut data = Vec::with_capacity(4);
        data.put_int(PROTOCOL);
        for (&link, peer) in self.peers.iter_mut().filter(|(_, p)| p.step == Step::Epoch) {
            put_packet(ports.out(link), Kind::LeaderInfo, Zxid::new(self.epoch, 0), Some(&data));
            peer.step = Step::AckEpoch;
            peer.ahead = peer.acked.epoch() > self.epoch;
            peer.voter &= !peer.ahead;
            peer.acked = Zxid::ZERO;
        }
    }

    /// ACKEPOCH: a promise, and how far the learner's history reaches.
    pub(super) fn ack_epoch(&mut self, base: &mut Base, link: LinkId, p: &Packet<'_>) -> Handled {
        let current = Decoder::new(p.data.unwrap_or_default())
            .int()
            .map_err(|_| Why::new("its ACKEPOCH has no epoch"))?;
        let ours = (i64::from(base.epochs.current), self.history_end);
        if matches!(self.stage, Stage::AckEpoch { .. })
            && current != -1
            && (i64::from(current), p.zxid) > ours
            && p.zxid != Zxid::MAX
        {
            return Err(Why::new(format!(
                "its history (epoch {current}, {}) is more recent than this leader's (epoch {}, {})",
                p.zxid, ours.0, ours.1
            )));
        }
        let last = if p.zxid == Zxid::MAX { Zxid::ZERO } else { p.zxid };
        let Some(peer) = self.peers.get_mut(&link) else { return Ok(()) };
        peer.step = Step::Waiting { last };
        if current == -1 || p.zxid == Zxid::MAX {
            // It has promised before, to a leader of the same epoch, or has no history: it may join, not elect.
            peer.voter &= !matches!(self.stage, Stage::AckEpoch { .. });
        }
        Ok(())
    }

    /// With a quorum's promises this server's epoch becomes current.
    pub(super) fn settle_promises(&mut self, base: &mut Base, ports: &mut dyn Ports) {
        let Stage::AckEpoch { accepted } = self.stage else { return };
        let me = base.settings.me;
        let promised = |id| {
            id == me
                || self
                    .peers
                    .values()
                    .any(|p| p.id == id && p.voter && matches!(p.step, Step::Waiting { .. }))
        };
        if base.durable < accepted || !base.quorum(promised) {
            return;
        }
        let current = base.set_epochs(self.current(base), ports);
        self.stage = Stage::Sync { current };
    }

    /// Whether a relay still hopes to hear of all that this observer has applied: cut back, it would have to load its whole
    /// state again, and what its last leader had told it this server's leader tells it in a moment.
    fn lags(&self, base: &Base, peer: &Peer, last: Zxid, now: MonoMs) -> bool {
        let patience = base.settings.sync_ms().min(base.settings.init_ms()) / 2;
        matches!(self.stage, Stage::Relay { .. })
            && last > base.committed
            && now.since(peer.heard_at) < patience
    }

    /// Begins the synchronisation of every learner that waits for it.
    pub(super) fn begin_due(&mut self, base: &mut Base, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        let due: Vec<(LinkId, Zxid)> = self
            .peers
            .iter()
            .filter_map(|(l, p)| if let Step::Waiting { last } = p.step { Some((*l, p, last)) } else { None })
            .filter(|(_, p, last)| !self.lags(base, p, *last, now))
            .map(|(l, _, last)| (l, last))
            .collect();
        for (link, last) in due {
            // A learner that could not elect counts from here on.
            let Some(peer) = self.peers.get_mut(&link) else { continue };
            peer.voter = base.votes(peer.id) && !peer.ahead;
            peer.heard_at = now;
            self.begin(base, link, last, ports);
        }
        Ok(())
    }

    /// Decides between DIFF, TRUNC and SNAP (fact sheet 8.4): by epoch and zxid against this leader's history, never by
    /// where the zxid lies in a range.
    fn begin(&mut self, base: &mut Base, link: LinkId, last: Zxid, ports: &mut dyn Ports) {
        let committed = self.effective(base);
        let w = &base.window;
        // The newest zxid of this history that the learner may keep.
        let keep = match w.after(last.min(committed)) {
            None => None,
            Some(place) => {
                let before = w.before(place);
                let same = before == last;
                // A zxid without a counter is the beginning of an epoch: all before it is this history's.
                let begun = last.counter() == 0 && last > before && last <= Zxid::new(self.epoch, 0);
                // Histories that share an epoch agree up to where the shorter one ends.
                let shared = before < last && before.epoch() == last.epoch();
                (same || begun || shared).then_some((place, before, same || begun))
            }
        };
        let Some(peer) = self.peers.get_mut(&link) else { return };
        let Some((place, before, is_prefix)) = keep else {
            peer.step = Step::Streaming;
            peer.ask_stream(base, link, last);
            return;
        };
        base.counts.diffs += u64::from(is_prefix);
        let keeps = if is_prefix { last } else { before };
        let told = Event::Synchronises { to: peer.id, last, keeps };
        let out = ports.out(link);
        if is_prefix {
            put_packet(out, Kind::Diff, committed, None);
        } else {
            put_packet(out, Kind::Trunc, before, None);
        }
        peer.cursor = place;
        peer.commit_at = place;
        peer.sync_end = if peer.observer { w.after(committed).unwrap_or(place) } else { w.end() };
        peer.step = Step::Syncing;
        peer.note_place(base);
        base.tell(told);
    }
}
