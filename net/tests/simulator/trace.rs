//! What happened, in words: the last lines are printed when a run fails.
//!
//! Not here: what is checked (`oracle`).
//! Invariant: bounded; writing a line changes nothing of the run. Its hash names the run: the same seed gives the same.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::rc::Rc;

/// Lines kept.
const LINES_MAX: usize = 4_000;

/// Clones write to the same trace.
#[derive(Clone, Default)]
pub struct Trace(Rc<RefCell<Inner>>);

#[derive(Default)]
struct Inner {
    at_us: u64,
    lines: VecDeque<String>,
    hash: DefaultHasher,
    live: bool,
}

impl Trace {
    /// `live`: each line is printed at once, too.
    pub fn new(live: bool) -> Trace {
        let trace = Trace::default();
        trace.0.borrow_mut().live = live;
        trace
    }

    /// Virtual time of the lines to come.
    pub fn at(&self, us: u64) {
        self.0.borrow_mut().at_us = us;
    }

    pub fn line(&self, text: std::fmt::Arguments<'_>) {
        let mut inner = self.0.borrow_mut();
        let line = format!("{:>11.3} {text}", inner.at_us as f64 / 1000.0);
        line.hash(&mut inner.hash);
        if inner.live {
            println!("{line}");
        }
        if inner.lines.len() == LINES_MAX {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Differs between runs that differ.
    pub fn hash(&self) -> u64 {
        self.0.borrow().hash.finish()
    }

    /// The last `n` lines.
    pub fn tail(&self, n: usize) -> String {
        let inner = self.0.borrow();
        let skip = inner.lines.len().saturating_sub(n);
        inner.lines.iter().skip(skip).map(|l| format!("{l}\n")).collect()
    }
}

/// A line of the trace.
#[macro_export]
macro_rules! say {
    ($trace:expr, $($arg:tt)*) => { $trace.line(format_args!($($arg)*)) };
}
