//! Configuration: `zoo.cfg`, the profile and the command line, merged into one typed [`Config`] before anything starts.
//!
//! Lives here: reading properties text (`properties`), the key table (`keys`, `set`), the forms of values (`values`),
//! `server.N` lines (`servers`), files that follow a reconfiguration (`dynamic`), the merge and its relations (`resolve`), the rules for data directories (`dirs`).
//! Not here: what a limit or a knob does (engine, `profiles`), any socket or thread.
//! Invariants: a `Config` that `load` returned is complete and consistent; every key of the file was honoured, or
//! warned about once, or the load failed; nothing is taken from the environment.

mod dirs;
mod dynamic;
mod ensemble;
mod keys;
mod properties;
mod resolve;
mod servers;
mod set;
mod values;

pub use dirs::DirError;
pub use dynamic::DynamicFiles;
pub use ensemble::EnsembleConfig;
pub use resolve::load;
pub use servers::{PeerAddress, ServerLine};

use engine::limits::Limits;
use profiles::Profile;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

/// Port of a server that is told none.
pub const DEFAULT_CLIENT_PORT: u16 = 2181;
/// Data directory of a server that is told none, relative to where it was started.
pub const DEFAULT_DATA_DIR: &str = "./serval-data";

/// Where configuration comes from. All `None`: standalone on loopback, data in `./serval-data`.
#[derive(Clone, Default, Debug)]
pub struct Sources {
    /// A zoo.cfg.
    pub file: Option<PathBuf>,
    /// A shipped profile's name, or a file. `None`: `balanced`.
    pub profile: Option<String>,
    /// Wins over the file's `dataDir`, and moves the log along unless the file has a `dataLogDir`.
    pub data_dir: Option<PathBuf>,
    /// Wins over the file's `clientPort`. 0: any free port.
    pub client_port: Option<u16>,
}

/// What one server runs with; all of it resolved.
#[derive(Clone, Debug)]
pub struct Config {
    /// The zoo.cfg it came from, if any.
    pub origin: Option<PathBuf>,
    /// Where clients connect. The first must be bound. An IPv6 wildcard behind it is bound for IPv6 only and may fail
    /// where the host has no IPv6. Port 0 in the first: any free port, which the others then share.
    pub client_addrs: Vec<SocketAddr>,
    /// `clientPortListenBacklog` as `conf` shows it; -1: not given. What is used is the profile's `backlog`.
    pub listen_backlog: i32,
    /// Snapshots, `myid`.
    pub data_dir: PathBuf,
    /// The log; the same as `data_dir` unless `dataLogDir` says otherwise.
    pub data_log_dir: PathBuf,
    /// `datadir.autocreate`: missing data directories are made.
    pub create_dirs: bool,
    /// `db.autocreate`: who has no data may begin a history without being told so by a file `initialize`.
    pub create_db: bool,
    /// The number in `data_dir/myid`, if there is one. A standalone server does not use it.
    pub my_id: Option<u64>,
    /// Limits and switches for core and shards. `shard_out_limit_bytes` is the profile's total over all shards: who
    /// knows how many there are divides it.
    pub limits: Limits,
    /// Deletion of old snapshots and log; `None`: never.
    pub purge: Option<Purge>,
    /// A sync of the log that takes longer is logged and counted, ms (`fsync.warningthresholdms`).
    pub fsync_warning_ms: u64,
    /// Its place in an ensemble; `None`: it serves alone.
    pub ensemble: Option<EnsembleConfig>,
}

/// `autopurge.*`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Purge {
    /// Snapshots kept; at least 3.
    pub keep_snapshots: u32,
    /// Between two purges, ms; at least 1.
    pub interval_ms: u64,
}

impl Config {
    /// A server on loopback and any free port, with everything in `data_dir`: for tests and embedding.
    pub fn embedded(data_dir: impl Into<PathBuf>, profile: &Profile) -> Config {
        let data_dir = data_dir.into();
        let mut limits = Limits { max_client_connections: 0, words: None, ..Limits::default() };
        resolve::take_profile_limits(&mut limits, profile);
        Config {
            origin: None,
            client_addrs: vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0)],
            listen_backlog: -1,
            data_log_dir: data_dir.clone(),
            data_dir,
            create_dirs: true,
            create_db: true,
            my_id: None,
            limits,
            purge: None,
            fsync_warning_ms: resolve::FSYNC_WARNING_MS,
            ensemble: None,
        }
    }

    /// Where this server's members are kept.
    pub fn dynamic_files(&self) -> DynamicFiles {
        match &self.origin {
            Some(main) => DynamicFiles::Beside(main.clone()),
            None => DynamicFiles::In(self.data_dir.clone()),
        }
    }

    /// A server without a zoo.cfg starts with the members that it had, if they are newer than those it is given.
    pub fn take_embedded_members(&mut self) {
        let known = self.dynamic_files().embedded();
        if let (Some(e), Some(known), true) = (&mut self.ensemble, known, self.limits.reconfig_enabled)
            && known.version > e.members.version
        {
            e.members = Arc::new(known);
        }
    }

    /// The port that clients were promised; 0 while it is still to be picked.
    pub fn client_port(&self) -> u16 {
        self.client_addrs[0].port()
    }
}

/// Where clients connect by a line of the members; a host of `0.0.0.0` is every interface. Names are resolved, which may wait.
///
/// # Errors
/// Why the host is none.
pub fn client_addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if host == "0.0.0.0" || host == "::" {
        return Ok(listen_on(None, port));
    }
    let ip = values::ip_addr(host).map_err(|e| format!("{host} is not {}", e.0))?;
    Ok(listen_on(Some(ip), port))
}

/// The addresses of a client port on all interfaces, or on one.
fn listen_on(address: Option<IpAddr>, port: u16) -> Vec<SocketAddr> {
    match address {
        Some(ip) => vec![SocketAddr::new(ip, port)],
        None => vec![
            SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port),
        ],
    }
}

/// What `load` gives.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The profile, with what zoo.cfg says about snapshots, segments, group commit and durability put over it.
    pub profile: Profile,
    /// To be logged, one line each, in the order of the file.
    pub warnings: Vec<Warning>,
}

/// A key that does less than it says, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Warning {
    /// File and line; `None` for what the command line or the profile says.
    pub place: Option<(PathBuf, usize)>,
    pub key: String,
    pub why: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some((path, line)) = &self.place {
            write!(f, "{}:{line}: ", path.display())?;
        }
        write!(f, "{}: {}", self.key, self.why)
    }
}

/// Why there is no configuration. Each text names file, line and key, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file system refuses it.
    #[error("{}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    /// Not properties text.
    #[error("{}:{line}: {what}", .path.display())]
    Syntax { path: PathBuf, line: usize, what: String },
    /// A value that the key may not have.
    #[error("{}:{line}: {key}: {value:?} is not allowed; allowed is {allowed}", .path.display())]
    Value { path: PathBuf, line: usize, key: String, value: String, allowed: String },
    /// A key that must not be ignored and is not built.
    #[error("{}:{line}: {key}: refused: {why}", .path.display())]
    Refused { path: PathBuf, line: usize, key: String, why: String },
    /// A key that must be there, or keys that contradict each other.
    #[error("{}: {what}", .path.display())]
    Incomplete { path: PathBuf, what: String },
    /// The profile.
    #[error(transparent)]
    Profile(#[from] profiles::ProfileError),
}

#[cfg(test)]
mod tests;
