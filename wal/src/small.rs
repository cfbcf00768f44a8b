//! Small files that are replaced as a whole: acceptedEpoch, currentEpoch (FORMAT.md section 7).
//!
//! Not here: what they mean.
//! Invariants: a reader sees the old contents or the new, never a mixture; after a replacement whose outcome is
//! unknown every call refuses.

use std::io;
use std::sync::Arc;

use crate::Position;
use crate::dir::{DataDir, RESERVE, read_small};
use crate::disk::How;
use crate::error::{During, Stage, WalError};
use crate::format::{put, u32_at};

/// Longest contents, in bytes.
pub const SMALL_FILE_BYTES_MAX: usize = 4096;
const MAGIC: &[u8; 8] = b"SRVLSML1";
const HEADER_BYTES: usize = 16;

/// One small file of a data directory.
#[derive(Debug)]
pub struct SmallFile {
    dir: Arc<DataDir>,
    name: String,
    poisoned: Option<Arc<io::Error>>,
}

impl SmallFile {
    /// The file `name`, which need not exist yet. `name` is letters, digits and hyphens: nothing that the directory
    /// uses otherwise.
    pub fn new(dir: &Arc<DataDir>, name: &str) -> SmallFile {
        assert!(is_name(name), "not a name for a small file: {name}");
        SmallFile { dir: dir.clone(), name: name.to_owned(), poisoned: None }
    }

    /// The contents; `None` if it was never written.
    ///
    /// # Errors
    /// `Corrupt`, `Denied`, `Io`; `Poisoned` after a failed `replace`.
    pub fn read(&self) -> Result<Option<Vec<u8>>, WalError> {
        self.refuse()?;
        let path = self.dir.file(&self.name);
        let file = match self.dir.disk().open(&path, How::Read) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            r => r.during("open", &path)?,
        };
        let bytes = read_small(&*file, HEADER_BYTES + SMALL_FILE_BYTES_MAX + 1).during("read", &path)?;
        match decode(&bytes) {
            Some(contents) => Ok(Some(contents.to_vec())),
            None => Err(WalError::corrupt(&path, 0, Position(0), "its checksum or length is wrong")),
        }
    }

    /// Replaces the contents; durable on return.
    ///
    /// # Errors
    /// `TooLarge`; `NoSpace`: the old contents stand. `Poisoned`: either may, and every later call refuses.
    pub fn replace(&mut self, contents: &[u8]) -> Result<(), WalError> {
        self.refuse()?;
        if contents.len() > SMALL_FILE_BYTES_MAX {
            let (bytes, max_bytes) = (contents.len() as u64, SMALL_FILE_BYTES_MAX as u64);
            return Err(WalError::TooLarge { bytes, max_bytes });
        }
        match self.dir.replace(&self.name, &encode(contents)) {
            Err(WalError::Io { source, .. } | WalError::Denied { source, .. }) => {
                self.poisoned = Some(source);
                self.refuse()
            }
            r => r,
        }
    }

    fn refuse(&self) -> Result<(), WalError> {
        match &self.poisoned {
            None => Ok(()),
            Some(e) => Err(WalError::Poisoned { stage: Stage::SmallFile, source: e.clone() }),
        }
    }
}

/// Whether a small file may have this name.
pub(crate) fn is_name(name: &str) -> bool {
    let plain = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    plain && name != RESERVE && !name.starts_with("serval-")
}

pub(crate) fn encode(contents: &[u8]) -> Vec<u8> {
    let mut b = vec![0; HEADER_BYTES];
    put(&mut b, 0, MAGIC);
    put(&mut b, 12, &(contents.len() as u32).to_le_bytes());
    b.extend_from_slice(contents);
    let crc = crc32c::crc32c(&b[12..]);
    put(&mut b, 8, &crc.to_le_bytes());
    b
}

pub(crate) fn decode(b: &[u8]) -> Option<&[u8]> {
    let right = b.len() >= HEADER_BYTES
        && &b[..8] == MAGIC
        && u32_at(b, 12) as usize == b.len() - HEADER_BYTES
        && u32_at(b, 8) == crc32c::crc32c(&b[12..]);
    right.then(|| &b[HEADER_BYTES..])
}

/// Whether these bytes are a small file, and if so whether it is intact.
pub(crate) fn inspect(b: &[u8]) -> Option<bool> {
    b.starts_with(MAGIC).then(|| decode(b).is_some())
}
