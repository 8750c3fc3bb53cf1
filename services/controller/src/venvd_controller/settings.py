"""The controller's settings: environment variables, read once by `main()`."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from venvd_contract.errors import InvalidRequest
from venvd_contract.resources import Backend, ConfigReport, Setting
from venvd_contract.session_requests import Limits
from venvd_controller.specs import is_loopback
from venvd_egress.addresses import parse_private_networks
from venvd_engines.engine import SHARED_KERNEL, EngineSettings
from venvd_engines.kubernetes.settings import KubernetesSettings
from venvd_http.origin import parse_origin_pattern
from venvd_http.proxies import parse_proxies
from venvd_http.tls import TlsFiles, choose_files

_CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_FALLBACKS = {"home": ("XDG_STATE_HOME",), "pipe_name_dir": ("TMPDIR",), "ca_bundle": _CA_VARIABLES}
"""Variables that a setting's default comes from."""


def default_home() -> Path:
    """Return the state directory of this user: `$XDG_STATE_HOME/venvd` or `~/.local/state/venvd`."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state") / "venvd"


def default_ca_bundle() -> Path | None:
    """Return the CA bundle of this process, so that builds use it too."""
    path = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), None)
    return Path(path) if path else None


def default_pipe_name_dir() -> Path:
    """Return the directory in which .NET looks for a pipe by its name."""
    return Path(os.environ.get("TMPDIR") or "/tmp")  # noqa: S108 - as .NET does


def default_source_dir() -> Path | None:
    """Find the sources of the servers: in the checkout of this package, else at their installed place."""
    checkout = Path(__file__).resolve().parents[4]
    for candidate in (checkout, Path("/usr/share/venvd")):
        if (candidate / "services").is_dir():
            return candidate
    return None


def _split_paths(text: Any) -> Any:
    """Split paths with `:` in between, as in PATH."""
    if not isinstance(text, str):
        return text
    paths = [Path(part).expanduser() for part in text.split(os.pathsep) if part]
    if not all(path.is_absolute() for path in paths):
        raise ValueError("takes absolute paths with : in between")
    return tuple(paths)


def _split_words(text: Any) -> Any:
    return tuple(text.replace(",", " ").split()) if isinstance(text, str) else text


def _parse_json(text: Any) -> Any:
    if not isinstance(text, str):
        return text
    try:
        return json.loads(text)
    except ValueError:
        raise ValueError("takes JSON") from None


def _is_http_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_limit(value: object) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


class Settings(BaseSettings):
    """Fields are the variables of the same name with the prefix `VENVD_`.

    Their docstrings are the descriptions of `venvd config` and of docs/settings.md. Durations are in seconds, sizes in
    bytes.
    """

    model_config = SettingsConfigDict(
        env_prefix="VENVD_",
        env_ignore_empty=True,
        frozen=True,
        extra="ignore",
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )

    home: Path = Field(default_factory=default_home)
    """Directory of the state, of `token` (mode 0600) and of `url`."""
    identity_dir: Path | None = None
    """Directory with `id`, `secret`, `token` and `metrics-token` of the home; on Kubernetes a mounted Secret."""
    run_dir: Path | None = None
    """Directory of the sockets that clients of pipe backends use."""
    pipe_name_dir: Path = Field(default_factory=default_pipe_name_dir)
    """Directory in which .NET looks for a pipe by its name: the `TMPDIR` of the clients."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=8600, ge=0, le=65535)
    """Port to listen on; 0 picks a free one."""
    url: str | None = None
    """Address by which clients reach the controller; also read by the CLI and the SDK."""
    token: SecretStr | None = None
    """The controller's token; also read by the CLI and the SDK."""
    engine: Literal["auto", "docker", "local", "kubernetes"] = "auto"
    """Where backends run: `auto`, `docker`, `local` or `kubernetes`."""
    base_image: str | None = None
    """Template of the base image, with `{version}` or `{minor}`."""
    index_url: SecretStr | None = None
    """Package index."""
    ca_bundle: Path | None = Field(default_factory=default_ca_bundle)
    """CA certificates for builds, and for HTTPS requests of the egress broker."""
    manifest: Path | None = None
    """File that declares what the controller keeps running."""
    metrics_token_file: Path | None = None
    """Copy of the metrics token, for a scraper that runs as another user."""
    database_url: SecretStr | None = None
    """SQLAlchemy URL of the database; `postgresql+psycopg://…` needs the extra `postgresql`, which the image has."""
    kubernetes_lease: str | None = None
    """Lease by which several controllers on one PostgreSQL choose their leader; without it there is one controller."""
    kubernetes_lease_pod: str | None = None
    """Pod of this controller; it has a label while the controller leads."""
    source_dir: Path | None = Field(default_factory=default_source_dir)
    """Directory with the sources of the servers, for the builds of their images."""
    docker_network: str | None = None
    """Network that servers join when the controller runs in a container."""
    kubernetes_namespace: str | None = None
    """Namespace of the engine kubernetes."""
    kubernetes_images: Annotated[dict[str, str], NoDecode, BeforeValidator(_parse_json)] = {}
    """References of the images `controller`, `http`, `rpc` and `pipe`, JSON."""
    kubernetes_registry: str | None = None
    """Registry and path of the images of venvs; their name is this and `/venv`."""
    kubernetes_registry_url: str | None = None
    """Address of that registry, if it is not `https://` and its host."""
    kubernetes_pull_secret: str | None = None
    """Secret with which pods pull images."""
    kubernetes_push_secret: str | None = None
    """Secret with which builds push images."""
    kubernetes_node_selector: Annotated[dict[str, str], NoDecode, BeforeValidator(_parse_json)] = {}
    """Labels of the nodes for backends and builds, JSON."""
    kubernetes_tolerations: Annotated[tuple[dict[str, Any], ...], NoDecode, BeforeValidator(_parse_json)] = ()
    """Tolerations of backends and builds, JSON."""
    kubernetes_priority_class: str | None = None
    """Priority class of backends."""
    kubernetes_owner: str | None = None
    """Secret that owns all objects of the engine: the cluster removes them with it."""
    kubernetes_apt_namespace: str | None = None
    """Namespace in which containers install Debian packages as root; without it, `aptPackages` are refused."""
    kubernetes_apt_owner: str | None = None
    """Secret in that namespace that owns the objects of builds there: the cluster removes them with it."""
    kubernetes_user_namespaces: bool = False
    """Pods run in user namespaces: their user IDs belong to no user of the node."""
    kubernetes_assemblies: Annotated[dict[str, dict[str, Any]], NoDecode, BeforeValidator(_parse_json)] = {}
    """Volumes with .NET assemblies by the directories that name them, JSON; `VENVD_HOST_DIRS` allows these."""
    kubernetes_egress_service: str | None = None
    """Service of the egress broker for pods whose network is a list of destinations."""
    kubernetes_egress_key_file: Path | None = None
    """File with the key that this broker shares with the controller."""
    uid_base: int = Field(default=200_000, ge=20_000, le=2_000_000_000)
    """First user ID of worker hosts; each home takes the next 1,000 that no other home on the engine has."""
    oci_runtime: str | None = None
    """OCI runtime of worker hosts, such as `runsc`."""
    private_networks: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)] = ()
    """Private networks that the destinations in `network` may be in, such as `10.1.0.0/16`, separated by commas."""
    allow_source_builds: bool = False
    """Builds may use source distributions, which run code of the packages they install."""
    host_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_paths)] = ()
    """Directories of the host, separated by `:`; specifications may name only files and directories below them."""
    local_dirs: Annotated[tuple[Path, ...], NoDecode, BeforeValidator(_split_paths)] = ()
    """Further directories, separated by `:`, that user code on the engine `local` may read and change."""
    max_operations: int = Field(default=32, ge=1, le=256)
    """Operations that run at a time."""
    max_builds: int = Field(default=2, ge=1, le=64)
    """Builds of venvs that run at a time."""
    max_starts: int | None = Field(default=None, ge=1, le=256)
    """Backends that start at a time; the others wait."""
    image_keep: float = Field(default=3600.0, ge=0)
    """How long an image stays after its last use."""
    auto_venv_keep: float = Field(default=7 * 86400.0, ge=0)
    """How long a venv that its client did not name (`auto-…`) stays after its last use; 0 is for ever."""
    reconcile_interval: float = Field(default=1.0, gt=0)
    """Pause between two turns of the reconcile loop."""
    start_timeout: float = Field(default=60.0, gt=0)
    """Time for a backend to become ready."""
    stop_grace: float = Field(default=5.0, ge=0)
    """Time for a backend to end before it is killed."""
    audit_rows: int = Field(default=100_000, ge=100)
    """Lines that the audit log keeps."""
    max_body: int = Field(default=8 << 20, ge=1024)
    """Size of one request, which may contain a lock."""
    stall_timeout: float = Field(default=60.0, gt=0)
    """Time that a client may pause in the middle of a request, or leave responses unread."""
    open_docs: bool = True
    """`/docs` and `/openapi.json` need no token."""
    accept_timeout: float = Field(default=10.0, gt=0, le=3600)
    """Time in which a new connection must send a request with a valid token."""
    max_unaccepted: int = Field(default=16, ge=1, le=1024)
    """Connections of one peer that have sent no such request yet."""
    unaccepted_bytes: int = Field(default=64 << 10, ge=4096, le=1 << 30)
    """Bytes of a request that the controller holds for such a connection."""
    max_wrong_tokens: int = Field(default=30, ge=1, le=1_000_000)
    """Wrong tokens of one peer in a minute; after more, each refusal takes longer than the one before."""
    allowed_origins: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)] = ()
    """Origins of the web pages that may send requests, such as `https://app.example.com`, separated by commas."""
    trusted_proxies: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_split_words)] = ()
    """Addresses and networks of reverse proxies whose `X-Forwarded-For` is trusted, separated by commas."""
    tls_cert: Path | None = None
    """Certificate chain of the controller, PEM; with it and its key, the port accepts only TLS."""
    tls_key: Path | None = None
    """Private key of that certificate, PEM."""
    tls_client_ca: Path | None = None
    """CA certificates, PEM; with them, clients must present a certificate that one of them has signed."""
    client_cert: Path | None = None
    """Certificate, PEM, that the controller presents when it passes calls on to backends with `tlsClientCa`."""
    client_key: Path | None = None
    """Private key of that certificate, PEM."""
    page: bool = True
    """Whether the controller serves a web page at `/`."""
    worker_memory_bytes: int = Field(default=2 << 30, ge=16 << 20)
    """Memory of each worker host."""
    worker_cpus: float = Field(default=2.0, gt=0)
    """CPUs of each worker host."""
    worker_processes: int = Field(default=256, ge=8)
    """Processes of each worker host."""
    worker_tmpfs_bytes: int = Field(default=512 << 20, ge=1 << 20)
    """Size of the writable directory of each worker host."""
    build_timeout: float = Field(default=1800.0, gt=0)
    """Time for each build."""
    build_memory_bytes: int = Field(default=4 << 30, ge=64 << 20)
    """Memory of each build."""
    build_cpus: float = Field(default=2.0, gt=0)
    """CPUs of each build."""
    preload_timeout: float = Field(default=30.0, gt=0, le=600)
    """Time to import a venv's `preload`; if it takes longer, sessions start without it."""
    spare_sessions: int = Field(default=2, ge=0, le=64)
    """Sessions that each backend forks ahead of use."""
    session_limits: str = "{}"
    """Default limits of sessions, JSON."""
    max_session_limits: str = "{}"
    """Highest limits of a session, JSON: a request for more is an error, and the defaults are lowered to them."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least level of the log: `debug`, `info`, `warning` or `error`."""

    @field_validator(
        "home",
        "identity_dir",
        "run_dir",
        "pipe_name_dir",
        "ca_bundle",
        "manifest",
        "metrics_token_file",
        "source_dir",
        "tls_cert",
        "tls_key",
        "tls_client_ca",
        "client_cert",
        "client_key",
    )
    @classmethod
    def _make_absolute(cls, path: Path | None) -> Path | None:
        return path.expanduser().absolute() if path else path

    @field_validator("url")
    @classmethod
    def _check_url(cls, text: str | None) -> str | None:
        if text is not None and not _is_http_url(text):
            raise ValueError("takes the address by which clients reach the controller, such as http://10.0.0.5:8600")
        return text

    @field_validator("base_image")
    @classmethod
    def _check_template(cls, text: str | None) -> str | None:
        try:
            if text is not None:
                text.format(version="3.13.5", minor="3.13")
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError(
                "takes an image's name with {version} or {minor} in it and no other braces: python:{version}-slim"
            ) from None
        return text

    @field_validator("allowed_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        try:
            return tuple(parse_origin_pattern(origin) for origin in origins)
        except InvalidRequest as error:
            raise ValueError(error.message) from None

    @field_validator("private_networks")
    @classmethod
    def _check_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, parse_private_networks(networks)))

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, proxies: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(map(str, parse_proxies(proxies)))

    @field_validator("session_limits", "max_session_limits")
    @classmethod
    def _check_limits(cls, text: str) -> str:
        known = [each.name for each in fields(Limits)]
        try:
            limits = json.loads(text)
        except ValueError:
            limits = None
        if not isinstance(limits, dict) or not set(limits) <= set(known) or not all(map(_is_limit, limits.values())):
            raise ValueError(f"takes a JSON object of {', '.join(known)}, each a whole number of at least 1, or null")
        return text

    @model_validator(mode="after")
    def _check_tls(self) -> Settings:
        choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)
        if bool(self.client_cert) != bool(self.client_key):
            raise ValueError("VENVD_CLIENT_CERT and VENVD_CLIENT_KEY belong together: set both, or neither")
        return self

    @model_validator(mode="after")
    def _check_lease(self) -> Settings:
        if self.kubernetes_lease is not None and (
            self.database_url is None or self.database_url.get_secret_value()[:6] == "sqlite"
        ):
            raise ValueError(
                "VENVD_KUBERNETES_LEASE needs a VENVD_DATABASE_URL of PostgreSQL: the controllers share their state"
            )
        return self

    @property
    def client_files(self) -> tuple[Path, Path] | None:
        """Certificate and key that the controller shows to backends."""
        return (self.client_cert, self.client_key) if self.client_cert and self.client_key else None

    @property
    def tls_files(self) -> TlsFiles | None:
        """The files of TLS, or None if the controller speaks plain HTTP."""
        return choose_files(self.tls_cert, self.tls_key, self.tls_client_ca)

    @property
    def sockets(self) -> Path:
        return self.run_dir or self.home / "run"

    @property
    def sqlite_file(self) -> Path:
        """The database of a home without PostgreSQL."""
        return self.home.absolute() / "controller.sqlite3"

    def get_database_url(self) -> str:
        """Return the SQLAlchemy URL of the database; it may hold a password."""
        return self.database_url.get_secret_value() if self.database_url else f"sqlite:///{self.sqlite_file}"

    def get_controller_socket(self, home_id: str) -> Path:
        """Return the path of the controller's socket; homes that share a run directory have one each."""
        return self.sockets / f"controller-{home_id}" / "controller.sock"

    def create_engine_settings(self, home_id: str) -> EngineSettings:
        return EngineSettings(
            home=self.home,
            home_id=home_id,
            run_dir=self.sockets,
            controller_socket=self.get_controller_socket(home_id),
            pipe_name_dir=self.pipe_name_dir,
            source_dir=self.source_dir,
            base_image=self.base_image,
            index_url=self.index_url.get_secret_value() if self.index_url else None,
            ca_bundle=self.ca_bundle,
            docker_network=self.docker_network,
            uid_base=self.uid_base,
            oci_runtime=self.oci_runtime,
            local_dirs=self.local_dirs,
            build_timeout=self.build_timeout,
            build_memory_bytes=self.build_memory_bytes,
            build_cpus=self.build_cpus,
            allow_source_builds=self.allow_source_builds,
            kubernetes=KubernetesSettings(
                controller_url=self.url,
                controller_certificate=self.tls_cert,
                **{
                    each.name: getattr(self, f"kubernetes_{each.name}")
                    for each in fields(KubernetesSettings)
                    if not each.name.startswith("controller_")
                },
            ),
        )


_SIMILAR = 0.9
"""The similarity from which one name counts as a misspelling of another."""


def create_report(
    settings: Settings, gaps: Sequence[str], backends: Sequence[Backend], problems: Sequence[str]
) -> ConfigReport:
    """List every setting with its source, the guards that are off, and what does not work. Secrets are not shown."""
    shown = []
    for name, field in type(settings).model_fields.items():
        variable = _find_variable(name)
        source = "environment" if variable else "default"
        shown.append(
            Setting(f"VENVD_{name.upper()}", _render(getattr(settings, name)), source, variable, field.description)
        )
    unsafe = [gap for gap in gaps if "VENVD_" in gap]  # one that a setting closes names the setting
    if not is_loopback(settings.host) and settings.tls_files is None:
        unsafe.append(
            f"the controller listens beyond loopback ({settings.host}) without VENVD_TLS_CERT: its token crosses the "
            "network unencrypted"
        )
    if settings.allow_source_builds:
        unsafe.append("source distributions may be built: a build runs code of the packages it installs")
    for backend in backends:
        if backend.spec.ociRuntime in SHARED_KERNEL and settings.oci_runtime not in {None, *SHARED_KERNEL}:
            unsafe.append(
                f'the backend "{backend.name}" runs with {backend.spec.ociRuntime}, on the kernel of the host'
            )
        if not backend.spec.token:
            unsafe.append(f'the backend "{backend.name}" serves without a token')
        if backend.type != "pipe" and not is_loopback(backend.spec.host):
            unsafe.append(f'the backend "{backend.name}" is published beyond loopback ({backend.spec.host})')
    open_gaps = [gap for gap in gaps if gap not in unsafe]
    return ConfigReport(shown, unsafe, [*_list_missing(settings), *problems], open_gaps)


def _find_variable(field: str) -> str | None:
    """Find the environment variable that a setting's value comes from: its own, or one of its default."""
    candidates = (f"VENVD_{field.upper()}", *_FALLBACKS.get(field, ()))
    defined = {name.upper() for name, value in os.environ.items() if value}
    return next((name for name in candidates if name in defined), None)


def _list_missing(settings: Settings) -> list[str]:
    missing = []
    if settings.ca_bundle is not None and not settings.ca_bundle.is_file():
        missing.append(f"{_find_variable('ca_bundle')}: there is no file {settings.ca_bundle}")
    if settings.source_dir is None or not (settings.source_dir / "services").is_dir():
        place = f" below {settings.source_dir}" if settings.source_dir else ""
        missing.append(f"VENVD_SOURCE_DIR: no sources of the servers{place}; their images cannot be built")
    return [*missing, *_list_misspelt()]


def _list_misspelt() -> Iterator[str]:
    """List the variables whose names are nearly those of settings, and which therefore set nothing."""
    known = [f"VENVD_{field.upper()}" for field in Settings.model_fields]
    for name in sorted(os.environ):
        if name.startswith("VENVD_") and name not in known:
            for similar in difflib.get_close_matches(name, known, 1, _SIMILAR):
                yield f"{name}: there is no such setting; is {similar} meant?"


def _render(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return "(set)"
    if isinstance(value, tuple):
        return (os.pathsep if any(isinstance(part, Path) for part in value) else ",").join(map(str, value))
    return str(value) if isinstance(value, Path) else value
