//! Does what the schedule says to the servers, and watches those that come back.
//!
//! Invariant: all of it happens on the thread that started the servers.

use super::gaps::Event;
use super::schedule::{Schedule, Step, Verb, Who};
use crate::client::Clock;
use crate::ensemble::{Ensemble, Mode, Status};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How long the leader or a follower of an event is looked for.
const FIND_NS: u64 = 10_000_000_000;
/// How often servers that come back are asked how far they are.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Longest sleep between two looks at the time.
const NAP: Duration = Duration::from_millis(20);

/// What was done in one run of a timeline.
#[derive(Debug, Default)]
pub struct Done {
    pub events: Vec<Event>,
    /// Steps that could not be done, and why.
    pub undone: Vec<String>,
}

/// The servers while the timeline runs.
pub struct Stage<'a> {
    ensemble: &'a mut Ensemble,
    clock: Clock,
    done: Done,
    /// The last known status of each server.
    known: Vec<Option<Status>>,
    /// Events whose servers are on their way back.
    rejoining: Vec<usize>,
}

impl<'a> Stage<'a> {
    pub fn new(ensemble: &'a mut Ensemble, clock: Clock) -> Stage<'a> {
        let known = vec![None; ensemble.members.len()];
        Stage { ensemble, clock, done: Done::default(), known, rejoining: Vec::new() }
    }

    /// Plays the schedule from `start` to `end`, by the run's clock; `tick` is called now and then.
    ///
    /// # Errors
    /// A process cannot be started.
    pub fn play(
        mut self,
        schedule: &Schedule,
        (start, end): (u64, u64),
        stop: &AtomicBool,
        mut tick: impl FnMut(),
    ) -> anyhow::Result<Done> {
        let mut steps = schedule.steps.iter().peekable();
        loop {
            let now = self.clock.now();
            if now >= end || stop.load(Ordering::Relaxed) {
                return Ok(self.done);
            }
            let due = |step: &&Step| start + step.at.as_nanos() as u64;
            if let Some(step) = steps.next_if(|s| due(s) <= now) {
                self.perform(step, end)?;
                continue;
            }
            self.watch();
            tick();
            let next = steps.peek().map_or(end, due).min(end);
            let nap = if self.rejoining.is_empty() { NAP } else { ASK_EVERY };
            std::thread::sleep(nap.min(Duration::from_nanos(next.saturating_sub(self.clock.now()))));
        }
    }

    fn perform(&mut self, step: &Step, end: u64) -> anyhow::Result<()> {
        let servers = self.find(step, end);
        if servers.is_empty() {
            self.done.undone.push(format!(
                "{} {}@{}s: there was none",
                step.verb.name(),
                step.who,
                step.at.as_secs_f64()
            ));
        }
        for index in servers {
            if step.verb.takes_away() {
                self.take_away(step.verb, index);
            } else {
                self.bring_back(step.verb, index)?;
            }
        }
        Ok(())
    }

    /// The servers that are meant. A role may be vacant for a moment.
    fn find(&mut self, step: &Step, end: u64) -> Vec<usize> {
        let members = &mut self.ensemble.members;
        let down = |i: &usize, members: &mut Vec<crate::ensemble::Member>| match step.verb {
            Verb::Resume => members[*i].paused(),
            Verb::Restart => !members[*i].alive(),
            _ => false,
        };
        let role = match step.who {
            Who::Server(id) => {
                let fits = if step.verb.takes_away() {
                    members[id - 1].alive() && !members[id - 1].paused()
                } else {
                    down(&(id - 1), members)
                };
                return if fits { vec![id - 1] } else { Vec::new() };
            }
            Who::AllDown => return (0..members.len()).filter(|i| down(i, members)).collect(),
            Who::Leader => [Mode::Leader, Mode::Standalone],
            Who::Follower => [Mode::Follower; 2],
        };
        let deadline = end.min(self.clock.now() + FIND_NS);
        loop {
            let statuses = self.ensemble.statuses();
            let found = statuses.iter().position(|s| s.is_some_and(|s| role.contains(&s.mode)));
            if let Some(index) = found {
                self.known = statuses;
                return vec![index];
            }
            if self.clock.now() > deadline {
                return Vec::new();
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    fn take_away(&mut self, verb: Verb, index: usize) {
        if let Some(status) = self.ensemble.members[index].status() {
            self.known[index] = Some(status);
        }
        let mode = self.known[index].map(|s| s.mode);
        let led = matches!(mode, Some(Mode::Leader | Mode::Standalone));
        self.rejoining.retain(|e| self.done.events[*e].server as usize != index);
        let at = self.clock.now();
        match verb {
            Verb::Pause => self.ensemble.pause(index),
            Verb::Stop => self.ensemble.end(index),
            _ => self.ensemble.kill(index),
        }
        let done = self.clock.now();
        let server = index as u32;
        let event = Event { verb, server, led, at, done, serves: None, behind: None, caught_up: None };
        self.done.events.push(event);
    }

    fn bring_back(&mut self, verb: Verb, index: usize) -> anyhow::Result<()> {
        let behind = self.behind(index);
        let at = self.clock.now();
        match verb {
            Verb::Resume => self.ensemble.resume(index),
            _ => self.ensemble.launch(index)?,
        }
        let server = index as u32;
        let event = Event { verb, server, led: false, at, done: at, serves: None, behind, caught_up: None };
        self.rejoining.push(self.done.events.len());
        self.done.events.push(event);
        Ok(())
    }

    fn leader(&mut self) -> Option<Status> {
        let leads = |s: &Status| matches!(s.mode, Mode::Leader | Mode::Standalone);
        self.ensemble.members.iter_mut().find_map(|m| m.status().filter(leads))
    }

    /// How many transactions the leader is ahead of what the server had when it was last asked.
    fn behind(&mut self, index: usize) -> Option<u64> {
        let (had, leader) = (self.known[index]?.zxid, self.leader()?.zxid);
        (had.epoch() == leader.epoch()).then(|| leader.0.saturating_sub(had.0))
    }

    /// Asks the servers that are on their way back how far they are.
    fn watch(&mut self) {
        if self.rejoining.is_empty() {
            return;
        }
        // The leader first: what it had a moment before is to be caught up with.
        let leader = self.leader();
        for e in std::mem::take(&mut self.rejoining) {
            let event = &mut self.done.events[e];
            let status = self.ensemble.members[event.server as usize].status();
            let now = self.clock.now();
            if status.is_some() {
                event.serves.get_or_insert(now);
            }
            match (status, leader) {
                (Some(own), Some(leader)) if own.zxid >= leader.zxid => event.caught_up = Some(now),
                _ => self.rejoining.push(e),
            }
        }
    }
}
