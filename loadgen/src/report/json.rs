//! The result as JSON for programs. The schema is what these types serialise to; `schema` names its version.

use super::table::QUANTILES;
use super::{Outcome, Population, ServerRecord};
use crate::cli::RunArgs;
use crate::record::IntervalSummary;
use crate::system::Environment;
use crate::workload::{Mix, Operation};
use anyhow::Context;
use engine::error::Code;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::Path;

/// Raised when a field changes its meaning or goes away.
const SCHEMA: &str = "loadgen-run/1";

/// What was asked for, defaults filled in.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct ConfigRecord {
    pub hosts: Vec<String>,
    /// What was started for the run, in a few words; `null` where the servers ran already.
    pub servers: Option<String>,
    pub connections: u32,
    pub outstanding: usize,
    pub workers: usize,
    pub mix: String,
    pub value_size: u32,
    pub keys: u64,
    pub children: u64,
    pub distribution: String,
    pub duration_s: f64,
    pub warmup_s: f64,
    /// Requests per second of an open loop; `null` in a closed one.
    pub rate: Option<f64>,
    /// `constant` or `poisson`.
    pub arrival: &'static str,
    pub path: String,
    pub seed: u64,
    pub self_test: bool,
}

impl ConfigRecord {
    pub(crate) fn new(args: &RunArgs, seed: u64, path: &str, mix: &Mix, workers: usize) -> ConfigRecord {
        ConfigRecord {
            hosts: args.target.hosts.clone(),
            servers: args.target.started.clone(),
            connections: args.connections,
            outstanding: args.in_flight(),
            workers,
            mix: mix.to_string(),
            value_size: args.value_size,
            keys: args.keys,
            children: args.children,
            distribution: args.distribution.to_string(),
            duration_s: args.duration.as_secs_f64(),
            warmup_s: args.warmup.as_secs_f64(),
            rate: args.rate,
            arrival: if args.poisson { "poisson" } else { "constant" },
            path: path.to_owned(),
            seed,
            self_test: args.self_test,
        }
    }
}

/// Latencies of replies without error, in microseconds. In an open loop from the planned moment.
#[derive(Clone, PartialEq, Debug, Serialize)]
struct LatencyRecord {
    replies: u64,
    mean_us: f64,
    p50_us: f64,
    p90_us: f64,
    p99_us: f64,
    p99_9_us: f64,
    max_us: f64,
}

impl LatencyRecord {
    fn new(h: &Histogram<u64>) -> LatencyRecord {
        let us = |ns: u64| ns as f64 / 1e3;
        let [p50_us, p90_us, p99_us, p99_9_us] = QUANTILES.map(|(q, _)| us(h.value_at_quantile(q)));
        let mean_us = if h.is_empty() { 0.0 } else { h.mean() / 1e3 };
        LatencyRecord { replies: h.len(), mean_us, p50_us, p90_us, p99_us, p99_9_us, max_us: us(h.max()) }
    }
}

#[derive(Serialize)]
struct Summary {
    /// Requests answered OK within the window, per second.
    ops_per_second: f64,
    valid: bool,
    invalid_reasons: Vec<String>,
    interrupted: bool,
    duration_s: f64,
    /// Replies with an error.
    errors: u64,
    /// Requests of the window without reply at the end of the run.
    without_reply: u64,
    /// Requests of the window whose connection broke.
    connection_loss: u64,
    lost_connections: u64,
    /// Open loop: requests that the plan had and the target no room for until the end.
    never_sent: u64,
    /// Open loop: requests that the target had room for only later than planned.
    held_back: u64,
    warmup_errors: u64,
    watch_events: u64,
    cleanup_failure: Option<String>,
    latency: LatencyRecord,
}

#[derive(Serialize)]
struct OperationRecord {
    ops_per_second: f64,
    errors: u64,
    without_reply: u64,
    connection_loss: u64,
    #[serde(flatten)]
    latency: LatencyRecord,
}

#[derive(Serialize)]
struct ErrorRecord {
    operation: &'static str,
    code: i32,
    name: &'static str,
    count: u64,
}

#[derive(Serialize)]
struct Generator {
    workers: usize,
    /// CPU time per request, system calls included.
    cpu_us_per_request: f64,
    /// Share of the window in which the workers' threads ran.
    busy: f64,
    /// Open loop: from plan to sending, where the target had room.
    lateness: Option<LatencyRecord>,
    /// Open loop: from sending to reply, blind to what waited for its turn.
    from_sending: Option<LatencyRecord>,
}

#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    summary: Summary,
    operations: BTreeMap<&'static str, OperationRecord>,
    errors: Vec<ErrorRecord>,
    servers: &'a [ServerRecord],
    generator: Generator,
    config: &'a ConfigRecord,
    population: Population,
    environment: &'a Environment,
    intervals: &'a [IntervalSummary],
}

impl<'a> Document<'a> {
    fn new(o: &'a Outcome) -> Document<'a> {
        let c = &o.counters;
        let name = |code: i32| Code(code).name();
        Document {
            schema: SCHEMA,
            summary: summary(o),
            operations: operations(o),
            errors: c
                .errors
                .iter()
                .map(|((op, code), n)| ErrorRecord {
                    operation: op.name(),
                    code: *code,
                    name: name(*code),
                    count: *n,
                })
                .collect(),
            servers: &o.servers,
            generator: Generator {
                workers: o.config.workers,
                cpu_us_per_request: o.cpu_us_per_request(),
                busy: o.generator_busy(),
                lateness: o.lateness.as_ref().map(LatencyRecord::new),
                from_sending: o.service.as_ref().map(LatencyRecord::new),
            },
            config: &o.config,
            population: o.population,
            environment: &o.environment,
            intervals: &o.intervals,
        }
    }
}

fn summary(o: &Outcome) -> Summary {
    let c = &o.counters;
    Summary {
        ops_per_second: o.ops_per_second(),
        valid: o.invalid_reasons().is_empty(),
        invalid_reasons: o.invalid_reasons(),
        interrupted: o.interrupted,
        duration_s: o.seconds(),
        errors: c.error_replies(),
        without_reply: c.without_reply.iter().sum(),
        connection_loss: c.connection_loss.iter().sum(),
        lost_connections: c.lost_connections,
        never_sent: c.never_sent,
        held_back: c.held_back,
        warmup_errors: c.warmup_errors,
        watch_events: c.events,
        cleanup_failure: o.cleanup_failure.clone(),
        latency: LatencyRecord::new(&o.latencies.all()),
    }
}

fn operations(o: &Outcome) -> BTreeMap<&'static str, OperationRecord> {
    let c = &o.counters;
    let mut latencies = o.latencies.clone();
    let mut records = BTreeMap::new();
    for op in Operation::ALL {
        let i = *op as usize;
        let errors = c.errors.iter().filter(|((of, _), _)| of == op).map(|(_, n)| n).sum();
        let latency = LatencyRecord::new(latencies.at(*op));
        if latency.replies + errors + c.without_reply[i] + c.connection_loss[i] == 0 {
            continue;
        }
        let record = OperationRecord {
            ops_per_second: super::per_second(c.completed[i], o.seconds()),
            errors,
            without_reply: c.without_reply[i],
            connection_loss: c.connection_loss[i],
            latency,
        };
        records.insert(op.name(), record);
    }
    records
}

/// Writes the whole result to a file.
///
/// # Errors
/// The file cannot be written.
pub fn write_json(o: &Outcome, path: &Path) -> anyhow::Result<()> {
    write_json_value(&Document::new(o), path)
}

/// Writes any result to a file, as JSON for programs that people can read, too.
///
/// # Errors
/// The file cannot be written.
pub fn write_json_value(value: &impl Serialize, path: &Path) -> anyhow::Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("the result cannot be written as JSON")?;
    text.push('\n');
    std::fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
