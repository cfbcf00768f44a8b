//! What the tree's index costs beside the maps that could have stood in its place: `dashmap`, `papaya`, and a hash map
//! behind sharded read-write locks. All hash with the tree's own function and hand out data and status of a node.
//!
//! Not the same thing: the others hold no history, so a reader of them cannot stay at its horizon; and they keep each
//! path whole. They show the least that a general map costs.

mod support;

use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use engine::ids::Zxid;
use engine::proto::Stat;
use engine::tree::{Handle, PathHash, Reader, Writer};
use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hasher};
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, RwLock};
use std::thread;
use std::time::Instant;
use support::{Rng, forest, path, settings, short, size};

const VALUE: [u8; 100] = [7; 100];
/// Lookups per turn, after which a reader of the tree begins a new one; writes per publication.
const TURN: usize = 64;
const LOCKS: usize = 64;

/// The tree's hash for any map.
#[derive(Clone, Copy, Default)]
struct PathHasher;
#[derive(Default)]
struct OfPath(u64);

impl BuildHasher for PathHasher {
    type Hasher = OfPath;
    fn build_hasher(&self) -> OfPath {
        OfPath(0)
    }
}

impl Hasher for OfPath {
    fn write(&mut self, bytes: &[u8]) {
        // A `str` comes whole, then a byte that ends it.
        if bytes.len() > 1 {
            self.0 = PathHash::of(0x5eed, std::str::from_utf8(bytes).expect("paths are text")).0;
        }
    }
    fn write_u8(&mut self, _: u8) {}
    fn finish(&self) -> u64 {
        self.0
    }
}

/// A node as a plain map would hold it.
struct Plain {
    data: Box<[u8]>,
    stat: Stat,
}

fn plain() -> Arc<Plain> {
    Arc::new(Plain { data: Box::from(VALUE), stat: Stat { version: 1, ..Stat::default() } })
}

fn seen(node: &Plain) {
    black_box((node.data[99], node.stat));
}

/// A map under test: turns of reads by one thread, turns of writes by another.
trait Candidate: Sync {
    type Read: Send;
    type Write: Send;
    fn fill(paths: &[String]) -> (Self, Self::Read, Self::Write)
    where
        Self: Sized;
    fn read<'a>(&self, r: &mut Self::Read, turn: impl Iterator<Item = &'a str>);
    /// Before idling: whoever idles may not make the writer keep history.
    fn rest(&self, _: &mut Self::Read) {}
    fn write<'a>(&self, w: &mut Self::Write, turn: impl Iterator<Item = &'a str>);
}

struct Tree(Handle);

impl Candidate for Tree {
    type Read = Reader;
    type Write = (Writer, u64);
    fn fill(paths: &[String]) -> (Self, Self::Read, Self::Write) {
        let (writer, handle, zxid) = forest(paths.len(), &VALUE);
        let reader = handle.reader().expect("a slot");
        (Tree(handle), reader, (writer, zxid))
    }
    fn read<'a>(&self, r: &mut Reader, turn: impl Iterator<Item = &'a str>) {
        let h = r.begin_turn(self.0.published());
        let view = r.at(h);
        for path in turn {
            let node = view.get(path).expect("it is there");
            black_box((node.data().map(|d| d[99]), node.stat()));
        }
    }
    fn rest(&self, r: &mut Reader) {
        r.rest();
    }
    fn write<'a>(&self, (w, zxid): &mut Self::Write, turn: impl Iterator<Item = &'a str>) {
        for path in turn {
            *zxid += 1;
            w.set_data(Zxid(*zxid), path, Some(&VALUE), 1, 1).expect("it is there");
        }
        w.publish(Zxid(*zxid));
        w.collect(256);
    }
}

impl Candidate for dashmap::DashMap<Box<str>, Arc<Plain>, PathHasher> {
    type Read = ();
    type Write = ();
    fn fill(paths: &[String]) -> (Self, (), ()) {
        let map = Self::with_hasher(PathHasher);
        paths.iter().for_each(|p| drop(map.insert(p.as_str().into(), plain())));
        (map, (), ())
    }
    fn read<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        turn.for_each(|path| seen(&self.get(path).expect("it is there")));
    }
    fn write<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        turn.for_each(|path| *self.get_mut(path).expect("it is there") = plain());
    }
}

impl Candidate for papaya::HashMap<Box<str>, Arc<Plain>, PathHasher> {
    type Read = ();
    type Write = ();
    fn fill(paths: &[String]) -> (Self, (), ()) {
        let map = Self::with_hasher(PathHasher);
        for p in paths {
            map.pin().insert(p.as_str().into(), plain());
        }
        (map, (), ())
    }
    fn read<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        let map = self.pin();
        turn.for_each(|path| seen(map.get(path).expect("it is there")));
    }
    fn write<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        let map = self.pin();
        for path in turn {
            map.insert(path.into(), plain());
        }
    }
}

type Shards = Vec<RwLock<HashMap<Box<str>, Arc<Plain>, PathHasher>>>;
struct Locked(Shards);

impl Locked {
    fn shard(&self, path: &str) -> &RwLock<HashMap<Box<str>, Arc<Plain>, PathHasher>> {
        // Not the bits by which the map inside finds its place.
        &self.0[(PathHasher.hash_one(path) >> 40) as usize % LOCKS]
    }
}

impl Candidate for Locked {
    type Read = ();
    type Write = ();
    fn fill(paths: &[String]) -> (Self, (), ()) {
        let map = Locked((0..LOCKS).map(|_| RwLock::default()).collect());
        for p in paths {
            map.shard(p).write().expect("not poisoned").insert(p.as_str().into(), plain());
        }
        (map, (), ())
    }
    fn read<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        for path in turn {
            seen(self.shard(path).read().expect("not poisoned").get(path).expect("it is there"));
        }
    }
    fn write<'a>(&self, (): &mut (), turn: impl Iterator<Item = &'a str>) {
        for path in turn {
            let mut shard = self.shard(path).write().expect("not poisoned");
            *shard.get_mut(path).expect("it is there") = plain();
        }
    }
}

/// Ends the other thread's loop, also when this one panics.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

type Group<'a> = BenchmarkGroup<'a, WallTime>;

fn draw<'a>(rng: &mut Rng, paths: &'a [String]) -> impl Iterator<Item = &'a str> {
    (0..TURN).map(move |_| paths[rng.below(paths.len())].as_str())
}

fn candidate<M: Candidate>(group: &mut Group<'_>, name: &str, paths: &[String]) {
    let world = RefCell::new(None);
    let at = |how: &str| format!("{name}/znodes={}/value=100B/{how}", short(paths.len()));
    group.bench_function(at("read-alone"), |b| {
        let mut world = world.borrow_mut();
        let (map, read, _) = world.get_or_insert_with(|| M::fill(paths));
        let mut rng = Rng(1);
        b.iter(|| map.read(read, draw(&mut rng, paths)));
        map.rest(read);
    });
    group.bench_function(at("read-beside-a-writer"), |b| {
        let mut world = world.borrow_mut();
        let (map, read, write) = world.get_or_insert_with(|| M::fill(paths));
        let map = &*map;
        b.iter_custom(|iters| {
            let stop = AtomicBool::new(false);
            thread::scope(|s| {
                s.spawn(|| {
                    let mut rng = Rng(2);
                    while !stop.load(Relaxed) {
                        map.write(write, draw(&mut rng, paths));
                    }
                });
                let _ends_the_writer = Stop(&stop);
                let (mut rng, from) = (Rng(1), Instant::now());
                (0..iters).for_each(|_| map.read(read, draw(&mut rng, paths)));
                let spent = from.elapsed();
                map.rest(read);
                spent
            })
        });
    });
    group.bench_function(at("write"), |b| {
        let mut world = world.borrow_mut();
        let (map, _, write) = world.get_or_insert_with(|| M::fill(paths));
        let mut rng = Rng(3);
        b.iter(|| map.write(write, draw(&mut rng, paths)));
    });
}

fn maps(c: &mut Criterion) {
    let mut group = c.benchmark_group("map");
    group.throughput(Throughput::Elements(TURN as u64));
    for full in [1_000, 1_000_000] {
        let paths: Vec<String> = (0..size(full)).map(path).collect();
        candidate::<Tree>(&mut group, "tree", &paths);
        candidate::<dashmap::DashMap<_, _, PathHasher>>(&mut group, "dashmap", &paths);
        candidate::<papaya::HashMap<_, _, PathHasher>>(&mut group, "papaya", &paths);
        candidate::<Locked>(&mut group, "rwlock-hashmap", &paths);
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = settings();
    targets = maps
}
criterion_main!(benches);
