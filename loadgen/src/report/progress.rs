//! Live progress on stderr: a bar on a terminal, a plain line now and then elsewhere, nothing when quiet.

use super::table::{count, micros};
use crate::record::IntervalSummary;
use indicatif::{ProgressBar, ProgressStyle};
use std::cell::Cell;
use std::io::IsTerminal;
use std::time::{Duration, Instant};

/// How often a plain line is printed.
const LINE_EVERY: Duration = Duration::from_secs(2);

/// The progress of one phase.
pub struct Progress {
    what: String,
    form: Form,
}

enum Form {
    Quiet,
    Bar(ProgressBar),
    /// When the last line was printed.
    Lines(Cell<Instant>),
}

impl Progress {
    /// Shows a phase of `total` steps (0: unknown).
    pub fn start(what: &str, total: u64, quiet: bool) -> Progress {
        let form = if quiet {
            Form::Quiet
        } else if std::io::stderr().is_terminal() {
            let bar = ProgressBar::new(total);
            let style = if total == 0 {
                "{spinner} {msg}"
            } else {
                "{spinner} {msg} {wide_bar} {human_pos}/{human_len}"
            };
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar()),
            );
            bar.set_message(what.to_owned());
            Form::Bar(bar)
        } else {
            Form::Lines(Cell::new(Instant::now()))
        };
        Progress { what: what.to_owned(), form }
    }

    /// `done` steps are done.
    pub fn show(&self, done: u64) {
        self.draw(done, || format!("{} {}", self.what, count(done)));
    }

    /// `second` seconds have passed and `done` requests were answered; the last whole interval gives the rates.
    pub fn show_rate(&self, second: u64, done: u64, warming: bool, intervals: &[IntervalSummary]) {
        self.draw(second, || match intervals.last() {
            _ if warming => format!("warming up: {} answered", count(done)),
            None => format!("{}: {} answered", self.what, count(done)),
            Some(last) => format!(
                "{}: {}/s, p50 {}, p99 {}",
                self.what,
                count(super::per_second(last.replies, last.length_s) as u64),
                micros((last.p50_us * 1e3) as u64),
                micros((last.p99_us * 1e3) as u64)
            ),
        });
    }

    fn draw(&self, position: u64, text: impl FnOnce() -> String) {
        match &self.form {
            Form::Quiet => {}
            Form::Bar(bar) => {
                bar.set_position(position);
                bar.set_message(text());
            }
            Form::Lines(last) => {
                if last.get().elapsed() >= LINE_EVERY {
                    last.set(Instant::now());
                    eprintln!("{}", text());
                }
            }
        }
    }

    /// The phase is over; its bar goes away.
    pub fn finish(self) {
        if let Form::Bar(bar) = self.form {
            bar.finish_and_clear();
        }
    }
}
