//! The client protocol's numbers and records (fact sheet sections 1 and 2). Encoding and decoding only.
//!
//! Not here: what a request means (`pipeline`, `shard`), transaction records (`txn`).

mod jute;
mod records;

pub use jute::{Decoded, Decoder, Encode, Malformed, put_frame};
pub use records::*;
