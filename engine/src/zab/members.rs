//! Who belongs to an ensemble, who of them votes, and which sets of voters are a quorum (fact sheet sections 7 and 11).
//!
//! Lives here: the configuration's text, exactly as ZooKeeper writes it into `/zookeeper/config` and sends it along with
//! votes. Not here: how a configuration comes to be (`server`), files that hold it (`net`), name resolution.
//! Invariants of a [`Members`]:
//! - it has a voter that may lead, and every two of its quorums have a voter in common;
//! - its text, read again, gives an equal value.

use crate::ids::ServerId;
use std::collections::BTreeMap;

/// More members than an ensemble may have. Votes carry the text of all of them.
pub const MEMBERS_MAX: usize = 1_000;
/// More addresses than one member may have.
pub const ADDRESSES_MAX: usize = 16;
/// The longest name of a host, in bytes.
const HOST_BYTES_MAX: usize = 255;
/// Where clients are served when only a port is given.
const EVERYWHERE: &str = "0.0.0.0";
const GRAMMAR: &str = "host:quorumPort:electionPort[|host:quorumPort:electionPort...][:participant|:observer]\
                       [;[host:]clientPort][;[host:]securePort]";

/// Where a member listens for the others.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PeerAddr {
    /// Name or address; an IPv6 address is without brackets.
    pub host: String,
    pub quorum_port: u16,
    pub election_port: u16,
}

/// One server of the ensemble.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    pub id: ServerId,
    /// It gets everything that is committed, and has no vote.
    pub observer: bool,
    /// At least one.
    pub peers: Vec<PeerAddr>,
    /// Host (`0.0.0.0`: every interface) and port for clients; `None`: not part of the configuration.
    pub client: Option<(String, u16)>,
    /// The same for clients with TLS.
    pub secure: Option<(String, u16)>,
}

impl Member {
    /// From what stands behind `server.<id>=`. Accepts a list of addresses whether or not each names the role.
    ///
    /// # Errors
    /// What is wrong with the id or the text.
    pub fn parse(id: ServerId, text: &str) -> Result<Member, String> {
        let wrong = || format!("server.{id}={text}: expected {GRAMMAR}");
        let mut parts = text.split(';').map(str::trim);
        let mut role = None;
        let mut peers = vec![];
        for one in parts.next().unwrap_or_default().split('|') {
            let (address, said) = split_role(one.trim());
            if said.is_some() && role.is_some() && said != role {
                return Err(format!("server.{id}={text}: one server with two roles"));
            }
            role = role.or(said);
            peers.push(peer_addr(address).ok_or_else(wrong)?);
        }
        let client = match (parts.next(), parts.clone().next()) {
            (None, _) | (Some(""), Some(_)) => None,
            (Some(client), _) => Some(client_addr(client).ok_or_else(wrong)?),
        };
        let secure = parts.next().map(|s| client_addr(s).ok_or_else(wrong)).transpose()?;
        if parts.next().is_some() {
            return Err(wrong());
        }
        let member = Member { id, observer: role.unwrap_or(false), peers, client, secure };
        member.canonical()
    }

    /// What stands behind `server.<id>=`.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for (i, p) in self.peers.iter().enumerate() {
            let sep = if i == 0 { "" } else { "|" };
            out += &format!("{sep}{}:{}:{}", bracketed(&p.host), p.quorum_port, p.election_port);
        }
        out += if self.observer { ":observer" } else { ":participant" };
        let address = |a: &(String, u16)| format!(";{}:{}", bracketed(&a.0), a.1);
        match (&self.client, &self.secure) {
            (None, None) => {}
            (Some(client), None) => out += &address(client),
            (None, Some(secure)) => out = out + ";" + &address(secure),
            (Some(client), Some(secure)) => out = out + &address(client) + &address(secure),
        }
        out
    }

    /// With its addresses in the order in which they are written.
    fn canonical(mut self) -> Result<Member, String> {
        let id = self.id;
        if !(0..i64::MAX).contains(&id.0) {
            return Err(format!(
                "server.{id}: a server's number is neither negative nor the greatest there is"
            ));
        }
        if self.peers.is_empty() || self.peers.len() > ADDRESSES_MAX {
            return Err(format!(
                "server.{id}: {} addresses, expected 1 to {ADDRESSES_MAX}",
                self.peers.len()
            ));
        }
        let clients = [&self.client, &self.secure].into_iter().flatten().map(|c| &c.0);
        if let Some(host) = self.peers.iter().map(|p| &p.host).chain(clients).find(|h| !is_host(h)) {
            return Err(format!("server.{id}: {host:?} is not the name of a host"));
        }
        self.peers.sort();
        if let Some(twice) = self.peers.windows(2).find(|w| w[0] == w[1]) {
            return Err(format!("server.{id}: the address of {} twice", twice[0].host));
        }
        Ok(self)
    }
}

fn split_role(text: &str) -> (&str, Option<bool>) {
    match text.rsplit_once(':') {
        Some((rest, role)) if role.trim().eq_ignore_ascii_case("observer") => (rest, Some(true)),
        Some((rest, role)) if role.trim().eq_ignore_ascii_case("participant") => (rest, Some(false)),
        _ => (text, None),
    }
}

fn peer_addr(text: &str) -> Option<PeerAddr> {
    let (rest, election) = text.rsplit_once(':')?;
    let (host, quorum) = rest.rsplit_once(':')?;
    Some(PeerAddr { host: host_of(host)?, quorum_port: port(quorum)?, election_port: port(election)? })
}

fn client_addr(text: &str) -> Option<(String, u16)> {
    match text.rsplit_once(':') {
        None => Some((EVERYWHERE.to_owned(), port(text)?)),
        Some((host, number)) => Some((host_of(host)?, port(number)?)),
    }
}

fn port(text: &str) -> Option<u16> {
    text.trim().parse().ok().filter(|&p| p > 0)
}

/// Without brackets, which an IPv6 address must have: its last group would pass for a port.
fn host_of(text: &str) -> Option<String> {
    let text = text.trim();
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    match inner {
        Some(v6) => v6.contains(':').then(|| v6.to_owned()),
        None => (!text.contains(':')).then(|| text.to_owned()),
    }
}

/// Whether a text can stand for a host without being taken for something else when it is read again.
fn is_host(text: &str) -> bool {
    let strange = |c: char| c.is_whitespace() || c.is_control() || ";|,=[]\\#!".contains(c);
    !text.is_empty() && text.len() <= HOST_BYTES_MAX && !text.contains(strange)
}

fn bracketed(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.to_owned() }
}

/// How the voters of a hierarchical ensemble are grouped and weighed (`group.N`, `weight.N`).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Groups {
    /// Group by voter: every voter is in one.
    pub group: BTreeMap<ServerId, i64>,
    /// Weights other than 1.
    pub weight: BTreeMap<ServerId, u32>,
}

/// What a quorum needs of a group.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Group {
    voters: Vec<(ServerId, u64)>,
    weight: u64,
}

/// The members of an ensemble at one version of its configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Members {
    /// The zxid of the reconfiguration that made it; 0 for what the configuration files say.
    pub version: u64,
    members: BTreeMap<ServerId, Member>,
    /// In ascending order.
    voters: Vec<ServerId>,
    /// Empty: every majority of the voters is a quorum.
    groups: BTreeMap<i64, Group>,
}

impl Members {
    /// Of a lone server: nobody votes.
    pub fn none() -> Members {
        Members { version: 0, members: BTreeMap::new(), voters: Vec::new(), groups: BTreeMap::new() }
    }

    /// The ensemble of these servers. `groups`: `None` for quorums by majority.
    ///
    /// # Errors
    /// Why there can be no such ensemble: nobody votes, nobody may lead, a server twice, a voter in no group, ...
    pub fn new(version: u64, members: Vec<Member>, groups: Option<Groups>) -> Result<Members, String> {
        if version > i64::MAX as u64 {
            return Err(format!("version={version:x}: too large"));
        }
        if members.len() > MEMBERS_MAX {
            return Err(format!("{} servers, expected at most {MEMBERS_MAX}", members.len()));
        }
        let mut by_id = BTreeMap::new();
        for member in members {
            let member = member.canonical()?;
            let id = member.id;
            if by_id.insert(id, member).is_some() {
                return Err(format!("server.{id} is there twice"));
            }
        }
        let voters: Vec<ServerId> = by_id.values().filter(|m| !m.observer).map(|m| m.id).collect();
        if voters.is_empty() {
            let who = if by_id.is_empty() { "no servers" } else { "only observers" };
            return Err(format!("an ensemble of {who}: at least one server must be a participant"));
        }
        let groups = match groups {
            None => BTreeMap::new(),
            Some(groups) => weigh(&by_id, &voters, &groups)?,
        };
        Ok(Members { version, members: by_id, voters, groups })
    }

    /// From the text of `/zookeeper/config`, of a vote, or of a dynamic configuration file. A text without a version
    /// has version 0.
    ///
    /// # Errors
    /// Which line is wrong, or what [`Members::new`] says.
    pub fn parse(text: &str) -> Result<Members, String> {
        let (mut version, mut members) = (0, vec![]);
        let (mut group, mut weight) = (BTreeMap::new(), BTreeMap::new());
        let mut hierarchical = false;
        let lines = text.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with(['#', '!']));
        for line in lines {
            let (key, value) = line.split_once('=').ok_or_else(|| format!("{line}: expected key=value"))?;
            let (key, value) = (key.trim(), value.trim());
            let number = key.split_once('.').and_then(|(_, n)| n.parse::<i64>().ok());
            match (key.split('.').next().unwrap_or_default(), number) {
                ("version", None) if key == "version" => {
                    let digits = Some(value).filter(|v| v.bytes().all(|b| b.is_ascii_hexdigit()));
                    version = digits
                        .and_then(|v| u64::from_str_radix(v, 16).ok())
                        .ok_or_else(|| format!("{line}: expected a hexadecimal number"))?;
                }
                ("server", Some(id)) => members.push(Member::parse(ServerId(id), value)?),
                ("group", Some(id)) => {
                    hierarchical = true;
                    for one in value.split(':') {
                        let voter = one.trim().parse().map(ServerId);
                        let voter =
                            voter.map_err(|_| format!("{line}: expected servers' numbers, joined by ':'"))?;
                        if group.insert(voter, id).is_some() {
                            return Err(format!("{line}: server {voter} is in a group already"));
                        }
                    }
                }
                ("weight", Some(id)) => {
                    hierarchical = true;
                    let n = value.parse().map_err(|_| format!("{line}: expected 0 to {}", u32::MAX))?;
                    weight.insert(ServerId(id), n);
                }
                _ => return Err(format!("{line}: expected server.N, group.N, weight.N or version")),
            }
            if members.len() > MEMBERS_MAX || group.len() > MEMBERS_MAX || weight.len() > MEMBERS_MAX {
                return Err(format!("more than {MEMBERS_MAX} servers"));
            }
        }
        Members::new(version, members, hierarchical.then_some(Groups { group, weight }))
    }

    /// The text that ZooKeeper writes: no newline behind the version.
    pub fn text(&self) -> String {
        let mut out = String::new();
        for m in self.members.values() {
            out += &format!("server.{}={}\n", m.id, m.text());
        }
        for (id, g) in &self.groups {
            let voters: Vec<String> = g.voters.iter().map(|(v, _)| v.to_string()).collect();
            out += &format!("group.{id}={}\n", voters.join(":"));
        }
        let mut weights: Vec<_> = self.groups.values().flat_map(|g| &g.voters).collect();
        weights.sort();
        for (voter, weight) in weights {
            out += &format!("weight.{voter}={weight}\n");
        }
        out + &format!("version={:x}", self.version)
    }

    /// The same servers as another version.
    pub fn with_version(&self, version: u64) -> Members {
        Members { version, ..self.clone() }
    }

    /// The member with this number.
    pub fn get(&self, id: ServerId) -> Option<&Member> {
        self.members.get(&id)
    }
    /// Every member, in the order of their numbers.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.members.values()
    }
    /// Those who vote, in the order of their numbers.
    pub fn voters(&self) -> &[ServerId] {
        &self.voters
    }
    /// Whether this server votes.
    pub fn is_voter(&self, id: ServerId) -> bool {
        self.voters.binary_search(&id).is_ok()
    }
    /// Whether this server may become the leader: a voter without weight may not.
    pub fn can_lead(&self, id: ServerId) -> bool {
        self.is_voter(id)
            && (self.groups.is_empty()
                || self.groups.values().flat_map(|g| &g.voters).any(|&(v, weight)| v == id && weight > 0))
    }
    /// Whether quorums are formed of groups.
    pub fn is_hierarchical(&self) -> bool {
        !self.groups.is_empty()
    }
    /// The groups and weights, as [`Members::new`] takes them.
    pub fn groups(&self) -> Option<Groups> {
        if self.groups.is_empty() {
            return None;
        }
        let mut out = Groups::default();
        for (&id, g) in &self.groups {
            for &(voter, weight) in &g.voters {
                out.group.insert(voter, id);
                if weight != 1 {
                    out.weight.insert(voter, u32::try_from(weight).unwrap_or(u32::MAX));
                }
            }
        }
        Some(out)
    }

    /// Whether the voters of whom `has` is true are a quorum: more than half of them; in a hierarchical ensemble, more
    /// than half of the weight in each of more than half of the groups that have weight.
    pub fn quorum(&self, has: impl Fn(ServerId) -> bool) -> bool {
        if self.groups.is_empty() {
            return self.voters.iter().filter(|&&v| has(v)).count() > self.voters.len() / 2;
        }
        let weighty = self.groups.values().filter(|g| g.weight > 0);
        let (mut all, mut won) = (0, 0);
        for g in weighty {
            let weight: u64 = g.voters.iter().filter(|(v, _)| has(*v)).map(|(_, w)| w).sum();
            all += 1;
            won += usize::from(weight > g.weight / 2);
        }
        won > all / 2
    }
}

fn weigh(
    members: &BTreeMap<ServerId, Member>,
    voters: &[ServerId],
    given: &Groups,
) -> Result<BTreeMap<i64, Group>, String> {
    for (key, id) in given.group.iter().map(|(v, g)| (format!("group.{g}"), v)) {
        match members.get(id) {
            None => return Err(format!("{key}: there is no server.{id}")),
            Some(m) if m.observer => {
                return Err(format!("{key}: server.{id} is an observer and has no vote"));
            }
            Some(_) => {}
        }
    }
    if let Some(id) = given.weight.keys().find(|id| !members.contains_key(id)) {
        return Err(format!("weight.{id}: there is no server.{id}"));
    }
    let mut groups = BTreeMap::<i64, Group>::new();
    for &voter in voters {
        let Some(&id) = given.group.get(&voter) else {
            return Err(format!("server.{voter} is in no group: every participant must be in one"));
        };
        let weight = u64::from(given.weight.get(&voter).copied().unwrap_or(1));
        let group = groups.entry(id).or_insert(Group { voters: vec![], weight: 0 });
        group.voters.push((voter, weight));
        group.weight += weight;
    }
    if groups.values().all(|g| g.weight == 0) {
        return Err("every participant has weight 0: nobody could lead".into());
    }
    Ok(groups)
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
