//! A group's write without blocking, through io_uring, with an eventfd that tells when it is done.
//!
//! Not here: what is written where (`log`). Where io_uring is refused there is a stand-in that writes at once.
//! Unsafe island. Invariants: at most one write is in flight; while it is, this owns its group and file, so the
//! buffer neither moves nor goes away before the kernel's completion was seen.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::{IoUring, Probe, opcode, types};

use crate::disk::DiskFile;
use crate::group::Group;

/// Room in the ring; one entry is used at a time.
const ENTRIES: u32 = 4;
/// Longest write given to the ring, in bytes; the kernel takes no more than 2 GiB less a page at once.
const WRITE_BYTES_MAX: usize = 1 << 30;

/// The writer of one log.
pub(crate) struct Uring {
    ring: Option<IoUring>,
    event: Option<File>,
    flight: Option<Flight>,
}

struct Flight {
    group: Group,
    file: Arc<dyn DiskFile>,
    offset: u64,
    /// Set when the outcome is known without the ring.
    done: Option<io::Result<()>>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Uring {{ ring: {}, in flight: {} }}", self.ring.is_some(), self.flight.is_some())
    }
}

impl Uring {
    /// A ring with its eventfd, if this system allows one.
    pub fn probe() -> Option<Uring> {
        let ring = IoUring::new(ENTRIES).ok()?;
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe).ok()?;
        if !probe.is_supported(opcode::Write::CODE) {
            return None;
        }
        // SAFETY: eventfd takes no memory; the result is checked before it is owned.
        let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
        if fd < 0 {
            return None;
        }
        // SAFETY: `fd` was just made and belongs to nobody else.
        let event = unsafe { OwnedFd::from_raw_fd(fd) };
        ring.submitter().register_eventfd(event.as_raw_fd()).ok()?;
        Some(Uring { ring: Some(ring), event: Some(File::from(event)), flight: None })
    }
    /// The stand-in without a ring.
    pub fn blocking() -> Uring {
        Uring { ring: None, event: None, flight: None }
    }
    /// Readable when a write is done. The stand-in has none: its writes are done at once.
    pub fn event_fd(&self) -> Option<BorrowedFd<'_>> {
        self.event.as_ref().map(File::as_fd)
    }

    /// Starts the write of an encoded group.
    pub fn submit(&mut self, file: Arc<dyn DiskFile>, group: Group, offset: u64) {
        debug_assert!(self.flight.is_none());
        let flight = self.flight.insert(Flight { group, file, offset, done: None });
        let bytes = flight.group.encoded();
        if let (Some(ring), Some(fd)) = (&mut self.ring, flight.file.direct_fd())
            && bytes.len() <= WRITE_BYTES_MAX
        {
            // The descriptor is O_DIRECT and O_DSYNC: its completion means durable.
            let entry = opcode::Write::new(types::Fd(fd.as_raw_fd()), bytes.as_ptr(), bytes.len() as u32)
                .offset(offset)
                .build();
            // SAFETY: `flight` owns the buffer and the file. Both stay where they are (moving a Group moves its
            // Vec's header, not its heap) until `take` has seen the completion; `drop` waits for it.
            let pushed = unsafe { ring.submission().push(&entry) };
            match pushed.map_err(io::Error::other).and_then(|()| submit(ring)) {
                Ok(()) => return,
                // Unknown whether the kernel took it: its outcome is unknown like that of a failed write.
                Err(e) => {
                    flight.done = Some(Err(e));
                    self.signal();
                    return;
                }
            }
        }
        flight.done = Some(flight.file.write_at(flight.group.encoded(), offset));
        self.signal();
    }

    /// The group and its outcome, if it is done.
    pub fn take(&mut self, wait: bool) -> Option<(Group, io::Result<()>)> {
        let flight = self.flight.as_mut()?;
        if flight.done.is_none() {
            let ring = self.ring.as_mut()?;
            let cqe = loop {
                if let Some(c) = ring.completion().next() {
                    break c;
                }
                if !wait {
                    return None;
                }
                match ring.submit_and_wait(1) {
                    // The kernel may still read the buffer: it stays here, and another group goes back.
                    Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                        return Some((Group::default(), Err(e)));
                    }
                    _ => {}
                }
            };
            flight.done = Some(outcome(flight, cqe.result()));
        }
        // Only now: nobody pays for a system call while the write is still under way. The kernel may announce the
        // completion a moment after it can be seen; then the next one adds to the count, and both are read together.
        self.drain_event();
        let flight = self.flight.take()?;
        Some((flight.group, flight.done.unwrap_or_else(|| Err(io::ErrorKind::Other.into()))))
    }

    fn drain_event(&mut self) {
        if let Some(e) = &mut self.event {
            // Empty is the usual error; a real one shows at the next poll of it.
            let _ = e.read(&mut [0u8; 8]);
        }
    }
    /// Announces a write that was done without the ring.
    fn signal(&mut self) {
        use std::io::Write;
        if let Some(e) = &mut self.event {
            // Cannot be full: it was drained by the last `take`.
            let _ = e.write(&1u64.to_ne_bytes());
        }
    }
}

fn submit(ring: &IoUring) -> io::Result<()> {
    loop {
        match ring.submit() {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            r => return r.map(|_| ()),
        }
    }
}

/// What a completion means. A short write is finished here; so is one that the file system refused as direct.
fn outcome(flight: &Flight, result: i32) -> io::Result<()> {
    let bytes = flight.group.encoded();
    match result {
        n if n < 0 => match io::Error::from_raw_os_error(-n) {
            e if matches!(e.raw_os_error(), Some(libc::EINVAL | libc::EINTR | libc::EAGAIN)) => {
                flight.file.write_at(bytes, flight.offset)
            }
            e => Err(e),
        },
        n if n as usize == bytes.len() => Ok(()),
        // Again from the start: a direct write's rest must be aligned too, and nothing of it was acknowledged.
        _ => flight.file.write_at(bytes, flight.offset),
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        let waits = self.flight.as_ref().is_some_and(|f| f.done.is_none());
        if let (true, Some(ring)) = (waits, &mut self.ring) {
            while ring.completion().next().is_none() {
                if let Err(e) = ring.submit_and_wait(1)
                    && e.kind() != io::ErrorKind::Interrupted
                {
                    // The kernel may still read the buffer: leaking it is the only safe end.
                    Box::leak(Box::new(self.flight.take()));
                    return;
                }
            }
        }
    }
}
