//! Log lines about peers that misbehave: the first one at once, repetitions counted.
//!
//! Invariant: whoever calls us, and however often, the log grows by a bounded number of lines per minute.

use engine::time::MonoMs;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Between two lines about the same, ms.
const QUIET_MS: u64 = 10_000;
/// Hosts and members remembered; beyond it nothing new is logged until some are forgotten.
const REMEMBERED_MAX: usize = 128;

/// Whom or what a line is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum About {
    /// What comes from a host.
    Host(IpAddr),
    /// The way to a member.
    Member(i64),
    /// Ourselves: ports, descriptors.
    Us,
}

struct Said {
    at: MonoMs,
    kept_back: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Gripes(BTreeMap<About, Said>);

impl Gripes {
    /// What to log: `text` and how often it was kept back since the last line, or nothing.
    pub(super) fn judge(&mut self, about: About, now: MonoMs, text: &str) -> Option<String> {
        if let Some(said) = self.0.get_mut(&about) {
            if now.since(said.at) < QUIET_MS {
                said.kept_back += 1;
                return None;
            }
            let more = std::mem::take(&mut said.kept_back);
            said.at = now;
            return Some(match more {
                0 => text.to_owned(),
                n => format!("{text} ({n} more like it since the last such line)"),
            });
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, said| now.since(said.at) < QUIET_MS);
            if self.0.len() >= REMEMBERED_MAX {
                return None;
            }
        }
        self.0.insert(about, Said { at: now, kept_back: 0 });
        Some(text.to_owned())
    }

    /// Logs a warning, unless one about the same was logged just now.
    pub(super) fn warn(&mut self, about: About, now: MonoMs, text: &str) {
        if let Some(line) = self.judge(about, now, text) {
            tracing::warn!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetitions_are_counted_and_many_hosts_are_bounded() {
        let mut g = Gripes::default();
        let me = About::Member(3);
        assert_eq!(g.judge(me, MonoMs(1), "x").as_deref(), Some("x"));
        assert_eq!(g.judge(me, MonoMs(2), "x"), None);
        assert_eq!(g.judge(me, MonoMs(9_000), "x"), None);
        let line = g.judge(me, MonoMs(10_001), "x");
        assert_eq!(line.as_deref(), Some("x (2 more like it since the last such line)"));
        let lines = (0..1000u32)
            .filter_map(|n| g.judge(About::Host(IpAddr::from(n.to_be_bytes())), MonoMs(10_002), "y"));
        assert!(lines.count() < REMEMBERED_MAX);
        assert!(g.judge(About::Us, MonoMs(30_000), "z").is_some());
    }
}
