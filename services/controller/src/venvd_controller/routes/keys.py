"""`/v1/keys` and `/v1/token`."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import APIRouter, status

from venvd_contract.access import ADMIN, Key
from venvd_contract.resources import AdminTokenRotation, RotationSpec
from venvd_controller.routes.access import needs
from venvd_controller.routes.dependencies import ControllerDep, JsonBody, PageOf, PagingDep

router = APIRouter(prefix="/v1", tags=["keys"])
_USUAL_ROTATION = RotationSpec()
_needs_admin = needs(ADMIN)


@dataclass
class NewKey:
    name: str
    scope: str | list[str]
    """One of `admin`, `operator`, `venv:NAME`, `use:BACKEND` and `metrics`, or a list of them."""
    expiresAt: str | None = None  # noqa: N815 — names on the wire
    """Null is never."""


@router.get("/keys", dependencies=[_needs_admin])
def list_keys(controller: ControllerDep, paging: PagingDep) -> PageOf[Key]:
    """List the keys, without their tokens."""
    return paging.create_page(controller.keys.list_all(paging.after, paging.fetch_limit), "name")


@router.post("/keys", status_code=status.HTTP_201_CREATED, dependencies=[_needs_admin])
def create_key(controller: ControllerDep, body: JsonBody[NewKey]) -> Key:
    """Create a key. This answer alone holds its token, as `key`: the controller keeps a digest of it."""
    scopes = [body.scope] if isinstance(body.scope, str) else body.scope
    return controller.keys.create(body.name, scopes, body.expiresAt)


@router.delete("/keys/{name}", status_code=status.HTTP_204_NO_CONTENT, dependencies=[_needs_admin])
def revoke_key(controller: ControllerDep, name: str) -> None:
    """Revoke a key. The controller refuses it at once, and each backend within a few seconds."""
    controller.keys.revoke(name)


@router.post("/token", dependencies=[_needs_admin])
def rotate_admin_token(controller: ControllerDep, spec: JsonBody[RotationSpec] = _USUAL_ROTATION) -> AdminTokenRotation:
    """Give the controller's home a new token without a restart, in its file `token`. Those before it end after
    `overlap` seconds.
    """
    end = controller.home.rotate_token(spec.overlap)
    return AdminTokenRotation(controller.home.token, end)
