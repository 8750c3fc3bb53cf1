"""Home, manifest, settings and names."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from sqlalchemy import inspect

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_contract.resources import VenvSpec
from venvd_controller.database import open_database
from venvd_controller.database.tables import Table
from venvd_controller.home import Home
from venvd_controller.manifest import Manifest
from venvd_controller.settings import is_loopback
from venvd_controller.venvs import checked, provider_name


def test_secrets_of_a_home_are_its_owners(tmp_path: Path) -> None:
    """Token and secret are readable by their owner only, and stay the same."""
    home = Home(tmp_path)
    home.announce("http://127.0.0.1:1", home.token)
    for name in ("token", "secret", "metrics-token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    token, identity = home.token, home.id
    home.close()
    again = Home(tmp_path)
    assert (again.token, again.id) == (token, identity)
    again.close()


def test_the_metrics_token_is_handed_out_alone(tmp_path: Path) -> None:
    """The copy for a scraper is readable by its group, holds that token only, and is made anew each time."""
    home = Home(tmp_path / "home")
    copy = tmp_path / "monitoring" / "token"
    for _ in range(2):
        home.hand_out_metrics_token(copy)
    assert copy.read_text().strip() == home.metrics_token
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert [path.name for path in copy.parent.iterdir()] == ["token"]
    with pytest.raises(InvalidRequest, match="VENVD_METRICS_TOKEN_FILE"):
        home.hand_out_metrics_token(copy / "below-a-file")
    home.close()


def test_a_home_has_one_controller(tmp_path: Path) -> None:
    """A second controller on the same home is told so."""
    home = Home(tmp_path)
    with pytest.raises(Conflict, match="VENVD_HOME"):
        Home(tmp_path)
    home.close()


def test_tokens_differ_by_backend_and_purpose(tmp_path: Path) -> None:
    """A derived token depends on the nonce and on what it is for, and is the same each time."""
    home = Home(tmp_path)
    tokens = {home.derive(purpose, nonce) for purpose in ("backend", "metrics") for nonce in ("a", "b")}
    assert len(tokens) == 4
    assert home.derive("backend", "a") in tokens
    home.close()


def test_the_migrations_make_the_tables(tmp_path: Path) -> None:
    """What the migrations build is what the tables say, column by column."""
    database = open_database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    inspector = inspect(database.kw["bind"])
    made = {table: {column["name"] for column in inspector.get_columns(table)} for table in Table.metadata.tables}
    wanted = {name: {column.name for column in table.columns} for name, table in Table.metadata.tables.items()}
    assert made == wanted


def manifest(tmp_path: Path, text: str) -> Manifest:
    path = tmp_path / "venvd.yaml"
    path.write_text(text)
    return Manifest(path)


def test_a_manifest_has_the_fields_of_the_api(tmp_path: Path) -> None:
    """Runtimes, venvs and backends are read with their names and fields."""
    found = manifest(
        tmp_path,
        'runtimes: ["3.13"]\nvenvs:\n- {name: a, requirements: [six]}\n'
        "backends:\n- {name: web, type: http, venv: a, limits: {cpus: 1.5}}\n",
    )
    assert found.runtimes == ["3.13"]
    assert found.venvs["a"].requirements == ["six"]
    assert found.backends["web"].limits.cpus == 1.5
    assert found.backends["web"].name == "web"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("venvs: {a: 1}", "no list"),
        ("backens: []", "nothing else"),
        ("venvs:\n- {requirements: []}", r"venvs\[0\]"),
        ("venvs:\n- {name: a, pakages: []}", "pakages"),
        ("backends:\n- {name: a}", r"backends\[0\]"),
        ("runtimes: [3.13]", "quotes"),
        ("{", "YAML"),
    ],
)
def test_a_wrong_manifest_says_where(tmp_path: Path, text: str, says: str) -> None:
    """The entry and the field are named."""
    with pytest.raises(InvalidRequest, match=says):
        manifest(tmp_path, text)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """A manifest that was asked for and is not there is an error."""
    with pytest.raises(InvalidRequest, match="nowhere"):
        Manifest(tmp_path / "nowhere.yaml")


@pytest.mark.parametrize(
    ("host", "inside"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.org", False)]
)
def test_loopback_is_known(host: str, inside: bool) -> None:
    """Addresses that only this machine reaches are told from the others."""
    assert is_loopback(host) is inside


def test_a_providers_name_is_stable() -> None:
    """Provider and model make one DNS label, the same each time."""
    assert provider_name("Open AI", "gpt 4.1/mini") == "provider-open-ai-gpt-4-1-mini"
    assert len(provider_name("x" * 80, None)) <= 63
    with pytest.raises(InvalidRequest):
        provider_name("***", None)


def test_a_checked_venv_is_canonical() -> None:
    """Requirements come out in their canonical form, comments dropped."""
    assert checked(VenvSpec(requirements=["six == 1.17.0", "# nothing", ""])).requirements == ["six==1.17.0"]
