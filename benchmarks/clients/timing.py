"""Figures of batches."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

MICRO = 1e6
MILLI = 1e3


def median_of(call: Callable[[], object], unit: float = MICRO) -> Callable[[int], float]:
    """A probe: the median time of a call."""

    def probe(batch: int) -> float:
        times = []
        for _ in range(batch):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
        return statistics.median(times) * unit

    return probe


async def median_of_async(call: Callable[[], Awaitable[object]], batch: int) -> float:
    """Microseconds of a call, one after the other: the median."""
    times = []
    for _ in range(batch):
        begun = time.perf_counter()
        await call()
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * MICRO


async def shared_out(call: Callable[[], Awaitable[object]], batch: int, tasks: int) -> float:
    """Microseconds of a call, with so many tasks that make one after the other."""

    async def turns() -> None:
        for _ in range(batch // tasks):
            await call()

    begun = time.perf_counter()
    await asyncio.gather(*(turns() for _ in range(tasks)))
    return (time.perf_counter() - begun) / (batch // tasks * tasks) * MICRO
