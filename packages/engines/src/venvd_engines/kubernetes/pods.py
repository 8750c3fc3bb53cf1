"""The manifests of pods: pure functions, all under restricted pod security."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

from venvd_contract.errors import InvalidRequest
from venvd_contract.internal.environment import WORKER_ENV
from venvd_engines.docker.build_container import APT_CAPABILITIES
from venvd_engines.engine import SHARED_KERNEL, EngineSettings, Launch
from venvd_engines.kubernetes import assemblies, closed, labels
from venvd_engines.kubernetes.controller_route import ControllerRoute
from venvd_engines.kubernetes.settings import KubernetesSettings

PREFIX = "/env"
CHANNEL = "/run/venvd/channel"
KEYS = "/run/venvd/keys"
KEYS_FILE, BROKER_FILE, SECRETS_FILE, MANAGES_FILE = "keys.json", "broker.json", "secrets.json", "manages.key"
TOOLS = "/venvd"
ARCHIVE = f"{TOOLS}/worker.pyz"
UV = f"{TOOLS}/uv"
POST_INSTALL = f"{TOOLS}/post_install.py"
WORK = "/work"
TMP = "/tmp"  # noqa: S108 - in containers of our own
SHARED_MEMORY = "/dev/shm"  # noqa: S108
PORTS = {"http": {"main": 5678}, "rpc": {"main": 50051, "http": 8080}, "pipe": {}}
SOCKETS = "/run/venvd/socket"
"""Where the server and the client of a pipe see the directory of its sockets."""
SOCKET_URL = f"unix://{SOCKETS}/pipe.sock"

CONTROLLER_UID = 10003
CHANNEL_SIZE = "1Mi"
GRACE_SECONDS = 30
SERVER_MEMORY = 2 << 30
SERVER_REQUESTS = {"cpu": "50m", "memory": "96Mi"}
PROGRAM_RESOURCES = {"requests": {"cpu": "10m", "memory": "32Mi"}, "limits": {"cpu": "1", "memory": "256Mi"}}
WORKER_REQUESTS = {"cpu": "50m", "memory": "64Mi"}
GVISOR_CLASS = "gvisor"
"""The usual name of gVisor's runtime class; Docker's name for gVisor is `runsc`."""
_SHARED = {"type": "tmpfs", "share": "pod", "options": "rw,rprivate"}

NO_NAMES = {"dnsPolicy": "None", "dnsConfig": {"nameservers": ["127.0.0.1"]}}
"""For pods that do not reach the cluster's DNS: the look-up of a name fails at once, and not after a time-out."""


def secure(container: dict[str, Any], user: int) -> dict[str, Any]:
    """Add what restricted pod security demands of a container, and let the cluster keep its last output for errors."""
    return {
        **container,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "runAsUser": user,
            "capabilities": {"drop": ["ALL"]},
        },
    }


def let_install(container: dict[str, Any]) -> dict[str, Any]:
    """Add what baseline pod security allows, for a container that installs Debian packages as root."""
    secured = secure(container, 0)
    capabilities = {"drop": ["ALL"], "add": list(APT_CAPABILITIES)}
    own = {"runAsNonRoot": False, "runAsGroup": 0, "readOnlyRootFilesystem": False, "capabilities": capabilities}
    return {**secured, "securityContext": {**secured["securityContext"], **own}}


def make_spec(options: KubernetesSettings, user: int, **parts: Any) -> dict[str, Any]:
    """Make the specification of a pod that runs once, as a user, with the operator's choice of nodes."""
    spec: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": labels.SHARED_GID,
            "fsGroup": labels.SHARED_GID,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        **parts,
    }
    if options.user_namespaces and "runtimeClassName" not in parts:  # gVisor does not use them
        spec["hostUsers"] = False
    if options.node_selector:
        spec["nodeSelector"] = dict(options.node_selector)
    if options.tolerations:
        spec["tolerations"] = [dict(each) for each in options.tolerations]
    if options.pull_secret:
        spec["imagePullSecrets"] = [{"name": options.pull_secret}]
    return spec


def make_provider(options: KubernetesSettings, what: Sequence[str]) -> dict[str, Any]:
    """Make the init container that copies programs of venvd into the volume `tools`."""
    return secure(
        {
            "name": "provide",
            "image": find_image(options, "controller"),
            "command": ["/opt/venv/bin/python", "-I", "-m", "venvd_engines.kubernetes.provide", TOOLS, *what],
            "volumeMounts": [{"name": "tools", "mountPath": TOOLS}],
            "resources": PROGRAM_RESOURCES,
        },
        CONTROLLER_UID,
    )


def find_image(options: KubernetesSettings, name: str) -> str:
    image = options.images.get(name)
    if not image:
        raise InvalidRequest(f"VENVD_KUBERNETES_IMAGES names no image {name}: `make push` writes it for the chart")
    return image


def find_runtime_class(oci_runtime: str | None) -> str | None:
    """Find the runtime class for the name of an OCI runtime; None, the cluster's default, for a shared kernel."""
    if oci_runtime is None or oci_runtime in SHARED_KERNEL:
        return None
    return GVISOR_CLASS if oci_runtime == "runsc" else oci_runtime


def describe_shared_volumes(*names: str) -> dict[str, str]:
    """Describe volumes for gVisor. A pod is one sandbox, which shares Unix sockets only in volumes described so."""
    return {f"dev.gvisor.spec.mount.{name}.{key}": value for name in names for key, value in _SHARED.items()}


def memory_volume(name: str, size: int | str) -> dict[str, Any]:
    return {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": str(size)}}


def make_backend(
    settings: EngineSettings,
    launch: Launch,
    runtime: str | None,
    host: str,
    controller: ControllerRoute | None = None,
) -> dict[str, Any]:
    """Make the specification of the pod with server and worker host.

    Args:
        settings: the settings of the engine.
        launch: the launch; its user ID must be set.
        runtime: the runtime class.
        host: the name by which clients reach the server.
        controller: where the server reaches the controller; None: nowhere.
    """
    options = settings.kubernetes
    user = choose_user(options, launch, runtime)
    keys = {"name": "keys", "secret": {"secretName": labels.make_name(launch.id), "defaultMode": 0o440}}
    priority = {"priorityClassName": options.priority_class} if options.priority_class else {}
    return make_spec(
        options,
        user,
        **({"runtimeClassName": runtime} if runtime else {}),
        **priority,
        **({} if launch.network is True else NO_NAMES),
        **({"hostAliases": [controller.alias]} if controller is not None and controller.alias else {}),
        hostname=launch.name,
        terminationGracePeriodSeconds=GRACE_SECONDS,
        initContainers=[
            make_provider(options, ["worker"]),
            *([_make_gate(options)] if launch.network in {"loopback", "destinations"} else []),
        ],
        containers=[make_server(options, launch, host, controller), make_worker(options, launch, user)],
        volumes=[
            *make_volumes(launch, keys),
            *([] if launch.assemblies is None else [assemblies.make_volume(options, launch.assemblies)]),
        ],
    )


def make_router(settings: EngineSettings, launch: Launch, host: str) -> dict[str, Any]:
    """Make the specification of the pod with the router of a backend.

    Args:
        settings: the settings of the engine.
        launch: the launch of the router.
        host: the name by which clients reach the router.
    """
    options = settings.kubernetes
    return make_spec(
        options,
        labels.SERVER_UID,
        **({"priorityClassName": options.priority_class} if options.priority_class else {}),
        **NO_NAMES,
        hostname=launch.name,
        terminationGracePeriodSeconds=30,
        containers=[make_server(options, launch, host)],
        volumes=[
            {"name": "keys", "secret": {"secretName": labels.make_name(launch.id), "defaultMode": 0o440}},
            {"name": "server-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        ],
    )


def choose_user(options: KubernetesSettings, launch: Launch, runtime: str | None) -> int:
    """Choose the user of the worker host. In a user namespace, users belong to one pod, so all pods can share an ID."""
    own = launch.user_id is not None and (runtime is not None or not options.user_namespaces)
    return int(launch.user_id or 0) if own else labels.WORKER_UID


def make_volumes(launch: Launch, keys: dict[str, Any]) -> list[dict[str, Any]]:
    """Make the volumes of server and worker host; `keys` is the volume of the server's files."""
    size = launch.limits.tmpfs_bytes
    return [
        memory_volume("channel", CHANNEL_SIZE),
        {"name": "tools", "emptyDir": {"sizeLimit": "64Mi"}},
        keys,
        {"name": "server-tmp", "emptyDir": {"sizeLimit": "64Mi"}},
        memory_volume("work", size),
        memory_volume("tmp", size),
        memory_volume("shm", size),
    ]


def _make_gate(options: KubernetesSettings) -> dict[str, Any]:
    """Make the init container that delays user code until NetworkPolicies keep the pod from the cluster."""
    # the cluster gives every container the address of its API server
    program = f"exec /opt/venv/bin/python -I -m {closed.__name__} $KUBERNETES_SERVICE_HOST $KUBERNETES_SERVICE_PORT"
    return secure(
        {
            "name": "closed",
            "image": find_image(options, "controller"),
            "command": ["sh", "-c", program],
            "resources": PROGRAM_RESOURCES,
        },
        CONTROLLER_UID,
    )


def make_server(
    options: KubernetesSettings, launch: Launch, host: str, controller: ControllerRoute | None = None
) -> dict[str, Any]:
    """Make the container of the server; `host` is the name by which clients reach it."""
    ports = [{"name": name, "containerPort": port} for name, port in PORTS[launch.type].items()]
    return secure(
        {
            "name": labels.SERVER,
            "image": find_image(options, launch.server_kind),
            "env": _list_env(_make_server_env(launch, host, controller)),
            **({"ports": ports} if ports else {}),
            "resources": {"requests": SERVER_REQUESTS, "limits": {"cpu": "2", "memory": str(SERVER_MEMORY)}},
            "volumeMounts": [
                *([] if launch.router else [{"name": "channel", "mountPath": CHANNEL}]),
                {"name": "keys", "mountPath": KEYS, "readOnly": True},
                {"name": "server-tmp", "mountPath": TMP},
            ],
        },
        labels.SERVER_UID,
    )


def _make_server_env(launch: Launch, host: str, controller: ControllerRoute | None) -> dict[str, str]:
    ports = PORTS[launch.type]
    env = {
        **launch.server_env,
        "VENVD_KEYS_FILE": f"{KEYS}/{KEYS_FILE}",
        "VENVD_OWN_HOSTS": host,
    }
    if not launch.router:
        env |= {"VENVD_CHANNEL": CHANNEL, "VENVD_SECRETS_FILE": f"{KEYS}/{SECRETS_FILE}"}
    if "main" in ports:
        env |= {"VENVD_HOST": "0.0.0.0", "VENVD_PORT": str(ports["main"])}  # noqa: S104 - in a pod
    else:
        env["VENVD_SOCKET_DIR"] = SOCKETS
    if launch.manages_key is not None:
        env["VENVD_MANAGES_KEY_FILE"] = f"{KEYS}/{MANAGES_FILE}"
    files = set(launch.server_files)
    if controller is not None:
        env["VENVD_CONTROLLER_URL"] = controller.url
        files |= set(controller.files)
    env |= {variable: f"{KEYS}/{variable}" for variable in sorted(files)}
    if launch.network == "destinations":
        env["VENVD_EGRESS_BROKER_FILE"] = f"{KEYS}/{BROKER_FILE}"
    if "http" in ports:
        env["VENVD_HTTP_PORT"] = str(ports["http"])
    return env


def make_worker(options: KubernetesSettings, launch: Launch, user: int) -> dict[str, Any]:
    """Make the container of the worker host. Of the server it has only the channel, and it cannot write there."""
    words = launch.warden_options()
    if launch.network is False:
        # server and worker host share the pod's network
        words.append("--no-network")
    # Both containers get the stop signal at once. The server ends after its calls, and the grace bounds both.
    words += ["--stop-wait", "86400"]
    env = {WORKER_ENV: json.dumps(launch.make_worker_env(PREFIX, assemblies.DIRECTORY)), "HOME": WORK, "TMPDIR": TMP}
    return secure(
        {
            "name": labels.WORKER,
            "image": launch.image.ref,
            "command": [f"{PREFIX}/bin/python", "-I", "-S", ARCHIVE, "warden"],
            "args": ["--channel", CHANNEL, "--work-dir", WORK, *words],
            "workingDir": WORK,
            "env": _list_env(env),
            "resources": {
                "requests": WORKER_REQUESTS,
                "limits": {"cpu": _format_cpus(launch.limits.cpus), "memory": str(launch.limits.memory_bytes)},
            },
            "volumeMounts": [
                {"name": "channel", "mountPath": CHANNEL, "readOnly": True},
                {"name": "tools", "mountPath": TOOLS, "readOnly": True},
                {"name": "work", "mountPath": WORK},
                {"name": "tmp", "mountPath": TMP},
                {"name": "shm", "mountPath": SHARED_MEMORY},
                *([] if launch.assemblies is None else [assemblies.make_mount(options, launch.assemblies)]),
            ],
        },
        user,
    )


def _format_cpus(cpus: float) -> str:
    """Format a number as Kubernetes does itself, so that a second `kubectl apply` of an object changes nothing."""
    return f"{cpus:g}" if cpus == int(cpus) else f"{round(cpus * 1000)}m"


def encode_files(content: Mapping[str, bytes]) -> dict[str, str]:
    """Encode files for a Secret."""
    return {name: base64.b64encode(data).decode() for name, data in content.items()}


def _list_env(env: Mapping[str, str]) -> list[dict[str, str]]:
    """List variables as Kubernetes reads them, with `$(` escaped: it would begin a reference."""
    return [{"name": name, "value": value.replace("$(", "$$(")} for name, value in sorted(env.items())]
