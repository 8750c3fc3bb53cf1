"""A broker on a Unix socket, and a host on loopback that it may ask."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.egress import Client, Host, Start

from venvd_egress.broker import Broker
from venvd_egress.programs import listen
from venvd_egress.refusal import Refused
from venvd_egress.rules import Rules


@pytest.fixture
def host() -> Iterator[Host]:
    with contextlib.closing(Host()) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts brokers with rules."""
    with contextlib.ExitStack() as closing:

        def start_broker(rules: Rules, **options: Any) -> Client:
            refusals: list[Refused] = []
            path = str(tmp_path / "broker.sock")
            broker = Broker(rules, on_refused=refusals.append, **options)
            loop = asyncio.new_event_loop()
            listener = listen(path)
            serving = loop.create_task(broker.serve(listener))
            thread = threading.Thread(target=_run, args=(loop, serving), daemon=True)
            thread.start()
            closing.callback(thread.join, 30)
            closing.callback(loop.call_soon_threadsafe, serving.cancel)
            return Client(path, refusals)

        yield start_broker


def _run(loop: asyncio.AbstractEventLoop, serving: asyncio.Task[None]) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        loop.run_until_complete(serving)
    loop.run_until_complete(_end_others())
    loop.close()


async def _end_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
