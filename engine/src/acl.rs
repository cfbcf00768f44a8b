//! Who may do what: ACL evaluation, the fix-up of ACLs that clients send, auth packets (fact sheet 3.8).
//!
//! Behaves as ZooKeeper 3.9.5 with its two built-in providers, `ip` and `digest`. Other schemes are matched by
//! equality where an ACL already holds them (it came from another server's log), but a client can neither
//! authenticate under them nor set them.
//! Not here: where ACLs are kept (`tree`), which operation needs which permission (`pipeline`, `shard`).
//! Invariant: an ACL that `fix_up` returned is not empty and holds no entry of scheme `auth`.

use crate::error::Code;
use crate::proto::{Acl, Encode, Id};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use sha1::{Digest as _, Sha1};
use std::borrow::Cow;
use std::collections::HashSet;
use std::net::{IpAddr, Ipv6Addr};

/// Whether a connection that holds `ids` has one of the bits of `perm` under `acl`. An empty list allows everything,
/// as does the scheme `super`.
pub fn allowed(skip_acl: bool, ids: &[Id], acl: &[Acl], perm: i32) -> bool {
    // World:anyone comes first in nearly every list, so it is looked at before anything that needs a search.
    if skip_acl || acl.is_empty() || acl[0].perms & perm != 0 && is_anyone(&acl[0].id) {
        return true;
    }
    ids.iter().any(|id| &*id.scheme == "super")
        || acl.iter().any(|entry| entry.perms & perm != 0 && grants(&entry.id, ids))
}

/// Whether everyone has one of the bits of `perm`, whoever asks.
pub fn open_to_all(acl: &[Acl], perm: i32) -> bool {
    acl.is_empty() || acl.iter().any(|entry| entry.perms & perm != 0 && is_anyone(&entry.id))
}

fn is_anyone(id: &Id) -> bool {
    &*id.scheme == "world" && &*id.id == "anyone"
}

fn grants(entry: &Id, ids: &[Id]) -> bool {
    is_anyone(entry)
        || ids.iter().any(|held| {
            held.scheme == entry.scheme
                && match &*entry.scheme {
                    "ip" => ip_matches(&held.id, &entry.id),
                    "world" | "auth" => false,
                    _ => held.id == entry.id,
                }
        })
}

/// Turns the ACL of a create or setACL into the one that is stored: duplicates dropped, `auth` replaced by the
/// connection's authenticated identities.
///
/// # Errors
/// INVALIDACL: the list is empty, an entry's scheme is unknown here, its id has not the scheme's form, or `auth` is
/// used by a connection that has authenticated nobody.
pub fn fix_up(ids: &[Id], acl: Vec<Acl>) -> Result<Vec<Acl>, Code> {
    let mut fixed = Vec::with_capacity(acl.len());
    // Short lists are looked through; a frame full of entries must not cost their square.
    let mut seen = (acl.len() > 16).then(HashSet::new);
    for (at, entry) in acl.iter().enumerate() {
        let again = match &mut seen {
            Some(seen) => !seen.insert(entry),
            None => acl[..at].contains(entry),
        };
        if again {
            continue;
        }
        match &*entry.id.scheme {
            "auth" => {
                let before = fixed.len();
                let authenticated = ids.iter().filter(|id| is_authentication(&id.scheme));
                fixed.extend(authenticated.map(|id| Acl { perms: entry.perms, id: id.clone() }));
                if fixed.len() == before {
                    return Err(Code::INVALIDACL);
                }
            }
            _ if is_anyone(&entry.id) => fixed.push(entry.clone()),
            "digest" if is_digest_form(&entry.id.id) => fixed.push(entry.clone()),
            "ip" if IpRange::parse(&entry.id.id).is_some() => fixed.push(entry.clone()),
            _ => return Err(Code::INVALIDACL),
        }
    }
    if fixed.is_empty() { Err(Code::INVALIDACL) } else { Ok(fixed) }
}

/// Schemes whose ids `auth` stands for. An address is no proof of who somebody is; `super` has no provider.
fn is_authentication(scheme: &str) -> bool {
    matches!(scheme, "digest" | "sasl" | "x509")
}

/// As Java splits at ':' and drops empty parts at the end: exactly two parts must remain.
fn is_digest_form(id: &str) -> bool {
    let id = id.trim_end_matches(':');
    !id.is_empty() && id.matches(':').count() == 1
}

/// The identities that an auth packet adds to a connection.
///
/// # Errors
/// AUTHFAILED: no provider for that scheme; the connection is to be closed behind the reply.
pub fn authenticate(
    super_digest: Option<&str>,
    peer: IpAddr,
    scheme: &str,
    auth: &[u8],
) -> Result<Vec<Id>, Code> {
    match scheme {
        "digest" => {
            let id = digest_id(&String::from_utf8_lossy(auth));
            let mut ids = Vec::with_capacity(2);
            if super_digest == Some(&id) {
                ids.push(Id::new("super", ""));
            }
            ids.push(Id::new("digest", &id));
            Ok(ids)
        }
        "ip" => Ok(vec![peer_id(peer)]),
        _ => Err(Code::AUTHFAILED),
    }
}

/// `user:password` as it stands in ACLs: `user:base64(sha1("user:password"))`.
pub fn digest_id(user_and_password: &str) -> String {
    let user = user_and_password.split(':').next().unwrap_or_default();
    format!("{user}:{}", BASE64.encode(Sha1::digest(user_and_password.as_bytes())))
}

/// The identity that every connection has from the start: its address, written as Java writes it.
pub fn peer_id(peer: IpAddr) -> Id {
    Id::new("ip", &address_text(peer))
}

/// An address as Java's `getHostAddress` prints it: IPv4 dotted (also when mapped into IPv6), IPv6 as eight groups
/// without compression.
pub fn address_text(peer: IpAddr) -> String {
    match peer.to_canonical() {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => v6.segments().map(|s| format!("{s:x}")).join(":"),
    }
}

/// What a getACL reply shows: without ADMIN the secret half of every digest entry is replaced by `x`.
pub fn mask_for_reader<'a>(skip_acl: bool, ids: &[Id], acl: &'a [Acl]) -> Cow<'a, [Acl]> {
    if allowed(skip_acl, ids, acl, crate::proto::perm::ADMIN) {
        return Cow::Borrowed(acl);
    }
    let mask = |entry: &Acl| match (&*entry.id.scheme, entry.id.id.split_once(':')) {
        ("digest", Some((user, _))) => {
            Acl { perms: entry.perms, id: Id::new("digest", &format!("{user}:x")) }
        }
        _ => entry.clone(),
    };
    Cow::Owned(acl.iter().map(mask).collect())
}

/// Appends a WhoAmIResponse: scheme and user name of every identity. `super` has no provider, hence no name.
pub fn who_am_i(ids: &[Id], out: &mut Vec<u8>) {
    out.put_len(ids.len());
    for id in ids {
        out.put_string(&id.scheme);
        out.put_string(match &*id.scheme {
            "digest" => id.id.split(':').next().unwrap_or_default(),
            "super" => "",
            _ => &id.id,
        });
    }
}

/// An address or a network in an ACL entry of scheme `ip`.
struct IpRange {
    network: u128,
    /// Bits that need not agree, 0..=128; of an IPv4 address at most 32.
    free_bits: u32,
    v4: bool,
}

impl IpRange {
    fn parse(text: &str) -> Option<IpRange> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse::<i32>().ok()?)),
            None => (text, None),
        };
        let (value, v4) = address_bits(address)?;
        let width = if v4 { 32 } else { 128 };
        let bits = bits.unwrap_or(width);
        (0..=width).contains(&bits).then(|| IpRange { network: value, free_bits: (width - bits) as u32, v4 })
    }

    fn contains(&self, value: u128, v4: bool) -> bool {
        let differing = self.network ^ value;
        v4 == self.v4 && differing.checked_shr(self.free_bits).unwrap_or(0) == 0
    }
}

/// The number behind an address text, and whether it is IPv4 (then in the low 32 bits). IPv4 parts are read as Java
/// reads decimal integers: leading zeros and a plus sign are accepted.
fn address_bits(text: &str) -> Option<(u128, bool)> {
    if text.contains(':') {
        return text.parse::<Ipv6Addr>().ok().map(|a| (u128::from(a), false));
    }
    let mut value = 0u128;
    let mut parts = 0;
    for part in text.split('.') {
        let byte = part.parse::<i32>().ok().filter(|v| (0..=255).contains(v))?;
        value = value << 8 | byte as u128;
        parts += 1;
        if parts > 4 {
            return None;
        }
    }
    (parts == 4).then_some((value, true))
}

fn ip_matches(held: &str, entry: &str) -> bool {
    match (IpRange::parse(entry), address_bits(held)) {
        (Some(range), Some((value, v4))) => range.contains(value, v4),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::perm;

    fn entry(perms: i32, scheme: &str, id: &str) -> Acl {
        Acl { perms, id: Id::new(scheme, id) }
    }

    #[test]
    fn the_digest_of_the_fact_sheet() {
        assert_eq!(digest_id("u:p"), "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=");
        let peer = "127.0.0.1".parse().unwrap();
        let ids = authenticate(Some("u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ="), peer, "digest", b"u:p").unwrap();
        assert_eq!(ids, [Id::new("super", ""), Id::new("digest", "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ=")]);
        assert_eq!(authenticate(None, peer, "digest", b"u:p").unwrap().len(), 1);
        assert_eq!(authenticate(None, peer, "world", b"anyone"), Err(Code::AUTHFAILED));
        assert_eq!(authenticate(None, peer, "ip", b"").unwrap(), [Id::new("ip", "127.0.0.1")]);
    }

    #[test]
    fn super_and_skip_pass_everything_and_an_empty_list_is_open() {
        let closed = [entry(perm::READ, "digest", "a:b")];
        assert!(!allowed(false, &[], &closed, perm::READ));
        assert!(allowed(true, &[], &closed, perm::WRITE));
        assert!(allowed(false, &[Id::new("super", "")], &closed, perm::WRITE));
        assert!(allowed(false, &[Id::new("digest", "a:b")], &closed, perm::READ | perm::ADMIN));
        assert!(!allowed(false, &[Id::new("digest", "a:b")], &closed, perm::WRITE));
        assert!(allowed(false, &[], &[], perm::ADMIN));
        assert!(open_to_all(&[closed[0].clone(), entry(perm::READ, "world", "anyone")], perm::READ));
        assert!(!open_to_all(&closed, perm::READ));
        let other = [entry(perm::ALL, "world", "someone"), entry(perm::ALL, "auth", "")];
        assert!(!allowed(false, &[Id::new("world", "someone"), Id::new("auth", "")], &other, perm::READ));
    }

    #[test]
    fn addresses_match_after_masking() {
        let from = |ip: &str| vec![peer_id(ip.parse().unwrap())];
        let may = |ip: &str, range: &str| allowed(false, &from(ip), &[entry(1, "ip", range)], 1);
        assert!(
            may("10.1.2.3", "10.1.2.3") && may("10.1.2.3", "10.1.0.0/16") && may("10.1.2.3", "0.0.0.0/0")
        );
        assert!(may("::ffff:10.1.2.3", "10.1.2.3"), "a mapped address counts as IPv4");
        assert!(!may("10.1.2.3", "10.1.2.4") && !may("10.1.2.3", "10.2.0.0/16"));
        assert!(may("fe80::1", "fe80::/10") && may("fe80::1", "fe80:0:0:0:0:0:0:1") && may("::1", "::/0"));
        assert!(!may("fe80::1", "fe80::2") && !may("::1", "0.0.0.0/0"));
        assert_eq!(&*from("::1")[0].id, "0:0:0:0:0:0:0:1");
    }

    #[test]
    fn fix_up_expands_auth_drops_doubles_and_refuses_what_no_provider_knows() {
        let ids = [peer_id("127.0.0.1".parse().unwrap()), Id::new("digest", "u:x"), Id::new("digest", "v:y")];
        let fixed = fix_up(&ids, vec![entry(31, "auth", "whatever"), Acl::open(), Acl::open()]).unwrap();
        assert_eq!(fixed, [entry(31, "digest", "u:x"), entry(31, "digest", "v:y"), Acl::open()]);
        assert_eq!(fix_up(&ids[..1], vec![entry(31, "auth", "")]), Err(Code::INVALIDACL));
        assert_eq!(fix_up(&ids, vec![]), Err(Code::INVALIDACL));
        let bad = [
            ("world", "someone"),
            ("digest", "u"),
            ("digest", "u:"),
            ("digest", "a:b:c"),
            ("ip", "1.2.3"),
            ("ip", "1.2.3.4/33"),
            ("ip", "1.2.3.256"),
            ("ip", "::1/129"),
            ("ip", "1.2.3.4/"),
            ("sasl", "me"),
            ("x509", "CN=me"),
            ("super", ""),
            ("", ""),
            ("ip", "1.2.3.4.5"),
        ];
        for (scheme, id) in bad {
            assert_eq!(fix_up(&ids, vec![entry(31, scheme, id)]), Err(Code::INVALIDACL), "{scheme}:{id}");
        }
        for (scheme, id) in [("digest", ":b"), ("digest", "a:b:"), ("ip", "1.2.3.4/0"), ("ip", "::1/128")] {
            assert_eq!(fix_up(&ids, vec![entry(31, scheme, id)]).unwrap().len(), 1, "{scheme}:{id}");
        }
    }

    #[test]
    fn a_reader_without_admin_sees_no_digests() {
        let acl = [entry(perm::READ, "world", "anyone"), entry(perm::ALL, "digest", "u:secret")];
        let seen = mask_for_reader(false, &[], &acl);
        assert_eq!(seen[..], [acl[0].clone(), entry(perm::ALL, "digest", "u:x")]);
        assert_eq!(mask_for_reader(false, &[Id::new("digest", "u:secret")], &acl)[..], acl);
        assert_eq!(mask_for_reader(true, &[], &acl)[..], acl);
    }

    #[test]
    fn who_am_i_shows_names_without_secrets() {
        let mut out = vec![];
        who_am_i(
            &[Id::new("ip", "127.0.0.1"), Id::new("digest", "u:secret"), Id::new("super", "")],
            &mut out,
        );
        let mut want = vec![];
        want.put_int(3);
        for s in ["ip", "127.0.0.1", "digest", "u", "super", ""] {
            want.put_string(s);
        }
        assert_eq!(out, want);
    }
}
