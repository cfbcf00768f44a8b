//! Host names to addresses, without waiting for a resolver.
//!
//! A numeric address is known at once. A name is looked up by a thread of its own, one per name at a time, so one that
//! no resolver answers for delays nobody else. What was found is kept for a while, because a new leader's address is
//! asked for at the worst moment.
//!
//! Not here: which of the addresses answers (`attempt`).
//! Invariant: bounded: threads at work and names remembered.

use crate::ring::Wake;
use engine::time::MonoMs;
use std::collections::BTreeMap;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};

/// How long an answer is used, ms.
const FRESH_MS: u64 = 30_000;
/// How long a failure is believed, ms.
const FAILED_MS: u64 = 500;
/// Names looked up at once.
const LOOKUPS_MAX: usize = 64;
/// Names remembered.
const NAMES_MAX: usize = 1024;

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// At least one.
    Addresses(Vec<IpAddr>),
    /// A thread is at it.
    NotYet,
    /// Why there is none.
    Failed(String),
}

type Answer = Result<Vec<IpAddr>, String>;

enum Entry {
    Asked,
    Answered { answer: Answer, at: MonoMs },
}

/// The names that were asked for.
pub(super) struct Names {
    entries: BTreeMap<String, Entry>,
    lookups: usize,
    sender: mpsc::Sender<(String, Answer)>,
    answers: mpsc::Receiver<(String, Answer)>,
    /// An answer waits. Shared with the threads.
    waiting: Arc<AtomicBool>,
    wake: Arc<dyn Wake>,
}

impl Names {
    /// `wake` is called when an answer has come.
    pub(super) fn new(wake: Arc<dyn Wake>) -> Names {
        let (sender, answers) = mpsc::channel();
        let waiting = Arc::new(AtomicBool::new(false));
        Names { entries: BTreeMap::new(), lookups: 0, sender, answers, waiting, wake }
    }

    /// The addresses of `host`, from what is known now; a lookup is started if nothing is.
    pub(super) fn ask(&mut self, host: &str, now: MonoMs) -> Known {
        if let Ok(ip) = host.parse() {
            return Known::Addresses(vec![ip]);
        }
        match self.entries.get(host) {
            Some(Entry::Asked) => return Known::NotYet,
            Some(Entry::Answered { answer: Ok(found), at }) if now.since(*at) < FRESH_MS => {
                return Known::Addresses(found.clone());
            }
            Some(Entry::Answered { answer: Err(why), at }) if now.since(*at) < FAILED_MS => {
                return Known::Failed(why.clone());
            }
            _ => {}
        }
        self.look_up(host)
    }

    /// Forgets what was found: nobody answered there.
    pub(super) fn forget(&mut self, host: &str) {
        if matches!(self.entries.get(host), Some(Entry::Answered { .. })) {
            self.entries.remove(host);
        }
    }

    fn look_up(&mut self, host: &str) -> Known {
        if self.lookups >= LOOKUPS_MAX {
            return Known::Failed("too many names are being looked up at once".into());
        }
        if self.entries.len() >= NAMES_MAX {
            self.entries.retain(|_, e| matches!(e, Entry::Asked));
        }
        let (name, sender) = (host.to_owned(), self.sender.clone());
        let (waiting, wake) = (self.waiting.clone(), self.wake.clone());
        let thread = std::thread::Builder::new().name("resolver".into()).spawn(move || {
            let answer = resolve(&name);
            // Nobody takes it when the server has ended meanwhile.
            if sender.send((name, answer)).is_ok() {
                waiting.store(true, Ordering::Release);
                wake.wake();
            }
        });
        if let Err(e) = thread {
            return Known::Failed(format!("no thread to look it up: {e}"));
        }
        self.lookups += 1;
        self.entries.insert(host.to_owned(), Entry::Asked);
        Known::NotYet
    }

    /// Takes what the threads found. Says whether it was anything.
    pub(super) fn poll(&mut self, now: MonoMs) -> bool {
        if !self.waiting.swap(false, Ordering::Acquire) {
            return false;
        }
        let mut any = false;
        while let Ok((name, answer)) = self.answers.try_recv() {
            self.lookups -= 1;
            self.entries.insert(name, Entry::Answered { answer, at: now });
            any = true;
        }
        any
    }

    /// Whether [`Names::poll`] has something to take.
    pub(super) fn has_answers(&self) -> bool {
        self.waiting.load(Ordering::Acquire)
    }
}

/// Waits for the resolver. IPv4 first: Java servers listen on the IPv4 address of a name that has both.
pub(super) fn resolve(host: &str) -> Answer {
    if let Ok(ip) = host.parse() {
        return Ok(vec![ip]);
    }
    let found = (host, 0).to_socket_addrs().map_err(|e| e.to_string())?;
    let mut ips: Vec<IpAddr> = Vec::new();
    for ip in found.map(|a| a.ip()) {
        if !ips.contains(&ip) {
            ips.push(ip);
        }
    }
    ips.sort_by_key(IpAddr::is_ipv6);
    if ips.is_empty() { Err("the name has no address".into()) } else { Ok(ips) }
}
