//! Where clients come in: the address that is bound at start, and the one that a reconfiguration gives instead.
//!
//! Not here: accepting (`shard`), the sockets (`reactor::listen`), when the members change (`engine::zab`).
//! Invariants:
//! - the new address listens before the old one is closed; one that cannot be bound changes nothing;
//! - connections that stand are left alone;
//! - one thread at a time resolves and binds, and the core does not wait for it; what is wanted last is bound last.

use super::shared::Shared;
use crate::config::{Config, client_addresses};
use crate::reactor::{ListenAddr, ListenOptions, Listener, listen, listen_beside};
use crate::ring::Wake;
use anyhow::{Context, Result};
use crossbeam::channel::{Receiver, TryRecvError, bounded};
use profiles::Profile;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Host and port, as a line of the members has them.
type Place = (String, u16);
/// Listeners of every address, by shard.
type ByShard = Vec<Vec<Listener>>;

/// See the module.
pub struct Entrance {
    options: ListenOptions,
    shards: usize,
    shared: Arc<Shared>,
    wake: Arc<dyn Wake>,
    /// What is bound, as it was asked for.
    bound: Vec<SocketAddr>,
    /// What the members said last, and whether it is still to be looked at.
    said: Option<Place>,
    due: bool,
    binding: Option<Receiver<Vec<SocketAddr>>>,
}

/// Options of the listeners.
fn options(profile: &Profile) -> ListenOptions {
    ListenOptions {
        backlog: profile.backlog,
        nodelay: profile.nodelay,
        sndbuf_bytes: profile.sndbuf_bytes,
        rcvbuf_bytes: profile.rcvbuf_bytes,
        keepalive: Some(Duration::from_secs(60)),
    }
}

/// Listeners of every address of the configuration, by shard, and the addresses with the ports that were taken.
///
/// # Errors
/// One of them cannot be bound.
pub fn open(config: &Config, profile: &Profile, shards: usize) -> Result<(ByShard, Vec<SocketAddr>)> {
    bind(&config.client_addrs, &options(profile), shards, &[])
}

impl Entrance {
    pub fn new(
        config: &Config,
        profile: &Profile,
        shards: usize,
        shared: Arc<Shared>,
        wake: Arc<dyn Wake>,
    ) -> Entrance {
        let own = config.ensemble.as_ref().and_then(|e| e.members.get(e.me)?.client.clone());
        Entrance {
            options: options(profile),
            shards,
            shared,
            wake,
            bound: config.client_addrs.clone(),
            said: own,
            due: false,
            binding: None,
        }
    }

    /// The members say that clients connect here.
    pub fn want(&mut self, place: &Place) {
        if self.said.as_ref() != Some(place) {
            self.said = Some(place.clone());
            self.due = true;
        }
    }

    /// Binds what is due, if nothing is being bound.
    pub fn step(&mut self) {
        match self.binding.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return,
            Some(Ok(bound)) => self.bound = bound,
            Some(Err(TryRecvError::Disconnected)) | None => {}
        }
        self.binding = None;
        let Some(place) = self.said.clone().filter(|_| std::mem::take(&mut self.due)) else { return };
        let (tell, done) = bounded(1);
        let (options, shards, bound) = (self.options.clone(), self.shards, self.bound.clone());
        let (shared, wake) = (self.shared.clone(), self.wake.clone());
        let spawned = std::thread::Builder::new().name("client-port".into()).spawn(move || {
            let _server_ended = tell.send(move_to(&place, bound, &options, shards, &shared));
            wake.wake();
        });
        match spawned {
            Ok(_) => self.binding = Some(done),
            Err(e) => tracing::error!("the client address cannot be moved ({e}); it is at the next start"),
        }
    }
}

/// Binds the place and hands it to the shards. Gives what is bound from here on.
fn move_to(
    place: &Place,
    bound: Vec<SocketAddr>,
    options: &ListenOptions,
    shards: usize,
    shared: &Shared,
) -> Vec<SocketAddr> {
    let (host, port) = place;
    let wanted = match client_addresses(host, *port) {
        Ok(wanted) if wanted == bound => return bound,
        Ok(wanted) => wanted,
        Err(why) => {
            tracing::error!(
                "the reconfiguration gives this server the client address {host}:{port}, but {why}; clients go on connecting \
                 to {}. Reconfigure it with a host that is one, or make the name resolve and restart this server",
                list(&bound)
            );
            return bound;
        }
    };
    match bind(&wanted, options, shards, &bound) {
        Ok((listeners, addrs)) => {
            tracing::info!(
                "clients connect to {} from here on, no longer to {}; connections that stand go on",
                list(&addrs),
                list(&bound)
            );
            shared.open_doors(listeners, addrs);
            wanted
        }
        Err(e) => {
            tracing::error!(
                "the reconfiguration gives this server another client address, but it cannot be had: {e:#}; clients go on \
                 connecting to {}. Free that address and restart this server, or reconfigure it with another",
                list(&bound)
            );
            bound
        }
    }
}

fn list(addrs: &[SocketAddr]) -> String {
    addrs.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ")
}

/// `ours` are bound by this server already, and may hold a part of what is wanted.
fn bind(
    wanted: &[SocketAddr],
    options: &ListenOptions,
    shards: usize,
    ours: &[SocketAddr],
) -> Result<(ByShard, Vec<SocketAddr>)> {
    let mut by_shard: ByShard = (0..shards).map(|_| Vec::new()).collect();
    let mut addrs = Vec::new();
    for on in listen_on(wanted) {
        let port = match on {
            ListenAddr::Any { port } => port,
            ListenAddr::One(addr) => addr.port(),
        };
        let taken = |e: &io::Error| e.kind() == io::ErrorKind::AddrInUse;
        let bound = match listen(on, shards, options) {
            Err(e) if taken(&e) && ours.iter().any(|a| a.port() == port) => {
                listen_beside(on, shards, options)
            }
            other => other,
        };
        let (listeners, addr) =
            bound.with_context(|| format!("cannot listen for clients on {}", describe(on)))?;
        addrs.push(addr);
        for (shard, l) in by_shard.iter_mut().zip(listeners) {
            shard.push(l);
        }
    }
    Ok((by_shard, addrs))
}

/// Both wildcards together are one dual-stack listener.
fn listen_on(addrs: &[SocketAddr]) -> Vec<ListenAddr> {
    if let [first, second] = addrs
        && first.ip().is_unspecified()
        && second.ip().is_unspecified()
    {
        return vec![ListenAddr::Any { port: first.port() }];
    }
    addrs.iter().map(|a| ListenAddr::One(*a)).collect()
}

fn describe(on: ListenAddr) -> String {
    match on {
        ListenAddr::Any { port } => format!("port {port} of all interfaces (is another server running?)"),
        ListenAddr::One(addr) => format!("{addr} (is another server running?)"),
    }
}
