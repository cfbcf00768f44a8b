//! The order of writes of a lone server: it is its own quorum, so durable here means committed.
//!
//! Not here: ensembles (the other modules of `zab`).
//! Invariants:
//! - a zxid is committed only when its ticket is durable, and commits are in zxid order.

use super::{Persist, Persistence};
use crate::ids::{Ticket, Zxid};
use std::collections::VecDeque;

/// The order of writes of a lone server.
#[derive(Debug, Default)]
pub struct Solo {
    last: Ticket,
    in_flight: VecDeque<(Ticket, Zxid)>,
    committed: Zxid,
}

impl Solo {
    /// `committed` is the last zxid of the log.
    pub fn new(committed: Zxid) -> Solo {
        Solo { committed, ..Solo::default() }
    }
    /// A proposal: it goes to the log.
    pub fn submit(&mut self, zxid: Zxid, txn: &[u8], out: &mut dyn Persistence) {
        self.last = Ticket(self.last.0 + 1);
        self.in_flight.push_back((self.last, zxid));
        out.persist(self.last, Persist::Append(txn));
    }
    /// Everything up to `ticket` is durable. Returns the last committed zxid.
    pub fn durable(&mut self, ticket: Ticket) -> Zxid {
        while let Some((_, zxid)) = self.in_flight.pop_front_if(|(t, _)| *t <= ticket) {
            self.committed = zxid;
        }
        self.committed
    }
    /// The last committed zxid.
    pub fn committed(&self) -> Zxid {
        self.committed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Tickets(Vec<Ticket>);
    impl Persistence for Tickets {
        fn persist(&mut self, ticket: Ticket, _: Persist<'_>) {
            self.0.push(ticket);
        }
    }

    #[test]
    fn nothing_commits_before_its_ticket_is_durable() {
        let (mut solo, mut out) = (Solo::new(Zxid(10)), Tickets(vec![]));
        for z in 11..=13 {
            solo.submit(Zxid(z), b"", &mut out);
        }
        assert_eq!(out.0, [Ticket(1), Ticket(2), Ticket(3)]);
        assert_eq!(solo.durable(Ticket(0)), Zxid(10));
        assert_eq!(solo.durable(Ticket(2)), Zxid(12));
        assert_eq!(solo.durable(Ticket(1)), Zxid(12), "never back");
        assert_eq!(solo.durable(Ticket(3)), Zxid(13));
    }
}
