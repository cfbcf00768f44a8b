//! Java properties text with line numbers: what `zoo.cfg` and the dynamic configuration file are written in.
//!
//! Not here: what a key means (`keys`). As in Java: ISO-8859-1, `#` and `!` comments, `=` `:` or blanks between key
//! and value, backslash escapes and continuation lines; ZooKeeper then trims the value.
//! Invariant: entries come in file order; a key that is given twice appears twice, and the caller lets the last win.

use super::ConfigError;
use std::path::Path;

/// One `key=value` of a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Line of the key in its file, from 1.
    pub line: usize,
    pub key: String,
    /// Without blanks at its ends.
    pub value: String,
}

/// Largest configuration file that is read, bytes. A larger one is a mistake (a log, a device), not a zoo.cfg.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a whole file.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, or holds an escape that is none.
pub fn read_file(path: &Path) -> Result<Vec<Entry>, ConfigError> {
    use std::io::Read;
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        let what = format!("is larger than {FILE_BYTES_MAX} bytes, so it is no configuration file");
        return Err(ConfigError::Syntax { path: path.to_owned(), line: 0, what });
    }
    parse(&bytes, path)
}

/// Reads text; `path` is for errors.
///
/// # Errors
/// A `\u` without four hexadecimal digits behind it.
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let mut entries = Vec::new();
    for (line, text) in logical_lines(bytes) {
        let (key, value) = split(&text);
        let unescaped = |part| {
            unescape(part).ok_or_else(|| ConfigError::Syntax {
                path: path.to_owned(),
                line,
                what: "is not valid properties text: \\u needs four hexadecimal digits".to_owned(),
            })
        };
        let (key, value) = (unescaped(key)?, unescaped(value)?);
        entries.push(Entry { line, key, value: value.trim().to_owned() });
    }
    Ok(entries)
}

/// The same text without the entries whose key is one to drop; comments and the order of lines stay.
///
/// # Errors
/// As [`parse`].
pub fn without(bytes: &[u8], path: &Path, drop: impl Fn(&str) -> bool) -> Result<Vec<u8>, ConfigError> {
    let gone: Vec<usize> = parse(bytes, path)?.iter().filter(|e| drop(&e.key)).map(|e| e.line).collect();
    let mut out = Vec::with_capacity(bytes.len());
    let mut goes_on = false;
    for (index, line) in natural_lines(bytes).into_iter().enumerate() {
        if goes_on || gone.contains(&(index + 1)) {
            goes_on = continues(line);
            continue;
        }
        out.extend_from_slice(line);
        out.push(b'\n');
    }
    Ok(out)
}

/// A value as properties text holds it.
pub fn escaped(value: &str) -> String {
    let mut out = String::new();
    for unit in value.encode_utf16() {
        match u8::try_from(unit) {
            Ok(b'\\') => out += "\\\\",
            Ok(b @ b' '..=b'~') => out.push(b.into()),
            _ => out += &format!("\\u{unit:04x}"),
        }
    }
    out
}

fn is_blank(b: u8) -> bool {
    matches!(b, b' ' | b'\t' | 0x0c)
}

fn without_indent(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|b| !is_blank(*b)).unwrap_or(text.len());
    &text[start..]
}

/// Does the line go on in the next: an odd number of backslashes at its end?
fn continues(text: &[u8]) -> bool {
    text.iter().rev().take_while(|b| **b == b'\\').count() % 2 == 1
}

/// Lines with their continuations joined, without blank ones and comments, each with the number of its first line.
fn logical_lines(bytes: &[u8]) -> Vec<(usize, Vec<u8>)> {
    let mut natural = natural_lines(bytes).into_iter().enumerate();
    let mut lines = Vec::new();
    while let Some((index, first)) = natural.next() {
        let first = without_indent(first);
        if first.is_empty() || matches!(first[0], b'#' | b'!') {
            continue;
        }
        let mut text = first.to_vec();
        while continues(&text) {
            text.pop();
            // Nothing before the backslash: the next line begins anew, and may be a comment.
            if text.is_empty() {
                break;
            }
            // A line that only looks like a comment goes on the one before all the same, as in Java.
            let Some((_, next)) = natural.next() else { break };
            text.extend_from_slice(without_indent(next));
        }
        if !text.is_empty() {
            lines.push((index + 1, text));
        }
    }
    lines
}

/// Lines ended by a line feed, a carriage return, or both.
fn natural_lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines = Vec::new();
    let mut rest = bytes;
    while let Some(end) = rest.iter().position(|b| matches!(b, b'\n' | b'\r')) {
        lines.push(&rest[..end]);
        let both = rest[end] == b'\r' && rest.get(end + 1) == Some(&b'\n');
        rest = &rest[end + 1 + usize::from(both)..];
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

/// Key and value, both still escaped.
fn split(text: &[u8]) -> (&[u8], &[u8]) {
    let mut escaped = false;
    let end = text.iter().position(|b| {
        let ends = !escaped && (is_blank(*b) || matches!(b, b'=' | b':'));
        escaped = !escaped && *b == b'\\';
        ends
    });
    let end = end.unwrap_or(text.len());
    let rest = without_indent(&text[end..]);
    let rest = rest.strip_prefix(b"=").or_else(|| rest.strip_prefix(b":")).unwrap_or(rest);
    (&text[..end], without_indent(rest))
}

/// ISO-8859-1 with backslash escapes; `None`: a `\u` that is none. Escapes may name halves of surrogate pairs.
fn unescape(text: &[u8]) -> Option<String> {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text.iter().copied();
    while let Some(b) = rest.next() {
        if b != b'\\' {
            units.push(b.into());
            continue;
        }
        match rest.next() {
            None => break,
            Some(b't') => units.push(b'\t'.into()),
            Some(b'n') => units.push(b'\n'.into()),
            Some(b'r') => units.push(b'\r'.into()),
            Some(b'f') => units.push(0x0c),
            Some(b'u') => {
                let mut unit = 0u16;
                for _ in 0..4 {
                    unit = unit << 4 | char::from(rest.next()?).to_digit(16)? as u16;
                }
                units.push(unit);
            }
            Some(other) => units.push(other.into()),
        }
    }
    Some(String::from_utf16_lossy(&units))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(text: &str) -> Vec<(usize, String, String)> {
        parse(text.as_bytes(), Path::new("zoo.cfg"))
            .unwrap()
            .into_iter()
            .map(|e| (e.line, e.key, e.value))
            .collect()
    }

    #[test]
    fn keys_come_with_their_lines_in_file_order() {
        let got = entries("# head\n\ntickTime=2000\n! more\ndataDir = /var/lib/zk  \nclientPort:2181\n");
        let want = [(3, "tickTime", "2000"), (5, "dataDir", "/var/lib/zk"), (6, "clientPort", "2181")];
        assert_eq!(got, want.map(|(l, k, v)| (l, k.to_owned(), v.to_owned())));
    }

    #[test]
    fn escapes_continuations_and_empty_values_are_javas() {
        let got = entries("a\\=b=c\\u0041\nlist=x,\\\n   y\nempty=\nbare\ntwice=1\ntwice=2\r\n");
        let want = [
            (1, "a=b", "cA"),
            (2, "list", "x,y"),
            (4, "empty", ""),
            (5, "bare", ""),
            (6, "twice", "1"),
            (7, "twice", "2"),
        ];
        assert_eq!(got, want.map(|(l, k, v)| (l, k.to_owned(), v.to_owned())));
    }

    #[test]
    fn separators_and_odd_lines_are_javas() {
        let got = entries(
            "a b c\n\tk \\=x = v\n=only\nx = = y\rz\\\\\nlast=\\ud83d\\ude00\\t\\q\ncut\\\n#on\nend\\",
        );
        let want = [
            (1, "a", "b c"),
            (2, "k", "=x = v"),
            (3, "", "only"),
            (4, "x", "= y"),
            (5, "z\\", ""),
            (6, "last", "\u{1f600}\tq"),
            (7, "cut#on", ""),
            (9, "end", ""),
        ];
        let want: Vec<_> = want.into_iter().map(|(l, k, v)| (l, k.to_owned(), v.to_owned())).collect();
        assert_eq!(got, want);
        assert_eq!(entries("\\\n#no\n\\\n a=b"), [(4, "a".to_owned(), "b".to_owned())]);
        assert!(entries("").is_empty() && entries("\n \n#x").is_empty());
    }

    #[test]
    fn a_broken_escape_names_file_and_line() {
        let text = parse(b"ok=1\nbad=\\uZZZZ\n", Path::new("zoo.cfg")).unwrap_err().to_string();
        assert!(text.starts_with("zoo.cfg:2: is not valid properties text"), "{text}");
    }
}
