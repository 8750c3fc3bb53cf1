"""Every command as a route, with the answers and errors of the contract."""

from __future__ import annotations

from typing import Any

import pytest

from venvd_contract.commands import COMMANDS


def test_objects_are_used_through_handles(server: Any) -> None:
    """Import, create, call, get, set and dispose, as a client in any language would."""
    module = server.post("/api/import", {"moduleName": "fractions"}).json
    assert module["typeName"] == "module"
    made = server.post(
        "/api/create", {"moduleHandleId": module["handleId"], "className": "Fraction", "args": [3], "kwargs": {}}
    ).json
    assert made["typeName"] == "Fraction"
    handle = made["handleId"]
    got = server.post("/api/call", {"handleId": handle, "methodName": "limit_denominator", "args": [5]}).json
    assert got["isHandle"] is True
    assert got["repr"] == "Fraction(3, 1)"
    assert server.post("/api/getattr", {"handleId": handle, "attributeName": "numerator"}).json == {"value": 3}
    thing = server.post("/api/eval", {"expression": "class Thing: pass\nThing()"}).json["handleId"]
    set_to = {"handleId": thing, "attributeName": "x", "value": {"$handle": handle}}
    assert server.post("/api/setattr", set_to).json == {"success": True}
    locals_ = {"thing": {"$handle": thing}}
    assert server.post("/api/eval", {"expression": "thing.x + 1 == 4", "locals": locals_}).json == {"value": True}
    held = server.ask("GET", "/v1/handles").json["handles"]
    assert {"Fraction", "Thing"} <= {each["typeName"] for each in held}
    assert server.post("/api/dispose", {"handleIds": [handle, thing]}).json == {"success": True}
    assert server.post("/api/getattr", {"handleId": handle, "attributeName": "x"}).problem["code"] == "handle_not_found"


def test_eval_takes_either_name(server: Any) -> None:
    """`expression` and `code` are the same field, with locals beside it."""
    assert server.post("/api/eval", {"expression": "a + 1", "locals": {"a": 2}}).json == {"value": 3}
    assert server.post("/api/eval", {"code": "b = 4\nb + 1"}).json == {"value": 5}


def test_a_body_has_the_options_of_headers(server: Any) -> None:
    """`session`, `timeout` and `values` of the body count as those of the headers, and null as absent."""
    session = server.post("/v1/sessions", {"name": "of-the-body"}).json["id"]
    assert server.post("/api/eval", {"expression": "x = 5\nx", "session": session}).json == {"value": 5}
    both = {"expression": "x", "session": session, "timeout": None, "values": None}
    assert server.ask("POST", "/api/eval", both, X_Venvd_Session=session).json == {"value": 5}
    assert server.post("/api/eval", {"expression": "x"}).problem["errorType"] == "NameError"
    assert server.post("/api/eval", {"expression": "(1,)", "values": "tagged"}).json == {"value": {"$tuple": [1]}}
    endless = {"code": "while True: pass", "timeout": 0.2, "session": session}
    assert server.post("/api/exec", endless).problem["code"] == "timeout"
    named = {"expression": "session + values", "locals": {"session": 1, "values": 2}}
    assert server.post("/api/eval", named).json == {"value": 3}
    assert server.ask("DELETE", f"/v1/sessions/{session}").status == 200


def test_exec_returns_its_output(server: Any) -> None:
    """Output, result and the code's own error come back with status 200."""
    output = server.post("/api/exec", {"code": "print('out')\n1 + 1"}).json
    assert output["stdout"] == "out\n"
    assert output["result"] == {"value": 2}
    assert output["error"] is None
    failed = server.post("/api/exec", {"code": "1/0"})
    assert failed.status == 200
    assert failed.json["error"]["errorType"] == "ZeroDivisionError"


def test_float_arrays_are_bare(server: Any) -> None:
    """`tofloatarray` and `tofloatarray2d` answer with the array itself."""
    handle = server.post("/api/wrap", {"value": [[1, 2], [3, 4.5]]}).json["handleId"]
    assert server.post("/api/tofloatarray2d", {"handleId": handle}).json == [[1.0, 2.0], [3.0, 4.5]]
    row = server.post("/api/wrap", {"value": [1, 2]}).json["handleId"]
    assert server.post("/api/tofloatarray", {"handleId": row}).json == [1.0, 2.0]


def test_modules_can_be_looked_for(server: Any) -> None:
    """`module-available` says whether an import would find something."""
    assert server.post("/api/module-available", {"moduleName": "json"}).json == {"available": True}
    assert server.post("/api/module-available", {"moduleName": "no_such_thing"}).json == {"available": False}


def test_user_errors_are_problems_with_traceback(server: Any) -> None:
    """What user code raises is 422 with its type, message and traceback, and no fault of the server."""
    answer = server.post("/api/eval", {"expression": "{}['key']"})
    assert answer.status == 422
    problem = answer.problem
    assert problem["code"] == "user_error"
    assert problem["errorType"] == "KeyError"
    assert "'key'" in problem["detail"]
    assert problem["traceback"].startswith("Traceback")


def test_values_can_be_tagged(server: Any) -> None:
    """The header `X-Venvd-Values` chooses how tuples come back."""
    assert server.eval("(1, 2)") == [1, 2]
    assert server.eval("(1, 2)", X_Venvd_Values="tagged") == {"$tuple": [1, 2]}


def test_a_deadline_is_a_header(server: Any) -> None:
    """`X-Venvd-Timeout` bounds the call; the state survives and the answer does not say otherwise."""
    server.eval("kept = 'kept'\n1")
    answer = server.post("/api/eval", {"expression": "import time; time.sleep(60)"}, X_Venvd_Timeout="0.2")
    assert answer.status == 504
    assert answer.problem["code"] == "timeout"
    assert "stateLost" not in answer.problem
    assert server.eval("kept") == "kept"


def test_sessions_are_routes(server: Any) -> None:
    """Create, list, get, use by header, interrupt, reset and delete a session."""
    made = server.post("/v1/sessions", {"name": "mine", "env": {"COLOUR": "red"}})
    assert made.status == 200
    assert made.json["state"] == "idle"
    assert server.eval("import os; os.environ['COLOUR']", X_Venvd_Session="mine") == "red"
    assert {each["id"] for each in server.ask("GET", "/v1/sessions").json["sessions"]} >= {"default", "mine"}
    assert server.ask("GET", "/v1/sessions/mine").json["calls"] == 1
    assert server.post("/v1/sessions/mine/interrupt").json == {"success": True}
    server.eval("y = 1\ny", X_Venvd_Session="mine")
    assert server.ask("POST", "/v1/sessions/mine/reset").json["restarts"] == 1
    assert server.post("/api/eval", {"expression": "y"}, X_Venvd_Session="mine").problem["errorType"] == "NameError"
    assert server.ask("DELETE", "/v1/sessions/mine").json == {"success": True}
    assert server.ask("GET", "/v1/sessions/mine").problem["code"] == "not_found"
    assert server.post("/v1/sessions", {"name": "default"}).problem["code"] == "conflict"


def test_the_schema_has_real_models(server: Any) -> None:
    """Every command is in the OpenAPI document, with the fields of its request and of its response."""
    schema = server.ask("GET", "/openapi.json").json
    models = schema["components"]["schemas"]
    for command in COMMANDS:
        if command.name == "ping":
            continue
        method, path = command.http
        declared = schema["paths"][path][method.lower()]
        if command.name == "file.get":
            assert list(declared["responses"]["200"]["content"]) == ["application/octet-stream"]
            continue
        answer = declared["responses"]["200"]["content"]["application/json"]["schema"]
        if hasattr(command.response, "__dataclass_fields__"):
            model = models[answer["$ref"].rpartition("/")[2]]
            assert model["properties"].keys() == command.response.__dataclass_fields__.keys()
        else:
            assert answer["type"] == "array"
        if method == "POST" and "{id}" not in path:
            body = declared["requestBody"]["content"]["application/json"]["schema"]
            model = models[body["$ref"].rpartition("/")[2]]
            options = {"session", "timeout", "values"} if command.served_by == "session" else set()
            assert model["properties"].keys() == command.request.__dataclass_fields__.keys() | options
        problem = declared["responses"]["default"]["content"]["application/problem+json"]["schema"]
        assert problem["$ref"].endswith("Problem")


def test_the_pages_of_the_schema_are_served(server: Any) -> None:
    """`/docs` is a page, for those who have the token."""
    page = server.ask("GET", "/docs")
    assert page.status == 200
    assert page.headers["content-type"].startswith("text/html")


VENVS = [
    ("POST", "/venv/create"),
    ("GET", "/venv/list"),
    ("GET", "/venv/status/x"),
    ("DELETE", "/venv/x"),
    ("POST", "/venv/ensure"),
]


@pytest.mark.parametrize(("method", "path"), VENVS)
def test_venvs_need_a_controller(server: Any, method: str, path: str) -> None:
    """A server that runs without a controller says so."""
    answer = server.ask(method, path, {"name": "x", "provider": "x"} if method == "POST" else None)
    assert answer.status == 503
    assert answer.problem["code"] == "unavailable"


def test_metrics_are_exposed(server: Any) -> None:
    """`/metrics` takes either token, in Prometheus' format."""
    server.eval("1")
    for token in ("secret-for-tests", "scrape-for-tests"):
        answer = server.ask("GET", "/metrics", token=token)
        assert answer.status == 200
        assert b'venvd_requests_total{command="eval",outcome="ok"}' in answer.body
        assert b"venvd_ready 1.0" in answer.body
