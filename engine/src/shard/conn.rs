//! One connection's state, the slots that hold them, and the buffers they borrow.
//!
//! Invariants:
//! - a connection with nothing partial, nothing unsent and nothing unfinished owns no buffer;
//! - `Pending` alternates writes and runs of reads in the order in which the client sent them;
//! - a slot's generation rises when its tenant leaves, so an old `ConnId` resolves to nobody.

use crate::ids::{Attach, ConnId, SessionId, ShardId};
use crate::msg::{ConnStat, Ids};
use crate::proto::Op;
use crate::time::MonoMs;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

/// Kept frames of one connection above which no further one is read, bytes. A read frame is some 30 bytes, so this
/// is thousands of reads behind one write.
pub(super) const KEPT_BYTES_MAX: usize = 256 << 10;
/// Spare buffers that a shard keeps: how many, the largest, and all together, bytes. Buffers above some 128 KiB come
/// from the system page by page, which costs more than filling them; so those of a turn are worth keeping.
const SPARE_BUFFERS: usize = 64;
const SPARE_BYTES_MAX: usize = 2 << 20;
const SPARES_BYTES_MAX: usize = 16 << 20;

/// Where a connection stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Phase {
    /// The slot has no tenant.
    Free,
    /// Nothing understood yet: a four-letter word or a ConnectRequest is expected.
    First,
    /// The core was asked for a session or for the answer to a word.
    Waiting,
    /// A session is attached: requests are served.
    Attached,
}

/// Whether and how a connection is to end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Close {
    #[default]
    Open,
    /// When everything queued for it has been sent.
    AfterFlush,
    /// At once; what is unsent is lost.
    Now,
}

/// Why the rest of a connection's bytes waits. Decides what makes it go on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) enum Blocked {
    #[default]
    No,
    /// The session is being set up.
    Session,
    /// The request ring is full.
    Ring,
    /// Too much is kept behind unfinished writes, or too many writes are in flight: until one of its own finishes.
    Behind,
    /// Too much is unsent.
    Out,
    /// Its share of this turn is used up.
    Budget,
}

/// What `cons` shows of a connection, in the form that costs least to keep.
#[derive(Clone, Debug)]
pub(super) struct ConnCounters {
    pub received: u64,
    pub sent: u64,
    pub established_ms: i64,
    pub last_response_ms: i64,
    pub last_zxid: i64,
    pub latency_sum_ms: u64,
    pub latency_count: u64,
    pub latency_last_ms: u32,
    pub latency_min_ms: u32,
    pub latency_max_ms: u32,
    pub last_cxid: i32,
    pub last_op: Option<Op>,
}

impl ConnCounters {
    pub fn new(established_ms: i64) -> ConnCounters {
        ConnCounters {
            received: 0,
            sent: 0,
            established_ms,
            last_response_ms: 0,
            last_zxid: -1,
            latency_sum_ms: 0,
            latency_count: 0,
            latency_last_ms: 0,
            latency_min_ms: u32::MAX,
            latency_max_ms: 0,
            last_cxid: -1,
            last_op: None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Conn {
    pub generation: u32,
    pub phase: Phase,
    pub close: Close,
    pub blocked: Blocked,
    /// The ConnectRequest had the readOnly byte, so the response has it.
    pub read_only_byte: bool,
    /// closeSession was handed over: nothing that follows is looked at.
    pub ending: bool,
    /// The socket took less than was offered: the next write waits until the reactor says that it takes more.
    pub stalled: bool,
    /// In the shard's list of that name.
    pub dirty: bool,
    pub ready: bool,
    pub heard: bool,
    pub leaving: bool,
    pub touched: bool,
    /// Has kept reads, and is counted so.
    pub keeping: bool,
    /// To be closed after its last bytes, with a deadline for them.
    pub last_words: bool,
    /// What the reactor was last told about reading.
    pub reading: bool,
    pub attach: Attach,
    pub timeout_ms: i32,
    pub session: SessionId,
    pub heard_at: MonoMs,
    pub peer: SocketAddr,
    pub ids: Ids,
    /// A partial frame, or whole ones that wait for `blocked` to end.
    pub input: Vec<u8>,
    /// Bytes for the socket; those before `sent` are already there.
    pub out: Vec<u8>,
    pub sent: usize,
    pub pending: Option<Box<Pending>>,
    /// What of this connection is in the shard's sum of buffered bytes.
    pub accounted: usize,
    pub counters: ConnCounters,
}

impl Conn {
    fn vacant(nobody: &Ids) -> Conn {
        Conn {
            generation: 0,
            phase: Phase::Free,
            close: Close::Open,
            blocked: Blocked::No,
            read_only_byte: false,
            ending: false,
            stalled: false,
            dirty: false,
            ready: false,
            heard: false,
            leaving: false,
            touched: false,
            keeping: false,
            last_words: false,
            reading: false,
            attach: Attach(0),
            timeout_ms: 0,
            session: SessionId::NONE,
            heard_at: MonoMs(0),
            peer: SocketAddr::from(([0, 0, 0, 0], 0)),
            ids: nobody.clone(),
            input: vec![],
            out: vec![],
            sent: 0,
            pending: None,
            accounted: 0,
            counters: ConnCounters::new(0),
        }
    }

    /// Unsent bytes.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }
    /// Writes that the core has and that are not answered.
    pub fn writes(&self) -> u32 {
        self.pending.as_ref().map_or(0, |p| p.writes)
    }
    pub fn closing(&self) -> bool {
        self.close != Close::Open
    }
    /// Marks it to be closed; `Now` wins over `AfterFlush`.
    pub fn end(&mut self, how: Close) {
        if how == Close::Now || self.close == Close::Open {
            self.close = how;
        }
    }
    /// Bytes that count against the shard's limit.
    pub fn buffered(&self) -> usize {
        self.unsent() + self.pending.as_ref().map_or(0, |p| p.kept_bytes())
    }

    /// The line that `cons` prints.
    pub fn stat(&self) -> ConnStat {
        let c = &self.counters;
        ConnStat {
            peer: self.peer,
            interest: u8::from(self.reading) | if self.unsent() > 0 { 4 } else { 0 },
            queued: self.pending.as_ref().map_or(0, |p| u64::from(p.writes) + p.kept_frames()),
            received: c.received,
            sent: c.sent,
            session: self.session,
            last_op: c.last_op.map_or("NA", Op::lop),
            established_ms: c.established_ms,
            timeout_ms: self.timeout_ms,
            last_cxid: c.last_cxid,
            last_zxid: c.last_zxid,
            last_response_ms: c.last_response_ms,
            last_latency_ms: c.latency_last_ms.into(),
            min_latency_ms: if c.latency_count == 0 { 0 } else { c.latency_min_ms.into() },
            avg_latency_ms: c.latency_sum_ms.checked_div(c.latency_count).unwrap_or(0),
            max_latency_ms: c.latency_max_ms.into(),
        }
    }
}

/// A place in a connection's order of replies.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entry {
    /// Handed to the core; `since_ms` is when it was read, low 32 bits of the monotonic clock.
    Write { xid: i32, op: Op, since_ms: u32 },
    /// So many frames in so many bytes at the head of what is kept.
    Reads { bytes: u32, frames: u32, since_ms: u32 },
}

/// Unfinished writes of a connection and the reads that wait behind them (rule R4).
#[derive(Debug, Default)]
pub(super) struct Pending {
    entries: VecDeque<Entry>,
    /// Frames with their length words, as received; `head` is the first that still waits.
    kept: Vec<u8>,
    head: usize,
    pub writes: u32,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    pub fn kept_bytes(&self) -> usize {
        self.kept.len() - self.head
    }
    fn kept_frames(&self) -> u64 {
        let frames = |e: &Entry| match e {
            Entry::Reads { frames, .. } => u64::from(*frames),
            Entry::Write { .. } => 0,
        };
        self.entries.iter().map(frames).sum()
    }
    pub fn push_write(&mut self, xid: i32, op: Op, since_ms: u32) {
        self.entries.push_back(Entry::Write { xid, op, since_ms });
        self.writes += 1;
    }
    /// Keeps one whole frame.
    pub fn push_read(&mut self, frame: &[u8], now_ms: u32) {
        self.kept.extend_from_slice(frame);
        match self.entries.back_mut() {
            Some(Entry::Reads { bytes, frames, .. }) => {
                *bytes += frame.len() as u32;
                *frames += 1;
            }
            _ => self.entries.push_back(Entry::Reads {
                bytes: frame.len() as u32,
                frames: 1,
                since_ms: now_ms,
            }),
        }
    }
    /// The reads that stand before every unfinished write, and when the first of them was read.
    pub fn front_reads(&self) -> Option<(&[u8], u32)> {
        match self.entries.front()? {
            Entry::Reads { bytes, since_ms, .. } => {
                Some((&self.kept[self.head..self.head + *bytes as usize], *since_ms))
            }
            Entry::Write { .. } => None,
        }
    }
    /// Takes answered frames off the head.
    pub fn answered(&mut self, done_bytes: usize, done_frames: u32) {
        let Some(Entry::Reads { bytes, frames, .. }) = self.entries.front_mut() else { return };
        *bytes -= done_bytes as u32;
        *frames -= done_frames;
        self.head += done_bytes;
        if *bytes == 0 {
            self.entries.pop_front();
        }
        if self.head == self.kept.len() {
            self.kept.clear();
            self.head = 0;
        } else if self.head > 64 << 10 && self.head > self.kept.len() / 2 {
            self.kept.drain(..self.head);
            self.head = 0;
        }
    }
    /// The first unfinished write, if no read stands before it.
    pub fn pop_write(&mut self) -> Option<(i32, Op, u32)> {
        match self.entries.front()? {
            Entry::Reads { .. } => None,
            Entry::Write { xid, op, since_ms } => {
                let first = (*xid, *op, *since_ms);
                self.entries.pop_front();
                self.writes -= 1;
                Some(first)
            }
        }
    }
    fn reset(&mut self) {
        self.entries.clear();
        self.kept.clear();
        (self.head, self.writes) = (0, 0);
    }
}

/// Buffers that connections borrow while they have something to hold.
#[derive(Debug, Default)]
pub(super) struct Spares {
    buffers: Vec<Vec<u8>>,
    /// Capacity of all of them.
    bytes: usize,
    #[expect(
        clippy::vec_box,
        reason = "a connection takes the box as it is; an idle one pays for a pointer only"
    )]
    pendings: Vec<Box<Pending>>,
}

impl Spares {
    /// Gives `buffer` room to grow from, if it has none.
    pub fn lend(&mut self, buffer: &mut Vec<u8>) {
        if buffer.capacity() == 0
            && let Some(spare) = self.buffers.pop()
        {
            self.bytes -= spare.capacity();
            *buffer = spare;
        }
    }
    /// Takes an emptied buffer back; one that grew too large, or that nobody needs, is freed.
    pub fn give_back(&mut self, buffer: &mut Vec<u8>) {
        let mut taken = std::mem::take(buffer);
        let capacity = taken.capacity();
        if (1..=SPARE_BYTES_MAX).contains(&capacity)
            && self.buffers.len() < SPARE_BUFFERS
            && self.bytes + capacity <= SPARES_BYTES_MAX
        {
            taken.clear();
            self.bytes += capacity;
            self.buffers.push(taken);
        }
    }
    pub fn pending<'a>(&mut self, p: &'a mut Option<Box<Pending>>) -> &'a mut Pending {
        p.get_or_insert_with(|| self.pendings.pop().unwrap_or_default())
    }
    pub fn give_back_pending(&mut self, mut p: Box<Pending>) {
        if p.kept.capacity() <= KEPT_BYTES_MAX && self.pendings.len() < SPARE_BUFFERS {
            p.reset();
            self.pendings.push(p);
        }
    }
}

/// The slots of a shard.
#[derive(Debug)]
pub(super) struct Conns {
    shard: ShardId,
    slots: Vec<Conn>,
    free: Vec<u32>,
    nobody: Ids,
}

impl Conns {
    pub fn new(shard: ShardId) -> Conns {
        Conns { shard, slots: vec![], free: vec![], nobody: Arc::from([]) }
    }
    /// A slot for a new connection.
    pub fn occupy(&mut self) -> ConnId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Conn::vacant(&self.nobody));
            (self.slots.len() - 1) as u32
        });
        self.slots[slot as usize].phase = Phase::First;
        self.id(slot)
    }
    /// Ends the tenancy; the caller has taken from it what it needs.
    pub fn vacate(&mut self, slot: u32) {
        let c = &mut self.slots[slot as usize];
        let generation = c.generation.wrapping_add(1);
        *c = Conn { generation, ..Conn::vacant(&self.nobody) };
        self.free.push(slot);
    }
    pub fn id(&self, slot: u32) -> ConnId {
        ConnId { shard: self.shard, slot, generation: self.slots[slot as usize].generation }
    }
    /// The slot of a connection that still exists.
    pub fn resolve(&self, id: ConnId) -> Option<u32> {
        let c = self.slots.get(id.slot as usize)?;
        (id.shard == self.shard && c.generation == id.generation && c.phase != Phase::Free).then_some(id.slot)
    }
    /// Connections there are.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }
    /// The slots with a tenant.
    pub fn occupied(&self) -> impl Iterator<Item = (u32, &Conn)> {
        let slots = self.slots.iter().enumerate();
        slots.filter(|(_, c)| c.phase != Phase::Free).map(|(slot, c)| (slot as u32, c))
    }
    pub fn slot_count(&self) -> u32 {
        self.slots.len() as u32
    }
}

impl std::ops::Index<u32> for Conns {
    type Output = Conn;
    fn index(&self, slot: u32) -> &Conn {
        &self.slots[slot as usize]
    }
}
impl std::ops::IndexMut<u32> for Conns {
    fn index_mut(&mut self, slot: u32) -> &mut Conn {
        &mut self.slots[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_costs_at_most_this() {
        // Beside it: the reactor's own entry, and nothing on the heap but the identities shared per address.
        assert!(size_of::<Conn>() <= 256, "{}", size_of::<Conn>());
    }

    #[test]
    fn pending_keeps_the_order_of_the_client() {
        let mut p = Pending::default();
        p.push_write(1, Op::SetData, 10);
        p.push_read(b"aaaa", 11);
        p.push_read(b"bb", 12);
        p.push_write(2, Op::SetData, 13);
        p.push_read(b"cc", 14);
        assert_eq!((p.writes, p.kept_bytes(), p.kept_frames()), (2, 8, 3));
        assert_eq!(p.front_reads(), None);
        assert_eq!(p.pop_write(), Some((1, Op::SetData, 10)));
        assert_eq!(p.front_reads(), Some((&b"aaaabb"[..], 11)));
        assert_eq!(p.pop_write(), None);
        p.answered(4, 1);
        assert_eq!(p.front_reads(), Some((&b"bb"[..], 11)));
        p.answered(2, 1);
        assert_eq!(p.pop_write(), Some((2, Op::SetData, 13)));
        assert_eq!(p.front_reads(), Some((&b"cc"[..], 14)));
        p.answered(2, 1);
        assert!(p.is_empty() && p.kept_bytes() == 0);
    }

    #[test]
    fn an_old_id_resolves_to_nobody() {
        let mut conns = Conns::new(ShardId(3));
        let a = conns.occupy();
        assert_eq!(conns.resolve(a), Some(0));
        conns.vacate(0);
        assert_eq!(conns.resolve(a), None);
        let b = conns.occupy();
        assert_eq!((b.slot, conns.resolve(a), conns.resolve(b)), (0, None, Some(0)));
        assert_eq!(conns.resolve(ConnId { shard: ShardId(2), ..b }), None);
        assert_eq!(conns.len(), 1);
    }
}
