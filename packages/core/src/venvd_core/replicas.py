"""The replicas of a backend: which replica has a session, and the addresses of the others."""

from __future__ import annotations

import secrets
from collections.abc import Callable

from venvd_contract.errors import InvalidRequest, Moved, Unavailable
from venvd_contract.internal.replica_table import DEFAULT, ReplicaTable, read_number

_CALL_ID_BYTES = 16


class Replicas:
    """The own replica of this server, and the other replicas of its backend.

    While a backend has several replicas, the IDs of new sessions begin with the number of their replica. Older IDs stay
    as they are. A hash of a session's name chooses its replica, so a name is unique among all replicas.

    Args:
        number: the number of this replica.

    Attributes:
        first: the ID of the session that always exists: `default` on replica 0, and `N-default` on replica N.
        refresh: reads the table again; None if this server has no file with it.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.first = DEFAULT if number == 0 else f"{number}-{DEFAULT}"
        self.refresh: Callable[[], None] | None = None
        self._table = ReplicaTable()
        self._numbered = number > 0

    def replace_table(self, table: ReplicaTable) -> None:
        """Use a new table from the controller; replicas come and go while this one runs."""
        self._table = table
        self._numbered = self._numbered or table.count > 1

    @property
    def replaced(self) -> bool:
        """Whether an update has started a newer launch of this replica; this one keeps its sessions until it ends."""
        return self._table.own is not None

    @property
    def draining(self) -> bool:
        """Whether this replica takes no new sessions."""
        entries = self._table.replicas
        return self.replaced or (self.number < len(entries) and entries[self.number].draining)

    def make_id(self, name: str | None) -> str:
        """Make the ID of a new session.

        Raises:
            InvalidRequest: the name looks like the ID of a session.
            Moved: sessions of this name, or all new ones, live on another replica.
            Unavailable: the replica of this name will be removed.
        """
        if self.replaced:
            self._move("new sessions belong to", self.number)
        left = None if name is None else self._table.find_left(name)
        if left is not None:  # a former launch has this session, and refuses a second one with its name
            self._move(f'the session "{name}" is one of', left)
        if not self._numbered:
            return name or f"s-{secrets.token_hex(6)}"
        if name is None:
            self._check_open()
            return f"{self.number}-{secrets.token_hex(6)}"
        if read_number(name) is not None:
            raise InvalidRequest(f'the name "{name}" begins with a number, like the ID of a session: choose another')
        self.check_home(name)
        if self.draining:
            raise Unavailable(
                f'sessions with the name "{name}" belong to replica {self.number}, which will be removed and takes no '
                "new sessions: choose another name, or try again after the removal"
            )
        return name if name == self.first else f"{self.number}-{name}"

    def _check_open(self) -> None:
        """Raise `Moved` if new sessions belong on another replica."""
        if not self.draining:
            return
        others = self._table.list_open()
        if not others:
            raise Unavailable("all replicas of this backend will be removed, and take no new sessions")
        self._check("new sessions belong to", others[0])

    def list_ids(self, session: str) -> tuple[str, ...]:
        """Return the IDs that a session with this name or ID may have here.

        Raises:
            Moved: it belongs to another replica.
        """
        if not self._numbered:
            return (session,)
        self.check_home(session)
        if session == self.first or read_number(session) is not None:
            return (session,)
        return (session, f"{self.number}-{session}")

    def check_home(self, session: str) -> None:
        """Check that the session with this name or ID belongs to this replica.

        Raises:
            Moved: it belongs to another replica.
            Unavailable: it belongs to another replica, which has no address now.
        """
        self._check(f'the session "{session[:80]}" is one of', self._table.find_home(session))

    def check_left(self, session: str) -> None:
        """Check that no other launch of this replica has a session that is not here, in or after an update.

        Raises:
            Moved: the newer launch may have it, or a former one has it or has not reported its sessions yet.
        """
        if self.replaced:
            self._move(f'the session "{session[:80]}" may be one of', self.number)
        left = self._table.find_left(session)
        if left is None:
            left = next((each for each in self._list_left() if self._table.replicas[each].sessions is None), None)
        if left is not None:
            self._move(f'the session "{session[:80]}" is one of', left)

    def check_left_call(self, call: str) -> None:
        """Check that no former launch may have a background call that is not known here.

        A draining launch still starts calls, so a list of its calls would never be complete. Instead, each launch sends
        the client to the one before it. The oldest answers that there is no such call.

        Raises:
            Moved: the launch before this one, or an older one, may have it.
        """
        left = self._list_left()
        if left:
            self._move(f'the call "{call[:80]}" may be one of', left[0])

    def _list_left(self) -> list[int]:
        """List the former launches of this replica that still drain, newest first."""
        own = self._table.own
        return [each for each in self._table.list_left(self.number) if own is None or each < own]

    def make_call_id(self) -> str:
        """Make the ID of a new background call; with several replicas it begins with the number, like a session's."""
        prefix = f"{self.number}-" if self._numbered else ""
        return prefix + secrets.token_hex(_CALL_ID_BYTES)

    def check_call(self, call: str) -> None:
        """Check that a background call with this ID would belong to this replica; raises as `check_home`."""
        if self._numbered and read_number(call) is not None:
            self._check(f'the call "{call[:80]}" is one of', self._table.find_home(call))

    def _check(self, what: str, home: int | None) -> None:
        # None: no other replica has it, so this one says that there is no such session
        if home is None or home in {self.number, self._table.own}:
            return
        self._move(what, home)

    def _move(self, what: str, home: int) -> None:
        if self._find_address(home) is None and self.refresh is not None:
            self.refresh()
        url = self._find_address(home)
        left = self._table.replicas[home].left if home < len(self._table.replicas) else None
        replica = f"replica {home}" if left is None else f"the former launch of replica {left}"
        if url is None:
            raise Unavailable(f"{what} {replica}, which has no address now; try again")
        raise Moved(f"{what} {replica}, at {url}", url=url)

    def _find_address(self, number: int) -> str | None:
        entries = self._table.replicas
        return entries[number].url if number < len(entries) else None
