"""Keys of the controller at backends: what they may do, and what ends with them."""

from __future__ import annotations

import datetime as dt
import json
import socket
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any
from urllib.parse import urlsplit

import pytest
from harness.bench import PYTHON
from harness.callers import CALLERS
from harness.controller import Controller, unique
from harness.waiting import wait_until

from venvd_contract.errors import Conflict, Forbidden, Unauthenticated, VenvdError

from .conftest import ASK, TRANSPORTS  # type: ignore[import-not-found]

pytestmark = [pytest.mark.network, pytest.mark.about("controller")]
LOOPS = "import time\nwhile True: time.sleep(0.01)"


@pytest.fixture(scope="module")
def backends(controller: Controller) -> Iterator[dict[str, Any]]:
    """A backend of each type, with a token; user code has no network."""
    controller.api("PUT", f"/v1/runtimes/{PYTHON}", {})
    controller.venv("keyed", python=PYTHON)
    with controller.backends("keyed", TRANSPORTS) as started:
        yield started


@contextmanager
def a_key(controller: Controller, scope: str | list[str], **fields: Any) -> Iterator[tuple[str, str]]:
    """Name and token of a key, which is revoked at the end if it is still there."""
    name = unique("key")
    created = controller.api("POST", "/v1/keys", {"name": name, "scope": scope, **fields})
    yield name, created["key"]
    controller.raw("DELETE", f"/v1/keys/{name}")


def refusal(ask: Callable[[], Any]) -> type[Exception] | None:
    """What a call fails with. A key that ends during a call ends its connection."""
    try:
        ask()
    except (VenvdError, ConnectionError) as error:
        return type(error)
    return None


def await_key(backend: dict[str, Any], kind: str, token: str) -> None:
    """Wait until a backend accepts a key, whatever the controller says to it."""

    def is_accepted() -> bool:
        return refusal(lambda: ASK[kind](backend, "venv.list", token, {})) is not Unauthenticated

    wait_until(is_accepted, f"the {kind} backend does not accept the key")


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_a_key_does_what_its_scope_says(controller: Controller, backends: dict[str, Any], kind: str) -> None:
    """A key makes the venvs of its scopes and no others, over each transport, and the refusal names the scope."""
    name, backend, ask = unique("mine"), backends[kind], ASK[kind]
    with a_key(controller, ["venv:keyed", f"venv:{name}"]) as (key, token):
        await_key(backend, kind, token)
        change = ask(backend, "venv.create", token, {"name": name, "spec": {"python": PYTHON}, "wait": True})
        assert change["venv"]["state"] == "ready"
        with pytest.raises(Conflict, match="exists already"):
            ask(backend, "venv.create", token, {"name": name})
        with pytest.raises(Forbidden, match=f'needs venv:other; the key "{key}" has'):
            ask(backend, "venv.create", token, {"name": "other"})
        assert ask(backend, "venv.delete", token, {"name": name}) == {"success": True}


def test_calls_alone_make_no_venv(controller: Controller, backends: dict[str, Any]) -> None:
    """The controller refuses the backend's own token, and a key for its calls, and names the scope that is missing."""
    backend = backends["http"]
    with a_key(controller, "use:keyed-http") as (_, token):
        await_key(backend, "http", token)
        for each in (token, backend["token"]):
            with pytest.raises(Forbidden, match=r"needs venv:other; .* has use:keyed-http"):
                ASK["http"](backend, "venv.create", each, {"name": "other"})


def test_a_revoked_key_ends_what_runs(controller: Controller, backends: dict[str, Any]) -> None:
    """A connection whose key is revoked ends in the middle of its call, and its session serves others."""
    backend = backends["pipe"]
    with a_key(controller, "use:keyed-pipe") as (name, token):
        await_key(backend, "pipe", token)
        with socket.socket(socket.AF_UNIX) as client, client.makefile("rb") as lines:
            client.settimeout(120)
            client.connect(urlsplit(backend["url"]).path)
            client.sendall(json.dumps({"command": "exec", "token": token, "payload": {"code": LOOPS}}).encode() + b"\n")
            controller.api("DELETE", f"/v1/keys/{name}")
            answer = json.loads(lines.readline())
            assert (answer["code"], answer["error"]) == ("unauthenticated", f'the key "{name}" was revoked')
            assert lines.readline() == b""
        for kind in TRANSPORTS:
            wait_until(
                lambda kind=kind: refusal(lambda: ASK[kind](backends[kind], "venv.list", token, {})) is Unauthenticated,
                "the key still works",
            )


def test_an_expired_key_ends(controller: Controller, backends: dict[str, Any]) -> None:
    """A key that expires is refused, although the controller does nothing at that moment."""
    expires = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=3)
    with a_key(controller, "use:keyed-http", expiresAt=expires.isoformat()) as (_, token):
        await_key(backends["http"], "http", token)
        wait_until(
            lambda: refusal(lambda: ASK["http"](backends["http"], "venv.list", token, {})) is Unauthenticated,
            "the key still works",
        )


def read_log_line(text: str) -> dict[str, Any]:
    """Return the fields of a line of a server's log."""
    try:
        fields: dict[str, Any] = json.loads(text)
    except ValueError:
        raise AssertionError(f"this line of a server's log is no JSON: {text!r}") from None
    return fields


@pytest.mark.parametrize("kind", TRANSPORTS)
def test_the_audit_log_tells_of_backends(controller: Controller, backends: dict[str, Any], kind: str) -> None:
    """Sessions, refused tokens and the end of a key are in the audit log; the backend's own log names the key.

    A call in the background ends with its key.
    """
    name = f"keyed-{kind}"
    with a_key(controller, f"use:{name}") as (key, token):
        await_key(backends[kind], kind, token)
        caller = CALLERS[kind](backends[kind]["url"], token)
        session = caller("session.create", {"name": f"made-by-{key}"})["id"]
        with pytest.raises(VenvdError, match="division by zero"):
            caller("eval", {"expression": "1 / 0"}, session=session)
        with closing(caller.with_token("wrong")) as stranger, pytest.raises(Unauthenticated):
            stranger("session.list")
        caller("session.delete", {"id": session})
        left = caller("call.start", {"command": "exec", "payload": {"code": LOOPS}})["id"]
        caller.close()
    with closing(CALLERS[kind](backends[kind]["url"], backends[kind]["token"])) as owner:
        ended = owner("call.get", {"id": left, "wait": 60})
    assert (ended["state"], ended["result"]) == ("cancelled", None)
    assert f'the key "{key}" was revoked' in ended["error"]["message"]
    expected = {
        ("session.create", f"/backends/{name}/sessions/{session}", key, 200),
        ("session.delete", f"/backends/{name}/sessions/{session}", key, 200),
        ("key.end", f"/backends/{name}", key, 200),
        ("token.refuse", f"/backends/{name}", None, 401),
    }

    def is_there() -> bool:
        lines = controller.api("GET", "/v1/audit?limit=1000")["items"]
        peers = {(line["method"], line["target"], line["key"], line["status"]): line["peer"] for line in lines}
        if not expected <= peers.keys():
            return False
        peer = peers["session.create", f"/backends/{name}/sessions/{session}", key, 200]
        return peer.startswith("unix:") if kind == "pipe" else peer.count(".") == 3

    wait_until(is_there, lambda: f"the log has not all of {expected}")
    logs = controller.api("GET", f"/v1/backends/{name}/logs")["items"]
    lines = [read_log_line(line["text"]) for line in logs if line["source"] == "server"]
    called = [line for line in lines if line["logger"] == "venvd.call" and line.get("session") == session]
    assert [(line["command"], line["key"], line["errorType"]) for line in called] == [
        ("eval", key, "ZeroDivisionError")
    ]
