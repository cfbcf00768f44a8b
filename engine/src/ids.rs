//! The numbers that name things: zxids, sessions, shards, connections, tickets.
//!
//! Not here: how they are encoded (`proto`), how time is told (`time`).
//! Invariant: an ordering of `Zxid` values is the ordering of commits.

use std::fmt;

/// A transaction id: epoch in the high 32 bits, counter in the low 32. Order of values is order of commit.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Zxid(pub u64);

impl Zxid {
    /// Before the first transaction.
    pub const ZERO: Zxid = Zxid(0);
    /// Later than every transaction; as a reader's floor it means "needs nothing kept".
    pub const MAX: Zxid = Zxid(u64::MAX);

    /// A zxid from its two halves.
    pub const fn new(epoch: u32, counter: u32) -> Zxid {
        Zxid(((epoch as u64) << 32) | counter as u64)
    }
    /// The leader's term that proposed it.
    pub const fn epoch(self) -> u32 {
        (self.0 >> 32) as u32
    }
    /// The place within the epoch.
    pub const fn counter(self) -> u32 {
        self.0 as u32
    }
    /// The next zxid of the same epoch; `None` when the counter is spent (a leader then gives up its epoch).
    pub const fn next(self) -> Option<Zxid> {
        if self.counter() == u32::MAX { None } else { Some(Zxid(self.0 + 1)) }
    }
    /// The next zxid of a lone server, which carries into the epoch (DESIGN section 5).
    pub const fn next_carrying(self) -> Zxid {
        Zxid(self.0 + 1)
    }
    /// As the wire carries it.
    pub const fn wire(self) -> i64 {
        self.0 as i64
    }
    /// From the wire.
    pub const fn from_wire(v: i64) -> Zxid {
        Zxid(v as u64)
    }
}

impl fmt::Debug for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}
impl fmt::Display for Zxid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

/// A client session. 0 means "none". The top byte is the id of the server that made it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub i64);

impl SessionId {
    /// No session.
    pub const NONE: SessionId = SessionId(0);
}
impl fmt::Debug for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}
impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "0x{:x}", self.0)
    }
}

/// A reactor shard of this server, counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

/// One accepted connection. Slots are re-used; `generation` tells their tenants apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct ConnId {
    pub shard: ShardId,
    pub slot: u32,
    pub generation: u32,
}

/// Which of the connections that a session had in turn: raised at every attach. A request that carries an older
/// number comes from a connection that no longer owns its session.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Attach(pub u32);

/// A member of an ensemble: the number in `myid` and N of `server.N`. Negative: an observer without one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ServerId(pub i64);

impl fmt::Debug for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Display for ServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A connection between a learner and its leader, on the quorum port. Never given out twice in a process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LinkId(pub u64);

/// A place in the ordered stream of things to make durable. Never goes back while the process lives.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ticket(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spent_counter_has_no_successor_but_a_lone_server_carries() {
        let last = Zxid::new(3, u32::MAX);
        assert_eq!(last.next(), None);
        assert_eq!(last.next_carrying(), Zxid::new(4, 0));
        assert_eq!(Zxid::new(3, 7).next(), Some(Zxid::new(3, 8)));
    }
}
