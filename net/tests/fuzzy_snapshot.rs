//! A snapshot that a leader sends while it writes, as Apache's do: it holds parts of what is committed behind its zxid.
//! A server takes it over from a leader that is a script, and its digests are compared from where the state is whole, in
//! this life and the next, and where it is exported.

mod peers_support;

use engine::foreign::snapshot::Encoder;
use engine::ids::{LinkId, ServerId, SessionId, Zxid};
use engine::limits::Limits;
use engine::pipeline::{Ask, Database, Origin, Prep};
use engine::proto::{Acl, CreateRequest, Encode, Op, PathVersion, SetDataRequest};
use engine::time::WallMs;
use engine::tree;
use engine::zab::Links;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, Notification, PeerState, parse, put_packet};
use net::config::EnsembleConfig;
use net::embed::{Options, Server, ask};
use net::peers::PeerEvent;
use peers_support::{Node, PATIENCE, lines};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

/// Server 2: a history with digests, and the connections of a leader.
struct Leader {
    node: Node,
    link: Option<LinkId>,
    db: Database,
    limits: Limits,
    epoch: u32,
    log: Vec<(Zxid, Arc<[u8]>)>,
}

impl Leader {
    fn new(node: Node) -> Leader {
        let (mut writer, _) = tree::new_bare(1, 2);
        writer.ensure_builtins();
        let db = Database::new(writer);
        Leader { node, link: None, db, limits: Limits::default(), epoch: 1, log: Vec::new() }
    }

    /// Writes, and applies it at once.
    fn write(&mut self, op: Op, body: impl FnOnce(&mut Vec<u8>)) -> Zxid {
        let mut request = Vec::new();
        body(&mut request);
        let ask = Ask {
            session: SessionId(0x0200_0000_0000_0001),
            cxid: 1,
            op,
            body: &request,
            ids: &[],
            live: true,
            moved: false,
        };
        let mut prep = match self.db.last().epoch() == self.epoch {
            true => Prep::new(&self.db, &self.limits),
            false => Prep::leading(&self.db, &self.limits, self.epoch),
        };
        let p = prep.propose(&self.db, &self.limits, ask, WallMs(1_000));
        self.db.apply(&p.bytes, Origin::Own, None, false).unwrap();
        self.db.tree.publish(p.zxid);
        self.log.push((p.zxid, p.bytes));
        p.zxid
    }
    fn create(&mut self, path: &str) -> Zxid {
        let request = CreateRequest {
            path: path.into(),
            data: Some(b"x"),
            acl: vec![Acl::open()],
            flags: 0,
            ttl: None,
        };
        self.write(Op::Create, |o| request.encode(o))
    }
    fn set(&mut self, path: &str) -> Zxid {
        let request = SetDataRequest { path: path.into(), data: Some(b"other"), version: -1 };
        self.write(Op::SetData, |o| request.encode(o))
    }
    fn delete(&mut self, path: &str) -> Zxid {
        self.write(Op::Delete, |o| PathVersion { path: path.into(), version: -1 }.encode(o))
    }

    /// The tree as it is now, as the stream behind a SNAP.
    fn stream(&self) -> Vec<u8> {
        let view = self.db.tree.latest();
        let mut nodes = vec![view.root()];
        while let Some(next) = nodes[nodes.len() - 1].next_in_tree() {
            nodes.push(next);
        }
        let (mut encoder, mut out) = (Encoder::default(), Vec::new());
        nodes.iter().for_each(|n| encoder.note(n.acl()));
        encoder.head(&[], &mut out);
        for n in &nodes {
            encoder.node(&n.path(), n.data(), n.acl(), &n.stat_persisted(), &mut out).unwrap();
        }
        encoder.end(&mut out);
        out.put_string("BenWasHere");
        out
    }

    /// One step: whoever looks for a leader is told that it is this one.
    fn step(&mut self) {
        self.node.step();
        for message in self.node.messages(1) {
            let heard = Notification::decode(&message).unwrap();
            let state = match heard.state {
                PeerState::Looking => PeerState::Looking,
                _ => PeerState::Leading,
            };
            let mut out = Vec::new();
            let vote = Notification {
                state,
                leader: ServerId(2),
                zxid: Zxid::new(9, 9),
                round: heard.round,
                peer_epoch: 9,
                version: 2,
                config: None,
            };
            vote.encode(&mut out);
            self.node.peers.send_election(ServerId(1), &out);
        }
        while let Some(event) = self.node.events.pop_front() {
            match event {
                PeerEvent::Accepted { link, .. } => self.link = Some(link),
                PeerEvent::Down { link, .. } if self.link == Some(link) => self.link = None,
                _ => {}
            }
        }
    }

    /// Waits for a packet of that kind, and gives its zxid; pings need no answer.
    fn wait_for(&mut self, kind: Kind) -> Zxid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            assert!(Instant::now() < deadline, "no {kind:?} comes");
            self.step();
            let Some(link) = self.link else { continue };
            let came = parse(self.node.peers.input(link), 1 << 20).unwrap();
            if let Some((came, zxid, used)) = came.map(|(p, n)| (p.kind, p.zxid, n)) {
                self.node.peers.consume(link, used);
                if came == kind {
                    return zxid;
                }
            } else {
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
        }
    }

    fn say(&mut self, kind: Kind, zxid: Zxid, data: Option<&[u8]>) {
        let link = self.link.expect("it is connected");
        put_packet(self.node.peers.out(link), kind, zxid, data);
        self.node.peers.flush();
    }

    /// Up to the learner's word how far its history reaches.
    fn discover(&mut self, epoch: u32) -> Zxid {
        self.epoch = epoch;
        self.node.peers.listen(true);
        self.wait_for(Kind::FollowerInfo);
        let mut version = Vec::new();
        version.put_int(0x10000);
        self.say(Kind::LeaderInfo, Zxid::new(epoch, 0), Some(&version));
        self.wait_for(Kind::AckEpoch)
    }

    fn commit(&mut self, above: Zxid) {
        for (zxid, txn) in self.log.clone() {
            if zxid > above {
                self.say(Kind::Proposal, zxid, Some(&txn));
                self.say(Kind::Commit, zxid, None);
            }
        }
    }

    fn settle(&mut self) {
        self.say(Kind::NewLeader, Zxid::new(self.epoch, 0), None);
        self.wait_for(Kind::Ack);
        self.say(Kind::UpToDate, Zxid::MAX, None);
    }

    /// Until that server has applied this much; how often its digests differed by then.
    fn mismatches_at(&mut self, server: &Server, zxid: Zxid) -> u64 {
        let deadline = Instant::now() + PATIENCE;
        let wanted = format!("Zxid: 0x{:x}\n", zxid.0);
        while !ask(server.client_addr(), "srvr").is_ok_and(|t| t.contains(&wanted)) {
            assert!(Instant::now() < deadline, "it never comes to {zxid}");
            self.step();
        }
        let figures = ask(server.client_addr(), "mntr").unwrap();
        let line = figures.lines().find_map(|l| l.strip_prefix("zk_digest_mismatches_count\t"));
        line.expect("it is counted").parse().unwrap()
    }
}

fn start() -> (Server, Leader, TempDir) {
    let l = lines(3);
    let mut text = String::new();
    for p in &l {
        let (host, quorum, election) = &p.addresses[0];
        text += &format!("server.{}={host}:{quorum}:{election}:participant\n", p.id.0);
    }
    let ensemble = EnsembleConfig::local(ServerId(1), Arc::new(Members::parse(&text).unwrap()));
    let limits = Limits { words: None, max_client_connections: 0, ..Limits::default() };
    // It may vote, though it has nothing.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("initialize"), b"").unwrap();
    let data_dir = Some(dir.path().to_owned());
    let options = Options { ensemble: Some(ensemble), limits: Some(limits), data_dir, ..Options::default() };
    let leader = Leader::new(Node::open(2, &l));
    (Server::start(options).unwrap(), leader, dir)
}

/// Says up to where the state came as a snapshot, and up to where it is whole.
fn hand_over(leader: &mut Leader) -> (Zxid, Zxid) {
    leader.create("/a");
    leader.create("/b");
    let snap = leader.create("/gone");
    leader.create("/during");
    leader.set("/a");
    leader.delete("/gone");
    let whole = leader.create("/a/child");
    leader.discover(2);
    leader.say(Kind::Snap, snap, None);
    let link = leader.link.unwrap();
    let stream = leader.stream();
    leader.node.peers.out(link).extend_from_slice(&stream);
    leader.commit(snap);
    leader.settle();
    (snap, whole)
}

#[test]
fn digests_are_compared_from_where_the_state_is_whole() {
    let (server, mut leader, _dir) = start();
    let (_, whole) = hand_over(&mut leader);
    assert_eq!(leader.mismatches_at(&server, whole), 0, "they say nothing before it is whole");
    let live = leader.create("/live");
    leader.commit(whole);
    assert_eq!(leader.mismatches_at(&server, live), 0);
    let wrong = leader.create("/wrong");
    let (_, txn) = leader.log.last_mut().unwrap();
    let mut bytes = txn.to_vec();
    *bytes.last_mut().unwrap() ^= 1;
    *txn = bytes.into();
    leader.commit(live);
    assert_eq!(leader.mismatches_at(&server, wrong), 1, "behind it they are compared");

    // Another life: it replays the same history over the same snapshot, and the same digest is wrong.
    let stopped = server.kill();
    let server = stopped.start().unwrap();
    leader.link = None;
    let logged = leader.discover(3);
    assert!(logged >= whole, "that was acknowledged, so it is durable");
    leader.say(Kind::Diff, wrong, None);
    leader.commit(logged);
    leader.settle();
    assert_eq!(leader.mismatches_at(&server, wrong), 1);
    server.kill();
}

#[test]
fn what_is_exported_says_where_it_is_whole() {
    let (server, mut leader, dir) = start();
    let (snap, whole) = hand_over(&mut leader);
    let live = leader.create("/live");
    leader.commit(whole);
    leader.mismatches_at(&server, live);
    // What is committed is applied, durable here or not; what is acknowledged is durable.
    while leader.wait_for(Kind::Ack) < live {}
    server.kill();
    let dir = dir.path();
    let to = tempfile::tempdir().unwrap();
    let exported = net::migrate::export(dir, dir, &to.path().join("zookeeper")).unwrap();
    assert_eq!((exported.figures.zxid, exported.figures.digest), (live, leader.db.tree.digest()));
    // As ZooKeeper does it: the digest stands for a zxid behind the one in the snapshot's name.
    let name = format!("snapshot.{:x}", snap.0);
    let bytes = std::fs::read(to.path().join("zookeeper/version-2").join(name)).unwrap();
    let digest_at = bytes.len() - 8 - 5 - 8 - 4 - 8;
    assert_eq!(bytes[digest_at..digest_at + 8], whole.0.to_be_bytes());
}
