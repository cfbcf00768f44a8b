"""The client protocol of ZooKeeper as plain bytes: encoders, decoders and a connection that hides nothing.

Here: jute primitives, request bodies, frames over a socket with a deadline on every step.
Not here: what an answer should be (`conversations/`), how it is made comparable (`render.py`), servers (`servers.py`).
Invariant: nothing is repaired on the way. What a script sends is what the server gets; what the server sends is
what the script sees, including a close.
"""

import socket
import struct
import time

OPS = {
    "create": 1, "delete": 2, "exists": 3, "getData": 4, "setData": 5, "getACL": 6, "setACL": 7,
    "getChildren": 8, "sync": 9, "ping": 11, "getChildren2": 12, "check": 13, "multi": 14, "create2": 15,
    "reconfig": 16, "checkWatches": 17, "removeWatches": 18, "createContainer": 19, "deleteContainer": 20,
    "createTTL": 21, "multiRead": 22, "auth": 100, "setWatches": 101, "sasl": 102, "getEphemerals": 103,
    "getAllChildrenNumber": 104, "setWatches2": 105, "addWatch": 106, "whoAmI": 107,
    "createSession": -10, "closeSession": -11,
}
OP_NAMES = {number: name for name, number in OPS.items()}

XID_EVENT, XID_PING, XID_AUTH, XID_SET_WATCHES = -1, -2, -4, -8

READ, WRITE, CREATE, DELETE, ADMIN, ALL = 1, 2, 4, 8, 16, 31
OPEN = [(ALL, "world", "anyone")]
EPHEMERAL, SEQUENTIAL = 1, 2


class Timeout(Exception):
    """The server said nothing, and did not close, within the deadline of the step."""


# ---- jute -----------------------------------------------------------------------------------------------------------

def boolean(v):
    return b"\1" if v else b"\0"


def integer(v):
    return struct.pack(">i", v)


def long(v):
    return struct.pack(">q", v)


def buffer(v):
    """A buffer or string; None is null (-1). Strings are sent as UTF-8, surrogates as they are."""
    if v is None:
        return integer(-1)
    if isinstance(v, str):
        v = v.encode("utf-8", "surrogatepass")
    return integer(len(v)) + v


def strings(vs):
    return integer(-1) if vs is None else integer(len(vs)) + b"".join(buffer(v) for v in vs)


def acls(vs):
    if vs is None:
        return integer(-1)
    return integer(len(vs)) + b"".join(integer(p) + buffer(s) + buffer(i) for p, s, i in vs)


class Short(Exception):
    """A decoder ran out of bytes."""


class Reader:
    """Reads jute values front to back."""

    def __init__(self, data):
        self.data, self.at = data, 0

    def take(self, n):
        if n < 0 or self.at + n > len(self.data):
            raise Short()
        self.at += n
        return self.data[self.at - n:self.at]

    def boolean(self):
        return self.take(1)[0]

    def integer(self):
        return struct.unpack(">i", self.take(4))[0]

    def long(self):
        return struct.unpack(">q", self.take(8))[0]

    def buffer(self):
        n = self.integer()
        return None if n == -1 else self.take(n)

    def rest(self):
        return self.take(len(self.data) - self.at)


# ---- requests -------------------------------------------------------------------------------------------------------

def connect_body(timeout_ms=30000, session=0, password=b"\0" * 16, last_zxid=0, read_only=0, version=0):
    """A ConnectRequest. `read_only` None leaves the byte out, as clients before 3.4 do."""
    body = integer(version) + long(last_zxid) + integer(timeout_ms) + long(session) + buffer(password)
    return body if read_only is None else body + bytes([read_only])


def create_body(path, data=b"", acl=OPEN, flags=0, ttl=None):
    body = buffer(path) + buffer(data) + acls(acl) + integer(flags)
    return body if ttl is None else body + long(ttl)


def path_version(path, version=-1):
    return buffer(path) + integer(version)


def path_watch(path, watch=False):
    return buffer(path) + boolean(watch)


def set_data_body(path, data, version=-1):
    return buffer(path) + buffer(data) + integer(version)


def set_acl_body(path, acl, version=-1):
    return buffer(path) + acls(acl) + integer(version)


def set_watches_body(relative_zxid, data=(), exist=(), child=(), persistent=None, recursive=None):
    body = long(relative_zxid) + strings(data) + strings(exist) + strings(child)
    return body if persistent is None else body + strings(persistent) + strings(recursive or ())


def auth_body(scheme, auth, kind=0):
    return integer(kind) + buffer(scheme) + buffer(auth)


def reconfig_body(joining=None, leaving=None, members=None, config_id=-1):
    return buffer(joining) + buffer(leaving) + buffer(members) + long(config_id)


def multi_header(op, done=False, err=-1):
    return integer(op) + boolean(done) + integer(err)


MULTI_END = multi_header(-1, True, -1)


def multi_body(*items):
    """Each item is (op name, body)."""
    return b"".join(multi_header(OPS[op]) + body for op, body in items) + MULTI_END


def request(xid, op, body=b""):
    """A request without its frame length. `op` is a name or a number."""
    return integer(xid) + integer(OPS.get(op, op)) + body


def frame(payload):
    return integer(len(payload)) + payload


# ---- connection -----------------------------------------------------------------------------------------------------

class Conn:
    """A TCP connection that reads frames. Every read has a deadline; a reset counts as a close."""

    def __init__(self, address, timeout_s=10.0):
        self.timeout_s = timeout_s
        self.pending = b""
        self.ended = False
        self.sock = socket.socket()
        self.sock.settimeout(timeout_s)
        try:
            self.sock.connect(address)
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.local_port = self.sock.getsockname()[1]
        except (BrokenPipeError, ConnectionResetError):
            # Accepted and closed at once, as a server over its limit does.
            self.ended, self.local_port = True, 0

    def send(self, data):
        """Sends raw bytes. A server that has closed already shows in the next read, not here."""
        self.sock.settimeout(self.timeout_s)
        try:
            if not self.ended:
                self.sock.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def send_frame(self, payload):
        self.send(frame(payload))

    def _more(self, deadline):
        left = deadline - time.monotonic()
        if left <= 0:
            raise Timeout()
        self.sock.settimeout(left)
        try:
            chunk = self.sock.recv(1 << 18)
        except socket.timeout:
            raise Timeout() from None
        except (ConnectionResetError, BrokenPipeError):
            chunk = b""
        if not chunk:
            self.ended = True
        self.pending += chunk

    def read_exactly(self, n, deadline):
        """`n` bytes, or fewer if the peer closed first."""
        while len(self.pending) < n and not self.ended:
            self._more(deadline)
        out, self.pending = self.pending[:n], self.pending[n:]
        return out

    def read_frame(self, timeout_s=None):
        """The next frame's payload, or None when the server closed the connection."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        head = self.read_exactly(4, deadline)
        if not head:
            return None
        if len(head) < 4:
            raise AssertionError(f"closed inside a frame length: {head.hex()}")
        size = struct.unpack(">i", head)[0]
        if not 0 <= size <= 64 << 20:
            raise AssertionError(f"not a frame length: {head.hex()}")
        payload = self.read_exactly(size, deadline)
        if len(payload) < size:
            raise AssertionError(f"closed inside a frame: {size} announced, {payload.hex()} came")
        return payload

    def read_to_end(self, timeout_s=None):
        """Everything until the server closes."""
        deadline = time.monotonic() + (timeout_s or self.timeout_s)
        while not self.ended:
            self._more(deadline)
        out, self.pending = self.pending, b""
        return out

    def close(self):
        self.sock.close()

    def reset(self):
        """Closes with a TCP reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


def four_letter_word(address, word, timeout_s=10.0):
    """The text that the server answers to `word`."""
    conn = Conn(address, timeout_s)
    try:
        conn.send(word if isinstance(word, bytes) else word.encode())
        return conn.read_to_end().decode("utf-8", "replace")
    finally:
        conn.close()


def java_random_password(session_id):
    """The password that every ZooKeeper server computes for a session id (fact sheet 3.2)."""
    seed = ((session_id ^ 0xB3415C00) ^ 0x5DEECE66D) & ((1 << 48) - 1)
    out = b""
    for _ in range(4):
        seed = (seed * 0x5DEECE66D + 11) & ((1 << 48) - 1)
        out += struct.pack("<I", (seed >> 16) & 0xFFFFFFFF)
    return out
