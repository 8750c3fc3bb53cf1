"""`venvd operation …`."""

from __future__ import annotations

import click

from venvd._cli.command import Group, State, complete_names, fields, pass_state, table
from venvd._cli.progress import wait
from venvd_contract.resources import OperationInfo


@click.group(cls=Group)
def operation() -> None:
    """Operations: builds, starts and other long jobs."""


def _rows(operations: list[OperationInfo]) -> str:
    shown = [(item.id, item.kind, item.target, item.state, item.createdAt) for item in operations]
    return table(("id", "kind", "target", "state", "created"), shown)


def _details(info: OperationInfo) -> str:
    error = (info.error or {}).get("detail")
    phases = ", ".join(phase.name for phase in info.phases)
    return fields(
        [
            ("id", info.id),
            ("kind", info.kind),
            ("target", info.target),
            ("state", info.state),
            ("created", info.createdAt),
            ("started", info.startedAt),
            ("ended", info.endedAt),
            ("phases", phases),
            ("error", error),
        ]
    )


@operation.command("list")
@pass_state
def list_(state: State) -> None:
    """List the operations."""
    operations = state.controller.operations.list()
    state.show(operations, _rows(operations))


@operation.command("status")
@click.argument("id", shell_complete=complete_names("operations"))
@pass_state
def status(state: State, id: str) -> None:  # noqa: A002
    """Show one operation."""
    info = state.controller.operations.get(id)
    state.show(info, _details(info))


@operation.command("wait")
@click.argument("id", shell_complete=complete_names("operations"))
@pass_state
def wait_(state: State, id: str) -> None:  # noqa: A002
    """Follow an operation until it is done. Exit code 1 if it fails. Ctrl-C cancels it."""
    wait(state, state.controller.operations.get(id))
    info = state.controller.operations.get(id)
    state.show(info, _details(info))


@operation.command("cancel")
@click.argument("id", shell_complete=complete_names("operations"))
@pass_state
def cancel(state: State, id: str) -> None:  # noqa: A002
    """Cancel an operation."""
    state.controller.operations.cancel(id)
    info = state.controller.operations.get(id)
    state.show(info, f"{id} is {info.state}")
