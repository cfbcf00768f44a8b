//! A load generator for anything that speaks ZooKeeper.
//!
//! Lives here: workloads, closed- and open-loop drivers, the recording of latencies, reports, servers on this machine for
//! the length of a command. Modules depend upward only: `workload` < `client` < `record` < `drive` < `run` <
//! `ensemble` < `timeline` and the other commands; `report` uses `record`; all of them know the flags of `cli`, which
//! calls the commands.
//! Not here: what a server does with a request (of `engine` only ids and proto are used).
//! Invariants: an open loop's latency counts from the planned moment; errors and missing replies are counted and are
//! in no latency; a run in which the generator itself was late is marked invalid.

pub mod cli;
pub mod client;
pub mod compare;
pub mod demo;
pub mod drive;
pub mod echo;
pub mod ensemble;
pub mod fanout;
pub mod hold;
pub mod record;
pub mod report;
pub mod run;
pub mod system;
pub mod timeline;
pub mod workload;
