"""The SDK through the reverse proxies of docs/exposing.md: nothing is held up, cut off or too large for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from harness import proxies
from harness.certificates import make_authority, make_certificate
from harness.stack import Running, SharedStacks

import venvd

pytestmark = [pytest.mark.slow, pytest.mark.needs("openssl")]

KINDS = {"http": ("https", "api.example.com"), "rpc": ("grpcs", "rpc.example.com")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("tls")
    make_authority(made)
    make_certificate(made, "server")
    return made


@pytest.fixture(scope="module")
def backends(stacks: SharedStacks) -> dict[str, Running]:
    stack = stacks.stack("local")
    return {kind: stacks.backend(stack, kind) for kind in KINDS}


@pytest.fixture(scope="module", params=["nginx", "caddy"])
def ports(request: pytest.FixtureRequest, backends: dict[str, Running], folder: Path) -> Iterator[dict[str, int]]:
    """A proxy in front of both; the place of the controller leads to the HTTP backend."""
    upstreams = {name: urlsplit(backends[kind].url).port or 0 for kind, (_, name) in KINDS.items()}
    upstreams["venvd.example.com"] = upstreams["api.example.com"]
    with proxies.running(request.param, upstreams, (folder / "server.pem", folder / "server.key")) as found:
        yield found


@pytest.fixture(params=list(KINDS))
def backend(
    request: pytest.FixtureRequest, ports: dict[str, int], backends: dict[str, Running], folder: Path
) -> Iterator[venvd.Backend]:
    scheme, name = KINDS[request.param]
    url = f"{scheme}://localhost:{ports[name]}"
    with venvd.connect(url, backends[request.param].token, ca=str(folder / "ca.pem")) as found:
        yield found


def test_calls_and_large_bodies(backend: venvd.Backend) -> None:
    """Calls, errors and files of megabytes pass in both directions."""
    with backend.sessions.create() as session:
        assert session.eval("6 * 7") == 42
        with pytest.raises(ZeroDivisionError):
            session.eval("1 / 0")
        data = bytes(range(256)) * 80_000
        session.files.put("data", data)
        assert session.eval("len(open('data', 'rb').read())") == len(data)
        assert session.files.get("data") == data


def test_output_comes_while_code_runs(backend: venvd.Backend) -> None:
    """A proxy passes output on at once: the code waits for what its client does on reading the first line."""
    code = "import os, time\nprint('begun', flush=True)\nwhile not os.path.exists('go'): time.sleep(0.01)\nprint('end')"
    with backend.sessions.create() as session:
        printed = ""
        for event in session.exec_stream(code):
            if event.kind == "stdout":
                printed += event.data
                if printed == "begun\n":
                    session.files.put("go", b"")
        assert printed == "begun\nend\n"
