//! The result of a timeline as a table for people and as JSON for programs.
//!
//! The JSON's schema is what these types serialise to; `schema` names its version. Times are milliseconds; `null` is a
//! gap that did not end within the run, or something that was not to be found out.

use super::Run;
use super::gaps::{Event, Gap, Spread, longest_silence};
use super::log::{Log, SAMPLE_NS};
use super::schedule::{Schedule, Verb};
use crate::cli::TimelineArgs;
use crate::record::histogram;
use crate::report::{Grid, count, micros, per_second, write_json_value};
use crate::system::Environment;
use engine::error::Code;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::fmt::Write;
use std::path::Path;

/// Raised when a field changes its meaning or goes away.
const SCHEMA: &str = "loadgen-timeline/1";
/// A generator that sent more than one request in a hundred later than this measured itself.
const LATE_NS: u64 = 50_000_000;

pub(super) fn ms(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// Gaps of several clients, or of several kills.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct SpreadRecord {
    pub count: usize,
    pub without_end: usize,
    pub min_ms: Option<f64>,
    pub median_ms: Option<f64>,
    pub worst_ms: Option<f64>,
}

impl SpreadRecord {
    fn new(s: &Spread) -> SpreadRecord {
        SpreadRecord {
            count: s.count(),
            without_end: s.endless,
            min_ms: s.sorted.first().copied().map(ms),
            median_ms: s.median().map(ms),
            worst_ms: s.worst().map(ms),
        }
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct EventRecord {
    /// From the start of the timeline.
    pub at_ms: f64,
    pub verb: Verb,
    /// Its id.
    pub server: u32,
    pub led: bool,
    /// From the signal until the process was gone.
    pub took_ms: f64,
    /// From the event until any client's next write was acknowledged.
    pub gap_ms: Option<f64>,
    /// The same for each client that was connected to another server.
    pub survivors: SpreadRecord,
    /// The same for each client that was connected to this server.
    pub its_own: SpreadRecord,
    pub longest_silence_ms: f64,
    pub errors: u64,
    pub lost_sessions: usize,
    /// Share by which the rate of writes fell, over half a second, below that before the event.
    pub dip: Option<f64>,
    /// Of a start: until the server served.
    pub serves_after_ms: Option<f64>,
    /// Of a start: transactions that the leader was ahead.
    pub behind: Option<u64>,
    /// Of a start: until the server had all that the leader had a moment before.
    pub caught_up_after_ms: Option<f64>,
}

impl EventRecord {
    fn new(e: &Event, g: &Gap, start: u64) -> EventRecord {
        EventRecord {
            at_ms: ms(e.at.saturating_sub(start)),
            verb: e.verb,
            server: e.server + 1,
            led: e.led,
            took_ms: ms(e.done - e.at),
            gap_ms: g.first.map(ms),
            survivors: SpreadRecord::new(&g.survivors),
            its_own: SpreadRecord::new(&g.its_own),
            longest_silence_ms: ms(g.longest_silence),
            errors: g.errors,
            lost_sessions: g.lost_sessions,
            dip: g.dip,
            serves_after_ms: e.serves.map(|at| ms(at - e.at)),
            behind: e.behind,
            caught_up_after_ms: e.caught_up.map(|at| ms(at - e.at)),
        }
    }

    /// As in `kill 2 (leader)`.
    pub fn title(&self) -> String {
        let role = if self.led { " (leader)" } else { "" };
        format!("{} {}{role}", self.verb.name(), self.server)
    }
}

#[derive(Clone, Debug, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

impl Latency {
    fn new(h: &Histogram<u64>) -> Latency {
        let q = |q| ms(h.value_at_quantile(q));
        Latency { count: h.len(), p50_ms: q(0.5), p99_ms: q(0.99), max_ms: ms(h.max()) }
    }
}

/// Counts per sample, one array a kind.
#[derive(Clone, Debug, Serialize)]
pub struct Samples {
    pub length_ms: f64,
    pub writes: Vec<u32>,
    pub reads: Vec<u32>,
    pub errors: Vec<u32>,
    /// Sessions connected at the end of the sample.
    pub connected: Vec<u32>,
}

#[derive(Clone, Debug, Serialize)]
pub struct RunRecord {
    pub seconds: f64,
    pub events: Vec<EventRecord>,
    /// Steps of the schedule that could not be done.
    pub undone: Vec<String>,
    pub longest_silence_ms: f64,
    pub lost_writes: u64,
    pub unchecked_sessions: usize,
    /// The longest time in which the generator looked at nothing.
    pub longest_turn_ms: f64,
    pub samples: Samples,
}

#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    pub valid: bool,
    pub invalid_reasons: Vec<String>,
    /// Over the times that a leader was taken away: until any client's next acknowledged write.
    pub leader_gap: SpreadRecord,
    /// The same for each client that was connected to a survivor.
    pub leader_gap_of_survivors: SpreadRecord,
    /// The same for each client that was connected to the leader.
    pub leader_gap_of_its_own: SpreadRecord,
    pub acknowledged_writes: u64,
    pub writes_per_second: f64,
    pub reads_per_second: f64,
    /// Requests that failed.
    pub errors: u64,
    pub lost_sessions: usize,
    /// Acknowledged writes that were not there in the end.
    pub lost_writes: u64,
    pub unchecked_sessions: usize,
    pub first_loss: Option<String>,
    pub first_refusal: Option<String>,
    /// From the planned moment: what waited for a server counts.
    pub write_latency: Latency,
    pub read_latency: Latency,
    /// Of the generator.
    pub lateness: Latency,
}

#[derive(Clone, Debug, Serialize)]
pub struct Config {
    pub hosts: Vec<String>,
    /// What was started for the run.
    pub servers: Option<String>,
    /// Version and role as each server's `srvr` says before the first run.
    pub srvr: Vec<Option<String>>,
    pub connections: u32,
    pub write_rate: f64,
    pub read_rate: f64,
    pub value_size: u32,
    pub schedule: String,
    pub duration_s: f64,
    pub warmup_s: f64,
    pub repeat: u32,
    pub reconnect_pause_ms: f64,
    pub connect_timeout_ms: f64,
    pub session_timeout_ms: f64,
}

/// Everything that a timeline found out.
#[derive(Clone, Debug, Serialize)]
pub struct TimelineResult {
    pub schema: &'static str,
    pub summary: Summary,
    pub config: Config,
    pub environment: Environment,
    pub runs: Vec<RunRecord>,
}

impl TimelineResult {
    pub(super) fn new(
        args: &TimelineArgs,
        schedule: &Schedule,
        srvr: Vec<Option<String>>,
        environment: Environment,
        runs: Vec<Run>,
    ) -> TimelineResult {
        let duration_ms = |d: std::time::Duration| d.as_secs_f64() * 1e3;
        TimelineResult {
            schema: SCHEMA,
            summary: summary(&runs),
            config: Config {
                hosts: args.target.hosts.clone(),
                servers: args.target.started.clone(),
                srvr,
                connections: args.connections,
                write_rate: args.write_rate,
                read_rate: args.read_rate,
                value_size: args.value_size,
                schedule: schedule.to_string(),
                duration_s: args.duration.as_secs_f64(),
                warmup_s: args.warmup.as_secs_f64(),
                repeat: args.repeat,
                reconnect_pause_ms: duration_ms(args.reconnect_pause),
                connect_timeout_ms: duration_ms(args.connect_timeout),
                session_timeout_ms: duration_ms(args.target.session_timeout),
            },
            environment,
            runs: runs.iter().map(|r| run_record(r, args.connections as usize)).collect(),
        }
    }

    /// Whether nothing was lost, every gap had an end, every step was done, and the generator was in time.
    pub fn good(&self) -> bool {
        let s = &self.summary;
        let whole = |e: &EventRecord| e.gap_ms.is_some();
        s.valid
            && s.lost_sessions == 0
            && s.lost_writes == 0
            && s.unchecked_sessions == 0
            && self.runs.iter().all(|r| r.undone.is_empty() && r.events.iter().all(whole))
    }
}

fn run_record(run: &Run, clients: usize) -> RunRecord {
    let log = &run.findings.log;
    let of = |pick: fn(&super::log::Sample) -> u32| log.samples.iter().map(pick).collect();
    RunRecord {
        seconds: seconds(log),
        events: run.events.iter().zip(&run.gaps).map(|(e, g)| EventRecord::new(e, g, log.start)).collect(),
        undone: run.undone.clone(),
        longest_silence_ms: ms(longest_silence(log, log.start, log.end)),
        lost_writes: run.findings.lost_writes,
        unchecked_sessions: run.findings.unchecked,
        longest_turn_ms: ms(run.findings.longest_turn),
        samples: Samples {
            length_ms: ms(SAMPLE_NS),
            writes: of(|s| s.writes),
            reads: of(|s| s.reads),
            errors: of(|s| s.errors),
            connected: log.connected(clients),
        },
    }
}

fn seconds(log: &Log) -> f64 {
    (log.end - log.start) as f64 / 1e9
}

fn summary(runs: &[Run]) -> Summary {
    let (mut writes, mut reads, mut lateness) = (histogram(), histogram(), histogram());
    let logs = || runs.iter().map(|r| &r.findings.log);
    for log in logs() {
        for (sum, part) in [
            (&mut writes, &log.write_latency),
            (&mut reads, &log.read_latency),
            (&mut lateness, &log.lateness),
        ] {
            sum.add(part).expect("all histograms have the same bounds");
        }
    }
    let of_leaders = || {
        let pairs = runs.iter().flat_map(|r| r.events.iter().zip(&r.gaps));
        pairs.filter(|(e, _)| e.led && e.verb.takes_away()).map(|(_, g)| g)
    };
    let spread = |pick: fn(&Gap) -> &Spread| {
        let each = of_leaders()
            .map(pick)
            .flat_map(|s| s.sorted.iter().copied().map(Some).chain(std::iter::repeat_n(None, s.endless)));
        SpreadRecord::new(&Spread::new(each))
    };
    let whole: f64 = logs().map(seconds).sum();
    let total = |pick: fn(&super::log::Sample) -> u32| -> u64 {
        logs().flat_map(|l| &l.samples).map(|s| u64::from(pick(s))).sum()
    };
    let invalid_reasons = invalid_reasons(&lateness, total(|s| s.writes));
    Summary {
        valid: invalid_reasons.is_empty(),
        invalid_reasons,
        leader_gap: SpreadRecord::new(&Spread::new(of_leaders().map(|g| g.first))),
        leader_gap_of_survivors: spread(|g| &g.survivors),
        leader_gap_of_its_own: spread(|g| &g.its_own),
        acknowledged_writes: total(|s| s.writes),
        writes_per_second: per_second(total(|s| s.writes), whole),
        reads_per_second: per_second(total(|s| s.reads), whole),
        errors: total(|s| s.errors),
        lost_sessions: logs().map(|l| l.lost_sessions.len()).sum(),
        lost_writes: runs.iter().map(|r| r.findings.lost_writes).sum(),
        unchecked_sessions: runs.iter().map(|r| r.findings.unchecked).sum(),
        first_loss: logs().find_map(|l| l.first_loss.clone()),
        first_refusal: logs().find_map(|l| l.first_refusal).map(|code| Code(code).to_string()),
        write_latency: Latency::new(&writes),
        read_latency: Latency::new(&reads),
        lateness: Latency::new(&lateness),
    }
}

fn invalid_reasons(lateness: &Histogram<u64>, writes: u64) -> Vec<String> {
    let mut reasons = Vec::new();
    if writes == 0 {
        reasons.push("no write was acknowledged".to_owned());
    }
    let late = lateness.value_at_quantile(0.99);
    if late > LATE_NS {
        reasons.push(format!(
            "the generator was late: 1 % of the requests were sent {} or more behind the plan (limit {})",
            micros(late),
            micros(LATE_NS)
        ));
    }
    reasons
}

/// Writes the whole result to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(result: &TimelineResult, path: &Path) -> anyhow::Result<()> {
    write_json_value(result, path)
}

/// Milliseconds with a fitting unit; a gap without an end is a word.
fn time(ms: Option<f64>) -> String {
    ms.map_or_else(|| "none".to_owned(), |ms| micros((ms * 1e6) as u64))
}

/// Median and worst of several, if there are any.
fn spread_cells(s: &SpreadRecord) -> [String; 2] {
    if s.count == 0 { ["-", "-"].map(str::to_owned) } else { [time(s.median_ms), time(s.worst_ms)] }
}

/// The whole report.
pub fn table(r: &TimelineResult) -> String {
    let mut out = String::new();
    let c = &r.config;
    let _ = writeln!(out, "target      {}", c.hosts.join(", "));
    for (host, line) in c.hosts.iter().zip(&c.srvr) {
        let _ = writeln!(out, "            {host}: {}", line.as_deref().unwrap_or("no answer to srvr"));
    }
    let _ = writeln!(
        out,
        "load        {} sessions, {} writes/s of {} B and {} reads/s, open loop",
        c.connections, c.write_rate, c.value_size, c.read_rate
    );
    let schedule = if c.schedule.is_empty() { "nothing is done to the servers" } else { &c.schedule };
    let _ = writeln!(out, "schedule    {schedule}; {} x {} s", r.runs.len(), c.duration_s);
    out.push('\n');
    let _ = write!(out, "{}", events(r));
    out.push('\n');
    foot(&mut out, r);
    out
}

fn events(r: &TimelineResult) -> Grid {
    let mut grid = Grid::new(&[
        "event",
        "run",
        "at",
        "any client",
        "survivors' p50",
        "worst",
        "its own p50",
        "worst",
        "silence",
        "errors",
        "lost sess.",
        "serves",
        "behind",
        "caught up",
        "dip",
    ]);
    let or_dash = |t: Option<String>| t.unwrap_or_else(|| "-".to_owned());
    for (n, run) in r.runs.iter().enumerate() {
        for e in &run.events {
            let mut cells = vec![e.title(), (n + 1).to_string(), format!("{:.2} s", e.at_ms / 1e3)];
            if e.verb.takes_away() {
                cells.push(time(e.gap_ms));
                cells.extend(spread_cells(&e.survivors));
                cells.extend(spread_cells(&e.its_own));
            } else {
                cells.extend(std::iter::repeat_n("-".to_owned(), 5));
            }
            cells.extend([
                time(Some(e.longest_silence_ms)),
                count(e.errors),
                e.lost_sessions.to_string(),
                or_dash(e.serves_after_ms.map(|t| time(Some(t)))),
                or_dash(e.behind.map(count)),
                or_dash(e.caught_up_after_ms.map(|t| time(Some(t)))),
                or_dash(e.dip.map(|d| format!("{:.0} %", d * 100.0))),
            ]);
            grid.row(cells);
        }
    }
    grid
}

fn foot(out: &mut String, r: &TimelineResult) {
    let s = &r.summary;
    if s.leader_gap.count > 0 {
        let line = |s: &SpreadRecord| {
            let [median, worst] = spread_cells(s);
            format!("median {median}, worst {worst} of {}", s.count)
        };
        let _ = writeln!(out, "leader gap  any client: {}", line(&s.leader_gap));
        let _ = writeln!(out, "            clients on survivors: {}", line(&s.leader_gap_of_survivors));
        let _ = writeln!(out, "            clients of the leader: {}", line(&s.leader_gap_of_its_own));
    }
    let latency =
        |l: &Latency| format!("p50 {:.2} ms, p99 {:.1} ms, max {:.0} ms", l.p50_ms, l.p99_ms, l.max_ms);
    let _ = writeln!(
        out,
        "writes      {} acknowledged, {:.0}/s; {}",
        count(s.acknowledged_writes),
        s.writes_per_second,
        latency(&s.write_latency)
    );
    let _ = writeln!(out, "reads       {:.0}/s; {}", s.reads_per_second, latency(&s.read_latency));
    let turn = r.runs.iter().map(|r| r.longest_turn_ms).fold(0.0, f64::max);
    let _ = writeln!(
        out,
        "plan        sent late by p99 {:.1} ms; the generator's longest pause was {turn:.1} ms",
        s.lateness.p99_ms
    );
    let why = |why: &Option<String>| why.as_ref().map_or(String::new(), |w| format!("; the first: {w}"));
    let _ = writeln!(
        out,
        "lost        {} requests{}; {} sessions; {} acknowledged writes",
        count(s.errors),
        why(&s.first_loss),
        s.lost_sessions,
        s.lost_writes
    );
    if let Some(code) = &s.first_refusal {
        let _ = writeln!(out, "error       a request was refused: {code}");
    }
    if s.unchecked_sessions > 0 {
        let _ =
            writeln!(out, "error       the nodes of {} sessions could not be checked", s.unchecked_sessions);
    }
    for undone in r.runs.iter().flat_map(|r| &r.undone) {
        let _ = writeln!(out, "error       not done: {undone}");
    }
    for reason in &s.invalid_reasons {
        let _ = writeln!(out, "INVALID     {reason}");
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::timeline::driver::Findings;
    use crate::timeline::gaps_of;

    const MS: u64 = 1_000_000;

    /// Two clients on two servers; the leader is killed at 200 ms, writes go on at 350 ms.
    pub fn result() -> TimelineResult {
        let mut log = Log::new(0, 600 * MS);
        log.moved(0, Some(0), 0);
        log.moved(1, Some(1), 0);
        for at in (0..600).step_by(10).map(|ms| ms * MS).filter(|at| !(200 * MS..350 * MS).contains(at)) {
            log.wrote((at / MS / 10 % 2) as u32, at, at, at + MS);
        }
        log.failed(3, 201 * MS);
        let event = Event {
            verb: Verb::Kill,
            server: 0,
            led: true,
            at: 200 * MS,
            done: 202 * MS,
            serves: None,
            behind: None,
            caught_up: None,
        };
        let findings = Findings { log, lost_writes: 0, unchecked: 0, longest_turn: 2 * MS };
        let gaps = gaps_of(&[event], &findings, 2);
        let run = Run { findings, events: vec![event], gaps, undone: Vec::new() };
        let flags =
            ["loadgen", "timeline", "--hosts", "a:1,b:2", "--connections", "2", "--duration", "600ms"];
        let args = crate::cli::timeline_args(flags);
        TimelineResult::new(
            &args,
            &"leader@200ms".parse().unwrap(),
            vec![None, None],
            Environment::here(),
            vec![run],
        )
    }

    #[test]
    fn table_and_json_show_the_gap() {
        let r = result();
        assert!(r.good(), "{:?}", r.summary);
        let text = table(&r);
        let row = text.lines().find(|l| l.starts_with("kill 1 (leader)")).expect("a row of the event");
        assert!(row.contains("0.20 s") && row.contains("151 ms"), "{row}");
        assert!(text.contains("leader gap  any client: median 151 ms, worst 151 ms of 1"), "{text}");
        let json = serde_json::to_value(&r).unwrap();
        assert_eq!(json["schema"], "loadgen-timeline/1");
        assert_eq!(json["summary"]["leader_gap"]["median_ms"], 151.0);
        assert_eq!(json["summary"]["errors"], 3);
        assert_eq!(json["runs"][0]["events"][0]["verb"], "kill");
        assert_eq!(json["runs"][0]["events"][0]["survivors"]["count"], 1);
        for series in ["writes", "reads", "errors", "connected"] {
            assert_eq!(json["runs"][0]["samples"][series].as_array().unwrap().len(), 60, "{series}");
        }
    }

    #[test]
    fn what_is_lost_or_endless_is_not_good() {
        let spoilt = |spoil: fn(&mut TimelineResult)| {
            let mut r = result();
            spoil(&mut r);
            !r.good()
        };
        assert!(spoilt(|r| r.summary.lost_writes = 1));
        assert!(spoilt(|r| r.summary.lost_sessions = 1));
        assert!(spoilt(|r| r.summary.unchecked_sessions = 1));
        assert!(spoilt(|r| r.summary.valid = false));
        assert!(spoilt(|r| r.runs[0].events[0].gap_ms = None));
        assert!(spoilt(|r| r.runs[0].undone.push("restart@1s".to_owned())));
    }

    #[test]
    fn a_late_generator_makes_the_result_invalid() {
        let mut lateness = histogram();
        lateness.record_n(MS, 95).unwrap();
        assert!(invalid_reasons(&lateness, 1).is_empty());
        lateness.record_n(60 * MS, 5).unwrap();
        assert!(invalid_reasons(&lateness, 1)[0].contains("limit 50.0 ms"));
        assert_eq!(invalid_reasons(&histogram(), 0), ["no write was acknowledged"]);
    }
}
