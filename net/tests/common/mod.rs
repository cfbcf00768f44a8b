//! A client of one connection, for the tests of whole servers.

use engine::ids::{SessionId, Zxid};
use engine::proto::*;
use std::io::{Read, Write};
use std::net::TcpStream;

pub struct Client {
    socket: TcpStream,
    xid: i32,
}

impl Client {
    #[allow(dead_code)] // Not every test that shares this wants it to succeed.
    pub fn connect(port: u16) -> Client {
        Client::try_connect(port).expect("the server takes clients")
    }
    pub fn try_connect(port: u16) -> std::io::Result<Client> {
        let (c, response) = Client::open(port, &new_session())?;
        assert_eq!(response.timeout_ms, 10_000);
        assert_ne!(response.session, SessionId::NONE);
        Ok(c)
    }
    /// Whatever the server answers to that request.
    pub fn open(port: u16, request: &ConnectRequest<'_>) -> std::io::Result<(Client, ConnectResponse)> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut c = Client { socket, xid: 0 };
        let mut out = Vec::new();
        put_frame(&mut out, |o| request.encode(o));
        c.socket.write_all(&out)?;
        let frame = c.try_frame()?;
        Ok((c, ConnectResponse::decode(&mut Decoder::new(&frame)).unwrap()))
    }
    /// Waits until the server closes the connection.
    #[allow(dead_code)]
    pub fn wait_for_end(&mut self) {
        while self.try_frame().is_ok() {}
        let mut byte = [0];
        assert!(matches!(self.socket.read(&mut byte), Ok(0)), "it is not closed");
    }
    fn frame(&mut self) -> Vec<u8> {
        self.try_frame().unwrap()
    }
    fn try_frame(&mut self) -> std::io::Result<Vec<u8>> {
        let mut len = [0; 4];
        self.socket.read_exact(&mut len)?;
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.socket.read_exact(&mut body)?;
        Ok(body)
    }
    pub fn call(&mut self, op: Op, fill: impl FnOnce(&mut Vec<u8>)) -> (ReplyHeader, Vec<u8>) {
        let mut out = Vec::new();
        self.put(&mut out, op, fill);
        self.socket.write_all(&out).unwrap();
        self.reply()
    }
    /// Two requests of one kind in one segment, and their replies.
    #[allow(dead_code)]
    pub fn call_twice(&mut self, op: Op, fill: impl Fn(&mut Vec<u8>)) -> [(ReplyHeader, Vec<u8>); 2] {
        let mut out = Vec::new();
        self.put(&mut out, op, &fill);
        self.put(&mut out, op, &fill);
        self.socket.write_all(&out).unwrap();
        self.xid -= 1;
        let first = self.reply();
        self.xid += 1;
        [first, self.reply()]
    }
    fn put(&mut self, out: &mut Vec<u8>, op: Op, fill: impl FnOnce(&mut Vec<u8>)) {
        self.xid += 1;
        put_frame(out, |o| {
            RequestHeader { xid: self.xid, op: op.wire() }.encode(o);
            fill(o);
        });
    }
    fn reply(&mut self) -> (ReplyHeader, Vec<u8>) {
        let frame = self.frame();
        let mut d = Decoder::new(&frame);
        let header = ReplyHeader::decode(&mut d).unwrap();
        assert_eq!(header.xid, self.xid);
        (header, d.rest().to_vec())
    }
}

/// A client without a session asks for one.
pub fn new_session() -> ConnectRequest<'static> {
    ConnectRequest {
        last_zxid_seen: Zxid::ZERO,
        timeout_ms: 10_000,
        session: SessionId::NONE,
        password: Some(&[0; 16]),
        read_only: Some(false),
    }
}

pub fn create(c: &mut Client, path: &str, data: &[u8]) -> ReplyHeader {
    let request =
        CreateRequest { path: path.into(), data: Some(data), acl: vec![Acl::open()], flags: 0, ttl: None };
    c.call(Op::Create, |o| request.encode(o)).0
}

#[allow(dead_code)] // Not every test that shares this reads.
pub fn get(c: &mut Client, path: &str) -> (ReplyHeader, Option<Vec<u8>>) {
    let (header, body) = c.call(Op::GetData, |o| PathWatch { path: path.into(), watch: false }.encode(o));
    let mut d = Decoder::new(&body);
    (header, if body.is_empty() { None } else { d.buffer().unwrap().map(<[u8]>::to_vec) })
}
