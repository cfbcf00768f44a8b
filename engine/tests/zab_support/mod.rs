//! An ensemble in memory: elections, and just enough of what follows them to see whether they were any good. Everything
//! follows from a seed.
//!
//! Not here: histories and what is in them; a member's is a zxid. What is checked at every step:
//! - who decides to lead has been named by a quorum in that round;
//! - a leader is established only with a quorum behind it, none of which knows more than it, at an epoch of its own, and
//!   with everything that was ever committed.

use engine::ids::{LinkId, ServerId, Zxid};
use engine::time::MonoMs;
use engine::zab::Links;
use engine::zab::election::{Decided, Election, Knobs, Vote};
use engine::zab::members::Members;
use engine::zab::wire::{Notification, PeerState};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How long a member tries to follow, or to lead, before it elects again, in ms.
const PATIENCE_MS: u64 = 300;

/// Servers 1..=voters vote, those behind them observe.
pub fn members(voters: i64, observers: i64) -> Members {
    let role = |n| if n <= voters { "participant" } else { "observer" };
    let text: String =
        (1..=voters + observers).map(|n| format!("server.{n}=host{n}:2888:3888:{}\n", role(n))).collect();
    Members::parse(&text).expect("members")
}

struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    fn chance(&mut self, one_in: u64) -> bool {
        self.below(one_in) == 0
    }
}

#[derive(Default)]
struct Outbox(Vec<(i64, Vec<u8>)>);

impl Links for Outbox {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        self.0.push((to.0, message.to_vec()));
    }
    fn dial(&mut self, _to: ServerId) -> LinkId {
        panic!("an election dials nobody")
    }
    fn listen(&mut self, _on: bool) {
        panic!("an election does not listen")
    }
    fn out(&mut self, _link: LinkId) -> &mut Vec<u8> {
        panic!("an election has no links")
    }
    fn close(&mut self, _link: LinkId) {
        panic!("an election has no links")
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Role {
    Looking,
    /// Decided, not established; since when.
    Tries(i64, u64),
    /// Established with this leader.
    Has(i64),
}

struct Node {
    /// `None`: crashed.
    election: Option<Election>,
    role: Role,
    observer: bool,
    /// What survives a crash.
    accepted: u32,
    current: u32,
    zxid: Zxid,
}

enum Event {
    /// The connection is that of this generation.
    Message {
        from: i64,
        to: i64,
        generation: u64,
        bytes: Vec<u8>,
    },
    Connect(i64, i64),
    Restart(i64),
}

/// The members and everything between them.
pub struct Net {
    rng: Rng,
    knobs: Knobs,
    now: u64,
    members: Arc<Members>,
    nodes: BTreeMap<i64, Node>,
    events: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    /// Connections, by the lower and the higher number, and their generations.
    connected: BTreeMap<(i64, i64), u64>,
    /// What waits for a connection, or was sent last: repeated on a new one.
    newest: BTreeMap<(i64, i64), Vec<u8>>,
    /// When the last message on the way arrives: none overtakes another.
    arrives: BTreeMap<(i64, i64), u64>,
    /// Whom a voter named, and in which round.
    named: BTreeSet<(i64, i64, i64)>,
    /// Who led in an epoch.
    led: BTreeMap<u32, i64>,
    committed: Zxid,
    partition: BTreeSet<i64>,
    stormy: bool,
}

fn pair(a: i64, b: i64) -> (i64, i64) {
    (a.min(b), a.max(b))
}

impl Net {
    /// All members start within a few milliseconds, each with a history of its own.
    pub fn new(seed: u64, voters: i64, observers: i64, knobs: Knobs) -> Net {
        let members = Arc::new(members(voters, observers));
        let mut net = Net {
            rng: Rng(seed.wrapping_mul(0xd1b5_4a32_d192_ed03) + voters as u64),
            knobs,
            now: 1,
            members: members.clone(),
            nodes: BTreeMap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            connected: BTreeMap::new(),
            newest: BTreeMap::new(),
            arrives: BTreeMap::new(),
            named: BTreeSet::new(),
            led: BTreeMap::new(),
            committed: Zxid::ZERO,
            partition: BTreeSet::new(),
            stormy: false,
        };
        for m in members.iter() {
            let epoch = net.rng.below(3) as u32;
            let zxid = Zxid::new(epoch, net.rng.below(4) as u32);
            // An observer's epoch never exceeds that of a leader: it got it from one.
            let (epoch, observer) = if m.observer { (0, true) } else { (epoch, false) };
            let (election, role) = (None, Role::Looking);
            let node = Node { election, role, observer, accepted: epoch, current: epoch, zxid };
            net.nodes.insert(m.id.0, node);
            let at = net.rng.below(10);
            net.plan(at, Event::Restart(m.id.0));
        }
        net
    }

    /// The voter that ought to win if all are heard.
    pub fn best(&self) -> i64 {
        let voters = self.nodes.iter().filter(|(_, n)| !n.observer);
        voters.map(|(&id, n)| (n.current, n.zxid, id)).max().expect("a voter").2
    }
    /// The leader that a server has established itself with.
    pub fn leader_of(&self, id: i64) -> Option<i64> {
        match self.nodes[&id].role {
            Role::Has(leader) => Some(leader),
            _ => None,
        }
    }
    /// How many leaders were established.
    pub fn terms(&self) -> usize {
        self.led.len()
    }

    /// Everything works for so many milliseconds, or until all have a leader.
    pub fn calm(&mut self, ms: u64) {
        self.stormy = false;
        self.partition.clear();
        let ids: Vec<i64> = self.nodes.keys().copied().collect();
        for &a in &ids {
            for &b in ids.iter().filter(|&&b| b > a) {
                self.plan(0, Event::Connect(a, b));
            }
        }
        let until = self.now + ms;
        while self.now < until && !self.nodes.values().all(|n| matches!(n.role, Role::Has(_))) {
            self.step();
        }
        // Whatever is established stays so.
        for _ in 0..100 {
            self.step();
        }
    }

    /// Connections break, members crash, the network falls apart and heals, for so many milliseconds.
    pub fn storm(&mut self, ms: u64) {
        self.stormy = true;
        let until = self.now + ms;
        while self.now < until {
            self.trouble();
            self.step();
        }
    }

    fn trouble(&mut self) {
        let count = self.nodes.len() as u64;
        let mut one = || 1 + self.rng.below(count) as i64;
        let (a, b) = (one(), one());
        if self.rng.chance(300) {
            self.disconnect(a, b);
        }
        if self.rng.chance(1_500) {
            self.crash(a);
        }
        if self.rng.chance(2_000) {
            self.partition = self.nodes.keys().copied().filter(|_| self.rng.chance(3)).collect();
            for (a, b) in self.connected.keys().copied().collect::<Vec<_>>() {
                if self.apart(a, b) {
                    self.disconnect(a, b);
                }
            }
        }
        if self.rng.chance(1_000) {
            self.partition.clear();
        }
    }

    fn apart(&self, a: i64, b: i64) -> bool {
        self.partition.contains(&a) != self.partition.contains(&b)
    }

    fn plan(&mut self, in_ms: u64, event: Event) {
        self.sequence += 1;
        self.events.insert((self.now + in_ms, self.sequence), event);
    }

    /// One millisecond.
    fn step(&mut self) {
        self.now += 1;
        let mut happened = 0;
        while let Some(first) = self.events.first_entry().filter(|e| e.key().0 <= self.now) {
            happened += 1;
            assert!(happened < 10_000, "they talk for ever");
            match first.remove() {
                Event::Message { from, to, generation, bytes } => self.deliver(from, to, generation, &bytes),
                Event::Connect(a, b) => self.connect(a, b),
                Event::Restart(id) => self.restart(id),
            }
        }
        for id in self.nodes.keys().copied().collect::<Vec<_>>() {
            let due = |e: &Election| e.next_deadline().is_some_and(|at| at.0 <= self.now);
            if self.nodes[&id].election.as_ref().is_some_and(due) {
                self.with(id, |e, now, out| e.handle_timeout(now, out));
            }
            self.play(id);
        }
    }

    /// Lets a member do something, and takes care of what comes of it.
    fn with(&mut self, id: i64, act: impl FnOnce(&mut Election, MonoMs, &mut Outbox) -> Option<Decided>) {
        let mut out = Outbox::default();
        let node = self.nodes.get_mut(&id).expect("a member");
        let Some(election) = &mut node.election else { return };
        let decided = act(election, MonoMs(self.now), &mut out);
        let round = election.round();
        if let Some(d) = decided {
            node.role = Role::Tries(d.leader.0, self.now);
            let want = match d.leader.0 == id {
                true => PeerState::Leading,
                false if node.observer => PeerState::Observing,
                false => PeerState::Following,
            };
            assert_eq!(d.state, want);
            let named = |v: ServerId| v.0 == id || self.named.contains(&(v.0, round, id));
            assert!(want != PeerState::Leading || self.members.quorum(named), "{id} leads without a quorum");
        }
        for (to, bytes) in out.0 {
            let n = Notification::decode(&bytes).expect("a notification");
            self.named.insert((id, n.round, n.leader.0));
            self.send(id, to, bytes);
        }
    }

    fn send(&mut self, from: i64, to: i64, bytes: Vec<u8>) {
        self.newest.insert((from, to), bytes.clone());
        let Some(&generation) = self.connected.get(&pair(from, to)) else { return };
        let widest = if self.stormy { 1 << self.rng.below(7) } else { 4 };
        let delay = self.rng.below(widest);
        let at = self.arrives.entry((from, to)).or_default();
        *at = (*at).max(self.now + delay);
        let in_ms = *at - self.now;
        for _ in 0..1 + u64::from(self.rng.chance(10)) {
            self.plan(in_ms, Event::Message { from, to, generation, bytes: bytes.clone() });
        }
    }

    fn deliver(&mut self, from: i64, to: i64, generation: u64, bytes: &[u8]) {
        if self.connected.get(&pair(from, to)) == Some(&generation) {
            let n = Notification::decode(bytes).expect("a notification");
            self.with(to, |e, now, out| e.handle(ServerId(from), &n, now, out));
        }
    }

    fn connect(&mut self, a: i64, b: i64) {
        let alive = |id| self.nodes[&id].election.is_some();
        if self.connected.contains_key(&pair(a, b)) || !alive(a) || !alive(b) {
            return;
        }
        if self.apart(a, b) {
            return self.plan(50, Event::Connect(a, b));
        }
        self.sequence += 1;
        self.connected.insert(pair(a, b), self.sequence);
        for (from, to) in [(a, b), (b, a)] {
            self.arrives.remove(&(from, to));
            if let Some(bytes) = self.newest.get(&(from, to)).cloned() {
                self.send(from, to, bytes);
            }
        }
        for (me, other) in [(a, b), (b, a)] {
            self.with(me, |e, now, out| {
                e.peer_up(ServerId(other), now, out);
                None
            });
        }
    }

    fn disconnect(&mut self, a: i64, b: i64) {
        if self.connected.remove(&pair(a, b)).is_none() {
            return;
        }
        for (me, other) in [(a, b), (b, a)] {
            self.with(me, |e, _, _| {
                e.peer_down(ServerId(other));
                None
            });
        }
        let in_ms = self.rng.below(200);
        self.plan(in_ms, Event::Connect(a, b));
    }

    fn crash(&mut self, id: i64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.election.take().is_none() {
            return;
        }
        node.role = Role::Looking;
        self.newest.retain(|&(from, _), _| from != id);
        for other in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.disconnect(id, other);
        }
        let in_ms = self.rng.below(2_000);
        self.plan(in_ms, Event::Restart(id));
    }

    fn restart(&mut self, id: i64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        let members = self.members.clone();
        node.election = Some(Election::new(ServerId(id), node.observer, members, self.knobs));
        self.start(id);
        for other in self.nodes.keys().copied().filter(|&o| o != id).collect::<Vec<_>>() {
            let in_ms = self.rng.below(5);
            self.plan(in_ms, Event::Connect(id, other));
        }
    }

    fn start(&mut self, id: i64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        node.role = Role::Looking;
        let mine = Vote { leader: ServerId(id), zxid: node.zxid, epoch: i64::from(node.current) };
        self.with(id, |e, now, out| {
            e.start(mine, now, out);
            None
        });
    }

    /// What a member does with the leader that it decided on.
    fn play(&mut self, id: i64) {
        match self.nodes[&id].role {
            _ if self.nodes[&id].election.is_none() => {}
            Role::Looking => {}
            Role::Tries(leader, since) => {
                if leader == id {
                    self.try_to_lead(id);
                } else if self.nodes[&leader].role == Role::Has(leader) && self.reaches(id, leader) {
                    self.adopt(id, leader);
                }
                let tries = matches!(self.nodes[&id].role, Role::Tries(..));
                if tries && self.now - since > PATIENCE_MS {
                    self.start(id);
                }
            }
            Role::Has(leader) if leader == id => {
                let behind = self.behind(id, |role| role == Role::Has(id));
                if !self.members.quorum(|v| behind.contains(&v.0)) {
                    self.start(id);
                } else if self.rng.chance(20) {
                    self.propose(id, &behind);
                }
            }
            Role::Has(leader) => {
                let leads = self.nodes[&leader].role == Role::Has(leader);
                let same_term = self.nodes[&leader].current == self.nodes[&id].current;
                if !leads || !same_term || !self.reaches(id, leader) {
                    self.start(id);
                }
            }
        }
    }

    fn reaches(&self, a: i64, b: i64) -> bool {
        a == b || self.connected.contains_key(&pair(a, b))
    }

    /// A leader and the voters in a role that it reaches.
    fn behind(&self, leader: i64, is: impl Fn(Role) -> bool) -> Vec<i64> {
        let with =
            |id: i64, n: &Node| id == leader || (!n.observer && is(n.role) && self.reaches(id, leader));
        self.nodes.iter().filter(|(id, n)| with(**id, n)).map(|(id, _)| *id).collect()
    }

    fn try_to_lead(&mut self, id: i64) {
        let history = |net: &Net, n: i64| (net.nodes[&n].current, net.nodes[&n].zxid);
        let mut behind = self.behind(id, |role| matches!(role, Role::Tries(l, _) if l == id));
        let mine = history(self, id);
        behind.retain(|&n| history(self, n) <= mine);
        if !self.members.quorum(|v| behind.contains(&v.0)) {
            return;
        }
        assert!(mine.1 >= self.committed, "{id} lacks what was committed");
        let epoch = 1 + behind.iter().map(|n| self.nodes[n].accepted).max().expect("itself");
        assert_eq!(self.led.insert(epoch, id), None, "two leaders in epoch {epoch}");
        let node = self.nodes.get_mut(&id).expect("a member");
        (node.accepted, node.current, node.role) = (epoch, epoch, Role::Has(id));
        self.settle(id, id);
        for other in behind.into_iter().filter(|&n| n != id) {
            self.adopt(other, id);
        }
    }

    /// A member takes over the leader's epoch and history.
    fn adopt(&mut self, id: i64, leader: i64) {
        let (epoch, zxid) = (self.nodes[&leader].current, self.nodes[&leader].zxid);
        let node = self.nodes.get_mut(&id).expect("a member");
        if node.accepted > epoch {
            return;
        }
        (node.accepted, node.current, node.zxid, node.role) = (epoch, epoch, zxid, Role::Has(leader));
        self.settle(id, leader);
    }

    fn settle(&mut self, id: i64, leader: i64) {
        let node = self.nodes.get_mut(&id).expect("a member");
        let state = match id == leader {
            true => PeerState::Leading,
            false if node.observer => PeerState::Observing,
            false => PeerState::Following,
        };
        let (epoch, zxid) = (i64::from(node.current), node.zxid);
        let election = node.election.as_mut().expect("it lives");
        election.settled(state, ServerId(leader), zxid, epoch);
    }

    fn propose(&mut self, leader: i64, to: &[i64]) {
        let node = &self.nodes[&leader];
        let zxid = node.zxid.max(Zxid::new(node.current, 0)).next().expect("few transactions");
        let followers: Vec<i64> =
            to.iter().copied().filter(|&n| n == leader || !self.rng.chance(4)).collect();
        for n in &followers {
            self.nodes.get_mut(n).expect("a member").zxid = zxid;
        }
        if self.members.quorum(|v| followers.contains(&v.0)) {
            self.committed = self.committed.max(zxid);
        }
    }
}
