//! Listening sockets: one per shard on one port, with the options that the connections inherit.
//!
//! Not here: accepting (the reactors), which addresses to listen on (`config`).
//! Invariants:
//! - all listeners of one call share one port, also when the kernel picked it;
//! - another process that listens on the port makes the call fail, although the sockets share the port among
//!   themselves (SO_REUSEPORT alone would let a second server in, unnoticed).

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

/// Where to listen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ListenAddr {
    /// All interfaces, IPv6 and IPv4; IPv4 alone where the host has no IPv6.
    Any { port: u16 },
    /// This address. The unspecified IPv6 address takes IPv4 callers too.
    One(SocketAddr),
}

/// Options of the listeners and of the connections that they accept.
#[derive(Clone, Debug)]
pub struct ListenOptions {
    /// Connections that may wait to be accepted, per listener.
    pub backlog: u32,
    /// TCP_NODELAY.
    pub nodelay: bool,
    /// SO_SNDBUF, bytes; 0 leaves it to the kernel.
    pub sndbuf_bytes: u32,
    /// SO_RCVBUF, bytes; 0 leaves it to the kernel.
    pub rcvbuf_bytes: u32,
    /// Probes a silent peer after this long, so that one that vanished without a word is noticed; `None`: never.
    pub keepalive: Option<Duration>,
}

impl Default for ListenOptions {
    fn default() -> ListenOptions {
        ListenOptions { backlog: 4096, nodelay: true, sndbuf_bytes: 0, rcvbuf_bytes: 0, keepalive: None }
    }
}

/// A listening socket that no reactor has yet.
#[derive(Debug)]
pub struct Listener(pub(super) Socket);

/// `shards` listeners (at least one) on one address, and that address with the port that was taken. The kernel
/// spreads callers over them. Errors are the kernel's: address in use, not of this host, not permitted.
pub fn listen(
    on: ListenAddr,
    shards: usize,
    options: &ListenOptions,
) -> io::Result<(Vec<Listener>, SocketAddr)> {
    listen_with(on, shards, options, false)
}

/// The same beside listeners of this process on the same port, which are closed once this has succeeded: whoever holds the
/// port already must be one of them.
pub fn listen_beside(
    on: ListenAddr,
    shards: usize,
    options: &ListenOptions,
) -> io::Result<(Vec<Listener>, SocketAddr)> {
    listen_with(on, shards, options, true)
}

fn listen_with(
    on: ListenAddr,
    shards: usize,
    options: &ListenOptions,
    beside: bool,
) -> io::Result<(Vec<Listener>, SocketAddr)> {
    let first = match on {
        ListenAddr::One(addr) => bind(addr, options, beside)?,
        ListenAddr::Any { port } => match bind((Ipv6Addr::UNSPECIFIED, port).into(), options, beside) {
            Err(e) if has_no_ipv6(&e) => bind((Ipv4Addr::UNSPECIFIED, port).into(), options, beside)?,
            other => other?,
        },
    };
    let addr = first.local_addr()?.as_socket().ok_or_else(|| io::Error::other("not an IP socket"))?;
    // Bound alone, so nobody else had the port; from here on it is open to those who ask to share it.
    first.set_reuse_port(true)?;
    let mut sockets = vec![first];
    for _ in 1..shards {
        sockets.push(bind(addr, options, true)?);
    }
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    for socket in &sockets {
        socket.listen(backlog)?;
    }
    Ok((sockets.into_iter().map(Listener).collect(), addr))
}

fn has_no_ipv6(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

/// A bound socket with all options set; Linux hands them down to accepted connections.
fn bind(addr: SocketAddr, options: &ListenOptions, share: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // Takes over a port whose last connections are still in TIME_WAIT, not one that someone listens on.
    socket.set_reuse_address(true)?;
    if share {
        socket.set_reuse_port(true)?;
    }
    if let IpAddr::V6(ip) = addr.ip() {
        socket.set_only_v6(!ip.is_unspecified())?;
    }
    // Before `listen`, since the window scale is settled in the handshake.
    if options.sndbuf_bytes > 0 {
        socket.set_send_buffer_size(options.sndbuf_bytes as usize)?;
    }
    if options.rcvbuf_bytes > 0 {
        socket.set_recv_buffer_size(options.rcvbuf_bytes as usize)?;
    }
    set_stream_options(&SockRef::from(&socket), options)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    Ok(socket)
}

fn set_stream_options(socket: &SockRef<'_>, options: &ListenOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(options.nodelay)?;
    if let Some(idle) = options.keepalive {
        // The kernel counts whole seconds, from one.
        let idle = idle.max(Duration::from_secs(1));
        let probes = TcpKeepalive::new().with_time(idle).with_interval(idle).with_retries(3);
        socket.set_tcp_keepalive(&probes)?;
    }
    Ok(())
}
