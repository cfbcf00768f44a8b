"""Four-letter words: formats and the whitelist (fact sheet section 4). Values that no two runs share become `n`."""

import re

import zk
from conversation import conversation


def plain(text, _ctx):
    return text


def zxids(text, ctx):
    return re.sub(r"(?i)(zxid: )0x([0-9a-f]+)", lambda m: m[1] + ctx.symbols.zxid(int(m[2], 16)), text)


def numbers(text, ctx):
    """Versions, counters, latencies, addresses; zxids become relative."""
    text = re.sub(r"Zookeeper version: .*", "Zookeeper version: ...", text)
    text = re.sub(r"Latency min/avg/max: \d+/\d+\.\d{1,4}/\d+", "Latency min/avg/max: n/n.n/n", text)
    text = re.sub(r"(Received|Sent|Connections): \d+", r"\1: n", text)
    return zxids(text, ctx)


def clients(text, ctx):
    """One line per connection: only this conversation's own are kept."""
    kept, own = [], []
    for line in numbers(text, ctx).split("\n"):
        m = re.match(r" /127\.0\.0\.1:(\d+)\[(\d)\]\((.*)\)$", line)
        if not m:
            kept.append(line)
            continue
        names = {c.conn.local_port: c.name for c in ctx.connections if not c.conn.ended and c.session}
        if int(m[1]) in names:
            body = re.sub(r"sid=0x([0-9a-f]+)", lambda x: "sid=" + ctx.symbols.session(int(x[1], 16)), m[3])
            body = re.sub(r"\b(est|lresp)=[1-9]\d+\b", r"\1=ms", body)
            body = re.sub(r"\b(llat|minlat|avglat|maxlat)=\d+", r"\1=n", body)
            body = re.sub(r"\blzxid=0x(?!f{16})([0-9a-f]+)", lambda x: "lzxid=" + ctx.symbols.zxid(int(x[1], 16)), body)
            own.append(f" /127.0.0.1:{names[int(m[1])]}[{m[2]}]({body})")
    # The order of connections means nothing: they stand where the first of any stood.
    return "\n".join(kept[:2] + sorted(own) + kept[2:] if kept[0].startswith("Zoo") else sorted(own) + kept)


def quiet(text, ctx):
    """Whether every connection of ours has sent what it received: servers count a moment after they send."""
    ports = {str(c.conn.local_port) for c in ctx.connections}
    lines = re.findall(r"(?m)^ /127\.0\.0\.1:(\d+)\[(\d)\]\(queued=(\d+),recved=(\d+),sent=(\d+)", text)
    return all(ops == "1" and queued == "0" and got == sent for port, ops, queued, got, sent in lines if port in ports)


def sessions(text, ctx):
    """Session ids become symbols; blocks (a line and its indented ones) are put in order, and lines within them."""
    text = re.sub(r"0x([0-9a-f]{8,16})", lambda m: ctx.symbols.session(int(m[1], 16)), text)
    blocks = []
    for line in text.split("\n"):
        if line.startswith("\t"):
            blocks[-1].append(line)
        else:
            blocks.append([line])
    ordered = sorted((b[:1] + sorted(b[1:]) for b in blocks if len(b) > 1), key=str)
    return "\n".join("\n".join(b) for b in ordered + [b for b in blocks if len(b) == 1])


def dump(text, ctx):
    text = re.sub(r"0x([0-9a-f]{8,16})", lambda m: ctx.symbols.session(int(m[1], 16)), text)
    text = re.sub(r"expire at .*:", "expire at DATE:", text)
    text = re.sub(r"ip: /127\.0\.0\.1:\d+ sessionId: ", "ip: /127.0.0.1:port sessionId: ", text)
    # How many time buckets there are, and which sessions share one, depends on the moment.
    text = re.sub(r"Sets \(\d+\)/\((\d+)\):", r"Sets (n)/(\1):", text)
    text = re.sub(r"(?m)^\d+ expire at DATE:\n", "", text)
    out, block = [], []
    for line in text.split("\n"):
        if line.startswith("\t"):
            block.append(line)
        else:
            out += sorted(block) + [line]
            block = []
    return "\n".join(out + sorted(block))


def settings(text, ctx):
    text = re.sub(r"(dataDirSize|dataLogSize|dataDir_size)=\d+", r"\1=n", text)
    return text.replace(str(ctx.server.port), "PORT").replace(ctx.server.directory, "DIR")


def names_only(text, _ctx):
    return "\n".join(re.sub(r"=.*", "=...", line) for line in text.split("\n"))


def sizes(text, _ctx):
    return re.sub(r": \d+", ": n", text)


@conversation("fresh")
def server_words(ctx):
    c = ctx.connect()
    c.create("/a", b"1")
    for word, normalise in (("ruok", plain), ("isro", plain), ("srvr", numbers), ("conf", settings), ("dirs", sizes),
                            ("gtmk", plain)):
        ctx.step(word)
        ctx.word(word, normalise)
    ctx.step("stmk")
    ctx.word(b"stmk" + zk.long(0x132), plain)
    ctx.step("srst")
    ctx.word("srst", plain)
    ctx.step("crst")
    ctx.word("crst", plain)


@conversation("fresh")
def connection_words(ctx):
    c, d = ctx.connect("c"), ctx.connect("d")
    c.create("/a")
    d.drain()
    d.drain()
    ctx.step("stat")
    ctx.word("stat", clients, quiet)
    ctx.step("cons")
    ctx.word("cons", clients, quiet)
    for op, do in (("exists", lambda: c.exists("/a")), ("get", lambda: c.get("/a")), ("set", lambda: c.set("/a")),
                   ("delete", lambda: c.delete("/none")), ("children", lambda: c.children("/a")),
                   ("children2", lambda: c.children2("/a")), ("get-acl", lambda: c.get_acl("/a")),
                   ("set-acl", lambda: c.set_acl("/a", zk.OPEN)), ("sync", lambda: c.call("sync", zk.buffer("/a"))),
                   ("multi", lambda: c.multi()), ("multi-read", lambda: c.multi_read()), ("ping", lambda: c.drain()),
                   ("who-am-i", lambda: c.call("whoAmI")), ("add-watch", lambda: c.add_watch("/a", 0)),
                   ("check-watches", lambda: c.check_watches("/a", 3)), ("remove-watches", lambda: c.remove_watches("/a", 3)),
                   ("set-watches", lambda: c.set_watches(0)), ("set-watches2", lambda: c.set_watches(0, persistent=[])),
                   ("create2", lambda: c.create("/a/b", op="create2")),
                   ("container", lambda: c.create("/a/k", op="createContainer", flags=4)),
                   ("all-children", lambda: c.call("getAllChildrenNumber", zk.buffer("/a"))),
                   ("ephemerals", lambda: c.call("getEphemerals", zk.buffer("/"))),
                   ("reconfig", lambda: c.call("reconfig", zk.reconfig_body()))):
        ctx.step("cons-after-" + op)
        do()
        ctx.word("cons", clients, quiet)
    ctx.step("crst")
    ctx.word("crst", plain)
    ctx.word("cons", clients, quiet)


@conversation("fresh")
def watch_words(ctx):
    for word in ("wchs", "wchc", "wchp"):
        ctx.step(word + "-none")
        ctx.word(word, sessions)
    c, d = ctx.connect("c"), ctx.connect("d")
    c.create("/a")
    c.get("/a", True)
    c.exists("/b", True)
    c.children("/", True)
    d.get("/a", True)
    for word in ("wchs", "wchc", "wchp"):
        ctx.step(word)
        ctx.word(word, sessions)


@conversation("fresh")
def dump_word(ctx):
    ctx.step("none")
    ctx.word("dump", dump)
    c, d = ctx.connect("c"), ctx.connect("d")
    c.create("/e1", flags=zk.EPHEMERAL)
    c.create("/e2", flags=zk.EPHEMERAL)
    ctx.step("two-sessions")
    ctx.word("dump", dump)


@conversation("fresh")
def hash_and_envi(ctx):
    c = ctx.connect()
    ctx.step("envi")
    first = zk.four_letter_word(ctx.server.address, "envi").split("\n")
    ctx.note(first[0])
    names = {line.split("=")[0] for line in first[1:] if line}
    for name in ("zookeeper.version", "host.name", "os.name", "os.arch", "os.version", "user.name", "user.home", "user.dir"):
        ctx.note(f"{name} {name in names}")
    ctx.step("hash")
    before = zk.four_letter_word(ctx.server.address, "hash")
    for _ in range(128):
        c.conn.send_frame(zk.request(1, "setData", zk.set_data_body("/none", b"")))
        c.conn.read_frame()
    after = zk.four_letter_word(ctx.server.address, "hash")
    ctx.note(f"lines added: {after.count(chr(10)) - before.count(chr(10))}")


# What monitoring agents (Prometheus exporters, Datadog, Zabbix templates) read.
MONITORED = """version server_state avg_latency max_latency min_latency packets_received packets_sent num_alive_connections
outstanding_requests znode_count watch_count ephemerals_count approximate_data_size open_file_descriptor_count
max_file_descriptor_count global_sessions local_sessions uptime""".split()


@conversation("fresh")
def mntr(ctx):
    c = ctx.connect()
    c.create("/e", b"12345", flags=zk.EPHEMERAL)
    c.get("/e", True)
    c.children("/", True)
    lines = [line.split("\t") for line in zk.four_letter_word(ctx.server.address, "mntr").split("\n") if line]
    values = dict(line for line in lines if len(line) == 2)
    ctx.step("format")
    ctx.note(f"first two {lines[0][0]} {lines[1][0]}, odd lines {[x for x in lines if len(x) != 2]}")
    ctx.step("names")
    for name in MONITORED:
        shown = values.get("zk_" + name)
        kind = "absent" if shown is None else "decimal" if re.fullmatch(r"-?\d+\.\d+", shown) else \
            "integer" if re.fullmatch(r"-?\d+", shown) else "text"
        ctx.note(f"{name} {kind}")
    ctx.step("values")
    for name in ("server_state", "znode_count", "watch_count", "ephemerals_count", "global_sessions", "local_sessions",
                 "outstanding_requests"):
        ctx.note(f"{name} {values.get('zk_' + name)}")
    ctx.step("approximate-data-size")
    ctx.note(str(values.get("zk_approximate_data_size")))


@conversation("limits")
def default_whitelist(ctx):
    for word in ("srvr", "ruok", "stat", "mntr", "conf", "cons", "dump", "envi", "hash", "isro", "wchs", "wchc", "wchp", "dirs",
                 "srst", "crst", "gtmk"):
        ctx.step(word)
        ctx.word(word, numbers)


@conversation("fresh")
def words_and_near_words(ctx):
    for name, data in (("unknown", b"abcd"), ("upper-case", b"RUOK"), ("lsnp", b"lsnp")):
        ctx.step(name)
        c = ctx.open(name)
        c.conn.send(data)
        c.expect_close()
    ctx.step("with-a-newline")
    ctx.word(b"ruok\n", plain)
    ctx.step("byte-by-byte")
    c = ctx.open("slow")
    for i in range(4):
        c.conn.send(b"ruok"[i:i + 1])
    ctx.note(c.conn.read_to_end().decode())
    ctx.step("two-words")
    ctx.word(b"ruokruok", plain)
