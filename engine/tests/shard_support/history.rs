//! A client that knows what it was promised: every answer is checked against the history of the tree.

use super::*;
use engine::proto::MultiHeader;

pub const PATHS: [&str; 6] = ["/a", "/b", "/a/x", "/a/y", "/b/x", "/a/x/z"];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    Created = 1,
    Deleted = 2,
    Set = 3,
}

/// What happened to the tree, in order: (zxid, what, path, data).
#[derive(Default)]
pub struct History(pub Vec<(u64, Change, String, String)>);

impl History {
    pub fn data_at(&self, path: &str, zxid: u64) -> Option<&str> {
        let last = self.0.iter().rev().find(|(z, _, p, _)| *z <= zxid && p == path)?;
        (last.1 != Change::Deleted).then_some(&*last.3)
    }
    pub fn children_at(&self, path: &str, zxid: u64) -> Vec<&str> {
        let below = |p: &&&str| engine::path::parent(p) == Some(path) && self.data_at(p, zxid).is_some();
        let mut all: Vec<_> = PATHS.iter().filter(below).map(|p| p.rsplit('/').next().unwrap()).collect();
        all.sort_unstable();
        all
    }
    /// The first event after `after` that a watch of that table on `path` must bring: (zxid, kind).
    pub fn first_event(&self, child: bool, path: &str, after: u64) -> Option<(u64, i32)> {
        self.0.iter().filter(|(z, ..)| *z > after).find_map(|(z, what, p, _)| {
            let own = p == path && (!child || *what == Change::Deleted);
            let of_child = child && *what != Change::Set && engine::path::parent(p) == Some(path);
            if own {
                Some((*z, *what as i32))
            } else if of_child {
                Some((*z, 4))
            } else {
                None
            }
        })
    }
}

#[derive(Clone, Debug)]
pub enum Ask {
    Get { path: &'static str, watch: bool },
    Exists { path: &'static str, watch: bool },
    Children { path: &'static str, watch: bool },
    Write,
    Ping,
}

/// A client: what it asked, and what it has checked of the answers.
pub struct Client {
    pub conn: ConnId,
    pub asked: Vec<(i32, Ask)>,
    /// Set in the reply at that zxid: (child table, path) -> zxid.
    pub watches: BTreeMap<(bool, &'static str), u64>,
    pub answered: usize,
    pub zxid: u64,
    /// Whether it asks for multis.
    multi: bool,
}

impl Client {
    pub fn new(conn: ConnId, multi: bool) -> Client {
        Client { conn, asked: vec![], watches: BTreeMap::new(), answered: 0, zxid: 0, multi }
    }

    pub fn ask(&mut self, rng: &mut Rng) -> Vec<u8> {
        let xid = self.asked.len() as i32 + 1;
        let path = PATHS[rng.below(PATHS.len())];
        let watch = rng.below(3) == 0;
        let data = format!("{}-{xid}", self.conn.slot);
        let (ask, bytes) = match rng.below(12) {
            11 if self.multi => {
                (Ask::Write, two_sets(xid, path, PATHS[rng.below(PATHS.len())], data.as_bytes()))
            }
            0..=3 => (Ask::Get { path, watch }, get(xid, path, watch)),
            4 => (Ask::Exists { path, watch }, read(xid, Op::Exists, path, watch)),
            5 => (Ask::Children { path, watch }, read(xid, Op::GetChildren, path, watch)),
            6 => (Ask::Ping, ping()),
            7..=8 => (Ask::Write, create(xid, path, data.as_bytes())),
            9..=10 => (Ask::Write, set(xid, path, data.as_bytes())),
            _ => (Ask::Write, delete(xid, path)),
        };
        self.asked.push((xid, ask));
        bytes
    }

    /// Checks one frame against everything promised.
    pub fn check(&mut self, f: &Frame, h: &History) {
        let zxid = f.zxid as u64;
        assert!(zxid >= self.zxid, "R1, R2: {f:?} behind {}", self.zxid);
        self.zxid = zxid;
        if f.xid == -1 {
            return self.check_event(f, h);
        }
        self.nothing_missed(h, zxid);
        let (xid, ask) = self.asked[self.answered].clone();
        self.answered += 1;
        assert_eq!(f.xid, if matches!(ask, Ask::Ping) { -2 } else { xid }, "replies come in order");
        match ask {
            Ask::Get { path, watch } => match h.data_at(path, zxid) {
                None => assert_eq!(f.err, -101, "{f:?}"),
                Some(data) => {
                    assert_eq!(f.text(), data, "R1: what /{path} was at {zxid}");
                    self.watched(watch, false, path, zxid);
                }
            },
            Ask::Exists { path, watch } => {
                assert_eq!(f.err == 0, h.data_at(path, zxid).is_some(), "{f:?}");
                self.watched(watch, false, path, zxid);
            }
            Ask::Children { path, watch } => {
                assert_eq!(f.err == 0, h.data_at(path, zxid).is_some(), "{f:?}");
                if f.err == 0 {
                    let mut d = engine::proto::Decoder::new(&f.body);
                    let mut names = d.strings().unwrap();
                    names.sort_unstable();
                    assert_eq!(names, h.children_at(path, zxid));
                    self.watched(watch, true, path, zxid);
                }
            }
            Ask::Write | Ask::Ping => {}
        }
    }

    fn watched(&mut self, watch: bool, child: bool, path: &'static str, zxid: u64) {
        if watch {
            self.watches.entry((child, path)).or_insert(zxid);
        }
    }

    /// R2, R3: before anything that shows `zxid`, every event up to it has come.
    pub fn nothing_missed(&mut self, h: &History, zxid: u64) {
        for ((child, path), at) in &self.watches {
            let due = h.first_event(*child, path, *at);
            assert!(due.is_none_or(|(z, _)| z > zxid), "{path} (child: {child}) set at {at}: missed {due:?}");
        }
    }

    fn check_event(&mut self, f: &Frame, h: &History) {
        let (kind, path) = f.event();
        let tables: &[bool] = if kind == 4 { &[true] } else { &[false, true] };
        let mut matched = false;
        for child in tables {
            let key = (*child, *PATHS.iter().find(|p| **p == path).unwrap());
            if let Some(at) = self.watches.get(&key)
                && h.first_event(*child, &path, *at) == Some((f.zxid as u64, kind))
            {
                // A delete that both tables watch is told once and ends both.
                self.watches.remove(&key);
                matched = true;
            }
        }
        assert!(matched, "R3: nobody waits for {f:?}: {:?}", self.watches);
    }
}

/// A multi of two setData.
fn two_sets(xid: i32, one: &str, other: &str, data: &[u8]) -> Vec<u8> {
    frame(xid, Op::Multi.wire(), |out| {
        for path in [one, other] {
            MultiHeader { op: Op::SetData.wire(), done: false, err: -1 }.encode(out);
            SetDataRequest { path: path.into(), data: Some(data), version: -1 }.encode(out);
        }
        MultiHeader::END.encode(out);
    })
}
