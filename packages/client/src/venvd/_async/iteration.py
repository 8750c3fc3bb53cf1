"""Iteration over an object of a session, in batches."""

from __future__ import annotations

from typing import Any

from venvd import _operators
from venvd._transports.base import AsyncRun

_LARGEST_BATCH = 1024
_SMALL_REPLY = 64 * 1024


class AsyncIteration:
    """Fetches items in growing batches. A long container costs few round trips. A short look fetches few items."""

    def __init__(self, target: Any, run_call: AsyncRun) -> None:
        self.done = False
        self._target = target
        self._calls = target._venvd_calls
        self._run_call = run_call
        self._iterator: Any = None
        self._failed: Any = None
        self._read_ahead = False
        self._size = 1

    async def begin(self) -> None:
        """Make the iterator, which raises if the object is not iterable."""
        self._iterator = await self._run_call(self._calls.eval(_operators.ITERATOR, {"_0": self._target}))
        # An iterator is its own iterator: reading ahead would take items that the program never asked for.
        self._read_ahead = self._iterator._venvd_type != self._target._venvd_type

    async def next_batch(self) -> list[Any]:
        """Fetch the next items, and set `done` if there are no more."""
        if self._failed is not None:
            self.done = True
            await self._run_call(self._calls.eval(_operators.BATCH_ERROR, {"_0": self._failed}))
        size = self._size
        call = self._calls.eval(_operators.BATCH, {"_0": self._iterator, "_1": size, "_2": [], "_3": None})
        items = await self._run_call(call)
        if not isinstance(items, list) and items._venvd_type == "tuple":
            self._failed = items
            items = await self._run_call(self._calls.eval(_operators.BATCH_ITEMS, {"_0": items}))
            if isinstance(items, list):
                return items
        if isinstance(items, list):
            self.done = len(items) < size
            if self._read_ahead and call.received < _SMALL_REPLY:
                self._size = min(size * 2, _LARGEST_BATCH)
            return items
        # If one item is not plain data, the whole list stays behind a handle.
        length = await self._run_call(self._calls.eval(_operators.LENGTH, {"_0": items}))
        self.done = length < size and self._failed is None
        self._size = min(size * 2, _LARGEST_BATCH) if self._read_ahead else 1
        return [
            await self._run_call(self._calls.eval(_operators.ITEM, {"_0": items, "_1": position}))
            for position in range(length)
        ]
