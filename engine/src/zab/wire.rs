//! What members say to each other: packets of the quorum port, notifications and greetings of the election port (fact
//! sheet 8.1, 9.1, 9.2). Encoding and decoding only.
//!
//! Not here: what a message means (`election`, `leader`, `learner`), sockets and how long to wait for a peer.
//! Invariants:
//! - a length is judged before anything behind it is waited for, so a peer cannot make us buffer more than `max_data`
//!   and the identities of one client;
//! - looking at an incomplete message allocates nothing and takes no longer than its number of identities.

use crate::ids::{ServerId, Zxid};
use crate::proto::{Decoder, Encode, Id, Malformed};

/// The version of the protocol between learners and leaders that this server speaks (LEADERINFO, LearnerInfo).
pub const PROTOCOL: i32 = 0x10000;
/// More identities than one client's connection may prove; a packet that claims more is garbage.
pub const IDS_MAX: usize = 4_096;
/// The longest scheme or id of an identity, in bytes.
pub const ID_BYTES_MAX: usize = 64 * 1_024;
/// All identities of a packet together, in bytes.
pub const IDS_BYTES_MAX: usize = 1024 * 1_024;
/// The longest election message, in bytes (fact sheet 9.1).
pub const NOTIFICATION_BYTES_MAX: usize = 524_288;
/// The longest address in a greeting, in bytes (fact sheet 9.1).
pub const ADDRESS_BYTES_MAX: usize = 2_048;

/// Bytes that no member sends; says what is wrong with them, for a line of the log. The connection is of no use.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Garbage(pub String);

impl std::fmt::Display for Garbage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Garbage {}

fn garbage<T>(what: impl Into<String>) -> Result<T, Garbage> {
    Err(Garbage(what.into()))
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $n:literal,)*) => {
        /// What a packet is. Who sends it, and what zxid and data mean in it, is in the table of fact sheet 8.1.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(i32)]
        pub enum Kind { $($(#[$doc])* $name = $n,)* }
        impl Kind {
            /// The kind with this number, if there is one.
            pub const fn from_wire(n: i32) -> Option<Kind> {
                match n { $($n => Some(Kind::$name),)* _ => None }
            }
            /// The number on the wire.
            pub const fn wire(self) -> i32 { self as i32 }
        }
    };
}

kinds! {
    /// A client's write, handed on to the leader. The only kind that carries identities.
    Request = 1,
    Proposal = 2,
    /// A vote for exactly one zxid. With a counter of 0: the history that NEWLEADER stands for is durable.
    Ack = 3,
    Commit = 4,
    Ping = 5,
    Revalidate = 6,
    Sync = 7,
    /// A committed transaction, for observers.
    Inform = 8,
    CommitAndActivate = 9,
    NewLeader = 10,
    FollowerInfo = 11,
    UpToDate = 12,
    Diff = 13,
    Trunc = 14,
    /// A snapshot's stream follows on the connection.
    Snap = 15,
    ObserverInfo = 16,
    LeaderInfo = 17,
    AckEpoch = 18,
    InformAndActivate = 19,
}

/// A packet of the quorum port.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Packet<'a> {
    pub kind: Kind,
    /// -1 on the wire is [`Zxid::MAX`].
    pub zxid: Zxid,
    pub data: Option<&'a [u8]>,
    /// The client's identities; empty when null.
    pub ids: Vec<Id>,
}

/// Appends a packet without identities.
pub fn put_packet(out: &mut Vec<u8>, kind: Kind, zxid: Zxid, data: Option<&[u8]>) {
    out.put_int(kind.wire());
    out.put_long(zxid.wire());
    out.put_buffer(data);
    out.put_int(-1);
}

/// Appends a packet whose data `fill` appends. `ids`: `None` is null, as in every kind but REQUEST.
pub fn put_packet_with(
    out: &mut Vec<u8>,
    kind: Kind,
    zxid: Zxid,
    ids: Option<&[Id]>,
    fill: impl FnOnce(&mut Vec<u8>),
) {
    out.put_int(kind.wire());
    out.put_long(zxid.wire());
    crate::proto::put_frame(out, fill);
    match ids {
        None => out.put_int(-1),
        Some(ids) => {
            out.put_len(ids.len());
            for id in ids {
                out.put_string(&id.scheme);
                out.put_string(&id.id);
            }
        }
    }
}

/// The packet at the head of `bytes` and how many bytes it took; `None`: it is not all there yet.
///
/// # Errors
/// The kind is unknown, or a length cannot be: data longer than `max_data` bytes, more identities than one client may
/// have. Found as soon as the word in question is there.
pub fn parse(bytes: &[u8], max_data: usize) -> Result<Option<(Packet<'_>, usize)>, Garbage> {
    let mut d = Decoder::new(bytes);
    let Ok(kind) = d.int() else { return Ok(None) };
    let Some(kind) = Kind::from_wire(kind) else { return garbage(format!("packet of unknown kind {kind}")) };
    let Ok(zxid) = d.long() else { return Ok(None) };
    let Some(data) = buffer(&mut d, max_data, "packet's data")? else { return Ok(None) };
    let Some(count) = ids_that_are_there(d.clone())? else { return Ok(None) };
    let Ok(ids) = ids(&mut d, count) else { return garbage("identities that cannot be read") };
    let took = bytes.len() - d.rest().len();
    Ok(Some((Packet { kind, zxid: Zxid::from_wire(zxid), data, ids }, took)))
}

/// A buffer, or null, once it is there (`None`: not yet).
fn buffer<'a>(d: &mut Decoder<'a>, max: usize, what: &str) -> Result<Option<Option<&'a [u8]>>, Garbage> {
    match d.int() {
        Err(Malformed) => Ok(None),
        Ok(-1) => Ok(Some(None)),
        Ok(n) => match usize::try_from(n) {
            Ok(n) if n <= max => Ok(d.take(n).ok().map(Some)),
            _ => garbage(format!("{what} of {n} bytes")),
        },
    }
}

/// How many identities follow, once all of them are there (`None`: not yet).
fn ids_that_are_there(mut d: Decoder<'_>) -> Result<Option<usize>, Garbage> {
    let Ok(count) = d.int() else { return Ok(None) };
    // Java reads any negative count as an empty vector.
    let count = usize::try_from(count).unwrap_or(0);
    if count > IDS_MAX {
        return garbage(format!("packet with {count} identities"));
    }
    let mut total = 0;
    for _ in 0..2 * count {
        let Some(s) = buffer(&mut d, ID_BYTES_MAX, "identity")? else { return Ok(None) };
        total += s.map_or(0, <[u8]>::len);
        if total > IDS_BYTES_MAX {
            return garbage("packet with identities that are too long");
        }
    }
    Ok(Some(count))
}

fn ids(d: &mut Decoder<'_>, count: usize) -> Result<Vec<Id>, Malformed> {
    d.int()?;
    let mut text =
        || Ok::<Box<str>, Malformed>(d.string()?.unwrap_or_default().into_owned().into_boxed_str());
    (0..count).map(|_| Ok(Id { scheme: text()?, id: text()? })).collect()
}

/// What a learner says of itself in FOLLOWERINFO and OBSERVERINFO.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LearnerInfo {
    /// `None`: it did not say; the leader gives it a negative number.
    pub server: Option<ServerId>,
    /// Below [`PROTOCOL`]: it knows neither LEADERINFO nor ACKEPOCH. 1 if it did not say.
    pub protocol: i32,
    /// The version of the members that it goes by. 0 if it did not say.
    pub config_version: u64,
}

impl LearnerInfo {
    /// Appends the full form (20 bytes).
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_long(self.server.unwrap_or_default().0);
        out.put_int(self.protocol);
        out.put_long(self.config_version as i64);
    }
    /// From a packet's data, of which any length may come: what a shorter form leaves out has its default.
    pub fn decode(data: Option<&[u8]>) -> LearnerInfo {
        let data = data.unwrap_or_default();
        let server = data.first_chunk().map(|b| ServerId(i64::from_be_bytes(*b)));
        let protocol = data.get(8..12).and_then(|b| Decoder::new(b).int().ok()).unwrap_or(1);
        let config_version = data.get(12..20).and_then(|b| Decoder::new(b).long().ok()).unwrap_or(0) as u64;
        LearnerInfo { server, protocol, config_version }
    }
}

/// What a member is doing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(i32)]
pub enum PeerState {
    /// It wants a leader.
    Looking = 0,
    Following = 1,
    Leading = 2,
    Observing = 3,
}

impl PeerState {
    /// The state with this number, if there is one.
    pub const fn from_wire(n: i32) -> Option<PeerState> {
        Some(match n {
            0 => PeerState::Looking,
            1 => PeerState::Following,
            2 => PeerState::Leading,
            3 => PeerState::Observing,
            _ => return None,
        })
    }
}

/// A member's vote, as the election port carries it (fact sheet 9.2). The sender is the connection's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notification {
    /// Of the sender.
    pub state: PeerState,
    /// Who it is for. Observers that look for a leader name [`Notification::NOBODY`].
    pub leader: ServerId,
    /// The last transaction that the candidate has logged.
    pub zxid: Zxid,
    /// The sender's logical clock: which of its elections this is.
    pub round: i64,
    /// The epoch of the candidate's history.
    pub peer_epoch: i64,
    /// 0: the sender is older than dynamic reconfiguration.
    pub version: i32,
    /// The members that the sender goes by (last committed), as text.
    pub config: Option<String>,
}

impl Notification {
    /// The version that this server sends.
    pub const VERSION: i32 = 2;
    /// Whom, and what zxid and epoch, an observer puts into its votes.
    pub const NOBODY: i64 = i64::MIN;

    /// Appends the full form, of version 2, without the length that goes before it on the connection.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_int(self.state as i32);
        out.put_long(self.leader.0);
        out.put_long(self.zxid.wire());
        out.put_long(self.round);
        out.put_long(self.peer_epoch);
        out.put_int(Self::VERSION);
        out.put_string(self.config.as_deref().unwrap_or_default());
    }

    /// From a message of the election port.
    ///
    /// # Errors
    /// Too short, an unknown state, or a configuration that is longer than the message.
    pub fn decode(bytes: &[u8]) -> Result<Notification, Garbage> {
        Self::read(bytes)
            .unwrap_or_else(|Malformed| garbage(format!("notification of {} bytes", bytes.len())))
    }

    fn read(bytes: &[u8]) -> Result<Result<Notification, Garbage>, Malformed> {
        let mut d = Decoder::new(bytes);
        let state = d.int()?;
        let Some(state) = PeerState::from_wire(state) else {
            return Ok(garbage(format!("notification with state {state}")));
        };
        let (leader, zxid, round) = (ServerId(d.long()?), Zxid::from_wire(d.long()?), d.long()?);
        let peer_epoch = if d.is_empty() { i64::from(zxid.epoch()) } else { d.long()? };
        // The 40-byte form's version is one from before dynamic reconfiguration, whatever it says.
        let version = if bytes.len() == 28 || bytes.len() == 40 { 0 } else { d.int()? };
        let config = if version > 1 { Some(d.string_not_null()?.into_owned()) } else { None };
        Ok(Ok(Notification { state, leader, zxid, round, peer_epoch, version, config }))
    }
}

/// The first thing that the dialer of an election port says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Hello {
    /// [`Hello::OBSERVER`]: an observer without a number, to which the acceptor gives a negative one.
    pub server: ServerId,
    /// Its own election address, `host:port`, or several joined by `|`; empty from very old servers.
    pub address: String,
}

impl Hello {
    /// The number of those that have none.
    pub const OBSERVER: ServerId = ServerId(i64::MAX);
    const ONE_ADDRESS: i64 = -65_536;
    const ADDRESSES: i64 = -65_535;
    const SASL: i64 = 0x5f24_3501_3501_edcc;
}

/// Appends the greeting. An address with `|` in it needs peers that understand several addresses.
pub fn put_hello(out: &mut Vec<u8>, hello: &Hello) {
    out.put_long(if hello.address.contains('|') { Hello::ADDRESSES } else { Hello::ONE_ADDRESS });
    out.put_long(hello.server.0);
    out.put_string(&hello.address);
}

/// The greeting at the head of `bytes` and how many bytes it took; `None`: it is not all there yet.
///
/// # Errors
/// An unknown version, a length outside 1..=[`ADDRESS_BYTES_MAX`], an address that is no text, or a peer that wants
/// SASL.
pub fn parse_hello(bytes: &[u8]) -> Result<Option<(Hello, usize)>, Garbage> {
    let mut d = Decoder::new(bytes);
    let Ok(version) = d.long() else { return Ok(None) };
    match version {
        Hello::SASL => return garbage("the peer wants SASL, which is not spoken between members here"),
        Hello::ONE_ADDRESS | Hello::ADDRESSES => {}
        0.. => return Ok(Some((Hello { server: ServerId(version), address: String::new() }, 8))),
        _ => return garbage(format!("greeting of unknown version {version}")),
    }
    let (Ok(server), Ok(n)) = (d.long(), d.int()) else { return Ok(None) };
    let n = match usize::try_from(n) {
        Ok(n @ 1..=ADDRESS_BYTES_MAX) => n,
        _ => return garbage(format!("greeting with an address of {n} bytes")),
    };
    let Ok(address) = d.take(n) else { return Ok(None) };
    let Ok(address) = std::str::from_utf8(address) else {
        return garbage("greeting whose address is no text");
    };
    let hello = Hello { server: ServerId(server), address: address.to_owned() };
    Ok(Some((hello, bytes.len() - d.rest().len())))
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
