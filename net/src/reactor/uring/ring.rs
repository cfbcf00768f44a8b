//! The kernel's queues: submitting, waiting, and reading completions, with the traps of doing so in one place.
//!
//! Not here: what the operations mean (`super`).
//! Invariants:
//! - deferred completions are never left lying: every turn enters the kernel with GETEVENTS until it says that there
//!   are none;
//! - only the thread that entered first enters again (the kernel refuses others). Before that the reactor may move;
//! - `sends` and `receives` count operations whose memory the kernel may still use.

use super::buffers::Buffers;
use io_uring::{IoUring, opcode, squeue, types};
use std::io;
use std::os::fd::RawFd;
use std::time::Duration;

/// Operations that may be queued before the kernel is entered; more only costs one more system call.
const QUEUE: u32 = 512;
/// Completions that may wait; the kernel keeps what does not fit.
const COMPLETIONS: u32 = 4096;
/// Times that one turn asks for further completions. The rest comes next turn.
const ASKS_PER_TURN: usize = 256;
/// Wait for the completions of cancelled operations when the reactor ends: rounds of at most 10 ms.
const FAREWELLS: usize = 200;

/// `IORING_ENTER_GETEVENTS`.
const GETEVENTS: u32 = 1;
/// `IORING_RECVSEND_POLL_FIRST`: do not try before the socket says that it is worth it.
const POLL_FIRST: u16 = 1;

/// One completion.
#[derive(Clone, Copy)]
pub(super) struct Done {
    /// What the operation was submitted with.
    pub(super) user: u64,
    /// Bytes, or a negative error number.
    pub(super) result: i32,
    flags: u32,
}

impl Done {
    /// The operation goes on and will complete again.
    pub(super) fn more(&self) -> bool {
        io_uring::cqueue::more(self.flags)
    }
    /// The buffer that was picked.
    pub(super) fn buffer(&self) -> Option<u16> {
        io_uring::cqueue::buffer_select(self.flags)
    }
}

/// The queues of one reactor.
pub(super) struct Ring {
    uring: IoUring,
    enabled: bool,
    pub(super) sends: usize,
    pub(super) receives: usize,
}

impl Ring {
    /// The queues and receive buffers, or why this host has none: an old kernel (before 6.1), a sandbox, a sysctl.
    pub(super) fn new() -> io::Result<(Ring, Buffers)> {
        let uring = IoUring::builder()
            .setup_cqsize(COMPLETIONS)
            .setup_submit_all()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            // Whoever enables it is the one thread that may enter: not who makes the reactor, but who runs it.
            .setup_r_disabled()
            .build(QUEUE)?;
        if !uring.params().is_feature_ext_arg() || !uring.params().is_feature_nodrop() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this kernel's io_uring is too old"));
        }
        let buffers = Buffers::register(&uring)?;
        Ok((Ring { uring, enabled: false, sends: 0, receives: 0 }, buffers))
    }

    /// Asks to be told when `fd` is ready; with `multi`, every time.
    pub(super) fn poll(&mut self, fd: RawFd, events: i16, multi: bool, user: u64) -> io::Result<()> {
        let entry = opcode::PollAdd::new(types::Fd(fd), events as u16 as u32).multi(multi).build();
        // SAFETY: a poll names no memory.
        unsafe { self.push(&entry.user_data(user)) }
    }

    /// Takes a poll back.
    pub(super) fn unpoll(&mut self, polled: u64, user: u64) -> io::Result<()> {
        let entry = opcode::PollRemove::new(polled).build();
        // SAFETY: it names no memory.
        unsafe { self.push(&entry.user_data(user)) }
    }

    /// Asks for bytes of `fd` in one of the registered buffers.
    pub(super) fn receive(&mut self, fd: RawFd, user: u64) -> io::Result<()> {
        let entry = opcode::Recv::new(types::Fd(fd), std::ptr::null_mut(), super::BUFFER_BYTES as u32)
            .ioprio(POLL_FIRST)
            .buf_group(super::GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT)
            .user_data(user);
        // SAFETY: the memory is a registered buffer, which outlives the ring (`Buffers`).
        unsafe { self.push(&entry)? };
        self.receives += 1;
        Ok(())
    }

    /// Sends all of `bytes`.
    ///
    /// # Safety
    /// The bytes stay where they are, unchanged, until the completion is read, or for ever.
    pub(super) unsafe fn send(&mut self, fd: RawFd, bytes: &[u8], user: u64) -> io::Result<()> {
        // WAITALL: the kernel goes on after a short send by itself.
        let entry = opcode::Send::new(types::Fd(fd), bytes.as_ptr(), bytes.len() as u32)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_WAITALL)
            .build()
            .user_data(user);
        // SAFETY: the caller keeps the bytes.
        unsafe { self.push(&entry)? };
        self.sends += 1;
        Ok(())
    }

    /// # Safety
    /// All memory that the entry names stays valid until its completion is read, or for ever.
    unsafe fn push(&mut self, entry: &squeue::Entry) -> io::Result<()> {
        for _ in 0..2 {
            // SAFETY: the caller's promise.
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.enable()?;
            self.enter(0, None)?; // the queue is full: let the kernel have it
        }
        Err(io::Error::other("io_uring takes no operations"))
    }

    fn enable(&mut self) -> io::Result<()> {
        if !self.enabled {
            self.uring.submitter().register_enable_rings()?;
            self.enabled = true;
        }
        Ok(())
    }

    /// Submits what is queued, waits for a completion (`Some(ZERO)`: does not wait), and adds all completions there are
    /// to `done`.
    pub(super) fn turn(&mut self, limit: Option<Duration>, done: &mut Vec<Done>) -> io::Result<()> {
        self.enable()?;
        self.collect(done);
        let wait = done.is_empty() && limit != Some(Duration::ZERO);
        self.enter(u32::from(wait), limit.filter(|_| wait))?;
        self.collect(done);
        for _ in 0..ASKS_PER_TURN {
            let more = {
                let queue = self.uring.submission();
                queue.taskrun() || queue.cq_overflow()
            };
            if !more {
                break;
            }
            self.enter(0, None)?;
            self.collect(done);
        }
        Ok(())
    }

    fn enter(&mut self, want: u32, limit: Option<Duration>) -> io::Result<()> {
        let queued = self.uring.submission().len() as u32;
        let entered = match limit {
            Some(limit) => {
                let limit = types::Timespec::from(limit);
                let args = types::SubmitArgs::new().timespec(&limit);
                self.uring.submitter().submit_with_args(want as usize, &args)
            }
            // SAFETY: no argument is passed, and the counts are those of this ring.
            None => unsafe { self.uring.submitter().enter::<()>(queued, want, GETEVENTS, None) },
        };
        match entered {
            Ok(_) => Ok(()),
            // Timed out, interrupted, or completions must be read first: nothing is lost, the caller goes on.
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN)
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    fn collect(&mut self, done: &mut Vec<Done>) {
        let completions = self.uring.completion();
        done.extend(completions.map(|c| Done { user: c.user_data(), result: c.result(), flags: c.flags() }));
    }

    /// After every socket was shut down: waits until no operation uses our memory any more. `count` is told of each
    /// completion and corrects `sends` and `receives`. False: some are left after a bounded time, or this is the wrong
    /// thread.
    pub(super) fn settle(&mut self, mut count: impl FnMut(&mut Ring, Done)) -> bool {
        if !self.enabled {
            return true; // the kernel has seen nothing yet
        }
        let mut done = Vec::new();
        for _ in 0..FAREWELLS {
            if self.sends == 0 && self.receives == 0 {
                return true;
            }
            if self.turn(Some(Duration::from_millis(10)), &mut done).is_err() {
                return false;
            }
            for d in done.drain(..) {
                count(self, d);
            }
        }
        false
    }
}
