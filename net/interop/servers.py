"""Starts and stops servers for the interop suites: Debian's Apache ZooKeeper, and Serval.

Here: configuration files, temporary directories, ports, readiness, stopping by process id.
Not here: any protocol beyond "does it answer a four-letter word".
Invariants: only loopback is used; only processes started here are signalled; every wait has a deadline; a missing
program is an error that says what to install, never a skip.
"""

import glob
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import zk

READY_S = 60.0
STOP_S = 30.0
SUPER_DIGEST = "super:D/InIHSb7yEEbrWz8b9l71RjZJU="  # super:test

# Keys that Apache reads only as JVM properties (fact sheet section 6); Serval takes them from zoo.cfg.
JVM_ONLY = {
    "readonlymode.enabled": "readonlymode.enabled",
    "jute.maxbuffer": "jute.maxbuffer",
    "znode.container.checkIntervalMs": "znode.container.checkIntervalMs",
    "znode.container.maxNeverUsedIntervalMs": "znode.container.maxNeverUsedIntervalMs",
}

NOISY = ["NIOServerCnxn", "ZooKeeperServer", "ResponseCache", "util.RequestPathMetricsCollector", "quorum.LeaderSessionTracker", "quorum.LearnerSessionTracker",
         "persistence.FileTxnLog", "persistence.FileTxnSnapLog"]

REPOSITORY = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


class Missing(Exception):
    """Something that the suites need is not installed."""


def _beside_outgoing():
    """Ports beside the range of outgoing connections, so that nothing takes one whose server is not there."""
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as f:
            first, last = map(int, f.read().split())
    except OSError:
        first, last = 32768, 60999
    larger = max(range(10000, first), range(last + 1, 65000), key=len)
    return larger if len(larger) >= 1000 else range(10000, 32768)


_reserved = []


def server_port():
    """A port on which nobody listens, and which is this process's until it ends: a UDP socket of the same number stands
    for it, as in net/src/embed.rs."""
    among = _beside_outgoing()
    for _ in range(10000):
        port = random.SystemRandom().choice(among)
        reserved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                reserved.bind(("127.0.0.1", port))
                s.bind(("127.0.0.1", port))
                s.listen()
            except OSError:
                reserved.close()
                continue
        _reserved.append(reserved)
        return port
    raise Missing(f"no free port between {among.start} and {among.stop}: end servers that are not needed")


def apache_classpath(logger):
    """Debian's jar names its own dependencies in the manifest; anything it lacks is added by hand."""
    jar = os.environ.get("ZOOKEEPER_JAR", "/usr/share/java/zookeeper.jar")
    if not os.path.exists(jar):
        raise Missing(f"{jar} not found: install the package `zookeeper` (3.8.0), or set ZOOKEEPER_JAR")
    beside = os.path.dirname(jar)
    wanted = ["zookeeper-jute", "slf4j-api", logger, "netty-handler", "netty-transport", "netty-buffer",
              "netty-common", "netty-transport-native-epoll", "metrics-core", "snappy-java", "commons-cli"]
    jars = [jar]
    for name in wanted:
        jars += sorted(glob.glob(os.path.join(beside, name + ".jar")))
    return ":".join(jars)


class Server:
    """One server process on a data directory of its own. `config` holds extra zoo.cfg keys."""

    name = "server"
    host = "127.0.0.1"
    jvm_only = ()  # keys that are not for zoo.cfg
    popen = staticmethod(subprocess.Popen)  # replaced by those who start servers in a network namespace

    def __init__(self, config=None, directory=None, port=None):
        self.owned = directory is None
        self.directory = directory or tempfile.mkdtemp(prefix=f"interop-{self.name}-")
        self.port = port or server_port()
        self.config = {
            "tickTime": "2000",
            "maxClientCnxns": "0",
            "4lw.commands.whitelist": "*",
            "DigestAuthenticationProvider.superDigest": SUPER_DIGEST,
            **(config or {}),
        }
        self.config = {k: v for k, v in self.config.items() if v is not None}
        self.process = None

    @property
    def address(self):
        return (self.host, self.port)

    @property
    def config_path(self):
        return os.path.join(self.directory, "zoo.cfg")

    @property
    def log_path(self):
        return os.path.join(self.directory, "server.log")

    def file_config(self):
        """The keys that go into zoo.cfg."""
        return dict(self.config)

    def command(self):
        raise NotImplementedError

    def start(self):
        self.write_config()
        self.launch()
        self.wait_ready()
        return self

    @property
    def data(self):
        return os.path.join(self.directory, "data")

    def write_config(self):
        os.makedirs(self.data, exist_ok=True)
        keys = {"dataDir": self.data, "clientPort": self.port, "clientPortAddress": self.host, **self.file_config()}
        with open(self.config_path, "w", encoding="utf-8") as f:
            f.writelines(f"{k}={v}\n" for k, v in keys.items() if v is not None)

    def launch(self):
        """Starts the process and does not wait for anything."""
        with open(self.log_path, "ab") as log:
            self.process = self.popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.directory)

    def wait_ready(self):
        deadline = time.monotonic() + READY_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"{self.name} ended with {self.process.returncode}:\n{self.log_tail()}")
            try:
                text = zk.four_letter_word(self.address, "srvr", timeout_s=2.0)
            except (OSError, zk.Timeout):
                text = ""
            # A whitelist without srvr still proves that the port is served; not serving yet is said in words.
            if "Mode:" in text or "whitelist" in text:
                return
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"{self.name} did not get ready in {READY_S} s:\n{self.log_tail()}")

    def log_tail(self, lines=20):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return "".join(f.readlines()[-lines:])

    def signal(self, number):
        if self.process and self.process.poll() is None:
            os.kill(self.process.pid, number)

    def stop(self):
        """SIGTERM, and SIGKILL when that does not end it in time. The exit code, or None if it was killed."""
        self.signal(signal.SIGTERM)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait(STOP_S)

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def remove(self):
        """Ends the process if it lives and deletes the directory if it was made here."""
        if self.alive():
            self.kill()
        if self.owned:
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self):
        return self if self.alive() else self.start()

    def __exit__(self, *_):
        self.remove()


class Apache(Server):
    """Debian's ZooKeeper, run with java directly."""

    name = "apache"
    jvm_only = JVM_ONLY
    logger = "slf4j-nop"  # a jar beside zookeeper.jar; slf4j-simple tells on stderr what the server does

    def file_config(self):
        return {k: v for k, v in self.config.items() if k not in JVM_ONLY}

    @staticmethod
    def needed(logger=logger):
        """The Java program and the class path; raises Missing."""
        java = shutil.which("java")
        if java is None:
            raise Missing("java not found: install a JRE (default-jre-headless)")
        return java, apache_classpath(logger)

    def command(self):
        java, class_path = self.needed(self.logger)
        properties = [f"-D{JVM_ONLY[k]}={v}" for k, v in self.config.items() if k in JVM_ONLY]
        return [java, "-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:-UsePerfData",
                "-Dzookeeper.admin.enableServer=false", "-Djava.awt.headless=true",
                "-Dorg.slf4j.simpleLogger.showDateTime=true", "-Dorg.slf4j.simpleLogger.dateTimeFormat=HH:mm:ss.SSS",
                *(f"-Dorg.slf4j.simpleLogger.log.org.apache.zookeeper.server.{noisy}=error" for noisy in NOISY), *properties,
                "-cp", class_path, "org.apache.zookeeper.server.quorum.QuorumPeerMain", self.config_path]


class Serval(Server):
    """The server of this repository; SERVAL_BIN names the binary, default target/release/serval."""

    name = "serval"

    @staticmethod
    def binary():
        path = os.environ.get("SERVAL_BIN", os.path.join(REPOSITORY, "target", "release", "serval"))
        if not os.access(path, os.X_OK):
            raise Missing(f"no serval at {path}: `cargo build --release -p net`, or set SERVAL_BIN")
        return os.path.abspath(path)

    def command(self):
        return [self.binary(), "serve", "--config", self.config_path]


KINDS = {"apache": Apache, "serval": Serval}


def start(kind, config=None, directory=None):
    """A started server of `kind` ("apache" or "serval")."""
    server = KINDS[kind](config, directory)
    try:
        return server.start()
    except BaseException:
        server.remove()
        raise
