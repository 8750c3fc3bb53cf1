"""What goes over the wire, held by files: `snapshots/pipe` and `snapshots/http`, one connection each.

A change of the wire shows as a difference here. Where it is meant, VENVD_UPDATE_SNAPSHOTS=1 writes the files anew; to
add one, write what is sent and let it be filled in the same way.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from harness.callers import Caller, HttpCaller, PipeCaller
from harness.door import door
from harness.snapshots import compare, http_exchanges, lines_of_a_pipe, played
from harness.stack import Running

from venvd_contract.commands import ARRAY_RELEASE, COMMANDS, STREAMED
from venvd_contract.venvs import PASSED_ON, VENV_COMMANDS

FOLDER = Path(__file__).parent / "snapshots"
PIPE = sorted((FOLDER / "pipe").glob("*.txt"))
HTTP = sorted((FOLDER / "http").glob("*.txt"))


def start_afresh(call: Caller) -> None:
    """Tracebacks number the code that a session has run."""
    call("session.reset", {"id": "default"})
    call.close()


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PIPE, ids=name)
def test_lines_of_the_pipe(pipe: Running, path: Path) -> None:
    """The lines of the file are answered with the lines of the file."""
    start_afresh(PipeCaller(pipe.url, pipe.token))
    with door("pipe", pipe).open() as raw:
        now = played(path.read_text(), lines_of_a_pipe(raw), pipe.token)
    compare(path, now)


@pytest.mark.parametrize("path", HTTP, ids=name)
def test_bodies_over_http(http: Running, path: Path) -> None:
    """The requests of the file are answered with the responses of the file."""
    start_afresh(HttpCaller(http.url, http.token))
    with door("http", http).open() as raw:
        now = played(path.read_text(), http_exchanges(raw), http.token)
    compare(path, now)


def test_every_command_is_in_a_snapshot() -> None:
    """Each command, also those that are passed on, stands in a file of the pipe."""
    text = "".join(path.read_text() for path in PIPE)
    sent = set(re.findall(r'^> .*?"command": ?"([^"]+)"', text, re.MULTILINE))
    assert sent >= {command.name for command in (*COMMANDS, *STREAMED, ARRAY_RELEASE)} | PASSED_ON


def test_every_route_is_in_a_snapshot() -> None:
    """The route of each command stands in a file of HTTP."""
    text = "".join(path.read_text() for path in HTTP)
    sent = re.findall(r"^> ([A-Z]+) (/\S*)", text, re.MULTILINE)
    for method, path in (command.http for command in (*COMMANDS, *VENV_COMMANDS)):
        pattern = re.sub(r"\{(?:id|name|path)\}", "[^?]+", path)
        named = [route.partition("?")[0] for each, route in sent if each == method]
        assert any(re.fullmatch(pattern, route) for route in named), f"{method} {path}"


def test_every_snapshot_holds_answers() -> None:
    """A file in which nothing came back proves nothing."""
    for path in (*PIPE, *HTTP):
        text = path.read_text()
        assert text.count("\n< ") >= len(re.findall(r"^> (\{|[A-Z]+ /)", text, re.MULTILINE)), path
