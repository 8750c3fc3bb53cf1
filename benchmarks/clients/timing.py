"""Time batches of calls."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

MICRO = 1e6
MILLI = 1e3


def median_of(call: Callable[[], object], unit: float = MICRO) -> Callable[[int], float]:
    """A probe that returns the median time of a call."""

    def probe(batch: int) -> float:
        times = []
        for _ in range(batch):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return statistics.median(times) * unit

    return probe


async def median_of_async(call: Callable[[], Awaitable[object]], batch: int) -> float:
    """The median time of a call in microseconds; calls run one after another."""
    times = []
    for _ in range(batch):
        start = time.perf_counter()
        await call()
        times.append(time.perf_counter() - start)
    return statistics.median(times) * MICRO


async def mean_of_tasks(call: Callable[[], Awaitable[object]], batch: int, tasks: int) -> float:
    """The mean time per call in microseconds; each of the concurrent tasks makes one call after another."""

    async def run_task() -> None:
        for _ in range(batch // tasks):
            await call()

    start = time.perf_counter()
    await asyncio.gather(*(run_task() for _ in range(tasks)))
    return (time.perf_counter() - start) / (batch // tasks * tasks) * MICRO
