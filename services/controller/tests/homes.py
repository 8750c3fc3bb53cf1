"""Homes of controllers whose database is ready."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from venvd_controller.database import open_database
from venvd_controller.home import Home
from venvd_controller.settings import Settings


def open_home(settings: Settings) -> Home:
    """Open a home. A new one gets an empty database: the migrations take longer than most tests."""
    home = Home(settings.home)
    if settings.database_url is None and not settings.sqlite_file.exists():
        settings.sqlite_file.write_bytes(_migrate_once())
    return home


@functools.cache
def _migrate_once() -> bytes:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "empty.sqlite3"
        open_database(f"sqlite:///{file}").close()
        return file.read_bytes()
