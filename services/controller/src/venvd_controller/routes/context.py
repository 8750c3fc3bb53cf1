"""What routes share: the program, bodies, paging."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Generic, TypeVar

from fastapi import Body, Depends, Query, Request
from pydantic import BeforeValidator

from venvd_controller.program import Program
from venvd_controller.requests import cleaned

T = TypeVar("T")


def _program(request: Request) -> Program:
    program: Program = request.app.state.program
    return program


Here = Annotated[Program, Depends(_program)]
Json = Annotated[T, Body(), BeforeValidator(cleaned)]
"""A body: absent and null are the same."""


@dataclass
class PageOf(Generic[T]):
    """`Page` of the contract, told to the schema with what is in it."""

    items: list[T]
    next: str | None = None


@dataclass(frozen=True)
class Paging:
    """Which part of a list is asked for."""

    limit: Annotated[int, Query(ge=1, le=1000)] = 100
    after: Annotated[str | None, Query(description="`next` of the page before", max_length=200)] = None

    @property
    def and_one(self) -> int:
        """One more than is shown, to see whether there is another page."""
        return self.limit + 1

    def page(self, items: Sequence[T], key: str) -> PageOf[T]:
        """The page of `items`, which begin after `after`; `key` names the attribute that lists are ordered by."""
        found = list(items[: self.limit])
        return PageOf(found, getattr(found[-1], key) if len(items) > self.limit else None)


Part = Annotated[Paging, Depends()]
