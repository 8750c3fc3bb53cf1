"""The client of the controller."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from venvd import _controller_api as api
from venvd._async import workflows
from venvd._async.connection import AsyncControllerConnection
from venvd._controller_api import OnEvent, RuntimeChange, ignore_event
from venvd._controller_codec import ControllerCodec
from venvd._home import describe_token_source, find_controller
from venvd.errors import InvalidRequest, Unavailable, VenvdError
from venvd_contract import resources
from venvd_contract.access import AuditEntry, Key
from venvd_contract.resources import (
    ROTATION_OVERLAP,
    AdminTokenRotation,
    BackendLimits,
    BackendStart,
    ConfigReport,
    ControllerStatus,
    Leftover,
    LogLine,
    OperationInfo,
    Package,
    Provider,
    ProviderSpec,
    Runtime,
    TokenRotation,
    VenvChange,
    VenvSpec,
)
from venvd_contract.secrets import Secret, SecretHeader, SecretSpec


class AsyncController:
    """A client of one controller, for one event loop.

    Args:
        url: `http://host:port`. None takes `VENVD_URL`, else the file `url` in `VENVD_HOME`.
        token: the controller's token. None takes `VENVD_TOKEN`, else the file `token` in `VENVD_HOME`.
        ca: a PEM file with the authorities to trust for `https://`. None takes `VENVD_CA`, else the system's.

    Raises:
        NoController: no controller is named anywhere. Every method also raises it if the controller does not answer.
    """

    def __init__(self, url: str | None = None, token: str | None = None, *, ca: str | None = None) -> None:
        self.url, known_token = find_controller(url, token)
        codec = ControllerCodec(self.url, known_token, describe_token_source(self.url, token), ca)
        self._connection = AsyncControllerConnection(codec)
        self.runtimes = AsyncRuntimes(self._connection)
        self.venvs = AsyncVenvs(self._connection)
        self.providers = AsyncProviders(self._connection)
        self.backends = AsyncBackends(self._connection)
        self.operations = AsyncOperations(self._connection)
        self.keys = AsyncKeys(self._connection)
        self.venv_secrets = AsyncSecrets(self._connection, "venvs")
        self.backend_secrets = AsyncSecrets(self._connection, "backends")
        self._token = known_token

    def __repr__(self) -> str:
        return f"<venvd controller {self.url}>"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._connection.close()

    def token_for(self, backend: resources.Backend) -> str | None:
        """Return the token for calls of a backend: its own, or this client's key if the key may not see that token."""
        return api.choose_token(backend, self._token)

    async def status(self) -> ControllerStatus:
        """Return the engine, the home, and how many runtimes, venvs, backends and operations there are."""
        return await self._connection.send(api.get_status())

    async def config(self) -> ConfigReport:
        """Return every setting, its source, and what is unsafe or missing."""
        return await self._connection.send(api.get_config())

    async def rotate_token(self, overlap: float = ROTATION_OVERLAP) -> AdminTokenRotation:
        """Give the controller's home a new token. Earlier tokens end after `overlap` seconds.

        This client continues to use the token that it has, which ends then too.
        """
        return await self._connection.send(api.rotate_admin_token(overlap))

    async def alive(self) -> bool:
        """Return whether a controller answers at the address. Another program that answers there is none.

        Raises:
            InvalidRequest: a certificate file of this client is not usable.
        """
        try:
            await self._connection.send(api.check_alive())
        except InvalidRequest:
            raise
        except VenvdError:
            return False
        return True

    async def ensure_provider(
        self, provider: str, model: str | None = None, spec: VenvSpec | None = None, *, upgrade: bool = False
    ) -> VenvChange:
        """Return the venv of a provider. The controller creates it if it does not exist.

        Args:
            provider: the provider's name.
            model: one of its models. Each model has its own venv.
            spec: what the venv needs. The packages join those of an existing venv, or replace their versions.
            upgrade: whether to resolve the newest versions again.
        """
        return await self._connection.send(api.ensure_provider(provider, model, spec, upgrade=upgrade))

    async def audit(
        self, since: datetime | str | None = None, key: str | None = None, limit: int = 100
    ) -> Sequence[AuditEntry]:
        """Return the newest lines of the audit log, oldest first.

        Args:
            since: an aware time, or its text in RFC 3339; None is the beginning of the log.
            key: the name of a key; `admin` is the token of the controller's home.
            limit: the most lines to return.
        """
        return await workflows.read_audit(self._connection, since, key, limit)

    async def leftovers(self, *, everything: bool = False) -> Sequence[Leftover]:
        """List what the home keeps without using it. `everything` adds what the controller would make again."""
        return await self._connection.send(api.leftovers(everything=everything, remove=False))

    async def prune(self, *, everything: bool = False) -> Sequence[Leftover]:
        """Remove what `leftovers` lists, and return what was removed."""
        return await self._connection.send(api.leftovers(everything=everything, remove=True))


class AsyncRuntimes:
    """CPythons by version."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def list(self) -> list[Runtime]:
        """List the runtimes."""
        return await self._connection.list_all("/v1/runtimes", Runtime)

    async def init(self, version: str) -> RuntimeChange:
        """Create a runtime, such as `3.13`. If the result has an `operation`, wait for it."""
        return await self._connection.send(api.init_runtime(version))

    async def ensure(self, version: str | None = None, on_event: OnEvent = ignore_event) -> str:
        """Make a runtime ready and return its version. None means the default one, else the newest."""
        return await workflows.ensure_runtime(self._connection, version, on_event)

    async def newest(self, on_event: OnEvent = ignore_event) -> str:
        """Make the newest supported CPython ready that the engine can provide, and return its version."""
        return await workflows.ensure_newest_runtime(self._connection, on_event)

    async def set_default(self, version: str) -> Runtime:
        """Choose the runtime of venvs that name no version."""
        return await self._connection.send(api.set_default_runtime(version))

    async def delete(self, version: str) -> None:
        """Remove a runtime that no venv uses."""
        await self._connection.send(api.delete_runtime(version))


class AsyncVenvs:
    """Environments by name."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def put(self, name: str, spec: VenvSpec, *, upgrade: bool = False) -> VenvChange:
        """Create or change a venv. If the result has an `operation`, wait for it.

        `upgrade` resolves the requirements to the newest versions again.
        """
        return await self._connection.send(api.put_venv(name, spec, upgrade=upgrade))

    async def ensure(self, name: str, spec: VenvSpec, on_event: OnEvent = ignore_event) -> resources.Venv:
        """Create or change a venv, and return it when it is ready."""
        return await workflows.ensure_venv(self._connection, name, spec, on_event)

    async def list(self) -> list[resources.Venv]:
        """List the venvs."""
        return await self._connection.list_all("/v1/venvs", resources.Venv)

    async def get(self, name: str) -> resources.Venv:
        """Return one venv."""
        return await self._connection.send(api.get_venv(name))

    async def delete(self, name: str) -> None:
        """Remove a venv. `InUse` names the backends that use it."""
        await self._connection.send(api.delete_venv(name))

    async def packages(self, name: str) -> Sequence[Package]:
        """List the packages that are installed in a venv."""
        return await self._connection.list_all(api.packages_path(name), Package)

    async def lock(self, name: str) -> str:
        """Return the venv's requirements file with pinned versions and hashes."""
        return await self._connection.send(api.get_lock(name))


class AsyncProviders:
    """Providers by name: what their venvs need. `ensure_provider` of the controller makes these venvs."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def list(self) -> list[Provider]:
        """List the providers that need something."""
        return await self._connection.list_all("/v1/providers", Provider)

    async def get(self, name: str) -> Provider:
        """Return one provider."""
        return await self._connection.send(api.get_provider(name))

    async def put(self, name: str, spec: ProviderSpec) -> Provider:
        """Store what the venvs of a provider need. The next `ensure` of a venv applies it."""
        return await self._connection.send(api.put_provider(name, spec))

    async def delete(self, name: str) -> None:
        """Forget what the venvs of a provider need. The venvs stay."""
        await self._connection.send(api.delete_provider(name))


class AsyncBackends:
    """Running services by name."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def start(self, kind: str, *, limits: BackendLimits | None = None, **fields: Any) -> BackendStart:
        """Begin to start a backend. `fields` are fields of `venvd_contract.resources.BackendSpec`."""
        return await self._connection.send(api.start_backend(api.make_backend_spec(kind, limits, fields)))

    async def make_manifest(
        self, *, image: str | None = None, token_version: int = 1, limits: BackendLimits | None = None, **fields: Any
    ) -> resources.PodManifest:
        """Make the manifest of a Kubernetes pod that has a pipe backend beside its client. This starts nothing.

        Args:
            image: the image of the client. None takes one with Python and the SDK that sleeps.
            token_version: each number has its own token.
            limits: the limits of the worker host.
            fields: fields of `venvd_contract.resources.BackendSpec`.
        """
        spec = api.make_backend_spec("pipe", limits, fields)
        return await self._connection.send(api.make_manifest(spec, image, token_version))

    async def list(self) -> list[resources.Backend]:
        """List the backends."""
        return await self._connection.list_all("/v1/backends", resources.Backend)

    async def get(self, name: str) -> resources.Backend:
        """Return one backend."""
        return await self._connection.send(api.get_backend(name))

    async def list_replicas(self, name: str) -> Sequence[resources.Replica]:
        """List the replicas of a backend, with the number of sessions that each has now."""
        return await self._connection.send(api.list_replicas(name))

    async def delete(self, name: str, *, until_changed: bool = False) -> None:
        """Stop and remove a backend.

        Raises:
            Conflict: a manifest declares the backend. With `until_changed`, it stops until the manifest changes.
        """
        await self._connection.send(api.delete_backend(name, until_changed=until_changed))

    async def restart(self, name: str) -> BackendStart:
        """Begin to restart a backend. It keeps its URL and token, and loses the state of its sessions."""
        return await self._connection.send(api.restart_backend(name))

    async def rollback(self, name: str) -> BackendStart:
        """Begin to take a backend back to the build of its venv that it ran before.

        The backend changes once a launch with that build is ready, and keeps the build until its next restart. A second
        rollback takes the later build again.
        """
        return await self._connection.send(api.roll_backend_back(name))

    async def scale(self, name: str, replicas: int) -> BackendStart:
        """Change the number of replicas of a backend while it runs.

        A replica to remove takes no new sessions. It ends when its sessions have ended, or after the backend's
        `drainTimeout`. The operation waits for new replicas.
        """
        return await self._connection.send(api.scale_backend(name, replicas))

    async def rotate_token(self, name: str, overlap: float = ROTATION_OVERLAP) -> TokenRotation:
        """Give a backend a new token.

        Earlier tokens end after `overlap` seconds, with the connections and calls that use them.
        """
        return await self._connection.send(api.rotate_token(name, overlap))

    async def logs(
        self, name: str, tail: int | None = None, since: str | None = None, *, replica: int = 0
    ) -> Sequence[LogLine]:
        """Return the last lines of a backend's log, oldest first, and none before the time `since` (RFC 3339)."""
        return await self._connection.send(api.get_logs(name, tail, since, replica))

    async def metrics(self, name: str, *, replica: int = 0) -> str:
        """Return a backend's metrics in Prometheus' text format."""
        return await self._connection.send(api.get_metrics(name, replica))

    async def follow_logs(
        self, name: str, tail: int | None = None, since: str | None = None, *, replica: int = 0
    ) -> AsyncIterator[LogLine]:
        """Yield the last lines of a backend's log and then each new one, across restarts.

        The iterator ends when the controller removes the backend, or the program closes the iterator.

        Raises:
            Unavailable: the controller ended the log of a backend that it did not remove.
        """
        query = {"tail": tail, "since": since, "follow": "true", "replica": replica or None}
        async with aclosing(self._connection.stream_events(api.logs_path(name), query)) as stream:
            async for event in stream:
                line = api.parse_log_line(event)
                if line is not None:
                    yield line
                if event.name == "done":
                    return
        raise Unavailable(
            f'the controller ended the log of "{name}": it is stopping, or the token of this client has ended'
        )


class AsyncOperations:
    """Long jobs: builds and starts."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def list(self) -> list[OperationInfo]:
        """List the operations."""
        return await self._connection.list_all("/v1/operations", OperationInfo)

    async def get(self, key: str) -> OperationInfo:
        """Return one operation."""
        return await self._connection.send(api.get_operation(key))

    async def wait(self, operation: OperationInfo | None, on_event: OnEvent = ignore_event) -> None:
        """Wait until an operation succeeds, or raise its error. None returns at once."""
        await workflows.wait(self._connection, operation, on_event)

    async def cancel(self, key: str) -> None:
        """Cancel an operation."""
        await self._connection.send(api.cancel_operation(key))


class AsyncKeys:
    """Access keys by name. Only admins manage them."""

    def __init__(self, connection: AsyncControllerConnection) -> None:
        self._connection = connection

    async def list(self) -> list[Key]:
        """List the keys, without their tokens."""
        return await self._connection.list_all("/v1/keys", Key)

    async def create(self, name: str, scope: str | Sequence[str], expires_at: datetime | str | None = None) -> Key:
        """Create a key. Only the returned object has its token, as `key`.

        Args:
            name: the name of the key in logs.
            scope: `admin`, `operator`, `venv:NAME`, `use:BACKEND` or `metrics`, or several of them.
            expires_at: an aware time, or its text in RFC 3339; None for never.
        """
        return await self._connection.send(api.create_key(name, scope, expires_at))

    async def revoke(self, name: str) -> None:
        """Revoke a key. The controller refuses it at once, and each backend within a few seconds."""
        await self._connection.send(api.revoke_key(name))


class AsyncSecrets:
    """The secrets of venvs, or of backends. No answer contains the value of a secret."""

    def __init__(self, connection: AsyncControllerConnection, kind: str) -> None:
        self._connection = connection
        self._kind = kind

    async def list(self, owner: str) -> list[Secret]:
        """List the secrets of a venv or backend, without their values."""
        return await self._connection.list_all(api.make_secrets_path(self._kind, owner), Secret)

    async def set(
        self, owner: str, name: str, value: str, *, env: str | None = None, header: SecretHeader | None = None
    ) -> Secret:
        """Set a secret. New sessions and new requests have it within seconds.

        Args:
            owner: the venv or the backend.
            name: the name of the secret.
            value: the secret itself.
            env: the variable from which code reads it.
            header: the header that the egress broker adds, instead of `env`. Code never sees the value.
        """
        spec = SecretSpec(value, env, header)
        return await self._connection.send(api.set_secret(api.make_secrets_path(self._kind, owner), name, spec))

    async def remove(self, owner: str, name: str) -> None:
        """Remove a secret. Sessions that have it as a variable keep it until they end."""
        await self._connection.send(api.remove_secret(api.make_secrets_path(self._kind, owner), name))
