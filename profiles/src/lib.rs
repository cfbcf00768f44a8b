//! Tuning profiles: the typed knobs of the server, their ranges, and the profiles that are shipped.
//!
//! Lives here: what a knob is called, what it may be, what it costs; reading a profile from a file or by name.
//! Not here: what a knob does (`net`, `wal`), and anything that `zoo.cfg` says (that file stays plain ZooKeeper).
//! Invariants: a `Profile` that `parse` or `load` returned has every value in its range and its limits in order;
//! a key that is not a knob is refused; a shipped file names only knobs in which it differs from `balanced`, and
//! `balanced.toml` names them all.

mod schema;
mod value;

pub use schema::{Durability, Knob, Placement, Profile, Reactor, WalAsync, WalIo};
pub use value::Problem;

use std::path::Path;

/// Why there is no profile. The text says which file, line and key, and what is allowed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProfileError {
    /// Neither a shipped name nor a file that can be read.
    #[error("profile {name:?}: {source}; give a file or one of the shipped names: {}", shipped_names().join(", "))]
    Unreadable {
        /// As it was asked for.
        name: String,
        /// What the file system said.
        source: std::io::Error,
    },
    /// The file is no TOML.
    #[error("{origin}: not valid TOML: {source}")]
    Syntax {
        /// File or shipped name.
        origin: String,
        /// Where and why.
        source: Box<toml::de::Error>,
    },
    /// A key that is no knob, or a value that it may not have.
    #[error("{origin}:{line}: {key}: {problem}")]
    Value {
        /// File or shipped name.
        origin: String,
        /// Line of the key in the file, from 1; 0 when the key is not in the file (a default that clashes).
        line: usize,
        /// The knob.
        key: String,
        /// What is wrong with it and what is allowed.
        problem: Problem,
    },
}

/// The shipped profiles: name and file.
const SHIPPED: [(&str, &str); 4] = [
    ("balanced", include_str!("../shipped/balanced.toml")),
    ("latency", include_str!("../shipped/latency.toml")),
    ("throughput", include_str!("../shipped/throughput.toml")),
    ("small", include_str!("../shipped/small.toml")),
];

/// Names that `Profile::load` knows without a file, the default first.
pub fn shipped_names() -> Vec<&'static str> {
    SHIPPED.iter().map(|(name, _)| *name).collect()
}

/// The file of a shipped profile, as it can be copied and changed.
pub fn shipped_text(name: &str) -> Option<&'static str> {
    SHIPPED.iter().find(|(n, _)| *n == name).map(|(_, text)| *text)
}

impl Profile {
    /// A shipped profile by its name, or else the file at that path.
    ///
    /// # Errors
    /// The file cannot be read or is not a valid profile; the error names file, line, key and what is allowed.
    pub fn load(name_or_path: &str) -> Result<Profile, ProfileError> {
        if let Some(text) = shipped_text(name_or_path) {
            return Profile::parse(text, name_or_path);
        }
        let text = std::fs::read_to_string(Path::new(name_or_path))
            .map_err(|source| ProfileError::Unreadable { name: name_or_path.to_owned(), source })?;
        Profile::parse(&text, name_or_path)
    }

    /// A profile from the text of a file; knobs that it does not name keep their defaults. `origin` is for errors.
    ///
    /// # Errors
    /// Not TOML, an unknown key, a value of the wrong type or out of its range, limits out of order.
    pub fn parse(text: &str, origin: &str) -> Result<Profile, ProfileError> {
        let table = text
            .parse::<toml::Table>()
            .map_err(|source| ProfileError::Syntax { origin: origin.to_owned(), source: Box::new(source) })?;
        let fail = |key: &str, problem| ProfileError::Value {
            origin: origin.to_owned(),
            line: line_of(text, key),
            key: key.to_owned(),
            problem,
        };
        let mut profile = Profile::default();
        for (key, value) in &table {
            profile.set(key, value).map_err(|problem| fail(key, problem))?;
        }
        profile.check_relations().map_err(|(key, problem)| fail(key, problem))?;
        Ok(profile)
    }
}

/// The line, from 1, in which `key` is given; 0 if it is not. The schema is flat, so keys start their lines.
fn line_of(text: &str, key: &str) -> usize {
    let gives = |line: &str| {
        let rest = line.trim_start().trim_start_matches('[').trim_start_matches(['"', '\'']);
        rest.strip_prefix(key).is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    text.lines().position(gives).map_or(0, |n| n + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        Profile::parse(text, "my.toml").expect_err("must be refused").to_string()
    }

    #[test]
    fn balanced_names_every_knob_with_its_default() {
        let table: toml::Table = shipped_text("balanced").unwrap().parse().unwrap();
        let named: Vec<&str> = table.keys().map(String::as_str).collect();
        let mut knobs: Vec<&str> = Profile::knobs().iter().map(|k| k.key).collect();
        knobs.sort_unstable();
        assert_eq!(named, knobs);
        assert_eq!(Profile::load("balanced").unwrap(), Profile::default());
    }

    #[test]
    fn every_other_shipped_profile_differs_in_each_knob_it_names() {
        for (name, text) in SHIPPED.iter().skip(1) {
            let table: toml::Table = text.parse().unwrap();
            assert!(!table.is_empty(), "{name} changes nothing");
            for (key, value) in &table {
                let mut one = Profile::default();
                one.set(key, value).unwrap();
                assert_ne!(one, Profile::default(), "{name}: {key} repeats the default");
            }
            Profile::load(name).unwrap();
        }
    }

    #[test]
    fn an_unknown_key_is_refused_with_file_line_and_the_nearest_knob() {
        let text = refused("# mine\n\nbusy_pol_us = 3\n");
        assert_eq!(text, "my.toml:3: busy_pol_us: no such knob; did you mean busy_poll_us?");
    }

    #[test]
    fn a_table_is_an_unknown_key() {
        assert!(refused("[wal]\nsegment_bytes = 1\n").starts_with("my.toml:1: wal: no such knob"));
    }

    #[test]
    fn a_value_out_of_range_names_the_range() {
        let text = refused("shards = 5000");
        assert_eq!(text, "my.toml:1: shards: 5000 is not allowed; allowed is a whole number 0..=1024");
        assert!(refused("shards = -1").contains("-1 is not allowed; allowed is a whole number 0..=1024"));
        assert!(refused("shards = \"two\"").contains("allowed is a whole number 0..=1024"));
        assert!(refused("shards = 1.5").contains("allowed is a whole number 0..=1024"));
    }

    #[test]
    fn a_wrong_choice_names_the_choices() {
        let text = refused("reactor = \"epoll\"");
        assert_eq!(
            text,
            "my.toml:1: reactor: \"epoll\" is not allowed; allowed is one of auto, mio, io_uring"
        );
        assert!(refused("nodelay = 1").contains("allowed is true or false"));
    }

    #[test]
    fn limits_out_of_order_are_refused_with_both_names() {
        let text = refused("conn_soft_limit_bytes = 1048576\nconn_hard_limit_bytes = 65536");
        assert!(text.starts_with("my.toml:2: conn_hard_limit_bytes: "), "{text}");
        assert!(text.contains("conn_soft_limit_bytes"), "{text}");
    }

    #[test]
    fn broken_toml_names_the_file_and_the_line() {
        let text = refused("shards = = 2");
        assert!(text.starts_with("my.toml: not valid TOML"), "{text}");
        assert!(text.contains("line 1"), "{text}");
    }

    #[test]
    fn a_missing_file_lists_the_shipped_names() {
        let text = Profile::load("no-such-file.toml").unwrap_err().to_string();
        assert!(text.contains("balanced, latency, throughput, small"), "{text}");
    }

    #[test]
    fn the_weak_durability_must_be_spelled_out() {
        assert_eq!(Profile::default().durability, Durability::Sync);
        let weak = Profile::parse("durability = \"async_unsafe_loses_acknowledged_writes\"", "x").unwrap();
        assert_eq!(weak.durability, Durability::AsyncUnsafeLosesAcknowledgedWrites);
        assert!(refused("durability = \"async\"").contains("async_unsafe_loses_acknowledged_writes"));
    }

    #[test]
    fn a_profile_written_out_reads_back_the_same() {
        for name in shipped_names() {
            let profile = Profile::load(name).unwrap();
            let text = toml::to_string(&profile).unwrap();
            assert_eq!(Profile::parse(&text, name).unwrap(), profile);
        }
    }
}
