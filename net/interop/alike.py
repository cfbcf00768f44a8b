#!/usr/bin/env python3
"""Random sessions over three servers of Apache ZooKeeper and three of Serval: does a client see to whom it talks?

    alike.py [--seed S] [--runs N] [--steps N] [--wide] [--places 3|4] [--no-kills] [--serval-bin PATH]

Both ensembles are asked the same, one step after the other, and every frame of every session is compared: codes, Stats,
events and their order, negotiated timeouts, closes, zxids as counted from the run's beginning. Sessions sit on all servers,
move between them, leave connections behind, and lose their server by kill -9. Four-letter words tell the same on every
server. The first run's seed is fixed (1, or `--seed`), the others' are fresh; the first difference ends a run and is shown
with the steps before it. 3.8.0 at times stops to answer (ZOOKEEPER-4537): such a run is void, and made again. `--wide` asks
for more, as `draws.py` says, and is for a ZOOKEEPER_JAR of 3.9.5. `--places 4` adds an observer. Last line: `N passed, N failed`.

Here: both sides and their steps. Not here: what is asked (`draws.py`), how an answer is shown (`render.py`).
Invariant: no step begins before every session has heard what the last one did, so that there is one right answer.
"""

import argparse
import concurrent.futures
import os
import random
import re
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import conversation  # noqa: E402
import draws  # noqa: E402
import ensemble  # noqa: E402
import render  # noqa: E402
import servers  # noqa: E402
import zk  # noqa: E402
from conversations import words  # noqa: E402

CONFIG = {
    "DigestAuthenticationProvider.superDigest": servers.SUPER_DIGEST, "extendedTypesEnabled": "true", "enforceQuota": "true",
    "reconfigEnabled": "true", "snapCount": "100000", "syncLimit": "120", "znode.container.checkIntervalMs": "100000000",
}
TIMEOUTS = [60000, 60000, 45000, 10**9]  # none so short that a slow machine could let it expire
SESSIONS = 6
ANSWER_S = 20.0
SHOWN = 6
SPECIAL_XIDS = {"ping": zk.XID_PING, "auth": zk.XID_AUTH, "setWatches": zk.XID_SET_WATCHES, "setWatches2": zk.XID_SET_WATCHES}
WORDS = {"ruok": words.plain, "isro": words.plain, "srvr": words.numbers, "stat": words.numbers, "wchs": words.plain,
         "wchc": words.sessions, "wchp": words.sessions, "gtmk": words.plain, "envi": words.names_only}


class Difference(Exception):
    """The two sides did not answer the same."""


class Symbols(render.Symbols):
    """Zxids are counted from the run's beginning, or from their epoch's. Some that a side spent are passed over."""

    def __init__(self, base):
        super().__init__(base)
        self.passed_over = set()

    def start_of(self, zxid):
        return max(self.base_zxid, zxid >> 32 << 32)

    def ordinal(self, zxid):
        first = self.start_of(zxid)
        return zxid - first - sum(first < z < zxid for z in self.passed_over)

    def zxid(self, value):
        if value in (0, -1) or value <= self.base_zxid:
            return super().zxid(value)
        epochs = (value >> 32) - (self.base_zxid >> 32)
        return f"{f'e{epochs}' if epochs else ''}+{self.ordinal(value)}"

    def back(self, zxid, steps):
        """The zxid that is `steps` before this one, in its epoch."""
        want, first = max(self.ordinal(zxid) - steps, 0), self.start_of(zxid)
        while zxid > first and (self.ordinal(zxid) > want or zxid in self.passed_over):
            zxid -= 1
        return zxid


class Side:
    """One ensemble and the sessions on it; what `conversation.Client` asks of its context."""

    def __init__(self, e, wide, order):
        self.e, self.wide, self.order = e, wide, order
        self.clients, self.left = {}, {}
        self.lines, self.golden, self.sessions, self.newest = [], [], {}, 0
        self.ports = {f":{p}": f":{kind}{m.id}" for m in e.members.values()
                      for kind, p in (("C", m.port), ("Q", m.quorum), ("E", m.election))}
        self.symbols = Symbols(0)
        self.symbols = Symbols(conversation.Admin(e[order[0]].address).close_session())

    @property
    def name(self):
        return "serval" if self.e[1].kind == "S" else "apache"

    def note(self, text, _as_39=""):
        for port, name in self.ports.items():
            text = text.replace(port, name)
        text = re.sub(r"version=([0-9a-f]+)'", lambda m: f"version={self.symbols.zxid(int(m[1], 16))}'", text)
        # Every server fills the node of the configuration by itself, when it starts.
        text = re.sub(r"mtime=\w+ v=-1 cv=0 av=-1", "mtime=then v=-1 cv=0 av=-1", text)
        # A list with the scheme auth becomes one entry for each id of a set.
        text = re.sub(r"(?<= acl=\[)[^]]*", lambda m: " ".join(sorted(m[0].split(" "))), text)
        if not self.wide:  # before 3.9.0 events have no zxid
            text = re.sub(r"(event xid=-1) zxid=\S+", r"\1", text)
        self.lines.append(text)


class Connection(conversation.Client):
    """A session's connection to the server at a place: 0 leads, the others are in the same order on both sides."""

    def __init__(self, side, name, place):
        self.place, self.lost, self.member = place, False, side.order[place]
        side.server = side.e[self.member]
        super().__init__(side, name)
        self.conn.timeout_s = ANSWER_S

    def receive(self, expected, body=b""):
        try:
            if not super().receive(expected, body):
                self.lose()
        except zk.Timeout:
            if self.context.name == "apache":
                raise ensemble.Void(f"{self.context.e[self.member]} has not answered {expected} in {ANSWER_S} s") from None
            raise
        self.context.newest = max(self.context.newest, self.last_zxid)
        return not self.lost

    def lose(self):
        self.lost = True
        self.conn.close()

    def catch_up(self):
        """What was on its way, as lines: all that stands before the answer to a ping."""
        before, self.context.lines = self.context.lines, []
        if not self.lost and self.drain():
            self.context.lines.pop()
        got, self.context.lines = self.context.lines, before
        return got


def show_whole_configurations():
    """They are compared to the letter, however long they are."""
    short = render.show
    render.show = lambda v: repr(v)[1:] if v and v.startswith(b"server.") else short(v)


class Run:
    """One seed on both sides."""

    def __init__(self, sides, seed, steps, wide, kills):
        self.sides, self.steps = sides, steps
        self.draw = draws.Draw(seed, wide)
        self.kills = {steps * (i + 1) // (len(kills) + 1): place for i, place in enumerate(kills)}
        self.history, self.auths, self.places = [], {}, len(sides[0].order)
        self.pool = concurrent.futures.ThreadPoolExecutor(len(sides))

    def step(self, what, do, ordered=True):
        """`do` on both sides at once, and the comparison of what they were told."""
        for s in self.sides:
            s.lines = []
        self.history.append((what, [s.lines for s in self.sides]))
        problems = [e for e in self.pool.map(lambda s: attempt(do, s), self.sides) if e]
        self.history[-1] = (what, [list(s.lines) for s in self.sides])
        if problems:
            raise problems[0]
        told = [s.lines if ordered else sorted(s.lines) for s in self.sides]
        if told[0] != told[1]:
            raise Difference(what)

    def show(self):
        for what, answers in self.history[-SHOWN:]:
            print(f"  {what[:400]}")
            for s, lines in zip(self.sides, answers):
                for line in lines:
                    mark = " " if all(line in others for others in answers) else "*"
                    if s is self.sides[0] or mark == "*" or what == self.history[-1][0]:
                        print(f"    {s.name:7}{mark} {line[:600]}")

    # ---- sessions

    def connect(self, name, place, **options):
        def do(s):
            s.clients[name] = Connection(s, name, place)
            s.clients[name].connect(**options)
        self.step(f"{name} connects to {place} {options}", do)
        self.catch_up()

    def catch_up(self, ordered=True):
        """Until every session has heard of the newest zxid that any of them has. (No sync: a leader of Apache's answers it
        from what it has applied, which may be less than what a follower has told of.)"""
        def do(s):
            clients = [c for c in s.clients.values() if not c.lost]
            told = {c: c.catch_up() for c in clients}
            deadline = time.monotonic() + ANSWER_S
            while (behind := [c for c in clients if not c.lost and c.last_zxid < s.newest]) and time.monotonic() < deadline:
                for c in behind:
                    told[c] += c.catch_up()
            for c in clients:
                s.lines += told[c]
                s.note(f"{c.name} {'lost' if c.lost else 'at ' + s.symbols.zxid(c.last_zxid)}")
        self.step("all hear", do, ordered)

    def level(self):
        """Behind a step for which one side may have spent a zxid more, in an error that nobody is told."""
        def do(s):
            for _ in range(2):
                for c in s.clients.values():
                    s.lines += c.catch_up()
                time.sleep(0.01)
        self.step("all hear of it", do)
        least = min(s.symbols.ordinal(s.newest) for s in self.sides)
        for s in self.sides:
            more = s.symbols.ordinal(s.newest) - least
            s.symbols.passed_over |= {s.newest - i - 1 for i in range(more)}

    def move(self, name, keep=False):
        """The session goes to another server as its client would bring it there, or leaves a connection behind."""
        place = self.draw.random.randrange(self.places)
        lists, back = self.draw.watches(self.draw.kind_of(int(name[1:]))) if self.draw.chance(0.7) else (None, 0)

        def do(s):
            old = s.clients[name]
            c = s.clients[name] = Connection(s, name, place)
            if keep:
                s.left[name] = old
            else:
                old.conn.close()
            c.connect(session=old.session, password=old.password, last_zxid=old.last_zxid, timeout_ms=60000)
            c.last_zxid, c.xid, c.lost = old.last_zxid, old.xid, not c.session
            c.session, c.password = old.session, old.password
            if lists is not None and not c.lost:
                c.set_watches(s.symbols.back(c.last_zxid, back), **lists)
            for auth in self.auths.get(name, []):
                if not c.lost:
                    c.auth("digest", auth)
        self.step(f"{name} moves to {place}, keeps {keep}, watches {lists} from {back} back", do)

    def use_stale(self, name):
        """What the connection is told that its session has left."""
        op, body = self.draw.stale()

        def do(s):
            old = s.left.pop(name)
            old.name += "-stale"
            old.call(op, body, SPECIAL_XIDS.get(op))
            old.conn.close()
        self.step(f"{op} on the connection that {name} has left", do)
        self.level()

    def close(self, name):
        self.auths.pop(name, None)

        def do(s):
            c = s.clients.pop(name)
            if c.call("closeSession"):
                c.expect_close()
                s.sessions.pop(c.session, None)
        self.step(f"{name} closes", do, ordered=False)

    def request(self, name, op, body, label=""):
        def do(s):
            s.clients[name].call(op, body, SPECIAL_XIDS.get(op))
        self.step(f"{name}: {op} {label or body[:120]}", do)
        self.note_paths(name)

    def note_paths(self, name):
        c = self.sides[0].clients[name]
        self.draw.made += [p for p in c.paths if not p.startswith(b"/zookeeper")]
        c.paths = []

    def pipeline(self, name):
        asked = self.draw.pipeline(self.draw.kind_of(int(name[1:])))
        self.step(f"{name}: at once {[op for op, _ in asked]}", lambda s: s.clients[name].pipeline(*asked))
        self.note_paths(name)

    def set_watches(self, name):
        lists, back = self.draw.watches(self.draw.kind_of(int(name[1:])))

        def do(s):
            c = s.clients[name]
            c.set_watches(s.symbols.back(c.last_zxid, back), **lists)
        self.step(f"{name} sets {lists} from {back} back", do)

    # ---- servers

    def words(self, place):
        def do(s):
            s.server, s.connections = s.e[s.order[place]], []
            for word, normalise in WORDS.items():
                if word.startswith("wch") and not s.wide:
                    continue
                text = zk.four_letter_word(s.server.address, word)
                for line in sorted(normalise(text, s).split("\n")):
                    if not line.startswith(" /"):  # a connection of its own port, and of as many syncs as it took
                        s.note(f"{word} | {line}")
        self.step(f"words of {place}", do)

    def kill(self, place):
        """kill -9 of a server, which comes back; with the leader go all connections."""
        def do(s):
            e, member = s.e, s.order[place]
            e[member].kill()
            now = e.wait_leader()
            e[member].launch()
            e.wait_serving()
            for c in s.clients.values():
                if place == 0 or c.member == member:
                    c.conn.read_to_end()
                    c.note("closed")
                    c.lose()
            if place == 0:
                s.order = [now, *(i for i in s.order if i not in (now, member)), member]
        self.step(f"kill -9 of {place}", do)
        # The first transaction of an epoch: before it, Apache shows the epoch's beginning and Serval the last one's end.
        self.connect("s99", 1, timeout_ms=60000)
        self.close("s99")
        for name in list(self.sides[0].clients):
            if self.sides[0].clients[name].lost:
                self.move(name)
        self.catch_up()

    # ---- the run

    def run(self):
        for i in range(SESSIONS):
            self.connect(f"s{i}", i % self.places, timeout_ms=self.draw.choice(TIMEOUTS))
        for path in draws.NAMES[:3]:
            self.request("s0", "create", zk.create_body(path, b""))
        self.catch_up()
        for i in range(self.steps):
            if i in self.kills:
                self.kill(self.kills[i])
            self.one()
        for place in range(self.places):
            self.words(place)

    def one(self):
        clients = self.sides[0].clients
        missing = [f"s{i}" for i in range(SESSIONS) if f"s{i}" not in clients]
        lost = [n for n, c in clients.items() if c.lost]
        if missing:
            read_only = self.draw.choice([0, 0, None, 1])
            self.connect(missing[0], self.draw.random.randrange(self.places), timeout_ms=self.draw.choice(TIMEOUTS), read_only=read_only)
        elif lost:
            self.move(lost[0])
            self.catch_up()
        else:
            self.any_of(self.draw.choice(list(clients)))

    def any_of(self, name):
        draw, kind = self.draw, self.draw.kind_of(int(name[1:]))
        what = draw.random.choices(["read", "write", "pipeline", "multi", "move", "stale", "auth", "close", "reconfig", "set", "odd"],
                                   [40, 33, 4, 9, 3.5, 1.5, 1.5, 1.5, 1, 1.5, 1.5])[0]
        if what == "read":
            return self.request(name, *draw.read(kind))
        if what == "set":
            return self.set_watches(name)
        if what == "odd":
            return self.request(name, *draw.odd())
        if what == "auth":
            scheme, proof = draw.auth()
            self.request(name, "auth", zk.auth_body(scheme, proof), f"{scheme} {proof}")
            if scheme == "digest" and not self.sides[0].clients[name].lost:
                self.auths.setdefault(name, []).append(proof)
            return None
        if what == "write":
            self.request(name, *draw.write())
        elif what == "multi":
            self.request(name, *draw.multi())
        elif what == "pipeline":
            self.pipeline(name)
        elif what == "reconfig":
            self.request(name, "reconfig", draw.choice(draws.RECONFIGS))
        elif what == "close":
            self.close(name)
        else:
            self.move(name, keep=what == "stale")
            if what == "stale":
                self.use_stale(name)
        return self.catch_up(ordered=what != "close")


def attempt(do, side):
    """The exception that `do` ended with, or None."""
    try:
        do(side)
    except Exception as e:
        return e
    return None


class Both:
    """Both ensembles, started at the same time."""

    def __init__(self, places):
        observers = (4,) if places == 4 else ()
        self.ensembles = [ensemble.Ensemble(kind * places, observers, CONFIG, client_in_line=True) for kind in "AS"]

    def __enter__(self):
        try:
            for e in self.ensembles:
                e.start(wait=False)
            for e in self.ensembles:
                e.wait_serving()
        except BaseException:
            self.__exit__()
            raise
        return self.ensembles

    def __exit__(self, *_):
        for e in self.ensembles:
            e.remove()


def one_run(seed, args):
    """True when a seed ran to its end without a difference."""
    started = time.monotonic()
    with Both(args.places) as both:
        sides = []
        for e in both:
            leader = e.leader()
            sides.append(Side(e, args.wide, [leader, *(i for i in reversed(e.ids()) if i != leader)]))
        # A leader only as the last: who leads behind it depends on the ids, which are not the places.
        run = Run(sides, seed, args.steps, args.wide, [] if args.no_kills else [1, 2, 0])
        try:
            run.run()
        except ensemble.Void:
            raise
        except Exception as e:
            lost = both[0].lost_by_apache()
            if lost:
                raise ensemble.Void("; ".join(lost)) from e
            print(f"FAILED seed {seed}, step {len(run.history)}: {type(e).__name__}: {e}")
            run.show()
            return False
    print(f"ok     seed {seed}: {len(run.history)} steps ({time.monotonic() - started:.0f} s)", flush=True)
    return True


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--places", type=int, default=3, choices=[3, 4])
    parser.add_argument("--wide", action="store_true")
    parser.add_argument("--no-kills", action="store_true")
    parser.add_argument("--serval-bin")
    args = parser.parse_args()
    args.kinds = "AS"
    ensemble.use_arguments(args)
    show_whole_configurations()
    seeds = [args.seed] + [random.SystemRandom().randrange(1 << 30) for _ in range(args.runs - 1)]
    print(f"seeds {' '.join(map(str, seeds))}", flush=True)
    passed = sum(ensemble.not_void(f"seed {seed}", lambda: one_run(seed, args)) for seed in seeds)
    print(f"{passed} passed, {len(seeds) - passed} failed")
    sys.exit(0 if passed == len(seeds) else 1)


if __name__ == "__main__":
    main()
