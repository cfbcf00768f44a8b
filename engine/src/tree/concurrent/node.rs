//! The bytes of nodes and versions (engine/DESIGN.md section 1): how they are built, read and given back.
//!
//! Not here: when they may be given back (`store`), who finds them (`index`).
//! Invariants:
//! - an object is complete before the pointer that publishes it is Release-stored;
//! - a `*mut Node` that came from [`Node::build`] keeps the provenance of its whole allocation, name and data
//!   included, so names and data are only ever reached through it, never through a `&Node`.

use super::primitive::{
    AtomicPtr, AtomicU32, AtomicU64, Ordering, assert_taggable, prefetch, tag_of, untag, with_tag,
};
use std::alloc::{Layout, alloc, dealloc, handle_alloc_error};
use std::cell::UnsafeCell;
use std::mem::{align_of, offset_of, size_of};
use std::ptr::{self, NonNull};

/// The length that stands for null data.
const NULL_LEN: u32 = u32::MAX;
const NAME_BITS: u32 = 28;
/// Bytes that a name can have.
pub(super) const NAME_MAX: usize = (1 << NAME_BITS) - 1;
const OWNER: u32 = 1 << NAME_BITS;
const OLDER: u32 = 2 << NAME_BITS;
const FIRST: u32 = 4 << NAME_BITS;
/// The allocator was asked for the alignment; see [`allocate_node`].
const STRICT: u32 = 8 << NAME_BITS;

/// One incarnation of a znode. See the drawing for what follows the header.
#[repr(C)]
pub(super) struct Node {
    parent: *mut Node,
    prev: UnsafeCell<*mut Node>,
    pub(super) next: AtomicPtr<Node>,
    died: AtomicU64,
    pub(super) data: AtomicPtr<DataVersion>,
    pub(super) children: AtomicPtr<Children>,
    pub(super) czxid: u64,
    pub(super) ctime: i64,
    meta: u32,
    acl: u32,
    data_len: u32,
}

/// Where the name begins when there is no extension: in the header's padding.
const PLAIN_TAIL: usize = offset_of!(Node, data_len) + size_of::<u32>();
/// Where the extension begins when there is one.
const EXTENSION: usize = size_of::<Node>();

/// What an inline version carries beyond a fresh one.
#[repr(C)]
#[derive(Clone, Copy)]
struct First {
    mzxid: u64,
    mtime: i64,
    version: i32,
    aversion: i32,
}

/// A data version that replaced one.
#[repr(C)]
pub(super) struct DataVersion {
    pub(super) since: u64,
    pub(super) prev: AtomicPtr<DataVersion>,
    first: First,
    pub(super) acl: u32,
    len: u32,
}

/// A child version.
#[repr(C)]
pub(super) struct ChildVersion {
    pub(super) since: u64,
    pub(super) prev: AtomicPtr<ChildVersion>,
    pzxid: AtomicU64,
    cversion: AtomicU32,
    num: AtomicU32,
}

/// What a node has once it has had a child, or a child version of its own.
#[repr(C)]
pub(super) struct Children {
    pub(super) head: AtomicPtr<Node>,
    pub(super) version: AtomicPtr<ChildVersion>,
}

// The drawing in engine/DESIGN.md, kept by the compiler.
#[cfg(all(target_pointer_width = "64", not(loom)))]
const _: () = {
    assert!(size_of::<Node>() == 80 && PLAIN_TAIL == 76);
    assert!(offset_of!(Node, died) == 24 && offset_of!(Node, czxid) == 48 && offset_of!(Node, meta) == 64);
    assert!(size_of::<DataVersion>() == 48 && size_of::<ChildVersion>() == 32);
    assert!(size_of::<Children>() == 16);
};

/// What one data version says.
#[derive(Clone, Copy, Debug)]
pub(in crate::tree) struct DataFields<'a> {
    pub data: Option<&'a [u8]>,
    pub mzxid: u64,
    pub mtime: i64,
    pub version: i32,
    pub aversion: i32,
    pub acl: u32,
}

/// What one child version says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(in crate::tree) struct ChildFields {
    pub pzxid: u64,
    /// As stored.
    pub cversion: i32,
    pub num: u32,
}

/// What a new node is made of.
pub(in crate::tree) struct NewNode<'a> {
    pub czxid: u64,
    pub ctime: i64,
    pub owner: i64,
    pub fields: DataFields<'a>,
    pub children: ChildFields,
}

/// Where a new node goes.
pub(super) struct Place<'a> {
    pub parent: *mut Node,
    /// Upper half of the path's hash.
    pub key: u32,
    pub name: &'a [u8],
    pub older: *mut Node,
}

fn flags_of(new: &NewNode<'_>, older: *mut Node) -> u32 {
    let f = &new.fields;
    let fresh = f.mzxid == new.czxid && f.mtime == new.ctime && f.version == 0 && f.aversion == 0;
    (if new.owner != 0 { OWNER } else { 0 })
        | (if older.is_null() { 0 } else { OLDER })
        | (if fresh { 0 } else { FIRST })
}

/// Offsets within a node, by its flags.
fn older_at(_meta: u32) -> usize {
    EXTENSION
}
fn owner_at(meta: u32) -> usize {
    EXTENSION + if meta & OLDER != 0 { size_of::<AtomicPtr<Node>>() } else { 0 }
}
fn first_at(meta: u32) -> usize {
    owner_at(meta) + if meta & OWNER != 0 { size_of::<i64>() } else { 0 }
}
#[inline]
fn name_at(meta: u32) -> usize {
    if meta & (OWNER | OLDER | FIRST) == 0 {
        return PLAIN_TAIL;
    }
    first_at(meta) + if meta & FIRST != 0 { size_of::<First>() } else { 0 }
}

fn data_bytes(len: u32) -> usize {
    if len == NULL_LEN { 0 } else { len as usize }
}

fn len_of(data: Option<&[u8]>) -> u32 {
    data.map_or(NULL_LEN, |d| {
        u32::try_from(d.len()).ok().filter(|&n| n != NULL_LEN).expect("data under 4 GiB")
    })
}

fn node_layout(meta: u32, data_len: u32) -> Layout {
    let name = (meta & (OWNER - 1)) as usize;
    let size = (name_at(meta) + name + data_bytes(data_len)).max(size_of::<Node>());
    let align = if meta & STRICT == 0 { 1 } else { align_of::<Node>() };
    Layout::from_size_align(size, align).expect("a node's size is below 5 GiB")
}

/// Allocates a node, and sets `STRICT` if its layout must say the alignment.
///
/// mimalloc, asked for an alignment, makes the request larger by it: 189 bytes then land in the size class of 224, not
/// 192. Every allocator in use aligns blocks of this size anyway; so it is asked without first, and only if the block
/// is not aligned, again with.
fn allocate_node(meta: &mut u32, data_len: u32) -> *mut Node {
    let layout = node_layout(*meta, data_len);
    let raw = allocate(layout);
    if raw.addr().is_multiple_of(align_of::<Node>()) {
        return raw.cast();
    }
    // SAFETY: just allocated with this layout, and known to nobody.
    unsafe { dealloc(raw, layout) };
    *meta |= STRICT;
    allocate(node_layout(*meta, data_len)).cast()
}

/// Allocates `layout`; never null.
fn allocate(layout: Layout) -> *mut u8 {
    // SAFETY: every layout of this module has a header, so its size is not zero.
    let p = unsafe { alloc(layout) };
    if p.is_null() {
        handle_alloc_error(layout)
    }
    p
}

impl Node {
    /// Builds a node. It is not linked anywhere yet.
    pub(super) fn build(new: &NewNode<'_>, place: &Place<'_>) -> NonNull<Node> {
        assert!(place.name.len() <= NAME_MAX);
        let flags = flags_of(new, place.older);
        let mut meta = flags | place.name.len() as u32;
        let f = &new.fields;
        let data_len = len_of(f.data);
        let node = allocate_node(&mut meta, data_len);
        let raw: *mut u8 = node.cast();
        assert_taggable(node);
        let header = Node {
            parent: with_tag(place.parent, (place.key >> 16) as u16),
            prev: UnsafeCell::new(with_tag(ptr::null_mut(), place.key as u16)),
            next: AtomicPtr::new(ptr::null_mut()),
            died: AtomicU64::new(0),
            data: AtomicPtr::new(ptr::null_mut()),
            children: AtomicPtr::new(ptr::null_mut()),
            czxid: new.czxid,
            ctime: new.ctime,
            meta,
            acl: f.acl,
            data_len,
        };
        let first = First { mzxid: f.mzxid, mtime: f.mtime, version: f.version, aversion: f.aversion };
        // SAFETY: the layout covers the header (which includes its padding), the extension that the flags announce
        // (aligned to 8, as the header's size is), the name and the data. Nobody else knows the allocation yet. The
        // header is written first, since its padding may be overwritten by the name.
        unsafe {
            node.write(header);
            if flags & OLDER != 0 {
                raw.add(older_at(meta)).cast::<AtomicPtr<Node>>().write(AtomicPtr::new(place.older));
            }
            if flags & OWNER != 0 {
                raw.add(owner_at(meta)).cast::<i64>().write(new.owner);
            }
            if flags & FIRST != 0 {
                raw.add(first_at(meta)).cast::<First>().write(first);
            }
            let name = raw.add(name_at(meta));
            name.copy_from_nonoverlapping(place.name.as_ptr(), place.name.len());
            if let Some(d) = f.data {
                name.add(place.name.len()).copy_from_nonoverlapping(d.as_ptr(), d.len());
            }
            if new.children != (ChildFields { pzxid: new.czxid, cversion: 0, num: 0 }) {
                let c = Children::build(ChildVersion::build(0, &new.children, ptr::null_mut()));
                (*node).children.store(c, Ordering::Release);
            }
            NonNull::new_unchecked(node)
        }
    }

    /// Gives back the node, its current data version, and its children block with the current child version.
    ///
    /// # Safety
    /// `node` came from `build`, nobody can reach it any more, and it is not used again.
    pub(super) unsafe fn free(node: NonNull<Node>) {
        // SAFETY: by the contract this is the only access; what hangs off the node is owned by it, since
        // predecessors are owned by the store's queue.
        unsafe {
            let n = node.as_ref();
            let layout = node_layout(n.meta, n.data_len);
            let data = n.data.load(Ordering::Relaxed);
            if let Some(d) = NonNull::new(data) {
                DataVersion::free(d);
            }
            if let Some(c) = NonNull::new(n.children.load(Ordering::Relaxed)) {
                if let Some(v) = NonNull::new(c.as_ref().version.load(Ordering::Relaxed)) {
                    ChildVersion::free(v);
                }
                drop(Box::from_raw(c.as_ptr()));
            }
            if n.meta & OLDER != 0 {
                ptr::drop_in_place(node.as_ptr().byte_add(older_at(n.meta)).cast::<AtomicPtr<Node>>());
            }
            ptr::drop_in_place(node.as_ptr());
            dealloc(node.as_ptr().cast(), layout);
        }
    }

    /// Bytes asked from the allocator for the node and what it owns.
    pub(super) fn owned_bytes(&self) -> usize {
        let mut sum = node_layout(self.meta, self.data_len).size();
        let data = self.data.load(Ordering::Relaxed);
        if !data.is_null() {
            // SAFETY: the current data version lives as long as its node.
            sum += unsafe { (*data).bytes() };
        }
        if !self.children.load(Ordering::Relaxed).is_null() {
            sum += size_of::<Children>() + size_of::<ChildVersion>();
        }
        sum
    }

    /// The parent; null for the root.
    #[inline]
    pub(super) fn parent(&self) -> *mut Node {
        untag(self.parent)
    }

    /// 0 while alive.
    #[inline]
    pub(super) fn died(&self) -> u64 {
        self.died.load(Ordering::Acquire)
    }

    /// Marks the incarnation dead from `zxid` on. Only the writer, once.
    pub(super) fn kill(&self, zxid: u64) {
        debug_assert_eq!(self.died(), 0);
        self.died.store(zxid, Ordering::Release);
    }

    #[inline]
    pub(super) fn is_visible(&self, h: u64) -> bool {
        if self.czxid > h {
            return false;
        }
        let died = self.died();
        died == 0 || h < died
    }

    /// The ACL id of the inline version.
    pub(super) fn inline_acl(&self) -> u32 {
        self.acl
    }

    /// # Safety
    /// Only the writer.
    pub(super) unsafe fn prev(&self) -> *mut Node {
        // SAFETY: the writer alone touches this field.
        untag(unsafe { *self.prev.get() })
    }

    /// # Safety
    /// Only the writer.
    pub(super) unsafe fn set_prev(&self, to: *mut Node) {
        // SAFETY: the writer alone touches this field.
        unsafe {
            let tag = tag_of(*self.prev.get());
            *self.prev.get() = with_tag(to, tag);
        }
    }

    /// The upper half of the path's hash.
    ///
    /// # Safety
    /// Only the writer.
    pub(super) unsafe fn key(&self) -> u32 {
        // SAFETY: the writer alone touches `prev`.
        let low = tag_of(unsafe { *self.prev.get() });
        (u32::from(tag_of(self.parent)) << 16) | u32::from(low)
    }
}

/// Reads that reach behind the header. All are unsafe for the same reason: `node` must come from [`Node::build`]
/// and stay allocated for `'a`.
impl Node {
    /// # Safety
    /// See above.
    #[inline]
    pub(super) unsafe fn name<'a>(node: NonNull<Node>) -> &'a [u8] {
        // SAFETY: `build` wrote the name there, and it is immutable.
        unsafe {
            let meta = (*node.as_ptr()).meta;
            let at = node.as_ptr().byte_add(name_at(meta)).cast::<u8>();
            std::slice::from_raw_parts(at, (meta & (OWNER - 1)) as usize)
        }
    }

    /// The raw ephemeral owner.
    ///
    /// # Safety
    /// See above.
    #[inline]
    pub(super) unsafe fn owner(node: NonNull<Node>) -> i64 {
        // SAFETY: the flag says that `build` wrote it there.
        unsafe {
            let meta = (*node.as_ptr()).meta;
            if meta & OWNER == 0 { 0 } else { node.as_ptr().byte_add(owner_at(meta)).cast::<i64>().read() }
        }
    }

    /// The incarnation of the same path before this one, if it was still linked when this one was made.
    ///
    /// # Safety
    /// See above.
    pub(super) unsafe fn older<'a>(node: NonNull<Node>) -> Option<&'a AtomicPtr<Node>> {
        // SAFETY: the flag says that `build` wrote it there; 80 is a multiple of its alignment.
        unsafe {
            let meta = (*node.as_ptr()).meta;
            (meta & OLDER != 0).then(|| &*node.as_ptr().byte_add(older_at(meta)).cast::<AtomicPtr<Node>>())
        }
    }

    /// The inline version.
    ///
    /// # Safety
    /// See above.
    #[inline]
    unsafe fn inline<'a>(node: NonNull<Node>) -> DataFields<'a> {
        // SAFETY: `build` wrote name, data and, if the flag says so, `First`; all immutable.
        unsafe {
            let n = &*node.as_ptr();
            let data = (n.data_len != NULL_LEN).then(|| {
                let at = name_at(n.meta) + (n.meta & (OWNER - 1)) as usize;
                std::slice::from_raw_parts(node.as_ptr().byte_add(at).cast::<u8>(), n.data_len as usize)
            });
            let first = if n.meta & FIRST == 0 {
                First { mzxid: n.czxid, mtime: n.ctime, version: 0, aversion: 0 }
            } else {
                node.as_ptr().byte_add(first_at(n.meta)).cast::<First>().read()
            };
            first.fields(data, n.acl)
        }
    }

    /// The data version that is visible at `h`.
    ///
    /// # Safety
    /// See above; and what is visible at `h` is kept for `'a`.
    #[inline]
    pub(super) unsafe fn fields<'a>(node: NonNull<Node>, h: u64) -> DataFields<'a> {
        // SAFETY: versions at and above the one visible at `h` are kept for `'a` by the contract.
        unsafe {
            let mut v = (*node.as_ptr()).data.load(Ordering::Acquire);
            while let Some(d) = NonNull::new(v) {
                if (*d.as_ptr()).since <= h {
                    return DataVersion::fields(d);
                }
                v = (*d.as_ptr()).prev.load(Ordering::Acquire);
            }
            Node::inline(node)
        }
    }

    /// The child version that is visible at `h`.
    ///
    /// # Safety
    /// As for `fields`.
    #[inline]
    pub(super) unsafe fn child_fields(node: NonNull<Node>, h: u64) -> ChildFields {
        // SAFETY: as in `fields`; a children block lives as long as its node.
        unsafe {
            let c = (*node.as_ptr()).children.load(Ordering::Acquire);
            if !c.is_null() {
                let mut v = (*c).version.load(Ordering::Acquire);
                while !v.is_null() {
                    if (*v).since <= h {
                        return (*v).fields();
                    }
                    v = (*v).prev.load(Ordering::Acquire);
                }
            }
            ChildFields { pzxid: (*node.as_ptr()).czxid, cversion: 0, num: 0 }
        }
    }

    /// The first node of the child list, visible or not; null if there is none.
    ///
    /// # Safety
    /// See above.
    pub(super) unsafe fn first_child(node: NonNull<Node>) -> *mut Node {
        // SAFETY: a children block lives as long as its node.
        unsafe {
            let c = (*node.as_ptr()).children.load(Ordering::Acquire);
            if c.is_null() { ptr::null_mut() } else { (*c).head.load(Ordering::Acquire) }
        }
    }

    /// Asks for the lines that hold the value.
    ///
    /// # Safety
    /// See above.
    #[inline]
    pub(super) unsafe fn prefetch_value(node: NonNull<Node>) {
        // SAFETY: the header is readable; the addresses asked for are hints.
        unsafe {
            let n = &*node.as_ptr();
            let d = n.data.load(Ordering::Acquire);
            let (at, len) = if d.is_null() {
                let len = (n.meta & (OWNER - 1)) as usize + data_bytes(n.data_len);
                (node.as_ptr().cast::<u8>().wrapping_add(PLAIN_TAIL), len)
            } else {
                (d.cast::<u8>(), size_of::<DataVersion>() + 64)
            };
            for line in (0..len.min(1024)).step_by(64) {
                prefetch(at.wrapping_add(line));
            }
            prefetch(n.children.load(Ordering::Relaxed));
        }
    }
}

impl First {
    #[inline]
    fn fields(self, data: Option<&[u8]>, acl: u32) -> DataFields<'_> {
        let First { mzxid, mtime, version, aversion } = self;
        DataFields { data, mzxid, mtime, version, aversion, acl }
    }
}

fn version_layout(len: u32) -> Layout {
    let size = size_of::<DataVersion>() + data_bytes(len);
    Layout::from_size_align(size, align_of::<DataVersion>()).expect("a version's size is below 5 GiB")
}

impl DataVersion {
    /// Builds a version with a copy of the data.
    pub(super) fn build(since: u64, f: &DataFields<'_>, prev: *mut DataVersion) -> *mut DataVersion {
        let len = len_of(f.data);
        let v: *mut DataVersion = allocate(version_layout(len)).cast();
        let first = First { mzxid: f.mzxid, mtime: f.mtime, version: f.version, aversion: f.aversion };
        // SAFETY: the layout covers the header and the data; nobody else knows the allocation.
        unsafe {
            v.write(DataVersion { since, prev: AtomicPtr::new(prev), first, acl: f.acl, len });
            if let Some(d) = f.data {
                v.add(1).cast::<u8>().copy_from_nonoverlapping(d.as_ptr(), d.len());
            }
        }
        v
    }

    /// # Safety
    /// `v` came from `build` and nobody can reach it any more.
    pub(super) unsafe fn free(v: NonNull<DataVersion>) {
        // SAFETY: by the contract.
        unsafe {
            let layout = version_layout(v.as_ref().len);
            ptr::drop_in_place(v.as_ptr());
            dealloc(v.as_ptr().cast(), layout);
        }
    }

    /// # Safety
    /// `v` came from `build` and is kept for `'a`.
    #[inline]
    unsafe fn fields<'a>(v: NonNull<DataVersion>) -> DataFields<'a> {
        // SAFETY: `build` wrote the data behind the header; both are immutable.
        unsafe {
            let d = &*v.as_ptr();
            let data = (d.len != NULL_LEN)
                .then(|| std::slice::from_raw_parts(v.as_ptr().add(1).cast::<u8>(), d.len as usize));
            d.first.fields(data, d.acl)
        }
    }

    /// Bytes asked from the allocator.
    pub(super) fn bytes(&self) -> usize {
        version_layout(self.len).size()
    }
}

impl ChildVersion {
    pub(super) fn build(since: u64, f: &ChildFields, prev: *mut ChildVersion) -> *mut ChildVersion {
        Box::into_raw(Box::new(ChildVersion {
            since,
            prev: AtomicPtr::new(prev),
            pzxid: AtomicU64::new(f.pzxid),
            cversion: AtomicU32::new(f.cversion as u32),
            num: AtomicU32::new(f.num),
        }))
    }

    /// # Safety
    /// `v` came from `build` and nobody can reach it any more.
    pub(super) unsafe fn free(v: NonNull<ChildVersion>) {
        // SAFETY: by the contract.
        drop(unsafe { Box::from_raw(v.as_ptr()) });
    }

    /// Changes the version in place: allowed while no reader's `H` has reached its `since`.
    pub(super) fn amend(&self, f: &ChildFields) {
        self.pzxid.store(f.pzxid, Ordering::Relaxed);
        self.cversion.store(f.cversion as u32, Ordering::Relaxed);
        self.num.store(f.num, Ordering::Relaxed);
    }

    #[inline]
    fn fields(&self) -> ChildFields {
        ChildFields {
            pzxid: self.pzxid.load(Ordering::Relaxed),
            cversion: self.cversion.load(Ordering::Relaxed) as i32,
            num: self.num.load(Ordering::Relaxed),
        }
    }
}

impl Children {
    pub(super) fn build(version: *mut ChildVersion) -> *mut Children {
        Box::into_raw(Box::new(Children {
            head: AtomicPtr::new(ptr::null_mut()),
            version: AtomicPtr::new(version),
        }))
    }
}
