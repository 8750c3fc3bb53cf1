"""The targets of requests that name something in their path: a session, a call, a file."""

from __future__ import annotations

from base64 import b64decode
from typing import Any
from urllib.parse import quote, urlencode

from venvd.errors import BadReply
from venvd.transports.base import Call


def target(call: Call[Any], method: str, path: str) -> str:
    """`path` with what it names filled in, and the rest of the payload as its query where the method has no body."""
    payload = call.payload
    identity = (call.session or "default") if call.command.startswith("file.") else str(payload["id"])
    found = path.replace("{id}", quote(identity, safe=""))
    named = {"id"}
    if "{path}" in path:
        named |= {"path", "pathBytes"}
        name = b64decode(payload["pathBytes"]) if "pathBytes" in payload else payload["path"].encode()
        found = found.replace("{path}", quote(name, safe="/"))
    fields = {} if method == "POST" else {key: _text(payload[key]) for key in payload.keys() - named}
    return f"{found}?{urlencode(fields)}" if fields else found


def _text(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def version(tag: str) -> dict[str, Any]:
    """Size and time of a file, as its entity tag says them.

    Raises:
        BadReply: it says neither.
    """
    size, _, modified = tag.strip('"').partition("-")
    if not size.isdigit():
        raise BadReply("the backend sent a file without saying which version of it")
    return {"sizeBytes": int(size), "modifiedAt": modified}
