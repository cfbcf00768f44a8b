"""Ensembles of Apache ZooKeeper and Serval servers in any mixture, on loopback or in network namespaces.

Here: their configuration, starting and ending them by process id, who leads, waiting for that, their logs on failure.
Not here: what must hold in them (`chaos.py`, `matrix.py`, `intruders.py`), networks that fail (`network.py`).
Invariants: a member keeps its id, ports and directory when its kind changes; every wait has a deadline; what was
started is ended, also after an exception.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import apachelog
import checker
import client
import servers
import zk

SERVE_S = 120.0
# In lines in which a Serval server says that its tree is another one than it should be, or that it has failed otherwise.
COMPLAINTS = ("tree digest", "this is a bug", "panicked", "report this")
STARTS = "---- "  # a log holds all processes of its member, each behind such a line
KINDS = {"A": servers.Apache, "S": servers.Serval}
NAMES = {"A": "apache", "S": "serval"}
BASE = {
    "tickTime": "500", "initLimit": "20", "syncLimit": "6", "maxClientCnxns": "0", "4lw.commands.whitelist": "*",
    "minSessionTimeout": "1000", "maxSessionTimeout": "60000", "snapCount": "2000", "preAllocSize": "4096",
    "admin.enableServer": "false",
}


class Loopback:
    """Where members live unless told otherwise."""

    def host(self, member_id):
        return "127.0.0.1"

    def popen(self, member_id):
        return subprocess.Popen


class Member:
    """One place in the ensemble. Its server object is made anew at each start, for kind and configuration may change."""

    def __init__(self, ensemble, member_id, kind, observer):
        self.ensemble, self.id, self.kind, self.observer = ensemble, member_id, kind, observer
        self.host = ensemble.place.host(member_id)
        self.port, self.quorum, self.election = (servers.server_port() for _ in range(3))
        self.directory = os.path.join(ensemble.directory, f"server{member_id}")
        self.config = {}
        self.server = None
        self.write_config = True
        self.paused = False
        self.kinds = set()  # what it has been
        self.data_directory = None  # another place for the data, such as a small file system

    def __repr__(self):
        return f"{self.kind}{self.id}"

    @property
    def address(self):
        return (self.host, self.port)

    def line(self):
        role = "observer" if self.observer else "participant"
        end = f";{self.host}:{self.port}" if self.ensemble.client_in_line else ""
        return f"{self.host}:{self.quorum}:{self.election}:{role}{end}"

    @property
    def data(self):
        return self.data_directory or os.path.join(self.directory, "data")

    def make_server(self):
        os.makedirs(self.data, exist_ok=True)
        with open(os.path.join(self.data, "myid"), "w", encoding="ascii") as f:
            f.write(f"{self.id}\n")
        keys = {**BASE, **self.ensemble.config, **self.config, "dataDir": self.data}
        if self.observer:
            keys["peerType"] = "observer"
        if self.ensemble.client_in_line:
            keys.update(clientPort=None, clientPortAddress=None)
        for m in self.ensemble.listed():
            keys[f"server.{m.id}"] = m.line()
        server = KINDS[self.kind](None, self.directory, self.port)
        server.host, server.popen, server.logger = self.host, self.ensemble.place.popen(self.id), "slf4j-simple"
        server.config = {k: v for k, v in keys.items() if v is not None}
        server.file_config = lambda: {k: v for k, v in keys.items() if k not in server.jvm_only}
        return server

    def launch(self):
        """Starts the process and does not wait for anything."""
        assert not self.alive(), f"{self} runs already"
        os.makedirs(self.directory, exist_ok=True)
        self.server = self.make_server()
        if self.write_config or not os.path.exists(self.server.config_path):
            self.server.write_config()
        with open(self.server.log_path, "a", encoding="utf-8") as f:
            f.write(f"{STARTS}{NAMES[self.kind]} {self.id} starts\n")
        self.kinds.add(self.kind)
        self.server.launch()

    def alive(self):
        return self.server is not None and self.server.alive()

    def kill(self):
        self.paused = False
        if self.server:
            self.server.kill()

    def stop(self):
        """SIGTERM; None when that did not end it in time."""
        self.resume()
        return self.server.stop()

    def pause(self):
        """Returns when all threads stand still: on a busy machine the others run on until the one that is to see the
        signal has its turn."""
        self.server.signal(signal.SIGSTOP)
        self.paused = True
        tasks = f"/proc/{self.server.process.pid}/task"

        def stands_still():
            states = []
            for task in os.listdir(tasks):
                try:
                    with open(f"{tasks}/{task}/stat", encoding="utf-8", errors="replace") as f:
                        states.append(f.read().rpartition(")")[2].split()[0])
                except OSError:  # that thread has ended
                    states.append("?")
            return set(states) == {"T"}
        self.ensemble.wait_for(f"{self} stands still", stands_still)

    def resume(self):
        if self.server:
            self.server.signal(signal.SIGCONT)
        self.paused = False

    def word(self, word, timeout_s=2.0):
        """A four-letter word's answer, empty when there is none."""
        if not self.alive() or self.paused:
            return ""
        try:
            return zk.four_letter_word(self.address, word, timeout_s)
        except (OSError, zk.Timeout):
            return ""

    def srvr(self):
        """The lines `key: value` of srvr."""
        return dict(line.split(": ", 1) for line in self.word("srvr").splitlines() if ": " in line)

    def mode(self):
        return self.srvr().get("Mode")

    def zxid(self):
        return int(self.srvr().get("Zxid", "-0x1"), 16)

    def log(self):
        path = os.path.join(self.directory, "server.log")
        if not os.path.exists(path):
            return ""
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def last_log(self):
        """What the process that was started last has logged."""
        return self.log().rpartition(STARTS)[2]


class Void(Exception):
    """An Apache server has lost transactions that it had claimed to have: what its ensemble then does says nothing."""


VOIDS = 3  # so often at most is something run again because an Apache server lost what it had


def not_void(name, run):
    """What `run()` gives, the first time that it is not void. Every void run is told."""
    for _ in range(VOIDS):
        try:
            return run()
        except Void as e:
            print(f"void   {name}, and once more: {e}", flush=True)
    return run()


class Ensemble:
    """`kinds` gives the members 1..n ("A" or "S" each), `observers` the ids among them that observe."""

    def __init__(self, kinds, observers=(), config=None, place=None, client_in_line=False, per_member=None, keep=False):
        self.directory = tempfile.mkdtemp(prefix="interop-ensemble-")
        self.config, self.place, self.client_in_line = dict(config or {}), place or Loopback(), client_in_line
        self.keep = keep or bool(os.environ.get("INTEROP_KEEP"))
        self.members = {}
        for number, kind in enumerate(kinds, 1):
            self.members[number] = Member(self, number, kind, number in observers)
            self.members[number].config.update((per_member or {}).get(number, {}))
        self.unlisted = set()  # members that are in no server line (yet)

    def listed(self):
        return [m for m in self.members.values() if m.id not in self.unlisted]

    def add(self, kind, observer=False):
        """A further member, in nobody's server lines but its own; reconfiguration brings it in."""
        number = max(self.members) + 1
        self.members[number] = Member(self, number, kind, observer)
        return self.members[number]

    def __getitem__(self, member_id):
        return self.members[member_id]

    def ids(self):
        return list(self.members)

    def voters(self):
        return [m.id for m in self.members.values() if not m.observer]

    def hosts(self, ids=None):
        return [self.members[i].address for i in ids or self.members]

    def session(self, ids=None, **options):
        return client.Session(self.hosts(ids), **options)

    # ---- starting and ending ------------------------------------------------------------------------------------

    def start(self, ids=None, wait=True):
        for i in ids or self.ids():
            self.members[i].launch()
        if wait:
            self.wait_serving(ids)
        return self

    def restart(self, member_id, kill=True):
        m = self.members[member_id]
        if m.alive():
            m.kill() if kill else m.stop()
        m.launch()
        self.wait_serving([member_id])

    def stop(self):
        """Ends every process that still runs."""
        for m in self.members.values():
            if m.alive():
                m.resume()
                m.server.signal(signal.SIGTERM)
        for m in self.members.values():
            if m.server and m.server.process:
                try:
                    m.server.process.wait(servers.STOP_S)
                except subprocess.TimeoutExpired:
                    m.server.kill()

    def remove(self):
        for m in self.members.values():
            if m.alive():
                m.kill()
        if self.keep:
            print(f"kept: {self.directory}")
        else:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, kind, value, _):
        failed = kind is not None and issubclass(kind, Exception) and kind is not Void
        lost = self.lost_by_apache() if failed else []
        if kind not in (None, KeyboardInterrupt, Void) and not lost:
            print(f"\n{kind.__name__}: {value}\n{self.logs()}", file=sys.stderr, flush=True)
        self.remove()
        if lost:
            raise Void("; ".join(lost)) from value

    def unless_void(self, breaches):
        """`breaches`, unless an Apache server has lost what it had. What Serval servers lack among themselves counts all the
        same, as long as none such can have led them."""
        holes = self.holes() if breaches else []
        if not holes:
            return breaches
        # What followed the hole was its first packet from the leader to whom it made the claim.
        since = [m.log().partition(f"Got zxid 0x{after:x} expected") for m, _, _, after in holes]
        led = any(not found or "LEADING - LEADER ELECTION TOOK" in later for _, found, later in since)
        own = [line for line in breaches if re.match(r"S\d+( and S\d+)?: ", line)]
        if own and not led:
            return own
        raise Void("; ".join(self.lost_by_apache()))

    def lost_by_apache(self):
        return [f"{m} claimed {claim:x}, its log goes from {before:x} to {after:x}" for m, claim, before, after in self.holes()]

    def holes(self):
        """What Apache servers have lost by themselves, as (member, claim, before, after): a server told its new leader how far
        its history goes, and its own log does not hold that. (3.8.0 keeps its tree in memory from one leader to the next, and
        drops what waits for the disk: ZOOKEEPER-2845, 4712 and others. It lacks it when it starts again.) A leader that
        skipped something is not excused by this: its follower would not have claimed it."""
        found = []
        for m in self.members.values():
            if "A" not in m.kinds:
                continue
            claims = set()
            for other in self.members.values():
                log = other.log()
                claims |= {int(z, 16) for z in re.findall(rf"server {m.id} has the history up to 0x([0-9a-f]+)", log)}
                claims |= {int(z, 16) for z in
                           re.findall(rf"Synchronizing with Learner sid: {m.id} .*peerLastZxid=0x([0-9a-f]+)", log)}
            log = m.log()
            filled = {int(z, 16) for z in re.findall(r"Getting a snapshot from leader 0x([0-9a-f]+)", log)}
            cut = {int(z, 16) for z in re.findall(r"Truncating log to get in sync with the leader 0x([0-9a-f]+)", log)}
            zxids = apachelog.zxids(os.path.join(m.data, "version-2"))
            found += [(m, *hole) for hole in checker.unheld(zxids, claims, filled | cut)]
        return found

    # ---- who does what ------------------------------------------------------------------------------------------

    def roles(self):
        """{id: mode}; None for those that do not serve."""
        return {m.id: m.mode() for m in self.members.values()}

    def leader(self):
        """The id of the one that says that it leads, or None."""
        leaders = [i for i, mode in self.roles().items() if mode == "leader"]
        return leaders[0] if len(leaders) == 1 else None

    def wait_for(self, what, condition, seconds=SERVE_S):
        """What `condition` gave once it was true."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            got = condition()
            if got:
                return got
            time.sleep(0.02)
        raise TimeoutError(f"not within {seconds} s: {what}; roles {self.roles()}")

    def wait_serving(self, ids=None, seconds=SERVE_S):
        """Until all of these serve, and one of all leads."""
        ids = list(ids or [i for i, m in self.members.items() if m.alive() and not m.paused])

        def serving():
            for i in ids:
                m = self.members[i]
                if m.server.process.poll() is not None:
                    raise RuntimeError(f"{m} ended with {m.server.process.returncode}")
                if m.mode() is None:
                    return False
            return self.leader() is not None
        self.wait_for(f"{ids} serve", serving, seconds)

    def wait_leader(self, seconds=SERVE_S):
        return self.wait_for("a leader", self.leader, seconds)

    def wait_equal(self, seconds=60.0, ids=None):
        """Until all that serve show one zxid."""
        members = [self.members[i] for i in ids or self.ids() if self.members[i].alive()]

        def equal():
            zxids = {m.zxid() for m in members}
            return len(zxids) == 1 and -1 not in zxids
        self.wait_for("equal zxids", equal, seconds)

    def lead_by(self, member_id):
        """Makes this member the leader of all: it and a bare majority with the present leader take a write that the
        others miss; then that majority but for this member goes, and the others, whose logs are shorter, elect it."""
        self.wait_serving()
        leader = self.leader()
        if leader == member_id:
            return
        voters = self.voters()
        company = [member_id, leader] + [v for v in voters if v not in (member_id, leader)]
        ahead, behind = company[:len(voters) // 2 + 1], company[len(voters) // 2 + 1:]
        for i in behind:
            self.members[i].kill()
        with_leader = self.session([leader])
        with_leader.ensure("/ahead")
        with_leader.set("/ahead", b"")
        with_leader.close()
        for i in ahead:
            if i != member_id:
                self.members[i].kill()
        for i in behind:
            self.members[i].launch()
        self.wait_serving([member_id] + behind)
        for i in ahead:
            if i != member_id:
                self.members[i].launch()
        self.wait_serving(self.ids())
        if self.leader() != member_id:
            raise AssertionError(f"{member_id} had the longest log and does not lead; roles {self.roles()}")

    def same_everywhere(self, ids=None):
        """What the dumps, with Stats, and the digests of the members differ in, as lines. Taken again if a session
        expired meanwhile, for that is a change too."""
        ids = [i for i in ids or self.ids() if self.members[i].alive()]
        self.write_to_a_digest()
        for _ in range(10):
            # Every session is there before the first dump is taken: that is a transaction as well.
            readers = {i: self.session([i], timeout_ms=60000) for i in ids}
            self.wait_equal(ids=ids)
            before = self.members[ids[0]].zxid()
            trees = {i: client.dump(s) for i, s in readers.items()}
            unchanged = before == self.members[ids[0]].zxid()
            for s in readers.values():
                s.close()
            if unchanged:
                return self.compare(trees)
        return ["the ensemble does not come to rest"]

    def write_to_a_digest(self):
        """Servers keep the digest of every 128th transaction: writes until there is a new one."""
        s = self.session()
        s.ensure("/last")
        for _ in range(130):
            try:
                s.set("/last", b"")
            except client.Lost:
                continue
        s.close()

    def compare(self, trees):
        first, *rest = trees
        lines = []
        for i in rest:
            pair = f"{self.members[first]} and {self.members[i]}"
            lines += [f"{pair}: {line}" for line in client.difference(trees[first], trees[i])]
        digests = {self.members[i]: digest_list(self.members[i]) for i in trees}
        more, excused = checker.digests(digests, self.fuzzy_from)
        for m in digests:
            said = [line for line in m.log().splitlines() if any(words in line for words in COMPLAINTS)]
            lines += [f"{m} says: {line}" for line in said if "S" in m.kinds][:3]
        self.compared = f"{len(trees[first])} nodes, {sum(map(len, digests.values()))} digests"
        if excused:
            self.compared += f" (not counted: {', '.join(excused)}, behind a snapshot of Apache's)"
        return lines + more

    def fuzzy_from(self, member):
        """The zxids of snapshots that an Apache server had from a leader that was, or may have been, an Apache server.
        That leader goes on while it writes; what the follower then calls its digest belongs to no state of any server,
        until it has caught up. Serval's snapshots are exact, and its followers keep no such digest."""
        places = {str(m.quorum): m for m in self.members.values()}
        found, leader = [], None
        for line in member.last_log().splitlines():
            connected = re.search(r"Successfully connected to leader, using address: .*:(\d+)$", line)
            if connected:
                leader = places.get(connected.group(1))
            got = re.search(r"Getting a snapshot from leader 0x([0-9a-f]+)", line)
            if got and leader is not None and "A" in leader.kinds:
                found.append(int(got.group(1), 16))
        return found

    def logs(self, lines=40):
        out = []
        for m in self.members.values():
            state = "alive" if m.alive() else "ended"
            code = m.server.process.returncode if m.server and m.server.process else None
            out.append(f"==== {m} ({NAMES[m.kind]}, {state}, {code}, {m.mode()})")
            out += [line for line in m.log().splitlines() if not line.startswith("\t")][-lines:]
        return "\n".join(out)


def digest_list(member):
    """{zxid: digest} of the word `hash`."""
    lines = [line.split(": ") for line in member.word("hash").splitlines() if ": " in line]
    return {int(zxid, 16): digest for zxid, digest in lines}


def add_arguments(parser):
    parser.add_argument("--kinds", default="SSS", help="one letter per server: A for Apache, S for Serval")
    parser.add_argument("--serval-bin", help="the binary (default: SERVAL_BIN, or target/release/serval)")


def use_arguments(args):
    """Checks that what is asked for can be started, and sees to it that SIGTERM ends what was started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if getattr(args, "serval_bin", None):
        os.environ["SERVAL_BIN"] = os.path.abspath(args.serval_bin)
    kinds = getattr(args, "kinds", "A")
    try:
        if "S" in kinds:
            servers.Serval.binary()
        if "A" in kinds:
            servers.Apache.needed()
    except servers.Missing as e:
        sys.exit(f"cannot run: {e}")
