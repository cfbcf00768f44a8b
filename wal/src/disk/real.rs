//! The real disk: direct, synchronous writes of aligned blocks where the file system allows them, buffered writes
//! with fdatasync where it does not.
//!
//! Unsafe island: a few system calls that std lacks, and mapping.
//! Invariant: a file opened with `How::Log` returns from `write_at` only when the bytes are on stable storage.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use super::{Disk, DiskFile, How, Lock, Mapped};
use crate::format::BLOCK_BYTES;

/// Zeros are written in pieces of this many bytes, so that a group's write never waits long behind one.
const FILL_BYTES: usize = 256 << 10;

/// Files of the operating system.
#[derive(Debug, Default)]
pub struct RealDisk {
    /// Why direct I/O is not used, once it was refused.
    notice: Arc<OnceLock<String>>,
    buffered_only: bool,
}

impl RealDisk {
    /// The disk, with direct I/O wherever the file system takes it.
    pub fn new() -> RealDisk {
        RealDisk::default()
    }
    /// The disk, with buffered writes and fdatasync only (to compare, and to test that path).
    pub fn buffered() -> RealDisk {
        RealDisk { buffered_only: true, ..RealDisk::default() }
    }
    fn open_direct(&self, path: &Path, flags: c_int) -> Option<File> {
        if self.buffered_only {
            return None;
        }
        match OpenOptions::new().read(true).write(true).custom_flags(libc::O_DIRECT | flags).open(path) {
            Ok(f) => Some(f),
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                self.refused(path, &e);
                None
            }
            // Any other error is met again, and reported, by the buffered open that follows.
            Err(_) => None,
        }
    }
    fn refused(&self, path: &Path, e: &io::Error) {
        refuse(&self.notice, path, e);
    }
}

fn refuse(notice: &OnceLock<String>, path: &Path, e: &io::Error) {
    let _ = notice.set(format!(
        "direct I/O is refused for {} ({e}); buffered writes with fdatasync are used",
        path.display()
    ));
}

impl Disk for RealDisk {
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        let mut missing: Vec<&Path> = Vec::new();
        let mut at = dir;
        while !at.as_os_str().is_empty() && !at.try_exists()? {
            missing.push(at);
            match at.parent() {
                Some(p) => at = p,
                None => break,
            }
        }
        for d in missing.into_iter().rev() {
            match std::fs::create_dir(d) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            let parent = d.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
            self.sync_dir(parent)?;
        }
        Ok(())
    }

    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        // A name that is not UTF-8 is none of ours.
        std::fs::read_dir(dir)?
            .filter_map(|e| e.map(|e| e.file_name().into_string().ok()).transpose())
            .collect()
    }

    fn open(&self, path: &Path, how: How) -> io::Result<Arc<dyn DiskFile>> {
        let (file, direct) = match how {
            How::Read => {
                // Writable where possible, for recovery's sync and trim; a read-only copy can still be inspected.
                let f = OpenOptions::new().read(true).write(true).open(path).or_else(|_| File::open(path))?;
                (f, false)
            }
            How::Create => {
                let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
                (f, false)
            }
            How::Log => match self.open_direct(path, libc::O_DSYNC) {
                Some(f) => (f, true),
                None => (OpenOptions::new().read(true).write(true).open(path)?, false),
            },
        };
        let durable = how == How::Log;
        Ok(Arc::new(RealFile {
            file,
            direct: AtomicBool::new(direct),
            durable,
            path: path.into(),
            notice: self.notice.clone(),
        }))
    }

    fn create_zeroed(&self, path: &Path, bytes: u64) -> io::Result<()> {
        let f = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path)?;
        allocate(&f, bytes)?;
        let direct = self.open_direct(path, 0);
        let zeros = vec![0u8; FILL_BYTES + BLOCK_BYTES];
        let start = zeros.as_ptr().align_offset(BLOCK_BYTES);
        let zeros = &zeros[start..start + FILL_BYTES];
        let mut at = 0;
        while at < bytes {
            let piece = &zeros[..FILL_BYTES.min((bytes - at) as usize)];
            match &direct {
                Some(d) if piece.len().is_multiple_of(BLOCK_BYTES) => match d.write_all_at(piece, at) {
                    Err(e) if e.raw_os_error() == Some(libc::EINVAL) => {
                        self.refused(path, &e);
                        f.write_all_at(piece, at)?;
                    }
                    r => r?,
                },
                _ => f.write_all_at(piece, at)?,
            }
            at += piece.len() as u64;
        }
        f.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        File::open(dir)?.sync_all()
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Lock>>> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Box::new(FileLock { _file: file }))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn fresh_id(&self) -> io::Result<u64> {
        let mut b = [0u8; 8];
        File::open("/dev/urandom")?.read_exact(&mut b)?;
        Ok(u64::from_le_bytes(b))
    }

    fn notice(&self) -> Option<String> {
        self.notice.get().cloned()
    }
}

/// Holds the lock as long as the descriptor is open.
#[derive(Debug)]
struct FileLock {
    _file: File,
}
impl Lock for FileLock {}

#[derive(Debug)]
struct RealFile {
    file: File,
    /// Opened with O_DIRECT and O_DSYNC, and no write was refused yet.
    direct: AtomicBool,
    /// `write_at` must be durable on return.
    durable: bool,
    path: Box<Path>,
    notice: Arc<OnceLock<String>>,
}

impl RealFile {
    /// Some file systems take O_DIRECT at open and refuse it at the write. Nothing was written then, so going on
    /// buffered is safe.
    fn leave_direct(&self, why: &io::Error) -> io::Result<()> {
        refuse(&self.notice, &self.path, why);
        // SAFETY: fcntl on a descriptor that `self.file` keeps open; no memory is passed.
        let flags = unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_GETFL) };
        if flags < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: as above.
        if unsafe { libc::fcntl(self.file.as_raw_fd(), libc::F_SETFL, flags & !libc::O_DIRECT) } < 0 {
            return Err(io::Error::last_os_error());
        }
        self.direct.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl DiskFile for RealFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < buf.len() {
            match self.file.read_at(&mut buf[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if self.direct.load(Ordering::Relaxed) {
            match self.file.write_all_at(bytes, offset) {
                Err(e) if e.raw_os_error() == Some(libc::EINVAL) => self.leave_direct(&e)?,
                r => return r,
            }
        }
        self.file.write_all_at(bytes, offset)?;
        if self.durable { self.file.sync_data() } else { Ok(()) }
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }
    fn set_len(&self, bytes: u64) -> io::Result<()> {
        self.file.set_len(bytes)
    }
    fn preallocate(&self, bytes: u64) -> io::Result<()> {
        allocate(&self.file, bytes)
    }

    fn drop_cache(&self) {
        // SAFETY: an advice about a descriptor that `self.file` keeps open; no memory is passed. A refusal only
        // means that reads come from the cache.
        unsafe { libc::posix_fadvise(self.file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
    }

    fn map(&self) -> io::Result<Option<Mapped>> {
        if self.len()? == 0 {
            return Ok(None);
        }
        // SAFETY: the map is read only, and nothing shortens or rewrites a file that is mapped: only finished
        // snapshots are, which are unlinked and never written again, and the directory lock keeps other servers out.
        let map = unsafe { memmap2::Mmap::map(&self.file)? };
        Ok(Some(Mapped(map)))
    }

    fn direct_fd(&self) -> Option<BorrowedFd<'_>> {
        (self.durable && self.direct.load(Ordering::Relaxed)).then(|| self.file.as_fd())
    }
}

/// Reserves room up to `bytes` where the file system can; elsewhere the writes themselves find out.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let bytes = libc::off_t::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput)?;
    loop {
        // SAFETY: fallocate on a descriptor that `file` keeps open; no memory is passed.
        if unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes) } == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            Some(libc::EINTR) => {}
            Some(libc::EOPNOTSUPP | libc::ENOSYS) => return Ok(()),
            _ => return Err(e),
        }
    }
}
