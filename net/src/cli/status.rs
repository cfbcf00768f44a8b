//! `serval status`: asks servers with `srvr` and prints one line for each.
//!
//! Not here: what a server answers (`words::server`). Works against any server that knows `srvr`.
//! Invariants: all servers are asked at once, each within the timeout; a server that answers anything but figures is
//! one that does not serve, and so is one that only reads are left to; nothing that a server sends can make more than 64 KiB be read.

use super::{EXIT_FOUND, EXIT_OK, say};
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// Most that is read of an answer, bytes.
const ANSWER_BYTES_MAX: u64 = 64 << 10;

/// The figures of one serving server, as text.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Figures {
    version: String,
    role: String,
    zxid: String,
    connections: String,
    /// min/avg/max, ms.
    latency: String,
    nodes: String,
}

/// Asks all, prints the table, and tells whether all serve.
pub fn status(servers: &[String], timeout_ms: u64) -> u8 {
    let timeout = Duration::from_millis(timeout_ms);
    let answers: Vec<Result<Figures, String>> = std::thread::scope(|s| {
        let asked: Vec<_> = servers.iter().map(|server| s.spawn(move || ask(server, timeout))).collect();
        asked.into_iter().map(|a| a.join().unwrap_or_else(|_| Err("asking it failed".to_owned()))).collect()
    });
    say(&table(servers, &answers));
    let serves = |a: &Result<Figures, String>| a.as_ref().is_ok_and(|f| f.role != "read-only");
    if answers.iter().all(serves) { EXIT_OK } else { EXIT_FOUND }
}

fn ask(server: &str, timeout: Duration) -> Result<Figures, String> {
    let answer = srvr(server, timeout).map_err(|e| match e.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => e.to_string(),
    })?;
    parse(&answer).ok_or_else(|| match answer.lines().next() {
        Some(line) => line.chars().take(100).collect(),
        None => "closed the connection without an answer".to_owned(),
    })
}

fn srvr(server: &str, timeout: Duration) -> io::Result<String> {
    let deadline = Instant::now() + timeout;
    let left = || {
        deadline
            .checked_duration_since(Instant::now())
            .filter(|d| !d.is_zero())
            .ok_or(io::ErrorKind::TimedOut)
    };
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in with_port(server).to_socket_addrs()? {
        let mut stream = match TcpStream::connect_timeout(&addr, left()?) {
            Ok(stream) => stream,
            Err(e) => {
                last = e;
                continue;
            }
        };
        stream.write_all(b"srvr")?;
        stream.shutdown(Shutdown::Write)?;
        let mut answer = Vec::new();
        let mut limited = stream.take(ANSWER_BYTES_MAX);
        let mut piece = [0; 4096];
        loop {
            // Set anew each time: a server that sends one byte now and then must not hold us for ever.
            limited.get_ref().set_read_timeout(Some(left()?))?;
            match limited.read(&mut piece)? {
                0 => return Ok(String::from_utf8_lossy(&answer).into_owned()),
                n => answer.extend_from_slice(&piece[..n]),
            }
        }
    }
    Err(last)
}

/// The server with port 2181 where none is given.
fn with_port(server: &str) -> String {
    let after_host = server.rsplit_once(']').map_or(server, |(_, rest)| rest);
    if after_host.contains(':') {
        server.to_owned()
    } else {
        format!("{server}:{}", crate::config::DEFAULT_CLIENT_PORT)
    }
}

/// The figures of an answer to `srvr`; `None` if a serving server would not say this.
fn parse(answer: &str) -> Option<Figures> {
    let field = |name: &str| answer.lines().find_map(|l| l.strip_prefix(name)).map(|v| v.trim().to_owned());
    Some(Figures {
        version: field("Zookeeper version:")?.split([',', ' ']).next().unwrap_or("").to_owned(),
        role: field("Mode:")?,
        zxid: field("Zxid:")?,
        connections: field("Connections:")?,
        latency: field("Latency min/avg/max:")?,
        nodes: field("Node count:")?,
    })
}

fn table(servers: &[String], answers: &[Result<Figures, String>]) -> String {
    let head = ["SERVER", "ROLE", "ZXID", "CONNECTIONS", "LATENCY MIN/AVG/MAX MS", "NODES", "VERSION"];
    let mut rows = vec![head.map(str::to_owned)];
    for (server, answer) in servers.iter().zip(answers) {
        let server = server.clone();
        rows.push(match answer {
            Ok(f) => [&server, &f.role, &f.zxid, &f.connections, &f.latency, &f.nodes, &f.version]
                .map(String::clone),
            Err(why) => [server, format!("not serving: {why}")]
                .into_iter()
                .chain(vec![String::new(); 5])
                .collect::<Vec<_>>()
                .try_into()
                .unwrap_or_default(),
        });
    }
    // A row of words instead of figures does not widen the columns of the others.
    let width = |column: usize| {
        let cells =
            rows.iter().filter(|r| column == 0 || !r[2].is_empty()).map(|r| r[column].chars().count());
        cells.max().unwrap_or(0)
    };
    let widths: [usize; 7] = std::array::from_fn(width);
    let mut out = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(widths) {
            let _ = write!(line, "{cell:<width$}  ");
        }
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::server::{Mode, ServerInfo, srvr as render};

    #[test]
    fn our_own_answer_and_zookeepers_are_understood() {
        let f = parse(&render(&ServerInfo { node_count: 5, ..ServerInfo::default() })).unwrap();
        assert_eq!((f.role.as_str(), f.zxid.as_str(), f.latency.as_str()), ("standalone", "0x0", "0/0.0/0"));
        assert!(f.version.starts_with("3.9.5-serval-"));
        let theirs = "Zookeeper version: 3.8.0-abc, built on 2024-12-29 17:54 UTC\nLatency min/avg/max: 0/1.8182/9\n\
                      Received: 21\nSent: 19\nConnections: 3\nOutstanding: 0\nZxid: 0x7\nMode: leader\nNode count: 9\n";
        assert_eq!(parse(theirs).unwrap().version, "3.8.0-abc");
        for (mode, role) in
            [(Mode::Leader, "leader"), (Mode::Observer, "observer"), (Mode::ReadOnly, "read-only")]
        {
            let ours = parse(&render(&ServerInfo { mode, ..ServerInfo::default() })).unwrap();
            assert_eq!((ours.role.as_str(), ours.nodes.as_str()), (role, "0"));
        }
        assert_eq!(parse("This ZooKeeper instance is not currently serving requests\n"), None);
    }

    #[test]
    fn ports_are_added_where_they_are_missing() {
        for (given, want) in
            [("a", "a:2181"), ("a:1", "a:1"), ("[::1]", "[::1]:2181"), ("[::1]:7", "[::1]:7")]
        {
            assert_eq!(with_port(given), want);
        }
    }

    #[test]
    fn the_table_lines_up_and_words_do_not_widen_it() {
        let f = parse(&render(&ServerInfo::default())).unwrap();
        let text = table(&["a:1".into(), "bb:22".into()], &[Ok(f), Err("refused".into())]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0].find("ZXID"), lines[1].find("0x0"));
        assert_eq!(lines[2], "bb:22   not serving: refused");
    }
}
