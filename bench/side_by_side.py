#!/usr/bin/env python3
"""The speed table: bare echo, Apache ZooKeeper and Serval under the same loads, in one sitting on one machine.

Every load runs against one server at a time, the servers in turn, `--rounds` times; the median counts. A figure
without its peer beside it is not a result, so the ratios are printed with it. Needs `cargo build --release
--workspace`, a JRE and Debian's `zookeeper`. Nothing but loopback is touched.

With `--ensemble N` the same for ensembles of N servers, all on this machine with the load generator; then also how
long a killed leader's writes wait, and how a follower catches up. `loadgen` starts and ends the servers.
"""

import argparse
import contextlib
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
        return finished([args.loadgen, verb, f"--hosts=127.0.0.1:{port}", f"--json={out.name}", *flags], out)


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


ENSEMBLE_LOADS = [  # name, flags of `loadgen run`, aim for Serval as a multiple of Apache
    ("pipelined reads, 1 KiB, all servers, 48 x 100", ["--connections=48", "--outstanding=100", "--read-ratio=1.0"], 15),
    ("pipelined reads, 100 B", ["--connections=48", "--outstanding=100", "--read-ratio=1.0", "--value-size=100"], None),
    ("pipelined writes, 1 KiB, 48 x 100", ["--connections=48", "--outstanding=100", "--read-ratio=0.0"], 5),
    ("one synchronous writer, 1 KiB", ["--connections=1", "--outstanding=1", "--read-ratio=0.0"], 1.8),
    ("32 synchronous writers, 100 B", ["--connections=32", "--outstanding=1", "--read-ratio=0.0", "--value-size=100"], 3),
    ("90 % reads, 1 KiB, 48 x 100", ["--connections=48", "--outstanding=100", "--read-ratio=0.9"], 10),
]


class Ensemble:
    """N servers of a kind, kept by `loadgen servers` until its standard input ends."""

    def __init__(self, args, name):
        self.args, self.name, self.process, self.hosts = args, name, None, None

    def flags(self):
        common = [f"--ensemble={self.args.ensemble}", f"--target={self.name}"]
        if self.name == "apache":
            # Under sustained writes snapshots would only cost it throughput.
            return [*common, f"--java-heap={self.args.java_heap}", "--server-option=snapCount=10000000"]
        return [*common, f"--server-binary={self.args.serval}", f"--server-profile={self.args.profile}"]

    def __enter__(self):
        self.process = subprocess.Popen([self.args.loadgen, "servers", *self.flags(), "--warm-servers=0s"],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for line in self.process.stdout:
            key, _, value = line.strip().partition(" ")
            if key == "servers":
                print(f"{self.name}: {value}", file=sys.stderr)
            if key == "hosts":
                self.hosts = value
                return self
        raise RuntimeError(f"{self.name} did not start: exit {self.process.wait()}")

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait()

    def run(self, flags, seconds):
        """The summary of one run of a load."""
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            command = [self.args.loadgen, "run", f"--hosts={self.hosts}", f"--json={out.name}", *flags, "--quiet",
                       f"--duration={seconds}s", "--warmup=1s", "--seed=7"]
            return finished(command, out)["summary"]

    def timeline(self, *flags):
        """The result of a timeline, on servers of its own."""
        with tempfile.NamedTemporaryFile(suffix=".json") as out:
            return finished([self.args.loadgen, "timeline", *self.flags(), *flags, "--quiet", f"--json={out.name}"], out)


def finished(command, out):
    """Runs a command of loadgen; gives the JSON that it wrote."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if done.returncode == 1:
        print(f"  note: {' '.join(command[1:])}\n{done.stdout[-1500:]}{done.stderr[-500:]}", file=sys.stderr)
    if done.returncode not in (0, 1) or not os.path.getsize(out.name):
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    with open(out.name, encoding="utf-8") as f:
        return json.load(f)


def ratio_row(load, unit, goal, apache, serval, lower_is_better=False, **more):
    both = apache and serval
    ratio = (apache / serval if lower_is_better else serval / apache) if both else None
    return {"load": load, "unit": unit, "goal": goal, "apache": apache, "serval": serval, "ratio": ratio, **more}


def ensemble_throughput(args, live, rows):
    for name, flags, goal in ENSEMBLE_LOADS:
        found = {e.name: [] for e in live}
        for _ in range(args.rounds):
            for e in live:
                found[e.name].append(e.run(flags, args.seconds))

        def median(pick):
            return [statistics.median(pick(s) for s in found[k]) if k in found else None for k in ("apache", "serval")]
        rows.append(ratio_row(name, "ops/s", f"{goal} x" if goal else "", *median(lambda s: s["ops_per_second"]),
                              runs={k: [s["ops_per_second"] for s in v] for k, v in found.items()}))
        show(rows[-1])
        if "--outstanding=1" in flags or "90 %" in name:
            for q, aim in (("p50", ""), ("p99", "< 30 ms" if "90 %" in name else "")):
                quantiles = median(lambda s, q=q: s["latency"][f"{q}_us"] / 1000)
                rows.append(ratio_row(f"    its {q}", "ms", aim, *quantiles, lower_is_better=True))
                show(rows[-1])


def leader_kills(args, ensembles, rows):
    """The leader is killed with -9 every 6 s, `--kills` times, under 500 writes/s and 500 reads/s."""
    summaries = {}
    for e in ensembles:
        length = 6 * args.kills + 5
        summaries[e.name] = e.timeline("--kill-every=6s", "--down=2s", f"--duration={length}s")["summary"]

    def of(*path):
        values = []
        for name in ("apache", "serval"):
            value = summaries.get(name)
            for key in path:
                value = value and value[key]
            values.append(value)
        return values
    for load, goal, key in [
        ("leader killed, client on a survivor", "250 ms", "leader_gap_of_survivors"),
        ("leader killed, any client", "", "leader_gap"),
        ("leader killed, client of the leader", "", "leader_gap_of_its_own"),
    ]:
        for which, aim in (("median", goal), ("worst", "500 ms" if goal else "")):
            rows.append(ratio_row(f"{load}: {which}", "ms", aim, *of(key, f"{which}_ms"), lower_is_better=True))
            show(rows[-1])
    for load, key in [("    acknowledged writes lost", "lost_writes"), ("    sessions lost", "lost_sessions")]:
        rows.append(ratio_row(load, "", "0", *of(key)))
        show(rows[-1])


def catch_up(args, ensembles, rows):
    """A follower is killed, misses 100,000 transactions, and comes back while the writes go on."""
    found = {}
    missed_s = 100_000 / args.catch_up_rate
    back = 3 + missed_s
    for e in ensembles:
        result = e.timeline("--connections=16", f"--write-rate={args.catch_up_rate}", "--read-rate=100",
                            f"--kill=follower@3s,restart@{back}s", f"--duration={back + args.catch_up_s}s")
        events = [event for event in result["runs"][0]["events"] if event["verb"] == "restart"]
        found[e.name] = events[0] if events else {}
    for load, unit, goal, key, scale in [
        (f"follower 100,000 behind, {args.catch_up_rate:,.0f} writes/s: behind", "txns", "", "behind", 1),
        ("    until it serves", "s", "", "serves_after_ms", 1e-3),
        ("    until it has caught up", "s", "faster", "caught_up_after_ms", 1e-3),
        ("    the leader's writes fell by (500 ms)", "%", "<= 20 %", "dip", 100),
        ("    longest time without an acknowledged write", "ms", "", "longest_silence_ms", 1),
    ]:
        values = [found.get(name, {}).get(key) for name in ("apache", "serval")]
        values = [None if v is None else v * scale for v in values]
        rows.append(ratio_row(load, unit, goal, *values, lower_is_better=True))
        show(rows[-1])


def ensemble_table(args, rows):
    ensembles = [Ensemble(args, name) for name in args.targets.split(",")]
    print(f"| {'ensembles of ' + str(args.ensemble):<46} | {'':>10} | {'Apache':>9} | {'Serval':>10} | unit  | S : A     | goal     |")
    if args.only in (None, "throughput"):
        with contextlib.ExitStack() as stack:
            live = [stack.enter_context(e) for e in ensembles]
            # The JVM compiles its hot paths under load, not before.
            for e in [e for e in live if e.name == "apache"]:
                for _, flags, _ in (ENSEMBLE_LOADS[0], ENSEMBLE_LOADS[2], ENSEMBLE_LOADS[5]):
                    e.run(flags, args.warm_s)
            ensemble_throughput(args, live, rows)
    if args.only in (None, "kills"):
        leader_kills(args, ensembles, rows)
    if args.only in (None, "catch-up"):
        catch_up(args, ensembles, rows)


def show(row):
    def figure(value):
        return "-" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
    ratio = "-" if row["ratio"] is None else f"{row['ratio']:.2f} x"
    print(f"| {row['load']:<46} | {figure(row.get('echo')):>10} | {figure(row['apache']):>9} | "
          f"{figure(row['serval']):>10} | {row['unit']:<5} | {ratio:>9} | {row['goal']:<8} |", flush=True)


def main():
    release = os.path.join(REPOSITORY, "target", "release")
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--serval", default=os.path.join(release, "serval"), help="the server's binary")
    p.add_argument("--loadgen", default=os.path.join(release, "loadgen"), help="the load generator's binary")
    p.add_argument("--echo", default=os.path.join(release, "echo"), help="the echo server's binary")
    p.add_argument("--profile", default="balanced", help="Serval's tuning profile")
    p.add_argument("--rounds", type=int, default=3, help="runs of each load against each server")
    p.add_argument("--seconds", type=int, default=5, help="measured length of each run")
    p.add_argument("--only", choices=["throughput", "fanout", "memory", "kills", "catch-up"],
                   help="one part of the table (fanout and memory: single servers; kills and catch-up: ensembles)")
    p.add_argument("--json", help="write all figures to this file")
    e = p.add_argument_group("ensembles")
    e.add_argument("--ensemble", type=int, metavar="N", help="measure ensembles of N servers")
    e.add_argument("--targets", default="apache,serval", help="which of the two, comma-separated")
    e.add_argument("--java-heap", default="1g", help="largest heap of each JVM")
    e.add_argument("--warm-s", type=int, default=10, help="each of the three loads that warm the JVMs up")
    e.add_argument("--kills", type=int, default=10, help="leaders to kill")
    e.add_argument("--catch-up-rate", type=float, default=8000, help="writes per second that the follower misses")
    e.add_argument("--catch-up-s", type=float, default=25, help="seconds that it is given to catch up")
    args = p.parse_args()
    if not set(args.targets.split(",")) <= {"apache", "serval"}:
        p.error("--targets: apache, serval, or both")
    single, several = ("fanout", "memory"), ("kills", "catch-up")
    if args.only in (single if args.ensemble else several):
        p.error(f"--only {args.only} is a part of the other table")
    for binary in (args.serval, args.loadgen, args.echo):
        needless = args.ensemble and (binary == args.echo or binary == args.serval and "serval" not in args.targets)
        if not needless and not shutil.which(binary):
            sys.exit(f"{binary} is missing: cargo build --release --workspace")
    rows = []
    if args.ensemble:
        ensemble_table(args, rows)
    else:
        single_table(args, rows)
    if args.json:
        with open(args.json, "w") as f:
            json.dump(rows, f, indent=1)


def single_table(args, rows):
    os.environ["SERVAL_BIN"] = args.serval
    Serval.profile = args.profile
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


if __name__ == "__main__":
    main()
