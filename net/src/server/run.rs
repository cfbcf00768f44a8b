//! A thread's loop: a shard, the core, or both; sleeping without missing anything.
//!
//! Invariant: a thread sleeps only after it has announced so and has looked at all its rings once more.

use super::core::Core;
use super::shard::ShardLoop;
use super::shared::Shared;
use crate::clock::Clock;
use crate::reactor::{Close, Reactor};
use crate::ring::Sleeper;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one thread drives.
pub struct Loop<R> {
    pub reactor: R,
    pub sleeper: Sleeper,
    pub shard: Option<ShardLoop>,
    pub core: Option<Core>,
    pub clock: Clock,
    pub shared: Arc<Shared>,
    /// How long to look again and again before sleeping.
    pub busy_poll: Duration,
    /// A quarter of a tick: how often an idle shard reports.
    pub report_every: Duration,
}

impl<R: Reactor> Loop<R> {
    /// Until the server is told to stop, or cannot go on.
    pub fn run(mut self) {
        if let Err(e) = self.turns() {
            self.shared.fail(format!("the reactor failed ({e}); the server ends"));
        }
        self.end();
    }

    fn turns(&mut self) -> std::io::Result<()> {
        let mut events = Vec::new();
        let mut more = true;
        let mut idle_since = Instant::now();
        while !self.shared.is_stopping() {
            let polled_at = self.clock.mono();
            if more || self.busy(idle_since) {
                self.reactor.poll(Some(Duration::ZERO), &mut events)?;
            } else {
                self.sleep(&mut events)?;
            }
            if let Some(s) = &mut self.shard {
                s.turn(&mut self.reactor, &events, polled_at);
            }
            more = match &mut self.core {
                Some(c) => c.step(),
                None => false,
            };
            if let Some(e) = self.core.as_ref().and_then(|c| c.ports.journal.failure()) {
                self.shared.fail(format!("nothing more can be acknowledged: {e}"));
            }
            // Both on one thread: what the core has just told is consumed at once, without asking the kernel first.
            if self.core.is_some()
                && let Some(s) = self.shard.as_mut().filter(|s| s.has_work())
            {
                s.turn(&mut self.reactor, &[], polled_at);
                more |= s.has_work();
            }
            if more || !events.is_empty() {
                idle_since = Instant::now();
            }
        }
        Ok(())
    }

    fn busy(&self, idle_since: Instant) -> bool {
        !self.busy_poll.is_zero() && idle_since.elapsed() < self.busy_poll
    }

    fn sleep(&mut self, events: &mut Vec<crate::reactor::Event>) -> std::io::Result<()> {
        let mut patience = Duration::from_secs(3600);
        if let Some(c) = &self.core {
            patience = patience.min(c.patience());
        }
        if let Some(s) = &mut self.shard {
            patience = patience.min(s.patience(self.report_every));
            s.rest();
        }
        let (shard, core, shared) = (&self.shard, &mut self.core, &self.shared);
        let nap = self.sleeper.announce(|| {
            shared.is_stopping()
                || shard.as_ref().is_some_and(ShardLoop::has_work)
                || core.as_mut().is_some_and(Core::has_work)
        });
        let patience = if nap.is_some() { patience } else { Duration::ZERO };
        self.reactor.poll(Some(patience), events)
    }

    fn end(mut self) {
        let killed = self.shared.is_killed();
        if let Some(s) = &mut self.shard {
            s.end(&mut self.reactor, if killed { Close::Now } else { Close::Flushed });
        }
        let Some(core) = self.core else { return };
        core.snapshots.end();
        core.errands.end();
        if killed {
            core.ports.journal.abandon();
        } else if let Err(e) = core.ports.journal.close()
            && self.shared.failure().is_none()
        {
            self.shared.fail(format!("the log could not be closed: {e}"));
        }
    }
}
