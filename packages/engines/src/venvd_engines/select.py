"""Which engine runs backends: the one asked for, or with `auto` docker where it answers, else local processes."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass

from venvd_contract.errors import InvalidRequest, Unavailable
from venvd_engines.engine import Engine, EngineSettings

ENGINES = ("auto", "docker", "local")
OLDEST_API = (1, 41)
"""The Engine API of Docker Engine 20.10."""

_PROBE_SECONDS = 2
_DEFAULT_HOST = "unix:///var/run/docker.sock"


def choose(name: str, settings: EngineSettings) -> tuple[Engine, str]:
    """The engine of that name, and in one sentence why it is this one.

    Raises:
        InvalidRequest: there is no engine of that name.
        Unavailable: it does not answer; says what would make it.
    """
    if name not in ENGINES:
        raise InvalidRequest(f'there is no engine "{name[:40]}": choose one of {", ".join(ENGINES)}')
    if name == "local":
        return _local(settings), "local: asked for"
    answer = _ask_docker()
    if answer.version is not None:
        return _docker(settings), f"docker: Engine {answer.version} answers at {answer.host}"
    reason = f"no Docker Engine can be used at {answer.host} ({answer.reason})"
    if name == "docker":
        raise Unavailable(f"{reason}: {_remedy(answer)}; or set VENVD_ENGINE=local to do without")
    return _local(settings), f"local: {reason}"


def _local(settings: EngineSettings) -> Engine:
    from venvd_engines.local.engine import LocalEngine  # noqa: PLC0415 - each engine's libraries only where it is used

    engine = LocalEngine(settings)
    engine.check()
    return engine


def _docker(settings: EngineSettings) -> Engine:
    from venvd_engines.docker.engine import DockerEngine  # noqa: PLC0415

    return DockerEngine(settings)


@dataclass(frozen=True)
class _Answer:
    host: str
    version: str | None = None
    reason: str = ""


def _ask_docker() -> _Answer:
    """What the Docker Engine says of itself, within `_PROBE_SECONDS` also where its host swallows every packet."""
    host = os.environ.get("DOCKER_HOST") or _DEFAULT_HOST
    answers: list[_Answer] = []
    thread = threading.Thread(target=lambda: answers.append(_probe(host)), daemon=True, name="docker probe")
    thread.start()
    thread.join(_PROBE_SECONDS + 0.5)
    return answers[0] if answers else _Answer(host, reason=f"no answer within {_PROBE_SECONDS} s")


def _probe(host: str) -> _Answer:
    import docker  # noqa: PLC0415
    import docker.errors  # noqa: PLC0415
    import docker.utils  # noqa: PLC0415

    try:
        client = docker.APIClient(**docker.utils.kwargs_from_env(), timeout=_PROBE_SECONDS)
        try:
            found = client.version(api_version=False)
        finally:
            client.close()
    except (docker.errors.DockerException, OSError, ValueError) as error:
        return _Answer(host, reason=_innermost(error))
    return _judged(host, found)


def _judged(host: str, found: dict[str, str]) -> _Answer:
    version, api = found.get("Version", "?"), found.get("ApiVersion", "0.0")
    if tuple(int(part) for part in api.split(".")) < OLDEST_API:
        return _Answer(host, reason=f"Engine {version} is older than 20.10")
    if found.get("Os", "linux") != "linux":
        return _Answer(host, reason=f"Engine {version} runs {found['Os']} containers, not Linux ones")
    return _Answer(host, version=version)


def _innermost(error: BaseException) -> str:
    """The reason at the bottom of what the libraries wrapped around it."""
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        seen.append(found)
        found = found.__cause__ or found.__context__
    system = [one for one in seen if isinstance(one, OSError) and one.strerror]
    return str(system[-1].strerror if system else seen[-1])[:200]


def _remedy(answer: _Answer) -> str:
    if "ermission denied" in answer.reason:
        return "give this user the right to the socket (the group docker)"
    if "older than" in answer.reason or "containers" in answer.reason:
        return "install Docker Engine 20.10 or newer, with Linux containers"
    return "start it, or point DOCKER_HOST at one that runs"
