//! The housekeeping of segments beside the write path: the next one made ready, the reserve, purging, recycling.
//!
//! Not here: writing groups (`log`), deciding what counts (`recover`).
//! Invariants: a `Prepared` segment's name and header are durable before anyone can take it; the segment that is
//! being written is never purged; segments are purged oldest first; no I/O happens under the lock.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::Position;
use crate::dir::{DataDir, RECYCLE, RESERVE, segment_name, write_block};
use crate::disk::{DiskFile, How, tmp_name};
use crate::error::{During, WalError};
use crate::format::SegmentHeader;
use crate::recover::Kept;

/// After a refusal for lack of space the background looks again this often (or when something was purged).
const SPACE_RETRY: Duration = Duration::from_secs(1);

/// A segment ready to be written.
#[derive(Debug)]
pub(crate) struct Prepared {
    pub incarnation: u64,
    pub file: Arc<dyn DiskFile>,
    pub len: u64,
}

/// Where the file of a new segment comes from.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// A new file of written zeros.
    Fresh,
    /// An existing file of this name and length, whatever it holds.
    Reuse(PathBuf, u64),
}

/// Why a segment could not be made.
pub(crate) enum Failed {
    /// Its number was not used: trying again is allowed.
    Before(WalError),
    /// Its name may exist: a second try could leave a gap that recovery would refuse.
    After(WalError),
}

impl Failed {
    pub fn into_inner(self) -> WalError {
        match self {
            Failed::Before(e) | Failed::After(e) => e,
        }
    }
}

/// Makes a segment under its final name, durably.
pub(crate) fn make_segment(dir: &DataDir, header: &SegmentHeader, from: &Source) -> Result<Prepared, Failed> {
    let path = dir.file(&segment_name(header.incarnation));
    let tmp = tmp_name(&path);
    let disk = dir.disk();
    let planned = header.planned_bytes;
    let before = |doing: &'static str| {
        let tmp = &tmp;
        move |e: std::io::Error| {
            // What is left of it would only take room; if this fails too, the next open removes it.
            let _ = disk.remove(tmp);
            Failed::Before(WalError::from_io(doing, dir.path(), planned, e))
        }
    };
    match from {
        Source::Fresh => disk.create_zeroed(&tmp, planned).map_err(before("make a segment in"))?,
        Source::Reuse(old, _) => {
            disk.rename(old, &tmp).map_err(before("rename a segment in"))?;
            disk.sync_dir(dir.path()).map_err(before("sync the directory"))?;
        }
    }
    let file = disk.open(&tmp, How::Log).map_err(before("open a segment in"))?;
    write_block(&*file, &header.encode(dir.id()), 0).map_err(before("write a segment in"))?;
    // The length of a recycled file may never have been synced; O_DSYNC covers only what it writes.
    file.sync().map_err(before("sync a segment in"))?;
    // A direct write over cached pages must first drop them, which the kernel does not do without blocking.
    file.drop_cache();
    disk.rename(&tmp, &path).during("rename", &path).map_err(Failed::After)?;
    dir.sync().map_err(Failed::After)?;
    let len = match from {
        Source::Fresh => planned,
        Source::Reuse(_, len) => *len,
    };
    Ok(Prepared { incarnation: header.incarnation, file, len })
}

/// What the log and its housekeeping share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub dir: Arc<DataDir>,
    pub segment_bytes: u64,
    /// Records before this are durable.
    durable: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// Segments with durable records (and the seal of this open); ascending, the last is being written.
    live: Vec<Kept>,
    next: Option<Prepared>,
    next_incarnation: u64,
    /// A purged file waits under the name `RECYCLE`.
    recycled: bool,
    reserve: bool,
    purge_below: Position,
    /// Someone works on `next`, outside the lock.
    preparing: bool,
    /// The last attempt to get room failed.
    no_space: bool,
    /// A failure after which no segment may be made.
    failed: Option<WalError>,
    late_rolls: u64,
    stop: bool,
}

/// One piece of work.
enum Chore {
    Prepare,
    Purge(Kept),
    Reserve,
}

impl Shared {
    pub fn new(
        dir: Arc<DataDir>,
        segment_bytes: u64,
        live: Vec<Kept>,
        next: Position,
        newest: u64,
        reserve: bool,
    ) -> Shared {
        let state = State {
            live,
            next: None,
            next_incarnation: newest + 1,
            recycled: false,
            reserve,
            purge_below: Position(0),
            preparing: false,
            no_space: false,
            failed: None,
            late_rolls: 0,
            stop: false,
        };
        Shared {
            dir,
            segment_bytes,
            durable: AtomicU64::new(next.0),
            state: Mutex::new(state),
            changed: Condvar::new(),
        }
    }

    /// A panic under this lock cannot leave the state half changed: there is only assignment under it.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub fn durable(&self) -> Position {
        Position(self.durable.load(Ordering::Acquire))
    }
    pub fn set_durable(&self, p: Position) {
        self.durable.store(p.0, Ordering::Release);
    }
    pub fn live(&self) -> Vec<Kept> {
        self.lock().live.clone()
    }
    /// A new segment has its first durable group: only now may its predecessors be purged on its account.
    pub fn announce(&self, segment: Kept) {
        self.lock().live.push(segment);
        self.changed.notify_all();
    }
    pub fn purge(&self, keep_from: Position) {
        let mut st = self.lock();
        st.purge_below = st.purge_below.max(keep_from);
        self.changed.notify_all();
    }
    pub fn low_on_space(&self) -> bool {
        self.lock().no_space
    }
    pub fn late_rolls(&self) -> u64 {
        self.lock().late_rolls
    }

    /// The next segment; makes it here and now if the background has not.
    pub fn take_next(&self) -> Result<Prepared, WalError> {
        let mut st = self.lock();
        loop {
            if let Some(p) = st.next.take() {
                self.changed.notify_all();
                return Ok(p);
            }
            if let Some(e) = &st.failed {
                return Err(e.clone());
            }
            if st.preparing {
                st = self.changed.wait(st).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            st.late_rolls += 1;
            st.preparing = true;
            drop(st);
            self.prepare()?;
            st = self.lock();
        }
    }

    /// Makes the next segment. The caller has set `preparing`.
    fn prepare(&self) -> Result<(), WalError> {
        let mut st = self.lock();
        let incarnation = st.next_incarnation;
        st.next_incarnation += 1;
        let recycled = std::mem::take(&mut st.recycled);
        drop(st);
        let header = SegmentHeader {
            incarnation,
            planned_bytes: self.segment_bytes,
            durable_before: self.durable(),
            seal: None,
        };
        let from = match recycled {
            true => Source::Reuse(self.dir.file(RECYCLE), self.segment_bytes),
            false => Source::Fresh,
        };
        let made = make_segment(&self.dir, &header, &from);
        let mut st = self.lock();
        st.preparing = false;
        self.changed.notify_all();
        match made {
            Ok(p) => {
                st.next = Some(p);
                st.no_space = false;
                Ok(())
            }
            Err(e) => {
                if let Failed::After(e) = &e {
                    st.failed = Some(e.clone());
                }
                let e = e.into_inner();
                st.no_space |= matches!(e, WalError::NoSpace { .. });
                Err(e)
            }
        }
    }

    fn due(&self, st: &mut State) -> Option<Chore> {
        if let [oldest, successor, ..] = st.live[..]
            && successor.first <= st.purge_below
        {
            st.live.remove(0);
            return Some(Chore::Purge(oldest));
        }
        if st.next.is_none() && !st.preparing && st.failed.is_none() {
            st.preparing = true;
            return Some(Chore::Prepare);
        }
        (!st.reserve && st.next.is_some()).then_some(Chore::Reserve)
    }

    fn run(&self, chore: Chore) -> Result<(), WalError> {
        match chore {
            Chore::Prepare => self.prepare(),
            Chore::Purge(oldest) => self.purge_one(oldest),
            Chore::Reserve => self.make_reserve(),
        }
    }

    /// Does one piece of housekeeping, if any is due. `Ok(false)`: nothing to do.
    pub fn work_once(&self) -> Result<bool, WalError> {
        let chore = self.due(&mut self.lock());
        chore.map_or(Ok(false), |c| self.run(c).map(|()| true))
    }

    fn purge_one(&self, oldest: Kept) -> Result<(), WalError> {
        let path = self.dir.file(&segment_name(oldest.incarnation));
        let disk = self.dir.disk();
        let len = disk.open(&path, How::Read).and_then(|f| f.len()).during("open", &path)?;
        let recycle = len == self.segment_bytes && !self.lock().recycled;
        if recycle {
            disk.rename(&path, &self.dir.file(RECYCLE)).during("rename", &path)?;
        } else {
            disk.remove(&path).during("remove", &path)?;
        }
        // One at a time, so that no crash removes a younger segment before an older one.
        self.dir.sync()?;
        let mut st = self.lock();
        st.recycled |= recycle;
        st.no_space = false;
        Ok(())
    }

    fn make_reserve(&self) -> Result<(), WalError> {
        let path = self.dir.file(RESERVE);
        let tmp = tmp_name(&path);
        let disk = self.dir.disk();
        let recycled = std::mem::take(&mut self.lock().recycled);
        let made = if recycled {
            disk.rename(&self.dir.file(RECYCLE), &path)
        } else {
            disk.create_zeroed(&tmp, self.segment_bytes).and_then(|()| disk.rename(&tmp, &path))
        };
        let made = made
            .map_err(|e| {
                let _ = disk.remove(&tmp);
                WalError::from_io("make the reserve in", self.dir.path(), self.segment_bytes, e)
            })
            .and_then(|()| self.dir.sync());
        let mut st = self.lock();
        st.reserve = made.is_ok();
        st.no_space |= matches!(made, Err(WalError::NoSpace { .. }));
        made
    }

    /// Works until `stop`. The body of the background thread.
    pub fn work(&self) {
        let mut st = self.lock();
        loop {
            if st.stop {
                return;
            }
            let chore = self.due(&mut st);
            let Some(chore) = chore else {
                st = self.changed.wait(st).unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(st);
            let failed = self.run(chore).is_err();
            st = self.lock();
            if failed && !st.stop {
                // The write path meets the same error when it needs the segment, and reports it.
                let r = self.changed.wait_timeout(st, SPACE_RETRY);
                st = r.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }
}
