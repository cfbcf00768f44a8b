//! What a learner waits for: requests that it forwarded, per session in order, and sessions that it asked about.
//!
//! Not here: the packets (`zab`), what is done with an answer (`roles`, `telling`).
//! Invariants:
//! - a session's requests finish in the order in which they came: by the committed transaction with its session and cxid,
//!   by a SYNC, or, for what is answered here, when nothing stands before it any more;
//! - what is kept is bounded: [`Learning::has_room`].

use super::forwarding::Shares;
use super::telling::{Item, Waits};
use crate::ids::{ConnId, LinkId, SessionId};
use crate::msg::Connect;
use crate::proto::{Decoder, Op};
use crate::txn::TxnHeader;
use std::collections::{HashMap, VecDeque};

/// Requests and bytes on their way to the leader and back, above which no more are taken.
const ENTRIES_MAX: usize = 1 << 16;
const BYTES_MAX: usize = 64 << 20;

/// One unfinished request.
#[derive(Debug)]
enum Wait {
    Write {
        conn: ConnId,
        cxid: i32,
        bytes: usize,
    },
    Session {
        conn: ConnId,
    },
    /// A local session is made known to all; nobody is told.
    Upgrade,
    Sync {
        item: Item,
        bytes: usize,
    },
    Local(Item),
}

/// Who waits for an answer of the leader.
#[derive(Debug)]
pub(super) enum Asker<T> {
    /// A client here.
    Client(T),
    /// An observer that this server serves in the leader's place.
    Observer(LinkId),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Learning {
    sessions: HashMap<SessionId, VecDeque<Wait>>,
    /// The forwarded syncs, in the order in which the leader will answer.
    syncs: VecDeque<Asker<SessionId>>,
    asked: HashMap<SessionId, VecDeque<Asker<Connect>>>,
    /// The observers' part of that.
    shares: Shares,
    entries: usize,
    bytes: usize,
}

impl Learning {
    pub fn has_room(&self) -> bool {
        self.entries < ENTRIES_MAX && self.bytes < BYTES_MAX
    }
    pub fn len(&self) -> usize {
        self.entries
    }

    fn push(&mut self, session: SessionId, wait: Wait) {
        self.entries += 1;
        self.bytes += wait.bytes();
        self.sessions.entry(session).or_default().push_back(wait);
    }

    pub fn write(&mut self, session: SessionId, conn: ConnId, cxid: i32, bytes: usize) {
        self.push(session, Wait::Write { conn, cxid, bytes });
    }
    pub fn new_session(&mut self, session: SessionId, conn: ConnId) {
        self.push(session, Wait::Session { conn });
    }
    pub fn upgrade(&mut self, session: SessionId) {
        self.push(session, Wait::Upgrade);
    }
    pub fn sync(&mut self, session: SessionId, item: Item, bytes: usize) {
        self.push(session, Wait::Sync { item, bytes });
        self.syncs.push_back(Asker::Client(session));
    }
    pub fn relayed_sync(&mut self, link: LinkId) {
        self.syncs.push_back(Asker::Observer(link));
    }
    /// Something answered here: comes back when nothing stands before it.
    pub fn local(&mut self, session: SessionId, _conn: ConnId, item: Item) -> Option<Item> {
        if !self.sessions.contains_key(&session) {
            return Some(item);
        }
        self.push(session, Wait::Local(item));
        None
    }

    /// A committed transaction, before it is applied: who waits for it, and what may be answered behind it.
    pub fn finished(&mut self, txn: &[u8]) -> (Waits, Vec<Item>) {
        if self.sessions.is_empty() {
            return (Waits::Nobody, Vec::new());
        }
        let Ok(header) = TxnHeader::decode(&mut Decoder::new(txn)) else {
            return (Waits::Nobody, Vec::new());
        };
        let waits = match self.sessions.get(&header.session).and_then(VecDeque::front) {
            Some(Wait::Write { conn, cxid, .. }) if *cxid == header.cxid => Waits::Reply(*conn),
            Some(Wait::Session { conn }) if may_be_new_session(&header) => Waits::Session(*conn),
            Some(Wait::Upgrade) if may_be_new_session(&header) => Waits::Nobody,
            _ => return (Waits::Nobody, Vec::new()),
        };
        self.pop(header.session);
        (waits, self.locals(header.session))
    }

    /// The leader has answered the oldest sync: whose is it?
    pub fn next_sync(&mut self) -> Option<Asker<SessionId>> {
        self.syncs.pop_front()
    }

    /// The sync of that session is done, and what may be answered behind it.
    pub fn sync_done(&mut self, session: SessionId) -> Vec<Item> {
        let at_front =
            matches!(self.sessions.get(&session).and_then(VecDeque::front), Some(Wait::Sync { .. }));
        if !at_front {
            return Vec::new();
        }
        let mut items = Vec::new();
        if let Some(Wait::Sync { item, .. }) = self.pop(session) {
            items.push(item);
        }
        items.append(&mut self.locals(session));
        items
    }

    fn pop(&mut self, session: SessionId) -> Option<Wait> {
        let queue = self.sessions.get_mut(&session)?;
        let wait = queue.pop_front()?;
        if queue.is_empty() {
            self.sessions.remove(&session);
        }
        self.entries -= 1;
        self.bytes -= wait.bytes();
        Some(wait)
    }

    fn locals(&mut self, session: SessionId) -> Vec<Item> {
        let mut items = Vec::new();
        while matches!(self.sessions.get(&session).and_then(VecDeque::front), Some(Wait::Local(_))) {
            if let Some(Wait::Local(item)) = self.pop(session) {
                items.push(item);
            }
        }
        items
    }

    /// A closed session waits for nothing; a sync of it may still be answered.
    pub fn closed(&mut self, session: SessionId) {
        while self.pop(session).is_some() {}
    }

    /// The leader is asked whether a session lives; the client waits.
    pub fn ask(&mut self, c: Connect) {
        self.asked.entry(c.session).or_default().push_back(Asker::Client(c));
        self.entries += 1;
    }
    /// The same for an observer; `false`: it has asked too often already. It takes no room of clients here.
    #[must_use]
    pub fn relayed_ask(&mut self, session: SessionId, link: LinkId) -> bool {
        let room = self.shares.take(link);
        if room {
            self.asked.entry(session).or_default().push_back(Asker::Observer(link));
        }
        room
    }
    /// The oldest that waits for an answer about this session.
    pub fn answered(&mut self, session: SessionId) -> Option<Asker<Connect>> {
        let queue = self.asked.get_mut(&session)?;
        let c = queue.pop_front()?;
        if queue.is_empty() {
            self.asked.remove(&session);
        }
        match &c {
            Asker::Client(_) => self.entries -= 1,
            Asker::Observer(link) => self.shares.give_back(*link),
        }
        Some(c)
    }
}

/// Whether it makes a session, or says that it could not be made.
fn may_be_new_session(header: &TxnHeader) -> bool {
    header.cxid == 0 && [Op::CreateSession.wire(), Op::Error.wire()].contains(&header.kind)
}

impl Wait {
    fn bytes(&self) -> usize {
        match self {
            Wait::Write { bytes, .. } | Wait::Sync { bytes, .. } => *bytes,
            Wait::Session { .. } | Wait::Upgrade | Wait::Local(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::forwarding::CLAIMS_MAX;
    use super::*;

    #[test]
    fn an_observer_asks_so_often_and_takes_no_room_of_clients() {
        let mut learning = Learning::default();
        let link = LinkId(7);
        assert!((0..CLAIMS_MAX as i64).all(|s| learning.relayed_ask(SessionId(s), link)));
        assert!(!learning.relayed_ask(SessionId(1), link) && learning.relayed_ask(SessionId(1), LinkId(8)));
        assert!(learning.has_room() && learning.len() == 0);
        assert!(matches!(learning.answered(SessionId(1)), Some(Asker::Observer(l)) if l == link));
        assert!(learning.relayed_ask(SessionId(2), link) && !learning.relayed_ask(SessionId(2), link));
    }
}
