//! A shard's loop body: sockets in, the shard's turn, sockets out.
//!
//! Not here: when to sleep (`run`), what bytes mean (`engine::shard`).
//! Invariants:
//! - the change ring's end is loaded behind every read from a socket and consumed before those bytes are served (R7);
//! - one read per connection and turn, and one write per connection when its bytes are served.

use super::shared::{Door, Shared, StatsCell};
use crate::clock::Clock;
use crate::reactor::{Close, Event, ListenerId, Reactor, Received, Token};
use crate::ring::{Bell, Producer, Subscriber};
use engine::ids::ConnId;
use engine::msg::{ChangeBatch, CoreLink, ToCore};
use engine::shard::{Close as Ending, Shard};
use engine::time::{MonoMs, Now};
use std::sync::Arc;
use std::time::Duration;

/// Connections accepted per listener and turn.
const ACCEPTS_PER_TURN: usize = 64;

/// The request ring, as the shard sees it.
pub struct Link {
    pub ring: Producer<ToCore>,
    /// The core's; `None` when it runs on this thread.
    pub bell: Option<Bell>,
    /// Something was handed over that the core has not been told of.
    pub pushed: bool,
}

impl Link {
    fn tell(&mut self) {
        if std::mem::take(&mut self.pushed)
            && let Some(bell) = &self.bell
        {
            bell.ring();
        }
    }
}

impl CoreLink for Link {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        self.pushed = true;
        self.ring.try_push(m)
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.pushed = true;
        self.ring.push_reserved(m);
    }
}

/// See the module.
pub struct ShardLoop {
    pub shard: Shard,
    pub link: Link,
    pub changes: Subscriber<ChangeBatch>,
    pub scratch: Box<[u8]>,
    pub clock: Clock,
    pub shared: Arc<Shared>,
    pub stats: Arc<StatsCell>,
    pub door: Arc<Door>,
    /// Those that take connections at present.
    pub listeners: Vec<ListenerId>,
    /// Which connection has which token.
    pub tenants: Vec<Option<ConnId>>,
}

impl ShardLoop {
    /// Consumes what the core has published.
    fn consume(&mut self, now: Now) {
        if !self.changes.has_more() {
            return;
        }
        self.changes.load_end();
        while let Some(batch) = self.changes.next() {
            self.shard.consume(batch, now, &mut self.link);
        }
    }

    /// One turn. `polled_at`: just before the events were asked for, so that whatever came before is among them.
    pub fn turn(&mut self, reactor: &mut impl Reactor, events: &[Event], polled_at: MonoMs) {
        let now = self.clock.now();
        self.shard.begin_turn();
        self.consume(now);
        if self.door.is_fresh() {
            self.move_in(reactor, now);
        }
        for event in events {
            match *event {
                Event::Accept(listener) => self.accept(reactor, listener, now),
                Event::Ready { token, readable, writable } => {
                    let Some(id) = self.tenants.get(token.0 as usize).copied().flatten() else { continue };
                    if writable {
                        reactor.set_write_interest(token, false);
                        self.flush(reactor, id, now);
                    }
                    if readable {
                        if self.shard.reads_allowed() {
                            self.read(reactor, id, now);
                        } else {
                            self.shard.left_unread();
                        }
                    }
                }
                Event::Signal(_) => {}
            }
        }
        self.link.ring.flush();
        self.consume(now);
        self.shard.resume(now, &mut self.link);
        self.shard.timers(now);
        // One report at a time may wait for room: a core that takes nothing must not be buried in them.
        if self.link.ring.waiting() == 0 {
            self.shard.activity_report(polled_at, now, &mut self.link);
        }
        self.settle(reactor, now);
        self.link.tell();
        self.stats.store(&self.shard.stats());
    }

    /// New listeners take the place of the present ones. Who waits there already is still taken, as far as there is room.
    fn move_in(&mut self, reactor: &mut impl Reactor, now: Now) {
        let mut open = Vec::new();
        for listener in self.door.take() {
            match reactor.add_listener(listener) {
                Ok(id) => open.push(id),
                Err(e) => {
                    tracing::error!("a new listener cannot be watched: {e}; restart this server");
                    return self.listeners.append(&mut open);
                }
            }
        }
        for id in std::mem::replace(&mut self.listeners, open) {
            self.accept(reactor, id, now);
            reactor.close_listener(id);
        }
    }

    fn accept(&mut self, reactor: &mut impl Reactor, from: ListenerId, now: Now) {
        for _ in 0..ACCEPTS_PER_TURN {
            let Some(incoming) = reactor.accept(from) else { return };
            let Some(id) = self.shard.accept(incoming.peer(), now) else {
                self.shared.book_rejected();
                continue;
            };
            if let Err(e) = reactor.add(Token(id.slot), incoming) {
                tracing::warn!("a new connection cannot be watched: {e}");
                self.shard.closed(id, &mut self.link);
                continue;
            }
            let slot = id.slot as usize;
            if self.tenants.len() <= slot {
                self.tenants.resize(slot + 1, None);
            }
            self.tenants[slot] = Some(id);
        }
    }

    fn read(&mut self, reactor: &mut impl Reactor, id: ConnId, now: Now) {
        match reactor.read(Token(id.slot), &mut self.scratch) {
            Ok(Received::Bytes(n)) => {
                self.consume(now);
                self.shard.input(id, &self.scratch[..n], now, &mut self.link);
                self.flush(reactor, id, now);
            }
            Ok(Received::Nothing) => {}
            // A peer that still waits for the answer to a word has only closed its sending side.
            Ok(Received::End) if self.shard.end_of_input(id) => {}
            Ok(Received::End) => self.close(reactor, id, Close::Flushed),
            Err(_) => self.close(reactor, id, Close::Now),
        }
    }

    fn flush(&mut self, reactor: &mut impl Reactor, id: ConnId, now: Now) {
        let token = Token(id.slot);
        let bytes = self.shard.output(id);
        if bytes.is_empty() {
            return;
        }
        let all = bytes.len();
        match reactor.write(token, bytes) {
            Ok(n) => {
                self.shard.wrote(id, n, now);
                if n < all {
                    reactor.set_write_interest(token, true);
                }
            }
            Err(_) => self.close(reactor, id, Close::Now),
        }
    }

    /// Writes what is unsent, follows changes of read interest, closes who is to be closed.
    fn settle(&mut self, reactor: &mut impl Reactor, now: Now) {
        while let Some(id) = self.shard.next_dirty() {
            self.flush(reactor, id, now);
        }
        while let Some((id, on)) = self.shard.next_reading() {
            reactor.set_read_interest(Token(id.slot), on);
        }
        while let Some(id) = self.shard.next_leaving() {
            let how = if self.shard.output(id).is_empty() { Close::Flushed } else { Close::Now };
            debug_assert_ne!(self.shard.should_close(id), Ending::Open);
            self.close(reactor, id, how);
        }
    }

    fn close(&mut self, reactor: &mut impl Reactor, id: ConnId, how: Close) {
        self.tenants[id.slot as usize] = None;
        reactor.close(Token(id.slot), how);
        self.shard.closed(id, &mut self.link);
    }

    /// Whether a turn has something to do right now: the last look before sleeping.
    pub fn has_work(&self) -> bool {
        self.changes.has_more()
            || self.shard.has_ready()
            || self.link.ring.may_go_on()
            || self.door.is_fresh()
    }

    /// Before sleeping.
    pub fn rest(&mut self) {
        self.shard.rest();
    }

    /// How long a sleep may last at most. Activity is reported at least every quarter of a tick.
    pub fn patience(&self, report_every: Duration) -> Duration {
        let now = self.clock.mono();
        let due = self.shard.next_deadline().map_or(u64::MAX, |d| d.since(now));
        let blocked = if self.shard.ring_blocked() { 1 } else { u64::MAX };
        // An overdue report waits for room in the ring: no reason to spin.
        report_every.min(Duration::from_millis(due.min(blocked).max(1)))
    }

    /// Ends every connection: what is queued is offered once more.
    pub fn end(&mut self, reactor: &mut impl Reactor, how: Close) {
        self.door.shut();
        let now = self.clock.now();
        for id in std::mem::take(&mut self.tenants).into_iter().flatten() {
            if how == Close::Flushed {
                let bytes = self.shard.output(id);
                let sent = reactor.write(Token(id.slot), bytes).unwrap_or(0);
                self.shard.wrote(id, sent, now);
            }
            reactor.close(Token(id.slot), how);
        }
    }
}
