//! A data directory and the log that belongs to it: the one knows the other's id.
//!
//! Not here: what a log holds (`log`, `recover`).
//! Invariants: a log is named in its data directory only when its first segment is durable, and before the first record is
//! written; so a named log without a segment, or a log of another id, is never the one in which something was acknowledged.

use std::sync::Arc;

use crate::dir::{DataDir, hex16, segment_number};
use crate::error::{During, WalError};
use crate::log::{Log, Options, RecoveryReport};
use crate::{Position, SmallFile};

/// The small file in the data directory that names its log.
const NAME: &str = "log-id";

impl Log {
    /// As [`Log::open`], for the log in `dir` that belongs to `data`; the two may be one directory. From the first such
    /// open on no other log is taken in its place. `began`: the caller knows that `data` has had a log, though it may be
    /// from a time in which nothing named it.
    ///
    /// # Errors
    /// `OtherLog`: nothing was changed. `OtherData`: no record was. As `Log::open` otherwise.
    pub fn open_of(
        data: &Arc<DataDir>,
        dir: &Arc<DataDir>,
        began: bool,
        options: Options,
    ) -> Result<(Log, RecoveryReport), WalError> {
        let mut name = SmallFile::new(data, NAME);
        let known = match name.read()? {
            None => None,
            Some(text) => Some(parse(&text).ok_or_else(|| {
                WalError::corrupt(&data.file(NAME), 0, Position(0), "it does not name a log")
            })?),
        };
        let other = |what: String| WalError::OtherLog { dir: dir.path().to_path_buf(), what };
        let of = data.path().display();
        if let Some(id) = known.filter(|id| *id != dir.id()) {
            return Err(other(format!("its id is {:016x}, but the log of {of} has {id:016x}", dir.id())));
        }
        let names = dir.disk().list(dir.path()).during("list", dir.path())?;
        if (began || known.is_some()) && !names.iter().any(|n| segment_number(n).is_some()) {
            return Err(other(format!("it holds no segment of any log, and {of} has had one")));
        }
        let opened = Log::open(dir, options)?;
        if options.named && known.is_none() && opened.1.next > Position(0) {
            return Err(WalError::OtherData {
                dir: dir.path().to_path_buf(),
                data: data.path().to_path_buf(),
            });
        }
        if known.is_none() {
            name.replace(format!("log {:016x}\n", dir.id()).as_bytes())?;
        }
        Ok(opened)
    }
}

fn parse(text: &[u8]) -> Option<u64> {
    hex16(std::str::from_utf8(text).ok()?.strip_prefix("log ")?.strip_suffix('\n')?)
}
