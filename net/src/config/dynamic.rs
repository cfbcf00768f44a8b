//! The files that follow a reconfiguration (fact sheet 10.3 and 11): the dynamic files beside zoo.cfg, and zoo.cfg itself,
//! which names the newest.
//!
//! Not here: reading them at start (`resolve`), when the members change (`server::membership`).
//! Invariants:
//! - a file is replaced whole or not at all, and zoo.cfg names a dynamic file only when that is durable;
//! - of zoo.cfg only what the dynamic file says now is taken away; the first time a copy of it is kept.

use super::properties;
use anyhow::{Context, Result};
use engine::ids::ServerId;
use engine::zab::members::Members;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};

/// Members of a server without a zoo.cfg, in its data directory.
const EMBEDDED_FILE: &str = "members";

/// Where the members of a server are kept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum DynamicFiles {
    /// Beside this zoo.cfg.
    Beside(PathBuf),
    /// There is none: in this data directory.
    In(PathBuf),
}

impl DynamicFiles {
    /// A reconfiguration is under way: what it would make is kept for a server that reads it (`.dynamic.next`).
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn seen(&self, next: &Members) -> Result<()> {
        match self {
            DynamicFiles::Beside(main) => {
                replace(&with_suffix(main, ".dynamic.next"), next.text().as_bytes())
            }
            DynamicFiles::In(_) => Ok(()),
        }
    }

    /// No reconfiguration is under way any more.
    ///
    /// # Errors
    /// The file cannot be deleted.
    pub fn nothing_seen(&self) -> Result<()> {
        let DynamicFiles::Beside(main) = self else { return Ok(()) };
        let path = with_suffix(main, ".dynamic.next");
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(e).with_context(|| format!("cannot delete {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    /// These are the members from now on. Returns the file that holds them.
    ///
    /// # Errors
    /// A file cannot be read or written.
    pub fn activate(&self, members: &Members, me: ServerId) -> Result<PathBuf> {
        let main = match self {
            DynamicFiles::Beside(main) => main,
            DynamicFiles::In(dir) => {
                let path = dir.join(EMBEDDED_FILE);
                replace(&path, members.text().as_bytes())?;
                return Ok(path);
            }
        };
        let main = fs::canonicalize(main).with_context(|| format!("cannot find {}", main.display()))?;
        let dynamic = with_suffix(&main, &format!(".dynamic.{:x}", members.version));
        let text = members.text();
        // The version is in the name.
        let lines: Vec<&str> = text.lines().filter(|l| !l.starts_with("version=")).collect();
        replace(&dynamic, lines.join("\n").as_bytes())?;
        let old = fs::read(&main).with_context(|| format!("cannot read {}", main.display()))?;
        if !properties::parse(&old, &main)?.iter().any(|e| e.key == "dynamicConfigFile") {
            replace(&with_suffix(&main, ".bak"), &old)?;
        }
        let in_line = members.get(me).is_some_and(|m| m.client.is_some());
        replace(&main, &pointing(&old, &main, &dynamic, in_line)?)?;
        Ok(dynamic)
    }

    /// The members that an embedded server was told of before.
    pub fn embedded(&self) -> Option<Members> {
        let DynamicFiles::In(dir) = self else { return None };
        Members::parse(&fs::read_to_string(dir.join(EMBEDDED_FILE)).ok()?).ok()
    }
}

/// zoo.cfg with its members in another file.
fn pointing(old: &[u8], main: &Path, dynamic: &Path, client_in_line: bool) -> Result<Vec<u8>> {
    let moved = |key: &str| {
        ["server.", "group", "weight", "dynamicConfigFile", "peerType"].iter().any(|p| key.starts_with(p))
            || (client_in_line && key.starts_with("clientPort") && key != "clientPortListenBacklog")
    };
    let mut new = properties::without(old, main, moved)?;
    new.extend_from_slice(
        format!("dynamicConfigFile={}\n", properties::escaped(&dynamic.to_string_lossy())).as_bytes(),
    );
    Ok(new)
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Writes a file beside it, makes that durable, and renames it.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let new = with_suffix(path, ".tmp");
        let mut file = File::create(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let dir = path.parent().filter(|d| !d.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(dir)?.sync_all()
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zoo_cfg_names_the_newest_file_and_keeps_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("zoo.cfg");
        let old = "# ours\ntickTime=2000\nclientPort=2181\nserver.1=a:1:2 \\\n  ;2181\nserver.2=b:1:2\npeerType=observer\n\
                   clientPortListenBacklog=9\ndataDir=/d\n";
        fs::write(&main, old).unwrap();
        let files = DynamicFiles::Beside(main.clone());
        let text = "server.1=a:1:2:participant;0.0.0.0:2181\nserver.2=b:1:2:participant\nversion=100000000";
        let members = Members::parse(text).unwrap();
        files.seen(&members).unwrap();
        let next = dir.path().join("zoo.cfg.dynamic.next");
        assert_eq!(fs::read_to_string(&next).unwrap(), text);
        let dynamic = files.activate(&members, ServerId(1)).unwrap();
        files.nothing_seen().unwrap();
        files.nothing_seen().unwrap();
        assert!(!next.exists());
        assert_eq!(dynamic.file_name().unwrap(), "zoo.cfg.dynamic.100000000");
        assert_eq!(format!("{}\nversion=100000000", fs::read_to_string(&dynamic).unwrap()), text);
        let rest = "# ours\ntickTime=2000\nclientPortListenBacklog=9\ndataDir=/d\n";
        let now = fs::read_to_string(&main).unwrap();
        assert_eq!(now, format!("{rest}dynamicConfigFile={}\n", dynamic.display()));
        let bak = dir.path().join("zoo.cfg.bak");
        assert_eq!(fs::read_to_string(&bak).unwrap(), old);
        // The next time only the pointer moves.
        let dynamic = files.activate(&members.with_version(0x1_0000_0009), ServerId(1)).unwrap();
        let now = fs::read_to_string(&main).unwrap();
        assert_eq!(now, format!("{rest}dynamicConfigFile={}\n", dynamic.display()));
        assert_eq!(fs::read_to_string(&bak).unwrap(), old, "the first copy stays");
    }

    #[test]
    fn a_client_port_that_no_line_gives_stays() {
        let dir = tempfile::tempdir().unwrap();
        let main = dir.path().join("zoo.cfg");
        fs::write(&main, "clientPort=2181\nserver.1=a:1:2\n").unwrap();
        let members = Members::parse("server.1=a:1:2\nversion=5").unwrap();
        let files = DynamicFiles::Beside(main.clone());
        let dynamic = files.activate(&members, ServerId(1)).unwrap();
        let now = fs::read_to_string(&main).unwrap();
        assert_eq!(now, format!("clientPort=2181\ndynamicConfigFile={}\n", dynamic.display()));
    }

    #[test]
    fn a_server_without_a_zoo_cfg_finds_its_members_again() {
        let dir = tempfile::tempdir().unwrap();
        let files = DynamicFiles::In(dir.path().to_owned());
        assert!(files.embedded().is_none());
        let members = Members::parse("server.1=a:1:2\nversion=5").unwrap();
        files.activate(&members, ServerId(1)).unwrap();
        assert_eq!(files.embedded(), Some(members));
    }
}
