#!/usr/bin/env python3
"""The ensemble suites: faults, mixtures with Apache ZooKeeper, sessions, observers, migration, reconfiguration, intruders,
both kinds side by side, kazoo.

    run3.py [--long] [--kinds SSS] [--seed S] [--serval-bin PATH] [PART ...]

Parts: checker, matrix, sessions, observers, migration, reconfig, alike, chaos, intruders, kazoo (all by default, in this order).
The short profile is for the gate: every part, few cycles, some rows of the matrix, about seven minutes. `--long` runs every row, every shape of
partition, 60 cycles of kill -9, five and seven servers, and all of kazoo on both servers. Nothing is installed and nothing is
skipped: what is missing is named and fails the run. Every suite prints its seed.
"""

import argparse
import os
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import ensemble  # noqa: E402
import suite  # noqa: E402

# Rows of the matrix for the gate: every pair of mixture, leader's kind and observer's kind is in one of them.
SHORT_ROWS = r"SSA\+A/S|SSA\+S/A|SAA\+A/A|SAA\+S/S"
LONG_S, SHORT_S = 3600, 900


def parts(args):
    """part -> list of commands."""
    kinds, seed = ["--kinds", args.kinds], ["--seed", str(args.seed)]
    matrix = [["matrix.py", *seed, *([] if args.long else ["--rows", SHORT_ROWS])]]
    if args.kinds == "AAA":
        matrix[0] += ["--pure", "A"]
    migration = [["migration.py", *seed, *(["--rounds", "3"] if args.long else [])]]
    if args.kinds == "AAA":
        migration[0] += ["--restart-only"]
    if args.long:
        chaos = [["chaos.py", *kinds, *seed, "--cycles", "60", "kill"],
                 ["chaos.py", *kinds, *seed, "--cycles", "12", "--all-shapes", "pause", "restarts", "lag", "oversize",
                  "partition", "slow", "disk"],
                 ["chaos.py", "--kinds", args.kinds[0] * 5, *seed, "--cycles", "12", "kill", "pause", "partition"],
                 ["chaos.py", "--kinds", args.kinds[0] * 7, *seed, "--cycles", "6", "kill"]]
        if "A" not in args.kinds:
            chaos += [["chaos.py", "--kinds", mixed, *seed, "--cycles", "9", "--all-shapes", "kill", "pause", "restarts",
                       "partition"] for mixed in ("SSA", "SAA")]
    else:
        chaos = [["chaos.py", *kinds, *seed, "--cycles", "3", "kill", "partition"],
                 ["chaos.py", *kinds, *seed, "--cycles", "2", "pause", "restarts", "lag", "disk"],
                 ["chaos.py", *kinds, *seed, "--cycles", "1", "slow", "oversize"]]
    kazoo = [["kazoo_suite.py", "--three", *(["--server", "both"] if args.long else
                                             ["--server", "apache" if args.kinds == "AAA" else "serval"])]]
    intruders = [["intruders.py", *kinds, *seed]]
    if not args.long:
        intruders[0] += ["--only", "election: (random|an unknown|a foreign id, m|a foreign id with)|liar: .*(nodes|noise|older|gap)|"
                         "quorum: (random|a conf|an epoch|data of 2|a broken)|myid: (missing|not in)"]
    reconfig = [["reconfig.py", *([] if args.long else ["--rows", "SAS|ASA"])]]
    if args.kinds == "AAA":
        reconfig = [["reconfig.py", "--kinds", "AAA"]]
    alike = [["alike.py"], ["alike.py", "--runs", "6", "--places", "4"]] if args.long else [["alike.py"]]
    pure = "AAA" if args.kinds == "AAA" else None
    sessions = [["local_sessions.py", *([] if args.long else ["--rows", pure or "SSA/S"])]]
    observers = [["observer_masters.py", *([] if args.long else ["--rows", pure or r"SAA\+S"])]]
    return {"checker": [["test_checker.py"]], "matrix": matrix, "sessions": sessions, "observers": observers, "migration": migration, "reconfig": reconfig,
            "alike": [] if args.kinds == "AAA" else alike, "chaos": chaos, "intruders": intruders, "kazoo": kazoo}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    ensemble.add_arguments(parser)
    parser.add_argument("--long", action="store_true")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("parts", nargs="*", metavar="PART")
    args = parser.parse_args()
    ensemble.use_arguments(argparse.Namespace(serval_bin=args.serval_bin, kinds=args.kinds + "A"))
    commands = parts(args)
    unknown = [p for p in args.parts if p not in commands]
    if unknown:
        parser.error(f"no such part: {' '.join(unknown)} (there are: {' '.join(commands)})")
    limit = LONG_S if args.long else SHORT_S
    rows = [(name, command, *suite.run(command, limit)) for name in args.parts or commands for command in commands[name]]
    print("\n== summary")
    for name, command, code, last, seconds in rows:
        print(f"{'ok    ' if code == 0 else 'FAILED'} {name:10} {seconds:5.0f} s  {last}  ({' '.join(command)})")
    sys.exit(1 if any(code for _, _, code, _, _ in rows) else 0)


if __name__ == "__main__":
    main()
