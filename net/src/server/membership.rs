//! What follows when the members change: whom the sockets know, where clients come in, and the files that say it after a
//! restart.
//!
//! Not here: when they change (`engine::zab`), the files' form (`config::dynamic`), binding (`entrance`).
//! Invariants:
//! - files are written by one thread at a time, the newest state last, and the core does not wait for it;
//! - files that cannot be written stop nothing: after a restart the log and the other members know better.

use super::ensemble;
use super::entrance::Entrance;
use super::ports::Ports;
use crate::config::{Config, DynamicFiles};
use crate::ring::Wake;
use crossbeam::channel::{Receiver, TryRecvError, bounded};
use engine::ids::ServerId;
use engine::server::Server;
use engine::zab::members::Members;
use std::sync::Arc;

/// The members that count, and those of the reconfiguration under way.
type Pair = (Arc<Members>, Option<Arc<Members>>);

/// See the module.
pub struct Membership {
    me: ServerId,
    files: DynamicFiles,
    entrance: Entrance,
    wake: Arc<dyn Wake>,
    /// Not written yet.
    wanted: Option<Pair>,
    /// The version in the files.
    written: u64,
    writing: Option<Receiver<u64>>,
}

impl Membership {
    pub fn new(config: &Config, entrance: Entrance, wake: Arc<dyn Wake>) -> Membership {
        let ensemble = config.ensemble.as_ref();
        Membership {
            me: ensemble.map_or(ServerId(0), |e| e.me),
            files: config.dynamic_files(),
            entrance,
            wake,
            wanted: None,
            written: ensemble.map_or(0, |e| e.members.version),
            writing: None,
        }
    }

    /// Takes over what has changed.
    pub fn step(&mut self, server: &mut Server, ports: &mut Ports) {
        if let Some((members, next)) = server.take_members() {
            match &next {
                Some(n) => tracing::info!("the members of version {:x} are under way", n.version),
                None => tracing::info!("the members are those of version {:x}", members.version),
            }
            if let Some(peers) = &mut ports.peers {
                peers.set_members(ensemble::lines(&members, next.as_deref()));
            }
            if let Some(place) = members.get(self.me).and_then(|m| m.client.as_ref()) {
                self.entrance.want(place);
            }
            self.wanted = Some((members, next));
        }
        self.entrance.step();
        self.write();
    }

    fn write(&mut self) {
        match self.writing.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return,
            Some(Ok(version)) => self.written = version,
            Some(Err(TryRecvError::Disconnected)) | None => {}
        }
        self.writing = None;
        let Some(pair) = self.wanted.take() else { return };
        let (tell, done) = bounded(1);
        let (me, files, wake, written) = (self.me, self.files.clone(), self.wake.clone(), self.written);
        let spawned = std::thread::Builder::new().name("members".into()).spawn(move || {
            let _server_ended = tell.send(write(&files, &pair, me, written));
            wake.wake();
        });
        match spawned {
            Ok(_) => self.writing = Some(done),
            Err(e) => tracing::warn!("the files with the members cannot be written: {e}"),
        }
    }
}

/// Returns the version that the files have now.
fn write(files: &DynamicFiles, (members, next): &Pair, me: ServerId, written: u64) -> u64 {
    let mut version = written;
    if members.version > written {
        match files.activate(members, me) {
            Ok(path) => {
                tracing::info!("version {:x} of the members is in {}", members.version, path.display());
                version = members.version;
            }
            Err(e) => tracing::warn!(
                "version {:x} of the members is in no file, so this server starts with an older one: {e:#}",
                members.version
            ),
        }
    }
    let done = match next {
        Some(next) => files.seen(next),
        None => files.nothing_seen(),
    };
    if let Err(e) = done {
        tracing::warn!("the reconfiguration under way is in no file: {e:#}");
    }
    version
}
