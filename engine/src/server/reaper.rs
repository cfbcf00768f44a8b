//! Finds containers and TTL nodes that are due to go (fact sheet 3.7).
//!
//! Not here: their deletion, which is a transaction that checks again.

use crate::limits::Limits;
use crate::pipeline::Database;
use crate::time::{MonoMs, Now};
use crate::tree::Kind;

/// When the next round is due, and how much of this minute's allowance is used.
#[derive(Debug)]
pub(super) struct Reaper {
    last: MonoMs,
    minute: MonoMs,
    used: u32,
}

impl Reaper {
    pub fn new(now: MonoMs) -> Reaper {
        Reaper { last: now, minute: now, used: 0 }
    }

    pub fn next_deadline(&self, limits: &Limits) -> MonoMs {
        self.last.plus(limits.reap_interval_ms)
    }

    /// Paths to delete now. Empty between rounds.
    pub fn due(&mut self, db: &Database, limits: &Limits, now: Now) -> Vec<String> {
        if now.mono < self.next_deadline(limits) {
            return Vec::new();
        }
        self.last = now.mono;
        if now.mono.since(self.minute) >= 60_000 {
            (self.minute, self.used) = (now.mono, 0);
        }
        let room = limits.reap_per_minute.saturating_sub(self.used) as usize;
        let found: Vec<String> =
            db.reapable().filter(|p| is_due(db, p, limits, now)).take(room).map(|p| p.to_string()).collect();
        self.used += found.len() as u32;
        found
    }
}

fn is_due(db: &Database, path: &str, limits: &Limits, now: Now) -> bool {
    let view = db.tree.latest();
    let Some(node) = view.get(path) else { return false };
    if node.num_children() > 0 {
        return false;
    }
    let stat = node.stat_persisted();
    let age_ms = now.wall.0.saturating_sub(stat.mtime);
    if node.kind() == Kind::Container {
        if stat.cversion > 0 {
            return true;
        }
        return limits.reap_never_used_ms > 0 && age_ms as u64 > limits.reap_never_used_ms && age_ms > 0;
    }
    Kind::ttl_ms(stat.ephemeral_owner).is_some_and(|ttl_ms| age_ms > ttl_ms)
}
