//! A tiny server for tests: one thread per connection, every request is answered with success, unless it is told
//! to misbehave.

#![allow(dead_code)] // no test uses all of it

use engine::error::Code;
use engine::ids::SessionId;
use engine::proto::{
    AuthPacket, ConnectRequest, ConnectResponse, Decoder, Encode, Op, PathWatch, ReplyHeader, RequestHeader,
    Stat, WatcherEvent, put_frame, xid,
};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Output as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// How the server misbehaves. Numbers of requests count those of one kind, over all connections, from 1.
#[derive(Clone, Default)]
pub struct Manners {
    /// This operation is answered with that code.
    pub refuse: Option<(Op, Code)>,
    /// Before answering the getData with this number it sleeps that long, and answers nobody else meanwhile.
    pub stall: Option<(u64, Duration)>,
    /// From the getData with this number on none is answered.
    pub silent_from: Option<u64>,
    /// The connection of the getData with this number is closed instead of answering.
    pub drop_at: Option<u64>,
    /// The session timeout that is granted.
    pub timeout_ms: Option<i32>,
    /// Who comes back with a session is told that it has expired.
    pub expire: bool,
    /// Every setData but the first of each node is acknowledged and not carried out.
    pub forget: bool,
}

/// What the server saw.
#[derive(Default)]
pub struct Seen {
    pub gets: AtomicU64,
    pub creates: AtomicU64,
    pub deletes: AtomicU64,
    pub pings: AtomicU64,
    pub renewals: AtomicU64,
    pub auths: Mutex<Vec<(String, Vec<u8>)>>,
}

struct Shared {
    manners: Manners,
    seen: Seen,
    /// Held while a request is answered, so that a stall stalls all.
    turn: Mutex<()>,
    /// The version of each node that was set.
    versions: Mutex<HashMap<String, i32>>,
    /// Connections that wait for an event of a path.
    watchers: Mutex<Vec<(String, TcpStream)>>,
}

/// The server. Its threads end with their connections.
pub struct Fake {
    pub address: SocketAddr,
    shared: Arc<Shared>,
}

impl Fake {
    pub fn start(manners: Manners) -> Fake {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            manners,
            seen: Seen::default(),
            turn: Mutex::default(),
            versions: Mutex::default(),
            watchers: Mutex::default(),
        });
        let for_all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = Arc::clone(&for_all);
                std::thread::spawn(move || {
                    // The end of a connection is the end of its thread.
                    let _ = serve(stream, &shared);
                });
            }
        });
        Fake { address, shared }
    }

    pub fn seen(&self) -> &Seen {
        &self.shared.seen
    }
}

fn frame(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let n = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if n > 1 << 20 {
        return Err(std::io::ErrorKind::InvalidData.into());
    }
    let mut frame = vec![0; n];
    stream.read_exact(&mut frame)?;
    Ok(frame)
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let request = frame(&mut stream)?;
    let request = ConnectRequest::decode(&mut Decoder::new(&request)).expect("a connect request");
    let returns = request.session != SessionId::NONE;
    shared.seen.renewals.fetch_add(u64::from(returns), Ordering::Relaxed);
    let response = ConnectResponse {
        timeout_ms: shared.manners.timeout_ms.unwrap_or(request.timeout_ms),
        session: SessionId(1),
        password: [1; 16],
        read_only: request.read_only.map(|_| false),
    };
    let expired = returns && shared.manners.expire;
    let response = if expired { ConnectResponse::refused(response.read_only) } else { response };
    let mut out = Vec::new();
    put_frame(&mut out, |out| response.encode(out));
    stream.write_all(&out)?;
    if expired {
        return Ok(());
    }
    loop {
        let request = frame(&mut stream)?;
        let _turn = shared.turn.lock().unwrap();
        if !answer(&request, &mut stream, shared)? {
            return Ok(());
        }
    }
}

/// Answers one request; `false` ends the connection.
fn answer(request: &[u8], stream: &mut TcpStream, shared: &Shared) -> std::io::Result<bool> {
    let mut d = Decoder::new(request);
    let header = RequestHeader::decode(&mut d).expect("a request header");
    let op = Op::from_wire(header.op).expect("a known operation");
    let seen = &shared.seen;
    match op {
        Op::Create => seen.creates.fetch_add(1, Ordering::Relaxed),
        Op::Delete => seen.deletes.fetch_add(1, Ordering::Relaxed),
        Op::Ping => seen.pings.fetch_add(1, Ordering::Relaxed),
        _ => 0,
    };
    let mut version = 0;
    if op == Op::GetData {
        let n = seen.gets.fetch_add(1, Ordering::Relaxed) + 1;
        if shared.manners.drop_at == Some(n) {
            return Ok(false);
        }
        if shared.manners.silent_from.is_some_and(|from| n >= from) {
            return Ok(true);
        }
        if let Some((at, how_long)) = shared.manners.stall
            && at == n
        {
            std::thread::sleep(how_long);
        }
        let read = PathWatch::decode(&mut d).expect("a read");
        version = shared.versions.lock().unwrap().get(&*read.path).copied().unwrap_or(0);
        if read.watch {
            shared.watchers.lock().unwrap().push((read.path.into_owned(), stream.try_clone()?));
        }
    } else if op == Op::SetData {
        let path = d.string_not_null().expect("a path");
        notify(&path, shared)?;
        let mut versions = shared.versions.lock().unwrap();
        let node = versions.entry(path.into_owned()).or_insert(0);
        *node += i32::from(*node == 0 || !shared.manners.forget);
    } else if op == Op::Auth {
        let auth = AuthPacket::decode(&mut d).expect("an auth packet");
        seen.auths.lock().unwrap().push((auth.scheme.unwrap().into_owned(), auth.auth.unwrap().to_vec()));
    }
    let refused = shared.manners.refuse.filter(|(which, _)| *which == op).map(|(_, code)| code);
    stream.write_all(&reply(header, op, refused.unwrap_or(Code::OK), version))?;
    Ok(op != Op::CloseSession)
}

fn reply(header: RequestHeader, op: Op, err: Code, version: i32) -> Vec<u8> {
    let mut out = Vec::new();
    put_frame(&mut out, |out| {
        ReplyHeader { xid: header.xid, zxid: 1, err }.encode(out);
        match op {
            _ if err != Code::OK => {}
            Op::GetData => {
                out.put_buffer(Some(b"value"));
                Stat { version, ..Stat::default() }.encode(out);
            }
            Op::Exists | Op::SetData => Stat::default().encode(out),
            Op::GetChildren => out.put_len(0),
            Op::Create | Op::Sync => out.put_string("/any"),
            _ => {}
        }
    });
    out
}

/// Sends the event of a change to all who wait for it.
fn notify(path: &str, shared: &Shared) -> std::io::Result<()> {
    let mut out = Vec::new();
    put_frame(&mut out, |out| {
        ReplyHeader { xid: xid::WATCH_EVENT, zxid: -1, err: Code::OK }.encode(out);
        WatcherEvent { kind: 3, state: WatcherEvent::SYNC_CONNECTED, path: path.into() }.encode(out);
    });
    let mut watchers = shared.watchers.lock().unwrap();
    for (_, stream) in watchers.extract_if(.., |(of, _)| of == path) {
        (&stream).write_all(&out)?;
    }
    Ok(())
}
