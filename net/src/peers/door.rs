//! The listening sockets of one port of ours: bound at once, open only when told so.
//!
//! A door that is bound and not open answers callers as if nobody were there, so a learner that comes too early tries
//! again a moment later; one that were accepted and dropped would go back to the election.
//!
//! Not here: what callers say (`election`, `links`).
//! Invariant: a port that cannot be bound or opened later (after a reconfiguration) is tried again and again, and
//! everything else goes on meanwhile.

use super::Tools;
use super::gripes::About;
use super::names::{Known, resolve};
use super::stream::{Edge, Epoll, Token, bind};
use engine::time::MonoMs;
use socket2::Socket;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// After a failure to bind, to listen or to accept, ms.
const RETRY_MS: u64 = 250;
/// Connections accepted per call.
const ACCEPTS_PER_POLL: usize = 64;

struct Listener {
    socket: Socket,
    token: Token,
    /// Somebody may wait to be accepted.
    ready: bool,
}

/// See the module.
pub(super) struct Door {
    /// For log lines: which port of ours it is.
    name: &'static str,
    /// Host and port of each of our addresses; no host: all interfaces.
    places: Vec<(Option<String>, u16)>,
    listeners: Vec<Listener>,
    open: bool,
    /// When to bind, open or accept again what failed.
    retry_at: Option<MonoMs>,
}

impl Door {
    /// Binds all places. Waits for the resolver if our own address is a name.
    ///
    /// # Errors
    /// Address in use, not of this host, or unknown; the text says which and what to do.
    pub(super) fn new(
        name: &'static str,
        places: Vec<(Option<String>, u16)>,
        epoll: &mut Epoll,
    ) -> io::Result<Door> {
        let mut door = Door { name, places, listeners: Vec::new(), open: false, retry_at: None };
        for (host, port) in door.places.clone() {
            let ips = match &host {
                None => Vec::new(),
                Some(h) => resolve(h).map_err(|why| {
                    io::Error::other(format!(
                        "{h}, this server's own address in its server.N line, does not resolve: {why}; correct it, \
                         or set quorumListenOnAllIPs=true"
                    ))
                })?,
            };
            door.bind_place(host.as_deref(), port, &ips, epoll)?;
        }
        // What is in use by a listener shows only when one listens oneself.
        door.set_open(true).and_then(|()| door.set_open(false))?;
        Ok(door)
    }

    /// Other places from now on, bound as soon as their names are known and they are free.
    pub(super) fn move_to(&mut self, places: Vec<(Option<String>, u16)>) {
        if self.places != places {
            self.places = places;
            self.listeners.clear();
            self.retry_at = Some(MonoMs(0));
        }
    }

    /// Lets callers in, or not.
    pub(super) fn listen(&mut self, on: bool, tools: &mut Tools) {
        if self.open == on {
            return;
        }
        if let Err(e) = self.set_open(on) {
            tools.gripes.warn(About::Us, tools.now, &e.to_string());
            self.retry_at = Some(tools.now.plus(RETRY_MS));
        }
    }

    fn set_open(&mut self, on: bool) -> io::Result<()> {
        self.open = on;
        for l in &mut self.listeners {
            if on {
                let result = l.socket.listen(BACKLOG);
                result.map_err(|e| cannot("listen on", self.name, local(&l.socket), &e))?;
                l.ready = true;
            } else if let Err(e) = l.socket.shutdown(Shutdown::Read)
                && e.kind() != ErrorKind::NotConnected
            {
                // Leaves the state of listening and stays bound; who waited to be accepted is reset.
                return Err(cannot("stop listening on", self.name, local(&l.socket), &e));
            }
        }
        Ok(())
    }

    fn bind_place(
        &mut self,
        host: Option<&str>,
        port: u16,
        ips: &[IpAddr],
        epoll: &mut Epoll,
    ) -> io::Result<()> {
        let addrs: Vec<SocketAddr> = match host {
            Some(_) => ips.iter().map(|ip| SocketAddr::new(*ip, port)).collect(),
            None => vec![SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)],
        };
        let mut bound = 0;
        let mut refused = None;
        for addr in addrs {
            let result = match bind(addr) {
                Err(e) if host.is_none() && no_such_address(&e) => {
                    bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port))
                }
                other => other,
            };
            match result {
                Ok(socket) => {
                    let token = epoll.next_token();
                    epoll.watch(&socket, token)?;
                    self.listeners.push(Listener { socket, token, ready: false });
                    bound += 1;
                }
                Err(e) => {
                    let error = cannot("bind", self.name, addr, &e);
                    if !no_such_address(&e) {
                        return Err(error);
                    }
                    refused = Some(error);
                }
            }
        }
        // A name may have addresses of which this host has only some.
        match refused {
            Some(e) if bound == 0 => Err(e),
            _ => Ok(()),
        }
    }

    /// Notes an edge of one of its listeners. `false`: it is none of them.
    pub(super) fn note(&mut self, edge: &Edge) -> bool {
        match self.listeners.iter_mut().find(|l| l.token == edge.token) {
            Some(l) => {
                l.ready = true;
                true
            }
            None => false,
        }
    }

    /// Binds and opens again what failed before, and appends who came.
    pub(super) fn poll(&mut self, tools: &mut Tools, came: &mut Vec<(Socket, SocketAddr)>) {
        let now = tools.now;
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if let Err(e) = self.reopen(tools) {
                tools.gripes.warn(About::Us, now, &e.to_string());
                self.retry_at = Some(now.plus(RETRY_MS));
            }
        }
        if !self.open || self.retry_at.is_some() {
            return;
        }
        let mut left = ACCEPTS_PER_POLL;
        for l in self.listeners.iter_mut().filter(|l| l.ready) {
            while left > 0 {
                left -= 1;
                match l.socket.accept() {
                    Ok((socket, from)) => came.extend(from.as_socket().map(|from| (socket, from))),
                    Err(e) if e.kind() == ErrorKind::WouldBlock => {
                        l.ready = false;
                        break;
                    }
                    // It broke while it waited.
                    Err(e) if matches!(e.kind(), ErrorKind::ConnectionAborted | ErrorKind::Interrupted) => {}
                    Err(e) => {
                        // No descriptor or memory to spare: later.
                        let line = format!("cannot accept connections on the {}: {e}", self.name);
                        tools.gripes.warn(About::Us, now, &line);
                        self.retry_at = Some(now.plus(RETRY_MS));
                        return;
                    }
                }
            }
        }
    }

    fn reopen(&mut self, tools: &mut Tools) -> io::Result<()> {
        if self.listeners.is_empty() {
            let mut found = Vec::new();
            for (host, port) in &self.places {
                let ips = match host.as_deref().map(|h| tools.names.ask(h, tools.now)) {
                    None => Vec::new(),
                    Some(Known::Addresses(ips)) => ips,
                    Some(Known::NotYet) => {
                        self.retry_at = Some(tools.now.plus(RETRY_MS));
                        return Ok(());
                    }
                    Some(Known::Failed(why)) => return Err(io::Error::other(why)),
                };
                found.push((host.clone(), *port, ips));
            }
            for (host, port, ips) in found {
                if let Err(e) = self.bind_place(host.as_deref(), port, &ips, &mut tools.epoll) {
                    self.listeners.clear();
                    return Err(e);
                }
            }
            tracing::info!("the {} is bound anew: {:?}", self.name, self.addresses());
        }
        if self.open { self.set_open(true) } else { Ok(()) }
    }

    /// Where it is bound.
    pub(super) fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|l| local(&l.socket)).collect()
    }

    /// When [`Door::poll`] has to be called without an edge.
    pub(super) fn next_deadline(&self) -> MonoMs {
        if self.retry_at.is_none() && self.open && self.listeners.iter().any(|l| l.ready) {
            return MonoMs(0);
        }
        self.retry_at.unwrap_or(MonoMs(u64::MAX))
    }
}

fn local(socket: &Socket) -> SocketAddr {
    let addr = socket.local_addr().ok().and_then(|a| a.as_socket());
    addr.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0))
}

fn no_such_address(e: &io::Error) -> bool {
    matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL | libc::EPROTONOSUPPORT))
}

fn cannot(what: &str, name: &str, addr: SocketAddr, e: &io::Error) -> io::Error {
    let hint = match e.kind() {
        ErrorKind::AddrInUse => "; another process listens there: end it, or correct the server.N line",
        ErrorKind::AddrNotAvailable => {
            "; it is not an address of this host: correct the server.N line, or set quorumListenOnAllIPs=true"
        }
        _ => "",
    };
    io::Error::new(e.kind(), format!("cannot {what} {addr} for the {name}: {e}{hint}"))
}
