"""Other HTTP clients, used as their documentation says, against the same server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.clients.sdk import check_answer
from benchmarks.clients.timing import mean_of_tasks, median_of
from benchmarks.figure import Address, Probe


@contextmanager
def http_client(at: Address) -> Iterator[Probe]:
    """`http.client` of the standard library."""
    connection = http.client.HTTPConnection(urlsplit(at.url).netloc)
    headers = {"Authorization": f"Bearer {at.token}", "Content-Type": "application/json"}

    def call() -> Any:
        connection.request("POST", "/api/eval", json.dumps({"expression": "1+1"}), headers)
        return json.loads(connection.getresponse().read())["value"]

    check_answer(call())
    yield median_of(call)
    connection.close()


@contextmanager
def aiohttp(at: Address, tasks: int) -> Iterator[Probe]:
    """The aiohttp client with a number of concurrent tasks on uvloop."""
    import aiohttp  # noqa: PLC0415 — `make install` does not install this client

    loop = uvloop.new_event_loop()
    url, headers = f"{at.url}/api/eval", {"Authorization": f"Bearer {at.token}"}

    async def open_session() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=headers)

    session = loop.run_until_complete(open_session())

    async def call() -> Any:
        async with session.post(url, json={"expression": "1+1"}) as response:
            return (await response.json())["value"]

    check_answer(loop.run_until_complete(call()))
    yield lambda batch: loop.run_until_complete(mean_of_tasks(call, batch, tasks))
    loop.run_until_complete(session.close())
