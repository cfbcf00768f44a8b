//! Election connections: one per member at most, whichever side may keep it, and the newest message for each.
//!
//! Of two members the one with the greater number keeps the connection that it dialled; the other's call only asks to
//! be called back (fact sheet 9.1). So there is one connection between two members, however both begin.
//!
//! Not here: what a message says (`engine::zab::election`), how an address is reached (`attempt`).
//! Invariants:
//! - a member has at most one connection, and at most one message that waits for it: the newest;
//! - `tokens` knows the socket of every peer's road, and no other;
//! - bounded: callers without a name and how long they may be so, strangers, bytes and messages per call.

use super::attempt::{Attempt, Progress, Target};
use super::gripes::About;
use super::stream::{Edge, Received, Stream, Token};
use super::{PeerEvent, Tools};
use engine::ids::ServerId;
use engine::time::MonoMs;
use engine::zab::wire::{Hello, parse_hello, put_hello};
use socket2::Socket;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};

/// Callers that have not said yet who they are; one more closes the oldest.
const GUESTS_MAX: usize = 64;
/// How long a caller may take to say who it is, ms.
const GREETING_MS: u64 = 10_000;
/// The longest greeting: version, number, length, address.
const GREETING_BYTES_MAX: usize = 20 + 2048;
/// The longest message (fact sheet 9.1).
const MESSAGE_BYTES_MAX: usize = 524_288;
/// Servers outside of the ensemble that are talked to; one more closes the oldest.
const STRANGERS_MAX: usize = 32;
/// Addresses taken from one greeting.
const LEARNED_MAX: usize = 8;
/// Between two calls of one member while messages wait for it, ms: doubled from the first to the last.
const BACKOFF_MS: (u64, u64) = (20, 1000);
/// How long a greater member is given to call back before it is asked again, ms.
const CALL_BACK_MS: u64 = 200;
/// A younger connection is not given up for a caller who wants to be called back: both sides began at once, and what
/// the caller asks for is there already.
const YOUNG_MS: u64 = 500;
/// Read from one connection per call, and the messages handed on.
const BYTES_PER_POLL: usize = 64 << 10;
const MESSAGES_PER_POLL: usize = 64;

struct Conn {
    token: Token,
    stream: Stream,
    input: Vec<u8>,
    out: Vec<u8>,
    since: MonoMs,
}

enum Road {
    None,
    Dialling(Attempt),
    Up(Conn),
}

struct Peer {
    member: bool,
    addresses: Vec<Target>,
    /// What it said of itself when it called.
    learned: Vec<Target>,
    road: Road,
    /// It asked to be called back.
    wanted: bool,
    waiting: Option<Vec<u8>>,
    /// The message sent last.
    last: Vec<u8>,
    backoff_ms: u64,
    retry_at: MonoMs,
    since: MonoMs,
}

impl Peer {
    fn new(member: bool, now: MonoMs) -> Peer {
        Peer {
            member,
            addresses: Vec::new(),
            learned: Vec::new(),
            road: Road::None,
            wanted: false,
            waiting: None,
            last: Vec::new(),
            backoff_ms: BACKOFF_MS.0,
            retry_at: MonoMs(0),
            since: now,
        }
    }

    fn targets(&self) -> Vec<Target> {
        let mut all = self.addresses.clone();
        for t in &self.learned {
            if !all.contains(t) {
                all.push(t.clone());
            }
        }
        all
    }

    /// Not before this much later.
    fn rest(&mut self, now: MonoMs, at_least_ms: u64) {
        self.retry_at = now.plus(self.backoff_ms.max(at_least_ms));
        self.backoff_ms = (self.backoff_ms * 2).min(BACKOFF_MS.1);
    }

    fn wants_road(&self) -> bool {
        matches!(self.road, Road::None) && (self.wanted || self.waiting.is_some())
    }
}

/// See the module.
pub(super) struct Elections {
    me: ServerId,
    greeting: Vec<u8>,
    connect_timeout_ms: u64,
    guests: VecDeque<Conn>,
    peers: BTreeMap<ServerId, Peer>,
    tokens: BTreeMap<Token, ServerId>,
    /// The number that the next observer without one gets.
    nameless: i64,
    /// What happened outside of [`Elections::drive`].
    pending: Vec<PeerEvent>,
}

impl Elections {
    pub(super) fn new(me: ServerId, connect_timeout_ms: u64) -> Elections {
        Elections {
            me,
            greeting: Vec::new(),
            connect_timeout_ms,
            guests: VecDeque::new(),
            peers: BTreeMap::new(),
            tokens: BTreeMap::new(),
            nameless: -1,
            pending: Vec::new(),
        }
    }

    /// The members from now on (with addresses of their election ports), and what we say of ourselves.
    pub(super) fn set_members(
        &mut self,
        members: &BTreeMap<ServerId, Vec<Target>>,
        own_address: Option<String>,
        now: MonoMs,
    ) {
        if let Some(address) = own_address {
            self.greeting.clear();
            put_hello(&mut self.greeting, &Hello { server: self.me, address });
        }
        for (id, peer) in &mut self.peers {
            peer.member = members.contains_key(id);
            peer.since = now;
        }
        for (id, addresses) in members.iter().filter(|(id, _)| **id != self.me) {
            let peer = self.peers.entry(*id).or_insert_with(|| Peer::new(true, now));
            if peer.addresses != *addresses {
                peer.addresses = addresses.clone();
                // What waits is worth a try at the new place at once.
                peer.retry_at = MonoMs(0);
                peer.backoff_ms = BACKOFF_MS.0;
                if let Road::Dialling(attempt) = &peer.road {
                    self.tokens.remove(&attempt.token());
                    peer.road = Road::None;
                }
            }
        }
        self.forget_strangers();
    }

    /// Leaves a message for a peer. To somebody who never called and is no member, nothing can be sent.
    pub(super) fn send(&mut self, to: ServerId, message: &[u8], tools: &mut Tools) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        let mut kept = peer.waiting.take().unwrap_or_default();
        kept.clear();
        kept.extend_from_slice(message);
        peer.waiting = Some(kept);
        if matches!(peer.road, Road::None) {
            self.dial_if_due(to, tools);
        }
    }

    /// Takes a connection that was accepted on the election port.
    pub(super) fn welcome(&mut self, socket: Socket, from: SocketAddr, tools: &mut Tools) {
        let token = tools.epoll.next_token();
        let Ok(stream) = Stream::accepted(socket, from, &tools.epoll, token) else { return };
        if self.guests.len() >= GUESTS_MAX {
            self.guests.pop_front();
            tools.gripes.warn(
                About::Us,
                tools.now,
                &format!(
                    "more than {GUESTS_MAX} connections on the election port have not said which server they are: \
                     the oldest is closed (the last came from {from}); check who connects there"
                ),
            );
        }
        let since = tools.now;
        self.guests.push_back(Conn { token, stream, input: Vec::new(), out: Vec::new(), since });
    }

    /// Notes an edge. `false`: it is not about an election connection.
    pub(super) fn note(&mut self, edge: &Edge) -> bool {
        if let Some(id) = self.tokens.get(&edge.token) {
            match self.peers.get_mut(id).map(|p| &mut p.road) {
                Some(Road::Dialling(attempt)) => attempt.note(edge),
                Some(Road::Up(conn)) => conn.stream.note(edge),
                Some(Road::None) | None => {}
            }
            return true;
        }
        match self.guests.iter_mut().find(|g| g.token == edge.token) {
            Some(guest) => guest.stream.note(edge),
            None => return false,
        }
        true
    }

    /// Goes as far as everything can go now.
    pub(super) fn drive(&mut self, tools: &mut Tools, events: &mut Vec<PeerEvent>) {
        self.drive_guests(tools);
        let busy: Vec<ServerId> =
            self.peers.iter().filter(|(_, p)| is_due(p, tools.now)).map(|(id, _)| *id).collect();
        for id in busy {
            match self.peers.get(&id).map(|p| &p.road) {
                Some(Road::None) => self.dial_if_due(id, tools),
                Some(Road::Dialling(_)) => self.drive_attempt(id, tools),
                Some(Road::Up(_)) => {}
                None => continue,
            }
            events.append(&mut self.pending);
            self.read(id, tools, events);
        }
        self.flush(tools);
        events.append(&mut self.pending);
    }

    fn drive_guests(&mut self, tools: &mut Tools) {
        let mut at = 0;
        while at < self.guests.len() {
            let guest = &mut self.guests[at];
            let late = tools.now.since(guest.since) >= GREETING_MS;
            if !guest.stream.is_readable() && !late {
                at += 1;
                continue;
            }
            let from = guest.stream.peer;
            let about = About::Host(from.ip());
            let received = guest.stream.read(&mut guest.input, GREETING_BYTES_MAX);
            match parse_hello(&guest.input) {
                Ok(Some((hello, length))) => {
                    if let Some(mut conn) = self.guests.remove(at) {
                        conn.input.drain(..length);
                        self.admit(hello, conn, tools);
                    }
                    continue;
                }
                Err(what) => tools.gripes.warn(
                    about,
                    tools.now,
                    &format!(
                        "{from} sent garbage to the election port: {}; the connection is closed. Check what runs on \
                         that host: only servers of this ensemble may connect here",
                        what.0
                    ),
                ),
                Ok(None) if matches!(received, Received::Gone(_)) => {
                    tracing::debug!("{from} left the election port without a greeting");
                }
                Ok(None) if late => tools.gripes.warn(
                    about,
                    tools.now,
                    &format!("{from} connected to the election port and did not say who it is: closed"),
                ),
                Ok(None) => {
                    at += 1;
                    continue;
                }
            }
            self.guests.remove(at);
        }
    }

    /// Somebody said who it is.
    fn admit(&mut self, hello: Hello, mut conn: Conn, tools: &mut Tools) {
        let (from, now, mut id) = (conn.stream.peer, tools.now, hello.server);
        if id == self.me {
            let line = format!(
                "{from} connected to the election port and says that it is server {id}, as this server is: two servers \
                 have the same myid; correct the file myid of one of them"
            );
            return tools.gripes.warn(About::Host(from.ip()), now, &line);
        }
        if id == Hello::OBSERVER {
            id = ServerId(self.nameless);
            self.nameless -= 1;
        } else if id.0 < 0 {
            let line =
                format!("{from} says on the election port that it is server {id}, a number no server has");
            return tools.gripes.warn(About::Host(from.ip()), now, &line);
        }
        let learned = addresses_of(&hello.address, from.ip());
        if learned.is_empty() && !hello.address.is_empty() {
            let line = format!(
                "{from} says on the election port that it is server {id} at {:?}, which is no address: the connection is \
                 closed. Check what runs on that host",
                hello.address
            );
            return tools.gripes.warn(About::Host(from.ip()), now, &line);
        }
        if !self.peers.contains_key(&id) {
            let line = format!(
                "{from} says on the election port that it is server {id}, which is not in the configuration of this \
                 server: it is answered, and has no vote"
            );
            tools.gripes.warn(About::Stranger(from.ip()), now, &line);
            self.make_room_for_stranger();
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer::new(false, now));
        peer.learned = learned;
        conn.since = now;
        if id > self.me || id.0 < 0 {
            if let Road::Up(older) = &peer.road
                && older.stream.peer.ip() != from.ip()
            {
                let line = format!(
                    "{from} says on the election port that it is server {id}, which is connected from {} already: the \
                     older connection is closed. If both hosts run one, two servers have the same myid; correct the \
                     file myid of one of them",
                    older.stream.peer
                );
                tools.gripes.warn(About::Host(from.ip()), now, &line);
            }
            self.drop_road(id);
            self.take_road(id, conn);
            return;
        }
        // The smaller one only asks to be called back. If a young connection ends after all, it will be.
        peer.wanted = true;
        match &peer.road {
            Road::Up(c) if now.since(c.since) < YOUNG_MS => return,
            Road::Dialling(_) => return,
            Road::Up(_) | Road::None => {}
        }
        // Calling back is not failing: only a flood of callers is slowed down.
        peer.retry_at = peer.retry_at.min(now.plus(BACKOFF_MS.0));
        self.drop_road(id);
        self.dial_if_due(id, tools);
    }

    /// Ends the road to a peer, whatever it is.
    fn drop_road(&mut self, id: ServerId) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        match std::mem::replace(&mut peer.road, Road::None) {
            Road::None => {}
            Road::Dialling(attempt) => drop(self.tokens.remove(&attempt.token())),
            Road::Up(conn) => {
                self.tokens.remove(&conn.token);
                self.pending.push(PeerEvent::ElectionDown(id));
                if !conn.out.is_empty() && !peer.last.is_empty() && peer.waiting.is_none() {
                    peer.waiting = Some(peer.last.clone()); // it may not have arrived whole
                }
            }
        }
    }

    fn take_road(&mut self, id: ServerId, conn: Conn) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        conn.stream.limit_silence();
        self.tokens.insert(conn.token, id);
        peer.road = Road::Up(conn);
        peer.wanted = false;
        peer.backoff_ms = BACKOFF_MS.0;
        peer.retry_at = MonoMs(0);
        if peer.waiting.is_none() && !peer.last.is_empty() {
            peer.waiting = Some(peer.last.clone());
        }
        self.pending.push(PeerEvent::ElectionUp(id));
    }

    fn dial_if_due(&mut self, id: ServerId, tools: &mut Tools) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.wants_road() || peer.retry_at > tools.now {
            return;
        }
        let token = tools.epoll.next_token();
        self.tokens.insert(token, id);
        peer.road = Road::Dialling(Attempt::new(token, peer.targets(), self.connect_timeout_ms));
        self.drive_attempt(id, tools);
    }

    fn drive_attempt(&mut self, id: ServerId, tools: &mut Tools) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let Road::Dialling(attempt) = &mut peer.road else { return };
        let token = attempt.token();
        match attempt.drive(tools) {
            Progress::Waiting => {}
            Progress::Connected(stream) => {
                self.tokens.remove(&token);
                peer.road = Road::None;
                self.greet(id, token, stream, tools);
            }
            Progress::Failed(why) => {
                self.tokens.remove(&token);
                peer.road = Road::None;
                let line = format!("server {id} cannot be reached for the election: {why}");
                tools.gripes.warn(About::Member(id.0), tools.now, &line);
                self.not_reached(id, tools, 0);
            }
        }
    }

    /// Called, and not connected for good: again later, if there is still a reason to.
    fn not_reached(&mut self, id: ServerId, tools: &Tools, at_least_ms: u64) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        peer.wanted = false;
        peer.rest(tools.now, at_least_ms);
        if !peer.member {
            self.peers.remove(&id);
        }
    }

    /// Says who we are. A smaller peer's connection is kept; a greater peer calls back.
    fn greet(&mut self, id: ServerId, token: Token, mut stream: Stream, tools: &mut Tools) {
        let mut out = self.greeting.clone();
        let sent = stream.write(&mut out);
        let kept = id < self.me;
        match sent {
            Ok(()) if kept => {
                let (input, since) = (Vec::new(), tools.now);
                self.take_road(id, Conn { token, stream, input, out, since });
            }
            Ok(()) => {
                // Closing sends what was written, then the end; the peer has sent nothing that this could destroy.
                let _broken_already = stream.end();
                self.not_reached(id, tools, CALL_BACK_MS);
            }
            Err(_) => self.not_reached(id, tools, 0),
        }
    }

    /// Reads messages of one peer.
    fn read(&mut self, id: ServerId, tools: &mut Tools, events: &mut Vec<PeerEvent>) {
        let Some(Peer { road: Road::Up(conn), .. }) = self.peers.get_mut(&id) else { return };
        let mut gone = None;
        if conn.stream.is_readable() && conn.input.len() < MESSAGE_BYTES_MAX + 4 {
            match conn.stream.read(&mut conn.input, BYTES_PER_POLL) {
                Received::Bytes | Received::Nothing => {}
                Received::Gone(why) => gone = Some(why),
            }
        }
        let (mut at, mut messages) = (0, 0);
        while messages < MESSAGES_PER_POLL {
            match message_at(&conn.input[at..]) {
                Ok(None) => break,
                Ok(Some(message)) => {
                    messages += 1;
                    at += 4 + message.len();
                    events.push(PeerEvent::Election { from: id, message: message.to_vec() });
                }
                Err(length) => {
                    let from = conn.stream.peer;
                    let line = format!(
                        "server {id} at {from} sent an election message of {length} bytes (allowed are \
                         1..={MESSAGE_BYTES_MAX}): the connection is closed. Check that host: its server speaks \
                         another protocol or is broken"
                    );
                    tools.gripes.warn(About::Host(from.ip()), tools.now, &line);
                    gone = Some(None);
                    break;
                }
            }
        }
        conn.input.drain(..at);
        if messages == MESSAGES_PER_POLL && !matches!(message_at(&conn.input), Ok(None)) {
            return; // The rest, and the end if there was one, next time.
        }
        if conn.input.is_empty() && conn.input.capacity() > BYTES_PER_POLL {
            conn.input = Vec::new();
        }
        if let Some(why) = gone {
            if let Some(e) = why {
                tracing::debug!("the election connection to server {id} broke: {e}");
            }
            self.drop_road(id);
            events.append(&mut self.pending);
            self.forget_strangers();
        }
    }

    /// A server sent what is no message: its connection is closed, and it is left alone for a while.
    pub(super) fn reject(&mut self, id: ServerId, why: &str, tools: &mut Tools) {
        let Some(Peer { road: Road::Up(conn), .. }) = self.peers.get(&id) else { return };
        let from = conn.stream.peer;
        let line = format!(
            "server {id} at {from} sent an election message that makes no sense ({why}): the connection is closed. Check \
             that host: its server speaks another protocol or is broken"
        );
        tools.gripes.warn(About::Host(from.ip()), tools.now, &line);
        self.drop_road(id);
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.rest(tools.now, BACKOFF_MS.1);
        }
        self.forget_strangers();
    }

    /// Writes what waits, one message at most per peer and more only as the socket takes them.
    pub(super) fn flush(&mut self, tools: &Tools) {
        let mut broken = Vec::new();
        for (id, peer) in &mut self.peers {
            let Road::Up(conn) = &mut peer.road else { continue };
            if conn.out.is_empty() {
                let Some(message) = peer.waiting.take() else { continue };
                conn.out.extend_from_slice(&(message.len() as u32).to_be_bytes());
                conn.out.extend_from_slice(&message);
                peer.last = message;
            }
            if conn.stream.write(&mut conn.out).is_err() {
                broken.push(*id);
            }
        }
        for id in broken {
            self.drop_road(id);
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.rest(tools.now, 0);
            }
        }
    }

    fn make_room_for_stranger(&mut self) {
        while self.peers.values().filter(|p| !p.member).count() >= STRANGERS_MAX {
            let oldest =
                self.peers.iter().filter(|(_, p)| !p.member).min_by_key(|(_, p)| p.since).map(|(id, _)| *id);
            let Some(id) = oldest else { return };
            self.drop_road(id);
            self.peers.remove(&id);
        }
    }

    /// Those without a connection and without one in sight are strangers no more.
    fn forget_strangers(&mut self) {
        self.peers.retain(|_, p| p.member || p.wanted || !matches!(p.road, Road::None));
    }

    /// Members that are connected.
    pub(super) fn connected(&self) -> BTreeSet<ServerId> {
        self.peers.iter().filter(|(_, p)| matches!(p.road, Road::Up(_))).map(|(id, _)| *id).collect()
    }

    /// When [`Elections::drive`] has to be called even if no edge comes.
    pub(super) fn next_deadline(&self) -> MonoMs {
        let mut due = MonoMs(u64::MAX);
        if !self.pending.is_empty() {
            return MonoMs(0);
        }
        for guest in &self.guests {
            due = due.min(if guest.stream.is_readable() { MonoMs(0) } else { guest.since.plus(GREETING_MS) });
        }
        for peer in self.peers.values() {
            due = due.min(match &peer.road {
                Road::None if peer.wants_road() => peer.retry_at,
                Road::None => MonoMs(u64::MAX),
                Road::Dialling(attempt) => attempt.next_deadline(),
                Road::Up(c) if can_read(c) || can_write(c, peer) => MonoMs(0),
                Road::Up(_) => MonoMs(u64::MAX),
            });
        }
        due
    }
}

/// Whether something can be done for this peer now.
fn is_due(peer: &Peer, now: MonoMs) -> bool {
    match &peer.road {
        Road::None => peer.wants_road() && peer.retry_at <= now,
        Road::Dialling(_) => true,
        Road::Up(c) => can_read(c),
    }
}

fn can_read(c: &Conn) -> bool {
    c.stream.is_readable() || !matches!(message_at(&c.input), Ok(None))
}

fn can_write(c: &Conn, peer: &Peer) -> bool {
    c.stream.is_writable() && (!c.out.is_empty() || peer.waiting.is_some())
}

/// The whole message at the head of `bytes`; an impossible length is the error.
fn message_at(bytes: &[u8]) -> Result<Option<&[u8]>, i32> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = i32::from_be_bytes(*length);
    match usize::try_from(length) {
        Ok(n @ 1..=MESSAGE_BYTES_MAX) => Ok(rest.get(..n)),
        _ => Err(length),
    }
}

/// The addresses that a greeting names: `host:port`, joined by `|`. A host that means "all of mine" is where the caller
/// came from; what is no address is passed over.
fn addresses_of(text: &str, from: IpAddr) -> Vec<Target> {
    let one = |part: &str| {
        let (host, port) = part.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let port = port.parse::<u16>().ok().filter(|&p| p > 0)?;
        let everywhere = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_unspecified());
        let host = if everywhere { from.to_string() } else { host.to_owned() };
        (!host.is_empty()).then_some((host, port))
    };
    text.split('|').take(LEARNED_MAX).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn greetings_name_addresses_of_every_kind() {
        let from: IpAddr = "10.0.0.9".parse().expect("an address");
        let got = addresses_of("zoo1:3888|[fe80::1]:1|0.0.0.0:2|[::]:3|:4|x|y:0|z:70000", from);
        let want = [("zoo1", 3888), ("fe80::1", 1), ("10.0.0.9", 2), ("10.0.0.9", 3)];
        assert_eq!(got, want.map(|(h, p)| (h.to_owned(), p)));
        assert!(addresses_of("", from).is_empty());
        assert_eq!(addresses_of(&"a:1|".repeat(100), from).len(), LEARNED_MAX);
    }

    #[test]
    fn a_message_is_taken_whole_or_refused_by_its_length() {
        assert_eq!(message_at(&[0, 0, 0]), Ok(None));
        assert_eq!(message_at(&[0, 0, 0, 2, 7]), Ok(None));
        assert_eq!(message_at(&[0, 0, 0, 2, 7, 8, 9]), Ok(Some(&[7, 8][..])));
        assert_eq!(message_at(&[0, 0, 0, 0]), Err(0));
        assert_eq!(message_at(&[0xff, 0xff, 0xff, 0xff]), Err(-1));
        assert_eq!(message_at(&[0, 8, 0, 1]), Err(524_289));
        assert_eq!(message_at(&[0, 8, 0, 0]), Ok(None));
    }
}
