//! The operator: sets servers up, wipes those that are no members any more, and asks for other members at any moment.
//!
//! Not here: what a reconfiguration does (`engine`), what must hold (`oracle::config`).
//! Invariant: a server is wiped only when no member of the ensemble needs what it holds: it is none of the members, those
//! have their newest list on disk, and none of them knows of a reconfiguration under way.

use crate::dice::Dice;
use crate::oracle::replies::What;
use crate::say;
use crate::truth::Truth;
use crate::world::{Death, Ev, World, line_of};
use engine::ids::ServerId;
use engine::zab::members::{Member, Members};
use std::sync::Arc;
use wal::testing::FaultyDisk;

/// Who may change the members: `super`, and the digest of `super:test`.
pub const OPERATOR_AUTH: &[u8] = b"super:test";
pub const OPERATOR_DIGEST: &str = "super:D/InIHSb7yEEbrWz8b9l71RjZJU=";

/// See the module.
pub struct Operator {
    dice: Dice,
    /// Servers set up with an empty disk beside an ensemble that stands, for the first time or again.
    pub set_up: u64,
}

impl Operator {
    pub fn new(seed: u64) -> Operator {
        Operator { dice: Dice::new(seed ^ 0x0bea_70a5), set_up: 0 }
    }

    /// What to ask for.
    fn draw(&mut self, now: &Members, servers: usize, leader: Option<ServerId>) -> What {
        let d = &mut self.dice;
        let version = match d.below(20) {
            0 => now.version as i64,
            1 => now.version as i64 - 1,
            _ => -1,
        };
        let (mut joining, mut leaving, mut members) = (None, None, None);
        let ids: Vec<ServerId> = now.iter().map(|m| m.id).collect();
        let others: Vec<usize> = (0..servers).filter(|n| !ids.contains(&ServerId(*n as i64 + 1))).collect();
        let kind = d.below(100);
        // Small ensembles rather grow.
        let kind = if now.voters().len() <= 2 && kind < 35 && d.permille(600) { 40 } else { kind };
        match kind {
            0..20 => leaving = Some(d.pick(&ids).to_string()),
            20..35 => leaving = leader.map(|l| l.to_string()),
            35..55 if !others.is_empty() => {
                let joiner = line_of(*d.pick(&others), d.permille(300), false);
                joining = Some(line(&joiner));
            }
            35..70 => {
                let id = *d.pick(&ids);
                joining = now.get(id).map(|m| line(&Member { observer: !m.observer, ..m.clone() }));
            }
            70..85 => {
                let strangers = others.iter().map(|n| line_of(*n, false, false));
                let mut some = Vec::new();
                for m in now.iter().cloned().chain(strangers).collect::<Vec<_>>() {
                    if d.permille(750) {
                        some.push(line(&Member { observer: d.permille(200), ..m }));
                    }
                }
                members = Some(some.join(","));
            }
            85..92 if !others.is_empty() => {
                leaving = Some(d.pick(&ids).to_string());
                joining = Some(line(&line_of(*d.pick(&others), false, false)));
            }
            85..97 => {
                let id = *d.pick(&ids);
                let moved = now.get(id).is_some_and(|m| m.peers[0].quorum_port == 2888);
                joining = now.get(id).map(|m| line(&line_of(id.0 as usize - 1, m.observer, moved)));
            }
            97..99 => joining = Some("server.9=nowhere".into()),
            _ => leaving = Some("nobody".into()),
        }
        What::Reconfig { joining, leaving, members, version }
    }
}

/// As a request names it.
pub fn line(m: &Member) -> String {
    format!("server.{}={}", m.id, m.text())
}

impl World {
    pub fn operate_later(&mut self) {
        if self.plan.operate_ms > 0 {
            let at = self.at_us + self.operator.dice.delay_us(self.plan.operate_ms * 1000);
            self.push(at, Ev::Operate);
        }
    }

    /// One act of the operator.
    pub fn operate_event(&mut self) {
        if !self.chaos_on {
            return;
        }
        let now = self.oracle.history.members().clone();
        let free = |n: &usize| !self.counts(*n) || self.nodes[*n].config.is_none();
        let strangers: Vec<usize> = (0..self.nodes.len()).filter(free).collect();
        if !strangers.is_empty() && self.operator.dice.permille(300) {
            let node = *self.operator.dice.pick(&strangers);
            if self.nodes[node].config.is_none() || self.may_be_wiped(node) {
                let observer = self.operator.dice.permille(300);
                self.set_up(node, observer);
            }
        } else {
            let leader = self.leader().map(|l| self.nodes[l].id);
            let what = self.operator.draw(&now, self.nodes.len(), leader);
            self.ask_operator(what);
            if self.operator.dice.permille(200) {
                // Another one right behind it.
                let what = self.operator.draw(&now, self.nodes.len(), leader);
                self.ask_operator(what);
            }
        }
        self.operate_later();
    }

    /// The operator's client sends a request, if it has a session.
    pub fn ask_operator(&mut self, what: What) {
        let number = self.clients.len() - 1;
        if !self.clients[number].is_attached() {
            return;
        }
        say!(self.trace, "the operator asks for {what:?}");
        let mut out = Vec::new();
        self.clients[number].send(what, &self.oracle, &mut out);
        if let Some(conn) = self.clients[number].conn {
            self.send_to_server(conn, out);
        }
    }

    pub fn may_be_wiped(&self, node: usize) -> bool {
        let now = self.oracle.history.members();
        let settled = |id: &ServerId| {
            let r = self.index_of(*id).and_then(|n| self.nodes[n].running.as_ref());
            r.is_some_and(|r| r.membership.written >= now.version && r.server.zab().next_members().is_none())
        };
        // What it has asked for itself may make the wiped one a voter.
        let asks = self.clients.iter().any(|c| c.is_operator && !c.asked.is_empty());
        !self.counts(node) && !asks && now.version > 0 && now.voters().iter().all(settled)
    }

    /// Servers that are members before anybody has set them up.
    pub fn set_up_members(&mut self) {
        for node in 0..self.nodes.len() {
            if self.counts(node) && self.nodes[node].config.is_none() {
                self.set_up(node, false);
            }
        }
    }

    /// A server with an empty disk is set up, with the members of now and itself in its configuration.
    pub fn set_up(&mut self, node: usize, observer: bool) {
        if self.nodes[node].running.is_some() {
            self.crash(node, Death::Kill);
        }
        let mut members: Vec<Member> = self.oracle.history.members().iter().cloned().collect();
        if !self.counts(node) {
            members.push(line_of(node, observer, false));
        }
        let members = Members::new(0, members, None).expect("members and one more");
        say!(
            self.trace,
            "{}: is set up with an empty disk and {}",
            node + 1,
            members.text().replace('\n', " ")
        );
        self.operator.set_up += 1;
        let seed = self.operator.dice.next();
        let n = &mut self.nodes[node];
        n.config = Some(Arc::new(members));
        n.disk = FaultyDisk::new(seed);
        n.disk_fails = false;
        n.stable = Truth::default();
        let life = n.life;
        self.push(self.at_us, Ev::Start { node, life });
    }
}
