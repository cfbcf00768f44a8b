"""What a scripted conversation is made of: steps, clients and the transcript.

Here: `Context` (one conversation on one server) and `Client` (one connection in it), and the registry.
Not here: the scripts themselves (`conversations/`), the comparison (`run_conversations.py`).
Invariant: a conversation leaves the server as it found it: sessions closed, nodes removed, so that the next one
starts from the same tree on both servers; only zxids go on.
"""

import dataclasses
import time

import render
import zk

REGISTRY = []


def conversation(group="base"):
    """Registers a script. `group` names the server configuration that it runs on."""
    def register(function):
        name = f"{function.__module__.split('.')[-1]}.{function.__name__}"
        REGISTRY.append((name, group, function))
        return function
    return register


@dataclasses.dataclass
class Line:
    """One line of a transcript; `as_39` is the same line as ZooKeeper 3.9 would have it, where a rule says so."""
    text: str
    as_39: str = ""


class Context:
    """One run of one conversation on one server."""

    def __init__(self, server):
        self.server = server
        self.steps = {}
        self.lines = None
        self.connections = []
        self.sessions = {}
        self.golden = []
        admin = self.admin()
        self.symbols = render.Symbols(admin.close_session())
        self.step("start")

    def admin(self):
        return Admin(self.server.address)

    # -- transcript

    def step(self, name):
        """Opens a step: what is written down from here on belongs to it."""
        if name in self.steps:
            raise AssertionError(f"step {name} twice")
        self.lines = self.steps[name] = []

    def note(self, text, as_39=""):
        self.lines.append(Line(text, as_39))

    # -- connections

    def connect(self, name=None, **options):
        """A client with a session; what the server answers to the connect is written down."""
        client = self.open(name)
        client.connect(**options)
        return client

    def open(self, name=None):
        """A connection on which nothing has been said."""
        client = Client(self, name or f"c{len(self.connections) + 1}")
        self.connections.append(client)
        return client

    def word(self, word, normalise, settled=None):
        """A four-letter word, its answer passed through `normalise(text, context)`.

        `settled(text, context)` says whether the answer has caught up with the replies that we have already read; it
        is asked for again until then, within limits, and then taken as it is.
        """
        text = zk.four_letter_word(self.server.address, word)
        deadline = time.monotonic() + 2.0
        while settled and not settled(text, self) and time.monotonic() < deadline:
            text = zk.four_letter_word(self.server.address, word)
        shown = word if isinstance(word, str) else repr(word)
        for line in normalise(text, self).split("\n"):
            self.note(f"{shown} | {line}")

    def wait_for(self, what, condition, seconds=10.0):
        """Polls until `condition()` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds} s for: {what}")
            time.sleep(0.01)

    def wait_for_event(self, client, seconds=15.0):
        """Waits for an event that no request of ours answers for, then drains the connection."""
        payload = client.conn.read_frame(seconds)
        if payload is None:
            client.note("closed")
            return
        client.pushed_back = [payload]
        client.drain()

    def tidy(self):
        """Closes every session and removes every node that this conversation made."""
        for client in self.connections:
            client.conn.close()
        for session, password in self.sessions.items():
            Admin(self.server.address, session, password).close_session()
        admin = self.admin()
        admin.sweep()
        admin.close_session()


class Admin:
    """A quiet client with all rights, for measuring and cleaning. An unknown session makes every call a no-op."""

    KEEP = {b"/", b"/zookeeper", b"/zookeeper/quota", b"/zookeeper/config"}

    def __init__(self, address, session=0, password=b"\0" * 16):
        self.conn = zk.Conn(address)
        self.conn.send_frame(zk.connect_body(session=session, password=password))
        answer = self.conn.read_frame()
        self.live = bool(answer) and zk.Reader(answer[8:16]).long() != 0
        if self.live and not session:
            self.call("auth", zk.auth_body("digest", "super:test"), zk.XID_AUTH)

    def call(self, op, body=b"", xid=1):
        """(zxid, err, body bytes)."""
        self.conn.send_frame(zk.request(xid, op, body))
        while True:
            payload = self.conn.read_frame()
            if payload is None:
                raise AssertionError(f"connection closed during the harness's own {op}")
            got, zxid, err = render.header(payload)
            if got == xid:
                return zxid, err, payload[16:]

    def children(self, path):
        _, err, body = self.call("getChildren", zk.path_watch(path))
        if err:
            return []
        r = zk.Reader(body)
        return [r.buffer() for _ in range(r.integer())]

    def sweep(self, path=b"/"):
        for child in self.children(path):
            below = path.rstrip(b"/") + b"/" + child
            self.sweep(below)
            if below not in self.KEEP:
                self.call("delete", zk.path_version(below))

    def close_session(self):
        """Ends the session; the zxid of its end."""
        zxid = 0
        if self.live:
            zxid, _, _ = self.call("closeSession", xid=2)
        self.conn.close()
        return zxid


class Client:
    """One connection of a conversation. Every frame that comes back ends up in the transcript."""

    def __init__(self, context, name):
        self.context, self.name = context, name
        self.conn = zk.Conn(context.server.address)
        self.session, self.password = 0, b"\0" * 16
        self.last_zxid, self.xid, self.err = 0, 0, 0
        self.pushed_back = []
        self.paths = []

    # -- plain sending and receiving

    def note(self, text, as_39=""):
        self.context.note(f"{self.name} < {text}", as_39 and f"{self.name} < {as_39}")

    def connect(self, **options):
        """Sends a ConnectRequest and notes the answer."""
        payload = zk.connect_body(**options)
        self.conn.send_frame(payload)
        answer = self.conn.read_frame()
        self.context.golden.append(("connect", payload, answer))
        if answer is None:
            self.note("closed")
            return self
        self.note(render.connect_reply(answer, self.context.symbols))
        r = zk.Reader(answer[8:])
        session, password = r.long(), r.buffer()
        if session:
            self.session, self.password = session, password
            self.context.sessions[session] = password
        return self

    def send(self, op, body=b"", xid=None):
        """Sends one request; its xid (counted up unless given)."""
        if xid is None:
            self.xid += 1
            xid = self.xid
        self.conn.send_frame(zk.request(xid, op, body))
        return xid

    def receive(self, expected, body=b""):
        """Reads frames up to the reply to the last of `expected` = [(xid, op)], noting each. False when closed.

        An event's line also says which zxid a 3.9 server would show: that of the reply which follows it, since a
        script drains every connection after each change.
        """
        expected, events = list(expected), []
        while expected:
            payload = self.pushed_back.pop() if self.pushed_back else self.conn.read_frame()
            if payload is None:
                self._events(events, None)
                self.note("closed")
                return False
            xid, zxid, err = render.header(payload)
            if xid == zk.XID_EVENT and len(payload) > 16:
                events.append(payload)
                self.context.golden.append(("event", None, payload))
                continue
            want, op = expected.pop(0)
            catch_up = op in ("setWatches", "setWatches2")
            self._events(events, -1 if catch_up else zxid)
            events = []
            name = op if isinstance(op, str) else None
            self.note(render.reply(payload, name, self.context.symbols))
            self.context.golden.append((op, zk.request(want, op, body), payload))
            if zxid > 0:
                self.last_zxid = zxid
            self.err = err
            if name in ("create", "create2", "createContainer", "createTTL") and not err:
                self.paths.append(zk.Reader(payload[16:]).buffer())
        return True

    def _events(self, events, zxid):
        symbols = self.context.symbols
        for payload in events:
            as_39 = "" if zxid in (None, -1) else render.event(payload, symbols, zxid)
            self.note(render.event(payload, symbols), as_39)

    def call(self, op, body=b"", xid=None):
        """One request and everything up to its reply. True unless the server closed instead."""
        xid = self.send(op, body, xid)
        return self.receive([(xid, op)], body)

    def call_or_silence(self, op, body=b"", wait_s=1.0):
        """A request that an old server may never answer: what came within `wait_s`, or that nothing did."""
        patience, self.conn.timeout_s = self.conn.timeout_s, wait_s
        try:
            return self.call(op, body)
        except zk.Timeout:
            self.note("no answer")
            return False
        finally:
            self.conn.timeout_s = patience

    def pipeline(self, *requests):
        """Sends all of [(op, body)] in one write, then notes everything up to the last reply."""
        data, expected = b"", []
        for op, body in requests:
            self.xid += 1
            data += zk.frame(zk.request(self.xid, op, body))
            expected.append((self.xid, op))
        self.conn.send(data)
        return self.receive(expected)

    def drain(self):
        """Notes every event that is on its way: all that comes before the answer to a ping."""
        return self.call("ping", xid=zk.XID_PING)

    def expect_close(self, quietly=False):
        """Notes whatever comes until the server closes; `quietly`: only that it closes."""
        rest = self.conn.read_to_end()
        self.note(f"closed after {len(rest)} bytes {rest[:64].hex()}" if rest and not quietly else "closed")

    # -- one method per request

    def create(self, path, data=b"", acl=zk.OPEN, flags=0, op="create", ttl=None):
        return self.call(op, zk.create_body(path, data, acl, flags, ttl))

    def delete(self, path, version=-1):
        return self.call("delete", zk.path_version(path, version))

    def exists(self, path, watch=False):
        return self.call("exists", zk.path_watch(path, watch))

    def get(self, path, watch=False):
        return self.call("getData", zk.path_watch(path, watch))

    def set(self, path, data=b"", version=-1):
        return self.call("setData", zk.set_data_body(path, data, version))

    def get_acl(self, path):
        return self.call("getACL", zk.buffer(path))

    def set_acl(self, path, acl, version=-1):
        return self.call("setACL", zk.set_acl_body(path, acl, version))

    def children(self, path, watch=False):
        return self.call("getChildren", zk.path_watch(path, watch))

    def children2(self, path, watch=False):
        return self.call("getChildren2", zk.path_watch(path, watch))

    def multi(self, *items):
        return self.call("multi", zk.multi_body(*items))

    def multi_read(self, *items):
        return self.call("multiRead", zk.multi_body(*items))

    def auth(self, scheme, auth):
        return self.call("auth", zk.auth_body(scheme, auth), zk.XID_AUTH)

    def add_watch(self, path, mode):
        return self.call("addWatch", zk.buffer(path) + zk.integer(mode))

    def remove_watches(self, path, kind):
        return self.call("removeWatches", zk.buffer(path) + zk.integer(kind))

    def check_watches(self, path, kind):
        return self.call("checkWatches", zk.buffer(path) + zk.integer(kind))

    def set_watches(self, relative_zxid, **lists):
        op = "setWatches2" if "persistent" in lists else "setWatches"
        return self.call(op, zk.set_watches_body(relative_zxid, **lists), zk.XID_SET_WATCHES)

    def close_session(self):
        """Ends the session properly: the reply, then the server's close."""
        if self.call("closeSession"):
            self.expect_close()
        self.context.sessions.pop(self.session, None)

    def drop(self):
        """Closes the socket without a word; the session lives on."""
        self.conn.close()
