"""Arrays over the pipe.

The bytes of an array follow its line, and the server passes them on part by part. Or they lie in memory that the client
maps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.commands import check_payload
from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_core import float_arrays
from venvd_core.backend import Backend, Call, Incoming, Outgoing, Reply, Target
from venvd_core.segments import Segment
from venvd_core.wire import encode, parse_object
from venvd_pipe_backend.messages import Message
from venvd_pipe_backend.output import Output
from venvd_pipe_backend.replies import Turn, head

GET, PUT, RELEASE = "array.get", "array.put", "array.release"
COMMANDS = frozenset({GET, PUT, RELEASE})
MOST_DROPPED = 64 << 20
"""Bytes of a refused array that the server reads and drops. After a larger array it reads no further request."""


class Requests(Protocol):
    """How a connection reads requests: it pauses while an array is coming in."""

    def resume_requests(self) -> None:
        """Read requests again, unless something else pauses the reading."""

    def end_requests(self) -> None:
        """Read no further request."""

    def abort(self) -> None:
        """Close the connection at once."""


class SharedSegments:
    """Segments that one client maps: it reads arrays from some of them, and writes arrays into others."""

    def __init__(self) -> None:
        self.calls: set[Call] = set()
        """Calls for arrays of this client that have not ended."""
        self._known: dict[str, Segment] = {}
        self._outgoing: dict[str, Outgoing] = {}
        self._incoming: dict[str, Incoming] = {}

    def add_call(self, call: Call) -> None:
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)

    def lend(self, array: Outgoing | Incoming, segment: Segment) -> int | None:
        """Lend a segment to the client. Return the descriptor to send, or None if the client has it already."""
        if isinstance(array, Outgoing):
            self._outgoing[segment.name] = array
        else:
            self._incoming[segment.name] = array
        if segment.name in self._known:
            return None
        self._known[segment.name] = segment
        return segment.descriptor

    def take_gone(self) -> list[str]:
        """Return the names of the segments that the server will not use again, each once.

        The client can unmap these segments.
        """
        names = [name for name, segment in self._known.items() if segment.descriptor < 0]
        for name in names:
            del self._known[name]
        return names

    def release(self, names: Iterable[str]) -> None:
        """Close the arrays whose segments the client no longer uses."""
        for name in names:
            if (array := self._outgoing.pop(name, None) or self._incoming.pop(name, None)) is not None:
                array.close()

    def take_filled(self, name: str, header: Header) -> Incoming:
        """Return the array whose segment the client has filled.

        Raises:
            InvalidRequest: the client has no segment of that name to fill, or has it for another array.
        """
        incoming = self._incoming.pop(name, None)
        if incoming is None:
            raise InvalidRequest(f'array.put: no segment "{name[:40]}" was given to this connection: ask with "shm"')
        if incoming.header != header:
            incoming.close()
            raise InvalidRequest("array.put: the segment was given for an array of another dtype, shape or order")
        incoming.written = header.nbytes
        return incoming

    def close(self) -> None:
        """Close all arrays. The client may still map their segments, so no other array will use these."""
        arrays_lent: list[Outgoing | Incoming] = [*self._outgoing.values(), *self._incoming.values()]
        for array in arrays_lent:
            array.close(reusable=False)
        self._outgoing.clear()
        self._incoming.clear()


class ArrayInput:
    """Passes the bytes that follow an `array.put` on to the session as they arrive.

    Attributes:
        size: number of bytes that the client announced.
        remaining: number of bytes that have not arrived.
        accepting: whether there is a target for the bytes; before that, the connection reads nothing.
        complete: done when all bytes have arrived, or when the array has failed.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.remaining = size
        self.accepting = False
        self.complete: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target: Incoming | None = None

    def begin(self, target: Incoming) -> None:
        """Write the bytes to `target` as they arrive."""
        self.accepting = True
        self._target = target
        self._check_complete()

    def feed(self, data: bytes) -> None:
        """Take the next bytes from the connection."""
        self.remaining -= len(data)
        if self._target is not None and not self.complete.done():
            try:
                self._target.write(data)
            except VenvdError as error:
                self.fail(error)
        self._check_complete()

    def fail(self, error: VenvdError) -> None:
        if not self.complete.done():
            self.complete.set_exception(error)

    def close(self) -> None:
        """Drop the remaining bytes as they arrive."""
        self.accepting = True
        self._target = None
        if not self.complete.done():
            self.complete.cancel()
        elif not self.complete.cancelled():
            self.complete.exception()  # marks it as retrieved

    def _check_complete(self) -> None:
        if self.accepting and self.remaining == 0 and not self.complete.done():
            self.complete.set_result(None)


class ArrayRequest:
    """One request for an array; `run` answers it."""

    def __init__(
        self,
        message: Message,
        turn: Turn | None,
        array_input: ArrayInput | None,
        *,
        backend: Backend,
        requests: Requests,
        output: Output,
        shared: SharedSegments,
    ) -> None:
        self._message = message
        self._turn = turn
        self._input = array_input
        self._backend = backend
        self._requests = requests
        self._output = output
        self._shared = shared
        self._target = Target(
            message.session,
            message.timeout,
            message.name,
            message.lease,
            message.tag,
            shared.add_call,
            message.caller,
        )

    async def run(self) -> Reply | None:
        """Return the reply, or None if the request has written it already."""
        try:
            return await self._answer()
        finally:
            if self._input is not None and not self._input.accepting:
                self._drop_input(self._input)

    def _drop_input(self, array_input: ArrayInput) -> None:
        """Skip the bytes of a refused request; if they are too many, read no further request."""
        array_input.close()
        if array_input.size > MOST_DROPPED:
            self._requests.end_requests()
        else:
            self._requests.resume_requests()

    async def _answer(self) -> Reply | None:
        command = self._message.command
        fields = check_payload(command, parse_object(self._message.payload))
        if command == RELEASE:
            self._shared.release(fields["segments"])
            return Reply(b'{"success":true}')
        self._shared.release(fields["release"] or ())
        if command == GET:
            await self._get(fields)
            return None
        header = arrays.read_header(fields)
        if self._input is not None:
            return await self._put(header, self._input)
        if fields["segment"] is not None:
            incoming = self._shared.take_filled(fields["segment"], header)
            try:
                return await incoming.commit()
            finally:
                incoming.close()
        if not fields["shm"]:
            raise InvalidRequest('array.put takes one attachment, the bytes of the array, or "shm"')
        await self._lend(await self._backend.put_array(header, self._target, segment=True))
        return None

    async def _put(self, header: Header, array_input: ArrayInput) -> Reply:
        header.check_length(array_input.size)
        incoming = await self._backend.put_array(header, self._target)
        try:
            array_input.begin(incoming)
            self._requests.resume_requests()
            await array_input.complete
            return await incoming.commit()
        finally:
            array_input.close()
            incoming.close()

    async def _get(self, fields: dict[str, Any]) -> None:
        outgoing = await self._backend.get_array(fields["handleId"], self._target, fields["format"])
        if fields["shm"] and outgoing.segment is not None:
            await self._lend(outgoing)
            return
        try:
            await self._wait_for_turn()
            async with self._output.exclusive():
                await self._write_array(outgoing)
        finally:
            outgoing.close()

    async def _write_array(self, outgoing: Outgoing) -> None:
        header = outgoing.header
        try:
            await self._output.put(self._begin_line(header.fields(), b',"attachments":[%d]' % header.nbytes))
            for part in outgoing:
                await self._output.put(part)
        except BaseException:
            self._requests.abort()  # the client would read an error as bytes of the array
            raise

    async def _lend(self, array: Outgoing | Incoming) -> None:
        """Answer with a segment that contains the array, or that the client must fill."""
        segment = array.segment
        if segment is None:  # only a session that breaks the protocol answers so
            array.close()
            raise InvalidRequest("this array has no memory to share")
        try:
            await self._wait_for_turn()
            async with self._output.exclusive():
                fields = {**array.header.fields(), "segment": segment.name, "size": segment.size}
                if gone_names := self._shared.take_gone():
                    fields["gone"] = gone_names
                descriptor = self._shared.lend(array, segment)
                if descriptor is None:
                    await self._output.put(self._begin_line(fields, b""))
                else:
                    await self._output.put_with(descriptor, self._begin_line(fields, b',"descriptors":1'))
        except BaseException:
            array.close(reusable=False)
            raise

    def _begin_line(self, result: dict[str, Any], further_fields: bytes) -> bytes:
        """Return the line of a reply, without the bytes or the descriptor that follow it."""
        return b'%b"result":%b%b}\n' % (head(self._message.tag), encode(result), further_fields)

    async def _wait_for_turn(self) -> None:
        if self._turn is not None:
            await self._turn.first()


async def write_text(call: Call, turn: Turn | None, requests: Requests, output: Output) -> None:
    """Write the reply to a call for a float array with its text in a segment, as one line.

    Raises:
        VenvdError: the text cannot be read, and nothing is written yet.
    """
    text = float_arrays.open_text(call)
    try:
        if turn is not None:
            await turn.first()
        async with output.exclusive():
            try:
                await output.put(b'%b"result":' % head(call.request.tag))
                for part in float_arrays.read_text(text):
                    await output.put(part)
                await output.put(b"}\n")
            except BaseException:
                requests.abort()  # the client would read an error as a part of the line
                raise
    finally:
        text.close()
