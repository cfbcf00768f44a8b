//! A shard's turn without sockets: bytes of requests in, bytes of replies out.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::error::Code;
use engine::ids::{Attach, ConnId, SessionId, ShardId, Zxid};
use engine::limits::Limits;
use engine::msg::{Act, Change, ChangeBatch, CoreLink, Span, Step, Target, ToCore};
use engine::proto::{ConnectRequest, EventKind, Op, PathWatch, RequestHeader, SetDataRequest, put_frame};
use engine::shard::{Admission, Shard};
use engine::time::{MonoMs, Now, WallMs};
use engine::tree::Writer;
use std::cell::LazyCell;
use std::hint::black_box;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};
use support::{Rng, forest, path, settings, short, size, trying};

/// Requests in one segment, as one read of a socket gives them.
const SEGMENT: usize = 100;
const NOW: Now = Now { mono: MonoMs(1), wall: WallMs(1) };

#[derive(Default)]
struct Door(AtomicIsize);

impl Admission for Door {
    fn admit(&self, _: IpAddr) -> bool {
        true
    }
    fn leave(&self, _: IpAddr) {}
    fn writes_changed(&self, by: isize) {
        self.0.fetch_add(by, Relaxed);
    }
    fn writes(&self) -> usize {
        self.0.load(Relaxed) as usize
    }
}

#[derive(Default)]
struct Link(Vec<ToCore>);

impl CoreLink for Link {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        self.0.push(m);
        Ok(())
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.0.push(m);
    }
}

/// A shard over a tree of its own, with connections that have sessions.
struct World {
    writer: Writer,
    shard: Shard,
    link: Link,
    zxid: u64,
    conns: Vec<ConnId>,
}

impl World {
    fn new(znodes: usize, value: &[u8], conns: usize) -> World {
        let (writer, handle, zxid) = forest(znodes, value);
        let limits = Arc::new(Limits { outstanding_writes: 1 << 20, ..Limits::default() });
        let reader = handle.reader().expect("a slot");
        let door = Arc::new(Door::default());
        let shard = Shard::new(ShardId(0), limits, door, reader, Arc::default(), Zxid(zxid), 0);
        let mut w = World { writer, shard, link: Link::default(), zxid, conns: vec![] };
        w.shard.begin_turn();
        w.conns = (0..conns).map(|_| w.connect()).collect();
        w
    }

    fn connect(&mut self) -> ConnId {
        let c = self.shard.accept(SocketAddr::from(([127, 0, 0, 1], 1)), NOW).expect("admitted");
        let mut hello = vec![];
        put_frame(&mut hello, |out| {
            let (last_zxid_seen, session, read_only) = (Zxid::ZERO, SessionId::NONE, Some(false));
            ConnectRequest { last_zxid_seen, timeout_ms: 10_000, session, password: None, read_only }
                .encode(out);
        });
        self.shard.input(c, &hello, NOW, &mut self.link);
        self.link.0.clear();
        let (session, attach) = (SessionId(1), Attach(1));
        let act = Act::Attached { session, attach, timeout_ms: 10_000, password: [0; 16] };
        self.step(Target::Conn(c, act));
        self.flush();
        c
    }

    /// A batch of one step at the next zxid.
    fn step(&mut self, target: Target) {
        self.zxid += 1;
        let step = Step { zxid: Some(Zxid(self.zxid)), changes: Span::default(), target };
        self.consume(&ChangeBatch { steps: vec![step], ..ChangeBatch::default() });
    }

    fn consume(&mut self, batch: &ChangeBatch) {
        self.writer.publish(Zxid(self.zxid));
        self.shard.consume(batch, NOW, &mut self.link);
    }

    /// As the reactor does it: each dirty connection's bytes once. Says how many there were.
    fn flush(&mut self) -> usize {
        let mut bytes = 0;
        while let Some(c) = self.shard.next_dirty() {
            let n = black_box(self.shard.output(c)).len();
            bytes += n;
            self.shard.wrote(c, n, NOW);
        }
        bytes
    }

    /// Answers every write that was handed over, in one batch.
    fn answer_writes(&mut self) {
        let mut batch = ChangeBatch::default();
        for m in self.link.0.drain(..) {
            if let ToCore::Request(r) = m {
                self.zxid += 1;
                let act = Act::Reply { err: Code::OK, body: Span::default() };
                let (zxid, changes) = (Some(Zxid(self.zxid)), Span::default());
                batch.steps.push(Step { zxid, changes, target: Target::Conn(r.conn, act) });
            }
        }
        self.consume(&batch);
    }
}

fn request(out: &mut Vec<u8>, xid: i32, op: Op, body: impl FnOnce(&mut Vec<u8>)) {
    put_frame(out, |out| {
        RequestHeader { xid, op: op.wire() }.encode(out);
        body(out);
    });
}

/// Segments of random getData, every `writes_every`-th a setData; 0: none.
fn segments(znodes: usize, writes_every: usize) -> Vec<Vec<u8>> {
    let mut rng = Rng(1);
    let segment = |_| {
        let mut s = vec![];
        for xid in 0..SEGMENT {
            let path = path(rng.below(znodes)).into();
            if writes_every > 0 && xid % writes_every == writes_every - 1 {
                let q = SetDataRequest { path, data: Some(b"new"), version: -1 };
                request(&mut s, xid as i32, Op::SetData, |out| q.encode(out));
            } else {
                request(&mut s, xid as i32, Op::GetData, |out| PathWatch { path, watch: false }.encode(out));
            }
        }
        s
    };
    (0..if trying() { 10 } else { 10_000 }).map(segment).collect()
}

fn reads(c: &mut Criterion) {
    let mut group = c.benchmark_group("shard_get_data");
    group.throughput(Throughput::Elements(SEGMENT as u64));
    let cases = [(1_000, 100, "100B"), (1_000, 1_024, "1KiB"), (1_000_000, 100, "100B")];
    for (full, bytes, value) in cases {
        let n = size(full);
        let world =
            LazyCell::new(|| (std::cell::RefCell::new(World::new(n, &vec![7; bytes], 50)), segments(n, 0)));
        group.bench_function(format!("segment=100/znodes={}/value={value}/uniform", short(n)), |b| {
            let (w, segments) = &*world;
            let (mut w, mut turn) = (w.borrow_mut(), 0);
            b.iter(|| {
                let c = w.conns[turn % w.conns.len()];
                let World { shard, link, .. } = &mut *w;
                shard.begin_turn();
                shard.input(c, &segments[turn % segments.len()], NOW, link);
                turn += 1;
                assert!(w.flush() >= SEGMENT * bytes);
            });
        });
    }
    group.finish();
}

/// Nine reads to a write: reads wait behind their connection's writes, a batch answers those.
fn mixed(c: &mut Criterion) {
    let n = size(1_000);
    let mut w = World::new(n, &[7; 100], 50);
    let segments = segments(n, 10);
    let mut group = c.benchmark_group("shard_mixed");
    group.throughput(Throughput::Elements((SEGMENT * w.conns.len()) as u64));
    group.bench_function(
        format!("segment=100/connections=50/writes=10%/znodes={}/value=100B", short(n)),
        |b| {
            let mut turn = 0;
            b.iter(|| {
                w.shard.begin_turn();
                for i in 0..w.conns.len() {
                    let (c, s) = (w.conns[i], &segments[turn % segments.len()]);
                    w.shard.input(c, s, NOW, &mut w.link);
                    turn += 1;
                }
                w.flush();
                w.answer_writes();
                w.flush()
            });
        },
    );
    group.finish();
}

/// One change that many connections watch: from the batch to their frames. Registering again is not counted.
fn fan_out(c: &mut Criterion) {
    let watchers = size(1_000);
    let mut w = World::new(1_000, &[7; 100], watchers);
    let path = path(0);
    let mut watch = vec![];
    request(&mut watch, 1, Op::GetData, |out| {
        PathWatch { path: path.as_str().into(), watch: true }.encode(out)
    });
    let path_hash = w.writer.latest().hash(&path).0;
    let mut group = c.benchmark_group("watch_fan_out");
    group.throughput(Throughput::Elements(watchers as u64));
    group.bench_function(format!("watchers={}/change=data", short(watchers)), |b| {
        b.iter_custom(|iters| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..iters {
                w.shard.begin_turn();
                for i in 0..w.conns.len() {
                    w.shard.input(w.conns[i], &watch, NOW, &mut w.link);
                }
                w.flush();
                w.zxid += 1;
                let mut batch = ChangeBatch::default();
                let span = batch.put(|out| out.extend_from_slice(path.as_bytes()));
                let kind = EventKind::NodeDataChanged;
                let change =
                    Change { kind, path: span, path_hash, parent_hash: 0, acl: None, parent_acl: None };
                batch.changes.push(change);
                let (zxid, changes) = (Some(Zxid(w.zxid)), Span { start: 0, end: 1 });
                batch.steps.push(Step { zxid, changes, target: Target::None });
                let from = std::time::Instant::now();
                w.consume(&batch);
                let bytes = w.flush();
                spent += from.elapsed();
                assert!(bytes > watchers * 40, "everyone is told");
            }
            spent
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = reads, mixed, fan_out
}
criterion_main!(benches);
