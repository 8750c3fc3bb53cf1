"""The controller's REST API: makes requests, and decodes their answers. Knows no socket."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode

from venvd._json_dataclasses import from_json, list_decoder
from venvd._net.sse import ServerEvent
from venvd.errors import BadReply, Cancelled, InvalidRequest, error_from_reply
from venvd_contract import resources
from venvd_contract.access import KEY_PREFIX, Key
from venvd_contract.resources import (
    AdminTokenRotation,
    BackendLimits,
    BackendSpec,
    BackendStart,
    ConfigReport,
    ControllerStatus,
    Event,
    Leftover,
    LeftoverList,
    LogLine,
    OperationInfo,
    Provider,
    ProviderSpec,
    Runtime,
    TokenRotation,
    VenvChange,
    VenvSpec,
)
from venvd_contract.secrets import Secret, SecretSpec

T = TypeVar("T")

TIMEOUT = 60.0
"""Seconds for one answer of the controller. Longer work is an operation."""
_PRUNE_TIMEOUT = 1800.0
_PAGE_SIZE = 200
SUPPORTED_VERSIONS = ("3.14", "3.13", "3.12", "3.11", "3.10", "3.9")
"""Supported CPythons, the newest first."""
FINAL_STATES = frozenset({"succeeded", "failed", "cancelled"})

OnEvent = Callable[[Event], None]


def ignore_event(_: Event) -> None:
    """Do nothing with an event of an operation."""


@dataclass(slots=True)
class Request(Generic[T]):
    """One request of the REST API. `decode` makes the caller's value from the JSON of the answer."""

    method: str
    path: str
    decode: Callable[[Any], T]
    body: Any = None
    query: Mapping[str, Any] = field(default_factory=dict)
    timeout: float | None = TIMEOUT

    @property
    def target(self) -> str:
        """The path with its query."""
        fields = {name: value for name, value in self.query.items() if value is not None}
        return self.path + ("?" + urlencode(fields) if fields else "")

    @property
    def data(self) -> bytes:
        """The bytes of the body."""
        if self.body is None:
            return b""
        try:
            return json.dumps(self.body, allow_nan=False).encode("utf-8")
        except ValueError as error:
            raise InvalidRequest(f"{self.method} {self.path}: the request has no JSON form: {error}") from None

    @property
    def repeatable(self) -> bool:
        return self.method in {"GET", "PUT", "DELETE"}

    def finish(self, result: Any) -> T:
        """Return the caller's value.

        Raises:
            BadReply: the answer does not have the documented shape.
        """
        try:
            return self.decode(result)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadReply(f"{self.method} {self.path}: the answer has an unexpected shape: {error!r}") from None


def quote_name(name: str) -> str:
    """Return a name as one segment of a path.

    Raises:
        InvalidRequest: the name would not be exactly one segment.
    """
    if name in {"", ".", ".."} or "/" in name:
        rule = "1 to 63 lower-case letters, digits and hyphens, with a letter or digit first and last"
        raise InvalidRequest(f'"{name[:80]}" is no valid name; use {rule}')
    return quote(name, safe="")


def _ignore(_: Any) -> None:
    return None


def _decoder(kind: type[T]) -> Callable[[Any], T]:
    return lambda data: from_json(kind, data)


def get_page(path: str, after: str | None) -> Request[resources.Page]:
    """Return the request for one page of a list. `after` is the `next` of the page before."""
    return Request("GET", path, _decoder(resources.Page), query={"after": after, "limit": _PAGE_SIZE})


# ---- runtimes ----


@dataclass
class RuntimeChange:
    """A runtime after a request to create it. `operation` is null if there was nothing to do."""

    runtime: Runtime
    operation: OperationInfo | None = None


def init_runtime(version: str) -> Request[RuntimeChange]:
    return Request("PUT", f"/v1/runtimes/{quote_name(resources.check_version(version))}", _decoder(RuntimeChange))


def set_default_runtime(version: str) -> Request[Runtime]:
    return Request("PUT", "/v1/runtimes/default", _decoder(Runtime), {"version": version})


def delete_runtime(version: str) -> Request[None]:
    return Request("DELETE", f"/v1/runtimes/{quote_name(version)}", _ignore)


def rank_runtime(runtime: Runtime) -> tuple[bool, list[int]]:
    """Return a sort key: the default runtime is greatest, then the newest."""
    return runtime.default, [int(number) for number in re.findall(r"\d+", runtime.version)]


# ---- venvs ----


def put_venv(name: str, spec: VenvSpec, *, upgrade: bool = False) -> Request[VenvChange]:
    path, query = f"/v1/venvs/{quote_name(name)}", {"upgrade": "true"} if upgrade else {}
    return Request("PUT", path, _decoder(VenvChange), dataclasses.asdict(spec), query=query)


def get_venv(name: str) -> Request[resources.Venv]:
    return Request("GET", f"/v1/venvs/{quote_name(name)}", _decoder(resources.Venv))


def delete_venv(name: str) -> Request[None]:
    return Request("DELETE", f"/v1/venvs/{quote_name(name)}", _ignore)


def packages_path(name: str) -> str:
    return f"/v1/venvs/{quote_name(name)}/packages"


def get_lock(name: str) -> Request[str]:
    def decode(data: Any) -> str:
        return data if isinstance(data, str) else str(data["lock"])

    return Request("GET", f"/v1/venvs/{quote_name(name)}/lock", decode)


_NAMED_BY = ("python", "requirements", "aptPackages", "preload", "network", "env")


def stable_venv_name(spec: VenvSpec) -> str:
    """Return a name for a venv that the caller did not name. Equal specifications get equal names."""
    parts: list[Any] = [spec.python, sorted(spec.requirements), sorted(spec.aptPackages), spec.preload, spec.network]
    parts.append(spec.env)
    default = dataclasses.asdict(VenvSpec())
    newer = {name: value for name, value in dataclasses.asdict(spec).items() if value != default[name]}
    newer = {name: value for name, value in newer.items() if name not in _NAMED_BY and name != "labels"}
    if newer:  # absent ones leave the names of earlier versions as they were
        parts.append(newer)
    return "auto-" + hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:12]


def leftovers(*, everything: bool, remove: bool) -> Request[list[Leftover]]:
    """Return the request that lists what the home keeps without a use for it. With `remove`, the request removes it."""

    def decode(data: Any) -> list[Leftover]:
        return from_json(LeftoverList, data).items

    method = "DELETE" if remove else "GET"
    query = {"everything": json.dumps(everything)}
    return Request(method, "/v1/leftovers", decode, query=query, timeout=_PRUNE_TIMEOUT)


def put_provider(provider: str, spec: ProviderSpec) -> Request[Provider]:
    return Request("PUT", f"/v1/providers/{quote_name(provider)}", _decoder(Provider), dataclasses.asdict(spec))


def get_provider(provider: str) -> Request[Provider]:
    return Request("GET", f"/v1/providers/{quote_name(provider)}", _decoder(Provider))


def delete_provider(provider: str) -> Request[None]:
    return Request("DELETE", f"/v1/providers/{quote_name(provider)}", _ignore)


def ensure_provider(provider: str, model: str | None, spec: VenvSpec | None, *, upgrade: bool) -> Request[VenvChange]:
    path, body = f"/v1/providers/{quote_name(provider)}/venv", None if spec is None else dataclasses.asdict(spec)
    return Request(
        "PUT", path, _decoder(VenvChange), body, query={"model": model, "upgrade": "true" if upgrade else None}
    )


# ---- backends ----


def make_backend_spec(kind: str, limits: BackendLimits | None, fields: Mapping[str, Any]) -> BackendSpec:
    """Return the specification of a backend. A field of None keeps its default."""
    given = {name: value for name, value in fields.items() if value is not None}
    return BackendSpec(type=kind, limits=limits or BackendLimits(), **given)


def check_backend_type(kind: str) -> str:
    """Return the type of a backend.

    Raises:
        InvalidRequest: there is no such type, or this environment lacks the extra that it needs.
    """
    if kind not in resources.BACKEND_TYPES:
        raise InvalidRequest(f'"{kind}" is no type of backend: choose one of {", ".join(resources.BACKEND_TYPES)}')
    if kind == "rpc" and importlib.util.find_spec("grpc") is None:
        raise InvalidRequest("a backend of type rpc needs the extra grpc here: pip install 'venvd[grpc]'")
    return kind


def start_backend(spec: BackendSpec) -> Request[BackendStart]:
    return Request("POST", "/v1/backends", _decoder(BackendStart), dataclasses.asdict(spec))


def make_manifest(spec: BackendSpec, image: str | None, token_version: int) -> Request[resources.PodManifest]:
    query = {"image": image, "tokenVersion": token_version}
    body = dataclasses.asdict(spec)
    return Request("POST", "/v1/backends/manifest", _decoder(resources.PodManifest), body, query=query)


def get_backend(name: str) -> Request[resources.Backend]:
    return Request("GET", f"/v1/backends/{quote_name(name)}", _decoder(resources.Backend))


def list_replicas(name: str) -> Request[list[resources.Replica]]:
    def decode(data: Any) -> list[resources.Replica]:
        return list_decoder(resources.Replica)(data["items"])

    return Request("GET", f"/v1/backends/{quote_name(name)}/replicas", decode)


def delete_backend(name: str, *, until_changed: bool = False) -> Request[None]:
    query = {"untilChanged": "true" if until_changed else None}
    return Request("DELETE", f"/v1/backends/{quote_name(name)}", _ignore, query=query)


def restart_backend(name: str) -> Request[BackendStart]:
    return Request("POST", f"/v1/backends/{quote_name(name)}/restart", _decoder(BackendStart))


def roll_backend_back(name: str) -> Request[BackendStart]:
    return Request("POST", f"/v1/backends/{quote_name(name)}/rollback", _decoder(BackendStart))


def scale_backend(name: str, replicas: int) -> Request[BackendStart]:
    return Request("POST", f"/v1/backends/{quote_name(name)}/scale", _decoder(BackendStart), {"replicas": replicas})


def rotate_admin_token(overlap: float) -> Request[AdminTokenRotation]:
    return Request("POST", "/v1/token", _decoder(AdminTokenRotation), {"overlap": overlap})


def rotate_token(name: str, overlap: float) -> Request[TokenRotation]:
    path = f"/v1/backends/{quote_name(name)}/token"
    return Request("POST", path, _decoder(TokenRotation), {"overlap": overlap})


def logs_path(name: str) -> str:
    return f"/v1/backends/{quote_name(name)}/logs"


def get_logs(name: str, tail: int | None, since: str | None, replica: int) -> Request[list[LogLine]]:
    def decode(data: Any) -> list[LogLine]:
        return list_decoder(LogLine)(data["items"])

    return Request("GET", logs_path(name), decode, query={"tail": tail, "since": since, "replica": replica or None})


def get_metrics(name: str, replica: int) -> Request[str]:
    return Request("GET", f"/v1/backends/{quote_name(name)}/metrics", str, query={"replica": replica or None})


def parse_log_line(event: ServerEvent) -> LogLine | None:
    """Return the line in an event of a log stream, or None if the event has none."""
    try:
        data = json.loads(event.data)
    except ValueError:
        raise BadReply("an event of a followed log is not JSON") from None
    return from_json(LogLine, data) if isinstance(data, dict) and "text" in data else None


def choose_token(backend: resources.Backend, own: str | None) -> str | None:
    """Return the token for calls of a backend: the backend's token, else the caller's own if that is a key.

    The token of a controller's home never goes to a backend.
    """
    if backend.token is not None or not backend.spec.token:
        return backend.token
    return own if own is not None and own.startswith(KEY_PREFIX) else None


# ---- keys ----


def create_key(name: str, scope: str | Sequence[str], expires_at: datetime | str | None) -> Request[Key]:
    body = {
        "name": name,
        "scope": scope if isinstance(scope, str) else list(scope),
        "expiresAt": expires_at.isoformat() if isinstance(expires_at, datetime) else expires_at,
    }
    return Request("POST", "/v1/keys", _decoder(Key), body)


def revoke_key(name: str) -> Request[None]:
    return Request("DELETE", f"/v1/keys/{quote_name(name)}", _ignore)


# ---- secrets ----


def make_secrets_path(kind: str, owner: str) -> str:
    """Return the path of the secrets of a venv or a backend; `kind` is `venvs` or `backends`."""
    return f"/v1/{kind}/{quote_name(owner)}/secrets"


def set_secret(path: str, name: str, spec: SecretSpec) -> Request[Secret]:
    return Request("PUT", f"{path}/{quote_name(name)}", _decoder(Secret), dataclasses.asdict(spec))


def remove_secret(path: str, name: str) -> Request[None]:
    return Request("DELETE", f"{path}/{quote_name(name)}", _ignore)


# ---- the audit log ----


def get_audit(since: datetime | str | None, key: str | None, after: str | None, limit: int) -> Request[resources.Page]:
    """Return the request for one page of the audit log, newest first."""
    shown = since.isoformat() if isinstance(since, datetime) else since
    query = {"since": shown, "key": key, "after": after, "limit": min(limit, _PAGE_SIZE)}
    return Request("GET", "/v1/audit", _decoder(resources.Page), query=query)


# ---- operations, status, config ----


def get_operation(key: str) -> Request[OperationInfo]:
    return Request("GET", f"/v1/operations/{quote_name(key)}", _decoder(OperationInfo))


def cancel_operation(key: str) -> Request[None]:
    return Request("DELETE", f"/v1/operations/{quote_name(key)}", _ignore)


def events_path(key: str) -> str:
    return f"/v1/operations/{quote_name(key)}/events"


def parse_operation_event(event: ServerEvent) -> Event:
    """Return an event of an operation. The data of `done` is an `OperationInfo`."""
    try:
        data = json.loads(event.data)
    except ValueError:
        raise BadReply("an event of an operation is not JSON") from None
    if event.name == "done":
        data = from_json(OperationInfo, data)
    return Event(int(event.id) if event.id.isdecimal() else 0, event.name, data)


def check_succeeded(operation: OperationInfo) -> None:
    """Raise the error of an operation that has ended without success; `Cancelled` if it was cancelled."""
    if operation.state == "cancelled":
        raise Cancelled(f"{operation.kind} of {operation.target} was cancelled")
    if operation.state == "failed":
        fields = operation.error or {"code": "internal", "error": f"{operation.kind} of {operation.target} failed"}
        raise error_from_reply(fields)


def get_status() -> Request[ControllerStatus]:
    return Request("GET", "/v1/status", _decoder(ControllerStatus))


def get_config() -> Request[ConfigReport]:
    return Request("GET", "/v1/config", _decoder(ConfigReport))


def check_alive() -> Request[None]:
    return Request("GET", "/livez", _ignore, timeout=5.0)


def check_ready() -> Request[None]:
    return Request("GET", "/readyz", _ignore, timeout=5.0)
