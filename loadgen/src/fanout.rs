//! `loadgen fanout`: many sessions watch one node; how long from a write until the last of them is notified.
//!
//! A round: every session reads the node with a watch; when all have been answered, one more session sets the node;
//! the clock runs from sending that write until the last event is there.

use crate::cli::FanoutArgs;
use crate::client::{Clock, Control, Head, Hub, Opening, Pending, Session, Sink, open_sessions};
use crate::record::{histogram, saturating_record};
use crate::report::{Grid, count, micros, write_json_value};
use crate::system::{self, Environment};
use crate::workload::Job;
use anyhow::bail;
use engine::error::Code;
use engine::proto::{Op, PathWatch, RequestHeader, SetDataRequest, put_frame};
use hdrhistogram::Histogram;
use serde::Serialize;
use std::borrow::Cow;
use std::time::Duration;

/// A round that takes longer has failed.
const ROUND_NS_MAX: u64 = 30_000_000_000;
const TURN: Duration = Duration::from_millis(100);

/// What arrives in a round.
struct Round {
    /// When the write was sent.
    sent: u64,
    replies: usize,
    refused: Option<i32>,
    events: usize,
    last_event: u64,
    notified: Histogram<u64>,
    lost: Option<String>,
}

impl Sink for Round {
    fn reply(&mut self, _: usize, _: Pending, head: Head, _: u64) {
        self.replies += 1;
        if head.err != 0 {
            self.refused.get_or_insert(head.err);
        }
    }
    fn event(&mut self, _: usize, now: u64) {
        self.events += 1;
        self.last_event = now;
        saturating_record(&mut self.notified, now.saturating_sub(self.sent), 1);
    }
    fn refill(&mut self, _: &mut Session) {}
    fn lost(&mut self, _: &mut Session, why: &str) {
        self.lost.get_or_insert_with(|| why.to_owned());
    }
}

impl Round {
    fn new() -> Round {
        Round {
            sent: 0,
            replies: 0,
            refused: None,
            events: 0,
            last_event: 0,
            notified: histogram(),
            lost: None,
        }
    }

    /// Turns the hub until `done`.
    fn wait(&mut self, hub: &mut Hub, done: impl Fn(&Round) -> bool) -> anyhow::Result<()> {
        let deadline = hub.clock().now() + ROUND_NS_MAX;
        while !done(self) {
            hub.turn(TURN, self)?;
            if let Some(why) = &self.lost {
                bail!("a connection was lost: {why}");
            }
            if let Some(code) = self.refused {
                bail!("a request was refused: {}", Code(code));
            }
            if hub.clock().now() > deadline {
                bail!("a round took longer than 30 s: {} replies, {} events", self.replies, self.events);
            }
        }
        Ok(())
    }
}

/// Quantiles of times in microseconds.
#[derive(Serialize)]
struct Times {
    count: u64,
    min_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    max_us: f64,
}

impl Times {
    fn new(h: &Histogram<u64>) -> Times {
        let us = |ns: u64| ns as f64 / 1e3;
        let q = |q| us(h.value_at_quantile(q));
        let (min_us, max_us) = (us(h.min()), us(h.max()));
        Times { count: h.len(), min_us, p50_us: q(0.5), p90_us: q(0.9), p99_us: q(0.99), max_us }
    }
    fn row(&self, title: &str) -> Vec<String> {
        let t = |us: f64| micros((us * 1e3) as u64);
        let times = [self.min_us, self.p50_us, self.p90_us, self.p99_us, self.max_us].map(t);
        [title.to_owned(), count(self.count)].into_iter().chain(times).collect()
    }
}

#[derive(Serialize)]
struct Document {
    schema: &'static str,
    connections: u32,
    rounds: u32,
    /// From sending the write until the last session was notified, over the rounds.
    last_notified: Times,
    /// From sending the write until each session was notified, over all.
    notified: Times,
    environment: Environment,
    srvr: Option<String>,
}

/// Does what the command line says.
///
/// # Errors
/// No connection, a node that cannot be made, a round that fails.
pub fn command(args: &FanoutArgs) -> anyhow::Result<bool> {
    system::raise_open_files();
    let opening = args.target.opening()?;
    let mut control = Control::open(&opening, 0)?;
    match control.create(&args.path, b"")? {
        Code::OK | Code::NODEEXISTS => {}
        code => bail!("cannot create {}: {code}", args.path),
    }
    control.close()?;
    let (last, notified) = rounds(args, &opening)?;
    let mut control = Control::open(&opening, 0)?;
    control.delete(&args.path)?;
    control.close()?;

    let document = Document {
        schema: "loadgen-fanout/1",
        connections: args.connections,
        rounds: args.rounds,
        last_notified: Times::new(&last),
        notified: Times::new(&notified),
        environment: Environment::here(),
        srvr: system::srvr(&opening.endpoints[0]),
    };
    let mut grid = Grid::new(&["from sending the write", "count", "min", "p50", "p90", "p99", "max"]);
    grid.row(document.last_notified.row("until the last is notified"));
    grid.row(document.notified.row("until each is notified"));
    println!("{} sessions watch {} on {}\n", args.connections, args.path, args.target.hosts.join(", "));
    print!("{grid}");
    if let Some(path) = &args.json {
        write_json_value(&document, path)?;
    }
    Ok(true)
}

/// Runs all rounds; returns the time to the last notification per round, and all notifications.
fn rounds(args: &FanoutArgs, opening: &Opening) -> anyhow::Result<(Histogram<u64>, Histogram<u64>)> {
    // Session 0 writes, the others watch.
    let watchers = args.connections as usize;
    let mut hub = Hub::new(open_sessions(opening, watchers + 1)?, Clock::start())?;
    let path = args.path.as_str();
    let (mut last, mut notified) = (histogram(), histogram());
    for n in 0..args.warmup_rounds + args.rounds {
        let mut round = Round::new();
        for index in 1..=watchers {
            let now = hub.clock().now();
            hub.sessions[index].queue_frame(Job::Setup, now, |xid, out| {
                put_frame(out, |out| {
                    RequestHeader { xid, op: Op::GetData.wire() }.encode(out);
                    PathWatch { path: Cow::Borrowed(path), watch: true }.encode(out);
                });
            });
            hub.flush(index, &mut round);
        }
        round.wait(&mut hub, |r| r.replies == watchers)?;
        round.sent = hub.clock().now();
        hub.sessions[0].queue_frame(Job::Setup, round.sent, |xid, out| {
            put_frame(out, |out| {
                RequestHeader { xid, op: Op::SetData.wire() }.encode(out);
                let data = Some(&b"changed"[..]);
                SetDataRequest { path: Cow::Borrowed(path), data, version: -1 }.encode(out);
            });
        });
        hub.flush(0, &mut round);
        round.wait(&mut hub, |r| r.events == watchers && r.replies == watchers + 1)?;
        if n >= args.warmup_rounds {
            saturating_record(&mut last, round.last_event - round.sent, 1);
            notified.add(&round.notified).expect("all histograms have the same bounds");
        }
    }
    hub.close(Duration::from_secs(5));
    Ok((last, notified))
}
