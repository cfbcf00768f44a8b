//! Receive buffers that the kernel picks from when bytes arrive, so that an idle connection owns none.
//!
//! Not here: when a connection receives (`super`).
//! Invariants:
//! - a buffer is either the kernel's (its entry is in the ring between the kernel's head and our tail) or ours (there
//!   is exactly one [`Held`] for it, made from the completion that named it);
//! - the kernel reads entries only up to the tail that was published last;
//! - both allocations outlive the kernel's use of them: [`Buffers::leak`] is there for the case that this is unsure.

use io_uring::{IoUring, types::BufRingEntry};
use std::io;
use std::mem::ManuallyDrop;
use std::sync::atomic::{AtomicU16, Ordering};

/// Bytes per buffer. A connection is given at most one per turn; more is read from the socket directly.
pub(super) const BUFFER_BYTES: usize = 16 << 10;
/// Buffers per reactor: a power of two. When all are taken, sockets are read directly.
const BUFFERS: u16 = 64;
/// The group that receives name.
pub(super) const GROUP: u16 = 0;

const PAGE_BYTES: usize = 4096;
const ENTRIES_PER_PAGE: usize = PAGE_BYTES / size_of::<BufRingEntry>();
const _: () = assert!(BUFFERS.is_power_of_two() && (BUFFERS as usize) <= ENTRIES_PER_PAGE);

/// The kernel wants the ring to begin on a page.
#[repr(C, align(4096))]
struct Page([u8; PAGE_BYTES]);

/// A buffer that the kernel filled and that is ours until it is given back. Not `Clone`: that is the invariant.
#[derive(Debug)]
pub(super) struct Held {
    id: u16,
    start: usize,
    end: usize,
}

impl Held {
    /// Bytes not taken yet.
    pub(super) fn len(&self) -> usize {
        self.end - self.start
    }
    /// The kernel filled all of it, so there is probably more where that came from.
    pub(super) fn was_full(&self) -> bool {
        self.end == BUFFER_BYTES
    }
}

/// All buffers of one reactor.
pub(super) struct Buffers {
    /// Owned; given to the kernel by address. Raw, since the kernel reads and writes behind the compiler's back.
    ring: *mut Page,
    /// Owned, `BUFFERS * BUFFER_BYTES` long. Raw for the same reason.
    bytes: *mut u8,
    tail: u16,
}

// SAFETY: the pointers are owned, nothing in it is bound to a thread, and it is used through `&mut`.
unsafe impl Send for Buffers {}

impl Buffers {
    /// Registers the ring and hands all buffers to the kernel. Fails where the kernel has no such rings (before 5.19).
    pub(super) fn register(uring: &IoUring) -> io::Result<Buffers> {
        let bytes = vec![0u8; BUFFERS as usize * BUFFER_BYTES].into_boxed_slice();
        let mut buffers = Buffers {
            ring: Box::into_raw(Box::new(Page([0; PAGE_BYTES]))),
            bytes: Box::into_raw(bytes).cast(),
            tail: 0,
        };
        // SAFETY: the page is aligned, large enough for the entries (asserted above), and freed only after the ring
        // that uses it has been closed (`UringReactor`'s drop).
        unsafe {
            uring.submitter().register_buf_ring_with_flags(buffers.ring as u64, BUFFERS, GROUP, 0)?;
        }
        for id in 0..BUFFERS {
            buffers.give_back(Held { id, start: 0, end: 0 });
        }
        buffers.publish();
        Ok(buffers)
    }

    /// Takes over the buffer that a completion named, filled with `len` bytes.
    ///
    /// # Safety
    /// `id` comes from a completion of this ring that has not been turned into a `Held` before.
    pub(super) unsafe fn hold(&self, id: u16, len: usize) -> Held {
        assert!(id < BUFFERS && len <= BUFFER_BYTES);
        Held { id, start: 0, end: len }
    }

    /// The bytes not taken yet.
    pub(super) fn bytes<'a>(&'a self, held: &'a Held) -> &'a [u8] {
        // SAFETY: within the allocation, since `id` and `end` were checked by `hold`; initialised (zeroed when
        // allocated); and ours while `held` lives, so the kernel does not write.
        unsafe {
            std::slice::from_raw_parts(
                self.bytes.add(held.id as usize * BUFFER_BYTES + held.start),
                held.end - held.start,
            )
        }
    }

    /// Moves bytes into `into` and says how many.
    pub(super) fn take(&self, held: &mut Held, into: &mut [u8]) -> usize {
        let n = held.len().min(into.len());
        into[..n].copy_from_slice(&self.bytes(held)[..n]);
        held.start += n;
        n
    }

    /// Returns a buffer; the kernel sees it after the next [`Buffers::publish`].
    pub(super) fn give_back(&mut self, held: Held) {
        let at = (self.tail & (BUFFERS - 1)) as usize;
        // SAFETY: `at` is inside the page. The slot is behind the published tail and, since there are never more
        // buffers than slots, no longer the kernel's, so nobody reads it now. Field by field, because the tail lies in
        // the spare bytes of the first entry.
        unsafe {
            let entry = &mut *self.ring.cast::<BufRingEntry>().add(at);
            entry.set_addr(self.bytes.add(held.id as usize * BUFFER_BYTES) as u64);
            entry.set_len(BUFFER_BYTES as u32);
            entry.set_bid(held.id);
        }
        self.tail = self.tail.wrapping_add(1);
    }

    /// Lets the kernel have what was given back.
    pub(super) fn publish(&self) {
        // SAFETY: the page holds initialised entries, the tail lies in it, is aligned, and is accessed atomically by
        // us and read by the kernel alone.
        let tail = unsafe { &*BufRingEntry::tail(self.ring.cast()).cast::<AtomicU16>() };
        tail.store(self.tail, Ordering::Release);
    }

    /// Gives the memory up for ever: for the case that the kernel might still write to it.
    pub(super) fn leak(self) {
        let _ = ManuallyDrop::new(self);
    }
}

impl Drop for Buffers {
    fn drop(&mut self) {
        // SAFETY: both came from `Box::into_raw` with these layouts, and nobody else frees them.
        unsafe {
            drop(Box::from_raw(self.ring));
            let all = std::ptr::slice_from_raw_parts_mut(self.bytes, BUFFERS as usize * BUFFER_BYTES);
            drop(Box::from_raw(all));
        }
    }
}
