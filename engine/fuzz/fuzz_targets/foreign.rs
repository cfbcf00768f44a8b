//! ZooKeeper's snapshots and logs: see `engine_fuzz::foreign`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| engine_fuzz::foreign(data));
