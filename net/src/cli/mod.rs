//! The command line of `serval`: what can be said, and which module does it.
//!
//! Lives here: arguments, exit codes, dispatch. `serve` runs a server, `status` asks running ones, `walk` looks into a
//! data directory, `moving` imports and exports ZooKeeper's, `process` sets up what belongs to the whole process (log,
//! limits, signals, panics), `lines` writes the log.
//! Not here: the server itself (`server`), configuration (`config`).
//! Invariants: process-global state is touched only below this module, so that servers can be embedded; what was asked
//! for goes to standard output, everything else to standard error; the exit codes are those of `EXIT_CODES`.

mod lines;
mod moving;
mod process;
mod serve;
mod status;
mod walk;

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Everything went well.
pub const EXIT_OK: u8 = 0;
/// `status`: a server does not serve. `wal verify`: damage was found.
pub const EXIT_FOUND: u8 = 1;
/// The command line was wrong (clap's own code).
pub const EXIT_USAGE: u8 = 2;
/// The configuration was refused.
pub const EXIT_CONFIG: u8 = 3;
/// The server could not start, or the directory could not be read.
pub const EXIT_START: u8 = 4;
/// The server ended because it could not go on, such as after a failed sync of its log.
pub const EXIT_FAILED: u8 = 5;

const EXIT_CODES: &str = "\
Exit codes:
  0    done; `serve`: ended by SIGTERM or SIGINT, everything acknowledged is kept
  1    `status`: at least one server does not serve; `wal verify`: damage was found
  2    wrong command line
  3    the configuration was refused; nothing was started
  4    could not start: address in use, data directory unusable, data damaged; `import`, `export`: refused or failed
  5    had to stop: the log could not be written or synced, or a thread failed
  134  a bug: some thread panicked, and the process aborted at once (SIGABRT)";

const RELEASE: &str = concat!(env!("CARGO_PKG_VERSION"), " (behaves as ZooKeeper 3.9.5)");

/// A coordination server that speaks ZooKeeper.
#[derive(Parser, Debug)]
#[command(name = "serval", version = RELEASE, after_help = EXIT_CODES, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Run a server; with no options: standalone on 127.0.0.1:2181, data in ./serval-data
    #[command(after_help = EXIT_CODES)]
    Serve(ServeArgs),
    /// Ask servers how they are, with the four-letter word srvr; exit code 0 when all serve, 1 otherwise
    Status(StatusArgs),
    /// Take over the data of a ZooKeeper server: snapshots, logs and epochs of its dataDir
    #[command(after_help = moving::IMPORT_HELP)]
    Import(ImportArgs),
    /// Write a data directory that ZooKeeper starts from; the server must not be running
    #[command(after_help = moving::EXPORT_HELP)]
    Export(ExportArgs),
    /// Look into a data directory without changing it
    #[command(subcommand, arg_required_else_help = true)]
    Wal(WalCommand),
}

/// What `serve` takes.
#[derive(Args, Debug, Clone)]
struct ServeArgs {
    /// ZooKeeper configuration (zoo.cfg); without it the server listens on loopback only
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Tuning profile: balanced, latency, throughput, small, or a file [default: balanced]
    #[arg(long, value_name = "NAME|FILE")]
    profile: Option<String>,
    /// Data directory; wins over dataDir [default without a zoo.cfg: serval-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Client port, 0 picks a free one and prints it; wins over clientPort [default without a zoo.cfg: 2181]
    #[arg(long, value_name = "PORT")]
    client_port: Option<u16>,
    /// Least important messages that are logged
    #[arg(long, value_name = "LEVEL", value_enum, default_value_t = LogLevel::Info)]
    log_level: LogLevel,
    /// Form of the log on standard error
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t = LogFormat::Text)]
    log_format: LogFormat,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum LogFormat {
    Text,
    Json,
}

/// What `import` takes.
#[derive(Args, Debug)]
struct ImportArgs {
    /// ZooKeeper's dataDir; it is only read
    dir: PathBuf,
    /// ZooKeeper's dataLogDir, when it is another
    #[arg(long, value_name = "DIR")]
    log_dir: Option<PathBuf>,
    /// Our data directory, which must hold no data of ours; may be DIR itself [default: dataDir of --config, or serval-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The zoo.cfg that the server will run with: says where its data goes
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Import even if the tree is not the one that ZooKeeper's digests tell of
    #[arg(long)]
    ignore_digests: bool,
}

/// What `export` takes.
#[derive(Args, Debug)]
struct ExportArgs {
    /// The dataDir to be: gets a version-2, which must not hold anything yet
    dir: PathBuf,
    /// Our data directory [default: dataDir of --config, or serval-data]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// The zoo.cfg that the server runs with: says where its data is
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// What `status` takes.
#[derive(Args, Debug)]
struct StatusArgs {
    /// Servers to ask, at once; the port is 2181 unless given, IPv6 addresses stand in brackets
    #[arg(required = true, value_name = "HOST:PORT")]
    servers: Vec<String>,
    /// How long to wait for each server, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    timeout: u64,
}

#[derive(Subcommand, Debug)]
enum WalCommand {
    /// Print segments, groups and transactions of the log, one line each
    Dump {
        /// The data directory, or the log's own (dataLogDir)
        dir: PathBuf,
    },
    /// Check every checksum of log and snapshots, and that every transaction can be read
    Verify {
        /// The data directory, or the log's own (dataLogDir)
        dir: PathBuf,
    },
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    ExitCode::from(run(std::env::args_os()))
}

/// Runs a command line; `args` begins with the program's name. Returns the exit code.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    let cli = match Cli::try_parse_from(args) {
        Ok(cli) => cli,
        Err(e) => {
            let _ = e.print();
            return if e.use_stderr() { EXIT_USAGE } else { EXIT_OK };
        }
    };
    let code = match cli.command {
        None => {
            let _ = Cli::command().print_help();
            EXIT_OK
        }
        Some(Command::Serve(args)) => serve::serve(&args),
        Some(Command::Status(args)) => status::status(&args.servers, args.timeout),
        Some(Command::Import(args)) => moving::import(&args),
        Some(Command::Export(args)) => moving::export(&args),
        Some(Command::Wal(WalCommand::Dump { dir })) => walk::dump(&dir),
        Some(Command::Wal(WalCommand::Verify { dir })) => walk::verify(&dir),
    };
    lines::finish();
    code
}

/// Writes to standard output; a reader that went away is no error.
fn say(text: &str) {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn serve_takes_its_options() {
        let line =
            "serval serve --config zoo.cfg --profile small --data-dir d --client-port 0 --log-format json";
        let cli = Cli::try_parse_from(line.split(' ')).unwrap();
        let Some(Command::Serve(args)) = cli.command else { panic!("not serve") };
        assert_eq!(
            (args.client_port, args.log_format, args.log_level),
            (Some(0), LogFormat::Json, LogLevel::Info)
        );
        assert!(Cli::try_parse_from(["serval", "serve", "--client-port", "70000"]).is_err());
        assert!(Cli::try_parse_from(["serval", "status"]).is_err(), "status needs a server");
    }

    #[test]
    fn every_exit_code_is_documented() {
        let codes = [EXIT_OK, EXIT_FOUND, EXIT_USAGE, EXIT_CONFIG, EXIT_START, EXIT_FAILED];
        for code in codes {
            assert!(EXIT_CODES.contains(&format!("\n  {code}    ")), "{code}");
        }
    }
}
