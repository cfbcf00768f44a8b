//! Sockets that never wait, and the epoll instance that tells which of them can go on.
//!
//! Everything is registered once, edge-triggered, so a [`Stream`] remembers what the edges said until a call finds the
//! socket exhausted. Tokens are never given out twice, so a late event of a closed socket concerns nobody.
//!
//! Not here: what the bytes mean (`election`, `links`), when to connect where (`attempt`).
//! Invariant: `readable` is cleared only by a read that would have waited, or that found less than it could take while
//! no end had been announced; the kernel then reports what comes next as a new edge. The same holds for `writable`.

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io::{self, ErrorKind, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Events taken from the kernel with one call.
const EVENTS_PER_CALL: usize = 256;
/// How long a silent peer is left alone before the kernel asks whether it is still there, and between two questions.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// How long what was sent may stay without a word from the peer's kernel where [`Stream::limit_silence`] asks for it.
/// Without it the kernel sends again ever more seldom, and a connection works minutes after a network has healed.
const SILENCE_MAX: Duration = Duration::from_secs(4);

/// A registered socket. Never given out twice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(super) struct Token(pub u64);

/// What an edge said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub token: Token,
    pub readable: bool,
    pub writable: bool,
    /// An end or an error stands behind what can be read.
    pub end: bool,
}

/// The epoll instance.
pub(super) struct Epoll {
    fd: OwnedFd,
    last_token: u64,
    more: bool,
}

impl Epoll {
    pub(super) fn new() -> io::Result<Epoll> {
        let fd = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        Ok(Epoll { fd, last_token: 0, more: false })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn next_token(&mut self) -> Token {
        self.last_token += 1;
        Token(self.last_token)
    }

    /// Watches a socket until it is closed.
    pub(super) fn watch(&self, socket: impl AsFd, token: Token) -> io::Result<()> {
        use epoll::EventFlags as F;
        let flags = F::IN | F::OUT | F::RDHUP | F::ET;
        Ok(epoll::add(&self.fd, socket, epoll::EventData::new_u64(token.0), flags)?)
    }

    /// Whether the last [`Epoll::poll`] left something behind.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Appends what the kernel has to say now, as far as one call tells it.
    pub(super) fn poll(&mut self, edges: &mut Vec<Edge>) {
        // Not kept: what the kernel's record may hold cannot go to another thread, and this may be moved to one.
        let mut room = [MaybeUninit::<epoll::Event>::uninit(); EVENTS_PER_CALL];
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        // Only a signal can interrupt this; what it kept back is told by the next call.
        let Ok((came, _)) = epoll::wait(&self.fd, &mut room, Some(&now)) else { return };
        self.more = came.len() == EVENTS_PER_CALL;
        for e in came {
            use epoll::EventFlags as F;
            let (flags, data) = (e.flags, e.data);
            let end = flags.intersects(F::RDHUP | F::HUP | F::ERR);
            edges.push(Edge {
                token: Token(data.u64()),
                readable: end || flags.contains(F::IN),
                writable: end || flags.contains(F::OUT),
                end,
            });
        }
    }
}

/// What came of reading.
#[derive(Debug)]
pub(super) enum Received {
    /// Bytes; there may be more.
    Bytes,
    /// Nothing at present.
    Nothing,
    /// The peer is gone: it ended the stream (`None`), or the connection broke.
    Gone(Option<io::Error>),
}

/// A connection.
pub(super) struct Stream {
    socket: TcpStream,
    pub peer: SocketAddr,
    readable: bool,
    writable: bool,
    end_announced: bool,
}

impl Stream {
    /// Begins to connect; [`Stream::connected`] tells what became of it. Fails at once only for what is wrong here.
    pub(super) fn connect(to: SocketAddr, epoll: &Epoll, token: Token) -> io::Result<Stream> {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_nonblocking(true)?;
        set_options(&SockRef::from(&socket))?;
        match socket.connect(&to.into()) {
            Ok(()) => {}
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => {}
            Err(e) => return Err(e),
        }
        let socket = TcpStream::from(socket);
        epoll.watch(&socket, token)?;
        Ok(Stream { socket, peer: to, readable: false, writable: false, end_announced: false })
    }

    /// Takes over an accepted connection.
    pub(super) fn accepted(
        socket: Socket,
        peer: SocketAddr,
        epoll: &Epoll,
        token: Token,
    ) -> io::Result<Stream> {
        socket.set_nonblocking(true)?;
        set_options(&SockRef::from(&socket))?;
        let socket = TcpStream::from(socket);
        epoll.watch(&socket, token)?;
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        // The registration reports what is there already as an edge.
        Ok(Stream { socket, peer, readable: false, writable: true, end_announced: false })
    }

    /// Whether connecting has succeeded; `None`: not decided yet.
    pub(super) fn connected(&self) -> Option<io::Result<()>> {
        if !self.writable {
            return None;
        }
        match (self.socket.take_error(), self.socket.peer_addr(), self.socket.local_addr()) {
            (Ok(Some(e)) | Err(e), _, _) => Some(Err(e)),
            // A port of the ephemeral range on which nobody listens can be given to this very socket.
            (_, Ok(peer), Ok(own)) if peer == own => Some(Err(ErrorKind::ConnectionRefused.into())),
            (_, Ok(_), _) => Some(Ok(())),
            (_, Err(_), _) => None,
        }
    }

    /// For connections that carry little and matter soon: breaks when the peer's host does not answer for a while. Not
    /// for those whose peer may be slow to read: a full window counts as silence, too.
    pub(super) fn limit_silence(&self) {
        // Where the kernel refuses it, the connection works as well, only slower after a broken network.
        let _refused = SockRef::from(&self.socket).set_tcp_user_timeout(Some(SILENCE_MAX));
    }

    pub(super) fn note(&mut self, edge: &Edge) {
        self.readable |= edge.readable;
        self.writable |= edge.writable;
        self.end_announced |= edge.end;
    }

    pub(super) fn is_readable(&self) -> bool {
        self.readable
    }
    pub(super) fn is_writable(&self) -> bool {
        self.writable
    }

    /// One read, appended to `into`, of about `room` bytes at most (at least 1).
    pub(super) fn read(&mut self, into: &mut Vec<u8>, room: usize) -> Received {
        into.reserve(room);
        let room = into.capacity() - into.len();
        loop {
            match rustix::io::read(&self.socket, spare_capacity(into)) {
                Ok(0) => return Received::Gone(None),
                Ok(n) => {
                    self.readable = n == room || self.end_announced;
                    return Received::Bytes;
                }
                Err(Errno::INTR) => {}
                Err(Errno::WOULDBLOCK) => {
                    self.readable = false;
                    return Received::Nothing;
                }
                Err(e) => return Received::Gone(Some(e.into())),
            }
        }
    }

    /// One write: sends from the front of `out` and takes away what was sent.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) -> io::Result<()> {
        if out.is_empty() || !self.writable {
            return Ok(());
        }
        loop {
            match self.socket.write(out) {
                Ok(n) => {
                    self.writable = n == out.len();
                    out.drain(..n);
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) if e.kind() == ErrorKind::WouldBlock => {
                    self.writable = false;
                    return Ok(());
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Ends our side; the peer gets what was written, then the end.
    pub(super) fn end(&self) -> io::Result<()> {
        self.socket.shutdown(std::net::Shutdown::Write)
    }
}

/// For listeners and connections alike. Nobody waits for small packets, and a peer that vanished is noticed.
pub(super) fn set_options(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    let probes = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE).with_retries(3);
    socket.set_tcp_keepalive(&probes)
}

/// A bound socket that does not listen yet.
pub(super) fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Takes over a port whose last connections are still in TIME_WAIT, not one that someone listens on.
    socket.set_reuse_address(true)?;
    if addr.is_ipv6() {
        socket.set_only_v6(addr.ip() != Ipv6Addr::UNSPECIFIED)?;
    }
    set_options(&SockRef::from(&socket))?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}
