"""The settings that every server of a backend has; docs/settings.md explains them.

Servers subclass `BackendSettings` and build it once, in `main()`, with `load`. msgspec reads and checks them. A server
imports msgspec anyway, and importing pydantic's settings would take a third of its start.
"""

from __future__ import annotations

import json
import os
import sys
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from venvd_contract import spinning
from venvd_contract.errors import VenvdError
from venvd_contract.framing import MAX_LINE
from venvd_contract.internal.limits import NO_LIMITS, lower_limits, merge_limits
from venvd_contract.resources import LONGEST_LEASE, MOST_QUEUED, MOST_REPLICAS, QUEUE_LIMIT
from venvd_contract.session_requests import Limits

_PREFIX = "VENVD_"
_READER = "reader"
_PATHS = (Path, Path | None)
_FLAGS = {
    **dict.fromkeys(("1", "true", "yes", "on", "t", "y"), True),
    **dict.fromkeys(("0", "false", "no", "off", "f", "n"), False),
}


def with_reader(read: Callable[[str], Any]) -> Meta:
    """Annotate a field with the function that checks its text and makes its value; it raises `ValueError`."""
    return Meta(extra={_READER: read})


def _split(text: str) -> tuple[str, ...]:
    return tuple(text.replace(",", " ").split())


def _read_flag(text: str) -> bool:
    flag = _FLAGS.get(text.lower())
    if flag is None:
        raise ValueError(f'"{text[:20]}" is neither true nor false: write 1 or 0')
    return flag


def _read_limits(defaults: Limits) -> Callable[[str], Limits]:
    def read(text: str) -> Limits:
        try:
            given = json.loads(text)
        except ValueError as error:
            raise ValueError(f"it is not JSON: {error}") from None
        if not isinstance(given, dict):
            raise ValueError('it takes a map of limits, such as {"handles": 1000}')  # noqa: TRY004 - as all readers
        try:
            return merge_limits(defaults, given)
        except VenvdError as error:
            raise ValueError(error.message) from None

    return read


Digest = Annotated[str, Meta(pattern=r"^([0-9a-f]{64})?$")]
Flag = Annotated[bool, with_reader(_read_flag)]
Words = Annotated[tuple[str, ...], with_reader(_split)]
"""Words, separated by commas."""
Port = Annotated[int, Meta(ge=0, le=65535)]
Count = Annotated[int, Meta(ge=1)]
Size = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]
SecondsFromZero = Annotated[float, Meta(ge=0)]


class BackendSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    channel: Path = Path("/run/venvd/channel")
    sidecar: Flag = False
    """Whether server and worker host restart separately, like the sidecars of a pod. The server then ends when its
    worker host ends, and accepts a channel that an earlier server has used."""
    name: str = ""
    replica: Annotated[int, Meta(ge=0, lt=MOST_REPLICAS)] = 0
    """The number of this replica of the backend."""
    venv: str = ""
    engine_name: str = ""
    token_sha256: Digest = ""
    no_token: Flag = False
    metrics_token_sha256: Digest = ""
    own_hosts: Words = ()
    """Names under which clients reach the server, beside its `name`."""
    allowed_hosts: Words = ()
    """Further names by which clients may address a server without a token."""
    allowed_origins: Words = ()
    """Origins of the web pages that may send requests."""
    trusted_proxies: Words = ()
    """Addresses and networks of reverse proxies whose `X-Forwarded-For` is trusted."""
    accept_timeout: Annotated[float, Meta(gt=0, le=3600)] = 10
    """Time in which a new connection must send a request with a valid token."""
    max_unaccepted: Annotated[int, Meta(ge=1, le=1024)] = 16
    """Connections of one peer that have sent no such request yet."""
    unaccepted_bytes: Annotated[int, Meta(ge=4096, le=1 << 30)] = 64 << 10
    """Bytes of a request that the server holds for such a connection."""
    max_wrong_tokens: Annotated[int, Meta(ge=1, le=1_000_000)] = 30
    """Wrong tokens of one peer in a minute; after more, each refusal takes longer than the one before."""
    keys_file: Path | None = None
    """Further keys that clients may send; the server reads the file again when it changes."""
    secrets_file: Path | None = None
    """The secrets of the backend; the server reads the file again when it changes."""
    await_secrets: Flag = True
    """Whether the server waits for that file; if not, it starts without secrets and reads them later."""
    controller_socket: Path | None = None
    controller_url: str | None = None
    """The address of the controller, for a server that does not see its socket."""
    controller_ca_file: Path | None = None
    """Holds the certificate that the controller shows at that address."""
    manages_key_file: Path | None = None
    """The file with the controller's key for the venvs that sessions manage; the key never leaves the server."""
    default_timeout: Annotated[float, Meta(gt=0, le=365 * 86400)] = 300
    grace: Annotated[float, Meta(gt=0, le=3600)] = 2
    queue_limit: Annotated[int, Meta(ge=0, le=MOST_QUEUED)] = QUEUE_LIMIT
    """Calls that wait in one session."""
    queue_bytes: Size = 64 << 20
    """Size of the requests that wait in one session."""
    max_queued_bytes: Size = 256 << 20
    """Size of the requests that wait in all sessions together."""
    max_sessions: Annotated[int, Meta(ge=1, le=4096)] = 64
    standby: Annotated[int, Meta(ge=0, le=64)] = 1
    """Processes that wait ready for new sessions with the default limits and no environment."""
    spin_microseconds: Annotated[int, Meta(ge=0, le=spinning.MOST_MICROSECONDS)] = spinning.MICROSECONDS
    """Microseconds that a session waits without sleep for the next of several fast calls; 0 is never."""
    max_body: Annotated[int, Meta(ge=1024, le=1 << 30)] = MAX_LINE
    session_limits: Annotated[Limits, with_reader(_read_limits(Limits()))] = Limits()
    """The default limits of sessions."""
    max_session_limits: Annotated[Limits, with_reader(_read_limits(NO_LIMITS))] = NO_LIMITS
    """The highest limits of a session; the defaults are lowered to them."""
    session_idle_timeout: SecondsFromZero = 0
    handle_lease: Annotated[float, Meta(ge=0, le=LONGEST_LEASE)] = 0
    """Lease of handles from calls without a lease of their own; 0 is none."""
    cancel_on_disconnect: Flag = True
    compat: Flag = True
    """Whether to serve clients of the older .NET host, with the `compat` module of each server."""
    attach: Flag = True
    """Whether pipe clients may attach to a session."""
    max_attached: Annotated[int, Meta(ge=0, le=1_000_000)] = 1024
    max_attached_per_session: Annotated[int, Meta(ge=0, le=100_000)] = 512
    kept_calls: Annotated[int, Meta(ge=1, le=1_000_000)] = 1000
    """Background calls, whether running or ended."""
    kept_call_seconds: Annotated[float, Meta(gt=0, le=365 * 86400)] = 3600
    kept_call_bytes: Size = 256 << 20
    """Size of the results of all background calls together."""
    network: Words = ()
    """Destinations that user code may reach: `example.com`, `*.example.com:8080`."""
    private_networks: Words = ()
    """Private networks whose addresses may be reached, such as `10.1.0.0/16`."""
    egress_broker_file: Path | None = None
    """JSON file with `host`, `port` and `ticket` of the shared egress broker that makes the connections; by default the
    server's own broker makes them."""
    max_file_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 1 << 30
    """Size of one uploaded file."""
    upload_timeout: Seconds = 60
    """Time to the next part of a file that a client uploads in several requests."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def usual_limits(self) -> Limits:
        """The limits of a session whose client asks for none."""
        return lower_limits(self.session_limits, self.max_session_limits)

    def __post_init__(self) -> None:
        """Check rules about several fields.

        Raises:
            ValueError: the fields do not fit together.
        """
        if not self.token_sha256 and not self.no_token:
            raise ValueError(
                "VENVD_TOKEN_SHA256 is empty: give the SHA-256 of the token that clients must send, in hexadecimal, "
                "or set VENVD_NO_TOKEN=1 to serve every client that can connect"
            )


SettingsType = TypeVar("SettingsType", bound=BackendSettings)


class WrongSettings(ValueError):
    """Some settings are wrong; the message has a line for each."""


def load(kind: type[SettingsType]) -> SettingsType:
    """Read the settings of this process; end it with status 2 and a line for each wrong one."""
    try:
        return read(kind, os.environ)
    except WrongSettings as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(2) from None


def read(kind: type[SettingsType], environment: Mapping[str, str]) -> SettingsType:
    """Read the settings of a kind from environment variables.

    Raises:
        WrongSettings: some are wrong.
    """
    values, problems = {}, []
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        variable = _PREFIX + name.upper()
        if variable in environment:
            try:
                values[name] = _read_value(hint, environment[variable])
            except ValueError as error:  # those of msgspec are too
                problems.append(f"{variable}: {error}")
    if problems:
        raise WrongSettings("\n".join(problems))
    try:
        return kind(**values)
    except (ValueError, VenvdError) as error:
        raise WrongSettings(str(error)) from None


def _read_value(hint: Any, text: str) -> Any:
    """Turn the text of a variable into the value of its field.

    Raises:
        ValueError: the field does not take it.
    """
    if hint in _PATHS:
        return Path(text)
    reader = _find_reader(hint)
    return msgspec.convert(text, hint, strict=False) if reader is None else reader(text)


def _find_reader(hint: Any) -> Callable[[str], Any] | None:
    metas = (meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta))
    return next((meta.extra[_READER] for meta in metas if meta.extra), None)
