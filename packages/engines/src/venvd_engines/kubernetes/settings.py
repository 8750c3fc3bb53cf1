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
        namespace: the namespace of all that the engine makes; null is that of the service account or of the kubeconfig.
        images: the references of the images `controller`, `http`, `rpc` and `pipe`.
        registry: the part before `/venv` in the names of images of venvs.
        registry_url: the address of that registry, if it is not `https://` and its host.
        pull_secret: a Secret of the type `kubernetes.io/dockerconfigjson`, with which pods pull images.
        push_secret: such a Secret for pushes.
        node_selector: the node selector of all pods.
        tolerations: the tolerations of all pods.
        priority_class: the priority class of backends.
        owner: a Secret; the cluster removes with it all that the engine makes.
        apt_namespace: where a container installs Debian packages as root; null refuses such packages.
        apt_owner: a Secret of that namespace; the cluster removes with it all that the engine makes there.
        user_namespaces: whether pods run in user namespaces, which the nodes must support.
        assemblies: volumes with .NET assemblies, as in the specification of a pod, by the directories that name them.
        controller_url: where servers in pods reach the controller; null: nowhere.
        controller_certificate: the file with the certificate that the controller shows there; null for plain HTTP.
        egress_service: the Service of the broker for backends with a list of destinations; null is none.
        egress_key_file: the file of the key that signs the tickets of that broker.
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
