//! What is done with bytes that may be anything: the bodies of the fuzz targets beside this file and of
//! `engine/tests/fuzz_parsers.rs`, which runs them on mutations of valid encodings.
//!
//! Each body takes any bytes and panics when the parser breaks a promise: it panics itself, it makes more out of the
//! bytes than they can hold, what it decoded does not survive being encoded and decoded again, or others suffer.

use engine::foreign::{self, Bounds};
use engine::ids::{ConnId, LinkId, ServerId, SessionId, ShardId, Ticket, Zxid};
use engine::limits::Limits;
use engine::msg::{Act, ChangeBatch, CoreLink, Span, Target, ToCore};
use engine::pipeline::{Ask, Database, Origin, Prep};
use engine::proto::{
    Acl, AuthPacket, ConnectRequest, ConnectResponse, CreateRequest, Decoded, Decoder, Id, MultiHeader, Op,
    PathKind, PathVersion, PathWatch, ReconfigRequest, ReplyHeader, RequestHeader, SetAclRequest,
    SetDataRequest, SetWatches, Stat, WatcherEvent, get_acls, put_acls, put_frame,
};
use engine::server::Server;
use engine::shard::{Admission, Shard};
use engine::snapshot::{Encoder, Parser, Record, Unreadable};
use engine::time::{MonoMs, Now, WallMs};
use engine::tree::StatPersisted;
use engine::txn::Txn;
use engine::zab::{Links, Persist, Persistence};
use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// Longer inputs are cut: bugs of parsers fit into less.
const INPUT_BYTES_MAX: usize = 64 << 10;
const NOW: Now = Now { mono: MonoMs(1_000), wall: WallMs(1_700_000_000_000) };

fn cut(data: &[u8]) -> &[u8] {
    &data[..data.len().min(INPUT_BYTES_MAX)]
}

/// Decodes, encodes, decodes and encodes again: both values and both encodings must be the same, and the encoding
/// cannot be much longer than what it came from (a byte that is no UTF-8 becomes three).
macro_rules! round_trip {
    ($data:expr, $decode:expr, $encode:expr) => {
        if let Ok(first) = $decode(&mut Decoder::new($data)) {
            let (mut bytes, mut more) = (Vec::new(), Vec::new());
            $encode(&first, &mut bytes);
            assert!(bytes.len() <= 3 * $data.len() + 64, "{} bytes became {}", $data.len(), bytes.len());
            let second = $decode(&mut Decoder::new(&bytes)).expect("what was encoded decodes");
            assert_eq!(second, first);
            $encode(&second, &mut more);
            assert_eq!(more, bytes);
        }
    };
}

/// Every record of the client port.
pub fn records(data: &[u8]) {
    let data = cut(data);
    for op in [Op::Create, Op::CreateTtl] {
        round_trip!(data, |d| CreateRequest::decode(op, d), CreateRequest::encode);
    }
    round_trip!(data, PathVersion::decode, PathVersion::encode);
    round_trip!(data, PathWatch::decode, PathWatch::encode);
    round_trip!(data, PathKind::decode, PathKind::encode);
    round_trip!(data, SetDataRequest::decode, SetDataRequest::encode);
    round_trip!(data, SetAclRequest::decode, SetAclRequest::encode);
    round_trip!(data, AuthPacket::decode, AuthPacket::encode);
    round_trip!(data, ConnectRequest::decode, ConnectRequest::encode);
    round_trip!(data, ConnectResponse::decode, ConnectResponse::encode);
    round_trip!(data, RequestHeader::decode, RequestHeader::encode);
    round_trip!(data, ReplyHeader::decode, ReplyHeader::encode);
    round_trip!(data, MultiHeader::decode, MultiHeader::encode);
    round_trip!(data, WatcherEvent::decode, WatcherEvent::encode);
    round_trip!(data, Stat::decode, Stat::encode);
    round_trip!(data, get_acls, |r: &Vec<Acl>, out: &mut Vec<u8>| put_acls(out, r));
    undecoded(data);
}

/// Records that only ever arrive: nothing encodes them. What they hold is bounded by what was there.
fn undecoded(data: &[u8]) {
    for op in [Op::SetWatches, Op::SetWatches2] {
        if let Ok(w) = SetWatches::decode(op, &mut Decoder::new(data)) {
            let all = [&w.data, &w.exist, &w.child, &w.persistent, &w.recursive];
            let (paths, bytes) = all
                .iter()
                .flat_map(|l| l.iter())
                .fold((0, 0), |(paths, bytes), p| (paths + 1, bytes + p.len()));
            assert!(4 * paths <= data.len() && bytes <= 3 * data.len());
        }
    }
    if let Ok(r) = ReconfigRequest::decode(&mut Decoder::new(data)) {
        let all = [r.joining, r.leaving, r.members];
        assert!(all.iter().flatten().map(|t| t.len()).sum::<usize>() <= 3 * data.len());
    }
}

fn whole_txn<'a>(d: &mut Decoder<'a>) -> Decoded<Txn<'a>> {
    Txn::decode(d.rest())
}

/// A transaction as the log holds it.
pub fn txn(data: &[u8]) {
    let data = cut(data);
    round_trip!(data, whole_txn, Txn::encode);
    // And whatever it says, applying it leaves a tree that works.
    let mut db = Database::new(engine::tree::new(7, 1).0);
    let mut batch = ChangeBatch::default();
    let _refused = db.apply(data, Origin::Foreign, Some(&mut batch), true);
    assert!(db.tree.latest().get("/").is_some());
}

// ---- snapshots ------------------------------------------------------------------------------------------------------

/// A record with everything owned and its ACL by value.
#[derive(Clone, PartialEq, Debug)]
enum Owned {
    Head(Zxid, Option<u64>),
    Session(SessionId, i32),
    Node(String, Option<Vec<u8>>, Vec<Acl>, StatPersisted),
    End,
}

fn parse(data: &[u8], piece: usize) -> (Vec<Owned>, Result<(), Unreadable>) {
    let (mut parser, mut all, mut from) = (Parser::default(), Vec::new(), 0);
    let mut upto = 0;
    loop {
        upto = (upto + piece).min(data.len());
        let fed = parser.feed(&data[from..upto], |record, acls| {
            all.push(match record {
                Record::Head { zxid, digest } => Owned::Head(zxid, digest),
                Record::Session { id, timeout_ms } => Owned::Session(id, timeout_ms),
                Record::Node { path, data, acl, stat } => {
                    Owned::Node(path.to_owned(), data.map(<[u8]>::to_vec), acls[acl].clone(), stat)
                }
                Record::End => Owned::End,
            });
            Ok::<(), Unreadable>(())
        });
        match fed {
            Ok(n) => from += n,
            Err(e) => return (all, Err(e)),
        }
        assert!(from <= upto);
        if upto == data.len() {
            return (all, parser.finish());
        }
    }
}

/// The records of a snapshot, whole and in pieces.
pub fn snapshot(data: &[u8]) {
    let data = &cut(data)[..data.len().min(8 << 10)];
    let whole = parse(data, usize::MAX >> 1);
    for piece in [1, 7, 1_000] {
        assert_eq!(parse(data, piece), whole, "in pieces of {piece}");
    }
    let (records, Ok(())) = whole else { return };
    // A writer makes these in one order only.
    let Some((Owned::Head(zxid, digest), rest)) = records.split_first() else { return };
    let rank = |r: &Owned| match r {
        Owned::Head(..) => 0,
        Owned::Session(..) => 1,
        Owned::Node(..) => 2,
        Owned::End => 3,
    };
    if !rest.iter().all(|r| rank(r) > 0) || !rest.is_sorted_by_key(rank) {
        return;
    }
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    let sessions = rest.iter().filter_map(|r| match r {
        Owned::Session(id, timeout_ms) => Some((*id, *timeout_ms)),
        _ => None,
    });
    encoder.head(*zxid, *digest, sessions, &mut out);
    for r in rest {
        if let Owned::Node(path, data, acl, stat) = r {
            encoder.node(path, data.as_deref(), acl, stat, &mut out);
        }
    }
    encoder.end(&mut out);
    assert_eq!(parse(&out, 100), (records, Ok(())));
}

// ---- ZooKeeper's files ----------------------------------------------------------------------------------------------

/// Small, so that mutations reach them.
const FOREIGN: Bounds = Bounds { field_bytes: 1_000, acl_bytes: 2_000, total_bytes: 6_000 };

/// What a reader of pieces made of the bytes.
type Foreign<T, E> = (Vec<T>, Result<E, String>);

fn foreign_snapshot(data: &[u8], piece: usize) -> Foreign<String, foreign::snapshot::Footers> {
    let (mut parser, mut all) = (foreign::snapshot::FileParser::new(FOREIGN), Vec::new());
    let mut held = Vec::new();
    for p in data.chunks(piece) {
        held.extend_from_slice(p);
        let fed = parser.feed(&held, |r| {
            all.push(format!("{r:?}"));
            Ok::<(), foreign::snapshot::Unreadable>(())
        });
        match fed {
            Ok(taken) => drop(held.drain(..taken)),
            Err(e) => return (all, Err(e.to_string())),
        }
    }
    (all, parser.finish().map_err(|e| e.to_string()))
}

fn foreign_log(data: &[u8], piece: usize) -> Foreign<Vec<u8>, foreign::log::End> {
    let (mut parser, mut all) = (foreign::log::Parser::new(FOREIGN), Vec::new());
    let mut held = Vec::new();
    for p in data.chunks(piece) {
        held.extend_from_slice(p);
        let fed = parser.feed(&held, |_, txn| {
            all.push(txn.to_vec());
            Ok::<(), foreign::log::Unreadable>(())
        });
        match fed {
            Ok(taken) => drop(held.drain(..taken)),
            Err(e) => return (all, Err(e.to_string())),
        }
    }
    (all, Ok(parser.finish(&held)))
}

/// A snapshot file and a log of ZooKeeper's, whole and in pieces.
pub fn foreign(data: &[u8]) {
    let data = &data[..data.len().min(8 << 10)];
    let (snapshot, log) = (foreign_snapshot(data, usize::MAX >> 1), foreign_log(data, usize::MAX >> 1));
    for piece in [1, 7, 1_000] {
        assert_eq!(foreign_snapshot(data, piece), snapshot, "in pieces of {piece}");
        assert_eq!(foreign_log(data, piece), log, "in pieces of {piece}");
    }
    let (txns, Ok(_)) = log else { return };
    let mut again = Vec::new();
    foreign::log::header(&mut again);
    txns.iter().for_each(|t| foreign::log::record(t, &mut again));
    // The database's number in the header is nobody's; without a record there may not even be a header.
    let same = txns.is_empty() || again[16..] == data[16..again.len()];
    assert!(same, "what was read is written so");
}

// ---- the write pipeline ---------------------------------------------------------------------------------------------

/// Writes as the core may get them: kind, length (two bytes, the highest bit: of a dead session), body, and so on. Each costs a zxid and gives a
/// transaction that can be applied, with the digest that was foretold.
pub fn propose(data: &[u8]) {
    let mut rest = cut(data);
    let limits = Limits { extended_types: true, enforce_quota: true, ..Limits::default() };
    let mut db = Database::new(engine::tree::new(7, 1).0);
    let mut prep = Prep::new(&db, &limits);
    let ids = [Id::new("ip", "127.0.0.1")];
    let mut zxid = 0;
    while let [kind, high, low, tail @ ..] = rest {
        let (body, tail) = tail.split_at(tail.len().min(usize::from(*high & 0x7f) << 8 | usize::from(*low)));
        rest = tail;
        let Some(op) = Op::from_wire(i32::from(*kind as i8)) else { continue };
        let session = SessionId(77);
        let ask = Ask { session, cxid: 1, op, body, ids: &ids, live: high & 0x80 == 0, moved: false };
        let made = prep.propose(&db, &limits, ask, NOW.wall);
        zxid += 1;
        assert_eq!(made.zxid, Zxid(zxid));
        // A multi's items carry a kind and a length each; a closeSession names ephemerals created before.
        assert!(made.bytes.len() <= 8 * data.len() + 256, "{} bytes became {}", data.len(), made.bytes.len());
        let said = Txn::decode(&made.bytes).expect("prep encodes what apply decodes");
        let mut again = Vec::new();
        said.encode(&mut again);
        assert_eq!(*again, *made.bytes);
        let mut batch = ChangeBatch::default();
        // As if it came from elsewhere: then the digest is computed, not taken over.
        db.apply(&made.bytes, Origin::Foreign, Some(&mut batch), true).expect("it decoded");
        assert!(said.digest.is_none_or(|d| d == db.tree.digest()), "digest foretold: {said:?}");
        prep.applied(db.last());
        db.tree.publish(db.last());
        db.tree.collect(100);
    }
    assert_eq!(prep.in_flight_paths(), 0);
}

// ---- a whole house: shard and core ----------------------------------------------------------------------------------

struct Door;

impl Admission for Door {
    fn admit(&self, _: IpAddr) -> bool {
        true
    }
    fn leave(&self, _: IpAddr) {}
    fn writes_changed(&self, _: isize) {}
    fn writes(&self) -> usize {
        0
    }
}

#[derive(Default)]
struct Link(VecDeque<ToCore>);

impl CoreLink for Link {
    fn send(&mut self, m: ToCore) -> Result<(), ToCore> {
        self.0.push_back(m);
        Ok(())
    }
    fn send_reserved(&mut self, m: ToCore) {
        self.0.push_back(m);
    }
}

/// A disk that is always quick: what it took is durable.
#[derive(Default)]
struct Quick(Ticket);

impl Persistence for Quick {
    fn persist(&mut self, ticket: Ticket, _: Persist<'_>) {
        self.0 = ticket;
    }
}

/// A lone server has nobody to talk to.
impl Links for Quick {
    fn send_election(&mut self, _: ServerId, _: &[u8]) {
        unreachable!("a lone server has no ensemble");
    }
    fn dial(&mut self, _: ServerId) -> LinkId {
        unreachable!("a lone server has no ensemble");
    }
    fn listen(&mut self, _: bool) {
        unreachable!("a lone server has no ensemble");
    }
    fn out(&mut self, _: LinkId) -> &mut Vec<u8> {
        unreachable!("a lone server has no ensemble");
    }
    fn close(&mut self, _: LinkId) {
        unreachable!("a lone server has no ensemble");
    }
}

struct House {
    shard: Shard,
    server: Server,
    link: Link,
    disk: Quick,
}

const JUTE_BYTES_MAX: usize = 4_096;
/// What a connection may hold behind writes (256 KiB and a frame): its output has just been taken.
const BUFFERED_BYTES_MAX: usize = (256 << 10) + JUTE_BYTES_MAX + 4;

impl House {
    fn new() -> House {
        let limits =
            Arc::new(Limits { jute_max_buffer: JUTE_BYTES_MAX, extended_types: true, ..Limits::default() });
        let (writer, handle) = engine::tree::new(7, 2);
        let server = Server::new(limits.clone(), Database::new(writer), 1, 1, NOW);
        let reader = handle.reader().expect("a slot");
        let shard = Shard::new(ShardId(0), limits, Arc::new(Door), reader, Arc::default(), Zxid::ZERO, 0);
        House { shard, server, link: Link::default(), disk: Quick::default() }
    }

    fn connect(&mut self) -> ConnId {
        let c = self.accept();
        let mut hello = vec![];
        put_frame(&mut hello, |out| {
            let (last_zxid_seen, session, password) = (Zxid::ZERO, SessionId::NONE, Some(&[0; 16][..]));
            let read_only = Some(false);
            ConnectRequest { last_zxid_seen, timeout_ms: 6_000, session, password, read_only }.encode(out);
        });
        self.input(c, &hello);
        assert_eq!(self.output(c).len(), 41);
        c
    }

    fn accept(&mut self) -> ConnId {
        self.shard.begin_turn();
        self.shard.accept(SocketAddr::from(([127, 0, 0, 1], 1)), NOW).expect("admitted")
    }

    /// Bytes arrive, and everything that follows from them is done.
    fn input(&mut self, c: ConnId, bytes: &[u8]) {
        self.shard.begin_turn();
        self.shard.input(c, bytes, NOW, &mut self.link);
        for round in 0.. {
            assert!(round < 10_000, "it never ends");
            while let Some(m) = self.link.0.pop_front() {
                if let Some(ToCore::Word { conn, .. }) = self.server.handle(m, NOW, &mut self.disk) {
                    let act = Act::Text(Span::default());
                    self.server.tell_now(Target::Conn(conn, act), b"said\n".to_vec());
                }
            }
            self.server.durable(self.disk.0, NOW, &mut self.disk);
            let mut batch = ChangeBatch::default();
            self.server.advance(&mut batch, 1_000, NOW);
            self.server.published();
            self.shard.begin_turn();
            self.shard.consume(&batch, NOW, &mut self.link);
            self.shard.resume(NOW, &mut self.link);
            self.server.collect(1_000);
            if self.link.0.is_empty() && !self.server.can_advance() && !self.shard.has_ready() {
                return;
            }
        }
    }

    fn output(&mut self, c: ConnId) -> Vec<u8> {
        let out = self.shard.output(c).to_vec();
        self.shard.wrote(c, out.len(), NOW);
        out
    }
}

/// Bytes of a client: the first byte says whether it has a session already (odd) and whether its bytes come in one
/// piece or in small ones. Another client must not notice.
pub fn shard(data: &[u8]) {
    let Some((first, bytes)) = cut(data).split_first() else { return };
    let mut house = House::new();
    let calm = house.connect();
    let attached = first & 1 == 1;
    let noisy = if attached { house.connect() } else { house.accept() };
    let piece = [usize::MAX, 5, 100, 1_000][usize::from(first >> 1 & 3)].min(bytes.len().max(1));
    let mut said = Vec::new();
    for part in bytes.chunks(piece) {
        house.input(noisy, part);
        said.extend(house.output(noisy));
        assert!(house.shard.stats().buffered_bytes <= BUFFERED_BYTES_MAX);
        if let Some(gone) = house.shard.next_leaving() {
            assert_eq!(gone, noisy, "only the one that earned it");
            house.shard.closed(noisy, &mut house.link);
            break;
        }
    }
    assert_eq!(house.shard.stats().outstanding, 0, "every write is answered");
    if attached {
        frames_only(&said);
    }
    let mut get = vec![];
    put_frame(&mut get, |out| {
        RequestHeader { xid: 5, op: Op::GetData.wire() }.encode(out);
        PathWatch { path: "/zookeeper".into(), watch: false }.encode(out);
    });
    house.input(calm, &get);
    let answer = house.output(calm);
    let header = ReplyHeader::decode(&mut Decoder::new(&answer[4..])).expect("a reply");
    assert_eq!((header.xid, header.err.0), (5, 0), "the other client is served");
    house.shard.closed(noisy, &mut house.link);
    house.shard.closed(calm, &mut house.link);
    let stats = house.shard.stats();
    assert_eq!((stats.connections, stats.sessions, stats.buffered_bytes), (0, 0, 0));
    assert_eq!(stats.watches, Default::default());
}

/// What a client with a session receives is whole frames, each with a reply header.
fn frames_only(bytes: &[u8]) {
    let mut d = Decoder::new(bytes);
    while !d.is_empty() {
        let n = d.int().expect("a length");
        let body = d.take(usize::try_from(n).expect("not negative")).expect("a whole frame");
        ReplyHeader::decode(&mut Decoder::new(body)).expect("a reply header");
    }
}
