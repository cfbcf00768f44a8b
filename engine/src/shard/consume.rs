//! A change batch, step by step: the horizon moves, watches fire, writers get their replies (DESIGN section 4).
//!
//! Invariants: R1, R2, R4 as marked below; whatever a step queues for a connection stands behind what earlier steps
//! queued for it, so frames leave in zxid order.

use super::Shard;
use super::conn::{Blocked, Close};
use crate::acl;
use crate::error::Code;
use crate::ids::Zxid;
use crate::msg::{Act, Change, ChangeBatch, CoreLink, Span, Step, Target, ToCore};
use crate::path;
use crate::proto::{Encode, Op, ReplyHeader, WatcherEvent, perm, put_frame, xid};
use crate::time::Now;
use crate::tree;

impl Shard {
    /// Takes in one batch of the change ring. Batches come in order, each once.
    pub fn consume(&mut self, batch: &ChangeBatch, now: Now, core: &mut impl CoreLink) {
        if batch.generation < self.generation {
            // The core left the role in which it made this one.
            return;
        }
        for step in &batch.steps {
            self.step(batch, step, now, core);
        }
        self.settle_touched(now);
    }

    fn step(&mut self, batch: &ChangeBatch, step: &Step, now: Now, core: &mut impl CoreLink) {
        let mine = match &step.target {
            Target::Conn(id, act) if id.shard == self.id => self.conns.resolve(*id).map(|slot| (slot, act)),
            _ => None,
        };
        // R4: reads that the writer sent before this write are answered before its effects can be seen.
        if let Some((slot, Act::Reply { .. } | Act::ReplyAndClose)) = mine {
            self.before_write(slot, now);
        }
        if let Some(zxid) = step.zxid {
            // Between roles, what is applied may begin below what this shard showed before: nobody is attached then.
            debug_assert!(
                zxid >= self.h || self.sessions == 0,
                "steps come in commit order: {zxid} behind {}",
                self.h
            );
            // R2, R3: the events of this transaction are queued before any reply at its horizon can be, and go to
            // the watches that were set at an earlier one.
            if !self.watches.is_empty() {
                for change in batch.changes_of(step) {
                    self.fire(batch, change, zxid);
                }
            }
            // R1, R5: all effects of the transaction become visible here at once.
            self.h = zxid;
        }
        match (&step.target, mine) {
            (Target::Conn(id, Act::Attached { session, attach, .. }), found)
                if id.shard == self.id && found.is_none_or(|(slot, _)| self.conns[slot].closing()) =>
            {
                // It went before it knew of its session, so its end could not name that: the core must not keep the two
                // together.
                core.send_reserved(ToCore::Gone { conn: *id, session: *session, attach: *attach });
            }
            (Target::Conn(..), Some((slot, act))) => self.act(slot, act, batch, now),
            (Target::All(act), _) => self.act_for_all(act, core),
            _ => {}
        }
    }

    fn before_write(&mut self, slot: u32, now: Now) {
        self.drain(slot, self.limits.conn_hard_limit_bytes, now);
        let c = &mut self.conns[slot];
        if c.pending.as_ref().is_some_and(|p| p.front_reads().is_some()) && !c.closing() {
            // Its reads may not be answered, for it takes nothing, and may not be passed either.
            c.end(Close::Now);
            self.stats.overruns += 1;
        }
        self.touch(slot);
    }

    fn act(&mut self, slot: u32, act: &Act, batch: &ChangeBatch, now: Now) {
        self.touch(slot);
        match act {
            Act::Reply { err, body } => self.reply(slot, *err, batch.get(*body), now),
            Act::ReplyAndClose => {
                self.reply(slot, Code::OK, batch.get(Span::default()), now);
                self.conns[slot].end(Close::AfterFlush);
            }
            Act::Attached { session, attach, timeout_ms, password } => {
                self.attached(slot, *session, *attach, *timeout_ms, *password, now);
            }
            Act::Refused => self.refuse(slot),
            Act::Close => self.conns[slot].end(Close::AfterFlush),
            Act::Text(span) => self.text(slot, batch.get(*span)),
            // Controls for every shard; for one connection they mean nothing.
            Act::Collect { .. } | Act::CloseAll { .. } | Act::Serve { .. } => {
                debug_assert!(false, "{act:?} for one connection")
            }
        }
    }

    /// Finishes the connection's first unfinished write; the zxid of the reply is the horizon that shows it.
    fn reply(&mut self, slot: u32, err: Code, body: &[u8], now: Now) {
        let c = &mut self.conns[slot];
        let Some((xid, op, since_ms)) = c.pending.as_mut().and_then(|p| p.pop_write()) else {
            // Either it is being closed since its reads cannot be answered, or the core answered what nobody asked.
            debug_assert!(c.closing(), "a reply without a request");
            c.end(Close::Now);
            return;
        };
        self.outstanding -= 1;
        self.admission.writes_changed(-1);
        if let Some(done) = c.pending.take_if(|p| p.is_empty()) {
            self.spares.give_back_pending(done);
        }
        if c.closing() {
            return;
        }
        if c.unsent() > self.limits.conn_hard_limit_bytes {
            // Replies to writes cannot wait either.
            c.end(Close::Now);
            self.stats.overruns += 1;
            return;
        }
        self.spares.lend(&mut c.out);
        c.out.reserve(4 + ReplyHeader::BYTES + body.len());
        c.out.put_len(ReplyHeader::BYTES + body.len());
        ReplyHeader { xid, zxid: self.h.wire(), err }.encode(&mut c.out);
        c.out.extend_from_slice(body);
        self.stats.writes += 1;
        let latency_ms = super::stats::ms_since(since_ms, now);
        // What failed shows as no operation in `cons`: its transaction is an error, whatever it asked for.
        let shown = if err == Code::OK { op } else { Op::Error };
        self.stats.answered(c, (xid, shown), 1, latency_ms, self.h, now);
    }

    fn act_for_all(&mut self, act: &Act, core: &mut impl CoreLink) {
        match act {
            Act::Collect { token, what } => {
                let part = self.collect(*what);
                core.send_reserved(ToCore::Collected { shard: self.id, token: *token, part });
            }
            Act::CloseAll { generation } => {
                self.draining = Some(*generation);
                let all: Vec<u32> = self.conns.occupied().map(|(slot, _)| slot).collect();
                for slot in all {
                    self.conns[slot].end(Close::Now);
                    self.touch(slot);
                }
                self.drained(core);
            }
            Act::Serve { tree, h, covers, read_only } => {
                self.read_only = *read_only;
                self.serve_from(tree, *h, *covers);
            }
            _ => debug_assert!(false, "{act:?} for every shard"),
        }
    }

    /// Nobody is attached here: what is read, and at which horizon, may change.
    fn serve_from(&mut self, tree: &tree::Handle, h: Zxid, covers: Zxid) {
        debug_assert_eq!(self.sessions, 0, "a role begins when those of the last one are gone");
        if !self.reader.reads(tree) {
            match tree.reader() {
                Some(reader) => self.reader = reader,
                None => {
                    debug_assert!(false, "a tree has a reader for every shard");
                    return;
                }
            }
            self.reader.begin_turn(h);
        }
        (self.h, self.covers) = (h, covers);
    }

    /// Queues the events of one change, for those who watch and may read.
    fn fire(&mut self, batch: &ChangeBatch, change: &Change, zxid: Zxid) {
        let changed = batch.path(change);
        let reader = &self.reader;
        self.deliveries.clear();
        self.watches.fire(
            change.kind,
            changed,
            change.path_hash,
            change.parent_hash,
            |above| reader.hash(above).0,
            &mut self.deliveries,
        );
        if self.deliveries.is_empty() {
            return;
        }
        let deliveries = std::mem::take(&mut self.deliveries);
        let mut encoded = None;
        for d in &deliveries {
            let c = &mut self.conns[d.slot];
            let acl = if d.of_parent() { &change.parent_acl } else { &change.acl };
            let may = acl.as_ref().is_none_or(|a| acl::allowed(self.limits.skip_acl, &c.ids, a, perm::READ));
            if !may || c.closing() {
                continue;
            }
            if c.unsent() > self.limits.conn_hard_limit_bytes {
                // Events cannot wait: the client comes back, registers again and catches up.
                c.end(Close::Now);
                self.stats.overruns += 1;
                self.touch(d.slot);
                continue;
            }
            if encoded != Some(d.kind) {
                encoded = Some(d.kind);
                let about = if d.of_parent() { path::parent(changed).unwrap_or("/") } else { changed };
                self.event.clear();
                put_event(&mut self.event, zxid.wire(), d.kind as i32, about);
            }
            self.spares.lend(&mut c.out);
            c.out.extend_from_slice(&self.event);
            c.counters.sent += 1;
            self.stats.packets_sent += 1;
            self.stats.events_sent += 1;
            self.touch(d.slot);
        }
        self.deliveries = deliveries;
    }

    fn touch(&mut self, slot: u32) {
        if !self.conns[slot].touched {
            self.conns[slot].touched = true;
            self.lists.touched.push(slot);
        }
    }

    /// Behind the last step: reads that no unfinished write holds back any more are answered, at the horizon reached.
    fn settle_touched(&mut self, now: Now) {
        let touched = std::mem::take(&mut self.lists.touched);
        for slot in &touched {
            self.conns[*slot].touched = false;
            self.drain(*slot, self.limits.conn_soft_limit_bytes, now);
            if self.conns[*slot].blocked == Blocked::Behind {
                self.make_ready(*slot);
            }
            self.settle(*slot, now);
        }
        self.lists.touched = touched;
        self.lists.touched.clear();
    }
}

/// A watch event (fact sheet 2.5, 3.10); `zxid` -1 for those that catch up.
pub(super) fn put_event(out: &mut Vec<u8>, zxid: i64, kind: i32, about: &str) {
    put_frame(out, |out| {
        ReplyHeader { xid: xid::WATCH_EVENT, zxid, err: Code::OK }.encode(out);
        WatcherEvent { kind, state: WatcherEvent::SYNC_CONNECTED, path: about.into() }.encode(out);
    });
}
