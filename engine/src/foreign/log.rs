//! ZooKeeper's transaction log files (fact sheet 10.3).
//!
//! Not here: which files there are and which records of them count (`net::migrate`).
//! Invariants:
//! - a record is handed out only after its checksum was right;
//! - a file that was being written when its server died ends quietly where the last whole record does, as ZooKeeper
//!   reads it; [`End`] says so, and whether anything but zeros stands behind, which is damage and not an ending.

use super::cursor::{Cursor, Stop};
use super::{Adler32, Bounds};
use crate::proto::Encode;
use std::fmt;

/// "ZKLG", version 2, database 0.
const FILE_HEADER: [u8; 16] = [0x5a, 0x4b, 0x4c, 0x47, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0];
/// Behind every record.
const END_OF_RECORD: u8 = b'B';
/// Before a record's bytes: checksum and length.
const HEAD_BYTES: u64 = 12;

/// Appends the start of a file.
pub fn header(out: &mut Vec<u8>) {
    out.put_bytes(&FILE_HEADER);
}

/// Appends a record that holds this transaction.
pub fn record(txn: &[u8], out: &mut Vec<u8>) {
    out.put_long(i64::from(Adler32::of(txn)));
    out.put_buffer(Some(txn));
    out.put_byte(END_OF_RECORD);
}

/// How a file ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// Behind a record, with or without zeros.
    Clean,
    /// A record began at byte `at` that is not whole, or that has no length; `follows`: other bytes than zeros stand
    /// behind its first ones. Without those it was being written when its server died.
    Torn { at: u64, follows: bool },
}

/// Why bytes are no log of ZooKeeper's, or no whole one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unreadable {
    /// Something else.
    NotALog,
    /// The version in the header.
    Version(i32),
    /// Where the record begins, and what is wrong with it.
    Damaged { at: u64, what: &'static str },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unreadable::NotALog => f.write_str("it is no log of ZooKeeper's (no ZKLG at its start)"),
            Unreadable::Version(v) => write!(f, "its format has version {v}, which is unknown"),
            Unreadable::Damaged { at, what } => write!(f, "the record at byte {at} is damaged: {what}"),
        }
    }
}
impl std::error::Error for Unreadable {}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum At {
    Header,
    Records,
    /// No record follows from this byte on. What does, is looked at only for bytes that are not zero.
    Over(End, u64),
}

/// Reads a file from pieces of any size.
#[derive(Debug)]
pub struct Parser {
    bounds: Bounds,
    at: At,
    offset: u64,
}

impl Parser {
    /// At the start of a file.
    pub fn new(bounds: Bounds) -> Parser {
        Parser { bounds, at: At::Header, offset: 0 }
    }

    /// Hands the transaction of every whole record at the start of `bytes` to `each`, with the byte of the file at
    /// which its record begins; says how many bytes they took. What is left is to be given again with more behind it.
    ///
    /// # Errors
    /// [`Unreadable`] as the caller's type, or what `each` returned. The parser is of no use afterwards.
    pub fn feed<E: From<Unreadable>>(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(u64, &[u8]) -> Result<(), E>,
    ) -> Result<usize, E> {
        let mut rest = bytes;
        loop {
            let mut c = Cursor::new(rest, &self.bounds);
            let next = match self.at {
                At::Header => self.header(&mut c)?,
                At::Records => match self.record(&mut c)? {
                    Some(Found::Txn(txn)) => {
                        each(self.offset, txn)?;
                        Some(At::Records)
                    }
                    Some(Found::Over(end)) => Some(At::Over(end, self.offset)),
                    None => None,
                },
                At::Over(_, at) => {
                    if rest.iter().any(|b| *b != 0) {
                        self.at = At::Over(End::Torn { at, follows: true }, at);
                    }
                    self.offset += rest.len() as u64;
                    return Ok(bytes.len());
                }
            };
            let Some(next) = next else { return Ok(bytes.len() - rest.len()) };
            self.at = next;
            self.offset += (rest.len() - c.rest().len()) as u64;
            rest = c.rest();
        }
    }

    /// To be called when all bytes were fed; `rest` is what the last call left.
    pub fn finish(&self, rest: &[u8]) -> End {
        match self.at {
            At::Over(end, _) => end,
            _ if rest.iter().all(|b| *b == 0) => End::Clean,
            _ => End::Torn { at: self.offset, follows: is_whole_record(rest) },
        }
    }

    fn header(&self, c: &mut Cursor<'_>) -> Result<Option<At>, Unreadable> {
        let Ok(header) = c.array::<{ FILE_HEADER.len() }>() else { return Ok(None) };
        if header[..4] != FILE_HEADER[..4] {
            return Err(Unreadable::NotALog);
        }
        if header[4..8] != FILE_HEADER[4..8] {
            return Err(Unreadable::Version(i32::from_be_bytes(
                header[4..8].try_into().expect("four bytes"),
            )));
        }
        Ok(Some(At::Records))
    }

    fn record<'a>(&self, c: &mut Cursor<'a>) -> Result<Option<Found<'a>>, Unreadable> {
        let damaged = |what| Unreadable::Damaged { at: self.offset, what };
        let read = (|| {
            let sum = c.long()?;
            let txn = c.buffer()?.ok_or(Stop::Bad("its length is negative"))?;
            if txn.is_empty() {
                return Ok((sum, txn, 0));
            }
            Ok((sum, txn, c.array::<1>()?[0]))
        })();
        let (sum, txn, last) = match read {
            Ok(read) => read,
            Err(Stop::Short) => return Ok(None),
            Err(Stop::Bad(what)) => return Err(damaged(what)),
        };
        if txn.is_empty() {
            let clean = sum == 0;
            let torn = End::Torn { at: self.offset, follows: false };
            return Ok(Some(Found::Over(if clean { End::Clean } else { torn })));
        }
        if last != END_OF_RECORD {
            let torn = End::Torn { at: self.offset, follows: last != 0 || is_whole(sum, txn) };
            return Ok(Some(Found::Over(torn)));
        }
        if sum != i64::from(Adler32::of(txn)) {
            return Err(damaged("its checksum is wrong"));
        }
        Ok(Some(Found::Txn(txn)))
    }

    /// Bytes of the file that were consumed.
    pub fn offset(&self) -> u64 {
        self.offset
    }
}

/// Whether what stands behind a record's length is a whole transaction of another length: then the length is damaged,
/// and the record was not being written when its server died.
fn is_whole(expected: i64, behind: &[u8]) -> bool {
    let mut sum = Adler32::default();
    behind.iter().any(|b| {
        let whole = *b == END_OF_RECORD && expected == i64::from(sum.value());
        sum.update(&[*b]);
        whole
    })
}

/// The same of a record that seems to go on behind the end of its file.
fn is_whole_record(bytes: &[u8]) -> bool {
    match bytes.split_first_chunk::<8>() {
        Some((sum, rest)) if rest.len() > 4 => is_whole(i64::from_be_bytes(*sum), &rest[4..]),
        _ => false,
    }
}

enum Found<'a> {
    Txn(&'a [u8]),
    Over(End),
}

/// Bytes that a record of a transaction this long takes.
pub fn record_bytes(txn: usize) -> u64 {
    HEAD_BYTES + txn as u64 + 1
}
