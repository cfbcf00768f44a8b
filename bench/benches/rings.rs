//! The roads between threads: requests from a shard to the core, change batches from the core to the shards.
//!
//! On one thread it is the cost of the code alone; on two, what handing over between processors costs beside it.

mod support;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use engine::ids::{Attach, ConnId, SessionId, ShardId};
use engine::msg::{ChangeBatch, ToCore};
use net::ring::{Producer, changes, requests};
use std::hint::black_box;
use std::thread;
use std::time::{Duration, Instant};
use support::settings;

const BURST: usize = 64;
const SLOTS: usize = 1_024;

fn message() -> ToCore {
    let conn = ConnId { shard: ShardId(0), slot: 1, generation: 1 };
    ToCore::Gone { conn, session: SessionId(1), attach: Attach(1) }
}

/// Pushes, giving the processor away while the ring is full.
fn push(tx: &mut Producer<ToCore>) {
    let mut m = message();
    while let Err(back) = tx.try_push(m) {
        m = back;
        thread::yield_now();
    }
}

fn request_ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("request_ring");
    group.throughput(Throughput::Elements(BURST as u64));
    group.bench_function("burst=64/threads=1", |b| {
        let (mut tx, mut rx) = requests::<ToCore>(SLOTS);
        b.iter(|| {
            (0..BURST).for_each(|_| assert!(tx.try_push(message()).is_ok()));
            assert_eq!(rx.drain(BURST, |m| drop(black_box(m))), BURST);
        });
    });
    group.bench_function("burst=64/threads=2", |b| {
        b.iter_custom(|iters| {
            let (mut tx, mut rx) = requests::<ToCore>(SLOTS);
            let all = iters as usize * BURST;
            let started = Instant::now();
            thread::scope(|s| {
                s.spawn(move || (0..all).for_each(|_| push(&mut tx)));
                let mut got = 0;
                while got < all {
                    match rx.drain(BURST, |m| drop(black_box(m))) {
                        0 => thread::yield_now(),
                        n => got += n,
                    }
                }
            });
            started.elapsed()
        });
    });
    group.finish();
}

fn change_ring(c: &mut Criterion) {
    let mut group = c.benchmark_group("change_ring");
    group.throughput(Throughput::Elements(BURST as u64));
    for shards in [1, 4] {
        group.bench_function(format!("batches=64/shards={shards}/threads=1"), |b| {
            let (mut publisher, mut subscribers) = changes::<ChangeBatch>(SLOTS, shards);
            let mut spare: Vec<Box<ChangeBatch>> = (0..BURST).map(|_| Box::default()).collect();
            b.iter(|| {
                while let Some(batch) = spare.pop() {
                    assert!(publisher.try_publish(batch).is_ok());
                }
                for s in &mut subscribers {
                    s.load_end();
                    while let Some(batch) = s.next() {
                        black_box(batch.generation);
                    }
                }
                publisher.reclaim(|batch| spare.push(batch));
                assert_eq!(spare.len(), BURST);
            });
        });
    }
    group.bench_function("batches=64/shards=1/threads=2", |b| {
        b.iter_custom(|iters| over_threads(iters as usize * BURST))
    });
    group.finish();
}

/// `all` batches from this thread to another, with what is freed used again.
fn over_threads(all: usize) -> Duration {
    let (mut publisher, mut subscribers) = changes::<ChangeBatch>(SLOTS, 1);
    let mut subscriber = subscribers.pop().expect("one");
    let mut spare: Vec<Box<ChangeBatch>> = vec![];
    let started = Instant::now();
    thread::scope(|s| {
        s.spawn(move || {
            let mut got = 0;
            while got < all {
                subscriber.load_end();
                let before = got;
                while let Some(batch) = subscriber.next() {
                    black_box(batch.generation);
                    got += 1;
                }
                if got == before {
                    thread::yield_now();
                }
            }
        });
        for _ in 0..all {
            let mut batch = spare.pop().unwrap_or_default();
            while let Err(back) = publisher.try_publish(batch) {
                batch = back;
                publisher.reclaim(|b| spare.push(b));
                thread::yield_now();
            }
        }
    });
    started.elapsed()
}

criterion_group! {
    name = benches;
    config = settings();
    targets = request_ring, change_ring
}
criterion_main!(benches);
