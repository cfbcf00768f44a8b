//! What the core cannot do in a turn, played in virtual time: the order of steps is that of `net::server::errands`, the
//! threads there are turns here.
//!
//! Invariants, as there: a received state is valid on disk before it is installed, and never when its role has ended
//! before; what was begun for a role that has ended is dropped.

use crate::dice::Dice;
use crate::node::Wires;
use crate::plan::Breach;
use crate::ports::Ports;
use crate::recovery::sending::{SIGNATURE, Sending, What};
use crate::recovery::{self, REACH_ALL, storage};
use crate::ring::Wake;
use crate::snapshots;
use anyhow::{Result, anyhow, bail};
use crossbeam::channel::{Receiver, unbounded};
use engine::foreign::Bounds;
use engine::foreign::snapshot::{Parser, Record};
use engine::ids::{LinkId, SessionId, Zxid};
use engine::pipeline::Database;
use engine::server::{Need, PeerInput, Server};
use engine::time::Now;
use engine::zab::wire::{self, Kind};
use engine::zab::{Entry, Links, Reach, Window};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;
use storage::Source;
use wal::snapshot::SnapshotWriter;
use wal::{DataDir, Position};

const STREAMS_MAX: usize = 2;
const LINK_BYTES: usize = 1 << 20;

/// There is no thread to wake.
struct Nobody;
impl Wake for Nobody {
    fn wake(&self) {}
}

/// What a learner lacks, on its way.
struct Streaming {
    link: LinkId,
    zxid: Zxid,
    /// The real errand, until the log is durable as far as it reads.
    errand: Option<Sending>,
    position: Position,
    due_us: u64,
    pieces: Receiver<Vec<u8>>,
    /// What is left of the piece that was begun.
    piece: VecDeque<u8>,
    /// Pieces are whole packets, and others may stand between them.
    packets: bool,
    unsent: usize,
}

/// A learner that waits for a stream.
struct Waiting {
    link: LinkId,
    last: Zxid,
    voter: bool,
    goes_on: bool,
}

/// A state on its way from the leader, or from disk.
enum Loading {
    Stream { link: LinkId, zxid: Zxid, position: Position, reading: Box<Reading>, due_us: Option<u64> },
    Disk { due_us: u64 },
}

/// What reads a stream.
struct Reading {
    /// It reads them.
    acls: bool,
    db: Database,
    sessions: HashMap<SessionId, i32>,
    parser: Parser,
    held: Vec<u8>,
}

enum Ready {
    Received(Box<Database>, Option<SnapshotWriter>),
    Rebuilt(Box<Database>, Window, Vec<Entry>, Zxid),
}

/// See the module.
pub struct Errands {
    config: Arc<net::config::Config>,
    data: Arc<DataDir>,
    shards: usize,
    reach: Reach,
    queue: VecDeque<Waiting>,
    streams: Vec<Streaming>,
    loading: Option<Loading>,
    ready: Option<Ready>,
    behind: Option<(LinkId, Vec<u8>)>,
    dice: Dice,
    /// What the server had to say since the driver last looked.
    pub said: Vec<String>,
    pub installs: u64,
    pub rebuilds: u64,
    /// Learners that the window left behind in their synchronisation.
    pub goes_on: u64,
    breach: Breach,
    snap_permille: u64,
}

impl Errands {
    pub fn new(
        config: Arc<net::config::Config>,
        data: Arc<DataDir>,
        (shards, reach): (usize, Reach),
        dice: Dice,
        (breach, snap_permille): (Breach, u64),
    ) -> Errands {
        Errands {
            config,
            data,
            shards,
            reach,
            queue: VecDeque::new(),
            streams: Vec::new(),
            loading: None,
            ready: None,
            behind: None,
            dice,
            said: Vec::new(),
            installs: 0,
            rebuilds: 0,
            goes_on: 0,
            breach,
            snap_permille,
        }
    }

    /// Does what only the driver can; an error ends the server.
    pub fn step(
        &mut self,
        server: &mut Server,
        ports: &mut Ports,
        wires: &mut Wires,
        (now, at_us): (Now, u64),
    ) -> Result<()> {
        while let Some(need) = server.take_need() {
            match need {
                Need::Say(text) | Need::Warn(text) => self.said.push(text),
                Need::Gripe { text, .. } | Need::Synchronises { text, .. } => self.said.push(text),
                Need::RejectElection { from, why } => panic!("server {from} speaks no garbage: {why}"),
                Need::Fail(why) => bail!("{why}"),
                Need::Stream { link, last, voter, goes_on, .. } => {
                    self.goes_on += u64::from(goes_on);
                    self.queue.push_back(Waiting { link, last, voter, goes_on });
                }
                Need::Install { link, zxid } => {
                    // Nothing of the former history may reach the log behind the snapshot.
                    ports.journal.flush();
                    let position = ports.journal.position_behind(server.zab().last_ticket());
                    let (db, _) = storage::empty(self.shards);
                    let reading = Reading {
                        acls: self.breach != Breach::SnapWithoutAcls,
                        db,
                        sessions: HashMap::new(),
                        parser: Parser::new(Bounds::default()),
                        held: Vec::new(),
                    };
                    self.behind = None;
                    let reading = Box::new(reading);
                    self.loading = Some(Loading::Stream { link, zxid, position, reading, due_us: None });
                }
                Need::Rebuild { .. } => {
                    ports.journal.flush();
                    let due_us = at_us + self.dice.delay_us(5_000);
                    self.loading = Some(Loading::Disk { due_us });
                }
            }
        }
        self.begin_streams(server, ports, (now, at_us));
        self.feed_streams(server, ports, (now, at_us));
        self.load(server, ports, wires, (now, at_us));
        self.swap(server, ports, wires, now);
        Ok(())
    }

    /// Input of a link: to whoever reads it at present.
    pub fn input(
        &mut self,
        link: LinkId,
        server: &mut Server,
        ports: &mut Ports,
        wires: &mut Wires,
        now: Now,
    ) {
        if self.ready.is_some() && server.is_loading() == Some(link) {
            // A state waits until no shard reads the old one; `swap` goes on from here.
            return;
        }
        if self.behind.as_ref().is_some_and(|(l, _)| *l == link) {
            let (_, mut bytes) = self.behind.take().expect("looked at above");
            bytes.append(&mut wires.take(link));
            let used = server.peer(PeerInput::Bytes { link, bytes: &bytes }, now, ports);
            bytes.drain(..used);
            if !bytes.is_empty() && server.is_loading() != Some(link) {
                self.behind = Some((link, bytes));
            }
            return;
        }
        if server.is_loading() == Some(link) {
            return;
        }
        let mut bytes = wires.take(link);
        let used = server.peer(PeerInput::Bytes { link, bytes: &bytes }, now, ports);
        bytes.drain(..used);
        wires.give_back(link, bytes);
    }

    // ----- leader

    fn next_waiting(&mut self) -> Option<Waiting> {
        let rank = |(at, w): (usize, &Waiting)| (!w.voter, !w.goes_on, at);
        let (.., at) = self.queue.iter().enumerate().map(rank).min()?;
        self.queue.remove(at)
    }

    fn begin_streams(&mut self, server: &mut Server, ports: &mut Ports, (now, at_us): (Now, u64)) {
        while self.streams.len() < STREAMS_MAX
            && let Some(Waiting { link, last, .. }) = self.next_waiting()
        {
            let Some(stream) = server.stream_begins(link, now) else { continue };
            let (zxid, db) = (stream.upto, server.db());
            let tree = db.tree.handle();
            let mut last = last;
            let what = if let Some(behind) = stream.behind {
                let from = behind.ticket.map(|t| ports.journal.position_behind(t));
                What::Rest { behind, from }
            } else if let Some(walkers) = tree.walker(zxid).zip(tree.walker(zxid)) {
                let mut sessions: Vec<(SessionId, i32)> =
                    db.sessions().iter().map(|(s, t)| (*s, *t)).collect();
                sessions.sort_unstable();
                if self.breach == Breach::SnapWithoutSessions {
                    sessions.clear();
                }
                if self.breach == Breach::EmptyDiff {
                    last = zxid;
                } else if self.dice.permille(self.snap_permille) {
                    // No log leads from there: a snapshot it is.
                    last = Zxid(u64::MAX >> 1);
                }
                let tree_bytes = db.tree.approximate_data_size() + 100 * db.tree.node_count();
                What::All { tree_bytes, sessions, walkers }
            } else {
                ports.close(link);
                continue;
            };
            let (to, pieces) = unbounded();
            let position = ports.journal.position_behind(server.zab().applied_ticket());
            let packets = matches!(what, What::Rest { .. });
            let errand = Sending {
                last,
                upto: zxid,
                position,
                what,
                data: self.data.clone(),
                log: ports.journal.reader().clone(),
                to,
                wake: Arc::new(Nobody),
                stop: Arc::default(),
                quiet: false,
            };
            let due_us = at_us + self.dice.delay_us(2_000);
            let piece = VecDeque::new();
            let errand = Some(errand);
            let unsent = 0;
            self.streams.push(Streaming {
                link,
                zxid,
                errand,
                position,
                due_us,
                pieces,
                piece,
                packets,
                unsent,
            });
        }
    }

    fn feed_streams(&mut self, server: &mut Server, ports: &mut Ports, (now, at_us): (Now, u64)) {
        let (mut ended, mut failed) = (Vec::new(), Vec::new());
        let (dice, breach) = (&mut self.dice, self.breach);
        let durable = ports.journal.reader().durable();
        self.streams.retain_mut(|s| {
            let Some(out) = ports.outs.get(&s.link) else { return false };
            if out.bytes.is_empty() || out.bytes.len() < s.unsent {
                server.stream_took(s.link, now);
            }
            s.unsent = out.bytes.len();
            if s.due_us > at_us || durable < s.position {
                return true;
            }
            if let Some(errand) = s.errand.take() {
                errand.run();
            }
            if out.bytes.len() >= LINK_BYTES {
                return true;
            }
            if s.piece.is_empty() {
                match s.pieces.try_recv() {
                    Ok(piece) if piece.is_empty() => {
                        ended.push((s.link, s.zxid));
                        return false;
                    }
                    Ok(piece) if breach == Breach::HoleInDiff => s.piece = with_a_hole(&piece).into(),
                    Ok(piece) => s.piece = piece.into(),
                    Err(_) => {
                        ports.close(s.link);
                        failed.push(s.link);
                        return false;
                    }
                }
            }
            if s.packets {
                ports.out(s.link).extend(s.piece.drain(..));
            } else {
                let n = s.piece.len().min(dice.between(1, 8_000) as usize);
                let bytes: Vec<u8> = s.piece.drain(..n).collect();
                ports.put_opaque(s.link, &bytes);
            }
            s.unsent = ports.out(s.link).len();
            true
        });
        for link in failed {
            server.peer(PeerInput::Down { link, why: "its synchronisation failed" }, now, ports);
        }
        for (link, zxid) in ended {
            server.stream_ended(link, zxid, now, ports);
        }
    }

    // ----- learner

    fn load(&mut self, server: &mut Server, ports: &mut Ports, wires: &mut Wires, (now, at_us): (Now, u64)) {
        let wanted = server.is_loading();
        match &mut self.loading {
            None => {}
            Some(_) if wanted.is_none() => self.loading = None,
            Some(Loading::Disk { due_us }) if *due_us > at_us => {}
            Some(Loading::Disk { .. }) => {
                let log = ports.journal.reader().clone();
                let source = Source { data: &self.data, log, config: &self.config, shards: self.shards };
                match source.history(None, REACH_ALL, Instant::now()) {
                    Ok(h) => {
                        let base = h.window.base();
                        let (entries, window) = recovery::narrowed(&h.window, self.reach);
                        self.loading = None;
                        self.ready = Some(Ready::Rebuilt(Box::new(h.db), window, entries, base));
                    }
                    Err(e) => {
                        self.loading = None;
                        server.give_up_role(format!("the state cannot be loaded again: {e:#}"), now, ports);
                    }
                }
            }
            Some(Loading::Stream { link, reading, due_us, zxid, position }) => {
                let link = *link;
                if due_us.is_none() {
                    let bytes = wires.take(link);
                    let fed = reading.feed(&bytes);
                    server.stream_moved(!bytes.is_empty(), matches!(fed, Ok(false)), now);
                    match fed {
                        Ok(false) => return,
                        Ok(true) => *due_us = Some(at_us + self.dice.delay_us(5_000)),
                        Err(e) => {
                            self.loading = None;
                            server.give_up_role(format!("the snapshot cannot be taken: {e:#}"), now, ports);
                            return;
                        }
                    }
                }
                if due_us.is_some_and(|at| at > at_us) {
                    return;
                }
                let (zxid, position) = (*zxid, *position);
                let Some(Loading::Stream { reading, .. }) = self.loading.take() else { return };
                let Reading { mut db, sessions, held, .. } = *reading;
                db.loaded(zxid, sessions);
                db.tree.publish(zxid);
                match self.store(position, &db) {
                    Ok(file) => {
                        let rest = held[SIGNATURE.len()..].to_vec();
                        self.behind = Some((link, rest));
                        self.ready = Some(Ready::Received(Box::new(db), file));
                    }
                    Err(e) => server.give_up_role(format!("the snapshot cannot be kept: {e:#}"), now, ports),
                }
            }
        }
    }

    /// Writes the received state as a snapshot of our own, but for its end.
    fn store(&self, position: Position, db: &Database) -> Result<Option<SnapshotWriter>> {
        if self.breach == Breach::InstallWithoutFile {
            return Ok(None);
        }
        let mut writing = snapshots::Writing::begin(&self.data, position, db)?;
        while writing.slice(64)? {}
        Ok(Some(writing.writer))
    }

    /// Replaces the state once no shard reads the old one.
    fn swap(&mut self, server: &mut Server, ports: &mut Ports, wires: &mut Wires, now: Now) {
        if self.ready.is_none() || server.is_draining() {
            return;
        }
        let Some(link) = server.is_loading() else {
            // The role has ended meanwhile; the file never became valid.
            (self.ready, self.behind) = (None, None);
            return;
        };
        match self.ready.take() {
            Some(Ready::Received(db, file)) => {
                if let Some(Err(e)) = file.map(|f| f.finish(db.last().0)) {
                    return server.give_up_role(format!("the snapshot cannot be kept: {e}"), now, ports);
                }
                self.installs += 1;
                server.install(*db, now, ports);
                self.input(link, server, ports, wires, now);
            }
            Some(Ready::Rebuilt(db, window, entries, base)) => {
                self.rebuilds += 1;
                ports.journal.truth.restart(base, entries);
                server.rebuild(*db, window, now, ports);
                self.input(link, server, ports, wires, now);
            }
            None => {}
        }
    }

    /// Whether it wants another turn soon.
    pub fn is_busy(&self) -> bool {
        self.loading.is_some() || !self.streams.is_empty() || self.ready.is_some() || !self.queue.is_empty()
    }
}

/// The packets of a DIFF without the second transaction; anything else as it is.
fn with_a_hole(piece: &[u8]) -> Vec<u8> {
    let (mut out, mut at, mut proposals) = (Vec::new(), 0, Vec::new());
    while let Ok(Some((p, n))) = wire::parse(&piece[at..], usize::MAX >> 1) {
        if p.kind == Kind::Snap {
            return piece.to_vec();
        }
        if p.kind == Kind::Proposal {
            proposals.push(p.zxid);
        }
        if proposals.get(1) != Some(&p.zxid) {
            out.extend_from_slice(&piece[at..at + n]);
        }
        at += n;
    }
    out
}

impl Reading {
    /// Takes in more bytes of the stream; `true`: it is whole.
    fn feed(&mut self, bytes: &[u8]) -> Result<bool> {
        self.held.extend_from_slice(bytes);
        if !self.parser.is_done() {
            let (db, sessions, acls) = (&mut self.db, &mut self.sessions, self.acls);
            let used = self.parser.feed(&self.held, |record| -> Result<()> {
                match record {
                    Record::Session { id, timeout_ms } => {
                        sessions.insert(id, timeout_ms);
                    }
                    Record::Node { path, data, acl, stat } => {
                        let acl = acl.filter(|_| acls).unwrap_or_default();
                        db.load_node(path, data, acl, &stat).map_err(|e| anyhow!("node {path}: {e:?}"))?;
                    }
                    Record::End { .. } => {}
                }
                Ok(())
            })?;
            self.held.drain(..used);
        }
        if !self.parser.is_done() || self.held.len() < SIGNATURE.len() {
            return Ok(false);
        }
        if !self.held.starts_with(SIGNATURE) {
            bail!("its end mark is missing");
        }
        Ok(true)
    }
}
