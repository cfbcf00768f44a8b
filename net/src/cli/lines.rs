//! The log's way to standard error: lines go through a bounded queue to a thread that writes them.
//!
//! Not here: what is logged, and in which form (`process`).
//! Invariant: nobody who logs waits for whoever reads the log, or hears of its troubles. Lines that find no room are
//! counted, and the count is written when there is room again.

use crossbeam::channel::{Receiver, Sender, bounded};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait.
const LINES_MAX: usize = 4096;
/// How long the end of the process waits for them.
const END_WAIT: Duration = Duration::from_secs(1);

/// The way of this process's log, for its end.
static WAY: OnceLock<Sender<Message>> = OnceLock::new();

enum Message {
    Line(Vec<u8>),
    /// All before it was written.
    Flush(Sender<()>),
}

/// See the module.
#[derive(Clone)]
pub struct Lines {
    to: Sender<Message>,
    lost: Arc<AtomicU64>,
}

impl Lines {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is none to be had.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Lines> {
        let (to, from) = bounded(LINES_MAX);
        let lost = Arc::<AtomicU64>::default();
        let lines = Lines { to, lost: lost.clone() };
        std::thread::Builder::new().name("log".into()).spawn(move || write(&from, &lost, out))?;
        Ok(lines)
    }

    /// These are the lines that [`finish`] waits for.
    pub fn are_the_log(&self) {
        let _only_the_first = WAY.set(self.to.clone());
    }
}

/// Waits for what was logged so far, but not for ever.
pub fn finish() {
    let Some(to) = WAY.get() else { return };
    let (done, written) = bounded(1);
    if to.send_timeout(Message::Flush(done), END_WAIT).is_ok() {
        let _gave_up = written.recv_timeout(END_WAIT);
    }
}

fn write(from: &Receiver<Message>, lost: &AtomicU64, mut out: impl Write) {
    for message in from {
        // What cannot be written is lost, and there is nowhere to say so.
        match message {
            Message::Line(line) => {
                let _ = out.write_all(&line);
            }
            Message::Flush(done) => {
                let _gone = done.send(());
            }
        }
        if from.is_empty() {
            let n = lost.swap(0, Relaxed);
            if n > 0 {
                let said = format!("{n} lines of the log are lost: whoever reads it was too slow\n");
                let _ = out.write_all(said.as_bytes());
            }
        }
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Lines;
    fn make_writer(&'a self) -> &'a Lines {
        self
    }
}

impl Write for &Lines {
    /// Takes one whole line.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.to.try_send(Message::Line(line.to_vec())).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
        Ok(line.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says when it was asked to write, and waits until it may.
    struct Slow {
        asked: Sender<Vec<u8>>,
        may: Receiver<()>,
    }
    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.asked.send(bytes.to_vec()).unwrap();
            self.may.recv().map_err(|_| io::Error::other("nobody reads it"))?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_nothing_else() {
        let ((asked, was_asked), (allow, may)) = (bounded(2 * LINES_MAX), bounded(2 * LINES_MAX));
        let lines = Lines::start(Slow { asked, may }).unwrap();
        let mut log = lines.make_writer();
        log.write_all(b"first").unwrap();
        assert_eq!(was_asked.recv().unwrap(), b"first");
        for _ in 0..LINES_MAX + 7 {
            log.write_all(b"more").unwrap();
        }
        for _ in 0..LINES_MAX + 1 {
            allow.send(()).unwrap();
        }
        for _ in 0..LINES_MAX {
            assert_eq!(was_asked.recv().unwrap(), b"more");
        }
        let said = String::from_utf8(was_asked.recv().unwrap()).unwrap();
        assert!(said.starts_with('7'), "{said}");
        drop(allow);
        log.write_all(b"to nobody").unwrap();
        let (done, written) = bounded(1);
        log.to.send(Message::Flush(done)).unwrap();
        written.recv().unwrap();
    }
}
