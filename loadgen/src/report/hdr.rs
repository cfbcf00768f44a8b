//! The HdrHistogram interval log: one line per interval and operation, tagged with the operation's name.
//!
//! Values are nanoseconds; the maximum beside each line is in milliseconds, as the format's tools expect.

use crate::record::Interval;
use crate::system::Environment;
use anyhow::{Context, anyhow};
use hdrhistogram::serialization::V2DeflateSerializer;
use hdrhistogram::serialization::interval_log::{IntervalLogWriterBuilder, Tag};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// Nanoseconds in the unit of the maximum.
const MAX_VALUE_DIVISOR: f64 = 1e6;

/// An open log. Timestamps in it count from the opening of the window.
pub struct HdrLog {
    path: PathBuf,
    file: BufWriter<File>,
    serializer: V2DeflateSerializer,
}

impl HdrLog {
    /// Creates the file. The window opens `warmup_ns` from now.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, environment: &Environment, warmup_ns: u64) -> anyhow::Result<HdrLog> {
        let failed = || format!("cannot write {}", path.display());
        let mut file = BufWriter::new(File::create(path).with_context(failed)?);
        let mut serializer = V2DeflateSerializer::new();
        let opens = SystemTime::now() + Duration::from_nanos(warmup_ns);
        IntervalLogWriterBuilder::new()
            .add_comment("[Histogram log format version 1.3]")
            .add_comment(&format!("[loadgen {}, latencies in nanoseconds]", environment.loadgen_version))
            .with_start_time(opens)
            .with_base_time(opens)
            .with_max_value_divisor(MAX_VALUE_DIVISOR)
            .begin_log_with(&mut file, &mut serializer)
            .with_context(failed)?;
        Ok(HdrLog { path: path.to_owned(), file, serializer })
    }

    /// Appends an interval's lines.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, interval: &Interval, window_from: u64) -> anyhow::Result<()> {
        let mut text = Vec::new();
        let mut builder = IntervalLogWriterBuilder::new();
        builder.with_max_value_divisor(MAX_VALUE_DIVISOR);
        let mut lines = builder.begin_log_with(&mut text, &mut self.serializer)?;
        let at = Duration::from_nanos(interval.from.saturating_sub(window_from));
        let length = Duration::from_nanos(interval.until - interval.from);
        for (op, latencies) in interval.latencies.iter() {
            lines
                .write_histogram(latencies, at, length, Tag::new(op.name()))
                .map_err(|e| anyhow!("cannot write {}: {e}", self.path.display()))?;
        }
        // A writer begins with its header, which the file has already.
        for line in text.split_inclusive(|b| *b == b'\n').filter(|line| !line.starts_with(b"#")) {
            self.file.write_all(line).with_context(|| format!("cannot write {}", self.path.display()))?;
        }
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(mut self) -> anyhow::Result<()> {
        self.file.flush().with_context(|| format!("cannot write {}", self.path.display()))
    }
}

/// Appends intervals to a log, if there is one.
///
/// # Errors
/// The file cannot be written.
pub fn log_intervals(
    log: &mut Option<HdrLog>,
    intervals: impl IntoIterator<Item = Interval>,
    window_from: u64,
) -> anyhow::Result<()> {
    let Some(log) = log else { return Ok(()) };
    intervals.into_iter().try_for_each(|interval| log.write(&interval, window_from))
}
