//! `serval wal dump|verify`: what is in a data directory, with its transactions in words.
//!
//! Not here: the formats (`wal::inspect`, `engine::txn`). Nothing is written, no lock is taken.
//! Invariant: the contents of znodes and the digests of ACLs are not printed; names are, with control characters
//! escaped.

use super::{EXIT_FOUND, EXIT_OK, EXIT_START};
use crate::words::java;
use engine::proto::{Acl, Decoder, Op};
use engine::txn::{MultiItem, Txn, TxnBody};
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use wal::WalError;
use wal::disk::RealDisk;
use wal::inspect::{self, Entry};

/// Why a walk ended early.
enum Stop {
    Wal(WalError),
    /// Standard output is gone: whoever read it has seen enough.
    Output(io::Error),
}
impl From<WalError> for Stop {
    fn from(e: WalError) -> Stop {
        Stop::Wal(e)
    }
}
impl From<io::Error> for Stop {
    fn from(e: io::Error) -> Stop {
        Stop::Output(e)
    }
}

/// Prints everything in the log.
pub fn dump(dir: &Path) -> u8 {
    let Some(disk) = disk_of(dir) else { return EXIT_START };
    let mut out = BufWriter::new(io::stdout().lock());
    let walked = inspect::dump(&disk, dir, |entry| -> Result<(), Stop> {
        match entry {
            Entry::Record { position, payload } => {
                writeln!(out, "    record {position} {}", transaction(payload))?
            }
            other => writeln!(out, "{other}")?,
        }
        Ok(())
    });
    match walked.and_then(|()| Ok(out.flush()?)) {
        Ok(()) => EXIT_OK,
        Err(Stop::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => EXIT_OK,
        Err(Stop::Output(e)) => failed(&e),
        Err(Stop::Wal(e)) => failed(&e),
    }
}

/// Checks everything, prints what was found.
pub fn verify(dir: &Path) -> u8 {
    let Some(disk) = disk_of(dir) else { return EXIT_START };
    let found = match inspect::verify(&disk, dir) {
        Ok(found) => found,
        Err(e) => return failed(&e),
    };
    super::say(&format!("{found}\n"));
    let mut unreadable = 0u64;
    let walked = inspect::dump(&disk, dir, |entry| -> Result<(), Stop> {
        if let Entry::Record { position, payload } = entry
            && Txn::decode(payload).is_err()
        {
            unreadable += 1;
            if unreadable <= 10 {
                super::say(&format!("PROBLEM: record {position} is not a transaction\n"));
            }
        }
        Ok(())
    });
    match walked {
        Err(Stop::Wal(e)) if found.problems.is_empty() => failed(&e),
        _ if unreadable > 0 || !found.problems.is_empty() => EXIT_FOUND,
        _ => EXIT_OK,
    }
}

/// The disk, if `dir` is a directory on it: a name with a typing error must not pass for an empty log.
fn disk_of(dir: &Path) -> Option<RealDisk> {
    match std::fs::metadata(dir) {
        Ok(m) if m.is_dir() => return Some(RealDisk::default()),
        Ok(_) => eprintln!("serval: {}: not a directory", dir.display()),
        Err(e) => eprintln!("serval: {}: {e}", dir.display()),
    }
    None
}

fn failed(e: &dyn std::error::Error) -> u8 {
    eprintln!("serval: {e}");
    EXIT_START
}

/// A transaction in one line.
fn transaction(payload: &[u8]) -> String {
    let Ok(txn) = Txn::decode(payload) else {
        return format!("not a transaction, bytes {}", payload.len());
    };
    let h = &txn.header;
    let mut out = format!(
        "zxid {} at {} session {} cxid 0x{:x} {}",
        h.zxid,
        java::date(h.time.0),
        h.session,
        h.cxid,
        body(&txn.body)
    );
    if let Some(digest) = txn.digest {
        let _ = write!(out, " digest 0x{digest:x}");
    }
    out
}

fn body(b: &TxnBody<'_>) -> String {
    match b {
        TxnBody::Create { op, path, data, acl, ephemeral, parent_cversion } => {
            let what = if *ephemeral { "ephemeral" } else { "persistent" };
            let cversion = parent_cversion.map_or("none".to_owned(), |v| v.to_string());
            format!("{op:?} {what} {} parent-cversion {cversion}", node(path, *data, acl))
        }
        TxnBody::CreateContainer { path, data, acl, parent_cversion } => {
            format!("CreateContainer {} parent-cversion {parent_cversion}", node(path, *data, acl))
        }
        TxnBody::CreateTtl { path, data, acl, parent_cversion, ttl_ms } => {
            format!("CreateTtl {} parent-cversion {parent_cversion} ttl {ttl_ms} ms", node(path, *data, acl))
        }
        TxnBody::Delete { op, path } => format!("{op:?} {}", name(path)),
        TxnBody::SetData { op, path, data, version } => {
            format!("{op:?} {} {} version {version}", name(path), size(*data))
        }
        TxnBody::SetAcl { path, acl, version } => {
            format!("SetAcl {} {} version {version}", name(path), acls(acl))
        }
        TxnBody::Check { path, version } => format!("Check {} version {version}", name(path)),
        TxnBody::CreateSession { timeout_ms } => format!("CreateSession timeout {timeout_ms} ms"),
        TxnBody::CloseSession { paths: None } => "CloseSession".to_owned(),
        TxnBody::CloseSession { paths: Some(paths) } => {
            let names: Vec<_> = paths.iter().map(|p| name(p)).collect();
            format!("CloseSession deletes [{}]", names.join(" "))
        }
        TxnBody::Error { code } => format!("Error {code}"),
        TxnBody::Multi { items } => {
            let all: Vec<_> = items.iter().map(item).collect();
            format!("Multi [{}]", all.join("; "))
        }
    }
}

fn item(i: &MultiItem<'_>) -> String {
    match TxnBody::decode(i.kind, &mut Decoder::new(i.body)) {
        // An item that is a multi itself is never written; rendering one could recurse as deep as the bytes say.
        Ok(b) if i.kind != Op::Multi.wire() => body(&b),
        _ => format!("unreadable kind {} bytes {}", i.kind, i.body.len()),
    }
}

fn node(path: &str, data: Option<&[u8]>, acl: &[Acl]) -> String {
    format!("{} {} {}", name(path), size(data), acls(acl))
}

fn name(path: &str) -> String {
    path.escape_debug().to_string()
}

fn size(data: Option<&[u8]>) -> String {
    data.map_or("no data".to_owned(), |d| format!("data {} bytes", d.len()))
}

/// Scheme, id and permissions of each entry; what follows a user's colon is hidden, as getACL does.
fn acls(all: &[Acl]) -> String {
    let one = |a: &Acl| {
        let id = match (&*a.id.scheme, a.id.id.split_once(':')) {
            ("digest", Some((user, _))) => format!("{user}:x"),
            _ => a.id.id.to_string(),
        };
        let perms: String =
            "rwcda".chars().enumerate().filter(|(bit, _)| a.perms >> bit & 1 == 1).map(|(_, c)| c).collect();
        format!("{}:{}:{perms}", a.id.scheme.escape_debug(), id.escape_debug())
    };
    format!("acl [{}]", all.iter().map(one).collect::<Vec<_>>().join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use engine::error::Code;
    use engine::ids::{SessionId, Zxid};
    use engine::proto::Id;
    use engine::time::WallMs;
    use engine::txn::TxnHeader;

    fn line(body: TxnBody<'_>, digest: Option<u64>) -> String {
        let header = TxnHeader {
            session: SessionId(0x1000),
            cxid: 3,
            zxid: Zxid(0x2a),
            time: WallMs(1_795_224_534_000),
            kind: body.kind(),
        };
        let mut bytes = Vec::new();
        Txn { header, body, digest }.encode(&mut bytes);
        transaction(&bytes)
    }

    #[test]
    fn a_create_is_told_without_its_data_and_digests() {
        let acl = vec![Acl::open(), Acl { perms: 1, id: Id::new("digest", "u:secret=") }];
        let create = TxnBody::Create {
            op: Op::Create,
            path: "/a\u{1b}[2J".into(),
            data: Some(b"hidden"),
            acl,
            ephemeral: true,
            parent_cversion: Some(7),
        };
        assert_eq!(
            line(create, Some(0xbeef)),
            "zxid 0x2a at Sat Nov 21 01:28:54 UTC 2026 session 0x1000 cxid 0x3 Create ephemeral /a\\u{1b}[2J \
             data 6 bytes acl [world:anyone:rwcda digest:u:x:r] parent-cversion 7 digest 0xbeef"
        );
    }

    #[test]
    fn a_multi_is_told_item_by_item() {
        let mut delete = Vec::new();
        TxnBody::Delete { op: Op::Delete, path: "/x".into() }.encode(&mut delete);
        let mut error = Vec::new();
        TxnBody::Error { code: Code::NONODE }.encode(&mut error);
        let items = vec![
            MultiItem { kind: Op::Delete.wire(), body: &delete },
            MultiItem { kind: -1, body: &error },
            MultiItem { kind: Op::Multi.wire(), body: &[0, 0, 0, 0] },
        ];
        let text = line(TxnBody::Multi { items }, None);
        assert!(
            text.ends_with("Multi [Delete /x; Error NONODE (-101); unreadable kind 14 bytes 4]"),
            "{text}"
        );
    }

    #[test]
    fn bytes_that_are_no_transaction_are_said_to_be_none() {
        assert_eq!(transaction(b"junk"), "not a transaction, bytes 4");
    }
}
