//! Steps of which scenarios are made.
//!
//! Not here: the scenarios. Invariant: each step waits, in virtual time, for what it says, and fails if that does not come.

use crate::plan::Plan;
use crate::runs::{Outcome, guarded, recover, who_serves};
use crate::world::{Death, Ev, World};

/// Plays a script in two worlds; behind it everybody has to recover and agree.
pub fn scene(name: &str, shape: impl Fn(Plan) -> Plan, script: impl Fn(&mut World)) {
    for seed in seeds(name) {
        if let Err(text) = scene_once(seed, &shape, &script) {
            panic!(
                "\n{text}\nscenario {name}: SIM_SEED={seed:#x} cargo test -p net --test simulator -- {name}\n"
            );
        }
    }
}

/// The same in one world; the broken rule, if one was.
pub fn scene_once(
    seed: u64,
    shape: impl Fn(Plan) -> Plan,
    script: impl Fn(&mut World),
) -> Result<Outcome, String> {
    let live = std::env::var("SIM_LIVE").is_ok();
    let plan = shape(Plan { live, ..Plan::calm(seed) });
    guarded(seed, plan, |world| {
        script(world);
        recover(world);
    })
}

/// Crash points of a matrix: all of them where code is fast, else every third.
pub fn points(upto: u64) -> impl Iterator<Item = u64> {
    (1..upto).step_by(if cfg!(debug_assertions) { 3 } else { 1 })
}

fn seeds(name: &str) -> Vec<u64> {
    match crate::number("SIM_SEED") {
        Some(seed) => vec![seed],
        None => {
            let from = name.bytes().fold(0u64, |h, b| h.wrapping_mul(31).wrapping_add(b.into()));
            (0..2).map(|i| (from & 0xff_ffff) + i).collect()
        }
    }
}

impl World {
    fn must(&mut self, what: &str, so: impl FnMut(&World) -> bool) {
        let until = self.at_us + self.plan.recover_ms * 1000;
        let came = self.run_until(until, so);
        assert!(came, "waited for {what}: {}", who_serves(self));
    }

    /// Everybody is started and serves.
    pub fn all_up(&mut self) {
        self.start_all();
        self.must("everybody to serve", World::all_serve);
    }
    /// So many members serve, among them a leader.
    pub fn serving(&mut self, n: usize) {
        self.must("members to serve", |w| {
            let open = |i: &&crate::node::Node| i.running.as_ref().is_some_and(|r| r.server.is_open());
            w.leader().is_some_and(|l| w.serves(l)) && w.nodes.iter().filter(open).count() >= n
        });
    }
    /// So many writes more are acknowledged.
    pub fn writes(&mut self, n: u64) {
        let acked = |w: &World| w.clients.iter().map(|c| c.writes_acked).sum::<u64>();
        let upto = acked(self) + n;
        self.must("writes", |w| acked(w) >= upto);
    }
    /// Until it is so.
    pub fn until(&mut self, what: &str, so: impl FnMut(&World) -> bool) {
        self.must(what, so);
    }
    /// The leader, once there is one that serves.
    pub fn the_leader(&mut self) -> usize {
        self.must("a leader", |w| w.leader().is_some_and(|l| w.serves(l)));
        self.leader().expect("waited for")
    }
    pub fn serves(&self, node: usize) -> bool {
        self.nodes[node].running.as_ref().is_some_and(|r| r.server.is_open())
    }
    /// A voter that does not lead.
    pub fn a_follower(&mut self) -> usize {
        let leader = self.the_leader();
        (0..self.plan.voters).find(|n| *n != leader).expect("more than one voter")
    }
    /// It ends, and stays down.
    pub fn down(&mut self, node: usize, death: Death) {
        self.nodes[node].held = true;
        self.crash(node, death);
    }
    /// It is started.
    pub fn up(&mut self, node: usize) {
        self.nodes[node].held = false;
        if self.nodes[node].running.is_none() {
            self.push(self.at_us, Ev::Start { node, life: self.nodes[node].life });
        }
    }
    /// Nothing passes between it and the others.
    pub fn isolate(&mut self, node: usize, on: bool) {
        for other in 0..self.nodes.len() {
            self.set_blocked(node, other, on);
            self.set_blocked(other, node, on);
        }
    }
    /// A client stays with a member.
    pub fn bind_client(&mut self, client: usize, node: usize) {
        self.clients[client].only_node = Some(node);
        if let Some(conn) = self.clients[client].conn {
            self.clients[client].lost();
            self.close_at_client(conn);
        }
    }
    /// A leader with transactions in its log that nobody else will have: isolated, with a client of its own.
    pub fn leader_with_a_tail(&mut self, n: usize) -> usize {
        let leader = self.the_leader();
        self.bind_client(0, leader);
        self.must("its client", |w| w.clients[0].is_attached());
        self.isolate(leader, true);
        let logged =
            |w: &World| w.nodes[leader].running.as_ref().map_or(0, |r| r.server.zab().last_logged().0);
        let upto = logged(self) + n as u64;
        self.must("a tail", |w| logged(w) >= upto);
        leader
    }
}
