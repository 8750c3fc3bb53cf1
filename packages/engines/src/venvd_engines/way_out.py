"""How programs in a worker host find the broker of its network, their only way out."""

from __future__ import annotations

PROXY_PORT = 3128
"""The port of the forwarder to the egress broker, on the loopback of the worker host."""
_PROXY = f"http://127.0.0.1:{PROXY_PORT}"
_DIRECT = "localhost,127.0.0.1,::1"
PROXY_ENV = {
    **{name: _PROXY for word in ("http", "https") for name in (f"{word}_proxy", f"{word.upper()}_PROXY")},
    **dict.fromkeys(("no_proxy", "NO_PROXY"), _DIRECT),
}
"""The variables by which programs find the broker."""
