//! What must hold at every step, each in a file of its own with its source.
//!
//! - [`history`]: total order, agreement, integrity, primary order (Zab); what is committed is on a quorum's disks;
//! - [`primaries`]: one leader per epoch, which starts from everything committed (Zab);
//! - [`promises`]: no byte leaves before what it stands for is durable (DESIGN section 6);
//! - [`model`]: what the committed transactions say the tree is, independent of the engine's own tree;
//! - [`state`]: members agree with the model and with each other (DESIGN section 6);
//! - [`replies`]: R1, R4, linearizable writes and sync'd reads (DESIGN section 4);
//! - [`config`]: agreement on the members, one reconfiguration at a time (fact sheet section 11);
//! - [`survival`]: no acknowledged write is lost (DESIGN section 6);
//! - [`sessions`]: sessions and their ephemerals (fact sheet 3.2);
//! - [`watches`]: exactly once, in order (DESIGN section 4, R2, R3).

pub mod config;
pub mod history;
pub mod model;
pub mod primaries;
pub mod promises;
pub mod replies;
pub mod sessions;
pub mod state;
pub mod survival;
pub mod watches;

use crate::node::{Report, Seen};
use crate::trace::Trace;
use crate::truth::Truth;
use engine::ids::{ServerId, Zxid};
use engine::zab::Role;
use engine::zab::members::Members;
use std::sync::Arc;

/// See the module.
pub struct Oracle {
    pub history: history::History,
    pub primaries: primaries::Primaries,
    pub promises: promises::Promises,
    pub model: model::Model,
    pub state: state::State,
    pub sessions: sessions::Sessions,
    pub watches: watches::Watches,
    pub replies: replies::Replies,
    pub config: config::Config,
    pub survival: survival::Survival,
    /// The newest zxid that any client has seen.
    pub seen: Zxid,
}

impl Oracle {
    pub fn new(members: Arc<Members>, trace: Trace) -> Oracle {
        Oracle {
            history: history::History::new(members),
            primaries: primaries::Primaries::default(),
            promises: promises::Promises::default(),
            model: model::Model::default(),
            state: state::State::default(),
            sessions: sessions::Sessions::default(),
            watches: watches::Watches::default(),
            replies: replies::Replies::new(trace),
            config: config::Config::default(),
            survival: survival::Survival::default(),
            seen: Zxid::ZERO,
        }
    }

    /// A member's core had a turn. `truths`: what every member's disk holds, by index.
    pub fn core_turn(&mut self, node: usize, report: &Report, truths: &[&Truth]) {
        let leads = report.role == Some(Role::Leading);
        for (behind, entry) in &report.fresh {
            self.history.logged(node, (report.led, report.version), *behind, entry);
        }
        for seen in &report.seen {
            match seen {
                Seen::Opened { upto } => {
                    self.committed_upto(node, *upto, truths);
                    self.history.prefix(node, truths[node], *upto);
                    if leads {
                        self.primaries.starts(node, report.epoch, *upto, self.history.last());
                        let (id, at) = (ServerId(node as i64 + 1), (report.epoch, *upto));
                        self.config.leads(node, id, report.version, at, &self.history);
                    }
                }
                Seen::Applied(e) => {
                    // What it recovered before that counts as delivered now.
                    self.committed_upto(node, e.zxid, truths);
                    self.committed(node, e, truths);
                }
                Seen::Digest { at, digest } => self.state.digest(node, *at, *digest, &self.history),
            }
        }
        for (members, next) in &report.members {
            self.committed_upto(node, Zxid(members.version), truths);
            self.config.activated(node, members, &self.history);
            if let Some(next) = next {
                self.config.seen(node, next, &self.history);
            }
        }
        if leads {
            self.primaries.leads(node, report.epoch);
        } else {
            self.primaries.does_not_lead(node);
        }
    }

    /// All that a member's state holds and nobody has delivered before: it may have come as a snapshot.
    fn committed_upto(&mut self, node: usize, upto: Zxid, truths: &[&Truth]) {
        for e in self.history.chain(upto) {
            self.committed(node, &e, truths);
        }
    }

    fn committed(&mut self, node: usize, entry: &engine::zab::Entry, truths: &[&Truth]) {
        if self.history.delivered(node, entry, truths) {
            self.model.apply(&entry.txn);
        }
    }

    /// A member has ended.
    pub fn ended(&mut self, node: usize) {
        self.primaries.does_not_lead(node);
        self.promises.ended(node);
    }

    pub fn reply(&mut self, r: &replies::Reply<'_>) {
        self.replies.check(r, &self.history, &self.model);
        self.survival.acknowledged(r);
    }
}
