//! Bytes of a client, before and after its session: see `engine_fuzz::shard`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::shard(data));
