"""Access: the admin's token opens everything, the metrics token metrics only."""

from __future__ import annotations

import base64
import binascii
import re

from venvd_contract.errors import Forbidden, Unauthenticated, VenvdError
from venvd_controller.home import Home
from venvd_http.asgi import ASGIApp, Receive, Scope, Send
from venvd_http.auth import METRICS, TokenGuard, bearer_token, sha256
from venvd_http.problems import refuse

OPEN = frozenset({"/livez", "/readyz", "/health"})
PAGES = frozenset({"/docs", "/openapi.json"})
"""Pages for browsers, which ask for a password: the token."""
_FOR_METRICS = re.compile(r"/metrics|/v1/sd/prometheus|/v1/backends/[^/]+/metrics")


class Guard:
    """ASGI middleware: admits requests that carry one of the controller's tokens."""

    def __init__(self, app: ASGIApp, home: Home) -> None:
        self._app = app
        self._tokens = TokenGuard(sha256(home.token), sha256(home.metrics_token), server="this controller")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN:
            try:
                scope["venvd"] = {"as": self._identify(scope)}
            except VenvdError as error:
                scheme = b"Basic" if scope["path"] in PAGES else b"Bearer"
                await refuse(send, error, challenge=scheme + b' realm="venvd"')
                return
        await self._app(scope, receive, send)

    def _identify(self, scope: Scope) -> str:
        """Return whose token a request carries.

        Raises:
            Unauthenticated: there is no token, or it is unknown.
            Forbidden: the token does not open this path.
        """
        path, method = scope["path"], scope["method"]
        token = _read_token(scope, basic=path in PAGES and method == "GET")
        if token is None:
            raise Unauthenticated("a token is needed: Authorization: Bearer <token> (the file `token` of the home)")
        if self._tokens.scope_of(token.encode()) != METRICS:
            return "admin"
        if method not in {"GET", "HEAD"} or not _FOR_METRICS.fullmatch(path):
            raise Forbidden("this token reads metrics only")
        return METRICS


def _read_token(scope: Scope, *, basic: bool) -> str | None:
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    if basic and header[:6].lower() == b"basic ":
        try:
            return base64.b64decode(header[6:]).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return bearer_token(header) or None
