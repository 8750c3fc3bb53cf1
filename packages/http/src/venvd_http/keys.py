"""The key file of a server: read strictly, and watched while the server runs."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
import os
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from venvd_http.auth import Key, OwnToken, TokenGuard

_log = logging.getLogger("venvd.access")

PAUSE = 0.5
"""Seconds between two looks at the file."""
LARGEST = 32 << 20


class _Token(msgspec.Struct, kw_only=True):
    name: Annotated[str, msgspec.Meta(min_length=1, max_length=200)]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    expiresAt: Annotated[dt.datetime, msgspec.Meta(tz=True)] | None = None  # noqa: N815 - a name in the file

    @property
    def end(self) -> float | None:
        return None if self.expiresAt is None else self.expiresAt.timestamp()


class _Entry(_Token, kw_only=True):
    scope: Literal["use", "metrics"]


class _File(msgspec.Struct):
    keys: list[_Entry]
    tokens: list[_Token] = []
    """The server's own tokens: the newest, and older ones with the ends that a rotation gave them."""


_file = msgspec.json.Decoder(_File)


def parse(data: bytes) -> list[Key]:
    """Parse the content of a key file.

    Raises:
        ValueError: it is no such file; the message says why.
    """
    content = _file.decode(data)
    return [
        *(Key(each.name, bytes.fromhex(each.sha256), each.scope, each.end) for each in content.keys),
        *(OwnToken(each.name, bytes.fromhex(each.sha256), expires_at=each.end) for each in content.tokens),
    ]


class KeyFile:
    """Tells a guard which keys a file holds. If the file breaks or disappears, the last good keys stay."""

    def __init__(self, path: Path, guard: TokenGuard) -> None:
        self._path = path
        self._guard = guard
        self._seen: tuple[int, ...] | None = None
        self._problem = ""

    def refresh(self) -> None:
        """Read the file if it has changed, and end the keys that have expired."""
        try:
            status = self._path.stat()
            seen = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
            if seen != self._seen:
                self._guard.replace_keys(self._read())
                self._seen, self._problem = seen, ""
        except (OSError, ValueError) as error:
            self._seen = None
            self._report(f"VENVD_KEYS_FILE: {self._path} cannot be used, and the keys stay as they were: {error}")
        self._guard.end_expired()

    def _read(self) -> list[Key]:
        with self._path.open("rb") as file:
            if os.fstat(file.fileno()).st_size > LARGEST:
                raise ValueError(f"it is larger than {LARGEST} bytes")
            return parse(file.read(LARGEST))

    def _report(self, problem: str) -> None:
        if problem != self._problem:
            self._problem = problem
            _log.error(problem)

    async def watch(self) -> None:
        """Refresh again and again, until this task is cancelled."""
        while True:
            await asyncio.sleep(PAUSE)
            self.refresh()


def watch(path: Path | None, guard: TokenGuard) -> asyncio.Task[None] | None:
    """Keep a guard's keys those of a file until the returned task is cancelled; without a file there are no keys."""
    if path is None:
        return None
    file = KeyFile(path, guard)
    file.refresh()
    guard.refresh_keys = file.refresh
    return asyncio.get_running_loop().create_task(file.watch())
