//! The tree by example: stats, horizons, re-creation, ACLs, digest, walkers, reclamation.

use engine::ids::Zxid;
use engine::proto::{Acl, Id, perm};
use engine::tree::{self, AclId, ApplyError, Kind, StatPersisted, Writer};

fn z(n: u64) -> Zxid {
    Zxid(n)
}

fn open() -> [Acl; 1] {
    [Acl::open()]
}

fn make(w: &mut Writer, at: u64, path: &str) {
    w.create(z(at), path, Some(path.as_bytes()), &open(), 0, at as i64 * 10, None).unwrap();
}

/// Collects until nothing more comes.
fn settle(w: &mut Writer) {
    while {
        let c = w.collect(1000);
        c.freed_bytes > 0 || c.steps > 0
    } {}
}

#[test]
fn an_empty_tree_is_that_of_an_empty_server() {
    let (mut w, h) = tree::new(1, 2);
    assert_eq!(w.digest(), 0x51c6_d660);
    assert_eq!(w.compute_digest(), 0x51c6_d660);
    assert_eq!(w.node_count(), 5);
    assert_eq!(w.approximate_data_size(), 44);
    let v = w.latest();
    assert_eq!(v.root().stat(), engine::proto::Stat { num_children: 1, cversion: -1, ..Default::default() });
    let config = v.get("/zookeeper/config").unwrap();
    assert_eq!((config.stat().version, config.stat().aversion), (0, -1));
    assert_eq!(config.acl()[..], [Acl { perms: perm::READ, id: Id::new("world", "anyone") }]);
    assert_eq!(v.get("/zookeeper/quota").unwrap().acl_id(), AclId::OPEN);
    let mut names: Vec<_> = v.get("/zookeeper").unwrap().children().collect();
    names.sort_unstable();
    assert_eq!(names, ["config", "quota"]);
    assert_eq!(v.root().count_descendants(), 3);
    drop(h);
}

#[test]
fn stats_follow_the_fact_sheet() {
    let (mut w, _) = tree::new(1, 2);
    make(&mut w, 1, "/a");
    make(&mut w, 2, "/a/b");
    w.create(z(3), "/a/c", None, &open(), 77, 30, None).unwrap();
    w.delete(z(4), "/a/b").unwrap();
    w.set_data(z(5), "/a", Some(b"new"), 1, 50).unwrap();
    let s = w.latest().get("/a").unwrap().stat();
    assert_eq!((s.czxid, s.mzxid, s.pzxid), (z(1), z(5), z(4)));
    assert_eq!((s.ctime, s.mtime, s.version, s.data_length), (10, 50, 1, 3));
    assert_eq!((s.cversion, s.num_children), (3, 1), "two creations and one deletion");
    let c = w.latest().get("/a/c").unwrap();
    assert_eq!((c.data(), c.stat().data_length, c.stat().ephemeral_owner), (None, 0, 77));
    assert_eq!(c.kind(), Kind::Ephemeral);
    w.create(z(6), "/box", Some(b""), &open(), Kind::CONTAINER, 60, None).unwrap();
    let v = w.latest();
    let b = v.get("/box").unwrap();
    assert_eq!((b.stat().ephemeral_owner, b.raw_owner(), b.data()), (0, i64::MIN, Some(&b""[..])));
    assert_eq!(w.digest(), w.compute_digest());
}

#[test]
fn errors_change_only_what_a_replay_may_raise() {
    let (mut w, _) = tree::new(1, 1);
    assert_eq!(w.create(z(1), "/x/y", None, &open(), 0, 0, None), Err(ApplyError::NoParent));
    assert_eq!(w.create(z(1), "/", None, &open(), 0, 0, None), Err(ApplyError::Exists));
    assert_eq!(w.create(z(1), "x", None, &open(), 0, 0, None), Err(ApplyError::NoParent));
    make(&mut w, 2, "/a");
    assert_eq!(w.create(z(3), "/a", None, &open(), 0, 0, Some(9)), Err(ApplyError::Exists));
    let root = w.latest().root();
    assert_eq!((root.cversion_stored(), root.stat().pzxid, root.num_children()), (9, z(3), 2));
    assert_eq!(w.create(z(4), "/a", None, &open(), 0, 0, Some(5)), Err(ApplyError::Exists));
    assert_eq!((w.latest().root().cversion_stored(), w.latest().root().stat().pzxid), (9, z(3)));
    assert_eq!(w.delete(z(5), "/nope"), Err(ApplyError::NoNode));
    assert_eq!(w.latest().root().stat().pzxid, z(5));
    assert_eq!(w.delete(z(5), "/"), Err(ApplyError::NoNode));
    assert_eq!(w.set_data(z(5), "/nope", None, 1, 0), Err(ApplyError::NoNode));
    let reader = [Acl { perms: perm::READ, ..Acl::open() }];
    w.adopt_acl(z(6), "/a", &reader).unwrap();
    let a = w.latest().get("/a").unwrap();
    assert_eq!((a.acl()[..].to_vec(), a.stat().aversion), (reader.to_vec(), 0));
    assert_eq!(w.digest(), w.compute_digest());
}

#[test]
fn a_lenient_delete_takes_the_whole_subtree() {
    let (mut w, h) = tree::new(1, 1);
    for (i, p) in ["/a", "/a/b", "/a/b/c", "/a/d", "/a/b/e"].iter().enumerate() {
        make(&mut w, 1 + i as u64, p);
    }
    w.publish(z(5));
    let mut r = h.reader().unwrap();
    r.begin_turn(z(5));
    let mut below = w.delete(z(6), "/a").unwrap().below;
    below.sort();
    let gone: Vec<_> = below.iter().map(|(p, _)| p.as_str()).collect();
    assert_eq!(gone, ["/a/b", "/a/b/c", "/a/b/e", "/a/d"]);
    assert_eq!((w.node_count(), w.digest()), (5, w.compute_digest()));
    w.publish(z(6));
    settle(&mut w);
    assert_eq!(r.at(z(5)).get("/a").unwrap().count_descendants(), 4);
    assert!(w.retained_bytes() > 0);
    r.rest();
    settle(&mut w);
    assert_eq!(w.retained_bytes(), 0);
}

#[test]
fn readers_see_their_own_horizon() {
    let (mut w, h) = tree::new(7, 3);
    make(&mut w, 1, "/a");
    w.publish(z(1));
    let (mut old, mut new) = (h.reader().unwrap(), h.reader().unwrap());
    assert_eq!(old.begin_turn(z(1)), z(1));
    w.set_data(z(2), "/a", Some(b"two"), 1, 20).unwrap();
    w.delete(z(3), "/a").unwrap();
    // Within one zxid: created, deleted, created again.
    w.create(z(4), "/a", Some(b"lost"), &open(), 0, 40, None).unwrap();
    w.delete(z(4), "/a").unwrap();
    w.create(z(4), "/a", Some(b"four"), &open(), 5, 40, None).unwrap();
    w.publish(z(4));
    new.begin_turn(z(4));
    settle(&mut w);
    let data = |r: &tree::Reader, at: u64| r.at(z(at)).get("/a").map(|n| n.data().unwrap().to_vec());
    assert_eq!(data(&old, 1).unwrap(), b"/a");
    assert_eq!(data(&old, 2).unwrap(), b"two");
    assert_eq!(data(&old, 3), None);
    assert_eq!(data(&old, 4).unwrap(), b"four");
    assert_eq!(data(&new, 4).unwrap(), b"four");
    assert_eq!(old.at(z(1)).root().children().filter(|c| *c == "a").count(), 1);
    assert_eq!(old.at(z(3)).root().children().filter(|c| *c == "a").count(), 0);
    assert_eq!(old.at(z(4)).root().children().filter(|c| *c == "a").count(), 1);
    old.begin_turn(z(4));
    settle(&mut w);
    assert!(w.retained_bytes() > 0, "unlinked under both, and neither has begun a turn since");
    old.begin_turn(z(4));
    settle(&mut w);
    assert!(w.retained_bytes() > 0, "the other has not");
    new.begin_turn(z(4));
    settle(&mut w);
    assert_eq!(w.retained_bytes(), 0);
    assert_eq!(data(&old, 4).unwrap(), b"four");
}

#[test]
#[should_panic(expected = "outside of the turn")]
fn a_reader_that_woke_may_not_read_below_what_was_published() {
    let (mut w, h) = tree::new(7, 1);
    make(&mut w, 1, "/a");
    make(&mut w, 2, "/b");
    w.publish(z(2));
    let mut r = h.reader().unwrap();
    assert_eq!(r.begin_turn(z(1)), z(2));
    r.at(z(1));
}

#[test]
#[should_panic(expected = "outside of the turn")]
fn a_resting_reader_may_not_read() {
    let (_w, h) = tree::new(7, 1);
    h.reader().unwrap().at(z(1));
}

#[test]
fn slots_are_counted_and_come_back() {
    let (w, h) = tree::new(7, 2);
    let (a, _b) = (h.reader().unwrap(), h.reader().unwrap());
    assert!(h.reader().is_none() && h.walker(w.published()).is_none());
    drop(a);
    assert!(h.walker(w.published()).is_some());
    assert!(h.reader().is_some());
}

#[test]
fn unpublished_changes_are_kept_from_a_reader_that_wakes() {
    let (mut w, h) = tree::new(7, 1);
    make(&mut w, 1, "/a");
    w.publish(z(1));
    let mut r = h.reader().unwrap();
    w.set_data(z(2), "/a", Some(b"2"), 1, 0).unwrap();
    w.set_data(z(3), "/a", Some(b"3"), 2, 0).unwrap();
    w.delete(z(4), "/a").unwrap();
    settle(&mut w);
    assert!(w.retained_bytes() > 0);
    assert_eq!(r.begin_turn(z(1)), z(1));
    assert_eq!(r.at(z(1)).get("/a").unwrap().data(), Some(&b"/a"[..]));
    assert_eq!(r.at(z(2)).get("/a").unwrap().data(), Some(&b"2"[..]));
}

#[test]
fn a_walker_sees_its_zxid_while_the_tree_moves_on_and_little_is_kept_for_it() {
    let (mut w, h) = tree::new(3, 3);
    let mut at = 0;
    for i in 0..200 {
        at += 1;
        make(&mut w, at, &format!("/n{i:03}"));
    }
    w.publish(z(at));
    let s = at;
    let mut walker = h.walker(z(s)).unwrap();
    let mut seen = vec![];
    let mut kept = 0;
    while walker.slice(7, |path, node| {
        assert!(node.stat().mzxid <= z(s), "{path}");
        seen.push(path.to_owned());
        if path.starts_with("/n") {
            assert_eq!(node.data(), Some(path.as_bytes()));
        }
    }) {
        for i in 0..200 {
            at += 1;
            let path = format!("/n{i:03}");
            match (at / 200 + i) % 3 {
                0 if w.latest().get(&path).is_some() => drop(w.delete(z(at), &path).unwrap()),
                1 if w.latest().get(&path).is_none() => make(&mut w, at, &path),
                _ => drop(w.set_data(z(at), &path, Some(b"changed"), 1, 0)),
            }
            w.publish(z(at));
        }
        settle(&mut w);
        kept = kept.max(w.retained_bytes());
    }
    seen.sort();
    let mut want: Vec<_> = (0..200).map(|i| format!("/n{i:03}")).collect();
    want.extend(["/", "/zookeeper", "/zookeeper/config", "/zookeeper/quota"].map(str::to_owned));
    want.sort();
    assert_eq!(seen, want);
    // One incarnation with one version for each node, and the root's counters; not one per change.
    assert!(kept < 200 * 300, "{kept} bytes kept");
    drop(walker);
    settle(&mut w);
    assert_eq!(w.retained_bytes(), 0);
    assert_eq!(w.digest(), w.compute_digest());
}

#[test]
fn a_walker_behind_what_was_published_is_refused() {
    let (mut w, h) = tree::new(3, 1);
    make(&mut w, 1, "/a");
    make(&mut w, 2, "/b");
    w.publish(z(2));
    assert!(h.walker(z(1)).is_none());
    assert!(h.walker(z(2)).is_some());
}

#[test]
fn a_snapshot_loads_into_an_equal_tree() {
    let (mut w, h) = tree::new(3, 1);
    let digest = [Acl { perms: perm::ALL, id: Id::new("digest", "u:x") }];
    make(&mut w, 1, "/a");
    make(&mut w, 2, "/a/b");
    w.create(z(3), "/a/e", Some(b"e"), &digest, 0x1234, 30, None).unwrap();
    w.set_data(z(4), "/a/b", None, 1, 40).unwrap();
    w.set_acl(z(5), "/a", &digest, 1).unwrap();
    w.delete(z(6), "/a/e").unwrap();
    w.publish(z(6));
    let (mut copy, h2) = tree::new_bare(99, 1);
    let mut walker = h.walker(z(6)).unwrap();
    while walker.slice(2, |path, node| {
        copy.load_node(path, node.data(), node.acl(), &node.stat_persisted()).unwrap();
    }) {}
    copy.ensure_builtins();
    assert_eq!((copy.digest(), copy.compute_digest()), (w.digest(), w.digest()));
    assert_eq!(copy.node_count(), w.node_count());
    assert_eq!(copy.approximate_data_size(), w.approximate_data_size());
    assert_eq!(copy.acl_count(), w.acl_count());
    for path in ["/", "/a", "/a/b", "/zookeeper/config"] {
        let (x, y) = (copy.latest().get(path).unwrap(), w.latest().get(path).unwrap());
        assert_eq!((x.stat(), x.data(), x.acl()), (y.stat(), y.data(), y.acl()), "{path}");
    }
    let again = copy.load_node("/a", None, &open(), &StatPersisted::default());
    assert_eq!(again, Err(ApplyError::Exists));
    let orphan = copy.load_node("/q/b", None, &open(), &StatPersisted::default());
    assert_eq!(orphan, Err(ApplyError::NoParent));
    copy.publish(z(6));
    assert_eq!(h2.node_count(), copy.node_count());
}

#[test]
fn what_is_no_path_names_no_node() {
    let (mut w, _) = tree::new(3, 1);
    make(&mut w, 1, "/a");
    make(&mut w, 2, "/a/b");
    for bad in ["a", "/a/", "//a", "/a//b", "a/b", "/b", "/a/b/", "\0", "/a\0", "//", "/ab", "/a/bb", "b"] {
        assert!(w.latest().get(bad).is_none(), "{bad:?}");
    }
    for good in ["", "/", "/a", "/a/b"] {
        assert!(w.latest().get(good).is_some(), "{good:?}");
    }
    assert_eq!(w.latest().get("/a/b").unwrap().path(), "/a/b");
}

#[test]
fn an_acl_that_nobody_uses_is_forgotten() {
    let (mut w, h) = tree::new(3, 1);
    let mut at = 0;
    let before = w.acl_count();
    let mut r = h.reader().unwrap();
    for i in 0..500 {
        at += 2;
        let acl = [Acl { perms: 1, id: Id::new("digest", &format!("user{i}:x")) }];
        w.create(z(at), "/a", None, &acl, 0, 0, None).unwrap();
        w.publish(z(at));
        r.begin_turn(z(at));
        let id = r.at(z(at)).get("/a").unwrap().acl_id();
        assert!(id.0 < 10, "ids are used again");
        w.delete(z(at + 1), "/a").unwrap();
        w.publish(z(at + 1));
        settle(&mut w);
        assert_eq!(r.at(z(at)).get("/a").unwrap().acl()[..], acl);
        r.rest();
        settle(&mut w);
    }
    assert_eq!(w.acl_count(), before);
}

#[test]
fn one_hot_path_does_not_fill_the_index() {
    let (mut w, h) = tree::new(3, 1);
    let empty = w.index_bytes();
    let mut r = h.reader().unwrap();
    w.publish(z(1));
    r.begin_turn(z(1));
    for i in 0..5000 {
        make(&mut w, 2 * i + 2, "/hot");
        w.delete(z(2 * i + 3), "/hot").unwrap();
        w.publish(z(2 * i + 3));
        w.collect(100);
    }
    assert_eq!(w.index_bytes(), empty);
    assert!(r.at(z(1)).get("/hot").is_none());
    assert!(r.at(z(4000)).get("/hot").is_some());
    r.rest();
    settle(&mut w);
    assert_eq!(w.retained_bytes(), 0);
}

/// Digest, node count and approximate data size after each step, as ZooKeeper 3.8.0's own DataTree gives them for the
/// same steps.
#[test]
fn figures_are_those_of_a_real_zookeeper() {
    let (mut w, _h) = tree::new(5, 1);
    let read = [Acl { perms: perm::READ, ..Acl::open() }];
    let check = |w: &Writer, digest, nodes, bytes| {
        assert_eq!((w.digest(), w.node_count(), w.approximate_data_size()), (digest, nodes, bytes));
    };
    check(&w, 0x51c6_d660, 5, 44);
    w.create(z(1), "/a", Some(b"hello"), &open(), 0, 1000, None).unwrap();
    check(&w, 0xfa53_3dd2, 6, 51);
    w.create(z(2), "/a/b", None, &open(), 0x1234, 2000, None).unwrap();
    check(&w, 0x2_1edd_eca9, 7, 55);
    w.create(z(3), "/a/c", Some(b""), &open(), Kind::CONTAINER, 3000, Some(7)).unwrap();
    check(&w, 0x3_2b5a_90ce, 8, 59);
    w.set_data(z(4), "/a", Some(b"world!"), 1, 4000).unwrap();
    check(&w, 0x3_0e2a_842b, 8, 60);
    w.set_acl(z(4), "/a", &read, 1).unwrap();
    check(&w, 0x2_f775_786e, 8, 60);
    w.delete(z(5), "/a/b").unwrap();
    check(&w, 0x2_07db_10fc, 7, 56);
    w.create(z(6), "/zookeeper/x", Some(b"q"), &open(), 0, 6000, None).unwrap();
    check(&w, 0x1_df07_adc1, 8, 69);
}

#[test]
fn a_slice_ends_where_it_is_told_to_and_the_next_goes_on_there() {
    let (mut w, h) = tree::new(1, 2);
    for n in 0..20 {
        make(&mut w, 1 + n, &format!("/n{n}"));
    }
    w.publish(z(20));
    let paths = |most: usize| {
        let (mut walker, mut all, mut slices) = (h.walker(z(20)).unwrap(), Vec::new(), 0);
        loop {
            let mut held = 0;
            let more = walker.slice_while(10, |path, _| {
                all.push(path.to_owned());
                held += 1;
                held < most
            });
            assert!(held <= most);
            slices += 1;
            if !more {
                return (all, slices);
            }
        }
    };
    let ((each, slices), (whole, few)) = (paths(1), paths(100));
    assert_eq!(each, whole);
    assert_eq!((each.len(), slices, few), (24, 25, 3));
}
