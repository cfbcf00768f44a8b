//! What a leader hears on its quorum port and does not take: who said it is named, that link alone is closed, and the
//! leader and its other learners go on.

mod zab_common;

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::Encode;
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, put_packet};
use engine::zab::{Epochs, Event, Links, Member, Persist, Persistence, Reach, Role, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use zab_common::settings;

#[derive(Default)]
struct Ports {
    ticket: Ticket,
    out: BTreeMap<LinkId, Vec<u8>>,
    closed: Vec<LinkId>,
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, _what: Persist<'_>) {
        self.ticket = ticket;
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

/// The only voter, so that it leads at once; server 2 observes.
struct Leader {
    member: Member,
    ports: Ports,
    now: u64,
    links: u64,
}

impl Leader {
    fn new() -> Leader {
        let text = "server.1=a:1:2:participant\nserver.2=b:1:2:observer\n";
        let settings = settings(1);
        let window = Window::new(Zxid::ZERO, Reach { entries: usize::MAX, bytes: usize::MAX });
        let members = Arc::new(Members::parse(text).unwrap());
        let member = Member::new(settings, members, Epochs::default(), window, |_| None);
        let mut l = Leader { member, ports: Ports::default(), now: 0, links: 0 };
        l.member.start(MonoMs(0), &mut l.ports);
        for _ in 0..100 {
            l.step();
        }
        assert_eq!(l.member.role(), Role::Leading);
        while l.member.take_event().is_some() {}
        l
    }

    fn step(&mut self) {
        self.now += 1;
        let now = MonoMs(self.now);
        self.member.tick(now, &mut self.ports);
        self.member.pump(now, &mut self.ports);
        self.member.durable(self.ports.ticket, now, &mut self.ports);
    }

    /// Somebody connects and says this.
    fn hears(&mut self, name: &str, bytes: &[u8]) -> LinkId {
        self.links += 1;
        let link = LinkId(self.links);
        self.member.link_accepted(link, name.into(), MonoMs(self.now), &mut self.ports);
        self.goes_on(link, bytes);
        link
    }

    fn goes_on(&mut self, link: LinkId, bytes: &[u8]) {
        self.member.link_bytes(link, bytes, MonoMs(self.now), &mut self.ports);
        self.step();
    }

    /// Who was dropped, from where, and why.
    fn dropped_ids(&mut self) -> Vec<(Option<ServerId>, String, String)> {
        std::iter::from_fn(|| self.member.take_event())
            .filter_map(|e| if let Event::Dropped { id, at, why } = e { Some((id, at, why)) } else { None })
            .collect()
    }

    fn dropped(&mut self) -> Vec<(String, String)> {
        self.dropped_ids().into_iter().map(|(_, at, why)| (at, why)).collect()
    }
}

fn packet(kind: Kind, zxid: Zxid, data: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_packet(&mut out, kind, zxid, Some(data));
    out
}

fn info(id: i64, protocol: i32, config: u64) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_long(id);
    out.put_int(protocol);
    out.put_long(config as i64);
    out
}

fn hello(id: i64) -> Vec<u8> {
    packet(Kind::ObserverInfo, Zxid::ZERO, &info(id, 0x10000, 0))
}

#[test]
fn what_makes_no_sense_is_named_and_closes_its_own_link_only() {
    let follower = |epoch, data: &[u8]| packet(Kind::FollowerInfo, Zxid::new(epoch, 0), data);
    let promised = |data: &[u8]| [hello(9), packet(Kind::AckEpoch, Zxid::ZERO, data)].concat();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("noise", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), "unknown kind"),
        ("another packet first", packet(Kind::Ack, Zxid(1), b""), "before the handshake"),
        ("the protocol before 3.4", follower(0, &info(9, 0xffff, 0)), "protocol 0xffff"),
        ("a number without a protocol", follower(0, &9i64.to_be_bytes()), "protocol 0x1"),
        ("nothing of itself", follower(0, b""), "protocol 0x1"),
        ("a configuration of the future", follower(0, &info(9, 0x10000, 1 << 40)), "newer than"),
        ("an epoch that cannot be", follower(u32::MAX, &info(9, 0x10000, 0)), "makes no sense"),
        ("the leader's number", follower(0, &info(1, 0x10000, 0)), "myid"),
        ("no epoch", promised(b"x"), "no epoch"),
        ("a packet out of order", promised(&[]).split_at(hello(9).len()).0.repeat(2), "before the handshake"),
        (
            "a packet of 2 GB",
            [&follower(0, b"")[..12], &[0x7f, 0xff, 0xff, 0xff]].concat(),
            "2147483647 bytes",
        ),
    ];
    let mut l = Leader::new();
    let other = l.hears("10.0.0.2:4000", &hello(2));
    for (what, bytes, why) in cases {
        let link = l.hears("10.0.0.9:4000", &bytes);
        let said = l.dropped();
        let [(who, because)] = &said[..] else { panic!("{what}: {said:?}") };
        assert!(who.contains("10.0.0.9:4000") && because.contains(why), "{what}: {who}: {because}");
        assert_eq!(std::mem::take(&mut l.ports.closed), [link], "{what}");
        assert_eq!(l.member.role(), Role::Leading, "{what}");
    }
    l.goes_on(other, &packet(Kind::AckEpoch, Zxid::ZERO, &0i32.to_be_bytes()));
    assert!(l.ports.closed.is_empty() && l.dropped().is_empty(), "the other learner goes on");
}

#[test]
fn before_its_promise_nobody_makes_the_leader_wait_for_much() {
    let big = |data: usize| {
        let mut p = packet(Kind::Request, Zxid::ZERO, &vec![7; data]);
        p.pop();
        p
    };
    let mut l = Leader::new();
    let promised = [hello(2), packet(Kind::AckEpoch, Zxid::ZERO, &0i32.to_be_bytes())].concat();
    let learner = l.hears("10.0.0.2:4000", &promised);
    // Announced, by a stranger and by one that has not promised yet.
    for said in [Vec::new(), hello(9)] {
        let bytes = [said, big(65_537)[..16].to_vec()].concat();
        let link = l.hears("10.0.0.9:4000", &bytes);
        assert_eq!(std::mem::take(&mut l.ports.closed), [link]);
        let said = l.dropped();
        assert!(said.len() == 1 && said[0].1.contains("65537 bytes"), "{said:?}");
    }
    // Identities have a bound of their own, which is higher.
    let mut ids = packet(Kind::FollowerInfo, Zxid::ZERO, &[]);
    ids.truncate(16);
    ids.put_int(2);
    ids.put_int(60_000);
    ids.extend([b'x'; 60_000]);
    let link = l.hears("10.0.0.9:4000", &ids);
    assert!(l.ports.closed.is_empty());
    ids.put_int(60_000);
    l.goes_on(link, &[&ids[..], &[b'x'; 10_000]].concat());
    assert_eq!(std::mem::take(&mut l.ports.closed), [link]);
    assert!(l.dropped()[0].1.contains("65536 bytes"));
    // A learner may send what a client may.
    l.goes_on(learner, &big(1 << 20));
    assert!(l.ports.closed.is_empty() && l.dropped().is_empty());
}

#[test]
fn whoever_has_not_said_who_it_is_is_no_learner_0() {
    let mut l = Leader::new();
    let ends = |l: &mut Leader, link| {
        l.member.link_down(link, "it went", MonoMs(l.now), &mut l.ports);
        l.dropped_ids()
    };
    let link = l.hears("10.0.0.9:4000", b"");
    assert_eq!(ends(&mut l, link), [(None, "10.0.0.9:4000".into(), "it went".into())]);
    let link = l.hears("10.0.0.2:4000", &hello(2));
    assert_eq!(ends(&mut l, link), [(Some(ServerId(2)), "10.0.0.2:4000".into(), "it went".into())]);
    l.hears("10.0.0.9:4001", b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!(l.dropped_ids()[0].0, None);
    l.hears("10.0.0.9:4002", &packet(Kind::FollowerInfo, Zxid::ZERO, &info(9, 0xffff, 0)));
    assert_eq!(l.dropped_ids()[0].0, None, "what was refused is not believed");
}

#[test]
fn a_stale_configuration_is_no_reason_to_refuse() {
    let mut l = Leader::new();
    l.hears("10.0.0.2:4000", &packet(Kind::ObserverInfo, Zxid::ZERO, &info(2, 0x10000, 0)));
    l.hears("10.0.0.9:4000", &packet(Kind::FollowerInfo, Zxid::ZERO, &info(9, 0x20000, 0)));
    assert!(l.ports.closed.is_empty() && l.dropped().is_empty());
}

#[test]
fn who_connects_again_from_another_host_may_be_a_second_server_of_that_number() {
    let mut l = Leader::new();
    let first = l.hears("10.0.0.2:4000", &hello(2));
    let again = l.hears("10.0.0.2:4001", &hello(2));
    assert_eq!(std::mem::take(&mut l.ports.closed), [first]);
    assert!(l.dropped().is_empty(), "a server that was started again is nothing to tell of");
    l.hears("10.0.0.7:4000", &hello(2));
    assert_eq!(std::mem::take(&mut l.ports.closed), [again]);
    let said = l.dropped();
    let [(who, why)] = &said[..] else { panic!("{said:?}") };
    assert!(
        who.contains("10.0.0.2:4001") && why.contains("10.0.0.7:4000") && why.contains("myid"),
        "{said:?}"
    );
}
