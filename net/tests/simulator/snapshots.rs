//! Snapshots while writes go on, in slices of virtual time: the order of steps is that of `net::server::snapshots`.
//!
//! Invariants, as there: a snapshot is the state at one zxid, all of it durable in the log before the file is valid.

use crate::journal::Journal;
use crate::plan::Breach;
use engine::ids::SessionId;
use engine::pipeline::Database;
use engine::server::Server;
use engine::snapshot::Encoder;
use engine::tree::Walker;
use std::sync::Arc;
use wal::snapshot::SnapshotWriter;
use wal::{DataDir, Position, WalError};

/// A snapshot file in the making.
pub struct Writing {
    pub writer: SnapshotWriter,
    pub position: Position,
    walker: Walker,
    encoder: Encoder,
    done: bool,
}

impl Writing {
    pub fn begin(data: &Arc<DataDir>, position: Position, db: &Database) -> Result<Writing, WalError> {
        let zxid = db.last();
        let mut writer = SnapshotWriter::create(data, position, zxid.0)?;
        let walker = db.tree.handle().walker(zxid).expect("room for a walker");
        let mut sessions: Vec<(SessionId, i32)> = db.sessions().iter().map(|(s, t)| (*s, *t)).collect();
        sessions.sort_unstable();
        let mut encoder = Encoder::default();
        let mut head = Vec::new();
        encoder.head(zxid, Some(db.tree.digest()), sessions, &mut head);
        writer.write(&head)?;
        Ok(Writing { writer, position, walker, encoder, done: false })
    }

    /// Writes so many nodes more; `false`: nothing is left.
    pub fn slice(&mut self, nodes: usize) -> Result<bool, WalError> {
        if self.done {
            return Ok(false);
        }
        let (encoder, mut out) = (&mut self.encoder, Vec::new());
        let more = self.walker.slice(nodes, |path, node| {
            encoder.node(path, node.data(), node.acl(), &node.stat_persisted(), &mut out);
        });
        if !more {
            self.encoder.end(&mut out);
            self.done = true;
        }
        self.writer.write(&out)?;
        Ok(more)
    }
}

/// See the module.
pub struct Snapshots {
    data: Arc<DataDir>,
    every: u64,
    newest: Position,
    running: Option<(Writing, u64)>,
    pub taken: u64,
    breach: Breach,
}

impl Snapshots {
    pub fn new(data: Arc<DataDir>, every: u64, newest: Position, breach: Breach) -> Snapshots {
        Snapshots { data, every, newest, running: None, taken: 0, breach }
    }

    /// Starts, continues, ends one. An error costs the attempt, as long as the disk lives.
    pub fn step(&mut self, server: &Server, journal: &Journal) -> Result<(), WalError> {
        if let Some((mut writing, zxid)) = self.running.take() {
            let hasty = self.breach == Breach::SnapshotsAnyTime;
            let waits = !hasty && journal.reader().durable() < writing.position;
            if writing.slice(7)? || waits {
                self.running = Some((writing, zxid));
            } else {
                writing.writer.finish(zxid)?;
                self.newest = writing.position;
                self.taken += 1;
                if let Some(oldest) = wal::snapshot::retain(&self.data, 3)? {
                    journal.reader().purge(oldest);
                }
            }
            return Ok(());
        }
        let applied = journal.position_behind(server.zab().applied_ticket());
        let behind = applied.0 - self.newest.0.min(applied.0);
        let may = server.is_confirmed() || self.breach == Breach::SnapshotsAnyTime;
        if behind >= self.every && behind > 0 && may {
            let writing = Writing::begin(&self.data, applied, server.db())?;
            self.running = Some((writing, server.db().last().0));
        }
        Ok(())
    }

    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }
}
