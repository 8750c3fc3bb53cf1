"""Reverse proxies as the documentation configures them: real programs, from Debian's packages."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from harness.ports import free_port
from harness.stack import ROOT
from harness.waiting import TIMEOUT, wait_until

PAGE = ROOT / "docs" / "exposing.md"
NAMES = ("venvd.example.com", "api.example.com", "rpc.example.com")
"""The names of the examples: controller, HTTP backend, gRPC backend."""


def find_program(name: str) -> str:
    """Find a proxy, or fetch Debian's package of its name; the test is skipped where there is none."""
    program_path = shutil.which(name)
    if program_path is not None:
        return program_path
    cache = Path(os.environ.get("VENVD_CACHE") or Path.home() / ".cache" / "venvd") / "proxies"
    if not (cache / name).exists():
        try:
            _fetch(name, cache)
        except (OSError, subprocess.SubprocessError, StopIteration) as error:
            pytest.skip(f"no {name}, and Debian's package cannot be fetched: {error}")
    return str(cache / name)


def _fetch(name: str, cache: Path) -> None:
    with tempfile.TemporaryDirectory() as directory:
        download = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", name]
        if subprocess.run(download, cwd=directory, capture_output=True, timeout=300, check=False).returncode != 0:
            subprocess.run(["apt-get", "-qq", "update"], capture_output=True, timeout=300, check=True)
            subprocess.run(download, cwd=directory, capture_output=True, timeout=300, check=True)
        package = next(Path(directory).glob("*.deb"))
        subprocess.run(["dpkg-deb", "-x", package, "unpacked"], cwd=directory, timeout=300, check=True)
        program = next(path for path in Path(directory, "unpacked", "usr").glob(f"*bin/{name}"))
        cache.mkdir(parents=True, exist_ok=True)
        partial = cache / f"{name}.{os.getpid()}"
        shutil.copy2(program, partial)
        partial.rename(cache / name)


def read_example(language: str) -> str:
    """Return the configuration that the page shows in a language."""
    [example] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    return str(example)


@contextlib.contextmanager
def running(program: str, upstreams: Mapping[str, int], certificate: tuple[Path, Path]) -> Iterator[dict[str, int]]:
    """Run the example of a proxy in front of upstream ports by name; yield its own ports by name."""
    ports = {name: free_port() for name in NAMES}
    with tempfile.TemporaryDirectory(prefix="proxy-") as directory:
        write = _write_nginx if program == "nginx" else _write_caddy
        command = write(Path(directory), ports, upstreams, certificate)
        with Path(directory, "log").open("wb") as log:
            process = subprocess.Popen(
                [find_program(program), *command], stdout=log, stderr=log, env={**os.environ, "HOME": directory}
            )

        def answers() -> bool:
            assert process.poll() is None, Path(directory, "log").read_text()
            with contextlib.suppress(OSError):
                for port in ports.values():
                    socket.create_connection(("127.0.0.1", port), 5).close()
                return True
            return False

        try:
            wait_until(answers, lambda: Path(directory, "log").read_text())
            yield ports
        finally:
            process.terminate()
            process.wait(TIMEOUT)


def _fill_in(example: str, upstreams: Mapping[str, int], certificate: tuple[Path, Path]) -> str:
    for name, usual in zip(NAMES, (8600, 5678, 50051), strict=True):
        example = example.replace(f"127.0.0.1:{usual}", f"127.0.0.1:{upstreams[name]}")
    for usual_path, path in zip(("cert.pem", "key.pem"), certificate, strict=True):
        example = example.replace(f"/etc/venvd/tls/{usual_path}", str(path))
    return example


def _write_nginx(
    directory: Path, ports: Mapping[str, int], upstreams: Mapping[str, int], certificate: tuple[Path, Path]
) -> list[str]:
    example = _fill_in(read_example("nginx"), upstreams, certificate)
    for name in NAMES:
        place = example.index("listen 443")
        example = example[:place] + f"listen 127.0.0.1:{ports[name]}" + example[place + len("listen 443") :]
        example = example.replace(f"server_name {name}", "server_name localhost")
    places = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{place}_temp_path {directory}/{place};\n" for place in places)
    head = f"daemon off;\nerror_log {directory}/log;\npid {directory}/pid;\nevents {{}}\n"
    (directory / "conf").write_text(f"{head}http {{\naccess_log off;\n{temporary}{example}}}\n")
    return ["-c", f"{directory}/conf", "-p", str(directory), "-e", f"{directory}/log"]


def _write_caddy(
    directory: Path, ports: Mapping[str, int], upstreams: Mapping[str, int], certificate: tuple[Path, Path]
) -> list[str]:
    example = _fill_in(read_example("caddyfile"), upstreams, certificate)
    for name in NAMES:
        example = example.replace(f"{name} {{", f"https://localhost:{ports[name]} {{")
    options = "{\n    admin off\n    auto_https disable_redirects\n    default_bind 127.0.0.1\n}\n"
    (directory / "Caddyfile").write_text(options + example)
    return ["run", "--config", f"{directory}/Caddyfile", "--adapter", "caddyfile"]
