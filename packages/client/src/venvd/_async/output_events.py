"""The output of code on its way to the callbacks of the caller."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

from venvd._output import Output
from venvd._transports.base import Event
from venvd.errors import BadReply


async def pass_on_output(
    events: AsyncGenerator[Event, None], receivers: Mapping[str, Callable[[str], object] | None]
) -> Output:
    """Call the receiver of each event as it comes, and return the whole output. An error of a receiver ends the events.

    Raises:
        BadReply: the events end without an output.
    """
    output: Output | None = None
    async with aclosing(events):
        async for event in events:
            receive = receivers.get(event.kind)
            if receive is not None:
                receive(event.data)
            elif event.kind == "result":
                output = event.data
    if output is None:
        raise BadReply("exec: the stream of events has no result")
    return output
