//! Who may commit, and when. A lone server is its own quorum: durable here means committed.
//!
//! Carries opaque bytes; knows only ids. Not here: what a transaction means.
//! Invariants:
//! - tickets rise by one per thing to persist, and are executed in that order;
//! - a zxid is committed only when its ticket is durable, and commits are in zxid order.

use crate::ids::{Ticket, Zxid};
use std::collections::VecDeque;

/// One thing to make durable. Executed by the driver strictly in ticket order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist<'a> {
    /// Append this transaction to the log.
    Append(&'a [u8]),
}

/// Where the ordered stream of [`Persist`] goes.
pub trait Persistence {
    /// Takes the next thing to make durable; `ticket` is one more than the last.
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>);
}

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
