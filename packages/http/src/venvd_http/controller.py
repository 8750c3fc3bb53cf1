"""Requests of a server to its controller."""

from __future__ import annotations

import asyncio
import http.client
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

from venvd_contract.errors import Busy, DeadlineExceeded, Internal, TooLarge, Unavailable, VenvdError, from_fields
from venvd_http.controller_connection import ControllerAddress, ControllerConnection

AT_ONCE = 16
"""Requests that run at a time; others wait."""
LONG_AT_ONCE = AT_ONCE // 2
"""The same for requests that may take longer than `SILENCE`."""
MOST_STREAMS = 32
"""Streams that may be open at a time."""
LARGEST_REQUEST = 8 << 20
LARGEST_RESPONSE = 16 << 20
SILENCE = 30.0
"""Seconds in which the controller must answer, or send the next event or comment of a stream."""

T = TypeVar("T")


class ControllerClient:
    """Sends requests with the token of the caller; it holds no token of its own."""

    def __init__(self, address: ControllerAddress) -> None:
        self._address = address
        self._places = asyncio.Semaphore(AT_ONCE)
        self._long_places = asyncio.Semaphore(LONG_AT_ONCE)
        self._streams = 0
        self._threads = ThreadPoolExecutor(AT_ONCE + LONG_AT_ONCE + MOST_STREAMS, thread_name_prefix="controller")
        """Threads of its own, because a request may occupy a thread for long."""

    async def request(
        self,
        method: str,
        parts: tuple[str, ...],
        token: str | None,
        body: Any = None,
        query: Mapping[str, object] | None = None,
        seconds: float = SILENCE,
    ) -> Any:
        """Send one request and return its answer. `parts` are the segments of the path below `/v1`.

        The controller must answer within `seconds`.

        Raises:
            VenvdError: the controller's error; `Unavailable` if no controller answers.
        """
        data = None if body is None else json.dumps(body).encode()
        if data is not None and len(data) > LARGEST_REQUEST:
            raise TooLarge(f"the request is larger than the controller's limit of {LARGEST_REQUEST} bytes")
        async with self._places if seconds <= SILENCE else self._long_places:
            connection = self._open(seconds)
            try:
                return await self._in_thread(
                    partial(self._exchange, connection, method, _make_target(parts, query), token, data)
                )
            finally:
                connection.hang_up()

    def _in_thread(self, work: Callable[[], T]) -> Awaitable[T]:
        return asyncio.get_running_loop().run_in_executor(self._threads, work)

    @staticmethod
    def _exchange(
        connection: ControllerConnection, method: str, target: str, token: str | None, data: bytes | None
    ) -> Any:
        try:
            response = _send(connection, method, target, token, data)
            text = response.read(LARGEST_RESPONSE + 1)
        except (OSError, http.client.HTTPException) as error:
            raise _explain(error) from None
        finally:
            connection.close()
        return _read_answer(response.status, text)

    @asynccontextmanager
    async def follow(self, parts: tuple[str, ...], token: str | None) -> AsyncIterator[AsyncIterator[tuple[str, Any]]]:
        """Open a stream of server-sent events, as pairs of kind and data; the end of the block closes it.

        Raises:
            Busy: too many streams are open.
            VenvdError: as `request`; reading the stream raises it too.
        """
        if self._streams >= MOST_STREAMS:
            raise Busy(f"clients already follow {MOST_STREAMS} operations: try again when one of them has ended")
        connection = self._open()
        self._streams += 1
        try:
            begin = partial(self._begin_stream, connection, _make_target(parts, None), token)
            response = await self._in_thread(begin)
            try:
                yield self._read_events(response)
            finally:
                connection.hang_up()
                connection.close()
        finally:
            connection.hang_up()
            self._streams -= 1

    @staticmethod
    def _begin_stream(connection: ControllerConnection, target: str, token: str | None) -> http.client.HTTPResponse:
        try:
            response = _send(connection, "GET", target, token, None)
            if response.status != http.client.OK:
                _read_answer(response.status, response.read(LARGEST_RESPONSE + 1))
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise _explain(error) from None
        except VenvdError:
            connection.close()
            raise
        return response

    async def _read_events(self, response: http.client.HTTPResponse) -> AsyncIterator[tuple[str, Any]]:
        read_line: Callable[[], bytes] = lambda: response.readline(LARGEST_REQUEST)  # noqa: E731 - runs in a thread
        kind = ""
        while True:
            try:
                line = (await self._in_thread(read_line)).rstrip(b"\r\n")
                if line.startswith(b"event: "):
                    kind = line[7:].decode()
                elif line.startswith(b"data: "):
                    yield kind, json.loads(line[6:])
                elif not line and response.isclosed():
                    return
            except (OSError, http.client.HTTPException) as error:
                raise _explain(error) from None
            except ValueError:
                raise Internal("the controller sent an event that is not JSON") from None

    def _open(self, seconds: float = SILENCE) -> ControllerConnection:
        connection = self._address.connect(seconds)
        if connection is None:
            raise Unavailable(
                "this backend cannot reach its controller: neither VENVD_CONTROLLER_SOCKET nor VENVD_CONTROLLER_URL "
                "is set"
            )
        return connection


def _make_target(parts: tuple[str, ...], query: Mapping[str, object] | None) -> str:
    path = "/".join(quote(part, safe="") for part in ("v1", *parts))
    fields = {name: value for name, value in (query or {}).items() if value is not None}
    return f"/{path}?{urlencode(fields)}" if fields else f"/{path}"


def _send(
    connection: ControllerConnection, method: str, target: str, token: str | None, data: bytes | None
) -> http.client.HTTPResponse:
    headers = {} if data is None else {"Content-Type": "application/json"}
    if token is not None:
        # a token with other characters cannot be valid; the controller refuses the changed one
        headers["Authorization"] = "Bearer " + "".join(char if "!" <= char <= "~" else "?" for char in token[:4096])
    connection.request(method, target, data, headers)
    return connection.getresponse()


def _explain(error: Exception) -> VenvdError:
    if isinstance(error, TimeoutError):
        return DeadlineExceeded(f"the controller did not answer within {SILENCE:g} s")
    return Unavailable(f"the controller does not answer: {error or type(error).__name__}; try again")


def _read_answer(status: int, text: bytes) -> Any:
    """Parse the body of an answer.

    Raises:
        VenvdError: the error of the controller.
    """
    if len(text) > LARGEST_RESPONSE:
        raise Internal(f"the controller sent more than {LARGEST_RESPONSE} bytes")
    try:
        answer = json.loads(text) if text else None
    except ValueError:
        raise Internal(f"the controller answered with status {status} and without JSON") from None
    if status < http.client.BAD_REQUEST:
        return answer
    raise from_fields(answer if isinstance(answer, dict) else {"detail": f"the controller answered with {status}"})
