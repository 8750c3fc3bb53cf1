"""The promise: a venv holds exactly the pins of its owner, whatever packages venvd uses."""

from __future__ import annotations

import importlib.metadata
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import kubernetes
from harness.callers import HttpCaller
from harness.stack import engine_stack

from venvd_contract.errors import NotFound

pytestmark = pytest.mark.network

PINS = {
    "anyio": "2.2.0",
    "docker": "4.4.4",
    "fastapi": "0.50.0",
    "packaging": "20.9",
    "prometheus-client": "0.9.0",
    "protobuf": "3.20.3",
    "pydantic": "1.10.13",
    "requests": "2.25.1",
    "starlette": "0.13.2",
    "typing-extensions": "4.8.0",
    "uvicorn": "0.13.4",
}
"""Old releases of packages that venvd uses: they cannot be installed beside venvd."""
HERE = f"3.{sys.version_info.minor}"

CASES = [
    pytest.param(("local", HERE), id="local"),
    pytest.param(("local", "3.9"), id="local-3.9"),
    pytest.param(("docker", HERE), id="docker", marks=pytest.mark.docker),
    *([pytest.param(("kubernetes", HERE), id="kubernetes", marks=pytest.mark.kubernetes)] if kubernetes.VALUES else []),
]


@pytest.fixture(scope="module", params=CASES)
def call(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpCaller]:
    """A client of an HTTP backend whose venv clashes with the server's packages."""
    engine, python = request.param
    pins = tuple(f"{name}=={version}" for name, version in PINS.items())
    try:
        with engine_stack(engine, tmp_path_factory.mktemp(engine), pins, python) as stack:
            running = stack.start("http")
            client = HttpCaller(running.url, running.token)
            yield client
            client.close()
            stack.stop(running)
    except NotFound as error:
        if python == HERE:
            raise
        pytest.skip(error.message)


def evaluate(call: HttpCaller, code: str) -> Any:
    return call("eval", {"expression": code})["value"]


def test_the_pins_clash() -> None:
    """The server runs on another release of each pinned package, so the other tests prove something."""
    clashing = {name for name, version in PINS.items() if find_version(name) not in {None, version}}
    assert clashing == set(PINS)


def find_version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def test_metadata_shows_the_pins(call: HttpCaller) -> None:
    """`importlib.metadata.version()` in a session shows each pin."""
    names = json.dumps(sorted(PINS))
    versions = evaluate(call, f"import importlib.metadata as m; {{name: m.version(name) for name in {names}}}")
    assert versions == PINS


def test_nothing_of_venvd_is_installed(call: HttpCaller) -> None:
    """A session sees no distribution of venvd or of its servers."""
    code = "import importlib.metadata as m; sorted(d.metadata['Name'].lower() for d in m.distributions())"
    names = evaluate(call, code)
    assert not [name for name in names if name.startswith("venvd")]
    assert not {"uvloop", "httptools", "pydantic-core", "pydantic-settings", "msgspec", "sqlalchemy"} & set(names)
    assert set(PINS) <= {name.replace("_", "-") for name in names}


def test_imported_modules_have_the_pinned_versions(call: HttpCaller) -> None:
    """The imported modules have the pinned versions and lie in the venv."""
    code = """
import fastapi, starlette, pydantic, uvicorn, google.protobuf, packaging
modules = (fastapi, pydantic, uvicorn, google.protobuf)
versions = [getattr(m, "__version__", None) or m.VERSION for m in modules]
[versions, [m.__file__ for m in modules], __import__("sys").prefix]
"""
    versions, files, prefix = evaluate(call, code)
    assert versions == ["0.50.0", "1.10.13", "0.13.4", "3.20.3"]
    assert all(Path(file).is_relative_to(prefix) for file in files)


def test_the_pinned_framework_works(call: HttpCaller) -> None:
    """An application of the pinned framework, with models of the pinned pydantic, answers inside the session."""
    code = """
import asyncio, fastapi, pydantic
class Item(pydantic.BaseModel):
    size: int
app = fastapi.FastAPI()
@app.post("/items")
def item(given: Item):
    return {"size": given.size * 2}
sent = []
async def receive():
    return {"type": "http.request", "body": b'{"size": 21}', "more_body": False}
async def send(message):
    sent.append(message)
scope = {"type": "http", "method": "POST", "path": "/items", "root_path": "", "query_string": b"",
         "http_version": "1.1", "headers": [(b"content-type", b"application/json")]}
"""
    call("exec", {"code": code})
    call("exec", {"code": "asyncio.new_event_loop().run_until_complete(app(scope, receive, send))"})
    assert evaluate(call, "[sent[0]['status'], sent[1]['body'].decode(), Item(size='7').dict()]") == [
        200,
        '{"size":42}',
        {"size": 7},
    ]


def test_every_command_works(call: HttpCaller) -> None:
    """Every command works in the venv: none needs a package of it."""
    assert call("ping") == {"status": "ok"}
    module = call("import", {"moduleName": "collections"})["handleId"]
    made = {"moduleHandleId": module, "className": "Counter", "args": ["abca"], "kwargs": {}}
    counter = call("create", made)["handleId"]
    assert call("call", {"handleId": counter, "methodName": "most_common", "args": [1]})["value"] == [["a", 2]]
    call("setattr", {"handleId": counter, "attributeName": "module", "value": {"$handle": module}})
    assert call("getattr", {"handleId": counter, "attributeName": "module"})["isHandle"] is True
    assert call("eval", {"expression": "a + 1", "locals": {"a": 41}}) == {"value": 42}
    assert call("exec", {"code": "print('hello')"})["stdout"] == "hello\n"
    rows = call("wrap", {"value": [[1, 2.5], [3, 4]]})["handleId"]
    assert call("tofloatarray2d", {"handleId": rows}) == [[1.0, 2.5], [3.0, 4.0]]
    flat = call("wrap", {"value": [1, 2]})["handleId"]
    assert call("tofloatarray", {"handleId": flat}) == [1.0, 2.0]
    assert call("module_available", {"moduleName": "fastapi"}) == {"available": True}
    assert call("module_available", {"moduleName": "venvd_core"}) == {"available": False}
    assert call("dispose", {"handleIds": [rows, flat, counter, module]}) == {"success": True}
