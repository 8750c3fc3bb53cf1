"""Many calls of old clients at once, all to the session that they share."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from compat.clients import Client, OldPipeClient
from compat.connections import connect
from compat.dotnet.types import INT32
from harness.stack import Running

pytestmark = pytest.mark.about("transport")

CALLS = 200


def test_200_calls_at_once(backend: tuple[str, Running], client: Client) -> None:
    """Each of 200 calls that are sent at the same moment gets its own answer."""
    clients = [connect(*backend) for _ in range(CALLS)] if isinstance(client, OldPipeClient) else [client] * CALLS
    start = threading.Barrier(CALLS)

    def run(number: int) -> int:
        start.wait(60)
        result: int = clients[number].evaluate(INT32, "__import__('time').sleep(0.002) or n * 2", {"n": number})
        return result

    with ThreadPoolExecutor(CALLS) as pool:
        answers = list(pool.map(run, range(CALLS)))
    for each in set(clients):
        assert each.log == []
        if each is not client:
            each.close()
    assert answers == [number * 2 for number in range(CALLS)]
