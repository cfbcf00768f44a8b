//! Learners that are synchronised while the leader writes more than its window holds: they go on from the log, as often as
//! it takes, and see every proposal once, every commit behind its proposal, and no gap.

mod zab_common;

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::{Encode, Op};
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, parse, put_packet};
use engine::zab::{Epochs, Event, Links, Member, Persist, Persistence, Reach, Role, Settings, Window};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use zab_common::{settings, txn, zxid_of};

const INIT_MS: u64 = 1_000;
const SYNC_MS: u64 = 500;
const PACKET_MAX: usize = 4 << 20;
const MEMBERS: &str = "server.1=a:1:2:participant;3\nserver.2=b:1:2:observer;3\n";

#[derive(Default)]
struct Ports {
    ticket: Ticket,
    log: Vec<(Zxid, Arc<[u8]>)>,
    out: BTreeMap<LinkId, Vec<u8>>,
    closed: Vec<LinkId>,
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        self.ticket = ticket;
        if let Persist::Append(txn) = what {
            self.log.push((zxid_of(txn).unwrap(), txn.into()));
        }
    }
}

impl Links for Ports {
    fn send_election(&mut self, _to: ServerId, _message: &[u8]) {}
    fn dial(&mut self, _to: ServerId) -> LinkId {
        panic!("a leader dials nobody")
    }
    fn listen(&mut self, _on: bool) {}
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.out.entry(link).or_default()
    }
    fn close(&mut self, link: LinkId) {
        self.closed.push(link);
    }
}

/// What a learner makes of what it is sent.
#[derive(Default)]
struct Learner {
    link: LinkId,
    observer: bool,
    history: Vec<Zxid>,
    committed: usize,
    /// Before the first zxid of `history`.
    start: Zxid,
    new_leader: bool,
    acked: bool,
    /// Acknowledged of `history`.
    acks: usize,
    live: bool,
    activated: Vec<(Zxid, i64)>,
    unread: Vec<u8>,
}

impl Learner {
    fn last(&self) -> Zxid {
        self.history.last().copied().unwrap_or(self.start)
    }
    fn proposal(&mut self, zxid: Zxid) {
        let last = self.last();
        let follows = zxid.0 == last.0 + 1 || (zxid.epoch() > last.epoch() && zxid.counter() == 1);
        assert!(follows, "{zxid} follows {last}");
        self.history.push(zxid);
    }
    fn commit(&mut self, zxid: Zxid) {
        assert_eq!(self.history.get(self.committed), Some(&zxid), "a commit without its proposal");
        self.committed += 1;
    }
    fn reads(&mut self, bytes: &[u8]) {
        self.unread.extend_from_slice(bytes);
        let all = std::mem::take(&mut self.unread);
        let mut at = 0;
        while let Some((p, n)) = parse(&all[at..], PACKET_MAX).unwrap() {
            at += n;
            match p.kind {
                Kind::Snap => self.start = p.zxid,
                Kind::Diff | Kind::LeaderInfo | Kind::Ping => {}
                Kind::Proposal => {
                    assert!(!self.observer || !self.live, "an observer that serves is informed");
                    self.proposal(p.zxid);
                }
                Kind::Commit => self.commit(p.zxid),
                Kind::CommitAndActivate => {
                    self.commit(p.zxid);
                    let heir = i64::from_be_bytes(p.data.unwrap().try_into().unwrap());
                    self.activated.push((p.zxid, heir));
                }
                Kind::Inform => {
                    assert!(self.new_leader && self.observer);
                    self.proposal(p.zxid);
                    self.commit(p.zxid);
                }
                Kind::InformAndActivate => {
                    self.proposal(p.zxid);
                    self.commit(p.zxid);
                    let heir = i64::from_be_bytes(p.data.unwrap()[..8].try_into().unwrap());
                    self.activated.push((p.zxid, heir));
                }
                Kind::NewLeader => {
                    assert!(!self.new_leader, "NEWLEADER comes once");
                    self.new_leader = true;
                }
                Kind::UpToDate => {
                    assert!(self.acked);
                    self.live = true;
                }
                other => panic!("{other:?}"),
            }
        }
        self.unread = all[at..].to_vec();
    }
}

/// The only voter, which leads, and its driver.
struct Leader {
    member: Member,
    ports: Ports,
    now: u64,
    /// Nothing becomes durable, so nothing is committed.
    stuck: bool,
    /// Streams that were asked for: which learner, from where, a voter's, in the middle.
    asked: VecDeque<(LinkId, Zxid, bool, bool)>,
    dropped: Vec<String>,
}

impl Leader {
    fn new(reach: Reach) -> Leader {
        let settings = Settings {
            init_limit: INIT_MS / 100,
            sync_limit: SYNC_MS / 100,
            packet_max: PACKET_MAX,
            ..settings(1)
        };
        let members = Arc::new(Members::parse(MEMBERS).unwrap());
        let window = Window::new(Zxid::ZERO, reach);
        let mut member = Member::new(settings, members, Epochs::default(), window, zxid_of);
        member.allow_reconfig(None);
        let (asked, dropped) = (VecDeque::new(), Vec::new());
        let mut l = Leader { member, ports: Ports::default(), now: 0, stuck: false, asked, dropped };
        l.member.start(MonoMs(0), &mut l.ports);
        l.pass(100);
        assert_eq!(l.member.role(), Role::Leading);
        l
    }

    fn pass(&mut self, ms: u64) {
        for _ in 0..ms {
            self.now += 1;
            self.turn();
        }
    }

    fn turn(&mut self) {
        let now = MonoMs(self.now);
        self.member.tick(now, &mut self.ports);
        if !self.stuck {
            self.member.durable(self.ports.ticket, now, &mut self.ports);
        }
        self.member.pump(now, &mut self.ports);
        while self.member.take_committed().is_some() {}
        self.member.trim();
        while let Some(e) = self.member.take_event() {
            match e {
                Event::Stream { link, last, voter, goes_on, .. } => {
                    self.asked.push_back((link, last, voter, goes_on));
                }
                Event::Dropped { why, .. } => self.dropped.push(why),
                _ => {}
            }
        }
    }

    fn write(&mut self, op: Op, body: &[u8]) -> Zxid {
        let start = Zxid::new(self.member.epochs().current, 0);
        let zxid = Zxid(self.member.last_logged().max(start).0 + 1);
        self.member.submit(zxid, txn(zxid, op, body), &mut self.ports);
        self.turn();
        zxid
    }
    fn writes(&mut self, n: usize) {
        for _ in 0..n {
            self.write(Op::SetData, b"x");
        }
    }

    fn hears(&mut self, link: LinkId, kind: Kind, zxid: Zxid, data: &[u8]) {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, kind, zxid, Some(data));
        let used = self.member.link_bytes(link, &bytes, MonoMs(self.now), &mut self.ports);
        assert_eq!(used, bytes.len());
        self.turn();
    }

    /// A learner with this history, up to the decision what it is sent.
    fn joins(&mut self, link: u64, observer: bool, last: Zxid) -> Learner {
        let link = LinkId(link);
        self.member.link_accepted(link, format!("learner {}", link.0), MonoMs(self.now), &mut self.ports);
        let kind = if observer { Kind::ObserverInfo } else { Kind::FollowerInfo };
        let mut info = Vec::new();
        info.put_long(link.0 as i64 + 1);
        info.put_int(0x10000);
        info.put_long(0);
        self.hears(link, kind, Zxid::ZERO, &info);
        self.hears(link, Kind::AckEpoch, last, &0i32.to_be_bytes());
        Learner { link, observer, start: last, ..Learner::default() }
    }

    /// The first stream that was asked for begins: all of it is sent, and it ends.
    fn streams(&mut self) -> (Zxid, bool) {
        let run = self.begins();
        self.ends(&run);
        (run.1, run.2)
    }
    /// Which learner, up to where, and whether it was the log.
    fn begins(&mut self) -> (LinkId, Zxid, bool) {
        let (link, last, _, goes_on) = self.asked.pop_front().expect("a stream was asked for");
        let stream = self.member.stream_begins(link, MonoMs(self.now)).expect("the learner is there");
        assert_eq!(stream.behind.is_some(), goes_on);
        let Some(behind) = stream.behind else {
            put_packet(self.ports.out(link), Kind::Snap, stream.upto, None);
            return (link, stream.upto, false);
        };
        for (zxid, txn) in &self.ports.log {
            if *zxid > last && *zxid <= stream.upto {
                behind.put(self.ports.out.entry(link).or_default(), *zxid, txn);
            }
        }
        (link, stream.upto, true)
    }
    fn ends(&mut self, (link, upto, _): &(LinkId, Zxid, bool)) {
        self.member.stream_ended(*link, *upto, MonoMs(self.now), &mut self.ports);
        self.turn();
    }

    /// What is on the link so far arrives.
    fn carries(&mut self, to: &mut Learner) {
        to.reads(&std::mem::take(self.ports.out(to.link)));
    }
    fn acks(&mut self, of: &mut Learner) {
        of.acked = true;
        let epoch = Zxid::new(self.member.epochs().current, 0);
        self.hears(of.link, Kind::Ack, epoch, &[]);
    }
    /// The next transaction that has come is acknowledged, also before NEWLEADER is, as Apache's learners may.
    fn acks_one(&mut self, of: &mut Learner) {
        if let Some(zxid) = of.history.get(of.acks).copied().filter(|_| of.new_leader && !of.observer) {
            of.acks += 1;
            self.hears(of.link, Kind::Ack, zxid, &[]);
        }
    }
    /// Until the learner serves with everything that is committed.
    fn finishes(&mut self, learner: &mut Learner) {
        for _ in 0..100 {
            self.pass(1);
            while !self.asked.is_empty() {
                self.streams();
            }
            self.carries(learner);
            if learner.new_leader && !learner.acked {
                self.acks(learner);
            }
            let all = self.member.committed();
            if learner.live && learner.committed == learner.history.len() && learner.last() == all {
                assert!(self.dropped.is_empty(), "{:?}", self.dropped);
                return;
            }
        }
        panic!("{:x?} of {:?}: {:?}", learner.history, self.member.committed(), self.dropped);
    }
}

const THREE: Reach = Reach { entries: 3, bytes: usize::MAX };

#[test]
fn a_snapshot_that_the_window_does_not_outlast_is_gone_on_with_from_the_log() {
    for observer in [false, true] {
        let mut l = Leader::new(THREE);
        l.writes(10);
        let mut learner = l.joins(5, observer, Zxid::ZERO);
        let snapshot = l.begins();
        assert!(!snapshot.2);
        l.writes(20);
        l.ends(&snapshot);
        // What was written meanwhile is asked for as the log, from exactly where the snapshot is; and again.
        assert_eq!(l.asked, [(learner.link, snapshot.1, false, true)], "{:?}", l.dropped);
        for _ in 0..3 {
            let log = l.begins();
            assert!(log.2);
            l.writes(20);
            l.ends(&log);
            assert_eq!(l.asked, [(learner.link, log.1, false, true)]);
            l.carries(&mut learner);
            assert_eq!((learner.last(), learner.committed), (log.1, learner.history.len()));
            assert!(!learner.new_leader, "not before the whole history");
        }
        l.streams();
        l.finishes(&mut learner);
        let last = l.write(Op::SetData, b"x");
        l.carries(&mut learner);
        assert_eq!(learner.last(), last, "and so on, from the window");
    }
}

#[test]
fn what_is_proposed_already_is_only_committed() {
    let mut l = Leader::new(THREE);
    let mut learner = l.joins(5, false, Zxid::ZERO);
    l.carries(&mut learner);
    assert!(learner.new_leader, "it lacks nothing");
    // Its buffer is full with a proposal that is not committed; the window moves on, and then it is.
    l.stuck = true;
    let small = l.write(Op::SetData, b"x");
    let large = l.write(Op::SetData, &vec![b'x'; 2 << 20]);
    l.stuck = false;
    l.writes(20);
    assert!(l.asked.is_empty(), "a full buffer is left alone");
    l.carries(&mut learner);
    assert_eq!((learner.history.as_slice(), learner.committed), ([small, large].as_slice(), 0));
    l.turn();
    assert_eq!(l.asked, [(learner.link, Zxid::ZERO, false, true)], "{:?}", l.dropped);
    l.streams();
    l.finishes(&mut learner);
    assert_eq!(learner.history.len(), 22);
}

#[test]
fn a_reconfiguration_in_the_log_behind_new_leader_says_who_leads() {
    for observer in [false, true] {
        let mut l = Leader::new(THREE);
        let mut learner = l.joins(5, observer, Zxid::ZERO);
        l.carries(&mut learner);
        assert!(learner.new_leader);
        let full = l.write(Op::SetData, &vec![b'x'; 2 << 20]);
        let text = format!("{MEMBERS}server.3=c:1:2:observer;3\nversion={:x}", full.0 + 1);
        let change = l.write(Op::Reconfig, text.as_bytes());
        l.writes(20);
        l.carries(&mut learner);
        l.turn();
        assert_eq!(l.asked.len(), 1, "{:?}", l.dropped);
        l.finishes(&mut learner);
        assert_eq!(learner.activated, [(change, 1)]);
    }
}

#[test]
fn who_serves_and_falls_behind_is_synchronised_again() {
    let mut l = Leader::new(THREE);
    let mut learner = l.joins(5, false, Zxid::ZERO);
    l.finishes(&mut learner);
    l.write(Op::SetData, &vec![b'x'; 2 << 20]);
    l.writes(20);
    l.carries(&mut learner);
    l.turn();
    assert!(l.asked.is_empty());
    assert_eq!(l.ports.closed, [learner.link]);
    assert!(l.dropped[0].contains("further behind"), "{:?}", l.dropped);
}

#[test]
fn who_takes_nothing_of_its_stream_is_closed_and_who_waits_for_its_turn_is_not() {
    let mut l = Leader::new(THREE);
    l.writes(10);
    let stopped = l.joins(5, true, Zxid::ZERO);
    let takes = l.joins(6, true, Zxid::ZERO);
    let mut waits = l.joins(7, true, Zxid::ZERO);
    l.begins();
    l.begins();
    for _ in 0..5 {
        l.pass(INIT_MS / 2);
        l.member.stream_took(takes.link, MonoMs(l.now));
    }
    assert_eq!(l.ports.closed, [stopped.link]);
    let [why] = &l.dropped[..] else { panic!("{:?}", l.dropped) };
    assert!(why.contains("taken not a byte"), "{why}");
    l.dropped.clear();
    // The turn of the one that waits has come: from here on it has to take something as well.
    l.finishes(&mut waits);
    assert_eq!(l.ports.closed, [stopped.link]);
}

#[test]
fn in_the_middle_of_its_synchronisation_it_may_write_its_snapshot_for_a_while() {
    let mut l = Leader::new(THREE);
    l.writes(10);
    let learner = l.joins(5, false, Zxid::ZERO);
    let snapshot = l.begins();
    l.writes(20);
    l.ends(&snapshot);
    l.begins();
    l.pass(INIT_MS + SYNC_MS - 100);
    assert!(l.ports.closed.is_empty(), "{:?}", l.dropped);
    l.pass(300);
    assert_eq!(l.ports.closed, [learner.link]);
}

/// Small steps of all kinds, in any order.
#[test]
fn whatever_happens_when_nothing_is_missing_and_nothing_comes_twice() {
    let mut went_on = 0;
    for seed in 0..60u64 {
        let mut rng = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut below = |n: u64| {
            rng ^= rng << 13;
            rng ^= rng >> 7;
            rng ^= rng << 17;
            rng % n
        };
        let mut l = Leader::new(Reach { entries: below(12) as usize, bytes: usize::MAX });
        l.writes(below(20) as usize);
        let known = l.ports.log.get(below(20) as usize).map_or(Zxid::ZERO, |(z, _)| *z);
        let mut learner = l.joins(5, below(2) == 0, known);
        let mut running = None;
        for _ in 0..below(120) {
            match below(10) {
                0 => l.stuck = !l.stuck,
                1 => drop(l.write(Op::SetData, &vec![b'x'; 1 << 20])),
                2 | 3 => l.writes(1 + below(6) as usize),
                4 => l.carries(&mut learner),
                5 if running.is_none() && !l.asked.is_empty() => running = Some(l.begins()),
                6 => {
                    if let Some(run) = running.take() {
                        l.ends(&run);
                    }
                }
                7 if learner.new_leader && !learner.acked => l.acks(&mut learner),
                8 => l.acks_one(&mut learner),
                _ => l.turn(),
            }
            went_on += usize::from(l.asked.front().is_some_and(|a| a.3));
            if !l.ports.closed.is_empty() {
                break;
            }
        }
        if let Some(run) = running.take() {
            l.ends(&run);
        }
        l.stuck = false;
        l.turn();
        l.carries(&mut learner);
        l.turn();
        if l.ports.closed.is_empty() {
            l.finishes(&mut learner);
        } else {
            assert!(l.dropped[0].contains("further behind") && learner.live, "seed {seed}: {:?}", l.dropped);
        }
    }
    assert!(went_on > 30, "the log was needed only {went_on} times");
}
