//! Shards on threads of their own, one core, one broadcast of batches: R1-R7 with real publication and reclamation.
//!
//! The core is the real `engine::server` over a log that is durable at once. The clients' answers are checked against
//! the history when all threads are done. `SHARD_SEED=n` plays one seed (the threads' timing is not replayed).

mod shard_support;

use engine::ids::{LinkId, ServerId, ShardId, Ticket, Zxid};
use engine::msg::{ChangeBatch, CoreLink, ToCore};
use engine::pipeline::Database;
use engine::server::Server;
use engine::shard::Shard;
use engine::time::{MonoMs, Now, WallMs};
use engine::tree::Handle;
use engine::zab::{Links, Persist, Persistence};
use shard_support::history::*;
use shard_support::*;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

const SHARDS: usize = 3;
const CLIENTS: usize = 2;
const ASKS: usize = 400;
/// Turns of one shard after which something is surely stuck.
const TURNS_MAX: usize = 20_000_000;
const NOW: Now = Now { mono: MonoMs(1_000), wall: WallMs(1_700_000_000_000) };

/// What the threads share: a mailbox per shard, the batches, and the newest zxid that any client has seen.
#[derive(Default)]
struct Rings {
    inboxes: [Mutex<VecDeque<ToCore>>; SHARDS],
    batches: Mutex<Vec<Arc<ChangeBatch>>>,
    end: AtomicUsize,
    seen: AtomicU64,
    done: AtomicUsize,
    /// A thread has failed: the others stop too.
    failed: AtomicBool,
}

/// Tells the other threads when this one panics.
struct Alarm<'a>(&'a Rings);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.failed.store(true, Ordering::SeqCst);
        }
    }
}

impl Rings {
    fn all_done(&self) -> bool {
        assert!(!self.failed.load(Ordering::SeqCst), "another thread has failed");
        self.done.load(Ordering::SeqCst) == SHARDS
    }
}

struct Mailbox<'a> {
    inbox: &'a Mutex<VecDeque<ToCore>>,
    room: usize,
}

impl CoreLink for Mailbox<'_> {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        let mut inbox = self.inbox.lock().unwrap();
        if inbox.len() >= self.room {
            return Err(m);
        }
        inbox.push_back(m);
        Ok(())
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.inbox.lock().unwrap().push_back(m);
    }
}

/// Durable as soon as it is written.
#[derive(Default)]
struct Log(Ticket);

impl Persistence for Log {
    fn persist(&mut self, ticket: Ticket, _: Persist<'_>) {
        self.0 = ticket;
    }
}

/// A lone server has nobody to talk to.
impl Links for Log {
    fn send_election(&mut self, _: ServerId, _: &[u8]) {
        unreachable!("a lone server has no ensemble");
    }
    fn dial(&mut self, _: ServerId) -> LinkId {
        unreachable!("a lone server has no ensemble");
    }
    fn listen(&mut self, _: bool) {
        unreachable!("a lone server has no ensemble");
    }
    fn out(&mut self, _: LinkId) -> &mut Vec<u8> {
        unreachable!("a lone server has no ensemble");
    }
    fn close(&mut self, _: LinkId) {
        unreachable!("a lone server has no ensemble");
    }
}

/// The core's thread: orders, applies, publishes, collects, until every shard is done.
fn core(rings: &Rings, mut server: Server, mut rng: Rng) -> History {
    let _alarm = Alarm(rings);
    let mut history = History::default();
    let mut log = Log::default();
    while !rings.all_done() {
        for inbox in &rings.inboxes {
            let some: Vec<_> = {
                let mut inbox = inbox.lock().unwrap();
                let n = inbox.len().min(1 + rng.below(8));
                inbox.drain(..n).collect()
            };
            for m in some {
                assert!(server.handle(m, NOW, &mut log).is_none());
            }
        }
        server.durable(log.0, NOW, &mut log);
        let mut batch = ChangeBatch::default();
        for _ in 0..1 + rng.below(30) {
            if !server.can_advance() {
                break;
            }
            let from = batch.changes.len();
            server.advance(&mut batch, 1, NOW);
            note(&mut history, &server, &batch, from);
        }
        if !batch.steps.is_empty() {
            rings.batches.lock().unwrap().push(Arc::new(batch));
            rings.end.fetch_add(1, Ordering::Release);
            server.published();
        }
        server.collect(rng.below(300));
        std::thread::yield_now();
    }
    history
}

fn note(history: &mut History, server: &Server, batch: &ChangeBatch, from: usize) {
    for c in &batch.changes[from..] {
        let path = batch.path(c).to_owned();
        let what = match c.kind as i32 {
            1 => Change::Created,
            2 => Change::Deleted,
            _ => Change::Set,
        };
        let data = server.db().tree.latest().get(&path).and_then(|n| n.data().map(<[u8]>::to_vec));
        let data = String::from_utf8(data.unwrap_or_default()).unwrap();
        history.0.push((server.db().last().0, what, path, data));
    }
}

/// One client as its shard's thread sees it.
struct Peer {
    client: Client,
    /// Frames received, in order.
    got: Vec<Frame>,
    /// Per request: the newest zxid that any client had seen when it arrived (R7).
    floor: Vec<u64>,
    attached: bool,
}

/// A shard's thread: turns as the reactor plays them.
struct Turns<'a> {
    rings: &'a Rings,
    shard: Shard,
    link: Mailbox<'a>,
    consumed: usize,
    rng: Rng,
}

impl Turns<'_> {
    /// Loads the ring's end once and consumes up to it.
    fn consume(&mut self) {
        let end = self.rings.end.load(Ordering::Acquire);
        while self.consumed < end {
            let batch = self.rings.batches.lock().unwrap()[self.consumed].clone();
            self.shard.consume(&batch, NOW, &mut self.link);
            self.consumed += 1;
        }
    }

    fn turn(&mut self, peers: &mut [Peer]) {
        self.shard.begin_turn();
        for p in peers.iter_mut() {
            let asks = p.attached && p.client.asked.len() < ASKS && self.rng.below(3) == 0;
            if asks && self.shard.wants_read(p.client.conn) {
                let n = 1 + self.rng.below(6);
                let bytes: Vec<u8> = (0..n).flat_map(|_| p.client.ask(&mut self.rng)).collect();
                // R7: the bytes are there; only then is the ring's end loaded.
                let seen = self.rings.seen.load(Ordering::SeqCst);
                p.floor.resize(p.client.asked.len(), seen);
                self.consume();
                self.shard.input(p.client.conn, &bytes, NOW, &mut self.link);
            }
        }
        self.consume();
        self.shard.resume(NOW, &mut self.link);
        while let Some(c) = self.shard.next_dirty() {
            let bytes = self.shard.output(c).to_vec();
            self.shard.wrote(c, bytes.len(), NOW);
            let p = peers.iter_mut().find(|p| p.client.conn == c).unwrap();
            let mut rest = &bytes[..];
            if !p.attached {
                // The ConnectResponse has no header.
                (p.attached, rest) = (true, &bytes[41..]);
            }
            for f in frames_of(rest) {
                self.rings.seen.fetch_max(f.zxid as u64, Ordering::SeqCst);
                p.got.push(f);
            }
        }
        if !self.shard.has_ready() && self.rng.below(4) == 0 {
            self.shard.rest();
        }
    }

    fn play(mut self) -> Vec<Peer> {
        let _alarm = Alarm(self.rings);
        self.shard.begin_turn();
        let mut peers = vec![];
        for _ in 0..CLIENTS {
            let conn = self.shard.accept(World::peer(0), NOW).unwrap();
            self.shard.input(conn, &connect_frame(0, 0), NOW, &mut self.link);
            peers.push(Peer { client: Client::new(conn, true), got: vec![], floor: vec![], attached: false });
        }
        let finished = |p: &Peer| {
            p.client.asked.len() >= ASKS
                && p.got.iter().filter(|f| f.xid != -1).count() == p.client.asked.len()
        };
        let mut turns = 0;
        while !peers.iter().all(finished) && !self.rings.all_done() {
            self.turn(&mut peers);
            turns += 1;
            assert!(turns < TURNS_MAX, "stuck: {:?}", self.shard.stats());
            std::thread::yield_now();
        }
        self.rings.done.fetch_add(1, Ordering::SeqCst);
        while !self.rings.all_done() {
            self.turn(&mut peers);
            std::thread::yield_now();
        }
        // Whatever the others did last reaches this shard's watchers too.
        self.turn(&mut peers);
        peers
    }
}

fn shard_on<'a>(handle: &Handle, rings: &'a Rings, n: usize, rng: Rng) -> Turns<'a> {
    let shard = Shard::new(
        ShardId(n as u16),
        Arc::new(limits()),
        Arc::new(Door::default()),
        handle.reader().unwrap(),
        Arc::default(),
        Zxid::ZERO,
        0,
    );
    let link = Mailbox { inbox: &rings.inboxes[n], room: 1 + n * 4 };
    Turns { rings, shard, link, consumed: 0, rng }
}

fn play(seed: u64) {
    let seeded = |n: u64| Rng((seed * 31 + n).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let (writer, handle) = engine::tree::new(seed, SHARDS);
    let server = Server::new(Arc::new(limits()), Database::new(writer), 1, SHARDS, NOW);
    let rings = Rings::default();
    let (mut history, mut peers) = (History::default(), vec![]);
    std::thread::scope(|scope| {
        let rings = &rings;
        let shards: Vec<_> = (0..SHARDS)
            .map(|n| {
                let turns = shard_on(&handle, rings, n, seeded(n as u64));
                scope.spawn(move || turns.play())
            })
            .collect();
        history = core(rings, server, seeded(99));
        peers = shards.into_iter().flat_map(|s| s.join().unwrap()).collect();
    });
    let last = history.0.last().map_or(0, |(zxid, ..)| *zxid);
    for p in &mut peers {
        let mut replies = p.floor.iter();
        for f in &p.got {
            p.client.check(f, &history);
            if f.xid != -1 {
                let floor = replies.next().unwrap();
                assert!(f.zxid as u64 >= *floor, "R7: {f:?}, but somebody had seen {floor}");
            }
        }
        assert_eq!(p.client.answered, p.client.asked.len());
        p.client.nothing_missed(&history, last);
    }
}

#[test]
fn shards_on_threads_keep_every_rule() {
    let seeds = match std::env::var("SHARD_SEED") {
        Ok(s) => vec![s.parse().expect("a number")],
        Err(_) => (1..=12).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        eprintln!("seed {seed}");
        play(seed);
    }
}
