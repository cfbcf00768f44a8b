//! The file that follows a reconfiguration, in virtual time: what `net::server::membership` and `config::dynamic` do.
//!
//! Invariants, as there: written behind the core's back, one at a time, the newest state last; replaced whole or not at
//! all; a member that could not write it starts with an older one, and its log and the others know better.

use crate::dice::Dice;
use engine::server::Server;
use engine::zab::members::Members;
use std::sync::Arc;
use wal::{DataDir, SmallFile};

/// The members of a server, in its data directory.
pub const MEMBERS_FILE: &str = "members";

/// What a member starts with: the file, if it is newer than what its operator wrote.
pub fn found(data: &Arc<DataDir>, told: &Arc<Members>) -> anyhow::Result<Arc<Members>> {
    let Some(bytes) = SmallFile::new(data, MEMBERS_FILE).read()? else { return Ok(told.clone()) };
    let members =
        Members::parse(&String::from_utf8(bytes)?).map_err(|why| anyhow::anyhow!("members: {why}"))?;
    Ok(if members.version > told.version { Arc::new(members) } else { told.clone() })
}

/// The members that count, and those of the reconfiguration under way.
pub type Pair = (Arc<Members>, Option<Arc<Members>>);

/// See the module.
pub struct Membership {
    file: SmallFile,
    /// Not written yet.
    wanted: Option<Arc<Members>>,
    /// Being written, until then.
    writing: Option<(Arc<Members>, u64)>,
    /// The version in the file.
    pub written: u64,
    dice: Dice,
    sync_us: u64,
}

impl Membership {
    pub fn new(data: &Arc<DataDir>, written: u64, dice: Dice, sync_us: u64) -> Membership {
        let file = SmallFile::new(data, MEMBERS_FILE);
        Membership { file, wanted: None, writing: None, written, dice, sync_us }
    }

    /// Takes over what has changed. Says what, for the checks, and what the operator's log would say.
    pub fn step(&mut self, server: &mut Server, at_us: u64, said: &mut Vec<String>) -> Option<Pair> {
        let changed = server.take_members();
        if let Some((members, next)) = &changed {
            match next {
                Some(n) => said.push(format!("the members of version {:x} are under way", n.version)),
                None => said.push(format!("the members are those of version {:x}", members.version)),
            }
            self.wanted = Some(members.clone());
        }
        if let Some((members, _)) = self.writing.take_if(|(_, due_us)| *due_us <= at_us) {
            match self.file.replace(members.text().as_bytes()) {
                Ok(()) => self.written = members.version,
                Err(e) => {
                    said.push(format!("version {:x} of the members is in no file: {e}", members.version))
                }
            }
        }
        if self.writing.is_none()
            && let Some(members) = self.wanted.take().filter(|m| m.version > self.written)
        {
            let due_us = at_us + self.dice.delay_us(2 * self.sync_us + 500);
            self.writing = Some((members, due_us));
        }
        changed
    }

    /// When it wants another turn.
    pub fn due_us(&self) -> Option<u64> {
        self.writing.as_ref().map(|(_, due_us)| *due_us)
    }
}
