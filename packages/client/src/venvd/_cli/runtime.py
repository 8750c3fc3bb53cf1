"""`venvd runtime …`, and the short word `init`."""

from __future__ import annotations

from typing import Any

import click

import venvd
from venvd._cli.command import Group, State, complete_names, pass_state, table
from venvd._cli.progress import Progress, wait
from venvd_contract.resources import Runtime


@click.group(cls=Group)
def runtime() -> None:
    """Runtimes: pinned CPythons."""


def rows(runtimes: list[Runtime]) -> str:
    return table(
        ("version", "resolved", "state", "default", "error"),
        [
            (item.version, item.resolvedVersion, item.state, "yes" if item.default else "", item.error)
            for item in runtimes
        ],
    )


def _find(state: State, version: str) -> Runtime:
    matches = [item for item in state.controller.runtimes.list() if item.version == version]
    if not matches:
        raise venvd.NotFound(f'there is no runtime "{version}": make it with `venvd init {version}`')
    return matches[0]


@runtime.command("init")
@click.argument("version", required=False)
@click.option("--default", "as_default", is_flag=True, help="Use it for venvs that name no Python.")
@click.option("--no-wait", is_flag=True, help="Return at once. The operation keeps running.")
@pass_state
def init(state: State, version: str | None, as_default: bool, no_wait: bool) -> None:
    """Make the runtime VERSION ready, such as 3.13. Default: the newest that the engine has."""
    runtimes = state.controller.runtimes
    if version is None:
        if no_wait:
            raise click.UsageError("--no-wait needs a VERSION: finding the newest takes several operations")
        version = runtimes.newest(Progress())
    else:
        change = runtimes.init(version)
        if no_wait:
            state.show(change, f"{version}: {change.runtime.state}")
            return
        wait(state, change.operation)
    if as_default:
        runtimes.set_default(version)
    info = _find(state, version)
    state.show(info, f"CPython {info.resolvedVersion} is {info.state}{_describe_default(state, info)}")


def _describe_default(state: State, info: Runtime) -> str:
    """Say whether a runtime is the default. The first `init` chooses the default, and a later one keeps it."""
    if info.default:
        return ", and the default of venvs that name no Python"
    chosen = next((item.version for item in state.controller.runtimes.list() if item.default), None)
    return f"; {chosen} stays the default (venvd runtime default {info.version} changes it)" if chosen else ""


@runtime.command("list")
@pass_state
def list_(state: State) -> None:
    """List the runtimes."""
    listed = state.controller.runtimes.list()
    state.show(listed, rows(listed))


@runtime.command("status")
@click.argument("version", shell_complete=complete_names("runtimes"))
@pass_state
def status(state: State, version: str) -> None:
    """Show one runtime."""
    info = _find(state, version)
    state.show(info, rows([info]))


@runtime.command("default")
@click.argument("version", shell_complete=complete_names("runtimes"))
@pass_state
def default(state: State, version: str) -> None:
    """Choose the runtime of venvs that name none."""
    info = state.controller.runtimes.set_default(version)
    state.show(info, f"{version} is the default")


@runtime.command("delete")
@click.argument("version", shell_complete=complete_names("runtimes"))
@pass_state
def delete(state: State, version: str) -> None:
    """Remove a runtime that no venv uses."""
    state.controller.runtimes.delete(version)
    result: dict[str, Any] = {"version": version, "deleted": True}
    state.show(result, f"{version} is removed")
