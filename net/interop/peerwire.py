"""What servers say to each other, as plain bytes: packets of the quorum port, greetings and votes of the election port.

Here: encoders, decoders and connections for a Python program that plays a server (fact sheet sections 8 and 9).
Not here: what is said wrongly on purpose (`intruders.py`).
Invariant: nothing is repaired; every read has a deadline.
"""

import socket
import struct
import threading
import time

import zk

(REQUEST, PROPOSAL, ACK, COMMIT, PING, REVALIDATE, SYNC, INFORM, COMMITANDACTIVATE, NEWLEADER, FOLLOWERINFO, UPTODATE,
 DIFF, TRUNC, SNAP, OBSERVERINFO, LEADERINFO, ACKEPOCH, INFORMANDACTIVATE) = range(1, 20)
LOOKING, FOLLOWING, LEADING, OBSERVING = range(4)


def packet(kind, zxid=-1, data=None):
    return zk.integer(kind) + zk.long(zxid) + zk.buffer(data) + zk.integer(-1)


def learner_info(server_id, protocol=0x10000, config_version=0):
    return zk.long(server_id) + zk.integer(protocol) + zk.long(config_version)


def hello(server_id, address, version=-65536):
    text = address.encode()
    return zk.long(version) + zk.long(server_id) + zk.integer(len(text)) + text


def vote(state, leader, zxid, clock, epoch, config=b""):
    body = (zk.integer(state) + zk.long(leader) + zk.long(zxid) + zk.long(clock) + zk.long(epoch) + zk.integer(2)
            + zk.buffer(config))
    return zk.frame(body)


class Vote:
    """A notification, decoded."""

    def __init__(self, body):
        self.state, self.leader, self.zxid, self.clock, self.epoch = struct.unpack(">iqqqq", body[:36])


class Peer:
    """A connection to a server's port, or one that it made to ours."""

    def __init__(self, address=None, sock=None, timeout_s=5.0, source="127.0.0.1"):
        self.sock = sock or socket.create_connection(address, timeout_s, (source, 0))
        self.timeout_s = timeout_s
        self.sock.settimeout(timeout_s)
        self.local = self.sock.getsockname()[1]

    def send(self, data):
        """False when the other side has closed."""
        try:
            self.sock.sendall(data)
            return True
        except OSError:
            return False

    def exactly(self, n):
        """`n` bytes, or None when the other side closed first or says nothing."""
        got = b""
        while len(got) < n:
            try:
                chunk = self.sock.recv(n - len(got))
            except OSError:
                return None
            if not chunk:
                return None
            got += chunk
        return got

    def packet(self):
        """(kind, zxid, data) or None."""
        head = self.exactly(16)
        if head is None:
            return None
        kind, zxid, size = struct.unpack(">iqi", head)
        data = self.exactly(size) if size > 0 else b""
        ids = self.exactly(4)
        if ids is None:
            return None
        for _ in range(max(0, struct.unpack(">i", ids)[0])):
            for _ in range(2):
                self.exactly(struct.unpack(">i", self.exactly(4))[0])
        return kind, zxid, data

    def vote(self):
        size = self.exactly(4)
        if size is None:
            return None
        body = self.exactly(struct.unpack(">i", size)[0])
        return Vote(body) if body else None

    def closed(self, seconds=5.0):
        """Whether the other side closes in this time; what it says before is dropped."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.sock.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                if not self.sock.recv(65536):
                    return True
            except socket.timeout:
                return False
            except OSError:
                return True
        return False

    def close(self):
        self.sock.close()


class FakeLeader:
    """Plays member `server_id` of an ensemble: claims to lead until `victim` follows, then does `script(peer)` with the
    connection on the quorum port, once. `met` tells whether the victim came."""

    def __init__(self, member, victim, epoch, script):
        self.member, self.victim, self.epoch, self.script = member, victim, epoch, script
        self.listeners = [self.listen(member.election), self.listen(member.quorum)]
        self.over, self.met, self.problem = threading.Event(), threading.Event(), None
        self.sockets = []
        self.threads = [threading.Thread(target=self.elect, daemon=True), threading.Thread(target=self.greet, daemon=True),
                        threading.Thread(target=self.lead, daemon=True)]
        for t in self.threads:
            t.start()

    def listen(self, port):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind((self.member.host, port))
        s.listen(8)
        s.settimeout(0.2)
        return s

    def speak(self, peer):
        """Says our vote again and again until the connection ends, first as a candidate, then as a leader, in the round
        of the victim."""
        peer.sock.settimeout(0.2)
        state, clock, pending = LOOKING, 1, b""
        while not self.over.is_set():
            if not peer.send(vote(state, self.member.id, self.epoch << 32 | 0xFFFF, clock, self.epoch)):
                return
            try:
                chunk = peer.sock.recv(65536)
                if not chunk:
                    return
                pending += chunk
            except socket.timeout:
                continue
            except OSError:
                return
            while len(pending) >= 4 and len(pending) >= 4 + struct.unpack(">i", pending[:4])[0]:
                size = struct.unpack(">i", pending[:4])[0]
                heard, pending = Vote(pending[4:4 + size]), pending[4 + size:]
                clock = max(clock, heard.clock)
                state = LEADING if heard.state == FOLLOWING else LOOKING
            time.sleep(0.05)

    def elect(self):
        """The side with the higher id dials; we try, and are told off if ours is the lower one."""
        while not self.over.is_set():
            try:
                peer = Peer((self.victim.host, self.victim.election), timeout_s=1.0)
            except OSError:
                time.sleep(0.1)
                continue
            self.sockets.append(peer)
            peer.send(hello(self.member.id, f"{self.member.host}:{self.member.election}"))
            if self.member.id > self.victim.id:
                self.speak(peer)
            time.sleep(0.3)

    def greet(self):
        while not self.over.is_set():
            try:
                sock, _ = self.listeners[0].accept()
            except OSError:
                continue
            peer = Peer(sock=sock, timeout_s=1.0)
            self.sockets.append(peer)
            head = peer.exactly(20)
            if head:
                peer.exactly(struct.unpack(">i", head[16:])[0])
                threading.Thread(target=self.speak, args=(peer,), daemon=True).start()

    def lead(self):
        while not self.over.is_set():
            try:
                sock, _ = self.listeners[1].accept()
            except OSError:
                continue
            peer = Peer(sock=sock, timeout_s=2.0)
            self.sockets.append(peer)
            try:
                self.script(self, peer)
                self.met.set()
            except Exception as e:
                self.problem = e
            peer.close()

    def discovery(self, peer):
        """FOLLOWERINFO, LEADERINFO, ACKEPOCH: (zxid of the victim's log, its current epoch)."""
        kind, _, _ = peer.packet()
        assert kind in (FOLLOWERINFO, OBSERVERINFO), kind
        peer.send(packet(LEADERINFO, self.epoch << 32, zk.integer(0x10000)))
        kind, zxid, data = peer.packet()
        assert kind == ACKEPOCH, kind
        return zxid, struct.unpack(">i", data)[0]

    def close(self):
        self.over.set()
        for t in self.threads:
            t.join(5)
        for s in self.listeners + self.sockets:
            s.close()
