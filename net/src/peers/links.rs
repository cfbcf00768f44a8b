//! Connections between learners and leaders: bytes in, bytes out, and how they end.
//!
//! Not here: what the bytes mean (`engine::zab`), which of the two is the leader.
//! Invariants:
//! - a link is told down once, unless the caller closed it; what had arrived before is told first, and can be read until
//!   the next [`Links::drive`];
//! - input that nobody takes stops the reading, and so the sender; it grows beyond [`LinkLimits::input_bytes`] only
//!   while one packet needs it;
//! - nothing here waits.

use super::attempt::{Attempt, Progress, Target};
use super::gripes::About;
use super::stream::{Edge, Received, Stream, Token};
use super::{PeerEvent, Tools};
use engine::ids::{LinkId, ServerId};
use engine::time::MonoMs;
use socket2::Socket;
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// Learners connected at once; one more is refused.
const ACCEPTED_MAX: usize = 1024;
/// Read from one link per call.
const BYTES_PER_POLL: usize = 1 << 20;
/// Room of a caller until all that it has sent was taken: more than any first packet may have.
const FIRST_ROOM_BYTES: usize = 128 << 10;
/// Room for one read.
const READ_BYTES: usize = 64 << 10;
/// Buffers that grew beyond it are given back when they are empty.
const KEPT_BYTES: usize = 1 << 20;
/// Tries of one dial: as many, or as long, whichever is later; pauses between them, ms: doubled from the first to the
/// last. A leader opens its port a moment after its followers have elected it.
const TRIES: u32 = 5;
const TRIES_MS: u64 = 500;
/// So long an observer tries only voters that follow; then the leader, and them behind it, ms. Or a quarter of the time
/// that a dial may take, if that is less: the leader may need this observer's promise for a quorum, if it votes after the
/// reconfiguration that is under way, and waits no longer.
const MASTERS_MS: u64 = 1_000;
const PAUSE_MS: (u64, u64) = (5, 100);
/// Links that were closed and wait for the peer to end, too.
const ENDING_MAX: usize = 64;
const ENDING_MS: u64 = 2_000;
const ENDING_BYTES_MAX: usize = 4 << 20;

/// What bounds a link, bytes and ms.
#[derive(Clone, Copy, Debug)]
pub(super) struct LinkLimits {
    pub input_bytes: usize,
    pub packet_bytes_max: usize,
    pub connect_timeout_ms: u64,
    pub dial_limit_ms: u64,
}

struct Dial {
    to: ServerId,
    attempt: Option<Attempt>,
    tries: u32,
    began: MonoMs,
    retry_at: MonoMs,
    pause_ms: u64,
}

enum State {
    Dialling(Dial),
    Open {
        token: Token,
        stream: Stream,
        dialled: bool,
    },
    /// Why, until it was told.
    Down(Option<String>),
}

struct Link {
    state: State,
    peer: Option<SocketAddr>,
    out: Vec<u8>,
    input: Vec<u8>,
    /// Where in `input` the bytes begin that the caller has not consumed.
    start: usize,
    reading: bool,
    /// Unconsumed bytes at which reading stops.
    room: usize,
    /// The caller took something since it was last told of input.
    consumed: bool,
    /// Input that was there is to be told again.
    tell_again: bool,
}

impl Link {
    fn new(state: State, peer: Option<SocketAddr>, room: usize) -> Link {
        Link {
            state,
            peer,
            out: Vec::new(),
            input: Vec::new(),
            start: 0,
            reading: true,
            room,
            consumed: true,
            tell_again: false,
        }
    }

    fn unread(&self) -> usize {
        self.input.len() - self.start
    }

    fn ended(&mut self, why: String) {
        self.state = State::Down(Some(why));
        self.out = Vec::new();
    }

    /// Whether [`Links::drive`] can do something for it now.
    fn can_go_on(&self, limits: &LinkLimits) -> bool {
        let State::Open { stream, .. } = &self.state else { return false };
        let room = self.unread() < self.room || (!self.consumed && self.room < limits.packet_bytes_max);
        self.reading && (self.tell_again || (stream.is_readable() && room))
            || stream.is_writable() && !self.out.is_empty()
    }
}

/// A closed link whose last bytes are on their way.
struct Ending {
    token: Token,
    stream: Stream,
    until: MonoMs,
    bytes_left: usize,
}

/// See the module.
pub(super) struct Links {
    limits: LinkLimits,
    /// Quorum ports.
    members: BTreeMap<ServerId, Vec<Target>>,
    /// Ports for observers, of voters that may serve this server in the leader's place; in the order in which they are
    /// tried.
    masters: Vec<(ServerId, Vec<Target>)>,
    links: BTreeMap<LinkId, Link>,
    tokens: BTreeMap<Token, LinkId>,
    ending: Vec<Ending>,
    last_id: u64,
    /// What [`Links::out`] gives for a link that is gone.
    nowhere: Vec<u8>,
}

impl Links {
    pub(super) fn new(limits: LinkLimits) -> Links {
        Links {
            limits,
            members: BTreeMap::new(),
            masters: Vec::new(),
            links: BTreeMap::new(),
            tokens: BTreeMap::new(),
            ending: Vec::new(),
            last_id: 0,
            nowhere: Vec::new(),
        }
    }

    pub(super) fn set_members(&mut self, members: BTreeMap<ServerId, Vec<Target>>) {
        self.members = members;
    }

    /// `me` spreads the observers over them.
    pub(super) fn set_masters(&mut self, mut masters: Vec<(ServerId, Vec<Target>)>, me: ServerId) {
        if !masters.is_empty() {
            let first = me.0.rem_euclid(masters.len() as i64) as usize;
            masters.rotate_left(first);
        }
        self.masters = masters;
    }

    fn masters_ms(&self) -> u64 {
        if self.masters.is_empty() { 0 } else { MASTERS_MS.min(self.limits.dial_limit_ms / 4) }
    }

    /// Where a learner of that leader connects, and how long it may try: an observer to a voter that follows, if there is
    /// one in time. Behind that the leader comes first, since one of the others may be silent for as long as it has.
    fn targets(&self, leader: ServerId, tried_ms: u64) -> (Vec<Target>, u64) {
        let masters =
            self.masters.iter().filter(|(id, _)| *id != leader).flat_map(|(_, at)| at.iter().cloned());
        let mut targets: Vec<Target> = masters.collect();
        let only_masters = !targets.is_empty() && tried_ms < self.masters_ms();
        if !only_masters {
            targets.splice(..0, self.members.get(&leader).cloned().unwrap_or_default());
        }
        let until = if only_masters { self.masters_ms() } else { self.limits.dial_limit_ms };
        (targets, self.limits.connect_timeout_ms.min(until.saturating_sub(tried_ms)).max(1))
    }

    fn add(&mut self, state: State, peer: Option<SocketAddr>) -> LinkId {
        self.last_id += 1;
        let id = LinkId(self.last_id);
        self.links.insert(id, Link::new(state, peer, self.limits.input_bytes));
        id
    }

    /// Takes a connection that was accepted on the quorum port.
    pub(super) fn welcome(
        &mut self,
        socket: Socket,
        from: SocketAddr,
        tools: &mut Tools,
        events: &mut Vec<PeerEvent>,
    ) {
        let accepted = |l: &&Link| matches!(l.state, State::Open { dialled: false, .. });
        if self.links.values().filter(accepted).count() >= ACCEPTED_MAX {
            let line = format!(
                "{from} is refused on the quorum port: {ACCEPTED_MAX} learners are connected already"
            );
            return tools.gripes.warn(About::Us, tools.now, &line);
        }
        let token = tools.epoll.next_token();
        let Ok(stream) = Stream::accepted(socket, from, &tools.epoll, token) else { return };
        let peer = stream.peer;
        let link = self.add(State::Open { token, stream, dialled: false }, Some(peer));
        if let Some(l) = self.links.get_mut(&link) {
            l.room = l.room.min(FIRST_ROOM_BYTES);
        }
        self.tokens.insert(token, link);
        events.push(PeerEvent::Accepted { link, peer });
    }

    pub(super) fn dial(&mut self, to: ServerId, tools: &mut Tools) -> LinkId {
        let now = tools.now;
        let state = if self.members.contains_key(&to) {
            let dial = Dial { to, attempt: None, tries: 0, began: now, retry_at: now, pause_ms: PAUSE_MS.0 };
            State::Dialling(dial)
        } else {
            State::Down(Some(format!("server {to} is not in the configuration of this server")))
        };
        let id = self.add(state, None);
        self.drive_dial(id, tools);
        id
    }

    /// Goes on with a dial. `true`: the link is up now.
    fn drive_dial(&mut self, id: LinkId, tools: &mut Tools) -> bool {
        let next = match self.links.get(&id).map(|l| &l.state) {
            Some(State::Dialling(d)) if d.attempt.is_none() => self.targets(d.to, tools.now.since(d.began)),
            _ => (Vec::new(), 0),
        };
        let masters_ms = self.masters_ms();
        let Some(link) = self.links.get_mut(&id) else { return false };
        let State::Dialling(dial) = &mut link.state else { return false };
        let attempt = match &mut dial.attempt {
            Some(attempt) => attempt,
            None if dial.retry_at > tools.now => return false,
            None => {
                let token = tools.epoll.next_token();
                self.tokens.insert(token, id);
                dial.tries += 1;
                let (targets, timeout_ms) = next;
                dial.attempt.insert(Attempt::new(token, targets, timeout_ms))
            }
        };
        let token = attempt.token();
        match attempt.drive(tools) {
            Progress::Waiting => false,
            Progress::Connected(stream) => {
                link.peer = Some(stream.peer);
                link.state = State::Open { token, stream, dialled: true };
                true
            }
            Progress::Failed(why) => {
                self.tokens.remove(&token);
                let spent = tools.now.since(dial.began);
                let patience_ms = TRIES_MS + masters_ms;
                if spent >= self.limits.dial_limit_ms || (dial.tries >= TRIES && spent >= patience_ms) {
                    let (to, tries) = (dial.to, dial.tries);
                    link.ended(format!(
                        "server {to} cannot be reached on its quorum port ({tries} tries): {why}"
                    ));
                } else {
                    dial.attempt = None;
                    dial.retry_at = tools.now.plus(dial.pause_ms);
                    dial.pause_ms = (dial.pause_ms * 2).min(PAUSE_MS.1);
                }
                false
            }
        }
    }

    /// Notes an edge. `false`: it is not about a link.
    pub(super) fn note(&mut self, edge: &Edge) -> bool {
        if let Some(id) = self.tokens.get(&edge.token) {
            match self.links.get_mut(id).map(|l| &mut l.state) {
                Some(State::Open { stream, .. }) => stream.note(edge),
                Some(State::Dialling(Dial { attempt: Some(attempt), .. })) => attempt.note(edge),
                _ => {}
            }
            return true;
        }
        match self.ending.iter_mut().find(|e| e.token == edge.token) {
            Some(e) => e.stream.note(edge),
            None => return false,
        }
        true
    }

    /// Goes as far as everything can go now.
    pub(super) fn drive(&mut self, tools: &mut Tools, events: &mut Vec<PeerEvent>) {
        self.links.retain(|_, l| !matches!(l.state, State::Down(None)));
        let ids: Vec<LinkId> = self.links.keys().copied().collect();
        for id in ids {
            if self.drive_dial(id, tools) {
                events.push(PeerEvent::Up(id));
            }
            let Some(link) = self.links.get_mut(&id) else { continue };
            if let State::Open { token, .. } = link.state {
                if read(link, &self.limits) {
                    events.push(PeerEvent::Input(id));
                }
                write(link);
                if matches!(link.state, State::Down(_)) {
                    self.tokens.remove(&token);
                }
            }
            if let State::Down(why) = &mut link.state
                && let Some(why) = why.take()
            {
                events.push(PeerEvent::Down { link: id, why });
            }
        }
        self.ending.retain_mut(|e| {
            let mut waste = Vec::new();
            let done = match e.stream.is_readable().then(|| e.stream.read(&mut waste, READ_BYTES)) {
                Some(Received::Gone(_)) => true,
                Some(Received::Bytes) => {
                    e.bytes_left = e.bytes_left.saturating_sub(waste.len());
                    e.bytes_left == 0
                }
                Some(Received::Nothing) | None => false,
            };
            !done && tools.now < e.until
        });
    }

    /// One write per link with unsent bytes. A link that breaks is told down by the next [`Links::drive`].
    pub(super) fn flush(&mut self) {
        for link in self.links.values_mut() {
            let State::Open { token, .. } = link.state else { continue };
            write(link);
            if matches!(link.state, State::Down(_)) {
                self.tokens.remove(&token);
            }
        }
    }

    pub(super) fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.nowhere.clear();
        match self.links.get_mut(&link) {
            Some(l) if !matches!(l.state, State::Down(_)) => &mut l.out,
            _ => &mut self.nowhere,
        }
    }

    pub(super) fn unsent(&self, link: LinkId) -> usize {
        self.links.get(&link).map_or(0, |l| l.out.len())
    }

    pub(super) fn input(&self, link: LinkId) -> &[u8] {
        self.links.get(&link).map_or(&[], |l| &l.input[l.start..])
    }

    pub(super) fn consume(&mut self, link: LinkId, bytes: usize) {
        let Some(l) = self.links.get_mut(&link) else { return };
        l.start += bytes.min(l.unread());
        l.consumed |= bytes > 0;
        if l.start == l.input.len() {
            l.input.clear();
            l.start = 0;
            l.room = self.limits.input_bytes;
            if l.input.capacity() > KEPT_BYTES {
                l.input = Vec::new();
            }
        }
    }

    /// Lends out what arrived, and from where it is not consumed yet.
    pub(super) fn take_input(&mut self, link: LinkId) -> (Vec<u8>, usize) {
        self.links.get_mut(&link).map_or((Vec::new(), 0), |l| (std::mem::take(&mut l.input), l.start))
    }

    /// Takes back what was lent out. Nothing was read meanwhile.
    pub(super) fn give_back(&mut self, link: LinkId, input: Vec<u8>, used: usize) {
        if let Some(l) = self.links.get_mut(&link) {
            debug_assert!(l.input.is_empty(), "no poll lies between");
            l.input = input;
        }
        self.consume(link, used);
    }

    /// Whether it is known and not down.
    pub(super) fn is_open(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|l| !matches!(l.state, State::Down(_)))
    }

    pub(super) fn set_reading(&mut self, link: LinkId, on: bool) {
        if let Some(l) = self.links.get_mut(&link) {
            l.tell_again |= on && !l.reading && l.unread() > 0;
            l.reading = on;
        }
    }

    pub(super) fn address_of(&self, link: LinkId) -> Option<SocketAddr> {
        self.links.get(&link).and_then(|l| l.peer)
    }

    /// What was written leaves, as far as the peer takes it now; then the end.
    pub(super) fn close(&mut self, link: LinkId, now: MonoMs) {
        let Some(mut l) = self.remove(link) else { return };
        write(&mut l);
        let State::Open { token, stream, .. } = l.state else { return };
        if stream.end().is_ok() {
            // Bytes of the peer that nobody reads would make the kernel reset the connection, and the peer lose what
            // it has not read yet: so they are read for a while.
            if self.ending.len() >= ENDING_MAX {
                self.ending.remove(0);
            }
            let until = now.plus(ENDING_MS);
            self.ending.push(Ending { token, stream, until, bytes_left: ENDING_BYTES_MAX });
        }
    }

    pub(super) fn close_now(&mut self, link: LinkId) {
        self.remove(link);
    }

    fn remove(&mut self, link: LinkId) -> Option<Link> {
        let l = self.links.remove(&link)?;
        let token = match &l.state {
            State::Open { token, .. } => Some(*token),
            State::Dialling(dial) => dial.attempt.as_ref().map(Attempt::token),
            State::Down(_) => None,
        };
        if let Some(token) = token {
            self.tokens.remove(&token);
        }
        Some(l)
    }

    /// When [`Links::drive`] has to be called even if no edge comes.
    pub(super) fn next_deadline(&self) -> MonoMs {
        let mut due = MonoMs(u64::MAX);
        for l in self.links.values() {
            due = due.min(match &l.state {
                State::Down(Some(_)) => MonoMs(0),
                State::Dialling(Dial { attempt: Some(attempt), .. }) => attempt.next_deadline(),
                State::Dialling(dial) => dial.retry_at,
                _ if l.can_go_on(&self.limits) => MonoMs(0),
                _ => MonoMs(u64::MAX),
            });
        }
        for e in &self.ending {
            due = due.min(if e.stream.is_readable() { MonoMs(0) } else { e.until });
        }
        due
    }
}

/// Reads what there is room for. Says whether there is something to tell.
fn read(link: &mut Link, limits: &LinkLimits) -> bool {
    if !link.reading {
        return false;
    }
    let unread = link.unread();
    let mut news = std::mem::take(&mut link.tell_again) && unread > 0;
    if unread >= link.room && !link.consumed && link.room < limits.packet_bytes_max {
        // All of it was offered and none of it taken: one packet needs more room.
        link.room = (link.room * 2).min(limits.packet_bytes_max);
    }
    let mut budget = BYTES_PER_POLL;
    let mut gone = None;
    while let State::Open { stream, .. } = &mut link.state {
        let had = link.input.len();
        let room = link.room.saturating_sub(had - link.start).min(READ_BYTES);
        if room == 0 || budget == 0 || !stream.is_readable() {
            break;
        }
        if link.start > 0 && link.input.capacity() - had < room {
            link.input.drain(..link.start);
            link.start = 0;
        }
        let had = link.input.len();
        match stream.read(&mut link.input, room) {
            Received::Bytes => news = true,
            Received::Nothing => break,
            Received::Gone(why) => {
                gone = Some(why);
                break;
            }
        }
        budget = budget.saturating_sub(link.input.len() - had);
    }
    match gone {
        Some(None) => link.ended("the peer closed the connection".into()),
        Some(Some(e)) => link.ended(format!("the connection broke: {e}")),
        None => {}
    }
    if news {
        link.consumed = false;
    }
    news
}

/// One write.
fn write(link: &mut Link) {
    let State::Open { stream, .. } = &mut link.state else { return };
    if let Err(e) = stream.write(&mut link.out) {
        link.ended(format!("the connection broke: {e}"));
    } else if link.out.is_empty() && link.out.capacity() > KEPT_BYTES {
        link.out = Vec::new();
    }
}
