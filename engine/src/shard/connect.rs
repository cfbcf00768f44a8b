//! The first bytes of a connection: a four-letter word, or a ConnectRequest (fact sheet 3.1, section 4).
//!
//! Not here: the answers to words and the sessions themselves (the core has them).
//! Invariant: a connection asks the core at most once, and nothing that follows is looked at before the answer.

use super::Shard;
use super::conn::{Blocked, Close, Phase};
use super::frames::{Framed, LENGTH_BYTES, NO_SESSION, first_frame};
use crate::ids::{Attach, SessionId};
use crate::msg::{Connect, CoreLink, ToCore};
use crate::proto::{ConnectRequest, ConnectResponse, Decoder, put_frame};
use crate::time::Now;

const WORDS: [&[u8; 4]; 18] = [
    b"conf", b"cons", b"crst", b"dirs", b"dump", b"envi", b"gtmk", b"hash", b"isro", b"mntr", b"ruok",
    b"srst", b"srvr", b"stat", b"stmk", b"wchc", b"wchp", b"wchs",
];
/// `stmk` is followed by a mask.
const MASK_BYTES: usize = 8;

impl Shard {
    /// Looks at the first bytes and tells how many are done with; 0 with nothing blocked: more are needed.
    pub(super) fn first_bytes(
        &mut self,
        slot: u32,
        bytes: &[u8],
        now: Now,
        core: &mut impl CoreLink,
    ) -> usize {
        if let Some(word) = bytes.first_chunk::<4>()
            && WORDS.contains(&word)
        {
            return self.word(slot, *word, bytes, core);
        }
        match first_frame(bytes, self.limits.jute_max_buffer) {
            Framed::Needs(_) => 0,
            Framed::Bad => {
                self.conns[slot].end(Close::Now);
                bytes.len()
            }
            Framed::Whole(payload) => {
                if self.connect(slot, payload, now, core) {
                    LENGTH_BYTES + payload.len()
                } else {
                    0
                }
            }
        }
    }

    fn word(&mut self, slot: u32, word: [u8; 4], bytes: &[u8], core: &mut impl CoreLink) -> usize {
        let arg_bytes = if &word == b"stmk" { MASK_BYTES } else { 0 };
        let Some(arg) = bytes.get(word.len()..word.len() + arg_bytes) else { return 0 };
        let text = String::from_utf8_lossy(&word);
        let may = self.limits.words.as_ref().is_none_or(|w| w.iter().any(|w| **w == *text));
        if may {
            let m = ToCore::Word { conn: self.conns.id(slot), word, arg: arg.to_vec() };
            if core.send(m).is_err() {
                self.block_on_ring(slot);
                return 0;
            }
            self.await_core(slot);
        } else {
            let c = &mut self.conns[slot];
            self.spares.lend(&mut c.out);
            c.out.extend_from_slice(text.as_bytes());
            c.out.extend_from_slice(b" is not executed because it is not in the whitelist.\n");
            c.end(Close::AfterFlush);
        }
        self.received_one(slot);
        // Whatever follows a word is not looked at.
        self.conns[slot].ending = true;
        bytes.len()
    }

    /// `false`: the frame must wait for room in the request ring.
    fn connect(&mut self, slot: u32, payload: &[u8], now: Now, core: &mut impl CoreLink) -> bool {
        let Ok(r) = ConnectRequest::decode(&mut Decoder::new(payload)) else {
            self.conns[slot].end(Close::Now);
            return true;
        };
        if self.read_only && r.read_only != Some(true) {
            // It wants to write: it tries another server.
            self.conns[slot].end(Close::Now);
            return true;
        }
        // R6: whoever has seen more than this shard is not served. The ring was consumed before these bytes were
        // looked at; so the client tries another server, as with ZooKeeper.
        let seen = r.last_zxid_seen;
        let covered = seen.counter() == 0 && seen <= self.covers;
        if seen.wire() > self.h.wire() && !covered {
            self.conns[slot].end(Close::Now);
            return true;
        }
        let id = self.conns.id(slot);
        self.conns[slot].read_only_byte = r.read_only.is_some();
        let password = r.password.and_then(|p| <[u8; 16]>::try_from(p).ok());
        if r.session != NO_SESSION && password.is_none() {
            // No session has such a password. Decided here, so that no made-up one is checked.
            self.received_one(slot);
            self.refuse(slot);
            self.settle(slot, now);
            return true;
        }
        let connect = Connect {
            conn: id,
            timeout_ms: r.timeout_ms.clamp(
                self.limits.min_session_timeout_ms,
                self.limits.max_session_timeout_ms.max(self.limits.min_session_timeout_ms),
            ),
            session: r.session,
            password: password.unwrap_or_default(),
            read_only: r.read_only.unwrap_or(false),
        };
        if core.send(ToCore::Connect(connect)).is_err() {
            self.block_on_ring(slot);
            return false;
        }
        self.received_one(slot);
        self.await_core(slot);
        true
    }

    /// Nothing more is read until the core has answered.
    fn await_core(&mut self, slot: u32) {
        let c = &mut self.conns[slot];
        (c.phase, c.blocked) = (Phase::Waiting, Blocked::Session);
    }

    fn received_one(&mut self, slot: u32) {
        self.stats.packets_received += 1;
        self.conns[slot].counters.received += 1;
    }

    /// The core gave the connection its session: it is told, and what it sent meanwhile is looked at.
    pub(super) fn attached(
        &mut self,
        slot: u32,
        session: SessionId,
        attach: Attach,
        timeout_ms: i32,
        password: [u8; 16],
        now: Now,
    ) {
        let c = &mut self.conns[slot];
        if c.phase != Phase::Waiting || c.closing() {
            return;
        }
        let read_only = c.read_only_byte.then_some(self.read_only);
        (c.phase, c.session, c.attach, c.timeout_ms) = (Phase::Attached, session, attach, timeout_ms);
        c.blocked = Blocked::No;
        c.counters.last_cxid = 0;
        self.sessions += 1;
        self.spares.lend(&mut c.out);
        put_frame(&mut c.out, |out| {
            ConnectResponse { timeout_ms, session, password, read_only }.encode(out);
        });
        self.stats.packets_sent += 1;
        c.counters.sent += 1;
        c.counters.last_response_ms = now.wall.0;
        c.counters.last_op = Some(crate::proto::Op::CreateSession);
        self.heard(slot, now);
        if !self.conns[slot].input.is_empty() {
            self.make_ready(slot);
        }
    }

    /// The session is unknown, expired, or the password wrong.
    pub(super) fn refuse(&mut self, slot: u32) {
        let c = &mut self.conns[slot];
        let response = ConnectResponse::refused(c.read_only_byte.then_some(self.read_only));
        self.spares.lend(&mut c.out);
        put_frame(&mut c.out, |out| response.encode(out));
        self.stats.packets_sent += 1;
        c.counters.sent += 1;
        c.end(Close::AfterFlush);
    }

    /// The answer to a four-letter word.
    pub(super) fn text(&mut self, slot: u32, text: &[u8]) {
        let c = &mut self.conns[slot];
        self.spares.lend(&mut c.out);
        c.out.extend_from_slice(text);
        c.end(Close::AfterFlush);
    }
}
