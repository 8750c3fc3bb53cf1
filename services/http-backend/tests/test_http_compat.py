"""The paths of an older host's server."""

from __future__ import annotations

import pytest

from venvd_http_backend.compat import PATHS

from .conftest import Server, StartServer  # type: ignore[import-not-found]


def test_every_old_path_answers_as_the_new_one(server: Server) -> None:
    """Commands without `/api` run, with the answers of the paths with it."""
    module = server.post("/import", {"moduleName": "collections"}).json
    made = {"moduleHandleId": module["handleId"], "className": "Counter", "args": [["a", "b", "a"]]}
    handle = server.post("/create", made).json["handleId"]
    call = {"handleId": handle, "methodName": "most_common", "args": [1], "returnType": "Object"}
    assert server.post("/call", call).json == {"value": [["a", 2]]}
    assert server.post("/setattr", {"handleId": handle, "attributeName": "x", "value": 5}).json == {"success": True}
    assert server.post("/getattr", {"handleId": handle, "attributeName": "x"}).json == {"value": 5}
    assert server.post("/eval", {"expression": "6 * 7"}).json == {"value": 42}
    rows = {"handleId": server.post("/wrap", {"value": [[1, 2], [3, 4]]}).json["handleId"]}
    assert server.post("/tofloatarray", rows).json == [1, 2, 3, 4]
    assert server.post("/tofloatarray2d", rows).json == [[1, 2], [3, 4]]
    assert server.post("/module_available", {"moduleName": "json"}).json == {"available": True}
    assert server.post("/dispose", {"handleId": handle}).json == {"success": True}
    assert server.ask("GET", "/eval").status == 405
    assert server.post("/eval", {"expression": "x" * 40_000}).json["errorType"] == "NameError"


def test_old_paths_need_the_token(server: Server) -> None:
    """The guard of the new paths is theirs too."""
    assert server.ask("POST", "/eval", {"expression": "1"}, token=None).status == 401


@pytest.mark.slow
def test_switched_off(start_server: StartServer) -> None:
    """Without `compat`, no old path is known, and `returnType` and handles without a tag mean nothing."""
    server = start_server(compat="0")
    assert {server.post(path).status for path in PATHS} == {404}
    held = server.post("/api/eval", {"expression": "object()", "returnType": "Int32"}).json
    assert held["isHandle"]
    older = {"handleId": held["handleId"], "typeName": "object", "isValid": True}
    assert server.post("/api/eval", {"expression": "a", "locals": {"a": older}}).json == {"value": older}
