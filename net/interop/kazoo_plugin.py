"""A pytest plugin that runs kazoo's own tests against one server, or an ensemble of three, which it starts itself.

Here: what stands in for kazoo's three-server cluster, which tests cannot run and why, a time limit per test, and a log
of outcomes. Loaded by `kazoo_suite.py` in a process of its own per server kind.
Invariant: no test is left out silently. Each is run, or is in `LEFT_OUT` with its reason and reported as such; an
entry that matches no test is an error; a test that skips itself is a failure unless `MAY_SKIP` says why.
"""

import atexit
import json
import os
import signal
import sys
import types

import pytest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import ensemble  # noqa: E402
import servers  # noqa: E402

TEST_LIMIT_S = 120
THREE = bool(os.environ.get("INTEROP_THREE"))

NO_SERVER = "speaks to no server"
# Prefixes of test ids (module::class::name).
LEFT_OUT = {
    "test_build.py": NO_SERVER,
    "test_exceptions.py": NO_SERVER,
    "test_hosts.py": NO_SERVER,
    "test_paths.py": NO_SERVER,
    "test_retry.py": NO_SERVER,
    "test_security.py": NO_SERVER,
    "test_selectors_select.py": NO_SERVER,
    "test_threading_handler.py": NO_SERVER,
    "test_utils.py": NO_SERVER,
    "test_eventlet_handler.py": "about the eventlet library, not the server",
    "test_gevent_handler.py": "about the gevent library, not the server",
    "test_sasl.py": "SASL, which Serval refuses at start until it is built",
    "test_client.py::TestSSLClient": "TLS, which Serval refuses at start until it is built",
}
if not THREE:
    LEFT_OUT.update({
        "test_client.py::TestReconfig": "needs an ensemble",
        "test_client.py::TestClient::test_update_host_list": "needs three servers",
        "test_connection.py::TestReadOnlyMode": "needs three servers",
    })
MAY_SKIP = {}


class OneServer:
    """Stands for one of kazoo's managed servers."""

    def __init__(self, server):
        self.server = server
        self.address = f"127.0.0.1:{server.port}"
        self.client_port = server.port
        self.server_info = self

    @property
    def running(self):
        return self.server.alive()

    def run(self):
        if not self.server.alive():
            self.server.start()

    def stop(self):
        self.server.stop()

    def reset(self):
        self.stop()
        self.run()


class OneServerCluster(list):
    """Stands for kazoo's cluster. It outlives the test classes, each of which terminates its own."""

    def start(self):
        for server in self:
            server.run()

    def stop(self):
        for server in self:
            server.stop()

    def terminate(self):
        pass

    def get_logs(self):
        return [self[0].server.log_tail(100)]


class Managed:
    """Stands for one of kazoo's managed servers, with a member of an ensemble behind it."""

    def __init__(self, member):
        self.member = member
        self.address = f"{member.host}:{member.port}"
        self.client_port = member.port
        self.server_info = self

    @property
    def running(self):
        return self.member.alive()

    def run(self):
        if not self.member.alive():
            self.member.launch()
            self.member.write_config = False  # from here on it belongs to the server, which reconfiguration edits

    def stop(self):
        if self.member.alive():
            self.member.stop()

    def reset(self):
        self.stop()
        self.run()


class Three(list):
    """Stands for kazoo's cluster of three, with the configuration that kazoo gives to its own."""

    def __init__(self, kind, local_sessions):
        self.ensemble = ensemble.Ensemble(kind * 3, config={
            "tickTime": "2000", "initLimit": "10", "syncLimit": "2", "reconfigEnabled": "true",
            "minSessionTimeout": None, "maxSessionTimeout": None, "readonlymode.enabled": "true",
            "DigestAuthenticationProvider.superDigest": servers.SUPER_DIGEST,
            "localSessionsEnabled": local_sessions, "localSessionsUpgradingEnabled": local_sessions})
        super().__init__(Managed(m) for m in self.ensemble.members.values())
        atexit.register(self.ensemble.remove)

    def start(self):
        for server in self:
            server.run()
        self.ensemble.wait_serving()

    def stop(self):
        for server in self:
            server.stop()

    def terminate(self):
        pass

    def get_logs(self):
        return [self.ensemble.logs(100)]


CLUSTERS = {}


def three():
    """The cluster that the test asks for through kazoo's environment variable; each is made once."""
    local_sessions = os.environ.get("ZOOKEEPER_LOCAL_SESSION_RO", "false")
    if local_sessions not in CLUSTERS:
        for other in CLUSTERS.values():
            other.stop()
        CLUSTERS[local_sessions] = Three({"apache": "A", "serval": "S"}[os.environ["INTEROP_SERVER"]], local_sessions)
    cluster = CLUSTERS[local_sessions]
    if not any(server.running for server in cluster):
        for other in CLUSTERS.values():
            other.stop()
        cluster.start()
    return cluster


def start_cluster():
    server = servers.start(os.environ["INTEROP_SERVER"], {"reconfigEnabled": "true"})
    atexit.register(server.remove)
    return OneServerCluster([OneServer(server)])


def pytest_configure(config):
    # kazoo's own cluster is not used, and what it imports for making certificates need not be installed.
    unused = types.ModuleType("kazoo.testing.common")
    unused.ZookeeperCluster = None
    sys.modules["kazoo.testing.common"] = unused
    import kazoo.testing.harness as harness
    if THREE:
        harness.get_global_cluster = three
    else:
        cluster = start_cluster()
        harness.get_global_cluster = lambda: cluster


def relative(item):
    return item.nodeid.split("tests/")[-1]


def note(outcome, name, detail=""):
    with open(os.environ["INTEROP_OUTCOMES"], "a", encoding="utf-8") as f:
        f.write(json.dumps([outcome, name, detail]) + "\n")


def pytest_collection_modifyitems(config, items):
    kept, matched = [], set()
    for item in items:
        name = relative(item)
        reasons = [(prefix, why) for prefix, why in LEFT_OUT.items()
                   if name == prefix or name.startswith(prefix + "::")]
        if reasons:
            matched.add(reasons[0][0])
            note("left out", name, reasons[0][1])
        else:
            kept.append(item)
            note("to run", name)
    for prefix in sorted(set(LEFT_OUT) - matched):
        note("failed", prefix, "listed in LEFT_OUT, but kazoo has no such test")
    items[:] = kept


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    def late(_signal, _frame):
        raise TimeoutError(f"took longer than {TEST_LIMIT_S} s")
    signal.signal(signal.SIGALRM, late)
    signal.alarm(TEST_LIMIT_S)
    try:
        return (yield)
    finally:
        signal.alarm(0)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    name = relative(item)
    if report.failed:
        note("failed", name, report.longreprtext[-3000:])
    elif report.skipped:
        why = MAY_SKIP.get(name)
        note("left out" if why else "failed", name, why or "skipped itself: " + str(report.longrepr))
    elif report.when == "call":
        note("passed", name)
    return report
