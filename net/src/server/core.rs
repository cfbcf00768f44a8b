//! The core's loop body: requests in, durable groups, committed changes out.
//!
//! Not here: when to sleep (`run`), the order of writes (`engine::server`), what words print (`desk`).
//! Invariants:
//! - a batch is published in the tree first, in the ring second, and only then is anybody woken;
//! - while the change ring is full nothing is applied and no request is taken; the log goes on;
//! - no call here waits.

use super::desk::Desk;
use super::errands::Errands;
use super::ports::Ports;
use super::shared::Shared;
use super::snapshots::Snapshots;
use crate::clock::Clock;
use crate::peers::{PeerEvent, Peers};
use crate::ring::{Bell, Consumer, Publisher, ring_those};
use engine::msg::{ChangeBatch, ToCore};
use engine::pipeline::Notice;
use engine::server::{PeerInput, Server};
use engine::time::{MonoMs, Now};
use engine::watch::InterestFilter;
use engine::zab::Role;
use std::sync::Arc;
use std::time::Duration;

/// Requests taken from one shard per step, so that no shard starves another and groups stay small enough.
const TAKE_PER_STEP: usize = 4096;
/// Steps (transactions and controls) put into one batch.
const STEPS_PER_BATCH: usize = 1024;
/// Emptied batches that are kept, and how large such a one may be, bytes.
const SPARE_BATCHES: usize = 4;
const SPARE_BATCH_BYTES: usize = 4 << 20;
/// Pieces of garbage freed per step.
const COLLECT_PER_STEP: usize = 4096;

/// Bytes of proposals that a learner which serves holds, settled ones included, above which it reads no more of them.
const LEARNER_BYTES_MAX: usize = 320 << 20;
/// How often the server speaks for clients while it takes nothing from the shards, ms.
const VOUCH_MS: u64 = 500;

/// One shard as the core sees it.
pub struct Peer {
    pub inbox: Consumer<ToCore>,
    pub filter: Arc<InterestFilter>,
}

/// See the module.
pub struct Core {
    pub server: Server,
    pub ports: Ports,
    pub errands: Errands,
    pub desk: Desk,
    pub snapshots: Snapshots,
    pub shared: Arc<Shared>,
    pub clock: Clock,
    pub peers: Vec<Peer>,
    pub bells: Vec<Bell>,
    pub publisher: Publisher<ChangeBatch>,
    /// Emptied batches, to be filled again.
    #[allow(clippy::vec_box)] // The ring takes and gives boxes: unboxing would copy them.
    pub spare: Vec<Box<ChangeBatch>>,
    /// Path hashes of the batch being published, for the interest filters.
    pub hashes: Vec<(u64, u64)>,
    /// Emptied and filled again each turn.
    pub peer_events: Vec<PeerEvent>,
    /// When the server last spoke for clients that were not heard.
    pub vouched_at: MonoMs,
    /// Garbage is waiting.
    pub garbage: bool,
}

impl Core {
    /// One round. Says whether there is more to do at once.
    pub fn step(&mut self) -> bool {
        let now = self.clock.now();
        self.take_durable(now);
        self.hold_leader();
        self.take_peers(now);
        let took = self.take_requests(now);
        if !self.may_take() && now.mono.since(self.vouched_at) >= VOUCH_MS {
            self.vouched_at = now.mono;
            self.server.nothing_taken();
        }
        if now.mono >= self.server.next_deadline() {
            self.server.tick(now, &mut self.ports);
        }
        self.ports.journal.kick();
        if let Some(ticket) = self.ports.journal.early() {
            self.server.durable(ticket, now, &mut self.ports);
        }
        if let Err(e) = self.errands.step(&mut self.server, &mut self.ports, now) {
            self.shared.fail(format!("{e:#}"));
        }
        self.server.pump(now, &mut self.ports);
        // What the last two have proposed must not wait for the next turn.
        self.ports.journal.kick();
        if let Some(peers) = &mut self.ports.peers {
            peers.flush();
        }
        let told = self.tell(now);
        self.garbage = self.server.collect(COLLECT_PER_STEP);
        self.notices();
        self.ports.journal.forget_before(self.server.zab().applied_ticket());
        self.snapshots.step(&self.server, &self.ports.journal, &self.shared, now);
        self.desk.snapshots = self.snapshots.stats();
        self.desk.sent = self.errands.sent();
        took >= TAKE_PER_STEP || (told && self.server.can_advance())
    }

    fn take_durable(&mut self, now: Now) {
        while let Some(ticket) = self.ports.journal.poll() {
            self.shared.book_sync(&self.ports.journal.stats());
            self.server.durable(ticket, now, &mut self.ports);
        }
    }

    /// A learner whose disk or shards do not keep up leaves its leader's bytes in the socket.
    fn hold_leader(&mut self) {
        let Some(peers) = &mut self.ports.peers else { return };
        let zab = self.server.zab();
        if let Some(link) = zab.leader_link() {
            peers.set_reading(link, !holds_leader(zab.role(), zab.window().bytes()));
        }
    }

    /// What the other members have sent.
    fn take_peers(&mut self, now: Now) {
        let Some(peers) = &mut self.ports.peers else { return };
        let mut events = std::mem::take(&mut self.peer_events);
        peers.poll(now.mono, &mut events);
        for event in events.drain(..) {
            let input = match &event {
                PeerEvent::Election { from, message } => PeerInput::Election { from: *from, message },
                PeerEvent::ElectionUp(id) => PeerInput::ElectionUp(*id),
                PeerEvent::ElectionDown(id) => PeerInput::ElectionDown(*id),
                PeerEvent::Accepted { link, peer } => {
                    PeerInput::Accepted { link: *link, name: peer.to_string() }
                }
                PeerEvent::Up(link) => PeerInput::Up(*link),
                PeerEvent::Down { link, why } => PeerInput::Down { link: *link, why },
                PeerEvent::Input(link) => {
                    self.errands.input(*link, &mut self.server, &mut self.ports, now);
                    continue;
                }
            };
            self.server.peer(input, now, &mut self.ports);
        }
        self.peer_events = events;
    }

    fn take_requests(&mut self, now: Now) -> usize {
        let mut most = 0;
        for at in 0..self.peers.len() {
            let mut taken = 0;
            while taken < TAKE_PER_STEP && self.may_take() {
                let Some(m) = self.peers[at].inbox.pop() else { break };
                taken += 1;
                if let Some(rest) = self.server.handle(m, now, &mut self.ports) {
                    self.desk.handle(rest, &mut self.server, &self.shared, &self.ports.journal, now);
                }
            }
            if taken > 0 && self.peers[at].inbox.producer_waits() {
                self.bells[at].ring();
            }
            most = most.max(taken);
        }
        most
    }

    fn may_take(&self) -> bool {
        self.server.has_room() && self.ports.journal.has_room() && !self.publisher.is_full()
    }

    /// Applies and publishes one batch.
    fn tell(&mut self, now: Now) -> bool {
        if !self.server.can_advance() {
            return false;
        }
        let spare = &mut self.spare;
        self.publisher.reclaim(|batch| {
            if spare.len() < SPARE_BATCHES && batch.bytes.capacity() <= SPARE_BATCH_BYTES {
                spare.push(batch);
            }
        });
        if self.publisher.is_full() {
            return false;
        }
        let mut batch = self.spare.pop().unwrap_or_default();
        batch.clear();
        self.server.advance(&mut batch, STEPS_PER_BATCH, now);
        self.hashes.clear();
        self.hashes.extend(batch.changes.iter().map(|c| (c.path_hash, c.parent_hash)));
        let concerns = batch.concerns;
        if self.publisher.try_publish(batch).is_err() {
            // Room was seen above, and only this thread publishes.
            self.shared.fail("the change ring lost its room: this is a bug; please report it".into());
            return false;
        }
        self.server.published();
        let half = self.publisher.capacity() / 2;
        let (peers, publisher, hashes) = (&self.peers, &self.publisher, &self.hashes);
        ring_those(&self.bells, |i| {
            concerns & (1 << (i % 64)) != 0
                || publisher.behind(i) >= half
                || hashes.iter().any(|&(p, q)| peers[i].filter.hits(p) || peers[i].filter.hits(q))
        });
        true
    }

    fn notices(&mut self) {
        for n in self.server.take_notices() {
            match n {
                Notice::QuotaExceeded { path, count, bytes } => {
                    tracing::warn!(%path, count, bytes, "quota exceeded (soft limit: nothing is refused)");
                }
                Notice::DigestMismatch { zxid, expected, found } => tracing::error!(
                    "tree digest differs at {zxid}: expected {expected:x}, found {found:x}; \
                     compare this server's tree with its peers'"
                ),
            }
        }
    }

    /// Whether something is there to do right now: the last look before sleeping.
    pub fn has_work(&mut self) -> bool {
        let inbox = self.may_take() && self.peers.iter_mut().any(|p| !p.inbox.is_empty());
        inbox || (self.server.can_advance() && !self.publisher.is_full()) || self.ports.journal.is_finished()
    }

    /// How long a sleep may last at most.
    pub fn patience(&self) -> Duration {
        let now = self.clock.mono();
        let due = self.server.next_deadline();
        // Overdue means that it was tried just now, and that a shard's report or room is missing: both ring the bell.
        let due = if due <= now { now.plus(10) } else { due };
        let mut until = due.min(self.snapshots.next_deadline());
        if let Some(at) = self.ports.peers.as_ref().map(Peers::next_deadline) {
            until = until.min(at);
        }
        if self.garbage || (self.server.can_advance() && self.publisher.is_full()) {
            // Somebody has to pass first, and nobody rings for that.
            until = until.min(MonoMs(now.0 + 5));
        }
        let limit = Duration::from_millis(until.since(now));
        match self.ports.journal.waits_for_company() {
            Duration::ZERO => limit,
            wait => limit.min(wait),
        }
    }
}

/// Whether a learner in this role, with so many bytes in its window, reads no more of its leader. Only one that serves
/// waits: before UPTODATE nothing is applied, so nothing would ever become less.
fn holds_leader(role: Role, window_bytes: usize) -> bool {
    matches!(role, Role::Following | Role::Observing) && window_bytes >= LEARNER_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_learner_that_does_not_serve_yet_reads_on_whatever_it_holds() {
        let full = LEARNER_BYTES_MAX;
        for role in [Role::Following, Role::Observing] {
            assert!(holds_leader(role, full) && !holds_leader(role, full - 1), "{role:?}");
        }
        // A full window is left over from the synchronisation, or from a former role: only what comes next makes it less.
        for role in [Role::Joining, Role::Looking] {
            assert!(!holds_leader(role, full), "{role:?}");
        }
    }
}
