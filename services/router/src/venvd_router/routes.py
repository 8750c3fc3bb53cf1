"""Chooses the replicas for a request by its method and path."""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass

import msgspec

SESSIONS, CALLS = "/v1/sessions", "/v1/calls"
_SESSION = re.compile(r"/v1/sessions/([^/]+)(?:/[\s\S]*)?")
_CALL = re.compile(r"/v1/calls/([^/]+)")


class Way(enum.Enum):
    """How a request finds its replica."""

    SESSION = "session"
    """To the replica of the session that the path or the head names."""
    BODY = "body"
    """To the replica of the session that the body names, else the head."""
    NEW = "new"
    """A new session: to the replica of its name in the body; without a name, to the one with the fewest sessions."""
    CALL = "call"
    """To the replica of a background call."""
    CANCEL = "cancel"
    """To all replicas; the one that knows the call answers."""
    LIST = "list"
    """To all replicas; the answer has the items of each."""


@dataclass(frozen=True)
class Route:
    """A way, and the session or the call that the path names."""

    way: Way
    identity: str | None = None


def find_route(method: str, path: str, session: str | None) -> Route:
    """Find the route of a request whose head names `session`."""
    if path.startswith("/v1/"):
        if path == SESSIONS:
            return Route(Way.NEW if method == "POST" else Way.LIST)
        if path == CALLS:
            return Route(Way.BODY, session)
        named = _SESSION.fullmatch(path)
        if named is not None:
            return Route(Way.SESSION, named[1])
        call = _CALL.fullmatch(path)
        if call is not None:
            return Route(Way.CANCEL if method == "DELETE" else Way.CALL, call[1])
    if method == "POST" and session is None and not path.startswith("/venv/"):
        return Route(Way.BODY)
    return Route(Way.SESSION, session)


class _Fields(msgspec.Struct):
    name: msgspec.Raw = msgspec.Raw()
    session: msgspec.Raw = msgspec.Raw()
    Session: msgspec.Raw = msgspec.Raw()  # the spelling of old clients of gRPC backends


_fields = msgspec.json.Decoder(_Fields)
_text = msgspec.json.Decoder(str)


def read_session(body: bytes) -> str | None:
    """Read the session that a body names. Return None if it names none, or is wrong: then a replica refuses it."""
    if b"ession" not in body and b"\\u" not in body:
        return None
    fields = _read(body)
    return _read_text(fields.session) or _read_text(fields.Session)


def read_name(body: bytes) -> str | None:
    """Read the name of a new session from its body."""
    return _read_text(_read(body).name)


def _read(body: bytes) -> _Fields:
    try:
        return _fields.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _Fields()


def _read_text(raw: msgspec.Raw) -> str | None:
    try:
        return _text.decode(raw) or None if raw else None
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return None
