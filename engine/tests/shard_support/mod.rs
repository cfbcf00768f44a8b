//! A world for the shard's tests, in one thread: a real tree, a dull core that orders writes and makes batches, and
//! clients that speak bytes.
#![allow(dead_code)] // Each test program uses its part.

pub mod history;

use engine::acl;
use engine::error::Code;
use engine::ids::{Attach, ConnId, SessionId, ShardId, Zxid};
use engine::limits::Limits;
use engine::msg::{Act, Change, ChangeBatch, CoreLink, Request, Span, Step, Target, ToCore};
use engine::path;
use engine::proto::{
    Acl, ConnectRequest, CreateRequest, Decoder, Encode, EventKind, Op, PathVersion, PathWatch, ReplyHeader,
    RequestHeader, SetDataRequest, Stat, WatcherEvent, perm, put_frame,
};
use engine::shard::{Admission, Close, Shard};
use engine::time::{MonoMs, Now, WallMs};
use engine::tree::{Handle, Writer};
use engine::watch::InterestFilter;
use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

/// Counts per address, and writes in flight.
#[derive(Default)]
pub struct Door {
    pub per_address: Mutex<BTreeMap<IpAddr, u32>>,
    pub max: AtomicUsize,
    pub in_flight: AtomicIsize,
}

impl Admission for Door {
    fn admit(&self, peer: IpAddr) -> bool {
        let mut all = self.per_address.lock().unwrap();
        let n = all.entry(peer).or_default();
        let max = self.max.load(SeqCst);
        if max != 0 && *n as usize >= max {
            return false;
        }
        *n += 1;
        true
    }
    fn leave(&self, peer: IpAddr) {
        *self.per_address.lock().unwrap().get_mut(&peer).unwrap() -= 1;
    }
    fn writes_changed(&self, by: isize) {
        assert!(self.in_flight.fetch_add(by, SeqCst) + by >= 0);
    }
    fn writes(&self) -> usize {
        self.in_flight.load(SeqCst) as usize
    }
}

/// What the shard hands to the core, in a ring of `room` places.
pub struct Link {
    pub room: usize,
    pub ring: VecDeque<ToCore>,
    pub reserved: VecDeque<ToCore>,
    pub refused: usize,
}

impl CoreLink for Link {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        if self.ring.len() >= self.room {
            self.refused += 1;
            return Err(m);
        }
        self.ring.push_back(m);
        Ok(())
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.reserved.push_back(m);
    }
}

/// A frame that a client received.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    pub xid: i32,
    pub zxid: i64,
    pub err: i32,
    pub body: Vec<u8>,
}

impl Frame {
    pub fn event(&self) -> (i32, String) {
        assert_eq!(self.xid, -1, "{self:?}");
        let e = WatcherEvent::decode(&mut Decoder::new(&self.body)).unwrap();
        assert_eq!(e.state, 3);
        (e.kind, e.path.into_owned())
    }
    pub fn data(&self) -> (Option<Vec<u8>>, Stat) {
        assert_eq!(self.err, 0, "{self:?}");
        let mut d = Decoder::new(&self.body);
        let data = d.buffer().unwrap().map(<[u8]>::to_vec);
        (data, Stat::decode(&mut d).unwrap())
    }
    pub fn text(&self) -> String {
        String::from_utf8(self.data().0.unwrap()).unwrap()
    }
}

pub struct World {
    pub writer: Writer,
    pub handle: Handle,
    pub shard: Shard,
    pub filter: Arc<InterestFilter>,
    pub door: Arc<Door>,
    pub link: Link,
    pub now: Now,
    pub zxid: u64,
    pub next_session: i64,
    /// What each connection's socket received and nobody looked at.
    pub wires: BTreeMap<(u32, u32), Vec<u8>>,
    pub batch: ChangeBatch,
}

pub fn limits() -> Limits {
    Limits { words: Some(vec!["srvr".into(), "stmk".into(), "ruok".into()]), ..Limits::default() }
}

impl World {
    pub fn new() -> World {
        World::with(limits())
    }

    pub fn with(limits: Limits) -> World {
        let (writer, handle) = engine::tree::new(7, 8);
        let door = Arc::new(Door::default());
        let filter = Arc::new(InterestFilter::default());
        let shard = Shard::new(
            ShardId(0),
            Arc::new(limits),
            door.clone(),
            handle.reader().unwrap(),
            filter.clone(),
            Zxid::ZERO,
            0,
        );
        World {
            writer,
            handle,
            shard,
            filter,
            door,
            link: Link { room: 1 << 20, ring: VecDeque::new(), reserved: VecDeque::new(), refused: 0 },
            now: Now { mono: MonoMs(1_000), wall: WallMs(1_700_000_000_000) },
            zxid: 0,
            next_session: 100,
            wires: BTreeMap::new(),
            batch: ChangeBatch::default(),
        }
    }

    pub fn peer(n: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 40_000 + n))
    }

    pub fn accept(&mut self) -> ConnId {
        self.shard.begin_turn();
        self.shard.accept(World::peer(0), self.now).expect("admitted")
    }

    /// Bytes arrive. As the reactor does: everything in the ring was consumed before.
    pub fn input(&mut self, c: ConnId, bytes: &[u8]) {
        self.shard.begin_turn();
        self.shard.input(c, bytes, self.now, &mut self.link);
    }

    /// A connection with a session.
    pub fn connect(&mut self) -> ConnId {
        let c = self.accept();
        self.input(c, &connect_frame(0, 0));
        let asked = self.link.ring.pop_back();
        let Some(ToCore::Connect(ask)) = asked else { panic!("{asked:?}") };
        assert_eq!(ask.conn, c);
        self.attach(c, ask.timeout_ms);
        let reply = self.received(c);
        assert_eq!(reply.len(), 4 + 37, "a ConnectResponse with the readOnly byte");
        c
    }

    pub fn attach(&mut self, c: ConnId, timeout_ms: i32) -> SessionId {
        let session = SessionId(self.next_session);
        self.next_session += 1;
        let zxid = self.next_zxid();
        let act = Act::Attached { session, attach: Attach(1), timeout_ms, password: [7; 16] };
        self.batch.steps.push(Step {
            zxid: Some(zxid),
            changes: Span::default(),
            target: Target::Conn(c, act),
        });
        self.publish();
        session
    }

    pub fn next_zxid(&mut self) -> Zxid {
        self.zxid += 1;
        Zxid(self.zxid)
    }

    /// Orders and applies everything the shard has handed over, into the open batch.
    pub fn apply_all(&mut self) {
        while let Some(m) = self.link.ring.pop_front() {
            match m {
                ToCore::Request(r) => self.apply(r),
                other => panic!("not expected here: {other:?}"),
            }
        }
    }

    /// Publishes the open batch, and the shard consumes it.
    pub fn publish(&mut self) {
        let batch = std::mem::take(&mut self.batch);
        self.writer.publish(Zxid(self.zxid));
        self.shard.begin_turn();
        self.shard.consume(&batch, self.now, &mut self.link);
        self.shard.resume(self.now, &mut self.link);
        self.writer.collect(1_000);
    }

    /// Until nothing moves any more.
    pub fn run(&mut self) {
        loop {
            self.shard.begin_turn();
            self.shard.resume(self.now, &mut self.link);
            if self.link.ring.is_empty() {
                break;
            }
            self.apply_all();
            self.publish();
        }
    }

    /// A write by somebody else, in the open batch.
    pub fn other(&mut self, op: Op, path: &str, data: &[u8]) {
        let zxid = self.next_zxid();
        let from = self.batch.changes.len() as u32;
        let (err, _) = self.execute(zxid, op, path, data);
        assert_eq!(err, Code::OK, "{op:?} {path}");
        let changes = Span { start: from, end: self.batch.changes.len() as u32 };
        self.batch.steps.push(Step { zxid: Some(zxid), changes, target: Target::None });
    }

    /// The same, published at once.
    pub fn other_now(&mut self, op: Op, path: &str, data: &[u8]) {
        self.other(op, path, data);
        self.publish();
    }

    pub fn create_with(&mut self, path: &str, data: &[u8], acl: &[Acl]) {
        let zxid = self.next_zxid();
        self.writer.create(zxid, path, Some(data), acl, 0, self.now.wall.0, None).unwrap();
        self.batch.steps.push(Step { zxid: Some(zxid), changes: Span::default(), target: Target::None });
        self.publish();
    }

    fn apply(&mut self, r: Request) {
        let zxid = self.next_zxid();
        let from = self.batch.changes.len() as u32;
        let mut d = Decoder::new(&r.body);
        let act = match r.op {
            Op::CloseSession => Act::ReplyAndClose,
            Op::Sync => {
                let path = d.string_not_null().unwrap().into_owned();
                Act::Reply { err: Code::OK, body: self.batch.put(|out| out.put_string(&path)) }
            }
            Op::Create => {
                let q = CreateRequest::decode(r.op, &mut d).unwrap();
                let (err, _) = self.execute(zxid, Op::Create, &q.path, q.data.unwrap_or_default());
                let body = match err {
                    Code::OK => self.batch.put(|out| out.put_string(&q.path)),
                    _ => Span::default(),
                };
                Act::Reply { err, body }
            }
            Op::SetData => {
                let q = SetDataRequest::decode(&mut d).unwrap();
                let (err, stat) = self.execute(zxid, Op::SetData, &q.path, q.data.unwrap_or_default());
                let body = match err {
                    Code::OK => self.batch.put(|out| stat.encode(out)),
                    _ => Span::default(),
                };
                Act::Reply { err, body }
            }
            Op::Delete => {
                let q = PathVersion::decode(&mut d).unwrap();
                let (err, _) = self.execute(zxid, Op::Delete, &q.path, b"");
                Act::Reply { err, body: Span::default() }
            }
            other => panic!("the dull core does not know {other:?}"),
        };
        let changes = Span { start: from, end: self.batch.changes.len() as u32 };
        self.batch.steps.push(Step { zxid: Some(zxid), changes, target: Target::Conn(r.conn, act) });
    }

    /// Applies one write and notes its change.
    pub fn execute(&mut self, zxid: Zxid, op: Op, path: &str, data: &[u8]) -> (Code, Stat) {
        let ms = self.now.wall.0;
        let readers = |w: &Writer, at: &str| -> Option<Arc<[Acl]>> {
            let acl = w.latest().get(at)?.acl().clone();
            (!acl::open_to_all(&acl, perm::READ)).then_some(acl)
        };
        let above = path::parent(path).unwrap_or("/").to_owned();
        let parent_acl = readers(&self.writer, &above);
        let (kind, acl) = match op {
            Op::Create => match self.writer.create(zxid, path, Some(data), &[Acl::open()], 0, ms, None) {
                Ok(_) => (EventKind::NodeCreated, None),
                Err(engine::tree::ApplyError::Exists) => return (Code::NODEEXISTS, Stat::default()),
                Err(_) => return (Code::NONODE, Stat::default()),
            },
            Op::Delete => {
                let acl = readers(&self.writer, path);
                if self.writer.latest().get(path).is_some_and(|n| n.num_children() > 0) {
                    return (Code::NOTEMPTY, Stat::default());
                }
                match self.writer.delete(zxid, path) {
                    Ok(_) => (EventKind::NodeDeleted, acl),
                    Err(_) => return (Code::NONODE, Stat::default()),
                }
            }
            Op::SetData => {
                let acl = readers(&self.writer, path);
                let Some(version) = self.writer.latest().get(path).map(|n| n.stat().version) else {
                    return (Code::NONODE, Stat::default());
                };
                self.writer.set_data(zxid, path, Some(data), version + 1, ms).unwrap();
                (EventKind::NodeDataChanged, acl)
            }
            other => panic!("{other:?}"),
        };
        let path_hash = self.handle.hash(path).0;
        let parent_hash = self.handle.hash(&above).0;
        let span = self.batch.put(|out| out.extend_from_slice(path.as_bytes()));
        self.batch.changes.push(Change { kind, path: span, path_hash, parent_hash, acl, parent_acl });
        (Code::OK, self.writer.latest().get(path).map(|n| n.stat()).unwrap_or_default())
    }

    /// Moves unsent bytes to the clients' ends of the wires, at most `max` per connection.
    pub fn flush_at_most(&mut self, max: usize) {
        while let Some(c) = self.shard.next_dirty() {
            self.flush_one(c, max);
        }
    }

    pub fn flush_one(&mut self, c: ConnId, max: usize) {
        let out = self.shard.output(c);
        let n = out.len().min(max);
        let wire = self.wires.entry((c.slot, c.generation)).or_default();
        wire.extend_from_slice(&out[..n]);
        self.shard.wrote(c, n, self.now);
    }

    /// The bytes that a client has received since it last looked.
    pub fn received(&mut self, c: ConnId) -> Vec<u8> {
        self.flush_at_most(usize::MAX);
        std::mem::take(self.wires.entry((c.slot, c.generation)).or_default())
    }

    /// The same as frames.
    pub fn frames(&mut self, c: ConnId) -> Vec<Frame> {
        let bytes = self.received(c);
        frames_of(&bytes)
    }

    pub fn closes(&mut self) -> Vec<ConnId> {
        let mut all = vec![];
        while let Some(c) = self.shard.next_leaving() {
            assert_eq!(self.shard.should_close(c), Close::Now);
            all.push(c);
        }
        all
    }
}

pub fn frames_of(bytes: &[u8]) -> Vec<Frame> {
    let mut d = Decoder::new(bytes);
    let mut all = vec![];
    while !d.is_empty() {
        let n = d.int().unwrap();
        let mut f = Decoder::new(d.take(n as usize).unwrap());
        let h = ReplyHeader::decode(&mut f).unwrap();
        all.push(Frame { xid: h.xid, zxid: h.zxid, err: h.err.0, body: f.rest().to_vec() });
    }
    all
}

pub fn connect_frame(last_zxid_seen: u64, session: i64) -> Vec<u8> {
    let mut out = vec![];
    put_frame(&mut out, |out| {
        ConnectRequest {
            last_zxid_seen: Zxid(last_zxid_seen),
            timeout_ms: 6_000,
            session: SessionId(session),
            password: Some(&[7; 16]),
            read_only: Some(false),
        }
        .encode(out);
    });
    out
}

pub fn frame(xid: i32, op: i32, body: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = vec![];
    put_frame(&mut out, |out| {
        RequestHeader { xid, op }.encode(out);
        body(out);
    });
    out
}

pub fn get(xid: i32, path: &str, watch: bool) -> Vec<u8> {
    read(xid, Op::GetData, path, watch)
}
pub fn read(xid: i32, op: Op, path: &str, watch: bool) -> Vec<u8> {
    frame(xid, op.wire(), |out| PathWatch { path: path.into(), watch }.encode(out))
}
pub fn set(xid: i32, path: &str, data: &[u8]) -> Vec<u8> {
    frame(xid, Op::SetData.wire(), |out| {
        SetDataRequest { path: path.into(), data: Some(data), version: -1 }.encode(out);
    })
}
pub fn create(xid: i32, path: &str, data: &[u8]) -> Vec<u8> {
    frame(xid, Op::Create.wire(), |out| {
        let acl = vec![Acl::open()];
        CreateRequest { path: path.into(), data: Some(data), acl, flags: 0, ttl: None }.encode(out);
    })
}
pub fn delete(xid: i32, path: &str) -> Vec<u8> {
    frame(xid, Op::Delete.wire(), |out| PathVersion { path: path.into(), version: -1 }.encode(out))
}
pub fn ping() -> Vec<u8> {
    frame(-2, Op::Ping.wire(), |_| {})
}

/// Xorshift: a seed is the whole run.
pub struct Rng(pub u64);

impl Rng {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % n
    }
}
