//! Leaders.
//!
//! Source: Zab, primary integrity: a primary broadcasts only after it has delivered everything that earlier primaries'
//! quorums committed; and at most one primary is established per epoch (Zab, section on discovery: a quorum promises
//! an epoch to one leader only).

use engine::ids::Zxid;
use std::collections::BTreeMap;

/// See the module.
#[derive(Default)]
pub struct Primaries {
    /// By epoch: who was established, and whether it still leads.
    by_epoch: BTreeMap<u32, (usize, bool)>,
}

impl Primaries {
    /// The newest established epoch.
    pub fn newest(&self) -> u32 {
        self.by_epoch.keys().next_back().copied().unwrap_or(0)
    }
    pub fn count(&self) -> usize {
        self.by_epoch.len()
    }

    pub fn leads(&mut self, node: usize, epoch: u32) {
        let (owner, still) = *self.by_epoch.entry(epoch).or_insert((node, true));
        assert_eq!(owner, node, "two leaders are established in epoch {epoch}");
        assert!(still, "server {} leads epoch {epoch} a second time", node + 1);
    }

    pub fn does_not_lead(&mut self, node: usize) {
        for (owner, still) in self.by_epoch.values_mut() {
            *still &= *owner != node;
        }
    }

    /// A leader serves from here on.
    pub fn starts(&self, node: usize, epoch: u32, upto: Zxid, committed: Zxid) {
        let newer = committed.epoch() >= epoch;
        assert!(
            newer || upto >= committed,
            "primary integrity: {} starts epoch {epoch} at {upto}, {committed} is committed",
            node + 1
        );
    }
}
