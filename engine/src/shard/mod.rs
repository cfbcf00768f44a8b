//! A shard's turn: bytes and change batches in, bytes and requests out. Sans-io; `net` drives it.
//!
//! The turn, as the reactor's thread plays it (DESIGN section 4):
//! ```text
//! begin_turn
//!   for each ready socket, or once for all:
//!     read bytes; load the change ring's end behind that; consume(batch) up to it
//!     input(conn, bytes)                      accept / closed / wrote as they happen
//!   resume                                    what waited for room goes on
//!   timers, activity_report                   when due
//!   next_dirty -> output -> wrote             one write per connection
//!   next_reading, next_leaving                change of read interest; sockets to close, then `closed`
//! end_turn, and rest before sleeping
//! ```
//! Not here: sockets and clocks (`net`), what a write does (`pipeline`), who expires sessions (`session`).
//!
//! Invariants, named after the rules of DESIGN section 4 that they keep:
//! - R1: `h` moves only in `consume`, one transaction after the other, and every reply carries the `h` at which it
//!   was made;
//! - R4: a connection's replies are made in the order of its requests (auth alone overtakes); a read is answered
//!   only when no write of its connection stands before it unfinished, and before `h` passes one that stands behind;
//! - R7: `input` is called only after every batch that was in the ring when the bytes had been read was consumed. The
//!   caller keeps this; nothing here can check it;
//! - everything kept for a connection is bounded: a frame in the making by `jute_max_buffer`, frames behind writes by
//!   `KEPT_BYTES_MAX` and a frame, unsent bytes by the hard limit and a reply.

mod conn;
mod connect;
mod consume;
mod frames;
mod reads;
mod stats;
mod watches;

pub use conn::Close;
pub use stats::{Latency, ShardStats};

use crate::acl;
use crate::ids::{ConnId, SessionId, ShardId, Zxid};
use crate::limits::Limits;
use crate::msg::{Activity, CoreLink, Ids, ToCore};
use crate::time::{MonoMs, Now};
use crate::tree::Reader;
use crate::watch::{Delivery, InterestFilter, WatchTable};
use conn::{Blocked, Conn, Conns, Phase, Spares};
use hashbrown::HashTable;
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// What all shards of a server share: counts over all of them. Called from every shard's thread.
pub trait Admission: Send + Sync {
    /// Counts a new connection from that address, unless a limit over all shards is reached (`maxClientCnxns`,
    /// `maxCnxns`).
    fn admit(&self, peer: IpAddr) -> bool;
    /// Takes one that was admitted off again.
    fn leave(&self, peer: IpAddr);
    /// So many writes more are in flight; negative: so many fewer.
    fn writes_changed(&self, by: isize);
    /// Writes in flight over all shards.
    fn writes(&self) -> usize;
}

/// One shard: its connections, its watches, its horizon.
pub struct Shard {
    id: ShardId,
    limits: Arc<Limits>,
    admission: Arc<dyn Admission>,
    reader: Reader,
    /// The horizon: the last zxid consumed.
    h: Zxid,
    /// The beginning of the newest epoch whose history `h` completes.
    covers: Zxid,
    /// Whether only clients that write nothing are let in.
    read_only: bool,
    /// Batches of an older one are void.
    generation: u64,
    /// Asked to close everything; the generation that starts when nobody is left.
    draining: Option<u64>,
    conns: Conns,
    spares: Spares,
    watches: WatchTable,
    deliveries: Vec<Delivery>,
    event: Vec<u8>,
    by_address: HashTable<AddressIds>,
    stats: ShardStats,
    sessions: usize,
    outstanding: usize,
    buffered: usize,
    /// Since the last report, sockets were left unread because too much was unsent in all.
    limited: bool,
    /// Connections with kept reads.
    keeping: usize,
    lists: Lists,
}

/// Connections that somebody must look at. Each holds a connection at most once (a flag in it says so); ids whose
/// connection is gone are passed over.
#[derive(Default)]
struct Lists {
    /// New unsent bytes.
    dirty: Vec<ConnId>,
    /// May go on: kept bytes, or kept frames that nothing blocks any more.
    ready: VecDeque<ConnId>,
    /// Wait for room in the request ring.
    ring: VecDeque<ConnId>,
    /// To be closed by the reactor.
    leaving: Vec<ConnId>,
    /// Read interest changed.
    reading: Vec<ConnId>,
    /// Touched by `consume`, to be settled at its end.
    touched: Vec<u32>,
    /// Sessions heard from since the last report.
    heard: Vec<ConnId>,
    /// The same, of connections that ended since.
    heard_ended: Vec<(SessionId, MonoMs)>,
    /// Deadlines of connections without a session, and of ending ones; in order, since all wait equally long.
    deadlines: VecDeque<(MonoMs, ConnId)>,
    reported_at: MonoMs,
}

/// The identities that every connection from one address starts with, shared by them.
#[derive(Debug)]
struct AddressIds {
    address: IpAddr,
    ids: Ids,
    users: usize,
}

fn hash_of_address(a: IpAddr) -> u64 {
    let bits = match a {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let folded = (bits as u64) ^ ((bits >> 64) as u64).rotate_left(31);
    let mixed = folded.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

impl Shard {
    /// A shard without connections, at horizon `h`. `filter` is kept in step with what is watched here.
    pub fn new(
        id: ShardId,
        limits: Arc<Limits>,
        admission: Arc<dyn Admission>,
        reader: Reader,
        filter: Arc<InterestFilter>,
        h: Zxid,
        generation: u64,
    ) -> Shard {
        Shard {
            id,
            limits,
            admission,
            reader,
            h,
            covers: Zxid::ZERO,
            read_only: false,
            generation,
            draining: None,
            conns: Conns::new(id),
            spares: Spares::default(),
            watches: WatchTable::new(filter),
            deliveries: vec![],
            event: vec![],
            by_address: HashTable::new(),
            stats: ShardStats::default(),
            sessions: 0,
            outstanding: 0,
            buffered: 0,
            limited: false,
            keeping: 0,
            lists: Lists::default(),
        }
    }

    /// The last transaction that this shard shows.
    pub fn horizon(&self) -> Zxid {
        self.h
    }

    /// Before anything else of a turn: sets the reader's floor.
    pub fn begin_turn(&mut self) {
        self.reader.begin_turn(self.h);
    }

    /// Before sleeping: withdraws the floor, unless reads are kept behind unfinished writes (they will be answered at
    /// the horizon at which the write finds this shard). Call when `has_ready` is false.
    pub fn rest(&mut self) {
        if self.keeping == 0 {
            self.reader.rest();
        }
    }

    /// A new connection. `None`: refuse it (a limit is reached, or everything is being closed).
    pub fn accept(&mut self, peer: SocketAddr, now: Now) -> Option<ConnId> {
        let address = peer.ip().to_canonical();
        if self.draining.is_some() || !self.admission.admit(address) {
            return None;
        }
        let ids = self.ids_of(address);
        let id = self.conns.occupy();
        let c = &mut self.conns[id.slot];
        c.peer = SocketAddr::new(address, peer.port());
        c.ids = ids;
        c.reading = true;
        c.counters = conn::ConnCounters::new(now.wall.0);
        self.watch_the_clock(id, now);
        Some(id)
    }

    /// The socket is closed, by the peer or after `next_leaving`. Tells the core and frees the slot.
    pub fn closed(&mut self, id: ConnId, core: &mut impl CoreLink) {
        let Some(slot) = self.conns.resolve(id) else { return };
        let c = &mut self.conns[slot];
        let (address, session, attach) = (c.peer.ip(), c.session, c.attach);
        if c.heard {
            self.lists.heard_ended.push((session, c.heard_at));
        }
        if c.phase != Phase::First {
            core.send_reserved(ToCore::Gone { conn: id, session, attach });
        }
        let writes = c.writes() as usize;
        self.outstanding -= writes;
        if writes > 0 {
            self.admission.writes_changed(-(writes as isize));
        }
        self.buffered -= c.accounted;
        self.keeping -= usize::from(c.keeping);
        self.sessions -= usize::from(session != SessionId::NONE);
        let (mut input, mut out) = (std::mem::take(&mut c.input), std::mem::take(&mut c.out));
        self.spares.give_back(&mut input);
        self.spares.give_back(&mut out);
        if let Some(p) = self.conns[slot].pending.take() {
            self.spares.give_back_pending(p);
        }
        self.watches.remove_connection(slot);
        self.conns.vacate(slot);
        self.forget_address(address);
        self.admission.leave(address);
        self.drained(core);
    }

    /// Tells the core when the last connection of a generation that is being left is gone.
    fn drained(&mut self, core: &mut impl CoreLink) {
        if let Some(generation) = self.draining
            && self.conns.len() == 0
        {
            self.reader.rest();
            self.draining = None;
            self.generation = generation;
            core.send_reserved(ToCore::Drained { shard: self.id, generation });
        }
    }

    fn ids_of(&mut self, address: IpAddr) -> Ids {
        let hash = hash_of_address(address);
        if let Some(known) = self.by_address.find_mut(hash, |a| a.address == address) {
            known.users += 1;
            return known.ids.clone();
        }
        let ids: Ids = Arc::from([acl::peer_id(address)]);
        let new = AddressIds { address, ids: ids.clone(), users: 1 };
        self.by_address.insert_unique(hash, new, |a| hash_of_address(a.address));
        ids
    }

    fn forget_address(&mut self, address: IpAddr) {
        let hash = hash_of_address(address);
        if let Ok(mut entry) = self.by_address.find_entry(hash, |a| a.address == address) {
            entry.get_mut().users -= 1;
            if entry.get().users == 0 {
                entry.remove();
            }
        }
    }

    fn watch_the_clock(&mut self, id: ConnId, now: Now) {
        let deadline = now.mono.plus(u64::from(self.limits.sessionless_timeout_ms));
        self.lists.deadlines.push_back((deadline, id));
    }

    /// Ends connections that got no session in time, or whose peer does not take the last bytes.
    pub fn timers(&mut self, now: Now) {
        while let Some((deadline, id)) = self.lists.deadlines.front().copied()
            && deadline <= now.mono
        {
            self.lists.deadlines.pop_front();
            if let Some(slot) = self.conns.resolve(id)
                && (self.conns[slot].phase != Phase::Attached || self.conns[slot].closing())
            {
                self.conns[slot].end(Close::Now);
                self.settle(slot, now);
            }
        }
    }

    /// When `timers` or `activity_report` has something to do next.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        let report = (!self.lists.heard.is_empty() || !self.lists.heard_ended.is_empty())
            .then(|| self.lists.reported_at.plus(self.report_interval_ms()));
        let timer = self.lists.deadlines.front().map(|(at, _)| *at);
        report.into_iter().chain(timer).min()
    }

    /// A quarter of the width of an expiry bucket.
    fn report_interval_ms(&self) -> u64 {
        u64::from(self.limits.tick_ms / 4).max(1)
    }

    /// Reports whom this shard heard from, if a report is due. `drained_upto`: whatever arrived before has been read
    /// and given to `input`. Also due when nobody was heard from: the core waits for every shard before it expires.
    pub fn activity_report(&mut self, drained_upto: MonoMs, now: Now, core: &mut impl CoreLink) {
        if now.mono.since(self.lists.reported_at) < self.report_interval_ms() {
            return;
        }
        self.lists.reported_at = now.mono;
        let mut heard = std::mem::take(&mut self.lists.heard_ended);
        for id in self.lists.heard.drain(..) {
            if let Some(slot) = self.conns.resolve(id) {
                let c = &mut self.conns[slot];
                c.heard = false;
                heard.push((c.session, c.heard_at));
            }
        }
        // Whom we do not read for our own reasons is not silent.
        for id in &self.lists.ring {
            if let Some(slot) = self.conns.resolve(*id)
                && self.conns[slot].session != SessionId::NONE
            {
                heard.push((self.conns[slot].session, now.mono));
            }
        }
        if std::mem::take(&mut self.limited) {
            // The same for whom the limit over all connections keeps unread; whoever is over its own is on its own,
            // and its expiry is what lifts the limit.
            let soft = self.limits.conn_soft_limit_bytes;
            let held = self.conns.occupied().filter(|(_, c)| c.phase == Phase::Attached && c.unsent() < soft);
            heard.extend(held.map(|(_, c)| (c.session, now.mono)));
        }
        core.send_reserved(ToCore::Activity(Activity { shard: self.id, heard, drained_upto }));
    }

    /// The peer has closed its sending side. Whether it still gets something (the answer to a word): then the
    /// connection stays until that is sent; else close it.
    pub fn end_of_input(&mut self, id: ConnId) -> bool {
        self.conns.resolve(id).is_some_and(|slot| self.conns[slot].ending && !self.conns[slot].closing())
    }

    /// The next connection with new unsent bytes.
    pub fn next_dirty(&mut self) -> Option<ConnId> {
        while let Some(id) = self.lists.dirty.pop() {
            if let Some(slot) = self.conns.resolve(id) {
                self.conns[slot].dirty = false;
                // Also of one that is to be closed: replies made before that were promised.
                if self.conns[slot].unsent() > 0 {
                    return Some(id);
                }
            }
        }
        None
    }

    /// Unsent bytes.
    pub fn output(&self, id: ConnId) -> &[u8] {
        match self.conns.resolve(id) {
            Some(slot) => &self.conns[slot].out[self.conns[slot].sent..],
            None => &[],
        }
    }

    /// The socket took `n` of them. Less than all: `next_dirty` passes the connection over until the reactor finds the
    /// socket writable, and `output` is offered again.
    pub fn wrote(&mut self, id: ConnId, n: usize, now: Now) {
        let Some(slot) = self.conns.resolve(id) else { return };
        self.stats.bytes_sent += n as u64;
        if n > 0 && !self.conns[slot].reading {
            // Whoever takes what we send while we refuse to read is alive.
            self.heard(slot, now);
        }
        let c = &mut self.conns[slot];
        c.sent += n;
        debug_assert!(c.sent <= c.out.len());
        c.stalled = c.unsent() > 0;
        if c.unsent() == 0 {
            c.sent = 0;
            c.out.clear();
            self.spares.give_back(&mut c.out);
        } else if c.sent > 64 << 10 && c.sent > c.out.len() / 2 {
            c.out.drain(..c.sent);
            c.sent = 0;
        }
        let waits_for_room =
            c.blocked == Blocked::Out || c.pending.as_ref().is_some_and(|p| p.front_reads().is_some());
        if waits_for_room && c.unsent() <= self.limits.conn_soft_limit_bytes / 2 {
            self.make_ready(slot);
        }
        self.settle(slot, now);
    }

    /// The next connection whose socket is to be closed now; everything it may still get has been written.
    pub fn next_leaving(&mut self) -> Option<ConnId> {
        let id = self.lists.leaving.pop()?;
        self.conns.resolve(id).map(|_| id).or_else(|| self.next_leaving())
    }

    /// How the connection is to end, if it is.
    pub fn should_close(&self, id: ConnId) -> Close {
        self.conns.resolve(id).map_or(Close::Now, |slot| self.conns[slot].close)
    }

    /// The next connection of which `wants_read` may have changed, with what it is now.
    pub fn next_reading(&mut self) -> Option<(ConnId, bool)> {
        let id = self.lists.reading.pop()?;
        match self.conns.resolve(id) {
            Some(slot) => Some((id, self.conns[slot].reading)),
            None => self.next_reading(),
        }
    }

    /// Whether the reactor should read that socket. Changes are told by `next_reading`.
    pub fn wants_read(&self, id: ConnId) -> bool {
        self.conns.resolve(id).is_some_and(|slot| self.wants(&self.conns[slot]))
    }

    fn wants(&self, c: &Conn) -> bool {
        // A connection that is ending is read no further; the reactor's close takes care of what it still sends.
        !c.closing()
            && !c.ending
            && c.blocked == Blocked::No
            && c.unsent() < self.limits.conn_soft_limit_bytes
    }

    /// A socket was left unread because [`Shard::reads_allowed`] said no.
    pub fn left_unread(&mut self) {
        self.limited = true;
    }

    /// Whether any socket may be read: all connections together have not too much buffered.
    pub fn reads_allowed(&self) -> bool {
        self.buffered < self.limits.shard_out_limit_bytes
    }

    /// 1 reads, 4 has unsent bytes, 5 both: what `cons` shows.
    pub fn interest(&self, id: ConnId) -> u8 {
        self.conns.resolve(id).map_or(0, |slot| self.conns[slot].stat().interest)
    }

    /// Whether `resume` has work that nothing blocks: do not sleep.
    pub fn has_ready(&self) -> bool {
        !self.lists.ready.is_empty() && self.reads_allowed()
    }

    /// Whether connections wait for room in the request ring: sleep only briefly.
    pub fn ring_blocked(&self) -> bool {
        !self.lists.ring.is_empty()
    }

    fn make_ready(&mut self, slot: u32) {
        let id = self.conns.id(slot);
        let c = &mut self.conns[slot];
        if !c.ready {
            c.ready = true;
            self.lists.ready.push_back(id);
        }
    }

    /// Notes who was heard from.
    fn heard(&mut self, slot: u32, now: Now) {
        let id = self.conns.id(slot);
        let c = &mut self.conns[slot];
        if c.phase == Phase::Attached {
            c.heard_at = now.mono;
            if !c.heard {
                c.heard = true;
                self.lists.heard.push(id);
            }
        }
    }

    /// Brings sums and lists in step with what a call did to a connection.
    fn settle(&mut self, slot: u32, now: Now) {
        let id = self.conns.id(slot);
        if self.conns[slot].close == Close::AfterFlush && self.conns[slot].unsent() == 0 {
            self.conns[slot].close = Close::Now;
        }
        let wants = self.wants(&self.conns[slot]);
        let c = &mut self.conns[slot];
        if c.out.is_empty() && c.out.capacity() > 0 {
            self.spares.give_back(&mut c.out);
        }
        let buffered = c.buffered();
        self.buffered = self.buffered + buffered - c.accounted;
        c.accounted = buffered;
        let keeps = buffered > c.unsent();
        if keeps != c.keeping {
            c.keeping = keeps;
            self.keeping = if keeps { self.keeping + 1 } else { self.keeping - 1 };
        }
        if c.unsent() > 0 && !c.dirty && !c.stalled {
            c.dirty = true;
            self.lists.dirty.push(id);
        }
        if wants != c.reading {
            c.reading = wants;
            self.lists.reading.push(id);
        }
        if c.closing() && !c.leaving {
            if c.close == Close::Now {
                c.leaving = true;
                self.lists.leaving.push(id);
            } else if !c.last_words {
                // Its peer has so long to take the last bytes.
                c.last_words = true;
                self.watch_the_clock(id, now);
            }
        }
    }
}
