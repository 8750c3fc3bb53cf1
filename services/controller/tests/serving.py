"""A controller of a test at an address, for clients that are no part of the test's process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from .conftest import Testbed, wait_until  # type: ignore[import-not-found]


@contextmanager
def serve(testbed: Testbed) -> Iterator[str]:
    """Serve the controller of a testbed; its address."""
    server = uvicorn.Server(uvicorn.Config(testbed.client.app, port=0, lifespan="off", log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join()
