"""The files of servers, which a controller asks to be written again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from venvd_engines.engine import EngineSettings, LaunchRecord
from venvd_engines.kubernetes.backends import Backends
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.policies import Policies


class Client:
    """Notes the kinds that are patched, in place of the API server."""

    namespace = "test"

    def __init__(self) -> None:
        self.patched: list[str] = []

    def patch(self, kind: Any, _name: str, _content: object) -> None:
        self.patched.append(kind.__name__)


def test_a_file_is_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same content costs no request the second time; other content, another file and another launch are written."""
    cluster, client = Cluster(EngineSettings(home=tmp_path, home_id="test", run_dir=tmp_path)), Client()
    monkeypatch.setattr(Cluster, "client", client)
    backends = Backends(cluster, Policies(cluster))
    record = LaunchRecord("kubernetes", "one", "http://one", "http://one", {})
    for data in (b"keys", b"keys", b"others", b"others"):
        backends.write_keys(record, data)
    assert client.patched == ["Secret", "Pod"] * 2
    backends.write_secrets(record, b"others")
    backends.write_keys(LaunchRecord("kubernetes", "other", "http://other", "http://other", {}), b"others")
    assert client.patched == ["Secret", "Pod"] * 4
