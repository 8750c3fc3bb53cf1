"""The rotation of the tokens of backends."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from venvd_contract.errors import Conflict, InvalidRequest, Unauthenticated
from venvd_contract.resources import LONGEST_OVERLAP, BackendSpec, VenvSpec
from venvd_controller.home import Home
from venvd_http.auth import sha256

pytestmark = pytest.mark.slow


NAME = "turned"


@pytest.fixture(scope="module")
def testbed(shared_testbed: Any) -> Any:
    """A controller with a backend, and one without a token."""
    controller = shared_testbed.controller
    controller.venvs.put("rotated", VenvSpec(python="3.13"))
    for name in (NAME, "open"):
        controller.backends.start(BackendSpec("http", venv="rotated", name=name, token=name == NAME))
        shared_testbed.await_running(name)
    return shared_testbed


@pytest.fixture
def token(testbed: Any) -> str:
    """The only valid token of the backend."""
    return str(rotate(testbed, overlap=0)["token"])


def rotate(testbed: Any, **body: Any) -> Any:
    answer = testbed.client.post(f"/v1/backends/{NAME}/token", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def read_tokens(testbed: Any, name: str = NAME) -> dict[str, str | None]:
    """Read the ends of the tokens in the key file of a server, by digest."""
    content = json.loads(testbed.engine.find_backend(name).keys)
    return {each["sha256"]: each["expiresAt"] for each in content["tokens"]}


def test_a_rotation_reaches_the_running_server(testbed: Any, token: str) -> None:
    """The answer comes when the server has both tokens; the launch stays, and the audit log has a line."""
    launch = testbed.engine.find_backend(NAME).launch.id
    before = datetime.now(UTC)
    rotated = rotate(testbed, overlap=60)
    assert rotated["backend"] == NAME
    assert rotated["token"].startswith("vd_")
    end = datetime.fromisoformat(rotated["previousEndsAt"])
    assert timedelta(seconds=59) < end - before < timedelta(seconds=120)
    ends = read_tokens(testbed)
    assert (ends[sha256(token)], ends[sha256(rotated["token"])]) == (rotated["previousEndsAt"], None)
    assert testbed.engine.find_backend(NAME).launch.id == launch
    assert testbed.controller.backends.get(NAME).token == rotated["token"]
    lines = testbed.client.get("/v1/audit?limit=20").json()["items"]
    assert (lines[0]["target"], lines[0]["fields"]) == (f"/v1/backends/{NAME}/token", {"overlap": 60})


def test_the_controller_takes_an_older_token_until_its_end(testbed: Any, token: str) -> None:
    """During the overlap both tokens are the backend's, each with a name; then the refusal says that it was rotated."""
    keys = testbed.controller.keys
    second = rotate(testbed)["token"]
    assert [keys.identify(each).name for each in (token, second)] == [f"backend:{NAME} (older)", f"backend:{NAME}"]
    names = {each["name"] for each in json.loads(testbed.engine.find_backend(NAME).keys)["tokens"]}
    assert names == {f"backend:{NAME} (older)", f"backend:{NAME}"}
    third = rotate(testbed, overlap=0)["token"]
    for each in (token, second):
        with pytest.raises(Unauthenticated, match="was rotated"):
            keys.identify(each)
    assert keys.identify(third).name == f"backend:{NAME}"


def test_a_restart_keeps_the_newest_token(testbed: Any, token: str) -> None:
    """The next launch begins with all tokens of the backend and their ends."""
    token = rotate(testbed)["token"]
    expected = read_tokens(testbed)
    testbed.controller.backends.restart(NAME)
    testbed.await_running(NAME)
    launch = testbed.engine.find_backend(NAME).launch
    assert {each["sha256"]: each["expiresAt"] for each in json.loads(launch.keys)["tokens"]} == expected
    assert launch.server_env["VENVD_TOKEN_SHA256"] == sha256(token)


def test_valid_tokens_are_bounded(testbed: Any, token: str) -> None:
    """Eight tokens may be valid; a rotation without an overlap ends all the others, and those are forgotten first."""
    for _ in range(7):
        rotate(testbed)
    with pytest.raises(Conflict, match="0 ends them now"):
        testbed.controller.backends.rotate_token(NAME, 300)
    newest = rotate(testbed, overlap=0)["token"]
    tokens = read_tokens(testbed)
    assert len(tokens) == 8
    assert [digest for digest, end in tokens.items() if end is None] == [sha256(newest)]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"overlap": -1}, "overlap: takes 0 to"),
        ({"overlap": LONGEST_OVERLAP + 1}, "overlap: takes 0 to"),
        ({"overlap": "long"}, "overlap"),
        ({"overlaps": 5}, "overlap"),
    ],
)
def test_a_wrong_overlap_is_refused(testbed: Any, body: dict[str, Any], part: str) -> None:
    """The refusal names the field and its bounds."""
    answer = testbed.client.post(f"/v1/backends/{NAME}/token", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_request")
    assert part in answer.json()["detail"]


def test_without_a_token_there_is_nothing_to_rotate(testbed: Any) -> None:
    """A backend without a token says so, and its key file names none."""
    answer = testbed.client.post("/v1/backends/open/token")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert read_tokens(testbed, "open") == {}


def test_every_token_matches_the_documented_pattern(testbed: Any, token: str) -> None:
    """A scanner for secrets finds tokens of all kinds by the pattern of docs/access.md, and their digests are none."""
    text = (Path(__file__).parents[3] / "docs/access.md").read_text()
    (written,) = re.findall(r"^\s*(\\bv\(.*)$", text, re.MULTILINE)
    pattern = re.compile(written)
    backends, home = testbed.controller.backends, testbed.controller.home
    row = backends.get_row(NAME)
    key = testbed.controller.keys.create("scanned", ["metrics"], None).key
    tokens = [token, backends.tokens.derive_manages_key(row), backends.tokens.derive_for_metrics(row), key]
    for each in (*tokens, home.token, home.metrics_token):
        assert pattern.findall(f"TOKEN='{each}'\n") == [each]
        assert not pattern.search(sha256(each))


def test_the_token_of_the_home_is_rotated(tmp_path: Path) -> None:
    """The file has the new token; older ones and their ends outlive a restart; an overlap of 0 ends them now."""
    home = Home(tmp_path / "home")
    first = home.token
    end = home.rotate_token(60)
    second = home.token
    assert (tmp_path / "home" / "token").read_text().strip() == second != first
    assert (tmp_path / "home" / "older-tokens").stat().st_mode & 0o777 == 0o600
    home.close()
    home = Home(tmp_path / "home")
    older = home.find_older_token(sha256(first))
    assert older is not None
    assert (older.expiresAt, older.expired, home.token) == (end, False, second)
    home.rotate_token(0)
    assert [home.find_older_token(sha256(each)).expired for each in (first, second)] == [True, True]  # type: ignore[union-attr]
    for _ in range(10):
        home.rotate_token(60)
    assert home.find_older_token(sha256(first)) is None
    home.close()


def test_older_tokens_of_the_home_are_admitted(shared_testbed: Any) -> None:
    """Until its end an older token may do everything, under a name of its own; then the refusal says what to do."""
    keys, home = shared_testbed.controller.keys, shared_testbed.controller.home
    first = home.token

    def rotate_home(token: str, overlap: float) -> Any:
        headers = {"Authorization": f"Bearer {token}"}
        return shared_testbed.client.post("/v1/token", json={"overlap": overlap}, headers=headers)

    answer = rotate_home(first, 60)
    assert (answer.status_code, answer.json()["token"]) == (200, home.token)
    caller = keys.identify(first)
    assert (caller.name, caller.scopes, caller.is_home, caller.is_valid()) == ("admin (older)", ("admin",), True, True)
    second = home.token
    newest = keys.identify(second)
    assert (newest.name, newest.is_valid()) == ("admin", True)
    assert rotate_home(first, 0).status_code == 200
    for token in (first, second):
        with pytest.raises(Unauthenticated, match="the file `token` of the home has the new one"):
            keys.identify(token)
    assert [each.is_valid() for each in (caller, newest)] == [False, False]
    shared_testbed.client.headers["Authorization"] = f"Bearer {home.token}"


@pytest.mark.parametrize("overlap", [-1, LONGEST_OVERLAP + 1])
def test_a_wrong_overlap_of_the_home(tmp_path: Path, overlap: float) -> None:
    """The refusal names the bounds, and the token stays."""
    home = Home(tmp_path / "home")
    with pytest.raises(InvalidRequest, match="overlap: takes 0 to"):
        home.rotate_token(overlap)
    assert home.find_older_token(sha256(home.token)) is None
    home.close()


def test_a_token_from_elsewhere_is_rotated_there(tmp_path: Path) -> None:
    """A token that a setting gives is not replaced behind its back."""
    home = Home(tmp_path / "home", "given")
    with pytest.raises(Conflict, match="comes from VENVD_TOKEN"):
        home.rotate_token(60)
    home.close()
