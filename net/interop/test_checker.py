#!/usr/bin/env python3
"""The checker itself: histories that are right pass, and each rule has histories that break it and must fail.

    test_checker.py

Last line: `N passed, N failed`.
"""

import random
import sys

from checker import (Call, Ephemeral, History, Sighting, Watch, agreement, digests, ephemerals, missing, register, sessions,
                     unheld, watches)


def write(start, end, value, version, expected=-1, session="s"):
    return Call("write", session, "k", value, expected, start, end, True, version)


def refused(start, end, value, expected):
    return Call("write", "s", "k", value, expected, start, end, False)


def unknown(start, value, expected=-1):
    return Call("write", "s", "k", value, expected, start)


def read(start, end, value, version, kind="read", session="r", **more):
    return Call(kind, session, "k", value, -1, start, end, True, version, **more)


def broken(*calls):
    return bool(register("k", list(calls)))


GOOD = {
    "one after the other": [write(0, 1, "a", 1), read(2, 3, "a", 1), write(4, 5, "b", 2), read(6, 7, "b", 2)],
    "a read beside a write may see either": [write(0, 1, "a", 1), write(2, 5, "b", 2), read(3, 4, "a", 1),
                                             read(3, 4, "b", 2)],
    "overlapping writes in either order": [write(0, 9, "a", 2), write(1, 8, "b", 1)],
    "an unanswered write that nobody saw": [write(0, 1, "a", 1), unknown(2, "b"), read(3, 4, "a", 1)],
    "an unanswered write that took effect late": [unknown(0, "a"), write(2, 3, "b", 1), read(4, 5, "b", 1),
                                                  read(6, 7, "a", 2)],
    "an unanswered write that only its version shows": [unknown(0, "a"), write(2, 3, "b", 2), read(4, 5, "b", 2)],
    "an unanswered conditional write fills its version": [write(0, 1, "a", 1), unknown(1, "b", 1), write(2, 3, "c", 3)],
    "refused behind a newer version": [write(0, 1, "a", 1), write(2, 3, "b", 2), refused(4, 5, "c", 1)],
    "refused beside the write that was faster": [write(0, 1, "a", 1), write(2, 6, "b", 2), refused(3, 5, "c", 1)],
    "refused because of an unanswered write": [write(0, 1, "a", 1), unknown(2, "b"), refused(3, 5, "c", 1)],
    "the node as it was made": [read(0, 1, "0", 0), write(2, 3, "a", 1)],
    "an old plain read": [write(0, 1, "a", 1), write(2, 3, "b", 2), read(4, 5, "a", 1, "plain")],
}
BAD = {
    "stale read": [write(0, 1, "a", 1), write(2, 3, "b", 2), read(4, 5, "a", 1)],
    "stale read of the first state": [write(0, 1, "a", 1), read(2, 3, "0", 0)],
    "read goes back": [write(0, 1, "a", 1), write(2, 9, "b", 2), read(3, 4, "b", 2), read(5, 6, "a", 1)],
    "a later write below an earlier one": [write(0, 1, "a", 2), write(2, 3, "b", 1)],
    "lost write: version given twice": [write(0, 1, "a", 1), write(2, 3, "b", 1)],
    "lost write: version with another value": [write(0, 1, "a", 1), unknown(0, "b"), read(2, 3, "b", 1)],
    "value from nowhere": [write(0, 1, "a", 1), read(2, 3, "x", 1)],
    "value of a refused write": [write(0, 1, "a", 1), refused(2, 3, "b", 0), read(4, 5, "b", 2)],
    "version that nobody made": [write(0, 1, "a", 1), write(2, 3, "b", 3)],
    "an unanswered write that had not begun": [write(2, 3, "b", 2), read(4, 5, "b", 2), unknown(6, "a")],
    "one unanswered write twice": [unknown(0, "a"), read(1, 2, "a", 1), write(3, 4, "b", 2), read(5, 6, "a", 3)],
    "conditional write out of turn": [write(0, 1, "a", 1), write(2, 3, "b", 2), write(4, 5, "c", 3, expected=1)],
    "unanswered conditional write out of turn": [write(0, 1, "a", 1), unknown(0, "b", 5), read(2, 3, "b", 2)],
    "refused for no reason": [write(0, 1, "a", 1), refused(2, 3, "b", 1), write(4, 5, "c", 2)],
    "refused at version 0": [refused(0, 1, "b", 0)],
    "plain read of the future": [read(0, 1, "a", 1, "plain"), write(2, 3, "a", 1)],
    "read of the future": [read(0, 1, "a", 1), write(2, 3, "a", 1)],
    "stale read of an unanswered write": [unknown(0, "a"), read(1, 2, "a", 1), read(3, 4, "0", 0)],
}


def test_registers(check):
    for name, calls in GOOD.items():
        check(f"register: {name}", register("k", calls) == [])
    for name, calls in BAD.items():
        check(f"register fails: {name}", broken(*calls))


def simulate(rng, steps=300):
    """A history made by a register that does behave: calls take effect at a point inside them."""
    pending, calls, version, value, now, number = [], [], 0, "0", 0.0, 0
    for _ in range(steps):
        now += rng.random()
        if pending and rng.random() < 0.5:
            call = pending.pop(rng.randrange(len(pending)))
            if call.kind == "read":
                call.ok, call.version, call.value = True, version, value
            elif call.expected >= 0 and call.expected != version:
                call.ok = False
            else:
                version, value = version + 1, call.value
                call.ok, call.version = True, version
            call.end = now + rng.random() * 2
            if rng.random() < 0.15 and call.kind == "write":
                call.ok, call.version, call.end = None, None, float("inf")
            if call.kind == "write" or call.ok:
                calls.append(call)
        elif rng.random() < 0.1 and pending:
            lost = pending.pop()
            if lost.kind == "write":
                calls.append(lost)
        else:
            number += 1
            kind = rng.choice(["read", "write"])
            expected = version if kind == "write" and rng.random() < 0.4 else -1
            pending.append(Call(kind, f"s{number}", "k", f"v{number}" if kind == "write" else None, expected, now))
    return calls


def spoil(rng, calls):
    """Makes one read stale: it shows what was overwritten before it began. None if there is no such read."""
    writes = [c for c in calls if c.kind == "write" and c.ok]
    reads = [c for c in calls if c.kind == "read"]
    rng.shuffle(reads)
    for r in reads:
        for w in writes:
            newer = [n for n in writes if n.version > w.version and n.end < r.start]
            if newer:
                r.version, r.value = w.version, w.value
                return r
    return None


def test_random(check):
    for seed in range(200):
        rng = random.Random(seed)
        calls = simulate(rng)
        lines = register("k", calls)
        check(f"random history {seed}: {lines[:1]}", lines == [])
        if spoil(rng, calls):
            check(f"random history {seed}, one read spoiled, passes", broken(*calls))


def test_sessions(check):
    def plain(start, version, zxid=None, mzxid=None, session="s", value="v"):
        return read(start, start + 1, value, version, "plain", session, zxid=zxid, mzxid=mzxid)
    check("session in order", sessions([plain(0, 1, 5), plain(2, 1, 5), plain(4, 2, 6)]) == [])
    check("two sessions at different versions", sessions([plain(0, 2), plain(2, 1, session="t")]) == [])
    check("session goes back", sessions([plain(0, 2, 6), plain(2, 1, 6)]) != [])
    check("own write not seen", sessions([write(0, 1, "a", 2), plain(2, 1, session="s")]) != [])
    check("zxid goes back", sessions([plain(0, 1, 6), plain(2, 1, 5)]) != [])
    check("newer than its zxid", sessions([plain(0, 1, 6, 7)]) != [])
    check("one story", agreement([plain(0, 1, mzxid=5), plain(2, 1, mzxid=5, session="t")]) == [])
    check("two values of a version", agreement([plain(0, 1, mzxid=5), plain(2, 1, mzxid=5, value="w")]) != [])
    check("two mzxids of a version", agreement([plain(0, 1, mzxid=5), plain(2, 1, mzxid=6)]) != [])
    check("mzxid against version", agreement([plain(0, 1, mzxid=5), plain(2, 2, mzxid=5, value="w")]) != [])


def test_ephemerals(check):
    def owned(alive=10, closed=None, dead=None, grace=0.0):
        e = Ephemeral("/e", "s", 10, grace)
        e.alive, e.closed, e.dead = alive, closed, dead
        return [e]

    def sight(there, low, high=None, start=0.0, synced=True):
        return [Sighting("/e", there, low, high or low, start, synced)]
    check("alive and there", ephemerals(owned(20), sight(True, 15)) == [])
    check("before its creation", ephemerals(owned(20), sight(False, 9)) == [])
    check("perhaps before its creation", ephemerals(owned(20), sight(False, 9, 12)) == [])
    check("behind the last sign of life", ephemerals(owned(20), sight(False, 21)) == [])
    check("closed and gone", ephemerals(owned(20, closed=25), sight(False, 26)) == [])
    check("alive and gone", ephemerals(owned(20), sight(False, 15)) != [])
    check("closed and there", ephemerals(owned(20, closed=25), sight(True, 25)) != [])
    check("closed and there on a server behind", ephemerals(owned(20, closed=25), sight(True, 24, synced=False)) == [])
    check("dead and there", ephemerals(owned(20, dead=1.0), sight(True, 30, start=2.0)) != [])
    check("dead and there within the grace", ephemerals(owned(20, dead=1.0, grace=5.0), sight(True, 30, start=2.0)) == [])


def test_watches(check):
    def watch(events, final, early=()):
        w = Watch("s", "/w", 3)
        w.events, w.final, w.early = events, final, list(early)
        return [w]
    check("fired once", watches(watch(1, 4)) == [])
    check("nothing to fire for", watches(watch(0, 3)) == [])
    check("session ended before", watches(watch(0, None)) == [])
    check("fired twice", watches(watch(2, 5)) != [])
    check("never fired", watches(watch(0, 4)) != [])
    check("fired for nothing", watches(watch(1, 3)) != [])
    check("shown before the event", watches(watch(1, 4, [4])) != [])


class Member:
    def __init__(self, kind):
        self.kind = kind


def test_digests(check):
    s, t, a, b = (Member(kind) for kind in "SSAA")

    def judged(lists, fuzzy=()):
        lines, excused = digests(lists, dict(fuzzy).get if fuzzy else lambda m: [])
        return len(lines), len(excused)
    same = {256: "x", 384: "y"}
    off = {256: "z", 384: "y"}
    check("equal digests", judged({s: same, t: same, a: same}) == (0, 0))
    check("nothing in common", judged({s: {128: "x"}, a: {256: "x"}}) == (1, 0))
    check("nobody has a reason", judged({s: same, a: off}) == (1, 0))
    check("Serval servers have no reason", judged({s: same, t: off, a: same}, {s: [200], t: [200], a: []}) == (1, 0))
    check("a snapshot before", judged({s: same, t: same, a: off}, {s: [], t: [], a: [200]}) == (0, 1))
    later = {s: {9000: "x", 9128: "y"}, a: {9000: "z", 9128: "y"}}
    check("a snapshot long before", judged(later, {s: [], a: [200]}) == (1, 0))
    check("a snapshot behind", judged({s: same, a: off}, {s: [], a: [256]}) == (1, 0))
    check("the other Apache server's snapshot", judged({a: same, b: off}, {a: [], b: [200]}) == (0, 1))
    check("the newest must be equal", judged({s: {256: "x"}, a: {256: "z"}}, {s: [], a: [200]}) == (1, 0))
    check("Serval differs from all", judged({s: off, a: same, b: same}, {s: [], a: [], b: [200]}) == (1, 1))


def test_logs(check):
    check("a hole that was claimed", unheld([1, 2, 7, 8], {6, 8}, set()) == [(6, 2, 7)])
    check("a hole that nobody claimed is another's fault", unheld([1, 2, 7, 8], {2, 8}, set()) == [])
    check("what came as a snapshot is in no log", unheld([1, 2, 7, 8], {6}, {6}) == [])
    check("what was cut off is in no log", unheld([1, 2, 1 << 32 | 1], {3}, {2}) == [])
    check("the end of an epoch that was claimed", unheld([1, 2, 1 << 32 | 1], {3}, set()) == [(3, 2, 1 << 32 | 1)])
    check("the beginning of an epoch is no transaction", unheld([1, 2, 1 << 32 | 1], {1 << 32}, set()) == [])


def test_rest(check):
    check("all there", missing(["a", "b"], {"a", "b", "c"}) == [])
    check("one missing", missing(["a", "b"], {"a"}) != [])
    check("one twice", missing(["a", "a"], {"a"}) != [])
    history = History()
    for call in BAD["stale read"]:
        history.add(call)
    check("a history judges what it holds", len(history.judge()) == 1)


def main():
    counts = {True: 0, False: 0}

    def check(name, good):
        counts[bool(good)] += 1
        if not good:
            print(f"FAILED {name}")
    for test in (test_registers, test_random, test_sessions, test_ephemerals, test_watches, test_digests, test_logs, test_rest):
        test(check)
    print(f"{counts[True]} passed, {counts[False]} failed")
    sys.exit(1 if counts[False] else 0)


if __name__ == "__main__":
    main()
