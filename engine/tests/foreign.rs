//! ZooKeeper's formats against files that Debian's 3.8.0 wrote (`net/tests/golden/foreign`), damaged ones, and our own
//! writer.

use engine::foreign::log::{self, End};
use engine::foreign::snapshot::{
    Encoder, FileFrame, FileParser, Footers, Parser, Record, UnknownAcl, Unreadable,
};
use engine::foreign::{Adler32, Bounds};
use engine::ids::{SessionId, Zxid};
use engine::proto::{Acl, Encode, Id};
use engine::tree::StatPersisted;
use engine::txn::Txn;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/../net/tests/golden/foreign/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).expect("a golden file");
    let digits: String = text.lines().filter(|l| !l.starts_with('#')).collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// A node by value.
type Node = (String, Option<Vec<u8>>, Option<Vec<Acl>>, StatPersisted);

#[derive(Default, Debug, PartialEq)]
struct State {
    sessions: Vec<(SessionId, i32)>,
    nodes: Vec<Node>,
    ended: bool,
}

impl State {
    fn take(&mut self, record: Record<'_>) -> Result<(), Unreadable> {
        match record {
            Record::Session { id, timeout_ms } => self.sessions.push((id, timeout_ms)),
            Record::Node { path, data, acl, stat } => {
                self.nodes.push((path.into(), data.map(Into::into), acl.map(Into::into), stat));
            }
            Record::End { sessions, nodes } => {
                assert_eq!((sessions as usize, nodes as usize), (self.sessions.len(), self.nodes.len()));
                self.ended = true;
            }
        }
        Ok(())
    }
    fn digest(&self) -> u64 {
        let of = |n: &Node| u64::from(engine::tree::digest::node(&n.0, n.1.as_deref(), &n.3));
        self.nodes.iter().map(of).sum()
    }
}

/// Reads a file that comes in pieces of `piece` bytes.
fn read_file(bytes: &[u8], piece: usize) -> Result<(State, Footers), Unreadable> {
    let (mut parser, mut state) = (FileParser::new(Bounds::default()), State::default());
    let mut held: Vec<u8> = Vec::new();
    for p in bytes.chunks(piece.max(1)) {
        held.extend_from_slice(p);
        let n = parser.feed(&held, |r| state.take(r))?;
        held.drain(..n);
    }
    let footers = parser.finish()?;
    assert!(held.is_empty() && state.ended);
    Ok((state, footers))
}

fn write_file(state: &State, digest: Option<(Zxid, u64)>) -> Vec<u8> {
    let (mut encoder, mut frame, mut out) = (Encoder::default(), FileFrame::default(), Vec::new());
    for (_, _, acl, _) in &state.nodes {
        encoder.note(acl.as_deref().expect("every node has one"));
    }
    frame.header(&mut out);
    let start = out.len();
    encoder.head(&state.sessions, &mut out);
    for (path, data, acl, stat) in &state.nodes {
        encoder.node(path, data.as_deref(), acl.as_deref().unwrap(), stat, &mut out).unwrap();
    }
    encoder.end(&mut out);
    frame.body(&out[start..]);
    frame.footers(digest, &mut out);
    out
}

#[test]
fn the_live_snapshots_are_read_and_written_back_byte_by_byte() {
    for (name, nodes, sessions, zxid) in [("snapshot.0", 4, 0, 0), ("snapshot.8", 7, 1, 8)] {
        let file = golden(name);
        let whole = read_file(&file, file.len()).unwrap();
        for piece in [1, 7, 64] {
            assert_eq!(read_file(&file, piece).unwrap(), whole);
        }
        let (state, footers) = whole;
        assert_eq!((state.nodes.len(), state.sessions.len()), (nodes, sessions));
        assert_eq!(state.nodes[0].0, "/");
        if zxid == 0 {
            assert_eq!(footers, Footers::default(), "the digest of no transaction says nothing");
            assert_eq!(state.digest(), 0x51c6_d660);
            assert_eq!(write_file(&state, Some((Zxid::ZERO, 0))), file);
        } else {
            assert_eq!(footers.digest, Some((Zxid(zxid), state.digest())));
            assert_eq!(read_file(&write_file(&state, footers.digest), 99).unwrap(), (state, footers));
        }
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let file = golden("snapshot.8");
    for at in 0..file.len() {
        for bit in 0..8 {
            let mut bad = file.clone();
            bad[at] ^= 1 << bit;
            // Nobody looks at the header's database number but the checksum.
            assert!(read_file(&bad, bad.len()).is_err(), "byte {at}, bit {bit}");
        }
    }
}

#[test]
fn a_cut_file_is_refused_except_where_older_releases_end() {
    let file = golden("snapshot.8");
    for n in 0..file.len() {
        let read = read_file(&file[..n], file.len());
        assert_eq!(read.is_ok(), n == file.len() - 33, "{n}");
    }
    // Of a compressed one a server that was killed may have left its packing only.
    for n in 0..16 {
        assert_eq!(read_file(&file[..n], 1).map(|_| ()), Err(Unreadable::Cut { at: 0 }), "{n}");
    }
    assert_eq!(read_file(b"ZKLG", 1).map(|_| ()), Err(Unreadable::NotASnapshot));
    let mut longer = file.clone();
    longer.push(0);
    assert!(read_file(&longer, longer.len()).is_err());
    longer.extend_from_slice(&[0; 4096]);
    assert!(read_file(&longer, 100).is_err());
}

#[test]
fn digests_of_older_forms_and_the_last_zxid_of_younger_releases() {
    let file = golden("snapshot.8");
    let plain = &file[..file.len() - 33];
    let seal = |b: &mut Vec<u8>| {
        let sum = Adler32::of(b);
        b.put_long(sum.into());
        b.put_string("/");
    };
    let mut last_only = plain.to_vec();
    last_only.put_long(9);
    seal(&mut last_only);
    let footers = read_file(&last_only, 50).unwrap().1;
    assert_eq!(footers, Footers { digest: None, last: Some(Zxid(9)) });

    let mut both = file.clone();
    both.put_long(9);
    seal(&mut both);
    let footers = read_file(&both, 50).unwrap().1;
    assert_eq!((footers.digest.map(|d| d.0), footers.last), (Some(Zxid(8)), Some(Zxid(9))));

    let mut text = plain.to_vec();
    text.put_long(8);
    text.put_int(1);
    text.put_string("9f3a");
    seal(&mut text);
    text.put_long(9);
    seal(&mut text);
    let footers = read_file(&text, 50).unwrap().1;
    assert_eq!(footers, Footers { digest: None, last: Some(Zxid(9)) });
}

#[test]
fn the_body_ends_at_its_mark_and_leaves_the_rest() {
    let file = golden("snapshot.8");
    let mut stream = file[16..file.len() - 46].to_vec();
    let body = stream.len();
    stream.put_string("BenWasHere");
    let (mut parser, mut state) = (Parser::new(Bounds::default()), State::default());
    assert_eq!(parser.feed(&stream, |r| state.take(r)), Ok(body));
    assert!(parser.is_done() && parser.finish().is_ok());
    assert_eq!(parser.offset(), body as u64);
    assert_eq!(parser.feed(&stream[body..], |r| state.take(r)), Ok(0));
    let mut cut = Parser::new(Bounds::default());
    cut.feed(&stream[..body - 1], |_| Ok::<(), Unreadable>(())).unwrap();
    assert!(matches!(cut.finish(), Err(Unreadable::Cut { .. })));
}

fn body(f: impl FnOnce(&mut Vec<u8>)) -> Result<(), Unreadable> {
    let mut b = Vec::new();
    f(&mut b);
    let bounds = Bounds { field_bytes: 1000, acl_bytes: 1000, total_bytes: 10_000 };
    let mut parser = Parser::new(bounds);
    parser.feed(&b, |_| Ok::<(), Unreadable>(()))?;
    parser.finish()
}

fn put_node(b: &mut Vec<u8>, path: &str, key: i64) {
    b.put_string(path);
    b.put_buffer(None);
    b.put_long(key);
    b.put_bytes(&StatPersisted::default().to_bytes());
}

#[test]
fn what_cannot_be_is_refused_at_once() {
    let start = |b: &mut Vec<u8>| {
        b.put_int(0);
        b.put_int(0);
    };
    assert_eq!(
        body(|b| {
            start(b);
            put_node(b, "", -1);
            b.put_string("/");
        }),
        Ok(())
    );
    let damaged = |f: &dyn Fn(&mut Vec<u8>)| {
        let r = body(f);
        assert!(matches!(r, Err(Unreadable::Damaged { .. })), "{r:?}");
    };
    damaged(&|b| b.put_int(-1));
    damaged(&|b| {
        b.put_int(0);
        b.put_int(-2);
    });
    damaged(&|b| {
        start(b);
        b.put_string("/");
    });
    damaged(&|b| {
        start(b);
        put_node(b, "/a", -1);
    });
    for path in ["", "a", "/a/"] {
        damaged(&|b| {
            start(b);
            put_node(b, "", -1);
            put_node(b, path, -1);
        });
    }
    damaged(&|b| {
        start(b);
        b.put_int(-1);
    });
    damaged(&|b| {
        start(b);
        b.put_int(1001);
    });
    damaged(&|b| {
        start(b);
        b.put_int(i32::MIN);
    });
    damaged(&|b| {
        start(b);
        b.put_buffer(Some(&[0xff]));
        b.put_bytes(&[0; 72]);
    });
    // Numbers of ACLs: 0, below, twice.
    for keys in [[0, 1], [-1, 2], [3, 3]] {
        damaged(&|b| {
            b.put_int(0);
            b.put_int(2);
            for k in keys {
                b.put_long(k);
                b.put_int(0);
            }
        });
    }
    // A list that claims more than the limit allows is not waited for.
    damaged(&|b| {
        b.put_int(0);
        b.put_int(1);
        b.put_long(1);
        b.put_int(i32::MAX);
        b.put_bytes(&[0; 1200]);
    });
    let long = body(|b| {
        start(b);
        put_node(b, "", -1);
        for i in 0..200 {
            put_node(b, &format!("/{i}"), -1);
        }
    });
    assert_eq!(long, Err(Unreadable::TooLong { bytes_max: 10_000 }));
}

#[test]
fn a_node_whose_list_is_missing_has_none() {
    let mut seen = Vec::new();
    let mut b = Vec::new();
    b.put_int(0);
    b.put_int(1);
    b.put_long(7);
    b.put_int(0);
    put_node(&mut b, "", 7);
    put_node(&mut b, "/x", 8);
    b.put_string("/");
    let mut parser = Parser::new(Bounds::default());
    parser
        .feed(&b, |r| {
            if let Record::Node { path, acl, .. } = r {
                seen.push((path.to_owned(), acl.map(<[Acl]>::to_vec)));
            }
            Ok::<(), Unreadable>(())
        })
        .unwrap();
    assert_eq!(seen, [("/".to_owned(), Some(vec![])), ("/x".to_owned(), None)]);
}

#[test]
fn a_list_that_was_not_noted_is_an_error() {
    let (mut encoder, mut out) = (Encoder::default(), Vec::new());
    let list = |n: usize| vec![Acl { perms: 1, id: Id::new("digest", &format!("u{n}:x")) }];
    for n in [1, 2, 1, 3, 3] {
        encoder.note(&list(n));
    }
    encoder.note(&[Acl::open()]);
    encoder.head(&[], &mut out);
    assert_eq!(out[4..8], [0, 0, 0, 3], "three lists");
    let stat = StatPersisted::default();
    let before = out.len();
    assert_eq!(encoder.node("/", None, &list(4), &stat, &mut out), Err(UnknownAcl));
    assert_eq!(out.len(), before);
    assert_eq!(encoder.node("/", None, &list(2), &stat, &mut out), Ok(()));
    assert_eq!(encoder.node("/o", None, &[Acl::open()], &stat, &mut out), Ok(()));
}

type Txns = Vec<(u64, Vec<u8>)>;

fn read_log(bytes: &[u8], piece: usize) -> Result<(Txns, End), log::Unreadable> {
    let (mut parser, mut txns) = (log::Parser::new(Bounds::default()), Vec::new());
    let mut held: Vec<u8> = Vec::new();
    for p in bytes.chunks(piece.max(1)) {
        held.extend_from_slice(p);
        let n = parser.feed(&held, |at, txn| {
            txns.push((at, txn.to_vec()));
            Ok::<(), log::Unreadable>(())
        })?;
        held.drain(..n);
    }
    let end = parser.finish(&held);
    Ok((txns, end))
}

#[test]
fn the_live_log_is_read_and_written_back() {
    let file = golden("log.1");
    let whole = read_log(&file, file.len()).unwrap();
    for piece in [1, 13, 100] {
        assert_eq!(read_log(&file, piece).unwrap(), whole);
    }
    let (txns, end) = whole;
    assert_eq!((txns.len(), end), (8, End::Clean));
    let mut again = Vec::new();
    log::header(&mut again);
    for (i, (at, bytes)) in txns.iter().enumerate() {
        assert_eq!(Txn::decode(bytes).unwrap().header.zxid, Zxid(i as u64 + 1));
        assert_eq!(*at, again.len() as u64);
        log::record(bytes, &mut again);
    }
    let end_of_records = again.len();
    again.resize(file.len(), 0);
    assert_eq!(again, file);
    // Without its zeros, or with none of its records.
    assert_eq!(read_log(&file[..end_of_records], 10).unwrap(), (txns, End::Clean));
    assert_eq!(read_log(&file[..16], 10).unwrap(), (vec![], End::Clean));
    assert_eq!(read_log(&[], 10).unwrap(), (vec![], End::Clean));
    assert_eq!(read_log(&[0; 10], 10).unwrap(), (vec![], End::Clean));
    assert_eq!(read_log(&[0; 100], 10), Err(log::Unreadable::NotALog));
}

#[test]
fn a_torn_record_ends_the_log_quietly() {
    let file = golden("log.1");
    let txns = read_log(&file, 64).unwrap().0;
    let (at, last) = txns.last().unwrap();
    let end = *at as usize + 13 + last.len();
    for cut in *at as usize + 1..end {
        let (found, how) = read_log(&file[..cut], 64).unwrap();
        assert_eq!(found.len(), txns.len() - 1, "{cut}");
        let torn = End::Torn { at: *at, follows: false };
        // What was cut off may have left nothing but zeros.
        assert!(how == torn || file[*at as usize..cut].iter().all(|b| *b == 0), "{cut}: {how:?}");
        // The same with the zeros that ZooKeeper puts behind.
        let mut padded = file[..cut].to_vec();
        padded.resize(end + 4096, 0);
        let (found, how) = read_log(&padded, 64).unwrap();
        assert_eq!(found.len(), txns.len() - 1, "{cut}");
        assert!(how == torn || how == End::Clean, "{cut}: {how:?}");
    }
}

#[test]
fn a_flipped_bit_in_a_log_is_told_unless_nothing_stands_behind_it() {
    let file = golden("log.1");
    let (txns, _) = read_log(&file, file.len()).unwrap();
    let end = txns.last().map(|(at, t)| *at as usize + 13 + t.len()).unwrap();
    for at in (0..8).chain(16..end) {
        for bit in 0..8 {
            let mut bad = file.clone();
            bad[at] ^= 1 << bit;
            match read_log(&bad, bad.len()) {
                Err(_) | Ok((_, End::Torn { follows: true, .. })) => {}
                // The mark behind the very last record: a record whose writing did not end looks the same.
                Ok((_, End::Torn { follows: false, .. })) => assert_eq!(at, end - 1, "bit {bit}"),
                Ok((found, End::Clean)) => panic!("byte {at}, bit {bit}: {} records", found.len()),
            }
        }
    }
}
