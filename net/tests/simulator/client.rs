//! A client: one session after the other, over one connection after the other, with requests in flight.
//!
//! It speaks the client protocol by the engine's encoders, remembers what it asked and was told, and hands each reply to
//! the oracle. Not here: what must be true of a reply (`oracle`).

use crate::dice::Dice;
use crate::operator::OPERATOR_AUTH;
use crate::oracle::Oracle;
use crate::oracle::replies::{Reply, What};
use crate::plan::Plan;
use engine::error::Code;
use engine::ids::{SessionId, Zxid};
use engine::proto::{
    Acl, AuthPacket, ConnectRequest, ConnectResponse, CreateRequest, Decoder, Encode, Id, MultiHeader, Op,
    PathVersion, PathWatch, ReplyHeader, RequestHeader, SetDataRequest, WatcherEvent, perm, put_frame, xid,
};
use std::collections::{BTreeMap, VecDeque};

/// What it wants done.
pub enum Act {
    Connect,
    Send(Vec<u8>),
    Close,
}

/// A request in flight.
#[derive(Clone, Debug)]
pub struct Asked {
    pub xid: i32,
    pub what: What,
    /// The newest zxid that any client had seen when it was sent.
    pub floor: Zxid,
    /// The newest epoch that was established then.
    pub epoch: u32,
}

/// See the module.
pub struct Client {
    pub number: usize,
    pub session: SessionId,
    password: [u8; 16],
    asked_ms: i32,
    granted_ms: i32,
    pub last: Zxid,
    /// The horizon of its last reply; an event may have shown more.
    replied: Zxid,
    pub conn: Option<usize>,
    attached: bool,
    input: Vec<u8>,
    next_xid: i32,
    pub asked: VecDeque<Asked>,
    heard_us: u64,
    sent_us: u64,
    retry_us: u64,
    /// Data watches of this connection: the horizon at which each was set.
    pub watches: BTreeMap<String, Zxid>,
    pub child_watch: Option<Zxid>,
    values: u64,
    paths: usize,
    pipeline: usize,
    dice: Dice,
    /// Says nothing before.
    pub silent_until_us: u64,
    /// No new requests.
    pub quiet: bool,
    /// Stays with this member.
    pub only_node: Option<usize>,
    /// Requests answered.
    pub answered: u64,
    pub writes_acked: u64,
    pub expired: u64,
    /// Sessions that it was told are gone, and those that it closed.
    pub ended: Vec<SessionId>,
    /// It asks for other members, when it is told to, and for nothing else.
    pub is_operator: bool,
    /// It has said on this connection that it may.
    authorised: bool,
}

/// Below this all paths are.
pub const ROOT: &str = "/d";

impl Client {
    pub fn new(number: usize, plan: &Plan, dice: Dice) -> Client {
        Client {
            number,
            session: SessionId::NONE,
            password: [0; 16],
            asked_ms: plan.session_ms,
            granted_ms: plan.session_ms,
            last: Zxid::ZERO,
            replied: Zxid::ZERO,
            conn: None,
            attached: false,
            input: Vec::new(),
            next_xid: 0,
            asked: VecDeque::new(),
            heard_us: 0,
            sent_us: 0,
            retry_us: 0,
            watches: BTreeMap::new(),
            child_watch: None,
            values: 0,
            paths: plan.paths,
            pipeline: plan.pipeline,
            dice,
            silent_until_us: 0,
            quiet: false,
            only_node: None,
            answered: 0,
            writes_acked: 0,
            expired: 0,
            ended: Vec::new(),
            is_operator: false,
            authorised: false,
        }
    }
    pub fn operator(number: usize, plan: &Plan, dice: Dice) -> Client {
        Client { is_operator: true, ..Client::new(number, plan, dice) }
    }

    pub fn is_attached(&self) -> bool {
        self.attached && self.conn.is_some()
    }

    /// The connection is there: asks for its session.
    pub fn connected(&mut self, at_us: u64) -> Vec<Act> {
        (self.heard_us, self.sent_us) = (at_us, at_us);
        self.attached = false;
        self.authorised = false;
        self.input.clear();
        let mut out = Vec::new();
        put_frame(&mut out, |out| {
            ConnectRequest {
                last_zxid_seen: self.last,
                timeout_ms: self.asked_ms,
                session: self.session,
                password: Some(&self.password),
                read_only: Some(false),
            }
            .encode(out);
        });
        vec![Act::Send(out)]
    }

    /// The connection is gone: what was in flight has an unknown end.
    pub fn lost(&mut self) {
        self.conn = None;
        self.attached = false;
        self.asked.clear();
        self.watches.clear();
        self.child_watch = None;
    }

    /// What it does of its own accord.
    pub fn tick(&mut self, at_us: u64, oracle: &Oracle) -> Vec<Act> {
        if at_us < self.silent_until_us {
            return Vec::new();
        }
        if self.conn.is_none() {
            if at_us < self.retry_us {
                return Vec::new();
            }
            self.retry_us = at_us + self.dice.between(5_000, 200_000);
            return vec![Act::Connect];
        }
        let timeout_us = self.granted_ms as u64 * 1000;
        if at_us - self.heard_us > timeout_us * 2 / 3 {
            return self.hang_up();
        }
        if !self.attached {
            return Vec::new();
        }
        let mut out = Vec::new();
        let most =
            if self.quiet || self.is_operator { 0 } else { self.pipeline.saturating_sub(self.asked.len()) };
        for _ in 0..self.dice.below(most + 1) {
            self.ask(oracle, &mut out);
        }
        if at_us - self.sent_us > timeout_us / 3 && out.is_empty() {
            put_frame(&mut out, |out| RequestHeader { xid: xid::PING, op: Op::Ping.wire() }.encode(out));
        }
        if out.is_empty() {
            return Vec::new();
        }
        self.sent_us = at_us;
        vec![Act::Send(out)]
    }

    /// Drops its connection; the world closes it.
    pub fn hang_up(&mut self) -> Vec<Act> {
        let conn = self.conn;
        self.lost();
        self.conn = conn;
        vec![Act::Close]
    }

    fn path(&mut self) -> String {
        format!("{ROOT}/k{}", self.dice.below(self.paths))
    }
    fn value(&mut self) -> Vec<u8> {
        self.values += 1;
        let mut text = format!("c{}-{}-", self.number, self.values).into_bytes();
        let len = if self.dice.permille(20) { self.dice.below(4_000) } else { self.dice.below(30) };
        text.resize(text.len() + len, b'.');
        text
    }

    /// Draws a request.
    fn ask(&mut self, oracle: &Oracle, out: &mut Vec<u8>) {
        let what = match self.dice.below(100) {
            0..12 => What::Create { path: self.path(), ephemeral: false, data: self.value() },
            12..18 => What::Create { path: self.path(), ephemeral: true, data: self.value() },
            18..40 => What::Set { path: self.path(), data: self.value() },
            40..50 => What::Delete { path: self.path() },
            50..56 => {
                let create = self.dice.permille(500);
                let (a, b) = (self.path(), self.path());
                What::Multi {
                    create: create.then_some(a.clone()),
                    set: b,
                    delete: (!create).then_some(a),
                    data: self.value(),
                }
            }
            56..62 => What::Sync,
            62..74 => What::Get { path: self.path(), watch: self.dice.permille(300) },
            74..90 => What::Exists { path: self.path(), watch: self.dice.permille(300) },
            90..99 => What::Children { watch: self.dice.permille(200) },
            _ if self.dice.permille(100) => What::Close,
            _ => What::Create { path: ROOT.into(), ephemeral: false, data: Vec::new() },
        };
        self.send(what, oracle, out);
    }

    /// Sends a request that the caller chose.
    pub fn send(&mut self, what: What, oracle: &Oracle, out: &mut Vec<u8>) {
        if self.is_operator && !std::mem::replace(&mut self.authorised, true) {
            put_frame(out, |out| {
                RequestHeader { xid: xid::AUTH, op: Op::Auth.wire() }.encode(out);
                AuthPacket { scheme: Some("digest".into()), auth: Some(OPERATOR_AUTH) }.encode(out);
            });
        }
        self.next_xid += 1;
        let xid = self.next_xid;
        put_frame(out, |out| put_request(xid, &what, out));
        self.asked.push_back(Asked { xid, what, floor: oracle.seen, epoch: oracle.primaries.newest() });
    }

    /// Bytes of the server. `epoch`: of the server that sent them, as far as it still lives.
    pub fn bytes(&mut self, bytes: &[u8], at_us: u64, epoch: u32, oracle: &mut Oracle) -> Vec<Act> {
        self.heard_us = at_us;
        self.input.extend_from_slice(bytes);
        loop {
            let Some(frame) = cut_frame(&mut self.input) else { return Vec::new() };
            if !self.attached {
                if let Some(acts) = self.connect_response(&frame, oracle) {
                    return acts;
                }
                continue;
            }
            if let Some(acts) = self.frame(&frame, epoch, oracle) {
                return acts;
            }
        }
    }

    fn connect_response(&mut self, frame: &[u8], oracle: &mut Oracle) -> Option<Vec<Act>> {
        let r = ConnectResponse::decode(&mut Decoder::new(frame)).expect("a ConnectResponse");
        if r.session == SessionId::NONE {
            oracle.sessions.refused(self.session);
            if self.session != SessionId::NONE {
                self.expired += 1;
                self.ended.push(self.session);
            }
            self.forget_session();
            return Some(self.hang_up());
        }
        if self.session == SessionId::NONE {
            oracle.sessions.granted(r.session);
            // Its creation is a write.
            self.next_xid = 0;
        } else {
            assert_eq!(r.session, self.session, "another session than was asked for");
        }
        (self.session, self.password, self.granted_ms) = (r.session, r.password, r.timeout_ms);
        self.attached = true;
        None
    }

    fn forget_session(&mut self) {
        (self.session, self.password, self.next_xid) = (SessionId::NONE, [0; 16], 0);
    }

    fn frame(&mut self, frame: &[u8], epoch: u32, oracle: &mut Oracle) -> Option<Vec<Act>> {
        let mut d = Decoder::new(frame);
        let h = ReplyHeader::decode(&mut d).expect("a reply header");
        match h.xid {
            xid::AUTH => {
                assert_eq!(h.err, Code::OK, "client {}", self.number);
                None
            }
            xid::PING => {
                // A ping tells the horizon, too.
                self.advance(Zxid::from_wire(h.zxid), oracle);
                None
            }
            xid::WATCH_EVENT => {
                let e = WatcherEvent::decode(&mut d).expect("an event");
                let at = Zxid::from_wire(h.zxid);
                oracle.watches.fired(
                    self.number,
                    &mut self.watches,
                    &mut self.child_watch,
                    (e.kind, &e.path),
                    at,
                    &oracle.model,
                );
                assert!(at >= self.last, "client {}: an event of {at} behind {}", self.number, self.last);
                self.last = at;
                None
            }
            _ => self.reply(h, d.rest(), epoch, oracle),
        }
    }

    fn advance(&mut self, to: Zxid, oracle: &mut Oracle) {
        assert!(to >= self.last, "R1: client {} was shown {to} behind {}", self.number, self.last);
        oracle.watches.passed(self.number, &self.watches, self.child_watch, to, &oracle.model);
        (self.last, self.replied) = (to, to);
        oracle.seen = oracle.seen.max(to);
    }

    fn reply(&mut self, h: ReplyHeader, body: &[u8], epoch: u32, oracle: &mut Oracle) -> Option<Vec<Act>> {
        let asked = self.asked.pop_front().expect("a reply to a request");
        assert_eq!(h.xid, asked.xid, "client {}: replies come in the order of the requests", self.number);
        let before = self.replied;
        let at = Zxid::from_wire(h.zxid);
        self.advance(at, oracle);
        let reply = Reply { session: self.session, asked: &asked, at, err: h.err, body, before, epoch };
        oracle.reply(&reply);
        self.answered += 1;
        if asked.what.is_write() {
            self.writes_acked += 1;
        }
        self.register(&asked.what, h.err, at);
        if let What::Close = asked.what {
            self.ended.push(self.session);
            self.forget_session();
            return Some(self.hang_up());
        }
        None
    }

    /// A watch that this reply has set.
    fn register(&mut self, what: &What, err: Code, at: Zxid) {
        match what {
            What::Get { path, watch: true } if err == Code::OK => {
                self.watches.entry(path.clone()).or_insert(at);
            }
            What::Exists { path, watch: true } if err == Code::OK || err == Code::NONODE => {
                self.watches.entry(path.clone()).or_insert(at);
            }
            What::Children { watch: true } if err == Code::OK => {
                self.child_watch.get_or_insert(at);
            }
            _ => {}
        }
    }
}

fn cut_frame(input: &mut Vec<u8>) -> Option<Vec<u8>> {
    let length = input.first_chunk::<4>().map(|l| i32::from_be_bytes(*l) as usize)?;
    if input.len() < 4 + length {
        return None;
    }
    let rest = input.split_off(4 + length);
    let frame = std::mem::replace(input, rest);
    Some(frame[4..].to_vec())
}

/// Everybody may do nearly everything, but the lists differ from path to path.
fn acl_of(path: &str) -> Vec<Acl> {
    let mut all = vec![Acl::open()];
    let n = path.bytes().map(u32::from).sum::<u32>() % 7;
    if n > 0 {
        all[0].perms = perm::READ | perm::WRITE | perm::CREATE | perm::DELETE;
        all.push(Acl { perms: perm::ALL, id: Id::new("digest", &format!("u{n}:x")) });
    }
    all
}

fn put_request(xid: i32, what: &What, out: &mut Vec<u8>) {
    let header = |op: Op, out: &mut Vec<u8>| RequestHeader { xid, op: op.wire() }.encode(out);
    let create = |path: &str, data: &[u8], ephemeral: bool, out: &mut Vec<u8>| {
        let acl = acl_of(path);
        let flags = i32::from(ephemeral);
        CreateRequest { path: path.into(), data: Some(data), acl, flags, ttl: None }.encode(out);
    };
    let set = |path: &str, data: &[u8], out: &mut Vec<u8>| {
        SetDataRequest { path: path.into(), data: Some(data), version: -1 }.encode(out);
    };
    let delete = |path: &str, out: &mut Vec<u8>| PathVersion { path: path.into(), version: -1 }.encode(out);
    match what {
        What::Create { path, ephemeral, data } => {
            header(Op::Create, out);
            create(path, data, *ephemeral, out);
        }
        What::Set { path, data } => {
            header(Op::SetData, out);
            set(path, data, out);
        }
        What::Delete { path } => {
            header(Op::Delete, out);
            delete(path, out);
        }
        What::Multi { create: c, set: s, delete: x, data } => {
            header(Op::Multi, out);
            let part =
                |op: Op, out: &mut Vec<u8>| MultiHeader { op: op.wire(), done: false, err: -1 }.encode(out);
            if let Some(path) = c {
                part(Op::Create, out);
                create(path, data, false, out);
            }
            part(Op::SetData, out);
            set(s, data, out);
            if let Some(path) = x {
                part(Op::Delete, out);
                delete(path, out);
            }
            MultiHeader::END.encode(out);
        }
        What::Get { path, watch } | What::Exists { path, watch } => {
            header(if matches!(what, What::Get { .. }) { Op::GetData } else { Op::Exists }, out);
            PathWatch { path: path.into(), watch: *watch }.encode(out);
        }
        What::Children { watch } => {
            header(Op::GetChildren, out);
            PathWatch { path: ROOT.into(), watch: *watch }.encode(out);
        }
        What::Sync => {
            header(Op::Sync, out);
            out.put_string(ROOT);
        }
        What::Close => header(Op::CloseSession, out),
        What::Reconfig { joining, leaving, members, version } => {
            header(Op::Reconfig, out);
            for text in [joining, leaving, members] {
                out.put_buffer(text.as_ref().map(|t| t.as_bytes()));
            }
            out.put_long(*version);
        }
    }
}
