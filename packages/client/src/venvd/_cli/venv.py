"""`venvd venv …` and `venvd providers`."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from venvd._cli import installed
from venvd._cli.command import Group, State, complete_names, fields, pass_state, shorten, table
from venvd._cli.network import Network, describe_network, network_options
from venvd._cli.progress import Progress, wait
from venvd._cli.venv_changes import add_requirements, put_venv, remove_requirements
from venvd.errors import NotFound
from venvd_contract.resources import BACKEND_TYPES, Provider, ProviderSpec, Venv, VenvChange, VenvSpec
from venvd_contract.server_settings import parse_server_setting

ADMIN_VENV = "admin"
"""The usual name of the administrative venv."""


@click.group(cls=Group)
def venv() -> None:
    """Venvs: a runtime and requirements, locked and built."""


def rows(venvs: Sequence[Venv]) -> str:
    headings = ["name", "python", "state", "requirements"]
    shown = [[item.name, item.python or item.spec.python, item.state, len(item.spec.requirements)] for item in venvs]
    if any(item.error for item in venvs):
        headings.append("error")
        shown = [[*row, shorten(item.error)] for row, item in zip(shown, venvs, strict=True)]
    return table(headings, shown)


def details(venv_info: Venv) -> str:
    return fields(
        [
            ("name", venv_info.name),
            ("state", venv_info.state),
            ("python", venv_info.python or venv_info.spec.python or "default"),
            ("path", venv_info.spec.path),
            ("requirements", " ".join(venv_info.spec.requirements)),
            ("apt packages", " ".join(venv_info.spec.aptPackages)),
            ("preload", " ".join(venv_info.spec.preload)),
            ("network", describe_network(venv_info.spec.network)),
            ("OCI runtime", venv_info.spec.ociRuntime),
            (".NET", "yes" if venv_info.spec.dotnet else None),
            ("assemblies", venv_info.spec.assemblies),
            ("image", venv_info.image),
            ("error", venv_info.error),
        ]
    )


def parse_pairs(given: Sequence[str]) -> dict[str, str]:
    """Parse `NAME=VALUE` words."""
    values = {}
    for word in given:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise click.UsageError(f'"{word}" should be NAME=VALUE')
        values[name] = value
    return values


def parse_server_settings(given: Sequence[str]) -> dict[str, Any]:
    """Parse `NAME=VALUE` words of settings of a server."""
    return {name: parse_server_setting(name, value) for name, value in parse_pairs(given).items()}


def read_requirements(path: Path) -> list[str]:
    """Read the requirements in a file without comments and empty lines. The controller refuses options."""
    lines = (line.split(" #")[0].strip() for line in _read_text(path).splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError(f"{path} is not UTF-8") from None


_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_SPEC_OPTIONS = (
    click.option("--python", help="Version of CPython, such as 3.13. Default: the default runtime."),
    click.option(
        "-r", "--requirement", "requirements", multiple=True, help="A requirement such as 'numpy>=2'. Repeatable."
    ),
    click.option(
        "--requirements-file",
        type=_FILE,
        help="A file with one requirement to a line.",
    ),
    click.option(
        "--pyproject", type=_FILE, help="A pyproject.toml, whose dependencies are required; see --extra and --group."
    ),
    click.option("--extra", "extras", multiple=True, help="An extra of the pyproject.toml. Repeatable."),
    click.option("--group", "groups", multiple=True, help="A dependency group of the pyproject.toml. Repeatable."),
    click.option(
        "--constraint",
        "constraints",
        type=_FILE,
        multiple=True,
        help="A file with versions that packages must have. Repeatable.",
    ),
    click.option(
        "--lock", type=_FILE, help="A requirements file with pinned versions and hashes, which is installed as it is."
    ),
    click.option(
        "--check", "checks", multiple=True, help="A module that must be importable in the built venv. Repeatable."
    ),
    click.option("--apt-package", "apt_packages", multiple=True, help="A Debian package. Repeatable."),
    click.option("--preload", multiple=True, help="A module to import before the first session. Repeatable."),
    network_options("Default: none."),
    click.option(
        "--oci-runtime",
        metavar="NAME",
        help="The OCI runtime of the worker hosts of its backends, such as runsc. For operators.",
    ),
    click.option(
        "--env", multiple=True, metavar="NAME=VALUE", help="An environment variable of user code. Repeatable."
    ),
    click.option("--label", "labels", multiple=True, metavar="NAME=VALUE", help="A label. Repeatable."),
    click.option(
        "--server",
        multiple=True,
        metavar="NAME=VALUE",
        help="A setting of the servers of its backends, such as maxSessions=8. Repeatable.",
    ),
    click.option("--dotnet", is_flag=True, help="Add Python.NET and a .NET runtime."),
    click.option(
        "--assemblies",
        metavar="DIR",
        help="A directory on the controller's host with .NET assemblies, below one of its VENVD_HOST_DIRS.",
    ),
    click.option("--no-wait", is_flag=True, help="Return at once. The build keeps running."),
)
"""The options of a venv's specification; `_spec` reads all but the last."""


def spec_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a venv's specification."""
    for option in reversed(_SPEC_OPTIONS):
        command = option(command)
    return command


@venv.command("create")
@click.argument("name")
@click.argument("model", required=False)
@click.option(
    "--upgrade",
    is_flag=True,
    help="Resolve the newest versions again. Without other options, the venv keeps its specification.",
)
@click.option(
    "--venv",
    "folder",
    metavar="PATH",
    help="Use this virtual environment: as it is on the local engine, else by the packages that are installed in it.",
)
@spec_options
@pass_state
def create(
    state: State,
    /,
    name: str,
    model: str | None,
    upgrade: bool,
    folder: str | None,
    no_wait: bool,
    **options: Any,
) -> None:
    """Create or change the venv NAME. An unchanged venv is not built again.

    With a MODEL, NAME is a provider: the venv has the stable name and the labels of `venvd venv ensure`.
    """
    spec = _spec(**options)
    if folder is not None:
        spec = _add_folder(state, spec, Path(folder))
    controller = state.controller
    if upgrade and not model and spec == VenvSpec():
        spec = controller.venvs.get(name).spec
    _ensure_runtime(state, spec, no_wait=no_wait)
    if model:
        change = controller.ensure_provider(name, model, spec, upgrade=upgrade)
    else:
        change = put_venv(state, name, spec, upgrade=upgrade)
    _show_built(state, change, no_wait=no_wait)


@venv.command("add")
@click.argument("name", shell_complete=complete_names("venvs"))
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Return at once. The build keeps running.")
@pass_state
def add(state: State, name: str, packages: Sequence[str], no_wait: bool) -> None:
    """Add requirements to the venv NAME: each PACKAGE takes the place of one for the same package."""
    spec = add_requirements(state.controller.venvs.get(name).spec, packages)
    _show_built(state, put_venv(state, name, spec), no_wait=no_wait)


@venv.command("remove")
@click.argument("name", shell_complete=complete_names("venvs"))
@click.argument("packages", metavar="PACKAGE...", nargs=-1, required=True)
@click.option("--no-wait", is_flag=True, help="Return at once. The build keeps running.")
@pass_state
def remove(state: State, name: str, packages: Sequence[str], no_wait: bool) -> None:
    """Remove the requirements for each PACKAGE from the venv NAME."""
    spec = remove_requirements(state.controller.venvs.get(name).spec, packages)
    _show_built(state, put_venv(state, name, spec), no_wait=no_wait)


@venv.command("admin")
@click.argument("name", default=ADMIN_VENV)
@click.option(
    "--start",
    "backend_type",
    type=click.Choice(BACKEND_TYPES, case_sensitive=False),
    help="Also start a backend of this type, whose sessions may manage all venvs. For admins.",
)
@spec_options
@pass_state
def admin(state: State, /, name: str, backend_type: str | None, no_wait: bool, **options: Any) -> None:
    """Create the administrative venv: Python.NET with a .NET runtime, numpy, and the assemblies of the operator.

    A backend of it that manages all venvs is started with --start, or later with `venvd start TYPE NAME --manages '*'`.
    """
    if no_wait and backend_type:
        raise click.UsageError("--start needs the built venv: leave --no-wait out")
    spec = _spec(**options)
    spec.dotnet = True
    if not any(re.match(r"numpy\b", line.strip(), re.IGNORECASE) for line in spec.requirements):
        spec.requirements = [*spec.requirements, "numpy"]
    _ensure_runtime(state, spec, no_wait=no_wait)
    change = state.controller.venvs.put(name, spec)
    if backend_type is None:
        _show_built(state, change, no_wait=no_wait)
        return
    wait(state, change.operation)
    started = state.controller.backends.start(backend_type.lower(), venv=name, manages=["*"])
    wait(state, started.operation)
    running = state.controller.backends.get(started.backend.name)
    shown = {each: getattr(running, each) for each in ("name", "type", "venv", "url", "token", "state")}
    state.show(shown, fields(list(shown.items())))


@venv.command("ensure")
@click.argument("provider")
@click.option("--model", help="The provider's model.")
@click.option("--upgrade", is_flag=True, help="Resolve the newest versions again.")
@spec_options
@pass_state
def ensure(state: State, /, provider: str, model: str | None, upgrade: bool, no_wait: bool, **options: Any) -> None:
    """Ensure the venv of a PROVIDER: it has a stable name, and at least the packages asked for.

    Packages and options change a venv that exists; without any, it stays as it is.
    """
    spec = _spec(**options)
    _ensure_runtime(state, spec, no_wait=no_wait)
    change = state.controller.ensure_provider(provider, model, spec, upgrade=upgrade)
    _show_built(state, change, no_wait=no_wait)


def _add_folder(state: State, spec: VenvSpec, folder: Path) -> VenvSpec:
    """Return a specification that includes a virtual environment of the host: by its path, or by its packages."""
    if not installed.is_path(str(folder)):
        raise click.UsageError(f'--venv takes an absolute path, such as /srv/app/.venv, not "{folder}"')
    if state.controller.status().engine == "local":
        return dataclasses.replace(spec, path=str(folder))
    if spec.requirements or spec.python or spec.lock:
        raise click.UsageError(
            "--venv brings the Python and the packages; leave --python, --requirement and --lock out"
        )
    installed_spec = installed.read_spec(folder)
    return dataclasses.replace(spec, python=installed_spec.python, requirements=installed_spec.requirements)


def take_path(state: State, folder: Path) -> str:
    """Make the venv of a virtual environment of the host, and return its name once it is ready."""
    name = installed.make_name(folder)
    venvs = state.controller.venvs
    try:
        stored = venvs.get(name).spec
    except NotFound:
        stored = VenvSpec()
    other_fields = dataclasses.replace(stored, python=None, requirements=[], path=None)
    wait(state, venvs.put(name, _add_folder(state, other_fields, folder)).operation)
    return name


def _ensure_runtime(state: State, spec: VenvSpec, *, no_wait: bool) -> None:
    if spec.python is None and spec.path is None and not no_wait:
        state.controller.runtimes.ensure(None, Progress())


def _show_built(state: State, change: VenvChange, *, no_wait: bool) -> None:
    """Wait for the build of a venv and show the venv."""
    name = change.venv.name
    if no_wait:
        state.show(change, f"{name}: {change.venv.state}")
        return
    wait(state, change.operation)
    info = state.controller.venvs.get(name)
    state.show(info, f"{name} is {info.state} (CPython {info.python})")
    backends = [item for item in state.controller.backends.list() if item.venv == name and item.outdated]
    outdated = [item.name for item in backends if item.spec.update != "rolling"]
    if outdated:
        restarts = " && ".join(f"venvd restart {each}" for each in outdated)
        state.say(f"{', '.join(outdated)}: still with the earlier build, until `{restarts}`")


def _spec(
    *,
    python: str | None,
    requirements: Sequence[str],
    requirements_file: Path | None,
    pyproject: Path | None,
    extras: Sequence[str],
    groups: Sequence[str],
    constraints: Sequence[Path],
    lock: Path | None,
    checks: Sequence[str],
    apt_packages: Sequence[str],
    preload: Sequence[str],
    network: Network,
    oci_runtime: str | None,
    env: Sequence[str],
    labels: Sequence[str],
    server: Sequence[str],
    dotnet: bool,
    assemblies: str | None,
) -> VenvSpec:
    file = next((word for word in requirements if word.lower().endswith(".txt")), None)
    if file is not None:
        raise click.UsageError(f'"{file}" is no requirement; for a file use --requirements-file "{file}"')
    lines = [*requirements, *(read_requirements(requirements_file) if requirements_file else ())]
    return VenvSpec(
        python=python,
        requirements=lines,
        aptPackages=list(apt_packages),
        preload=list(preload),
        network=network or False,
        ociRuntime=oci_runtime,
        env=parse_pairs(env),
        labels=parse_pairs(labels),
        server=parse_server_settings(server),
        constraints=[line for path in constraints for line in read_requirements(path)],
        lock=_read_text(lock) if lock else None,
        pyproject=_read_text(pyproject) if pyproject else None,
        extras=list(extras),
        groups=list(groups),
        checks=list(checks),
        dotnet=dotnet,
        assemblies=assemblies and str(Path(assemblies).absolute()),
    )


@venv.command("list")
@pass_state
def list_(state: State) -> None:
    """List the venvs."""
    venvs = state.controller.venvs.list()
    state.show(venvs, rows(venvs))


@venv.command("status")
@click.argument("name", shell_complete=complete_names("venvs"))
@pass_state
def status(state: State, name: str) -> None:
    """Show one venv."""
    info = state.controller.venvs.get(name)
    state.show(info, details(info))


@venv.command("delete")
@click.argument("name", shell_complete=complete_names("venvs"))
@pass_state
def delete(state: State, name: str) -> None:
    """Remove a venv that no backend uses."""
    state.controller.venvs.delete(name)
    state.show({"name": name, "deleted": True}, f"{name} is removed")


@venv.command("packages")
@click.argument("name", shell_complete=complete_names("venvs"))
@pass_state
def packages(state: State, name: str) -> None:
    """List the packages in a venv."""
    listed = state.controller.venvs.packages(name)
    state.show(listed, table(("package", "version"), [(item.name, item.version) for item in listed]))


@venv.command("lock")
@click.argument("name", shell_complete=complete_names("venvs"))
@pass_state
def lock(state: State, name: str) -> None:
    """Print the requirements, pinned with hashes, that a venv was built from."""
    text = state.controller.venvs.lock(name)
    state.show({"name": name, "lock": text}, text.rstrip())


@click.group("providers", cls=Group)
def providers() -> None:
    """Providers, whose venvs have stable names."""


providers.add_command(ensure)


@providers.command("set")
@click.argument("provider")
@click.option("--python", help="Version of CPython for new venvs. Default: the default runtime.")
@click.option("-r", "--requirement", "requirements", multiple=True, help="A requirement. Repeatable.")
@click.option("--requirements-file", type=_FILE, help="A file with one requirement to a line.")
@click.option("--apt-package", "apt_packages", multiple=True, help="A Debian package. Repeatable.")
@pass_state
def set_(
    state: State,
    provider: str,
    python: str | None,
    requirements: Sequence[str],
    requirements_file: Path | None,
    apt_packages: Sequence[str],
) -> None:
    """Set what the venvs of a PROVIDER need. The next `venvd venv ensure` applies it."""
    lines = [*requirements, *(read_requirements(requirements_file) if requirements_file else ())]
    info = state.controller.providers.put(provider, ProviderSpec(lines, list(apt_packages), python))
    state.show(info, _format_providers([info]))


@providers.command("list")
@pass_state
def list_providers(state: State) -> None:
    """List the providers and what their venvs need."""
    listed = state.controller.providers.list()
    state.show(listed, _format_providers(listed))


@providers.command("delete")
@click.argument("provider", shell_complete=complete_names("providers"))
@pass_state
def delete_provider(state: State, provider: str) -> None:
    """Forget what the venvs of a PROVIDER need. The venvs stay."""
    state.controller.providers.delete(provider)
    state.show({"name": provider, "deleted": True}, f"{provider} is removed; its venvs stay")


def _format_providers(listed: Sequence[Provider]) -> str:
    shown = [
        (item.name, item.spec.python, " ".join(item.spec.requirements), " ".join(item.spec.aptPackages))
        for item in listed
    ]
    return table(("name", "python", "requirements", "apt packages"), shown)
