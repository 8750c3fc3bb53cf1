"""The files of the web page: who gets them, and with which headers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from venvd_controller import web_page
from venvd_controller.app import create_app
from venvd_controller.controller import Controller
from venvd_controller.settings import Settings

FOLDER = Path(web_page.__file__).parent / "page"
LARGEST = 70_000
REFUSED = re.compile(
    r"""(src|href)="(https?:)?//|url\(|@import|innerHTML|outerHTML|insertAdjacent|document\.write|eval\(|\son\w+=|style=\""""
)


def test_the_page_is_small() -> None:
    """All files together have less than 70 kB."""
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < LARGEST


def test_the_page_loads_only_its_own_files() -> None:
    """No file names another place to load from, makes HTML of text, or brings inline code."""
    assert [path.name for path in FOLDER.iterdir() if REFUSED.search(path.read_text())] == []


def test_files_need_no_token_and_have_strict_headers(shared_client: TestClient) -> None:
    """The page and all that it loads are sent without a token, with a policy that allows nothing inline."""
    index = shared_client.get("/", headers={"Authorization": ""})
    assert index.headers["cache-control"] == "no-cache"
    paths = re.findall(r'(?:src|href)="\.(/page/[^"]+)"', index.text)
    assert len(paths) == 3
    version = paths[0].rpartition("/")[0]
    for path in ["/", *paths, *(f"{version}/{each.name}" for each in FOLDER.glob("*.js"))]:
        answer = shared_client.get(path, headers={"Authorization": ""})
        assert answer.status_code == 200, path
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert path == "/" or "immutable" in answer.headers["cache-control"]


def test_the_page_answers_reading_only(shared_client: TestClient) -> None:
    """HEAD has no body, other methods are refused without a token, and unknown files do not exist."""
    head = shared_client.head("/")
    assert (head.status_code, head.content) == (200, b"")
    assert shared_client.post("/", headers={"Authorization": ""}).status_code == 401
    assert shared_client.get("/page/0000000000000000/main.js").status_code == 404


def test_the_page_can_be_switched_off(settings: Settings, controller: Controller) -> None:
    """With `VENVD_PAGE=0` there is nothing at `/`."""
    controller.settings = settings.model_copy(update={"page": False})
    headers = {"Authorization": f"Bearer {controller.home.token}"}
    with TestClient(create_app(controller), headers=headers) as client:
        assert client.get("/").status_code == 404


@pytest.mark.parametrize("scope", [["metrics"], ["use:demo", "venv:app"]])
def test_a_caller_may_ask_for_its_scopes(shared_client: TestClient, scope: list[str]) -> None:
    """`GET /v1/caller` names the key and its scopes, with any key."""
    name = f"asks-{len(scope)}"
    key = shared_client.post("/v1/keys", json={"name": name, "scope": scope}).json()["key"]
    answer = shared_client.get("/v1/caller", headers={"Authorization": f"Bearer {key}"})
    assert answer.json() == {"name": name, "scope": scope}
