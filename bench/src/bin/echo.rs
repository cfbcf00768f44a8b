//! The bare echo server: what the socket path allows at best, for ratios beside a real server's figures.
//!
//! It answers ZooKeeper's frames with frames of the right size and has nothing behind them. The server itself is
//! `loadgen::echo`, by which the generator measures its own cost, too.

use anyhow::Context;
use clap::Parser;
use std::net::TcpListener;
use std::sync::atomic::AtomicBool;

/// Answer ZooKeeper requests with replies of the right size, in one thread, with nothing behind them.
#[derive(Parser, Debug)]
#[command(name = "echo", version)]
struct Args {
    /// Where to listen; port 0 picks a free one, the line on stdout names it
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:2281")]
    listen: String,
    /// Bytes that getData finds in every node
    #[arg(long, value_name = "BYTES", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(0..=16_000_000))]
    value_size: u32,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let listener =
        TcpListener::bind(&args.listen).with_context(|| format!("cannot listen on {}", args.listen))?;
    println!("listening on {}", listener.local_addr()?);
    loadgen::echo::serve(listener, args.value_size as usize, &AtomicBool::new(false))
}
