//! The state as a sequence of records, for snapshot files.
//!
//! Not here: files, checksums, blocks (`wal`), the walk over the tree (`tree::Walker`).
//! Invariants:
//! - records come in this order: head, sessions, then per node, parents first, its ACL when that was not written yet
//!   and the node itself, then the end; a sequence without its end is no snapshot;
//! - ACLs are written by value at first use, so no node can point at one that is missing;
//! - all of it is the state at exactly the head's zxid: replay begins strictly behind it.

use crate::ids::{SessionId, Zxid};
use crate::proto::{Acl, Decoded, Decoder, Encode, Malformed, get_acls, put_acls};
use crate::tree::StatPersisted;
use std::collections::HashMap;

const HEAD: u8 = 1;
const SESSION: u8 = 2;
const ACL: u8 = 3;
const NODE: u8 = 4;
const END: u8 = 5;
/// Raised when a record's layout changes; others are refused.
const VERSION: i32 = 1;

/// Turns the state into records. Each call appends whole records to `out`.
#[derive(Debug, Default)]
pub struct Encoder {
    acls: HashMap<Vec<Acl>, i32>,
    nodes: u64,
}

impl Encoder {
    /// What stands before the nodes.
    pub fn head(
        &mut self,
        zxid: Zxid,
        digest: Option<u64>,
        sessions: impl IntoIterator<Item = (SessionId, i32)>,
        out: &mut Vec<u8>,
    ) {
        out.put_byte(HEAD);
        out.put_int(VERSION);
        out.put_long(zxid.wire());
        out.put_bool(digest.is_some());
        out.put_long(digest.unwrap_or_default() as i64);
        for (id, timeout_ms) in sessions {
            out.put_byte(SESSION);
            out.put_long(id.0);
            out.put_int(timeout_ms);
        }
    }

    /// A node whose parent has been written.
    pub fn node(
        &mut self,
        path: &str,
        data: Option<&[u8]>,
        acl: &[Acl],
        stat: &StatPersisted,
        out: &mut Vec<u8>,
    ) {
        let number = match self.acls.get(acl) {
            Some(&n) => n,
            None => {
                let n = self.acls.len() as i32;
                self.acls.insert(acl.to_vec(), n);
                out.put_byte(ACL);
                put_acls(out, acl);
                n
            }
        };
        self.nodes += 1;
        out.put_byte(NODE);
        out.put_string(path);
        out.put_buffer(data);
        out.put_int(number);
        out.put_bytes(&stat.to_bytes());
    }

    /// The last record.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        out.put_byte(END);
        out.put_long(self.nodes as i64);
    }
}

fn get_stat(d: &mut Decoder<'_>) -> Decoded<StatPersisted> {
    let bytes = d.take(StatPersisted::BYTES)?;
    Ok(StatPersisted::from_bytes(bytes.try_into().map_err(|_| Malformed)?))
}

/// One record, as the loader sees it.
#[derive(Debug)]
pub enum Record<'a> {
    /// `digest` of the whole tree; `None` where digests are switched off.
    Head {
        zxid: Zxid,
        digest: Option<u64>,
    },
    Session {
        id: SessionId,
        timeout_ms: i32,
    },
    Node {
        path: &'a str,
        data: Option<&'a [u8]>,
        acl: usize,
        stat: StatPersisted,
    },
    End,
}

/// Why a sequence of records is no snapshot of ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// Cut short, or not records at all.
    Malformed,
    /// Written by another release with another layout.
    Version(i32),
    /// The end says another number of nodes than there were.
    Count { written: u64, found: u64 },
}

impl From<Malformed> for Unreadable {
    fn from(_: Malformed) -> Unreadable {
        Unreadable::Malformed
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Unreadable::Malformed => f.write_str("its records are damaged or cut short"),
            Unreadable::Version(v) => write!(f, "its layout has version {v}, this release reads {VERSION}"),
            Unreadable::Count { written, found } => {
                write!(f, "it should hold {written} nodes and holds {found}")
            }
        }
    }
}
impl std::error::Error for Unreadable {}

/// Reads records from pieces of any size.
#[derive(Debug, Default)]
pub struct Parser {
    acls: Vec<Vec<Acl>>,
    nodes: u64,
    ended: bool,
}

impl Parser {
    /// Hands every whole record at the start of `bytes` to `each`; says how many bytes they took. What is left is the
    /// start of a record, to be given again with more behind it.
    pub fn feed<E: From<Unreadable>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(Record<'_>, &[Vec<Acl>]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut at = bytes;
        while !at.is_empty() && !self.ended {
            let mut d = Decoder::new(at);
            match self.record(&mut d) {
                Ok(Some(record)) => each(record, &self.acls)?,
                Ok(None) => {}
                // A damaged record looks like one that is not there yet; `finish` tells it.
                Err(Unreadable::Malformed) => break,
                Err(e) => return Err(e.into()),
            }
            at = d.rest();
        }
        Ok(bytes.len() - at.len())
    }

    /// To be called when all bytes were fed: whether it was a whole snapshot.
    pub fn finish(&self) -> Result<(), Unreadable> {
        if self.ended { Ok(()) } else { Err(Unreadable::Malformed) }
    }

    fn record<'a>(&mut self, d: &mut Decoder<'a>) -> Result<Option<Record<'a>>, Unreadable> {
        Ok(Some(match d.byte()? {
            HEAD => {
                let version = d.int()?;
                if version != VERSION {
                    return Err(Unreadable::Version(version));
                }
                let zxid = Zxid::from_wire(d.long()?);
                let (known, digest) = (d.bool()?, d.long()? as u64);
                Record::Head { zxid, digest: known.then_some(digest) }
            }
            SESSION => Record::Session { id: SessionId(d.long()?), timeout_ms: d.int()? },
            ACL => {
                let acl = get_acls(d)?;
                self.acls.push(acl);
                return Ok(None);
            }
            NODE => {
                let path = std::str::from_utf8(d.buffer()?.ok_or(Malformed)?).map_err(|_| Malformed)?;
                let data = d.buffer()?;
                let acl = usize::try_from(d.int()?).ok().filter(|n| *n < self.acls.len()).ok_or(Malformed)?;
                let stat = get_stat(d)?;
                self.nodes += 1;
                Record::Node { path, data, acl, stat }
            }
            END => {
                let written = d.long()? as u64;
                if written != self.nodes {
                    return Err(Unreadable::Count { written, found: self.nodes });
                }
                self.ended = true;
                Record::End
            }
            _ => return Err(Unreadable::Malformed),
        }))
    }
}
