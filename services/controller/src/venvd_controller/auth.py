"""Access: the guard finds the owner of a request's token, and each route names the scope that it needs."""

from __future__ import annotations

import base64
import binascii

from anyio.to_thread import run_sync

from venvd_contract.access import BACKEND_PREFIX
from venvd_contract.errors import Unauthenticated, VenvdError
from venvd_controller.audit import AuditLog
from venvd_controller.callers import Caller
from venvd_controller.keys import Keys
from venvd_http import docs
from venvd_http.asgi import ASGIApp, Receive, Scope, Send, describe_peer
from venvd_http.auth import WrongToken, bearer_token
from venvd_http.connection import accept
from venvd_http.guesses import Guesses
from venvd_http.problems import refuse

OPEN = frozenset({"/livez", "/readyz", "/health"})
CALLER = "venvd.caller"
"""The key of the `Caller` in an ASGI scope."""


class Guard:
    """ASGI middleware: admits requests with a token that the controller knows.

    The documentation needs no token if it is open. Otherwise browsers ask for the token as a password.
    """

    def __init__(self, app: ASGIApp, keys: Keys, audit: AuditLog, *, open_docs: bool, max_wrong_tokens: int) -> None:
        self._app = app
        self._open = OPEN | docs.PATHS if open_docs else OPEN
        self._keys = keys
        self._audit = audit
        self._guesses = Guesses(max_wrong_tokens)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in self._open:
            try:
                caller = await self._identify(scope)
            except VenvdError as error:
                peer = describe_peer(scope)
                self._audit.count_refusal(None, peer, scope["method"], scope["path"], error.http_status, error.code)
                if isinstance(error, WrongToken):
                    error.delay = self._guesses.note(peer, wrong=True).delay
                scheme = b"Basic" if scope["path"] in docs.PATHS else b"Bearer"
                await refuse(send, error, challenge=scheme + b' realm="venvd"')
                return
            accept(scope)
            scope[CALLER] = caller
            scope["venvd"] = {"key": caller.name}  # for the log
        await self._app(scope, receive, send)

    async def _identify(self, scope: Scope) -> Caller:
        """Return the owner of a request's token.

        Raises:
            Unauthenticated: there is no token, or it is unknown.
        """
        token = _read_token(scope, basic=scope["path"] in docs.PATHS and scope["method"] == "GET")
        if token is None:
            raise Unauthenticated(
                "a token is needed: Authorization: Bearer <token> (a key, or the file `token` of the home)"
            )
        if token.startswith(BACKEND_PREFIX):
            return await run_sync(self._keys.identify, token)
        return self._keys.identify(token)


def _read_token(scope: Scope, *, basic: bool) -> str | None:
    header: bytes = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    if basic and header[:6].lower() == b"basic ":
        try:
            return base64.b64decode(header[6:]).decode().partition(":")[2] or None
        except (binascii.Error, UnicodeDecodeError):
            return None
    return bearer_token(header) or None
