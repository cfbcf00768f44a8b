//! The ensemble, its clients and virtual time: one queue of events, one thread, one seed.
//!
//! Not here: what goes wrong (`chaos`), the network (`network`), the checks (`oracle`).
//! Invariant: whatever happens follows from the plan; no clock is read and no thread is started.

use crate::client::{self, Client};
use crate::clock::NodeClock;
use crate::dice::Dice;
use crate::network::Network;
use crate::node::{Common, Node, Report, Running};
use crate::operator::{OPERATOR_DIGEST, Operator};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::recovery::DIR;
use crate::say;
use crate::seat::ToClient;
use crate::trace::Trace;
use crate::truth::Truth;
use engine::ids::{ServerId, Zxid};
use engine::limits::Limits;
use engine::zab::Role;
use engine::zab::members::{Member, Members, PeerAddr};
use std::collections::BTreeMap;
use std::sync::Arc;
use wal::testing::FaultyDisk;

/// What happens at a moment.
pub enum Ev {
    Core { node: usize, life: u64 },
    Seat { node: usize, life: u64, seat: usize },
    Link { link: usize, end: usize },
    Dial { link: usize },
    Election { a: usize, b: usize, side: usize, generation: u64, message: Vec<u8> },
    ElectionTry { a: usize, b: usize },
    ToServer { conn: usize, bytes: Vec<u8> },
    EndAtServer { conn: usize },
    ToClient { conn: usize, bytes: Vec<u8> },
    EndAtClient { conn: usize },
    Client { client: usize },
    Start { node: usize, life: u64 },
    Heal { token: u64 },
    Chaos,
    Operate,
}

/// A client's connection.
pub struct Conn {
    pub client: usize,
    pub node: usize,
    pub life: u64,
    pub seat: usize,
    /// Ends that are still open: the client's, the server's.
    pub open: [bool; 2],
    last_at_us: [u64; 2],
}

/// How a member ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Death {
    /// kill -9: what was written stays visible.
    Kill,
    /// Unsynced sectors and names survive as the disk likes.
    PowerCut,
}

/// Figures of a run.
#[derive(Clone, Copy, Default, Debug)]
pub struct Stats {
    pub events: u64,
    pub kills: u64,
    /// Of single members.
    pub power_cuts: u64,
    /// Of all members at once.
    pub power_cuts_of_all: u64,
    pub elections: u64,
    pub installs: u64,
    pub rebuilds: u64,
    pub snapshots: u64,
    /// Observers that came to a follower.
    pub relayed: u64,
}

/// See the module.
pub struct World {
    pub plan: Plan,
    pub at_us: u64,
    queue: BTreeMap<(u64, u64), Ev>,
    seq: u64,
    pub nodes: Vec<Node>,
    pub common: Common,
    pub net: Network,
    /// Those of the applications, and behind them the operator's.
    pub clients: Vec<Client>,
    pub operator: Operator,
    pub conns: Vec<Conn>,
    pub oracle: Oracle,
    pub dice: Dice,
    pub trace: Trace,
    pub stats: Stats,
    pub chaos_on: bool,
    /// The power cut that is under way is one of all members.
    everywhere: bool,
    pub heal_tokens: BTreeMap<u64, Vec<(usize, usize)>>,
}

/// The line of a server in the list of members.
pub fn line_of(node: usize, observer: bool, moved: bool) -> Member {
    let (quorum_port, election_port) = if moved { (2889, 3889) } else { (2888, 3888) };
    Member {
        id: ServerId(node as i64 + 1),
        observer,
        peers: vec![PeerAddr { host: format!("10.0.0.{}", node + 1), quorum_port, election_port }],
        client: Some(("0.0.0.0".into(), 2181)),
        secure: None,
    }
}

pub fn common(plan: &Plan) -> Common {
    let limits = Limits {
        tick_ms: plan.tick_ms as u32,
        min_session_timeout_ms: 500,
        max_session_timeout_ms: 60_000,
        max_client_connections: 0,
        reconfig_enabled: true,
        lone_voter: plan.lone_voter,
        zxids_per_epoch: plan.zxids_per_epoch,
        super_digest: Some(OPERATOR_DIGEST.into()),
        ..Limits::default()
    };
    let profile = profiles::Profile::load("balanced").expect("a shipped profile");
    let mut config = net::config::Config::embedded(DIR, &profile);
    config.limits = limits.clone();
    Common { limits: Arc::new(limits), config: Arc::new(config) }
}

impl World {
    /// All members are down; nothing has happened.
    pub fn new(plan: Plan) -> World {
        let mut dice = Dice::new(plan.seed);
        let trace = Trace::new(plan.live);
        let first = plan.voters + plan.observers;
        let count = first + plan.spares;
        let members = (0..first).map(|n| line_of(n, n >= plan.voters, false)).collect();
        let members = Arc::new(Members::new(0, members, None).expect("an ensemble"));
        let nodes = (0..count)
            .map(|n| Node {
                id: ServerId(n as i64 + 1),
                config: (n < first).then(|| members.clone()),
                disk: FaultyDisk::new(dice.next()),
                clock: NodeClock {
                    mono_base_ms: 0,
                    wall_base_ms: 1_700_000_000_000 + dice.between(0, 5_000) as i64,
                    rate: 1_000_000 + dice.between(0, 2 * plan.drift_ppm) - plan.drift_ppm,
                },
                life: 0,
                running: None,
                stable: Truth::default(),
                paused_until_us: 0,
                held: false,
                disk_fails: false,
            })
            .collect();
        let mut clients: Vec<Client> =
            (0..plan.clients).map(|n| Client::new(n, &plan, dice.fork())).collect();
        // The last one is the operator's.
        clients.push(Client::operator(plan.clients, &plan, dice.fork()));
        let operator = Operator::new(plan.seed);
        let common = common(&plan);
        let oracle = Oracle::new(members, trace.clone());
        let mut world = World {
            at_us: 0,
            queue: BTreeMap::new(),
            seq: 0,
            nodes,
            common,
            net: Network::new(count),
            clients,
            operator,
            conns: Vec::new(),
            oracle,
            dice,
            trace,
            stats: Stats::default(),
            chaos_on: false,
            everywhere: false,
            heal_tokens: BTreeMap::new(),
            plan,
        };
        for a in 0..count {
            for b in a + 1..count {
                let at = world.dice.between(0, 5_000);
                world.push(at, Ev::ElectionTry { a, b });
            }
        }
        world
    }

    /// Starts every member and every client.
    pub fn start_all(&mut self) {
        for node in 0..self.plan.voters + self.plan.observers {
            let at = self.dice.between(0, 50_000);
            self.push(at, Ev::Start { node, life: 0 });
        }
        self.start_clients();
    }
    pub fn start_clients(&mut self) {
        for client in 0..self.clients.len() {
            let at = self.at_us + self.dice.between(0, 300_000);
            self.push(at, Ev::Client { client });
        }
    }

    pub fn push(&mut self, at_us: u64, ev: Ev) {
        self.seq += 1;
        self.queue.insert((at_us.max(self.at_us), self.seq), ev);
    }
    pub fn index_of(&self, id: ServerId) -> Option<usize> {
        self.nodes.iter().position(|n| n.id == id)
    }

    /// Plays on for so long.
    pub fn run_for(&mut self, ms: u64) {
        let until = self.at_us + ms * 1000;
        self.run_until(until, |_| false);
    }

    /// Plays on until it is so, at most until `until_us`. Says whether it was.
    pub fn run_until(&mut self, until_us: u64, mut so: impl FnMut(&World) -> bool) -> bool {
        loop {
            if so(self) {
                return true;
            }
            match self.queue.first_key_value() {
                Some(((at, _), _)) if *at <= until_us => {}
                _ => {
                    self.at_us = until_us;
                    return false;
                }
            }
            self.step();
        }
    }

    /// The next event.
    pub fn step(&mut self) {
        let Some(((at, _), ev)) = self.queue.pop_first() else { return };
        self.at_us = at;
        self.trace.at(at);
        self.stats.events += 1;
        match ev {
            Ev::Core { node, life } => self.core_event(node, life),
            Ev::Seat { node, life, seat } => self.seat_event(node, life, seat),
            Ev::Link { link, end } => self.link_event(link, end),
            Ev::Dial { link } => self.dial_event(link),
            Ev::Election { a, b, side, generation, message } => {
                self.election_event(a, b, side, generation, message);
            }
            Ev::ElectionTry { a, b } => self.election_try(a, b),
            Ev::ToServer { conn, bytes } => self.arrived_at_server(conn, &bytes),
            Ev::EndAtServer { conn } => self.end_at_server(conn),
            Ev::ToClient { conn, bytes } => self.arrived_at_client(conn, &bytes),
            Ev::EndAtClient { conn } => self.end_at_client(conn),
            Ev::Client { client } => self.client_event(client),
            Ev::Start { node, life } => {
                let n = &self.nodes[node];
                if n.life == life && n.running.is_none() && !n.held && n.config.is_some() {
                    self.start(node);
                }
            }
            Ev::Heal { token } => self.heal(token),
            Ev::Chaos => self.chaos_event(),
            Ev::Operate => self.operate_event(),
        }
    }

    // ----- members

    /// Starts a member from its disk.
    pub fn start(&mut self, node: usize) {
        let n = &mut self.nodes[node];
        n.life += 1;
        n.clock.mono_base_ms = self.dice.between(1, 1_000_000);
        n.paused_until_us = 0;
        let mut dice = self.dice.fork();
        match Running::boot(&self.nodes[node], &self.common, &self.plan, &mut dice, self.at_us) {
            Ok(r) => {
                say!(
                    self.trace,
                    "{}: starts (life {}) at {}, epochs {:?}",
                    node + 1,
                    self.nodes[node].life,
                    r.server.db().last(),
                    r.server.zab().epochs()
                );
                self.oracle.state.recovered(node, &r.ports.journal.truth, &self.nodes[node].stable);
                self.nodes[node].running = Some(Box::new(r));
                self.flush(node);
                self.wake_core(node);
                for seat in 0..self.plan.shards {
                    self.wake_seat(node, seat);
                }
            }
            Err(e) if self.nodes[node].disk.is_off() => {
                say!(self.trace, "{}: power fails while it starts: {e:#}", node + 1);
                self.nodes[node].disk.power_cut_randomly();
                self.start_later(node);
            }
            Err(e) if self.nodes[node].disk_fails => {
                say!(self.trace, "{}: its disk fails while it starts: {e:#}", node + 1);
                self.nodes[node].disk.clear_faults();
                self.nodes[node].disk_fails = false;
                self.start_later(node);
            }
            Err(e) => panic!("server {} cannot start: {e:#}", node + 1),
        }
    }

    pub fn start_later(&mut self, node: usize) {
        let at = self.at_us + self.dice.between(1_000, 3_000_000);
        self.push(at, Ev::Start { node, life: self.nodes[node].life });
    }

    /// Ends a member. It is started again by whoever wants that.
    pub fn crash(&mut self, node: usize, death: Death) {
        let Some(r) = self.nodes[node].running.take() else { return };
        say!(self.trace, "{}: {death:?}", node + 1);
        let silent = death == Death::PowerCut && self.dice.permille(500);
        for seat in &r.seats {
            for conn in seat.conns() {
                self.close_at_server(conn);
            }
        }
        self.stats.installs += r.errands.installs;
        self.stats.rebuilds += r.errands.rebuilds;
        self.stats.snapshots += r.snapshots.taken;
        self.stats.elections += r.server.zab().counters().elections;
        self.peers_of_dead(node, silent);
        self.forget_waiting(node);
        self.oracle.ended(node);
        let running = *r;
        self.nodes[node].stable = running.ports.journal.crash();
        match death {
            Death::Kill if !self.nodes[node].disk.is_off() => {
                self.stats.kills += 1;
                self.nodes[node].disk.kill_process();
            }
            _ => {
                self.stats.power_cuts += u64::from(!self.everywhere);
                self.nodes[node].disk.power_cut_randomly();
            }
        }
    }

    /// Power fails for every running member at the same moment.
    pub fn cut_all(&mut self) {
        say!(self.trace, "power fails everywhere");
        self.everywhere = true;
        for node in 0..self.nodes.len() {
            self.crash(node, Death::PowerCut);
        }
        self.everywhere = false;
        self.stats.power_cuts_of_all += 1;
        self.oracle.survival.power_cut_of_all();
    }

    pub fn wake_core(&mut self, node: usize) {
        let delay =
            if self.dice.permille(5) { self.dice.between(500, 20_000) } else { self.dice.between(1, 60) };
        let at = self.at_us + delay;
        self.core_at(node, at);
    }

    fn core_at(&mut self, node: usize, at_us: u64) {
        let n = &mut self.nodes[node];
        let at_us = at_us.max(n.paused_until_us).max(self.at_us + 1);
        let life = n.life;
        let Some(r) = &mut n.running else { return };
        if r.core_at_us.is_none_or(|t| t > at_us || t <= self.at_us) {
            r.core_at_us = Some(at_us);
            self.push(at_us, Ev::Core { node, life });
        }
    }

    fn core_event(&mut self, node: usize, life: u64) {
        let n = &mut self.nodes[node];
        if n.life != life {
            return;
        }
        let Some(r) = &mut n.running else { return };
        if r.core_at_us != Some(self.at_us) {
            return;
        }
        r.core_at_us = None;
        if n.paused_until_us > self.at_us {
            let at = n.paused_until_us;
            return self.core_at(node, at);
        }
        let report = r.step(&n.clock, self.at_us);
        self.reported(node, report);
    }

    fn reported(&mut self, node: usize, report: Report) {
        for text in &report.said {
            say!(self.trace, "{}: {text}", node + 1);
            self.oracle.promises.said(node, text);
        }
        let truths: Vec<&Truth> = self
            .nodes
            .iter()
            .map(|n| n.running.as_ref().map_or(&n.stable, |r| &r.ports.journal.truth))
            .collect();
        self.oracle.core_turn(node, &report, &truths);
        if report.died.is_some() || self.nodes[node].disk.is_off() {
            let why = report.died.clone().unwrap_or_else(|| "power failed".into());
            say!(self.trace, "{}: ends: {why}", node + 1);
            if self.dice.permille(500) {
                // What it had said by then may leave.
                self.flush(node);
            }
            let death = if self.dice.permille(500) { Death::Kill } else { Death::PowerCut };
            self.crash(node, death);
            self.start_later(node);
            return;
        }
        self.flush(node);
        if report.told {
            for seat in 0..self.plan.shards {
                self.wake_seat(node, seat);
            }
        }
        if let Some(at) = report.again_us {
            self.core_at(node, at);
        }
    }

    pub fn wake_seat(&mut self, node: usize, seat: usize) {
        let delay =
            if self.dice.permille(10) { self.dice.between(200, 10_000) } else { self.dice.between(1, 60) };
        let at = self.at_us + delay;
        self.seat_at(node, seat, at);
    }

    fn seat_at(&mut self, node: usize, seat: usize, at_us: u64) {
        let n = &mut self.nodes[node];
        let at_us = at_us.max(n.paused_until_us).max(self.at_us + 1);
        let life = n.life;
        let Some(r) = &mut n.running else { return };
        let s = &mut r.seats[seat];
        if s.at_us.is_none_or(|t| t > at_us || t <= self.at_us) {
            s.at_us = Some(at_us);
            self.push(at_us, Ev::Seat { node, life, seat });
        }
    }

    fn seat_event(&mut self, node: usize, life: u64, seat: usize) {
        let n = &mut self.nodes[node];
        if n.life != life {
            return;
        }
        let Some(r) = &mut n.running else { return };
        if r.seats[seat].at_us != Some(self.at_us) {
            return;
        }
        r.seats[seat].at_us = None;
        if n.paused_until_us > self.at_us {
            let at = n.paused_until_us;
            return self.seat_at(node, seat, at);
        }
        let now = n.clock.now(self.at_us);
        let bytes_max = if self.dice.permille(100) { self.dice.between(1, 60) as usize } else { 1 << 16 };
        let out = r.seats[seat].turn(now, bytes_max);
        let free = r.server.has_room();
        let asked = r.seats[seat].to_core.has_some(free);
        let report_us = self.plan.tick_ms * 250;
        let again = match (r.seats[seat].has_work(), r.seats[seat].is_blocked()) {
            (true, _) => self.at_us + 30,
            (_, true) => self.at_us + 1_000,
            _ => self.at_us + report_us,
        };
        for o in out {
            match o {
                ToClient::Bytes(conn, bytes) => self.send_to_client(conn, bytes),
                ToClient::Closed(conn) => self.close_at_server(conn),
            }
        }
        if asked {
            self.wake_core(node);
        }
        self.seat_at(node, seat, again);
    }

    // ----- clients

    fn client_delay(&mut self) -> u64 {
        let usual = self.plan.wire_us;
        self.dice.delay_us(usual)
    }

    fn in_order(&mut self, conn: usize, way: usize) -> u64 {
        let at = self.at_us + self.client_delay();
        let c = &mut self.conns[conn];
        c.last_at_us[way] = c.last_at_us[way].max(at);
        c.last_at_us[way]
    }

    fn send_to_client(&mut self, conn: usize, bytes: Vec<u8>) {
        let at = self.in_order(conn, 1);
        self.push(at, Ev::ToClient { conn, bytes });
    }
    pub fn send_to_server(&mut self, conn: usize, bytes: Vec<u8>) {
        let at = self.in_order(conn, 0);
        self.push(at, Ev::ToServer { conn, bytes });
    }

    /// The server's end is gone.
    pub fn close_at_server(&mut self, conn: usize) {
        if std::mem::take(&mut self.conns[conn].open[1]) {
            let at = self.in_order(conn, 1);
            self.push(at, Ev::EndAtClient { conn });
        }
    }
    /// The client's end is gone.
    pub fn close_at_client(&mut self, conn: usize) {
        if std::mem::take(&mut self.conns[conn].open[0]) {
            let at = self.in_order(conn, 0);
            self.push(at, Ev::EndAtServer { conn });
        }
    }

    fn arrived_at_server(&mut self, conn: usize, bytes: &[u8]) {
        let c = &self.conns[conn];
        let (node, seat) = (c.node, c.seat);
        if !c.open[1] || self.nodes[node].life != c.life {
            return;
        }
        if let Some(r) = &mut self.nodes[node].running {
            r.seats[seat].arrived(conn, bytes);
            self.wake_seat(node, seat);
        }
    }
    fn end_at_server(&mut self, conn: usize) {
        let c = &self.conns[conn];
        let (node, seat) = (c.node, c.seat);
        if !c.open[1] || self.nodes[node].life != c.life {
            return;
        }
        if let Some(r) = &mut self.nodes[node].running {
            r.seats[seat].ended(conn);
            self.wake_seat(node, seat);
        }
    }
    fn arrived_at_client(&mut self, conn: usize, bytes: &[u8]) {
        if !self.conns[conn].open[0] {
            return;
        }
        let client = self.conns[conn].client;
        let node = self.conns[conn].node;
        let epoch = self.nodes[node].running.as_ref().map_or(0, |r| r.server.zab().epochs().current);
        let acts = self.clients[client].bytes(bytes, self.at_us, epoch, &mut self.oracle);
        self.client_acts(client, acts);
    }
    fn end_at_client(&mut self, conn: usize) {
        if !self.conns[conn].open[0] {
            return;
        }
        let client = self.conns[conn].client;
        self.conns[conn].open = [false; 2];
        if self.clients[client].conn == Some(conn) {
            self.clients[client].lost();
        }
    }

    fn client_event(&mut self, client: usize) {
        let acts = self.clients[client].tick(self.at_us, &self.oracle);
        self.client_acts(client, acts);
        // Who thinks for longer than its session lasts loses that.
        let think = self.dice.delay_us(self.plan.think_us).min(self.plan.session_ms as u64 * 1000 / 6);
        let at = self.at_us + think;
        self.push(at, Ev::Client { client });
    }

    fn client_acts(&mut self, client: usize, acts: Vec<client::Act>) {
        for act in acts {
            match act {
                client::Act::Connect => self.connect(client),
                client::Act::Send(bytes) => {
                    if let Some(conn) = self.clients[client].conn {
                        self.send_to_server(conn, bytes);
                    }
                }
                client::Act::Close => {
                    if let Some(conn) = self.clients[client].conn.take() {
                        self.close_at_client(conn);
                    }
                }
            }
        }
    }

    fn connect(&mut self, client: usize) {
        let node = match self.clients[client].only_node {
            Some(n) => n,
            None => self.dice.below(self.nodes.len()),
        };
        let seat = self.dice.below(self.plan.shards);
        let Some(r) = &mut self.nodes[node].running else { return };
        let conn = self.conns.len();
        r.seats[seat].connected(conn);
        let life = self.nodes[node].life;
        self.conns.push(Conn { client, node, life, seat, open: [true; 2], last_at_us: [0; 2] });
        self.clients[client].conn = Some(conn);
        let acts = self.clients[client].connected(self.at_us);
        self.wake_seat(node, seat);
        self.client_acts(client, acts);
    }

    // ----- looks

    /// The established leader of the highest epoch.
    pub fn leader(&self) -> Option<usize> {
        let leads = |n: &Node| n.running.as_ref().is_some_and(|r| r.server.role() == Role::Leading);
        let epoch = |i: &usize| self.nodes[*i].running.as_ref().map(|r| r.server.zab().epochs().current);
        (0..self.nodes.len()).filter(|i| leads(&self.nodes[*i])).max_by_key(epoch)
    }

    /// Whether a server is one of the members that the committed history leads to.
    pub fn counts(&self, node: usize) -> bool {
        self.oracle.history.members().get(self.nodes[node].id).is_some()
    }

    /// Whether every member serves. Who is none any more need not.
    pub fn all_serve(&self) -> bool {
        let open = |n: &Node| n.running.as_ref().is_some_and(|r| r.server.is_open());
        (0..self.nodes.len()).all(|n| !self.counts(n) || open(&self.nodes[n]))
    }

    /// The last zxid that a member has applied.
    pub fn last_applied(&self, node: usize) -> Option<Zxid> {
        self.nodes[node].running.as_ref().map(|r| r.server.db().last())
    }
}
