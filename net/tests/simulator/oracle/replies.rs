//! Replies.
//!
//! Source: DESIGN section 4, R1 (a read shows exactly its horizon, which never goes back), R4 (it sees every earlier
//! write of its session and none of its later ones); section 8: writes linearize by zxid: one that began when a zxid had
//! been seen anywhere is behind it; a read behind a sync is not older than what was seen when the sync began.

use super::history::History;
use super::model::Model;
use crate::client::{Asked, ROOT};
use crate::say;
use crate::trace::Trace;
use engine::error::Code;
use engine::ids::{SessionId, Zxid};
use engine::proto::{Decoder, Stat};
use engine::txn::{Txn, TxnBody};
use std::collections::{BTreeMap, BTreeSet};

/// What a client asks for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    Create {
        path: String,
        ephemeral: bool,
        data: Vec<u8>,
    },
    Set {
        path: String,
        data: Vec<u8>,
    },
    Delete {
        path: String,
    },
    Multi {
        create: Option<String>,
        set: String,
        delete: Option<String>,
        data: Vec<u8>,
    },
    Get {
        path: String,
        watch: bool,
    },
    Exists {
        path: String,
        watch: bool,
    },
    Children {
        watch: bool,
    },
    Sync,
    Close,
    /// Other members.
    Reconfig {
        joining: Option<String>,
        leaving: Option<String>,
        members: Option<String>,
        version: i64,
    },
}

impl What {
    pub fn is_write(&self) -> bool {
        !matches!(self, What::Get { .. } | What::Exists { .. } | What::Children { .. } | What::Sync)
    }
}

/// A reply, with what is known of its request.
pub struct Reply<'a> {
    pub session: SessionId,
    pub asked: &'a Asked,
    pub at: Zxid,
    pub err: Code,
    pub body: &'a [u8],
    /// The newest zxid that the client had been shown before.
    pub before: Zxid,
    /// The epoch of the server that answered.
    pub epoch: u32,
}

/// See the module.
pub struct Replies {
    trace: Trace,
    pub checked: u64,
    /// Syncs answered by a server of an epoch that was over when they began.
    pub stale_syncs: u64,
    /// Answers to requests for other members, by code.
    pub reconfigs: BTreeMap<i32, u64>,
}

impl Replies {
    pub fn new(trace: Trace) -> Replies {
        Replies { trace, checked: 0, stale_syncs: 0, reconfigs: BTreeMap::new() }
    }

    pub fn check(&mut self, r: &Reply<'_>, history: &History, model: &Model) {
        self.checked += 1;
        match &r.asked.what {
            What::Get { path, .. } => get(r, path, model),
            What::Exists { path, .. } => exists(r, path, model),
            What::Children { .. } => children(r, model),
            What::Sync => self.sync(r),
            What::Reconfig { .. } => {
                *self.reconfigs.entry(r.err.0).or_default() += 1;
                write(r, history);
            }
            _ => write(r, history),
        }
    }

    fn sync(&mut self, r: &Reply<'_>) {
        if r.at >= r.asked.floor {
            return;
        }
        // A leader that does not know yet that it was replaced answers from its own past, as ZooKeeper's does.
        assert!(
            r.epoch < r.asked.epoch || r.epoch == 0,
            "a sync that began when {} had been seen shows {} (epoch {} of {})",
            r.asked.floor,
            r.at,
            r.epoch,
            r.asked.epoch
        );
        self.stale_syncs += 1;
        say!(self.trace, "a stale sync: {} below {}", r.at, r.asked.floor);
    }
}

fn same_stat(r: &Reply<'_>, path: &str, stat: &Stat, model: &Model) {
    let v =
        model.at(path, r.at).unwrap_or_else(|| panic!("R1: {path} is shown at {}, where it is not", r.at));
    let shown = (stat.version, stat.czxid, stat.mzxid, stat.ephemeral_owner, stat.data_length as usize);
    assert_eq!(shown, (v.version, v.czxid, v.mzxid, v.owner, v.data.len()), "R1: {path} at {}", r.at);
}

fn get(r: &Reply<'_>, path: &str, model: &Model) {
    match r.err {
        Code::OK => {
            let mut d = Decoder::new(r.body);
            let data = d.buffer().expect("data").unwrap_or_default();
            let stat = Stat::decode(&mut d).expect("a Stat");
            same_stat(r, path, &stat, model);
            assert_eq!(Some(data), model.at(path, r.at).map(|v| v.data.as_slice()), "R1: {path} at {}", r.at);
        }
        Code::NONODE => assert!(model.at(path, r.at).is_none(), "R1: {path} is there at {}", r.at),
        other => panic!("getData of {path}: {other:?}"),
    }
}

fn exists(r: &Reply<'_>, path: &str, model: &Model) {
    match r.err {
        Code::OK => same_stat(r, path, &Stat::decode(&mut Decoder::new(r.body)).expect("a Stat"), model),
        Code::NONODE => assert!(model.at(path, r.at).is_none(), "R1: {path} is there at {}", r.at),
        other => panic!("exists of {path}: {other:?}"),
    }
}

fn children(r: &Reply<'_>, model: &Model) {
    match r.err {
        Code::OK => {
            let names = Decoder::new(r.body).strings().expect("names");
            let names: BTreeSet<String> = names.iter().map(|n| n.to_string()).collect();
            assert_eq!(names, model.children_at(ROOT, r.at), "R1: children at {}", r.at);
        }
        Code::NONODE => assert!(model.at(ROOT, r.at).is_none(), "R1: {ROOT} is there at {}", r.at),
        other => panic!("getChildren: {other:?}"),
    }
}

fn write(r: &Reply<'_>, history: &History) {
    let (what, xid) = (&r.asked.what, r.asked.xid);
    assert!(r.at > r.before, "R4: {what:?} is answered at {}, a read before it at {}", r.at, r.before);
    assert!(r.at > r.asked.floor, "{what:?} is {}, but {} had been seen when it began", r.at, r.asked.floor);
    let bytes =
        history.get(r.at).unwrap_or_else(|| panic!("{what:?} is acknowledged as {}, which is nothing", r.at));
    let txn = Txn::decode(bytes).expect("a transaction");
    assert_eq!((txn.header.session, txn.header.cxid), (r.session, xid), "{what:?}: {} is another's", r.at);
    let code = match &txn.body {
        TxnBody::Error { code } => *code,
        TxnBody::Multi { items } => items
            .iter()
            .filter(|i| i.is_error())
            .map(|i| Code(Decoder::new(i.body).int().expect("a code")))
            .find(|c| *c != Code::OK)
            .unwrap_or(Code::OK),
        _ => Code::OK,
    };
    // A failed multi tells each part's result in its body; its header says OK.
    let multi = matches!(what, What::Multi { .. });
    assert!(r.err == code || (multi && r.err == Code::OK), "{what:?}: told {:?}, logged {code:?}", r.err);
    if let (What::Reconfig { .. }, TxnBody::SetData { data, .. }) = (what, &txn.body) {
        let told = Decoder::new(r.body).buffer().expect("the members");
        assert_eq!(told, *data, "{what:?}: other members are told than were made");
    }
}
