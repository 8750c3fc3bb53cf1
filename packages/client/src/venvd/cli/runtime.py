"""`venvd runtime …`, and the short word `init`."""

from __future__ import annotations

from typing import Any

import click

import venvd
from venvd.cli.command import Group, State, names, pass_state, table
from venvd.cli.progress import Progress, wait
from venvd_contract.resources import Runtime


@click.group(cls=Group)
def runtime() -> None:
    """Runtimes: pinned CPythons."""


def rows(found: list[Runtime]) -> str:
    return table(
        ("version", "resolved", "state", "default", "error"),
        [(item.version, item.resolvedVersion, item.state, "yes" if item.default else "", item.error) for item in found],
    )


def _find(state: State, version: str) -> Runtime:
    found = [item for item in state.controller.runtimes.list() if item.version == version]
    if not found:
        raise venvd.NotFound(f'there is no runtime "{version}": `venvd init {version}` makes it')
    return found[0]


@runtime.command("init")
@click.argument("version", required=False)
@click.option("--default", "as_default", is_flag=True, help="Venvs that name no Python get this one.")
@click.option("--no-wait", is_flag=True, help="Return at once; the operation goes on.")
@pass_state
def init(state: State, version: str | None, as_default: bool, no_wait: bool) -> None:
    """Make a runtime ready: VERSION, such as 3.13, or the newest that the engine has."""
    runtimes = state.controller.runtimes
    if version is None:
        if no_wait:
            raise click.UsageError("--no-wait needs a VERSION: the newest is found by trying")
        version = runtimes.newest(Progress())
    else:
        change = runtimes.init(version)
        if no_wait:
            state.show(change, f"{version}: {change.runtime.state}")
            return
        wait(state, change.operation)
    if as_default:
        runtimes.set_default(version)
    made = _find(state, version)
    state.show(made, f"CPython {made.resolvedVersion} is {made.state}" + (" (default)" if made.default else ""))


@runtime.command("list")
@pass_state
def list_(state: State) -> None:
    """List the runtimes."""
    found = state.controller.runtimes.list()
    state.show(found, rows(found))


@runtime.command("status")
@click.argument("version", shell_complete=names("runtimes"))
@pass_state
def status(state: State, version: str) -> None:
    """One runtime."""
    found = _find(state, version)
    state.show(found, rows([found]))


@runtime.command("default")
@click.argument("version", shell_complete=names("runtimes"))
@pass_state
def default(state: State, version: str) -> None:
    """Choose the runtime of venvs that name none."""
    found = state.controller.runtimes.set_default(version)
    state.show(found, f"{version} is the default")


@runtime.command("delete")
@click.argument("version", shell_complete=names("runtimes"))
@pass_state
def delete(state: State, version: str) -> None:
    """Remove a runtime that no venv uses."""
    state.controller.runtimes.delete(version)
    gone: dict[str, Any] = {"version": version, "deleted": True}
    state.show(gone, f"{version} is removed")
