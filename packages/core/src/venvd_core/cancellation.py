"""Cancelling calls: `cancel {id}`.

`id` is one of these:

- the ID of a background call
- the name that a client gave its call (header `X-Venvd-Call`, metadata `x-venvd-call`, field `call` of the pipe)
- over the pipe and on the Session stream, the ID of a request of the same connection

A name is unique in its backend while its call runs; clients choose names at random.

A running call gets a KeyboardInterrupt, as at a deadline. A call in the queue never begins. Cancelling an ended call
succeeds as long as the server remembers the call.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from venvd_contract import commands
from venvd_contract.errors import Conflict, InvalidRequest, NotFound
from venvd_core import wire
from venvd_core.background import BackgroundCalls
from venvd_core.calls import Call
from venvd_core.replicas import Replicas

_REMEMBERED = 4096
_LONGEST_NAME = 128


class Cancellation:
    """Finds calls and ends them."""

    def __init__(self, background: BackgroundCalls, replicas: Replicas) -> None:
        self._replicas = replicas
        self._background = background
        self._named: dict[str, Call] = {}
        self._ended: OrderedDict[Any, None] = OrderedDict()
        """Names and IDs of the latest ended calls that had a name or were cancelled."""

    def add(self, call: Call, name: str) -> None:
        """Let `cancel` find a call by the name that its client gave it.

        Raises:
            Conflict: a call with this name has not ended.
            InvalidRequest: the name is too long, or has unprintable characters.
        """
        if not name.isprintable() or len(name) > _LONGEST_NAME:
            raise InvalidRequest(f"the name of a call has at most {_LONGEST_NAME} characters, all of them printable")
        if name in self._named:
            raise Conflict(f'a call with the name "{name}" has not ended')
        self._named[name] = call
        call.add_done_callback(lambda _: self._remove(name))

    async def cancel(self, cancelling: Call) -> commands.Success:
        """End the call that the request of `cancelling` names; its own client gets `cancelled`.

        Raises:
            NotFound: the server knows no such call.
        """
        identity = commands.check_payload("cancel", wire.parse_object(cancelling.request.payload))["id"]
        if type(identity) not in {str, int, float}:
            raise InvalidRequest('cancel: the field "id" takes the ID or the name of a call')
        call = self._find(cancelling, identity)
        if call is not None:
            self._remember(identity)
            if not call.done() and call.runner is not None:
                call.runner.stop(call)
        elif identity not in self._ended and not self._background.has_expired(str(identity)):
            self._replicas.check_call(str(identity))
            self._replicas.check_left_call(str(identity))
            raise NotFound(f'there is no call "{str(identity)[:80]}": it may have ended')
        return commands.Success()

    def _find(self, cancelling: Call, identity: Any) -> Call | None:
        same_connection = cancelling.find_call(identity) if cancelling.find_call is not None else None
        if same_connection is not None or not isinstance(identity, str):
            return same_connection
        return self._background.find_call(identity) or self._named.get(identity)

    def _remove(self, name: str) -> None:
        del self._named[name]
        self._remember(name)

    def _remember(self, identity: Any) -> None:
        self._ended[identity] = None
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
