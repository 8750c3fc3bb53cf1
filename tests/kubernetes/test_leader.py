"""Two controllers on one PostgreSQL, of which one leads: processes of this host, with a Lease in the cluster."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml
from harness.api_proxy import make_config
from harness.controller import Controller
from harness.kubernetes import Namespace, make_namespace
from harness.postgresql import Cluster, find_program, running_cluster
from harness.stack import make_home_id
from harness.waiting import wait_until

LEASE = "controllers"
TOKEN = "vc_" + "0" * 43


class Contender(Controller):
    """A controller with a way of its own to the API server, `kubectl proxy`, which a test may close."""

    def __init__(self, home: Path, identity: Path, namespace: Namespace, database: str) -> None:
        home.mkdir()
        self._proxy = subprocess.Popen(["kubectl", "proxy", "--port=0"], stdout=subprocess.PIPE, text=True)
        assert self._proxy.stdout is not None
        server = "http://" + self._proxy.stdout.readline().split()[-1]
        (home / "kubeconfig").write_text(yaml.safe_dump(make_config(server)))
        env = {
            "KUBECONFIG": str(home / "kubeconfig"),
            "VENVD_IDENTITY_DIR": str(identity),
            "VENVD_KUBERNETES_LEASE": LEASE,
            "VENVD_KUBERNETES_NAMESPACE": namespace.name,
            "VENVD_DATABASE_URL": f"{database}&application_name={home.name}",
        }
        super().__init__("local", home, env)

    def _await_ready(self) -> None:
        wait_until(lambda: self.ask("/livez")[0] == http.client.OK, lambda: f"it does not live: {self.read_log()}")

    def ask(self, path: str) -> tuple[int, Any]:
        """Ask with the token of both; the status is 0 where there is no answer."""
        with suppress(OSError, http.client.HTTPException):
            return self.raw("GET", path, token=TOKEN, timeout=10)
        return 0, None

    def leads(self) -> bool:
        return self.ask("/readyz")[0] == http.client.OK

    def await_lead(self) -> None:
        wait_until(self.leads, lambda: f"it does not lead: {self.read_log()}")

    def lose_cluster(self) -> None:
        """Close the way to the API server."""
        self._proxy.terminate()
        self._proxy.wait()

    def find_child(self) -> int:
        """Find the process of the controller itself, beside the one that renews the Lease."""
        assert self.process is not None
        pid = self.process.pid
        [child] = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return int(child)

    def close(self) -> None:
        if self.process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGCONT)
            self.stop()
        self.lose_cluster()
        assert self._proxy.stdout is not None
        self._proxy.stdout.close()


@pytest.fixture(scope="module")
def postgresql() -> Iterator[Cluster]:
    if find_program("initdb") is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def namespace() -> Iterator[Namespace]:
    with make_namespace("leader") as namespace:
        yield namespace


@pytest.fixture
def pair(namespace: Namespace, postgresql: Cluster, tmp_path: Path) -> Iterator[tuple[Contender, Contender]]:
    """The controller that leads, and the one that follows."""
    identity = tmp_path / "identity"
    identity.mkdir()
    content = {"id": make_home_id(), "secret": "0" * 64, "token": TOKEN, "metrics-token": "vc_" + "1" * 43}
    for name, text in content.items():
        (identity / name).write_text(text)
    database = postgresql.create_database()
    with ExitStack() as closing:
        leader, follower = (Contender(tmp_path / name, identity, namespace, database) for name in ("first", "second"))
        for each in (follower, leader):
            closing.callback(each.close)
        leader.start().await_lead()
        yield leader, follower.start()
    namespace.kubectl("delete", "lease", LEASE)


def test_the_follower_lives_and_does_nothing_else(
    pair: tuple[Contender, Contender], namespace: Namespace, postgresql: Cluster
) -> None:
    """One leads. The other has no connection to the database, and says at each request that another one leads."""
    leader, follower = pair
    wait_until(lambda: follower.ask("/readyz?follower=ok")[0] == http.client.OK, "it sees no leader")
    assert follower.ask("/livez") == (http.client.OK, {"status": "ok"})
    for path in ("/readyz", "/v1/status", "/metrics", "/"):
        status, problem = follower.ask(path)
        assert (status, problem["code"], problem["detail"]) == (503, "unavailable", "another controller leads")
    assert leader.ask("/readyz?follower=ok")[0] == http.client.OK
    assert leader.ask("/v1/status")[0] == http.client.OK
    [lease] = namespace.get("leases")
    assert lease["spec"]["leaseDurationSeconds"] == 15
    with postgresql.connect() as connection:
        names = connection.execute("SELECT DISTINCT application_name FROM pg_stat_activity").fetchall()
    assert ("first",) in names
    assert ("second",) not in names


def test_an_orderly_end_gives_the_lease_up(pair: tuple[Contender, Contender], namespace: Namespace) -> None:
    """A leader that ends by a signal empties the Lease, and the other one takes it without waiting for its end."""
    leader, follower = pair
    assert leader.process is not None
    leader.process.terminate()
    assert leader.process.wait(60) == 0
    [lease] = namespace.get("leases")
    assert "first" not in lease["spec"].get("holderIdentity", "")
    assert lease["spec"]["leaseTransitions"] in {0, 1}
    follower.await_lead()


def test_a_leader_that_crashes_gives_the_lease_up(pair: tuple[Contender, Contender], namespace: Namespace) -> None:
    """The process that renews the Lease outlives the controller, gives the Lease up, and ends as the controller did."""
    leader, follower = pair
    os.kill(leader.find_child(), signal.SIGKILL)
    assert leader.process is not None
    assert leader.process.wait(60) == 128 + signal.SIGKILL
    [lease] = namespace.get("leases")
    assert lease["spec"]["leaseTransitions"] in {0, 1}
    follower.await_lead()


def test_a_leader_that_is_killed_is_followed(pair: tuple[Contender, Contender]) -> None:
    """Where a leader is killed as a whole, the other controller takes the Lease when it has expired."""
    leader, follower = pair
    assert leader.process is not None
    os.killpg(leader.process.pid, signal.SIGKILL)
    leader.process.wait()
    follower.await_lead()


def test_a_leader_without_the_cluster_ends_before_another_one_leads(pair: tuple[Contender, Contender]) -> None:
    """A leader that cannot renew the Lease ends; a new process in its place follows, and says what it misses."""
    leader, follower = pair
    assert leader.process is not None
    leader.lose_cluster()
    wait_until(lambda: leader.process.poll() is not None or follower.leads(), "nothing happens")
    assert leader.process.poll() == 128 + signal.SIGALRM
    assert "the Lease was not renewed in time" in leader.read_log()
    follower.await_lead()
    leader.start()
    wait_until(
        lambda: "the cluster does not answer" in leader.ask("/readyz?follower=ok")[1]["detail"],
        "it does not say that it misses the cluster",
    )


def test_a_leader_that_hangs_ends_before_another_one_leads(pair: tuple[Contender, Contender]) -> None:
    """The kernel ends a controller whose Lease is not renewed, since the process that renews it has stopped."""
    leader, follower = pair
    assert leader.process is not None
    child = leader.find_child()
    os.kill(leader.process.pid, signal.SIGSTOP)

    def has_ended() -> bool:
        return Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    wait_until(lambda: has_ended() or follower.leads(), "nothing happens")
    assert has_ended()
    follower.await_lead()
    os.kill(leader.process.pid, signal.SIGCONT)
    assert leader.process.wait(60) == 128 + signal.SIGALRM
    assert follower.leads()
