"""An old client of a backend that runs without a token."""

from __future__ import annotations

from urllib.parse import urlsplit

from compat.clients import Client, OldHttpClient, OldPipeClient, OldRpcClient
from harness.stack import Running


def connect(kind: str, running: Running) -> Client:
    """A new client of this kind, which names the host as .NET programs do."""
    made: Client
    if kind == "pipe":
        made = OldPipeClient(urlsplit(running.url).path)
    else:
        url = running.record.probe_url if kind == "rpc" else running.url
        made = (OldRpcClient if kind == "rpc" else OldHttpClient)(f"http://localhost:{urlsplit(url).port}")
    assert made.initialize(), made.log
    return made
