//! Moving from ZooKeeper and back: import of a `dataDir`, by command or on first start, and export into one.
//!
//! Lives here: which files of such a directory count (`source`), their compression (`unpack`), the state that they add
//! up to (`state`), the steps of an import (`import`), of an export (`export`), and what `serve` does (`start`).
//! Not here: the bytes of ZooKeeper's files (`engine::foreign`), our own files (`wal`), arguments (`cli`).
//! Invariants:
//! - the originals are opened for reading only;
//! - an import is complete or refused: nothing is left out quietly that ZooKeeper itself would have read;
//! - an export is there as a whole, verified by reading it back, or not at all.

mod export;
mod import;
mod source;
mod start;
mod state;
mod unpack;

pub use export::{Exported, export};
pub use import::{Imported, Target, import};
pub use source::Source;
pub use start::{FORBID, before_serving};

/// ZooKeeper's directory below `dataDir` and `dataLogDir`.
const VERSION_2: &str = "version-2";
/// The small file that holds both epochs of a member, as text: "accepted current\n".
const EPOCHS: &str = "epochs";
/// In the note that an import leaves: when the newest of the original files was written, in ns since 1970.
const WRITTEN: &str = "written ";

/// What the state amounts to, for tables and comparisons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figures {
    pub zxid: engine::ids::Zxid,
    /// Of the whole tree, version 2.
    pub digest: u64,
    pub znodes: u64,
    pub sessions: usize,
    pub ephemerals: usize,
}

/// The epochs of a member (fact sheet 10.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Epochs {
    pub accepted: u32,
    pub current: u32,
}

/// Prints a table of names and values.
fn table(f: &mut std::fmt::Formatter<'_>, rows: &[(&str, String)]) -> std::fmt::Result {
    rows.iter().try_for_each(|(name, value)| write!(f, "\n  {name:<14} {value}"))
}

impl Figures {
    fn of(db: &engine::pipeline::Database) -> Figures {
        Figures {
            zxid: db.last(),
            digest: db.tree.digest(),
            znodes: db.tree.node_count(),
            sessions: db.sessions().len(),
            ephemerals: db.ephemeral_count(),
        }
    }
    fn rows(&self) -> [(&'static str, String); 4] {
        let of = |n: usize| match n {
            0 => String::new(),
            n => format!(", {n} ephemeral"),
        };
        [
            ("zxid", self.zxid.to_string()),
            ("znodes", format!("{}{}", self.znodes, of(self.ephemerals))),
            ("sessions", self.sessions.to_string()),
            ("digest", format!("0x{:x}", self.digest)),
        ]
    }
}
