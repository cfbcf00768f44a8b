//! Cuts a stream of reply bytes into frames, of which only the header is kept.
//!
//! Nothing is allocated and no body is copied: a frame that has not arrived whole is remembered as its header and
//! the number of bytes still to come.

use std::fmt;

/// Length word and reply header.
const HEAD_BYTES: usize = 20;
/// A reply is never longer than this; a longer one is taken for garbage.
const FRAME_BYTES_MAX: usize = 1 << 30;

/// The part of a reply that is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// Which request it answers, or a special number (fact sheet 2.2).
    pub xid: i32,
    /// Error code; 0 is success.
    pub err: i32,
    /// Bytes of the frame behind its length word.
    pub length: u32,
}

/// The stream holds a length that no reply has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BadFrame(pub i32);

impl fmt::Display for BadFrame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a reply frame of length {}", self.0)
    }
}
impl std::error::Error for BadFrame {}

/// What is known of a frame whose end has not arrived.
#[derive(Clone, Debug, Default)]
pub struct FrameReader {
    /// The first bytes of a frame, while its header is incomplete.
    head: [u8; HEAD_BYTES],
    have: usize,
    /// The header of the frame whose body is arriving, and how much of it is to come.
    body: Option<(Head, usize)>,
}

#[inline]
fn parse(head: &[u8; HEAD_BYTES]) -> Result<(Head, usize), BadFrame> {
    let int = |at: usize| i32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
    let length = int(0);
    let whole = usize::try_from(length).map_err(|_| BadFrame(length))?;
    if !(HEAD_BYTES - 4..=FRAME_BYTES_MAX).contains(&whole) {
        return Err(BadFrame(length));
    }
    Ok((Head { xid: int(4), err: int(16), length: length as u32 }, whole + 4 - HEAD_BYTES))
}

impl FrameReader {
    /// Takes the next bytes of the stream; calls `on` for each frame that they complete, in order.
    ///
    /// # Errors
    /// The stream is no sequence of replies; the reader is of no more use.
    #[inline]
    pub fn feed(&mut self, mut bytes: &[u8], mut on: impl FnMut(Head)) -> Result<(), BadFrame> {
        if self.body.is_some() || self.have > 0 {
            match self.resume(bytes, &mut on)? {
                Some(rest) => bytes = rest,
                None => return Ok(()),
            }
        }
        while let Some((head, rest)) = bytes.split_first_chunk::<HEAD_BYTES>() {
            let (head, body) = parse(head)?;
            if body > rest.len() {
                self.body = Some((head, body - rest.len()));
                return Ok(());
            }
            on(head);
            bytes = &rest[body..];
        }
        self.head[..bytes.len()].copy_from_slice(bytes);
        self.have = bytes.len();
        Ok(())
    }

    /// Goes on with the frame that was cut; returns what lies behind it, `None` if it is still incomplete.
    fn resume<'a>(
        &mut self,
        mut bytes: &'a [u8],
        on: &mut impl FnMut(Head),
    ) -> Result<Option<&'a [u8]>, BadFrame> {
        if self.have > 0 {
            let (more, rest) = bytes.split_at((HEAD_BYTES - self.have).min(bytes.len()));
            self.head[self.have..self.have + more.len()].copy_from_slice(more);
            self.have += more.len();
            if self.have < HEAD_BYTES {
                return Ok(None);
            }
            self.have = 0;
            self.body = Some(parse(&self.head)?);
            bytes = rest;
        }
        let Some((head, to_come)) = self.body else { return Ok(Some(bytes)) };
        if to_come > bytes.len() {
            self.body = Some((head, to_come - bytes.len()));
            return Ok(None);
        }
        self.body = None;
        on(head);
        Ok(Some(&bytes[to_come..]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::error::Code;
    use engine::proto::{ReplyHeader, put_frame};

    fn stream() -> (Vec<u8>, Vec<(i32, i32)>) {
        let mut bytes = Vec::new();
        let mut heads = Vec::new();
        for (xid, body) in [(1, 0), (2, 3), (-1, 40), (3, 500), (4, 0), (i32::MAX, 1)] {
            let err = if body == 0 { Code::NONODE } else { Code::OK };
            put_frame(&mut bytes, |out| {
                ReplyHeader { xid, zxid: 9, err }.encode(out);
                out.resize(out.len() + body, 0xff);
            });
            heads.push((xid, err.0));
        }
        (bytes, heads)
    }

    #[test]
    fn however_the_stream_is_cut_the_same_frames_come_out() {
        let (bytes, heads) = stream();
        for step in 1..=bytes.len() {
            let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
            for piece in bytes.chunks(step) {
                reader.feed(piece, |h| seen.push((h.xid, h.err))).unwrap();
            }
            assert_eq!(seen, heads, "pieces of {step}");
        }
    }

    #[test]
    fn a_frame_counts_only_when_its_last_byte_is_there() {
        let (bytes, heads) = stream();
        let mut reader = FrameReader::default();
        let mut seen = 0;
        reader.feed(&bytes[..bytes.len() - 1], |_| seen += 1).unwrap();
        assert_eq!(seen, heads.len() - 1);
        reader.feed(&bytes[bytes.len() - 1..], |_| seen += 1).unwrap();
        assert_eq!(seen, heads.len());
    }

    #[test]
    fn lengths_that_no_reply_has_are_refused() {
        for length in [-1, 0, 15, i32::MAX] {
            let mut bytes = length.to_be_bytes().to_vec();
            bytes.resize(24, 0);
            assert_eq!(FrameReader::default().feed(&bytes, |_| ()), Err(BadFrame(length)));
            let mut reader = FrameReader::default();
            reader.feed(&bytes[..7], |_| ()).unwrap();
            assert_eq!(reader.feed(&bytes[7..], |_| ()), Err(BadFrame(length)));
        }
    }
}
