//! Filling the learners' buffers from the window.
//!
//! Invariant: a buffer that is not small is left alone, so a learner costs at most [`OUT_HIGH`] and one transaction.

use super::{Handled, Leader, Peer, Stage, Step, Streaming};
use crate::ids::{ServerId, Zxid};
use crate::proto::Encode;
use crate::time::MonoMs;
use crate::zab::Ports;
use crate::zab::base::{Base, Why};
use crate::zab::reconfig::is_reconfig;
use crate::zab::window::Place;
use crate::zab::wire::{Kind, put_packet, put_packet_with};

/// Unsent bytes of a link above which nothing is added to it.
pub(super) const OUT_HIGH: usize = 1 << 20;
/// Entries between two looks at what may be committed.
const RUN: u64 = 256;

impl Leader {
    /// What a learner may be told to commit: before this leader is established, its whole history, which the quorum
    /// that establishes it takes over.
    pub(super) fn effective(&self, base: &Base) -> Zxid {
        if matches!(self.stage, Stage::Broadcast | Stage::Relay { .. }) {
            base.committed
        } else {
            self.history_end
        }
    }

    /// Appends to every learner's buffer what it is due, as far as there is room.
    pub fn pump(&mut self, base: &mut Base, now: MonoMs, ports: &mut dyn Ports) -> Handled {
        let committed = self.effective(base);
        let established = matches!(self.stage, Stage::Broadcast | Stage::Relay { .. });
        let mut behind = Vec::new();
        let leader = if let Stage::Relay { leader } = self.stage { leader } else { base.settings.me };
        let activated = self.activated;
        let heir = |at| heir_at(activated, leader, at);
        for (&link, peer) in &mut self.peers {
            if peer.step < Step::Syncing || peer.stream != Streaming::No {
                continue;
            }
            let out = ports.out(link);
            if out.len() >= OUT_HIGH {
                continue;
            }
            let mut turn = Turn { base, committed, heir: &heir, out };
            if !turn.fill(peer) {
                behind.push((link, peer.step, peer.told.0));
                continue;
            }
            peer.note_place(turn.base);
            let sent_all = turn.commits_done(peer);
            if peer.step == Step::Syncing && peer.cursor >= peer.sync_end && sent_all {
                put_packet(
                    turn.out,
                    Kind::NewLeader,
                    Zxid::new(self.epoch, 0),
                    Some(base.last_seen().text().as_bytes()),
                );
                peer.step = Step::NewLeader;
                peer.taken = turn.base.window.before(peer.commit_at);
                peer.heard_at = now;
            }
            if peer.step == Step::Taken && established {
                put_packet(turn.out, Kind::UpToDate, Zxid::MAX, None);
                peer.step = Step::Live;
            }
        }
        for (link, step, told) in behind {
            if step < Step::Live {
                if let Some(peer) = self.peers.get_mut(&link) {
                    peer.ask_stream(base, link, told);
                }
                continue;
            }
            let why = Why::new(
                "it has fallen further behind than the window reaches; it will be synchronised again",
            );
            self.drop_peer(base, link, &why, ports)?;
        }
        Ok(())
    }
}

fn done(base: &Base, peer: &Peer, committed: Zxid) -> bool {
    peer.commit_at >= peer.cursor || base.window.get(peer.commit_at).is_none_or(|e| e.zxid > committed)
}

struct Turn<'a> {
    base: &'a Base,
    committed: Zxid,
    /// Who leads behind the reconfiguration with this zxid.
    heir: &'a dyn Fn(Zxid) -> ServerId,
    out: &'a mut Vec<u8>,
}

/// Who leads behind the reconfiguration with this zxid: only the last one can have made another server the leader.
pub(super) fn heir_at(activated: Option<(Zxid, ServerId)>, me: ServerId, at: Zxid) -> ServerId {
    activated.filter(|(zxid, _)| *zxid == at).map_or(me, |(_, heir)| heir)
}

impl Turn<'_> {
    /// `false`: the learner's place has left the window.
    fn fill(&mut self, peer: &mut Peer) -> bool {
        let first = self.base.window.first();
        if peer.cursor < first || (peer.commit_at < first && peer.commit_at < peer.cursor) {
            return false;
        }
        loop {
            let moved = if peer.observer && peer.step > Step::Syncing {
                self.inform(peer)
            } else {
                self.propose(peer)
            };
            self.release(peer);
            if !moved || self.out.len() >= OUT_HIGH {
                return true;
            }
        }
    }

    fn inform(&mut self, peer: &mut Peer) -> bool {
        let from = peer.cursor;
        while self.out.len() < OUT_HIGH
            && let Some(e) = self.base.window.get(peer.cursor).filter(|e| e.zxid <= self.committed)
        {
            if is_reconfig(&e.txn) {
                put_packet_with(self.out, Kind::InformAndActivate, e.zxid, None, |out| {
                    out.put_long((self.heir)(e.zxid).0);
                    out.extend_from_slice(&e.txn);
                });
            } else {
                put_packet(self.out, Kind::Inform, e.zxid, Some(&e.txn));
            }
            peer.cursor += 1;
            peer.commit_at = peer.cursor;
            self.release(peer);
        }
        peer.commit_at = peer.cursor;
        peer.cursor > from
    }

    fn propose(&mut self, peer: &mut Peer) -> bool {
        let end: Place = peer.cursor + RUN;
        let mut moved = false;
        while peer.cursor < end
            && self.out.len() < OUT_HIGH
            && let Some(e) =
                self.base.window.get(peer.cursor).filter(|e| !peer.observer || e.zxid <= self.committed)
        {
            put_packet(self.out, Kind::Proposal, e.zxid, Some(&e.txn));
            peer.cursor += 1;
            moved = true;
        }
        while peer.commit_at < peer.cursor
            && let Some(e) = self.base.window.get(peer.commit_at).filter(|e| e.zxid <= self.committed)
        {
            // While a learner is synchronised, its NEWLEADER brings the members.
            if peer.step > Step::Syncing && is_reconfig(&e.txn) {
                let heir = (self.heir)(e.zxid).0.to_be_bytes();
                put_packet(self.out, Kind::CommitAndActivate, e.zxid, Some(&heir));
            } else {
                put_packet(self.out, Kind::Commit, e.zxid, None);
            }
            peer.commit_at += 1;
            self.release(peer);
            moved = true;
        }
        moved
    }

    /// SYNC stands right behind the commits that it waits for: its session's later writes finish behind it.
    fn release(&mut self, peer: &mut Peer) {
        if peer.syncs.is_empty() {
            return;
        }
        let told = self.base.window.before(peer.commit_at);
        while peer.syncs.pop_front_if(|behind| *behind <= told).is_some() {
            put_packet(self.out, Kind::Sync, Zxid::ZERO, None);
        }
    }

    fn commits_done(&self, peer: &Peer) -> bool {
        done(self.base, peer, self.committed)
    }
}
