"""The options of `venvd.backend`, and the specifications that it makes of them."""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, TypeVar

from venvd._controller_api import OnEvent, check_backend_type, make_backend_spec
from venvd._progress_line import show_progress
from venvd_contract.resources import BackendLimits, BackendSpec, VenvSpec, check_version


class Options(TypedDict, total=False):
    """The options of `venvd.backend` and `venvd.backend_async`.

    Attributes:
        python: a version such as `3.13`. Default: the controller's default, else the newest that it can provide.
        venv: the name of an existing venv, or for the venv of the requirements. Default: a stable name.
        type: `http` (default), `pipe`, or `rpc` (needs the extra `grpc`).
        name: the backend's name. Default: a new name.
        port: the port to publish on. Default: a free port.
        apt_packages: Debian packages of the venv.
        preload: modules to import before the first session starts.
        constraints: versions that packages must have if they are installed.
        lock: the text of a requirements file with pinned versions and hashes, to install as it is.
        pyproject: the text of a pyproject.toml. Its dependencies join the requirements.
        checks: modules that the venv must be able to import.
        dotnet: whether the venv has Python.NET and a .NET runtime.
        assemblies: a directory on the controller's host with .NET assemblies, below one of its `VENVD_HOST_DIRS`.
        network: what user code may reach: the network, with `"loopback"` only the worker host's own loopback, or a
            list of destinations such as `"example.com"`, `"example.com:8080"` and `"*.example.com"`.
        oci_runtime: the OCI runtime of the worker host, such as `runsc`. Default: that of the venv.
        env: environment variables of user code.
        limits: the limits of the worker host.
        timeout: seconds for calls that name no timeout.
        server: settings of the server, such as `{"maxSessions": 8}` (`venvd_contract.server_settings`).
        queue_limit: how many calls may wait in one session. Default: 1,000.
        ttl: seconds from its creation after which the controller removes the backend. Default: never.
        handle_lease: seconds after which the backend frees handles of clients that name no lease. Default: never.
        replicas: how many launches run behind the backend's name. New sessions go to the least loaded one. Default: 1.
        max_replicas: lets the number of replicas follow their sessions and waiting calls, up to this many.
        min_replicas: the least number of replicas. Default: 1.
        idle_stop: seconds without a call after which the replicas end. The next call starts them again. Default: never.
        drain_timeout: seconds that a replica may keep its sessions when the backend removes it. Default: 300.
        manages: names of venvs that the backend's sessions may manage; `*` stands for any text. For admins.
        controller: the controller's URL. Default: the controller that the environment or the home names, else a new
            one.
        token: the controller's token.
        on_event: takes each event of the operations (`venvd_contract.resources.Event`). Default: a function that
            shows them in one line on stderr if that is a terminal or belongs to a notebook.
    """

    python: str | None
    venv: str | None
    type: str
    name: str | None
    port: int | None
    apt_packages: Sequence[str]
    preload: Sequence[str]
    constraints: Sequence[str]
    lock: str | None
    pyproject: str | None
    checks: Sequence[str]
    dotnet: bool
    assemblies: str | None
    network: bool | Literal["loopback"] | list[str] | None
    oci_runtime: str | None
    env: Mapping[str, str] | None
    limits: BackendLimits | None
    timeout: float | None
    server: Mapping[str, Any] | None
    queue_limit: int | None
    ttl: float | None
    handle_lease: float | None
    replicas: int | None
    max_replicas: int | None
    min_replicas: int | None
    idle_stop: float | None
    drain_timeout: float | None
    manages: Sequence[str] | None
    controller: str | None
    token: str | None
    on_event: OnEvent


_Function = TypeVar("_Function", bound=Callable[..., Any])


def describe_options(function: _Function) -> _Function:
    """Write the options into the docstring of a function that takes them, for `help()`."""
    options = inspect.getdoc(Options) or ""
    function.__doc__ = f"{inspect.getdoc(function)}\n\nOptions:\n{options.partition('Attributes:')[2].strip(chr(10))}"
    return function


@dataclass(frozen=True)
class BackendPlan:
    """The venv and backend that a caller asks for."""

    venv_spec: VenvSpec
    options: Options

    @property
    def venv(self) -> str | None:
        return self.options.get("venv")

    @property
    def on_event(self) -> OnEvent:
        return self.options.get("on_event") or show_progress()

    def backend_spec(self, venv: str) -> BackendSpec:
        """Return the specification of the backend for the venv of that name."""
        options = self.options
        fields: dict[str, Any] = {
            name: options.get(name) for name in ("port", "network", "env", "timeout", "server", "ttl", "replicas")
        }
        fields["queueLimit"] = options.get("queue_limit")
        fields["ociRuntime"] = options.get("oci_runtime")
        fields["handleLease"] = options.get("handle_lease")
        fields["maxReplicas"] = options.get("max_replicas")
        fields["minReplicas"] = options.get("min_replicas")
        fields["idleStop"] = options.get("idle_stop")
        fields["drainTimeout"] = options.get("drain_timeout")
        manages = options.get("manages")
        fields["manages"] = None if manages is None else list(manages)
        fields["venv"] = venv
        fields["name"] = options.get("name") or f"{venv[:50]}-{secrets.token_hex(3)}"
        return make_backend_spec(options.get("type", "http"), options.get("limits"), fields)


def plan_backend(requirements: Sequence[str], options: Options) -> BackendPlan:
    """Check what a caller asks for.

    Raises:
        TypeError: an option does not exist.
        InvalidRequest: a value is not valid.
    """
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}; there are {', '.join(Options.__annotations__)}")
    check_backend_type(options.get("type", "http"))
    if isinstance(requirements, str):
        requirements = [requirements]
    python = options.get("python")
    spec = VenvSpec(
        python=None if python is None else check_version(python),
        requirements=list(requirements),
        aptPackages=list(options.get("apt_packages", ())),
        preload=list(options.get("preload", ())),
        constraints=list(options.get("constraints", ())),
        lock=options.get("lock"),
        pyproject=options.get("pyproject"),
        checks=list(options.get("checks", ())),
        dotnet=options.get("dotnet", False),
        assemblies=options.get("assemblies"),
    )
    return BackendPlan(spec, options)
