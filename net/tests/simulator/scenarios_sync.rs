//! What a synchronisation must not take back, as scripts. Judged as in `scenarios`.

use crate::node::Running;
use crate::plan::Plan;
use crate::script::scene_once;
use crate::world::{Death, World};
use engine::zab::Role;

/// What a running member shows.
fn shows(w: &World, node: usize, so: impl Fn(&Running) -> bool) -> bool {
    w.nodes[node].running.as_ref().is_some_and(|r| so(r))
}
fn role(w: &World, node: usize) -> Option<Role> {
    w.nodes[node].running.as_ref().map(|r| r.server.role())
}

impl World {
    fn apart(&mut self, one: usize, other: usize, on: bool) {
        self.set_blocked(one, other, on);
        self.set_blocked(other, one, on);
    }
}

/// Two members have acknowledged what only one of them knows to be committed. That one leads on alone for a while, in an epoch
/// of which the other has nothing but its beginning; the other becomes the candidate of the third, which has less, and is
/// asked by the first for what it lacks before it has a quorum. What it has applied is less than both of them have.
/// What follows the snapshot is cut off so long after that has begun.
fn a_candidate_that_has_applied_less(w: &mut World, cut_us: u64) {
    w.all_up();
    w.writes(20);
    let first = w.the_leader();
    let [candidate, third] = [(first + 1) % 3, (first + 2) % 3];
    w.isolate(third, true);
    w.bind_client(0, first);
    w.until("its client", |w| w.clients[0].is_attached());
    w.until("what it has logged and does not know to be committed", |w| {
        shows(w, candidate, |r| r.server.zab().last_logged() > r.server.zab().committed())
    });
    w.set_blocked(first, candidate, true);
    w.until("the candidate to lose its leader", |w| role(w, candidate) == Some(Role::Looking));
    w.set_blocked(first, candidate, false);
    w.until("it to take the next epoch over", |w| {
        shows(w, candidate, |r| r.server.zab().epochs().current == 2)
    });
    w.set_blocked(first, candidate, true);
    w.until("the first to lead on alone", |w| shows(w, first, |r| r.server.zab().last_logged().epoch() == 2));
    w.isolate(first, true);
    assert!(shows(w, candidate, |r| r.server.db().last() < r.server.zab().last_logged()));
    w.apart(candidate, third, false);
    w.until("a promise", |w| shows(w, third, |r| r.server.zab().epochs().accepted == 3));
    w.set_blocked(candidate, third, true);
    w.until("a candidate", |w| shows(w, candidate, |r| r.server.zab().epochs().current == 3));
    assert_eq!(role(w, candidate), Some(Role::Discovering));
    w.apart(candidate, third, true);
    // Votes of the third are heard by the first, so that it follows.
    w.apart(first, third, false);
    w.apart(first, candidate, false);
    let loads = |r: &Running| r.server.is_loading().is_some();
    w.run_until(w.at_us + 200_000, |w| shows(w, first, loads) || w.serves(first));
    w.run_until(w.at_us + cut_us, |_| false);
    w.set_blocked(candidate, first, true);
    w.run_until(w.at_us + 200_000, |w| shows(w, first, |r| r.errands.installs > 0));
    w.down(first, Death::PowerCut);
    w.down(candidate, Death::PowerCut);
    w.until("the third to give up", |w| role(w, third) == Some(Role::Looking));
    w.free_all();
    w.up(first);
    w.until("two to serve", |w| w.serves(first) && w.serves(third));
    w.writes(20);
    w.up(candidate);
}

impl World {
    fn free_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.isolate(node, false);
        }
        self.clients[0].only_node = None;
    }
}

#[test]
fn a_snapshot_of_a_candidate_takes_nothing_back() {
    for n in 0..12 {
        let script = |w: &mut World| a_candidate_that_has_applied_less(w, 500 * n);
        if let Err(text) = scene_once(0x7a6e + n, |p| Plan { clients: 3, ..p }, script) {
            panic!("\n{text}\n");
        }
    }
}
