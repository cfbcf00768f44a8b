//! What a znode path may look like (fact sheet 3.6, "Path syntax"), and its parts.
//!
//! Not here: whether a node exists (`tree`), sequence suffixes (`pipeline`).
//! Invariant: a path that `validate` accepts starts with '/', has no empty, "." or ".." element, and either is "/"
//! or does not end with '/'.

/// Checks a full path as ZooKeeper's servers do before they create a node or log a change of one.
/// `false`: the client gets BADARGUMENTS.
pub fn is_valid(path: &str) -> bool {
    let Some(rest) = path.strip_prefix('/') else { return false };
    if rest.is_empty() {
        return true;
    }
    // An element is empty also before a trailing '/', so that case needs no test of its own.
    rest.split('/').all(|element| !matches!(element, "" | "." | "..")) && rest.chars().all(is_allowed)
}

/// ZooKeeper looks at UTF-16 units: whatever needs a surrogate pair is refused, since surrogates are.
fn is_allowed(c: char) -> bool {
    !matches!(u32::from(c),
        0..=0x1f | 0x7f..=0x9f | 0xd800..=0xf8ff | 0xfff0..=u32::MAX)
}

/// The parent's path ("/" for children of the root). `None` for the root and for what holds no '/'.
pub fn parent(path: &str) -> Option<&str> {
    match path.rfind('/')? {
        0 if path.len() == 1 => None,
        0 => Some("/"),
        at => Some(&path[..at]),
    }
}

/// The last element of a path ("" for the root).
pub fn name(path: &str) -> &str {
    path.rfind('/').map_or(path, |at| &path[at + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn syntax_is_that_of_the_fact_sheet() {
        for good in ["/", "/a", "/a/b", "/.a", "/a.", "/...", "/a b", "/a-b_c"] {
            assert!(is_valid(good), "{good:?}");
        }
        for bad in [
            "", "a", "a/b", "//", "/a/", "/a//b", "/.", "/..", "/a/./b", "/a/..", "/\0", "/a\u{1}", "/\u{1f}",
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
        for bad in
            ["/\u{7f}", "/\u{9f}", "/\u{e000}", "/\u{f8ff}", "/\u{fff0}", "/\u{ffff}", "/\u{10000}", "/😀"]
        {
            assert!(!is_valid(bad), "{bad:?}");
        }
        for good in ["/\u{20}", "/\u{7e}", "/\u{a0}", "/\u{d7ff}", "/\u{f900}", "/\u{ffef}"] {
            assert!(is_valid(good), "{good:?}");
        }
    }

    #[test]
    fn parents_and_names() {
        assert_eq!((parent("/"), name("/")), (None, ""));
        assert_eq!((parent("/a"), name("/a")), (Some("/"), "a"));
        assert_eq!((parent("/a/b"), name("/a/b")), (Some("/a"), "b"));
        assert_eq!((parent("a"), name("a")), (None, "a"));
    }
}
