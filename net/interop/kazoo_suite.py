#!/usr/bin/env python3
"""Runs kazoo's own client and recipe tests against Apache ZooKeeper and Serval: one standalone server, or three.

    kazoo_suite.py [--server apache|serval|both] [--three] [-k EXPRESSION]

Here: starting pytest once per server kind (both at once) and laying the results side by side.
Not here: how kazoo's harness is satisfied (`kazoo_plugin.py`).
The last line of output is `N passed, N failed` of the last server named (Serval, unless only Apache was asked for).
"""

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
LIMIT_S = 900


def tests_directory():
    for needed in ("kazoo", "pytest", "objgraph"):
        if importlib.util.find_spec(needed) is None:
            sys.exit(f"cannot run: python package {needed} is missing (pip install kazoo==2.11.0 pytest objgraph)")
    import kazoo
    directory = os.path.join(os.path.dirname(kazoo.__file__), "tests")
    if not os.path.isdir(directory):
        sys.exit("cannot run: this kazoo comes without its tests (pip install kazoo==2.11.0)")
    return directory


def start(kind, directory, expression, work, three):
    outcomes = os.path.join(work, kind + ".jsonl")
    open(outcomes, "w").close()
    environment = {**os.environ, "INTEROP_SERVER": kind, "INTEROP_OUTCOMES": outcomes,
                   "PYTHONPATH": HERE + os.pathsep + os.environ.get("PYTHONPATH", ""), "PYTHONDONTWRITEBYTECODE": "1"}
    if three:
        environment["INTEROP_THREE"] = "1"
    environment.pop("CI", None)
    environment.pop("ZOOKEEPER_VERSION", None)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "kazoo_plugin", "-p", "no:cacheprovider",
               "--tb=short", directory]
    if expression:
        command += ["-k", expression]
    log = open(os.path.join(work, kind + ".log"), "w", encoding="utf-8")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=work)
    return process, outcomes, log.name


def results(process, outcomes, log, deadline):
    """{test: (outcome, detail)}; what was to run and did not come to an end has failed."""
    try:
        process.wait(max(1, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.terminate()
        process.wait(30)
    found = {}
    with open(outcomes, encoding="utf-8") as f:
        for line in f:
            outcome, name, detail = json.loads(line)
            # A teardown that fails after the test passed counts as failed; nothing makes a failure good again.
            if found.get(name, ("",))[0] != "failed":
                found[name] = (outcome, detail)
    for name, (outcome, _) in found.items():
        if outcome == "to run":
            found[name] = ("failed", "did not end in time")
    if not any(outcome == "passed" for outcome, _ in found.values()):
        with open(log, encoding="utf-8") as f:
            sys.exit("cannot run: pytest did not get anywhere\n" + f.read()[-3000:])
    return found


def show_left_out(tests):
    """One line per reason and class: nothing is left out without being named."""
    groups = {}
    for name, (outcome, why) in sorted(tests.items()):
        if outcome == "left out":
            groups.setdefault((name.rsplit("::", 1)[0], why), []).append(name.rsplit("::", 1)[1])
    for (place, why), names in groups.items():
        print(f"left out {place} ({', '.join(names)}): {why}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", choices=["apache", "serval", "both"], default="both")
    parser.add_argument("--three", action="store_true", help="an ensemble of three, as kazoo's own cluster is")
    parser.add_argument("-k", dest="expression", default="")
    args = parser.parse_args()
    kinds = ["apache", "serval"] if args.server == "both" else [args.server]
    directory = tests_directory()
    deadline = time.monotonic() + LIMIT_S
    with tempfile.TemporaryDirectory(prefix="interop-kazoo-") as work:
        running = [start(kind, directory, args.expression, work, args.three) for kind in kinds]
        found = {kind: results(*r, deadline) for kind, r in zip(kinds, running)}
    show_left_out(found[kinds[0]])
    for name in sorted(set().union(*found.values())):
        row = {kind: found[kind].get(name, ("missing", "")) for kind in kinds}
        if any(outcome not in ("passed", "left out") for outcome, _ in row.values()):
            print(f"FAILED {name}: " + ", ".join(f"{kind} {outcome}" for kind, (outcome, _) in row.items()))
            for kind, (outcome, detail) in row.items():
                if outcome == "failed":
                    print("\n".join(f"    {kind} | {line}" for line in detail.split("\n")[-40:]))
    failed = 0
    for kind in kinds:
        passed = sum(outcome == "passed" for outcome, _ in found[kind].values())
        failed = sum(outcome in ("failed", "missing") for outcome, _ in found[kind].values())
        failed += len(set().union(*found.values()) - set(found[kind]))
        print(f"kazoo on {kind}: {passed} passed, {failed} failed")
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
