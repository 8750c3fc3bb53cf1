"""Backends as pairs of containers: a server and a worker host, with the channel between them."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import docker.errors
from docker.types import Mount

from venvd_contract.errors import InvalidRequest, Unavailable, VenvdError
from venvd_contract.internal.environment import WORKER_ENV
from venvd_contract.resources import LogLine
from venvd_engines.addresses import url_host
from venvd_engines.docker import labels, logs, secret_files, socket_directories
from venvd_engines.docker.client import DockerClient, tmpfs_options
from venvd_engines.docker.compat import PipeNames
from venvd_engines.docker.key_files import FILE, MANAGES_FILE, KeyFiles
from venvd_engines.docker.key_files import INSIDE as KEYS
from venvd_engines.docker.networks import Networks
from venvd_engines.docker.oci_runtimes import OciRuntimes
from venvd_engines.docker.ports import PortSearch
from venvd_engines.docker.secret_files import SecretFiles
from venvd_engines.docker.server_images import ServerImages
from venvd_engines.docker.socket_directories import SocketDirectories
from venvd_engines.docker.translation import explain
from venvd_engines.docker.venv_images import PREFIX
from venvd_engines.docker.worker_archives import WorkerArchives
from venvd_engines.engine import BackendState, Launch, LaunchRecord, Owned, PartState, Progress
from venvd_engines.socket_names import choose_prefix, find_own_socket, remove_own_names, take_name

CHANNEL = "/run/venvd/channel"
ARCHIVE = "/venvd/worker"
ASSEMBLIES = "/venvd/assemblies"
WORK = "/work"
TMP = "/tmp"  # noqa: S108 - in containers of our own

SHARED_MEMORY = "/dev/shm"  # noqa: S108

CHANNEL_BYTES = 1 << 20
WORKER_ULIMITS = {"nofile": 16384, "sigpending": 8192, "msgqueue": 0}
"""The kernel counts these for all processes of a user; each session has less (`venvd_worker.session.limits`)."""
SERVER_MEMORY_BYTES = 2 << 30
SERVER_CPUS = 2.0
SERVER_PROCESSES = 256
SERVER_TMP_BYTES = 64 << 20

_RUNNING = {"running", "paused", "restarting"}
"""States of a container whose processes have not ended for good."""

_OWN_NAMES = (labels.SERVER, labels.ROUTED)
_FILES = "/run/venvd/files"
"""The directory in the server's container with the files of `Launch.server_files`."""


class Backends:
    """Starts, inspects, stops and removes backends."""

    def __init__(
        self,
        client: DockerClient,
        servers: ServerImages,
        archives: WorkerArchives,
        networks: Networks,
        runtimes: OciRuntimes,
        directories: SocketDirectories,
        pipe_names: PipeNames,
    ) -> None:
        self._client = client
        self._servers = servers
        self._archives = archives
        self._networks = networks
        self._runtimes = runtimes
        self._directories = directories
        self._pipe_names = pipe_names
        self._keys = KeyFiles(client, directories)
        self._secrets = SecretFiles(client)

    # ---- start -----------------------------------------------------------------------------------------------

    def start(self, launch: Launch, progress: Progress) -> LaunchRecord:
        """Make the channel, then start both containers at the same time.

        If the start fails, remove all parts of the backend.
        """
        server_image = self._servers.ensure(launch.server_kind, progress)
        if launch.router:
            return self._start_router(launch, server_image, progress)
        if launch.type == "pipe" and not launch.socket_name:
            raise InvalidRequest("a pipe backend needs the name of its directory of sockets")
        socket = launch.socket_name if launch.type == "pipe" else None
        link = None if launch.pipe_name is None else self._pipe_names.find(launch.pipe_name)
        runtime = self._find_runtime(launch)
        if runtime is not None:
            self._runtimes.check(runtime, server_image)
        progress.check()
        try:
            with self._networks.keep():
                self._make_channel(launch)
                with ThreadPoolExecutor(1, thread_name_prefix="docker: worker host") as pool:
                    worker = pool.submit(self._start_worker, launch)
                    record = self._start_server(launch, server_image, socket, link, progress)
                    worker.result()
                progress.check()
                return record
        except BaseException:
            self._remove(launch.id, socket, link, server_image)
            raise

    def _start_router(self, launch: Launch, image: str, progress: Progress) -> LaunchRecord:
        """Start a router: one container. If the start fails, remove it."""
        try:
            with self._networks.keep():
                return self._start_server(launch, image, None, None, progress)
        except BaseException:
            self._remove(launch.id, None, None, image)
            raise

    def _labels(self, launch: Launch, part: str, **extra: str) -> dict[str, str]:
        user_labels = {name: value for name, value in launch.labels.items() if not name.startswith("dev.venvd.")}
        engine_labels = self._client.labels(
            part, launch=launch.id, name=launch.name, type=launch.type, key=launch.image.key, **extra
        )
        return {**user_labels, **engine_labels}

    def _make_channel(self, launch: Launch) -> None:
        """Make the channel: only the server can write to it."""
        options = f"uid={labels.SERVER_UID},gid={labels.SHARED_GID},mode=2750,size={CHANNEL_BYTES},nosuid,nodev,noexec"
        self._client.api.create_volume(
            labels.part_name(launch.id, labels.CHANNEL),
            driver_opts={"type": "tmpfs", "device": "tmpfs", "o": options},
            labels=self._labels(launch, labels.CHANNEL),
        )

    def _find_runtime(self, launch: Launch) -> str | None:
        return launch.oci_runtime or self._client.settings.oci_runtime

    @staticmethod
    def _channel(launch: Launch, *, read_only: bool) -> Mount:
        name = labels.part_name(launch.id, labels.CHANNEL)
        return Mount(CHANNEL, name, type="volume", read_only=read_only, no_copy=True)

    def _start_worker(self, launch: Launch) -> None:
        archive_volume, archive_name = self._archives.ensure(launch.image)
        size = launch.limits.tmpfs_bytes
        # Root owns these directories, so no session can close them to the others. No session can list them.
        # Engines before 23 ignore the requested mode and set 0755: there the user has to be the owner.
        owner = 0 if self._client.has_tmpfs_modes else _worker_user(launch)
        work = tmpfs_options(size, owner, 0, mode="1733", executable=True)
        temporary = tmpfs_options(size, 0, 0, mode="1777", executable=True)
        shared_memory = tmpfs_options(size, 0, 0, mode="1777")
        mounts = [
            self._channel(launch, read_only=True),
            Mount(ARCHIVE, archive_volume, type="volume", read_only=True, no_copy=True),
        ]
        if launch.assemblies is not None:
            mounts.append(Mount(ASSEMBLIES, str(launch.assemblies), type="bind", read_only=True))
        warden_command = [f"{PREFIX}/bin/python", "-I", "-S", f"{ARCHIVE}/{archive_name}", "warden"]
        container = self._client.create_container(
            launch.image.ref,
            labels=self._labels(launch, labels.WORKER),
            memory_bytes=launch.limits.memory_bytes,
            cpus=launch.limits.cpus,
            processes=launch.limits.processes,
            network=self._networks.ensure() if launch.network is True else "none",
            tmpfs={TMP: temporary, WORK: work, SHARED_MEMORY: shared_memory},
            mounts=mounts,
            runtime=self._find_runtime(launch),
            ulimits=WORKER_ULIMITS,
            command=[*warden_command, "--channel", CHANNEL, "--work-dir", WORK, *launch.warden_options()],
            environment={
                WORKER_ENV: json.dumps(launch.make_worker_env(PREFIX, ASSEMBLIES)),
                "HOME": WORK,
                "TMPDIR": TMP,
            },
            user=f"{_worker_user(launch)}:{labels.SHARED_GID}",
            name=labels.part_name(launch.id, labels.WORKER),
            hostname=launch.name,
            working_dir=WORK,
        )
        self._client.api.start(container)

    # ---- the server ------------------------------------------------------------------------------------------

    def _start_server(
        self, launch: Launch, image: str, socket: str | None, link: Path | None, progress: Progress
    ) -> LaunchRecord:
        mounts = [self._keys.make(launch.id, launch.keys, launch.manages_key, launch.image.ref)]
        if not launch.router:
            mounts.append(self._channel(launch, read_only=False))
            mounts.append(self._secrets.make(launch.id, self._labels(launch, labels.SECRETS)))
        mounts += [
            Mount(f"{_FILES}/{variable}", str(path), type="bind", read_only=True)
            for variable, path in launch.server_files.items()
        ]
        controller = self._client.settings.controller_socket
        if controller is not None and not launch.router:
            mounts.append(self._directories.mount_controller(controller, launch.image.ref))
        if socket is not None:
            has_token = bool(launch.server_env.get("VENVD_TOKEN_SHA256"))
            mode = socket_directories.OPEN if has_token else socket_directories.CLOSED
            self._directories.path(socket, choose_prefix(launch))
            make = self._directories.share if launch.beside else self._directories.make
            directory = make(socket, mode, launch.image.ref)
            mounts.append(Mount(socket_directories.INSIDE, str(directory), type="bind"))
        try_bind = self._client.settings.docker_network is None
        search = PortSearch(launch.host, launch.ports, {*self._list_published(), *launch.reserved}, probe=try_bind)
        while True:
            progress.check()
            host_ports = search.choose()
            record = self._make_record(launch, image, socket, link, host_ports)
            name = self._create_server(launch, image, mounts, host_ports, record)
            if socket is not None and link is not None:  # after the container, whose label names the link
                self._pipe_names.make(link, self._directories.path(socket) / socket_directories.MAIN, launch.image.ref)
            try:
                self._client.api.start(name)
            except docker.errors.APIError as error:
                if not search.exclude(host_ports, explain(error)):
                    raise
                self._client.remove_container(name)
            else:
                if launch.has_secrets and not launch.router:
                    self._secrets.write(launch.id, launch.secrets)
                return record

    def _list_published(self) -> Iterator[int]:
        """Yield the ports that containers on this engine publish, also the containers of other owners."""
        for container in self._client.api.containers():
            for port in container.get("Ports") or ():
                if port.get("PublicPort"):
                    yield port["PublicPort"]

    def _create_server(
        self, launch: Launch, image: str, mounts: Sequence[Mount], host_ports: Mapping[int, int], record: LaunchRecord
    ) -> str:
        name = self._client.create_container(
            image,
            labels=self._labels(
                launch, labels.SERVER, record=json.dumps(asdict(record)), socket=record.data["socket"] or ""
            ),
            memory_bytes=SERVER_MEMORY_BYTES,
            cpus=SERVER_CPUS,
            processes=SERVER_PROCESSES,
            network=self._choose_server_network(launch),
            tmpfs={TMP: tmpfs_options(SERVER_TMP_BYTES, labels.SERVER_UID, labels.SHARED_GID)},
            mounts=mounts,
            published={inside: (launch.host, outside) for inside, outside in host_ports.items()},
            keep_entrypoint=True,
            environment=_server_env(launch, self._client.settings.controller_socket),
            ports=[(inside, "tcp") for inside in host_ports],
            user=f"{labels.SERVER_UID}:{labels.SHARED_GID}",
            name=labels.part_name(launch.id, labels.SERVER),
            hostname=launch.name,
        )
        if (launch.router or launch.routed) and not self._client.settings.docker_network:
            # the container's own name resolves to its address in the other network too, where nothing reaches it
            aliases = [labels.part_name(launch.id, labels.ROUTED)]
            self._client.api.connect_container_to_network(name, self._networks.ensure_routed(), aliases=aliases)
        return name

    def _choose_server_network(self, launch: Launch) -> str:
        """Choose the network of a server: a server with ports needs one, and so does one with a broker beside it."""
        if launch.ports and self._client.settings.docker_network:
            return self._client.settings.docker_network
        return self._networks.ensure() if launch.ports or launch.network == "destinations" else "none"

    def _make_record(
        self, launch: Launch, image: str, socket: str | None, link: Path | None, host_ports: Mapping[int, int]
    ) -> LaunchRecord:
        http_url = inner_url = inner_http_url = own_url = None
        if socket is not None:
            directory = self._directories.path(socket)
            url = f"unix://{directory / socket_directories.MAIN}"
            probe_url = f"unix://{directory / (choose_prefix(launch) + socket_directories.PROBES)}"
            own_url = f"unix://{find_own_socket(directory, launch.id)}"
        else:
            inside_ports = {port.name: port.inside for port in launch.ports}
            probe_port = inside_ports.get("http", inside_ports["main"])
            host = url_host(launch.host)
            url = f"{launch.url_scheme}://{host}:{host_ports[inside_ports['main']]}"
            probe_url = f"{launch.probe_scheme}://{host}:{host_ports[probe_port]}"
            http_url = probe_url if "http" in inside_ports else None
            name = labels.part_name(launch.id, labels.SERVER)
            if self._client.settings.docker_network:
                probe_url = f"{launch.probe_scheme}://{name}:{probe_port}"
            else:
                name = labels.part_name(launch.id, labels.ROUTED)
            if launch.routed:
                inner_url = f"{launch.url_scheme}://{name}:{inside_ports['main']}"
                inner_http_url = f"{launch.probe_scheme}://{name}:{probe_port}" if http_url else None
        return LaunchRecord(
            engine="docker",
            launch_id=launch.id,
            url=url,
            probe_url=probe_url,
            http_url=http_url,
            inner_url=inner_url,
            inner_http_url=inner_http_url,
            own_url=own_url,
            data={
                "socket": socket,
                "link": None if link is None else str(link),
                "image": image,
                "memoryBytes": launch.limits.memory_bytes,
                "ociRuntime": self._find_runtime(launch) or self._runtimes.find_default(),
                "keys": True,
                "secrets": not launch.router,
                "router": launch.router,
            },
        )

    # ---- running backends ------------------------------------------------------------------------------------

    def inspect(self, record: LaunchRecord) -> BackendState:
        """Return the state of both containers."""
        return BackendState(*(self._inspect_part(record, part) for part in labels.PARTS))

    def _inspect_part(self, record: LaunchRecord, part: str) -> PartState:
        if part == labels.WORKER and record.data.get("router"):
            return PartState("running", "a router has none")
        try:
            state = self._client.api.inspect_container(labels.part_name(record.launch_id, part))["State"]
        except docker.errors.NotFound:
            return PartState("missing", "there is no such container")
        if state["Status"] in _RUNNING:
            return PartState("running", "" if state["Status"] == "running" else state["Status"])
        return PartState("exited", _describe_exit(state, record))

    def take_address(self, record: LaunchRecord, former: LaunchRecord) -> None:
        """Lead the name of a socket to another launch; see `Engine.take_address`."""
        if record.data["socket"] is not None:
            take_name(self._directories.path(record.data["socket"]), record.launch_id, former.launch_id)

    def write_keys(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the key file of a backend's server.

        Raises:
            Unavailable: the server still runs, but the directory of its key file is gone.
        """
        if self._keys.replace(record.launch_id, data) or not record.data.get("keys"):
            return
        if self._inspect_part(record, labels.SERVER).state != "missing":
            raise Unavailable("the directory of the key file is gone from the run directory; restart the backend")

    def write_secrets(self, record: LaunchRecord, data: bytes) -> None:
        """Replace the file of secrets of a backend's server, if it runs and has one."""
        if record.data.get("secrets") and self._inspect_part(record, labels.SERVER).state == "running":
            self._secrets.write(record.launch_id, data)

    def stop(self, record: LaunchRecord, grace: float) -> None:
        """Stop the server, then the worker host, so that sessions can still answer the running calls."""
        deadline = time.monotonic() + grace
        for part, reserved_seconds in ((labels.SERVER, 1.0), (labels.WORKER, 0.0)):
            seconds = max(0.0, deadline - time.monotonic() - reserved_seconds)
            with contextlib.suppress(docker.errors.NotFound):
                self._client.api.stop(labels.part_name(record.launch_id, part), timeout=math.floor(seconds))

    def logs(self, record: LaunchRecord, tail: int | None, *, follow: bool) -> Iterator[LogLine]:
        """Yield the log lines of both containers; with `follow`, until both end."""
        read_lines = logs.follow_logs if follow else logs.read_logs
        yield from read_lines(self._client.api, record.launch_id, tail)

    def list_owned(self) -> list[Owned]:
        """List the backends of this home, as the labels of their containers and channels describe them."""
        containers = self._client.api.containers(all=True, filters=self._client.filters())
        label_sets = [container["Labels"] for container in containers]
        ended = {
            container["Labels"].get(labels.LAUNCH) for container in containers if container["State"] not in _RUNNING
        }
        channel_volumes = self._client.api.volumes(self._client.filters(labels.CHANNEL))["Volumes"] or ()
        label_sets += [volume["Labels"] for volume in channel_volumes]
        labels_by_launch: dict[str, dict[str, Mapping[str, str]]] = {}
        for label_set in label_sets:
            launch_id, role = label_set.get(labels.LAUNCH), label_set.get(labels.ROLE)
            if launch_id and role:
                labels_by_launch.setdefault(launch_id, {})[role] = label_set
        return [
            _make_owned(launch_id, labels_by_role, launch_id in ended)
            for launch_id, labels_by_role in sorted(labels_by_launch.items())
        ]

    # ---- removal ---------------------------------------------------------------------------------------------

    def destroy(self, record: LaunchRecord, *, again: bool = False) -> None:
        """Remove everything of a launch; see `Engine.destroy`."""
        data = record.data
        link = None if data.get("link") is None else Path(data["link"])
        self._remove(record.launch_id, data.get("socket"), link, data.get("image"), again=again)

    def destroy_owned(self, owned: Owned) -> None:
        """Remove everything of a launch that `list_owned` found."""
        if owned.record is not None:
            self.destroy(owned.record)
        else:
            self._remove(owned.launch_id, None, None, None)

    def _remove(
        self, launch_id: str, socket: str | None, link: Path | None, image: str | None, *, again: bool = False
    ) -> None:
        """Remove all parts of a launch.

        If a container cannot be removed, remove the other parts, then raise the error.
        """
        with ThreadPoolExecutor(len(labels.PARTS), thread_name_prefix="docker: destroy") as pool:
            removals = [
                pool.submit(self._client.remove_container, labels.part_name(launch_id, part)) for part in labels.PARTS
            ]
        failures = [error for removal in removals if (error := removal.exception()) is not None]
        with contextlib.suppress(docker.errors.NotFound):
            self._client.api.remove_volume(labels.part_name(launch_id, labels.CHANNEL))
        self._secrets.remove(launch_id)
        self._keys.remove(launch_id)
        if socket is not None:
            containers = self._client.api.containers(all=True, filters=self._client.filters(socket=socket))
            if not containers:
                if link is not None:
                    self._pipe_names.remove(link, self._directories.path(socket) / socket_directories.MAIN, image)
                self._directories.remove(socket, image, keep=again)
            else:
                remove_own_names(self._directories.path(socket), launch_id)
        self._networks.remove_unused()
        if failures:
            raise failures[0]


def _worker_user(launch: Launch) -> int:
    return labels.WORKER_UID if launch.user_id is None else launch.user_id


def _server_env(launch: Launch, controller: Path | None) -> dict[str, str]:
    """Return the settings of the server. The engine sets those that `SERVER_PATHS` lists."""
    inside_ports = {port.name: str(port.inside) for port in launch.ports}
    host = "0.0.0.0"  # noqa: S104 - in a container, whose ports are published on `launch.host` only
    engine_settings = {"VENVD_HOST": host, "VENVD_KEYS_FILE": f"{KEYS}/{FILE}"}
    if not launch.router:
        engine_settings["VENVD_CHANNEL"] = CHANNEL
        engine_settings["VENVD_SECRETS_FILE"] = f"{secret_files.INSIDE}/{secret_files.FILE}"
        engine_settings["VENVD_AWAIT_SECRETS"] = "1" if launch.has_secrets else "0"
    if launch.manages_key is not None:
        engine_settings["VENVD_MANAGES_KEY_FILE"] = f"{KEYS}/{MANAGES_FILE}"
    if controller is not None and not launch.router:
        engine_settings["VENVD_CONTROLLER_SOCKET"] = f"{socket_directories.CONTROLLER}/{controller.name}"
    engine_settings["VENVD_OWN_HOSTS"] = ",".join(labels.part_name(launch.id, each) for each in _OWN_NAMES)
    if "main" in inside_ports:
        engine_settings["VENVD_PORT"] = inside_ports["main"]
    if "http" in inside_ports:
        engine_settings["VENVD_HTTP_PORT"] = inside_ports["http"]
    if launch.type == "pipe":
        engine_settings["VENVD_SOCKET_DIR"] = socket_directories.INSIDE
        engine_settings["VENVD_SOCKET_PREFIX"] = choose_prefix(launch)
    files = {variable: f"{_FILES}/{variable}" for variable in launch.server_files}
    return {"VENVD_SOCKET_MODE": socket_directories.SOCKET_MODE, **launch.server_env, **files, **engine_settings}


def _describe_exit(state: Mapping[str, Any], record: LaunchRecord) -> str:
    if state["Status"] == "created":
        return state.get("Error") or "was never started"
    if state.get("OOMKilled"):
        return f"ran out of memory (limit {record.data.get('memoryBytes')} bytes)"
    return f"exited with status {state['ExitCode']}" + (f": {state['Error']}" if state.get("Error") else "")


def _make_owned(launch_id: str, labels_by_role: Mapping[str, Mapping[str, str]], ended: bool) -> Owned:
    record = None
    with contextlib.suppress(KeyError, TypeError, ValueError, VenvdError):
        record = LaunchRecord(**json.loads(labels_by_role[labels.SERVER][labels.RECORD]))
    parts = {labels.SERVER}
    if record is None or not record.data.get("router"):
        parts |= {labels.WORKER, labels.CHANNEL}
    complete = record is not None and labels_by_role.keys() >= parts
    name = next(iter(labels_by_role.values())).get(labels.NAME, "")
    running = labels_by_role.keys() >= parts - {labels.CHANNEL} and not ended
    return Owned(launch_id=launch_id, name=name, record=record, complete=complete, running=running)
