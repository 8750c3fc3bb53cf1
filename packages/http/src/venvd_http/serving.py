"""One request of an ASGI application, with its body, its head and its errors."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

from venvd_contract.errors import Internal, VenvdError
from venvd_http.asgi import Message, Receive, Scope, Send, describe_peer
from venvd_http.bodies import Body
from venvd_http.clients import ClientGone
from venvd_http.connection import HEAD, TRANSPORT
from venvd_http.heads import Head
from venvd_http.problems import refuse

_log = logging.getLogger(__name__)

Serve = Callable[[Head, Body, Send], Awaitable[None]]


async def serve_request(scope: Scope, receive: Receive, send: Send, stall_timeout: float, serve: Serve) -> None:
    """Serve a request. Errors become problem details; an error after the response has begun ends the connection.

    Args:
        scope: the scope of the request.
        receive: receives the body.
        send: sends the response.
        stall_timeout: seconds that a client may pause in the middle of its body.
        serve: answers the request; takes its head, its body, and a function like `send`.
    """
    started = False

    async def watched_send(message: Message) -> None:
        nonlocal started
        started = True
        await send(message)

    transport = scope["extensions"][TRANSPORT]
    body = Body(receive, stall_timeout)
    head = Head(chunked=True)  # if parsing the head fails, assume that a body follows
    try:
        head = scope["extensions"][HEAD] or Head.of(scope["headers"], describe_peer(scope))
        await serve(head, body, watched_send)
    except ClientGone:
        if started:
            transport.abort()
        return
    except VenvdError as raised:
        error: VenvdError = raised
    except Exception:  # noqa: BLE001 — a defect of ours: logged with its traceback, and answered
        _log.exception("%s %s", scope["method"], scope["path"])
        error = Internal("a defect of the server; its log has the traceback")
    else:
        return
    if started:
        _log.warning("a response broke off: %s", error.message)
        transport.abort()
    else:
        await refuse(send, error, headers=body.choose_closing(head))
