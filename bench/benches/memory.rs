//! Bytes that a znode costs, resident, with the server's allocator. No criterion: memory is counted, not timed.
//!
//! `cargo bench -p bench --bench memory`

mod support;

use support::{forest, short, size, trying};

/// 0 where the kernel does not tell.
fn resident_bytes() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) << 10
}

fn main() {
    let n = size(1_000_000);
    let before = resident_bytes();
    let (writer, _handle, _) = forest(n, &[7; 100]);
    if trying() {
        // So few say nothing.
        return;
    }
    let each = |bytes: u64| bytes as f64 / n as f64;
    println!("tree_memory/znodes={}/value=100B/path=29B", short(n));
    println!("    resident  {:>7.1} B/znode", each(resident_bytes().saturating_sub(before)));
    println!("    its index {:>7.1} B/znode", each(writer.index_bytes() as u64));
}
