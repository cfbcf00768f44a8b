//! Who may commit, and when: a lone server, or a member of an ensemble by Zab (DESIGN section 6).
//!
//! Lives here: packets and notifications (`wire`), members and quorums (`members`), leader election (`election`), the
//! newest history (`window`), the two roles (`leader`, `learner`), and what ties them together ([`Member`]). Carries opaque
//! bytes; knows only ids and time. Not here: what a transaction means (`txn`), sockets and files (`net`, `wal`).
//! Invariants:
//! - tickets rise by one per thing to persist, and are executed in that order;
//! - a zxid is committed only when it is durable on a quorum, and commits are in zxid order.

mod base;
mod counters;
pub mod election;
mod leader;
mod learner;
mod member;
pub mod members;
mod reconfig;
mod record;
mod relay;
mod window;
pub mod wire;

pub use base::{Settings, Why};
pub use counters::{Counters, Learners, Tally};
pub use election::Knobs;
pub use leader::{Behind, Stream};
pub use member::{Event, Forward, Member, Role};
pub use record::{Mark, Record};
pub use window::{Entry, Place, Reach, Window};

use crate::ids::{LinkId, ServerId, Ticket};

/// One thing to make durable. Executed by the driver strictly in ticket order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Persist<'a> {
    /// Append this transaction to the log.
    Append(&'a [u8]),
    /// Append this mark to the log.
    Mark(Mark),
    /// The two epochs, replaced together; durable only when everything before is.
    Epochs(Epochs),
}

/// The epochs that a member must remember (fact sheet 8.2). `current` never exceeds `accepted`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Epochs {
    /// The newest epoch that this server has promised to follow.
    pub accepted: u32,
    /// The epoch of the leader whose history this server holds.
    pub current: u32,
}

/// Where the ordered stream of [`Persist`] goes.
pub trait Persistence {
    /// Takes the next thing to make durable; `ticket` is one more than the last.
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>);
}

/// The ways to the other members. No call waits; what becomes of it is told to the core later.
pub trait Links {
    /// Leaves an election message (payload without its length) for that member; one that still waits is replaced.
    fn send_election(&mut self, to: ServerId, message: &[u8]);
    /// Connects to the quorum port of a member. The link is up, or down, later.
    fn dial(&mut self, to: ServerId) -> LinkId;
    /// Whether learners may connect: a leader listens, others refuse.
    fn listen(&mut self, on: bool);
    /// Whether observers may connect to this server, which follows. Without such a port nothing happens.
    fn listen_for_observers(&mut self, _on: bool) {}
    /// What is still to be sent on a link: append to it. Of a link that is gone, a buffer that nobody sends.
    fn out(&mut self, link: LinkId) -> &mut Vec<u8>;
    /// Closes a link behind what was appended to it so far, as far as the peer takes that without delay.
    fn close(&mut self, link: LinkId);
}

/// Everything that a member acts on.
pub trait Ports: Persistence + Links {}
impl<T: Persistence + Links> Ports for T {}
