//! From the configuration of an ensemble to what its core is told.
//!
//! Not here: reading the configuration (`config`), the sockets (`peers`).

use crate::config::{Config, EnsembleConfig};
use crate::peers::{PeerLine, PeerOptions, Peers};
use crate::ring::Wake;
use anyhow::{Context, Result, bail};
use engine::ids::Zxid;
use engine::limits::Limits;
use engine::zab::members::{Member, Members};
use engine::zab::{Epochs, Knobs, Settings};
use std::sync::Arc;

/// The longest packet that is taken from a peer: twice what a client may send is what Apache's readers take, and a
/// transaction that closes a session with very many ephemerals may be far longer (fact sheet section 1).
const PACKET_BYTES_MIN: usize = 256 << 20;

/// What the engine is told.
pub fn settings(e: &EnsembleConfig, limits: &Limits, (empty, begins): (bool, bool)) -> Settings {
    Settings {
        me: e.me,
        observer: !e.members.is_voter(e.me),
        tick_ms: u64::from(e.tick_ms),
        init_limit: u64::from(e.init_limit),
        sync_limit: u64::from(e.sync_limit),
        epoch_wait_ms: e.max_time_to_wait_for_epoch_ms,
        knobs: Knobs {
            finalize_wait_ms: e.finalize_wait_ms,
            notification_min_ms: e.notification_min_ms,
            notification_max_ms: e.notification_max_ms,
        },
        packet_max: packet_max(limits),
        empty,
        begins,
    }
}

fn packet_max(limits: &Limits) -> usize {
    limits.jute_max_buffer.saturating_mul(2).max(PACKET_BYTES_MIN)
}

/// Binds the two ports for the other members.
///
/// # Errors
/// They cannot be bound.
pub fn open_peers(e: &EnsembleConfig, limits: &Limits, wake: Arc<dyn Wake>) -> Result<Peers> {
    let options = PeerOptions {
        connect_timeout_ms: e.cnx_timeout_ms,
        dial_limit_ms: u64::from(e.tick_ms) * u64::from(e.connect_to_learner_master_limit),
        listen_on_all_ips: e.quorum_listen_on_all_ips,
        multi_address: e.multi_address,
        observer_master_port: e.observer_master_port,
        max_packet_bytes: packet_max(limits) + (64 << 10),
        ..PeerOptions::default()
    };
    Peers::open(e.me, lines(&e.members, None), options, wake)
        .with_context(|| format!("server {} cannot listen for its peers", e.me))
}

/// Whether a server may not vote yet: its directory holds nothing, or nothing that counts, and the operator has not
/// allowed it to begin a history (a file `initialize` beside `myid`, which is used up, fact sheet 10.4).
pub fn is_empty(config: &Config, last: Zxid, epochs: Epochs, logged: bool) -> bool {
    if last != Zxid::ZERO || (epochs.current > 0 && !logged) {
        return false;
    }
    let allowed = config.data_dir.join("initialize");
    if std::fs::remove_file(&allowed).is_ok() {
        tracing::info!("{} allows this server to begin with nothing", allowed.display());
        return false;
    }
    true
}

/// What a member that has nothing tells its operator.
pub fn say_empty(config: &Config) {
    let allowed = config.data_dir.join("initialize");
    let (or, to) = match config.create_db {
        true => (", or when all voters are there and none has data", " with fewer"),
        false => ("; it begins nothing by itself, as db.autocreate=false asks", ""),
    };
    tracing::info!(
        "this server has no data: it gets a vote when it is synchronised{or}; to let it begin a new ensemble{to}, stop it and \
         create {}",
        allowed.display()
    );
}

/// With `db.autocreate=false` a lone server starts with its data or not at all.
///
/// # Errors
/// It has none, and nobody said that this is right.
pub fn must_not_begin(config: &Config, empty: bool) -> Result<()> {
    if config.create_db || !empty {
        return Ok(());
    }
    bail!(
        "the data directory {} holds no data, and db.autocreate=false; restore it, or create {} to let this server begin with \
         nothing",
        config.data_dir.display(),
        config.data_dir.join("initialize").display()
    )
}

/// The members as their sockets need them; of those of a reconfiguration under way only who is new.
pub fn lines(members: &Members, next: Option<&Members>) -> Vec<PeerLine> {
    let line = |m: &Member| PeerLine {
        id: m.id,
        observer: m.observer,
        addresses: m.peers.iter().map(|p| (p.host.clone(), p.quorum_port, p.election_port)).collect(),
    };
    let new = next.into_iter().flat_map(Members::iter).filter(|m| members.get(m.id).is_none());
    members.iter().chain(new).map(line).collect()
}
