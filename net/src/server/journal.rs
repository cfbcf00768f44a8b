//! The core's way to the log: fills a group while the one before is being made durable.
//!
//! Not here: the format and the sync (`wal`), what is written (`engine`).
//! Invariants:
//! - groups are written one after the other, in ticket order, each whole;
//! - a ticket is reported only when the group that holds it is durable, unless the profile chose otherwise;
//! - after the first error nothing is written and nothing is reported any more.

use super::tickets::EpochTickets;
use crate::ring::Wake;
use crate::words::summary::Summary;
use crossbeam::channel::{Receiver, Sender, TryRecvError, bounded};
use engine::ids::Ticket;
use engine::zab::{Epochs, Persist, Persistence};
use profiles::{Durability, Profile, WalAsync};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wal::{Group, Log, Position, SmallFile, WalError};

/// What a finished group tells.
type Finished = (Group, Result<Position, WalError>);

/// Who waits for the disk.
enum Writer {
    /// The kernel: the core goes on, an eventfd tells.
    Submit(Box<Log>),
    /// A thread of our own, which wakes the core.
    Thread {
        to: Sender<Group>,
        from: Receiver<Finished>,
        /// Set before `to` is dropped: leave the log as it is.
        abandoned: Arc<AtomicBool>,
        thread: Option<JoinHandle<()>>,
    },
}

/// See the module.
pub struct Journal {
    writer: Writer,
    filling: Group,
    spare: Vec<Group>,
    /// The last ticket in `filling`.
    last: Ticket,
    in_flight: Option<Flight>,
    /// What a flush made durable and `poll` has not told yet.
    flushed: Option<Ticket>,
    epochs: SmallFile,
    /// The position of the record of the first ticket.
    start: Position,
    epoch_tickets: EpochTickets,
    durability: Durability,
    group_max: usize,
    /// How long an idle log waits for company.
    group_wait: Duration,
    /// When the first record of `filling` came, where that matters.
    opened: Option<Instant>,
    failed: Option<WalError>,
    reader: wal::Reader,
    stats: SyncStats,
}

struct Flight {
    last: Ticket,
    records: u64,
    since: Instant,
}

/// What syncs cost.
#[derive(Clone, Copy, Debug, Default)]
pub struct SyncStats {
    pub time_ms: Summary,
    /// The last one, ms.
    pub last_ms: u64,
    /// Transactions that one sync made durable.
    pub group_size: Summary,
    /// Bytes of transactions appended.
    pub bytes: u64,
}

impl Journal {
    /// Takes over an open log. `wake` ends the core's sleep when a group is finished, unless there is a
    /// [`Journal::completion_fd`].
    ///
    /// # Errors
    /// The profile wants io_uring and the system refuses it, or there is no thread to be had.
    pub fn new(
        mut log: Log,
        epochs: SmallFile,
        profile: &Profile,
        wake: Arc<dyn Wake>,
    ) -> anyhow::Result<Journal> {
        let group_max = profile.group_max_bytes as usize;
        let (reader, start) = (log.reader(), log.next_position());
        let submit = profile.wal_async != WalAsync::Thread && log.enable_submit().is_some();
        if profile.wal_async == WalAsync::Uring && !submit {
            anyhow::bail!(
                "the profile says wal_async = \"uring\", but this system refuses io_uring or direct I/O for the log; \
                 use \"auto\" or \"thread\""
            );
        }
        let writer = if submit { Writer::Submit(Box::new(log)) } else { spawn(log, wake)? };
        Ok(Journal {
            writer,
            filling: Group::new(group_max),
            spare: vec![Group::new(group_max)],
            last: Ticket(0),
            in_flight: None,
            flushed: None,
            epochs,
            start,
            epoch_tickets: EpochTickets::default(),
            durability: profile.durability,
            group_max,
            group_wait: Duration::from_micros(profile.group_wait_us.into()),
            opened: None,
            failed: None,
            reader,
            stats: SyncStats::default(),
        })
    }

    /// The descriptor that becomes readable when a group is finished; `None` where a thread of ours writes.
    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        match &self.writer {
            Writer::Submit(log) => log.completion_fd(),
            Writer::Thread { .. } => None,
        }
    }
    /// Reads the log beside the writer.
    pub fn reader(&self) -> &wal::Reader {
        &self.reader
    }
    /// Whether the open group takes more now.
    pub fn has_room(&self) -> bool {
        !self.filling.is_full()
    }
    /// Timing of the syncs so far.
    pub fn stats(&self) -> SyncStats {
        self.stats
    }
    /// The first error, if there was one: the server must end.
    pub fn failure(&self) -> Option<&WalError> {
        self.failed.as_ref()
    }

    /// Starts to write the open group, if there is one and none is being written.
    pub fn kick(&mut self) {
        if self.in_flight.is_some() || self.filling.is_empty() || self.failed.is_some() {
            return;
        }
        if self.waits_for_company() > Duration::ZERO {
            return;
        }
        self.opened = None;
        let next = self.spare.pop().unwrap_or_else(|| Group::new(self.group_max));
        let group = std::mem::replace(&mut self.filling, next);
        let records = u64::from(group.records());
        self.in_flight = Some(Flight { last: self.last, records, since: Instant::now() });
        match &mut self.writer {
            Writer::Submit(log) => {
                if let Err((_, e)) = log.submit(group) {
                    self.failed = Some(e);
                }
            }
            Writer::Thread { to, .. } => {
                // The thread ends only when this side is dropped, or after it has reported an error.
                let _gone = to.send(group);
            }
        }
    }

    /// The position of the record behind the one with this ticket, which is the one that was applied last or a later one.
    pub fn position_behind(&self, ticket: Ticket) -> Position {
        self.known_position_behind(ticket).expect("nothing of what is not applied yet is forgotten")
    }
    /// The same for any ticket; `None`: too many elections ago.
    pub fn known_position_behind(&self, ticket: Ticket) -> Option<Position> {
        Some(Position(self.start.0 + ticket.0 - self.epoch_tickets.upto(ticket)?))
    }
    /// What was applied last: only positions behind it are needed for certain.
    pub fn forget_before(&mut self, applied: Ticket) {
        self.epoch_tickets.forget_before(applied);
    }

    /// How long the open group still waits for more before it is written.
    pub fn waits_for_company(&self) -> Duration {
        match self.opened {
            Some(at) if !self.filling.is_full() => self.group_wait.saturating_sub(at.elapsed()),
            _ => Duration::ZERO,
        }
    }

    /// The ticket up to which everything may count as durable by now, if that has moved.
    pub fn poll(&mut self) -> Option<Ticket> {
        if let Some(ticket) = self.flushed.take().filter(|_| self.failed.is_none()) {
            return Some(ticket);
        }
        let finished = match &mut self.writer {
            Writer::Submit(log) => log.complete(),
            Writer::Thread { from, .. } => match from.try_recv() {
                Ok(finished) => Some(finished),
                Err(TryRecvError::Empty) => None,
                Err(TryRecvError::Disconnected) => {
                    if self.in_flight.is_some() {
                        self.failed.get_or_insert_with(writer_gone);
                    }
                    None
                }
            },
        };
        let (group, result) = finished?;
        let flight = self.in_flight.take()?;
        if let Err(e) = result {
            self.failed = Some(e);
            return None;
        }
        self.spare.push(group);
        self.booked(&flight);
        self.kick();
        Some(if self.durability == Durability::Sync { flight.last } else { self.last })
    }

    /// With the weak setting: what was accepted counts at once.
    pub fn early(&self) -> Option<Ticket> {
        (self.durability != Durability::Sync && self.failed.is_none()).then_some(self.last)
    }

    fn booked(&mut self, flight: &Flight) {
        let ms = flight.since.elapsed().as_millis() as u64;
        self.stats.time_ms.record(ms);
        self.stats.last_ms = ms;
        self.stats.group_size.record(flight.records);
    }

    /// Whether anything accepted is not durable yet.
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_none() && self.filling.is_empty()
    }

    /// Whether a finished group waits to be looked at, as far as can be told without a system call.
    pub fn is_finished(&self) -> bool {
        let told = match &self.writer {
            Writer::Submit(_) => false,
            Writer::Thread { from, .. } => !from.is_empty(),
        };
        told || self.flushed.is_some()
    }

    /// Ends as a killed process does: nothing more is written or synced.
    pub fn abandon(self) {
        match self.writer {
            Writer::Submit(log) => drop(log),
            Writer::Thread { to, thread, abandoned, .. } => {
                abandoned.store(true, Ordering::Relaxed);
                drop(to);
                let _panicked = thread.map(JoinHandle::join);
            }
        }
    }

    /// Waits until everything accepted is durable. Not for the way of a write: an election, a synchronisation and the
    /// end may wait for the disk.
    pub fn flush(&mut self) {
        let wait = std::mem::take(&mut self.group_wait);
        while self.failed.is_none() && !self.is_idle() {
            self.kick();
            let finished = match &mut self.writer {
                Writer::Submit(log) => log.wait(),
                Writer::Thread { from, .. } => from.recv().ok(),
            };
            let flight = self.in_flight.take();
            match (finished, flight) {
                (Some((group, Ok(_))), Some(flight)) => {
                    self.spare.push(group);
                    self.booked(&flight);
                }
                (Some((_, Err(e))), _) => self.failed = Some(e),
                _ => self.failed = Some(writer_gone()),
            }
        }
        self.group_wait = wait;
        self.opened = None;
        self.flushed = Some(self.last);
    }

    /// The epochs are durable only when all before them is, and nothing behind them may be durable earlier.
    fn write_epochs(&mut self, ticket: Ticket, epochs: Epochs) {
        self.flush();
        if self.failed.is_some() {
            return;
        }
        let text = format!("{} {}\n", epochs.accepted, epochs.current);
        match self.epochs.replace(text.as_bytes()) {
            Ok(()) => {
                self.last = ticket;
                self.flushed = Some(ticket);
                self.epoch_tickets.note(ticket);
            }
            Err(e) => self.failed = Some(e),
        }
    }

    /// Makes everything durable and ends the log cleanly.
    pub fn close(mut self) -> Result<(), WalError> {
        self.flush();
        if let Some(e) = self.failed.take() {
            return Err(e);
        }
        match self.writer {
            Writer::Submit(log) => log.close(),
            Writer::Thread { to, thread, .. } => {
                drop(to);
                if let Some(t) = thread {
                    let _panicked = t.join();
                }
                Ok(())
            }
        }
    }
}

impl Persistence for Journal {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        if self.failed.is_some() {
            return;
        }
        let mark;
        let txn = match what {
            Persist::Append(txn) => txn,
            Persist::Mark(m) => {
                mark = m.encode();
                &mark[..]
            }
            Persist::Epochs(epochs) => return self.write_epochs(ticket, epochs),
        };
        match self.filling.push_slice(txn) {
            Ok(()) => {
                self.last = ticket;
                if !self.group_wait.is_zero() && self.opened.is_none() {
                    self.opened = Some(Instant::now());
                }
                self.stats.bytes += txn.len() as u64;
            }
            Err(e) => self.failed = Some(e),
        }
    }
}

/// The thread that writes the log has ended without a word: it panicked.
fn writer_gone() -> WalError {
    let source = std::io::Error::other("the thread that writes the log has panicked; report it");
    WalError::Poisoned { stage: wal::Stage::Write, source: Arc::new(source) }
}

fn spawn(mut log: Log, wake: Arc<dyn Wake>) -> std::io::Result<Writer> {
    let (to, groups) = bounded::<Group>(1);
    let (done, from) = bounded::<Finished>(1);
    let abandoned = Arc::new(AtomicBool::new(false));
    let left = abandoned.clone();
    let thread = std::thread::Builder::new().name("wal".into()).spawn(move || {
        for mut group in groups {
            let result = log.write(&mut group);
            let failed = result.is_err();
            let heard = done.send((group, result)).is_ok();
            wake.wake();
            if failed || !heard {
                return;
            }
        }
        if !left.load(Ordering::Relaxed)
            && let Err(e) = log.close()
        {
            tracing::warn!("the log's closing mark could not be written: {e}");
        }
    })?;
    Ok(Writer::Thread { to, from, abandoned, thread: Some(thread) })
}
