"""Turns what a server sent into lines that two servers can be compared by.

Here: one decoder per reply kind, and the symbols that stand for what may differ between two correct servers:
session ids (`S1`, `S2` in order of first use), passwords (`pw(S1)` iff they are what the formula of fact sheet 3.2
gives), zxids (`+3`: the third transaction of this conversation; `old`: before it), wall-clock times (`now`: within
this conversation), the order of child and ephemeral lists.
Not here: reading from sockets, deciding which differences are intended.
Invariant: nothing else is lost. Every byte of a frame is either shown, or checked and replaced by a symbol; bytes
that the record does not account for appear as `rest=`, and a record that ends early as `short`.
"""

import time

import zk

EVENTS = {-1: "None", 1: "NodeCreated", 2: "NodeDeleted", 3: "NodeDataChanged", 4: "NodeChildrenChanged"}
CLOCK_SLACK_MS = 2000


class Symbols:
    """What the symbols stand for in one conversation on one server."""

    def __init__(self, base_zxid):
        self.base_zxid = base_zxid
        self.sessions = {}
        self.started_ms = int(time.time() * 1000) - CLOCK_SLACK_MS

    def session(self, value):
        if value == 0:
            return "0"
        if value not in self.sessions:
            self.sessions[value] = f"S{len(self.sessions) + 1}"
        return self.sessions[value]

    def password(self, session_id, value):
        if session_id and value == zk.java_random_password(session_id):
            return f"pw({self.session(session_id)})"
        return show(value)

    def zxid(self, value):
        if value in (0, -1):
            return str(value)
        return f"+{value - self.base_zxid}" if value > self.base_zxid else "old"

    def time(self, value):
        if value == 0:
            return "0"
        if self.started_ms <= value <= int(time.time() * 1000) + CLOCK_SLACK_MS:
            return "now"
        return "past" if 0 < value < self.started_ms else str(value)


def show(value):
    """Bytes for a reader: text in quotes, long ones by length and checksum, null as null."""
    if value is None:
        return "null"
    if len(value) > 200:
        return f"<{len(value)} bytes, first {value[:8].hex()}, sum {sum(value)}>"
    return repr(value)[1:]


def stat(r, symbols):
    czxid, mzxid, ctime, mtime = r.long(), r.long(), r.long(), r.long()
    version, cversion, aversion = r.integer(), r.integer(), r.integer()
    owner, length, children, pzxid = r.long(), r.integer(), r.integer(), r.long()
    order = "=" if ctime == mtime else "<" if ctime < mtime else ">"
    if version > 0:
        order = "<=" if ctime <= mtime else ">"
    z = symbols.zxid
    return (f"stat[c={z(czxid)} m={z(mzxid)} p={z(pzxid)} ctime={symbols.time(ctime)}{order}mtime={symbols.time(mtime)}"
            f" v={version} cv={cversion} av={aversion} owner={symbols.session(owner)} len={length} kids={children}]")


def sorted_list(r):
    n = r.integer()
    if n < 0:
        return f"null({n})"
    return "[" + " ".join(sorted(show(r.buffer()) for _ in range(n))) + "]"


def acl_list(r):
    n = r.integer()
    entries = []
    for _ in range(n):
        perms = r.integer()
        entries.append(f"{perms}:{show(r.buffer())}:{show(r.buffer())}")
    return "[" + " ".join(entries) + "]" if n >= 0 else f"null({n})"


def multi_results(r, symbols):
    out = []
    while True:
        op, done, err = r.integer(), r.boolean(), r.integer()
        head = f"{{{op},{done},{err}}}"
        if done:
            return " ".join(out + [head])
        if op == -1:
            head += f"code={r.integer()}"
        elif op == 1:
            head += show(r.buffer())
        elif op == 15:
            head += show(r.buffer()) + " " + stat(r, symbols)
        elif op == 5:
            head += stat(r, symbols)
        elif op == 4:
            head += show(r.buffer()) + " " + stat(r, symbols)
        elif op == 8:
            head += sorted_list(r)
        out.append(head)


def who(r):
    n = r.integer()
    return "[" + " ".join(sorted(f"{show(r.buffer())}:{show(r.buffer())}" for _ in range(n))) + "]"


def data_stat(r, s):
    return f"data={show(r.buffer())} {stat(r, s)}"


def path_stat(r, s):
    return f"path={show(r.buffer())} {stat(r, s)}"


BODIES = {
    "create": lambda r, s: f"path={show(r.buffer())}",
    "create2": path_stat, "createContainer": path_stat, "createTTL": path_stat,
    "exists": stat, "setData": stat, "setACL": stat,
    "getData": data_stat, "reconfig": data_stat,
    "getACL": lambda r, s: f"acl={acl_list(r)} {stat(r, s)}",
    "getChildren": lambda r, s: f"children={sorted_list(r)}",
    "getChildren2": lambda r, s: f"children={sorted_list(r)} {stat(r, s)}",
    "sync": lambda r, s: f"path={show(r.buffer())}",
    "multi": multi_results, "multiRead": multi_results,
    "getEphemerals": lambda r, s: f"ephemerals={sorted_list(r)}",
    "getAllChildrenNumber": lambda r, s: f"total={r.integer()}",
    "addWatch": lambda r, s: f"error={r.integer()}",
    "whoAmI": lambda r, s: f"who={who(r)}",
    "sasl": lambda r, s: f"token={show(r.buffer())}",
}


def decoded(decode, r, symbols):
    """`decode`'s text, then whatever it left over, or the raw bytes if there were too few."""
    start = r.at
    try:
        text = decode(r, symbols)
    except zk.Short:
        return f"short raw={r.data[start:].hex()}"
    rest = r.rest()
    return text + (f" rest={rest.hex()}" if rest else "")


def connect_reply(payload, symbols):
    def decode(r, s):
        version, timeout, session = r.integer(), r.integer(), r.long()
        password = r.buffer()
        read_only = f" ro={r.boolean()}" if r.at < len(r.data) else ""
        return (f"connected version={version} timeout={timeout} session={s.session(session)}"
                f" password={s.password(session, password)}{read_only}")
    return decoded(decode, zk.Reader(payload), symbols)


def header(payload):
    """(xid, zxid, err) of a reply frame."""
    r = zk.Reader(payload)
    return r.integer(), r.long(), r.integer()


def event(payload, symbols, zxid=None):
    """A watch event; `zxid` replaces the one in the frame (to show what a 3.9 server would have sent)."""
    def decode(r, s):
        xid, own, err = r.integer(), r.long(), r.integer()
        kind, state = r.integer(), r.integer()
        shown = s.zxid(own if zxid is None else zxid)
        return f"event xid={xid} zxid={shown} err={err} {EVENTS.get(kind, kind)} state={state} path={show(r.buffer())}"
    return decoded(decode, zk.Reader(payload), symbols)


def reply(payload, op, symbols):
    """A reply to `op` (a name, or None for a request that no record belongs to)."""
    def decode(r, s):
        xid, zxid, err = r.integer(), r.long(), r.integer()
        text = f"xid={xid} zxid={s.zxid(zxid)} err={err}"
        if r.at < len(r.data) and op in BODIES:
            text += " " + BODIES[op](r, s)
        return text
    return decoded(decode, zk.Reader(payload), symbols)
