"""User code against the broker of its network, on the docker engine: where it gets beside what its list names."""

from __future__ import annotations

import contextlib
import errno
import json
import secrets
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from harness.attacks import Target, started
from harness.stack import SharedStacks, Stack
from harness.waiting import wait_until

pytestmark = pytest.mark.docker

_HOST = """
import http.server

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        moved = self.path.startswith("/to/")
        self.send_response(302 if moved else 200)
        if moved:
            self.send_header("Location", self.path[4:])
        body = repr((self.path, self.headers.items())).encode()
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", 80), Handler).serve_forever()
"""
_ASK = """
import socket

def ask(request, port=3128):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer.decode("latin-1")
"""


def docker(*arguments: str) -> str:
    return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=True).stdout.strip()


@dataclass
class Site:
    """A private network with a host in it that answers at `site.test` and `other.test`."""

    name: str
    subnet: str
    address: str


@pytest.fixture(scope="module")
def engine(stacks: SharedStacks) -> Stack:
    return stacks.stack("docker")


@pytest.fixture(scope="module")
def site(engine: Stack) -> Iterator[Site]:
    name = f"venvd-test-{secrets.token_hex(4)}"
    with contextlib.ExitStack() as closing:
        docker("network", "create", "--label", "dev.venvd.test", name)
        closing.callback(docker, "network", "rm", name)
        aliases = [word for alias in ("site.test", "other.test") for word in ("--network-alias", alias)]
        command = [engine.image.ref, "/env/bin/python", "-c", _HOST]
        docker(
            "run", "-d", "--name", name, "--label", "dev.venvd.test", "--network", name, *aliases, "-u", "0", *command
        )
        closing.callback(docker, "rm", "-f", name)
        network = json.loads(docker("inspect", name))[0]["NetworkSettings"]["Networks"][name]
        subnet = json.loads(docker("network", "inspect", name))[0]["IPAM"]["Config"][0]["Subnet"]
        yield Site(name, subnet, network["IPAddress"])


@pytest.fixture(scope="module")
def victim(engine: Stack, site: Site) -> Iterator[Target]:
    """A backend whose list has the host, and names of places that it must not reach."""
    destinations = "site.test,localhost,*.internal.test:8080,metadata.google.internal"
    settings = {"VENVD_NETWORK": destinations, "VENVD_PRIVATE_NETWORKS": site.subnet}
    with started(engine, "http", network="destinations", **settings) as target:
        labels = (f"label=dev.venvd.launch={target.running.record.launch_id}", "label=dev.venvd.role=server")
        server = docker("ps", "-q", *(word for label in labels for word in ("--filter", label)))
        docker("network", "connect", site.name, server)
        try:
            yield target
        finally:
            docker("network", "disconnect", site.name, server)


def ask(victim: Target, request: str) -> str:
    """Return the answer of the proxy to the bytes of a request."""
    answer: str = victim.attack(f"{_ASK}\nask({request!r}.encode('latin-1'))")
    return answer


def read_log(victim: Target) -> str:
    return "\n".join(line.text for line in victim.stack.engine.logs(victim.running.record, 1000, follow=False))


def test_a_destination_of_the_list_is_reached(victim: Target) -> None:
    """User code tries a page of its list with the standard library, which finds the proxy: it gets the page."""
    page = victim.attack("import urllib.request; urllib.request.urlopen('http://site.test/page').read().decode()")
    assert "'/page'" in page
    assert "('Host', 'site.test')" in page


def test_the_reason_of_a_refusal_is_shown(victim: Target) -> None:
    """User code tries a page of another site by HTTPS: the error of its library names the domain and the way."""
    code = """
import urllib.request
try:
    urllib.request.urlopen("https://unlisted.test/")
except OSError as error:
    answer = str(error)
answer
"""
    assert 'unlisted.test:443 is not allowed: add "unlisted.test" to the list "network"' in victim.attack(code)
    wait_until(lambda: "unlisted.test" in read_log(victim), "the log does not have the refusal")


@pytest.mark.parametrize("address", ["8.8.8.8", "172.17.0.1", "169.254.169.254"])
def test_there_is_no_way_beside_the_broker(victim: Target, site: Site, address: str) -> None:
    """User code tries to connect past the broker, also to the host of its list: no route exists."""
    code = """
import socket
def reach(address):
    with socket.socket() as s:
        s.settimeout(5)
        return s.connect_ex((address, 80))
"""
    unreachable = {errno.ENETUNREACH, errno.EHOSTUNREACH}
    assert victim.attack(f"{code}\nreach({address!r})") in unreachable
    assert victim.attack(f"{code}\nreach({site.address!r})") in unreachable


@pytest.mark.parametrize(
    "target",
    [
        *("CONNECT other.test:80", "CONNECT site.test:22", "CONNECT site.test:8080", "CONNECT xsite.test:443"),
        *(
            "CONNECT a.site.test:443",
            "CONNECT internal.test:8080",
            "CONNECT 169.254.169.254:80",
            "CONNECT 10.0.0.1:443",
        ),
        *("CONNECT 127.0.0.1:5678", "CONNECT [::1]:5678", "CONNECT [::ffff:127.0.0.1]:5678", "CONNECT [fe80::1]:80"),
        *("GET http://169.254.169.254/", "GET http://[::ffff:a9fe:a9fe]/", "GET http://other.test/"),
        *("GET http://site.test.other.test/", "GET http://site.test:8080/", "GET https://other.test/"),
    ],
)
def test_other_destinations_are_refused(victim: Target, target: str) -> None:
    """User code tries addresses, other ports, and names like one of its list: each gets 403 with the reason."""
    answer = ask(victim, f"{target} HTTP/1.1\r\nHost: site.test\r\n\r\n")
    assert answer.startswith("HTTP/1.1 403 Forbidden: ")
    assert 'to the list "network"' in answer.partition("\r\n")[0]


def test_the_address_of_the_host_is_no_name(victim: Target, site: Site) -> None:
    """User code tries the address of a host of its list: only the name is in the list."""
    assert ask(victim, f"CONNECT {site.address}:80 HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 403 Forbidden: ")


@pytest.mark.parametrize("target", ["CONNECT localhost:443", "GET http://localhost/", "GET http://LOCALHOST./"])
def test_names_of_internal_addresses_are_refused(victim: Target, target: str) -> None:
    """User code tries a name of its list that leads into the server's own container: the address decides."""
    answer = ask(victim, f"{target} HTTP/1.1\r\n\r\n")
    assert "the broker refuses internal addresses" in answer.partition("\r\n")[0]


@pytest.mark.parametrize(
    "host", ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "site.test@other.test", "site.test%2eother.test", "*"]
)
def test_disguised_hosts_are_refused(victim: Target, host: str) -> None:
    """User code tries forms of a host that another program may read in another way: none is a host here."""
    for request in (f"CONNECT {host}:80", f"GET http://{host}/"):
        assert ask(victim, f"{request} HTTP/1.1\r\n\r\n").startswith("HTTP/1.1 400 Bad Request: ")


def test_a_redirect_leads_nowhere_else(victim: Target) -> None:
    """A host of the list tries to send user code to the metadata service: the next request is checked as the first."""
    code = """
import urllib.request
try:
    urllib.request.urlopen("http://site.test/to/http://169.254.169.254/latest")
except OSError as error:
    answer = str(error)
answer
"""
    assert "169.254.169.254:80 is not allowed" in victim.attack(code)


@pytest.mark.parametrize(
    "head",
    [
        *(
            "X: a\rHost: other.test",
            "X: a\nHost: other.test",
            "X: a\0b",
            " folded",
            "X : a",
            "Content-Length: 1\r\nContent-Length: 2",
        ),
        *("Transfer-Encoding: chunked\r\nContent-Length: 5", "Transfer-Encoding: x, chunked", "Content-Length: -1"),
    ],
)
def test_unclear_requests_are_refused(victim: Target, head: str) -> None:
    """User code tries heads that the broker and a host could read in two ways: each gets 400."""
    assert ask(victim, f"POST http://site.test/ HTTP/1.1\r\n{head}\r\n\r\n").startswith("HTTP/1.1 400 ")


def test_a_hidden_request_reaches_no_host(victim: Target) -> None:
    """User code tries to hide a second request behind a first one: one connection carries one request."""
    hidden = "GET http://other.test/hidden HTTP/1.1\r\n\r\n"
    answer = ask(victim, f"GET http://site.test/ HTTP/1.1\r\nContent-Length: 0\r\n\r\n{hidden}")
    assert answer.count("HTTP/1.1 ") == 1
    assert "hidden" not in answer


def test_the_header_of_the_host_is_the_broker_s(victim: Target) -> None:
    """User code tries to ask a shared host for another site by its header: the host gets the name that was checked."""
    answer = ask(victim, "GET http://site.test/ HTTP/1.1\r\nHost: other.test\r\n\r\n")
    assert "('Host', 'site.test')" in answer
    assert "other.test" not in answer


def test_connections_without_end_stay_inside(victim: Target) -> None:
    """User code tries to open connections without end: further ones are told so, and room comes back with their end."""
    code = """
import socket, time, urllib.request
held = [socket.create_connection(("127.0.0.1", 3128)) for _ in range(300)]
refused = sum(1 for each in held[256:] if each.recv(100).startswith(b"HTTP/1.1 503 "))
for each in held:
    each.close()
while True:
    try:
        status = urllib.request.urlopen("http://site.test/").status
        break
    except OSError:
        time.sleep(0.05)
(refused, status)
"""
    assert victim.attack(code) == [44, 200]


def test_the_forwarder_comes_back(victim: Target) -> None:
    """User code tries to end the forwarder, of its own user: the kernel refuses, or the warden replaces it."""
    code = """
import glob, os, signal, time, urllib.request
for path in glob.glob("/proc/[0-9]*/cmdline"):
    try:
        if b"forwarder" in open(path, "rb").read():
            os.kill(int(path.split("/")[2]), signal.SIGKILL)
    except OSError:
        pass
while True:
    try:
        status = urllib.request.urlopen("http://site.test/").status
        break
    except OSError:
        time.sleep(0.05)
status
"""
    assert victim.attack(code) == 200


def test_refusals_are_counted(victim: Target) -> None:
    """User code tries a destination in vain: the metrics of the backend count it."""

    def count() -> float:
        with victim.probes.open() as raw:
            raw.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n")
            raw.send(f"Authorization: Bearer {victim.running.token}\r\n\r\n".encode())
            text = raw.rest().decode()
        line = next(line for line in text.splitlines() if line.startswith('venvd_egress_refused_total{reason="dest'))
        return float(line.split()[-1])

    before = count()
    ask(victim, "CONNECT counted.test:443 HTTP/1.1\r\n\r\n")
    wait_until(lambda: count() > before, "the refusal is not counted")
