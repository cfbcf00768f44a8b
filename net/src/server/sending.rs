//! What a learner lacks that the window no longer has: the log behind its last transaction (DIFF), or, where that is not
//! there or too long, a snapshot (SNAP); and in the middle of its synchronisation the log alone. Runs on a thread of its
//! own.
//!
//! Not here: who needs it (`engine::zab`), the link (`errands`).
//! Invariants:
//! - only applied, hence committed, transactions are sent, without a gap, none that a mark made void;
//! - whatever is sent ends exactly at `upto`; a piece of a log is whole packets;
//! - it holds a few pieces and one node, however large tree and nodes are; a byte is copied once;
//! - it waits for nobody once it was told to stop.

use crate::ring::Wake;
use anyhow::{Context, Result, bail};
use crossbeam::channel::Sender;
use engine::foreign::snapshot::Encoder;
use engine::ids::{SessionId, Zxid};
use engine::proto::Decoder;
use engine::tree;
use engine::txn::TxnHeader;
use engine::zab::wire::{Kind, put_packet};
use engine::zab::{Behind, Mark, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use wal::{DataDir, Position, snapshot};

/// Bytes handed to the core at once.
pub const PIECE_BYTES: usize = 256 << 10;
/// What ends a snapshot stream, as a ustring.
pub const SIGNATURE: &[u8] = b"\0\0\0\x0aBenWasHere";
/// Nodes visited before the walker lets the writer's garbage go on.
const NODES_PER_SLICE: usize = 2048;
/// Between two looks at how far the log is durable.
const DURABLE_POLL: Duration = Duration::from_millis(5);
/// A log up to this length is always preferred to a snapshot, bytes.
const DIFF_BYTES_MIN: u64 = 4 << 20;
/// A log longer than this is never preferred to a snapshot, bytes: a learner holds it in memory until it serves, where a
/// snapshot takes a second tree.
const DIFF_BYTES_MAX: u64 = 1 << 30;

/// How far the learner is.
pub enum What {
    /// At the beginning: it gets a DIFF, or a SNAP where no log leads from there or that costs more.
    All {
        /// What a snapshot costs.
        tree_bytes: u64,
        sessions: Vec<(SessionId, i32)>,
        /// Two walks over the state at `upto`.
        walkers: (tree::Walker, tree::Walker),
    },
    /// In the middle: only the log will do, from this position if it is known.
    Rest { behind: Behind, from: Option<Position> },
}

/// One learner's errand.
pub struct Sending {
    /// The last zxid of the learner's history.
    pub last: Zxid,
    pub upto: Zxid,
    /// The record behind the one of `upto`.
    pub position: Position,
    pub what: What,
    pub data: Arc<DataDir>,
    pub log: wal::Reader,
    pub to: Sender<Vec<u8>>,
    pub wake: Arc<dyn Wake>,
    /// Nobody wants it any more.
    pub stop: Arc<AtomicBool>,
    /// The log has enough lines about this learner.
    pub quiet: bool,
}

/// Nobody takes the pieces any more.
struct Unwanted;

/// The part of the log that a DIFF sends.
struct Run {
    from: Position,
    /// Marks that make earlier transactions void: where, and above what.
    cuts: Vec<(Position, Zxid)>,
}

impl Sending {
    pub fn run(self) {
        let found = self.find();
        match (&self.what, found) {
            (_, Err(_)) if self.is_unwanted() => {}
            (What::All { .. }, Err(why)) => {
                if !self.quiet {
                    tracing::info!("synchronising by a snapshot: {why:#}");
                }
                let _unwanted = self.snap();
            }
            (What::Rest { .. }, Err(why)) => {
                tracing::warn!(
                    "it cannot go on from {}: {why:#}; it is synchronised from the beginning",
                    self.last
                );
            }
            (_, Ok(run)) => {
                if !self.quiet {
                    tracing::info!("synchronising from {} by the log", self.last);
                }
                if let Err(e) = self.diff(&run) {
                    // The link is closed when the pieces end too early: the learner asks again.
                    tracing::warn!("the log could not be sent: {e:#}");
                }
            }
        }
    }

    fn is_unwanted(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn send(&self, piece: Vec<u8>) -> Result<(), Unwanted> {
        self.to.send(piece).map_err(|_| Unwanted)?;
        self.wake.wake();
        Ok(())
    }

    /// Where in the log the learner's history ends.
    fn find(&self) -> Result<Run> {
        while self.log.durable() < self.position {
            if self.is_unwanted() {
                bail!("nobody waits for it any more");
            }
            std::thread::sleep(DURABLE_POLL);
        }
        let max = match &self.what {
            What::All { tree_bytes, .. } => (*tree_bytes).clamp(DIFF_BYTES_MIN, DIFF_BYTES_MAX),
            What::Rest { .. } => u64::MAX,
        };
        let (start, at_start) = self.begin()?;
        let mut run = Run { from: start, cuts: Vec::new() };
        let (mut found, mut bytes) = (at_start, 0u64);
        self.log.read(start, self.position, |at, record| -> Result<()> {
            if self.is_unwanted() {
                bail!("nobody waits for it any more");
            }
            match Record::decode(record) {
                Some(Record::Txn(txn)) => {
                    if zxid_of(txn)? == self.last {
                        (found, bytes, run.from) = (true, 0, Position(at.0 + 1));
                    }
                    bytes += txn.len() as u64;
                    if found && bytes > max {
                        bail!("the log behind {} costs more: it is longer than {max} bytes", self.last);
                    }
                }
                Some(Record::Mark(Mark::Truncate(to))) => {
                    if to < self.last {
                        found = false;
                    }
                    run.cuts.push((at, to));
                }
                Some(Record::Mark(Mark::Installed(zxid))) => {
                    // What is before it leads elsewhere, also where the learner ends just there.
                    (found, bytes, run.from) = (zxid == self.last, 0, Position(at.0 + 1));
                }
                Some(Record::Mark(Mark::Whole(_))) => {}
                None => bail!("record {at} of the log is neither a transaction nor a mark"),
            }
            Ok(())
        })?;
        // The state at `upto` may have come as a snapshot, whose mark stands behind its position: the log before it leads
        // elsewhere.
        let behind = Position(self.position.0 + 1).min(self.log.durable());
        self.log.read(self.position, behind, |_, record| -> Result<()> {
            if let Some(Record::Mark(Mark::Installed(zxid))) = Record::decode(record) {
                (found, run.from) = (zxid == self.last, self.position);
            }
            Ok(())
        })?;
        if !found {
            bail!("the log does not reach back to {}", self.last);
        }
        Ok(run)
    }

    /// Where to look for the end of the learner's history, and whether that is it.
    fn begin(&self) -> Result<(Position, bool)> {
        if let What::Rest { from: Some(from), .. } = self.what {
            return Ok((from, true));
        }
        let (files, _) = snapshot::list(&self.data)?;
        let start = files.iter().find(|f| f.tag <= self.last.0).map_or(Position(0), |f| f.position);
        let start = start.max(self.log.oldest());
        Ok((start, files.iter().any(|f| f.position == start && f.tag == self.last.0)))
    }

    fn diff(&self, run: &Run) -> Result<()> {
        let mut out = Vec::with_capacity(2 * PIECE_BYTES);
        if let What::All { .. } = self.what {
            put_packet(&mut out, Kind::Diff, self.upto, None);
        }
        let mut last = self.last;
        self.log.read(run.from, self.position, |at, record| -> Result<()> {
            let Some(Record::Txn(txn)) = Record::decode(record) else { return Ok(()) };
            let zxid = zxid_of(txn)?;
            if zxid <= self.last || run.cuts.iter().any(|(cut, to)| *cut > at && *to < zxid) {
                return Ok(());
            }
            if zxid.0 != last.0 + 1 && !(zxid.epoch() > last.epoch() && zxid.counter() <= 1) {
                bail!("{zxid} follows {last} in the log: something between is missing");
            }
            last = zxid;
            match &self.what {
                What::All { .. } => {
                    put_packet(&mut out, Kind::Proposal, zxid, Some(txn));
                    put_packet(&mut out, Kind::Commit, zxid, None);
                }
                What::Rest { behind, .. } => behind.put(&mut out, zxid, txn),
            }
            if out.len() >= PIECE_BYTES {
                let piece = std::mem::replace(&mut out, Vec::with_capacity(2 * PIECE_BYTES));
                self.send(piece).map_err(|_| anyhow::anyhow!("the learner is gone"))?;
            }
            Ok(())
        })?;
        if last != self.upto {
            bail!("the log ends at {last} instead of {}", self.upto);
        }
        if !out.is_empty() {
            self.send(out).map_err(|_| anyhow::anyhow!("the learner is gone"))?;
        }
        // The end of a good stream; without it the pieces were cut off.
        self.send(Vec::new()).map_err(|_| anyhow::anyhow!("the learner is gone"))
    }

    fn snap(self) -> Result<(), Unwanted> {
        let mut encoder = Encoder::default();
        let Sending { what, upto, to, wake, stop, .. } = self;
        let What::All { walkers: (mut first, mut second), sessions, .. } = what else { return Ok(()) };
        while first.slice(NODES_PER_SLICE, |_, node| encoder.note(node.acl())) {
            if stop.load(Ordering::Relaxed) {
                return Err(Unwanted);
            }
        }
        drop(first);
        let send = |piece: &[u8]| {
            let sent = to.send(piece.to_vec()).map_err(|_| Unwanted);
            wake.wake();
            sent
        };
        let mut out = Vec::with_capacity(PIECE_BYTES * 2);
        put_packet(&mut out, Kind::Snap, upto, None);
        encoder.head(&sessions, &mut out);
        loop {
            let more = second.slice_while(NODES_PER_SLICE, |path, node| {
                let path = if path == "/" { "" } else { path };
                let noted = encoder.node(path, node.data(), node.acl(), &node.stat_persisted(), &mut out);
                debug_assert!(noted.is_ok(), "both walks see the same tree");
                out.len() < PIECE_BYTES
            });
            if !more {
                encoder.end(&mut out);
                out.extend_from_slice(SIGNATURE);
            }
            let whole = if more { out.len() - out.len() % PIECE_BYTES } else { out.len() };
            out[..whole].chunks(PIECE_BYTES).try_for_each(send)?;
            out.drain(..whole);
            if !more {
                return send(&[]);
            }
        }
    }
}

fn zxid_of(txn: &[u8]) -> Result<Zxid> {
    let header =
        TxnHeader::decode(&mut Decoder::new(txn)).ok().context("a record of the log is not a transaction")?;
    Ok(header.zxid)
}
