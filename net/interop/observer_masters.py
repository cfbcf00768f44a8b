#!/usr/bin/env python3
"""Observers that a follower serves in the leader's place, in ensembles of Serval and Apache ZooKeeper, row by row.

    observer_masters.py [--rows REGEX] [--serval-bin PATH] [--list]

A row is `voters+observer`; all three voters offer the port. The observer is served by a follower; writes, ephemeral
nodes, syncs and sessions that move go through it; then that follower ends, and the observer finds another server. The
rows of Apache servers alone are the check of the rows themselves. Last line: `N passed, N failed`.
"""

import client
import ensemble
import rows
import servers
from client import Expired

ROWS = ["SSS+S", "SSS+A", "AAA+S", "SSA+A", "SAA+S", "AAA+A"]
EPHEMERAL = 1


class OwnAddresses(ensemble.Loopback):
    """The port is one for all, so every member has an address of its own."""

    def host(self, member_id):
        return f"127.0.0.{20 + member_id}"


def observers_of(member):
    """How many observers that member serves."""
    lines = dict(line.split("\t", 1) for line in member.word("mntr").splitlines() if "\t" in line)
    return int(lines.get("zk_synced_observers", "0"))


def master(e):
    """The follower that serves the observer."""
    found = [m.id for m in e.members.values() if m.mode() == "follower" and observers_of(m) == 1]
    return found[0] if found else None


def through(e, observer, follower):
    """What clients do, by way of both."""
    s = e.session([observer])
    s.ensure("/through")
    s.create(f"/through/{follower}", b"x")
    s.create(f"/owned{follower}", flags=EPHEMERAL)
    for n in range(100):
        s.set("/through", str(n).encode())
    s.sync()
    s.connect_to(e[follower].address)
    s.set("/through", b"moved")
    s.connect_to(e[observer].address)
    s.sync()
    if s.get("/through")[0] != b"moved":
        raise AssertionError("a sync at the observer does not show an earlier write")
    stranger = client.Session(e.hosts([observer]), connect=False)
    stranger.id, stranger.password = 77, b"\1" * 16
    try:
        stranger.connect()
        raise AssertionError("a session that nobody knows was taken")
    except Expired:
        pass
    s.close()
    reader = e.session([follower])
    reader.sync()
    if reader.exists(f"/owned{follower}")[0]:
        raise AssertionError("an ephemeral node outlived its session")
    reader.close()
    if s.breaches + reader.breaches:
        raise AssertionError(s.breaches + reader.breaches)


def run(name):
    voters, observer = name.split("+")
    port = str(servers.server_port())
    number = len(voters) + 1
    with ensemble.Ensemble(voters + observer, {number}, {"observerMasterPort": port}, OwnAddresses()) as e:
        e.start(list(range(1, number)))
        e.start([number])
        first = e.wait_for("a follower has the observer", lambda: master(e))
        through(e, number, first)
        e[first].kill()
        e.wait_for("the observer serves again", lambda: e[number].mode() == "observer" and (master(e) or first) != first)
        e.wait_serving()
        through(e, number, master(e))
        e[first].launch()
        e.wait_serving()
        differences = [line for line in e.same_everywhere() if "/zookeeper/config" not in line]
        if differences:
            raise AssertionError(differences)
        e.stop()


if __name__ == "__main__":
    flags = rows.parser_of(__doc__)
    rows.run(flags, flags.parse_args(), ROWS, run)
