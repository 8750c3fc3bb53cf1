"""Waiting for a condition: generous, since a busy machine must not fail a test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

TIMEOUT = 180.0


def wait_until(holds: Callable[[], Any], problem: Callable[[], object] | str, seconds: float = TIMEOUT) -> Any:
    """Wait until `holds` returns something true, and return that.

    Raises:
        AssertionError: the time is over; `problem` says what is missing.
    """
    end = time.monotonic() + seconds
    while not (value := holds()):
        if time.monotonic() > end:
            raise AssertionError(f"{problem if isinstance(problem, str) else problem()} (after {seconds:g} s)")
        time.sleep(0.05)
    return value
