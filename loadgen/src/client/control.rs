//! A blocking session for the few requests around a run: make the base node, delete it, one write at a time.

use super::session::{Opening, open_blocking, put_close, read_frame, xid_after};
use engine::error::Code;
use engine::proto::{Acl, CreateRequest, Decoder, Op, PathVersion, ReplyHeader, RequestHeader, put_frame};
use std::borrow::Cow;
use std::io::Write;
use std::net::TcpStream;

/// Replies to these requests are small.
const REPLY_MAX: usize = 1 << 20;

/// A session that asks and waits. It does not ping: use it for moments.
#[derive(Debug)]
pub struct Control {
    stream: TcpStream,
    xid: i32,
}

impl Control {
    /// A session on the endpoint with this number.
    ///
    /// # Errors
    /// The server cannot be reached or refuses.
    pub fn open(opening: &Opening, server: usize) -> anyhow::Result<Control> {
        Ok(Control { stream: open_blocking(opening, server)?, xid: 1 })
    }

    /// Sends one request and waits for its reply's code.
    ///
    /// # Errors
    /// The connection is gone or silent.
    pub fn call(&mut self, op: Op, body: impl FnOnce(&mut Vec<u8>)) -> anyhow::Result<Code> {
        let mut out = Vec::new();
        let xid = self.xid;
        self.xid = xid_after(xid);
        put_frame(&mut out, |out| {
            RequestHeader { xid, op: op.wire() }.encode(out);
            body(out);
        });
        self.stream.write_all(&out)?;
        loop {
            let frame = read_frame(&mut self.stream, REPLY_MAX)?;
            let reply = ReplyHeader::decode(&mut Decoder::new(&frame))?;
            if reply.xid == xid {
                return Ok(reply.err);
            }
        }
    }

    /// Creates a persistent node.
    ///
    /// # Errors
    /// As `call`. The reply's code is not an error here.
    pub fn create(&mut self, path: &str, data: &[u8]) -> anyhow::Result<Code> {
        let request = CreateRequest {
            path: Cow::Borrowed(path),
            data: Some(data),
            acl: vec![Acl::open()],
            flags: 0,
            ttl: None,
        };
        self.call(Op::Create, |out| request.encode(out))
    }

    /// Deletes a node of any version.
    ///
    /// # Errors
    /// As `call`. The reply's code is not an error here.
    pub fn delete(&mut self, path: &str) -> anyhow::Result<Code> {
        let request = PathVersion { path: Cow::Borrowed(path), version: -1 };
        self.call(Op::Delete, |out| request.encode(out))
    }

    /// Ends the session.
    ///
    /// # Errors
    /// The connection was gone already.
    pub fn close(mut self) -> anyhow::Result<()> {
        let mut out = Vec::new();
        put_close(self.xid, &mut out);
        self.stream.write_all(&out)?;
        read_frame(&mut self.stream, REPLY_MAX)?;
        Ok(())
    }
}
