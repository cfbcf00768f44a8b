//! One learner, whose leader is a script: what it makes of a leader that behaves in a way that ours would not.

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::Encode;
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, Notification, PeerState, put_packet};
use engine::zab::{Epochs, Event, Knobs, Links, Member, Persist, Persistence, Reach, Role, Settings, Window};
use std::collections::BTreeMap;
use std::sync::Arc;

const TICK_MS: u64 = 100;
const INIT_MS: u64 = 10 * TICK_MS;

/// Everything is durable when it is asked for.
#[derive(Default)]
struct Ports {
    ticket: Ticket,
    dialled: Option<LinkId>,
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
        let link = LinkId(self.dialled.map_or(1, |l| l.0 + 1));
        self.dialled = Some(link);
        link
    }
    fn listen(&mut self, _on: bool) {}
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.out.entry(link).or_default()
    }
    fn close(&mut self, link: LinkId) {
        self.closed.push(link);
    }
}

/// Server 1 of three, which follows server 2.
struct One {
    member: Member,
    ports: Ports,
    now: MonoMs,
    link: LinkId,
}

impl One {
    /// It has just sent its first packet.
    fn new() -> One {
        let text = "server.1=a:1:2:participant\nserver.2=b:1:2:participant\nserver.3=c:1:2:participant\n";
        let settings = Settings {
            me: ServerId(1),
            observer: false,
            tick_ms: TICK_MS,
            init_limit: INIT_MS / TICK_MS,
            sync_limit: 5,
            epoch_wait_ms: None,
            knobs: Knobs::default(),
            packet_max: 1 << 20,
            empty: false,
        };
        let window = Window::new(Zxid::ZERO, Reach { entries: 1000, bytes: 1 << 20 });
        let members = Arc::new(Members::parse(text).unwrap());
        let epochs = Epochs { accepted: 1, current: 1 };
        let mut member = Member::new(settings, members, epochs, window, |_| None);
        let (mut ports, now) = (Ports::default(), MonoMs(1_000));
        member.start(now, &mut ports);
        for (from, state) in [(3, PeerState::Following), (2, PeerState::Leading)] {
            let n = Notification {
                state,
                leader: ServerId(2),
                zxid: Zxid::new(2, 9),
                round: 1,
                peer_epoch: 2,
                version: 2,
                config: None,
            };
            let mut bytes = Vec::new();
            n.encode(&mut bytes);
            member.election_message(ServerId(from), &bytes, now, &mut ports).unwrap();
        }
        let link = ports.dialled.expect("a leader was chosen");
        member.link_up(link, now, &mut ports);
        One { member, ports, now, link }
    }

    fn hear(&mut self, kind: Kind, zxid: Zxid, data: Option<&[u8]>) {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, kind, zxid, data);
        let used = self.member.link_bytes(self.link, &bytes, self.now, &mut self.ports);
        assert_eq!(used, bytes.len());
        self.member.durable(self.ports.ticket, self.now, &mut self.ports);
    }

    /// Up to a snapshot of this zxid.
    fn loading(zxid: Zxid) -> One {
        let mut one = One::new();
        let mut version = Vec::new();
        version.put_int(0x10000);
        one.hear(Kind::LeaderInfo, Zxid::new(2, 0), Some(&version));
        one.hear(Kind::Snap, zxid, None);
        assert_eq!(one.member.is_loading(), Some(one.link));
        one
    }

    fn pass(&mut self, ms: u64) {
        self.now = self.now.plus(ms);
        self.member.tick(self.now, &mut self.ports);
    }

    fn why_it_looks(&mut self) -> String {
        let mut why = None;
        while let Some(e) = self.member.take_event() {
            if let Event::Looking { why: text } = e {
                why = Some(text);
            }
        }
        why.expect("it looks for a leader")
    }
}

#[test]
fn a_snapshot_that_stops_ends_the_role_and_one_that_moves_does_not() {
    let mut one = One::loading(Zxid::new(2, 9));
    // A byte now and then, for as long as it may take.
    for _ in 0..100 {
        one.pass(INIT_MS - 1);
        assert_eq!(one.member.role(), Role::Joining);
        one.member.stream_moved(true, true, one.now);
    }
    assert_eq!(one.member.next_deadline(), Some(one.now.plus(INIT_MS)), "the driver knows when to look");
    one.pass(INIT_MS);
    assert_eq!((one.member.role(), one.member.is_loading()), (Role::Looking, None));
    assert_eq!(one.ports.closed, [one.link]);
    let why = one.why_it_looks();
    assert!(why.contains("server 2") && why.contains("0x200000009 stopped in the middle"), "{why}");
    assert!(why.contains("1000 ms"), "{why}");
}

#[test]
fn what_this_server_does_with_a_snapshot_takes_as_long_as_it_takes() {
    let mut one = One::loading(Zxid::new(2, 9));
    one.member.stream_moved(true, false, one.now);
    one.pass(100 * INIT_MS);
    assert_eq!(one.member.role(), Role::Joining, "the bytes that came are still worked on");
    // It goes on: from here on the leader's silence counts, not what was before.
    one.member.stream_moved(false, true, one.now);
    one.pass(INIT_MS - 1);
    assert_eq!(one.member.role(), Role::Joining);
    // No byte came: to be asked about does not prolong it.
    one.member.stream_moved(false, true, one.now);
    one.pass(1);
    assert_eq!(one.member.role(), Role::Looking);
}
