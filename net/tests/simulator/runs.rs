//! A whole run: faults, recovery, the last look.

use crate::client::Client;
use crate::oracle::survival::Survived;
use crate::plan::Plan;
use crate::say;
use crate::trace::Trace;
use crate::world::World;
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run that held tells.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hash: u64,
    pub committed: usize,
    pub survived: Survived,
    /// Reconfigurations that were committed, answers to their requests by code, servers set up with empty disks.
    pub reconfigs: u64,
    pub reconfig_answers: BTreeMap<i32, u64>,
    pub set_up: u64,
    pub epochs: usize,
    pub stats: crate::world::Stats,
    pub stale_syncs: u64,
    pub watches: u64,
    pub expired: u64,
    pub replies: u64,
    pub virtual_ms: u64,
}

/// The last lines of a trace that are printed.
const TAIL: usize = 150;

/// Plays a plan. A broken rule comes back as its text, with the end of the trace.
pub fn play(plan: Plan) -> Result<Outcome, String> {
    let seed = plan.seed;
    guarded(seed, plan, |world| {
        world.start_all();
        world.let_loose();
        world.run_for(world.plan.chaos_ms);
        recover(world);
    })
}

/// Plays a script in a world of its own.
pub fn guarded(seed: u64, plan: Plan, script: impl FnOnce(&mut World)) -> Result<Outcome, String> {
    let mut world = World::new(plan);
    let trace: Trace = world.trace.clone();
    let played = catch_unwind(AssertUnwindSafe(|| {
        script(&mut world);
        outcome(&mut world)
    }));
    played.map_err(|cause| {
        let text = cause
            .downcast_ref::<String>()
            .cloned()
            .or_else(|| cause.downcast_ref::<&str>().map(|s| (*s).to_owned()))
            .unwrap_or_else(|| "a panic without words".into());
        format!("{}seed {seed:#x}: {text}\n", trace.tail(TAIL))
    })
}

fn outcome(world: &mut World) -> Outcome {
    let mut stats = world.stats;
    for r in world.nodes.iter().filter_map(|n| n.running.as_ref()) {
        stats.installs += r.errands.installs;
        stats.rebuilds += r.errands.rebuilds;
        stats.snapshots += r.snapshots.taken;
        stats.elections += r.server.zab().counters().elections;
    }
    Outcome {
        hash: world.trace.hash(),
        committed: world.oracle.history.len(),
        survived: world.oracle.survival.figures(),
        reconfigs: world.oracle.history.reconfigs(),
        reconfig_answers: world.oracle.replies.reconfigs.clone(),
        set_up: world.operator.set_up,
        epochs: world.oracle.primaries.count(),
        stats,
        stale_syncs: world.oracle.replies.stale_syncs,
        watches: world.oracle.watches.fired,
        expired: world.clients.iter().map(|c| c.expired).sum(),
        replies: world.oracle.replies.checked,
        virtual_ms: world.at_us / 1000,
    }
}

/// Behind the faults: everybody serves, every client gets on, and then all of it is looked at.
pub fn recover(world: &mut World) {
    world.heal_all();
    if world.plan.operate_ms > 0 {
        // What was asked for before may still be done.
        world.run_for(world.plan.tick_ms * 20);
        world.set_up_members();
    }
    let limit = world.at_us + world.plan.recover_ms * 1000;
    let serves = world.run_until(limit, World::all_serve);
    assert!(serves, "liveness: not everybody serves: {}", who_serves(world));
    let before: Vec<u64> = world.clients.iter().map(|c| c.writes_acked).collect();
    let limit = world.at_us + world.plan.recover_ms * 1000;
    let done = world.run_until(limit, |w| {
        let on = |(c, b): (&Client, &u64)| c.is_operator || c.writes_acked >= b + 3;
        w.clients.iter().zip(&before).all(on) && w.all_serve()
    });
    assert!(done, "liveness: a client gets nowhere: {}", who_serves(world));
    for c in &mut world.clients {
        c.quiet = true;
    }
    // Sessions that nobody holds any more have expired by then.
    world.run_for(world.plan.session_ms as u64 * 3 + world.plan.tick_ms * 20);
    let limit = world.at_us + world.plan.recover_ms * 1000;
    let settled = world.run_until(limit, settled);
    assert!(settled, "liveness: not everybody is at the end: {}", who_serves(world));
    last_look(world);
}

fn settled(w: &World) -> bool {
    let calm = |n: usize| {
        let zab = w.nodes[n].running.as_ref().map(|r| r.server.zab());
        w.last_applied(n) == Some(w.oracle.history.last()) && zab.is_some_and(|z| z.next_members().is_none())
    };
    w.all_serve()
        && (0..w.nodes.len()).all(|n| !w.counts(n) || calm(n))
        && w.clients.iter().all(|c| c.asked.is_empty() && c.is_attached())
}

fn last_look(world: &mut World) {
    let members: Vec<usize> = (0..world.nodes.len()).filter(|n| world.counts(*n)).collect();
    let o = &mut world.oracle;
    let mut told = None;
    for n in members {
        let Some(r) = &world.nodes[n].running else { continue };
        o.state.whole(n, &r.server, &o.model, o.history.last());
        o.survival.look(&r.server, &r.ports.journal.truth, &o.model);
        let config = r.server.zab().members();
        assert_eq!(**told.get_or_insert_with(|| config.clone()), **config, "{}: other members", n + 1);
        o.config.settled(n, &r.server, &o.history);
    }
    o.survival.none_lost();
    o.sessions.settled(&o.model);
    for c in &world.clients {
        assert!(
            o.model.is_live(c.session),
            "client {}: its session {} has ended behind the faults",
            c.number,
            c.session
        );
        for s in &c.ended {
            assert!(!o.model.is_live(*s), "client {}: session {s} was ended and lives", c.number);
        }
    }
    say!(world.trace, "all members agree at {}", o.history.last());
}

/// Who is where, for a failure.
pub fn who_serves(world: &World) -> String {
    world
        .nodes
        .iter()
        .map(|n| match &n.running {
            None => format!("[{}: down] ", n.id),
            Some(r) => format!(
                "[{}: {:?}, members {:x} {:?}, next {:x?}, open {}, draining {}, applied {} of {}, epochs {:?}, {} queued, \
                 seats {:?}] ",
                n.id,
                r.server.role(),
                r.server.zab().members().version,
                r.server.zab().members().voters(),
                r.server.zab().next_members().map(|m| m.version),
                r.server.is_open(),
                r.server.is_draining(),
                r.server.db().last(),
                r.server.zab().last_logged(),
                r.server.zab().epochs(),
                r.server.gauges().queued,
                r.seats.iter().map(crate::seat::Seat::figures).collect::<Vec<_>>()
            ),
        })
        .collect::<String>()
        + &world
            .clients
            .iter()
            .map(|c| {
                format!(
                    "[client {}: conn {:?}, attached {}, {} in flight] ",
                    c.number,
                    c.conn,
                    c.is_attached(),
                    c.asked.len()
                )
            })
            .collect::<String>()
}
