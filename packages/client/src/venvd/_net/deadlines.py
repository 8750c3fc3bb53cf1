"""Deadlines of exchanges: when a client gives up an answer that does not come."""

from __future__ import annotations

import time

from venvd._net.endpoint import Endpoint
from venvd.errors import DeadlineExceeded

PROBE_AFTER = 0.1
"""Seconds after a call's timeout in which most answers to it come. Then the client looks for a sign of life."""
SILENCE = 1.0
"""Seconds after a call's timeout in which a server must show a sign of life."""
LATE = 5.0
"""Seconds after a call's timeout in which a server that lives must answer. To interrupt or kill code takes time."""
_LONGEST = 24 * 86400.0
"""Seconds of the longest wait. The kernel takes at most 31 bits of milliseconds."""
_SHORTEST = 0.001
"""Seconds to wait if a deadline has passed but may be extended."""


class Deadline:
    """The deadline of an exchange.

    A server ends a call itself at the call's timeout, and its answer may take seconds more. The client gives up a
    silent server sooner. At the time `at`, it asks the server for a sign of life, and waits `seconds_to_probe` for one.
    If the server lives, `extend` moves the deadline to the last moment for the answer.

    Args:
        seconds: seconds from now until the deadline.
        silence: seconds from now until the client gives up a silent server. None means at the deadline.
        late: seconds from now until the client gives up a late answer. None means at the deadline.
    """

    __slots__ = ("_last", "_silent", "at")

    def __init__(self, seconds: float, silence: float | None = None, late: float | None = None) -> None:
        now = time.monotonic()
        self.at = now + min(seconds, _LONGEST)
        self._silent = self.at if silence is None else now + min(silence, _LONGEST)
        self._last = self.at if late is None else now + min(late, _LONGEST)

    @property
    def is_last(self) -> bool:
        """Whether nothing extends the deadline."""
        return self.at >= self._last

    def extend(self) -> None:
        """Move the deadline to the last moment for the answer, because the server lives."""
        self.at = self._last

    def seconds_to_probe(self) -> float:
        """Return the seconds for which the client waits for a sign of life, at least 0."""
        return max(0.0, self._silent - time.monotonic())


def deadline_after(timeout: float | None) -> Deadline | None:
    """Return a deadline `timeout` seconds from now that nothing extends, or None."""
    return None if timeout is None else Deadline(timeout)


def answer_deadline(timeout: float | None) -> Deadline | None:
    """Return the deadline of a call that the server ends after `timeout` seconds, or None."""
    return None if timeout is None else Deadline(timeout + PROBE_AFTER, timeout + SILENCE, timeout + LATE)


def seconds_left(deadline: Deadline | None, endpoint: Endpoint) -> float | None:
    """Return the seconds until `deadline`, or None. A deadline that may be extended leaves a moment after it passed.

    Raises:
        DeadlineExceeded: the deadline has passed.
    """
    if deadline is None:
        return None
    left = deadline.at - time.monotonic()
    if left > 0:
        return left
    if deadline.is_last:
        raise deadline_exceeded(endpoint)
    return _SHORTEST


def deadline_exceeded(endpoint: Endpoint, *, silent: bool = False) -> DeadlineExceeded:
    reason = ": the server shows no sign of life" if silent else ""
    return DeadlineExceeded(f"no answer from {endpoint.url} in time{reason}; the call was abandoned")
