//! Sessions: ids, passwords, deadlines, and which connection owns which session (fact sheet 3.2, 3.3).
//!
//! Not here: the transactions that make and close sessions (`pipeline`), the connections themselves (`shard`).
//! Invariants:
//! - a session expires only when every shard has reported all that it heard up to the bucket's end;
//! - a session that is closing stays closing until it is removed;
//! - a session whose time another server keeps has no deadline here.

use crate::ids::{Attach, ConnId, LinkId, SessionId, ShardId};
use crate::time::{MonoMs, WallMs};
use std::collections::{BTreeMap, HashMap, HashSet};

/// Mixed into a session's id to seed its password.
const PASSWORD_SALT: i64 = 0xB341_5C00;

/// The password of a session, as every ZooKeeper server computes it: the first four outputs of Java's generator
/// seeded with the id, each little-endian. It keeps sessions apart; it is no secret from who knows the formula.
pub fn password(session: SessionId) -> [u8; 16] {
    const MULTIPLIER: u64 = 0x5_DEEC_E66D;
    const MASK: u64 = (1 << 48) - 1;
    let mut state = ((session.0 ^ PASSWORD_SALT) as u64 ^ MULTIPLIER) & MASK;
    let mut out = [0; 16];
    for word in out.chunks_exact_mut(4) {
        state = (state.wrapping_mul(MULTIPLIER).wrapping_add(11)) & MASK;
        word.copy_from_slice(&((state >> 16) as u32).to_le_bytes());
    }
    out
}

/// The first session id of a server process that starts at `now`: server id, 40 bits of milliseconds, 16 zero bits.
pub fn first_id(server: u8, now: WallMs) -> SessionId {
    let stamp = ((now.0 as u64) << 24) >> 8;
    SessionId((stamp | u64::from(server) << 56) as i64)
}

fn first_byte(id: SessionId) -> u8 {
    (id.0 >> 56) as u8
}

/// Container nodes carry this in the owner field, so no session may.
const FORBIDDEN: i64 = i64::MIN;

/// Where a session's client is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// At this server.
    Conn(ConnId),
    /// At the learner on this link.
    Learner(LinkId),
}

impl Owner {
    /// The connection here, if it is one.
    pub fn conn(self) -> Option<ConnId> {
        match self {
            Owner::Conn(conn) => Some(conn),
            Owner::Learner(_) => None,
        }
    }
}

#[derive(Debug)]
struct Session {
    timeout_ms: i32,
    /// The end of the bucket it sits in, ms. `None`: its time is up elsewhere, or it is closing.
    bucket: Option<u64>,
    closing: bool,
    /// Known to this server only (fact sheet 3.15, 3.16).
    local: bool,
    owner: Option<Owner>,
    attach: Attach,
}

/// Every live session of this server, by deadline.
#[derive(Debug)]
pub struct Tracker {
    tick_ms: u64,
    /// The first byte of the ids given out here.
    server: u8,
    next: SessionId,
    sessions: HashMap<SessionId, Session>,
    buckets: BTreeMap<u64, HashSet<SessionId>>,
    /// Whether this server expires the sessions that all servers know.
    keeps_time: bool,
    /// Per shard: up to when everything that arrived has been reported.
    drained: Vec<MonoMs>,
}

/// How a request stands to its session.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// The connection owns it.
    Owner,
    /// Closing: a write fails with SESSIONEXPIRED.
    Closing,
    /// Another connection owns it by now, or it is gone: drop the request.
    Stranger,
}

impl Tracker {
    /// `tick_ms` is the bucket width, at least 1; `first` the next id to give out.
    pub fn new(tick_ms: u32, first: SessionId, shards: usize) -> Tracker {
        Tracker {
            tick_ms: u64::from(tick_ms.max(1)),
            server: first_byte(first),
            next: first,
            sessions: HashMap::new(),
            buckets: BTreeMap::new(),
            keeps_time: true,
            drained: vec![MonoMs(0); shards],
        }
    }

    /// Whether that id was given out by this server, in this life or an earlier one.
    pub fn is_own(&self, id: SessionId) -> bool {
        first_byte(id) == self.server
    }

    /// A fresh id.
    pub fn next_id(&mut self) -> SessionId {
        loop {
            let id = self.next;
            let after = id.0.wrapping_add(1);
            self.next = SessionId(if after == FORBIDDEN { after + 1 } else { after });
            // A clock that was set back could lead to a session that was restored.
            if !self.sessions.contains_key(&id) {
                return id;
            }
        }
    }

    fn bucket_of(&self, now: MonoMs, timeout_ms: i32) -> u64 {
        let deadline = now.0 + timeout_ms.max(0) as u64;
        (deadline / self.tick_ms + 1) * self.tick_ms
    }

    /// Starts to track a session. Known already: its timeout and deadline are renewed.
    pub fn add(&mut self, id: SessionId, timeout_ms: i32, now: MonoMs) {
        if let Some(s) = self.sessions.get_mut(&id) {
            s.timeout_ms = timeout_ms;
            return self.touch(id, now);
        }
        self.insert(id, timeout_ms, false, now);
    }

    /// Starts to track a session that no other server knows.
    pub fn add_local(&mut self, id: SessionId, timeout_ms: i32, now: MonoMs) {
        self.insert(id, timeout_ms, true, now);
    }

    fn insert(&mut self, id: SessionId, timeout_ms: i32, local: bool, now: MonoMs) {
        let bucket = (local || self.keeps_time).then(|| self.bucket_of(now, timeout_ms));
        if let Some(bucket) = bucket {
            self.buckets.entry(bucket).or_default().insert(id);
        }
        let s = Session { timeout_ms, bucket, closing: false, local, owner: None, attach: Attach(0) };
        self.sessions.insert(id, s);
    }

    /// From here on all servers know it. Gives its timeout, ms; `None`: it is not local, or closing.
    pub fn upgrade(&mut self, id: SessionId) -> Option<i32> {
        let keeps_time = self.keeps_time;
        let s = self.sessions.get_mut(&id).filter(|s| s.local && !s.closing)?;
        s.local = false;
        let timeout_ms = s.timeout_ms;
        if !keeps_time {
            self.leave_bucket(id);
        }
        Some(timeout_ms)
    }

    /// How many sessions are known to this server only.
    pub fn local_count(&self) -> usize {
        self.sessions.values().filter(|s| s.local).count()
    }

    /// Whether a session is known to this server only.
    pub fn is_local(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|s| s.local)
    }

    /// The session was heard from at `at`. Deadlines only rise. Unknown and closing sessions are left alone.
    pub fn touch(&mut self, id: SessionId, at: MonoMs) {
        let Some(Session { timeout_ms, bucket: Some(from), .. }) = self.sessions.get(&id) else { return };
        let to = self.bucket_of(at, *timeout_ms);
        if to <= *from {
            return;
        }
        self.leave_bucket(id);
        self.sessions.get_mut(&id).expect("looked up above").bucket = Some(to);
        self.buckets.entry(to).or_default().insert(id);
    }

    fn leave_bucket(&mut self, id: SessionId) {
        let Some(from) = self.sessions.get_mut(&id).and_then(|s| s.bucket.take()) else { return };
        if let Some(set) = self.buckets.get_mut(&from) {
            set.remove(&id);
            if set.is_empty() {
                self.buckets.remove(&from);
            }
        }
    }

    /// Everything that arrived on this shard before `upto` has been reported with [`Tracker::touch`].
    pub fn drained(&mut self, shard: ShardId, upto: MonoMs) {
        let d = &mut self.drained[usize::from(shard.0)];
        *d = (*d).max(upto);
    }

    /// Takes one expired session whose bucket has passed and that no shard can have heard from unreported.
    /// It is closing from here on: the caller closes it, with a transaction unless it is a local one.
    pub fn expire_one(&mut self, now: MonoMs) -> Option<SessionId> {
        let heard_upto = self.drained.iter().copied().min().unwrap_or(now);
        let (&end, set) = self.buckets.iter().next()?;
        if end > now.0 || end > heard_upto.0 {
            return None;
        }
        let id = *set.iter().min().expect("empty buckets are removed");
        self.close(id);
        Some(id)
    }

    /// When the next bucket ends.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        self.buckets.keys().next().map(|&end| MonoMs(end))
    }

    /// Marks a session closing and stops its clock. Returns whether it was live.
    pub fn close(&mut self, id: SessionId) -> bool {
        self.leave_bucket(id);
        self.sessions.get_mut(&id).is_some_and(|s| !std::mem::replace(&mut s.closing, true))
    }

    /// Forgets a session whose close was committed; the connection that owned it is to be closed.
    pub fn remove(&mut self, id: SessionId) -> Option<ConnId> {
        self.leave_bucket(id);
        self.sessions.remove(&id)?.owner?.conn()
    }

    /// Gives a session to a connection. The former owner, if any, is to be closed. `None`: unknown or closing.
    pub fn attach(&mut self, id: SessionId, conn: ConnId, timeout_ms: i32, now: MonoMs) -> Option<Attached> {
        let s = self.sessions.get_mut(&id).filter(|s| !s.closing)?;
        s.attach = Attach(s.attach.0.wrapping_add(1));
        s.timeout_ms = timeout_ms;
        let former = s.owner.replace(Owner::Conn(conn)).and_then(Owner::conn);
        let attached = Attached { attach: s.attach, former };
        self.touch(id, now);
        Some(attached)
    }

    /// The connection is gone; if it still owned its session, nobody does now.
    pub fn detach(&mut self, id: SessionId, conn: ConnId) {
        if let Some(s) = self.sessions.get_mut(&id).filter(|s| s.owner == Some(Owner::Conn(conn))) {
            s.owner = None;
        }
    }

    /// The client is at that learner now. The connection here that owned the session, if any, is to be closed.
    /// `None`: unknown, closing, or a local one of this server.
    pub fn claim(&mut self, id: SessionId, link: LinkId, now: MonoMs) -> Option<Option<ConnId>> {
        let s = self.sessions.get_mut(&id).filter(|s| !s.closing && !s.local)?;
        let owner = Owner::Learner(link);
        let former = s.owner.replace(owner).filter(|o| *o != owner).and_then(Owner::conn);
        if former.is_some() {
            s.attach = Attach(s.attach.0.wrapping_add(1));
        }
        self.touch(id, now);
        Some(former)
    }

    /// How a request stands that a learner forwarded. A session that nobody owned belongs to it from here on.
    pub fn standing_at(&mut self, id: SessionId, link: LinkId) -> Standing {
        let Some(s) = self.sessions.get_mut(&id).filter(|s| !s.local) else { return Standing::Closing };
        match s.owner.get_or_insert(Owner::Learner(link)) {
            Owner::Learner(l) if *l == link && s.closing => Standing::Closing,
            Owner::Learner(l) if *l == link => Standing::Owner,
            _ => Standing::Stranger,
        }
    }

    /// A learner has agreed on another timeout with the session's client.
    pub fn set_timeout(&mut self, id: SessionId, timeout_ms: i32) {
        if let Some(s) = self.sessions.get_mut(&id) {
            s.timeout_ms = timeout_ms;
        }
    }

    /// Every session with its timeout, ms.
    pub fn all(&self) -> impl Iterator<Item = (SessionId, i32)> + '_ {
        self.sessions.iter().map(|(id, s)| (*id, s.timeout_ms))
    }

    /// The timeout of a session, ms.
    pub fn timeout_ms(&self, id: SessionId) -> Option<i32> {
        self.sessions.get(&id).map(|s| s.timeout_ms)
    }

    /// Forgets a session if this connection owned it: a learner knows only those whose clients are here. A local one
    /// lives on until its time is up.
    pub fn forget(&mut self, id: SessionId, conn: ConnId) {
        if self.is_local(id) {
            self.detach(id, conn);
        } else if self.sessions.get(&id).is_some_and(|s| s.owner == Some(Owner::Conn(conn))) {
            self.leave_bucket(id);
            self.sessions.remove(&id);
        }
    }

    /// Begins again with these sessions, each with its whole timeout from `now` on, owned by nobody.
    pub fn restart<'a>(&mut self, sessions: impl Iterator<Item = (&'a SessionId, &'a i32)>, now: MonoMs) {
        self.clear();
        self.keeps_time = true;
        for (&id, &timeout_ms) in sessions {
            self.add(id, timeout_ms, now);
        }
    }

    /// Begins again with none. Another server keeps the time of all but local ones.
    pub fn clear(&mut self) {
        self.sessions.clear();
        self.buckets.clear();
        self.keeps_time = false;
    }

    /// How a request of this attachment stands.
    pub fn standing(&self, id: SessionId, attach: Attach) -> Standing {
        match self.sessions.get(&id) {
            Some(s) if s.attach == attach => {
                if s.closing {
                    Standing::Closing
                } else {
                    Standing::Owner
                }
            }
            _ => Standing::Stranger,
        }
    }

    /// Whether a write of this session may still be proposed.
    pub fn is_live(&self, id: SessionId) -> bool {
        self.sessions.get(&id).is_some_and(|s| !s.closing)
    }

    /// Sessions tracked, closing ones included.
    pub fn len(&self) -> usize {
        self.sessions.len()
    }
    /// Whether none is tracked.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The buckets as `dump` prints them: end of each (ms) with its sessions, in order.
    pub fn buckets(&self) -> impl Iterator<Item = (MonoMs, Vec<SessionId>)> + '_ {
        self.buckets.iter().map(|(&end, set)| {
            let mut ids: Vec<_> = set.iter().copied().collect();
            ids.sort_unstable();
            (MonoMs(end), ids)
        })
    }
}

/// The outcome of [`Tracker::attach`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Attached {
    pub attach: Attach,
    pub former: Option<ConnId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(slot: u32) -> ConnId {
        ConnId { shard: ShardId(0), slot, generation: 0 }
    }

    /// Fact sheet 2.6: the password of a session of a live server.
    #[test]
    fn password_is_the_one_a_real_server_gave() {
        let want =
            [0x6d, 0x97, 0x2e, 0xab, 0xf6, 0x98, 0xf3, 0xa9, 0x93, 0xf0, 0xed, 0x36, 0x2f, 0xc9, 0x99, 0x00];
        assert_eq!(password(SessionId(0x0100_000e_3699_0000)), want);
    }

    #[test]
    fn ids_carry_the_server_and_avoid_the_container_marker() {
        let id = first_id(3, WallMs(0x1a1_f976_f8ec));
        assert_eq!((id.0 as u64) >> 56, 3);
        assert_eq!(id.0 & 0xffff, 0);
        let mut t = Tracker::new(2000, SessionId(i64::MAX), 1);
        assert_eq!(t.next_id(), SessionId(i64::MAX));
        assert_eq!(t.next_id(), SessionId(i64::MIN + 1));
    }

    #[test]
    fn expiry_lies_between_timeout_and_one_tick_later_and_waits_for_late_shards() {
        let mut t = Tracker::new(2000, SessionId(1), 2);
        let id = t.next_id();
        t.add(id, 4000, MonoMs(100));
        assert_eq!(t.next_deadline(), Some(MonoMs(6000)));
        t.drained(ShardId(0), MonoMs(7000));
        assert_eq!(t.expire_one(MonoMs(6500)), None, "shard 1 has not reported");
        t.drained(ShardId(1), MonoMs(5999));
        assert_eq!(t.expire_one(MonoMs(6500)), None, "shard 1 may have heard at 5999");
        t.touch(id, MonoMs(5900));
        t.drained(ShardId(1), MonoMs(9000));
        t.drained(ShardId(0), MonoMs(10_000));
        assert_eq!(t.expire_one(MonoMs(9_000)), None, "the late report moved it");
        t.drained(ShardId(1), MonoMs(10_000));
        assert_eq!(t.expire_one(MonoMs(10_000)), Some(id));
        assert!(!t.is_live(id));
        t.touch(id, MonoMs(10_001));
        assert_eq!(t.next_deadline(), None, "a closing session cannot be revived");
    }

    #[test]
    fn a_learner_keeps_the_time_of_local_sessions_only_until_all_know_them() {
        let mut t = Tracker::new(2000, SessionId(1), 1);
        t.clear();
        let (known, local, upgraded) = (t.next_id(), t.next_id(), t.next_id());
        t.add(known, 4000, MonoMs(0));
        assert_eq!(t.next_deadline(), None);
        t.add_local(local, 4000, MonoMs(0));
        t.add_local(upgraded, 4000, MonoMs(0));
        assert_eq!((t.upgrade(upgraded), t.upgrade(upgraded), t.upgrade(known)), (Some(4000), None, None));
        assert!(t.is_local(local) && !t.is_local(upgraded) && t.local_count() == 1);
        let c = t.attach(local, conn(1), 4000, MonoMs(0)).unwrap();
        t.forget(local, conn(1));
        assert_eq!(t.standing(local, c.attach), Standing::Owner, "it waits for its client");
        assert_eq!(t.claim(local, LinkId(1), MonoMs(1)), None, "no other server may have it");
        t.drained(ShardId(0), MonoMs(10_000));
        assert_eq!((t.expire_one(MonoMs(9_000)), t.expire_one(MonoMs(9_000))), (Some(local), None));
        assert!(t.is_local(local) && t.is_live(known) && t.is_live(upgraded));
    }

    #[test]
    fn a_new_attachment_outdates_the_old_one() {
        let mut t = Tracker::new(2000, SessionId(1), 1);
        let id = t.next_id();
        t.add(id, 4000, MonoMs(0));
        let a = t.attach(id, conn(1), 4000, MonoMs(0)).unwrap();
        assert_eq!(t.standing(id, a.attach), Standing::Owner);
        let b = t.attach(id, conn(2), 4000, MonoMs(1)).unwrap();
        assert_eq!(b.former, Some(conn(1)));
        assert_eq!(t.standing(id, a.attach), Standing::Stranger);
        t.detach(id, conn(1));
        assert_eq!(t.remove(id), Some(conn(2)), "a stale goodbye does not detach the new owner");
        assert_eq!(t.attach(id, conn(3), 4000, MonoMs(2)), None);
    }
}
