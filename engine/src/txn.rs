//! Transactions: what the log holds and what peers exchange, in ZooKeeper's own encoding (fact sheet 10.1).
//!
//! Not here: how a request becomes one (`pipeline::prep`), what it does to the tree (`pipeline::apply`).
//! Invariant: decode(encode(t)) == t, and a txn is applied from its bytes only, so that what is applied is what was
//! logged.

use crate::error::Code;
use crate::ids::{SessionId, Zxid};
use crate::proto::{Acl, Decoded, Decoder, Encode, Malformed, Op, get_acls, put_acls};
use crate::time::WallMs;
use std::borrow::Cow;

/// The header of every transaction (32 bytes).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TxnHeader {
    pub session: SessionId,
    pub cxid: i32,
    pub zxid: Zxid,
    pub time: WallMs,
    /// The kind, as on the wire: an opcode, or -1 for a failed write.
    pub kind: i32,
}

impl TxnHeader {
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.put_long(self.session.0);
        out.put_int(self.cxid);
        out.put_long(self.zxid.wire());
        out.put_long(self.time.0);
        out.put_int(self.kind);
    }
    pub fn decode(d: &mut Decoder<'_>) -> Decoded<Self> {
        Ok(TxnHeader {
            session: SessionId(d.long()?),
            cxid: d.int()?,
            zxid: Zxid::from_wire(d.long()?),
            time: WallMs(d.long()?),
            kind: d.int()?,
        })
    }
}

/// What a transaction does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TxnBody<'a> {
    Create {
        /// Create or Create2: they differ only in the reply.
        op: Op,
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        acl: Vec<Acl>,
        ephemeral: bool,
        /// The parent's stored cversion afterwards; `None` in very old logs: one more than before.
        parent_cversion: Option<i32>,
    },
    CreateContainer {
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        acl: Vec<Acl>,
        parent_cversion: i32,
    },
    CreateTtl {
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        acl: Vec<Acl>,
        parent_cversion: i32,
        ttl_ms: i64,
    },
    Delete {
        op: Op,
        path: Cow<'a, str>,
    },
    SetData {
        op: Op,
        path: Cow<'a, str>,
        data: Option<&'a [u8]>,
        version: i32,
    },
    SetAcl {
        path: Cow<'a, str>,
        acl: Vec<Acl>,
        version: i32,
    },
    Check {
        path: Cow<'a, str>,
        version: i32,
    },
    CreateSession {
        timeout_ms: i32,
    },
    /// `None`: written by a server before 3.6; the ephemerals are those that the session owns.
    CloseSession {
        paths: Option<Vec<Cow<'a, str>>>,
    },
    Error {
        code: Code,
    },
    Multi {
        items: Vec<MultiItem<'a>>,
    },
}

/// One operation of a multi: its kind and its encoded body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MultiItem<'a> {
    pub kind: i32,
    pub body: &'a [u8],
}

impl MultiItem<'_> {
    /// Whether this item voids the whole multi.
    pub fn is_error(&self) -> bool {
        self.kind == Op::Error.wire()
    }
}

impl<'a> TxnBody<'a> {
    /// The kind for the header.
    pub fn kind(&self) -> i32 {
        match self {
            TxnBody::Create { op, .. } | TxnBody::Delete { op, .. } | TxnBody::SetData { op, .. } => {
                op.wire()
            }
            TxnBody::CreateContainer { .. } => Op::CreateContainer.wire(),
            TxnBody::CreateTtl { .. } => Op::CreateTtl.wire(),
            TxnBody::SetAcl { .. } => Op::SetAcl.wire(),
            TxnBody::Check { .. } => Op::Check.wire(),
            TxnBody::CreateSession { .. } => Op::CreateSession.wire(),
            TxnBody::CloseSession { .. } => Op::CloseSession.wire(),
            TxnBody::Error { .. } => Op::Error.wire(),
            TxnBody::Multi { .. } => Op::Multi.wire(),
        }
    }

    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            TxnBody::Create { path, data, acl, ephemeral, parent_cversion, .. } => {
                put_node(out, path, *data, acl);
                out.put_bool(*ephemeral);
                if let Some(v) = parent_cversion {
                    out.put_int(*v);
                }
            }
            TxnBody::CreateContainer { path, data, acl, parent_cversion } => {
                put_node(out, path, *data, acl);
                out.put_int(*parent_cversion);
            }
            TxnBody::CreateTtl { path, data, acl, parent_cversion, ttl_ms } => {
                put_node(out, path, *data, acl);
                out.put_int(*parent_cversion);
                out.put_long(*ttl_ms);
            }
            TxnBody::Delete { path, .. } => out.put_string(path),
            TxnBody::SetData { path, data, version, .. } => {
                out.put_string(path);
                out.put_buffer(*data);
                out.put_int(*version);
            }
            TxnBody::SetAcl { path, acl, version } => {
                out.put_string(path);
                put_acls(out, acl);
                out.put_int(*version);
            }
            TxnBody::Check { path, version } => {
                out.put_string(path);
                out.put_int(*version);
            }
            TxnBody::CreateSession { timeout_ms } => out.put_int(*timeout_ms),
            TxnBody::CloseSession { paths: None } => {}
            TxnBody::CloseSession { paths: Some(paths) } => {
                out.put_len(paths.len());
                for p in paths {
                    out.put_string(p);
                }
            }
            TxnBody::Error { code } => out.put_int(code.0),
            TxnBody::Multi { items } => {
                out.put_len(items.len());
                for i in items {
                    out.put_int(i.kind);
                    out.put_buffer(Some(i.body));
                }
            }
        }
    }

    /// Decodes the body of a transaction of this kind. A digest may follow it.
    pub fn decode(kind: i32, d: &mut Decoder<'a>) -> Decoded<TxnBody<'a>> {
        let op = Op::from_wire(kind).ok_or(Malformed)?;
        Ok(match op {
            Op::Create | Op::Create2 => {
                let (path, data, acl) = get_node(d)?;
                let ephemeral = d.bool()?;
                // A record of the oldest layout ends here; with a digest behind it 12 bytes would be left, but
                // digests are younger than parentCVersion, so what is left then is never the digest.
                let parent_cversion = if d.is_empty() { None } else { Some(d.int()?) };
                TxnBody::Create { op, path, data, acl, ephemeral, parent_cversion }
            }
            Op::CreateContainer => {
                let (path, data, acl) = get_node(d)?;
                TxnBody::CreateContainer { path, data, acl, parent_cversion: d.int()? }
            }
            Op::CreateTtl => {
                let (path, data, acl) = get_node(d)?;
                TxnBody::CreateTtl { path, data, acl, parent_cversion: d.int()?, ttl_ms: d.long()? }
            }
            Op::Delete | Op::DeleteContainer => TxnBody::Delete { op, path: d.string_not_null()? },
            Op::SetData | Op::Reconfig => {
                TxnBody::SetData { op, path: d.string_not_null()?, data: d.buffer()?, version: d.int()? }
            }
            Op::SetAcl => {
                TxnBody::SetAcl { path: d.string_not_null()?, acl: get_acls(d)?, version: d.int()? }
            }
            Op::Check => TxnBody::Check { path: d.string_not_null()?, version: d.int()? },
            Op::CreateSession => TxnBody::CreateSession { timeout_ms: d.int()? },
            Op::CloseSession => {
                TxnBody::CloseSession { paths: if d.is_empty() { None } else { Some(d.strings()?) } }
            }
            Op::Error => TxnBody::Error { code: Code(d.int()?) },
            Op::Multi => {
                let n = d.count(8)?;
                let items =
                    (0..n).map(|_| Ok(MultiItem { kind: d.int()?, body: d.buffer()?.unwrap_or_default() }));
                TxnBody::Multi { items: items.collect::<Decoded<_>>()? }
            }
            _ => return Err(Malformed),
        })
    }
}

fn put_node(out: &mut Vec<u8>, path: &str, data: Option<&[u8]>, acl: &[Acl]) {
    out.put_string(path);
    out.put_buffer(data);
    put_acls(out, acl);
}

type NodeFields<'a> = (Cow<'a, str>, Option<&'a [u8]>, Vec<Acl>);

fn get_node<'a>(d: &mut Decoder<'a>) -> Decoded<NodeFields<'a>> {
    Ok((d.string_not_null()?, d.buffer()?, get_acls(d)?))
}

/// The digest version that we write and understand (fact sheet 10.2).
pub const DIGEST_VERSION: i32 = 2;

/// A whole transaction.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Txn<'a> {
    pub header: TxnHeader,
    pub body: TxnBody<'a>,
    /// The tree digest after this transaction, when its author wrote one of our version.
    pub digest: Option<u64>,
}

impl<'a> Txn<'a> {
    /// Appends header, body and digest.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.header.encode(out);
        self.body.encode(out);
        if let Some(digest) = self.digest {
            out.put_int(DIGEST_VERSION);
            out.put_long(digest as i64);
        }
    }
    /// Decodes a transaction that fills `bytes`.
    pub fn decode(bytes: &'a [u8]) -> Decoded<Txn<'a>> {
        let mut d = Decoder::new(bytes);
        let header = TxnHeader::decode(&mut d)?;
        let body = TxnBody::decode(header.kind, &mut d)?;
        let digest = if d.is_empty() {
            None
        } else {
            let version = d.int()?;
            let value = d.long()?;
            (version == DIGEST_VERSION).then_some(value as u64)
        };
        Ok(Txn { header, body, digest })
    }
}

/// The zxid of a transaction that can be applied: all of it is understood, each item of a multi included. `None`: it
/// cannot, and must not get into a log.
pub fn check(bytes: &[u8]) -> Option<Zxid> {
    let txn = Txn::decode(bytes).ok()?;
    if let TxnBody::Multi { items } = &txn.body {
        let sound =
            |i: &MultiItem<'_>| i.is_error() || TxnBody::decode(i.kind, &mut Decoder::new(i.body)).is_ok();
        if !items.iter().any(MultiItem::is_error) && !items.iter().all(sound) {
            return None;
        }
    }
    Some(txn.header.zxid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(s: &str) -> Vec<u8> {
        let s: String = s.chars().filter(|c| c.is_ascii_hexdigit()).collect();
        (0..s.len()).step_by(2).map(|i| u8::from_str_radix(&s[i..i + 2], 16).unwrap()).collect()
    }

    /// Bodies seen in a live 3.8.0 log (fact sheet 10.1).
    #[test]
    fn live_bodies_decode_and_encode_to_themselves() {
        let head = "0100000e36990000 00000001 0000000000000002 000001a1f976f8ec";
        for (kind, rest) in [
            ("fffffff6", "00001770 | 00000002 0000000051c6d660"),
            (
                "00000001",
                "000000022f61 0000000568656c6c6f 00000001 0000001f 00000005776f726c64 00000006616e796f6e65 00 \
                 00000001 | 00000002 0000000110061b88",
            ),
            ("ffffffff", "ffffff92"),
            ("fffffff5", "00000000 | 00000002 0000000051c6d660"),
            ("00000014", "000000042f74746c | 00000002 0000000051c6d660"),
        ] {
            let bytes = hex(&format!("{head} {kind} {rest}"));
            let txn = Txn::decode(&bytes).unwrap();
            let mut again = Vec::new();
            txn.encode(&mut again);
            assert_eq!(again, bytes, "{txn:?}");
            assert_eq!(txn.body.kind(), txn.header.kind);
        }
    }

    #[test]
    fn every_body_survives_a_round_trip() {
        let acl = vec![Acl::open()];
        let bodies = vec![
            TxnBody::CreateContainer { path: "/c".into(), data: None, acl: acl.clone(), parent_cversion: 3 },
            TxnBody::CreateTtl {
                path: "/t".into(),
                data: Some(b""),
                acl: acl.clone(),
                parent_cversion: -1,
                ttl_ms: 9,
            },
            TxnBody::SetData { op: Op::SetData, path: "/d".into(), data: Some(b"x"), version: 7 },
            TxnBody::SetAcl { path: "/d".into(), acl, version: 1 },
            TxnBody::Check { path: "/d".into(), version: 2 },
            TxnBody::CloseSession { paths: Some(vec!["/e".into(), "/f".into()]) },
            TxnBody::Multi { items: vec![MultiItem { kind: -1, body: &[0, 0, 0, 0] }] },
        ];
        for body in bodies {
            let header = TxnHeader {
                session: SessionId(5),
                cxid: 6,
                zxid: Zxid(7),
                time: WallMs(8),
                kind: body.kind(),
            };
            let txn = Txn { header, body, digest: Some(0x1_0000_0001) };
            let mut bytes = Vec::new();
            txn.encode(&mut bytes);
            assert_eq!(Txn::decode(&bytes), Ok(txn));
        }
    }

    #[test]
    fn cut_records_are_malformed_not_a_panic() {
        let bytes = hex(
            "0100000e36990000 00000001 0000000000000002 000001a1f976f8ec 00000005 000000022f61 00000001 78 00000001",
        );
        assert!(Txn::decode(&bytes).is_ok());
        for n in 0..bytes.len() {
            assert!(Txn::decode(&bytes[..n]).is_err(), "{n}");
        }
    }
}
