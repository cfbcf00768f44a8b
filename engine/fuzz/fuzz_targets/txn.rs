//! Transactions as the log holds them: see `engine_fuzz::txn`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::txn(data));
