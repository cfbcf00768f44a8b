//! The merge: entries of zoo.cfg through the key table into a draft, then the draft, the profile and the command line
//! into one consistent `Config` and `Profile`.
//!
//! Not here: single values (`values`, `set`), directories on disk (`dirs`).
//! Invariants: the command line wins over the file, the file over the profile; relations between keys are checked
//! after everything is known, so the order of lines never matters.

use super::ensemble::EnsembleDraft;
use super::keys::{self, Rule};
use super::properties::{self, Entry};
use super::servers::ServerLine;
use super::{Config, ConfigError, Loaded, Purge, Sources, Warning, listen_on};
use crate::config::{DEFAULT_CLIENT_PORT, DEFAULT_DATA_DIR};
use engine::limits::Limits;
use profiles::{Durability, Profile};
use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

/// `fsync.warningthresholdms` when it is not given.
pub const FSYNC_WARNING_MS: u64 = 1_000;
/// `tickTime` when a zoo.cfg does not give it.
const TICK_MS: u32 = 3_000;
const PURGE_KEEP_MIN: u32 = 3;
/// Purge of a server without a zoo.cfg: nobody is told to run one, so it keeps itself small.
const PURGE_UNCONFIGURED: Purge = Purge { keep_snapshots: 3, interval_ms: 3_600_000 };
/// The profile's range of `segment_bytes`.
const SEGMENT_BYTES: (u64, u64) = (8 << 20, 16 << 30);
/// How the keys about members begin, in either file.
const MEMBER_KEYS: [&str; 3] = ["server.", "group.", "weight."];
/// The profile's upper end of `group_wait_us`.
const GROUP_WAIT_US_MAX: u64 = 100_000;

/// What the file has said so far. The numbers beside some values are their lines.
pub struct Draft {
    pub limits: Limits,
    pub data_dir: Option<PathBuf>,
    pub data_log_dir: Option<PathBuf>,
    pub create_dirs: bool,
    pub create_db: bool,
    pub client_port: Option<u16>,
    pub client_port_address: Option<IpAddr>,
    pub listen_backlog: i32,
    pub min_session_timeout: Option<i32>,
    pub max_session_timeout: Option<i32>,
    pub standalone_enabled: bool,
    pub servers: BTreeMap<u64, (ServerLine, usize)>,
    pub dynamic_config_file: Option<PathBuf>,
    /// Of the members: the suffix of the dynamic file's name, or its `version`.
    pub version: u64,
    pub ensemble: EnsembleDraft,
    pub snap_count: Option<u64>,
    pub snap_size_bytes: Option<u64>,
    pub prealloc_bytes: Option<(u64, usize)>,
    pub txn_log_bytes: Option<(u64, usize)>,
    pub flush_delay_ms: Option<(u64, usize)>,
    pub force_sync: bool,
    pub fsync_warning_ms: u64,
    pub purge_retain: Option<(u32, usize)>,
    pub purge_interval_ms: Option<u64>,
    /// The file that is read, for errors and warnings.
    path: PathBuf,
    warnings: Vec<Warning>,
}

impl Draft {
    fn new(path: &Path) -> Draft {
        Draft {
            limits: Limits { tick_ms: TICK_MS, ..Limits::default() },
            data_dir: None,
            data_log_dir: None,
            create_dirs: true,
            create_db: true,
            client_port: None,
            client_port_address: None,
            listen_backlog: -1,
            min_session_timeout: None,
            max_session_timeout: None,
            standalone_enabled: true,
            servers: BTreeMap::new(),
            dynamic_config_file: None,
            version: 0,
            ensemble: EnsembleDraft::default(),
            snap_count: None,
            snap_size_bytes: None,
            prealloc_bytes: None,
            txn_log_bytes: None,
            flush_delay_ms: None,
            force_sync: true,
            fsync_warning_ms: FSYNC_WARNING_MS,
            purge_retain: None,
            purge_interval_ms: None,
            path: path.to_owned(),
            warnings: Vec::new(),
        }
    }

    /// One line for the log about a key of the file that is read.
    pub fn warn(&mut self, line: usize, key: &str, why: impl Into<String>) {
        let place = Some((self.path.clone(), line));
        self.warnings.push(Warning { place, key: key.to_owned(), why: why.into() });
    }

    /// Takes one entry by the key table.
    fn take(&mut self, e: &Entry) -> Result<(), ConfigError> {
        let value_error = |path: &Path, allowed: super::values::Allowed| ConfigError::Value {
            path: path.to_owned(),
            line: e.line,
            key: e.key.clone(),
            value: e.value.clone(),
            allowed: allowed.0,
        };
        let Some(key) = keys::lookup(&e.key) else {
            return self.take_unknown(e);
        };
        match key.rule {
            Rule::Honoured(set) => set(self, e).map_err(|a| value_error(&self.path, a))?,
            Rule::Warned { form, same, why } => {
                form.check(&e.value).map_err(|a| value_error(&self.path, a))?;
                if !same.contains(&e.value.as_str()) {
                    self.warn(e.line, &e.key, format!("ignored: {why}"));
                }
            }
            Rule::Refused { form, same, why } => {
                form.check(&e.value).map_err(|a| value_error(&self.path, a))?;
                if !same.contains(&e.value.as_str()) {
                    return Err(self.refused(e.line, &e.key, why));
                }
            }
        }
        Ok(())
    }

    /// A key that must not be ignored.
    pub fn refused(&self, line: usize, key: &str, why: &str) -> ConfigError {
        ConfigError::Refused { path: self.path.clone(), line, key: key.to_owned(), why: why.to_owned() }
    }

    /// A key without a row. ZooKeeper makes the Java property `zookeeper.<key>` of it, so a key that already begins
    /// with `zookeeper.` does nothing there; one that asks for security is refused all the same.
    fn take_unknown(&mut self, e: &Entry) -> Result<(), ConfigError> {
        let short = e.key.strip_prefix("zookeeper.").and_then(|k| Some((k, keys::lookup(k)?)));
        match short {
            Some((short, row)) => {
                if let Rule::Refused { same, why, .. } = row.rule
                    && !same.contains(&e.value.as_str())
                {
                    return Err(self.refused(e.line, &e.key, why));
                }
                self.warn(e.line, &e.key, format!("ignored, as ZooKeeper does in this file; write {short}="));
            }
            None => self.warn(e.line, &e.key, "ignored: no such key"),
        }
        Ok(())
    }

    /// Runs a file's entries; of a key that is given twice the last one counts, as in Java, unless it is about members.
    fn take_all(&mut self, entries: &[Entry]) -> Result<(), ConfigError> {
        let last: HashMap<&str, usize> = entries.iter().map(|e| (e.key.as_str(), e.line)).collect();
        for e in entries {
            if last[e.key.as_str()] == e.line {
                self.take(e)?;
            } else if MEMBER_KEYS.iter().any(|p| e.key.starts_with(p)) {
                let why = format!(
                    "line {} says it again; one of the two is wrong, and which servers vote must not be left to chance",
                    last[e.key.as_str()]
                );
                return Err(self.refused(e.line, &e.key, &why));
            } else {
                self.warn(e.line, &e.key, format!("overridden by line {}", last[e.key.as_str()]));
            }
        }
        Ok(())
    }
}

/// Reads everything and merges it.
///
/// # Errors
/// A file that cannot be read, a malformed value, a refused key, a missing or contradictory one, a bad profile.
pub fn load(from: &Sources) -> Result<Loaded, ConfigError> {
    let mut profile = Profile::load(from.profile.as_deref().unwrap_or("balanced"))?;
    let Some(file) = &from.file else {
        return Ok(unconfigured(from, profile));
    };
    let mut draft = Draft::new(file);
    draft.take_all(&properties::read_file(file)?)?;
    take_dynamic_file(&mut draft, file)?;

    let data_dir = from.data_dir.clone().or(draft.data_dir.take());
    let data_dir =
        data_dir.ok_or_else(|| incomplete(file, "dataDir is not set; it says where data is kept"))?;
    let data_log_dir = draft.data_log_dir.take().unwrap_or_else(|| data_dir.clone());
    let my_id = super::dirs::read_my_id(&data_dir)?;
    let client_addrs = client_addrs(from, &draft, my_id)?;
    refuse_tls(&draft, my_id)?;
    let ensemble = super::ensemble::resolve(&mut draft, my_id, &data_dir, file)?;
    session_timeouts(&mut draft)?;
    let purge = purge(&mut draft);
    into_profile(&mut draft, &mut profile);
    take_profile_limits(&mut draft.limits, &profile);
    draft.limits.lone_voter = !draft.standalone_enabled;
    if draft.limits.read_only_mode
        && let Some(words) = &mut draft.limits.words
        && !words.iter().any(|w| &**w == "isro")
    {
        words.push("isro".into());
    }
    let mut warnings = draft.warnings;
    warnings.extend(durability_warning(&profile, draft.force_sync));
    let config = Config {
        origin: Some(file.clone()),
        client_addrs,
        listen_backlog: draft.listen_backlog,
        data_dir,
        data_log_dir,
        create_dirs: draft.create_dirs,
        create_db: draft.create_db,
        my_id,
        limits: draft.limits,
        purge,
        fsync_warning_ms: draft.fsync_warning_ms,
        ensemble,
    };
    Ok(Loaded { config, profile, warnings })
}

/// No zoo.cfg: standalone, loopback only, so neither the connection limit nor the list of words protects anybody.
fn unconfigured(from: &Sources, profile: Profile) -> Loaded {
    let data_dir = from.data_dir.clone().unwrap_or_else(|| PathBuf::from(DEFAULT_DATA_DIR));
    let mut config = Config::embedded(data_dir, &profile);
    let port = from.client_port.unwrap_or(DEFAULT_CLIENT_PORT);
    config.client_addrs = listen_on(Some(IpAddr::V4(Ipv4Addr::LOCALHOST)), port);
    config.purge = Some(PURGE_UNCONFIGURED);
    let warnings = durability_warning(&profile, true).into_iter().collect();
    Loaded { config, profile, warnings }
}

pub fn incomplete(path: &Path, what: impl Into<String>) -> ConfigError {
    ConfigError::Incomplete { path: path.to_owned(), what: what.into() }
}

/// `dynamicConfigFile`: only members may stand in it. A relative path counts from the working directory, as in Java.
fn take_dynamic_file(draft: &mut Draft, main: &Path) -> Result<(), ConfigError> {
    let Some(path) = draft.dynamic_config_file.clone() else { return Ok(()) };
    if let Some((id, (_, line))) = draft.servers.first_key_value() {
        let why = format!(
            "with a dynamicConfigFile, members stand only there; take the server lines out of this file, or out of {}",
            path.display()
        );
        return Err(draft.refused(*line, &format!("server.{id}"), &why));
    }
    let entries = properties::read_file(&path)?;
    draft.path = path.clone();
    for e in &entries {
        if e.key != "version" && !MEMBER_KEYS.iter().any(|p| e.key.starts_with(p)) {
            let what =
                "only server.N, group.N, weight.N and version may stand in a dynamic configuration file";
            return Err(draft.refused(e.line, &e.key, what));
        }
    }
    // ZooKeeper takes the version from the file's name; a file that it wrote says it inside as well.
    let suffix = path.extension().and_then(|e| e.to_str());
    let inside = entries.iter().find(|e| e.key == "version").map(|e| e.value.as_str());
    draft.version = suffix.or(inside).and_then(|v| u64::from_str_radix(v, 16).ok()).unwrap_or(0);
    let members: Vec<Entry> = entries.into_iter().filter(|e| e.key != "version").collect();
    draft.take_all(&members)?;
    draft.path = main.to_owned();
    Ok(())
}

/// A TLS address of our own cannot be served. Other members may be servers that have one.
fn refuse_tls(draft: &Draft, my_id: Option<u64>) -> Result<(), ConfigError> {
    let ensemble = super::ensemble::is_ensemble(draft);
    let ours = |id: &u64| !ensemble || my_id == Some(*id);
    match draft.servers.iter().find(|(id, (s, _))| ours(id) && s.secure.is_some()) {
        None => Ok(()),
        Some((id, (_, line))) => {
            let why = "TLS is not built yet, so the secure client address cannot be served";
            Err(draft.refused(*line, &format!("server.{id}"), why))
        }
    }
}

/// Where clients connect: the command line's port, else `clientPort`, else what the server's own line carries.
fn client_addrs(
    from: &Sources,
    draft: &Draft,
    my_id: Option<u64>,
) -> Result<Vec<std::net::SocketAddr>, ConfigError> {
    let path = &draft.path;
    let own = my_id.and_then(|id| draft.servers.get(&id));
    let in_line = match own {
        None => None,
        Some((server, line)) => server.client_listen().map_err(|a| ConfigError::Value {
            path: path.clone(),
            line: *line,
            key: format!("server.{}", server.id),
            value: server.client.as_ref().and_then(|(host, _)| host.clone()).unwrap_or_default(),
            allowed: a.0,
        })?,
    };
    if let (Some((ip, port)), Some(given)) = (in_line, draft.client_port)
        && (port != given || ip.is_some_and(|ip| draft.client_port_address.is_some_and(|a| a != ip)))
    {
        let what =
            format!("clientPort {given} contradicts the client address in server.{}", my_id.unwrap_or(0));
        return Err(incomplete(path, what));
    }
    let address = draft.client_port_address.or(in_line.and_then(|(ip, _)| ip));
    let port = from.client_port.or(draft.client_port).or(in_line.map(|(_, port)| port));
    let port =
        port.ok_or_else(|| incomplete(path, "clientPort is not set; it says where clients connect"))?;
    Ok(listen_on(address, port))
}

/// 2 and 20 ticks unless given; the shortest must not be longer than the longest.
fn session_timeouts(draft: &mut Draft) -> Result<(), ConfigError> {
    let tick = draft.limits.tick_ms as i32; // at most i32::MAX / 20, so that 20 ticks fit
    let min = draft.min_session_timeout.unwrap_or(2 * tick);
    let max = draft.max_session_timeout.unwrap_or(20 * tick);
    if min > max {
        let what = format!("minSessionTimeout ({min} ms) must not be above maxSessionTimeout ({max} ms)");
        return Err(incomplete(&draft.path, what));
    }
    draft.limits.min_session_timeout_ms = min;
    draft.limits.max_session_timeout_ms = max;
    Ok(())
}

fn purge(draft: &mut Draft) -> Option<Purge> {
    let (mut keep, line) = draft.purge_retain.unwrap_or((PURGE_KEEP_MIN, 0));
    if keep < PURGE_KEEP_MIN {
        draft.warn(
            line,
            "autopurge.snapRetainCount",
            format!("{PURGE_KEEP_MIN} are kept, the least allowed"),
        );
        keep = PURGE_KEEP_MIN;
    }
    draft.purge_interval_ms.map(|interval_ms| Purge { keep_snapshots: keep, interval_ms })
}

/// What zoo.cfg says about matters that profiles tune: it wins.
fn into_profile(draft: &mut Draft, profile: &mut Profile) {
    if let Some(n) = draft.snap_count {
        profile.snapshot_txns = n;
    }
    if let Some(n) = draft.snap_size_bytes {
        profile.snapshot_log_bytes = n;
    }
    if draft.listen_backlog > 0 {
        profile.backlog = draft.listen_backlog as u32;
    }
    // ZooKeeper preallocates in steps within a file, Serval whole segments: the roll size says it best.
    let sized = draft.txn_log_bytes.map(|v| ("txnLogSizeLimitInKb", v));
    if let Some((key, (wanted, line))) = sized.or(draft.prealloc_bytes.map(|v| ("preAllocSize", v))) {
        let least = SEGMENT_BYTES.0.max(2 * profile.group_max_bytes);
        profile.segment_bytes = wanted.clamp(least, SEGMENT_BYTES.1.max(least));
        if profile.segment_bytes != wanted {
            draft.warn(
                line,
                key,
                format!("log segments are {} KiB, the nearest possible", profile.segment_bytes >> 10),
            );
        }
    }
    if let Some((ms, line)) = draft.flush_delay_ms {
        let us = ms.saturating_mul(1_000).min(GROUP_WAIT_US_MAX);
        profile.group_wait_us = us as u32;
        if us / 1_000 != ms {
            draft.warn(
                line,
                "flushDelay",
                format!("writes wait {} ms for company, the most allowed", us / 1_000),
            );
        }
    }
    if !draft.force_sync {
        profile.durability = Durability::AsyncUnsafeLosesAcknowledgedWrites;
    }
}

/// Puts the profile's bounds on unsent bytes into the limits.
pub fn take_profile_limits(limits: &mut Limits, profile: &Profile) {
    let size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
    limits.conn_soft_limit_bytes = size(profile.conn_soft_limit_bytes);
    limits.conn_hard_limit_bytes = size(profile.conn_hard_limit_bytes);
    limits.shard_out_limit_bytes = size(profile.total_out_limit_bytes);
}

fn durability_warning(profile: &Profile, force_sync: bool) -> Option<Warning> {
    let key = if force_sync { "durability" } else { "forceSync" };
    (profile.durability != Durability::Sync).then(|| Warning {
        place: None,
        key: key.to_owned(),
        why: "writes are acknowledged before they are on disk: a power cut or a crash of the host loses the last \
              acknowledged writes"
            .to_owned(),
    })
}

/// Takes entries for the sake of taking them: whatever they say, this returns.
#[cfg(test)]
pub fn try_entries(entries: &[Entry]) {
    let _any_answer_will_do = Draft::new(Path::new("x")).take_all(entries);
}
