"""Key files of servers, as a controller writes them."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def render_keys(*tokens: str, own: Mapping[str, dt.datetime | None] | None = None, **fields: Any) -> bytes:
    """A key file; `fields` replace those of every entry; `own` are the server's tokens with their ends."""
    entries = [
        {
            "name": token,
            "sha256": _digest(token),
            "scope": "use",
            "expiresAt": None,
            **fields,
        }
        for token in tokens
    ]
    rotated = [
        {"name": "backend:test", "sha256": _digest(token), "expiresAt": end and end.isoformat()}
        for token, end in (own or {}).items()
    ]
    return json.dumps({"keys": entries, "tokens": rotated}).encode()


def _digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def write_keys(path: Path, *tokens: str, own: Mapping[str, dt.datetime | None] | None = None, **fields: Any) -> None:
    """Replace a key file in one step."""
    part = path.with_name(f".{secrets.token_hex(4)}")
    part.write_bytes(render_keys(*tokens, own=own, **fields))
    part.rename(path)
