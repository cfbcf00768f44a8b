//! Import and export without a ZooKeeper: on files that Debian's 3.8.0 wrote (`golden/foreign`), on damaged ones, and on
//! snapshots made here that hold changes from while they were written. `interop/migrate.py` does it with a live one.

use engine::foreign::Bounds;
use engine::foreign::snapshot::{Encoder, FileFrame, FileParser, Record, Unreadable};
use engine::ids::{SessionId, Zxid};
use engine::proto::{Acl, Encode};
use engine::tree::StatPersisted;
use net::config::Config;
use net::embed::Server;
use net::migrate::{self, Figures, Imported, Source, Target};
use profiles::Profile;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

/// Of the state at the end of the golden log.
const DIGEST: u64 = 0x2_7ebe_252d;

fn golden(name: &str) -> Vec<u8> {
    let path = format!("{}/tests/golden/foreign/{name}.hex", env!("CARGO_MANIFEST_DIR"));
    let text = fs::read_to_string(path).expect("a golden file");
    let digits: String = text.lines().filter(|l| !l.starts_with('#')).collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

/// A directory with a `zookeeper` and room beside it.
struct Place(TempDir);

impl Place {
    fn with(files: &[(&str, &[u8])]) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        fs::create_dir_all(place.version_2()).unwrap();
        for (name, bytes) in files {
            place.put(name, bytes);
        }
        place
    }
    fn golden(names: &[&str]) -> Place {
        let place = Place::with(&[]);
        for name in names {
            place.put(name, &golden(name));
        }
        place
    }
    fn zookeeper(&self) -> PathBuf {
        self.0.path().join("zookeeper")
    }
    fn version_2(&self) -> PathBuf {
        self.zookeeper().join("version-2")
    }
    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.version_2().join(name), bytes).unwrap();
    }
    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
    fn import(&self, to: &str) -> anyhow::Result<Imported> {
        let source = Source::find(&self.zookeeper(), None)?;
        let target = Target { data_dir: self.path(to), log_dir: self.path(to) };
        migrate::import(&source, &target, false)
    }
    /// Why an import is refused.
    fn refused(&self) -> String {
        let why = format!("{:#}", self.import("refused").expect_err("it should be refused"));
        assert!(!why.contains('\n'), "{why}");
        why
    }
}

fn figures(zxid: u64, digest: u64, znodes: u64, sessions: usize, ephemerals: usize) -> Figures {
    Figures { zxid: Zxid(zxid), digest, znodes, sessions, ephemerals }
}

#[test]
fn snapshot_and_log_give_the_same_state_by_either_way() {
    let end = figures(8, DIGEST, 8, 1, 1);
    let newest = Place::golden(&["snapshot.0", "snapshot.8", "log.1"]).import("data").unwrap();
    assert_eq!((newest.figures, newest.txns, newest.snapshot_at), (end, 0, Zxid(8)));
    assert_eq!(newest.digest_at, Some(Zxid(8)));
    let place = Place::golden(&["snapshot.0", "log.1"]);
    let replayed = place.import("data").unwrap();
    assert_eq!((replayed.figures, replayed.txns, replayed.snapshot_at), (end, 8, Zxid::ZERO));
    assert_eq!(replayed.digest_at, Some(Zxid(8)));
    let text = replayed.to_string();
    for part in ["snapshot.0", "log.1: 8 transactions", "0x8", "0x27ebe252d", "equal to ZooKeeper's"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    // And back: the log is the same, byte by byte.
    let exported = migrate::export(&place.path("data"), &place.path("data"), &place.path("back")).unwrap();
    assert_eq!(exported.files, ["snapshot.0", "log.1"]);
    assert_eq!(exported.figures, end);
    let (log, original) = (fs::read(place.path("back/version-2/log.1")).unwrap(), golden("log.1"));
    let end = original.iter().rposition(|b| *b != 0).unwrap() + 1;
    assert_eq!(log[..end], original[..end]);
    assert!(log[end..].iter().all(|b| *b == 0));
    let again = migrate::export(&place.path("data"), &place.path("data"), &place.path("back"));
    assert!(again.unwrap_err().to_string().contains("is not empty"));
}

#[test]
fn compressed_snapshots_are_read() {
    let plain = golden("snapshot.8");
    let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gz.write_all(&plain).unwrap();
    let mut snappy = [&b"\x82SNAPPY\0"[..], &[0, 0, 0, 1, 0, 0, 0, 1]].concat();
    for block in plain.chunks(100) {
        let packed = snap::raw::Encoder::new().compress_vec(block).unwrap();
        snappy.extend_from_slice(&(packed.len() as i32).to_be_bytes());
        snappy.extend_from_slice(&packed);
    }
    for (name, bytes) in [("snapshot.8.gz", gz.finish().unwrap()), ("snapshot.8.snappy", snappy)] {
        let place = Place::with(&[(name, &bytes)]);
        assert_eq!(place.import("data").unwrap().figures, figures(8, DIGEST, 8, 1, 1), "{name}");
        place.put(name, &bytes[..bytes.len() - 9]);
        assert!(place.refused().contains(name));
    }
}

#[test]
fn a_flipped_byte_of_the_snapshot_is_refused_or_an_older_one_serves() {
    let file = golden("snapshot.8");
    let alone = Place::with(&[]);
    let beside = Place::golden(&["snapshot.0", "log.1"]);
    for at in 0..file.len() {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        alone.put("snapshot.8", &bad);
        let why = alone.refused();
        assert!(why.contains("snapshot.8") && why.contains("Nothing was changed"), "byte {at}: {why}");
        if at % 128 == 0 {
            beside.put("snapshot.8", &bad);
            let done = beside.import(&format!("data{at}")).unwrap();
            assert_eq!(done.figures.digest, DIGEST, "byte {at}");
            assert!(done.notes[0].contains("snapshot.8 was passed over"), "{:?}", done.notes);
        }
    }
}

#[test]
fn a_flipped_byte_of_the_log_is_refused() {
    let file = golden("log.1");
    let end = file.iter().rposition(|b| *b != 0).unwrap() + 1;
    let place = Place::golden(&["snapshot.0"]);
    // The version numbers of the header's database stand for nothing.
    for at in (0..8).chain(16..end - 1) {
        let mut bad = file.clone();
        bad[at] ^= 0x10;
        place.put("log.1", &bad);
        let why = place.refused();
        assert!(why.contains("log.1"), "byte {at}: {why}");
    }
    // The last byte of all: a record that was not wholly written looks like this, and nobody was told of it.
    let mut bad = file.clone();
    bad[end - 1] = 0;
    place.put("log.1", &bad);
    let done = place.import("torn").unwrap();
    assert_eq!(done.figures.zxid, Zxid(7));
    assert!(done.notes.iter().any(|n| n.contains("never wholly written")), "{:?}", done.notes);
}

#[test]
fn what_is_missing_is_refused_with_words() {
    // No snapshot at all.
    assert!(Place::golden(&["log.1"]).refused().contains("no snapshot"));
    // The log begins too late, and the newest snapshot is gone.
    let place = Place::golden(&["snapshot.0"]);
    let mut late = golden("log.1");
    let second = 16 + 12 + u32::from_be_bytes(late[24..28].try_into().unwrap()) as usize + 1;
    late.drain(16..second);
    place.put("log.2", &late);
    let why = place.refused();
    assert!(why.contains("after 0x0 comes 0x2") && why.contains("is a log file missing"), "{why}");
    // An older snapshot that leads nowhere near the newest, which is damaged.
    let place = Place::golden(&["snapshot.0"]);
    let mut bad = golden("snapshot.8");
    bad[40] ^= 1;
    place.put("snapshot.8", &bad);
    let why = place.refused();
    assert!(why.contains("reached 0x8"), "{why}");
    // Nothing of ZooKeeper's.
    assert!(Place::with(&[]).refused().contains("neither snapshots nor logs"));
}

#[test]
fn a_damaged_tail_that_zookeeper_left_behind_itself_is_no_gap() {
    // The seventh record is torn with garbage behind it; the next log goes on with what ZooKeeper wrote at its place.
    let file = golden("log.1");
    let mut starts = vec![16];
    while let Some(length) = file.get(starts[starts.len() - 1] + 8..starts[starts.len() - 1] + 12) {
        match u32::from_be_bytes(length.try_into().unwrap()) as usize {
            0 => break,
            n => starts.push(starts[starts.len() - 1] + 13 + n),
        }
    }
    let (seventh, eighth, end) = (starts[6], starts[7], starts[8]);
    let mut first = file[..eighth].to_vec();
    first[eighth - 1] = b'x';
    first.extend_from_slice(b"garbage");
    let place = Place::golden(&["snapshot.0"]);
    place.put("log.1", &first);
    assert!(place.refused().contains("may be lost"), "{}", place.refused());
    let second = [&file[..16], &file[seventh..end], &[0; 64]].concat();
    place.put("log.7", &second);
    let done = place.import("data").unwrap();
    assert_eq!(done.figures.digest, DIGEST);
    assert!(done.notes[0].contains("ZooKeeper has left them out too"), "{:?}", done.notes);
    // With the eighth alone behind it, the seventh is lost.
    place.put("log.7", &[&file[..16], &file[eighth..end]].concat());
    let why = place.refused();
    assert!(why.contains("after 0x6 comes 0x8"), "{why}");
}

/// The nodes of the golden state at its end.
type Nodes = Vec<(String, Option<Vec<u8>>, Vec<Acl>, StatPersisted)>;

fn nodes_at_the_end() -> (Vec<(SessionId, i32)>, Nodes) {
    let (mut sessions, mut nodes) = (vec![], vec![]);
    let mut parser = FileParser::new(Bounds::default());
    parser
        .feed(&golden("snapshot.8"), |r| {
            match r {
                Record::Session { id, timeout_ms } => sessions.push((id, timeout_ms)),
                Record::Node { path, data, acl, stat } => {
                    nodes.push((path.to_owned(), data.map(<[u8]>::to_vec), acl.unwrap().to_vec(), stat));
                }
                Record::End { .. } => {}
            }
            Ok::<(), Unreadable>(())
        })
        .unwrap();
    (sessions, nodes)
}

fn file_of(sessions: &[(SessionId, i32)], nodes: &Nodes, digest: Option<(Zxid, u64)>) -> Vec<u8> {
    let (mut encoder, mut frame, mut out) = (Encoder::default(), FileFrame::default(), vec![]);
    nodes.iter().for_each(|n| encoder.note(&n.2));
    frame.header(&mut out);
    let start = out.len();
    encoder.head(sessions, &mut out);
    for (path, data, acl, stat) in nodes {
        encoder.node(path, data.as_deref(), acl, stat, &mut out).unwrap();
    }
    encoder.end(&mut out);
    frame.body(&out[start..]);
    frame.footers(digest, &mut out);
    out
}

#[test]
fn a_snapshot_that_was_written_under_writes_counts_from_its_end() {
    // Begun at any zxid, when no session was there, and with the whole end in it: the log is replayed over what it did.
    let (sessions, nodes) = nodes_at_the_end();
    for (start, footer) in
        [(0u64, Some((Zxid(8), DIGEST))), (1, Some((Zxid(8), DIGEST))), (1, None), (0, None)]
    {
        let place = Place::golden(&["log.1"]);
        // Sessions are written first.
        let then = if start == 0 { &[][..] } else { &sessions };
        place.put(&format!("snapshot.{start:x}"), &file_of(then, &nodes, footer));
        let done = place.import("data").unwrap();
        assert_eq!(done.figures.digest, DIGEST);
        assert_eq!(done.figures.sessions, 1);
        assert_eq!(done.snapshot_at, Zxid(8));
        assert_eq!(done.digest_at, Some(Zxid(8)));
    }
    // The logs do not reach its end.
    let place = Place::with(&[("snapshot.4", &file_of(&sessions, &nodes, Some((Zxid(8), DIGEST))))]);
    assert!(place.refused().contains("the logs end at 0x4"), "{}", place.refused());
    // Its digest is another.
    let place = Place::golden(&["log.1"]);
    place.put("snapshot.4", &file_of(&sessions, &nodes, Some((Zxid(8), DIGEST + 1))));
    assert!(place.refused().contains("the tree is not the one"), "{}", place.refused());
    let target = Target { data_dir: place.path("data"), log_dir: place.path("data") };
    let source = Source::find(&place.zookeeper(), None).unwrap();
    let forced = migrate::import(&source, &target, true).unwrap();
    assert!(forced.notes.iter().any(|n| n.contains("should be")), "{:?}", forced.notes);
}

#[test]
fn a_tree_that_is_not_the_logs_is_refused() {
    let (sessions, mut nodes) = nodes_at_the_end();
    let a = nodes.iter_mut().find(|n| n.0 == "/a").unwrap();
    a.1 = Some(b"other".to_vec());
    // No footer: the digests of the log tell. The node was set for the last time before the digest at 8.
    a.3.mzxid = Zxid(2);
    nodes.retain(|n| n.0 != "/a/r" && n.0 != "/a/e");
    let place = Place::golden(&["log.1"]);
    place.put("snapshot.7", &file_of(&sessions, &nodes, None));
    assert!(place.refused().contains("the tree is not the one"), "{}", place.refused());
}

#[test]
fn a_node_whose_list_the_snapshot_lacks_gets_it_from_the_log_or_is_refused() {
    let file = golden("snapshot.8");
    // /a/r was created by transaction 5; its list has the number 2, which is made 9 here.
    let key = [&b"/a/r"[..], &[0xff; 4], &[0, 0, 0, 0, 0, 0, 0, 3]].concat();
    let found = file.windows(key.len()).position(|w| w == key);
    let at = found.expect("the node with its list's number") + key.len() - 1;
    let mut body = file[..file.len() - 46].to_vec();
    body[at] = 9;
    let mut frame = FileFrame::default();
    frame.header(&mut Vec::new());
    frame.body(&body[16..]);
    let mut bad = body.clone();
    frame.footers(Some((Zxid(8), DIGEST)), &mut bad);
    let place = Place::golden(&["log.1"]);
    place.put("snapshot.4", &bad);
    assert_eq!(place.import("data").unwrap().figures.digest, DIGEST);
    let exported = migrate::export(&place.path("data"), &place.path("data"), &place.path("back")).unwrap();
    let back = fs::read(place.path("back/version-2").join(&exported.files[0])).unwrap();
    let mut acls = 0;
    let mut parser = FileParser::new(Bounds::default());
    let look = |r: Record<'_>| {
        if let Record::Node { path: "/a/r", acl, .. } = r {
            acls = acl.unwrap().len();
        }
        Ok::<(), Unreadable>(())
    };
    parser.feed(&back, look).unwrap();
    assert_eq!(acls, 2);
    let place = Place::with(&[("snapshot.8", &bad)]);
    assert!(place.refused().contains("access control list"), "{}", place.refused());
}

#[test]
fn epochs_come_along() {
    let place = Place::golden(&["snapshot.8"]);
    place.put("acceptedEpoch", b"7");
    place.put("currentEpoch", b"6");
    let done = place.import("data").unwrap();
    assert_eq!((done.epochs.accepted, done.epochs.current), (7, 6));
    let exported = migrate::export(&place.path("data"), &place.path("data"), &place.path("back")).unwrap();
    assert_eq!((exported.epochs.accepted, exported.epochs.current), (7, 6));
    assert_eq!(fs::read(place.path("back/version-2/acceptedEpoch")).unwrap(), b"7");
    assert_eq!(fs::read(place.path("back/version-2/currentEpoch")).unwrap(), b"6");
    place.put("acceptedEpoch", b"5");
    assert!(place.refused().contains("can never be lower"));
}

#[test]
fn a_target_with_data_is_refused_and_left_alone() {
    let place = Place::golden(&["snapshot.8"]);
    place.import("data").unwrap();
    let before: Vec<_> = fs::read_dir(place.path("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
    let why = format!("{:#}", place.import("data").unwrap_err());
    assert!(why.contains("holds data of this server already"), "{why}");
    let after: Vec<_> = fs::read_dir(place.path("data")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(before, after);
    // A refused import leaves no directory that a server would open.
    let bad = Place::with(&[("snapshot.8", b"ZKSN")]);
    bad.refused();
    assert!(!bad.path("refused").exists());
}

#[test]
fn another_zookeepers_files_in_the_target_do_not_pass_for_imported() {
    let (place, other) = (Place::golden(&["snapshot.8"]), Place::golden(&["snapshot.0"]));
    let source = Source::find(&place.zookeeper(), None).unwrap();
    for (data_dir, log_dir) in
        [(other.zookeeper(), other.zookeeper()), (place.path("data"), other.zookeeper())]
    {
        let why = migrate::import(&source, &Target { data_dir, log_dir }, false).unwrap_err().to_string();
        assert!(why.contains("another ZooKeeper server"), "{why}");
    }
    assert_eq!(fs::read_dir(other.zookeeper()).unwrap().count(), 1);
}

fn config(data_dir: &Path) -> Config {
    Config::embedded(data_dir, &Profile::default())
}

#[test]
fn serve_imports_once_unless_it_is_forbidden_or_zookeeper_wrote_again() {
    let place = Place::golden(&["snapshot.0", "log.1"]);
    let dir = place.zookeeper();
    let why = migrate::before_serving(&config(&dir), true).unwrap_err().to_string();
    let command = format!("serval import {0} --data-dir {0}", dir.display());
    assert!(why.contains(&command) && why.contains(migrate::FORBID), "{why}");
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1, "nothing was put beside it");
    let imported = migrate::before_serving(&config(&dir), false).unwrap().expect("an import");
    assert_eq!(imported.figures.digest, DIGEST);
    assert!(!imported.line().contains('\n'));
    assert!(migrate::before_serving(&config(&dir), false).unwrap().is_none(), "not a second time");
    assert_eq!(fs::read(place.version_2().join("log.1")).unwrap(), golden("log.1"), "the originals stay");
    // ZooKeeper appends to the file it has, or begins another.
    let log = fs::File::options().write(true).open(place.version_2().join("log.1")).unwrap();
    let was = log.metadata().unwrap().modified().unwrap();
    log.set_modified(was + Duration::from_millis(1)).unwrap();
    let why = migrate::before_serving(&config(&dir), false).unwrap_err().to_string();
    assert!(why.contains("were written to since"), "{why}");
    log.set_modified(was).unwrap();
    assert!(migrate::before_serving(&config(&dir), false).unwrap().is_none());
    place.put("log.9", &golden("log.1")[..16]);
    fs::File::open(place.version_2().join("log.9"))
        .unwrap()
        .set_modified(was + Duration::from_secs(9))
        .unwrap();
    let why = migrate::before_serving(&config(&dir), false).unwrap_err().to_string();
    assert!(why.contains("were written to since"), "{why}");
    // Once version-2 is out of the way nothing is asked any more.
    fs::rename(place.version_2(), place.path("aside")).unwrap();
    assert!(migrate::before_serving(&config(&dir), false).unwrap().is_none());
}

#[test]
fn a_server_of_its_own_beside_zookeepers_files_is_not_imported_into() {
    let place = Place::with(&[]);
    fs::remove_dir(place.version_2()).unwrap();
    let options = net::embed::Options { data_dir: Some(place.zookeeper()), ..net::embed::Options::default() };
    Server::start(options).unwrap().stop().unwrap();
    fs::create_dir(place.version_2()).unwrap();
    place.put("snapshot.8", &golden("snapshot.8"));
    let why = format!("{:#}", migrate::before_serving(&config(&place.zookeeper()), false).unwrap_err());
    assert!(why.contains("holds data of this server already"), "{why}");
}

#[test]
fn a_data_dir_that_is_a_version_2_itself_is_no_empty_one() {
    for name in ["snapshot.0", "log.1"] {
        let place = Place::golden(&[name]);
        let why = migrate::before_serving(&config(&place.version_2()), false).unwrap_err().to_string();
        assert!(why.contains(name) && why.contains("dataDir"), "{why}");
        let mut apart = config(&place.path("data"));
        apart.data_log_dir = place.version_2();
        let why = migrate::before_serving(&apart, false).unwrap_err().to_string();
        assert!(why.contains(name) && why.contains("dataLogDir"), "{why}");
    }
    // Who has begun there goes on: the files beside ours are somebody's copies.
    let place = Place::with(&[]);
    let options = net::embed::Options { data_dir: Some(place.version_2()), ..net::embed::Options::default() };
    Server::start(options).unwrap().stop().unwrap();
    place.put("snapshot.8", &golden("snapshot.8"));
    assert!(migrate::before_serving(&config(&place.version_2()), false).unwrap().is_none());
}

#[test]
fn an_empty_log_is_told() {
    let place = Place::golden(&["snapshot.0", "log.1"]);
    place.put("log.9", b"");
    let imported = place.import("data").unwrap();
    assert_eq!((imported.txns, imported.notes.len()), (8, 1), "{:?}", imported.notes);
    assert!(imported.notes[0].contains("log.9 is empty"), "{:?}", imported.notes);
}

#[test]
fn logs_in_a_directory_of_their_own() {
    let place = Place::golden(&["snapshot.0"]);
    let logs = place.path("logs");
    fs::create_dir_all(logs.join("version-2")).unwrap();
    fs::write(logs.join("version-2/log.1"), golden("log.1")).unwrap();
    let mut c = config(&place.zookeeper());
    c.data_log_dir.clone_from(&logs);
    let imported = migrate::before_serving(&c, false).unwrap().expect("an import");
    assert_eq!((imported.figures.digest, imported.txns), (DIGEST, 8));
    assert!(migrate::before_serving(&c, false).unwrap().is_none());
    c.prepare_dirs().unwrap();
    let exported = migrate::export(&c.data_dir, &c.data_log_dir, &place.path("back")).unwrap();
    assert_eq!(exported.figures, imported.figures);
    // A dataLogDir whose dataDir holds nothing.
    c.data_dir = place.path("empty");
    let why = format!("{:#}", migrate::before_serving(&c, false).unwrap_err());
    assert!(why.contains("holds none of its snapshots"), "{why}");
}

#[test]
fn an_imported_directory_serves_and_goes_back() {
    let place = Place::golden(&["snapshot.0", "log.1"]);
    migrate::before_serving(&config(&place.zookeeper()), false).unwrap();
    let options = net::embed::Options { data_dir: Some(place.zookeeper()), ..net::embed::Options::default() };
    Server::start(options).unwrap().stop().unwrap();
    let exported = migrate::export(&place.zookeeper(), &place.zookeeper(), &place.path("back")).unwrap();
    assert_eq!(exported.figures.digest, DIGEST);
    // And once more, from what was exported.
    let source = Source::find(&place.path("back"), None).unwrap();
    let target = Target { data_dir: place.path("again"), log_dir: place.path("again") };
    assert_eq!(migrate::import(&source, &target, false).unwrap().figures, exported.figures);
}

#[test]
fn an_empty_server_exports_an_empty_tree() {
    let place = Place::with(&[]);
    let options =
        net::embed::Options { data_dir: Some(place.path("data")), ..net::embed::Options::default() };
    Server::start(options).unwrap().stop().unwrap();
    fs::write(place.path("data/myid"), b"3\n").unwrap();
    let exported = migrate::export(&place.path("data"), &place.path("data"), &place.path("back")).unwrap();
    assert_eq!(exported.figures, figures(0, 0x51c6_d660, 5, 0, 0));
    assert_eq!(fs::read(place.path("back/myid")).unwrap(), b"3\n");
    let mut end = Vec::new();
    end.put_long(0);
    assert!(fs::read(place.path("back/version-2/snapshot.0")).unwrap().len() > end.len());
    let gone = migrate::export(&place.path("nowhere"), &place.path("nowhere"), &place.path("x"));
    assert!(gone.unwrap_err().to_string().contains("cannot look into"));
    assert!(!place.path("nowhere").exists());
}
