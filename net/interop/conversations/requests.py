"""Requests that are wrong, unknown, forbidden, cut up or piled up (fact sheet 2.1, 2.2, 3.12)."""

import zk
from conversation import conversation

SHORT_BODIES = [
    ("create", b""), ("create", zk.buffer("/x")), ("create", zk.create_body("/x")[:-1]), ("create2", b"\0\0\0\2/"),
    ("createContainer", b"\0"), ("createTTL", zk.create_body("/x", flags=5)), ("delete", b""), ("delete", zk.buffer("/x")),
    ("exists", b""), ("exists", zk.buffer("/x")), ("getData", zk.buffer("/x")), ("setData", zk.buffer("/x")),
    ("setData", zk.buffer("/x") + zk.buffer(b"d")), ("getACL", b"\0\0"), ("setACL", zk.buffer("/x")),
    ("getChildren", zk.buffer("/x")), ("getChildren2", b""), ("sync", b""), ("multi", b""), ("multiRead", b"\0"),
    ("reconfig", b""), ("checkWatches", zk.buffer("/x")), ("removeWatches", b""), ("addWatch", b""),
    ("setWatches", b"\0"), ("setWatches2", b"\0"), ("getEphemerals", b""), ("getAllChildrenNumber", b""),
]

BAD_LENGTHS = [
    ("exists", zk.integer(-2) + b"/x\0"), ("exists", zk.integer(2**31 - 1) + b"/x\0"), ("exists", zk.integer(1000) + b"/x\0"),
    ("create", zk.buffer("/x") + zk.integer(-7) + zk.acls(zk.OPEN) + zk.integer(0)),
    ("create", zk.buffer("/x") + zk.integer(2**31 - 1) + zk.acls(zk.OPEN) + zk.integer(0)),
    ("create", zk.buffer("/x") + zk.buffer(b"") + zk.integer(2**31 - 1)),
    ("create", zk.buffer("/x") + zk.buffer(b"") + zk.integer(-5) + zk.integer(0)),
    ("setWatches", zk.long(0) + zk.integer(2**31 - 1)), ("setWatches", zk.long(0) + zk.integer(-9) * 3),
]


@conversation()
def too_short(ctx):
    c = ctx.connect()
    for i, (op, body) in enumerate(SHORT_BODIES):
        ctx.step(f"{op}-{i}")
        if not c.call(op, body):
            c = ctx.connect()
    ctx.step("nothing-happened")
    c.exists("/x")


@conversation()
def impossible_lengths(ctx):
    c = ctx.connect()
    for i, (op, body) in enumerate(BAD_LENGTHS):
        ctx.step(f"{op}-{i}")
        if not c.call(op, body):
            c = ctx.connect()
    ctx.step("nothing-happened")
    c.exists("/x")


@conversation()
def trailing_bytes(ctx):
    c = ctx.connect()
    c.create("/p")
    for op, body in (("create", zk.create_body("/p/a")), ("exists", zk.path_watch("/p")), ("getData", zk.path_watch("/p")),
                     ("setData", zk.set_data_body("/p", b"1")), ("sync", zk.buffer("/p")), ("getACL", zk.buffer("/p")),
                     ("getChildren2", zk.path_watch("/p")), ("delete", zk.path_version("/p/a"))):
        ctx.step(op)
        c.call(op, body + b"and more")


@conversation()
def odd_booleans(ctx):
    c, w = ctx.connect(), ctx.connect("w")
    c.create("/p")
    ctx.step("any-byte-but-0-is-true")
    w.call("getData", zk.buffer("/p") + b"\x07")
    c.set("/p", b"1")
    w.drain()


@conversation()
def unknown_opcodes(ctx):
    for op in (10, 23, 50, 99, 108, 1000, -2, -9, -12, 2**31 - 1, -2**31):
        ctx.step(f"op{op}")
        c = ctx.connect(f"op{op}")
        if c.call(op):
            c.expect_close()
    ctx.step("op-with-a-body")
    c = ctx.connect("body")
    if c.call(77, zk.path_watch("/")):
        c.expect_close()
    ctx.step("sessions-live-on")
    ctx.connect("again", session=c.session, password=c.password).drain()


@conversation()
def opcode_0_notification(ctx):
    c = ctx.connect()
    if c.call(0, b""):
        c.expect_close()


@conversation()
def opcode_minus_1_error(ctx):
    c = ctx.connect()
    if c.call(-1, b""):
        c.expect_close()


def refused_or_not(client, op, body):
    """A request that one release answers, another never, and a third refuses with UNIMPLEMENTED and a close."""
    if client.call_or_silence(op, body) and client.err == -6:
        client.expect_close()


@conversation()
def check_alone(ctx):
    c = ctx.connect()
    c.create("/p")
    ctx.step("good")
    refused_or_not(c, "check", zk.path_version("/p", 0))
    ctx.step("bad-version")
    d = ctx.connect("d")
    refused_or_not(d, "check", zk.path_version("/p", 7))
    ctx.step("rights")
    e = ctx.connect("f")
    e.create("/dark", acl=[(2, "world", "anyone")])
    refused_or_not(e, "check", zk.path_version("/dark", 0))
    ctx.step("after-it")
    ctx.connect("e").exists("/p")


@conversation()
def create_session_from_a_client(ctx):
    c = ctx.connect()
    c.conn.send_frame(zk.request(5, "createSession", zk.integer(5000)))
    payload = c.conn.read_frame()
    if payload is None:
        ctx.note("closed")
    elif len(payload) == 37:
        ctx.note("a ConnectResponse in mid-stream")
    else:
        c.note(zk_header(payload, ctx))
        c.expect_close()


def zk_header(payload, ctx):
    r = zk.Reader(payload)
    return f"xid={r.integer()} zxid={ctx.symbols.zxid(r.long())} err={r.integer()} rest={r.rest().hex()}"


@conversation()
def delete_container_from_a_client(ctx):
    c = ctx.connect()
    c.create("/k", flags=4, op="createContainer")
    c.create("/plain")
    ctx.step("raw-path")
    refused_or_not(c, "deleteContainer", b"/k")
    ctx.step("with-a-length")
    d = ctx.connect("d")
    refused_or_not(d, "deleteContainer", zk.buffer("/plain"))
    ctx.step("what-is-left")
    e = ctx.connect("e")
    e.exists("/k")
    e.exists("/plain")


@conversation()
def sasl_without_a_configuration(ctx):
    c = ctx.connect()
    ctx.step("empty-token")
    if c.call("sasl", zk.buffer(b"")):
        ctx.note("answered")
    ctx.step("some-token")
    d = ctx.connect("d")
    if d.call("sasl", zk.buffer(b"abc")):
        ctx.note("answered")


@conversation()
def bad_frames_after_the_connect(ctx):
    for name, data in (("negative-length", zk.integer(-1)), ("huge", zk.integer(2**31 - 1)),
                       ("one-above-the-limit", zk.integer(1048576)), ("empty-frame", zk.frame(b"")),
                       ("4-bytes", zk.frame(b"\0\0\0\1")), ("7-bytes", zk.frame(b"\0\0\0\1\0\0\0"))):
        ctx.step(name)
        c = ctx.connect(name)
        c.conn.send(data)
        c.expect_close()
    ctx.step("a-word-in-mid-stream-is-a-length")
    c = ctx.connect("word")
    c.conn.send(b"ruok")
    c.expect_close()
    ctx.step("a-second-connect-request")
    c = ctx.connect("second")
    c.conn.send_frame(zk.connect_body())
    c.note(zk_header(c.conn.read_frame(), ctx))
    c.expect_close()


@conversation()
def largest_frame(ctx):
    c = ctx.connect()
    c.create("/p")
    overhead = len(zk.request(1, "setData", zk.set_data_body("/p", b"")))
    ctx.step("at-the-limit")
    c.set("/p", b"x" * (1048575 - overhead))
    c.get("/p")
    ctx.step("one-more")
    c.conn.send(zk.frame(zk.request(1, "setData", zk.set_data_body("/p", b"x" * (1048576 - overhead)))))
    c.expect_close()
    ctx.step("nothing-changed")
    ctx.connect("d").exists("/p")


@conversation("limits")
def jute_maxbuffer_edge(ctx):
    c = ctx.connect()
    c.create("/p")
    overhead = len(zk.request(1, "setData", zk.set_data_body("/p", b"")))
    ctx.step("at-the-limit")
    c.set("/p", b"x" * (5000 - overhead))
    c.get("/p")
    ctx.step("one-more")
    c.conn.send(zk.frame(zk.request(1, "setData", zk.set_data_body("/p", b"x" * (5001 - overhead)))))
    c.expect_close()
    ctx.step("a-reply-may-be-larger")
    d = ctx.connect("d")
    d.create("/p/" + "n" * 3000)
    d.create("/p/" + "m" * 3000)
    d.conn.send_frame(zk.request(1, "getChildren", zk.path_watch("/p")))
    ctx.note(f"{len(d.conn.read_frame())} bytes")
    ctx.step("a-length-inside-beyond-the-limit")
    d.call("exists", zk.integer(20000) + b"/x\0")
    d.drain()


@conversation()
def thousands_in_one_write(ctx):
    c = ctx.connect()
    c.create("/p", b"0")
    n = 6000
    data = []
    for i in range(n):
        op, body = (("setData", zk.set_data_body("/p", str(i))), ("getData", zk.path_watch("/p")),
                    ("exists", zk.path_watch("/p")))[i % 3]
        data.append(zk.frame(zk.request(10 + i, op, body)))
    c.conn.send(b"".join(data))
    wrong, zxids = 0, []
    for i in range(n):
        payload = c.conn.read_frame()
        r = zk.Reader(payload)
        xid, zxid, err = r.integer(), r.long(), r.integer()
        zxids.append(zxid)
        wrong += xid != 10 + i or err != 0
        if i % 3 == 1:
            wrong += r.buffer() != str(i - 1).encode()
    ctx.step("all-answered-in-order")
    ctx.note(f"{wrong} wrong, zxids rise: {zxids == sorted(zxids)}, from {ctx.symbols.zxid(zxids[0])} to {ctx.symbols.zxid(zxids[-1])}")
    c.get("/p")


@conversation()
def pipelined_mixture(ctx):
    c = ctx.connect()
    c.pipeline(
        ("create", zk.create_body("/a")), ("exists", zk.path_watch("/a")), ("create", zk.create_body("/a")),
        ("getData", zk.path_watch("/a")), ("sync", zk.buffer("/a")), ("setData", zk.set_data_body("/a", b"1", 0)),
        ("setData", zk.set_data_body("/a", b"1", 0)), ("getChildren", zk.path_watch("/none")),
        ("create2", zk.create_body("/a/s-", flags=2)), ("create2", zk.create_body("/a/s-", flags=2)),
        ("getChildren2", zk.path_watch("/a")), ("whoAmI", b""), ("delete", zk.path_version("/a")),
        ("create", b"\0"), ("exists", zk.path_watch("/a")))


@conversation()
def reads_wait_for_own_writes(ctx):
    a, b = ctx.connect("a"), ctx.connect("b")
    a.create("/p", b"0")
    ctx.step("seen-by-the-other-after-the-reply")
    for i in range(3):
        a.set("/p", str(i))
        b.get("/p")
    ctx.step("own-pipeline")
    a.pipeline(*[x for i in range(5) for x in
                 (("setData", zk.set_data_body("/p", f"w{i}")), ("getData", zk.path_watch("/p")))])


@conversation()
def a_client_that_never_reads_harms_nobody(ctx):
    c = ctx.connect()
    c.create("/big", b"x" * 500000)
    deaf = ctx.connect("deaf")
    deaf.conn.send(b"".join(zk.frame(zk.request(i, "getData", zk.path_watch("/big"))) for i in range(1, 101)))
    ctx.step("others-are-served")
    for _ in range(3):
        c.set("/big", b"small")
        c.exists("/big")
    ctx.step("and-it-gets-its-answers-when-it-reads")
    got = []
    for _ in range(100):
        payload = deaf.conn.read_frame()
        got.append(zk.Reader(payload).integer())
    ctx.note(str(got == list(range(1, 101))))


@conversation()
def half_closed(ctx):
    import socket
    c = ctx.connect()
    c.create("/p")
    ctx.step("shutdown-of-our-side")
    c.conn.sock.shutdown(socket.SHUT_WR)
    c.expect_close()
    ctx.step("session-lives-on")
    ctx.connect("d", session=c.session, password=c.password).exists("/p")
    ctx.step("reset")
    d = ctx.connect("e")
    d.conn.reset()
    ctx.connect("f", session=d.session, password=d.password).drain()


@conversation()
def garbage(ctx):
    """Random bytes, framed and not, before and after the connect: each connection ends or is answered, nobody else cares."""
    import random
    draw = random.Random(7)
    witness = ctx.connect("witness")
    witness.create("/w", b"unharmed")
    ctx.step("before-the-connect")
    for _ in range(40):
        c = zk.Conn(ctx.server.address)
        junk = draw.randbytes(draw.randint(1, 300))
        c.send(zk.frame(junk) if draw.random() < 0.5 else junk)
        c.close()
    ctx.step("after-the-connect")
    for _ in range(40):
        c = ctx.open("noise")
        c.conn.send_frame(zk.connect_body())
        r = zk.Reader(c.conn.read_frame()[8:])
        session, password = r.long(), r.buffer()
        ctx.sessions[session] = password
        # Reads with random bodies: a random write might succeed and change what the witness counts.
        for _ in range(20):
            body = draw.randbytes(draw.randint(0, 60))
            c.conn.send_frame(zk.request(draw.randint(1, 99), draw.choice([3, 4, 6, 8, 12, 17, 18, 22, 101, 103, 104, 105, 106]), body))
        c.conn.send_frame(zk.request(1234, "exists", zk.path_watch("/w")))
        while True:
            payload = c.conn.read_frame()
            if payload is None:
                raise AssertionError("a malformed read closed the connection")
            if zk.Reader(payload).integer() == 1234:
                break
        c.conn.close()
    ctx.step("the-witness-is-well")
    witness.get("/w")
