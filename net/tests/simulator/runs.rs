//! A whole run: faults, recovery, the last look.

use crate::plan::Plan;
use crate::say;
use crate::trace::Trace;
use crate::world::World;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What a run that held tells.
#[derive(Clone, Debug)]
pub struct Outcome {
    pub hash: u64,
    pub committed: usize,
    pub acked: u64,
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
        acked: world.clients.iter().map(|c| c.writes_acked).sum(),
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
    let limit = world.at_us + world.plan.recover_ms * 1000;
    let serves = world.run_until(limit, World::all_serve);
    assert!(serves, "liveness: not everybody serves: {}", who_serves(world));
    let before: Vec<u64> = world.clients.iter().map(|c| c.writes_acked).collect();
    let limit = world.at_us + world.plan.recover_ms * 1000;
    let done = world.run_until(limit, |w| {
        w.clients.iter().zip(&before).all(|(c, b)| c.writes_acked >= b + 3) && w.all_serve()
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
    w.all_serve()
        && (0..w.nodes.len()).all(|n| w.last_applied(n) == Some(w.oracle.history.last()))
        && w.clients.iter().all(|c| c.asked.is_empty() && c.is_attached())
}

fn last_look(world: &mut World) {
    let o = &world.oracle;
    for (n, node) in world.nodes.iter().enumerate() {
        let Some(r) = &node.running else { continue };
        o.state.whole(n, &r.server, &o.model, o.history.last());
    }
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
                "[{}: {:?}, open {}, draining {}, applied {} of {}, epochs {:?}, {} queued, seats {:?}] ",
                n.id,
                r.server.role(),
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
