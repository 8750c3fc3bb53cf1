"""Backends on an engine, started without a controller."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import itertools
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from harness.engines import OCI_RUNTIME, open_settings
from venvd_contract.errors import Cancelled
from venvd_engines.engine import Engine, EngineSettings, Image, Launch, LaunchRecord, Port, VenvBuild
from venvd_engines.select import choose

ROOT = Path(__file__).resolve().parents[2]
PORTS = {
    "http": (Port("main", 5678, 25678),),
    "pipe": (),
    "rpc": (Port("main", 50051, 25051), Port("http", 8080, 28080)),
}


class Quiet:
    """Progress that keeps the log for the message of a failure."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def phase(self, name: str) -> None:
        self.lines.append(f"== {name}")

    def log(self, line: str) -> None:
        self.lines.append(line)

    def check(self) -> None:
        if len(self.lines) > 100_000:
            raise Cancelled("the log never ends")


@dataclass(frozen=True)
class Running:
    url: str
    token: str
    record: LaunchRecord


class Stack:
    """One engine, one venv, and the backends started from it."""

    def __init__(self, engine: Engine, image: Image, home: Path, run_dir: Path) -> None:
        self.engine = engine
        self.image = image
        self.home = home
        self.run_dir = run_dir
        self._user_ids = itertools.cycle(engine.claim_user_ids() or [None])

    def start(
        self,
        kind: str,
        *,
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        oci_runtime: str | None = None,
        network: bool | Literal["destinations"] = False,
        handed: bytes = Launch.secrets,
        files: Mapping[str, Path] | None = None,
        **server_env: str,
    ) -> Running:
        """A backend that is ready; `env` is the venv's own, `handed` its secrets, `files` are the server's."""
        self.engine.prepare(kind, Quiet())
        token = secrets.token_urlsafe(16)
        launch_id = secrets.token_hex(6)
        launch = Launch(
            id=launch_id,
            name=f"conformance-{launch_id}",
            type=kind,
            image=self.image,
            server_env={
                "VENVD_NAME": f"conformance-{kind}",
                "VENVD_VENV": "bare",
                "VENVD_TOKEN_SHA256": hashlib.sha256(token.encode()).hexdigest(),
                **server_env,
            },
            server_files=files or {},
            worker_env=env or {},
            preload=preload,
            ports=PORTS[kind],
            socket_name=f"c-{kind}-{secrets.token_hex(2)}" if kind == "pipe" else None,
            user_id=next(self._user_ids),
            oci_runtime=oci_runtime,
            network=network,
            secrets=handed,
        )
        record = self.engine.start(launch, Quiet())
        try:
            wait_ready(record.probe_url)
        except TimeoutError as error:
            lines = [line.text for line in self.engine.logs(record, 40, follow=False)]
            self.engine.destroy(record)
            raise AssertionError("\n".join([str(error), *lines])) from None
        return Running(record.url, token, record)

    def stop(self, running: Running) -> None:
        self.engine.stop(running.record, 5.0)
        self.engine.destroy(running.record)


def make_home_id() -> str:
    """The identity of a home of tests: `.ci/run` knows by it what interrupted tests have left."""
    return f"test-{secrets.token_hex(6)}"


@contextlib.contextmanager
def engine_stack(
    name: str, home: Path, requirements: tuple[str, ...] = (), python: str | None = None
) -> Iterator[Stack]:
    """An engine of its own home with one venv; everything it started is destroyed at the end."""
    python = python or f"3.{sys.version_info.minor}"
    run_dir = Path("/tmp") / f"venvd-run-{secrets.token_hex(3)}"  # socket paths are short
    run_dir.mkdir(mode=0o755)
    with open_settings(name) as fields:
        settings = EngineSettings(
            home=home,
            home_id=make_home_id(),
            run_dir=run_dir,
            source_dir=ROOT,
            ca_bundle=_ca_bundle(),
            oci_runtime=None if name == "local" else OCI_RUNTIME,
            **fields,
        )
        engine, _ = choose(name, settings)
        progress = Quiet()
        image = None
        try:
            runtime = engine.resolve(python, progress)
            image = engine.build(VenvBuild(runtime, engine.lock(runtime, requirements, progress)), progress)
            yield Stack(engine, image, home, run_dir)
        finally:
            with ThreadPoolExecutor(4) as pool:
                list(pool.map(engine.destroy_owned, engine.list_owned()))
            engine.sweep()
            if image is not None:
                engine.remove_image(image.key)
            getattr(engine, "close", lambda: None)()
            if name == "docker":
                remove_images(settings.home_id)
            for path in sorted(run_dir.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            run_dir.rmdir()


_BackendKey = tuple[Stack, str, str, tuple[str, ...], frozenset[tuple[str, str]], frozenset[tuple[str, str]]]


class SharedStacks:
    """Stacks and backends that suites share within one test process: each is made when first asked for.

    Tests get sessions of their own, and leave the backend as they found it. A suite that harms its backend starts one
    of its own from the shared stack.
    """

    def __init__(self, make_home: Callable[[str], Path]) -> None:
        self._make_home = make_home
        self._stacks: dict[tuple[str, tuple[str, ...]], Stack] = {}
        self._backends: dict[_BackendKey, Running] = {}
        self._closing = contextlib.ExitStack()

    def stack(self, engine: str, *requirements: str) -> Stack:
        key = (engine, requirements)
        if key not in self._stacks:
            self._stacks[key] = self._closing.enter_context(engine_stack(engine, self._make_home(engine), requirements))
        return self._stacks[key]

    def backend(
        self,
        stack: Stack,
        kind: str,
        *,
        role: str = "",
        preload: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        **settings: str,
    ) -> Running:
        """A backend of this type, with these settings; two of the same settings have different roles."""
        given = frozenset((env or {}).items()), frozenset(settings.items())
        key = (stack, kind, role, tuple(preload), *given)
        if key not in self._backends:
            self._backends[key] = stack.start(kind, preload=preload, env=env, **settings)
        return self._backends[key]

    def discard(self, running: Running) -> None:
        """Destroy a backend that a test has harmed: the next test that asks gets a new one."""
        for key, backend in list(self._backends.items()):
            if backend is running:
                del self._backends[key]
                key[0].stop(running)

    def close(self) -> None:
        """Destroy all stacks, their backends with them."""
        self._closing.close()


def remove_images(home_id: str) -> None:
    """Images and volumes that carry the home's label, and its tags of servers' images."""
    label = f"label=dev.venvd.home={home_id}"
    for kind, force in (("image", "--force"), ("volume", "--force")):
        listed = subprocess.run(
            ["docker", kind, "ls", "--quiet", "--filter", label], capture_output=True, text=True, check=True
        )
        if names := sorted(set(listed.stdout.split())):
            subprocess.run(["docker", kind, "rm", force, *names], capture_output=True, check=False)
    held = ["docker", "image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]
    held += ["--filter", f"reference=venvd/*-backend:{home_id}-*"]
    if tags := subprocess.run(held, capture_output=True, text=True, check=True).stdout.split():
        subprocess.run(["docker", "image", "rm", *tags], capture_output=True, check=False)


def _ca_bundle() -> Path | None:
    named = os.environ.get("VENVD_CA_BUNDLE") or os.environ.get("SSL_CERT_FILE")
    return Path(named) if named else None


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout: float = 60) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def probe(url: str, path: str) -> int:
    """The status of a GET."""
    return fetch(url, path)[0]


def fetch(url: str, path: str, token: str | None = None) -> tuple[int, bytes]:
    """Status and body of a GET."""
    parts = urlsplit(url)
    connection: http.client.HTTPConnection
    if parts.scheme == "unix":
        connection = UnixConnection(parts.path)
    elif parts.scheme == "https":
        connection = http.client.HTTPSConnection(parts.netloc, timeout=60, context=_create_open_context())
    else:
        connection = http.client.HTTPConnection(parts.netloc, timeout=60)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _create_open_context() -> ssl.SSLContext:
    """Create what takes any certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def wait_ready(url: str, seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    last: object = "nothing tried"
    while time.monotonic() < end:
        try:
            last = probe(url, "/readyz")
            if last == http.client.OK:
                return
        except OSError as error:
            last = error
        time.sleep(0.05)
    raise TimeoutError(f"{url} is not ready after {seconds} s: {last}")
