"""The settings that every server of a backend has; docs/settings.md explains them.

Servers subclass `BackendSettings` and build it once, in `main()`, with `load`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BeforeValidator, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from venvd_contract import spinning
from venvd_contract.commands import Limits
from venvd_contract.errors import VenvdError
from venvd_contract.framing import MAX_LINE
from venvd_contract.internal.limits import NO_LIMITS, lower_limits, merge_limits
from venvd_contract.resources import LONGEST_LEASE, MOST_QUEUED, MOST_REPLICAS, QUEUE_LIMIT

Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


def _split(text: Any) -> Any:
    return tuple(text.replace(",", " ").split()) if isinstance(text, str) else text


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Words with commas in between."""


class BackendSettings(BaseSettings):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="VENVD_", frozen=True, extra="ignore")

    channel: Path = Path("/run/venvd/channel")
    sidecar: bool = False
    """Whether something starts server and worker host again one by one, as the sidecars of a pod are: the server then
    ends with its worker host, and takes a channel that had another one before."""
    name: str = ""
    replica: int = Field(default=0, ge=0, lt=MOST_REPLICAS)
    """The number of this replica of the backend."""
    venv: str = ""
    engine_name: str = ""
    token_sha256: Digest = ""
    no_token: bool = False
    metrics_token_sha256: Digest = ""
    own_hosts: Words = ()
    """Names under which clients reach the server, beside its `name`."""
    allowed_hosts: Words = ()
    """Further names that requests may be addressed to where there is no token."""
    allowed_origins: Words = ()
    """Origins of the web pages that may send requests."""
    trusted_proxies: Words = ()
    """Addresses and networks of reverse proxies whose `X-Forwarded-For` is believed."""
    accept_timeout: float = Field(default=10, gt=0, le=3600)
    """Until a connection must have a request that was let in."""
    max_unaccepted: int = Field(default=16, ge=1, le=1024)
    """Connections of one peer without such a request."""
    unaccepted_bytes: int = Field(default=64 << 10, ge=4096, le=1 << 30)
    """That such a connection may hold of a request."""
    max_wrong_tokens: int = Field(default=30, ge=1, le=1_000_000)
    """Of one peer within a minute, before their refusals are held back for longer each time."""
    keys_file: Path | None = None
    """Further keys that clients may send; the server reads the file again when it changes."""
    secrets_file: Path | None = None
    """The secrets of the backend; the server waits for the file, and reads it again when it changes."""
    controller_socket: Path | None = None
    manages_key_file: Path | None = None
    """Holds the key of the controller for the venvs that sessions manage; it never leaves the server."""
    default_timeout: float = Field(default=300, gt=0, le=365 * 86400)
    grace: float = Field(default=2, gt=0, le=3600)
    queue_limit: int = Field(default=QUEUE_LIMIT, ge=0, le=MOST_QUEUED)
    """Calls that wait in one session."""
    queue_bytes: int = Field(default=64 << 20, ge=0)
    """Of the requests that wait in one session."""
    max_queued_bytes: int = Field(default=256 << 20, ge=0)
    """Of the requests that wait in all sessions together."""
    max_sessions: int = Field(default=64, ge=1, le=4096)
    standby: int = Field(default=1, ge=0, le=64)
    """Processes that are started before a client creates a session with the usual limits and no environment."""
    spin_microseconds: int = Field(default=spinning.MICROSECONDS, ge=0, le=spinning.MOST_MICROSECONDS)
    """That a session may wait without sleep for the next of calls that follow each other fast; 0 is never."""
    max_body: int = Field(default=MAX_LINE, ge=1024, le=1 << 30)
    session_limits: Limits = Limits()
    """Of sessions that ask for no others."""
    max_session_limits: Limits = NO_LIMITS
    """What clients cannot raise the limits of a session above; the defaults are lowered to it."""
    session_idle_timeout: float = Field(default=0, ge=0)
    handle_lease: float = Field(default=0, ge=0, le=LONGEST_LEASE)
    """Lease of handles that calls without a lease make; 0 is none."""
    cancel_on_disconnect: bool = True
    compat: bool = True
    """Whether clients of an older .NET host are served: the `compat` module of each server."""
    attach: bool = True
    """Whether pipe clients may attach to a session."""
    max_attached: int = Field(default=1024, ge=0, le=1_000_000)
    max_attached_per_session: int = Field(default=512, ge=0, le=100_000)
    kept_calls: int = Field(default=1000, ge=1, le=1_000_000)
    """Background calls, whether running or ended."""
    kept_call_seconds: float = Field(default=3600, gt=0, le=365 * 86400)
    kept_call_bytes: int = Field(default=256 << 20, ge=0)
    """Of the results of all background calls together."""
    network: Words = ()
    """Destinations that user code may reach: `example.com`, `*.example.com:8080`."""
    private_networks: Words = ()
    """Private networks whose addresses may be reached, such as `10.1.0.0/16`."""
    egress_broker_file: Path | None = None
    """Names the shared broker that makes the connections, JSON: `host`, `port` and `ticket`; by default the broker of
    the network makes them."""
    max_file_bytes: int = Field(default=1 << 30, ge=0, le=1 << 50)
    """Of one file that a client stores."""
    upload_timeout: float = Field(default=60, gt=0)
    """Until the next part of a file that comes in parts."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @field_validator("session_limits", "max_session_limits", mode="before")
    @classmethod
    def _limits(cls, given: Any, info: ValidationInfo) -> Any:
        if not isinstance(given, dict):
            return given
        try:
            return merge_limits(Limits() if info.field_name == "session_limits" else NO_LIMITS, given)
        except VenvdError as error:
            raise ValueError(error.message) from None

    @property
    def usual_limits(self) -> Limits:
        """The limits of a session whose client asks for none."""
        return lower_limits(self.session_limits, self.max_session_limits)

    @model_validator(mode="after")
    def _check_token(self) -> BackendSettings:
        if not self.token_sha256 and not self.no_token:
            raise ValueError(
                "VENVD_TOKEN_SHA256 is empty: give the SHA-256 of the token that clients must send, in hexadecimal, "
                "or set VENVD_NO_TOKEN=1 to serve every client that can connect"
            )
        return self


SettingsType = TypeVar("SettingsType", bound=BackendSettings)


def load(kind: type[SettingsType]) -> SettingsType:
    """Read the settings of this process; ends it with status 2 and a sentence for each wrong one."""
    try:
        return kind()
    except ValidationError as error:
        for line in _describe_errors(error):
            sys.stderr.write(f"{line}\n")
        raise SystemExit(2) from None


def _describe_errors(error: ValidationError) -> list[str]:
    lines = []
    for problem in error.errors():
        message = problem["msg"].removeprefix("Value error, ")
        name = f"VENVD_{problem['loc'][0]}".upper() if problem["loc"] else ""
        lines.append(f"{name}: {message}" if name else message)
    return lines
