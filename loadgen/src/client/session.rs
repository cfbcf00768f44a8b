//! A session and its connection: opening it, what it has in flight, its unsent bytes.

use super::FrameReader;
use crate::workload::Job;
use anyhow::{Context, bail};
use engine::error::Code;
use engine::ids::{SessionId, Zxid};
use engine::proto::{
    AuthPacket, ConnectRequest, ConnectResponse, Decoder, Encode, Op, ReplyHeader, RequestHeader, put_frame,
    xid,
};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

/// Longest wait for a connection, and for each answer while a session is opened.
const OPEN_WAIT: Duration = Duration::from_secs(10);
/// Sessions that are opened side by side.
const OPEN_BATCH: usize = 128;
/// A frame of a session's opening is never longer.
const OPEN_FRAME_MAX: usize = 1 << 16;

/// A server to connect to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// As the user gave it.
    pub name: String,
    /// Where that is.
    pub address: SocketAddr,
}

impl Endpoint {
    /// Resolves `host:port`.
    ///
    /// # Errors
    /// Not of that form, or the name does not resolve.
    pub fn resolve(name: &str) -> anyhow::Result<Endpoint> {
        let address = name
            .to_socket_addrs()
            .with_context(|| CannotConnect(format!("{name} (give HOST:PORT)")))?
            .next()
            .with_context(|| CannotConnect(format!("{name}, which has no address")))?;
        Ok(Endpoint { name: name.to_owned(), address })
    }
}

/// A server could not be reached, or gave no session. The context of errors of that kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CannotConnect(pub String);

impl std::fmt::Display for CannotConnect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "cannot connect to {}", self.0)
    }
}

/// What a session authenticates with.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Credential {
    /// Such as `digest`.
    pub scheme: String,
    /// Such as `user:password`.
    pub secret: String,
}

impl std::str::FromStr for Credential {
    type Err = String;

    fn from_str(text: &str) -> Result<Credential, String> {
        let (scheme, secret) =
            text.split_once(':').ok_or("give SCHEME:CREDENTIAL, as in digest:me:secret")?;
        Ok(Credential { scheme: scheme.to_owned(), secret: secret.to_owned() })
    }
}

/// How sessions are opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// Session `i` goes to endpoint `i` modulo their number. At least one.
    pub endpoints: Vec<Endpoint>,
    /// The session timeout to ask for, in milliseconds.
    pub timeout_ms: i32,
    /// Sent behind the handshake if there is one.
    pub credential: Option<Credential>,
}

/// A request in flight.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    /// When it was to be sent, by the run's clock; in a closed loop the same as `sent`.
    pub planned: u64,
    /// When it was handed to the socket.
    pub sent: u64,
    /// What it is for.
    pub job: Job,
}

/// One session on one connection. It ends with its connection.
#[derive(Debug)]
pub struct Session {
    pub(super) stream: mio::net::TcpStream,
    /// Which endpoint it is connected to.
    pub server: usize,
    /// The timeout that was granted, in milliseconds.
    pub timeout_ms: u32,
    /// Sent and not answered, oldest first.
    pub pending: VecDeque<Pending>,
    /// What this session created and did not delete.
    pub created: crate::workload::Created,
    pub(super) reader: FrameReader,
    pub(super) out: Vec<u8>,
    written: usize,
    next_xid: i32,
    pub(super) reply_xid: i32,
    /// When something was last written, by the run's clock.
    pub(super) last_sent: u64,
    pub(super) alive: bool,
}

/// xids of requests: 1 up to the largest, then 1 again; the others have meanings of their own.
pub(super) fn xid_after(xid: i32) -> i32 {
    xid.checked_add(1).unwrap_or(1)
}

impl Session {
    fn new(stream: TcpStream, server: usize, timeout_ms: u32) -> io::Result<Session> {
        stream.set_read_timeout(None)?;
        stream.set_write_timeout(None)?;
        stream.set_nonblocking(true)?;
        Ok(Session {
            stream: mio::net::TcpStream::from_std(stream),
            server,
            timeout_ms,
            pending: VecDeque::new(),
            created: VecDeque::new(),
            reader: FrameReader::default(),
            out: Vec::new(),
            written: 0,
            next_xid: 1,
            reply_xid: 1,
            last_sent: 0,
            alive: true,
        })
    }

    /// Whether it can be used: its connection stands.
    pub fn alive(&self) -> bool {
        self.alive
    }

    /// Bytes that the socket has not taken yet.
    pub fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    /// Asks `source` for a request and queues it; `false` when the source has ended. `flush` sends it.
    #[inline]
    pub fn queue(&mut self, source: &mut impl crate::workload::Source, planned: u64, sent: u64) -> bool {
        match source.next(&mut self.created, self.next_xid, &mut self.out) {
            Some(job) => {
                self.pending.push_back(Pending { planned, sent, job });
                self.next_xid = xid_after(self.next_xid);
                true
            }
            None => false,
        }
    }

    /// Queues one request whose frame `encode` appends, given its xid.
    pub fn queue_frame(&mut self, job: Job, now: u64, encode: impl FnOnce(i32, &mut Vec<u8>)) {
        encode(self.next_xid, &mut self.out);
        self.pending.push_back(Pending { planned: now, sent: now, job });
        self.next_xid = xid_after(self.next_xid);
    }

    /// Queues a ping; its reply is not one of `pending`.
    pub fn queue_ping(&mut self) {
        put_frame(&mut self.out, |out| RequestHeader { xid: xid::PING, op: Op::Ping.wire() }.encode(out));
    }

    /// Hands the queued bytes to the socket, as many as it takes.
    ///
    /// # Errors
    /// The connection is gone.
    pub fn flush(&mut self, now: u64) -> io::Result<()> {
        if self.out.is_empty() {
            return Ok(());
        }
        self.last_sent = now;
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

/// Opens `count` sessions, spread over the endpoints.
///
/// # Errors
/// A server cannot be reached, refuses the session or the credential.
pub fn open_sessions(opening: &Opening, count: usize) -> anyhow::Result<Vec<Session>> {
    let mut sessions = Vec::with_capacity(count);
    let mut index = 0;
    while index < count {
        let batch = index..count.min(index + OPEN_BATCH);
        index = batch.end;
        let streams: Vec<_> =
            batch.map(|i| begin(opening, i % opening.endpoints.len())).collect::<Result<_, _>>()?;
        for (server, stream) in streams {
            let failed = || CannotConnect(opening.endpoints[server].name.clone());
            let (stream, granted) = finish(opening, stream).with_context(failed)?;
            sessions.push(Session::new(stream, server, granted.timeout_ms.unsigned_abs())?);
        }
    }
    Ok(sessions)
}

/// One session in blocking mode, on the endpoint with this number.
pub(super) fn open_blocking(opening: &Opening, server: usize) -> anyhow::Result<TcpStream> {
    let (server, stream) = begin(opening, server)?;
    let failed = || CannotConnect(opening.endpoints[server].name.clone());
    Ok(finish(opening, stream).with_context(failed)?.0)
}

/// Connects and asks for a session.
fn begin(opening: &Opening, server: usize) -> anyhow::Result<(usize, TcpStream)> {
    let endpoint = &opening.endpoints[server];
    let failed = || CannotConnect(endpoint.name.clone());
    let mut stream = TcpStream::connect_timeout(&endpoint.address, OPEN_WAIT).with_context(failed)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(OPEN_WAIT))?;
    stream.set_write_timeout(Some(OPEN_WAIT))?;
    let request = ConnectRequest {
        last_zxid_seen: Zxid::ZERO,
        timeout_ms: opening.timeout_ms,
        session: SessionId::NONE,
        password: Some(&[0; 16]),
        read_only: Some(false),
    };
    let mut out = Vec::new();
    put_frame(&mut out, |out| request.encode(out));
    stream.write_all(&out).with_context(failed)?;
    Ok((server, stream))
}

/// Takes the answer, and authenticates.
fn finish(opening: &Opening, mut stream: TcpStream) -> anyhow::Result<(TcpStream, ConnectResponse)> {
    let frame = read_frame(&mut stream, OPEN_FRAME_MAX).context("no session")?;
    let granted = ConnectResponse::decode(&mut Decoder::new(&frame))?;
    if granted.session == SessionId::NONE {
        bail!("the server refused it");
    }
    if let Some(credential) = &opening.credential {
        let mut out = Vec::new();
        put_frame(&mut out, |out| {
            RequestHeader { xid: xid::AUTH, op: Op::Auth.wire() }.encode(out);
            let auth = credential.secret.as_bytes();
            AuthPacket { scheme: Some(Cow::Borrowed(&credential.scheme)), auth: Some(auth) }.encode(out);
        });
        stream.write_all(&out)?;
        let frame = read_frame(&mut stream, OPEN_FRAME_MAX)?;
        let reply = ReplyHeader::decode(&mut Decoder::new(&frame))?;
        if reply.err != Code::OK {
            bail!("authentication with scheme {} failed: {}", credential.scheme, reply.err);
        }
    }
    Ok((stream, granted))
}

/// Reads one frame's payload of at most `limit` bytes, blocking.
pub(super) fn read_frame(stream: &mut TcpStream, limit: usize) -> anyhow::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = i32::from_be_bytes(length);
    let n = usize::try_from(length).ok().filter(|n| *n <= limit);
    let n =
        n.with_context(|| format!("a frame of length {length} came, no ZooKeeper server sends that here"))?;
    let mut frame = vec![0; n];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

/// Appends a closeSession request.
pub(super) fn put_close(xid: i32, out: &mut Vec<u8>) {
    put_frame(out, |out| {
        out.put_int(xid);
        out.put_int(Op::CloseSession.wire());
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xids_stay_positive() {
        assert_eq!(xid_after(1), 2);
        assert_eq!(xid_after(i32::MAX), 1);
    }

    #[test]
    fn a_credential_keeps_the_colons_of_its_secret() {
        let c: Credential = "digest:me:secret".parse().unwrap();
        assert_eq!(c, Credential { scheme: "digest".into(), secret: "me:secret".into() });
        assert!("digest".parse::<Credential>().is_err());
    }
}
