//! The hash of a path: 64 bits, seeded, that differ in about half their bits when the path differs in one.
//!
//! Not here: where the seed comes from (the caller; nothing in this crate is random).
//! Invariant: the same seed and path give the same hash in every process ("/" and "" are both the root).
//!
//! Sibling paths differ in their last characters only, and a hash that mixes those badly makes a lookup many times
//! slower; so every 16 bytes go through a 64 x 64 -> 128 bit multiplication whose halves are folded, as in the wyhash
//! family. The seed is secret to the process, so nobody outside can choose paths that collide.

/// The hash of a full path.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct PathHash(pub u64);

const K: [u64; 4] =
    [0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03, 0x8cb9_2ba7_2f3d_8dd7, 0xaaaa_aaaa_5555_5555];

#[inline(always)]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    (wide as u64) ^ ((wide >> 64) as u64)
}

#[inline(always)]
fn word8(b: &[u8]) -> u64 {
    u64::from_le_bytes(b[..8].try_into().expect("eight bytes"))
}
#[inline(always)]
fn word4(b: &[u8]) -> u64 {
    u64::from(u32::from_le_bytes(b[..4].try_into().expect("four bytes")))
}

impl PathHash {
    /// The hash of `path` under `seed`.
    #[inline]
    pub fn of(seed: u64, path: &str) -> PathHash {
        let path = if path == "/" { "" } else { path };
        let bytes = path.as_bytes();
        let n = bytes.len();
        let mut acc = fold(seed ^ K[0], (n as u64) ^ K[1]);
        let mut rest = bytes;
        while rest.len() > 16 {
            acc = fold(word8(rest) ^ K[2], word8(&rest[8..]) ^ acc);
            rest = &rest[16..];
        }
        // The last 1..=16 bytes as two words that overlap; which bytes they cover follows from the length.
        let (a, b) = match rest.len() {
            9.. => (word8(rest), word8(&rest[rest.len() - 8..])),
            4..=8 => (word4(rest), word4(&rest[rest.len() - 4..])),
            0 => (0, 0),
            m => ((u64::from(rest[0]) << 16) | u64::from(rest[m / 2]), u64::from(rest[m - 1])),
        };
        PathHash(fold(fold(a ^ K[2], b ^ acc) ^ K[3], acc ^ K[1]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_has_two_names() {
        assert_eq!(PathHash::of(7, "/"), PathHash::of(7, ""));
        assert_ne!(PathHash::of(7, "/a"), PathHash::of(8, "/a"));
    }

    #[test]
    fn one_flipped_bit_flips_about_half_of_every_hash() {
        for len in if cfg!(miri) { 15..19usize } else { 1..70 } {
            let base: String = (0..len).map(|i| (b'A' + (i % 20) as u8) as char).collect();
            for at in 0..len {
                let mut other = base.clone().into_bytes();
                other[at] ^= 1;
                let other = String::from_utf8(other).unwrap();
                let mut flips = 0;
                for seed in 0..16u64 {
                    flips += (PathHash::of(seed, &base).0 ^ PathHash::of(seed, &other).0).count_ones();
                }
                let mean = f64::from(flips) / 16.0;
                assert!((26.0..38.0).contains(&mean), "length {len}, byte {at}: {mean} bits");
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "a million steps, no unsafe code")]
    fn sequential_siblings_spread_evenly_over_every_part_that_the_index_uses() {
        const N: usize = 1 << 16;
        const CELLS: usize = 256;
        for shift in [0, 8, 32, 36, 44, 56] {
            let mut count = [0usize; CELLS];
            for i in 0..N {
                let h = PathHash::of(42, &format!("/app/locks/lock-{i:010}")).0;
                count[(h >> shift) as usize % CELLS] += 1;
            }
            let mean = (N / CELLS) as f64;
            let chi: f64 = count.iter().map(|&c| (c as f64 - mean).powi(2) / mean).sum();
            // 255 degrees of freedom: mean 255, deviation 22.6. Five deviations either way.
            assert!((142.0..368.0).contains(&chi), "bits from {shift}: chi squared {chi}");
        }
    }
}
