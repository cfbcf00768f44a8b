//! Log lines that a peer can cause again and again: the first one at once, repetitions counted, and told ever more seldom
//! while they do not end.
//!
//! Invariant: whoever calls us, and however often, the log grows by a bounded number of lines per minute.

use engine::time::MonoMs;
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Between two lines about the same, ms: doubled from the first to the last while it goes on.
const QUIET_MS: (u64, u64) = (10_000, 600_000);
/// Lines about what learners claim to have that are told at once: each may say something else, and a leader that was cut off
/// synchronises a learner more than once.
const CLAIMS: u32 = 4;
/// Hosts and members remembered; beyond it nothing new is logged until some are forgotten.
const REMEMBERED_MAX: usize = 128;

/// Whom or what a line is about.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum About {
    /// What comes from a host.
    Host(IpAddr),
    /// A server from there that is no member.
    Stranger(IpAddr),
    /// The way to a member.
    Member(i64),
    /// A learner that has said who it is.
    Learner(i64),
    /// The history that it says to have.
    History(i64),
    /// Ourselves: ports, descriptors.
    Us,
}

impl About {
    /// So many lines are told before it becomes quiet.
    fn at_once(self) -> u32 {
        if let About::History(_) = self { CLAIMS } else { 1 }
    }
}

struct Said {
    /// When the first of these lines was logged, and how long there are no more after it.
    at: MonoMs,
    lines: u32,
    quiet_ms: u64,
    /// When it last happened.
    last: MonoMs,
    kept_back: u64,
}

/// See the module.
#[derive(Default)]
pub(super) struct Gripes(BTreeMap<About, Said>);

impl Gripes {
    /// What to log: `text` and how often it was kept back since the last line, or nothing.
    pub(super) fn judge(&mut self, about: About, now: MonoMs, text: &str) -> Option<String> {
        if let Some(said) = self.0.get_mut(&about) {
            let goes_on = now.since(said.last) < QUIET_MS.0;
            said.last = now;
            if now.since(said.at) < said.quiet_ms {
                if said.lines < about.at_once() {
                    said.lines += 1;
                    return Some(text.to_owned());
                }
                said.kept_back += 1;
                return None;
            }
            said.lines = 1;
            said.quiet_ms = if goes_on { (said.quiet_ms * 2).min(QUIET_MS.1) } else { QUIET_MS.0 };
            said.at = now;
            return Some(match std::mem::take(&mut said.kept_back) {
                0 => text.to_owned(),
                n => format!("{text} ({n} more like it since the last such line)"),
            });
        }
        if self.0.len() >= REMEMBERED_MAX {
            self.0.retain(|_, said| now.since(said.last) < QUIET_MS.0);
            if self.0.len() >= REMEMBERED_MAX {
                return None;
            }
        }
        self.0.insert(about, Said { at: now, lines: 1, quiet_ms: QUIET_MS.0, last: now, kept_back: 0 });
        Some(text.to_owned())
    }

    /// Logs a warning, unless one about the same was logged just now.
    pub(super) fn warn(&mut self, about: About, now: MonoMs, text: &str) {
        if let Some(line) = self.judge(about, now, text) {
            tracing::warn!("{line}");
        }
    }

    /// The same for what is nothing bad. Says whether it was logged.
    pub(super) fn note(&mut self, about: About, now: MonoMs, text: &str) -> bool {
        let line = self.judge(about, now, text);
        if let Some(line) = &line {
            tracing::info!("{line}");
        }
        line.is_some()
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

    #[test]
    fn what_does_not_end_is_told_ever_more_seldom_until_it_has_ended() {
        let mut g = Gripes::default();
        let mut said = |from_s: u64, to_s: u64| {
            (from_s..to_s).filter(|s| g.judge(About::Us, MonoMs(s * 1000), "x").is_some()).count()
        };
        let hour = said(0, 3600);
        assert!((8..=14).contains(&hour), "{hour} lines");
        assert_eq!(said(5000, 5001), 1, "a new beginning");
        assert_eq!(said(5001, 5011), 1, "at the pace of the beginning");
    }

    #[test]
    fn the_first_claims_of_a_learner_are_told_and_then_few() {
        let mut g = Gripes::default();
        let mut told = |at: u64| g.judge(About::History(2), MonoMs(at), "x");
        assert_eq!((0..1000).filter(|n| told(*n).is_some()).count(), CLAIMS as usize);
        assert_eq!(told(10_001).as_deref(), Some("x (996 more like it since the last such line)"));
        assert_eq!((10_002..29_000).filter(|n| told(*n).is_some()).count(), CLAIMS as usize - 1);
    }
}
