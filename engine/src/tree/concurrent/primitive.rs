//! The atomics that this island uses: std's, or loom's under `--cfg loom`, so that the same code is model-checked.
//!
//! Not here: anything with a meaning.

#[cfg(loom)]
pub(super) use loom::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, Ordering, fence};

/// A value alone on its cache lines: two, since processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
pub(super) struct Padded<T>(pub T);

/// Asks for the cache line of `p`. A hint: any address will do, nothing is read.
#[inline(always)]
pub(super) fn prefetch<T>(p: *const T) {
    #[cfg(all(target_arch = "x86_64", not(miri), not(loom)))]
    // SAFETY: a prefetch neither faults nor reads; it is no access in the sense of the language.
    unsafe {
        std::arch::x86_64::_mm_prefetch::<{ std::arch::x86_64::_MM_HINT_T0 }>(p.cast());
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri), not(loom))))]
    let _ = p;
}

/// How many low bits of a pointer are its address; the rest are free for a tag.
pub(super) const ADDRESS_BITS: u32 = 48;
const ADDRESS: usize = (1 << ADDRESS_BITS) - 1;

/// `p` with `tag` in its upper 16 bits. `p` must be untagged (see [`assert_taggable`]).
#[inline(always)]
pub(super) fn with_tag<T>(p: *mut T, tag: u16) -> *mut T {
    p.map_addr(|a| a | ((tag as usize) << ADDRESS_BITS))
}

/// The pointer without its tag.
#[inline(always)]
pub(super) fn untag<T>(p: *mut T) -> *mut T {
    p.map_addr(|a| a & ADDRESS)
}

/// The tag alone.
#[inline(always)]
pub(super) fn tag_of<T>(p: *mut T) -> u16 {
    (p.addr() >> ADDRESS_BITS) as u16
}

/// Panics if the allocator handed out an address that a tag would damage. Linux gives user space 47 bits unless a
/// program asks for more.
#[inline(always)]
pub(super) fn assert_taggable<T>(p: *mut T) {
    assert!(p.addr() <= ADDRESS, "an allocation beyond 48 address bits");
}
