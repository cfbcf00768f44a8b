//! The codec against bytes of a real ZooKeeper 3.8.0 (`net/tests/golden/*.hex`, captured by
//! `net/interop/capture_golden.py`, which explains the format).
//!
//! Each frame is decoded, told as text and compared with the text that the capture script wrote with a decoder of its
//! own; then it is encoded again and compared byte by byte. So neither a field read wrongly nor an encoder and decoder
//! that agree on the same mistake can pass.

use engine::error::Code;
use engine::ids::SessionId;
use engine::proto::*;
use std::borrow::Cow;
use std::fmt::Write;
use std::path::PathBuf;

/// One frame of a file, with what it is said to mean.
struct Golden {
    place: String,
    kind: char,
    frame: Vec<u8>,
    text: String,
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../net/tests/golden")
}

fn unhex(s: &str) -> Vec<u8> {
    let digits: Vec<u8> = s.bytes().filter(|b| *b != b' ').collect();
    assert!(digits.len().is_multiple_of(2), "half a byte in {s}");
    let nibble = |b: u8| char::from(b).to_digit(16).expect("hexadecimal digits") as u8;
    digits.chunks(2).map(|d| nibble(d[0]) << 4 | nibble(d[1])).collect()
}

fn frames(name: &str) -> Vec<Golden> {
    let text =
        std::fs::read_to_string(directory().join(format!("{name}.hex"))).expect("a golden file per opcode");
    let mut out: Vec<Golden> = Vec::new();
    for (n, line) in text.lines().enumerate() {
        let (kind, rest) = line.split_at(1);
        match kind {
            "#" => {}
            "=" => out.last_mut().expect("text follows a frame").text = rest.trim_start().to_string(),
            _ => out.push(Golden {
                place: format!("{name}.hex:{}", n + 1),
                kind: kind.chars().next().expect("not empty"),
                frame: unhex(rest),
                text: String::new(),
            }),
        }
    }
    out
}

/// The payload of a frame whose length must fit.
fn payload(g: &Golden) -> &[u8] {
    let mut d = Decoder::new(&g.frame);
    let n = d.int().expect("a length");
    assert_eq!(n as usize, d.rest().len(), "{}: frame length", g.place);
    d.rest()
}

fn check(g: &Golden, text: &str, d: &Decoder<'_>, encode: impl FnOnce(&mut Vec<u8>)) {
    assert_eq!(text, g.text, "{}: meaning", g.place);
    assert!(d.is_empty(), "{}: bytes left over {:?}", g.place, d.rest());
    let mut out = Vec::new();
    put_frame(&mut out, encode);
    assert_eq!(out, g.frame, "{}: encoded again", g.place);
}

// ---- text, as the capture script writes it --------------------------------------------------------------------------

fn hexed(v: Option<&[u8]>) -> String {
    v.map_or("null".into(), |v| v.iter().fold("x".to_string(), |s, b| s + &format!("{b:02x}")))
}

fn acl_text(acl: &[Acl]) -> String {
    let all: Vec<_> = acl.iter().map(|a| format!("{}:{}:{}", a.perms, a.id.scheme, a.id.id)).collect();
    format!("[{}]", all.join(" "))
}

fn list_text(names: &[Cow<'_, str>]) -> String {
    format!("[{}]", names.join(" "))
}

fn stat_text(s: &Stat) -> String {
    format!(
        "stat={},{},{},{},{},{},{},{},{},{},{}",
        s.czxid.wire(),
        s.mzxid.wire(),
        s.ctime,
        s.mtime,
        s.version,
        s.cversion,
        s.aversion,
        s.ephemeral_owner,
        s.data_length,
        s.num_children,
        s.pzxid.wire()
    )
}

fn put_names(out: &mut Vec<u8>, names: &[Cow<'_, str>]) {
    out.put_len(names.len());
    names.iter().for_each(|n| out.put_string(n));
}

// ---- requests -------------------------------------------------------------------------------------------------------

/// Decodes one request's body (or a multi item's), tells it and encodes it again.
fn request(op: Op, d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    match op {
        Op::Create | Op::Create2 | Op::CreateContainer | Op::CreateTtl => {
            let r = CreateRequest::decode(op, d)?;
            let (data, acl) = (hexed(r.data), acl_text(&r.acl));
            write!(text, "path={} data={data} acl={acl} flags={}", r.path, r.flags).unwrap();
            if let Some(ttl) = r.ttl {
                write!(text, " ttl={ttl}").unwrap();
            }
            r.encode(out);
        }
        Op::Delete | Op::Check => {
            let r = PathVersion::decode(d)?;
            write!(text, "path={} version={}", r.path, r.version).unwrap();
            r.encode(out);
        }
        Op::Exists | Op::GetData | Op::GetChildren | Op::GetChildren2 => {
            let r = PathWatch::decode(d)?;
            write!(text, "path={} watch={}", r.path, r.watch).unwrap();
            r.encode(out);
        }
        Op::SetData => {
            let r = SetDataRequest::decode(d)?;
            write!(text, "path={} data={} version={}", r.path, hexed(r.data), r.version).unwrap();
            r.encode(out);
        }
        Op::SetAcl => {
            let r = SetAclRequest::decode(d)?;
            write!(text, "path={} acl={} version={}", r.path, acl_text(&r.acl), r.version).unwrap();
            r.encode(out);
        }
        Op::CheckWatches | Op::RemoveWatches | Op::AddWatch => {
            let r = PathKind::decode(d)?;
            write!(text, "path={} kind={}", r.path, r.kind).unwrap();
            r.encode(out);
        }
        Op::Auth => {
            let r = AuthPacket::decode(d)?;
            write!(text, "scheme={} auth={}", r.scheme.as_deref().unwrap(), hexed(r.auth)).unwrap();
            r.encode(out);
        }
        Op::SetWatches | Op::SetWatches2 => set_watches(op, d, text, out)?,
        Op::Multi | Op::MultiRead => multi(d, text, out)?,
        Op::Reconfig => reconfig(d, text, out)?,
        Op::Sync | Op::GetAcl | Op::GetEphemerals | Op::GetAllChildrenNumber => {
            let path = d.string_not_null()?;
            write!(text, "path={path}").unwrap();
            out.put_string(&path);
        }
        _ => {}
    }
    Ok(())
}

fn set_watches(op: Op, d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    let r = SetWatches::decode(op, d)?;
    let (data, exist, child) = (list_text(&r.data), list_text(&r.exist), list_text(&r.child));
    write!(text, "zxid={} data={data} exist={exist} child={child}", r.relative_zxid.wire()).unwrap();
    out.put_long(r.relative_zxid.wire());
    [&r.data, &r.exist, &r.child].into_iter().for_each(|names| put_names(out, names));
    if op == Op::SetWatches2 {
        write!(text, " persistent={} recursive={}", list_text(&r.persistent), list_text(&r.recursive))
            .unwrap();
        [&r.persistent, &r.recursive].into_iter().for_each(|names| put_names(out, names));
    }
    Ok(())
}

fn multi(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    loop {
        let h = MultiHeader::decode(d)?;
        h.encode(out);
        write!(text, "{} {}", h.op, h.err).unwrap();
        if h.done {
            assert_eq!(h, MultiHeader::END);
            return Ok(());
        }
        text.push(' ');
        request(Op::from_wire(h.op).ok_or(Malformed)?, d, text, out)?;
        text.push_str("; ");
    }
}

fn reconfig(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    for name in ["joining", "leaving", "members"] {
        let v = d.string()?;
        write!(text, "{name}={} ", v.as_deref().unwrap_or("null")).unwrap();
        out.put_buffer(v.as_deref().map(str::as_bytes));
    }
    let config = d.long()?;
    write!(text, "config={config}").unwrap();
    out.put_long(config);
    Ok(())
}

// ---- replies --------------------------------------------------------------------------------------------------------

fn stat(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    let s = Stat::decode(d)?;
    write!(text, " {}", stat_text(&s)).unwrap();
    s.encode(out);
    Ok(())
}

fn path(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    let p = d.string_not_null()?;
    write!(text, " path={p}").unwrap();
    out.put_string(&p);
    Ok(())
}

/// Decodes the body of a reply without an error (or of a multi result).
fn reply(op: Op, d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    match op {
        Op::Create | Op::Sync => path(d, text, out)?,
        Op::Create2 | Op::CreateContainer | Op::CreateTtl => {
            path(d, text, out)?;
            stat(d, text, out)?;
        }
        Op::Exists | Op::SetData | Op::SetAcl => stat(d, text, out)?,
        Op::GetData => {
            let data = d.buffer()?;
            write!(text, " data={}", hexed(data)).unwrap();
            out.put_buffer(data);
            stat(d, text, out)?;
        }
        Op::GetAcl => {
            let acl = get_acls(d)?;
            write!(text, " acl={}", acl_text(&acl)).unwrap();
            put_acls(out, &acl);
            stat(d, text, out)?;
        }
        Op::GetChildren | Op::GetEphemerals | Op::GetChildren2 => {
            let names = d.strings()?;
            write!(text, " names={}", list_text(&names)).unwrap();
            put_names(out, &names);
            if op == Op::GetChildren2 {
                stat(d, text, out)?;
            }
        }
        Op::GetAllChildrenNumber | Op::AddWatch => {
            let n = d.int()?;
            write!(text, " {}={n}", if op == Op::AddWatch { "error" } else { "total" }).unwrap();
            out.put_int(n);
        }
        Op::WhoAmI => who_am_i(d, text, out)?,
        Op::Multi | Op::MultiRead => {
            text.push(' ');
            multi_results(d, text, out)?;
        }
        _ => {}
    }
    Ok(())
}

fn who_am_i(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    let n = d.count(8)?;
    out.put_len(n);
    let mut all = Vec::new();
    for _ in 0..n {
        let (scheme, user) = (d.string_not_null()?, d.string_not_null()?);
        out.put_string(&scheme);
        out.put_string(&user);
        all.push(format!("{scheme}:{user}"));
    }
    write!(text, " who=[{}]", all.join(" ")).unwrap();
    Ok(())
}

fn multi_results(d: &mut Decoder<'_>, text: &mut String, out: &mut Vec<u8>) -> Decoded<()> {
    loop {
        let h = MultiHeader::decode(d)?;
        h.encode(out);
        write!(text, "{} {}", h.op, h.err).unwrap();
        if h.done {
            return Ok(());
        }
        if h.op == Op::Error.wire() {
            let code = d.int()?;
            write!(text, " code={code}").unwrap();
            out.put_int(code);
        } else {
            reply(Op::from_wire(h.op).ok_or(Malformed)?, d, text, out)?;
        }
        text.push_str("; ");
    }
}

// ---- the tests ------------------------------------------------------------------------------------------------------

/// Every opcode a client may send, by the name of its file.
const FILES: [(&str, Op); 27] = [
    ("create", Op::Create),
    ("create2", Op::Create2),
    ("createContainer", Op::CreateContainer),
    ("createTTL", Op::CreateTtl),
    ("delete", Op::Delete),
    ("exists", Op::Exists),
    ("getData", Op::GetData),
    ("setData", Op::SetData),
    ("getACL", Op::GetAcl),
    ("setACL", Op::SetAcl),
    ("getChildren", Op::GetChildren),
    ("getChildren2", Op::GetChildren2),
    ("getAllChildrenNumber", Op::GetAllChildrenNumber),
    ("getEphemerals", Op::GetEphemerals),
    ("sync", Op::Sync),
    ("ping", Op::Ping),
    ("multi", Op::Multi),
    ("multiRead", Op::MultiRead),
    ("reconfig", Op::Reconfig),
    ("checkWatches", Op::CheckWatches),
    ("removeWatches", Op::RemoveWatches),
    ("addWatch", Op::AddWatch),
    ("setWatches", Op::SetWatches),
    ("setWatches2", Op::SetWatches2),
    ("auth", Op::Auth),
    ("whoAmI", Op::WhoAmI),
    ("closeSession", Op::CloseSession),
];

#[test]
fn every_request_means_and_encodes_as_captured() {
    for (name, op) in FILES {
        let all = frames(name);
        assert!(all.iter().any(|g| g.kind == '>'), "{name}: no request");
        for g in all.iter().filter(|g| g.kind == '>') {
            let mut d = Decoder::new(payload(g));
            let header = RequestHeader::decode(&mut d).expect(&g.place);
            assert_eq!(Op::from_wire(header.op), Some(op), "{}", g.place);
            let (mut text, mut body) = (format!("xid={} ", header.xid), Vec::new());
            request(op, &mut d, &mut text, &mut body).expect(&g.place);
            check(g, text.trim_end(), &d, |out| {
                header.encode(out);
                out.put_bytes(&body);
            });
        }
    }
}

#[test]
fn every_reply_means_and_encodes_as_captured() {
    for (name, op) in FILES {
        let all = frames(name);
        assert!(all.iter().any(|g| g.kind == '<'), "{name}: no reply");
        for g in all.iter().filter(|g| g.kind == '<') {
            let mut d = Decoder::new(payload(g));
            let header = ReplyHeader::decode(&mut d).expect(&g.place);
            let mut text = format!("xid={} zxid={} err={}", header.xid, header.zxid, header.err.0);
            let mut body = Vec::new();
            if header.err == Code::OK {
                reply(op, &mut d, &mut text, &mut body).expect(&g.place);
            }
            check(g, &text, &d, |out| {
                header.encode(out);
                out.put_bytes(&body);
            });
        }
    }
}

#[test]
fn every_event_means_and_encodes_as_captured() {
    let all = frames("event");
    let mut kinds: Vec<i32> = Vec::new();
    for g in &all {
        let mut d = Decoder::new(payload(g));
        let header = ReplyHeader::decode(&mut d).expect(&g.place);
        assert_eq!((header.xid, header.zxid, header.err), (xid::WATCH_EVENT, -1, Code::OK), "{}", g.place);
        let event = WatcherEvent::decode(&mut d).expect(&g.place);
        kinds.push(event.kind);
        let text = format!("kind={} state={} path={}", event.kind, event.state, event.path);
        check(g, &text, &d, |out| {
            header.encode(out);
            event.encode(out);
        });
    }
    for kind in [
        EventKind::NodeCreated,
        EventKind::NodeDeleted,
        EventKind::NodeDataChanged,
        EventKind::NodeChildrenChanged,
    ] {
        assert!(kinds.contains(&(kind as i32)), "no {kind:?} among the captured events");
    }
}

#[test]
fn every_connect_means_and_encodes_as_captured() {
    let byte = |v: Option<bool>| v.map_or("none".to_string(), |v| v.to_string());
    let mut without_byte = 0;
    for g in frames("connect") {
        let mut d = Decoder::new(payload(&g));
        if g.kind == '>' {
            let r = ConnectRequest::decode(&mut d).expect(&g.place);
            without_byte += usize::from(r.read_only.is_none());
            let (zxid, password) = (r.last_zxid_seen.wire(), hexed(r.password));
            let (timeout, session, ro) = (r.timeout_ms, r.session.0, byte(r.read_only));
            let text = format!("zxid={zxid} timeout={timeout} session={session} password={password} ro={ro}");
            check(&g, &text, &d, |out| r.encode(out));
        } else {
            let r = ConnectResponse::decode(&mut d).expect(&g.place);
            let (password, ro) = (hexed(Some(&r.password)), byte(r.read_only));
            let text =
                format!("timeout={} session={} password={password} ro={ro}", r.timeout_ms, r.session.0);
            check(&g, &text, &d, |out| r.encode(out));
            if r.session == SessionId::NONE {
                assert_eq!(r, ConnectResponse::refused(r.read_only), "{}: a refusal", g.place);
            }
        }
    }
    assert_eq!(without_byte, 1, "one captured request comes without the read-only byte");
}

#[test]
fn no_golden_file_is_left_unread() {
    let mut found: Vec<String> = std::fs::read_dir(directory())
        .expect("the golden files")
        .map(|e| e.expect("an entry").path())
        .filter(|p| p.extension().is_some_and(|e| e == "hex"))
        .map(|p| p.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    found.sort();
    let mut known: Vec<String> = FILES.iter().map(|(name, _)| name.to_string()).collect();
    known.extend(["connect".to_string(), "event".to_string()]);
    known.sort();
    assert_eq!(found, known);
}
