"""A router, and clients without one, in front of a launch and those that updates put it in the place of."""

from __future__ import annotations

import json

import pytest
from harness.router import METRICS_TOKEN, TOKEN, Routers, digest
from harness.stack import Running, Stack
from harness.waiting import wait_until

import venvd
from venvd.errors import NotFound

pytestmark = [pytest.mark.slow, pytest.mark.network]


def _start_launches(stack: Stack, kind: str) -> list[Running]:
    """Start three servers of replica 0."""
    digests = {"VENVD_TOKEN_SHA256": digest(TOKEN), "VENVD_METRICS_TOKEN_SHA256": digest(METRICS_TOKEN)}
    return [stack.start(kind, VENVD_REPLICA="0", **digests) for _ in range(3)]


def _make_entries(launches: list[Running], kind: str) -> list[dict[str, object]]:
    """Make the table in which the last of `launches` is the replica, and the others drain."""
    entries: list[dict[str, object]] = []
    for launch in [launches[-1], *launches[:-1]]:
        former = {"left": 0, "draining": True, "sessions": []} if launch is not launches[-1] else {}
        inner = {"innerHttpUrl": launch.record.probe_url} if kind == "rpc" else {}
        entries.append({"url": launch.url, "innerUrl": launch.url, **inner, **former})
    return entries


def _write_tables(stack: Stack, launches: list[Running], entries: list[dict[str, object]]) -> None:
    for own, launch in zip((1, 2, None), launches, strict=True):
        siblings = {"names": 1, "replicas": entries, "own": own}
        content = {"keys": [], "tokens": [], "siblings": siblings}
        stack.engine.write_keys(launch.record, json.dumps(content).encode())


def _finds(backend: venvd.Backend, call: str) -> bool:
    try:
        return bool(backend.background.get(call).result() == 42)
    except NotFound:
        return False


@pytest.mark.parametrize("kind", ["http", "rpc"])
def test_a_background_call_from_before_two_updates_is_found(stack: Stack, routers: Routers, kind: str) -> None:
    """Its result comes from the launch that has it, through a router and without one. An unknown call is not found."""
    launches = _start_launches(stack, kind)
    with venvd.connect(launches[0].url, TOKEN) as oldest:
        call = oldest.background.eval("6 * 7").id
    entries = _make_entries(launches, kind)
    _write_tables(stack, launches, entries)
    router = routers.start(kind, entries)
    for url in (launches[-1].url, router.url):
        with venvd.connect(url, TOKEN) as backend:
            wait_until(lambda backend=backend: _finds(backend, call), "the call from before is not found")
            with pytest.raises(NotFound):
                backend.background.get("unknown").info()
