"""The ASGI application."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse

from venvd_controller import __version__, auth, problems, requests
from venvd_controller.audit_trail import AuditTrail
from venvd_controller.controller import Controller
from venvd_controller.routes import access, audit, backends, keys, operations, runtimes, venvs
from venvd_controller.routes import controller as controller_routes
from venvd_controller.web_page import WebPage, read_page
from venvd_http.asgi import ASGIApp
from venvd_http.bodies import BodyLimit
from venvd_http.logs import RequestLog
from venvd_http.problems import Problem

_THREADS = 100
"""Requests answered at a time; event streams hold no thread."""
_QUIET = auth.OPEN | {"/metrics", "/v1/sd/prometheus"}

_ABOUT = """Builds venvs and runs backends from them.

Send a key, or the token of the controller's home, as `Authorization: Bearer …`. Each route names the scope that it
needs. Builds and starts are operations: follow their events, or poll. Errors are problem details (RFC 9457) with a
stable `code`. Lists are paged: pass `next` as `after`.
"""

_PROBLEM: dict[int | str, dict[str, Any]] = {
    "default": {"model": Problem, "description": "Problem details", "content": {"application/problem+json": {}}}
}


def create_app(controller: Controller) -> ASGIApp:
    """Create the application of a controller; the application starts and stops it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        await anyio.to_thread.run_sync(controller.start)
        yield
        await anyio.to_thread.run_sync(controller.stop)

    app = FastAPI(
        title="venvd controller",
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=_PROBLEM,
        max_body_size=None,  # BodyLimit answers with problem details
    )
    app.state.controller = controller
    problems.install(app)
    routers = [module.router for module in (controller_routes, runtimes, venvs, backends, operations, keys, audit)]
    access.check_declared(routers)
    for router in routers:
        app.include_router(router)
    _add_docs(app)
    settings = controller.settings
    app.add_middleware(BodyLimit, limit=settings.max_body, stall_timeout=settings.stall_timeout)
    app.add_middleware(AuditTrail, audit=controller.audit)
    app.add_middleware(auth.Guard, keys=controller.keys, audit=controller.audit)
    page = read_page() if settings.page else {}
    app.add_middleware(WebPage, answers=page)
    app.add_middleware(RequestLog, quiet=_QUIET | page.keys())
    return app


def _add_docs(app: FastAPI) -> None:
    """Add the schema and a page that shows it; both need the token."""

    @functools.cache
    def create_schema() -> dict[str, object]:
        schema = app.openapi()
        access.show_scopes(schema)
        requests.close_bodies(schema)
        return schema

    @app.get("/openapi.json", include_in_schema=False, dependencies=[access.needs(*access.ANY)])
    def schema() -> dict[str, object]:
        return create_schema()

    @app.get("/docs", include_in_schema=False, dependencies=[access.needs(*access.ANY)])
    def docs() -> HTMLResponse:
        return get_swagger_ui_html(openapi_url="/openapi.json", title="venvd controller")
