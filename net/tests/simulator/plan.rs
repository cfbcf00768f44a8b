//! What a run is made of, drawn from its seed: sizes, paces, faults.
//!
//! Not here: what happens in it (`world`, `chaos`).

use crate::dice::Dice;
use engine::zab::Reach;

/// A rule that the driver breaks on purpose, to show that the checks see it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Breach {
    #[default]
    None,
    /// Tickets are reported when their group starts to be written.
    EarlyTickets,
    /// The file of epochs is written ahead of the log before it.
    EpochsFirst,
    /// A received snapshot is installed and never becomes a file.
    InstallWithoutFile,
    /// Cuts of the history are not logged.
    NoTruncateMark,
    /// A cut reaches the log behind the transaction that follows it, as from two writers.
    TwoWriters,
    /// A DIFF from the log lacks its second transaction.
    HoleInDiff,
    /// A snapshot is streamed without the sessions.
    SnapWithoutSessions,
    /// Snapshots of a state that no role has confirmed, valid before the log is durable.
    SnapshotsAnyTime,
    /// The members of the last reconfiguration are forgotten by all that tell them: files and log.
    OldMembers,
    /// A follower's observers are not told what was pending when it began to serve them.
    RelaySkipsPending,
    /// A member that has something to say to one that is cut off waits for it.
    BlockingDial,
    /// A snapshot is read without the ACLs of its nodes.
    SnapWithoutAcls,
    /// One of many forwarded requests is lost on the way to the leader.
    LosesForwarded,
    /// One of many COMMITs is lost on the way to a learner.
    SkipsCommit,
    /// A learner whose history the window does not reach gets a DIFF with nothing in it.
    EmptyDiff,
}

/// How often what goes wrong, in events per minute of virtual time.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    pub kill: u64,
    pub power_cut: u64,
    pub power_cut_all: u64,
    pub partition: u64,
    pub reset: u64,
    pub pause: u64,
    pub disk_error: u64,
    pub client_cut: u64,
    pub clock_jump: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub voters: usize,
    pub observers: usize,
    /// Servers with empty disks that no member knows of at first.
    pub spares: usize,
    /// Between two acts of the operator who changes the members, virtual ms; 0: they never change.
    pub operate_ms: u64,
    /// `standaloneEnabled=false`: a single voter may be left.
    pub lone_voter: bool,
    /// No file follows the members.
    pub read_only_config: bool,
    /// Followers serve observers.
    pub relays: bool,
    /// What a leader gives out before another epoch begins.
    pub zxids_per_epoch: u32,
    pub shards: usize,
    pub clients: usize,
    /// How long faults go on, virtual ms.
    pub chaos_ms: u64,
    /// How long the ensemble has to recover behind them, and a step of a script at most, virtual ms.
    pub recover_ms: u64,
    pub rates: Rates,
    pub tick_ms: u64,
    pub reach: Reach,
    pub snapshot_every: u64,
    /// Streams of 1000 that are snapshots although the log would do.
    pub snap_permille: u64,
    pub sync_us: u64,
    pub wire_us: u64,
    /// Between a client's requests.
    pub think_us: u64,
    /// Requests of one client in flight.
    pub pipeline: usize,
    pub session_ms: i32,
    /// Places in a shard's ring to the core.
    pub ring: usize,
    /// Clocks run up to so many millionths too fast or too slow.
    pub drift_ppm: u64,
    pub paths: usize,
    pub breach: Breach,
    pub live: bool,
}

impl Plan {
    /// The run of a seed.
    pub fn of(seed: u64) -> Plan {
        let mut d = Dice::new(seed);
        let voters = *d.pick(&[1, 3, 3, 3, 3, 5, 5]);
        let calm = d.permille(150);
        let mut rate = |max: u64| if calm || d.permille(300) { 0 } else { d.between(1, max) };
        let rates = Rates {
            kill: rate(20),
            power_cut: rate(20),
            power_cut_all: rate(5),
            partition: rate(20),
            reset: rate(40),
            pause: rate(15),
            disk_error: rate(6),
            client_cut: rate(40),
            clock_jump: rate(6),
        };
        // Dice of its own: what was added later moves nothing that was drawn before.
        let mut late = Dice::new(seed ^ 0x0b5e_12e1);
        let stormy = late.permille(200);
        let power_cut_all = if stormy { late.between(10, 40) } else { rates.power_cut_all };
        let rates = Rates { power_cut_all, ..rates };
        let changing = late.permille(500);
        let watched = if d.permille(300) { 1 } else { 0 };
        Plan {
            seed,
            voters,
            observers: if late.permille(200) { 2 } else { watched },
            spares: if changing { late.between(0, 2) as usize } else { 0 },
            operate_ms: if changing { late.between(200, 3_000) } else { 0 },
            lone_voter: late.permille(500),
            read_only_config: false,
            relays: late.permille(500),
            zxids_per_epoch: if late.permille(150) { late.between(100, 3_000) as u32 } else { u32::MAX - 16 },
            shards: d.between(1, 2) as usize,
            clients: d.between(2, 5) as usize,
            chaos_ms: d.between(5_000, 40_000),
            recover_ms: 60_000,
            rates,
            tick_ms: *d.pick(&[100, 200, 500]),
            reach: Reach {
                entries: *d.pick(&[0, 3, 20, 200, 100_000]),
                bytes: *d.pick(&[300, 20_000, 1 << 30]),
            },
            snapshot_every: *d.pick(&[10, 50, 300, 1_000_000]),
            snap_permille: *d.pick(&[0, 300, 1000]),
            sync_us: *d.pick(&[100, 1_000, 10_000]),
            wire_us: *d.pick(&[50, 500, 5_000]),
            think_us: *d.pick(&[2_000, 10_000, 50_000]),
            pipeline: *d.pick(&[1, 4, 16]),
            session_ms: *d.pick(&[2_000, 4_000, 10_000]),
            ring: *d.pick(&[1, 4, 1 << 16]),
            drift_ppm: *d.pick(&[0, 1_000, 50_000]),
            paths: *d.pick(&[3, 10, 60]),
            breach: Breach::None,
            live: false,
        }
    }

    /// Without faults: for scripts.
    pub fn calm(seed: u64) -> Plan {
        let none = Rates {
            kill: 0,
            power_cut: 0,
            power_cut_all: 0,
            partition: 0,
            reset: 0,
            pause: 0,
            disk_error: 0,
            client_cut: 0,
            clock_jump: 0,
        };
        Plan {
            voters: 3,
            observers: 0,
            spares: 0,
            operate_ms: 0,
            lone_voter: false,
            relays: false,
            zxids_per_epoch: u32::MAX - 16,
            rates: none,
            drift_ppm: 0,
            tick_ms: 200,
            wire_us: 200,
            sync_us: 500,
            clients: 3,
            think_us: 5_000,
            pipeline: 16,
            session_ms: 4_000,
            reach: Reach { entries: 100_000, bytes: 1 << 30 },
            snapshot_every: 300,
            ..Plan::of(seed)
        }
    }
}
