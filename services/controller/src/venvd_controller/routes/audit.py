"""`/v1/audit`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import AwareDatetime

from venvd_contract.access import OPERATOR, AuditEntry
from venvd_contract.errors import InvalidRequest
from venvd_controller.clock import format_time
from venvd_controller.routes.access import needs
from venvd_controller.routes.dependencies import ControllerDep, PageOf, PagingDep

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get("", dependencies=[needs(OPERATOR)])
def list_audit(
    controller: ControllerDep,
    paging: PagingDep,
    since: AwareDatetime | None = None,
    key: Annotated[str | None, Query(max_length=80, description="`admin` is the token of the home")] = None,
) -> PageOf[AuditEntry]:
    """List the audit log, newest first: every request that changed something or tried to, and every refusal. Equal
    refusals of one peer within a minute are one line with their number.
    """
    if paging.after is not None and not (paging.after.isascii() and paging.after.isdecimal()):
        raise InvalidRequest("after: takes the ID of a line, which is `next` of the previous page")
    after = int(paging.after) if paging.after is not None else None
    lines = controller.audit.list_all(after, paging.fetch_limit, format_time(since) if since else None, key)
    page = paging.create_page(lines, "id")
    return PageOf(page.items, str(page.next) if page.next is not None else None)
