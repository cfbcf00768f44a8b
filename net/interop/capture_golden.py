#!/usr/bin/env python3
"""Captures one exchange of every kind from a live Apache ZooKeeper into net/tests/golden/*.hex.

    capture_golden.py

Files (read by engine/tests/golden.rs): one per opcode, plus `connect` and `event`. Lines:

    # comment
    > HEX      a request frame as sent, its length first; words of four bytes, the last may be shorter
    < HEX      the reply frame to the request above it
    ! HEX      an event frame
    = TEXT     what the frame above it says, decoded by this script's own decoder

The text is there so that an encoder and a decoder that agree on the same mistake still fail.
Session ids, times and passwords are those of the run; capture again and they change, and nothing depends on them.
"""

import os
import struct

import servers
import zk

DIRECTORY = os.path.join(servers.REPOSITORY, "net", "tests", "golden")
ALICE = [(31, "auth", ""), (1, "ip", "127.0.0.0/8")]


# ---- decoding to text ---------------------------------------------------------------------------------------------

def hexed(value):
    return "null" if value is None else "x" + value.hex()


def text(value):
    return "null" if value is None else value.decode()


def text_list(r):
    return "[" + " ".join(text(r.buffer()) for _ in range(max(0, r.integer()))) + "]"


def acl_text(r):
    return "[" + " ".join(f"{r.integer()}:{text(r.buffer())}:{text(r.buffer())}" for _ in range(max(0, r.integer()))) + "]"


def flag(r):
    return "true" if r.boolean() else "false"


def stat_text(r):
    return "stat=" + ",".join(str(v) for v in struct.unpack(">qqqqiiiqiiq", r.take(68)))


def request_text(op, r):
    """The fields of a request's body."""
    if op in ("create", "create2", "createContainer", "createTTL"):
        out = f"path={text(r.buffer())} data={hexed(r.buffer())} acl={acl_text(r)} flags={r.integer()}"
        return out + (f" ttl={r.long()}" if op == "createTTL" else "")
    if op in ("delete", "check"):
        return f"path={text(r.buffer())} version={r.integer()}"
    if op in ("exists", "getData", "getChildren", "getChildren2"):
        return f"path={text(r.buffer())} watch={flag(r)}"
    if op == "setData":
        return f"path={text(r.buffer())} data={hexed(r.buffer())} version={r.integer()}"
    if op == "setACL":
        return f"path={text(r.buffer())} acl={acl_text(r)} version={r.integer()}"
    if op in ("sync", "getACL", "getEphemerals", "getAllChildrenNumber"):
        return f"path={text(r.buffer())}"
    if op in ("checkWatches", "removeWatches", "addWatch"):
        return f"path={text(r.buffer())} kind={r.integer()}"
    if op in ("setWatches", "setWatches2"):
        names = ["data", "exist", "child"] + (["persistent", "recursive"] if op == "setWatches2" else [])
        return f"zxid={r.long()} " + " ".join(f"{n}={text_list(r)}" for n in names)
    if op == "auth":
        r.integer()
        return f"scheme={text(r.buffer())} auth={hexed(r.buffer())}"
    if op == "reconfig":
        return f"joining={text(r.buffer())} leaving={text(r.buffer())} members={text(r.buffer())} config={r.long()}"
    if op in ("multi", "multiRead"):
        items = []
        while True:
            kind, done, err = r.integer(), r.boolean(), r.integer()
            if done:
                return "; ".join(items + [f"{kind} {err}"])
            items.append(f"{kind} {err} {request_text(zk.OP_NAMES[kind], r)}")
    return ""


def reply_body_text(op, r):
    if op == "create":
        return f" path={text(r.buffer())}"
    if op in ("create2", "createContainer", "createTTL"):
        return f" path={text(r.buffer())} {stat_text(r)}"
    if op in ("exists", "setData", "setACL"):
        return f" {stat_text(r)}"
    if op == "getData":
        return f" data={hexed(r.buffer())} {stat_text(r)}"
    if op == "getACL":
        return f" acl={acl_text(r)} {stat_text(r)}"
    if op in ("getChildren", "getEphemerals"):
        return f" names={text_list(r)}"
    if op == "getChildren2":
        return f" names={text_list(r)} {stat_text(r)}"
    if op == "sync":
        return f" path={text(r.buffer())}"
    if op == "getAllChildrenNumber":
        return f" total={r.integer()}"
    if op == "addWatch":
        return f" error={r.integer()}"
    if op == "whoAmI":
        return " who=[" + " ".join(f"{text(r.buffer())}:{text(r.buffer())}" for _ in range(r.integer())) + "]"
    if op in ("multi", "multiRead"):
        return " " + results_text(r)
    return ""


def results_text(r):
    items = []
    while True:
        kind, done, err = r.integer(), r.boolean(), r.integer()
        if done:
            return "; ".join(items + [f"{kind} {err}"])
        name = {-1: None, 15: "create2"}.get(kind, zk.OP_NAMES.get(kind))
        body = f" code={r.integer()}" if kind == -1 else "" if name in ("delete", "check") else reply_body_text(name, r)
        items.append(f"{kind} {err}{body}")


def reply_text(op, payload):
    r = zk.Reader(payload)
    out = f"xid={r.integer()} zxid={r.long()} err={r.integer()}"
    if r.at < len(payload):
        out += reply_body_text(op, r)
    assert not r.rest(), f"{op}: bytes left over in {payload.hex()}"
    return out


def connect_text(r, reply):
    r.integer()
    if reply:
        out = f"timeout={r.integer()} session={r.long()} password={hexed(r.buffer())}"
    else:
        out = f"zxid={r.long()} timeout={r.integer()} session={r.long()} password={hexed(r.buffer())}"
    return out + f" ro={flag(r) if r.at < len(r.data) else 'none'}"


# ---- capturing ----------------------------------------------------------------------------------------------------

def words(payload):
    data = zk.frame(payload).hex()
    return " ".join(data[i:i + 8] for i in range(0, len(data), 8))


class Capture:
    """Plays requests and keeps the lines per file."""

    def __init__(self, address):
        self.address, self.files, self.xid = address, {}, 0
        self.conn = None

    def write(self, name, *lines):
        self.files.setdefault(name, []).extend(lines)

    def connect(self, comment, **options):
        self.conn = zk.Conn(self.address)
        payload = zk.connect_body(**options)
        self.conn.send_frame(payload)
        answer = self.conn.read_frame()
        self.write("connect", f"# {comment}", f"> {words(payload)}", f"= {connect_text(zk.Reader(payload), False)}",
                   f"< {words(answer)}", f"= {connect_text(zk.Reader(answer), True)}")
        r = zk.Reader(answer[8:])
        return r.long(), r.buffer()

    def play(self, comment, op, body=b"", xid=None):
        if xid is None:
            self.xid += 1
            xid = self.xid
        payload = zk.request(xid, op, body)
        self.conn.send_frame(payload)
        while True:
            answer = self.conn.read_frame()
            r = zk.Reader(answer)
            if r.integer() != -1 or len(answer) == 16:
                break
            r.take(12)
            self.write("event", f"# during {op}: {comment}", f"! {words(answer)}",
                       f"= kind={r.integer()} state={r.integer()} path={text(r.buffer())}")
        r = zk.Reader(payload[8:])
        said = request_text(op, r)
        assert not r.rest(), f"{op}: bytes left over in the request"
        self.write(op, f"# {comment}", f"> {words(payload)}", f"= xid={xid} {said}".rstrip(), f"< {words(answer)}",
                   f"= {reply_text(op, answer)}")


def capture(c):
    session, password = c.connect("new session")
    c.play("digest", "auth", zk.auth_body("digest", b"alice:secret"), zk.XID_AUTH)
    c.play("plain", "create", zk.create_body("/g", b"hello"))
    c.play("ephemeral sequential", "create", zk.create_body("/g/e-", b"", zk.OPEN, 3))
    c.play("null data, an acl of two", "create", zk.create_body("/g/n", None, ALICE))
    c.play("exists already", "create", zk.create_body("/g", b"hello"))
    c.play("with a stat", "create2", zk.create_body("/g/two", b"\0\xff"))
    c.play("container", "createContainer", zk.create_body("/g/box", b"", zk.OPEN, 4))
    c.play("ttl", "createTTL", zk.create_body("/g/ttl", b"t", zk.OPEN, 5, 3600000))
    c.play("ttl sequential", "createTTL", zk.create_body("/g/ttl-", b"t", zk.OPEN, 6, 1099511627775))
    c.play("there, with a watch", "exists", zk.path_watch("/g", True))
    c.play("not there", "exists", zk.path_watch("/none"))
    c.play("data", "getData", zk.path_watch("/g"))
    c.play("null data", "getData", zk.path_watch("/g/n"))
    c.play("fires the watch", "setData", zk.set_data_body("/g", b"world", 0))
    c.play("wrong version", "setData", zk.set_data_body("/g", b"world", 7))
    c.play("two entries", "getACL", zk.buffer("/g/n"))
    c.play("new list", "setACL", zk.set_acl_body("/g/two", [(31, "world", "anyone"), (3, "digest", "bob:x")], 0))
    c.play("names", "getChildren", zk.path_watch("/g"))
    c.play("none", "getChildren", zk.path_watch("/g/two", True))
    c.play("names and stat", "getChildren2", zk.path_watch("/g"))
    c.play("all below", "getAllChildrenNumber", zk.buffer("/g"))
    c.play("mine", "getEphemerals", zk.buffer("/g"))
    c.play("echo", "sync", zk.buffer("/g"))
    c.play("ping", "ping", b"", zk.XID_PING)
    c.play("ids", "whoAmI")
    c.play("persistent", "addWatch", zk.buffer("/g/two") + zk.integer(0))
    c.play("recursive", "addWatch", zk.buffer("/g") + zk.integer(1))
    c.play("present", "checkWatches", zk.buffer("/g") + zk.integer(3))
    c.play("absent", "checkWatches", zk.buffer("/none") + zk.integer(1))
    multis(c)
    c.play("any", "removeWatches", zk.buffer("/g") + zk.integer(3))
    c.play("catching up", "setWatches",
           zk.set_watches_body(1, ["/g", "/none"], ["/g/two"], ["/g"]), zk.XID_SET_WATCHES)
    c.play("five lists", "setWatches2", zk.set_watches_body(1 << 40, ["/g"], ["/a", "/b"], [], ["/p"], ["/r", "/s"]),
           zk.XID_SET_WATCHES)
    c.play("standalone", "reconfig", zk.reconfig_body("server.2=localhost:1:2;3", None, None, -1))
    c.play("gone", "delete", zk.path_version("/g/two", 0))
    c.play("not empty", "delete", zk.path_version("/g"))
    c.play("end", "closeSession")
    c.conn.close()
    c.connect("renewal of a closed session, no read-only byte", session=session, password=password, read_only=None,
              timeout_ms=6000)
    c.conn.close()


def multis(c):
    c.play("all kinds", "multi", zk.multi_body(
        ("create", zk.create_body("/g/m", b"1")), ("setData", zk.set_data_body("/g/m", b"2", 0)),
        ("check", zk.path_version("/g/m", 1)), ("create2", zk.create_body("/g/m2", b"", zk.OPEN, 2)),
        ("createContainer", zk.create_body("/g/mc", None, zk.OPEN, 4)),
        ("createTTL", zk.create_body("/g/mt", None, zk.OPEN, 5, 77777)), ("delete", zk.path_version("/g/m", -1))))
    c.play("failed", "multi", zk.multi_body(
        ("create", zk.create_body("/g/m", b"1")), ("check", zk.path_version("/g", 99)), ("delete", zk.path_version("/g/m2"))))
    c.play("empty", "multi", zk.multi_body())
    c.play("both kinds and a failure", "multiRead", zk.multi_body(
        ("getData", zk.path_watch("/g")), ("getChildren", zk.path_watch("/g")), ("getData", zk.path_watch("/none"))))


def main():
    with servers.start("apache", {"extendedTypesEnabled": "true"}) as server:
        c = Capture(server.address)
        capture(c)
    os.makedirs(DIRECTORY, exist_ok=True)
    for name, lines in sorted(c.files.items()):
        with open(os.path.join(DIRECTORY, name + ".hex"), "w", encoding="utf-8") as f:
            f.write(f"# {name}: captured from ZooKeeper 3.8.0 by net/interop/capture_golden.py, which explains the format.\n")
            f.write("\n".join(lines) + "\n")
    print(f"{len(c.files)} files, {sum(line[0] in '><!' for lines in c.files.values() for line in lines)} frames")


if __name__ == "__main__":
    main()
