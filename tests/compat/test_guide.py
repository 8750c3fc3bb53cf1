"""The examples of docs/clients.md are what goes over the wire.

VENVD_UPDATE_SNAPSHOTS=1 writes the answers into the page anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator

import pytest
from harness.door import Door
from harness.snapshots import UPDATE, Answer, drop_versions, http_exchanges, lines_of_a_pipe, played
from harness.stack import ROOT, Running, SharedStacks

PAGE = ROOT / "docs" / "clients.md"
EXAMPLE = re.compile(r"(?<=^```text )(http|pipe|rpc)\n(.*?)\n(?=```$)", re.DOTALL | re.MULTILINE)
SPEAK: dict[str, tuple[str, Callable[..., Answer]]] = {
    "http": ("http", http_exchanges),
    "pipe": ("lines", lines_of_a_pipe),
    "rpc": ("http", http_exchanges),
}


@pytest.fixture(scope="module", params=list(SPEAK))
def guided(request: pytest.FixtureRequest, stacks: SharedStacks) -> Iterator[tuple[str, Running]]:
    """A backend that asks for no token, as the guide starts it."""
    stack = stacks.stack("local")
    running = stack.start(request.param, VENVD_NO_TOKEN="true", VENVD_TOKEN_SHA256="")
    yield request.param, running
    stack.stop(running)


def test_the_examples_are_true(guided: tuple[str, Running]) -> None:
    """What the page sends is answered as the page says."""
    kind, running = guided
    speaks, answer = SPEAK[kind]
    text = PAGE.read_text()
    (match,) = [each for each in EXAMPLE.finditer(text) if each[1] == kind]
    with Door(speaks, running.record.probe_url if kind == "rpc" else running.url).open() as raw:
        now = played(match[2], answer(raw), "").strip("\n")
    if os.environ.get(UPDATE) == "1":
        PAGE.write_text(text[: match.start(2)] + now + text[match.end(2) :])
    else:
        assert drop_versions(now) == drop_versions(match[2])
