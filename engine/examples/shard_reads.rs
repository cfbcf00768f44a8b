//! How many getData a shard answers per second on one thread, sockets left out.
//!
//! `cargo run --release -p engine --example shard_reads [keys] [value-bytes] [outstanding]`
//! Defaults: 1,000 keys of 100 bytes, 100 requests per segment, 50 connections in turn. Also shown: the same with
//! every tenth request a write (answered in one batch per round), and what a change costs that 1,000 connections
//! watch. Counted is time on the processor.

use engine::ids::{Attach, ConnId, SessionId, ShardId, Zxid};
use engine::limits::Limits;
use engine::msg::{Act, Change, ChangeBatch, CoreLink, Span, Step, Target, ToCore};
use engine::proto::{
    Acl, ConnectRequest, EventKind, Op, PathWatch, RequestHeader, SetDataRequest, put_frame,
};
use engine::shard::{Admission, Shard};
use engine::time::{MonoMs, Now, WallMs};
use engine::tree::Writer;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering::Relaxed};

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

fn request(out: &mut Vec<u8>, xid: i32, op: Op, body: impl FnOnce(&mut Vec<u8>)) {
    put_frame(out, |out| {
        RequestHeader { xid, op: op.wire() }.encode(out);
        body(out);
    });
}

fn connect(shard: &mut Shard, link: &mut Link, now: Now, zxid: Zxid) -> ConnId {
    let c = shard.accept(SocketAddr::from(([127, 0, 0, 1], 1)), now).expect("admitted");
    let mut hello = vec![];
    put_frame(&mut hello, |out| {
        ConnectRequest {
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 10_000,
            session: SessionId::NONE,
            password: None,
            read_only: Some(false),
        }
        .encode(out);
    });
    shard.input(c, &hello, now, link);
    link.0.clear();
    let act =
        Act::Attached { session: SessionId(1), attach: Attach(1), timeout_ms: 10_000, password: [0; 16] };
    let steps = vec![Step { zxid: Some(zxid), changes: Span::default(), target: Target::Conn(c, act) }];
    shard.consume(&ChangeBatch { steps, ..ChangeBatch::default() }, now, link);
    c
}

/// What this thread has used of a processor so far.
fn cpu_seconds() -> f64 {
    let stat =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with scheduler statistics");
    let ns = stat.split(' ').next().expect("nanoseconds on the processor first");
    ns.parse::<f64>().expect("a number") / 1e9
}

fn flush(shard: &mut Shard, now: Now) -> usize {
    let mut bytes = 0;
    while let Some(c) = shard.next_dirty() {
        let n = shard.output(c).len();
        bytes += n;
        shard.wrote(c, n, now);
    }
    bytes
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).map(|a| a.parse().expect("a number")).collect();
    let arg = |at: usize, default: usize| args.get(at).copied().unwrap_or(default);
    let (keys, value_bytes, outstanding) = (arg(0, 1_000), arg(1, 100), arg(2, 100));
    let (mut writer, handle) = engine::tree::new(42, 4);
    let value = vec![b'v'; value_bytes];
    let mut zxid = 0;
    for i in 0..keys {
        zxid += 1;
        writer
            .create(Zxid(zxid), &format!("/key-{i:09}"), Some(&value), &[Acl::open()], 0, 0, None)
            .expect("fresh");
        if i % 1_000 == 0 {
            writer.publish(Zxid(zxid));
            writer.collect(10_000);
        }
    }
    writer.publish(Zxid(zxid));
    let door = Arc::new(Door(AtomicIsize::new(0)));
    let limits = Arc::new(Limits { outstanding_writes: 1 << 20, ..Limits::default() });
    let reader = handle.reader().expect("a slot");
    let mut shard = Shard::new(ShardId(0), limits, door, reader, Arc::default(), Zxid(zxid), 0);
    let now = Now { mono: MonoMs(1), wall: WallMs(1) };
    let mut link = Link::default();
    shard.begin_turn();
    let conns: Vec<_> = (0..50).map(|_| connect(&mut shard, &mut link, now, Zxid(zxid))).collect();
    flush(&mut shard, now);

    let mut seed = 88172645463325252u64;
    let mut draw = move || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as usize % keys
    };
    for writes_every in [0, 10] {
        let segments: Vec<Vec<u8>> = (0..500)
            .map(|_| {
                let mut s = vec![];
                for xid in 0..outstanding {
                    let path = format!("/key-{:09}", draw());
                    if writes_every != 0 && xid % writes_every == 0 {
                        request(&mut s, xid as i32, Op::SetData, |out| {
                            SetDataRequest { path: path.into(), data: Some(&value), version: -1 }.encode(out);
                        });
                    } else {
                        request(&mut s, xid as i32, Op::GetData, |out| {
                            PathWatch { path: path.into(), watch: false }.encode(out);
                        });
                    }
                }
                s
            })
            .collect();
        let (mut ops, mut bytes) = (0u64, 0);
        // The example measures; the crate itself reads no clock.
        #[allow(clippy::disallowed_methods)]
        let clock = std::time::Instant::now;
        let started = clock();
        let cpu_from = cpu_seconds();
        while started.elapsed().as_millis() < 2_000 {
            for round in segments.chunks(conns.len()) {
                shard.begin_turn();
                for (c, s) in conns.iter().zip(round) {
                    shard.input(*c, s, now, &mut link);
                    ops += outstanding as u64;
                    // At once, so that the next connection finds the buffer still in the cache.
                    bytes += flush(&mut shard, now);
                }
                let mut batch = ChangeBatch::default();
                for m in link.0.drain(..) {
                    if let ToCore::Request(r) = m {
                        zxid += 1;
                        let act = Act::Reply { err: engine::error::Code::OK, body: Span::default() };
                        let target = Target::Conn(r.conn, act);
                        batch.steps.push(Step { zxid: Some(Zxid(zxid)), changes: Span::default(), target });
                    }
                }
                shard.consume(&batch, now, &mut link);
                bytes += flush(&mut shard, now);
            }
        }
        // Time on the processor, so that a busy machine does not count.
        let seconds = cpu_seconds() - cpu_from;
        println!(
            "{keys} keys x {value_bytes} B, {outstanding} per segment, a write every {writes_every}: {:.2} M ops/s, {:.0} ns each, {:.0} MB/s",
            ops as f64 / seconds / 1e6,
            seconds * 1e9 / ops as f64,
            bytes as f64 / seconds / 1e6,
        );
    }
    fan_out(&mut shard, &mut writer, &mut link, now, zxid);
}

/// One change that 1,000 connections watch: from the batch to their frames.
fn fan_out(shard: &mut Shard, writer: &mut Writer, link: &mut Link, now: Now, mut zxid: u64) {
    const WATCHERS: usize = 1_000;
    const ROUNDS: usize = 1_000;
    let path = "/key-000000000";
    let conns: Vec<_> = (0..WATCHERS).map(|_| connect(shard, link, now, Zxid(zxid))).collect();
    let mut watch = vec![];
    request(&mut watch, 1, Op::GetData, |out| PathWatch { path: path.into(), watch: true }.encode(out));
    let mut seconds = 0.0;
    for _ in 0..ROUNDS {
        shard.begin_turn();
        conns.iter().for_each(|c| shard.input(*c, &watch, now, link));
        flush(shard, now);
        zxid += 1;
        let mut batch = ChangeBatch::default();
        let span = batch.put(|out| out.extend_from_slice(path.as_bytes()));
        let path_hash = writer.latest().hash(path).0;
        let (kind, acl, parent_acl) = (EventKind::NodeDataChanged, None, None);
        batch.changes.push(Change { kind, path: span, path_hash, parent_hash: 0, acl, parent_acl });
        let changes = Span { start: 0, end: 1 };
        batch.steps.push(Step { zxid: Some(Zxid(zxid)), changes, target: Target::None });
        writer.publish(Zxid(zxid));
        let from = cpu_seconds();
        shard.consume(&batch, now, link);
        flush(shard, now);
        seconds += cpu_seconds() - from;
    }
    println!("one change, {WATCHERS} watchers: {:.0} us", seconds * 1e6 / ROUNDS as f64);
}
