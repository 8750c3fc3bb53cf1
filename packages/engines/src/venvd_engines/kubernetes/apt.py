"""Debian packages: a pod in a namespace of their own installs them, and pushes the changes onto the base image.

To install them takes root in a container, which the namespace of backends refuses. The container that installs has no
credentials and few of root's capabilities. The one that pushes runs nothing of it.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lightkube.resources.core_v1 import Secret

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines import requirements
from venvd_engines.engine import Progress
from venvd_engines.kubernetes import apt_install, labels, pods
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.settings import APT_OFF
from venvd_engines.kubernetes.tasks import INPUTS, PUSH_FILE, Outcome, Step, Tasks, make_push_step

PROGRAM = f"{pods.TOOLS}/apt_install.py"
_OUT = "/run/venvd/out"
_CA = "ca.crt"
_DOCKER_CONFIG = "kubernetes.io/dockerconfigjson"


@dataclass(frozen=True)
class _Credentials:
    """Secrets of the namespace of builds, while one runs; None where the registry asks for no login."""

    pull: str | None
    push: str | None


class AptImages:
    """Adds Debian packages to base images."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._builds = cluster.move(cluster.options.apt_namespace, cluster.options.apt_owner)
        self._tasks = Tasks(self._builds)

    def check_available(self) -> None:
        """Raise `InvalidRequest` where no namespace is named."""
        if self._cluster.options.apt_namespace is None:
            raise InvalidRequest(f"aptPackages: {APT_OFF}")

    def build(self, base: str, names: Sequence[str], description: dict[str, Any], progress: Progress) -> str:
        """Install packages on a base image, and push the result, which gets no tag; its digest.

        Args:
            base: the image of the runtime.
            names: of the packages, checked.
            description: what the program that pushes gets of every build.
            progress: where the output goes.

        Raises:
            InvalidRequest: a package is unknown, or it cannot be installed.
            Unavailable: Debian's index or the registry does not answer.
        """
        progress.phase("apt packages")
        with self._copy_credentials() as credentials:
            steps = self._make_steps(base, names, credentials.push)
            bundle = self._cluster.settings.ca_bundle
            files = {
                PUSH_FILE: json.dumps({**description, "base": base, "changes": _OUT}).encode(),
                **({_CA: bundle.read_bytes()} if bundle else {}),
            }
            outcomes = self._tasks.run(
                labels.BUILD, steps, progress, files=files, provide=["apt"], pull_secret=credentials.pull
            )
        _check_installation(outcomes[0], names)
        if outcomes[-1].status != 0:
            raise Unavailable(f"the Debian packages could not be pushed: {outcomes[-1].output[-2000:]}")
        *lines, digest = outcomes[-1].output.splitlines()
        for line in lines:
            progress.log(line)
        return digest

    def _make_steps(self, base: str, names: Sequence[str], push_secret: str | None) -> list[Step]:
        options = [f"--option=Acquire::https::CAInfo={INPUTS}/{_CA}"] if self._cluster.settings.ca_bundle else []
        mounts = {"out": _OUT}
        return [
            Step(
                "install",
                base,
                ["python3", "-I", "-S", "-B", PROGRAM, _OUT, *options, *names],
                mounts=mounts,
                installs=True,
            ),
            make_push_step(self._cluster.options, mounts, push_secret),
        ]

    @contextmanager
    def _copy_credentials(self) -> Iterator[_Credentials]:
        """Copy the Secrets for the registry into the namespace of builds, until the end of the block."""
        options = self._cluster.options
        copies = {
            name: f"venvd-{labels.BUILD}-{secrets.token_hex(6)}" for name in (options.pull_secret, options.push_secret)
        }
        with self._builds.remove_at_end(*((Secret, own) for name, own in copies.items() if name is not None)):
            for name, own in copies.items():
                if name is not None:
                    given: Any = self._cluster.client.get(Secret, name)
                    metadata = self._builds.make_metadata(own, self._builds.labels(labels.BUILD))
                    content = {"metadata": metadata, "type": _DOCKER_CONFIG, "data": dict(given.data or {})}
                    self._builds.create(Secret, content)
            pull, push = (name and copies[name] for name in (options.pull_secret, options.push_secret))
            yield _Credentials(pull, push)

    def sweep(self) -> None:
        """Remove the builds of killed controllers."""
        if self._cluster.options.apt_namespace is not None:
            self._tasks.sweep()

    def remove_left(self) -> None:
        """Remove what could not be removed at the end of a build."""
        self._builds.remove_left()

    def close(self) -> None:
        self._builds.close()


def _check_installation(outcome: Outcome, names: Sequence[str]) -> None:
    """Raise what an installation that failed means."""
    if outcome.status == 0:
        return
    if outcome.status == apt_install.UNKNOWN:
        requirements.check_apt_known(names, set(json.loads(outcome.output.splitlines()[-1])))
    output = outcome.output.strip()[-2000:] or "it wrote nothing"
    if outcome.status == apt_install.LISTS:
        raise Unavailable(f"Debian's package lists could not be fetched: {output}")
    raise InvalidRequest(f"could not install the Debian packages {', '.join(names)}: {output}")
