"""Parts that the commands share: `--json`, the controller, and output on stdout or stderr."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import click

import venvd
from venvd._cli.terminal import write
from venvd_contract.framing import Number

_LONGEST_CELL = 160


class State:
    """The state of one run of the program.

    Attributes:
        url: the controller's URL, if an option gives it.
        token: the controller's token, if an option gives it.
        json: whether to print one JSON object or array on stdout.
    """

    def __init__(self) -> None:
        self.url: str | None = None
        self.token: str | None = None
        self.json = False
        self._shown = False

    @functools.cached_property
    def controller(self) -> venvd.Controller:
        """The client of the controller. Raises `NoController` if none is known."""
        return venvd.Controller(self.url, self.token)

    def close(self) -> None:
        """Close the connections to the controller, if there are any."""
        if "controller" in self.__dict__:
            self.controller.close()

    def show(self, data: Any, text: str | None = None) -> None:
        """Print a result on stdout: as JSON with `--json`, else as its text, if it has one."""
        if self.json:
            self._shown = True
            write(json.dumps(data, default=to_json, ensure_ascii=False, indent=2))
        elif text is not None:
            write(text)

    def show_error(self, error: venvd.VenvdError) -> None:
        """With `--json`, print an error as the object on stdout: problem details without the fields of HTTP."""
        if self.json and not self._shown:
            problem = error.problem()
            self.show({name: value for name, value in problem.items() if name not in {"type", "status"}})

    def say(self, text: str) -> None:
        """Print a message for the user on stderr."""
        write(text, err=True)


def to_json(value: Any) -> Any:
    """Convert a dataclass, or a number that Python writes as text, for JSON."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Number) and math.isfinite(number := float(value.text)):
        return number
    return str(value)


pass_state = click.make_pass_decorator(State, ensure=True)


def wants_json(words: Sequence[str]) -> bool:
    """Return whether a command line asks for JSON. Works before parsing, so that usage errors are JSON too."""
    before_code = words[: words.index("--")] if "--" in words else words
    return "--json" in before_code


def _set_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    if value:
        context.ensure_object(State).json = True


class Command(click.Command):
    """A command with `--json`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        option = click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_set_json,
            help="Print one JSON object or array on stdout.",
        )
        self.params.append(option)


class Group(click.Group):
    """A group whose commands have `--json`. The error for an unknown command lists the known ones."""

    command_class = Command
    group_class = type

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            if self.get_command(ctx, args[0]) is not None:
                raise
            known = ", ".join(self.list_commands(ctx))
            raise click.UsageError(f"{error.message} It is one of: {known}.", ctx) from None


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as text in aligned columns."""
    if not rows:
        return "none"
    cells = [[str(heading).upper() for heading in headings]]
    cells += [["-" if cell in (None, "") else str(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
    return "\n".join(line.rstrip() for line in lines)


def shorten(text: str | None) -> str | None:
    """Return the first line of a text, short enough for a table."""
    line = (text or "").partition("\n")[0]
    return f"{line[: _LONGEST_CELL - 1]}…" if len(line) > _LONGEST_CELL else line or None


def fields(pairs: Sequence[tuple[str, Any]]) -> str:
    """Return names and values as lines of text. Leave out empty values."""
    shown = [(name, value) for name, value in pairs if value not in {None, ""}]
    width = max((len(name) for name, _ in shown), default=0)
    return "\n".join(f"{name.ljust(width)}  {value}" for name, value in shown)


def complete_names(kind: str) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """Return a completion for the names of `venvs`, `backends` and the like. It is empty if no controller answers."""

    def complete(context: click.Context, _: click.Parameter, incomplete: str) -> list[str]:
        state = context.find_object(State) or State()
        try:
            items = getattr(state.controller, kind).list()
        except venvd.VenvdError:
            return []
        words = [getattr(item, "name", None) or getattr(item, "version", None) or item.id for item in items]
        return [word for word in words if word.startswith(incomplete)]

    return complete
