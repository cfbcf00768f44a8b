//! What members read from each other, fed with mutations of valid encodings. Each body takes any bytes and panics when a
//! promise is broken: a parser panics, waits for bytes it should refuse, or makes something that does not survive being
//! written and read again; or one member alone makes another decide.
//!
//! `FUZZ_ITERS=n` sets how many inputs each test tries; `FUZZ_SEED=n` replays the one that a failure names.

use engine::ids::{LinkId, ServerId, Zxid};
use engine::proto::Id;
use engine::time::MonoMs;
use engine::zab::Links;
use engine::zab::election::{Election, Knobs, Vote};
use engine::zab::members::Members;
use engine::zab::wire::{self, Garbage, Hello, Kind, LearnerInfo, Notification, Packet, PeerState};
use std::sync::Arc;

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

fn fuzz(iters: u64, corpus: &[Vec<u8>], words: &[&[u8]], body: fn(&[u8])) {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a number"));
    let seeds = match number("FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FUZZ_ITERS").unwrap_or(iters),
    };
    for one in corpus {
        body(one);
    }
    for seed in seeds {
        let _tell = Tell(seed);
        let rng = &mut Rng(seed.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let (one, other) = (rng.below(corpus.len()), rng.below(corpus.len()));
        let mut bytes = corpus[one].clone();
        for _ in 0..rng.below(5) {
            mutate(rng, &mut bytes, &corpus[other], words);
        }
        body(&bytes);
    }
}

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>, other: &[u8], words: &[&[u8]]) {
    let at = rng.below(bytes.len() + 1);
    let upto = (at + rng.below(12)).min(bytes.len());
    match rng.below(6) {
        0 if at < bytes.len() => bytes[at] ^= 1 << rng.below(8),
        1 => bytes.truncate(at),
        2 => {
            let word = words[rng.below(words.len())];
            let upto = (at + word.len()).min(bytes.len());
            bytes.splice(at..upto, word.iter().copied());
        }
        3 => {
            let from = rng.below(other.len());
            bytes.splice(at..at, other[from..].iter().copied());
        }
        4 => drop(bytes.drain(at..upto)),
        _ => bytes[at..upto].iter_mut().for_each(|b| *b = rng.next() as u8),
    }
}

/// Lengths, counts, versions and zxids that parsers trip over.
const WORDS: [&[u8]; 9] = [
    &[0; 4],
    &[0xff; 4],
    &[0xff; 8],
    &[0x80, 0, 0, 0],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0, 0, 0x10, 1],
    &[0, 1, 0, 1],
    &[0, 0, 0, 2],
    &[0x80, 0, 0, 0, 0, 0, 0, 0],
];

/// What was read as one thing is incomplete, and not wrong, whenever bytes at its end are missing.
fn prefixes<'a, T>(bytes: &'a [u8], took: usize, parse: impl Fn(&'a [u8]) -> Result<Option<T>, Garbage>) {
    assert!(took > 0 && took <= bytes.len());
    for n in (0..took).rev().take(64).chain(0..took.min(64)) {
        assert!(matches!(parse(&bytes[..n]), Ok(None)), "{n} of {took} bytes");
    }
}

/// A stream of packets.
fn packets(data: &[u8]) {
    const MAX: usize = 200;
    let mut rest = data;
    while let Ok(Some((p, took))) = wire::parse(rest, MAX) {
        assert!(p.data.is_none_or(|d| d.len() <= MAX) && p.ids.len() <= wire::IDS_MAX);
        prefixes(rest, took, |b| wire::parse(b, MAX));
        learner_info(p.data);
        // Null data can be written only without identities.
        let data = p.data.or((!p.ids.is_empty()).then_some(&[]));
        let mut again = vec![];
        match data {
            Some(d) => wire::put_packet_with(&mut again, p.kind, p.zxid, Some(&p.ids), |out| out.extend(d)),
            None => wire::put_packet(&mut again, p.kind, p.zxid, None),
        }
        let (q, all) = wire::parse(&again, MAX).expect("what was written").expect("and all of it");
        assert_eq!((q, all), (Packet { data, ..p }, again.len()));
        rest = &rest[took..];
    }
}

fn learner_info(data: Option<&[u8]>) {
    let info = LearnerInfo::decode(data);
    let mut full = vec![];
    info.encode(&mut full);
    let server = Some(info.server.unwrap_or_default());
    assert_eq!(LearnerInfo::decode(Some(&full)), LearnerInfo { server, ..info });
}

#[test]
fn packets_of_the_quorum_port() {
    let ids = [Id::new("ip", "127.0.0.1"), Id::new("digest", "a:b")];
    let mut corpus = vec![vec![]; 4];
    for (i, n) in (1..=19).enumerate() {
        let kind = Kind::from_wire(n).expect("a kind");
        let ids = (n == 1).then_some(&ids[..]);
        wire::put_packet_with(&mut corpus[i % 3], kind, Zxid::new(1, 2), ids, |out| out.extend([0; 20]));
        wire::put_packet(&mut corpus[3], kind, Zxid::MAX, None);
    }
    fuzz(20_000, &corpus, &WORDS, packets);
}

fn greetings(data: &[u8]) {
    let Ok(Some((hello, took))) = wire::parse_hello(data) else { return };
    prefixes(data, took, wire::parse_hello);
    assert!(hello.address.len() <= wire::ADDRESS_BYTES_MAX);
    if !hello.address.is_empty() {
        let mut again = vec![];
        wire::put_hello(&mut again, &hello);
        assert_eq!(wire::parse_hello(&again), Ok(Some((hello, again.len()))));
    }
}

#[test]
fn greetings_of_the_election_port() {
    let write = |address: &str| {
        let mut out = vec![];
        wire::put_hello(&mut out, &Hello { server: ServerId(3), address: address.into() });
        out
    };
    let bare = 5i64.to_be_bytes().to_vec();
    fuzz(20_000, &[write("127.0.0.1:3888"), write("[::1]:3888|b:2"), bare], &WORDS, greetings);
}

struct Nowhere(Vec<u8>);

impl Links for Nowhere {
    fn send_election(&mut self, _to: ServerId, message: &[u8]) {
        Notification::decode(message).expect("what is said can be read");
    }
    fn dial(&mut self, _to: ServerId) -> LinkId {
        LinkId(0)
    }
    fn listen(&mut self, _on: bool) {}
    fn out(&mut self, _link: LinkId) -> &mut Vec<u8> {
        &mut self.0
    }
    fn close(&mut self, _link: LinkId) {}
}

fn text_of_five() -> String {
    (1..=5).map(|n| format!("server.{n}=h{n}:2888:3888:participant;0.0.0.0:2181\n")).collect::<String>()
        + "version=100000000"
}

/// Said by one voter of five, and by strangers: whatever it is, it decides nothing.
fn notifications(data: &[u8]) {
    let (now, mut links) = (MonoMs(1_000), Nowhere(vec![]));
    let Ok(n) = Notification::decode(data) else { return };
    assert!(n.config.as_ref().is_none_or(|c| c.len() <= 3 * data.len()));
    let mut again = vec![];
    n.encode(&mut again);
    let config = Some(n.config.clone().unwrap_or_default());
    assert_eq!(Notification::decode(&again), Ok(Notification { version: 2, config, ..n.clone() }));

    let members = Arc::new(Members::parse(&text_of_five()).expect("members"));
    for me in [1, 9] {
        let mut e = Election::new(ServerId(me), me == 9, members.clone(), Knobs::default());
        e.start(Vote { leader: ServerId(me), zxid: Zxid::new(1, 1), epoch: 1 }, now, &mut links);
        for from in [2, 7, me, -3] {
            assert_eq!(e.handle(ServerId(from), &n, now, &mut links), None);
            assert_eq!(e.handle_timeout(now.plus(10_000), &mut links), None);
        }
        if let Some(newer) = e.take_newer_config() {
            assert!(newer.version > members.version);
        }
        e.start(Vote { leader: ServerId(me), zxid: Zxid::new(1, 1), epoch: 1 }, now, &mut links);
    }
}

#[test]
fn notifications_of_the_election_port() {
    let write = |state, leader: i64, config: &str| {
        let mut out = vec![];
        let (leader, zxid, config) = (ServerId(leader), Zxid::new(1, 9), Some(config.to_owned()));
        Notification { state, leader, zxid, round: 1, peer_epoch: 1, version: 2, config }.encode(&mut out);
        out
    };
    let newer = text_of_five().replace("version=1", "version=2");
    let whole = write(PeerState::Looking, 2, &text_of_five());
    let corpus = [
        whole[..28].to_vec(),
        whole[..40].to_vec(),
        write(PeerState::Following, 3, ""),
        write(PeerState::Leading, 2, &newer),
        write(PeerState::Looking, 1, &newer),
        whole,
    ];
    fuzz(10_000, &corpus, &WORDS, notifications);
}

fn configurations(data: &[u8]) {
    let given = String::from_utf8_lossy(data);
    let Ok(members) = Members::parse(&given) else { return };
    let text = members.text();
    assert!(text.len() <= 3 * given.len() + 64 * members.iter().len() + 64);
    assert_eq!(Members::parse(&text).as_ref(), Ok(&members), "{text}");
    assert!(members.quorum(|_| true) && !members.quorum(|_| false));
    assert!(members.voters().iter().any(|&v| members.can_lead(v)));
    let of = |odd: bool| members.quorum(|v| (v.0 % 2 == 1) == odd);
    assert!(!(of(true) && of(false)), "two quorums without a common voter: {text}");
    let again = Members::new(members.version, members.iter().cloned().collect(), members.groups());
    assert_eq!(again, Ok(members));
}

#[test]
fn texts_of_configurations() {
    let groups = "group.1=1:2:3\ngroup.2=4:5\nweight.1=0\nweight.4=7\n";
    let corpus = [
        text_of_five(),
        groups.to_owned() + &text_of_five(),
        "server.1=[::1]:1:2|b:3:4:observer;;[fe80::1]:7\nserver.10=a:1:2;2181;2281\nversion=a".to_owned(),
    ];
    let words = [
        &b"server."[..],
        b"\n",
        b"=",
        b":",
        b";",
        b"|",
        b"observer",
        b"0",
        b"group.",
        b"weight.3=",
        b"65536",
    ];
    fuzz(20_000, &corpus.map(String::into_bytes), &words, configurations);
}
