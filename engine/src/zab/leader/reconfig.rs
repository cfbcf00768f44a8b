//! What a reconfiguration means to a leader: who counts, who leads behind it, and whether its quorum is there.
//!
//! Invariant: who leads behind a reconfiguration is among its voters and has acknowledged it.

use super::{Leader, Peer, Stage, Step};
use crate::ids::{ServerId, Zxid};
use crate::time::MonoMs;
use crate::zab::base::Base;
use crate::zab::members::Members;
use std::sync::Arc;

/// Ticks for which a leader that is to retire waits for its followers to leave.
const RETIRE_TICKS: u64 = 2;

impl Leader {
    /// The members have changed, or are about to: who of the learners counts?
    pub fn recount(&mut self, base: &Base) {
        // Those before the synchronisation are counted when that begins.
        for peer in self.peers.values_mut().filter(|p| p.step >= Step::Streaming) {
            peer.voter = base.votes(peer.id) && !peer.ahead;
        }
    }

    /// A reconfiguration is committed.
    pub(super) fn activate(&mut self, base: &mut Base, members: Arc<Members>, now: MonoMs) {
        let at = Zxid(members.version);
        let heir = self.heir(base, &members, at);
        self.activated = Some((at, heir));
        base.activate(members);
        self.recount(base);
        if heir != base.settings.me {
            base.heir = Some(heir);
            self.retires_at = Some(now.plus(RETIRE_TICKS * base.settings.tick_ms));
        }
    }

    /// Who leads behind a reconfiguration: this server, if it may and its address stays; else whoever has acknowledged the
    /// most.
    fn heir(&self, base: &Base, new: &Members, at: Zxid) -> ServerId {
        let me = base.settings.me;
        let quorum_ports = |m: &Members| {
            let peers = m.get(me).map_or(&[][..], |m| &m.peers);
            peers.iter().map(|p| (p.host.clone(), p.quorum_port)).collect::<Vec<_>>()
        };
        if new.can_lead(me) && quorum_ports(new) == quorum_ports(&base.members) {
            return me;
        }
        let able =
            self.peers.values().filter(|p| p.id != me && !p.ahead && p.acked >= at && new.can_lead(p.id));
        able.max_by_key(|p| (p.acked, p.id)).map_or(me, |p| p.id)
    }

    /// Whether a quorum of these members follows by now.
    pub fn has_synced(&self, base: &Base, members: &Members) -> bool {
        let me = base.settings.me;
        let counts = |p: &Peer| !p.observer && !p.ahead && p.step >= Step::Taken;
        let follows = |id| id == me || self.peers.values().any(|p| p.id == id && counts(p));
        self.stage == Stage::Broadcast && members.quorum(follows)
    }
}
