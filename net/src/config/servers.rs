//! `server.N` lines: the members of an ensemble, as zoo.cfg and the dynamic configuration file give them.
//!
//! Not here: quorums, and what members do. A standalone server reads the lines to tell that it is one, and for the
//! client address that its own line may carry.
//! Grammar (fact sheet section 6): `host:quorumPort:electionPort[:participant|observer][;[addr:]clientPort]
//! [;[addr:]securePort]`, several `host:p:p` joined by `|`; IPv6 hosts in brackets.

use super::values::{self, Allowed};
use std::net::IpAddr;

/// One member.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerLine {
    /// N of `server.N`.
    pub id: u64,
    /// `host:quorumPort:electionPort` of each of its addresses.
    pub addresses: Vec<PeerAddress>,
    pub observer: bool,
    /// The client address behind `;`: `None` for all interfaces.
    pub client: Option<(Option<String>, u16)>,
    /// The TLS client address behind the second `;`.
    pub secure: Option<(Option<String>, u16)>,
}

/// Where a member listens for its peers.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerAddress {
    /// Name or address, without brackets.
    pub host: String,
    pub quorum_port: u16,
    pub election_port: u16,
}

const GRAMMAR: &str =
    "host:quorumPort:electionPort[:participant|observer][;[addr:]clientPort][;[addr:]securePort]";

impl ServerLine {
    /// Reads one line.
    ///
    /// # Errors
    /// The number or the text does not follow the grammar; the error states it.
    pub fn parse(key: &str, value: &str) -> Result<ServerLine, Allowed> {
        let id =
            key.strip_prefix("server.").and_then(|n| n.parse::<u64>().ok()).filter(|&n| n <= i64::MAX as u64);
        let id = id.ok_or_else(|| Allowed("a key server.N with a whole number N".into()))?;
        Self::parse_value(id, value).ok_or_else(|| Allowed(GRAMMAR.into()))
    }

    fn parse_value(id: u64, value: &str) -> Option<ServerLine> {
        let mut parts = value.split(';').map(str::trim);
        let peers = parts.next()?;
        let client = parts.next().map(client_address);
        let secure = parts.next().map(client_address);
        if parts.next().is_some() || client == Some(None) || secure == Some(None) {
            return None;
        }
        let (peers, observer) = match peers.rsplit_once(':') {
            Some((rest, role)) if role.eq_ignore_ascii_case("observer") => (rest, true),
            Some((rest, role)) if role.eq_ignore_ascii_case("participant") => (rest, false),
            _ => (peers, false),
        };
        let addresses = peers.split('|').map(peer_address).collect::<Option<Vec<_>>>()?;
        Some(ServerLine { id, addresses, observer, client: client.flatten(), secure: secure.flatten() })
    }

    /// The client address as something to listen on; the name is resolved.
    ///
    /// # Errors
    /// The host is neither an address nor a name that resolves.
    pub fn client_listen(&self) -> Result<Option<(Option<IpAddr>, u16)>, Allowed> {
        match &self.client {
            None => Ok(None),
            Some((None, port)) => Ok(Some((None, *port))),
            Some((Some(host), port)) => Ok(Some((Some(values::ip_addr(host)?), *port))),
        }
    }
}

fn peer_address(text: &str) -> Option<PeerAddress> {
    let (rest, election) = text.rsplit_once(':')?;
    let (host, quorum) = rest.rsplit_once(':')?;
    Some(PeerAddress {
        host: host_name(host)?,
        quorum_port: listen_port(quorum)?,
        election_port: listen_port(election)?,
    })
}

fn client_address(text: &str) -> Option<(Option<String>, u16)> {
    match text.rsplit_once(':') {
        None => Some((None, listen_port(text)?)),
        Some((host, port)) => Some((Some(host_name(host)?), listen_port(port)?)),
    }
}

/// A host without brackets; a bare IPv6 address is refused, since its last group would pass for a port.
fn host_name(text: &str) -> Option<String> {
    let bracketed = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let good = match bracketed {
        Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
        None => !text.is_empty() && !text.contains([':', '[', ']', ' ']),
    };
    good.then(|| bracketed.unwrap_or(text).to_owned())
}

fn listen_port(text: &str) -> Option<u16> {
    text.parse::<u16>().ok().filter(|&p| p > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Option<ServerLine> {
        ServerLine::parse("server.3", value).ok()
    }

    #[test]
    fn every_part_of_the_grammar_is_read() {
        let s = parse("zoo1:2888:3888:observer;10.0.0.1:2181;2281").unwrap();
        assert_eq!((s.id, s.observer), (3, true));
        let want = PeerAddress { host: "zoo1".into(), quorum_port: 2888, election_port: 3888 };
        assert_eq!(s.addresses, [want]);
        assert_eq!(s.client, Some((Some("10.0.0.1".into()), 2181)));
        assert_eq!(s.secure, Some((None, 2281)));
        assert_eq!(s.client_listen(), Ok(Some((Some("10.0.0.1".parse().unwrap()), 2181))));
    }

    #[test]
    fn roles_and_client_addresses_may_be_left_out() {
        let s = parse("[fe80::1]:2888:3888").unwrap();
        assert_eq!((s.observer, s.client.clone()), (false, None));
        assert_eq!(s.addresses[0].host, "fe80::1");
        assert_eq!(s.client_listen(), Ok(None));
        assert_eq!(parse("a:1:2;2181").unwrap().client, Some((None, 2181)));
        assert_eq!(parse("a:1:2|b:3:4:participant").unwrap().addresses.len(), 2);
    }

    #[test]
    fn what_does_not_follow_the_grammar_is_refused() {
        for bad in [
            "",
            "a",
            "a:1",
            "a:1:2:leader",
            "a:0:2",
            "a:1:70000",
            "fe80::1:1:2",
            "a:1:2;",
            "a:1:2;x",
            "a:1:2;1;2;3",
        ] {
            assert_eq!(parse(bad), None, "{bad:?}");
        }
        assert!(ServerLine::parse("server.x", "a:1:2").is_err());
        assert!(ServerLine::parse("server.-1", "a:1:2").is_err());
    }
}
