//! What the tree costs: bytes per znode, and ns per operation, with mimalloc as in the server.
//!
//! `cargo run --release -p engine --example tree_figures [ZNODES]` (default 1,000,000; 100-byte data, 13-byte names,
//! 1,000 children per parent). Prints figures; nothing is asserted: timings belong to the machine. Random access to all znodes mostly
//! measures page walks: `MIMALLOC_ALLOW_LARGE_OS_PAGES=1` shows it with huge pages.

use engine::ids::Zxid;
use engine::proto::Acl;
use engine::tree::{self, PathHash};
use std::hint::black_box;
use std::time::Instant;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PER_PARENT: u64 = 1000;

fn rss_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * 4096
}

/// Time on a processor, so that a busy machine shows less; where the kernel does not tell, time on the wall.
fn cpu_ns(start: Instant) -> u64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let on_cpu = text.split(' ').next().and_then(|ns| ns.parse().ok());
    on_cpu.unwrap_or_else(|| start.elapsed().as_nanos() as u64)
}

fn per_op(what: &str, n: u64, work: impl FnOnce()) {
    let start = Instant::now();
    let before = cpu_ns(start);
    work();
    println!("{what:<44} {:>8.1} ns", (cpu_ns(start) - before) as f64 / n as f64);
}

fn leaf(i: u64) -> String {
    format!("/app/part{:05}/node-{:08}", i / PER_PARENT, i)
}

/// A fixed permutation's next state: random enough to defeat the caches.
fn step(x: &mut u64) -> u64 {
    *x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *x >> 20
}

fn main() {
    let n: u64 = std::env::args().nth(1).map_or(1_000_000, |a| a.parse().expect("a number of znodes"));
    let data = [7u8; 100];
    let open = [Acl::open()];
    let paths: Vec<String> = (0..n).map(leaf).collect();
    let parents: Vec<String> = (0..n.div_ceil(PER_PARENT)).map(|p| format!("/app/part{p:05}")).collect();
    let empty = rss_bytes();
    let (mut w, h) = tree::new(0x5eed, 4);
    let mut z = 0;
    let mut next = || {
        z += 1;
        Zxid(z)
    };
    w.create(next(), "/app", None, &open, 0, 0, None).unwrap();
    for p in &parents {
        w.create(next(), p, None, &open, 0, 0, None).unwrap();
    }
    per_op("create, digest computed, collected every 64", n, || {
        for (i, p) in paths.iter().enumerate() {
            let at = next();
            w.create(at, p, Some(&data), &open, 0, 1, None).unwrap();
            if i % 64 == 63 {
                w.publish(at);
                w.collect(256);
            }
        }
    });
    w.publish(next());
    while w.collect(1 << 20).steps > 0 {}
    let full = rss_bytes();
    println!("{:<44} {:>8.1} B", "resident per znode", (full - empty) as f64 / n as f64);
    println!("{:<44} {:>8.1} B", "  of that the index", w.index_bytes() as f64 / n as f64);
    reads(&mut w, &h, &paths);
    writes(&mut w, &paths, &mut next);
    walk_and_load(&mut w, &h, n);
}

fn reads(w: &mut tree::Writer, h: &tree::Handle, paths: &[String]) {
    let n = paths.len() as u64;
    let mut r = h.reader().expect("a slot");
    let at = r.begin_turn(w.published());
    let v = r.at(at);
    let some = &paths[..64];
    per_op("hash of a path", 64_000_000, || {
        for _ in 0..1_000_000 {
            for p in some {
                black_box(v.hash(black_box(p)));
            }
        }
    });
    per_op("get hit, 64 hot paths (data, stat)", 6_400_000, || {
        for _ in 0..100_000 {
            for p in some {
                let node = v.get(p).expect("it is there");
                black_box((node.data(), node.stat()));
            }
        }
    });
    per_op("get miss, 64 hot paths", 6_400_000, || {
        for _ in 0..100_000 {
            for p in some {
                black_box(v.get(&p[..p.len() - 1]).is_none());
            }
        }
    });
    let mut x = 1;
    per_op("get hit, random of all, one by one", n, || {
        for _ in 0..n {
            let node = v.get(&paths[(step(&mut x) % n) as usize]).expect("it is there");
            black_box((node.data().map(|d| d[99]), node.stat()));
        }
    });
    let mut batch: Vec<(PathHash, &str)> = Vec::with_capacity(64);
    per_op("get hit, random of all, prefetched by 64", n, || {
        for _ in 0..n / 64 {
            batch.clear();
            batch.extend((0..64).map(|_| {
                let p = paths[(step(&mut x) % n) as usize].as_str();
                (v.hash(p), p)
            }));
            batch.iter().for_each(|(hash, _)| v.prefetch(*hash));
            batch.iter().for_each(|(hash, _)| v.prefetch_node(*hash));
            batch.iter().for_each(|(hash, _)| v.prefetch_value(*hash));
            for (hash, p) in &batch {
                let node = v.get_hashed(*hash, p).expect("it is there");
                black_box((node.data().map(|d| d[99]), node.stat()));
            }
        }
    });
    per_op("begin_turn", 1_000_000, || {
        for _ in 0..1_000_000 {
            r.begin_turn(at);
        }
    });
    per_op("children of 1000, per child", 1_000_000, || {
        let v = r.at(at);
        let parent = v.get("/app/part00000").expect("it is there");
        for _ in 0..1000 {
            black_box(parent.children().map(str::len).sum::<usize>());
        }
    });
}

fn writes(w: &mut tree::Writer, paths: &[String], next: &mut impl FnMut() -> Zxid) {
    let n = (paths.len() as u64).min(500_000);
    let data = [9u8; 100];
    let mut x = 99;
    let mut set = |w: &mut tree::Writer, next: &mut dyn FnMut() -> Zxid, pick: &dyn Fn(u64) -> usize| {
        for i in 0..n {
            let at = next();
            w.set_data(at, &paths[pick(step(&mut x))], Some(&data), 1, 1).expect("it is there");
            if i % 64 == 63 {
                w.publish(at);
                w.collect(256);
            }
        }
    };
    let all = paths.len() as u64;
    per_op("set_data, 1000 hot paths, digest computed", n, || set(w, next, &|x| (x % 1000) as usize));
    per_op("set_data, random of all, digest computed", n, || set(w, next, &|x| (x % all) as usize));
    w.adopt_digest(0);
    per_op("set_data, 1000 hot paths, digest adopted", n, || set(w, next, &|x| (x % 1000) as usize));
    per_op("set_data, random of all, digest adopted", n, || set(w, next, &|x| (x % all) as usize));
    per_op("create + delete of a leaf, digest adopted", n, || {
        for i in 0..n {
            let at = next();
            let path = "/app/part00000/lock-0000001";
            if i % 2 == 0 {
                w.create(at, path, Some(&data), &[Acl::open()], 5, 1, None).expect("it is not there");
            } else {
                w.delete(at, path).expect("it is there");
            }
            if i % 64 == 63 {
                w.publish(at);
                w.collect(256);
            }
        }
    });
    let at = next();
    w.publish(at);
    while w.collect(1 << 20).steps > 0 {}
}

fn walk_and_load(w: &mut tree::Writer, h: &tree::Handle, n: u64) {
    let mut walker = h.walker(w.published()).expect("a slot");
    let mut nodes = Vec::with_capacity(n as usize);
    per_op("walk, per node", n, || {
        while walker.slice(1000, |path, node| {
            nodes.push((path.to_owned(), node.data().map(<[u8]>::to_vec), node.stat_persisted()));
        }) {}
    });
    drop(walker);
    let open = [Acl::open()];
    for (what, computed) in [("load_node, digest computed", true), ("load_node, digest adopted", false)] {
        let before = rss_bytes();
        let (mut copy, _h) = tree::new_bare(1, 1);
        if !computed {
            copy.adopt_digest(0);
        }
        per_op(what, n, || {
            for (path, data, stat) in &nodes {
                let acl = if path == "/zookeeper/config" { &[][..] } else { &open[..] };
                copy.load_node(path, data.as_deref(), acl, stat).expect("parents come first");
            }
        });
        let per = (rss_bytes().saturating_sub(before)) as f64 / n as f64;
        println!("{:<44} {per:>8.1} B", "  resident per znode, loaded");
        per_op("  dropped, per node", n, || drop((copy, _h)));
    }
}
