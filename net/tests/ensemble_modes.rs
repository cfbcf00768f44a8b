//! What a member does for its clients besides ordinary service: read-only mode, a leader that serves nobody, local
//! sessions, and what the four-letter words of an ensemble say about it.

mod common;

use common::{Client, create, get, new_session};
use engine::error::Code;
use engine::ids::{ServerId, SessionId, Zxid};
use engine::limits::Limits;
use engine::proto::{Acl, ConnectRequest, ConnectResponse, CreateRequest, Encode, Op};
use engine::session::password;
use engine::zab::members::Members;
use net::config::EnsembleConfig;
use net::embed::{Cluster, Options, Server, ask, free_ports};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(60);

fn cluster(limits: Limits) -> Cluster {
    let limits = Limits { words: None, max_client_connections: 0, ..limits };
    Cluster::start(3, &Options { limits: Some(limits), ..Options::default() }).unwrap()
}

fn port(cluster: &Cluster, i: usize) -> u16 {
    cluster.server(i).expect("it runs").client_port()
}

fn word(cluster: &Cluster, i: usize, word: &str) -> String {
    ask(cluster.server(i).expect("it runs").client_addr(), word).unwrap()
}

/// Asks again until it is there.
fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(got) = ask() {
            return got;
        }
        assert!(began.elapsed() < PATIENCE, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A client of server `i`, as soon as that serves.
fn client(cluster: &Cluster, i: usize) -> Client {
    until("it takes clients", || Client::try_connect(port(cluster, i)).ok())
}

fn sync(c: &mut Client) {
    assert_eq!(c.call(Op::Sync, |o| o.put_string("/")).0.err, Code::OK);
}

fn is_closed(answer: std::io::Result<impl Sized>) {
    let kind = answer.map(|_| ()).expect_err("nobody is let in").kind();
    assert!(matches!(kind, ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset), "{kind}");
}

#[test]
fn a_server_without_a_quorum_serves_those_who_only_read() {
    let mut cluster = cluster(Limits { read_only_mode: true, ..Limits::default() });
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    let survivor = (leader + 1) % 3;
    assert_eq!(create(&mut client(&cluster, leader), "/kept", b"x").err, Code::OK);
    let (mut before, known) =
        until("it takes clients", || Client::open(port(&cluster, survivor), &new_session()).ok());
    sync(&mut before);
    assert_eq!(word(&cluster, survivor, "isro"), "rw");
    for i in (0..3).filter(|i| *i != survivor) {
        cluster.kill(i);
    }
    before.wait_for_end();
    until("it serves reads", || (word(&cluster, survivor, "isro") == "ro").then_some(()));
    let text = word(&cluster, survivor, "srvr");
    assert!(text.contains("READ-ONLY mode; serving only read-only clients\n"), "{text}");
    assert!(text.contains("Mode: read-only\n"), "{text}");
    is_closed(Client::open(port(&cluster, survivor), &new_session()));

    let reads_only = ConnectRequest { read_only: Some(true), ..new_session() };
    let (mut reader, response) = Client::open(port(&cluster, survivor), &reads_only).unwrap();
    assert_eq!((response.read_only, response.timeout_ms), (Some(true), 10_000));
    let (header, data) = get(&mut reader, "/kept");
    assert_eq!((header.err, data.as_deref()), (Code::OK, Some(&b"x"[..])));
    let refused = create(&mut reader, "/no", b"");
    assert_eq!((refused.err, refused.zxid), (Code::NOTREADONLY, header.zxid));
    assert_eq!(reader.call(Op::Sync, |o| o.put_string("/")).0.err, Code::NOTREADONLY);
    assert_eq!(get(&mut reader, "/no").0.err, Code::NONODE);

    // It comes back to its session; another one ends its own.
    let again =
        ConnectRequest { session: response.session, password: Some(&response.password), ..reads_only };
    let (mut reader, second) = Client::open(port(&cluster, survivor), &again).unwrap();
    assert_eq!((second.session, second.read_only), (response.session, Some(true)));
    let (_, no) =
        Client::open(port(&cluster, survivor), &ConnectRequest { password: Some(b"wrong"), ..again })
            .unwrap();
    assert_eq!((no.timeout_ms, no.read_only), (0, Some(true)), "a refusal tells the mode too");
    let (mut other, _) = Client::open(port(&cluster, survivor), &reads_only).unwrap();
    assert_eq!(other.call(Op::CloseSession, |_| {}).0.err, Code::OK);
    other.wait_for_end();
    // The time of a session that all know is the leader's to renew: that client tries another server.
    let moved = ConnectRequest { session: known.session, password: Some(&known.password), ..reads_only };
    is_closed(Client::open(port(&cluster, survivor), &moved));
    // Whoever has seen more than this server is not served.
    let ahead = ConnectRequest { last_zxid_seen: Zxid(u64::MAX >> 1), ..reads_only };
    is_closed(Client::open(port(&cluster, survivor), &ahead));

    cluster.restart((survivor + 1) % 3).unwrap();
    reader.wait_for_end();
    let mut writer = client(&cluster, survivor);
    assert_eq!(create(&mut writer, "/later", b"").err, Code::OK);
    assert_eq!(word(&cluster, survivor, "isro"), "rw");
    let (_, gone) = Client::open(port(&cluster, survivor), &again).unwrap();
    assert_eq!(gone.timeout_ms, 0, "a session that was known to that server only has ended");
    cluster.stop().unwrap();
}

#[test]
fn no_snapshot_is_taken_of_what_no_quorum_has_confirmed() {
    let tmp = tempfile::tempdir().unwrap();
    let snapshots = || {
        let names = std::fs::read_dir(tmp.path()).unwrap().map(|e| e.unwrap().file_name());
        names.filter(|n| n.to_string_lossy().starts_with("snap.")).count()
    };
    let ports = free_ports(6).unwrap();
    let line = |id: i64| {
        let at = 2 * (id as usize - 1);
        format!("server.{id}=127.0.0.1:{}:{}\n", ports[at], ports[at + 1])
    };
    let start = |lines: &str, snapshot_txns| {
        let members = Members::parse(lines).unwrap();
        let options = Options {
            data_dir: Some(tmp.path().to_owned()),
            ensemble: Some(EnsembleConfig::local(ServerId(1), Arc::new(members))),
            limits: Some(Limits { read_only_mode: true, words: None, ..Limits::default() }),
            profile: Some(profiles::Profile { snapshot_txns, ..profiles::Profile::default() }),
            ..Options::default()
        };
        Server::start(options).unwrap()
    };
    let one = line(1);
    let server = start(&one, 1 << 20);
    let mut c = until("it leads", || Client::try_connect(server.client_port()).ok());
    assert_eq!(create(&mut c, "/kept", b"x").err, Code::OK);
    drop(server.kill());
    // One voter of three now, with a log that is long enough for a snapshot.
    let server = start(&[one.clone(), line(2), line(3)].concat(), 1);
    let mode = || ask(server.client_addr(), "isro").unwrap();
    until("it serves reads", || (mode() == "ro").then_some(()));
    let reads_only = ConnectRequest { read_only: Some(true), ..new_session() };
    let (mut reader, _) = Client::open(server.client_port(), &reads_only).unwrap();
    for _ in 0..500 {
        assert_eq!(get(&mut reader, "/kept").0.err, Code::OK);
    }
    server.stop().unwrap();
    assert_eq!(snapshots(), 0);
    // In a role it is taken.
    let server = start(&one, 1);
    until("a snapshot", || (snapshots() > 0).then_some(()));
    server.stop().unwrap();
}

#[test]
fn a_leader_that_only_leads_takes_no_clients() {
    let cluster = cluster(Limits { leader_serves: false, ..Limits::default() });
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    let mut c = client(&cluster, (leader + 1) % 3);
    assert_eq!(create(&mut c, "/through-a-follower", b"").err, Code::OK);
    sync(&mut c);
    is_closed(Client::open(port(&cluster, leader), &new_session()));
    assert_eq!(word(&cluster, leader, "isro"), "null");
    assert_eq!(word(&cluster, (leader + 1) % 3, "isro"), "rw");
    cluster.stop().unwrap();
}

fn create_ephemeral(c: &mut Client, path: &str) -> Code {
    let request =
        CreateRequest { path: path.into(), data: None, acl: vec![Acl::open()], flags: 1, ttl: None };
    c.call(Op::Create, |o| request.encode(o)).0.err
}

fn zxid(cluster: &Cluster, i: usize) -> String {
    let text = word(cluster, i, "srvr");
    text.lines().find(|l| l.starts_with("Zxid:")).expect("it serves").to_owned()
}

/// What a client sends that comes back.
fn back<'a>(r: &'a ConnectResponse) -> ConnectRequest<'a> {
    ConnectRequest { session: r.session, password: Some(&r.password), ..new_session() }
}

#[test]
fn local_sessions_are_known_to_one_server_until_they_own_a_node() {
    let limits = Limits { local_sessions: true, local_session_upgrades: true, ..Limits::default() };
    let cluster = cluster(limits);
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    for at in [leader, (leader + 1) % 3] {
        let elsewhere = (at + 1) % 3;
        client(&cluster, elsewhere);
        sync(&mut client(&cluster, at));
        let before = zxid(&cluster, at);
        let (mut c, session) =
            until("it takes clients", || Client::open(port(&cluster, at), &new_session()).ok());
        assert_eq!(get(&mut c, "/").0.err, Code::OK);
        assert_eq!(zxid(&cluster, at), before, "no transaction makes it");
        assert_eq!(create(&mut c, &format!("/by{at}"), b"x").err, Code::OK);
        assert_eq!(get(&mut c, &format!("/by{at}")).0.err, Code::OK);
        // It may come back to its server, and to no other.
        let (_, refused) = Client::open(port(&cluster, elsewhere), &back(&session)).unwrap();
        assert_eq!(refused.timeout_ms, 0);
        let (mut c, same) = Client::open(port(&cluster, at), &back(&session)).unwrap();
        assert_eq!(same.session, session.session);

        let path = format!("/owned{at}");
        assert_eq!(create_ephemeral(&mut c, &path), Code::OK);
        assert_eq!(create(&mut c, &format!("{path}-not"), b"").err, Code::OK);
        let (mut moved, same) = Client::open(port(&cluster, elsewhere), &back(&session)).unwrap();
        assert_eq!(same.session, session.session, "all servers know it now");
        sync(&mut moved);
        assert_eq!(get(&mut moved, &path).0.err, Code::OK);
        assert_eq!(moved.call(Op::CloseSession, |_| {}).0.err, Code::OK);
        let mut c = client(&cluster, leader);
        sync(&mut c);
        assert_eq!(get(&mut c, &path).0.err, Code::NONODE);
    }
    cluster.stop().unwrap();
}

#[test]
fn local_sessions_that_may_not_be_upgraded_own_nothing_and_expire_alone() {
    let limits =
        Limits { local_sessions: true, tick_ms: 100, min_session_timeout_ms: 200, ..Limits::default() };
    let cluster = cluster(limits);
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    for at in [leader, (leader + 1) % 3] {
        let mut c = client(&cluster, at);
        assert_eq!(create_ephemeral(&mut c, "/owned"), Code::EPHEMERALONLOCALSESSION);
        assert_eq!(create(&mut c, &format!("/by{at}"), b"").err, Code::OK);
        let before = zxid(&cluster, at);
        let short = ConnectRequest { timeout_ms: 200, ..new_session() };
        let (mut idle, session) = Client::open(port(&cluster, at), &short).unwrap();
        idle.wait_for_end();
        let (_, refused) = Client::open(port(&cluster, at), &back(&session)).unwrap();
        assert_eq!(refused.timeout_ms, 0);
        assert_eq!(c.call(Op::CloseSession, |_| {}).0.err, Code::OK);
        c.wait_for_end();
        assert_eq!(zxid(&cluster, at), before, "no transaction ends it");
    }
    cluster.stop().unwrap();
}

/// The figures of `mntr`.
fn mntr(cluster: &Cluster, i: usize) -> BTreeMap<String, String> {
    let text = word(cluster, i, "mntr");
    text.lines().filter_map(|l| l.split_once('\t')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect()
}

#[test]
fn words_tell_of_the_ensemble() {
    let cluster = cluster(Limits::default());
    let leader = cluster.wait_for_leader(PATIENCE).unwrap();
    let follower = (leader + 1) % 3;
    (0..3).for_each(|i| drop(client(&cluster, i)));
    let (mut c, session) = Client::open(port(&cluster, follower), &new_session()).unwrap();
    assert_eq!(create_ephemeral(&mut c, "/owned"), Code::OK);
    sync(&mut c);

    // Its own log may be the last to have what it proposed.
    let figures = until("both follow, and all is durable", || {
        let f = mntr(&cluster, leader);
        let durable = f["zk_cnt_proposal_ack_creation_latency"] == f["zk_proposal_count"];
        (f["zk_synced_followers"] == "2" && durable).then_some(f)
    });
    let wanted = [
        ("server_state", "leader"),
        ("peer_state", "leading - broadcast"),
        ("quorum_size", "3"),
        ("learners", "2"),
        ("synced_non_voting_followers", "0"),
        ("synced_observers", "0"),
        ("pending_syncs", "0"),
        ("local_sessions", "0"),
        ("ephemerals_count", "1"),
    ];
    for (name, value) in wanted {
        assert_eq!(figures[&format!("zk_{name}")], value, "{name}");
    }
    let number = |name: &str| figures[&format!("zk_{name}")].parse::<i64>().unwrap();
    assert!(number("min_proposal_size") > 32 && number("max_proposal_size") >= number("last_proposal_size"));
    assert!(number("looking_count") >= 1 && number("cnt_election_time") >= 1);
    assert!(number("cnt_unavailable_time") >= 1 && number("cnt_leader_unavailable_time") >= 1);
    assert!(number("diff_count") + number("snap_count") >= 2);
    // All that it proposed is committed by now, and each was measured; a follower may acknowledge behind the commit.
    assert_eq!(number("cnt_quorum_ack_latency"), number("proposal_count"));
    assert!(number("p50_quorum_ack_latency") <= number("p999_quorum_ack_latency"));
    assert!(number("p999_quorum_ack_latency") <= number("max_quorum_ack_latency"));
    let acks = |i: usize| number(&format!("cnt_{}_ack_latency", i + 1));
    assert!(acks(leader) + acks(follower) >= 1);
    assert_eq!((number("cnt_proposal_latency"), number("cnt_commit_propagation_latency")), (0, 0));
    assert!(number("connection_request_count") >= 1);
    let text = word(&cluster, leader, "srvr");
    let sizes = format!(
        "Proposal sizes last/min/max: {}/{}/{}\n",
        number("last_proposal_size"),
        number("min_proposal_size"),
        number("max_proposal_size")
    );
    assert!(text.contains("Mode: leader\n") && text.ends_with(&sizes), "{text}");

    let figures = until("all is durable there", || {
        let f = mntr(&cluster, follower);
        let received = &f["zk_learner_proposal_received_count"];
        let names = ["zk_cnt_proposal_ack_creation_latency", "zk_learner_commit_received_count"];
        names.iter().all(|n| f[*n] == *received).then_some(f)
    });
    assert_eq!(figures["zk_peer_state"], "following - broadcast");
    assert!(!figures.contains_key("zk_learners") && !figures.contains_key("zk_max_proposal_size"));
    assert_eq!(figures["zk_cnt_follower_sync_time"], "1");
    let number = |name: &str| figures[&format!("zk_{name}")].parse::<i64>().unwrap();
    assert!(number("learner_commit_received_count") >= 1);
    for name in ["proposal_latency", "proposal_ack_creation_latency", "commit_propagation_latency"] {
        assert_eq!(number(&format!("cnt_{name}")), number("learner_commit_received_count"), "{name}");
    }
    assert!(number("cnt_propagation_latency") >= number("learner_commit_received_count"));
    assert_eq!(number("cnt_quorum_ack_latency"), 0);

    let text = word(&cluster, follower, "dump");
    let line = format!("\n0x{:x}\t10000ms\n", session.session.0);
    assert!(text.contains("\nGlobal Sessions(") && text.contains(&line), "{text}");
    let text = word(&cluster, leader, "dump");
    assert!(
        text.contains("\nSession Sets (") && text.contains(&format!("\t0x{:x}\n", session.session.0)),
        "{text}"
    );

    let text = word(&cluster, follower, "conf");
    assert!(
        text.contains(&format!("\nserverId={}\ninitLimit=10\nsyncLimit=5\nelectionAlg=3\n", follower + 1)),
        "{text}"
    );
    let (_, membership) = text.split_once("\npeerType=0\nmembership: \n").expect("its place is told");
    assert!(membership.starts_with("server.1=127.0.0.1:") && membership.ends_with("\nversion=0"), "{text}");
    cluster.stop().unwrap();
}

#[test]
fn a_follower_serves_observers() {
    let port = 20_000 + (std::process::id() % 20_000) as u16;
    // One port for all, so each has an address of its own.
    let line = |i: u16, role: &str| {
        let (quorum, election) = (port + 1, port + 2);
        format!("server.{i}=127.0.0.{}:{quorum}:{election}:{role}\n", 10 + i)
    };
    let lines = [line(1, "participant"), line(2, "participant"), line(3, "participant"), line(4, "observer")];
    let members = Arc::new(Members::parse(&lines.concat()).unwrap());
    let start = |id: i64| {
        let ensemble = EnsembleConfig {
            observer_master_port: port,
            ..EnsembleConfig::local(ServerId(id), members.clone())
        };
        let limits = Limits { words: None, max_client_connections: 0, ..Limits::default() };
        let options = Options { ensemble: Some(ensemble), limits: Some(limits), ..Options::default() };
        Server::start(options).unwrap()
    };
    let mut servers: BTreeMap<i64, Server> = (1..=4).map(|id| (id, start(id))).collect();
    let says = |s: &Server, w: &str, wanted: &str| ask(s.client_addr(), w).is_ok_and(|t| t.contains(wanted));
    let serving = |servers: &BTreeMap<i64, Server>| {
        until("a follower has an observer", || {
            let followers = servers.iter().filter(|(_, s)| says(s, "srvr", "Mode: follower"));
            followers.map(|(id, _)| *id).find(|id| says(&servers[id], "mntr", "zk_synced_observers\t1\n"))
        })
    };
    let connect =
        |s: &Server| until("it takes clients", || Client::open(s.client_port(), &new_session()).ok());
    let first = serving(&servers);
    let leader = servers.values().find(|s| says(s, "srvr", "Mode: leader")).unwrap();
    assert!(says(leader, "mntr", "zk_synced_observers\t0\n"), "the leader has none");
    assert!(says(&servers[&4], "srvr", "Mode: observer"));

    let (mut c, session) = connect(&servers[&4]);
    assert_eq!(create(&mut c, "/by-observer", b"x").err, Code::OK);
    assert_eq!(create_ephemeral(&mut c, "/owned"), Code::OK);
    sync(&mut c);
    // A session moves there and back; both servers ask the leader, one of them through the other.
    let (mut at_follower, same) = Client::open(servers[&first].client_port(), &back(&session)).unwrap();
    assert_eq!(same.session, session.session);
    assert_eq!(create(&mut at_follower, "/by-follower", b"").err, Code::OK);
    let (mut c, same) = Client::open(servers[&4].client_port(), &back(&session)).unwrap();
    assert_eq!(same.session, session.session);
    // The connection that the session has left is closed at once, though nothing more is sent on it.
    at_follower.wait_for_end();
    sync(&mut c);
    assert_eq!(get(&mut c, "/by-follower").0.err, Code::OK);
    let unknown =
        ConnectRequest { session: SessionId(77), password: Some(&password(SessionId(77))), ..new_session() };
    assert_eq!(Client::open(servers[&4].client_port(), &unknown).unwrap().1.timeout_ms, 0);

    // Without that follower the observer finds another.
    servers.remove(&first).unwrap().stop().unwrap();
    assert_ne!(serving(&servers), first);
    let (mut c, _) = connect(&servers[&4]);
    sync(&mut c);
    assert_eq!(create(&mut c, "/later", b"").err, Code::OK);
    assert_eq!(get(&mut c, "/by-observer").1.as_deref(), Some(&b"x"[..]));
}
