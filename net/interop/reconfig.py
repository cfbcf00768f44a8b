#!/usr/bin/env python3
"""Members that change while they serve, in mixed ensembles of Serval and Apache ZooKeeper.

    reconfig.py [--rows REGEX] [--serval-bin PATH]

A row names the kinds of three servers, in the order in which they join: SAS begins with one Serval server. Each row:
refusals with ZooKeeper's codes; one server grows to three; a watch on /zookeeper/config; the leader leaves and goes on
without a vote; it comes back as an observer and then as a voter; a second change while the first has no quorum; client
ports that move; the whole list at once; every member starts again from
the files that the servers wrote. After each step every member has the same configuration, in its tree and its files, and
takes writes; in the end the dumps are equal. AAA checks the rows themselves.
Last line: `N passed, N failed`.
"""

import argparse
import os
import re
import socket
import sys
import threading
import time
import traceback

import client
import ensemble
import servers
from client import Code, Lost

ROWS = ["SSS", "SAS", "ASA", "ASS", "SAA"]
CONFIG = "/zookeeper/config"
NO_QUORUM, IN_PROGRESS, BAD_ARGUMENTS, NO_AUTH, BAD_VERSION, DISABLED = -13, -14, -8, -102, -103, -123
KEYS = {
    "reconfigEnabled": "true", "standaloneEnabled": "false",
    "DigestAuthenticationProvider.superDigest": servers.SUPER_DIGEST,
}


class Row:
    def __init__(self, kinds):
        self.kinds = kinds
        self.ensemble = ensemble.Ensemble(kinds[0], config=KEYS, client_in_line=True)
        self.members = set()
        self.version = 0
        self.written = 0

    def run(self):
        with self.ensemble as e:
            self.e = e
            e.start()
            self.members = {1}
            for step in STEPS:
                started = time.monotonic()
                try:
                    step(self)
                    self.check()
                except Exception as problem:
                    raise AssertionError(f"{step.__name__}: {type(problem).__name__}: {problem}") from problem
                if os.environ.get("INTEROP_VERBOSE"):
                    print(f"    {self.kinds}: {step.__name__} {time.monotonic() - started:.1f} s", flush=True)
            e.wait_serving()
            different = e.same_everywhere()
            assert not different, different

    def at(self, member_id, admin=True):
        s = self.e.session([member_id])
        if admin:
            s.auth("digest", "super:test")
        return s

    def change(self, through, wait_quorum=False, **what):
        """A reconfiguration. A connection that ends meanwhile leaves it open whether it happened: the node says it."""
        deadline = time.monotonic() + ensemble.SERVE_S
        while True:
            s = None
            try:
                s = self.at(through)
                text = s.reconfig(**what)[0]
                break
            except Lost:
                after = self.config(self.e.ids())
                if after > self.version:
                    text = self.text
                    break
            except Code as c:
                # A joiner may not be synchronised yet, or the last change not be known everywhere.
                if not (wait_quorum and c.code in (NO_QUORUM, IN_PROGRESS)):
                    raise
            finally:
                if s:
                    s.drop()
            assert time.monotonic() < deadline, f"{what} does not come about"
            time.sleep(0.05)
        self.text, self.version = text, version_of(text)
        return text

    def config(self, ids):
        """The version at any of these."""
        s = self.e.session(ids)
        self.text = s.get(CONFIG)[0].decode()
        s.close()
        return version_of(self.text)

    def refused(self, code, through=1, admin=True, **what):
        s = self.at(through, admin)
        try:
            s.reconfig(**what)
        except Code as c:
            assert c.code == code, f"{what}: {c.code} instead of {code}"
        else:
            raise AssertionError(f"{what} was not refused with {code}")
        finally:
            s.close()

    def join(self, kind, through):
        m = self.e.add(kind)
        m.launch()
        self.change(through, wait_quorum=True, joining=f"server.{m.id}={m.line()}")
        self.members.add(m.id)

    def check(self):
        """Every server has the last configuration, in the tree and in its files, and takes writes."""
        for m in self.e.members.values():
            def known():
                try:
                    return m.mode() and self.config([m.id]) == self.version
                except (Lost, client.Refused, Code):
                    return False
            self.e.wait_for(f"version {self.version:x} at {m}", known)

            def written():
                path = os.path.join(m.directory, f"zoo.cfg.dynamic.{self.version:x}")
                if not os.path.exists(path):
                    return False
                with open(os.path.join(m.directory, "zoo.cfg"), encoding="utf-8") as f:
                    main = f.read()
                with open(path, encoding="utf-8") as f:
                    lines = set(f.read().splitlines())
                text = set(line for line in self.text.splitlines() if not line.startswith("version="))
                return lines == text and path in main and "server." not in main and "clientPort=" not in main
            self.e.wait_for(f"the files of version {self.version:x} at {m}", written)
            self.written += 1
            s = self.e.session([m.id])
            s.ensure(f"/n{self.written}", str(self.e.roles()).encode())
            s.close()
        servers_in = {int(n) for n in re.findall(r"^server\.(\d+)=", self.text, re.M)}
        assert servers_in == self.members, (servers_in, self.members)


def version_of(text):
    return int(re.search(r"^version=([0-9a-f]+)$", text, re.M).group(1), 16)


# ---- steps --------------------------------------------------------------------------------------------------------


def begins(row):
    row.version = row.config([1])
    assert row.version == 1 << 32, hex(row.version)


def refuses(row):
    free = "server.9=127.0.0.1:{}:{}:participant;127.0.0.1:{}".format(*(servers.server_port() for _ in range(3)))
    row.refused(BAD_VERSION, joining=free, config_id=77)
    row.refused(BAD_ARGUMENTS, leaving="1")
    row.refused(BAD_ARGUMENTS, joining="server.9=127.0.0.1:1:2")
    row.refused(BAD_ARGUMENTS, joining="server.9")
    row.refused(BAD_ARGUMENTS, members="nonsense=1")
    row.refused(NO_QUORUM, joining=free)
    row.refused(NO_QUORUM, admin=False, joining=free)
    row.refused(NO_AUTH, admin=False, joining=row.e[1].line().join(["server.1=", ""]))


def grows(row):
    watcher = row.e.session([1])
    watcher.get(CONFIG, watch=True)
    row.join(row.kinds[1], through=1)
    watcher.pump(10.0, until=lambda: watcher.events)
    assert [(e.kind, e.path) for e in watcher.events] == [("changed", CONFIG)], watcher.events
    stat = watcher.get(CONFIG)[1]
    assert stat.version == -1 and stat.mzxid == row.version, (stat.version, hex(stat.mzxid))
    watcher.close()
    row.check()
    row.join(row.kinds[2], through=2)


def leader_leaves(row):
    leader = row.e.wait_leader()
    row.change(leader, wait_quorum=True, leaving=str(leader), config_id=row.version)
    row.members.remove(leader)
    row.left = leader
    row.e.wait_for("another leader", lambda: row.e.leader() in row.members)
    row.e.wait_for("the former leader follows", lambda: row.e[leader].mode() == "follower")


def comes_back_observing(row):
    m = row.e[row.left]
    m.observer = True
    row.change(m.id, wait_quorum=True, joining=f"server.{m.id}={m.line()}")
    row.members.add(m.id)
    row.e.wait_for("it observes", lambda: m.mode() == "observer")


def comes_back_voting(row):
    m = row.e[row.left]
    m.observer = False
    row.change(row.e.wait_leader(), wait_quorum=True, joining=f"server.{m.id}={m.line()}")
    row.e.wait_for("it follows", lambda: m.mode() in ("follower", "leader"))


def one_at_a_time(row):
    """A change that waits for its quorum refuses the next one. The answer keeps its place: it comes behind that quorum."""
    leader = row.e.wait_leader()
    followers = [m for i, m in row.e.members.items() if i != leader]
    line = f"server.{followers[0].id}={followers[0].line()}"
    first, second = row.at(leader), row.at(leader)
    before = outstanding(row.e[leader])
    answers = {}

    def ask(s):
        try:
            answers[s] = s.reconfig(joining=line)[0]
        except (Code, Lost) as problem:
            answers[s] = problem
    threads = [threading.Thread(target=ask, args=(s,), daemon=True) for s in (first, second)]
    for m in followers:
        m.pause()
    try:
        for n, thread in enumerate(threads, 1):
            thread.start()
            # Longer than syncLimit the leader does not wait for its followers.
            row.e.wait_for(f"{n} under way", lambda n=n: outstanding(row.e[leader]) >= before + n, 2.5)
        assert not answers, f"answered without a quorum: {answers}"
    finally:
        for m in followers:
            m.resume()
    for thread in threads:
        thread.join(ensemble.SERVE_S)
    assert isinstance(answers[first], str), f"the first: {answers[first]!r}"
    assert isinstance(answers[second], Code) and answers[second].code == IN_PROGRESS, f"the second: {answers[second]!r}"
    row.text, row.version = answers[first], version_of(answers[first])
    first.close()
    second.close()


def outstanding(member):
    return int(dict(line.split("\t") for line in member.word("mntr").splitlines())["zk_outstanding_requests"])


def client_ports_move(row):
    """At once, and connections that stand go on."""
    for m in row.e.members.values():
        old, new = m.port, servers.server_port()
        stands = row.at(m.id)
        m.port = new
        line = m.line()
        m.port = old
        row.change(m.id, wait_quorum=True, joining=f"server.{m.id}={line}")
        m.port = new
        row.e.wait_for(f"{m} at its new port", m.mode)

        def refused(address=(m.host, old)):
            try:
                socket.create_connection(address, 1.0).close()
            except OSError:
                return True
            return False
        row.e.wait_for(f"{m} leaves its old port", refused)
        stands.get(CONFIG)
        assert stands.moves == 0, "the connection did not stand"
        stands.drop()
        row.check()


def whole_list(row):
    lines = [f"server.{m.id}={m.line()}" for m in row.e.members.values()]
    follower = next(i for i, mode in row.e.roles().items() if mode == "follower")
    row.change(follower, wait_quorum=True, members=",".join(lines))


def starts_again(row):
    for m in row.e.members.values():
        m.write_config = False
        m.stop()
        m.launch()
    row.e.wait_serving()


STEPS = [begins, refuses, grows, leader_leaves, comes_back_observing, comes_back_voting, one_at_a_time,
         client_ports_move, whole_list, starts_again]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=".*", help="of these")
    parser.add_argument("--kinds", help="just this row")
    parser.add_argument("--serval-bin")
    args = parser.parse_args()
    rows = [args.kinds] if args.kinds else [r for r in ROWS if re.search(args.rows, r)]
    args.kinds = "".join(rows)
    ensemble.use_arguments(args)
    failed = 0
    for kinds in rows:
        started = time.monotonic()
        try:
            ensemble.not_void(kinds, lambda: Row(kinds).run())
            print(f"ok    {kinds} {time.monotonic() - started:.1f} s", flush=True)
        except Exception:
            failed += 1
            traceback.print_exc()
            print(f"FAIL  {kinds}", flush=True)
    print(f"{len(rows) - failed} passed, {failed} failed")
    return 1 if failed or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
