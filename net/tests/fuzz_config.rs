//! Configuration texts that may be anything: zoo.cfg, the dynamic file it names, profiles. Whatever they say, there is
//! a consistent configuration or an error that names the file.
//!
//! `FUZZ_ITERS=n` sets how many texts each test tries; `FUZZ_SEED=n` replays the one that a failure names.

use net::config::{ConfigError, Sources, load};
use profiles::{Profile, shipped_names, shipped_text};
use std::path::{Path, PathBuf};

/// Splitmix64: a text follows from its seed.
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

/// Names the seed if its text fails.
struct Tell(u64);

impl Drop for Tell {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("replay: FUZZ_SEED={}", self.0);
        }
    }
}

fn fuzz(iters: u64, mut one: impl FnMut(&mut Rng)) {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a number"));
    let seeds = match number("FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FUZZ_ITERS").unwrap_or(iters),
    };
    for seed in seeds {
        let _tell = Tell(seed);
        one(&mut Rng(seed.wrapping_mul(0xd1b5_4a32_d192_ed03)));
    }
}

/// Pieces that texts of this kind are made of, and that their parsers trip over.
const ODD: [&str; 24] = [
    "\\",
    "\\u00",
    "\\u12g4",
    "\\uD800",
    "\n",
    "\r",
    "\r\n",
    "=",
    ":",
    "#",
    "!",
    " \t\x0c",
    "-1",
    "0",
    "99999999999999999999",
    "-9223372036854775808",
    "2147483648",
    "1e9",
    "true",
    "TRUE ",
    "\"",
    "[[",
    "[::1]:2888:3888;2181",
    "\u{e9}\u{10348}",
];

/// Changes a few places of a text; `other` is spliced in.
fn mutate(rng: &mut Rng, text: &str, other: &str) -> Vec<u8> {
    let mut bytes = text.as_bytes().to_vec();
    for _ in 0..rng.below(6) {
        let at = rng.below(bytes.len());
        match rng.below(6) {
            _ if bytes.is_empty() => bytes.extend_from_slice(other.as_bytes()),
            0 => bytes[at] ^= 1 << rng.below(8),
            1 if rng.below(4) == 0 => bytes.truncate(at),
            2 => {
                let upto = at + rng.below((bytes.len() - at).min(20) + 1);
                bytes.drain(at..upto);
            }
            3 => {
                let from = rng.below(other.len());
                let upto = from + rng.below(other.len() - from + 1);
                bytes.splice(at..at, other.bytes().skip(from).take(upto - from));
            }
            _ => {
                let odd = ODD[rng.below(ODD.len())];
                // In place of a value, or anywhere.
                let value = bytes[at..].iter().position(|b| *b == b'=').map(|n| at + n + 1);
                match value {
                    Some(v) if rng.below(2) == 0 => {
                        let end = bytes[v..].iter().position(|b| *b == b'\n').map_or(bytes.len(), |n| v + n);
                        bytes.splice(v..end, odd.bytes());
                    }
                    _ => drop(bytes.splice(at..at, odd.bytes())),
                }
            }
        }
    }
    bytes
}

/// Ordinary files. None but the data directory and the dynamic file, both inside `dir`, name a place on disk.
fn zoo_cfgs(dir: &Path) -> Vec<String> {
    let at = |name: &str| dir.join(name).display().to_string();
    let data = at("data");
    vec![
        format!("tickTime=2000\ndataDir={data}\nclientPort=2181\n"),
        format!(
            "# all of it\ntickTime = 1500\ndataDir : {data}\nclientPort 2182\nclientPortAddress=127.0.0.1\n\
             maxClientCnxns=0\nminSessionTimeout=3000\nmaxSessionTimeout=60000\nautopurge.purgeInterval=1\n\
             autopurge.snapRetainCount=5\n4lw.commands.whitelist=stat, ruok, mntr\nsnapCount=1000\npreAllocSize=65536\n\
             flushDelay=3\nextendedTypesEnabled=true\nenforceQuota=yes\n"
        ),
        format!(
            "dataDir={data}\nclientPort=2181\nglobalOutstandingLimit=5000\njute.maxbuffer=0xfffff\nforceSync=no\n\
             zookeeper.skipACL=yes\nDigestAuthenticationProvider.superDigest=super:xQJmxLMiHGwaqBvst5y6rkB6HQs=\n\
             standaloneEnabled=true\nserver.1=localhost:2888:3888;2181\ninitLimit=10\nsyncLimit=5\n"
        ),
        format!("dataDir={data}\nclientPort=2181\ndynamicConfigFile={}\n", at("dynamic")),
        format!(
            "dataDir={data}\nclientPort=2181\ninitLimit=10\nsyncLimit=5\nserver.1=a:2888:3888\nserver.2=b:2888:3888\n\
             server.3=c:2888:3888:observer;2182;2282\ngroup.1=1\ngroup.2=2\nweight.1=2\npeerType=participant\n\
             leader.maxTimeToWaitForEpoch=-1\ncnxTimeout=100\nquorumListenOnAllIPs=true\n"
        ),
        format!(
            "dataDir={data}\\\n  /deeper\nclient\\u0050ort=218\\\n   1\n! comment\nsecureClientPort=2281\n"
        ),
    ]
}

#[test]
fn zoo_cfg_of_any_text() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (file, dynamic) = (dir.path().join("zoo.cfg"), dir.path().join("dynamic"));
    let corpus = zoo_cfgs(dir.path());
    std::fs::create_dir(dir.path().join("data")).expect("made");
    std::fs::write(dir.path().join("data/myid"), "1\n").expect("written");
    let members =
        "server.1=127.0.0.1:2888:3888:participant;0.0.0.0:2181\nversion=100000000\ngroup.1=1\nweight.1=2\n";
    let (mut taken, mut refused, mut ensembles) = (0, 0, 0);
    let sources = Sources { file: Some(file.clone()), ..Sources::default() };
    fuzz(2_000, |rng| {
        let (one, other) = (&corpus[rng.below(corpus.len())], &corpus[rng.below(corpus.len())]);
        std::fs::write(&file, mutate(rng, one, other)).expect("written");
        std::fs::write(&dynamic, mutate(rng, members, one)).expect("written");
        match load(&sources) {
            Ok(loaded) => {
                let (c, l) = (&loaded.config, &loaded.config.limits);
                assert!(!c.client_addrs.is_empty() && !c.data_dir.as_os_str().is_empty());
                assert!(l.min_session_timeout_ms <= l.max_session_timeout_ms, "{l:?}");
                assert!(l.tick_ms > 0 && l.outstanding_writes > 0, "{l:?}");
                assert!(c.purge.is_none_or(|p| p.keep_snapshots >= 3 && p.interval_ms > 0));
                assert!(l.conn_soft_limit_bytes <= l.conn_hard_limit_bytes);
                assert!(loaded.warnings.iter().all(|w| !w.why.is_empty()));
                taken += 1;
                if let Some(e) = &c.ensemble {
                    ensembles += 1;
                    assert!(e.members.get(e.me).is_some() && !e.members.voters().is_empty());
                    assert!(e.init_limit > 0 && e.sync_limit > 0 && e.connect_to_learner_master_limit > 0);
                    let text = e.members.text();
                    let again = engine::zab::members::Members::parse(&text);
                    assert_eq!(again.as_ref(), Ok(&*e.members), "{text}");
                }
            }
            Err(e) => {
                let said = e.to_string();
                // A text may name another file: of members, or the `myid` in its data directory.
                let other = matches!(e, ConfigError::Unreadable { .. }) || said.contains("myid");
                assert!(other || said.contains(&dir.path().display().to_string()), "names no file: {said}");
                refused += 1;
            }
        }
    });
    if std::env::var_os("FUZZ_SEED").is_none() {
        assert!(
            taken > 0 && refused > 0 && ensembles > 0,
            "{taken} taken ({ensembles} ensembles), {refused} refused: mutations too wild or too tame"
        );
    }
}

#[test]
fn bytes_that_are_no_text_at_all() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let file = dir.path().join("zoo.cfg");
    let sources = Sources { file: Some(PathBuf::from(&file)), ..Sources::default() };
    fuzz(500, |rng| {
        let bytes: Vec<u8> = (0..rng.below(300)).map(|_| rng.next() as u8).collect();
        std::fs::write(&file, bytes).expect("written");
        // dataDir and clientPort cannot come about by chance.
        assert!(load(&sources).is_err());
    });
}

#[test]
fn profiles_of_any_text() {
    let corpus: Vec<&str> = shipped_names().into_iter().filter_map(shipped_text).collect();
    let (mut taken, mut refused) = (0, 0);
    fuzz(2_000, |rng| {
        let (one, other) = (corpus[rng.below(corpus.len())], corpus[rng.below(corpus.len())]);
        let text = String::from_utf8_lossy(&mutate(rng, one, other)).into_owned();
        match Profile::parse(&text, "mine.toml") {
            Ok(p) => {
                assert!(p.conn_soft_limit_bytes <= p.conn_hard_limit_bytes, "{p:?}");
                assert!(p.group_max_bytes * 2 <= p.segment_bytes, "{p:?}");
                taken += 1;
            }
            Err(e) => {
                assert!(e.to_string().contains("mine.toml"), "names no file: {e}");
                refused += 1;
            }
        }
    });
    if std::env::var_os("FUZZ_SEED").is_none() {
        assert!(taken > 0 && refused > 0, "{taken} taken, {refused} refused: mutations too wild or too tame");
    }
}
