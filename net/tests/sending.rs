//! What a learner is sent, without its link: how much memory that takes, and that it ends when nobody wants it.
#![allow(unsafe_code)] // A counting allocator cannot be written without.

use engine::foreign::Bounds;
use engine::foreign::snapshot::{Parser, Record};
use engine::ids::Zxid;
use engine::pipeline::Database;
use engine::proto::Acl;
use engine::tree;
use engine::tree::StatPersisted;
use engine::zab::wire::{Kind, parse};
use engine::zab::{Mark, Record as LogRecord};
use sending::{PIECE_BYTES, SIGNATURE, Sending, What};
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tempfile::TempDir;
use wal::disk::RealDisk;
use wal::{DataDir, Group, Log, Options, Position};

mod ring {
    pub use net::ring::Wake;
}
#[path = "../src/server/sending.rs"]
#[allow(dead_code)]
mod sending;

struct Nobody;
impl ring::Wake for Nobody {
    fn wake(&self) {}
}

/// Counts what is allocated, and the most that ever was.
struct Counting;
static LIVE: AtomicI64 = AtomicI64::new(0);
static PEAK: AtomicI64 = AtomicI64::new(0);

// SAFETY: everything is left to the system's allocator.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size() as i64, Ordering::Relaxed) + layout.size() as i64;
        PEAK.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size() as i64, Ordering::Relaxed);
        // SAFETY: the caller's contract is passed on.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// What one test allocates is counted, so the others wait.
static COUNTED: Mutex<()> = Mutex::new(());

const UPTO: Zxid = Zxid(0x1_0000_0009);

/// A state of so many nodes of so many bytes, and what sends it. The log holds these records.
fn sending(
    dir: &TempDir,
    (nodes, bytes): (usize, usize),
    position: Position,
    records: &[&[u8]],
) -> (Database, Sending, crossbeam::channel::Receiver<Vec<u8>>) {
    let (mut writer, _) = tree::new_bare(1, 2);
    writer.ensure_builtins();
    let mut db = Database::new(writer);
    let stat = StatPersisted { czxid: UPTO, mzxid: UPTO, pzxid: UPTO, ..StatPersisted::default() };
    for n in 0..nodes {
        db.load_node(&format!("/n{n}"), Some(&vec![b'x'; bytes]), &[Acl::open()], &stat).unwrap();
    }
    db.loaded(UPTO, HashMap::new());
    db.tree.publish(UPTO);
    let data = DataDir::open(Arc::new(RealDisk::buffered()), dir.path()).unwrap();
    let (mut log, _) = Log::open(&data, Options { background: false, ..Options::default() }).unwrap();
    if !records.is_empty() {
        let mut group = Group::new(1 << 20);
        records.iter().for_each(|r| group.push_slice(r).unwrap());
        log.write(&mut group).unwrap();
    }
    let walker = || db.tree.handle().walker(UPTO).unwrap();
    let (to, pieces) = crossbeam::channel::bounded(2);
    let sending = Sending {
        last: Zxid(0x1_0000_0001),
        upto: UPTO,
        position,
        what: What::All { tree_bytes: 0, sessions: Vec::new(), walkers: (walker(), walker()) },
        data,
        log: log.reader(),
        to,
        wake: Arc::new(Nobody),
        stop: Arc::default(),
        quiet: false,
    };
    (db, sending, pieces)
}

#[test]
fn a_snapshot_of_large_nodes_takes_the_memory_of_a_few_pieces() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (nodes, bytes) = (48, 1_000_000);
    let dir = TempDir::new().unwrap();
    let (_db, sending, pieces) = sending(&dir, (nodes, bytes), Position(0), &[]);
    let before = LIVE.load(Ordering::Relaxed);
    PEAK.store(before, Ordering::Relaxed);
    let sender = std::thread::spawn(move || sending.run());
    let (mut parser, mut held, mut found) = (Parser::new(Bounds::default()), Vec::new(), 0);
    let mut first = true;
    for piece in &pieces {
        assert!(piece.len() <= PIECE_BYTES);
        if piece.is_empty() {
            break;
        }
        held.extend_from_slice(&piece);
        if std::mem::take(&mut first) {
            let (packet, n) = parse(&held, 1 << 20).unwrap().unwrap();
            assert_eq!((packet.kind, packet.zxid), (Kind::Snap, UPTO));
            held.drain(..n);
        }
        let counted = |record: Record<'_>| -> anyhow::Result<()> {
            if let Record::Node { data: Some(data), .. } = record {
                found += usize::from(data.len() == bytes);
            }
            Ok(())
        };
        let used = parser.feed(&held, counted).unwrap();
        held.drain(..used);
    }
    sender.join().unwrap();
    assert_eq!((found, &held[..]), (nodes, SIGNATURE));
    // The reader here holds a node as well.
    let most = PEAK.load(Ordering::Relaxed) - before;
    assert!(most < 8_000_000, "{most} bytes");
}

#[test]
fn what_waits_for_the_log_ends_when_nobody_wants_it() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let dir = TempDir::new().unwrap();
    // The log never gets there: the server was killed.
    let (_db, sending, pieces) = sending(&dir, (1, 10), Position(5), &[]);
    let stop: Arc<AtomicBool> = sending.stop.clone();
    let sender = std::thread::spawn(move || sending.run());
    stop.store(true, Ordering::Relaxed);
    sender.join().unwrap();
    assert!(pieces.try_recv().is_err(), "nothing was sent");
    drop(DataDir::open(Arc::new(RealDisk::buffered()), dir.path()).expect("nobody holds the lock"));
}

/// A transaction, as far as it is looked at here.
fn txn(zxid: Zxid) -> Vec<u8> {
    let (session, cxid, kind) = (1u64.to_be_bytes(), 1u32.to_be_bytes(), 11u32.to_be_bytes());
    [&session[..], &cxid, &zxid.0.to_be_bytes(), &[0; 8], &kind].concat()
}

/// A server whose state came as a snapshot, and that has applied nothing since: its own former log leads elsewhere.
#[test]
fn what_a_snapshot_has_replaced_is_sent_to_nobody() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (common, former) = (txn(Zxid::new(1, 1)), txn(Zxid::new(1, 2)));
    let mark = Mark::Installed(UPTO).encode();
    assert!(matches!(LogRecord::decode(&former), Some(LogRecord::Txn(_))));
    let dir = TempDir::new().unwrap();
    let (_db, sending, pieces) = sending(&dir, (1, 10), Position(2), &[&common, &former, &mark]);
    let sender = std::thread::spawn(move || sending.run());
    let first = pieces.recv().unwrap();
    let (packet, _) = parse(&first, 1 << 20).unwrap().unwrap();
    assert_eq!((packet.kind, packet.zxid), (Kind::Snap, UPTO));
    assert_eq!(pieces.iter().last().map(|p| p.len()), Some(0), "it comes to its end");
    sender.join().unwrap();
}

/// The same where the learner's history ends where that snapshot did, and the file is gone by now.
#[test]
fn the_log_is_sent_from_behind_the_mark_of_the_snapshot_that_it_goes_on_from() {
    let _alone = COUNTED.lock().unwrap_or_else(PoisonError::into_inner);
    let (common, former, next) = (Zxid::new(1, 1), Zxid::new(2, 1), Zxid::new(3, 1));
    let records = [txn(common), txn(former), Mark::Installed(common).encode().to_vec(), txn(next)];
    let records: Vec<&[u8]> = records.iter().map(Vec::as_slice).collect();
    let dir = TempDir::new().unwrap();
    let (_db, mut sending, pieces) = sending(&dir, (1, 10), Position(4), &records);
    sending.upto = next;
    let sender = std::thread::spawn(move || sending.run());
    let sent: Vec<u8> = pieces.iter().flatten().collect();
    sender.join().unwrap();
    let (mut rest, mut packets) = (&sent[..], Vec::new());
    while let Some((p, n)) = parse(rest, 1 << 20).unwrap() {
        packets.push((p.kind, p.zxid));
        rest = &rest[n..];
    }
    assert_eq!(packets, [(Kind::Diff, next), (Kind::Proposal, next), (Kind::Commit, next)]);
}
