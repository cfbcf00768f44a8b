//! Words about the server itself: `srvr`, `stat`, `conf`, `envi`, `dirs`, `hash`.
//!
//! Not here: lists of connections, sessions and watches (`clients`), `mntr`. Pure; the caller collects the figures.

use super::{VERSION, clients, java};
use crate::config::{Config, EnsembleConfig};
use engine::ids::Zxid;
use engine::msg::ConnStat;
use engine::zab::members::{Members, PeerAddr};
use std::fmt::Write;

/// What a server is at the moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Mode {
    #[default]
    Standalone,
    Leader,
    Follower,
    Observer,
    /// Serves read-only clients while there is no quorum.
    ReadOnly,
}

impl Mode {
    /// As `Mode:` and `zk_server_state` name it.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Standalone => "standalone",
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
            Mode::ReadOnly => "read-only",
        }
    }
}

/// Latencies of requests since the start or the last `srst`, ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    pub min_ms: u64,
    pub max_ms: u64,
    pub total_ms: u64,
    pub count: u64,
}

impl Latency {
    /// Takes one request in.
    pub fn record(&mut self, ms: u64) {
        self.merge(&Latency { min_ms: ms, max_ms: ms, total_ms: ms, count: 1 });
    }
    /// Takes another shard's figures in.
    pub fn merge(&mut self, other: &Latency) {
        if other.count == 0 {
            return;
        }
        self.min_ms = if self.count == 0 { other.min_ms } else { self.min_ms.min(other.min_ms) };
        self.max_ms = self.max_ms.max(other.max_ms);
        self.total_ms = self.total_ms.saturating_add(other.total_ms);
        self.count += other.count;
    }
    /// Rounded to four decimals as ZooKeeper does.
    pub fn average_ms(&self) -> f64 {
        java::average(self.total_ms, self.count)
    }
}

/// Sizes in bytes of what was sent last, and of the smallest and largest; `None`: nothing yet, printed as -1.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sizes {
    pub last: Option<u64>,
    pub min: Option<u64>,
    pub max: Option<u64>,
}

impl Sizes {
    /// Takes one more in.
    pub fn record(&mut self, bytes: u64) {
        self.last = Some(bytes);
        self.min = Some(self.min.map_or(bytes, |m| m.min(bytes)));
        self.max = Some(self.max.map_or(bytes, |m| m.max(bytes)));
    }
    /// Takes another shard's figures in; its last one counts as later.
    pub fn merge(&mut self, other: &Sizes) {
        self.last = other.last.or(self.last);
        self.min = self.min.into_iter().chain(other.min).min();
        self.max = self.max.into_iter().chain(other.max).max();
    }
}

/// What `srvr` and `stat` print.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServerInfo {
    pub mode: Mode,
    pub zxid: Zxid,
    pub latency: Latency,
    /// Packets since the start or the last `srst`.
    pub received: u64,
    pub sent: u64,
    /// Open client connections, this one included.
    pub connections: u64,
    /// Requests in the server.
    pub outstanding: u64,
    /// As ZooKeeper counts: the root twice.
    pub node_count: u64,
    /// A leader's proposals; printed for a leader only.
    pub proposals: Sizes,
}

/// `srvr`.
pub fn srvr(info: &ServerInfo) -> String {
    let mut out = head(info);
    figures(&mut out, info);
    out
}

/// `stat`: `srvr` with a line per connection.
pub fn stat(info: &ServerInfo, connections: &[ConnStat]) -> String {
    let mut out = head(info);
    out.push_str("Clients:\n");
    for c in connections {
        clients::brief(&mut out, c);
        out.push('\n');
    }
    out.push('\n');
    figures(&mut out, info);
    out
}

fn head(info: &ServerInfo) -> String {
    let read_only =
        if info.mode == Mode::ReadOnly { "READ-ONLY mode; serving only read-only clients\n" } else { "" };
    format!("Zookeeper version: {VERSION}\n{read_only}")
}

fn figures(out: &mut String, i: &ServerInfo) {
    let l = &i.latency;
    let average = java::double(l.average_ms());
    let _ = write!(
        out,
        "Latency min/avg/max: {}/{average}/{}\nReceived: {}\nSent: {}\nConnections: {}\nOutstanding: {}\n\
         Zxid: 0x{:x}\nMode: {}\nNode count: {}\n",
        l.min_ms,
        l.max_ms,
        i.received,
        i.sent,
        i.connections,
        i.outstanding,
        i.zxid.0,
        i.mode.name(),
        i.node_count
    );
    if i.mode == Mode::Leader {
        let p = &i.proposals;
        let _ = writeln!(
            out,
            "Proposal sizes last/min/max: {}/{}/{}",
            or_minus_one(p.last),
            or_minus_one(p.min),
            or_minus_one(p.max)
        );
    }
}

/// A size, or -1 where there is none.
pub fn or_minus_one(size: Option<u64>) -> i64 {
    size.map_or(-1, |n| i64::try_from(n).unwrap_or(i64::MAX))
}

/// Bytes that the files in data and log directory take.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DirSizes {
    pub data_bytes: u64,
    pub log_bytes: u64,
}

/// `conf`. `client_port` is the one that was bound; `members` those that count at present. A lone server shows id 0.
pub fn conf(config: &Config, client_port: u16, sizes: DirSizes, members: &Members) -> String {
    let l = &config.limits;
    let id = config.ensemble.as_ref().map_or(0, |e| e.me.0);
    let mut out = format!(
        "clientPort={client_port}\nsecureClientPort=-1\ndataDir={}\ndataDirSize={}\ndataLogDir={}\ndataLogSize={}\n\
         tickTime={}\nmaxClientCnxns={}\nminSessionTimeout={}\nmaxSessionTimeout={}\nclientPortListenBacklog={}\n\
         serverId={id}\n",
        config.data_dir.display(),
        sizes.data_bytes,
        config.data_log_dir.display(),
        sizes.log_bytes,
        l.tick_ms,
        l.max_client_connections,
        l.min_session_timeout_ms,
        l.max_session_timeout_ms,
        config.listen_backlog,
    );
    if let Some(e) = &config.ensemble {
        place(&mut out, e, members);
    }
    out
}

/// A server's place in its ensemble.
fn place(out: &mut String, e: &EnsembleConfig, members: &Members) {
    let ports = |port: fn(&PeerAddr) -> u16| {
        let own = members.get(e.me).map(|m| m.peers.as_slice()).unwrap_or_default();
        own.iter().map(|p| port(p).to_string()).collect::<Vec<_>>().join("|")
    };
    let _ = write!(
        out,
        "initLimit={}\nsyncLimit={}\nelectionAlg=3\nelectionPort={}\nquorumPort={}\npeerType={}\nmembership: \n{}",
        e.init_limit,
        e.sync_limit,
        ports(|p| p.election_port),
        ports(|p| p.quorum_port),
        u8::from(!members.is_voter(e.me)),
        members.text(),
    );
}

/// `dirs`.
pub fn dirs(sizes: DirSizes) -> String {
    format!("datadir_size: {}\nlogdir_size: {}\n", sizes.data_bytes, sizes.log_bytes)
}

/// `envi`: names and values in order.
pub fn envi(variables: &[(&str, String)]) -> String {
    let lines = variables.iter().map(|(name, value)| format!("{name}={value}\n"));
    std::iter::once("Environment:\n".to_owned()).chain(lines).collect()
}

/// `hash`: the tree digests that were kept, oldest first.
pub fn hash(digests: &[(Zxid, u64)]) -> String {
    digests.iter().map(|(zxid, digest)| format!("{:x}: {digest}\n", zxid.0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiles::Profile;

    fn info() -> ServerInfo {
        ServerInfo {
            zxid: Zxid(0x7),
            latency: Latency { min_ms: 0, max_ms: 9, total_ms: 20, count: 11 },
            received: 21,
            sent: 19,
            connections: 3,
            node_count: 9,
            ..ServerInfo::default()
        }
    }

    /// As a live 3.8.0 printed it, but for the version.
    const SRVR_3_8: &str = "Latency min/avg/max: 0/1.8182/9\nReceived: 21\nSent: 19\nConnections: 3\nOutstanding: 0\n\
                            Zxid: 0x7\nMode: standalone\nNode count: 9\n";

    #[test]
    fn srvr_is_zookeepers() {
        assert_eq!(srvr(&info()), format!("Zookeeper version: {VERSION}\n{SRVR_3_8}"));
        let idle = srvr(&ServerInfo { node_count: 5, ..ServerInfo::default() });
        assert!(idle.contains("\nLatency min/avg/max: 0/0.0/0\n") && idle.contains("\nZxid: 0x0\n"));
    }

    #[test]
    fn stat_lists_connections_between_the_version_and_the_figures() {
        let text = stat(&info(), &[clients::tests::four_letter(), clients::tests::with_session()]);
        let want = format!(
            "Zookeeper version: {VERSION}\nClients:\n /127.0.0.1:42734[0](queued=0,recved=1,sent=0)\n \
             /127.0.0.1:42694[1](queued=0,recved=4,sent=4)\n\n{SRVR_3_8}"
        );
        assert_eq!(text, want);
    }

    #[test]
    fn leaders_and_read_only_servers_say_more() {
        let leader = srvr(&ServerInfo { mode: Mode::Leader, ..info() });
        assert!(leader.ends_with("Node count: 9\nProposal sizes last/min/max: -1/-1/-1\n"));
        let mut proposals = Sizes::default();
        for n in [40, 36, 48] {
            proposals.record(n);
        }
        let leader = srvr(&ServerInfo { mode: Mode::Leader, proposals, ..info() });
        assert!(leader.ends_with("Proposal sizes last/min/max: 48/36/48\n"));
        let lone = srvr(&ServerInfo { mode: Mode::ReadOnly, ..info() });
        assert!(lone.contains("\nREAD-ONLY mode; serving only read-only clients\nLatency"));
    }

    #[test]
    fn figures_of_shards_add_up() {
        let mut all = Latency::default();
        all.merge(&Latency::default());
        for ms in [5, 2] {
            all.record(ms);
        }
        all.merge(&Latency { min_ms: 1, max_ms: 3, total_ms: 4, count: 2 });
        assert_eq!(all, Latency { min_ms: 1, max_ms: 5, total_ms: 11, count: 4 });
        let mut sizes = Sizes { last: Some(3), min: Some(2), max: Some(3) };
        sizes.merge(&Sizes::default());
        sizes.merge(&Sizes { last: Some(9), min: Some(1), max: Some(9) });
        assert_eq!(sizes, Sizes { last: Some(9), min: Some(1), max: Some(9) });
    }

    #[test]
    fn conf_dirs_envi_and_hash_have_zookeepers_lines() {
        let mut config = Config::embedded("/d", &Profile::default());
        config.limits.max_client_connections = 60;
        let sizes = DirSizes { data_bytes: 67_109_337, log_bytes: 67_109_338 };
        assert_eq!(
            conf(&config, 22181, sizes, &Members::none()),
            "clientPort=22181\nsecureClientPort=-1\ndataDir=/d\ndataDirSize=67109337\ndataLogDir=/d\n\
             dataLogSize=67109338\ntickTime=2000\nmaxClientCnxns=60\nminSessionTimeout=4000\n\
             maxSessionTimeout=40000\nclientPortListenBacklog=-1\nserverId=0\n"
        );
        assert_eq!(dirs(sizes), "datadir_size: 67109337\nlogdir_size: 67109338\n");
        assert_eq!(envi(&[("os.name", "Linux".into())]), "Environment:\nos.name=Linux\n");
        let digests = [(Zxid(0x80), 12_018_335_372), (Zxid(0x100), 11_507_933_795)];
        assert_eq!(hash(&digests), "80: 12018335372\n100: 11507933795\n");
        assert_eq!(hash(&[]), "");
    }
}
