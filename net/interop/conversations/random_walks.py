"""Seeded random conversations: what no script thought of. The same seed gives the same requests on every server.

Left out here, since the releases differ on purpose and the scripts cover it: exists without READ, persistent watches
beside one-shot ones, check outside a multi, create2 in a multi. No setACL in a pipeline: Apache judges the requests
behind one that is not yet applied sometimes by the old list.
"""

import random

import zk
from conversation import conversation

NAMES = ["/a", "/b", "/a/x", "/a/y", "/b/z", "/a/x/deep", "/missing", "/a/", "bad"]
ACLS = [zk.OPEN] * 6 + [[], [(zk.READ, "world", "anyone")], [(zk.ALL & ~zk.DELETE, "world", "anyone")],
                        [(zk.ALL, "ip", "127.0.0.1")]]


class Walk:
    """Draws requests; knows nothing of what the server answers but the names it made."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def path(self, client):
        made = client.paths[-12:]
        return self.random.choice(made) if made and self.random.random() < 0.3 else self.random.choice(NAMES)

    def version(self):
        return self.random.choice([-1, -1, -1, -1, 0, 0, 1, 2, 7])

    def data(self):
        return self.random.choice([b"", None, b"1", b"some data", b"\0\xff" * 20])

    def create(self, client):
        path = self.path(client)
        if isinstance(path, bytes):
            path += b"/" + self.random.choice([b"k", b"l", b""])
        flags = self.random.choice([0, 0, 0, 2, 2, 1, 3, 9])
        return zk.create_body(path, self.data(), self.random.choice(ACLS), flags)

    def write(self, client, rights=True):
        kinds = ["create", "create", "create", "create2", "delete", "delete", "setData", "setData"]
        kind = self.random.choice(kinds + ["setACL"] * rights)
        if kind.startswith("create"):
            return kind, self.create(client)
        path = self.path(client)
        if kind == "delete":
            return kind, zk.path_version(path, self.version())
        if kind == "setData":
            return kind, zk.set_data_body(path, self.data(), self.version())
        return kind, zk.set_acl_body(path, self.random.choice(ACLS), self.version())

    def multi(self, client):
        items = []
        for _ in range(self.random.randint(0, 5)):
            op, body = self.write(client)
            if op == "setACL":
                op, body = "check", zk.path_version(self.path(client), self.version())
            if op == "create2":
                op = "create"
            items.append((op, body))
        return "multi", zk.multi_body(*items)

    def read(self, client, watch):
        op = self.random.choice(["getData", "getChildren", "getChildren2", "getACL", "getAllChildrenNumber", "getEphemerals",
                                 "multiRead", "sync"])
        path = self.path(client)
        if op == "multiRead":
            return op, zk.multi_body(("getData", zk.path_watch(path)), ("getChildren", zk.path_watch(self.path(client))))
        if op.startswith("getChildren") or op == "getData":
            return op, zk.path_watch(path, watch and self.random.random() < 0.5)
        return op, zk.buffer(path)


def walk(ctx, seed, rounds):
    draw = Walk(seed)
    writer, watcher = ctx.connect("writer"), ctx.connect("watcher")
    for path in ("/a", "/b", "/a/x"):
        writer.create(path)
    for i in range(rounds):
        if i % 20 == 0:
            ctx.step(f"round-{i}")
        # Few watches at a time, so that it stays clear which change fired which.
        watcher.call(*draw.read(watcher, True))
        chance = draw.random.random()
        if chance < 0.6:
            writer.call(*draw.write(writer))
        elif chance < 0.8:
            writer.call(*draw.multi(writer))
        else:
            writer.call(*draw.read(writer, True))
        watcher.drain()


def pipelined(ctx, seed, rounds):
    draw = Walk(seed)
    c = ctx.connect()
    for path in ("/a", "/b", "/a/x"):
        c.create(path)
    for i in range(rounds):
        ctx.step(f"batch-{i}")
        requests = []
        for _ in range(draw.random.randint(2, 30)):
            chance = draw.random.random()
            requests.append(draw.write(c, rights=False) if chance < 0.4 else draw.multi(c) if chance < 0.5 else draw.read(c, False))
        c.pipeline(*requests)


@conversation("fresh")
def walk_1(ctx):
    walk(ctx, 1, 300)


@conversation("fresh")
def walk_2(ctx):
    walk(ctx, 2, 300)


@conversation("fresh")
def walk_3(ctx):
    walk(ctx, 3, 300)


@conversation("fresh")
def pipelined_1(ctx):
    pipelined(ctx, 11, 30)


@conversation("fresh")
def pipelined_2(ctx):
    pipelined(ctx, 12, 30)
