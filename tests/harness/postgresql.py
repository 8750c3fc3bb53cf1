"""A PostgreSQL server of the tests: an empty cluster in a temporary directory, reached by a socket or a port."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from harness.ports import free_port

_STARTUP_SECONDS = 60.0


def find_program(name: str) -> Path | None:
    """Find a program of PostgreSQL; Debian keeps them out of the path, by version."""
    program_path = shutil.which(name)
    if program_path is not None:
        return Path(program_path)
    return max(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), default=None)


class Cluster:
    """A running server; each database is new.

    Args:
        address: where it also listens for TCP connections; they need the password `password`.
    """

    def __init__(self, directory: Path, address: tuple[str, int] | None = None) -> None:
        self.address = address
        self.password = secrets.token_hex(16)
        self._directory = directory
        self._numbers = itertools.count()

    def connect(self) -> psycopg.Connection:
        port = 5432 if self.address is None else self.address[1]  # the name of the socket has it
        return psycopg.connect(host=str(self._directory), port=port, user="venvd", dbname="postgres", autocommit=True)

    def create_database(self) -> str:
        """Create an empty database, and return its SQLAlchemy URL."""
        name = f"test{next(self._numbers)}"
        with self.connect() as connection:
            connection.execute(f'CREATE DATABASE "{name}"')  # type: ignore[call-overload]
        if self.address is None:
            return f"postgresql+psycopg://venvd@/{name}?host={self._directory}"
        host, port = self.address
        return f"postgresql+psycopg://venvd:{self.password}@{host}:{port}/{name}"


@contextlib.contextmanager
def running_cluster(host: str | None = None) -> Iterator[Cluster]:
    """Run a server until the end of the block. PostgreSQL refuses to run as root, so there it runs as `postgres`.

    Args:
        host: an address of this machine at which the server also listens, at a free port.
    """
    initdb, postgres = find_program("initdb"), find_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("PostgreSQL is not installed: there is no initdb")
    user = pwd.getpwnam("postgres") if os.geteuid() == 0 else None
    owner: dict[str, int] = {} if user is None else {"user": user.pw_uid, "group": user.pw_gid}
    with tempfile.TemporaryDirectory(prefix="venvd-pg-") as name:
        directory = Path(name)
        if user is not None:
            os.chown(directory, user.pw_uid, user.pw_gid)
        make = [initdb, "-D", directory / "data", "-U", "venvd", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd="/", **owner)  # type: ignore[call-overload]
        cluster = Cluster(directory, None if host is None else (host, free_port()))
        if host is not None:
            with (directory / "data" / "pg_hba.conf").open("a") as rules:
                rules.write("host all all all scram-sha-256\n")
        options = (
            f"listen_addresses={host or ''}",
            *(() if cluster.address is None else (f"port={cluster.address[1]}",)),
            "fsync=off",
            "dynamic_shared_memory_type=mmap",
            "max_connections=200",
            f"unix_socket_directories={directory}",
        )
        serve = [postgres, "-D", directory / "data", *(word for option in options for word in ("-c", option))]
        process = subprocess.Popen(serve, cwd="/", stderr=subprocess.DEVNULL, **owner)  # type: ignore[call-overload]
        try:
            _wait_until_up(cluster, process)
            with cluster.connect() as connection:
                connection.execute(f"ALTER USER venvd PASSWORD '{cluster.password}'")  # type: ignore[call-overload]
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
