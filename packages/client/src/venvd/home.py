"""Where a controller is found: the environment, else the files of its home."""

from __future__ import annotations

import os
from pathlib import Path

from venvd.errors import NoController

HOW_TO_START = "start one with `venvd up --detach` or `docker compose up`, or name another with VENVD_URL"


def home() -> Path:
    """`VENVD_HOME`, else a per-user directory: `$XDG_STATE_HOME/venvd` or `~/.local/state/venvd`."""
    named = os.environ.get("VENVD_HOME")
    if named:
        return Path(named).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state") / "venvd"


def read(path: Path) -> str | None:
    """The text of a small file of the home, or None."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def named(url: str | None) -> bool:
    """Whether a controller is named on purpose, not by what one left in the home."""
    return bool(url or os.environ.get("VENVD_URL"))


def find_controller(url: str | None, token: str | None) -> tuple[str, str | None]:
    """URL and token of the controller: as given, from `VENVD_URL` and `VENVD_TOKEN`, or of the home.

    The token of the home goes to the controller of the home and to no other.

    Raises:
        NoController: none is named anywhere.
    """
    directory = home()
    own = read(directory / "url")
    found = url or os.environ.get("VENVD_URL") or own
    if found is None:
        raise NoController(f"no controller is known (no VENVD_URL, nothing in {directory}): {HOW_TO_START}")
    token = token or os.environ.get("VENVD_TOKEN")
    if token is None and own is not None and found.rstrip("/") == own.rstrip("/"):
        token = read(directory / "token")
    return found, token
