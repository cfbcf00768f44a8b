//! Requests of learners that wait for room at the leader.
//!
//! Not here: what is done with one (`roles`).
//! Invariant: what waits takes a bounded number of bytes, whatever the requests are made of: bodies, identities, nothing.

use crate::ids::{LinkId, SessionId};
use crate::proto::Id;
use std::collections::VecDeque;
use std::sync::Arc;

/// Bytes of all learners' requests that may wait for room; whoever forwards more gives up its link.
pub(super) const FORWARDED_BYTES_MAX: usize = 256 << 20;

/// What a request takes that has neither body nor identities: its place in the queue, which may be twice as long as needed,
/// and what goes with an allocation.
const REQUEST_BYTES: usize = 2 * size_of::<Forwarded>() + 16;

/// A request that a learner forwarded.
#[derive(Debug)]
pub(super) struct Forwarded {
    pub link: LinkId,
    pub session: SessionId,
    pub cxid: i32,
    pub op: i32,
    pub body: Box<[u8]>,
    pub ids: Arc<[Id]>,
}

impl Forwarded {
    /// What it takes in memory, nearly.
    fn cost(&self) -> usize {
        let ids: usize = self.ids.iter().map(|id| size_of::<Id>() + id.scheme.len() + id.id.len()).sum();
        REQUEST_BYTES + self.body.len() + ids
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Forwarding {
    queue: VecDeque<Forwarded>,
    bytes: usize,
}

impl Forwarding {
    /// Takes one in, or gives it back: too much waits.
    pub fn push(&mut self, f: Forwarded) -> Result<(), Forwarded> {
        if self.bytes > FORWARDED_BYTES_MAX {
            return Err(f);
        }
        self.bytes += f.cost();
        self.queue.push_back(f);
        Ok(())
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<Forwarded> {
        let f = self.queue.pop_front()?;
        self.bytes -= f.cost();
        Some(f)
    }

    /// Forgets those of a learner that is gone.
    pub fn forget(&mut self, link: LinkId) {
        self.queue.retain(|f| f.link != link);
        self.bytes = self.queue.iter().map(Forwarded::cost).sum();
    }

    pub fn clear(&mut self) {
        *self = Forwarding::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(link: u64, body: usize, ids: &Arc<[Id]>) -> Forwarded {
        let (session, body) = (SessionId(1), vec![0; body].into());
        Forwarded { link: LinkId(link), session, cxid: 1, op: 1, body, ids: ids.clone() }
    }

    /// How many fit.
    fn fill(queue: &mut Forwarding, body: usize, ids: &Arc<[Id]>) -> usize {
        (0..8 << 20).take_while(|_| queue.push(request(7, body, ids)).is_ok()).count()
    }

    #[test]
    fn what_waits_is_bounded_whatever_it_is_made_of() {
        let none: Arc<[Id]> = [].into();
        // Shared here, and not when they come from a link.
        let many: Arc<[Id]> =
            (0..16).map(|_| Id { scheme: "digest".into(), id: "x".repeat(65_000).into() }).collect();
        let mut queue = Forwarding::default();
        assert!((1..=256).contains(&fill(&mut queue, 1 << 20, &none)));
        assert!(queue.push(request(8, 0, &none)).is_err());
        queue.forget(LinkId(7));
        assert!(queue.push(request(8, 0, &none)).is_ok() && queue.pop().is_some_and(|f| f.link == LinkId(8)));
        assert_eq!((queue.bytes, queue.queue.len()), (0, 0));
        assert!((1..=260).contains(&fill(&mut queue, 0, &many)));
        queue.clear();
        assert!((1..FORWARDED_BYTES_MAX / 100).contains(&fill(&mut queue, 0, &none)));
        while queue.pop().is_some() {}
        assert_eq!(queue.bytes, 0);
    }
}
