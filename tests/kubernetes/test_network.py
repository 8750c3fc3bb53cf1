"""What user code of a backend reaches, with the chart's NetworkPolicies and its broker."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.kubernetes import Namespace, read_values
from harness.release import Release, prepare_release
from harness.waiting import wait_until

import venvd
from venvd_engines.kubernetes import labels

TARGET = """
apiVersion: v1
kind: Service
metadata: {name: target}
spec: {selector: {name: target}, ports: [{port: 8080, protocol: TCP}]}
---
apiVersion: v1
kind: Pod
metadata: {name: target, labels: {name: target}}
spec:
  securityContext: {runAsNonRoot: true, runAsUser: 10003, runAsGroup: 10000, seccompProfile: {type: RuntimeDefault}}
  containers:
    - name: target
      image: IMAGE
      command: [/opt/venv/bin/python, -m, http.server, "8080", --directory, /usr/share]
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
      securityContext: {allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}
"""
CONNECT = """
import socket
def connect(host, port):
    try:
        with socket.create_connection((host, port), 3) as connection:
            connection.sendall(b"CONNECT target:8080 HTTP/1.1\\r\\n\\r\\n")
            return connection.recv(12).decode()
    except OSError as error:
        return "closed"
"""
ASK = """
import urllib.request
def ask(url):
    try:
        return urllib.request.urlopen(url, timeout=30).status
    except OSError as error:
        return str(error)
"""


@dataclass(frozen=True)
class Site:
    """The release, and a program beside it that listens on the port 8080."""

    release: Release
    host: str
    address: str

    def start(self, name: str, network: str, *options: str) -> venvd.Backend:
        """Start a backend of the venv with a network of its own, and connect to its Service."""
        words = ["--venv", "science", "--name", name, "--network", network, *options, "--json"]
        started = json.loads(self.release.venvd("start", "http", *words))
        address = find_address(self.release.namespace, name)
        return venvd.connect(f"http://{address}:5678", token=started["token"])


def find_address(namespace: Namespace, service: str) -> str:
    return namespace.kubectl("get", "service", service, "--output", "jsonpath={.spec.clusterIP}")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with prepare_release("network", tmp_path_factory.mktemp("network")) as release:
        namespace = release.namespace
        path = Path(tmp_path_factory.mktemp("target")) / "target.yaml"
        path.write_text(TARGET.replace("IMAGE", read_values()["images"]["controller"]))
        namespace.kubectl("apply", "--filename", path)
        namespace.kubectl("wait", "pod/target", "--for=condition=Ready", "--timeout=60s")
        address = find_address(namespace, "target")
        opened = ["--set-json", "networkPolicy.egressExcept=[]", "--set", f"settings.privateNetworks={{{address}/32}}"]
        opened += ["--set", "networkPolicy.clientCidrs={0.0.0.0/0}"]
        release.change("install", *opened)
        release.venvd("init", "3.13")
        release.venvd("venv", "create", "science", "--python", "3.13")
        yield Site(release, f"target.{namespace.name}.svc", address)
        release.helm("uninstall", "venvd", "--wait")


@pytest.mark.parametrize("runtime", ["runc", "runsc"])
def test_a_list_of_destinations_is_all_that_is_reached(site: Site, runtime: str) -> None:
    """What the list names is reached through the broker; other names, addresses, DNS and the broker itself are not."""
    release = site.release
    if runtime == "runsc" and "gvisor" not in release.namespace.kubectl("get", "runtimeclass", "--output", "name"):
        pytest.skip("the cluster has no runtime class gvisor")
    broker, api = find_address(release.namespace, "venvd-egress"), find_address(Namespace("default"), "kubernetes")
    with site.start(f"listed-{runtime}", f"{site.host}:8080", "--oci-runtime", runtime) as backend:
        backend.exec(CONNECT + ASK)
        assert backend.eval(f"ask('http://{site.host}:8080/')") == 200
        assert 'to the list "network"' in backend.eval("ask('http://other.example/')")
        assert backend.eval(f"connect({site.address!r}, 8080)") == "closed"
        assert backend.eval(f"connect({api!r}, 443)") == "closed"
        assert backend.eval("connect('kubernetes.default.svc', 443)") == "closed"
        assert backend.eval(f"connect({broker!r}, 3128)") == "HTTP/1.1 407"
        # the server's own port is reached, and wants its token
        with pytest.raises(venvd.UserError, match="401"):
            backend.exec("urllib.request.urlopen('http://127.0.0.1:5678/api/eval', b'{}')")
    log = release.venvd("logs", f"listed-{runtime}")
    assert "connection refused" in log
    assert "other.example" in log


def test_loopback_is_the_pods_own(site: Site) -> None:
    """With `loopback`, user code reaches what it listens on itself, and nothing else of the cluster."""
    with site.start("looped", "loopback") as backend:
        backend.exec(CONNECT + "\nlistener = socket.create_server(('127.0.0.1', 0))")
        backend.exec("own = socket.create_connection(listener.getsockname(), 5); listener.accept()[0].sendall(b'own')")
        assert backend.eval("own.recv(9)") == b"own"
        assert backend.eval(f"connect({site.address!r}, 8080)") == "closed"


def test_config_says_whether_policies_are_enforced(site: Site) -> None:
    """`venvd config` names missing NetworkPolicies, and only these; the pods that found it out are gone."""
    wait_until(lambda: "NetworkPolicies" not in site.release.venvd("config"), "policies are not enforced", 60)
    namespace = site.release.namespace
    assert not [pod for pod in namespace.get("pods") if labels.PROBE in pod["metadata"]["labels"]]
    # a change of a setting replaces the controller, which then asks afresh
    changed = ["--set", "networkPolicy.enabled=false", "--set", "settings.logLevel=warning"]
    site.release.change("upgrade", "--reuse-values", *changed)
    wait_until(
        lambda: "The cluster does not enforce NetworkPolicies" in site.release.venvd("config"),
        "config does not say so",
        60,
    )
