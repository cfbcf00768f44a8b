//! Records of the client port, with fields in wire order (fact sheet 2.1-2.5).

use super::{Decoded, Decoder, Encode, Malformed};
use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use std::borrow::Cow;

macro_rules! ops {
    ($($(#[$doc:meta])* $name:ident = $n:literal $lop:literal;)*) => {
        /// An opcode of the client protocol. Unknown numbers have no value here.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(i32)]
        pub enum Op { $($(#[$doc])* $name = $n,)* }
        impl Op {
            /// The opcode with this number, if clients may know it.
            pub const fn from_wire(n: i32) -> Option<Op> {
                match n { $($n => Some(Op::$name),)* _ => None }
            }
            /// The number on the wire.
            pub const fn wire(self) -> i32 { self as i32 }
            /// The short name that `cons` prints as `lop` (fact sheet section 4).
            pub const fn lop(self) -> &'static str {
                match self { $(Op::$name => $lop,)* }
            }
        }
    };
}

ops! {
    Create = 1 "CREA";
    Delete = 2 "DELE";
    Exists = 3 "EXIS";
    GetData = 4 "GETD";
    SetData = 5 "SETD";
    GetAcl = 6 "GETA";
    SetAcl = 7 "SETA";
    GetChildren = 8 "GETC";
    Sync = 9 "SYNC";
    Ping = 11 "PING";
    GetChildren2 = 12 "GETC";
    Check = 13 "CHEC";
    Multi = 14 "MULT";
    Create2 = 15 "CREA";
    Reconfig = 16 "RECO";
    CheckWatches = 17 "CHKW";
    RemoveWatches = 18 "REMW";
    CreateContainer = 19 "CREA";
    DeleteContainer = 20 "DELE";
    CreateTtl = 21 "CREA";
    MultiRead = 22 "MLTR";
    Auth = 100 "NA";
    SetWatches = 101 "SETW";
    Sasl = 102 "NA";
    GetEphemerals = 103 "GETE";
    GetAllChildrenNumber = 104 "GETACN";
    SetWatches2 = 105 "STW2";
    AddWatch = 106 "ADDW";
    WhoAmI = 107 "HOMI";
    CreateSession = -10 "SESS";
    CloseSession = -11 "CLOS";
    /// Transactions only.
    Error = -1 "NA";
}

/// xids with a meaning of their own (fact sheet 2.2).
pub mod xid {
    pub const WATCH_EVENT: i32 = -1;
    pub const PING: i32 = -2;
    pub const AUTH: i32 = -4;
    pub const SET_WATCHES: i32 = -8;
}

/// Permission bits of an ACL entry.
pub mod perm {
    pub const READ: i32 = 1;
    pub const WRITE: i32 = 2;
    pub const CREATE: i32 = 4;
    pub const DELETE: i32 = 8;
    pub const ADMIN: i32 = 16;
    pub const ALL: i32 = 31;
}

/// What happened, in a watch event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum EventKind {
    NodeCreated = 1,
    NodeDeleted = 2,
    NodeDataChanged = 3,
    NodeChildrenChanged = 4,
}

/// An identity: of a connection, or of an ACL entry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Id {
    pub scheme: Box<str>,
    pub id: Box<str>,
}

impl Id {
    pub fn new(scheme: &str, id: &str) -> Id {
        Id { scheme: scheme.into(), id: id.into() }
    }
}

/// One entry of an access control list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Acl {
    pub perms: i32,
    pub id: Id,
}

impl Acl {
    /// world:anyone with every permission.
    pub fn open() -> Acl {
        Acl { perms: perm::ALL, id: Id::new("world", "anyone") }
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.perms);
        out.put_string(&self.id.scheme);
        out.put_string(&self.id.id);
    }
    /// Null strings read as empty: such an entry names no valid identity and is refused by the ACL fix-up.
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Acl> {
        let perms = d.int()?;
        let scheme = d.string()?.unwrap_or_default().into_owned().into_boxed_str();
        let id = d.string()?.unwrap_or_default().into_owned().into_boxed_str();
        Ok(Acl { perms, id: Id { scheme, id } })
    }
}

/// Appends a vector of ACL entries.
pub fn put_acls(out: &mut Vec<u8>, acls: &[Acl]) {
    out.put_len(acls.len());
    for a in acls {
        a.encode(out);
    }
}

/// A vector of ACL entries; null is an empty one.
pub fn get_acls(d: &mut Decoder<'_>) -> Decoded<Vec<Acl>> {
    let n = d.count(12)?;
    (0..n).map(|_| Acl::decode(d)).collect()
}

/// A znode's status as clients see it (68 bytes; fact sheet 2.5 and 3.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stat {
    pub czxid: Zxid,
    pub mzxid: Zxid,
    /// Milliseconds since 1970.
    pub ctime: i64,
    /// Milliseconds since 1970.
    pub mtime: i64,
    pub version: i32,
    /// As shown: `2 * stored - num_children`.
    pub cversion: i32,
    pub aversion: i32,
    /// The session of an ephemeral; 0 for every other kind.
    pub ephemeral_owner: i64,
    pub data_length: i32,
    pub num_children: i32,
    pub pzxid: Zxid,
}

impl Stat {
    /// Length on the wire.
    pub const BYTES: usize = 68;

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; Self::BYTES];
        b[0..8].copy_from_slice(&self.czxid.wire().to_be_bytes());
        b[8..16].copy_from_slice(&self.mzxid.wire().to_be_bytes());
        b[16..24].copy_from_slice(&self.ctime.to_be_bytes());
        b[24..32].copy_from_slice(&self.mtime.to_be_bytes());
        b[32..36].copy_from_slice(&self.version.to_be_bytes());
        b[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        b[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        b[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        b[52..56].copy_from_slice(&self.data_length.to_be_bytes());
        b[56..60].copy_from_slice(&self.num_children.to_be_bytes());
        b[60..68].copy_from_slice(&self.pzxid.wire().to_be_bytes());
        out.put_bytes(&b);
    }
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Stat> {
        Ok(Stat {
            czxid: Zxid::from_wire(d.long()?),
            mzxid: Zxid::from_wire(d.long()?),
            ctime: d.long()?,
            mtime: d.long()?,
            version: d.int()?,
            cversion: d.int()?,
            aversion: d.int()?,
            ephemeral_owner: d.long()?,
            data_length: d.int()?,
            num_children: d.int()?,
            pzxid: Zxid::from_wire(d.long()?),
        })
    }
}

/// A create request of any family; `ttl` is present only in opcode 21.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateRequest<'a> {
    pub path: Cow<'a, str>,
    pub data: Option<&'a [u8]>,
    pub acl: Vec<Acl>,
    pub flags: i32,
    pub ttl: Option<i64>,
}

impl<'a> CreateRequest<'a> {
    pub fn decode(op: Op, d: &mut Decoder<'a>) -> Decoded<Self> {
        let path = d.string_not_null()?;
        let data = d.buffer()?;
        let acl = get_acls(d)?;
        let flags = d.int()?;
        let ttl = if op == Op::CreateTtl { Some(d.long()?) } else { None };
        Ok(CreateRequest { path, data, acl, flags, ttl })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_buffer(self.data);
        put_acls(out, &self.acl);
        out.put_int(self.flags);
        if let Some(ttl) = self.ttl {
            out.put_long(ttl);
        }
    }
}

/// delete and check: a path and the version it must have (-1: any).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathVersion<'a> {
    pub path: Cow<'a, str>,
    pub version: i32,
}

impl<'a> PathVersion<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(PathVersion { path: d.string_not_null()?, version: d.int()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_int(self.version);
    }
}

/// exists, getData, getChildren, getChildren2: a path and whether to watch it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathWatch<'a> {
    pub path: Cow<'a, str>,
    pub watch: bool,
}

impl<'a> PathWatch<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(PathWatch { path: d.string_not_null()?, watch: d.bool()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_bool(self.watch);
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetDataRequest<'a> {
    pub path: Cow<'a, str>,
    pub data: Option<&'a [u8]>,
    pub version: i32,
}

impl<'a> SetDataRequest<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(SetDataRequest { path: d.string_not_null()?, data: d.buffer()?, version: d.int()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_buffer(self.data);
        out.put_int(self.version);
    }
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SetAclRequest<'a> {
    pub path: Cow<'a, str>,
    pub acl: Vec<Acl>,
    /// Compared with `aversion`.
    pub version: i32,
}

impl<'a> SetAclRequest<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(SetAclRequest { path: d.string_not_null()?, acl: get_acls(d)?, version: d.int()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        put_acls(out, &self.acl);
        out.put_int(self.version);
    }
}

/// checkWatches, removeWatches (`kind` = watcher type) and addWatch (`kind` = mode).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PathKind<'a> {
    pub path: Cow<'a, str>,
    pub kind: i32,
}

impl<'a> PathKind<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(PathKind { path: d.string_not_null()?, kind: d.int()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_string(&self.path);
        out.put_int(self.kind);
    }
}

/// reconfig: either a change of members, or the whole list of them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReconfigRequest<'a> {
    pub joining: Option<Cow<'a, str>>,
    pub leaving: Option<Cow<'a, str>>,
    pub members: Option<Cow<'a, str>>,
    /// The version that the configuration must have now; -1: any.
    pub version: i64,
}

impl<'a> ReconfigRequest<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(ReconfigRequest {
            joining: d.string()?,
            leaving: d.string()?,
            members: d.string()?,
            version: d.long()?,
        })
    }
}

/// setWatches and setWatches2.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SetWatches<'a> {
    pub relative_zxid: Zxid,
    pub data: Vec<Cow<'a, str>>,
    pub exist: Vec<Cow<'a, str>>,
    pub child: Vec<Cow<'a, str>>,
    /// setWatches2 only.
    pub persistent: Vec<Cow<'a, str>>,
    /// setWatches2 only.
    pub recursive: Vec<Cow<'a, str>>,
}

impl<'a> SetWatches<'a> {
    pub fn decode(op: Op, d: &mut Decoder<'a>) -> Decoded<Self> {
        let relative_zxid = Zxid::from_wire(d.long()?);
        let (data, exist, child) = (d.strings()?, d.strings()?, d.strings()?);
        let (persistent, recursive) =
            if op == Op::SetWatches2 { (d.strings()?, d.strings()?) } else { (vec![], vec![]) };
        Ok(SetWatches { relative_zxid, data, exist, child, persistent, recursive })
    }
}

/// An auth packet; the leading type word is ignored, as in ZooKeeper.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AuthPacket<'a> {
    /// Null names no scheme.
    pub scheme: Option<Cow<'a, str>>,
    /// Null proves nothing.
    pub auth: Option<&'a [u8]>,
}

impl<'a> AuthPacket<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.int()?;
        Ok(AuthPacket { scheme: d.string()?, auth: d.buffer()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_buffer(self.scheme.as_ref().map(|s| s.as_bytes()));
        out.put_buffer(self.auth);
    }
}

/// The first frame of a connection.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ConnectRequest<'a> {
    pub last_zxid_seen: Zxid,
    /// Milliseconds, as asked for; may be negative.
    pub timeout_ms: i32,
    pub session: SessionId,
    pub password: Option<&'a [u8]>,
    /// `None`: a client older than 3.4 that does not send the byte; the response then carries none either.
    pub read_only: Option<bool>,
}

impl<'a> ConnectRequest<'a> {
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        d.int()?;
        let last_zxid_seen = Zxid::from_wire(d.long()?);
        let timeout_ms = d.int()?;
        let session = SessionId(d.long()?);
        let password = d.buffer()?;
        let read_only = if d.is_empty() { None } else { Some(d.bool()?) };
        Ok(ConnectRequest { last_zxid_seen, timeout_ms, session, password, read_only })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_long(self.last_zxid_seen.wire());
        out.put_int(self.timeout_ms);
        out.put_long(self.session.0);
        out.put_buffer(self.password);
        if let Some(ro) = self.read_only {
            out.put_bool(ro);
        }
    }
}

/// The answer to it. All zero: the session is unknown, expired or the password is wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConnectResponse {
    pub timeout_ms: i32,
    pub session: SessionId,
    pub password: [u8; 16],
    /// Present iff the request had the byte.
    pub read_only: Option<bool>,
}

impl ConnectResponse {
    /// The refusal.
    pub fn refused(read_only: Option<bool>) -> ConnectResponse {
        ConnectResponse { timeout_ms: 0, session: SessionId::NONE, password: [0; 16], read_only }
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(0);
        out.put_int(self.timeout_ms);
        out.put_long(self.session.0);
        out.put_buffer(Some(&self.password));
        if let Some(ro) = self.read_only {
            out.put_bool(ro);
        }
    }
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        d.int()?;
        let timeout_ms = d.int()?;
        let session = SessionId(d.long()?);
        let password = d.buffer()?.ok_or(Malformed)?.try_into().map_err(|_| Malformed)?;
        let read_only = if d.is_empty() { None } else { Some(d.bool()?) };
        Ok(ConnectResponse { timeout_ms, session, password, read_only })
    }
}

/// The two words before every request after the first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestHeader {
    pub xid: i32,
    /// The raw opcode: it may be unknown.
    pub op: i32,
}

impl RequestHeader {
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(RequestHeader { xid: d.int()?, op: d.int()? })
    }
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.xid);
        out.put_int(self.op);
    }
}

/// The header of every reply and event (16 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyHeader {
    pub xid: i32,
    /// Signed: -1 where no transaction stands behind the reply.
    pub zxid: i64,
    pub err: Code,
}

impl ReplyHeader {
    /// Length on the wire.
    pub const BYTES: usize = 16;

    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut b = [0u8; Self::BYTES];
        b[0..4].copy_from_slice(&self.xid.to_be_bytes());
        b[4..12].copy_from_slice(&self.zxid.to_be_bytes());
        b[12..16].copy_from_slice(&self.err.0.to_be_bytes());
        out.put_bytes(&b);
    }
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(ReplyHeader { xid: d.int()?, zxid: d.long()?, err: Code(d.int()?) })
    }
}

/// What precedes each item of a multi, and ends it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiHeader {
    pub op: i32,
    pub done: bool,
    pub err: i32,
}

impl MultiHeader {
    /// The header behind the last item.
    pub const END: MultiHeader = MultiHeader { op: -1, done: true, err: -1 };

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.op);
        out.put_bool(self.done);
        out.put_int(self.err);
    }
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(MultiHeader { op: d.int()?, done: d.bool()?, err: d.int()? })
    }
}

/// A watch event's body.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct WatcherEvent<'a> {
    pub kind: i32,
    pub state: i32,
    pub path: Cow<'a, str>,
}

impl<'a> WatcherEvent<'a> {
    /// The only state a server sends.
    pub const SYNC_CONNECTED: i32 = 3;

    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.kind);
        out.put_int(self.state);
        out.put_string(&self.path);
    }
    pub fn decode(d: &mut Decoder<'a>) -> Decoded<Self> {
        Ok(WatcherEvent { kind: d.int()?, state: d.int()?, path: d.string_not_null()? })
    }
}
