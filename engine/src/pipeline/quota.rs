//! Quotas: limits and usage as the text that znodes below `/zookeeper/quota` hold (fact sheet 3.13).

use std::collections::HashSet;

/// Limits of a quota, or usage counted under it. -1: not set.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Track {
    pub count: i64,
    pub bytes: i64,
    pub count_hard: i64,
    pub bytes_hard: i64,
}

impl Track {
    /// Reads `count=N,bytes=M[=;byteHardLimit=X;countHardLimit=Y]`. What cannot be read counts as not set.
    pub fn parse(text: &[u8]) -> Track {
        let mut t = Track { count: -1, bytes: -1, count_hard: -1, bytes_hard: -1 };
        let text = String::from_utf8_lossy(text);
        for item in text.split([',', ';']) {
            let Some((key, value)) = item.split_once('=') else { continue };
            let value = value.trim_end_matches('=').trim().parse().unwrap_or(-1);
            match key.trim() {
                "count" => t.count = value,
                "bytes" => t.bytes = value,
                "countHardLimit" => t.count_hard = value,
                "byteHardLimit" => t.bytes_hard = value,
                _ => {}
            }
        }
        t
    }

    /// Usage as text.
    pub fn usage(count: i64, bytes: i64) -> String {
        format!("count={count},bytes={bytes}")
    }
}

/// The paths that have a quota.
#[derive(Debug, Default)]
pub(super) struct Quotas {
    paths: HashSet<Box<str>>,
}

impl Quotas {
    pub fn add(&mut self, path: &str) {
        self.paths.insert(path.into());
    }
    pub fn remove(&mut self, path: &str) {
        self.paths.remove(path);
    }
    pub fn all(&self) -> Vec<Box<str>> {
        self.paths.iter().cloned().collect()
    }
    /// The nearest of `path` and its ancestors that has a quota.
    pub fn over<'a>(&self, path: &'a str) -> Option<&'a str> {
        if self.paths.is_empty() {
            return None;
        }
        let mut at = path;
        while !at.is_empty() {
            if self.paths.contains(at) {
                return Some(at);
            }
            at = &at[..at.rfind('/')?];
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_odd_text_that_zookeeper_writes_is_read() {
        let t = Track::parse(b"count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=7");
        assert_eq!(t, Track { count: 5, bytes: -1, count_hard: 7, bytes_hard: -1 });
        assert_eq!(Track::parse(b"nonsense").count, -1);
        assert_eq!(Track::usage(1, 2), "count=1,bytes=2");
    }

    #[test]
    fn the_nearest_ancestor_counts() {
        let mut q = Quotas::default();
        q.add("/a");
        q.add("/a/b");
        assert_eq!(q.over("/a/b/c"), Some("/a/b"));
        assert_eq!(q.over("/a/bc"), Some("/a"));
        assert_eq!(q.over("/ab"), None);
        q.remove("/a/b");
        assert_eq!(q.over("/a/b"), Some("/a"));
    }
}
