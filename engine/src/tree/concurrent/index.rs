//! The index: extendible hashing from a path's hash to the newest incarnation of that path.
//!
//! Not here: comparing paths (the caller's `same`), older incarnations (`node`), freeing what is replaced (`store`).
//! Invariants:
//! - one writer; entries never move within a segment; a slot is published and read with one access;
//! - a search that started at the directory finds every entry that was inserted before, whatever splits meanwhile;
//! - a line has a tombstone only if it had no empty slot when the entry was removed.

use super::primitive::{AtomicPtr, Ordering, Padded, assert_taggable, prefetch, tag_of, untag, with_tag};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::Cell;
use std::ptr::{self, NonNull};

/// What can be indexed.
///
/// # Safety
/// `key` is the same as long as the item is in an index.
pub(super) unsafe trait Keyed {
    /// The upper half of the hash under which the item was inserted.
    ///
    /// # Safety
    /// `item` is alive, and the caller is the writer.
    unsafe fn key(item: NonNull<Self>) -> u32;
}

#[cfg(not(loom))]
mod shape {
    pub const SLOTS: usize = 8;
    /// With the header line: 4096 bytes.
    pub const LINES: usize = 63;
}
/// Small enough for a model checker to look at every interleaving of a split.
#[cfg(loom)]
mod shape {
    pub const SLOTS: usize = 2;
    pub const LINES: usize = 1;
}
use shape::{LINES, SLOTS};

/// Key bits 11..0 choose the home line, so the directory may use the upper 20.
const HOME_BITS: u32 = 12;
const DEPTH_MAX: u32 = 32 - HOME_BITS;
/// Lines that a segment's tag can name; reached only when the directory cannot grow any more.
const LINES_MAX: usize = (1 << 10) - 1;
const DEPTH_SHIFT: u32 = 10;

/// An address that is no item: an entry was removed here.
const TOMBSTONE: usize = 1;

type Slot<T> = AtomicPtr<T>;

#[repr(C, align(64))]
struct Line<T>([Slot<T>; SLOTS]);

/// The header line of a segment; only the writer looks at it.
#[repr(C, align(64))]
struct Header {
    lines: Cell<usize>,
    /// Directory bits that all its entries share.
    depth: Cell<u32>,
    /// Slots that are not empty.
    used: Cell<usize>,
    /// Of these, tombstones.
    tombs: Cell<usize>,
}

/// A segment: a header line, and its lines behind it. A handle; freed by [`Segment::free`].
pub(super) struct Segment<T>(NonNull<Header>, std::marker::PhantomData<T>);

impl<T> Clone for Segment<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Segment<T> {}

/// The directory: `2^depth` segments, each as often as its own depth leaves bits open. Entries carry depth and number
/// of lines in their tag, so that a search does not touch the header.
pub(super) struct Directory<T> {
    depth: u32,
    entries: Box<[AtomicPtr<Header>]>,
    _items: std::marker::PhantomData<*mut T>,
}

/// See the module.
pub(super) struct Index<T> {
    directory: Padded<AtomicPtr<Directory<T>>>,
}

/// What the index does not need any more, but readers may still look at.
pub(super) enum Replaced<T> {
    Segment(Segment<T>),
    Directory(NonNull<Directory<T>>),
}

/// Where an entry was found: for the writer to replace or remove it.
pub(super) struct Found<T> {
    segment: Segment<T>,
    line: usize,
    slot: usize,
    pub(super) item: NonNull<T>,
}

fn layout<T>(lines: usize) -> Layout {
    let (header, body) =
        (Layout::new::<Header>(), Layout::array::<Line<T>>(lines).expect("at most 1023 lines"));
    header.extend(body).expect("at most 64 KiB").0
}

impl<T> Segment<T> {
    fn new(lines: usize, depth: u32) -> Segment<T> {
        let layout = layout::<T>(lines);
        // SAFETY: the layout has a header, so its size is not zero.
        let raw = unsafe { alloc(layout) };
        let Some(at) = NonNull::new(raw.cast::<Header>()) else { handle_alloc_error(layout) };
        assert_taggable(at.as_ptr());
        let segment = Segment(at, std::marker::PhantomData);
        // SAFETY: header and `lines` lines lie within the layout; nobody else knows the allocation.
        unsafe {
            at.write(Header {
                lines: Cell::new(lines),
                depth: Cell::new(depth),
                used: Cell::new(0),
                tombs: Cell::new(0),
            });
            for i in 0..lines {
                let empty = Line(std::array::from_fn(|_| AtomicPtr::new(ptr::null_mut())));
                segment.lines().add(i).write(empty);
            }
        }
        segment
    }

    /// # Safety
    /// Nobody can reach the segment any more.
    pub(super) unsafe fn free(self) {
        // SAFETY: by the contract; the layout is that of `new`.
        unsafe {
            let lines = self.0.as_ref().lines.get();
            for i in 0..lines {
                ptr::drop_in_place(self.lines().add(i));
            }
            dealloc(self.0.as_ptr().cast(), layout::<T>(lines));
        }
    }

    /// Bytes asked from the allocator.
    ///
    /// # Safety
    /// The segment is alive and the caller is the writer.
    pub(super) unsafe fn bytes(self) -> usize {
        // SAFETY: by the contract.
        layout::<T>(unsafe { self.0.as_ref() }.lines.get()).size()
    }

    fn lines(self) -> *mut Line<T> {
        // Directly behind the header: both are multiples of 64 bytes.
        self.0.as_ptr().wrapping_add(1).cast()
    }

    /// As a directory entry.
    ///
    /// # Safety
    /// The segment is alive and the caller is the writer.
    unsafe fn entry(self) -> *mut Header {
        // SAFETY: by the contract.
        let h = unsafe { self.0.as_ref() };
        with_tag(self.0.as_ptr(), ((h.depth.get() as u16) << DEPTH_SHIFT) | h.lines.get() as u16)
    }
}

/// The place of a key in the directory, as a fraction of 2^32: `2^u - 1` for the key's own fraction `u`, to within
/// 0.3 %. With evenly spread places all segments would fill, and split, at the same time; bent like this, the low end
/// of the directory is twice as dense as the high end, so that at any moment the segments are in all phases of filling:
/// occupancy and the cost of splitting stay the same whatever the number of nodes.
#[inline(always)]
fn bend(key: u32) -> u32 {
    const LINEAR: u64 = 2_819_646_213; // 0.6565 * 2^32
    const SQUARE: u64 = 1_475_321_083; // 2^32 - LINEAR
    let u = u64::from(key);
    ((u * (LINEAR + ((SQUARE * u) >> 32))) >> 32) as u32
}

/// The home line of a key in a segment of `lines` lines.
#[inline(always)]
fn home(key: u32, lines: usize) -> usize {
    ((key & ((1 << HOME_BITS) - 1)) as usize * lines) >> HOME_BITS
}

impl<T> Directory<T> {
    #[inline(always)]
    fn at(&self, key: u32) -> usize {
        (u64::from(bend(key)) >> (32 - self.depth)) as usize
    }
    pub(super) fn bytes(&self) -> usize {
        std::mem::size_of_val(&*self.entries)
    }
}

impl<T: Keyed> Index<T> {
    pub(super) fn new() -> Index<T> {
        let first = Segment::<T>::new(LINES, 0);
        // SAFETY: the segment is alive, and nobody else knows it.
        let entries = Box::new([AtomicPtr::new(unsafe { first.entry() })]);
        let directory = Box::new(Directory { depth: 0, entries, _items: std::marker::PhantomData });
        Index { directory: Padded(AtomicPtr::new(Box::into_raw(directory))) }
    }

    /// The lines to search for `key`: the first one, how many there are, and the home's number.
    ///
    /// # Safety
    /// The caller is the writer, or a reader within a turn.
    #[inline(always)]
    unsafe fn route(&self, key: u32) -> (Segment<T>, usize, usize) {
        // SAFETY: replaced directories are kept for a grace period.
        let directory = unsafe { &*self.directory.0.load(Ordering::Acquire) };
        let entry = directory.entries[directory.at(key)].load(Ordering::Acquire);
        let lines = tag_of(entry) as usize & LINES_MAX;
        // SAFETY: entries are never null.
        let segment = Segment(unsafe { NonNull::new_unchecked(untag(entry)) }, std::marker::PhantomData);
        (segment, lines, home(key, lines))
    }

    /// Asks for the home line of a hash.
    ///
    /// # Safety
    /// The caller is the writer, or a reader within a turn.
    #[inline]
    pub(super) unsafe fn prefetch(&self, hash: u64) {
        // SAFETY: by the contract; the address is within the segment.
        let (segment, _, home) = unsafe { self.route((hash >> 32) as u32) };
        prefetch(segment.lines().wrapping_add(home));
    }

    /// The entry of this hash for which `same` holds.
    ///
    /// # Safety
    /// The caller is the writer, or a reader within a turn. Items in the index, and items removed from it since the
    /// turn began, are alive.
    #[inline]
    pub(super) unsafe fn find(
        &self,
        hash: u64,
        mut same: impl FnMut(NonNull<T>) -> bool,
    ) -> Option<Found<T>> {
        let tag = hash as u16;
        // SAFETY: by the contract.
        let (segment, lines, home) = unsafe { self.route((hash >> 32) as u32) };
        let mut line = home;
        for _ in 0..lines {
            // SAFETY: `line < lines`, and segments are kept for a grace period.
            let slots = unsafe { &(*segment.lines().add(line)).0 };
            let mut open = false;
            for (slot, s) in slots.iter().enumerate() {
                let p = s.load(Ordering::Acquire);
                if p.is_null() {
                    open = true;
                } else if tag_of(p) == tag && p.addr() != TOMBSTONE {
                    // SAFETY: neither null nor a tombstone.
                    let item = unsafe { NonNull::new_unchecked(untag(p)) };
                    if same(item) {
                        return Some(Found { segment, line, slot, item });
                    }
                }
            }
            if open {
                return None;
            }
            line = if line + 1 == lines { 0 } else { line + 1 };
        }
        None
    }

    /// The entry that holds `item` itself. Looks at no item.
    ///
    /// # Safety
    /// Only the writer.
    pub(super) unsafe fn find_item(&self, key: u32, item: NonNull<T>) -> Option<Found<T>> {
        // SAFETY: by the contract.
        let (segment, lines, home) = unsafe { self.route(key) };
        let mut line = home;
        for _ in 0..lines {
            // SAFETY: `line < lines`, and the segment is the current one.
            let slots = unsafe { &(*segment.lines().add(line)).0 };
            let mut open = false;
            for (slot, s) in slots.iter().enumerate() {
                let p = s.load(Ordering::Relaxed);
                open |= p.is_null();
                if untag(p) == item.as_ptr() {
                    return Some(Found { segment, line, slot, item });
                }
            }
            if open {
                return None;
            }
            line = if line + 1 == lines { 0 } else { line + 1 };
        }
        None
    }

    /// Adds an entry for which `find` finds nothing. What it replaced on the way is put into `out`.
    ///
    /// # Safety
    /// Only the writer. `item` stays alive until it is removed and a grace period has passed.
    pub(super) unsafe fn insert(&self, hash: u64, item: NonNull<T>, out: &mut Vec<Replaced<T>>) {
        let key = (hash >> 32) as u32;
        // SAFETY: by the contract.
        unsafe {
            loop {
                let (segment, lines, _) = self.route(key);
                let head = segment.0.as_ref();
                if head.used.get() * 8 < lines * SLOTS * 7 {
                    put(segment, key, with_tag(item.as_ptr(), hash as u16));
                    return;
                }
                self.make_room(key, segment, out);
            }
        }
    }

    /// Puts a newer incarnation into the slot of `found`.
    ///
    /// # Safety
    /// Only the writer; nothing was inserted or removed since `found` was found.
    pub(super) unsafe fn replace(&self, found: &Found<T>, item: NonNull<T>) {
        // SAFETY: the place was found in a live segment.
        let slot = unsafe { &(*found.segment.lines().add(found.line)).0[found.slot] };
        slot.store(with_tag(item.as_ptr(), tag_of(slot.load(Ordering::Relaxed))), Ordering::Release);
    }

    /// Takes an entry out.
    ///
    /// # Safety
    /// As for `replace`.
    pub(super) unsafe fn remove(&self, found: &Found<T>) {
        // SAFETY: the place was found in a live segment, and only the writer looks at its header.
        let (head, slots) =
            unsafe { (found.segment.0.as_ref(), &(*found.segment.lines().add(found.line)).0) };
        let open = slots.iter().any(|s| s.load(Ordering::Relaxed).is_null());
        if open {
            head.used.set(head.used.get() - 1);
            slots[found.slot].store(ptr::null_mut(), Ordering::Release);
        } else {
            head.tombs.set(head.tombs.get() + 1);
            slots[found.slot].store(ptr::without_provenance_mut(TOMBSTONE), Ordering::Release);
        }
    }

    /// Makes room in the segment of `key`: without its tombstones, split in two, or (at the deepest) larger.
    ///
    /// # Safety
    /// Only the writer.
    unsafe fn make_room(&self, key: u32, old: Segment<T>, out: &mut Vec<Replaced<T>>) {
        // SAFETY: the writer's own reads; items in the index are alive.
        let (lines, depth, live, entries) = unsafe {
            let h = old.0.as_ref();
            let entries = entries_of(old, h.lines.get());
            (h.lines.get(), h.depth.get(), h.used.get() - h.tombs.get(), entries)
        };
        if live * 8 < lines * SLOTS * 5 {
            self.swap_in(key, &[fill(&entries, lines, depth)]);
        } else if depth < DEPTH_MAX {
            let directory = self.directory();
            if depth == directory.depth {
                out.push(Replaced::Directory(self.double(directory)));
            }
            let bit = 1 << (31 - depth);
            let (one, zero): (Vec<_>, Vec<_>) = entries.iter().partition(|e| bend(e.key) & bit != 0);
            self.swap_in(key, &[zero, one].map(|half| fill(&half, LINES, depth + 1)));
        } else {
            assert!(lines < LINES_MAX, "the index is full: over a billion paths");
            self.swap_in(key, &[fill(&entries, (lines * 2).min(LINES_MAX), depth)]);
        }
        out.push(Replaced::Segment(old));
    }

    fn directory(&self) -> &Directory<T> {
        // SAFETY: the current directory is alive as long as the index; used by the writer, who alone replaces it.
        unsafe { &*self.directory.0.load(Ordering::Acquire) }
    }

    /// Publishes a directory twice as large; gives back the old one.
    fn double(&self, old: &Directory<T>) -> NonNull<Directory<T>> {
        let entries = old
            .entries
            .iter()
            .flat_map(|e| [0, 1].map(|_| AtomicPtr::new(e.load(Ordering::Relaxed))))
            .collect();
        let new = Box::new(Directory { depth: old.depth + 1, entries, _items: std::marker::PhantomData });
        let old = self.directory.0.swap(Box::into_raw(new), Ordering::AcqRel);
        NonNull::new(old).expect("there is always a directory")
    }

    /// Publishes one segment, or the two halves of one, in place of the segment of `key`.
    fn swap_in(&self, key: u32, with: &[Segment<T>]) {
        let directory = self.directory();
        // SAFETY: the segments are alive, and this is the writer.
        let (depth, entries) = unsafe {
            let depth = with[0].0.as_ref().depth.get();
            (depth, with.iter().map(|s| s.entry()).collect::<Vec<_>>())
        };
        // The first directory entry of the old segment, and how many entries each new one has.
        let each = 1usize << (directory.depth - depth);
        let first = directory.at(key) & !(each * with.len() - 1);
        for (i, entry) in entries.into_iter().enumerate() {
            for e in &directory.entries[first + i * each..][..each] {
                e.store(entry, Ordering::Release);
            }
        }
    }

    /// Bytes of directory and segments.
    ///
    /// # Safety
    /// Only the writer.
    pub(super) unsafe fn bytes(&self) -> usize {
        let directory = self.directory();
        let mut sum = directory.bytes();
        let mut i = 0;
        while i < directory.entries.len() {
            let entry = directory.entries[i].load(Ordering::Relaxed);
            let depth = u32::from(tag_of(entry) >> DEPTH_SHIFT);
            sum += layout::<T>(tag_of(entry) as usize & LINES_MAX).size();
            i += 1 << (directory.depth - depth);
        }
        sum
    }

    /// Frees directory and segments, not the items.
    ///
    /// # Safety
    /// Nobody uses the index any more.
    pub(super) unsafe fn free(&mut self) {
        // SAFETY: by the contract, this is the only access.
        unsafe {
            let directory = Box::from_raw(self.directory.0.load(Ordering::Relaxed));
            let mut i = 0;
            while i < directory.entries.len() {
                let entry = directory.entries[i].load(Ordering::Relaxed);
                let depth = u32::from(tag_of(entry) >> DEPTH_SHIFT);
                Segment::<T>(NonNull::new_unchecked(untag(entry)), std::marker::PhantomData).free();
                i += 1 << (directory.depth - depth);
            }
        }
    }
}

/// Frees a replaced directory.
///
/// # Safety
/// Nobody can reach it any more.
pub(super) unsafe fn free_directory<T>(d: NonNull<Directory<T>>) {
    // SAFETY: it was made by `Box::into_raw`, and by the contract this is the only access.
    drop(unsafe { Box::from_raw(d.as_ptr()) });
}

/// An entry on its way to another segment.
struct Entry<T> {
    key: u32,
    tagged: *mut T,
}

/// All entries of a segment, with their keys. The items' lines are asked for first, since they lie far apart.
///
/// # Safety
/// Only the writer; the segment and its items are alive.
unsafe fn entries_of<T: Keyed>(segment: Segment<T>, lines: usize) -> Vec<Entry<T>> {
    // SAFETY: by the contract.
    let slots = unsafe { std::slice::from_raw_parts(segment.lines(), lines) }.iter().flat_map(|l| &l.0);
    let tagged: Vec<*mut T> = slots
        .map(|s| s.load(Ordering::Relaxed))
        .filter(|p| !p.is_null() && p.addr() != TOMBSTONE)
        .inspect(|p| prefetch(untag(*p)))
        .collect();
    // SAFETY: neither null nor a tombstone, so an item.
    let key = |p: *mut T| unsafe { T::key(NonNull::new_unchecked(untag(p))) };
    tagged.into_iter().map(|p| Entry { key: key(p), tagged: p }).collect()
}

/// A new segment with these entries.
fn fill<T, E: std::borrow::Borrow<Entry<T>>>(entries: &[E], lines: usize, depth: u32) -> Segment<T> {
    let segment = Segment::new(lines, depth);
    for e in entries {
        let e = e.borrow();
        // SAFETY: the segment is ours alone, and has room: callers choose `lines` for that.
        unsafe { put(segment, e.key, e.tagged) };
    }
    segment
}

/// Stores an entry in the first free slot from its home on.
///
/// # Safety
/// Only the writer; the segment is alive and has a slot that is empty or a tombstone.
unsafe fn put<T>(segment: Segment<T>, key: u32, tagged: *mut T) {
    // SAFETY: by the contract; `line` stays below the number of lines.
    unsafe {
        let head = segment.0.as_ref();
        let lines = head.lines.get();
        let mut line = home(key, lines);
        loop {
            for s in &(*segment.lines().add(line)).0 {
                let p = s.load(Ordering::Relaxed);
                if p.is_null() || p.addr() == TOMBSTONE {
                    if p.is_null() {
                        head.used.set(head.used.get() + 1);
                    } else {
                        head.tombs.set(head.tombs.get() - 1);
                    }
                    s.store(tagged, Ordering::Release);
                    return;
                }
            }
            line = if line + 1 == lines { 0 } else { line + 1 };
        }
    }
}
