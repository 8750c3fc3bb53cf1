"""Logic of several calls, written once as generators: they yield calls and are sent the replies."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from typing import Any, TypeVar

T = TypeVar("T")
S = TypeVar("S")
Flow = Generator[S, Any, T]


def drive(flow: Flow[S, T], perform: Callable[[S], Any]) -> T:
    """Run a flow with a function that performs each step; errors of a step are raised inside the flow."""
    try:
        step = next(flow)
        while True:
            try:
                reply = perform(step)
            except BaseException as error:  # noqa: BLE001 - the flow decides what it means
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result


async def drive_async(flow: Flow[S, T], perform: Callable[[S], Awaitable[Any]]) -> T:
    """The same for asyncio."""
    try:
        step = next(flow)
        while True:
            try:
                reply = await perform(step)
            except BaseException as error:  # noqa: BLE001 - the flow decides what it means
                step = flow.throw(error)
            else:
                step = flow.send(reply)
    except StopIteration as end:
        result: T = end.value
        return result
