#!/usr/bin/env python3
"""Mixed ensembles of Serval and Apache ZooKeeper, row by row, and the way from one to the other.

    matrix.py [--rows REGEX] [--pure A|S] [--seed S] [--serval-bin PATH] [--list]

A row is `voters+observer/leader`: SSA+A/S is two Serval and one Apache voter, an Apache observer, led by a Serval
server. Each row: writes through every member, watches, ephemerals, sessions that move, sync, a follower that must be
cut back (TRUNC), one that starts empty (SNAP), one that missed much, restarts of every member; in the end equal dumps
with Stats and equal digests everywhere. Rolling replacements are in `migration.py`.
`--pure` runs the rows with one kind of server in every place, as a check of the rows themselves.
Last line: `N passed, N failed`.
"""

import random
import re
import shutil
import os
import time

import client
import ensemble
import rows
import zk
from client import Code, Lost

ROWS = [f"{voters}+{observer}/{leader}" for voters in ("SSA", "SAA") for observer in "AS" for leader in "SA"]
QUIET_S = 0.3


class Row:
    """One mixture. Members 1..3 vote, 4 observes."""

    def __init__(self, name, pure=None, seed=0, steps=""):
        self.steps = [step for step in STEPS if re.search(steps, step.__name__)]
        self.name, self.rng = name, random.Random(f"{seed} {name}")
        voters, observer, self.led_by = re.fullmatch(r"(\w+)\+(\w)/(\w)", name).groups()
        kinds = voters + observer
        if pure:
            kinds, self.led_by = pure * len(kinds), pure
        self.kinds = kinds
        self.ensemble = ensemble.Ensemble(kinds, observers={len(kinds)})
        self.expected = {}  # path -> data

    def leader_wanted(self):
        """A voter of the kind that is to lead; not the highest id where there is a choice."""
        return next(m.id for m in self.ensemble.members.values() if m.kind == self.led_by and not m.observer)

    def run(self):
        with self.ensemble as e:
            e.start()
            e.lead_by(self.leader_wanted())
            for step in self.steps:
                started = time.monotonic()
                e.wait_serving()
                # Restarts choose leaders as they like; each step begins under the one that the row is about.
                e.lead_by(self.leader_wanted())
                try:
                    step(self)
                except Exception as problem:
                    raise AssertionError(f"{step.__name__}: {type(problem).__name__}: {problem}") from problem
                self.say(f"{step.__name__} {time.monotonic() - started:.1f} s")
            e.wait_serving()
            some_digests(self)
            differences = e.same_everywhere()
            assert not differences, differences
            return e.compared

    def say(self, text):
        if os.environ.get("INTEROP_VERBOSE"):
            print(f"    {self.name}: {text}", flush=True)

    def at(self, member_id, **options):
        return self.ensemble.session([member_id], **options)

    def pairs(self):
        ids = self.ensemble.ids()
        return [(i, j) for i in ids for j in ids if i != j]


def eventually(what, condition, seconds=60):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}")


def equal(got, wanted, what):
    assert got == wanted, f"{what}: {got!r}, not {wanted!r}"


# ---- steps ------------------------------------------------------------------------------------------------------------

def writes(row):
    """Every kind of write through every member, read behind a sync through every other."""
    sessions = {i: row.at(i) for i in row.ensemble.ids()}
    for i, s in sessions.items():
        base = f"/w{i}"
        s.create(base, b"made")
        equal(s.set(base, b"set", 0)[0].version, 1, "version")
        s.create(base + "/child", b"", acl=[(zk.ALL, "world", "anyone")])
        first, _ = s.create(base + "/seq-", b"", zk.SEQUENTIAL)
        second, _ = s.create(base + "/seq-", b"", zk.SEQUENTIAL)
        equal((first[-10:], second[-10:]), ("0000000001", "0000000002"), "sequence numbers")
        s.delete(base + "/child", 0)
        s.call("setACL", zk.set_acl_body(base, [(zk.ALL, "world", "anyone"), (zk.READ, "ip", "127.0.0.1")]))
        s.call("multi", zk.multi_body(("check", zk.path_version(base, 1)), ("create", zk.create_body(base + "/m", b"m")),
                                      ("setData", zk.set_data_body(base, b"multi", 1))))
        failing(s, base)
        for j, other in sessions.items():
            other.sync(base)
            data, stat, _ = other.get(base)
            equal((data, stat.version, stat.aversion), (b"multi", 2, 1), f"{base} through {j}")
            names = other.children(base)[0]
            equal(names, sorted(["m", "seq-0000000001", "seq-0000000002"]), f"children of {base} through {j}")
            equal(len(other.acl(base)), 2, f"ACL of {base} through {j}")
    for s in sessions.values():
        equal(s.breaches, [], "order")
        s.close()


def failing(s, base):
    """Refusals have their codes on every member, and take a zxid each."""
    for wanted, call in [
            (client.NODE_EXISTS, lambda: s.create(base)), (client.NO_NODE, lambda: s.delete(base + "/none")),
            (client.BAD_VERSION, lambda: s.set(base, b"", 77)), (-111, lambda: s.delete(base)),
            (client.NO_NODE, lambda: s.create(base + "/none/child"))]:
        try:
            call()
        except Code as e:
            equal(e.code, wanted, "code")
        else:
            raise AssertionError(f"no error, {wanted} was due")


def watches(row):
    """A watch set on one member fires once for a change made through another."""
    for i, j in row.pairs():
        watcher, writer = row.at(i), row.at(j)
        path = f"/watch-{i}-{j}"
        assert watcher.exists(path, watch=True)[0] is None
        writer.create(path, b"")
        expect_events(watcher, [("created", path)])
        watcher.sync(path)
        watcher.get(path, watch=True)
        watcher.children(path, watch=True)
        writer.set(path, b"1")
        writer.set(path, b"2")
        writer.create(path + "/c", b"")
        expect_events(watcher, [("changed", path), ("children", path)])
        watcher.sync(path)
        watcher.exists(path, watch=True)
        writer.delete(path + "/c")
        writer.delete(path)
        expect_events(watcher, [("deleted", path)])
        watcher.close()
        writer.close()


def expect_events(session, wanted):
    session.pump(30, lambda: len(session.events) >= len(wanted))
    got = sorted((e.kind, e.path) for e in session.events)
    equal(got, sorted(wanted), f"events at {session.host}")
    session.sync("/")
    equal(len(session.events), len(wanted), "events, once more")
    session.events.clear()


def sync_sees(row):
    """A read behind a sync sees what was acknowledged elsewhere before it, at once and many times. (Through an Apache
    leader it may come a moment later: its own clients' syncs wait for nothing, and its followers may be faster.)"""
    row.at(1).ensure("/sync")
    for i, j in row.pairs():
        writer, reader = row.at(i), row.at(j)
        for _ in range(15):
            stat, _ = writer.set("/sync", str(row.rng.random()))
            reader.sync("/sync")
            got = reader.get("/sync")[1].version
            reading = row.ensemble[j]
            if got < stat.version and reading.kind == "A" and row.ensemble.leader() == j:
                eventually("an Apache leader applies it", lambda: reader.get("/sync")[1].version >= stat.version, 2)
                continue
            assert got >= stat.version, f"written through {i}, read through {j}: {got} < {stat.version}"
        writer.close()
        reader.close()


def moves(row):
    """A session goes from member to member with its ephemeral and its watch; the connection left behind is dead."""
    ids = row.ensemble.ids()
    hosts = {i: row.ensemble[i].address for i in ids}
    looker = row.at(ids[0])
    looker.ensure("/moves", b"")
    for start in ids:
        s = row.at(start, timeout_ms=20000)
        path = f"/moving-{start}"
        s.create(path, b"", zk.EPHEMERAL)
        s.get("/moves", watch=True)
        for target in [i for i in ids if i != start] + [start]:
            left = s.conn
            s.conn = None
            s.connect_to(hosts[target])
            s.set(path, str(target))
            dead_end(left, path, start, target)
            looker.sync(path)
            assert looker.exists(path)[0] is not None, f"{path} went away when its session moved to {target}"
        looker.set("/moves", b"now")
        expect_events(s, [("changed", "/moves")])
        equal(s.breaches, [], "order")
        s.close()
        for i in ids:
            other = row.at(i)
            other.sync(path)
            equal(other.exists(path)[0], None, f"{path} behind its session's end, through {i}")
            other.close()
    refuse_thieves(row, hosts)
    looker.close()


def dead_end(left, path, start, target):
    """The connection that the session left cannot write any more: it is closed, or refused and closed."""
    left.send_frame(zk.request(1 << 20, "setData", zk.set_data_body(path, b"from the old connection")))
    try:
        while True:
            payload = left.read_frame(10)
            if payload is None:
                break
            r = zk.Reader(payload)
            xid, _, err = r.integer(), r.long(), r.integer()
            assert xid != 1 << 20 or err, f"the connection of {start} still wrote after the move to {target}"
    finally:
        left.close()


def refuse_thieves(row, hosts):
    """Neither a wrong password nor an unknown session is taken by any member, and the session lives on. (Apache closes
    its present connection first, fact sheet 3.1: so it has none here.)"""
    s = row.at(1, timeout_ms=60000)
    s.drop()
    for i, host in hosts.items():
        for session, password in ((s.id, b"x" * 16), (s.id + 0x777, s.password)):
            thief = client.Session([host], connect=False)
            thief.id, thief.password = session, password
            try:
                thief.connect(5)
            except client.Expired:
                continue
            raise AssertionError(f"{row.ensemble[i]} gave a session away")
    s.sync("/")
    s.close()


def expiry(row):
    """Sessions of every member expire when silent, all their ephemerals with them, and no other's."""
    ids = row.ensemble.ids()
    keeper = row.at(ids[0], timeout_ms=30000)
    keeper.ensure("/exp")
    keeper.create("/exp/kept", b"", zk.EPHEMERAL)
    for i in ids:
        s = row.at(i, timeout_ms=1500)
        for n in range(60):
            s.create(f"/exp/of-{i}-{n}", b"", zk.EPHEMERAL)
        s.drop()

    def only_kept():
        keeper.sync("/exp")
        return keeper.children("/exp")[0] == ["kept"]
    eventually("silent sessions expire", only_kept)
    keeper.close()
    for i in ids:
        s = row.at(i)
        s.sync("/exp")
        equal(s.children("/exp")[0], [], f"ephemerals through {i}")
        s.close()


def followers(row):
    leader = row.ensemble.leader()
    return [m for m in row.ensemble.members.values() if m.id != leader]


def missed_much(row):
    """Each follower and the observer in turn is down while more is written than the leader keeps in memory."""
    for m in followers(row):
        m.kill() if row.rng.random() < 0.5 else m.stop()
        leader = row.ensemble.wait_leader()
        s = row.at(leader, timeout_ms=20000)
        base = f"/missed-{m.id}"
        s.ensure(base)
        burst(s, base, row.rng.choice([40, 700]))
        s.close()
        m.launch()
        row.ensemble.wait_serving()
        back = row.at(m.id)
        back.sync(base)
        equal(len(back.children(base)[0]), burst.count, f"nodes below {base} through {m}")
        back.close()


def burst(session, base, count):
    """Pipelined creates; all must be acknowledged."""
    burst.count = count
    xids = [session.next_xid() for _ in range(count)]
    session.conn.send(b"".join(zk.frame(zk.request(x, "create", zk.create_body(f"{base}/n{n}", b"d" * 50)))
                               for n, x in enumerate(xids)))
    for xid in xids:
        got = None
        while got is None:
            payload = session.conn.read_frame(60)
            assert payload is not None, "closed during a burst"
            got = session.take(payload)
        equal((got[0], got[2]), (xid, 0), "answer")


def starts_empty(row):
    """Each follower and the observer in turn loses its data and is filled again by the leader (SNAP)."""
    for m in followers(row):
        m.kill()
        shutil.rmtree(m.data)
        m.launch()
        row.ensemble.wait_serving()
        s = row.at(m.id)
        s.sync("/w1")
        equal(s.get("/w1")[0], b"multi", f"/w1 through the refilled {m}")
        s.close()


def cut_back(row):
    """The leader logs a proposal that nobody else has and dies; the others go on; it must forget (TRUNC). They are stopped
    before they are killed: a leader that loses its followers at once would not propose any more."""
    e = row.ensemble
    leader = e.wait_leader()
    rest = [m.id for m in followers(row)]
    s = row.at(leader, timeout_ms=20000)
    s.ensure("/cut")
    e.wait_equal()
    common = e[leader].zxid()
    for i in rest:
        e[i].pause()
    s.call_s = 1.0
    try:
        s.create("/cut/never", b"")
        raise AssertionError("acknowledged without a quorum")
    except (Lost, Code):
        pass
    e[leader].kill()
    for i in rest:
        e[i].kill()
        e[i].launch()
    e.wait_serving(rest)
    other = row.at(rest[0])
    other.create("/cut/instead", b"")
    other.close()
    e[leader].launch()
    e.wait_serving()
    for i in e.ids():
        looker = row.at(i)
        looker.sync("/cut")
        equal(looker.children("/cut")[0], ["instead"], f"children of /cut through {e[i]}")
        looker.close()
    s.drop()
    had_more(e[leader], common)


def had_more(member, common):
    """What it was started with went beyond what the others had: else nothing was cut back."""
    log = member.last_log()
    if member.kind == "A":
        assert "Truncating log" in log or "Getting a snapshot" in log, f"{member} cut nothing back"
        return
    found = re.search(r"up to zxid 0x([0-9a-f]+)", log)
    assert found and int(found.group(1), 16) > common, f"{member} began with {found and found.group(0)}, the others had {common:x}"


def restarts(row):
    """Each member is restarted under a client that goes on writing through the others."""
    e = row.ensemble
    s = e.session(timeout_ms=60000)
    s.ensure("/restarts")
    written = s.get("/restarts")[1].version
    for i in e.ids():
        if row.rng.random() < 0.5:
            e[i].kill()
        else:
            e[i].stop()
        for up in (False, True):
            if up:
                e[i].launch()
                e.wait_serving()
            for _ in range(20):
                try:
                    stat, _ = s.set("/restarts", str(i))
                    assert stat.version > written, f"version {stat.version} behind {written}"
                    written = stat.version
                except Lost:
                    continue
                except Code as problem:
                    assert problem.code in (client.SESSION_MOVED,), problem
    equal(s.breaches, [], "order")
    s.close()


def large(row):
    """A multi and a session end that are large, through each member: both are one transaction for all."""
    for i in row.ensemble.ids():
        s = row.at(i, timeout_ms=20000)
        ops = [("create", zk.create_body(f"/large-{i}", b""))]
        ops += [("create", zk.create_body(f"/large-{i}/{n}", b"x" * 400, flags=zk.EPHEMERAL)) for n in range(900)]
        s.call("multi", zk.multi_body(*ops))
        for j in row.ensemble.ids():
            looker = row.at(j)
            looker.sync("/")
            equal(looker.get(f"/large-{i}")[1].children, 900, f"ephemerals of {i} through {j}")
            looker.close()
        s.close()
        looker = row.at(i)
        equal(looker.get(f"/large-{i}")[1].children, 0, "ephemerals behind the session's end")
        looker.close()


def some_digests(row):
    """Servers keep a digest of every 128th transaction since their start; these are compared at the end."""
    s = row.at(row.ensemble.leader())
    s.ensure("/last")
    burst(s, "/last", 500)
    s.close()
    row.ensemble.wait_equal()
    lists = {i: ensemble.digest_list(m) for i, m in row.ensemble.members.items()}
    assert set.intersection(*map(set, lists.values())), f"no digest that all members have: {lists}"


STEPS = [writes, watches, sync_sees, moves, expiry, large, missed_much, starts_empty, cut_back, restarts]


def main():
    parser = rows.parser_of(__doc__)
    parser.add_argument("--steps", default="", help="a regular expression; without the others the end is not compared")
    parser.add_argument("--pure", choices=["A", "S"])
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}")

    def row(name):
        return f"equal at the end: {Row(name, args.pure, args.seed, args.steps).run()}"
    rows.run(parser, args, ROWS, row, args.pure or "AS")


if __name__ == "__main__":
    main()
