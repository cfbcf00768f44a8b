//! `serval serve`: from arguments to a running server, and to its end.
//!
//! Not here: what the server does (`server`), what configuration means (`config`).
//! Invariants: nothing is started before the whole configuration is known to be good; the addresses are printed only
//! when clients can connect to them.

use super::{EXIT_CONFIG, EXIT_FAILED, EXIT_OK, EXIT_START, ServeArgs, process, say};
use crate::config::{self, Config, Loaded, Sources};
use crate::migrate;
use crate::server::Server;
use crate::words::VERSION;
use std::error::Error;
use std::net::SocketAddr;
use std::path::Path;

/// Runs a server until a signal or a failure ends it.
pub fn serve(args: &ServeArgs) -> u8 {
    process::start_log(args.log_level, args.log_format);
    process::abort_on_panic();
    let from = Sources {
        file: args.config.clone(),
        profile: args.profile.clone(),
        data_dir: args.data_dir.clone(),
        client_port: args.client_port,
    };
    let Loaded { config, profile, warnings } = match config::load(&from) {
        Ok(loaded) => loaded,
        Err(e) => return refuse(&e, EXIT_CONFIG),
    };
    tracing::info!("serval {VERSION}");
    warnings.iter().for_each(|w| tracing::warn!("{w}"));
    warn_of_java_options();
    let forbidden = std::env::var_os(migrate::FORBID).is_some_and(|v| !v.is_empty());
    match migrate::before_serving(&config, forbidden) {
        Ok(None) => {}
        Ok(Some(imported)) => tracing::info!("{}", imported.line()),
        Err(e) => return refuse(&*e, EXIT_START),
    }
    if let Err(e) = config.prepare_dirs() {
        return refuse(&e, EXIT_START);
    }
    match process::raise_open_files() {
        Ok(limit) => {
            tracing::debug!("open files: {}", limit.map_or("unlimited".to_owned(), |n| n.to_string()))
        }
        Err(e) => tracing::warn!("the limit of open files stays as it is: {e}"),
    }
    let data_dir = config.data_dir.clone();
    let configured = config.origin.is_some();
    log_configuration(&config);
    let server = match Server::start(config, &profile) {
        Ok(server) => server,
        Err(e) => {
            tracing::error!("not started: {}", in_words(e.chain()));
            return EXIT_START;
        }
    };
    let greeting = greeting(&server.client_addrs(), &data_dir, configured);
    run(server, &greeting)
}

/// The error as one line of the log, which is on standard error.
fn refuse(e: &(dyn Error + 'static), code: u8) -> u8 {
    tracing::error!("not started: {}", in_words(anyhow::Chain::new(e)));
    code
}

/// An error and its causes, without those that it has named itself.
fn in_words<'a>(causes: impl Iterator<Item = &'a (dyn Error + 'static)>) -> String {
    causes.map(ToString::to_string).fold(String::new(), |said, cause| match said.contains(&cause) {
        true => said,
        false if said.is_empty() => cause,
        false => said + ": " + &cause,
    })
}

/// Half of a ZooKeeper's configuration may stand in the options of its JVM (some keys, such as jute.maxbuffer, can stand
/// nowhere else), which nobody reads here.
fn java_options(value: &str) -> Vec<&str> {
    let of_zookeeper = |key: &&str| key.starts_with("zookeeper.") || key.starts_with("jute.");
    let keys = value.split_whitespace().filter_map(|w| w.strip_prefix("-D"));
    keys.map(|w| w.split_once('=').map_or(w, |(key, _)| key)).filter(of_zookeeper).collect()
}

fn warn_of_java_options() {
    for name in ["SERVER_JVMFLAGS", "JVMFLAGS", "JAVA_OPTS", "KAFKA_OPTS", "JAVA_TOOL_OPTIONS"] {
        let value = std::env::var(name).unwrap_or_default();
        let keys = java_options(&value);
        if !keys.is_empty() {
            tracing::warn!(
                "{name} is not read, and sets {}: write it into zoo.cfg, without `zookeeper.` in front",
                keys.join(", ")
            );
        }
    }
}

/// Until the end; says why on the way out. The greeting comes when signals end it in good order: who reads it may send
/// one at once. (Before that they end it as any kill does, which loses nothing either.)
fn run(server: Server, greeting: &str) -> u8 {
    let stop = server.stopper();
    let armed = process::on_end_signal(move || {
        tracing::info!("asked to end; sessions live on in the data directory");
        stop();
    });
    let ended = match armed {
        Ok(()) => {
            say(greeting);
            server.wait()
        }
        Err(e) => {
            tracing::error!("no handler for SIGTERM and SIGINT: {e}");
            let _ended_before_it_served = server.stop();
            return EXIT_START;
        }
    };
    match ended {
        Ok(()) => {
            tracing::info!("ended");
            EXIT_OK
        }
        Err(e) => {
            tracing::error!("ended: {e:#}");
            EXIT_FAILED
        }
    }
}

fn log_configuration(c: &Config) {
    let l = &c.limits;
    tracing::info!(
        data_dir = %c.data_dir.display(),
        data_log_dir = %c.data_log_dir.display(),
        tick_ms = l.tick_ms,
        session_timeout_ms = %format_args!("{}..={}", l.min_session_timeout_ms, l.max_session_timeout_ms),
        max_client_connections = l.max_client_connections,
        jute_max_buffer = l.jute_max_buffer,
        "configuration"
    );
    if c.purge.is_none() {
        tracing::warn!(
            "autopurge.purgeInterval is not set: old snapshots and log are kept until the disk is full; zkCleanup.sh does \
             not know these files"
        );
    }
    if l.skip_acl {
        tracing::warn!("skipACL=yes: every client may read and change everything");
    }
}

/// What a person at a terminal, or a script that started us with port 0, wants to know first.
fn greeting(addrs: &[SocketAddr], data_dir: &Path, configured: bool) -> String {
    let all: Vec<_> = addrs.iter().map(ToString::to_string).collect();
    let mut text = format!("serval: serving ZooKeeper clients on {}\n", all.join(" "));
    if !configured {
        let at = addrs.first().map(ToString::to_string).unwrap_or_default();
        text += &format!(
            "serval: no zoo.cfg was given, so this is a standalone server on loopback only, data in {}\n\
             serval: try it with: serval status {at}\n",
            data_dir.display()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let io = || std::io::Error::from_raw_os_error(13);
        let named = config::ConfigError::Unreadable { path: "zoo.cfg".into(), source: io() };
        let words = in_words(anyhow::Chain::new(&named));
        assert_eq!(words, format!("zoo.cfg: {}", io()));
        let outer = anyhow::Error::from(io()).context("no log");
        assert_eq!(in_words(outer.chain()), format!("no log: {}", io()));
    }

    #[test]
    fn java_options_that_matter_are_found() {
        let all = "-Xmx1g -Dzookeeper.ssl.ciphersuites=x -Djute.maxbuffer=4194304 -Dother=zookeeper. -Dzookeeper.skipACL";
        assert_eq!(java_options(all), ["zookeeper.ssl.ciphersuites", "jute.maxbuffer", "zookeeper.skipACL"]);
        assert!(java_options("").is_empty());
    }

    #[test]
    fn an_unconfigured_server_says_so_and_shows_a_command() {
        let text = greeting(&["127.0.0.1:2181".parse().unwrap()], Path::new("./serval-data"), false);
        assert_eq!(
            text,
            "serval: serving ZooKeeper clients on 127.0.0.1:2181\n\
             serval: no zoo.cfg was given, so this is a standalone server on loopback only, data in ./serval-data\n\
             serval: try it with: serval status 127.0.0.1:2181\n"
        );
        let text = greeting(&["0.0.0.0:1".parse().unwrap(), "[::]:1".parse().unwrap()], Path::new("d"), true);
        assert_eq!(text, "serval: serving ZooKeeper clients on 0.0.0.0:1 [::]:1\n");
    }
}
