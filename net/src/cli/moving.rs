//! `serval import` and `serval export`: arguments to directories, results to tables.
//!
//! Not here: how it is done (`migrate`).
//! Invariant: the table is on standard output, progress and refusals are on standard error.

use super::{EXIT_CONFIG, EXIT_OK, EXIT_START, ExportArgs, ImportArgs, LogFormat, LogLevel, process, say};
use crate::config::{self, Config, Sources};
use crate::migrate::{self, Source, Target};
use std::fmt::Display;
use std::path::{Path, PathBuf};

pub(super) const IMPORT_HELP: &str = "\
The newest snapshot that is whole is loaded, the logs behind it are replayed, and the tree is compared with the digests \
that ZooKeeper wrote. Damage, a missing log or a running ZooKeeper are refused. DIR is only read. In place (--data-dir is \
DIR) our files lie beside version-2, which can be removed when nobody wants to go back. `serval serve` imports by itself \
at its first start on such a directory, unless the environment variable SERVAL_NO_IMPORT is set.

Exit codes: 0 imported; 2 wrong command line; 3 the configuration was refused; 4 refused or failed, nothing is served \
from it";

pub(super) const EXPORT_HELP: &str = "\
DIR/version-2 gets a snapshot, a log and the epochs, as ZooKeeper 3.8 reads them; it is read back before it gets its \
name. myid is copied if DIR has none. Sessions live on: clients that reconnect in time keep theirs.

Exit codes: 0 exported; 2 wrong command line; 3 the configuration was refused; 4 refused or failed";

/// Imports, and prints what.
pub fn import(args: &ImportArgs) -> u8 {
    process::start_log(LogLevel::Info, LogFormat::Text);
    let target = match directories(args.config.as_deref(), args.data_dir.as_deref()) {
        Ok(target) => target,
        Err(code) => return code,
    };
    // In place, the log's directory is ZooKeeper's too.
    let same = same_place(&args.dir, &target.data_dir) && target.log_dir != target.data_dir;
    let log_dir = args.log_dir.clone().or_else(|| same.then(|| target.log_dir.clone()));
    let done = Source::find(&args.dir, log_dir.as_deref())
        .and_then(|source| migrate::import(&source, &target, args.ignore_digests));
    finish(done)
}

/// Exports, and prints what.
pub fn export(args: &ExportArgs) -> u8 {
    process::start_log(LogLevel::Info, LogFormat::Text);
    match directories(args.config.as_deref(), args.data_dir.as_deref()) {
        Ok(from) => finish(migrate::export(&from.data_dir, &from.log_dir, &args.dir)),
        Err(code) => code,
    }
}

fn finish(done: anyhow::Result<impl Display>) -> u8 {
    match done {
        Ok(table) => {
            say(&format!("serval: {table}\n"));
            EXIT_OK
        }
        Err(e) => {
            eprintln!("serval: {e:#}");
            EXIT_START
        }
    }
}

/// Our directories, as a server with the same arguments has them.
fn directories(file: Option<&Path>, data_dir: Option<&Path>) -> Result<Target, u8> {
    let from = Sources {
        file: file.map(Path::to_path_buf),
        data_dir: data_dir.map(Path::to_path_buf),
        ..Sources::default()
    };
    match config::load(&from) {
        Ok(loaded) => {
            let Config { data_dir, data_log_dir, .. } = loaded.config;
            Ok(Target { data_dir, log_dir: data_log_dir })
        }
        Err(e) => {
            eprintln!("serval: {e}");
            Err(EXIT_CONFIG)
        }
    }
}

/// Whether both names lead to one directory; a missing one is another.
fn same_place(a: &Path, b: &Path) -> bool {
    let real = |p: &Path| -> Option<PathBuf> { p.canonicalize().ok() };
    real(a).is_some_and(|a| real(b) == Some(a))
}
