//! What a member of an ensemble is told, besides what every server is.
//!
//! Not here: what members do with it (`engine::zab`, `peers`).
//! Rules (fact sheet section 6): more than one server line, or `standaloneEnabled=false`, makes an ensemble; exactly one
//! voter with `standaloneEnabled=true` serves alone.

use super::ConfigError;
use super::properties::Entry;
use super::resolve::{Draft, incomplete};
use super::servers::ServerLine;
use super::values::{self, Allowed};
use engine::ids::ServerId;
use engine::zab::members::{Groups, Member, Members, PeerAddr};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const INT_MAX: i64 = i32::MAX as i64;
/// Defaults of our own where a zoo.cfg gives none: elections need not be slow.
const FINALIZE_WAIT_MS: u64 = 20;
const NOTIFICATION_MIN_MS: u64 = 20;
const NOTIFICATION_MAX_MS: u64 = 60_000;
const CNX_TIMEOUT_MS: u64 = 5_000;

/// A server's place in an ensemble (fact sheet section 6). Times are in ms, limits in ticks.
#[derive(Clone, Debug)]
pub struct EnsembleConfig {
    /// The number in `myid`.
    pub me: ServerId,
    /// Every member, with quorums.
    pub members: Arc<Members>,
    /// `tickTime`, at least 1.
    pub tick_ms: u32,
    /// Ticks until a learner must be synchronised (`initLimit`), at least 1.
    pub init_limit: u32,
    /// Ticks that a peer may be silent (`syncLimit`), at least 1.
    pub sync_limit: u32,
    /// Ticks within which a chosen leader must be reached (`connectToLearnerMasterLimit`; not given: `initLimit`).
    pub connect_to_learner_master_limit: u32,
    /// `leader.maxTimeToWaitForEpoch`; `None`: as long as `initLimit` allows.
    pub max_time_to_wait_for_epoch_ms: Option<u64>,
    /// How long a vote with a quorum waits for a better one, unless every voter has voted.
    pub finalize_wait_ms: u64,
    /// Between two notifications while nobody answers: at first, and at most (`fastleader.*NotificationInterval`).
    pub notification_min_ms: u64,
    pub notification_max_ms: u64,
    /// How long a connection to an election or quorum port may take to be set up (`cnxTimeout`).
    pub cnx_timeout_ms: u64,
    /// Peers' ports are bound on all interfaces instead of the address of the own line (`quorumListenOnAllIPs`).
    pub quorum_listen_on_all_ips: bool,
    /// Peers are told every address of the own line, which servers before 3.6 do not understand
    /// (`multiAddress.enabled`).
    pub multi_address: bool,
    /// Where voters that follow serve observers, and observers look for them (`observerMasterPort`); 0: nowhere.
    pub observer_master_port: u16,
}

impl EnsembleConfig {
    /// A member of an ensemble on one host, for tests and embedding.
    pub fn local(me: ServerId, members: Arc<Members>) -> EnsembleConfig {
        EnsembleConfig {
            me,
            members,
            tick_ms: 2_000,
            init_limit: 10,
            sync_limit: 5,
            connect_to_learner_master_limit: 10,
            max_time_to_wait_for_epoch_ms: None,
            finalize_wait_ms: FINALIZE_WAIT_MS,
            notification_min_ms: NOTIFICATION_MIN_MS,
            notification_max_ms: NOTIFICATION_MAX_MS,
            cnx_timeout_ms: CNX_TIMEOUT_MS,
            quorum_listen_on_all_ips: false,
            multi_address: false,
            observer_master_port: 0,
        }
    }
}

/// What the file has said about the ensemble so far.
#[derive(Default)]
pub struct EnsembleDraft {
    pub init_limit: Option<u32>,
    pub sync_limit: Option<u32>,
    pub connect_limit: Option<u32>,
    pub epoch_wait_ms: Option<u64>,
    pub notification_min_ms: Option<u64>,
    pub notification_max_ms: Option<u64>,
    pub cnx_timeout_ms: Option<u64>,
    pub listen_on_all_ips: bool,
    pub multi_address: bool,
    pub observer_master_port: u16,
    /// `peerType=observer`, and its line.
    pub observer: Option<usize>,
    /// `group.N=a:b:c`.
    groups: BTreeMap<i64, Vec<ServerId>>,
    weights: BTreeMap<ServerId, u32>,
}

type Done = Result<(), Allowed>;

/// Ticks: at least one.
pub fn ticks(e: &Entry) -> Result<u32, Allowed> {
    Ok(values::int(&e.value, 1, INT_MAX)? as u32)
}
/// Milliseconds: at least one.
pub fn millis(e: &Entry) -> Result<u64, Allowed> {
    Ok(values::int(&e.value, 1, INT_MAX)? as u64)
}

pub fn connect_limit(d: &mut Draft, e: &Entry) -> Done {
    d.ensemble.connect_limit = Some(values::int(&e.value, 0, INT_MAX)? as u32).filter(|&n| n > 0);
    Ok(())
}
pub fn epoch_wait(d: &mut Draft, e: &Entry) -> Done {
    d.ensemble.epoch_wait_ms = u64::try_from(values::int(&e.value, -1, INT_MAX)?).ok();
    Ok(())
}
pub fn observer_master_port(d: &mut Draft, e: &Entry) -> Done {
    d.ensemble.observer_master_port = values::int(&e.value, 0, 65_535)? as u16;
    Ok(())
}
pub fn peer_type(d: &mut Draft, e: &Entry) -> Done {
    d.ensemble.observer = match e.value.to_ascii_lowercase().as_str() {
        "observer" => Some(e.line),
        "participant" => None,
        _ => return Err(Allowed("participant or observer".into())),
    };
    Ok(())
}
pub fn group(d: &mut Draft, e: &Entry) -> Done {
    let wrong = || Allowed("group.N=a:b:c with numbers of servers".into());
    let number = e.key.strip_prefix("group.").and_then(|n| n.parse::<i64>().ok()).ok_or_else(wrong)?;
    let ids = e.value.split(':').map(|n| n.trim().parse().map(ServerId)).collect::<Result<Vec<_>, _>>();
    d.ensemble.groups.insert(number, ids.map_err(|_| wrong())?);
    Ok(())
}
pub fn weight(d: &mut Draft, e: &Entry) -> Done {
    let wrong = || Allowed("weight.N=W with a server's number and a weight of at least 0".into());
    let number = e.key.strip_prefix("weight.").and_then(|n| n.parse().ok()).ok_or_else(wrong)?;
    let weight = values::int(&e.value, 0, INT_MAX)? as u32;
    d.ensemble.weights.insert(ServerId(number), weight);
    Ok(())
}

/// Whether the lines make an ensemble.
pub fn is_ensemble(draft: &Draft) -> bool {
    draft.servers.len() > 1 || (!draft.servers.is_empty() && !draft.standalone_enabled)
}

/// The ensemble of the draft; `None`: it serves alone.
///
/// # Errors
/// What is missing or contradictory, and where to write what.
pub fn resolve(
    draft: &mut Draft,
    my_id: Option<u64>,
    data_dir: &Path,
    file: &Path,
) -> Result<Option<EnsembleConfig>, ConfigError> {
    if !is_ensemble(draft) {
        return Ok(None);
    }
    let voters = draft.servers.values().filter(|(s, _)| !s.observer).count();
    if voters == 1 && draft.standalone_enabled {
        return Err(incomplete(
            file,
            "observers need an ensemble of more than one participant; with a single one write standaloneEnabled=false",
        ));
    }
    let id_file = data_dir.join("myid");
    let Some(id) = my_id else {
        return Err(incomplete(
            &id_file,
            format!(
                "this file is missing; write the number of this server into it, one of {}",
                numbers(draft)
            ),
        ));
    };
    let Some((own, line)) = draft.servers.get(&id).map(|(s, line)| (s.clone(), *line)) else {
        return Err(incomplete(
            &id_file,
            format!(
                "it says {id}, but there is no server.{id} in {}; allowed is one of {}",
                file.display(),
                numbers(draft)
            ),
        ));
    };
    check_addresses(draft)?;
    warn_of_equal_session_ids(draft);
    if draft.limits.extended_types && id > 254 {
        return Err(incomplete(&id_file, "with extendedTypesEnabled=true the number may be 254 at most"));
    }
    if let Some(at) = draft.ensemble.observer.filter(|_| !own.observer) {
        draft.warn(
            at,
            "peerType",
            format!("ignored: server.{id} on line {line} is a participant; write :observer there"),
        );
    }
    let needed = |name: &str| {
        incomplete(file, format!("{name} is not set; an ensemble needs it (a number of ticks, such as 10)"))
    };
    let init_limit = draft.ensemble.init_limit.ok_or_else(|| needed("initLimit"))?;
    let sync_limit = draft.ensemble.sync_limit.ok_or_else(|| needed("syncLimit"))?;
    let members = members(draft).map_err(|why| incomplete(file, why))?;
    let e = &draft.ensemble;
    Ok(Some(EnsembleConfig {
        me: ServerId(id as i64),
        members: Arc::new(members),
        tick_ms: draft.limits.tick_ms,
        init_limit,
        sync_limit,
        connect_to_learner_master_limit: e.connect_limit.unwrap_or(init_limit),
        max_time_to_wait_for_epoch_ms: e.epoch_wait_ms,
        finalize_wait_ms: FINALIZE_WAIT_MS,
        notification_min_ms: e.notification_min_ms.unwrap_or(NOTIFICATION_MIN_MS),
        notification_max_ms: e.notification_max_ms.unwrap_or(NOTIFICATION_MAX_MS),
        cnx_timeout_ms: e.cnx_timeout_ms.unwrap_or(CNX_TIMEOUT_MS),
        quorum_listen_on_all_ips: e.listen_on_all_ips,
        multi_address: e.multi_address,
        observer_master_port: e.observer_master_port,
    }))
}

/// Several addresses only where they are asked for, and no address that belongs to two ports.
fn check_addresses(draft: &Draft) -> Result<(), ConfigError> {
    let mut taken = BTreeMap::new();
    for (id, (server, line)) in &draft.servers {
        let key = format!("server.{id}");
        if server.addresses.len() > 1 && !draft.ensemble.multi_address {
            let why = "several addresses of one server need multiAddress.enabled=true, on every server";
            return Err(draft.refused(*line, &key, why));
        }
        for a in &server.addresses {
            for (port, what) in [(a.quorum_port, "quorum port"), (a.election_port, "election port")] {
                if let Some((other, its)) = taken.insert((&a.host, port), (*id, what)) {
                    let why = format!("{}:{port} is both its {what} and the {its} of server.{other}", a.host);
                    return Err(draft.refused(*line, &key, &why));
                }
            }
        }
    }
    Ok(())
}

/// The last 8 bits of a server's number begin the ids of the sessions that it makes.
fn warn_of_equal_session_ids(draft: &mut Draft) {
    let mut first = BTreeMap::new();
    let mut equal = Vec::new();
    for (id, (_, line)) in &draft.servers {
        match first.get(&(id & 0xff)) {
            Some(other) => equal.push((*line, *id, *other)),
            None => drop(first.insert(id & 0xff, *id)),
        }
    }
    for (line, id, other) in equal {
        let why = format!(
            "its sessions may get the ids of server.{other}'s, since the numbers of both have the same last 8 bits; give \
             servers numbers up to 255"
        );
        draft.warn(line, &format!("server.{id}"), why);
    }
}

fn numbers(draft: &Draft) -> String {
    draft.servers.keys().map(u64::to_string).collect::<Vec<_>>().join(", ")
}

fn members(draft: &Draft) -> Result<Members, String> {
    let lines = draft.servers.values().map(|(s, _)| member(s)).collect();
    let e = &draft.ensemble;
    let groups = (!e.groups.is_empty()).then(|| Groups {
        group: e.groups.iter().flat_map(|(g, ids)| ids.iter().map(|id| (*id, *g))).collect(),
        weight: e.weights.clone(),
    });
    if e.groups.is_empty() && !e.weights.is_empty() {
        return Err("weight.N is set but no group.N; weights count within groups".into());
    }
    Members::new(draft.version, lines, groups)
}

fn member(s: &ServerLine) -> Member {
    let address = |a: &(Option<String>, u16)| (a.0.clone().unwrap_or_else(|| "0.0.0.0".into()), a.1);
    Member {
        id: ServerId(s.id as i64),
        observer: s.observer,
        peers: s
            .addresses
            .iter()
            .map(|a| PeerAddr {
                host: a.host.clone(),
                quorum_port: a.quorum_port,
                election_port: a.election_port,
            })
            .collect(),
        client: s.client.as_ref().map(address),
        secure: s.secure.as_ref().map(address),
    }
}
