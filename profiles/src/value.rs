//! What a knob's value may be: whole numbers in a range, switches, named choices.
//!
//! Not here: which knobs there are (`schema`).

use std::fmt;
use std::ops::RangeInclusive;

/// What is wrong with a key or its value, and what would be right.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Problem {
    /// There is no such knob; the one that is spelled most like it.
    Unknown {
        /// The nearest knob.
        nearest: &'static str,
    },
    /// The value is of the wrong kind or out of its range.
    NotAllowed {
        /// As the file gives it.
        value: String,
        /// What may be given instead.
        allowed: String,
    },
    /// Two limits contradict each other.
    Relation {
        /// The rule, with the names and values of both.
        rule: String,
    },
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Unknown { nearest } => write!(f, "no such knob; did you mean {nearest}?"),
            Problem::NotAllowed { value, allowed } => {
                write!(f, "{value} is not allowed; allowed is {allowed}")
            }
            Problem::Relation { rule } => f.write_str(rule),
        }
    }
}

/// A type that a knob can have. `Limits` is what narrows it.
pub(crate) trait Value: Sized + fmt::Debug {
    /// A range for numbers, nothing for the others.
    type Limits;
    /// The value, if it is of this kind and within `limits`.
    fn from_toml(value: &toml::Value, limits: &Self::Limits) -> Option<Self>;
    /// What may be given, for people.
    fn allowed(limits: &Self::Limits) -> String;
    /// As a file would give it.
    fn shown(&self) -> String;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl Value for $t {
            type Limits = RangeInclusive<$t>;
            fn from_toml(value: &toml::Value, limits: &Self::Limits) -> Option<Self> {
                let n = <$t>::try_from(value.as_integer()?).ok()?;
                limits.contains(&n).then_some(n)
            }
            fn allowed(limits: &Self::Limits) -> String {
                format!("a whole number {}..={}", limits.start(), limits.end())
            }
            fn shown(&self) -> String {
                self.to_string()
            }
        }
    )*};
}
numbers!(u32, u64);

impl Value for bool {
    type Limits = ();
    fn from_toml(value: &toml::Value, (): &()) -> Option<Self> {
        value.as_bool()
    }
    fn allowed((): &()) -> String {
        "true or false".to_owned()
    }
    fn shown(&self) -> String {
        self.to_string()
    }
}

/// Declares an enum whose variants are named choices of a knob.
macro_rules! choice {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant,)* }
        impl $name {
            /// As a profile spells it.
            pub const fn as_str(self) -> &'static str {
                match self { $($name::$variant => $text,)* }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }
        impl $crate::value::Value for $name {
            type Limits = ();
            fn from_toml(value: &toml::Value, (): &()) -> Option<Self> {
                match value.as_str()? { $($text => Some($name::$variant),)* _ => None }
            }
            fn allowed((): &()) -> String {
                format!("one of {}", [$($text),*].join(", "))
            }
            fn shown(&self) -> String {
                format!("{:?}", self.as_str())
            }
        }
    };
}
pub(crate) use choice;

/// The name in `names` with the fewest single-character edits to `key`.
pub(crate) fn nearest(key: &str, names: impl Iterator<Item = &'static str>) -> &'static str {
    names.min_by_key(|name| edits(key.as_bytes(), name.as_bytes())).unwrap_or("")
}

/// Levenshtein distance, row by row.
fn edits(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edit_distance_counts_insertions_deletions_and_substitutions() {
        assert_eq!(edits(b"shards", b"shards"), 0);
        assert_eq!(edits(b"shard", b"shards"), 1);
        assert_eq!(edits(b"kitten", b"sitting"), 3);
        assert_eq!(edits(b"", b"abc"), 3);
    }
}
