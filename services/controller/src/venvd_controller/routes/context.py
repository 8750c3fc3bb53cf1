"""What routes share: the program, paging, event streams."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any

from fastapi import Depends, Query, Request
from fastapi.responses import StreamingResponse

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import Event, Page
from venvd_controller.program import Program


def _program(request: Request) -> Program:
    program: Program = request.app.state.program
    return program


def _paging(limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: str | None = None) -> tuple[int, str | None]:
    return limit, after


Here = Annotated[Program, Depends(_program)]
Paging = Annotated[tuple[int, str | None], Depends(_paging)]


def page(items: Sequence[Any], key: str, paging: tuple[int, str | None]) -> Page:
    """One page of items; `next` is the key of its last one where more follow.

    Raises:
        InvalidRequest: `after` names nothing that is there.
    """
    limit, after = paging
    start = 0
    if after is not None:
        keys = [getattr(item, key) for item in items]
        if after not in keys:
            raise InvalidRequest(f'after: there is no "{after[:80]}" in this list any more; begin again')
        start = keys.index(after) + 1
    found = list(items[start : start + limit])
    more = start + limit < len(items)
    return Page(found, getattr(found[-1], key) if more else None)


def event_stream(events: Iterable[Event | None]) -> StreamingResponse:
    """Events as server-sent events; None becomes a comment that keeps the connection open."""

    def lines() -> Iterator[str]:
        for event in events:
            if event is None:
                yield ": still here\n\n"
            else:
                yield f"id: {event.id}\nevent: {event.kind}\ndata: {json.dumps(event.data)}\n\n"

    return StreamingResponse(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
