//! Members that change while they serve: one server grows to three, the leader leaves, a removed server stays without a
//! vote, and a restart finds the members again.

mod common;

use common::{Client, create, get};
use engine::error::Code;
use engine::ids::ServerId;
use engine::limits::Limits;
use engine::proto::{Decoder, Encode, Op};
use engine::zab::members::Members;
use net::config::EnsembleConfig;
use net::embed::{FreePorts, Options, Server, free_ports};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);
const CONFIG: &str = "/zookeeper/config";

/// A place for a server: its quorum, election and client ports.
struct Place {
    id: i64,
    ports: [u16; 3],
    _reserved: FreePorts,
}

impl Place {
    fn of(ids: std::ops::RangeInclusive<i64>) -> Vec<Place> {
        let place = |id| {
            let free = free_ports(3).unwrap();
            Place { id, ports: [free[0], free[1], free[2]], _reserved: free }
        };
        ids.map(place).collect()
    }

    fn line(&self, role: &str) -> String {
        let [quorum, election, client] = self.ports;
        format!("server.{}=127.0.0.1:{quorum}:{election}:{role};127.0.0.1:{client}", self.id)
    }

    /// Starts a server here that knows of these places, and of itself.
    fn start(&self, known: &[&Place], limits: &Limits) -> Server {
        let mut text = String::new();
        for p in known {
            text += &(p.line("participant") + "\n");
        }
        let members = Arc::new(Members::parse(&text).unwrap());
        let ensemble = EnsembleConfig::local(ServerId(self.id), members);
        Server::start(Options {
            ensemble: Some(ensemble),
            limits: Some(limits.clone()),
            client_port: self.ports[2],
            ..Options::default()
        })
        .unwrap()
    }
}

fn limits() -> Limits {
    Limits {
        reconfig_enabled: true,
        lone_voter: true,
        skip_acl: true,
        max_client_connections: 0,
        words: None,
        ..Limits::default()
    }
}

fn until<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = done() {
            return found;
        }
        assert!(began.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn client(s: &Server) -> Client {
    until("a client", || Client::try_connect(s.client_port()).ok())
}

/// Which one leads, when the others follow: before that no follower of the leader is dispensable.
fn until_all_serve(servers: &[Server]) -> usize {
    until("a leader and its followers", || {
        let modes: Vec<Option<String>> = servers.iter().map(mode).collect();
        let follow = modes.iter().filter(|m| m.as_deref() == Some("follower")).count();
        (follow + 1 == servers.len()).then(|| modes.iter().position(|m| m.as_deref() == Some("leader")))?
    })
}

fn mode(s: &Server) -> Option<String> {
    let mut socket = TcpStream::connect(s.client_addr()).ok()?;
    socket.write_all(b"srvr").ok()?;
    let mut text = String::new();
    socket.read_to_string(&mut text).ok()?;
    text.lines().find_map(|l| l.strip_prefix("Mode: ")).map(str::to_owned)
}

fn put_reconfig(o: &mut Vec<u8>, joining: Option<&str>, leaving: Option<&str>, version: i64) {
    for text in [joining, leaving, None] {
        match text {
            Some(text) => o.put_string(text),
            None => o.put_int(-1),
        }
    }
    o.put_long(version);
}

fn reconfig(
    c: &mut Client,
    joining: Option<&str>,
    leaving: Option<&str>,
    version: i64,
) -> Result<String, Code> {
    let (header, body) = c.call(Op::Reconfig, |o| put_reconfig(o, joining, leaving, version));
    if header.err != Code::OK {
        return Err(header.err);
    }
    let text = Decoder::new(&body).buffer().unwrap().unwrap();
    Ok(String::from_utf8(text.to_vec()).unwrap())
}

/// Joins a server as soon as it is synchronised.
fn join(c: &mut Client, line: &str) -> Members {
    let text = until("a quorum of the new members", || match reconfig(c, Some(line), None, -1) {
        Ok(text) => Some(text),
        Err(code) => {
            assert_eq!(code, Code::NEWCONFIGNOQUORUM);
            None
        }
    });
    assert!(text.contains(line), "{text}");
    Members::parse(&text).unwrap()
}

fn config(c: &mut Client) -> Members {
    let (header, data) = get(c, CONFIG);
    assert_eq!(header.err, Code::OK);
    Members::parse(std::str::from_utf8(&data.unwrap()).unwrap()).unwrap()
}

fn version_at(s: &Server) -> u64 {
    until("the configuration", || {
        let mut c = Client::try_connect(s.client_port()).ok()?;
        Some(config(&mut c).version)
    })
}

#[test]
fn one_server_grows_to_three_and_the_leader_leaves() {
    let places = Place::of(1..=3);
    let [one, two, three] = &places[..] else { unreachable!() };
    let first = one.start(&[one], &limits());
    let mut c = client(&first);
    assert_eq!(config(&mut c).version, 1 << 32, "the first leader's epoch is the version");
    assert_eq!(create(&mut c, "/before", b"x").err, Code::OK);
    assert_eq!(reconfig(&mut c, None, Some("1"), -1), Err(Code::BADARGUMENTS), "nobody would be left");
    assert_eq!(reconfig(&mut c, None, None, 7), Err(Code::BADVERSION));
    let none_there = reconfig(&mut c, Some(&two.line("participant")), None, -1);
    assert_eq!(none_there, Err(Code::NEWCONFIGNOQUORUM));

    let second = two.start(&[one, two], &limits());
    let members = join(&mut c, &two.line("participant"));
    assert_eq!(members.voters().len(), 2);
    let third = three.start(&[one, two, three], &limits());
    // Through a follower this time.
    let mut at_second = client(&second);
    let members = join(&mut at_second, &three.line("participant"));
    assert_eq!(members.voters().len(), 3);
    for (i, s) in [&first, &second, &third].into_iter().enumerate() {
        until("the members everywhere", || (version_at(s) == members.version).then_some(()));
        assert_eq!(create(&mut client(s), &format!("/by{i}"), b"y").err, Code::OK);
    }
    assert_eq!(mode(&first).as_deref(), Some("leader"));

    // The leader leaves: another one leads, and it goes on without a vote.
    let text = reconfig(&mut c, None, Some("1"), members.version as i64).unwrap();
    assert_eq!(Members::parse(&text).unwrap().voters(), [ServerId(2), ServerId(3)]);
    until("another leader", || [&second, &third].into_iter().find(|s| mode(s).as_deref() == Some("leader")));
    until("the former leader's new role", || (mode(&first).as_deref() == Some("follower")).then_some(()));
    let mut c = client(&first);
    assert_eq!(create(&mut c, "/after", b"z").err, Code::OK, "through a server that is no member any more");
    let version = config(&mut c).version;
    first.kill();
    let mut c = client(&second);
    assert_eq!(create(&mut c, "/without", b"z").err, Code::OK);

    // A restart finds the members again.
    let second = second.kill().start().unwrap();
    let mut c = client(&second);
    let now = config(&mut c);
    assert_eq!((now.version, now.voters().len()), (version, 2));
    for path in ["/before", "/by0", "/by1", "/by2", "/after", "/without"] {
        assert_eq!(get(&mut c, path).0.err, Code::OK, "{path}");
    }
    third.stop().unwrap();
    second.stop().unwrap();
}

#[test]
fn roles_change_without_an_election() {
    let places = Place::of(1..=3);
    let [one, two, three] = &places[..] else { unreachable!() };
    let all: Vec<&Place> = places.iter().collect();
    let servers: Vec<Server> = places.iter().map(|p| p.start(&all, &limits())).collect();
    let leader = until_all_serve(&servers);
    let other = (leader + 1) % 3;
    let place = [one, two, three][other];
    let mut c = client(&servers[leader]);
    for (role, mode_then) in [("observer", "observer"), ("participant", "follower")] {
        let text = reconfig(&mut c, Some(&place.line(role)), None, -1).unwrap();
        assert!(text.contains(&place.line(role)), "{text}");
        until("the role", || (mode(&servers[other]).as_deref() == Some(mode_then)).then_some(()));
        let mut at = client(&servers[other]);
        assert_eq!(create(&mut at, &format!("/as-{role}"), b"").err, Code::OK);
        assert_eq!(mode(&servers[leader]).as_deref(), Some("leader"), "the leader stays");
    }
    for s in servers {
        s.stop().unwrap();
    }
}

/// The second is looked at before any follower can have acknowledged the first: they come in one segment.
#[test]
fn a_reconfiguration_without_its_quorum_yet_refuses_the_next() {
    let places = Place::of(1..=3);
    let all: Vec<&Place> = places.iter().collect();
    let servers: Vec<Server> = places.iter().map(|p| p.start(&all, &limits())).collect();
    let leader = until_all_serve(&servers);
    let (other, third) = ((leader + 1) % 3, (leader + 2) % 3);
    // Whichever server is asked: the leader decides.
    for (at, role) in [(leader, "observer"), (third, "participant")] {
        let line = places[other].line(role);
        let mut c = client(&servers[at]);
        let [first, second] = c.call_twice(Op::Reconfig, |o| put_reconfig(o, Some(&line), None, -1));
        assert_eq!((first.0.err, second.0.err), (Code::OK, Code::RECONFIGINPROGRESS), "through {at}");
        assert!(second.0.zxid > first.0.zxid, "it is answered in its place");
        // Nothing of the second is left behind.
        let mut c = client(&servers[leader]);
        assert_eq!(config(&mut c).version as i64, first.0.zxid);
        until("the role", || {
            let wanted = if role == "observer" { "observer" } else { "follower" };
            (mode(&servers[other]).as_deref() == Some(wanted)).then_some(())
        });
    }
    for s in servers {
        s.stop().unwrap();
    }
}

fn refuses(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err()
}

#[test]
fn a_client_address_moves_at_once_and_connections_go_on() {
    let places = Place::of(1..=3);
    let all: Vec<&Place> = places.iter().collect();
    let servers: Vec<Server> = places.iter().map(|p| p.start(&all, &limits())).collect();
    let leader = until_all_serve(&servers);
    // A leader, then a follower; through itself.
    for at in [leader, (leader + 1) % 3] {
        let [quorum, election, old] = places[at].ports;
        let line = |host: &str, client: u16| {
            format!("server.{}=127.0.0.1:{quorum}:{election}:participant;{host}:{client}", at + 1)
        };
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let new = held.local_addr().unwrap().port();
        let mut stands = client(&servers[at]);
        // Somebody has that address: it stays where it is.
        reconfig(&mut stands, Some(&line("127.0.0.1", new)), None, -1).unwrap();
        assert_eq!(create(&mut stands, &format!("/kept{at}"), b"").err, Code::OK);
        assert_eq!(create(&mut Client::connect(old), &format!("/there{at}"), b"").err, Code::OK);
        // To an address that is free, and from one interface to all of them on the same port.
        drop(held);
        reconfig(&mut stands, Some(&line("127.0.0.1", old)), None, -1).unwrap();
        for host in ["127.0.0.1", "0.0.0.0"] {
            reconfig(&mut stands, Some(&line(host, new)), None, -1).unwrap();
            until("the new address", || {
                let wanted = if host == "0.0.0.0" { host } else { "127.0.0.1" };
                let addr = servers[at].client_addr();
                let all = addr.ip().is_unspecified() == (wanted == "0.0.0.0");
                (addr.port() == new && all).then_some(())
            });
            until("the end of the old address", || refuses(old).then_some(()));
            let path = format!("/moved{at}-{host}");
            assert_eq!(create(&mut Client::connect(new), &path, b"").err, Code::OK);
            assert_eq!(get(&mut stands, &path).0.err, Code::OK, "it stands");
        }
        assert_eq!(mode(&servers[leader]).as_deref(), Some("leader"), "nobody had to elect");
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, new)).unwrap();
        socket.write_all(b"conf").unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        assert!(text.contains(&format!("clientPort={new}\n")), "{text}");
    }
    for s in servers {
        s.stop().unwrap();
    }
}

#[test]
fn without_reconfig_enabled_nothing_changes() {
    let places = Place::of(1..=1);
    let server = places[0].start(&[&places[0]], &Limits { reconfig_enabled: false, ..limits() });
    let mut c = client(&server);
    assert_eq!(reconfig(&mut c, None, None, -1), Err(Code::RECONFIGDISABLED));
    let members = config(&mut c);
    assert_eq!((members.version, members.voters().len()), (0, 1), "what the files say");
    server.stop().unwrap();
}
