"""Clients of the peers, from the package index, as their manuals say."""
# ruff: noqa: PLC0415 — what a client needs is imported where it is used: a row says itself what it lacks

from __future__ import annotations

import queue
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.clients.sdk import wanted
from benchmarks.clients.timing import MILLI, median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

PATIENCE = 60


@contextmanager
def rpyc(at: Address) -> Iterator[Probe]:
    """`connection.root.eval("1+1")`."""
    from rpyc.core import SlaveService
    from rpyc.utils.factory import unix_connect

    connection = unix_connect(urlsplit(at.url).path, SlaveService)
    wanted(connection.root.eval("1+1"))
    yield median_of(lambda: connection.root.eval("1+1"))
    connection.close()


@contextmanager
def pyro(at: Address) -> Iterator[Probe]:
    """`proxy.evaluate("1+1")`."""
    import Pyro5.api

    with Pyro5.api.Proxy(at.url) as proxy:
        wanted(proxy.evaluate("1+1"))
        yield median_of(lambda: proxy.evaluate("1+1"))


@contextmanager
def kernel(_at: Address) -> Iterator[Probe]:
    """`1+1` in a cell of ipykernel."""
    manager, client = _kernel()
    wanted(_cell(client, "1+1"))
    yield median_of(lambda: _cell(client, "1+1"))
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@contextmanager
def new_kernel(_at: Address) -> Iterator[Probe]:
    """A new ipykernel, numpy and pandas imported in its first cell, to that cell's answer."""

    def probe(batch: int) -> float:
        took = 0.0
        for _ in range(batch):
            begun = time.perf_counter()
            manager, client = _kernel()
            wanted(_cell(client, "import numpy, pandas\n1+1"))
            took += time.perf_counter() - begun
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        return took / batch * MILLI

    yield probe


def _kernel() -> tuple[Any, Any]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=PATIENCE, stderr=subprocess.DEVNULL)
    return manager, client


def _cell(client: Any, code: str) -> object:
    """What the cell shows as its result, once the kernel has answered."""
    asked = client.execute(code)
    shown = None
    try:
        while True:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != asked:
                continue
            if message["msg_type"] == "execute_result":
                shown = message["content"]["data"]["text/plain"]
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
    except queue.Empty:
        raise UnmeasurableError("the kernel did not answer") from None
    client.get_shell_msg(timeout=PATIENCE)
    return shown and int(shown)
