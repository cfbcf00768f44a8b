//! What a shard counts, as plain numbers: the thread that drives it copies them to wherever others can read them.

use super::conn::Conn;
use crate::ids::Zxid;
use crate::msg::{Collect, Collected};
use crate::proto::Op;
use crate::time::Now;
use crate::watch::WatchCounts;

/// Latencies of requests, from being read to being answered, ms.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Latency {
    pub count: u64,
    pub sum_ms: u64,
    /// `u64::MAX` while nothing was counted.
    pub min_ms: u64,
    pub max_ms: u64,
}

impl Default for Latency {
    fn default() -> Latency {
        Latency { count: 0, sum_ms: 0, min_ms: u64::MAX, max_ms: 0 }
    }
}

impl Latency {
    fn add(&mut self, ms: u64, times: u64) {
        self.count += times;
        self.sum_ms += ms * times;
        self.min_ms = self.min_ms.min(ms);
        self.max_ms = self.max_ms.max(ms);
    }
}

/// A shard's counters. Since the start, or since the last `srst`, unless said otherwise.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ShardStats {
    /// Frames and four-letter words received.
    pub packets_received: u64,
    /// Replies and events queued for sending.
    pub packets_sent: u64,
    /// Bytes taken in and bytes written to sockets.
    pub bytes_received: u64,
    pub bytes_sent: u64,
    /// Watch events among the packets sent.
    pub events_sent: u64,
    /// Reads and writes answered, since the start.
    pub reads: u64,
    pub writes: u64,
    pub latency: Latency,
    /// At present: connections, those among them with a session, and writes that are not answered.
    pub connections: usize,
    pub sessions: usize,
    pub outstanding: usize,
    /// At present: unsent bytes and bytes kept behind unfinished writes.
    pub buffered_bytes: usize,
    /// At present.
    pub watches: WatchCounts,
    /// Connections ended because too much was unsent, since the start.
    pub overruns: u64,
    /// Auth packets that proved nothing, since the start.
    pub auth_failed: u64,
}

impl ShardStats {
    /// Notes `n` replies of one connection, all for requests read `latency_ms` ago.
    pub(super) fn answered(
        &mut self,
        c: &mut Conn,
        last: (i32, Op),
        n: u64,
        latency_ms: u64,
        h: Zxid,
        now: Now,
    ) {
        self.packets_sent += n;
        self.latency.add(latency_ms, n);
        let k = &mut c.counters;
        k.sent += n;
        k.latency_count += n;
        k.latency_sum_ms += latency_ms * n;
        k.latency_last_ms = latency_ms.min(u32::MAX as u64 - 1) as u32;
        k.latency_min_ms = k.latency_min_ms.min(k.latency_last_ms);
        k.latency_max_ms = k.latency_max_ms.max(k.latency_last_ms);
        k.last_response_ms = now.wall.0;
        k.last_zxid = h.wire();
        k.last_op = Some(last.1);
        if last.0 >= 0 {
            k.last_cxid = last.0;
        }
    }

    /// `srst`: what accumulates starts again.
    pub(super) fn reset(&mut self) {
        self.latency = Latency::default();
        (self.packets_received, self.packets_sent) = (0, 0);
    }
}

/// Milliseconds since a moment of which only the low 32 bits were kept; right for 49 days.
pub(super) fn ms_since(since_ms: u32, now: Now) -> u64 {
    u64::from((now.mono.0 as u32).wrapping_sub(since_ms))
}

impl super::Shard {
    /// The counters, with what is true at present filled in.
    pub fn stats(&self) -> ShardStats {
        ShardStats {
            connections: self.conns.len(),
            sessions: self.sessions,
            outstanding: self.outstanding,
            buffered_bytes: self.buffered,
            watches: self.watches.counts(),
            ..self.stats
        }
    }

    /// Answers the core's question about connections or watches.
    pub(super) fn collect(&mut self, what: Collect) -> Collected {
        let mut part = Collected::default();
        match what {
            Collect::Connections => {
                part.connections = self.conns.occupied().map(|(_, c)| c.stat()).collect();
            }
            Collect::Watches => {
                for (slot, c) in self.conns.occupied() {
                    let paths = self.watches.data_paths_of(slot);
                    if !paths.is_empty() {
                        part.watches.push((c.session, paths.into_iter().map(str::to_owned).collect()));
                    }
                }
            }
            Collect::ResetConnections => {
                for slot in 0..self.conns.slot_count() {
                    let established = self.conns[slot].counters.established_ms;
                    self.conns[slot].counters = super::conn::ConnCounters::new(established);
                }
            }
            Collect::ResetServer => self.stats.reset(),
        }
        part
    }
}
