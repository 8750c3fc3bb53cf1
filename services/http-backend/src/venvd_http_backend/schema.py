"""The OpenAPI document. FastAPI makes it from the signatures of routes that are never called."""

from __future__ import annotations

import inspect
from importlib.metadata import version
from typing import Annotated, Any

from fastapi import Body, FastAPI, Header, Path, Query, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer

from venvd_contract import background, commands, files, resources, venvs
from venvd_contract.commands import COMMANDS, SESSION_COMMANDS, STREAMED, Command, Nothing
from venvd_contract.venvs import VENV_COMMANDS
from venvd_http.openapi import Document, close_bodies, complete, read_field_texts
from venvd_http.problems import Problem
from venvd_http_backend import arrays, query, texts

_ABOUT = """Runs Python in sessions. Send the backend's token as `Authorization: Bearer …`.

Values are natural JSON in the mode `plain`. In the mode `tagged`, what JSON lacks has a tag (`{"$float": "nan"}`,
`{"$bytes": …}`, …). Requests may use tags in both, and `{"$handle": …}` stands for the object behind a handle, at any
depth. Errors are problem details (RFC 9457) with a stable `code`.
"""

SessionHeader = Annotated[str | None, Header(alias="X-Venvd-Session", description="Session; `default` if absent")]
TimeoutHeader = Annotated[float | None, Header(alias="X-Venvd-Timeout", description="Seconds")]
LeaseHeader = Annotated[
    float | None,
    Header(alias="X-Venvd-Lease", description="Seconds for which handles made live unless they are used; 0 for no end"),
]
ValuesHeader = Annotated[
    str | None, Header(alias="X-Venvd-Values", description="`plain` or `tagged`", pattern="^(plain|tagged)$")
]
HandleQuery = Annotated[str, Query(alias="handleId")]
FormatQuery = Annotated[str | None, Query(alias="format", description="`arrow` for a table", pattern="^arrow$")]
IntoQuery = Annotated[
    str | None,
    Query(description="What a table becomes: `table`, `pandas` or `polars`", pattern="^(table|pandas|polars)$"),
]

_OPTIONS = {
    "session": {"type": "string", "description": "In place of the header `X-Venvd-Session`"},
    "timeout": {"type": "number", "description": "Seconds, in place of the header `X-Venvd-Timeout`"},
    "values": {"enum": ["plain", "tagged"], "description": "In place of the header `X-Venvd-Values`"},
}
_WITH_FIELDS_OF_VENVS = ("VenvCreateRequest", "VenvEnsureRequest")

_BINARY = {"type": "string", "format": "binary"}
_CONTENT = {"content": {"application/octet-stream": {"schema": _BINARY}}}
_RESPONSES: dict[str, dict[int | str, dict[str, Any]]] = {
    "GetFile": {200: {"description": "The file", **_CONTENT}, 206: {"description": "The part asked for", **_CONTENT}}
}
_BODIES: dict[str, dict[str, Any]] = {"PutFile": {"requestBody": {"required": True, **_CONTENT}}}


def _signature(command: Command) -> inspect.Signature:
    """Return the parameters of a command as a function's signature, from which FastAPI reads them."""
    parameters: dict[str, Any] = {}
    method, path = command.http
    if "{id}" in path:
        whose = "call" if "/calls/" in path else "session"
        parameters["id"] = Annotated[str, Path(description=f"The {whose}'s ID")]
    if "{name}" in path:
        parameters["name"] = Annotated[str, Path(description="The venv's name")]
    if "{path}" in path:
        parameters["path"] = Annotated[str, Path(description="Relative to the session's working directory")]
    if method != "POST":
        fields = query.query_fields(command)
        says = read_field_texts(command.request)
        parameters |= {
            name: Annotated[hint, Query(description=says.get(name))]
            for name, hint in fields.items()
            if name not in parameters
        }
    elif "{id}" not in path and command.request is not Nothing:
        parameters["body"] = Annotated[command.request, Body(examples=[texts.REQUESTS[command.name]])]
    if command.served_by == "session":
        parameters |= {"session": SessionHeader, "timeout": TimeoutHeader, "values": ValuesHeader, "lease": LeaseHeader}
    kind = inspect.Parameter.KEYWORD_ONLY
    missing = inspect.Parameter.empty
    needed = {"id", "path", "name", "body"}
    return inspect.Signature(
        [
            inspect.Parameter(name, kind, annotation=hint, default=missing if name in needed else None)
            for name, hint in parameters.items()
        ]
    )


def _declare(app: FastAPI, command: Command) -> None:
    def endpoint(**_: Any) -> None: ...

    endpoint.__signature__ = _signature(command)  # type: ignore[attr-defined]
    method, path = command.http
    service, _, name = command.rpc.partition("/")
    app.router.add_api_route(
        path,
        endpoint,
        methods=[method],
        response_model=None if name in _RESPONSES else command.response,
        response_class=Response if name in _RESPONSES else JSONResponse,
        operation_id=name,
        summary=command.summary,
        description=texts.DESCRIPTIONS[command.name],
        tags=[service.removesuffix("Service")],
        responses={"default": {"model": Problem, "description": "What went wrong"}, **_RESPONSES.get(name, {})},
        openapi_extra=_BODIES.get(name),
        dependencies=[] if command.open else [Security(HTTPBearer(auto_error=False))],
    )


def _declare_arrays(app: FastAPI) -> None:
    """Declare `/api/array`."""

    def get_array(
        handle: HandleQuery, form: FormatQuery = None, session: SessionHeader = None, timeout: TimeoutHeader = None
    ) -> None: ...

    def put_array(into: IntoQuery = None, session: SessionHeader = None, timeout: TimeoutHeader = None) -> None: ...

    binary = {"content": {kind.decode(): {"schema": _BINARY} for kind in (arrays.NPY, arrays.ARROW)}}
    common: dict[str, Any] = {"tags": ["Python"], "dependencies": [Security(HTTPBearer(auto_error=False))]}
    problem: dict[int | str, dict[str, Any]] = {"default": {"model": Problem, "description": "An error"}}
    get, put = (each for each in STREAMED if each.http[1] == arrays.PATH)
    app.router.add_api_route(
        get.http[1],
        get_array,
        methods=["GET"],
        operation_id="GetArray",
        summary=get.summary,
        description=texts.DESCRIPTIONS[get.name],
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
        description=texts.DESCRIPTIONS[put.name],
        response_model=put.response,
        responses=problem,
        openapi_extra={"requestBody": {"required": True, **binary}},
        **common,
    )


def _complete_bodies(document: Document) -> None:
    """Declare the fields that bodies may have beside those of their commands, and that they have no others."""
    close_bodies(document)
    models = document["components"]["schemas"]
    for command in (each for each in COMMANDS if each.name in SESSION_COMMANDS and each.http[0] == "POST"):
        models[command.request.__name__]["properties"] |= _OPTIONS
    for name in _WITH_FIELDS_OF_VENVS:
        del models[name]["additionalProperties"]


def create_schema() -> Document:
    """Create the document."""
    app = FastAPI(title="venvd HTTP backend", version=version("venvd-http-backend"), description=_ABOUT)
    for command in (*COMMANDS, *VENV_COMMANDS):
        if command.name != "ping":
            _declare(app, command)
    _declare_arrays(app)
    document = complete(app.openapi(), (background, commands, files, resources, venvs), texts.MODELS)
    _complete_bodies(document)
    for method, path in ((each.http[0].lower(), each.http[1]) for each in COMMANDS if each.name in texts.NUMBERS):
        name = path.removeprefix("/api/")
        document["paths"][path][method]["responses"]["200"]["content"]["application/json"]["example"] = texts.NUMBERS[
            name
        ]
    return document
