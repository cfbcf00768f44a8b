//! The files of a ZooKeeper server: which there are, and what their names say.
//!
//! Not here: what is in snapshots and logs (`state`).
//! Invariant: nothing is opened for writing; a file that changes while it is read is noticed ([`Source::fingerprint`]).

use super::{Epochs, VERSION_2};
use anyhow::{Context, Result, bail};
use engine::ids::Zxid;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How a snapshot file is compressed (`zookeeper.snapshot.compression.method`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Snappy,
}

/// A file whose name carries a zxid.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Named {
    pub path: PathBuf,
    /// Snapshots: the last transaction that it certainly holds. Logs: the first.
    pub zxid: Zxid,
    pub packing: Packing,
}

impl Named {
    /// The name without its directory.
    pub fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

/// A ZooKeeper server's data: snapshots and epochs here, logs here or in a directory of their own.
#[derive(Clone, Debug)]
pub struct Source {
    /// What the user named.
    pub dir: PathBuf,
    snapshots: PathBuf,
    logs: PathBuf,
}

/// Length and time of change of every file, by name.
#[derive(PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<(PathBuf, u64, Option<SystemTime>)>);

impl Source {
    /// Looks into `dir` (a `dataDir`, or the `version-2` in it) and `log_dir` (a `dataLogDir`, likewise).
    ///
    /// # Errors
    /// Neither holds files of ZooKeeper's, or they cannot be listed.
    pub fn find(dir: &Path, log_dir: Option<&Path>) -> Result<Source> {
        let snapshots = version_2(dir)?;
        let logs = match log_dir {
            Some(dir) => version_2(dir)?,
            None => snapshots.clone(),
        };
        let source = Source { dir: dir.to_path_buf(), snapshots, logs };
        if source.snapshots()?.is_empty() && source.logs()?.is_empty() {
            bail!(
                "{} holds neither snapshots nor logs of ZooKeeper's: name its dataDir, and with --log-dir its dataLogDir",
                source.snapshots.display()
            );
        }
        Ok(source)
    }

    /// Whether the files of this directory are among its own.
    pub(super) fn reads(&self, dir: &Path) -> bool {
        let real = |p: &Path| p.canonicalize().ok();
        let dir = real(dir);
        dir.is_some() && (real(&self.snapshots) == dir || real(&self.logs) == dir)
    }

    /// Snapshots, newest first.
    pub(super) fn snapshots(&self) -> Result<Vec<Named>> {
        let mut found = named(&self.snapshots, "snapshot.")?;
        found.sort_by_key(|n| std::cmp::Reverse(n.zxid));
        Ok(found)
    }

    /// Logs, oldest first.
    pub(super) fn logs(&self) -> Result<Vec<Named>> {
        let mut found = named(&self.logs, "log.")?;
        found.retain(|n| n.packing == Packing::Plain);
        found.sort_by_key(|n| n.zxid);
        Ok(found)
    }

    /// Both epochs, for a history that ends at `last`. A missing one is that of the history, as ZooKeeper reads it: a
    /// lone server writes neither.
    ///
    /// # Errors
    /// They contradict each other or the history.
    pub(super) fn epochs(&self, last: Zxid) -> Result<Epochs> {
        let of_history = last.epoch();
        let mut current = epoch(&self.snapshots.join("currentEpoch"))?.unwrap_or(of_history);
        let accepted = epoch(&self.snapshots.join("acceptedEpoch"))?.unwrap_or(current.max(of_history));
        if of_history > current {
            // What a crash between two steps left: ZooKeeper takes it in exactly this case.
            current = epoch(&self.snapshots.join("currentEpoch.tmp"))?.unwrap_or(current);
        }
        if of_history > current {
            bail!(
                "currentEpoch is {current} in {}, but the history ends at {last}, which is of epoch {of_history}: \
                 ZooKeeper refuses to start from this too. Let this server synchronise with its ensemble anew, with an \
                 empty data directory",
                self.snapshots.display()
            );
        }
        if accepted < current {
            bail!(
                "acceptedEpoch is {accepted} and currentEpoch {current} in {}: the accepted one can never be lower, so \
                 one of the files is damaged",
                self.snapshots.display()
            );
        }
        Ok(Epochs { accepted, current })
    }

    /// When any file was last written to, in ns since 1970.
    pub(super) fn written_at(&self) -> Result<u128> {
        let since = |t: &SystemTime| t.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Ok(self
            .fingerprint()?
            .0
            .iter()
            .filter_map(|(_, _, changed)| changed.as_ref().map(since))
            .max()
            .unwrap_or(0))
    }

    /// To be compared before and after: a server that still runs would be writing.
    pub(super) fn fingerprint(&self) -> Result<Fingerprint> {
        let mut all = Vec::new();
        for dir in [&self.snapshots, &self.logs] {
            for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
                let entry = entry?;
                let meta = entry.metadata()?;
                all.push((entry.path(), meta.len(), meta.modified().ok()));
            }
        }
        all.sort();
        Ok(Fingerprint(all))
    }
}

/// Whether there is a `version-2` with anything in it. An empty one is what a package's installer leaves.
pub(super) fn holds_files(dir: &Path) -> Result<bool> {
    let path = dir.join(VERSION_2);
    match std::fs::read_dir(&path) {
        Ok(mut entries) => Ok(entries.next().is_some()),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e).with_context(|| format!("cannot look into {}", path.display())),
    }
}

/// A file of ZooKeeper's that lies in `dir` itself, as in a `version-2`. Our logs have 16 digits.
pub(super) fn stray(dir: &Path) -> Result<Option<Named>> {
    if !dir.is_dir() {
        return Ok(None);
    }
    let logs = named(dir, "log.")?.into_iter().filter(|l| l.name().len() < "log.".len() + 16);
    Ok(named(dir, "snapshot.")?.into_iter().chain(logs).next())
}

/// The directory with the files: `dir/version-2`, or `dir` itself when it is one.
fn version_2(dir: &Path) -> Result<PathBuf> {
    let inside = dir.join(VERSION_2);
    if inside.is_dir() {
        return Ok(inside);
    }
    match fs::metadata(dir) {
        Ok(meta) if meta.is_dir() => Ok(dir.to_path_buf()),
        Ok(_) => bail!("{} is not a directory", dir.display()),
        Err(e) => Err(e).with_context(|| format!("cannot look into {}", dir.display())),
    }
}

fn named(dir: &Path, prefix: &str) -> Result<Vec<Named>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot list {}", dir.display()))? {
        let path = entry.with_context(|| format!("cannot list {}", dir.display()))?.path();
        let parsed = path.file_name().and_then(|n| n.to_str()).and_then(|n| parse(n, prefix));
        if let Some((zxid, packing)) = parsed {
            found.push(Named { path, zxid, packing });
        }
    }
    Ok(found)
}

/// What a name says; `None` for one that ZooKeeper does not give either.
fn parse(name: &str, prefix: &str) -> Option<(Zxid, Packing)> {
    let rest = name.strip_prefix(prefix)?;
    let (digits, packing) = match rest.split_once('.') {
        None => (rest, Packing::Plain),
        Some((digits, "gz")) => (digits, Packing::Gzip),
        Some((digits, "snappy")) => (digits, Packing::Snappy),
        Some(_) => return None,
    };
    // No sign, as from_str_radix would take one.
    let plain = digits.bytes().all(|b| b.is_ascii_hexdigit());
    plain.then(|| u64::from_str_radix(digits, 16).ok()).flatten().map(|z| (Zxid(z), packing))
}

fn epoch(path: &Path) -> Result<Option<u32>> {
    let text = match fs::read_to_string(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        r => r.with_context(|| format!("cannot read {}", path.display()))?,
    };
    match text.lines().next().unwrap_or_default().trim().parse() {
        Ok(n) => Ok(Some(n)),
        Err(_) => bail!("{} holds {:?} where an epoch's number should stand", path.display(), text.trim()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_zookeeper_gives_them() {
        assert_eq!(parse("snapshot.1a", "snapshot."), Some((Zxid(0x1a), Packing::Plain)));
        assert_eq!(parse("snapshot.0.gz", "snapshot."), Some((Zxid(0), Packing::Gzip)));
        assert_eq!(
            parse("snapshot.200000001.snappy", "snapshot."),
            Some((Zxid(0x2_0000_0001), Packing::Snappy))
        );
        for name in ["snapshot.", "snapshot.x", "snapshot.1.tmp", "snapshot.+1", "snapshot", "log.1"] {
            assert_eq!(parse(name, "snapshot."), None, "{name}");
        }
    }

    #[test]
    fn epochs_agree_with_each_other_and_with_the_history() {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().join(VERSION_2);
        fs::create_dir(&dir).unwrap();
        fs::write(dir.join("log.1"), b"").unwrap();
        let source = Source::find(tmp.path(), None).unwrap();
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).unwrap();
        let epochs = |epoch: u32| source.epochs(Zxid::new(epoch, 7)).map(|e| (e.accepted, e.current));
        let why = |epoch: u32| epochs(epoch).unwrap_err().to_string();
        assert_eq!((epochs(0).unwrap(), epochs(6).unwrap()), ((0, 0), (6, 6)));
        put("acceptedEpoch", "4");
        assert_eq!(epochs(3).unwrap(), (4, 3));
        assert!(why(5).contains("can never be lower"));
        put("currentEpoch", "3\n");
        assert_eq!(epochs(2).unwrap(), (4, 3));
        assert!(why(4).contains("of epoch 4"));
        put("currentEpoch.tmp", "4");
        assert_eq!((epochs(3).unwrap(), epochs(4).unwrap()), ((4, 3), (4, 4)));
        put("acceptedEpoch", "2");
        assert!(why(2).contains("can never be lower"));
        put("acceptedEpoch", "");
        assert!(why(2).contains("acceptedEpoch holds \"\""));
    }

    #[test]
    fn a_directory_without_files_of_its_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        assert!(
            Source::find(tmp.path(), None).unwrap_err().to_string().contains("neither snapshots nor logs")
        );
        assert!(Source::find(&tmp.path().join("x"), None).is_err());
    }
}
