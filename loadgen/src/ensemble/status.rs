//! What a server says about itself in `srvr`.

use crate::client::Endpoint;
use crate::system::four_letter_word;
use engine::ids::Zxid;

/// The role that a server plays.
#[derive(Clone, Copy, PartialEq, Eq, Debug, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    Leader,
    Follower,
    Observer,
    Standalone,
}

impl Mode {
    /// As it is written in `srvr`.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Leader => "leader",
            Mode::Follower => "follower",
            Mode::Observer => "observer",
            Mode::Standalone => "standalone",
        }
    }
}

/// A server's role and the last transaction that it has applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Status {
    pub mode: Mode,
    pub zxid: Zxid,
}

/// Reads an answer to `srvr`; `None` where it is none of a server that serves.
pub fn parse(answer: &str) -> Option<Status> {
    let of = |key: &str| answer.lines().find_map(|l| l.strip_prefix(key)).map(str::trim);
    let modes = [Mode::Leader, Mode::Follower, Mode::Observer, Mode::Standalone];
    let named = of("Mode:")?;
    let mode = *modes.iter().find(|m| m.name() == named)?;
    let zxid = Zxid(u64::from_str_radix(of("Zxid:")?.strip_prefix("0x")?, 16).ok()?);
    Some(Status { mode, zxid })
}

/// Asks a server.
pub fn status(endpoint: &Endpoint) -> Option<Status> {
    parse(&four_letter_word(endpoint, "srvr")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mode_and_zxid_are_read_and_refusals_are_none() {
        let answer = "Zookeeper version: 3.8.0\nLatency min/avg/max: 0/0.0/0\nReceived: 1\nSent: 0\nConnections: 1\n\
                      Outstanding: 0\nZxid: 0x30000001f\nMode: follower\nNode count: 5\n";
        assert_eq!(parse(answer), Some(Status { mode: Mode::Follower, zxid: Zxid::new(3, 0x1f) }));
        for bad in
            ["", "This ZooKeeper instance is not currently serving requests", "Mode: looking\nZxid: 0x1"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
