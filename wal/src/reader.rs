//! Reading records back: replay at start, and reads beside the writer (a DIFF for a learner).
//!
//! Not here: deciding where the log ends (`recover`).
//! Invariants: only durable records are delivered, in order, without a gap; each was checked; a reader never blocks
//! the writer.

use std::sync::Arc;

use crate::Position;
use crate::error::WalError;
use crate::format::{BLOCK_BYTES, GroupHeader};
use crate::keeper::Shared;
use crate::recover::Kept;
use crate::window::Segment;

/// Reads a log that is being written. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Reader {
    pub(crate) shared: Arc<Shared>,
}

impl Reader {
    /// The oldest record that can be read (segments are purged as a whole).
    pub fn oldest(&self) -> Position {
        self.shared.live().first().map_or(self.durable(), |k| k.first)
    }
    /// As `Log::low_on_space`, from any thread.
    pub fn low_on_space(&self) -> bool {
        self.shared.low_on_space()
    }
    /// As `Log::purge`, from any thread.
    pub fn purge(&self, keep_from: Position) {
        self.shared.purge(keep_from.min(self.shared.durable()));
    }
    /// Records before this are durable and can be read.
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }

    /// Calls `each` with the durable records `from..until` (`until` is cut to what is durable now) and returns the
    /// position behind the last one delivered. An error of `each` ends the reading and is returned.
    ///
    /// # Errors
    /// `Purged`: `from` is older than the log, or was purged while this read. `Corrupt`, `Io`, `Denied`.
    pub fn read<E: From<WalError>>(
        &self,
        from: Position,
        until: Position,
        mut each: impl FnMut(Position, &[u8]) -> Result<(), E>,
    ) -> Result<Position, E> {
        let until = until.min(self.durable());
        let mut next = from;
        if from >= until {
            return Ok(from);
        }
        let live = self.shared.live();
        let Some(start) = live.iter().rposition(|k| k.first <= from) else {
            return Err(WalError::Purged { wanted: from, oldest: self.oldest() }.into());
        };
        for i in start..live.len() {
            if next >= until {
                break;
            }
            let end = live.get(i + 1).map_or(until, |k| k.first).min(until);
            match self.segment(live[i], from, end, &mut each) {
                Ok(()) => next = end.max(next),
                Err(Stop::Each(e)) => return Err(e),
                // A purged file may be gone or hold another segment's bytes already.
                Err(Stop::Wal(_)) if self.oldest() > live[i].first => {
                    return Err(WalError::Purged { wanted: from, oldest: self.oldest() }.into());
                }
                Err(Stop::Wal(e)) => return Err(e.into()),
            }
        }
        Ok(next)
    }

    fn segment<E>(
        &self,
        segment: Kept,
        from: Position,
        end: Position,
        each: &mut impl FnMut(Position, &[u8]) -> Result<(), E>,
    ) -> Result<(), Stop<E>> {
        let dir = &self.shared.dir;
        let mut s = Segment::open(&**dir.disk(), dir.path(), dir.id(), segment.incarnation)?;
        let mut offset = BLOCK_BYTES as u64;
        let mut at = segment.first;
        while at < end {
            let wanted = |g: &GroupHeader| g.next() > from;
            let g = checked(&mut s, offset, at, wanted)?;
            if wanted(&g) {
                let Some(records) = s.records(offset, &g)? else {
                    return Err(damaged(&s, offset, at).into());
                };
                for (n, record) in records.enumerate() {
                    let p = Position(g.first.0 + n as u64);
                    if p >= from && p < end {
                        each(p, record).map_err(Stop::Each)?;
                    }
                }
            }
            at = g.next();
            offset += g.total_bytes();
        }
        Ok(())
    }
}

enum Stop<E> {
    Wal(WalError),
    Each(E),
}
impl<E> From<WalError> for Stop<E> {
    fn from(e: WalError) -> Self {
        Stop::Wal(e)
    }
}

fn damaged(s: &Segment, offset: u64, at: Position) -> WalError {
    WalError::corrupt(&s.path, offset, at, "a group that was durable is damaged")
}

/// The header of the group at `offset`, which must be the one at position `at`; its body checked too if `whole`.
fn checked(
    s: &mut Segment,
    offset: u64,
    at: Position,
    whole: impl Fn(&GroupHeader) -> bool,
) -> Result<GroupHeader, WalError> {
    for attempt in 0..2 {
        if attempt == 1 {
            // The window or the page cache may be older than the direct write behind it.
            s.refresh()?;
        }
        if let Some(g) = s.group(offset)?.filter(|g| g.first == at)
            && (!whole(&g) || s.records(offset, &g)?.is_some())
        {
            return Ok(g);
        }
    }
    Err(damaged(s, offset, at))
}
