//! Java properties text with line numbers: what `zoo.cfg` and the dynamic configuration file are written in.
//!
//! Not here: what a key means (`keys`). As in Java: ISO-8859-1, `#` and `!` comments, `=` `:` or blanks between key
//! and value, backslash escapes and continuation lines; ZooKeeper then trims the value.
//! Invariant: entries come in file order; a key that is given twice appears twice, and the caller lets the last win.

use super::ConfigError;
use java_properties::{LineContent, PropertiesIter};
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
pub fn parse(bytes: &[u8], path: &Path) -> Result<Vec<Entry>, ConfigError> {
    let mut entries = Vec::new();
    for line in PropertiesIter::new(bytes) {
        let line = line.map_err(|e| ConfigError::Syntax {
            path: path.to_owned(),
            line: e.line_number().unwrap_or(0),
            what: format!("is not valid properties text: {e}"),
        })?;
        let number = line.line_number();
        if let LineContent::KVPair(key, value) = line.consume_content() {
            entries.push(Entry { line: number, key, value: value.trim().to_owned() });
        }
    }
    Ok(entries)
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
    fn a_broken_escape_names_file_and_line() {
        let text = parse(b"ok=1\nbad=\\uZZZZ\n", Path::new("zoo.cfg")).unwrap_err().to_string();
        assert!(text.starts_with("zoo.cfg:2: is not valid properties text"), "{text}");
    }
}
