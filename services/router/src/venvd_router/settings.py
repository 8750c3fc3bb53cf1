"""The settings of the router, from the environment."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from venvd_contract.framing import MAX_LINE
from venvd_http.tls import TlsFiles, choose_files

Digest = Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]


def _split(text: Any) -> Any:
    return tuple(text.replace(",", " ").split()) if isinstance(text, str) else text


Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split)]
"""Words that commas separate."""


class RouterSettings(BaseSettings):
    """Environment variables `VENVD_…`; durations in seconds, sizes in bytes."""

    model_config = SettingsConfigDict(env_prefix="VENVD_", frozen=True, extra="ignore")

    type: Literal["http", "rpc"]
    """The type of the backend."""
    name: str = ""
    host: str = "0.0.0.0"  # noqa: S104 — the engine decides what to publish
    port: int = Field(default=5678, ge=0, le=65535)
    http_port: int = Field(default=8080, ge=0, le=65535)
    """The port of probes, metrics and `/rpc/…` in front of gRPC servers."""
    keys_file: Path
    """The file with the keys of clients and the replicas. The router reads it again when it changes."""
    token_sha256: Digest = ""
    no_token: bool = False
    metrics_token_sha256: Digest = ""
    metrics_token: str = ""
    """The token with which the router asks the replicas for their load."""
    own_hosts: Words = ()
    allowed_hosts: Words = ()
    allowed_origins: Words = ()
    trusted_proxies: Words = ()
    accept_timeout: float = Field(default=10, gt=0, le=3600)
    max_unaccepted: int = Field(default=16, ge=1, le=1024)
    unaccepted_bytes: int = Field(default=64 << 10, ge=4096, le=1 << 30)
    max_wrong_tokens: int = Field(default=30, ge=1, le=1_000_000)
    stall_timeout: float = Field(default=60, gt=0)
    """Seconds that a request's head may take, that its body may pause, and that answers may lie unread."""
    max_body: int = Field(default=MAX_LINE, ge=1024, le=1 << 30)
    """The most bytes of a request's body that the router reads whole, because only the body names the session."""
    address_timeout: float = Field(default=30, ge=0, le=3600)
    """Seconds that a request waits while no replica has an address."""
    max_waiting: int = Field(default=256, ge=0, le=65536)
    """How many requests may wait for an address."""
    connect_timeout: float = Field(default=5, gt=0, le=600)
    """Seconds for a connection to a replica."""
    grace: float = Field(default=5, gt=0, le=3600)
    """Seconds for running requests when the router ends."""
    max_calls: int = Field(default=1024, ge=1)
    """How many gRPC calls and streams of all clients may run."""
    keepalive: float = Field(default=60, gt=0)
    """Seconds between pings to a silent gRPC client."""
    keepalive_timeout: float = Field(default=20, gt=0)
    open_docs: bool = True
    """Whether `/docs` and `/openapi.json` need no token."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @model_validator(mode="after")
    def _check(self) -> RouterSettings:
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
        if not self.token_sha256 and not self.no_token:
            raise ValueError(
                "VENVD_TOKEN_SHA256 is empty: give the SHA-256 of the token that clients must send, in hexadecimal, "
                "or set VENVD_NO_TOKEN=1 to serve everyone who can connect"
            )
        return self

    @property
    def tls_files(self) -> TlsFiles | None:
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)


def load() -> RouterSettings:
    """Read the settings. If one is wrong, end the process with status 2 and a sentence for each wrong one."""
    try:
        return RouterSettings()  # type: ignore[call-arg]  # the environment has the fields
    except ValidationError as error:
        for problem in error.errors():
            message = problem["msg"].removeprefix("Value error, ")
            name = f"VENVD_{problem['loc'][0]}".upper() if problem["loc"] else ""
            sys.stderr.write(f"{name}: {message}\n" if name else f"{message}\n")
        raise SystemExit(2) from None
