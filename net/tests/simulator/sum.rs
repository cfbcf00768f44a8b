//! What many runs add up to, as a table.

use crate::runs::Outcome;
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// See the module.
#[derive(Default)]
pub struct Sum {
    runs: u64,
    virtual_s: u64,
    committed: u64,
    epochs: u64,
    replies: u64,
    watches: u64,
    expired: u64,
    stale_syncs: u64,
    kills: u64,
    power_cuts: u64,
    power_cuts_of_all: u64,
    installs: u64,
    rebuilds: u64,
    snapshots: u64,
    relayed: u64,
    reconfigs: u64,
    reconfig_answers: BTreeMap<i32, u64>,
    set_up: u64,
    acknowledged: u64,
    through_cuts: u64,
    lost: u64,
}

impl Sum {
    pub fn add(&mut self, o: &Outcome) {
        self.runs += 1;
        self.virtual_s += o.virtual_ms / 1000;
        self.committed += o.committed as u64;
        self.epochs += o.epochs as u64;
        self.replies += o.replies;
        self.watches += o.watches;
        self.expired += o.expired;
        self.stale_syncs += o.stale_syncs;
        self.kills += o.stats.kills;
        self.power_cuts += o.stats.power_cuts;
        self.power_cuts_of_all += o.stats.power_cuts_of_all;
        self.installs += o.stats.installs;
        self.rebuilds += o.stats.rebuilds;
        self.snapshots += o.stats.snapshots;
        self.relayed += o.stats.relayed;
        self.reconfigs += o.reconfigs;
        for (code, n) in &o.reconfig_answers {
            *self.reconfig_answers.entry(*code).or_default() += n;
        }
        self.set_up += o.set_up;
        self.acknowledged += o.survived.acknowledged;
        self.through_cuts += o.survived.through_cuts;
        self.lost += o.survived.lost;
    }

    /// Of so many runs; those that failed are not in the sums.
    pub fn table(&self, ran: u64, from: u64, secs: f64) -> String {
        let per_minute = ran as f64 / secs * 60.0;
        let mut out = String::new();
        let mut row = |name: &str, text: String| {
            let _a_string_takes_it = writeln!(out, "{name:<12} {text}");
        };
        let failed = ran - self.runs;
        row(
            "seeds",
            format!("{ran} ({failed} failed, fresh from {from:#x}), {secs:.1} s, {per_minute:.0} per minute"),
        );
        row("virtual time", format!("{} s, {} epochs", self.virtual_s, self.epochs));
        let (one, all) = (self.power_cuts, self.power_cuts_of_all);
        row(
            "ends",
            format!("{} kills, {one} power cuts of one member, {all} of all members at once", self.kills),
        );
        row(
            "disks",
            format!("{} snapshots, {} installed, {} rebuilds", self.snapshots, self.installs, self.rebuilds),
        );
        let answers: Vec<String> = self.reconfig_answers.iter().map(|(c, n)| format!("{n} x {c}")).collect();
        let (done, set_up) = (self.reconfigs, self.set_up);
        let answers = answers.join(", ");
        row(
            "members",
            format!("{done} reconfigurations committed, {set_up} empty servers set up; answers: {answers}"),
        );
        row("relays", format!("{} observers served by a follower", self.relayed));
        let (watches, expired, stale) = (self.watches, self.expired, self.stale_syncs);
        row(
            "clients",
            format!(
                "{} replies, {watches} watches fired, {expired} sessions expired, {stale} stale syncs",
                self.replies
            ),
        );
        let (through, lost) = (self.through_cuts, self.lost);
        row(
            "writes",
            format!(
                "{} committed, {} acknowledged and looked for on every member at the end ({through} of them from before a \
                 power cut of all), {lost} lost",
                self.committed, self.acknowledged
            ),
        );
        out
    }
}
