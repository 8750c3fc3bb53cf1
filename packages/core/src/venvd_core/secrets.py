"""The secrets of a server: read from a file, and read again when the file changes.

Each session that starts gets the variables. The egress broker gets the headers. Nothing else gets a secret.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from venvd_contract.errors import Unavailable

_log = logging.getLogger("venvd.secrets")

_PAUSE = 0.5
"""Seconds between two checks of the file."""
_FIRST_PAUSE = 0.01
_FIRST_SECONDS = 60.0
"""Seconds in which the file must appear: some engines write it after the server has started."""
_LARGEST = 32 << 20


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """A header that the broker adds to requests for hosts."""

    name: str
    value: str
    hosts: list[str]


class _File(msgspec.Struct):
    variables: dict[str, str] = {}
    headers: list[Header] = []
    authorities: str = ""


_file = msgspec.json.Decoder(_File)


class Secrets:
    """The secrets of one backend.

    Args:
        path: the file; None means no secrets.
        wait: whether `start` waits for the file.

    Attributes:
        variables: environment variables for each new session.
        headers: the headers that the broker adds.
        authorities: CA certificates that the broker trusts beside those of the system, PEM.
        on_change: called after a change of these attributes.
    """

    def __init__(self, path: Path | None, *, wait: bool = True) -> None:
        self._path = path
        self._wait = wait
        self._seen: tuple[int, ...] | None = None
        self._problem = ""
        self._watching: asyncio.Task[None] | None = None
        self.variables: Mapping[str, str] = {}
        self.headers: Sequence[Header] = ()
        self.authorities = ""
        self.on_change: Callable[[], None] | None = None

    async def start(self) -> None:
        """Read the file, or wait for it with `wait`; from then on, follow its changes until `close`.

        Raises:
            Unavailable: the file did not appear in time.
        """
        if self._path is None:
            return
        loop = asyncio.get_running_loop()
        end = loop.time() + _FIRST_SECONDS
        while not self._refresh():
            if loop.time() > end:
                raise Unavailable(f"VENVD_SECRETS_FILE: {self._path} did not appear within {_FIRST_SECONDS:g} s")
            await asyncio.sleep(_FIRST_PAUSE)
        self._watching = asyncio.create_task(self._watch(), name="secrets")

    def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_PAUSE)
            if not self._refresh():
                self._report()

    def _refresh(self) -> bool:
        """Read the file if it has changed; return false, and keep the secrets, if it cannot be read."""
        if self._path is None:
            return True
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if seen == self._seen:
                return True
            content = _file.decode(self._read(self._path))
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and not self._wait and self._seen is None:
                return True
            # the message of a decoding error contains positions in the file, and no values
            self._seen, self._problem = None, str(error)
            return False
        self._seen = seen
        before = (self.variables, self.headers, self.authorities)
        self.variables, self.headers = content.variables, content.headers
        self.authorities = content.authorities
        if (self.variables, self.headers, self.authorities) != before and self.on_change is not None:
            self.on_change()
        return True

    @staticmethod
    def _read(path: Path) -> bytes:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > _LARGEST:
                raise ValueError(f"it is larger than {_LARGEST} bytes")
            return file.read(_LARGEST)

    def _report(self) -> None:
        if self._problem:
            _log.error("VENVD_SECRETS_FILE cannot be used, and the secrets stay as they were: %s", self._problem)
            self._problem = ""
