"""The filter in front of the Docker socket: enough for the engine, and no more."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from collections.abc import Iterator

import pytest
from harness.bench import Bench, evaluate, opened
from harness.stack import ROOT, Quiet, make_home_id

pytestmark = [pytest.mark.docker, pytest.mark.network]


def docker(*words: str) -> str:
    return subprocess.run(["docker", *words], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture(scope="module")
def proxy(docker_bench: Bench) -> Iterator[str]:
    """The address of the proxy of deploy/socket-proxy, run as its compose file runs it."""
    home = make_home_id()
    name = f"venvd-test-proxy:{home}"
    base = f"venvd-test-base:{home}"
    docker("tag", docker_bench.runtime.base, base)  # the builder knows an image by its name only
    subprocess.run([ROOT / "deploy" / "compose-plugin"], check=True)  # the classic builder leaves dangling images
    docker(
        "buildx",
        "build",
        "--load",
        f"--build-arg=BASE_IMAGE={base}",
        f"--tag={name}",
        str(ROOT / "deploy" / "socket-proxy"),
    )
    socket = "/var/run/docker.sock:/var/run/docker.sock"
    guards = ["--user=0:0", "--cap-drop=ALL", "--read-only", f"--label=dev.venvd.home={home}"]
    container = docker("run", "--detach", *guards, "--publish=127.0.0.1::2375", f"--volume={socket}", name)
    try:
        address = docker("port", container, "2375/tcp")
        until_it_answers(address)
        yield address
    finally:
        docker("rm", "--force", container)
        docker("image", "rm", "--force", name, base)


def until_it_answers(address: str) -> None:
    end = time.monotonic() + 120
    while True:
        try:
            if ask(address, "GET", "/_ping") == http.client.OK:
                return
        except OSError:
            pass
        assert time.monotonic() < end, "the proxy does not answer"
        time.sleep(0.1)


def ask(address: str, method: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        connection.request(method, path, json.dumps({}), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.fixture
def bench_behind(proxy: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    monkeypatch.setenv("DOCKER_HOST", f"tcp://{proxy}")
    with opened("docker") as made:
        yield made


@pytest.mark.long
def test_the_engine_works_behind_the_filter(bench_behind: Bench) -> None:
    """Locking, building, starting, watching, following, stopping and removing need no call that the filter stops."""
    engine = bench_behind.engine
    engine.check()
    events = engine.watch()
    next(events)
    image = engine.build(bench_behind.wanted("six==1.16.0"), Quiet())
    for kind in ("http", "pipe"):
        with bench_behind.running(bench_behind.launch(image, kind, network=kind == "http")) as record:
            if kind == "http":
                assert evaluate(record, "import six; six.__version__") == "1.16.0"
            engine.stop(record, 5)
            list(engine.logs(record, None, follow=True))
            next(events)
    events.close()
    engine.sweep()
    engine.remove_image(image.key)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1.41/containers/any/export"),
        ("POST", "/v1.41/containers/any/attach"),
        ("POST", "/v1.41/containers/any/update"),
        ("POST", "/v1.41/containers/prune"),
        ("POST", "/v1.41/swarm/init"),
        ("GET", "/v1.41/secrets"),
        ("POST", "/v1.41/plugins/pull"),
        ("POST", "/v1.41/images/any/push"),
        ("DELETE", "/v1.41/plugins/any"),
        ("GET", "/v1.41/system/df"),
    ],
)
def test_other_calls_are_refused(proxy: str, method: str, path: str) -> None:
    """What the engine does not need is answered 403 by the filter itself."""
    assert ask(proxy, method, path) == http.client.FORBIDDEN
