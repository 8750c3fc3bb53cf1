"""`session.attach`: hands a connection over to a session."""

from __future__ import annotations

import os
import socket

from venvd_contract.commands import ATTACH, SessionInfo, check_payload
from venvd_contract.errors import InvalidRequest
from venvd_core import wire
from venvd_core.backend import DirectClient, Reply
from venvd_http.auth import Caller
from venvd_pipe_backend.messages import Message
from venvd_pipe_backend.replies import failure, head, result
from venvd_pipe_backend.settings import PipeSettings


def session_of(message: Message) -> str | None:
    """Return the session that the first line names, in its payload or in its own field.

    Raises:
        InvalidRequest: the line names two sessions, or the payload is wrong.
    """
    named: str | None = check_payload(ATTACH, wire.parse_object(message.payload))["id"]
    if named is not None and message.session not in {None, named}:
        raise InvalidRequest(f'{ATTACH}: the payload names the session "{named}", and the line "{message.session}"')
    return message.session if named is None else named


def direct_client(
    descriptor: int, rest: bytes, identity: bytes, settings: PipeSettings, caller: Caller
) -> DirectClient:
    """Make the direct client of a connection, with a duplicate of its descriptor.

    Args:
        descriptor: the descriptor of the connection.
        rest: bytes that were read after the first line.
        identity: the ID of the first line, as JSON.
        settings: the settings with the limits of one request.
        caller: the sender.
    """

    def make_greeting(info: SessionInfo) -> bytes:
        return result(head(identity), Reply(wire.encode(info)))

    return DirectClient(
        socket.socket(fileno=os.dup(descriptor)),
        rest,
        settings.max_body,
        settings.max_attachment_bytes,
        make_greeting,
        lambda request, error: failure(head(request), error),
        caller,
    )
