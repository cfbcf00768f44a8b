//! A disk in memory that fails as real ones do. For tests, of this crate and of others.
//!
//! It keeps what a running system would see apart from what stable storage holds. A power cut forgets the former and
//! lets any chosen part of the unsynced sectors and names through. It tears writes, runs full, fails writes and syncs
//! (a failed sync forgets the dirty sectors, as Linux does), and rots.
//!
//! Invariant: everything it does follows from the calls made and the seed; it never reads a clock.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::disk::{Disk, DiskFile, How, Lock};

/// What a disk writes as a whole, in bytes.
const SECTOR_BYTES: usize = 512;

/// A small generator (splitmix64): one seed is the whole run.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The run of `seed`.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }
    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// A number below `n`, which is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next_u64() % n
    }
    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What a disk did so far, by kind. Each counts from 1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Any call that changes something: the points at which power can fail.
    Any,
    /// A write of bytes.
    Write,
    /// A sync of a file.
    Sync,
}

/// The disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct FaultyDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    rng: Rng,
    files: Vec<Contents>,
    /// Names as a running system sees them, and as stable storage has them.
    names: BTreeMap<PathBuf, usize>,
    stable_names: BTreeMap<PathBuf, usize>,
    /// Changes of names not synced yet, in order.
    unsynced_names: Vec<NameOp>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    ops: [u64; 3],
    power_fails_at: Option<u64>,
    fail_write_at: Option<u64>,
    fail_sync_at: Option<u64>,
    off: bool,
    /// Raised at each power cut: handles of an older life are dead.
    life: u64,
    capacity_bytes: u64,
}

#[derive(Clone, Debug)]
struct NameOp {
    dir: PathBuf,
    what: NameChange,
}
#[derive(Clone, Debug)]
enum NameChange {
    Link(PathBuf, usize),
    Unlink(PathBuf),
    Rename(PathBuf, PathBuf),
}

#[derive(Debug, Default)]
struct Contents {
    seen: Vec<u8>,
    stable: Vec<u8>,
    /// Not synced yet, in order, at most a sector each; or a new length.
    unsynced: Vec<Unsynced>,
}
#[derive(Clone, Debug)]
enum Unsynced {
    Bytes(usize, Vec<u8>),
    Length(usize),
    /// At least this length.
    Room(usize),
}

fn overlay(to: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    if to.len() < at + bytes.len() {
        to.resize(at + bytes.len(), 0);
    }
    to[at..at + bytes.len()].copy_from_slice(bytes);
}

impl Contents {
    fn apply(to: &mut Vec<u8>, u: &Unsynced) {
        match u {
            Unsynced::Bytes(at, bytes) => overlay(to, *at, bytes),
            Unsynced::Length(n) => to.resize(*n, 0),
            Unsynced::Room(n) => to.resize(to.len().max(*n), 0),
        }
    }
    fn write(&mut self, at: usize, bytes: &[u8]) {
        overlay(&mut self.seen, at, bytes);
        let mut from = 0;
        while from < bytes.len() {
            let room = SECTOR_BYTES - (at + from) % SECTOR_BYTES;
            let to = bytes.len().min(from + room);
            self.unsynced.push(Unsynced::Bytes(at + from, bytes[from..to].to_vec()));
            from = to;
        }
    }
    fn sync(&mut self) {
        for u in std::mem::take(&mut self.unsynced) {
            Contents::apply(&mut self.stable, &u);
        }
    }
    /// Makes the last `n` unsynced sectors (a write that is durable on return) stable, and only them.
    fn sync_last(&mut self, n: usize) {
        for u in self.unsynced.split_off(self.unsynced.len() - n) {
            Contents::apply(&mut self.stable, &u);
        }
    }
}

fn off() -> io::Error {
    io::Error::other("the power is off")
}
fn not_found() -> io::Error {
    io::ErrorKind::NotFound.into()
}
fn eio() -> io::Error {
    // EIO, as Linux numbers it.
    io::Error::from_raw_os_error(5)
}

fn change(names: &mut BTreeMap<PathBuf, usize>, op: &NameChange) {
    match op {
        NameChange::Link(p, n) => {
            names.insert(p.clone(), *n);
        }
        NameChange::Unlink(p) => {
            names.remove(p);
        }
        NameChange::Rename(from, to) => {
            if let Some(n) = names.remove(from) {
                names.insert(to.clone(), n);
            }
        }
    }
}

impl Inner {
    /// Counts a change; the second value says that power fails in the middle of it.
    fn step(&mut self, life: u64) -> io::Result<bool> {
        if self.off || life != self.life {
            return Err(off());
        }
        self.ops[0] += 1;
        let fails = self.power_fails_at.is_some_and(|at| self.ops[0] >= at);
        self.off |= fails;
        Ok(fails)
    }
    /// Frees the contents of files that no name leads to any more.
    fn forget_unnamed(&mut self) {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        for (n, f) in self.files.iter_mut().enumerate() {
            if !named.contains(&n) {
                *f = Contents::default();
            }
        }
    }
    fn clear_faults(&mut self) {
        (self.power_fails_at, self.fail_write_at, self.fail_sync_at) = (None, None, None);
    }
    fn rename_step(&mut self, path: &Path, what: NameChange) -> io::Result<()> {
        let life = self.life;
        let fails = self.step(life)?;
        change(&mut self.names, &what);
        let dir = path.parent().unwrap_or(Path::new("")).to_path_buf();
        self.unsynced_names.push(NameOp { dir, what });
        if fails { Err(off()) } else { Ok(()) }
    }
    fn used_bytes(&self) -> u64 {
        let named: BTreeSet<usize> = self.names.values().copied().collect();
        named.iter().map(|&n| self.files[n].seen.len() as u64).sum()
    }
    fn room(&self, file: usize, len: usize) -> io::Result<()> {
        let more = len.saturating_sub(self.files[file].seen.len()) as u64;
        match more > 0 && self.used_bytes() + more > self.capacity_bytes {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

impl FaultyDisk {
    /// An empty disk without faults. `seed` decides ids, torn sectors and random power cuts.
    pub fn new(seed: u64) -> FaultyDisk {
        let inner = Inner {
            rng: Rng::new(seed),
            files: Vec::new(),
            names: BTreeMap::new(),
            stable_names: BTreeMap::new(),
            unsynced_names: Vec::new(),
            dirs: BTreeSet::new(),
            locked: BTreeSet::new(),
            ops: [0; 3],
            power_fails_at: None,
            fail_write_at: None,
            fail_sync_at: None,
            off: false,
            life: 0,
            capacity_bytes: u64::MAX,
        };
        FaultyDisk { inner: Arc::new(Mutex::new(inner)) }
    }
    fn lock_inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many operations of this kind were done so far.
    pub fn count(&self, op: Op) -> u64 {
        self.lock_inner().ops[op as usize]
    }
    /// Power fails in the middle of the `n`th changing operation from now (1: the next one).
    pub fn fail_power_in(&self, n: u64) {
        let mut i = self.lock_inner();
        i.power_fails_at = Some(i.ops[0] + n);
    }
    /// The `n`th write from now fails with EIO; half of its sectors may be there.
    pub fn fail_write_in(&self, n: u64) {
        let mut i = self.lock_inner();
        i.fail_write_at = Some(i.ops[Op::Write as usize] + n);
    }
    /// The `n`th sync from now fails with EIO, and forgets that the sectors were dirty.
    pub fn fail_sync_in(&self, n: u64) {
        let mut i = self.lock_inner();
        i.fail_sync_at = Some(i.ops[Op::Sync as usize] + n);
    }
    /// All files together may take this many bytes.
    pub fn set_capacity(&self, bytes: u64) {
        self.lock_inner().capacity_bytes = bytes;
    }
    /// Whether power has failed.
    pub fn is_off(&self) -> bool {
        self.lock_inner().off
    }
    /// Number of unsynced sectors and lengths, and of unsynced changes of names: what a power cut decides over.
    pub fn unsynced(&self) -> (usize, usize) {
        let i = self.lock_inner();
        (i.files.iter().map(|f| f.unsynced.len()).sum(), i.unsynced_names.len())
    }
    /// Cuts the power and starts anew. Of the unsynced sectors those survive for which `survives` says so (they are
    /// numbered from 0, oldest first within a file); of the unsynced changes of names the first `names`.
    pub fn power_cut(&self, mut survives: impl FnMut(usize) -> bool, names: usize) {
        let mut i = self.lock_inner();
        let mut n = 0;
        for f in &mut i.files {
            for u in std::mem::take(&mut f.unsynced) {
                if survives(n) {
                    Contents::apply(&mut f.stable, &u);
                }
                n += 1;
            }
            f.seen = f.stable.clone();
        }
        let mut stable = std::mem::take(&mut i.stable_names);
        for op in std::mem::take(&mut i.unsynced_names).iter().take(names) {
            change(&mut stable, &op.what);
        }
        i.names = stable.clone();
        i.stable_names = stable;
        i.forget_unnamed();
        i.life += 1;
        i.off = false;
        i.clear_faults();
        i.locked.clear();
    }
    /// Takes back the faults that were ordered and have not happened yet.
    pub fn clear_faults(&self) {
        self.lock_inner().clear_faults();
    }
    /// A power cut that lets a random part through.
    pub fn power_cut_randomly(&self) {
        let (mut rng, names) = {
            let mut i = self.lock_inner();
            let n = i.unsynced_names.len() as u64 + 1;
            let names = i.rng.below(n) as usize;
            (Rng::new(i.rng.next_u64()), names)
        };
        // From none to all: each cut has its own inclination.
        let odds = rng.below(5);
        self.power_cut(|_| rng.below(4) < odds, names);
    }
    /// The process dies, the disk does not: unsynced bytes stay visible and unsynced.
    pub fn kill_process(&self) {
        let mut i = self.lock_inner();
        i.life += 1;
        i.locked.clear();
    }
    /// Flips one bit of a file, wherever it is held.
    pub fn flip(&self, path: &Path, byte: u64, bit: u8) {
        self.poke(path, byte, |b| b ^ (1 << (bit % 8)));
    }
    /// Changes one byte of a file, wherever it is held. A byte beyond the end is left alone.
    pub fn poke(&self, path: &Path, byte: u64, to: impl Fn(u8) -> u8) {
        let mut i = self.lock_inner();
        let n = *i.names.get(path).expect("a file to damage");
        let f = &mut i.files[n];
        for v in [&mut f.seen, &mut f.stable] {
            if let Some(b) = v.get_mut(byte as usize) {
                *b = to(*b);
            }
        }
    }
    /// A copy of a file's bytes as a running system sees them.
    pub fn bytes(&self, path: &Path) -> Option<Vec<u8>> {
        let i = self.lock_inner();
        i.names.get(path).map(|&n| i.files[n].seen.clone())
    }
    /// Puts a file there, durably.
    pub fn put(&self, path: &Path, bytes: &[u8]) {
        let mut i = self.lock_inner();
        let file = Contents { seen: bytes.to_vec(), stable: bytes.to_vec(), unsynced: vec![] };
        i.files.push(file);
        let n = i.files.len() - 1;
        i.names.insert(path.into(), n);
        i.stable_names.insert(path.into(), n);
        if let Some(d) = path.parent() {
            i.dirs.insert(d.into());
        }
    }
    /// An independent disk with the same contents, faults cleared, and a seed of its own.
    pub fn copy(&self, seed: u64) -> FaultyDisk {
        let i = self.lock_inner();
        let new = FaultyDisk::new(seed);
        {
            let mut n = new.lock_inner();
            n.files = i
                .files
                .iter()
                .map(|f| Contents {
                    seen: f.seen.clone(),
                    stable: f.stable.clone(),
                    unsynced: f.unsynced.clone(),
                })
                .collect();
            n.names = i.names.clone();
            n.stable_names = i.stable_names.clone();
            n.unsynced_names = i.unsynced_names.clone();
            n.dirs = i.dirs.clone();
        }
        new
    }

    fn create(&self, path: &Path) -> io::Result<usize> {
        let mut i = self.lock_inner();
        if !path.parent().is_some_and(|d| i.dirs.contains(d)) {
            return Err(not_found());
        }
        i.files.push(Contents::default());
        let n = i.files.len() - 1;
        i.rename_step(path, NameChange::Link(path.into(), n))?;
        Ok(n)
    }
    fn handle(&self, file: usize, how: How) -> Arc<dyn DiskFile> {
        let life = self.lock_inner().life;
        Arc::new(FaultyFile { disk: self.clone(), file, life, durable: how == How::Log })
    }
}

impl Disk for FaultyDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        // Directories are durable at once: their loss is not what is tested here.
        let mut i = self.lock_inner();
        for d in dir.ancestors() {
            i.dirs.insert(d.into());
        }
        Ok(())
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        let i = self.lock_inner();
        if i.off {
            return Err(off());
        }
        if !i.dirs.contains(dir) {
            return Err(not_found());
        }
        let in_dir = i.names.keys().chain(&i.dirs).filter(|p| p.parent() == Some(dir));
        Ok(in_dir.filter_map(|p| p.file_name()?.to_str().map(str::to_owned)).collect())
    }
    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>> {
        if how == How::Create {
            let n = self.create(path)?;
            return Ok(self.handle(n, how));
        }
        let n = {
            let i = self.lock_inner();
            if i.off {
                return Err(off());
            }
            *i.names.get(path).ok_or_else(not_found)?
        };
        Ok(self.handle(n, how))
    }
    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let n = self.create(path)?;
        let f = self.handle(n, How::Create);
        f.preallocate(bytes)?;
        f.write_at(&vec![0; bytes as usize], 0)?;
        f.sync()
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut i = self.lock_inner();
        if !i.names.contains_key(from) {
            return Err(if i.off { off() } else { not_found() });
        }
        i.rename_step(from, NameChange::Rename(from.into(), to.into()))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut i = self.lock_inner();
        if !i.names.contains_key(path) {
            return Err(if i.off { off() } else { not_found() });
        }
        i.rename_step(path, NameChange::Unlink(path.into()))
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        let mut i = self.lock_inner();
        let life = i.life;
        if i.step(life)? {
            return Err(off());
        }
        let (now, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut i.unsynced_names).into_iter().partition(|op| op.dir == dir);
        i.unsynced_names = later;
        for op in &now {
            change(&mut i.stable_names, &op.what);
        }
        Ok(())
    }
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let mut i = self.lock_inner();
        if i.off {
            return Err(off());
        }
        let life = i.life;
        let got = i.locked.insert(path.into());
        drop(i);
        // Made only if it was got: dropping one unlocks.
        Ok(got.then(|| Box::new(FaultyLock { disk: self.clone(), path: path.into(), life }) as Box<dyn Lock>))
    }
    fn fresh_id(&self) -> io::Result<u64> {
        Ok(self.lock_inner().rng.next_u64())
    }
}

#[derive(Debug)]
struct FaultyLock {
    disk: FaultyDisk,
    path: PathBuf,
    life: u64,
}
impl Lock for FaultyLock {}
impl Drop for FaultyLock {
    fn drop(&mut self) {
        let mut i = self.disk.lock_inner();
        if i.life == self.life {
            i.locked.remove(&self.path);
        }
    }
}

#[derive(Debug)]
struct FaultyFile {
    disk: FaultyDisk,
    file: usize,
    life: u64,
    durable: bool,
}

impl FaultyFile {
    fn alive(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let i = self.disk.lock_inner();
        if i.off || i.life != self.life { Err(off()) } else { Ok(i) }
    }
    fn set_length(&self, bytes: u64, grow_only: bool) -> io::Result<()> {
        let mut i = self.disk.lock_inner();
        let fails = i.step(self.life)?;
        i.room(self.file, bytes as usize)?;
        let f = &mut i.files[self.file];
        if !grow_only || f.seen.len() < bytes as usize {
            f.seen.resize(bytes as usize, 0);
            let n = bytes as usize;
            f.unsynced.push(if grow_only { Unsynced::Room(n) } else { Unsynced::Length(n) });
        }
        if fails { Err(off()) } else { Ok(()) }
    }
}

impl DiskFile for FaultyFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.alive()?.files[self.file].seen.len() as u64)
    }
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let i = self.alive()?;
        let rest = i.files[self.file].seen.get(offset as usize..).unwrap_or(&[]);
        let n = rest.len().min(buf.len());
        buf[..n].copy_from_slice(&rest[..n]);
        Ok(n)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.durable {
            let aligned = [offset as usize, bytes.len(), bytes.as_ptr() as usize];
            assert!(aligned.iter().all(|n| n % 4096 == 0), "a log's write must be aligned");
        }
        let mut i = self.disk.lock_inner();
        let fails = i.step(self.life)?;
        i.ops[Op::Write as usize] += 1;
        i.room(self.file, offset as usize + bytes.len())?;
        if i.fail_write_at == Some(i.ops[Op::Write as usize]) {
            i.fail_write_at = None;
            let half = i.rng.below(bytes.len() as u64 + 1) as usize;
            i.files[self.file].write(offset as usize, &bytes[..half]);
            return Err(eio());
        }
        let f = &mut i.files[self.file];
        let before = f.unsynced.len();
        f.write(offset as usize, bytes);
        if fails {
            return Err(off());
        }
        if self.durable {
            let sectors = f.unsynced.len() - before;
            f.sync_last(sectors);
            // O_DSYNC carries the length that the bytes need.
        }
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        let mut i = self.disk.lock_inner();
        let fails = i.step(self.life)?;
        i.ops[Op::Sync as usize] += 1;
        if fails {
            return Err(off());
        }
        if i.fail_sync_at == Some(i.ops[Op::Sync as usize]) {
            i.fail_sync_at = None;
            // The cache calls the sectors clean now; what the disk has of them is anyone's guess: nothing.
            i.files[self.file].unsynced.clear();
            return Err(eio());
        }
        i.files[self.file].sync();
        Ok(())
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.set_length(bytes, false)
    }
    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        self.set_length(bytes, true)
    }
    fn drop_cache(&self) {
        let mut i = self.disk.lock_inner();
        let f = &mut i.files[self.file];
        if f.unsynced.is_empty() {
            f.seen = f.stable.clone();
        }
    }
}
