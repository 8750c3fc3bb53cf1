"""The ASGI application."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio.to_thread
from fastapi import Depends, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from venvd_controller import __version__, auth, problems
from venvd_controller.program import Program
from venvd_controller.routes import backends, controller, operations, runtimes, venvs

_THREADS = 200
"""Requests at a time; each follower of an operation or a log holds one."""


def create(program: Program) -> ASGIApp:
    """The application of a program that is not started yet; it starts and stops with the server."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        await anyio.to_thread.run_sync(program.start)
        yield
        await anyio.to_thread.run_sync(program.stop)

    app = FastAPI(
        title="venvd controller",
        version=__version__,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
    )
    app.state.program = program
    app.state.guard = auth.Guard(program.home)
    problems.install(app)
    for module in (controller, runtimes, venvs, backends, operations):
        app.include_router(module.router, dependencies=[Depends(auth.check)])
    _add_docs(app)
    app.add_middleware(problems.BodyLimit, limit=program.settings.max_body)
    app.add_middleware(RequestLog)
    return app


def _add_docs(app: FastAPI) -> None:
    """The schema, and a page to read it by: like everything else, for those with the token."""

    @app.get("/openapi.json", include_in_schema=False, dependencies=[Depends(auth.check)])
    def schema() -> dict[str, object]:
        return app.openapi()

    @app.get("/docs", include_in_schema=False, dependencies=[Depends(auth.check)])
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="venvd controller")


class RequestLog:
    """One line of JSON for each request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._log = logging.getLogger("venvd.request")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, watched)
        finally:
            took = round((time.perf_counter() - started) * 1000, 1)
            fields = {"method": scope["method"], "path": scope["path"], "status": status, "durationMs": took}
            self._log.info(json.dumps(fields))
