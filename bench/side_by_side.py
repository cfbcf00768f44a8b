#!/usr/bin/env python3
"""The speed table: bare echo, Apache ZooKeeper and Serval under the same loads, in one sitting on one machine.

Every load runs against one server at a time, the servers in turn, `--rounds` times; the median counts. A figure
without its peer beside it is not a result, so the ratios are printed with it. Needs `cargo build --release
--workspace`, a JRE and Debian's `zookeeper`. Nothing but loopback is touched.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

REPOSITORY = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, os.path.join(REPOSITORY, "net", "interop"))
import servers  # noqa: E402

LOADS = [  # name, flags of `loadgen run`, what Serval should reach as a multiple of Apache
    ("pipelined reads, 1 KiB, 50 x 100", ["--connections=50", "--outstanding=100", "--read-ratio=1.0"], 10),
    ("reads, 8 x 1", ["--connections=8", "--outstanding=1", "--read-ratio=1.0"], 4),
    ("pipelined writes, 1 KiB, 50 x 100", ["--connections=50", "--outstanding=100", "--read-ratio=0.0"], 4),
    ("one synchronous writer", ["--connections=1", "--outstanding=1", "--read-ratio=0.0"], 1.6),
    ("90 % reads, 50 x 100", ["--connections=50", "--outstanding=100", "--read-ratio=0.9"], 6),
]


class WarmApache(servers.Apache):
    """Apache as one would run it for speed: a server-class heap, the optimising compiler, no low request limit."""

    extra = ("-Dzookeeper.snapCount=10000000",)  # under sustained writes snapshots would only cost it throughput

    def command(self):
        plain = super().command()
        main = plain.index("-cp")
        return [plain[0], "-Xms2g", "-Xmx6g", "-Dzookeeper.admin.enableServer=false",
                "-Dzookeeper.globalOutstandingLimit=100000", *self.extra, *plain[main:]]


class Serval(servers.Serval):
    """Serval with the same limits raised. `PROFILE` names its tuning profile."""

    profile = "balanced"

    def command(self):
        return [*super().command(), "--profile", self.profile]


class Echo:
    """The bare echo server: the socket path with nothing behind it."""

    name = "echo"

    def __init__(self, binary):
        self.binary = binary
        self.process = None

    def __enter__(self):
        self.process = subprocess.Popen(
            [self.binary, "--listen", "127.0.0.1:0", "--value-size", "1024"], stdout=subprocess.PIPE, text=True)
        self.port = int(self.process.stdout.readline().rsplit(":", 1)[1])
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait()


def loadgen(args, verb, port, *flags):
    """Runs loadgen against a port; gives its JSON."""
    with tempfile.NamedTemporaryFile(suffix=".json") as out:
        command = [args.loadgen, verb, f"--hosts=127.0.0.1:{port}", f"--json={out.name}", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=900)
        if done.returncode == 1:
            print(f"  note: {verb} {' '.join(flags)}\n{done.stdout[-700:]}{done.stderr[-300:]}", file=sys.stderr)
        if done.returncode not in (0, 1) or not os.path.getsize(out.name):
            raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
        return json.load(open(out.name))


def run(args, port, flags, seconds):
    value = loadgen(args, "run", port, *flags, "--quiet", f"--duration={seconds}s", "--warmup=1s", "--seed=7")
    return value["summary"]["ops_per_second"]


def rss(pid):
    with open(f"/proc/{pid}/status") as f:
        return next(int(line.split()[1]) * 1024 for line in f if line.startswith("VmRSS"))


def throughput(args, live, rows):
    for name, flags, goal in LOADS:
        figures = {s.name: [] for s in live}
        for _ in range(args.rounds):
            for s in live:
                figures[s.name].append(run(args, s.port, flags, args.seconds))
        median = {k: statistics.median(v) for k, v in figures.items()}
        rows.append({"load": name, "unit": "ops/s", "goal": f"{goal} x", **median, "runs": figures,
                     "ratio": median["serval"] / median["apache"]})
        show(rows[-1])


def fanout(args, live, rows):
    found = {}
    for s in [s for s in live if s.name != "echo"]:
        value = loadgen(args, "fanout", s.port, "--connections=1000", "--rounds=30")
        found[s.name] = value["last_notified"]["p50_us"] / 1000
    rows.append({"load": "1,000 watchers, until the last is told (p50)", "unit": "ms", "goal": "<= 4 ms", "echo": None, **found,
                 "ratio": found["apache"] / found["serval"]})
    show(rows[-1])


class PlainApache(WarmApache):
    """The same with its own snapshot cadence, so that it need not replay a million transactions."""

    extra = ()


def memory(args, rows):
    """1,000,000 znodes and 10,000 idle sessions, each on a fresh server, and the time to start up again."""
    per_node, start, idle = {}, {}, {}
    for kind, sessions in ((PlainApache, 2_000), (Serval, 10_000)):  # 10,000 are more than Apache keeps alive here
        with kind() as s:
            document = loadgen(args, "idle", s.port, f"--connections={sessions}", "--duration=2s",
                               f"--server-pid={s.process.pid}")
            idle[s.name] = document["resident"]["bytes_each"]
        server = kind()
        server.start()
        before = rss(server.process.pid)
        loadgen(args, "fill", server.port, "--keys=1000000", "--value-size=100")
        per_node[server.name] = (rss(server.process.pid) - before) / 1e6
        time.sleep(5)  # both take snapshots while they are filled; let the last one end
        server.stop()
        began = time.monotonic()
        server.start()
        start[server.name] = time.monotonic() - began
        server.remove()
    for load, unit, goal, found in [
        ("1,000,000 znodes of 100 B, resident each", "B", "<= 300 B", per_node),
        ("the same started up again", "s", "< 1 s", start),
        ("idle sessions (Apache 2,000, Serval 10,000), each", "B", "", idle),
    ]:
        rows.append({"load": load, "unit": unit, "goal": goal, "echo": None, **found,
                     "ratio": found["apache"] / max(found["serval"], 1e-9)})
        show(rows[-1])


def complain(server):
    """Prints what the server warned of: a stalled disk shows here, and explains a figure that is off."""
    with open(server.log_path, encoding="utf-8", errors="replace") as f:
        for line in f:
            if " WARN " in line or "ERROR" in line:
                print(f"  {server.name}: {line.strip()}", file=sys.stderr)


def show(row):
    def figure(value):
        return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    print(f"| {row['load']:<46} | {figure(row.get('echo')):>10} | {figure(row['apache']):>9} | "
          f"{figure(row['serval']):>10} | {row['unit']:<5} | {row['ratio']:>7.2f} x | {row['goal']:<8} |", flush=True)


def main():
    release = os.path.join(REPOSITORY, "target", "release")
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--serval", default=os.path.join(release, "serval"), help="the server's binary")
    p.add_argument("--loadgen", default=os.path.join(release, "loadgen"), help="the load generator's binary")
    p.add_argument("--echo", default=os.path.join(release, "echo"), help="the echo server's binary")
    p.add_argument("--profile", default="balanced", help="Serval's tuning profile")
    p.add_argument("--rounds", type=int, default=3, help="runs of each load against each server")
    p.add_argument("--seconds", type=int, default=5, help="measured length of each run")
    p.add_argument("--only", choices=["throughput", "fanout", "memory"], help="one part of the table")
    p.add_argument("--json", help="write all figures to this file")
    args = p.parse_args()
    for binary in (args.serval, args.loadgen, args.echo):
        if not shutil.which(binary):
            sys.exit(f"{binary} is missing: cargo build --release --workspace")
    os.environ["SERVAL_BIN"] = args.serval
    Serval.profile = args.profile
    rows = []
    print(f"| {'load':<46} | {'echo':>10} | {'Apache':>9} | {'Serval':>10} | unit  | S : A     | goal     |")
    limits = {"globalOutstandingLimit": "100000"}
    if args.only != "memory":
        with Echo(args.echo) as echo, WarmApache() as apache, Serval(limits) as serval:
            live = [echo, apache, serval]
            # The JVM compiles its hot paths under load, not before.
            for flags in (LOADS[0][1], LOADS[2][1], LOADS[1][1]):
                run(args, apache.port, flags, 10)
            if args.only != "fanout":
                throughput(args, live, rows)
            fanout(args, live, rows)
            complain(serval)
    if args.only in (None, "memory"):
        memory(args, rows)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rows, f, indent=1)


if __name__ == "__main__":
    main()
