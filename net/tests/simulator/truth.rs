//! What a member's log really holds, kept beside the member: what was logged, what of it is durable, which epochs are.
//!
//! Not here: what the member believes. Invariant: `durable` follows the virtual disk, never a report of the driver.

use engine::ids::{SessionId, Ticket, Zxid};
use engine::proto::Decoder;
use engine::txn::TxnHeader;
use engine::zab::{Entry, Epochs, Mark};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The zxid of a transaction.
pub fn zxid_of(txn: &[u8]) -> Zxid {
    TxnHeader::decode(&mut Decoder::new(txn)).expect("a logged transaction has a header").zxid
}

/// Whose request a transaction is, and which.
pub fn head_of(txn: &[u8]) -> (SessionId, i32) {
    let h = TxnHeader::decode(&mut Decoder::new(txn)).expect("a logged transaction has a header");
    (h.session, h.cxid)
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Truth {
    /// The history begins behind this.
    pub base: Zxid,
    pub log: Vec<Entry>,
    pub durable: Ticket,
    pub epochs: Epochs,
    /// By current epoch: the last zxid of the log when it was written.
    taken: BTreeMap<u32, Zxid>,
    /// Epochs on their way, with their tickets.
    epochs_due: Vec<(Ticket, Epochs)>,
    /// Logged since the driver last looked, each with the zxid that it followed.
    pub fresh: Vec<(Zxid, Entry)>,
}

impl Truth {
    /// After a start: all of it is durable.
    pub fn recovered(base: Zxid, log: Vec<Entry>, epochs: Epochs) -> Truth {
        Truth { base, log, epochs, ..Truth::default() }
    }

    pub fn last(&self) -> Zxid {
        self.log.last().map_or(self.base, |e| e.zxid)
    }

    pub fn append(&mut self, ticket: Ticket, txn: &[u8]) {
        let entry = Entry { zxid: zxid_of(txn), txn: Arc::from(txn), ticket };
        self.fresh.push((self.last(), entry.clone()));
        self.log.push(entry);
    }
    /// Proposed, and not in the log.
    pub fn only_said(&mut self, ticket: Ticket, txn: &[u8]) {
        let behind = self.fresh.last().map_or(self.last(), |(_, e)| e.zxid);
        self.fresh.push((behind, Entry { zxid: zxid_of(txn), txn: Arc::from(txn), ticket }));
    }
    pub fn mark(&mut self, mark: Mark) {
        match mark {
            Mark::Truncate(to) => {
                self.log.retain(|e| e.zxid <= to);
                self.base = self.base.min(to);
            }
            Mark::Installed(zxid) => self.restart(zxid, Vec::new()),
            Mark::Whole(_) => {}
        }
    }
    /// Another history; all of it is durable.
    pub fn restart(&mut self, base: Zxid, log: Vec<Entry>) {
        (self.base, self.log) = (base, log);
    }

    pub fn epochs_asked(&mut self, ticket: Ticket, epochs: Epochs) {
        self.taken.insert(epochs.current, self.last());
        self.epochs_due.push((ticket, epochs));
    }
    /// The file holds the epochs of that ticket now.
    pub fn epochs_written(&mut self, ticket: Ticket) {
        if let Some((_, epochs)) = self.epochs_due.iter().find(|(t, _)| *t == ticket) {
            self.epochs = *epochs;
        }
        self.epochs_due.retain(|(t, _)| *t > ticket);
    }

    /// Whether exactly this transaction is in the durable log, or in the durable state under it.
    pub fn holds(&self, zxid: Zxid) -> bool {
        zxid <= self.base
            || self
                .log
                .binary_search_by_key(&zxid, |e| e.zxid)
                .is_ok_and(|i| self.log[i].ticket <= self.durable)
    }
    /// Whether all of the history is durable that was there when this epoch became current.
    pub fn holds_history_of(&self, epoch: u32) -> bool {
        self.epochs.current >= epoch && self.taken.get(&epoch).is_none_or(|last| self.holds(*last))
    }
    /// What a power cut leaves at least.
    pub fn after_a_crash(&self) -> Truth {
        let log = self.log.iter().filter(|e| e.ticket <= self.durable).cloned().collect();
        Truth { base: self.base, log, epochs: self.epochs, durable: self.durable, ..Truth::default() }
    }
}
