#!/usr/bin/env python3
"""Replaces the servers of an ensemble one at a time, under load, and back again; no client may notice more than a move.

    migration.py [--seed S] [--serval-bin PATH] [--rounds N] [--restart-only] [SCENARIO ...]

Scenarios (all by default):
  rolling   Apache x 3 becomes Serval x 3 (data imported in place by `serval serve` or by `serval import`) and then Apache
            x 3 again (`serval export`), each while the others serve.
  lagging   the replaced server starts while another lags behind and the third is killed: its imported data count.
  empty     a Serval voter that lost its data and a voter that lags form no quorum while the third is away.
  control   Apache servers in that place do, and lose writes: the checker must see that.
`--restart-only` only restarts the servers where they would be replaced: the same scenarios on Apache alone.
Last line: `N scenarios, N acknowledged, N writes lost, N sessions lost, N breaches`.
"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import time

import ensemble
import servers
import workload

IMPORT_S = 120


class Move:
    """An ensemble under load whose members change their kind."""

    def __init__(self, args, name):
        self.args, self.name = args, name
        self.rng = random.Random(f"{args.seed} {name}")
        self.other = "A" if args.restart_only else "S"
        self.ensemble = ensemble.Ensemble("AAA")
        self.steps = []

    def __enter__(self):
        self.ensemble.__enter__()
        try:
            self.ensemble.start()
            self.work = workload.Workload(self.ensemble, self.args.seed).start()
            self.work.wait_progress(100)
        except BaseException:
            self.ensemble.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, *problem):
        for c in self.work.clients:
            c.end()
        self.ensemble.__exit__(*problem)

    def say(self, text):
        self.steps.append(text)
        print(f"    {self.name}: {text}", flush=True)

    def stop(self, member):
        if member.stop() is None:
            raise AssertionError(f"{member} did not end on SIGTERM")

    def to_serval(self, member, command):
        """Serval takes over the directory that an Apache server left: by itself, or told to."""
        was = self.contents(member)
        if command and self.other == "S":
            tool(["import", member.data, "--data-dir", member.data])
        member.kind = self.other
        member.launch()
        self.ensemble.wait_serving([member.id], IMPORT_S)
        if self.other == "S" and not was <= self.contents(member):
            raise AssertionError(f"{member}: the import changed ZooKeeper's own files")

    def to_apache(self, member):
        """A directory that `serval export` wrote becomes the one of an Apache server."""
        if self.other == "S":
            target = os.path.join(member.directory, f"exported-{len(self.steps)}")
            tool(["export", target, "--data-dir", member.data])
            member.data_directory = target
        member.kind = "A"
        member.launch()
        self.ensemble.wait_serving([member.id], IMPORT_S)

    def contents(self, member):
        """What stands in version-2, as (name, size, time of change)."""
        directory = os.path.join(member.data, "version-2")
        found = [(name, os.stat(os.path.join(directory, name))) for name in os.listdir(directory)]
        return {(name, stat.st_size, stat.st_mtime_ns) for name, stat in found}

    def finish(self):
        """(acknowledged, writes lost, sessions lost, breaches)."""
        breaches = self.work.finish()
        breaches = self.ensemble.unless_void(breaches + self.ensemble.same_everywhere())
        lost = self.work.lost
        sessions = sum(c.expired for c in self.work.clients if not isinstance(c, workload.Ephemerals))
        for line in breaches:
            print(f"    {line}")
        bad = breaches or sessions
        if bad:
            print(self.ensemble.logs(60))
        print(f"{'FAILED' if bad else 'ok    '} {self.name}: {self.work.summary()}; {lost} writes lost, {sessions} "
              f"sessions lost; {self.ensemble.compared}", flush=True)
        return self.work.acknowledged(), lost, sessions, len(breaches)


def tool(words):
    """Runs a command of the Serval binary."""
    done = subprocess.run([servers.Serval.binary(), *words], capture_output=True, text=True, timeout=IMPORT_S, check=False)
    if done.returncode:
        raise AssertionError(f"serval {' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


def order(m):
    """Followers first, the leader last, as an operator would."""
    leader = m.ensemble.wait_leader()
    rest = [i for i in m.ensemble.ids() if i != leader]
    m.rng.shuffle(rest)
    return rest + [leader]


def rolling(args):
    with Move(args, "rolling") as m:
        for _ in range(args.rounds):
            for turn, i in enumerate(order(m)):
                member = m.ensemble[i]
                m.stop(member)
                m.work.wait_progress(50)
                m.to_serval(member, command=turn % 2)
                m.work.wait_progress(100)
                m.say(f"{member} in place of A{i}, led by {m.ensemble[m.ensemble.wait_leader()]}")
            m.work.wait_progress(300)
            for i in order(m):
                member = m.ensemble[i]
                m.stop(member)
                m.work.wait_progress(50)
                m.to_apache(member)
                m.work.wait_progress(100)
                m.say(f"{member} again, led by {m.ensemble[m.ensemble.wait_leader()]}")
        return m.finish()


def lagging(args):
    """B takes over its data while C is far behind and A is dead: what A and B had acknowledged must survive on B alone."""
    with Move(args, "lagging") as m:
        e = m.ensemble
        for _ in range(args.rounds):
            first, second, third = m.rng.sample(e.ids(), 3)
            e[third].kill()
            e.wait_serving([first, second])
            m.work.wait_progress(600)
            m.stop(e[second])
            e[first].kill()
            if e[second].kind == "A":
                e[second].kind = m.other
            e[second].launch()
            e[third].launch()
            e.wait_serving([second, third], IMPORT_S)
            m.work.wait_progress(100)
            m.say(f"{e[second]} and {e[third]}, which lagged, serve; led by {e[e.wait_leader()]}")
            e[first].launch()
            e.wait_serving()
            m.work.wait_progress(100)
        return m.finish()


def lose_a_disk(m):
    """What two members acknowledged is left on one that is away: the other lost its disk, and the third lags."""
    e = m.ensemble
    first, second, third = m.rng.sample(e.ids(), 3)
    e[third].kill()
    e.wait_serving([first, second])
    m.work.wait_progress(300)
    e[first].kill()
    e[second].kill()
    shutil.rmtree(e[second].data)
    e[second].launch()
    e[third].launch()
    return first, second, third


def empty(args):
    """A voter with no data and one that lags must not elect while the third is away."""
    with Move(args, "empty") as m:
        e = m.ensemble
        for i in order(m):
            m.stop(e[i])
            m.to_serval(e[i], command=False)
        first, second, third = lose_a_disk(m)
        deadline = time.monotonic() + 8
        while time.monotonic() < deadline:
            if e.leader():
                raise AssertionError(f"{e[second]}, which is empty, and {e[third]}, which lags, made {e.leader()} leader")
            time.sleep(0.1)
        e[first].launch()
        e.wait_serving()
        m.work.wait_progress(100)
        return m.finish()


def control(args):
    """The same with Apache servers, which do elect and lose writes: the checker must see it."""
    args = argparse.Namespace(**{**vars(args), "restart_only": True})
    with Move(args, "control") as m:
        first, second, third = lose_a_disk(m)
        m.ensemble.wait_serving([second, third])
        m.work.stop()
        m.ensemble[first].launch()
        m.ensemble.wait_serving()
        breaches = m.work.judge(m.work.look_everywhere())
        if not breaches or not m.work.lost:
            raise AssertionError("an ensemble lost acknowledged writes, and the checker did not see it")
        print(f"ok     control: the checker saw {m.work.lost} lost writes", flush=True)
    return 0, 0, 0, 0


SCENARIOS = {f.__name__: f for f in (rolling, lagging, empty, control)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--restart-only", action="store_true")
    parser.add_argument("--serval-bin")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    args = parser.parse_args()
    unknown = [s for s in args.scenarios if s not in SCENARIOS]
    if unknown:
        parser.error(f"no such scenario: {' '.join(unknown)} (there are: {' '.join(SCENARIOS)})")
    args.kinds = "A" if args.restart_only else "AS"
    ensemble.use_arguments(args)
    print(f"seed {args.seed}")
    names = args.scenarios or [n for n in SCENARIOS if n != "empty" or not args.restart_only]
    totals = [0, 0, 0, 0]
    for name in names:
        try:
            result = ensemble.not_void(name, lambda: SCENARIOS[name](args))
        except Exception as e:
            print(f"FAILED {name}: {type(e).__name__}: {e}", flush=True)
            result = (0, 0, 0, 1)
        totals = [a + b for a, b in zip(totals, result)]
    print(f"{len(names)} scenarios, {totals[0]} acknowledged, {totals[1]} writes lost, {totals[2]} sessions lost, "
          f"{totals[3]} breaches")
    sys.exit(1 if any(totals[1:]) else 0)


if __name__ == "__main__":
    main()
