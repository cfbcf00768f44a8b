"""multi and multiRead (fact sheet 3.9)."""

import zk
from conversation import conversation


def create(path, data=b"", flags=0, acl=zk.OPEN):
    return ("create", zk.create_body(path, data, acl, flags))


def delete(path, version=-1):
    return ("delete", zk.path_version(path, version))


def put(path, data=b"", version=-1):
    return ("setData", zk.set_data_body(path, data, version))


def check(path, version=-1):
    return ("check", zk.path_version(path, version))


@conversation()
def every_kind(ctx):
    c = ctx.connect()
    c.create("/p", b"0")
    ctx.step("one-of-each")
    c.multi(create("/p/a", b"1"), ("create2", zk.create_body("/p/b", b"2")), put("/p", b"1"), check("/p", 1),
            delete("/p/a", 0), create("/p/e", flags=1), create("/p/s-", flags=2), create("/p/es-", flags=3))
    c.children2("/p")
    ctx.step("create2")
    c.multi(("create2", zk.create_body("/p/c2", b"xyz")))
    ctx.step("create2-sequential")
    c.multi(("create2", zk.create_body("/p/c2-", b"xyz", flags=2)))
    ctx.step("create2-ephemeral")
    c.multi(("create2", zk.create_body("/p/c2e", b"xyz", flags=1)))
    ctx.step("container")
    c.multi(("createContainer", zk.create_body("/p/k", b"xyz", flags=4)))
    ctx.step("container-by-create")
    c.multi(create("/p/k1", flags=4))
    ctx.step("container-op-with-plain-flags")
    c.multi(("createContainer", zk.create_body("/p/k2", b"xyz", flags=0)))
    ctx.step("create2-container")
    c.multi(("create2", zk.create_body("/p/k3", b"xyz", flags=4)))
    ctx.step("what-they-are")
    for name in ("b", "c2", "k", "k1", "k2", "k3"):
        c.get("/p/" + name)
    ctx.step("empty")
    c.multi()
    ctx.step("only-checks")
    c.multi(check("/p"), check("/p", 1), check("/"))


@conversation()
def one_zxid(ctx):
    c = ctx.connect()
    c.multi(create("/a"), create("/a/b"), put("/a", b"1"), create("/a/c"), delete("/a/b"))
    ctx.step("all-effects-share-it")
    c.get("/a")
    c.get("/a/c")


@conversation()
def later_items_see_earlier_ones(ctx):
    c = ctx.connect()
    ctx.step("create-then-use")
    c.multi(create("/a", b"0"), check("/a", 0), put("/a", b"1", 0), check("/a", 1), create("/a/b"))
    ctx.step("create-and-delete")
    c.multi(create("/t"), create("/t/x"), delete("/t/x"), delete("/t"))
    c.exists("/t")
    ctx.step("delete-and-create-again")
    c.multi(delete("/a/b"), delete("/a"), create("/a", b"new"))
    c.get("/a")
    ctx.step("create-twice")
    c.multi(create("/twice"), create("/twice"))
    ctx.step("delete-with-children-made-here")
    c.multi(create("/a/k"), delete("/a"))
    ctx.step("set-twice")
    c.multi(put("/a", b"1", 0), put("/a", b"2", 1), put("/a", b"3", 1))
    c.get("/a")
    ctx.step("sequence-goes-on")
    c.multi(create("/a/s-", flags=2), create("/a/s-", flags=2), delete("/a/s-0000000000"), create("/a/s-", flags=2))
    c.exists("/a")
    ctx.step("ephemeral-parent-made-here")
    c.multi(create("/eph", flags=1), create("/eph/x"))


@conversation()
def failures(ctx):
    c = ctx.connect()
    c.create("/p", b"0")
    bad = {
        "no-node": delete("/none"), "bad-version": put("/p", b"", 9), "exists": create("/p"), "check": check("/p", 9),
        "check-missing": check("/none"), "bad-path": create("bad"), "bad-acl": create("/x", acl=[]),
        "bad-flags": create("/x", flags=77), "not-empty": delete("/zookeeper/quota/.."), "reserved": delete("/zookeeper"),
        "no-parent": create("/none/x"),
    }
    for name, item in bad.items():
        ctx.step(name + "-first")
        c.multi(item, create("/after"), check("/none"))
        ctx.step(name + "-in-the-middle")
        c.multi(create("/before"), put("/p", b"1"), item, create("/after"), check("/none"))
        ctx.step(name + "-last")
        c.multi(create("/before"), item)
    ctx.step("nothing-was-applied")
    c.get("/p")
    c.exists("/before")
    c.exists("/after")


@conversation()
def forbidden_items(ctx):
    c = ctx.connect()
    c.create("/p")
    for name, items in (
        ("read-in-a-multi", [("getData", zk.path_watch("/p"))]),
        ("children-in-a-multi", [("getChildren", zk.path_watch("/p"))]),
        ("write-and-read", [create("/x"), ("getData", zk.path_watch("/p"))]),
        ("read-and-write", [("getData", zk.path_watch("/p")), create("/x")]),
        ("exists", [("exists", zk.path_watch("/p"))]),
        ("set-acl", [("setACL", zk.set_acl_body("/p", zk.OPEN))]),
        ("sync", [("sync", zk.buffer("/p"))]),
        ("nested", [("multi", zk.multi_body(create("/x")))]),
        ("unknown", [("exists", b"")]),
    ):
        ctx.step("multi-" + name)
        if not c.multi(*items):
            c = ctx.connect()
        ctx.step("multiread-" + name)
        if not c.multi_read(*items):
            c = ctx.connect()
    ctx.step("nothing-was-made")
    c.exists("/x")
    ctx.step("write-in-a-multiread")
    if not c.multi_read(create("/x")):
        c = ctx.connect()
    c.exists("/x")
    ctx.step("check-in-a-multiread")
    if not c.multi_read(check("/p")):
        c = ctx.connect()
    c.drain()


@conversation()
def malformed(ctx):
    c = ctx.connect()
    one = zk.multi_header(1) + zk.create_body("/x")
    for name, body in (
        ("no-body", b""), ("no-end", one), ("half-a-header", one + zk.MULTI_END[:5]), ("half-an-item", one[:20]),
        ("trailing-bytes", one.replace(b"/x", b"/y") + zk.MULTI_END + b"more"),
        ("end-with-another-type", one.replace(b"/x", b"/z") + zk.multi_header(5, True, 0)),
        ("items-header-says-an-error", zk.multi_header(1, False, 0) + zk.create_body("/w") + zk.MULTI_END),
        ("op-minus-1-but-not-done", zk.multi_header(-1) + zk.MULTI_END),
        ("op-0", zk.multi_header(0) + zk.MULTI_END),
        ("op-99", zk.multi_header(99) + zk.MULTI_END),
    ):
        ctx.step(name)
        if not c.call("multi", body):
            c = ctx.connect()
        ctx.step("read-" + name)
        if not c.call("multiRead", body):
            c = ctx.connect()
    ctx.step("what-was-made")
    for path in ("/x", "/y", "/z", "/w"):
        c.exists(path)


@conversation()
def reading_many(ctx):
    c = ctx.connect()
    c.create("/p", b"parent")
    c.create("/p/a", b"1")
    c.create("/p/b")
    c.create("/dark", acl=[(zk.WRITE, "world", "anyone")])
    ctx.step("all-kinds")
    c.multi_read(("getData", zk.path_watch("/p")), ("getChildren", zk.path_watch("/p")),
                 ("getData", zk.path_watch("/none")), ("getChildren", zk.path_watch("/none")),
                 ("getData", zk.path_watch("/dark")), ("getData", zk.path_watch("/p/a")))
    ctx.step("empty")
    c.multi_read()
    ctx.step("watch-flags-are-ignored")
    c.multi_read(("getData", zk.path_watch("/p", True)), ("getChildren", zk.path_watch("/p", True)))
    c.set("/p", b"2")
    c.create("/p/c")
    c.drain()


@conversation()
def large(ctx):
    c = ctx.connect()
    ctx.step("create-500")
    items = [create("/m")] + [create(f"/m/{i:03}", b"x" * 100) for i in range(500)]
    c.conn.send_frame(zk.request(1, "multi", zk.multi_body(*items)))
    payload = c.conn.read_frame()
    r = zk.Reader(payload[16:])
    for item in items:
        r.integer(), r.boolean(), r.integer()
        r.buffer()
    ctx.note(f"{len(payload)} bytes, end {r.rest().hex()}")
    c.exists("/m")
    ctx.step("last-one-fails")
    c.conn.send_frame(zk.request(2, "multi", zk.multi_body(*[delete(f"/m/{i:03}") for i in range(500)], check("/m", 5))))
    payload = c.conn.read_frame()
    ctx.note(f"{len(payload)} bytes, first {payload[16:29].hex()} last {payload[-22:].hex()}")
    c.exists("/m")


@conversation()
def interleaved_with_single_writes(ctx):
    c = ctx.connect()
    c.pipeline(("create", zk.create_body("/a")), ("multi", zk.multi_body(create("/a/b"), put("/a", b"1", 0))),
               ("setData", zk.set_data_body("/a", b"2", 1)), ("getData", zk.path_watch("/a")),
               ("multi", zk.multi_body(delete("/a/b"), delete("/none"))), ("delete", zk.path_version("/a")),
               ("multi", zk.multi_body(delete("/a/b"), delete("/a"))), ("exists", zk.path_watch("/a")))
