"""Releases the handles of dead proxies in the background, many at once, and renews the leases of the others."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import queue
import threading
import time
import weakref
from collections import deque

from venvd._async.lease_renewal import renew_leases as renew_leases_async
from venvd._calls import dispose_handles
from venvd._handle_table import Handle, HandleTable, batch_by_session
from venvd._sync.lease_renewal import renew_leases
from venvd._transports.base import AsyncTransport, Transport
from venvd.errors import Busy, DeadlineExceeded, InvalidRequest, VenvdError

_GATHER = 0.02
"""Seconds to wait for more handles before the client sends them."""
_RETRY = 1.0
_MOST_AT_ONCE = 10_000
_TIMEOUT = 60.0
_LAST_TIMEOUT = 1.0
"""Seconds for the last batch. A busy session must not keep a program from its end."""
_RENEWALS = 3
"""How often the client uses each handle within one lease."""


def _check_lease(lease: float | None) -> None:
    if lease is not None and not 0 <= lease < float("inf"):
        raise InvalidRequest(f"a lease is a number of seconds, 0 for none, not {lease}")


class Releaser(HandleTable):
    """Releases handles in a thread, which starts with the first handle. Renews leases in another.

    Args:
        owner: the client. When it dies, the threads end and the transport closes. They have no reference to the client.
        transport: carries the calls.
        lease: seconds of a lease, or None.
    """

    def __init__(self, owner: object, transport: Transport, lease: float | None) -> None:
        super().__init__()
        _check_lease(lease)
        self._transport = transport
        self._dead: queue.SimpleQueue[Handle | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()
        self._renewal_ended = threading.Event()
        self._finalizer = weakref.finalize(owner, self._stop)
        self._finalizer.atexit = False
        _open_releasers.add(self)
        if lease:
            threading.Thread(target=self._renew, args=(lease / _RENEWALS,), name="venvd-leases", daemon=True).start()

    def watch(self, proxy: object, session: str | None, handle: str) -> None:
        """Release the handle when the proxy dies."""
        if self._thread is None or not self._thread.is_alive():
            self._start()
        self._add(proxy, (session, handle))

    def close(self) -> None:
        """Release every handle, also of living proxies, within a few seconds, and close the transport."""
        if self._finalizer.detach() is None:
            return
        if self._is_own_process():
            for handle in list(self._live):
                self._live.discard(handle)
                self._dead.put(handle)
        self._stop()
        if self._thread is not None and self._is_own_process() and self._thread is not threading.current_thread():
            self._thread.join(timeout=5.0)
        self._transport.close()

    def _stop(self) -> None:
        """End the threads after the last handle was sent. Does not wait, so that the garbage collector may call it."""
        self._renewal_ended.set()
        if self._thread is None or not self._is_own_process():
            self._transport.close()
        else:
            self._dead.put(None)

    def _queue(self, handle: Handle) -> None:
        self._dead.put(handle)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="venvd-release", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        ended = False
        while not ended:
            gathered = [self._dead.get()]
            if gathered[0] is not None:
                time.sleep(_GATHER)
            with contextlib.suppress(queue.Empty):
                while len(gathered) < _MOST_AT_ONCE:
                    gathered.append(self._dead.get_nowait())
            ended = None in gathered
            self._send([handle for handle in gathered if handle is not None], last=ended)
        self._transport.close()

    def _send(self, dead: list[Handle], *, last: bool) -> None:
        for session, handles in batch_by_session(dead):
            try:
                self._transport.call(dispose_handles(session, handles, _LAST_TIMEOUT if last else _TIMEOUT))
            except (Busy, DeadlineExceeded):
                if not last:
                    time.sleep(_RETRY)
                    for handle in handles:
                        self._dead.put((session, handle))
            except VenvdError:
                continue  # the session or backend has ended with its handles

    def _renew(self, pause: float) -> None:
        while not self._renewal_ended.wait(pause):
            renew_leases(self, self._transport.call)


_open_releasers: weakref.WeakSet[Releaser] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Release this program's handles at its end, because they would outlive it."""
    for releaser in list(_open_releasers):
        releaser.close()


class AsyncReleaser(HandleTable):
    """Releases handles and renews leases in tasks of the event loop that made the handles; see `Releaser`."""

    def __init__(self, owner: object, transport: AsyncTransport, lease: float | None) -> None:  # noqa: ARG002
        super().__init__()
        _check_lease(lease)
        self._transport = transport
        self._lease = lease
        self._dead: deque[Handle] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._task: asyncio.Task[None] | None = None
        self._renewal: asyncio.Task[None] | None = None
        self._planned = False

    def watch(self, proxy: object, session: str | None, handle: str) -> None:
        """Release the handle when the proxy dies."""
        self._loop = asyncio.get_running_loop()
        self._add(proxy, (session, handle))
        if self._lease and (self._renewal is None or self._renewal.done()):
            self._renewal = self._loop.create_task(self._renew(self._lease / _RENEWALS))

    async def close(self) -> None:
        """Release every handle, also of living proxies, and close the transport."""
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
        if self._task is not None:
            self._task.cancel()
        if self._is_own_process():
            self._dead.extend(self._live)
            self._live.clear()
            await self._send(_LAST_TIMEOUT)
        await self._transport.close()

    def _queue(self, handle: Handle) -> None:
        self._dead.append(handle)
        if not self._planned and self._loop is not None and not self._loop.is_closed():
            self._planned = True
            with contextlib.suppress(RuntimeError):  # the loop may close just now
                self._loop.call_soon_threadsafe(self._plan)

    def _plan(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._send_later())

    async def _send_later(self) -> None:
        await asyncio.sleep(_GATHER)
        self._planned = False
        await self._send(_TIMEOUT)

    async def _send(self, timeout: float) -> None:  # noqa: ASYNC109 - the server keeps to it
        dead = list(self._dead)
        self._dead.clear()
        for session, handles in batch_by_session(dead):
            try:
                await self._transport.call(dispose_handles(session, handles, timeout))
            except (Busy, DeadlineExceeded):
                # The client sends them with the next handles, or they end with the session.
                self._dead.extend((session, handle) for handle in handles)
            except VenvdError:
                continue

    async def _renew(self, pause: float) -> None:
        while True:
            await asyncio.sleep(pause)
            await renew_leases_async(self, self._transport.call)
