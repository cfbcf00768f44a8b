//! Requests of learners that wait for room at the leader, and their questions about sessions while it does not know any.
//!
//! Not here: what is done with one (`roles`).
//! Invariants:
//! - what waits takes a bounded number of bytes, whatever the requests are made of: bodies, identities, nothing;
//! - of each learner a bounded number of questions waits.

use crate::ids::{LinkId, SessionId};
use crate::proto::Id;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

/// Bytes of all learners' requests that may wait for room; whoever forwards more gives up its link.
pub(super) const FORWARDED_BYTES_MAX: usize = 256 << 20;

/// Questions of one learner that may wait: one for each client that waits there for its session (a server takes 65,536
/// requests at a time), and for those of a few observers behind it. Whoever asks more gives up its link.
pub(super) const CLAIMS_MAX: usize = 1 << 18;

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

/// How many questions of each learner wait.
#[derive(Debug, Default)]
pub(super) struct Shares(HashMap<LinkId, usize>);

impl Shares {
    /// One more; `false`: as many wait as may.
    #[must_use]
    pub fn take(&mut self, link: LinkId) -> bool {
        let count = self.0.entry(link).or_default();
        let room = *count < CLAIMS_MAX;
        *count += usize::from(room);
        room
    }
    /// One less.
    pub fn give_back(&mut self, link: LinkId) {
        if let Some(count) = self.0.get_mut(&link) {
            *count -= 1;
            if *count == 0 {
                self.0.remove(&link);
            }
        }
    }
}

/// Sessions, with timeouts in ms, that learners ask about before this leader knows them.
#[derive(Debug, Default)]
pub(super) struct Claims {
    queue: VecDeque<(LinkId, SessionId, i32)>,
    shares: Shares,
}

impl Claims {
    /// Takes one in; `false`: too many of that learner wait.
    #[must_use]
    pub fn push(&mut self, link: LinkId, session: SessionId, timeout_ms: i32) -> bool {
        let room = self.shares.take(link);
        if room {
            self.queue.push_back((link, session, timeout_ms));
        }
        room
    }

    /// The oldest.
    pub fn pop(&mut self) -> Option<(LinkId, SessionId, i32)> {
        let claim = self.queue.pop_front()?;
        self.shares.give_back(claim.0);
        Some(claim)
    }

    /// Forgets those of a learner that is gone.
    pub fn forget(&mut self, link: LinkId) {
        if self.shares.0.remove(&link).is_some() {
            self.queue.retain(|(l, ..)| *l != link);
        }
    }

    pub fn clear(&mut self) {
        *self = Claims::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_learner_so_many_questions_wait() {
        let mut claims = Claims::default();
        let mut ask = |link, session| claims.push(LinkId(link), SessionId(session), 4_000);
        assert!((0..CLAIMS_MAX as i64).all(|s| ask(7, s)));
        assert!(!ask(7, 1) && ask(8, 5) && !ask(7, 2));
        // One was answered: there is room for one.
        assert_eq!(claims.pop(), Some((LinkId(7), SessionId(0), 4_000)));
        assert!(claims.push(LinkId(7), SessionId(3), 0) && !claims.push(LinkId(7), SessionId(4), 0));
        claims.forget(LinkId(7));
        assert_eq!((claims.pop(), claims.pop()), (Some((LinkId(8), SessionId(5), 4_000)), None));
        assert!(claims.push(LinkId(7), SessionId(6), 0));
        claims.clear();
        assert!(claims.pop().is_none() && claims.shares.0.is_empty());
    }

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
