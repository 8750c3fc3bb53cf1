"""The replicas of a backend: which of them a session lives on, and where the others are."""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Callable, Sequence

from venvd_contract.errors import InvalidRequest, Moved, Unavailable
from venvd_core.settings import BackendSettings

DEFAULT = "default"
"""The session that is always there, on replica 0."""
_CALL_ID_BYTES = 16
_NUMBERED = re.compile(r"(\d{1,4})-")


class Replicas:
    """The replica that this server is, and its siblings.

    A session's ID begins with the number of its replica. A session with a name lives on the replica that the name's
    checksum chooses, so that each name is unique among all of them.

    Attributes:
        number: of this replica.
        count: of all replicas.
        addresses: of all replicas by number; None for one that has none yet.
        refresh: reads the addresses again; None where this server has no file of them.
        first: the ID of the session that is always there: `default`, or that of another replica than 0.
    """

    def __init__(self, settings: BackendSettings) -> None:
        self.number = settings.replica
        self.count = settings.replicas
        self.addresses: Sequence[str | None] = ()
        self.refresh: Callable[[], None] | None = None
        self.first = DEFAULT if self.number == 0 else f"{self.number}-{DEFAULT}"

    def make_id(self, name: str | None) -> str:
        """Make the ID of a new session.

        Raises:
            InvalidRequest: the name looks like the ID of a session.
            Moved: sessions of this name live on another replica.
        """
        if self.count == 1:
            return name or f"s-{secrets.token_hex(6)}"
        if name is None:
            return f"{self.number}-{secrets.token_hex(6)}"
        if _NUMBERED.match(name):
            raise InvalidRequest(f'"{name}" looks like the ID of a session, which begins with a number: choose another')
        self.check_home(name)
        return name if name == self.first else f"{self.number}-{name}"

    def resolve(self, session: str) -> str:
        """Return the ID of the session with this name or ID.

        Raises:
            Moved: it lives on another replica.
        """
        if self.count == 1:
            return session
        self.check_home(session)
        return session if session == self.first or _NUMBERED.match(session) else f"{self.number}-{session}"

    def check_home(self, session: str) -> None:
        """Check that this is the replica on which the session with this name or ID lives.

        Raises:
            Moved: it is another one.
            Unavailable: it is another one, which has no address now.
        """
        self._check(f'the session "{session[:80]}"', self._find_home(session))

    def make_call_id(self) -> str:
        """Make the ID of a new background call; it begins like those of sessions where there are several replicas."""
        prefix = "" if self.count == 1 else f"{self.number}-"
        return prefix + secrets.token_hex(_CALL_ID_BYTES)

    def check_call(self, call: str) -> None:
        """Check that a background call with this ID would be one of this replica; raises as `check_home`."""
        if self.count > 1 and _NUMBERED.match(call):
            self._check(f'the call "{call[:80]}"', self._find_home(call))

    def _check(self, what: str, home: int) -> None:
        if home == self.number:
            return
        if self._find_address(home) is None and self.refresh is not None:
            self.refresh()
        url = self._find_address(home)
        if url is None:
            raise Unavailable(f"{what} is one of replica {home}, which has no address yet; try again")
        raise Moved(f"{what} is one of replica {home}, at {url}", url=url)

    def _find_home(self, session: str) -> int:
        if session == DEFAULT:
            return 0
        numbered = _NUMBERED.match(session)
        if numbered is not None:
            number = int(numbered[1])
            return number if number < self.count else self.number  # this one knows of no such session
        return zlib.crc32(session.encode("utf-8", "replace")) % self.count

    def _find_address(self, number: int) -> str | None:
        return self.addresses[number] if number < len(self.addresses) else None
