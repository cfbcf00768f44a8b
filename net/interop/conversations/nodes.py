"""One node at a time: create, delete, exists, getData, setData, children, their errors and Stats (3.4 - 3.7, 3.11)."""

import zk
from conversation import conversation


@conversation("fresh")
def an_empty_server(ctx):
    c = ctx.connect()
    for path in ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
        ctx.step("what-is-there" + path.replace("/", "-"))
        c.get(path)
        c.exists(path)
        c.get_acl(path)
        c.children2(path)
        c.call("getAllChildrenNumber", zk.buffer(path))
    ctx.step("root-counts")
    c.create("/a")
    c.exists("/")
    c.create("/a/b")
    c.exists("/")
    c.call("getAllChildrenNumber", zk.buffer("/"))
    c.delete("/a/b")
    c.delete("/a")
    c.exists("/")
    ctx.step("root-data-and-acl")
    c.set("/", b"root")
    c.get("/")
    c.set_acl("/", [(31, "world", "anyone"), (1, "digest", "u:x")])
    c.exists("/")
    c.set("/zookeeper", b"z")
    c.get("/zookeeper")
    ctx.step("config-is-read-only")
    c.set("/zookeeper/config", b"z")
    c.create("/zookeeper/config/x")
    c.delete("/zookeeper/config")


@conversation()
def create_and_read_back(ctx):
    c = ctx.connect()
    ctx.step("create")
    c.create("/a", b"hello")
    c.get("/a")
    c.exists("/a")
    c.children("/a")
    c.children2("/a")
    c.get_acl("/a")
    ctx.step("create2")
    c.create("/b", b"\0\1\2", op="create2")
    ctx.step("null-data")
    c.create("/null", None, op="create2")
    c.get("/null")
    ctx.step("empty-data")
    c.create("/empty", b"", op="create2")
    c.get("/empty")
    ctx.step("exists-again")
    c.create("/a", b"other")
    c.create("/a", b"other", op="create2")
    c.get("/a")
    ctx.step("no-parent")
    c.create("/none/x")
    c.create("/none/x", op="create2")
    ctx.step("a-child-shows-in-the-parent")
    c.create("/a/x")
    c.create("/a/y")
    c.exists("/a")
    c.children2("/a")
    c.delete("/a/x")
    c.exists("/a")
    ctx.step("grandchildren-do-not")
    c.create("/a/y/z")
    c.exists("/a")
    c.exists("/a/y")


@conversation()
def create_flags(ctx):
    c = ctx.connect()
    c.create("/p")
    for op in ("create", "create2", "createContainer"):
        for flags in (0, 1, 2, 3, 4, 5, 6, 7, -1, 100, 2**31 - 1):
            ctx.step(f"{op}-{flags}")
            # A refused createContainer closes nothing; one that works is an ordinary node to these reads.
            c.create(f"/p/{op}{flags}-", b"d", flags=flags, op=op)
    ctx.step("what-came-of-it")
    for path in c.paths:
        c.get(path)
    c.exists("/p")


@conversation()
def extended_types_are_off(ctx):
    c = ctx.connect()
    for flags, ttl in ((5, 1000), (6, 1000), (5, 0), (0, 1000), (4, 1000), (9, 1000)):
        ctx.step(f"createTTL-{flags}-{ttl}")
        c.create("/t", flags=flags, op="createTTL", ttl=ttl)
        c.exists("/t")
    ctx.step("in-a-multi")
    c.multi(("createTTL", zk.create_body("/t", flags=5, ttl=1000)))
    c.multi(("create", zk.create_body("/x")), ("createTTL", zk.create_body("/t", flags=5, ttl=1000)))
    c.exists("/x")


@conversation()
def ephemerals(ctx):
    c, d = ctx.connect("c"), ctx.connect("d")
    c.create("/e", b"1", flags=zk.EPHEMERAL, op="create2")
    ctx.step("no-children")
    c.create("/e/x")
    c.create("/e/x", flags=zk.EPHEMERAL)
    c.create("/e/x-", flags=zk.SEQUENTIAL)
    ctx.step("others-may-write-and-delete")
    d.set("/e", b"2")
    d.delete("/e")
    c.exists("/e")
    ctx.step("listing")
    c.create("/p")
    for path in ("/p/a", "/p/b", "/pp", "/q"):
        c.create(path, flags=zk.EPHEMERAL)
    d.create("/d", flags=zk.EPHEMERAL)
    for prefix in (None, "", " ", "/", "/p", "/p/", "/p/a", "/p/aa", "/none", "p", "//"):
        c.call("getEphemerals", zk.buffer(prefix))
    d.call("getEphemerals", zk.buffer("/"))
    ctx.step("deleted-ones-are-not-listed")
    c.delete("/q")
    c.call("getEphemerals", zk.buffer("/"))
    ctx.step("close-removes-them")
    c.close_session()
    d.children2("/p")
    d.exists("/pp")
    d.exists("/d")


@conversation()
def sequences(ctx):
    c = ctx.connect()
    c.create("/s")
    ctx.step("shared-by-all-names")
    for name in ("a-", "b-", "", "a-"):
        c.create("/s/" + name, flags=zk.SEQUENTIAL)
    c.create("/s/e-", flags=zk.EPHEMERAL | zk.SEQUENTIAL, op="create2")
    ctx.step("plain-creates-count-too")
    c.create("/s/plain")
    c.create("/s/a-", flags=zk.SEQUENTIAL)
    ctx.step("deletes-do-not-lower-it")
    c.delete("/s/plain")
    c.create("/s/a-", flags=zk.SEQUENTIAL)
    ctx.step("failures-do-not-consume")
    c.create("/s/a-", flags=zk.SEQUENTIAL, acl=[])
    c.create("/s/a-0000000008", b"taken")
    c.create("/s/a-", flags=zk.SEQUENTIAL)
    c.exists("/s")
    ctx.step("the-suffix-can-meet-a-node")
    c.create("/s/z-0000000011")
    c.create("/s/z-", flags=zk.SEQUENTIAL)
    ctx.step("inside-a-multi")
    c.multi(("create", zk.create_body("/s/m-", flags=2)), ("create", zk.create_body("/s/m-", flags=3)),
            ("create", zk.create_body("/s/m-", flags=2)))
    ctx.step("a-failed-multi-does-not-consume")
    c.multi(("create", zk.create_body("/s/m-", flags=2)), ("check", zk.path_version("/s", 99)))
    c.create("/s/m-", flags=zk.SEQUENTIAL)
    ctx.step("at-the-root-of-nothing")
    c.create("/none/m-", flags=zk.SEQUENTIAL)
    ctx.step("a-slash-at-the-end-of-a-missing-parent")
    c.create("/none/", flags=zk.SEQUENTIAL)
    c.create("/s/", flags=zk.SEQUENTIAL)


@conversation()
def delete(ctx):
    c = ctx.connect()
    c.create("/a", b"1")
    ctx.step("bad-version")
    c.delete("/a", 1)
    c.delete("/a", -2)
    ctx.step("not-empty")
    c.create("/a/b")
    c.delete("/a")
    c.delete("/a", 5)
    ctx.step("good-version")
    c.delete("/a/b", 0)
    c.set("/a", b"2")
    c.delete("/a", 0)
    c.delete("/a", 1)
    ctx.step("gone")
    c.delete("/a")
    c.delete("/a", 3)
    c.exists("/a")
    c.get("/a")
    c.children("/a")
    c.children2("/a")
    c.get_acl("/a")
    c.set("/a")
    c.set_acl("/a", zk.OPEN)
    c.call("getAllChildrenNumber", zk.buffer("/a"))
    ctx.step("no-parent")
    c.delete("/none/x")
    ctx.step("re-created")
    c.create("/a", op="create2")
    ctx.step("reserved")
    for path in ("/", "/zookeeper", "/zookeeper/quota", "/zookeeper/config"):
        c.delete(path)
        c.delete(path, 7)
    ctx.step("below-reserved")
    c.create("/zookeeper/foo")
    c.create("/zookeeper/foo/bar")
    c.delete("/zookeeper/foo/bar")
    c.delete("/zookeeper/foo")


@conversation()
def set_data(ctx):
    c = ctx.connect()
    c.create("/a", b"0")
    ctx.step("versions")
    c.set("/a", b"1")
    c.set("/a", b"2", 1)
    c.set("/a", b"3", 1)
    c.set("/a", b"3", -2)
    c.get("/a")
    ctx.step("same-data-still-counts")
    c.set("/a", b"2")
    ctx.step("null-and-empty")
    c.set("/a", None)
    c.get("/a")
    c.set("/a", b"")
    c.get("/a")
    ctx.step("missing")
    c.set("/b", b"1")
    c.set("/b", b"1", 3)
    ctx.step("large")
    c.set("/a", b"x" * 100000)
    c.get("/a")
    ctx.step("children-do-not-touch-the-data-version")
    c.create("/a/b")
    c.exists("/a")


@conversation()
def failed_writes_consume_a_zxid(ctx):
    c = ctx.connect()
    c.create("/a")
    for name, op, body in (
        ("node-exists", "create", zk.create_body("/a")),
        ("no-node", "delete", zk.path_version("/none")),
        ("bad-version", "setData", zk.set_data_body("/a", b"", 9)),
        ("bad-acl", "create", zk.create_body("/b", acl=[])),
        ("bad-arguments", "create", zk.create_body("/b", flags=77)),
        ("bad-path", "create", zk.create_body("b")),
        ("set-acl", "setACL", zk.set_acl_body("/a", zk.OPEN, 9)),
        ("multi", "multi", zk.multi_body(("check", zk.path_version("/a", 9)))),
        ("empty-multi", "multi", zk.multi_body()),
        ("reconfig", "reconfig", zk.reconfig_body("server.1=localhost:1:2;3")),
        ("malformed", "create", b"\0"),
        ("sync", "sync", zk.buffer("/a")),
        ("multi-read", "multiRead", zk.multi_body(("getData", zk.path_watch("/none")))),
        ("reserved", "delete", zk.path_version("/zookeeper")),
    ):
        ctx.step(name)
        c.call(op, body)
        c.drain()


@conversation()
def sync(ctx):
    c = ctx.connect()
    for path in ("/", "/zookeeper", "/absent", "", "no-slash", None, "/x/../y", "/tab\t"):
        ctx.step(f"sync-{len(ctx.steps)}")
        c.call("sync", zk.buffer(path))
    ctx.step("ordered-with-writes")
    c.pipeline(("create", zk.create_body("/a")), ("sync", zk.buffer("/a")), ("exists", zk.path_watch("/a")))


@conversation()
def counting_descendants(ctx):
    c = ctx.connect()
    for path in ("/a", "/a/b", "/a/b/c", "/a/d", "/ab", "/ab/x"):
        c.create(path)
    for path in ("/a", "/a/b", "/a/d", "/ab", "/", "/none", "/zookeeper", "a", None):
        ctx.step(f"count-{path}")
        c.call("getAllChildrenNumber", zk.buffer(path))


@conversation()
def many_children(ctx):
    c = ctx.connect()
    c.create("/m")
    names = [f"/m/child-{i:04}" for i in range(2000)]
    c.conn.send(b"".join(zk.frame(zk.request(i, "create", zk.create_body(n))) for i, n in enumerate(names, 1000)))
    for i in range(len(names)):
        payload = c.conn.read_frame()
        assert zk.Reader(payload).integer() == 1000 + i, "replies come in request order"
    ctx.step("all-there")
    c.exists("/m")
    c.conn.send_frame(zk.request(1, "getChildren", zk.path_watch("/m")))
    r = zk.Reader(c.conn.read_frame()[16:])
    got = {r.buffer().decode() for _ in range(r.integer())}
    ctx.note(f"{len(got)} {got == {n[3:] for n in names}}")
    c.call("getAllChildrenNumber", zk.buffer("/m"))
    ctx.step("half-deleted")
    c.conn.send(b"".join(zk.frame(zk.request(i, "delete", zk.path_version(n))) for i, n in enumerate(names[::2], 1000)))
    for _ in names[::2]:
        c.conn.read_frame()
    c.exists("/m")


@conversation()
def who_am_i(ctx):
    c = ctx.connect()
    c.call("whoAmI")
    c.call("whoAmI", b"a body")
    c.auth("digest", b"alice:secret")
    c.call("whoAmI")
    c.auth("digest", b"bob:secret")
    c.auth("digest", b"alice:secret")
    c.call("whoAmI")


@conversation()
def reconfig(ctx):
    c = ctx.connect()
    for name, body in (
        ("joining", zk.reconfig_body("server.2=localhost:1:2;3")),
        ("leaving", zk.reconfig_body(None, "1")),
        ("members", zk.reconfig_body(None, None, "server.1=localhost:1:2;3")),
        ("nothing", zk.reconfig_body()),
        ("old-config", zk.reconfig_body("server.2=localhost:1:2;3", config_id=1)),
        ("malformed", b"\0\0"),
    ):
        ctx.step(name)
        if not c.call("reconfig", body):
            c = ctx.connect()
    ctx.step("as-super")
    c.auth("digest", b"super:test")
    c.call("reconfig", zk.reconfig_body("server.2=localhost:1:2;3"))


@conversation("reconfig")
def reconfig_enabled_but_standalone(ctx):
    c = ctx.connect()
    ctx.step("anonymous")
    c.call("reconfig", zk.reconfig_body("server.2=localhost:1:2;3"))
    ctx.step("as-super")
    c.auth("digest", b"super:test")
    c.call("reconfig", zk.reconfig_body("server.2=localhost:1:2;3"))
    ctx.step("config-node")
    c.get("/zookeeper/config")
