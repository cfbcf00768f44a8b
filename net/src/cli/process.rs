//! What belongs to the whole process: log output, the limit of open files, signals, the end on a panic.
//!
//! Only the command line calls this, never an embedded server.
//! Invariants: a panic in any thread ends the process before anything more is acknowledged; the first SIGTERM or
//! SIGINT ends it in good order, the second at once.

use super::lines::{self, Lines};
use super::{LogFormat, LogLevel};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, IsTerminal, Read};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

/// How long a panic may take to be told.
const ABORT_WAIT: Duration = Duration::from_secs(3);

/// Sends log lines of `level` and above to standard error.
pub fn start_log(level: LogLevel, format: LogFormat) {
    let level = match level {
        LogLevel::Error => tracing::Level::ERROR,
        LogLevel::Warn => tracing::Level::WARN,
        LogLevel::Info => tracing::Level::INFO,
        LogLevel::Debug => tracing::Level::DEBUG,
        LogLevel::Trace => tracing::Level::TRACE,
    };
    let out = match Lines::start(io::stderr()) {
        Ok(lines) => {
            lines.are_the_log();
            BoxMakeWriter::new(lines)
        }
        Err(_) => BoxMakeWriter::new(io::stderr),
    };
    // A line that cannot be written (a full disk, a collector that was restarted) is lost; to complain about it on the same
    // stream would panic.
    let lines = tracing_subscriber::fmt().with_max_level(level).log_internal_errors(false).with_writer(out);
    // A second call in one process (tests) keeps the first one's settings.
    let _ = match format {
        LogFormat::Text => lines.with_ansi(io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().try_init(),
    };
}

/// Ends the process when any thread panics: a server with a thread missing would look alive and answer nobody.
pub fn abort_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        // Standard error may be a pipe that nobody empties.
        let _at_the_latest = std::thread::Builder::new().spawn(|| {
            std::thread::sleep(ABORT_WAIT);
            std::process::abort();
        });
        tracing::error!("a thread panicked; the process ends: {info}");
        lines::finish();
        print(info);
        std::process::abort();
    }));
}

/// Raises the limit of open files to what the system allows. Returns the limit now; `None`: unlimited.
///
/// # Errors
/// The system refuses it, which costs connections beyond the old limit.
pub fn raise_open_files() -> io::Result<Option<u64>> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })?;
    }
    Ok(maximum)
}

/// Calls `first` at the first SIGTERM or SIGINT, on a thread of its own. The second one ends the process at once, which
/// loses nothing that was acknowledged.
///
/// # Errors
/// No pipe, handler or thread can be had.
pub fn on_end_signal(first: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let (mut read, write) = UnixStream::pair()?;
    signal_hook::low_level::pipe::register(SIGTERM, write.try_clone()?)?;
    signal_hook::low_level::pipe::register(SIGINT, write)?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let mut byte = [0];
        if read.read_exact(&mut byte).is_ok() {
            first();
        }
        if read.read_exact(&mut byte).is_ok() {
            std::process::exit(i32::from(super::EXIT_FAILED));
        }
    })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_is_the_hard_one_afterwards() {
        let hard = raise_open_files().unwrap();
        assert_eq!(getrlimit(Resource::Nofile).current, hard);
    }

    #[test]
    fn a_panic_in_any_thread_ends_the_process() {
        const CHILD: &str = "SERVAL_TEST_PANICS";
        if std::env::var_os(CHILD).is_some() {
            abort_on_panic();
            let _never_joined = std::thread::spawn(|| panic!("on purpose")).join();
            return; // The child that gets here has survived: its exit code 0 fails the parent.
        }
        use std::os::unix::process::ExitStatusExt;
        let status = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "cli::process::tests::a_panic_in_any_thread_ends_the_process"])
            .env(CHILD, "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.signal(), Some(signal_hook::consts::SIGABRT), "{status}");
    }
}
