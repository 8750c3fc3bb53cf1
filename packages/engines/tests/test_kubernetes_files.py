"""The files of servers, which a controller asks to be written again and again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import InvalidRequest
from venvd_engines.engine import EngineSettings, LaunchRecord
from venvd_engines.kubernetes.backends import Backends
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.pods import encode_files
from venvd_engines.kubernetes.policies import Policies


class Client:
    """Notes the kinds that are patched, in place of the API server."""

    namespace = "test"

    def __init__(self) -> None:
        self.patched: list[str] = []
        self.data: dict[str, str] = {}

    def patch(self, kind: Any, _name: str, content: Any) -> None:
        self.patched.append(kind.__name__)
        self.data |= content.get("data", {})


@pytest.fixture
def client(monkeypatch: pytest.MonkeyPatch) -> Client:
    made = Client()
    monkeypatch.setattr(Cluster, "client", made)
    return made


@pytest.fixture
def backends(client: Client, tmp_path: Path) -> Backends:
    del client
    cluster = Cluster(EngineSettings(home=tmp_path, home_id="test", run_dir=tmp_path))
    return Backends(cluster, Policies(cluster))


def test_a_file_is_written_once(backends: Backends, client: Client) -> None:
    """The same content costs no request the second time; other content, another file and another launch are written."""
    record = LaunchRecord("kubernetes", "one", "http://one", "http://one", {})
    for data in (b"keys", b"keys", b"others", b"others"):
        backends.write_keys(record, data)
    assert client.patched == ["Secret", "Pod"] * 2
    backends.write_secrets(record, b"others")
    backends.write_keys(LaunchRecord("kubernetes", "other", "http://other", "http://other", {}), b"others")
    assert client.patched == ["Secret", "Pod"] * 4


def test_files_of_the_controller_are_copied_again(backends: Backends, client: Client, tmp_path: Path) -> None:
    """Certificate and key are replaced at once, and only after a change; the error names a file that is gone."""
    paths = {"VENVD_TLS_CERT": tmp_path / "tls.crt", "VENVD_TLS_KEY": tmp_path / "tls.key"}
    data = {"files": {variable: str(path) for variable, path in paths.items()}}
    record = LaunchRecord("kubernetes", "one", "https://one", "https://one", data)
    for content in ("first", "first", "second"):
        for path in paths.values():
            path.write_text(f"{content} {path.suffix}")
        backends.refresh_files(record)
    assert client.patched == ["Secret", "Pod"] * 2
    assert client.data == encode_files({"VENVD_TLS_CERT": b"second .crt", "VENVD_TLS_KEY": b"second .key"})
    backends.refresh_files(LaunchRecord("kubernetes", "other", "http://other", "http://other", {}))
    paths["VENVD_TLS_KEY"].unlink()
    with pytest.raises(InvalidRequest, match=r"tls.key \(VENVD_TLS_KEY\): No such file.*backends\.tlsSecrets"):
        backends.refresh_files(record)
    assert client.patched == ["Secret", "Pod"] * 2
