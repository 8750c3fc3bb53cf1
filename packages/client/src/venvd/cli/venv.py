"""`venvd venv …` and `venvd providers`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from venvd.cli.command import Group, State, fields, names, pass_state, table
from venvd.cli.progress import Progress, wait
from venvd_contract.resources import Venv, VenvSpec


@click.group(cls=Group)
def venv() -> None:
    """Venvs: a runtime and requirements, locked and built."""


def rows(venvs: Sequence[Venv]) -> str:
    shown = [(item.name, item.python or item.spec.python, item.state, len(item.spec.requirements)) for item in venvs]
    return table(("name", "python", "state", "requirements"), shown)


def details(found: Venv) -> str:
    return fields(
        [
            ("name", found.name),
            ("state", found.state),
            ("python", found.python or found.spec.python or "default"),
            ("requirements", " ".join(found.spec.requirements)),
            ("apt packages", " ".join(found.spec.aptPackages)),
            ("preload", " ".join(found.spec.preload)),
            ("network", "allowed" if found.spec.network else None),
            ("image", found.image),
            ("error", found.error),
        ]
    )


def pairs(given: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` words as a dict."""
    found = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f'"{word}" should be NAME=VALUE')
        found[name] = value
    return found


def requirement_lines(path: Path) -> list[str]:
    """The requirements of a file without comments and empty lines; options are left for the controller to refuse."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8") from None
    lines = (line.split(" #")[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@venv.command("create")
@click.argument("name")
@click.option("--python", help="Version of CPython, such as 3.13; absent is the default runtime.")
@click.option("-r", "--requirement", "requirements", multiple=True, help="Such as 'numpy>=2'; repeatable.")
@click.option(
    "--requirements-file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A file with one requirement to a line.",
)
@click.option("--apt-package", "apt_packages", multiple=True, help="A Debian package; repeatable.")
@click.option("--preload", multiple=True, help="A module imported before the first session; repeatable.")
@click.option("--network", is_flag=True, help="User code may reach the network.")
@click.option("--env", multiple=True, metavar="NAME=VALUE", help="An environment variable of user code; repeatable.")
@click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label; repeatable.")
@click.option("--no-wait", is_flag=True, help="Return at once; the build goes on.")
@pass_state
def create(state: State, /, name: str, no_wait: bool, **asked: Any) -> None:
    """Create the venv NAME, or change it to what is said here; unchanged it costs nothing."""
    spec = _spec(**asked)
    if spec.python is None and not no_wait:
        state.controller.runtimes.ensure(None, Progress())
    change = state.controller.venvs.put(name, spec)
    if no_wait:
        state.show(change, f"{name}: {change.venv.state}")
        return
    wait(state, change.operation)
    made = state.controller.venvs.get(name)
    state.show(made, f"{name} is {made.state} (CPython {made.python})")


def _spec(
    *,
    python: str | None,
    requirements: Sequence[str],
    requirements_file: Path | None,
    apt_packages: Sequence[str],
    preload: Sequence[str],
    network: bool,
    env: Sequence[str],
    labels: Sequence[str],
) -> VenvSpec:
    file = next((word for word in requirements if word.lower().endswith(".txt")), None)
    if file is not None:
        raise click.UsageError(f'"{file}" is no requirement; a file of them is --requirements-file "{file}"')
    lines = [*requirements, *(requirement_lines(requirements_file) if requirements_file else ())]
    return VenvSpec(python, lines, list(apt_packages), list(preload), network, pairs(env), pairs(labels))


@venv.command("list")
@pass_state
def list_(state: State) -> None:
    """List the venvs."""
    found = state.controller.venvs.list()
    state.show(found, rows(found))


@venv.command("status")
@click.argument("name", shell_complete=names("venvs"))
@pass_state
def status(state: State, name: str) -> None:
    """One venv."""
    found = state.controller.venvs.get(name)
    state.show(found, details(found))


@venv.command("delete")
@click.argument("name", shell_complete=names("venvs"))
@pass_state
def delete(state: State, name: str) -> None:
    """Remove a venv that no backend uses."""
    state.controller.venvs.delete(name)
    state.show({"name": name, "deleted": True}, f"{name} is removed")


@venv.command("packages")
@click.argument("name", shell_complete=names("venvs"))
@pass_state
def packages(state: State, name: str) -> None:
    """What is installed in a venv."""
    found = state.controller.venvs.packages(name)
    state.show(found, table(("package", "version"), [(item.name, item.version) for item in found]))


@venv.command("lock")
@click.argument("name", shell_complete=names("venvs"))
@pass_state
def lock(state: State, name: str) -> None:
    """The hash-pinned requirements that a venv was built from."""
    text = state.controller.venvs.lock(name)
    state.show({"name": name, "lock": text}, text.rstrip())


@click.group("providers", cls=Group)
def providers() -> None:
    """Venvs of providers, by provider and model."""


@providers.command("ensure")
@click.argument("provider")
@click.option("--model", help="The provider's model.")
@click.option("--no-wait", is_flag=True, help="Return at once; the build goes on.")
@pass_state
def ensure(state: State, provider: str, model: str | None, no_wait: bool) -> None:
    """Ensure the venv of a provider."""
    change = state.controller.ensure_provider(provider, model)
    if not no_wait:
        wait(state, change.operation)
    found = change.venv if no_wait else state.controller.venvs.get(change.venv.name)
    state.show(found, details(found))
