//! `loadgen compare`: the results of several runs in one table, each beside the first.
//!
//! Reads what `loadgen run --json` wrote. Not here: measuring, or judging what a difference is worth.
//! Invariant: runs of different loads are never put beside each other silently.

use crate::cli::CompareArgs;
use crate::report::{Grid, count, micros};
use anyhow::{Context, bail};
use serde_json::Value;
use std::path::Path;

/// What a file must begin with.
const SCHEMA: &str = "loadgen-run/1";
/// Parts of the configuration that are another in every run, or name where it ran.
const PLACES: [&str; 4] = ["hosts", "servers", "path", "seed"];
/// Titles of quantiles, and their fields.
const QUANTILES: [(&str, &str); 5] =
    [("p50", "p50_us"), ("p90", "p90_us"), ("p99", "p99_us"), ("p99.9", "p99_9_us"), ("max", "max_us")];

struct Run {
    name: String,
    json: Value,
}

/// Prints the table; `false` if one of the runs is invalid or had errors.
///
/// # Errors
/// A file that cannot be read, or holds no result of `loadgen run`.
pub fn command(args: &CompareArgs) -> anyhow::Result<bool> {
    let runs = args.files.iter().map(|f| read(f)).collect::<anyhow::Result<Vec<_>>>()?;
    print!("{}", table(&runs));
    Ok(runs.iter().all(is_good))
}

fn read(path: &Path) -> anyhow::Result<Run> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let json: Value =
        serde_json::from_str(&text).with_context(|| format!("{} is no JSON", path.display()))?;
    if json["schema"] != SCHEMA {
        bail!("{} is not what `loadgen run --json` writes (schema {SCHEMA})", path.display());
    }
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    Ok(Run { name, json })
}

fn is_good(run: &Run) -> bool {
    let summary = &run.json["summary"];
    summary["valid"] == true && summary["errors"] == 0 && summary["lost_connections"] == 0
}

fn table(runs: &[Run]) -> String {
    let mut out = String::new();
    for run in runs {
        let json = &run.json;
        let servers = json["config"]["servers"].as_str().map(|s| format!("{s}; ")).unwrap_or_default();
        let srvr = json["servers"][0]["srvr"].as_str().unwrap_or("unknown server");
        out += &format!("run         {}: {servers}{srvr}\n", run.name);
    }
    for key in different(runs) {
        let values: Vec<String> = runs.iter().map(|r| r.json["config"][&key].to_string()).collect();
        out += &format!("DIFFERENT   {key}: {}\n", values.join(", "));
    }
    let machines: Vec<_> =
        runs.iter().map(|r| [&r.json["environment"]["cpu"], &r.json["environment"]["kernel"]]).collect();
    if machines.iter().any(|m| *m != machines[0]) {
        out += "DIFFERENT   the machines\n";
    }
    for run in runs.iter().filter(|r| !is_good(r)) {
        let reasons = &run.json["summary"]["invalid_reasons"];
        out += &format!("NOT GOOD    {}: {} errors; {reasons}\n", run.name, run.json["summary"]["errors"]);
    }
    out.push('\n');
    out + &grid(runs).to_string()
}

/// Keys of the configuration in which the runs are not the same load.
fn different(runs: &[Run]) -> Vec<String> {
    let first = runs[0].json["config"].as_object();
    let keys = first.into_iter().flat_map(|c| c.keys()).filter(|k| !PLACES.contains(&k.as_str()));
    let differs = |key: &&String| runs.iter().any(|r| r.json["config"][*key] != runs[0].json["config"][*key]);
    keys.filter(differs).cloned().collect()
}

/// One row for each operation of each run; ratios are to the first run that has the operation.
fn grid(runs: &[Run]) -> Grid {
    let titles: Vec<&str> = ["operation", "run", "ops/s", "ratio", "errors"]
        .into_iter()
        .chain(
            QUANTILES
                .iter()
                .flat_map(|(title, _)| if *title == "p99" { vec![*title, "ratio"] } else { vec![*title] }),
        )
        .collect();
    let mut grid = Grid::new(&titles);
    let mut names: Vec<&String> =
        runs.iter().filter_map(|r| r.json["operations"].as_object()).flat_map(|o| o.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        let mut first: Option<&Value> = None;
        for run in runs {
            let op = &run.json["operations"][name];
            if op.is_object() {
                let base = *first.get_or_insert(op);
                grid.row(row(name, &run.name, op, base));
            }
        }
    }
    grid
}

fn row(name: &str, run: &str, op: &Value, base: &Value) -> Vec<String> {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let ratio = |key: &str| match number(&base[key]) {
        0.0 => "-".to_owned(),
        was => format!("{:.2}", number(&op[key]) / was),
    };
    let mut cells = vec![
        name.to_owned(),
        run.to_owned(),
        count(number(&op["ops_per_second"]).round() as u64),
        ratio("ops_per_second"),
        op["errors"].to_string(),
    ];
    for (title, key) in QUANTILES {
        cells.push(micros((number(&op[key]) * 1e3) as u64));
        if title == "p99" {
            cells.push(ratio(key));
        }
    }
    cells
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn run(name: &str, keys: u64, rate: f64, p99_us: f64) -> Run {
        let op = json!({"ops_per_second": rate, "errors": 0, "p50_us": 10.0, "p90_us": 20.0, "p99_us": p99_us,
            "p99_9_us": 400.0, "max_us": 1e6});
        let json = json!({
            "schema": SCHEMA,
            "summary": {"valid": true, "errors": 0, "lost_connections": 0, "invalid_reasons": []},
            "operations": {"get": op},
            "servers": [{"srvr": "it"}],
            "config": {"keys": keys, "seed": rate, "servers": null},
            "environment": {"cpu": "c", "kernel": "k"},
        });
        Run { name: name.into(), json }
    }

    #[test]
    fn runs_stand_beside_the_first() {
        let text = table(&[run("balanced", 10, 1000.0, 100.0), run("latency", 10, 1500.0, 50.0)]);
        let rows: Vec<Vec<&str>> = text.lines().map(|l| l.split_whitespace().collect()).collect();
        let row = |name: &str| rows.iter().find(|r| r.first() == Some(&"get") && r[1] == name).unwrap();
        assert_eq!(row("balanced")[2..5], ["1,000", "1.00", "0"]);
        assert_eq!(row("latency")[2..5], ["1,500", "1.50", "0"]);
        assert_eq!(row("latency")[9..12], ["50.0", "us", "0.50"], "{text}");
        assert!(!text.contains("DIFFERENT") && !text.contains("NOT GOOD"), "{text}");
    }

    #[test]
    fn another_load_and_a_bad_run_are_told() {
        let mut bad = run("b", 20, 1.0, 1.0);
        bad.json["summary"]["valid"] = false.into();
        bad.json["environment"]["cpu"] = "another".into();
        let text = table(&[run("a", 10, 1.0, 1.0), bad]);
        for part in ["DIFFERENT   keys: 10, 20", "DIFFERENT   the machines", "NOT GOOD    b: 0 errors"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
