"""The ASGI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
from fastapi import FastAPI
from fastapi.routing import APIRoute
from starlette.types import Lifespan

from venvd_contract import access as access_resources
from venvd_contract import resources
from venvd_controller import __version__, auth, examples, problems
from venvd_controller.audit_trail import AuditTrail
from venvd_controller.controller import Controller
from venvd_controller.routes import access, audit, backends, calls, keys, operations, runtimes, secrets, venvs
from venvd_controller.routes import controller as controller_routes
from venvd_controller.web_page import WebPage, read_page
from venvd_http import docs, openapi
from venvd_http.asgi import ASGIApp, Receive, Scope, Send
from venvd_http.bodies import BodyLimit
from venvd_http.logs import RequestLog
from venvd_http.problems import Problem

_TITLE = "venvd controller"
_ROUTES = (controller_routes, runtimes, venvs, backends, calls, operations, keys, secrets, audit)
_THREADS = 100
"""How many requests are answered at a time. Event streams need no thread."""
_QUIET = auth.OPEN | {"/metrics", "/v1/sd/prometheus"}

_ABOUT = """Builds venvs and runs backends from them.

Send a key, or the token of the controller's home, as `Authorization: Bearer …`. Each route names the scope that it
needs. Builds and starts are operations: follow their events, or poll. Errors are problem details (RFC 9457) with a
stable `code`. Lists are paged: pass `next` as `after`.
"""

_PROBLEM: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "What went wrong"}}


def create_app(controller: Controller) -> ASGIApp:
    """Create the application of a controller. The application starts and stops the controller."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = _THREADS
        await anyio.to_thread.run_sync(controller.start)
        yield
        await anyio.to_thread.run_sync(controller.stop)

    app = _create_api(lifespan)
    app.state.controller = controller
    settings = controller.settings
    app.add_middleware(_WithDocs)
    app.add_middleware(BodyLimit, limit=settings.max_body, stall_timeout=settings.stall_timeout)
    app.add_middleware(AuditTrail, audit=controller.audit)
    app.add_middleware(
        auth.Guard,
        keys=controller.keys,
        audit=controller.audit,
        open_docs=settings.open_docs,
        max_wrong_tokens=settings.max_wrong_tokens,
    )
    page = read_page() if settings.page else {}
    app.add_middleware(WebPage, answers=page)
    app.add_middleware(RequestLog, quiet=_QUIET | page.keys())
    return app


def _create_api(lifespan: Lifespan[FastAPI] | None = None) -> FastAPI:
    app = FastAPI(
        title=_TITLE,
        version=__version__,
        description=_ABOUT,
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        responses=_PROBLEM,
        generate_unique_id_function=_name_operation,
        max_body_size=None,  # BodyLimit answers with problem details
    )
    problems.install(app)
    routers = [module.router for module in _ROUTES]
    access.check_declared(routers)
    for router in routers:
        app.include_router(router)
    return app


class _WithDocs:
    """ASGI middleware: serves the OpenAPI document and the page that shows it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._docs = docs.Docs(_TITLE, describe_api)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        serves = scope["type"] == "http" and scope["path"] in docs.PATHS
        await (self._docs if serves else self._app)(scope, receive, send)


def describe_api() -> openapi.Document:
    """Create the OpenAPI document."""
    app = _create_api()
    document = openapi.complete(app.openapi(), (access_resources, resources, *_ROUTES), examples.MODELS)
    openapi.summarize(document)
    access.show_scopes(document)
    openapi.close_bodies(document)
    return document


def _name_operation(route: APIRoute) -> str:
    return route.name
