"""Backups of a controller's state: complete, of one moment, restored whole or not at all."""

from __future__ import annotations

import argparse
import gzip
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import JSON, Boolean, Float, Integer, LargeBinary, String, insert, select, text

from venvd_contract.errors import Conflict, InvalidRequest, NotFound, Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_contract.secrets import SecretSpec
from venvd_controller.backup import command, rows
from venvd_controller.backup.create import create_backup
from venvd_controller.backup.restore import restore_backup
from venvd_controller.database import connect, list_revisions, migrate, open_database
from venvd_controller.database.tables import AuditRow, EventRow, OperationRow, Table
from venvd_controller.home import Home
from venvd_controller.settings import Settings

from .conftest import Testbed  # type: ignore[import-not-found]

SQLITE, POSTGRESQL = "sqlite", pytest.param("postgresql", marks=pytest.mark.slow)


def back_up(settings: Settings) -> bytes:
    stream = io.BytesIO()
    create_backup(settings, stream)
    return stream.getvalue()


def read_rows(settings: Settings) -> dict[str, list[tuple[Any, ...]]]:
    """Read all rows of a state, with the types of the program's own tables."""
    engine = connect(settings.get_database_url())
    with engine.connect() as connection:
        read = {
            name: [tuple(row) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for name, table in Table.metadata.tables.items()
        }
    engine.dispose()
    return read


@pytest.fixture
def filled(create_testbed: Callable[..., Testbed], tmp_path: Path) -> Iterator[Testbed]:
    """A running controller with a venv, a backend, a key, and a home's token after a rotation."""
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "venvd.yaml").write_text("venvs: {}\n")
    with create_testbed().started() as testbed:
        parts = testbed.controller
        parts.venvs.put("app", VenvSpec(python="3.13", requirements=["six"], env={"WORD": "ü\t"}))
        parts.secrets.put("venv", "app", "db", SecretSpec("open sesame", env="DB"))
        testbed.wait(parts.backends.start(BackendSpec(name="web", venv="app", type="http"))[1])
        testbed.await_running("web")
        parts.home.rotate_token(3600)
        yield testbed


@pytest.fixture
def create_settings(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Settings]:
    """Creates the settings of a new home with a database of a kind."""

    def create(kind: str, name: str = "restored", **fields: Any) -> Settings:
        if kind == "postgresql":
            fields["database_url"] = request.getfixturevalue("postgresql").create_database()
        return Settings(home=tmp_path / name, **fields)

    return create


def settings_of(testbed: Testbed) -> Settings:
    return testbed.controller.settings  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [SQLITE, POSTGRESQL])
def test_a_restored_state_runs_on(
    filled: Testbed, create_settings: Callable[..., Settings], create_testbed: Callable[..., Testbed], kind: str
) -> None:
    """Each row, file, token and key is back, from SQLite to either database, and the backend runs again."""
    old = filled.controller
    key = old.keys.create("ci", ["use:web"], None).key
    token, older, backend = old.home.token, old.home._older, old.backends.get("web").token
    data = back_up(settings_of(filled))
    filled.close()
    rows_before = read_rows(settings_of(filled))
    shutil.rmtree(old.home.path)
    filled.engine.images.clear()
    for launch in list(filled.engine.launches.values()):
        launch.close()
    settings = create_settings(kind)
    summary = restore_backup(settings, io.BytesIO(data))
    rows_after = read_rows(settings)
    for unchanging in ("venvs", "keys", "runtimes", "owner", "secrets"):
        assert rows_after[unchanging] == rows_before[unchanging]
    assert summary.rows["venvs"] == 1
    assert (settings.home / "venvd.yaml").read_text() == "venvs: {}\n"
    assert not (settings.home / "restoring").exists()
    assert {(settings.home / name).stat().st_mode & 0o777 for name in ("secret", "token", "older-tokens")} == {0o600}
    with create_testbed(home=settings.home, database_url=settings.database_url).started() as restored:
        new = restored.controller
        assert b"open sesame" in new.secrets.render_file(new.backends.get_row("web"))
        assert (new.home.id, new.home.token, new.home._older) == (old.home.id, token, older)
        assert restored.await_running("web").token == backend
        assert new.keys.identify(key).name == "ci"


@pytest.mark.slow
def test_the_databases_exchange_every_column(create_settings: Callable[..., Settings]) -> None:
    """Every kind of value goes from SQLite to PostgreSQL and back as it was, and new rows get new numbers."""
    first, second, third = (
        create_settings(kind, kind + str(n)) for n, kind in enumerate(("sqlite", "postgresql", "sqlite"))
    )
    home = Home(first.home)
    odd = {"a": [1, 2.5, None, True, 10**30], "ü\u0000": "\u0001 é \"'\\", "$null": None}
    database = open_database(first.get_database_url())
    with database.write() as session:
        session.add(OperationRow(id="one", kind="build", target="app", state="failed", created_at="now", error=odd))
        session.flush()
        session.add_all(EventRow(operation="one", id=n, kind="log", data=f"ü\t\r\n{n}" * 100) for n in range(3000))
        session.add(AuditRow(id=7, time="now", peer="::1", method="PUT", target="/x", status=200, fields={}))
        session.add(AuditRow(id=9, time="now", peer="::1", method="PUT", target="/y\0", status=200, fields=odd))
        session.execute(text("INSERT INTO owner VALUES (:id, 'local')"), {"id": home.id})
    database.close()
    home.close()
    for source, target in ((first, second), (second, third)):
        summary = restore_backup(target, io.BytesIO(back_up(source)))
        assert (summary.rows["events"], summary.rows["audit"]) == (3000, 2)
        after = open_database(target.get_database_url())
        with after.write() as session:
            row = AuditRow(time="now", peer="::1", method="PUT", target="/z", status=200, fields={})
            session.add(row)
            session.flush()
            assert row.id == 10
            session.delete(row)
        after.close()
    before, restored = read_rows(first), read_rows(third)
    assert before["audit"][1][5] == "/y\0"  # PostgreSQL has no such character
    assert restored["audit"][1][5] == "/y\ufffd"
    del before["audit"][1], restored["audit"][1]
    assert restored == before


def test_a_backup_can_carry_every_column() -> None:
    """No table has a column of a type that the lines of a backup cannot say."""
    kinds = (JSON, Boolean, Float, Integer, LargeBinary, String)
    odd = [
        column for table in Table.metadata.tables.values() for column in table.c if not isinstance(column.type, kinds)
    ]
    assert odd == []


def test_a_backup_is_of_one_moment(filled: Testbed, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the controller writes while a backup is read is not in it, in no table."""
    dump = rows._dump_table

    def dump_late(connection: Any, table: Any) -> Any:
        if table.name == "keys":
            filled.controller.keys.create("late", ["metrics"], None)
        yield from dump(connection, table)

    monkeypatch.setattr(rows, "_dump_table", dump_late)
    data = back_up(settings_of(filled))
    assert "late" in [key.name for key in filled.controller.keys.list_all(None, 100)]
    assert b"late" not in gzip.decompress(data)


def test_a_large_table_is_written_in_parts(tmp_path: Path) -> None:
    """No part of a table is much larger than a batch, and a binary column comes back."""
    engine = connect(f"sqlite:///{tmp_path / 'large.sqlite3'}")
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE large (id INTEGER PRIMARY KEY, data BLOB)")
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        connection.exec_driver_sql(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) "
            "INSERT INTO large SELECT i, randomblob(1000) FROM n"
        )
        before = connection.exec_driver_sql("SELECT * FROM large").all()
        parts = list(rows.dump_tables(connection))
        connection.exec_driver_sql("DELETE FROM large")
        loader = rows.TableLoader(connection)
        for name, _, lines in parts:
            loader.load(name, lines)
        assert connection.exec_driver_sql("SELECT * FROM large").all() == before
    engine.dispose()
    assert len(parts) > 2
    assert max(len(lines) for _, _, lines in parts) < 1.1 * (1 << 20)


def test_a_backup_of_an_older_schema_is_migrated(tmp_path: Path, create_settings: Callable[..., Settings]) -> None:
    """A restore brings the state of an older venvd to the schema of this one."""
    old = create_settings(SQLITE, "old")
    home = Home(old.home)
    home.close()
    engine = connect(old.get_database_url())
    with engine.begin() as connection:
        migrate(connection, "0008")
        connection.exec_driver_sql(
            "INSERT INTO venvs (name, spec, state, created_at, updated_at, owned) "
            "VALUES ('app', '{\"python\": \"3.13\"}', 'ready', 'x', 'x', false)"
        )
    engine.dispose()
    new = create_settings(SQLITE, "new")
    summary = restore_backup(new, io.BytesIO(back_up(old)))
    assert summary.revision == list_revisions()[0] != "0008"
    assert [row[:2] for row in read_rows(new)["venvs"]] == [("app", {"python": "3.13"})]


def change_files(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """Write a backup again, with other contents."""
    changed = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as source, tarfile.open(fileobj=changed, mode="w:gz") as target:
        for member in source:
            file = source.extractfile(member)
            assert file is not None
            content = change(member.name, file.read())
            member.size = len(content)
            target.addfile(member, io.BytesIO(content))
    return changed.getvalue()


def replace_in(file: str, old: bytes, new: bytes) -> Callable[[str, bytes], bytes]:
    return lambda name, content: content.replace(old, new) if name.startswith(file) else content


@pytest.mark.slow
def test_a_bad_file_restores_nothing(filled: Testbed, create_settings: Callable[..., Settings]) -> None:
    """A file that is no backup, too new, cut or changed is refused with the reason, and the home stays empty."""
    data = back_up(settings_of(filled))
    revision = list_revisions()[0].encode()
    newer = change_files(data, replace_in("backup.json", b'"format": 1', b'"format": 2'))
    migrated = change_files(data, replace_in("backup.json", revision, b"9999"))
    files = {
        "is no backup of venvd": [b"", b"no archive", gzip.compress(b"x" * 2000), gzip.compress(b"")],
        "with venvd 0.1.0 or a newer one": [newer, migrated],
        "truncated|damaged": [data[: len(data) * part // 10] for part in range(2, 10)],
        "a checksum differs": [change_files(data, replace_in("tables/venvs", b"six", b"sax"))],
        "is damaged": [change_files(data, replace_in("tables/venvs", b"{", b"["))],
    }
    settings = create_settings(SQLITE)
    for reason, wrong in files.items():
        for each in wrong:
            with pytest.raises(InvalidRequest, match=reason):
                restore_backup(settings, io.BytesIO(each))
            assert sorted(path.name for path in settings.home.iterdir()) == ["lock"]


def test_other_state_is_replaced_only_when_asked(filled: Testbed, create_settings: Callable[..., Settings]) -> None:
    """A restore keeps off a running controller and off other state, until `replace` says that it may go."""
    data = back_up(settings_of(filled))
    with pytest.raises(Conflict, match="another controller runs"):
        restore_backup(settings_of(filled), io.BytesIO(data), replace=True)
    settings = create_settings(SQLITE)
    other = Home(settings.home)
    other.close()
    open_database(settings.get_database_url()).close()
    for name in ("controller.sqlite3", "secret"):
        with pytest.raises(Conflict, match=rf"{name}.*--replace"):
            restore_backup(settings, io.BytesIO(data))
        (settings.home / "controller.sqlite3").unlink(missing_ok=True)
    restore_backup(settings, io.BytesIO(data), replace=True)
    back = Home(settings.home)
    assert (back.id, back._secret) == (filled.controller.home.id, filled.controller.home._secret)
    assert back.id != other.id
    back.close()


@pytest.mark.slow
def test_a_database_with_other_tables_is_left_alone(filled: Testbed, create_settings: Callable[..., Settings]) -> None:
    """PostgreSQL: existing state needs `replace`, tables of another program are never dropped, a wrong URL is named."""
    data = back_up(settings_of(filled))
    settings = create_settings("postgresql")
    restore_backup(settings, io.BytesIO(data))
    shutil.rmtree(settings.home)
    with pytest.raises(Conflict, match=r"tables of the database.*--replace"):
        restore_backup(settings, io.BytesIO(data))
    restore_backup(settings, io.BytesIO(data), replace=True)
    engine = connect(settings.get_database_url())
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE invoices (id INTEGER)")
    shutil.rmtree(settings.home)
    with pytest.raises(Conflict, match="invoices"):
        restore_backup(settings, io.BytesIO(data), replace=True)
    engine.dispose()
    assert len(read_rows(settings)["venvs"]) == 1
    assert settings.database_url is not None
    url = settings.database_url.get_secret_value()
    wrong = Settings(home=settings.home, database_url=url.replace("venvd@", "nobody:wrong@"))
    with pytest.raises(Unavailable, match="nobody"):
        restore_backup(wrong, io.BytesIO(data))


def test_a_mounted_identity_must_fit(filled: Testbed, create_settings: Callable[..., Settings]) -> None:
    """A restore keeps a mounted identity, which must be that of the backup."""
    data = back_up(settings_of(filled))
    mounted = create_settings(SQLITE, identity_dir=settings_of(filled).home)
    restore_backup(mounted, io.BytesIO(data))
    assert not (mounted.home / "secret").exists()
    moved = Home(mounted.home, None, mounted.identity_dir)
    assert moved.id == filled.controller.home.id
    moved.close()
    foreign = create_settings(SQLITE, "foreign")
    Home(foreign.home).close()
    wrong = create_settings(SQLITE, "third", identity_dir=foreign.home)
    with pytest.raises(Conflict, match=r"VENVD_IDENTITY_DIR.*tar -xzf FILE identity/"):
        restore_backup(wrong, io.BytesIO(data))


KILLED = """
import os, sys
from venvd_controller.backup.restore import _Restore, restore_backup
from venvd_controller.settings import Settings
setattr(_Restore, sys.argv[1], lambda *_: os._exit(9))
restore_backup(Settings(), sys.stdin.buffer)
"""


def environment(settings: Settings) -> dict[str, str]:
    url = {} if settings.database_url is None else {"VENVD_DATABASE_URL": settings.get_database_url()}
    return {**os.environ, "VENVD_HOME": str(settings.home), **url}


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("kind", [SQLITE, POSTGRESQL])
@pytest.mark.parametrize("step", ["_check_files", "_move_files"])
def test_a_restore_that_is_killed_is_none(
    filled: Testbed, create_settings: Callable[..., Settings], kind: str, step: str
) -> None:
    """A kill before the last step changes nothing; after one within it, no controller starts until another restore."""
    settings = create_settings(kind)
    data = back_up(settings_of(filled))
    killed = subprocess.run([sys.executable, "-c", KILLED, step], env=environment(settings), input=data, check=False)
    assert killed.returncode == 9
    if step == "_move_files":
        with pytest.raises(Conflict, match="run `venvd restore FILE` again"):
            Home(settings.home)
        with pytest.raises(Conflict, match="did not end"):
            create_backup(settings, io.BytesIO())
    restore_backup(settings, io.BytesIO(data))
    assert sorted(read_rows(settings)["venvs"]) == sorted(read_rows(settings_of(filled))["venvs"])
    assert not (settings.home / "restore.part").exists()
    Home(settings.home).close()


def run_program(*words: str, home: Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the controller's program as its container does."""
    program = [sys.executable, "-m", "venvd_controller", *words]
    return subprocess.run(program, env=environment(Settings(home=home)), input=stdin, capture_output=True, check=False)


@pytest.mark.long
@pytest.mark.slow
def test_the_program_copies_streams(filled: Testbed, tmp_path: Path) -> None:
    """`backup -` and `restore -` use standard output and input; tar and sha256sum read the file."""
    home = settings_of(filled).home
    backup = run_program("backup", "-", home=home)
    assert backup.returncode == 0, backup.stderr
    assert filled.controller.home.id in backup.stderr.decode()
    restored = run_program("restore", "-", "--json", home=tmp_path / "new", stdin=backup.stdout)
    assert json.loads(restored.stdout)["home"] == filled.controller.home.id
    subprocess.run(["tar", "-xz"], input=backup.stdout, cwd=tmp_path, check=True)
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)


def test_the_commands_tell_what_became_of_files(
    filled: Testbed, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A backup is a new file of its owner alone; errors say why, on standard error or as an object."""
    parser = argparse.ArgumentParser()
    command.add_commands(parser)

    def run(*words: str) -> int:
        return command.run(settings_of(filled), parser.parse_args(words))

    file = tmp_path / "b.tar.gz"
    assert (run("backup", str(file)), file.stat().st_mode & 0o777) == (0, 0o600)
    assert filled.controller.home.id in capsys.readouterr().out
    assert run("backup", str(file)) == 1
    assert "exists" in capsys.readouterr().err
    assert run("restore", str(tmp_path / "no"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "not_found"
    assert run("backup", str(tmp_path / "no" / "file"), "--json") == 1
    assert json.loads(capsys.readouterr().out)["code"] == "unavailable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.tar.gz", "home"]


def test_a_home_without_state_has_no_backup(create_settings: Callable[..., Settings]) -> None:
    """An empty home, one without a database, and a database of another home are refused; no file is left."""
    settings = create_settings(SQLITE)
    with pytest.raises(NotFound, match="VENVD_HOME names the home"):
        back_up(settings)
    home = Home(settings.home)
    home.close()
    with pytest.raises(NotFound, match="VENVD_DATABASE_URL"):
        back_up(settings)
    sqlite3.connect(settings.sqlite_file).close()
    with pytest.raises(NotFound, match="no controller has used it"):
        back_up(settings)
    database = open_database(settings.get_database_url())
    with database.write() as session:
        session.execute(insert(Table.metadata.tables["owner"]).values(home="other", engine="local"))
    database.close()
    with pytest.raises(Conflict, match="belongs to the home other"):
        back_up(settings)
