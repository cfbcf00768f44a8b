"""The rows of a suite: which of them are asked for, and how each went.

Not here: what a row is (`matrix.py`, `local_sessions.py`, `observer_masters.py`).
"""

import argparse
import re
import sys
import time

import ensemble
import servers


def parser_of(doc):
    """With the flags that every such suite has."""
    parser = argparse.ArgumentParser(description=doc.split("\n")[0])
    parser.add_argument("--rows", default="", help="a regular expression")
    parser.add_argument("--serval-bin")
    parser.add_argument("--list", action="store_true")
    return parser


def run(parser, args, names, row, kinds="AS"):
    """Runs the rows that were asked for and ends the process. What `row(name)` returns is shown behind its name; it fails
    by raising. `kinds`: the servers that must be installed."""
    names = [name for name in names if re.search(args.rows, name)]
    if not names:
        parser.error("no such row")
    if args.list:
        print("\n".join(names))
        sys.exit(0)
    args.kinds = kinds
    ensemble.use_arguments(args)
    failed = 0
    for name in names:
        started = time.monotonic()
        try:
            found = ensemble.not_void(name, lambda: row(name))
            outcome = f"ok     {name}{': ' + found if found else ''}"
        except servers.Missing as e:
            sys.exit(f"cannot run: {e}")
        except Exception as e:
            failed += 1
            outcome = f"FAILED {name}: {type(e).__name__}: {e}"
        print(f"{outcome} ({time.monotonic() - started:.0f} s)", flush=True)
    print(f"{len(names) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
