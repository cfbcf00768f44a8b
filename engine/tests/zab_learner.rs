//! One learner, whose leaders are a script: what it makes of one that behaves in a way that ours would not, and of several
//! that contradict each other.

mod zab_common;

use engine::ids::{LinkId, ServerId, Ticket, Zxid};
use engine::proto::{Encode, Op};
use engine::time::MonoMs;
use engine::zab::members::Members;
use engine::zab::wire::{Kind, Notification, PeerState, parse, put_packet};
use engine::zab::{Epochs, Event, Links, Mark, Member, Persist, Persistence, Reach, Role, Settings, Window};
use std::collections::BTreeMap;
use std::sync::Arc;
use zab_common::{settings, txn, zxid_of};

const TICK_MS: u64 = 100;
const INIT_MS: u64 = 10 * TICK_MS;

/// Everything is durable when it is asked for.
#[derive(Default)]
struct Ports {
    ticket: Ticket,
    dialled: Option<LinkId>,
    out: BTreeMap<LinkId, Vec<u8>>,
    closed: Vec<LinkId>,
    /// The last notification that it sent.
    vote: Vec<u8>,
    marks: Vec<Mark>,
}

impl Persistence for Ports {
    fn persist(&mut self, ticket: Ticket, what: Persist<'_>) {
        self.ticket = ticket;
        if let Persist::Mark(mark) = what {
            self.marks.push(mark);
        }
    }
}

impl Links for Ports {
    fn send_election(&mut self, _to: ServerId, message: &[u8]) {
        self.vote = message.to_vec();
    }
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

/// The configuration of these voters.
fn text(voters: &[i64], version: Zxid) -> String {
    let all: String = voters.iter().map(|n| format!("server.{n}=h{n}:1:2:participant;3\n")).collect();
    format!("{all}version={:x}", version.0)
}

/// Server 1 of three.
struct One {
    member: Member,
    ports: Ports,
    now: MonoMs,
    link: LinkId,
}

impl One {
    /// It looks for a leader. `empty`: it has no history.
    fn looking(empty: bool) -> One {
        One::patient(empty, INIT_MS / TICK_MS)
    }

    fn patient(empty: bool, init_limit: u64) -> One {
        let epochs = if empty { Epochs::default() } else { Epochs { accepted: 1, current: 1 } };
        One::of(&[1, 2, 3], epochs, empty, init_limit)
    }

    fn of(voters: &[i64], epochs: Epochs, empty: bool, init_limit: u64) -> One {
        let settings = Settings { tick_ms: TICK_MS, init_limit, empty, ..settings(1) };
        let window = Window::new(Zxid::ZERO, Reach { entries: 1000, bytes: 1 << 20 });
        let members = Arc::new(Members::parse(&text(voters, Zxid::ZERO)).unwrap());
        let mut member = Member::new(settings, members, epochs, window, zxid_of);
        member.allow_reconfig(None);
        let mut one = One { member, ports: Ports::default(), now: MonoMs(1_000), link: LinkId(0) };
        one.member.start(one.now, &mut one.ports);
        one
    }

    fn told(&mut self, from: i64, state: PeerState, leader: i64, zxid: Zxid, epoch: u32) {
        let n = Notification {
            state,
            leader: ServerId(leader),
            zxid,
            round: i64::from(epoch),
            peer_epoch: i64::from(epoch),
            version: 2,
            config: None,
        };
        let mut bytes = Vec::new();
        n.encode(&mut bytes);
        self.member.election_message(ServerId(from), &bytes, self.now, &mut self.ports).unwrap();
    }

    /// The other two have a leader; it connects to that and is told the epoch.
    fn joins(&mut self, leader: i64, epoch: u32) {
        let zxid = Zxid::new(epoch, 9);
        self.told(5 - leader, PeerState::Following, leader, zxid, epoch);
        self.told(leader, PeerState::Leading, leader, zxid, epoch);
        self.link = self.ports.dialled.expect("a leader was chosen");
        self.member.link_up(self.link, self.now, &mut self.ports);
        let mut version = Vec::new();
        version.put_int(0x10000);
        self.hear(Kind::LeaderInfo, Zxid::new(epoch, 0), Some(&version));
    }

    fn loses_its_leader(&mut self) {
        self.member.link_down(self.link, "the end", self.now, &mut self.ports);
        while self.member.take_event().is_some() {}
    }

    fn proposed(&mut self, zxid: Zxid, op: Op, body: &str) {
        self.hear(Kind::Proposal, zxid, Some(&txn(zxid, op, body)));
    }

    /// NEWLEADER, which announces these voters, and UPTODATE.
    fn synced(&mut self, epoch: u32, voters: &[i64], version: Zxid) {
        self.hear(Kind::NewLeader, Zxid::new(epoch, 0), Some(text(voters, version).as_bytes()));
        self.hear(Kind::UpToDate, Zxid::MAX, None);
    }

    fn version(&self) -> Zxid {
        Zxid(self.member.members().version)
    }

    fn hear(&mut self, kind: Kind, zxid: Zxid, data: Option<&[u8]>) {
        let mut bytes = Vec::new();
        put_packet(&mut bytes, kind, zxid, data);
        let used = self.member.link_bytes(self.link, &bytes, self.now, &mut self.ports);
        assert_eq!(used, bytes.len());
        self.member.durable(self.ports.ticket, self.now, &mut self.ports);
    }

    /// Up to a snapshot of this zxid, from server 2.
    fn loading(zxid: Zxid) -> One {
        let mut one = One::looking(false);
        one.joins(2, 2);
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
fn a_leader_that_cannot_be_reached_is_given_up_when_a_candidate_would_give_up() {
    let dialling = |init_limit| {
        let mut one = One::patient(false, init_limit);
        one.told(3, PeerState::Following, 2, Zxid::new(2, 9), 2);
        one.told(2, PeerState::Leading, 2, Zxid::new(2, 9), 2);
        one.link = one.ports.dialled.expect("a leader was chosen");
        one
    };
    for (init_limit, limit) in [(200, 4_000), (7, 700)] {
        let mut one = dialling(init_limit);
        assert_eq!(one.member.next_deadline(), Some(one.now.plus(limit)));
        one.pass(limit - 1);
        assert_eq!(one.member.role(), Role::Joining);
        one.pass(1);
        assert_eq!(one.member.role(), Role::Looking);
        let why = one.why_it_looks();
        assert!(why.contains("leader 2 does not answer on its quorum port"), "{why}");
    }
    // One that answered in time has the whole of initLimit to go on.
    let mut one = dialling(200);
    one.pass(3_999);
    one.member.link_up(one.link, one.now, &mut one.ports);
    one.pass(10_000);
    assert_eq!(one.member.role(), Role::Joining);
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

/// A follower of server 3 in epoch 2, to which that has proposed to go on without it, and then died: nobody else knows.
fn with_a_lonely_proposal() -> (One, Zxid) {
    let mut one = One::looking(false);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    one.synced(2, &[1, 2, 3], Zxid::new(2, 0));
    assert_eq!((one.member.role(), one.version()), (Role::Following, Zxid::new(2, 0)));
    let lonely = Zxid::new(2, 1);
    one.proposed(lonely, Op::Reconfig, &text(&[1, 3], lonely));
    assert_eq!(one.member.next_members().map(|m| m.version), Some(lonely.0));
    one.loses_its_leader();
    assert_eq!(one.member.next_members().map(|m| m.version), Some(lonely.0), "it is in the log");
    (one, lonely)
}

#[test]
fn a_snapshot_takes_an_uncommitted_reconfiguration_away() {
    let (mut one, _) = with_a_lonely_proposal();
    one.joins(2, 3);
    one.hear(Kind::Snap, Zxid::new(3, 50), None);
    let shown = Members::parse(&text(&[1, 2, 3], Zxid::new(2, 0))).ok();
    one.member.installed(Zxid::new(3, 50), shown, one.now, &mut one.ports);
    assert_eq!(one.member.next_members(), None);
    one.synced(3, &[1, 2, 3], Zxid::new(2, 0));
    assert_eq!((one.member.role(), one.version()), (Role::Following, Zxid::new(2, 0)));
}

#[test]
fn a_snapshot_brings_the_reconfiguration_that_it_holds() {
    let (mut one, _) = with_a_lonely_proposal();
    one.joins(2, 3);
    one.hear(Kind::Snap, Zxid::new(3, 50), None);
    let within = Zxid::new(3, 7);
    let shown = Members::parse(&text(&[1, 2], within)).ok();
    one.member.installed(Zxid::new(3, 50), shown, one.now, &mut one.ports);
    // Not activated before the leader has a quorum for its history; but no quorum counts any more without these members.
    one.loses_its_leader();
    assert_eq!(one.version(), Zxid::new(2, 0));
    assert_eq!(one.member.next_members().map(|m| m.version), Some(within.0));
}

#[test]
fn what_is_announced_and_still_on_its_way_is_not_active() {
    let mut one = One::looking(false);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    let first = Zxid::new(2, 1);
    one.proposed(first, Op::SetData, "x");
    one.hear(Kind::Commit, first, None);
    // (2, 3) stands behind more than fits into the leader's buffer.
    let later = Zxid::new(2, 3);
    one.synced(2, &[1, 3], later);
    assert_eq!((one.member.role(), one.version()), (Role::Following, Zxid::ZERO));
    one.proposed(Zxid::new(2, 2), Op::SetData, "x");
    one.proposed(later, Op::Reconfig, &text(&[1, 3], later));
    one.hear(Kind::Commit, Zxid::new(2, 2), None);
    one.hear(Kind::CommitAndActivate, later, Some(&3i64.to_be_bytes()));
    assert_eq!((one.member.role(), one.version()), (Role::Following, later));
}

#[test]
fn what_a_dead_leader_announced_and_never_proposed_is_forgotten() {
    let mut one = One::looking(false);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    let never = Zxid::new(2, 9);
    one.hear(Kind::NewLeader, Zxid::new(2, 0), Some(text(&[1, 3], never).as_bytes()));
    one.loses_its_leader();
    assert_eq!(one.member.next_members(), None);
    one.joins(2, 3);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    let other = Zxid::new(3, 1);
    one.proposed(other, Op::SetData, "x");
    one.hear(Kind::Commit, other, None);
    one.synced(3, &[1, 2, 3], Zxid::new(3, 0));
    assert_eq!((one.member.role(), one.version()), (Role::Following, Zxid::new(3, 0)));
}

#[test]
fn who_waits_for_its_state_does_not_vote_with_what_others_once_lacked() {
    let mut one = One::looking(true);
    // The ensemble is being created: nobody has anything.
    one.told(2, PeerState::Looking, 2, Zxid::MAX, 0);
    one.told(3, PeerState::Looking, 3, Zxid::MAX, 0);
    assert!(!one.member.is_empty());
    one.joins(3, 2);
    one.hear(Kind::Snap, Zxid::new(2, 50), None);
    one.member.installed(Zxid::new(2, 50), None, one.now, &mut one.ports);
    one.loses_its_leader();
    one.joins(2, 3);
    // Below what is applied: logged, and the state is to be loaded again. The leader dies before that is done.
    one.hear(Kind::Trunc, Zxid::new(2, 49), None);
    one.loses_its_leader();
    let vote = Notification::decode(&one.ports.vote).unwrap();
    assert_eq!((one.member.is_empty(), vote.zxid), (true, Zxid::MAX), "its log says less than its memory");
}

impl One {
    /// It follows, with the history up to `(2, n)`.
    fn following(n: u32) -> One {
        let mut one = One::looking(false);
        one.joins(2, 2);
        one.hear(Kind::Diff, Zxid::ZERO, None);
        one.synced(2, &[1, 2, 3], Zxid::ZERO);
        assert_eq!(one.member.role(), Role::Following);
        for counter in 1..=n {
            one.commits(Zxid::new(2, counter));
        }
        one
    }

    fn commits(&mut self, zxid: Zxid) {
        self.proposed(zxid, Op::Create, "");
        self.hear(Kind::Commit, zxid, None);
        self.member.pump(self.now, &mut self.ports);
    }

    /// An observer whose history ends there comes to this server instead of to the leader.
    fn observed(&mut self, link: LinkId, last: Zxid) {
        let mut bytes = Vec::new();
        let info = [9i64.to_be_bytes().as_slice(), &0x10000i32.to_be_bytes(), &0i64.to_be_bytes()].concat();
        put_packet(&mut bytes, Kind::ObserverInfo, Zxid::new(2, 0), Some(&info));
        put_packet(&mut bytes, Kind::AckEpoch, last, Some(&2i32.to_be_bytes()));
        self.member.link_accepted(link, "10.0.0.9:4000".into(), self.now, &mut self.ports);
        self.member.link_bytes(link, &bytes, self.now, &mut self.ports);
        self.member.pump(self.now, &mut self.ports);
    }

    /// What it was sent.
    fn sent(&mut self, link: LinkId) -> Vec<(Kind, Zxid)> {
        let bytes = std::mem::take(self.ports.out(link));
        let (mut rest, mut sent) = (&bytes[..], Vec::new());
        while let Some((p, used)) = parse(rest, 1 << 20).unwrap() {
            sent.push((p.kind, p.zxid));
            rest = &rest[used..];
        }
        sent
    }
}

#[test]
fn an_observer_that_is_ahead_of_its_relay_is_not_cut_back_for_a_moment() {
    let mut one = One::following(3);
    let (link, end) = (LinkId(77), Zxid::new(2, 5));
    one.observed(link, end);
    assert_eq!(one.sent(link), [(Kind::LeaderInfo, Zxid::new(2, 0))], "it waits for what it has applied");
    one.commits(Zxid::new(2, 4));
    assert_eq!(one.sent(link), []);
    one.commits(end);
    let sent = one.sent(link);
    assert_eq!(sent[0], (Kind::Diff, end));
    assert_eq!(sent.iter().map(|s| s.0).collect::<Vec<_>>(), [Kind::Diff, Kind::NewLeader]);
    // Nothing is waited for by one that is not ahead.
    one.observed(LinkId(78), Zxid::new(2, 4));
    let kinds: Vec<Kind> = one.sent(LinkId(78)).into_iter().map(|s| s.0).collect();
    assert_eq!(kinds, [Kind::LeaderInfo, Kind::Diff, Kind::Proposal, Kind::Commit, Kind::NewLeader]);
}

#[test]
fn what_nobody_commits_is_cut_in_the_end() {
    let mut one = One::following(3);
    let link = LinkId(77);
    one.observed(link, Zxid::new(2, 9));
    one.sent(link);
    for _ in 0..5 {
        assert_eq!(one.sent(link), []);
        one.pass(TICK_MS / 2);
        // The leader is heard of all the while.
        one.hear(Kind::Ping, Zxid::ZERO, None);
        one.member.pump(one.now, &mut one.ports);
    }
    assert_eq!(one.sent(link)[0], (Kind::Trunc, Zxid::new(2, 3)));
}

/// One reconfiguration is committed and the next one under way; the leader has told both by NEWLEADER.
fn with_two_reconfigurations() -> (One, Zxid, Zxid) {
    let mut one = One::looking(false);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    let (done, next) = (Zxid::new(2, 1), Zxid::new(2, 2));
    one.proposed(done, Op::Reconfig, &text(&[1, 3], done));
    one.hear(Kind::Commit, done, None);
    one.proposed(next, Op::Reconfig, &text(&[1, 2, 3], next));
    one.hear(Kind::NewLeader, Zxid::new(2, 0), Some(text(&[1, 2, 3], next).as_bytes()));
    (one, done, next)
}

#[test]
fn a_committed_reconfiguration_counts_though_the_next_one_is_under_way() {
    let (mut one, done, next) = with_two_reconfigurations();
    one.hear(Kind::UpToDate, Zxid::MAX, None);
    assert_eq!((one.member.role(), one.version()), (Role::Following, done));
    assert_eq!(one.member.next_members().map(|m| m.version), Some(next.0));
    // The same where the leader dies before UPTODATE: what stands before a reconfiguration is committed.
    let (mut one, done, next) = with_two_reconfigurations();
    one.loses_its_leader();
    assert_eq!(one.version(), done);
    assert_eq!(one.member.next_members().map(|m| m.version), Some(next.0));
}

#[test]
fn a_guest_leaves_before_it_acknowledges_what_gives_it_a_vote() {
    // No member, so it binds nobody that it has promised to follow epoch 7.
    let mut one = One::of(&[2, 3], Epochs { accepted: 7, current: 1 }, false, 10);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::ZERO, None);
    one.synced(2, &[2, 3], Zxid::new(2, 0));
    assert_eq!(one.member.role(), Role::Following);
    let before = one.ports.out[&one.link].len();
    let given = Zxid::new(2, 1);
    one.proposed(given, Op::Reconfig, &text(&[1, 2, 3], given));
    assert_eq!(one.member.role(), Role::Looking);
    assert_eq!(one.ports.out[&one.link].len(), before, "nothing was acknowledged");
    assert!(one.why_it_looks().contains("promised epoch 7"));
}

/// It has acknowledged up to `(2, 3)`, of which it knows `(2, 1)` to be committed, and was alone with `(3, 1)`.
fn with_more_than_it_knows_committed() -> One {
    let mut one = One::following(1);
    one.proposed(Zxid::new(2, 2), Op::SetData, "x");
    one.proposed(Zxid::new(2, 3), Op::SetData, "x");
    one.loses_its_leader();
    one.joins(3, 3);
    one.hear(Kind::Diff, Zxid::new(2, 3), None);
    one.synced(3, &[1, 2, 3], Zxid::ZERO);
    one.proposed(Zxid::new(3, 1), Op::SetData, "x");
    one.loses_its_leader();
    assert_eq!(one.member.last_logged(), Zxid::new(3, 1));
    one
}

impl One {
    fn vote(&self) -> (Zxid, i64) {
        let vote = Notification::decode(&self.ports.vote).unwrap();
        (vote.zxid, vote.peer_epoch)
    }

    /// Where its history ends, as it told the leader of its link.
    fn told_its_end(&mut self) -> Zxid {
        let sent = self.sent(self.link);
        sent.into_iter().find(|s| s.0 == Kind::AckEpoch).expect("ACKEPOCH").1
    }
}

#[test]
fn a_snapshot_takes_back_nothing_that_may_be_committed() {
    let mut one = with_more_than_it_knows_committed();
    // A candidate that knows no more to be committed than (2, 1), and whose history leads from (2, 3) elsewhere.
    one.joins(2, 4);
    assert_eq!(one.told_its_end(), Zxid::new(3, 1));
    one.hear(Kind::Snap, Zxid::new(2, 1), None);
    // If it took that over, and both crashed, (2, 2) and (2, 3) would be on no quorum any more.
    assert_eq!((one.member.role(), one.member.is_loading()), (Role::Looking, None));
    assert_eq!((one.vote(), one.ports.marks.len()), ((Zxid::new(3, 1), 3), 0));
    // What the candidate has shown is that it has nothing of epoch 3.
    one.joins(2, 4);
    assert_eq!(one.told_its_end(), Zxid::new(2, 3));
    one.hear(Kind::Diff, Zxid::new(2, 3), None);
    assert_eq!(one.ports.marks, [Mark::Truncate(Zxid::new(2, 3))]);
    one.proposed(Zxid::new(4, 1), Op::SetData, "x");
    one.hear(Kind::Commit, Zxid::new(4, 1), None);
    one.synced(4, &[1, 2, 3], Zxid::ZERO);
    assert_eq!((one.member.role(), one.member.committed()), (Role::Following, Zxid::new(4, 1)));
}

#[test]
fn a_candidate_has_applied_less_than_it_knows_when_it_sends_a_snapshot() {
    let mut one = One::following(1);
    while one.member.take_committed().is_some() {}
    one.proposed(Zxid::new(2, 2), Op::SetData, "x");
    one.loses_its_leader();
    // It has taken over what server 2 leads from, and server 2 has not heard that it was told so.
    one.joins(2, 3);
    one.hear(Kind::Diff, Zxid::new(2, 2), None);
    one.hear(Kind::NewLeader, Zxid::new(3, 0), None);
    one.loses_its_leader();
    // Server 3 wants it, and promises.
    let n = Notification::decode(&one.ports.vote).unwrap();
    assert_eq!((n.leader, n.zxid), (ServerId(1), Zxid::new(2, 2)));
    let mut bytes = Vec::new();
    n.encode(&mut bytes);
    one.member.election_message(ServerId(3), &bytes, one.now, &mut one.ports).unwrap();
    one.pass(100);
    assert_eq!(one.member.role(), Role::Discovering);
    let mut comes = |link, id: i64, last, current: i32| {
        one.link = LinkId(link);
        one.member.link_accepted(one.link, "peer:1".into(), one.now, &mut one.ports);
        let info = [id.to_be_bytes().as_slice(), &0x10000i32.to_be_bytes(), &0i64.to_be_bytes()].concat();
        one.hear(Kind::FollowerInfo, Zxid::new(3, 0), Some(&info));
        one.hear(Kind::AckEpoch, last, Some(&current.to_be_bytes()));
    };
    comes(91, 3, Zxid::new(2, 1), 2);
    // Server 2 has led on without a quorum.
    comes(92, 2, Zxid::new(3, 1), 3);
    let asked = std::iter::from_fn(|| one.member.take_event());
    let stream =
        asked.filter_map(|e| if let Event::Stream { link, .. } = e { Some(link) } else { None }).last();
    assert_eq!(stream, Some(LinkId(92)));
    let upto = one.member.stream_begins(LinkId(92), one.now).unwrap().upto;
    assert_eq!((upto, one.member.last_logged()), (Zxid::new(2, 1), Zxid::new(2, 2)));
}

/// Its leader has cut it back to there, below what it had applied, and died before it had loaded that again. On disk it has it
/// still, and may have acknowledged it; the next candidate has applied less.
fn cut_and_left(cut: Zxid) -> One {
    let mut one = One::looking(false);
    one.joins(3, 2);
    one.hear(Kind::Snap, Zxid::new(2, 50), None);
    one.member.installed(Zxid::new(2, 50), None, one.now, &mut one.ports);
    one.synced(2, &[1, 2, 3], Zxid::ZERO);
    one.loses_its_leader();
    one.joins(2, 3);
    one.hear(Kind::Trunc, cut, None);
    one.loses_its_leader();
    one.joins(2, 4);
    one.hear(Kind::Snap, Zxid::new(2, 10), None);
    one
}

#[test]
fn a_state_that_can_be_loaded_again_is_not_given_up_for_a_snapshot() {
    let cut = Zxid::new(2, 49);
    let mut one = cut_and_left(cut);
    let events: Vec<Event> = std::iter::from_fn(|| one.member.take_event()).collect();
    assert!(events.contains(&Event::Rebuild { zxid: cut }), "{events:?}");
    assert!(!events.iter().any(|e| matches!(e, Event::Install { .. })), "{events:?}");
    let window = Window::new(cut, Reach { entries: 1000, bytes: 1 << 20 });
    one.member.rebuilt(window, None, one.now, &mut one.ports);
    assert_eq!((one.member.role(), one.vote()), (Role::Looking, (cut, 2)), "it counts again");
    one.joins(2, 4);
    one.sent(LinkId(one.link.0 - 1));
    assert_eq!(one.told_its_end(), cut);
}

#[test]
fn a_state_that_cannot_be_loaded_again_is_replaced_by_a_snapshot() {
    let mut one = cut_and_left(Zxid::new(2, 49));
    one.member.failed("the log cannot be read".into(), one.now, &mut one.ports);
    while one.member.take_event().is_some() {}
    one.joins(2, 4);
    one.hear(Kind::Snap, Zxid::new(2, 10), None);
    let events: Vec<Event> = std::iter::from_fn(|| one.member.take_event()).collect();
    assert!(events.iter().any(|e| matches!(e, Event::Install { .. })), "{events:?}");
}

#[test]
fn who_has_no_vote_says_what_it_holds_all_the_same() {
    let mut one = One::looking(true);
    one.joins(3, 2);
    one.hear(Kind::Diff, Zxid::new(2, 1), None);
    // The second one nobody else has.
    for counter in [1, 2] {
        one.proposed(Zxid::new(2, counter), Op::SetData, "x");
    }
    one.loses_its_leader();
    assert_eq!((one.member.is_empty(), one.vote().0), (true, Zxid::MAX), "it has acknowledged nothing");
    one.sent(one.link);
    one.joins(2, 3);
    let sent = one.sent(one.link);
    // Told of nothing, a leader with all of its history in memory would send all of it, and cut nothing off.
    assert!(sent.contains(&(Kind::AckEpoch, Zxid::new(2, 2))), "{sent:?}");
    one.hear(Kind::Trunc, Zxid::new(2, 1), None);
    one.proposed(Zxid::new(3, 1), Op::SetData, "x");
    one.hear(Kind::Commit, Zxid::new(3, 1), None);
    one.synced(3, &[1, 2, 3], Zxid::ZERO);
    assert!(!one.member.is_empty());
    let applied: Vec<Zxid> = std::iter::from_fn(|| one.member.take_committed()).map(|e| e.zxid).collect();
    assert_eq!(applied, [Zxid::new(2, 1), Zxid::new(3, 1)]);
}
