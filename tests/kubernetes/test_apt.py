"""Debian packages of a venv on a cluster, from an index in the base image."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.debian import DebianPackage, add_repository
from harness.kubernetes import REGISTRY_URL, Namespace, find_ca_bundle, make_namespace, read_values
from harness.stack import Quiet, Stack, make_home_id

import venvd
from venvd_contract.errors import InvalidRequest
from venvd_engines.engine import EngineSettings, VenvBuild
from venvd_engines.kubernetes.engine import KubernetesEngine
from venvd_engines.kubernetes.layer import push
from venvd_engines.kubernetes.packing import pack
from venvd_engines.kubernetes.registry import Repository
from venvd_engines.kubernetes.settings import KubernetesSettings

PYTHON = "3.13"
SCRIPT = """
cd /usr/share/tool
chown 10001:42 owned; chmod 4750 owned
ln owned twin; ln -s owned link
rm /usr/share/venvd-old
date +%N >/var/log/tool.log; date +%N >/etc/machine-id
{ id -u; id -g; grep CapEff /proc/self/status; ls /run/venvd; find / -xdev -name '*dockerconfigjson*'; } >seen
"""
PACKAGES = [
    DebianPackage("tool", {"usr/share/tool/owned": "content", "usr/share/tool/plain": "plain"}, SCRIPT),
    DebianPackage("broken", {}, "echo it cannot be; exit 7"),
]
CAPABILITIES = "CapEff:\t00000000000000db"
"""CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID and SETUID."""


class Bench:
    """A namespace for backends, one for Debian packages, and a base image with an index."""

    def __init__(self, namespace: Namespace, builds: Namespace, base: str) -> None:
        self.namespace = namespace
        self.builds = builds
        self._base = base

    def make_engine(self, home: Path, *, apt: bool = True, user_namespaces: bool = False) -> KubernetesEngine:
        values = read_values()
        settings = KubernetesSettings(
            namespace=self.namespace.name,
            apt_namespace=self.builds.name if apt else None,
            images=values["images"],
            registry=values["registry"]["prefix"],
            registry_url=REGISTRY_URL,
            pull_secret="registry",
            push_secret="registry",
            user_namespaces=user_namespaces,
        )
        return KubernetesEngine(
            EngineSettings(
                home=home,
                home_id=make_home_id(),
                run_dir=home / "run",
                base_image=self._base,
                ca_bundle=find_ca_bundle(),
                kubernetes=settings,
            )
        )


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A base image that takes Debian packages from a directory of its own, and that has a file which one removes."""
    values = read_values()
    repository, _, tag = values["baseImage"].format(version=PYTHON, minor=PYTHON).rpartition(":")
    target = Repository(f"{values['registry']['prefix']}/base-with-index", url=REGISTRY_URL)
    file = tmp_path_factory.mktemp("base") / "layer"
    packages = [*PACKAGES, DebianPackage("old", {"usr/share/venvd-old": "old"})]

    with file.open("wb") as out:
        layer = pack(out, lambda archive: add_repository(archive, packages))
    return f"{target.name}@{push(target, Repository(repository, url=REGISTRY_URL), tag, file, layer, None)}"


@pytest.fixture(scope="module")
def bench(base: str) -> Iterator[Bench]:
    with make_namespace("apt") as namespace, make_namespace("apt-builds") as builds:
        namespace.restrict()
        builds.kubectl("label", "namespace", builds.name, "pod-security.kubernetes.io/enforce=baseline")
        login = {"auths": {"registry.example.com": {"auth": base64.b64encode(b"venvd:word").decode()}}}
        namespace.kubectl(
            *("create", "secret", "generic", "registry", "--type=kubernetes.io/dockerconfigjson"),
            f"--from-literal=.dockerconfigjson={json.dumps(login)}",
        )
        yield Bench(namespace, builds, base)


def test_equal_debian_packages_are_equal_bit_for_bit(bench: Bench, tmp_path: Path) -> None:
    """Two homes get the same digest, one of them with user namespaces, and nothing stays in the namespace of builds.

    The image has owners, modes and links of the packages, lacks what they removed and their logs, and their scripts
    saw neither credentials nor more than six capabilities of root.
    """
    images = []
    for name in ("plain", "mapped"):
        engine = bench.make_engine(tmp_path / name, user_namespaces=name == "mapped")
        assert engine.capabilities().apt_packages
        runtime = engine.resolve(PYTHON, Quiet())
        images.append(engine.build(VenvBuild(runtime, "", ("old", "tool")), Quiet()))
        assert bench.builds.list_names() == set()
        if name == "plain":
            engine.close()
            time.sleep(1.1)  # files of the second build are younger
    assert images[0] == images[1]

    running = Stack(engine, images[1], tmp_path, tmp_path / "run").start("http")
    with venvd.connect(running.url, token=running.token) as backend:
        backend.exec("import os; of = lambda path: os.stat('/usr/share/tool/' + path)")
        assert backend.eval("[oct(of('owned').st_mode), of('owned').st_uid, of('owned').st_gid]") == [
            *("0o104750", 10001, 42),
        ]
        assert backend.eval("of('twin').st_nlink") == 2
        assert backend.eval("os.readlink('/usr/share/tool/link')") == "owned"
        assert backend.eval("of('plain').st_mtime") == 1_600_000_000
        absent = ["/usr/share/venvd-old", "/var/log/tool.log", "/var/lib/apt/lists/lock"]
        assert backend.eval("list(map(os.path.exists, absent))", absent=absent) == [False, False, False]
        seen = backend.eval("open('/usr/share/tool/seen').read()").splitlines()
        assert seen == ["0", "0", CAPABILITIES, "inputs", "out"]
    engine.stop(running.record, 2.0)
    engine.destroy(running.record)
    engine.remove_image(images[1].key)
    engine.close()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("toool", r'no package "?toool"?; is "tool" meant'),
        ("broken", "could not install the Debian packages broken: .*it cannot be"),
    ],
)
def test_packages_that_cannot_be_are_named(bench: Bench, tmp_path: Path, name: str, message: str) -> None:
    """A name that no package has, and a script that fails, are errors of the request, and nothing stays."""
    engine = bench.make_engine(tmp_path)
    wanted = VenvBuild(engine.resolve(PYTHON, Quiet()), "", (name,))
    with pytest.raises(InvalidRequest, match=f"(?s){message}"):
        engine.build(wanted, Quiet())
    assert engine.find_image(wanted.key()) is None
    assert bench.builds.list_names() == set()
    engine.close()


def test_without_a_namespace_debian_packages_are_refused(bench: Bench, tmp_path: Path) -> None:
    """An engine that has no namespace for them says which value of the chart names one."""
    engine = bench.make_engine(tmp_path, apt=False)
    assert not engine.capabilities().apt_packages
    wanted = VenvBuild(engine.resolve(PYTHON, Quiet()), "", ("tool",))
    with pytest.raises(InvalidRequest, match=r"aptPackages: .*apt\.namespace of the chart"):
        engine.build(wanted, Quiet())
    engine.close()
