"""The transaction logs of ZooKeeper: which zxids they hold.

Here: the framing of records (fact sheet 10.3). Not here: what a transaction says, and what may be missing (`checker.py`).
Invariant: a record that is not whole ends its file; nothing is repaired.
"""

import glob
import os
import struct

HEADER = 16       # magic, version, database
RECORD = 12       # checksum, length
ZXID = (12, 20)   # behind client and cxid in the header of a transaction


def zxids(directory):
    """Of all logs in this directory, in the order of the files."""
    found = []
    for path in sorted(glob.glob(os.path.join(directory, "log.*")), key=lambda p: int(p.rpartition(".")[2], 16)):
        with open(path, "rb") as f:
            found += in_file(f.read())
    return found


def in_file(data):
    at, found = HEADER, []
    while at + RECORD <= len(data):
        size = struct.unpack_from(">i", data, at + 8)[0]
        end = at + RECORD + size
        if size < ZXID[1] or end >= len(data) or data[end:end + 1] != b"B":
            break
        found.append(struct.unpack_from(">q", data, at + RECORD + ZXID[0])[0])
        at = end + 1
    return found
