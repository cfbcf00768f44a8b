//! Runs of reads: parsed in passes, their nodes asked for early, answered in order at one horizon.
//!
//! A pass takes up to `PASS` requests: all are parsed and hashed, then the index lines, the nodes and the values are
//! prefetched stage by stage so that cache misses overlap, then each is answered. Nothing is allocated per read.
//! Not here: writes, and reads that must wait (`frames`).
//! Invariants: R1: everything in a run is read at the same `h`, which stands in every reply; R3: a watch is set in
//! the same step, at the same `h`, as the read that asks for it.

use super::conn::Conn;
use super::frames::{Class, Framed, HEADER_BYTES, LENGTH_BYTES, class_of, first_frame, header_of};
use crate::acl;
use crate::error::Code;
use crate::ids::Zxid;
use crate::limits::Limits;
use crate::proto::{
    Decoder, Encode, Malformed, MultiHeader, Op, PathWatch, ReplyHeader, Stat, perm, put_acls, xid,
};
use crate::tree::{NodeView, PathHash, View};
use crate::watch::{WatchKind, WatchTable};

/// Requests whose misses overlap.
const PASS: usize = 32;
/// Values up to this need no prefetch of their own.
const SMALL_VALUE_BYTES: usize = 192;
/// A segment of at most so many bytes holds a few requests at most: for those, laying out a whole pass would cost more
/// than its overlap saves.
const SHORT_BYTES: usize = 96;

/// Why a run ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// The next frame is for the core, is answered out of order, or is no frame.
    NotARead,
    /// The rest is no whole frame.
    Incomplete,
    /// Enough is unsent, or enough was served.
    Limit,
    /// The last one answered is one that ends the connection.
    Close,
}

/// What a run did.
#[derive(Debug)]
pub(super) struct Run {
    /// Bytes that are done with.
    pub used: usize,
    pub frames: usize,
    /// What they count against the budget of a turn: frames, and subtrees walked over.
    pub cost: usize,
    /// Catch-up events among what was queued (setWatches).
    pub events: u64,
    pub stop: Stop,
    /// xid and op of the last one.
    pub last: Option<(i32, Op)>,
}

/// How one request ended.
pub(super) enum Done {
    Reply,
    /// The connection ends behind this reply, or without it.
    Close,
}

/// A request of a pass.
#[derive(Clone, Copy)]
struct Parsed<'b, 'v> {
    xid: i32,
    op: Option<Op>,
    body: &'b [u8],
    /// `None`: not one of the plain reads of a path, or not well-formed: decoded when its turn comes.
    place: Option<Place<'b, 'v>>,
    watch: bool,
}

/// A path to look up, or looked up already.
#[derive(Clone, Copy)]
struct Place<'b, 'v> {
    path: &'b str,
    hash: PathHash,
    /// What is there at the run's horizon; `None`: not looked yet.
    looked: Option<Option<NodeView<'v>>>,
}

/// What reads need of the shard and of their connection.
pub(super) struct Answering<'a> {
    pub view: View<'a>,
    pub watches: &'a mut WatchTable,
    pub limits: &'a Limits,
    pub slot: u32,
    pub conn: &'a mut Conn,
    /// The view's horizon.
    pub h: Zxid,
    /// What was spent beyond one unit per frame: a walk over a subtree.
    pub walked: usize,
}

/// Nodes of a walk that count as much as one frame.
const NODES_PER_FRAME: u64 = 64;

impl<'a> Answering<'a> {
    /// Answers the reads at the head of `bytes`, at most `budget` of them and only while less than `limit` bytes are
    /// unsent.
    pub fn run(&mut self, bytes: &[u8], limit: usize, budget: usize) -> Run {
        let run = if bytes.len() <= SHORT_BYTES {
            self.run_in_passes::<2>(bytes, limit, budget)
        } else {
            self.run_in_passes::<PASS>(bytes, limit, budget)
        };
        Run { cost: run.frames + self.walked, ..run }
    }

    fn run_in_passes<const N: usize>(&mut self, bytes: &[u8], limit: usize, budget: usize) -> Run {
        let mut run = Run { used: 0, frames: 0, cost: 0, events: 0, stop: Stop::Limit, last: None };
        let nothing = Parsed { xid: 0, op: None, body: &[], place: None, watch: false };
        let mut pass = [nothing; N];
        while run.frames + self.walked < budget {
            let room = N.min(budget - run.frames - self.walked);
            let (n, stop) = self.parse(&bytes[run.used..], &mut pass[..room]);
            if n > 1 {
                self.look_up(&mut pass[..n]);
            }
            for p in &pass[..n] {
                if self.conn.unsent() >= limit || self.walked >= budget {
                    run.stop = Stop::Limit;
                    return run;
                }
                run.used += LENGTH_BYTES + HEADER_BYTES + p.body.len();
                run.frames += 1;
                run.last = Some((p.xid, p.op.unwrap_or(Op::Error)));
                if let Done::Close = self.one(p, &mut run.events) {
                    run.stop = Stop::Close;
                    return run;
                }
            }
            if let Some(stop) = stop {
                run.stop = stop;
                return run;
            }
        }
        run
    }

    /// Parses as many reads as `pass` holds; tells what stopped it before.
    fn parse<'b>(&self, bytes: &'b [u8], pass: &mut [Parsed<'b, 'a>]) -> (usize, Option<Stop>) {
        let mut rest = bytes;
        for (n, slot) in pass.iter_mut().enumerate() {
            let payload = match first_frame(rest, self.limits.jute_max_buffer) {
                Framed::Whole(p) if p.len() >= HEADER_BYTES => p,
                Framed::Needs(_) => return (n, Some(Stop::Incomplete)),
                Framed::Whole(_) | Framed::Bad => return (n, Some(Stop::NotARead)),
            };
            let (xid, op) = header_of(payload);
            if class_of(op) != Class::Read {
                return (n, Some(Stop::NotARead));
            }
            let body = &payload[HEADER_BYTES..];
            let (path, watch) = match plain_path(op, body) {
                Some((path, watch)) => (Some(path), watch),
                None => (None, false),
            };
            let hashed = |path| Place { path, hash: self.view.hash(path), looked: None };
            *slot = Parsed { xid, op, body, place: path.map(hashed), watch };
            rest = &rest[LENGTH_BYTES + payload.len()..];
        }
        (pass.len(), None)
    }

    /// Looks the pass up, stage by stage. The last stage is the lookup itself, whose misses (names, replaced versions)
    /// overlap as far as the processor looks ahead; `one` then finds everything at hand.
    fn look_up(&self, pass: &mut [Parsed<'_, 'a>]) {
        pass.iter().filter_map(|p| p.place.as_ref()).for_each(|p| self.view.prefetch(p.hash));
        pass.iter().filter_map(|p| p.place.as_ref()).for_each(|p| self.view.prefetch_node(p.hash));
        for p in pass.iter_mut().filter_map(|p| p.place.as_mut()) {
            let node = self.view.get_hashed(p.hash, p.path);
            // The lines of a small value came with the node's.
            if node.and_then(|n| n.data()).is_some_and(|d| d.len() > SMALL_VALUE_BYTES) {
                self.view.prefetch_value(p.hash);
            }
            p.looked = Some(node);
        }
    }

    fn one(&mut self, p: &Parsed<'_, 'a>, events: &mut u64) -> Done {
        let Some(op) = p.op else { return self.unimplemented(p.xid) };
        match (op, &p.place) {
            (Op::GetData, Some(at)) => self.get_data(p.xid, at, p.watch),
            (_, Some(at)) => self.plain(p.xid, op, at, p.watch),
            (_, None) => match self.decoded(p.xid, op, p.body, events) {
                Ok(done) => done,
                Err(Malformed) => self.header(p.xid, Code::MARSHALLINGERROR),
            },
        }
    }

    fn place<'b>(&self, path: &'b str) -> Place<'b, 'a> {
        Place { path, hash: self.view.hash(path), looked: None }
    }

    fn node(&self, at: &Place<'_, 'a>) -> Option<NodeView<'a>> {
        at.looked.unwrap_or_else(|| self.view.get_hashed(at.hash, at.path))
    }

    /// What `plain_path` would not take: other reads, paths that are no UTF-8, malformed bodies.
    fn decoded(&mut self, xid: i32, op: Op, body: &[u8], events: &mut u64) -> Result<Done, Malformed> {
        let mut d = Decoder::new(body);
        Ok(match op {
            Op::Exists | Op::GetData | Op::GetChildren | Op::GetChildren2 => {
                let r = PathWatch::decode(&mut d)?;
                self.plain(xid, op, &self.place(&r.path), r.watch)
            }
            Op::GetAcl | Op::GetAllChildrenNumber => {
                let path = d.string_not_null()?;
                self.plain(xid, op, &self.place(&path), false)
            }
            Op::Ping => self.header(xid::PING, Code::OK),
            Op::WhoAmI => {
                let ids = self.conn.ids.clone();
                self.reply(xid, |out| acl::who_am_i(&ids, out))
            }
            Op::MultiRead => return self.multi_read(xid, &mut d),
            Op::SetWatches | Op::SetWatches2 => return self.set_watches(xid, op, &mut d, events),
            Op::AddWatch => return self.add_watch(xid, &mut d),
            Op::CheckWatches | Op::RemoveWatches => return self.find_watch(xid, op, &mut d),
            // check alone and everything that is for servers only; writes never come here.
            _ => self.unimplemented(xid),
        })
    }

    fn plain(&mut self, xid: i32, op: Op, at: &Place<'_, 'a>, watch: bool) -> Done {
        match op {
            Op::GetData => self.get_data(xid, at, watch),
            Op::Exists => self.exists(xid, at, watch),
            Op::GetAcl => self.get_acl(xid, at),
            Op::GetAllChildrenNumber => match self.readable(at) {
                Err(code) => self.header(xid, code),
                Ok(node) => {
                    let nodes = node.count_descendants();
                    self.walked += (nodes / NODES_PER_FRAME) as usize;
                    let count = i32::try_from(nodes).unwrap_or(i32::MAX);
                    self.reply(xid, |out| out.put_int(count))
                }
            },
            _ => match self.readable(at) {
                Err(code) => self.header(xid, code),
                Ok(node) => {
                    self.watch_if(watch, WatchKind::Child, at);
                    self.reply(xid, |out| {
                        put_children(out, &node);
                        if op == Op::GetChildren2 {
                            node.stat().encode(out);
                        }
                    })
                }
            },
        }
    }

    /// The node, if it is there and its ACL lets this connection read.
    fn readable(&self, at: &Place<'_, 'a>) -> Result<NodeView<'a>, Code> {
        let node = self.node(at).ok_or(Code::NONODE)?;
        if self.may(&node, perm::READ) { Ok(node) } else { Err(Code::NOAUTH) }
    }

    fn may(&self, node: &NodeView<'_>, perms: i32) -> bool {
        node.acl_id().0 == 0 || acl::allowed(self.limits.skip_acl, &self.conn.ids, node.acl(), perms)
    }

    fn watch_if(&mut self, watch: bool, kind: WatchKind, at: &Place<'_, '_>) {
        if watch {
            self.watches.add(self.slot, kind, at.path, at.hash.0);
        }
    }

    fn get_data(&mut self, xid: i32, at: &Place<'_, 'a>, watch: bool) -> Done {
        // Written out for speed: this is the request that most servers answer most.
        let Some(node) = self.node(at) else { return self.header(xid, Code::NONODE) };
        if !self.may(&node, perm::READ) {
            return self.header(xid, Code::NOAUTH);
        }
        self.watch_if(watch, WatchKind::Data, at);
        let data = node.data();
        let bytes = data.unwrap_or_default();
        let rest = ReplyHeader::BYTES + 4 + bytes.len() + Stat::BYTES;
        let mut head = [0; LENGTH_BYTES + ReplyHeader::BYTES + 4];
        head[0..4].copy_from_slice(&(rest as i32).to_be_bytes());
        head[4..8].copy_from_slice(&xid.to_be_bytes());
        head[8..16].copy_from_slice(&self.h.wire().to_be_bytes());
        head[20..24].copy_from_slice(&data.map_or(-1, |d| d.len() as i32).to_be_bytes());
        let out = &mut self.conn.out;
        out.reserve(LENGTH_BYTES + rest);
        out.extend_from_slice(&head);
        out.extend_from_slice(bytes);
        node.stat().encode(out);
        Done::Reply
    }

    fn exists(&mut self, xid: i32, at: &Place<'_, 'a>, watch: bool) -> Done {
        if at.path.contains('\0') {
            return self.header(xid, Code::BADARGUMENTS);
        }
        let node = self.node(at);
        if node.as_ref().is_some_and(|n| !self.may(n, perm::READ)) {
            return self.header(xid, Code::NOAUTH);
        }
        // Also when there is no node: its creation is what the client waits for.
        self.watch_if(watch, WatchKind::Data, at);
        match node {
            None => self.header(xid, Code::NONODE),
            Some(n) => self.reply(xid, |out| n.stat().encode(out)),
        }
    }

    fn get_acl(&mut self, xid: i32, at: &Place<'_, 'a>) -> Done {
        let Some(node) = self.node(at) else { return self.header(xid, Code::NONODE) };
        if !self.may(&node, perm::READ | perm::ADMIN) {
            return self.header(xid, Code::NOAUTH);
        }
        let shown = acl::mask_for_reader(self.limits.skip_acl, &self.conn.ids, node.acl());
        self.reply(xid, |out| {
            put_acls(out, &shown);
            node.stat().encode(out);
        })
    }

    /// Independent reads in one frame (fact sheet 3.9). Watch flags in it are ignored.
    fn multi_read(&mut self, xid: i32, d: &mut Decoder<'_>) -> Result<Done, Malformed> {
        let start = self.conn.out.len();
        self.put_header(xid, Code::OK);
        let made = self.multi_read_items(d, start);
        if made.is_err() {
            self.conn.out.truncate(start);
        }
        Ok(match made? {
            true => self.finish(start),
            false => {
                self.conn.out.truncate(start);
                Done::Close
            }
        })
    }

    /// `false`: the results would take more than a connection may have unsent.
    fn multi_read_items(&mut self, d: &mut Decoder<'_>, start: usize) -> Result<bool, Malformed> {
        loop {
            let item = MultiHeader::decode(d)?;
            if item.done {
                MultiHeader::END.encode(&mut self.conn.out);
                return Ok(true);
            }
            let op = Op::from_wire(item.op).filter(|op| matches!(op, Op::GetData | Op::GetChildren));
            let op = op.ok_or(Malformed)?;
            let r = PathWatch::decode(d)?;
            let found = self.readable(&self.place(&r.path));
            let out = &mut self.conn.out;
            match found {
                Err(code) => {
                    MultiHeader { op: -1, done: false, err: code.0 }.encode(out);
                    out.put_int(code.0);
                }
                Ok(node) => {
                    MultiHeader { op: op.wire(), done: false, err: 0 }.encode(out);
                    if op == Op::GetData {
                        out.put_buffer(node.data());
                        node.stat().encode(out);
                    } else {
                        put_children(out, &node);
                    }
                }
            }
            if out.len() - start > self.limits.conn_hard_limit_bytes {
                return Ok(false);
            }
        }
    }

    /// Unknown opcodes, and known ones that clients may not use alone (fact sheet 2.1).
    fn unimplemented(&mut self, xid: i32) -> Done {
        let start = self.conn.out.len();
        self.conn.out.put_int(0);
        ReplyHeader { xid, zxid: -1, err: Code::UNIMPLEMENTED }.encode(&mut self.conn.out);
        self.finish(start);
        Done::Close
    }

    /// A reply without a body.
    pub fn header(&mut self, xid: i32, err: Code) -> Done {
        let mut b = [0; LENGTH_BYTES + ReplyHeader::BYTES];
        b[0..4].copy_from_slice(&(ReplyHeader::BYTES as i32).to_be_bytes());
        b[4..8].copy_from_slice(&xid.to_be_bytes());
        b[8..16].copy_from_slice(&self.h.wire().to_be_bytes());
        b[16..20].copy_from_slice(&err.0.to_be_bytes());
        self.conn.out.extend_from_slice(&b);
        Done::Reply
    }

    /// A reply with a body.
    pub fn reply(&mut self, xid: i32, body: impl FnOnce(&mut Vec<u8>)) -> Done {
        let start = self.conn.out.len();
        self.put_header(xid, Code::OK);
        body(&mut self.conn.out);
        self.finish(start)
    }

    fn put_header(&mut self, xid: i32, err: Code) {
        self.conn.out.put_int(0);
        ReplyHeader { xid, zxid: self.h.wire(), err }.encode(&mut self.conn.out);
    }

    /// Fills in the length of the frame that begins at `start`. One that no length word can hold is taken back, and
    /// the connection ends.
    fn finish(&mut self, start: usize) -> Done {
        let out = &mut self.conn.out;
        match i32::try_from(out.len() - start - LENGTH_BYTES) {
            Ok(n) => {
                out[start..start + LENGTH_BYTES].copy_from_slice(&n.to_be_bytes());
                Done::Reply
            }
            Err(_) => {
                out.truncate(start);
                Done::Close
            }
        }
    }
}

/// The path and the watch flag of a plain read, borrowed from the frame; `None` if this is not one.
#[inline]
fn plain_path(op: Option<Op>, body: &[u8]) -> Option<(&str, bool)> {
    let has_flag = match op? {
        Op::GetData | Op::Exists | Op::GetChildren | Op::GetChildren2 => true,
        Op::GetAcl | Op::GetAllChildrenNumber => false,
        _ => return None,
    };
    let (length, rest) = body.split_first_chunk::<4>()?;
    let length = usize::try_from(i32::from_be_bytes(*length)).ok()?;
    let (path, rest) = rest.split_at_checked(length)?;
    let watch = if has_flag { *rest.first()? != 0 } else { false };
    Some((std::str::from_utf8(path).ok()?, watch))
}

/// A vector of the node's children.
fn put_children(out: &mut Vec<u8>, node: &NodeView<'_>) {
    let at = out.len();
    out.put_int(0);
    let mut count = 0i32;
    for name in node.children() {
        out.put_string(name);
        count += 1;
    }
    out[at..at + 4].copy_from_slice(&count.to_be_bytes());
}
