//! The deterministic simulator: an ensemble of real members, their real logs on faulty disks, and clients, in one thread
//! from one seed (DESIGN section 8).
//!
//! Real here: `engine::server`, `engine::shard`, `wal`, the recovery of `net`. Played in virtual time: sockets, threads,
//! clocks, and the driver around the core, step by step as `net::server` has it.
//!
//! - `world`, `node`, `seat`, `network`, `client`: what there is; `chaos`: what goes wrong; `oracle`: what must hold;
//! - `scenarios`: the known bugs of other implementations, one by one; `mutations`: that the checks see broken rules.
//!
//! `SIM_SEED=0x..` replays one seed, `SIM_SEEDS=N` runs many (from `SIM_FROM` on, for `SIM_SECS`), `SIM_LIVE=1` prints the trace as it
//! grows.

mod chaos;
mod client;
mod clock;
mod dice;
mod errands;
mod journal;
mod membership;
mod mutations;
mod network;
mod node;
mod operator;
mod oracle;
mod plan;
mod ports;
mod recovery;
mod runs;
mod scenarios;
mod scenarios_members;
mod scenarios_sync;
mod script;
mod seat;
mod snapshots;
mod sum;
mod trace;
mod truth;
mod world;

/// What the included files of `net` call by these paths.
mod config {
    pub use net::config::Config;
}
mod ring {
    pub use net::ring::Wake;
}

use plan::Plan;
use runs::{Outcome, play};
use std::time::Instant;
use sum::Sum;

/// Seeds of every run of the suite.
const FIXED: u64 = 12;
/// Seeds that nobody has seen before.
const FRESH: u64 = 4;
/// No new seed is begun after this, or after `SIM_SECS`.
const BUDGET_SECS: u64 = 30;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    let hex = text.strip_prefix("0x").map(|h| u64::from_str_radix(h, 16));
    Some(hex.unwrap_or_else(|| text.parse()).unwrap_or_else(|e| panic!("{name}={text}: {e}")))
}

fn plan_of(seed: u64) -> Plan {
    Plan { live: std::env::var("SIM_LIVE").is_ok(), ..Plan::of(seed) }
}

fn must(seed: u64, played: Result<Outcome, String>) -> Outcome {
    match played {
        Ok(outcome) => outcome,
        Err(text) => panic!(
            "\n{text}\nreplay: SIM_SEED={seed:#x} cargo test -p net --release --test simulator -- seeds --nocapture\n"
        ),
    }
}

/// A fixed set and some fresh seeds; or what the environment asks for.
#[test]
fn seeds() {
    if let Some(seed) = number("SIM_SEED") {
        println!("{:?}", plan_of(seed));
        println!("{:?}", must(seed, play(plan_of(seed))));
        return;
    }
    let began = Instant::now();
    let fresh =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos() as u64);
    let fresh = number("SIM_FROM").unwrap_or(fresh & 0xffff_ffff_0000);
    let many = number("SIM_SEEDS");
    let budget = number("SIM_SECS").unwrap_or(if many.is_some() { u64::MAX } else { BUDGET_SECS });
    let seeds: Vec<u64> = match many {
        Some(n) => (0..n).map(|i| fresh + i).collect(),
        None => (0..FRESH).map(|i| fresh + i).chain(0..FIXED).collect(),
    };
    let (mut ran, mut failed) = (0u64, Vec::new());
    let mut sum = Sum::default();
    for seed in seeds {
        if began.elapsed().as_secs() > budget {
            break;
        }
        let played = play(plan_of(seed));
        ran += 1;
        match played {
            Ok(o) => sum.add(&o),
            Err(text) if many.is_some() => {
                let line = text.lines().rfind(|l| l.contains("seed 0x")).unwrap_or("").to_owned();
                println!("FAILED {line}");
                failed.push(seed);
            }
            Err(text) => {
                must(seed, Err(text));
            }
        }
    }
    println!("{}", sum.table(ran, fresh, began.elapsed().as_secs_f64()));
    assert!(failed.is_empty(), "failed seeds: {failed:#x?}");
}

/// The same seed is the same run.
#[test]
fn a_seed_is_the_whole_run() {
    for seed in [3, 17] {
        let short = |seed| Plan { chaos_ms: 1_500, operate_ms: 300, ..Plan::of(seed) };
        let (one, two) = (must(seed, play(short(seed))), must(seed, play(short(seed))));
        assert_eq!(one.hash, two.hash, "seed {seed}: two runs differ");
    }
}
