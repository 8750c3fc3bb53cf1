"""Wire snapshots: files that hold what is sent and what must come back, byte for byte but for what is volatile.

A line that starts with `> ` is sent, one that starts with `< ` is what came back, `#` begins a comment. What is
different each time stands there as a name: `<handle 1>` is the first handle that was given out, and means it when it
is sent, `<call 1>` the first call that was left; `<token>` is the backend's token; `<time>`, `<seconds>`, `<count>`
and `<address>` stand for such.
"""

from __future__ import annotations

import difflib
import http.client
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.door import Raw

UPDATE = "VENVD_UPDATE_SNAPSHOTS"

_SENT, _RAW, _CAME = "> ", ">| ", "< "
_VOLATILE = (
    (re.compile(r'("(?:createdAt|startedAt|endedAt|modifiedAt)":)"[^"]+"'), r"\1<time>"),
    (re.compile(r'("(?:durationMs|ageSeconds)":)[0-9.e+-]+'), r"\1<seconds>"),
    (re.compile(r'("(?:calls|restarts|executionCount)":)\d+'), r"\1<count>"),
    (re.compile(r"0x[0-9a-f]{6,}"), "<address>"),
)
_LEFT = re.compile(r'"id":"([0-9a-f]{32})"')
_GIVEN = re.compile(r'"[Hh]andleId":"([^"]+)"')
_VERSION = re.compile(r'(?<=")\d+-\d{4}-[^"]+(?=")')
_NOT_SHOWN = {"date", "content-length"}


@dataclass
class Names:
    """What names in a snapshot stand for on this connection."""

    token: str
    handles: dict[str, str] = field(default_factory=dict)

    calls: dict[str, str] = field(default_factory=dict)

    def hidden(self, text: str) -> str:
        """`text` with names in place of what is volatile."""
        for handle in _GIVEN.findall(text):
            self.handles.setdefault(handle, f"<handle {len(self.handles) + 1}>")
        for call in _LEFT.findall(text):
            self.calls.setdefault(call, f"<call {len(self.calls) + 1}>")
        for given, name in (*self.handles.items(), *self.calls.items()):
            text = text.replace(given, name)
        for pattern, name in _VOLATILE:
            text = pattern.sub(name, text)
        return text

    def shown(self, text: str) -> str:
        """`text` with what its names stand for."""
        for given, name in (*self.handles.items(), *self.calls.items()):
            text = text.replace(name, given)
        return text.replace("<token>", self.token)


Answer = Callable[[list[str], Names], list[str]]
"""Sends the lines of one exchange and returns those that came back."""


def played(text: str, answer: Answer, token: str) -> str:
    """The snapshot as it is now: everything that `text` sends is sent, and what comes back stands behind it."""
    names = Names(token)
    lines: list[str] = []
    for block in blocks(text):
        sent = [line for line in block if line.startswith(">")]
        lines += [line for line in block if not line.startswith("<")]
        if sent:
            lines += [(_CAME + line).rstrip() if not line else _CAME + line for line in answer(sent, names)]
        lines.append("")
    return "\n".join(lines)


def blocks(text: str) -> Iterator[list[str]]:
    """The parts of a snapshot that blank lines separate."""
    for part in re.split(r"\n{2,}", text.strip("\n")):
        yield part.split("\n")


def lines_of_a_pipe(raw: Raw) -> Answer:
    r"""Sends lines; as many replies come back as lines went out, with the events before them.

    `>| ` is sent without a line's end and with its escapes (`\xff`) as bytes.
    """

    def answer(sent: list[str], names: Names) -> list[str]:
        data = b"".join(_bytes(line, names) for line in sent)
        assert raw.send(data)
        return _replies(raw, sum(line.startswith(_SENT) or line.endswith("\\n") for line in sent), names)

    return answer


def _bytes(line: str, names: Names) -> bytes:
    if line.startswith(_RAW):
        return names.shown(line.removeprefix(_RAW)).encode().decode("unicode_escape").encode("latin-1")
    return names.shown(line.removeprefix(_SENT)).encode() + b"\n"


def _replies(raw: Raw, count: int, names: Names) -> list[str]:
    with raw.socket.makefile("rb") as reader:
        replies: list[str] = []
        while count:
            line = reader.readline()
            assert line.endswith(b"\n"), f"the connection ended after {replies}"
            count -= b'"event":' not in line
            replies.append(names.hidden(line.decode().removesuffix("\n")))
    return replies


def http_exchanges(raw: Raw) -> Answer:
    """Sends requests (a request line, headers, an empty line, a body), each with the token unless it names one."""

    def answer(sent: list[str], names: Names) -> list[str]:
        lines = [names.shown(line[len(_SENT) :]) for line in sent]
        end = lines.index("") if "" in lines else len(lines)
        raw.send(_request(lines[0], lines[1:end], "\n".join(lines[end + 1 :]).encode(), names))
        return _response(raw, lines[0].split()[0], names)

    return answer


def _request(line: str, headers: list[str], body: bytes, names: Names) -> bytes:
    given = dict(header.split(":", 1) for header in headers)
    usual = {"Host": " 127.0.0.1", "Authorization": f" Bearer {names.token}"}
    if body:
        usual["Content-Length"] = f" {len(body)}"
    merged = {**usual, **given}
    head = [f"{line} HTTP/1.1", *(f"{name}:{value}" for name, value in merged.items() if value)]
    return "\r\n".join([*head, "", ""]).encode() + body


def _response(raw: Raw, method: str, names: Names) -> list[str]:
    response = http.client.HTTPResponse(raw.socket, method=method)
    response.begin()
    body = response.read().decode()
    given = [(name.lower(), value) for name, value in response.getheaders()]
    headers = [f"{name}: {_VERSION.sub('<version>', value)}" for name, value in given if name not in _NOT_SHOWN]
    head = [f"{response.status} {response.reason}", *sorted(headers)]
    return [*head, "", *names.hidden(body).split("\n")] if body else head


def drop_versions(text: str) -> str:
    """`text` without what differs between versions of CPython: the marks in tracebacks, and the words of a status."""
    text = re.sub(r"\\n *[~^]*\^[~^]*(?=\\n)", "", text)
    return text.replace("< 422 Unprocessable Entity\n", "< 422 Unprocessable Content\n")


def compare(path: Path, now: str) -> None:
    """Whether the wire is as the file says; with VENVD_UPDATE_SNAPSHOTS=1 the file is written instead."""
    if os.environ.get(UPDATE) == "1":
        path.write_text(now)
        return
    then, now = drop_versions(path.read_text()), drop_versions(now)
    if then != now:
        change = difflib.unified_diff(then.splitlines(), now.splitlines(), path.name, "now", lineterm="", n=1)
        raise AssertionError("\n".join([*change, f"if this is meant, {UPDATE}=1 writes the file anew"]))
