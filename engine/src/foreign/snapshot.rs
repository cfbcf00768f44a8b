//! The state as ZooKeeper writes it: the body that a SNAP sync sends, and the file around it.
//!
//! Body: sessions, ACLs with numbers, nodes (parents first), the mark `"/"`. File: header, body, a checksum, and,
//! depending on release and configuration, the tree digest and the last zxid, each with a further checksum.
//! Not here: compression and names of files (`net::migrate`), our own snapshots (`crate::snapshot`).
//! Invariants:
//! - [`Encoder`]: every ACL is noted before the head is written, so no node can point at one that is missing;
//! - [`Parser`]: what it consumed ends exactly with the mark, so bytes behind the body are never touched.

use super::cursor::{Cursor, Stop};
use super::{Adler32, Bounds};
use crate::ids::{SessionId, Zxid};
use crate::proto::{Acl, Decoder, Encode, Id, put_acls};
use crate::tree::StatPersisted;
use crate::txn::DIGEST_VERSION;
use std::collections::HashMap;
use std::fmt;

/// The key that stands for world:anyone with every permission; it is in no table.
const OPEN_KEY: i64 = -1;
/// "ZKSN", version 2, database -1.
const FILE_HEADER: [u8; 16] =
    [0x5a, 0x4b, 0x53, 0x4e, 0, 0, 0, 2, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
const FOOTER_BYTES: usize = 13;
/// Footers take at most 13 + 33 + 21 bytes, a digest of the oldest form 29 more.
const TAIL_BYTES_MAX: usize = 128;

fn is_open(acl: &[Acl]) -> bool {
    matches!(acl, [only] if only.perms == crate::proto::perm::ALL
        && &*only.id.scheme == "world" && &*only.id.id == "anyone")
}

/// A list that lets nobody in, for a node whose own is not known yet ([`Record::Node`]). An empty one would let
/// everybody in.
pub fn nobody() -> [Acl; 1] {
    [Acl { perms: 0, ..Acl::open() }]
}

/// A node's ACL was not noted before the head was written: a mistake of the caller.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct UnknownAcl;

impl fmt::Display for UnknownAcl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an ACL was not noted before the snapshot's head was written")
    }
}
impl std::error::Error for UnknownAcl {}

/// Writes a body. The ACLs stand before the nodes, so the tree is walked twice at one zxid: [`Encoder::note`] for each
/// node, [`Encoder::head`], [`Encoder::node`] for each node, [`Encoder::end`]. Calls append to `out`.
#[derive(Debug, Default)]
pub struct Encoder {
    keys: HashMap<Box<[Acl]>, i64>,
    /// By key, from 1.
    lists: Vec<Box<[Acl]>>,
    /// The key that was looked up last: neighbours mostly have the same list.
    last: i64,
}

impl Encoder {
    /// Takes the list of a node into the table.
    pub fn note(&mut self, acl: &[Acl]) {
        if self.key(acl).is_none() {
            let key = self.lists.len() as i64 + 1;
            self.lists.push(acl.into());
            self.keys.insert(acl.into(), key);
            self.last = key;
        }
    }

    fn key(&mut self, acl: &[Acl]) -> Option<i64> {
        if is_open(acl) {
            return Some(OPEN_KEY);
        }
        if self.last > 0 && *self.lists[self.last as usize - 1] == *acl {
            return Some(self.last);
        }
        let key = *self.keys.get(acl)?;
        self.last = key;
        Some(key)
    }

    /// Sessions with their timeouts in ms, and the ACLs.
    pub fn head(&mut self, sessions: &[(SessionId, i32)], out: &mut Vec<u8>) {
        out.put_len(sessions.len());
        for (id, timeout_ms) in sessions {
            out.put_long(id.0);
            out.put_int(*timeout_ms);
        }
        out.put_len(self.lists.len());
        for (i, list) in self.lists.iter().enumerate() {
            out.put_long(i as i64 + 1);
            put_acls(out, list);
        }
    }

    /// A node whose parent has been written; the root, "" or "/", is the first.
    ///
    /// # Errors
    /// The list was not noted; nothing was appended.
    pub fn node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
        out: &mut Vec<u8>,
    ) -> Result<(), UnknownAcl> {
        let key = self.key(acl).ok_or(UnknownAcl)?;
        out.put_string(if path == "/" { "" } else { path });
        out.put_buffer(data);
        out.put_long(key);
        out.put_bytes(&stat.to_bytes());
        Ok(())
    }

    /// The mark behind the last node.
    pub fn end(&self, out: &mut Vec<u8>) {
        out.put_string("/");
    }
}

/// What stands around a body in a file: the header before it, checksums behind it.
#[derive(Debug, Default)]
pub struct FileFrame {
    sum: Adler32,
}

impl FileFrame {
    /// Appends the header.
    pub fn header(&mut self, out: &mut Vec<u8>) {
        self.sum.update(&FILE_HEADER);
        out.put_bytes(&FILE_HEADER);
    }
    /// Every byte of the body, in order, passes here on its way to the file.
    pub fn body(&mut self, bytes: &[u8]) {
        self.sum.update(bytes);
    }
    /// Appends what stands behind the body as 3.8.0 writes it: a checksum, the digest with the zxid it belongs to, a
    /// checksum over that. Without a digest, as releases before 3.6.
    pub fn footers(&mut self, digest: Option<(Zxid, u64)>, out: &mut Vec<u8>) {
        self.seal(out);
        if let Some((zxid, digest)) = digest {
            let start = out.len();
            out.put_long(zxid.wire());
            out.put_int(DIGEST_VERSION);
            out.put_long(digest as i64);
            self.sum.update(&out[start..]);
            self.seal(out);
        }
    }
    fn seal(&mut self, out: &mut Vec<u8>) {
        let footer = footer(self.sum);
        self.sum.update(&footer);
        out.put_bytes(&footer);
    }
}

fn footer(sum: Adler32) -> [u8; FOOTER_BYTES] {
    let mut b = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, b'/'];
    b[4..8].copy_from_slice(&sum.value().to_be_bytes());
    b
}

/// One item of a body.
#[derive(Debug)]
pub enum Record<'a> {
    Session {
        id: SessionId,
        timeout_ms: i32,
    },
    Node {
        /// "/" for the root.
        path: &'a str,
        data: Option<&'a [u8]>,
        /// `None`: the node points at no list of the table. That happens to nodes made or changed while ZooKeeper was
        /// writing; the transaction that did it follows in the log and brings the list. Until then [`nobody`] may see it.
        acl: Option<&'a [Acl]>,
        stat: StatPersisted,
    },
    /// The mark.
    End {
        sessions: u64,
        nodes: u64,
    },
}

/// Why bytes are no snapshot of ZooKeeper's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// Where in the stream the item begins, and what is wrong with it.
    Damaged { at: u64, what: &'static str },
    /// It ends before its mark.
    Cut { at: u64 },
    /// A file that is something else.
    NotASnapshot,
    /// The version in the header.
    Version(i32),
    /// Longer than the caller allows.
    TooLong { bytes_max: u64 },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::Damaged { at, what } => write!(f, "it is damaged at byte {at}: {what}"),
            Unreadable::Cut { at } => write!(f, "it is cut short: its last whole item ends at byte {at}"),
            Unreadable::NotASnapshot => {
                f.write_str("it is no snapshot of ZooKeeper's (no ZKSN at its start)")
            }
            Unreadable::Version(v) => write!(f, "its format has version {v}, which is unknown"),
            Unreadable::TooLong { bytes_max } => write!(f, "it is longer than {bytes_max} bytes"),
        }
    }
}
impl std::error::Error for Unreadable {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    SessionCount,
    Sessions(u64),
    AclCount,
    Acls(u64),
    Root,
    Nodes,
    Ended,
}

/// Reads a body from pieces of any size.
#[derive(Debug)]
pub struct Parser {
    bounds: Bounds,
    at: At,
    acls: HashMap<i64, Vec<Acl>>,
    open: Vec<Acl>,
    acl_bytes: usize,
    offset: u64,
    sessions: u64,
    nodes: u64,
}

impl Parser {
    /// At the start of a body.
    pub fn new(bounds: Bounds) -> Parser {
        Parser {
            bounds,
            at: At::SessionCount,
            acls: HashMap::new(),
            open: vec![Acl::open()],
            acl_bytes: 0,
            offset: 0,
            sessions: 0,
            nodes: 0,
        }
    }

    /// Hands every whole item at the start of `bytes` to `each`; says how many bytes they took. What is left is the
    /// start of an item, to be given again with more behind it, or stands behind the body.
    ///
    /// # Errors
    /// [`Unreadable`] as the caller's type, or what `each` returned. The parser is of no use afterwards.
    pub fn feed<E: From<Unreadable>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut rest = bytes;
        while self.at != At::Ended {
            let mut c = Cursor::new(rest, &self.bounds);
            match self.step(&mut c, &mut each) {
                Ok(()) => {}
                Err(Halt::Stop(Stop::Short)) => break,
                Err(Halt::Stop(Stop::Bad(what))) => {
                    return Err(Unreadable::Damaged { at: self.offset, what }.into());
                }
                Err(Halt::Caller(e)) => return Err(e),
            }
            self.offset += (rest.len() - c.rest().len()) as u64;
            if self.offset > self.bounds.total_bytes {
                return Err(Unreadable::TooLong { bytes_max: self.bounds.total_bytes }.into());
            }
            rest = c.rest();
        }
        Ok(bytes.len() - rest.len())
    }

    /// Whether the mark was read.
    pub fn is_done(&self) -> bool {
        self.at == At::Ended
    }
    /// Bytes that all items so far took.
    pub fn offset(&self) -> u64 {
        self.offset
    }
    /// To be called when no more bytes come.
    ///
    /// # Errors
    /// The mark is missing.
    pub fn finish(&self) -> Result<(), Unreadable> {
        if self.is_done() { Ok(()) } else { Err(Unreadable::Cut { at: self.offset }) }
    }

    /// One item. Nothing changes unless all of it is there.
    fn step<E>(
        &mut self,
        c: &mut Cursor<'_>,
        each: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), Halt<E>> {
        self.at = match self.at {
            At::SessionCount => At::Sessions(c.count()?),
            At::Sessions(0) => At::AclCount,
            At::Sessions(left) => {
                let (id, timeout_ms) = (SessionId(c.long()?), c.int()?);
                each(Record::Session { id, timeout_ms }).map_err(Halt::Caller)?;
                self.sessions += 1;
                At::Sessions(left - 1)
            }
            At::AclCount => At::Acls(c.count()?),
            At::Acls(0) => At::Root,
            At::Acls(left) => {
                self.acl(c)?;
                At::Acls(left - 1)
            }
            At::Root | At::Nodes => {
                self.node(c, each)?;
                return Ok(());
            }
            At::Ended => At::Ended,
        };
        Ok(())
    }

    fn acl(&mut self, c: &mut Cursor<'_>) -> Result<(), Stop> {
        let before = c.rest().len();
        let read = (|| {
            let key = c.long()?;
            let n = c.count()?;
            let mut list = Vec::new();
            for _ in 0..n {
                let perms = c.int()?;
                // As Java reads strings that are no UTF-8, and as it writes those beyond the basic plane.
                let mut text = || Ok(String::from_utf8_lossy(c.buffer()?.unwrap_or_default()));
                let (scheme, id) = (text()?, text()?);
                list.push(Acl { perms, id: Id::new(&scheme, &id) });
            }
            Ok((key, list))
        })();
        let taken = before - c.rest().len();
        if self.acl_bytes + taken > self.bounds.acl_bytes {
            return Err(Stop::Bad("its ACLs take more room than the limit allows"));
        }
        let (key, list) = read?;
        if key < 1 || self.acls.insert(key, list).is_some() {
            return Err(Stop::Bad("an ACL has the number of another, or one that cannot be"));
        }
        self.acl_bytes += taken;
        Ok(())
    }

    fn node<E>(
        &mut self,
        c: &mut Cursor<'_>,
        each: &mut impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<(), Halt<E>> {
        let path = c.buffer()?.ok_or(Stop::Bad("a path is null"))?;
        let path = std::str::from_utf8(path).map_err(|_| Stop::Bad("a path is no text"))?;
        if path == "/" {
            if self.at == At::Root {
                return Err(Stop::Bad("it has no root").into());
            }
            each(Record::End { sessions: self.sessions, nodes: self.nodes }).map_err(Halt::Caller)?;
            self.at = At::Ended;
            return Ok(());
        }
        if (self.at == At::Root) != path.is_empty() {
            return Err(Stop::Bad("the root is not the first of its nodes, or there twice").into());
        }
        if !path.is_empty() && (!path.starts_with('/') || path.ends_with('/')) {
            return Err(Stop::Bad("a path is none").into());
        }
        let data = c.buffer()?;
        let acl = match c.long()? {
            OPEN_KEY => Some(self.open.as_slice()),
            key => self.acls.get(&key).map(Vec::as_slice),
        };
        let stat = StatPersisted::from_bytes(c.array()?);
        let path = if path.is_empty() { "/" } else { path };
        each(Record::Node { path, data, acl, stat }).map_err(Halt::Caller)?;
        self.nodes += 1;
        self.at = At::Nodes;
        Ok(())
    }
}

/// Why a step did not end.
enum Halt<E> {
    Stop(Stop),
    Caller(E),
}

impl<E> From<Stop> for Halt<E> {
    fn from(s: Stop) -> Halt<E> {
        Halt::Stop(s)
    }
}

/// What a file says about its state, behind the body.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Footers {
    /// The tree digest of our version, and the zxid that it belongs to. That is the moment at which the writing ended,
    /// so at or behind the zxid in the file's name; before it when an epoch began without a transaction.
    pub digest: Option<(Zxid, u64)>,
    /// The last zxid applied when the writing ended (releases from 3.9).
    pub last: Option<Zxid>,
}

/// Reads a file from pieces of any size: header, body, checksums.
#[derive(Debug)]
pub struct FileParser {
    body: Parser,
    sum: Adler32,
    header: bool,
    tail: Vec<u8>,
}

impl FileParser {
    /// At the start of a file.
    pub fn new(bounds: Bounds) -> FileParser {
        FileParser { body: Parser::new(bounds), sum: Adler32::default(), header: false, tail: Vec::new() }
    }

    /// As [`Parser::feed`]; what stands behind the body is consumed too. Nothing that `each` was given is certain
    /// before [`FileParser::finish`] has looked at the checksums.
    ///
    /// # Errors
    /// As [`Parser::feed`].
    pub fn feed<E: From<Unreadable>>(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(Record<'_>) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut taken = 0;
        if !self.header {
            let magic = bytes.len().min(4);
            if bytes[..magic] != FILE_HEADER[..magic] {
                return Err(Unreadable::NotASnapshot.into());
            }
            let Some(header) = bytes.first_chunk::<{ FILE_HEADER.len() }>() else { return Ok(0) };
            if header[4..8] != FILE_HEADER[4..8] {
                let version = i32::from_be_bytes(header[4..8].try_into().expect("four bytes"));
                return Err(Unreadable::Version(version).into());
            }
            self.sum.update(header);
            self.header = true;
            taken = header.len();
        }
        let body = self.body.feed(&bytes[taken..], each)?;
        self.sum.update(&bytes[taken..taken + body]);
        taken += body;
        if self.body.is_done() {
            self.tail.extend_from_slice(&bytes[taken..]);
            if self.tail.len() > TAIL_BYTES_MAX {
                let at = self.end_of_body();
                return Err(Unreadable::Damaged { at, what: "more stands behind its nodes than can" }.into());
            }
            taken = bytes.len();
        }
        Ok(taken)
    }

    fn end_of_body(&self) -> u64 {
        FILE_HEADER.len() as u64 + self.body.offset()
    }

    /// To be called when all bytes were fed.
    ///
    /// # Errors
    /// The file is cut, or a checksum is wrong.
    pub fn finish(&self) -> Result<Footers, Unreadable> {
        if !self.header {
            // Nothing came that says what else it would be: its server ended before it wrote more.
            return Err(Unreadable::Cut { at: 0 });
        }
        if !self.body.is_done() {
            return Err(Unreadable::Cut { at: self.end_of_body() });
        }
        let damaged = |what| Unreadable::Damaged { at: self.end_of_body(), what };
        let mut tail = Tail { rest: &self.tail, sum: self.sum };
        if !tail.seal(0) {
            return Err(damaged("its checksum is wrong"));
        }
        let mut found = Footers::default();
        // What follows depends on the writer's release and configuration; the checksums tell which it is.
        if tail.digest_bytes().is_some_and(|n| tail.sealed(n)) {
            found.digest = tail.digest();
        }
        if tail.sealed(8) {
            let zxid = Zxid::from_wire(Decoder::new(tail.rest).long().map_err(|_| damaged("no zxid"))?);
            tail.seal(8);
            found.last = Some(zxid);
        }
        if !tail.rest.is_empty() {
            return Err(damaged("the checksum of its digest or of its last zxid is wrong"));
        }
        Ok(found)
    }
}

/// The bytes behind a body, and the checksum of everything before them.
#[derive(Clone, Copy)]
struct Tail<'a> {
    rest: &'a [u8],
    sum: Adler32,
}

impl Tail<'_> {
    /// Passes over `n` bytes and the footer behind them; `false` when the footer is not the right one.
    fn seal(&mut self, n: usize) -> bool {
        let Some((content, rest)) = self.rest.split_at_checked(n) else { return false };
        let mut sum = self.sum;
        sum.update(content);
        let expected = footer(sum);
        let Some(rest) = rest.strip_prefix(&expected[..]) else { return false };
        sum.update(&expected);
        (self.rest, self.sum) = (rest, sum);
        true
    }
    fn sealed(&self, n: usize) -> bool {
        { *self }.seal(n)
    }
    /// How long a digest here would be: until version 2 its value was a hexadecimal text.
    fn digest_bytes(&self) -> Option<usize> {
        let mut d = Decoder::new(self.rest);
        d.long().ok()?;
        if d.int().ok()? >= DIGEST_VERSION {
            return Some(20);
        }
        Some(16 + d.buffer().ok()?.map_or(0, <[u8]>::len))
    }
    /// Passes over the digest; `None` when it is of a version that we cannot compute, or of no transaction.
    fn digest(&mut self) -> Option<(Zxid, u64)> {
        let bytes = self.digest_bytes()?;
        let mut d = Decoder::new(self.rest);
        let (zxid, version, value) = (Zxid::from_wire(d.long().ok()?), d.int().ok()?, d.long());
        self.seal(bytes);
        (version == DIGEST_VERSION && zxid != Zxid::ZERO).then_some((zxid, value.ok()? as u64))
    }
}
