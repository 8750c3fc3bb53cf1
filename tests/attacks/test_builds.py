"""A package that is built from source against the engine, its secrets, and the builds of other venvs."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from harness.bench import Bench, opened
from harness.index import PASSWORD, USER, serving
from harness.stack import Quiet

from venvd_engines.docker import labels
from venvd_engines.docker.client import DockerClient

pytestmark = [pytest.mark.docker, pytest.mark.network]

LOOK_AROUND = """
import os

def read(path):
    try:
        return open(path, "rb").read(1 << 20).decode("utf-8", "replace")
    except OSError:
        return ""

def run():
    running = [f"/proc/{pid}" for pid in os.listdir("/proc") if pid.isdigit()]
    processes = [f"{process}/{name}" for process in running for name in ("environ", "cmdline")]
    files = [
        os.path.join(folder, name)
        for top in ("/tmp", "/root", "/etc", "/run", os.environ["HOME"])
        for folder, _, names in os.walk(top)
        for name in names
    ]
    texts = {path: read(path) for path in [*processes, *files]}
    mounts = [line.split()[4] for line in read("/proc/self/mountinfo").splitlines()]
    caches = [mount for mount in mounts if "cache" in mount]
    for cache in caches:
        open(os.path.join(cache, "poison"), "w").close()
    secret = sorted(path for path, text in texts.items() if "DROWSSAP"[::-1] in text)
    return {"seen": len(texts), "secret": secret, "caches": caches}
"""
REACH_OUT = """
import os, socket
from urllib.parse import urlsplit

def direct(address, port):
    try:
        socket.create_connection((address, port), 5).close()
    except OSError:
        return False
    return True

def ask(text):
    proxy = urlsplit(os.environ["HTTP_PROXY"])
    with socket.create_connection((proxy.hostname, proxy.port), 30) as connection:
        connection.sendall(text.encode() + b"\\r\\nHost: x\\r\\n\\r\\n")
        return connection.makefile("rb").readline().decode().split()[1]

def run():
    places = PLACES
    return {
        "direct": [place for place in places if direct(*place)],
        "connect": {f"{a}:{p}": ask(f"CONNECT {a}:{p} HTTP/1.1") for a, p in places},
        "get": {f"{a}:{p}": ask(f"GET http://{a}:{p}/latest/meta-data HTTP/1.1") for a, p in places},
        "post": ask("POST /index/ HTTP/1.1"),
        "index": ask("GET /index/reaching/ HTTP/1.1"),
    }
"""


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """An engine that builds from source, with an index of ours on an internal address, behind a password."""
    described = subprocess.run(["docker", "network", "inspect", "bridge"], capture_output=True, check=True).stdout
    subnet = json.loads(described)[0]["IPAM"]["Config"][0]["Subnet"]
    gateway = str(next(ipaddress.ip_network(subnet).hosts()))
    places = [(gateway, 22), ("169.254.169.254", 80), ("10.0.0.1", 80), ("localhost", 80)]
    places += [("[::ffff:169.254.169.254]", 80), ("0.0.0.0", 80), ("2852039166", 80)]
    attacks = {
        "looking": LOOK_AROUND.replace("DROWSSAP", PASSWORD[::-1]),
        "reaching": REACH_OUT.replace("PLACES", repr(places)),
    }
    with (
        serving(gateway, {"tool": {"tool.py": ""}}, attacks) as url,
        opened("docker", index_url=url, allow_source_builds=True) as made,
    ):
        yield made


def build(bench: Bench, name: str) -> Any:
    """Build a venv with a package of `attacks`, and return what its code found."""
    image = bench.engine.build(bench.wanted(name), Quiet())
    command = ["docker", "run", "--rm", "--network", "none", image.ref, "/env/bin/python", "-c"]
    code = f"import {name}; print({name}.loot)"
    return json.loads(subprocess.run([*command, code], capture_output=True, text=True, check=True).stdout)


def list_caches(bench: Bench) -> list[str]:
    client = DockerClient(bench.settings)
    return [volume["Name"] for volume in client.api.volumes(client.filters(labels.CACHE))["Volumes"] or ()]


def test_a_build_backend_looks_for_secrets_and_caches(bench: Bench) -> None:
    """A build backend tries to read the index password and to poison the cache: it finds neither."""
    loot = build(bench, "looking")
    assert loot["seen"] > 20
    assert loot["secret"] == []
    assert loot["caches"], "it has a cache of its own"
    assert list_caches(bench) == []


def test_the_cache_of_wheels_is_not_that_of_source_builds(bench: Bench) -> None:
    """A build backend tries to leave files for the builds of others: a build of wheels has a cache without them."""
    build(bench, "looking")
    wheels = Bench("docker", replace(bench.settings, allow_source_builds=False))
    wheels.engine.build(wheels.wanted("tool"), Quiet())
    (cache,) = list_caches(bench)
    command = ["docker", "run", "--rm", "-v", f"{cache}:/cache", bench.runtime.base, "ls", "/cache"]
    assert "poison" not in subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def test_a_build_backend_reaches_no_internal_address(bench: Bench) -> None:
    """A build backend tries to reach the host and the metadata service, past the proxy and through it: in vain."""
    loot = build(bench, "reaching")
    assert loot["direct"] == []
    assert set(loot["connect"].values()) | set(loot["get"].values()) <= {"400", "403", "502"}
    assert {loot["connect"][place] for place in ("169.254.169.254:80", "localhost:80")} == {"403"}
    assert loot["connect"]["2852039166:80"] == "400", "a number is neither a name nor an address"
    assert loot["post"] == "501"
    assert loot["index"] == "200"


def test_the_password_is_in_no_image(bench: Bench) -> None:
    """A reader of images tries their history, layers and configuration: the index and its password are in none."""
    image = bench.engine.build(bench.wanted("tool"), Quiet())
    history = subprocess.run(["docker", "history", "--no-trunc", image.ref], capture_output=True, check=True).stdout
    inspected = subprocess.run(["docker", "inspect", image.ref], capture_output=True, check=True).stdout
    search = textwrap.dedent(f"""
        import os
        for folder, _, names in os.walk("/"):
            if not folder.startswith(("/dev", "/proc", "/sys")):
                for name in names:
                    try:
                        data = open(os.path.join(folder, name), "rb").read()
                    except OSError:
                        continue
                    if name == "ca.crt" or b"{PASSWORD}" in data:
                        print(folder, name)
    """)
    command = ["docker", "run", "--rm", "-i", "--user", "0", "--network", "none", image.ref, "/env/bin/python", "-"]
    layers = subprocess.run(command, input=search.encode(), capture_output=True, check=True).stdout
    assert PASSWORD.encode() not in history + inspected
    assert USER.encode() not in history
    assert layers == b""
