"""A PostgreSQL server of the tests' own: an empty cluster in a temporary directory, reached by a socket."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

_STARTUP_SECONDS = 60.0


def find_program(name: str) -> Path | None:
    """Find a program of PostgreSQL; Debian keeps them out of the path, by version."""
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    return max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), default=None)


class Cluster:
    """A running server; each database is new."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._numbers = itertools.count()

    def connect(self) -> psycopg.Connection:
        return psycopg.connect(host=str(self._directory), user="venvd", dbname="postgres", autocommit=True)

    def create_database(self) -> str:
        """Create an empty database, and return its SQLAlchemy URL."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        return f"postgresql+psycopg://venvd@/{name}?host={self._directory}"


@contextlib.contextmanager
def running_cluster() -> Iterator[Cluster]:
    """Run a server until the end of the block. PostgreSQL refuses to run as root, so there it runs as `postgres`."""
    initdb, postgres = find_program("initdb"), find_program("postgres")
    assert initdb is not None
    assert postgres is not None
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    owner: dict[str, int] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}
    with tempfile.TemporaryDirectory(prefix="venvd-pg-") as name:
        directory = Path(name)
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        make = [initdb, "-D", directory / "data", "-U", "venvd", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **owner)  # type: ignore[call-overload]
        options = (
            "listen_addresses=",
            "fsync=off",
            "dynamic_shared_memory_type=mmap",
            "max_connections=200",
            f"unix_socket_directories={directory}",
        )
        serve = [postgres, "-D", directory / "data", *(word for option in options for word in ("-c", option))]
        process = subprocess.Popen(serve, cwd="/", stderr=subprocess.DEVNULL, **owner)  # type: ignore[call-overload]
        try:
            cluster = Cluster(directory)
            _wait_until_up(cluster, process)
            yield cluster
        finally:
            process.send_signal(signal.SIGQUIT)  # what is in it is not kept
            process.wait(60)


def _wait_until_up(cluster: Cluster, process: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + _STARTUP_SECONDS
    while True:
        try:
            cluster.connect().close()
        except psycopg.OperationalError:
            assert process.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < end, "PostgreSQL is not up"
            time.sleep(0.02)
        else:
            return
