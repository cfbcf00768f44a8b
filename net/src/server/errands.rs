//! What the core cannot do in a turn: streaming a snapshot to a learner, reading one from the leader, loading the state
//! again. Each runs on a thread of its own; the core splices the results in.
//!
//! Not here: which learner needs what (`engine::zab`), formats (`engine::foreign`, `wal`).
//! Invariants:
//! - a stream takes at most a few pieces of memory besides the link's buffer, whatever the tree's size;
//! - who is streamed to takes bytes, or gives its turn to the next (`engine::zab` closes it): voters come first;
//! - a received state is valid on disk before it is installed, and never when its role has ended before;
//! - what a thread brings for a role that has ended is dropped.

use super::membership::Membership;
use super::ports::Ports;
use super::sending::{PIECE_BYTES, SIGNATURE, Sending, What};
use super::snapshots;
use super::storage::{self, Source};
use crate::config::Config;
use crate::ring::Wake;
use anyhow::{Context, Result, anyhow, bail};
use crossbeam::channel::{Receiver, Sender, TryRecvError, TrySendError, bounded};
use engine::foreign::Bounds;
use engine::foreign::snapshot::{Parser, Record};
use engine::ids::{LinkId, ServerId, SessionId, Zxid};
use engine::pipeline::Database;
use engine::server::{Need, PeerInput, Server};
use engine::time::Now;
use engine::zab::wire::Kind;
use engine::zab::{Links, Reach, Stream, Window};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Instant;
use wal::snapshot::SnapshotWriter;
use wal::{DataDir, Position};

/// Learners that are streamed to at the same time; others wait.
const STREAMS_MAX: usize = 2;
/// Pieces between a thread and the core.
const PIECES: usize = 8;
/// Unsent bytes of a link below which the next piece is appended.
const LINK_BYTES: usize = 1 << 20;

/// A learner that waits for a stream.
struct Waiting {
    link: LinkId,
    to: ServerId,
    /// The last zxid that it has.
    last: Zxid,
    voter: bool,
    goes_on: bool,
}

/// What a learner lacks, on its way.
struct Streaming {
    link: LinkId,
    to: ServerId,
    zxid: Zxid,
    pieces: Receiver<Vec<u8>>,
    since: Instant,
    bytes: u64,
    /// What the link's buffer held when it was last left.
    unsent: usize,
    /// The log says that it has begun.
    told: bool,
    _thread: Wanted,
}

/// Tells a thread, when it is dropped, that nobody wants what it does.
struct Wanted(Arc<AtomicBool>);

impl Drop for Wanted {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A state that came from the leader: what it is, its file but for the end that makes it valid, and the bytes behind the
/// stream.
struct Received {
    db: Database,
    file: SnapshotWriter,
    rest: Vec<u8>,
    /// Behind that.
    pieces: Receiver<Vec<u8>>,
}

/// A state on its way from the leader, or from disk.
enum Loading {
    Stream {
        link: LinkId,
        to_thread: Option<Sender<Vec<u8>>>,
        waiting: Option<Vec<u8>>,
        /// Its thread has seen the end: the leader owes nothing of it any more.
        whole: Arc<AtomicBool>,
        done: Receiver<Result<Received>>,
        _thread: Wanted,
    },
    Disk(Receiver<Result<(Database, Window)>>),
}

/// What learners were sent that the window could not give them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SentCounts {
    /// The log from disk.
    pub diffs: u64,
    pub snapshots: u64,
}

/// See the module.
pub struct Errands {
    config: Arc<Config>,
    data: Arc<DataDir>,
    shards: usize,
    reach: Reach,
    membership: Membership,
    wake: Arc<dyn Wake>,
    /// Learners that wait for a stream, as they came.
    queue: VecDeque<Waiting>,
    /// Those of streams, both ways; a few that have ended included.
    threads: Vec<JoinHandle<()>>,
    streams: Vec<Streaming>,
    loading: Option<Loading>,
    /// A state that waits until no shard reads the old one.
    ready: Option<Ready>,
    /// Bytes of a link that came behind its stream and are not used up yet.
    behind: Option<(LinkId, Vec<u8>)>,
    sent: SentCounts,
}

impl SentCounts {
    /// By the packet that a stream begins with.
    fn book(&mut self, first_piece: &[u8]) {
        let kind = first_piece.first_chunk().map(|k| i32::from_be_bytes(*k));
        self.diffs += u64::from(kind == Some(Kind::Diff as i32));
        self.snapshots += u64::from(kind == Some(Kind::Snap as i32));
    }
}

enum Ready {
    Received(Box<Database>, SnapshotWriter),
    Rebuilt(Box<Database>, Window),
}

impl Errands {
    pub fn new(
        config: Arc<Config>,
        data: Arc<DataDir>,
        (shards, reach): (usize, Reach),
        membership: Membership,
        wake: Arc<dyn Wake>,
    ) -> Errands {
        Errands {
            membership,
            config,
            data,
            shards,
            reach,
            wake,
            queue: VecDeque::new(),
            threads: Vec::new(),
            streams: Vec::new(),
            loading: None,
            ready: None,
            behind: None,
            sent: SentCounts::default(),
        }
    }

    /// Since the start.
    pub fn sent(&self) -> SentCounts {
        self.sent
    }

    /// Does what only the driver can; an error ends the server.
    pub fn step(&mut self, server: &mut Server, ports: &mut Ports, now: Now) -> Result<()> {
        while let Some(need) = server.take_need() {
            match need {
                Need::Say(text) => tracing::info!("{text}"),
                Need::Warn(text) => tracing::warn!("{text}"),
                Need::Gripe { id, at, text } => {
                    if let Some(peers) = &mut ports.peers {
                        peers.gripe(id, &at, &text);
                    }
                }
                Need::Synchronises { to, text } => {
                    if let Some(peers) = &mut ports.peers {
                        peers.note_history(to, &text);
                    }
                }
                Need::RejectElection { from, why } => {
                    if let Some(peers) = &mut ports.peers {
                        peers.reject_election(from, &why);
                    }
                }
                Need::Fail(why) => bail!("{why}"),
                Need::Stream { link, to, last, voter, goes_on } => {
                    self.queue.retain(|w| ports.peers.as_ref().is_some_and(|p| p.is_open(w.link)));
                    self.queue.push_back(Waiting { link, to, last, voter, goes_on });
                }
                Need::Install { link, zxid } => self.begin_install(link, zxid, server, ports, now),
                Need::Rebuild { zxid } => self.begin_rebuild(zxid, server, ports, now),
            }
        }
        self.membership.step(server, ports);
        self.begin_streams(server, ports, now);
        self.feed_streams(server, ports, now);
        self.load(server, ports, now);
        self.swap(server, ports, now);
        Ok(())
    }

    /// Input of a link: to whoever reads it at present. `peers` says that there is some.
    pub fn input(&mut self, link: LinkId, server: &mut Server, ports: &mut Ports, now: Now) {
        if self.ready.is_some() && server.is_loading() == Some(link) {
            // A state waits until no shard reads the old one; `swap` goes on from here.
            return;
        }
        if self.behind.as_ref().is_some_and(|(l, _)| *l == link) {
            let Some(peers) = &mut ports.peers else { return };
            let (_, mut bytes) = self.behind.take().expect("looked at above");
            bytes.extend_from_slice(peers.input(link));
            let all = peers.input(link).len();
            peers.consume(link, all);
            let used = server.peer(PeerInput::Bytes { link, bytes: &bytes }, now, ports);
            bytes.drain(..used);
            if !bytes.is_empty() && server.is_loading() != Some(link) {
                self.behind = Some((link, bytes));
            }
            return;
        }
        if server.is_loading() == Some(link) {
            return self.feed_loading(link, server, ports, now);
        }
        let Some(peers) = &mut ports.peers else { return };
        // The buffer is lent out while the engine answers into others.
        let (bytes, start) = peers.take_input(link);
        let used = server.peer(PeerInput::Bytes { link, bytes: &bytes[start..] }, now, ports);
        if let Some(peers) = &mut ports.peers {
            peers.give_back(link, bytes, used);
        }
        if server.is_loading() == Some(link) {
            self.feed_loading(link, server, ports, now);
        }
    }

    // ----- leader

    fn begin_streams(&mut self, server: &mut Server, ports: &mut Ports, now: Now) {
        while self.streams.len() < STREAMS_MAX
            && let Some(Waiting { link, to, last, .. }) = next_of(&mut self.queue)
        {
            let Some(stream) = server.stream_begins(link, now) else { continue };
            let zxid = stream.upto;
            let line =
                format!("server {to} has the history up to {last}: it is sent what it lacks up to {zxid}");
            // Who comes again and again is streamed to without a word.
            let told = ports.peers.as_mut().is_some_and(|p| p.note_history(to, &line));
            let begun = self.what(&stream, server, ports).and_then(|what| {
                let (to_core, pieces) = bounded(PIECES);
                let stop = Arc::new(AtomicBool::new(false));
                let errand = Sending {
                    last,
                    upto: stream.upto,
                    position: ports.journal.position_behind(server.zab().applied_ticket()),
                    what,
                    data: self.data.clone(),
                    log: ports.journal.reader().clone(),
                    to: to_core,
                    wake: self.wake.clone(),
                    stop: stop.clone(),
                    quiet: !told,
                };
                self.spawn("sync-out", move || errand.run())?;
                Ok((pieces, Wanted(stop)))
            });
            match begun {
                Ok((pieces, _thread)) => {
                    let (since, bytes, unsent) = (Instant::now(), 0, 0);
                    self.streams.push(Streaming {
                        link,
                        to,
                        zxid,
                        pieces,
                        since,
                        bytes,
                        unsent,
                        told,
                        _thread,
                    });
                }
                Err(e) => {
                    tracing::warn!("{e:#}: server {to} must ask again");
                    give_up_learner(link, server, ports, now);
                }
            }
        }
    }

    fn what(&self, stream: &Stream, server: &Server, ports: &Ports) -> Result<What> {
        if let Some(behind) = stream.behind {
            let from = behind.ticket.and_then(|t| ports.journal.known_position_behind(t));
            return Ok(What::Rest { behind, from });
        }
        let db = server.db();
        let tree = db.tree.handle();
        let walkers = tree.walker(stream.upto).zip(tree.walker(stream.upto));
        Ok(What::All {
            tree_bytes: db.tree.approximate_data_size() + 100 * db.tree.node_count(),
            sessions: db.sessions().iter().map(|(s, t)| (*s, *t)).collect(),
            walkers: walkers.context("no room for readers of the tree")?,
        })
    }

    fn spawn(&mut self, name: &str, run: impl FnOnce() + Send + 'static) -> Result<()> {
        self.threads.retain(|t| !t.is_finished());
        let thread = std::thread::Builder::new().name(name.into()).spawn(run);
        self.threads.push(thread.context("the thread for a synchronisation cannot start")?);
        Ok(())
    }

    /// Gives up every stream and waits for the threads: nothing is written or read afterwards.
    pub fn end(self) {
        let Errands { threads, streams, loading, ready, .. } = self;
        drop((streams, loading, ready));
        for thread in threads {
            let _whatever = thread.join();
        }
    }

    fn feed_streams(&mut self, server: &mut Server, ports: &mut Ports, now: Now) {
        let (mut ended, mut failed) = (Vec::new(), Vec::new());
        self.streams.retain_mut(|s| {
            loop {
                if !ports.peers.as_ref().is_some_and(|p| p.is_open(s.link)) {
                    return false;
                }
                let out = ports.out(s.link);
                if out.is_empty() || out.len() < s.unsent {
                    server.stream_took(s.link, now);
                }
                s.unsent = out.len();
                if out.len() >= LINK_BYTES {
                    return true;
                }
                match s.pieces.try_recv() {
                    Ok(piece) if !piece.is_empty() => {
                        if s.bytes == 0 {
                            self.sent.book(&piece);
                        }
                        s.bytes += piece.len() as u64;
                        out.extend_from_slice(&piece);
                        s.unsent = out.len();
                    }
                    Err(TryRecvError::Empty) => return true,
                    Err(TryRecvError::Disconnected) => {
                        let to = s.to;
                        let line =
                            format!("what server {to} lacks could not be sent to its end: it must ask again");
                        if let Some(peers) = &mut ports.peers {
                            peers.gripe(Some(to), "", &line);
                        }
                        ports.close(s.link);
                        failed.push(s.link);
                        return false;
                    }
                    // An empty piece is the end of a good stream.
                    Ok(_) => {
                        let ms = s.since.elapsed().as_millis();
                        if s.told {
                            tracing::info!(
                                "server {}: {} bytes of history or snapshot in {ms} ms",
                                s.to,
                                s.bytes
                            );
                        }
                        ended.push((s.link, s.zxid));
                        return false;
                    }
                }
            }
        });
        for link in failed {
            server.peer(PeerInput::Down { link, why: "its synchronisation failed" }, now, ports);
        }
        for (link, zxid) in ended {
            server.stream_ended(link, zxid, now, ports);
        }
    }

    // ----- learner

    fn begin_install(&mut self, link: LinkId, zxid: Zxid, server: &mut Server, ports: &mut Ports, now: Now) {
        // What an earlier role has loaded is nobody's now. Nothing of the former history may reach the log behind the
        // snapshot.
        self.ready = None;
        ports.journal.flush();
        let position = ports.journal.position_behind(server.zab().last_ticket());
        let (to_thread, pieces) = bounded::<Vec<u8>>(PIECES);
        let (tell, done) = bounded(1);
        let (data, shards, wake) = (self.data.clone(), self.shards, self.wake.clone());
        let whole = Arc::new(AtomicBool::new(false));
        let seen = whole.clone();
        let stop = Arc::new(AtomicBool::new(false));
        let given_up = stop.clone();
        let spawned = self.spawn("snap-in", move || {
            let taken = take_in(&pieces, &*wake, shards, zxid);
            seen.store(true, Ordering::Release);
            wake.wake();
            let result = taken.and_then(|(db, rest)| {
                let give_up = || given_up.load(Ordering::Relaxed);
                Ok(Received { file: store(&data, position, &db, &give_up)?, db, rest, pieces })
            });
            let _role_ended = tell.send(result);
            wake.wake();
        });
        match spawned {
            Ok(_) => {
                tracing::info!("receiving a snapshot at {zxid}");
                self.behind = None;
                let (to_thread, waiting, _thread) = (Some(to_thread), None, Wanted(stop));
                self.loading = Some(Loading::Stream { link, to_thread, waiting, whole, done, _thread });
                self.feed_loading(link, server, ports, now);
            }
            Err(e) => server.give_up_role(format!("{e:#}"), now, ports),
        }
    }

    fn begin_rebuild(&mut self, zxid: Zxid, server: &mut Server, ports: &mut Ports, now: Now) {
        self.ready = None;
        ports.journal.flush();
        let (config, data, shards, reach) = (self.config.clone(), self.data.clone(), self.shards, self.reach);
        let (log, wake) = (ports.journal.reader().clone(), self.wake.clone());
        let (tell, done) = bounded(1);
        let spawned = self.spawn("rebuild", move || {
            let source = Source { data: &data, log, config: &config, shards };
            let result = source.history(None, reach, Instant::now()).map(|h| (h.db, h.window));
            let _role_ended = tell.send(result);
            wake.wake();
        });
        match spawned {
            Ok(()) => {
                tracing::warn!(
                    "the leader, server {}, cuts this server's history at {zxid}, below what it had applied: the state \
                     is loaded again",
                    server.zab().leader().unwrap_or_default()
                );
                self.loading = Some(Loading::Disk(done));
            }
            Err(e) => {
                server.give_up_role(format!("{e:#}"), now, ports);
            }
        }
    }

    /// Hands bytes of the link to the thread that reads the stream, as far as it takes them.
    fn feed_loading(&mut self, link: LinkId, server: &mut Server, ports: &mut Ports, now: Now) {
        let (Some(Loading::Stream { link: from, to_thread: Some(to), waiting, whole, .. }), Some(peers)) =
            (&mut self.loading, &mut ports.peers)
        else {
            return;
        };
        if *from != link {
            return;
        }
        let mut came = false;
        loop {
            let piece = match waiting.take() {
                Some(piece) => piece,
                None => {
                    let there = peers.input(link);
                    if there.is_empty() {
                        break;
                    }
                    let piece = there[..there.len().min(PIECE_BYTES)].to_vec();
                    peers.consume(link, piece.len());
                    came = true;
                    piece
                }
            };
            match to.try_send(piece) {
                Ok(()) => {}
                // Full; or it has ended, and what it did not use comes back with its result.
                Err(TrySendError::Full(piece) | TrySendError::Disconnected(piece)) => {
                    *waiting = Some(piece);
                    break;
                }
            }
        }
        let idle = waiting.is_none() && to.is_empty() && !whole.load(Ordering::Acquire);
        server.stream_moved(came, idle, now);
    }

    fn load(&mut self, server: &mut Server, ports: &mut Ports, now: Now) {
        let wanted = server.is_loading();
        match &mut self.loading {
            None => {}
            Some(_) if wanted.is_none() => self.loading = None,
            Some(Loading::Disk(done)) => match done.try_recv() {
                Err(TryRecvError::Empty) => {}
                Ok(Ok((db, window))) => {
                    self.loading = None;
                    self.ready = Some(Ready::Rebuilt(Box::new(db), window));
                }
                Ok(Err(e)) => {
                    self.fail_loading(format!("the state cannot be loaded again: {e:#}"), server, ports, now)
                }
                Err(TryRecvError::Disconnected) => {
                    self.fail_loading("its loader panicked".into(), server, ports, now)
                }
            },
            Some(Loading::Stream { link, waiting, done, .. }) => {
                let link = *link;
                match done.try_recv() {
                    Err(TryRecvError::Empty) => self.feed_loading(link, server, ports, now),
                    Ok(Ok(Received { db, file, mut rest, pieces })) => {
                        // What was handed over while the thread wrote the file: the history behind the stream.
                        rest.extend(pieces.try_iter().flatten());
                        rest.append(waiting.get_or_insert_default());
                        self.loading = None;
                        self.behind = Some((link, rest));
                        self.ready = Some(Ready::Received(Box::new(db), file));
                        // From here on it waits for this server's own shards.
                        server.stream_moved(false, false, now);
                    }
                    Ok(Err(e)) => {
                        self.fail_loading(format!("its snapshot cannot be taken: {e:#}"), server, ports, now)
                    }
                    Err(TryRecvError::Disconnected) => {
                        self.fail_loading(
                            "the reader of the leader's snapshot panicked".into(),
                            server,
                            ports,
                            now,
                        );
                    }
                }
            }
        }
    }

    fn fail_loading(&mut self, why: String, server: &mut Server, ports: &mut Ports, now: Now) {
        self.loading = None;
        server.give_up_role(why, now, ports);
    }

    /// Replaces the state once no shard reads the old one.
    fn swap(&mut self, server: &mut Server, ports: &mut Ports, now: Now) {
        if self.ready.is_none() || server.is_draining() {
            return;
        }
        if server.is_loading().is_none() {
            // The role has ended meanwhile; the file never became valid.
            (self.ready, self.behind) = (None, None);
            return;
        }
        match self.ready.take() {
            Some(Ready::Received(db, file)) => {
                // Here, and not on its thread: nothing of another role can have reached the log since it was begun, and
                // the mark that says so follows at once.
                if let Err(e) = file.finish(db.last().0) {
                    return self.fail_loading(
                        format!("its snapshot cannot be kept: {e}"),
                        server,
                        ports,
                        now,
                    );
                }
                tracing::info!(
                    "the leader's snapshot is in place: {} znodes at {}",
                    db.tree.node_count(),
                    db.last()
                );
                server.install(*db, now, ports);
                if let Some((link, _)) = self.behind {
                    self.input(link, server, ports, now);
                }
            }
            Some(Ready::Rebuilt(db, window)) => {
                let link = server.is_loading();
                server.rebuild(*db, window, now, ports);
                if let Some(link) = link {
                    self.input(link, server, ports, now);
                }
            }
            None => {}
        }
    }
}

/// Whose turn it is: voters first, and of those and of the others who is in the middle; then who came first.
fn next_of(queue: &mut VecDeque<Waiting>) -> Option<Waiting> {
    let rank = |(at, w): (usize, &Waiting)| (!w.voter, !w.goes_on, at);
    let (.., at) = queue.iter().enumerate().map(rank).min()?;
    queue.remove(at)
}

/// Closes a learner's link from this side, which the sockets tell nobody of.
fn give_up_learner(link: LinkId, server: &mut Server, ports: &mut Ports, now: Now) {
    ports.close(link);
    server.peer(PeerInput::Down { link, why: "what it lacks cannot be sent" }, now, ports);
}

/// Reads a stream up to its signature; returns the state and the bytes behind it.
fn take_in(
    from: &Receiver<Vec<u8>>,
    wake: &dyn Wake,
    shards: usize,
    zxid: Zxid,
) -> Result<(Database, Vec<u8>)> {
    let (mut db, _handle) = storage::empty(shards);
    let mut sessions: HashMap<SessionId, i32> = HashMap::new();
    let mut parser = Parser::new(Bounds::default());
    let mut held: Vec<u8> = Vec::new();
    while !parser.is_done() || held.len() < SIGNATURE.len() {
        let piece = from.recv().context("the link ended within the stream")?;
        wake.wake();
        held.extend_from_slice(&piece);
        if parser.is_done() {
            continue;
        }
        let used = parser.feed(&held, |record| -> Result<()> {
            match record {
                Record::Session { id, timeout_ms } => {
                    sessions.insert(id, timeout_ms);
                }
                Record::Node { path, data, acl, stat } => {
                    // The transaction that brings its list follows; until then nobody may see it.
                    let unknown;
                    let acl = match acl {
                        Some(acl) => acl,
                        None => {
                            unknown = engine::foreign::snapshot::nobody();
                            &unknown[..]
                        }
                    };
                    db.load_node(path, data, acl, &stat)
                        .map_err(|e| anyhow!("node {path} cannot be loaded: {e:?}"))?;
                }
                Record::End { .. } => {}
            }
            Ok(())
        })?;
        held.drain(..used);
    }
    let rest = held.split_off(SIGNATURE.len());
    if held != SIGNATURE {
        bail!("its end mark is missing");
    }
    db.loaded(zxid, sessions);
    db.tree.publish(zxid);
    Ok((db, rest))
}

/// Writes the received state as a snapshot of our own, but for its end. Without a digest: nodes that are newer than the
/// snapshot's zxid are no part of it, and come with the history behind it.
fn store(
    data: &Arc<DataDir>,
    position: Position,
    db: &Database,
    give_up: &dyn Fn() -> bool,
) -> Result<SnapshotWriter> {
    let walker = db.tree.handle().walker(db.last()).context("the new tree has no room for a walker")?;
    let sessions = db.sessions().iter().map(|(s, t)| (*s, *t)).collect();
    let written = snapshots::write_payload(data, position, (db.last(), None, sessions), walker, give_up)?;
    written.map(|(file, ..)| file).context("its role has ended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn voters_have_their_turn_first_and_who_is_in_the_middle_before_who_begins() {
        let waiting = |(n, voter, goes_on): (u64, bool, bool)| Waiting {
            link: LinkId(n),
            to: ServerId(n as i64),
            last: Zxid::ZERO,
            voter,
            goes_on,
        };
        let all = [
            (1, false, false),
            (2, false, true),
            (3, true, false),
            (4, true, false),
            (5, true, true),
            (6, false, true),
        ];
        let mut queue: VecDeque<Waiting> = all.into_iter().map(waiting).collect();
        let turns: Vec<u64> = std::iter::from_fn(|| next_of(&mut queue)).map(|w| w.link.0).collect();
        assert_eq!(turns, [5, 3, 4, 2, 6, 1]);
    }
}
