"""What a figure is: one row of the table, declared."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

Probe = Callable[[int], float]
"""Does so many operations and returns the figure of one of them, in the unit of its row."""

Client = Callable[..., AbstractContextManager[Probe]]
"""Takes an `Address` and the options of its side; everything before the first probe is not measured."""


class UnmeasurableError(Exception):
    """Why there is no figure here; stands in the table in its place."""


@dataclass(frozen=True)
class Address:
    """Where a server is, and which processes it is made of.

    Attributes:
        server: process ID of the server itself.
        worker: process ID of the first process of the worker host, where there is one.
    """

    url: str = ""
    token: str = ""
    server: int = 0
    worker: int = 0


@dataclass(frozen=True)
class Backend:
    """A backend of venvd, started by the engine: `kind` is http, pipe or rpc; `venv` one of `ground.VENVS`."""

    kind: str
    venv: str = "bare"


@dataclass(frozen=True)
class Program:
    """A program of this package that prints its address.

    Attributes:
        module: its name.
        beside: on Docker it runs in the server image of this backend, on the same network: the same CPython, the same
            libraries, the same way there. Such a program takes a host and a port, and nothing else of this package.
    """

    module: str
    beside: Backend | None = None


@dataclass(frozen=True)
class Side:
    """One side of a comparison: who asks whom."""

    client: Client
    server: Backend | Program | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        name: what is measured.
        floor: in words, what it is compared with.
        sides: the floor's and ours, in that order.
        unit: of both figures.
        batch: operations of one batch; batches of both sides alternate.
        reach: the ratio of ours to the floor that is wanted; None for what is only shown.
        stretch: the ratio that would be better still.
        better: `lower` or `higher`.
        pinned: whether everything, both ends of both sides, runs on one core.
        rounds: pairs of batches, by default.
        note: what a reader of the row should know.
    """

    name: str
    floor: str
    sides: tuple[Side, Side]
    unit: str = "µs"
    batch: int = 200
    reach: float | None = None
    stretch: float | None = None
    better: str = "lower"
    pinned: bool = True
    rounds: int = 40
    note: str = ""
    group: str = "venvd"
