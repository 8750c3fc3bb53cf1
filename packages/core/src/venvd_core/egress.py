"""The egress broker (`venvd_egress`) as a process of its own, and its reports."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from typing import Any

import msgspec

from venvd_contract.internal import EGRESS
from venvd_core.metrics import Metrics
from venvd_core.secrets import Secrets
from venvd_core.settings import BackendSettings

_log = logging.getLogger("venvd.egress")

_RESTART_SECONDS = 1.0
_STOP_SECONDS = 2.0
_PERIOD_SECONDS = 60.0
_MOST_LINES = 60
"""Refusals that the log names within a period, since user code can cause any number. The metrics count all."""
_LONGEST = 300
_KINDS = frozenset({"destination", "address", "unreachable"})


class EgressBroker:
    """Keeps the broker of a backend running; its socket is in the channel."""

    def __init__(self, settings: BackendSettings, metrics: Metrics, secrets: Secrets) -> None:
        self._socket = settings.channel / EGRESS
        self._settings = settings
        self._secrets = secrets
        self._process: asyncio.subprocess.Process | None = None
        secrets.on_change = self._configure
        self._metrics = metrics
        self._period_end = 0.0
        self._lines = 0

    async def run(self) -> None:
        """Run the broker until cancelled; start it again if it ends."""
        while True:
            process = await self._start()
            try:
                await self._read_refusals(process)
                status = await process.wait()
            finally:
                await _stop(process)
            _log.error("the egress broker ended with status %s and is started again", status)
            await asyncio.sleep(_RESTART_SECONDS)

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-m", "venvd_egress", "backend", str(self._socket)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._process = process
        self._configure()
        return process

    def _configure(self) -> None:
        """Send the rules to the broker through a pipe: other processes of this user could read its environment."""
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.write(json.dumps(_make_config(self._settings, self._secrets)).encode() + b"\n")

    async def _read_refusals(self, process: asyncio.subprocess.Process) -> None:
        if process.stdout is None:
            return
        async for line in process.stdout:
            self._note(json.loads(line))

    def _note(self, refusal: Mapping[str, Any]) -> None:
        kind = refusal["kind"] if refusal["kind"] in _KINDS else "other"
        self._metrics.egress_refused[kind] += 1
        now = asyncio.get_running_loop().time()
        if now >= self._period_end:
            self._period_end, self._lines = now + _PERIOD_SECONDS, 0
        self._lines += 1
        if self._lines <= _MOST_LINES:
            host, reason = str(refusal["host"])[:_LONGEST], str(refusal["reason"])[:_LONGEST]
            fields = {"host": host, "port": refusal["port"], "kind": kind, "reason": reason}
            _log.warning("connection refused", extra={"fields": fields})
        elif self._lines == _MOST_LINES + 1:
            _log.warning("further refused connections of this minute are only counted")


def _make_config(settings: BackendSettings, secrets: Secrets) -> dict[str, Any]:
    upstream = settings.egress_broker_file
    return {
        "upstream": None if upstream is None else json.loads(upstream.read_text()),
        "destinations": settings.network,
        "networks": settings.private_networks,
        "headers": [msgspec.to_builtins(header) for header in secrets.headers],
        "authorities": secrets.authorities,
    }


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End the broker by closing its input; kill it if it does not end."""
    if process.stdin is not None:
        process.stdin.close()
    try:
        await asyncio.wait_for(asyncio.shield(process.wait()), _STOP_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()
