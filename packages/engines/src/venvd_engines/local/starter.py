"""Starts a backend as processes: its directory, its ports, its supervisor, and the wait for its server."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from venvd_contract.errors import Conflict, InvalidRequest, Unavailable
from venvd_engines.addresses import url_host
from venvd_engines.compat import find_link, make_link
from venvd_engines.engine import RESERVED_DIRECTORIES, Launch, Progress, WorkerLimits, exact_first
from venvd_engines.local import environment, ports, state
from venvd_engines.local.launches import SOCKETS, Launches, Place, end
from venvd_engines.local.processes import Identity, boot_id, identify, reap, wait_until
from venvd_engines.local.state import PARTS, State
from venvd_engines.local.venvs import python_of
from venvd_engines.socket_names import PIPE, PROBES, choose_prefix
from venvd_worker.common.exit_status import describe_exit

_LISTEN_SECONDS = 15.0
"""How long a start waits for the server to listen. The controller waits for readiness in any case."""
_REASON_SECONDS = 10.0
"""How long a failed start waits for the exit of a server whose worker host has ended."""
_ATTEMPTS = 5
_SOCKET_BYTES = 107
_MAX_OUTPUT = 2000
"""Characters of a part's output that an error carries."""


class _PortLost(Exception):
    """Another program took a chosen port before the server listened on it."""


class Starter:
    """Starts backends; `server` returns the command of the server of a type."""

    def __init__(self, place: Place, launches: Launches, server: Callable[[str], Sequence[str]]) -> None:
        self._place = place
        self._launches = launches
        self._server = server
        self._choosing = threading.Lock()

    def start(self, launch: Launch, archive: Path, progress: Progress) -> State:
        """Start both parts, and wait until the server listens or `_LISTEN_SECONDS` have passed.

        Raises:
            Conflict: a port is taken, or the launch was started before.
            InvalidRequest: a path is too long for sockets, or no server can listen on the address.
            Unavailable: a part exited at once; the message has its last output.
        """
        progress.phase("start")
        directory = self._make_directory(launch)
        try:
            return self._start_in(directory, launch, archive, progress)
        except BaseException:
            self._launches.destroy(launch.id)
            raise

    def _start_in(self, directory: Path, launch: Launch, archive: Path, progress: Progress) -> State:
        taken: set[int] = set()
        for _ in range(_ATTEMPTS):
            try:
                return self._attempt(launch, directory, archive, progress, taken)
            except _PortLost as lost:
                progress.log(str(lost))
                for name in PARTS:  # the backend's log is about the attempt that succeeds
                    (directory / f"{name}.log").unlink(missing_ok=True)
                # a channel serves one worker host, and the worker host of the lost attempt may have joined already
                shutil.rmtree(directory / "channel")
                (directory / "channel").mkdir(mode=0o700)
        raise Conflict(f"other programs took each port as soon as it was chosen: {sorted(taken)}")

    def _attempt(self, launch: Launch, directory: Path, archive: Path, progress: Progress, taken: set[int]) -> State:
        with self._choosing:
            skipped = taken | self._list_claimed(launch.id) | set(launch.reserved)
            record = self._make_record(launch, archive, skipped)
            state.write(directory, record)
        state.write_whole(directory / state.KEYS, launch.keys.decode())
        self._place.secrets.write(launch.id, launch.secrets)
        if launch.manages_key is not None:
            state.write_whole(directory / state.MANAGES_KEY, launch.manages_key)
        if record.socket_dir is not None:
            _make_socket_dir(Path(record.socket_dir), record.socket_prefix)
            if record.link is not None:
                _make_link(Path(record.link), Path(record.socket_dir) / SOCKETS[0])
        spec = _make_spec(launch, record, directory, archive, self._server(launch.type), self._place)
        supervisor = _spawn(directory, record, spec)
        settled = _wait_settled(directory, supervisor, progress)
        if settled is not None:
            return settled
        _await_reason(directory)
        end(supervisor, 0)
        for number in record.ports.values():
            if not ports.is_free(launch.host, number):
                taken.add(number)
                raise _PortLost(f"port {number} was taken before the server could listen")
        failure = _describe_failure(directory)
        if os.strerror(errno.EADDRINUSE).lower() in failure.lower():
            # another program probed the port at the moment in which the server bound it
            raise _PortLost(f"of the ports {sorted(record.ports.values())} one was in use for a moment")
        raise Unavailable(failure)

    # ---- the record and the directories --------------------------------------------------------------------------

    def _make_directory(self, launch: Launch) -> Path:
        if not state.valid_id(launch.id):
            raise InvalidRequest(f'"{launch.id[:80]}" cannot name a launch')
        directory = self._place.directory(launch.id)
        if len(os.fsencode(directory / "channel" / "warden.sock")) > _SOCKET_BYTES:
            raise InvalidRequest(
                f"{directory} is too long a path: the sockets below it must end within {_SOCKET_BYTES} bytes; "
                "set VENVD_HOME to a shorter path"
            )
        try:
            self._place.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
            for name in ("channel", "work", "tmp"):
                (directory / name).mkdir(mode=0o700)
        except FileExistsError:
            raise Conflict(f"the launch {launch.id} was started before") from None
        except OSError as error:
            raise Unavailable(f"{directory} cannot be made: {error.strerror}") from None
        return directory

    def _make_record(self, launch: Launch, archive: Path, taken: set[int]) -> State:
        chosen: dict[str, int] = {}
        for port in exact_first(launch.ports):
            chosen[port.name] = ports.choose(launch.host, port, taken | set(chosen.values()))
        prefix = choose_prefix(launch)
        socket_dir = None if launch.socket_name is None else self._socket_dir(launch.socket_name, prefix)
        url, probe_url = _addresses(launch, chosen, socket_dir)
        return State(
            launch_id=launch.id,
            home_id=self._place.home_id,
            name=launch.name,
            type=launch.type,
            boot=boot_id(),
            url=url,
            probe_url=probe_url,
            ports=chosen,
            socket_dir=None if socket_dir is None else str(socket_dir),
            socket_prefix=prefix,
            link=None if launch.pipe_name is None else str(find_link(self._place.pipe_name_dir, launch.pipe_name)),
            archive=archive.name,
            venv_key=launch.image.key,
            labels=dict(launch.labels),
        )

    def _list_claimed(self, launch_id: str) -> set[int]:
        """Return the ports of this home's other backends that run or are starting."""
        return {
            number
            for record in self._launches.records()
            if record.launch_id != launch_id and record.boot == boot_id() and record.server.state != "exited"
            for number in record.ports.values()
        }

    def _socket_dir(self, name: str, prefix: str) -> Path:
        if not state.valid_id(name) or name.startswith(RESERVED_DIRECTORIES):
            raise InvalidRequest(f'"{name[:80]}" cannot name a directory of sockets')
        path = self._place.run_dir / name
        longest = max(len(os.fsencode(path / f"{prefix}{socket}")) for socket in SOCKETS)
        if longest > _SOCKET_BYTES:
            raise InvalidRequest(
                f"{path} is too long a path: the sockets in it must end within {_SOCKET_BYTES} bytes, and end at "
                f"{longest}; set VENVD_RUN_DIR to a shorter path"
            )
        return path


def _addresses(launch: Launch, chosen: Mapping[str, int], socket_dir: Path | None) -> tuple[str, str]:
    """Return the addresses for clients and for the controller."""
    if socket_dir is not None:
        return f"unix://{socket_dir / PIPE}", f"unix://{socket_dir / (choose_prefix(launch) + PROBES)}"
    if "main" not in chosen:
        raise InvalidRequest(f"the backend {launch.name} has neither a port nor a directory of sockets")
    host = url_host(launch.host)
    probed = chosen.get("http", chosen["main"])
    return f"{launch.url_scheme}://{host}:{chosen['main']}", f"{launch.probe_scheme}://{host}:{probed}"


def _make_link(link: Path, socket: Path) -> None:
    """Link the name of a pipe to its socket. Only this user can use the socket, so this user may own the link."""
    try:
        make_link(link, socket, for_all=False)
    except OSError as error:
        raise Unavailable(f"pipeName: {link} cannot be made: {error.strerror}") from None


def _make_socket_dir(path: Path, prefix: str) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        for name in SOCKETS:
            (path / f"{prefix}{name}").unlink(missing_ok=True)
    except OSError as error:
        raise Unavailable(f"the directory {path} for sockets cannot be made: {error.strerror}") from None


# ---- processes -----------------------------------------------------------------------------------------------


def _make_spec(
    launch: Launch, record: State, directory: Path, archive: Path, server: Sequence[str], place: Place
) -> dict[str, dict[str, Any]]:
    paths = {
        "VENVD_CHANNEL": str(directory / "channel"),
        "VENVD_HOST": launch.host,
        "VENVD_KEYS_FILE": str(directory / state.KEYS),
        "VENVD_SECRETS_FILE": str(place.secrets.path(launch.id)),
    }
    if launch.manages_key is not None:
        paths["VENVD_MANAGES_KEY_FILE"] = str(directory / state.MANAGES_KEY)
    if place.controller_socket is not None:
        paths["VENVD_CONTROLLER_SOCKET"] = str(place.controller_socket)
    if record.socket_dir is not None:
        paths["VENVD_SOCKET_DIR"] = record.socket_dir
        paths["VENVD_SOCKET_PREFIX"] = record.socket_prefix
    for port, variable in (("main", "VENVD_PORT"), ("http", "VENVD_HTTP_PORT")):
        if port in record.ports:
            paths[variable] = str(record.ports[port])
    flags = ["-I", "-S", "-B"] if launch.image.foreign else ["-I", "-S"]
    warden = [str(python_of(launch.image)), *flags, str(archive), "warden"]
    places = ["--channel", str(directory / "channel"), "--work-dir", str(directory / "work")]
    places += _list_walls(launch, place)
    return {
        "server": {
            "argv": list(server),
            "env": {**environment.for_server(directory), **_server_settings(launch), **paths},
            "cwd": str(directory),
        },
        "worker": {
            "argv": [*warden, *places, *launch.warden_options()],
            "env": environment.for_worker(directory, launch.make_worker_env(launch.image.ref, str(launch.assemblies))),
            "cwd": str(directory / "work"),
        },
    }


def _list_walls(launch: Launch, place: Place) -> list[str]:
    """List the warden's arguments on what user code sees. No container hides the rest."""
    readable = [launch.image.ref, *([launch.assemblies] if launch.assemblies is not None else [])]
    options = (("--hide", place.hidden), ("--read", readable), ("--write", place.shared))
    words = [word for option, paths in options for path in paths for word in (option, str(path))]
    return words if launch.network is True else [*words, "--no-network"]


def _server_settings(launch: Launch) -> dict[str, str]:
    """Return the server's settings. The limits for a container become the default limits of the sessions."""
    settings = {**launch.server_env, **{variable: str(path) for variable, path in launch.server_files.items()}}
    settings["VENVD_SESSION_LIMITS"] = _session_limits(settings.get("VENVD_SESSION_LIMITS") or "{}", launch.limits)
    settings.setdefault("VENVD_ENGINE_NAME", "local")
    return settings


def _session_limits(given: str, limits: WorkerLimits) -> str:
    try:
        limits_given = json.loads(given)
    except ValueError:
        return given  # the server reports what is wrong
    if not isinstance(limits_given, dict):
        return given
    named = {name: value for name, value in limits_given.items() if value is not None}
    return json.dumps({"memoryBytes": limits.memory_bytes, "processes": limits.processes, **named})


def _spawn(directory: Path, record: State, spec: dict[str, Any]) -> Identity:
    """Start the supervisor, record its identity, and only then send it the commands to start."""
    argv = [sys.executable, "-I", "-m", "venvd_engines.local.supervisor", str(directory)]
    spec_reader, spec_writer = os.pipe()
    log = os.open(directory / "supervisor.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        files = [(os.POSIX_SPAWN_DUP2, spec_reader, 0), (os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
        pid = os.posix_spawn(sys.executable, argv, environment.for_supervisor(), file_actions=files, setsid=True)
        supervisor = identify(pid)
        if supervisor is None:
            raise Unavailable("the supervisor of the backend exited at once")
        record.supervisor.state, record.supervisor.pid, record.supervisor.start = (
            "running",
            supervisor.pid,
            supervisor.start,
        )
        state.write(directory, record)
        os.close(spec_reader)
        spec_reader = -1
        _send_spec(spec_writer, json.dumps(spec).encode())
    except OSError as error:
        raise Unavailable(f"the backend's processes could not be started: {error}") from None
    finally:
        for descriptor in (spec_reader, spec_writer, log):
            if descriptor >= 0:
                os.close(descriptor)
    return supervisor


def _send_spec(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _wait_settled(directory: Path, supervisor: Identity, progress: Progress) -> State | None:
    """Return the record once the server listens, or after `_LISTEN_SECONDS`; None if a part has exited."""
    record: State | None = None

    def has_failed() -> bool:
        return record is None or not supervisor.alive() or any(record.part(name).state == "exited" for name in PARTS)

    def is_settled() -> bool:
        nonlocal record
        progress.check()
        reap(supervisor.pid)
        record = state.read(directory)
        return record is None or has_failed() or _listens(record)

    wait_until(is_settled, _LISTEN_SECONDS)
    return None if has_failed() else record


def _await_reason(directory: Path) -> None:
    """Wait until the server exits, if the worker host ended as it does after the end of its server.

    The worker host notices that the server closes their channel. The server says why in the moment after that.
    """

    def has_reason() -> bool:
        record = state.read(directory)
        return record is None or record.server.state == "exited" or record.worker.detail != _ENDED_WELL

    wait_until(has_reason, _REASON_SECONDS)


def _listens(record: State) -> bool:
    server = record.server.pid
    if server is None:
        return False
    if record.socket_dir is not None:
        return all((Path(record.socket_dir) / f"{record.socket_prefix}{name}").exists() for name in SOCKETS)
    return all(ports.listens(server, number) for number in record.ports.values())


def _describe_failure(directory: Path) -> str:
    """Describe how the first part exited, with its last output."""
    record = state.read(directory)
    for name in PARTS:
        part = record.part(name) if record is not None else None
        if part is not None and part.state == "exited" and "SIGKILL" not in part.detail:
            return f"the {_ROLES[name]} {part.detail} as soon as it was started{_read_end(directory / f'{name}.log')}"
    return f"the backend ended as soon as it was started{_read_end(directory / 'supervisor.log')}"


_ENDED_WELL = describe_exit(0)
_ROLES = {"server": "server", "worker": "worker host"}


def _read_end(log: Path) -> str:
    try:
        lines = log.read_text(errors="replace").splitlines()[-20:]
    except OSError:
        return ""
    bare = [line.split(" ", 2)[-1] if line[:2] == "20" else line for line in lines]
    text = "\n".join(bare).strip()[-_MAX_OUTPUT:]
    return f": {text}" if text else ""
