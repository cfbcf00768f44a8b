//! The write pipeline without disk and threads: a request becomes a transaction (prep), which changes the tree and is
//! told to the shards (apply).

mod support;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use engine::ids::SessionId;
use engine::limits::Limits;
use engine::msg::ChangeBatch;
use engine::pipeline::{Ask, Database, Origin, Prep, Proposed};
use engine::proto::{Acl, CreateRequest, Id, Op, SetDataRequest};
use engine::time::WallMs;
use engine::tree;
use std::hint::black_box;
use support::{Rng, settings, short, size};

/// Writes in flight between prep and apply: one group of the log.
const GROUP: usize = 64;

struct Core {
    db: Database,
    prep: Prep,
    limits: Limits,
    ids: [Id; 1],
    batch: ChangeBatch,
    made: Vec<Proposed>,
}

impl Core {
    fn new() -> Core {
        let limits = Limits::default();
        let db = Database::new(tree::new(0x5eed, 1).0);
        let prep = Prep::new(&db, &limits);
        let ids = [Id::new("ip", "127.0.0.1")];
        Core { db, prep, limits, ids, batch: ChangeBatch::default(), made: vec![] }
    }

    /// A group of writes through prep, apply, publication and collection.
    fn group<'a>(&mut self, op: Op, bodies: impl Iterator<Item = &'a Vec<u8>>) {
        for body in bodies {
            let ask =
                Ask { session: SessionId(1), cxid: 1, op, body, ids: &self.ids, live: true, moved: false };
            self.made.push(self.prep.propose(&self.db, &self.limits, ask, WallMs(1)));
        }
        self.batch.clear();
        for made in self.made.drain(..) {
            let (applied, _) = self
                .db
                .apply(&made.bytes, Origin::Own, Some(&mut self.batch), true)
                .expect("prep encodes what apply decodes");
            assert_eq!(applied.code.0, 0);
        }
        black_box(&self.batch);
        self.prep.applied(self.db.last());
        self.db.tree.publish(self.db.last());
        self.db.tree.collect(256);
    }
}

fn creates(n: usize, value: &[u8]) -> Vec<Vec<u8>> {
    let body = |i| {
        let (path, acl) = (format!("/node-{i:08}").into(), vec![Acl::open()]);
        let mut out = vec![];
        CreateRequest { path, data: Some(value), acl, flags: 0, ttl: None }.encode(&mut out);
        out
    };
    (0..n).map(body).collect()
}

fn set_data(c: &mut Criterion) {
    let n = size(1_000);
    let value = [7; 1024];
    let mut core = Core::new();
    core.group(Op::Create, creates(n, &value).iter());
    let bodies: Vec<Vec<u8>> = (0..n)
        .map(|i| {
            let mut out = vec![];
            let path = format!("/node-{i:08}").into();
            SetDataRequest { path, data: Some(&value), version: -1 }.encode(&mut out);
            out
        })
        .collect();
    let mut rng = Rng(1);
    let mut group = c.benchmark_group("pipeline_set_data");
    group.throughput(Throughput::Elements(GROUP as u64));
    group.bench_function(format!("znodes={}/value=1KiB/group=64", short(n)), |b| {
        b.iter(|| core.group(Op::SetData, (0..GROUP).map(|_| &bodies[rng.below(n)])));
    });
    group.finish();
}

fn create(c: &mut Criterion) {
    let n = size(6_400);
    let bodies = creates(n, &[7; 1024]);
    let mut group = c.benchmark_group("pipeline_create");
    group.throughput(Throughput::Elements(n as u64));
    group.bench_function(format!("fresh={n}/value=1KiB/group=64"), |b| {
        let fill = |mut core: Core| {
            bodies.chunks(GROUP).for_each(|some| core.group(Op::Create, some.iter()));
            core
        };
        b.iter_batched(Core::new, fill, BatchSize::PerIteration);
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = set_data, create
}
criterion_main!(benches);
