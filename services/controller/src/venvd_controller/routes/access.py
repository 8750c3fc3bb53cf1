"""The scope that each route needs: declared beside the route, checked before it runs, shown in the schema.

Names in braces come from the request's path, or from the object that the request is about. `*` is any name. If a route
names several scopes, one of them is enough.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Security, params
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer, SecurityScopes

from venvd_contract.access import METRICS, OPERATOR, USE, VENV
from venvd_contract.errors import NotFound
from venvd_contract.resources import BackendSpec
from venvd_controller.auth import OPEN
from venvd_controller.routes.dependencies import CallerDep, ControllerDep, JsonBody
from venvd_controller.specs import create_provider_name

_Bearer = Annotated[object, Depends(HTTPBearer(auto_error=False, description="A key, or the token of the home."))]
"""For the schema: the guard has read the token."""

ANY = (f"{VENV}*", f"{USE}*")
"""The scopes of lists that show a caller what it may see: everything but `metrics`."""


async def _check(request: Request, caller: CallerDep, declared: SecurityScopes, _: _Bearer) -> None:
    caller.require([scope.format(**request.path_params) for scope in declared.scopes])


def needs(*scopes: str) -> Any:
    """Let only callers with one of `scopes` use a route."""
    return Security(_check, scopes=scopes)


def _check_backend(
    name: str, controller: ControllerDep, caller: CallerDep, declared: SecurityScopes, _: _Bearer
) -> None:
    if caller.is_operator:
        return
    metrics = {METRICS}.intersection(declared.scopes)
    try:
        venv = controller.backends.get_row(name).venv
    except NotFound:
        venv = None
    if venv is None or not any(caller.has(scope) for scope in (USE + name, VENV + venv, *metrics)):
        # if the caller may not see the backend, the error is that of an absent one, and suggests no similar name
        caller.require([USE + name, f"{VENV}*", *metrics])
        raise NotFound(f'no backend "{name[:80]}"')
    caller.require([scope.format(name=name, venv=venv) for scope in declared.scopes])


def needs_for_backend(*scopes: str) -> Any:
    """Let only callers with one of `scopes` use a route about the backend `{name}` of the venv `{venv}`."""
    return Security(_check_backend, scopes=scopes)


def _check_operation(
    request: Request, key: str, controller: ControllerDep, caller: CallerDep, declared: SecurityScopes, _: _Bearer
) -> None:
    if caller.is_operator:
        return
    venv = controller.operations.find_venv(key)
    if venv is not None:
        caller.require([scope.format(venv=venv) for scope in declared.scopes])
    else:  # all venvs share the runtimes
        caller.require([f"{VENV}*" if request.method == "GET" else OPERATOR])


def needs_for_operation(*scopes: str) -> Any:
    """Let only callers with one of `scopes` use a route about the operation `{key}`, which works for `{venv}`."""
    return Security(_check_operation, scopes=scopes)


async def _check_start(spec: JsonBody[BackendSpec], caller: CallerDep, declared: SecurityScopes, _: _Bearer) -> None:
    caller.require([scope.format(venv=spec.venv) for scope in declared.scopes])


def needs_for_start(*scopes: str) -> Any:
    """Let only callers with one of `scopes` start a backend of the venv `{venv}`."""
    return Security(_check_start, scopes=scopes)


async def _check_provider(
    provider: str, caller: CallerDep, declared: SecurityScopes, _: _Bearer, model: str | None = None
) -> None:
    caller.require([scope.format(venv=create_provider_name(provider, model)) for scope in declared.scopes])


def needs_for_provider(*scopes: str) -> Any:
    """Let only callers with one of `scopes` use the venv `{venv}` of a provider."""
    return Security(_check_provider, scopes=scopes)


def check_declared(routers: Iterable[APIRouter]) -> None:
    """Check that each route names its scope, except the probes, which are open to all."""
    for router in routers:
        for route in router.routes:
            assert isinstance(route, APIRoute)
            declared = any(isinstance(each, params.Security) for each in route.dependencies)
            if not declared and route.path not in OPEN:
                raise RuntimeError(f"{route.methods} {route.path} does not name the scope that it needs")


def show_scopes(schema: dict[str, Any]) -> None:
    """Write the scopes of each operation into an OpenAPI schema: as alternatives, and in words."""
    for operations in schema["paths"].values():
        for operation in operations.values():
            for name, scopes in operation.get("security", [{}])[0].items():
                operation["security"] = [{name: [scope]} for scope in scopes]
                words = " or ".join(f"`{scope}`" for scope in scopes)
                described = operation.get("description", "")
                operation["description"] = f"{described}\n\nNeeds the scope {words}.".strip()
