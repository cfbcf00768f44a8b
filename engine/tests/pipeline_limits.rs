//! No request may become a transaction that the log must refuse: one client could end the server with it, and after a
//! restart the same session would do it again.

use engine::error::Code;
use engine::ids::SessionId;
use engine::limits::Limits;
use engine::pipeline::{Ask, Database, Notice, Origin, Prep};
use engine::proto::{Acl, CreateRequest, Id, MultiHeader, Op, perm};
use engine::time::WallMs;
use engine::tree;

struct World {
    limits: Limits,
    db: Database,
    prep: Prep,
    replica: Database,
}

impl World {
    fn new() -> World {
        let limits = Limits::default();
        let db = Database::new(tree::new(1, 2).0);
        let prep = Prep::new(&db, &limits);
        World { limits, db, prep, replica: Database::new(tree::new(2, 2).0) }
    }

    /// Proposes and applies, here and on a replica that checks the digest; gives code and size.
    fn ask(&mut self, op: Op, body: &[u8], ids: &[Id]) -> (Code, usize) {
        let ask = Ask { session: SessionId(7), cxid: 1, op, body, ids, live: true, moved: false };
        let p = self.prep.propose(&self.db, &self.limits, ask, WallMs(1));
        let (applied, _) = self.db.apply(&p.bytes, Origin::Own, None, false).unwrap();
        self.prep.applied(self.db.last());
        self.replica.apply(&p.bytes, Origin::Foreign, None, false).unwrap();
        assert_eq!(self.replica.take_notices(), [] as [Notice; 0]);
        assert_eq!(self.db.tree.node_count(), self.replica.tree.node_count());
        (applied.code, p.bytes.len())
    }
}

fn create(path: &str, acl: Acl, flags: i32) -> Vec<u8> {
    let mut out = Vec::new();
    CreateRequest { path: path.into(), data: None, acl: vec![acl], flags, ttl: None }.encode(&mut out);
    out
}

#[test]
fn a_session_with_megabytes_of_ephemerals_closes_with_a_small_record_and_leaves_none() {
    let mut w = World::new();
    let long = "n".repeat(200_000);
    for i in 0..10 {
        let path = format!("/{i}{long}");
        assert_eq!(w.ask(Op::Create, &create(&path, Acl::open(), 1), &[]).0, Code::OK);
    }
    assert_eq!(w.db.ephemeral_count(), 10);
    let (code, bytes) = w.ask(Op::CloseSession, &[], &[]);
    assert_eq!(code, Code::OK);
    assert!(bytes < 1_000, "{bytes}");
    assert_eq!((w.db.ephemeral_count(), w.db.tree.node_count()), (0, 5));
    assert_eq!(w.db.tree.digest(), w.replica.tree.digest());
}

#[test]
fn a_request_that_grows_beyond_what_peers_and_log_take_is_refused_and_changes_nothing() {
    let mut w = World::new();
    let ids: Vec<Id> = (0..60).map(|i| Id::new("digest", &format!("user{i}:{}", "x".repeat(28)))).collect();
    let mut multi = Vec::new();
    for i in 0..2_000 {
        MultiHeader { op: Op::Create.wire(), done: false, err: -1 }.encode(&mut multi);
        let auth = Acl { perms: perm::ALL, id: Id::new("auth", "") };
        multi.extend_from_slice(&create(&format!("/a{i}"), auth, 0));
    }
    MultiHeader::END.encode(&mut multi);
    assert!(multi.len() < w.limits.jute_max_buffer, "a client may send this");
    let before = w.db.tree.digest();
    let (code, bytes) = w.ask(Op::Multi, &multi, &ids);
    assert_eq!(code, Code::MARSHALLINGERROR);
    assert!(bytes < 100);
    assert_eq!((w.db.tree.digest(), w.db.tree.node_count()), (before, 5));
    assert_eq!(w.prep.in_flight_paths(), 0, "nothing of it stays behind");
    assert_eq!(w.ask(Op::Create, &create("/a0", Acl::open(), 0), &[]).0, Code::OK);
}
