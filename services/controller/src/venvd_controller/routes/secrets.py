"""`/v1/venvs/{name}/secrets` and `/v1/backends/{name}/secrets`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Depends, status

from venvd_contract.secrets import Secret, SecretSpec
from venvd_controller.routes.access import needs, needs_for_backend
from venvd_controller.routes.dependencies import ChangesDep, ControllerDep, JsonBody, PageOf

router = APIRouter(prefix="/v1", tags=["secrets"])


async def _hide_body(changes: ChangesDep) -> None:
    """Keep the body out of the audit log, also where a field of it is wrong."""
    changes.fields = {}


_hidden = Depends(_hide_body)
_needs_venv = needs("venv:{name}")
_needs_backend = needs_for_backend("venv:{venv}")


def _describe(secret: Secret) -> dict[str, Any]:
    return {"env": secret.env} if secret.header is None else {"header": asdict(secret.header)}


@router.get("/venvs/{name}/secrets", dependencies=[_needs_venv])
def list_venv_secrets(controller: ControllerDep, name: str) -> PageOf[Secret]:
    """List the secrets of a venv, without their values."""
    return PageOf(controller.secrets.list_all("venv", name))


@router.put("/venvs/{name}/secrets/{secret}", dependencies=[_hidden, _needs_venv])
def put_venv_secret(
    controller: ControllerDep, changes: ChangesDep, name: str, secret: str, spec: JsonBody[SecretSpec]
) -> Secret:
    """Set a secret of a venv, which all its backends have. New sessions and new requests see it within seconds."""
    stored = controller.secrets.put("venv", name, secret, spec)
    changes.fields = _describe(stored)
    return stored


@router.delete("/venvs/{name}/secrets/{secret}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[_needs_venv])
def remove_venv_secret(controller: ControllerDep, name: str, secret: str) -> None:
    """Remove a secret of a venv. Sessions that have it as a variable keep it until they end."""
    controller.secrets.remove("venv", name, secret)


@router.get("/backends/{name}/secrets", dependencies=[_needs_backend])
def list_backend_secrets(controller: ControllerDep, name: str) -> PageOf[Secret]:
    """List the secrets of a backend itself, without their values; it has those of its venv as well."""
    return PageOf(controller.secrets.list_all("backend", name))


@router.put("/backends/{name}/secrets/{secret}", dependencies=[_hidden, _needs_backend])
def put_backend_secret(
    controller: ControllerDep, changes: ChangesDep, name: str, secret: str, spec: JsonBody[SecretSpec]
) -> Secret:
    """Set a secret of a backend. It wins over one of the venv. New sessions and new requests see it within seconds."""
    stored = controller.secrets.put("backend", name, secret, spec)
    changes.fields = _describe(stored)
    return stored


@router.delete(
    "/backends/{name}/secrets/{secret}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[_needs_backend]
)
def remove_backend_secret(controller: ControllerDep, name: str, secret: str) -> None:
    """Remove a secret of a backend. Sessions that have it as a variable keep it until they end."""
    controller.secrets.remove("backend", name, secret)
