"""A program of the controller's image: it waits until NetworkPolicies keep its pod from an address.

python -m venvd_engines.kubernetes.closed ADDRESS PORT

Policies come into force some time after a pod starts. The program ends with status 0 once two connections in a row
fail. If connections succeed for `TIMEOUT_SECONDS`, it prints the reason and ends with `OPEN_STATUS`.
"""

from __future__ import annotations

import socket
import sys
import time

OPEN_STATUS = 3
TIMEOUT_SECONDS = 10.0
_CONNECT_SECONDS = 1.0
_PAUSE_SECONDS = 0.2


def wait_until_closed(address: str, port: int, timeout: float = TIMEOUT_SECONDS) -> bool:
    """Return whether connections to an address begin to fail within the timeout."""
    end = time.monotonic() + timeout
    while _connects(address, port) or _connects(address, port):
        if time.monotonic() > end:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _connects(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), _CONNECT_SECONDS).close()
    except OSError:
        return False
    return True


if __name__ == "__main__":
    if not wait_until_closed(sys.argv[1], int(sys.argv[2])):
        reason = "the cluster does not enforce its NetworkPolicies"
        sys.stderr.write(f"the pod still reaches {sys.argv[1]} after {TIMEOUT_SECONDS:g} s: {reason}\n")
        sys.exit(OPEN_STATUS)
