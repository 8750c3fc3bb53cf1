"""The programs of this package: the broker of a build, the broker of a backend, and the shared broker of backends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import ssl
import sys
import threading
from typing import IO, Any, Mapping

from venvd_egress.broker import BACKLOG, Broker
from venvd_egress.destinations import parse_host, split_port
from venvd_egress.index import Index
from venvd_egress.refusal import Refused
from venvd_egress.rules import Rules, parse_rules
from venvd_egress.shared import SharedBroker

CONFIG = "VENVD_EGRESS"
"""The environment variable that configures the broker of a build: JSON, `{"index", "ca", "hosts": ["host:port"]}`."""


def listen(path: str) -> socket.socket:
    """Listen at a path, for all users that can reach it."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    os.chmod(path, 0o666)  # noqa: S103 - clients are other users; the directory decides which of them reach it
    listener.listen(BACKLOG)  # now, since clients may connect before the broker serves
    return listener


def serve_build(path: str) -> None:
    """Serve until the container ends; returns in the first process as soon as the socket listens."""
    config: Mapping[str, Any] = json.loads(os.environ.pop(CONFIG))
    tls = ssl.create_default_context(cafile=config.get("ca"))
    index = Index(config["index"], tls) if config.get("index") else None
    trusted = {_parse_trusted(host) for host in config.get("hosts") or ()}
    if index is not None:
        trusted.add((index.host, index.port))
    broker = Broker(Rules(trusted=frozenset(trusted)), index=index)
    listener = listen(path)
    if os.fork() == 0:
        os.setsid()
        devnull = os.open(os.devnull, os.O_RDWR)
        for descriptor in range(3):
            os.dup2(devnull, descriptor)
        asyncio.run(broker.serve(listener))


def _parse_trusted(text: str) -> "tuple[str, int]":
    host, port = split_port(text)
    return parse_host(host), port


def serve_backend(path: str) -> None:
    """Serve until the standard input ends.

    Each line of the standard input is a new configuration in JSON: the fields of `parse_rules`, and `authorities`, CA
    certificates in PEM form that the broker trusts beside those of the system. Each refusal is a line of JSON on the
    standard output.
    """
    lines = sys.stdin.buffer
    config: Mapping[str, Any] = json.loads(lines.readline())
    rules, tls = _parse(config)
    broker = Broker(rules, tls=tls, on_refused=_report)
    asyncio.run(_serve_until_left(broker, lines, listen(path)))


async def _serve_until_left(broker: Broker, lines: IO[bytes], listener: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    serving = asyncio.ensure_future(broker.serve(listener))

    def read() -> None:
        """Read configurations, in a thread of its own: reading a line may wait."""
        for line in lines:
            loop.call_soon_threadsafe(broker.replace_rules, *_parse(json.loads(line)))
        loop.call_soon_threadsafe(serving.cancel)

    threading.Thread(target=read, name="configuration", daemon=True).start()
    with contextlib.suppress(asyncio.CancelledError):
        await serving


def serve_shared(port: str, key_file: str) -> None:
    """Serve all backends with a ticket that the key in a file has signed, until a signal ends the process."""
    with open(key_file, "rb") as file:
        key = file.read().strip()
    if not key:
        sys.exit("{} is empty: it must contain the key that signs tickets".format(key_file))
    asyncio.run(_serve_shared(SharedBroker(key), int(port)))


async def _serve_shared(broker: SharedBroker, port: int) -> None:
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    server = await broker.listen(None, port)
    await stopped.wait()
    server.close()


def _parse(config: Mapping[str, Any]) -> "tuple[Rules, ssl.SSLContext]":
    tls = ssl.create_default_context()
    if config.get("authorities"):
        tls.load_verify_locations(cadata=config["authorities"])
    return parse_rules(config), tls


def _report(refusal: Refused) -> None:
    sys.stdout.write(json.dumps(refusal.describe()) + "\n")
    sys.stdout.flush()
