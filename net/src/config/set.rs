//! The setters of the key table: one small function per honoured key that needs more than a switch.
//!
//! Not here: which key calls which (`keys`), relations between keys (`resolve`).
//! Invariant: a setter changes the draft only when it returns `Ok`.

use super::properties::Entry;
use super::resolve::Draft;
use super::servers::ServerLine;
use super::values::{self, Allowed};
use std::path::PathBuf;

type Done = Result<(), Allowed>;

const INT_MAX: i64 = i32::MAX as i64;

fn path(e: &Entry) -> Result<PathBuf, Allowed> {
    if e.value.is_empty() { Err(Allowed("a path".into())) } else { Ok(PathBuf::from(&e.value)) }
}

/// A data directory. One that is another than was meant is an empty one, so what looks like a slip is told.
fn directory(d: &mut Draft, e: &Entry) -> Result<PathBuf, Allowed> {
    let dir = path(e)?;
    if !dir.is_absolute() && !e.value.starts_with("./") {
        let why = "a relative path (quotes, ~ and variables mean nothing here): started elsewhere, the server has other \
                   data; write it from /, or from ./ if you are sure";
        d.warn(e.line, &e.key, why);
    } else if e.value.contains(" #") {
        d.warn(
            e.line,
            &e.key,
            "what stands behind # is a part of the path: comments have lines of their own",
        );
    }
    Ok(dir)
}

pub fn data_dir(d: &mut Draft, e: &Entry) -> Done {
    d.data_dir = Some(directory(d, e)?);
    Ok(())
}
pub fn data_log_dir(d: &mut Draft, e: &Entry) -> Done {
    d.data_log_dir = Some(directory(d, e)?);
    Ok(())
}
pub fn client_port(d: &mut Draft, e: &Entry) -> Done {
    // ZooKeeper takes 0 for "not set"; only the command line can ask for any free port.
    d.client_port = Some(values::port(&e.value)?).filter(|&p| p != 0);
    Ok(())
}
pub fn client_port_address(d: &mut Draft, e: &Entry) -> Done {
    d.client_port_address = Some(values::ip_addr(&e.value)?);
    Ok(())
}
pub fn listen_backlog(d: &mut Draft, e: &Entry) -> Done {
    d.listen_backlog = values::int(&e.value, -1, 65_535)? as i32;
    Ok(())
}
pub fn tick_time(d: &mut Draft, e: &Entry) -> Done {
    d.limits.tick_ms = values::int(&e.value, 1, INT_MAX / 20)? as u32;
    Ok(())
}
pub fn min_session_timeout(d: &mut Draft, e: &Entry) -> Done {
    d.min_session_timeout = Some(values::int(&e.value, -1, INT_MAX)? as i32).filter(|&t| t != -1);
    Ok(())
}
pub fn max_session_timeout(d: &mut Draft, e: &Entry) -> Done {
    d.max_session_timeout = Some(values::int(&e.value, -1, INT_MAX)? as i32).filter(|&t| t != -1);
    Ok(())
}
pub fn sessionless_timeout(d: &mut Draft, e: &Entry) -> Done {
    d.limits.sessionless_timeout_ms = values::int(&e.value, 1, INT_MAX)? as u32;
    Ok(())
}
pub fn server(d: &mut Draft, e: &Entry) -> Done {
    let line = ServerLine::parse(&e.key, &e.value)?;
    d.servers.insert(line.id, (line, e.line));
    Ok(())
}
pub fn dynamic_config_file(d: &mut Draft, e: &Entry) -> Done {
    d.dynamic_config_file = Some(path(e)?);
    Ok(())
}
pub fn outstanding(d: &mut Draft, e: &Entry) -> Done {
    d.limits.outstanding_writes = values::int(&e.value, 1, INT_MAX)? as usize;
    Ok(())
}
pub fn jute_maxbuffer(d: &mut Draft, e: &Entry) -> Done {
    // 64: a ConnectRequest must fit. The upper end keeps a frame plus its header addressable by an i32.
    d.limits.jute_max_buffer = values::int(&e.value, 64, INT_MAX - 64)? as usize;
    Ok(())
}

/// A comma list of words, or `*`. `srvr` is always allowed, as in ZooKeeper: its own scripts read it. Words that are
/// none here (other releases have some more) are warned about and left out, as ZooKeeper does.
pub fn words(d: &mut Draft, e: &Entry) -> Done {
    let given: Vec<&str> = e.value.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    if given.contains(&"*") {
        d.limits.words = None;
        return Ok(());
    }
    if given.iter().any(|w| w.len() != 4 || !w.bytes().all(|b| b.is_ascii_lowercase())) {
        return Err(Allowed(format!("*, or a comma list of {}", crate::words::ALL.join(" "))));
    }
    let (known, unknown): (Vec<&str>, Vec<&str>) =
        given.into_iter().partition(|w| crate::words::ALL.contains(w));
    if !unknown.is_empty() {
        d.warn(e.line, &e.key, format!("no such word: {}", unknown.join(" ")));
    }
    let mut list: Vec<Box<str>> = known.into_iter().map(Into::into).collect();
    if !list.iter().any(|w| &**w == "srvr") {
        list.push("srvr".into());
    }
    d.limits.words = Some(list);
    Ok(())
}

pub fn super_digest(d: &mut Draft, e: &Entry) -> Done {
    match e.value.split_once(':') {
        Some((user, hash)) if !user.is_empty() && !hash.is_empty() && !hash.contains(':') => {
            d.limits.super_digest = Some(e.value.as_str().into());
            Ok(())
        }
        _ => Err(Allowed("user:base64(sha1(user:password))".into())),
    }
}
pub fn reap_interval(d: &mut Draft, e: &Entry) -> Done {
    d.limits.reap_interval_ms = values::int(&e.value, 1, INT_MAX)? as u64;
    Ok(())
}
pub fn reap_per_minute(d: &mut Draft, e: &Entry) -> Done {
    d.limits.reap_per_minute = values::int(&e.value, 1, INT_MAX)? as u32;
    Ok(())
}
pub fn reap_never_used(d: &mut Draft, e: &Entry) -> Done {
    d.limits.reap_never_used_ms = values::int(&e.value, 0, i64::MAX)? as u64;
    Ok(())
}
pub fn snap_count(d: &mut Draft, e: &Entry) -> Done {
    d.snap_count = Some(values::int(&e.value, 2, INT_MAX)? as u64);
    Ok(())
}
pub fn snap_size(d: &mut Draft, e: &Entry) -> Done {
    // Zero or less: never by size.
    let kib = values::int(&e.value, i64::MIN, i64::MAX / 1024)?;
    d.snap_size_bytes = Some(if kib <= 0 { u64::MAX } else { kib as u64 * 1024 });
    Ok(())
}
pub fn prealloc(d: &mut Draft, e: &Entry) -> Done {
    d.prealloc_bytes = Some((values::int(&e.value, 1, i64::MAX / 1024)? as u64 * 1024, e.line));
    Ok(())
}
pub fn txn_log_size(d: &mut Draft, e: &Entry) -> Done {
    let kib = values::int(&e.value, -1, i64::MAX / 1024)?;
    d.txn_log_bytes = (kib > 0).then(|| (kib as u64 * 1024, e.line));
    Ok(())
}
pub fn flush_delay(d: &mut Draft, e: &Entry) -> Done {
    d.flush_delay_ms = Some((values::int(&e.value, 0, i64::MAX)? as u64, e.line));
    Ok(())
}
pub fn fsync_warning(d: &mut Draft, e: &Entry) -> Done {
    d.fsync_warning_ms = values::int(&e.value, 0, i64::MAX)? as u64;
    Ok(())
}
pub fn purge_retain(d: &mut Draft, e: &Entry) -> Done {
    d.purge_retain = Some((values::int(&e.value, 0, INT_MAX)? as u32, e.line));
    Ok(())
}
pub fn purge_interval(d: &mut Draft, e: &Entry) -> Done {
    d.purge_interval_ms = values::span(&e.value, 3_600_000)?;
    Ok(())
}
