//! A follower that serves observers in its leader's place (fact sheet 8.7).
//!
//! To an observer it is a leader that is established already; what it commits is what its own leader has committed. It
//! reads the window, as a leader does, and not the packets that pass: so nothing that was under way when an observer came
//! is missed (ZOOKEEPER-5088). Requests and questions go to the core, which passes them on to the leader.
//!
//! Not here: what is passed on (`server`), the synchronisation itself (`leader`).
//! Invariant: it is there while this server follows, and its links end with the role.

use super::leader::Leader;
use super::member::{Event, Member};
use super::wire::Packet;
use super::{Learners, Ports, Why};
use crate::ids::{LinkId, ServerId, Zxid};
use crate::time::MonoMs;

impl Member {
    pub(super) fn open_relay(&mut self, leader: ServerId, epoch: u32, now: MonoMs, ports: &mut dyn Ports) {
        self.relay = Some(Box::new(Leader::relay(&self.base, leader, epoch, now)));
        ports.listen_for_observers(true);
    }

    pub(super) fn close_relay(&mut self, ports: &mut dyn Ports) {
        let Some(relay) = self.relay.take() else { return };
        ports.listen_for_observers(false);
        for link in relay.links() {
            ports.close(link);
        }
    }

    /// Whether that link is one of an observer here.
    pub(super) fn relays_to(&self, link: LinkId) -> bool {
        self.relay.as_ref().is_some_and(|r| r.learner(link).is_some())
    }

    pub(super) fn relay_packet(
        &mut self,
        link: LinkId,
        packet: Result<&Packet<'_>, &Why>,
        now: MonoMs,
        ports: &mut dyn Ports,
    ) {
        let Some(relay) = &mut self.relay else { return };
        let done = match packet {
            Ok(p) => relay.packet(&mut self.base, link, p, now, ports),
            Err(why) => relay.garbage(&mut self.base, link, why, ports),
        };
        debug_assert!(done.is_ok(), "what depends on no quorum cannot lose one");
    }

    /// A link has ended that is not the one to the leader.
    pub(super) fn relay_down(&mut self, link: LinkId) {
        if let Some(relay) = &mut self.relay
            && relay.learner(link).is_some()
        {
            let gone = relay.gone(&self.base, link);
            debug_assert!(gone.is_ok(), "observers have no vote");
            self.base.tell(Event::LearnerGone(link));
        }
    }

    pub(super) fn relay_tick(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        if let Some(relay) = &mut self.relay {
            let done = relay.tick(&mut self.base, false, now, ports);
            debug_assert!(done.is_ok(), "what depends on no quorum cannot lose one");
        }
    }

    pub(super) fn relay_pump(&mut self, now: MonoMs, ports: &mut dyn Ports) {
        if let Some(relay) = &mut self.relay {
            // An observer may wait for what has just been committed.
            let done = relay.settle(&mut self.base, now, ports);
            let done = done.and_then(|()| relay.pump(&mut self.base, now, ports));
            debug_assert!(done.is_ok(), "what depends on no quorum cannot lose one");
        }
    }

    /// Follower: the leader has answered a sync that this observer forwarded: it is released there behind what is
    /// committed here by then.
    pub fn relay_sync(&mut self, link: LinkId, behind: Zxid) {
        if let Some(relay) = &mut self.relay {
            relay.sync(link, behind);
        }
    }

    /// Follower: its observers. `None`: it is none.
    pub fn relayed(&self) -> Option<Learners> {
        self.relay.as_ref().map(|r| r.learners())
    }
}
