//! The one committed history.
//!
//! Source: Junqueira, Reed, Serafini, "Zab: high-performance broadcast for primary-backup systems", properties integrity,
//! total order, agreement, local and global primary order; here as one rule: what any member delivers is the next, or
//! the same, transaction of one sequence. And DESIGN section 6: a transaction is committed when it is durable on a
//! quorum; the moment at which a member delivers it first is when that is looked at. Fact sheet section 11: the quorum is
//! one of the members that the history has made by then, for a reconfiguration of those that it makes as well; and a
//! leader proposes one only when the last one is committed.

use crate::truth::Truth;
use engine::ids::{SessionId, Ticket, Zxid};
use engine::proto::{Decoder, Op};
use engine::txn::{Txn, TxnBody, TxnHeader};
use engine::zab::Entry;
use engine::zab::members::Members;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// See the module.
pub struct History {
    /// The members from each reconfiguration on.
    members: Vec<(Zxid, Arc<Members>)>,
    entries: Vec<(Zxid, Arc<[u8]>)>,
    by_zxid: HashMap<Zxid, usize>,
    /// Everything that any primary broadcast, and behind what.
    broadcast: BTreeMap<Zxid, (Zxid, Arc<[u8]>)>,
    /// Requests with a transaction, by session and cxid.
    requests: HashMap<(SessionId, i32), Zxid>,
}

/// The members that a transaction makes, if it is a reconfiguration.
fn members_of(txn: &[u8]) -> Option<Members> {
    let txn = Txn::decode(txn).expect("a transaction");
    let TxnBody::SetData { op: Op::Reconfig, data, .. } = txn.body else { return None };
    let text = String::from_utf8(data.unwrap_or_default().to_vec()).expect("members are text");
    Some(Members::parse(&text).expect("members"))
}

impl History {
    pub fn new(members: Arc<Members>) -> History {
        History {
            members: vec![(Zxid::ZERO, members)],
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

    /// The members that the committed history leads to.
    pub fn members(&self) -> &Arc<Members> {
        self.members_at(Zxid(u64::MAX))
    }
    /// The same, up to a zxid.
    pub fn members_at(&self, upto: Zxid) -> &Arc<Members> {
        let n = self.members.partition_point(|(z, _)| *z <= upto);
        &self.members[n.max(1) - 1].1
    }
    /// Reconfigurations that are committed.
    pub fn reconfigs(&self) -> u64 {
        self.members.len() as u64 - 1
    }
    /// What was broadcast with this zxid makes these members.
    pub fn reconfig(&self, zxid: Zxid) -> Option<Members> {
        members_of(&self.broadcast.get(&zxid)?.1)
    }

    /// One at a time: who proposes a reconfiguration counts by the last one before it in the same history. `version`:
    /// of the leader's members.
    fn alone(&self, node: usize, entry: &Entry, behind: Zxid, version: u64) {
        let mut at = behind;
        while at > self.last() {
            let Some((before, txn)) = self.broadcast.get(&at) else { return };
            assert!(
                members_of(txn).is_none() || version >= at.0,
                "{} proposes the reconfiguration {}, {at} is under way",
                node + 1,
                entry.zxid
            );
            at = *before;
        }
    }

    /// A member has logged a transaction. `leads`: it leads, in that epoch.
    pub fn logged(&mut self, node: usize, (leads, version): (Option<u32>, u64), behind: Zxid, entry: &Entry) {
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
                if members_of(&entry.txn).is_some() {
                    self.alone(node, entry, behind, version);
                }
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
        let next = members_of(&entry.txn).map(Arc::new);
        for members in [Some(self.members()), next.as_ref()].into_iter().flatten() {
            assert!(
                members.quorum(|id| holds(id.0)),
                "{} delivers {zxid}, which is not durable on a quorum of {:?}: {:?}",
                node + 1,
                members.voters(),
                truths.iter().map(|t| t.holds(zxid)).collect::<Vec<_>>()
            );
        }
        self.members.extend(next.map(|m| (zxid, m)));
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
