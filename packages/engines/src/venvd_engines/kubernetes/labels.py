"""Names and labels of the objects that the kubernetes engine makes; the common ones come from the docker engine."""

from __future__ import annotations

from venvd_engines.docker.labels import (
    BUILD,
    CHECK,
    HOME,
    INSTANCE,
    LAUNCH,
    NAME,
    RECORD,
    ROLE,
    SERVER,
    SERVER_UID,
    SHARED_GID,
    TYPE,
    WORKER,
    WORKER_UID,
)

__all__ = [
    "BACKEND", "BUILD", "CHECK", "CONTROLLER", "HOME", "INSTANCE", "LAUNCH", "LEADER", "NAME", "NETWORK", "PROBE",
    "PROBING", "RECORD", "ROLE", "ROUTES", "SERVER", "SERVER_UID", "SHARED_GID", "TASKS", "TYPE", "WORKER",
    "WORKER_UID",
]  # fmt: skip

BACKEND = "backend"
LEADER = "dev.venvd.leader"
"""On the pod of the leading controller, with the name of its Lease. The controllers' Service selects by it."""
NETWORK = "dev.venvd.network"
"""`full` if user code of the pod may reach the network, `destinations` if it may reach a list of them, else `none`;
`routes` on routers, which reach the servers of backends. NetworkPolicies select by it."""
ROUTES = "routes"
CONTROLLER = "dev.venvd.controller"
"""`reached` on pods whose server may reach the controller. A NetworkPolicy selects by it."""
PROBE = "dev.venvd.probe"
"""On a pod that probes the network: its home. The policies of the chart do not select by it."""
PROBING = "probe"
TASKS = (BUILD, CHECK)
"""The roles of pods that live no longer than one call of the engine."""


def make_name(launch_id: str) -> str:
    """Make the name of a launch's pod and Secret."""
    return f"venvd-{launch_id}"
