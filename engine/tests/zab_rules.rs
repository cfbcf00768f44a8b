//! Rules of Zab that no scenario of the simulator misses when they are broken, since another rule stands behind each: here one
//! member is told what would show it (the table is in `net/tests/simulator/mutations.rs`).

mod zab_common;

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::Op;
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, Notification, PeerState, parse, put_packet};
use engine::zab::{Entry, Epochs, Links, Member, Persist, Persistence, Reach, Role, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use zab_common::{settings, txn, zxid_of};

/// Unsent bytes of a link above which a leader adds nothing to it.
const LINK_BYTES: usize = 1 << 20;

#[derive(Default)]
struct Ports {
    ticket: Ticket,
    vote: Option<Notification>,
    dialled: Option<ServerId>,
    out: BTreeMap<LinkId, Vec<u8>>,
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, _what: Persist<'_>) {
        self.ticket = ticket;
    }
}

impl Links for Ports {
    fn send_election(&mut self, _to: ServerId, message: &[u8]) {
        self.vote = Some(Notification::decode(message).unwrap());
    }
    fn dial(&mut self, to: ServerId) -> LinkId {
        self.dialled = Some(to);
        LinkId(1)
    }
    fn listen(&mut self, _on: bool) {}
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.out.entry(link).or_default()
    }
    fn close(&mut self, _link: LinkId) {}
}

fn text(voters: &[i64]) -> String {
    voters.iter().map(|n| format!("server.{n}=h{n}:1:2:participant;3\n")).collect()
}

/// Server 1 of these voters, with this history, of epoch 1.
struct One {
    member: Member,
    ports: Ports,
    now: MonoMs,
}

impl One {
    fn of(voters: &[i64], history: Vec<Arc<[u8]>>) -> One {
        let mut window = Window::new(Zxid::ZERO, Reach { entries: usize::MAX, bytes: usize::MAX });
        for txn in history {
            window.push(Entry { zxid: zxid_of(&txn).unwrap(), txn, ticket: Ticket(0) });
        }
        let members = Arc::new(Members::parse(&text(voters)).unwrap());
        let epochs = Epochs { accepted: 1, current: 1 };
        let mut member = Member::new(settings(1), members, epochs, window, zxid_of);
        member.allow_reconfig(None);
        let mut one = One { member, ports: Ports::default(), now: MonoMs(1_000) };
        one.member.start(one.now, &mut one.ports);
        one
    }

    fn told(&mut self, from: i64, n: &Notification) {
        let mut bytes = Vec::new();
        n.encode(&mut bytes);
        self.member.election_message(ServerId(from), &bytes, self.now, &mut self.ports).unwrap();
    }

    /// These vote as it does.
    fn is_elected_by(&mut self, voters: &[i64]) {
        let vote = self.ports.vote.clone().unwrap();
        for from in voters {
            self.told(*from, &vote);
        }
        self.now = self.now.plus(50);
        self.member.tick(self.now, &mut self.ports);
        assert_eq!(self.member.role(), Role::Discovering);
    }

    fn hears(&mut self, from: i64, kind: Kind, zxid: Zxid, data: &[u8]) {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, kind, zxid, Some(data));
        let used = self.member.link_bytes(LinkId(from as u64), &bytes, self.now, &mut self.ports);
        assert_eq!(used, bytes.len());
        self.member.durable(self.ports.ticket, self.now, &mut self.ports);
        self.member.pump(self.now, &mut self.ports);
    }

    /// FOLLOWERINFO of a server, on the link of its number.
    fn comes(&mut self, id: i64) {
        self.member.link_accepted(LinkId(id as u64), format!("h{id}:9"), self.now, &mut self.ports);
        let info = [id.to_be_bytes().as_slice(), &0x10000i32.to_be_bytes(), &0i64.to_be_bytes()].concat();
        self.hears(id, Kind::FollowerInfo, Zxid::new(1, 0), &info);
    }

    /// It promises, with no history.
    fn promises(&mut self, id: i64) {
        self.hears(id, Kind::AckEpoch, Zxid::ZERO, &1i32.to_be_bytes());
    }

    /// What a server was sent since this was last asked.
    fn sent(&mut self, id: i64) -> Vec<(Kind, Zxid)> {
        let bytes = std::mem::take(self.ports.out(LinkId(id as u64)));
        let (mut rest, mut sent) = (&bytes[..], Vec::new());
        while let Some((p, used)) = parse(rest, 4 << 20).unwrap() {
            sent.push((p.kind, p.zxid));
            rest = &rest[used..];
        }
        sent
    }
}

/// ZOOKEEPER-1732, 1818: those who have a leader may have been told so in different rounds, with different zxids.
#[test]
fn members_that_follow_agree_whatever_round_and_zxid_their_votes_are_of() {
    let mut one = One::of(&[1, 2, 3], vec![]);
    let vote = |state, round, counter| Notification {
        state,
        leader: ServerId(3),
        zxid: Zxid::new(1, counter),
        round,
        peer_epoch: 2,
        version: 2,
        config: None,
    };
    one.told(2, &vote(PeerState::Following, 7, 4));
    assert_eq!(one.ports.dialled, None, "does the leader live?");
    one.told(3, &vote(PeerState::Leading, 9, 0));
    assert_eq!((one.ports.dialled, one.member.role()), (Some(ServerId(3)), Role::Joining));
}

/// ZOOKEEPER-3104: whoever acknowledges NEWLEADER holds the history, so all of it stands before that on the link, also where it
/// is more than fits into a link's buffer.
#[test]
fn newleader_follows_all_of_the_history() {
    let long = vec![7; LINK_BYTES / 4];
    let history: Vec<_> = (1..=20).map(|n| txn(Zxid::new(1, n), Op::SetData, &long)).collect();
    let mut one = One::of(&[1, 2, 3], history);
    one.is_elected_by(&[2]);
    one.comes(2);
    one.promises(2);
    let (mut all, mut turns) = (Vec::new(), 0);
    while !all.iter().any(|(kind, _)| *kind == Kind::NewLeader) {
        all.extend(one.sent(2));
        one.member.pump(one.now, &mut one.ports);
        turns += 1;
        assert!(turns < 100, "NEWLEADER does not come: {all:?}");
    }
    assert!(turns > 3, "all of it fits into the buffer");
    let proposed: Vec<Zxid> = all.iter().filter(|p| p.0 == Kind::Proposal).map(|p| p.1).collect();
    assert_eq!(proposed, (1..=20).map(|n| Zxid::new(1, n)).collect::<Vec<_>>());
    assert_eq!(all.last(), Some(&(Kind::NewLeader, Zxid::new(2, 0))));
}

/// A reconfiguration is under way: a promise of those who count now alone would let others, who count by it, follow another
/// leader of the same epoch.
#[test]
fn promises_are_counted_by_the_members_under_way_as_well() {
    let proposed = Zxid::new(1, 1);
    let next = format!("{}version={:x}", text(&[1, 4, 5]), proposed.0);
    let mut one = One::of(&[1, 2, 3], vec![txn(proposed, Op::Reconfig, &next)]);
    assert_eq!(one.member.next_members().map(|m| m.version), Some(proposed.0));
    one.is_elected_by(&[2, 4]);
    for id in [2, 4] {
        one.comes(id);
    }
    for id in [2, 4] {
        assert_eq!(one.sent(id), [(Kind::LeaderInfo, Zxid::new(2, 0))]);
    }
    one.promises(2);
    assert_eq!((one.member.epochs(), one.sent(2)), (Epochs { accepted: 2, current: 1 }, vec![]));
    one.promises(4);
    assert_eq!(one.member.epochs(), Epochs { accepted: 2, current: 2 });
    let kinds: Vec<Kind> = one.sent(2).into_iter().map(|p| p.0).collect();
    assert_eq!(kinds, [Kind::Diff, Kind::Proposal, Kind::Commit, Kind::NewLeader]);
}
