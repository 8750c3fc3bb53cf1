"""Arrays over the pipe: behind their lines, taken and given part by part, or in memory that the client maps."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, Protocol

from venvd_contract import arrays
from venvd_contract.arrays import Header
from venvd_contract.commands import checked
from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_core.backend import Backend, Call, Incoming, Outgoing, Reply, Target
from venvd_core.segments import Segment
from venvd_core.wire import encode, parse_object
from venvd_pipe_backend.messages import Message
from venvd_pipe_backend.replies import Turn, head

GET, PUT, RELEASE = "array.get", "array.put", "array.release"
COMMANDS = frozenset({GET, PUT, RELEASE})
MOST_DROPPED = 64 << 20
"""Bytes of a refused array that are read and dropped, so that the connection can go on."""


class Line(Protocol):
    """The connection, as far as a transfer needs it."""

    async def seize(self) -> None:
        """From now on only this transfer writes; what others write waits."""

    def let_go(self) -> None: ...

    async def put(self, data: bytes | memoryview) -> None:
        """Write, as soon as the client has read enough of what was written before."""

    async def hand(self, data: bytes, descriptor: int) -> None:
        """Write with a descriptor."""

    def proceed(self) -> None:
        """What held up the reading of requests may be over."""

    def give_up(self) -> None:
        """Read no further request."""

    def abort(self) -> None:
        """Close at once."""


class Shared:
    """Segments that one client maps: those that hold an array for it, and those that it writes into."""

    def __init__(self) -> None:
        self.calls: set[Call] = set()
        """Those under way for arrays of this client."""
        self._known: dict[str, Segment] = {}
        self._lent: dict[str, Outgoing] = {}
        self._rooms: dict[str, Incoming] = {}

    def begun(self, call: Call) -> None:
        self.calls.add(call)
        call.add_done_callback(self.calls.discard)

    def lend(self, array: Outgoing | Incoming, segment: Segment) -> int | None:
        """Leave it to the client; the descriptor to be sent along, where the client does not have it yet."""
        if isinstance(array, Outgoing):
            self._lent[segment.name] = array
        else:
            self._rooms[segment.name] = array
        if segment.name in self._known:
            return None
        self._known[segment.name] = segment
        return segment.descriptor

    def gone(self) -> list[str]:
        """What will not be used again, told once: the client can let go of its mapping."""
        found = [name for name, segment in self._known.items() if segment.descriptor < 0]
        for name in found:
            del self._known[name]
        return found

    def release(self, names: Iterable[str]) -> None:
        """The client is done with these."""
        for name in names:
            if (array := self._lent.pop(name, None) or self._rooms.pop(name, None)) is not None:
                array.close()

    def room(self, name: str, header: Header) -> Incoming:
        """The segment that the client has filled.

        Raises:
            InvalidRequest: it was given none of that name, or for another array.
        """
        found = self._rooms.pop(name, None)
        if found is None:
            raise InvalidRequest(f'array.put: no segment "{name[:40]}" was given to this connection: ask with "shm"')
        if found.header != header:
            found.close()
            raise InvalidRequest("array.put: the segment was given for an array of another dtype, shape or order")
        found.written = header.nbytes
        return found

    def close(self) -> None:
        """The client is gone; what it still maps must not be used again."""
        for outgoing in self._lent.values():
            outgoing.close(reusable=False)
        for incoming in self._rooms.values():
            incoming.close(reusable=False)
        self._lent.clear()
        self._rooms.clear()


class Intake:
    """The bytes behind an `array.put`, on their way to where they belong."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.remaining = size
        self.open = False
        """Whether they can be taken."""
        self.whole: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._target: Incoming | None = None

    def begin(self, target: Incoming) -> None:
        """Write to `target` what comes."""
        self.open = True
        self._target = target
        self._look()

    def take(self, data: bytes) -> None:
        self.remaining -= len(data)
        if self._target is not None and not self.whole.done():
            try:
                self._target.write(data)
            except VenvdError as error:
                self.fail(error)
        self._look()

    def fail(self, error: VenvdError) -> None:
        if not self.whole.done():
            self.whole.set_exception(error)

    def end(self) -> None:
        """Nobody waits any more: what still comes is dropped."""
        self.open = True
        self._target = None
        if not self.whole.done():
            self.whole.cancel()
        elif not self.whole.cancelled():
            self.whole.exception()  # it counts as seen

    def _look(self) -> None:
        if self.open and self.remaining == 0 and not self.whole.done():
            self.whole.set_result(None)


class Transfer:
    """One request for an array; `run` answers it."""

    def __init__(
        self, backend: Backend, line: Line, shared: Shared, message: Message, turn: Turn | None, intake: Intake | None
    ) -> None:
        self._backend = backend
        self._line = line
        self._shared = shared
        self._message = message
        self._turn = turn
        self._target = Target(message.session, message.timeout, message.name, message.lease, message.tag, shared.begun)
        self._intake = intake

    async def run(self) -> Reply | None:
        """The reply, or None where it is written already."""
        try:
            return await self._answer()
        finally:
            if self._intake is not None and not self._intake.open:
                self._drop(self._intake)

    def _drop(self, intake: Intake) -> None:
        """What comes was refused before it was wanted."""
        intake.end()
        if intake.size > MOST_DROPPED:
            self._line.give_up()
        else:
            self._line.proceed()

    async def _answer(self) -> Reply | None:
        command = self._message.command
        fields = checked(command, parse_object(self._message.payload))
        if command == RELEASE:
            self._shared.release(fields["segments"])
            return Reply(b'{"success":true}')
        self._shared.release(fields["release"] or ())
        if command == GET:
            await self._get(fields)
            return None
        header = arrays.described(fields)
        if self._intake is not None:
            return await self._put(header, self._intake)
        if fields["segment"] is not None:
            return await self._commit(self._shared.room(fields["segment"], header))
        if not fields["shm"]:
            raise InvalidRequest('array.put takes one attachment, the bytes of the array, or "shm"')
        await self._offer(await self._backend.put_array(header, self._target, segment=True))
        return None

    async def _put(self, header: Header, intake: Intake) -> Reply:
        header.check_length(intake.size)
        incoming = await self._backend.put_array(header, self._target)
        try:
            intake.begin(incoming)
            self._line.proceed()
            await intake.whole
            return await incoming.commit()
        finally:
            intake.end()
            incoming.close()

    async def _commit(self, incoming: Incoming) -> Reply:
        try:
            return await incoming.commit()
        finally:
            incoming.close()

    async def _get(self, fields: dict[str, Any]) -> None:
        outgoing = await self._backend.get_array(fields["handleId"], self._target, fields["format"])
        if fields["shm"] and outgoing.segment is not None:
            await self._offer(outgoing)
            return
        try:
            await self._first()
            await self._line.seize()
            try:
                await self._pour(outgoing)
            finally:
                self._line.let_go()
        finally:
            outgoing.close()

    async def _pour(self, array: Outgoing) -> None:
        header = array.header
        try:
            await self._line.put(self._begun(header.fields(), b',"attachments":[%d]' % header.nbytes))
            for part in array:
                await self._line.put(part)
        except BaseException:
            self._line.abort()  # an error would be read as bytes of the array
            raise

    async def _offer(self, array: Outgoing | Incoming) -> None:
        """Answer with the segment in which the array lies, or is to be written."""
        segment = array.segment
        if segment is None:  # it was asked for with one
            array.close()
            raise InvalidRequest("this array has no memory to share")
        try:
            await self._first()
            await self._line.seize()
            try:
                await self._told(array, segment)
            finally:
                self._line.let_go()
        except BaseException:
            array.close(reusable=False)
            raise

    async def _told(self, array: Outgoing | Incoming, segment: Segment) -> None:
        fields = {**array.header.fields(), "segment": segment.name, "size": segment.size}
        if gone := self._shared.gone():
            fields["gone"] = gone
        descriptor = self._shared.lend(array, segment)
        if descriptor is None:
            await self._line.put(self._begun(fields, b""))
        else:
            await self._line.hand(self._begun(fields, b',"descriptors":1'), descriptor)

    def _begun(self, result: dict[str, Any], more: bytes) -> bytes:
        return b'%b"result":%b%b}\n' % (head(self._message.tag), encode(result), more)

    async def _first(self) -> None:
        if self._turn is not None:
            await self._turn.first()
