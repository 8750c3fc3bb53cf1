from __future__ import annotations

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines.engine import EngineSettings
from venvd_engines.select import choose


@pytest.fixture
def settings(tmp_path: Path) -> EngineSettings:
    return EngineSettings(home=tmp_path, home_id=f"test-{secrets.token_hex(4)}", run_dir=tmp_path / "run")


@contextmanager
def engine_that_says(version: dict[str, str]) -> Iterator[str]:
    """A server that answers as a Docker Engine does when it is asked for its version."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(version).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"tcp://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_local_is_local(settings: EngineSettings) -> None:
    """Who asks for local gets it, whether or not a Docker Engine answers."""
    engine, reason = choose("local", settings)
    assert (engine.name, reason) == ("local", "VENVD_ENGINE asks for it")


def test_auto_is_local_where_nothing_answers(settings: EngineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a Docker Engine `auto` is local, and says where it looked and what it met."""
    monkeypatch.setenv("DOCKER_HOST", "unix:///nonexistent/docker.sock")
    engine, reason = choose("auto", settings)
    assert engine.name == "local"
    assert reason == ("no Docker Engine can be used at unix:///nonexistent/docker.sock (No such file or directory)")


@pytest.mark.docker
@pytest.mark.parametrize("name", ["auto", "docker"])
def test_docker_where_it_answers(settings: EngineSettings, name: str) -> None:
    """A Docker Engine that answers is chosen, with its version and address as the reason."""
    engine, reason = choose(name, settings)
    assert engine.name == "docker"
    assert reason.startswith("Engine ")
    assert (os.environ.get("DOCKER_HOST") or "unix:///var/run/docker.sock") in reason


def test_docker_that_does_not_answer_is_no_docker(settings: EngineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who asks for docker does not get something else: the error says what would help."""
    monkeypatch.setenv("DOCKER_HOST", "tcp://127.0.0.1:9")
    with pytest.raises(Unavailable, match=r"Connection refused.*start it, or point DOCKER_HOST.*VENVD_ENGINE=local"):
        choose("docker", settings)


@pytest.mark.slow
def test_a_silent_engine_delays_no_choice(settings: EngineSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that accepts and says nothing is given up soon."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        monkeypatch.setenv("DOCKER_HOST", f"tcp://127.0.0.1:{silent.getsockname()[1]}")
        engine, reason = choose("auto", settings)
    assert engine.name == "local"
    assert "timed out" in reason or "no answer within" in reason


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ({"Version": "19.03.1", "ApiVersion": "1.40", "Os": "linux"}, "Engine 19.03.1 is older than 20.10"),
        ({"Version": "28.0", "ApiVersion": "1.48", "Os": "windows"}, "runs windows containers"),
        ({}, "older than 20.10"),
        ({"Version": "1", "ApiVersion": "banana"}, "older than 20.10"),
    ],
)
def test_an_engine_that_cannot_do_it_is_not_chosen(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch, version: dict[str, str], words: str
) -> None:
    """An engine too old, or of another system, is named as the reason for local, and is an error for docker."""
    with engine_that_says(version) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        engine, reason = choose("auto", settings)
        assert engine.name == "local"
        assert words in reason
        with pytest.raises(Unavailable, match=r"20\.10 or newer"):
            choose("docker", settings)


@pytest.mark.parametrize("host", ["nonsense", "tcp://", "ftp://x:1"])
def test_an_address_that_is_none_is_a_reason(
    settings: EngineSettings, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    """An invalid DOCKER_HOST is reported, and breaks nothing."""
    monkeypatch.setenv("DOCKER_HOST", host)
    engine, reason = choose("auto", settings)
    assert engine.name == "local"
    assert host in reason


def test_an_unknown_engine_is_refused(settings: EngineSettings) -> None:
    """Only known engines can be chosen; the error names them."""
    with pytest.raises(InvalidRequest, match="auto, docker, local"):
        choose("podman", settings)
