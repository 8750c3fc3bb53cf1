"""Cancelling calls: `cancel {id}`.

The ID is that of a background call, or the name that a client gave its call (header `X-Venvd-Call`, metadata
`x-venvd-call`, field `call` of the pipe), or, over the pipe and on the Session stream, the ID of a request of the
same connection. Names hold for the whole backend, for one call at a time; clients choose them at random.

A running call gets a KeyboardInterrupt, as at a deadline. A call in the queue never begins. Cancelling a call that
has ended is no error as long as the server knows of it.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Protocol

from venvd_contract import commands
from venvd_contract.errors import Conflict, InvalidRequest, NotFound
from venvd_core import wire
from venvd_core.calls import Call

_REMEMBERED = 4096
_LONGEST_NAME = 128


class Left(Protocol):
    """The calls that nobody has to wait for."""

    def call_of(self, identity: str) -> Call | None: ...

    def was(self, identity: str) -> bool: ...


class Cancellation:
    """Finds calls by name and ends them; one that was ended before is no error."""

    def __init__(self, left: Left) -> None:
        self._left = left
        self._named: dict[str, Call] = {}
        self._known: OrderedDict[Any, None] = OrderedDict()

    def name(self, call: Call, name: str) -> None:
        """Let `cancel` find a call that its client waits for.

        Raises:
            Conflict: another call that has not ended has that name.
            InvalidRequest: it is none.
        """
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"the name of a call has at most {_LONGEST_NAME} characters, all of them printable")
        if name in self._named:
            raise Conflict(f'there is a call "{name}" already that has not ended')
        self._named[name] = call
        call.add_done_callback(lambda _: self._over(name))

    async def cancel(self, asking: Call) -> commands.Success:
        """End the call that `asking` names; who waits for it gets `cancelled`.

        Raises:
            NotFound: there is no such call, and none was.
        """
        identity = commands.checked("cancel", wire.parse_object(asking.request.payload))["id"]
        if type(identity) not in {str, int, float}:
            raise InvalidRequest('cancel: the field "id" takes the ID or the name of a call')
        call = self._find(asking, identity)
        if call is not None:
            self._remember(identity)
            if not call.done() and call.runner is not None:
                call.runner.stop(call)
        elif identity not in self._known and not self._left.was(str(identity)):
            raise NotFound(f'there is no call "{str(identity)[:80]}": it may have ended')
        return commands.Success()

    def _find(self, asking: Call, identity: Any) -> Call | None:
        near = asking.find_call(identity) if asking.find_call is not None else None
        if near is not None or not isinstance(identity, str):
            return near
        return self._left.call_of(identity) or self._named.get(identity)

    def _over(self, name: str) -> None:
        del self._named[name]
        self._remember(name)

    def _remember(self, identity: Any) -> None:
        self._known[identity] = None
        while len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
