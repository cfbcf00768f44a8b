//! The bare echo: a server that parses frames and answers with frames of the right size, with nothing behind them.
//!
//! It is the limit of the socket path, and the target by which the generator measures its own cost. It keeps no
//! node: every read finds a node of the configured size, every write succeeds.
//! Not here: anything that a ZooKeeper server has to know.

use anyhow::Context;
use engine::error::Code;
use engine::ids::{SessionId, Zxid};
use engine::proto::{
    ConnectRequest, ConnectResponse, Decoder, Encode, Op, PathVersion, ReplyHeader, RequestHeader, Stat,
    put_frame,
};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};
use std::io::{ErrorKind, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Bytes that one read takes at most.
const SCRATCH_BYTES: usize = 256 << 10;
/// Unsent bytes beyond which a connection is not read.
const UNSENT_BYTES_MAX: usize = 4 << 20;
/// The longest request, as ZooKeeper's default has it.
const REQUEST_BYTES_MAX: usize = 0xf_ffff;
/// Names that getChildren finds.
const CHILDREN: usize = 10;
const LISTENER: Token = Token(usize::MAX);
/// How often the stop flag is looked at.
const STOP_WAIT: Duration = Duration::from_millis(100);

/// Replies with the xid still to be filled in, at its place behind the length word.
struct Replies {
    data: Vec<u8>,
    stat: Vec<u8>,
    children: Vec<u8>,
    children2: Vec<u8>,
    bare: Vec<u8>,
}

impl Replies {
    fn new(value_size: usize) -> Replies {
        let stat = Stat { data_length: value_size as i32, czxid: Zxid(1), ..Stat::default() };
        let reply = |body: &dyn Fn(&mut Vec<u8>)| {
            let mut out = Vec::new();
            put_frame(&mut out, |out| {
                ReplyHeader { xid: 0, zxid: 1, err: Code::OK }.encode(out);
                body(out);
            });
            out
        };
        let names = |out: &mut Vec<u8>| {
            out.put_len(CHILDREN);
            (0..CHILDREN).for_each(|i| out.put_string(&format!("d{i:012}")));
        };
        Replies {
            data: reply(&|out| {
                out.put_buffer(Some(&vec![b'x'; value_size]));
                stat.encode(out);
            }),
            stat: reply(&|out| stat.encode(out)),
            children: reply(&names),
            children2: reply(&|out| {
                names(out);
                stat.encode(out);
            }),
            bare: reply(&|_| ()),
        }
    }

    /// Appends the reply to a request; `false` when the connection ends with it.
    fn answer(&self, frame: &[u8], out: &mut Vec<u8>) -> anyhow::Result<bool> {
        let mut d = Decoder::new(frame);
        let header = RequestHeader::decode(&mut d)?;
        let op = Op::from_wire(header.op).context("an unknown operation")?;
        let template = match op {
            Op::GetData => &self.data,
            Op::Exists | Op::SetData | Op::SetAcl => &self.stat,
            Op::GetChildren => &self.children,
            Op::GetChildren2 => &self.children2,
            Op::Create | Op::Sync => {
                let path = d.string_not_null()?;
                put_frame(out, |out| {
                    ReplyHeader { xid: header.xid, zxid: 1, err: Code::OK }.encode(out);
                    out.put_string(&path);
                });
                return Ok(true);
            }
            Op::Delete => {
                PathVersion::decode(&mut d)?;
                &self.bare
            }
            _ => &self.bare,
        };
        let at = out.len() + 4;
        out.extend_from_slice(template);
        out[at..at + 4].copy_from_slice(&header.xid.to_be_bytes());
        Ok(op != Op::CloseSession)
    }
}

struct Connection {
    stream: TcpStream,
    /// The session is set up.
    open: bool,
    /// The beginning of a frame whose end has not arrived.
    rest: Vec<u8>,
    out: Vec<u8>,
    written: usize,
    /// closeSession was asked for: what is unsent goes out, then it is dropped.
    ends: bool,
}

impl Connection {
    fn unsent(&self) -> usize {
        self.out.len() - self.written
    }

    /// Answers the whole frames in `bytes`; returns how many bytes they took.
    fn answer(&mut self, bytes: &[u8], replies: &Replies) -> anyhow::Result<usize> {
        let mut at = 0;
        while let Some((length, rest)) = bytes[at..].split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let n = usize::try_from(length).ok().filter(|n| *n <= REQUEST_BYTES_MAX);
            let n = n.context("a length that no request has")?;
            let Some(frame) = rest.get(..n) else { break };
            at += 4 + n;
            if self.open {
                self.ends |= !replies.answer(frame, &mut self.out)?;
            } else {
                self.connect(frame)?;
            }
        }
        Ok(at)
    }

    fn connect(&mut self, frame: &[u8]) -> anyhow::Result<()> {
        let request = ConnectRequest::decode(&mut Decoder::new(frame))?;
        let session = SessionId(0x0100_0000_0000_0001);
        let (timeout_ms, read_only) = (request.timeout_ms, request.read_only.map(|_| false));
        let response = ConnectResponse { timeout_ms, session, password: [7; 16], read_only };
        put_frame(&mut self.out, |out| response.encode(out));
        self.open = true;
        Ok(())
    }

    /// Reads, answers and writes as far as the socket goes; `Ok(false)` when the connection has ended.
    fn serve(&mut self, scratch: &mut [u8], replies: &Replies) -> anyhow::Result<bool> {
        loop {
            self.flush()?;
            if self.ends {
                return Ok(self.unsent() > 0);
            }
            if self.unsent() > UNSENT_BYTES_MAX {
                // Reading goes on with the edge that says that the socket takes more.
                return Ok(true);
            }
            let n = match self.stream.read(scratch) {
                Ok(0) => return Ok(false),
                Ok(n) => n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            if self.rest.is_empty() {
                let taken = self.answer(&scratch[..n], replies)?;
                self.rest.extend_from_slice(&scratch[taken..n]);
            } else {
                let mut bytes = std::mem::take(&mut self.rest);
                bytes.extend_from_slice(&scratch[..n]);
                let taken = self.answer(&bytes, replies)?;
                bytes.drain(..taken);
                self.rest = bytes;
            }
            if n < scratch.len() {
                self.flush()?;
                return Ok(!self.ends || self.unsent() > 0);
            }
        }
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        while self.unsent() > 0 {
            match self.stream.write(&self.out[self.written..]) {
                Ok(n) => self.written += n,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
        self.out.clear();
        self.written = 0;
        Ok(())
    }
}

/// Serves until `stop` is set, in the calling thread. Reads find `value_size` bytes.
///
/// # Errors
/// The listener or the poll failed. A connection that fails is dropped.
pub fn serve(listener: std::net::TcpListener, value_size: usize, stop: &AtomicBool) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new().context("no poll")?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(1024);
    let replies = Replies::new(value_size);
    let mut scratch = vec![0; SCRATCH_BYTES];
    let mut connections: Vec<Option<Connection>> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match poll.poll(&mut events, Some(STOP_WAIT)) {
            Err(e) if e.kind() != ErrorKind::Interrupted => return Err(e).context("poll failed"),
            _ => {}
        }
        for event in &events {
            if event.token() == LISTENER {
                accept(&listener, &poll, &mut connections)?;
                continue;
            }
            let slot = &mut connections[event.token().0];
            let Some(connection) = slot else { continue };
            let goes_on = connection.serve(&mut scratch, &replies).unwrap_or(false);
            // A peer that has closed is read to its end, whatever the edge was.
            if !goes_on || (event.is_read_closed() && connection.unsent() == 0) {
                *slot = None;
            }
        }
    }
    Ok(())
}

fn accept(
    listener: &TcpListener,
    poll: &Poll,
    connections: &mut Vec<Option<Connection>>,
) -> anyhow::Result<()> {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
            // The peer is gone already, or there is no descriptor left for it: the others go on.
            Err(_) => return Ok(()),
        };
        stream.set_nodelay(true)?;
        let slot = connections.iter().position(Option::is_none).unwrap_or(connections.len());
        let interest = Interest::READABLE | Interest::WRITABLE;
        poll.registry().register(&mut stream, Token(slot), interest)?;
        let connection =
            Connection { stream, open: false, rest: Vec::new(), out: Vec::new(), written: 0, ends: false };
        if slot == connections.len() {
            connections.push(Some(connection));
        } else {
            connections[slot] = Some(connection);
        }
    }
}
