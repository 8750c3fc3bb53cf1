"""`venvd operation …`."""

from __future__ import annotations

import click

from venvd.cli.command import Group, State, fields, names, pass_state, table
from venvd.cli.progress import wait
from venvd_contract.resources import OperationInfo


@click.group(cls=Group)
def operation() -> None:
    """Operations: builds, starts and other long work."""


def _rows(found: list[OperationInfo]) -> str:
    shown = [(item.id, item.kind, item.target, item.state, item.createdAt) for item in found]
    return table(("id", "kind", "target", "state", "created"), shown)


def _details(found: OperationInfo) -> str:
    error = (found.error or {}).get("detail")
    phases = ", ".join(phase.name for phase in found.phases)
    return fields(
        [
            ("id", found.id),
            ("kind", found.kind),
            ("target", found.target),
            ("state", found.state),
            ("created", found.createdAt),
            ("started", found.startedAt),
            ("ended", found.endedAt),
            ("phases", phases),
            ("error", error),
        ]
    )


@operation.command("list")
@pass_state
def list_(state: State) -> None:
    """List the operations."""
    found = state.controller.operations.list()
    state.show(found, _rows(found))


@operation.command("status")
@click.argument("id", shell_complete=names("operations"))
@pass_state
def status(state: State, id: str) -> None:  # noqa: A002
    """One operation."""
    found = state.controller.operations.get(id)
    state.show(found, _details(found))


@operation.command("wait")
@click.argument("id", shell_complete=names("operations"))
@pass_state
def wait_(state: State, id: str) -> None:  # noqa: A002
    """Follow an operation until it is done; exit code 1 where it fails. Ctrl-C cancels it."""
    wait(state, state.controller.operations.get(id))
    found = state.controller.operations.get(id)
    state.show(found, _details(found))


@operation.command("cancel")
@click.argument("id", shell_complete=names("operations"))
@pass_state
def cancel(state: State, id: str) -> None:  # noqa: A002
    """Cancel an operation."""
    state.controller.operations.cancel(id)
    found = state.controller.operations.get(id)
    state.show(found, f"{id} is {found.state}")
