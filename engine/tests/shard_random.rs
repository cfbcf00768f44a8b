//! Seeded random conversations beside a dull model, and random bytes.
//!
//! `SHARD_SEED=n cargo test -p engine --test shard_random` plays one seed; a failure names its own.

mod shard_support;

use engine::limits::Limits;
use engine::proto::{Op, PathKind};
use shard_support::history::*;
use shard_support::*;

fn seeds(many: u64) -> Vec<u64> {
    match std::env::var("SHARD_SEED") {
        Ok(s) => vec![s.parse().expect("a number")],
        Err(_) => (1..=many).collect(),
    }
}

/// Prints the seed if the test fails.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: SHARD_SEED={}", self.0);
        }
    }
}

/// Orders some of what is in the ring, into one batch.
fn order_some(w: &mut World, h: &mut History, n: usize) {
    let all: Vec<_> = w.link.ring.drain(..).collect();
    let (now, later) = all.split_at_checked(n).unwrap_or((&all, &[]));
    assert!(now.len() + later.len() == all.len());
    let mut rest = all.into_iter();
    for m in rest.by_ref().take(n) {
        let before = w.batch.changes.len();
        w.link.ring.push_back(m);
        w.apply_all();
        for c in &w.batch.changes[before..] {
            let path = w.batch.path(c).to_owned();
            let data = w.writer.latest().get(&path).and_then(|n| n.data().map(<[u8]>::to_vec));
            let what = match c.kind as i32 {
                1 => Change::Created,
                2 => Change::Deleted,
                _ => Change::Set,
            };
            h.0.push((w.zxid, what, path, String::from_utf8(data.unwrap_or_default()).unwrap()));
        }
    }
    w.link.ring.extend(rest);
}

fn play(seed: u64) {
    let _tell = Tell(seed);
    let mut rng = Rng(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let soft = [300, 2_000, 1 << 20][rng.below(3)];
    let limits = Limits { conn_soft_limit_bytes: soft, outstanding_writes: 1 + rng.below(20), ..limits() };
    let mut w = World::with(limits);
    let mut h = History::default();
    let mut clients: Vec<_> = (0..3).map(|_| Client::new(w.connect(), false)).collect();
    w.link.room = 1 + rng.below(6);
    let mut unsent: Vec<Vec<u8>> = vec![vec![]; clients.len()];
    let mut turns = 0;
    loop {
        turns += 1;
        let asking = turns < 200;
        for (client, unsent) in clients.iter_mut().zip(&mut unsent) {
            if asking && rng.below(3) == 0 {
                (0..1 + rng.below(8)).for_each(|_| unsent.extend(client.ask(&mut rng)));
            }
            if w.shard.wants_read(client.conn) && rng.below(4) > 0 {
                let n = if rng.below(3) == 0 { rng.below(40) } else { unsent.len() };
                let now: Vec<u8> = unsent.drain(..n.min(unsent.len())).collect();
                w.input(client.conn, &now);
            }
        }
        if rng.below(2) == 0 {
            let n = rng.below(5);
            order_some(&mut w, &mut h, n);
        }
        if rng.below(2) == 0 {
            w.publish();
        } else {
            w.shard.begin_turn();
            w.shard.resume(w.now, &mut w.link);
        }
        if rng.below(5) == 0 {
            w.shard.rest();
        }
        w.flush_at_most([50, 1_000, usize::MAX][rng.below(3)]);
        for c in &clients {
            // The socket takes more, whether or not there is something new.
            w.flush_one(c.conn, [0, 200, usize::MAX][rng.below(3)]);
        }
        let idle = w.link.ring.is_empty() && w.batch.steps.is_empty() && unsent.iter().all(Vec::is_empty);
        if !asking && idle && !w.shard.has_ready() && w.shard.stats().buffered_bytes == 0 {
            break;
        }
        assert!(turns < 20_000, "stuck: {:?}", w.shard.stats());
    }
    assert!(w.closes().is_empty());
    for client in &mut clients {
        let got = w.frames(client.conn);
        got.iter().for_each(|f| client.check(f, &h));
        assert_eq!(client.answered, client.asked.len(), "every request is answered once");
        client.nothing_missed(&h, w.zxid);
    }
    let stats = w.shard.stats();
    let waiting: usize = clients.iter().map(|c| c.watches.len()).sum();
    assert_eq!(stats.watches.data_watches + stats.watches.child_watches, waiting);
    assert_eq!((stats.outstanding, w.door.in_flight.load(std::sync::atomic::Ordering::SeqCst)), (0, 0));
}

#[test]
fn random_conversations_keep_every_rule() {
    for seed in seeds(120) {
        play(seed);
    }
}

/// Frames that may be anything, cut anywhere.
fn garbage(rng: &mut Rng) -> Vec<u8> {
    let op =
        [1, 3, 4, 5, 6, 8, 9, 11, 12, 14, 17, 18, 22, 100, 101, 102, 103, 104, 105, 106, 107][rng.below(21)];
    let path = PATHS[rng.below(PATHS.len())];
    let mut f = match rng.below(6) {
        0 => (0..rng.below(60)).map(|_| rng.below(256) as u8).collect(),
        1 => get(1, path, true),
        2 => frame(1, op, |out| out.extend((0..rng.below(50)).map(|i| (i * 37) as u8))),
        3 => frame(1, Op::AddWatch.wire(), |out| PathKind { path: path.into(), kind: 1 }.encode(out)),
        4 => frame(1, op, |out| {
            let words = [0i32, 1, 2, -1, -2, 7, i32::MAX, i32::MIN, 0x2f61_2f78];
            (0..rng.below(12)).for_each(|i| out.extend(words[(i * 5 + op as usize) % 9].to_be_bytes()));
        }),
        _ => create(1, path, b"x"),
    };
    for _ in 0..rng.below(3) {
        if !f.is_empty() && rng.below(2) == 0 {
            let at = rng.below(f.len());
            f[at] ^= 1 << rng.below(8);
        }
    }
    f
}

#[test]
fn random_bytes_neither_panic_nor_pile_up_nor_disturb_others() {
    for seed in seeds(300) {
        let _tell = Tell(seed);
        let mut rng = Rng(seed.wrapping_mul(0xd1b5_4a32_d192_ed03) | 1);
        let mut w = World::with(Limits { jute_max_buffer: 4_096, ..limits() });
        w.other_now(Op::Create, "/a", b"calm");
        let calm = w.connect();
        let mut c = w.connect();
        for turn in 0..150 {
            let n = 1 + rng.below(4);
            let bytes: Vec<u8> = (0..n).flat_map(|_| garbage(&mut rng)).collect();
            let cut = rng.below(bytes.len() + 1);
            w.input(c, &bytes[..cut]);
            w.input(c, &bytes[cut..]);
            // Writes are not this test's matter: the core answers each with an error.
            while let Some(m) = w.link.ring.pop_front() {
                if let engine::msg::ToCore::Request(r) = m {
                    use engine::msg::{Act, Span, Step, Target};
                    let act = Act::Reply { err: engine::error::Code::NOAUTH, body: Span::default() };
                    let (zxid, changes) = (Some(w.next_zxid()), Span::default());
                    w.batch.steps.push(Step { zxid, changes, target: Target::Conn(r.conn, act) });
                }
            }
            w.publish();
            w.input(calm, &get(turn, "/a", false));
            let got = w.frames(calm);
            assert_eq!((got.len(), got[0].xid, got[0].text()), (1, turn, "calm".into()));
            w.received(c);
            assert!(w.shard.stats().buffered_bytes < 8_192);
            for gone in w.closes() {
                assert_eq!(gone, c, "only the noisy one is closed");
                w.shard.closed(gone, &mut w.link);
                c = w.connect();
            }
        }
        w.shard.closed(c, &mut w.link);
        w.shard.closed(calm, &mut w.link);
        let stats = w.shard.stats();
        assert_eq!((stats.connections, stats.sessions, stats.outstanding), (0, 0, 0));
        assert_eq!((stats.buffered_bytes, stats.watches), (0, Default::default()));
    }
}
