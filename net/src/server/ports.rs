//! What the core's decisions act on: the log and the other members.
//!
//! Not here: what is decided (`engine::server`).
//! Invariant: a lone server has no other members; what is said to them goes nowhere.

use super::journal::Journal;
use crate::peers::Peers;
use engine::ids::{LinkId, ServerId, Ticket};
use engine::zab::{Links, Persist, Persistence};

/// See the module.
pub struct Ports {
    pub journal: Journal,
    pub peers: Option<Peers>,
    nowhere: Vec<u8>,
}

impl Ports {
    pub fn new(journal: Journal, peers: Option<Peers>) -> Ports {
        Ports { journal, peers, nowhere: Vec::new() }
    }
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        self.journal.persist(ticket, what);
    }
}

impl Links for Ports {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        if let Some(p) = &mut self.peers {
            p.send_election(to, message);
        }
    }
    fn dial(&mut self, to: ServerId) -> LinkId {
        self.peers.as_mut().map_or(LinkId(0), |p| p.dial(to))
    }
    fn listen(&mut self, on: bool) {
        if let Some(p) = &mut self.peers {
            p.listen(on);
        }
    }
    fn listen_for_observers(&mut self, on: bool) {
        if let Some(p) = &mut self.peers {
            p.listen_for_observers(on);
        }
    }
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        match &mut self.peers {
            Some(p) => p.out(link),
            None => {
                self.nowhere.clear();
                &mut self.nowhere
            }
        }
    }
    fn close(&mut self, link: LinkId) {
        if let Some(p) = &mut self.peers {
            p.close(link);
        }
    }
}
