//! jute: the encoding of every record on the wire and in the log (fact sheet section 1).
//!
//! Invariant: a decoder never allocates from a length it has not checked against the bytes that are there.

use std::borrow::Cow;

/// The bytes do not hold the record: too short, or a length that cannot be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("malformed jute record")
    }
}
impl std::error::Error for Malformed {}

/// Result of a decoding step.
pub type Decoded<T> = Result<T, Malformed>;

/// Reads jute values from a byte slice, front to back.
#[derive(Clone, Debug)]
pub struct Decoder<'a> {
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// A decoder at the first of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Decoder { rest: bytes }
    }
    /// What has not been read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }
    /// Whether everything has been read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }
    /// The next `n` bytes as they are.
    pub fn take(&mut self, n: usize) -> Decoded<&'a [u8]> {
        let (head, tail) = self.rest.split_at_checked(n).ok_or(Malformed)?;
        self.rest = tail;
        Ok(head)
    }
    fn array<const N: usize>(&mut self) -> Decoded<[u8; N]> {
        let (head, tail) = self.rest.split_first_chunk::<N>().ok_or(Malformed)?;
        self.rest = tail;
        Ok(*head)
    }
    pub fn byte(&mut self) -> Decoded<u8> {
        Ok(self.array::<1>()?[0])
    }
    /// 0 is false, any other byte true.
    pub fn bool(&mut self) -> Decoded<bool> {
        Ok(self.byte()? != 0)
    }
    pub fn int(&mut self) -> Decoded<i32> {
        Ok(i32::from_be_bytes(self.array()?))
    }
    pub fn long(&mut self) -> Decoded<i64> {
        Ok(i64::from_be_bytes(self.array()?))
    }
    /// A buffer; -1 is null, any other negative length is malformed.
    pub fn buffer(&mut self) -> Decoded<Option<&'a [u8]>> {
        match self.int()? {
            -1 => Ok(None),
            n => self.take(usize::try_from(n).map_err(|_| Malformed)?).map(Some),
        }
    }
    /// A string; -1 is null. Malformed UTF-8 becomes U+FFFD, as Java reads it.
    pub fn string(&mut self) -> Decoded<Option<Cow<'a, str>>> {
        // The check alone is several times faster than the repair, which hardly any string needs.
        let text =
            |b: &'a [u8]| std::str::from_utf8(b).map_or_else(|_| String::from_utf8_lossy(b), Cow::Borrowed);
        Ok(self.buffer()?.map(text))
    }
    /// A string that may not be null here.
    pub fn string_not_null(&mut self) -> Decoded<Cow<'a, str>> {
        self.string()?.ok_or(Malformed)
    }
    /// The element count of a vector; a negative count is an empty vector. `min_element_bytes` is the least that
    /// one element can take: a count that the remaining bytes cannot hold is malformed, so it is safe to reserve.
    pub fn count(&mut self, min_element_bytes: usize) -> Decoded<usize> {
        let n = usize::try_from(self.int()?).unwrap_or(0);
        if n.saturating_mul(min_element_bytes) > self.rest.len() { Err(Malformed) } else { Ok(n) }
    }
    /// A vector of strings, null ones refused.
    pub fn strings(&mut self) -> Decoded<Vec<Cow<'a, str>>> {
        let n = self.count(4)?;
        (0..n).map(|_| self.string_not_null()).collect()
    }
}

/// Appends jute values to a byte vector.
pub trait Encode {
    fn put_byte(&mut self, v: u8);
    fn put_bytes(&mut self, v: &[u8]);

    fn put_bool(&mut self, v: bool) {
        self.put_byte(u8::from(v));
    }
    fn put_int(&mut self, v: i32) {
        self.put_bytes(&v.to_be_bytes());
    }
    fn put_long(&mut self, v: i64) {
        self.put_bytes(&v.to_be_bytes());
    }
    /// Lengths above `i32::MAX` cannot occur: every input is bounded by a frame.
    fn put_len(&mut self, n: usize) {
        self.put_int(i32::try_from(n).expect("jute lengths are bounded by the frame"));
    }
    fn put_buffer(&mut self, v: Option<&[u8]>) {
        match v {
            None => self.put_int(-1),
            Some(b) => {
                self.put_len(b.len());
                self.put_bytes(b);
            }
        }
    }
    fn put_string(&mut self, v: &str) {
        self.put_buffer(Some(v.as_bytes()));
    }
}

impl Encode for Vec<u8> {
    fn put_byte(&mut self, v: u8) {
        self.push(v);
    }
    fn put_bytes(&mut self, v: &[u8]) {
        self.extend_from_slice(v);
    }
}

/// Writes a frame: reserves the length word, lets `body` append, then fills the length in.
pub fn put_frame(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let n = i32::try_from(out.len() - at - 4).expect("reply frames stay below 2 GiB");
    out[at..at + 4].copy_from_slice(&n.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_that_cannot_fit_is_refused_before_anything_is_reserved() {
        let bytes = [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0];
        assert_eq!(Decoder::new(&bytes).count(4), Err(Malformed));
        assert_eq!(Decoder::new(&bytes).strings(), Err(Malformed));
    }

    #[test]
    fn null_empty_and_negative_lengths_are_told_apart() {
        assert_eq!(Decoder::new(&(-1i32).to_be_bytes()).buffer(), Ok(None));
        assert_eq!(Decoder::new(&0i32.to_be_bytes()).buffer(), Ok(Some(&[][..])));
        assert_eq!(Decoder::new(&(-2i32).to_be_bytes()).buffer(), Err(Malformed));
        assert_eq!(Decoder::new(&(-5i32).to_be_bytes()).strings(), Ok(vec![]));
    }
}
