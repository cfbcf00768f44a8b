//! The layouts of FORMAT.md sections 2-4: headers of segments and groups, and the records in a body.
//!
//! Not here: any I/O, any decision about damage (`recover`).
//! Invariant: a decoder accepts exactly the bytes that the encoder writes; it never panics on others.

use crate::Position;

/// Unit of alignment of everything in a segment, in bytes.
pub const BLOCK_BYTES: usize = 4096;
/// The format this code writes and reads.
pub const FORMAT_VERSION: u32 = 1;
/// Longest record, in bytes.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// Bytes of a group's header.
pub(crate) const GROUP_HEADER_BYTES: usize = 64;
/// Bytes of a record's own header (its length).
pub(crate) const RECORD_HEADER_BYTES: usize = 4;

const SEGMENT_MAGIC: &[u8; 8] = b"SRVLSEG1";
const GROUP_MAGIC: &[u8; 4] = b"SGRP";

/// `bytes` rounded up to whole blocks.
pub(crate) const fn blocks_up(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES as u64)
}

/// The value from which the checksums of one incarnation of one directory continue.
pub(crate) fn seed(dir_id: u64, incarnation: u64) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&dir_id.to_le_bytes()), &incarnation.to_le_bytes())
}

pub(crate) fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}
pub(crate) fn u64_at(b: &[u8], at: usize) -> u64 {
    u64::from(u32_at(b, at)) | (u64::from(u32_at(b, at + 4)) << 32)
}
pub(crate) fn put(b: &mut [u8], at: usize, field: &[u8]) {
    b[at..at + field.len()].copy_from_slice(field);
}

/// Where the log ended when a segment was begun by an open. Everything behind it and before the seal is void.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Seal {
    /// Position of the sealing segment's first record.
    pub first: Position,
    /// Incarnation of the segment with the last group that counts; 0 if there is none.
    pub cut_segment: u64,
    /// Byte offset at which that segment ends.
    pub cut_offset: u64,
}

/// Block 0 of a segment (FORMAT.md section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentHeader {
    /// Number of the segment, never used before in its directory.
    pub incarnation: u64,
    /// Length the file was made with, in bytes.
    pub planned_bytes: u64,
    /// All records before this were durable when the header was written.
    pub durable_before: Position,
    /// Set if an open began this segment.
    pub seal: Option<Seal>,
}

impl SegmentHeader {
    pub(crate) fn encode(&self, dir_id: u64) -> [u8; BLOCK_BYTES] {
        let mut b = [0u8; BLOCK_BYTES];
        put(&mut b, 0, SEGMENT_MAGIC);
        put(&mut b, 12, &FORMAT_VERSION.to_le_bytes());
        put(&mut b, 16, &dir_id.to_le_bytes());
        put(&mut b, 24, &self.incarnation.to_le_bytes());
        put(&mut b, 32, &self.planned_bytes.to_le_bytes());
        put(&mut b, 40, &self.durable_before.0.to_le_bytes());
        if let Some(s) = self.seal {
            put(&mut b, 48, &1u32.to_le_bytes());
            put(&mut b, 56, &s.first.0.to_le_bytes());
            put(&mut b, 64, &s.cut_segment.to_le_bytes());
            put(&mut b, 72, &s.cut_offset.to_le_bytes());
        }
        let crc = crc32c::crc32c_append(seed(dir_id, self.incarnation), &b[12..]);
        put(&mut b, 8, &crc.to_le_bytes());
        b
    }

    /// The header in `b`, or what is wrong with it.
    pub(crate) fn decode(b: &[u8], dir_id: u64, incarnation: u64) -> Result<SegmentHeader, &'static str> {
        if b.len() < BLOCK_BYTES {
            return Err("the segment header is cut short");
        }
        let b = &b[..BLOCK_BYTES];
        if &b[..8] != SEGMENT_MAGIC {
            return Err("this is not a segment header");
        }
        if u64_at(b, 16) != dir_id {
            return Err("the segment belongs to another data directory");
        }
        if u64_at(b, 24) != incarnation {
            return Err("the segment's number is not the one in its name");
        }
        if crc32c::crc32c_append(seed(dir_id, incarnation), &b[12..]) != u32_at(b, 8) {
            return Err("the segment header's checksum is wrong");
        }
        if u32_at(b, 12) != FORMAT_VERSION || u32_at(b, 48) > 1 {
            return Err("the segment header is of another format");
        }
        let seal = (u32_at(b, 48) == 1).then(|| Seal {
            first: Position(u64_at(b, 56)),
            cut_segment: u64_at(b, 64),
            cut_offset: u64_at(b, 72),
        });
        Ok(SegmentHeader {
            incarnation,
            planned_bytes: u64_at(b, 32),
            durable_before: Position(u64_at(b, 40)),
            seal,
        })
    }
}

/// The first 64 bytes of a group (FORMAT.md section 4).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct GroupHeader {
    /// Position of the first record.
    pub first: Position,
    /// All records before this were durable when the group was written.
    pub durable_before: Position,
    /// Number of records; 0 for a mark.
    pub records: u32,
    /// Bytes of the body, without padding.
    pub body_bytes: u32,
    /// Checksum of body and padding.
    pub(crate) body_crc: u32,
}

impl GroupHeader {
    pub(crate) fn encode(&self, seed: u32, incarnation: u64, offset: u64) -> [u8; GROUP_HEADER_BYTES] {
        let mut b = [0u8; GROUP_HEADER_BYTES];
        put(&mut b, 0, GROUP_MAGIC);
        put(&mut b, 8, &incarnation.to_le_bytes());
        put(&mut b, 16, &self.first.0.to_le_bytes());
        put(&mut b, 24, &self.durable_before.0.to_le_bytes());
        put(&mut b, 32, &self.records.to_le_bytes());
        put(&mut b, 36, &self.body_bytes.to_le_bytes());
        put(&mut b, 40, &self.body_crc.to_le_bytes());
        put(&mut b, 48, &offset.to_le_bytes());
        let crc = crc32c::crc32c_append(seed, &b[8..]);
        put(&mut b, 4, &crc.to_le_bytes());
        b
    }

    /// The header at the start of `b`, if it is intact and belongs to this incarnation and offset.
    pub(crate) fn decode(b: &[u8], seed: u32, incarnation: u64, offset: u64) -> Option<GroupHeader> {
        let b = b.get(..GROUP_HEADER_BYTES)?;
        if &b[..4] != GROUP_MAGIC || u64_at(b, 8) != incarnation || u64_at(b, 48) != offset {
            return None;
        }
        if crc32c::crc32c_append(seed, &b[8..]) != u32_at(b, 4) {
            return None;
        }
        let h = GroupHeader {
            first: Position(u64_at(b, 16)),
            durable_before: Position(u64_at(b, 24)),
            records: u32_at(b, 32),
            body_bytes: u32_at(b, 36),
            body_crc: u32_at(b, 40),
        };
        (h.durable_before <= h.first && h.first.0.checked_add(u64::from(h.records)).is_some()).then_some(h)
    }

    /// Bytes of the group on disk: header, body, padding.
    pub fn total_bytes(&self) -> u64 {
        blocks_up(GROUP_HEADER_BYTES as u64 + u64::from(self.body_bytes))
    }
    /// The position behind its last record.
    pub fn next(&self) -> Position {
        Position(self.first.0 + u64::from(self.records))
    }
    /// The records in `group` (all of the group's bytes on disk), if it is whole and right.
    pub(crate) fn body<'a>(&self, group: &'a [u8], seed: u32) -> Option<Records<'a>> {
        if group.len() as u64 != self.total_bytes() {
            return None;
        }
        let rest = &group[GROUP_HEADER_BYTES..];
        if crc32c::crc32c_append(seed, rest) != self.body_crc {
            return None;
        }
        let records = Records { rest: &rest[..self.body_bytes as usize] };
        let mut n = 0u32;
        let mut walk = records.clone();
        while walk.next().is_some() {
            n += 1;
        }
        (walk.rest.is_empty() && n == self.records).then_some(records)
    }
}

/// The records of one body, in order. Stops at the first that does not fit (a checked body has none).
#[derive(Clone, Debug)]
pub(crate) struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Records<'a> {
    type Item = &'a [u8];
    fn next(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.rest.split_at_checked(RECORD_HEADER_BYTES)?;
        let (record, rest) = rest.split_at_checked(u32_at(len, 0) as usize)?;
        self.rest = rest;
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headers_bytes_are_as_format_md_says() {
        let h = SegmentHeader {
            incarnation: 0x0102,
            planned_bytes: 0x1000,
            durable_before: Position(7),
            seal: Some(Seal { first: Position(9), cut_segment: 3, cut_offset: 0x2000 }),
        };
        let b = h.encode(0xAA);
        assert_eq!(&b[..8], b"SRVLSEG1");
        assert_eq!(&b[12..28], [1, 0, 0, 0, 0xAA, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0]);
        assert_eq!((u64_at(&b, 32), u64_at(&b, 40), u32_at(&b, 48)), (0x1000, 7, 1));
        assert_eq!((u64_at(&b, 56), u64_at(&b, 64), u64_at(&b, 72)), (9, 3, 0x2000));
        assert_eq!(SegmentHeader::decode(&b, 0xAA, 0x0102), Ok(h));
        assert!(SegmentHeader::decode(&b, 0xAB, 0x0102).is_err());

        let g = GroupHeader {
            first: Position(5),
            durable_before: Position(4),
            records: 2,
            body_bytes: 9,
            body_crc: 8,
        };
        let b = g.encode(1, 6, 4096);
        assert_eq!(&b[..4], b"SGRP");
        assert_eq!((u64_at(&b, 8), u64_at(&b, 16), u64_at(&b, 24)), (6, 5, 4));
        assert_eq!((u32_at(&b, 32), u32_at(&b, 36), u32_at(&b, 40), u64_at(&b, 48)), (2, 9, 8, 4096));
        assert_eq!(GroupHeader::decode(&b, 1, 6, 4096), Some(g));
        assert_eq!(GroupHeader::decode(&b, 2, 6, 4096), None, "seed");
        assert_eq!(GroupHeader::decode(&b, 1, 7, 4096), None, "incarnation");
        assert_eq!(GroupHeader::decode(&b, 1, 6, 8192), None, "offset");
    }

    #[test]
    fn each_incarnation_of_each_directory_has_its_own_seed() {
        let seeds: std::collections::BTreeSet<u32> =
            (0..64).flat_map(|dir| (0..64).map(move |incarnation| seed(dir, incarnation))).collect();
        assert_eq!(seeds.len(), 64 * 64);
    }

    #[test]
    fn a_flipped_bit_in_a_header_is_always_seen() {
        let g = GroupHeader {
            first: Position(5),
            durable_before: Position(4),
            records: 2,
            body_bytes: 9,
            body_crc: 8,
        };
        let good = g.encode(1, 6, 4096);
        for bit in 0..good.len() * 8 {
            let mut b = good;
            b[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(GroupHeader::decode(&b, 1, 6, 4096), None, "bit {bit}");
        }
    }
}
