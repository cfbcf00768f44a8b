#!/usr/bin/env python3
"""Kills a server again and again under pipelined writes: every write it acknowledged must be there afterwards.

    kill_cycles.py [--cycles N] [--server serval|apache] [--writers N] [--command 'CMD ... {config}']

Each cycle: start the server on the same data directory, check everything that was ever acknowledged, let several
writers pipeline creates and sets, kill -9 at a random moment, note what had been acknowledged.
What this shows: the log is written before the acknowledgement and recovery reads all of it. What it cannot show:
that it was synced (the page cache survives a kill); power cuts are played on the faulty disk of the `wal` crate.

For every key the value after a restart must be at least the last acknowledged one, and at most the last one sent; a
node that was created with an acknowledgement exists; sequence numbers are not given twice. The seed is printed.
Last line: `N cycles, N acknowledged, N lost`.
"""

import argparse
import random
import shlex
import sys
import tempfile
import threading
import time

import servers
import zk

KEYS = 16
WINDOW = 400  # requests in flight per writer
CHUNK = 2000  # nodes below one parent


class Custom(servers.Server):
    """A server started by a command line in which {config} stands for its zoo.cfg."""

    name = "custom"
    template = ""

    def command(self):
        return shlex.split(self.template.format(config=self.config_path))


class Session:
    """A raw session for one purpose; calls are synchronous."""

    def __init__(self, address):
        self.conn = zk.Conn(address, timeout_s=20)
        self.conn.send_frame(zk.connect_body(timeout_ms=20000))
        answer = self.conn.read_frame()
        if answer is None:
            raise OSError("no session")

    def call(self, op, body):
        """(err, body of the reply)."""
        self.conn.send_frame(zk.request(1, op, body))
        payload = self.conn.read_frame()
        if payload is None:
            raise OSError("closed")
        return zk.Reader(payload[12:]).integer(), payload[16:]


class Writer(threading.Thread):
    """Pipelines writes until the server dies; keeps what was sent and what was acknowledged, over all cycles."""

    def __init__(self, number):
        super().__init__()
        self.number = number
        self.next_value = 1
        self.acked = {k: 0 for k in range(KEYS)}   # last acknowledged value per key
        self.sent = {k: 0 for k in range(KEYS)}    # last value sent per key
        self.created = []                          # acknowledged sequential nodes
        self.acknowledged = 0

    def key_path(self, key):
        return f"/w{self.number}/k{key}"

    def attach(self, address):
        """Readies this writer for the next cycle (a thread runs once)."""
        threading.Thread.__init__(self)
        self.address = address
        self.in_flight = []
        self.problem = None

    def prepare(self, session):
        for path in [f"/w{self.number}", f"/w{self.number}/s"] + [self.key_path(k) for k in range(KEYS)]:
            session.call("create", zk.create_body(path, b"0"))

    def next_request(self):
        """(what, request bytes): every fourth creates a node, the others set a key to a rising value."""
        value = self.next_value
        self.next_value += 1
        if value % 4 == 0:
            parent = f"/w{self.number}/s"
            return ("create", parent, value), zk.request(1, "create", zk.create_body(parent + "/n-", str(value), flags=2))
        key = value % KEYS
        self.sent[key] = value
        return ("set", key, value), zk.request(1, "setData", zk.set_data_body(self.key_path(key), str(value)))

    def run(self):
        try:
            conn = Session(self.address).conn
            while True:
                batch = b""
                for _ in range(WINDOW - len(self.in_flight)):
                    what, payload = self.next_request()
                    self.in_flight.append(what)
                    batch += zk.frame(payload)
                conn.send(batch)
                for _ in range(WINDOW // 2):
                    payload = conn.read_frame()
                    if payload is None:
                        return
                    self.take(self.in_flight.pop(0), payload)
        except (OSError, zk.Timeout):
            return
        except AssertionError as e:
            # A frame cut short by the kill is not an acknowledgement; anything else is told.
            if "closed inside" not in str(e):
                self.problem = str(e)

    def take(self, what, payload):
        kind, key, value = what
        err = zk.Reader(payload[12:]).integer()
        if err:
            self.problem = f"writer {self.number}: {what} answered {err}"
            return
        self.acknowledged += 1
        if kind == "set":
            self.acked[key] = value
        else:
            self.created.append((zk.Reader(payload[16:]).buffer(), value))

    def verify(self, session):
        """The acknowledged writes that are not there, as text."""
        lost = []
        for key in range(KEYS):
            err, body = session.call("getData", zk.path_watch(self.key_path(key)))
            got = -1 if err else int(zk.Reader(body).buffer() or b"-1")
            if not self.acked[key] <= got <= self.sent[key]:
                lost.append(f"{self.key_path(key)}: {got}, acknowledged {self.acked[key]}, sent {self.sent[key]}")
            # What was in flight may or may not have happened; from here on the server's word counts.
            self.acked[key] = max(self.acked[key], got)
        _, body = session.call("getChildren", zk.path_watch(f"/w{self.number}/s"))
        r = zk.Reader(body)
        there = {r.buffer() for _ in range(r.integer())}
        names = [path.rsplit(b"/", 1)[1] for path, _ in self.created]
        lost += [f"/w{self.number}/s/{n.decode()}: missing" for n in names if n not in there]
        if len(set(names)) != len(names):
            lost.append(f"writer {self.number}: a sequence number was given twice")
        return lost

    def clear(self, session):
        """Drops the sequential nodes when there are many, so that a cycle stays short."""
        if len(self.created) < CHUNK:
            return
        _, body = session.call("getChildren", zk.path_watch(f"/w{self.number}/s"))
        r = zk.Reader(body)
        names = [r.buffer() for _ in range(r.integer())]
        paths = [f"/w{self.number}/s/".encode() + n for n in names]
        for start in range(0, len(paths), 500):
            part = paths[start:start + 500]
            session.conn.send(b"".join(zk.frame(zk.request(1, "delete", zk.path_version(p))) for p in part))
            for _ in part:
                if session.conn.read_frame() is None:
                    raise OSError("closed while clearing")
        self.created = []


def verify_all(writers, session):
    return [line for w in writers for line in w.verify(session)]


def run(server, cycles, writers, random_source):
    lost, told = [], 0
    for cycle in range(cycles + 1):
        server.start()
        session = Session(server.address)
        for w in writers:
            if cycle == 0:
                w.prepare(session)
        missing = verify_all(writers, session)
        lost += [f"cycle {cycle}: {line}" for line in missing]
        if cycle == cycles:
            break
        for w in writers:
            w.clear(session)
            w.attach(server.address)
            w.start()
        time.sleep(random_source.uniform(0.02, 0.4))
        server.kill()
        session.conn.close()
        for w in writers:
            w.join(30)
            if w.is_alive():
                lost.append(f"cycle {cycle}: writer {w.number} did not notice the end of the server")
            if w.problem:
                lost.append(f"cycle {cycle}: {w.problem}")
        for line in lost[told:told + 10]:
            print(line)
        told = len(lost)
    for line in lost[told:told + 10]:
        print(line)
    return len(lost)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--server", choices=["serval", "apache"], default="serval")
    parser.add_argument("--writers", type=int, default=4)
    parser.add_argument("--command", help="command line with {config} for the configuration file")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    args = parser.parse_args()
    print(f"seed {args.seed}")
    with tempfile.TemporaryDirectory(prefix="interop-kill-") as directory:
        config = {"snapCount": "5000"}
        if args.command:
            Custom.template = args.command
            server = Custom(config, directory)
        else:
            server = servers.KINDS[args.server](config, directory)
        writers = [Writer(n) for n in range(args.writers)]
        try:
            lost = run(server, args.cycles, writers, random.Random(args.seed))
        except servers.Missing as e:
            sys.exit(f"cannot run: {e}")
        finally:
            if server.alive():
                server.kill()
    acknowledged = sum(w.acknowledged for w in writers)
    # A run in which nothing was acknowledged shows nothing.
    idle = acknowledged < args.cycles
    print(f"{args.cycles} cycles, {acknowledged} acknowledged, {lost} lost" + (" (too few to mean anything)" if idle else ""))
    sys.exit(1 if lost or idle else 0)


if __name__ == "__main__":
    main()
