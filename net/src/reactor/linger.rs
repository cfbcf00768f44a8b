//! Connections that are closed for the caller and still have to deliver their last bytes.
//!
//! Closing a socket that holds unread input makes the kernel send RST, and a peer that gets one may lose replies that
//! it has not read. So a connection ends with FIN first, and what the peer still sends is read and thrown away, until
//! it ends too.
//!
//! Not here: the connections that the caller knows of (`mio_reactor`).
//! Invariant: everything here is bounded: connections, bytes thrown away for one of them, and the time it may take.

use mio::net::TcpStream;
use mio::{Registry, Token};
use std::collections::VecDeque;
use std::io::{self, Read};
use std::net::Shutdown;
use std::time::{Duration, Instant};

/// Connections that linger at once; one more closes the oldest.
const CONNECTIONS_MAX: usize = 1024;
/// Deadlines remembered at once, those of connections that have ended already among them.
const DEADLINES_MAX: usize = 16 * CONNECTIONS_MAX;
/// Bytes thrown away before we stop listening to someone who does not stop talking.
const BYTES_MAX: usize = 4 << 20;
/// How long a peer has to end its side.
const TIME_MAX: Duration = Duration::from_secs(2);
/// Bytes thrown away per turn and connection.
const TURN_BYTES_MAX: usize = 256 << 10;

struct Lingerer {
    stream: TcpStream,
    bytes_left: usize,
    /// Stopped by the turn's limit: go on next turn.
    pending: bool,
}

/// The closed connections that linger.
#[derive(Default)]
pub(super) struct Lingering {
    slots: Vec<Option<Lingerer>>,
    free: Vec<usize>,
    /// Oldest first; slots are not handed out again before their entry here is gone.
    deadlines: VecDeque<(Instant, usize)>,
    /// Slots that are taken.
    open: usize,
    /// Slots with bytes to throw away.
    pending: Vec<usize>,
}

enum Drained {
    Ended,
    Quiet,
    MoreLeft,
}

impl Lingering {
    /// Ends our side of `stream` (registered with `registry`) and keeps it until the peer ends, too. `token` makes
    /// the registration's token from a slot number.
    pub(super) fn add(
        &mut self,
        mut stream: TcpStream,
        registry: &Registry,
        scratch: &mut [u8],
        token: fn(usize) -> Token,
    ) {
        if stream.shutdown(Shutdown::Write).is_err() {
            return; // already broken
        }
        let mut bytes_left = BYTES_MAX;
        let drained = drain(&stream, &mut bytes_left, scratch);
        if matches!(drained, Drained::Ended) {
            return;
        }
        while self.open >= CONNECTIONS_MAX || self.deadlines.len() >= DEADLINES_MAX {
            self.drop_oldest();
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        let pending = matches!(drained, Drained::MoreLeft);
        // Registering anew reports what is there already, so nothing that came in since the drain is missed.
        if registry.reregister(&mut stream, token(slot), mio::Interest::READABLE).is_err() {
            self.free.push(slot);
            return;
        }
        if pending {
            self.pending.push(slot);
        }
        self.slots[slot] = Some(Lingerer { stream, bytes_left, pending });
        self.open += 1;
        self.deadlines.push_back((Instant::now() + TIME_MAX, slot));
    }

    /// Something arrived for a slot.
    pub(super) fn ready(&mut self, slot: usize) {
        if let Some(Some(l)) = self.slots.get_mut(slot)
            && !l.pending
        {
            l.pending = true;
            self.pending.push(slot);
        }
    }

    /// Throws away what arrived, and closes who has ended or had its time. Reads no clock while nobody lingers.
    pub(super) fn turn(&mut self, scratch: &mut [u8]) {
        if self.deadlines.is_empty() {
            return;
        }
        for slot in std::mem::take(&mut self.pending) {
            let Some(l) = &mut self.slots[slot] else { continue };
            l.pending = false;
            match drain(&l.stream, &mut l.bytes_left, scratch) {
                Drained::Ended => self.end(slot),
                Drained::Quiet => {}
                Drained::MoreLeft => {
                    l.pending = true;
                    self.pending.push(slot);
                }
            }
        }
        let now = Instant::now();
        while let Some(&(deadline, slot)) = self.deadlines.front()
            && (deadline <= now || self.slots[slot].is_none())
        {
            self.drop_oldest();
        }
    }

    /// How long the reactor may wait: not at all while bytes are left over, not past the next deadline.
    pub(super) fn wait_at_most(&self) -> Option<Duration> {
        if !self.pending.is_empty() {
            return Some(Duration::ZERO);
        }
        self.deadlines.front().map(|(deadline, _)| deadline.saturating_duration_since(Instant::now()))
    }

    /// Closes a slot's connection. The number is free when its deadline's entry goes.
    fn end(&mut self, slot: usize) {
        if self.slots[slot].take().is_some() {
            self.open -= 1;
        }
    }

    fn drop_oldest(&mut self) {
        if let Some((_, slot)) = self.deadlines.pop_front() {
            self.end(slot);
            self.pending.retain(|p| *p != slot);
            self.free.push(slot);
        }
    }
}

fn drain(mut stream: &TcpStream, bytes_left: &mut usize, scratch: &mut [u8]) -> Drained {
    let mut turn_left = TURN_BYTES_MAX;
    loop {
        match stream.read(scratch) {
            Ok(0) => return Drained::Ended,
            Ok(n) => {
                *bytes_left = bytes_left.saturating_sub(n);
                turn_left = turn_left.saturating_sub(n);
                if *bytes_left == 0 {
                    return Drained::Ended;
                }
                if turn_left == 0 {
                    return Drained::MoreLeft;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Drained::Quiet,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return Drained::Ended,
        }
    }
}
