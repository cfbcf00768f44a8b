//! Checks a write and turns it into a transaction (DESIGN section 5 step 1, fact sheet 3.6).
//!
//! Not here: what the transaction does to the tree (`apply`).
//! Invariant: the order of the checks is ZooKeeper's, since clients see which one fails first.

use super::Database;
use super::overlay::{Overlay, Rec};
use super::quota::Track;
use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use crate::limits::Limits;
use crate::proto::{
    Acl, CreateRequest, Decoder, Id, Malformed, MultiHeader, Op, PathVersion, ReconfigRequest, SetAclRequest,
    SetDataRequest, perm,
};
use crate::time::WallMs;
use crate::tree::{Kind, StatPersisted};
use crate::txn::{MultiItem, Txn, TxnBody, TxnHeader};
use crate::{acl, path};
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::Arc;

/// Paths that a closeSession lists, in bytes; beyond it lists none.
const CLOSE_PATHS_BYTES_MAX: usize = 1 << 20;
/// Scratch memory kept between transactions.
const SCRATCH_BYTES_KEPT: usize = 1 << 20;

/// A transaction may grow beyond its request (the scheme `auth` stands for every id of the connection), as far as
/// Apache's readers take it: twice `jute.maxbuffer`. The log takes no record above 256 MiB.
fn txn_bytes_max(limits: &Limits) -> usize {
    limits.jute_max_buffer.saturating_mul(2).saturating_add(64 << 10).min(200 << 20)
}

/// Longest time to live, ms.
const TTL_MAX_MS: i64 = (1 << 40) - 1;

/// A write as it reaches the pipeline.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    pub session: SessionId,
    pub cxid: i32,
    pub op: Op,
    /// The request record. For the internal kinds: createSession the timeout as jute int, deleteContainer the path
    /// as jute string.
    pub body: &'a [u8],
    pub ids: &'a [Id],
    /// Whether the session may still write.
    pub live: bool,
    /// Its session is with another server by now: the write fails, whatever it is (fact sheet 3.3).
    pub moved: bool,
}

/// A transaction ready to be logged.
#[derive(Debug)]
pub struct Proposed {
    pub zxid: Zxid,
    pub bytes: Arc<[u8]>,
}

/// Turns requests into transactions, one zxid each.
#[derive(Debug)]
pub struct Prep {
    overlay: Overlay,
    last: Zxid,
    scratch: Vec<u8>,
}

/// What a reconfiguration, the transaction with this zxid, makes of the members.
pub type Plan<'a> = dyn Fn(&ReconfigRequest<'_>, Zxid) -> Result<String, Code> + 'a;

/// What the checks of one request need.
struct Cx<'a> {
    db: &'a Database,
    limits: &'a Limits,
    ask: Ask<'a>,
    zxid: Zxid,
    time: WallMs,
    plan: &'a Plan<'a>,
}

impl Cx<'_> {
    fn check_acl(&self, rec: &Rec, wanted: i32) -> Result<(), Code> {
        if acl::allowed(self.limits.skip_acl, self.ask.ids, rec.acl(), wanted) {
            Ok(())
        } else {
            Err(Code::NOAUTH)
        }
    }
    fn check_session(&self) -> Result<(), Code> {
        if self.ask.live { Ok(()) } else { Err(Code::SESSIONEXPIRED) }
    }
}

impl From<Malformed> for Code {
    fn from(_: Malformed) -> Code {
        Code::MARSHALLINGERROR
    }
}

/// The version after `cur`: -1 is skipped, since it means "any".
fn bump(cur: i32) -> i32 {
    match cur.wrapping_add(1) {
        -1 => 0,
        v => v,
    }
}

fn check_version(cur: i32, wanted: i32) -> Result<i32, Code> {
    if wanted == -1 || wanted == cur { Ok(bump(cur)) } else { Err(Code::BADVERSION) }
}

/// An ACL as the overlay keeps it: `None` when it is the open one.
fn shared(acl: &[Acl]) -> Option<Arc<[Acl]>> {
    (acl != [Acl::open()]).then(|| acl.into())
}

impl Prep {
    /// `last` is the last zxid of the log, which `db` has applied.
    pub fn new(db: &Database, limits: &Limits) -> Prep {
        Prep { overlay: Overlay::new(limits.digest, db.tree.digest()), last: db.last(), scratch: Vec::new() }
    }

    /// The same for a leader: its first transaction is the first of its epoch.
    pub fn leading(db: &Database, limits: &Limits, epoch: u32) -> Prep {
        Prep { last: Zxid::new(epoch, 0), ..Prep::new(db, limits) }
    }

    /// The last zxid given out.
    pub fn last(&self) -> Zxid {
        self.last
    }
    /// Paths that transactions in flight change.
    pub fn in_flight_paths(&self) -> usize {
        self.overlay.len()
    }

    /// Makes the transaction for a request: what it asks for, or an error transaction. Costs one zxid either way.
    pub fn propose(&mut self, db: &Database, limits: &Limits, ask: Ask<'_>, time: WallMs) -> Proposed {
        // A lone server has nothing to reconfigure (fact sheet 3.6, 11).
        self.propose_planned(db, limits, ask, time, &|_, _| Err(Code::UNIMPLEMENTED))
    }

    /// The same in an ensemble: `plan` says what a reconfiguration makes of its members, as text.
    pub fn propose_planned(
        &mut self,
        db: &Database,
        limits: &Limits,
        ask: Ask<'_>,
        time: WallMs,
        plan: &Plan<'_>,
    ) -> Proposed {
        let zxid = self.last.next_carrying();
        self.last = zxid;
        let cx = Cx { db, limits, ask, zxid, time, plan };
        let mut bytes = std::mem::take(&mut self.scratch);
        bytes.clear();
        let header = |body: &TxnBody<'_>| {
            let (session, cxid, kind) = (ask.session, ask.cxid, body.kind());
            TxnHeader { session, cxid, zxid, time, kind }
        };
        let mut arena = Vec::new();
        let done = self.body(&cx, &mut arena).and_then(|body| {
            Txn { header: header(&body), body, digest: self.overlay.digest() }.encode(&mut bytes);
            if bytes.len() > txn_bytes_max(limits) { Err(Code::MARSHALLINGERROR) } else { Ok(()) }
        });
        match done {
            Ok(()) => self.overlay.keep(zxid),
            Err(code) => {
                self.overlay.undo();
                bytes.clear();
                let body = TxnBody::Error { code };
                Txn { header: header(&body), body, digest: None }.encode(&mut bytes);
            }
        }
        let proposed = Proposed { zxid, bytes: bytes.as_slice().into() };
        if bytes.capacity() <= SCRATCH_BYTES_KEPT {
            self.scratch = bytes;
        }
        proposed
    }

    /// Transactions up to `upto` are applied.
    pub fn applied(&mut self, upto: Zxid) {
        self.overlay.applied(upto);
    }

    fn body<'a>(&mut self, cx: &Cx<'a>, arena: &'a mut Vec<Vec<u8>>) -> Result<TxnBody<'a>, Code> {
        let mut d = Decoder::new(cx.ask.body);
        if cx.ask.moved {
            return Err(Code::SESSIONMOVED);
        }
        match cx.ask.op {
            Op::Multi => self.multi(cx, &mut d, arena),
            Op::CreateSession => Ok(TxnBody::CreateSession { timeout_ms: d.int()? }),
            Op::CloseSession => Ok(self.close_session(cx)),
            Op::DeleteContainer => self.delete_container(cx, d.string_not_null()?),
            Op::Reconfig => self.reconfig(cx, &mut d, arena),
            op => self.one(cx, op, &mut d),
        }
    }

    /// The operations that may also stand in a multi.
    fn one<'a>(&mut self, cx: &Cx<'_>, op: Op, d: &mut Decoder<'a>) -> Result<TxnBody<'a>, Code> {
        match op {
            Op::Create | Op::Create2 | Op::CreateContainer | Op::CreateTtl => {
                self.create(cx, op, CreateRequest::decode(op, d)?)
            }
            Op::Delete => self.delete(cx, PathVersion::decode(d)?),
            Op::SetData => self.set_data(cx, SetDataRequest::decode(d)?),
            Op::SetAcl => self.set_acl(cx, SetAclRequest::decode(d)?),
            Op::Check => self.check(cx, PathVersion::decode(d)?),
            _ => Err(Code::UNIMPLEMENTED),
        }
    }

    fn get(&self, cx: &Cx<'_>, path: &str) -> Result<Rec, Code> {
        self.overlay.get(cx.db, path).ok_or(Code::NONODE)
    }

    fn create<'a>(&mut self, cx: &Cx<'_>, op: Op, req: CreateRequest<'a>) -> Result<TxnBody<'a>, Code> {
        let mode = Mode::of(op, req.flags, req.ttl, cx.limits.extended_types)?;
        cx.check_session()?;
        let parent_path = path::parent_of(&req.path)?;
        let acl = acl::fix_up(cx.ask.ids, req.acl)?;
        let parent = self.get(cx, parent_path)?;
        cx.check_acl(&parent, perm::CREATE)?;
        let path: Cow<'a, str> = if mode.sequential {
            format!("{}{:010}", req.path, parent.stat.cversion).into()
        } else {
            req.path.clone()
        };
        path::validate(&path)?;
        if self.overlay.get(cx.db, &path).is_some() {
            return Err(Code::NODEEXISTS);
        }
        if Kind::of(parent.stat.ephemeral_owner) == Kind::Ephemeral {
            return Err(Code::NOCHILDRENFOREPHEMERALS);
        }
        self.check_quota(cx, &path, req.data.map_or(0, <[u8]>::len) as i64, 1)?;
        let parent_cversion = parent.stat.cversion.wrapping_add(1);
        let zxid = cx.zxid;
        self.overlay.change(cx.db, zxid, parent_path, parent, None, |p| {
            p.children += 1;
            // Both only rise: a counter that has gone round stays where it was, as in the tree.
            if parent_cversion > p.stat.cversion {
                p.stat.cversion = parent_cversion;
                p.stat.pzxid = zxid;
            }
        });
        let owner = match op {
            Op::CreateContainer => Kind::CONTAINER,
            Op::CreateTtl => Kind::ttl_owner(req.ttl.unwrap_or_default()),
            _ if mode.ephemeral => cx.ask.session.0,
            _ => 0,
        };
        let (ctime, mtime) = (cx.time.0, cx.time.0);
        let (czxid, mzxid, pzxid) = (zxid, zxid, zxid);
        let stat =
            StatPersisted { czxid, mzxid, pzxid, ctime, mtime, ephemeral_owner: owner, ..Default::default() };
        let rec = Rec { stat, children: 0, acl: shared(&acl), data_len: 0, content: None };
        self.overlay.create(cx.db, zxid, &path, rec, req.data);
        let data = req.data;
        Ok(match op {
            Op::CreateContainer => TxnBody::CreateContainer { path, data, acl, parent_cversion },
            Op::CreateTtl => {
                let ttl_ms = req.ttl.unwrap_or_default();
                TxnBody::CreateTtl { path, data, acl, parent_cversion, ttl_ms }
            }
            _ => {
                let parent_cversion = Some(parent_cversion);
                TxnBody::Create { op, path, data, acl, ephemeral: mode.ephemeral, parent_cversion }
            }
        })
    }

    /// Takes a node away and tells its parent.
    fn take_away(&mut self, cx: &Cx<'_>, path: &str, node: Rec) -> Result<(), Code> {
        let parent_path = path::parent_of(path)?;
        let parent = self.get(cx, parent_path)?;
        let zxid = cx.zxid;
        self.overlay.change(cx.db, zxid, parent_path, parent, None, |p| {
            p.children -= 1;
            p.stat.pzxid = p.stat.pzxid.max(zxid);
        });
        self.overlay.remove(cx.db, zxid, path, node);
        Ok(())
    }

    fn delete<'a>(&mut self, cx: &Cx<'_>, req: PathVersion<'a>) -> Result<TxnBody<'a>, Code> {
        cx.check_session()?;
        let parent_path = path::parent_of(&req.path)?;
        if path::is_reserved(&req.path) {
            return Err(Code::BADARGUMENTS);
        }
        let parent = self.get(cx, parent_path)?;
        cx.check_acl(&parent, perm::DELETE)?;
        let node = self.get(cx, &req.path)?;
        check_version(node.stat.version, req.version)?;
        if node.children > 0 {
            return Err(Code::NOTEMPTY);
        }
        self.take_away(cx, &req.path, node)?;
        Ok(TxnBody::Delete { op: Op::Delete, path: req.path })
    }

    fn delete_container<'a>(&mut self, cx: &Cx<'_>, path: Cow<'a, str>) -> Result<TxnBody<'a>, Code> {
        let node = self.get(cx, &path)?;
        if node.children > 0 {
            return Err(Code::NOTEMPTY);
        }
        if !matches!(Kind::of(node.stat.ephemeral_owner), Kind::Container | Kind::Ttl) {
            return Err(Code::BADVERSION);
        }
        self.take_away(cx, &path, node)?;
        Ok(TxnBody::Delete { op: Op::DeleteContainer, path })
    }

    fn set_data<'a>(&mut self, cx: &Cx<'_>, req: SetDataRequest<'a>) -> Result<TxnBody<'a>, Code> {
        cx.check_session()?;
        path::validate(&req.path)?;
        let node = self.get(cx, &req.path)?;
        cx.check_acl(&node, perm::WRITE)?;
        let grows_by = req.data.map_or(0, <[u8]>::len) as i64 - node.data_len as i64;
        self.check_quota(cx, &req.path, grows_by, 0)?;
        let version = check_version(node.stat.version, req.version)?;
        self.overlay.change(cx.db, cx.zxid, &req.path, node, Some(req.data), |n| {
            n.stat.version = version;
            n.stat.mtime = cx.time.0;
            n.stat.mzxid = cx.zxid;
        });
        Ok(TxnBody::SetData { op: Op::SetData, path: req.path, data: req.data, version })
    }

    fn set_acl<'a>(&mut self, cx: &Cx<'_>, req: SetAclRequest<'a>) -> Result<TxnBody<'a>, Code> {
        cx.check_session()?;
        path::validate(&req.path)?;
        let acl = acl::fix_up(cx.ask.ids, req.acl)?;
        let node = self.get(cx, &req.path)?;
        cx.check_acl(&node, perm::ADMIN)?;
        let version = check_version(node.stat.aversion, req.version)?;
        self.overlay.change(cx.db, cx.zxid, &req.path, node, None, |n| {
            n.stat.aversion = version;
            n.acl = shared(&acl);
        });
        Ok(TxnBody::SetAcl { path: req.path, acl, version })
    }

    fn check<'a>(&mut self, cx: &Cx<'_>, req: PathVersion<'a>) -> Result<TxnBody<'a>, Code> {
        cx.check_session()?;
        path::validate(&req.path)?;
        let node = self.get(cx, &req.path)?;
        cx.check_acl(&node, perm::READ)?;
        let version = check_version(node.stat.version, req.version)?;
        Ok(TxnBody::Check { path: req.path, version })
    }

    fn close_session<'a>(&mut self, cx: &Cx<'_>) -> TxnBody<'a> {
        let owner = cx.ask.session.0;
        let applied = cx.db.ephemerals(cx.ask.session).filter(|p| self.overlay.leaves_ephemeral(p, owner));
        let paths: BTreeSet<Arc<str>> = applied.chain(self.overlay.ephemerals_of(owner)).cloned().collect();
        for path in &paths {
            // Every one of them exists and has a parent: it is in the tree or was just proposed.
            if let Ok(node) = self.get(cx, path) {
                let gone = self.take_away(cx, path, node);
                debug_assert!(gone.is_ok());
            }
        }
        // What is not listed goes all the same, by its owner; so a long list need not make a record that no log takes.
        let bytes: usize = paths.iter().map(|p| p.len() + 4).sum();
        let listed = if bytes > CLOSE_PATHS_BYTES_MAX { BTreeSet::new() } else { paths };
        let paths = listed.iter().map(|p| Cow::Owned(p.to_string())).collect();
        TxnBody::CloseSession { paths: Some(paths) }
    }

    /// The version of the node stays -1, whatever is in it.
    fn reconfig<'a>(
        &mut self,
        cx: &Cx<'_>,
        d: &mut Decoder<'a>,
        arena: &'a mut Vec<Vec<u8>>,
    ) -> Result<TxnBody<'a>, Code> {
        const VERSION: i32 = -1;
        if !cx.limits.reconfig_enabled {
            return Err(Code::RECONFIGDISABLED);
        }
        cx.check_session()?;
        let text = (cx.plan)(&ReconfigRequest::decode(d)?, cx.zxid)?;
        let node = self.get(cx, path::CONFIG)?;
        cx.check_acl(&node, perm::WRITE)?;
        arena.push(text.into_bytes());
        let data = arena.last().map(Vec::as_slice);
        self.overlay.change(cx.db, cx.zxid, path::CONFIG, node, Some(data), |n| {
            n.stat.version = VERSION;
            n.stat.mtime = cx.time.0;
            n.stat.mzxid = cx.zxid;
        });
        Ok(TxnBody::SetData { op: Op::Reconfig, path: path::CONFIG.into(), data, version: VERSION })
    }

    /// All or nothing: a failed one is logged with the bodies before the failure and errors from there on.
    fn multi<'a>(
        &mut self,
        cx: &Cx<'a>,
        d: &mut Decoder<'a>,
        arena: &'a mut Vec<Vec<u8>>,
    ) -> Result<TxnBody<'a>, Code> {
        let ops = decode_multi(d)?;
        let mut kinds = Vec::with_capacity(ops.len());
        let mut total = 0;
        let mut failed = false;
        for (op, mut item) in ops {
            let body = if failed {
                TxnBody::Error { code: Code::RUNTIMEINCONSISTENCY }
            } else {
                self.one(cx, op, &mut item).unwrap_or_else(|code| {
                    failed = true;
                    TxnBody::Error { code }
                })
            };
            let mut bytes = Vec::new();
            body.encode(&mut bytes);
            kinds.push(body.kind());
            total += bytes.len();
            if total > txn_bytes_max(cx.limits) {
                return Err(Code::MARSHALLINGERROR);
            }
            arena.push(bytes);
        }
        if failed {
            self.overlay.undo();
        }
        let items =
            kinds.into_iter().zip(arena.iter()).map(|(kind, body)| MultiItem { kind, body }).collect();
        Ok(TxnBody::Multi { items })
    }

    /// Hard limits of the nearest quota, against the usage that is applied (as ZooKeeper: what is in flight does
    /// not count yet). What adds nothing to a sum is not held against its limit, even if that is exceeded already.
    fn check_quota(&self, cx: &Cx<'_>, path: &str, bytes: i64, count: i64) -> Result<(), Code> {
        if !cx.limits.enforce_quota {
            return Ok(());
        }
        let Some((limits, usage)) = cx.db.quota_over(path) else { return Ok(()) };
        let Track { count_hard, bytes_hard, .. } = limits;
        let over_count = count != 0 && count_hard > -1 && usage.count + count > count_hard;
        let over_bytes = bytes != 0 && bytes_hard > -1 && usage.bytes + bytes > bytes_hard;
        if over_count || over_bytes { Err(Code::QUOTAEXCEEDED) } else { Ok(()) }
    }
}

/// In a multi the flags say what a create makes; the opcode only says whether there is a ttl, and whether the reply
/// has a Stat.
fn create_in_multi(op: Op, flags: i32) -> Result<Op, Code> {
    match flags {
        4 => Ok(Op::CreateContainer),
        5 | 6 if op == Op::CreateTtl => Ok(op),
        5 | 6 => Err(Code::MARSHALLINGERROR),
        _ if matches!(op, Op::Create2 | Op::CreateContainer) => Ok(op),
        _ => Ok(Op::Create),
    }
}

fn decode_multi<'a>(d: &mut Decoder<'a>) -> Result<Vec<(Op, Decoder<'a>)>, Code> {
    let mut ops = Vec::new();
    loop {
        let header = MultiHeader::decode(d)?;
        if header.done {
            return Ok(ops);
        }
        let mut op = Op::from_wire(header.op).ok_or(Code::MARSHALLINGERROR)?;
        let item = d.clone();
        match op {
            Op::Create | Op::Create2 | Op::CreateContainer | Op::CreateTtl => {
                op = create_in_multi(op, CreateRequest::decode(op, d)?.flags)?;
            }
            Op::Delete | Op::Check => {
                PathVersion::decode(d)?;
            }
            Op::SetData => {
                SetDataRequest::decode(d)?;
            }
            _ => return Err(Code::MARSHALLINGERROR),
        }
        ops.push((op, item));
    }
}

/// Whether a request, if it succeeds, leaves its session a node. What cannot be read creates nothing.
pub fn makes_ephemeral(op: Op, body: &[u8]) -> bool {
    let ephemeral = |op, d: &mut Decoder<'_>| {
        matches!(op, Op::Create | Op::Create2)
            && CreateRequest::decode(op, d).is_ok_and(|r| matches!(r.flags, 1 | 3))
    };
    let mut d = Decoder::new(body);
    match op {
        Op::Multi => decode_multi(&mut d)
            .is_ok_and(|ops| ops.into_iter().any(|(op, mut item)| ephemeral(op, &mut item))),
        _ => ephemeral(op, &mut d),
    }
}

/// What a create's flags say.
struct Mode {
    sequential: bool,
    ephemeral: bool,
}

impl Mode {
    fn of(op: Op, flags: i32, ttl: Option<i64>, extended_types: bool) -> Result<Mode, Code> {
        let (sequential, ephemeral, is_ttl) = match flags {
            0 | 4 => (false, false, false),
            1 => (false, true, false),
            2 => (true, false, false),
            3 => (true, true, false),
            5 => (false, false, true),
            6 => (true, false, true),
            _ => return Err(Code::BADARGUMENTS),
        };
        if is_ttl && !extended_types {
            return Err(Code::UNIMPLEMENTED);
        }
        let ttl_ok = match ttl {
            Some(ms) if is_ttl => (1..=TTL_MAX_MS).contains(&ms),
            Some(_) => false,
            None => !is_ttl && op != Op::CreateTtl,
        };
        if ttl_ok { Ok(Mode { sequential, ephemeral }) } else { Err(Code::BADARGUMENTS) }
    }
}
