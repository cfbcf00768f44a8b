//! Which strings are znode paths, and how they are taken apart (fact sheet 3.6).
//!
//! Not here: looking a path up (`tree`), sequence suffixes (`pipeline`). Reads do not validate: a bad path names no
//! node.

use crate::error::Code;

/// Nodes that exist always and cannot be deleted by clients.
const RESERVED: [&str; 4] = ["/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"];

/// Below this nothing counts in quotas and the tree digest.
pub const SYSTEM_PREFIX: &str = "/zookeeper/";
/// The configuration of the ensemble.
pub const CONFIG: &str = "/zookeeper/config";
/// Where quotas are kept.
pub const QUOTA_ROOT: &str = "/zookeeper/quota";

/// Whether `path` may never be deleted.
pub fn is_reserved(path: &str) -> bool {
    RESERVED.contains(&path)
}

/// The parent of a path that a create or delete names: everything before the last '/', "" for the root.
/// A path without '/' or with a NUL is refused with BADARGUMENTS; nothing else is checked here.
pub fn parent_of(path: &str) -> Result<&str, Code> {
    if path.as_bytes().contains(&0) {
        return Err(Code::BADARGUMENTS);
    }
    path.rfind('/').map(|i| &path[..i]).ok_or(Code::BADARGUMENTS)
}

/// The path of the parent of an existing node: "/" for children of the root, `None` for the root.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// The whole syntax: absolute, no empty, "." or ".." element, no trailing '/', no character of the refused ranges.
/// Characters are judged by their UTF-16 units, so everything beyond the basic plane is refused (as in ZooKeeper).
pub fn validate(path: &str) -> Result<(), Code> {
    let Some(rest) = path.strip_prefix('/') else { return Err(Code::BADARGUMENTS) };
    if rest.is_empty() {
        return Ok(());
    }
    let elements_ok = rest.split('/').all(|e| !matches!(e, "" | "." | ".."));
    // Printable ASCII needs no decoding, and nearly every path is nothing else.
    let chars_ok = path.bytes().all(|b| (0x20..0x7f).contains(&b)) || path.chars().all(is_allowed);
    if elements_ok && chars_ok { Ok(()) } else { Err(Code::BADARGUMENTS) }
}

fn is_allowed(c: char) -> bool {
    !matches!(u32::from(c), 0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..)
}

/// Path of the node that holds the limits of the quota on `path`.
pub fn quota_limits(path: &str) -> String {
    format!("{QUOTA_ROOT}{path}/zookeeper_limits")
}
/// Path of the node that holds the usage counted for the quota on `path`.
pub fn quota_stats(path: &str) -> String {
    format!("{QUOTA_ROOT}{path}/zookeeper_stats")
}

/// The quota'd path when `path` is the limits node of a quota.
pub fn quota_of_limits(path: &str) -> Option<&str> {
    path.strip_prefix(QUOTA_ROOT)?.strip_suffix("/zookeeper_limits").filter(|p| !p.is_empty())
}
/// The quota'd path when `path` is the statistics node of a quota.
pub fn quota_of_stats(path: &str) -> Option<&str> {
    path.strip_prefix(QUOTA_ROOT)?.strip_suffix("/zookeeper_stats").filter(|p| !p.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_follows_the_fact_sheet() {
        for good in
            ["/", "/a", "/a/b.c", "/zookeeper/x", "/\u{e4}/\u{f6}", "/a b", "/...", "/\u{f900}", "/\u{ffef}"]
        {
            assert_eq!(validate(good), Ok(()), "{good:?}");
        }
        for bad in [
            "",
            "a",
            "/a/",
            "//",
            "/a//b",
            "/.",
            "/a/..",
            "/a/./b",
            "/\0",
            "/\u{1f}",
            "/\u{7f}",
            "/\u{9f}",
            "/\u{e000}",
            "/\u{f8ff}",
            "/\u{fff0}",
            "/\u{ffff}",
            "/\u{1f600}",
        ] {
            assert_eq!(validate(bad), Err(Code::BADARGUMENTS), "{bad:?}");
        }
    }

    #[test]
    fn parents() {
        assert_eq!(parent_of("/a/b"), Ok("/a"));
        assert_eq!(parent_of("/a"), Ok(""));
        assert_eq!(parent_of("/"), Ok(""));
        assert_eq!(parent_of("/x/"), Ok("/x"));
        assert_eq!(parent_of("x"), Err(Code::BADARGUMENTS));
        assert_eq!(parent_of("/x\0"), Err(Code::BADARGUMENTS));
        assert_eq!((parent("/a/b"), parent("/a"), parent("/")), (Some("/a"), Some("/"), None));
    }

    #[test]
    fn quota_paths_name_their_subject() {
        assert_eq!(quota_of_limits("/zookeeper/quota/a/b/zookeeper_limits"), Some("/a/b"));
        assert_eq!(quota_of_stats("/zookeeper/quota/a/zookeeper_stats"), Some("/a"));
        assert_eq!(quota_of_stats("/zookeeper/quota/zookeeper_stats"), None);
        assert_eq!(quota_limits("/a"), "/zookeeper/quota/a/zookeeper_limits");
    }
}
