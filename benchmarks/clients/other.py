"""HTTP clients of others, used as their manuals say, against the same server."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import uvloop

from benchmarks.clients.sdk import wanted
from benchmarks.clients.timing import median_of, shared_out
from benchmarks.figure import Address, Probe


@contextmanager
def http_client(at: Address) -> Iterator[Probe]:
    """The standard library's."""
    connection = http.client.HTTPConnection(urlsplit(at.url).netloc)
    headers = {"Authorization": f"Bearer {at.token}", "Content-Type": "application/json"}

    def call() -> Any:
        connection.request("POST", "/api/eval", json.dumps({"expression": "1+1"}), headers)
        return json.loads(connection.getresponse().read())["value"]

    wanted(call())
    yield median_of(call)
    connection.close()


@contextmanager
def aiohttp(at: Address, tasks: int) -> Iterator[Probe]:
    """The same with aiohttp, from so many tasks on uvloop."""
    import aiohttp  # noqa: PLC0415 — the one client here that is not installed by `make install`

    loop = uvloop.new_event_loop()
    url, headers = f"{at.url}/api/eval", {"Authorization": f"Bearer {at.token}"}

    async def begin() -> aiohttp.ClientSession:
        return aiohttp.ClientSession(headers=headers)

    session = loop.run_until_complete(begin())

    async def call() -> Any:
        async with session.post(url, json={"expression": "1+1"}) as response:
            return (await response.json())["value"]

    wanted(loop.run_until_complete(call()))
    yield lambda batch: loop.run_until_complete(shared_out(call, batch, tasks))
    loop.run_until_complete(session.close())
