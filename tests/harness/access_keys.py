"""Key files of servers, as a controller writes them."""

from __future__ import annotations

import hashlib
import json
import secrets
from pathlib import Path
from typing import Any


def render_keys(*tokens: str, **fields: Any) -> bytes:
    """The content of a key file; `fields` replace those of every entry."""
    entries = [
        {
            "name": token,
            "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "scope": "use",
            "expiresAt": None,
            **fields,
        }
        for token in tokens
    ]
    return json.dumps({"keys": entries}).encode()


def write_keys(path: Path, *tokens: str, **fields: Any) -> None:
    """Replace a key file in one step."""
    part = path.with_name(f".{secrets.token_hex(4)}")
    part.write_bytes(render_keys(*tokens, **fields))
    part.rename(path)
