//! The log: open (recover, seal), write groups, roll, poison.
//!
//! Not here: the decision table (`recover`), the next segment (`keeper`), reading (`reader`).
//! Invariants: one group is in flight at a time; a position is reported only when everything before it is durable; a
//! block with durable records is never written again; after a failed write every call refuses.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::dir::{DataDir, RESERVE, segment_name};
use crate::disk::{DiskFile, How};
use crate::error::{During, Stage, WalError};
use crate::format::{BLOCK_BYTES, Seal, SegmentHeader};
use crate::group::{Group, Place};
use crate::keeper::{Failed, Prepared, Shared, Source, make_segment};
use crate::reader::Reader;
use crate::recover::{Kept, Scan, Segments, Tail};
use crate::uring::Uring;
use crate::{Position, SEGMENT_BYTES_DEFAULT};

/// Smallest segment: a header and a few groups.
const SEGMENT_BYTES_MIN: u64 = 4 * BLOCK_BYTES as u64;
const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a log is opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Length of a segment in bytes; default 64 MiB, range 16 KiB ..= 1 GiB, rounded up to 4096 (values outside are
    /// moved inside). A directory takes three of them: current, next, reserve. Small ones roll more often.
    pub segment_bytes: u64,
    /// The position of the snapshot that was loaded; 0 without one. The log is verified from there on; a log that
    /// does not cover it is refused.
    pub replay_from: Position,
    /// Whether the log runs a thread of its own that prepares segments and purges. Without it the caller calls
    /// `Log::housekeep` (a simulation in one thread does); a roll that finds nothing prepared does it itself.
    pub background: bool,
    /// [`Log::open_of`] refuses a log with records which its data directory does not name: that directory is a new one, and
    /// what stood in the old one is lost.
    pub named: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            segment_bytes: SEGMENT_BYTES_DEFAULT,
            replay_from: Position(0),
            background: true,
            named: false,
        }
    }
}

/// What an open found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecoveryReport {
    /// The oldest record that can be read.
    pub oldest: Position,
    /// The position of the next record to be written: everything before it is durable.
    pub next: Position,
    /// What lay behind the last group that counts.
    pub tail: Tail,
    /// Segment files that counted.
    pub segments: usize,
}

/// Counters since the open.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Groups written, marks not included.
    pub groups: u64,
    /// Records written.
    pub records: u64,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
    /// Changes of segment.
    pub rolls: u64,
    /// Rolls that had to make their segment on the write path.
    pub late_rolls: u64,
}

/// The log of one directory. One thread writes; `Reader`s read beside it.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    current: Prepared,
    /// Where the next group goes in the current segment.
    offset: u64,
    /// Whether the current segment is known to `shared` (it has a durable group, or is a seal).
    announced: bool,
    next: Position,
    /// Whether the last group written was a mark.
    marked: bool,
    poisoned: Option<(Stage, Arc<io::Error>)>,
    worker: Option<JoinHandle<()>>,
    uring: Option<Uring>,
    in_flight: Option<Place>,
    stats: Stats,
}

impl Log {
    /// Recovers the log of `dir` (or begins one) and seals what was found. Before this returns, what it kept and
    /// what it cut are durable.
    ///
    /// # Errors
    /// `Corrupt` (refused, nothing changed), `NoSpace`, `Denied`, `Io`.
    pub fn open(dir: &Arc<DataDir>, options: Options) -> Result<(Log, RecoveryReport), WalError> {
        dir.sync()?;
        let mut segments = Segments::load(&**dir.disk(), dir.path(), dir.id())?;
        segments.settle()?;
        let scan = segments.walk(options.replay_from)?;
        if scan.next < options.replay_from {
            let what =
                format!("the log ends before record {}, where the snapshot begins", options.replay_from);
            return Err(WalError::corrupt(dir.path(), 0, scan.next, what));
        }
        let segment_bytes = options
            .segment_bytes
            .clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
            .next_multiple_of(BLOCK_BYTES as u64);
        let current = seal(dir, &scan, segment_bytes)?;
        tidy(dir, &scan)?;
        let mut live = scan.kept.clone();
        live.push(Kept { incarnation: current.incarnation, first: scan.next });
        let report = RecoveryReport {
            oldest: live[0].first,
            next: scan.next,
            tail: scan.tail,
            segments: scan.kept.len(),
        };
        let reserve = dir.file(RESERVE);
        let reserve =
            dir.disk().open(&reserve, How::Read).and_then(|f| f.len()).is_ok_and(|n| n >= segment_bytes);
        let newest = current.incarnation;
        let shared = Arc::new(Shared::new(dir.clone(), segment_bytes, live, scan.next, newest, reserve));
        let worker = match options.background {
            true => Some(spawn(&shared)?),
            false => None,
        };
        let log = Log {
            shared,
            current,
            offset: BLOCK_BYTES as u64,
            announced: true,
            next: scan.next,
            marked: true,
            poisoned: None,
            worker,
            uring: None,
            in_flight: None,
            stats: Stats::default(),
        };
        Ok((log, report))
    }

    /// Calls `each` with every durable record from `from` on; returns the position behind the last.
    ///
    /// # Errors
    /// As `Reader::read`.
    pub fn replay<E: From<WalError>>(
        &self,
        from: Position,
        each: impl FnMut(Position, &[u8]) -> Result<(), E>,
    ) -> Result<Position, E> {
        self.reader().read(from, self.next, each)
    }
    /// Reads beside the writer, from any thread.
    pub fn reader(&self) -> Reader {
        Reader { shared: self.shared.clone() }
    }
    /// The position of the next record to be written. Everything before it is durable, or in flight.
    pub fn next_position(&self) -> Position {
        self.next
    }
    /// Everything before this is durable.
    pub fn durable(&self) -> Position {
        self.shared.durable()
    }
    /// Counters since the open.
    pub fn stats(&self) -> Stats {
        Stats { late_rolls: self.shared.late_rolls(), ..self.stats }
    }
    /// Whether the room for the segment after this one could not be had. Writing goes on until the current segment
    /// is full, then `NoSpace`; so this is the moment to warn, to purge, or to stop leading.
    pub fn low_on_space(&self) -> bool {
        self.reader().low_on_space()
    }

    /// Writes all records of `group` and returns when they are durable: the position behind the last. The group is
    /// empty then and can be filled again. An empty group does nothing.
    ///
    /// # Errors
    /// `NoSpace`, and whatever prevented the next segment: nothing was written, the group is as before, a retry is
    /// allowed. `Poisoned`: its fate is unknown, and so it stays until the next open.
    pub fn write(&mut self, group: &mut Group) -> Result<Position, WalError> {
        self.refuse()?;
        match group.is_empty() {
            true => Ok(self.next),
            false => self.write_any(group),
        }
    }

    /// Writes down that everything so far was durable, if no group has said so yet: then rot in the last group is
    /// told from a torn tail. Worth calling when the log falls idle; costs one block and one sync.
    ///
    /// # Errors
    /// As `write`.
    pub fn mark(&mut self) -> Result<(), WalError> {
        self.refuse()?;
        if self.marked {
            return Ok(());
        }
        self.write_any(&mut Group::new(0)).map(|_| ())
    }

    /// Ends cleanly: waits for a group in flight, a mark, and the end of the background thread.
    ///
    /// # Errors
    /// As `write`.
    pub fn close(mut self) -> Result<(), WalError> {
        if let Some((_, r)) = self.wait() {
            r?;
        }
        self.mark()
    }

    /// Lets go of records before `keep_from` (whole segments, in the background). Give the position of the oldest
    /// snapshot that is kept.
    pub fn purge(&self, keep_from: Position) {
        self.reader().purge(keep_from);
    }
    /// Does one piece of housekeeping that is due (next segment, purge, reserve); `Ok(false)` if there is none. For
    /// logs opened without the background thread.
    ///
    /// # Errors
    /// `NoSpace`, `Denied`, `Io`: nothing acknowledged is at risk.
    pub fn housekeep(&self) -> Result<bool, WalError> {
        self.shared.work_once()
    }

    /// Sets up writing without blocking: the descriptor becomes readable anew each time the group in flight is finished.
    /// Watch it edge-triggered: it may stay readable for a while. `None` where io_uring or direct I/O is refused: use `write` on a thread of its own then.
    pub fn enable_submit(&mut self) -> Option<BorrowedFd<'_>> {
        self.current.file.direct_fd()?;
        if self.uring.is_none() {
            self.uring = Uring::probe();
        }
        self.completion_fd()
    }
    /// The descriptor that `enable_submit` returned.
    pub fn completion_fd(&self) -> Option<BorrowedFd<'_>> {
        self.uring.as_ref()?.event_fd()
    }
    /// Whether a submitted group is not completed yet.
    pub fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// Starts writing `group` and returns. One group may be in flight. Without `enable_submit`, and where the disk
    /// turned out not to take direct writes, the group is written before this returns; `complete` reports it all the
    /// same. An empty group is a mark.
    ///
    /// # Errors
    /// As `write`, with the group given back.
    ///
    /// # Panics
    /// If a group is in flight (so do `write` and `mark`): only one may be.
    pub fn submit(&mut self, mut group: Group) -> Result<(), (Group, WalError)> {
        if let Err(e) = self.refuse() {
            return Err((group, e));
        }
        assert!(self.in_flight.is_none(), "one group is in flight at a time");
        let place = match self.place(&group) {
            Ok(p) => p,
            Err(e) => return Err((group, e)),
        };
        group.encode(place);
        self.next = Position(self.next.0 + u64::from(group.records()));
        self.in_flight = Some(place);
        match &mut self.uring {
            Some(u) => u.submit(self.current.file.clone(), group, place.offset),
            None => {
                self.uring.insert(Uring::blocking()).submit(self.current.file.clone(), group, place.offset)
            }
        }
        Ok(())
    }

    /// The group in flight, if it is finished: emptied, and the position up to which the log is durable. Never
    /// blocks.
    pub fn complete(&mut self) -> Option<(Group, Result<Position, WalError>)> {
        self.take_finished(false)
    }
    /// As `complete`, but waits for the group in flight; `None` if there is none.
    pub fn wait(&mut self) -> Option<(Group, Result<Position, WalError>)> {
        self.take_finished(true)
    }

    fn take_finished(&mut self, wait: bool) -> Option<(Group, Result<Position, WalError>)> {
        let place = self.in_flight?;
        let (mut group, result) = self.uring.as_mut()?.take(wait)?;
        self.in_flight = None;
        let (records, bytes) = (group.records(), group.padded_bytes());
        let r = self.written(place, records, bytes, result);
        if r.is_ok() {
            group.clear();
        }
        Some((group, r))
    }

    fn refuse(&self) -> Result<(), WalError> {
        match &self.poisoned {
            None => Ok(()),
            Some((stage, source)) => Err(WalError::Poisoned { stage: *stage, source: source.clone() }),
        }
    }

    fn write_any(&mut self, group: &mut Group) -> Result<Position, WalError> {
        assert!(self.in_flight.is_none(), "one group is in flight at a time");
        let place = self.place(group)?;
        let (records, bytes) = (group.records(), group.padded_bytes());
        let result = self.current.file.write_at(group.encode(place), place.offset);
        self.next = Position(self.next.0 + u64::from(records));
        let r = self.written(place, records, bytes, result);
        if r.is_ok() {
            group.clear();
        }
        r
    }

    /// Where `group` goes; rolls if it does not fit. Changes nothing that a retry would not want changed.
    fn place(&mut self, group: &Group) -> Result<Place, WalError> {
        let bytes = group.padded_bytes();
        let empty = BLOCK_BYTES as u64;
        if self.offset + bytes > self.current.len && self.offset > empty {
            self.current = self.shared.take_next()?;
            self.offset = empty;
            self.announced = false;
            self.stats.rolls += 1;
        }
        if self.offset + bytes > self.current.len {
            let len = self.offset + bytes;
            let dir = self.shared.dir.path();
            let room = self.current.file.preallocate(len);
            room.map_err(|e| WalError::from_io("extend a segment in", dir, bytes, e))?;
            self.current.len = len;
        }
        Ok(Place {
            dir_id: self.shared.dir.id(),
            incarnation: self.current.incarnation,
            first: self.next,
            durable_before: self.shared.durable(),
            offset: self.offset,
        })
    }

    fn written(
        &mut self,
        place: Place,
        records: u32,
        bytes: u64,
        result: io::Result<()>,
    ) -> Result<Position, WalError> {
        if let Err(e) = result {
            self.poisoned = Some((Stage::Write, Arc::new(e)));
            self.refuse()?;
        }
        self.offset += bytes;
        self.marked = records == 0;
        // Announced first: a reader that sees the position must find the segment.
        if !self.announced {
            self.shared.announce(Kept { incarnation: place.incarnation, first: place.first });
            self.announced = true;
        }
        self.shared.set_durable(self.next);
        self.stats.groups += u64::from(records > 0);
        self.stats.records += u64::from(records);
        self.stats.bytes += bytes;
        Ok(self.next)
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        // Nothing to do for data: what is durable stays, what is in flight was not acknowledged (`Uring` waits for
        // the kernel to let go of the buffer).
        self.shared.stop();
        if let Some(w) = self.worker.take() {
            // A panic of the worker has been reported by its hook, and lost nothing.
            let _ = w.join();
        }
    }
}

fn spawn(shared: &Arc<Shared>) -> Result<JoinHandle<()>, WalError> {
    let s = shared.clone();
    let thread = std::thread::Builder::new().name("wal-keeper".into());
    thread.spawn(move || s.work()).during("start the housekeeping thread for", shared.dir.path())
}

/// Begins the segment that says where the log ends, in a void file of the right length, a new one, or the reserve.
fn seal(dir: &Arc<DataDir>, scan: &Scan, segment_bytes: u64) -> Result<Prepared, WalError> {
    let (cut_segment, cut_offset) = scan.cut;
    let header = SegmentHeader {
        incarnation: scan.newest + 1,
        planned_bytes: segment_bytes,
        durable_before: scan.next,
        seal: Some(Seal { first: scan.next, cut_segment, cut_offset }),
    };
    let length = |name: &str| dir.disk().open(&dir.file(name), How::Read).and_then(|f| f.len()).ok();
    // A void file holds nothing that counts, so it may be used up before the seal is durable.
    let mut void = scan.void.iter().filter(|v| !v.is_seal).map(|v| segment_name(v.incarnation));
    let from = match void.find(|name| length(name) == Some(segment_bytes)) {
        Some(name) => Source::Reuse(dir.file(&name), segment_bytes),
        None => Source::Fresh,
    };
    let made = match make_segment(dir, &header, &from) {
        Err(Failed::Before(WalError::NoSpace { .. }))
            if length(RESERVE).is_some_and(|n| n >= SEGMENT_BYTES_MIN) =>
        {
            let len = length(RESERVE).unwrap_or(SEGMENT_BYTES_MIN);
            make_segment(dir, &header, &Source::Reuse(dir.file(RESERVE), len))
        }
        made => made,
    };
    made.map_err(Failed::into_inner)
}

/// Removes what the seal made void, durably: once the seal is purged, nothing would say that it is void.
fn tidy(dir: &Arc<DataDir>, scan: &Scan) -> Result<(), WalError> {
    let disk = dir.disk();
    for v in &scan.void {
        let path = dir.file(&segment_name(v.incarnation));
        match disk.remove(&path) {
            // Used up for the seal.
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            r => r.during("remove", &path)?,
        }
    }
    if !scan.void.is_empty() {
        dir.sync()?;
    }
    let (segment, offset) = scan.cut;
    if segment != 0
        && let Ok(f) = disk.open(&dir.file(&segment_name(segment)), How::Read)
        && f.len().is_ok_and(|len| len > offset)
    {
        // Only room is at stake.
        let _ = f.set_len(offset);
    }
    Ok(())
}

/// Keeps `DiskFile` in the public face of `submit` honest: a file can be handed to another thread.
const _: fn() = || {
    fn is_send<T: Send>() {}
    is_send::<Log>();
    is_send::<Group>();
    is_send::<Arc<dyn DiskFile>>();
};
