"""Path syntax: what creates refuse and reads let through (fact sheet 3.6)."""

import zk
from conversation import conversation

ODD = {
    "null": None, "empty": "", "no-slash": "a", "trailing-slash": "/p/", "double-slash": "/p//a", "dot": "/p/.",
    "dot-dot": "/p/..", "dot-inside": "/./p", "dots-that-are-a-name": "/p/...", "dot-name": "/p/.a", "only-slashes": "//",
    "nul": "/p/a\0b", "u0001": "/p/\x01", "tab": "/p/\t", "u001f": "/p/\x1f", "space": "/p/ ", "del": "/p/\x7f",
    "u0080": "/p/\x80", "u009f": "/p/\x9f", "u00a0": "/p/\xa0", "umlaut": "/p/\xfc", "chinese": "/p/\u4e2d\u6587",
    "ud7ff": "/p/\ud7ff", "lone-surrogate": "/p/\ud800", "ue000": "/p/\ue000", "uf8fe": "/p/\uf8fe",
    "uf8ff": "/p/\uf8ff", "uf900": "/p/\uf900", "uffef": "/p/\uffef", "ufff0": "/p/\ufff0", "ufffd": "/p/\ufffd",
    "uffff": "/p/\uffff", "emoji": "/p/\U0001f600", "plane-16": "/p/\U0010fffd", "bom": "/p/\ufeff",
    "rtl-mark": "/p/\u200f", "combining": "/p/e\u0301", "slash-end-of-control": "/p/a\x01/", "question": "/p/?*[]{}|<>\"'",
    "backslash": "/p/\\", "quote-at-the-root": "/'",
}


@conversation("fresh")
def creating(ctx):
    c = ctx.connect()
    c.create("/p")
    for name, path in ODD.items():
        ctx.step(name)
        c.create(path, b"odd")
        c.create(path, b"odd", flags=zk.SEQUENTIAL)


@conversation()
def invalid_utf8(ctx):
    c = ctx.connect()
    c.create("/p")
    for name, path in (("stray-continuation", b"/p/\x80"), ("truncated", b"/p/\xe4\xb8"), ("overlong", b"/p/\xc0\xaf"),
                       ("latin1", b"/p/caf\xe9"), ("encoded-surrogates", b"/p/\xed\xa0\xbd\xed\xb8\x80"),
                       ("beyond-unicode", b"/p/\xf5\x80\x80\x80")):
        ctx.step(name)
        c.create(path)
        c.exists(path)
        c.exists("/p/\ufffd")
    ctx.step("what-was-made")
    c.children("/p")


@conversation("fresh")
def reading(ctx):
    c = ctx.connect()
    c.create("/p", b"1")
    for name, path in ODD.items():
        ctx.step(name)
        c.exists(path)
        c.get(path)
        c.children(path)
        c.get_acl(path)


@conversation()
def writing(ctx):
    c = ctx.connect()
    c.create("/p", b"1")
    for name, path in ODD.items():
        ctx.step(name)
        c.set(path, b"2")
        c.set_acl(path, zk.OPEN)
        c.set_acl(path, [])
        c.delete(path)
        if path is not None:
            c.multi(("check", zk.path_version(path)))


@conversation("fresh")
def order_of_checks(ctx):
    c = ctx.connect()
    c.create("/p")
    c.create("/e", flags=zk.EPHEMERAL)
    c.create("/closed", acl=[(1, "world", "anyone")])
    for name, arguments in (
        ("flags-before-path", {"path": "bad", "flags": 77}),
        ("flags-before-acl", {"path": "/p/x", "flags": 77, "acl": []}),
        ("path-without-slash-before-acl", {"path": "bad", "acl": []}),
        ("nul-before-acl", {"path": "/p/\0", "acl": []}),
        ("acl-before-parent", {"path": "/none/x", "acl": []}),
        ("acl-before-syntax", {"path": "/p/\x01", "acl": []}),
        ("acl-before-exists", {"path": "/p", "acl": []}),
        ("parent-before-syntax", {"path": "/none/\x01"}),
        ("trailing-slash-is-no-parent", {"path": "/x/"}),
        ("trailing-slash-with-a-parent", {"path": "/p/"}),
        ("rights-before-syntax", {"path": "/closed/\x01"}),
        ("rights-before-exists", {"path": "/closed/x"}),
        ("syntax-before-ephemeral-parent", {"path": "/e/\x01"}),
        ("ephemeral-parent", {"path": "/e/x"}),
        ("root", {"path": "/"}),
        ("reserved", {"path": "/zookeeper"}),
        ("reserved-quota", {"path": "/zookeeper/quota"}),
        ("root-sequential", {"path": "/", "flags": 2}),
        ("relative", {"path": "p/x"}),
    ):
        ctx.step("create-" + name)
        c.create(**arguments)
    ctx.step("delete-version-before-not-empty")
    c.create("/p/c")
    c.delete("/p", 9)
    ctx.step("delete-rights-on-the-parent-before-no-node")
    c.delete("/closed/none")
    ctx.step("set-data-missing-before-version")
    c.set("/none", b"", 9)
    ctx.step("set-data-rights-before-version")
    c.set("/closed", b"", 9)
    ctx.step("set-acl-acl-before-missing")
    c.set_acl("/none", [])
    ctx.step("set-acl-syntax-before-acl")
    c.set_acl("none", [])
    ctx.step("set-acl-rights-before-version")
    c.set_acl("/closed", zk.OPEN, 9)
    ctx.step("check-rights-before-version")
    c.create("/dark", acl=[(2, "world", "anyone")])
    c.multi(("check", zk.path_version("/dark", 9)))
