"""The tokens of a backend's clients: the newest, and older ones that a rotation has ended or will end."""

from __future__ import annotations

import secrets
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_contract.resources import LONGEST_OVERLAP
from venvd_controller.clock import format_time
from venvd_controller.database.tables import BackendRow

_MOST = 8
"""Tokens of one backend that are remembered. Those that have ended are remembered to tell their clients."""


@dataclass(frozen=True)
class TokenNonce:
    """What a token is derived from, and when the token ends; None is never."""

    nonce: str
    expiresAt: str | None = None  # noqa: N815 — a name in the database

    @property
    def expired(self) -> bool:
        return self.expiresAt is not None and datetime.fromisoformat(self.expiresAt) <= datetime.now(UTC)


def list_nonces(row: BackendRow) -> list[TokenNonce]:
    """List the nonces of a backend's tokens; the last is that of the newest."""
    if row.tokens is None:
        return [TokenNonce(row.nonce)]
    return [TokenNonce(**each) for each in row.tokens["nonces"]]


def rotate(row: BackendRow, overlap: float) -> str:
    """Give a backend a new token, and end all others after `overlap` seconds; return when.

    Raises:
        InvalidRequest: `overlap` is out of bounds.
        Conflict: the backend serves without a token, or too many of its tokens are valid.
    """
    if not 0 <= overlap <= LONGEST_OVERLAP:
        raise InvalidRequest(f"overlap: takes 0 to {LONGEST_OVERLAP} seconds, not {overlap:g}")
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
