"""Short-lived pods that lock, build and check; each is removed at its end, with the Secret of its inputs."""

from __future__ import annotations

import base64
import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightkube.resources.core_v1 import Pod, Secret

from venvd_contract.errors import DeadlineExceeded, InvalidRequest, Unavailable
from venvd_engines.engine import Progress
from venvd_engines.kubernetes import labels, pods
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.settings import KubernetesSettings
from venvd_engines.kubernetes.waiting import FINAL, PULLS, explain_waiting, find_failure

INPUTS = "/run/venvd/inputs"
MAX_INPUT_BYTES = 1_000_000
"""A Secret holds about a megabyte."""
POLL_SECONDS = 0.3


@dataclass(frozen=True)
class Step:
    """One container of a task; steps run one after the other.

    Attributes:
        name: of the container.
        image: a reference.
        command: the program and its arguments.
        user: a user ID.
        env: variables; only a Secret contains them.
        mounts: volumes beside `/tmp`, the tools and the inputs: the path of each by its name.
        read_only: those of the mounts that this step cannot write.
        secret: the name of a Secret with registry credentials that this step alone mounts.
        show: whether its output goes to the log of the work.
        installs: whether it is root, and changes its own files, in place of what `user` says.
    """

    name: str
    image: str
    command: Sequence[str]
    user: int = labels.WORKER_UID
    env: Mapping[str, str] | None = None
    mounts: Mapping[str, str] | None = None
    read_only: frozenset[str] = frozenset()
    secret: str | None = None
    show: bool = True
    installs: bool = False


CREDENTIALS = "/run/venvd/credentials"
PUSH_FILE = "push.json"
"""The input of a step that pushes."""


def make_push_step(options: KubernetesSettings, mounts: Mapping[str, str], secret: str | None) -> Step:
    """Make the step that pushes a layer: it reads the mounts, runs no code of them, and alone has the credentials."""
    return Step(
        "push",
        pods.find_image(options, "controller"),
        ["/opt/venv/bin/python", "-I", "-m", "venvd_engines.kubernetes.layer", f"{INPUTS}/{PUSH_FILE}"],
        user=pods.CONTROLLER_UID,
        mounts=mounts,
        read_only=frozenset(mounts),
        secret=secret,
        show=False,
    )


@dataclass(frozen=True)
class Outcome:
    """How a step ended: its status, its output, and the image that it ran by digest."""

    status: int
    output: str
    image: str


class Tasks:
    """Runs tasks."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def run(
        self,
        role: str,
        steps: Sequence[Step],
        progress: Progress,
        *,
        files: Mapping[str, bytes] | None = None,
        provide: Sequence[str] = (),
        seconds: float | None = None,
        pull_secret: str | None = None,
    ) -> list[Outcome]:
        """Run the steps until one fails or all have ended; the outcomes of those that ran.

        `pull_secret` is the Secret with which their images are pulled, in place of that of the settings.

        Raises:
            DeadlineExceeded: they take longer than `seconds`.
            InvalidRequest: the files are too large, or an image's name is wrong.
            Unavailable: the pod does not run; says why.
        """
        settings = self._cluster.settings
        seconds = settings.build_timeout if seconds is None else seconds
        name = f"venvd-{role}-{secrets.token_hex(6)}"
        inputs = {**(files or {}), **_list_env_inputs(steps)}
        if sum(map(len, inputs.values())) > MAX_INPUT_BYTES:
            raise InvalidRequest(
                f"the requirements and certificates of a build have more than {MAX_INPUT_BYTES:,} bytes"
            )
        task_labels = self._cluster.labels(role)
        data = {key: base64.b64encode(content).decode() for key, content in inputs.items()}
        with self._cluster.remove_at_end((Pod, name), (Secret, name)):
            metadata = self._cluster.make_metadata(name, task_labels)
            self._cluster.create(Secret, {"metadata": metadata, "type": "Opaque", "data": data})
            spec = self._make_spec(name, steps, provide, seconds)
            if pull_secret is not None:
                spec["imagePullSecrets"] = [{"name": pull_secret}]
            self._cluster.create(Pod, {"metadata": metadata, "spec": spec})
            return self._wait(name, steps, progress, seconds)

    def sweep(self) -> None:
        """Remove the tasks of killed controllers."""
        for role in labels.TASKS:
            for resource in (Pod, Secret):
                for each in self._cluster.list(resource, role):
                    if not self._cluster.is_made_here(each.metadata):
                        self._cluster.delete(resource, each.metadata.name, 0 if resource is Pod else None)

    def _make_spec(self, name: str, steps: Sequence[Step], provide: Sequence[str], seconds: float) -> dict[str, Any]:
        options = self._cluster.options
        containers = [self._make_container(name, step) for step in steps]
        if provide:
            containers.insert(0, pods.make_provider(options, provide))
        mounted = {volume for step in steps for volume in step.mounts or ()}
        volumes: list[dict[str, Any]] = [
            {"name": "inputs", "secret": {"secretName": name, "defaultMode": 0o444}},
            {"name": "tools", "emptyDir": {}},
            *({"name": _name_scratch(step), "emptyDir": {}} for step in steps),
            *({"name": volume, "emptyDir": {}} for volume in sorted(mounted)),
        ]
        volumes += [
            {"name": _name_credentials(secret), "secret": {"secretName": secret, "defaultMode": 0o440}}
            for secret in sorted({step.secret for step in steps if step.secret})
        ]
        return pods.make_spec(
            options,
            labels.WORKER_UID,
            initContainers=containers[:-1],
            containers=containers[-1:],
            volumes=volumes,
            activeDeadlineSeconds=round(seconds) + 60,
            terminationGracePeriodSeconds=0,
        )

    def _make_container(self, name: str, step: Step) -> dict[str, Any]:
        settings = self._cluster.settings
        mounts: list[dict[str, Any]] = [
            {"name": "inputs", "mountPath": INPUTS, "readOnly": True},
            {"name": "tools", "mountPath": pods.TOOLS, "readOnly": True},
            {"name": _name_scratch(step), "mountPath": pods.TMP},
        ]
        for volume, path in (step.mounts or {}).items():
            mounts.append({"name": volume, "mountPath": path, "readOnly": volume in step.read_only})
        if step.secret:
            mounts.append({"name": _name_credentials(step.secret), "mountPath": CREDENTIALS, "readOnly": True})
        env: list[dict[str, Any]] = [{"name": "HOME", "value": pods.TMP}]
        for variable in step.env or ():
            reference = {"secretKeyRef": {"name": name, "key": f"{step.name}.{variable}"}}
            env.append({"name": variable, "valueFrom": reference})
        container = {
            "name": step.name,
            "image": step.image,
            "command": list(step.command),
            "env": env,
            "workingDir": pods.TMP,
            "volumeMounts": mounts,
            "resources": {
                "requests": {"cpu": "100m", "memory": "128Mi"},
                "limits": {"cpu": f"{settings.build_cpus:g}", "memory": str(settings.build_memory_bytes)},
            },
        }
        return pods.let_install(container) if step.installs else pods.secure(container, step.user)

    def _wait(self, name: str, steps: Sequence[Step], progress: Progress, seconds: float) -> list[Outcome]:
        deadline = time.monotonic() + seconds
        shown = dict.fromkeys((step.name for step in steps), 0)
        said = ""
        while True:
            pod = self._cluster.ask(lambda: self._cluster.find(Pod, name), progress.check)
            if pod is None:
                raise Unavailable("the pod of the build was deleted")
            ended = _list_ended(pod, steps)
            for step in steps:
                if step.show:
                    self._show(name, step, shown, progress)
            if len(ended) == len(steps) or any(state.exitCode for state, _ in ended.values()):
                return [
                    Outcome(state.exitCode, "\n".join(self._read_log(name, step, progress)), image)
                    for step, (state, image) in ended.items()
                ]
            self._check_waiting(pod, {step.name for step in steps})
            reason = explain_waiting(pod)
            if reason and reason != said:
                progress.log(reason)
                said = reason
            progress.check()
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"the build took longer than {seconds:g} s{f' ({said})' if said else ''}")
            time.sleep(POLL_SECONDS)

    def _read_log(self, name: str, container: str, progress: Progress) -> list[str]:
        return self._cluster.ask(lambda: list(self._cluster.read_log(name, container)), progress.check)

    @staticmethod
    def _check_waiting(pod: Any, own: set[str]) -> None:
        """Raise the reason of a pod that never runs; the failure of a step is an outcome."""
        failure = find_failure(pod)
        if failure is not None:
            statuses = [*(pod.status.initContainerStatuses or ()), *(pod.status.containerStatuses or ())]
            waiting = {status.state.waiting.reason for status in statuses if status.state and status.state.waiting}
            provider = [each for each in statuses if each.name not in own and each.state and each.state.terminated]
            if waiting & {*FINAL, *PULLS} or any(each.state.terminated.exitCode for each in provider) or not statuses:
                raise failure

    def _show(self, name: str, step: Step, shown: dict[str, int], progress: Progress) -> None:
        lines = self._read_log(name, step.name, progress)
        for line in lines[shown[step.name] :]:
            if line.strip():
                progress.log(line)
        shown[step.name] = len(lines)


def _name_scratch(step: Step) -> str:
    """Name the volume of a step's `/tmp`: no step finds there what code of another one has left."""
    return f"tmp-{step.name}"


def _name_credentials(secret: str) -> str:
    return f"credentials-{secret}"[:63].rstrip("-.").replace(".", "-")


def _list_env_inputs(steps: Sequence[Step]) -> dict[str, bytes]:
    return {f"{step.name}.{name}": value.encode() for step in steps for name, value in (step.env or {}).items()}


def _list_ended(pod: Any, steps: Sequence[Step]) -> dict[str, tuple[Any, str]]:
    """The steps that have ended, in their order, each with its final state and its image by digest."""
    statuses = {each.name: each for each in _list_statuses(pod)}
    ended = {}
    for step in steps:
        status = statuses.get(step.name)
        if status is not None and status.state is not None and status.state.terminated is not None:
            ended[step.name] = (status.state.terminated, status.imageID or "")
    return ended


def _list_statuses(pod: Any) -> Iterator[Any]:
    with contextlib.suppress(AttributeError):
        yield from pod.status.initContainerStatuses or ()
        yield from pod.status.containerStatuses or ()
