"""TTL and container nodes, their reaping, and quotas that bite (fact sheet 3.7, 3.13)."""

import zk
from conversation import conversation

TTL, TTL_SEQUENTIAL = 5, 6
LONG_MS = 10**6


def wait_gone(ctx, client, path):
    """Polls without writing anything down, then notes that the node is gone."""
    def gone():
        client.conn.send_frame(zk.request(9999, "exists", zk.path_watch(path)))
        while True:
            payload = client.conn.read_frame()
            r = zk.Reader(payload)
            if r.integer() == 9999:
                r.long()
                return r.integer() == -101
            raise AssertionError("an event came while only the end of a node was awaited")
    ctx.wait_for(f"the end of {path}", gone, 15)
    ctx.note(f"{path} is gone")


@conversation("extended")
def ttl_arguments(ctx):
    c = ctx.connect()
    for flags, ttl in ((5, 0), (5, -1), (5, 1099511627775), (5, 1099511627776), (5, 2**63 - 1), (5, -2**63),
                       (6, LONG_MS), (0, LONG_MS), (0, 0), (1, LONG_MS), (2, LONG_MS), (4, LONG_MS), (7, LONG_MS)):
        # (0, -1) is left out: a createTTL without a TTL ends the process of a 3.8.0 server.
        ctx.step(f"flags-{flags}-ttl-{ttl}")
        c.create(f"/t{len(ctx.steps)}-", b"d", flags=flags, op="createTTL", ttl=ttl)
    for op in ("create", "create2", "createContainer"):
        for flags in (5, 6):
            ctx.step(f"{op}-{flags}")
            c.create(f"/{op}{flags}", b"d", flags=flags, op=op)
    ctx.step("owner-is-not-shown")
    c.create("/long", b"d", flags=5, op="createTTL", ttl=LONG_MS)
    c.get("/long")
    ctx.step("children-and-ephemerals-below")
    c.create("/long/x")
    c.create("/long/e", flags=zk.EPHEMERAL)
    c.children2("/long")
    ctx.step("not-an-ephemeral")
    c.call("getEphemerals", zk.buffer("/"))
    # Last, since a node of 1 ms may be reaped, and take a zxid, at any moment.
    ctx.step("shortest")
    c.create("/short", b"d", flags=5, op="createTTL", ttl=1)


@conversation("extended")
def ttl_in_multis(ctx):
    c = ctx.connect()
    for name, op, body in (
        ("ttl", "createTTL", zk.create_body("/a", b"1", flags=5, ttl=LONG_MS)),
        ("ttl-sequential", "createTTL", zk.create_body("/a-", b"1", flags=6, ttl=LONG_MS)),
        ("ttl-zero", "createTTL", zk.create_body("/b", b"1", flags=5, ttl=0)),
        ("plain-flags", "createTTL", zk.create_body("/c", b"1", flags=0, ttl=LONG_MS)),
        ("plain-op", "create", zk.create_body("/d", b"1", flags=5)),
    ):
        ctx.step(name)
        c.multi((op, body))


@conversation("extended")
def ttl_reaping(ctx):
    c, w = ctx.connect("c"), ctx.connect("w")
    c.create("/p")
    w.children("/p", True)
    ctx.step("an-idle-node-goes")
    c.create("/p/t", flags=TTL, op="createTTL", ttl=300)
    w.drain()
    wait_gone(ctx, c, "/p/t")
    ctx.step("one-with-children-stays")
    c.create("/p/u", flags=TTL, op="createTTL", ttl=200)
    c.create("/p/u/x")
    c.create("/p/v", flags=TTL, op="createTTL", ttl=300)
    wait_gone(ctx, c, "/p/v")
    c.exists("/p/u")
    ctx.step("until-they-are-gone")
    c.delete("/p/u/x")
    wait_gone(ctx, c, "/p/u")
    ctx.step("reaping-fires-watches-and-takes-a-zxid")
    c.create("/p/w", flags=TTL, op="createTTL", ttl=500)
    w.exists("/p/w", True)
    ctx.wait_for_event(w)


@conversation("extended")
def container_reaping(ctx):
    c, w = ctx.connect("c"), ctx.connect("w")
    ctx.step("never-used-stays")
    c.create("/unused", flags=4, op="createContainer")
    ctx.step("used-and-emptied-goes")
    c.create("/k", b"d", flags=4, op="createContainer")
    c.create("/k/x")
    c.get("/k")
    w.exists("/k", True)
    c.delete("/k/x")
    ctx.wait_for_event(w)
    ctx.step("unused-is-still-there")
    c.exists("/unused")
    ctx.step("create-with-container-flag-is-plain")
    c.create("/plain", flags=4)
    c.create("/plain/x")
    c.delete("/plain/x")
    c.create("/k2", flags=4, op="createContainer")
    c.create("/k2/x")
    c.delete("/k2/x")
    wait_gone(ctx, c, "/k2")
    c.exists("/plain")
    ctx.step("ephemerals-in-a-container")
    c.create("/k3", flags=4, op="createContainer")
    d = ctx.connect("d")
    d.create("/k3/e", flags=zk.EPHEMERAL)
    d.close_session()
    wait_gone(ctx, c, "/k3")


@conversation("extended")
def ttl_is_refreshed_by_set(ctx):
    c = ctx.connect()
    c.create("/long", flags=TTL, op="createTTL", ttl=1500)
    c.create("/short", flags=TTL, op="createTTL", ttl=1500)
    ctx.step("kept-alive-while-the-other-goes")

    def short_gone():
        for path in ("/long", "/short"):
            op, body = ("setData", zk.set_data_body(path, b"")) if path == "/long" else ("exists", zk.path_watch(path))
            c.conn.send_frame(zk.request(7, op, body))
            err = zk.Reader(c.conn.read_frame()[12:]).integer()
            if path == "/long" and err:
                raise AssertionError("the refreshed node is gone")
        return err == -101
    ctx.wait_for("the end of /short", short_gone, 15)
    ctx.note("/short is gone, /long is not")


def limits(path, text):
    return f"/zookeeper/quota{path}/zookeeper_limits", text


def with_quota(c, path, text):
    """Sets a quota as the command line tools do: the path below /zookeeper/quota, limits, then stats."""
    at = "/zookeeper/quota"
    for part in path.strip("/").split("/"):
        at += "/" + part
        c.create(at)
    c.create(at + "/zookeeper_limits", text)
    c.create(at + "/zookeeper_stats", b"count=0,bytes=0")


def show_stats(c, path):
    c.get(f"/zookeeper/quota{path}/zookeeper_stats")


@conversation("extended")
def quota_statistics(ctx):
    c = ctx.connect()
    c.create("/q", b"12345")
    c.create("/q/a", b"123")
    ctx.step("stats-start-with-what-is-there")
    with_quota(c, "/q", b"count=-1,bytes=-1")
    show_stats(c, "/q")
    ctx.step("create-counts")
    c.create("/q/b", b"1234567")
    show_stats(c, "/q")
    c.create("/q/b/c", None)
    show_stats(c, "/q")
    ctx.step("set-counts")
    c.set("/q/b", b"1")
    show_stats(c, "/q")
    c.set("/q", b"")
    show_stats(c, "/q")
    c.set("/q", None)
    show_stats(c, "/q")
    ctx.step("delete-counts")
    c.delete("/q/b/c")
    show_stats(c, "/q")
    ctx.step("multi-counts")
    c.multi(("create", zk.create_body("/q/m", b"12")), ("setData", zk.set_data_body("/q/m", b"1")))
    show_stats(c, "/q")
    ctx.step("outside-does-not")
    c.create("/qq", b"123")
    show_stats(c, "/q")
    ctx.step("stats-keep-their-zxid-and-version")
    c.exists("/zookeeper/quota/q/zookeeper_stats")
    ctx.step("no-watch-fires")
    c.get("/zookeeper/quota/q/zookeeper_stats", True)
    c.create("/q/x", b"1")
    c.drain()


@conversation("extended")
def hard_quota_on_count(ctx):
    c = ctx.connect()
    c.create("/q")
    with_quota(c, "/q", b"count=-1,bytes=-1=;byteHardLimit=-1;countHardLimit=3")
    ctx.step("up-to-the-limit")
    for name in "abcd":
        c.create("/q/" + name)
    ctx.step("set-is-free")
    c.set("/q/a", b"x" * 1000)
    ctx.step("delete-makes-room")
    c.delete("/q/a")
    c.create("/q/c")
    ctx.step("in-a-multi")
    c.multi(("create", zk.create_body("/q/m")))
    c.multi(("delete", zk.path_version("/q/c")), ("create", zk.create_body("/q/m")))
    ctx.step("ephemerals-sequentials-and-containers-count")
    c.create("/q/e", flags=zk.EPHEMERAL)
    c.create("/q/s-", flags=zk.SEQUENTIAL)
    c.create("/q/k", flags=4, op="createContainer")


@conversation("extended")
def hard_quota_on_bytes(ctx):
    c = ctx.connect()
    c.create("/q", b"1234")
    with_quota(c, "/q", b"count=-1,bytes=-1=;byteHardLimit=10;countHardLimit=-1")
    ctx.step("create")
    c.create("/q/a", b"123456")
    c.create("/q/b", b"1")
    c.create("/q/b", b"")
    c.create("/q/c", None)
    ctx.step("set")
    c.set("/q/a", b"1234567")
    c.set("/q/a", b"12")
    c.set("/q/b", b"1234")
    c.set("/q/b", b"12345")
    show_stats(c, "/q")
    ctx.step("quota-before-version")
    c.set("/q/b", b"1" * 100, 99)
    c.create("/q/b", b"1" * 100)
    ctx.step("beyond-the-limit-already")
    c.set("/zookeeper/quota/q/zookeeper_limits", b"count=-1,bytes=-1=;byteHardLimit=3;countHardLimit=2")
    c.set("/q/b", b"4321")
    c.set("/q/b", b"1")
    c.set("/q/b", b"12345")
    c.create("/q/d")
    c.set("/zookeeper/quota/q/zookeeper_limits", b"count=-1,bytes=-1=;byteHardLimit=3;countHardLimit=-1")
    c.create("/q/d")
    c.create("/q/lock-", b"", flags=zk.EPHEMERAL | zk.SEQUENTIAL)
    c.create("/q/lock-", b"1", flags=zk.EPHEMERAL | zk.SEQUENTIAL)
    show_stats(c, "/q")


@conversation("extended")
def soft_quota_does_not_bite(ctx):
    c = ctx.connect()
    c.create("/q")
    with_quota(c, "/q", b"count=2,bytes=5")
    ctx.step("beyond-both")
    for name in "abc":
        c.create("/q/" + name, b"123456")
    show_stats(c, "/q")
    c.get("/zookeeper/quota/q/zookeeper_limits")
    ctx.step("becomes-hard-when-the-limits-node-says-so")
    c.set("/zookeeper/quota/q/zookeeper_limits", b"count=2,bytes=5=;byteHardLimit=5;countHardLimit=2")
    c.create("/q/d")
    c.set("/q/a", b"1")
    ctx.step("gone-with-the-limits-node")
    c.delete("/zookeeper/quota/q/zookeeper_stats")
    c.delete("/zookeeper/quota/q/zookeeper_limits")
    c.create("/q/d")


@conversation("base")
def hard_quota_without_enforcement(ctx):
    c = ctx.connect()
    c.create("/q")
    with_quota(c, "/q", b"count=1,bytes=1=;byteHardLimit=1;countHardLimit=1")
    ctx.step("nothing-is-refused")
    c.create("/q/a", b"12345")
    c.set("/q/a", b"123456789")
    show_stats(c, "/q")
