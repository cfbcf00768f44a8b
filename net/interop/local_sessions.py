#!/usr/bin/env python3
"""Local sessions and their upgrade, in ensembles of Serval and Apache ZooKeeper, row by row.

    local_sessions.py [--rows REGEX] [--serval-bin PATH] [--list]

A row is `voters/leader`. Through every member: a session that no other server knows, its writes, the node that it may
only own once all servers know it, its move to another server then, its end. Rows of Apache servers alone are the check
of the rows themselves. Last line: `N passed, N failed`.
"""

import client
import ensemble
import rows
from client import Code, Expired

ROWS = ["SSS/S", "SSA/S", "SSA/A", "SAA/S", "SAA/A", "AAA/A"]
NO_EPHEMERALS, EPHEMERAL = -120, 1
CONFIG = {"localSessionsEnabled": "true"}


def expect(what, got, wanted):
    if got != wanted:
        raise AssertionError(f"{what}: {got!r} instead of {wanted!r}")


def with_upgrade(e, member):
    """One local session of that member, until it ends as one of all."""
    elsewhere = next(i for i in e.ids() if i != member)
    e.wait_equal()
    before = e[member].zxid()
    s = e.session([member])
    s.get("/")
    expect("zxid behind a new session", e[member].zxid(), before)
    plain, owned = f"/plain{member}", f"/owned{member}"
    s.create(plain)
    s.set(plain, b"x")
    lost = client.Session(e.hosts([elsewhere]), connect=False)
    lost.id, lost.password = s.id, s.password
    try:
        lost.connect()
        raise AssertionError(f"another server took the local session of {e[member]}")
    except Expired:
        pass
    for n in range(3):
        s.create(f"{owned}-{n}", flags=EPHEMERAL)
    expect("owner", s.get(f"{owned}-0")[1].owner, s.id)
    s.connect_to(e[elsewhere].address)
    s.sync()
    expect("owner elsewhere", s.get(f"{owned}-2")[1].owner, s.id)
    s.delete(plain)
    s.close()
    reader = e.session([member])
    reader.sync()
    expect("what a closed session owned", [reader.exists(f"{owned}-{n}")[0] for n in range(3)], [None] * 3)
    reader.close()
    expect("breaches", s.breaches + reader.breaches, [])


def without_upgrade(e, member):
    """A local session that may not become one of all owns nothing, and works on."""
    s = e.session([member])
    try:
        s.create(f"/owned{member}", flags=EPHEMERAL)
        raise AssertionError("a local session owns a node")
    except Code as problem:
        expect("the error", problem.code, NO_EPHEMERALS)
    s.create(f"/plain{member}")
    s.delete(f"/plain{member}")
    s.close()


def run(name):
    kinds, led_by = name.split("/")
    for upgrades, check in (("true", with_upgrade), ("false", without_upgrade)):
        config = {**CONFIG, "localSessionsUpgradingEnabled": upgrades}
        with ensemble.Ensemble(kinds, config=config) as e:
            e.start()
            e.lead_by(next(i for i in e.ids() if e[i].kind == led_by))
            # Before an epoch's first write some show its beginning as their zxid, and some the last one's end.
            writer = e.session()
            writer.ensure("/begun")
            writer.close()
            for member in e.ids():
                check(e, member)
            # Every server fills that node by itself; which version it has there is no matter of sessions.
            differences = [line for line in e.same_everywhere() if "/zookeeper/config" not in line]
            expect("differences", differences, [])
            e.stop()


if __name__ == "__main__":
    flags = rows.parser_of(__doc__)
    rows.run(flags, flags.parse_args(), ROWS, run)
