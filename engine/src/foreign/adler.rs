//! Adler-32, which guards ZooKeeper's files (RFC 1950).
//!
//! Invariant: feeding bytes in pieces gives what feeding them at once gives.

const MODULUS: u32 = 65_521;
/// Bytes after which `b` could overflow without a reduction (RFC 1950 implementations call it NMAX).
const REDUCE_EVERY: usize = 5_552;

/// A running checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Adler32 {
    a: u32,
    b: u32,
}

impl Default for Adler32 {
    fn default() -> Adler32 {
        Adler32 { a: 1, b: 0 }
    }
}

impl Adler32 {
    /// The checksum of `bytes` alone.
    pub fn of(bytes: &[u8]) -> u32 {
        let mut sum = Adler32::default();
        sum.update(bytes);
        sum.value()
    }
    /// Takes further bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(REDUCE_EVERY) {
            // Sixteen at a time: `b` grows by 16 times the old `a` and by the bytes weighted with their distance from
            // the end, which the compiler turns into vector instructions.
            let (blocks, rest) = piece.as_chunks::<16>();
            for block in blocks {
                let mut plain = 0;
                let mut weighted = 0;
                for (i, byte) in block.iter().enumerate() {
                    plain += u32::from(*byte);
                    weighted += u32::from(*byte) * (16 - i as u32);
                }
                self.b += 16 * self.a + weighted;
                self.a += plain;
            }
            for byte in rest {
                self.a += u32::from(*byte);
                self.b += self.a;
            }
            self.a %= MODULUS;
            self.b %= MODULUS;
        }
    }
    /// The checksum of everything taken in so far.
    pub fn value(self) -> u32 {
        self.b << 16 | self.a
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_and_pieces() {
        assert_eq!(Adler32::of(b""), 1);
        assert_eq!(Adler32::of(b"Wikipedia"), 0x11e6_0398);
        let long: Vec<u8> = (0..100_000u32).map(|i| (i * 7 + i / 251) as u8).collect();
        let (mut a, mut b) = (1u64, 0u64);
        for x in &long {
            a = (a + u64::from(*x)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!(u64::from(Adler32::of(&long)), b << 16 | a);
        let mut pieces = Adler32::default();
        for piece in long.chunks(777) {
            pieces.update(piece);
        }
        assert_eq!(pieces.value(), Adler32::of(&long));
        assert_eq!(Adler32::of(&[0xff; 5_552]), {
            let mut one = Adler32::default();
            for _ in 0..5_552 {
                one.update(&[0xff]);
            }
            one.value()
        });
    }
}
