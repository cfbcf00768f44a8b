//! Writes with garbage in them: see `engine_fuzz::propose`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::propose(data));
