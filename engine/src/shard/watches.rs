//! Requests about watches: setWatches, addWatch, checkWatches, removeWatches (fact sheet 3.10).
//!
//! Invariant: R3: what a client missed and what it is registered for are decided at one horizon, so every change is
//! announced exactly once: either here, as an event that catches up, or when it is consumed.

use super::consume::put_event;
use super::reads::{Answering, Done};
use crate::error::Code;
use crate::proto::{Decoder, Encode, EventKind, Malformed, Op, PathKind, SetWatches};
use crate::watch::{WatchKind, WatcherType};

impl Answering<'_> {
    /// Registers watches again after a reconnect; what changed meanwhile is announced first, then the reply.
    pub fn set_watches(
        &mut self,
        xid: i32,
        op: Op,
        d: &mut Decoder<'_>,
        events: &mut u64,
    ) -> Result<Done, Malformed> {
        let r = SetWatches::decode(op, d)?;
        let seen = r.relative_zxid.wire();
        for path in &r.data {
            let missed = match self.view.get(path) {
                None => Some(EventKind::NodeDeleted),
                Some(n) if n.stat().mzxid.wire() > seen => Some(EventKind::NodeDataChanged),
                Some(_) => None,
            };
            self.catch_up(missed, WatchKind::Data, path, events);
        }
        for path in &r.exist {
            let missed = self.view.get(path).map(|_| EventKind::NodeCreated);
            self.catch_up(missed, WatchKind::Data, path, events);
        }
        for path in &r.child {
            let missed = match self.view.get(path) {
                None => Some(EventKind::NodeDeleted),
                Some(n) if n.stat().pzxid.wire() > seen => Some(EventKind::NodeChildrenChanged),
                Some(_) => None,
            };
            self.catch_up(missed, WatchKind::Child, path, events);
        }
        for path in &r.persistent {
            self.catch_up(None, WatchKind::Persistent, path, events);
        }
        for path in &r.recursive {
            self.catch_up(None, WatchKind::Recursive, path, events);
        }
        Ok(self.header(xid, Code::OK))
    }

    /// Announces what was missed, or registers for what is to come.
    fn catch_up(&mut self, missed: Option<EventKind>, kind: WatchKind, path: &str, events: &mut u64) {
        match missed {
            Some(event) => {
                put_event(&mut self.conn.out, -1, event as i32, path);
                *events += 1;
            }
            None => self.watches.add(self.slot, kind, path, self.view.hash(path).0),
        }
    }

    /// The node need not exist, and no ACL is looked at. The reply's body is an error code of its own.
    pub fn add_watch(&mut self, xid: i32, d: &mut Decoder<'_>) -> Result<Done, Malformed> {
        let r = PathKind::decode(d)?;
        let kind = match r.kind {
            0 => WatchKind::Persistent,
            1 => WatchKind::Recursive,
            _ => return Err(Malformed),
        };
        self.watches.add(self.slot, kind, &r.path, self.view.hash(&r.path).0);
        Ok(self.reply(xid, |out| out.put_int(Code::OK.0)))
    }

    /// checkWatches and removeWatches.
    pub fn find_watch(&mut self, xid: i32, op: Op, d: &mut Decoder<'_>) -> Result<Done, Malformed> {
        let r = PathKind::decode(d)?;
        let of = WatcherType::from_wire(r.kind).ok_or(Malformed)?;
        let hash = self.view.hash(&r.path).0;
        let found = if op == Op::CheckWatches {
            self.watches.contains(self.slot, of, &r.path, hash)
        } else {
            self.watches.remove(self.slot, of, &r.path, hash)
        };
        Ok(self.header(xid, if found { Code::OK } else { Code::NOWATCHER }))
    }
}
