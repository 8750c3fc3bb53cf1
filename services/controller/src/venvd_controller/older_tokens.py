"""The tokens that a home had before a rotation: their digests and their ends."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

_MOST = 8
"""How many tokens are remembered. Ended ones are remembered so that their clients can be told."""


@dataclass(frozen=True)
class OlderToken:
    sha256: str
    expiresAt: str  # noqa: N815 — a name in the file

    @property
    def expired(self) -> bool:
        return datetime.fromisoformat(self.expiresAt) <= datetime.now(UTC)


def parse(text: str) -> tuple[OlderToken, ...]:
    """Parse the content of the file. Invalid content gives no tokens."""
    try:
        return tuple(OlderToken(str(each["sha256"]), str(each["expiresAt"])) for each in json.loads(text))
    except (ValueError, KeyError, TypeError):
        return ()


def render(tokens: tuple[OlderToken, ...]) -> str:
    return json.dumps([asdict(each) for each in tokens])


def add(tokens: tuple[OlderToken, ...], sha256: str, end: str) -> tuple[OlderToken, ...]:
    """Add a token that ends at `end`. All earlier tokens end by then, and the oldest are dropped."""
    kept = [OlderToken(each.sha256, min(each.expiresAt, end)) for each in tokens if each.sha256 != sha256]
    return (*kept, OlderToken(sha256, end))[-_MOST:]
