"""What `venvd_http.connection` and `venvd_http.server` use of uvicorn's private parts is what was read."""

from __future__ import annotations

import hashlib
import inspect

import uvicorn
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

READ = "ab7685a557c8052e"
"""Digest of the sources that were read: docs/decisions/0015-one-http-edge.md."""


def test_uvicorn_is_the_one_that_was_read() -> None:
    """A new uvicorn whose connections, cycles, flow control or server differ is read before it is used."""
    digest = hashlib.sha256()
    for part in (FlowControl, HttpToolsProtocol, RequestResponseCycle, uvicorn.Server):
        digest.update(inspect.getsource(part).encode())
    assert digest.hexdigest()[:16] == READ, f"uvicorn {uvicorn.__version__} differs: read it, then change the digest"
