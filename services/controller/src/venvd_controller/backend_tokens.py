"""The tokens of backends.

The clients of a backend have the newest token, and older ones that a rotation has ended or will end. The controller has
a token for the backend's metrics, and the backend has a key for the venvs that it manages.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_contract.resources import LONGEST_OVERLAP
from venvd_controller.clock import format_time
from venvd_controller.database.tables import LaunchRow
from venvd_controller.home import Home
from venvd_http.auth import sha256

_MOST = 8
"""How many tokens of a backend are remembered. Ended ones are remembered so that their clients can be told."""


@dataclass(frozen=True)
class TokenNonce:
    """The nonce from which a token is derived, and the time at which the token ends; None for never."""

    nonce: str
    expiresAt: str | None = None  # noqa: N815 — a name in the database

    @property
    def expired(self) -> bool:
        return self.expiresAt is not None and datetime.fromisoformat(self.expiresAt) <= datetime.now(UTC)


def list_nonces(row: LaunchRow) -> list[TokenNonce]:
    """List the nonces of a backend's tokens. The newest token's is the last."""
    if row.tokens is None:
        return [TokenNonce(row.nonce)]
    return [TokenNonce(**each) for each in row.tokens["nonces"]]


def rotate(row: LaunchRow, overlap: float) -> str:
    """Give a backend a new token, and end all others after `overlap` seconds. Return the time of that end.

    Raises:
        InvalidRequest: `overlap` is out of bounds.
        Conflict: the backend serves without a token, or too many of its tokens are valid.
    """
    if not 0 <= overlap <= LONGEST_OVERLAP:
        raise InvalidRequest(f"overlap: takes 0 to {LONGEST_OVERLAP} seconds, not {overlap:.15g}")
    if not row.spec["token"]:
        raise Conflict(f'the backend "{row.name}" serves without a token: there is nothing to rotate')
    end = format_time(datetime.now(UTC) + timedelta(seconds=overlap))
    kept = [TokenNonce(each.nonce, min(each.expiresAt or end, end)) for each in list_nonces(row)]
    while len(kept) >= _MOST and (ended := next((each for each in kept if each.expired), None)) is not None:
        kept.remove(ended)
    if len(kept) >= _MOST:
        raise Conflict(
            f'{len(kept)} tokens of the backend "{row.name}" are valid, and no more can be: '
            f"rotate with a shorter overlap, which counts for all of them; 0 ends them now"
        )
    row.tokens = {"nonces": [asdict(each) for each in [*kept, TokenNonce(secrets.token_hex(12))]]}
    return end


@dataclass(frozen=True)
class TokenOwner:
    """The owner of a token.

    Attributes:
        backend: the name of the backend.
        manages: the venvs that the backend manages with the token; none for a token of its clients.
        source: the source of a token of its clients, else None.
    """

    backend: str
    manages: tuple[str, ...] = ()
    source: TokenNonce | None = None


class BackendTokens:
    """The tokens of all backends, derived from the secret of the home and the nonces in their rows.

    Args:
        list_rows: lists the rows of all backends.
    """

    def __init__(self, home: Home, list_rows: Callable[[], Sequence[LaunchRow]]) -> None:
        self._home = home
        self._list_rows = list_rows
        self._owners: dict[str, TokenOwner] | None = None
        """The owners by the digests of their tokens; None after a change."""
        self._changes = 0

    def derive(self, row: LaunchRow) -> str | None:
        """Derive the newest token of a backend's clients. Return None if the backend serves without a token."""
        return self._derive_from(list_nonces(row)[-1]) if row.spec["token"] else None

    def derive_for_metrics(self, row: LaunchRow) -> str:
        return self._home.derive_token("metrics", row.nonce)

    def derive_manages_key(self, row: LaunchRow) -> str:
        """Derive the key for the venvs that a backend manages. It is valid as long as the backend is wanted."""
        return self._home.derive_token("manages", row.nonce)

    def list_digests(self, row: LaunchRow) -> list[tuple[str, str | None]]:
        """List the digests of the tokens of a backend's clients with their ends, also those of ended tokens."""
        nonces = list_nonces(row) if row.spec["token"] else []
        return [(sha256(self._derive_from(each)), each.expiresAt) for each in nonces]

    def find_owner(self, digest: str) -> TokenOwner | None:
        """Find the backend to which the token with this SHA-256 belongs.

        Only the first search after a change of the backends reads the database.
        """
        owners, changes = self._owners, self._changes
        if owners is None:
            owners = self._read_owners()
            if changes == self._changes:  # otherwise they may have been read before the change
                self._owners = owners
        return owners.get(digest)

    def forget_owners(self) -> None:
        """Note that backends or their tokens changed. The next search reads the owners again."""
        self._changes += 1
        self._owners = None

    def _derive_from(self, source: TokenNonce) -> str:
        return self._home.derive_token("backend", source.nonce)

    def _read_owners(self) -> dict[str, TokenOwner]:
        owners = {}
        for row in self._list_rows():
            if row.spec["token"]:
                for source in list_nonces(row):
                    owners[sha256(self._derive_from(source))] = TokenOwner(row.replica_of or row.name, source=source)
            manages: Sequence[str] = row.spec.get("manages") or ()
            if row.wanted and manages:
                owners[sha256(self.derive_manages_key(row))] = TokenOwner(row.replica_of or row.name, tuple(manages))
        return owners
