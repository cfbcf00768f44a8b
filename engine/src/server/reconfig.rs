//! What a reconfiguration asks for, and whether it may be (fact sheet 3.6 and 11).
//!
//! Not here: who may ask (`pipeline`), when it counts (`zab`).
//! Invariant: the checks are made in ZooKeeper's order, since clients see which one fails first.

use crate::error::Code;
use crate::ids::{ServerId, Zxid};
use crate::pipeline::Database;
use crate::proto::ReconfigRequest;
use crate::zab::members::{Member, Members};
use std::collections::BTreeMap;

/// What decides about a reconfiguration, besides the request.
pub(super) struct Ensemble<'a> {
    pub zab: &'a crate::zab::Member,
    /// `standaloneEnabled=false`: one voter is an ensemble.
    pub lone_voter: bool,
}

impl Ensemble<'_> {
    /// The members that the request makes, with the version that its transaction gives them.
    pub fn plan(&self, request: &ReconfigRequest<'_>, zxid: Zxid) -> Result<Members, Code> {
        if self.zab.next_members().is_some() {
            return Err(Code::RECONFIGINPROGRESS);
        }
        let now = self.zab.members();
        if request.version != -1 && request.version != now.version as i64 {
            return Err(Code::BADVERSION);
        }
        let new = match &request.members {
            Some(all) => Members::parse(&all.replace(',', "\n")).map_err(|_| Code::BADARGUMENTS)?,
            None => changed(now, request.joining.as_deref(), request.leaving.as_deref())?,
        };
        if new.voters().len() < if self.lone_voter { 1 } else { 2 } {
            return Err(Code::BADARGUMENTS);
        }
        if !self.zab.has_synced(&new) {
            return Err(Code::NEWCONFIGNOQUORUM);
        }
        Ok(new.with_version(zxid.0))
    }
}

/// The members that a state shows: those of the last reconfiguration in its history, committed or not.
pub fn shown(db: &Database) -> Option<Members> {
    let view = db.tree.latest();
    let node = view.get(crate::path::CONFIG)?;
    Members::parse(&String::from_utf8_lossy(node.data()?)).ok()
}

/// The parts of a list, of which ZooKeeper trims each and drops those that are empty.
fn parts(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or_default().split(',').map(str::trim).filter(|p| !p.is_empty())
}

/// Some leave, then others join, or come with other addresses.
fn changed(now: &Members, joining: Option<&str>, leaving: Option<&str>) -> Result<Members, Code> {
    if now.is_hierarchical() {
        return Err(Code::BADARGUMENTS);
    }
    let mut members: BTreeMap<ServerId, Member> = now.iter().map(|m| (m.id, m.clone())).collect();
    for id in parts(leaving) {
        // What is no number fails there as a request that cannot be read.
        members.remove(&id.parse().map(ServerId).map_err(|_| Code::MARSHALLINGERROR)?);
    }
    for line in parts(joining) {
        let mut sides = line.split('=').map(str::trim).filter(|s| !s.is_empty());
        let (Some(key), Some(text), None) = (sides.next(), sides.next(), sides.next()) else {
            return Err(Code::BADARGUMENTS);
        };
        let id = key.rsplit('.').next().unwrap_or_default();
        let id = id.parse().map(ServerId).map_err(|_| Code::MARSHALLINGERROR)?;
        let joiner = Member::parse(id, text).map_err(|_| Code::BADARGUMENTS)?;
        let clash = members.values().any(|m| m.id != id && clashes(m, &joiner));
        if clash || (joiner.client.is_none() && joiner.secure.is_none()) {
            return Err(Code::BADARGUMENTS);
        }
        members.insert(id, joiner);
    }
    Members::new(now.version, members.into_values().collect(), None).map_err(|_| Code::BADARGUMENTS)
}

/// Whether two servers would listen in the same place. Every interface is one of each server's own host.
fn clashes(a: &Member, b: &Member) -> bool {
    let places = |m: &Member| {
        let peers =
            m.peers.iter().flat_map(|p| [p.quorum_port, p.election_port].map(|port| (p.host.clone(), port)));
        let clients = m.client.iter().chain(&m.secure).cloned();
        peers.chain(clients).filter(|(host, _)| host != "0.0.0.0" && host != "::").collect::<Vec<_>>()
    };
    let own = places(a);
    places(b).iter().any(|p| own.contains(p))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn three() -> Members {
        let line = |n: i64| format!("server.{n}=h{n}:1:2:participant;3\n");
        Members::parse(&(1..=3).map(line).collect::<String>()).unwrap()
    }

    #[test]
    fn servers_leave_before_others_join() {
        let new = changed(&three(), Some("server.4=h3:1:2:observer;h9:3"), Some("3, 7")).unwrap();
        let ids: Vec<i64> = new.iter().map(|m| m.id.0).collect();
        assert_eq!((ids, new.voters().len()), (vec![1, 2, 4], 2));
        let same = changed(&three(), Some("server.2=h2:1:2:observer;9"), None).unwrap();
        assert!(same.get(ServerId(2)).unwrap().observer, "an id that is there already is replaced");
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_zookeepers_codes() {
        let of = |joining, leaving| changed(&three(), joining, leaving).map(|_| ());
        assert_eq!(of(None, Some("x")), Err(Code::MARSHALLINGERROR));
        assert_eq!(of(Some("server.4"), None), Err(Code::BADARGUMENTS));
        assert_eq!(of(Some("server.4=h4:1:2"), None), Err(Code::BADARGUMENTS), "no client port");
        assert_eq!(of(Some("server.4=h4:1:2:pupil;3"), None), Err(Code::BADARGUMENTS));
        assert_eq!(of(Some("server.4=h1:1:5;h9:3"), None), Err(Code::BADARGUMENTS), "an address in use");
        assert_eq!(of(None, Some("1,2,3")), Err(Code::BADARGUMENTS), "nobody is left");
        assert_eq!(of(None, None), Ok(()));
        let text = "server.1=a:1:2;3\nserver.2=b:1:2;3\ngroup.1=1:2\nversion=1";
        let groups = Members::parse(text).unwrap();
        assert_eq!(changed(&groups, None, Some("2")), Err(Code::BADARGUMENTS), "groups need the whole list");
    }
}
