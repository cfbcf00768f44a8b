#!/usr/bin/env python3
"""Builds c_client/client.c against the stock C library and runs it on both servers; its output must be as expected.

    c_suite.py [--server apache|serval|both] [--record]

Last line: `N passed, N failed` of the last server named (Serval, unless only Apache was asked for); a line of expected
output counts as one. The exit code tells of all.
"""

import argparse
import difflib
import os
import shutil
import subprocess
import sys
import tempfile

import servers

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.join(HERE, "c_client", "client.c")
EXPECTED = os.path.join(HERE, "c_client", "expected.txt")
LIMIT_S = 90


def build(directory):
    compiler = os.environ.get("CC", "gcc")
    if shutil.which(compiler) is None:
        sys.exit(f"cannot run: no {compiler}")
    binary = os.path.join(directory, "client")
    # THREADED selects the multi-threaded half of zookeeper.h, which goes with libzookeeper_mt.
    command = [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O1", "-DTHREADED", SOURCE, "-o", binary,
               "-lzookeeper_mt", "-lpthread"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    if done.returncode:
        sys.exit("cannot run: the C client does not build (package libzookeeper-mt-dev?)\n" + done.stderr)
    return binary


def run(kind, binary):
    with servers.start(kind) as server:
        try:
            done = subprocess.run([binary, f"127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=LIMIT_S)
            text, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            text, code = (late.stdout or b"").decode(), "none: it took too long"
        return text + f"exit code {code}\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--server", choices=["apache", "serval", "both"], default="both")
    parser.add_argument("--record", action="store_true", help="write Apache's output to expected.txt")
    args = parser.parse_args()
    kinds = ["apache", "serval"] if args.server == "both" else [args.server]
    passed = failed = wrong = 0
    with tempfile.TemporaryDirectory(prefix="interop-c-") as directory:
        binary = build(directory)
        for kind in kinds:
            try:
                text = run(kind, binary)
            except servers.Missing as e:
                sys.exit(f"cannot run: {e}")
            if args.record and kind == "apache":
                with open(EXPECTED, "w", encoding="utf-8") as f:
                    f.write(text)
            with open(EXPECTED, encoding="utf-8") as f:
                expected = f.read().splitlines()
            got = text.splitlines()
            same = difflib.SequenceMatcher(a=expected, b=got, autojunk=False).get_matching_blocks()
            passed = sum(block.size for block in same)
            failed = max(len(expected), len(got)) - passed
            wrong += failed
            print(f"C client on {kind}: {passed} passed, {failed} failed")
            for line in difflib.unified_diff(expected, got, "expected", kind, lineterm="", n=2):
                print("    " + line)
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
