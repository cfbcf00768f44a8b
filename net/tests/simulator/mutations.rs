//! That the checks see what they are for: the driver breaks one rule, and the scenario of the bug that this once was fails.

use crate::plan::{Breach, Plan};
use crate::scenarios::{
    by_log, by_snapshot, cut_after_a_restart, joining_under_load, observer_at_a_new_relay, slow_relays,
    snapshot_without_its_leader, snapshots_of_a_tail, tails_and_elections,
};
use crate::scenarios_members::{grows_to_five, with_spares};
use crate::script::scene_once;
use crate::world::World;

/// Worlds in which a broken rule has to show at least once.
const TRIES: u64 = 12;

fn shows(breach: Breach, shape: fn(Plan) -> Plan, script: fn(&mut World)) {
    let mut first = None;
    for seed in 0..TRIES {
        // The rule kept: the same world holds.
        let kept = scene_once(seed, shape, script);
        assert!(kept.is_ok(), "without the breach: {}", kept.err().unwrap_or_default());
        let broken = scene_once(seed, |p| Plan { breach, ..shape(p) }, script);
        if let Err(text) = broken {
            first = text.lines().rfind(|l| l.contains("seed 0x")).map(str::to_owned);
            break;
        }
    }
    let Some(line) = first else { panic!("{breach:?}: nothing noticed it in {TRIES} worlds") };
    println!("{breach:?}: {line}");
}

#[test]
fn tickets_reported_early_are_noticed() {
    shows(Breach::EarlyTickets, |p| p, joining_under_load);
}
#[test]
fn epochs_ahead_of_the_log_are_noticed() {
    shows(Breach::EpochsFirst, |p| Plan { sync_us: 5_000, ..by_log(p) }, joining_under_load);
}
#[test]
fn a_snapshot_that_never_reached_the_disk_is_noticed() {
    shows(Breach::InstallWithoutFile, by_snapshot, snapshot_without_its_leader);
}
#[test]
fn cuts_that_were_not_logged_are_noticed() {
    shows(Breach::NoTruncateMark, |p| Plan { recover_ms: 5_000, think_us: 40_000, ..p }, cut_after_a_restart);
}
#[test]
fn a_cut_behind_what_follows_it_is_noticed() {
    shows(Breach::TwoWriters, |p| Plan { snapshot_every: 1_000_000, ..p }, tails_and_elections);
}
#[test]
fn a_diff_with_a_hole_is_noticed() {
    shows(
        Breach::HoleInDiff,
        |p| Plan { recover_ms: 5_000, think_us: 40_000, ..by_log(p) },
        joining_under_load,
    );
}
#[test]
fn a_stream_without_sessions_is_noticed() {
    shows(Breach::SnapWithoutSessions, by_snapshot, snapshot_without_its_leader);
}
#[test]
fn snapshots_of_what_is_not_committed_are_noticed() {
    shows(
        Breach::SnapshotsAnyTime,
        |p| Plan { snapshot_every: 1, sync_us: 20_000, ..p },
        snapshots_of_a_tail,
    );
}
#[test]
fn quorums_of_former_members_are_noticed() {
    shows(Breach::OldMembers, with_spares, grows_to_five);
}
#[test]
fn a_relay_that_skips_what_was_pending_is_noticed() {
    shows(Breach::RelaySkipsPending, slow_relays, observer_at_a_new_relay);
}
