//! A group: records gathered in one aligned buffer, to be written and synced as one.
//!
//! Not here: where it goes (`log`). A `Group` is `Send` and re-usable: one fills while another is in flight.
//! Invariants: `buf[start..]` is header, then whole records up to `end`; `start` makes the header aligned at the
//! moment of writing (growth may move the buffer: then the contents are shifted once).

use crate::error::WalError;
use crate::format::{
    BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, RECORD_BYTES_MAX, RECORD_HEADER_BYTES, blocks_up, seed,
};
use crate::{GROUP_BYTES_DEFAULT, Position};

/// Buffers above this multiple of the limit are given back after use (one huge record came by).
const KEEP_FACTOR: usize = 2;

/// Where a group is about to be written: everything its header states.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub dir_id: u64,
    pub incarnation: u64,
    pub first: Position,
    pub durable_before: Position,
    pub offset: u64,
}

/// Records waiting for one write.
#[derive(Debug)]
pub struct Group {
    buf: Vec<u8>,
    start: usize,
    /// Behind the last whole record; what lies further is left over from a fill that panicked, or padding.
    end: usize,
    records: u32,
    limit_bytes: usize,
}

impl Default for Group {
    fn default() -> Group {
        Group::new(GROUP_BYTES_DEFAULT)
    }
}

impl Group {
    /// An empty group that calls itself full at `limit_bytes` (4 KiB ..= 1 GiB; values outside are moved inside).
    pub fn new(limit_bytes: usize) -> Group {
        let limit_bytes = limit_bytes.clamp(BLOCK_BYTES, 1 << 30);
        let mut g = Group { buf: Vec::new(), start: 0, end: 0, records: 0, limit_bytes };
        g.clear();
        g
    }

    /// Adds one record: what `fill` appends to the vector. `fill` must only append.
    ///
    /// # Errors
    /// `TooLarge`: more than 256 MiB; the group is as before.
    pub fn push<R>(&mut self, fill: impl FnOnce(&mut Vec<u8>) -> R) -> Result<R, WalError> {
        self.buf.truncate(self.end);
        self.buf.extend_from_slice(&[0; RECORD_HEADER_BYTES]);
        let body = self.buf.len();
        let r = fill(&mut self.buf);
        assert!(self.buf.len() >= body, "a record may only be appended");
        let bytes = self.buf.len() - body;
        if bytes > RECORD_BYTES_MAX {
            self.buf.truncate(self.end);
            return Err(WalError::TooLarge { bytes: bytes as u64, max_bytes: RECORD_BYTES_MAX as u64 });
        }
        // RECORD_BYTES_MAX fits 32 bits.
        self.buf[self.end..body].copy_from_slice(&(bytes as u32).to_le_bytes());
        self.end = self.buf.len();
        self.records += 1;
        Ok(r)
    }

    /// Adds one record.
    ///
    /// # Errors
    /// As `push`.
    pub fn push_slice(&mut self, record: &[u8]) -> Result<(), WalError> {
        self.push(|out| out.extend_from_slice(record))
    }

    /// Number of records.
    pub fn records(&self) -> u32 {
        self.records
    }
    /// Whether it holds no record.
    pub fn is_empty(&self) -> bool {
        self.records == 0
    }
    /// Bytes of records so far, their lengths included.
    pub fn bytes(&self) -> usize {
        self.end - self.start - GROUP_HEADER_BYTES
    }
    /// Whether it should be written before more is added.
    pub fn is_full(&self) -> bool {
        self.bytes() >= self.limit_bytes
    }
    /// Forgets the records; keeps the buffer.
    pub fn clear(&mut self) {
        if self.buf.capacity() > KEEP_FACTOR * self.limit_bytes + 2 * BLOCK_BYTES {
            self.buf = Vec::new();
        }
        self.buf.clear();
        self.buf.reserve(2 * BLOCK_BYTES);
        self.start = self.buf.as_ptr().align_offset(BLOCK_BYTES);
        self.end = self.start + GROUP_HEADER_BYTES;
        self.buf.resize(self.end, 0);
        self.records = 0;
    }
    /// Bytes that it takes on disk.
    pub(crate) fn padded_bytes(&self) -> u64 {
        blocks_up((self.end - self.start) as u64)
    }

    /// Finishes the bytes for `place` and returns them, aligned and padded. May be called again for another place.
    pub(crate) fn encode(&mut self, place: Place) -> &[u8] {
        let total = self.padded_bytes() as usize;
        self.align(total);
        self.buf.resize(self.end, 0);
        self.buf.resize(self.start + total, 0);
        let seed = seed(place.dir_id, place.incarnation);
        let group = &mut self.buf[self.start..];
        let header = GroupHeader {
            first: place.first,
            durable_before: place.durable_before,
            records: self.records,
            // A group is bounded by its limit (1 GiB) and one record (256 MiB), so 32 bits hold it.
            body_bytes: (self.end - self.start - GROUP_HEADER_BYTES) as u32,
            body_crc: crc32c::crc32c_append(seed, &group[GROUP_HEADER_BYTES..]),
        };
        let header = header.encode(seed, place.incarnation, place.offset);
        group[..GROUP_HEADER_BYTES].copy_from_slice(&header);
        &self.buf[self.start..]
    }
    /// The bytes of the last `encode`, unchanged since.
    pub(crate) fn encoded(&self) -> &[u8] {
        &self.buf[self.start..]
    }

    /// Moves the contents so that the header is aligned, with room for `total` bytes from there.
    fn align(&mut self, total: usize) {
        self.buf.truncate(self.end);
        self.buf.reserve((BLOCK_BYTES + total).saturating_sub(self.buf.len()));
        let want = self.buf.as_ptr().align_offset(BLOCK_BYTES);
        if want != self.start {
            let used = self.end - self.start;
            let from = self.start..self.end;
            self.buf.resize(self.end.max(want + used), 0);
            self.buf.copy_within(from, want);
            self.start = want;
            self.end = want + used;
            self.buf.truncate(self.end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLACE: Place =
        Place { dir_id: 1, incarnation: 2, first: Position(3), durable_before: Position(3), offset: 4096 };

    #[test]
    fn what_is_pushed_comes_out_aligned_whatever_the_growth() {
        for n in [0usize, 1, 7, 100, 3000] {
            let mut g = Group::new(1 << 20);
            for round in 0..3 {
                for i in 0..n {
                    g.push(|out| out.extend(std::iter::repeat_n(i as u8, i + round))).unwrap();
                }
                let bytes = g.encode(PLACE);
                assert_eq!(bytes.as_ptr().align_offset(BLOCK_BYTES), 0);
                assert_eq!(bytes.len() % BLOCK_BYTES, 0);
                let h = GroupHeader::decode(bytes, seed(1, 2), 2, 4096).unwrap();
                let got: Vec<&[u8]> = h.body(bytes, seed(1, 2)).unwrap().collect();
                assert_eq!(got.len(), n);
                assert!(got.iter().enumerate().all(|(i, r)| *r == vec![i as u8; i + round]));
                g.clear();
            }
        }
    }

    #[test]
    fn a_fill_that_panics_leaves_no_trace() {
        let mut g = Group::default();
        g.push_slice(b"one").unwrap();
        let r = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _ = g.push(|out| {
                out.extend_from_slice(b"half");
                panic!("encoder");
            });
        }));
        assert!(r.is_err());
        g.push_slice(b"two").unwrap();
        let bytes = g.encode(PLACE);
        let h = GroupHeader::decode(bytes, seed(1, 2), 2, 4096).unwrap();
        assert_eq!(h.body(bytes, seed(1, 2)).unwrap().collect::<Vec<_>>(), [b"one", b"two"]);
    }
}
