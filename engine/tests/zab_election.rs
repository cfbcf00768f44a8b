//! Elections, seen from one member (what it says and decides on what it hears) and from an ensemble in a network that
//! delays, repeats and loses, with members that crash.

#[path = "zab_support/mod.rs"]
mod support;

use engine::ids::{LinkId, ServerId, Zxid};
use engine::time::MonoMs;
use engine::zab::Links;
use engine::zab::election::{Decided, Election, Knobs, Vote};
use engine::zab::members::Members;
use engine::zab::wire::{Notification, PeerState};
use std::sync::Arc;
use support::{Net, members};

const MS: MonoMs = MonoMs(1_000);

fn id(n: i64) -> ServerId {
    ServerId(n)
}

/// What a member says.
#[derive(Default)]
struct Said(Vec<(i64, Notification)>);

impl Links for Said {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        self.0.push((to.0, Notification::decode(message).expect("what is said can be read")));
    }
    fn dial(&mut self, _to: ServerId) -> LinkId {
        panic!("an election dials nobody")
    }
    fn listen(&mut self, _on: bool) {
        panic!("an election does not listen")
    }
    fn out(&mut self, _link: LinkId) -> &mut Vec<u8> {
        panic!("an election has no links")
    }
    fn close(&mut self, _link: LinkId) {
        panic!("an election has no links")
    }
}

/// A member, and everything that it said.
struct One {
    e: Election,
    said: Said,
}

impl One {
    /// Looks for a leader with this zxid in epoch 1.
    fn looking(me: i64, members: &Members, counter: u32) -> One {
        let observer = members.get(id(me)).is_some_and(|m| m.observer);
        let mut one = One {
            e: Election::new(id(me), observer, Arc::new(members.clone()), Knobs::default()),
            said: Said::default(),
        };
        one.start(me, counter);
        one
    }
    fn start(&mut self, me: i64, counter: u32) {
        let mine = Vote { leader: id(me), zxid: Zxid::new(1, counter), epoch: 1 };
        self.e.start(mine, MS, &mut self.said);
    }
    fn hear(&mut self, from: i64, n: &Notification) -> Option<Decided> {
        self.e.handle(id(from), n, MS, &mut self.said)
    }
    fn timeout(&mut self, at: MonoMs) -> Option<Decided> {
        self.e.handle_timeout(at, &mut self.said)
    }
    /// What it said since this was last asked: to whom, state, leader, round, epoch.
    fn said(&mut self) -> Vec<(i64, PeerState, i64, i64, i64)> {
        let said = std::mem::take(&mut self.said.0);
        said.into_iter().map(|(to, n)| (to, n.state, n.leader.0, n.round, n.peer_epoch)).collect()
    }
}

use PeerState::{Following, Leading, Looking, Observing};

/// A vote for `leader` with this zxid of epoch 1, in `round`.
fn vote(state: PeerState, leader: i64, counter: u32, round: i64) -> Notification {
    let (leader, zxid) = (id(leader), Zxid::new(1, counter));
    Notification { state, leader, zxid, round, peer_epoch: 1, version: 2, config: None }
}

#[test]
fn a_lone_voter_decides_for_itself_when_it_is_asked() {
    let mut one = One::looking(1, &members(1, 0), 7);
    assert_eq!(one.e.next_deadline(), Some(MonoMs(0)));
    let decided = Decided { leader: id(1), state: Leading, zxid: Zxid::new(1, 7), epoch: 1 };
    assert_eq!(one.timeout(MS), Some(decided));
    assert!(!one.e.is_looking() && one.e.next_deadline().is_none() && one.said.0.is_empty());
}

#[test]
fn votes_are_told_to_every_voter_adopted_when_better_and_finalized_without_delay_when_all_are_in() {
    let mut one = One::looking(1, &members(3, 1), 7);
    assert_eq!(one.said(), [(2, Looking, 1, 1, 1), (3, Looking, 1, 1, 1)], "observers are not told");
    assert_eq!(one.hear(2, &vote(Looking, 2, 9, 1)), None);
    assert_eq!(one.said(), [(2, Looking, 2, 1, 1), (3, Looking, 2, 1, 1)], "adopted");
    let decided = one.hear(3, &vote(Looking, 3, 3, 1)).expect("nobody is silent");
    assert_eq!((decided.leader, decided.state), (id(2), Following));
}

#[test]
fn a_quorum_that_agrees_waits_for_the_silent_but_not_for_the_dead() {
    let mut one = One::looking(1, &members(3, 0), 7);
    assert_eq!(one.hear(2, &vote(Looking, 1, 7, 1)), None);
    assert_eq!(one.e.next_deadline(), Some(MS.plus(20)));
    assert_eq!(one.timeout(MS.plus(19)), None);
    assert_eq!(one.timeout(MS.plus(20)).unwrap().state, Leading);

    let mut one = One::looking(1, &members(3, 0), 7);
    one.timeout(MS);
    one.e.peer_down(id(3));
    assert_eq!(one.hear(2, &vote(Looking, 1, 7, 1)).unwrap().state, Leading);

    let mut one = One::looking(1, &members(3, 0), 7);
    assert_eq!(one.hear(2, &vote(Looking, 1, 7, 1)), None);
    one.e.peer_down(id(3));
    assert_eq!(one.e.next_deadline(), Some(MonoMs(0)), "something to look at");
    assert_eq!(one.timeout(MS).unwrap().state, Leading);
}

#[test]
fn a_better_vote_ends_the_wait() {
    let mut one = One::looking(1, &members(5, 0), 7);
    one.hear(2, &vote(Looking, 1, 7, 1));
    assert_eq!(one.hear(3, &vote(Looking, 1, 7, 1)), None);
    assert_eq!(one.hear(5, &vote(Looking, 5, 8, 1)), None);
    assert_eq!(one.timeout(MS.plus(20)), None, "5 has two votes of five");
    one.hear(3, &vote(Looking, 5, 8, 1));
    assert_eq!(one.e.next_deadline(), Some(MS.plus(20)), "4 is silent");
    assert_eq!(one.timeout(MS.plus(20)).unwrap().leader, id(5));
}

#[test]
fn rounds_are_caught_up_with_and_those_behind_are_told() {
    let mut one = One::looking(2, &members(3, 0), 7);
    one.said();
    assert_eq!(one.hear(1, &vote(Looking, 1, 99, 0)), None);
    assert_eq!(one.said(), [(1, Looking, 2, 1, 1)], "an answer, and the old vote is not adopted");
    assert_eq!(one.hear(3, &vote(Looking, 1, 99, 1)), None);
    one.said();
    assert_eq!(one.hear(3, &vote(Looking, 3, 1, 5)), None);
    assert_eq!(
        one.said(),
        [(1, Looking, 2, 5, 1), (3, Looking, 2, 5, 1)],
        "back to its own vote in a new round"
    );
    assert_eq!(one.e.round(), 5);
    assert_eq!(one.hear(1, &vote(Looking, 2, 7, 6)), None);
    assert_eq!(one.timeout(MS.plus(19)), None, "3 has not been heard in this round");
    assert_eq!(one.timeout(MS.plus(20)).unwrap().state, Leading);
}

#[test]
fn order_is_epoch_then_zxid_then_number() {
    let mut one = One::looking(2, &members(3, 0), 7);
    one.hear(1, &vote(Looking, 1, 7, 1));
    assert_eq!(one.said().last().unwrap().2, 2, "the higher number of two equals stays");
    one.hear(3, &Notification { peer_epoch: 0, ..vote(Looking, 3, 900, 1) });
    assert_eq!(one.said().last().unwrap().2, 2, "a longer log of an older epoch is worse");
    one.hear(1, &Notification { peer_epoch: 2, ..vote(Looking, 1, 1, 1) });
    assert_eq!(one.said().last().unwrap().2, 1);
}

#[test]
fn unanswered_votes_are_sent_again_ever_less_often() {
    let mut one = One::looking(1, &members(3, 0), 7);
    let mut at = vec![];
    one.timeout(MS);
    for _ in 0..20 {
        one.said();
        let next = one.e.next_deadline().unwrap();
        at.push(next.since(MS));
        assert_eq!(one.timeout(next), None);
        assert_eq!(one.said().len(), 2);
    }
    assert_eq!(at[..5], [20, 60, 140, 300, 620]);
    assert_eq!(at[19] - at[18], 60_000);
}

/// ZOOKEEPER-1732, 1818: the votes of those who have a leader may differ in round and zxid.
#[test]
fn a_restarted_server_joins_an_ensemble_whose_votes_are_old() {
    let mut one = One::looking(1, &members(5, 0), 900);
    let followers = |epoch| Notification { peer_epoch: epoch, ..vote(Following, 4, 3, 17) };
    let other_round = Notification { zxid: Zxid::new(0, 9), round: 2, peer_epoch: 6, ..followers(6) };
    assert_eq!(one.hear(2, &followers(6)), None);
    assert_eq!(one.hear(3, &other_round), None);
    assert_eq!(one.hear(5, &followers(6)), None, "a quorum, but is the leader alive?");
    let decided = one.hear(4, &Notification { state: Leading, ..followers(6) }).expect("joined");
    assert_eq!(decided, Decided { leader: id(4), state: Following, zxid: Zxid::new(1, 3), epoch: 6 });
    assert_eq!(one.e.round(), 17);

    // One who has not heard of the new epoch says something else, in another round.
    let mut one = One::looking(1, &members(3, 0), 900);
    assert_eq!(one.hear(2, &followers(5)), None);
    assert_eq!(one.hear(2, &Notification { peer_epoch: 5, ..vote(Following, 3, 3, 17) }), None);
    assert_eq!(one.hear(3, &Notification { peer_epoch: 6, ..vote(Leading, 3, 3, 18) }), None);
    assert_eq!(
        one.hear(2, &Notification { peer_epoch: 6, ..vote(Following, 3, 3, 17) }).unwrap().leader,
        id(3)
    );
}

#[test]
fn answers_carry_the_new_epoch_once_it_is_established() {
    let mut one = One::looking(3, &members(3, 0), 7);
    one.hear(1, &vote(Looking, 3, 7, 1));
    assert_eq!(one.hear(2, &vote(Looking, 3, 7, 1)).unwrap().state, Leading);
    one.said();
    one.hear(2, &vote(Looking, 2, 1, 4));
    assert_eq!(one.said(), [(2, Leading, 3, 1, 1)]);
    one.e.settled(Leading, id(3), Zxid::new(1, 7), 2);
    one.hear(2, &vote(Looking, 2, 1, 4));
    assert_eq!(one.said(), [(2, Leading, 3, 1, 2)]);
    one.hear(2, &vote(Following, 3, 7, 1));
    one.hear(1, &vote(Observing, 3, 7, 1));
    assert_eq!(one.said(), [], "who does not look for a leader is not answered");
}

#[test]
fn a_leader_that_is_only_talked_about_is_not_believed() {
    let mut one = One::looking(1, &members(5, 0), 7);
    for from in [2, 3, 4] {
        assert_eq!(one.hear(from, &vote(Following, 5, 9, 1)), None);
    }
    // It said that it leads, and died.
    assert_eq!(
        one.hear(5, &Notification { peer_epoch: 2, round: 8, ..vote(Leading, 5, 9, 1) }),
        None,
        "another term of it"
    );
    one.e.peer_down(id(5));
    assert_eq!(one.hear(4, &vote(Following, 5, 9, 1)), None);
    assert_eq!(one.timeout(MS.plus(5_000)), None);
    assert_eq!(one.hear(5, &vote(Following, 4, 9, 3)), None, "it lives, and does not lead");
    assert_eq!(one.hear(2, &vote(Following, 5, 9, 1)), None);
    // The others say that we lead; but not in this round: that was before we restarted.
    for from in [2, 3, 4] {
        assert_eq!(one.hear(from, &vote(Following, 1, 9, 6)), None);
    }
    assert!(one.e.is_looking());
}

#[test]
fn a_candidate_whose_connection_is_lost_is_given_up_in_a_new_round() {
    let mut one = One::looking(1, &members(3, 0), 7);
    one.hear(3, &vote(Looking, 3, 9, 1));
    one.said();
    one.e.peer_down(id(3));
    assert_eq!(one.timeout(MS), None);
    assert_eq!(one.said(), [(2, Looking, 1, 2, 1), (3, Looking, 1, 2, 1)]);
    assert_eq!(one.hear(2, &vote(Looking, 1, 7, 2)).unwrap().leader, id(1));

    // It came back before anything was done.
    let mut one = One::looking(1, &members(3, 0), 7);
    one.hear(3, &vote(Looking, 3, 9, 1));
    one.e.peer_down(id(3));
    one.e.peer_up(id(3), MS, &mut one.said);
    one.said();
    assert_eq!(one.timeout(MS), None);
    assert_eq!((one.said(), one.e.round()), (vec![], 1));
}

#[test]
fn a_new_connection_gets_the_present_vote() {
    let mut one = One::looking(1, &members(3, 1), 7);
    one.hear(2, &vote(Looking, 2, 9, 1));
    one.said();
    one.e.peer_up(id(3), MS, &mut one.said);
    assert_eq!(one.said(), [(3, Looking, 2, 1, 1)]);
    one.e.peer_up(id(4), MS, &mut one.said);
    assert_eq!(one.said(), [], "an observer asks when it wants to know");
    assert_eq!(one.hear(3, &vote(Looking, 2, 9, 1)).unwrap().leader, id(2));
    one.e.peer_up(id(3), MS, &mut one.said);
    assert_eq!(one.said(), []);
}

#[test]
fn a_minority_never_decides() {
    for (voters, with) in [(2, 1), (3, 1), (4, 2), (5, 2), (7, 3)] {
        let mut one = One::looking(1, &members(voters, 2), 7);
        for from in (2..=with).chain([voters + 1, voters + 2, 99]) {
            for state in [Looking, Following] {
                for _ in 0..3 {
                    assert_eq!(one.hear(from, &vote(state, 1, 7, 1)), None);
                }
            }
        }
        for lost in with + 1..=voters {
            one.e.peer_down(id(lost));
        }
        for at in 0..100 {
            assert_eq!(one.timeout(MS.plus(at * 100)), None, "{with} of {voters}");
        }
    }
}

#[test]
fn a_stranger_is_answered_and_has_no_voice() {
    let mut one = One::looking(1, &members(3, 0), 7);
    one.said();
    assert_eq!(one.hear(9, &vote(Looking, 9, 99, 50)), None);
    assert_eq!(one.said(), [(9, Looking, 1, 1, 1)]);
    assert_eq!(one.hear(9, &vote(Looking, 1, 7, 1)), None);
    assert_eq!(one.hear(2, &vote(Looking, 9, 99, 50)), None, "nor as a candidate");
    assert_eq!((one.e.round(), one.hear(9, &vote(Leading, 9, 99, 1))), (1, None));
    one.said();
    assert_eq!(one.hear(9, &vote(Following, 9, 99, 1)), None);
    assert_eq!(one.said(), [], "it does not ask");
    one.hear(2, &vote(Looking, 1, 7, 1));
    assert_eq!(one.timeout(MS.plus(20)).unwrap().state, Leading);
    one.hear(9, &vote(Looking, 9, 99, 50));
    assert_eq!(one.said(), [(9, Leading, 1, 1, 1)]);
    assert!(!one.e.heard_looking());
}

/// An Apache observer that is ahead in rounds answers the answer.
#[test]
fn a_stranger_is_not_told_the_same_thing_for_ever() {
    let mut one = One::looking(1, &members(3, 1), 7);
    one.said();
    let asks = vote(Looking, Notification::NOBODY, 0, 50);
    let ask = |one: &mut One, ms| {
        one.e.handle(id(4), &asks, MS.plus(ms), &mut one.said);
        one.said().len()
    };
    assert_eq!([0, 1, 99, 100, 101].map(|ms| ask(&mut one, ms)), [1, 0, 0, 1, 0]);
    one.hear(2, &vote(Looking, 2, 9, 1));
    one.said();
    assert_eq!([102, 103].map(|ms| ask(&mut one, ms)), [1, 0], "something new is told at once");
    for stranger in 5..500 {
        one.e.handle(id(stranger), &asks, MS, &mut one.said);
    }
    assert_eq!(one.said().len(), 495);
}

#[test]
fn an_observer_that_looks_does_not_answer_those_behind_it() {
    let mut one = One::looking(4, &members(3, 1), 7);
    one.start(4, 7);
    one.said();
    assert_eq!(one.hear(1, &vote(Looking, 1, 7, 1)), None);
    assert_eq!(one.said(), []);
}

#[test]
fn an_observer_learns_the_leader() {
    let mut one = One::looking(4, &members(3, 1), 7);
    let (to, n) = &one.said.0[2];
    let nobody = (Notification::NOBODY, Zxid::from_wire(i64::MIN), i64::MIN);
    assert_eq!((*to, n.leader.0, n.zxid, n.peer_epoch), (3, nobody.0, nobody.1, nobody.2));
    assert_eq!(one.hear(1, &vote(Following, 3, 9, 5)), None);
    one.timeout(MS);
    for _ in 0..20 {
        let at = one.e.next_deadline().unwrap();
        assert_eq!(one.timeout(at), None);
        assert!(one.e.next_deadline().unwrap().since(at) <= 1_000, "nobody tells it if it does not ask");
    }
    assert_eq!(one.hear(3, &vote(Leading, 3, 9, 5)).map(|d| (d.leader, d.state)), Some((id(3), Observing)));

    // It may also see an election come to its end.
    let mut one = One::looking(4, &members(3, 1), 7);
    assert_eq!(one.hear(2, &vote(Looking, 3, 9, 5)), None);
    assert_eq!(one.hear(3, &vote(Looking, 3, 9, 5)), None);
    let decided = one.timeout(MS.plus(20)).unwrap();
    assert_eq!((decided.leader, decided.state), (id(3), Observing));
}

#[test]
fn who_lost_its_history_neither_votes_nor_is_voted_for() {
    let lost = Notification { zxid: Zxid::MAX, ..vote(Looking, 3, 0, 1) };
    let mut one = One::looking(1, &members(3, 0), 7);
    one.said();
    one.hear(3, &lost);
    assert_eq!(one.said(), []);
    one.e.start(Vote { leader: id(1), zxid: Zxid::MAX, epoch: 1 }, MS, &mut one.said);
    assert_eq!(one.said.0[0].1.zxid, Zxid::MAX);
    one.hear(2, &vote(Looking, 2, 1, 2));
    one.hear(3, &vote(Looking, 2, 1, 2));
    assert_eq!(one.timeout(MS.plus(100)), None);
    one.hear(3, &vote(Following, 2, 1, 2));
    assert_eq!(one.hear(2, &vote(Leading, 2, 1, 2)).unwrap().leader, id(2));
}

#[test]
fn a_server_without_weight_never_wins() {
    let text = "server.1=a:1:2\nserver.2=a:3:4\nserver.3=a:5:6\ngroup.1=1:2:3\nweight.3=0\n";
    let members = Members::parse(text).unwrap();
    let mut one = One::looking(1, &members, 7);
    assert_eq!(one.hear(3, &vote(Looking, 3, 99, 1)), None);
    assert_eq!(one.hear(2, &vote(Looking, 1, 7, 1)).unwrap().leader, id(1));
    let mut three = One::looking(3, &members, 99);
    assert_eq!(three.hear(1, &vote(Looking, 1, 7, 1)), None);
    assert_eq!(three.hear(2, &vote(Looking, 1, 7, 1)).unwrap().leader, id(1), "whatever its own log holds");
}

#[test]
fn in_a_reconfiguration_both_ensembles_must_agree() {
    let mut one = One::looking(1, &members(3, 0), 7);
    let next = "server.1=a:1:2\nserver.4=d:1:2\nserver.5=e:1:2\nserver.6=f:1:2\nversion=100000001";
    one.e.set_members(Arc::new(members(3, 0)), Some(Arc::new(Members::parse(next).unwrap())));
    one.start(1, 7);
    one.said();
    for from in [2, 3, 4] {
        assert_eq!(one.hear(from, &vote(Looking, 1, 7, 2)), None);
    }
    assert_eq!(one.timeout(MS.plus(1_000)), None, "two of the next four are no quorum");
    let told: Vec<i64> = one.said().iter().map(|s| s.0).collect();
    assert_eq!(told, [2, 3, 4, 5, 6], "sent again");
    assert_eq!(one.hear(5, &vote(Looking, 1, 7, 2)), None);
    one.e.peer_down(id(6));
    assert_eq!(one.timeout(MS.plus(1_000)).unwrap().state, Leading);
}

/// Each of the two needs the other: one that knows of the reconfiguration, and one that votes only after it and does not.
#[test]
fn the_round_of_who_is_to_vote_and_does_not_know_it_is_caught_up_with() {
    let now = Members::parse("server.1=a:1:2\nserver.2=b:1:2:observer\nversion=100000000").unwrap();
    let next = Members::parse("server.1=a:1:2\nserver.2=b:1:2\nversion=100000001").unwrap();
    let mut one = One::looking(1, &now, 7);
    one.e.set_members(Arc::new(now.clone()), Some(Arc::new(next)));
    one.start(1, 7);
    let mut two = One::looking(2, &now, 5);
    (0..5).for_each(|_| two.start(2, 5));
    for _ in 0..5 {
        let (of_one, of_two) = (std::mem::take(&mut one.said.0), std::mem::take(&mut two.said.0));
        for (_, n) in of_one {
            two.hear(1, &n);
        }
        for (_, n) in of_two {
            if let Some(decided) = one.hear(2, &n) {
                assert_eq!((decided.leader, decided.state), (id(1), Leading));
                return;
            }
        }
    }
    panic!("they never agree");
}

#[test]
fn a_newer_configuration_is_reported_while_looking() {
    let ours = members(3, 0);
    let mut one = One::looking(1, &ours, 7);
    let carrying = |text: String| Notification { config: Some(text), ..vote(Looking, 2, 7, 1) };
    one.hear(2, &carrying(ours.text()));
    one.hear(2, &carrying("version=ffff".into()));
    one.hear(2, &carrying("nonsense".into()));
    assert_eq!(one.e.take_newer_config(), None);
    let newer = members(5, 0).with_version(0x1_0000_0007);
    one.hear(2, &carrying(newer.text()));
    one.hear(3, &carrying(members(3, 0).with_version(3).text()));
    assert_eq!(one.e.take_newer_config(), Some(newer.clone()));
    assert_eq!(one.e.take_newer_config(), None);
    one.e.set_members(Arc::new(newer.clone()), None);
    one.start(1, 7);
    assert_eq!(one.said.0.last().unwrap().1.config, Some(newer.text()));
    one.hear(5, &carrying(newer.text()));
    assert_eq!(one.e.take_newer_config(), None);
}

#[test]
fn a_new_leader_hears_when_its_voters_change_their_minds() {
    let mut one = One::looking(3, &members(5, 0), 7);
    for from in [1, 2, 4] {
        one.hear(from, &vote(Looking, 3, 7, 1));
    }
    assert_eq!(one.timeout(MS.plus(20)).unwrap().state, Leading);
    one.hear(1, &vote(Looking, 3, 7, 1));
    assert!(!one.e.heard_looking(), "it has not finished this election yet");
    one.hear(5, &vote(Looking, 5, 7, 2));
    assert!(!one.e.heard_looking(), "not one of its voters");
    one.hear(1, &vote(Looking, 1, 7, 2));
    assert!(one.e.heard_looking());
    assert!(!one.e.heard_looking(), "told once");
}

#[test]
fn nothing_is_said_before_the_first_election() {
    let mut one = One {
        e: Election::new(id(1), false, Arc::new(members(3, 0)), Knobs::default()),
        said: Said::default(),
    };
    one.hear(2, &vote(Looking, 2, 7, 1));
    one.e.peer_up(id(2), MS, &mut one.said);
    one.e.peer_down(id(2));
    assert_eq!((one.timeout(MS), one.e.next_deadline(), one.said()), (None, None, vec![]));
    one.e.settled(Following, id(2), Zxid::ZERO, 4);
    one.hear(3, &vote(Looking, 3, 7, 1));
    assert_eq!(one.said(), [(3, Following, 2, 0, 4)]);
}

/// Rounds at the ends of their range, from a voter that is not to be trusted with arithmetic.
#[test]
fn absurd_rounds_do_no_harm() {
    let mut one = One::looking(1, &members(3, 0), 7);
    for round in [i64::MIN, -1, i64::MAX, i64::MAX - 1] {
        for state in [Looking, Following, Leading] {
            one.hear(2, &vote(state, 2, 9, round));
        }
    }
    one.start(1, 7);
    one.timeout(MonoMs(u64::MAX));
    one.hear(2, &vote(Looking, 2, 9, i64::MAX));
    assert_eq!(one.hear(3, &vote(Looking, 2, 9, i64::MAX)).unwrap().leader, id(2));
}

/// `FUZZ_ITERS=n` sets how many networks are tried; `FUZZ_SEED=n` replays one.
fn seeds(count: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().map(|v| v.parse::<u64>().expect("a number"));
    match number("FUZZ_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("FUZZ_ITERS").unwrap_or(count),
    }
}

#[test]
fn in_a_calm_network_all_choose_the_best_without_waiting() {
    for voters in [1, 3, 5, 7] {
        for seed in seeds(40) {
            // With such a wait, whoever finalizes did so because every vote was in.
            let knobs = Knobs { finalize_wait_ms: 1_000_000, ..Knobs::default() };
            let mut net = Net::new(seed, voters, 1, knobs);
            let best = net.best();
            net.calm(5_000);
            for node in 1..=voters + 1 {
                assert_eq!(net.leader_of(node), Some(best), "seed {seed}, server {node} of {voters}");
            }
        }
    }
}

#[test]
fn in_a_storm_nobody_leads_without_a_quorum_and_after_it_all_follow_one() {
    for voters in [1, 3, 5, 7] {
        for seed in seeds(12) {
            let mut net = Net::new(seed, voters, 1, Knobs::default());
            net.storm(20_000);
            net.calm(20_000);
            let leaders: Vec<_> = (1..=voters + 1).map(|n| net.leader_of(n)).collect();
            assert!(leaders[0].is_some(), "seed {seed}, {voters} voters: {leaders:?}");
            assert!(leaders.iter().all(|l| *l == leaders[0]), "seed {seed}, {voters} voters: {leaders:?}");
            assert!(voters == 1 || net.terms() > 1, "seed {seed}: a storm that moves nothing");
        }
    }
}
