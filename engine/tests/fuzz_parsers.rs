//! Everything that parses, fed with mutations of valid encodings. The bodies, and what they check, are in
//! `engine/fuzz/bodies.rs`, which libFuzzer's targets share.
//!
//! `FUZZ_ITERS=n` sets how many inputs each test tries; `FUZZ_SEED=n` replays the one that a failure names.

#[path = "../fuzz/bodies.rs"]
mod bodies;

use engine::ids::{SessionId, Zxid};
use engine::proto::{Acl, ConnectRequest, Encode, Op, put_frame};
use engine::snapshot;
use engine::time::WallMs;
use engine::tree::StatPersisted;
use engine::txn::{MultiItem, Txn, TxnBody, TxnHeader};
use std::path::PathBuf;

/// Splitmix64: an input follows from its seed and the corpus.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Names the seed if its input fails.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: FUZZ_SEED={}", self.0);
        }
    }
}

/// Runs `body` on inputs that `make` draws.
fn fuzz(iters: u64, mut make: impl FnMut(&mut Rng) -> Vec<u8>, body: fn(&[u8])) {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a number"));
    let seeds = match number("FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FUZZ_ITERS").unwrap_or(iters),
    };
    for seed in seeds {
        let _tell = Tell(seed);
        body(&make(&mut Rng(seed.wrapping_mul(0xd1b5_4a32_d192_ed03))));
    }
}

/// Words that lengths, counts and versions trip over.
const ODD_WORDS: [i32; 10] = [0, 1, -1, -2, i32::MIN, i32::MAX, 0x00ff_ffff, 4096, 65_536, 0x0010_0000];

/// Changes a few places of `bytes`; `other` is spliced in.
fn mutate(rng: &mut Rng, mut bytes: Vec<u8>, other: &[u8]) -> Vec<u8> {
    for _ in 0..rng.below(5) {
        let at = rng.below(bytes.len());
        match rng.below(7) {
            _ if bytes.is_empty() => bytes.extend_from_slice(other),
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes.truncate(at),
            2 | 3 => {
                let word = ODD_WORDS[rng.below(ODD_WORDS.len())].to_be_bytes();
                let upto = (at + 4).min(bytes.len());
                bytes[at..upto].copy_from_slice(&word[..upto - at]);
            }
            4 => {
                let from = rng.below(other.len());
                let upto = from + rng.below(other.len() - from + 1);
                bytes.splice(at..at, other[from..upto].iter().copied());
            }
            5 => {
                let upto = at + rng.below((bytes.len() - at).min(20) + 1);
                bytes.drain(at..upto);
            }
            _ => {
                let upto = (at + rng.below(8)).min(bytes.len());
                bytes[at..upto].iter_mut().for_each(|b| *b = rng.next() as u8);
            }
        }
    }
    bytes
}

fn draw<'a>(rng: &mut Rng, corpus: &'a [Vec<u8>]) -> &'a [u8] {
    &corpus[rng.below(corpus.len())]
}

/// One of `corpus`, most often changed.
fn mutant(rng: &mut Rng, corpus: &[Vec<u8>]) -> Vec<u8> {
    let (one, other) = (draw(rng, corpus).to_vec(), draw(rng, corpus).to_vec());
    mutate(rng, one, &other)
}

/// Frames seen between ZooKeeper and its clients: those that clients sent (`>`), or servers (`<`).
fn golden(kind: char) -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../net/tests/golden");
    let mut files: Vec<_> = std::fs::read_dir(dir)
        .expect("golden files")
        .map(|f| f.unwrap().path())
        .filter(|p| p.is_file())
        .collect();
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).expect("a text file");
        for line in text.lines().filter_map(|l| l.strip_prefix(kind)) {
            let digits: Vec<u32> = line.chars().filter_map(|c| c.to_digit(16)).collect();
            all.push(digits.chunks(2).map(|d| (d[0] << 4 | d[1]) as u8).collect());
        }
    }
    assert!(all.len() > 20, "only {} frames", all.len());
    all
}

/// Requests after the first, so each with its header.
fn requests() -> Vec<Vec<u8>> {
    let known = |f: &Vec<u8>| f.len() >= 12 && f[4..8] != [0; 4];
    golden('>').into_iter().filter(known).collect()
}

fn hello() -> Vec<u8> {
    let mut out = vec![];
    put_frame(&mut out, |out| {
        let password = Some(&[0; 16][..]);
        let (last_zxid_seen, session, read_only) = (Zxid::ZERO, SessionId::NONE, Some(false));
        ConnectRequest { last_zxid_seen, timeout_ms: 6_000, session, password, read_only }.encode(out);
    });
    out
}

#[test]
fn frames_of_a_client_with_a_session() {
    let corpus = requests();
    fuzz(
        1_500,
        |rng| {
            let mut all = vec![(rng.below(4) << 1 | 1) as u8];
            for _ in 0..1 + rng.below(8) {
                all.extend(if rng.below(2) == 0 {
                    draw(rng, &corpus).to_vec()
                } else {
                    mutant(rng, &corpus)
                });
            }
            all
        },
        bodies::shard,
    );
}

#[test]
fn first_bytes_of_a_connection() {
    let mut corpus = golden('>');
    corpus.extend([b"srvr\n", b"mntr\n", b"stmk\0\0\0\0\0\0\x01\x32" as &[u8]].map(<[u8]>::to_vec));
    corpus.extend((0..20).map(|_| hello()));
    let behind = requests();
    fuzz(
        1_500,
        |rng| {
            let mut all = vec![(rng.below(4) << 1) as u8];
            all.extend(mutant(rng, &corpus));
            all.extend((0..rng.below(3)).flat_map(|_| mutant(rng, &behind)));
            all
        },
        bodies::shard,
    );
}

#[test]
fn records_of_the_client_port() {
    let frames = [golden('>'), golden('<')].concat();
    // Bodies stand behind the length, a request's header or a reply's.
    let corpus: Vec<Vec<u8>> =
        frames.iter().flat_map(|f| [4, 12, 20].map(|at| f.get(at..).unwrap_or_default().to_vec())).collect();
    fuzz(10_000, |rng| mutant(rng, &corpus), bodies::records);
}

fn txns() -> Vec<Vec<u8>> {
    let acl = vec![Acl::open()];
    let (data, parent_cversion) = (Some(&b"some data"[..]), 1);
    let mut inner = vec![];
    TxnBody::SetData { op: Op::SetData, path: "/zookeeper".into(), data, version: 1 }.encode(&mut inner);
    let items = vec![MultiItem { kind: Op::SetData.wire(), body: &inner }; 3];
    let bodies = [
        TxnBody::Create {
            op: Op::Create,
            path: "/a".into(),
            data,
            acl: acl.clone(),
            ephemeral: true,
            parent_cversion: Some(1),
        },
        TxnBody::CreateContainer { path: "/c".into(), data: None, acl: acl.clone(), parent_cversion },
        TxnBody::CreateTtl { path: "/t".into(), data, acl: acl.clone(), parent_cversion, ttl_ms: 9 },
        TxnBody::Delete { op: Op::Delete, path: "/zookeeper/quota".into() },
        TxnBody::SetData { op: Op::SetData, path: "/".into(), data, version: 7 },
        TxnBody::SetAcl { path: "/".into(), acl, version: 1 },
        TxnBody::Check { path: "/d".into(), version: 2 },
        TxnBody::CreateSession { timeout_ms: 4_000 },
        TxnBody::CloseSession { paths: Some(vec!["/e".into(), "/zookeeper".into()]) },
        TxnBody::CloseSession { paths: None },
        TxnBody::Error { code: engine::error::Code::NONODE },
        TxnBody::Multi { items },
    ];
    let encoded = bodies.into_iter().enumerate().map(|(i, body)| {
        let (session, time, kind) = (SessionId(5), WallMs(8), body.kind());
        let header = TxnHeader { session, cxid: 6, zxid: Zxid(i as u64), time, kind };
        // closeSession without paths comes from servers that wrote no digests.
        let digest = (!matches!(body, TxnBody::CloseSession { paths: None })).then_some(0x1_0000_0001);
        let mut out = vec![];
        Txn { header, body, digest }.encode(&mut out);
        out
    });
    encoded.collect()
}

#[test]
fn transactions() {
    let corpus = txns();
    fuzz(3_000, |rng| mutant(rng, &corpus), bodies::txn);
}

fn snapshots() -> Vec<Vec<u8>> {
    let lists = [vec![], vec![Acl::open()], vec![Acl::open(); 3]];
    let build = |nodes: usize, digest| {
        let (mut e, mut out) = (snapshot::Encoder::default(), vec![]);
        let sessions = (0..nodes as i64 / 2).map(|i| (SessionId(i), 4_000));
        e.head(Zxid(77), digest, sessions, &mut out);
        for i in 0..nodes {
            let stat = StatPersisted { czxid: Zxid(i as u64), version: i as i32, ..Default::default() };
            let data = (i % 3 > 0).then_some(&b"data of a node"[..i]);
            e.node(&format!("/n{i}"), data, &lists[i % 3], &stat, &mut out);
        }
        e.end(&mut out);
        out
    };
    vec![build(0, None), build(1, Some(9)), build(3, None), build(8, Some(u64::MAX))]
}

#[test]
fn snapshot_records() {
    let corpus = snapshots();
    fuzz(2_000, |rng| mutant(rng, &corpus), bodies::snapshot);
}

/// Files of a real ZooKeeper, without their padding.
fn foreign_files() -> Vec<Vec<u8>> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../net/tests/golden/foreign");
    let files = std::fs::read_dir(dir).expect("the golden files").map(|e| e.expect("an entry").path());
    let unhex = |path: PathBuf| {
        let text = std::fs::read_to_string(path).expect("a golden file");
        let digits: String = text.lines().filter(|l| !l.starts_with('#')).collect();
        (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
    };
    files.map(unhex).collect()
}

#[test]
fn zookeepers_files() {
    let corpus = foreign_files();
    assert_eq!(corpus.len(), 3);
    corpus.iter().for_each(|f| bodies::foreign(f));
    fuzz(1_500, |rng| mutant(rng, &corpus), bodies::foreign);
}

#[test]
fn writes_with_garbage_in_them() {
    let corpus = requests();
    let write = |rng: &mut Rng| {
        let (frame, other) = (draw(rng, &corpus), draw(rng, &corpus));
        let (op, body) = (frame[11], frame[12..].to_vec());
        let body = if rng.below(2) == 0 { body } else { mutate(rng, body, &other[12..]) };
        let op = if rng.below(20) == 0 { (-10i8 - rng.below(2) as i8) as u8 } else { op };
        let dead = if rng.below(20) == 0 { 0x8000 } else { 0 };
        let mut out = vec![op];
        out.put_bytes(&((body.len().min(0x7fff) | dead) as u16).to_be_bytes());
        out.put_bytes(&body[..body.len().min(0x7fff)]);
        out
    };
    fuzz(
        2_000,
        |rng| {
            let mut all: Vec<u8> = (0..1 + rng.below(12)).flat_map(|_| write(rng)).collect();
            if rng.below(4) == 0 {
                all = mutate(rng, all, &[]);
            }
            all
        },
        bodies::propose,
    );
}

/// The corpus means something: unchanged, it decodes and is taken.
#[test]
fn the_corpus_is_valid() {
    for t in txns() {
        assert!(Txn::decode(&t).is_ok(), "{t:?}");
        bodies::txn(&t);
    }
    for s in snapshots() {
        let mut parser = snapshot::Parser::default();
        let taken = parser.feed(&s, |_, _| Ok::<(), snapshot::Unreadable>(()));
        assert_eq!((taken, parser.finish()), (Ok(s.len()), Ok(())));
    }
    bodies::shard(&[&[0][..], &hello(), &requests().concat()].concat());
}
