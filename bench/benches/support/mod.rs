//! What the benches share: the server's allocator, criterion's settings, sizes by mode, and random numbers that are the
//! same in every run.
//!
//! `cargo bench -p bench [--bench NAME] [FILTER]` measures. Anything else that runs a bench (`cargo test --benches`)
//! runs every routine once, on small inputs, so that none of them rots.
#![allow(dead_code)] // Each bench uses its part.

use criterion::Criterion;
use engine::ids::Zxid;
use engine::proto::Acl;
use engine::tree::{self, Handle, Writer};
use std::time::Duration;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Whether routines run once, to see that they work. The same rule as criterion's.
pub fn trying() -> bool {
    let mut args = std::env::args();
    !args.any(|a| a == "--bench") || std::env::args().any(|a| a == "--test")
}

/// `full` when measuring, at most 2,000 when trying.
pub fn size(full: usize) -> usize {
    if trying() { full.min(2_000) } else { full }
}

/// A size as names show it: 2k, 1M.
pub fn short(n: usize) -> String {
    match n {
        n if n >= 1_000_000 && n.is_multiple_of(1_000_000) => format!("{}M", n / 1_000_000),
        n if n >= 1_000 && n.is_multiple_of(1_000) => format!("{}k", n / 1_000),
        n => n.to_string(),
    }
}

/// Shorter than criterion's own, since there are many.
pub fn settings() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args()
}

/// A fixed sequence that defeats caches and branch predictors.
pub struct Rng(pub u64);

impl Rng {
    /// Below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as usize) % n
    }
}

/// Znodes under one parent.
pub const PER_PARENT: usize = 1_000;

/// Paths of 29 bytes, 1,000 to a parent.
pub fn path(i: usize) -> String {
    format!("/app/part{:05}/node-{i:08}", i / PER_PARENT)
}

/// A tree of `n` znodes with `value` each, and its last zxid.
pub fn forest(n: usize, value: &[u8]) -> (Writer, Handle, u64) {
    let (mut w, h) = tree::new(0x5eed, 4);
    w.adopt_digest(0);
    let open = [Acl::open()];
    let mut zxid = 0;
    let mut next = || {
        zxid += 1;
        Zxid(zxid)
    };
    w.create(next(), "/app", None, &open, 0, 1, None).expect("fresh");
    for i in 0..n {
        if i % PER_PARENT == 0 {
            let parent = format!("/app/part{:05}", i / PER_PARENT);
            w.create(next(), &parent, None, &open, 0, 1, None).expect("fresh");
            w.publish(w.last_applied());
            w.collect(1 << 16);
        }
        w.create(next(), &path(i), Some(value), &open, 0, 1, None).expect("fresh");
    }
    w.publish(Zxid(zxid));
    while w.collect(1 << 20).more {}
    (w, h, zxid)
}
