"""The Docker Engine as one home sees it: the connection, made at first use from DOCKER_HOST and its kin, and labels."""

from __future__ import annotations

import contextlib
import secrets
import threading
from typing import Any

import docker
import docker.errors
import docker.utils

from venvd_contract.errors import Unavailable
from venvd_engines.docker import labels
from venvd_engines.docker.translation import AWAY, reason
from venvd_engines.engine import EngineSettings

ANSWER = 60
"""Seconds within which the engine answers a call that does no long work."""


class Site:
    """The SDK's low-level clients, shared by threads, and the labels of what this home makes."""

    def __init__(self, settings: EngineSettings) -> None:
        self.settings = settings
        self._instance = secrets.token_hex(6)
        self._clients: dict[int, Any] = {}
        self._lock = threading.Lock()

    @property
    def api(self) -> Any:
        """For calls that are answered soon."""
        return self._client(ANSWER)

    @property
    def slow(self) -> Any:
        """For calls that are long silent: a commit."""
        return self._client(round(self.settings.build_timeout))

    def labels(self, role: str, **more: str) -> dict[str, str]:
        """The labels of a thing of this home; `more` are further ones (`launch=…`)."""
        return {
            labels.HOME: self.settings.home_id,
            labels.ROLE: role,
            labels.INSTANCE: self._instance,
            **{f"dev.venvd.{name}": value for name, value in more.items()},
        }

    def filters(self, role: str | None = None, **more: str) -> dict[str, list[str]]:
        """A filter of the Engine API for what this home owns."""
        wanted = {labels.HOME: self.settings.home_id, **({labels.ROLE: role} if role else {})}
        wanted.update((f"dev.venvd.{name}", value) for name, value in more.items())
        return {"label": [f"{name}={value}" for name, value in wanted.items()]}

    def made_here(self, found: dict[str, str] | None) -> bool:
        """Whether these labels are those of something that this process made."""
        return (found or {}).get(labels.INSTANCE) == self._instance

    def sweep(self) -> None:
        """Remove the containers of killed processes that live no longer than one call."""
        for role in labels.PASSING:
            for container in self.api.containers(all=True, filters=self.filters(role)):
                if not self.made_here(container["Labels"]):
                    self.remove_container(container["Id"])

    def remove_container(self, container: str) -> None:
        """Remove a container and its anonymous volumes; none there is fine, and one that is just being removed too."""
        try:
            self.api.remove_container(container, force=True, v=True)
        except docker.errors.NotFound:
            return
        except docker.errors.APIError as error:
            if error.status_code != 409 or "already in progress" not in str(error.explanation):
                raise

    def close(self) -> None:
        with self._lock:
            while self._clients:
                with contextlib.suppress(OSError):
                    self._clients.popitem()[1].close()

    def _client(self, timeout: int) -> Any:
        with self._lock:
            if timeout not in self._clients:
                self._clients[timeout] = self._connected(timeout)
            return self._clients[timeout]

    @staticmethod
    def _connected(timeout: int) -> Any:
        try:
            return docker.APIClient(**docker.utils.kwargs_from_env(), timeout=timeout)
        except AWAY as error:
            raise Unavailable(f"no Docker Engine answers: {reason(error)}") from error
