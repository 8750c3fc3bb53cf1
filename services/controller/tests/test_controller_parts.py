"""Home, manifest, settings and names."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import inspect

from venvd_contract.errors import Conflict, InvalidRequest
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.controller_socket import ControllerSocket
from venvd_controller.database import open_database
from venvd_controller.database.tables import Table
from venvd_controller.home import Home
from venvd_controller.host_paths import HostPaths
from venvd_controller.manifest import Manifest, read_manifest
from venvd_controller.providers import add_to_venv
from venvd_controller.settings import Settings
from venvd_controller.settings_errors import describe_settings_errors
from venvd_controller.specs import check_backend, check_venv, create_provider_name, is_loopback


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [
        ("ENGINE", "abacus", "it takes auto, docker, local or kubernetes"),
        ("PORT", "70000", "it takes a whole number of at least 0 and at most 65535"),
        ("PORT", "http", "it takes a whole number of at least 0 and at most 65535"),
        ("MAX_STARTS", "0", "it takes a whole number of at least 1 and at most 256"),
        ("START_TIMEOUT", "0", "it takes a number of more than 0"),
        ("IMAGE_KEEP", "nan", "it takes a number of at least 0"),
        ("ALLOW_SOURCE_BUILDS", "maybe", "it takes 1 or 0"),
        ("SESSION_LIMITS", "{", "it takes a JSON object of memoryBytes"),
        ("SESSION_LIMITS", '{"handles": "many"}', "it takes a JSON object of memoryBytes"),
        ("URL", "http://[", "it takes the address by which clients reach the controller"),
        ("BASE_IMAGE", "python:{tag}", "it takes an image's name with {version} or {minor}"),
    ],
)
def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str) -> None:
    """One line: the variable, what it has, what would be right."""
    monkeypatch.setenv(f"VENVD_{variable}", value)
    with pytest.raises(ValidationError) as caught:
        Settings()
    (line,) = describe_settings_errors(caught.value)
    assert line.startswith(f'VENVD_{variable} is "{value}": {says}')


def test_each_wrong_setting_has_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """All wrong settings are listed at once."""
    monkeypatch.setenv("VENVD_ENGINE", "abacus")
    monkeypatch.setenv("VENVD_PORT", "x")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert [line.partition(" ")[0] for line in describe_settings_errors(caught.value)] == ["VENVD_PORT", "VENVD_ENGINE"]


def test_settings_that_need_each_other_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of several settings together is one line without a value."""
    monkeypatch.setenv("VENVD_TLS_CERT", "/tls/cert.pem")
    with pytest.raises(ValidationError) as caught:
        Settings()
    assert describe_settings_errors(caught.value) == [
        "VENVD_TLS_CERT and VENVD_TLS_KEY belong together: set both, or neither"
    ]


def test_only_the_owner_reads_the_secrets_of_a_home(tmp_path: Path) -> None:
    """Tokens and secret are readable by their owner only, and a new start keeps them."""
    home = Home(tmp_path)
    home.announce("http://127.0.0.1:1")
    for name in ("token", "secret", "metrics-token"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600
    token, identity = home.token, home.id
    home.close()
    again = Home(tmp_path)
    assert (again.token, again.id) == (token, identity)
    again.close()


def test_an_identity_from_outside_replaces_the_homes(tmp_path: Path) -> None:
    """A home takes ID, secret and tokens from the directory of `identity`, and a lost home has them again."""
    identity = tmp_path / "identity"
    identity.mkdir()
    for name in ("id", "secret", "token", "metrics-token"):
        (identity / name).write_text(f"the-{name}\n")
    homes = [Home(tmp_path / name, identity=identity) for name in ("one", "two")]
    homes.append(Home(tmp_path / "three", "another", identity))
    for home in homes:
        home.close()
    assert {(home.id, home.metrics_token) for home in homes} == {("the-id", "the-metrics-token")}
    assert [home.token for home in homes] == ["the-token", "the-token", "another"]
    assert len({home.derive_token("backend", "nonce") for home in homes}) == 1


@pytest.mark.parametrize(
    ("content", "message"), [(None, "cannot read .*secret: No such file"), ("\n", "secret is empty")]
)
def test_an_incomplete_identity_is_named(tmp_path: Path, content: str | None, message: str) -> None:
    """The controller does not start with half an identity."""
    (tmp_path / "id").write_text("the-id")
    if content is not None:
        (tmp_path / "secret").write_text(content)
    with pytest.raises(InvalidRequest, match=f"VENVD_IDENTITY_DIR: .*{message}"):
        Home(tmp_path / "home", identity=tmp_path)


def test_the_metrics_token_is_published_alone(tmp_path: Path) -> None:
    """The copy for a scraper is readable by its group and holds that token only; each start replaces it."""
    home = Home(tmp_path / "home")
    copy = tmp_path / "monitoring" / "token"
    for _ in range(2):
        home.publish_metrics_token(copy)
    assert copy.read_text().strip() == home.metrics_token
    assert stat.S_IMODE(copy.stat().st_mode) == 0o640
    assert [path.name for path in copy.parent.iterdir()] == ["token"]
    with pytest.raises(InvalidRequest, match="VENVD_METRICS_TOKEN_FILE"):
        home.publish_metrics_token(copy / "below-a-file")
    home.close()


def test_a_home_has_one_controller(tmp_path: Path) -> None:
    """A second controller on the same home fails."""
    home = Home(tmp_path)
    with pytest.raises(Conflict, match="VENVD_HOME"):
        Home(tmp_path)
    home.close()


def test_tokens_differ_by_backend_and_purpose(tmp_path: Path) -> None:
    """A derived token depends on nonce and purpose only."""
    home = Home(tmp_path)
    tokens = {home.derive_token(purpose, nonce) for purpose in ("backend", "metrics") for nonce in ("a", "b")}
    assert len(tokens) == 4
    assert home.derive_token("backend", "a") in tokens
    home.close()


def test_the_migrations_create_the_tables(tmp_path: Path) -> None:
    """The migrations create exactly the columns of the tables."""
    database = open_database(f"sqlite:///{tmp_path / 'x.sqlite3'}")
    inspector = inspect(database.engine)
    actual = {table: {column["name"] for column in inspector.get_columns(table)} for table in Table.metadata.tables}
    expected = {name: {column.name for column in table.columns} for name, table in Table.metadata.tables.items()}
    assert actual == expected
    database.close()


def parse_manifest(tmp_path: Path, text: str) -> Manifest:
    path = tmp_path / "venvd.yaml"
    path.write_text(text)
    return read_manifest(path, HostPaths(tmp_path / "run"))


def test_a_manifest_has_the_fields_of_the_api(tmp_path: Path) -> None:
    """Runtimes, venvs and backends are read with their names and fields."""
    declared = parse_manifest(
        tmp_path,
        'runtimes: ["3.13"]\nvenvs:\n- {name: a, requirements: [six]}\n'
        "backends:\n- {name: web, type: http, venv: a, limits: {cpus: 1.5}}\n",
    )
    assert declared.runtimes == ["3.13"]
    assert declared.venvs["a"].requirements == ["six"]
    assert declared.backends["web"].limits.cpus == 1.5
    assert declared.backends["web"].name == "web"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("venvs: {a: 1}", "line 1: venvs: takes a list"),
        ("- a", "takes runtimes"),
        ("\nbackens: []", 'line 2: backens: is unknown; is "backends" meant\\?'),
        ("venvs:\n- {requirements: []}", r"line 2: venvs\[0\]: needs a name"),
        ("venvs:\n- name: a\n  pakages: []", r"line 3: venvs\[0\].pakages: is unknown; is .aptPackages. meant\?"),
        ("venvs:\n- name: a\n  colour: red", r"line 3: venvs\[0\].colour: is unknown; known are name, .*, python, "),
        ("venvs:\n- name: a\n  requirements: numpy", r"line 3: venvs\[0\].requirements: "),
        ("venvs:\n- name: a\n  requirements:\n  - -r x", r"line 2: venvs\[0\]: the requirement"),
        ("venvs:\n- name: a\n- name: A", r"line 3: venvs\[1\].name: "),
        (
            "backends:\n- name: a\n  type: http\n  ttl: 60",
            r"line 4: backends\[0\].ttl: is for backends that no manifest declares",
        ),
        ("venvs:\n- name: a\n- name: a", r"line 3: venvs\[1\].name: \"a\" is declared twice"),
        ("backends:\n- {name: a}", r"line 2: backends\[0\].type"),
        (
            "backends:\n- name: a\n  type: http\n  limits: {cpu: 1}",
            r"line 4: backends\[0\].limits.cpu: is unknown; is .cpus.",
        ),
        ("backends:\n- name: a\n  type: http\n  port: x", r"line 4: backends\[0\].port: "),
        ("backends:\n- name: a\n  type: pipe\n  socketDir: /tmp/a", r"line 2: backends\[0\]: socketDir: .*/run/app"),
        ("runtimes: [3.13]", r"runtimes\[0\]: takes a version in quotes"),
        ("runtimes: ['latest']", "latest"),
        ("{", "YAML"),
    ],
)
def test_an_error_of_a_manifest_names_its_place(tmp_path: Path, text: str, says: str) -> None:
    """The error names line, entry and field."""
    with pytest.raises(InvalidRequest, match=says):
        parse_manifest(tmp_path, text)


def test_a_missing_manifest_is_named(tmp_path: Path) -> None:
    """A requested manifest that does not exist is an error."""
    with pytest.raises(InvalidRequest, match="nowhere"):
        read_manifest(tmp_path / "nowhere.yaml", HostPaths(tmp_path))


@pytest.mark.parametrize(
    ("host", "inside"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("x.org", False)]
)
def test_loopback_is_recognised(host: str, inside: bool) -> None:
    """Addresses that only this machine reaches count as loopback."""
    assert is_loopback(host) is inside


def test_a_providers_name_is_stable() -> None:
    """Provider and model give a DNS label, always the same."""
    assert create_provider_name("openai", None) == "provider-openai"
    name = create_provider_name("Open AI", "gpt 4.1/mini")
    assert name.startswith("provider-open-ai-gpt-4-1-mini-")
    assert name == create_provider_name("Open AI", "gpt 4.1/mini")
    assert len(create_provider_name("x" * 80, "y" * 80)) <= 63


def test_different_providers_have_different_names() -> None:
    """Providers that would give the same label get different names."""
    pairs = [("a-b", None), ("a b", None), ("a", "b"), ("A", "b"), ("a-b", ""), ("x" * 80, "1"), ("x" * 80, "2")]
    names = [create_provider_name(*pair) for pair in pairs if pair != ("a-b", "")]
    assert len(set(names)) == len(names)


def test_a_provider_needs_letters_or_digits() -> None:
    """A text without letters and digits is refused."""
    with pytest.raises(InvalidRequest):
        create_provider_name("***", None)


def test_a_checked_venv_is_canonical() -> None:
    """Requirements are canonical, without comments."""
    assert check_venv(
        VenvSpec(requirements=["six == 1.17.0", "# nothing", ""]), HostPaths(Path("/run"))
    ).requirements == ["six==1.17.0"]


@pytest.mark.parametrize("calls", [-1, 1_000_001])
def test_the_length_of_a_queue_has_bounds(tmp_path: Path, calls: int) -> None:
    """`queueLimit` takes 0 to a million calls, and the error says so."""
    with pytest.raises(InvalidRequest, match=f"queueLimit must be 0 to 1000000 calls, not {calls}"):
        check_backend(BackendSpec("http", queueLimit=calls), HostPaths(tmp_path))


@pytest.mark.parametrize("seconds", [-1.0, float("nan"), 366 * 86400.0])
def test_the_lease_of_handles_has_bounds(tmp_path: Path, seconds: float) -> None:
    """`handleLease` takes 0 to a year in seconds, and the error says so."""
    with pytest.raises(InvalidRequest, match="handleLease must be 0 "):
        check_backend(BackendSpec("http", handleLease=seconds), HostPaths(tmp_path))


def test_servers_reach_the_socket_whatever_the_umask(tmp_path: Path) -> None:
    """Other users may enter the directory of the socket, and use the socket."""
    path = tmp_path / "controller-a" / "controller.sock"
    before = os.umask(0o077)
    try:
        ControllerSocket(path)._listen().close()
    finally:
        os.umask(before)
    assert [stat.S_IMODE(each.stat().st_mode) for each in (path.parent, path)] == [0o755, 0o666]


@pytest.mark.parametrize(
    ("before", "wanted", "after"),
    [
        (True, ["a.example"], True),
        (False, ["a.example"], ["a.example"]),
        ("loopback", ["a.example"], ["a.example"]),
        (["a.example"], ["b.example"], ["a.example", "b.example"]),
    ],
)
def test_destinations_are_added_to_a_venv(before: Any, wanted: Any, after: Any) -> None:
    """A list of destinations adds to a list, takes the place of no network, and changes nothing where all is open."""
    changed = add_to_venv(VenvSpec(python="3.13", network=before), VenvSpec(network=wanted))
    assert changed.network == after
