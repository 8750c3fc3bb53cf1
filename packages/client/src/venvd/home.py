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
    found = url or os.environ.get("VENVD_URL") or read(home() / "url")
    if found is None:
        raise NoController(f"no controller is known (no VENVD_URL, nothing in {home()}): {HOW_TO_START}")
    return found, token or os.environ.get("VENVD_TOKEN") or (read(home() / "token") if _of_home(found) else None)


def _of_home(url: str) -> bool:
    own = read(home() / "url")
    return own is not None and url.rstrip("/") == own.rstrip("/")


def token_source(url: str, token: str | None) -> str | None:
    """Where `find_controller` has the token from that goes to `url`, in words; None where there is none."""
    if token:
        return "given with the call (--controller-token)"
    if os.environ.get("VENVD_TOKEN"):
        return "of VENVD_TOKEN"
    file = home() / "token"
    return f"of {file}" if _of_home(url) and read(file) else None
