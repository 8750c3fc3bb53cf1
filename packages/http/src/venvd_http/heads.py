"""The headers of a request that concern a call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from venvd_contract.errors import InvalidRequest
from venvd_http.auth import bearer_token


@dataclass(slots=True)
class Head:
    """What a request's headers say, parsed once."""

    token: str | None = None
    session: str | None = None
    timeout: float | None = None
    values: str = "plain"
    call: str | None = None
    lease: float | None = None
    length: int = 0
    chunked: bool = False
    wants_events: bool = False
    expects: bool = False
    """Whether the client waits for a word of the server before it sends the body."""
    origin: bytes | None = None
    host: bytes = b""

    @property
    def has_body(self) -> bool:
        return self.chunked or self.length > 0

    @classmethod
    def of(cls, headers: Iterable[tuple[bytes, bytes]]) -> Head:
        """Parse headers whose names are in lower case.

        Raises:
            InvalidRequest: a value is wrong; says which.
        """
        head = cls()
        for name, value in headers:
            put = _HEADERS.get(name)
            if put is not None:
                put(head, value)
        return head


def _token(head: Head, value: bytes) -> None:
    head.token = bearer_token(value) or head.token


def _session(head: Head, value: bytes) -> None:
    head.session = str(value, "latin-1") or None


def _timeout(head: Head, value: bytes) -> None:
    head.timeout = _seconds("X-Venvd-Timeout", value)


def _values(head: Head, value: bytes) -> None:
    head.values = str(value, "latin-1")


def _call(head: Head, value: bytes) -> None:
    head.call = str(value, "latin-1") or None


def _lease(head: Head, value: bytes) -> None:
    head.lease = _seconds("X-Venvd-Lease", value)


def _length(head: Head, value: bytes) -> None:
    head.length = int(value)


def _encoding(head: Head, _value: bytes) -> None:
    head.chunked = True


def _accept(head: Head, value: bytes) -> None:
    head.wants_events = b"text/event-stream" in value.lower()


def _expect(head: Head, _value: bytes) -> None:
    head.expects = True


def _origin(head: Head, value: bytes) -> None:
    head.origin = value


def _host(head: Head, value: bytes) -> None:
    head.host = value


def _seconds(header: str, value: bytes) -> float:
    try:
        return float(value)
    except ValueError:
        raise InvalidRequest(f"{header} takes seconds, such as 2.5") from None


_HEADERS: dict[bytes, Callable[[Head, bytes], None]] = {
    b"authorization": _token,
    b"x-venvd-session": _session,
    b"x-venvd-timeout": _timeout,
    b"x-venvd-values": _values,
    b"x-venvd-call": _call,
    b"x-venvd-lease": _lease,
    b"content-length": _length,
    b"transfer-encoding": _encoding,
    b"accept": _accept,
    b"expect": _expect,
    b"origin": _origin,
    b"host": _host,
}


class HeadCache:
    """Heads of one connection that were parsed and admitted.

    A request whose head is byte for byte an earlier one's is neither parsed nor admitted again.
    """

    MOST = 16
    LARGEST = 4096

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[str, Head]] = {}

    def learn(self, data: bytes, command: str, head: Head) -> None:
        """Keep the head with which `data` begins, if only its body follows."""
        end = data.find(b"\r\n\r\n") + 4
        if 4 <= end <= self.LARGEST and len(data) == end + head.length and data[:5] == b"POST ":
            if len(self._known) >= self.MOST:
                self._known.clear()
            self._known[data[:end]] = command, head

    def find(self, data: bytes) -> tuple[str, Head, bytes] | None:
        """Command, head and body, if `data` is one whole request with a known head."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None or len(data) != end + known[1].length:
            return None
        return (*known, data[end:])
