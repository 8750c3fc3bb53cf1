"""Leases kept alive: a client that asked for them uses its handles every so often, until it ends or dies."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from venvd.errors import HandleNotFound, InvalidRequest, VenvdError
from venvd.flow import Flow, drive, drive_async
from venvd.release import Dead, batches
from venvd.transports.base import Call, Kind

_SHARE = 3
"""How often within one lease its handles are used."""
_TIMEOUT = 60.0


class Ledger(Protocol):
    """Whose handles they are."""

    def alive(self) -> list[Dead]: ...

    def forget(self, dead: Dead) -> None:
        """There is no such handle any more."""


def checked(lease: float | None) -> float | None:
    """A lease as it is asked for.

    Raises:
        InvalidRequest: it is no time.
    """
    if lease is not None and not 0 < lease < float("inf"):
        raise InvalidRequest(f"a lease takes seconds, more than 0, not {lease}")
    return lease


def _use(session: str | None, handles: list[str]) -> Call[None]:
    held = [{"$handle": handle} for handle in handles]
    payload = {"expression": "None", "locals": {"held": held}}
    return Call(Kind("eval", lambda _: None, session, repeatable=True), payload, _TIMEOUT)


def renewal(ledger: Ledger) -> Flow[Call[Any], None]:
    """Use every handle once; those that are gone are forgotten."""
    pending = batches(ledger.alive())
    while pending:
        session, handles = pending.pop()
        try:
            yield _use(session, handles)
        except HandleNotFound:
            if len(handles) == 1:
                ledger.forget((session, handles[0]))
            else:
                middle = len(handles) // 2
                pending += [(session, handles[:middle]), (session, handles[middle:])]
        except VenvdError:
            continue  # with the session, or the backend, its handles are gone; or it is busy, and no lease runs


class Keeper:
    """Renews in a thread of its own, from `start` to `stop`."""

    def __init__(self, lease: float, ledger: Ledger, run: Callable[[Call[Any]], Any]) -> None:
        self._pause = lease / _SHARE
        self._ledger = ledger
        self._run = run
        self._ended = threading.Event()

    def start(self) -> None:
        threading.Thread(target=self._keep, name="venvd-leases", daemon=True).start()

    def stop(self) -> None:
        self._ended.set()

    def _keep(self) -> None:
        while not self._ended.wait(self._pause):
            drive(renewal(self._ledger), self._run)


class AsyncKeeper:
    """Renews in a task of the loop that first asks for it."""

    def __init__(self, lease: float, ledger: Ledger, run: Callable[[Call[Any]], Coroutine[Any, Any, Any]]) -> None:
        self._pause = lease / _SHARE
        self._ledger = ledger
        self._run = run
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _keep(self) -> None:
        while True:
            await asyncio.sleep(self._pause)
            await drive_async(renewal(self._ledger), self._run)
