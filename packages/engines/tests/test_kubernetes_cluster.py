"""The connection to a cluster: an API server that is away for a while, and threads that begin at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Pod

from venvd_contract.errors import Cancelled
from venvd_engines.engine import EngineSettings
from venvd_engines.kubernetes import cluster
from venvd_engines.kubernetes.cluster import Cluster


def make_error(code: int) -> ApiError:
    status = {"status": "Failure", "code": code, "message": f"status {code}"}
    return ApiError(response=httpx2.Response(code, json=status, request=httpx2.Request("GET", "https://cluster/")))


def make_bare_error(code: int) -> httpx2.HTTPStatusError:
    """Make the error of an answer that is no Status of Kubernetes."""
    request = httpx2.Request("GET", "https://cluster/")
    return httpx2.HTTPStatusError("error", request=request, response=httpx2.Response(code, text="timeout"))


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(cluster, "PAUSE_SECONDS", 0.0)
    return Cluster(EngineSettings(home=tmp_path, home_id="test", run_dir=tmp_path))


class Answers:
    """Calls that fail, one after the other, and the number of calls."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return "answer"


def test_an_absence_is_survived(made: Cluster) -> None:
    """Broken connections and answers of a server that starts are tried again."""
    answers = Answers(httpx2.ConnectError("refused"), httpx2.ReadError("reset"), make_error(503), make_error(429))
    answers.errors += [make_bare_error(500), make_bare_error(502)]
    assert made.ask(answers) == "answer"
    assert answers.calls == 7


def test_a_refusal_is_final(made: Cluster) -> None:
    """A call that the server refuses is not tried again."""
    for error in (make_error(403), make_bare_error(404)):
        answers = Answers(error)
        with pytest.raises(type(error)):
            made.ask(answers)
        assert answers.calls == 1


def test_an_absence_has_an_end(made: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stays away is an error, and a cancelled work does not wait for it."""
    away = Answers(*(httpx2.ConnectError("refused") for _ in range(5)))

    def cancel() -> None:
        raise Cancelled("cancelled")

    with pytest.raises(Cancelled):
        made.ask(away, cancel)
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", -1.0)
    with pytest.raises(httpx2.ConnectError):
        made.ask(away)
    assert away.calls == 2


class Deletions(Answers):
    """The names of what is deleted, while the API server is away for some calls."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__(*errors)
        self.names: list[str] = []

    def delete(self, _kind: object, name: str, _grace: int | None = None) -> None:
        self()
        self.names.append(name)


def test_what_an_absence_left_is_removed_later(made: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work ends although its objects cannot be removed, and what it left is removed once, when the server is back."""
    monkeypatch.setattr(cluster, "TIMEOUT_SECONDS", -1.0)
    deletions = Deletions(httpx2.ConnectError("refused"))
    monkeypatch.setattr(made, "delete", deletions.delete)
    with made.remove_at_end((Pod, "one"), (Pod, "other")):
        assert deletions.calls == 0
    assert deletions.names == ["other"]
    made.remove_left()
    made.remove_left()
    assert deletions.names == ["other", "one"]


def test_what_a_halted_server_may_make_yet_is_removed_again(made: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """An object whose creation got no answer is removed at once, and once more later."""
    deletions = Deletions()
    monkeypatch.setattr(made, "delete", deletions.delete)
    with pytest.raises(httpx2.ReadTimeout), made.remove_at_end((Pod, "late")):
        raise httpx2.ReadTimeout("silent")
    made.remove_left()
    assert deletions.names == ["late", "late"]


THREADS = """
import sys, threading
from pathlib import Path
from lightkube.resources.core_v1 import Pod
from venvd_engines.engine import EngineSettings
from venvd_engines.kubernetes.cluster import Cluster

sys.setswitchinterval(1e-6)
home = Path(sys.argv[1])
Cluster(EngineSettings(home=home, home_id="test", run_dir=home)).client
content = {"metadata": {"name": "x"}, "spec": {"containers": [{"name": "a", "image": "b"}]}}
together = threading.Barrier(4)

def begin():
    together.wait()
    for _ in range(50):
        Pod.from_dict(content)

threads = [threading.Thread(target=begin) for _ in range(4)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_may_begin_at_once(tmp_path: Path) -> None:
    """Threads that make their first objects at the same time do not crash the process."""
    config = {
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "b", "user": "c"}}],
        "clusters": [{"name": "b", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "c", "user": {"token": "word"}}],
    }
    (tmp_path / "config").write_text(json.dumps(config))
    env = {**os.environ, "KUBECONFIG": str(tmp_path / "config")}
    done = subprocess.run(
        [sys.executable, "-c", THREADS, tmp_path], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
