"""Access keys over gRPC: they are accepted beside the token, and end the calls that use them."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from harness.access_keys import write_keys

from venvd_proto.v1 import python_service_pb2 as messages

from .conftest import METADATA, PATIENCE, TOKEN, Server, Start, until  # type: ignore[import-not-found]

KEY = "vk_caller"
WITH_KEY = (("authorization", f"Bearer {KEY}"),)
LOOPS = "import time\nprint('begun', flush=True)\nwhile True:\n    time.sleep(0.01)"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.json"


@pytest.fixture(scope="module")
def keyed(start: Start, keys: Path) -> Iterator[Server]:
    """A server with a key file."""
    write_keys(keys)
    with start(worker=True, VENVD_KEYS_FILE=str(keys)) as server:
        yield server


def evaluate(server: Server, metadata: tuple[tuple[str, str], ...], expression: str = "1 + 1") -> str:
    request = messages.EvaluateRequest(expression=expression)
    value: str = server.python.Evaluate(request, metadata=metadata, timeout=PATIENCE).value_json
    return value


def is_refused(server: Server) -> bool:
    try:
        evaluate(server, WITH_KEY)
    except grpc.RpcError as error:
        return bool(error.code() == grpc.StatusCode.UNAUTHENTICATED)
    return False


def allow(server: Server, keys: Path) -> None:
    """Give the server the key, and wait until it accepts it."""
    write_keys(keys, KEY)
    until(lambda: not is_refused(server), "the server does not accept the key")


def test_a_revoked_key_ends_its_call(keyed: Server, keys: Path) -> None:
    """A running call ends with the reason, and the session serves others."""
    allow(keyed, keys)
    request = messages.ExecuteRequest(code=LOOPS)
    events = keyed.python.Execute(request, metadata=WITH_KEY, timeout=PATIENCE)
    assert next(events).stdout == "begun\n"
    write_keys(keys)
    with pytest.raises(grpc.RpcError) as caught:
        list(events)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED
    assert caught.value.details() == f'the key "{KEY}" was revoked'
    assert evaluate(keyed, METADATA) == "2"
    assert is_refused(keyed)


def test_a_revoked_key_ends_its_stream(keyed: Server, keys: Path) -> None:
    """A Session stream ends although its client sends nothing."""
    allow(keyed, keys)

    def requests() -> Iterator[messages.SessionRequest]:
        yield messages.SessionRequest(id=1, command="eval", payload_json='{"expression": "2"}')
        until(lambda: False, "the stream did not end")

    replies = keyed.python.Session(requests(), metadata=WITH_KEY, timeout=PATIENCE)
    assert next(replies).result_json == '{"value":2}'
    write_keys(keys)
    with pytest.raises(grpc.RpcError) as caught:
        next(replies)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.slow
def test_a_rotated_token_ends_its_call(keyed: Server, keys: Path) -> None:
    """A call of the older token runs until the end of that, and the new token works without a restart."""
    new = (("authorization", "Bearer new"),)
    events = keyed.python.Execute(messages.ExecuteRequest(code=LOOPS), metadata=METADATA, timeout=PATIENCE)
    assert next(events).stdout == "begun\n"
    write_keys(keys, own={TOKEN: dt.datetime.now(dt.UTC), "new": None})
    with pytest.raises(grpc.RpcError, match="`venvd backend token test`"):
        list(events)
    assert evaluate(keyed, new) == "2"
    with pytest.raises(grpc.RpcError, match="was rotated"):
        evaluate(keyed, METADATA)
    write_keys(keys, KEY, own={TOKEN: None})
    until(lambda: not is_refused(keyed), "the server does not read the file")
    assert evaluate(keyed, METADATA) == "2"
