//! What crosses between a shard and the core: requests one way, change batches the other (DESIGN sections 2, 3).
//!
//! Not here: the rings that carry them (`net::ring`), what they mean (`shard`, `server`).
//! Invariants:
//! - every request that a shard hands to the core and that the core does not drop is answered by exactly one
//!   [`Step`] for its connection, in the order of the connection's requests;
//! - the steps of the batches, one batch after the other, are in commit order: zxids only rise;
//! - a batch is immutable once it is published.

use crate::error::Code;
use crate::ids::{Attach, ConnId, SessionId, ShardId, Zxid};
use crate::proto::{Acl, EventKind, Id};
use crate::time::MonoMs;
use crate::tree;
use std::sync::Arc;

/// Identities of a connection; shared, since every request carries the set it was read under.
pub type Ids = Arc<[Id]>;

/// From a shard to the core, in the order in which they were read per connection.
#[derive(Debug)]
pub enum ToCore {
    /// An operation that the core answers: a write, `sync`, closeSession, getEphemerals.
    Request(Request),
    /// The first frame of a connection, already checked against `H` and the limits by the shard.
    Connect(Connect),
    /// A connection ended, or had ended before it was given this session. The session lives on until it expires.
    Gone { conn: ConnId, session: SessionId, attach: Attach },
    /// Whom the shard heard from since its last report.
    Activity(Activity),
    /// A four-letter word (lower case ASCII) as the first bytes of a connection; `arg` is what followed it.
    Word { conn: ConnId, word: [u8; 4], arg: Vec<u8> },
    /// The answer to [`Act::Collect`].
    Collected { shard: ShardId, token: u64, part: Collected },
    /// The answer to [`Act::CloseAll`]: no connection and no reader of the older generation is left here.
    Drained { shard: ShardId, generation: u64 },
}

/// A request on its way into the order of writes.
#[derive(Debug)]
pub struct Request {
    pub conn: ConnId,
    pub session: SessionId,
    pub attach: Attach,
    /// The client's xid, logged as `cxid`.
    pub xid: i32,
    pub op: crate::proto::Op,
    /// The request record, without the header.
    pub body: Box<[u8]>,
    /// The identities that the connection held when the request was read.
    pub ids: Ids,
}

/// Asks for a session, new or old.
#[derive(Debug)]
pub struct Connect {
    pub conn: ConnId,
    /// Already clamped to the limits, ms.
    pub timeout_ms: i32,
    /// 0: a new one.
    pub session: SessionId,
    pub password: [u8; 16],
    /// What the client sent; `false` also when it sent no byte.
    pub read_only: bool,
}

/// A shard's report: sessions heard from, and the time up to which its sockets were drained.
#[derive(Debug)]
pub struct Activity {
    pub shard: ShardId,
    /// Sessions with the moment of their last bytes.
    pub heard: Vec<(SessionId, MonoMs)>,
    /// Everything that arrived before this has been read and is reported.
    pub drained_upto: MonoMs,
}

/// What one shard knows for a four-letter word or a metric.
#[derive(Debug, Default)]
pub struct Collected {
    pub connections: Vec<ConnStat>,
    /// (session, data-watched paths), for `wchc` and `wchp`; filled only when asked for.
    pub watches: Vec<(SessionId, Vec<String>)>,
}

/// What a shard is asked to collect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Collect {
    Connections,
    Watches,
    /// Reset the statistics of every connection (`crst`).
    ResetConnections,
    /// Reset the shard's own counters (`srst`).
    ResetServer,
}

/// One connection's statistics, as `cons` prints them. Times in ms.
#[derive(Clone, Debug)]
pub struct ConnStat {
    /// `ip:port` as the kernel gave it.
    pub peer: std::net::SocketAddr,
    /// 1 read, 4 write, 5 both, 0 neither.
    pub interest: u8,
    pub queued: u64,
    pub received: u64,
    pub sent: u64,
    /// 0 while it has none.
    pub session: SessionId,
    pub last_op: &'static str,
    /// Wall-clock ms.
    pub established_ms: i64,
    pub timeout_ms: i32,
    /// -1 before the first request.
    pub last_cxid: i32,
    pub last_zxid: i64,
    /// Wall-clock ms.
    pub last_response_ms: i64,
    pub last_latency_ms: u64,
    pub min_latency_ms: u64,
    pub avg_latency_ms: u64,
    pub max_latency_ms: u64,
}

/// A run of committed transactions and controls, published to every shard at once.
#[derive(Debug, Default)]
pub struct ChangeBatch {
    /// Raised whenever the core left a role: older batches are void (DESIGN section 6).
    pub generation: u64,
    /// In order.
    pub steps: Vec<Step>,
    /// The changes of all steps.
    pub changes: Vec<Change>,
    /// Paths and reply bodies, referred to by range.
    pub bytes: Vec<u8>,
    /// Shards (bit = shard number modulo 64) that a target or a control of this batch concerns.
    pub concerns: u64,
}

/// A range of [`ChangeBatch::bytes`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

/// One transaction, or one control between transactions.
#[derive(Debug)]
pub struct Step {
    /// The transaction's zxid: `H` becomes this. `None`: a control, at the present `H`.
    pub zxid: Option<Zxid>,
    /// Index range of [`ChangeBatch::changes`], in the order in which their events must appear.
    pub changes: Span,
    pub target: Target,
}

/// Whom a step answers, and how.
#[derive(Debug)]
pub enum Target {
    /// Nobody here waits for it.
    None,
    /// One connection.
    Conn(ConnId, Act),
    /// Every shard.
    All(Act),
}

/// What a shard does for a target.
#[derive(Debug)]
pub enum Act {
    /// Finish the connection's first unfinished request.
    Reply { err: Code, body: Span },
    /// As `Reply` with success and no body, then close the connection: closeSession.
    ReplyAndClose,
    /// The session is set up: send the ConnectResponse and read on.
    Attached { session: SessionId, attach: Attach, timeout_ms: i32, password: [u8; 16] },
    /// The session is refused: send an all-zero ConnectResponse, then close.
    Refused,
    /// Close without a word: moved, expired, or closed elsewhere. What was queued before is still sent.
    Close,
    /// The answer to a four-letter word; then close.
    Text(Span),
    /// Answer with [`ToCore::Collected`].
    Collect { token: u64, what: Collect },
    /// Close every connection; from here on the generation is this one; answer [`ToCore::Drained`].
    CloseAll { generation: u64 },
    /// A role begins: from here on this tree is read, at `h`. A client that has seen the beginning of an epoch up to
    /// `covers` has seen nothing that is not here (fact sheet 3.4: some leaders show it as a zxid). `read_only`: only
    /// clients that ask for no more are let in (fact sheet 3.15).
    Serve { tree: tree::Handle, h: Zxid, covers: Zxid, read_only: bool },
}

/// One znode's change, with what a shard needs to decide who hears of it.
#[derive(Debug)]
pub struct Change {
    /// NodeCreated, NodeDeleted or NodeDataChanged. A NodeChildrenChanged of the parent follows from the first two.
    pub kind: EventKind,
    pub path: Span,
    /// `tree::PathHash` of the path.
    pub path_hash: u64,
    /// The same of the parent's path; unused for data changes.
    pub parent_hash: u64,
    /// Who may hear of a change of the node; `None` = everyone (world:anyone may read).
    pub acl: Option<Arc<[Acl]>>,
    /// Who may hear that the parent's children changed.
    pub parent_acl: Option<Arc<[Acl]>>,
}

impl ChangeBatch {
    /// Empties it, to be filled again.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.changes.clear();
        self.bytes.clear();
        self.concerns = 0;
    }
    /// Appends bytes and tells where they are.
    pub fn put(&mut self, fill: impl FnOnce(&mut Vec<u8>)) -> Span {
        let at = |n: usize| u32::try_from(n).expect("the core closes a batch long before 4 GiB");
        let start = at(self.bytes.len());
        fill(&mut self.bytes);
        Span { start, end: at(self.bytes.len()) }
    }
    /// The bytes of a span.
    pub fn get(&self, s: Span) -> &[u8] {
        &self.bytes[s.start as usize..s.end as usize]
    }
    /// The path of a change.
    pub fn path(&self, c: &Change) -> &str {
        std::str::from_utf8(self.get(c.path)).expect("paths come from the tree and are UTF-8")
    }
    /// The changes of a step.
    pub fn changes_of(&self, s: &Step) -> &[Change] {
        &self.changes[s.changes.start as usize..s.changes.end as usize]
    }
}

/// Where a shard puts what is for the core. Bounded: a refusal gives the message back.
pub trait CoreLink {
    /// Hands over a request. Full: the shard keeps it in its receive buffer and stops reading that connection.
    fn send(&mut self, m: ToCore) -> Result<(), ToCore>;
    /// Hands over what has reserved room (Gone, Activity, Collected, Drained) and therefore always fits.
    fn send_reserved(&mut self, m: ToCore);
}
