"""User code against the secrets of its backend: it has its variables, and never what only the broker has."""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.attacks import Target, started
from harness.certificates import make_authority, make_certificate
from harness.stack import SharedStacks, Stack
from harness.waiting import wait_until

_VARIABLE = "variable-" + secrets.token_hex(12)
_HEADER = "header-" + secrets.token_hex(12)
_HOST = """
import http.server, ssl

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        given = self.headers.get_all("Authorization")
        body = b"let in" if given == ["Bearer " + EXPECTED] else b"refused"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

server = http.server.ThreadingHTTPServer(("", 443), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain("/certs/host.pem", "/certs/host.key")
server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
_ASK = """
import urllib.request
def ask(url, **headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30).read().decode()
    except OSError as error:
        return repr(error)
"""
_SEARCH = """
import os, pathlib
def read(path):
    try:
        with open(path, "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
found = []
for root in ("/proc", "/run", "/tmp", "/work", "/dev/shm", os.getcwd(), *PLACES):
    for directory, inner, files in os.walk(root):
        inner[:] = [each for each in inner if each not in ("task", "map_files", "fd", "fdinfo", "sys", "gvisor")]
        found += [os.path.join(directory, name) for name in files if NEEDLE in read(os.path.join(directory, name))]
pid = str(os.getpid())
[path for path in found if not path.startswith(("/proc/self/", "/proc/thread-self/", f"/proc/{pid}/"))]
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


def render(variable: str = _VARIABLE, header: str = _HEADER, authorities: str = "") -> bytes:
    headers = [{"name": "Authorization", "value": f"Bearer {header}", "hosts": ["api.test:443"]}]
    content = {"variables": {"API_KEY": variable}, "headers": headers, "authorities": authorities}
    return json.dumps(content).encode()


@contextlib.contextmanager
def serving_host(stack: Stack, folder: Path) -> Iterator[tuple[str, str]]:
    """A host that answers `https://api.test` and `https://other.test`; yields its network and the subnet of that."""
    name = f"venvd-test-{secrets.token_hex(4)}"
    make_certificate(folder, "host", names="subjectAltName=DNS:api.test,DNS:other.test\nauthorityKeyIdentifier=keyid\n")
    with contextlib.ExitStack() as closing:
        docker("network", "create", "--label", "dev.venvd.test", name)
        closing.callback(docker, "network", "rm", name)
        aliases = [word for alias in ("api.test", "other.test") for word in ("--network-alias", alias)]
        docker(
            *("create", "--name", name, "--label", "dev.venvd.test", "--network", name, *aliases, "-u", "0"),
            *("--sysctl", "net.ipv4.ip_unprivileged_port_start=0"),
            *(stack.image.ref, "/env/bin/python", "/certs/host.py"),
        )
        closing.callback(docker, "rm", "-f", name)
        (folder / "certs").mkdir()
        # a file, since the command line of a process can be read on the machine
        (folder / "certs" / "host.py").write_text(f"EXPECTED = {_HEADER!r}\n{_HOST}")
        for file in ("host.pem", "host.key"):
            (folder / "certs" / file).write_bytes((folder / file).read_bytes())
        docker("cp", f"{folder}/certs", f"{name}:/certs")
        docker("start", name)
        yield name, json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"][0]["Subnet"]


def find_container(target: Target, role: str) -> str:
    labels = (f"label=dev.venvd.launch={target.running.record.launch_id}", f"label=dev.venvd.role={role}")
    return docker("ps", "-q", *(word for label in labels for word in ("--filter", label)))


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The authority of the site, which has signed the certificates of the hosts."""
    return make_authority(tmp_path_factory.mktemp("certs"))


@pytest.fixture(scope="module")
def docker_victim(stacks: SharedStacks, authority: Path) -> Iterator[Target]:
    """A backend with both kinds of secrets. Its list has a host that wants the header, and one that must not get it."""
    stack, folder = stacks.stack("docker"), authority.parent
    with serving_host(stack, folder) as (network, subnet), contextlib.ExitStack() as closing:
        settings = {"VENVD_NETWORK": "api.test,other.test", "VENVD_PRIVATE_NETWORKS": subnet}
        handed = render(authorities=authority.read_text())
        target = closing.enter_context(started(stack, "http", network="destinations", handed=handed, **settings))
        server = find_container(target, "server")
        docker("network", "connect", network, server)
        closing.callback(docker, "network", "disconnect", network, server)
        yield target


@pytest.fixture(scope="module")
def local_victim(stacks: SharedStacks) -> Iterator[Target]:
    """A backend of the engine local with both kinds of secrets."""
    with started(stacks.stack("local"), "http", handed=render()) as target:
        yield target


@pytest.mark.docker
def test_the_broker_adds_the_header(docker_victim: Target) -> None:
    """User code tries requests without the header and with its own: the host gets the broker's alone, by HTTPS."""
    asked = [f"{_ASK}\nask('http://api.test/')", f"{_ASK}\nask('http://api.test/', authorization='Bearer mine')"]
    assert [docker_victim.attack(code) for code in asked] == ["let in"] * 2


@pytest.mark.docker
@pytest.mark.parametrize("url", ["http://other.test:443/", "https://api.test/"])
def test_no_other_host_gets_the_header(docker_victim: Target, url: str) -> None:
    """User code tries a host that must not get the header, and a tunnel of its own: no host is told the secret."""
    code = f"import ssl; ssl._create_default_https_context = ssl._create_unverified_context\n{_ASK}\nask({url!r})"
    assert docker_victim.attack(code) != "let in"


@pytest.mark.docker
def test_a_change_reaches_new_requests(docker_victim: Target, authority: Path) -> None:
    """User code tries a request after a change: the broker adds what the file of secrets has by then."""
    ask, write = f"{_ASK}\nask('http://api.test/')", docker_victim.stack.engine.write_secrets
    write(docker_victim.running.record, render(header="other", authorities=authority.read_text()))
    wait_until(lambda: docker_victim.attack(ask) == "refused", "the broker adds the old header")
    write(docker_victim.running.record, render(authorities=authority.read_text()))
    wait_until(lambda: docker_victim.attack(ask) == "let in", "the broker does not add the new header")


@pytest.mark.docker
def test_trace_does_not_show_the_header(docker_victim: Target) -> None:
    """User code tries TRACE, which a host answers with the request that it got: the broker refuses that."""
    code = """
import http.client
connection = http.client.HTTPConnection("127.0.0.1", 3128, timeout=30)
connection.request("TRACE", "http://api.test/")
connection.getresponse().status
"""
    assert docker_victim.attack(code) == 400


@pytest.mark.docker
def test_docker_shows_no_secret(docker_victim: Target) -> None:
    """A user of Docker tries what the engine keeps of containers, images, volumes and logs: no value is there."""
    names = [find_container(docker_victim, role) for role in ("server", "worker")]
    images = [docker("inspect", "-f", "{{.Image}}", name) for name in names]
    volumes = docker(
        "volume", "ls", "-q", "--filter", f"label=dev.venvd.launch={docker_victim.running.record.launch_id}"
    )
    shown = [docker("inspect", *names), docker("volume", "inspect", *volumes.split())]
    shown += [docker("history", "--no-trunc", image) for image in images]
    shown += [docker("logs", name) for name in names] + [docker("exec", name, "env") for name in names]
    assert "API_KEY" not in shown[0]
    assert not [text for text in shown if _VARIABLE in text or _HEADER in text]
    mounted = {name: docker("inspect", "-f", "{{json .Mounts}}", name) for name in names}
    assert ["/run/venvd/secrets" in mounted[name] for name in names] == [True, False]
    kind = docker("exec", names[0], "stat", "-f", "-c", "%T", "/run/venvd/secrets")
    assert kind == "tmpfs"


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "local"])
def test_code_has_its_variables_alone(kind: str, request: pytest.FixtureRequest) -> None:
    """User code tries all files and processes that it can read: it has its variable, and finds no secret there."""
    target: Target = request.getfixturevalue(f"{kind}_victim")
    assert target.attack("import os; os.environ['API_KEY']") == _VARIABLE
    place = "" if kind == "docker" else str(target.stack.engine._launches._place.secrets.root)  # type: ignore[attr-defined]
    for secret in (_HEADER, _VARIABLE):
        # joined here, so that the code itself does not hold what it looks for
        needle = f"(bytes({list(secret.encode())}))"
        places = target.attack(f"NEEDLE, PLACES = {needle}, {[place] if place else []}\n{_SEARCH}", timeout=120)
        assert places == []


@pytest.mark.parametrize("kind", [pytest.param("docker", marks=pytest.mark.docker), "local"])
def test_a_change_reaches_new_sessions(kind: str, authority: Path, request: pytest.FixtureRequest) -> None:
    """User code tries its variable after a change: a session that runs keeps the old value, a new one has the new."""
    target: Target = request.getfixturevalue(f"{kind}_victim")
    read = "import os; os.environ['API_KEY']"
    engine, record = target.stack.engine, target.running.record

    def is_new() -> bool:
        with target.session() as session:
            return bool(target.attack(read, session) == "changed")

    engine.write_secrets(record, render("changed", authorities=authority.read_text()))
    wait_until(is_new, "a new session does not have the new value")
    assert target.attack(read) == _VARIABLE
    engine.write_secrets(record, render(authorities=authority.read_text()))
    wait_until(lambda: not is_new(), "a new session does not have the old value again")
