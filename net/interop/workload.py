"""Clients that work on an ensemble while it is disturbed, and write down everything for the checker.

Here: register, creating, ephemeral, watching and probing clients, each a thread with sessions of its own; `Workload`,
which starts them, ends them and takes the final look through every server.
Not here: rules (`checker.py`), disturbances (`chaos.py`).
Invariants: a thread that fails for any other reason than the ensemble's faults is itself a breach; nothing runs longer
than its deadline; every random choice comes from the seed.
"""

import random
import threading
import time

import checker
import client
import zk
from client import Code, Expired, Lost, Refused

KEYS = 4
SESSION_MS = 20000
SHORT_MS = 2000
MOVED_OR_GONE = (client.SESSION_EXPIRED, client.SESSION_MOVED)


class Client(threading.Thread):
    """Runs `turn` until it is told to stop. Subclasses keep one `client.Session` in `self.session`."""

    timeout_ms = SESSION_MS

    def __init__(self, name, ensemble, hosts, history, seed):
        super().__init__(name=name, daemon=True)
        self.ensemble, self.hosts, self.history = ensemble, hosts, history
        self.rng = random.Random(f"{seed} {name}")
        self.over = threading.Event()
        self.session, self.number = None, 0
        self.expired = 0

    def label(self):
        return f"{self.name}.{self.number}"

    def fresh(self):
        """A new session under a new name."""
        self.number += 1
        self.session = client.Session(self.hosts, self.timeout_ms, self.rng, call_s=2.5, connect=False)

    def run(self):
        try:
            self.fresh()
            while not self.over.is_set():
                try:
                    self.turn()
                except (Lost, Refused):
                    continue
                except Expired:
                    self.expired += 1
                    self.session_over()
                    self.fresh()
                except Code as e:
                    if e.code not in MOVED_OR_GONE:
                        raise
                time.sleep(self.rng.uniform(0, self.pace))
        except Exception as e:
            self.history.note("breaches", f"{self.label()} ended: {type(e).__name__}: {e}")
        finally:
            self.collect()

    pace = 0.01

    def turn(self):
        raise NotImplementedError

    def session_over(self):
        """Called when the session was refused as expired."""
        self.collect()

    def collect(self):
        if self.session:
            for line in self.session.breaches:
                self.history.note("breaches", f"{self.label()}: {line}")
            self.session.breaches = []

    def attached(self):
        if self.session.conn is None:
            self.session.connect(patience_s=3.0)

    def end(self):
        self.over.set()


class Registers(Client):
    """Reads and writes a few registers, conditionally and not, and moves to another server now and then."""

    def __init__(self, *args):
        super().__init__(*args)
        self.known, self.value = {}, 0

    def turn(self):
        self.attached()
        key = f"/r/{self.rng.randrange(KEYS)}"
        kind = self.rng.choices(["set", "cas", "read", "plain", "move"], [3, 3, 3, 4, 0.2])[0]
        if kind == "move":
            self.session.drop()
        elif kind in ("set", "cas"):
            self.write(key, self.known.get(key, 0) if kind == "cas" else -1)
        else:
            self.read(key, kind)

    def write(self, key, expected):
        self.value += 1
        call = checker.Call("write", self.label(), key, f"{self.label()}:{self.value}", expected, time.monotonic(),
                            where=self.session.host)
        try:
            stat, call.zxid = self.session.set(key, call.value, expected)
            call.ok, call.version, call.mzxid, call.end = True, stat.version, stat.mzxid, time.monotonic()
            self.known[key] = stat.version
        except Code as e:
            if e.code == client.BAD_VERSION:
                call.ok, call.zxid, call.end = False, e.zxid, time.monotonic()
            elif e.code not in MOVED_OR_GONE:
                raise
        finally:
            self.history.add(call)

    def read(self, key, kind):
        call = checker.Call(kind, self.label(), key, None, -1, time.monotonic(), where=self.session.host)
        if kind == "read":
            self.session.sync(key)
            if self.session.conn is None:
                return
        # A read that moved between its sync and itself is a plain one.
        host, moves = self.session.host, self.session.moves
        data, stat, call.zxid = self.session.get(key)
        if kind == "read" and ((host, moves) != (self.session.host, self.session.moves) or not self.strict(host)):
            call.kind = "plain"
        call.ok, call.value, call.version = True, data.decode(), stat.version
        call.mzxid, call.end = stat.mzxid, time.monotonic()
        self.known[key] = stat.version
        self.history.add(call)

    def strict(self, host):
        """Whether a read behind a sync must linearize here. ZooKeeper 3.8.0's own does not where an Apache server leads:
        for the leader's clients a sync waits for nothing (a follower may have acknowledged what the leader has yet to
        apply), and a leader that was replaced and does not know it yet answers as before. Both were seen."""
        return all(m.kind == "S" for m in self.ensemble.members.values())


class Creator(Client):
    """Pipelines sequential creates and keeps the names that were acknowledged."""

    window = 20
    pace = 0.06

    def __init__(self, *args):
        super().__init__(*args)
        self.parent = f"/c/{self.name}"
        self.names, self.sent = [], 0

    def turn(self):
        self.attached()
        s = self.session
        xids = [s.next_xid() for _ in range(self.window)]
        self.sent += len(xids)
        body = zk.create_body(self.parent + "/n-", b"x" * 20, flags=zk.SEQUENTIAL)
        s.conn.send(b"".join(zk.frame(zk.request(x, "create", body)) for x in xids))
        deadline = time.monotonic() + s.call_s
        for xid in xids:
            self.answer(xid, deadline)

    def answer(self, xid, deadline):
        s = self.session
        while True:
            try:
                payload = s.conn.read_frame(max(0.01, deadline - time.monotonic()))
            except (OSError, zk.Timeout, AssertionError) as e:
                s.drop()
                raise Lost(str(e)) from None
            if payload is None:
                s.drop()
                raise Lost("closed")
            got = s.take(payload)
            if got is not None:
                break
        if got[0] != xid:
            raise RuntimeError(f"answers out of order: {got[0]} for {xid}")
        if got[2] == 0:
            self.names.append(got[3].buffer().decode())
            self.history.counts["creates acknowledged"] += 1
        elif got[2] in MOVED_OR_GONE:
            s.drop()
            raise Lost("moved")
        else:
            raise RuntimeError(f"create answered {got[2]}")


class Ephemerals(Client):
    """Lives with an ephemeral node, proves its life with writes, then closes, or is silent until it has expired."""

    timeout_ms = SHORT_MS
    pace = 0.05

    def __init__(self, *args):
        super().__init__(*args)
        self.mine, self.grace_s = None, 4 * SHORT_MS / 1000 + 10
        self.made = 0

    def turn(self):
        self.attached()
        if self.mine is None:
            self.make()
            return
        ending = self.rng.random()
        if ending < 0.08:
            self.mine.closed = self.session.close()
            self.mine.dead = time.monotonic()
            self.mine = None
            self.fresh()
        elif ending < 0.1:
            self.session.drop()
            self.over.wait(self.timeout_ms / 1000 * 2)
        else:
            stat, _ = self.session.set(self.mine.path, str(self.rng.random()))
            self.mine.alive = stat.mzxid

    def make(self):
        self.made += 1
        path = f"/e/{self.name}-{self.number}-{self.made}"
        self.session.create(path, b"", zk.EPHEMERAL)
        _, stat, _ = self.session.get(path)
        self.mine = self.history.note("owned", checker.Ephemeral(path, self.label(), stat.czxid, self.grace_s))

    def session_over(self):
        super().session_over()
        if self.mine:
            self.mine.dead = time.monotonic()
            self.mine = None


class Lookout(Client):
    """Looks for ephemerals of others, with and without a sync."""

    pace = 0.02

    def turn(self):
        self.attached()
        with self.history.lock:
            owned = self.history.owned[-12:]
        if not owned:
            return
        e, synced = self.rng.choice(owned), self.rng.random() < 0.5
        start = time.monotonic()
        if synced:
            self.session.sync(e.path)
        host, moves, low = self.session.host, self.session.moves, self.session.last_zxid
        stat, high = self.session.exists(e.path)
        same = (host, moves) == (self.session.host, self.session.moves)
        self.history.note("sightings", checker.Sighting(e.path, stat is not None, low, high, start, synced and same,
                                                        self.session.host))


class Watcher(Client):
    """Keeps one data watch on each register, through every move."""

    pace = 0.005

    def __init__(self, *args):
        super().__init__(*args)
        self.active, self.taken = {}, 0

    def fresh(self):
        super().fresh()
        self.active, self.taken = {}, 0

    def turn(self):
        self.attached()
        for key in (f"/r/{k}" for k in range(KEYS)):
            w = self.active.get(key)
            if w is None or w.events:
                # Not in between: what arrives before this reply belongs to the watch before.
                _, stat, _ = self.session.get(key, watch=True)
                self.settle()
                self.active[key] = self.history.note("watches", checker.Watch(self.label(), key, stat.version))
                self.session.watched["data"].add(key)
            elif self.rng.random() < 0.1:
                self.look(key)
        self.session.pump(0.02)
        self.settle()

    def look(self, key):
        """A reply must not show a change before its event."""
        w = self.active[key]
        _, stat, _ = self.session.get(key)
        self.settle()
        if stat.version > w.version and not w.events:
            w.early.append(stat.version)
        return stat.version

    def settle(self):
        """Counts the events that came since."""
        for event in self.session.events[self.taken:]:
            w = self.active.get(event.path)
            if w is None or event.kind != "changed":
                self.history.note("breaches", f"{self.label()}: nobody had asked for {event}")
            else:
                w.events += 1
        self.taken = len(self.session.events)

    def finish(self):
        """The last look, by the workload, when all is quiet."""
        for key, w in self.active.items():
            self.session.sync(key)
            w.final = self.look(key)
        self.settle()


class Prober(Client):
    """Writes one after the other and notes when each was acknowledged; goes back to a survivor at once."""

    pace = 0.0

    def __init__(self, *args):
        super().__init__(*args)
        self.acks = []   # (sent, acknowledged)
        self.lost_at = []

    def turn(self):
        if self.session.conn is None:
            self.session.connect(patience_s=3.0)
        sent = time.monotonic()
        try:
            self.session.set("/probe", b"p")
        except Lost:
            self.lost_at.append(time.monotonic())
            raise
        self.acks.append((sent, time.monotonic()))
        time.sleep(0.001)

    def gap(self, since):
        """Seconds from `since` to the acknowledgement of a write that was sent behind it; None if there was none."""
        for sent, acknowledged in list(self.acks):
            if sent > since:
                return acknowledged - since
        return None


class Workload:
    """All clients together, on `hosts`; the history is judged by `finish`."""

    def __init__(self, ensemble, seed, registers=3, creators=2, hosts=None):
        self.ensemble, self.history, self.seed = ensemble, checker.History(), seed
        hosts = hosts or ensemble.hosts()
        made = [(Registers, "registers", registers), (Creator, "creator", creators), (Ephemerals, "ephemeral", 2),
                (Lookout, "lookout", 1), (Watcher, "watcher", 1)]
        self.clients = [cls(f"{name}{n}", ensemble, hosts, self.history, seed) for cls, name, count in made for n in range(count)]
        self.lost = 0  # acknowledged writes that are not there, once finished

    def prepare(self):
        s = self.ensemble.session()
        for path in ["/r", "/c", "/e", "/probe"] + [f"/r/{k}" for k in range(KEYS)]:
            s.ensure(path)
        for c in self.clients:
            if isinstance(c, Creator):
                s.ensure(c.parent)
        s.close()
        return self

    def start(self):
        self.prepare()
        for c in self.clients:
            c.start()
        return self

    def acknowledged(self):
        return self.history.counts["writes acknowledged"] + self.history.counts["creates acknowledged"]

    def wait_progress(self, writes=20, seconds=60.0):
        """Until this many more writes were acknowledged."""
        goal = self.acknowledged() + writes
        self.ensemble.wait_for(f"{writes} more acknowledged writes", lambda: self.acknowledged() >= goal, seconds)

    def stop(self):
        for c in self.clients:
            c.end()
        for c in self.clients:
            c.join(40)
            if c.is_alive():
                self.history.note("breaches", f"{c.name} does not come to an end")

    def finish(self):
        """Ends the clients, looks through every server, and judges. The breaches, as lines."""
        self.stop()
        self.ensemble.wait_serving()
        lines = self.look_everywhere()
        for c in self.clients:
            if isinstance(c, Watcher) and not c.is_alive():
                self.finish_watcher(c)
        for c in self.clients:
            self.close(c)
        self.wait_without_ephemerals()
        return self.judge(lines)

    def judge(self, lines):
        """What is wrong, with `lines` from the last look. Sets `lost`."""
        lines = lines + self.history.judge()
        names = {line.split(": ")[1] for line in lines if line.endswith(checker.MISSING)}
        self.lost = len(names) + sum(checker.TWICE in line for line in lines)
        return checker.bounded(lines)

    def finish_watcher(self, watcher):
        for _ in range(5):
            try:
                if watcher.session.conn is None:
                    watcher.session.connect()
                watcher.finish()
                watcher.collect()
                return
            except Lost:
                continue
            except Expired:
                return
        self.history.note("breaches", f"{watcher.name}: no quiet last look")

    def close(self, c):
        """Closes the session that the client left, so that nothing moves any more."""
        for _ in range(20):
            try:
                if not c.session or not c.session.id:
                    return
                if c.session.conn is None:
                    c.session.connect()
                zxid = c.session.close()
                if isinstance(c, Ephemerals) and c.mine:
                    c.mine.closed = zxid
                return
            except Expired:
                return
            except (Lost, Code):
                continue
        self.history.note("breaches", f"{c.name} cannot close its session")

    def wait_without_ephemerals(self):
        """Their sessions are closed, or expire: in the end nothing is left of them."""
        limit = max((c.grace_s for c in self.clients if isinstance(c, Ephemerals)), default=10)
        s = self.ensemble.session()

        def gone():
            s.sync("/e")
            return not s.children("/e")[0]
        try:
            self.ensemble.wait_for("no ephemeral is left", gone, limit)
        except TimeoutError:
            self.history.note("breaches", f"left behind by dead sessions: {s.children('/e')[0]}")
        s.close()

    def look_everywhere(self):
        """Every register and every created node, through each server that runs."""
        lines, created = [], [c for c in self.clients if isinstance(c, Creator)]
        for m in self.ensemble.members.values():
            if not m.alive():
                continue
            s = self.ensemble.session([m.id])
            for k in range(KEYS):
                start = time.monotonic()
                s.sync(f"/r/{k}")
                data, stat, zxid = s.get(f"/r/{k}")
                self.history.add(checker.Call("read", f"last look at {m}", f"/r/{k}", data.decode(), -1, start,
                                              time.monotonic(), True, stat.version, zxid, stat.mzxid, m))
            for c in created:
                there = {f"{c.parent}/{name}" for name in s.children(c.parent)[0]}
                lines += [f"{m}: {line}" for line in checker.missing(c.names, there)]
            s.close()
        return lines

    def summary(self):
        counts = self.history.counts
        told = ", ".join(f"{counts[k]} {k}" for k in sorted(counts))
        expired = sum(c.expired for c in self.clients if not isinstance(c, Ephemerals))
        return (f"{told}, {len(self.history.watches)} watches, {len(self.history.owned)} ephemerals, "
                f"{len(self.history.sightings)} sightings, {expired} sessions expired")
