//! Words about clients: `cons`, `dump`, `wchs`, `wchc`, `wchp`, and a connection's line in `stat`.
//!
//! Not here: the server's own figures (`server`). Pure; lists come from the shards and the core, in any order.
//! Invariant: only data watches are listed, as in ZooKeeper; the shards fill their lists so.

use super::java;
use engine::ids::SessionId;
use engine::msg::ConnStat;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::SocketAddr;

/// A connection in short, without a line end.
pub fn brief(out: &mut String, c: &ConnStat) {
    let peer = java::peer(c.peer);
    let _ =
        write!(out, " {peer}[{:x}](queued={},recved={},sent={})", c.interest, c.queued, c.received, c.sent);
}

/// `cons`.
pub fn cons(connections: &[ConnStat]) -> String {
    let mut out = String::new();
    for c in connections {
        brief(&mut out, c);
        if c.session != SessionId::NONE {
            out.pop(); // the closing bracket
            session_part(&mut out, c);
        }
        out.push('\n');
    }
    out.push('\n');
    out
}

fn session_part(out: &mut String, c: &ConnStat) {
    let (sid, op, established, timeout) = (c.session.0, c.last_op, c.established_ms, c.timeout_ms);
    let _ = write!(out, ",sid=0x{sid:x},lop={op},est={established},to={timeout}");
    if c.last_cxid >= 0 {
        let _ = write!(out, ",lcxid=0x{:x}", c.last_cxid);
    }
    let _ = write!(
        out,
        ",lzxid=0x{:x},lresp={},llat={},minlat={},avglat={},maxlat={})",
        c.last_zxid,
        c.last_response_ms,
        c.last_latency_ms,
        c.min_latency_ms,
        c.avg_latency_ms,
        c.max_latency_ms
    );
}

/// Watched paths by session; a session stands at most once per shard.
pub type Watches = [(SessionId, Vec<String>)];

/// `wchs`.
pub fn wchs(watches: &Watches) -> String {
    let total: usize = watches.iter().map(|(_, paths)| paths.len()).sum();
    let connections = watches.iter().filter(|(_, paths)| !paths.is_empty()).count();
    let paths = by_path(watches).len();
    format!("{connections} connections watching {paths} paths\nTotal watches:{total}\n")
}

/// `wchc`: paths by session.
pub fn wchc(watches: &Watches) -> String {
    let mut out = String::new();
    for (session, paths) in watches.iter().filter(|(_, paths)| !paths.is_empty()) {
        let _ = writeln!(out, "0x{:x}", session.0);
        paths.iter().for_each(|p| out.extend(["\t", p, "\n"]));
    }
    out.push('\n');
    out
}

/// `wchp`: sessions by path.
pub fn wchp(watches: &Watches) -> String {
    let mut out = String::new();
    for (path, sessions) in by_path(watches) {
        out.extend([path, "\n"]);
        for session in sessions {
            let _ = writeln!(out, "\t0x{:x}", session.0);
        }
    }
    out.push('\n');
    out
}

fn by_path(watches: &Watches) -> BTreeMap<&str, Vec<SessionId>> {
    let mut map: BTreeMap<&str, Vec<SessionId>> = BTreeMap::new();
    for (session, paths) in watches {
        for path in paths {
            map.entry(path).or_default().push(*session);
        }
    }
    map
}

/// Sessions as the word `dump` shows them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sessions {
    /// A standalone server or leader: sets by the wall-clock ms at which they expire.
    Expiring(Vec<(i64, Vec<SessionId>)>),
    /// A follower or observer: global sessions with their timeouts, ms.
    Global(Vec<(SessionId, i32)>),
}

/// What `dump` prints.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Dump {
    /// Sessions that only this server knows, as `Sessions::Expiring` has them; `None`: there are none by configuration.
    pub local: Option<Vec<(i64, Vec<SessionId>)>>,
    pub sessions: Sessions,
    /// Owners with their ephemeral nodes.
    pub ephemerals: Vec<(SessionId, Vec<String>)>,
    /// Connections by the wall-clock ms at which they are closed unless something arrives; one without a session has
    /// `SessionId::NONE`.
    pub connections: Vec<(i64, Vec<(SocketAddr, SessionId)>)>,
}

/// `dump`.
pub fn dump(d: &Dump) -> String {
    let mut out = "SessionTracker dump:\n".to_owned();
    let line = |out: &mut String, s: &SessionId| {
        let _ = writeln!(out, "\t0x{:x}", s.0);
    };
    if let Some(sets) = &d.local {
        buckets(&mut out, "Local Session", sets, line);
    }
    match &d.sessions {
        Sessions::Expiring(sets) => {
            let what = if d.local.is_some() { "Global Session" } else { "Session" };
            buckets(&mut out, what, sets, line);
        }
        Sessions::Global(sessions) => {
            let _ = writeln!(out, "Global Sessions({}):", sessions.len());
            for (session, timeout) in sessions {
                let _ = writeln!(out, "0x{:x}\t{timeout}ms", session.0);
            }
        }
    }
    let _ = writeln!(out, "ephemeral nodes dump:\nSessions with Ephemerals ({}):", d.ephemerals.len());
    for (session, paths) in &d.ephemerals {
        let _ = writeln!(out, "0x{:x}:", session.0);
        paths.iter().for_each(|p| out.extend(["\t", p, "\n"]));
    }
    out.push_str("Connections dump:\n");
    buckets(&mut out, "Connections", &d.connections, |out, (addr, session)| {
        let _ = writeln!(out, "\tip: {} sessionId: 0x{:x}", java::peer(*addr), session.0);
    });
    out
}

fn buckets<T>(out: &mut String, what: &str, sets: &[(i64, Vec<T>)], line: impl Fn(&mut String, &T)) {
    let total: usize = sets.iter().map(|(_, all)| all.len()).sum();
    let _ = writeln!(out, "{what} Sets ({})/({total}):", sets.len());
    for (expires_ms, all) in sets {
        let _ = writeln!(out, "{} expire at {}:", all.len(), java::date(*expires_ms));
        all.iter().for_each(|one| line(out, one));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const A: SessionId = SessionId(0x100002013db0000);
    const B: SessionId = SessionId(0x100002013db0001);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    /// The connection that asks, which has no session.
    pub fn four_letter() -> ConnStat {
        ConnStat {
            peer: addr(42734),
            interest: 0,
            queued: 0,
            received: 1,
            sent: 0,
            session: SessionId::NONE,
            last_op: "NA",
            established_ms: 1_795_224_527_999,
            timeout_ms: 0,
            last_cxid: -1,
            last_zxid: -1,
            last_response_ms: 0,
            last_latency_ms: 0,
            min_latency_ms: 0,
            avg_latency_ms: 0,
            max_latency_ms: 0,
        }
    }

    pub fn with_session() -> ConnStat {
        ConnStat {
            peer: addr(42694),
            interest: 1,
            received: 4,
            sent: 4,
            session: B,
            last_op: "GETD",
            established_ms: 1_795_224_527_861,
            timeout_ms: 10_000,
            last_cxid: 3,
            last_zxid: 6,
            last_response_ms: 2_141_042,
            max_latency_ms: 1,
            ..four_letter()
        }
    }

    #[test]
    fn cons_is_zookeepers() {
        let want = " /127.0.0.1:42694[1](queued=0,recved=4,sent=4,sid=0x100002013db0001,lop=GETD,\
                    est=1795224527861,to=10000,lcxid=0x3,lzxid=0x6,lresp=2141042,llat=0,minlat=0,avglat=0,maxlat=1)\n \
                    /127.0.0.1:42734[0](queued=0,recved=1,sent=0)\n\n";
        assert_eq!(cons(&[with_session(), four_letter()]), want);
        assert_eq!(cons(&[]), "\n");
    }

    #[test]
    fn a_reset_connection_has_no_cxid_and_zxid_minus_one() {
        let reset = ConnStat { last_op: "NA", last_cxid: -1, last_zxid: -1, ..with_session() };
        assert!(
            cons(&[reset]).contains(",lop=NA,est=1795224527861,to=10000,lzxid=0xffffffffffffffff,lresp=")
        );
    }

    #[test]
    fn watches_are_listed_by_session_and_by_path() {
        let watches = [
            (B, vec!["/a".to_owned()]),
            (A, vec!["/a".to_owned(), "/nope".to_owned()]),
            (SessionId(0x100002013db0002), vec![]),
        ];
        assert_eq!(wchs(&watches), "2 connections watching 2 paths\nTotal watches:3\n");
        assert_eq!(wchc(&watches), "0x100002013db0001\n\t/a\n0x100002013db0000\n\t/a\n\t/nope\n\n");
        assert_eq!(
            wchp(&watches),
            "/a\n\t0x100002013db0001\n\t0x100002013db0000\n/nope\n\t0x100002013db0000\n\n"
        );
        assert_eq!(
            (wchs(&[]).as_str(), wchc(&[]).as_str()),
            ("0 connections watching 0 paths\nTotal watches:0\n", "\n")
        );
        assert_eq!(wchp(&[]), "\n");
    }

    #[test]
    fn dump_is_zookeepers() {
        let d = Dump {
            local: None,
            sessions: Sessions::Expiring(vec![(1_795_224_534_000, vec![A]), (1_795_224_538_000, vec![B])]),
            ephemerals: vec![(B, vec!["/e2".into(), "/e3".into()]), (A, vec!["/e1".into()])],
            connections: vec![
                (1_795_224_536_000, vec![(addr(42686), A)]),
                (1_795_224_546_000, vec![(addr(42694), B), (addr(42794), SessionId::NONE)]),
            ],
        };
        let want = "SessionTracker dump:\nSession Sets (2)/(2):\n1 expire at Sat Nov 21 01:28:54 UTC 2026:\n\
                    \t0x100002013db0000\n1 expire at Sat Nov 21 01:28:58 UTC 2026:\n\t0x100002013db0001\n\
                    ephemeral nodes dump:\nSessions with Ephemerals (2):\n0x100002013db0001:\n\t/e2\n\t/e3\n\
                    0x100002013db0000:\n\t/e1\nConnections dump:\nConnections Sets (2)/(3):\n\
                    1 expire at Sat Nov 21 01:28:56 UTC 2026:\n\tip: /127.0.0.1:42686 sessionId: 0x100002013db0000\n\
                    2 expire at Sat Nov 21 01:29:06 UTC 2026:\n\tip: /127.0.0.1:42694 sessionId: 0x100002013db0001\n\
                    \tip: /127.0.0.1:42794 sessionId: 0x0\n";
        assert_eq!(dump(&d), want);
        let local = vec![(1_795_224_534_000, vec![B])];
        let leader = dump(&Dump { local: Some(local), ..d.clone() });
        assert!(leader.starts_with(
            "SessionTracker dump:\nLocal Session Sets (1)/(1):\n1 expire at Sat Nov 21 01:28:54 UTC 2026:\n\
             \t0x100002013db0001\nGlobal Session Sets (2)/(2):\n"
        ));
        let follower = Dump { sessions: Sessions::Global(vec![(A, 6_000)]), ..d };
        let text = dump(&follower);
        assert!(
            text.starts_with(
                "SessionTracker dump:\nGlobal Sessions(1):\n0x100002013db0000\t6000ms\nephemeral"
            )
        );
    }
}
