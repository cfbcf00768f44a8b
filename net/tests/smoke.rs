//! The thinnest whole path: connect, write, read, restart.

use engine::ids::{SessionId, Zxid};
use engine::proto::*;
use std::io::{Read, Write};
use std::net::TcpStream;

struct Client {
    socket: TcpStream,
    xid: i32,
}

impl Client {
    fn connect(port: u16) -> Client {
        let socket = TcpStream::connect(("127.0.0.1", port)).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
        let mut c = Client { socket, xid: 0 };
        let request = ConnectRequest {
            last_zxid_seen: Zxid::ZERO,
            timeout_ms: 10_000,
            session: SessionId::NONE,
            password: Some(&[0; 16]),
            read_only: Some(false),
        };
        let mut out = Vec::new();
        put_frame(&mut out, |o| request.encode(o));
        c.socket.write_all(&out).unwrap();
        let frame = c.frame();
        let response = ConnectResponse::decode(&mut Decoder::new(&frame)).unwrap();
        assert_eq!(response.timeout_ms, 10_000);
        assert_ne!(response.session, SessionId::NONE);
        c
    }
    fn frame(&mut self) -> Vec<u8> {
        let mut len = [0; 4];
        self.socket.read_exact(&mut len).unwrap();
        let mut body = vec![0; u32::from_be_bytes(len) as usize];
        self.socket.read_exact(&mut body).unwrap();
        body
    }
    fn call(&mut self, op: Op, fill: impl FnOnce(&mut Vec<u8>)) -> (ReplyHeader, Vec<u8>) {
        self.xid += 1;
        let mut out = Vec::new();
        put_frame(&mut out, |o| {
            RequestHeader { xid: self.xid, op: op.wire() }.encode(o);
            fill(o);
        });
        self.socket.write_all(&out).unwrap();
        let frame = self.frame();
        let mut d = Decoder::new(&frame);
        let header = ReplyHeader::decode(&mut d).unwrap();
        assert_eq!(header.xid, self.xid);
        (header, d.rest().to_vec())
    }
}

fn create(c: &mut Client, path: &str, data: &[u8]) -> ReplyHeader {
    let request =
        CreateRequest { path: path.into(), data: Some(data), acl: vec![Acl::open()], flags: 0, ttl: None };
    c.call(Op::Create, |o| request.encode(o)).0
}

fn get(c: &mut Client, path: &str) -> (ReplyHeader, Option<Vec<u8>>) {
    let (header, body) = c.call(Op::GetData, |o| PathWatch { path: path.into(), watch: false }.encode(o));
    let mut d = Decoder::new(&body);
    (header, if body.is_empty() { None } else { d.buffer().unwrap().map(<[u8]>::to_vec) })
}

#[test]
fn what_was_acknowledged_is_there_after_stop_and_after_kill() {
    let server = net::embed::Server::start(net::embed::Options::default()).unwrap();
    let mut c = Client::connect(server.client_port());
    for i in 0..100 {
        assert_eq!(create(&mut c, &format!("/n{i}"), b"hello").err.0, 0);
    }
    assert_eq!(create(&mut c, "/n0", b"again").err, engine::error::Code::NODEEXISTS);
    assert_eq!(get(&mut c, "/n7").1.as_deref(), Some(&b"hello"[..]));
    let server = server.kill().start().unwrap();
    let mut c = Client::connect(server.client_port());
    assert_eq!(get(&mut c, "/n99").1.as_deref(), Some(&b"hello"[..]));
    assert_eq!(create(&mut c, "/after", b"x").err.0, 0);
    let server = server.pause().unwrap().start().unwrap();
    let mut c = Client::connect(server.client_port());
    assert_eq!(get(&mut c, "/after").1.as_deref(), Some(&b"x"[..]));
    assert_eq!(get(&mut c, "/nothing").0.err, engine::error::Code::NONODE);
    server.stop().unwrap();
}
