"""Clients of other systems that run Python remotely, used as their documentation says."""
# ruff: noqa: PLC0415 — each client imports its own library, so that only its row fails if the library is missing

from __future__ import annotations

import queue
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from benchmarks.clients.sdk import check_answer
from benchmarks.clients.timing import MILLI, median_of
from benchmarks.figure import Address, Probe, UnmeasurableError

TIMEOUT = 60


@contextmanager
def rpyc(at: Address) -> Iterator[Probe]:
    """`connection.root.eval("1+1")`."""
    from rpyc.core import SlaveService
    from rpyc.utils.factory import unix_connect

    connection = unix_connect(urlsplit(at.url).path, SlaveService)
    check_answer(connection.root.eval("1+1"))
    yield median_of(lambda: connection.root.eval("1+1"))
    connection.close()


@contextmanager
def pyro(at: Address) -> Iterator[Probe]:
    """`proxy.evaluate("1+1")`."""
    import Pyro5.api

    with Pyro5.api.Proxy(at.url) as proxy:
        check_answer(proxy.evaluate("1+1"))
        yield median_of(lambda: proxy.evaluate("1+1"))


@contextmanager
def kernel(_at: Address) -> Iterator[Probe]:
    """`1+1` in a cell of an ipykernel."""
    manager, client = _start_kernel()
    check_answer(_run_cell(client, "1+1"))
    yield median_of(lambda: _run_cell(client, "1+1"))
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@contextmanager
def new_kernel(_at: Address) -> Iterator[Probe]:
    """Start an ipykernel, import numpy and pandas in its first cell, and wait for the answer of that cell."""

    def probe(batch: int) -> float:
        took = 0.0
        for _ in range(batch):
            start = time.perf_counter()
            manager, client = _start_kernel()
            check_answer(_run_cell(client, "import numpy, pandas\n1+1"))
            took += time.perf_counter() - start
            client.stop_channels()
            manager.shutdown_kernel(now=True)
        return took / batch * MILLI

    yield probe


def _start_kernel() -> tuple[Any, Any]:
    from jupyter_client.manager import start_new_kernel

    manager, client = start_new_kernel(kernel_name="python3", startup_timeout=TIMEOUT, stderr=subprocess.DEVNULL)
    return manager, client


def _run_cell(client: Any, code: str) -> object:
    """Run a cell and return its result as a number, or None."""
    request = client.execute(code)
    result = None
    try:
        while True:
            message = client.get_iopub_msg(timeout=TIMEOUT)
            if message["parent_header"].get("msg_id") != request:
                continue
            if message["msg_type"] == "execute_result":
                result = message["content"]["data"]["text/plain"]
            elif message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
    except queue.Empty:
        raise UnmeasurableError("the kernel did not answer") from None
    client.get_shell_msg(timeout=TIMEOUT)
    return result and int(result)
