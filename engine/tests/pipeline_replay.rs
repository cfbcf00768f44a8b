//! The write pipeline against itself: however many transactions are in flight, the same requests must give the same
//! transactions, byte for byte; and replaying those must give the digest that prep predicted for each of them.
//!
//! The pipeline that applies every transaction at once never looks at its overlay: it is the dull model of the one
//! that runs far ahead. `PIPELINE_SEED=n` replays one seed.

use engine::ids::{SessionId, Zxid};
use engine::limits::Limits;
use engine::pipeline::{Ask, Database, Notice, Origin, Prep};
use engine::proto::{
    Acl, CreateRequest, Encode, Id, MultiHeader, Op, PathVersion, SetAclRequest, SetDataRequest, perm,
};
use engine::time::WallMs;
use engine::tree;
use engine::txn::Txn;
use std::borrow::Cow;
use std::sync::Arc;

/// A small generator (splitmix64): the whole run follows from its seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// One request, ready to be asked any number of times.
#[derive(Clone, Debug)]
struct Step {
    session: SessionId,
    op: Op,
    body: Vec<u8>,
    ids: Vec<Id>,
}

fn path(rng: &mut Rng) -> String {
    let names = ["a", "b", "c", "zookeeper/q", "a/x", "a/y", "b/x", "a/x/deep", "c/"];
    match rng.below(20) {
        0 => "/zookeeper/quota/a".to_owned(),
        1 => "/zookeeper/quota/a/zookeeper_limits".to_owned(),
        2 => "/zookeeper/quota/a/zookeeper_stats".to_owned(),
        3 => ["/", "", "x", "//", "/zookeeper", "/a/\u{1}"][rng.below(6) as usize].to_owned(),
        _ => format!("/{}", names[rng.below(names.len() as u64) as usize]),
    }
}

fn data(rng: &mut Rng) -> Option<Vec<u8>> {
    match rng.below(6) {
        0 => None,
        1 => Some(b"count=3,bytes=40=;byteHardLimit=60;countHardLimit=4".to_vec()),
        n => Some(vec![n as u8; rng.below(30) as usize]),
    }
}

fn acl(rng: &mut Rng) -> Vec<Acl> {
    match rng.below(8) {
        0 => vec![],
        1 => vec![Acl { perms: perm::ALL, id: Id::new("auth", "") }],
        2 => vec![Acl { perms: perm::READ, id: Id::new("world", "anyone") }],
        3 => vec![Acl { perms: perm::ALL, id: Id::new("digest", "u:x") }, Acl::open()],
        _ => vec![Acl::open()],
    }
}

fn single(rng: &mut Rng, multi: bool) -> (Op, Vec<u8>) {
    let mut out = Vec::new();
    let path: Cow<'_, str> = path(rng).into();
    let version = if rng.one_in(4) { rng.below(3) as i32 } else { -1 };
    let op = match rng.below(if multi { 11 } else { 12 }) {
        0..=4 => {
            let op = [Op::Create, Op::Create2, Op::CreateContainer, Op::CreateTtl][rng.below(4) as usize];
            let flags = if op == Op::CreateTtl { 5 } else { [0, 0, 1, 2, 3, 4, 9][rng.below(7) as usize] };
            let ttl = (op == Op::CreateTtl).then(|| rng.below(3) as i64 * 100);
            CreateRequest { path, data: data(rng).as_deref(), acl: acl(rng), flags, ttl }.encode(&mut out);
            op
        }
        5 | 6 => {
            PathVersion { path, version }.encode(&mut out);
            Op::Delete
        }
        7..=9 => {
            SetDataRequest { path, data: data(rng).as_deref(), version }.encode(&mut out);
            Op::SetData
        }
        10 => {
            PathVersion { path, version }.encode(&mut out);
            Op::Check
        }
        _ => {
            SetAclRequest { path, acl: acl(rng), version }.encode(&mut out);
            Op::SetAcl
        }
    };
    (op, out)
}

fn step(rng: &mut Rng) -> Step {
    let session = SessionId(0x0100_0000_0000_0000 + rng.below(3) as i64);
    let ids = if rng.one_in(2) { vec![Id::new("ip", "127.0.0.1"), Id::new("digest", "u:x")] } else { vec![] };
    let (op, body) = match rng.below(40) {
        0 => (Op::CreateSession, 4000i32.to_be_bytes().to_vec()),
        1 => (Op::CloseSession, vec![]),
        2 => {
            let mut out = Vec::new();
            out.put_string(&path(rng));
            (Op::DeleteContainer, out)
        }
        3 => (Op::SetData, vec![0, 0, 0, 9, 1]),
        4..=9 => {
            let mut out = Vec::new();
            for _ in 0..rng.below(5) {
                let (op, body) = single(rng, true);
                MultiHeader { op: op.wire(), done: false, err: -1 }.encode(&mut out);
                out.extend_from_slice(&body);
            }
            MultiHeader::END.encode(&mut out);
            (Op::Multi, out)
        }
        _ => single(rng, false),
    };
    Step { session, op, body, ids }
}

fn empty() -> Database {
    Database::new(tree::new(7, 2).0)
}

fn limits() -> Limits {
    Limits { extended_types: true, enforce_quota: false, ..Limits::default() }
}

/// Proposes every step with up to `ahead` transactions in flight; gives all transactions and the last digest.
fn run(steps: &[Step], ahead: usize) -> (Vec<Arc<[u8]>>, u64, Database) {
    let limits = limits();
    let mut db = empty();
    let mut prep = Prep::new(&db, &limits);
    let mut all: Vec<Arc<[u8]>> = Vec::new();
    let mut applied = 0;
    let apply = |db: &mut Database, prep: &mut Prep, bytes: &[u8]| {
        db.apply(bytes, Origin::Own, None, false).unwrap();
        prep.applied(db.last());
        db.tree.publish(db.last());
        db.tree.collect(64);
    };
    for (i, s) in steps.iter().enumerate() {
        let ask = Ask {
            session: s.session,
            cxid: i as i32,
            op: s.op,
            body: &s.body,
            ids: &s.ids,
            live: true,
            moved: false,
        };
        let p = prep.propose(&db, &limits, ask, WallMs(1_000 + i as i64));
        assert_eq!(p.zxid, Zxid(i as u64 + 1), "every request costs one zxid");
        all.push(p.bytes);
        while all.len() - applied > ahead {
            let bytes = all[applied].clone();
            apply(&mut db, &mut prep, &bytes);
            applied += 1;
        }
    }
    while applied < all.len() {
        let bytes = all[applied].clone();
        apply(&mut db, &mut prep, &bytes);
        applied += 1;
    }
    assert_eq!(prep.in_flight_paths(), 0, "what is applied has left the overlay");
    let digest = db.tree.digest();
    (all, digest, db)
}

fn check(seed: u64) {
    let mut rng = Rng(seed);
    let steps: Vec<Step> = (0..400).map(|_| step(&mut rng)).collect();
    let (dull, digest, _) = run(&steps, 0);
    for ahead in [1, 7, 1000] {
        let (far, far_digest, _) = run(&steps, ahead);
        for (i, (a, b)) in dull.iter().zip(&far).enumerate() {
            assert_eq!(a, b, "seed {seed}, {ahead} ahead, step {i}: {:?}", steps[i]);
        }
        assert_eq!(digest, far_digest, "seed {seed}");
    }
    let mut replayed = empty();
    for (i, bytes) in dull.iter().enumerate() {
        replayed.apply(bytes, Origin::Foreign, None, false).unwrap();
        let wrong: Vec<Notice> = replayed
            .take_notices()
            .into_iter()
            .filter(|n| matches!(n, Notice::DigestMismatch { .. }))
            .collect();
        assert!(wrong.is_empty(), "seed {seed}, step {i} {:?}: {wrong:?}", steps[i]);
    }
    assert_eq!(replayed.tree.digest(), digest, "seed {seed}");
    // Applying what is applied already changes nothing that shows in the digest of nodes that still exist.
    assert_eq!(replayed.tree.compute_digest(), digest, "seed {seed}: kept up to date or computed afresh");
}

#[test]
fn any_depth_gives_the_same_transactions_and_the_predicted_digests() {
    if let Ok(seed) = std::env::var("PIPELINE_SEED") {
        return check(seed.parse().expect("PIPELINE_SEED is a number"));
    }
    for seed in 0..150 {
        check(seed);
    }
}

/// Everything that a database holds, for comparing.
fn contents(db: &Database) -> Vec<String> {
    let view = db.tree.latest();
    let mut lines = Vec::new();
    let mut at = vec!["/".to_owned()];
    while let Some(p) = at.pop() {
        let node = view.get(&p).expect("its parent lists it");
        // Steps write anything into statistics; counting again does away with it.
        let data = node.data().filter(|_| !p.ends_with("_stats"));
        lines.push(format!("{p} {data:?} {:?} {:?}", node.stat_persisted(), node.acl()));
        at.extend(node.children().map(|c| format!("{}/{c}", p.trim_end_matches('/'))));
    }
    lines.extend(db.sessions().iter().map(|s| format!("{s:?}")));
    lines.sort_unstable();
    lines
}

/// A snapshot as ZooKeeper writes it: the sessions of the beginning, then node by node, while the transactions of
/// `all[from..]` go on. Gives what a learner makes of it, and how many transactions were done at its end.
fn fuzzy(all: &[Arc<[u8]>], from: usize, rng: &mut Rng) -> (Database, usize) {
    let mut leader = empty();
    let mut done = 0;
    let mut go_on = |leader: &mut Database, upto: usize| {
        while done < upto.min(all.len()) {
            leader.apply(&all[done], Origin::Foreign, None, false).unwrap();
            done += 1;
        }
        done
    };
    go_on(&mut leader, from);
    let sessions = leader.sessions().clone();
    let mut learner = Database::new(tree::new_bare(7, 2).0);
    let mut at = vec!["/".to_owned()];
    let mut end = from;
    while let Some(p) = at.pop() {
        let view = leader.tree.latest();
        if let Some(node) = view.get(&p) {
            learner
                .load_node(&p, node.data(), node.acl(), &node.stat_persisted())
                .expect("its parent came first");
            at.extend(node.children().map(|c| format!("{}/{c}", p.trim_end_matches('/'))));
        }
        end = go_on(&mut leader, end + rng.below(9) as usize);
    }
    learner.loaded(Zxid(from as u64), sessions);
    (learner, end)
}

/// What was found to differ.
fn differences(db: &mut Database) -> usize {
    db.take_notices().iter().filter(|n| matches!(n, Notice::DigestMismatch { .. })).count()
}

#[test]
fn a_snapshot_written_meanwhile_is_caught_up_with_and_compared_from_there() {
    let mut fuzzy_ones = 0;
    for seed in 0..60 {
        let mut rng = Rng(seed);
        let steps: Vec<Step> = (0..400).map(|_| step(&mut rng)).collect();
        let (all, digest, truth) = run(&steps, 0);
        let from = 100 + rng.below(200) as usize;
        let (mut learner, end) = fuzzy(&all, from, &mut rng);
        learner.set_fuzzy();
        let (mut trusting, again) = fuzzy(&all, from, &mut Rng(rng.next()));
        for (i, bytes) in all.iter().enumerate().skip(from) {
            if i == end {
                learner.set_whole_at(Zxid(end as u64));
                assert!(learner.is_whole());
            }
            learner.apply(bytes, Origin::Foreign, None, false).unwrap();
            assert_eq!(differences(&mut learner), 0, "seed {seed}, snapshot from {from} to {end}, step {i}");
            trusting.apply(bytes, Origin::Foreign, None, false).unwrap();
            let differs = differences(&mut trusting);
            assert!(differs == 0 || i < again, "seed {seed}, snapshot from {from} to {again}, step {i}");
            fuzzy_ones += differs;
        }
        assert_eq!(learner.tree.digest(), digest, "seed {seed}");
        assert_eq!(contents(&learner), contents(&truth), "seed {seed}");
    }
    assert!(fuzzy_ones > 100, "{fuzzy_ones}: no snapshot met a write, and nothing was shown");
}

#[test]
fn what_a_snapshot_written_meanwhile_counted_twice_is_counted_again() {
    counts_again(true);
    counts_again(false);
}

fn counts_again(bound_is_known_before: bool) {
    let limits = limits();
    let (mut leader, mut all) = (empty(), Vec::<Arc<[u8]>>::new());
    let mut prep = Prep::new(&leader, &limits);
    let nodes = ["/a", "/zookeeper/quota/a", "/zookeeper/quota/a/zookeeper_limits"];
    for path in nodes.into_iter().chain(["/zookeeper/quota/a/zookeeper_stats", "/a/x", "/a/y", "/b"]) {
        let mut body = Vec::new();
        let (data, acl) = (Some(&b"four"[..]), vec![Acl::open()]);
        CreateRequest { path: path.into(), data, acl, flags: 0, ttl: None }.encode(&mut body);
        let session = SessionId(1);
        let ask = Ask { session, cxid: 0, op: Op::Create, body: &body, ids: &[], live: true, moved: false };
        all.push(prep.propose(&leader, &limits, ask, WallMs(1)).bytes);
        leader.apply(&all[all.len() - 1], Origin::Own, None, false).unwrap();
        prep.applied(leader.last());
    }
    let stats = |db: &Database| {
        let view = db.tree.latest();
        view.get("/zookeeper/quota/a/zookeeper_stats").and_then(|n| n.data().map(<[u8]>::to_vec))
    };
    assert!(stats(&leader).is_some_and(|s| s.starts_with(b"count=3,bytes=12")));
    // All nodes were written when the last transaction was done, the sessions and the zxid behind the fourth.
    let mut learner = Database::new(tree::new_bare(7, 2).0);
    let mut at = vec!["/".to_owned()];
    while let Some(p) = at.pop() {
        let view = leader.tree.latest();
        let node = view.get(&p).unwrap();
        learner.load_node(&p, node.data(), node.acl(), &node.stat_persisted()).unwrap();
        at.extend(node.children().map(|c| format!("{}/{c}", p.trim_end_matches('/'))));
    }
    learner.loaded(Zxid(3), Default::default());
    learner.set_fuzzy();
    for (i, bytes) in all.iter().enumerate().skip(3) {
        if bound_is_known_before && i == 5 {
            learner.set_whole_at(leader.last());
        }
        learner.apply(bytes, Origin::Foreign, None, false).unwrap();
    }
    learner.set_whole_at(leader.last());
    assert_eq!((stats(&learner), learner.tree.digest()), (stats(&leader), leader.tree.digest()));
}

#[test]
fn a_tree_that_is_wrong_is_told_of_once_it_should_be_whole() {
    let mut rng = Rng(3);
    let steps: Vec<Step> = (0..200).map(|_| step(&mut rng)).collect();
    let (all, ..) = run(&steps, 0);
    let (mut db, end) = fuzzy(&all, 100, &mut Rng(5));
    db.tree.create(Zxid(100), "/nobody-made-this", None, &[Acl::open()], 0, 0, None).unwrap();
    db.set_fuzzy();
    for (i, bytes) in all.iter().enumerate().skip(100) {
        if i == 101 {
            db.set_whole_at(Zxid(end as u64));
        }
        db.apply(bytes, Origin::Foreign, None, false).unwrap();
        let due = i + 1 >= end && Txn::decode(bytes).unwrap().digest.is_some();
        assert_eq!(differences(&mut db), usize::from(due), "step {i}, whole at {end}");
    }
}
