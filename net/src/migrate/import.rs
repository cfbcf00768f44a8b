//! From ZooKeeper's files to a data directory of ours.
//!
//! Snapshot becomes snapshot and log becomes log: so a member of an ensemble can still truncate what was never
//! committed, and one that lags behind it can be served from the log.
//! Not here: reading the files (`state`), the formats on our side (`wal`, `engine::snapshot`).
//! Invariant: the directory can be opened by a server only when snapshot and epochs are durable in it.

use super::source::{self, Named, Source};
use super::state::{self, Base, State};
use super::{EPOCHS, Epochs, Figures, VERSION_2, WRITTEN, table};
use anyhow::{Context, Result, bail};
use engine::ids::{SessionId, Zxid};
use engine::snapshot::Encoder;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;
use wal::disk::{Disk, RealDisk};
use wal::snapshot::SnapshotWriter;
use wal::{DataDir, Group, Log, Position, SmallFile};

const NODES_PER_SLICE: usize = 4096;
const WRITE_BYTES: usize = 1 << 20;
/// Of one group of the log.
const GROUP_BYTES: usize = 4 << 20;
/// What an orphaned ephemeral's session gets, ms: it is taken up again so that it can expire in good order.
const ORPHAN_TIMEOUT_MS: i32 = 4_000;

/// Where an import goes.
#[derive(Clone, Debug)]
pub struct Target {
    pub data_dir: PathBuf,
    /// The same as `data_dir` unless the log is kept apart.
    pub log_dir: PathBuf,
}

/// What was imported. Displays as a table.
#[derive(Clone, Debug)]
pub struct Imported {
    pub from: PathBuf,
    pub to: PathBuf,
    pub figures: Figures,
    pub epochs: Epochs,
    pub snapshot: String,
    /// Where our snapshot stands; the transactions behind it are in our log.
    pub snapshot_at: Zxid,
    pub logs: Vec<String>,
    pub txns: u64,
    /// Whether a digest of ZooKeeper's was compared, and up to where it was equal.
    pub digest_at: Option<Zxid>,
    pub notes: Vec<String>,
    pub took_ms: u64,
}

impl Imported {
    /// The essence in one line, for the log.
    pub fn line(&self) -> String {
        let Figures { zxid, digest, znodes, sessions, .. } = self.figures;
        let notes: Vec<String> = self.notes.iter().map(|n| format!("; {n}")).collect();
        format!(
            "imported {} of ZooKeeper: {znodes} znodes and {sessions} sessions up to zxid {zxid} (digest {digest:x}) from {} \
             and {} transactions in {} ms; the originals are as they were{}",
            self.from.display(),
            self.snapshot,
            self.txns,
            self.took_ms,
            notes.concat()
        )
    }
}

impl fmt::Display for Imported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "imported {} into {} in {} ms", self.from.display(), self.to.display(), self.took_ms)?;
        table(f, &[("snapshot", self.snapshot.clone())])?;
        let logs = match &self.logs[..] {
            [] => "none needed".to_owned(),
            all => format!("{}: {} transactions", all.join(", "), self.txns),
        };
        table(f, &[("logs", logs)])?;
        table(f, &self.figures.rows())?;
        let compared = match self.digest_at {
            Some(zxid) => format!("equal to ZooKeeper's up to {zxid}"),
            None => "ZooKeeper wrote none to compare with".to_owned(),
        };
        table(f, &[("", compared)])?;
        let Epochs { accepted, current } = self.epochs;
        table(f, &[("epochs", format!("accepted {accepted}, current {current}"))])?;
        self.notes.iter().try_for_each(|n| table(f, &[("note", n.clone())]))
    }
}

/// Imports. `ignore_digests`: a tree that differs from what ZooKeeper's digests say is taken with a note.
///
/// # Errors
/// The source is damaged or incomplete, or a server writes to it; the target holds data, or cannot be written. The
/// source is as it was, and no server opens the target before an import into it has succeeded.
pub fn import(source: &Source, target: &Target, ignore_digests: bool) -> Result<Imported> {
    let began = Instant::now();
    for dir in [&target.data_dir, &target.log_dir] {
        if source::holds_files(dir)? && !source.reads(&dir.join(VERSION_2)) {
            bail!(
                "{} holds data of another ZooKeeper server ({VERSION_2}), which would count as imported too: import into \
                 another directory, or move that away",
                dir.display()
            );
        }
    }
    let before = source.fingerprint()?;
    let unchanged = || match source.fingerprint()? == before {
        true => Ok(()),
        false => {
            bail!(
                "{} changed while it was read: a server is running on it; stop it first",
                source.dir.display()
            )
        }
    };
    let mut state = state::recover(source, ignore_digests)?;
    let epochs = source.epochs(state.db.last())?;
    unchanged()?;
    let figures = Figures::of(&state.db);
    let note =
        format!("zxid {}\n{WRITTEN}{}\nfrom {}\n", figures.zxid, source.written_at()?, source.dir.display());
    let snapshot_at = state.base.walker.zxid();
    let written = Filling::begin(target)
        .and_then(|to| {
            to.fill(&mut state, epochs)?;
            unchanged()?;
            to.complete(&note)
        })
        .with_context(|| format!("cannot import into {}", target.data_dir.display()));
    written?;
    let snapshot = match state.complete_at {
        at if at > state.start => {
            format!("{} (written while transactions up to {at} were applied)", state.snapshot)
        }
        _ => state.snapshot,
    };
    Ok(Imported {
        from: source.dir.clone(),
        to: target.data_dir.clone(),
        figures,
        epochs,
        snapshot,
        snapshot_at,
        logs: state.logs.iter().map(Named::name).collect(),
        txns: state.txns,
        digest_at: state.digest_at,
        notes: state.notes,
        took_ms: began.elapsed().as_millis() as u64,
    })
}

/// The sessions of the base, and those of ephemerals that nobody owns: nothing else would ever delete these.
fn sessions(state: &mut State) -> Vec<(SessionId, i32)> {
    let live = state.db.sessions();
    let orphans: Vec<SessionId> =
        state.db.ephemeral_owners().map(|(s, _)| s).filter(|s| !live.contains_key(s)).collect();
    if !orphans.is_empty() {
        state.notes.push(format!(
            "{} sessions are gone but have left ephemeral nodes: they are taken up again, and expire",
            orphans.len()
        ));
    }
    let mut all: BTreeMap<SessionId, i32> = state.base.sessions.iter().map(|(s, t)| (*s, *t)).collect();
    all.extend(orphans.into_iter().map(|s| (s, ORPHAN_TIMEOUT_MS)));
    all.into_iter().collect()
}

/// The directories that are being filled; no server can open them.
struct Filling {
    data: Arc<DataDir>,
    /// The log's, if it is another.
    log: Option<Arc<DataDir>>,
}

impl Filling {
    fn begin(target: &Target) -> Result<Filling> {
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::buffered());
        let data = DataDir::begin_import(disk.clone(), &target.data_dir, None)?;
        let log = match target.log_dir == target.data_dir {
            true => None,
            false => Some(DataDir::begin_import(disk, &target.log_dir, Some(&data))?),
        };
        Ok(Filling { data, log })
    }

    /// Writes epochs, the snapshot, and the transactions behind it.
    fn fill(&self, state: &mut State, epochs: Epochs) -> Result<()> {
        let text = format!("{} {}\n", epochs.accepted, epochs.current);
        SmallFile::new(&self.data, EPOCHS).replace(text.as_bytes())?;
        let sessions = sessions(state);
        let base = state.base.walker.zxid();
        write_snapshot(&mut state.base, sessions, &self.data)?;
        if state.db.last() == base {
            return Ok(());
        }
        let options = wal::Options { background: false, ..wal::Options::default() };
        let (mut log, _) = Log::open_of(&self.data, self.log.as_ref().unwrap_or(&self.data), false, options)?;
        let mut group = Group::new(GROUP_BYTES);
        state::tail(&state.logs, base, state.db.last(), |txn| {
            group.push_slice(txn)?;
            if group.is_full() {
                log.write(&mut group)?;
            }
            Ok(())
        })?;
        if !group.is_empty() {
            log.write(&mut group)?;
        }
        Ok(log.close()?)
    }

    fn complete(&self, note: &str) -> Result<()> {
        if let Some(log) = &self.log {
            log.complete_import(note, Some(&self.data))?;
        }
        Ok(self.data.complete_import(note, None)?)
    }
}

fn write_snapshot(base: &mut Base, sessions: Vec<(SessionId, i32)>, data: &Arc<DataDir>) -> Result<()> {
    let zxid = base.walker.zxid();
    // The first record of the log is the one behind it.
    let mut writer = SnapshotWriter::create(data, Position(0), zxid.0)?;
    let mut encoder = Encoder::default();
    let mut out = Vec::with_capacity(2 * WRITE_BYTES);
    encoder.head(zxid, Some(base.digest), sessions, &mut out);
    loop {
        let more = base.walker.slice_while(NODES_PER_SLICE, |path, node| {
            encoder.node(path, node.data(), node.acl(), &node.stat_persisted(), &mut out);
            out.len() < WRITE_BYTES
        });
        if !more {
            encoder.end(&mut out);
        }
        if out.len() >= WRITE_BYTES || !more {
            writer.write(&out)?;
            out.clear();
        }
        if !more {
            writer.finish(zxid.0)?;
            return Ok(());
        }
    }
}
