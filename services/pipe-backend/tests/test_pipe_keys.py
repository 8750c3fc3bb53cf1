"""Access keys on the pipe: they are accepted beside the token, and end the connections that use them."""

from __future__ import annotations

import asyncio
import datetime as dt
import hashlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from harness.access_keys import write_keys

from venvd_contract.errors import Busy
from venvd_core.hangup import HangupWatcher
from venvd_http.admission import Admission, AdmissionLimits
from venvd_http.auth import Key, TokenGuard
from venvd_pipe_backend.connection import PipeConnection

from .conftest import CARRIER, TOKEN, Client, PipedClient, Server, Start, until, until_running, value  # type: ignore[import-not-found]

KEY = "vk_caller"
LOOPS = "import time\nwhile True:\n    time.sleep(0.01)"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keyed(start: Start, keys: Path) -> Iterator[Server]:
    """A server with a key file."""
    write_keys(keys)
    with start(worker=True, VENVD_KEYS_FILE=str(keys)) as server:
        yield server


def connect(server: Server, keys: Path) -> Client:
    """A client of a key that the server has just got."""
    write_keys(keys, KEY)

    def accepted() -> bool:
        client = server.connect_once()
        return "result" in client("ping", token=KEY)

    until(accepted, "the server does not accept the key")
    return server.clients[-1]


def attach(server: Server, keys: Path) -> Client:
    connect(server, keys)
    return direct_client(server, KEY)


def direct_client(server: Server, token: str = TOKEN) -> Client:
    client = server.connect_once()
    assert "result" in client("session.attach", token=token)
    if CARRIER["lines"] == "pipes":
        client = server.clients[-1] = PipedClient(client)
    return client


def test_a_revoked_key_ends_its_connection(keyed: Server, keys: Path) -> None:
    """The client is told why, its running call ends, and the connections of other tokens stay."""
    client, other = connect(keyed, keys), keyed.connect()
    client.send("exec", {"code": LOOPS}, id=1)
    until_running(keyed, "default")
    write_keys(keys)
    reply = client.receive()
    assert (reply["code"], reply["error"]) == ("unauthenticated", f'the key "{KEY}" was revoked')
    assert client.closed()
    assert value(other, "1 + 1") == 2
    assert keyed.connect_once()("ping", token=KEY)["code"] == "unauthenticated"


def test_an_expired_key_ends_its_connection(keyed: Server, keys: Path) -> None:
    """An expiry ends what is connected, although the client sends its key no more."""
    client = connect(keyed, keys)
    write_keys(keys, KEY, expiresAt=(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=1)).isoformat())
    assert client.receive()["code"] == "unauthenticated"
    assert client.closed()
    until(lambda: "has expired" in keyed.connect_once()("ping", token=KEY).get("error", ""), "the key still works")


@pytest.mark.usefixtures("carrier")
def test_a_revoked_key_ends_its_direct_connection(keyed: Server, keys: Path) -> None:
    """A direct client is cut off while it is idle, by socket and by pipes."""
    client = attach(keyed, keys)
    assert value(client, "1 + 1") == 2
    write_keys(keys)
    assert client.receive()["code"] == "unauthenticated"
    assert client.closed()


@pytest.mark.usefixtures("carrier")
def test_a_revoked_key_ends_its_direct_call(keyed: Server, keys: Path) -> None:
    """The running call of a direct client is interrupted, and the session serves others."""
    client = attach(keyed, keys)
    client.send("exec", {"code": LOOPS}, id=1)
    other = until_running(keyed, "default")
    write_keys(keys)
    assert value(other, "1 + 1") == 2
    assert client.closed()


@pytest.mark.usefixtures("carrier")
def test_a_rotated_token_ends_with_its_overlap(keyed: Server, keys: Path) -> None:
    """Clients of the older token, direct or not, stay until its end, and are told how to get the new one."""
    served, direct = keyed.connect(), direct_client(keyed)
    write_keys(keys, own={TOKEN: dt.datetime.now(dt.UTC) + dt.timedelta(hours=1), "new": None})
    until(lambda: "result" in keyed.connect_once()("ping", token="new"), "the new token is not accepted")
    assert [value(each, "1 + 1") for each in (served, direct)] == [2, 2]
    write_keys(keys, own={TOKEN: dt.datetime.now(dt.UTC), "new": None})
    for client in (served, direct):
        assert "`venvd backend token test`" in client.receive()["error"]
        assert client.closed()
    assert "was rotated" in keyed.connect_once()("ping", token=TOKEN)["error"]
    write_keys(keys, own={TOKEN: None})
    until(lambda: "result" in keyed.connect_once()("ping", token=TOKEN), "the token is not accepted")


@pytest.mark.slow
def test_a_key_that_ends_while_its_client_attaches() -> None:
    """An attach that fails leaves a connection whose key has ended, and the connection ends with it."""

    async def work() -> None:
        loop = asyncio.get_running_loop()
        asked, answered = asyncio.Event(), asyncio.Event()

        async def refuse(_session: str | None, _client: Any) -> None:
            asked.set()
            await answered.wait()
            raise Busy("no further direct client")

        key = Key("caller", hashlib.sha256(KEY.encode()).digest())
        guard = TokenGuard(hashlib.sha256(b"own").hexdigest())
        guard.replace_keys([key])
        limits = dict.fromkeys(("max_body", "max_attachment_bytes", "max_unread_bytes", "max_held_bytes"), 1 << 20)
        host: Any = SimpleNamespace(
            backend=SimpleNamespace(attach=refuse),
            guard=guard,
            admission=Admission(AdmissionLimits()),
            settings=SimpleNamespace(compat=False, cancel_on_disconnect=True, max_pipelined=4, **limits),
            hangups=HangupWatcher(loop),
            held=0,
            admit=lambda _connection, _peer: None,
            remove=lambda _connection: None,
        )
        ours, theirs = socket.socketpair()
        await loop.connect_accepted_socket(lambda: PipeConnection(host, loop), theirs)
        reader, writer = await asyncio.open_connection(sock=ours)
        writer.write(json.dumps({"command": "session.attach", "token": KEY, "id": 1}).encode() + b"\n")
        await asked.wait()
        guard.replace_keys([])
        answered.set()
        answer = json.loads(await reader.read())
        assert (answer["code"], answer["error"]) == ("unauthenticated", 'the key "caller" was revoked')
        writer.close()
        host.hangups.close()

    asyncio.run(asyncio.wait_for(work(), 60))
