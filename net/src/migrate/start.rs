//! What `serve` does about ZooKeeper's files in its data directory.
//!
//! Not here: the import itself (`import`), the rule that nothing is served beside files that were not imported (`wal`).
//! Invariant: with ZooKeeper's files in the directory, a server starts only on what was imported from them, and not
//! when they were written to since.

use super::source::{holds_files, stray};
use super::{Imported, Source, Target, VERSION_2, WRITTEN, import};
use crate::config::Config;
use anyhow::{Context, Result, bail};
use std::path::Path;
use wal::disk::RealDisk;
use wal::{DataDir, Import};

/// When this environment variable is set and not empty, `serve` does not import by itself.
pub const FORBID: &str = "SERVAL_NO_IMPORT";

/// Imports what ZooKeeper left in the server's data directory, if that has not been done yet. `forbidden`: refuses
/// instead, with the command to run.
///
/// # Errors
/// As [`import()`]; an import is needed and forbidden; the files were written to after they were imported.
pub fn before_serving(config: &Config, forbidden: bool) -> Result<Option<Imported>> {
    let (dir, log_dir) = (&config.data_dir, &config.data_log_dir);
    refuse_version_2(dir, "dataDir")?;
    refuse_version_2(log_dir, "dataLogDir")?;
    let in_data = holds_files(dir)?;
    let in_logs = log_dir != dir && holds_files(log_dir)?;
    if !in_data && !in_logs {
        return Ok(None);
    }
    let state = DataDir::import_state(&RealDisk::buffered(), dir)?;
    if !in_data {
        match state {
            // The snapshots were moved away after the import.
            Import::Complete(_) => return Ok(None),
            _ => bail!(
                "{} holds logs of ZooKeeper's, but {} holds none of its snapshots: correct dataDir and dataLogDir",
                log_dir.display(),
                dir.display()
            ),
        }
    }
    let what = || format!("the data directory holds ZooKeeper's files ({})", dir.join(VERSION_2).display());
    let source = Source::find(dir, in_logs.then_some(log_dir.as_path())).with_context(what)?;
    if let Import::Complete(note) = state {
        refuse_newer(&source, &note)?;
        return Ok(None);
    }
    if forbidden {
        bail!(
            "{} holds a ZooKeeper server's data, and {FORBID} forbids to import it at a start; to import it run: {}",
            dir.display(),
            command(config)
        );
    }
    let target = Target { data_dir: dir.clone(), log_dir: log_dir.clone() };
    import(&source, &target, false).map(Some).with_context(what)
}

/// A directory that is a `version-2` itself holds none, so that a server would begin in it with nothing. Who has begun is
/// left alone.
fn refuse_version_2(dir: &Path, key: &str) -> Result<()> {
    if !DataDir::is_begun(&RealDisk::buffered(), dir)
        && let Some(file) = stray(dir)?
    {
        bail!(
            "{} holds ZooKeeper's files itself ({}), so it is what ZooKeeper calls {VERSION_2}: write the directory above \
             it into {key}",
            dir.display(),
            file.name()
        );
    }
    Ok(())
}

/// The same import by hand.
fn command(config: &Config) -> String {
    let dir = config.data_dir.display();
    match &config.origin {
        Some(file) => format!("serval import {dir} --config {}", file.display()),
        None => format!("serval import {dir} --data-dir {dir}"),
    }
}

/// Somebody ran ZooKeeper on the directory after the import: which of the two states counts is not ours to say.
fn refuse_newer(source: &Source, note: &str) -> Result<()> {
    let known: Option<u128> =
        note.lines().find_map(|l| l.strip_prefix(WRITTEN)).and_then(|ns| ns.parse().ok());
    let Some(known) = known else {
        bail!("the note in the file \"import\" does not say when ZooKeeper wrote last")
    };
    if source.written_at()? > known {
        bail!(
            "{} was imported before, and its files were written to since, so ZooKeeper has run on them: to go on with \
             Serval's state move {VERSION_2} away; to import anew move Serval's files away (serval-*, import, epochs, \
             snap.*, and log.* of 16 digits)",
            source.dir.display()
        );
    }
    Ok(())
}
