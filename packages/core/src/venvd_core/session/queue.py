"""The waiting calls of one session, within limits on their number and their bytes."""

from __future__ import annotations

from collections import deque

from venvd_contract.errors import Busy
from venvd_core.calls import Call
from venvd_core.settings import BackendSettings


class QueuedBytes:
    """The limits of the queues of one backend, and the bytes of all waiting requests.

    Attributes:
        most_calls: limit on the waiting calls of one session.
        most_bytes: limit on the bytes of their requests.
        most_in_all: limit on the bytes of the waiting requests of all sessions.
        total: the bytes of the waiting requests of all sessions.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.most_calls = settings.queue_limit
        self.most_bytes = settings.queue_bytes
        self.most_in_all = settings.max_queued_bytes
        self.total = 0


class Queue:
    """The waiting calls of one session, first come, first served.

    Attributes:
        calls: the calls; only the methods of this class change them.
    """

    def __init__(self, session: str, bounds: QueuedBytes) -> None:
        self.calls: deque[Call] = deque()
        self._session = session
        self._bounds = bounds
        self._bytes = 0

    def check_room(self, size: int = 0) -> None:
        """Check that a request of `size` bytes may wait. A request above a limit may wait if no other waits.

        Raises:
            Busy: a limit would be exceeded; the message says which.
        """
        bounds, waiting = self._bounds, len(self.calls)
        if waiting >= bounds.most_calls:
            raise Busy(
                f'the session "{self._session}" has {waiting} calls waiting, and its queue holds {bounds.most_calls} '
                "(queueLimit)"
            )
        if self._bytes and self._bytes + size > bounds.most_bytes:
            raise Busy(
                f'the requests that wait in the session "{self._session}" would have {self._bytes + size} bytes, and '
                f"its queue holds {bounds.most_bytes} (VENVD_QUEUE_BYTES)"
            )
        if bounds.total and bounds.total + size > bounds.most_in_all:
            raise Busy(
                f"the requests that wait in all sessions would have {bounds.total + size} bytes, and the backend holds "
                f"{bounds.most_in_all} (VENVD_MAX_QUEUED_BYTES)"
            )

    def add(self, call: Call) -> None:
        """Let a call wait.

        Raises:
            Busy: as `check_room`.
        """
        size = _size(call)
        self.check_room(size)
        self.calls.append(call)
        self._count(size)

    def take(self) -> Call:
        """Remove the next call and return it."""
        call = self.calls.popleft()
        self._count(-_size(call))
        return call

    def remove(self, call: Call) -> bool:
        """Remove a call; return whether it was in the queue."""
        try:
            self.calls.remove(call)
        except ValueError:
            return False
        self._count(-_size(call))
        return True

    def take_all(self) -> list[Call]:
        """Remove every call and return them."""
        calls = list(self.calls)
        self.calls.clear()
        self._count(-self._bytes)
        return calls

    def _count(self, size: int) -> None:
        self._bytes += size
        self._bounds.total += size


def _size(call: Call) -> int:
    """Return the bytes of a request."""
    attachments = call.request.attachments
    return len(call.payload) + (sum(map(len, attachments)) if attachments else 0)
