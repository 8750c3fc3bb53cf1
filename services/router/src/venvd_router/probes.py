"""The requests that the router itself answers: for probes, metrics, and its load."""

from __future__ import annotations

from dataclasses import asdict

from venvd_contract.errors import VenvdError
from venvd_contract.internal.messages import LOAD_PATH
from venvd_http.asgi import JSON, Receive, Scope, Send, describe_peer, encode, respond, send_whole
from venvd_http.auth import METRICS, TokenGuard, read_token
from venvd_http.connection import accept
from venvd_http.probes import METRICS_TYPE
from venvd_http.problems import refuse, wrong_method
from venvd_router.activity import Activity, Metrics
from venvd_router.loads import Loads
from venvd_router.replicas import Replicas

PATHS = ("/health", "/livez", "/readyz", "/metrics", LOAD_PATH)


class Probes:
    """Answers `PATHS`; metrics and load take a token. Errors are problem details."""

    def __init__(
        self, guard: TokenGuard, replicas: Replicas, loads: Loads, activity: Activity, metrics: Metrics
    ) -> None:
        self._guard = guard
        self._replicas = replicas
        self._loads = loads
        self._activity = activity
        self._metrics = metrics

    async def find_failures(self) -> dict[str, str]:
        """Find out why the router is not ready. Return an empty dict if it is."""
        if not self._replicas.list_reachable():
            return {"replicas": "no replica has an address"}
        await self._loads.refresh()
        return {} if self._loads.answering else {"replicas": "no replica answers"}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        try:
            if self._guard.open:
                accept(scope)
            if method not in {"GET", "HEAD"}:
                await wrong_method(method, path, "GET, HEAD")(scope, receive, send)
            elif path == "/metrics":
                accept(scope, self._guard.check(read_token(scope), METRICS, describe_peer(scope)))
                await respond(send, 200, self._metrics.render(), METRICS_TYPE)
            elif path == "/readyz":
                failing = await self.find_failures()
                body = {"status": "unavailable" if failing else "ok", "checks": failing}
                await send_whole(send, 503 if failing else 200, ((b"content-type", JSON),), encode(body))
            elif path == LOAD_PATH:
                self._guard.check_controller(read_token(scope), describe_peer(scope))
                await respond(send, 200, encode(asdict(self._activity.report())))
            else:
                await respond(send, 200, b'{"status":"ok"}')
        except VenvdError as error:
            await refuse(send, error)
