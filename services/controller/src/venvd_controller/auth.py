"""Who may ask what: the admin's token for everything, the metrics token for numbers only."""

from __future__ import annotations

import hmac
import re

from fastapi import Request

from venvd_contract.errors import Forbidden, Unauthenticated
from venvd_controller.home import Home, sha256

OPEN = {"/livez", "/readyz", "/health"}
_FOR_METRICS = re.compile(r"/metrics|/v1/sd/prometheus|/v1/backends/[^/]+/metrics")


class Guard:
    """Knows the tokens by their digests."""

    def __init__(self, home: Home) -> None:
        self._admin = sha256(home.token)
        self._metrics = sha256(home.metrics_token)

    def check(self, path: str, authorization: str | None) -> None:
        """Let a request pass.

        Raises:
            Unauthenticated: no token, or one that nobody gave out.
            Forbidden: a metrics token for something else.
        """
        if path in OPEN:
            return
        kind, _, token = (authorization or "").partition(" ")
        if kind.lower() != "bearer" or not token.strip():
            raise Unauthenticated("a token is needed: Authorization: Bearer <token> (the file `token` of the home)")
        digest = sha256(token.strip())
        if hmac.compare_digest(digest, self._admin):
            return
        if not hmac.compare_digest(digest, self._metrics):
            raise Unauthenticated("this token is not known here")
        if not _FOR_METRICS.fullmatch(path):
            raise Forbidden("this token reads metrics only")


def check(request: Request) -> None:
    guard: Guard = request.app.state.guard
    guard.check(request.url.path, request.headers.get("authorization"))
