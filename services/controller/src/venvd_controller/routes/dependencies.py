"""Dependencies of the routes: the controller, request bodies, pages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Body, Depends, Query, Request

from venvd_controller.audit_trail import CHANGES, Changes
from venvd_controller.auth import CALLER
from venvd_controller.callers import Caller
from venvd_controller.controller import Controller
from venvd_controller.requests import JSON_FIELDS

T = TypeVar("T")


async def _get_controller(request: Request) -> Controller:
    controller: Controller = request.app.state.controller
    return controller


async def _get_caller(request: Request) -> Caller:
    caller: Caller = request.scope[CALLER]
    return caller


async def _get_changes(request: Request) -> Changes:
    changes: Changes = request.scope[CHANGES]
    return changes


ControllerDep = Annotated[Controller, Depends(_get_controller)]
CallerDep = Annotated[Caller, Depends(_get_caller)]
ChangesDep = Annotated[Changes, Depends(_get_changes)]
"""Receives what the request changed, for the audit log."""
Answers = dict[int | str, dict[str, Any]]
"""The declared answers by status."""
METRICS_TEXT: Answers = {200: {"description": "Metrics", "content": {"text/plain": {"schema": {"type": "string"}}}}}
JsonBody = Annotated[T, Body(), JSON_FIELDS]
"""A request body. A null field counts as absent, and an unknown one is an error."""


@dataclass
class PageOf(Generic[T]):
    """`Page` of the contract, with the type of its items for the schema."""

    items: list[T]
    next: str | None = None


@dataclass(frozen=True)
class Paging:
    """The requested page of a list."""

    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    after: Annotated[str | None, Query(description="`next` of the previous page", max_length=200)] = None

    @property
    def fetch_limit(self) -> int:
        """One more than the page shows; the extra item says whether another page follows."""
        return self.limit + 1

    def create_page(self, items: Sequence[T], key: str) -> PageOf[T]:
        """Create the page from the items after `after`; `key` is the attribute that the list is sorted by."""
        shown = list(items[: self.limit])
        return PageOf(shown, getattr(shown[-1], key) if len(items) > self.limit else None)


PagingDep = Annotated[Paging, Depends()]
