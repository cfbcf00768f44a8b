//! Fast leader election, and the answers of those who have a leader to those who look for one (fact sheet 9.3, 9.4).
//!
//! Not here: connections and who dials whom (`net`), what a leader does to become one in deed (`leader`): an election
//! only names a candidate that a quorum wants. Members that decide differently find out there, and elect again.
//! Invariants:
//! - a candidate is decided on only by the votes of a quorum of the current members, and of the next ones if there are;
//! - a leader that others are said to follow is believed only when it says itself that it leads;
//! - within a round, what a member proposes only becomes better.

use super::Links;
use super::members::Members;
use super::wire::{Notification, PeerState};
use crate::ids::{ServerId, Zxid};
use crate::time::MonoMs;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Who only waits for answers (an observer, or one that has heard of a leader) asks at least this often, in ms: nobody
/// tells it of its own accord that there is something new.
const ASK_MS_MAX: u64 = 1_000;

/// Who need not be answered is told the same thing only this often, in ms. Two Apache servers of which one observes can
/// answer each other for ever; so could two members that do not know the same configuration.
const REPEAT_MS: u64 = 100;
/// For how many servers it is remembered what they were told.
const TOLD_MAX: usize = 64;

/// How patient an election is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Knobs {
    /// How long a quorum that agrees waits for a better vote, while there are voters that have not been heard.
    pub finalize_wait_ms: u64,
    /// The votes are sent again after this, and then after twice as long each time, ...
    pub notification_min_ms: u64,
    /// ... up to this.
    pub notification_max_ms: u64,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs { finalize_wait_ms: 20, notification_min_ms: 20, notification_max_ms: 60_000 }
    }
}

/// A candidate: the one with the higher epoch, then the higher zxid, then the higher number is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vote {
    pub leader: ServerId,
    /// The last transaction that it has logged. [`Zxid::MAX`] (-1 on the wire): it has lost its history, and neither
    /// votes nor is voted for.
    pub zxid: Zxid,
    /// The epoch of its history (`peerEpoch`).
    pub epoch: i64,
}

impl Vote {
    const NOBODY: Vote = Vote {
        leader: ServerId(Notification::NOBODY),
        zxid: Zxid::from_wire(Notification::NOBODY),
        epoch: Notification::NOBODY,
    };

    fn rank(&self) -> (i64, i64, i64) {
        (self.epoch, self.zxid.wire(), self.leader.0)
    }
}

/// The end of an election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decided {
    pub leader: ServerId,
    /// What this server is to be: Leading, Following or Observing.
    pub state: PeerState,
    /// What the votes said of the leader's history; older than what it has when it leads already.
    pub zxid: Zxid,
    pub epoch: i64,
}

/// What a voter was last heard to say.
#[derive(Clone, Copy, Debug)]
struct Heard {
    vote: Vote,
    round: i64,
    state: PeerState,
    version: i32,
}

impl Heard {
    fn of(n: &Notification) -> Heard {
        let vote = Vote { leader: n.leader, zxid: n.zxid, epoch: n.peer_epoch };
        Heard { vote, round: n.round, state: n.state, version: n.version }
    }

    /// Whether two voters want, or have, the same leader. Those that have one may have been told of it in different
    /// rounds and with different zxids (ZOOKEEPER-1732); very old ones do not know its epoch.
    fn agrees(&self, other: &Heard) -> bool {
        if self.state == PeerState::Looking || other.state == PeerState::Looking {
            return self.vote == other.vote && self.round == other.round;
        }
        let of_one_age = (self.version > 0) == (other.version > 0);
        // In one round a server leads once, even if only one of the two knows its new epoch yet.
        let same_term = self.vote.epoch == other.vote.epoch || self.round == other.round;
        self.vote.leader == other.vote.leader && (same_term || !of_one_age)
    }
}

/// An election that goes on.
#[derive(Debug)]
struct Hunt {
    /// This server as a candidate.
    initial: Vote,
    /// The best candidate of this round.
    proposal: Vote,
    /// What voters said in this round.
    votes: BTreeMap<ServerId, Heard>,
    /// What voters that have a leader said, of whatever round.
    established: BTreeMap<ServerId, Heard>,
    interval_ms: u64,
    resend_at: MonoMs,
    /// A quorum agrees, and waits for a better vote until then.
    finalize_at: Option<MonoMs>,
    /// The connection of the candidate was lost: elect another one.
    candidate_lost: bool,
    /// Something changed when nothing could be decided.
    look_again: bool,
}

/// What this server says: besides its configuration, all that is in a notification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stand {
    state: PeerState,
    vote: Vote,
    round: i64,
}

/// One server's part in elections.
#[derive(Debug)]
pub struct Election {
    me: ServerId,
    observer: bool,
    knobs: Knobs,
    current: Arc<Members>,
    next: Option<Arc<Members>>,
    /// Of the current members, as notifications carry it.
    text: String,
    /// The logical clock: which election this is, or was.
    round: i64,
    hunt: Option<Hunt>,
    stand: Option<Stand>,
    /// Voters whose connection was lost, and that have not been heard since.
    down: BTreeSet<ServerId>,
    /// Who voted for the leader that was decided on.
    supporters: BTreeSet<ServerId>,
    heard_looking: bool,
    newer: Option<Members>,
    /// What those were told that need not be answered, and when.
    told: BTreeMap<ServerId, (MonoMs, Stand)>,
}

impl Election {
    /// A server that neither has a leader nor looks for one: until [`Election::start`] it says nothing.
    pub fn new(me: ServerId, observer: bool, members: Arc<Members>, knobs: Knobs) -> Election {
        let text = members.text();
        Election {
            me,
            observer,
            knobs,
            current: members,
            next: None,
            text,
            round: 0,
            hunt: None,
            stand: None,
            down: BTreeSet::new(),
            supporters: BTreeSet::new(),
            heard_looking: false,
            newer: None,
            told: BTreeMap::new(),
        }
    }

    /// Looks for a leader, in a new round. `mine` is this server as a candidate; observers and servers that have no
    /// vote are none, whatever they pass. A decision comes from the next [`Election::handle_timeout`] at the earliest.
    pub fn start(&mut self, mine: Vote, now: MonoMs, links: &mut dyn Links) {
        let initial = if !self.observer && self.current.is_voter(self.me) { mine } else { Vote::NOBODY };
        self.stand = None;
        self.supporters.clear();
        self.heard_looking = false;
        self.newer = None;
        self.hunt = Some(Hunt {
            initial,
            proposal: initial,
            votes: BTreeMap::new(),
            established: BTreeMap::new(),
            interval_ms: self.knobs.notification_min_ms.max(1),
            resend_at: now,
            finalize_at: None,
            candidate_lost: false,
            look_again: false,
        });
        let round = self.round.saturating_add(1);
        self.enter(round, initial, now, links);
    }

    /// A notification from the server at the other end of an election connection.
    pub fn handle(
        &mut self,
        from: ServerId,
        n: &Notification,
        now: MonoMs,
        links: &mut dyn Links,
    ) -> Option<Decided> {
        if from == self.me {
            return None;
        }
        self.alive(from);
        self.note_config(n);
        let looks = n.state == PeerState::Looking;
        if !self.votes(from) {
            if looks {
                self.remind(from, now, links);
            }
            return None;
        }
        if self.hunt.is_none() {
            if looks {
                self.note_looking(from, n);
                self.answer(from, links);
            }
            return None;
        }
        if looks && n.round < self.round {
            // Nobody follows the round of a server that has no vote.
            if self.votes(self.me) {
                self.answer(from, links);
            }
            return None;
        }
        if !self.votes(n.leader) {
            self.catch_up(n, now, links);
            return None;
        }
        match n.state {
            PeerState::Looking => self.heard_candidate(from, n, now, links),
            PeerState::Following | PeerState::Leading => self.heard_leader(from, n, now),
            PeerState::Observing => None,
        }
    }

    /// Does what is due; to be called at [`Election::next_deadline`], and harmless at other times.
    pub fn handle_timeout(&mut self, now: MonoMs, links: &mut dyn Links) -> Option<Decided> {
        let hunt = self.hunt.as_mut()?;
        if hunt.candidate_lost {
            let (initial, round) = (hunt.initial, self.round.saturating_add(1));
            self.enter(round, initial, now, links);
        }
        if let Some(decided) = self.judge(now) {
            return Some(decided);
        }
        let hunt = self.hunt.as_mut()?;
        if now >= hunt.resend_at {
            let asks = hunt.initial == Vote::NOBODY || !hunt.established.is_empty();
            let max = self.knobs.notification_max_ms.max(1).min(if asks { ASK_MS_MAX } else { u64::MAX });
            hunt.interval_ms = hunt.interval_ms.saturating_mul(2).min(max);
            self.broadcast(now, links);
        }
        None
    }

    /// When [`Election::handle_timeout`] has something to do; may have passed already.
    pub fn next_deadline(&self) -> Option<MonoMs> {
        let hunt = self.hunt.as_ref()?;
        if hunt.look_again || hunt.candidate_lost {
            return Some(MonoMs(0));
        }
        Some(hunt.finalize_at.map_or(hunt.resend_at, |at| at.min(hunt.resend_at)))
    }

    /// There is a new election connection with that server.
    pub fn peer_up(&mut self, id: ServerId, _now: MonoMs, links: &mut dyn Links) {
        self.alive(id);
        if self.hunt.is_some() && self.votes(id) {
            self.answer(id, links);
        }
    }

    /// There is no election connection with that server any more. What it said is forgotten, and nobody waits for it.
    pub fn peer_down(&mut self, id: ServerId) {
        if !self.votes(id) || id == self.me {
            return;
        }
        let was_up = self.down.insert(id);
        if let Some(hunt) = &mut self.hunt {
            hunt.votes.remove(&id);
            hunt.established.remove(&id);
            hunt.look_again = true;
            // Once per loss: if others still reach the candidate, they may yet talk us into it.
            hunt.candidate_lost |= was_up && hunt.proposal.leader == id;
        }
    }

    /// The leader's epoch is established (or the role changed without an election): what this server answers from now
    /// on. `epoch` is the new epoch, which those who ask later must hear (ZOOKEEPER-1732, 1818).
    pub fn settled(&mut self, state: PeerState, leader: ServerId, zxid: Zxid, epoch: i64) {
        let round = match self.stand {
            Some(stand) if stand.vote.leader == leader => stand.round,
            _ => self.round,
        };
        self.hunt = None;
        self.stand = Some(Stand { state, vote: Vote { leader, zxid, epoch }, round });
    }

    /// Other members: those who count now, and those of a reconfiguration that is not committed yet. An election that
    /// goes on counts the votes it has anew; whether to start over is the caller's to decide.
    pub fn set_members(&mut self, current: Arc<Members>, next: Option<Arc<Members>>) {
        self.text = current.text();
        self.current = current;
        self.next = next;
        let (current, next) = (&self.current, &self.next);
        let votes = |id: ServerId| current.is_voter(id) || next.as_ref().is_some_and(|m| m.is_voter(id));
        self.down.retain(|&id| votes(id));
        if let Some(hunt) = &mut self.hunt {
            hunt.votes.retain(|&id, heard| votes(id) && (id == self.me || votes(heard.vote.leader)));
            hunt.established.retain(|&id, heard| votes(id) && votes(heard.vote.leader));
            hunt.finalize_at = None;
            hunt.look_again = true;
        }
    }

    /// Whether this server observes from now on.
    pub fn set_observer(&mut self, observer: bool) {
        self.observer = observer;
    }

    /// Whether one of those who made this server the leader has looked for another one since this was last asked
    /// (`leader.maxTimeToWaitForEpoch`). A voter that has merely not finished this very election does not count.
    pub fn heard_looking(&mut self) -> bool {
        std::mem::take(&mut self.heard_looking)
    }

    /// A configuration with a higher version than ours that a notification carried while we looked for a leader. To be
    /// asked before acting on a [`Decided`]: the votes were counted by the older one.
    pub fn take_newer_config(&mut self) -> Option<Members> {
        self.newer.take()
    }

    /// Whether an election goes on.
    pub fn is_looking(&self) -> bool {
        self.hunt.is_some()
    }

    /// The logical clock.
    pub fn round(&self) -> i64 {
        self.round
    }

    fn alive(&mut self, id: ServerId) {
        self.down.remove(&id);
        if let Some(hunt) = &mut self.hunt {
            hunt.candidate_lost &= hunt.proposal.leader != id;
        }
    }

    /// Whether a server is a voter now, or after the reconfiguration that is under way.
    fn votes(&self, id: ServerId) -> bool {
        self.current.is_voter(id) || self.next.as_ref().is_some_and(|m| m.is_voter(id))
    }

    fn can_lead(&self, id: ServerId) -> bool {
        if self.current.is_voter(id) {
            return self.current.can_lead(id);
        }
        self.next.as_ref().is_some_and(|m| m.can_lead(id))
    }

    fn better(&self, new: &Vote, than: &Vote) -> bool {
        self.can_lead(new.leader) && (!self.can_lead(than.leader) || new.rank() > than.rank())
    }

    fn quorum(&self, has: impl Fn(ServerId) -> bool) -> bool {
        self.current.quorum(&has) && self.next.as_ref().is_none_or(|m| m.quorum(&has))
    }

    fn voters(&self) -> impl Iterator<Item = ServerId> + '_ {
        let next = self.next.iter().flat_map(|m| m.voters()).copied();
        let added = next.filter(|&id| !self.current.is_voter(id));
        self.current.voters().iter().copied().chain(added)
    }

    /// Another round, or another proposal in this one: told to every voter.
    fn enter(&mut self, round: i64, proposal: Vote, now: MonoMs, links: &mut dyn Links) {
        let votes = self.votes(self.me);
        let Some(hunt) = &mut self.hunt else { return };
        if round != self.round {
            hunt.votes.clear();
        }
        self.round = round;
        hunt.proposal = proposal;
        hunt.finalize_at = None;
        hunt.candidate_lost = false;
        hunt.look_again = true;
        // Who votes only after the reconfiguration under way may not stand yet, but has a say.
        if votes && proposal != Vote::NOBODY && hunt.initial.zxid != Zxid::MAX {
            let own =
                Heard { vote: proposal, round, state: PeerState::Looking, version: Notification::VERSION };
            hunt.votes.insert(self.me, own);
        }
        self.broadcast(now, links);
    }

    fn broadcast(&mut self, now: MonoMs, links: &mut dyn Links) {
        let message = self.message();
        for id in self.voters().filter(|&id| id != self.me) {
            links.send_election(id, &message);
        }
        if let Some(hunt) = &mut self.hunt {
            hunt.resend_at = now.plus(hunt.interval_ms);
        }
    }

    fn answer(&self, to: ServerId, links: &mut dyn Links) {
        let message = self.message();
        if !message.is_empty() {
            links.send_election(to, &message);
        }
    }

    /// Answers, unless that server was told the same thing just now.
    fn remind(&mut self, to: ServerId, now: MonoMs, links: &mut dyn Links) {
        let Some(says) = self.says() else { return };
        let just_now = |(at, what): &(MonoMs, Stand)| *what == says && now.since(*at) < REPEAT_MS;
        if self.told.get(&to).is_some_and(just_now) {
            return;
        }
        if self.told.len() >= TOLD_MAX {
            self.told.clear();
        }
        self.told.insert(to, (now, says));
        self.answer(to, links);
    }

    /// Nothing before the first election.
    fn says(&self) -> Option<Stand> {
        match &self.hunt {
            Some(hunt) => Some(Stand { state: PeerState::Looking, vote: hunt.proposal, round: self.round }),
            None => self.stand,
        }
    }

    fn message(&self) -> Vec<u8> {
        let Some(Stand { state, vote, round }) = self.says() else { return vec![] };
        let n = Notification {
            state,
            leader: vote.leader,
            zxid: vote.zxid,
            round,
            peer_epoch: vote.epoch,
            version: Notification::VERSION,
            config: Some(self.text.clone()),
        };
        let mut out = Vec::with_capacity(44 + self.text.len());
        n.encode(&mut out);
        out
    }

    /// Who does not know yet that it votes after the reconfiguration under way wants nobody, and hears nobody in a round
    /// before its own. Its voice may be needed, so its round is taken over.
    fn catch_up(&mut self, n: &Notification, now: MonoMs, links: &mut dyn Links) {
        let Some(hunt) = &self.hunt else { return };
        let wants_nobody = n.state == PeerState::Looking && n.leader == Vote::NOBODY.leader;
        if wants_nobody && n.round > self.round && self.votes(self.me) {
            self.enter(n.round, hunt.initial, now, links);
        }
    }

    fn heard_candidate(
        &mut self,
        from: ServerId,
        n: &Notification,
        now: MonoMs,
        links: &mut dyn Links,
    ) -> Option<Decided> {
        let heard = Heard::of(n);
        let hunt = self.hunt.as_ref()?;
        if heard.vote.zxid == Zxid::MAX || hunt.initial.zxid == Zxid::MAX {
            return None;
        }
        let later = n.round > self.round;
        let best = if later { hunt.initial } else { hunt.proposal };
        if self.better(&heard.vote, &best) {
            self.enter(n.round, heard.vote, now, links);
        } else if later {
            self.enter(n.round, best, now, links);
        } else if self.better(&best, &heard.vote) {
            // It may have begun after we told everybody: it need not wait until we repeat it.
            self.remind(from, now, links);
        }
        self.hunt.as_mut()?.votes.insert(from, heard);
        self.judge(now)
    }

    fn heard_leader(&mut self, from: ServerId, n: &Notification, now: MonoMs) -> Option<Decided> {
        let heard = Heard::of(n);
        let round = self.round;
        let hunt = self.hunt.as_mut()?;
        if n.round == round {
            hunt.votes.insert(from, heard);
        }
        hunt.established.insert(from, heard);
        let hunt = self.hunt.as_ref()?;
        let in_round = if n.round == round { self.follow(&heard, &hunt.votes) } else { None };
        if let Some(supporters) = in_round.or_else(|| self.follow(&heard, &hunt.established)) {
            self.round = n.round;
            return Some(self.decide(heard.vote, supporters));
        }
        self.judge(now)
    }

    /// Who follows the leader that was heard of, if they are a quorum and it says itself that it leads.
    fn follow(&self, heard: &Heard, votes: &BTreeMap<ServerId, Heard>) -> Option<BTreeSet<ServerId>> {
        let leader = heard.vote.leader;
        let leads = match votes.get(&leader) {
            // All others say that this is us: true if they mean this round, and not our life before a restart.
            _ if leader == self.me => heard.round == self.round,
            Some(l) => l.state == PeerState::Leading && l.vote.leader == leader,
            None => false,
        };
        let with = |id| votes.get(&id).is_some_and(|v| v.agrees(heard));
        // A reconfiguration that only we have seen must not keep us from a leader that others follow: it knows better, and
        // whether it has its quorums is for it to see.
        let followed = if leader == self.me { self.quorum(with) } else { self.current.quorum(with) };
        (leads && followed).then(|| self.voters().filter(|&id| with(id)).collect())
    }

    /// Decides if a quorum wants what we want and nothing better is to be expected.
    fn judge(&mut self, now: MonoMs) -> Option<Decided> {
        let wait_ms = self.knobs.finalize_wait_ms;
        let hunt = self.hunt.as_ref()?;
        let (proposal, round) = (hunt.proposal, self.round);
        let own = Heard { vote: proposal, round, state: PeerState::Looking, version: Notification::VERSION };
        let with = |id| hunt.votes.get(&id).is_some_and(|v| v.agrees(&own));
        let agreed = self.can_lead(proposal.leader) && self.quorum(with);
        let supporters: BTreeSet<ServerId> = self.voters().filter(|&id| with(id)).collect();
        // Who has voted in this round has named at least itself: only the silent could know a better candidate.
        let all_heard = !self.down.contains(&proposal.leader)
            && self.voters().all(|id| hunt.votes.contains_key(&id) || self.down.contains(&id));
        let hunt = self.hunt.as_mut()?;
        hunt.look_again = false;
        if !agreed {
            hunt.finalize_at = None;
            return None;
        }
        let at = *hunt.finalize_at.get_or_insert(now.plus(wait_ms));
        (all_heard || now >= at).then(|| self.decide(proposal, supporters))
    }

    fn decide(&mut self, vote: Vote, supporters: BTreeSet<ServerId>) -> Decided {
        let state = match vote.leader == self.me {
            true => PeerState::Leading,
            false if self.observer => PeerState::Observing,
            false => PeerState::Following,
        };
        self.hunt = None;
        self.supporters = supporters;
        self.heard_looking = false;
        self.stand = Some(Stand { state, vote, round: self.round });
        Decided { leader: vote.leader, state, zxid: vote.zxid, epoch: vote.epoch }
    }

    fn note_looking(&mut self, from: ServerId, n: &Notification) {
        let Some(stand) = &self.stand else { return };
        let in_this_election = n.round == stand.round && n.leader == self.me;
        if stand.state == PeerState::Leading && self.supporters.contains(&from) && !in_this_election {
            self.heard_looking = true;
        }
    }

    /// Keeps a newer configuration for the caller, if we look for a leader and so may be out of date.
    fn note_config(&mut self, n: &Notification) {
        let Some(text) = n.config.as_deref().filter(|_| self.hunt.is_some()) else { return };
        let known = self.newer.as_ref().map_or(self.current.version, |m| m.version);
        let claimed = text.rsplit_once("version=").and_then(|(_, v)| u64::from_str_radix(v.trim(), 16).ok());
        if claimed.is_some_and(|v| v > known) {
            // One that cannot be read is the sender's problem: its vote still counts.
            self.newer = Members::parse(text).ok().filter(|m| m.version > known).or(self.newer.take());
        }
    }
}
