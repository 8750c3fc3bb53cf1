"""The chart without a cluster: lint, sets of values against the schemas of Kubernetes, pod security, refusals."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from harness.pod_security import list_violations
from harness.stack import ROOT

from venvd_controller.host_paths import HostPaths
from venvd_controller.manifest import read_manifest
from venvd_controller.settings import Settings

CHART = ROOT / "charts" / "venvd"
VALUES = sorted((Path(__file__).parent / "values").glob("*.yaml"))
FULL = Path(__file__).parent / "values" / "full.yaml"
SMALL = FULL.with_name("small.yaml")
EXISTING = FULL.with_name("existing.yaml")
VERSIONS = ("1.34", "1.35", "1.36", "1.37")
"""The versions of Kubernetes that the chart supports."""
OPERATOR = ("monitoring.coreos.com/v1/ServiceMonitor", "monitoring.coreos.com/v1alpha1/ScrapeConfig")
CUSTOM = {"ServiceMonitor", "ScrapeConfig", "PrometheusRule", "HTTPRoute"}
"""Kinds that Kubernetes itself does not have, and has no schemas for."""

pytestmark = [pytest.mark.needs("helm"), pytest.mark.slow]

Objects = dict[tuple[str, str], dict[str, Any]]


def run_helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = ["helm", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@functools.cache
def render(values: Path, version: str = VERSIONS[-1], *options: str) -> Objects:
    """Render the chart; the objects by kind and name."""
    apis = [word for api in OPERATOR for word in ("--api-versions", api)]
    result = run_helm(
        *("template", "venvd", CHART, "--namespace", "python", "--kube-version", version),
        *("--values", values, *apis, *options),
    )
    assert result.returncode == 0, result.stderr
    objects = [each for each in yaml.safe_load_all(result.stdout) if each]
    return {(each["kind"], each["metadata"]["name"]): each for each in objects}


def pick(objects: Objects, kind: str) -> dict[str, Any]:
    """The only object of a kind, beside those of the broker and of the namespace for Debian packages."""
    others = ("-egress", "-builds")
    [chosen] = [each for (its_kind, name), each in objects.items() if its_kind == kind and not name.endswith(others)]
    return chosen


def read_env(objects: Objects) -> dict[str, Any]:
    container = pick(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value") or each["valueFrom"] for each in container["env"]}


def list_pods(objects: Objects) -> Iterator[dict[str, Any]]:
    for each in objects.values():
        if each["kind"] in {"Deployment", "Job"}:
            yield each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            yield each["spec"]


@pytest.fixture(scope="module")
def full() -> Objects:
    return render(FULL)


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_the_chart_has_no_faults(values: Path) -> None:
    """`helm lint --strict` has nothing against the chart."""
    result = run_helm("lint", "--strict", CHART, "--values", values)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("values", "version"),
    [*((path, VERSIONS[-1]) for path in VALUES), *((FULL, version) for version in VERSIONS[:-1])],
    ids=lambda each: each if isinstance(each, str) else each.stem,
)
def test_objects_have_the_fields_of_kubernetes(values: Path, version: str) -> None:
    """Each object has the fields of its version of Kubernetes and no others."""
    objects = render(values, version)
    checked = [each for each in objects.values() if each["kind"] not in CUSTOM]
    assert len(checked) >= 4
    for each in checked:
        kubernetes_validate.validate(each, version, strict=True)


def test_maintenance_runs_no_controller() -> None:
    """In place of the controller the pod waits, with its volumes and settings and without probes."""
    container, waiting = (
        pick(render(SMALL, VERSIONS[-1], "--set", f"controller.maintenance={value}"), "Deployment")["spec"]["template"][
            "spec"
        ]["containers"][0]
        for value in ("false", "true")
    )
    probes = {"startupProbe", "livenessProbe", "readinessProbe"}
    assert container.keys() >= probes
    assert waiting.keys() == (container.keys() - probes) | {"command"}
    assert {name: waiting[name] for name in ("env", "volumeMounts")} == {
        name: container[name] for name in ("env", "volumeMounts")
    }
    process = subprocess.Popen([sys.executable, *waiting["command"][1:]])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.terminate()
    assert process.wait(30) in {0, -15}


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_pods_keep_to_restricted_security(values: Path) -> None:
    """A namespace that enforces restricted pod security takes every pod, and roots are read-only beside that."""
    pods = list(list_pods(render(values)))
    assert len(pods) == 3
    assert [list_violations(pod) for pod in pods] == [[], [], []]
    assert all(each["securityContext"]["readOnlyRootFilesystem"] for pod in pods for each in pod["containers"])


def test_the_checker_knows_each_rule() -> None:
    """A pod that breaks every rule of restricted security is refused for each."""
    pod = {
        "hostNetwork": True,
        "hostPID": True,
        "hostIPC": True,
        "securityContext": {"sysctls": [{"name": "kernel.shm_rmid_forced"}], "runAsUser": 0},
        "volumes": [{"name": "host", "hostPath": {"path": "/"}}],
        "initContainers": [{"name": "first"}],
        "containers": [
            {
                "name": "second",
                "ports": [{"hostPort": 80}],
                "securityContext": {
                    "privileged": True,
                    "procMount": "Unmasked",
                    "capabilities": {"add": ["SYS_ADMIN"]},
                },
            }
        ],
    }
    assert len(list_violations(pod)) == 5 + 9 + 5


def test_roles_leave_the_cluster_alone(full: Objects) -> None:
    """The controller has a role in its namespace for what the engine uses: no exec, nodes, roles or wildcards."""
    kinds = {kind for kind, _ in full}
    assert not {"ClusterRole", "ClusterRoleBinding"} & kinds
    rules = pick(full, "Role")["rules"]
    sources = (ROOT / "packages" / "engines" / "src" / "venvd_engines" / "kubernetes").glob("*.py")
    imports = re.findall(r"from lightkube\.resources\.\w+ import (.+)", "\n".join(map(Path.read_text, sources)))
    used = {f"{kind.lower()}s" for line in imports for kind in line.split(", ")}
    assert {resource for rule in rules for resource in rule["resources"]} == {*used, "pods/log"}
    assert "*" not in {verb for rule in rules for verb in rule["verbs"]}


def test_debian_packages_have_a_namespace_of_their_own(full: Objects) -> None:
    """Where the values name it, it has baseline pod security, closed pods, and a role for pods and Secrets alone."""
    objects = {(kind, name): each for (kind, name), each in full.items() if name.endswith(("-builds", "-apt"))}
    namespaces = {each["metadata"].get("namespace") for (kind, _), each in objects.items() if kind != "Namespace"}
    own = {key for key, each in objects.items() if each["metadata"].get("namespace") == "python-apt"}
    assert namespaces == {"python", "python-apt"}
    labels = objects["Namespace", "python-apt"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "baseline"
    assert {kind for kind, _ in own} == {"Secret", "Role", "RoleBinding", "NetworkPolicy"}
    rules = objects["Role", "venvd-python-builds"]["rules"]
    assert {resource for rule in rules for resource in rule["resources"]} == {"pods", "pods/log", "secrets"}
    [subject] = objects["RoleBinding", "venvd-python-builds"]["subjects"]
    assert subject["namespace"] == "python"
    policy = objects["NetworkPolicy", "venvd-python-apt-builds"]["spec"]
    assert (policy["podSelector"], sorted(policy["policyTypes"])) == ({}, ["Egress", "Ingress"])
    assert policy["egress"] == objects["NetworkPolicy", "venvd-python-builds"]["spec"]["egress"]
    env = read_env(full)
    assert env["VENVD_KUBERNETES_APT_NAMESPACE"] == "python-apt"
    assert ("Secret", env["VENVD_KUBERNETES_APT_OWNER"]) in own


def test_debian_packages_are_refused_by_default() -> None:
    """Without a name for that namespace, nothing of it is made; one that is there already is not made again."""
    assert not {"Namespace"} & {kind for kind, _ in render(SMALL)}
    assert "VENVD_KUBERNETES_APT_NAMESPACE" not in read_env(render(SMALL))
    theirs = render(FULL, VERSIONS[-1], "--set", "apt.createNamespace=false")
    assert ("Role", "venvd-python-builds") in theirs
    assert not {"Namespace"} & {kind for kind, _ in theirs}


def test_the_controller_gets_its_settings(full: Objects) -> None:
    """Settings have their names, and large numbers, booleans, lists and objects arrive as the controller reads them."""
    env = read_env(full)
    assert env["VENVD_WORKER_MEMORY_BYTES"] == "4294967296"
    assert env["VENVD_PAGE"] == "false"
    assert env["VENVD_PRIVATE_NETWORKS"] == "10.1.0.0/16,10.2.0.0/16"
    assert json.loads(env["VENVD_SESSION_LIMITS"]) == {"outputBytes": 16777216}
    assert env["VENVD_OCI_RUNTIME"] == "gvisor"
    assert env["VENVD_KUBERNETES_USER_NAMESPACES"] == "true"
    assert env["VENVD_CA_BUNDLE"] == "/etc/venvd/ca/bundle.pem"
    assert json.loads(env["VENVD_KUBERNETES_TOLERATIONS"]) == [{"key": "dedicated", "operator": "Exists"}]


def test_files_of_backends_have_their_directories(full: Objects) -> None:
    """Each Secret and each volume has a directory below one of VENVD_HOST_DIRS; a Secret may be absent."""
    pod, env = pick(full, "Deployment")["spec"]["template"]["spec"], read_env(full)
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    directories = {
        (mounts[each["name"]], each["secret"]["secretName"], each["secret"].get("optional", False))
        for each in pod["volumes"]
        if each["name"] in mounts and "-tls" in each["name"]
    }
    below, _, assemblies = env["VENVD_HOST_DIRS"].partition(":")
    assert directories == {
        (f"{below}/web", "web", True),
        (f"{below}/calls.example.com", "calls.example.com", True),
        ("/etc/venvd/client-tls", "client", False),
    }
    assert (env["VENVD_CLIENT_CERT"], env["VENVD_CLIENT_KEY"]) == (
        "/etc/venvd/client-tls/tls.crt",
        "/etc/venvd/client-tls/tls.key",
    )
    # volumes of assemblies are for backends alone
    assert json.loads(env["VENVD_KUBERNETES_ASSEMBLIES"]) == {
        f"{assemblies}/shared": {"persistentVolumeClaim": {"claimName": "libraries", "readOnly": True}},
        f"{assemblies}/own": {"configMap": {"name": "assemblies"}},
    }
    unset = {"VENVD_HOST_DIRS", "VENVD_CLIENT_CERT", "VENVD_KUBERNETES_ASSEMBLIES"}
    assert not unset & read_env(render(SMALL)).keys()


@pytest.mark.parametrize("values", VALUES, ids=lambda path: path.stem)
def test_every_variable_is_a_setting(values: Path) -> None:
    """The chart sets no variable that the controller does not know."""
    known = {f"VENVD_{name.upper()}" for name in Settings.model_fields}
    assert set(read_env(render(values))) <= known


def test_the_manifest_is_one(full: Objects, tmp_path: Path) -> None:
    """The controller reads the manifest of the values."""
    path = tmp_path / "venvd.yaml"
    path.write_text(full["ConfigMap", "venvd-python"]["data"]["venvd.yaml"])
    manifest = read_manifest(path, HostPaths(tmp_path))
    assert list(manifest.backends) == ["web"]


def test_objects_of_others_replace_the_charts(full: Objects) -> None:
    """Named Secrets, service account and database leave out what the chart would make, and the controller uses them."""
    objects = render(EXISTING)
    left_out = {
        "Secret",
        "PersistentVolumeClaim",
        "ServiceAccount",
        "Role",
        "RoleBinding",
        "NetworkPolicy",
        "ServiceMonitor",
    }
    assert left_out <= {kind for kind, _ in full}
    assert not left_out & {kind for kind, _ in objects}
    pod = pick(objects, "Deployment")["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "deployer"
    volumes = {each["name"]: each for each in pod["volumes"]}
    assert volumes["identity"]["secret"]["secretName"] == "identity"
    assert "emptyDir" in volumes["home"]
    env = read_env(objects)
    assert volumes["tls"]["secret"]["secretName"] == "certificate"
    assert (env["VENVD_TLS_CERT"], env["VENVD_TLS_KEY"]) == ("/etc/venvd/tls/tls.crt", "/etc/venvd/tls/tls.key")
    assert env["VENVD_URL"].startswith("https://")
    assert pod["containers"][0]["readinessProbe"]["httpGet"]["scheme"] == "HTTPS"
    assert env["VENVD_DATABASE_URL"] == {"secretKeyRef": {"name": "postgresql", "key": "address"}}
    assert env["VENVD_INDEX_URL"] == {"secretKeyRef": {"name": "index", "key": "address"}}


def test_more_than_one_controller_have_one_leader() -> None:
    """Controllers that share a database have a Lease, and the Service selects the pod with the leader's label."""
    objects = render(EXISTING)
    deployment = pick(objects, "Deployment")["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    env = read_env(objects)
    assert env["VENVD_KUBERNETES_LEASE"] == "python"
    assert env["VENVD_KUBERNETES_LEASE_POD"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    selector = pick(objects, "Service")["spec"]["selector"]
    assert selector == {**deployment["selector"]["matchLabels"], "dev.venvd.leader": "python"}
    container = deployment["template"]["spec"]["containers"][0]
    assert container["readinessProbe"]["httpGet"]["path"] == "/readyz?follower=ok"
    assert pick(objects, "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    [spread] = deployment["template"]["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"] == deployment["selector"]


@pytest.mark.parametrize(("values", "maintenance"), [(SMALL, "false"), (EXISTING, "true")])
def test_a_single_state_has_a_single_pod(values: Path, maintenance: str) -> None:
    """With SQLite, and while a state is restored, there is one pod, which ends before the next one begins."""
    objects = render(values, VERSIONS[-1], "--set", f"controller.maintenance={maintenance}")
    deployment = pick(objects, "Deployment")["spec"]
    assert (deployment["replicas"], deployment["strategy"]) == (1, {"type": "Recreate"})
    assert "VENVD_KUBERNETES_LEASE" not in read_env(objects)
    assert pick(objects, "Service")["spec"]["selector"] == deployment["selector"]["matchLabels"]


def test_pods_of_the_controller_are_closed(full: Objects) -> None:
    """All that the controller makes is closed; backends open to clients, and venvs with `network` to the world."""
    policies = {name.rpartition("-")[2]: each["spec"] for (kind, name), each in full.items() if kind == "NetworkPolicy"}
    [broker], [listed] = policies["egress"]["ingress"], policies["destinations"]["egress"]
    closed = policies["destinations"]["podSelector"]
    assert broker["from"] == [{"podSelector": closed}]
    assert listed["to"] == [{"podSelector": policies["egress"]["podSelector"]}]
    assert broker["ports"] == listed["ports"] == [{"port": 3128, "protocol": "TCP"}]
    assert policies["egress"]["egress"] == policies["network"]["egress"]
    deny = policies["deny"]
    assert deny["podSelector"]["matchExpressions"] == [{"key": "dev.venvd.home", "operator": "Exists"}]
    assert sorted(deny["policyTypes"]) == ["Egress", "Ingress"]
    assert not {"ingress", "egress"} & set(deny)
    [clients] = policies["clients"]["ingress"]
    assert [next(iter(each)) for each in clients["from"]] == [
        *2 * ["podSelector"],
        *2 * ["namespaceSelector"],
        *2 * ["ipBlock"],
    ]
    routers = policies["routers"]["podSelector"]["matchLabels"]
    assert clients["from"][1]["podSelector"]["matchLabels"].items() <= routers.items()
    [passing_on] = policies["routers"]["egress"]
    assert passing_on == {"to": [{"podSelector": policies["clients"]["podSelector"]}]}
    reaching, [controller] = policies["controller"]["podSelector"]["matchLabels"], policies["controller"]["egress"]
    assert reaching == {"dev.venvd.role": "backend", "dev.venvd.controller": "reached"}
    assert controller == {"to": [clients["from"][0]], "ports": [{"port": 8600, "protocol": "TCP"}]}
    assert policies["network"]["podSelector"]["matchLabels"]["dev.venvd.network"] == "full"
    blocks = [each["ipBlock"] for each in policies["network"]["egress"][1]["to"]]
    assert blocks == [
        {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]},
        {"cidr": "::/0", "except": ["fc00::/7"]},
    ]


def test_prometheus_scrapes_where_there_is_an_operator(full: Objects) -> None:
    """The operator's objects name the metrics token, and carry the alerts and the dashboard of deploy/monitoring."""
    endpoint = pick(full, "ServiceMonitor")["spec"]["endpoints"][0]
    assert endpoint["authorization"]["credentials"]["key"] == "metrics-token"
    rules = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yaml").read_text())
    assert pick(full, "PrometheusRule")["spec"] == rules
    wanted = pick(full, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    services = {name: each["metadata"]["labels"] for (kind, name), each in full.items() if kind == "Service"}
    assert [name for name, labels in services.items() if wanted <= labels.items()] == ["venvd-python"]
    dashboard = full["ConfigMap", "venvd-python-dashboard"]["data"]["venvd.json"]
    assert json.loads(dashboard) == json.loads((ROOT / "deploy" / "monitoring" / "dashboard.json").read_text())
    result = run_helm("template", "venvd", CHART, "--values", FULL)
    assert "ServiceMonitor" not in result.stdout


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("service.typ=NodePort", "at '/service': additional properties 'typ' not allowed"),
        ("service.type=Port", "value must be one of 'ClusterIP', 'NodePort', 'LoadBalancer'"),
        ("settings.token=x", "at '/settings': additional properties 'token' not allowed"),
        ("settings.workerCpus=0", "at '/settings/workerCpus'"),
        ("persistence.size=big", "at '/persistence/size'"),
        ("networkPolicy.clientCidrs[0]=example.com", "at '/networkPolicy/clientCidrs/0'"),
        ("manifest.backends[0].type=http", "missing property 'name'"),
        ("index.url=https://user:word@index.example.com", "at '/index/url'"),
        ("baseImage=python:slim", "at '/baseImage'"),
        ("replicas=2", "additional properties 'replicas' not allowed"),
        ("ingress.enabled=true", "ingress.host is empty"),
        ("images.controller=", "`make push REGISTRY=…` pushes the images"),
        ("controller.replicas=2", "more than one controller need a PostgreSQL database that they share"),
        ("controller.replicas=0", "at '/controller/replicas'"),
        ("settings.kubernetesLease=x", "at '/settings': additional properties 'kubernetesLease' not allowed"),
        ("egress.replicas=0", "at '/egress/replicas'"),
        ("settings.hostDirs=/etc", "at '/settings': additional properties 'hostDirs' not allowed"),
        ("backends.assemblies[0].name=own", "at '/backends/assemblies/0'"),
        ("backends.tlsSecrets[0]=../x", "at '/backends/tlsSecrets/0'"),
        ("apt.namespace=default", "takes no pod that runs as root: name another one"),
    ],
)
def test_wrong_values_are_named(option: str, message: str) -> None:
    """A wrong value ends the installation with its place."""
    result = run_helm("template", "venvd", CHART, "--values", SMALL, "--set", option)
    assert result.returncode != 0
    assert message in re.sub(r"\s+", " ", result.stderr)


def test_the_schema_closes_every_part() -> None:
    """Every value has its place in the schema, and every part with places of its own refuses others."""

    def list_open(schema: Any, place: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if (
                "properties" in schema
                and "name" not in schema.get("required", ())
                and schema.get("additionalProperties") is not False
            ):
                yield place
            for name, each in schema.items():
                yield from list_open(each, f"{place}/{name}")

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert list(list_open(schema, "")) == []

    def check(values: dict[str, Any], schema: dict[str, Any]) -> None:
        assert set(values) <= set(schema["properties"])
        for name, value in values.items():
            if isinstance(value, dict) and "properties" in schema["properties"][name]:
                check(value, schema["properties"][name])

    check(yaml.safe_load((CHART / "values.yaml").read_text()), schema)
