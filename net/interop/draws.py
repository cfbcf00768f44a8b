"""What the sessions of `alike.py` ask for: requests drawn from a seed, with no knowledge of the answers but the paths made.

Left out: requests that end or stop an Apache ensemble (malformed writes, a TTL node without a TTL, check and createSession
by themselves), null paths and bad flags in a multi, on which no two releases agree. Unless `wide`, also what 3.8.0 does
otherwise than 3.9.5 (`differences.toml` has it): nodes that not everyone may read, persistent watches beside others,
create2 in a multi, types of watches that came later, checkWatches (which a recursive watch of anyone confuses there), and
what 3.8.0 now and then leaves unanswered: sync (ZOOKEEPER-4537), and what stands behind an unknown opcode.
"""

import random

import zk

NAMES = ["/a", "/b", "/a/x", "/a/y", "/b/z", "/a/x/deep", "/c", "/c/k"]
ODD = ["/missing", "/a/", "bad", "/", "/zookeeper", "/zookeeper/config", "/a/./b", "/a//b", "/a/..", "/z\u0001", "/z\ud7ff", "/z\ue000",
       "/a\0b"]
QUOTAS = [b"count=3,bytes=-1", b"count=-1,bytes=30", b"count=5,bytes=-1=;byteHardLimit=-1;countHardLimit=4",
          b"count=-1,bytes=-1=;byteHardLimit=40;countHardLimit=-1", b"count=0,bytes=0"]
QUOTA_NODES = [f"/zookeeper/quota{end}" for end in ("", "/a", "/b")] + [
    f"/zookeeper/quota/{of}/zookeeper_{end}" for of in "ab" for end in ("limits", "limits", "stats")]
ENTRIES = [(31, "world", "anyone"), (31 & ~8, "world", "anyone"), (27, "world", "anyone"), (31, "ip", "127.0.0.1"), (31, "ip", "127.0.0.0/8"),
           (1, "ip", "10.0.0.0/8"), (31, "ip", "bad"), (31, "auth", ""), (17, "auth", "x"), (31, "digest", "ann:bad"),
           (31, "digest", "ann:aHash:2"), (31, "digest", "bob:XVjpuODH33AAgbJQE6dlrSYvAdk="), (3, "sasl", "joe"), (31, "x509", "CN=joe"),
           (31, "foo", "bar"), (0, "world", "anyone"), (31, "world", "some"), (64, "world", "anyone"), (31, "super", ""), (-1, "world", "anyone")]
USERS = [b"ann:1", b"bob:2"]
SCHEMES = ["digest"] * 12 + ["ip", "world", "auth", "sasl", "foo", "x509", "ensemble"]
ONE_SHOT, PERSISTENT, RECURSIVE, MIXED = "one-shot", "persistent", "recursive", "mixed"
READS = (["exists"] * 3 + ["getData"] * 4 + ["getChildren"] * 2 + ["getChildren2"] * 3 + ["getACL"] * 2 + ["multiRead"] * 2 + ["addWatch"] * 2
         + ["checkWatches"] * 2 + ["removeWatches"] * 2 + ["getAllChildrenNumber", "getEphemerals", "whoAmI", "ping"])
MALFORMED = [("ping", b"\1\2"), ("getData", b"\0\0"), ("getData", zk.integer(-5)), ("exists", zk.integer(1 << 30)),
             ("getChildren", zk.integer(-1) + b"\0")]
UNKNOWN = [(99, b""), (-12, b"abc"), (0, b"")]
RECONFIGS = [zk.reconfig_body(), zk.reconfig_body(leaving="9"), zk.reconfig_body(leaving="x"), zk.reconfig_body(joining="bad"),
             zk.reconfig_body(members="server.1=bad"), zk.reconfig_body(members=""), zk.reconfig_body(leaving="1,2,3"),
             zk.reconfig_body(leaving="3", config_id=5), zk.reconfig_body(joining="server.9=127.0.0.1:1:2:participant")]


class Draw:
    """Draws requests; `kind_of(session)` says which watches it may have."""

    def __init__(self, seed, wide):
        self.random, self.wide = random.Random(seed), wide
        self.made = []

    def choice(self, of):
        return self.random.choice(of)

    def chance(self, part):
        return self.random.random() < part

    def kind_of(self, session):
        return MIXED if self.wide else [ONE_SHOT, PERSISTENT, RECURSIVE][session % 3]

    # ---- parts of requests

    def path(self, odd=0.06):
        if self.chance(odd):
            return self.choice(ODD)
        if self.made and self.chance(0.3):
            return self.choice(self.made[-16:])
        return self.choice(NAMES)

    def below(self, path):
        tail = "/" + self.choice(["k", "l", "m", ""])
        return path + (tail.encode() if isinstance(path, bytes) else tail)

    def paths(self):
        return [self.path(0.02) for _ in range(self.choice([0, 0, 1, 2, 3]))]

    def version(self):
        return self.choice([-1, -1, -1, -1, 0, 0, 1, 2, 7, -2])

    def data(self):
        if self.chance(0.01):
            return b"x" * self.choice([70000, 300000, 1000000, 1048400, 1048575, 1100000])
        return self.choice([b"", None, b"1", b"some data", b"\0\xff" * 20])

    def acl(self):
        if self.chance(0.6):
            return zk.OPEN
        entries = [self.choice(ENTRIES) for _ in range(self.choice([0, 1, 1, 1, 1, 2, 3]))]
        return entries if self.wide or not entries else entries + [(zk.READ, "world", "anyone")]

    # ---- requests, as (op, body)

    def create(self, in_multi):
        op = self.choice(["create"] * 5 + ["create2"] * 2 + ["createContainer", "createTTL"])
        if op == "create2" and in_multi and not self.wide:
            op = "create"
        flags, ttl = self.choice([0, 0, 0, 0, 1, 1, 2, 3]), None
        if op == "createContainer":
            flags = 4
        elif op == "createTTL":
            flags, ttl = self.choice([5, 6]), self.choice([10**7, 10**9, (1 << 40) - 1, 1 << 40, 0, -1])
        elif not in_multi and self.chance(0.03):
            flags = self.choice([4, 5, 6, 7, -1, 9])
        if self.chance(0.06):
            return "create", zk.create_body(self.choice(QUOTA_NODES), self.choice(QUOTAS), zk.OPEN, flags & 1)
        path = self.path()
        if self.chance(0.4):
            path = self.below(path)
        return op, zk.create_body(path, self.data(), self.acl(), flags, ttl)

    def write(self, in_multi=False):
        kind = self.choice(["create"] * 6 + ["delete"] * 4 + ["setData"] * 4 + ["check" if in_multi else "setACL"])
        if kind == "create":
            return self.create(in_multi)
        if kind == "setData":
            if self.chance(0.05):
                return kind, zk.set_data_body(f"/zookeeper/quota/{self.choice('ab')}/zookeeper_limits", self.choice(QUOTAS), self.version())
            return kind, zk.set_data_body(self.path(), self.data(), self.version())
        if kind == "setACL":
            return kind, zk.set_acl_body(self.path(), self.acl(), self.version())
        return kind, zk.path_version(self.path(), self.version())

    def multi(self):
        return "multi", zk.multi_body(*(self.write(True) for _ in range(self.choice([0, 1, 1, 2, 2, 3, 3, 4, 6]))))

    def read(self, kind):
        op = self.choice(READS + ["sync"] * self.wide)
        path = self.path()
        if op in ("whoAmI", "ping"):
            return op, b""
        if op == "multiRead":
            items = [(self.choice(["getData", "getChildren"]), zk.path_watch(self.path(), self.chance(0.3))) for _ in range(self.random.randint(0, 4))]
            return op, zk.multi_body(*items)
        if op in ("exists", "getData", "getChildren", "getChildren2"):
            if self.chance(0.04):
                path = self.choice(["/zookeeper/quota/a/zookeeper_stats", "/zookeeper/quota/b/zookeeper_stats", "/zookeeper/config"])
            return op, zk.path_watch(path, kind in (ONE_SHOT, MIXED) and self.chance(0.6))
        if op == "addWatch":
            modes = {ONE_SHOT: [2], PERSISTENT: [0, 0, 2], RECURSIVE: [1, 1, 2], MIXED: [0, 0, 1, 1, 1, 2]}[kind]
            return op, zk.buffer(path) + zk.integer(self.choice(modes))
        if op in ("checkWatches", "removeWatches"):
            types = [1, 2, 3, 3, 4, 5, 6] if kind == MIXED else [1, 2, 3, 6] if kind == ONE_SHOT and op == "removeWatches" else [6]
            return op, zk.buffer(path) + zk.integer(self.choice(types))
        return op, zk.buffer(self.choice(["", "/", "/a", None, "/a/x", " "]) if op == "getEphemerals" else path)

    def watches(self, kind):
        """Lists for setWatches or setWatches2, and how many transactions ago the client last heard."""
        lists = {}
        if kind in (ONE_SHOT, MIXED):
            lists = {"data": self.paths(), "exist": self.paths(), "child": self.paths()}
        if kind in (PERSISTENT, RECURSIVE) or (kind == MIXED and self.chance(0.6)):
            lists["persistent"] = self.paths() if kind != RECURSIVE else []
            lists["recursive"] = self.paths() if kind != PERSISTENT else []
        return lists, self.choice([0, 0, 0, 1, 3, 8])

    def pipeline(self, kind):
        """No setACL: Apache judges what stands behind one that is not yet applied sometimes by the old list."""
        asked = []
        for _ in range(self.random.randint(2, 12)):
            op, body = self.write() if self.chance(0.45) else self.multi() if self.chance(0.2) else self.read(kind)
            if op not in ("setACL", "ping") and len(body) < 50000:
                asked.append((op, body))
        return asked

    def auth(self):
        """(scheme, what it proves)."""
        odd = self.chance(0.3)
        return self.choice(SCHEMES), self.choice(USERS + [b"super:test", b"nocolon", b""] if odd else USERS)

    def odd(self):
        return self.choice(MALFORMED + (UNKNOWN if self.wide else []))

    def stale(self):
        """Unless `wide` nothing that spends a zxid, for nobody is told when that is over."""
        reads = [("getData", zk.path_watch("/a", True)), ("exists", zk.path_watch("/b")), ("ping", b""), ("getEphemerals", zk.buffer("/"))]
        more = [("setData", zk.set_data_body("/a", b"stale")), ("sync", zk.buffer("/")),
                ("create", zk.create_body("/stale", b"", zk.OPEN, zk.EPHEMERAL))]
        return self.choice(reads + more * self.wide)
