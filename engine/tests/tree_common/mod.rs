//! A dull tree: a map from path to node, copied for every transaction. And random transactions for it.
#![allow(dead_code)] // Each test target uses its own part.

use engine::ids::Zxid;
use engine::proto::{Acl, Id, Stat};
use engine::tree::{self, ApplyError, NodeView, StatPersisted, View, Writer};
use std::collections::BTreeMap;
use std::sync::Arc;

/// A small generator of numbers: the same seed, the same run.
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(2) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
    /// 0..n.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// lo..=hi.
    pub fn within(&mut self, lo: u64, hi: u64) -> u64 {
        lo + self.below(hi - lo + 1)
    }
}

/// Prints how to run again what failed.
pub struct Tell(pub u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with seed {}: run again with TREE_SEED={}", self.0, self.0);
        }
    }
}

/// The seeds to run: 1..=n, or the one in TREE_SEED.
pub fn seeds(n: u64) -> Vec<u64> {
    match std::env::var("TREE_SEED") {
        Ok(s) => vec![s.parse().expect("TREE_SEED is a number")],
        Err(_) => (1..=n).collect(),
    }
}

#[derive(Clone, PartialEq, Debug)]
pub struct DullNode {
    pub data: Option<Vec<u8>>,
    pub acl: Vec<Acl>,
    pub stat: StatPersisted,
}

/// Path ("/" for the root) to node.
pub type DullTree = BTreeMap<String, Arc<DullNode>>;

pub fn parent_of(path: &str) -> Option<String> {
    let at = path.rfind('/')?;
    match (at, path.len()) {
        (0, 1) => None,
        (0, _) => Some("/".into()),
        _ => Some(path[..at].into()),
    }
}

pub fn empty_dull() -> DullTree {
    let node = |acl: Acl, aversion| {
        let stat = StatPersisted { aversion, ..Default::default() };
        Arc::new(DullNode { data: Some(vec![]), acl: vec![acl], stat })
    };
    let read = Acl { perms: 1, ..Acl::open() };
    BTreeMap::from([
        ("/".into(), node(Acl::open(), 0)),
        ("/zookeeper".into(), node(Acl::open(), 0)),
        ("/zookeeper/quota".into(), node(Acl::open(), 0)),
        ("/zookeeper/config".into(), node(read, -1)),
    ])
}

pub fn children_of<'t>(t: &'t DullTree, path: &str) -> Vec<&'t str> {
    let prefix = if path == "/" { "/".to_owned() } else { format!("{path}/") };
    let below = t.range(prefix.clone()..).take_while(|(p, _)| p.starts_with(&prefix));
    below.map(|(p, _)| &p[prefix.len()..]).filter(|n| !n.is_empty() && !n.contains('/')).collect()
}

pub fn stat_of(t: &DullTree, path: &str) -> Option<Stat> {
    let s = t.get(path)?.stat;
    let num_children = children_of(t, path).len() as i32;
    Some(Stat {
        czxid: s.czxid,
        mzxid: s.mzxid,
        ctime: s.ctime,
        mtime: s.mtime,
        version: s.version,
        cversion: 2 * s.cversion - num_children,
        aversion: s.aversion,
        ephemeral_owner: if s.ephemeral_owner > 0 { s.ephemeral_owner } else { 0 },
        data_length: t[path].data.as_ref().map_or(0, Vec::len) as i32,
        num_children,
        pzxid: s.pzxid,
    })
}

pub fn digest_of(t: &DullTree) -> u64 {
    t.iter()
        .fold(0u64, |sum, (p, n)| sum.wrapping_add(tree::digest::node(p, n.data.as_deref(), &n.stat).into()))
}

/// One operation of a transaction.
#[derive(Clone, Debug)]
pub enum Op {
    Create { path: String, data: Option<Vec<u8>>, acl: Vec<Acl>, owner: i64 },
    Delete { path: String },
    SetData { path: String, data: Option<Vec<u8>> },
    SetDataOnly { path: String, data: Option<Vec<u8>> },
    SetAcl { path: String, acl: Vec<Acl> },
}

/// Every path that random operations name: three levels of three names.
pub fn universe() -> Vec<String> {
    let mut all = vec![];
    let mut level = vec![String::new()];
    for _ in 0..3 {
        level = level.iter().flat_map(|p| ["a", "bb", "ccc"].map(|n| format!("{p}/{n}"))).collect();
        all.extend(level.iter().cloned());
    }
    all
}

fn random_acl(rng: &mut Rng) -> Vec<Acl> {
    match rng.below(3) {
        0 => vec![Acl { perms: 31, id: Id::new("digest", &format!("u{}:x", rng.below(6))) }],
        _ => vec![Acl::open()],
    }
}

fn random_data(rng: &mut Rng, z: u64) -> Option<Vec<u8>> {
    match rng.below(8) {
        0 => None,
        1 => Some(vec![]),
        n => Some(format!("{z}:{}", "x".repeat((n * n) as usize)).into_bytes()),
    }
}

pub fn random_op(rng: &mut Rng, paths: &[String], z: u64) -> Op {
    let path = paths[rng.below(paths.len() as u64) as usize].clone();
    match rng.below(10) {
        0..=3 => {
            let (data, acl) = (random_data(rng, z), random_acl(rng));
            let owner = [0, 0, 77, i64::MIN][rng.below(4) as usize];
            Op::Create { path, data, acl, owner }
        }
        4 | 5 => Op::Delete { path },
        6 | 7 => Op::SetData { path, data: random_data(rng, z) },
        8 => Op::SetDataOnly { path, data: random_data(rng, z) },
        _ => Op::SetAcl { path, acl: random_acl(rng) },
    }
}

/// What an operation does, said as simply as possible.
pub fn apply_dull(t: &mut DullTree, z: u64, op: &Op) -> Result<(), ApplyError> {
    let zxid = Zxid(z);
    let raise = |t: &mut DullTree, parent: &str, create: bool| {
        let Some(n) = t.get_mut(parent) else { return };
        let n = Arc::make_mut(n);
        if create {
            n.stat.cversion += 1;
            n.stat.pzxid = zxid;
        } else {
            n.stat.pzxid = n.stat.pzxid.max(zxid);
        }
    };
    match op {
        Op::Create { path, data, acl, owner } => {
            let parent = parent_of(path).unwrap();
            if !t.contains_key(&parent) {
                return Err(ApplyError::NoParent);
            }
            raise(t, &parent, true);
            if t.contains_key(path) {
                return Err(ApplyError::Exists);
            }
            let stat = StatPersisted {
                czxid: zxid,
                mzxid: zxid,
                ctime: z as i64,
                mtime: z as i64,
                pzxid: zxid,
                ephemeral_owner: *owner,
                ..Default::default()
            };
            t.insert(path.clone(), Arc::new(DullNode { data: data.clone(), acl: acl.clone(), stat }));
        }
        Op::Delete { path } => {
            raise(t, &parent_of(path).unwrap(), false);
            let below = format!("{path}/");
            t.remove(path).ok_or(ApplyError::NoNode)?;
            t.retain(|p, _| !p.starts_with(&below));
        }
        Op::SetData { path, data } => {
            let n = Arc::make_mut(t.get_mut(path).ok_or(ApplyError::NoNode)?);
            (n.stat.mzxid, n.stat.mtime, n.stat.version) = (zxid, z as i64, n.stat.version + 1);
            n.data.clone_from(data);
        }
        Op::SetDataOnly { path, data } => {
            Arc::make_mut(t.get_mut(path).ok_or(ApplyError::NoNode)?).data.clone_from(data);
        }
        Op::SetAcl { path, acl } => {
            let n = Arc::make_mut(t.get_mut(path).ok_or(ApplyError::NoNode)?);
            n.stat.aversion += 1;
            n.acl.clone_from(acl);
        }
    }
    Ok(())
}

/// The same, on the real tree.
pub fn apply_real(w: &mut Writer, z: u64, op: &Op) -> Result<(), ApplyError> {
    let zxid = Zxid(z);
    match op {
        Op::Create { path, data, acl, owner } => {
            w.create(zxid, path, data.as_deref(), acl, *owner, z as i64, None).map(drop)
        }
        Op::Delete { path } => w.delete(zxid, path).map(drop),
        Op::SetData { path, data } => {
            let version = w.latest().get(path).map_or(0, |n| n.stat().version);
            w.set_data(zxid, path, data.as_deref(), version + 1, z as i64).map(drop)
        }
        Op::SetDataOnly { path, data } => w.set_data_only(zxid, path, data.as_deref()).map(drop),
        Op::SetAcl { path, acl } => {
            let aversion = w.latest().get(path).map_or(0, |n| n.stat().aversion);
            w.set_acl(zxid, path, acl, aversion + 1).map(drop)
        }
    }
}

/// One node as the real tree shows it, against the dull one.
pub fn check_node(t: &DullTree, path: &str, real: Option<NodeView<'_>>) {
    let Some(dull) = t.get(path) else {
        assert!(real.is_none(), "{path} should not be there: {real:?}");
        return;
    };
    let real = real.unwrap_or_else(|| panic!("{path} is missing"));
    assert_eq!(real.stat(), stat_of(t, path).unwrap(), "{path}");
    assert_eq!(real.stat_persisted(), dull.stat, "{path}");
    assert_eq!(real.data(), dull.data.as_deref(), "{path}");
    assert_eq!(real.acl()[..], dull.acl, "{path}");
    assert_eq!(real.path(), path);
    let mut names: Vec<_> = real.children().collect();
    names.sort_unstable();
    assert_eq!(names, children_of(t, path), "children of {path}");
}

/// All of it.
pub fn check_all(t: &DullTree, v: View<'_>, paths: &[String]) {
    for p in paths.iter().map(String::as_str).chain(["/", "/zookeeper", "/zookeeper/config"]) {
        check_node(t, p, v.get(p));
    }
    assert_eq!(v.root().count_descendants(), t.len() as u64 - 1);
}
