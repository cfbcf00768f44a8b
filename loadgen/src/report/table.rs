//! The result as a table for people.

use super::Outcome;
use crate::workload::Operation;
use engine::error::Code;
use hdrhistogram::Histogram;
use std::fmt::Write;

/// Rows of right-aligned columns (the first is left-aligned) under a line of titles.
#[derive(Clone, Debug)]
pub struct Grid {
    rows: Vec<Vec<String>>,
}

impl Grid {
    /// An empty grid with these titles.
    pub fn new(titles: &[&str]) -> Grid {
        Grid { rows: vec![titles.iter().map(|t| (*t).to_owned()).collect()] }
    }
    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }
}

impl std::fmt::Display for Grid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max();
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (c, cell) in row.iter().enumerate() {
                let w = widths[c];
                if c == 0 {
                    write!(line, "{cell:<w$}")?;
                } else {
                    write!(line, "  {cell:>w$}")?;
                }
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// `1,234,567`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::new();
    for (i, d) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(d);
    }
    out
}

/// Nanoseconds with three digits and a fitting unit.
pub fn micros(ns: u64) -> String {
    let (value, unit) = match ns {
        0..1_000_000 => (ns as f64 / 1e3, "us"),
        1_000_000..1_000_000_000 => (ns as f64 / 1e6, "ms"),
        _ => (ns as f64 / 1e9, "s"),
    };
    let decimals = if value < 10.0 {
        2
    } else if value < 100.0 {
        1
    } else {
        0
    };
    format!("{value:.decimals$} {unit}")
}

/// The quantiles of tables, and their titles.
pub(super) const QUANTILES: [(f64, &str); 4] = [(0.5, "p50"), (0.9, "p90"), (0.99, "p99"), (0.999, "p99.9")];

fn quantile_cells(h: &Histogram<u64>) -> Vec<String> {
    let mut cells: Vec<String> = QUANTILES.iter().map(|(q, _)| micros(h.value_at_quantile(*q))).collect();
    cells.push(micros(h.max()));
    cells
}

/// The whole report.
pub fn table(o: &Outcome) -> String {
    let mut out = String::new();
    head(&mut out, o);
    out.push('\n');
    let _ = write!(out, "{}", operations(o));
    if o.servers.len() > 1 {
        out.push('\n');
        let _ = write!(out, "{}", servers(o));
    }
    foot(&mut out, o);
    out
}

fn head(out: &mut String, o: &Outcome) {
    let c = &o.config;
    let pace = match c.rate {
        None => format!("closed loop, {} in flight each", c.outstanding),
        Some(rate) => {
            format!("open loop, {rate} requests/s ({}), at most {} in flight each", c.arrival, c.outstanding)
        }
    };
    let hosts: Vec<&str> = o.servers.iter().map(|s| s.address.as_str()).collect();
    let _ = writeln!(out, "target      {}", hosts.join(", "));
    for line in o.servers.iter().filter_map(|s| s.srvr.as_ref()).take(1) {
        let _ = writeln!(out, "            {line}");
    }
    let _ = writeln!(out, "load        {} sessions, {pace}", c.connections);
    let _ = writeln!(
        out,
        "workload    {}; {} keys of {} B, {}; seed {}",
        c.mix,
        count(c.keys),
        c.value_size,
        c.distribution,
        c.seed
    );
    let _ = writeln!(
        out,
        "window      {:.1} s after {:.1} s of warm-up, on {} CPUs ({}), Linux {}",
        o.seconds(),
        c.warmup_s,
        o.environment.cpus,
        o.environment.cpu,
        o.environment.kernel
    );
}

fn operations(o: &Outcome) -> Grid {
    let mut titles = vec!["operation", "ok", "ops/s", "errors"];
    titles.extend(QUANTILES.iter().map(|(_, title)| *title));
    titles.push("max");
    let mut grid = Grid::new(&titles);
    let mut latencies = o.latencies.clone();
    let errors_of = |op: Operation| -> u64 {
        o.counters.errors.iter().filter(|((of, _), _)| *of == op).map(|(_, n)| n).sum()
    };
    let mut rows = 0;
    for op in Operation::ALL {
        let h = latencies.at(*op);
        if h.is_empty() && errors_of(*op) == 0 {
            continue;
        }
        let rate = super::per_second(o.counters.completed[*op as usize], o.seconds());
        let mut cells =
            vec![op.name().to_owned(), count(h.len()), count(rate.round() as u64), count(errors_of(*op))];
        cells.extend(quantile_cells(h));
        grid.row(cells);
        rows += 1;
    }
    let all = o.latencies.all();
    if rows > 1 {
        let rate = count(o.ops_per_second().round() as u64);
        let mut cells = vec!["all".to_owned(), count(all.len()), rate, count(o.counters.error_replies())];
        cells.extend(quantile_cells(&all));
        grid.row(cells);
    }
    if let Some(service) = &o.service {
        let mut cells = vec!["from sending".to_owned(), count(service.len()), String::new(), String::new()];
        cells.extend(quantile_cells(service));
        grid.row(cells);
    }
    grid
}

fn servers(o: &Outcome) -> Grid {
    let mut grid = Grid::new(&["server", "sessions", "ok", "ops/s", "share"]);
    let total: u64 = o.servers.iter().map(|s| s.operations).sum();
    for s in &o.servers {
        grid.row(vec![
            s.address.clone(),
            s.connections.to_string(),
            count(s.operations),
            count(s.ops_per_second.round() as u64),
            format!("{:.1} %", 100.0 * s.operations as f64 / total.max(1) as f64),
        ]);
    }
    grid
}

fn foot(out: &mut String, o: &Outcome) {
    let c = &o.counters;
    out.push('\n');
    let _ = writeln!(
        out,
        "throughput  {} ops/s; the generator used {:.3} us of CPU per request ({:.0} % of {} thread{})",
        count(o.ops_per_second().round() as u64),
        o.cpu_us_per_request(),
        100.0 * o.generator_busy(),
        o.config.workers,
        if o.config.workers == 1 { "" } else { "s" }
    );
    if let Some(lateness) = &o.lateness {
        let _ = writeln!(
            out,
            "plan        the generator was late by p50 {}, p99 {}, max {}; {} requests held back by the target",
            micros(lateness.value_at_quantile(0.5)),
            micros(lateness.value_at_quantile(0.99)),
            micros(lateness.max()),
            count(c.held_back)
        );
    }
    if c.events > 0 {
        let _ = writeln!(out, "events      {} watch events", count(c.events));
    }
    for ((op, code), n) in &c.errors {
        let _ = writeln!(out, "error       {}: {} x {}", op.name(), count(*n), Code(*code));
    }
    let mut note = |n: u64, text: &str| {
        if n > 0 {
            let _ = writeln!(out, "error       {} {text}", count(n));
        }
    };
    note(c.without_reply.iter().sum(), "requests had no reply when the run ended");
    note(c.connection_loss.iter().sum(), "requests were lost with their connection");
    note(c.never_sent, "requests of the plan were never sent: the target had no room for them");
    note(c.warmup_errors, "error replies outside the window, not counted above");
    if c.lost_connections > 0 {
        let why = c.first_loss.as_deref().unwrap_or("unknown");
        let _ = writeln!(out, "error       {} connections lost; the first: {why}", c.lost_connections);
    }
    if let Some(failure) = &o.cleanup_failure {
        let _ = writeln!(out, "error       nodes were left under {}: {failure}", o.config.path);
    }
    if o.interrupted {
        let _ = writeln!(out, "note        interrupted: the window is shorter than asked for");
    }
    for reason in o.invalid_reasons() {
        let _ = writeln!(out, "INVALID     {reason}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_and_times_have_three_digits() {
        assert_eq!([0, 999, 1_000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(
            [0, 1_234, 56_789, 999_000, 1_500_000, 2_000_000_000].map(micros),
            ["0.00 us", "1.23 us", "56.8 us", "999 us", "1.50 ms", "2.00 s"]
        );
    }

    #[test]
    fn a_grid_aligns_its_columns() {
        let mut grid = Grid::new(&["a", "bb"]);
        grid.row(vec!["long".to_owned(), "1".to_owned()]);
        assert_eq!(grid.to_string(), "a     bb\nlong   1\n");
    }
}
