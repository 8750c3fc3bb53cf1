"""The declaration of one row of the table."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

Probe = Callable[[int], float]
"""Runs a batch of the given number of operations and returns the figure of one operation, in the unit of its row."""

Client = Callable[..., AbstractContextManager[Probe]]
"""Takes an `Address` and the options of its side. Its work before the first batch is not measured."""


class UnmeasurableError(Exception):
    """The reason why a row has no figure; the table shows it instead."""


@dataclass(frozen=True)
class Address:
    """Where a server listens, and its processes.

    Attributes:
        server: process ID of the server itself.
        worker: process ID of the first process of the worker host; 0 if there is none.
    """

    url: str = ""
    token: str = ""
    server: int = 0
    worker: int = 0


@dataclass(frozen=True)
class Backend:
    """A backend of venvd that the engine starts.

    Attributes:
        kind: http, pipe or rpc.
        venv: a key of `testbed.VENVS`.
        engine: its own, where a row compares two; None is the engine of the run.
    """

    kind: str
    venv: str = "bare"
    engine: str | None = None


@dataclass(frozen=True)
class Program:
    """A program of this package that prints its address.

    Attributes:
        module: its name.
        beside: on Docker, the program runs in the server image of this backend and on its network. It then has the same
            CPython, the same libraries and the same path to its clients. Such a program takes a host and a port as
            arguments and imports nothing else of this package.
    """

    module: str
    beside: Backend | None = None


@dataclass(frozen=True)
class Side:
    """One side of a comparison: a client and its server."""

    client: Client
    server: Backend | Program | None = None
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Figure:
    """One row.

    Attributes:
        name: what the row measures.
        floor: what it is compared with, in words.
        sides: the side of the floor, then the side of venvd.
        unit: the unit of both figures.
        batch: operations per batch; batches of both sides alternate.
        reach: the goal, as a ratio of venvd to the floor; None if the row has no goal.
        stretch: a goal beyond `reach`.
        absolute: whether the goals are figures of venvd, in the row's unit, and not ratios.
        better: `lower` or `higher`.
        pinned: whether all processes of both sides run on one core.
        apart: whether clients run on one core and servers on another; for a row that is not pinned.
        rounds: default number of pairs of batches.
        note: a remark for the last column.
    """

    name: str
    floor: str
    sides: tuple[Side, Side]
    unit: str = "µs"
    batch: int = 200
    reach: float | None = None
    stretch: float | None = None
    absolute: bool = False
    better: str = "lower"
    pinned: bool = True
    apart: bool = False
    rounds: int = 40
    note: str = ""
    group: str = "venvd"
