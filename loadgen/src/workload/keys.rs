//! Which key an operation touches.

use super::Rng;
use std::fmt;
use std::str::FromStr;

/// How keys are drawn.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Distribution {
    /// Each equally likely.
    Uniform,
    /// A few much more often than the others; the exponent is 0.0 < theta < 1.0 (0.99 is customary).
    Zipf(f64),
    /// One after the other, from a start that differs per worker thread.
    Sequential,
}

/// The customary exponent (that of YCSB).
const ZIPF_THETA: f64 = 0.99;

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "uniform" => Ok(Distribution::Uniform),
            None if text == "sequential" => Ok(Distribution::Sequential),
            None if text == "zipf" => Ok(Distribution::Zipf(ZIPF_THETA)),
            Some(("zipf", theta)) => match theta.parse::<f64>() {
                Ok(t) if t > 0.0 && t < 1.0 => Ok(Distribution::Zipf(t)),
                _ => Err(format!("zipf's exponent lies between 0 and 1, {theta:?} does not")),
            },
            _ => Err(format!("{text:?} is no distribution; there are uniform, zipf, zipf:THETA, sequential")),
        }
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Distribution::Uniform => f.write_str("uniform"),
            Distribution::Zipf(theta) => write!(f, "zipf:{theta}"),
            Distribution::Sequential => f.write_str("sequential"),
        }
    }
}

/// Draws keys `0..keys`.
#[derive(Clone, Debug)]
pub struct KeyPicker {
    keys: u64,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Uniform,
    Sequential(u64),
    Zipf(Zipf),
}

/// Constants of Gray's method ("Quickly generating billion-record synthetic databases", SIGMOD 1994).
#[derive(Clone, Debug)]
struct Zipf {
    theta: f64,
    zeta_n: f64,
    alpha: f64,
    eta: f64,
    /// Coprime to the number of keys: spreads the popular ranks over the key space.
    stride: u64,
}

impl KeyPicker {
    /// A picker over `keys` keys (at least 1). `start` is where `sequential` begins.
    pub fn new(distribution: Distribution, keys: u64, start: u64) -> KeyPicker {
        let keys = keys.max(1);
        let kind = match distribution {
            Distribution::Uniform => Kind::Uniform,
            Distribution::Sequential => Kind::Sequential(start % keys),
            Distribution::Zipf(theta) => Kind::Zipf(Zipf::new(theta, keys)),
        };
        KeyPicker { keys, kind }
    }

    /// The next key.
    #[inline]
    pub fn pick(&mut self, rng: &mut Rng) -> u64 {
        match &mut self.kind {
            Kind::Uniform => rng.below(self.keys),
            Kind::Sequential(next) => {
                let key = *next;
                *next = if key + 1 == self.keys { 0 } else { key + 1 };
                key
            }
            Kind::Zipf(zipf) => zipf.pick(self.keys, rng),
        }
    }
}

impl Zipf {
    fn new(theta: f64, keys: u64) -> Zipf {
        let zeta = |n: u64| (1..=n).map(|i| 1.0 / (i as f64).powf(theta)).sum::<f64>();
        let zeta_n = zeta(keys);
        let eta = (1.0 - (2.0 / keys as f64).powf(1.0 - theta)) / (1.0 - zeta(2.min(keys)) / zeta_n);
        // Near the golden section of the key space, so that neighbouring ranks land far apart.
        let mut stride = ((keys as f64 * 0.618_033_988_75) as u64).max(1);
        while gcd(stride, keys) != 1 {
            stride += 1;
        }
        Zipf { theta, zeta_n, alpha: 1.0 / (1.0 - theta), eta, stride }
    }

    fn pick(&self, keys: u64, rng: &mut Rng) -> u64 {
        let u = rng.unit();
        let uz = u * self.zeta_n;
        let rank = if uz < 1.0 || keys == 1 {
            0
        } else if uz < 1.0 + 0.5f64.powf(self.theta) || keys == 2 {
            1
        } else {
            (keys as f64 * (self.eta * u - self.eta + 1.0).powf(self.alpha)) as u64
        };
        let rank = rank.min(keys - 1);
        ((u128::from(rank) * u128::from(self.stride)) % u128::from(keys)) as u64
    }
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(distribution: Distribution, keys: u64) -> Vec<u32> {
        let mut picker = KeyPicker::new(distribution, keys, 0);
        let mut rng = Rng::new(11, 0);
        let mut seen = vec![0; keys as usize];
        (0..200_000).for_each(|_| seen[picker.pick(&mut rng) as usize] += 1);
        seen
    }

    #[test]
    fn zipf_prefers_few_keys_by_its_law_and_reaches_many() {
        let mut seen = counts(Distribution::Zipf(0.99), 1000);
        seen.sort_unstable_by(|a, b| b.cmp(a));
        // The first key's share is 1 / zeta(1000, 0.99) = 0.1294.
        let share = f64::from(seen[0]) / 200_000.0;
        assert!((0.12..0.14).contains(&share), "{share}");
        assert!(seen.iter().filter(|n| **n > 0).count() > 900);
    }

    #[test]
    fn every_distribution_stays_within_few_keys() {
        for keys in 1..=3 {
            for d in [Distribution::Uniform, Distribution::Zipf(0.5), Distribution::Sequential] {
                assert_eq!(counts(d, keys).iter().sum::<u32>(), 200_000, "{d} over {keys}");
            }
        }
    }

    #[test]
    fn sequential_goes_round() {
        let mut picker = KeyPicker::new(Distribution::Sequential, 3, 5);
        let mut rng = Rng::new(0, 0);
        let got: Vec<u64> = (0..5).map(|_| picker.pick(&mut rng)).collect();
        assert_eq!(got, [2, 0, 1, 2, 0]);
    }

    #[test]
    fn distributions_read_back_from_how_they_are_shown() {
        for text in ["uniform", "sequential", "zipf:0.5"] {
            assert_eq!(text.parse::<Distribution>().unwrap().to_string(), text);
        }
        for bad in ["zipf:1", "zipf:x", "gauss", "uniform:2"] {
            assert!(bad.parse::<Distribution>().is_err(), "{bad}");
        }
    }
}
