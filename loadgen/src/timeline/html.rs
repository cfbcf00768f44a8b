//! A page with a plot of every run: writes and reads per 10 ms, what was done to the servers, and the gaps.
//!
//! Invariant: the page stands alone; it loads nothing and runs no script.

use super::report::{EventRecord, RunRecord, TimelineResult, table};
use std::fmt::Write;

/// Size of a plot in its own units.
const WIDTH: f64 = 1200.0;
const HEIGHT: f64 = 320.0;
/// Room around the curves: for the scale on the left, for labels above, for times below.
const LEFT: f64 = 56.0;
const TOP: f64 = 44.0;
const BOTTOM: f64 = 24.0;

const STYLE: &str = "\
body{font:14px/1.4 system-ui,sans-serif;max-width:1280px;margin:2em auto;padding:0 1em;color:#222;background:#fff}
pre{overflow-x:auto;background:#f6f6f6;padding:1em}
svg{width:100%;height:auto;font:11px system-ui,sans-serif}
.writes{fill:none;stroke:#1f6fb4}.reads{fill:none;stroke:#999;stroke-width:.6}.errors{stroke:#c22}
.axis{stroke:#bbb;fill:none}.gap{fill:#c2221820}.event{stroke:#c22;stroke-dasharray:3 2}.back{stroke:#282;stroke-dasharray:3 2}
.key i{display:inline-block;width:1.6em;height:.25em;margin:0 .4em .2em 1.2em}";

/// The page.
pub fn page(r: &TimelineResult) -> String {
    let mut out = String::new();
    let _ = writeln!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>loadgen timeline</title>\n\
         <style>{STYLE}</style></head><body>\n<h1>Timeline</h1>\n<p>{}</p>",
        escape(r.config.servers.as_deref().unwrap_or("servers that ran already"))
    );
    let _ = writeln!(out, "<pre>{}</pre>", escape(&table(r)));
    let _ = writeln!(
        out,
        "<p class=\"key\"><i style=\"background:#1f6fb4\"></i>writes acknowledged per 10 ms\
         <i style=\"background:#999\"></i>reads answered per 10 ms\
         <i style=\"background:#c22\"></i>a server is taken away; errors\
         <i style=\"background:#282\"></i>it is started again\
         <i style=\"background:#f3cfcd\"></i>no acknowledged write</p>"
    );
    for (n, run) in r.runs.iter().enumerate() {
        let _ = writeln!(out, "<h2>Run {}</h2>\n{}", n + 1, plot(run));
    }
    out.push_str("</body></html>\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Where a moment and a count are drawn.
struct Scale {
    length_ms: f64,
    top: f64,
}

impl Scale {
    fn new(run: &RunRecord) -> Scale {
        let s = &run.samples;
        Scale {
            length_ms: (run.seconds * 1e3).max(s.length_ms),
            top: usual_top(&s.writes).max(usual_top(&s.reads)),
        }
    }
    fn x(&self, ms: f64) -> f64 {
        LEFT + ms / self.length_ms * (WIDTH - LEFT)
    }
    fn y(&self, n: f64) -> f64 {
        HEIGHT - BOTTOM - (n / self.top).min(1.0) * (HEIGHT - BOTTOM - TOP)
    }
}

/// A scale that shows all but the burst of what had waited in a gap: twice what most samples have.
fn usual_top(counts: &[u32]) -> f64 {
    let mut sorted = counts.to_vec();
    sorted.sort_unstable();
    let most = sorted.get(sorted.len() * 9 / 10).copied().unwrap_or(0);
    f64::from(most.max(1)) * 2.0
}

fn plot(run: &RunRecord) -> String {
    let scale = Scale::new(run);
    let mut out = format!("<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\">\n");
    for e in &run.events {
        shade(&mut out, e, &scale);
    }
    axes(&mut out, run, &scale);
    curve(&mut out, "reads", &run.samples.reads, run.samples.length_ms, &scale);
    curve(&mut out, "writes", &run.samples.writes, run.samples.length_ms, &scale);
    for (i, _) in run.samples.errors.iter().enumerate().filter(|(_, n)| **n > 0) {
        let (x, y) = (scale.x((i as f64 + 0.5) * run.samples.length_ms), scale.y(0.0));
        let _ = writeln!(
            out,
            "<line class=\"errors\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{y:.1}\" y2=\"{:.1}\"/>",
            y - 6.0
        );
    }
    for (i, e) in run.events.iter().enumerate() {
        mark(&mut out, e, i, &scale);
    }
    out.push_str("</svg>");
    out
}

fn shade(out: &mut String, e: &EventRecord, scale: &Scale) {
    let Some(gap) = e.gap_ms.or(Some(scale.length_ms - e.at_ms)).filter(|_| e.verb.takes_away()) else {
        return;
    };
    let (x, until) = (scale.x(e.at_ms), scale.x(e.at_ms + gap));
    let _ = writeln!(
        out,
        "<rect class=\"gap\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
        until - x,
        HEIGHT - BOTTOM - TOP
    );
}

fn axes(out: &mut String, run: &RunRecord, scale: &Scale) {
    let floor = HEIGHT - BOTTOM;
    let _ = writeln!(out, "<path class=\"axis\" d=\"M{LEFT} {TOP}V{floor}H{WIDTH}\"/>");
    for n in [scale.top, scale.top / 2.0] {
        let per_second = n / run.samples.length_ms * 1e3;
        let _ = writeln!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{per_second:.0}/s</text>",
            LEFT - 6.0,
            scale.y(n) + 4.0
        );
    }
    let step = (run.seconds / 20.0).ceil().max(1.0);
    let mut at = 0.0;
    while at <= run.seconds {
        let x = scale.x(at * 1e3).min(WIDTH - 12.0);
        let _ = writeln!(
            out,
            "<text x=\"{x:.1}\" y=\"{:.0}\" text-anchor=\"middle\">{at:.0} s</text>",
            HEIGHT - 8.0
        );
        at += step;
    }
}

fn curve(out: &mut String, class: &str, counts: &[u32], length_ms: f64, scale: &Scale) {
    let _ = write!(out, "<path class=\"{class}\" d=\"");
    for (i, n) in counts.iter().enumerate() {
        let to = if i == 0 { 'M' } else { 'L' };
        let (x, y) = (scale.x((i as f64 + 0.5) * length_ms), scale.y(f64::from(*n)));
        let _ = write!(out, "{to}{x:.1} {y:.1}");
    }
    out.push_str("\"/>\n");
}

fn mark(out: &mut String, e: &EventRecord, index: usize, scale: &Scale) {
    let x = scale.x(e.at_ms);
    let class = if e.verb.takes_away() { "event" } else { "back" };
    let gap = match e.gap_ms {
        _ if !e.verb.takes_away() => String::new(),
        Some(ms) => format!(": {ms:.0} ms"),
        None => ": no end".to_owned(),
    };
    // Labels of neighbours do not lie on each other.
    let y = 12.0 + 14.0 * (index % 2) as f64;
    let _ = writeln!(
        out,
        "<line class=\"{class}\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.0}\" y2=\"{:.0}\"/>\
         <text x=\"{x:.1}\" y=\"{y:.0}\">{}{gap}</text>",
        y + 3.0,
        HEIGHT - BOTTOM,
        escape(&e.title())
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timeline::report::tests::result;

    #[test]
    fn the_page_shows_curve_event_and_gap_and_loads_nothing() {
        let page = page(&result());
        assert_eq!(page.matches("<svg").count(), 1);
        assert!(page.contains("kill 1 (leader): 151 ms</text>"), "the event's label");
        // 151 ms of 600 in a width of 1144.
        assert!(page.contains("class=\"gap\" x=\"437.3\" y=\"44\" width=\"287.9\""), "the gap's shade");
        let writes = page.split("class=\"writes\" d=\"").nth(1).and_then(|p| p.split('"').next()).unwrap();
        assert_eq!(writes.matches(['M', 'L']).count(), 60);
        for outside in ["http", "<script", "url(", "@import"] {
            assert!(!page.contains(outside), "{outside}");
        }
    }

    #[test]
    fn the_scale_leaves_out_the_burst_behind_a_gap() {
        let mut counts = vec![5; 100];
        counts[50] = 400;
        assert_eq!(usual_top(&counts), 10.0);
        assert_eq!(usual_top(&[]), 2.0);
    }
}
