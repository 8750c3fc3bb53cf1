"""`/v1/venvs` and `/v1/providers`."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

from fastapi import APIRouter, Response, status
from pydantic import Field

from venvd_contract.access import OPERATOR
from venvd_contract.resources import Package, Provider, ProviderSpec, Venv, VenvChange, VenvSpec
from venvd_controller.audit import list_changes
from venvd_controller.guarded_fields import guard_venv
from venvd_controller.routes.access import ANY, needs, needs_for_provider
from venvd_controller.routes.dependencies import (
    Answers,
    CallerDep,
    ChangesDep,
    ControllerDep,
    JsonBody,
    PageOf,
    PagingDep,
)

router = APIRouter(prefix="/v1", tags=["venvs"])
_needs_venv = needs("venv:{name}")
_BUILDS: Answers = {202: {"model": VenvChange, "description": "A build has begun"}}


@dataclass
class Lock:
    lock: str
    """A hash-pinned requirements file without index addresses."""


@router.get("/venvs", dependencies=[needs(*ANY)])
def list_venvs(controller: ControllerDep, caller: CallerDep, paging: PagingDep) -> PageOf[Venv]:
    """List the venvs that the caller may use. In place of a lock that a venv brings, the list has its digest."""
    venvs = controller.venvs.list_all(paging.after, paging.fetch_limit, caller.visible)
    return paging.create_page([replace(venv, spec=_without_lock(venv)) for venv in venvs], "name")


def _without_lock(venv: Venv) -> VenvSpec:
    lock = venv.spec.lock
    if lock is None:
        return venv.spec
    digest = hashlib.sha256(lock.encode()).hexdigest()
    return replace(venv.spec, lock=f"sha256:{digest} (GET /v1/venvs/{venv.name} has the text)")


@router.put("/venvs/{name}", responses=_BUILDS, dependencies=[_needs_venv])
def put_venv(
    controller: ControllerDep,
    caller: CallerDep,
    changes: ChangesDep,
    name: str,
    spec: JsonBody[VenvSpec],
    response: Response,
    upgrade: bool = False,
) -> VenvChange:
    """Create or change a venv. `operation` is its build, null if there is nothing to build. `upgrade` resolves its
    requirements to the newest versions again; if that fails, the venv stays as it was, and its `error` says why.
    """
    before = VenvSpec()

    def choose(stored: VenvSpec | None) -> VenvSpec:
        nonlocal before
        before = stored or before
        return guard_venv(caller, spec, stored)

    venv, operation = controller.venvs.change(name, choose, upgrade=upgrade)
    changes.fields = list_changes(before, venv.spec)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return VenvChange(venv, operation)


@router.get("/venvs/{name}", dependencies=[_needs_venv])
def get_venv(controller: ControllerDep, name: str) -> Venv:
    """Return a venv."""
    return controller.venvs.get(name)


@router.delete("/venvs/{name}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[_needs_venv])
def delete_venv(controller: ControllerDep, name: str) -> None:
    """Delete a venv that no backend uses."""
    controller.venvs.delete(name)


@dataclass
class VenvRun:
    code: str
    timeout: Annotated[float, Field(gt=0, le=3600)] = 300.0


@router.post("/venvs/{name}/run", dependencies=[_needs_venv])
def run_in_venv(controller: ControllerDep, name: str, run: JsonBody[VenvRun]) -> dict[str, Any]:
    """Execute code in a fresh session of the venv; the backend `run-NAME` is started for it and stays."""
    return controller.runs.run(name, run.code, run.timeout)


@router.get("/venvs/{name}/packages", dependencies=[_needs_venv])
def list_packages(controller: ControllerDep, name: str, paging: PagingDep) -> PageOf[Package]:
    """List the packages that are installed in a venv."""
    packages = sorted(controller.venvs.list_packages(name), key=lambda package: package.name)
    return paging.create_page([package for package in packages if package.name > (paging.after or "")], "name")


@router.get("/venvs/{name}/lock", dependencies=[_needs_venv])
def get_lock(controller: ControllerDep, name: str) -> Lock:
    """Return the lock of a venv: its packages with exact versions and hashes."""
    return Lock(controller.venvs.get_lock(name))


@router.get("/providers", dependencies=[needs(*ANY)])
def list_providers(controller: ControllerDep, paging: PagingDep) -> PageOf[Provider]:
    """List the providers whose packages are known."""
    return paging.create_page(controller.providers.list_all(paging.after, paging.fetch_limit), "name")


@router.get("/providers/{provider}", dependencies=[needs(*ANY)])
def get_provider(controller: ControllerDep, provider: str) -> Provider:
    """Return what the venvs of a provider need."""
    return controller.providers.get(provider)


@router.put("/providers/{provider}", dependencies=[needs(OPERATOR)])
def put_provider(controller: ControllerDep, provider: str, spec: JsonBody[ProviderSpec]) -> Provider:
    """Set what the venvs of a provider need. The next request that ensures one applies it."""
    return controller.providers.put(provider, spec)


@router.delete("/providers/{provider}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[needs(OPERATOR)])
def delete_provider(controller: ControllerDep, provider: str) -> None:
    """Delete what the venvs of a provider need. The venvs stay."""
    controller.providers.delete(provider)


@router.put("/providers/{provider}/venv", responses=_BUILDS, dependencies=[needs_for_provider("venv:{venv}")])
def ensure_provider(
    controller: ControllerDep,
    caller: CallerDep,
    provider: str,
    response: Response,
    model: str | None = None,
    spec: JsonBody[VenvSpec | None] = None,
    upgrade: bool = False,
) -> VenvChange:
    """Create the venv of a provider from what the provider needs and from the body. To an existing venv, add both: a
    requirement replaces those for the same package, and a field that is absent changes nothing. `upgrade` is that of
    `PUT /v1/venvs/{name}`.
    """
    guard = partial(guard_venv, caller, spec or VenvSpec())
    venv, operation = controller.providers.ensure(provider, model, guard, upgrade=upgrade)
    response.status_code = status.HTTP_202_ACCEPTED if operation else status.HTTP_200_OK
    return VenvChange(venv, operation)
