//! One try to connect to a member: its addresses in turn, each for a limited time.
//!
//! Not here: what is sent once connected, and when to try again (`election`, `links`).
//! Invariant: nothing here waits; a name that is not resolved in time is passed over like an address that is silent.

use super::Tools;
use super::names::Known;
use super::stream::{Edge, Stream, Token};
use engine::time::MonoMs;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// The shortest time that one address is given while others wait behind it, ms.
const SHARE_MIN_MS: u64 = 250;

/// A host, by name or number, and a port.
pub(super) type Target = (String, u16);

enum Step {
    NextTarget,
    Resolving { target: Target, until: MonoMs },
    NextAddress { host: String, left: VecDeque<SocketAddr> },
    Connecting { host: String, left: VecDeque<SocketAddr>, stream: Stream, until: MonoMs },
}

/// See the module.
pub(super) struct Attempt {
    token: Token,
    step: Step,
    targets: VecDeque<Target>,
    /// For one address or name, ms.
    patience_ms: u64,
    last_error: String,
}

/// How it stands.
pub(super) enum Progress {
    Waiting,
    Connected(Stream),
    /// Nobody answered: the last reason, with the address.
    Failed(String),
}

impl Attempt {
    /// `token` is given to each of its sockets in turn. `timeout_ms` is shared by the targets.
    pub(super) fn new(token: Token, targets: Vec<Target>, timeout_ms: u64) -> Attempt {
        let share = timeout_ms / targets.len().max(1) as u64;
        Attempt {
            token,
            step: Step::NextTarget,
            targets: targets.into(),
            patience_ms: share.max(SHARE_MIN_MS).min(timeout_ms),
            last_error: "no address of it is known".into(),
        }
    }

    pub(super) fn token(&self) -> Token {
        self.token
    }

    pub(super) fn note(&mut self, edge: &Edge) {
        if let Step::Connecting { stream, .. } = &mut self.step {
            stream.note(edge);
        }
    }

    /// Goes as far as it can go now. After `Connected` or `Failed` it is spent.
    pub(super) fn drive(&mut self, tools: &mut Tools) -> Progress {
        let now = tools.now;
        loop {
            self.step = match std::mem::replace(&mut self.step, Step::NextTarget) {
                Step::NextTarget => match self.targets.pop_front() {
                    Some(target) => Step::Resolving { target, until: now.plus(self.patience_ms) },
                    None => return Progress::Failed(std::mem::take(&mut self.last_error)),
                },
                Step::Resolving { target: (host, port), until } => match tools.names.ask(&host, now) {
                    Known::Addresses(ips) => {
                        let left = ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect();
                        Step::NextAddress { host, left }
                    }
                    Known::NotYet if now < until => {
                        self.step = Step::Resolving { target: (host, port), until };
                        return Progress::Waiting;
                    }
                    Known::NotYet => self.failed(format!("{host}: the name is not resolved in time")),
                    Known::Failed(why) => self.failed(format!("{host}: the name does not resolve: {why}")),
                },
                Step::NextAddress { host, mut left } => match left.pop_front() {
                    None => {
                        // Nobody answered there: next time the name may mean another place.
                        tools.names.forget(&host);
                        Step::NextTarget
                    }
                    Some(to) => match Stream::connect(to, &tools.epoll, self.token) {
                        Ok(stream) => {
                            Step::Connecting { host, left, stream, until: now.plus(self.patience_ms) }
                        }
                        Err(e) => {
                            self.last_error = format!("{to}: {e}");
                            Step::NextAddress { host, left }
                        }
                    },
                },
                Step::Connecting { host, left, stream, until } => {
                    self.last_error = match stream.connected() {
                        Some(Ok(())) => return Progress::Connected(stream),
                        Some(Err(e)) => format!("{}: {e}", stream.peer),
                        None if now >= until => format!("{}: no answer", stream.peer),
                        None => {
                            self.step = Step::Connecting { host, left, stream, until };
                            return Progress::Waiting;
                        }
                    };
                    Step::NextAddress { host, left }
                }
            }
        }
    }

    fn failed(&mut self, why: String) -> Step {
        self.last_error = why;
        Step::NextTarget
    }

    /// When [`Attempt::drive`] has to be called even without an edge or an answer about a name.
    pub(super) fn next_deadline(&self) -> MonoMs {
        match &self.step {
            Step::Resolving { until, .. } | Step::Connecting { until, .. } => *until,
            Step::NextTarget | Step::NextAddress { .. } => MonoMs(0),
        }
    }
}
