//! The reactor that a profile asks for.
//!
//! Not here: the reactors themselves.
//!
//! `auto` takes mio. Measured on 2026-11-21 (Linux 6.18, 2 virtual CPUs, echo over loopback with the client beside it,
//! CPU time of the server's thread per request, best of three, mio against io_uring): 8 connections x 1 outstanding
//! 5.4 and 5.5 us; 50 x 1 5.3 and 5.2 us; 50 x 100 of 40 bytes 0.09 and 0.08 us; 50 x 100 with 1,100-byte replies 0.26
//! and 0.23 us; with 1,100-byte requests 0.19 and 0.19 us. Runs of one reactor differ by more than that. The kernel's TCP
//! path outweighs the system calls that are saved; where that is not so, a profile says `io_uring`.

use super::{
    Close, Event, Incoming, Listener, ListenerId, MioReactor, Reactor, Received, SignalId, Token,
    UringReactor,
};
use crate::ring::Wake;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

/// One of the reactors, chosen when the server starts.
pub enum AnyReactor {
    Mio(Box<MioReactor>),
    Uring(Box<UringReactor>),
}

impl AnyReactor {
    /// The reactor of a profile. `io_uring` fails where the kernel or a sandbox forbids it; `auto` and `mio` run
    /// everywhere.
    pub fn open(kind: profiles::Reactor) -> io::Result<AnyReactor> {
        match kind {
            profiles::Reactor::Auto | profiles::Reactor::Mio => {
                Ok(AnyReactor::Mio(Box::new(MioReactor::new()?)))
            }
            profiles::Reactor::IoUring => match UringReactor::new() {
                Ok(reactor) => Ok(AnyReactor::Uring(Box::new(reactor))),
                Err(e) => Err(io::Error::new(
                    e.kind(),
                    format!(
                        "io_uring cannot be used here ({e}); it needs Linux 6.1, kernel.io_uring_disabled=0 and a \
                         sandbox that allows it. Choose reactor = \"auto\" or \"mio\""
                    ),
                )),
            },
        }
    }

    /// Its name, as a profile spells it.
    pub fn name(&self) -> &'static str {
        match self {
            AnyReactor::Mio(_) => "mio",
            AnyReactor::Uring(_) => "io_uring",
        }
    }
}

/// Calls the same method of whichever it is.
macro_rules! whichever {
    ($self:ident.$method:ident($($arg:expr),*)) => {
        match $self {
            AnyReactor::Mio(reactor) => reactor.$method($($arg),*),
            AnyReactor::Uring(reactor) => reactor.$method($($arg),*),
        }
    };
}

impl Reactor for AnyReactor {
    fn add_listener(&mut self, listener: Listener) -> io::Result<ListenerId> {
        whichever!(self.add_listener(listener))
    }
    fn close_listener(&mut self, id: ListenerId) {
        whichever!(self.close_listener(id))
    }
    fn add_signal(&mut self, fd: BorrowedFd<'_>) -> io::Result<SignalId> {
        whichever!(self.add_signal(fd))
    }
    fn waker(&self) -> Arc<dyn Wake> {
        whichever!(self.waker())
    }
    fn poll(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        whichever!(self.poll(timeout, events))
    }
    fn accept(&mut self, from: ListenerId) -> Option<Incoming> {
        whichever!(self.accept(from))
    }
    fn add(&mut self, token: Token, incoming: Incoming) -> io::Result<()> {
        whichever!(self.add(token, incoming))
    }
    fn read(&mut self, token: Token, into: &mut [u8]) -> io::Result<Received> {
        whichever!(self.read(token, into))
    }
    fn write(&mut self, token: Token, bytes: &[u8]) -> io::Result<usize> {
        whichever!(self.write(token, bytes))
    }
    fn set_read_interest(&mut self, token: Token, on: bool) {
        whichever!(self.set_read_interest(token, on))
    }
    fn set_write_interest(&mut self, token: Token, on: bool) {
        whichever!(self.set_write_interest(token, on))
    }
    fn close(&mut self, token: Token, how: Close) {
        whichever!(self.close(token, how))
    }
}
