//! Compressed snapshots as a stream of plain bytes: gzip, and snappy in the framing of the Java library.
//!
//! Not here: what the bytes mean.
//! Invariant: a block is bounded before it is decompressed.

use super::source::{Named, Packing};
use flate2::read::MultiGzDecoder;
use std::fs::File;
use std::io::{self, BufReader, Read};

/// First bytes of a stream of snappy-java: a magic word, then two version numbers.
const SNAPPY_MAGIC: [u8; 8] = [0x82, b'S', b'N', b'A', b'P', b'P', b'Y', 0];
/// Largest block: the library's default is 32 KiB, its largest setting 512 MiB.
const SNAPPY_BLOCK_BYTES_MAX: usize = 64 << 20;
const READ_BYTES: usize = 1 << 20;

/// The plain bytes of a snapshot.
pub(super) fn open(file: &Named) -> io::Result<Box<dyn Read>> {
    let raw = BufReader::with_capacity(READ_BYTES, File::open(&file.path)?);
    Ok(match file.packing {
        Packing::Plain => Box::new(raw),
        Packing::Gzip => Box::new(MultiGzDecoder::new(raw)),
        Packing::Snappy => Box::new(Snappy::new(raw)),
    })
}

/// Reads the framing of snappy-java: a header of 16 bytes, then blocks, each with its length before it.
struct Snappy<R> {
    inner: R,
    begun: bool,
    packed: Vec<u8>,
    plain: Vec<u8>,
    at: usize,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("its compression is damaged: {what}"))
}

fn cut() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "its compressed blocks are not complete")
}

impl<R: Read> Snappy<R> {
    fn new(inner: R) -> Snappy<R> {
        Snappy { inner, begun: false, packed: vec![], plain: vec![], at: 0 }
    }

    /// Reads four bytes; `None` at the end.
    fn word(&mut self) -> io::Result<Option<[u8; 4]>> {
        let mut word = [0; 4];
        let mut have = 0;
        while have < 4 {
            match self.inner.read(&mut word[have..])? {
                0 if have == 0 => return Ok(None),
                0 => return Err(cut()),
                n => have += n,
            }
        }
        Ok(Some(word))
    }

    /// Decompresses the next block; `false` at the end.
    fn block(&mut self) -> io::Result<bool> {
        let Some(word) = self.word()? else {
            return if self.begun { Ok(false) } else { Err(cut()) };
        };
        // A header may stand again where streams were joined.
        if word[..] == SNAPPY_MAGIC[..4] {
            let mut rest = [0; 12];
            self.inner.read_exact(&mut rest).map_err(|_| cut())?;
            if rest[..4] != SNAPPY_MAGIC[4..] {
                return Err(bad("it does not begin as snappy-java's streams do"));
            }
            self.begun = true;
            return Ok(true);
        }
        if !self.begun {
            return Err(bad("it does not begin as snappy-java's streams do"));
        }
        let packed = usize::try_from(i32::from_be_bytes(word)).map_err(|_| bad("a length is negative"))?;
        if packed > snap::raw::max_compress_len(SNAPPY_BLOCK_BYTES_MAX) {
            return Err(bad("a block is too long"));
        }
        self.packed.resize(packed, 0);
        self.inner.read_exact(&mut self.packed).map_err(|_| cut())?;
        let plain = snap::raw::decompress_len(&self.packed).map_err(|_| bad("a block has no length"))?;
        if plain > SNAPPY_BLOCK_BYTES_MAX {
            return Err(bad("a block is too long"));
        }
        self.plain.resize(plain, 0);
        let n = snap::raw::Decoder::new()
            .decompress(&self.packed, &mut self.plain)
            .map_err(|_| bad("a block cannot be read"))?;
        self.plain.truncate(n);
        self.at = 0;
        Ok(true)
    }
}

impl<R: Read> Read for Snappy<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while self.at == self.plain.len() && !out.is_empty() {
            if !self.block()? {
                return Ok(0);
            }
        }
        let n = out.len().min(self.plain.len() - self.at);
        out[..n].copy_from_slice(&self.plain[self.at..self.at + n]);
        self.at += n;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(blocks: &[&[u8]]) -> Vec<u8> {
        let mut out = SNAPPY_MAGIC.to_vec();
        out.extend_from_slice(&[0, 0, 0, 1, 0, 0, 0, 1]);
        for b in blocks {
            let packed = snap::raw::Encoder::new().compress_vec(b).unwrap();
            out.extend_from_slice(&(packed.len() as i32).to_be_bytes());
            out.extend_from_slice(&packed);
        }
        out
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut out = vec![];
        Snappy::new(bytes).read_to_end(&mut out).map(|_| out)
    }

    #[test]
    fn blocks_are_joined_and_so_are_streams() {
        let long = vec![7; 100_000];
        let mut all = stream(&[b"hello ", &long, b""]);
        all.extend_from_slice(&stream(&[b"again"]));
        let want = [&b"hello "[..], &long, b"again"].concat();
        assert_eq!(read(&all).unwrap(), want);
        assert_eq!(read(&stream(&[])).unwrap(), b"");
    }

    #[test]
    fn cut_and_damaged_streams_are_errors() {
        let good = stream(&[b"some text that is compressed"]);
        for n in (0..good.len()).filter(|n| *n != 16) {
            assert!(read(&good[..n]).is_err(), "{n}");
        }
        let mut long = stream(&[]);
        long.extend_from_slice(&i32::MAX.to_be_bytes());
        assert!(read(&long).unwrap_err().to_string().contains("too long"));
        let mut claims = stream(&[]);
        // A block of five bytes that says it is 4 GiB long.
        claims.extend_from_slice(&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0x0f]);
        assert!(read(&claims).unwrap_err().to_string().contains("too long"));
        assert!(read(b"PLAIN TEXT").is_err());
    }
}
