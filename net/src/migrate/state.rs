//! The state that ZooKeeper's files add up to: a snapshot, and the logs behind it.
//!
//! Not here: which files there are (`source`), their bytes (`engine::foreign`), what becomes of the state (`import`).
//! Invariants:
//! - the state at the end of the snapshot's writing is kept apart ([`Base`]): only committed transactions are in it, and
//!   what the logs hold behind it a member of an ensemble may yet have to truncate;
//! - a snapshot that was written while transactions were applied is taken as such: from its zxid up to the last change
//!   that it may hold the logs are replayed leniently, and its state counts only if they reach that far;
//! - no transaction is missing between the snapshot and the end, as far as zxids can tell, and digests agree;
//! - an older snapshot serves only if the logs lead from it at least as far as every newer one reached.

use super::source::{Named, Source};
use super::unpack;
use anyhow::{Context, Result, anyhow, bail};
use engine::foreign::Bounds;
use engine::foreign::log::{self, End};
use engine::foreign::snapshot::{FileParser, Footers, Record, nobody};
use engine::ids::{SessionId, Zxid};
use engine::pipeline::{Database, Notice, Origin};
use engine::tree::{self, StatPersisted};
use engine::txn::Txn;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::time::{Duration, Instant};

/// Readers of the tree while it is built and written: one walker, and one to spare.
const READERS: usize = 2;
const READ_BYTES: usize = 1 << 20;
/// Between two lines about progress.
const SAY_EVERY: Duration = Duration::from_secs(2);
/// Superseded versions are freed after so many transactions.
const COLLECT_EVERY: u64 = 4096;

/// What ZooKeeper's files add up to.
pub(super) struct State {
    pub db: Database,
    /// The snapshot that was loaded, the zxid of its name, and the one at which its writing had ended.
    pub snapshot: String,
    pub start: Zxid,
    pub complete_at: Zxid,
    pub base: Base,
    /// Logs of which something was used.
    pub logs: Vec<Named>,
    pub txns: u64,
    /// The newest digest of ZooKeeper's that was compared, and equal.
    pub digest_at: Option<Zxid>,
    /// What an operator should know, one line each.
    pub notes: Vec<String>,
}

/// The state at which a snapshot is whole, when more follows.
pub(super) struct Base {
    /// Stands there.
    pub walker: tree::Walker,
    pub digest: u64,
    pub sessions: HashMap<SessionId, i32>,
}

/// Reads the newest state. With `ignore_digests` a digest that differs is a note and no error.
///
/// # Errors
/// No snapshot leads to a state that is complete; says what is wrong with each.
pub(super) fn recover(source: &Source, ignore_digests: bool) -> Result<State> {
    let (snapshots, logs) = (source.snapshots()?, source.logs()?);
    let mut failed: Vec<(String, anyhow::Error)> = Vec::new();
    let mut reached = Zxid::ZERO;
    for file in &snapshots {
        match from_snapshot(file, &logs, ignore_digests) {
            Ok(state) if state.db.last() < reached => {
                let why = anyhow!(
                    "the logs behind it end at {}, but a newer snapshot that cannot be used reached {reached}",
                    state.db.last()
                );
                failed.push((file.name(), why));
            }
            Ok(mut state) => {
                let passed = failed.iter().map(|(name, why)| format!("{name} was passed over: {why:#}"));
                state.notes.splice(0..0, passed);
                return Ok(state);
            }
            Err(Fault::Snapshot(why)) => {
                tracing::warn!("{} cannot be used: {why:#}", file.name());
                failed.push((file.name(), why));
            }
            Err(Fault::Logs(why)) => {
                failed.push((file.name(), why));
                break;
            }
        }
        reached = reached.max(file.zxid);
    }
    let Some((name, why)) = failed.first() else {
        bail!(
            "there are logs but no snapshot in {}: what happened before the logs is missing, and ZooKeeper refuses \
             this too; restore the snapshots from a backup",
            source.dir.display()
        );
    };
    let others: Vec<String> = failed[1..].iter().map(|(name, why)| format!("; {name}: {why:#}")).collect();
    bail!(
        "no snapshot in {} leads to a whole state. {name}: {why:#}{}. Nothing was changed. If ZooKeeper still starts from \
         this directory, start and stop it once: it writes a fresh snapshot; otherwise restore a backup",
        source.dir.display(),
        others.concat()
    )
}

/// Says now and then how far a long reading is.
struct Progress {
    said: Instant,
}

impl Progress {
    fn new() -> Progress {
        Progress { said: Instant::now() }
    }
    fn say(&mut self, what: impl FnOnce() -> String) {
        if self.said.elapsed() >= SAY_EVERY {
            tracing::info!("{}", what());
            self.said = Instant::now();
        }
    }
}

/// Feeds a parser until the end of `from`; returns what it left.
fn pump<E>(mut from: impl Read, mut feed: impl FnMut(&[u8]) -> Result<usize, E>) -> Result<Vec<u8>, E>
where
    E: From<io::Error>,
{
    let mut held = Vec::with_capacity(2 * READ_BYTES);
    loop {
        let n = from.by_ref().take(READ_BYTES as u64).read_to_end(&mut held)?;
        if n == 0 {
            return Ok(held);
        }
        let taken = feed(&held)?;
        held.drain(..taken);
    }
}

/// A snapshot, loaded.
struct Loaded {
    db: Database,
    tree: tree::Handle,
    footers: Footers,
    /// The zxid up to which it may hold changes.
    complete_at: Zxid,
    /// Nodes whose ACL was not in its table.
    without_acl: Vec<String>,
}

fn load(file: &Named) -> Result<Loaded> {
    // The seed only spreads paths over the index; it must differ between processes so that nobody can aim at it.
    let seed = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0);
    let (writer, tree) = tree::new_bare(seed, READERS);
    let mut db = Database::new(writer);
    let mut sessions: HashMap<SessionId, i32> = HashMap::new();
    let (mut newest, mut without_acl, mut count) = (Zxid::ZERO, Vec::new(), 0u64);
    let mut progress = Progress::new();
    let mut parser = FileParser::new(Bounds::default());
    let mut take = |record: Record<'_>| -> Result<()> {
        match record {
            Record::Session { id, timeout_ms } => {
                sessions.insert(id, timeout_ms);
            }
            Record::Node { path, data, acl, stat } => {
                let StatPersisted { czxid, mzxid, pzxid, .. } = stat;
                newest = newest.max(czxid).max(mzxid).max(pzxid);
                if acl.is_none() {
                    without_acl.push(path.to_owned());
                }
                db.load_node(path, data, acl.unwrap_or(&nobody()), &stat).map_err(|e| {
                    anyhow!("node {path:?} cannot be loaded ({e:?}): the snapshot is damaged")
                })?;
                count += 1;
                progress.say(|| format!("{}: {count} znodes so far", file.name()));
            }
            Record::End { .. } => {}
        }
        Ok(())
    };
    let from = unpack::open(file).with_context(|| format!("cannot open {}", file.path.display()))?;
    let rest = pump(from, |bytes| parser.feed(bytes, &mut take)).map_err(|e: anyhow::Error| {
        let cut = e.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::UnexpectedEof);
        if cut { e.context("it is cut short") } else { e }
    })?;
    let footers = parser.finish()?;
    debug_assert!(rest.is_empty(), "a file that was read to its end leaves nothing");
    db.tree.ensure_builtins();
    db.loaded(file.zxid, sessions);
    // An epoch that began while it was written has a zxid that no transaction carries.
    let ended = footers.last.filter(|z| z.counter() != 0);
    let digest = footers.digest.map(|(z, _)| z);
    let complete_at = [Some(newest), ended, digest].into_iter().flatten().fold(file.zxid, Zxid::max);
    Ok(Loaded { db, tree, footers, complete_at, without_acl })
}

/// Why a snapshot and its logs are no state.
enum Fault {
    /// An older snapshot may lead to one.
    Snapshot(anyhow::Error),
    /// Older ones lead through the same logs.
    Logs(anyhow::Error),
}

impl From<anyhow::Error> for Fault {
    fn from(e: anyhow::Error) -> Fault {
        Fault::Snapshot(e)
    }
}

fn from_snapshot(file: &Named, logs: &[Named], ignore_digests: bool) -> Result<State, Fault> {
    let loaded = load(file)?;
    let Loaded { db, tree, footers, complete_at, without_acl } = loaded;
    // Without footers the end of its writing is not known, so its own state is not either: all of the logs belongs to
    // it. But what a server writes before its first transaction nobody can have changed meanwhile.
    let told = footers.last.is_some()
        || footers.digest.is_some_and(|(z, _)| z >= file.zxid)
        || complete_at == Zxid::ZERO;
    let mut replay = Replay {
        db,
        tree,
        base_at: told.then_some(complete_at),
        base: None,
        without_acl,
        complete_at,
        footer: footers.digest,
        strict: footers.digest.is_some(),
        ignore_digests,
        mismatch: None,
        digest_at: None,
        txns: 0,
        notes: Vec::new(),
        progress: Progress::new(),
        doubt: None,
        differed: false,
    };
    replay.compare_footer()?;
    if replay.digest_at.is_some() {
        // An older digest that still agrees: nothing was changed since.
        replay.base_at = Some(complete_at);
    }
    replay.take_base()?;
    let mut used = Vec::new();
    // The newest log that begins at or before the first transaction wanted, and all behind it.
    let wanted = Zxid(file.zxid.0.saturating_add(1));
    let first = logs.partition_point(|l| l.zxid <= wanted).saturating_sub(1);
    for log in &logs[first..] {
        let before = replay.txns;
        if let Err(why) = replay.file(log).with_context(|| log.name()) {
            let of = if replay.differed { Fault::Snapshot } else { Fault::Logs };
            return Err(of(why));
        }
        if replay.txns > before {
            used.push(log.clone());
        }
    }
    if let Some(doubt) = replay.doubt.take() {
        return Err(Fault::Logs(anyhow!("{doubt}")));
    }
    let base = replay.finish()?;
    let Replay { db, digest_at, txns, notes, .. } = replay;
    let (snapshot, start) = (file.name(), file.zxid);
    Ok(State { db, snapshot, start, complete_at, base, logs: used, txns, digest_at, notes })
}

/// The logs behind a snapshot, applied to it.
struct Replay {
    db: Database,
    tree: tree::Handle,
    complete_at: Zxid,
    /// Where the base is taken; `None`: at the end.
    base_at: Option<Zxid>,
    base: Option<Base>,
    /// Nodes whose ACL was not in the snapshot's table.
    without_acl: Vec<String>,
    /// The digest of the snapshot's footer, until it was compared.
    footer: Option<(Zxid, u64)>,
    /// Whether every digest behind `complete_at` must agree. Without a footer the snapshot's end is only known to be
    /// no earlier than `complete_at`, so the first digest that agrees marks it.
    strict: bool,
    ignore_digests: bool,
    /// A digest behind `complete_at` that differed before the first that agreed.
    mismatch: Option<String>,
    digest_at: Option<Zxid>,
    txns: u64,
    notes: Vec<String>,
    progress: Progress,
    /// What was wrong at the end of a log, until the next one goes on exactly there: then ZooKeeper has cut it too.
    doubt: Option<String>,
    /// A digest differed: that may be the snapshot's fault.
    differed: bool,
}

/// From reading a log.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Log(#[from] log::Unreadable),
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("{0:#}")]
    Txn(anyhow::Error),
}

impl Replay {
    fn file(&mut self, file: &Named) -> Result<()> {
        let mut parser = log::Parser::new(Bounds::default());
        let from = File::open(&file.path)?;
        if from.metadata()?.len() == 0 {
            // Made a moment before ZooKeeper died, or emptied by whatever damaged the disk: ZooKeeper does not start from it.
            self.notes.push(format!(
                "{} is empty and left out: unless ZooKeeper died when it had just been made, transactions from {} on are lost",
                file.name(),
                file.zxid
            ));
        }
        let rest = pump(from, |bytes| {
            parser.feed(bytes, |at, txn| {
                self.record(txn).map_err(|e| Failed::Txn(e.context(format!("the record at byte {at}"))))
            })
        })?;
        match parser.finish(&rest) {
            End::Clean => {}
            End::Torn { at, follows: false } => self.notes.push(format!(
                "{} ends with a record at byte {at} that was never wholly written: it is left out, as ZooKeeper does",
                file.name()
            )),
            End::Torn { at, follows: true } => {
                self.doubt = Some(format!(
                    "{}: the record at byte {at} is damaged, and other bytes stand behind it: transactions behind {} may be \
                     lost",
                    file.name(),
                    self.db.last()
                ));
            }
        }
        Ok(())
    }

    fn record(&mut self, bytes: &[u8]) -> Result<()> {
        let txn =
            Txn::decode(bytes).map_err(|_| anyhow!("it is not a transaction that this release knows"))?;
        let (last, zxid, digest) = (self.db.last(), txn.header.zxid, txn.digest);
        if zxid <= last {
            // Before the snapshot, or given twice by a leader: replaying it changes nothing.
            return self.again(zxid);
        }
        let begins_epoch = zxid.epoch() > last.epoch() && zxid.counter() == 1;
        if zxid.0 != last.0 + 1 && !begins_epoch {
            let doubt = self.doubt.take().map(|d| format!("{d}; ")).unwrap_or_default();
            bail!("{doubt}transactions are missing: after {last} comes {zxid}; is a log file missing?");
        }
        if let Some(doubt) = self.doubt.take() {
            self.notes.push(format!(
                "{doubt}; the next log goes on behind {last}, so ZooKeeper has left them out too"
            ));
        }
        self.db
            .apply(bytes, Origin::Foreign, None, false)
            .map_err(|_| anyhow!("transaction {zxid} cannot be applied: its operations are unreadable"))?;
        self.txns += 1;
        self.compare(zxid, digest)?;
        self.take_base()?;
        if self.txns.is_multiple_of(COLLECT_EVERY) {
            // Nobody reads yet, so everything superseded can go at once.
            self.db.tree.publish(zxid);
            while self.db.tree.collect(usize::MAX).more {}
            let txns = self.txns;
            self.progress.say(|| format!("{txns} transactions so far, at {zxid}"));
        }
        Ok(())
    }

    fn again(&mut self, zxid: Zxid) -> Result<()> {
        // Only the snapshot's own past may be read again; behind it the order is fixed.
        if self.txns == 0 || zxid == self.db.last() {
            return Ok(());
        }
        bail!("transactions go back from {} to {zxid}: two histories are mixed", self.db.last())
    }

    /// Compares the digest that ZooKeeper wrote beside a transaction, and the snapshot's when it is due.
    fn compare(&mut self, zxid: Zxid, written: Option<u64>) -> Result<()> {
        let mismatch = self.db.take_notices().into_iter().find_map(|n| match n {
            Notice::DigestMismatch { expected, found, .. } => {
                Some(format!("the digest at {zxid} should be {expected:x} and is {found:x}"))
            }
            Notice::QuotaExceeded { .. } => None,
        });
        self.compare_footer()?;
        if zxid < self.complete_at {
            return Ok(());
        }
        match mismatch {
            Some(why) if self.strict => self.differs(why),
            Some(why) => {
                self.mismatch = Some(why);
                Ok(())
            }
            None => {
                if written.is_some() {
                    (self.strict, self.mismatch, self.digest_at) = (true, None, Some(zxid));
                }
                Ok(())
            }
        }
    }

    /// The footer belongs to the moment at which the snapshot's writing ended.
    fn compare_footer(&mut self) -> Result<()> {
        let (zxid, expected) = match self.footer {
            Some((zxid, digest)) if zxid <= self.db.last() => (zxid, digest),
            _ => return Ok(()),
        };
        self.footer = None;
        let found = self.db.tree.digest();
        if expected == found {
            self.digest_at = Some(zxid);
            return Ok(());
        }
        // It may be older than the snapshot: an epoch began without a transaction, or ZooKeeper had lost track.
        if zxid < self.db.last() {
            self.strict = false;
            return Ok(());
        }
        self.differs(format!("the digest of its nodes at {zxid} should be {expected:x} and is {found:x}"))
    }

    fn differs(&mut self, why: String) -> Result<()> {
        if !self.ignore_digests {
            self.differed = true;
            bail!(
                "{why}: the tree is not the one that ZooKeeper had (--ignore-digests imports it all the same)"
            );
        }
        // Every later one differs too.
        if !self.notes.contains(&why) && self.notes.len() < 100 {
            self.notes.push(why);
        }
        Ok(())
    }

    /// Takes the base when the state is there.
    fn take_base(&mut self) -> Result<()> {
        if self.base.is_some() || self.base_at.is_none_or(|at| self.db.last() < at) {
            return Ok(());
        }
        self.base = Some(self.base_now()?);
        Ok(())
    }

    fn base_now(&self) -> Result<Base> {
        let view = self.db.tree.latest();
        let closed = nobody();
        let unknown = |p: &&String| view.get(p).is_some_and(|n| n.acl()[..] == closed);
        if let Some(path) = self.without_acl.iter().find(unknown) {
            bail!("node {path:?} has an access control list that the snapshot does not hold");
        }
        let walker = self.tree.walker(self.db.last()).context("the tree has no reader left")?;
        Ok(Base { walker, digest: self.db.tree.digest(), sessions: self.db.sessions().clone() })
    }

    fn finish(&mut self) -> Result<Base> {
        if let Some(why) = self.mismatch.take() {
            self.differs(why)?;
        }
        let last = self.db.last();
        if last < self.complete_at {
            bail!(
                "it was written while transactions up to {} were applied, but the logs end at {last}: a log is missing, \
                 or the server died before it had written them",
                self.complete_at
            );
        }
        match self.base.take() {
            Some(base) => Ok(base),
            None => self.base_now(),
        }
    }
}

/// Hands `each` every transaction behind `after` up to `upto` once more, from logs that were read before.
pub(super) fn tail(
    logs: &[Named],
    after: Zxid,
    upto: Zxid,
    mut each: impl FnMut(&[u8]) -> Result<()>,
) -> Result<u64> {
    let (mut last, mut count) = (after, 0);
    for file in logs {
        let mut parser = log::Parser::new(Bounds::default());
        pump(File::open(&file.path)?, |bytes| {
            parser.feed(bytes, |_, bytes| {
                let txn = Txn::decode(bytes).map_err(|e| Failed::Txn(e.into()))?;
                let zxid = txn.header.zxid;
                if zxid <= last || zxid > upto {
                    return Ok(());
                }
                (last, count) = (zxid, count + 1);
                each(bytes).map_err(Failed::Txn)
            })
        })?;
    }
    if last != upto {
        bail!("the logs end at {last} when they are read again, and not at {upto}");
    }
    Ok(count)
}
