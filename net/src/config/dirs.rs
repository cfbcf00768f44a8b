//! Rules for the data directories, before anything is opened in them.
//!
//! Not here: the log and snapshot files themselves, and the lock against a second process (`wal`).
//! Invariant: nothing is written over; a directory that holds ZooKeeper's data is refused, never ignored, unless it was
//! imported (`migrate`).

use super::{Config, ConfigError};
use std::io;
use std::path::{Path, PathBuf};
use wal::disk::RealDisk;
use wal::{DataDir, Import};

/// ZooKeeper's directory below `dataDir` and `dataLogDir`.
const ZOOKEEPER_DIR: &str = "version-2";

/// Why the data directories cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DirError {
    /// It is missing and `datadir.autocreate=false`.
    #[error("{}: the data directory does not exist, and datadir.autocreate=false; create it, or correct dataDir", .0.display())]
    Missing(PathBuf),
    /// ZooKeeper's own files are there, and nothing was imported from them.
    #[error(
        "{}: holds {what} of a ZooKeeper server; it was left untouched. Import it with `serval import`, or give Serval \
         another data directory",
        .path.display()
    )]
    Foreign { path: PathBuf, what: String },
    /// Log and snapshots were kept together before, or the two directories were exchanged.
    #[error(
        "{}: holds {what} ({name}), but with a dataLogDir of its own the log belongs there and snapshots into \
         dataDir; move the files, or set dataLogDir back",
        .path.display()
    )]
    Misplaced { path: PathBuf, what: &'static str, name: String },
    /// The file system refuses it.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io { path: PathBuf, what: &'static str, source: io::Error },
}

impl Config {
    /// Makes missing data directories, and refuses those that hold ZooKeeper's files if they were not imported.
    ///
    /// # Errors
    /// See [`DirError`].
    pub fn prepare_dirs(&self) -> Result<(), DirError> {
        for dir in self.data_dirs() {
            match std::fs::metadata(dir) {
                Ok(m) if m.is_dir() => refuse_foreign(dir)?,
                Ok(_) => {
                    let source = io::Error::from(io::ErrorKind::NotADirectory);
                    return Err(DirError::Io { path: dir.to_owned(), what: "use it", source });
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound && self.create_dirs => {
                    std::fs::create_dir_all(dir).map_err(|source| DirError::Io {
                        path: dir.to_owned(),
                        what: "create it",
                        source,
                    })?
                }
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    return Err(DirError::Missing(dir.to_owned()));
                }
                Err(source) => return Err(DirError::Io { path: dir.to_owned(), what: "look at it", source }),
            }
        }
        if self.data_log_dir != self.data_dir {
            // Starting with an empty log beside a snapshot would lose what the old log holds.
            refuse_misplaced(&self.data_dir, "log segments", "log.")?;
            refuse_misplaced(&self.data_log_dir, "snapshots", "snap.")?;
        }
        Ok(())
    }

    /// `data_dir`, and `data_log_dir` if it is another.
    pub fn data_dirs(&self) -> Vec<&Path> {
        let mut dirs = vec![self.data_dir.as_path()];
        if self.data_log_dir != self.data_dir {
            dirs.push(&self.data_log_dir);
        }
        dirs
    }
}

fn refuse_foreign(dir: &Path) -> Result<(), DirError> {
    let path = dir.join(ZOOKEEPER_DIR);
    // What is damaged here, or cut short, is told by whoever opens the directory.
    if DataDir::import_state(&RealDisk::buffered(), dir).is_ok_and(|s| s != Import::Never) {
        return Ok(());
    }
    let mut entries = match std::fs::read_dir(&path) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(DirError::Io { path, what: "read it", source }),
    };
    // An empty version-2 is what a package's installer leaves: no data is lost by starting beside it.
    if let Some(entry) = entries.next() {
        let name =
            entry.map_err(|source| DirError::Io { path: path.clone(), what: "read it", source })?.file_name();
        return Err(DirError::Foreign { what: name.to_string_lossy().into_owned(), path });
    }
    Ok(())
}

/// Refuses `dir` if a file of that kind is in it: `prefix` and then a number of 16 hexadecimal digits.
fn refuse_misplaced(dir: &Path, what: &'static str, prefix: &str) -> Result<(), DirError> {
    let io_error = |source| DirError::Io { path: dir.to_owned(), what: "read it", source };
    for entry in std::fs::read_dir(dir).map_err(io_error)? {
        let name = entry.map_err(io_error)?.file_name().to_string_lossy().into_owned();
        let number = name.strip_prefix(prefix).and_then(|rest| rest.get(..16));
        if number.is_some_and(|n| n.bytes().all(|b| b.is_ascii_hexdigit())) {
            return Err(DirError::Misplaced { path: dir.to_owned(), what, name });
        }
    }
    Ok(())
}

/// The number in `myid`; `None` without the file.
pub fn read_my_id(data_dir: &Path) -> Result<Option<u64>, ConfigError> {
    let path = data_dir.join("myid");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(ConfigError::Unreadable { path, source }),
    };
    let mut lines = text.lines().map(str::trim);
    let first = lines.next().unwrap_or("");
    let second = lines.find(|l| !l.is_empty());
    let what = match (first.parse::<u64>().ok().filter(|&id| id <= i64::MAX as u64), second) {
        (Some(id), None) => return Ok(Some(id)),
        (Some(_), Some(second)) => format!("a second line, {second:?}; allowed is one number, this server's"),
        (None, _) => format!("{first:?} is not allowed; allowed is one line with the number of this server"),
    };
    Err(ConfigError::Syntax { path, line: 1, what })
}

#[cfg(test)]
mod tests {
    use super::*;
    use profiles::Profile;

    fn config(dir: &Path) -> Config {
        Config::embedded(dir, &Profile::default())
    }

    #[test]
    fn missing_directories_are_made_unless_that_is_forbidden() {
        let tmp = tempfile::tempdir().unwrap();
        let mut c = config(&tmp.path().join("a/b"));
        c.create_dirs = false;
        assert!(matches!(c.prepare_dirs(), Err(DirError::Missing(_))));
        c.create_dirs = true;
        c.data_log_dir = tmp.path().join("log");
        c.prepare_dirs().unwrap();
        assert!(c.data_dir.is_dir() && c.data_log_dir.is_dir());
    }

    #[test]
    fn zookeepers_files_are_refused_in_either_directory_and_left_alone() {
        let tmp = tempfile::tempdir().unwrap();
        let mut c = config(&tmp.path().join("data"));
        c.data_log_dir = tmp.path().join("log");
        let file = c.data_log_dir.join("version-2/log.1");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        c.prepare_dirs().unwrap();
        std::fs::write(&file, b"ZKLG").unwrap();
        let text = c.prepare_dirs().unwrap_err().to_string();
        assert!(text.contains("version-2") && text.contains("log.1"), "{text}");
        assert_eq!(std::fs::read(&file).unwrap(), b"ZKLG");
    }

    #[test]
    fn a_log_that_would_be_left_behind_is_refused() {
        let tmp = tempfile::tempdir().unwrap();
        let mut c = config(&tmp.path().join("data"));
        c.prepare_dirs().unwrap();
        std::fs::write(c.data_dir.join("log.00000000000000ff"), b"x").unwrap();
        std::fs::write(c.data_dir.join("log.txt"), b"x").unwrap();
        c.prepare_dirs().unwrap();
        c.data_log_dir = tmp.path().join("log");
        let text = c.prepare_dirs().unwrap_err().to_string();
        assert!(text.contains("log segments (log.00000000000000ff)"), "{text}");
        std::mem::swap(&mut c.data_dir, &mut c.data_log_dir);
        c.prepare_dirs().unwrap();
        std::fs::write(c.data_log_dir.join("snap.0000000000000001.0000000000000002"), b"x").unwrap();
        assert!(c.prepare_dirs().unwrap_err().to_string().contains("holds snapshots"));
    }

    #[test]
    fn a_file_in_the_place_of_the_directory_is_an_error() {
        let tmp = tempfile::tempdir().unwrap();
        let path = tmp.path().join("f");
        std::fs::write(&path, b"").unwrap();
        assert!(config(&path).prepare_dirs().unwrap_err().to_string().contains("cannot use it"));
    }

    #[test]
    fn myid_is_one_number() {
        let tmp = tempfile::tempdir().unwrap();
        assert_eq!(read_my_id(tmp.path()).unwrap(), None);
        std::fs::write(tmp.path().join("myid"), "7\n").unwrap();
        assert_eq!(read_my_id(tmp.path()).unwrap(), Some(7));
        std::fs::write(tmp.path().join("myid"), "seven\n").unwrap();
        assert!(read_my_id(tmp.path()).unwrap_err().to_string().contains("myid:1: \"seven\" is not allowed"));
        std::fs::write(tmp.path().join("myid"), "7\n\n").unwrap();
        assert_eq!(read_my_id(tmp.path()).unwrap(), Some(7));
        std::fs::write(tmp.path().join("myid"), "7\n8\n").unwrap();
        assert!(read_my_id(tmp.path()).unwrap_err().to_string().contains("a second line, \"8\""));
    }
}
