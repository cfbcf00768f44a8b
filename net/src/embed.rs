//! Servers inside a process, for tests and demonstrations: free ports, temporary directories, start, stop, kill.
//!
//! ```
//! let server = net::embed::Server::start(net::embed::Options::default())?;
//! assert!(server.client_port() > 0);
//! server.stop()?; // the directory is gone with it
//! # anyhow::Ok(())
//! ```
//! Not here: anything that a server started from the command line does not do as well.
//! Invariant: nothing global to the process is touched, so any number of servers live beside each other.

use crate::config::{Config, EnsembleConfig};
use crate::server;
use anyhow::{Context, Result, anyhow, bail};
use engine::ids::ServerId;
use engine::limits::Limits;
use engine::zab::members::Members;
use profiles::Profile;
use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How an embedded server is to be.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Where its data is kept. `None`: a temporary directory that goes with the server.
    pub data_dir: Option<PathBuf>,
    /// Port on the loopback interface; 0: any free one.
    pub client_port: u16,
    /// `None`: `balanced`.
    pub profile: Option<Profile>,
    /// `None`: those of a server without a zoo.cfg, with every four-letter word allowed and no limit of connections.
    pub limits: Option<Limits>,
    /// Its place in an ensemble; `None`: it serves alone.
    pub ensemble: Option<EnsembleConfig>,
}

/// A server in this process. Dropping it stops it.
pub struct Server {
    inner: server::Server,
    options: Options,
    data_dir: PathBuf,
    temporary: Option<TempDir>,
}

impl Server {
    /// Starts one. Returns when clients can connect.
    ///
    /// # Errors
    /// As [`server::Server::start`]; also when no temporary directory can be made.
    pub fn start(options: Options) -> Result<Server> {
        let temporary = match &options.data_dir {
            Some(_) => None,
            None => {
                let made = tempfile::Builder::new().prefix("serval-").tempdir();
                Some(made.context("cannot make a temporary data directory")?)
            }
        };
        let data_dir = match (&options.data_dir, &temporary) {
            (Some(dir), _) => dir.clone(),
            (None, Some(dir)) => dir.path().join("data"),
            (None, None) => unreachable!("one of the two was just made"),
        };
        Self::start_in(options, data_dir, temporary)
    }

    fn start_in(options: Options, data_dir: PathBuf, temporary: Option<TempDir>) -> Result<Server> {
        let profile = options.profile.clone().unwrap_or_default();
        let mut config = Config::embedded(&data_dir, &profile);
        config.client_addrs = vec![SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), options.client_port)];
        if let Some(limits) = &options.limits {
            config.limits = limits.clone();
        }
        config.ensemble = options.ensemble.clone();
        let inner = server::Server::start(config, &profile)?;
        Ok(Server { inner, options, data_dir, temporary })
    }

    /// The port that it listens on.
    pub fn client_port(&self) -> u16 {
        self.inner.client_addrs()[0].port()
    }
    /// The address that it listens on.
    pub fn client_addr(&self) -> SocketAddr {
        self.inner.client_addrs()[0]
    }
    /// Where its data is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Ends it in good order. Sessions live on in the directory, if that was given.
    ///
    /// # Errors
    /// Why it could not go on before, or could not close its log.
    pub fn stop(self) -> Result<()> {
        self.inner.stop()
    }

    /// Ends it as if the process were killed, and gives what [`Stopped::start`] needs to bring it back.
    pub fn kill(self) -> Stopped {
        let port = self.client_port();
        self.inner.kill();
        Stopped { port, options: self.options, data_dir: self.data_dir, temporary: self.temporary }
    }

    /// Stops it in good order and keeps directory and port for a later start.
    ///
    /// # Errors
    /// As [`Server::stop`].
    pub fn pause(self) -> Result<Stopped> {
        let port = self.client_port();
        self.inner.stop()?;
        Ok(Stopped { port, options: self.options, data_dir: self.data_dir, temporary: self.temporary })
    }
}

/// A server that does not run at present.
#[derive(Debug)]
pub struct Stopped {
    port: u16,
    options: Options,
    data_dir: PathBuf,
    temporary: Option<TempDir>,
}

impl Stopped {
    /// Starts it again on the same directory and port.
    ///
    /// # Errors
    /// As [`Server::start`].
    pub fn start(self) -> Result<Server> {
        let options = Options { client_port: self.port, ..self.options };
        Server::start_in(options, self.data_dir, self.temporary)
    }
    /// Where its data is.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }
}

/// An ensemble of servers in this process, on loopback.
///
/// ```
/// let cluster = net::embed::Cluster::start(3, &net::embed::Options::default())?;
/// let leader = cluster.wait_for_leader(std::time::Duration::from_secs(30))?;
/// assert!(leader < 3);
/// cluster.stop()?;
/// # anyhow::Ok(())
/// ```
pub struct Cluster {
    members: Vec<Member>,
    /// Of the members' peers; given back when all have ended.
    _ports: FreePorts,
}

enum Member {
    Running(Server),
    Stopped(Stopped),
}

impl Cluster {
    /// Starts `size` voters with ids from 1. Returns when clients can connect; a leader may not be there yet.
    ///
    /// # Errors
    /// As [`Server::start`]; also when there are no free ports.
    pub fn start(size: usize, options: &Options) -> Result<Cluster> {
        let ports = free_ports(2 * size)?;
        let list = ports
            .chunks(2)
            .enumerate()
            .map(|(i, p)| format!("server.{}=127.0.0.1:{}:{}:participant\n", i + 1, p[0], p[1]))
            .collect::<String>();
        let members = Members::parse(&list).map_err(|e| anyhow!(e)).context("the ensemble's own lines")?;
        let members = Arc::new(members);
        let mut cluster = Cluster { members: Vec::new(), _ports: ports };
        for i in 0..size {
            let ensemble = EnsembleConfig::local(ServerId(i as i64 + 1), members.clone());
            let options =
                Options { ensemble: Some(ensemble), data_dir: None, client_port: 0, ..options.clone() };
            cluster.members.push(Member::Running(Server::start(options)?));
        }
        Ok(cluster)
    }

    /// The server with index `i`, from 0; `None` while it is stopped.
    pub fn server(&self, i: usize) -> Option<&Server> {
        match &self.members[i] {
            Member::Running(s) => Some(s),
            Member::Stopped(_) => None,
        }
    }

    /// The index of the server that leads. Asks each with a four-letter word until one says so.
    ///
    /// # Errors
    /// None does within `patience`.
    pub fn wait_for_leader(&self, patience: Duration) -> Result<usize> {
        let began = Instant::now();
        loop {
            for (i, m) in self.members.iter().enumerate() {
                if let Member::Running(s) = m
                    && ask(s.client_addr(), "srvr").is_ok_and(|text| text.contains("Mode: leader"))
                {
                    return Ok(i);
                }
            }
            if began.elapsed() > patience {
                bail!("no server leads after {patience:?}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Ends one server as if its process were killed.
    pub fn kill(&mut self, i: usize) {
        self.replace(i, |m| match m {
            Member::Running(s) => Ok(Member::Stopped(s.kill())),
            stopped => Ok(stopped),
        })
        .expect("a kill cannot fail");
    }

    /// Starts a server again that was killed.
    ///
    /// # Errors
    /// As [`Server::start`]; the server is gone then.
    pub fn restart(&mut self, i: usize) -> Result<()> {
        self.replace(i, |m| match m {
            Member::Stopped(s) => Ok(Member::Running(s.start()?)),
            running => Ok(running),
        })
    }

    fn replace(&mut self, i: usize, with: impl FnOnce(Member) -> Result<Member>) -> Result<()> {
        let new = with(self.members.remove(i))?;
        self.members.insert(i, new);
        Ok(())
    }

    /// Ends all of them in good order.
    ///
    /// # Errors
    /// As [`Server::stop`], of the first that has one.
    pub fn stop(self) -> Result<()> {
        let mut first = Ok(());
        for m in self.members {
            if let Member::Running(s) = m {
                first = first.and(s.stop());
            }
        }
        first
    }
}

/// The answer to a four-letter word.
///
/// # Errors
/// It cannot be asked, or does not answer within five seconds.
pub fn ask(addr: SocketAddr, word: &str) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut s = std::net::TcpStream::connect(addr)?;
    s.set_read_timeout(Some(Duration::from_secs(5)))?;
    s.write_all(word.as_bytes())?;
    let mut text = String::new();
    s.read_to_string(&mut text)?;
    Ok(text)
}

/// Ports of the loopback address that are this process's as long as the value lives.
///
/// A UDP socket of the same number stands for each: nothing here speaks UDP, so the TCP port stays free for its server,
/// before that starts and while it is down; and the kernel takes the socket back however the process ends.
#[derive(Debug)]
pub struct FreePorts {
    numbers: Vec<u16>,
    _reserved: Vec<UdpSocket>,
}

impl std::ops::Deref for FreePorts {
    type Target = [u16];

    fn deref(&self) -> &[u16] {
        &self.numbers
    }
}

/// Draws until there are enough.
const DRAWS: usize = 10_000;

/// Ports on which nobody listens and that no other caller has, here or in another process; no two the same. They lie
/// outside the range of outgoing connections, as one of those could take a port whose server is not there.
///
/// # Errors
/// There are hardly any left.
pub fn free_ports(count: usize) -> Result<FreePorts> {
    let told = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let among = beside(&told);
    let drawn = RandomState::new();
    let (numbers, reserved): (Vec<u16>, Vec<UdpSocket>) = (0..DRAWS)
        .map(|n| among.start + (drawn.hash_one(n) % among.len() as u64) as u16)
        .filter_map(|port| {
            let reserved = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
            TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok().map(|_| (port, reserved))
        })
        .take(count)
        .unzip();
    anyhow::ensure!(
        numbers.len() == count,
        "no {count} free ports between {} and {}: end servers that are not needed",
        among.start,
        among.end
    );
    Ok(FreePorts { numbers, _reserved: reserved })
}

/// The larger part of the usual ports that is not for outgoing connections, of which the kernel tells the first and the
/// last. Where it leaves no such part: the usual one.
fn beside(told: &str) -> std::ops::Range<u16> {
    let mut told = told.split_whitespace().filter_map(|n| n.parse::<u16>().ok());
    let (first, last) = (told.next().unwrap_or(32_768), told.next().unwrap_or(60_999));
    let (below, above) = (10_000..first, last.saturating_add(1)..65_000);
    let larger = if below.len() >= above.len() { below } else { above };
    if larger.len() >= 1_000 { larger } else { 10_000..32_768 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn ports_are_given_to_one_caller_at_a_time() {
        // So many that some would be drawn twice.
        let all: Vec<FreePorts> = std::thread::scope(|s| {
            let drawing: Vec<_> =
                (0..10).map(|_| s.spawn(|| (0..20).map(|_| free_ports(4).unwrap()).collect())).collect();
            let drawn: Vec<Vec<FreePorts>> = drawing.into_iter().map(|d| d.join().unwrap()).collect();
            drawn.into_iter().flatten().collect()
        });
        let numbers: BTreeSet<u16> = all.iter().flat_map(|p| p.iter().copied()).collect();
        assert_eq!(numbers.len(), 800);
        // And they are free.
        for ports in &all {
            TcpListener::bind((Ipv4Addr::LOCALHOST, ports[0])).unwrap();
        }
    }

    #[test]
    fn ports_lie_beside_those_of_outgoing_connections() {
        assert_eq!(beside("32768\t60999\n"), 10_000..32_768);
        assert_eq!(beside("15000 40000"), 40_001..65_000);
        assert_eq!(beside("1024\t65535\n"), 10_000..32_768, "there is nothing beside them");
        assert_eq!(beside(""), 10_000..32_768);
    }
}
