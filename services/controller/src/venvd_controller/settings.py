"""The controller's settings: environment variables, read once in `main()`."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from venvd_contract.operations import Limits
from venvd_contract.resources import Backend, ConfigReport, Setting
from venvd_controller.specs import is_loopback
from venvd_engines.engine import EngineSettings

_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def default_home() -> Path:
    """The state directory of this user: `$XDG_STATE_HOME/venvd` or `~/.local/state/venvd`."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state") / "venvd"


def default_ca_bundle() -> Path | None:
    """The bundle that this process itself is told to use, so that builds use it too."""
    named = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), None)
    return Path(named) if named else None


def default_source_dir() -> Path | None:
    """Where the servers' sources lie: the checkout that this package runs from, else beside the installed program."""
    checkout = Path(__file__).resolve().parents[4]
    for candidate in (checkout, Path("/usr/share/venvd")):
        if (candidate / "services").is_dir():
            return candidate
    return None


class Settings(BaseSettings):
    """Fields are the variables of the same name with the prefix `VENVD_`."""

    model_config = SettingsConfigDict(env_prefix="VENVD_", env_ignore_empty=True, frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home)
    run_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = Field(default=8600, ge=0, le=65535)
    url: str | None = None
    token: SecretStr | None = None
    engine: str = Field(default="auto", pattern="^(auto|docker|local)$")
    base_image: str | None = None
    index_url: SecretStr | None = None
    ca_bundle: Path | None = Field(default_factory=default_ca_bundle)
    manifest: Path | None = None
    metrics_token_file: Path | None = None
    """Where a scraper that must not see the home finds a copy of the metrics token: readable by the group."""
    database_url: SecretStr | None = None
    source_dir: Path | None = Field(default_factory=default_source_dir)
    docker_network: str | None = None
    oci_runtime: str | None = None
    allow_source_builds: bool = False
    max_operations: int = Field(default=32, ge=1, le=256)
    """Operations that run at a time."""
    max_builds: int = Field(default=2, ge=1, le=64)
    """Builds of venvs that run at a time."""
    image_keep: float = Field(default=3600.0, ge=0)
    """Seconds that an image stays after its last use."""
    reconcile_interval: float = Field(default=1.0, gt=0)
    start_timeout: float = Field(default=60.0, gt=0)
    """Seconds in which a backend must become ready."""
    stop_grace: float = Field(default=5.0, ge=0)
    max_body: int = Field(default=1 << 20, ge=1024)
    worker_memory_bytes: int = Field(default=2 << 30, ge=16 << 20)
    worker_cpus: float = Field(default=2.0, gt=0)
    worker_processes: int = Field(default=256, ge=8)
    worker_tmpfs_bytes: int = Field(default=512 << 20, ge=1 << 20)
    build_timeout: float = Field(default=1800.0, gt=0)
    build_memory_bytes: int = Field(default=4 << 30, ge=64 << 20)
    build_cpus: float = Field(default=2.0, gt=0)
    session_limits: str = "{}"
    """Limits of sessions that name none: JSON, fields of `Limits`."""
    log_level: str = Field(default="info", pattern="^(debug|info|warning|error)$")

    @field_validator("home", "run_dir", "ca_bundle", "manifest", "metrics_token_file", "source_dir")
    @classmethod
    def _absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else path

    @field_validator("session_limits")
    @classmethod
    def _known_limits(cls, text: str) -> str:
        found = json.loads(text)
        known = [one.name for one in fields(Limits)]
        if not isinstance(found, dict) or not set(found) <= set(known):
            raise ValueError(f"takes a JSON object of {', '.join(known)}")
        return text

    @property
    def sockets(self) -> Path:
        return self.run_dir or self.home / "run"

    def for_engine(self, home_id: str) -> EngineSettings:
        return EngineSettings(
            home=self.home,
            home_id=home_id,
            run_dir=self.sockets,
            source_dir=self.source_dir,
            base_image=self.base_image,
            index_url=self.index_url.get_secret_value() if self.index_url else None,
            ca_bundle=self.ca_bundle,
            docker_network=self.docker_network,
            oci_runtime=self.oci_runtime,
            build_timeout=self.build_timeout,
            build_memory_bytes=self.build_memory_bytes,
            build_cpus=self.build_cpus,
            allow_source_builds=self.allow_source_builds,
        )


def report(
    settings: Settings, gaps: Sequence[str], backends: Sequence[Backend], problems: Sequence[str]
) -> ConfigReport:
    """Every setting with its source, the guards that are off, and what does not work; secrets are not told."""
    found = []
    for name in type(settings).model_fields:
        source = "environment" if f"VENVD_{name.upper()}" in os.environ else "default"
        found.append(Setting(name, _shown(getattr(settings, name)), source))
    unsafe = list(gaps)
    if not is_loopback(settings.host):
        unsafe.append(
            f"the controller listens beyond loopback ({settings.host}): its token crosses the network in clear"
        )
    if settings.allow_source_builds:
        unsafe.append("source distributions may be built: a build runs code of the packages it installs")
    for backend in backends:
        if not backend.spec.token:
            unsafe.append(f'the backend "{backend.name}" serves without a token')
        if backend.type != "pipe" and not is_loopback(backend.spec.host):
            unsafe.append(f'the backend "{backend.name}" is published beyond loopback ({backend.spec.host})')
    return ConfigReport(found, unsafe, [*_missing(settings), *problems])


def _missing(settings: Settings) -> list[str]:
    missing = []
    if settings.ca_bundle is not None and not settings.ca_bundle.is_file():
        missing.append(f"ca_bundle: there is no file {settings.ca_bundle}")
    if settings.source_dir is None:
        missing.append("source_dir: the servers' sources are not found; their images cannot be built")
    return missing


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "(set)"
    return str(value) if isinstance(value, Path) else value
