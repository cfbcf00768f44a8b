"""Sessions that end by themselves, and what a restart keeps (fact sheet 3.3)."""

import time

import zk
from conversation import conversation


@conversation("fast")
def an_idle_session_expires(ctx):
    w = ctx.connect("w", timeout_ms=2000)
    c = ctx.connect("c", timeout_ms=200)
    c.create("/e", flags=zk.EPHEMERAL)
    w.exists("/e", True)
    ctx.step("its-connection-is-closed")
    c.expect_close()
    ctx.step("its-ephemerals-are-gone")
    w.drain()
    w.exists("/e")
    ctx.step("it-cannot-be-renewed")
    d = ctx.open("d")
    d.connect(session=c.session, password=c.password)
    d.expect_close()
    ctx.step("its-end-took-one-zxid")
    w.drain()


@conversation("fast")
def pings_keep_a_session(ctx):
    c = ctx.connect("c", timeout_ms=400)
    c.create("/e", flags=zk.EPHEMERAL)
    idle = ctx.connect("idle", timeout_ms=400)
    idle.create("/i", flags=zk.EPHEMERAL)
    ctx.step("pinged-one-outlives-the-idle-one")

    def idle_gone():
        c.conn.send_frame(zk.request(zk.XID_PING, "ping"))
        assert c.conn.read_frame() is not None, "the pinged session was closed"
        c.conn.send_frame(zk.request(5, "exists", zk.path_watch("/i")))
        return zk.Reader(c.conn.read_frame()[12:]).integer() == -101
    ctx.wait_for("the idle session's end", idle_gone)
    c.exists("/e")
    c.exists("/i")


@conversation("fast")
def a_lost_connection_expires_too(ctx):
    w = ctx.connect("w", timeout_ms=2000)
    c = ctx.connect("c", timeout_ms=300)
    w.create("/p")
    c.create("/p/e1", flags=zk.EPHEMERAL)
    c.create("/p/e2", flags=zk.EPHEMERAL)
    w.children("/p", True)
    c.drop()
    ctx.step("both-ephemerals-go-in-one-transaction")
    ctx.wait_for_event(w)
    w.children2("/p")


@conversation("fast")
def renewal_before_expiry(ctx):
    c = ctx.connect("c", timeout_ms=1000)
    c.create("/e", flags=zk.EPHEMERAL)
    for i in range(3):
        ctx.step(f"renewal-{i}")
        c.drop()
        time.sleep(0.3)  # well below the timeout; three times this is near it
        c = ctx.connect(f"c{i}", session=c.session, password=c.password, timeout_ms=1000)
        c.exists("/e")


@conversation("fast")
def expiry_is_not_early(ctx):
    c = ctx.connect("c", timeout_ms=1000)
    started = time.monotonic()
    c.expect_close()
    took = time.monotonic() - started
    ctx.step("not-before-its-time")
    ctx.note(f"early: {took < 0.95}")


@conversation("restart")
def a_restart_keeps_everything(ctx):
    c = ctx.connect("c", timeout_ms=30000)
    c.auth("digest", b"alice:secret")
    c.create("/p", b"data")
    c.create("/p/a", b"1")
    c.set("/p/a", b"2")
    c.create("/p/closed", b"3", acl=[(31, "auth", ""), (1, "ip", "10.0.0.1")])
    c.create("/p/e", b"4", flags=zk.EPHEMERAL)
    c.create("/p/s-", None, flags=zk.SEQUENTIAL)
    c.delete("/p/s-0000000003")
    c.create("/p/k", flags=4, op="createContainer")
    c.set_acl("/p/a", [(31, "world", "anyone"), (1, "ip", "10.0.0.1")])
    c.create("/p/a", b"a failed one takes a zxid too")
    for how in ("stop", "kill"):
        ctx.step(how)
        getattr(ctx.server, how)()
        ctx.server.start()
        c = ctx.connect(how, session=c.session, password=c.password, timeout_ms=30000, last_zxid=c.last_zxid)
        ctx.step(how + "-data")
        c.drain()
        c.get("/p")
        c.get("/p/a")
        c.get("/p/e")
        c.get("/p/closed")
        c.exists("/p/s-0000000003")
        c.children2("/p")
        c.auth("digest", b"alice:secret")
        c.get_acl("/p/closed")
        c.get_acl("/p/a")
        c.call("getEphemerals", zk.buffer("/"))
        ctx.step(how + "-goes-on")
        c.create("/p/s-", flags=zk.SEQUENTIAL)
        c.set("/p/a", b"after " + how.encode(), -1)
        c.create("/p/after-" + how)
    ctx.step("a-session-closed-before-stays-closed")
    d = ctx.connect("d", timeout_ms=30000)
    d.create("/p/d", flags=zk.EPHEMERAL)
    d.close_session()
    ctx.server.kill()
    ctx.server.start()
    e = ctx.open("e")
    e.connect(session=d.session, password=d.password)
    e.expect_close()
    f = ctx.connect("f", session=c.session, password=c.password)
    f.exists("/p/d")
    f.exists("/p/e")
    ctx.step("new-session-ids-are-new")
    g = ctx.connect("g")
    ctx.note(f"larger: {g.session > d.session}")
