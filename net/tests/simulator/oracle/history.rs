//! The one committed history.
//!
//! Source: Junqueira, Reed, Serafini, "Zab: high-performance broadcast for primary-backup systems", properties integrity,
//! total order, agreement, local and global primary order; here as one rule: what any member delivers is the next, or
//! the same, transaction of one sequence. And DESIGN section 6: a transaction is committed when it is durable on a
//! quorum; the moment at which a member delivers it first is when that is looked at.

use crate::truth::Truth;
use engine::ids::{SessionId, Ticket, Zxid};
use engine::proto::Decoder;
use engine::txn::TxnHeader;
use engine::zab::Entry;
use engine::zab::members::Members;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// See the module.
pub struct History {
    members: Arc<Members>,
    entries: Vec<(Zxid, Arc<[u8]>)>,
    by_zxid: HashMap<Zxid, usize>,
    /// Everything that any primary broadcast, and behind what.
    broadcast: BTreeMap<Zxid, (Zxid, Arc<[u8]>)>,
    /// Requests with a transaction, by session and cxid.
    requests: HashMap<(SessionId, i32), Zxid>,
}

impl History {
    pub fn new(members: Arc<Members>) -> History {
        History {
            members,
            entries: Vec::new(),
            by_zxid: HashMap::new(),
            broadcast: BTreeMap::new(),
            requests: HashMap::new(),
        }
    }

    pub fn last(&self) -> Zxid {
        self.entries.last().map_or(Zxid::ZERO, |(z, _)| *z)
    }
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    pub fn get(&self, zxid: Zxid) -> Option<&Arc<[u8]>> {
        self.by_zxid.get(&zxid).map(|i| &self.entries[*i].1)
    }

    /// A member has logged a transaction. `leads`: it leads, in that epoch.
    pub fn logged(&mut self, node: usize, leads: Option<u32>, behind: Zxid, entry: &Entry) {
        match self.broadcast.get(&entry.zxid) {
            Some((_, known)) => {
                assert_eq!(
                    known,
                    &entry.txn,
                    "{}: another transaction {} than was broadcast",
                    node + 1,
                    entry.zxid
                );
            }
            None => {
                assert_eq!(
                    leads,
                    Some(entry.zxid.epoch()),
                    "integrity: {} logs {}, which no primary of that epoch has broadcast",
                    node + 1,
                    entry.zxid
                );
                self.broadcast.insert(entry.zxid, (behind, entry.txn.clone()));
            }
        }
    }

    /// What leads from the end of the history to a transaction.
    pub fn chain(&self, upto: Zxid) -> Vec<Entry> {
        let mut chain = Vec::new();
        let mut at = upto;
        while at > self.last() {
            let Some((behind, txn)) = self.broadcast.get(&at) else { break };
            chain.push(Entry { zxid: at, txn: txn.clone(), ticket: Ticket(0) });
            at = *behind;
        }
        chain.reverse();
        chain
    }

    /// A member delivers a transaction; `true`: it is the first to do so.
    pub fn delivered(&mut self, node: usize, entry: &Entry, truths: &[&Truth]) -> bool {
        let (zxid, last) = (entry.zxid, self.last());
        if let Some(i) = self.by_zxid.get(&zxid) {
            assert_eq!(self.entries[*i].1, entry.txn, "agreement: {} delivers another {zxid}", node + 1);
            return false;
        }
        assert!(
            zxid > last,
            "total order: {} delivers {zxid}, which others passed over; they are at {last}",
            node + 1
        );
        let follows = zxid.0 == last.0 + 1 || (zxid.epoch() > last.epoch() && zxid.counter() == 1);
        assert!(follows, "primary order: {} delivers {zxid} right behind {last}", node + 1);
        assert!(self.broadcast.contains_key(&zxid), "integrity: nobody has broadcast {zxid}");
        let holds = |id| truths.get((id as usize).wrapping_sub(1)).is_some_and(|t| t.holds(zxid));
        assert!(
            self.members.quorum(|id| holds(id.0)),
            "{} delivers {zxid}, which is not durable on a quorum: {:?}",
            node + 1,
            truths.iter().map(|t| t.holds(zxid)).collect::<Vec<_>>()
        );
        self.note_request(entry);
        self.by_zxid.insert(zxid, self.entries.len());
        self.entries.push((zxid, entry.txn.clone()));
        true
    }

    fn note_request(&mut self, entry: &Entry) {
        let h = TxnHeader::decode(&mut Decoder::new(&entry.txn)).expect("a header");
        if h.cxid == 0 {
            return;
        }
        if let Some(former) = self.requests.insert((h.session, h.cxid), entry.zxid) {
            panic!("a request of session {} (cxid {}) is {former} and {}", h.session, h.cxid, entry.zxid);
        }
    }

    /// A member serves a state up to `upto`: it is a prefix of the history.
    pub fn prefix(&self, node: usize, truth: &Truth, upto: Zxid) {
        assert!(upto <= self.last(), "{} serves {upto}, which is not committed: {}", node + 1, self.last());
        let known = upto == Zxid::ZERO || self.by_zxid.contains_key(&upto);
        assert!(known, "{} serves {upto}, which is no transaction of the history", node + 1);
        for e in truth.log.iter().take_while(|e| e.zxid <= upto) {
            assert_eq!(self.get(e.zxid), Some(&e.txn), "{} serves another {}", node + 1, e.zxid);
        }
        if let (Some(first), Some(last)) = (truth.log.first(), truth.log.iter().rfind(|e| e.zxid <= upto)) {
            let (from, to) = (self.by_zxid.get(&first.zxid), self.by_zxid.get(&last.zxid));
            let between = truth.log.iter().filter(|e| e.zxid <= upto).count();
            if let (Some(from), Some(to)) = (from, to) {
                assert_eq!(to + 1 - from, between, "{} serves a history with a hole", node + 1);
            }
        }
    }
}
