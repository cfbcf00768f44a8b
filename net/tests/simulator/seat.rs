//! A shard with its rings and its clients' sockets, driven as `net::server::shard` drives it.
//!
//! Invariant, as there (R7): what the core has published is consumed behind every read, before the bytes are served.

use crate::node::Common;
use engine::ids::{ConnId, ShardId, Zxid};
use engine::msg::{ChangeBatch, CoreLink, ToCore};
use engine::shard::{Admission, Shard};
use engine::time::Now;
use engine::tree::Handle;
use engine::watch::InterestFilter;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

/// Everybody may come in.
#[derive(Default)]
struct OpenDoor(AtomicIsize);

impl Admission for OpenDoor {
    fn admit(&self, _peer: IpAddr) -> bool {
        true
    }
    fn leave(&self, _peer: IpAddr) {}
    fn writes_changed(&self, by: isize) {
        let now = self.0.fetch_add(by, Ordering::Relaxed) + by;
        assert!(now >= 0, "fewer than no writes in flight");
    }
    fn writes(&self) -> usize {
        self.0.load(Ordering::Relaxed) as usize
    }
}

/// The ring to the core, with reserved room beside it. Order is kept over both.
pub struct ToCoreRing {
    places: usize,
    used: usize,
    queue: VecDeque<(bool, ToCore)>,
    refused: bool,
}

impl ToCoreRing {
    /// The next message; requests only if they may be taken.
    pub fn pop(&mut self, requests_too: bool) -> Option<ToCore> {
        if !self.has_some(requests_too) {
            return None;
        }
        let (reserved, m) = self.queue.pop_front()?;
        self.used -= usize::from(!reserved);
        Some(m)
    }
    pub fn has_some(&self, requests_too: bool) -> bool {
        requests_too && !self.queue.is_empty()
    }
}

impl CoreLink for ToCoreRing {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        if self.used >= self.places {
            self.refused = true;
            return Err(m);
        }
        self.used += 1;
        self.queue.push_back((false, m));
        Ok(())
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.queue.push_back((true, m));
    }
}

/// A client's socket at this end.
#[derive(Default)]
struct Sock {
    id: Option<ConnId>,
    inbox: Vec<u8>,
    ended: bool,
}

/// What goes back to a client.
pub enum ToClient {
    Bytes(usize, Vec<u8>),
    Closed(usize),
}

/// See the module.
pub struct Seat {
    pub shard: Shard,
    pub to_core: ToCoreRing,
    pub batches: VecDeque<Rc<ChangeBatch>>,
    socks: BTreeMap<usize, Sock>,
    tenants: BTreeMap<ConnId, usize>,
    /// The next turn.
    pub at_us: Option<u64>,
}

impl Seat {
    pub fn new(number: usize, common: &Common, tree: &Handle, h: Zxid, places: usize) -> Seat {
        let reader = tree.reader().expect("a tree has a reader for every shard");
        let id = ShardId(number as u16);
        let door = Arc::new(OpenDoor::default());
        let filter = Arc::new(InterestFilter::default());
        Seat {
            shard: Shard::new(id, common.limits.clone(), door, reader, filter, h, 0),
            to_core: ToCoreRing { places, used: 0, queue: VecDeque::new(), refused: false },
            batches: VecDeque::new(),
            socks: BTreeMap::new(),
            tenants: BTreeMap::new(),
            at_us: None,
        }
    }

    /// A client has connected.
    pub fn connected(&mut self, conn: usize) {
        self.socks.insert(conn, Sock::default());
    }
    /// Bytes of a client. `false`: there is no such connection any more.
    pub fn arrived(&mut self, conn: usize, bytes: &[u8]) {
        if let Some(s) = self.socks.get_mut(&conn) {
            s.inbox.extend_from_slice(bytes);
        }
    }
    /// The client's end is closed.
    pub fn ended(&mut self, conn: usize) {
        if let Some(s) = self.socks.get_mut(&conn) {
            s.ended = true;
        }
    }
    /// All connections, for a crash.
    pub fn conns(&self) -> Vec<usize> {
        self.socks.keys().copied().collect()
    }

    fn consume(&mut self, now: Now) {
        while let Some(batch) = self.batches.pop_front() {
            self.shard.consume(&batch, now, &mut self.to_core);
        }
    }

    /// One turn. At most `bytes_max` are read from each socket.
    pub fn turn(&mut self, now: Now, bytes_max: usize) -> Vec<ToClient> {
        let mut out = Vec::new();
        self.shard.begin_turn();
        self.consume(now);
        for conn in self.conns() {
            self.serve(conn, now, bytes_max, &mut out);
        }
        self.consume(now);
        self.shard.resume(now, &mut self.to_core);
        self.shard.timers(now);
        self.shard.activity_report(now.mono, now, &mut self.to_core);
        while let Some(id) = self.shard.next_dirty() {
            self.flush(id, now, &mut out);
        }
        while self.shard.next_reading().is_some() {}
        while let Some(id) = self.shard.next_leaving() {
            self.flush(id, now, &mut out);
            self.close(id, &mut out);
        }
        if !self.shard.has_ready() {
            self.shard.rest();
        }
        out
    }

    fn serve(&mut self, conn: usize, now: Now, bytes_max: usize, out: &mut Vec<ToClient>) {
        let Some(sock) = self.socks.get_mut(&conn) else { return };
        let id = match sock.id {
            Some(id) => id,
            None => {
                let from = SocketAddr::from(([127, 0, 0, 1], 10_000 + (conn % 50_000) as u16));
                let Some(id) = self.shard.accept(from, now) else {
                    self.socks.remove(&conn);
                    out.push(ToClient::Closed(conn));
                    return;
                };
                sock.id = Some(id);
                self.tenants.insert(id, conn);
                id
            }
        };
        let Some(sock) = self.socks.get_mut(&conn) else { return };
        if !self.shard.wants_read(id) {
            return;
        }
        if !self.shard.reads_allowed() {
            self.shard.left_unread();
            return;
        }
        if !sock.inbox.is_empty() {
            let n = sock.inbox.len().min(bytes_max.max(1));
            let bytes: Vec<u8> = sock.inbox.drain(..n).collect();
            self.consume(now);
            self.shard.input(id, &bytes, now, &mut self.to_core);
            self.flush(id, now, out);
        } else if sock.ended && !self.shard.end_of_input(id) {
            self.close(id, out);
        }
    }

    fn flush(&mut self, id: ConnId, now: Now, out: &mut Vec<ToClient>) {
        let bytes = self.shard.output(id).to_vec();
        if let Some(conn) = self.tenants.get(&id)
            && !bytes.is_empty()
        {
            self.shard.wrote(id, bytes.len(), now);
            out.push(ToClient::Bytes(*conn, bytes));
        }
    }

    fn close(&mut self, id: ConnId, out: &mut Vec<ToClient>) {
        self.shard.closed(id, &mut self.to_core);
        if let Some(conn) = self.tenants.remove(&id) {
            self.socks.remove(&conn);
            out.push(ToClient::Closed(conn));
        }
    }

    /// Whether something waits for the next turn.
    pub fn has_work(&self) -> bool {
        let readable = |s: &Sock| match s.id {
            None => true,
            Some(id) => self.shard.wants_read(id) && (s.ended || !s.inbox.is_empty()),
        };
        !self.batches.is_empty() || self.shard.has_ready() || self.socks.values().any(readable)
    }
    /// For a failure: connections, batches and messages that wait.
    pub fn figures(&self) -> String {
        let sock = |s: &Sock| {
            s.id.map(|id| (self.shard.should_close(id), self.shard.wants_read(id), s.inbox.len(), s.ended))
        };
        let socks: Vec<_> = self.socks.values().map(sock).collect();
        format!("{} batches, {} messages, {socks:?}", self.batches.len(), self.to_core.queue.len())
    }
    /// Whether requests wait for room.
    pub fn is_blocked(&self) -> bool {
        self.shard.ring_blocked()
    }
}
