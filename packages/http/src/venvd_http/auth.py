"""Tokens: read from a request, and checked by their SHA-256."""

from __future__ import annotations

import hashlib
import hmac

from venvd_contract.errors import Forbidden, Unauthenticated
from venvd_http.asgi import Scope

USE = "use"
METRICS = "metrics"


def bearer_token(header: bytes) -> str | None:
    """The token in a value of `Authorization`; None if it is no bearer token."""
    return str(header[7:].strip(), "latin-1") if header[:7].lower() == b"bearer " else None


def read_token(scope: Scope) -> str | None:
    """The bearer token of a request, or None."""
    for name, value in scope["headers"]:
        if name == b"authorization":
            return bearer_token(value)
    return None


def sha256(token: str) -> str:
    """The digest by which a token is known, hexadecimal."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


class TokenGuard:
    """Accepts one token for everything and, if there is one, another for metrics only.

    Tokens are known by their SHA-256 and compared in constant time.

    Args:
        token_sha256: hexadecimal; empty lets everyone do everything.
        metrics_token_sha256: hexadecimal; empty is none.
        server: what the messages call the server.
    """

    def __init__(self, token_sha256: str, metrics_token_sha256: str = "", server: str = "this backend") -> None:
        self._token = bytes.fromhex(token_sha256)
        self._metrics_token = bytes.fromhex(metrics_token_sha256)
        self._server = server
        self._accepted = b""
        """The last token that may do everything: a token that was hashed once is not hashed for each call."""

    @property
    def open(self) -> bool:
        """Whether everyone may do everything."""
        return not self._token

    def check(self, token: str | None, scope: str = USE) -> None:
        """Check a token for the scope `use` or `metrics`.

        Raises:
            Unauthenticated: there is no token, or it is unknown.
            Forbidden: the token is known and not enough for `scope`.
        """
        if not self._token:
            return
        if not token:
            raise Unauthenticated("a token is needed, and the request has none")
        given = token.encode("utf-8", "surrogatepass")
        if self._accepted and hmac.compare_digest(given, self._accepted):
            return
        if self.scope_of(given) == USE:
            self._accepted = given
        elif scope != METRICS:
            raise Forbidden("this token may read metrics only")

    def scope_of(self, token: bytes) -> str:
        """What a token may do: `use`, which is everything, or `metrics`.

        Raises:
            Unauthenticated: the token is unknown.
        """
        digest = hashlib.sha256(token).digest()
        if hmac.compare_digest(digest, self._token):
            return USE
        if not hmac.compare_digest(digest, self._metrics_token):
            raise Unauthenticated(f"the token is not one that {self._server} accepts")
        return METRICS
