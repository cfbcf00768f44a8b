//! Reads jute values from the start of a stream whose end has not come yet.
//!
//! Invariant: "not there yet" and "cannot be" are told apart, so that a damaged length neither waits for bytes that
//! never come nor makes a caller gather them.

use super::Bounds;

/// Why a value cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stop {
    /// More bytes are needed.
    Short,
    /// No bytes behind these would make it valid.
    Bad(&'static str),
}

/// A place in the bytes that are there.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    field_max: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8], bounds: &Bounds) -> Cursor<'a> {
        Cursor { rest: bytes, field_max: bounds.field_bytes }
    }
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }
    pub(super) fn take(&mut self, n: usize) -> Result<&'a [u8], Stop> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Stop::Short)?;
        self.rest = tail;
        Ok(head)
    }
    pub(super) fn array<const N: usize>(&mut self) -> Result<&'a [u8; N], Stop> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Stop::Short)?;
        self.rest = tail;
        Ok(head)
    }
    pub(super) fn int(&mut self) -> Result<i32, Stop> {
        Ok(i32::from_be_bytes(*self.array()?))
    }
    pub(super) fn long(&mut self) -> Result<i64, Stop> {
        Ok(i64::from_be_bytes(*self.array()?))
    }
    /// The number of elements that follow.
    pub(super) fn count(&mut self) -> Result<u64, Stop> {
        u64::try_from(self.int()?).map_err(|_| Stop::Bad("a count is negative"))
    }
    /// A buffer; -1 is null.
    pub(super) fn buffer(&mut self) -> Result<Option<&'a [u8]>, Stop> {
        match self.int()? {
            -1 => Ok(None),
            n => {
                let n = usize::try_from(n).map_err(|_| Stop::Bad("a length is negative"))?;
                if n > self.field_max {
                    return Err(Stop::Bad("a length is beyond the limit"));
                }
                self.take(n).map(Some)
            }
        }
    }
}
