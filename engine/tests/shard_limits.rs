//! First bytes, bounds and bad input: whatever a client sends, the shard keeps its order, its memory and its calm.

mod shard_support;

use engine::ids::{ConnId, SessionId};
use engine::limits::Limits;
use engine::msg::{Act, Collect, Span, Step, Target, ToCore};
use engine::proto::{Encode, Op, PathKind, put_frame};
use engine::shard::Close;
use engine::time::{MonoMs, Now};
use shard_support::*;
use std::sync::atomic::Ordering::SeqCst;

fn xids(frames: &[Frame]) -> Vec<i32> {
    frames.iter().map(|f| f.xid).collect()
}

/// Sends bytes in pieces of `size`.
fn trickle(w: &mut World, c: ConnId, bytes: &[u8], size: usize) {
    for piece in bytes.chunks(size) {
        w.input(c, piece);
    }
}

#[test]
fn bytes_one_at_a_time_make_the_same_conversation() {
    for size in [1, 2, 3, 7, 64, 100_000] {
        let mut w = World::new();
        w.other_now(Op::Create, "/a", b"0");
        let c = w.accept();
        trickle(&mut w, c, &connect_frame(0, 0), size);
        assert!(matches!(w.link.ring.pop_front(), Some(ToCore::Connect(_))));
        // Sent before the session is there: kept, and served behind the ConnectResponse.
        assert!(!w.shard.wants_read(c));
        w.input(c, &get(1, "/a", false));
        assert!(w.received(c).is_empty());
        w.attach(c, 6_000);
        let first = w.received(c);
        assert_eq!(first[..8], [0, 0, 0, 37, 0, 0, 0, 0]);
        assert_eq!(frames_of(&first[41..])[0].text(), "0");
        let talk = [set(2, "/a", b"1"), get(3, "/a", false), ping(), get(4, "/none", true)].concat();
        trickle(&mut w, c, &talk, size);
        w.run();
        let got = w.frames(c);
        assert_eq!(xids(&got), [2, 3, -2, 4], "pieces of {size}");
        assert_eq!((got[1].text(), got[3].err), ("1".into(), -101));
    }
}

#[test]
fn thousands_of_requests_in_one_slice_are_all_answered_in_order() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let c = w.connect();
    const N: i32 = 30_000;
    let all: Vec<u8> = (1..=N).flat_map(|i| read(i, Op::Exists, "/a", false)).collect();
    w.input(c, &all);
    assert!(w.shard.has_ready(), "a call serves a bounded part");
    let mut got = vec![];
    while got.len() < N as usize {
        w.run();
        let more = w.frames(c);
        assert!(!more.is_empty(), "stuck at {}", got.len());
        got.extend(more);
    }
    assert_eq!(xids(&got), (1..=N).collect::<Vec<_>>());
    assert!(!w.shard.has_ready() && w.shard.wants_read(c));
    assert_eq!(w.shard.stats().reads, N as u64);
}

#[test]
fn a_ring_of_one_slot_delays_but_neither_loses_nor_reorders() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let conns: Vec<_> = (0..3).map(|_| w.connect()).collect();
    w.link.room = 1;
    for (n, c) in conns.iter().enumerate() {
        let talk: Vec<u8> = (1..=20)
            .flat_map(|i| {
                [set(2 * i, "/a", format!("{n}.{i}").as_bytes()), get(2 * i + 1, "/a", false)].concat()
            })
            .collect();
        w.input(*c, &talk);
    }
    assert!(w.shard.ring_blocked() && w.link.refused > 0);
    assert!(!w.shard.wants_read(conns[1]));
    w.run();
    assert!(!w.shard.ring_blocked());
    for (n, c) in conns.iter().enumerate() {
        assert!(w.shard.wants_read(*c));
        let got = w.frames(*c);
        assert_eq!(xids(&got), (2..=41).collect::<Vec<_>>());
        for pair in got.chunks(2) {
            let seen = pair[1].text();
            let own = seen.strip_prefix(&format!("{n}.")).map(|i| i.parse::<i32>().unwrap());
            assert!(own.is_none_or(|i| i == pair[0].xid / 2), "after write {} it saw {seen}", pair[0].xid);
        }
        assert!(got.windows(2).all(|p| p[0].zxid <= p[1].zxid));
    }
    assert_eq!(w.door.in_flight.load(SeqCst), 0);
}

#[test]
fn too_many_writes_in_flight_stop_only_those_who_have_one() {
    let mut w = World::with(Limits { outstanding_writes: 2, ..limits() });
    let (c, d) = (w.connect(), w.connect());
    w.input(c, &[create(1, "/a", b""), create(2, "/b", b""), create(3, "/c", b"")].concat());
    assert_eq!((w.link.ring.len(), w.shard.wants_read(c)), (2, false));
    w.input(d, &create(9, "/d", b""));
    assert_eq!(w.link.ring.len(), 3, "one that has none in flight may always have one");
    w.run();
    assert_eq!((xids(&w.frames(c)), xids(&w.frames(d))), (vec![1, 2, 3], vec![9]));
    assert!(w.shard.wants_read(c));
}

#[test]
fn a_client_that_does_not_read_is_neither_read_nor_answered_and_nobody_else_notices() {
    let mut w = World::with(Limits { conn_soft_limit_bytes: 10_000, ..limits() });
    w.other_now(Op::Create, "/a", &[b'x'; 1_000]);
    let (c, d) = (w.connect(), w.connect());
    let all: Vec<u8> = (1..=100).flat_map(|i| get(i, "/a", false)).collect();
    w.input(c, &all);
    assert!(w.shard.output(c).len() < 12_000);
    assert!(!w.shard.wants_read(c) && w.shard.wants_read(d));
    w.input(d, &get(1, "/a", false));
    assert_eq!(w.shard.output(d).len(), 1_000 + 92);
    let mut got = vec![];
    for _ in 0..1_000 {
        w.flush_one(c, 700);
        w.run();
        got.extend(std::mem::take(w.wires.get_mut(&(c.slot, c.generation)).unwrap()));
    }
    assert_eq!(xids(&frames_of(&got)), (1..=100).collect::<Vec<_>>());
    assert!(w.shard.wants_read(c));
}

#[test]
fn reads_kept_behind_a_write_are_bounded() {
    let mut w = World::new();
    let c = w.connect();
    w.input(c, &create(0, "/a", b"0"));
    let some: Vec<u8> = (0..1_000).flat_map(|i| get(i, "/a", false)).collect();
    let mut sent = 0;
    while w.shard.wants_read(c) {
        w.input(c, &some);
        sent += 1_000;
        assert!(sent < 100_000, "never pushed back");
    }
    assert!(w.shard.stats().buffered_bytes < (256 << 10) + 100);
    w.run();
    let mut got = w.frames(c);
    while got.len() < sent + 1 {
        w.run();
        let more = w.frames(c);
        assert!(!more.is_empty(), "stuck at {} of {sent}", got.len());
        got.extend(more);
    }
    assert_eq!(got.len(), sent + 1);
    assert!(got.iter().all(|f| f.err == 0) && w.shard.wants_read(c));
}

#[test]
fn events_beyond_the_hard_limit_close_the_connection() {
    let mut w = World::with(Limits { conn_hard_limit_bytes: 5_000, ..limits() });
    let c = w.connect();
    let add = frame(1, Op::AddWatch.wire(), |out| PathKind { path: "/".into(), kind: 1 }.encode(out));
    w.input(c, &add);
    for i in 0..1_000 {
        w.other_now(Op::Create, &format!("/n{i}"), b"");
    }
    assert_eq!(w.closes(), [c]);
    assert!(w.shard.output(c).len() < 5_200);
    assert_eq!(w.shard.stats().overruns, 1);
    w.shard.closed(c, &mut w.link);
    assert_eq!(w.shard.stats().buffered_bytes, 0);
    assert!(!w.filter.hits(1), "its recursive watch is gone");
}

#[test]
fn a_write_may_not_pass_reads_that_cannot_be_answered() {
    let limits = Limits { conn_soft_limit_bytes: 2_000, conn_hard_limit_bytes: 4_000, ..limits() };
    let mut w = World::with(limits);
    w.other_now(Op::Create, "/a", &[b'x'; 1_000]);
    let c = w.connect();
    let reads: Vec<u8> = (2..20).flat_map(|i| get(i, "/a", false)).collect();
    w.input(c, &[set(1, "/a", &[b'y'; 1_000]), reads, set(20, "/a", b"z")].concat());
    w.apply_all();
    w.publish();
    assert_eq!(w.closes(), [c], "never read, and its second write was due");
    let got = w.frames(c);
    assert!(got.iter().all(|f| f.xid == 1 || f.data().0.unwrap()[0] == b'y'), "{got:?}");
    w.shard.closed(c, &mut w.link);
    assert_eq!(w.door.in_flight.load(SeqCst), 0);
}

#[test]
fn slots_are_used_again_and_old_ids_reach_nobody() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let c = w.connect();
    w.input(c, &[get(1, "/a", true), set(2, "/a", b"1")].concat());
    w.shard.closed(c, &mut w.link);
    assert!(matches!(w.link.reserved.pop_back(), Some(ToCore::Gone { conn, session, .. })
        if conn == c && session == SessionId(100)));
    let d = {
        w.link.ring.clear();
        w.connect()
    };
    assert_eq!((d.slot, d.generation), (c.slot, c.generation + 1));
    // The answer to the old tenant's write arrives now, and a change that it watched.
    let zxid = w.next_zxid();
    let act = Act::Reply { err: engine::error::Code::OK, body: Span::default() };
    w.batch.steps.push(Step { zxid: Some(zxid), changes: Span::default(), target: Target::Conn(c, act) });
    w.other(Op::SetData, "/a", b"2");
    w.publish();
    assert!(w.frames(d).is_empty());
    assert!(w.shard.output(c).is_empty());
    w.input(c, &get(7, "/a", false));
    assert_eq!((w.shard.should_close(c), w.shard.stats().connections), (Close::Now, 1));
    assert_eq!(w.door.in_flight.load(SeqCst), 0);
}

#[test]
fn a_session_given_to_a_connection_that_is_gone_is_given_back() {
    let mut w = World::new();
    let ended = |w: &mut World| {
        let gone = |m| match m {
            ToCore::Gone { conn, session, .. } => (conn, session),
            other => panic!("{other:?}"),
        };
        w.link.reserved.drain(..).map(gone).collect::<Vec<_>>()
    };
    // Its socket was closed before the answer came.
    let c = w.accept();
    w.input(c, &connect_frame(0, 0));
    w.shard.closed(c, &mut w.link);
    assert_eq!(ended(&mut w), [(c, SessionId(0))], "it never heard of a session");
    let session = w.attach(c, 10_000);
    assert_eq!(ended(&mut w), [(c, session)]);
    // It is about to be closed.
    let c = w.accept();
    w.input(c, &connect_frame(0, 0));
    w.batch.steps.push(Step { zxid: None, changes: Span::default(), target: Target::Conn(c, Act::Close) });
    let session = w.attach(c, 10_000);
    assert_eq!(ended(&mut w), [(c, session)]);
    w.shard.closed(c, &mut w.link);
    assert_eq!(ended(&mut w), [(c, SessionId(0))]);
    // One that lives keeps it.
    let c = w.connect();
    assert_eq!(ended(&mut w), []);
    w.shard.closed(c, &mut w.link);
    assert_eq!(ended(&mut w).len(), 1);
}

#[test]
fn limits_over_all_shards_refuse_connections() {
    let mut w = World::new();
    w.door.max.store(2, SeqCst);
    let c = w.accept();
    w.accept();
    assert!(w.shard.accept(World::peer(3), w.now).is_none());
    w.shard.closed(c, &mut w.link);
    assert!(w.link.reserved.is_empty(), "the core never heard of it");
    assert!(w.shard.accept(World::peer(3), w.now).is_some());
}

#[test]
fn four_letter_words() {
    let mut w = World::new();
    let c = w.accept();
    trickle(&mut w, c, b"srvr\n", 2);
    assert!(matches!(w.link.ring.pop_front(), Some(ToCore::Word { word, .. }) if &word == b"srvr"));
    let body = w.batch.put(|out| out.extend_from_slice(b"hello\n"));
    w.batch.steps.push(Step {
        zxid: None,
        changes: Span::default(),
        target: Target::Conn(c, Act::Text(body)),
    });
    w.publish();
    assert_eq!(w.shard.should_close(c), Close::AfterFlush);
    assert_eq!((w.received(c), w.closes()), (b"hello\n".to_vec(), vec![c]));

    let d = w.accept();
    w.input(d, b"mntr");
    assert_eq!(w.received(d), b"mntr is not executed because it is not in the whitelist.\n");
    assert_eq!(w.closes(), [d]);

    let e = w.accept();
    trickle(&mut w, e, b"stmk\0\0\0\0\0\0\x01\x32", 5);
    assert!(
        matches!(w.link.ring.pop_front(), Some(ToCore::Word { arg, .. }) if arg == [0, 0, 0, 0, 0, 0, 1, 0x32])
    );

    let f = w.accept();
    w.input(f, b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((w.closes(), w.received(f).len()), (vec![f], 0));
}

#[test]
fn refused_sessions_and_null_passwords() {
    let mut w = World::new();
    let c = w.accept();
    w.input(c, &connect_frame(0, 55));
    assert!(matches!(w.link.ring.pop_front(), Some(ToCore::Connect(a)) if a.session == SessionId(55)));
    w.batch.steps.push(Step { zxid: None, changes: Span::default(), target: Target::Conn(c, Act::Refused) });
    w.publish();
    let zeros = [&[0, 0, 0, 37][..], &[0; 16], &[0, 0, 0, 16], &[0; 17]].concat();
    assert_eq!((w.received(c), w.closes()), (zeros, vec![c]));

    let d = w.accept();
    let mut hello = vec![];
    put_frame(&mut hello, |out| {
        out.put_int(0);
        out.put_long(0);
        out.put_int(-1);
        out.put_long(77);
        out.put_buffer(None);
    });
    w.input(d, &hello);
    assert!(w.link.ring.is_empty());
    let zeros = [&[0, 0, 0, 36][..], &[0; 16], &[0, 0, 0, 16], &[0; 16]].concat();
    assert_eq!((w.received(d), w.closes()), (zeros, vec![d]), "no readOnly byte, as none was sent");
}

#[test]
fn timeouts_are_clamped_and_sessionless_connections_end() {
    let mut w = World::new();
    let c = w.accept();
    let mut hello = connect_frame(0, 0);
    hello[16..20].copy_from_slice(&(-5i32).to_be_bytes());
    w.input(c, &hello);
    assert!(matches!(w.link.ring.pop_front(), Some(ToCore::Connect(a)) if a.timeout_ms == 4_000));
    w.attach(c, 4_000);
    let d = w.accept();
    let deadline = w.shard.next_deadline().unwrap();
    w.now = Now { mono: MonoMs(deadline.0 - 1), ..w.now };
    w.shard.timers(w.now);
    assert!(w.closes().is_empty());
    w.now = Now { mono: MonoMs(11_000), ..w.now };
    w.shard.timers(w.now);
    assert_eq!(w.closes(), [d], "the one with a session stays");
}

#[test]
fn activity_is_reported_once_per_quarter_tick_and_for_those_who_left() {
    let mut w = World::new();
    let (c, d) = (w.connect(), w.connect());
    w.input(c, &ping());
    let report = |w: &mut World| {
        let (now, drained) = (w.now, w.now.mono);
        w.shard.activity_report(drained, now, &mut w.link);
        match w.link.reserved.pop_back() {
            Some(ToCore::Activity(a)) => Some(a.heard.iter().map(|(s, at)| (s.0, at.0)).collect::<Vec<_>>()),
            _ => None,
        }
    };
    let mut first = report(&mut w).expect("due");
    first.sort_unstable();
    assert_eq!(first, [(100, 1_000), (101, 1_000)]);
    assert_eq!(report(&mut w), None);
    w.now = Now { mono: MonoMs(1_400), ..w.now };
    w.input(d, &ping());
    w.shard.closed(d, &mut w.link);
    w.link.reserved.clear();
    w.now = Now { mono: MonoMs(1_500), ..w.now };
    assert_eq!(report(&mut w).unwrap(), [(101, 1_400)]);
}

#[test]
fn unknown_and_forbidden_opcodes_are_refused_in_their_place() {
    for op in [99, 0, -1, -10, 13, 20, 1_000_000] {
        let mut w = World::new();
        let c = w.connect();
        let odd = frame(7, op, |out| out.put_string("/a"));
        w.input(c, &[create(1, "/a", b""), odd, get(8, "/a", false)].concat());
        w.run();
        let got = w.frames(c);
        assert_eq!(xids(&got), [1, 7], "opcode {op}");
        assert_eq!((got[1].zxid, got[1].err), (-1, -6));
        assert_eq!(w.closes(), [c]);
    }
}

#[test]
fn malformed_bodies_keep_the_connection() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let c = w.connect();
    let ops = [
        Op::Exists,
        Op::GetData,
        Op::GetAcl,
        Op::GetChildren,
        Op::GetChildren2,
        Op::GetAllChildrenNumber,
        Op::MultiRead,
        Op::SetWatches,
        Op::SetWatches2,
        Op::AddWatch,
        Op::CheckWatches,
        Op::RemoveWatches,
    ];
    for (i, op) in ops.into_iter().enumerate() {
        for body in [&b""[..], &[0, 0, 0, 9, b'/'], &[0xff, 0xff, 0xff, 0xff, 1], &[0x7f, 0xff, 0xff, 0xff]] {
            w.input(c, &frame(i as i32, op.wire(), |out| out.extend_from_slice(body)));
        }
        let got = w.frames(c);
        assert_eq!(got.iter().map(|f| f.err).collect::<Vec<_>>(), [-5; 4], "{op:?}");
    }
    let add = frame(1, Op::AddWatch.wire(), |out| PathKind { path: "/a".into(), kind: 2 }.encode(out));
    let check = frame(2, Op::CheckWatches.wire(), |out| PathKind { path: "/a".into(), kind: 6 }.encode(out));
    let nul = read(3, Op::Exists, "/a\0", false);
    w.input(c, &[add, check, nul, get(4, "/a", false)].concat());
    assert_eq!(w.frames(c).iter().map(|f| f.err).collect::<Vec<_>>(), [-5, -5, -8, 0]);
    // A path that is no UTF-8 names no node; a request shorter than its header ends the connection.
    w.input(c, &frame(5, 4, |out| out.extend_from_slice(&[0, 0, 0, 2, b'/', 0xff, 0])));
    assert_eq!(w.frames(c)[0].err, -101);
    w.input(c, &[0, 0, 0, 4, 0, 0, 0, 1]);
    assert_eq!(w.closes(), [c]);
}

#[test]
fn auth_overtakes_fails_and_sasl_answers_as_a_server_without_it() {
    let mut w = World::new();
    let c = w.connect();
    let auth = |scheme: &str| {
        frame(-4, Op::Auth.wire(), |out| {
            out.put_int(0);
            out.put_string(scheme);
            out.put_buffer(Some(b"u:p"));
        })
    };
    w.input(c, &[create(1, "/a", b""), auth("digest"), frame(3, Op::WhoAmI.wire(), |_| {})].concat());
    assert_eq!(xids(&w.frames(c)), [-4]);
    w.run();
    let got = w.frames(c);
    assert_eq!(xids(&got), [1, 3]);
    let mut want = vec![];
    engine::acl::who_am_i(
        &[engine::acl::peer_id([127, 0, 0, 1].into()), engine::proto::Id::new("digest", "u:x")],
        &mut want,
    );
    assert_eq!(got[1].body, want);
    w.input(c, &frame(5, Op::Sasl.wire(), |out| out.put_buffer(Some(b""))));
    assert_eq!(w.frames(c), [Frame { xid: 5, zxid: 0, err: 0, body: vec![0xff; 4] }]);
    w.input(c, &[auth("nobody-knows"), get(9, "/a", false)].concat());
    assert_eq!(w.frames(c), [Frame { xid: -4, zxid: 0, err: -115, body: vec![] }]);
    assert_eq!(w.closes(), [c]);
}

#[test]
fn close_session_is_answered_and_ends_the_connection() {
    let mut w = World::new();
    let c = w.connect();
    let close = frame(2, Op::CloseSession.wire(), |_| {});
    w.input(c, &[create(1, "/a", b""), close, get(3, "/a", false)].concat());
    assert!(!w.shard.wants_read(c));
    w.run();
    assert_eq!(xids(&w.frames(c)), [1, 2]);
    assert_eq!(w.closes(), [c]);
}

#[test]
fn an_ending_connection_whose_peer_takes_nothing_ends_all_the_same() {
    let mut w = World::new();
    let c = w.connect();
    w.input(c, &frame(2, Op::CloseSession.wire(), |_| {}));
    w.run();
    w.shard.timers(w.now);
    assert!(w.closes().is_empty(), "its last bytes are not sent");
    w.now = Now { mono: MonoMs(w.now.mono.0 + 10_000), ..w.now };
    w.shard.timers(w.now);
    assert_eq!(w.closes(), [c]);
}

#[test]
fn set_watches_catches_up_and_registers() {
    let mut w = World::new();
    for path in ["/same", "/changed", "/gone", "/kids"] {
        w.other_now(Op::Create, path, b"");
    }
    let c = w.connect();
    let seen = w.zxid;
    w.other_now(Op::SetData, "/changed", b"x");
    w.other_now(Op::Delete, "/gone", b"");
    w.other_now(Op::Create, "/kids/one", b"");
    let strings = |out: &mut Vec<u8>, all: &[&str]| {
        out.put_len(all.len());
        all.iter().for_each(|s| out.put_string(s));
    };
    let body = frame(-8, Op::SetWatches2.wire(), |out| {
        out.put_long(seen as i64);
        strings(out, &["/same", "/changed", "/gone"]);
        strings(out, &["/same", "/not-yet"]);
        strings(out, &["/kids", "/gone", "/same"]);
        strings(out, &["/pers"]);
        strings(out, &["/rec"]);
    });
    w.input(c, &body);
    let got = w.frames(c);
    let events: Vec<_> = got[..got.len() - 1].iter().map(|f| (f.event(), f.zxid)).collect();
    let want = [(3, "/changed"), (2, "/gone"), (1, "/same"), (4, "/kids"), (2, "/gone")];
    assert_eq!(events, want.map(|(kind, path)| ((kind, path.to_owned()), -1)));
    assert_eq!(got.last().unwrap().xid, -8);
    for path in ["/not-yet", "/same/child", "/pers", "/rec", "/rec/deep"] {
        w.other_now(Op::Create, path, b"");
    }
    w.other_now(Op::SetData, "/same", b"");
    let events: Vec<_> = w.frames(c).iter().map(Frame::event).collect();
    let want = [(1, "/not-yet"), (4, "/same"), (1, "/pers"), (1, "/rec"), (1, "/rec/deep"), (3, "/same")];
    assert_eq!(events, want.map(|(kind, path)| (kind, path.to_owned())));
    let check =
        |kind| frame(1, Op::RemoveWatches.wire(), |out| PathKind { path: "/pers".into(), kind }.encode(out));
    w.input(c, &[check(1), check(4), check(3)].concat());
    assert_eq!(w.frames(c).iter().map(|f| f.err).collect::<Vec<_>>(), [-121, 0, -121]);
}

#[test]
fn multi_read_answers_each_item_on_its_own() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"data");
    w.other_now(Op::Create, "/a/kid", b"");
    let c = w.connect();
    let item = |out: &mut Vec<u8>, op: i32, path: &str| {
        out.put_int(op);
        out.put_bool(false);
        out.put_int(-1);
        out.put_string(path);
        out.put_bool(true);
    };
    let end = |out: &mut Vec<u8>| {
        out.put_int(-1);
        out.put_bool(true);
        out.put_int(-1);
    };
    let good = frame(1, Op::MultiRead.wire(), |out| {
        item(out, 4, "/a");
        item(out, 4, "/none");
        item(out, 8, "/a");
        end(out);
    });
    let mixed = frame(2, Op::MultiRead.wire(), |out| {
        item(out, 4, "/a");
        item(out, 2, "/a");
        end(out);
    });
    let cut = frame(3, Op::MultiRead.wire(), |out| item(out, 4, "/a"));
    w.input(c, &[good, mixed, cut, frame(4, Op::MultiRead.wire(), end)].concat());
    let got = w.frames(c);
    assert_eq!(got.iter().map(|f| f.err).collect::<Vec<_>>(), [0, -5, -5, 0]);
    let mut want = vec![];
    want.put_int(4);
    want.put_bool(false);
    want.put_int(0);
    want.put_buffer(Some(b"data"));
    w.writer.latest().get("/a").unwrap().stat().encode(&mut want);
    for n in [-1, -101] {
        want.put_int(n);
        if n == -1 {
            want.put_bool(false);
        }
    }
    want.put_int(-101);
    want.put_int(8);
    want.put_bool(false);
    want.put_int(0);
    want.put_int(1);
    want.put_string("kid");
    end(&mut want);
    assert_eq!(got[0].body, want);
    assert!(w.shard.stats().watches == Default::default(), "watch flags are ignored");
}

#[test]
fn the_core_can_ask_for_connections_and_watches() {
    let mut w = World::new();
    let c = w.connect();
    w.input(c, &read(7, Op::Exists, "/x", true));
    w.frames(c);
    for what in [Collect::Connections, Collect::Watches, Collect::ResetConnections, Collect::Connections] {
        let act = Act::Collect { token: 9, what };
        w.batch.steps.push(Step { zxid: None, changes: Span::default(), target: Target::All(act) });
    }
    w.publish();
    let parts: Vec<_> = w
        .link
        .reserved
        .drain(..)
        .map(|m| match m {
            ToCore::Collected { part, token: 9, .. } => part,
            other => panic!("{other:?}"),
        })
        .collect();
    let line = &parts[0].connections[0];
    assert_eq!((line.received, line.sent, line.last_op, line.last_cxid), (2, 2, "EXIS", 7));
    assert_eq!((line.timeout_ms, line.session, line.interest), (6_000, SessionId(100), 1));
    assert_eq!(parts[1].watches, [(SessionId(100), vec!["/x".to_owned()])]);
    assert_eq!((parts[3].connections[0].received, parts[3].connections[0].last_op), (0, "NA"));
}

/// The driver writes in a loop until no connection is dirty: one that a client does not read must drop out of it.
#[test]
fn a_socket_that_took_less_is_passed_over_until_it_takes_all() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", &[b'0'; 1_000]);
    let (c, d) = (w.connect(), w.connect());
    w.input(c, &get(1, "/a", true));
    assert_eq!(w.shard.next_dirty(), Some(c));
    w.flush_one(c, 10);
    assert_eq!(w.shard.next_dirty(), None, "the socket is full");
    // Whatever is queued for it meanwhile: a reply, an event, the reply to a write.
    w.input(c, &get(2, "/a", false));
    assert_eq!(w.shard.next_dirty(), None);
    w.other_now(Op::SetData, "/a", &[b'1'; 1_000]);
    assert_eq!(w.shard.next_dirty(), None);
    w.input(c, &set(3, "/a", b"2"));
    w.run();
    assert_eq!(w.shard.next_dirty(), None);
    // Others are served in the meantime.
    w.input(d, &get(1, "/a", false));
    assert_eq!(w.shard.next_dirty(), Some(d));
    w.flush_one(d, usize::MAX);
    assert_eq!(w.frames(d)[0].text(), "2");
    // The reactor finds room, but not enough.
    w.flush_one(c, 500);
    assert_eq!(w.shard.next_dirty(), None);
    w.input(c, &get(4, "/a", false));
    assert_eq!(w.shard.next_dirty(), None);
    // Then for everything: it is all offered, in order.
    w.flush_one(c, usize::MAX);
    assert!(w.shard.output(c).is_empty());
    assert_eq!(w.shard.next_dirty(), None);
    let got = w.frames(c);
    assert_eq!(xids(&got), [1, 2, -1, 3, 4]);
    assert_eq!((got[1].text().len(), got[4].text()), (1_000, "2".into()));
    // From here on it is one like the others.
    w.input(c, &get(5, "/a", false));
    assert_eq!(w.shard.next_dirty(), Some(c));
    w.flush_one(c, usize::MAX);
    assert_eq!(xids(&w.frames(c)), [5]);
}

#[test]
fn a_connection_collects_no_more_identities_than_the_limit() {
    let mut w = World::new();
    let c = w.connect();
    let mut last = 0;
    for i in 0..100 {
        let packet = frame(-4, Op::Auth.wire(), |out| {
            out.put_int(0);
            out.put_string("digest");
            out.put_buffer(Some(format!("user{i}:secret").as_bytes()));
        });
        w.input(c, &packet);
        match w.frames(c).first() {
            Some(reply) if reply.err == 0 => last = i,
            Some(reply) => {
                assert_eq!(reply.err, -115);
                assert_eq!(w.shard.stats().auth_failed, 1);
                assert_eq!(last, 62, "the address is one of 64");
                return;
            }
            None => break,
        }
    }
    panic!("nobody said no");
}

/// The limit over all connections must not stop the clock for everybody: sessions that are kept unread count as
/// heard, and the one that does not take its bytes is the one that expires.
#[test]
fn while_the_shard_is_over_its_limit_reports_go_on_and_spare_those_who_are_not_to_blame() {
    let mut w = World::with(Limits {
        conn_soft_limit_bytes: 50_000,
        shard_out_limit_bytes: 60_000,
        ..shard_support::limits()
    });
    w.other_now(Op::Create, "/a", &[b'x'; 40_000]);
    let (greedy, honest) = (w.connect(), w.connect());
    w.input(greedy, &[get(1, "/a", false), get(2, "/a", false)].concat());
    assert!(!w.shard.reads_allowed());
    let later = Now { mono: MonoMs(w.now.mono.0 + 10_000), ..w.now };
    // The bytes of the first are taken as heard; from here on only the second is owed anything.
    w.shard.activity_report(later.mono, later, &mut w.link);
    w.link.ring.clear();
    w.link.reserved.clear();
    w.shard.left_unread();
    let later = Now { mono: MonoMs(later.mono.0 + 10_000), ..later };
    w.shard.activity_report(later.mono, later, &mut w.link);
    let report = w.link.reserved.iter().chain(&w.link.ring).find_map(|m| match m {
        ToCore::Activity(a) => Some(a),
        _ => None,
    });
    let heard: Vec<SessionId> = report.expect("a report").heard.iter().map(|(s, _)| *s).collect();
    // The second session of this world, of the connection that owes us nothing.
    assert_eq!(heard, [SessionId(101)]);
    assert!(w.shard.wants_read(honest), "it would be read if there were room");
}
