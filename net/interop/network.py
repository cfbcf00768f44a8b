"""A network that can be cut, slowed and made lossy, packet by packet, in network namespaces of its own.

Here: a namespace per member with one TUN device, and the switch between them: a thread that reads packets from all
devices and passes them on, or not, by the rule of their (from, to) pair. Nothing of the kernel is needed beyond
namespaces and TUN: no bridge, no packet filter, no queueing discipline.
Not here: what is done to whom (`chaos.py`).
Invariants: nothing outlives the process, for namespaces without names end with it; the namespace of the machine is not
touched; what the machine cannot give is an error that says so.
"""

import ctypes
import fcntl
import heapq
import os
import queue
import random
import select
import struct
import subprocess
import threading
import time

import servers

CLONE_NEWNS, CLONE_NEWUSER, CLONE_NEWNET = 0x00020000, 0x10000000, 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SUBNET = "10.77.0"
HUB = 200          # the address of the clients' side
QUEUE_S = 0.5      # a slow link drops what would wait longer than this
_entered = False


def unshare(flags, what):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        code = ctypes.get_errno()
        raise servers.Missing(f"cannot make {what}: {os.strerror(code)} (needs root, or user namespaces)")


def enter():
    """Puts this process into a network and mount namespace of its own; before it has threads, and once."""
    global _entered
    if _entered:
        return
    if not os.path.exists("/dev/net/tun"):
        raise servers.Missing("no /dev/net/tun: network faults cannot be made here (load the module `tun`)")
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        unshare(CLONE_NEWNET | CLONE_NEWNS, "a network namespace")
    else:
        unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWNS, "a user namespace")
        for name, text in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
            with open(f"/proc/self/{name}", "w", encoding="ascii") as f:
                f.write(text)
    command(["mount", "--make-rprivate", "/"])
    command(["ip", "link", "set", "lo", "up"])
    _entered = True


def command(words):
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=20, check=False)
    except FileNotFoundError:
        raise servers.Missing(f"{words[0]} not found: install the packages iproute2 and mount") from None
    if done.returncode:
        raise servers.Missing(f"{' '.join(words)}: {done.stderr.strip()}")


def open_tun(number):
    """A TUN device in the namespace of the calling thread; its descriptor serves from any thread."""
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    name = f"tun{number}"
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI))
    command(["ip", "addr", "add", f"{SUBNET}.{number}/24", "dev", name])
    command(["ip", "link", "set", "dev", name, "mtu", "9000", "up"])
    return fd


class Room(threading.Thread):
    """A thread that lives in a namespace of its own. Processes that it starts live there too."""

    def __init__(self, number):
        super().__init__(name=f"room{number}", daemon=True)
        self.number, self.wanted, self.given = number, queue.Queue(), queue.Queue()
        self.start()
        self.fd = self.take()

    def run(self):
        self.answer(self.furnish)
        while True:
            work = self.wanted.get()
            if work is None:
                return
            self.answer(work)

    def answer(self, work):
        try:
            self.given.put((work(), None))
        except BaseException as e:
            self.given.put((None, e))

    def furnish(self):
        unshare(CLONE_NEWNET, "a network namespace")
        command(["ip", "link", "set", "lo", "up"])
        return open_tun(self.number)

    def take(self):
        value, error = self.given.get(timeout=60)
        if error:
            raise error
        return value

    def popen(self, *args, **kwargs):
        self.wanted.put(lambda: subprocess.Popen(*args, **kwargs))
        return self.take()

    def end(self):
        self.wanted.put(None)
        self.join(10)
        os.close(self.fd)


class Rule:
    """What happens to packets of one direction."""

    __slots__ = ("cut", "delay_s", "loss", "bytes_per_s", "free_at")

    def __init__(self):
        self.cut, self.delay_s, self.loss, self.bytes_per_s, self.free_at = False, 0.0, 0.0, None, 0.0


class Network:
    """Place for an `Ensemble`: members 1..n at 10.77.0.n, clients at 10.77.0.200, a switch between all."""

    def __init__(self, seed=0):
        enter()
        self.rng = random.Random(f"network {seed}")
        self.rooms, self.rules, self.devices = {}, {}, {}
        self.later, self.order = [], 0
        self.passed = self.dropped = 0
        self.closing = threading.Event()
        self.poll = select.epoll()
        self.hub = open_tun(HUB)
        self.attach(HUB, self.hub)
        self.switch = threading.Thread(target=self.run, name="switch", daemon=True)
        self.switch.start()

    def attach(self, number, fd):
        self.devices[number] = fd
        self.poll.register(fd, select.EPOLLIN)

    # ---- place of an ensemble -----------------------------------------------------------------------------------

    def host(self, member_id):
        if member_id not in self.rooms:
            self.rooms[member_id] = Room(member_id)
            self.attach(member_id, self.rooms[member_id].fd)
        return f"{SUBNET}.{member_id}"

    def popen(self, member_id):
        return self.rooms[member_id].popen

    # ---- faults -------------------------------------------------------------------------------------------------

    def rule(self, source, target):
        return self.rules.setdefault((source, target), Rule())

    def cut_one_way(self, source, target):
        """Nothing of `source` reaches `target` any more."""
        self.rule(source, target).cut = True

    def cut(self, one, other):
        self.cut_one_way(one, other)
        self.cut_one_way(other, one)

    def isolate(self, member_id, others):
        for other in others:
            if other != member_id:
                self.cut(member_id, other)

    def slow(self, one, other, delay_s=0.0, loss=0.0, bytes_per_s=None):
        for pair in ((one, other), (other, one)):
            rule = self.rule(*pair)
            rule.delay_s, rule.loss, rule.bytes_per_s = delay_s, loss, bytes_per_s

    def heal(self):
        self.rules.clear()

    # ---- the switch ---------------------------------------------------------------------------------------------

    def run(self):
        numbers = {}
        while not self.closing.is_set():
            wait = 0.2 if not self.later else max(0.0, min(0.2, self.later[0][0] - time.monotonic()))
            for fd, _ in self.poll.poll(wait):
                if fd not in numbers:
                    numbers = {f: n for n, f in self.devices.items()}
                self.drain(fd, numbers[fd])
            now = time.monotonic()
            while self.later and self.later[0][0] <= now:
                _, _, target, packet = heapq.heappop(self.later)
                self.write(target, packet)

    def drain(self, fd, source):
        for _ in range(64):
            try:
                packet = os.read(fd, 65536)
            except OSError:
                return
            # IPv4 of our subnet only; the kernel's router solicitations and the like go nowhere.
            if len(packet) >= 20 and packet[0] >> 4 == 4 and packet[16:19] == b"\x0a\x4d\x00":
                self.forward(source, packet[19], packet)

    def forward(self, source, target, packet):
        rule = self.rules.get((source, target))
        if rule is None:
            self.write(target, packet)
        elif rule.cut or rule.loss and self.rng.random() < rule.loss:
            self.dropped += 1
        else:
            self.hold(rule, target, packet)

    def hold(self, rule, target, packet):
        now = time.monotonic()
        start = now
        if rule.bytes_per_s:
            start = max(now, rule.free_at)
            if start - now > QUEUE_S:
                self.dropped += 1
                return
            start += len(packet) / rule.bytes_per_s
            rule.free_at = start
        self.order += 1
        heapq.heappush(self.later, (start + rule.delay_s, self.order, target, packet))

    def write(self, target, packet):
        fd = self.devices.get(target)
        try:
            if fd is not None:
                os.write(fd, packet)
                self.passed += 1
        except OSError:
            self.dropped += 1  # the device is full, as any network may be

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.closing.set()
        self.switch.join(10)
        for room in self.rooms.values():
            room.end()
        os.close(self.hub)
        self.poll.close()


def small_disk(directory, megabytes):
    """Mounts a file system of this size, seen by this process and its children only."""
    enter()
    os.makedirs(directory, exist_ok=True)
    command(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", directory])
    return directory


def unmount(directory):
    command(["umount", "-l", directory])
