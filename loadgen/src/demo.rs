//! `loadgen demo`: a server in a child process, two workloads against it, their tables.
//!
//! The child is this binary again with a hidden command. It ends when its standard input does, so it does not
//! outlive its parent, however that ends; its data directory is temporary and goes with it.

use crate::cli::{DemoArgs, EmbeddedServerArgs, run_args};
use crate::ensemble::Ensemble;
use crate::report;
use crate::run;
use anyhow::{Context, bail};
use net::embed::{Options, Server};
use profiles::Profile;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// What the child prints before its port.
const PORT_LINE: &str = "port ";

/// The workloads: title and flags of `loadgen run`.
const WORKLOADS: [(&str, &str); 2] = [
    ("Read-heavy: 90 % getData, 10 % setData, 1 KiB", "--read-ratio 0.9 --connections 50 --outstanding 20"),
    (
        "Mixed: reads, lists, writes, creates, deletes and watches, 1 KiB",
        "--mix get=40,exists=10,children=10,set=20,create=8,delete=8,watch=4 --connections 50 --outstanding 20",
    ),
];

/// Does what the command line says; `true` if both runs are valid and without errors.
///
/// # Errors
/// The server cannot be started, or a run failed.
pub fn command(args: &DemoArgs) -> anyhow::Result<bool> {
    if let Some(ensemble) = Ensemble::start(&args.local)? {
        println!("started {}", ensemble.describe());
        let clean = workloads(args, &ensemble.hosts().join(","))?;
        ensemble.stop();
        println!("\nThe servers are stopped and their data are gone.");
        return Ok(clean);
    }
    let server = ServerProcess::start(&args.profile)?;
    let host = format!("127.0.0.1:{}", server.port);
    println!("started an embedded standalone server on {host}, profile {}, every write synced", args.profile);
    let clean = workloads(args, &host)?;
    server.stop()?;
    println!("\nThe server is stopped and its data are gone. Your own: `serval serve`, then `loadgen run`.");
    Ok(clean)
}

/// Drives the workloads and prints their tables; `true` if all runs are valid and without errors.
fn workloads(args: &DemoArgs, hosts: &str) -> anyhow::Result<bool> {
    let mut clean = true;
    for (title, flags) in WORKLOADS {
        let duration = format!("{}ms", args.duration.as_millis());
        let own = ["--hosts", hosts, "--duration", &duration, "--warmup", "1s"];
        let mut run = run_args(own.into_iter().chain(flags.split_whitespace()))?;
        run.quiet = args.quiet;
        println!("\n== {title}\n   loadgen run {flags}\n");
        let outcome = run::execute(&run)?;
        print!("{}", report::table(&outcome));
        clean &= outcome.clean();
        if outcome.interrupted {
            break;
        }
    }
    Ok(clean)
}

/// A server in a child process.
struct ServerProcess {
    child: Child,
    port: u16,
}

impl ServerProcess {
    fn start(profile: &str) -> anyhow::Result<ServerProcess> {
        let this = std::env::current_exe().context("this program does not know its own file")?;
        let mut child = Command::new(this)
            .args(["embedded-server", "--profile", profile])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server's process")?;
        let mut line = String::new();
        let stdout = child.stdout.take().context("the server's process has no output")?;
        BufReader::new(stdout).read_line(&mut line)?;
        match line.trim().strip_prefix(PORT_LINE).and_then(|p| p.parse().ok()) {
            Some(port) => Ok(ServerProcess { child, port }),
            None => {
                let status = child.wait()?;
                bail!("the embedded server did not start ({status})");
            }
        }
    }

    /// Ends the server in good order.
    fn stop(mut self) -> anyhow::Result<()> {
        drop(self.child.stdin.take());
        let status = self.child.wait()?;
        if !status.success() {
            bail!("the embedded server ended with {status}");
        }
        Ok(())
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        // After an error: the end of its input ends it, and its directory goes with it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The child: serves until its standard input ends.
///
/// # Errors
/// The server cannot be started, or does not end well.
pub fn embedded_server(args: &EmbeddedServerArgs) -> anyhow::Result<bool> {
    // An interrupt from the terminal goes to both processes: it is the parent's to act on.
    signal_hook::flag::register(signal_hook::consts::SIGINT, Arc::new(AtomicBool::new(false)))?;
    let profile = Profile::load(&args.profile)?;
    let server = Server::start(Options { profile: Some(profile), ..Options::default() })?;
    let mut out = std::io::stdout();
    writeln!(out, "{PORT_LINE}{}", server.client_port())?;
    out.flush()?;
    // Whatever comes is ignored; an error is an end, too.
    let mut ignored = [0; 64];
    while std::io::stdin().read(&mut ignored).is_ok_and(|n| n > 0) {}
    server.stop()?;
    Ok(true)
}
