//! What lies between the members: election messages and links, delayed, cut, reset, partitioned.
//!
//! Not here: when that happens (`chaos`), what is said (`engine`).
//! Invariants, as `engine::zab::Links` promises them: of an election message only the newest waits for a connection; the
//! bytes of a link arrive in order, and end at any byte; a link is told down once, behind what arrived.

use crate::node::INIT_LIMIT;
use crate::node::PeerIn;
use crate::plan::Breach;
use crate::ports::{Ask, Ports};
use crate::say;
use crate::world::{Ev, World};
use engine::ids::LinkId;
use std::collections::VecDeque;

/// Bytes of a link on their way or unread, above which its sender has to wait.
const WINDOW_BYTES: usize = 64 << 10;
/// A dial is given up after this: nobody listens; nobody answers.
const REFUSED_US: u64 = 500_000;
const UNANSWERED_US: u64 = 5_000_000;
/// An observer tries the followers for so long before it asks the leader; or for a quarter of `initLimit`.
const MASTERS_US: u64 = 1_000_000;

/// One end of a link, at a life of a member.
#[derive(Clone, Debug)]
pub struct End {
    pub node: usize,
    pub life: u64,
    pub id: LinkId,
    /// It was told down here, or closed from here.
    pub closed: bool,
    /// On their way to this end.
    pipe: VecDeque<(u64, Vec<u8>)>,
    /// Behind the last bytes: why it is down.
    fin: Option<(u64, String)>,
    last_at_us: u64,
}

impl End {
    fn on_the_way(&self) -> usize {
        self.pipe.iter().map(|(_, b)| b.len()).sum()
    }
}

/// A link between two members; `ends[0]` dialled.
#[derive(Clone, Debug)]
pub struct Link {
    pub ends: [End; 2],
    pub open: bool,
    /// Followers that may serve it in the leader's place, in the order in which they are tried.
    masters: Vec<usize>,
    began_us: u64,
}

impl Link {
    /// Whether both ends hold it.
    pub fn is_up(&self) -> bool {
        self.open && self.ends.iter().all(|e| !e.closed)
    }
}

/// The election connection of a pair.
#[derive(Clone, Debug, Default)]
pub struct Pair {
    pub up: bool,
    generation: u64,
    lives: [u64; 2],
    told: [bool; 2],
    /// By sender: the newest message that waits.
    waiting: [Option<Vec<u8>>; 2],
    last_at_us: [u64; 2],
}

/// See the module.
#[derive(Default)]
pub struct Network {
    pub links: Vec<Link>,
    /// By the smaller, then the greater index.
    pub pairs: Vec<Vec<Pair>>,
    /// `[from][to]`: nothing passes.
    pub blocked: Vec<Vec<bool>>,
}

impl Network {
    pub fn new(nodes: usize) -> Network {
        let pairs = vec![vec![Pair::default(); nodes]; nodes];
        Network { links: Vec::new(), pairs, blocked: vec![vec![false; nodes]; nodes] }
    }
    fn cut_between(&self, a: usize, b: usize) -> bool {
        self.blocked[a][b] || self.blocked[b][a]
    }
}

impl World {
    fn wire_delay(&mut self) -> u64 {
        let usual = self.plan.wire_us;
        self.dice.delay_us(usual)
    }

    /// Executes what a member asked for, and takes what it has to send.
    pub fn flush(&mut self, node: usize) {
        let Some(r) = &mut self.nodes[node].running else { return };
        self.oracle.promises.leaving(node, &mut r.ports, &mut r.wires);
        for ask in std::mem::take(&mut r.ports.asks) {
            match ask {
                Ask::Election { to, message } => {
                    if let Some(to) = self.index_of(to) {
                        self.send_election(node, to, message);
                    }
                }
                Ask::Dial { link, to } => self.dial(node, link, to),
                Ask::Close { link, rest } => self.close_from(node, link, rest),
            }
        }
        let Some(r) = &self.nodes[node].running else { return };
        let due: Vec<LinkId> =
            r.ports.outs.iter().filter(|(_, o)| !o.bytes.is_empty()).map(|(l, _)| *l).collect();
        for link in due {
            self.send_bytes(node, link);
        }
    }

    fn find(&self, node: usize, id: LinkId) -> Option<(usize, usize)> {
        let life = self.nodes[node].life;
        let at = |l: &Link| l.ends.iter().position(|e| (e.node, e.life, e.id) == (node, life, id));
        // The newest are asked for most.
        let found = self.net.links.iter().enumerate().rev().find_map(|(i, l)| at(l).map(|e| (i, e)));
        found.filter(|(i, e)| !self.net.links[*i].ends[*e].closed)
    }

    fn send_bytes(&mut self, node: usize, id: LinkId) {
        let Some((link, end)) = self.find(node, id) else { return };
        if !self.net.links[link].open {
            return;
        }
        let other = &self.net.links[link].ends[1 - end];
        let unread = self.nodes[other.node].running.as_ref().map_or(0, |r| r.wires.unread(other.id));
        let room = WINDOW_BYTES.saturating_sub(other.on_the_way() + unread);
        let Some(r) = &mut self.nodes[node].running else { return };
        let Some(out) = r.ports.outs.get_mut(&id) else { return };
        let n = out.bytes.len().min(room);
        let bytes: Vec<u8> = out.bytes.drain(..n).collect();
        out.sent += n as u64;
        self.put_on_the_way(link, 1 - end, &bytes);
    }

    /// Bytes for an end, at times in several pieces.
    fn put_on_the_way(&mut self, link: usize, end: usize, bytes: &[u8]) {
        // Nothing follows the end of a link.
        let mut rest = if self.net.links[link].ends[end].fin.is_some() { &[][..] } else { bytes };
        while !rest.is_empty() {
            let n = if self.dice.permille(900) { rest.len() } else { 1 + self.dice.below(rest.len()) };
            let at = self.at_us + self.wire_delay();
            let e = &mut self.net.links[link].ends[end];
            e.last_at_us = e.last_at_us.max(at);
            let at = e.last_at_us;
            e.pipe.push_back((at, rest[..n].to_vec()));
            rest = &rest[n..];
            self.push(at, Ev::Link { link, end });
        }
    }

    /// What is due at an end of a link.
    pub fn link_event(&mut self, link: usize, end: usize) {
        let (a, b) = (self.net.links[link].ends[1 - end].node, self.net.links[link].ends[end].node);
        if self.net.blocked[a][b] {
            return;
        }
        let e = &mut self.net.links[link].ends[end];
        let (node, life, id) = (e.node, e.life, e.id);
        if e.closed || self.nodes[node].life != life {
            e.pipe.clear();
            let reborn = self.nodes[node].life != life && self.nodes[node].running.is_some();
            let other = &self.net.links[link].ends[1 - end];
            if reborn && !other.closed && other.fin.is_none() {
                self.end_behind(link, 1 - end, "reset");
            }
            return;
        }
        let Some(r) = &mut self.nodes[node].running else { return };
        let mut moved = false;
        while e.pipe.front().is_some_and(|(at, _)| *at <= self.at_us) {
            let Some((_, bytes)) = e.pipe.pop_front() else { break };
            r.wires.arrived(id, &bytes);
            moved = true;
        }
        if moved {
            r.inbox.push_back(PeerIn::Input(id));
        }
        if e.pipe.is_empty()
            && let Some((_, why)) = e.fin.take_if(|(at, _)| *at <= self.at_us)
        {
            e.closed = true;
            r.inbox.push_back(PeerIn::Down { link: id, why });
            r.ports.gone(id);
            moved = true;
        }
        if moved {
            self.wake_core(node);
            // Room for the sender.
            self.wake_core(a);
        }
    }

    fn end_behind(&mut self, link: usize, end: usize, why: &str) {
        let at = self.at_us + self.wire_delay();
        let e = &mut self.net.links[link].ends[end];
        let at = at.max(e.last_at_us);
        e.fin.get_or_insert((at, why.to_owned()));
        self.push(at, Ev::Link { link, end });
    }

    fn close_from(&mut self, node: usize, id: LinkId, rest: Vec<u8>) {
        let found = self.find(node, id);
        if let Some(r) = &mut self.nodes[node].running {
            r.ports.gone(id);
        }
        let Some((link, end)) = found else { return };
        self.net.links[link].ends[end].closed = true;
        if self.net.links[link].open {
            // As far as the peer takes it without delay.
            let n = rest.len().min(WINDOW_BYTES);
            self.put_on_the_way(link, 1 - end, &rest[..n]);
            self.end_behind(link, 1 - end, "closed by the peer");
        }
    }

    fn dial(&mut self, node: usize, id: LinkId, to: engine::ids::ServerId) {
        let Some(to) = self.index_of(to) else { return };
        let end = |node: usize, life: u64, id: LinkId| End {
            node,
            life,
            id,
            closed: false,
            pipe: VecDeque::new(),
            fin: None,
            last_at_us: 0,
        };
        let ends = [end(node, self.nodes[node].life, id), end(to, 0, LinkId(0))];
        let masters = self.masters_of(node, to);
        self.net.links.push(Link { ends, open: false, masters, began_us: self.at_us });
        let at = self.at_us + self.wire_delay();
        self.push(at, Ev::Dial { link: self.net.links.len() - 1 });
    }

    fn masters_us(&self) -> u64 {
        MASTERS_US.min(self.plan.tick_ms * INIT_LIMIT * 1_000 / 4)
    }

    /// Whom an observer tries before the leader, as `net::peers` orders them.
    pub fn masters_of(&self, node: usize, leader: usize) -> Vec<usize> {
        let me = self.nodes[node].id;
        let Some(r) = self.nodes[node].running.as_ref().filter(|_| self.plan.relays) else {
            return Vec::new();
        };
        let (members, next) = (r.server.zab().members(), r.server.zab().next_members());
        let new = next.into_iter().flat_map(|m| m.iter()).filter(|m| members.get(m.id).is_none());
        let lines: Vec<_> = members.iter().chain(new).collect();
        if !lines.iter().any(|m| m.id == me && m.observer) {
            return Vec::new();
        }
        let voters = lines.iter().filter(|m| !m.observer);
        let mut masters: Vec<usize> = voters.filter_map(|m| self.index_of(m.id)).collect();
        if !masters.is_empty() {
            let first = me.0.rem_euclid(masters.len() as i64) as usize;
            masters.rotate_left(first);
        }
        masters.retain(|n| *n != leader);
        masters
    }

    /// Where a dial gets through, if anywhere by now; and whether the last one tried is cut off.
    fn open_door(&self, link: usize) -> Result<usize, bool> {
        let l = &self.net.links[link];
        let (from, leader) = (l.ends[0].node, l.ends[1].node);
        let open = |to: usize, on: fn(&Ports) -> bool| {
            !self.net.cut_between(from, to) && self.nodes[to].running.as_ref().is_some_and(|r| on(&r.ports))
        };
        let asks_leader = l.masters.is_empty() || self.at_us - l.began_us >= self.masters_us();
        if asks_leader && open(leader, |p| p.listening) {
            return Ok(leader);
        }
        if let Some(master) = l.masters.iter().find(|n| open(**n, |p| p.relaying)) {
            return Ok(*master);
        }
        Err(self.net.cut_between(from, leader))
    }

    /// A dial goes on.
    pub fn dial_event(&mut self, link: usize) {
        let from = self.net.links[link].ends[0].node;
        let e = &self.net.links[link].ends[0];
        if e.closed || self.nodes[from].life != e.life || self.nodes[from].running.is_none() {
            return;
        }
        let waited = self.at_us - self.net.links[link].began_us;
        let to = match self.open_door(link) {
            Ok(to) => to,
            Err(cut) => {
                let patience = if self.net.links[link].masters.is_empty() { 0 } else { self.masters_us() };
                if waited > patience + if cut { UNANSWERED_US } else { REFUSED_US } {
                    self.net.links[link].open = true;
                    self.net.links[link].ends[1].closed = true;
                    self.end_behind(link, 0, if cut { "no answer" } else { "refused" });
                } else {
                    let at = self.at_us + self.dice.between(5_000, 30_000);
                    self.push(at, Ev::Dial { link });
                }
                return;
            }
        };
        self.stats.relayed += u64::from(self.net.links[link].ends[1].node != to);
        self.net.links[link].ends[1].node = to;
        let life = self.nodes[to].life;
        let name = format!("10.0.0.{}:{}", from + 1, 40_000 + link % 20_000);
        let Some(r) = &mut self.nodes[to].running else { return };
        let accepted = r.ports.new_link();
        r.inbox.push_back(PeerIn::Accepted { link: accepted, name });
        let l = &mut self.net.links[link];
        l.open = true;
        (l.ends[1].id, l.ends[1].life) = (accepted, life);
        let id = l.ends[0].id;
        if let Some(r) = &mut self.nodes[from].running {
            r.inbox.push_back(PeerIn::Up(id));
        }
        self.wake_core(from);
        self.wake_core(to);
    }

    /// Cuts a link: of what is on its way a part arrives, up to any byte.
    pub fn reset_link(&mut self, link: usize) {
        if !self.net.links[link].open {
            return;
        }
        for end in 0..2 {
            let keep = self.dice.below(3);
            let cut = self.dice.next();
            let e = &mut self.net.links[link].ends[end];
            e.pipe.truncate(keep);
            if let Some((_, bytes)) = e.pipe.back_mut()
                && !bytes.is_empty()
            {
                bytes.truncate((cut % (bytes.len() as u64 + 1)) as usize);
            }
            self.end_behind(link, end, "reset");
        }
    }

    /// What others notice of a member that has ended. `silent`: nothing, for now.
    pub fn peers_of_dead(&mut self, node: usize, silent: bool) {
        let life = self.nodes[node].life;
        for link in 0..self.net.links.len() {
            for end in 0..2 {
                let e = &self.net.links[link].ends[end];
                if (e.node, e.life) == (node, life) && self.net.links[link].open && !e.closed {
                    self.net.links[link].ends[end].closed = true;
                    if !silent {
                        self.end_behind(link, 1 - end, "reset");
                    }
                }
            }
        }
        for other in 0..self.nodes.len() {
            if other != node {
                self.election_reset(node.min(other), node.max(other));
            }
        }
    }

    // ----- election

    fn send_election(&mut self, from: usize, to: usize, message: Vec<u8>) {
        if self.plan.breach == Breach::BlockingDial && self.net.cut_between(from, to) {
            self.nodes[from].paused_until_us = self.at_us + UNANSWERED_US;
        }
        let (a, b) = (from.min(to), from.max(to));
        let side = usize::from(from == b);
        self.net.pairs[a][b].waiting[side] = Some(message);
        self.election_push(a, b, side);
    }

    /// Sends what waits, if there is a connection.
    fn election_push(&mut self, a: usize, b: usize, side: usize) {
        if !self.net.pairs[a][b].up || self.net.blocked[[a, b][side]][[b, a][side]] {
            return;
        }
        let delay = self.wire_delay();
        let pair = &mut self.net.pairs[a][b];
        let Some(message) = pair.waiting[side].take() else { return };
        let at = pair.last_at_us[side].max(self.at_us + delay);
        pair.last_at_us[side] = at;
        let generation = pair.generation;
        self.push(at, Ev::Election { a, b, side, generation, message });
    }

    pub fn election_event(&mut self, a: usize, b: usize, side: usize, generation: u64, message: Vec<u8>) {
        let (from, to) = ([a, b][side], [b, a][side]);
        let pair = &self.net.pairs[a][b];
        if pair.generation != generation || !pair.up {
            return;
        }
        if self.net.blocked[from][to] {
            // Kept by the sender until a newer one replaces it, or the way is free.
            self.net.pairs[a][b].waiting[side].get_or_insert(message);
            return;
        }
        let id = self.nodes[from].id;
        if let Some(r) = &mut self.nodes[to].running {
            r.inbox.push_back(PeerIn::Election { from: id, message });
            self.wake_core(to);
        }
    }

    /// A pair without a connection tries again, for ever.
    pub fn election_try(&mut self, a: usize, b: usize) {
        let alive = self.nodes[a].running.is_some() && self.nodes[b].running.is_some();
        if !self.net.pairs[a][b].up && alive && !self.net.cut_between(a, b) {
            let lives = [self.nodes[a].life, self.nodes[b].life];
            let ids = [self.nodes[a].id, self.nodes[b].id];
            let pair = &mut self.net.pairs[a][b];
            pair.up = true;
            pair.generation += 1;
            (pair.lives, pair.told) = (lives, [true; 2]);
            for (side, node) in [a, b].into_iter().enumerate() {
                if let Some(r) = &mut self.nodes[node].running {
                    r.inbox.push_back(PeerIn::ElectionUp(ids[1 - side]));
                }
                self.wake_core(node);
            }
            self.election_push(a, b, 0);
            self.election_push(a, b, 1);
        }
        let at = self.at_us + self.dice.between(5_000, 40_000);
        self.push(at, Ev::ElectionTry { a, b });
    }

    pub fn election_reset(&mut self, a: usize, b: usize) {
        let ids = [self.nodes[a].id, self.nodes[b].id];
        let pair = &mut self.net.pairs[a][b];
        if !pair.up {
            return;
        }
        pair.up = false;
        let (lives, told) = (pair.lives, std::mem::take(&mut pair.told));
        for (side, node) in [a, b].into_iter().enumerate() {
            if told[side] && self.nodes[node].life == lives[side] {
                if let Some(r) = &mut self.nodes[node].running {
                    r.inbox.push_back(PeerIn::ElectionDown(ids[1 - side]));
                }
                self.wake_core(node);
            }
        }
    }

    /// A member forgets what it wanted to say when it ends.
    pub fn forget_waiting(&mut self, node: usize) {
        for other in 0..self.nodes.len() {
            let (a, b) = (node.min(other), node.max(other));
            if a != b {
                self.net.pairs[a][b].waiting[usize::from(node == b)] = None;
            }
        }
    }

    /// Blocks or frees the way from one member to another.
    pub fn set_blocked(&mut self, from: usize, to: usize, on: bool) {
        if from == to || self.net.blocked[from][to] == on {
            return;
        }
        self.net.blocked[from][to] = on;
        say!(
            self.trace,
            "the way from {} to {} is {}",
            from + 1,
            to + 1,
            if on { "blocked" } else { "free" }
        );
        if on {
            return;
        }
        let (a, b) = (from.min(to), from.max(to));
        self.election_push(a, b, usize::from(from == b));
        for link in 0..self.net.links.len() {
            for end in 0..2 {
                let l = &self.net.links[link];
                let held = !l.ends[end].pipe.is_empty() || l.ends[end].fin.is_some();
                if l.ends[end].node == to && l.ends[1 - end].node == from && held {
                    let at = self.at_us + self.dice.between(1, 1_000);
                    let e = &mut self.net.links[link].ends[end];
                    for (due, _) in &mut e.pipe {
                        *due = (*due).max(at);
                    }
                    if let Some((due, _)) = &mut e.fin {
                        *due = (*due).max(at);
                    }
                    e.last_at_us = e.last_at_us.max(at);
                    let upto = e.last_at_us.max(at);
                    self.push(at, Ev::Link { link, end });
                    self.push(upto + 1, Ev::Link { link, end });
                }
            }
        }
    }
}
