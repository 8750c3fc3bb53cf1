"""Finds a controller by the environment, or by the files of its home."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from venvd.errors import InvalidRequest, NoController

NOT_INSTALLED = (
    "this environment has the SDK alone, without the controller: run one from the sources (`make install`, then "
    "`.venv/bin/venvd up --detach`) or with `docker compose up`, and name it with VENVD_URL and VENVD_TOKEN"
)
HOW_TO_START = "start one with `venvd up --detach` or `docker compose up`, or name another with VENVD_URL"


def home_directory() -> Path:
    """Return `VENVD_HOME`, else a directory of this user: `$XDG_STATE_HOME/venvd` or `~/.local/state/venvd`."""
    path = os.environ.get("VENVD_HOME")
    if path:
        return Path(path).expanduser().absolute()
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state and Path(state).is_absolute() else Path.home() / ".local" / "state") / "venvd"


def make_home(home: Path) -> None:
    """Make the directory of a home.

    Raises:
        InvalidRequest: this program cannot make it or write to it; says why.
    """
    try:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unusable(home, error.strerror) from None
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise _unusable(home, os.strerror(errno.EACCES))


def _unusable(home: Path, why: str | None) -> InvalidRequest:
    return InvalidRequest(f"the home {home} cannot be used: {why}; name a directory of your own with VENVD_HOME")


def read_line(path: Path) -> str | None:
    """Return the text of a small file without spaces around it, or None."""
    try:
        return path.read_text(encoding="utf-8").strip() or None
    except (OSError, UnicodeDecodeError):
        return None


def is_named(url: str | None) -> bool:
    """Return whether the caller or the environment names a controller."""
    return bool(url or os.environ.get("VENVD_URL"))


def find_controller(url: str | None, token: str | None) -> tuple[str, str | None]:
    """Return URL and token of the controller: as given, from `VENVD_URL` and `VENVD_TOKEN`, or from the home.

    The home's token goes only to the home's controller.

    Raises:
        NoController: no controller is named anywhere.
    """
    url = url or os.environ.get("VENVD_URL") or read_line(home_directory() / "url")
    if url is None:
        raise NoController(f"no controller is known (no VENVD_URL, nothing in {home_directory()}): {HOW_TO_START}")
    token = token or os.environ.get("VENVD_TOKEN")
    return url, token or (read_line(home_directory() / "token") if _is_of_home(url) else None)


def describe_token_source(url: str, token: str | None) -> str | None:
    """Say where `find_controller` takes the token for `url` from, or return None without a token."""
    if token:
        return "given with the call (--controller-token)"
    if os.environ.get("VENVD_TOKEN"):
        return "of VENVD_TOKEN"
    file = home_directory() / "token"
    return f"of {file}" if _is_of_home(url) and read_line(file) else None


def _is_of_home(url: str) -> bool:
    own = read_line(home_directory() / "url")
    return own is not None and url.rstrip("/") == own.rstrip("/")
