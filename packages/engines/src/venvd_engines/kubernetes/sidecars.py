"""A pipe backend as sidecars in the pod of its client, since a Unix socket cannot leave a pod.

Server and worker host are init containers that stay (`restartPolicy: Always`). The cluster starts them before the
client, ends them after it, and does not wait for them where the client is a job. It starts each again alone, so the
server ends with its worker host (`VENVD_SIDECAR`), as the worker host does with its server.
"""

from __future__ import annotations

import hashlib
from typing import Any

from venvd_contract.errors import InvalidRequest, Unimplemented
from venvd_engines.engine import EngineSettings, Launch
from venvd_engines.kubernetes import labels, pods

CLIENT = "client"
CLIENT_UID = 10004
CREDENTIALS = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where the cluster puts the token of a service account, unless a container has a volume there."""
_DIGEST = "token-sha256"
_START_SECONDS = 60
"""Until a pair is ready whose venv preloads nothing."""
PROBE = """
import socket, sys
with socket.socket(socket.AF_UNIX) as probe:
    probe.settimeout(4)
    probe.connect(sys.argv[1])
    probe.sendall(f"GET {sys.argv[2]} HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n".encode())
    sys.exit(b" 200 " not in probe.recv(64))
"""


def make_manifest(
    settings: EngineSettings, launch: Launch, token: str | None, image: str | None
) -> list[dict[str, Any]]:
    """Make a Secret and the pod that mounts it. Equal arguments make equal objects, and another token the same pod.

    Args:
        settings: of the engine.
        launch: of type `pipe`; its user ID must be set, and its name names both objects.
        token: that of the client; None where the server asks for none.
        image: of the container `client`; None is one that sleeps, and that has the SDK.

    Raises:
        InvalidRequest: the setting for the images lacks one.
        Unimplemented: says what such a pod does not have.
    """
    _check_launch(launch)
    common = {"app.kubernetes.io/name": launch.name, "app.kubernetes.io/managed-by": "venvd", labels.TYPE: launch.type}
    content = {pods.KEYS_FILE: launch.keys, pods.SECRETS_FILE: launch.secrets}
    if token is not None:
        content |= {"token": token.encode(), _DIGEST: hashlib.sha256(token.encode()).hexdigest().encode()}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": launch.name, "labels": common},
        "type": "Opaque",
        "data": pods.encode_files(content),
    }
    runtime = pods.find_runtime_class(launch.oci_runtime or settings.oci_runtime)
    metadata: dict[str, Any] = {"name": launch.name, "labels": common}
    if runtime is not None:
        metadata["annotations"] = pods.describe_shared_volumes("channel", "socket")
    spec = _make_spec(settings, launch, token, image, runtime)
    return [secret, {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}]


def _check_launch(launch: Launch) -> None:
    if launch.type != "pipe":
        raise InvalidRequest(f"type: a backend of type {launch.type} has a pod of its own: start it")
    if launch.network in {"loopback", "destinations"}:
        what = "a list of destinations" if launch.network == "destinations" else "loopback"
        raise Unimplemented(
            f"network: {what} cannot be had in a pod that a client shares: user code has the client's network or none"
        )
    if launch.assemblies is not None:
        raise Unimplemented("assemblies: the namespace of the client may lack the volume, so a printed pod has none")


def _make_spec(
    settings: EngineSettings, launch: Launch, token: str | None, image: str | None, runtime: str | None
) -> dict[str, Any]:
    options = settings.kubernetes
    return pods.make_spec(
        options,
        CLIENT_UID,
        restartPolicy="Always",
        terminationGracePeriodSeconds=pods.GRACE_SECONDS,
        **({"runtimeClassName": runtime} if runtime else {}),
        **({"priorityClassName": options.priority_class} if options.priority_class else {}),
        initContainers=[
            _close(pods.make_provider(options, ["worker"])),
            _keep(_make_worker(settings, launch, runtime)),
            _keep(_make_server(settings, launch, token)),
        ],
        containers=[_make_client(settings, launch, token, image)],
        volumes=[
            pods.memory_volume("socket", pods.CHANNEL_SIZE),
            {"name": "no-credentials", "emptyDir": {"sizeLimit": "1Mi"}},
            *pods.make_volumes(launch, _make_keys_volume(launch)),
        ],
    )


def _keep(container: dict[str, Any]) -> dict[str, Any]:
    """Make an init container a sidecar."""
    name, rest = container["name"], {key: value for key, value in container.items() if key != "name"}
    return {"name": name, "restartPolicy": "Always", **_close(rest)}


def _close(container: dict[str, Any]) -> dict[str, Any]:
    """Keep the token of a service account from a container, also in a pod of a client that wants one."""
    empty = {"name": "no-credentials", "mountPath": CREDENTIALS, "readOnly": True}
    return {**container, "volumeMounts": [*container["volumeMounts"], empty]}


def _make_keys_volume(launch: Launch) -> dict[str, Any]:
    """Make the volume with the files of the server, which needs no token itself."""
    items = [{"key": file, "path": file} for file in (pods.KEYS_FILE, pods.SECRETS_FILE)]
    return {"name": "keys", "secret": {"secretName": launch.name, "defaultMode": 0o440, "items": items}}


def _make_worker(settings: EngineSettings, launch: Launch, runtime: str | None) -> dict[str, Any]:
    """Make the worker host. Its volumes outlive its container, and it empties them at its start."""
    worker = pods.make_worker(settings.kubernetes, launch, pods.choose_user(settings.kubernetes, launch, runtime))
    worker["args"] += [word for path in (pods.WORK, pods.TMP, pods.SHARED_MEMORY) for word in ("--clear", path)]
    return worker


def _make_server(settings: EngineSettings, launch: Launch, token: str | None) -> dict[str, Any]:
    server = pods.make_server(settings.kubernetes, launch, "localhost")
    server["env"].append({"name": "VENVD_SIDECAR", "value": "1"})
    if token is not None:
        server["env"].append(_refer("VENVD_TOKEN_SHA256", launch, _DIGEST))
    server["volumeMounts"].append({"name": "socket", "mountPath": pods.SOCKETS})
    start_timeout = _START_SECONDS + int(launch.preload_timeout)
    server["startupProbe"] = {**_probe("/readyz"), "periodSeconds": 1, "failureThreshold": start_timeout}
    server["readinessProbe"] = {**_probe("/readyz"), "periodSeconds": 10, "failureThreshold": 3}
    server["livenessProbe"] = {**_probe("/livez"), "periodSeconds": 10, "failureThreshold": 3}
    return server


def _probe(path: str) -> dict[str, Any]:
    command = ["/opt/venv/bin/python", "-I", "-S", "-c", PROBE.strip(), f"{pods.SOCKETS}/http.sock", path]
    return {"exec": {"command": command}, "timeoutSeconds": 5}


def _make_client(settings: EngineSettings, launch: Launch, token: str | None, image: str | None) -> dict[str, Any]:
    sleeper = pods.find_image(settings.kubernetes, "controller")
    sleep = {"image": sleeper, "command": ["sleep", "infinity"], "resources": pods.PROGRAM_RESOURCES}
    env = [{"name": "VENVD_BACKEND", "value": pods.SOCKET_URL}]
    return {
        "name": CLIENT,
        **({"image": image} if image else sleep),
        "env": env if token is None else [*env, _refer("VENVD_BACKEND_TOKEN", launch, "token")],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "socket", "mountPath": pods.SOCKETS, "readOnly": True}],
    }


def _refer(variable: str, launch: Launch, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": launch.name, "key": key}}}
