"""Settings of the engine kubernetes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

APT_OFF = (
    "this cluster has no namespace in which Debian packages are installed: an operator names one by the value "
    "apt.namespace of the chart (VENVD_KUBERNETES_APT_NAMESPACE), or puts the packages into the base image"
)


@dataclass(frozen=True)
class KubernetesSettings:
    """Settings of the engine kubernetes.

    Attributes:
        namespace: of all that the engine makes; null is that of the service account or of the kubeconfig.
        images: references of `controller`, `http`, `rpc` and `pipe`.
        registry: what stands before `/venv` in the names of images of venvs.
        registry_url: the address of that registry, where it is not `https://` and its host.
        pull_secret: a Secret of the type `kubernetes.io/dockerconfigjson` for pods.
        push_secret: the same, for pushes.
        node_selector: of all pods.
        tolerations: of all pods.
        priority_class: of backends.
        owner: a Secret; what the engine makes is removed with it.
        apt_namespace: where Debian packages are installed, as root in a container; null refuses them.
        apt_owner: a Secret of that namespace; what the engine makes there is removed with it.
        user_namespaces: whether the users of pods are none of the node; the nodes must be able to.
        assemblies: volumes with .NET assemblies, as in the specification of a pod, by the directories that name them.
        controller_url: where servers in pods reach the controller; null: nowhere.
        controller_certificate: the file with the certificate that it shows there; null where it speaks plain HTTP.
        egress_service: the Service of the broker that makes the connections of lists of destinations; null is none.
        egress_key_file: the key that signs the tickets of that broker.
    """

    namespace: str | None = None
    images: Mapping[str, str] = field(default_factory=dict)
    registry: str | None = None
    registry_url: str | None = None
    pull_secret: str | None = None
    push_secret: str | None = None
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    priority_class: str | None = None
    owner: str | None = None
    apt_namespace: str | None = None
    apt_owner: str | None = None
    user_namespaces: bool = False
    assemblies: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    controller_url: str | None = None
    controller_certificate: Path | None = None
    egress_service: str | None = None
    egress_key_file: Path | None = None
