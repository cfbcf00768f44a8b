//! Four-letter words: their names and what they print, as pure functions of plain structs.
//!
//! Not here: recognising a word among the first bytes of a connection, collecting the figures (shards and core).
//! Invariant: formats are ZooKeeper 3.8's to the byte where its tools parse them (fact sheet section 4).

/// Every word, in the order in which the documentation lists them.
pub const ALL: [&str; 18] = [
    "ruok", "isro", "srvr", "stat", "cons", "conf", "envi", "wchs", "wchc", "wchp", "dump", "dirs", "hash",
    "gtmk", "stmk", "srst", "crst", "mntr",
];
