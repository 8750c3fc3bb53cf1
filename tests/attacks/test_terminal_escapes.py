"""Text of other people that a terminal would obey: the CLI in a real terminal."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from harness.attacks import Target
from harness.terminal import open_terminal

pytestmark = pytest.mark.slow

TITLE = r"\x1b]0;pwned\x07"
"""Sets the title of a terminal, in the notation of a string."""
PLACES = {
    "output": ("exec", f"print('{TITLE}')"),
    "errors": ("exec", f"import sys; print('{TITLE}', file=sys.stderr)"),
    "a message": ("eval", f"raise ValueError('{TITLE}')"),
    "a type's name": ("eval", f"raise type('{TITLE}', (Exception,), {{}})()"),
    "a value": ("eval", f"'{TITLE}'"),
    "a repr": ("eval", f"type('T', (), {{'__repr__': lambda _: '{TITLE}'}})()"),
    "one byte": ("exec", r"print('\x9d0;pwned\x9c\x1b]0;pwned\x07')"),
    "a colour": ("exec", r"print('\x1b[8mhidden\x1b]0;pwned\x07')"),
    "a direction": ("exec", r"print('\u202egnp\x1b]0;pwned\x07')"),
}


def make_command(target: Target, command: str, code: str) -> list[str]:
    backend = target.running
    return [sys.executable, "-m", "venvd", command, "--backend", backend.url, "--token", backend.token, code]


def make_environment() -> dict[str, str]:
    return {**os.environ, "TERM": "xterm"}


@pytest.mark.parametrize("place", PLACES)
def test_escapes_on_a_terminal(http: Target, place: str) -> None:
    """A session tries to set the title of a terminal: the terminal shows the escape, and obeys none."""
    command, code = PLACES[place]
    with open_terminal(make_command(http, command, code), make_environment(), "/tmp") as terminal:
        before = terminal.expect(TITLE)
        assert not set(before) & set("\x1b\x9d\x9c\u202e")


def test_escapes_in_a_file(http: Target) -> None:
    """A script tries to read output as it was written: without a terminal it comes byte for byte."""
    command = make_command(http, *PLACES["output"])
    done = subprocess.run(command, env=make_environment(), capture_output=True, timeout=60, check=True)
    assert done.stdout == b"\x1b]0;pwned\x07\n"
