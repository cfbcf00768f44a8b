//! From ACL ids to lists, for readers: a table that grows without moving.
//!
//! Not here: interning and counting (`tree::acl`), when a list may go (`store`).
//! Invariants: a list is immutable; an entry changes only between null and a list; a list that was taken out is freed a
//! grace period later, so that even who asks for an id that it should have forgotten finds a list or nothing.

use super::primitive::{AtomicPtr, Ordering};
use crate::proto::Acl;
use std::ptr::{self, NonNull};
use std::sync::Arc;

/// The first chunk holds `2^FIRST_BITS` entries, each further one as many as all before it.
const FIRST_BITS: u32 = 6;
const CHUNKS: usize = (32 - FIRST_BITS + 1) as usize;

pub(super) type List = Arc<[Acl]>;
type Chunk = Box<[AtomicPtr<List>]>;

/// See the module.
pub(super) struct AclTable {
    chunks: [AtomicPtr<Chunk>; CHUNKS],
}

/// Chunk and place within it.
#[inline]
fn locate(id: u32) -> (usize, usize) {
    let n = u64::from(id) >> FIRST_BITS;
    let chunk = 64 - n.leading_zeros();
    let base = if chunk == 0 { 0 } else { 1u64 << (FIRST_BITS + chunk - 1) };
    (chunk as usize, (u64::from(id) - base) as usize)
}

fn chunk_len(chunk: usize) -> usize {
    1 << (FIRST_BITS as usize + chunk.saturating_sub(1))
}

impl AclTable {
    pub(super) fn new() -> AclTable {
        AclTable { chunks: std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())) }
    }

    /// The list of an id that a visible version carries.
    #[inline]
    pub(super) fn get(&self, id: u32) -> Option<&List> {
        let (chunk, at) = locate(id);
        // SAFETY: a chunk, once there, stays until the table goes; a list stays while a reader can hold its id.
        unsafe {
            let chunk = self.chunks[chunk].load(Ordering::Acquire).as_ref()?;
            chunk[at].load(Ordering::Acquire).as_ref()
        }
    }

    /// Gives `id` a list.
    ///
    /// # Safety
    /// Only the writer; the entry is null.
    pub(super) unsafe fn set(&self, id: u32, list: List) {
        let (chunk, at) = locate(id);
        let slot = &self.chunks[chunk];
        let mut there = slot.load(Ordering::Relaxed);
        if there.is_null() {
            let fresh: Chunk = (0..chunk_len(chunk)).map(|_| AtomicPtr::new(ptr::null_mut())).collect();
            there = Box::into_raw(Box::new(fresh));
            slot.store(there, Ordering::Release);
        }
        // SAFETY: just made, or made before; chunks stay until the table goes.
        unsafe { (&(*there))[at].store(Box::into_raw(Box::new(list)), Ordering::Release) };
    }

    /// Takes the list of `id` out; `None` if there is none.
    ///
    /// # Safety
    /// Only the writer; what is returned is freed after a grace period.
    pub(super) unsafe fn take(&self, id: u32) -> Option<NonNull<List>> {
        let (chunk, at) = locate(id);
        // SAFETY: chunks stay until the table goes.
        let chunk = unsafe { self.chunks[chunk].load(Ordering::Relaxed).as_ref()? };
        NonNull::new(chunk[at].swap(ptr::null_mut(), Ordering::AcqRel))
    }
}

/// Frees a list that was taken out.
///
/// # Safety
/// `take` returned it, and nobody can reach it any more.
pub(super) unsafe fn free_list(list: NonNull<List>) {
    // SAFETY: made by `Box::into_raw` in `set`; by the contract this is the only access.
    drop(unsafe { Box::from_raw(list.as_ptr()) });
}

impl Drop for AclTable {
    fn drop(&mut self) {
        for c in &self.chunks {
            let c = c.load(Ordering::Relaxed);
            if c.is_null() {
                continue;
            }
            // SAFETY: made by `Box::into_raw`; `&mut self` says that nobody else looks.
            unsafe {
                let chunk = Box::from_raw(c);
                for list in chunk.iter().map(|l| l.load(Ordering::Relaxed)).filter(|l| !l.is_null()) {
                    drop(Box::from_raw(list));
                }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn ids_tile_the_chunks() {
        assert_eq!(locate(0), (0, 0));
        assert_eq!(locate(63), (0, 63));
        assert_eq!(locate(64), (1, 0));
        assert_eq!(locate(127), (1, 63));
        assert_eq!(locate(128), (2, 0));
        let (mut chunk, mut at) = (0, 0);
        for id in 0..100_000 {
            assert_eq!(locate(id), (chunk, at));
            at += 1;
            if at == chunk_len(chunk) {
                (chunk, at) = (chunk + 1, 0);
            }
        }
        assert!(locate(u32::MAX).0 < CHUNKS);
    }
}
