//! Four-letter words: their names, and what they print, as pure functions of plain structs.
//!
//! Lives here: the names and the fixed answers (this file), Java's text forms (`java`), the server's own words
//! (`server`), words about connections, sessions and watches (`clients`), `mntr` (`mntr`) and the summaries that feed
//! it (`summary`), and what `envi` says about this process (`environ`, the only module that asks the system).
//! Not here: recognising a word among a connection's first bytes, collecting the figures (shards and core).
//! Invariant: formats are those of ZooKeeper 3.8 to the byte (fact sheet section 4), so that its tools can parse them.

pub mod clients;
pub mod environ;
pub mod java;
pub mod mntr;
pub mod server;
pub mod summary;

/// Every word, in the order in which the documentation lists them.
pub const ALL: [&str; 18] = [
    "ruok", "isro", "srvr", "stat", "cons", "conf", "envi", "wchs", "wchc", "wchp", "dump", "dirs", "hash",
    "gtmk", "stmk", "srst", "crst", "mntr",
];

/// The word that these four bytes are. Words are lower case; other bytes are a frame's length.
pub fn find(first: [u8; 4]) -> Option<&'static str> {
    ALL.into_iter().find(|w| w.as_bytes() == first)
}

/// May this word run? (`Limits::words`, `None` = all.)
pub fn allowed(word: &str, words: Option<&[Box<str>]>) -> bool {
    words.is_none_or(|list| list.iter().any(|w| &**w == word))
}

/// Does this word answer also while the server is not serving?
pub fn answers_always(word: &str) -> bool {
    matches!(word, "ruok" | "envi" | "gtmk" | "stmk" | "isro")
}

/// The version as clients and agents read it: the ZooKeeper release whose behaviour this is, then our own.
pub const VERSION: &str =
    concat!("3.9.5-serval-", env!("CARGO_PKG_VERSION"), ", built on ", env!("SERVAL_BUILT_ON"));

/// The answer to a word that the whitelist does not name.
pub fn not_whitelisted(word: &str) -> String {
    format!("{word} is not executed because it is not in the whitelist.\n")
}

/// The answer to a word that needs a serving server, while it is not one.
pub fn not_serving(word: &str) -> String {
    let end = if word == "hash" { "" } else { "\n" };
    format!("This ZooKeeper instance is not currently serving requests{end}")
}

/// `ruok`: the process answers.
pub fn ruok() -> String {
    "imok".to_owned()
}

/// `isro`: `Some(true)` serves reads only, `None` serves nothing yet.
pub fn isro(read_only: Option<bool>) -> String {
    match read_only {
        Some(true) => "ro",
        Some(false) => "rw",
        None => "null",
    }
    .to_owned()
}

/// The trace mask of a server that was told none. It is kept and reported; nothing is traced by it.
pub const DEFAULT_TRACE_MASK: i64 = 306;

/// `gtmk`.
pub fn gtmk(mask: i64) -> String {
    mask.to_string()
}

/// `stmk`: the mask that the eight bytes behind the word give, and the answer. `None`: not eight bytes yet.
pub fn stmk(arg: &[u8]) -> Option<(i64, String)> {
    let mask = i64::from_be_bytes(arg.get(..8)?.try_into().ok()?);
    Some((mask, mask.to_string()))
}

/// `srst`, once the counters are reset.
pub fn srst() -> String {
    "Server stats reset.\n".to_owned()
}

/// `crst`, once the counters of all connections are reset.
pub fn crst() -> String {
    "Connection stats reset.\n".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_found_by_their_bytes_and_nothing_else_is() {
        assert_eq!(find(*b"srvr"), Some("srvr"));
        assert_eq!(find(*b"SRVR"), None);
        assert_eq!(find([0, 0, 0, 45]), None);
        assert!(ALL.iter().all(|w| find(w.as_bytes().try_into().unwrap()) == Some(w)));
    }

    #[test]
    fn the_whitelist_decides() {
        let list: Vec<Box<str>> = vec!["srvr".into()];
        assert!(allowed("srvr", Some(&list)) && !allowed("mntr", Some(&list)) && allowed("mntr", None));
        assert_eq!(not_whitelisted("mntr"), "mntr is not executed because it is not in the whitelist.\n");
    }

    #[test]
    fn the_version_begins_with_three_numbers() {
        let numbers: Vec<_> = VERSION.split('-').next().unwrap().split('.').map(str::parse::<u32>).collect();
        assert_eq!(numbers, [Ok(3), Ok(9), Ok(5)]);
        let (_, date) = VERSION.split_once(", built on ").unwrap();
        assert!(date.len() == "2024-12-29 17:54 UTC".len() && date.ends_with(" UTC"), "{date}");
    }

    #[test]
    fn fixed_answers_are_zookeepers() {
        assert_eq!(isro(None) + &isro(Some(true)) + &isro(Some(false)), "nullrorw");
        assert_eq!(stmk(&307i64.to_be_bytes()), Some((307, "307".into())));
        assert_eq!(stmk(&[0; 7]), None);
        assert_eq!(gtmk(DEFAULT_TRACE_MASK), "306");
        assert!(!not_serving("hash").ends_with('\n') && not_serving("srvr").ends_with("requests\n"));
        assert!(answers_always("ruok") && !answers_always("srvr"));
    }
}
