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

use crate::config::Config;
use crate::server;
use anyhow::{Context, Result};
use engine::limits::Limits;
use profiles::Profile;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
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
