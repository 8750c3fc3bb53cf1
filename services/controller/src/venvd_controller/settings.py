"""The controller's settings: environment variables, read once in `main()`."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from venvd_contract.resources import ConfigReport, Setting
from venvd_engines.engine import EngineSettings

_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def default_home() -> Path:
    """The state directory of this user: `$XDG_STATE_HOME/venvd` or `~/.local/state/venvd`."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "venvd"


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

    model_config = SettingsConfigDict(env_prefix="VENVD_", frozen=True, extra="ignore")

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
    database_url: str | None = None
    source_dir: Path | None = Field(default_factory=default_source_dir)
    docker_network: str | None = None
    oci_runtime: str | None = None
    allow_source_builds: bool = False
    max_operations: int = Field(default=4, ge=1, le=64)
    """Operations that run at a time."""
    reconcile_interval: float = Field(default=1.0, gt=0)
    start_timeout: float = Field(default=60.0, gt=0)
    """Seconds in which a backend must become ready."""
    stop_grace: float = Field(default=5.0, ge=0)
    max_body: int = 1 << 20
    worker_memory_bytes: int = 2 << 30
    worker_cpus: float = 2.0
    worker_processes: int = 256
    session_limits: str = "{}"
    log_level: str = "info"

    @property
    def sockets(self) -> Path:
        return (self.run_dir or self.home / "run").absolute()

    def for_engine(self, home_id: str) -> EngineSettings:
        return EngineSettings(
            home=self.home.absolute(),
            home_id=home_id,
            run_dir=self.sockets,
            source_dir=self.source_dir,
            base_image=self.base_image,
            index_url=self.index_url.get_secret_value() if self.index_url else None,
            ca_bundle=self.ca_bundle,
            docker_network=self.docker_network,
            oci_runtime=self.oci_runtime,
            allow_source_builds=self.allow_source_builds,
        )


def is_loopback(host: str) -> bool:
    """Whether an address to publish on is reached from this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def report(settings: Settings, gaps: list[str]) -> ConfigReport:
    """Every setting with its source, and the guards that are off; secrets are not told."""
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
    return ConfigReport(found, unsafe, _missing(settings))


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
