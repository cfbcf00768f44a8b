//! Answers four-letter words: gathers what core, shards and disk know, and lets `words` print it.
//!
//! Not here: formats (`words`), which words are allowed (the shard asks the whitelist).
//! Invariant: every word that reaches the desk is answered by one `Text`; a question to all shards is kept until each
//! has answered, and at most one of each kind is open.

use super::errands::SentCounts;
use super::journal::{Journal, SyncStats};
use super::shared::Shared;
use super::snapshots::SnapshotStats;
use crate::config::Config;
use crate::words::clients::{Dump, Sessions};
use crate::words::mntr::{CoreMetrics, DiskMetrics, EnsembleMetrics, LeaderMetrics, Metrics};
use crate::words::server::{DirSizes, Mode, Sizes};
use crate::words::summary::Summary;
use crate::words::{self, clients, environ, mntr, server};
use engine::ids::{ConnId, SessionId};
use engine::limits::Limits;
use engine::msg::{Act, Collect, Collected, ConnStat, Span, Target, ToCore};
use engine::server::{ProposalSizes, Server};
use engine::time::Now;
use engine::zab::Role;
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

/// Connections that may wait for one question to the shards; a word beyond them is answered with nothing.
const ASKERS_MAX: usize = 1024;
/// A question that not every shard has answered. Whoever asks the same meanwhile joins in.
struct Question {
    what: Collect,
    askers: Vec<(ConnId, &'static str)>,
    missing: usize,
    parts: Collected,
}

/// Words that a server answers also while it serves nobody.
const ALWAYS: [&str; 7] = ["ruok", "conf", "envi", "isro", "gtmk", "stmk", "dirs"];

/// What the start cost, for `mntr`.
#[derive(Clone, Copy, Debug, Default)]
pub struct StartFigures {
    pub total_ms: u64,
    pub snapshot_ms: u64,
    pub replay_ms: u64,
    pub txns: u64,
    /// Transactions of the log after which the tree had another digest, as far as they were counted.
    pub digest_mismatches: u64,
}

/// See the module.
pub struct Desk {
    config: Arc<Config>,
    started: Now,
    start: StartFigures,
    shards: usize,
    trace_mask: i64,
    next_token: u64,
    open: HashMap<u64, Question>,
    pub snapshots: SnapshotStats,
    pub sent: SentCounts,
}

impl Desk {
    pub fn new(config: Arc<Config>, shards: usize, started: Now, start: StartFigures) -> Desk {
        Desk {
            config,
            started,
            start,
            shards,
            trace_mask: words::DEFAULT_TRACE_MASK,
            next_token: 0,
            open: HashMap::new(),
            snapshots: SnapshotStats::default(),
            sent: SentCounts::default(),
        }
    }

    /// A word, or a shard's answer to a question.
    pub fn handle(&mut self, m: ToCore, core: &mut Server, shared: &Shared, journal: &Journal, now: Now) {
        match m {
            ToCore::Word { conn, word, arg } => {
                let Some(word) = words::find(word) else { return self.say(core, conn, String::new()) };
                match self.at_once(word, &arg, core, shared, journal, now) {
                    Some(text) => self.say(core, conn, text),
                    None => self.ask(core, conn, word),
                }
            }
            ToCore::Collected { token, part, .. } => {
                let Some(q) = self.open.get_mut(&token) else { return };
                q.parts.connections.extend(part.connections);
                q.parts.watches.extend(part.watches);
                q.missing -= 1;
                if q.missing == 0 {
                    let q = self.open.remove(&token).expect("found above");
                    for (conn, word) in &q.askers {
                        let text = self.collected(word, &q.parts, core, shared, journal, now);
                        self.say(core, *conn, text);
                    }
                }
            }
            // A lone server never leaves its role.
            _ => {}
        }
    }

    fn say(&self, core: &mut Server, conn: ConnId, text: String) {
        core.tell_now(Target::Conn(conn, Act::Text(Span::default())), text.into_bytes());
    }

    fn ask(&mut self, core: &mut Server, conn: ConnId, word: &'static str) {
        let what = match word {
            "wchs" | "wchc" | "wchp" => Collect::Watches,
            "srst" => Collect::ResetServer,
            "crst" => Collect::ResetConnections,
            _ => Collect::Connections,
        };
        if let Some(q) = self.open.values_mut().find(|q| q.what == what) {
            if q.askers.len() < ASKERS_MAX {
                q.askers.push((conn, word));
            } else {
                self.say(core, conn, String::new());
            }
            return;
        }
        self.next_token += 1;
        let token = self.next_token;
        let askers = vec![(conn, word)];
        self.open.insert(token, Question { what, askers, missing: self.shards, parts: Collected::default() });
        core.tell_now(Target::All(Act::Collect { token, what }), Vec::new());
    }

    /// Words that need no shard. `None`: this one does.
    fn at_once(
        &mut self,
        word: &str,
        arg: &[u8],
        core: &Server,
        shared: &Shared,
        journal: &Journal,
        now: Now,
    ) -> Option<String> {
        if !core.is_open() && !ALWAYS.contains(&word) {
            return Some(words::not_serving(word));
        }
        Some(match word {
            "ruok" => words::ruok(),
            "isro" => words::isro(core.takes_clients().then_some(core.is_read_only())),
            "srvr" => server::srvr(&self.metrics(core, shared, journal, now).info()),
            "mntr" => {
                // Counting them lists a directory, so only this word does.
                let (open_files, max_files) = environ::file_descriptors();
                mntr::mntr(&Metrics { open_files, max_files, ..self.metrics(core, shared, journal, now) })
            }
            "conf" => {
                let port = shared.client_addrs().first().map_or(0, SocketAddr::port);
                server::conf(&self.config, port, self.sizes(), core.zab().members())
            }
            "dirs" => server::dirs(self.sizes()),
            "envi" => server::envi(&environ::variables()),
            "hash" => server::hash(&core.digests().copied().collect::<Vec<_>>()),
            "gtmk" => words::gtmk(self.trace_mask),
            "stmk" => match words::stmk(arg) {
                Some((mask, text)) => {
                    self.trace_mask = mask;
                    text
                }
                None => String::new(),
            },
            _ => return None,
        })
    }

    fn collected(
        &self,
        word: &str,
        parts: &Collected,
        core: &Server,
        shared: &Shared,
        journal: &Journal,
        now: Now,
    ) -> String {
        match word {
            "stat" => server::stat(&self.metrics(core, shared, journal, now).info(), &parts.connections),
            "cons" => clients::cons(&parts.connections),
            "wchs" => clients::wchs(&parts.watches),
            "wchc" => clients::wchc(&parts.watches),
            "wchp" => clients::wchp(&parts.watches),
            "dump" => clients::dump(&dump(core, &parts.connections, &self.config.limits, now)),
            "srst" => words::srst(),
            "crst" => words::crst(),
            _ => String::new(),
        }
    }

    fn sizes(&self) -> DirSizes {
        let data_bytes = bytes_in(&self.config.data_dir);
        let same = self.config.data_dir == self.config.data_log_dir;
        DirSizes {
            data_bytes,
            log_bytes: if same { data_bytes } else { bytes_in(&self.config.data_log_dir) },
        }
    }

    fn metrics(&self, core: &Server, shared: &Shared, journal: &Journal, now: Now) -> Metrics {
        let g = core.gauges();
        let db = core.db();
        let shards = shared.shard_metrics();
        Metrics {
            mode: mode_of(core),
            uptime_ms: now.mono.since(self.started.mono),
            core: CoreMetrics {
                zxid: db.last(),
                znodes: db.tree.node_count(),
                ephemerals: g.ephemerals as u64,
                data_bytes: db.tree.approximate_data_size(),
                sessions: g.sessions as u64,
                outstanding: shared.outstanding() as u64,
                stale_sessions_expired: g.expired,
                stale_requests_dropped: g.dropped_stale,
                digest_mismatches: g.digest_mismatches + self.start.digest_mismatches,
                proposals: g.proposals,
                commits: g.commits,
                proposal_size: sizes_of(&g.proposal_sizes),
                local_sessions: g.local_sessions as u64,
                connects: g.connects,
                reconnects: g.reconnects,
                claims: g.claims,
            },
            shards,
            disk: self.disk(journal.stats(), shared.slow_syncs()),
            ensemble: self.config.ensemble.as_ref().map(|_| self.ensemble(core, now)),
            ..Metrics::default()
        }
    }

    fn ensemble(&self, core: &Server, now: Now) -> EnsembleMetrics {
        let zab = core.zab();
        let counts = zab.counters();
        let leads = core.role() == Role::Leading;
        let uptime_ms = now.mono.since(zab.since());
        EnsembleMetrics {
            peer_state: peer_state(core.role()),
            quorum_size: zab.members().voters().len() as u64,
            looking: core.gauges().looking,
            diffs: counts.diffs + self.sent.diffs,
            snaps: self.sent.snapshots,
            election_time: counts.election_ms.into(),
            follower_sync_time: counts.follower_sync_ms.into(),
            observer_sync_time: counts.observer_sync_ms.into(),
            unavailable_time: core.gauges().unavailable_ms.into(),
            leader_unavailable_time: core.gauges().leader_unavailable_ms.into(),
            observers: zab.relayed().map_or(0, |r| r.observers) as u64,
            latencies: core.latencies().clone(),
            leader: leads.then_some(LeaderMetrics { learners: counts.learners, uptime_ms }),
        }
    }

    fn disk(&self, s: SyncStats, slow_syncs: u64) -> DiskMetrics {
        let once = |ms: u64| {
            let mut s = Summary::default();
            s.record(ms);
            s
        };
        DiskMetrics {
            sync_time: s.time_ms,
            slow_syncs,
            group_size: s.group_size,
            snapshot_time: self.snapshots.time_ms,
            init_time: once(self.start.total_ms),
            snapshot_load_time: once(self.start.snapshot_ms),
            txns_load_time: once(self.start.replay_ms),
            txns_loaded: once(self.start.txns),
        }
    }
}

/// What a server calls itself while it serves.
fn mode_of(core: &Server) -> Mode {
    match core.role() {
        _ if core.is_read_only() => Mode::ReadOnly,
        Role::Leading => Mode::Leader,
        Role::Following => Mode::Follower,
        Role::Observing => Mode::Observer,
        _ => Mode::Standalone,
    }
}

/// State and phase, as ZooKeeper puts them.
fn peer_state(role: Role) -> &'static str {
    match role {
        Role::Alone | Role::Looking => "looking",
        Role::Discovering => "leading - discovery",
        Role::Leading => "leading - broadcast",
        Role::Joining => "following - synchronization",
        Role::Following => "following - broadcast",
        Role::Observing => "observing - broadcast",
    }
}

fn sizes_of(s: &ProposalSizes) -> Sizes {
    Sizes { last: s.last, min: s.min, max: s.max }
}

fn dump(core: &Server, connections: &[ConnStat], limits: &Limits, now: Now) -> Dump {
    let (local, sessions) = sessions(core, limits, now);
    let mut ephemerals: Vec<(SessionId, Vec<String>)> = core
        .db()
        .ephemeral_owners()
        .map(|(s, paths)| (s, paths.iter().map(|p| p.to_string()).collect()))
        .collect();
    ephemerals.sort_unstable_by_key(|(s, _)| *s);
    let mut by_expiry: BTreeMap<i64, Vec<_>> = BTreeMap::new();
    for c in connections {
        let expires = if c.session == SessionId::NONE {
            c.established_ms + i64::from(limits.sessionless_timeout_ms)
        } else {
            c.last_response_ms + i64::from(c.timeout_ms)
        };
        by_expiry.entry(expires).or_default().push((c.peer, c.session));
    }
    Dump { local, sessions, ephemerals, connections: by_expiry.into_iter().collect() }
}

/// Sessions by when they expire.
type Expiring = Vec<(i64, Vec<SessionId>)>;

/// Those that only this server knows, and those that all know: with their deadlines where those are kept.
fn sessions(core: &Server, limits: &Limits, now: Now) -> (Option<Expiring>, Sessions) {
    // Deadlines are monotonic; what is printed is the wall clock.
    let wall = |mono_ms: u64| now.wall.0 + mono_ms as i64 - now.mono.0 as i64;
    let of = |local: bool| {
        let tracker = core.tracker();
        let mut sets: Expiring = tracker.buckets().map(|(end, ids)| (wall(end.0), ids)).collect();
        sets.iter_mut().for_each(|(_, ids)| ids.retain(|id| tracker.is_local(*id) == local));
        sets.retain(|(_, ids)| !ids.is_empty());
        sets
    };
    let in_ensemble = core.role() != Role::Alone;
    let local = (in_ensemble && (limits.local_sessions || core.is_read_only())).then(|| of(true));
    let all = match core.role() {
        Role::Alone | Role::Leading => Sessions::Expiring(of(false)),
        _ => {
            let mut known: Vec<_> = core.db().sessions().iter().map(|(id, ms)| (*id, *ms)).collect();
            known.sort_unstable();
            Sessions::Global(known)
        }
    };
    (local, all)
}

/// Bytes of the files directly in a directory; 0 where it cannot be read.
fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|e| e.metadata().ok()).filter(|m| m.is_file()).map(|m| m.len()).sum()
}
