//! Known bugs of other implementations, as scripts: field notes, section 1, the id in the name.
//!
//! Each script leads into the situation, checks that it is there, and leaves the judgement to the oracle and to the
//! recovery that follows every script. Ids without a prefix are ZOOKEEPER issues. Every row of that table has one.

use crate::plan::Plan;
use crate::runs::recover;
use crate::script::{points, scene, scene_once};
use crate::truth::Truth;
use crate::world::{Death, World};
use engine::zab::{Reach, Role};
use wal::testing::FaultyDisk;

pub const NO_WINDOW: Reach = Reach { entries: 0, bytes: 0 };

fn as_it_is(plan: Plan) -> Plan {
    plan
}
/// Learners that lack anything are sent the log from disk.
pub fn by_log(plan: Plan) -> Plan {
    Plan { reach: NO_WINDOW, snap_permille: 0, snapshot_every: 1_000_000, ..plan }
}
/// Learners that lack anything are sent a snapshot.
pub fn by_snapshot(plan: Plan) -> Plan {
    Plan { reach: NO_WINDOW, snap_permille: 1000, ..plan }
}
fn busy(plan: Plan) -> Plan {
    Plan { clients: 4, think_us: 2_000, pipeline: 16, paths: 10, ..plan }
}

fn installs(w: &World) -> u64 {
    w.stats.installs
        + w.nodes.iter().filter_map(|n| n.running.as_ref()).map(|r| r.errands.installs).sum::<u64>()
}
fn goes_on(w: &World) -> u64 {
    w.nodes.iter().filter_map(|n| n.running.as_ref()).map(|r| r.errands.goes_on).sum()
}
fn rebuilds(w: &World) -> u64 {
    w.stats.rebuilds
        + w.nodes.iter().filter_map(|n| n.running.as_ref()).map(|r| r.errands.rebuilds).sum::<u64>()
}

/// A former leader that was restarted holds what nobody committed: it is cut exactly there.
pub fn cut_after_a_restart(w: &mut World) {
    w.all_up();
    w.writes(20);
    let n = w.dice.between(1, 3) as usize;
    let old = w.leader_with_a_tail(n);
    w.until("the others to elect", |w| w.leader().is_some_and(|l| l != old && w.serves(l)));
    w.down(old, Death::Kill);
    w.isolate(old, false);
    w.clients[0].only_node = None;
    w.writes(10);
    w.up(old);
    w.until("the former leader to follow", |w| w.serves(old));
    assert!(rebuilds(w) >= 1, "it was to be cut below what it had applied at its start");
    w.writes(10);
}

#[test]
fn z1154_z1156_a_restarted_leader_is_cut_exactly() {
    scene("z1154", as_it_is, cut_after_a_restart);
}

/// Snapshots all the time, on a leader whose tail is never committed.
pub fn snapshots_of_a_tail(w: &mut World) {
    w.all_up();
    w.writes(20);
    let old = w.leader_with_a_tail(3);
    w.run_for(300);
    w.down(old, Death::PowerCut);
    w.isolate(old, false);
    w.serving(2);
    w.clients[0].only_node = None;
    w.writes(5);
    w.up(old);
    w.run_for(1_000);
    w.down(old, Death::PowerCut);
    w.up(old);
    w.until("it to serve", |w| w.serves(old));
    w.writes(5);
}

#[test]
fn z1549_z2832_no_snapshot_holds_what_is_not_committed() {
    scene("z1549", |p| Plan { snapshot_every: 1, ..p }, snapshots_of_a_tail);
}

/// A leader that has given out all zxids of its epoch lets another one begin, as often as it comes to that.
pub fn many_short_epochs(w: &mut World) {
    w.all_up();
    w.writes(600);
    assert!(w.oracle.primaries.count() >= 5, "the counter goes on behind its end");
    w.serving(3);
}

pub fn short_epochs(plan: Plan) -> Plan {
    Plan { zxids_per_epoch: 120, ..busy(plan) }
}

#[test]
fn z1277_z2789_a_spent_counter_begins_another_epoch_in_order() {
    scene("z1277", short_epochs, many_short_epochs);
}

/// A snapshot of a leader that was never established, with a tail that nobody committed, is taken back again.
#[test]
fn z1549_a_snapshot_with_a_tail_is_taken_back() {
    scene(
        "z1549_a",
        |p| Plan { voters: 5, snapshot_every: 20, ..by_snapshot(p) },
        |w| {
            w.all_up();
            w.writes(60);
            let old = w.leader_with_a_tail(3);
            w.run_for(100);
            let others: Vec<usize> = (0..5).filter(|n| *n != old).collect();
            w.down(old, Death::Kill);
            for node in &others {
                w.down(*node, Death::Kill);
            }
            w.isolate(old, false);
            w.clients[0].only_node = None;
            let before = installs(w);
            for node in [old, others[0], others[1]] {
                w.up(node);
            }
            w.until("a snapshot to be installed", |w| installs(w) > before);
            let has = |n: usize| w.nodes[n].running.as_ref().is_some_and(|r| r.errands.installs > 0);
            let (first, second) =
                if has(others[0]) { (others[0], others[1]) } else { (others[1], others[0]) };
            for node in [old, second, first] {
                w.down(node, Death::PowerCut);
            }
            for node in [others[2], others[3], second] {
                w.up(node);
            }
            w.serving(3);
            w.writes(10);
            w.up(first);
            w.until("it to serve", |w| w.serves(first));
            w.down(first, Death::PowerCut);
            w.up(first);
            w.until("it to serve again", |w| w.serves(first));
            w.up(old);
        },
    );
}

/// All power fails while an ensemble is being created, when only its first leader has the first epoch on disk: it is none
/// the less one whose members have nothing, and begins again. (Seed 0x2dc6de of the runs; it waited for ever.)
#[test]
fn z1653_a_creation_that_was_cut_short_begins_again() {
    scene(
        "creation",
        |p| Plan { sync_us: 10_000, ..p },
        |w| {
            w.start_all();
            let took = |w: &World, n: usize| {
                w.nodes[n].running.as_ref().is_some_and(|r| r.ports.journal.truth.epochs.current == 1)
            };
            w.until("the first epoch", |w| (0..3).any(|n| took(w, n)));
            assert_eq!((0..3).filter(|n| took(w, *n)).count(), 1);
            w.cut_all();
            for node in 0..3 {
                w.up(node);
            }
            w.until("everybody to serve", World::all_serve);
            w.writes(10);
        },
    );
}

/// Every operation of a disk during a synchronisation is the last one: what is left can be started from.
pub fn crash_matrix(shape: fn(Plan) -> Plan, upto: u64, on_leader: bool, name: &str) {
    for point in points(upto) {
        let seed = 0xc0de + point;
        let played = scene_once(seed, shape, |w| crash_in_sync(w, point, on_leader));
        if let Err(text) = played {
            panic!("\n{text}\n{name}: crash point {point}, leader too: {on_leader}\n");
        }
    }
}

fn crash_in_sync(w: &mut World, point: u64, on_leader: bool) {
    w.all_up();
    w.writes(15);
    let late = w.a_follower();
    w.down(late, Death::PowerCut);
    w.writes(25);
    if on_leader {
        let leader = w.the_leader();
        w.nodes[leader].disk.fail_power_in(point);
    }
    w.nodes[late].disk.fail_power_in(point);
    w.up(late);
    w.run_for(400);
    // Everybody ends; a quorum of any two comes back first.
    for node in 0..w.nodes.len() {
        w.down(node, Death::PowerCut);
    }
    let last = w.dice.below(w.nodes.len());
    for node in 0..w.nodes.len() {
        w.nodes[node].disk.clear_faults();
        if node != last {
            w.up(node);
        }
    }
    w.serving(2);
    w.writes(5);
    w.up(last);
}

#[test]
fn z1653_z2354_any_crash_in_a_diff_can_be_started_from() {
    crash_matrix(by_log, 24, false, "z1653");
}
#[test]
fn z3911_z4643_z4646_z4785_any_crash_of_both_in_a_diff_loses_nothing() {
    crash_matrix(|p| Plan { sync_us: 5_000, ..by_log(p) }, 16, true, "z3911");
}
#[test]
fn z2872_z3023_any_crash_in_a_snap_can_be_started_from() {
    crash_matrix(by_snapshot, 40, false, "z2872");
}
#[test]
fn z3104_any_crash_of_both_in_a_snap_loses_nothing() {
    crash_matrix(by_snapshot, 24, true, "z3104");
}

/// A crash at every disk operation of a server that is cut.
#[test]
fn z1154_any_crash_in_a_trunc_can_be_started_from() {
    for point in points(20) {
        let played = scene_once(0x7c + point, as_it_is, |w| {
            w.all_up();
            w.writes(15);
            let old = w.leader_with_a_tail(2);
            w.run_for(50);
            w.down(old, Death::Kill);
            w.isolate(old, false);
            w.serving(2);
            w.clients[0].only_node = None;
            w.writes(10);
            w.nodes[old].disk.fail_power_in(point);
            w.up(old);
            w.run_for(500);
            for node in 0..w.nodes.len() {
                w.down(node, Death::PowerCut);
            }
            for node in 0..w.nodes.len() {
                w.nodes[node].disk.clear_faults();
                w.up(node);
            }
        });
        if let Err(text) = played {
            panic!("\n{text}\ncrash point {point}\n");
        }
    }
}

/// A server that comes back finds its way into an ensemble that stands, however many elections were before.
#[test]
fn z1732_z1818_a_restarted_server_always_joins() {
    scene("z1732", as_it_is, |w| {
        w.all_up();
        for _ in 0..4 {
            let leader = w.the_leader();
            w.crash(leader, Death::Kill);
            w.serving(2);
            let began = w.at_us;
            w.up(leader);
            w.until("it to join", |w| w.serves(leader));
            let took_ms = (w.at_us - began) / 1000;
            assert!(took_ms < 3_000, "joining took {took_ms} ms");
            w.writes(5);
        }
    });
}

/// A follower ends at any moment around the end of a session with ephemerals.
#[test]
fn z2355_ephemerals_of_a_closed_session_are_gone_everywhere() {
    for moment in 0..12 {
        let played = scene_once(
            0x2355 + moment,
            |p| Plan { session_ms: 1_000, ..p },
            |w| {
                w.all_up();
                w.writes(30);
                let late = w.a_follower();
                let quiet = w.clients[0].session;
                w.clients[0].silent_until_us = w.at_us + 4_000_000;
                w.until("the session to expire", |w| !w.oracle.model.is_live(quiet));
                w.run_for(moment / 3);
                w.down(late, if moment % 2 == 0 { Death::Kill } else { Death::PowerCut });
                w.writes(5);
                w.up(late);
            },
        );
        if let Err(text) = played {
            panic!("\n{text}\nmoment {moment}\n");
        }
    }
}

/// The state is kept through elections: what is logged and not applied, applied and not committed, is sorted out.
pub fn tails_and_elections(w: &mut World) {
    w.all_up();
    for _ in 0..3 {
        w.writes(30);
        let old = w.leader_with_a_tail(3);
        w.run_for(2_000);
        w.isolate(old, false);
        w.clients[0].only_node = None;
        w.serving(3);
        w.writes(10);
        w.crash(old, Death::PowerCut);
        w.up(old);
        w.serving(3);
    }
}

#[test]
fn z2678_z2845_the_state_survives_elections() {
    scene("z2678", busy, tails_and_elections);
}

/// A leader whose log on disk holds voided transactions serves a DIFF from it.
pub fn diff_over_a_cut(w: &mut World) {
    w.all_up();
    w.writes(20);
    let old = w.leader_with_a_tail(3);
    w.run_for(2_000);
    let late = (0..3).find(|n| *n != old && Some(*n) != w.leader()).expect("a third");
    w.isolate(old, false);
    w.clients[0].only_node = None;
    w.serving(3);
    w.down(late, Death::Kill);
    w.writes(30);
    // The one that was cut has to lead: the other one goes and comes back.
    for _ in 0..20 {
        let leader = w.the_leader();
        if leader == old {
            break;
        }
        w.crash(leader, Death::Kill);
        w.run_for(50);
        w.up(leader);
        w.serving(2);
        w.writes(3);
    }
    w.up(late);
    w.until("the late one to serve", |w| w.serves(late));
    w.writes(5);
}

#[test]
fn z2846_a_diff_from_disk_holds_only_what_is_committed() {
    scene("z2846", by_log, diff_over_a_cut);
}

/// A leader gives up as soon as its followers are gone.
#[test]
fn z3109_a_leader_without_a_quorum_gives_up_at_once() {
    scene("z3109", as_it_is, |w| {
        w.all_up();
        w.writes(5);
        let leader = w.the_leader();
        let began = w.at_us;
        for node in (0..3).filter(|n| *n != leader) {
            w.nodes[node].held = true;
            w.crash(node, Death::Kill);
        }
        w.until("it to give up", |w| {
            w.nodes[leader].running.as_ref().is_some_and(|r| r.server.role() == Role::Looking)
        });
        let limit_ms = 2 * w.plan.tick_ms * 5;
        assert!(w.at_us - began < limit_ms * 1000, "it led on for {} us", w.at_us - began);
    });
}

/// Snapshots between the parts of multis, new sessions and their ephemerals; then all power fails.
pub fn snapshots_under_load(w: &mut World) {
    w.all_up();
    for _ in 0..4 {
        w.writes(40);
        for node in 0..w.nodes.len() {
            w.down(node, Death::PowerCut);
        }
        for node in 0..w.nodes.len() {
            w.up(node);
        }
        w.serving(2);
    }
    w.serving(3);
}

#[test]
fn z3127_z3144_snapshots_hold_whole_transactions_and_their_sessions() {
    scene("z3127", |p| Plan { snapshot_every: 3, ..busy(p) }, snapshots_under_load);
}

/// ACLs of every kind of snapshot: from disk, and streamed while they change.
pub fn snapshots_again_and_again(w: &mut World) {
    w.all_up();
    w.writes(100);
    let late = w.a_follower();
    for _ in 0..3 {
        w.down(late, Death::PowerCut);
        w.writes(50);
        w.up(late);
        w.until("it to serve", |w| w.serves(late));
    }
    assert!(installs(w) >= 3);
}

pub fn many_acls(plan: Plan) -> Plan {
    Plan { snapshot_every: 10, paths: 40, ..busy(by_snapshot(plan)) }
}

#[test]
fn z3306_z4689_z4846_every_node_of_a_snapshot_has_its_acl() {
    scene("z3306", many_acls, snapshots_again_and_again);
}

/// A learner has a snapshot, its leader ends before NEWLEADER; a power cut follows.
pub fn snapshot_without_its_leader(w: &mut World) {
    w.all_up();
    w.writes(30);
    let late = w.a_follower();
    w.down(late, Death::PowerCut);
    w.writes(30);
    let before = installs(w);
    w.up(late);
    w.until("the snapshot to be installed", |w| installs(w) > before);
    let leader = w.leader();
    if let Some(leader) = leader {
        w.down(leader, Death::Kill);
    }
    w.run_for(300);
    w.crash(late, Death::PowerCut);
    w.up(late);
    w.run_for(500);
    if let Some(leader) = leader {
        w.up(leader);
    }
    w.serving(3);
    w.crash(late, Death::PowerCut);
    w.up(late);
    w.serving(3);
}

#[test]
fn z3642_a_snapshot_that_was_taken_over_is_on_disk() {
    scene("z3642", by_snapshot, snapshot_without_its_leader);
}

/// A member that answers nothing delays nobody's election.
pub fn election_beside_a_dead_peer(w: &mut World) {
    w.all_up();
    w.writes(5);
    let leader = w.the_leader();
    let dead = (0..5).find(|n| *n != leader).expect("another");
    w.isolate(dead, true);
    w.run_for(3_000);
    let leader = w.the_leader();
    w.down(leader, Death::Kill);
    let began = w.at_us;
    w.until("another leader", |w| w.leader().is_some_and(|l| l != leader && w.serves(l)));
    let took_ms = (w.at_us - began) / 1000;
    assert!(took_ms < 1_500, "the election took {took_ms} ms");
    w.isolate(dead, false);
}

pub fn of_five(plan: Plan) -> Plan {
    Plan { voters: 5, think_us: 20_000, ..plan }
}

#[test]
fn z3756_z2930_a_dead_peer_does_not_delay_an_election() {
    scene("z3756", of_five, election_beside_a_dead_peer);
}

/// A server without anything joins when no log reaches back to the beginning.
pub fn newcomer(w: &mut World) {
    w.all_up();
    w.writes(300);
    let late = w.a_follower();
    w.down(late, Death::Kill);
    // The others commit without it: what it was needed for is on their disks by then.
    w.writes(50);
    w.nodes[late].disk = FaultyDisk::new(w.dice.next());
    w.nodes[late].stable = Truth::default();
    w.writes(250);
    w.up(late);
    w.until("it to serve", |w| w.serves(late));
}

pub fn short_logs(plan: Plan) -> Plan {
    Plan { snapshot_every: 20, reach: NO_WINDOW, snap_permille: 0, recover_ms: 10_000, ..busy(plan) }
}

#[test]
fn z4352_a_newcomer_gets_all_of_the_history() {
    scene("z4352", short_logs, newcomer);
}

/// Learners join and leave while everybody writes as fast as they can.
pub fn joining_under_load(w: &mut World) {
    w.all_up();
    for _ in 0..6 {
        let late = w.a_follower();
        if w.dice.permille(500) {
            w.crash(late, Death::Kill);
            w.up(late);
        } else {
            for link in 0..w.net.links.len() {
                if w.net.links[link].ends.iter().any(|e| e.node == late) {
                    w.reset_link(link);
                }
            }
        }
        w.writes(60);
    }
}

/// One snapshot is enough, however much is written while it is sent: it is gone on with from the log.
#[test]
fn z2846_a_snapshot_under_steady_writes_is_sent_once() {
    let steady = |p| Plan { sync_us: 100, wire_us: 50, ..busy(by_snapshot(p)) };
    scene("z2846_b", steady, |w| {
        w.all_up();
        w.writes(200);
        let late = w.a_follower();
        w.down(late, Death::PowerCut);
        w.writes(30);
        let (before, went_on) = (installs(w), goes_on(w));
        w.up(late);
        w.until("it to serve", |w| w.serves(late));
        assert_eq!(installs(w), before + 1, "one snapshot");
        assert!(goes_on(w) > went_on, "the window did not hold what was written meanwhile");
        w.writes(30);
    });
}

#[test]
fn z4394_z4685_commits_during_a_synchronisation_find_their_proposals() {
    scene("z4394", busy, joining_under_load);
}
#[test]
fn z4712_z4541_z4502_a_slow_disk_writes_nothing_of_a_former_role() {
    scene(
        "z4712",
        |p| Plan { sync_us: 40_000, ..busy(p) },
        |w| {
            joining_under_load(w);
            let old = w.leader_with_a_tail(3);
            w.run_for(1_500);
            w.isolate(old, false);
            w.clients[0].only_node = None;
            w.serving(3);
            w.crash(old, Death::PowerCut);
            w.up(old);
        },
    );
}

/// Who was synchronised under load leads next, and synchronises others.
#[test]
fn z4925_what_a_synchronisation_committed_is_handed_on() {
    scene(
        "z4925",
        |p| Plan { reach: Reach { entries: 50, bytes: 1 << 30 }, ..busy(p) },
        |w| {
            w.all_up();
            for _ in 0..3 {
                let late = w.a_follower();
                w.crash(late, Death::Kill);
                w.writes(20);
                w.up(late);
                w.until("it to serve", |w| w.serves(late));
                let leader = w.the_leader();
                w.crash(leader, Death::Kill);
                w.serving(2);
                w.up(leader);
                w.writes(20);
                w.serving(3);
            }
        },
    );
}

/// Requests of every kind in flight, on every server: all are answered. The seed is one that hung.
pub fn answers_for_everybody(w: &mut World) {
    w.all_up();
    let before: Vec<u64> = w.clients.iter().map(|c| c.answered).collect();
    w.until("answers for everybody", |w| {
        w.clients.iter().zip(&before).all(|(c, b)| c.is_operator || c.answered > b + 200)
    });
}

pub fn far_clients(plan: Plan) -> Plan {
    Plan { wire_us: 5_000, pipeline: 16, clients: 5, recover_ms: 20_000, ..plan }
}

#[test]
fn z4537_no_session_stalls() {
    for seed in [0x251, 1, 2] {
        if let Err(text) = scene_once(seed, far_clients, answers_for_everybody) {
            panic!("\n{text}\n");
        }
    }
}

/// An observer joins while proposals are pending.
#[test]
fn z5088_an_observer_gets_what_was_pending_when_it_came() {
    scene(
        "z5088",
        |p| Plan { observers: 1, sync_us: 20_000, ..busy(p) },
        |w| {
            w.all_up();
            for _ in 0..4 {
                w.writes(20);
                w.crash(3, Death::Kill);
                w.run_for(20);
                w.up(3);
                w.until("the observer to serve", |w| w.serves(3));
                let upto = w.oracle.history.last();
                w.until("the observer to apply", |w| w.last_applied(3) >= Some(upto));
            }
        },
    );
}

/// An observer comes to a follower that has just begun to serve observers, with proposals pending in between.
pub fn observer_at_a_new_relay(w: &mut World) {
    w.all_up();
    w.writes(20);
    for _ in 0..3 {
        let leader = w.the_leader();
        let relay = w.masters_of(3, leader)[0];
        w.down(relay, Death::Kill);
        w.down(3, Death::Kill);
        w.writes(5);
        w.up(relay);
        w.until("the follower to follow", |w| w.serves(relay));
        w.up(3);
        w.until("the observer to serve", |w| w.serves(3));
        let served = |l: &crate::network::Link| l.ends[0].node == 3 && l.ends[1].node == relay && l.is_up();
        assert!(w.net.links.iter().any(served), "another than the new follower serves it");
        let upto = w.oracle.history.last();
        w.until("the observer to apply", |w| w.last_applied(3) >= Some(upto));
    }
}

pub fn slow_relays(plan: Plan) -> Plan {
    Plan { observers: 1, relays: true, sync_us: 200_000, recover_ms: 20_000, ..busy(plan) }
}

#[test]
fn z5088_a_relay_tells_observers_what_was_pending_when_it_began() {
    scene("relay", slow_relays, observer_at_a_new_relay);
}

/// Observers at followers that come and go, with everything else that goes wrong.
#[test]
fn observers_at_followers_survive_whoever_ends() {
    scene(
        "relays",
        |p| Plan { observers: 2, relays: true, reach: Reach { entries: 20, bytes: 1 << 30 }, ..busy(p) },
        |w| {
            w.all_up();
            w.writes(30);
            for round in 0..4 {
                let leader = w.the_leader();
                let ends = if round % 2 == 0 { leader } else { w.masters_of(3, leader)[0] };
                w.crash(ends, Death::Kill);
                w.writes(10);
                w.up(ends);
                w.until("everybody to serve", World::all_serve);
            }
            assert!(w.stats.relayed > 0, "no observer was served by a follower");
        },
    );
}

/// A follower with requests of its clients in flight is sent a snapshot: nothing of them is lost for good.
#[test]
fn keeper_112405_110179_requests_survive_a_snapshot_in_between() {
    scene(
        "keeper",
        |p| busy(by_snapshot(p)),
        |w| {
            w.all_up();
            let late = w.a_follower();
            for client in 0..2 {
                w.bind_client(client, late);
            }
            for _ in 0..4 {
                let before: Vec<u64> = w.clients.iter().map(|c| c.writes_acked).collect();
                w.isolate(late, true);
                w.run_for(1_500);
                w.isolate(late, false);
                w.until("writes through it", |w| (0..2).all(|c| w.clients[c].writes_acked > before[c] + 3));
            }
            for c in &mut w.clients {
                c.only_node = None;
            }
        },
    );
}

/// All power fails at once, again and again.
#[test]
fn power_cuts_of_all_members_lose_nothing_acknowledged() {
    scene(
        "power",
        |p| Plan { voters: 5, snapshot_every: 50, ..busy(p) },
        |w| {
            snapshots_under_load(w);
            recover(w);
            for c in &mut w.clients {
                c.quiet = false;
            }
        },
    );
}
