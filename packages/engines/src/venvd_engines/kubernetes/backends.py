"""Backends as pods: server and worker host in one pod, a Secret with the keys, a Service with the backend's name."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from lightkube.core.exceptions import ApiError
from lightkube.resources.core_v1 import Pod, Secret, Service

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable, Unimplemented, VenvdError
from venvd_contract.resources import LogLine
from venvd_engines.addresses import url_host
from venvd_engines.engine import BackendState, Launch, LaunchRecord, Owned, PartState, Progress
from venvd_engines.kubernetes import labels, pods
from venvd_engines.kubernetes.cluster import Cluster
from venvd_engines.kubernetes.controller_route import find_controller
from venvd_engines.kubernetes.host_files import read_files
from venvd_engines.kubernetes.pod_list import PodList
from venvd_engines.kubernetes.policies import Policies
from venvd_engines.kubernetes.waiting import explain_waiting, find_failure
from venvd_engines.kubernetes.way_out import make_broker_file

START_SECONDS = 120.0
"""The longest wait until both containers run. It includes the pull of their images."""
POLL_SECONDS = 0.2
FOLLOW_SECONDS = 0.5
STOPPED = "dev.venvd.stopped"
PARTS = (labels.SERVER, labels.WORKER)
NO_PIPES = (
    "type: a Unix socket cannot leave a pod, so no pipe backend is started: `venvd backend manifest NAME --venv VENV` "
    "prints a pod that has one beside its client"
)
REACHES = {True: "full", "destinations": "destinations"}
"""The value of the label `labels.NETWORK` by the network of a launch; for any other network it is `none`."""


_IDENTITY = (labels.HOME, labels.ROLE, labels.NAME)
"""The labels that show whether a Service belongs to a backend of this home."""
_ABSENT_WORKER = PartState("running", "a router has none")


class Backends:
    """Starts, inspects, stops and removes backends."""

    def __init__(self, cluster: Cluster, policies: Policies) -> None:
        self._cluster = cluster
        self._policies = policies
        self.pods = PodList(cluster)
        self._written: dict[tuple[str, str], bytes] = {}

    # ---- start -----------------------------------------------------------------------------------------------

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        """Make the Secret, the Service and the pod, and wait until both containers run.

        If the start fails, remove all three; the error says why the pod did not run.
        """
        _check_launch(launch)
        if launch.network in {"loopback", "destinations"}:
            what = "a list of destinations" if launch.network == "destinations" else "loopback"
            self._policies.require(f"network: {what}", progress)
        controller = find_controller(self._cluster.options, launch)
        files = {**launch.server_files, **(controller.files if controller is not None else {})}
        metadata_labels = self._make_labels(launch)
        name = labels.make_name(launch.id)
        try:
            self._cluster.create(Secret, self._make_keys(launch, files, metadata_labels))
            service = self._find_service(launch) if launch.beside else self._make_service(launch, metadata_labels)
            record = self._make_record(launch, files, service)
            runtime = pods.find_runtime_class(launch.oci_runtime or self._cluster.settings.oci_runtime)
            shared = pods.describe_shared_volumes("channel") if runtime and not launch.router else {}
            annotations = {labels.RECORD: json.dumps(asdict(record)), **shared}
            reach = labels.ROUTES if launch.router else REACHES.get(launch.network, "none")
            selected = {labels.NETWORK: reach, **({labels.CONTROLLER: "reached"} if controller is not None else {})}
            metadata = self._cluster.make_metadata(name, {**metadata_labels, **selected}, annotations)
            host = str(record.data["host"])
            if launch.router:
                spec = pods.make_router(self._cluster.settings, launch, host)
            else:
                spec = pods.make_backend(self._cluster.settings, launch, runtime, host, controller)
            self._cluster.create(Pod, {"metadata": metadata, "spec": spec})
            pod = self._wait_until_running(launch.id, _list_parts(record), progress)
            self.pods.expect_change()
        except BaseException:
            self._remove(launch.id)
            raise
        return _add_own_address(record, pod)

    def _make_labels(self, launch: Launch) -> dict[str, str]:
        return self._cluster.labels(labels.BACKEND, launch=launch.id, name=launch.name, type=launch.type)

    def _make_keys(self, launch: Launch, files: Mapping[str, Path], metadata_labels: dict[str, str]) -> dict[str, Any]:
        content = {**read_files(files), pods.KEYS_FILE: launch.keys}
        if launch.manages_key is not None:
            content[pods.MANAGES_FILE] = launch.manages_key.encode()
        if not launch.router:
            content[pods.SECRETS_FILE] = launch.secrets
        if launch.network == "destinations":
            content[pods.BROKER_FILE] = make_broker_file(self._cluster, launch)
        metadata = self._cluster.make_metadata(labels.make_name(launch.id), metadata_labels)
        return {"metadata": metadata, "type": "Opaque", "data": pods.encode_files(content)}

    def _make_service(self, launch: Launch, metadata_labels: dict[str, str]) -> Any:
        """Make the Service. It has its own address, so only an exact port of the launch differs from the one inside."""
        outside = {port.name: port.wanted if port.exact else port.inside for port in launch.ports}
        ports = [
            {"name": name, "port": outside.get(name, inside), "targetPort": inside, "protocol": "TCP"}
            for name, inside in pods.PORTS[launch.type].items()
        ]
        spec = {
            "selector": {labels.LAUNCH: launch.id},
            "ports": ports,
            # the controller probes servers that are not ready yet
            "publishNotReadyAddresses": True,
        }
        name = launch.address_name or launch.name
        metadata = self._cluster.make_metadata(name, metadata_labels)
        try:
            return self._cluster.create(Service, {"metadata": metadata, "spec": spec})
        except ApiError as error:
            if error.status.code != 409:
                raise
        found = self._cluster.find(Service, name)
        own = self._cluster.labels(labels.BACKEND, name=launch.name)
        if found is None or any((found.metadata.labels or {}).get(each) != own[each] for each in _IDENTITY):
            namespace = self._cluster.namespace
            raise Conflict(f'the namespace {namespace} has a Service "{name}": choose another name')
        # an interrupted update has led the Service to a launch that is gone
        return self._cluster.client.patch(Service, name, {"metadata": {"labels": metadata_labels}, "spec": spec})

    def _find_service(self, launch: Launch) -> Any:
        """Find the Service of the backend. It leads to another launch."""
        name = launch.address_name or launch.name
        service = self._cluster.find(Service, name)
        if service is None:
            raise Unavailable(f'the Service "{name}" is gone: restart the backend')
        return service

    def take_address(self, record: LaunchRecord) -> None:
        """Lead the Service of a backend to the pod of this launch. Connections stay with the pod that has them."""
        name, launch = str(record.data["service"]), {labels.LAUNCH: record.launch_id}
        self._cluster.client.patch(Service, name, {"metadata": {"labels": launch}, "spec": {"selector": launch}})

    def _make_record(self, launch: Launch, files: Mapping[str, Path], service: Any) -> LaunchRecord:
        """Make the record. Outside of the cluster, its names mean nothing, so the record has the Service's address."""
        name = str(service.metadata.name)
        host = f"{name}.{self._cluster.namespace}.svc"
        reached = host if os.environ.get("KUBERNETES_SERVICE_HOST") else service.spec.clusterIP
        ports = {port.name: port.port for port in service.spec.ports}
        probe_url = f"{launch.probe_scheme}://{reached}:{ports.get('http', ports['main'])}"
        return LaunchRecord(
            engine="kubernetes",
            launch_id=launch.id,
            url=f"{launch.url_scheme}://{reached}:{ports['main']}",
            probe_url=probe_url,
            http_url=probe_url if "http" in ports else None,
            data={
                "service": name,
                "host": host,
                "type": launch.type,
                "routed": launch.routed,
                "memoryBytes": launch.limits.memory_bytes,
                "router": launch.router,
                "files": {variable: str(path) for variable, path in files.items()},
            },
        )

    def _wait_until_running(self, launch_id: str, parts: Sequence[str], progress: Progress) -> Any:
        deadline = time.monotonic() + START_SECONDS
        said = ""
        while True:
            progress.check()
            pod = self.pods.find(launch_id)
            if pod is None:
                raise Unavailable("the pod was deleted while it started")
            if all(_inspect_part(pod, part).state == "running" for part in parts) and pod.status.podIP:
                return pod
            failure = find_failure(pod)
            if failure is not None:
                raise failure
            reason = explain_waiting(pod)
            if reason and reason != said:
                progress.log(reason)
                said = reason
            if time.monotonic() > deadline:
                raise Unavailable(
                    f"the pod did not run within {START_SECONDS:g} s: {said or 'the cluster says no reason'}"
                )
            time.sleep(POLL_SECONDS)

    # ---- running backends ------------------------------------------------------------------------------------

    def inspect(self, record: LaunchRecord) -> BackendState:
        """Return the state of both containers. One list of pods answers for all backends of the home."""
        pod = self.pods.read().get(record.launch_id)
        if pod is None:  # the pod may be younger than the list
            pod = self._cluster.find(Pod, labels.make_name(record.launch_id))
        if pod is None and self._was_stopped(record):
            return BackendState(*(PartState("exited", "stopped") for _ in PARTS))
        parts = _list_parts(record)
        return BackendState(*(_inspect_part(pod, part) if part in parts else _ABSENT_WORKER for part in PARTS))

    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the key file."""
        self._write_files(record, "keys", {pods.KEYS_FILE: data}, hashlib.sha256(data).hexdigest()[:12])

    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the file of secrets. The kubelet keeps it on a tmpfs. A router has none."""
        if record.data.get("router"):
            return
        mark = uuid.uuid4().hex[:12]  # not a digest, from which secrets could be guessed
        self._write_files(record, "secrets", {pods.SECRETS_FILE: data}, mark)

    def refresh_files(self, record: LaunchRecord) -> None:
        """Replace the copies of the controller's files, all at once, if one has changed."""
        paths = record.data.get("files")
        if paths:
            self._write_files(record, "files", read_files(paths), uuid.uuid4().hex[:12])

    def _write_files(self, record: LaunchRecord, kind: str, files: Mapping[str, bytes], mark: str) -> None:
        """Replace files. The change of the pod's annotation makes the kubelet read the Secret at once.

        This does not write again what this process has written: the controller asks for it every few seconds, and only
        an owner of the namespace changes a Secret.
        """
        name, key = labels.make_name(record.launch_id), (record.launch_id, kind)
        digest = hashlib.sha256(repr(sorted(files.items())).encode()).digest()
        if self._written.get(key) == digest:
            return
        with _absent_is_fine():
            self._cluster.client.patch(Secret, name, {"data": pods.encode_files(files)})
            annotations = {f"dev.venvd.{kind}": mark}
            self._cluster.client.patch(Pod, name, {"metadata": {"annotations": annotations}})
        self._written[key] = digest

    def stop(self, record: LaunchRecord, grace: float) -> None:
        """Delete the pod, and wait until its containers have ended. The object may stay some seconds longer."""
        name = labels.make_name(record.launch_id)
        with _absent_is_fine():
            self._cluster.client.patch(Secret, name, {"metadata": {"annotations": {STOPPED: "true"}}})
        self._cluster.delete(Pod, name, math.ceil(grace))
        deadline = time.monotonic() + grace + 10
        while time.monotonic() < deadline:
            pod = self._cluster.find(Pod, name)
            if pod is None or all(_inspect_part(pod, part).state != "running" for part in PARTS):
                break
            time.sleep(POLL_SECONDS)
        self.pods.expect_change()

    def _was_stopped(self, record: LaunchRecord) -> bool:
        """Return whether `stop` removed the pod. The Secret stays until `destroy`, with an annotation that says so."""
        secret = self._cluster.find(Secret, labels.make_name(record.launch_id))
        return secret is not None and STOPPED in (secret.metadata.annotations or {})

    def logs(self, record: LaunchRecord, tail: int | None, *, follow: bool) -> Iterator[LogLine]:
        """Yield the log lines of both containers; with `follow`, until both end."""
        lines = self._read_logs(record, None)
        yield from lines if tail is None else lines[max(0, len(lines) - tail) :]
        while follow:
            last = {part: max((line.time for line in lines if line.source == part), default="") for part in PARTS}
            state = self.inspect(record)
            running = "running" in {state.server.state, state.worker.state}
            new = [line for line in self._read_logs(record, 60) if line.time > last[line.source]]
            yield from new
            lines = [*lines[-1:], *new] if new else lines
            if not running:
                return
            time.sleep(FOLLOW_SECONDS)

    def _read_logs(self, record: LaunchRecord, seconds: int | None) -> list[LogLine]:
        name = labels.make_name(record.launch_id)
        options = {"timestamps": True, **({"since": seconds} if seconds else {})}
        lines = [
            LogLine(time=stamp, source=part, stream="stderr", text=text)
            for part in _list_parts(record)
            for stamp, _, text in (line.partition(" ") for line in self._cluster.read_log(name, part, **options))
        ]
        return sorted(lines, key=lambda line: line.time)

    def list_owned(self) -> list[Owned]:
        """List the backends of this home, as the labels of their objects describe them."""
        objects_by_launch: dict[str, dict[str, Any]] = {}
        for resource in (Pod, Secret, Service):
            listed = self.pods.read(0).values() if resource is Pod else self._cluster.list(resource, labels.BACKEND)
            for each in listed:
                objects_by_launch.setdefault(each.metadata.labels[labels.LAUNCH], {})[resource.__name__] = each
        return [_make_owned(launch_id, objects) for launch_id, objects in sorted(objects_by_launch.items())]

    # ---- removal ---------------------------------------------------------------------------------------------

    def destroy(self, record: LaunchRecord) -> None:
        self._remove(record.launch_id)

    def destroy_owned(self, owned: Owned) -> None:
        self._remove(owned.launch_id)

    def _remove(self, launch_id: str) -> None:
        """Remove all objects of a launch. The label finds the Service, since that has the name of the backend."""
        name = labels.make_name(launch_id)
        self._cluster.delete(Pod, name, 0)
        for service in self._cluster.client.list(Service, labels={labels.LAUNCH: launch_id}):
            self._cluster.delete(Service, str(service.metadata.name))  # type: ignore[union-attr]
        self._cluster.delete(Secret, name)
        for kind in ("keys", "secrets", "files"):
            self._written.pop((launch_id, kind), None)
        self.pods.expect_change()


def _check_launch(launch: Launch) -> None:
    """Raise an error if this engine cannot run the launch.

    Raises:
        Unimplemented: the engine lacks something; the message says what.
        InvalidRequest: the launch is wrong; the message says what would be right.
    """
    if launch.type == "pipe":
        raise Unimplemented(NO_PIPES)
    if launch.network is not False and "VENVD_NO_TOKEN" in launch.server_env:
        raise InvalidRequest(
            "token: on the engine kubernetes user code with a network reaches its own server, which needs a token"
        )


def _add_own_address(record: LaunchRecord, pod: Any) -> LaunchRecord:
    """Add the address of the pod. The Service leads to another launch before this one takes it, and after an update.

    The router also uses this address, since it does not reach DNS.
    """
    ports = pods.PORTS.get(str(record.data.get("type")), {})
    if not pod.status.podIP or not ports:
        return record
    host, scheme = url_host(str(pod.status.podIP)), urlsplit(record.url).scheme
    own_url = f"{scheme}://{host}:{ports['main']}"
    probe_url = f"{urlsplit(record.probe_url).scheme}://{host}:{ports.get('http', ports['main'])}"
    routed = bool(record.data.get("routed"))
    return replace(
        record,
        own_url=own_url,
        probe_url=probe_url,
        inner_url=own_url if routed else None,
        inner_http_url=probe_url if routed and "http" in ports else None,
    )


def _list_parts(record: LaunchRecord) -> Sequence[str]:
    """List the containers of a launch."""
    return (labels.SERVER,) if record.data.get("router") else PARTS


@contextlib.contextmanager
def _absent_is_fine() -> Iterator[None]:
    try:
        yield
    except ApiError as error:
        if error.status.code != 404:
            raise


def _inspect_part(pod: Any, part: str) -> PartState:
    """Read the state of a container. `phase` stays Running while one of two is dead; an evicted pod has no states."""
    if pod is None:
        return PartState("missing", "there is no such pod")
    states = {status.name: status.state for status in pod.status.containerStatuses or ()}
    state = states.get(part)
    if state is None and pod.status.phase == "Failed":
        return PartState("exited", f"{pod.status.reason or 'failed'}: {pod.status.message or ''}".strip(": "))
    if state is not None and state.running is not None:
        return PartState("running")
    if state is not None and state.terminated is not None:
        out_of_memory = state.terminated.reason == "OOMKilled"
        return PartState(
            "exited", "ran out of memory" if out_of_memory else f"exited with status {state.terminated.exitCode}"
        )
    return PartState("missing", "not started yet")


def _make_owned(launch_id: str, objects: dict[str, Any]) -> Owned:
    record = None
    with contextlib.suppress(KeyError, TypeError, ValueError, VenvdError):
        record = LaunchRecord(**json.loads(objects["Pod"].metadata.annotations[labels.RECORD]))
        record = _add_own_address(record, objects["Pod"])
    name = next(iter(objects.values())).metadata.labels.get(labels.NAME, "")
    parts = PARTS if record is None else _list_parts(record)
    running = all(_inspect_part(objects.get("Pod"), part).state == "running" for part in parts)
    return Owned(
        launch_id=launch_id,
        name=name,
        record=record,
        complete=record is not None and {"Pod", "Secret"} <= objects.keys(),
        running=running,
    )
