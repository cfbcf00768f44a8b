//! Reconfigurations in an ensemble of members in memory: what needs which quorum, who leads behind it, and that all
//! members go through the same history however they change and crash.

mod zab_common;

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::Op;
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::{Epochs, Event, Links, Member, Persist, Persistence, Reach, Role, Settings, Window};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use zab_common::{settings, txn, zxid_of};

const REACH: Reach = Reach { entries: usize::MAX, bytes: usize::MAX };

fn text(voters: &[i64], observers: &[i64]) -> String {
    let all = voters.iter().map(|n| (n, "participant")).chain(observers.iter().map(|n| (n, "observer")));
    all.map(|(n, role)| format!("server.{n}=h{n}:1:2:{role};3\n")).collect()
}

/// What a member survives a crash with, and what it has asked for.
#[derive(Default)]
struct Ports {
    log: Vec<(Zxid, Arc<[u8]>)>,
    epochs: Epochs,
    ticket: Ticket,
    election: VecDeque<(i64, Vec<u8>)>,
    dials: VecDeque<(LinkId, i64)>,
    listening: bool,
    out: BTreeMap<LinkId, Vec<u8>>,
    closed: Vec<LinkId>,
    links: u64,
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        self.ticket = ticket;
        match what {
            Persist::Append(txn) => {
                self.log.push((zxid_of(txn).unwrap(), txn.into()));
            }
            Persist::Mark(engine::zab::Mark::Truncate(to)) => self.log.retain(|(z, _)| *z <= to),
            Persist::Mark(_) => panic!("nobody needs a snapshot here"),
            Persist::Epochs(e) => self.epochs = e,
        }
    }
}

impl Links for Ports {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        self.election.push_back((to.0, message.to_vec()));
    }
    fn dial(&mut self, to: ServerId) -> LinkId {
        self.links += 1;
        self.dials.push_back((LinkId(self.links), to.0));
        LinkId(self.links)
    }
    fn listen(&mut self, on: bool) {
        self.listening = on;
    }
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.out.entry(link).or_default()
    }
    fn close(&mut self, link: LinkId) {
        self.closed.push(link);
    }
}

struct Node {
    /// `None`: crashed.
    member: Option<Member>,
    /// What it starts with.
    text: String,
    ports: Ports,
    /// Its writes are not durable for now.
    stuck: bool,
    input: BTreeMap<LinkId, Vec<u8>>,
    applied: Vec<(Zxid, Arc<[u8]>)>,
}

#[derive(Default)]
struct Net {
    now: u64,
    nodes: BTreeMap<i64, Node>,
    /// Both ends of each link.
    ends: BTreeMap<(i64, LinkId), (i64, LinkId)>,
    elections: u64,
    /// Nobody has a history, and whether they may begin one by themselves.
    empty: bool,
    begins: bool,
}

impl Net {
    fn of(voters: &[i64]) -> Net {
        Net::with_observers(voters, &[])
    }

    /// The observers are not started.
    fn with_observers(voters: &[i64], observers: &[i64]) -> Net {
        let mut net = Net { now: 1, ..Net::default() };
        for id in voters {
            net.add(*id, text(voters, observers));
        }
        net.until("a leader", |n| n.leader().is_some() && n.member(1).role() != Role::Looking);
        net.run(50);
        net
    }

    fn add(&mut self, id: i64, text: String) {
        self.add_with(id, text, Epochs::default());
    }

    fn add_with(&mut self, id: i64, text: String, epochs: Epochs) {
        let ports = Ports { epochs, ..Ports::default() };
        let (input, applied) = (BTreeMap::new(), Vec::new());
        self.nodes.insert(id, Node { member: None, text, ports, stuck: false, input, applied });
        self.start(id);
    }

    fn start(&mut self, id: i64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let members = Members::parse(&node.text).unwrap();
        let observer = members.get(ServerId(id)).is_some_and(|m| m.observer);
        let settings = Settings {
            observer,
            empty: self.empty && node.ports.log.is_empty(),
            begins: self.begins,
            ..settings(id)
        };
        let mut window = Window::new(Zxid::ZERO, REACH);
        let mut seen = None;
        for (zxid, txn) in &node.ports.log {
            window.push(engine::zab::Entry { zxid: *zxid, txn: txn.clone(), ticket: Ticket(0) });
            if txn[28..32] == Op::Reconfig.wire().to_be_bytes() {
                let body = String::from_utf8_lossy(&txn[32..]);
                let from = body.find("server.").unwrap();
                let to = body.find("version=").unwrap();
                seen = Some(Members::parse(&body[from..to]).unwrap().with_version(zxid.0));
            }
        }
        node.applied = node.ports.log.clone();
        let mut member = Member::new(settings, Arc::new(members), node.ports.epochs, window, zxid_of);
        member.allow_reconfig(seen);
        node.ports = Ports {
            log: std::mem::take(&mut node.ports.log),
            epochs: node.ports.epochs,
            links: node.ports.links,
            ..Ports::default()
        };
        member.start(MonoMs(self.now), &mut node.ports);
        node.member = Some(member);
        for other in self.alive() {
            for (me, peer) in [(id, other), (other, id)] {
                if id != other {
                    self.with(me, |m, now, p| m.election_up(ServerId(peer), now, p));
                }
            }
        }
    }

    fn crash(&mut self, id: i64) {
        self.nodes.get_mut(&id).unwrap().member = None;
        for (end, far) in self.ends.clone() {
            if end.0 == id {
                self.cut(end, far);
            }
        }
        for other in self.alive() {
            self.with(other, |m, _, _| m.election_down(ServerId(id)));
        }
    }

    fn cut(&mut self, end: (i64, LinkId), far: (i64, LinkId)) {
        self.ends.remove(&end);
        self.ends.remove(&far);
        self.with(far.0, |m, now, p| m.link_down(far.1, "cut", now, p));
    }

    fn alive(&self) -> Vec<i64> {
        self.nodes.iter().filter(|(_, n)| n.member.is_some()).map(|(id, _)| *id).collect()
    }

    fn with<T>(&mut self, id: i64, act: impl FnOnce(&mut Member, MonoMs, &mut Ports) -> T) -> Option<T> {
        let now = MonoMs(self.now);
        let node = self.nodes.get_mut(&id)?;
        node.member.as_mut().map(|m| act(m, now, &mut node.ports))
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += 1;
        let (mut replaced, mut again) = (Vec::new(), Vec::new());
        for id in self.alive() {
            self.with(id, |m, now, p| {
                m.tick(now, p);
                m.pump(now, p);
            });
            if !self.nodes[&id].stuck {
                self.with(id, |m, now, p| m.durable(p.ticket, now, p));
            }
            self.carry(id);
            let node = self.nodes.get_mut(&id).unwrap();
            let Some(member) = &mut node.member else { continue };
            while let Some(e) = member.take_event() {
                match e {
                    Event::Members => node.text = member.members().text(),
                    Event::Leading { .. } => self.elections += 1,
                    Event::Stream { to, .. } => replaced.push((id, to.0)),
                    // Its log is cut already: the mark was persisted.
                    Event::Rebuild { .. } => again.push(id),
                    Event::Install { .. } => panic!("the window holds everything"),
                    _ => {}
                }
            }
            while let Some(e) = member.take_committed() {
                node.applied.push((e.zxid, e.txn));
            }
        }
        for (leader, to) in replaced {
            self.replace(leader, to);
        }
        for id in again {
            self.crash(id);
            self.start(id);
        }
        self.agree();
    }

    /// Stands for a snapshot: a member whose history leads nowhere gets what its leader has applied, and starts again.
    fn replace(&mut self, leader: i64, to: i64) {
        let applied = self.nodes[&leader].applied.clone();
        self.crash(to);
        self.nodes.get_mut(&to).unwrap().ports.log = applied;
        self.start(to);
    }

    /// Whatever a member has sent arrives.
    fn carry(&mut self, id: i64) {
        let ports = &mut self.nodes.get_mut(&id).unwrap().ports;
        let (votes, dials) = (std::mem::take(&mut ports.election), std::mem::take(&mut ports.dials));
        let (out, closed) = (std::mem::take(&mut ports.out), std::mem::take(&mut ports.closed));
        for (to, message) in votes {
            self.with(to, |m, now, p| m.election_message(ServerId(id), &message, now, p).unwrap());
        }
        for (link, to) in dials {
            let up = self.nodes.get(&to).is_some_and(|n| n.member.is_some() && n.ports.listening);
            if !up {
                self.with(id, |m, now, p| m.link_down(link, "refused", now, p));
                continue;
            }
            let far = self.with(to, |m, now, p| {
                p.links += 1;
                m.link_accepted(LinkId(p.links), format!("s{id}"), now, p);
                (to, LinkId(p.links))
            });
            let far = far.unwrap();
            self.ends.insert((id, link), far);
            self.ends.insert(far, (id, link));
            self.with(id, |m, now, p| m.link_up(link, now, p));
        }
        for (link, bytes) in out {
            let Some(&(to, far)) = self.ends.get(&(id, link)) else { continue };
            let node = self.nodes.get_mut(&to).unwrap();
            let mut input = node.input.remove(&far).unwrap_or_default();
            input.extend_from_slice(&bytes);
            let used = self.with(to, |m, now, p| m.link_bytes(far, &input, now, p)).unwrap_or(input.len());
            input.drain(..used);
            self.nodes.get_mut(&to).unwrap().input.insert(far, input);
        }
        for link in closed {
            if let Some(far) = self.ends.get(&(id, link)).copied() {
                self.cut((id, link), far);
            }
        }
    }

    /// One history: whatever two members have applied agrees. (After a restart a member's whole log counts as applied,
    /// so only what a leader has committed is compared.)
    fn agree(&self) {
        let committed = |n: &Node| n.member.as_ref().map_or(Zxid::ZERO, Member::committed);
        let serving = |n: &&Node| {
            n.member.as_ref().is_some_and(|m| [Role::Leading, Role::Following].contains(&m.role()))
        };
        let mut histories = self.nodes.values().filter(serving).map(|n| {
            let upto = committed(n);
            n.applied.iter().filter(move |(z, _)| *z <= upto).collect::<Vec<_>>()
        });
        let Some(first) = histories.next() else { return };
        for other in histories {
            let shorter = first.len().min(other.len());
            assert!(first[..shorter] == other[..shorter], "two histories at {}", self.now);
        }
    }

    fn until(&mut self, what: &str, done: impl Fn(&Net) -> bool) {
        for _ in 0..60_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        let members = |m: &Member| {
            (m.members().text(), m.next_members().map(|n| n.text()), m.epochs(), m.last_logged())
        };
        let all: Vec<_> = self.nodes.iter().map(|(id, n)| (id, n.member.as_ref().map(members))).collect();
        panic!("{what} does not come: {:?} {all:#?}", self.roles());
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms {
            self.step();
        }
    }

    fn role(&self, id: i64) -> Option<Role> {
        self.nodes[&id].member.as_ref().map(Member::role)
    }
    fn roles(&self) -> Vec<(i64, Option<Role>)> {
        self.nodes.keys().map(|id| (*id, self.role(*id))).collect()
    }
    fn leader(&self) -> Option<i64> {
        self.nodes.keys().copied().find(|id| self.role(*id) == Some(Role::Leading))
    }
    fn member(&self, id: i64) -> &Member {
        self.nodes[&id].member.as_ref().unwrap()
    }

    /// A proposal of the leader; a reconfiguration if there is a text.
    fn propose(&mut self, to: Option<&str>) -> Zxid {
        let leader = self.leader().expect("a leader");
        self.with(leader, |m, _, p| {
            let start = Zxid::new(m.epochs().current, 0);
            let zxid = Zxid(m.last_logged().max(start).0 + 1);
            let bytes = match to {
                Some(text) => txn(zxid, Op::Reconfig, format!("{text}version={:x}", zxid.0)),
                None => txn(zxid, Op::SetData, "x"),
            };
            m.submit(zxid, bytes, p);
            zxid
        })
        .unwrap()
    }

    fn all_have(&self, ids: &[i64], zxid: Zxid) -> bool {
        ids.iter().all(|id| self.nodes[id].member.as_ref().is_some_and(|m| m.committed() >= zxid))
    }
}

fn three() -> Net {
    Net::of(&[1, 2, 3])
}

#[test]
fn voters_without_a_history_begin_one_unless_they_must_not() {
    for begins in [true, false] {
        let mut net = Net { now: 1, empty: true, begins, ..Net::default() };
        for id in 1..=3 {
            net.add(id, text(&[1, 2, 3], &[]));
        }
        net.run(5_000);
        assert_eq!(net.leader().is_some(), begins, "{:?}", net.roles());
    }
}

#[test]
fn the_first_leader_gives_the_members_a_version() {
    let net = three();
    for id in 1..=3 {
        assert_eq!(net.member(id).members().version, 1 << 32, "server {id}");
        assert!(net.member(id).next_members().is_none());
    }
}

#[test]
fn from_the_proposal_on_both_quorums_count_and_a_commit_stops_at_the_reconfiguration() {
    let mut net = three();
    for id in 4..=6 {
        net.add(id, text(&[1, id], &[]));
    }
    net.until("the joiners", |n| (4..=6).all(|id| n.role(id) == Some(Role::Following)));
    net.run(20);
    for id in 4..=6 {
        net.nodes.get_mut(&id).unwrap().stuck = true;
    }
    let before = net.propose(None);
    let change = net.propose(Some(&text(&[1, 2, 3, 4, 5, 6], &[])));
    let behind = net.propose(None);
    net.run(100);
    let leader = net.leader().unwrap();
    // Three of six are no majority of the new members, though they are all of the old ones.
    assert_eq!(net.member(leader).committed(), before);
    assert_eq!(net.member(leader).next_members().unwrap().version, change.0);
    net.nodes.get_mut(&4).unwrap().stuck = false;
    net.until("the change", |n| n.all_have(&[1, 2, 3, 4], behind));
    assert_eq!(net.member(leader).members().voters().len(), 6);
    // The rules have changed: four of six are needed now.
    net.nodes.get_mut(&4).unwrap().stuck = true;
    let last = net.propose(None);
    net.run(100);
    assert_eq!(net.member(leader).committed(), behind);
    net.nodes.get_mut(&5).unwrap().stuck = false;
    net.until("another write", |n| n.all_have(&[1, 2, 3, 5], last));
    assert_eq!(net.elections, 1, "nobody had to elect again");
}

#[test]
fn a_leader_that_leaves_hands_over_to_one_that_has_everything() {
    let mut net = three();
    let leader = net.leader().unwrap();
    let rest: Vec<i64> = (1..=3).filter(|id| *id != leader).collect();
    net.propose(None);
    net.propose(Some(&text(&rest, &[])));
    net.until("another leader", |n| n.leader().is_some_and(|l| l != leader));
    net.until("the former leader", |n| n.role(leader) == Some(Role::Following));
    let next = net.leader().unwrap();
    assert!(rest.contains(&next));
    let zxid = net.propose(None);
    net.until("a write", |n| n.all_have(&[1, 2, 3], zxid));
    // Its acknowledgements do not count any more.
    let other = *rest.iter().find(|id| **id != next).unwrap();
    net.nodes.get_mut(&other).unwrap().stuck = true;
    let zxid = net.propose(None);
    net.run(100);
    assert!(net.member(next).committed() < zxid);
    net.nodes.get_mut(&other).unwrap().stuck = false;
    net.until("that write", |n| n.all_have(&[1, 2, 3], zxid));
}

#[test]
fn roles_change_at_the_commit() {
    let mut net = three();
    let leader = net.leader().unwrap();
    let other = 1 + leader % 3;
    let third = 6 - leader - other;
    net.propose(Some(&text(&[leader, third], &[other])));
    net.until("the observer", |n| n.role(other) == Some(Role::Observing));
    let zxid = net.propose(None);
    net.until("a write", |n| n.all_have(&[1, 2, 3], zxid));
    net.propose(Some(&text(&[1, 2, 3], &[])));
    net.until("the follower", |n| n.role(other) == Some(Role::Following));
    assert_eq!((net.leader(), net.elections), (Some(leader), 1), "the leader stays");
}

#[test]
fn a_reconfiguration_that_was_under_way_is_finished_or_forgotten() {
    let mut net = three();
    let leader = net.leader().unwrap();
    let rest: Vec<i64> = (1..=3).filter(|id| *id != leader).collect();
    // Nobody else has it: it is cut off when the leader comes back.
    net.propose(Some(&text(&rest, &[])));
    net.crash(leader);
    net.until("another leader", |n| n.leader().is_some());
    let zxid = net.propose(None);
    net.start(leader);
    net.until("the cut", |n| n.all_have(&[1, 2, 3], zxid));
    for id in 1..=3 {
        assert!(net.member(id).next_members().is_none());
        assert_eq!(net.member(id).members().voters().len(), 3);
    }
    // Everybody has it, and nobody knows that it is committed: the next leader finishes it.
    let leader = net.leader().unwrap();
    let rest: Vec<i64> = (1..=3).filter(|id| *id != leader).collect();
    for id in 1..=3 {
        net.nodes.get_mut(&id).unwrap().stuck = true;
    }
    let change = net.propose(Some(&text(&rest, &[])));
    net.run(20);
    for id in 1..=3 {
        net.crash(id);
        net.nodes.get_mut(&id).unwrap().stuck = false;
    }
    for id in 1..=3 {
        net.start(id);
    }
    net.until("the change", |n| {
        (1..=3).all(|id| n.member(id).members().version >= change.0 && n.role(id) != Some(Role::Looking))
    });
    net.until("a leader of the new members", |n| n.leader().is_some_and(|l| rest.contains(&l)));
}

/// An observer that a candidate has told of a later epoch, before that candidate failed.
#[test]
fn an_observer_with_a_later_promise_follows_and_counts_for_nothing() {
    let mut net = Net::with_observers(&[1, 2, 3], &[4]);
    let leader = net.leader().unwrap();
    let promised = Epochs { accepted: 9, current: 0 };
    net.add_with(4, text(&[1, 2, 3], &[4]), promised);
    net.until("the observer", |n| n.role(4) == Some(Role::Observing));
    let zxid = net.propose(None);
    net.until("a write", |n| n.all_have(&[1, 2, 3, 4], zxid));
    net.run(1_000);
    assert_eq!((net.leader(), net.elections), (Some(leader), 1), "nobody has to elect again for its sake");
    assert_eq!(net.member(4).epochs(), Epochs { accepted: 9, current: 1 }, "the promise stands");

    // With a vote the promise counts: it follows no leader of this epoch any more, and one of a later epoch leads.
    net.propose(Some(&text(&[1, 2, 3, 4], &[])));
    net.until("its vote", |n| n.role(4) == Some(Role::Following));
    let zxid = net.propose(None);
    net.until("a write", |n| n.all_have(&[1, 2, 3, 4], zxid));
    for id in 1..=4 {
        assert!(net.member(id).epochs().current > 9, "server {id}: {:?}", net.member(id).epochs());
    }
}

#[test]
fn an_observer_with_a_later_history_waits_until_its_leader_is_elected_again_above_it() {
    let mut net = Net::with_observers(&[1, 2, 3], &[4]);
    let leader = net.leader().unwrap();
    net.add_with(4, text(&[1, 2, 3], &[4]), Epochs { accepted: 9, current: 9 });
    net.run(2_000);
    assert_eq!((net.leader(), net.elections), (Some(leader), 1), "nobody has to elect again for its sake");
    assert!(matches!(net.role(4), Some(Role::Looking | Role::Joining)), "{:?}", net.role(4));
    let others: Vec<i64> = (1..=3).filter(|id| *id != leader).collect();
    others.iter().for_each(|id| net.crash(*id));
    net.until("the end of its lead", |n| n.leader().is_none());
    others.iter().for_each(|id| net.start(*id));
    net.until("its next lead", |n| n.leader().is_some_and(|l| n.member(l).epochs().current > 9));
    net.until("the observer", |n| n.role(4) == Some(Role::Observing));
}

/// What an observer says may count for a reconfiguration that gives it a vote; not if it has promised a later epoch.
#[test]
fn a_later_promise_does_not_count_for_a_reconfiguration_under_way() {
    let mut net = Net::with_observers(&[1, 2, 3], &[4]);
    // Everybody has it, and nobody knows that it is committed: the next leader finishes it, with a quorum of both.
    for id in 1..=3 {
        net.nodes.get_mut(&id).unwrap().stuck = true;
    }
    net.propose(Some(&text(&[1, 2, 3, 4], &[])));
    net.run(20);
    for id in 1..=3 {
        net.crash(id);
        net.nodes.get_mut(&id).unwrap().stuck = false;
    }
    for id in 1..=3 {
        net.start(id);
    }
    let waits = |n: &Net, id| n.role(id) == Some(Role::Discovering) && n.member(id).epochs().current == 2;
    net.until("a leader that others have promised to follow", |n| (1..=3).any(|id| waits(n, id)));
    let leader = (1..=3).find(|id| waits(&net, *id)).unwrap();
    // Two of the four hold its history: another one is needed.
    net.nodes.get_mut(&(1 + leader % 3)).unwrap().stuck = true;
    net.add_with(4, text(&[1, 2, 3], &[4]), Epochs { accepted: 9, current: 0 });
    net.until("the change", |n| n.leader().is_some_and(|l| n.member(l).members().voters().len() == 4));
    let leader = net.leader().unwrap();
    assert!(net.member(leader).epochs().current > 9, "{:?}", net.member(leader).epochs());
}

#[test]
fn members_come_and_go_and_crash_and_have_one_history() {
    for seed in 0..25u64 {
        storm(seed);
    }
}

fn storm(seed: u64) {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
    let mut dice = move |n: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % n
    };
    let mut net = three();
    for id in 4..=5 {
        net.add(id, text(&[1, 2, 3, id], &[]));
    }
    for _ in 0..1_500 {
        net.run(1 + dice(8));
        let id = 1 + dice(5) as i64;
        match dice(20) {
            0 if net.alive().len() > 3 => net.crash(id),
            1..=3 if net.role(id).is_none() => net.start(id),
            4 => {
                let node = net.nodes.get_mut(&id).unwrap();
                node.stuck = dice(3) == 0;
            }
            5 | 6 => {
                let Some(leader) = net.leader() else { continue };
                let voters: BTreeSet<i64> = (1..=5).filter(|_| dice(3) > 0).collect();
                let voters: Vec<i64> = voters.into_iter().collect();
                let observers: Vec<i64> = (1..=5).filter(|id| !voters.contains(id) && dice(2) == 0).collect();
                let to = text(&voters, &observers);
                let Ok(new) = Members::parse(&to) else { continue };
                let m = net.member(leader);
                if voters.len() > 1 && m.next_members().is_none() && m.has_synced(&new) {
                    net.propose(Some(&to));
                }
            }
            _ if net.leader().is_some() => {
                net.propose(None);
            }
            _ => {}
        }
    }
    for id in 1..=5 {
        net.nodes.get_mut(&id).unwrap().stuck = false;
        if net.role(id).is_none() {
            net.start(id);
        }
    }
    let settled = |n: &Net| {
        n.leader().is_some_and(|l| {
            let m = n.member(l);
            let known = m.members().voters().iter().all(|v| n.member(v.0).members() == m.members());
            known && m.next_members().is_none()
        })
    };
    net.until(&format!("peace in seed {seed}"), settled);
    let zxid = net.propose(None);
    let voters: Vec<i64> = net.member(net.leader().unwrap()).members().voters().iter().map(|v| v.0).collect();
    net.until(&format!("a write in seed {seed}"), |n| n.all_have(&voters, zxid));
}

#[test]
fn what_the_driver_cannot_take_from_a_leader_is_told_with_its_name() {
    let mut net = Net::of(&[1, 2, 3]);
    net.until("a leader", |n| {
        n.leader().is_some() && n.alive().iter().all(|id| n.role(*id) != Some(Role::Looking))
    });
    let leader = net.leader().unwrap();
    let follower = net.alive().into_iter().find(|id| *id != leader).unwrap();
    net.with(follower, |m, now, p| m.failed("its snapshot has no end".into(), now, p));
    let member = net.nodes.get_mut(&follower).unwrap().member.as_mut().unwrap();
    let told = std::iter::from_fn(|| member.take_event()).find(|e| matches!(e, Event::Looking { .. }));
    let why = format!("server {leader}, the leader: its snapshot has no end");
    assert_eq!(told, Some(Event::Looking { why }));
}
