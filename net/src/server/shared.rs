//! What the threads of one server share besides the rings: the word to stop, counters, the reason of an end, listeners that
//! take the place of others.
//!
//! Invariant: nothing here is touched per read; shards copy their counters once a turn, and count connections and
//! writes as they come and go.

use super::journal::SyncStats;
use crate::reactor::Listener;
use crate::ring::Wake;
use crate::words::mntr::ShardMetrics;
use crate::words::server::Latency;
use crossbeam::utils::CachePadded;
use dashmap::DashMap;
use engine::limits::Limits;
use engine::shard::{Admission, ShardStats};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{
    AtomicBool, AtomicIsize, AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use std::sync::{Arc, Condvar, Mutex, OnceLock};

/// One shard's counters, as it last stored them.
#[derive(Default)]
pub struct StatsCell(CachePadded<Mutex<ShardStats>>);

impl StatsCell {
    pub fn store(&self, s: &ShardStats) {
        *self.0.lock().expect("no holder panics") = *s;
    }
    fn load(&self) -> ShardStats {
        *self.0.lock().expect("no holder panics")
    }
}

/// Listeners on their way to a shard.
#[derive(Default)]
pub struct Door {
    fresh: CachePadded<AtomicBool>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    listeners: Vec<Listener>,
    /// The shard has ended: whatever comes is closed at once, or clients would wait where nobody takes them.
    shut: bool,
}

impl Door {
    /// Whether there are new ones.
    pub fn is_fresh(&self) -> bool {
        self.fresh.load(Acquire)
    }
    /// Takes them; those of before are to be closed.
    pub fn take(&self) -> Vec<Listener> {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        self.fresh.store(false, Relaxed);
        std::mem::take(&mut waiting.listeners)
    }
    /// Nobody takes any more.
    pub fn shut(&self) {
        *self.waiting.lock().expect("no holder panics") = Waiting { listeners: Vec::new(), shut: true };
    }
    fn put(&self, new: Vec<Listener>) {
        let mut waiting = self.waiting.lock().expect("no holder panics");
        if !waiting.shut {
            waiting.listeners = new;
            self.fresh.store(true, Release);
        }
    }
}

/// See the module.
pub struct Shared {
    /// Set once: end in good order.
    stop: AtomicBool,
    /// Set once: end at once, syncing nothing.
    kill: AtomicBool,
    failure: OnceLock<String>,
    wakers: Mutex<Vec<Arc<dyn Wake>>>,
    ended: (Mutex<bool>, Condvar),
    cells: Vec<Arc<StatsCell>>,
    doors: Vec<Arc<Door>>,
    /// Where clients connect.
    addrs: Mutex<Vec<SocketAddr>>,
    rejected: AtomicU64,
    /// `fsync.warningthresholdms`.
    fsync_warning_ms: u64,
    fsync_slow: AtomicU64,
}

impl Shared {
    pub fn new(fsync_warning_ms: u64, shards: usize, addrs: Vec<SocketAddr>) -> Shared {
        Shared {
            stop: AtomicBool::new(false),
            kill: AtomicBool::new(false),
            failure: OnceLock::new(),
            wakers: Mutex::new(Vec::new()),
            ended: (Mutex::new(false), Condvar::new()),
            cells: (0..shards).map(|_| Arc::default()).collect(),
            doors: (0..shards).map(|_| Arc::default()).collect(),
            addrs: Mutex::new(addrs),
            rejected: AtomicU64::new(0),
            fsync_warning_ms,
            fsync_slow: AtomicU64::new(0),
        }
    }

    /// A thread that must hear of the end.
    pub fn add_waker(&self, w: Arc<dyn Wake>) {
        self.wakers.lock().expect("no holder panics").push(w);
    }
    /// Asks every thread to end in good order.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
        self.wake_all();
        *self.ended.0.lock().expect("no holder panics") = true;
        self.ended.1.notify_all();
    }
    fn wake_all(&self) {
        for w in self.wakers.lock().expect("no holder panics").iter() {
            w.wake();
        }
    }
    /// Hands new listeners to every shard, which closes those of before.
    pub fn open_doors(&self, listeners: Vec<Vec<Listener>>, addrs: Vec<SocketAddr>) {
        *self.addrs.lock().expect("no holder panics") = addrs;
        for (door, new) in self.doors.iter().zip(listeners) {
            door.put(new);
        }
        self.wake_all();
    }
    /// Where clients connect at present.
    pub fn client_addrs(&self) -> Vec<SocketAddr> {
        self.addrs.lock().expect("no holder panics").clone()
    }
    /// Where shard `number` gets its listeners.
    pub fn door(&self, number: usize) -> Arc<Door> {
        self.doors[number].clone()
    }
    /// Asks every thread to end at once, as if the process were killed.
    pub fn kill(&self) {
        self.kill.store(true, Relaxed);
        self.stop();
    }
    /// Something that the server cannot go on with; the first reason stays.
    pub fn fail(&self, why: String) {
        tracing::error!("{why}");
        let _first = self.failure.set(why);
        self.stop();
    }
    /// Waits until somebody has asked the server to end.
    pub fn wait(&self) {
        let mut ended = self.ended.0.lock().expect("no holder panics");
        while !*ended {
            ended = self.ended.1.wait(ended).expect("no holder panics");
        }
    }
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Relaxed)
    }
    pub fn is_killed(&self) -> bool {
        self.kill.load(Relaxed)
    }
    pub fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// The core's report after a sync.
    pub fn book_sync(&self, s: &SyncStats) {
        if s.last_ms > self.fsync_warning_ms {
            self.fsync_slow.fetch_add(1, Relaxed);
            tracing::warn!(
                "a sync of the log took {} ms: the disk is slow, and writes wait for it",
                s.last_ms
            );
        }
    }
    pub fn slow_syncs(&self) -> u64 {
        self.fsync_slow.load(Relaxed)
    }
    /// A connection was refused at accept.
    pub fn book_rejected(&self) {
        self.rejected.fetch_add(1, Relaxed);
    }

    /// Where shard `number` stores its counters.
    pub fn cell(&self, number: usize) -> Arc<StatsCell> {
        self.cells[number].clone()
    }
    /// Writes not answered, over all shards.
    pub fn outstanding(&self) -> usize {
        self.cells.iter().map(|c| c.load().outstanding).sum()
    }
    /// All shards' counters.
    pub fn shard_metrics(&self) -> ShardMetrics {
        let mut sum =
            ShardMetrics { connections_rejected: self.rejected.load(Relaxed), ..Default::default() };
        for cell in &self.cells {
            sum.merge(&metrics_of(&cell.load()));
        }
        sum
    }
}

fn metrics_of(s: &ShardStats) -> ShardMetrics {
    let l = s.latency;
    ShardMetrics {
        latency: Latency { min_ms: l.min_ms, max_ms: l.max_ms, total_ms: l.sum_ms, count: l.count },
        received: s.packets_received,
        sent: s.packets_sent,
        connections: s.connections as u64,
        watches: (s.watches.data_watches + s.watches.child_watches) as u64,
        bytes_received: s.bytes_received,
        bytes_sent: s.bytes_sent,
        connections_dropped: s.overruns,
        auth_failed: s.auth_failed,
        ..ShardMetrics::default()
    }
}

/// Counts over all shards: connections by address, writes in flight.
pub struct Gate {
    per_address_max: u32,
    connections_max: u32,
    addresses: DashMap<IpAddr, u32>,
    connections: AtomicUsize,
    writes: CachePadded<AtomicIsize>,
}

impl Gate {
    pub fn new(limits: &Limits) -> Gate {
        Gate {
            per_address_max: limits.max_client_connections,
            connections_max: limits.max_connections,
            addresses: DashMap::new(),
            connections: AtomicUsize::new(0),
            writes: CachePadded::new(AtomicIsize::new(0)),
        }
    }
}

impl Admission for Gate {
    fn admit(&self, peer: IpAddr) -> bool {
        let before = self.connections.fetch_add(1, Relaxed);
        if self.connections_max > 0 && before >= self.connections_max as usize {
            self.connections.fetch_sub(1, Relaxed);
            return false;
        }
        let mut count = self.addresses.entry(peer).or_insert(0);
        if self.per_address_max > 0 && *count >= self.per_address_max {
            drop(count);
            self.connections.fetch_sub(1, Relaxed);
            return false;
        }
        *count += 1;
        true
    }
    fn leave(&self, peer: IpAddr) {
        self.connections.fetch_sub(1, Relaxed);
        if let Some(mut count) = self.addresses.get_mut(&peer) {
            *count -= 1;
        }
        self.addresses.remove_if(&peer, |_, count| *count == 0);
    }
    fn writes_changed(&self, by: isize) {
        self.writes.fetch_add(by, Relaxed);
    }
    fn writes(&self) -> usize {
        usize::try_from(self.writes.load(Relaxed)).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reactor::{ListenAddr, ListenOptions, listen};
    use std::net::TcpStream;

    #[test]
    fn nobody_listens_at_the_door_of_a_shard_that_has_ended() {
        let bound = || {
            let any = ListenAddr::One("127.0.0.1:0".parse().unwrap());
            listen(any, 1, &ListenOptions::default()).unwrap()
        };
        let shared = Shared::new(0, 1, Vec::new());
        let door = shared.door(0);
        let (listeners, before) = bound();
        shared.open_doors(vec![listeners], vec![before]);
        assert!(door.is_fresh() && TcpStream::connect(before).is_ok());
        // It ends before it has taken them, and a thread that was binding others hands them over behind that.
        door.shut();
        let (listeners, behind) = bound();
        shared.open_doors(vec![listeners], vec![behind]);
        assert!(door.take().is_empty());
        assert!(TcpStream::connect(before).is_err() && TcpStream::connect(behind).is_err());
    }

    #[test]
    fn limits_count_per_address_and_in_all() {
        let limits = Limits { max_client_connections: 2, max_connections: 3, ..Limits::default() };
        let gate = Gate::new(&limits);
        let (a, b): (IpAddr, IpAddr) = ([127, 0, 0, 1].into(), [127, 0, 0, 2].into());
        assert!(gate.admit(a) && gate.admit(a) && !gate.admit(a));
        assert!(gate.admit(b) && !gate.admit(b), "three in all");
        gate.leave(a);
        assert!(gate.admit(b) && !gate.admit(a));
        gate.leave(a);
        gate.leave(b);
        gate.leave(b);
        assert!(gate.addresses.is_empty() && gate.connections.load(Relaxed) == 0);
    }
}
