"""A session that moves between servers: what a careful client does, and nothing hidden from the checker.

Here: sessions that are resumed with id and password on another server, watches set again, calls with a deadline.
Not here: bytes (`zk.py`), what histories are allowed (`checker.py`).
Invariants: a call that got no answer is never repeated, it ends as `Lost` (it may or may not have happened); every
wait has a deadline; one thread uses one session. A breach of order inside one session (a zxid that goes back, a reply
that answers another request) is kept in `breaches`.
"""

import random
import socket
import struct
import time

import zk

EVENTS = {1: "created", 2: "deleted", 3: "changed", 4: "children"}
CONNECT_S = 1.0    # until TCP and the answer to the handshake
CALL_S = 20.0
NO_NODE, NODE_EXISTS, BAD_VERSION, SESSION_EXPIRED, SESSION_MOVED = -101, -110, -103, -112, -118


class Lost(Exception):
    """The connection ended before the answer: the call may or may not have happened."""


class Expired(Exception):
    """The session is gone."""


class Refused(Exception):
    """No server took the session within the deadline."""


class Code(Exception):
    """The server answered an error code."""

    def __init__(self, code, zxid):
        super().__init__(f"error {code} at zxid {zxid:#x}")
        self.code, self.zxid = code, zxid


class Event:
    """A watch event, and the zxid of the newest reply that stood before it on its connection."""

    def __init__(self, kind, path, header_zxid, after):
        self.kind, self.path, self.header_zxid, self.after, self.at = kind, path, header_zxid, after, time.monotonic()

    def __repr__(self):
        return f"{self.kind} {self.path}"


class Stat:
    """The 68 bytes of a Stat."""

    FIELDS = ("czxid", "mzxid", "ctime", "mtime", "version", "cversion", "aversion", "owner", "length", "children",
              "pzxid")
    __slots__ = FIELDS

    def __init__(self, raw):
        for name, value in zip(self.FIELDS, struct.unpack(">qqqqiiiqiiq", raw)):
            setattr(self, name, value)

    def tuple(self):
        return tuple(getattr(self, name) for name in self.FIELDS)


class Session:
    """`hosts` is a list of (host, port); `only` as a single host keeps the session where it is."""

    def __init__(self, hosts, timeout_ms=10000, rng=None, patience_s=30.0, call_s=CALL_S, connect=True):
        self.hosts = list(hosts)
        self.rng = rng or random.Random()
        self.timeout_ms, self.patience_s, self.call_s = timeout_ms, patience_s, call_s
        self.id, self.password, self.last_zxid = 0, b"\0" * 16, 0
        self.conn, self.host, self.xid = None, None, 0
        self.events, self.breaches = [], []
        self.watched = {"data": set(), "exist": set(), "child": set()}
        self.at = self.rng.randrange(len(self.hosts))
        self.moves = 0
        if connect:
            self.connect()

    # ---- connection ---------------------------------------------------------------------------------------------

    def connect(self, patience_s=None):
        """Attaches the session to the next server that takes it."""
        self.drop()
        deadline = time.monotonic() + (patience_s or self.patience_s)
        failed = 0
        while True:
            self.at = (self.at + 1) % len(self.hosts)
            if self.try_host(self.hosts[self.at], max(0.05, deadline - time.monotonic())):
                return
            failed += 1
            if time.monotonic() > deadline:
                raise Refused(f"no server took session {self.id:#x} (zxid {self.last_zxid:#x}) of {self.hosts}")
            if failed % len(self.hosts) == 0:
                time.sleep(0.01)

    def connect_to(self, host, patience_s=20.0):
        """Attaches the session to this server and no other."""
        self.drop()
        deadline = time.monotonic() + patience_s
        while not self.try_host(host, max(0.05, deadline - time.monotonic())):
            if time.monotonic() > deadline:
                raise Refused(f"{host} did not take session {self.id:#x} (zxid {self.last_zxid:#x})")
            time.sleep(0.02)

    def try_host(self, host, left):
        # A server that creates or checks a session asks its leader; that is given more time than the TCP handshake.
        conn = None
        try:
            conn = zk.Conn(host, min(CONNECT_S, left))
            conn.send_frame(zk.connect_body(self.timeout_ms, self.id, self.password, self.last_zxid))
            answer = conn.read_frame(min(2 * CONNECT_S, left))
        except (OSError, zk.Timeout, AssertionError):
            answer = None
        if answer is None:
            if conn:
                conn.close()
            return False
        r = zk.Reader(answer)
        r.integer()
        timeout, session, password = r.integer(), r.long(), r.buffer()
        if session == 0:
            conn.close()
            raise Expired(f"session {self.id:#x} was refused by {host}")
        if self.id not in (0, session):
            self.breaches.append(f"asked for session {self.id:#x}, was given {session:#x}")
        self.moves += self.id != 0
        self.id, self.password, self.negotiated = session, password, timeout
        self.conn, self.host = conn, host
        conn.timeout_s = self.call_s
        self.heard = time.monotonic()
        return self.set_watches()

    def set_watches(self):
        w = self.watched
        if not any(w.values()):
            return True
        try:
            self.raw_call(zk.XID_SET_WATCHES, "setWatches",
                          zk.set_watches_body(self.last_zxid, sorted(w["data"]), sorted(w["exist"]), sorted(w["child"])))
        except Lost:
            return False
        return True

    def drop(self):
        """Ends the connection without a word; the session lives on."""
        if self.conn:
            self.conn.close()
        self.conn = None

    def close(self):
        """Closes the session. The zxid of its end."""
        zxid = self.call("closeSession", b"")[0]
        self.drop()
        return zxid

    # ---- calls --------------------------------------------------------------------------------------------------

    def next_xid(self):
        self.xid += 1
        return self.xid

    def call(self, op, body):
        """(zxid, reader behind the header). Attaches the session first if it has no connection."""
        if self.conn is None:
            self.connect()
        return self.raw_call(self.next_xid(), op, body)

    def raw_call(self, xid, op, body):
        deadline = time.monotonic() + self.call_s
        try:
            self.conn.send_frame(zk.request(xid, op, body))
            while True:
                payload = self.conn.read_frame(max(0.01, deadline - time.monotonic()))
                if payload is None:
                    raise Lost(f"{op}: closed by {self.host}")
                got = self.take(payload)
                if got is None:
                    continue
                if got[0] != xid:
                    self.breaches.append(f"{op}: the reply to xid {got[0]} came instead of {xid}")
                    raise Lost(op)
                break
        except (zk.Timeout, socket.timeout):
            self.drop()
            raise Lost(f"{op}: no answer from {self.host} in {self.call_s} s") from None
        except (OSError, AssertionError) as e:
            self.drop()
            raise Lost(f"{op}: {e}") from None
        except Lost:
            self.drop()
            raise
        _, zxid, err, rest = got
        if err in (SESSION_EXPIRED, SESSION_MOVED):
            # The server closes behind these; whether the call happened is known: it did not.
            self.drop()
        if err:
            raise Code(err, zxid)
        return zxid, rest

    def take(self, payload):
        """Sorts one frame: None for events and pings, else (xid, zxid, err, reader)."""
        r = zk.Reader(payload)
        xid, zxid, err = r.integer(), r.long(), r.integer()
        self.heard = time.monotonic()
        if xid == zk.XID_EVENT:
            kind, _, path = r.integer(), r.integer(), r.buffer().decode()
            self.take_event(EVENTS.get(kind, kind), path, zxid)
            return None
        if zxid > 0:
            if zxid < self.last_zxid:
                self.breaches.append(f"zxid went back from {self.last_zxid:#x} to {zxid:#x} on {self.host}")
            self.last_zxid = max(self.last_zxid, zxid)
        return None if xid == zk.XID_PING else (xid, zxid, err, r)

    def take_event(self, kind, path, zxid):
        self.events.append(Event(kind, path, zxid, self.last_zxid))
        if kind == "children":
            self.watched["child"].discard(path)
            return
        self.watched["data"].discard(path)
        self.watched["exist"].discard(path)
        if kind == "deleted":
            self.watched["child"].discard(path)

    def pump(self, seconds, until=None):
        """Takes events and pings until the time is over or `until()` holds; what `until()` says at the end."""
        deadline = time.monotonic() + seconds
        while not (until and until()) and time.monotonic() < deadline:
            try:
                if self.conn is None:
                    self.connect()
                self.pump_once(deadline)
            except Lost:
                continue
        return bool(until and until())

    def pump_once(self, deadline):
        pause = self.negotiated / 3000
        try:
            payload = self.conn.read_frame(max(0.001, min(0.05, deadline - time.monotonic())))
        except zk.Timeout:
            if time.monotonic() - self.heard > 2 * pause:
                self.drop()
                raise Lost("silent") from None
            if time.monotonic() - self.heard > pause:
                self.conn.send_frame(zk.request(zk.XID_PING, "ping"))
                time.sleep(0.01)
            return
        except (OSError, AssertionError) as e:
            self.drop()
            raise Lost(str(e)) from None
        if payload is None:
            self.drop()
            raise Lost("closed")
        self.take(payload)

    # ---- operations ---------------------------------------------------------------------------------------------

    def create(self, path, data=b"", flags=0, acl=zk.OPEN):
        """(path, zxid)."""
        zxid, r = self.call("create", zk.create_body(path, data, acl, flags))
        return r.buffer().decode(), zxid

    def delete(self, path, version=-1):
        return self.call("delete", zk.path_version(path, version))[0]

    def set(self, path, data, version=-1):
        """(stat, zxid)."""
        zxid, r = self.call("setData", zk.set_data_body(path, data, version))
        return Stat(r.take(68)), zxid

    def get(self, path, watch=False):
        """(data, stat, zxid)."""
        zxid, r = self.call("getData", zk.path_watch(path, watch))
        if watch:
            self.watched["data"].add(path)
        return r.buffer(), Stat(r.take(68)), zxid

    def exists(self, path, watch=False):
        """(stat or None, zxid)."""
        try:
            zxid, r = self.call("exists", zk.path_watch(path, watch))
        except Code as e:
            if e.code != NO_NODE:
                raise
            if watch:
                self.watched["exist"].add(path)
            return None, e.zxid
        if watch:
            self.watched["data"].add(path)
        return Stat(r.take(68)), zxid

    def children(self, path, watch=False):
        """(sorted names, stat, zxid)."""
        zxid, r = self.call("getChildren2", zk.path_watch(path, watch))
        if watch:
            self.watched["child"].add(path)
        names = sorted(r.buffer().decode() for _ in range(r.integer()))
        return names, Stat(r.take(68)), zxid

    def acl(self, path):
        zxid, r = self.call("getACL", zk.buffer(path))
        return [(r.integer(), r.buffer().decode(), r.buffer().decode()) for _ in range(r.integer())]

    def sync(self, path="/"):
        return self.call("sync", zk.buffer(path))[0]

    def auth(self, scheme, credentials):
        self.raw_call(zk.XID_AUTH, "auth", zk.auth_body(scheme, credentials))

    def reconfig(self, joining=None, leaving=None, members=None, config_id=-1):
        """(text, stat, zxid)."""
        zxid, r = self.call("reconfig", zk.reconfig_body(joining, leaving, members, config_id))
        return r.buffer().decode(), Stat(r.take(68)), zxid

    def ensure(self, path, data=b""):
        """Creates the node unless it is there, however often the connection ends meanwhile."""
        while True:
            try:
                self.create(path, data)
                return
            except Code as e:
                if e.code == NODE_EXISTS:
                    return
                raise
            except Lost:
                continue


DUMP_BATCH = 300


def dump(session, root="/"):
    """{path: (data, stat, acl)} of everything below `root`, read through one server. The Stat of /zookeeper/config is
    each server's own (fact sheet 11), so only its version counts."""
    found, queue = {}, [root]
    while queue:
        batch, queue = queue[-DUMP_BATCH:], queue[:-DUMP_BATCH]
        for path, (data, fields, acl, names) in zip(batch, read_nodes(session, batch)):
            found[path] = (data, (fields[4],) if path == "/zookeeper/config" else fields, acl)
            queue += [path.rstrip("/") + "/" + name for name in names]
    return found


def read_nodes(session, paths):
    """(data, stat, acl, children) of each, all asked for in one write."""
    asked = [(session.next_xid(), op, body) for path in paths for op, body in (
        ("getData", zk.path_watch(path)), ("getACL", zk.buffer(path)), ("getChildren", zk.path_watch(path)))]
    session.conn.send(b"".join(zk.frame(zk.request(*a)) for a in asked))
    answers = []
    for xid, op, _ in asked:
        got = None
        while got is None:
            payload = session.conn.read_frame(session.call_s)
            if payload is None:
                raise Lost(f"{op}: closed")
            got = session.take(payload)
        if got[0] != xid or got[2]:
            raise Code(got[2], got[1])
        answers.append(got[3])
    for data, acl, names in zip(answers[0::3], answers[1::3], answers[2::3]):
        yield (data.buffer(), Stat(data.take(68)).tuple(),
               [(acl.integer(), acl.buffer().decode(), acl.buffer().decode()) for _ in range(acl.integer())],
               sorted(names.buffer().decode() for _ in range(names.integer())))


def difference(left, right, limit=5):
    """What two dumps differ in, as lines."""
    lines = []
    for path in sorted(set(left) | set(right)):
        a, b = left.get(path), right.get(path)
        if a != b:
            lines.append(f"{path}: {a} against {b}")
    return lines[:limit] + ([f"and {len(lines) - limit} more"] if len(lines) > limit else [])
