"""Who may ask what: the admin's token for everything, the metrics token for numbers only."""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Iterable

from starlette.types import ASGIApp, Receive, Scope, Send

from venvd_contract.errors import Forbidden, Unauthenticated, VenvdError
from venvd_controller import problems
from venvd_controller.home import Home, sha256

OPEN = frozenset({"/livez", "/readyz", "/health"})
PAGES = frozenset({"/docs", "/openapi.json"})
"""What a browser opens: it asks for a password, which is the token."""
_FOR_METRICS = re.compile(r"/metrics|/v1/sd/prometheus|/v1/backends/[^/]+/metrics")


class Guard:
    """Stands before everything and knows the tokens by their digests."""

    def __init__(self, app: ASGIApp, home: Home) -> None:
        self._app = app
        self._admin = sha256(home.token)
        self._metrics = sha256(home.metrics_token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                scope["venvd"] = {"as": self._who(scope)}
            except VenvdError as error:
                page = scope["path"] in PAGES
                await problems.response(error, challenge="Basic" if page else "Bearer")(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _who(self, scope: Scope) -> str:
        """Raises `Unauthenticated` without a token that was given out, `Forbidden` where it is not for this."""
        path, method = scope["path"], scope["method"]
        token = _token(scope["headers"], basic=path in PAGES and method == "GET")
        if token is None:
            raise Unauthenticated("a token is needed: Authorization: Bearer <token> (the file `token` of the home)")
        digest = sha256(token)
        if hmac.compare_digest(digest, self._admin):
            return "admin"
        if not hmac.compare_digest(digest, self._metrics):
            raise Unauthenticated("this token is not known here")
        if method not in {"GET", "HEAD"} or not _FOR_METRICS.fullmatch(path):
            raise Forbidden("this token reads metrics only")
        return "metrics"


def _token(headers: Iterable[tuple[bytes, bytes]], *, basic: bool) -> str | None:
    given = next((value for name, value in headers if name == b"authorization"), b"").decode("latin-1")
    kind, _, rest = given.partition(" ")
    if kind.lower() == "bearer":
        return rest.strip() or None
    if kind.lower() == "basic" and basic:
        try:
            return base64.b64decode(rest).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return None
