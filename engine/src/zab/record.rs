//! What a record of a member's log is: a transaction, or a mark about those before it.
//!
//! Not here: the log (`wal`), what transactions mean.
//! Invariant: a transaction has at least its header's 32 bytes, a mark always has nine, so neither passes for the other.

use crate::ids::Zxid;

const TRUNCATE: u8 = 1;
const INSTALLED: u8 = 2;
const WHOLE: u8 = 3;

/// One record of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Record<'a> {
    /// A transaction, whole.
    Txn(&'a [u8]),
    Mark(Mark),
}

/// A record that is no transaction.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mark {
    /// Transactions before this record with a higher zxid are void.
    Truncate(Zxid),
    /// The state of this zxid came as a snapshot: nothing before this record leads to what follows. It may hold parts of
    /// what was committed behind that zxid while it was sent.
    Installed(Zxid),
    /// From this zxid on the state that came so is whole: it holds all up to there, and nothing else.
    Whole(Zxid),
}

impl Mark {
    /// Length of an encoded mark.
    pub const BYTES: usize = 9;

    /// As the log holds it.
    pub fn encode(self) -> [u8; Mark::BYTES] {
        let (kind, zxid) = match self {
            Mark::Truncate(z) => (TRUNCATE, z),
            Mark::Installed(z) => (INSTALLED, z),
            Mark::Whole(z) => (WHOLE, z),
        };
        let mut out = [kind; Mark::BYTES];
        out[1..].copy_from_slice(&zxid.0.to_be_bytes());
        out
    }
}

impl<'a> Record<'a> {
    /// What these bytes are; `None`: neither.
    pub fn decode(bytes: &'a [u8]) -> Option<Record<'a>> {
        if bytes.len() >= 32 {
            return Some(Record::Txn(bytes));
        }
        let (kind, zxid) = bytes.split_first()?;
        let zxid = Zxid(u64::from_be_bytes(zxid.try_into().ok()?));
        match *kind {
            TRUNCATE => Some(Record::Mark(Mark::Truncate(zxid))),
            INSTALLED => Some(Record::Mark(Mark::Installed(zxid))),
            WHOLE => Some(Record::Mark(Mark::Whole(zxid))),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_and_transactions_are_told_apart() {
        for m in [Mark::Truncate(Zxid(0x1_0000_0007)), Mark::Installed(Zxid(9)), Mark::Whole(Zxid(10))] {
            assert_eq!(Record::decode(&m.encode()), Some(Record::Mark(m)));
        }
        assert_eq!(Record::decode(&[7; 32]), Some(Record::Txn(&[7; 32])));
        assert_eq!(Record::decode(&[7; 9]), None);
        assert_eq!(Record::decode(&[1; 8]), None);
        assert_eq!(Record::decode(&[]), None);
    }
}
