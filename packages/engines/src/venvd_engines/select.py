"""Chooses the engine: the one in the settings, or for `auto` docker if it answers, else local processes."""

from __future__ import annotations

import os
import socket
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines.engine import Engine, EngineSettings

ENGINES = ("auto", "docker", "local", "kubernetes")
OLDEST_API = (1, 41)
"""The Engine API of Docker Engine 20.10."""

_API = ".".join(map(str, OLDEST_API))
_CONNECT_SECONDS = 2
_ANSWER_SECONDS = 5
"""The wait for an answer. It suits a busy machine: a wrong choice would move all backends to the other engine."""
_DEFAULT_HOST = "unix:///var/run/docker.sock"


def choose(name: str, settings: EngineSettings) -> tuple[Engine, str]:
    """Return the engine of a name, and the reason for the choice as one sentence.

    Raises:
        InvalidRequest: there is no engine of this name.
        Unavailable: the engine does not answer; the message says how to start it.
    """
    if name not in ENGINES:
        raise InvalidRequest(f'there is no engine "{name[:40]}": choose one of {", ".join(ENGINES)}')
    if name == "local":
        return _local(settings), "VENVD_ENGINE asks for it"
    if name == "kubernetes":
        return _kubernetes(settings), "VENVD_ENGINE asks for it"
    answer = _ask_docker()
    if answer.version is not None:
        return _docker(settings), f"Engine {answer.version} answers at {answer.host}"
    reason = f"no Docker Engine can be used at {answer.host} ({answer.reason})"
    if name == "docker":
        raise Unavailable(f"{reason}: {_remedy(answer)}; or set VENVD_ENGINE=local to do without")
    return _local(settings), reason


def _local(settings: EngineSettings) -> Engine:
    from venvd_engines.local.engine import LocalEngine  # noqa: PLC0415 - load an engine's libraries only if it is used

    engine = LocalEngine(settings)
    engine.check()
    return engine


def _docker(settings: EngineSettings) -> Engine:
    from venvd_engines.docker.engine import DockerEngine  # noqa: PLC0415

    engine = DockerEngine(settings)
    engine.check()
    return engine


def _kubernetes(settings: EngineSettings) -> Engine:
    try:
        from venvd_engines.kubernetes.engine import KubernetesEngine  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise Unavailable(f"the engine kubernetes needs {error.name}: install venvd-engines[kubernetes]") from None

    engine = KubernetesEngine(settings)
    engine.check()
    return engine


@dataclass(frozen=True)
class _Answer:
    host: str
    version: str | None = None
    reason: str = ""


def _ask_docker() -> _Answer:
    """Ask the Docker Engine for its version. A host that drops every packet causes no long delay."""
    import docker  # noqa: F401, PLC0415 - not within the time of the answer

    host = os.environ.get("DOCKER_HOST") or _DEFAULT_HOST
    answers: list[_Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_probe(host)), daemon=True, name="docker probe")
    thread.start()
    thread.join(_CONNECT_SECONDS + _ANSWER_SECONDS)
    return answers[0] if answers else _Answer(host, reason=f"no answer within {_ANSWER_SECONDS} s")


def _probe(host: str) -> _Answer:
    import docker  # noqa: PLC0415
    import docker.errors  # noqa: PLC0415
    import docker.utils  # noqa: PLC0415

    try:
        _connect(host)
        # since a version is named, the SDK does not ask for one by itself
        client = docker.APIClient(version=_API, **docker.utils.kwargs_from_env(), timeout=_ANSWER_SECONDS)
        try:
            description = client.version(api_version=False)
        finally:
            client.close()
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return _Answer(host, reason=_find_reason(error))
    return _judge(host, description)


def _connect(host: str) -> None:
    """Try to connect. A closed port fails at once, and an engine that listens may take longer to answer."""
    parts = urlsplit(host)
    if parts.scheme == "unix":
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_CONNECT_SECONDS)
            connection.connect(parts.path)
    elif parts.scheme in {"tcp", "http", "https"} and parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), _CONNECT_SECONDS).close()


def _judge(host: str, description: dict[str, str]) -> _Answer:
    version = description.get("Version", "?")
    if _numbers(description.get("ApiVersion", "")) < OLDEST_API:
        return _Answer(host, reason=f"Engine {version} is older than 20.10")
    if description.get("Os", "linux") != "linux":
        return _Answer(host, reason=f"Engine {version} runs {description['Os']} containers, not Linux ones")
    return _Answer(host, version=version)


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split(".")
    return tuple(map(int, parts)) if all(part.isdigit() for part in parts) else ()


def _find_reason(error: BaseException) -> str:
    """Return the message of the innermost system error in a chain of exceptions."""
    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    system = [one for one in seen if isinstance(one, OSError) and one.strerror]
    return str(system[-1].strerror if system else seen[-1])[:200]


def _remedy(answer: _Answer) -> str:
    if "ermission denied" in answer.reason:
        return "give this user the right to the socket (the group docker)"
    if "older than" in answer.reason or "containers" in answer.reason:
        return "install Docker Engine 20.10 or newer, with Linux containers"
    return "start it, or point DOCKER_HOST at one that runs"
