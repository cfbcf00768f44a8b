//! The sockets between the members of an ensemble: driven by the core's thread, never waiting.
//!
//! Lives here: the two ports (`door`), election connections (`election`), links between learners and their leader
//! (`links`), and under them names (`names`), connecting (`attempt`), sockets and their readiness (`stream`), log lines
//! about peers (`gripes`). Not here: what is said on them (`engine::zab`).
//! Invariants:
//! - no call waits: not for a socket, not for a resolver; a peer that is dead, slow or has no address yet delays nobody;
//! - everything is bounded: callers without a name, strangers, buffers, log lines;
//! - [`Peers::poll`] has something to do only if the descriptor became readable, the waker was called or
//!   [`Peers::next_deadline`] has passed.

mod attempt;
mod door;
mod election;
mod gripes;
mod links;
mod names;
mod stream;

use crate::ring::Wake;
use attempt::Target;
use door::Door;
use election::Elections;
use engine::ids::{LinkId, ServerId};
use engine::time::MonoMs;
use engine::zab;
use gripes::{About, Gripes};
use links::{LinkLimits, Links};
use names::Names;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use stream::{Edge, Epoll};

/// A member, as its `server.N` line gives it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerLine {
    pub id: ServerId,
    pub observer: bool,
    /// Host (name or address, without brackets), quorum port, election port; at least one.
    pub addresses: Vec<(String, u16, u16)>,
}

/// How the sockets behave.
#[derive(Clone, Debug)]
pub struct PeerOptions {
    /// For one try to connect to a member, shared by its addresses, ms (`cnxTimeout`; default 5000).
    pub connect_timeout_ms: u64,
    /// For all tries of one [`zab::Links::dial`], ms (`connectToLearnerMasterLimit` or `initLimit`, as time).
    pub dial_limit_ms: u64,
    /// `quorumListenOnAllIPs`: both ports are bound on all interfaces.
    pub listen_on_all_ips: bool,
    /// `multiAddress.enabled`: peers are told all our addresses, which only servers from 3.6 on understand.
    pub multi_address: bool,
    /// Unconsumed bytes of one link at which it is not read any more (default 4 MiB).
    pub input_bytes: usize,
    /// As [`PeerOptions::input_bytes`], while a single packet needs more (default 64 MiB).
    pub max_packet_bytes: usize,
    /// Where voters that follow serve observers (`observerMasterPort`): this port of each of their addresses. 0: nowhere.
    pub observer_master_port: u16,
}

impl Default for PeerOptions {
    fn default() -> PeerOptions {
        PeerOptions {
            connect_timeout_ms: 5_000,
            dial_limit_ms: 20_000,
            listen_on_all_ips: false,
            multi_address: false,
            input_bytes: 4 << 20,
            max_packet_bytes: 64 << 20,
            observer_master_port: 0,
        }
    }
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PeerEvent {
    /// An election message, without its length. The sender is who it says it is, and need not be a member.
    Election { from: ServerId, message: Vec<u8> },
    /// There is an election connection to that server now.
    ElectionUp(ServerId),
    /// The election connection to that server ended; told once for each [`PeerEvent::ElectionUp`].
    ElectionDown(ServerId),
    /// A learner connected to our quorum port; the link is up.
    Accepted { link: LinkId, peer: SocketAddr },
    /// A dialled link is up.
    Up(LinkId),
    /// Bytes arrived: see [`Peers::input`].
    Input(LinkId),
    /// The link ended, or a dial failed. Told once, and not for links that were closed from this side. What arrived
    /// before can still be read until the next [`Peers::poll`].
    Down { link: LinkId, why: String },
}

/// What every part needs.
struct Tools {
    /// When the last poll began.
    now: MonoMs,
    epoll: Epoll,
    names: Names,
    gripes: Gripes,
}

/// See the module.
pub struct Peers {
    me: ServerId,
    options: PeerOptions,
    tools: Tools,
    election_door: Door,
    quorum_door: Door,
    /// Where observers come while this server follows; bound nowhere unless there is such a port.
    observer_door: Door,
    elections: Elections,
    links: Links,
    edges: Vec<Edge>,
}

type Members = BTreeMap<ServerId, PeerLine>;

impl Peers {
    /// Binds both ports of our own line. Election connections are taken at once, learners only after
    /// [`zab::Links::listen`]. `wake` ends the sleep of the thread that polls; it is called from other threads.
    ///
    /// # Errors
    /// `me` is not among the members, an address is in use or not of this host, or our own name does not resolve (this
    /// is the only place that waits for it).
    pub fn open(
        me: ServerId,
        members: Vec<PeerLine>,
        options: PeerOptions,
        wake: Arc<dyn Wake>,
    ) -> io::Result<Peers> {
        let members: Members = members.into_iter().map(|m| (m.id, m)).collect();
        let own = members.get(&me).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, format!("server {me} is not among the members"))
        })?;
        let mut epoll = Epoll::new()?;
        let mut election_door =
            Door::new("election port", places(own, options.listen_on_all_ips, |a| a.2), &mut epoll)?;
        let quorum_door =
            Door::new("quorum port", places(own, options.listen_on_all_ips, |a| a.1), &mut epoll)?;
        let for_observers = observer_places(own, &options);
        let observer_door = Door::new("port for observers", for_observers, &mut epoll)?;
        let mut tools = Tools { now: MonoMs(0), epoll, names: Names::new(wake), gripes: Gripes::default() };
        election_door.listen(true, &mut tools);
        let limits = LinkLimits {
            input_bytes: options.input_bytes.max(1),
            packet_bytes_max: options.max_packet_bytes.max(options.input_bytes),
            connect_timeout_ms: options.connect_timeout_ms.max(1),
            dial_limit_ms: options.dial_limit_ms,
        };
        let elections = Elections::new(me, limits.connect_timeout_ms);
        let links = Links::new(limits);
        let edges = Vec::new();
        let mut peers =
            Peers { me, options, tools, election_door, quorum_door, observer_door, elections, links, edges };
        peers.take_members(&members);
        Ok(peers)
    }

    /// Becomes readable when [`Peers::poll`] has something to do. Watch it edge-triggered: it may stay readable.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.tools.epoll.fd()
    }

    /// Moves what can be moved now and appends what happened: takes callers, reads (a bounded part of each connection),
    /// writes what could not be written before, goes on with connecting.
    pub fn poll(&mut self, now: MonoMs, events: &mut Vec<PeerEvent>) {
        self.tools.now = now;
        self.edges.clear();
        self.tools.epoll.poll(&mut self.edges);
        for edge in &self.edges {
            let _concerned = self.links.note(edge)
                || self.elections.note(edge)
                || self.quorum_door.note(edge)
                || self.observer_door.note(edge)
                || self.election_door.note(edge);
        }
        self.tools.names.poll(now);
        let mut came = Vec::new();
        self.election_door.poll(&mut self.tools, &mut came);
        for (socket, from) in came.drain(..) {
            self.elections.welcome(socket, from, &mut self.tools);
        }
        self.quorum_door.poll(&mut self.tools, &mut came);
        self.observer_door.poll(&mut self.tools, &mut came);
        for (socket, from) in came {
            self.links.welcome(socket, from, &mut self.tools, events);
        }
        self.elections.drive(&mut self.tools, events);
        self.links.drive(&mut self.tools, events);
    }

    /// Sends: one write per connection with unsent bytes. To be called once per step of the core.
    pub fn flush(&mut self) {
        self.links.flush();
        self.elections.flush(&self.tools);
    }

    /// When [`Peers::poll`] has to be called although nothing woke the thread; a moment that has passed means at once.
    pub fn next_deadline(&self) -> MonoMs {
        if self.tools.epoll.has_more() || self.tools.names.has_answers() {
            return MonoMs(0);
        }
        let doors = self.election_door.next_deadline().min(self.quorum_door.next_deadline());
        let doors = doors.min(self.observer_door.next_deadline());
        doors.min(self.elections.next_deadline()).min(self.links.next_deadline())
    }

    /// What arrived on a link and was not consumed; nothing for a link that is gone.
    pub fn input(&self, link: LinkId) -> &[u8] {
        self.links.input(link)
    }

    /// Takes the first `bytes` of [`Peers::input`] away.
    pub fn consume(&mut self, link: LinkId, bytes: usize) {
        self.links.consume(link, bytes);
    }

    /// Lends out what arrived on a link, with the place up to which it was consumed, so that whoever reads it may answer.
    /// To be followed by [`Peers::give_back`], with no [`Peers::poll`] between.
    pub fn take_input(&mut self, link: LinkId) -> (Vec<u8>, usize) {
        self.links.take_input(link)
    }

    /// Takes back what was lent out; so many bytes more are consumed.
    pub fn give_back(&mut self, link: LinkId, input: Vec<u8>, used: usize) {
        self.links.give_back(link, input, used);
    }

    /// Whether a link is being dialled, or open.
    pub fn is_open(&self, link: LinkId) -> bool {
        self.links.is_open(link)
    }

    /// Whether a link is read at all. Switched on, input that is there already is told again.
    pub fn set_reading(&mut self, link: LinkId, on: bool) {
        self.links.set_reading(link, on);
    }

    /// Bytes of a link that no socket has taken yet.
    pub fn unsent(&self, link: LinkId) -> usize {
        self.links.unsent(link)
    }

    /// Closes a link at once; what was not sent is lost. It is not told down.
    pub fn close_now(&mut self, link: LinkId) {
        self.links.close_now(link);
    }

    /// Closes a link whose peer sent what it must not, with one log line that names it (not one per offence).
    pub fn reject(&mut self, link: LinkId, why: &str) {
        if let Some(peer) = self.links.address_of(link) {
            let line = format!(
                "{peer} broke the rules of the quorum port: {why}; the connection is closed. Check what runs on that \
                 host, and that its configuration names the same ensemble"
            );
            self.tools.gripes.warn(About::Host(peer.ip()), self.tools.now, &line);
        }
        self.links.close_now(link);
    }

    /// Logs a line about a learner, or about a caller from that address; not one per offence.
    pub fn gripe(&mut self, id: Option<ServerId>, at: &str, text: &str) {
        let host = at.parse().map_or(About::Us, |at: SocketAddr| About::Host(at.ip()));
        self.tools.gripes.warn(id.map_or(host, |id| About::Learner(id.0)), self.tools.now, text);
    }

    /// Logs a line about the history that a learner says to have; few for one that comes again and again. Says whether it was
    /// logged.
    pub fn note_history(&mut self, id: ServerId, text: &str) -> bool {
        self.tools.gripes.note(About::History(id.0), self.tools.now, text)
    }

    /// Closes the election connection to a server that sent what is no message, with one log line (not one per offence).
    pub fn reject_election(&mut self, from: ServerId, why: &str) {
        self.elections.reject(from, why, &mut self.tools);
    }

    /// The other end of a link, for log lines; `None` while it is dialled, or gone.
    pub fn address_of(&self, link: LinkId) -> Option<SocketAddr> {
        self.links.address_of(link)
    }

    /// Servers with an election connection, members or not.
    pub fn connected(&self) -> BTreeSet<ServerId> {
        self.elections.connected()
    }

    /// Where learners would connect, and where the election port is bound.
    pub fn listening(&self) -> (Vec<SocketAddr>, Vec<SocketAddr>) {
        (self.quorum_door.addresses(), self.election_door.addresses())
    }

    /// Other members, or other addresses of them, from now on. Connections that stand go on. If our own addresses are
    /// others now, the ports are bound anew, as soon as they are free; if we are no longer a member, they stay.
    pub fn set_members(&mut self, members: Vec<PeerLine>) {
        let members: Members = members.into_iter().map(|m| (m.id, m)).collect();
        if let Some(own) = members.get(&self.me) {
            let all = self.options.listen_on_all_ips;
            self.election_door.move_to(places(own, all, |a| a.2));
            self.quorum_door.move_to(places(own, all, |a| a.1));
            self.observer_door.move_to(observer_places(own, &self.options));
        }
        self.take_members(&members);
    }

    fn take_members(&mut self, members: &Members) {
        let targets = |port: fn(&(String, u16, u16)) -> u16| -> BTreeMap<ServerId, Vec<Target>> {
            let of = |m: &PeerLine| m.addresses.iter().map(|a| (a.0.clone(), port(a))).collect();
            members.iter().map(|(id, m)| (*id, of(m))).collect()
        };
        let told = if self.options.multi_address { usize::MAX } else { 1 };
        let own = members.get(&self.me).map_or(&[][..], |m| &m.addresses);
        let own: Vec<String> = own.iter().take(told).map(|a| host_and_port(&a.0, a.2)).collect();
        // No longer a member: the address that was told before still holds.
        let own = if own.is_empty() { None } else { Some(own.join("|")) };
        self.elections.set_members(&targets(|a| a.2), own, self.tools.now);
        self.links.set_members(targets(|a| a.1));
        let observes = members.get(&self.me).is_some_and(|m| m.observer);
        let port = self.options.observer_master_port;
        let masters = members.values().filter(|m| observes && port > 0 && !m.observer);
        let masters = masters.map(|m| (m.id, m.addresses.iter().map(|a| (a.0.clone(), port)).collect()));
        self.links.set_masters(masters.collect(), self.me);
    }
}

impl zab::Links for Peers {
    fn send_election(&mut self, to: ServerId, message: &[u8]) {
        self.elections.send(to, message, &mut self.tools);
    }
    fn dial(&mut self, to: ServerId) -> LinkId {
        self.links.dial(to, &mut self.tools)
    }
    fn listen(&mut self, on: bool) {
        self.quorum_door.listen(on, &mut self.tools);
    }
    fn listen_for_observers(&mut self, on: bool) {
        self.observer_door.listen(on, &mut self.tools);
    }
    fn out(&mut self, link: LinkId) -> &mut Vec<u8> {
        self.links.out(link)
    }
    fn close(&mut self, link: LinkId) {
        self.links.close(link, self.tools.now);
    }
}

/// Where one of our ports is bound.
fn places(
    own: &PeerLine,
    all: bool,
    port: impl Fn(&(String, u16, u16)) -> u16,
) -> Vec<(Option<String>, u16)> {
    let mut places = Vec::new();
    for a in &own.addresses {
        let place = (if all { None } else { Some(a.0.clone()) }, port(a));
        if !places.contains(&place) {
            places.push(place);
        }
    }
    places
}

/// Where observers would come.
fn observer_places(own: &PeerLine, options: &PeerOptions) -> Vec<(Option<String>, u16)> {
    let port = options.observer_master_port;
    if port == 0 || own.observer {
        return Vec::new();
    }
    places(own, options.listen_on_all_ips, |_| port)
}

fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
