"""Who may do what: ACL evaluation, fix-up, authentication (fact sheet 3.8)."""

import zk
from conversation import conversation

ALICE = "alice:N5hpgI3xv2+8TiTq4zNZpKVCTVQ="  # some hash; nobody logs in with it


@conversation()
def each_permission_alone(ctx):
    c = ctx.connect()
    for perms in (0, zk.READ, zk.WRITE, zk.CREATE, zk.DELETE, zk.ADMIN, 31):
        ctx.step(f"perms-{perms}")
        path = f"/p{perms}"
        c.create(path, b"d")
        c.create(path + "/child")
        c.set_acl(path, [(perms, "world", "anyone")] if perms else [(31, "digest", "nobody:x")])
        c.get(path)
        c.children(path)
        c.children2(path)
        c.call("getAllChildrenNumber", zk.buffer(path))
        c.get_acl(path)
        c.set(path, b"e")
        c.create(path + "/new")
        c.create(path + "/new", flags=zk.SEQUENTIAL)
        c.delete(path + "/child")
        c.call("multiRead", zk.multi_body(("getData", zk.path_watch(path)), ("getChildren", zk.path_watch(path))))
        c.multi(("check", zk.path_version(path)))
        c.call("sync", zk.buffer(path))
        c.set_acl(path, zk.OPEN, 77)
        # exists comes last in a step of its own: 3.8.0 does not ask for READ.
        ctx.step(f"exists-{perms}")
        c.exists(path)
        c.exists(path, watch=True)


@conversation()
def bits_beyond_31(ctx):
    c = ctx.connect()
    for perms in (32, 63, -1, 2**31 - 1, -32):
        ctx.step(f"perms-{perms}")
        c.create(f"/p{perms}", acl=[(perms, "world", "anyone")])
        c.get_acl(f"/p{perms}")
        c.get(f"/p{perms}")


@conversation()
def fix_up(ctx):
    c = ctx.connect()
    lists = {
        "null": None, "empty": [], "duplicates": [(31, "world", "anyone")] * 3,
        "same-id-other-perms": [(1, "world", "anyone"), (2, "world", "anyone"), (1, "world", "anyone")],
        "world-somebody": [(31, "world", "somebody")], "unknown-scheme": [(31, "nosuch", "x")],
        "empty-scheme": [(31, "", "")], "null-scheme": [(31, None, "x")], "null-id": [(31, "digest", None)],
        "digest-plain": [(31, "digest", "user:pw")], "digest-no-colon": [(31, "digest", "user")],
        "digest-two-colons": [(31, "digest", "a:b:c")], "digest-empty": [(31, "digest", "")],
        "digest-colon": [(31, "digest", ":")], "digest-empty-user": [(31, "digest", ":x")],
        "digest-empty-hash": [(31, "digest", "user:")], "ip": [(31, "ip", "127.0.0.1")],
        "ip-net": [(31, "ip", "127.0.0.0/8")], "ip-zero-bits": [(31, "ip", "0.0.0.0/0")],
        "ip-32-bits": [(31, "ip", "127.0.0.1/32")], "ip-33-bits": [(31, "ip", "127.0.0.1/33")],
        "ip-negative-bits": [(31, "ip", "127.0.0.1/-1")], "ip-no-bits": [(31, "ip", "127.0.0.1/")],
        "ip-two-slashes": [(31, "ip", "127.0.0.1/8/8")], "ip-letters": [(31, "ip", "localhost")],
        "ip-three-parts": [(31, "ip", "127.0.0")], "ip-five-parts": [(31, "ip", "1.2.3.4.5")],
        "ip-256": [(31, "ip", "256.0.0.1")], "ip-empty": [(31, "ip", "")], "ip-leading-zero": [(31, "ip", "127.000.0.1")],
        "auth-without-any": [(31, "auth", "")], "super": [(31, "super", "")], "super-id": [(31, "super", "x")],
        "sasl": [(31, "sasl", "user")], "x509": [(31, "x509", "CN=x")], "one-bad-among-good":
            [(31, "world", "anyone"), (31, "nosuch", "x")], "good-then-auth": [(31, "world", "anyone"), (1, "auth", "")],
        "upper-case": [(31, "WORLD", "anyone")],
    }
    for name, acl in lists.items():
        ctx.step(name)
        c.create(f"/{name}", acl=acl)
        c.get_acl(f"/{name}")
    c.create("/n")
    for name, acl in lists.items():
        ctx.step("set-" + name)
        c.set_acl("/n", acl)
        if c.err == 0 and not c.get_acl("/n"):
            return


@conversation()
def ipv6_entries(ctx):
    c = ctx.connect()
    for name, identity in (("loopback", "::1"), ("net", "2001:db8::/32"), ("full", "2001:db8:0:0:0:0:0:1"),
                           ("128-bits", "::1/128"), ("129-bits", "::1/129"), ("nonsense", "::zz")):
        ctx.step(name)
        c.create(f"/{name}", acl=[(31, "ip", identity), (31, "world", "anyone")])


@conversation()
def the_auth_scheme(ctx):
    c = ctx.connect()
    c.auth("digest", b"alice:secret")
    ctx.step("replaced-by-my-id")
    c.create("/mine", b"1", acl=[(31, "auth", "")])
    c.get_acl("/mine")
    ctx.step("id-is-ignored")
    c.create("/mine2", acl=[(3, "auth", "whatever")])
    c.get_acl("/mine2")
    ctx.step("each-id-gets-an-entry")
    c.auth("digest", b"bob:hunter2")
    c.create("/ours", acl=[(7, "auth", "")])
    d = ctx.connect("d")
    d.get("/ours")
    d.get_acl("/mine")
    ctx.step("others-are-kept-out")
    d.get("/mine")
    d.set("/mine", b"x")
    d.create("/mine/x")
    d.delete("/mine2")
    d.set_acl("/mine", zk.OPEN)
    ctx.step("a-second-login-lets-in")
    d.auth("digest", b"alice:secret")
    d.get("/mine")
    d.get_acl("/mine")
    d.set_acl("/mine", zk.OPEN)
    ctx.step("wrong-password-does-not")
    e = ctx.connect("e")
    e.auth("digest", b"bob:wrong")
    e.get("/ours")
    ctx.step("mixed-with-explicit-entries")
    d.create("/mixed", acl=[(1, "world", "anyone"), (31, "auth", ""), (31, "digest", ALICE)])
    d.get_acl("/mixed")


@conversation()
def get_acl_masks_hashes(ctx):
    c = ctx.connect()
    for perms in (zk.READ, zk.WRITE, zk.ADMIN, zk.READ | zk.ADMIN, zk.CREATE):
        ctx.step(f"perms-{perms}")
        path = f"/p{perms}"
        c.create(path, acl=[(perms, "world", "anyone"), (31, "digest", ALICE), (1, "ip", "10.0.0.1"),
                            (1, "digest", ":")])
        c.get_acl(path)


@conversation()
def digest_ids(ctx):
    c = ctx.connect()
    for name, secret in (("plain", b"alice:secret"), ("u-p", b"u:p"), ("no-colon", b"alice"), ("two-colons", b"a:b:c"),
                         ("empty", b""), ("colon", b":"), ("utf-8", "j\xf6rg:pa\xdf".encode()), ("no-user", b":x"),
                         ("not-utf-8", b"\xff\xfe:\x80"), ("nul", b"a\0b:c")):
        ctx.step(name)
        d = ctx.connect(name)
        if d.auth("digest", secret):
            d.create("/" + name, acl=[(31, "auth", "")])
            d.call("whoAmI")
            d.exists("/" + name)
            d.get_acl("/" + name)
    ctx.step("null-auth")
    d = ctx.connect("null")
    if d.auth("digest", None):
        d.drain()


@conversation()
def failed_authentication(ctx):
    for name, scheme, auth in (("unknown-scheme", "nosuch", b"x"), ("empty-scheme", "", b"x"), ("null-scheme", None, b"x"),
                               ("world", "world", b"anyone"), ("ip", "ip", b"127.0.0.1"), ("super", "super", b"x"),
                               ("sasl", "sasl", b"x"), ("x509", "x509", b"x"), ("auth", "auth", b"")):
        ctx.step(name)
        c = ctx.connect(name)
        if c.auth(scheme, auth):
            if c.err:
                c.expect_close()
            else:
                c.call("whoAmI")
    ctx.step("malformed")
    c = ctx.connect("malformed")
    c.conn.send_frame(zk.request(zk.XID_AUTH, "auth", b"\0\0"))
    c.expect_close()
    ctx.step("trailing-bytes-and-another-type")
    c = ctx.connect("trailing")
    c.call("auth", zk.auth_body("digest", b"a:b", 7) + b"more", zk.XID_AUTH)
    c.call("whoAmI")
    ctx.step("with-an-ordinary-xid")
    c.call("auth", zk.auth_body("digest", b"c:d"), 55)
    c.call("whoAmI")


@conversation()
def ids_belong_to_the_connection(ctx):
    c = ctx.connect()
    c.auth("digest", b"alice:secret")
    c.create("/mine", acl=[(31, "auth", "")])
    c.drop()
    d = ctx.connect("d", session=c.session, password=c.password)
    ctx.step("gone-after-a-reconnect")
    d.call("whoAmI")
    d.get("/mine")
    ctx.step("ephemerals-go-whatever-the-acl")
    d.auth("digest", b"alice:secret")
    d.create("/e", flags=zk.EPHEMERAL, acl=[(zk.READ, "auth", "")])
    d.close_session()
    ctx.connect("e").exists("/e")


@conversation()
def super_user(ctx):
    c, s = ctx.connect("c"), ctx.connect("s")
    c.create("/closed", b"secret", acl=[(zk.CREATE, "digest", "nobody:x")])
    ctx.step("login")
    s.auth("digest", b"super:test")
    s.call("whoAmI")
    ctx.step("may-do-anything")
    s.get("/closed")
    s.get_acl("/closed")
    s.set("/closed", b"read")
    s.create("/closed/x")
    s.set_acl("/closed", [(zk.CREATE, "digest", "nobody:y")])
    s.delete("/closed/x")
    s.multi(("check", zk.path_version("/closed")), ("setData", zk.set_data_body("/closed", b"2")))
    ctx.step("but-not-against-the-rules")
    s.delete("/zookeeper")
    s.create("/closed", acl=[])
    s.create("/x", acl=[(31, "super", "")])
    ctx.step("auth-as-super")
    s.create("/supers", acl=[(31, "auth", "")])
    s.get_acl("/supers")
    ctx.step("wrong-password")
    c.auth("digest", b"super:wrong")
    c.call("whoAmI")
    c.get("/closed")
    ctx.step("config-node")
    s.set("/zookeeper/config", b"x")
    s.get("/zookeeper/config")
    s.set("/zookeeper/config", b"")


@conversation()
def ip_entries(ctx):
    c = ctx.connect()
    for name, identity in (("me", "127.0.0.1"), ("my-net", "127.0.0.0/8"), ("my-net-odd", "127.9.9.9/8"),
                           ("everyone", "0.0.0.0/0"), ("nine-bits", "127.128.0.0/9"), ("other", "10.0.0.1"),
                           ("31-bits", "127.0.0.0/31"), ("32-bits", "127.0.0.1/32")):
        ctx.step(name)
        c.create("/" + name, acl=[(zk.READ, "ip", identity)])
        c.get("/" + name)
        c.get_acl("/" + name)


@conversation()
def set_acl(ctx):
    c = ctx.connect()
    c.create("/a")
    ctx.step("counts-aversion-only")
    c.set_acl("/a", [(31, "world", "anyone"), (1, "ip", "10.0.0.1")])
    c.exists("/a")
    ctx.step("version-is-the-aversion")
    c.set_acl("/a", zk.OPEN, 0)
    c.set_acl("/a", zk.OPEN, 1)
    c.set_acl("/a", zk.OPEN, -1)
    c.set_acl("/a", zk.OPEN, -2)
    ctx.step("needs-admin")
    c.set_acl("/a", [(15, "world", "anyone")])
    c.set_acl("/a", zk.OPEN)
    c.get_acl("/a")
    ctx.step("children-do-not-inherit")
    c.create("/a/b")
    c.get_acl("/a/b")


@conversation()
def multi_with_rights(ctx):
    c = ctx.connect()
    c.create("/ro", b"1", acl=[(zk.READ, "world", "anyone")])
    c.create("/dark", b"1", acl=[(zk.WRITE, "world", "anyone")])
    for name, item in (("create", ("create", zk.create_body("/ro/x"))), ("delete", ("delete", zk.path_version("/ro/x"))),
                       ("set", ("setData", zk.set_data_body("/ro", b""))), ("check", ("check", zk.path_version("/ro"))),
                       ("check-dark", ("check", zk.path_version("/dark"))),
                       ("bad-acl", ("create", zk.create_body("/x", acl=[])))):
        ctx.step(name)
        c.multi(("create", zk.create_body("/before")), item, ("create", zk.create_body("/after")))
        c.multi(("delete", zk.path_version("/before")), ("delete", zk.path_version("/after")))


@conversation("skip_acl")
def acls_are_skipped(ctx):
    c = ctx.connect()
    c.create("/closed", b"1", acl=[(zk.READ, "digest", "nobody:x")])
    ctx.step("everything-is-allowed")
    c.get("/closed")
    c.get_acl("/closed")
    c.set("/closed", b"2")
    c.create("/closed/x")
    c.children2("/closed")
    c.delete("/closed/x")
    c.set_acl("/closed", [(zk.WRITE, "digest", "nobody:y")])
    c.exists("/closed")
    ctx.step("lists-are-still-checked")
    c.create("/x", acl=[])
    c.create("/x", acl=[(31, "nosuch", "x")])
    c.create("/x", acl=[(31, "auth", "")])
    c.set_acl("/closed", [])
    ctx.step("config")
    c.set("/zookeeper/config", b"x")
