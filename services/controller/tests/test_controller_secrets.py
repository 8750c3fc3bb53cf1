"""Secrets of venvs and backends: what may be set, who gets it, and that no answer and no row shows a value."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.certificates import make_authority
from sqlalchemy import select

from venvd_contract.errors import Unavailable
from venvd_contract.resources import BackendSpec, VenvSpec
from venvd_controller.database.tables import AuditRow, SecretRow
from venvd_controller.site_authorities import SiteAuthorities

from .conftest import running_testbed  # type: ignore[import-not-found]

pytestmark = [pytest.mark.slow, pytest.mark.needs("openssl")]

VALUE = "open-sesame-4711"
HEADER = {"name": "Authorization", "format": "Bearer {}", "hosts": ["api.example.com"]}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of `VENVD_CA_BUNDLE`: an authority, and a comment that is no ASCII."""
    authority = make_authority(tmp_path_factory.mktemp("ca"))
    authority.write_text(f"# Société\n{authority.read_text()}")
    return authority


@pytest.fixture(scope="module")
def shared_testbed(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A controller over the engine in memory, for all tests of this module."""
    with running_testbed(home=tmp_path_factory.mktemp("home"), ca_bundle=bundle) as testbed:
        yield testbed


@pytest.fixture(scope="module")
def controller(shared_testbed: Any) -> Any:
    """A controller with the backend `named` of the venv `sesame`, whose network is a list."""
    controller = shared_testbed.controller
    controller.venvs.put("sesame", VenvSpec(python="3.13", network=["api.example.com", "*.example.org:8443"]))
    controller.backends.start(BackendSpec("http", venv="sesame", name="named"))
    shared_testbed.await_running("named")
    return controller


@pytest.fixture
def put(controller: Any, shared_testbed: Any) -> Callable[..., Any]:
    """Set a secret of the venv, or of another owner."""

    def put(name: str, value: str = VALUE, *, owner: str = "venvs/sesame", **use: Any) -> Any:
        return shared_testbed.client.put(f"/v1/{owner}/secrets/{name}", json={"value": value, **use})

    return put


def read_certificate(file: Path) -> str:
    """Return the certificate in a file without what stands before it."""
    return "-----BEGIN" + file.read_text().strip().partition("-----BEGIN")[2]


def read_file(shared_testbed: Any) -> Any:
    return json.loads(shared_testbed.engine.find_backend("named").secrets)


def test_secrets_reach_the_server_and_no_answer(
    put: Callable[..., Any], shared_testbed: Any, wait_until: Callable[..., Any], controller: Any, bundle: Path
) -> None:
    """The file of the server follows: those of the backend win, and what is removed goes. No answer has a value."""
    client = shared_testbed.client
    answers = [
        put("KEY", env="API_KEY"),
        put("auth", header=HEADER),
        put("mine", "of-the-backend", owner="backends/named", env="API_KEY"),
    ]
    assert [answer.status_code for answer in answers] == [200] * 3
    headers = [{"name": "Authorization", "value": f"Bearer {VALUE}", "hosts": ["api.example.com:443"]}]
    expected = {"variables": {"API_KEY": "of-the-backend"}, "headers": headers, "authorities": read_certificate(bundle)}
    wait_until(lambda: read_file(shared_testbed) == expected)
    listed = client.get("/v1/venvs/sesame/secrets")
    assert [(item["name"], item["env"]) for item in listed.json()["items"]] == [("KEY", "API_KEY"), ("auth", None)]
    paths = ("/v1/venvs", "/v1/backends", "/v1/venvs/sesame", "/v1/backends/named", "/v1/audit", "/v1/config")
    shown = [*answers, listed, *(client.get(path) for path in paths)]
    assert not any(VALUE in answer.text or "of-the-backend" in answer.text for answer in shown)
    with controller.database.read() as session:
        rows = "".join(str(vars(row)) for table in (SecretRow, AuditRow) for row in session.scalars(select(table)))
    assert "Authorization" in rows
    assert VALUE not in rows
    for path in ("venvs/sesame/secrets/KEY", "venvs/sesame/secrets/auth", "backends/named/secrets/mine"):
        assert client.delete(f"/v1/{path}").status_code == 204
    wait_until(lambda: read_file(shared_testbed) == {"variables": {}, "headers": [], "authorities": ""})
    assert client.delete("/v1/venvs/sesame/secrets/KEY").status_code == 404


@pytest.mark.parametrize(
    ("name", "value", "use", "says"),
    [
        ("1", VALUE, {"env": "A"}, "begins with a letter"),
        ("a", VALUE, {}, "either env"),
        ("a", VALUE, {"env": "A", "header": HEADER}, "either env"),
        ("a", VALUE, {"env": "VENVD_TOKEN"}, "venvd itself sets"),
        ("a", VALUE, {"env": "PATH"}, "venvd itself sets"),
        ("a", VALUE, {"env": "PYTHONPATH"}, "env of the venv"),
        ("a", "", {"env": "A"}, "is empty"),
        ("a", VALUE + "\0", {"env": "A"}, "control characters"),
        ("a", VALUE * 4000, {"env": "A"}, "32768"),
        ("a", VALUE + "\n", {"header": HEADER}, "line end"),
        ("a", VALUE, {"header": {**HEADER, "name": "Host"}}, "cannot be set"),
        ("a", VALUE, {"header": {**HEADER, "format": "Bearer"}}, "{} once"),
        ("a", VALUE, {"header": {**HEADER, "hosts": []}}, "1 to 20"),
        ("a", VALUE, {"header": {**HEADER, "hosts": ["other.example.com"]}}, 'that has "other.example.com"'),
        ("a", VALUE, {"header": {**HEADER, "hosts": ["*.example.org:8443"]}}, "name each host"),
        ("a", VALUE, {"header": {**HEADER, "hosts": ["a.example.org"]}}, "does not reach a.example.org:443"),
        ("a", VALUE, {"env": "A", "extra": VALUE}, "extra"),
    ],
)
def test_what_is_wrong_is_said(
    put: Callable[..., Any], shared_testbed: Any, name: str, value: str, use: dict[str, Any], says: str
) -> None:
    """A secret that cannot be is refused with the reason, and neither the answer nor the audit log has the value."""
    answer = put(name, value, **use)
    assert answer.status_code == 400
    assert says in answer.json()["detail"]
    assert VALUE not in answer.text + shared_testbed.client.get("/v1/audit").text


def test_two_secrets_have_no_use_in_common(put: Callable[..., Any], shared_testbed: Any) -> None:
    """A second secret with the same variable, or the same header of a host, is a conflict; too much is a limit."""
    assert put("one", env="SAME").status_code == put("two", header=HEADER).status_code == 200
    other = {**HEADER, "name": "authorization", "hosts": ["API.example.com:443"]}
    assert put("three", env="SAME").json()["code"] == put("four", header=other).json()["code"] == "conflict"
    assert put("five", "x" * 32_760, env="BIG").json()["code"] == "limit_exceeded"
    assert put("one", "x" * 32_760, env="SAME").status_code == 200  # it is replaced
    for name in ("one", "two"):
        shared_testbed.client.delete(f"/v1/venvs/sesame/secrets/{name}")


def test_a_row_cannot_be_moved(put: Callable[..., Any], controller: Any, shared_testbed: Any) -> None:
    """A ciphertext that somebody gives another name, use or owner cannot be decrypted."""
    put("moved", header=HEADER)
    with controller.database.write() as session:
        session.get(SecretRow, ("venv", "sesame", "moved")).use = {"env": "SHOWN", "header": None}
    with pytest.raises(Unavailable, match='"moved" of the venv "sesame" cannot be decrypted'):
        controller.secrets.render_file(controller.backends.get_row("named"))
    shared_testbed.client.delete("/v1/venvs/sesame/secrets/moved")


def test_secrets_end_with_their_owner(put: Callable[..., Any], controller: Any, shared_testbed: Any) -> None:
    """A later venv of the same name has no secrets of the one before; an absent owner has none."""
    controller.venvs.put("brief", VenvSpec(python="3.13"))
    assert put("a", owner="venvs/brief", env="A").status_code == 200
    controller.venvs.delete("brief")
    assert put("a", owner="venvs/brief", env="A").status_code == 404
    controller.venvs.put("brief", VenvSpec(python="3.13"))
    assert controller.secrets.list_all("venv", "brief") == []


def test_a_key_sets_the_secrets_of_its_venv(put: Callable[..., Any], controller: Any, shared_testbed: Any) -> None:
    """`venv:NAME` is enough for the venv and its backends, and for no other; a key that only calls may not."""
    client = shared_testbed.client
    controller.venvs.put("foreign", VenvSpec(python="3.13"))
    for scope, own, foreign in (("venv:sesame", 200, 403), ("use:named", 403, 403)):
        key = controller.keys.create("tried", [scope], None)
        client.headers["Authorization"] = f"Bearer {key.key}"
        try:
            assert put("own", env="OWN").status_code == own
            assert put("own", owner="backends/named", env="OWN").status_code == own
            assert put("own", owner="venvs/foreign", env="OWN").status_code == foreign
        finally:
            client.headers["Authorization"] = f"Bearer {controller.home.token}"
            controller.keys.revoke("tried")


def test_the_authorities_of_a_site(bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A changed file is read again. One that cannot be used changes nothing, and the log says why."""
    file = tmp_path / "bundle.pem"
    authorities = SiteAuthorities(file)
    assert authorities.read() == ""
    file.write_bytes(bundle.read_bytes() * 2)
    assert authorities.read().count("BEGIN CERTIFICATE") == 2
    file.write_text("nothing")
    assert authorities.read().count("BEGIN CERTIFICATE") == 2
    file.write_bytes(bundle.read_bytes())
    assert authorities.read() == read_certificate(bundle)
    file.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    assert authorities.read() == read_certificate(bundle)
    for reason in ("No such file", "no certificate in PEM form", "is damaged"):
        assert reason in caplog.text
    assert SiteAuthorities(None).read() == ""
