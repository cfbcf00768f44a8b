//! Threads, sockets and clocks: what drives `engine` and `wal` into a server, and the command line around it.
//!
//! - [`config`]: zoo.cfg, profile and flags into one typed value; [`cli`]: the binary; [`embed`]: servers inside a
//!   process, for tests;
//! - [`migrate`]: import from ZooKeeper's files and export into them;
//! - [`peers`]: the sockets between members of an ensemble;
//! - [`server`]: the threads' loops, recovery, snapshots, shutdown; [`words`]: what four-letter words print;
//! - [`reactor`]: sockets of one thread; [`ring`]: how threads hand things over and sleep; [`clock`], [`system`]: the
//!   time, and kernel calls that no library makes.
//!
//! Not here: what a request means (`engine`), what bytes on disk mean (`wal`).
//! Invariant: outside of `cli` nothing is global to the process, so several servers can live in one.

pub mod cli;
pub mod clock;
pub mod config;
pub mod embed;
pub mod migrate;
pub mod peers;
pub mod reactor;
pub mod ring;
pub mod server;
pub mod system;
pub mod words;
