"""How many descriptors a server may have."""

from __future__ import annotations

import resource


def raise_limit() -> None:
    """Every connection takes one, and so does what sessions share: use as many as this process may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
