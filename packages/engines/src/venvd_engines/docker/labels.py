"""Names, labels and user IDs of the objects that the docker engine makes."""

from __future__ import annotations

HOME = "dev.venvd.home"
"""Identity of the owner. Everything carries it, so that two owners on one machine never touch each other's objects."""
ROLE = "dev.venvd.role"
INSTANCE = "dev.venvd.instance"
"""The engine object that made a thing; sweeping removes the unfinished things of other instances."""
LAUNCH = "dev.venvd.launch"
NAME = "dev.venvd.name"
TYPE = "dev.venvd.type"
RECORD = "dev.venvd.record"
KEY = "dev.venvd.key"
PYTHON = "dev.venvd.python"
PACKAGES = "dev.venvd.packages"
FOUNDATION = "dev.venvd.foundation"
"""On the image of a venv: a digest of its inputs other than the lock; empty if no build may start from the image."""
LINES = "dev.venvd.lines"
"""On the image of a venv: digests of the lines of its lock."""

SERVER, WORKER = "server", "worker"
PARTS = (SERVER, WORKER)
ROUTED = "routed"
"""The name of a server in the network of routers."""
CHANNEL = "channel"
SECRETS = "secrets"
BUILD, CHECK, HELPER = "build", "check", "helper"
TEMPORARY = (BUILD, CHECK, HELPER)
"""The roles of containers that live no longer than one call of the engine."""
TOOLS, ARCHIVE, CACHE, NETWORK, VENV, USERS = "tools", "archive", "cache", "network", "venv", "users"
SERVER_IMAGE = "server-image"

SERVER_UID, WORKER_UID, SHARED_GID = 10001, 10002, 10000
"""The user of servers, the user of containers that check images, and the group of the channel. `UserIds` has the users
of worker hosts, which are in that group."""


def part_name(launch_id: str, part: str) -> str:
    """Return the name of a backend's container or volume. It is short enough for a host name."""
    return f"venvd-{launch_id}-{part}"
