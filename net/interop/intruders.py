#!/usr/bin/env python3
"""Bad input between servers: garbage, strangers and liars on the election and quorum ports, and wrong `myid` files.

    intruders.py [--kinds SSS] [--seed S] [--only REGEX] [--serval-bin PATH]

Three parts. Strangers connect to the ports of a working ensemble: leader and epoch stay, clients go on, the connection is
closed where that is due, and a Serval server's log names the peer. Liars play a leader towards one server (a truncated
snapshot, an old epoch, a gap, garbage): it does not serve what they say, keeps what it had, and serves again with the
true members. `myid`: a server that does not know who it is refuses to start and says what to write where.
Last line: `N passed, N failed`.
"""

import argparse
import os
import random
import re
import socket
import subprocess
import sys
import time

import ensemble
import peerwire as pw
import servers
import workload
import zk

NAMED_S = 15.0  # until the log names the peer
CLOSED_S = 40.0  # until it is closed; a silent one is found out by initLimit and syncLimit together


# ---- strangers --------------------------------------------------------------------------------------------------------

class Case:
    """`port` is election or quorum; `act(peer, ground)` speaks. `closes`: the server must end the connection; `named`: its
    log must name the peer."""

    def __init__(self, name, port, act, closes=True, named=True):
        self.name, self.port, self.act, self.closes, self.named = name, port, act, closes, named


def says(data):
    return lambda peer, g: peer.send(data(g) if callable(data) else data)


def greets(server_id, then, version=-65536):
    """A greeting on the election port, then more. Ids above all others keep their connection."""
    return lambda peer, g: peer.send(pw.hello(server_id, f"127.0.0.1:{g.dead_port}", version) + then(g))


def joins(server_id, then=None, kind=pw.FOLLOWERINFO, epoch=0, protocol=0x10000, config=0):
    """FOLLOWERINFO, waits for LEADERINFO, then `then(peer, g)`."""
    def act(peer, g):
        peer.send(pw.packet(kind, epoch << 32, pw.learner_info(g.number(server_id), protocol, config)))
        if then:
            answer = peer.packet()
            assert answer and answer[0] == pw.LEADERINFO, f"no LEADERINFO but {answer}"
            then(peer, g)
    return act


def synchronised(server_id, then):
    """An observer that goes through discovery and synchronisation in good order, then does `then`."""
    def act(peer, g):
        peer.sock.settimeout(10)
        peer.send(pw.packet(pw.OBSERVERINFO, 0, pw.learner_info(g.number(server_id))))
        kind, zxid, _ = peer.packet()
        assert kind == pw.LEADERINFO, kind
        peer.send(pw.packet(pw.ACKEPOCH, 0, zk.integer(0)))
        epoch = zxid
        then(peer, g, epoch)
    return act


def request_garbage(peer, g, epoch):
    peer.send(pw.packet(pw.ACK, epoch) + pw.packet(pw.REQUEST, -1, b"\x01\x02"))


def unknown_kind(peer, g, epoch):
    peer.send(pw.packet(pw.ACK, epoch) + pw.packet(77, -1, b"\x01\x02"))


def revalidate_garbage(peer, g, epoch):
    peer.send(pw.packet(pw.ACK, epoch) + pw.packet(pw.REVALIDATE, -1, b"\x01"))


def noise(g, size=5000):
    return b"\x16\x03" + g.rng.randbytes(size)


FOREIGN = 99
HUGE = 0x7FFFFFFF
CASES = [
    Case("random bytes", "election", says(noise)),
    Case("an HTTP request", "election", says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 4)),
    Case("a TLS greeting", "election", says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600)),
    Case("an unknown version of the greeting", "election", says(zk.long(-70000) + zk.long(2) + zk.buffer("127.0.0.1:1"))),
    Case("an address of length 0", "election", says(zk.long(-65536) + zk.long(FOREIGN) + zk.integer(0))),
    Case("an address of length -5", "election", says(zk.long(-65536) + zk.long(FOREIGN) + zk.integer(-5))),
    Case("an address of length 100000", "election", says(zk.long(-65536) + zk.long(FOREIGN) + zk.integer(100000))),
    Case("an address that is none", "election", says(pw.hello(FOREIGN, "::::"))),
    Case("a SASL greeting", "election", says(zk.long(0x5F2435013501EDCC) + zk.integer(0) + zk.buffer(b"x"))),
    Case("a foreign id, message of length 0", "election", greets(FOREIGN, lambda g: zk.integer(0))),
    Case("a foreign id, message of length -1", "election", greets(FOREIGN, lambda g: zk.integer(-1))),
    Case("a foreign id, message of 2 GB", "election", greets(FOREIGN, lambda g: zk.integer(HUGE))),
    Case("a foreign id, garbled vote", "election", greets(FOREIGN, lambda g: zk.frame(b"\xff" * 30)), False, False),
    Case("a foreign id that claims to lead", "election",
         greets(FOREIGN, lambda g: pw.vote(pw.LEADING, FOREIGN, 0x7FFF_00000000, 1 << 40, 0x7FFF)), False, False),
    Case("a foreign id with the best vote", "election",
         greets(FOREIGN, lambda g: pw.vote(pw.LOOKING, FOREIGN, 0x7FFF_00000000, 1 << 40, 0x7FFF)), False, False),
    Case("a foreign id with a newer configuration", "election",
         greets(FOREIGN, lambda g: pw.vote(pw.LOOKING, FOREIGN, 1, 1, 1, b"server.99=127.0.0.1:1:2:participant\nversion=7fff")),
         False, False),
    Case("a foreign id with a stale configuration", "election",
         greets(FOREIGN - 1, lambda g: pw.vote(pw.LOOKING, 98, 1, 1, 1, b"server.98=127.0.0.1:1:2:participant\nversion=0")),
         False, True),
    Case("a foreign id with a vote as before 3.4.6", "election",
         greets(FOREIGN - 2, lambda g: zk.frame(zk.integer(0) + zk.long(97) + zk.long(1) + zk.long(1))), False, True),
    Case("the target's own id", "election", lambda peer, g: peer.send(pw.hello(g.target.id, f"127.0.0.1:{g.dead_port}"))),
    # Of two servers with one number the later one counts; the true one comes back when it has something to say.
    Case("another member's id", "election", lambda peer, g: peer.send(pw.hello(g.greater().id, f"127.0.0.1:{g.dead_port}")),
         False, True),
    Case("nothing at all", "election", lambda peer, g: None, True, True),
    Case("closed at once", "election", lambda peer, g: peer.close(), False, False),
    Case("random bytes", "quorum", says(noise)),
    Case("an HTTP request", "quorum", says(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")),
    Case("a TLS greeting", "quorum", says(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 600)),
    Case("an ACK instead of a greeting", "quorum", says(pw.packet(pw.ACK, 1))),
    Case("data of length -7", "quorum", says(zk.integer(pw.FOLLOWERINFO) + zk.long(0) + zk.integer(-7))),
    Case("data of 2 GB", "quorum", says(zk.integer(pw.FOLLOWERINFO) + zk.long(0) + zk.integer(HUGE))),
    Case("a protocol before 3.4", "quorum", joins(FOREIGN, protocol=0xFFFF)),
    Case("an id and no protocol", "quorum", says(pw.packet(pw.FOLLOWERINFO, 0, zk.long(FOREIGN)))),
    Case("the leader's own id", "quorum", lambda peer, g: joins(g.target.id)(peer, g)),
    Case("an epoch that cannot be", "quorum", joins(FOREIGN, epoch=-1)),
    Case("half a greeting", "quorum", says(pw.packet(pw.FOLLOWERINFO, 0, pw.learner_info(2))[:20])),
    Case("a configuration newer than ours", "quorum", joins(FOREIGN, config=0x7FFF00000000)),
    Case("an epoch newer than ours", "quorum",
         joins(FOREIGN, lambda peer, g: peer.send(pw.packet(pw.ACKEPOCH, 0x7FFF00000000, zk.integer(0x7FFF))), epoch=0x7FFE)),
    Case("no ACKEPOCH but garbage", "quorum", joins(FOREIGN, lambda peer, g: peer.send(pw.packet(pw.PING, 1, b"xx")))),
    Case("a short ACKEPOCH", "quorum", joins(FOREIGN, lambda peer, g: peer.send(pw.packet(pw.ACKEPOCH, 1, b"x")))),
    Case("ends in the middle of its synchronisation", "quorum",
         joins(FOREIGN, lambda peer, g: peer.send(pw.packet(pw.ACKEPOCH, 0, zk.integer(0)))), False, False),
    Case("a broken request of a learner", "quorum", synchronised(FOREIGN, request_garbage)),
    Case("a broken revalidation of a learner", "quorum", synchronised(FOREIGN, revalidate_garbage)),
    Case("an unknown packet of a learner", "quorum", synchronised(FOREIGN, unknown_kind)),
    Case("nothing at all", "quorum", lambda peer, g: None, True, True),
]


class Strangers:
    """An ensemble at work, and one case after the other."""

    def __init__(self, args):
        self.rng = random.Random(args.seed)
        # A busy machine must not lose its leader by itself: that would look like the work of a stranger.
        self.ensemble = ensemble.Ensemble(args.kinds, config={"syncLimit": "12"})
        self.dead_port = servers.server_port()
        self.strangers = 0

    def run(self, check, only):
        cases = [c for c in CASES if re.search(only, f"{c.port}: {c.name}")]
        if not cases:
            return
        with self.ensemble as e:
            e.start()
            work = workload.Workload(e, 1, registers=2, creators=1).start()
            try:
                for case in cases:
                    problem = self.one(case, work)
                    check(f"{case.port} port: {case.name}", problem)
                for problem in self.crowd(work):
                    check("a crowd of silent connections", problem)
                breaches = work.finish()
                check("clients beside all this", "; ".join(breaches[:3]))
            finally:
                for c in work.clients:
                    c.end()

    def greater(self):
        """A member whose connection the target keeps when it calls: one with a greater number."""
        return next((m for m in self.ensemble.members.values() if m.id > self.target.id), None)

    def number(self, server_id):
        """A foreign id is another one in each case: what one learner does wrong is logged only every now and then."""
        return FOREIGN + self.strangers if server_id == FOREIGN else server_id

    def standing(self):
        leader = self.ensemble.leader()
        return leader, self.ensemble[leader].zxid() >> 32 if leader else None

    def one(self, case, work):
        """What was wrong, or an empty string."""
        e = self.ensemble
        before = e.wait_for("a leader", lambda: self.standing() if self.standing()[0] else None)
        leader = e[before[0]]
        target = leader if case.port == "quorum" or self.rng.random() < 0.5 else e[self.rng.choice(e.ids())]
        if case.name == "another member's id":
            target = e[1]
        self.target = target
        told = len(target.log())
        try:
            # Each from another address: servers log what one host does wrong only every now and then.
            self.strangers += 1
            source = f"127.0.7.{self.strangers}"
            peer = pw.Peer((target.host, target.quorum if case.port == "quorum" else target.election), source=source)
            case.act(peer, self)
        except (OSError, AssertionError, TypeError) as problem:
            return f"{type(problem).__name__}: {problem}"
        problem = ""
        if case.closes and not peer.closed(CLOSED_S):
            problem = f"{target} does not close the connection"
        elif not case.closes:
            time.sleep(0.3)
        name = f"{source}:{peer.local}"
        peer.close()
        if case.named and target.kind == "S" and not problem and not self.named(target, told, name):
            problem = f"the log of {target} does not name {name}; it says: {target.log()[told:][-600:]!r}"
        try:
            work.wait_progress(20)
        except TimeoutError:
            return f"clients do not go on; {problem}"
        if self.standing() != before:
            return f"leader and epoch were {before} and are {self.standing()}; {problem}"
        return problem

    def named(self, target, told, name):
        deadline = time.monotonic() + NAMED_S
        while time.monotonic() < deadline:
            if name in target.log()[told:]:
                return True
            time.sleep(0.1)
        return False

    def crowd(self, work):
        """Many connections that say nothing, on every port: the ensemble still elects when its leader dies. (Apache's
        election port reads one greeting after the other and is stuck for seconds with each.)"""
        e = self.ensemble
        size = 150 if all(m.kind == "S" for m in e.members.values()) else 1
        held = []
        try:
            for m in e.members.values():
                for port in (m.election, m.quorum):
                    for _ in range(size):
                        try:
                            held.append(socket.create_connection((m.host, port), 2))
                        except OSError:
                            break
            work.wait_progress(20)
            leader = e.wait_leader()
            e[leader].kill()
            work.wait_progress(50)
            e[leader].launch()
            e.wait_serving()
            work.wait_progress(20)
            yield ""
        except (TimeoutError, RuntimeError) as problem:
            yield str(problem)
        finally:
            for s in held:
                s.close()


# ---- liars ------------------------------------------------------------------------------------------------------------

def snapshot_stream(cut=None):
    """The body of a small snapshot (fact sheet 10.3); `cut` leaves the end away."""
    stat = zk.long(0) * 4 + zk.integer(0) * 3 + zk.long(0) * 2
    sessions = zk.integer(0)
    acl_cache = zk.integer(1) + zk.long(1) + zk.acls(zk.OPEN)

    def node(path, data=b""):
        return zk.buffer(path) + zk.buffer(data) + zk.long(1) + stat
    body = sessions + acl_cache + node("") + node("/zookeeper") + node("/zookeeper/quota") + node("/liar", b"x" * 3000)
    body += zk.buffer("/") + zk.buffer("BenWasHere")
    return body if cut is None else body[:cut]


def sends(*pieces):
    """After discovery: these bytes, and the connection stays a moment."""
    def script(leader, peer):
        leader.discovery(peer)
        for piece in pieces:
            peer.send(piece(leader) if callable(piece) else piece)
        peer.closed(1.0)
    return script


def old_epoch(leader, peer):
    peer.packet()
    peer.send(pw.packet(pw.LEADERINFO, 0, zk.integer(0x10000)))
    peer.closed(2.0)


def no_leader_info(leader, peer):
    peer.packet()
    peer.send(os.urandom(300))
    peer.closed(1.0)


def old_protocol(leader, peer):
    peer.packet()
    peer.send(pw.packet(pw.LEADERINFO, leader.epoch << 32, zk.integer(0xFFFF)))
    peer.closed(2.0)


def impossible_epoch(leader, peer):
    peer.packet()
    peer.send(pw.packet(pw.LEADERINFO, -1 << 32, zk.integer(0x10000)))
    peer.closed(2.0)


def new_leader(leader):
    return pw.packet(pw.NEWLEADER, leader.epoch << 32)


def far(leader):
    return leader.epoch << 32 | 0xFFFF


def proposal(leader, counter, body=None):
    zxid = leader.epoch << 32 | counter
    header = zk.long(0x77) + zk.integer(1) + zk.long(zxid) + zk.long(1) + zk.integer(5)
    return pw.packet(pw.PROPOSAL, zxid, header + zk.buffer("/zookeeper/quota") + zk.buffer(b"lie") + zk.integer(7)
                     if body is None else body)


def snap(stream):
    return lambda leader: pw.packet(pw.SNAP, far(leader)) + stream


def stops(leader, peer):
    """Half of a snapshot, and then nothing: a leader that is paused. `initLimit` is how long that may last."""
    leader.discovery(peer)
    peer.send(snap(snapshot_stream(400))(leader))
    assert peer.closed(20.0), "the victim waits for ever"


LIARS = {
    "half of a snapshot and then nothing": stops,
    "a snapshot stream cut in its nodes": sends(snap(snapshot_stream(400))),
    "a snapshot stream cut before its signature": sends(snap(snapshot_stream(-10))),
    "a snapshot stream of noise": sends(snap(b"\x7f\xff\xff\xff" + b"\x55" * 4000)),
    "a snapshot with a wrong signature": sends(snap(snapshot_stream(-10) + b"BenWasNot!"), new_leader),
    "an epoch older than ours": old_epoch,
    "a protocol before 3.4": old_protocol,
    "an epoch that cannot be": impossible_epoch,
    "noise instead of LEADERINFO": no_leader_info,
    "a truncation to before our beginning": sends(lambda leader: pw.packet(pw.TRUNC, 0x0000000100000000 - 5)),
    "proposals with a gap": sends(lambda leader: pw.packet(pw.DIFF, far(leader)), lambda leader: proposal(leader, 1),
                                  lambda leader: proposal(leader, 9)),
    "a proposal of noise": sends(lambda leader: pw.packet(pw.DIFF, far(leader)),
                                 lambda leader: proposal(leader, 1, os.urandom(60))),
    "a commit of nothing": sends(lambda leader: pw.packet(pw.DIFF, far(leader)), lambda leader: pw.packet(pw.COMMIT, far(leader))),
    "UPTODATE before NEWLEADER": sends(lambda leader: pw.packet(pw.DIFF, far(leader)), pw.packet(pw.UPTODATE)),
    "NEWLEADER of another epoch": sends(lambda leader: pw.packet(pw.DIFF, far(leader)),
                                        lambda leader: pw.packet(pw.NEWLEADER, (leader.epoch + 3) << 32)),
    "NEWLEADER with a garbled configuration": sends(
        lambda leader: pw.packet(pw.DIFF, far(leader)),
        lambda leader: pw.packet(pw.NEWLEADER, leader.epoch << 32, b"server.1=\xff\xfe\nversion=zz")),
    "NEWLEADER with a stale configuration": sends(
        lambda leader: pw.packet(pw.DIFF, far(leader)),
        lambda leader: pw.packet(pw.NEWLEADER, leader.epoch << 32, b"server.3=127.0.0.1:1:2:participant\nversion=1")),
    "an unknown packet": sends(pw.packet(55, 1, b"?")),
    "a packet of 2 GB": sends(zk.integer(pw.DIFF) + zk.long(1) + zk.integer(HUGE)),
}


class Liars:
    """Member 1 is the victim, 2 is away, 3 is played."""

    def __init__(self, args):
        self.kind = args.kinds[0]
        # Only servers that may be reconfigured look at the configuration in NEWLEADER.
        self.ensemble = ensemble.Ensemble(args.kinds[0] * 3, config={"reconfigEnabled": "true"})

    def run(self, check, only):
        cases = {name: script for name, script in LIARS.items() if re.search(only, f"liar: {name}")}
        if not cases:
            return
        with self.ensemble as e:
            e.start()
            s = e.session(timeout_ms=60000)
            s.create("/before", b"truth")
            epoch = 0x40
            for name, script in cases.items():
                try:
                    check(f"a leader that sends {name}", self.one(script, epoch))
                except (TimeoutError, RuntimeError, AssertionError) as problem:
                    check(f"a leader that sends {name}", str(problem))
                    if not all(m.alive() for m in e.members.values()):
                        break
                epoch += 0x40

    def one(self, script, epoch):
        e = self.ensemble
        victim, played = e[1], e[3]
        e.wait_equal()
        e[2].kill()
        played.kill()
        # What it says of the two that were killed is not about the liar.
        e.wait_for(f"{victim} looks for a leader", lambda: victim.mode() is None)
        told = len(victim.log())
        fake = pw.FakeLeader(played, victim, epoch, script)
        try:
            e.wait_for(f"{victim} comes to the fake leader ({fake.problem!r})", fake.met.is_set, 60)
            problem = "" if victim.mode() is None else f"{victim} serves as {victim.mode()} under a liar"
            if victim.kind == "S" and not problem:
                problem = self.unnamed(victim, played, told)
        finally:
            fake.close()
        if not victim.alive():
            # Apache ends itself on some of these; what it must not do is lose or believe.
            if victim.kind == "S":
                problem = f"{victim} ended with {victim.server.process.returncode}: {victim.server.log_tail()}"
            victim.launch()
        # The victim may have accepted the liar's epoch, as it must: the true ones have to hear of that before they elect.
        # One that was told to forget everything has no vote until it has it again, so two are not enough then.
        forgot = "it asks for all of it" in victim.log()[told:]
        e[2].launch()
        if not forgot:
            e.wait_serving([1, 2])
        played.launch()
        e.wait_serving()
        for i in e.ids():
            s = e.session([i])
            s.sync("/before")
            data, stat, _ = s.get("/before")
            s.close()
            if (data, stat.version) != (b"truth", 0):
                return f"{e[i]} believed the liar: {data!r}"
        return problem


    def unnamed(self, victim, played, told):
        """Every line that says why the victim left the liar must say whom: by address, or as server or leader 3."""
        name = re.compile(f":{played.quorum}|(server|leader|learner) {played.id}\\b")
        killed = re.compile("the link to (leader|learner) 2|a quorum of voters does not follow")

        def reasons():
            return [line for line in victim.log()[told:].splitlines()
                    if "looking for a leader:" in line or "WARN" in line and "cannot be reached" not in line]
        deadline = time.monotonic() + 15
        while not reasons() and time.monotonic() < deadline:
            time.sleep(0.1)
        nameless = [line for line in reasons() if not name.search(line) and not killed.search(line)]
        if not reasons():
            return "the log says nothing"
        return f"the log does not name the leader: {nameless[0]!r}" if nameless else ""


# ---- myid -------------------------------------------------------------------------------------------------------------

MYID = {"missing": None, "empty": "", "no number": "one\n", "not in the list": "7\n",
        "out of range": "99999999999999999999\n", "negative": "-1\n"}


def myid(args, check, only):
    """Without a good myid there is no start, and the message names the file or the entry."""
    kind = "S" if "S" in args.kinds else "A"
    for name, text in MYID.items():
        if not re.search(only, f"myid: {name}"):
            continue
        with ensemble.Ensemble(kind * 3) as e:
            m = e[1]
            m.server = m.make_server()
            m.server.write_config()
            path = os.path.join(m.data, "myid")
            if text is None:
                os.unlink(path)
            else:
                with open(path, "w", encoding="ascii") as f:
                    f.write(text)
            m.server.launch()
            check(f"myid {name}", refused(m))
    if re.search(only, "myid: used twice"):
        with ensemble.Ensemble(kind * 3) as e:
            e.start()
            other = e.add(kind)
            # The same place in the list, other data, another client port.
            other.id, other.quorum, other.election = 1, e[1].quorum, e[1].election
            other.launch()
            e.unlisted.add(max(e.members))
            # Apache's stays up without its ports and tries again; what counts for it is that it never serves.
            problem = refused(other, "address|in use|already|bind") if kind == "S" else ""
            e.wait_serving([1, 2, 3])
            check("myid used twice", problem)


def refused(member, words="myid|server\\."):
    """Ends by itself, not with 0, and says why. Apache counts as refusing when it never serves."""
    try:
        code = member.server.process.wait(60 if member.kind == "S" else 20)
    except subprocess.TimeoutExpired:
        mode = member.mode()
        if member.kind == "A" and mode is None:
            return ""
        return f"still runs, as {mode}"
    if code == 0:
        return "ended with 0"
    if member.kind == "S" and not re.search(words, member.log()):
        return f"the message does not say what to do: {member.log()[-600:]!r}"
    return ""


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ensemble.add_arguments(parser)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", default="", help="a regular expression, such as 'quorum:' or 'liar: a snapshot' or 'myid'")
    args = parser.parse_args()
    ensemble.use_arguments(args)
    print(f"seed {args.seed}")
    counts = {True: 0, False: 0}

    def check(name, problem):
        counts[not problem] += 1
        print(f"{'FAILED' if problem else 'ok    '} {name}{': ' + problem if problem else ''}", flush=True)
    for part in (Strangers(args).run, Liars(args).run, lambda check, only: myid(args, check, only)):
        try:
            part(check, args.only)
        except servers.Missing as e:
            sys.exit(f"cannot run: {e}")
        except Exception as e:
            check("to the end", f"{type(e).__name__}: {e}")
    print(f"{counts[True]} passed, {counts[False]} failed")
    sys.exit(1 if counts[False] or not counts[True] else 0)


if __name__ == "__main__":
    main()
