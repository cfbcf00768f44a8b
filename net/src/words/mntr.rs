//! `mntr`: the figures that monitoring agents read, and the structs that shards, core and log measure them into.
//!
//! Not here: the measuring. `ROWS` is the one list of what is printed and which field feeds it. A figure of ZooKeeper
//! that Serval has no counterpart for (its commit processor's queues, its response caches ...) is left out, never made
//! up. What is always the same here (no TLS handshakes, no throttle) is printed as that, and a gauge that every agent
//! expects but nobody measures yet as ZooKeeper's value for "none".
//! Invariant: every gauge of the fact sheet's "always" row is printed.

use super::VERSION;
use super::java;
use super::server::{Latency, Mode, ServerInfo, Sizes, or_minus_one};
use super::summary::Summary;
use engine::ids::Zxid;
use engine::server::{Latencies, Spread};
use engine::zab::Learners;
use std::fmt::Write;

/// What one shard measures; the figures of all shards are merged for a report.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardMetrics {
    /// From reading a request to writing its reply.
    pub latency: Latency,
    /// Packets read from and written to clients, events included.
    pub received: u64,
    pub sent: u64,
    /// Connections open now.
    pub connections: u64,
    /// Data and child watches, one-shot and persistent.
    pub watches: u64,
    /// Bytes read from and written to clients, events included.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Closed at accept: over a limit of connections.
    pub connections_rejected: u64,
    /// Closed because they read too slowly.
    pub connections_dropped: u64,
    /// Auth packets that proved nothing.
    pub auth_failed: u64,
}

impl ShardMetrics {
    /// Takes another shard's figures in.
    pub fn merge(&mut self, o: &ShardMetrics) {
        self.latency.merge(&o.latency);
        self.received += o.received;
        self.sent += o.sent;
        self.connections += o.connections;
        self.watches += o.watches;
        self.bytes_received += o.bytes_received;
        self.bytes_sent += o.bytes_sent;
        self.connections_rejected += o.connections_rejected;
        self.connections_dropped += o.connections_dropped;
        self.auth_failed += o.auth_failed;
    }
}

/// What the core measures or knows.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CoreMetrics {
    pub zxid: Zxid,
    /// As ZooKeeper counts: the root twice.
    pub znodes: u64,
    pub ephemerals: u64,
    /// Bytes of paths and data, as ZooKeeper estimates them.
    pub data_bytes: u64,
    pub sessions: u64,
    /// Requests handed to the core and not yet answered.
    pub outstanding: u64,
    pub stale_sessions_expired: u64,
    /// Requests dropped because their connection no longer owned its session.
    pub stale_requests_dropped: u64,
    pub digest_mismatches: u64,
    /// A standalone server has none; a leader's proposals and commits.
    pub proposals: u64,
    pub commits: u64,
    pub proposal_size: Sizes,
    /// Sessions that only this server knows; not among `sessions`.
    pub local_sessions: u64,
    /// Clients that asked for a session, those of them that had one, and those that learners asked about.
    pub connects: u64,
    pub reconnects: u64,
    pub claims: u64,
}

/// What a member of an ensemble knows of it. Times in ms.
#[derive(Clone, Debug, Default)]
pub struct EnsembleMetrics {
    /// What it does and how far it has come, such as `following - broadcast`.
    pub peer_state: &'static str,
    /// Members with a vote.
    pub quorum_size: u64,
    pub looking: u64,
    /// Learners that were sent what they lack, or everything.
    pub diffs: u64,
    pub snaps: u64,
    pub election_time: Summary,
    pub follower_sync_time: Summary,
    pub observer_sync_time: Summary,
    /// From when it began to look for a leader until it served, and the same where it came to lead itself.
    pub unavailable_time: Summary,
    pub leader_unavailable_time: Summary,
    /// The leader's own figures.
    pub leader: Option<LeaderMetrics>,
    /// Observers that a follower serves.
    pub observers: u64,
    /// Transactions on their way.
    pub latencies: Latencies,
}

/// What a leader knows of its learners.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LeaderMetrics {
    pub learners: Learners,
    /// Since it leads, ms.
    pub uptime_ms: u64,
}

/// What log and snapshots cost. Times in ms.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct DiskMetrics {
    /// Syncs of the log.
    pub sync_time: Summary,
    /// Syncs that took longer than `fsync.warningthresholdms`.
    pub slow_syncs: u64,
    /// Txns that one sync made durable.
    pub group_size: Summary,
    pub snapshot_time: Summary,
    /// At start: the whole, reading the snapshot, replaying the log.
    pub init_time: Summary,
    pub snapshot_load_time: Summary,
    pub txns_load_time: Summary,
    pub txns_loaded: Summary,
}

/// Everything that `mntr` prints.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub mode: Mode,
    pub uptime_ms: u64,
    /// Open file descriptors of the process, and their limit.
    pub open_files: u64,
    pub max_files: u64,
    /// All shards' figures, merged.
    pub shards: ShardMetrics,
    pub core: CoreMetrics,
    pub disk: DiskMetrics,
    /// `None`: it serves alone.
    pub ensemble: Option<EnsembleMetrics>,
}

impl Metrics {
    /// The part of it that `srvr` and `stat` print.
    pub fn info(&self) -> ServerInfo {
        ServerInfo {
            mode: self.mode,
            zxid: self.core.zxid,
            latency: self.shards.latency,
            received: self.shards.received,
            sent: self.shards.sent,
            connections: self.shards.connections,
            outstanding: self.core.outstanding,
            node_count: self.core.znodes,
            proposals: self.core.proposal_size,
        }
    }
}

/// How a row takes its figure out of the metrics.
enum Feed {
    Count(fn(&Metrics) -> u64),
    Double(fn(&Metrics) -> f64),
    Summary(fn(&Metrics) -> &Summary),
    /// The same with percentiles.
    Spread(fn(&Latencies) -> &Spread),
    /// On the leader of an ensemble.
    Leader(fn(&LeaderMetrics) -> usize),
    /// The same, of its proposals.
    Proposals(fn(&Sizes) -> Option<u64>),
    /// The same on every server that lacks the feature.
    Always(&'static str),
    /// A gauge that agents expect and nobody measures: ZooKeeper's own value for "none yet".
    NotMeasured(&'static str),
}
use Feed::{Always, Count, Double, Leader, NotMeasured, Proposals};

/// ZooKeeper's name (without `zk_`), and what feeds it.
const ROWS: &[(&str, Feed)] = &[
    // Gauges that every server has.
    ("avg_latency", Double(|m| m.shards.latency.average_ms())),
    ("max_latency", Count(|m| m.shards.latency.max_ms)),
    ("min_latency", Count(|m| m.shards.latency.min_ms)),
    ("packets_received", Count(|m| m.shards.received)),
    ("packets_sent", Count(|m| m.shards.sent)),
    ("num_alive_connections", Count(|m| m.shards.connections)),
    ("outstanding_requests", Count(|m| m.core.outstanding)),
    ("uptime", Count(|m| m.uptime_ms)),
    ("znode_count", Count(|m| m.core.znodes)),
    ("watch_count", Count(|m| m.shards.watches)),
    ("ephemerals_count", Count(|m| m.core.ephemerals)),
    ("approximate_data_size", Count(|m| m.core.data_bytes)),
    ("global_sessions", Count(|m| m.core.sessions)),
    ("local_sessions", Count(|m| m.core.local_sessions)),
    ("open_file_descriptor_count", Count(|m| m.open_files)),
    ("max_file_descriptor_count", Count(|m| m.max_files)),
    ("connection_drop_probability", Always("0.0")),
    ("last_client_response_size", NotMeasured("-1")),
    ("max_client_response_size", NotMeasured("-1")),
    ("min_client_response_size", NotMeasured("-1")),
    ("outstanding_tls_handshake", Always("0")),
    ("auth_failed_count", Count(|m| m.shards.auth_failed)),
    ("non_mtls_remote_conn_count", Always("0")),
    ("non_mtls_local_conn_count", Always("0")),
    // A leader's.
    ("learners", Leader(|l| l.learners.all)),
    ("synced_followers", Leader(|l| l.learners.followers)),
    ("synced_non_voting_followers", Leader(|l| l.learners.without_vote)),
    ("synced_observers", Leader(|l| l.learners.observers)),
    ("pending_syncs", Leader(|l| l.learners.pending_syncs)),
    ("leader_uptime", Leader(|l| l.uptime_ms as usize)),
    ("last_proposal_size", Proposals(|s| s.last)),
    ("max_proposal_size", Proposals(|s| s.max)),
    ("min_proposal_size", Proposals(|s| s.min)),
    // Counters.
    ("bytes_received_count", Count(|m| m.shards.bytes_received)),
    ("response_bytes", Count(|m| m.shards.bytes_sent)),
    ("connection_rejected", Count(|m| m.shards.connections_rejected)),
    ("connection_drop_count", Count(|m| m.shards.connections_dropped)),
    ("stale_sessions_expired", Count(|m| m.core.stale_sessions_expired)),
    ("stale_requests_dropped", Count(|m| m.core.stale_requests_dropped)),
    ("digest_mismatches_count", Count(|m| m.core.digest_mismatches)),
    ("proposal_count", Count(|m| m.core.proposals)),
    ("commit_count", Count(|m| m.core.commits)),
    ("fsync_threshold_exceed_count", Count(|m| m.disk.slow_syncs)),
    ("throttled_ops", Always("0")),
    ("request_throttle_wait_count", Always("0")),
    ("large_requests_rejected", Always("0")),
    ("looking_count", Count(|m| member(m).looking)),
    ("diff_count", Count(|m| member(m).diffs)),
    ("snap_count", Count(|m| member(m).snaps)),
    ("connection_request_count", Count(|m| m.core.connects)),
    ("connection_revalidate_count", Count(|m| m.core.reconnects)),
    ("revalidate_count", Count(|m| m.core.claims)),
    ("learner_proposal_received_count", Count(|m| member(m).latencies.proposals_received)),
    ("learner_commit_received_count", Count(|m| member(m).latencies.commits_received)),
    // Summaries.
    ("fsynctime", Feed::Summary(|m| &m.disk.sync_time)),
    ("snapshottime", Feed::Summary(|m| &m.disk.snapshot_time)),
    ("dbinittime", Feed::Summary(|m| &m.disk.init_time)),
    ("startup_snap_load_time", Feed::Summary(|m| &m.disk.snapshot_load_time)),
    ("startup_txns_load_time", Feed::Summary(|m| &m.disk.txns_load_time)),
    ("startup_txns_loaded", Feed::Summary(|m| &m.disk.txns_loaded)),
    ("sync_processor_batch_size", Feed::Summary(|m| &m.disk.group_size)),
    ("election_time", Feed::Summary(|m| &member(m).election_time)),
    ("follower_sync_time", Feed::Summary(|m| &member(m).follower_sync_time)),
    ("observer_sync_time", Feed::Summary(|m| &member(m).observer_sync_time)),
    ("unavailable_time", Feed::Summary(|m| &member(m).unavailable_time)),
    ("leader_unavailable_time", Feed::Summary(|m| &member(m).leader_unavailable_time)),
    // Summaries with percentiles.
    ("quorum_ack_latency", Feed::Spread(|l| &l.quorum_ack)),
    ("proposal_latency", Feed::Spread(|l| &l.proposal)),
    ("proposal_ack_creation_latency", Feed::Spread(|l| &l.ack_creation)),
    ("commit_propagation_latency", Feed::Spread(|l| &l.commit_propagation)),
    ("propagation_latency", Feed::Spread(|l| &l.propagation)),
];

/// A lone server's figures as a member: nothing yet, and never.
fn member(m: &Metrics) -> &EnsembleMetrics {
    const NOTHING: Summary = Summary { count: 0, sum: 0, min: 0, max: 0 };
    static ALONE: EnsembleMetrics = EnsembleMetrics {
        peer_state: "",
        quorum_size: 0,
        looking: 0,
        diffs: 0,
        snaps: 0,
        election_time: NOTHING,
        follower_sync_time: NOTHING,
        observer_sync_time: NOTHING,
        unavailable_time: NOTHING,
        leader_unavailable_time: NOTHING,
        leader: None,
        observers: 0,
        latencies: Latencies::new(),
    };
    m.ensemble.as_ref().unwrap_or(&ALONE)
}

/// `mntr`.
pub fn mntr(m: &Metrics) -> String {
    let mut out = format!("zk_version\t{VERSION}\nzk_server_state\t{}\n", m.mode.name());
    if let Some(e) = &m.ensemble {
        let _ = writeln!(out, "zk_peer_state\t{}\nzk_quorum_size\t{}", e.peer_state, e.quorum_size);
        if e.observers > 0 {
            let _ = writeln!(out, "zk_synced_observers\t{}", e.observers);
        }
    }
    for (name, feed) in ROWS {
        row(&mut out, name, feed, m);
    }
    for (id, acks) in &member(m).latencies.acks {
        spread(&mut out, &format!("{id}_ack_latency"), acks);
    }
    out
}

fn row(out: &mut String, name: &str, feed: &Feed, m: &Metrics) {
    let text = match feed {
        Feed::Count(f) => f(m).to_string(),
        Feed::Double(f) => java::double(f(m)),
        Always(text) | NotMeasured(text) => (*text).to_owned(),
        Feed::Summary(f) => return summary(out, name, f(m)),
        Feed::Spread(f) => return spread(out, name, f(&member(m).latencies)),
        Leader(f) => match member(m).leader {
            Some(l) => f(&l).to_string(),
            None => return,
        },
        Proposals(f) => match member(m).leader {
            Some(_) => or_minus_one(f(&m.core.proposal_size)).to_string(),
            None => return,
        },
    };
    let _ = writeln!(out, "zk_{name}\t{text}");
}

fn summary(out: &mut String, name: &str, s: &Summary) {
    let average = java::double(java::average(s.sum, s.count));
    let (min, max, count, sum) = (s.min, s.max, s.count, s.sum);
    let _ = writeln!(
        out,
        "zk_avg_{name}\t{average}\nzk_min_{name}\t{min}\nzk_max_{name}\t{max}\nzk_cnt_{name}\t{count}\n\
         zk_sum_{name}\t{sum}"
    );
}

fn spread(out: &mut String, name: &str, s: &Spread) {
    summary(out, name, &s.tally.into());
    for (key, of_thousand) in [("p50", 500), ("p95", 950), ("p99", 990), ("p999", 999)] {
        let _ = writeln!(out, "zk_{key}_{name}\t{}", s.permille(of_thousand));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::ids::ServerId;
    use std::collections::BTreeMap;

    const ALWAYS: &str = "avg_latency max_latency min_latency packets_received packets_sent num_alive_connections \
        outstanding_requests uptime znode_count watch_count ephemerals_count approximate_data_size global_sessions \
        local_sessions open_file_descriptor_count max_file_descriptor_count connection_drop_probability \
        last_client_response_size max_client_response_size min_client_response_size outstanding_tls_handshake \
        auth_failed_count non_mtls_remote_conn_count non_mtls_local_conn_count";

    fn parsed(m: &Metrics) -> BTreeMap<String, String> {
        let text = mntr(m);
        let lines: Vec<_> =
            text.lines().map(|l| l.split_once('\t').expect("a name, a tab, a value")).collect();
        let map: BTreeMap<_, _> = lines.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
        assert_eq!(map.len(), lines.len(), "no name twice");
        map
    }

    #[test]
    fn version_and_state_come_first_and_every_gauge_is_there() {
        let text = mntr(&Metrics::default());
        assert!(text.starts_with(&format!("zk_version\t{VERSION}\nzk_server_state\tstandalone\nzk_")));
        let map = parsed(&Metrics::default());
        for name in ALWAYS.split_whitespace() {
            assert!(map.contains_key(&format!("zk_{name}")), "{name}");
        }
        assert_eq!(
            (map["zk_avg_latency"].as_str(), map["zk_min_client_response_size"].as_str()),
            ("0.0", "-1")
        );
    }

    #[test]
    fn figures_have_the_forms_of_a_live_3_8() {
        let mut m = Metrics::default();
        m.shards.latency = Latency { min_ms: 0, max_ms: 9, total_ms: 20, count: 11 };
        m.disk.init_time.record(6);
        for ms in [0, 0, 0, 1] {
            m.disk.sync_time.record(ms);
        }
        let map = parsed(&m);
        for (name, value) in [
            ("avg_latency", "1.8182"),
            ("avg_fsynctime", "0.25"),
            ("cnt_fsynctime", "4"),
            ("sum_fsynctime", "1"),
            ("max_fsynctime", "1"),
            ("avg_dbinittime", "6.0"),
            ("min_dbinittime", "6"),
            ("avg_snapshottime", "0.0"),
        ] {
            assert_eq!(map[&format!("zk_{name}")], value, "{name}");
        }
    }

    #[test]
    fn every_field_is_printed_somewhere() {
        let base = parsed(&Metrics::default());
        let latency = Latency { min_ms: 1, max_ms: 1, total_ms: 1, count: 1 };
        let shards = ShardMetrics {
            latency,
            received: 1,
            sent: 1,
            connections: 1,
            watches: 1,
            bytes_received: 1,
            bytes_sent: 1,
            connections_rejected: 1,
            connections_dropped: 1,
            auth_failed: 1,
        };
        let mut twice = shards;
        twice.merge(&shards);
        assert_eq!((twice.received, twice.connections_dropped, twice.latency.count), (2, 2, 2));
        let core = CoreMetrics {
            zxid: Zxid(1),
            znodes: 1,
            ephemerals: 1,
            data_bytes: 1,
            sessions: 1,
            outstanding: 1,
            stale_sessions_expired: 1,
            stale_requests_dropped: 1,
            digest_mismatches: 1,
            proposals: 1,
            commits: 1,
            proposal_size: Sizes { last: Some(5), min: Some(4), max: Some(6) },
            local_sessions: 1,
            connects: 1,
            reconnects: 1,
            claims: 1,
        };
        let x = Summary { count: 1, sum: 5, min: 5, max: 5 };
        let disk = DiskMetrics {
            sync_time: x,
            slow_syncs: 1,
            group_size: x,
            snapshot_time: x,
            init_time: x,
            snapshot_load_time: x,
            txns_load_time: x,
            txns_loaded: x,
        };
        let learners = Learners { all: 5, followers: 3, without_vote: 1, observers: 2, pending_syncs: 4 };
        let mut s = Spread::new();
        s.record(7);
        let latencies = Latencies {
            quorum_ack: s.clone(),
            acks: [(ServerId(2), s.clone())].into(),
            ack_creation: s.clone(),
            proposal: s.clone(),
            commit_propagation: s.clone(),
            propagation: s,
            proposals_received: 1,
            commits_received: 1,
        };
        let ensemble = EnsembleMetrics {
            peer_state: "leading - broadcast",
            quorum_size: 3,
            looking: 1,
            diffs: 1,
            snaps: 1,
            election_time: x,
            follower_sync_time: x,
            observer_sync_time: x,
            unavailable_time: x,
            leader_unavailable_time: x,
            observers: 0,
            leader: Some(LeaderMetrics { learners, uptime_ms: 9 }),
            latencies,
        };
        let (mode, ensemble) = (Mode::Standalone, Some(ensemble));
        let m = Metrics { uptime_ms: 1, open_files: 1, max_files: 1, shards, core, disk, mode, ensemble };
        let mut full = parsed(&m);
        let only_members = [
            ("peer_state", "leading - broadcast"),
            ("quorum_size", "3"),
            ("learners", "5"),
            ("synced_followers", "3"),
            ("synced_non_voting_followers", "1"),
            ("synced_observers", "2"),
            ("pending_syncs", "4"),
            ("leader_uptime", "9"),
            ("last_proposal_size", "5"),
            ("max_proposal_size", "6"),
            ("min_proposal_size", "4"),
            ("avg_2_ack_latency", "7.0"),
            ("min_2_ack_latency", "7"),
            ("max_2_ack_latency", "7"),
            ("cnt_2_ack_latency", "1"),
            ("sum_2_ack_latency", "7"),
            ("p50_2_ack_latency", "7"),
            ("p95_2_ack_latency", "7"),
            ("p99_2_ack_latency", "7"),
            ("p999_2_ack_latency", "7"),
        ];
        for (name, value) in only_members {
            assert_eq!(full.remove(&format!("zk_{name}")).as_deref(), Some(value), "{name}");
        }
        let unchanged: Vec<_> =
            full.iter().filter(|(k, v)| base[*k] == **v).map(|(k, _)| k.as_str()).collect();
        let fixed = |f: &Feed| matches!(f, Always(_) | NotMeasured(_));
        let always: Vec<_> = ROWS.iter().filter(|(_, f)| fixed(f)).map(|(n, _)| format!("zk_{n}")).collect();
        let odd: Vec<_> = unchanged.iter().filter(|k| !always.contains(&k.to_string())).collect();
        assert_eq!(odd, [&"zk_server_state", &"zk_version"]);
        assert_eq!(m.info().zxid, Zxid(1));
    }
}
