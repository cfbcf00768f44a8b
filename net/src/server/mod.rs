//! A running server: its threads, how they are started, stopped and killed.
//!
//! Lives here: the loops that drive `engine::server` and `engine::shard`, the way to the log, recovery, snapshots,
//! the desk that answers four-letter words. Not here: sockets (`reactor`), rings (`ring`), configuration (`config`).
//!
//! Threads: one per shard; the core on one of its own or with shard 0; the log's keeper, and its writer where the
//! kernel cannot be asked to write without waiting; one for each snapshot while it is taken.

mod core;
mod desk;
mod ensemble;
mod entrance;
mod errands;
mod journal;
mod membership;
mod ports;
mod run;
mod sending;
mod shard;
mod shared;
mod snapshots;
mod storage;
mod tickets;

use self::core::{Core, Peer};
use crate::clock::Clock;
use crate::config::Config;
use crate::reactor::{AnyReactor, Listener, Reactor};
use crate::ring::{self, Bell};
use anyhow::{Context, Result, bail};
use desk::{Desk, StartFigures};
use engine::ids::ShardId;
use engine::msg::ChangeBatch;
use engine::server::Server as Engine;
use engine::shard::{Admission, Shard};
use engine::watch::InterestFilter;
use engine::zab::Reach;
use entrance::Entrance;
use errands::Errands;
use journal::Journal;
use membership::Membership;
use ports::Ports;
use profiles::{Placement, Profile};
use run::Loop;
use shard::{Link, ShardLoop};
use shared::{Gate, Shared};
use snapshots::Snapshots;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use wal::{Position, SmallFile};

/// The server id that a lone server puts into session ids (fact sheet 3.2).
const LONE_SERVER_ID: u8 = 1;

/// The small file that holds both epochs, in text: "accepted current".
const EPOCHS_FILE: &str = "epochs";

/// The newest transactions that a member keeps in memory, so that a peer that lacks no more gets only those.
const WINDOW_ENTRIES: usize = 1 << 18;
const WINDOW_BYTES: usize = 64 << 20;

/// A running server. Dropping it stops it.
pub struct Server {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

/// How threads are laid out.
#[derive(Clone, Copy, Debug)]
struct Layout {
    shards: usize,
    core_with_shard: bool,
    pin: bool,
}

impl Layout {
    fn of(profile: &Profile) -> Layout {
        let cpus = std::thread::available_parallelism().map_or(1, |n| n.get());
        let shards = if profile.shards > 0 { profile.shards as usize } else { (cpus - 1).max(1) };
        let core_with_shard = match profile.core_thread {
            Placement::Auto => cpus <= 2,
            Placement::Own => false,
            Placement::WithShard => true,
        };
        Layout { shards, core_with_shard, pin: profile.pin_threads }
    }
}

impl Server {
    /// Recovers the data directory and serves. Returns when clients can connect.
    ///
    /// # Errors
    /// Whatever keeps it from starting, in words that say what to do: an address in use, a directory that is locked,
    /// damaged, of another version or ZooKeeper's own, no rights, no room.
    pub fn start(mut config: Config, profile: &Profile) -> Result<Server> {
        let began = Instant::now();
        config.prepare_dirs()?;
        config.take_embedded_members();
        let layout = Layout::of(profile);
        let clock = Clock::new();
        // The port first: "address in use" should not cost a recovery.
        let (listeners, addrs) = entrance::open(&config, profile, layout.shards)?;
        let reach = reach_of(&config);
        let recovered = storage::recover(&config, profile, layout.shards, reach)?;
        let shared = Arc::new(Shared::new(config.fsync_warning_ms, layout.shards, addrs));
        let start = StartFigures { total_ms: began.elapsed().as_millis() as u64, ..recovered.figures };
        let parts = Parts { config: Arc::new(config), profile, layout, clock, shared: shared.clone() };
        let threads = parts.build(recovered, listeners, start)?;
        Ok(Server { shared, threads })
    }

    /// Where clients connect at present, with the ports that were taken.
    pub fn client_addrs(&self) -> Vec<SocketAddr> {
        self.shared.client_addrs()
    }

    /// Waits until the server ends, by [`Server::stopper`] or because it cannot go on.
    ///
    /// # Errors
    /// Why it could not go on.
    pub fn wait(mut self) -> Result<()> {
        self.shared.wait();
        self.join()
    }

    /// Something that asks it to end in good order, for a signal handler.
    pub fn stopper(&self) -> impl Fn() + Send + Sync + 'static {
        let shared = self.shared.clone();
        move || shared.stop()
    }

    /// Ends it in good order: what was accepted is synced, sessions live on.
    ///
    /// # Errors
    /// Why it ended before, or why the log could not be closed.
    pub fn stop(mut self) -> Result<()> {
        self.shared.stop();
        self.join()
    }

    /// Ends it as if the process were killed: nothing more is written, nobody is told. For tests.
    pub fn kill(mut self) {
        self.shared.kill();
        let _whatever = self.join();
    }

    fn join(&mut self) -> Result<()> {
        let mut panicked = false;
        for t in self.threads.drain(..) {
            panicked |= t.join().is_err();
        }
        if let Some(why) = self.shared.failure() {
            bail!("{why}");
        }
        if panicked {
            bail!("a thread panicked; see the log above, and report it");
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop();
        let _told_by_stop = self.join();
    }
}

/// How much of its history a server keeps in memory for others.
fn reach_of(config: &Config) -> Reach {
    match &config.ensemble {
        Some(_) => Reach { entries: WINDOW_ENTRIES, bytes: WINDOW_BYTES },
        None => Reach { entries: 0, bytes: 0 },
    }
}

/// What every thread is built from.
struct Parts<'a> {
    config: Arc<Config>,
    profile: &'a Profile,
    layout: Layout,
    clock: Clock,
    shared: Arc<Shared>,
}

impl Parts<'_> {
    fn build(
        &self,
        recovered: storage::Recovered,
        listeners: Vec<Vec<Listener>>,
        start: StartFigures,
    ) -> Result<Vec<JoinHandle<()>>> {
        let shards = self.layout.shards;
        let now = self.clock.now();
        let mut limits = self.config.limits.clone();
        // A single slow reader must never fill a shard's share.
        limits.shard_out_limit_bytes =
            (limits.shard_out_limit_bytes / shards).max(limits.conn_hard_limit_bytes.saturating_mul(4));
        let limits = Arc::new(limits);
        let gate: Arc<dyn Admission> = Arc::new(Gate::new(&limits));
        let h = recovered.db.last();
        let (publisher, subscribers) =
            ring::changes::<ChangeBatch>(self.profile.change_ring_entries as usize, shards);
        let core_reactor =
            if self.layout.core_with_shard { None } else { Some(AnyReactor::open(self.profile.reactor)?) };
        let mut seats = Vec::new();
        let (mut peers, mut bells) = (Vec::new(), Vec::new());
        for (number, (listeners, changes)) in listeners.into_iter().zip(subscribers).enumerate() {
            let mut reactor = AnyReactor::open(self.profile.reactor)?;
            let mut open = Vec::new();
            for l in listeners {
                open.push(reactor.add_listener(l)?);
            }
            let (sleeper, bell) = ring::sleeper(reactor.waker());
            let (producer, inbox) = ring::requests(self.profile.request_ring_entries as usize);
            let filter = Arc::new(InterestFilter::default());
            let reader = recovered.tree.reader().context("the tree has no reader left for a shard")?;
            let id = ShardId(number as u16);
            let shard = Shard::new(id, limits.clone(), gate.clone(), reader, filter.clone(), h, 0);
            let shard = ShardLoop {
                shard,
                link: Link { ring: producer, bell: None, pushed: false },
                changes,
                scratch: vec![0; self.profile.recv_buffer_bytes as usize].into_boxed_slice(),
                clock: self.clock,
                shared: self.shared.clone(),
                stats: self.shared.cell(number),
                door: self.shared.door(number),
                listeners: open,
                tenants: Vec::new(),
            };
            peers.push(Peer { inbox, filter });
            bells.push(bell);
            seats.push((reactor, sleeper, shard));
        }
        let mut core_home = match core_reactor {
            Some(reactor) => {
                let (sleeper, bell) = ring::sleeper(reactor.waker());
                Some((reactor, sleeper, bell))
            }
            None => None,
        };
        let wake = core_home.as_ref().map_or_else(|| seats[0].0.waker(), |(r, _, _)| r.waker());
        let epochs = SmallFile::new(&recovered.data, EPOCHS_FILE);
        let journal = Journal::new(recovered.log, epochs, self.profile, wake.clone())?;
        if let Some(fd) = journal.completion_fd() {
            let home = core_home.as_mut().map_or_else(|| &mut seats[0].0, |(r, _, _)| r);
            home.add_signal(fd)?;
        }
        let members = match &self.config.ensemble {
            Some(e) => {
                let peers = ensemble::open_peers(e, &limits, wake.clone())?;
                let home = core_home.as_mut().map_or_else(|| &mut seats[0].0, |(r, _, _)| r);
                home.add_signal(peers.fd())?;
                Some(peers)
            }
            None => None,
        };
        let mut ports = Ports::new(journal, members);
        let logged = ports.journal.reader().durable() > Position(0);
        let is_empty = || ensemble::is_empty(&self.config, recovered.db.last(), recovered.epochs, logged);
        let engine = match &self.config.ensemble {
            Some(e) => {
                let empty = is_empty();
                if empty {
                    ensemble::say_empty(&self.config);
                }
                let settings = ensemble::settings(e, &limits, (empty, self.config.create_db));
                let (epochs, window, confirmed) = (recovered.epochs, recovered.window, recovered.confirmed);
                let reached = (settings, e.members.clone(), epochs, window, confirmed);
                let mut engine = Engine::member(limits, recovered.db, reached, shards, now);
                engine.start(now, &mut ports);
                engine
            }
            None => {
                // Who may begin anyway is not asked: the file `initialize` is for those who may not.
                ensemble::must_not_begin(&self.config, !self.config.create_db && is_empty())?;
                Engine::new(limits, recovered.db, LONE_SERVER_ID, shards, now)
            }
        };
        let entrance = Entrance::new(&self.config, self.profile, shards, self.shared.clone(), wake.clone());
        let membership = Membership::new(&self.config, entrance, wake.clone());
        let errands = Errands::new(
            self.config.clone(),
            recovered.data.clone(),
            (shards, reach_of(&self.config)),
            membership,
            wake,
        );
        let snapshots =
            Snapshots::new(recovered.data, self.profile, &self.config, recovered.snapshot_at, now);
        let core_bell: Option<Bell> = core_home.as_ref().map(|(_, _, bell)| bell.clone());
        let first_bell = bells[0].clone();
        let core = Core {
            server: engine,
            ports,
            errands,
            peer_events: Vec::new(),
            desk: Desk::new(self.config.clone(), shards, now, start),
            snapshots,
            shared: self.shared.clone(),
            clock: self.clock,
            peers,
            bells,
            publisher,
            spare: Vec::new(),
            hashes: Vec::new(),
            vouched_at: now.mono,
            garbage: false,
        };
        self.launch(seats, core, core_home.map(|(r, s, _)| (r, s)), core_bell.unwrap_or(first_bell))
    }

    /// Starts the threads. A shard that shares its thread with the core rings nobody.
    fn launch(
        &self,
        seats: Vec<(AnyReactor, ring::Sleeper, ShardLoop)>,
        core: Core,
        core_home: Option<(AnyReactor, ring::Sleeper)>,
        core_bell: Bell,
    ) -> Result<Vec<JoinHandle<()>>> {
        let mut core = Some(core);
        let mut threads = Vec::new();
        if let Some((reactor, sleeper)) = core_home {
            let l = self.looping(reactor, sleeper, None, core.take());
            self.spawn("core".into(), 0, l, &mut threads)?;
        }
        for (number, (reactor, sleeper, mut shard)) in seats.into_iter().enumerate() {
            let core_here = if number == 0 { core.take() } else { None };
            if core_here.is_none() {
                shard.link.bell = Some(core_bell.clone());
            }
            let l = self.looping(reactor, sleeper, Some(shard), core_here);
            self.spawn(format!("shard-{number}"), number + 1, l, &mut threads)?;
        }
        Ok(threads)
    }

    fn looping(
        &self,
        reactor: AnyReactor,
        sleeper: ring::Sleeper,
        shard: Option<ShardLoop>,
        core: Option<Core>,
    ) -> Loop<AnyReactor> {
        self.shared.add_waker(reactor.waker());
        Loop {
            reactor,
            sleeper,
            shard,
            core,
            clock: self.clock,
            shared: self.shared.clone(),
            busy_poll: Duration::from_micros(self.profile.busy_poll_us.into()),
            report_every: Duration::from_millis(u64::from(self.config.limits.tick_ms / 4).max(1)),
        }
    }

    /// `place`: which of the usable CPUs it is bound to, where the profile asks for that.
    /// Where there is no thread to be had, those that run already are ended.
    fn spawn(
        &self,
        name: String,
        place: usize,
        l: Loop<AnyReactor>,
        threads: &mut Vec<JoinHandle<()>>,
    ) -> Result<()> {
        let pin = self.layout.pin;
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            if pin && let Err(e) = crate::system::pin_this_thread(place) {
                tracing::warn!("{name} cannot be bound to a CPU: {e}");
            }
            let guard = OnPanic(shared, name);
            l.run();
            std::mem::drop(guard);
        });
        match thread {
            Ok(t) => threads.push(t),
            Err(e) => {
                self.shared.stop();
                for t in threads.drain(..) {
                    let _ended = t.join();
                }
                return Err(e).context("cannot start a thread");
            }
        }
        Ok(())
    }
}

/// Ends the server when its thread panics: the others cannot go on without it.
struct OnPanic(Arc<Shared>, String);

impl Drop for OnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail(format!("the thread {} panicked: the server ends; please report this", self.1));
        }
    }
}
