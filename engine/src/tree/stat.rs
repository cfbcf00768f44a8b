//! What a znode's status holds on disk, and what its owner field says about its kind.
//!
//! Not here: the status that clients see (`proto::Stat`).

use crate::ids::Zxid;

/// A znode's status as disk and digest carry it (60 bytes; fact sheet 2.5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct StatPersisted {
    pub czxid: Zxid,
    pub mzxid: Zxid,
    /// Milliseconds since 1970.
    pub ctime: i64,
    /// Milliseconds since 1970.
    pub mtime: i64,
    pub version: i32,
    /// As stored: counts creations of children only.
    pub cversion: i32,
    pub aversion: i32,
    /// Raw: a session, or a marker (see [`Kind::of`]).
    pub ephemeral_owner: i64,
    pub pzxid: Zxid,
}

impl StatPersisted {
    /// Size on disk.
    pub const BYTES: usize = 60;

    /// In the order of the record.
    pub fn to_bytes(&self) -> [u8; Self::BYTES] {
        let mut b = [0; Self::BYTES];
        b[0..8].copy_from_slice(&self.czxid.0.to_be_bytes());
        b[8..16].copy_from_slice(&self.mzxid.0.to_be_bytes());
        b[16..24].copy_from_slice(&self.ctime.to_be_bytes());
        b[24..32].copy_from_slice(&self.mtime.to_be_bytes());
        b[32..36].copy_from_slice(&self.version.to_be_bytes());
        b[36..40].copy_from_slice(&self.cversion.to_be_bytes());
        b[40..44].copy_from_slice(&self.aversion.to_be_bytes());
        b[44..52].copy_from_slice(&self.ephemeral_owner.to_be_bytes());
        b[52..60].copy_from_slice(&self.pzxid.0.to_be_bytes());
        b
    }

    /// From the order of the record.
    pub fn from_bytes(b: &[u8; Self::BYTES]) -> StatPersisted {
        let long = |at: usize| u64::from_be_bytes(b[at..at + 8].try_into().expect("eight bytes"));
        let int = |at: usize| i32::from_be_bytes(b[at..at + 4].try_into().expect("four bytes"));
        StatPersisted {
            czxid: Zxid(long(0)),
            mzxid: Zxid(long(8)),
            ctime: long(16) as i64,
            mtime: long(24) as i64,
            version: int(32),
            cversion: int(36),
            aversion: int(40),
            ephemeral_owner: long(44) as i64,
            pzxid: Zxid(long(52)),
        }
    }
}

/// What kind of node an owner field says it is (fact sheet 3.7).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Persistent,
    Ephemeral,
    Container,
    Ttl,
}

impl Kind {
    /// The owner field of a container.
    pub const CONTAINER: i64 = i64::MIN;
    const TTL_MARK: u64 = 0xff << 56;
    const TTL_MASK: u64 = (1 << 40) - 1;

    /// The kind of a raw owner. Session ids whose top byte is 0xff are taken for TTL marks: server ids are at most 254.
    pub const fn of(owner: i64) -> Kind {
        match owner {
            0 => Kind::Persistent,
            Kind::CONTAINER => Kind::Container,
            o if (o as u64) >> 56 == 0xff => Kind::Ttl,
            _ => Kind::Ephemeral,
        }
    }

    /// The owner field of a TTL node. `ttl_ms` in 1..=2^40-1.
    pub const fn ttl_owner(ttl_ms: i64) -> i64 {
        (Self::TTL_MARK | (ttl_ms as u64 & Self::TTL_MASK)) as i64
    }

    /// The time to live in ms of a TTL node's owner field.
    pub const fn ttl_ms(owner: i64) -> Option<i64> {
        match Kind::of(owner) {
            Kind::Ttl => Some((owner as u64 & Self::TTL_MASK) as i64),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_owners() {
        assert_eq!(Kind::of(0), Kind::Persistent);
        assert_eq!(Kind::of(0x0100_000e_3699_0000), Kind::Ephemeral);
        assert_eq!(Kind::of(0x8000_0000_0000_0000_u64 as i64), Kind::Container);
        assert_eq!(Kind::of(0xff00_0000_0000_03e8_u64 as i64), Kind::Ttl);
        assert_eq!(Kind::of(0xfe00_0000_0000_0001_u64 as i64), Kind::Ephemeral);
        assert_eq!(Kind::ttl_ms(Kind::ttl_owner((1 << 40) - 1)), Some((1 << 40) - 1));
        assert_eq!(Kind::ttl_ms(Kind::CONTAINER), None);
    }

    #[test]
    fn the_record_is_in_the_order_of_the_fact_sheet() {
        let s = StatPersisted {
            czxid: Zxid(1),
            mzxid: Zxid(2),
            ctime: 3,
            mtime: -4,
            version: 5,
            cversion: 6,
            aversion: -1,
            ephemeral_owner: 8,
            pzxid: Zxid(9),
        };
        let b = s.to_bytes();
        assert_eq!(b[7], 1);
        assert_eq!(b[43], 0xff);
        assert_eq!(b[59], 9);
        assert_eq!(StatPersisted::from_bytes(&b), s);
    }
}
