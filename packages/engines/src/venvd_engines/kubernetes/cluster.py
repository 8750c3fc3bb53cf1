"""The cluster as one home sees it: the connection, the namespace, the labels and the owner of the objects."""

from __future__ import annotations

import re
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property, partial
from typing import Any, TypeVar

import httpx2
from lightkube import Client, KubeConfig
from lightkube.config import client_adapter
from lightkube.config.client_adapter import ConnectionParams, verify_cluster
from lightkube.core.exceptions import ApiError, ConfigError, LoadResourceError
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import Pod, Secret, Service

from venvd_contract.errors import Conflict, Forbidden, Internal, InvalidRequest, NotFound, Unavailable, VenvdError
from venvd_engines.engine import EngineSettings
from venvd_engines.kubernetes import labels
from venvd_engines.kubernetes.settings import KubernetesSettings

ANSWER_SECONDS = 30.0
TIMEOUT_SECONDS = 90.0
"""The longest absence of the API server that work in pods survives. Its replacement takes a minute."""
PAUSE_SECONDS = 0.5
_AWAY = frozenset({429, 500, 502, 503, 504})
_WITHOUT_LOG = frozenset({400, 404, 500})
"""The statuses of answers about containers that have not begun, or that the node has removed."""
_T = TypeVar("_T")
_READING_TYPES = threading.Lock()
_NOISE = re.compile(r'^\S+ "[^"]*" is (invalid|forbidden): ')


@contextmanager
def translate_errors(doing: str) -> Iterator[None]:
    """Raise the contract's errors in place of the client's. This is also a decorator."""
    try:
        yield
    except VenvdError:
        raise
    except ApiError as error:
        raise _translate(doing, error) from error
    except (httpx2.HTTPError, ConfigError, LoadResourceError, OSError) as error:
        raise Unavailable(f"the cluster does not answer (to {doing}): {error or type(error).__name__}") from error


def _translate(doing: str, error: ApiError) -> VenvdError:
    message = f"the cluster could not {doing}: {_NOISE.sub('', error.status.message or str(error))}"
    if "exceeded quota" in message:
        return Unavailable(message)
    kinds: dict[int, type[VenvdError]] = {400: InvalidRequest, 403: Forbidden, 404: NotFound, 409: Conflict}
    kinds |= {401: Unavailable, 422: InvalidRequest, 429: Unavailable, 500: Unavailable, 503: Unavailable}
    return kinds.get(error.status.code or 0, Internal)(message)


def _is_away(error: httpx2.HTTPError | ApiError) -> bool:
    """Return whether an error says that the API server is away. Its time-outs and balancers answer without a Status."""
    if isinstance(error, ApiError):
        return error.status.code in _AWAY
    if isinstance(error, httpx2.HTTPStatusError):
        return error.response.status_code in _AWAY
    return isinstance(error, httpx2.TransportError)


def _make_transport(config: Any) -> httpx2.HTTPTransport:
    context = verify_cluster(config.cluster, config.user, config.abs_file)
    # Authorities of clusters often lack the extensions that CPython 3.13 asks for; kubectl does not ask either.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    return httpx2.HTTPTransport(verify=context)


def _read_types() -> None:
    """Let msgspec describe the types of objects to itself: two threads that cause it at once crash the process."""
    with _READING_TYPES:
        for resource in (Lease, Pod, Secret, Service):
            resource.from_dict({})


class Cluster:
    """The client, for all threads. The environment says where the cluster is, as for kubectl.

    Args:
        answer_seconds: how long the API server may be silent.
    """

    def __init__(self, settings: EngineSettings, answer_seconds: float = ANSWER_SECONDS) -> None:
        self.settings = settings
        self._answer_seconds = answer_seconds
        self.instance = secrets.token_hex(6)
        self._left: set[tuple[Any, str]] = set()

    @property
    def options(self) -> KubernetesSettings:
        return self.settings.kubernetes

    @cached_property
    def client(self) -> Client:
        _read_types()
        config: Any = KubeConfig.from_env().get()
        return Client(
            config,
            namespace=self.options.namespace,
            field_manager="venvd",
            timeout=httpx2.Timeout(self._answer_seconds),
            transport=_make_transport(config),
        )

    def move(self, namespace: str | None, owner: str | None) -> Cluster:
        """Return the same home in another namespace, with an owner there."""
        options = replace(self.options, namespace=namespace, owner=owner)
        moved = Cluster(replace(self.settings, kubernetes=options), self._answer_seconds)
        moved.instance = self.instance
        return moved

    def open_watching(self, silent_seconds: float) -> httpx2.Client:
        """Open separate connections for one watch. lightkube's own watch may be silent without limit."""
        config: Any = KubeConfig.from_env().get()
        timeout = httpx2.Timeout(self._answer_seconds, read=silent_seconds)
        return client_adapter.Client(config, ConnectionParams(timeout=timeout, transport=_make_transport(config)))

    @property
    def namespace(self) -> str:
        return str(self.client.namespace)

    def close(self) -> None:
        if "client" in self.__dict__:
            self.client.close()

    def labels(self, role: str, **more: str) -> dict[str, str]:
        """Make the labels of an object of this home; `more` are further ones (`launch=…`)."""
        return {
            labels.HOME: self.settings.home_id,
            labels.INSTANCE: self.instance,
            labels.ROLE: role,
            **{f"dev.venvd.{name}": value for name, value in more.items()},
        }

    def is_made_here(self, metadata: Any) -> bool:
        """Whether this process made the object with this metadata."""
        return bool((metadata.labels or {}).get(labels.INSTANCE) == self.instance)

    def list(self, resource: Any, role: str) -> list[Any]:
        """List the objects of this home with a role."""
        return list(self.client.list(resource, labels=dict[str, Any](self.select(role))))

    def select(self, role: str) -> dict[str, str]:
        """Make the labels that select the objects of this home with a role."""
        return {labels.HOME: self.settings.home_id, labels.ROLE: role}

    def make_metadata(
        self, name: str, wanted: dict[str, str], annotations: dict[str, str] | None = None
    ) -> dict[str, Any]:
        """Make the metadata of an object. If the settings name an owner, the cluster removes the object with it."""
        metadata: dict[str, Any] = {"name": name, "labels": wanted}
        if annotations:
            metadata["annotations"] = annotations
        if self.options.owner:
            reference = {"apiVersion": "v1", "kind": "Secret", "name": self.options.owner, "uid": self._owner_uid}
            metadata["ownerReferences"] = [reference]
        return metadata

    @cached_property
    def _owner_uid(self) -> str:
        owner: Any = self.client.get(Secret, str(self.options.owner))
        return str(owner.metadata.uid)

    def ask(self, call: Callable[[], _T], check: Callable[[], None] = lambda: None) -> _T:
        """Call, and call again while the API server is away; `check` raises if the work was cancelled meanwhile."""
        end = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return call()
            except (httpx2.HTTPError, ApiError) as error:
                if not _is_away(error) or time.monotonic() > end:
                    raise
            check()
            time.sleep(PAUSE_SECONDS)

    def create(self, resource: Any, content: dict[str, Any]) -> Any:
        """Create an object from its manifest."""
        return self.client.create(resource.from_dict(content))

    def find(self, resource: Any, name: str) -> Any:
        """Find an object, or None."""
        try:
            return self.client.get(resource, name)
        except ApiError as error:
            if error.status.code == 404:
                return None
            raise

    def delete(self, resource: Any, name: str, grace: int | None = None) -> None:
        """Delete an object. An absent object is not an error."""
        try:
            self.client.delete(resource, name, grace_period=grace)
        except ApiError as error:
            if error.status.code != 404:
                raise

    @contextmanager
    def remove_at_end(self, *objects: tuple[Any, str]) -> Iterator[None]:
        """Remove objects at the end of the block. Each is a kind, and a name that is used only once."""
        try:
            yield
        except httpx2.TransportError:
            self._left.update(objects)  # a halted API server may make them later, when no work waits for them
            raise
        finally:
            for each in objects:
                try:
                    self.ask(partial(self.delete, *each, 0))
                except (httpx2.HTTPError, ApiError):
                    self._left.add(each)

    def remove_left(self) -> None:
        """Remove the objects that outlived their work because the API server was away."""
        for each in list(self._left):
            self.delete(*each, 0)
            self._left.discard(each)

    def read_log(self, pod: str, container: str, **options: Any) -> Iterator[str]:
        """Yield the lines of a container's log; none if there is no such container."""
        try:
            yield from self.client.log(pod, container=container, newlines=False, **options)
        except ApiError as error:
            if error.status.code not in _WITHOUT_LOG:
                raise

    def check(self) -> None:
        """Ask for one pod. This tests the connection, the credentials and the rights."""
        for _ in self.client.list(Pod, labels={labels.HOME: self.settings.home_id}, chunk_size=1):
            return
