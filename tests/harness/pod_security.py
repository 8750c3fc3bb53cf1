"""The rules of restricted pod security, as a namespace enforces them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VOLUMES = {
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
}
SECCOMP = {"RuntimeDefault", "Localhost"}


def list_violations(pod: dict[str, Any]) -> list[str]:
    """List what a namespace that enforces `restricted` has against the specification of a pod."""
    shared = pod.get("securityContext") or {}
    violations = [f"{name} is true" for name in ("hostNetwork", "hostPID", "hostIPC") if pod.get(name)]
    violations += [f"sysctl {each['name']}" for each in shared.get("sysctls") or ()]
    for volume in pod.get("volumes") or ():
        kinds = set(volume) - {"name"}
        if not kinds <= VOLUMES:
            violations.append(f"volume {volume['name']}: {', '.join(sorted(kinds))}")
    for kind in ("containers", "initContainers", "ephemeralContainers"):
        for container in pod.get(kind) or ():
            violations += [f"{container['name']}: {violation}" for violation in _check(container, shared)]
    return violations


def _check(container: dict[str, Any], shared: dict[str, Any]) -> Iterator[str]:
    own = container.get("securityContext") or {}
    context = {**shared, **own}
    capabilities = own.get("capabilities") or {}
    if own.get("privileged"):
        yield "privileged"
    if own.get("allowPrivilegeEscalation") is not False:
        yield "allowPrivilegeEscalation is not false"
    if context.get("runAsNonRoot") is not True:
        yield "runAsNonRoot is not true"
    if context.get("runAsUser") == 0:
        yield "runAsUser is 0"
    if "ALL" not in capabilities.get("drop", ()):
        yield "capabilities are not all dropped"
    if not set(capabilities.get("add", ())) <= {"NET_BIND_SERVICE"}:
        yield "adds capabilities"
    if (context.get("seccompProfile") or {}).get("type") not in SECCOMP:
        yield "seccompProfile is neither RuntimeDefault nor Localhost"
    if own.get("procMount", "Default") != "Default":
        yield "procMount is not Default"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield "hostPort"
