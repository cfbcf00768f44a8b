//! `mntr`: the figures that monitoring agents read, and the structs that shards, core and log measure them into.
//!
//! Not here: the measuring. `ROWS` is the one list of what is printed and which field feeds it; a figure of ZooKeeper
//! that Serval has no counterpart for (its commit processor's queues, its response caches ...) is left out, never made
//! up. What is always the same here (no TLS handshakes, no throttle) is printed as that.
//! Invariant: every gauge of the fact sheet's "always" row is printed.

use super::VERSION;
use super::java;
use super::server::{Latency, Mode, ServerInfo, Sizes, or_minus_one};
use super::summary::{Distribution, Summary};
use engine::ids::Zxid;
use std::fmt::Write;

/// What one shard measures; the figures of all shards are merged for a report. `srst` resets the first four.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ShardMetrics {
    /// From reading a request to writing its reply.
    pub latency: Latency,
    /// Packets read from and written to clients, events included.
    pub received: u64,
    pub sent: u64,
    /// Replies with a body.
    pub response_size: Sizes,
    /// Connections open now.
    pub connections: u64,
    /// Data and child watches, one-shot and persistent.
    pub watches: u64,
    pub bytes_received: u64,
    /// Bytes of replies, events not included.
    pub response_bytes: u64,
    /// ConnectRequests.
    pub connection_requests: u64,
    /// Closed at accept: over a limit of connections.
    pub connections_rejected: u64,
    /// Closed by the server for a reason of the client: garbage, too slow, over a bound.
    pub connections_dropped: u64,
    /// Closed because no session was asked for in time.
    pub sessionless_expired: u64,
    /// ConnectRequests with a session id.
    pub revalidations: u64,
    pub auth_failures: u64,
    /// Latencies of reads and writes, ms.
    pub read_latency: Distribution,
    pub update_latency: Distribution,
    /// Watches fired by one change, by its kind.
    pub fired_created: Summary,
    pub fired_deleted: Summary,
    pub fired_changed: Summary,
    pub fired_children: Summary,
    /// From a write's proposal to its publication at this shard, ms.
    pub propagation_latency: Distribution,
}

impl ShardMetrics {
    /// Takes another shard's figures in.
    pub fn merge(&mut self, o: &ShardMetrics) {
        self.latency.merge(&o.latency);
        self.response_size.merge(&o.response_size);
        self.received += o.received;
        self.sent += o.sent;
        self.connections += o.connections;
        self.watches += o.watches;
        self.bytes_received += o.bytes_received;
        self.response_bytes += o.response_bytes;
        self.connection_requests += o.connection_requests;
        self.connections_rejected += o.connections_rejected;
        self.connections_dropped += o.connections_dropped;
        self.sessionless_expired += o.sessionless_expired;
        self.revalidations += o.revalidations;
        self.auth_failures += o.auth_failures;
        self.read_latency.merge(&o.read_latency);
        self.update_latency.merge(&o.update_latency);
        self.fired_created.merge(&o.fired_created);
        self.fired_deleted.merge(&o.fired_deleted);
        self.fired_changed.merge(&o.fired_changed);
        self.fired_children.merge(&o.fired_children);
        self.propagation_latency.merge(&o.propagation_latency);
    }

    /// `srst`: what `srvr` shows begins again.
    pub fn reset(&mut self) {
        self.latency = Latency::default();
        self.received = 0;
        self.sent = 0;
        self.response_size = Sizes::default();
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
#[derive(Clone, PartialEq, Eq, Debug, Default)]
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
    Size(fn(&Metrics) -> Option<u64>),
    Double(fn(&Metrics) -> f64),
    Summary(fn(&Metrics) -> &Summary),
    Distribution(fn(&Metrics) -> &Distribution),
    /// The same on every server that lacks the feature.
    Always(&'static str),
}
use Feed::{Always, Count, Double, Size};

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
    ("local_sessions", Always("0")),
    ("open_file_descriptor_count", Count(|m| m.open_files)),
    ("max_file_descriptor_count", Count(|m| m.max_files)),
    ("connection_drop_probability", Always("0.0")),
    ("last_client_response_size", Size(|m| m.shards.response_size.last)),
    ("max_client_response_size", Size(|m| m.shards.response_size.max)),
    ("min_client_response_size", Size(|m| m.shards.response_size.min)),
    ("outstanding_tls_handshake", Always("0")),
    ("auth_failed_count", Count(|m| m.shards.auth_failures)),
    ("non_mtls_remote_conn_count", Always("0")),
    ("non_mtls_local_conn_count", Always("0")),
    // Counters.
    ("bytes_received_count", Count(|m| m.shards.bytes_received)),
    ("response_bytes", Count(|m| m.shards.response_bytes)),
    ("connection_request_count", Count(|m| m.shards.connection_requests)),
    ("connection_rejected", Count(|m| m.shards.connections_rejected)),
    ("connection_drop_count", Count(|m| m.shards.connections_dropped)),
    ("connection_revalidate_count", Count(|m| m.shards.revalidations)),
    ("sessionless_connections_expired", Count(|m| m.shards.sessionless_expired)),
    ("stale_sessions_expired", Count(|m| m.core.stale_sessions_expired)),
    ("stale_requests_dropped", Count(|m| m.core.stale_requests_dropped)),
    ("digest_mismatches_count", Count(|m| m.core.digest_mismatches)),
    ("proposal_count", Count(|m| m.core.proposals)),
    ("commit_count", Count(|m| m.core.commits)),
    ("fsync_threshold_exceed_count", Count(|m| m.disk.slow_syncs)),
    ("throttled_ops", Always("0")),
    ("request_throttle_wait_count", Always("0")),
    ("large_requests_rejected", Always("0")),
    ("looking_count", Always("0")),
    ("diff_count", Always("0")),
    ("snap_count", Always("0")),
    // Summaries.
    ("fsynctime", Feed::Summary(|m| &m.disk.sync_time)),
    ("snapshottime", Feed::Summary(|m| &m.disk.snapshot_time)),
    ("dbinittime", Feed::Summary(|m| &m.disk.init_time)),
    ("startup_snap_load_time", Feed::Summary(|m| &m.disk.snapshot_load_time)),
    ("startup_txns_load_time", Feed::Summary(|m| &m.disk.txns_load_time)),
    ("startup_txns_loaded", Feed::Summary(|m| &m.disk.txns_loaded)),
    ("sync_processor_batch_size", Feed::Summary(|m| &m.disk.group_size)),
    ("node_created_watch_count", Feed::Summary(|m| &m.shards.fired_created)),
    ("node_deleted_watch_count", Feed::Summary(|m| &m.shards.fired_deleted)),
    ("node_changed_watch_count", Feed::Summary(|m| &m.shards.fired_changed)),
    ("node_children_watch_count", Feed::Summary(|m| &m.shards.fired_children)),
    ("readlatency", Feed::Distribution(|m| &m.shards.read_latency)),
    ("updatelatency", Feed::Distribution(|m| &m.shards.update_latency)),
    ("propagation_latency", Feed::Distribution(|m| &m.shards.propagation_latency)),
];

/// `mntr`.
pub fn mntr(m: &Metrics) -> String {
    let mut out = format!("zk_version\t{VERSION}\nzk_server_state\t{}\n", m.mode.name());
    for (name, feed) in ROWS {
        row(&mut out, name, feed, m);
    }
    out
}

fn row(out: &mut String, name: &str, feed: &Feed, m: &Metrics) {
    let text = match feed {
        Feed::Count(f) => f(m).to_string(),
        Feed::Size(f) => or_minus_one(f(m)).to_string(),
        Feed::Double(f) => java::double(f(m)),
        Feed::Always(text) => (*text).to_owned(),
        Feed::Summary(f) => return summary(out, name, f(m)),
        Feed::Distribution(f) => {
            let d = f(m);
            summary(out, name, &d.summary);
            for (label, per_mille) in [("p50", 500), ("p95", 950), ("p99", 990), ("p999", 999)] {
                let _ = writeln!(out, "zk_{label}_{name}\t{}", d.per_mille(per_mille));
            }
            return;
        }
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

#[cfg(test)]
mod tests {
    use super::*;
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
        for ms in [0, 0, 0, 1] {
            m.shards.read_latency.record(ms);
        }
        m.disk.init_time.record(6);
        let map = parsed(&m);
        for (name, value) in [
            ("avg_latency", "1.8182"),
            ("avg_readlatency", "0.25"),
            ("cnt_readlatency", "4"),
            ("sum_readlatency", "1"),
            ("p50_readlatency", "0"),
            ("p95_readlatency", "1"),
            ("p999_readlatency", "1"),
            ("avg_dbinittime", "6.0"),
            ("min_dbinittime", "6"),
            ("avg_fsynctime", "0.0"),
        ] {
            assert_eq!(map[&format!("zk_{name}")], value, "{name}");
        }
        assert!(!map.contains_key("zk_p50_dbinittime"), "basic summaries have no percentiles");
    }

    #[test]
    fn every_field_is_printed_somewhere() {
        let one = || {
            let mut d = Distribution::default();
            d.record(5);
            (d.summary, d)
        };
        let base = parsed(&Metrics::default());
        let mut s = ShardMetrics {
            latency: Latency { min_ms: 1, max_ms: 1, total_ms: 1, count: 1 },
            ..Default::default()
        };
        (s.received, s.sent, s.connections, s.watches, s.bytes_received) = (1, 1, 1, 1, 1);
        (s.response_bytes, s.connection_requests, s.connections_rejected, s.connections_dropped) =
            (1, 1, 1, 1);
        (s.sessionless_expired, s.revalidations, s.auth_failures) = (1, 1, 1);
        s.response_size.record(7);
        (s.read_latency, s.update_latency, s.propagation_latency) = (one().1, one().1, one().1);
        (s.fired_created, s.fired_deleted, s.fired_changed, s.fired_children) =
            (one().0, one().0, one().0, one().0);
        let mut twice = s.clone();
        twice.merge(&s);
        assert_eq!((twice.received, twice.read_latency.summary.count, twice.latency.count), (2, 2, 2));
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
            proposal_size: Sizes::default(),
        };
        let x = one().0;
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
        let m = Metrics {
            uptime_ms: 1,
            open_files: 1,
            max_files: 1,
            shards: s,
            core,
            disk,
            mode: Mode::Standalone,
        };
        let full = parsed(&m);
        let unchanged: Vec<_> =
            full.iter().filter(|(k, v)| base[*k] == **v).map(|(k, _)| k.as_str()).collect();
        let always: Vec<_> =
            ROWS.iter().filter(|(_, f)| matches!(f, Always(_))).map(|(n, _)| format!("zk_{n}")).collect();
        let odd: Vec<_> = unchanged.iter().filter(|k| !always.contains(&k.to_string())).collect();
        assert_eq!(odd, [&"zk_server_state", &"zk_version"]);
        assert_eq!(m.info().zxid, Zxid(1));
    }

    #[test]
    fn a_reset_clears_what_srvr_shows_and_keeps_the_rest() {
        let mut s =
            ShardMetrics { received: 3, sent: 2, connections: 1, bytes_received: 9, ..Default::default() };
        s.latency.record(4);
        s.reset();
        assert_eq!(s, ShardMetrics { connections: 1, bytes_received: 9, ..Default::default() });
    }
}
