#!/usr/bin/env python3
"""Disturbs an ensemble under load, in every way that one machine allows, and checks what its clients saw.

    chaos.py [--kinds SSS] [--cycles N] [--seed S] [--serval-bin PATH] [SCENARIO ...]

Scenarios: kill, pause, restarts, lag, oversize, partition, slow, disk (all by default). Each starts an ensemble, lets the clients of
`workload.py` work, disturbs and heals it `--cycles` times, then judges the history (`checker.py`), looks for every
acknowledged write on every server, and compares the servers' dumps and digests.
Networks that fail are namespaces of this process (`network.py`); a machine that has none fails the run and says why.
Last line: `N scenarios, N acknowledged, N breaches`.
"""

import argparse
import itertools
import os
import random
import re
import sys
import time

import checker
import ensemble
import network
import servers
import workload


class Ground:
    """One ensemble with its clients, for the length of one scenario."""

    def __init__(self, args, name, place=None, config=None, **options):
        self.args, self.name = args, name
        self.rng = random.Random(f"{args.seed} {name}")
        self.ensemble = ensemble.Ensemble(args.kinds, place=place, config=config, **options)
        self.cycles = args.cycles
        self.gaps, self.notes, self.breaches = [], [], []
        self.probes = 0

    def __enter__(self):
        self.ensemble.__enter__()
        try:
            self.begin()
        except BaseException:
            self.ensemble.__exit__(*sys.exc_info())
            raise
        return self

    def begin(self):
        self.ensemble.start()
        self.work = workload.Workload(self.ensemble, self.args.seed).start()
        self.work.wait_progress()

    def __exit__(self, *problem):
        for c in self.work.clients:
            c.end()
        self.ensemble.__exit__(*problem)

    def others(self, member_id):
        return [i for i in self.ensemble.ids() if i != member_id]

    def probe(self, ids):
        """A client that writes without a pause through these members, connected and acknowledged."""
        self.probes += 1
        p = workload.Prober(f"prober{self.probes}", self.ensemble, self.ensemble.hosts(ids), self.work.history, self.args.seed)
        p.start()
        self.ensemble.wait_for("the prober writes", lambda: p.acks)
        return p

    def gap_of(self, p, since, seconds=60.0):
        gap = self.ensemble.wait_for("a write is acknowledged again", lambda: p.gap(since), seconds)
        p.end()
        p.join(20)
        return gap

    def settle(self):
        """All serve, and work goes on."""
        self.ensemble.wait_serving()
        self.work.wait_progress()

    def finish(self):
        """Judges. True if all is well."""
        self.breaches += self.work.finish()
        self.breaches += self.ensemble.same_everywhere()
        lost = sum(c.expired for c in self.work.clients if not isinstance(c, workload.Ephemerals))
        if lost:
            self.breaches.append(f"{lost} sessions expired though a server could always be had in time")
        self.breaches = self.ensemble.unless_void(self.breaches)
        for line in self.breaches:
            print(f"    {line}")
        if self.breaches:
            print(self.ensemble.logs(60))
        gaps = ""
        if self.gaps:
            median, worst = checker.spread(self.gaps)
            gaps = f"; write gap after {len(self.gaps)} leader kills: median {median:.3f} s, worst {worst:.3f} s"
        print(f"{'FAILED' if self.breaches else 'ok    '} {self.name} ({self.args.kinds}): {self.work.summary()}; "
              f"{self.ensemble.compared}{gaps}{''.join('; ' + n for n in self.notes)}", flush=True)
        return self.work.acknowledged(), len(self.breaches)


# ---- processes --------------------------------------------------------------------------------------------------------

def kill(args):
    """kill -9 of a random server, of the leader, of all at once, in turn."""
    with Ground(args, "kill") as g:
        for cycle in range(g.cycles):
            [kill_any, kill_leader, kill_all][cycle % 3](g)
            g.settle()
        return g.finish()


def kill_any(g):
    e = g.ensemble
    victim = g.rng.choice(e.ids())
    e[victim].kill()
    g.work.wait_progress()
    e[victim].launch()


def kill_leader(g):
    e = g.ensemble
    leader = e.wait_leader()
    p = g.probe(g.others(leader))
    since = time.monotonic()
    e[leader].kill()
    g.gaps.append(g.gap_of(p, since))
    g.work.wait_progress()
    e[leader].launch()


def kill_all(g):
    e = g.ensemble
    for i in e.ids():
        e[i].kill()
    for i in g.rng.sample(e.ids(), len(e.ids())):
        e[i].launch()
        time.sleep(g.rng.choice([0, 0, 0.3]))


def pause(args):
    """SIGSTOP of the leader until another leads, and of a follower until it is dropped; both come back."""
    with Ground(args, "pause") as g:
        e = g.ensemble
        for cycle in range(g.cycles):
            leader = e.wait_leader()
            victim = leader if cycle % 2 == 0 else g.rng.choice(g.others(leader))
            e[victim].pause()
            if victim == leader:
                e.wait_for("another leader", lambda: e.leader() not in (None, leader))
            g.work.wait_progress(50)
            time.sleep(g.rng.uniform(0, 4))
            e[victim].resume()
            g.settle()
        return g.finish()


def restarts(args):
    """All stopped in good order and started again, in every order (or as many as there are cycles)."""
    with Ground(args, "restarts") as g:
        e = g.ensemble
        orders = list(itertools.permutations(e.ids()))
        g.rng.shuffle(orders)
        for cycle in range(g.cycles):
            down, up = g.rng.choice(orders), orders[cycle % len(orders)]
            for i in down:
                if e[i].stop() is None:
                    g.breaches.append(f"{e[i]} did not end on SIGTERM")
            for i in up:
                e[i].launch()
                # With a majority up, the rest meet an ensemble that has already elected, or one that is about to.
                if g.rng.random() < 0.5:
                    time.sleep(g.rng.uniform(0, 0.6))
            g.settle()
        # Each alone while the others serve.
        for i in g.rng.sample(e.ids(), len(e.ids())):
            e[i].stop()
            g.work.wait_progress()
            e[i].launch()
            g.settle()
        return g.finish()


def lag(args):
    """A follower is down while more is written than the leader keeps at hand; and comes back under load."""
    with Ground(args, "lag") as g:
        e = g.ensemble
        caught = []
        for _ in range(g.cycles):
            victim = g.rng.choice(g.others(e.wait_leader()))
            e[victim].kill()
            g.work.wait_progress(g.rng.choice([200, 1500]), 90)
            started = time.monotonic()
            e[victim].launch()
            e.wait_serving([victim])
            caught.append(time.monotonic() - started)
            g.settle()
        g.notes.append(f"back after at most {max(caught):.2f} s")
        return g.finish()


OVERSIZE = 16_000  # ephemerals whose paths together are larger than jute.maxbuffer (1 MiB)


def oversize(args):
    """A session ends that owns so much that its closeSession is larger than any request may be: all apply it, a member
    that was away gets it afterwards, and all start again with it in their logs."""
    if "A" in args.kinds:
        print("not run: oversize (3.8.0 cannot read such a transaction itself)", flush=True)
        return 0, 0
    with Ground(args, "oversize") as g:
        e = g.ensemble
        for cycle in range(min(g.cycles, 3)):
            leader = e.wait_leader()
            away = g.rng.choice(g.others(leader))
            owner = e.session(g.others(away) if cycle % 2 else [leader], timeout_ms=30000, call_s=20)
            owner.ensure("/big")
            for start in range(0, OVERSIZE, 500):
                owner.call("multi", workload.zk.multi_body(*(
                    ("create", workload.zk.create_body(f"/big/{'x' * 80}{start + n}", b"", flags=workload.zk.EPHEMERAL))
                    for n in range(500))))
            e[away].kill()
            owner.close()
            e[away].launch()
            g.settle()
            for i in e.ids():
                s = e.session([i])
                s.sync("/big")
                left = s.get("/big")[1].children
                s.close()
                if left:
                    g.breaches.append(f"{left} ephemerals of a closed session are left on {e[i]}")
            kill_all(g)
            g.settle()
        return g.finish()


# ---- networks ---------------------------------------------------------------------------------------------------------

def shapes(g, net):
    """Name, what to cut, and whether the present leader has to fall."""
    leader = g.ensemble.wait_leader()
    follower = g.rng.choice(g.others(leader))
    third = next((i for i in g.others(leader) if i != follower), None)
    ids = g.ensemble.ids()
    return {
        "leader alone": (lambda: net.isolate(leader, ids), True),
        "follower alone": (lambda: net.isolate(follower, ids), False),
        "leader cannot send": (lambda: [net.cut_one_way(leader, i) for i in ids if i != leader], True),
        "leader cannot hear": (lambda: [net.cut_one_way(i, leader) for i in ids if i != leader], True),
        "follower cannot send": (lambda: [net.cut_one_way(follower, i) for i in ids if i != follower], False),
        "follower cannot hear": (lambda: [net.cut_one_way(i, follower) for i in ids if i != follower], False),
        "bridge: leader and a follower apart": (lambda: net.cut(leader, follower), None),
        "bridge: the followers apart": (lambda: net.cut(follower, third), None),
        "nobody reaches anybody": (lambda: [net.isolate(i, ids) for i in ids], None),
    }


def partition(args):
    """Cuts between servers while clients reach all of them; every shape in turn."""
    with network.Network(args.seed) as net, Ground(args, "partition", place=net) as g:
        e = g.ensemble
        names = [name for name in shapes(g, net) if re.search(args.shapes, name)]
        for cycle in range(max(g.cycles, len(names)) if args.all_shapes else g.cycles):
            name = names[cycle % len(names)]
            leader = e.wait_leader()
            act, falls = shapes(g, net)[name]
            act()
            started = time.monotonic()
            if falls:
                e.wait_for(f"{name}: another leader",
                           lambda: any(mode == "leader" for i, mode in e.roles().items() if i != leader))
            if name != "nobody reaches anybody":
                g.work.wait_progress(50, 60)
            time.sleep(g.rng.uniform(0, 3))
            net.heal()
            g.settle()
            if args.verbose:
                print(f"    {name}: {time.monotonic() - started:.1f} s", flush=True)
        g.notes.append(f"{net.dropped} of {net.passed + net.dropped} packets dropped")
        return g.finish()


def slow(args):
    """Slow and lossy links: of one follower, then of all. One slow follower must not slow the others."""
    with network.Network(args.seed) as net, Ground(args, "slow", place=net) as g:
        e = g.ensemble
        for cycle in range(g.cycles):
            leader = e.wait_leader()
            victim = g.rng.choice(g.others(leader))
            before = rate(g, 1.5)
            for i in g.others(victim):
                net.slow(i, victim, delay_s=0.04, loss=0.01, bytes_per_s=200_000)
            during = rate(g, 3.0)
            if cycle % 2:
                for pair in itertools.combinations(e.ids(), 2):
                    net.slow(*pair, delay_s=0.02, loss=0.01)
                g.work.wait_progress(50, 60)
            net.heal()
            g.settle()
            g.notes.append(f"creates {before:.0f}/s, with one slow follower {during:.0f}/s")
        return g.finish()


def rate(g, seconds):
    start, began = g.work.acknowledged(), time.monotonic()
    time.sleep(seconds)
    return (g.work.acknowledged() - start) / (time.monotonic() - began)


# ---- disks ------------------------------------------------------------------------------------------------------------

DISK_MB = 400
FREE = 3 << 20


def disk(args):
    """The disk of a follower, then of the leader, is full: that server gives up its role, and no write is lost."""
    network.enter()
    with DiskGround(args, "disk") as g:
        for cycle in range(min(g.cycles, 4)):
            leader = g.ensemble.wait_leader()
            fill_disk(g, leader if cycle % 2 else g.rng.choice(g.others(leader)))
            g.settle()
        return g.finish()


class DiskGround(Ground):
    """Every member's data on a small file system of its own."""

    def begin(self):
        for m in self.ensemble.members.values():
            m.data_directory = network.small_disk(os.path.join(self.ensemble.directory, f"disk{m.id}"), DISK_MB)
        super().begin()

    def __exit__(self, *problem):
        for c in self.work.clients:
            c.end()
        for m in self.ensemble.members.values():
            if m.alive():
                m.kill()
            network.unmount(m.data_directory)
        self.ensemble.__exit__(*problem)


def fill_disk(g, victim):
    """Leaves little room, writes until the server has ended or no longer serves, makes room, starts it again."""
    e = g.ensemble
    m = e[victim]
    ballast = os.path.join(m.data_directory, "ballast")
    filler = e.session(g.others(victim), timeout_ms=20000)
    filler.ensure("/fill")

    def given_up():
        stat = os.statvfs(m.data_directory)
        room = stat.f_bavail * stat.f_frsize - FREE
        if room > 0:
            with open(ballast, "ab") as f:
                f.write(b"\0" * room)
        try:
            filler.set("/fill", os.urandom(400_000))
        except (workload.Lost, workload.Code):
            pass
        return not m.alive() or m.mode() is None
    e.wait_for(f"{m} gives up on a full disk", given_up, 90)
    g.work.wait_progress(50)
    code = m.server.process.poll()
    g.notes.append(f"{m} with a full disk {'does not serve' if code is None else f'ended with {code}'}")
    os.unlink(ballast)
    if m.alive():
        m.kill()
    m.launch()
    filler.drop()


SCENARIOS = {f.__name__: f for f in (kill, pause, restarts, lag, oversize, partition, slow, disk)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ensemble.add_arguments(parser)
    parser.add_argument("--cycles", type=int, default=6)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--all-shapes", action="store_true", help="every shape of partition, whatever the cycles")
    parser.add_argument("--shapes", default="", help="of these partitions only: a regular expression")
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    args = parser.parse_args()
    unknown = [s for s in args.scenarios if s not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {' '.join(unknown)} (there are: {' '.join(SCENARIOS)})")
    ensemble.use_arguments(args)
    print(f"seed {args.seed}")
    names = args.scenarios or list(SCENARIOS)
    try:
        if {"partition", "slow", "disk"} & set(names):
            network.enter()
        results = [run(SCENARIOS[name], name, args) for name in names]
    except servers.Missing as e:
        sys.exit(f"cannot run: {e}")
    acknowledged, breaches = (sum(column) for column in zip(*results))
    print(f"{len(names)} scenarios, {acknowledged} acknowledged, {breaches} breaches")
    sys.exit(1 if breaches else 0)


def run(scenario, name, args):
    """(acknowledged, breaches). A scenario that does not come to its end is a breach."""
    try:
        return ensemble.not_void(f"{name} ({args.kinds})", lambda: scenario(args))
    except servers.Missing:
        raise
    except Exception as e:
        print(f"FAILED {name} ({args.kinds}): {type(e).__name__}: {e}", flush=True)
        return 0, 1


if __name__ == "__main__":
    main()
