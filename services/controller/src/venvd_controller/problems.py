"""Every error that leaves the controller as problem details (RFC 9457)."""

from __future__ import annotations

import logging

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from venvd_contract.errors import (
    Internal,
    InvalidRequest,
    NotFound,
    TooLarge,
    Unauthenticated,
    VenvdError,
)

log = logging.getLogger("venvd.controller")

_DRAIN = 64 << 20
"""Bytes of a body over the limit that are read all the same, so that its sender comes to read the answer."""


def response(error: VenvdError, status: int | None = None, challenge: str = "Bearer") -> JSONResponse:
    problem = error.problem()
    if status is not None:
        problem["status"] = status
    headers = {"WWW-Authenticate": f'{challenge} realm="venvd"'} if isinstance(error, Unauthenticated) else None
    return JSONResponse(problem, problem["status"], headers, media_type="application/problem+json")


def install(app: FastAPI) -> None:
    """Let `app` answer every exception with problem details."""
    app.add_exception_handler(VenvdError, _ours)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _plain)
    app.add_exception_handler(Exception, _defect)


def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, VenvdError)
    return response(error)


def _invalid(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    found = error.errors()[0]
    if found["type"] == "json_invalid":
        return response(InvalidRequest(f"the body is not JSON: {found.get('ctx', {}).get('error', found['msg'])}"))
    place = ".".join(str(part) for part in found["loc"] if part not in {"body", "query", "path", "header"})
    message = found["msg"].removeprefix("Value error, ")
    return response(InvalidRequest(f'the field "{place}": {message}' if place else f"the body: {message}"))


def _plain(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return response(NotFound(f"there is nothing at {request.url.path[:200]}; /docs lists what there is"))
    if error.status_code == 405:
        return response(InvalidRequest(f"{request.method} is not for {request.url.path[:200]}"), 405)
    if error.status_code == 400:
        return response(InvalidRequest("the body is not JSON, or nested too deeply"))
    return response(InvalidRequest(str(error.detail)), error.status_code)


def _defect(request: Request, error: Exception) -> JSONResponse:
    log.error("a defect at %s %s", request.method, request.url.path, exc_info=error)
    return response(Internal("a defect of the controller; its log has the details"))


class BodyLimit:
    """Refuses bodies over a limit before anything parses them."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = await self._read(receive)
        if body is None:
            await response(TooLarge(f"the body is larger than {self._limit} bytes"))(scope, receive, send)
            return
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _read(self, receive: Receive) -> bytes | None:
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return b""
            size += len(message.get("body", b""))
            if size <= self._limit:
                parts.append(message.get("body", b""))
            if not message.get("more_body") or size > _DRAIN:
                return None if size > self._limit else b"".join(parts)
