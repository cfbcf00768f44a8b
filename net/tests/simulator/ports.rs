//! What a member's decisions act on: its journal, and what it says to others until the network takes it.
//!
//! Invariant: nothing leaves while the engine is being called; the world takes it afterwards, in order.

use crate::journal::Journal;
use engine::ids::{LinkId, ServerId, Ticket};
use engine::zab::{Links, Persist, Persistence};
use std::collections::BTreeMap;

/// What the network is asked to do.
pub enum Ask {
    Election {
        to: ServerId,
        message: Vec<u8>,
    },
    Dial {
        link: LinkId,
        to: ServerId,
    },
    /// Closed behind these bytes.
    Close {
        link: LinkId,
        rest: Vec<u8>,
    },
}

/// What is to be sent on a link.
#[derive(Default)]
pub struct Out {
    pub bytes: Vec<u8>,
    /// Bytes that left before those.
    pub sent: u64,
    /// Ranges, counted from the first byte of the link, that hold no packets.
    pub opaque: Vec<(u64, u64)>,
    /// Up to where the oracle has read, and what it holds of an unfinished packet.
    pub read: u64,
    pub partial: Vec<u8>,
}

/// See the module.
pub struct Ports {
    pub journal: Journal,
    pub outs: BTreeMap<LinkId, Out>,
    pub asks: Vec<Ask>,
    pub listening: bool,
    /// For observers, whom this member serves while it follows.
    pub relaying: bool,
    last_link: u64,
    nowhere: Vec<u8>,
}

impl Ports {
    pub fn new(journal: Journal) -> Ports {
        Ports {
            journal,
            outs: BTreeMap::new(),
            asks: Vec::new(),
            listening: false,
            relaying: false,
            last_link: 0,
            nowhere: Vec::new(),
        }
    }
    /// A link that somebody else opened.
    pub fn new_link(&mut self) -> LinkId {
        self.last_link += 1;
        let link = LinkId(self.last_link);
        self.outs.insert(link, Out::default());
        link
    }
    /// The link is gone.
    pub fn gone(&mut self, link: LinkId) {
        self.outs.remove(&link);
    }
    /// Bytes of a stream, which are no packets.
    pub fn put_opaque(&mut self, link: LinkId, bytes: &[u8]) {
        if let Some(out) = self.outs.get_mut(&link) {
            let from = out.sent + out.bytes.len() as u64;
            out.opaque.push((from, from + bytes.len() as u64));
            out.bytes.extend_from_slice(bytes);
        }
    }
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        self.journal.persist(ticket, what);
    }
}

impl Links for Ports {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        self.asks.push(Ask::Election { to, message: message.to_vec() });
    }
    fn dial(&mut self, to: ServerId) -> LinkId {
        let link = self.new_link();
        self.asks.push(Ask::Dial { link, to });
        link
    }
    fn listen(&mut self, on: bool) {
        self.listening = on;
    }
    fn listen_for_observers(&mut self, on: bool) {
        self.relaying = on;
    }
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        match self.outs.get_mut(&link) {
            Some(out) => &mut out.bytes,
            None => {
                self.nowhere.clear();
                &mut self.nowhere
            }
        }
    }
    fn close(&mut self, link: LinkId) {
        if self.outs.contains_key(&link) {
            let rest = self.outs.get(&link).map(|o| o.bytes.clone()).unwrap_or_default();
            self.asks.push(Ask::Close { link, rest });
        }
    }
}
