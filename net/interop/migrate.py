#!/usr/bin/env python3
"""Data of Debian's ZooKeeper 3.8.0 through `serval import` and `serval export`, compared node by node, both ways.

    migrate.py [--seed S] [--serval-bin PATH] [SCENARIO ...]

Scenarios (all by default):
  import    every kind of node, ACL and session; killed, then imported by the command and by `serve` itself: dumps are
            equal, a session goes on, with and without a dataLogDir.
  fuzzy     snapshots taken under heavy writes, then kill -9: each of them, with the logs behind it, gives one digest.
  packed    the same with gzip and snappy snapshots.
  members   three members under load, killed: each one's data, with its epochs.
  export    a Serval server's data, exported, served by Apache, changed there, and imported again.
  damage    bytes flipped in every kind of file: refused, or the same digest; a running server and missing files: refused.
Last line: `N scenarios, N directories imported, N exported, N nodes compared`; exit code 1 if anything differed.
"""

import argparse
import glob
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time

import client
import ensemble
import servers
import zk

TOOL_S = 120
BASE = {
    "tickTime": "2000", "maxSessionTimeout": "120000", "preAllocSize": "256", "extendedTypesEnabled": "true",
    "admin.enableServer": "false",
}
SESSION_MS = 120000
U1 = "u:Jq7wMyA/w2Vd5WIDAKdu4OIIFEQ="  # u:p
counts = {"imported": 0, "exported": 0, "compared": 0}


class Wrong(Exception):
    """Something is not as it should be."""


def need(condition, what):
    if not condition:
        raise Wrong(what)


# ---- the tool -------------------------------------------------------------------------------------------------------

def tool(*words, env=None):
    """(exit code, standard output, standard error) of a command of the Serval binary."""
    done = subprocess.run([servers.Serval.binary(), *words], capture_output=True, text=True, timeout=TOOL_S, check=False,
                          env={**os.environ, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def rows(table):
    """The table as {name: value}."""
    found = {}
    for line in table.splitlines()[1:]:
        name, value = line[2:17].strip(), line[17:]
        found.setdefault(name or "compared", value)
    return found


def good_import(source, target, *more):
    code, out, err = tool("import", source, "--data-dir", target, *more)
    need(code == 0, f"import {source} ended with {code}:\n{out}{err}")
    counts["imported"] += 1
    return rows(out)


def refused_import(source, target, words, *more):
    code, out, err = tool("import", source, "--data-dir", target, *more)
    need(code == 4, f"import {source} ended with {code}, and should be refused ({words}):\n{out}{err}")
    need(re.search(words, err), f"the refusal should say {words!r}:\n{err}")


def fingerprint(directory):
    found = {}
    for base, _, names in os.walk(os.path.join(directory, "version-2")):
        for name in names:
            path = os.path.join(base, name)
            with open(path, "rb") as f:
                found[name] = (os.stat(path).st_mtime_ns, hash(f.read()))
    return found


# ---- servers and their contents -------------------------------------------------------------------------------------

def session(server, **options):
    s = client.Session([server.address], **{"timeout_ms": SESSION_MS, **options})
    return s


def dump(server):
    """Everything, with Stats and whole ACLs."""
    s = session(server)
    s.auth("digest", "super:test")
    try:
        return client.dump(s)
    finally:
        s.close()


def same(left, right, what):
    lines = client.difference(left, right)
    need(not lines, f"{what}:\n  " + "\n  ".join(lines))
    counts["compared"] += len(left)


def fill(s, seed, nodes=60):
    """Every kind of node, changed in every way; some requests fail, which is in the log too."""
    rng = random.Random(seed)
    s.auth("digest", "u:p")
    lists = [zk.OPEN, [(zk.READ, "world", "anyone"), (zk.ALL, "digest", U1)], [(zk.ALL, "ip", "127.0.0.0/8")],
             [(zk.ALL, "auth", ""), (zk.READ, "ip", "10.1.2.3")]]
    s.create("/app", b"x" * 2000)
    for i in range(nodes):
        data = bytes(rng.randrange(256) for _ in range(rng.randrange(200)))
        s.create(f"/app/n{i:03}", data if i % 7 else None, 0, rng.choice(lists))
    s.create("/app/ü日本", "größer".encode())
    for i in range(0, nodes, 3):
        s.set(f"/app/n{i:03}", b"again %d" % i)
        s.create(f"/app/n{i:03}/child-", b"", zk.SEQUENTIAL)
    for i in range(1, nodes, 9):
        s.delete(f"/app/n{i:03}") if i % 3 else None
    s.call("setACL", zk.set_acl_body("/app/n000", [(zk.ALL, "digest", U1), (zk.READ, "world", "anyone")]))
    s.create("/app/mine", b"e", zk.EPHEMERAL)
    s.create("/app/mine-", b"e", zk.EPHEMERAL | zk.SEQUENTIAL)
    s.call("createContainer", zk.create_body("/app/box", b"", flags=4))
    s.create("/app/box/inside")
    s.call("createTTL", zk.create_body("/app/brief", b"t", flags=5, ttl=86_400_000))
    s.call("multi", zk.multi_body(
        ("create", zk.create_body("/app/m1", b"1")), ("setData", zk.set_data_body("/app/m1", b"2")),
        ("create", zk.create_body("/app/m2", b"3")), ("delete", zk.path_version("/app/m2"))))
    s.create("/zookeeper/quota/app")
    s.create("/zookeeper/quota/app/zookeeper_limits", b"count=5000,bytes=-1")
    s.create("/zookeeper/quota/app/zookeeper_stats", b"count=0,bytes=0")
    s.create("/app/counted", b"12345")
    for bad in (lambda: s.create("/app"), lambda: s.delete("/nowhere"), lambda: s.set("/app", b"", 77)):
        try:
            bad()
            raise Wrong("a request that should fail did not")
        except client.Code:
            pass


def storm(server, seconds, threads=3, keys=80):
    """Writers without a pause: creates, deletes, sets, setACLs, multis, on a few paths again and again."""
    stop = time.monotonic() + seconds

    def run(seed):
        rng = random.Random(seed)
        s = session(server)
        while time.monotonic() < stop:
            path = f"/storm/k{rng.randrange(keys):03}"
            try:
                turn(s, rng, path)
            except client.Code:
                pass
            except client.Lost:
                return

    writers = [threading.Thread(target=run, args=(i,)) for i in range(threads)]
    for w in writers:
        w.start()
    return writers


def turn(s, rng, path):
    dice = rng.randrange(10)
    if dice < 3:
        s.create(path, b"v" * rng.randrange(300), rng.choice([0, 0, zk.EPHEMERAL]))
    elif dice < 5:
        s.delete(path)
    elif dice < 7:
        s.set(path, b"w" * rng.randrange(300))
    elif dice < 8:
        acl = [(zk.ALL, "world", "anyone"), (zk.READ, "ip", f"10.0.{rng.randrange(200)}.{rng.randrange(200)}")]
        s.call("setACL", zk.set_acl_body(path, acl))
    elif dice < 9:
        s.create(path + "/c-", b"", zk.SEQUENTIAL)
    else:
        s.call("multi", zk.multi_body(("setData", zk.set_data_body("/storm", b"%d" % rng.randrange(1 << 30))),
                                      ("create", zk.create_body(path + "m", b"m")),
                                      ("delete", zk.path_version(path + "m"))))


def copy(server, name):
    """A copy of a stopped server's directory, for a server of either kind."""
    target = os.path.join(server.directory, name)
    shutil.copytree(server.data, os.path.join(target, "data"))
    return target


def at(kind, directory, config=None):
    """A server of that kind on a directory that holds a `data`."""
    return servers.KINDS[kind]({**BASE, **(config or {})}, directory)


# ---- scenarios ------------------------------------------------------------------------------------------------------

def imports(args):
    for log_dir in (False, True):
        with servers.Apache(BASE) as apache:
            if log_dir:
                apache.kill()
                apache.config["dataLogDir"] = os.path.join(apache.directory, "logs")
                os.makedirs(apache.config["dataLogDir"])
                shutil.rmtree(apache.data)
                apache.start()
            owner = session(apache)
            fill(owner, args.seed)
            before = dump(apache)
            owner.drop()
            apache.kill()
            logs = apache.config.get("dataLogDir")
            was = fingerprint(apache.data)
            more = ["--log-dir", logs] if log_dir else []
            table = good_import(apache.data, os.path.join(apache.directory, "elsewhere"), *more)
            need("equal to ZooKeeper's" in table["compared"], f"no digest was compared: {table}")
            need(fingerprint(apache.data) == was, "the import changed ZooKeeper's files")
            serve(args, apache, owner, before, was)


def serve(args, apache, owner, before, was):
    """`serve` on what Apache left: it imports by itself, once, and the sessions go on."""
    serval = at("serval", apache.directory, {k: v for k, v in apache.config.items() if k == "dataLogDir"})
    serval.write_config()
    code, _, err = tool("serve", "--config", serval.config_path, env={"SERVAL_NO_IMPORT": "1"})
    need(code == 4 and "serval import" in err, f"a forbidden import ended with {code}:\n{err}")
    serval.start()
    try:
        need("imported" in serval.log_tail(60), "the import was not logged")
        need(fingerprint(apache.data) == was, "the import changed ZooKeeper's files")
        owner.connect_to(serval.address)
        same(before, dump(serval), "Apache and Serval after the import")
        owner.set("/app/counted", b"from there")
        need(owner.exists("/app/mine")[0] is not None, "the ephemeral is gone")
        after = dump(serval)
        owner.drop()
        need(serval.stop() == 0, "Serval did not end in good order")
        serval.start()
        same(after, dump(serval), "Serval and Serval started again")
        owner.connect_to(serval.address)
        owner.close()
        need("/app/mine" not in dump(serval), "the ephemeral outlived its session")
    finally:
        serval.kill()
    if "dataLogDir" not in serval.config:
        apache.start()
        session(apache).create("/later")
        apache.kill()
        code, _, err = tool("serve", "--config", serval.config_path)
        need(code == 4 and "were written to since" in err, f"a stale import was served ({code}):\n{err}")


def fuzzy(args, config=None, rounds=2):
    used = under_writes = done = 0
    # A large tree makes snapshots take their time; few transactions between them make many.
    with servers.Apache({**BASE, "snapCount": "400", **(config or {})}) as apache:
        s = session(apache)
        s.create("/bulk")
        for i in range(60):
            s.call("multi", zk.multi_body(*[
                ("create", zk.create_body(f"/bulk/{i:02}-{k:02}", b"b" * 800)) for k in range(50)]))
        s.create("/storm")
        s.close()
        # Whether a write falls into a snapshot is chance: a few more rounds if none did.
        while done < rounds or (not under_writes and done < rounds + 4):
            done += 1
            writers = storm(apache, 30)
            time.sleep(args.storm)
            apache.kill()
            for w in writers:
                w.join()
            found = each_snapshot(apache)
            used, under_writes = used + found[0], under_writes + found[1]
            apache.start()
    need(under_writes, "no snapshot was written under writes: the scenario shows nothing")
    print(f"    {used} snapshots, each with the logs behind it, {config or 'plain'}", flush=True)


def zxid_of(path):
    """What the name of a snapshot or log says."""
    return int(os.path.basename(path).split(".")[1], 16)


def each_snapshot(apache):
    """Imports the directory once for each snapshot as if it were the newest: how many, and how many of them were written
    under writes."""
    files = sorted(glob.glob(os.path.join(apache.data, "version-2", "snapshot.*")), key=zxid_of)
    results, passed, under_writes = {}, [], 0
    for newest in files[-6:]:
        with tempfile.TemporaryDirectory(prefix="interop-migrate-") as tmp:
            source = os.path.join(tmp, "zk", "version-2")
            os.makedirs(source)
            for path in glob.glob(os.path.join(apache.data, "version-2", "*")):
                if not os.path.basename(path).startswith("snapshot.") or path == newest:
                    os.link(path, os.path.join(source, os.path.basename(path)))
            code, out, err = tool("import", os.path.join(tmp, "zk"), "--data-dir", os.path.join(tmp, "out"))
            if code and newest == files[-1] and "it is cut short" in err + out:
                passed.append(os.path.basename(newest))  # it was being written when the server was killed
                continue
            need(code == 0, f"{os.path.basename(newest)} with its logs was refused:\n{out}{err}")
            counts["imported"] += 1
            table = rows(out)
            need("equal to ZooKeeper's" in table["compared"], f"no digest was compared: {table}")
            under_writes += "written while" in table["snapshot"]
            results[zxid_of(newest)] = (table["zxid"], table["znodes"], table["sessions"], table["digest"])
    need(len(set(results.values())) == 1, f"the snapshots lead to different states: {results}")
    compare_with_apache(apache)
    print(f"    {len(results)} snapshots agree on {next(iter(results.values()))}, {under_writes} of them written under "
          f"writes, {len(passed)} not whole", flush=True)
    return len(results), under_writes


def compare_with_apache(apache):
    """What Apache makes of its own files, and what Serval does."""
    twin = at("apache", copy(apache, "twin"))
    ours = at("serval", copy(apache, "ours"))
    try:
        # The sessions of the killed writers outlive this by far.
        with twin, ours:
            same(dump(twin), dump(ours), "Apache's own recovery and the import")
    finally:
        for d in (twin.directory, ours.directory):
            shutil.rmtree(d, ignore_errors=True)


def packed(args):
    for method in ("gz", "snappy"):
        fuzzy(args, {"snapshot.compression.method": method}, rounds=1)


def members(args):
    with ensemble.Ensemble("AAA", config={"snapCount": "500"}) as three:
        three.start()
        s = three.session()
        s.create("/storm")
        writers = []
        for i in three.ids():
            writers += storm(three[i].server, 20, threads=1)
        time.sleep(args.storm)
        leader = three.leader()
        three[leader].kill()
        time.sleep(1.5)
        for i in three.ids():
            three[i].kill()
        for w in writers:
            w.join()
        seen = {}
        for i in three.ids():
            was = fingerprint(three[i].data)
            table = good_import(three[i].data, os.path.join(three[i].directory, "imported"))
            need(fingerprint(three[i].data) == was, "the import changed ZooKeeper's files")
            need("equal to ZooKeeper's" in table["compared"], f"no digest was compared: {table}")
            accepted, current = re.match(r"accepted (\d+), current (\d+)", table["epochs"]).groups()
            for name, value in (("acceptedEpoch", accepted), ("currentEpoch", current)):
                with open(os.path.join(three[i].data, "version-2", name), encoding="ascii") as f:
                    need(f.read().strip() == value, f"{name} of member {i} is not {value}")
            seen.setdefault(table["zxid"], set()).add(table["digest"])
            back = os.path.join(three[i].directory, "back")
            code, out, err = tool("export", back, "--data-dir", os.path.join(three[i].directory, "imported"))
            need(code == 0, f"export ended with {code}:\n{out}{err}")
            counts["exported"] += 1
            need(rows(out)["digest"] == table["digest"] and rows(out)["zxid"] == table["zxid"], f"{out} against {table}")
            shutil.copy(os.path.join(three[i].data, "myid"), back)
            three[i].data_directory = back
        need(all(len(d) == 1 for d in seen.values()), f"members that end at one zxid differ: {seen}")
        # The members go on from what was exported, as if nothing had happened.
        for i in three.ids():
            three[i].launch()
        three.wait_serving()
        lines = three.same_everywhere()
        need(not lines, "the ensemble on exported data differs:\n  " + "\n  ".join(lines))
        print(f"    ends at {seen}; afterwards {three.compared}", flush=True)


def exports(args):
    with servers.Serval(BASE) as serval:
        owner = session(serval)
        fill(owner, args.seed + 1)
        owner.create("/storm")
        for w in storm(serval, 2):
            w.join()
        before = dump(serval)
        owner.drop()
        code, _, err = tool("export", os.path.join(serval.directory, "x"), "--data-dir", serval.data)
        need(code == 4 and "in use" in err, f"a running server was exported ({code}): {err}")
        need(serval.stop() == 0, "Serval did not end in good order")
        target = os.path.join(serval.directory, "moved", "data")
        code, out, err = tool("export", target, "--data-dir", serval.data)
        need(code == 0, f"export ended with {code}:\n{out}{err}")
        counts["exported"] += 1
        need(tool("export", target, "--data-dir", serval.data)[0] == 4, "an export wrote over another")
        with at("apache", os.path.dirname(target)) as apache:
            text = zk.four_letter_word(apache.address, "srvr")
            need(f"Zxid: {rows(out)['zxid']}\n" in text, f"Apache is not at {rows(out)['zxid']}:\n{text}")
            owner.connect_to(apache.address)
            same(before, dump(apache), "Serval and Apache after the export")
            owner.set("/app/counted", b"home again")
            after = dump(apache)
            owner.drop()
            apache.kill()
            # A restart reads what it wrote itself behind what was exported.
            apache.start()
            same(after, dump(apache), "Apache and Apache started again")
            apache.kill()
            again = at("serval", apache.directory)
            with again:
                owner.connect_to(again.address)
                same(after, dump(again), "Apache and Serval after the way back")
                owner.close()


def damage(args):
    rng = random.Random(args.seed)
    with servers.Apache({**BASE, "snapCount": "200"}) as apache:
        owner = session(apache)
        fill(owner, args.seed + 2)
        owner.create("/storm")
        for w in storm(apache, 2, threads=2):
            w.join()
        running_is_refused(apache)
        apache.stop()
        want = good_import(apache.data, os.path.join(apache.directory, "good"))["digest"]
        outcome = {"refused": 0, "fell back": 0, "unharmed": 0}
        names = sorted(os.listdir(os.path.join(apache.data, "version-2")))
        # Mostly in what is needed: the newest snapshot and the newest log.
        newest = [max((n for n in names if n.startswith(kind)), key=zxid_of) for kind in ("snapshot.", "log.")]
        for n in range(args.flips):
            name = (newest + [rng.choice(names)])[n % 3]
            with tempfile.TemporaryDirectory(prefix="interop-migrate-") as tmp:
                flipped(apache.data, os.path.join(tmp, "zk"), name, rng)
                code, out, err = tool("import", os.path.join(tmp, "zk"), "--data-dir", os.path.join(tmp, "out"))
                if code:
                    need(code == 4 and "\n  " not in err, f"{name}: ended with {code}:\n{err}")
                    outcome["refused"] += 1
                    continue
                table = rows(out)
                need(table["digest"] == want, f"{name}: a damaged byte led to digest {table['digest']}:\n{out}")
                outcome["fell back" if "passed over" in out else "unharmed"] += 1
        print(f"    {args.flips} flipped bytes: {outcome} (unharmed: in what is no longer needed, or in padding)")
        need(outcome["refused"] and outcome["fell back"], "the damage shows nothing")
        missing(apache, names)


def running_is_refused(apache):
    """An import of what a server writes to is refused, provided that it did write meanwhile."""
    def zxid():
        return re.search(r"Zxid: (0x[0-9a-f]+)", zk.four_letter_word(apache.address, "srvr")).group(1)
    for attempt in range(10):
        writers = storm(apache, 3)
        idle = zxid()
        while zxid() == idle and any(w.is_alive() for w in writers):
            time.sleep(0.01)
        before = zxid()
        code, out, _ = tool("import", apache.data, "--data-dir", os.path.join(apache.directory, f"running{attempt}"))
        wrote = zxid() != before
        for w in writers:
            w.join()
        if code == 4:
            return
        print(f"    an import beside a running server went through (which {'wrote' if wrote else 'was idle'}); again", flush=True)
        need(code == 0 and not wrote, f"a directory that a server writes to was imported ({code}):\n{out}")
    need(False, "the server never wrote while its directory was read")


def flipped(source, target, name, rng):
    """A copy in which one byte of that file is another; the other files are links."""
    shutil.copytree(source, target, copy_function=os.link)
    path = os.path.join(target, "version-2", name)
    os.remove(path)
    shutil.copy(os.path.join(source, "version-2", name), path)
    with open(path, "r+b") as f:
        used = len(f.read().rstrip(b"\0"))
        where = rng.randrange(used)
        f.seek(where)
        byte = f.read(1)[0]
        f.seek(where)
        f.write(bytes([byte ^ (1 << rng.randrange(8))]))


def missing(apache, names):
    logs = sorted((n for n in names if n.startswith("log.")), key=zxid_of)
    snapshots = sorted((n for n in names if n.startswith("snapshot.")), key=zxid_of)
    for keep, words in (
            ([*snapshots[:1], *logs[:1], *logs[2:]], "transactions are missing|logs end at"),
            (logs, "no snapshot"),
            ([], "neither snapshots nor logs")):
        with tempfile.TemporaryDirectory(prefix="interop-migrate-") as tmp:
            source = os.path.join(tmp, "zk", "version-2")
            os.makedirs(source)
            for name in keep:
                shutil.copy(os.path.join(apache.data, "version-2", name), source)
            refused_import(os.path.join(tmp, "zk"), os.path.join(tmp, "out"), words)


SCENARIOS = {"import": imports, "fuzzy": fuzzy, "packed": packed, "members": members, "export": exports, "damage": damage}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=", ".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serval-bin", metavar="PATH")
    parser.add_argument("--storm", type=float, default=3.0, help="seconds of writes before a kill")
    parser.add_argument("--flips", type=int, default=40, help="damaged directories")
    args = parser.parse_args()
    if args.serval_bin:
        os.environ["SERVAL_BIN"] = args.serval_bin
    unknown = [s for s in args.scenarios if s not in SCENARIOS]
    if unknown:
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    failed = 0
    chosen = args.scenarios or list(SCENARIOS)
    for name in chosen:
        started = time.monotonic()
        try:
            SCENARIOS[name](args)
            print(f"ok     {name} ({time.monotonic() - started:.1f} s)", flush=True)
        except (Wrong, AssertionError, RuntimeError, servers.Missing, client.Lost, client.Refused, client.Expired,
                client.Code, subprocess.TimeoutExpired) as e:
            failed += 1
            print(f"FAILED {name}: {type(e).__name__}: {e}", flush=True)
    print(f"{len(chosen)} scenarios, {counts['imported']} directories imported, {counts['exported']} exported, "
          f"{counts['compared']} nodes compared" + (f", {failed} FAILED" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
