//! One member: the real core, shards, log and recovery, driven as `net::server` drives them, one turn at a time.
//!
//! Not here: when a turn comes (`world`), what is checked (`oracle`).
//! Invariants, as in `net::server::core`: a batch is published in the tree first, in the rings second; while a ring is
//! full nothing is applied and no request is taken; what the engine is told comes in the order of the real loop.

use crate::clock::NodeClock;
use crate::dice::Dice;
use crate::errands::Errands;
use crate::journal::Journal;
use crate::membership::{self, Membership, Pair};
use crate::plan::{Breach, Plan};
use crate::ports::Ports;
use crate::recovery;
use crate::seat::Seat;
use crate::snapshots::Snapshots;
use crate::truth::Truth;
use anyhow::Result;
use engine::ids::{LinkId, ServerId, Zxid};
use engine::limits::Limits;
use engine::msg::ChangeBatch;
use engine::pipeline::Notice;
use engine::server::{PeerInput, Server};
use engine::time::{MonoMs, Now};
use engine::zab::members::Members;
use engine::zab::wire::{self, Kind};
use engine::zab::{Entry, Knobs, Role, Settings};
use std::collections::{BTreeMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use wal::SmallFile;
use wal::testing::FaultyDisk;

const TAKE_PER_STEP: usize = 64;
const STEPS_PER_BATCH: usize = 8;
/// Batches that a shard may be behind.
const CHANGE_RING: usize = 8;
const PACKET_MAX: usize = 64 << 20;
/// Ticks.
pub const INIT_LIMIT: u64 = 10;

/// What the others' sockets bring.
pub enum PeerIn {
    Election { from: ServerId, message: Vec<u8> },
    ElectionUp(ServerId),
    ElectionDown(ServerId),
    Accepted { link: LinkId, name: String },
    Up(LinkId),
    Input(LinkId),
    Down { link: LinkId, why: String },
}

/// Bytes that arrived on links and were not used yet.
#[derive(Default)]
pub struct Wires {
    inboxes: BTreeMap<LinkId, Vec<u8>>,
}

impl Wires {
    pub fn arrived(&mut self, link: LinkId, bytes: &[u8]) {
        self.inboxes.entry(link).or_default().extend_from_slice(bytes);
    }
    pub fn take(&mut self, link: LinkId) -> Vec<u8> {
        self.inboxes.remove(&link).unwrap_or_default()
    }
    pub fn give_back(&mut self, link: LinkId, bytes: Vec<u8>) {
        if !bytes.is_empty() {
            self.inboxes.insert(link, bytes);
        }
    }
    pub fn unread(&self, link: LinkId) -> usize {
        self.inboxes.get(&link).map_or(0, Vec::len)
    }
}

/// A server of the ensemble, running or not.
pub struct Node {
    pub id: ServerId,
    /// What its operator has written down of the members; `None`: nobody has set it up yet.
    pub config: Option<Arc<Members>>,
    pub disk: FaultyDisk,
    pub clock: NodeClock,
    /// Counts its starts.
    pub life: u64,
    pub running: Option<Box<Running>>,
    /// What a stopped one holds.
    pub stable: Truth,
    /// Gets no turn before.
    pub paused_until_us: u64,
    /// Is not started by chance.
    pub held: bool,
    /// One of the next operations of its disk fails.
    pub disk_fails: bool,
}

/// See the module.
pub struct Running {
    pub server: Server,
    pub ports: Ports,
    pub errands: Errands,
    pub snapshots: Snapshots,
    pub membership: Membership,
    pub seats: Vec<Seat>,
    pub wires: Wires,
    pub inbox: VecDeque<PeerIn>,
    was_open: bool,
    /// What was pending when it began to serve observers lies between these.
    pending: Option<(Zxid, Zxid)>,
    /// Messages that the core has taken from its shards.
    forwarded: u64,
    breach: Breach,
    /// The next turn of the core.
    pub core_at_us: Option<u64>,
}

/// What the oracle looks at.
pub enum Seen {
    /// It serves from here on, everything up to this applied.
    Opened {
        upto: Zxid,
    },
    Applied(Entry),
    Digest {
        at: Zxid,
        digest: u64,
    },
}

/// What a turn of the core has brought.
#[derive(Default)]
pub struct Report {
    pub seen: Vec<Seen>,
    pub fresh: Vec<(Zxid, Entry)>,
    pub role: Option<Role>,
    pub epoch: u32,
    /// The epoch in which it led at some time of the turn.
    pub led: Option<u32>,
    /// The members that count for it, at the end of the turn.
    pub version: u64,
    /// The members have changed for it, or a reconfiguration is under way, or none is any more.
    pub members: Vec<Pair>,
    pub said: Vec<String>,
    /// Seats with new batches.
    pub told: bool,
    /// It cannot go on: its log has failed.
    pub died: Option<String>,
    /// When it wants its next turn.
    pub again_us: Option<u64>,
}

/// What every member is told.
pub struct Common {
    pub limits: Arc<Limits>,
    pub config: Arc<net::config::Config>,
}

impl Running {
    /// Starts a member from its disk.
    pub fn boot(node: &Node, common: &Common, plan: &Plan, dice: &mut Dice, at_us: u64) -> Result<Running> {
        let r = recovery::recover(&node.disk, &common.config, plan.shards, plan.reach)?;
        let told = node.config.as_ref().ok_or_else(|| anyhow::anyhow!("nobody has set it up"))?;
        let forgets = plan.breach == Breach::OldMembers && node.life > 1;
        let members = if forgets { told.clone() } else { membership::found(&r.data, told)? };
        let limits = Limits {
            reconfig_enabled: common.limits.reconfig_enabled && !forgets,
            ..(*common.limits).clone()
        };
        let limits = Arc::new(limits);
        let now = node.clock.now(at_us);
        let truth = Truth::recovered(r.base, r.entries, r.epochs);
        let epochs = SmallFile::new(&r.data, recovery::EPOCHS_FILE);
        let io = (node.disk.clone(), dice.fork(), plan.sync_us);
        let mut ports = Ports::new(Journal::new(r.log, epochs, truth, io, plan.breach));
        let seats = (0..plan.shards).map(|n| Seat::new(n, common, &r.tree, r.db.last(), plan.ring)).collect();
        let logged = ports.journal.reader().durable() > wal::Position(0);
        let settings = Settings {
            me: node.id,
            observer: !members.is_voter(node.id),
            tick_ms: plan.tick_ms,
            init_limit: INIT_LIMIT,
            sync_limit: 5,
            epoch_wait_ms: None,
            knobs: Knobs { finalize_wait_ms: 20, notification_min_ms: 20, notification_max_ms: 60_000 },
            packet_max: PACKET_MAX,
            begins: true,
            empty: r.db.last() == Zxid::ZERO && (r.epochs.current == 0 || logged),
        };
        let written = if plan.read_only_config { u64::MAX } else { members.version };
        let membership = Membership::new(&r.data, written, dice.fork(), plan.sync_us);
        let reached = (settings, members, r.epochs, r.window, r.confirmed);
        let mut server = Server::member(limits, r.db, reached, plan.shards, now);
        server.start(now, &mut ports);
        let errands = Errands::new(
            common.config.clone(),
            r.data.clone(),
            (plan.shards, plan.reach),
            dice.fork(),
            (plan.breach, plan.snap_permille),
        );
        let snapshots = Snapshots::new(r.data, plan.snapshot_every, r.snapshot_at, plan.breach);
        Ok(Running {
            server,
            ports,
            errands,
            snapshots,
            membership,
            seats,
            wires: Wires::default(),
            inbox: VecDeque::new(),
            was_open: false,
            pending: None,
            forwarded: 0,
            breach: plan.breach,
            core_at_us: None,
        })
    }

    /// One round of the core's loop.
    pub fn step(&mut self, clock: &NodeClock, at_us: u64) -> Report {
        let now = clock.now(at_us);
        let mut report = Report::default();
        if let Err(e) = self.round(now, at_us, &mut report) {
            report.died = Some(format!("{e:#}"));
        }
        if let Some(e) = &self.ports.journal.failed {
            report.died = Some(format!("its log has failed: {e}"));
        }
        report.said.append(&mut self.errands.said);
        report.fresh = std::mem::take(&mut self.ports.journal.truth.fresh);
        report.role = Some(self.server.role());
        report.epoch = self.server.zab().epochs().current;
        report.version = self.server.zab().members().version;
        report.again_us = self.again_us(clock, at_us);
        report
    }

    fn round(&mut self, now: Now, at_us: u64, report: &mut Report) -> Result<()> {
        self.look(report);
        while let Some(ticket) = self.ports.journal.poll(at_us) {
            self.server.durable(ticket, now, &mut self.ports);
            self.look(report);
        }
        self.take_peers(now);
        self.look(report);
        self.take_requests(now);
        if now.mono >= self.server.next_deadline() {
            self.server.tick(now, &mut self.ports);
        }
        self.look(report);
        self.ports.journal.kick(at_us);
        report.members.extend(self.membership.step(&mut self.server, at_us, &mut report.said));
        self.errands.step(&mut self.server, &mut self.ports, &mut self.wires, (now, at_us))?;
        self.pump(now);
        self.look(report);
        self.tell(now, report);
        self.look(report);
        self.server.collect(4096);
        for n in self.server.take_notices() {
            if let Notice::DigestMismatch { .. } = n {
                panic!("a tree differs from its leader's: {n:?}");
            }
        }
        if let Err(e) = self.snapshots.step(&self.server, &self.ports.journal) {
            // Costs nothing but the attempt.
            report.said.push(format!("no snapshot: {e}"));
        }
        self.ports.journal.kick(at_us);
        Ok(())
    }

    fn pump(&mut self, now: Now) {
        let zab = self.server.zab();
        self.pending = match self.pending {
            _ if !self.ports.relaying => None,
            None => Some((zab.committed(), zab.last_logged())),
            known => known,
        };
        let before: Vec<(LinkId, usize)> = self.ports.outs.iter().map(|(l, o)| (*l, o.bytes.len())).collect();
        self.server.pump(now, &mut self.ports);
        let lost: Box<dyn Fn(Kind, Zxid) -> bool> = match (self.breach, self.pending) {
            (Breach::RelaySkipsPending, Some((above, upto))) => {
                Box::new(move |kind, at| kind == Kind::Inform && at > above && at <= upto)
            }
            (Breach::SkipsCommit, _) => Box::new(|kind, at| kind == Kind::Commit && at.counter() % 30 == 29),
            _ => return,
        };
        for (link, from) in before {
            self.lose(link, from, &*lost);
        }
    }

    /// Of what was added to a link behind so many bytes, some packets never leave.
    fn lose(&mut self, link: LinkId, from: usize, lost: &dyn Fn(Kind, Zxid) -> bool) {
        let Some(out) = self.ports.outs.get_mut(&link) else { return };
        let fresh = out.bytes.split_off(from.min(out.bytes.len()));
        let mut at = 0;
        while let Ok(Some((p, n))) = wire::parse(&fresh[at..], usize::MAX >> 1) {
            if !lost(p.kind, p.zxid) {
                out.bytes.extend_from_slice(&fresh[at..at + n]);
            }
            at += n;
        }
    }

    /// Whether clients are let in since the last look.
    fn look(&mut self, report: &mut Report) {
        if self.server.role() == Role::Leading {
            report.led = Some(self.server.zab().epochs().current);
        }
        let open = self.server.is_open();
        if open && !self.was_open {
            report.seen.push(Seen::Opened { upto: self.server.db().last() });
        }
        self.was_open = open;
    }

    fn take_peers(&mut self, now: Now) {
        while let Some(event) = self.inbox.pop_front() {
            let input = match &event {
                PeerIn::Election { from, message } => PeerInput::Election { from: *from, message },
                PeerIn::ElectionUp(id) => PeerInput::ElectionUp(*id),
                PeerIn::ElectionDown(id) => PeerInput::ElectionDown(*id),
                PeerIn::Accepted { link, name } => PeerInput::Accepted { link: *link, name: name.clone() },
                PeerIn::Up(link) => PeerInput::Up(*link),
                PeerIn::Down { link, why } => PeerInput::Down { link: *link, why },
                PeerIn::Input(link) => {
                    self.errands.input(*link, &mut self.server, &mut self.ports, &mut self.wires, now);
                    continue;
                }
            };
            self.server.peer(input, now, &mut self.ports);
        }
    }

    fn rings_full(&self) -> bool {
        self.seats.iter().any(|s| s.batches.len() >= CHANGE_RING)
    }

    fn take_requests(&mut self, now: Now) {
        for n in 0..self.seats.len() {
            for _ in 0..TAKE_PER_STEP {
                let free = self.server.has_room() && self.ports.journal.has_room() && !self.rings_full();
                let Some(m) = self.seats[n].to_core.pop(free) else { break };
                let link = self.server.zab().leader_link();
                let before = link.and_then(|l| self.ports.outs.get(&l)).map_or(0, |o| o.bytes.len());
                let rest = self.server.handle(m, now, &mut self.ports);
                self.forwarded += 1;
                if let Some(link) = link
                    .filter(|_| self.breach == Breach::LosesForwarded && self.forwarded.is_multiple_of(40))
                {
                    self.lose(link, before, &|kind, _| kind == Kind::Request);
                }
                assert!(rest.is_none(), "no client asks for words: {rest:?}");
            }
        }
    }

    /// Applies and publishes one batch.
    fn tell(&mut self, now: Now, report: &mut Report) {
        if !self.server.can_advance() || self.rings_full() {
            return;
        }
        let window = self.server.zab().window();
        let (before, committed) = (self.server.db().last(), self.server.zab().committed());
        let from = window.after(before).unwrap_or(window.end());
        let coming: Vec<Entry> = (from..window.end())
            .map_while(|p| window.get(p))
            .take_while(|e| e.zxid <= committed)
            .take(STEPS_PER_BATCH)
            .cloned()
            .collect();
        let mut batch = ChangeBatch::default();
        self.server.advance(&mut batch, STEPS_PER_BATCH, now);
        let after = self.server.db().last();
        let applied = coming.into_iter().take_while(|e| e.zxid <= after);
        report.seen.extend(applied.map(Seen::Applied));
        if after > before {
            report.seen.push(Seen::Digest { at: after, digest: self.server.db().tree.digest() });
        }
        let batch = Rc::new(batch);
        for seat in &mut self.seats {
            seat.batches.push_back(batch.clone());
        }
        self.server.published();
        report.told = true;
    }

    fn again_us(&mut self, clock: &NodeClock, at_us: u64) -> Option<u64> {
        let stall = std::mem::take(&mut self.ports.journal.stalled_us);
        let due = self.server.next_deadline();
        let timer = (due < MonoMs(u64::MAX)).then(|| clock.when_us(due).max(at_us + 500));
        let disk = self.ports.journal.done_at_us().map(|t| t.max(at_us + 1));
        let file = self.membership.due_us().map(|t| t.max(at_us + 1));
        let busy = self.errands.is_busy() || self.snapshots.is_busy();
        let busy = busy.then_some(at_us + 300);
        let more = (self.server.can_advance() && !self.rings_full()).then_some(at_us + 20);
        let free = self.server.has_room() && self.ports.journal.has_room() && !self.rings_full();
        let asked = self.seats.iter().any(|s| s.to_core.has_some(free)).then_some(at_us + 20);
        [timer, disk, file, busy, more, asked].into_iter().flatten().min().map(|t| t.max(at_us + stall))
    }
}
