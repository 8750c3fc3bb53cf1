"""The way out of a backend whose venv lists destinations: a ticket for the shared broker (`venvd_egress`)."""

from __future__ import annotations

import json
from typing import Any

from lightkube.resources.core_v1 import Service

from venvd_contract.errors import InvalidRequest, Unavailable, Unimplemented
from venvd_egress.tickets import make_ticket
from venvd_engines.engine import Launch
from venvd_engines.kubernetes.cluster import Cluster


def make_broker_file(cluster: Cluster, launch: Launch) -> bytes:
    """Make the file by which the server finds the shared broker: its address, and a ticket with the server's rules.

    The address is an IP address, because such a pod does not reach the cluster's DNS.

    Raises:
        InvalidRequest: the list is too long.
        Unavailable: the broker has no Service, or its key cannot be read.
        Unimplemented: the cluster has no broker.
    """
    options = cluster.options
    if not options.egress_service or options.egress_key_file is None:
        raise Unimplemented(
            "network: a list of destinations wants the broker of the cluster: set egress.enabled of the chart"
        )
    service: Any = cluster.find(Service, options.egress_service)
    if service is None:
        raise Unavailable(f"network: the broker's Service {options.egress_service} is not in {cluster.namespace}")
    try:
        key = options.egress_key_file.read_bytes().strip()
    except OSError as error:
        raise Unavailable(
            f"network: the broker's key {options.egress_key_file} cannot be read: {error.strerror}"
        ) from None
    rules = {
        "backend": launch.id,
        "destinations": _split(launch.server_env.get("VENVD_NETWORK", "")),
        "networks": _split(launch.server_env.get("VENVD_PRIVATE_NETWORKS", "")),
    }
    try:
        ticket = make_ticket(key, rules)
    except ValueError as error:
        raise InvalidRequest(f"network: {error}") from None
    return json.dumps({"host": service.spec.clusterIP, "port": service.spec.ports[0].port, "ticket": ticket}).encode()


def _split(text: str) -> list[str]:
    return [word for word in text.split(",") if word]
