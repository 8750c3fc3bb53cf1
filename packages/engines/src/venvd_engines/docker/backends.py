"""Backends as pairs of containers: a server and a worker host, with the channel between them."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_contract.errors import InvalidRequest, VenvdError
from venvd_contract.internal.environment import WORKER_ENV
from venvd_contract.resources import LogLine
from venvd_engines.docker import hardening, labels, logs, sockets
from venvd_engines.docker.networks import Networks
from venvd_engines.docker.ports import PortSearch, reachable
from venvd_engines.docker.servers import Servers
from venvd_engines.docker.site import Site
from venvd_engines.docker.sockets import SocketDirectories
from venvd_engines.docker.translation import explanation
from venvd_engines.docker.venvs import PREFIX
from venvd_engines.docker.volumes import FilledVolumes
from venvd_engines.engine import BackendState, Launch, LaunchRecord, Owned, PartState, Progress
from venvd_worker import archive

CHANNEL = "/run/venvd/channel"
ARCHIVE = "/venvd/worker"
WORK = "/work"
TMP = "/tmp"  # noqa: S108 - in containers of our own

CHANNEL_BYTES = 1 << 20
SERVER_MEMORY_BYTES = 2 << 30
SERVER_CPUS = 2.0
SERVER_PROCESSES = 256
SERVER_TMP_BYTES = 64 << 20

_SCHEMES = {"http": "http", "rpc": "grpc"}


class Backends:
    def __init__(
        self, site: Site, servers: Servers, volumes: FilledVolumes, networks: Networks, directories: SocketDirectories
    ) -> None:
        self._site = site
        self._servers = servers
        self._volumes = volumes
        self._networks = networks
        self._directories = directories

    # ---- start -----------------------------------------------------------------------------------------------

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        server_image = self._servers.ensure(launch.type, progress)
        socket = self._socket_name(launch)
        progress.check()
        try:
            with self._networks.kept():
                return self._started(launch, server_image, socket, progress)
        except BaseException:
            self._remove(launch.id, socket, server_image)
            raise

    def _started(self, launch: Launch, server_image: str, socket: str | None, progress: Progress) -> LaunchRecord:
        self._make_channel(launch)
        with ThreadPoolExecutor(1, thread_name_prefix="docker: worker host") as pool:
            worker = pool.submit(self._start_worker, launch)
            record = self._start_server(launch, server_image, socket, progress)
            worker.result()
        progress.check()
        return record

    @staticmethod
    def _socket_name(launch: Launch) -> str | None:
        if launch.type == "pipe" and not launch.socket_name:
            raise InvalidRequest("a pipe backend needs the name of its directory of sockets")
        return launch.socket_name if launch.type == "pipe" else None

    def _labels(self, launch: Launch, part: str, **more: str) -> dict[str, str]:
        theirs = {name: value for name, value in launch.labels.items() if not name.startswith("dev.venvd.")}
        ours = self._site.labels(part, launch=launch.id, name=launch.name, type=launch.type, key=launch.image.key)
        return {**theirs, **ours, **{f"dev.venvd.{name}": value for name, value in more.items()}}

    def _make_channel(self, launch: Launch) -> None:
        options = f"uid={labels.WORKER_UID},gid={labels.SHARED_GID},mode=2770,size={CHANNEL_BYTES},nosuid,nodev,noexec"
        self._site.api.create_volume(
            labels.part_name(launch.id, labels.CHANNEL),
            driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options},
            labels=self._labels(launch, labels.CHANNEL),
        )

    @staticmethod
    def _channel(launch: Launch) -> Mount:
        return Mount(CHANNEL, labels.part_name(launch.id, labels.CHANNEL), type="volume", no_copy=True)

    def _start_worker(self, launch: Launch) -> None:
        path = archive.build(self._site.settings.home / "worker")
        volume = self._volumes.ensure(
            labels.ARCHIVE, archive.version(), lambda: {path.name: path.read_bytes()}, launch.image.ref
        )
        scratch = hardening.scratch(launch.limits.tmpfs_bytes, labels.WORKER_UID, labels.SHARED_GID, executable=True)
        config = hardening.host_config(
            self._site.api,
            memory_bytes=launch.limits.memory_bytes,
            cpus=launch.limits.cpus,
            processes=launch.limits.processes,
            network=self._networks.ensure() if launch.network else "none",
            tmpfs={TMP: scratch, WORK: scratch},
            mounts=[self._channel(launch), Mount(ARCHIVE, volume, type="volume", read_only=True, no_copy=True)],
            runtime=self._site.settings.oci_runtime,
            shm_bytes=launch.limits.tmpfs_bytes,
        )
        warden = [f"{PREFIX}/bin/python", "-I", f"{ARCHIVE}/{path.name}", "warden"]
        container = hardening.neutral(
            self._site.api,
            launch.image.ref,
            config=config,
            labels=self._labels(launch, labels.WORKER),
            command=[*warden, "--channel", CHANNEL, "--work-dir", WORK, *launch.warden_options()],
            environment={WORKER_ENV: json.dumps(dict(launch.worker_env)), "HOME": WORK, "TMPDIR": TMP},
            user=f"{labels.WORKER_UID}:{labels.SHARED_GID}",
            name=labels.part_name(launch.id, labels.WORKER),
            hostname=launch.name,
            working_dir=WORK,
        )
        self._site.api.start(container)

    # ---- the server ------------------------------------------------------------------------------------------

    def _start_server(self, launch: Launch, image: str, socket: str | None, progress: Progress) -> LaunchRecord:
        mounts = [self._channel(launch)]
        if socket is not None:
            guarded = bool(launch.server_env.get("VENVD_TOKEN_SHA256"))
            path = self._directories.make(socket, sockets.OPEN if guarded else sockets.CLOSED, launch.image.ref)
            mounts.append(Mount(sockets.INSIDE, str(path), type="bind"))
        near = self._site.settings.docker_network is None
        search = PortSearch(launch.host, launch.ports, {*self._published(), *launch.reserved}, near=near)
        while True:
            progress.check()
            chosen = search.choose()
            record = self._make_record(launch, image, socket, chosen)
            name = self._create_server(launch, image, mounts, chosen, record)
            try:
                self._site.api.start(name)
            except docker.errors.APIError as error:
                if not search.lost(chosen, explanation(error)):
                    raise
                self._site.remove_container(name)
            else:
                return record

    def _published(self) -> Iterator[int]:
        """The ports that containers of this engine hold, whosever they are."""
        for container in self._site.api.containers():
            for port in container.get("Ports") or ():
                if port.get("PublicPort"):
                    yield port["PublicPort"]

    def _create_server(
        self, launch: Launch, image: str, mounts: Sequence[Mount], chosen: Mapping[int, int], record: LaunchRecord
    ) -> str:
        config = hardening.host_config(
            self._site.api,
            memory_bytes=SERVER_MEMORY_BYTES,
            cpus=SERVER_CPUS,
            processes=SERVER_PROCESSES,
            network=(self._site.settings.docker_network or self._networks.ensure()) if launch.ports else "none",
            tmpfs={TMP: hardening.scratch(SERVER_TMP_BYTES, labels.SERVER_UID, labels.SHARED_GID)},
            mounts=mounts,
            ports={inside: (launch.host, outside) for inside, outside in chosen.items()},
        )
        made = self._site.api.create_container(
            image,
            host_config=config,
            environment=_server_env(launch),
            labels=self._labels(
                launch, labels.SERVER, record=json.dumps(asdict(record)), socket=record.data["socket"] or ""
            ),
            ports=[(inside, "tcp") for inside in chosen],
            user=f"{labels.SERVER_UID}:{labels.SHARED_GID}",
            name=labels.part_name(launch.id, labels.SERVER),
            hostname=launch.name,
        )
        return str(made["Id"])

    def _make_record(self, launch: Launch, image: str, socket: str | None, chosen: Mapping[int, int]) -> LaunchRecord:
        if socket is not None:
            path = self._directories.path(socket)
            url, probe = f"unix://{path / sockets.MAIN}", f"unix://{path / sockets.PROBES}"
        else:
            inside = {port.name: port.inside for port in launch.ports}
            probed = inside.get("http", inside["main"])
            host = reachable(launch.host)
            url = f"{_SCHEMES[launch.type]}://{host}:{chosen[inside['main']]}"
            probe = f"http://{host}:{chosen[probed]}"
            if self._site.settings.docker_network:
                probe = f"http://{labels.part_name(launch.id, labels.SERVER)}:{probed}"
        return LaunchRecord(
            engine="docker",
            launch_id=launch.id,
            url=url,
            probe_url=probe,
            data={"socket": socket, "image": image, "memoryBytes": launch.limits.memory_bytes},
        )

    # ---- afterwards ------------------------------------------------------------------------------------------

    def inspect(self, record: LaunchRecord) -> BackendState:
        return BackendState(
            server=self._part(record, labels.SERVER),
            worker=self._part(record, labels.WORKER),
        )

    def _part(self, record: LaunchRecord, part: str) -> PartState:
        try:
            state = self._site.api.inspect_container(labels.part_name(record.launch_id, part))["State"]
        except docker.errors.NotFound:
            return PartState("missing", "there is no such container")
        if state["Status"] in {"running", "paused", "restarting"}:
            return PartState("running", "" if state["Status"] == "running" else state["Status"])
        return PartState("exited", _ending(state, record))

    def stop(self, record: LaunchRecord, grace: float) -> None:
        """The server first, so that its running calls may still be answered by their sessions."""
        end = time.monotonic() + grace
        for part, least in ((labels.SERVER, 1.0), (labels.WORKER, 0.0)):
            left = max(0.0, end - time.monotonic() - least)
            with contextlib.suppress(docker.errors.NotFound):
                self._site.api.stop(labels.part_name(record.launch_id, part), timeout=math.floor(left))

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        self._remove(record.launch_id, record.data.get("socket"), record.data.get("image"), again=again)

    def destroy_owned(self, owned: Owned) -> None:
        if owned.record is not None:
            self.destroy(owned.record)
        else:
            self._remove(owned.launch_id, None, None)

    def _remove(self, launch_id: str, socket: str | None, image: str | None, *, again: bool = False) -> None:
        """Remove whatever there is of a launch, all of it even where a part resists."""
        works: list[Callable[[], object]] = [
            lambda: self._site.remove_container(labels.part_name(launch_id, labels.SERVER)),
            lambda: self._site.remove_container(labels.part_name(launch_id, labels.WORKER)),
        ]
        with ThreadPoolExecutor(len(works), thread_name_prefix="docker: destroy") as pool:
            done = [pool.submit(work) for work in works]
        failures = [error for future in done if (error := future.exception()) is not None]
        with contextlib.suppress(docker.errors.NotFound):
            self._site.api.remove_volume(labels.part_name(launch_id, labels.CHANNEL))
        if socket is not None and not self._site.api.containers(all=True, filters=self._site.filters(socket=socket)):
            self._directories.remove(socket, image, keep=again)
        self._networks.release()
        if failures:
            raise failures[0]

    def list_owned(self) -> list[Owned]:
        parts: dict[str, dict[str, Mapping[str, str]]] = {}
        for found in self._found():
            launch_id, role = found.get(labels.LAUNCH), found.get(labels.ROLE)
            if launch_id and role:
                parts.setdefault(launch_id, {})[role] = found
        return [_owned(launch_id, roles) for launch_id, roles in sorted(parts.items())]

    def _found(self) -> Iterator[Mapping[str, str]]:
        for container in self._site.api.containers(all=True, filters=self._site.filters()):
            yield container["Labels"]
        for volume in self._site.api.volumes(self._site.filters(labels.CHANNEL))["Volumes"] or ():
            yield volume["Labels"]

    def logs(self, record: LaunchRecord, tail: int | None, *, follow: bool) -> Iterator[LogLine]:
        if follow:
            yield from logs.followed(self._site.api, record.launch_id, tail)
        else:
            yield from logs.kept(self._site.api, record.launch_id, tail)


def _server_env(launch: Launch) -> dict[str, str]:
    """The server's settings and, over them, those that depend on where it runs."""
    inside = {port.name: str(port.inside) for port in launch.ports}
    paths = {"VENVD_CHANNEL": CHANNEL, "VENVD_HOST": "0.0.0.0"}  # noqa: S104 - in a container; published on `host` only
    if "main" in inside:
        paths["VENVD_PORT"] = inside["main"]
    if "http" in inside:
        paths["VENVD_HTTP_PORT"] = inside["http"]
    if launch.type == "pipe":
        paths |= {"VENVD_SOCKET_DIR": sockets.INSIDE, "VENVD_SOCKET_MODE": sockets.SOCKET_MODE}
    return {**launch.server_env, **paths}


def _ending(state: Mapping[str, Any], record: LaunchRecord) -> str:
    if state["Status"] == "created":
        return state.get("Error") or "was never started"
    if state.get("OOMKilled"):
        return f"ran out of memory (limit {record.data.get('memoryBytes')} bytes)"
    return f"exited with status {state['ExitCode']}" + (f": {state['Error']}" if state.get("Error") else "")


def _owned(launch_id: str, roles: Mapping[str, Mapping[str, str]]) -> Owned:
    record = None
    with contextlib.suppress(KeyError, TypeError, ValueError, VenvdError):
        record = LaunchRecord(**json.loads(roles[labels.SERVER][labels.RECORD]))
    complete = record is not None and roles.keys() >= {labels.SERVER, labels.WORKER, labels.CHANNEL}
    name = next(iter(roles.values())).get(labels.NAME, "")
    return Owned(launch_id=launch_id, name=name, record=record, complete=complete)
