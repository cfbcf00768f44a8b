//! The rules of DESIGN section 4, each with a test that fails when the rule is broken, in one thread.

mod shard_support;

use engine::ids::Zxid;
use engine::msg::{Act, Span, Step, Target, ToCore};
use engine::proto::{Acl, Encode, EventKind, Id, Op, PathKind, perm};
use shard_support::*;

fn xids(frames: &[Frame]) -> Vec<i32> {
    frames.iter().map(|f| f.xid).collect()
}

/// Steps with no effect and a zxid; `f` says whom they answer.
fn step(zxid: Zxid, target: Target) -> Step {
    Step { zxid: Some(zxid), changes: Span::default(), target }
}

#[test]
fn r4_set_get_set_in_one_segment_sees_the_first_write_and_not_the_second() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let c = w.connect();
    let segment = [set(1, "/a", b"1"), get(2, "/a", true), set(3, "/a", b"2")].concat();
    w.input(c, &segment);
    assert_eq!(w.link.ring.len(), 2, "both writes are under way");
    w.apply_all();
    w.publish();
    let got = w.frames(c);
    assert_eq!(xids(&got), [1, 2, -1, 3]);
    assert_eq!(got[1].text(), "1");
    assert_eq!((got[0].zxid, got[1].zxid), (3, 3));
    // R3: the watch set by that get hears of the second write, exactly once, before its reply (R2).
    assert_eq!(got[2].event(), (EventKind::NodeDataChanged as i32, "/a".into()));
    assert_eq!((got[2].zxid, got[3].zxid), (4, 4));
}

#[test]
fn r4_a_read_before_ones_own_write_never_shows_it() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"old");
    let c = w.connect();
    // The first write makes the get wait; a write of somebody else lies between.
    let segment =
        [set(1, "/b", b"x"), get(2, "/a", false), set(3, "/a", b"new"), get(4, "/a", false)].concat();
    w.input(c, &segment);
    w.apply_all();
    w.publish();
    let got = w.frames(c);
    assert_eq!(xids(&got), [1, 2, 3, 4]);
    assert_eq!((got[0].err, got[1].text(), got[3].text()), (-101, "old".into(), "new".into()));
    assert_eq!(got[1].zxid + 1, got[2].zxid, "answered at the horizon before the write");
}

#[test]
fn r4_reads_of_others_do_not_wait_for_a_write() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let (c, d) = (w.connect(), w.connect());
    w.input(c, &[set(1, "/a", b"1"), get(2, "/a", false), ping()].concat());
    w.input(d, &get(9, "/a", false));
    assert_eq!(w.frames(d)[0].text(), "0");
    assert!(w.frames(c).is_empty(), "the ping keeps its place too");
    w.run();
    assert_eq!(xids(&w.frames(c)), [1, 2, -2]);
}

#[test]
fn r1_a_shard_held_at_an_older_horizon_sees_what_was_deleted_and_made_again() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"first");
    let c = w.connect();
    // Applied, but not published to the shard: alone, and inside one transaction.
    w.other(Op::Delete, "/a", b"");
    w.other(Op::Create, "/a", b"second");
    let zxid = w.next_zxid();
    let from = w.batch.changes.len() as u32;
    w.execute(zxid, Op::Delete, "/a", b"");
    w.execute(zxid, Op::Create, "/a", b"third");
    let changes = Span { start: from, end: w.batch.changes.len() as u32 };
    w.batch.steps.push(Step { zxid: Some(zxid), changes, target: Target::None });
    w.input(c, &get(1, "/a", true));
    let got = w.frames(c);
    assert_eq!((got[0].text(), got[0].zxid), ("first".into(), 2));
    w.publish();
    let events: Vec<_> = w.frames(c).iter().map(|f| (f.event(), f.zxid)).collect();
    assert_eq!(
        events,
        [((EventKind::NodeDeleted as i32, "/a".into()), 3)],
        "one-shot: only the first change"
    );
    w.input(c, &get(2, "/a", false));
    let got = w.frames(c);
    assert_eq!((got[0].text(), got[0].zxid), ("third".into(), 5));
}

#[test]
fn r2_events_come_before_any_reply_that_shows_the_change() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let (c, d) = (w.connect(), w.connect());
    w.input(c, &[get(1, "/a", true), read(2, Op::GetChildren, "/", true)].concat());
    w.frames(c);
    // The watcher waits for a write of its own; the change it watches comes in the same batch, before it.
    w.input(d, &set(1, "/a", b"1"));
    w.input(c, &[create(3, "/b", b""), get(4, "/a", false)].concat());
    w.apply_all();
    w.publish();
    let got = w.frames(c);
    assert_eq!(xids(&got), [-1, -1, 3, 4]);
    assert_eq!(got[0].event(), (EventKind::NodeDataChanged as i32, "/a".into()));
    assert_eq!(got[1].event(), (EventKind::NodeChildrenChanged as i32, "/".into()));
    assert!(got.windows(2).all(|p| p[0].zxid <= p[1].zxid), "{got:?}");
    assert_eq!(got[3].text(), "1");
}

#[test]
fn r3_a_watch_set_at_an_old_horizon_hears_of_the_change_that_is_on_its_way() {
    let mut w = World::new();
    let c = w.connect();
    w.other(Op::Create, "/a", b"x");
    w.input(c, &read(1, Op::Exists, "/a", true));
    assert_eq!(w.frames(c)[0].err, -101);
    w.publish();
    let got = w.frames(c);
    assert_eq!(got.len(), 1);
    assert_eq!(got[0].event(), (EventKind::NodeCreated as i32, "/a".into()));
    w.other_now(Op::SetData, "/a", b"y");
    assert!(w.frames(c).is_empty(), "one-shot");
}

#[test]
fn r5_a_transaction_of_several_changes_becomes_visible_at_once() {
    let mut w = World::new();
    let c = w.connect();
    let zxid = w.next_zxid();
    w.execute(zxid, Op::Create, "/x", b"1");
    w.execute(zxid, Op::Create, "/y", b"1");
    let changes = Span { start: 0, end: 2 };
    w.batch.steps.push(Step { zxid: Some(zxid), changes, target: Target::None });
    w.input(c, &[get(1, "/x", false), get(2, "/y", false)].concat());
    assert_eq!(w.frames(c).iter().map(|f| f.err).collect::<Vec<_>>(), [-101, -101]);
    w.publish();
    w.input(c, &[get(3, "/x", false), get(4, "/y", false)].concat());
    let got = w.frames(c);
    assert!(got.iter().all(|f| f.err == 0 && f.zxid == zxid.wire()), "{got:?}");
}

#[test]
fn r6_whoever_has_seen_more_is_not_served() {
    let mut w = World::new();
    w.other_now(Op::Create, "/a", b"0");
    let c = w.accept();
    w.input(c, &connect_frame(2, 0));
    assert_eq!((w.closes(), w.received(c).len(), w.link.ring.len()), (vec![c], 0, 0));
    let d = w.accept();
    w.input(d, &connect_frame(1, 0));
    assert!(matches!(w.link.ring.pop_front(), Some(ToCore::Connect(_))));
}

#[test]
fn events_are_dropped_for_those_who_may_not_read() {
    let mut w = World::new();
    let secret = [Acl { perms: perm::ALL, id: Id::new("digest", &engine::acl::digest_id("u:p")) }];
    w.create_with("/s", b"x", &secret);
    let (c, d) = (w.connect(), w.connect());
    let auth = frame(-4, Op::Auth.wire(), |out| {
        out.put_int(0);
        out.put_string("digest");
        out.put_buffer(Some(b"u:p"));
    });
    w.input(d, &auth);
    assert_eq!(w.frames(d), [Frame { xid: -4, zxid: 0, err: 0, body: vec![] }]);
    for conn in [c, d] {
        // addWatch asks for no permission.
        let add = |xid, mode, path: &str| {
            frame(xid, Op::AddWatch.wire(), |out| PathKind { path: path.into(), kind: mode }.encode(out))
        };
        w.input(conn, &[add(1, 0, "/s"), add(2, 1, "/"), get(3, "/s", false)].concat());
    }
    assert_eq!(w.frames(c).iter().map(|f| f.err).collect::<Vec<_>>(), [0, 0, -102]);
    assert_eq!(w.frames(d)[2].text(), "x");
    w.other_now(Op::SetData, "/s", b"y");
    w.other_now(Op::Create, "/s/below", b"");
    assert_eq!(
        w.frames(c).iter().map(Frame::event).collect::<Vec<_>>(),
        [(1, "/s/below".to_owned())],
        "the child itself may be read; /s and its list of children may not"
    );
    assert_eq!(
        w.frames(d).iter().map(Frame::event).collect::<Vec<_>>(),
        [(3, "/s".to_owned()), (1, "/s/below".to_owned()), (4, "/s".to_owned())]
    );
}

#[test]
fn controls_without_a_zxid_are_answered_at_the_present_horizon() {
    let mut w = World::new();
    let c = w.connect();
    w.input(c, &frame(5, Op::GetEphemerals.wire(), |out| out.put_string("/")));
    let Some(ToCore::Request(r)) = w.link.ring.pop_front() else { panic!() };
    let body = w.batch.put(|out| out.put_int(0));
    let act = Act::Reply { err: engine::error::Code::OK, body };
    w.batch.steps.push(Step { zxid: None, changes: Span::default(), target: Target::Conn(r.conn, act) });
    w.publish();
    assert_eq!(w.frames(c), [Frame { xid: 5, zxid: 1, err: 0, body: vec![0; 4] }]);
}

#[test]
fn a_void_generation_changes_nothing() {
    let mut w = World::new();
    let c = w.connect();
    w.batch.steps.push(Step {
        zxid: None,
        changes: Span::default(),
        target: Target::All(Act::CloseAll { generation: 3 }),
    });
    w.publish();
    assert_eq!(w.closes(), [c]);
    assert!(w.shard.accept(World::peer(1), w.now).is_none(), "nobody new before the old ones are gone");
    w.shard.closed(c, &mut w.link);
    assert!(matches!(w.link.reserved.pop_front(), Some(ToCore::Gone { conn, .. }) if conn == c));
    assert!(matches!(w.link.reserved.pop_front(), Some(ToCore::Drained { generation: 3, .. })));
    let before = w.shard.horizon();
    let zxid = w.next_zxid();
    w.batch.steps.push(step(zxid, Target::None));
    w.publish();
    assert_eq!(w.shard.horizon(), before);
    w.batch.generation = 3;
    w.batch.steps.push(step(zxid, Target::None));
    w.publish();
    assert_eq!(w.shard.horizon(), zxid);
}
