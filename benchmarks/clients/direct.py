"""Direct clients of a session, without the SDK."""

from __future__ import annotations

import json
import os
import socket
from contextlib import ExitStack
from urllib.parse import urlsplit

from benchmarks.figure import Address, UnmeasurableError


def open_pipes(at: Address, resources: ExitStack, session: str | None = None) -> tuple[int, int]:
    """Attach to a session and return the pipe for requests and the pipe for replies."""
    connection = resources.enter_context(socket.socket(socket.AF_UNIX))
    connection.connect(urlsplit(at.url).path)
    (read_requests, requests), (replies, write_replies) = os.pipe(), os.pipe()
    resources.callback(os.close, requests)
    resources.callback(os.close, replies)
    for message, ends in (
        ({"command": "session.attach", "payload": {"id": session}, "token": at.token}, ()),
        ({"command": "session.pipes"}, (read_requests, write_replies)),
    ):
        socket.send_fds(connection, [json.dumps(message).encode() + b"\n"], ends)
        answer = connection.recv(65536)
        if b'"error"' in answer:
            raise UnmeasurableError(f"the answer to {message['command']} was {answer[:200]!r}")
    os.close(read_requests)
    os.close(write_replies)
    return requests, replies
