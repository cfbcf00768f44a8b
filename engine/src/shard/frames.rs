//! From bytes to requests: frames are parsed where they lie, reads answered or kept, writes handed to the core.
//!
//! Invariants:
//! - bytes are copied only when a frame is incomplete, must wait, or stands behind an unfinished write;
//! - R4: what a connection sent is looked at strictly in order; a block on one frame blocks all behind it;
//! - one call serves at most `FRAMES_PER_CALL` frames of one connection; the rest waits for `resume`.

use super::conn::{Blocked, Close, Phase};
use super::reads::{self, Stop};
use super::{Shard, conn::KEPT_BYTES_MAX};
use crate::acl;
use crate::error::Code;
use crate::ids::{ConnId, SessionId, Zxid};
use crate::msg::{CoreLink, Request, ToCore};
use crate::proto::{AuthPacket, Decoder, Encode, Op, ReplyHeader, put_frame};
use crate::time::Now;
use std::sync::Arc;

/// Identities that one connection may collect: every one is compared at every access check.
const IDS_MAX: usize = 64;
/// A connection's share of one call, frames.
const FRAMES_PER_CALL: usize = 8192;
/// A frame's length word.
pub(super) const LENGTH_BYTES: usize = 4;
/// A request header: xid and opcode.
pub(super) const HEADER_BYTES: usize = 8;

/// The first frame of some bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framed<'a> {
    /// The payload; with its length word it takes `LENGTH_BYTES` more.
    Whole(&'a [u8]),
    /// So many bytes are needed in all before anything can be said.
    Needs(usize),
    /// A length that no frame has: the connection is closed without a reply.
    Bad,
}

/// Cuts the first frame off.
pub(super) fn first_frame(bytes: &[u8], max: usize) -> Framed<'_> {
    let Some((length, rest)) = bytes.split_first_chunk::<LENGTH_BYTES>() else {
        return Framed::Needs(LENGTH_BYTES);
    };
    match usize::try_from(i32::from_be_bytes(*length)) {
        Ok(n) if n <= max => rest.get(..n).map_or(Framed::Needs(LENGTH_BYTES + n), Framed::Whole),
        _ => Framed::Bad,
    }
}

/// How an opcode is served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Class {
    /// Answered here at the horizon. So are opcodes that are refused: they keep their place as reads do.
    Read,
    /// Answered by the core.
    Write,
    /// Answered here at once, whatever is unfinished.
    AtOnce,
}

/// Fact sheet 2.1. Unknown numbers and what clients may not send are `Read`s that end in a refusal.
pub(super) fn class_of(op: Option<Op>) -> Class {
    match op {
        Some(
            Op::Create
            | Op::Create2
            | Op::CreateContainer
            | Op::CreateTtl
            | Op::Delete
            | Op::SetData
            | Op::SetAcl
            | Op::Multi
            | Op::Reconfig
            | Op::Sync
            | Op::CloseSession
            | Op::GetEphemerals,
        ) => Class::Write,
        Some(Op::Auth | Op::Sasl) => Class::AtOnce,
        _ => Class::Read,
    }
}

impl Shard {
    /// Bytes just read from a connection's socket. Every complete request in them is served, kept or handed to the
    /// core. Only after the batches of the change ring, loaded behind the read, were consumed (R6, R7).
    pub fn input(&mut self, id: ConnId, bytes: &[u8], now: Now, core: &mut impl CoreLink) {
        let Some(slot) = self.conns.resolve(id) else { return };
        self.stats.bytes_received += bytes.len() as u64;
        self.heard(slot, now);
        let mut rest = bytes;
        if !self.conns[slot].input.is_empty() && self.conns[slot].blocked == Blocked::No {
            rest = self.complete_partial(slot, rest, now, core);
        }
        if self.conns[slot].blocked == Blocked::No && self.conns[slot].input.is_empty() {
            let used = self.serve(slot, rest, now, core);
            rest = &rest[used..];
        }
        self.leave_over(slot, rest);
        self.settle(slot, now);
    }

    /// Fills up the partial frame that was left over and serves it; gives what follows. Copies no more than the frame
    /// needs.
    fn complete_partial<'a>(
        &mut self,
        slot: u32,
        bytes: &'a [u8],
        now: Now,
        core: &mut impl CoreLink,
    ) -> &'a [u8] {
        let mut rest = bytes;
        while !self.conns[slot].input.is_empty() && self.conns[slot].blocked == Blocked::No {
            let mut input = std::mem::take(&mut self.conns[slot].input);
            let lacking = match first_frame(&input, self.limits.jute_max_buffer) {
                Framed::Needs(n) => n - input.len(),
                // A four-letter word with an argument, which has no length: `input` keeps what it does not need.
                Framed::Whole(_) | Framed::Bad => rest.len(),
            };
            let taken = lacking.min(rest.len());
            input.extend_from_slice(&rest[..taken]);
            rest = &rest[taken..];
            let used = self.serve(slot, &input, now, core);
            input.drain(..used);
            self.conns[slot].input = input;
            self.tidy_input(slot);
            if used == 0 && rest.is_empty() {
                break;
            }
        }
        rest
    }

    /// Keeps what could not be served.
    fn leave_over(&mut self, slot: u32, rest: &[u8]) {
        let c = &mut self.conns[slot];
        if c.closing() || c.ending {
            // Whatever follows a connection's last request is nobody's.
            c.input.clear();
        } else if !rest.is_empty() {
            self.spares.lend(&mut c.input);
            c.input.extend_from_slice(rest);
        }
        self.tidy_input(slot);
    }

    fn tidy_input(&mut self, slot: u32) {
        let c = &mut self.conns[slot];
        if c.input.is_empty() && c.input.capacity() > 0 {
            self.spares.give_back(&mut c.input);
        }
    }

    /// Lets connections go on that waited for room, for their session or for their next share; those that wait for
    /// the request ring first. Call once per turn, behind `consume`.
    pub fn resume(&mut self, now: Now, core: &mut impl CoreLink) {
        if !self.reads_allowed() {
            self.left_unread();
            return;
        }
        for _ in 0..self.lists.ring.len() {
            let Some(id) = self.lists.ring.pop_front() else { break };
            let Some(slot) = self.conns.resolve(id) else { continue };
            self.go_on(slot, now, core);
            // One that is being closed was not put back, though nothing else stopped it.
            if self.conns[slot].blocked == Blocked::Ring && self.lists.ring.back() == Some(&id) {
                // The ring is still full. It was put behind the others; put it first, and try again next turn.
                self.lists.ring.rotate_right(1);
                break;
            }
        }
        for _ in 0..self.lists.ready.len() {
            let Some(id) = self.lists.ready.pop_front() else { break };
            let Some(slot) = self.conns.resolve(id) else { continue };
            self.conns[slot].ready = false;
            if self.conns[slot].blocked != Blocked::Ring {
                self.go_on(slot, now, core);
            }
        }
    }

    fn go_on(&mut self, slot: u32, now: Now, core: &mut impl CoreLink) {
        self.drain(slot, self.limits.conn_soft_limit_bytes, now);
        let c = &mut self.conns[slot];
        if c.phase != Phase::Waiting && !c.closing() {
            c.blocked = Blocked::No;
            let mut input = std::mem::take(&mut c.input);
            let used = self.serve(slot, &input, now, core);
            input.drain(..used);
            self.conns[slot].input = input;
        }
        self.leave_over(slot, &[]);
        self.settle(slot, now);
    }

    /// Serves as much of `bytes` as it may and tells how much that was. What stopped it stands in `blocked`; if
    /// nothing does, the rest is an incomplete frame.
    fn serve(&mut self, slot: u32, bytes: &[u8], now: Now, core: &mut impl CoreLink) -> usize {
        let mut used = 0;
        let mut budget = FRAMES_PER_CALL;
        loop {
            let c = &self.conns[slot];
            if c.closing() || c.ending {
                return bytes.len();
            }
            if used == bytes.len() {
                return used;
            }
            let before = used;
            match c.phase {
                Phase::First => used += self.first_bytes(slot, &bytes[used..], now, core),
                Phase::Attached => used += self.requests(slot, &bytes[used..], &mut budget, now, core),
                // Blocked since it began to wait.
                Phase::Waiting => return used,
                Phase::Free => return bytes.len(),
            }
            if self.conns[slot].blocked != Blocked::No || used == before {
                return used;
            }
        }
    }

    /// Its next request waits for room in the request ring.
    pub(super) fn block_on_ring(&mut self, slot: u32) {
        self.block(slot, Blocked::Ring);
    }

    /// Notes why a connection stops, and where it will be found again.
    fn block(&mut self, slot: u32, why: Blocked) {
        self.conns[slot].blocked = why;
        match why {
            Blocked::Ring => self.lists.ring.push_back(self.conns.id(slot)),
            Blocked::Budget => self.make_ready(slot),
            // Found by `wrote`, by the reply to a write, and by the core's answer.
            Blocked::Out | Blocked::Behind | Blocked::Session | Blocked::No => {}
        }
    }

    fn requests(
        &mut self,
        slot: u32,
        bytes: &[u8],
        budget: &mut usize,
        now: Now,
        core: &mut impl CoreLink,
    ) -> usize {
        let mut at = 0;
        while *budget > 0 {
            let c = &self.conns[slot];
            if c.unsent() >= self.limits.conn_soft_limit_bytes {
                self.block(slot, Blocked::Out);
                return at;
            }
            // R4: with nothing unfinished before them, reads are answered where they lie.
            if c.pending.is_none() {
                let soft = self.limits.conn_soft_limit_bytes;
                let run = self.answer(slot, &bytes[at..], soft, *budget, 0, now);
                at += run.used;
                *budget = budget.saturating_sub(run.cost);
                match run.stop {
                    Stop::NotARead => {}
                    Stop::Limit => continue,
                    Stop::Incomplete => return at,
                    Stop::Close => return bytes.len(),
                }
            }
            let payload = match first_frame(&bytes[at..], self.limits.jute_max_buffer) {
                Framed::Whole(p) if p.len() >= HEADER_BYTES => p,
                Framed::Needs(_) => return at,
                Framed::Whole(_) | Framed::Bad => {
                    self.conns[slot].end(Close::Now);
                    return bytes.len();
                }
            };
            let end = at + LENGTH_BYTES + payload.len();
            if !self.one_frame(slot, &bytes[at..end], now, core) {
                return at;
            }
            at = end;
            *budget -= 1;
            if self.conns[slot].closing() || self.conns[slot].ending {
                return bytes.len();
            }
        }
        self.block(slot, Blocked::Budget);
        at
    }

    /// One whole frame that is not answered as part of a run. `false`: it must wait; `blocked` says for what.
    fn one_frame(&mut self, slot: u32, frame: &[u8], now: Now, core: &mut impl CoreLink) -> bool {
        let payload = &frame[LENGTH_BYTES..];
        let (xid, op) = header_of(payload);
        match class_of(op) {
            Class::Read => {
                let pending = self.spares.pending(&mut self.conns[slot].pending);
                if pending.kept_bytes() >= KEPT_BYTES_MAX {
                    self.block(slot, Blocked::Behind);
                    return false;
                }
                // R4: it stands behind an unfinished write.
                pending.push_read(frame, now.mono.0 as u32);
                true
            }
            Class::AtOnce => {
                self.count_received(slot);
                self.at_once(slot, xid, op, &payload[HEADER_BYTES..], now);
                true
            }
            Class::Write => {
                self.hand_over(slot, xid, op.unwrap_or(Op::Sync), &payload[HEADER_BYTES..], now, core)
            }
        }
    }

    fn count_received(&mut self, slot: u32) {
        self.stats.packets_received += 1;
        self.conns[slot].counters.received += 1;
    }

    /// Hands a write to the core, in the order of its connection.
    fn hand_over(
        &mut self,
        slot: u32,
        xid: i32,
        op: Op,
        body: &[u8],
        now: Now,
        core: &mut impl CoreLink,
    ) -> bool {
        let id = self.conns.id(slot);
        let c = &mut self.conns[slot];
        // Over the limit every connection still has its share of it: otherwise those whose replies come first would
        // take all the room again and again, and others would wait for hundreds of groups.
        let share = (self.limits.outstanding_writes / self.sessions.max(1)).max(1);
        if c.writes() as usize >= share && self.admission.writes() >= self.limits.outstanding_writes {
            self.block(slot, Blocked::Behind);
            return false;
        }
        let request = Request {
            conn: id,
            session: c.session,
            attach: c.attach,
            xid,
            op,
            body: body.into(),
            ids: c.ids.clone(),
        };
        if core.send(ToCore::Request(request)).is_err() {
            self.block(slot, Blocked::Ring);
            return false;
        }
        self.spares.pending(&mut c.pending).push_write(xid, op, now.mono.0 as u32);
        c.ending |= op == Op::CloseSession;
        self.outstanding += 1;
        self.admission.writes_changed(1);
        self.count_received(slot);
        true
    }

    /// auth and sasl: no place in the order of replies, zxid 0 (fact sheet 3.4, 3.8).
    fn at_once(&mut self, slot: u32, xid: i32, op: Option<Op>, body: &[u8], now: Now) {
        let mut d = Decoder::new(body);
        if op == Some(Op::Sasl) {
            // A server without SASL configured answers success and a null token; without a token it fails over it.
            match d.buffer() {
                Ok(Some(_)) => {
                    self.reply_now(slot, xid, Op::Sasl, Code::OK, now, |out| out.put_buffer(None));
                }
                _ => self.conns[slot].end(Close::Now),
            }
            return;
        }
        let Ok(packet) = AuthPacket::decode(&mut d) else {
            self.conns[slot].end(Close::Now);
            return;
        };
        let super_digest = self.limits.super_digest.as_deref();
        let c = &mut self.conns[slot];
        let shown = packet.scheme.as_deref().zip(packet.auth);
        match shown.map_or(Err(Code::AUTHFAILED), |(scheme, auth)| {
            acl::authenticate(super_digest, c.peer.ip(), scheme, auth)
        }) {
            Ok(new) => {
                let new: Vec<_> = new.into_iter().filter(|id| !c.ids.contains(id)).collect();
                if c.ids.len() + new.len() > IDS_MAX {
                    self.stats.auth_failed += 1;
                    self.reply_now(slot, xid, Op::Auth, Code::AUTHFAILED, now, |_| {});
                    self.conns[slot].end(Close::AfterFlush);
                    return;
                }
                if !new.is_empty() {
                    c.ids = c.ids.iter().cloned().chain(new).collect::<Arc<[_]>>();
                }
                self.reply_now(slot, xid, Op::Auth, Code::OK, now, |_| {});
            }
            Err(code) => {
                self.stats.auth_failed += 1;
                self.reply_now(slot, xid, Op::Auth, code, now, |_| {});
                self.conns[slot].end(Close::AfterFlush);
            }
        }
    }

    /// A reply with zxid 0 behind which no transaction stands.
    fn reply_now(
        &mut self,
        slot: u32,
        xid: i32,
        op: Op,
        err: Code,
        now: Now,
        body: impl FnOnce(&mut Vec<u8>),
    ) {
        let c = &mut self.conns[slot];
        self.spares.lend(&mut c.out);
        put_frame(&mut c.out, |out| {
            ReplyHeader { xid, zxid: 0, err }.encode(out);
            body(out);
        });
        self.stats.answered(c, (xid, op), 1, 0, Zxid::ZERO, now);
    }

    /// Answers kept reads that stand before every unfinished write, while less than `limit` bytes are unsent.
    pub(super) fn drain(&mut self, slot: u32, limit: usize, now: Now) {
        let Some(mut pending) = self.conns[slot].pending.take() else { return };
        while let Some((frames, since_ms)) = pending.front_reads() {
            if self.conns[slot].closing() || self.conns[slot].unsent() >= limit {
                break;
            }
            let run =
                self.answer(slot, frames, limit, usize::MAX, super::stats::ms_since(since_ms, now), now);
            pending.answered(run.used, run.frames as u32);
        }
        if pending.is_empty() {
            self.spares.give_back_pending(pending);
        } else {
            self.conns[slot].pending = Some(pending);
        }
    }

    /// Answers the run of reads at the head of `bytes` at the present horizon.
    fn answer(
        &mut self,
        slot: u32,
        bytes: &[u8],
        limit: usize,
        budget: usize,
        latency_ms: u64,
        now: Now,
    ) -> reads::Run {
        let c = &mut self.conns[slot];
        self.spares.lend(&mut c.out);
        let mut turn = reads::Answering {
            view: self.reader.at(self.h),
            watches: &mut self.watches,
            limits: &self.limits,
            slot,
            conn: c,
            h: self.h,
            walked: 0,
        };
        let run = turn.run(bytes, limit, budget);
        if let Some(last) = run.last {
            let n = run.frames as u64;
            self.stats.packets_received += n;
            self.stats.reads += n;
            self.stats.packets_sent += run.events;
            self.stats.events_sent += run.events;
            c.counters.received += n;
            c.counters.sent += run.events;
            self.stats.answered(c, last, n, latency_ms, self.h, now);
        }
        if run.stop == Stop::Close {
            c.end(Close::AfterFlush);
        }
        run
    }
}

/// xid and opcode; the caller made sure that they are there.
pub(super) fn header_of(payload: &[u8]) -> (i32, Option<Op>) {
    let word = |at: usize| i32::from_be_bytes(payload[at..at + 4].try_into().expect("four bytes"));
    (word(0), Op::from_wire(word(4)))
}

/// A session that is none.
pub(super) const NO_SESSION: SessionId = SessionId::NONE;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_judged_before_anything_is_kept() {
        assert_eq!(first_frame(&[0, 0], 10), Framed::Needs(4));
        assert_eq!(first_frame(&[0, 0, 0, 2, 7], 10), Framed::Needs(6));
        assert_eq!(first_frame(&[0, 0, 0, 2, 7, 8, 9], 10), Framed::Whole(&[7, 8]));
        assert_eq!(first_frame(&[0, 0, 0, 11, 7, 8, 9], 10), Framed::Bad);
        assert_eq!(first_frame(&[0xff, 0, 0, 1], 10), Framed::Bad);
    }
}
