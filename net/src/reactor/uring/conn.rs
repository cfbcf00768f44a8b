//! One connection of the io_uring reactor: what is in flight for it, what has arrived, how far its end has come.
//!
//! Not here: submitting and completing (`super`).
//! Invariant: `ops` counts the operations in flight; the connection lives until it is zero.

use super::buffers::Held;
use crate::reactor::Token;
use mio::net::TcpStream;
use std::io;
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Instant;

/// Where the next bytes come from.
pub(super) enum Input {
    /// Nothing is known to wait and no receive is in flight.
    Idle,
    /// A receive is in flight.
    Armed,
    /// In a shared buffer.
    Held(Held),
    /// Copied out of a shared buffer, from this index on.
    Aside(Vec<u8>, usize),
    /// Straight from the socket, where something may wait.
    Direct,
    /// The peer sends no more; the caller has not heard of it.
    End,
    /// Nor will there be any more to tell.
    Ended,
}

/// How far the end of a connection has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Closing {
    /// The caller has it.
    No,
    /// Its last bytes are on their way to the socket.
    Flush,
    /// Our side has ended; the peer's bytes are thrown away until it ends, too.
    Linger,
    /// Shut down; waits for its operations to complete.
    Dead,
}

pub(super) struct Conn {
    pub(super) stream: TcpStream,
    /// `None` once the caller closed it.
    pub(super) token: Option<Token>,
    pub(super) input: Input,
    /// The number of the error that broke it. Stays.
    pub(super) error: Option<i32>,
    pub(super) wants_read: bool,
    pub(super) wants_write: bool,
    /// The bytes of the send in flight.
    pub(super) sending: Vec<u8>,
    pub(super) sent_upto: usize,
    pub(super) send_in_flight: bool,
    /// The socket is full; a watch for room is in flight.
    pub(super) blocked: bool,
    pub(super) ops: u32,
    pub(super) closing: Closing,
    pub(super) linger_bytes_left: usize,
    /// When it must have ended; set exactly while it is in `Flush` or `Linger`.
    pub(super) deadline: Option<Instant>,
}

impl Conn {
    pub(super) fn new(stream: TcpStream, token: Token) -> Conn {
        Conn {
            stream,
            token: Some(token),
            input: Input::Idle,
            error: None,
            wants_read: true,
            wants_write: false,
            sending: Vec::new(),
            sent_upto: 0,
            send_in_flight: false,
            blocked: false,
            ops: 0,
            closing: Closing::No,
            linger_bytes_left: 0,
            deadline: None,
        }
    }

    pub(super) fn fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }

    /// Whether the next bytes should be received: the caller wants them, or they must be thrown away.
    pub(super) fn wants_input(&self) -> bool {
        match self.closing {
            Closing::No => self.wants_read,
            Closing::Flush | Closing::Linger => true,
            Closing::Dead => false,
        }
    }

    pub(super) fn can_read(&self) -> bool {
        let something = self.error.is_some()
            || matches!(self.input, Input::Held(_) | Input::Aside(..) | Input::Direct | Input::End);
        something && self.wants_read
    }

    pub(super) fn can_write(&self) -> bool {
        (self.error.is_some() || !(self.send_in_flight || self.blocked)) && self.wants_write
    }

    pub(super) fn can_go_on(&self) -> bool {
        self.token.is_some() && (self.can_read() || self.can_write())
    }

    /// Notes what broke it; the first cause stays.
    pub(super) fn fail(&mut self, e: &io::Error) {
        self.error.get_or_insert(e.raw_os_error().unwrap_or(libc::EIO));
    }

    /// What the socket says broke it.
    pub(super) fn socket_error(&self) -> io::Error {
        match self.stream.take_error() {
            Ok(Some(e)) | Err(e) => e,
            Ok(None) => io::Error::from_raw_os_error(libc::ECONNRESET),
        }
    }

    /// Ends our side. A peer that is gone already is as good.
    pub(super) fn shut_writing(&mut self) {
        if let Err(e) = self.stream.shutdown(Shutdown::Write) {
            self.fail(&e);
        }
    }

    /// Nothing more is to be delivered: all that is left is to wait for the operations in flight.
    pub(super) fn die(&mut self) {
        self.closing = Closing::Dead;
        self.deadline = None;
        self.shut_both();
    }

    /// Ends both sides, which also completes every operation in flight.
    pub(super) fn shut_both(&mut self) {
        // It is broken already if this fails, and then they complete by themselves.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}
