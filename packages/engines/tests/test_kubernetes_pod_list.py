"""The watch of pods, against an HTTP server that plays the answers of an API server."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from venvd_contract.errors import Unavailable
from venvd_engines.engine import EngineSettings, LaunchRecord
from venvd_engines.kubernetes import labels, pod_list
from venvd_engines.kubernetes.engine import KubernetesEngine
from venvd_engines.kubernetes.settings import KubernetesSettings

END = object()
"""Ends a watch."""


def make_pod(launch_id: str, version: int, **states: str) -> dict[str, Any]:
    """Make a pod; `states` are those of its containers."""
    rest = {"image": "i", "imageID": "i", "ready": True, "restartCount": 0}
    statuses = [{"name": name, **rest, "state": {state: {"exitCode": 1}}} for name, state in states.items()]
    return {
        "metadata": {
            "name": labels.make_name(launch_id),
            "labels": {labels.LAUNCH: launch_id, labels.NAME: launch_id},
            "resourceVersion": str(version),
        },
        "status": {"phase": "Running", **({"containerStatuses": statuses} if statuses else {})},
    }


class ApiServer:
    """Lists `pods`, and writes what lies in `events` to the watch that is open.

    Attributes:
        asked: the parameters of each list and watch.
    """

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []
        self.version = 1
        self.events: queue.Queue[Any] = queue.Queue()
        self.asked: list[dict[str, str]] = []
        self.gone_below = 0
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                url = urlsplit(self.path)
                asked = {key: value for key, [value] in parse_qs(url.query).items()}
                if not url.path.endswith("/pods"):
                    self.answer(404, {"kind": "Status", "status": "Failure", "code": 404, "message": "not found"})
                    return
                owner.asked.append(asked)
                if "watch" not in asked:
                    metadata = {"resourceVersion": str(owner.version)}
                    self.answer(200, {"kind": "PodList", "metadata": metadata, "items": owner.pods})
                elif int(asked["resourceVersion"]) < owner.gone_below:
                    self.answer(410, {"kind": "Status", "status": "Failure", "code": 410, "message": "too old"})
                else:
                    self.play()

            def answer(self, code: int, content: dict[str, Any]) -> None:
                data = json.dumps(content).encode()
                self.send_response(code)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def play(self) -> None:
                self.send_response(200)
                self.end_headers()
                while (event := owner.events.get()) is not END:
                    self.wfile.write(event if isinstance(event, bytes) else json.dumps(event).encode() + b"\n")
                self.close_connection = True

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def send(self, kind: str, content: dict[str, Any]) -> None:
        self.events.put({"type": kind, "object": content})

    def count(self, kind: str) -> int:
        return sum(("watch" in asked) == (kind == "watch") for asked in self.asked)

    def go_away(self) -> None:
        self.events.put(END)
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[ApiServer]:
    monkeypatch.setattr(pod_list, "SETTLE_SECONDS", 0.0)
    monkeypatch.setattr(pod_list, "SHORT_SECONDS", 0.0)
    made = ApiServer()
    yield made
    made.go_away()


@pytest.fixture
def engine(api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesEngine]:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": api.url}}],
        "users": [{"name": "test", "user": {}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": "test"}}],
    }
    file = tmp_path / "config"
    file.write_text(yaml.safe_dump(config))
    monkeypatch.setenv("KUBECONFIG", str(file))
    settings = EngineSettings(
        home=tmp_path, home_id="test", run_dir=tmp_path, kubernetes=KubernetesSettings(namespace="test")
    )
    made = KubernetesEngine(settings)
    yield made
    made.close()


RECORD = LaunchRecord(engine="kubernetes", launch_id="one", url="", probe_url="", http_url=None, data={})
RUNNING = {"server": "running", "worker": "running"}


def test_inspecting_asks_nothing_while_a_watch_runs(api: ApiServer, engine: KubernetesEngine) -> None:
    """States come from the watch: no further call is made, and an ended container is seen."""
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    api.send("MODIFIED", make_pod("one", 2, server="running", worker="terminated"))
    next(events)
    asked = len(api.asked)
    for _ in range(20):
        state = engine.inspect(RECORD)
    assert (state.server.state, state.worker.state) == ("running", "exited")
    assert len(api.asked) == asked


def test_a_deleted_pod_is_reported(api: ApiServer, engine: KubernetesEngine) -> None:
    """An event of a pod that vanishes comes at once; bookmarks and new annotations are none."""
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    api.send("BOOKMARK", {"metadata": {"resourceVersion": "5"}})
    api.send("MODIFIED", make_pod("one", 6, **RUNNING))
    api.send("DELETED", make_pod("one", 7, **RUNNING))
    next(events)
    assert engine.inspect(RECORD).server.state == "missing"


def test_an_event_outdates_a_list(api: ApiServer, engine: KubernetesEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a change of our own the cluster is asked; a list from before an event answers no more after it."""
    monkeypatch.setattr(pod_list, "SETTLE_SECONDS", 60.0)
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    engine._backends.pods.expect_change()
    assert engine.inspect(RECORD).running
    api.pods = []
    api.send("DELETED", make_pod("one", 2, **RUNNING))
    next(events)
    assert engine.inspect(RECORD).server.state == "missing"


def test_an_evicted_pod_has_ended(api: ApiServer, engine: KubernetesEngine) -> None:
    """A pod that failed as Evicted has no states of containers: both halves have exited, with its reason."""
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    evicted = make_pod("one", 2)
    evicted["status"] = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on memory."}
    api.send("MODIFIED", evicted)
    next(events)
    state = engine.inspect(RECORD)
    assert {state.server.state, state.worker.state} == {"exited"}
    assert state.server.detail == "Evicted: The node was low on memory."


@pytest.mark.parametrize("how", ["answer", "event"])
def test_a_version_that_is_gone_is_listed_anew(api: ApiServer, engine: KubernetesEngine, how: str) -> None:
    """After 410, as an answer or in the stream, the list is read again and the watch goes on from there."""
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    api.version = 9
    api.pods = []
    if how == "answer":
        api.gone_below = 9
        api.events.put(END)
    else:
        api.send("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
        api.events.put(END)
    next(events)
    assert api.count("list") == 2
    assert engine.inspect(RECORD).server.state == "missing"
    api.send("ADDED", make_pod("one", 10, **RUNNING))
    next(events)
    assert api.asked[-1]["resourceVersion"] == "9"
    assert engine.inspect(RECORD).running


def test_a_bookmark_moves_the_version(api: ApiServer, engine: KubernetesEngine) -> None:
    """A watch that the server ends goes on from the last version, without a list."""
    events = engine.watch()
    next(events)
    api.send("BOOKMARK", {"metadata": {"resourceVersion": "7"}})
    api.events.put(END)
    api.send("ADDED", make_pod("one", 8, **RUNNING))
    next(events)
    assert (api.count("list"), api.asked[-1]["resourceVersion"]) == (1, "7")


def test_an_api_server_that_is_away_is_no_truth(api: ApiServer, engine: KubernetesEngine) -> None:
    """Once the server goes, the watch ends and `inspect` and `list_owned` raise, although a list was read before."""
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    assert engine.inspect(RECORD).running
    api.go_away()
    with pytest.raises(Unavailable, match="does not answer"):
        next(events)
    with pytest.raises(Unavailable, match="does not answer"):
        engine.inspect(RECORD)
    with pytest.raises(Unavailable, match="does not answer"):
        engine.list_owned()


def test_a_silent_connection_ends(api: ApiServer, engine: KubernetesEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection on which nothing comes, not even the end that was asked for, is given up, and the cluster asked."""
    monkeypatch.setattr(pod_list, "SILENT_SECONDS", 0.2)
    api.pods = [make_pod("one", 1, **RUNNING)]
    events = engine.watch()
    next(events)
    api.pods = []
    with pytest.raises(Unavailable):
        next(events)
    assert int(api.asked[-1]["timeoutSeconds"]) == pod_list.WATCH_SECONDS
    assert engine.inspect(RECORD).server.state == "missing"


def test_half_an_event_is_an_end(api: ApiServer, engine: KubernetesEngine) -> None:
    """A stream that breaks off within an event ends the watch."""
    events = engine.watch()
    next(events)
    api.events.put(b'{"type": "ADDED", "obj')
    api.events.put(END)
    with pytest.raises(Unavailable, match="broke off"):
        next(events)


def test_a_server_that_always_forgets_is_not_asked_at_once_again(
    api: ApiServer, engine: KubernetesEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a version is gone as soon as it was listed, the watch ends, and its reader pauses."""
    monkeypatch.setattr(pod_list, "SHORT_SECONDS", 60.0)
    api.gone_below = 100
    events = engine.watch()
    next(events)
    with pytest.raises(Unavailable, match="forgets"):
        next(events)
    assert len(api.asked) == 2
