"""The manifest of a pod in which a pipe backend runs beside its client, because a Unix socket cannot leave a pod.

Server and worker host are sidecars: init containers with `restartPolicy: Always`. The cluster starts them before the
client and ends them after it. A Job of the client ends without waiting for them. The cluster restarts each sidecar
alone, so they must end together: the worker host ends with its server, and `VENVD_SIDECAR` makes the server end with
its worker host.
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
"""The cluster mounts the token of a service account here, unless the container mounts a volume here."""
_DIGEST = "token-sha256"
_START_SECONDS = 60
"""Seconds in which server and worker host must become ready if the venv preloads nothing."""
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
    """Make a Secret and the pod that mounts it. Equal arguments make equal objects.

    The pod does not depend on the value of the token.

    Args:
        settings: those of the engine.
        launch: a launch of type `pipe` with a user ID. Both objects get its name.
        token: the token of the client. None if the server asks for none.
        image: the image of the container `client`. None means an image with the SDK, in which the container sleeps.

    Raises:
        InvalidRequest: the launch has another type, or `VENVD_KUBERNETES_IMAGES` lacks an image.
        Unimplemented: such a pod cannot have the network or the assemblies of the launch.
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
        raise InvalidRequest(
            f"type: only a pipe backend can run in the pod of its client: start a backend of type {launch.type} instead"
        )
    if launch.network in {"loopback", "destinations"}:
        what = "a list of destinations" if launch.network == "destinations" else "loopback"
        raise Unimplemented(
            f"network: {what} does not work in a pod that a client shares: user code has the client's network or none"
        )
    if launch.assemblies is not None:
        raise Unimplemented(
            "assemblies: the namespace of the client may lack their volume, so a printed pod cannot mount it"
        )


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
            _cover_credentials(pods.make_provider(options, ["worker"])),
            _make_sidecar(_make_worker(settings, launch, runtime)),
            _make_sidecar(_make_server(settings, launch, token)),
        ],
        containers=[_make_client(settings, launch, token, image)],
        volumes=[
            pods.memory_volume("socket", pods.CHANNEL_SIZE),
            {"name": "no-credentials", "emptyDir": {"sizeLimit": "1Mi"}},
            *pods.make_volumes(launch, _make_keys_volume(launch)),
        ],
    )


def _make_sidecar(container: dict[str, Any]) -> dict[str, Any]:
    """Make an init container a sidecar, which has no token of a service account."""
    name, rest = container["name"], {key: value for key, value in container.items() if key != "name"}
    return {"name": name, "restartPolicy": "Always", **_cover_credentials(rest)}


def _cover_credentials(container: dict[str, Any]) -> dict[str, Any]:
    """Cover the token of a service account with an empty volume. The pod of a client may have such a token."""
    empty = {"name": "no-credentials", "mountPath": CREDENTIALS, "readOnly": True}
    return {**container, "volumeMounts": [*container["volumeMounts"], empty]}


def _make_keys_volume(launch: Launch) -> dict[str, Any]:
    """Make the volume with the server's files from the Secret. It leaves out the client's token."""
    items = [{"key": file, "path": file} for file in (pods.KEYS_FILE, pods.SECRETS_FILE)]
    return {"name": "keys", "secret": {"secretName": launch.name, "defaultMode": 0o440, "items": items}}


def _make_worker(settings: EngineSettings, launch: Launch, runtime: str | None) -> dict[str, Any]:
    """Make the worker host. Its volumes outlive its container, so it empties them when it starts."""
    worker = pods.make_worker(settings.kubernetes, launch, pods.choose_user(settings.kubernetes, launch, runtime))
    worker["args"] += [word for path in (pods.WORK, pods.TMP, pods.SHARED_MEMORY) for word in ("--clear", path)]
    return worker


def _make_server(settings: EngineSettings, launch: Launch, token: str | None) -> dict[str, Any]:
    server = pods.make_server(settings.kubernetes, launch, "localhost")
    server["env"].append({"name": "VENVD_SIDECAR", "value": "1"})
    if token is not None:
        server["env"].append(_read_from_secret("VENVD_TOKEN_SHA256", launch, _DIGEST))
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
        "env": env if token is None else [*env, _read_from_secret("VENVD_BACKEND_TOKEN", launch, "token")],
        "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
        "volumeMounts": [{"name": "socket", "mountPath": pods.SOCKETS, "readOnly": True}],
    }


def _read_from_secret(variable: str, launch: Launch, key: str) -> dict[str, Any]:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": launch.name, "key": key}}}
