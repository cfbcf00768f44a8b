//! Reading a segment front to back through one sliding buffer, group by group.
//!
//! Not here: what to do about damage (`recover`, `reader`).
//! Invariant: no allocation is larger than the window or one group that fits in the file.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::disk::{Disk, DiskFile, How};
use crate::error::{During, WalError};
use crate::format::{BLOCK_BYTES, GROUP_HEADER_BYTES, GroupHeader, Records, SegmentHeader, seed};

const WINDOW_BYTES: usize = 1 << 20;

/// One open segment.
#[derive(Debug)]
pub(crate) struct Segment {
    pub path: PathBuf,
    pub incarnation: u64,
    pub file: Arc<dyn DiskFile>,
    seed: u32,
    len: u64,
    /// Bytes of the file from `at` on.
    window: Vec<u8>,
    at: u64,
    valid: usize,
}

impl Segment {
    pub fn open(disk: &dyn Disk, dir: &Path, dir_id: u64, incarnation: u64) -> Result<Segment, WalError> {
        let path = dir.join(crate::dir::segment_name(incarnation));
        let file = disk.open(&path, How::Read).during("open", &path)?;
        let len = file.len().during("measure", &path)?;
        let seed = seed(dir_id, incarnation);
        Ok(Segment { path, incarnation, file, seed, len, window: Vec::new(), at: 0, valid: 0 })
    }
    /// Length of the file in bytes.
    pub fn len(&self) -> u64 {
        self.len
    }
    /// Looks at the file afresh: its length, and not the window.
    pub fn refresh(&mut self) -> Result<(), WalError> {
        self.file.drop_cache();
        self.valid = 0;
        self.len = self.file.len().during("measure", &self.path)?;
        Ok(())
    }
    /// Up to `want` bytes from `offset`; fewer only at the end of the file.
    pub fn bytes(&mut self, offset: u64, want: usize) -> Result<&[u8], WalError> {
        let there = self.len.saturating_sub(offset);
        let want = (want as u64).min(there) as usize;
        let inside = offset >= self.at && offset + want as u64 <= self.at + self.valid as u64;
        if !inside {
            self.fill(offset, want.max(WINDOW_BYTES.min(there as usize))).during("read", &self.path)?;
        }
        let from = (offset - self.at) as usize;
        Ok(&self.window[from..(from + want).min(self.valid)])
    }
    fn fill(&mut self, offset: u64, bytes: usize) -> io::Result<()> {
        if self.window.len() < bytes || self.window.len() > 2 * bytes.max(WINDOW_BYTES) {
            self.window = vec![0; bytes];
        }
        self.valid = 0;
        self.at = offset;
        self.valid = self.file.read_at(&mut self.window[..bytes], offset)?;
        Ok(())
    }
    pub fn header(&mut self, dir_id: u64) -> Result<Result<SegmentHeader, &'static str>, WalError> {
        let incarnation = self.incarnation;
        Ok(SegmentHeader::decode(self.bytes(0, BLOCK_BYTES)?, dir_id, incarnation))
    }
    /// The intact group header at `offset`, if there is one whose group can lie within the file.
    pub fn group(&mut self, offset: u64) -> Result<Option<GroupHeader>, WalError> {
        let (seed, incarnation) = (self.seed, self.incarnation);
        Ok(GroupHeader::decode(self.bytes(offset, GROUP_HEADER_BYTES)?, seed, incarnation, offset))
    }
    /// The records of the group at `offset`, if it is whole and right.
    pub fn records(&mut self, offset: u64, header: &GroupHeader) -> Result<Option<Records<'_>>, WalError> {
        let seed = self.seed;
        let total = header.total_bytes();
        if offset + total > self.len {
            return Ok(None);
        }
        Ok(header.body(self.bytes(offset, total as usize)?, seed))
    }
}
