"""The FastAPI application: the schema, its pages, and every route that is not hot.

Its routes answer like the hot ones, by `Commands`; the signatures that FastAPI sees are there for the schema. So
every command has real models in the schema and every transport gives the same errors.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, Path, Query, Request, Response, Security
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from starlette.convertors import PathConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from venvd_contract.commands import COMMANDS, PLANNED, STREAMED, Command, Nothing
from venvd_contract.errors import Internal, InvalidRequest, NotFound, VenvdError
from venvd_core.monitor import refuse
from venvd_http_backend import arrays, files, query
from venvd_http_backend.commands import Commands

PLANNED_ROUTES = (
    ("POST", "/venv/create", "venv.create"),
    ("GET", "/venv/list", "venv.list"),
    ("GET", "/venv/status/{name}", "venv.status"),
    ("DELETE", "/venv/{name}", "venv.delete"),
    ("POST", "/venv/ensure", "venv.ensure"),
)

_ABOUT = """Runs Python in sessions. Send the backend's token as `Authorization: Bearer …`.

Values are JSON data; what JSON lacks is tagged (`{"$float": "nan"}`, `{"$bytes": …}`, …), and `{"$handle": …}` stands
for the object behind a handle, at any depth. Errors are problem details (RFC 9457) with a stable `code`.
"""

SessionHeader = Annotated[str | None, Header(alias="X-Venvd-Session", description="Session; `default` if absent")]
TimeoutHeader = Annotated[float | None, Header(alias="X-Venvd-Timeout", description="Seconds")]
LeaseHeader = Annotated[
    float | None,
    Header(alias="X-Venvd-Lease", description="Seconds for which handles made live unless they are used"),
]
ValuesHeader = Annotated[
    str | None, Header(alias="X-Venvd-Values", description="`plain` or `tagged`", pattern="^(plain|tagged)$")
]


class FilePath(PathConvertor):
    """What may stand in the path of a file: line ends, too."""

    regex = r"[\s\S]*"


register_url_convertor("file", FilePath())

HandleQuery = Annotated[str, Query(alias="handleId")]
FormatQuery = Annotated[str | None, Query(alias="format", description="`arrow` for a table", pattern="^arrow$")]
IntoQuery = Annotated[
    str | None,
    Query(description="What a table becomes: `table`, `pandas` or `polars`", pattern="^(table|pandas|polars)$"),
]


@dataclass
class Problem:
    """What went wrong (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errorType: str | None = None  # noqa: N815 — names on the wire
    traceback: str | None = None
    stateLost: bool | None = None  # noqa: N815


class Answer(Response):
    """Hands the request on to `Commands`, which sends the response itself."""

    def __init__(self, commands: Commands, command: str, path: dict[str, Any], session: str | None = None) -> None:
        super().__init__()
        self._commands = commands
        self._command = command
        self._path = path
        self._session = session

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._commands.serve(self._command, scope, receive, send, self._path, self._session)


class Refusal(Response):
    """An error as problem details."""

    def __init__(self, error: VenvdError, status: int, headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
        super().__init__(status_code=status)
        self._error = error
        self._extra = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        await refuse(send, self._error, self.status_code, self._extra)


Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def _route_of(commands: Commands, command: str) -> type[APIRoute]:
    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            async def handle(request: Request) -> Response:
                try:
                    named = {**query.asked(command, request.query_params), **request.path_params}
                except VenvdError as error:
                    return Refusal(error, error.http_status)
                if command not in files.COMMANDS:
                    return Answer(commands, command, named)
                session = named.pop("id")
                named |= files.named(request.scope)
                kind = files.Answer if command in files.STREAMED else Answer
                return kind(commands, command, named, session)

            return handle

    return Route


def _signature(command: Command) -> inspect.Signature:
    """The parameters of a command, as FastAPI reads them off a function."""
    found: dict[str, Any] = {}
    method, path = command.http
    if "{id}" in path:
        whose = "call" if "/calls/" in path else "session"
        found["id"] = Annotated[str, Path(description=f"The {whose}'s ID")]
    if "{path}" in path:
        found["path"] = Annotated[str, Path(description="Relative to the session's working directory")]
    if method != "POST":
        found |= {name: Annotated[hint, Query()] for name, hint in query.fields(command).items() if name not in found}
    elif "{id}" not in path and command.request is not Nothing:
        found["body"] = Annotated[command.request, Body()]
    if command.served_by == "session":
        found |= {"session": SessionHeader, "timeout": TimeoutHeader, "values": ValuesHeader, "lease": LeaseHeader}
    kind = inspect.Parameter.KEYWORD_ONLY
    missing = inspect.Parameter.empty
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, annotation=hint, default=missing if name in {"id", "path", "body"} else None)
            for name, hint in found.items()
        ]
    )


def _declare(app: FastAPI, commands: Commands, command: Command) -> None:
    def endpoint(**_: Any) -> None:
        """Only its signature is used."""

    endpoint.__signature__ = _signature(command)  # type: ignore[attr-defined]
    method, path = command.http
    path = path.replace("{path}", "{path:file}")
    service, _, name = command.rpc.partition("/")
    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=None if name in files.RESPONSES else command.response,
        response_class=Response if name in files.RESPONSES else JSONResponse,
        operation_id=name,
        summary=command.summary,
        tags=[service.removesuffix("Service")],
        responses={"default": {"model": Problem, "description": "What went wrong"}, **files.RESPONSES.get(name, {})},
        openapi_extra=files.BODIES.get(name),
        dependencies=[] if command.open else [Security(HTTPBearer(auto_error=False))],
        route_class_override=_route_of(commands, command.name),
    )


def _declare_arrays(app: FastAPI) -> None:
    """`/api/array`, which the front answers before FastAPI sees it."""

    def get_array(
        handle: HandleQuery, form: FormatQuery = None, session: SessionHeader = None, timeout: TimeoutHeader = None
    ) -> None:
        """Only its signature is used."""

    def put_array(into: IntoQuery = None, session: SessionHeader = None, timeout: TimeoutHeader = None) -> None:
        """Only its signature is used."""

    body = {"schema": {"type": "string", "format": "binary"}}
    binary = {"content": {kind.decode(): body for kind in (arrays.NPY, arrays.ARROW)}}
    common: dict[str, Any] = {"tags": ["Python"], "dependencies": [Security(HTTPBearer(auto_error=False))]}
    problem: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "What went wrong"}}
    get, put = (each for each in STREAMED if each.http[1] == arrays.PATH)
    app.router.add_api_route(
        get.http[1],
        get_array,
        methods=["GET"],
        operation_id="GetArray",
        summary=get.summary,
        response_class=Response,
        responses={**problem, 200: {"description": "A `.npy` stream, or an Arrow IPC stream", **binary}},
        **common,
    )
    app.router.add_api_route(
        put.http[1],
        put_array,
        methods=["PUT"],
        operation_id="PutArray",
        summary=put.summary,
        response_model=put.response,
        responses=problem,
        openapi_extra={"requestBody": {"required": True, **binary}},
        **common,
    )


def schema_app(commands: Commands, version: str) -> FastAPI:
    app = FastAPI(
        title="venvd HTTP backend",
        version=version,
        description=_ABOUT,
        redoc_url=None,
        redirect_slashes=False,
        swagger_ui_oauth2_redirect_url=None,
    )
    for command in COMMANDS:
        if command.name != "ping":
            _declare(app, commands, command)
    _declare_arrays(app)
    for method, path, name in PLANNED_ROUTES:
        if name in PLANNED:
            route = _route_of(commands, name)
            app.router.add_api_route(
                path, lambda: None, methods=[method], include_in_schema=False, route_class_override=route
            )
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _defect)
    return app


async def _refused(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    path = request.url.path[:200]
    if status == 405:
        allowed = (getattr(error, "headers", None) or {}).get("Allow", "")
        message = f"{path} takes {allowed}, not {request.method}"
        return Refusal(InvalidRequest(message), 405, ((b"allow", allowed.encode()),))
    if status == 404:
        return Refusal(NotFound(f"there is nothing at {path}; /docs lists what there is"), 404)
    return Refusal(InvalidRequest(str(error)), status)


async def _defect(_request: Request, error: Exception) -> Response:
    return Refusal(Internal(f"{type(error).__name__} in the server; its log has the traceback"), 500)
