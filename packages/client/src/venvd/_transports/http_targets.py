"""Request targets that name an item in their path: a session, a call or a file."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import quote, urlencode

from venvd._transports.base import Call
from venvd.errors import BadReply


def make_target(call: Call[Any], method: str, path: str) -> str:
    """Return `path` with the item's name in it. Without a body, the rest of the payload becomes the query."""
    payload = call.payload
    identity = (call.session or "default") if call.command.startswith("file.") else str(payload["id"])
    target = path.replace("{id}", quote(identity, safe=""))
    named = {"id"}
    if "{path}" in path:
        named |= {"path", "pathBytes"}
        name = b64decode(payload["pathBytes"]) if "pathBytes" in payload else payload["path"].encode()
        target = target.replace("{path}", quote(name, safe="/"))
    fields = {} if method == "POST" else {key: _to_text(payload[key]) for key in payload.keys() - named}
    return f"{target}?{urlencode(fields)}" if fields else target


def _to_text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def parse_version(tag: str) -> dict[str, Any]:
    """Return a file's size and time from its entity tag.

    Raises:
        BadReply: the tag has no size.
    """
    size, _, modified = tag.strip('"').partition("-")
    if not size.isdigit():
        raise BadReply("the backend sent a file without its version")
    return {"sizeBytes": int(size), "modifiedAt": modified}
