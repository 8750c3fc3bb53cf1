"""Keys, from `venvd key` to a real backend that accepts them and then does not."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from harness.cli import Cli, run
from harness.programs import started
from harness.waiting import wait_until

import venvd
from venvd_contract.resources import VenvSpec

pytestmark = pytest.mark.slow


def test_a_key_calls_its_backend_until_it_is_revoked(site: Any, cli: Cli) -> None:
    """`venvd eval` with a key as VENVD_TOKEN reaches the backend with that key, without the backend's token."""
    created = cli("key", "create", "ci", "--scope", "use:main", "--expires", "30d", "--json").json
    environment = {**site.environment(), "VENVD_URL": site.url, "VENVD_TOKEN": created["key"]}
    assert created["scope"] == ["use:main"]

    def call(status: int | None = 0) -> Any:
        return run(environment, "eval", "--backend", "main", "6 * 7", status=status)

    wait_until(lambda: call(status=None).status == 0, "the backend does not accept the key")
    assert call().out == "42\n"
    assert run(environment, "status", "main", "--json").json["token"] is None
    refused = run(environment, "stop", "main", status=1).err
    assert 'the key "ci" has use:main' in refused
    with venvd.connect(site.backend.url, created["key"]) as connected:
        assert connected.eval("1 + 1") == 2
        assert "ci" in cli("key", "list").out
        cli("key", "revoke", "ci")

        def is_refused() -> bool:
            try:
                connected.eval("1 + 1")
            except venvd.VenvdError:
                return True
            return False

        wait_until(is_refused, "the backend accepts a key that was revoked")
    assert "accepts" in call(status=1).err
    assert "ci" not in cli("key", "list").out


def test_the_sdk_creates_and_revokes_keys(site: Any) -> None:
    """The token of a key is in the answer that creates it, and in no list."""
    end = datetime.now(UTC) + timedelta(days=1)
    with venvd.Controller(site.url, site.token) as controller:
        created = controller.keys.create("sdk", ["venv:plain", "metrics"], end)
        assert created.key is not None
        listed = {key.name: key for key in controller.keys.list()}
        assert (listed["sdk"].scope, listed["sdk"].key) == (["venv:plain", "metrics"], None)
        assert datetime.fromisoformat(listed["sdk"].expiresAt or "") == end.replace(
            microsecond=end.microsecond // 1000 * 1000
        )
        with venvd.Controller(site.url, created.key) as limited:
            assert [backend.name for backend in limited.backends.list() if backend.venv != "plain"] == []
            with pytest.raises(venvd.Forbidden, match="needs admin"):
                limited.keys.list()
        controller.keys.revoke("sdk")
        with pytest.raises(venvd.NotFound):
            controller.keys.revoke("sdk")


def test_the_audit_log_is_shown(site: Any, cli: Cli) -> None:
    """`venvd audit` prints the lines of a key, oldest first; `--json` has their fields."""
    token = cli("key", "create", "watched", "--scope", "venv:watched", "--json").json["key"]
    environment = {**site.environment(), "VENVD_URL": site.url, "VENVD_TOKEN": token}
    with venvd.Controller(site.url, token) as limited:
        limited.venvs.put("watched", VenvSpec(labels={"a": "b"}))
        limited.venvs.delete("watched")
    assert run(environment, "audit", status=1).err
    lines = cli("audit", "--key", "watched", "--since", "1h", "--json").json
    assert [(line["method"], line["target"]) for line in lines if line["status"] < 400] == [
        ("PUT", "/v1/venvs/watched"),
        ("DELETE", "/v1/venvs/watched"),
    ]
    assert "labels={'a': 'b'}" in cli("audit", "--key", "watched").out
    with started(site.environment(), "audit", "--follow", "--key", "watched", stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert b"PUT /v1/venvs/watched" in process.stdout.readline()
        with venvd.Controller(site.url, token) as limited:
            limited.venvs.put("watched", VenvSpec(labels={"later": "yes"}))
        assert any(b"later" in line for line in process.stdout)
        with venvd.Controller(site.url, token) as limited:
            limited.venvs.delete("watched")
    cli("key", "revoke", "watched")


@pytest.mark.parametrize("words", [("--scope", "root"), ("--scope", "admin", "--expires", "soon"), ()])
def test_wrong_words_for_a_key_are_named(cli: Cli, words: tuple[str, ...]) -> None:
    """A wrong scope, a wrong time and a missing scope are usage errors."""
    assert cli("key", "create", "wrong", *words, status=2).err


def test_what_a_managing_backend_lets_its_callers_do_is_said(cli: Cli) -> None:
    """`start` and `status` warn that each caller may use the venvs that a backend manages; others have no warning."""
    warning = "warning: each caller of builder may make, change, use and delete the venvs made-*, run-*"
    words = ("start", "http", "--venv", "plain", "--name", "builder", "--manages", "made-*", "--manages", "run-*")
    try:
        assert warning in cli(*words, "--no-wait").err
        assert warning in cli("backend", "status", "builder").err
        assert "warning" not in cli("backend", "status", "main").err
    finally:
        cli("stop", "builder")
