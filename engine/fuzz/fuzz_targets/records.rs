//! Records of the client port: see `engine_fuzz::records`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::records(data));
