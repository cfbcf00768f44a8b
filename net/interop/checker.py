"""Judges the histories of concurrent clients: registers, sessions, ephemerals, watches; and the digests of servers.

Here: what was called, when, and what came back (`History`), and the rules that it must obey. `test_checker.py` shows
for each rule a history that breaks it.
Not here: clients (`workload.py`) and faults (`chaos.py`).
Invariants: times are monotonic seconds of one machine; a call that got no answer may take effect once, at any time after
it began, or never; a history is judged only after all its clients have ended.

Registers. Every successful write of a node raises its version by one, so versions are the order of the writes and
nothing has to be searched: the history is linearizable if and only if points can be chosen inside the calls such that
they rise with the version. Values are unique, so a read tells which write it saw. The earliest possible point of each
call is taken in that order; a call that ended before its point shows the contradiction.
"""

import collections
import itertools
import math
import threading

INFINITY = math.inf
MISSING, TWICE = "acknowledged and missing", "two writes made version"  # how losses are told


class Call:
    """One call on a register. `kind`: write, read (behind a sync) or plain (a read without one).

    `ok` True: `version` is what the reply said; False: refused with BADVERSION; None: no answer."""

    __slots__ = ("kind", "session", "key", "value", "expected", "start", "end", "ok", "version", "zxid", "mzxid", "where")

    def __init__(self, kind, session, key, value=None, expected=-1, start=0.0, end=INFINITY, ok=None, version=None,
                 zxid=None, mzxid=None, where=None):
        self.kind, self.session, self.key, self.value, self.expected = kind, session, key, value, expected
        self.start, self.end, self.ok, self.version = start, end, ok, version
        self.zxid, self.mzxid, self.where = zxid, mzxid, where

    def __repr__(self):
        end = "never" if self.end == INFINITY else f"{self.end:.4f}"
        said = {True: f"version {self.version}", False: "bad version", None: "no answer"}[self.ok]
        value = f" {self.value}" if self.value is not None else ""
        expected = f" expecting {self.expected}" if self.expected >= 0 else ""
        return (f"{self.session} {self.kind} {self.key}{value}{expected} [{self.start:.4f}, {end}] -> {said}"
                f"{f' at {self.where}' if self.where else ''}")


class History:
    """Calls and facts of many threads. Lists are appended to under one lock and judged when all threads have ended."""

    def __init__(self):
        self.lock = threading.Lock()
        self.calls = []
        self.breaches = []
        self.owned = []      # Ephemeral
        self.sightings = []  # Sighting
        self.watches = []    # Watch
        self.counts = collections.Counter()

    def add(self, call):
        with self.lock:
            self.calls.append(call)
            self.counts[f"{call.kind}s {'acknowledged' if call.ok else 'refused' if call.ok is False else 'unknown'}"] += 1
        return call

    def note(self, list_name, item):
        with self.lock:
            getattr(self, list_name).append(item)
        return item

    def judge(self):
        """Every breach, as lines."""
        return [*self.breaches, *registers(self.calls), *sessions(self.calls), *agreement(self.calls),
                *ephemerals(self.owned, self.sightings), *watches(self.watches)]


# ---- registers --------------------------------------------------------------------------------------------------------

def registers(calls):
    """Writes and reads behind a sync linearize, key by key."""
    by_key = collections.defaultdict(list)
    for call in calls:
        by_key[call.key].append(call)
    return [line for key in sorted(by_key) for line in register(key, by_key[key])]


def register(key, calls):
    writes = [c for c in calls if c.kind == "write"]
    seen = [c for c in calls if c.kind in ("read", "plain") and c.ok]
    placed, lines = place_writes(key, writes, seen)
    if lines:
        return lines
    reads = collections.defaultdict(list)
    for c in seen:
        if c.kind == "read":
            reads[c.version].append(c)
    lines = plain_reads(key, placed, seen)
    point, latest = -INFINITY, "the beginning"
    for version in sorted(set(placed) | set(reads)):
        write = placed.get(version)
        if write is not None:
            point, latest = later(point, latest, write)
            if point > write.end:
                return lines + [f"{key}: {write} cannot stand behind {latest}"]
        # All reads of a version stand behind its write and before the next write, in any order.
        base, reason = point, latest
        for read in reads[version]:
            at, why = later(base, reason, read)
            if at > read.end:
                return lines + [f"{key}: {read} is stale or early, it cannot stand behind {why}"]
            point, latest = (at, why) if at > point else (point, latest)
    return lines + refusals(key, placed, writes)


def later(point, latest, call):
    """The earliest point of `call` behind `point`, and what forces it there."""
    return (call.start, call) if call.start > point else (point, latest)


def place_writes(key, writes, seen):
    """({version: write}, lines): which write made which version."""
    placed, lines, by_value = {}, [], {}
    for w in writes:
        by_value[w.value] = w
        if w.ok:
            if w.version in placed:
                lines.append(f"{key}: {TWICE} {w.version}: {placed[w.version]} and {w}")
            if w.expected >= 0 and w.version != w.expected + 1:
                lines.append(f"{key}: {w} did not make version {w.expected + 1}")
            placed[w.version] = w
    for r in seen:
        if r.version == 0:
            continue
        w = by_value.get(r.value)
        if w is None:
            lines.append(f"{key}: {r} shows a value that nobody wrote: {r.value!r}")
        elif w.ok is False:
            lines.append(f"{key}: {r} shows the value of a refused write: {w}")
        elif w.ok and w.version != r.version or w.expected >= 0 and r.version != w.expected + 1:
            lines.append(f"{key}: {r} shows the value of {w}")
        elif placed.setdefault(r.version, w) is not w:
            lines.append(f"{key}: {r} shows {w}, but that version is {placed[r.version]}")
    if not lines:
        lines = place_unseen(key, placed, writes)
    return placed, lines


def place_unseen(key, placed, writes):
    """Versions that nobody saw belong to unanswered writes: the oldest of these to the lowest version."""
    used = {id(w) for w in placed.values()}
    if len(used) != len(placed):
        return [f"{key}: one write made two versions"]
    free = sorted((w for w in writes if w.ok is None and id(w) not in used), key=lambda w: w.start)
    loose = [w for w in free if w.expected < 0]
    lines = []
    for version in range(1, max(placed, default=0) + 1):
        if version in placed:
            continue
        limit = min(w.end for v, w in placed.items() if v > version)
        bound = [w for w in free if w.expected == version - 1 and w.start <= limit]
        if bound:
            placed[version] = bound[0]
        elif loose:
            placed[version] = loose.pop(0)
        else:
            lines.append(f"{key}: version {version} was made by nobody")
    return lines


def plain_reads(key, placed, seen):
    """A read without sync may be old, but shows nothing that was not yet sent."""
    return [f"{key}: {r} shows a write that had not begun: {placed[r.version]}" for r in seen
            if r.version in placed and placed[r.version].start > r.end]


def refusals(key, placed, writes):
    """BADVERSION is right only if another version could stand at some time of the call."""
    lines, used = [], {id(w) for w in placed.values()}
    pending = [w for w in writes if w.ok is None and id(w) not in used]
    for w in writes:
        if w.ok is not False:
            continue
        before, after = placed.get(w.expected), placed.get(w.expected + 1)
        settled = w.expected == 0 or before is not None and before.end < w.start
        unchanged = after is None or after.start > w.end
        others = any(o.expected in (-1, w.expected) and o.start < w.end for o in pending)
        if settled and unchanged and not others:
            lines.append(f"{key}: {w}, but version {w.expected} stood all the time")
    return lines


# ---- sessions ---------------------------------------------------------------------------------------------------------

def sessions(calls):
    """Inside one session time does not go back: versions, and the session's own writes, also across servers."""
    lines = []
    by_session = collections.defaultdict(list)
    for c in calls:
        by_session[c.session].append(c)
    for name, own in by_session.items():
        own.sort(key=lambda c: c.start)
        newest, zxid = {}, 0
        for c in own:
            if c.zxid:
                if c.zxid < zxid:
                    lines.append(f"{name}: zxid went back from {zxid:#x} to {c.zxid:#x} in {c}")
                zxid = max(zxid, c.zxid)
            if not c.ok:
                continue
            if c.version < newest.get(c.key, 0):
                lines.append(f"{name}: saw version {newest[c.key]} of {c.key} and then {c}")
            newest[c.key] = max(c.version, newest.get(c.key, 0))
            if c.mzxid and c.zxid and c.mzxid > c.zxid:
                lines.append(f"{name}: {c} shows mzxid {c.mzxid:#x} at zxid {c.zxid:#x}")
    return lines


def agreement(calls):
    """All servers tell the same history: one value and one mzxid for a version."""
    lines, known = [], {}
    for c in calls:
        if not c.ok or c.value is None or c.mzxid is None:
            continue
        first = known.setdefault((c.key, c.version), c)
        if (first.value, first.mzxid) != (c.value, c.mzxid):
            lines.append(f"{c.key}: two stories of version {c.version}: {first} (mzxid {first.mzxid:#x}) and "
                         f"{c} (mzxid {c.mzxid:#x})")
    for (key, version), c in known.items():
        older = known.get((key, version - 1))
        if older and older.mzxid >= c.mzxid:
            lines.append(f"{key}: version {version} has mzxid {c.mzxid:#x}, the one before it {older.mzxid:#x}")
    return lines


# ---- ephemerals -------------------------------------------------------------------------------------------------------

class Ephemeral:
    """An ephemeral node. `alive`: the newest zxid of a write of its session; `closed`: the zxid in closeSession's reply;
    `dead`: when the session was known to be over. A new leader may know the session of an expiry that its predecessor
    took back with it to the grave; `grace_s` bounds that."""

    def __init__(self, path, session, czxid, grace_s=0.0):
        self.path, self.session, self.czxid, self.grace_s = path, session, czxid, grace_s
        self.alive, self.closed, self.dead = czxid, None, None


class Sighting:
    """Whether a path was there: seen in some state between the zxids `low` and `high`, asked for at `start`, behind a
    sync if `synced`."""

    def __init__(self, path, there, low, high, start, synced, where=None):
        self.path, self.there, self.low, self.high = path, there, low, high
        self.start, self.synced, self.where = start, synced, where

    def __repr__(self):
        return f"{'there' if self.there else 'not there'} between {self.low:#x} and {self.high:#x} at {self.where}"


def ephemerals(owned, sightings):
    """An ephemeral is there as long as its session lives, and not a txn longer."""
    lines = []
    by_path = collections.defaultdict(list)
    for s in sightings:
        by_path[s.path].append(s)
    for e in owned:
        for s in by_path[e.path]:
            if not s.there and e.czxid <= s.low and s.high < e.alive:
                lines.append(f"{e.path}: {s}, though {e.session} lives at {e.alive:#x}")
            if s.there and e.closed and s.low >= e.closed:
                lines.append(f"{e.path}: {s}, though {e.session} was closed by {e.closed:#x}")
            if s.there and s.synced and e.dead is not None and s.start > e.dead + e.grace_s:
                lines.append(f"{e.path}: {s}, though {e.session} had been over for {s.start - e.dead:.3f} s")
    return lines


# ---- watches ----------------------------------------------------------------------------------------------------------

class Watch:
    """One registration of a data watch: the version that was read with it, and every event that came for the path until
    the next registration. `final`: the newest version, shown by a reply at the end."""

    def __init__(self, session, path, version):
        self.session, self.path, self.version = session, path, version
        self.events = 0
        self.early = []   # versions above the registered one that were shown before the event came
        self.final = None

    def __repr__(self):
        return f"watch of {self.session} on {self.path} at version {self.version}"


def watches(registered):
    """A one-shot watch fires once, not later than a reply shows the change, and it does fire."""
    lines = []
    for w in registered:
        if w.events > 1:
            lines.append(f"{w}: fired {w.events} times")
        if w.early:
            lines.append(f"{w}: version {w.early[0]} was shown before the event")
        if w.final is not None and w.final > w.version and w.events == 0:
            lines.append(f"{w}: never fired, though the version is {w.final}")
        if w.final is not None and w.final == w.version and w.events:
            lines.append(f"{w}: fired, though nothing changed")
    return lines


# ---- nodes that were created ------------------------------------------------------------------------------------------

def missing(acknowledged, there):
    """Acknowledged names that are not there, and names given twice."""
    names = list(acknowledged)
    lines = [f"{name}: {MISSING}" for name in names if name not in there]
    twice = [name for name, n in collections.Counter(names).items() if n > 1]
    return lines + [f"{name}: given twice" for name in twice]


# ---- digests ----------------------------------------------------------------------------------------------------------

FUZZY_TXNS = 4096  # more than are written while a snapshot is


def digests(lists, fuzzy_from):
    """`lists` is {member: {zxid: digest}}. (What differs, as lines; what is not counted.) Serval servers agree at every
    zxid, and all servers at the newest that all have. Elsewhere an Apache server may differ right behind a snapshot that
    `fuzzy_from(member)` names."""
    lines, excused = [], []
    newest = max(set.intersection(*(set(d) for d in lists.values())), default=None)
    if newest is None:
        lines.append("no digest that all members have")
    for zxid in sorted(set.union(*(set(d) for d in lists.values()))):
        having = [m for m in lists if zxid in lists[m]]
        # A Serval server is the measure where there is one.
        measure = min(having, key=lambda m: m.kind != "S")
        for m in having:
            if lists[m][zxid] == lists[measure][zxid]:
                continue
            off = [x for x in (m, measure) if x.kind == "A" and any(s < zxid <= s + FUZZY_TXNS for s in fuzzy_from(x))]
            if off and zxid != newest:
                excused.append(f"{off[0]} at {zxid:x}")
            else:
                lines.append(f"{measure} and {m}: digest at {zxid:x}")
    return lines, excused


# ---- logs -------------------------------------------------------------------------------------------------------------

def unheld(zxids, claims, excused):
    """(claim, before, after) where a log of these zxids goes on behind `before` with `after`, though its server had claimed
    to have its history up to a zxid between. A snapshot or a cut at a zxid of `excused` explains such a place."""
    found = []
    known = sorted(set(zxids))
    for before, after in itertools.pairwise(known):
        between = [c for c in claims if before < c < after and c & 0xFFFFFFFF]
        if between and not any(before <= e < after for e in excused):
            found.append((max(between), before, after))
    return found


def spread(times):
    """(median, worst) of a list of seconds."""
    if not times:
        return (math.nan, math.nan)
    ordered = sorted(times)
    return ordered[len(ordered) // 2], ordered[-1]


def bounded(lines, limit=20):
    """The first lines, and how many more there are."""
    head = list(itertools.islice(lines, limit))
    return head + ([f"and {len(lines) - limit} more"] if len(lines) > limit else [])
