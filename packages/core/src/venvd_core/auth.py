"""Who may call: tokens are known by their SHA-256 only, and compared in constant time."""

from __future__ import annotations

import hashlib
import hmac

from venvd_contract.errors import Forbidden, Unauthenticated

USE = "use"
METRICS = "metrics"


class Guard:
    """Accepts one token for everything and, where there is one, another for metrics only.

    Args:
        token_sha256: hexadecimal; empty lets everyone do everything.
        metrics_token_sha256: hexadecimal; empty is none.
    """

    def __init__(self, token_sha256: str, metrics_token_sha256: str = "") -> None:
        self._token = bytes.fromhex(token_sha256)
        self._metrics_token = bytes.fromhex(metrics_token_sha256)
        self._last = b""

    @property
    def open(self) -> bool:
        return not self._token

    def check(self, token: str | None, scope: str = USE) -> None:
        """Raises:
        Unauthenticated: no token, or one that nothing accepts.
        Forbidden: the token is known and not enough for `scope`.
        """
        if not self._token:
            return
        if not token:
            raise Unauthenticated("a token is needed, and the request has none")
        given = token.encode("utf-8", "surrogatepass")
        if self._last and hmac.compare_digest(given, self._last):
            return  # what was hashed and found right once need not be hashed for every call
        digest = hashlib.sha256(given).digest()
        if hmac.compare_digest(digest, self._token):
            self._last = given
            return
        if not hmac.compare_digest(digest, self._metrics_token):
            raise Unauthenticated("the token is not one that this backend accepts")
        if scope != METRICS:
            raise Forbidden("this token may read metrics only")
