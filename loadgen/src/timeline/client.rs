//! A session that outlives its connections: when one breaks it goes on to the next server at once, with the same id
//! and password. It asks on a plan; what is due while it has no connection waits.
//!
//! Not here: the plan, the loop over all sessions (`driver`).
//! Invariants: what is queued is bounded, what finds no room has failed; a request whose connection broke has failed
//! and is not sent again, for it may have been carried out.

use super::log::Log;
use crate::record::saturating_record;
use engine::ids::{SessionId, Zxid};
use engine::proto::{
    AuthPacket, ConnectRequest, ConnectResponse, Decoder, Encode, Op, PathWatch, ReplyHeader, RequestHeader,
    SetDataRequest, Stat, put_frame, xid,
};
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;

/// Requests that wait for a connection, or for room in the server, per session.
const WAITING_MAX: usize = 100_000;
/// Requests in flight per session.
const IN_FLIGHT_MAX: usize = 10_000;
/// A reply is never longer: values are at most 1 MB.
const FRAME_MAX: usize = 2 << 20;

/// What all sessions have in common.
#[derive(Debug)]
pub struct Common {
    pub servers: Vec<SocketAddr>,
    /// The session timeout to ask for, in milliseconds.
    pub timeout_ms: i32,
    pub credential: Option<crate::client::Credential>,
    pub value: Vec<u8>,
    /// Pause when no server took a session, in nanoseconds.
    pub pause_ns: u64,
    /// Longest wait for a server's welcome, in nanoseconds.
    pub welcome_ns: u64,
}

/// What a request asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ask {
    /// Sets the session's node.
    Write,
    /// Gets it.
    Read,
    /// A sync of it, and then a get that tells its version. After the plan.
    Sync,
    Check,
}

#[derive(Debug)]
struct InFlight {
    xid: i32,
    ask: Ask,
    planned: u64,
    sent: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// No connection until this moment.
    Pausing(u64),
    /// The handshake is sent, or will be when the connection stands. To be answered by this moment.
    Opening(u64),
    Connected,
    /// The session is closed.
    Closed,
}

/// A session.
#[derive(Debug)]
pub struct Client {
    number: u32,
    common: Arc<Common>,
    path: String,
    state: State,
    server: usize,
    /// Servers that were tried in vain one after the other.
    tried: usize,
    session: SessionId,
    password: [u8; 16],
    seen: Zxid,
    /// The timeout that was granted.
    timeout_ns: u64,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    next_xid: i32,
    in_flight: VecDeque<InFlight>,
    waiting: VecDeque<(Ask, u64)>,
    connected_at: u64,
    last_heard: u64,
    last_sent: u64,
    /// Writes of this session that were acknowledged.
    pub acknowledged: u64,
    /// The version of its node, as the check found it.
    pub version: Option<i32>,
}

impl Client {
    /// The session with this number; it starts on the server with that number, modulo how many there are.
    pub fn new(number: u32, path: String, common: Arc<Common>) -> Client {
        let server = number as usize % common.servers.len();
        Client {
            number,
            common,
            path,
            state: State::Pausing(0),
            server,
            tried: 0,
            session: SessionId::NONE,
            password: [0; 16],
            seen: Zxid::ZERO,
            timeout_ns: 0,
            stream: None,
            input: Vec::new(),
            out: Vec::new(),
            written: 0,
            next_xid: 1,
            in_flight: VecDeque::new(),
            waiting: VecDeque::new(),
            connected_at: 0,
            last_heard: 0,
            last_sent: 0,
            acknowledged: 0,
            version: None,
        }
    }

    /// Whether it is connected with a session.
    pub fn connected(&self) -> bool {
        self.state == State::Connected
    }

    /// Whether its session is closed.
    fn closed(&self) -> bool {
        self.state == State::Closed
    }

    /// Requests that have neither been answered nor failed.
    pub fn owed(&self) -> usize {
        self.in_flight.len() + self.waiting.len()
    }

    /// A request is due.
    pub fn due(&mut self, ask: Ask, planned: u64, now: u64, log: &mut Log) {
        if self.waiting.len() < WAITING_MAX {
            self.waiting.push_back((ask, planned));
        } else {
            log.failed(1, now);
        }
    }

    /// Forgets what has not been sent.
    pub fn forget_waiting(&mut self, now: u64, log: &mut Log) {
        log.failed(self.waiting.len(), now);
        self.waiting.clear();
    }

    /// Sends what is due and looks at the time. To be called often.
    pub fn advance(&mut self, now: u64, registry: &Registry, log: &mut Log) {
        match self.state {
            State::Pausing(until) if now >= until => self.dial(now, registry, log),
            State::Opening(until) if now >= until => {
                self.lose("no welcome in time", now, log);
                self.dial(now, registry, log);
            }
            // As stock clients do: they give a silent server up after two thirds of the session's time.
            State::Connected if now - self.last_heard > self.timeout_ns / 3 * 2 => {
                self.lose("the server is silent", now, log);
                self.dial(now, registry, log);
            }
            State::Connected => {
                self.send_waiting(now, log);
                if now - self.last_sent > self.timeout_ns / 3 {
                    let ping = RequestHeader { xid: xid::PING, op: Op::Ping.wire() };
                    put_frame(&mut self.out, |out| ping.encode(out));
                }
                self.flush_or_move(now, registry, log);
            }
            _ => {}
        }
    }

    /// Its socket is ready for something.
    pub fn ready(&mut self, now: u64, scratch: &mut [u8], registry: &Registry, log: &mut Log) {
        if self.stream.is_none() {
            return;
        }
        match self.read(now, scratch, log) {
            Ok(()) => self.flush_or_move(now, registry, log),
            Err(why) => self.move_on(&why, now, registry, log),
        }
    }

    /// Closes the session. Without a connection it is left to expire.
    pub fn close(&mut self, now: u64) {
        if self.connected() {
            put_frame(&mut self.out, |out| {
                RequestHeader { xid: self.next_xid, op: Op::CloseSession.wire() }.encode(out);
            });
            // A server that is gone needs no close.
            let _ = self.flush(now);
        }
        self.state = State::Closed;
    }

    // ---- connections --------------------------------------------------------------------------------------------

    /// Connects to the server that is next, or to the first behind it that does not refuse at once.
    fn dial(&mut self, now: u64, registry: &Registry, log: &mut Log) {
        loop {
            match self.connect(registry) {
                Ok(stream) => {
                    self.stream = Some(stream);
                    self.state = State::Opening(now + self.common.welcome_ns);
                    self.put_handshake();
                    match self.flush(now) {
                        Ok(()) => return,
                        Err(e) => self.lose(&e.to_string(), now, log),
                    }
                }
                Err(e) => self.lose(&e.to_string(), now, log),
            }
            if let State::Pausing(until) = self.state
                && until > now
            {
                return;
            }
        }
    }

    fn connect(&mut self, registry: &Registry) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.common.servers[self.server])?;
        stream.set_nodelay(true)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut stream, Token(self.number as usize), interest)?;
        Ok(stream)
    }

    /// The connection is gone, or there was none: the next server is next, at once or after a pause.
    fn lose(&mut self, why: &str, now: u64, log: &mut Log) {
        log.failed(self.in_flight.len(), now);
        if self.connected() {
            log.moved(self.number, None, now);
            log.first_loss.get_or_insert_with(|| why.to_owned());
        }
        // The poll forgets a socket when it is closed.
        self.stream = None;
        self.in_flight.clear();
        self.input.clear();
        self.out.clear();
        self.written = 0;
        let servers = self.common.servers.len();
        // Every other session goes round the other way, so that those of one server do not all end up on the same.
        let step = if self.number.is_multiple_of(2) { 1 } else { servers - 1 };
        self.server = (self.server + step) % servers;
        self.tried += 1;
        let pause = if self.tried.is_multiple_of(servers) { self.common.pause_ns } else { 0 };
        if !self.closed() {
            self.state = State::Pausing(now + pause);
        }
    }

    fn move_on(&mut self, why: &str, now: u64, registry: &Registry, log: &mut Log) {
        self.lose(why, now, log);
        if self.state == State::Pausing(now) {
            self.dial(now, registry, log);
        }
    }

    fn put_handshake(&mut self) {
        let request = ConnectRequest {
            last_zxid_seen: self.seen,
            timeout_ms: self.common.timeout_ms,
            session: self.session,
            password: Some(&self.password),
            read_only: Some(false),
        };
        put_frame(&mut self.out, |out| request.encode(out));
    }

    fn welcome(&mut self, frame: &[u8], now: u64, log: &mut Log) -> Result<(), String> {
        let granted = ConnectResponse::decode(&mut Decoder::new(frame)).map_err(|e| e.to_string())?;
        if granted.session == SessionId::NONE || granted.timeout_ms <= 0 {
            if self.session != SessionId::NONE {
                log.session_lost(now);
            }
            (self.session, self.password) = (SessionId::NONE, [0; 16]);
            return Err("the session has expired".to_owned());
        }
        (self.session, self.password) = (granted.session, granted.password);
        self.timeout_ns = u64::from(granted.timeout_ms.unsigned_abs()) * 1_000_000;
        self.state = State::Connected;
        self.tried = 0;
        (self.connected_at, self.last_heard) = (now, now);
        log.moved(self.number, Some(self.server as u32), now);
        if let Some(credential) = &self.common.credential {
            put_frame(&mut self.out, |out| {
                RequestHeader { xid: xid::AUTH, op: Op::Auth.wire() }.encode(out);
                let auth = Some(credential.secret.as_bytes());
                AuthPacket { scheme: Some(Cow::Borrowed(&credential.scheme)), auth }.encode(out);
            });
        }
        self.send_waiting(now, log);
        Ok(())
    }

    // ---- requests -----------------------------------------------------------------------------------------------

    fn send_waiting(&mut self, now: u64, log: &mut Log) {
        while self.in_flight.len() < IN_FLIGHT_MAX
            && let Some((ask, planned)) = self.waiting.pop_front()
        {
            let (path, watch) = (Cow::Borrowed(self.path.as_str()), false);
            let header = |op: Op| RequestHeader { xid: self.next_xid, op: op.wire() };
            let value = Some(&self.common.value[..]);
            put_frame(&mut self.out, |out| match ask {
                Ask::Write => {
                    header(Op::SetData).encode(out);
                    SetDataRequest { path, data: value, version: -1 }.encode(out);
                }
                Ask::Read | Ask::Check => {
                    header(Op::GetData).encode(out);
                    PathWatch { path, watch }.encode(out);
                }
                Ask::Sync => {
                    header(Op::Sync).encode(out);
                    out.put_string(&path);
                }
            });
            self.in_flight.push_back(InFlight { xid: self.next_xid, ask, planned, sent: now });
            self.next_xid = self.next_xid.checked_add(1).unwrap_or(1);
            if planned >= self.connected_at.max(log.start) {
                saturating_record(&mut log.lateness, now - planned, 1);
            }
        }
    }

    fn flush_or_move(&mut self, now: u64, registry: &Registry, log: &mut Log) {
        if let Err(e) = self.flush(now) {
            self.move_on(&e.to_string(), now, registry, log);
        }
    }

    fn flush(&mut self, now: u64) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        while self.written < self.out.len() {
            match stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                // Also while the connection is not there yet: the socket reports when it is.
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
            self.last_sent = now;
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }

    // ---- replies ------------------------------------------------------------------------------------------------

    fn read(&mut self, now: u64, scratch: &mut [u8], log: &mut Log) -> Result<(), String> {
        loop {
            let Some(stream) = &mut self.stream else { return Ok(()) };
            match stream.read(scratch) {
                Ok(0) => return Err("the server closed the connection".to_owned()),
                Ok(n) => self.input.extend_from_slice(&scratch[..n]),
                Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::NotConnected) => {
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.to_string()),
            }
            self.take_frames(now, log)?;
        }
    }

    fn take_frames(&mut self, now: u64, log: &mut Log) -> Result<(), String> {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some((length, behind)) = rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let n = usize::try_from(length).ok().filter(|n| *n <= FRAME_MAX);
            let n = n.ok_or_else(|| format!("a frame of length {length}"))?;
            let Some((frame, behind)) = behind.split_at_checked(n) else { break };
            rest = behind;
            match self.state {
                State::Opening(_) => self.welcome(frame, now, log)?,
                _ => self.reply(frame, now, log)?,
            }
        }
        self.input.extend_from_slice(rest);
        Ok(())
    }

    fn reply(&mut self, frame: &[u8], now: u64, log: &mut Log) -> Result<(), String> {
        self.last_heard = now;
        let mut d = Decoder::new(frame);
        let head = ReplyHeader::decode(&mut d).map_err(|e| e.to_string())?;
        if head.xid < 0 {
            return Ok(());
        }
        // -1 where no transaction stands behind the reply.
        self.seen = self.seen.max(Zxid::from_wire(head.zxid.max(0)));
        // The answer to the close is the last one.
        let Some(answered) = self.in_flight.pop_front() else { return Ok(()) };
        if head.xid != answered.xid {
            return Err(format!("a reply with xid {} where {} was due", head.xid, answered.xid));
        }
        if head.err.0 != 0 {
            log.first_refusal.get_or_insert(head.err.0);
            log.failed(1, now);
            return Ok(());
        }
        match answered.ask {
            Ask::Write => {
                self.acknowledged += 1;
                log.wrote(self.number, answered.planned, answered.sent, now);
            }
            Ask::Read => log.read(answered.planned, now),
            Ask::Sync => {}
            Ask::Check => {
                d.buffer().map_err(|e| e.to_string())?;
                self.version = Some(Stat::decode(&mut d).map_err(|e| e.to_string())?.version);
            }
        }
        Ok(())
    }
}
