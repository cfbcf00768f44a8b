"""One suite, run as a process of its own."""

import os
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
END_S = 30


def run(command, limit_s):
    """(exit code, last line of output, seconds). The output is passed on as it comes."""
    print(f"\n== {' '.join(command)}", flush=True)
    started, last = time.monotonic(), ""
    process = subprocess.Popen([sys.executable, "-u", os.path.join(HERE, command[0]), *command[1:]],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    # The suites bound their own steps; these are for one that hangs all the same. SIGTERM lets it end its servers.
    guards = [threading.Timer(limit_s, process.terminate), threading.Timer(limit_s + END_S, process.kill)]
    for guard in guards:
        guard.start()
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            last = line.strip() or last
        code = process.wait()
    finally:
        for guard in guards:
            guard.cancel()
    return code, last, time.monotonic() - started
