//! The way of a member's decisions to its log, in virtual time: what `net::server::journal` does, step by step.
//!
//! Invariants, as there: groups are written one after the other, in ticket order; a ticket is reported when the group
//! that holds it is durable; epochs are written when all before them is durable. [`Breach`] breaks them on purpose.

use crate::dice::Dice;
use crate::plan::Breach;
use crate::truth::Truth;
use engine::ids::Ticket;
use engine::zab::{Epochs, Mark, Persist};
use std::collections::VecDeque;
use wal::testing::FaultyDisk;
use wal::{Group, Log, Position, Reader, SmallFile, WalError};

const GROUP_BYTES: usize = 1 << 20;

struct Flight {
    group: Group,
    last: Ticket,
    done_at_us: u64,
}

/// See the module.
pub struct Journal {
    log: Log,
    disk: FaultyDisk,
    reader: Reader,
    filling: Group,
    /// The last ticket in `filling`.
    last: Ticket,
    flight: Option<Flight>,
    flushed: Option<Ticket>,
    early: Option<Ticket>,
    epochs: SmallFile,
    start: Position,
    epoch_tickets: VecDeque<Ticket>,
    pub failed: Option<WalError>,
    pub truth: Truth,
    pub bytes: u64,
    dice: Dice,
    sync_us: u64,
    /// Virtual time for which flushes have kept the core from everything else.
    pub stalled_us: u64,
    breach: Breach,
    /// [`Breach::TwoWriters`]: a mark that waits for what follows it.
    late_mark: Option<Vec<u8>>,
}

impl Journal {
    pub fn new(
        log: Log,
        epochs: SmallFile,
        truth: Truth,
        (disk, mut dice, sync_us): (FaultyDisk, Dice, u64),
        breach: Breach,
    ) -> Journal {
        let (reader, start) = (log.reader(), log.next_position());
        Journal {
            log,
            disk,
            reader,
            filling: Group::new(GROUP_BYTES),
            last: Ticket(0),
            flight: None,
            flushed: None,
            early: None,
            epochs,
            start,
            epoch_tickets: VecDeque::new(),
            failed: None,
            truth,
            bytes: 0,
            dice: dice.fork(),
            sync_us,
            stalled_us: 0,
            breach,
            late_mark: None,
        }
    }

    pub fn reader(&self) -> &Reader {
        &self.reader
    }
    pub fn has_room(&self) -> bool {
        !self.filling.is_full()
    }
    /// When a group that is being written is finished.
    pub fn done_at_us(&self) -> Option<u64> {
        if self.flushed.is_some() || self.early.is_some() {
            return Some(0);
        }
        self.flight.as_ref().map(|f| f.done_at_us)
    }
    pub fn position_behind(&self, ticket: Ticket) -> Position {
        let epochs = self.epoch_tickets.partition_point(|t| *t <= ticket) as u64;
        Position(self.start.0 + ticket.0 - epochs)
    }

    /// Starts to write the open group.
    pub fn kick(&mut self, now_us: u64) {
        if self.flight.is_some() || self.filling.is_empty() || self.failed.is_some() {
            return;
        }
        let group = std::mem::replace(&mut self.filling, Group::new(GROUP_BYTES));
        let done_at_us = now_us + self.dice.delay_us(self.sync_us);
        self.flight = Some(Flight { group, last: self.last, done_at_us });
        if self.breach == Breach::EarlyTickets {
            self.early = Some(self.last);
        }
    }

    fn write(&mut self, mut group: Group, last: Ticket) -> bool {
        if let Err(e) = self.log.write(&mut group) {
            self.failed = Some(e);
            return false;
        }
        self.truth.durable = self.truth.durable.max(last);
        // Room for the next segment: what it lacks shows when it is needed.
        while self.log.housekeep().unwrap_or(false) {}
        true
    }

    /// The ticket up to which everything is durable by now, if that has moved.
    pub fn poll(&mut self, now_us: u64) -> Option<Ticket> {
        if let Some(ticket) = self.early.take().or(self.flushed.take()).filter(|_| self.failed.is_none()) {
            return Some(ticket);
        }
        let flight = self.flight.take_if(|f| f.done_at_us <= now_us)?;
        let done = self.write(flight.group, flight.last).then_some(flight.last);
        self.kick(now_us);
        done
    }

    /// Makes everything durable at once.
    pub fn flush(&mut self) {
        if let Some(f) = self.flight.take() {
            self.stalled_us += self.dice.delay_us(self.sync_us);
            if self.failed.is_none() {
                self.write(f.group, f.last);
            }
        }
        if self.failed.is_none() && !self.filling.is_empty() {
            self.stalled_us += self.dice.delay_us(self.sync_us);
            let group = std::mem::replace(&mut self.filling, Group::new(GROUP_BYTES));
            let last = self.last;
            self.write(group, last);
        }
        if self.failed.is_none() {
            self.flushed = Some(self.last);
        }
    }

    fn write_epochs(&mut self, ticket: Ticket, epochs: Epochs) {
        self.truth.epochs_asked(ticket, epochs);
        if self.breach != Breach::EpochsFirst {
            self.flush();
        }
        if self.failed.is_some() {
            return;
        }
        self.stalled_us += self.dice.delay_us(self.sync_us);
        match self.epochs.replace(format!("{} {}\n", epochs.accepted, epochs.current).as_bytes()) {
            Ok(()) => {
                self.truth.epochs_written(ticket);
                self.last = ticket;
                self.epoch_tickets.push_back(ticket);
                if self.breach == Breach::EpochsFirst {
                    self.early = Some(ticket);
                } else {
                    self.truth.durable = self.truth.durable.max(ticket);
                    self.flushed = Some(ticket);
                }
            }
            Err(e) => self.failed = Some(e),
        }
    }

    pub fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        assert!(
            ticket.0 == self.last.0 + 1 || self.failed.is_some(),
            "ticket {ticket:?} behind {:?}",
            self.last
        );
        if self.failed.is_some() {
            if let Persist::Append(txn) = what {
                // It may leave for others all the same.
                self.truth.only_said(ticket, txn);
            }
            return;
        }
        let bytes = match what {
            Persist::Append(txn) => {
                self.truth.append(ticket, txn);
                txn.to_vec()
            }
            Persist::Mark(mark) => {
                self.truth.mark(mark);
                if self.breach == Breach::NoTruncateMark && matches!(mark, Mark::Truncate(_)) {
                    // Something that recovery passes over stands in its place.
                    Mark::Truncate(engine::ids::Zxid(u64::MAX >> 1)).encode().to_vec()
                } else {
                    mark.encode().to_vec()
                }
            }
            Persist::Epochs(epochs) => return self.write_epochs(ticket, epochs),
        };
        let bytes = match self.late_mark.take() {
            // The cut stands where the transaction behind it should: they change places.
            Some(mark) => self.filling.push_slice(&bytes).map(|()| mark),
            None if self.breach == Breach::TwoWriters && matches!(what, Persist::Mark(Mark::Truncate(_))) => {
                self.late_mark = Some(bytes);
                self.last = ticket;
                return;
            }
            None => Ok(bytes),
        };
        let pushed = bytes.and_then(|bytes| self.filling.push_slice(&bytes).map(|()| bytes));
        match pushed {
            Ok(bytes) => {
                self.last = ticket;
                self.bytes += bytes.len() as u64;
            }
            Err(e) => self.failed = Some(e),
        }
    }

    /// The process ends here: of a group that is being written anything may have reached the disk.
    pub fn crash(mut self) -> Truth {
        if let Some(mut f) = self.flight.take()
            && self.failed.is_none()
        {
            match self.dice.below(3) {
                0 => {}
                1 => {
                    // All of it, and nobody was told.
                    let _told_to_nobody = self.log.write(&mut f.group);
                }
                _ => {
                    self.disk.fail_power_in(1);
                    let _torn = self.log.write(&mut f.group);
                }
            }
        }
        self.truth.after_a_crash()
    }
}
