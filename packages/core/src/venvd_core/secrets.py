"""The secrets of one backend. Its server reads them from a file, and reads the file again when it changes.

A new session gets the variables as environment variables. The egress broker, a child process of the server, gets the
headers and the CA certificates. Nothing else gets a secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from venvd_contract.errors import Unavailable
from venvd_contract.watched_file import WatchedFile

_log = logging.getLogger("venvd.secrets")

_POLL_SECONDS = 0.5
"""Seconds between two checks of the file."""
_START_POLL_SECONDS = 0.01
_START_TIMEOUT = 60.0
"""The server waits this many seconds for the first valid file. Some engines write it after the server has started."""
_LARGEST = 32 << 20


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header that the broker adds to requests for hosts."""

    name: str
    value: str
    hosts: list[str]


class _Content(msgspec.Struct):
    variables: dict[str, str] = {}
    headers: list[Header] = []
    authorities: str = ""


_decoder = msgspec.json.Decoder(_Content)


class Secrets:
    """The secrets in a file.

    If the file becomes invalid or disappears, the last valid content stays.

    Args:
        path: the file; None means no secrets.
        wait: whether `start` waits for a file that is missing. If not, a backend without the file has no secrets.

    Attributes:
        variables: environment variables for each new session.
        headers: the headers that the broker adds.
        authorities: CA certificates that the broker trusts beside those of the system, PEM.
        on_change: called after a change of these attributes.
    """

    def __init__(self, path: Path | None, *, wait: bool = True) -> None:
        self._file = None if path is None else WatchedFile(path, _decoder.decode, _LARGEST)
        self._wait = wait
        self._problem = ""
        self._is_announced = True
        self._watch_task: asyncio.Task[None] | None = None
        self.variables: Mapping[str, str] = {}
        self.headers: Sequence[Header] = ()
        self.authorities = ""
        self.on_change: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read the file. With `wait`, wait until it is there. Then check it for changes until `close`.

        Raises:
            Unavailable: there was no valid file in time; the message says what is wrong with it.
        """
        if self._file is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + _START_TIMEOUT
        while problem := self._refresh():
            if loop.time() > end:
                raise Unavailable(
                    f"VENVD_SECRETS_FILE: {self._file.path} is not usable after {_START_TIMEOUT:g} s: {problem}"
                )
            await asyncio.sleep(_START_POLL_SECONDS)
        self._is_announced = True  # the egress broker starts after this
        self._watch_task = asyncio.create_task(self._watch(self._file.path), name="secrets")

    def close(self) -> None:
        if self._watch_task is not None:
            self._watch_task.cancel()

    async def _watch(self, path: Path) -> None:
        while True:
            await asyncio.sleep(_POLL_SECONDS)
            problem = self._refresh()
            if problem:
                problem = f"VENVD_SECRETS_FILE: {path} cannot be used, and the secrets stay as they were: {problem}"
            else:
                problem = self._announce()
            if problem and problem != self._problem:
                _log.error(problem)
            self._problem = problem

    def _refresh(self) -> str:
        """Read the file if it has changed. Return why it cannot be used, or an empty string."""
        if self._file is None:
            return ""
        version = self._file.version
        try:
            content = self._file.read_changed()
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not self._wait and version is None:
                return ""
            return str(error)  # the message of a decoding error contains positions in the file, and no values
        if content is None:
            return ""
        before = (self.variables, self.headers, self.authorities)
        self.variables, self.headers = content.variables, content.headers
        self.authorities = content.authorities
        if (self.variables, self.headers, self.authorities) != before:
            self._is_announced = False
        return ""

    def _announce(self) -> str:
        """Call `on_change` after a change. Return why it failed, or an empty string; the next call tries again."""
        if not self._is_announced and self.on_change is not None:
            try:
                self.on_change()
            except (OSError, ValueError) as error:
                return f"the egress broker does not have the changed secrets yet: {error}"
        self._is_announced = True
        return ""
