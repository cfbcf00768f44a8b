#!/usr/bin/env python3
"""The interop gate: conversations, C client, kazoo and kill cycles, against Serval with Apache ZooKeeper beside it.

    run.py [--server both|apache|serval] [--cycles N] [PART ...]

Parts: conversations, c, kazoo, kill (all by default). Nothing is installed and nothing is skipped: what is missing is
named and fails the run. SERVAL_BIN names the server (default target/release/serval).
"""

import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)

import servers  # noqa: E402
import suite  # noqa: E402

LIMIT_S = 1200


def parts(server, cycles):
    """name -> command, in the order in which they run: what fails fastest first."""
    kill_server = "apache" if server == "apache" else "serval"
    return {
        "conversations": ["run_conversations.py", "--server", server],
        "c": ["c_suite.py", "--server", server],
        "kazoo": ["kazoo_suite.py", "--server", server],
        "kill": ["kill_cycles.py", "--server", kill_server, "--cycles", str(cycles)],
    }


def missing(server):
    """What the suites need and this machine lacks; each suite checks its own libraries."""
    lacks = []
    if server != "serval":
        try:
            servers.Apache.needed()
        except servers.Missing as e:
            lacks.append(str(e))
    if server != "apache":
        try:
            servers.Serval.binary()
        except servers.Missing as e:
            lacks.append(str(e))
    return lacks


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", choices=["apache", "serval", "both"], default="both")
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("parts", nargs="*", metavar="PART")
    args = parser.parse_args()
    commands = parts(args.server, args.cycles)
    unknown = [p for p in args.parts if p not in commands]
    if unknown:
        parser.error(f"no such part: {' '.join(unknown)} (there are: {' '.join(commands)})")
    lacks = missing(args.server)
    if lacks:
        sys.exit("cannot run:\n  " + "\n  ".join(lacks))
    rows = [(name, *suite.run(commands[name], LIMIT_S)) for name in args.parts or commands]
    print("\n== summary")
    for name, code, last, seconds in rows:
        print(f"{'ok    ' if code == 0 else 'FAILED'} {name:14} {seconds:5.0f} s  {last}")
    sys.exit(1 if any(code for _, code, _, _ in rows) else 0)


if __name__ == "__main__":
    main()
