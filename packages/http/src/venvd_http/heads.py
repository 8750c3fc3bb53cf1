"""The headers of a request that a call needs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from venvd_contract.errors import InvalidRequest
from venvd_contract.suggestions import check_names
from venvd_http.auth import Caller, bearer_token


@dataclass(slots=True)
class Head:
    """The headers of a request, parsed once."""

    token: str | None = None
    session: str | None = None
    timeout: float | None = None
    values: str | None = None
    call: str | None = None
    lease: float | None = None
    length: int = 0
    chunked: bool = False
    wants_events: bool = False
    expects: bool = False
    """Whether the client waits for `100 Continue` before it sends the body."""
    origin: bytes | None = None
    host: bytes = b""
    peer: str = ""
    """The address of the sender; behind a trusted proxy, the address of the proxy's client."""
    caller: Caller | None = None
    """The sender, after the request is admitted."""

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]], peer: str) -> Head:
        """Parse the headers, with names in lower case, of a request from `peer`.

        Raises:
            InvalidRequest: a value is wrong; the message says which.
        """
        head = cls(peer=peer)
        for name, value in headers:
            field = _FIELDS.get(name)
            if field is not None:
                setattr(head, field[0], field[1](value))
            elif name.startswith(_PREFIX):
                check_names([str(name, "latin-1")], _OPTION_NAMES, "the header")
        return head

    def merge(self, body: bytes) -> tuple[Head, bytes]:
        """Move session, timeout and values from the body, if it has them, to the head; return both.

        Raises:
            InvalidRequest: a value has the wrong type, or differs from a header.
        """
        try:
            if not body.isascii():
                body.decode()
            options = _options(body)
            if not (options.session or options.timeout or options.values):
                # `Raw` tells core that this is valid JSON
                return self, body if b"\n" in body else msgspec.Raw(body)
            fields = _object(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return self, body  # core reports the error
        given = {name: _read_option(name, fields.pop(name)) for name in _BODY_OPTIONS if name in fields}
        for name, value in given.items():
            own = getattr(self, name)
            if value is None:
                given[name] = own
            elif own not in {None, value}:
                raise InvalidRequest(f"the body says {name} {value!r}, and the header X-Venvd-{name.title()} {own!r}")
        return replace(self, **given), msgspec.json.encode(fields)


def _read_option(name: str, given: msgspec.Raw) -> Any:
    kind, says = _BODY_OPTIONS[name]
    try:
        return msgspec.json.decode(given, type=kind)
    except msgspec.MsgspecError:
        raise InvalidRequest(f'the field "{name}" takes {says}') from None


def _text(value: bytes) -> str | None:
    return str(value, "latin-1") or None


def _values(value: bytes) -> str:
    return str(value, "latin-1")


def _seconds(header: str) -> Callable[[bytes], float]:
    def read(value: bytes) -> float:
        try:
            return float(value)
        except ValueError:
            raise InvalidRequest(f"{header} takes seconds, such as 2.5") from None

    return read


def _present(_value: bytes) -> bool:
    return True


def _names_events(value: bytes) -> bool:
    return b"text/event-stream" in value.lower()


_FIELDS: dict[bytes, tuple[str, Callable[[bytes], Any]]] = {
    b"authorization": ("token", bearer_token),
    b"x-venvd-session": ("session", _text),
    b"x-venvd-timeout": ("timeout", _seconds("X-Venvd-Timeout")),
    b"x-venvd-values": ("values", _values),
    b"x-venvd-call": ("call", _text),
    b"x-venvd-lease": ("lease", _seconds("X-Venvd-Lease")),
    b"content-length": ("length", int),
    b"transfer-encoding": ("chunked", _present),
    b"accept": ("wants_events", _names_events),
    b"expect": ("expects", _present),
    b"origin": ("origin", bytes),
    b"host": ("host", bytes),
}
"""The field of each header, and the function that reads its value."""
_PREFIX = b"x-venvd-"
_OPTION_NAMES = [name.decode() for name in _FIELDS if name.startswith(_PREFIX)]

_BODY_OPTIONS: dict[str, tuple[Any, str]] = {
    "session": (str | None, "a string"),
    "timeout": (float | None, "a number of seconds"),
    "values": (str | None, '"plain" or "tagged"'),
}
"""The fields of a body that replace a header, with their types."""


class _Options(msgspec.Struct, gc=False):
    session: msgspec.Raw = msgspec.Raw()
    timeout: msgspec.Raw = msgspec.Raw()
    values: msgspec.Raw = msgspec.Raw()


_options = msgspec.json.Decoder(_Options).decode
_object = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class HeadCache:
    """The parsed and admitted heads of one connection.

    If a request has exactly the bytes of an earlier head, the connection neither parses nor admits it again.
    """

    MOST = 16
    LARGEST = 4096

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, Head]] = {}

    def learn(self, data: bytes, command: str, head: Head) -> None:
        """Keep the head of `data`, if `data` is this head and its body only."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end <= self.LARGEST and len(data) == end + head.length and data[:5] == b"POST ":
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[data[:end]] = command, head

    def find(self, data: bytes) -> tuple[str, Head, bytes] | None:
        """Return command, head and body if `data` is one whole request with a known head, else None."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None or len(data) != end + known[1].length:
            return None
        return (*known, data[end:])
