//! Operations and how often each is drawn.

use super::Rng;
use std::fmt;
use std::str::FromStr;

macro_rules! operations {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// An operation that is measured. The number is its place in tables of counters.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum Operation { $($(#[$doc])* $name,)* }
        impl Operation {
            /// All of them, in the order of tables and reports.
            pub const ALL: &'static [Operation] = &[$(Operation::$name,)*];
            /// As mixes and reports spell it.
            pub const fn name(self) -> &'static str {
                match self { $(Operation::$name => $text,)* }
            }
        }
    };
}

operations! {
    /// getData of a key.
    Get = "get",
    /// exists of a key.
    Exists = "exists",
    /// getChildren of one directory of fixed size.
    Children = "children",
    /// setData of a key, any version.
    Set = "set",
    /// create of a new node.
    Create = "create",
    /// delete of a node that the same session created before.
    Delete = "delete",
    /// getData of a key that leaves a watch.
    Watch = "watch",
}

impl Operation {
    /// How many there are.
    pub const COUNT: usize = Operation::ALL.len();
}

/// Why a mix was not understood.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MixError(String);

impl fmt::Display for MixError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for MixError {}

/// Weights of operations. At least one is above zero.
#[derive(Clone, PartialEq, Debug)]
pub struct Mix {
    weights: [f64; Operation::COUNT],
    /// `thresholds[i]`: a 32-bit draw below it picks operation `i` or an earlier one.
    thresholds: [u64; Operation::COUNT],
}

impl Mix {
    fn new(weights: [f64; Operation::COUNT]) -> Result<Mix, MixError> {
        let total: f64 = weights.iter().sum();
        if !(total.is_finite() && total > 0.0) {
            return Err(MixError("a mix needs at least one weight above 0".to_owned()));
        }
        let mut sum = 0.0;
        let thresholds = weights.map(|w| {
            sum += w;
            ((sum / total) * (1u64 << 32) as f64).round() as u64
        });
        Ok(Mix { weights, thresholds })
    }

    /// `get` with weight `ratio`, `set` with the rest. `ratio` is 0.0..=1.0.
    ///
    /// # Errors
    /// `ratio` is out of its range.
    pub fn read_ratio(ratio: f64) -> Result<Mix, MixError> {
        if !(0.0..=1.0).contains(&ratio) {
            return Err(MixError(format!("a read ratio is 0.0..=1.0, not {ratio}")));
        }
        let mut weights = [0.0; Operation::COUNT];
        weights[Operation::Get as usize] = ratio;
        weights[Operation::Set as usize] = 1.0 - ratio;
        Mix::new(weights)
    }

    /// Draws an operation.
    #[inline]
    pub fn pick(&self, rng: &mut Rng) -> Operation {
        let draw = u64::from(rng.next_u32());
        let at = self.thresholds.iter().position(|t| draw < *t).unwrap_or(0);
        Operation::ALL[at]
    }

    /// The share of an operation, 0.0..=1.0.
    pub fn share(&self, op: Operation) -> f64 {
        self.weights[op as usize] / self.weights.iter().sum::<f64>()
    }

    /// Whether it can be drawn at all.
    pub fn includes(&self, op: Operation) -> bool {
        self.weights[op as usize] > 0.0
    }
}

impl FromStr for Mix {
    type Err = MixError;

    /// `get=50,exists=20,...`: weights, not necessarily percent; operations that are not named get 0.
    fn from_str(text: &str) -> Result<Mix, MixError> {
        let mut weights = [0.0; Operation::COUNT];
        let mut named = [false; Operation::COUNT];
        for part in text.split(',') {
            let (name, weight) = part
                .split_once('=')
                .ok_or_else(|| MixError(format!("{part:?} is not OPERATION=WEIGHT, as in get=90,set=10")))?;
            let op = Operation::ALL.iter().find(|op| op.name() == name.trim()).ok_or_else(|| {
                let known: Vec<_> = Operation::ALL.iter().map(|op| op.name()).collect();
                MixError(format!("{name:?} is no operation; there are {}", known.join(", ")))
            })?;
            let weight: f64 =
                weight.trim().parse().ok().filter(|w: &f64| w.is_finite() && *w >= 0.0).ok_or_else(|| {
                    MixError(format!("{weight:?} is no weight for {name}: a number from 0 up"))
                })?;
            if std::mem::replace(&mut named[*op as usize], true) {
                return Err(MixError(format!("{name} is given twice")));
            }
            weights[*op as usize] = weight;
        }
        Mix::new(weights)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let used = Operation::ALL.iter().filter(|op| self.includes(**op));
        for (i, op) in used.enumerate() {
            let comma = if i == 0 { "" } else { "," };
            // Shares of a ratio such as 0.9 are not exact in binary; four decimals of a percent are.
            let percent = (self.share(*op) * 1e6).round() / 1e4;
            write!(f, "{comma}{}={percent}", op.name())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        text.parse::<Mix>().unwrap_err().to_string()
    }

    #[test]
    fn a_mix_is_drawn_in_its_proportions() {
        let mix: Mix = "get=50,exists=20,set=20,watch=10".parse().unwrap();
        let mut rng = Rng::new(3, 0);
        let mut seen = [0u32; Operation::COUNT];
        (0..100_000).for_each(|_| seen[mix.pick(&mut rng) as usize] += 1);
        for op in Operation::ALL {
            let share = f64::from(seen[*op as usize]) / 100_000.0;
            assert!((share - mix.share(*op)).abs() < 0.01, "{op:?}: {share}");
        }
        assert_eq!(seen[Operation::Create as usize], 0);
    }

    #[test]
    fn the_ends_of_the_read_ratio_draw_one_operation_only() {
        let mut rng = Rng::new(3, 0);
        let reads = Mix::read_ratio(1.0).unwrap();
        let writes = Mix::read_ratio(0.0).unwrap();
        for _ in 0..100_000 {
            assert_eq!(reads.pick(&mut rng), Operation::Get);
            assert_eq!(writes.pick(&mut rng), Operation::Set);
        }
        assert!(Mix::read_ratio(1.1).is_err());
        assert!(Mix::read_ratio(f64::NAN).is_err());
    }

    #[test]
    fn a_mix_reads_back_from_how_it_is_shown() {
        let mix = Mix::read_ratio(0.9).unwrap();
        assert_eq!(mix.to_string(), "get=90,set=10");
        assert_eq!(mix.to_string().parse::<Mix>().unwrap().to_string(), mix.to_string());
    }

    #[test]
    fn a_bad_mix_is_refused_with_what_is_allowed() {
        assert!(error("get").contains("OPERATION=WEIGHT"));
        assert!(error("read=1").contains("get, exists, children, set, create, delete, watch"));
        assert!(error("get=-1").contains("from 0 up"));
        assert!(error("get=NaN").contains("from 0 up"));
        assert!(error("get=1,get=2").contains("twice"));
        assert!(error("get=0,set=0").contains("above 0"));
        assert!(error("").contains("OPERATION=WEIGHT"));
    }
}
