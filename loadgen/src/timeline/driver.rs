//! The loop over all sessions of a timeline: one thread, a plan of writes and one of reads, then a check of every
//! session's node.
//!
//! Not here: what is done to the servers meanwhile (`mod`).

use super::client::{Ask, Client, Common};
use super::log::Log;
use crate::client::Clock;
use anyhow::Context;
use mio::{Events, Poll};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// Bytes that one read takes at most.
const SCRATCH_BYTES: usize = 64 << 10;
/// Longest sleep: what is due is sent at most that late.
const TURN: Duration = Duration::from_millis(1);
/// Longest wait for answers behind the end, and for each session's check.
const ANSWERS_NS: u64 = 10_000_000_000;

/// What the sessions do.
#[derive(Clone, Debug)]
pub struct Orders {
    pub common: Arc<Common>,
    /// One node per session.
    pub paths: Vec<String>,
    /// Requests per second, all sessions together.
    pub write_rate: f64,
    pub read_rate: f64,
    /// When the load begins, when the timeline does, and when both end; by the run's clock.
    pub begin: u64,
    pub start: u64,
    pub end: u64,
}

/// What they found.
#[derive(Clone, Debug)]
pub struct Findings {
    pub log: Log,
    /// Acknowledged writes that the check did not find.
    pub lost_writes: u64,
    /// Sessions whose node could not be checked.
    pub unchecked: usize,
    /// The longest time in which the loop looked at nothing: what is measured is no finer than that.
    pub longest_turn: u64,
}

/// Requests at a constant rate; sessions take turns.
struct Pace {
    ask: Ask,
    gap_ns: f64,
    begin: u64,
    made: u64,
    turn: usize,
}

impl Pace {
    fn new(ask: Ask, rate: f64, begin: u64, first: usize) -> Pace {
        Pace { ask, gap_ns: 1e9 / rate, begin, made: 0, turn: first }
    }

    fn due(&self) -> u64 {
        self.begin + (self.made as f64 * self.gap_ns) as u64
    }

    /// Hands out what is due by now, and before `end`.
    fn hand_out(&mut self, now: u64, end: u64, clients: &mut [Client], log: &mut Log) {
        while self.due() <= now && self.due() < end {
            clients[self.turn].due(self.ask, self.due(), now, log);
            self.turn = (self.turn + 1) % clients.len();
            self.made += 1;
        }
    }
}

struct Driver {
    poll: Poll,
    events: Events,
    scratch: Vec<u8>,
    clock: Clock,
    clients: Vec<Client>,
    log: Log,
    last_turn: u64,
    longest_turn: u64,
}

impl Driver {
    fn turn(&mut self) -> anyhow::Result<()> {
        let now = self.clock.now();
        for client in &mut self.clients {
            client.advance(now, self.poll.registry(), &mut self.log);
        }
        match self.poll.poll(&mut self.events, Some(TURN)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e).context("poll failed"),
            _ => {}
        }
        let now = self.clock.now();
        for event in &self.events {
            let client = &mut self.clients[event.token().0];
            client.ready(now, &mut self.scratch, self.poll.registry(), &mut self.log);
        }
        if (self.log.start..self.log.end).contains(&now) && self.last_turn >= self.log.start {
            self.longest_turn = self.longest_turn.max(now - self.last_turn);
        }
        self.last_turn = now;
        Ok(())
    }

    /// Turns until nothing is owed, or no longer than `ANSWERS_NS`.
    fn drain(&mut self) -> anyhow::Result<()> {
        let deadline = self.clock.now() + ANSWERS_NS;
        while self.clients.iter().any(|c| c.owed() > 0) && self.clock.now() < deadline {
            self.turn()?;
        }
        Ok(())
    }
}

/// Drives the sessions as ordered. `stop` ends the plan early; `progress` is the number of acknowledged writes.
///
/// # Errors
/// The poll failed. What the servers did wrong is in the findings.
pub fn drive(
    orders: &Orders,
    clock: Clock,
    stop: &AtomicBool,
    progress: &AtomicU64,
) -> anyhow::Result<Findings> {
    let client = |(number, path): (usize, &String)| {
        Client::new(number as u32, path.clone(), Arc::clone(&orders.common))
    };
    let mut driver = Driver {
        poll: Poll::new().context("no poll")?,
        events: Events::with_capacity(1024),
        scratch: vec![0; SCRATCH_BYTES],
        clock,
        clients: orders.paths.iter().enumerate().map(client).collect(),
        log: Log::new(orders.start, orders.end),
        last_turn: 0,
        longest_turn: 0,
    };
    let mut writes = Pace::new(Ask::Write, orders.write_rate, orders.begin, 0);
    // So that a session's writes and reads are not due at the same moments where the rates are equal.
    let mut reads = Pace::new(Ask::Read, orders.read_rate, orders.begin, orders.paths.len() / 2);
    for client in &mut driver.clients {
        // So that its server knows the node.
        client.due(Ask::Sync, orders.begin, orders.begin, &mut driver.log);
    }
    loop {
        let now = clock.now();
        if stop.load(Ordering::Relaxed) && now < driver.log.end {
            cut_short(&mut driver.log, now);
        }
        let end = driver.log.end;
        if now >= end {
            break;
        }
        for pace in [&mut writes, &mut reads] {
            pace.hand_out(now, end, &mut driver.clients, &mut driver.log);
        }
        driver.turn()?;
        progress.store(driver.clients.iter().map(|c| c.acknowledged).sum(), Ordering::Relaxed);
    }
    driver.drain()?;
    check(driver)
}

fn cut_short(log: &mut Log, now: u64) {
    log.end = now.max(log.start);
    log.samples.truncate(((log.end - log.start).div_ceil(super::log::SAMPLE_NS)) as usize);
}

/// Asks for every session's node, and closes the sessions. Each write raises the version by one, so a version below
/// the number of acknowledged writes says how many are lost.
fn check(mut driver: Driver) -> anyhow::Result<Findings> {
    let begun = driver.clock.now();
    driver.clients.iter_mut().for_each(|c| c.forget_waiting(begun, &mut driver.log));
    loop {
        let now = driver.clock.now();
        if now > begun + ANSWERS_NS || driver.clients.iter().all(|c| c.version.is_some()) {
            break;
        }
        // Asked again where the answer was lost with its connection.
        for client in driver.clients.iter_mut().filter(|c| c.version.is_none() && c.owed() == 0) {
            client.due(Ask::Sync, now, now, &mut driver.log);
            client.due(Ask::Check, now, now, &mut driver.log);
        }
        driver.turn()?;
    }
    let mut findings =
        Findings { log: driver.log, lost_writes: 0, unchecked: 0, longest_turn: driver.longest_turn };
    for client in &mut driver.clients {
        match client.version {
            Some(version) => {
                findings.lost_writes += client.acknowledged.saturating_sub(version.max(0) as u64)
            }
            None => findings.unchecked += 1,
        }
        client.close(driver.clock.now());
    }
    Ok(findings)
}
