//! The tree: lookups hot and cold, with and without prefetch, and what the writer pays.

mod support;

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use engine::ids::Zxid;
use engine::proto::Acl;
use engine::tree::{self, PathHash, Reader, View};
use std::cell::LazyCell;
use std::hint::black_box;
use support::{Rng, forest, path, settings, short, size};

const VALUE: [u8; 100] = [7; 100];
/// Lookups of one turn of a shard, and of one round here.
const TURN: usize = 64;

fn read(view: &View<'_>, path: &str) {
    let node = view.get(path).expect("it is there");
    black_box((node.data().map(|d| d[99]), node.stat()));
}

fn get(c: &mut Criterion) {
    for full in [64, 1_000_000] {
        let n = size(full);
        let world = LazyCell::new(|| {
            let (writer, handle, zxid) = forest(n, &VALUE);
            let mut reader = handle.reader().expect("a slot");
            reader.begin_turn(Zxid(zxid));
            let paths: Vec<String> = (0..n).map(path).collect();
            (writer, reader, paths, Zxid(zxid))
        });
        let mut group = c.benchmark_group("tree_get");
        group.throughput(Throughput::Elements(TURN as u64));
        let name = |how: &str| format!("znodes={}/value=100B/{how}", short(n));
        group.bench_function(name("uniform"), |b| {
            let (_, reader, paths, zxid) = &*world;
            let (view, mut rng) = (reader.at(*zxid), Rng(1));
            b.iter(|| (0..TURN).for_each(|_| read(&view, &paths[rng.below(n)])));
        });
        group.bench_function(name("uniform-prefetched"), |b| {
            let (_, reader, paths, zxid) = &*world;
            prefetched(b, &reader.at(*zxid), paths);
        });
        group.bench_function(name("missing"), |b| {
            let (_, reader, paths, zxid) = &*world;
            let (view, mut rng) = (reader.at(*zxid), Rng(1));
            b.iter(|| {
                for _ in 0..TURN {
                    let path = &paths[rng.below(n)];
                    assert!(view.get(&path[..path.len() - 1]).is_none());
                }
            });
        });
        group.finish();
    }
}

/// As a shard does: all hashes of a turn first, then index lines, nodes, values, and then the answers.
fn prefetched(b: &mut criterion::Bencher<'_>, view: &View<'_>, paths: &[String]) {
    let mut rng = Rng(1);
    let mut turn: Vec<(PathHash, &str)> = Vec::with_capacity(TURN);
    b.iter(|| {
        turn.clear();
        turn.extend((0..TURN).map(|_| {
            let path = paths[rng.below(paths.len())].as_str();
            (view.hash(path), path)
        }));
        turn.iter().for_each(|(hash, _)| view.prefetch(*hash));
        turn.iter().for_each(|(hash, _)| view.prefetch_node(*hash));
        turn.iter().for_each(|(hash, _)| view.prefetch_value(*hash));
        for (hash, path) in &turn {
            let node = view.get_hashed(*hash, path).expect("it is there");
            black_box((node.data().map(|d| d[99]), node.stat()));
        }
    });
}

fn around_a_read(c: &mut Criterion) {
    let (writer, handle, zxid) = forest(size(1_000), &VALUE);
    let mut reader: Reader = handle.reader().expect("a slot");
    let at = reader.begin_turn(Zxid(zxid));
    let paths: Vec<String> = (0..64).map(path).collect();
    let mut group = c.benchmark_group("tree_read_parts");
    group.throughput(Throughput::Elements(64));
    group.bench_function("hash/path=29B", |b| {
        let view = reader.at(at);
        b.iter(|| paths.iter().fold(0, |sum, p| sum ^ view.hash(p).0));
    });
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("children/count=1k", |b| {
        let view = reader.at(at);
        b.iter(|| view.get("/app/part00000").expect("it is there").children().map(str::len).sum::<usize>());
    });
    group.throughput(Throughput::Elements(1));
    group.bench_function("begin_turn", |b| b.iter(|| reader.begin_turn(at)));
    group.finish();
    drop(writer);
}

fn create(c: &mut Criterion) {
    let n = size(10_000);
    let paths: Vec<String> = (0..n).map(|i| format!("/node-{i:08}")).collect();
    let mut group = c.benchmark_group("tree_create");
    group.throughput(Throughput::Elements(n as u64));
    for digest in ["computed", "adopted"] {
        group.bench_function(format!("fresh={}/value=100B/digest-{digest}", short(n)), |b| {
            let empty = || {
                let (mut w, _) = tree::new(1, 1);
                if digest == "adopted" {
                    w.adopt_digest(0);
                }
                w
            };
            b.iter_batched(empty, |w| filled(w, &paths), BatchSize::PerIteration);
        });
    }
    group.finish();
}

/// Creates every path, collected as the core does it, once per group of 64.
fn filled(mut w: tree::Writer, paths: &[String]) -> tree::Writer {
    let open = [Acl::open()];
    for (i, p) in paths.iter().enumerate() {
        let at = Zxid(i as u64 + 1);
        w.create(at, p, Some(&VALUE), &open, 0, 1, None).expect("fresh");
        if i % TURN == TURN - 1 {
            w.publish(at);
            w.collect(256);
        }
    }
    w
}

fn change(c: &mut Criterion) {
    let mut group = c.benchmark_group("tree_set_data");
    group.throughput(Throughput::Elements(TURN as u64));
    for (full, digest) in [(1_000, "computed"), (1_000, "adopted"), (1_000_000, "adopted")] {
        let n = size(full);
        let world = std::cell::RefCell::new(None);
        group.bench_function(format!("znodes={}/value=100B/digest-{digest}", short(n)), |b| {
            let mut world = world.borrow_mut();
            let (w, paths, zxid) = world.get_or_insert_with(|| {
                let (mut w, _, zxid) = forest(n, &VALUE);
                if digest == "computed" {
                    w.compute_digest();
                }
                (w, (0..n).map(path).collect::<Vec<_>>(), zxid)
            });
            let mut rng = Rng(3);
            b.iter(|| {
                for _ in 0..TURN {
                    *zxid += 1;
                    w.set_data(Zxid(*zxid), &paths[rng.below(n)], Some(&VALUE), 1, 1).expect("it is there");
                }
                w.publish(Zxid(*zxid));
                w.collect(256);
            });
        });
    }
    group.finish();
    create_and_delete(&mut c.benchmark_group("tree_create_delete"));
}

/// What a lock or a queue entry does to the tree.
fn create_and_delete(group: &mut BenchmarkGroup<'_, WallTime>) {
    let (mut w, _, mut zxid) = forest(size(1_000), &VALUE);
    let open = [Acl::open()];
    group.throughput(Throughput::Elements(TURN as u64));
    group.bench_function("leaf/value=100B", |b| {
        b.iter(|| {
            for i in 0..TURN {
                zxid += 1;
                let path = "/app/part00000/lock-0000001";
                if i % 2 == 0 {
                    w.create(Zxid(zxid), path, Some(&VALUE), &open, 5, 1, None).expect("it is not there");
                } else {
                    w.delete(Zxid(zxid), path).expect("it is there");
                }
            }
            w.publish(Zxid(zxid));
            w.collect(256);
        });
    });
}

/// A snapshot's way: out of the tree, and into a new one.
fn walk_and_load(c: &mut Criterion) {
    let n = size(100_000);
    let (w, h, _) = forest(n, &VALUE);
    let open = [Acl::open()];
    let walk = |seen: &mut dyn FnMut(&str, tree::NodeView<'_>)| {
        let mut walker = h.walker(w.published()).expect("a slot");
        while walker.slice(1_000, |path, node| seen(path, node)) {}
    };
    let mut group = c.benchmark_group("tree_snapshot");
    group.throughput(Throughput::Elements(n as u64));
    group.bench_function(format!("walk/znodes={}", short(n)), |b| {
        b.iter(|| {
            let mut sum = 0;
            walk(&mut |path, node| sum += path.len() as i64 + node.stat_persisted().mtime);
            sum
        });
    });
    let mut nodes = vec![];
    walk(&mut |path, node| {
        nodes.push((path.to_owned(), node.data().map(<[u8]>::to_vec), node.stat_persisted()));
    });
    for digest in ["computed", "adopted"] {
        group.bench_function(format!("load/znodes={}/digest-{digest}", short(n)), |b| {
            let load = |mut w: tree::Writer| {
                if digest == "adopted" {
                    w.adopt_digest(0);
                }
                for (path, data, stat) in &nodes {
                    w.load_node(path, data.as_deref(), &open, stat).expect("parents come first");
                }
                w
            };
            b.iter_batched(|| tree::new_bare(1, 1).0, load, BatchSize::PerIteration);
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = get, around_a_read, create, change, walk_and_load
}
criterion_main!(benches);
