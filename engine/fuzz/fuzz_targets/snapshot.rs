//! Snapshot records: see `engine_fuzz::snapshot`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::snapshot(data));
